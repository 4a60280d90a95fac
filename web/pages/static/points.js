/**
 * Keypoints over the photo, with the lines between them. Owns their look; their places are the photo's pixels.
 */

import { colourOf } from "./palette.js";

const SVG = "http://www.w3.org/2000/svg";

/** A drawing with the points that are probable enough. */
export function pointLayer(predictions, { lines, least }, width, height) {
  const layer = made("svg", { class: "points", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" });
  for (const { keypoints = [], class_id: name } of [...predictions].reverse()) {
    const group = made("g", {});
    group.style.setProperty("--colour", colourOf(name));
    const isShown = (at) => keypoints[at]?.probability >= least;
    for (const [one, other] of lines) {
      if (!isShown(one) || !isShown(other)) continue;
      const [from, to] = [keypoints[one], keypoints[other]];
      group.append(made("line", { x1: from.x, y1: from.y, x2: to.x, y2: to.y }));
    }
    for (const { x, y } of keypoints.filter((_, at) => isShown(at))) {
      // A line of no length is a dot of one size, however large the photo is.
      for (const part of ["rim", "dot"]) group.append(made("path", { class: part, d: `M${x} ${y}h0` }));
    }
    layer.append(group);
  }
  return layer;
}

function made(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}
