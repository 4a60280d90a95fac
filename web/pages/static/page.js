/**
 * The page: pictures in, cards out. Owns which pictures are asked about when; the parts do the rest.
 */

import { Failure, predict } from "./api.js";
import { best } from "./answer.js";
import { offerCamera } from "./camera.js";
import { Card } from "./card.js";
import { Digits } from "./digits.js";
import { announce, byId } from "./dom.js";
import { heading } from "./failures.js";
import { catchPictures } from "./intake.js";
import { Models } from "./models.js";
import { say } from "./text.js";
import { Turns } from "./turns.js";

/** Requests at once: enough to fill a batch, and the browser keeps two of its six connections for the rest. */
const AT_ONCE = 4;

const models = new Models();
const turns = new Turns(AT_ONCE);
const cards = new Set();
const digits = new Digits(models, askOfDrawing);
models.onChange = () => digits.offer();

/** Show a card for a picture before the node `next`, and ask the model that `choose` chooses: Models' `choice`. */
async function ask(picture, choose, next) {
  const card = new Card(picture, { onRetry: () => answerInto(card, choose()), onRemove: removeOne });
  card.stop = new AbortController();
  byId("cards").insertBefore(card.element, next);
  cards.add(card);
  byId("answers").hidden = false;
  return { card, ...(await answerInto(card, choose())) };
}

async function answerInto(card, { model, name: asked, replaced }) {
  const { name } = card.picture;
  card.waiting(model);
  try {
    const { answer, elapsedMs } = await turns.take(() => predict(card.picture, asked, card.stop.signal));
    card.answered(answer, elapsedMs, replaced);
    announce(`${name}: ${best(answer)}`);
    return { answer };
  } catch (failure) {
    if (card.stop.signal.aborted) return {};
    if (!(failure instanceof Failure)) throw failure;
    card.failed(failure, model);
    announce(`${name}: ${heading(failure, model)}`);
    return { failure, model };
  }
}

/** New cards go on top, in the order of their pictures. */
function askAll(pictures) {
  const next = byId("cards").firstChild;
  for (const picture of pictures) ask(picture, () => models.choice, next);
  const { matches: isStill } = matchMedia("(prefers-reduced-motion: reduce)");
  byId("cards").firstChild.scrollIntoView({ block: "nearest", behavior: isStill ? "auto" : "smooth" });
}

/** A drawing's card takes the place of the card that showed it half drawn. */
async function askOfDrawing(picture, before) {
  const isThere = cards.has(before);
  const next = isThere ? before.element.nextSibling : byId("cards").firstChild;
  if (isThere) remove(before);
  let name = models.chosen;
  const choose = () => {
    name = models.reader?.model ?? name; // its reader may have left for good by the time it is tried again
    return { model: name, name };
  };
  return ask(picture, choose, next);
}

function remove(card) {
  card.stop.abort();
  card.discard();
  cards.delete(card);
  byId("answers").hidden = cards.size === 0;
}

/** Whoever removes cards by keyboard goes on at the next one, or at the last; without any, where pictures come in. */
function removeOne(card) {
  const next = card.element.nextElementSibling ?? card.element.previousElementSibling;
  (next?.querySelector(".remove") ?? byId("files")).focus();
  remove(card);
}

catchPictures({ onPictures: askAll, onNothing: tell });
offerCamera({ onPicture: (picture) => askAll([picture]), onNothing: tell });
byId("form").addEventListener("submit", (event) => event.preventDefault());
byId("clear").addEventListener("click", () => {
  for (const card of [...cards]) remove(card);
  byId("files").focus();
});

function tell(text) {
  announce(text);
  byId("said").classList.add("seen");
  setTimeout(() => byId("said").classList.remove("seen"), 4000);
}
