/** The models on offer: their cards, and how each did on images that none has seen. */

import { actions, catalog } from "./api.js";
import { cut, el } from "./dom.js";
import { printWhenOpened } from "./offer.js";
import { count } from "./words.js";

const BASELINE = "bicubic";
const WORDS = {
  scales: (all) => all.map((one) => `×${one}`).join(", "),
  source_mpp: (range) => `${range.join(" to ")} µm/px`,
  parameters: count,
  iterations: count,
};

export async function modelsView() {
  const { models, default: usual } = await catalog();
  const { root, tables, cards, fold } = cut("models");
  const sets = new Set(models.flatMap((one) => Object.keys(one.metrics)));
  tables.append(...[...sets].map((set) => evaluation(set, models.filter((one) => one.metrics[set]))));
  cards.append(...models.map((one) => card(one, one.name === usual)));
  printWhenOpened(fold, () => [["All of it as JSON", actions.models()]]);
  return root;
}

function evaluation(set, models) {
  const { root, caption, body } = cut("evaluation");
  const measures = [...root.querySelectorAll("[data-measure]")].map((one) => one.dataset.measure);
  caption.textContent = `Evaluation on ${set}`;
  root.setAttribute("aria-label", caption.textContent);
  models.sort((one, other) => (other.name === BASELINE) - (one.name === BASELINE));
  body.append(...models.map((one) => el(
    "tr", { class: one.name === BASELINE && "baseline" },
    el("th", { scope: "row" }, one.name),
    [`×${one.default_scale}`, ...measures.map((name) => one.metrics[set][name] ?? "–")].map((value) => el("td", {}, value)),
  )));
  return root;
}

function card(model, usual) {
  const { root, name, description, usual: mark } = cut("card");
  name.textContent = model.name;
  description.textContent = model.description;
  mark.hidden = !usual;
  for (const one of root.querySelectorAll("[data-fact]")) {
    const value = model[one.dataset.fact];
    if (value == null) one.parentElement.remove();
    else one.textContent = WORDS[one.dataset.fact]?.(value) ?? { true: "yes", false: "no" }[value] ?? value;
  }
  return root;
}
