/**
 * An answer's parts: notice, ranked labels, where the time went, how to ask again.
 * Owns their look; asks nobody.
 */

import { Failure } from "./api.js";
import { element, pngBlob } from "./dom.js";
import { explained, heading } from "./failures.js";
import { label } from "./labels.js";
import { colourOf } from "./palette.js";
import { inFull, shorten, why } from "./reason.js";
import { repeats } from "./repeat.js";
import { duration, number, say, share } from "./text.js";

/** How many numbers of a vector are shown. */
const SHOWN_NUMBERS = 8;

/** How much of what a model's own code says fits where an answer has one line. */
const SHOWN_LETTERS = 80;

/** The nodes of an answer. `elapsedMs`: from sending the picture to reading the answer; `replaced`: the model
 * that another was to fall in for. */
export function answerParts(answer, elapsedMs, picture, replaced) {
  return [
    answer.notice ? element("div", { className: "notice" }, ...noticed(answer, replaced)) : "",
    ...results(answer),
    times(answer.timings_ms, elapsedMs),
    element("p", { className: "hint" }, answer.steps ? `${answer.model} ${answer.model_version}` : ridden(answer)),
    repeats(answer, picture),
  ];
}

/** What the service says of an answer; that another model gave it in the page's own words, before the reason. */
function noticed({ notice, model }, replaced) {
  if (!replaced || replaced === model) return why(notice);
  return [say("model.stand_in", { name: replaced, other: model }), inFull(shorten(notice).whole)];
}

/** The answer in few words: the first label and its probability, or what else there is. */
export function best({ predictions: [first], values, embedding, image, outputs, result, steps, model }) {
  if (steps) return Object.entries(steps).map(([name, answer]) => `${name}: ${inShort(answer)}`).join("; ");
  if (first) return `${label(first)} (${share(measure(first))})`;
  if (values) return Object.entries(values).map(([name, value]) => `${name}: ${number(value, 4)}`).join(", ");
  if (embedding) return say("answer.vector", { count: embedding.length });
  if (image) return say("answer.made", { name: model });
  if (outputs) return Object.keys(outputs).join(", ");
  if (result) return JSON.stringify(result).slice(0, SHOWN_LETTERS);
  return say("answer.nothing");
}

/** A step's answer in few words, or its failure. */
const inShort = (answer) => (answer.success ? best(answer) : heading(failureOf(answer), answer.model));

const failureOf = ({ error }) => new Failure(error.code, error.message);

/** What a prediction's bar shows: how probable it is, or how much of the picture it has. */
const measure = ({ probability, area }) => area ?? probability;

/** The nodes of what the task gives, or the model's own code: each has a field of its own in the answer. */
function results({ result, ...answer }) {
  if (!result) return ofTask(answer);
  const text = element("pre", { className: "result" }, JSON.stringify(result, null, 2));
  return answer.predictions.length ? [...ofTask(answer), text] : [text];
}

function ofTask({ predictions, values, embedding, image, outputs, steps, model }) {
  if (steps) return Object.entries(steps).flatMap(ofStep);
  if (predictions.length) return [ranking(predictions)];
  if (values) return [quantities(values)];
  if (embedding) return [element("p", {}, say("answer.vector", { count: embedding.length })), numbers(embedding)];
  if (image) return [made(image, model)];
  if (outputs) return Object.entries(outputs).flatMap(([name, { shape, data }]) => [
    element("p", {}, say("answer.output", { name, shape: shape.join(" × ") })), numbers(data),
  ]);
  return [element("p", {}, say("answer.nothing"))];
}

/** The nodes of one step of a pipeline, about the whole picture. */
function ofStep([name, answer]) {
  const title = element("h4", { className: "step" }, name);
  if (answer.success) return [title, ...results(answer)];
  return [title, element("div", { className: "problem" }, ...explained(failureOf(answer), answer.model))];
}

function quantities(values) {
  const lines = Object.entries(values).map(([name, value]) =>
    element("li", {}, element("span", { className: "label" }, name), element("span", { className: "share" }, number(value, 4))),
  );
  return element("ol", { className: "ranking" }, ...lines);
}

/** The first of many numbers. */
function numbers(data) {
  const first = data.slice(0, SHOWN_NUMBERS).map((each) => each.toPrecision(4)).join(", ");
  return element("p", { className: "hint numbers" }, data.length > SHOWN_NUMBERS ? `${first}, …` : first);
}

/** The page's policy allows no data: address, so the picture becomes an object. */
function made(image, name) {
  const src = URL.createObjectURL(pngBlob(image));
  return element("img", { className: "made", alt: say("answer.made", { name }), src, onload: () => URL.revokeObjectURL(src) });
}

function ranking(predictions) {
  const isBoxed = predictions.some((each) => each.box);
  return element("ol", { className: isBoxed ? "ranking boxed" : "ranking" }, ...predictions.map(ranked));
}

function ranked(prediction) {
  const bar = element("span", { className: "bar", ariaHidden: "true" });
  bar.style.setProperty("--share", `${100 * measure(prediction)}%`);
  const line = element(
    "li",
    {},
    element("span", { className: "label" }, label(prediction)),
    element("span", { className: "share" }, share(measure(prediction))),
    bar,
  );
  for (const [name, answer] of Object.entries(prediction.steps ?? {})) {
    line.append(element("span", { className: "later" }, `${name}: ${inShort(answer)}`));
  }
  if (prediction.box) line.style.setProperty("--colour", colourOf(prediction.class_id));
  return line;
}

/** The way of a request through the service. What no stage accounts for is the way to it and back, and decoding. */
function times({ waiting, batch, model }, elapsedMs) {
  const stages = { waiting, batch, model, rest: Math.max(0, elapsedMs - waiting - batch - model) };
  const whole = Object.values(stages).reduce((sum, each) => sum + each, 0) || 1;
  const bar = element("div", { className: "stages", ariaHidden: "true" });
  const list = element("dl", { className: "times" });
  for (const [stage, ms] of Object.entries(stages)) {
    const piece = element("span", { className: `stage-${stage}` });
    piece.style.width = `${(100 * ms) / whole}%`;
    bar.append(piece);
    const term = element("dt", { className: `stage-${stage}`, title: say(`time.${stage}.title`) }, say(`time.${stage}`));
    list.append(element("div", {}, term, element("dd", {}, duration(ms))));
  }
  const total = say("time.total", { time: duration(elapsedMs) });
  return element("div", { className: "timing" }, element("h4", {}, total), bar, list);
}

function ridden({ batch_size: count, model, engine, precision, model_version: version }) {
  return `${say("answer.batch", { count })} · ${model} ${version} · ${engine} ${precision}`;
}
