/**
 * The computer's own camera: a view of it, and a picture from that. Owns the camera while its dialog is open.
 * A telephone has a better one behind its file input.
 */

import { byId } from "./dom.js";
import { made, stamp } from "./intake.js";
import { say } from "./text.js";

/** Offer the button where there may be a camera. `onPicture` gets each picture, `onNothing` why there is none. */
export function offerCamera({ onPicture, onNothing }) {
  const [button, dialog, view] = [byId("camera"), byId("viewfinder"), byId("view")];
  let isOn = false;
  button.hidden = !navigator.mediaDevices?.getUserMedia; // nor is it there without https
  button.classList.remove("starting");
  button.addEventListener("click", async () => {
    if (isOn) return; // a second click would switch a camera on that nothing switches off
    isOn = true;
    try {
      view.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch {
      isOn = false;
      onNothing(say("camera.none"));
      return;
    }
    dialog.showModal();
    view.play().catch(() => {}); // the dialog was closed before the first frame
  });
  byId("leave").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    view.srcObject?.getTracks().forEach((track) => track.stop());
    view.srcObject = null;
    isOn = false;
  });
  byId("shoot").addEventListener("click", async () => {
    if (!view.videoWidth) return; // nothing is to be seen yet
    const picture = await taken(view);
    if (!dialog.open) return; // the second of two clicks
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
