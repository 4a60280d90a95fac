/**
 * The whole service on the status page: what of the last hour belongs to no model alone. Owns its look.
 */

import { element, fill } from "./dom.js";
import { WINDOW_MS } from "./history.js";
import { Plot } from "./plot.js";
import { duration, number, say, size } from "./text.js";

const perSecond = (rate) => say("status.per_s", { rate: number(rate, 2) });

export class ServiceStatus {
  constructor(section) {
    this.section = section;
    this.plots = {
      errors: [new Plot(say("status.errors"), perSecond, WINDOW_MS), ({ models }) => together(models, "errors_per_s")],
      p50: [new Plot(say("status.p50"), duration, WINDOW_MS), ({ p50_ms }) => p50_ms],
      p95: [new Plot(say("status.p95"), duration, WINDOW_MS), ({ p95_ms }) => p95_ms],
      workers: [new Plot(say("status.live"), (workers) => number(workers), WINDOW_MS), ({ models }) => together(models, "workers")],
      memory: [new Plot(say("status.memory"), size, WINDOW_MS), ({ redis_bytes }) => redis_bytes],
    };
    const drawn = Object.values(this.plots).map(([plot]) => plot.element);
    fill(section, element("h2", {}, say("status.service")), element("div", { className: "plots" }, ...drawn));
  }

  /** Show the service's samples up to the moment `now`; without any there is nothing to see. */
  show(samples, now) {
    this.section.hidden = !samples.length;
    for (const [plot, value] of Object.values(this.plots)) plot.show(samples.map((sample) => [sample.at, value(sample)]), now);
  }
}

/** The sum over all models; null where none is known. */
function together(models, what) {
  const known = Object.values(models).map((model) => model[what]).filter((value) => value !== null);
  return known.length ? known.reduce((sum, value) => sum + value, 0) : null;
}
