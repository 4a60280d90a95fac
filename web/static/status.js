/**
 * The status page: asks the service how it does every two seconds, and shows it. Owns the page's frame and its
 * pace; a model's part is modelstatus.js's.
 */

import { Failure, models } from "./api.js";
import { announce, byId, element, fill } from "./dom.js";
import { explained } from "./failures.js";
import { History } from "./history.js";
import { ModelStatus } from "./modelstatus.js";
import { language, number, say } from "./text.js";

const PAUSE_MS = 2000;

const history = new History();
const shown = new Map();
const states = new Map();
let lastHeard = null;

async function look() {
  try {
    const said = await models();
    lastHeard = Date.now();
    history.add(said, lastHeard);
    show(said);
    byId("problem").hidden = true;
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    fill(byId("problem"), ...explained(error));
    byId("problem").hidden = false;
  } finally {
    fill(byId("updated"), lastHeard ? say("status.updated", { time: new Date(lastHeard).toLocaleTimeString(language) }) : "");
    setTimeout(look, PAUSE_MS);
  }
}

function show(said) {
  for (const model of said.models) {
    if (!shown.has(model.model)) {
      shown.set(model.model, new ModelStatus(model.model));
      byId("models").append(shown.get(model.model).element);
    }
    shown.get(model.model).show(model, said, history);
    tell(model);
  }
  for (const [name, status] of shown) {
    if (said.models.some((model) => model.model === name)) continue;
    status.element.remove();
    shown.delete(name);
  }
  fill(byId("totals"), ...totals(said));
}

/** Only a change of state is worth a screen reader's word. */
function tell({ model, state }) {
  if (states.has(model) && states.get(model) !== state) announce(`${model}: ${say(`state.${state}`)}`);
  states.set(model, state);
}

function totals({ models: all }) {
  const ready = all.filter((model) => model.state === "ready").length;
  const workers = all.reduce((sum, model) => sum + model.workers.length, 0);
  const queue = all.reduce((sum, model) => sum + model.queue_length, 0);
  const rate = all.reduce((sum, model) => sum + (history.latest(model.model)?.throughput ?? 0), 0);
  const figures = {
    "status.models_ready": `${number(ready)} / ${number(all.length)}`,
    "status.workers": number(workers),
    "status.queue": number(queue),
    "status.throughput": say("status.per_s", { rate: number(rate, 1) }),
  };
  return Object.entries(figures).map(([key, text]) =>
    element("div", {}, element("dt", {}, say(key)), element("dd", {}, text)),
  );
}

look();
