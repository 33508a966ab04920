/** The report of a job: its key figures, and the page that the service wrote with the result. */

import { actions, call } from "./api.js";
import { cut } from "./dom.js";
import { printWhenOpened } from "./offer.js";
import { count, duration } from "./words.js";

export async function reportView(id) {
  const { model, tiles, seam, seconds } = await call(actions.report(id));
  const parts = cut("report");
  const figures = {
    model: model.name,
    tiles: `${count(tiles.total)}, ${count(tiles.tissue)} with tissue`,
    bad: count(tiles.bad.length),
    consistency: tiles.consistency && `${tiles.consistency.median.toFixed(2)} grey levels`,
    seam: seam?.figure?.toFixed(3),
    took: duration(seconds),
  };
  for (const [name, value] of Object.entries(figures)) {
    if (value == null) parts[name].parentElement.remove();
    else parts[name].textContent = value;
  }
  parts.look.href = `#/jobs/${id}`;
  parts.page.src = actions.reportPage(id).path;
  printWhenOpened(parts.fold, () => [["As JSON", actions.report(id)], ["As a page", actions.reportPage(id)]]);
  return parts.root;
}
