/**
 * A model on the status page: its state, its plots, its workers. Owns their look.
 */

import { element, fill } from "./dom.js";
import { WINDOW_MS } from "./history.js";
import { Plot } from "./plot.js";
import { duration, number, say } from "./text.js";

const perSecond = (rate) => say("status.per_s", { rate: number(rate, rate < 10 ? 1 : 0) });

export class ModelStatus {
  constructor(name) {
    this.badge = element("span", { className: "badge" });
    this.about = element("p", { className: "hint" });
    this.reason = element("p", { className: "problem", lang: "en", hidden: true });
    this.plots = {
      throughput: new Plot(say("status.throughput"), perSecond, WINDOW_MS),
      latency: new Plot(say("status.latency"), duration, WINDOW_MS),
      queue: new Plot(say("status.queue"), (jobs) => number(jobs), WINDOW_MS),
    };
    // Roles are spelled out: a narrow window lays the table out as blocks, which are no table's by themselves.
    this.rows = element("tbody", { role: "rowgroup" });
    this.table = element("table", { role: "table" }, element("caption", { className: "unseen" }, say("status.workers_of", { name })), heads(), this.rows);
    this.drawn = element("div", { className: "plots" }, ...Object.values(this.plots).map((plot) => plot.element));
    const scroller = element("div", { className: "scroller", tabIndex: 0, role: "region", ariaLabel: say("status.workers_of", { name }) }, this.table);
    const heading = element("div", { className: "heading" }, element("h2", {}, name), this.badge);
    this.element = element("section", { className: "panel status" }, heading, this.about, this.reason, this.drawn, scroller);
    this.element.dataset.model = name;
  }

  show(model, { time, default_model }, history) {
    this.badge.className = `badge ${model.state.replace(" ", "-")}`;
    fill(this.badge, say(`state.${model.state}`));
    const weights = say("status.weights", { weights: model.weights });
    const parts = [`${model.engine} ${model.precision}`, weights];
    if (model.model === default_model) parts.unshift(say("status.default"));
    fill(this.about, parts.join(" · "));
    this.reason.hidden = !model.reason;
    fill(this.reason, model.reason);
    const points = history.of(model.model);
    // A model that is not there has nothing to plot, unless it was a moment ago.
    this.drawn.hidden = model.state !== "ready" && points.every((point) => !point.throughput && !point.queue);
    for (const [what, plot] of Object.entries(this.plots)) {
      plot.show(points.map((point) => [point.at, point[what]]), points.at(-1).at);
    }
    fill(this.rows, ...(model.workers.length ? model.workers.map((worker) => row(worker, time)) : [nobody()]));
  }
}

const COLUMNS = ["worker", "state", "heartbeat", "pictures", "rate", "call", "version"];

const title = (column) => say(`status.column.${column}`);

function heads() {
  const cells = COLUMNS.map((column) => element("th", { scope: "col", role: "columnheader" }, title(column)));
  return element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...cells));
}

function row(worker, time) {
  const ago = Math.max(0, time - worker.heartbeat);
  const cells = [
    element("code", { title: worker.id }, worker.id.slice(0, 8)),
    say(`state.${worker.state}`),
    worker.heartbeat ? say("status.ago", { time: `${number(ago, 1)} s` }) : "–",
    number(worker.pictures),
    worker.rate ? perSecond(worker.rate) : "–",
    worker.latency_ms ? duration(worker.latency_ms) : "–",
    element("code", {}, worker.version),
  ];
  return element("tr", { role: "row" }, ...cells.map((cell, at) => titled(title(COLUMNS[at]), cell)));
}

/** A cell that has its column's title with it, for windows where it stands beneath that. */
function titled(text, cell) {
  const made = element("td", { role: "cell" }, cell);
  made.dataset.title = text;
  return made;
}

const nobody = () =>
  element("tr", { role: "row" }, element("td", { role: "cell", colSpan: COLUMNS.length }, say("status.nobody")));
