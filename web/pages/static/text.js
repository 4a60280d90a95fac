/**
 * The page's words and numbers in its language. Owns no word itself: they are in text/.
 */

export const language = document.documentElement.lang;

const RETRY_MS = 1000;

const words = await loaded(new URL(`text/${language}.json`, import.meta.url));

/** Without words there is no page, not even one that says what is wrong: tried until it works. */
async function loaded(url) {
  for (;;) {
    try {
      const response = await fetch(url);
      if (response.ok) return await response.json();
    } catch {
      // nobody answered, or something in between did
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

/** The phrase of a key with its {names} filled in. A certain `count` may have a form of its own: key.1. */
export function say(key, values = {}) {
  const counted = "count" in values ? words[`${key}.${values.count}`] : undefined;
  const phrase = counted ?? words[key];
  if (phrase === undefined) throw new Error(`No phrase ${key}. This is a bug`);
  return phrase.replace(/\{(\w+)\}/g, (_, name) => shown(values[name]));
}

const shown = (value) => (typeof value === "number" ? number(value) : String(value));

/** Whether there is a phrase of this key. */
export const knows = (key) => key in words;

/** A number with at most so many decimals. */
export function number(value, decimals = 0) {
  return new Intl.NumberFormat(language, { maximumFractionDigits: decimals }).format(value);
}

/** Milliseconds, as short as their size allows. */
export function duration(ms) {
  if (ms >= 1000) return `${number(ms / 1000, 2)} s`;
  return `${number(ms, ms < 10 ? 1 : 0)} ms`;
}

/** A probability; what is not quite nothing or everything does not look as if it were. */
export function share(probability) {
  const percents = new Intl.NumberFormat(language, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
  const percent = (value) => percents.format(value);
  if (probability > 0.9995 && probability < 1) return `> ${percent(0.999)}`;
  if (probability < 0.0005 && probability > 0) return `< ${percent(0.001)}`;
  return percent(probability);
}

/** A file's size. */
export function size(bytes) {
  if (bytes < 1024) return `${number(bytes)} B`;
  if (bytes < 1024 * 1024) return `${number(bytes / 1024)} KB`;
  return `${number(bytes / 1024 / 1024, 1)} MB`;
}
