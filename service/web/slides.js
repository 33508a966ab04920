/** The slides that were uploaded. */

import { actions, on, remember } from "./api.js";
import { cut, showPicture, warnings } from "./dom.js";
import { pagedList } from "./list.js";
import { offer } from "./offer.js";
import { facts, micrometres, moment, objective, pixels, size } from "./words.js";

/** One small picture of a whole image: level 8 of a Deep Zoom pyramid has 129 to 256 pixels. */
export function thumbnail(image, width, height) {
  return `${image}_files/${Math.min(8, Math.ceil(Math.log2(Math.max(width, height))))}/0_0.jpeg`;
}

export const needsMpp = (slide) => !slide.mpp || slide.mpp.some((one) => one < 0.05 || one > 20);

export function showSlide({ frame, name, about }, slide) {
  showPicture(frame, thumbnail(`v1/slides/${slide.id}`, slide.width, slide.height));
  name.textContent = slide.name;
  about.textContent = facts(
    pixels(slide.width, slide.height),
    needsMpp(slide) ? "pixel size not known" : `${micrometres(slide.mpp[0])} ≈ ${objective(slide.mpp[0])}`,
    slide.objective && `scanned at ${slide.objective}×`,
    slide.vendor, size(slide.bytes), moment(slide.created),
  );
}

export function slideList() {
  const list = pagedList(actions.slides, "slides", (slide) => row(slide, () => list.remove(slide.id)));
  on("slide", list.put);
  return list.element;
}

function row(slide, gone) {
  const parts = cut("slide");
  remember(slide);
  showSlide(parts, slide);
  parts.warnings.append(...warnings(slide.warnings));
  parts.look.href = `#/slides/${slide.id}`;
  parts.upscale.href = `#/slides/${slide.id}/upscale`;
  offer(parts, slide.id, gone);
  return { element: parts.root, update() {} };
}
