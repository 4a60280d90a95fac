/**
 * One picture and what became of it: it waits, it has its answer, or it failed.
 * Owns the card's frame; the answer's parts are answer.js's, the picture is photo.js's.
 */

import { answerParts } from "./answer.js";
import { element } from "./dom.js";
import { explained, mayPass } from "./failures.js";
import { Photo } from "./photo.js";
import { say } from "./text.js";

/** `onRetry` and `onRemove` are called with the card. */
export class Card {
  constructor(picture, { onRetry, onRemove }) {
    this.picture = picture;
    this.photo = new Photo(picture);
    this.title = element("h3", { tabIndex: -1 }, picture.name);
    this.body = element("div", { className: "body" });
    this.removeButton = button("answer.remove", picture.name, "✕", () => onRemove(this));
    this.removeButton.className = "remove";
    this.onRetry = onRetry;
    this.element = element(
      "li",
      { className: "card" },
      this.photo.element,
      element("div", { className: "answer" }, element("div", { className: "heading" }, this.title, this.removeButton), this.body),
    );
  }

  waiting(model) {
    this.element.dataset.state = "waiting";
    // The button that asked again goes away with what it stands in.
    if (this.body.contains(document.activeElement)) this.title.focus();
    this.body.replaceChildren(element("p", { className: "waiting" }, say("answer.waiting", { name: model })));
  }

  /** `replaced`: the model that another was to fall in for. */
  answered(answer, elapsedMs, replaced) {
    this.element.dataset.state = "answered";
    this.photo.draw(boxed(answer));
    this.body.replaceChildren(...answerParts(answer, elapsedMs, this.picture, replaced));
  }

  failed(failure, model) {
    this.element.dataset.state = "failed";
    this.element.dataset.code = failure.code;
    this.body.replaceChildren(element("div", { className: "problem" }, ...explained(failure, model)));
    if (!mayPass(failure)) return;
    const again = button("answer.retry", this.picture.name, say("answer.retry_short"), () => this.onRetry(this));
    this.body.append(element("p", { className: "buttons" }, again));
  }

  /** Let go of the picture's memory. */
  discard() {
    this.photo.discard();
    this.element.remove();
  }
}

/** The answer whose boxes are drawn: of a pipeline that of the first step which has some. */
function boxed(answer) {
  const steps = Object.values(answer.steps ?? {}).filter(({ success }) => success);
  return steps.find(({ predictions }) => predictions.some(({ box }) => box)) ?? answer;
}

function button(key, name, text, onclick) {
  return element("button", { type: "button", ariaLabel: say(key, { name }), onclick }, text);
}
