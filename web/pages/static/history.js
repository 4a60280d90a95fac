/**
 * What the service said over the last minutes, as points for plots. Owns the points, of this browser tab: they
 * outlive a reload, and nobody else has them.
 */

export const WINDOW_MS = 5 * 60 * 1000;

const KEY = "batchwire.status";

export class History {
  constructor() {
    const saved = restored();
    this.points = new Map(Object.entries(saved.points ?? {}));
    /** What each worker said last, by its id. */
    this.workers = saved.workers ?? {};
  }

  /** Add what /models said at a moment of this computer's clock. */
  add({ models }, now) {
    const workers = {};
    for (const model of models) {
      const paces = model.workers.map((worker) => pace(worker, this.workers[worker.id]));
      model.workers.forEach((worker, index) => (workers[worker.id] = { ...brief(worker), pace: paces[index] }));
      const points = (this.points.get(model.model) ?? []).filter((point) => point.at > now - WINDOW_MS);
      points.push({ at: now, queue: model.queue_length, ...together(model.workers, paces) });
      this.points.set(model.model, points);
    }
    const names = new Set(models.map(({ model }) => model));
    for (const gone of this.points.keys()) if (!names.has(gone)) this.points.delete(gone);
    this.workers = workers;
    saved({ points: Object.fromEntries(this.points), workers });
  }

  of(model) {
    return this.points.get(model) ?? [];
  }

  latest(model) {
    return this.of(model).at(-1);
  }
}

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
