/** The available models: their cards and their evaluation on held-out images. */

import { actions, catalog } from "./api.js";
import { clone, el } from "./dom.js";
import { bindCommands } from "./row_actions.js";
import { formatCount } from "./format.js";

const FORMATS = {
  scales: (all) => `×${all.join(", ×")}`,
  source_mpp: (range) => `${range.join(" to ")} µm/px`,
  parameters: formatCount,
  iterations: formatCount,
};
const signed = (gain) => `${gain > 0 ? "+" : ""}${gain.toFixed(2)}`;

export async function modelsView() {
  const { models } = await catalog();
  const { root, gains, tables, cards, fold } = clone("models");
  gains.append(...evaluationTables("gains", models, signed));
  tables.append(...evaluationTables("metrics", models, String));
  cards.append(...models.map(card));
  bindCommands(fold, () => [["All models as JSON", actions.models()]]);
  return root;
}

/** Make one table per image set, with a row per model and a column per figure. */
function evaluationTables(kind, models, format) {
  return [...new Set(models.flatMap((one) => Object.keys(one[kind])))].map((set) => {
    const { root, caption, head, body } = clone(kind);
    const rows = models.filter((one) => one[kind][set]);
    caption.textContent = `${root.dataset.title} ${set}`;
    root.setAttribute("aria-label", caption.textContent);
    if (head.children.length < 3) head.append(...[...new Set(rows.flatMap((one) => Object.keys(one[kind][set])))].map((one) => el("th", { scope: "col", "data-figure": one }, one)));
    const figures = [...head.querySelectorAll("[data-figure]")].map((one) => one.dataset.figure);
    for (const { name, default_scale: scale, [kind]: { [set]: values } } of rows) {
      const cells = figures.map((one) => el("td", { class: kind === "gains" && values[one] <= 0 && "worse" }, values[one] == null ? "–" : format(values[one])));
      const row = el("tr", { class: name === "bicubic" && "baseline" }, el("th", { scope: "row" }, name), el("td", {}, `×${scale}`), cells);
      body.insertBefore(row, name === "bicubic" ? body.firstChild : null);
    }
    return root;
  });
}

function card(model) {
  const { root, name, description } = clone("card");
  name.textContent = model.name;
  description.textContent = model.description;
  for (const one of root.querySelectorAll("[data-fact]")) {
    const value = model[one.dataset.fact];
    if (value == null) one.parentElement.remove();
    else one.textContent = FORMATS[one.dataset.fact]?.(value) ?? { true: "yes", false: "no" }[value] ?? value;
  }
  return root;
}
