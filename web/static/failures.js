/**
 * What a failure means and what to do about it, in words. Owns the mapping from codes to phrases.
 */

import { Failure, mostBytes } from "./api.js";
import { element } from "./dom.js";
import { knows, say, size } from "./text.js";

/** A failure as nodes: what happened, what to do, and what the service itself said of it. */
export function explained(failure) {
  const nodes = [element("strong", {}, heading(failure))];
  const advice = `advice.${failure.code}`;
  if (knows(advice)) nodes.push(" ", element("span", {}, say(advice, { size: size(mostBytes) })));
  if (failure.retryAfterS) nodes.push(" ", element("span", {}, say("error.retry_after", { count: failure.retryAfterS })));
  if (failure.message) nodes.push(" ", element("span", { className: "words", lang: "en" }, failure.message));
  return nodes;
}

/** What happened, in a few words. */
export function heading(failure) {
  const key = `error.${failure.code}`;
  return say(failure instanceof Failure && knows(key) ? key : "error.unexpected");
}
