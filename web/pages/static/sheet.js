/**
 * A sheet of paper to draw a digit on, by pointer or by keyboard. Owns the strokes; knows no model.
 */

import { byId } from "./dom.js";

const PAPER = "#ffffff";
const INK = "#101418";
const NIB = 18;
/** What an arrow key moves, in pixels of the paper; with Shift a quarter of it. */
const STEP = 20;

/** `onStroke` is called at the end of each stroke, `onChange` whenever the number of strokes changes. */
export class Sheet {
  constructor({ onStroke, onChange }) {
    this.canvas = byId("paper");
    this.pen = byId("pen");
    this.context = this.canvas.getContext("2d");
    this.strokes = [];
    this.isDown = false;
    this.at = [this.canvas.width / 2, this.canvas.height / 2];
    this.onStroke = onStroke;
    this.onChange = onChange;
    this.listen();
    this.paint();
  }

  get isEmpty() {
    return this.strokes.length === 0;
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      this.pen.hidden = true;
      this.begin(this.place(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.isDown || !canvas.hasPointerCapture(event.pointerId)) return;
      for (const each of event.getCoalescedEvents?.() ?? [event]) this.draw(this.place(each));
    });
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => this.end());
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => {
      this.pen.hidden = true;
      this.end();
    });
  }

  place({ clientX, clientY }) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    return [((clientX - left) / width) * this.canvas.width, ((clientY - top) / height) * this.canvas.height];
  }

  key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    if (move) {
      const step = event.shiftKey ? STEP / 4 : STEP;
      const inside = (value, most) => Math.min(most - NIB, Math.max(NIB, value));
      this.at = [
        inside(this.at[0] + move[0] * step, this.canvas.width),
        inside(this.at[1] + move[1] * step, this.canvas.height),
      ];
      if (this.isDown) this.draw(this.at);
    } else if (!event.repeat) {
      if (this.isDown) this.end();
      else this.begin(this.at);
    }
    this.showPen();
  }

  showPen() {
    this.pen.hidden = false;
    this.pen.classList.toggle("down", this.isDown);
    this.pen.style.left = `${(100 * this.at[0]) / this.canvas.width}%`;
    this.pen.style.top = `${(100 * this.at[1]) / this.canvas.height}%`;
  }

  begin(point) {
    this.isDown = true;
    this.strokes.push([point]);
    this.paint();
    this.onChange();
  }

  draw(point) {
    this.strokes.at(-1).push(point);
    this.paint();
  }

  end() {
    if (!this.isDown) return;
    this.isDown = false;
    this.onStroke();
  }

  undo() {
    this.isDown = false;
    this.strokes.pop();
    this.paint();
    this.onChange();
  }

  clear() {
    this.isDown = false;
    this.strokes = [];
    this.paint();
    this.onChange();
  }

  paint() {
    const { context, canvas } = this;
    context.fillStyle = PAPER;
    context.fillRect(0, 0, canvas.width, canvas.height);
    Object.assign(context, { strokeStyle: INK, lineWidth: NIB, lineCap: "round", lineJoin: "round" });
    for (const [first, ...others] of this.strokes) {
      context.beginPath();
      if (others.every(([x, y]) => x === first[0] && y === first[1])) {
        // A dot: the HTML standard strokes no line of length zero, and Chromium no longer does.
        context.fillStyle = INK;
        context.arc(...first, NIB / 2, 0, 2 * Math.PI);
        context.fill();
        continue;
      }
      context.moveTo(...first);
      for (const point of others) context.lineTo(...point);
      context.stroke();
    }
  }

  /** The sheet as a PNG. */
  png() {
    return new Promise((resolve) => this.canvas.toBlob(resolve, "image/png"));
  }
}
