/** The form for a job: which model, what µm per pixel, and what it will cost. */

import { actions, call, catalog, curl, slide as slideOf, tell } from "./api.js";
import { attempt, cut, el, fill } from "./dom.js";
import { command } from "./offer.js";
import { needsMpp, showSlide } from "./slides.js";
import { micrometres, objective, pixels, plural } from "./words.js";

const AUTO = "auto";
const TILE = 256;
const NUMBERS = ["mpp", "quality", "entropy"];

export async function askView(id, query) {
  const [slide, { models }] = await Promise.all([slideOf(id), catalog()]);
  let advice = {};
  const { root, form, mpp, says, model, card, reason, wait, targets, more, corner, shell, problem, submit, ...about } = cut("ask");
  const corners = [...corner.querySelectorAll("input")];
  const region = () => (corners.every((one) => one.value) ? corners.map((one) => Number(one.value)) : undefined);
  const finest = () => (needsMpp(slide) ? Number(form.elements.mpp.value) : slide.mpp[0]);

  function offers({ source_mpp: range, scales, default_scale: scale }) {
    const [least, most] = range ?? [0, Infinity];
    const [, , width, height] = region() ?? [0, 0, slide.width, slide.height];
    const all = slide.levels.flatMap(({ downsample }, level) => scales.map((factor) => {
      const source = finest() * downsample;
      const [across, down] = [width, height].map((side) => Math.max(1, Math.round(side / downsample)));
      return {
        level, source, target: Number((source / factor).toPrecision(6)), usual: factor === scale,
        fits: source >= least && source <= most,
        size: pixels(across * factor, down * factor), tiles: Math.ceil(across / TILE) * Math.ceil(down / TILE),
      };
    }));
    return finest() > 0 ? all.sort((one, other) => one.target - other.target) : [];
  }

  function option(one) {
    const { root: label, radio, result, source, outside } = cut("target");
    radio.value = `${one.level} ${one.target}`;
    result.textContent = `${micrometres(one.target)} ≈ ${objective(one.target)}`;
    source.textContent = `from level ${one.level} (${micrometres(one.source)} ≈ ${objective(one.source)}): ${one.size}, ${plural(one.tiles, "tile")}`;
    outside.hidden = one.fits;
    return label;
  }

  /** The model that would be used: what the service recommends, or the chosen one. */
  const chosen = () => models.find((one) => one.name === (model.value === AUTO ? advice.model : model.value));

  async function advise() {
    const given = needsMpp(slide) && form.elements.mpp.value;
    const found = needsMpp(slide) && !(given > 0) ? {} : await call(actions.recommendation(id, given));
    if (needsMpp(slide) && given !== form.elements.mpp.value) return; // another value was typed meanwhile
    advice = found;
    const before = model.value;
    reason.textContent = [advice.reason, ...(advice.warnings ?? [])].filter(Boolean).join(" ");
    reason.className = advice.model ? "hint" : "warning";
    fill(model, advice.model && el("option", { value: AUTO }, `Recommended: ${advice.model}`), models.map(({ name, scales, source_mpp: range }) => el(
      "option", { value: name }, `${name}: ×${scales.join(", ×")}${range ? `, for sources of ${range.join(" to ")} µm/px` : ""}`,
    )));
    model.value = [...model.options].some((one) => one.value === before) ? before : model.options[0].value;
    showTargets();
  }

  function showTargets() {
    card.textContent = chosen().description;
    const before = form.elements.target?.value;
    const list = offers(chosen());
    wait.hidden = list.length > 0;
    fill(targets, list.map(option));
    const radios = [...targets.querySelectorAll("input")];
    const best = model.value === AUTO
      ? list.find((one) => Math.abs(one.target / advice.mpp - 1) < 0.01)
      : list.find((one) => one.fits && one.usual) ?? list.find((one) => one.usual);
    const pick = radios.find((one) => one.value === before) ?? radios[list.indexOf(best)];
    if (pick) pick.checked = true;
    showCommand();
  }

  function order() {
    const { target, x, y, width, height, ...given } = Object.fromEntries([...new FormData(form)].filter(([, text]) => text));
    for (const name of NUMBERS) if (given[name]) given[name] = Number(given[name]);
    const [level, targetMpp] = target?.split(" ").map(Number) ?? [];
    return { slide: id, ...given, level, target_mpp: targetMpp, region: region() };
  }

  function showCommand() {
    for (const one of corners) one.required = corners.some((other) => other.value);
    fill(shell, command(curl(actions.ask(order()))));
  }

  form.addEventListener("input", (event) => {
    if (event.target.name === "mpp") attempt(problem, advise);
    else if (event.target.name === "target") showCommand();
    else showTargets();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    await attempt(problem, async () => {
      tell("job", await call(actions.ask(order())));
      location.hash = "#/";
    });
    submit.disabled = false;
  });
  showSlide(about, slide);
  if (slide.mpp) says.textContent = `${micrometres(slide.mpp[0])}, which no scanner has`;
  if (!needsMpp(slide)) mpp.remove();
  corners.forEach((one, place) => {
    one.max = place % 2 ? slide.height : slide.width;
    one.value = query.get("region")?.split(",")[place] ?? "";
  });
  more.open = Boolean(region());
  await advise();
  return root;
}
