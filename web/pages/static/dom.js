/**
 * Elements from data. Owns the only way in which these pages make elements: text is always text, never markup.
 */

/** An element with properties (or attributes, where it has no such property) and children; a child that is
 * null or false is left out. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== false));
  return made;
}

/** A PNG in base64 as a Blob: the pages' policy allows no data: addresses. */
export const pngBlob = (text) => new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], { type: "image/png" });

/** The element with this id; it is in the page's template. */
export const byId = (id) => document.getElementById(id);

/** Tell a screen reader, and nobody else. */
export function announce(text) {
  byId("said").textContent = text;
}

/** Put text and elements in the place of what an element holds, unless it says that already. */
export function fill(parent, ...children) {
  const kept = children.filter((child) => child !== null && child !== false);
  const before = [...parent.childNodes].map((node) => node.textContent).join("\n");
  const after = kept.map((child) => child.textContent ?? child).join("\n");
  if (before !== after) parent.replaceChildren(...kept);
  return parent;
}
