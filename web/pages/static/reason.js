/**
 * A reason for people who can't act on it: its first sentence, the rest a click away. Owns that cut, as
 * web/pages/reasons.py does for a page that has just come.
 */

import { element } from "./dom.js";
import { say } from "./text.js";

/** Characters of a first sentence; some libraries never come to its end. */
const MOST = 200;
const FIRST = /^.*?[.!?](?=\s+[A-Z])/s;

/** A reason in short, and whole; the same where it is short. */
export function shorten(reason) {
  const whole = reason.trim();
  const [first] = FIRST.exec(whole) ?? [whole];
  return { short: first.length <= MOST ? first : `${first.slice(0, MOST).trimEnd()} …`, whole };
}

/** The nodes of a reason; none of an empty one. */
export function why(reason) {
  const { short, whole } = shorten(reason ?? "");
  if (!whole) return [];
  const shown = element("span", { className: "words", lang: "en" }, short);
  return short === whole ? [shown] : [shown, inFull(whole)];
}

/** What is too long to be read by everybody, closed at first. */
export function inFull(whole) {
  return element("details", { className: "whole" }, element("summary", {}, say("reason.whole")), element("p", { lang: "en" }, whole));
}
