/** The form for a job: which model, what µm per pixel, and what it will cost. */

import { actions, call, catalog, curl, slide as slideOf, tell } from "./api.js";
import { command, el, fill, picture, trouble } from "./dom.js";
import { needsMpp, scale, thumbnail } from "./slides.js";
import { micrometres, objective, pixels, plural } from "./words.js";

const TILE = 256;

export async function askView(id, query) {
  const [slide, { models, default: usual }] = await Promise.all([slideOf(id), catalog()]);
  const region = (query.get("region") ?? "").split(",").map((text) => Math.round(Number(text)));
  const prefilled = region.length === 4 && region.every((one) => one >= 0);
  const number = (name, label, hint, attributes) => el(
    "label", {}, label, el("input", { type: "number", name, inputmode: "decimal", ...attributes }), hint && el("span", { class: "hint" }, hint),
  );
  const choice = (name, label, options) => el(
    "label", {}, label, el("select", { name }, options.map(([value, text]) => el("option", { value }, text))),
  );
  const targets = el("fieldset", { class: "targets" });
  const about = el("p", { class: "hint" });
  const problem = el("div", { role: "alert" });
  const shell = command("");
  const submit = el("button", { class: "main" }, "Start");
  const mpp = needsMpp(slide) && number(
    "mpp", "Pixel size of the slide, µm per pixel", slide.mpp
      ? `The slide says ${micrometres(slide.mpp[0])}, which no scanner has. Give the true value: about 0.25 for a 40× scan, 0.5 for 20×, 1 for 10×.`
      : "The slide does not say it, and nothing is guessed. About 0.25 for a 40× scan, 0.5 for 20×, 1 for 10×.",
    { required: true, min: 0.001, max: 1000, step: "any" },
  );
  const model = el("select", { name: "model" }, ["network", "interpolation"].map((kind) => el(
    "optgroup", { label: kind === "network" ? "Networks" : "Interpolation, to compare with" },
    models.filter((one) => one.kind === kind).map((one) => el("option", { value: one.name, selected: one.name === usual }, `${one.name} (×${one.scales.join(", ×")})`)),
  )));
  const corner = ["x", "y", "width", "height"].map((name, place) => number(
    name, name, null, { min: place < 2 ? 0 : 1, max: place % 2 ? slide.height : slide.width, step: 1, value: prefilled ? region[place] : null },
  ));
  const form = el(
    "form", { class: "ask", submit: send },
    mpp,
    el("label", {}, "Model", model, about),
    targets,
    el(
      "details", { class: "fold", open: prefilled },
      el("summary", {}, "More choices"),
      el("fieldset", {}, el("legend", {}, "Region in pixels of the slide’s finest level; the whole slide if empty"), el("div", { class: "four" }, corner)),
      el("div", { class: "two" },
        choice("format", "Format", [["ome-tiff", "OME-TIFF, one file"], ["ome-zarr", "OME-Zarr, a folder as .zip"]]),
        number("quality", "JPEG quality of an OME-TIFF", null, { min: 1, max: 100, step: 1, value: 90 }),
        choice("on_bad_tile", "A tile that can’t be read", [["fail", "ends the job"], ["mark", "is filled from a coarser level and listed in the report"]]),
        number("entropy", "Least entropy of tissue, bits", "Flatter tiles are glass and are resampled plainly; 0 takes all.", { min: 0, max: 8, step: "any", placeholder: 3 })),
    ),
    el("h2", {}, "The same from a terminal"), shell.element,
    problem,
    el("div", { class: "actions" }, submit, el("a", { class: "button", href: "#/" }, "Cancel")),
  );
  const value = (name) => form.elements[name]?.value ?? "";
  const asked = () => corner.every((one) => one.querySelector("input").value !== "") ? ["x", "y", "width", "height"].map((name) => Number(value(name))) : null;
  const chosen = () => models.find((one) => one.name === model.value);
  const finest = () => (needsMpp(slide) ? Number(value("mpp")) : slide.mpp[0]);

  /** The results that the model can give: each level of the slide by each scale. */
  function offers() {
    const card = chosen();
    const [, , width, height] = asked() ?? [0, 0, slide.width, slide.height];
    return slide.levels.flatMap(({ downsample }, level) => card.scales.map((factor) => {
      const source = finest() * downsample;
      const across = Math.max(1, Math.round(width / downsample));
      const down = Math.max(1, Math.round(height / downsample));
      const [least, most] = card.source_mpp ?? [0, Infinity];
      return {
        level, source, factor, target: Number((source / factor).toPrecision(6)),
        size: pixels(across * factor, down * factor), tiles: Math.ceil(across / TILE) * Math.ceil(down / TILE),
        fits: source >= least && source <= most,
      };
    })).sort((one, other) => one.target - other.target);
  }

  function showTargets() {
    const card = chosen();
    const range = card.source_mpp && `${micrometres(card.source_mpp[0])} to ${micrometres(card.source_mpp[1])}`;
    const gains = Object.entries(card.metrics).map(([set, of]) => `${of.psnr_y_gain >= 0 ? "+" : "−"}${Math.abs(of.psnr_y_gain)} dB on ${set}`);
    about.textContent = [
      card.description, range && `Trained for sources of ${range}.`, card.brightfield_only && "For brightfield slides alone.",
      card.kind === "network" && gains.length && `Against bicubic: ${gains.join(", ")}.`,
    ].filter(Boolean).join(" ");
    const before = value("target");
    const list = finest() > 0 ? offers() : [];
    const best = list.find((one) => `${one.level} ${one.target}` === before) ?? list.find((one) => one.fits && one.factor === card.default_scale) ?? list.find((one) => one.level === 0 && one.factor === card.default_scale);
    fill(
      targets, el("legend", {}, "Result"),
      list.length ? list.map((one) => el(
        "label", { class: "target" },
        el("input", { type: "radio", name: "target", value: `${one.level} ${one.target}`, checked: one === best }),
        el("span", {},
          el("strong", {}, `${micrometres(one.target)} ≈ ${objective(one.target)}`),
          ` from level ${one.level} (${micrometres(one.source)} ≈ ${objective(one.source)}): ${one.size}, ${plural(one.tiles, "tile")}`,
          !one.fits && el("span", { class: "warning" }, "Outside the range that this model was trained for: the report will warn of it.")),
      )) : el("p", { class: "hint" }, "Give the slide’s pixel size first: what is possible depends on it."),
    );
    showCommand();
  }

  function order() {
    const [level, target] = value("target").split(" ").map(Number);
    return {
      slide: id, model: model.value,
      ...(mpp && { mpp: Number(value("mpp")) }),
      ...(value("target") && { level, target_mpp: target }),
      ...(asked() && { region: asked() }),
      ...(value("format") !== "ome-tiff" && { format: value("format") }),
      ...(value("quality") !== "90" && { quality: Number(value("quality")) }),
      ...(value("on_bad_tile") !== "fail" && { on_bad_tile: value("on_bad_tile") }),
      ...(value("entropy") !== "" && { entropy: Number(value("entropy")) }),
    };
  }

  function showCommand() {
    const some = corner.some((one) => one.querySelector("input").value !== "");
    for (const one of corner) one.querySelector("input").required = some;
    shell.show(curl(actions.ask(order())));
  }

  async function send(event) {
    event.preventDefault();
    submit.disabled = true;
    fill(problem);
    try {
      tell("job", await call(actions.ask(order())));
      location.hash = "#/";
    } catch (error) {
      fill(problem, trouble(error));
    }
    submit.disabled = false;
  }

  form.addEventListener("input", (event) => (event.target.name === "target" ? showCommand() : showTargets()));
  showTargets();
  return el(
    "div", { class: "page narrow" },
    el("h1", { tabindex: "-1" }, "Upscale"),
    el("div", { class: "row" },
      picture(thumbnail(`v1/slides/${id}`, slide), ""),
      el("div", {}, el("h2", {}, slide.name), el("p", { class: "facts" }, `${pixels(slide.width, slide.height)} · ${scale(slide)} · ${plural(slide.levels.length, "level")}`))),
    form,
  );
}
