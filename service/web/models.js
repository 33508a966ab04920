/** The models on offer: their cards, and how each did on slides that none has seen. */

import { actions, catalog, curl } from "./api.js";
import { commands, el } from "./dom.js";
import { count, micrometres } from "./words.js";

const MEASURES = {
  psnr_y: ["PSNR", "dB, of luma; more is better"],
  psnr_y_gain: ["gain", "dB over bicubic at the same scale"],
  ssim_y: ["SSIM", "of luma; 1 is best"],
  ssim_y_gain: ["gain", "over bicubic at the same scale"],
  psnr_rgb: ["PSNR RGB", "dB, of the three colours"],
  ms_ssim: ["MS-SSIM", "SSIM at several scales; 1 is best"],
  qilv: ["QILV", "likeness of local sharpness; 1 is best, blur lowers it"],
  rrmse: ["RRMSE", "relative error; less is better"],
  consistency_p5: ["consistency", "dB between the result, reduced again, and its source; 95 % of the images do better"],
  nuclei_f1: ["nuclei F1", "nuclei found where the sharp image has them; 1 is best"],
  stain_angle: ["stain turn", "degrees by which a stain’s colour turns; less is better"],
  seconds_per_megapixel: ["s/Mpx", "seconds for a million pixels of the result on two CPU cores"],
};
const FACTS = {
  kind: "Kind", architecture: "Architecture", parameters: "Parameters", scales: "Enlarges", source_mpp: "Trained for sources of",
  brightfield_only: "Brightfield only", exact: "Tiles join without a seam", seam: "Seam", back_projection: "Held to its source by back-projection",
  recipe: "Recipe", iterations: "Iterations", degradation: "Degradation", trained_on: "Trained on", licence: "Licence",
  citation: "Citation", notes: "Notes", commit: "Commit", sha256: "SHA-256 of the weights",
};
const WORDS = {
  scales: (all) => all.map((one) => `×${one}`).join(", "),
  source_mpp: ([least, most]) => `${micrometres(least)} to ${micrometres(most)}`,
  parameters: count,
  iterations: count,
};

export async function modelsView() {
  const { models, default: usual } = await catalog();
  const sets = [...new Set(models.flatMap((one) => Object.keys(one.metrics)))];
  return el(
    "div", { class: "page" },
    el("h1", { tabindex: "-1" }, "Models"),
    el("p", {}, "Measured on held-out images: the sharp image is reduced, enlarged by the model, and compared. Values of different scales do not compare; a gain is over bicubic at the model’s own scale."),
    sets.map((set) => table(set, models.filter((one) => one.metrics[set]))),
    el("dl", { class: "measures" }, Object.values(MEASURES).map(([name, meaning]) => el("div", {}, el("dt", {}, name), el("dd", {}, meaning)))),
    el("ul", { class: "cards" }, models.map((one) => card(one, one.name === usual))),
    commands([["All of it as JSON", curl(actions.models())]]),
  );
}

function table(set, models) {
  const sorted = [...models].sort((one, other) => (other.name === "bicubic") - (one.name === "bicubic"));
  const heads = Object.values(MEASURES).map(([name, meaning]) => el("th", { scope: "col", title: meaning }, name));
  return el(
    "div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Evaluation on ${set}` },
    el(
      "table", {},
      el("caption", {}, `Evaluation on ${set}`),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "model"), el("th", { scope: "col" }, "scale"), heads)),
      el("tbody", {}, sorted.map((one) => el(
        "tr", { class: one.name === "bicubic" && "baseline" },
        el("th", { scope: "row" }, one.name),
        el("td", {}, `×${one.default_scale}`),
        Object.keys(MEASURES).map((name) => el("td", {}, one.metrics[set][name] ?? "–")),
      ))),
    ),
  );
}

function card(model, usual) {
  const facts = Object.entries(FACTS).filter(([name]) => model[name] != null);
  const said = (name, value) => WORDS[name]?.(value) ?? (value === true ? "yes" : value === false ? "no" : String(value));
  return el(
    "li", { class: "card" },
    el("h2", {}, model.name, usual && el("span", { class: "state" }, "default")),
    el("p", {}, model.description),
    el("dl", {}, facts.map(([name, label]) => [el("dt", {}, label), el("dd", {}, said(name, model[name]))])),
  );
}
