/**
 * Masks as one picture over the photo. Owns the reading of COCO's run lengths (maskApi.c's rleFrString), and how
 * a mask looks: its class's colour, thin inside and full at the edge.
 */

import { element, pngBlob } from "./dom.js";
import { colourOf } from "./palette.js";

/** Of 255. */
const INSIDE = 115;
/** An edge is one of so many parts of the mask's longer side. */
const EDGES = 300;
/** What share of the longest run's length a long one has. */
const LONG = 0.9;

/** A canvas with the masks that predictions have, the best on top, or "" if they have none; and a place inside
 * of the mask of each that stands for a class, in shares of the picture. */
export async function maskLayer(predictions) {
  const masked = predictions.filter((each) => each.mask).reverse();
  const places = new Map();
  if (!masked.length) return ["", places];
  const [height, width] = masked[0].mask.size;
  const canvas = element("canvas", { className: "masks", width, height });
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  for (const prediction of masked) {
    const { mask, class_id: name, area } = prediction;
    const pixels = mask.png ? await ofPng(mask) : ofRuns(mask);
    paint(picture, pixels, colourOf(name));
    // Many classes have the picture's corner as their box's.
    if (area !== undefined) places.set(prediction, middle(pixels, width, height));
  }
  context.putImageData(picture, 0, 0);
  return [canvas, places];
}

/** The middle of one of the longest runs: of those that are nearly as long as any, the one in the middle. */
function middle(pixels, width, height) {
  const runs = [];
  for (let begin = pixels.indexOf(1), end; begin >= 0; begin = pixels.indexOf(1, end)) {
    const [gap, column] = [pixels.indexOf(0, begin), (Math.floor(begin / height) + 1) * height];
    end = gap < 0 ? column : Math.min(gap, column);
    runs.push([begin, end - begin]);
  }
  const longest = runs.reduce((most, [, length]) => Math.max(most, length), 0);
  const long = runs.filter(([, length]) => length >= LONG * longest);
  const [from, length] = long[long.length >> 1];
  const at = from + ((length - 1) >> 1);
  return [(Math.floor(at / height) + 0.5) / width, ((at % height) + 0.5) / height];
}

/** 1 for each pixel of a mask, column by column. */
export function ofRuns({ size: [height, width], counts }) {
  const pixels = new Uint8Array(width * height);
  let end = 0;
  lengths(counts).forEach((length, index) => {
    if (index % 2) pixels.fill(1, end, end + length);
    end += length;
  });
  return pixels;
}

/** A count is the difference to the last but one, in digits of 5 bits, the lowest first: bit 6 says that
 * another follows, bit 5 of the last is the sign. */
function lengths(text) {
  const found = [];
  let value = 0;
  let shift = 0;
  for (const letter of text) {
    const digit = letter.charCodeAt(0) - 48;
    value |= (digit & 0x1f) << shift;
    shift += 5;
    if (digit & 0x20) continue;
    if (digit & 0x10) value |= -1 << shift;
    found.push(found.length > 2 ? value + found.at(-2) : value);
    value = shift = 0;
  }
  return found;
}

async function ofPng({ size: [height, width], png }) {
  const context = element("canvas", { width, height }).getContext("2d");
  context.drawImage(await createImageBitmap(pngBlob(png)), 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  return Uint8Array.from({ length: width * height }, (_, at) => data[4 * ((at % height) * width + Math.floor(at / height))] >> 7);
}

function paint({ data, width, height }, pixels, colour) {
  const channels = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  const edge = Math.max(1, Math.round(Math.max(width, height) / EDGES));
  for (let x = 0, at = 0; x < width; x += 1) {
    for (let y = 0; y < height; y += 1, at += 1) {
      if (!pixels[at]) continue;
      const isCore = x >= edge && x < width - edge && y >= edge && y < height - edge
        && pixels[at - edge] && pixels[at + edge] && pixels[at - edge * height] && pixels[at + edge * height];
      data.set([...channels, isCore ? INSIDE : 255], 4 * (y * width + x));
    }
  }
}
