/**
 * The sheet and its reader: what is drawn is asked about when the pen rests, and its answer told beside it.
 * Owns when a drawing is asked about.
 */

import { byId, fill } from "./dom.js";
import { best } from "./answer.js";
import { heading } from "./failures.js";
import { made } from "./intake.js";
import { say } from "./text.js";
import { Sheet } from "./sheet.js";

/** A pen that rests so long has probably finished its digit. */
const REST_MS = 700;

/** `ask(picture, before)` shows the drawing's card in place of the card `before`, if there is one, and returns
 * what became of it. */
export class Digits {
  constructor(models, ask) {
    this.models = models;
    this.ask = ask;
    this.result = null;
    this.drawing = 0;
    this.read = byId("read");
    this.buttons = ["recognise", "undo", "wipe"].map(byId);
    this.sheet = new Sheet({ onStroke: () => this.rest(), onChange: () => this.changed() });
    const [recognise, undo, wipe] = this.buttons;
    recognise.addEventListener("click", () => this.recognise());
    undo.addEventListener("click", () => {
      this.sheet.undo();
      if (!this.sheet.isEmpty) this.rest();
    });
    wipe.addEventListener("click", () => this.sheet.clear());
    byId("paper").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || this.sheet.isEmpty) return;
      event.preventDefault();
      this.sheet.end();
      this.recognise();
    });
  }

  /** There is a sheet where a model reads drawings, or will. */
  offer() {
    byId("draw").hidden = !this.models.canRead;
    byId("draw").classList.remove("starting");
  }

  changed() {
    clearTimeout(this.timer);
    // A button that is switched off loses the focus: whoever undoes the last stroke goes on at the paper.
    if (this.sheet.isEmpty && this.buttons.includes(document.activeElement)) byId("paper").focus({ preventScroll: true });
    for (const button of this.buttons) button.disabled = this.sheet.isEmpty;
    if (!this.sheet.isEmpty) return;
    this.drawing += 1; // an answer that is on its way is to a drawing of before
    this.result = null; // the next drawing has a card of its own
    fill(this.read);
  }

  rest() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.recognise(), REST_MS);
  }

  async recognise() {
    clearTimeout(this.timer);
    const drawing = ++this.drawing;
    const picture = made(await this.sheet.png(), "drawing.png");
    const { card, answer, failure, model } = await this.ask(picture, this.result);
    if (drawing !== this.drawing) return;
    this.result = card;
    if (answer) fill(this.read, best(answer));
    else if (failure) fill(this.read, heading(failure, model));
  }
}
