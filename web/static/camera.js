/**
 * The computer's own camera: a view of it, and a picture from that. Owns the camera while its dialog is open.
 * A telephone has a better one behind its file input.
 */

import { byId } from "./dom.js";
import { made, stamp } from "./intake.js";
import { say } from "./text.js";

/** Show the button where there may be a camera. `onPicture` gets each picture, `onNothing` why there is none. */
export function offerCamera({ onPicture, onNothing }) {
  const [button, dialog, view] = [byId("camera"), byId("viewfinder"), byId("view")];
  button.hidden = !navigator.mediaDevices?.getUserMedia; // nor is it there without https
  button.addEventListener("click", async () => {
    try {
      view.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch {
      onNothing(say("camera.none"));
      return;
    }
    dialog.showModal();
    await view.play();
  });
  byId("leave").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    view.srcObject?.getTracks().forEach((track) => track.stop());
    view.srcObject = null;
  });
  byId("shoot").addEventListener("click", async () => {
    const picture = await taken(view);
    dialog.close();
    onPicture(picture);
  });
}

function taken(view) {
  const canvas = document.createElement("canvas");
  canvas.width = view.videoWidth;
  canvas.height = view.videoHeight;
  canvas.getContext("2d").drawImage(view, 0, 0);
  return new Promise((resolve) => {
    canvas.toBlob((blob) => resolve(made(blob, `photo-${stamp()}.jpg`)), "image/jpeg", 0.92);
  });
}
