/** Colours of classes: the same class has the same colour in a page. Owns the palette. */

/** Light enough for black letters on them, and told apart by most colour-blind people (after Okabe and Ito). */
const COLOURS = ["#56b4e9", "#e69f00", "#2fc796", "#f0e442", "#e48bbd", "#ff8a5c", "#b3b8ff", "#c8e08a"];
const given = new Map();

export function colourOf(name) {
  if (!given.has(name)) given.set(name, COLOURS[given.size % COLOURS.length]);
  return given.get(name);
}
