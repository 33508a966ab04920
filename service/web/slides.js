/** The list of uploaded slides. */

import { actions, cacheRecord, on } from "./api.js";
import { clone, showImage, warnings } from "./dom.js";
import { pagedList } from "./list.js";
import { bindActions } from "./row_actions.js";
import { formatBytes, formatDate, formatMpp, formatObjective, formatSize, joinFacts } from "./format.js";

/** Thumbnail address: level 8 of a Deep Zoom pyramid has 129 to 256 pixels. */
export function thumbnail(image, width, height) {
  return `${image}_files/${Math.min(8, Math.ceil(Math.log2(Math.max(width, height))))}/0_0.jpeg`;
}

export const needsMpp = (slide) => !slide.mpp || slide.mpp.some((one) => one < 0.05 || one > 20);

export function showSlide({ frame, name, about }, slide) {
  showImage(frame, thumbnail(`v1/slides/${slide.id}`, slide.width, slide.height));
  name.textContent = slide.name;
  about.textContent = joinFacts(
    formatSize(slide.width, slide.height),
    needsMpp(slide) ? "pixel size not known" : `${formatMpp(slide.mpp[0])} ≈ ${formatObjective(slide.mpp[0])}`,
    slide.objective && `scanned at ${slide.objective}×`,
    slide.vendor, formatBytes(slide.bytes), formatDate(slide.created),
  );
}

export function slideList() {
  const list = pagedList(actions.slides, "slides", (slide) => makeRow(slide, () => list.remove(slide.id)));
  on("slide", list.put);
  return list.element;
}

function makeRow(slide, onDeleted) {
  const parts = clone("slide");
  cacheRecord(slide);
  showSlide(parts, slide);
  parts.warnings.append(...warnings(slide.warnings));
  parts.view.href = `#/slides/${slide.id}`;
  parts.upscale.href = `#/slides/${slide.id}/upscale`;
  bindActions(parts, slide.id, onDeleted);
  return { element: parts.root, update() {} };
}
