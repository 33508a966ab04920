/** The slides that were uploaded. */

import { actions, call, curl, may, on, remember } from "./api.js";
import { commands, confirmed, el, fill, picture, trouble } from "./dom.js";
import { pagedList } from "./list.js";
import { micrometres, moment, objective, pixels, size } from "./words.js";

/** Address of one small picture of a whole image: level 8 of a Deep Zoom pyramid has 129 to 256 pixels. */
export function thumbnail(image, { width, height }) {
  return `${image}_files/${Math.min(8, Math.ceil(Math.log2(Math.max(width, height))))}/0_0.jpeg`;
}

export const needsMpp = (slide) => !slide.mpp || slide.mpp.some((one) => one < 0.05 || one > 20);

export const scale = (slide) => (needsMpp(slide) ? "pixel size not known" : `${micrometres(slide.mpp[0])} (≈ ${objective(slide.mpp[0])})`);

export function slideList() {
  const list = pagedList({
    label: "Slides",
    page: actions.slides,
    member: "slides",
    makeRow: (slide) => row(slide, () => list.remove(slide.id)),
    empty: el("p", { class: "empty" }, "No slides yet. Drop one above to begin: it stays on this service until you delete it."),
  });
  on("slide", list.put);
  return list.element;
}

function row(slide, gone) {
  remember(slide);
  const problem = el("div", { role: "alert" });
  const remove = async () => {
    if (!await confirmed(`Delete ${slide.name}?`, "The slide is deleted for good. Results made of it stay.", "Delete slide")) return;
    try {
      await call(actions.deleteSlide(slide.id));
      gone();
    } catch (error) {
      fill(problem, trouble(error));
    }
  };
  const facts = [
    pixels(slide.width, slide.height), scale(slide), slide.objective && `scanned at ${slide.objective}×`,
    slide.vendor, size(slide.bytes), moment(slide.created),
  ];
  const element = el(
    "li", { class: "row" },
    picture(thumbnail(`v1/slides/${slide.id}`, slide), ""),
    el(
      "div", {},
      el("h3", {}, slide.name),
      el("p", { class: "facts" }, facts.filter(Boolean).join(" · ")),
      slide.warnings.map((one) => el("p", { class: "warning" }, one)),
      el(
        "div", { class: "actions" },
        may("write") && el("a", { class: "button main", href: `#/slides/${slide.id}/upscale`, "aria-label": `Upscale ${slide.name}` }, "Upscale…"),
        el("a", { class: "button", href: `#/slides/${slide.id}`, "aria-label": `Look at ${slide.name}` }, "Look"),
        may("write") && el("button", { type: "button", class: "quiet", click: remove, "aria-label": `Delete ${slide.name}` }, "Delete"),
      ),
      problem,
      commands([["Its facts", curl(actions.slide(slide.id))], ["Delete it", curl(actions.deleteSlide(slide.id))]]),
    ),
  );
  return { element, update() {} };
}
