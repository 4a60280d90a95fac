/**
 * How pictures come in: chosen, photographed, dropped anywhere, pasted. Owns where they are caught.
 */

import { byId } from "./dom.js";
import { say } from "./text.js";

/** `onPictures` gets the files, `onNothing` what to tell where there was none. */
export function catchPictures({ onPictures, onNothing }) {
  for (const input of [byId("files"), byId("snap")]) {
    const take = () => {
      const files = [...input.files];
      if (files.length) onPictures(files);
      input.value = ""; // so that the same picture can be chosen again
    };
    input.addEventListener("change", take);
    take(); // what was chosen before this script was there
  }
  catchDropped({ onPictures, onNothing });
  addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files].map(named);
    if (files.length) {
      event.preventDefault();
      onPictures(files);
    } else {
      onNothing(say("paste.nothing"));
    }
  });
}

/** A drop anywhere counts: beside a target the browser would leave the page for the picture. */
function catchDropped({ onPictures, onNothing }) {
  const target = byId("drop");
  let depth = 0;
  const carriesFiles = (event) => event.dataTransfer.types.includes("Files");
  const mark = (isOver) => target.classList.toggle("over", isOver);
  addEventListener("dragenter", (event) => mark(carriesFiles(event) && ++depth > 0));
  addEventListener("dragleave", (event) => carriesFiles(event) && mark(--depth > 0));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    mark(false);
    const files = [...event.dataTransfer.items]
      .filter((item) => item.kind === "file" && !item.webkitGetAsEntry?.()?.isDirectory)
      .map((item) => item.getAsFile());
    if (files.length) onPictures(files);
    else onNothing(say("drop.nothing"));
  });
}

/** Browsers name every pasted screenshot alike: image.png. */
function named(file) {
  if (file.name && file.name !== "image.png") return file;
  return made(file, `pasted-${stamp()}.${extension(file.type)}`);
}

/** A picture that is no file of the user's, under a name. */
export function made(blob, name) {
  const file = new File([blob], name, { type: blob.type });
  file.isMade = true;
  return file;
}

/** The time of day, for names. */
export const stamp = () => new Date().toTimeString().slice(0, 8).replaceAll(":", "");

const extension = (type) => type.split("/")[1]?.replace("jpeg", "jpg").replace(/\W.*/, "") || "png";
