/** The models on offer: their cards, and how each did on images that none has seen. */

import { actions, catalog } from "./api.js";
import { cut, el } from "./dom.js";
import { printWhenOpened } from "./offer.js";
import { count } from "./words.js";

const WORDS = {
  scales: (all) => `×${all.join(", ×")}`,
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
  for (const { name, default_scale: scale, metrics } of models) {
    const baseline = name === "bicubic";
    const cells = [`×${scale}`, ...measures.map((one) => metrics[set][one] ?? "–")].map((value) => el("td", {}, value));
    const row = el("tr", { class: baseline && "baseline" }, el("th", { scope: "row" }, name), cells);
    body.insertBefore(row, baseline ? body.firstChild : null);
  }
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
