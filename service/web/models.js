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
const signed = (gain) => `${gain > 0 ? "+" : ""}${gain.toFixed(2)}`;

export async function modelsView() {
  const { models } = await catalog();
  const { root, gains, tables, cards, fold } = cut("models");
  gains.append(...evaluations("gains", models, signed));
  tables.append(...evaluations("metrics", models, String));
  cards.append(...models.map(card));
  printWhenOpened(fold, () => [["All of it as JSON", actions.models()]]);
  return root;
}

/** A table for each set: a row a model, a column a figure; the template names the columns, or the figures do. */
function evaluations(kind, models, shown) {
  return [...new Set(models.flatMap((one) => Object.keys(one[kind])))].map((set) => {
    const { root, caption, head, body } = cut(kind);
    const rows = models.filter((one) => one[kind][set]);
    caption.textContent = `${root.dataset.title} ${set}`;
    root.setAttribute("aria-label", caption.textContent);
    if (head.children.length < 3) head.append(...[...new Set(rows.flatMap((one) => Object.keys(one[kind][set])))].map((one) => el("th", { scope: "col", "data-figure": one }, one)));
    const figures = [...head.querySelectorAll("[data-figure]")].map((one) => one.dataset.figure);
    for (const { name, default_scale: scale, [kind]: { [set]: found } } of rows) {
      const cells = figures.map((one) => el("td", { class: kind === "gains" && found[one] <= 0 && "worse" }, found[one] == null ? "–" : shown(found[one])));
      const row = el("tr", { class: name === "bicubic" && "baseline" }, el("th", { scope: "row" }, name), el("td", {}, `×${scale}`), cells);
      body.insertBefore(row, name === "bicubic" ? body.firstChild : null);
    }
    return root;
  });
}

function card(model) {
  const { root, name, description } = cut("card");
  name.textContent = model.name;
  description.textContent = model.description;
  for (const one of root.querySelectorAll("[data-fact]")) {
    const value = model[one.dataset.fact];
    if (value == null) one.parentElement.remove();
    else one.textContent = WORDS[one.dataset.fact]?.(value) ?? { true: "yes", false: "no" }[value] ?? value;
  }
  return root;
}
