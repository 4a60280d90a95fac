/**
 * What a failure means and what to do about it, in words. Owns the mapping from codes to phrases.
 */

import { Failure, mostBytes } from "./api.js";
import { element } from "./dom.js";
import { why } from "./reason.js";
import { knows, say, size } from "./text.js";

/** Codes of what stays wrong however often, and by whatever model, it is asked. */
const FINAL = new Set([
  "bad_request",
  "forbidden",
  "header_too_large",
  "idempotency_key_reused",
  "invalid_image",
  "method_not_allowed",
  "not_found",
  "too_large",
  "unauthorized",
  "unsupported_format",
  "uri_too_long",
]);

/** Whether the same picture may be answered another time. */
export const mayPass = ({ code }) => !FINAL.has(code);

/** A failure as nodes: what happened, what to do, and what the service itself said of it. `model`: who was asked. */
export function explained(failure, model) {
  const nodes = [element("strong", {}, heading(failure, model))];
  const advice = `advice.${failure.code}`;
  if (knows(advice)) nodes.push(" ", element("span", {}, say(advice, { size: size(mostBytes) })));
  // Waiting mends no model; and why it failed is told once, beside its name.
  if (failure.code === "model_unavailable") return nodes;
  if (failure.retryAfterS) nodes.push(" ", element("span", {}, say("error.retry_after", { count: failure.retryAfterS })));
  return [...nodes, " ", ...why(failure.message)];
}

/** What happened, in a few words. */
export function heading(failure, model) {
  if (failure.code === "model_unavailable" && model) return say("trouble.failed", { name: model });
  const key = `error.${failure.code}`;
  return say(failure instanceof Failure && knows(key) ? key : "error.unexpected");
}
