/**
 * The picture of a card, upright, with boxes, masks and points over it. Owns where a box is drawn: in shares of
 * the picture, so that it stays in its place at any size.
 */

import { element } from "./dom.js";
import { colourOf } from "./palette.js";
import { label } from "./labels.js";
import { maskLayer } from "./masks.js";
import { pointLayer } from "./points.js";
import { number, say, size } from "./text.js";

/** Boxes nearer to the upper edge than this share of the height have their label inside. */
const NEAR_THE_TOP = 0.1;

export class Photo {
  constructor(picture) {
    this.url = URL.createObjectURL(picture);
    this.image = element("img", { alt: picture.name, src: this.url });
    this.boxes = element("div", { className: "boxes", ariaHidden: "true" });
    this.frame = element("div", { className: "frame" }, this.image, this.boxes);
    this.caption = element("figcaption", { className: "hint" }, size(picture.size));
    this.element = element("figure", { className: "photo" }, this.frame, this.caption);
    this.loaded = this.image.decode().then(
      () => this.caption.replaceChildren(this.described(picture)),
      () => this.frame.replaceChildren(element("p", { className: "unshown" }, say("photo.unshown"))),
    );
  }

  described(picture) {
    const { naturalWidth: width, naturalHeight: height } = this.image;
    return `${number(width)} × ${number(height)} · ${size(picture.size)}`;
  }

  /** Draw the boxes, masks and points that predictions have, numbered in their order. */
  async draw({ predictions, skeleton }) {
    await this.loaded;
    const { naturalWidth: width, naturalHeight: height } = this.image;
    if (!width) return;
    const boxed = predictions.map((each, index) => [each, index]).filter(([each]) => each.box);
    const [masks, places] = await maskLayer(predictions);
    const points = skeleton ? pointLayer(predictions, skeleton, width, height) : "";
    const drawn = boxed.map(([each, index]) => box(each, index, width, height, places.get(each)));
    this.boxes.replaceChildren(masks, points, ...drawn);
  }

  discard() {
    URL.revokeObjectURL(this.url);
  }
}

/** `place`: where its label stands, in shares of the picture, if that is not the box. */
function box(prediction, index, width, height, place) {
  const [left, top, across, down] = place ? [place[0] * width, place[1] * height, 0, 0] : prediction.box;
  const tag = element("span", {}, `${index + 1} ${label(prediction)}`);
  const made = element("div", { className: "box" }, tag);
  made.classList.toggle("masked", Boolean(prediction.mask));
  made.classList.toggle("placed", Boolean(place));
  made.classList.toggle("inside", top / height < NEAR_THE_TOP);
  // A label has at least half of the width to grow into.
  made.classList.toggle("leftward", left + across / 2 > width / 2);
  if (place) ["--across", "--down"].forEach((name, axis) => made.style.setProperty(name, place[axis]));
  made.dataset.index = index;
  made.style.left = `${(100 * left) / width}%`;
  made.style.top = `${(100 * top) / height}%`;
  made.style.width = `${(100 * across) / width}%`;
  made.style.height = `${(100 * down) / height}%`;
  made.style.setProperty("--colour", colourOf(prediction.class_id));
  return made;
}
