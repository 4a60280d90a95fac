/**
 * The status page: asks the service how it does every two seconds, and shows it. Owns the page's frame and its
 * pace; a model's part is modelstatus.js's, that of the whole servicestatus.js's.
 */

import { Failure, lastHour, models } from "./api.js";
import { announce, byId, element, fill } from "./dom.js";
import { explained } from "./failures.js";
import { History } from "./history.js";
import { ModelStatus } from "./modelstatus.js";
import { ServiceStatus } from "./servicestatus.js";
import { language, number, say } from "./text.js";

const PAUSE_MS = 2000;
const SAMPLES_PAUSE_MS = 10_000;

const history = new History();
const service = new ServiceStatus(byId("service"));
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

/** What the service has kept; where that does not come, the plots have what this tab has heard. */
async function lookBack() {
  try {
    history.remember(await lastHour(), Date.now());
    service.show(history.samples, Date.now());
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
  } finally {
    setTimeout(lookBack, SAMPLES_PAUSE_MS);
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
  const workers = all.flatMap((model) => model.workers.map((worker) => worker.state));
  const queue = all.reduce((sum, model) => sum + model.queue_length, 0);
  const rate = all.reduce((sum, model) => sum + (history.latest(model.model)?.throughput ?? 0), 0);
  return [
    total("status.models_ready", `${number(ready)} / ${number(all.length)}`),
    total("status.workers", number(count(workers, "ready")), ...others(workers)),
    total("status.queue", number(queue)),
    total("status.throughput", say("status.per_s", { rate: number(rate, 1) })),
  ];
}

const count = (states, state) => states.filter((each) => each === state).length;

/** Workers that take nothing now, by what they do instead. */
function others(states) {
  const there = ["loading", "draining", "failed"].filter((state) => states.includes(state));
  return there.map((state) => say("status.others", { count: count(states, state), state: say(`state.${state}`) }));
}

const total = (key, figure, ...notes) =>
  element(
    "div",
    {},
    element("dt", {}, say(key)),
    element("dd", {}, figure),
    ...notes.map((note) => element("dd", { className: "hint" }, note)),
  );

lookBack();
look();
