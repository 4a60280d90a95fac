/**
 * The service's HTTP. Owns requests, and every way in which one can fail as a Failure; knows nothing of the page.
 */

const { predict: PREDICT, models: MODELS, history: HISTORY, maxBytes: MAX_BYTES, hasKeys } = document.body.dataset;

/** The bytes that a request may have. */
export const mostBytes = Number(MAX_BYTES);

/** Whether the service asks for an API key, which the browser sends by itself and another program must be given. */
export const asksForKey = hasKeys !== undefined;

const MODELS_TIMEOUT_MS = 5000;

/** The service said no, or did not say anything. `code` is one of the service's, or `unreachable` or `unexpected`. */
export class Failure extends Error {
  constructor(code, message = "", retryAfterS = 0) {
    super(message);
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

/** The absolute address of a prediction by this model; without a name, by whoever answers for the default. */
export function predictUrl(model) {
  const url = new URL(PREDICT, location.href);
  if (model) url.searchParams.set("model", model);
  return url.href;
}

/** Ask a model of one picture. Returns its answer and the milliseconds that it took; throws Failure. */
export async function predict(picture, model, signal) {
  if (picture.size > mostBytes) throw new Failure("too_large");
  const form = new FormData();
  form.append("image", picture, picture.name);
  const began = performance.now();
  const answer = await json(predictUrl(model), { method: "POST", body: form, signal });
  if (!Array.isArray(answer.predictions)) throw new Failure("unexpected", "HTTP 200");
  return { answer, elapsedMs: performance.now() - began };
}

/** Every model as it is now; throws Failure. */
export function models() {
  return json(MODELS, { cache: "no-store", signal: AbortSignal.timeout(MODELS_TIMEOUT_MS) });
}

/** The last hour, as the service has sampled it; throws Failure. */
export function lastHour() {
  return json(HISTORY, { cache: "no-store", signal: AbortSignal.timeout(MODELS_TIMEOUT_MS) });
}

async function json(url, options) {
  let response;
  let body;
  try {
    response = await fetch(url, options);
    body = await response.text();
  } catch (error) {
    if (options.signal?.aborted && options.signal.reason?.name === "AbortError") throw error;
    throw new Failure("unreachable");
  }
  const answer = parsed(body);
  if (response.ok && answer) return answer;
  const { code = "unexpected", message = `HTTP ${response.status}` } = answer?.error ?? {};
  // A proxy before the service refuses in its own words.
  const known = code === "unexpected" && response.status === 413 ? "too_large" : code;
  throw new Failure(known, message, Number(response.headers.get("Retry-After")) || 0);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
