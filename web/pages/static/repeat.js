/**
 * How to ask the same again from a shell or a program. Owns the commands, their quoting, and their copying.
 */

import { asksForKey, predictUrl } from "./api.js";
import { announce, element } from "./dom.js";
import { say } from "./text.js";

/** What needs no quotes in a shell, nor in curl's -F. */
const PLAIN = /^[\w.@%+/-]+$/;

/** The header field of an API key. The page does not know the user's: KEY stands for it. */
const KEY_FIELD = "X-API-Key";

/** A word as a POSIX shell reads it. */
export function shellQuoted(word) {
  return /^[\w.@%+=:/-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** The curl command that sends this file. */
export function curl(name, url, ...options) {
  // In curl's own quotes a name may have commas and semicolons.
  const file = PLAIN.test(name) ? name : `"${name.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`;
  const key = asksForKey ? [`-H "${KEY_FIELD}: KEY"`] : [];
  return ["curl -X POST", ...key, ...options, "-F", shellQuoted(`image=@${file}`), shellQuoted(url)].join(" ");
}

/** A program in Python that sends this file. JSON's strings are Python's. */
export function python(name, url) {
  const key = asksForKey ? `headers={"${KEY_FIELD}": "KEY"}, ` : "";
  return [
    "import requests  # pip install requests",
    "",
    `with open(${JSON.stringify(name)}, "rb") as picture:`,
    `    answer = requests.post(${JSON.stringify(url)}, files={"image": picture}, ${key}timeout=60)`,
    "", // without it an interactive Python takes no more
    "print(answer.json())",
    "",
  ].join("\n");
}

/** A part of the page, closed at first, that shows the commands and the answer as it came. */
export function repeats(answer, picture) {
  const url = predictUrl(answer.model);
  const { name } = picture;
  const pieces = [piece("curl", curl(name, url)), piece("Python", python(name, url))];
  if (answer.predictions.some((each) => each.box)) {
    const drawn = curl(name, url, "-H 'Accept: image/png'", "-o annotated.png");
    pieces.push(piece(say("repeat.drawn"), drawn));
  }
  pieces.push(piece("JSON", JSON.stringify(answer, null, 2)));
  const made = element("details", { className: "repeat" }, element("summary", {}, say("repeat.title")));
  // Filled when it is opened: a hundred answers would make thousands of elements that nobody looks at.
  made.addEventListener("toggle", () => made.children.length > 1 || made.append(hint(picture), ...pieces));
  return made;
}

/** Where the commands find the picture; one that is no file yet can be saved. */
function hint(picture) {
  const text = element("p", { className: "hint" }, say("repeat.hint", { name: picture.name }));
  if (asksForKey) text.append(" ", say("repeat.key"));
  if (!picture.isMade) return text;
  const save = element("button", { type: "button" }, say("repeat.save"));
  save.addEventListener("click", () => {
    const href = URL.createObjectURL(picture);
    element("a", { href, download: picture.name }).click();
    setTimeout(() => URL.revokeObjectURL(href), 1000);
  });
  text.append(" ", save);
  return text;
}

function piece(title, text) {
  const code = element("code", {}, text);
  const copy = element("button", { type: "button", ariaLabel: say("repeat.copy", { name: title }) }, say("repeat.copy_short"));
  copy.addEventListener("click", async () => {
    await copied(text, code);
    copy.textContent = say("repeat.copied");
    announce(say("repeat.copied"));
    setTimeout(() => (copy.textContent = say("repeat.copy_short")), 2000);
  });
  return element(
    "div",
    { className: "piece" },
    element("div", { className: "heading" }, element("h4", {}, title), copy),
    element("pre", {}, code),
  );
}

async function copied(text, code) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https a browser lends its clipboard to no script; the old way works everywhere.
    getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
}
