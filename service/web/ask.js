/** The form for a job: which model, what µm per pixel, and what it will cost. */

import { actions, call, catalog, slide as slideOf, curl, tell } from "./api.js";
import { attempt, cut, el, fill } from "./dom.js";
import { command } from "./offer.js";
import { needsMpp, showSlide } from "./slides.js";
import { micrometres, objective, pixels, plural } from "./words.js";

const TILE = 256;
const NUMBERS = ["mpp", "quality", "entropy"];

export async function askView(id, query) {
  const [slide, { models, default: usual }] = await Promise.all([slideOf(id), catalog()]);
  const parts = cut("ask");
  const { form, model, targets, problem, submit } = parts;
  const corner = [...parts.corner.querySelectorAll("input")];
  const unsure = needsMpp(slide);
  const region = () => (corner.every((one) => one.value) ? corner.map((one) => Number(one.value)) : null);
  const finest = () => (unsure ? Number(form.elements.mpp.value) : slide.mpp[0]);
  const chosen = () => models.find((one) => one.name === model.value);

  /** The results that a model can give: each level of the slide by each of its scales. */
  function offers(card) {
    const [, , width, height] = region() ?? [0, 0, slide.width, slide.height];
    const [least, most] = card.source_mpp ?? [0, Infinity];
    const all = slide.levels.flatMap(({ downsample }, level) => card.scales.map((factor) => {
      const source = finest() * downsample;
      const across = Math.max(1, Math.round(width / downsample));
      const down = Math.max(1, Math.round(height / downsample));
      const target = Number((source / factor).toPrecision(6));
      return {
        value: `${level} ${target}`, level, source, target, usual: factor === card.default_scale,
        size: pixels(across * factor, down * factor), tiles: Math.ceil(across / TILE) * Math.ceil(down / TILE),
        fits: source >= least && source <= most,
      };
    }));
    return finest() > 0 ? all.sort((one, other) => one.target - other.target) : [];
  }

  function showTargets() {
    const card = chosen();
    const gains = Object.entries(card.metrics).map(([set, { psnr_y_gain: gain }]) => `${gain < 0 ? "−" : "+"}${Math.abs(gain)} dB on ${set}`);
    parts.card.textContent = [
      card.description,
      card.source_mpp && `Trained for sources of ${card.source_mpp.join(" to ")} µm/px.`,
      card.brightfield_only && "For brightfield slides alone.",
      card.kind === "network" && gains.length && `PSNR against bicubic: ${gains.join(", ")}.`,
    ].filter(Boolean).join(" ");
    const before = new FormData(form).get("target");
    const list = offers(card);
    const best = list.find((one) => one.value === before) ?? list.find((one) => one.fits && one.usual) ?? list.find((one) => one.usual);
    fill(targets, list.map((one) => el(
      "label", { class: "target" },
      el("input", { type: "radio", name: "target", value: one.value, checked: one === best }),
      el("span", {},
        el("strong", {}, `${micrometres(one.target)} ≈ ${objective(one.target)}`),
        ` from level ${one.level} (${micrometres(one.source)} ≈ ${objective(one.source)}): ${one.size}, ${plural(one.tiles, "tile")}`,
        !one.fits && el("span", { class: "warning" }, "Outside the range that this model was trained for; the report will say so.")),
    )));
    if (!list.length) targets.textContent = "What is possible depends on the slide’s pixel size: give it first.";
    showCommand();
  }

  /** The form as the service takes it: empty fields stay out. */
  function order() {
    const { target, x, y, width, height, ...given } = Object.fromEntries([...new FormData(form)].filter(([, text]) => text));
    for (const name of NUMBERS) if (given[name]) given[name] = Number(given[name]);
    const [level, mpp] = (target ?? "").split(" ").map(Number);
    return { slide: id, ...given, ...(target && { level, target_mpp: mpp }), ...(region() && { region: region() }) };
  }

  function showCommand() {
    const some = corner.some((one) => one.value);
    for (const one of corner) one.required = some;
    fill(parts.shell, command(curl(actions.ask(order()))));
  }

  async function send(event) {
    event.preventDefault();
    submit.disabled = true;
    await attempt(problem, async () => {
      tell("job", await call(actions.ask(order())));
      location.hash = "#/";
    });
    submit.disabled = false;
  }

  showSlide(parts, slide);
  if (!unsure) parts.mpp.remove();
  parts.why.textContent = slide.mpp ? `The slide says ${micrometres(slide.mpp[0])}, which no scanner has.` : "The slide does not say it.";
  corner.forEach((one, place) => {
    one.max = place % 2 ? slide.height : slide.width;
    one.value = (query.get("region") ?? "").split(",")[place] ?? "";
  });
  parts.more.open = region() !== null;
  const suited = [models.find((one) => one.name === usual), ...models].find((card) => offers(card).some((one) => one.fits));
  fill(model, models.map((one) => el(
    "option", { value: one.name, selected: one.name === (suited?.name ?? usual) },
    `${one.name}: ×${one.scales.join(", ×")}${one.source_mpp ? `, for sources of ${one.source_mpp.join(" to ")} µm/px` : ""}`,
  )));
  form.addEventListener("input", (event) => (event.target.name === "target" ? showCommand() : showTargets()));
  form.addEventListener("submit", send);
  showTargets();
  return parts.root;
}
