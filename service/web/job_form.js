/** The form for a new job: model, pixel size and options. */

import { actions, call, catalog, curl, emit, slide as slideOf } from "./api.js";
import { attempt, clone, el, fill } from "./dom.js";
import { commandBlock } from "./row_actions.js";
import { needsMpp, showSlide } from "./slides.js";
import { formatMpp, formatObjective, formatSize, plural } from "./format.js";

const TILE = 256;
const NUMBERS = ["mpp", "quality", "entropy"];

export async function jobFormView(id, query) {
  const [slide, { models }] = await Promise.all([slideOf(id), catalog()]);
  let recommendation = {};
  const { root, form, mpp, stated, model, card, reason, wait, targets, more, regionBox, command, problem, submit, ...about } = clone("job-form");
  const fields = [...regionBox.querySelectorAll("input")];
  const region = () => (fields.every((one) => one.value) ? fields.map((one) => Number(one.value)) : undefined);
  const finest = () => (needsMpp(slide) ? Number(form.elements.mpp.value) : slide.mpp[0]);

  function targetOptions({ source_mpp: range, scales, default_scale: scale }) {
    const [least, most] = range ?? [0, Infinity];
    const [, , width, height] = region() ?? [0, 0, slide.width, slide.height];
    const all = slide.levels.flatMap(({ downsample }, level) => scales.map((factor) => {
      const source = finest() * downsample;
      const [across, down] = [width, height].map((side) => Math.max(1, Math.round(side / downsample)));
      return {
        level, source, target: Number((source / factor).toPrecision(6)), usual: factor === scale,
        fits: source >= least && source <= most,
        size: formatSize(across * factor, down * factor), tiles: Math.ceil(across / TILE) * Math.ceil(down / TILE),
      };
    }));
    return finest() > 0 ? all.sort((one, other) => one.target - other.target) : [];
  }

  function option(one) {
    const { root: label, radio, result, source, outside } = clone("target");
    radio.value = `${one.level} ${one.target}`;
    result.textContent = `${formatMpp(one.target)} ≈ ${formatObjective(one.target)}`;
    source.textContent = `from level ${one.level} (${formatMpp(one.source)} ≈ ${formatObjective(one.source)}): ${one.size}, ${plural(one.tiles, "tile")}`;
    outside.hidden = one.fits;
    return label;
  }

  const selectedModel = () => models.find((one) => one.name === (model.value === "auto" ? recommendation.model : model.value));

  async function updateRecommendation() {
    const given = needsMpp(slide) && form.elements.mpp.value;
    const answer = needsMpp(slide) && !(given > 0) ? {} : await call(actions.recommendation(id, given));
    if (needsMpp(slide) && given !== form.elements.mpp.value) return; // the value has changed meanwhile
    recommendation = answer;
    const before = model.value;
    reason.textContent = [recommendation.reason, ...(recommendation.warnings ?? [])].filter(Boolean).join(" ");
    reason.className = recommendation.model ? "hint" : "warning";
    fill(model, recommendation.model && el("option", { value: "auto" }, `Recommended: ${recommendation.model}`), models.map(({ name, scales, source_mpp: range }) => el(
      "option", { value: name }, `${name}: ×${scales.join(", ×")}${range ? `, for sources of ${range.join(" to ")} µm/px` : ""}`,
    )));
    model.value = [...model.options].some((one) => one.value === before) ? before : model.options[0].value;
    showTargets();
  }

  function showTargets() {
    card.textContent = selectedModel().description;
    const before = form.elements.target?.value;
    const list = targetOptions(selectedModel());
    wait.hidden = list.length > 0;
    fill(targets, list.map(option));
    const radios = [...targets.querySelectorAll("input")];
    const best = model.value === "auto"
      ? list.find((one) => Math.abs(one.target / recommendation.mpp - 1) < 0.01)
      : list.find((one) => one.fits && one.usual) ?? list.find((one) => one.usual);
    const pick = radios.find((one) => one.value === before) ?? radios[list.indexOf(best)];
    if (pick) pick.checked = true;
    showCommand();
  }

  function request() {
    const { target, x, y, width, height, ...given } = Object.fromEntries([...new FormData(form)].filter(([, text]) => text));
    for (const name of NUMBERS) if (given[name]) given[name] = Number(given[name]);
    const [level, targetMpp] = target?.split(" ").map(Number) ?? [];
    return { slide: id, ...given, level, target_mpp: targetMpp, region: region() };
  }

  function showCommand() {
    for (const one of fields) one.required = fields.some((other) => other.value);
    fill(command, commandBlock(curl(actions.submit(request()))));
  }

  form.addEventListener("input", (event) => {
    if (event.target.name === "mpp") attempt(problem, updateRecommendation);
    else if (event.target.name === "target") showCommand();
    else showTargets();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    await attempt(problem, async () => {
      emit("job", await call(actions.submit(request())));
      location.hash = "#/";
    });
    submit.disabled = false;
  });
  showSlide(about, slide);
  if (slide.mpp) stated.textContent = `${formatMpp(slide.mpp[0])}, which is outside the range of scanners`;
  if (!needsMpp(slide)) mpp.remove();
  fields.forEach((one, place) => {
    one.max = place % 2 ? slide.height : slide.width;
    one.value = query.get("region")?.split(",")[place] ?? "";
  });
  more.open = Boolean(region());
  await updateRecommendation();
  return root;
}
