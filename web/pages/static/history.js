/**
 * The last hour, as points for plots: the samples that the service keeps, a point every ten seconds, and of the
 * last minutes what this browser tab has heard itself, every two. Owns the tab's points; they outlive a reload.
 */

export const WINDOW_MS = 60 * 60 * 1000;

const OWN_MS = 5 * 60 * 1000;
/** A sample this near to a point of the tab's own says nothing new. */
const NEAR_MS = 10_000;

const KEY = "batchwire.status";

export class History {
  constructor() {
    const saved = restored();
    this.points = new Map(Object.entries(saved.points ?? {}));
    /** What each worker said last, by its id. */
    this.workers = saved.workers ?? {};
    /** The service's samples, by this computer's clock. */
    this.samples = [];
  }

  /** Take over what the service has kept; `now` is the moment of its answer, by this computer's clock. */
  remember({ time, samples }, now) {
    this.samples = samples.map((sample) => ({ ...sample, at: now - (time - sample.at) * 1000 }));
  }

  /** Add what /models said at a moment of this computer's clock. */
  add({ models }, now) {
    const workers = {};
    for (const model of models) {
      const paces = model.workers.map((worker) => pace(worker, this.workers[worker.id]));
      model.workers.forEach((worker, index) => (workers[worker.id] = { ...brief(worker), pace: paces[index] }));
      const points = (this.points.get(model.model) ?? []).filter((point) => point.at > now - OWN_MS);
      points.push({ at: now, queue: model.queue_length, ...together(model.workers, paces) });
      this.points.set(model.model, points);
    }
    const names = new Set(models.map(({ model }) => model));
    for (const gone of this.points.keys()) if (!names.has(gone)) this.points.delete(gone);
    this.workers = workers;
    saved({ points: Object.fromEntries(this.points), workers });
  }

  /** A model's points of the last hour, in their order. */
  of(model) {
    const own = this.points.get(model) ?? [];
    const kept = this.samples.filter(({ at, models }) => model in models && !own.some((point) => Math.abs(point.at - at) < NEAR_MS));
    return [...kept.map((sample) => pointOf(sample.at, sample.models[model])), ...own].sort((one, other) => one.at - other.at);
  }

  latest(model) {
    return this.points.get(model)?.at(-1);
  }
}

const pointOf = (at, { queue, pictures_per_s, latency_ms }) => ({ at, queue, throughput: pictures_per_s, latency: latency_ms });

const brief = ({ pictures, heartbeat }) => ({ pictures, heartbeat });

/** Pictures a second between the last two heartbeats of a worker; until it has spoken again, what it was before. */
function pace({ pictures, heartbeat }, before) {
  if (!before) return 0;
  if (heartbeat <= before.heartbeat) return before.pace;
  return Math.max(0, pictures - before.pictures) / (heartbeat - before.heartbeat);
}

/** A model's throughput, and how long its pictures took, where there were any: those who ran most count most. */
function together(workers, paces) {
  const throughput = paces.reduce((sum, each) => sum + each, 0);
  const weighed = (took) => workers.reduce((sum, worker, index) => sum + paces[index] * took(worker), 0) / throughput;
  if (!throughput) return { throughput, waiting: null, latency: null };
  return {
    throughput,
    waiting: weighed((worker) => worker.waiting_ms),
    latency: weighed((worker) => worker.waiting_ms + worker.latency_ms),
  };
}

function restored() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY)) ?? {};
  } catch {
    return {}; // storage is switched off, or holds another release's
  }
}

function saved(state) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(state));
  } catch {
    // full, or switched off: the plots begin anew after a reload
  }
}
