/**
 * The list of models: kept in step with the service, and what is to be known of the chosen one.
 * Owns the choice until somebody makes one.
 */

import { Failure, models } from "./api.js";
import { byId, element, fill } from "./dom.js";
import { explained } from "./failures.js";
import { why } from "./reason.js";
import { knows, say } from "./text.js";

const SETTLED_MS = 5000;
/** While a model loads, or nobody answers. */
const UNSETTLED_MS = 1000;

export class Models {
  constructor() {
    this.known = [];
    this.select = byId("model");
    // Somebody may have been faster than this script.
    this.isChosen = [...this.select.options].some((option) => option.selected !== option.defaultSelected);
    this.onChange = () => {};
    this.select.addEventListener("change", () => {
      this.isChosen = true;
      this.show();
    });
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
    this.look();
  }

  /** The name of the chosen model. */
  get chosen() {
    return this.select.value;
  }

  /** The default model, while another falls in for it and nobody has chosen any. */
  get replaced() {
    const { default_model, default_answered_by } = this.said ?? {};
    const fallsIn = this.chosen === default_answered_by && this.chosen !== default_model;
    return fallsIn && !this.isChosen ? this.named(default_model) : undefined;
  }

  /** Whom to ask about a picture, and the name to ask by: none where that model falls in for `replaced`, for
   * then the answer says so. */
  get choice() {
    const replaced = this.replaced?.model;
    return { model: this.chosen, name: replaced ? "" : this.chosen, replaced };
  }

  /** The model to ask about a drawing: the chosen one, if it takes drawings, else one that does; or undefined. */
  get reader() {
    const readers = this.known.filter((model) => model.input.fit === "ink");
    return (
      readers.find((model) => model.model === this.chosen) ??
      readers.find((model) => model.state === "ready") ??
      readers[0]
    );
  }

  /** Whether a drawing can be asked about, now or soon. */
  get canRead() {
    return this.known.some(({ input, state, expected }) => input.fit === "ink" && (state !== "no worker" || expected));
  }

  named(name) {
    return this.known.find((model) => model.model === name);
  }

  /** Ask the service, show what it says, and ask again later; but not for a page that nobody sees. */
  async look() {
    clearTimeout(this.timer);
    let pauseMs = UNSETTLED_MS;
    try {
      const said = await models();
      this.take(said);
      byId("problem").hidden = true;
      if (this.known.every((model) => model.state === "ready" || model.state === "failed")) pauseMs = SETTLED_MS;
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      const problem = byId("problem");
      fill(problem, ...explained(error));
      problem.hidden = false;
    } finally {
      clearTimeout(this.timer);
      if (!document.hidden) this.timer = setTimeout(() => this.look(), pauseMs);
    }
  }

  take(said) {
    this.said = said;
    this.known = said.models;
    const chosen = this.isChosen ? this.chosen : firstChoice(said, this.chosen);
    const options = this.known.map((model) => element("option", { value: model.model }, optionText(model)));
    fill(this.select, ...options);
    if (this.named(chosen)) this.select.value = chosen;
    this.show();
  }

  show() {
    const model = this.named(this.chosen);
    fill(byId("about"), model ? about(model) : say("model.none"));
    fill(byId("trouble"), ...(model ? trouble(model) : []), ...standIn(this.chosen, this.replaced));
    this.onChange(this);
  }
}

function firstChoice({ models, default_model, default_answered_by }, before) {
  const isReady = (name) => models.some((model) => model.model === name && model.state === "ready");
  const candidates = [before, default_answered_by, default_model, ...models.map((model) => model.model)];
  return candidates.find(isReady) ?? (before || default_model);
}

const stateText = (model) => say(`state.${model.state}`);

function optionText(model) {
  return model.state === "ready" ? model.model : say("model.option", { name: model.model, state: stateText(model) });
}

function about(model) {
  const { width, height } = model.input;
  const task = `task.${model.task}`;
  // A pipeline takes any size, and has no engine.
  if (model.steps.length) return say(task, { names: model.steps.map((step) => step.model).join(", ") });
  const parts = [
    say(knows(task) ? task : "task.other", { count: model.classes }),
    say("model.input", { width, height }),
    `${model.engine} ${model.precision}`,
  ];
  return parts.join(" · ");
}

/** What stands between the chosen model and an answer, as elements. */
function trouble(model) {
  const found = [];
  if (model.state !== "ready") {
    const kind = model.state === "loading" ? "notice" : "problem";
    const text = element("strong", {}, say(`trouble.${model.state}`, { name: model.model }));
    const advice = model.state === "failed" ? say("advice.model_unavailable") : null;
    found.push(element("div", { className: kind }, text, " ", advice, ...why(model.reason)));
  } else if (model.reason) {
    found.push(element("div", { className: "notice" }, ...why(model.reason)));
  }
  if (model.weights === "random") found.push(element("p", { className: "notice" }, say("model.random")));
  return found;
}

function standIn(other, replaced) {
  if (!replaced) return [];
  const text = say("model.stand_in", { name: replaced.model, other });
  return [element("div", { className: "notice" }, text, ...why(replaced.reason))];
}
