/**
 * A small plot of one figure over time. Owns its drawing; what is not known leaves a gap.
 */

import { element, fill } from "./dom.js";
import { say } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 60;
/** Points further apart were not observed in between, such as while the computer slept. */
const GAP_MS = 25_000;

export class Plot {
  constructor(title, format, windowMs) {
    this.title = title;
    this.format = format;
    this.windowMs = windowMs;
    this.now = element("strong");
    this.most = element("span", { className: "hint" });
    this.svg = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.area = svg("path", { class: "area" });
    this.line = svg("path", { class: "line" });
    this.svg.append(this.area, this.line);
    const caption = element("figcaption", {}, element("span", {}, title), this.now, this.most);
    this.element = element("figure", { className: "plot" }, caption, this.svg);
  }

  /** Show [time in ms, value or null] pairs up to the moment `now`. */
  show(points, now) {
    const values = points.map(([, value]) => value).filter((value) => value !== null);
    const most = Math.max(0, ...values);
    const last = points.at(-1)?.[1] ?? null;
    fill(this.now, last === null ? "–" : this.format(last));
    const bound = say("status.most", { most: values.length ? this.format(most) : "–" });
    fill(this.most, values.length ? bound : "");
    this.svg.setAttribute("aria-label", say("status.plot", { title: this.title, now: this.now.textContent, most: bound }));
    const x = (at) => WIDTH * (1 - (now - at) / this.windowMs);
    const y = (value) => HEIGHT - 2 - (HEIGHT - 6) * (most ? value / most : 0);
    const stretches = unbroken(points).map((stretch) => stretch.map(([at, value]) => [x(at), y(value)]));
    this.line.setAttribute("d", stretches.map(path).join(""));
    this.area.setAttribute("d", stretches.map(closed).join(""));
  }
}

function svg(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** The stretches of points that are known one after the other. */
function unbroken(points) {
  const stretches = [];
  let before = -Infinity;
  for (const [at, value] of points) {
    if (value === null) {
      before = -Infinity;
      continue;
    }
    if (at - before > GAP_MS) stretches.push([]);
    stretches.at(-1).push([at, value]);
    before = at;
  }
  return stretches;
}

const spot = ([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`;

/** A line through points; a single one is a short dash, towards the past, where there is always room. */
const path = (points) => `M${points.map(spot).join("L")}${points.length === 1 ? "h-3" : ""}`;

const closed = (points) => `M${points[0][0].toFixed(1)} ${HEIGHT}L${points.map(spot).join("L")}V${HEIGHT}Z`;
