/** The report of a job: its key figures, and the page that the service wrote with the result. */

import { actions, address, call, curl } from "./api.js";
import { commands, el } from "./dom.js";
import { count, duration } from "./words.js";

export async function reportView(id) {
  const { model, tiles, seam, seconds } = await call(actions.report(id));
  const figures = {
    Model: model.name,
    Tiles: `${count(tiles.total)}, ${count(tiles.tissue)} with tissue`,
    "Unreadable tiles": tiles.bad.length,
    "Agreement with the source": tiles.consistency && `${tiles.consistency.median.toFixed(2)} grey levels RMSE`,
    "Seam (1: none)": seam?.figure?.toFixed(3),
    Time: duration(seconds),
  };
  return el(
    "div", { class: "page report" },
    el("h1", { tabindex: "-1" }, "Report"),
    el("dl", { class: "figures" }, Object.entries(figures).filter(([, value]) => value != null).map(
      ([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value))),
    )),
    el("div", { class: "actions" }, el("a", { class: "button main", href: `#/jobs/${id}` }, "Look at the result"), el("a", { class: "button", href: "#/" }, "Back to work")),
    el("iframe", { title: `Report of job ${id}`, src: address(actions.reportPage(id)) }),
    commands([["The report as JSON", curl(actions.report(id))], ["The report as a page", curl(actions.reportPage(id))]]),
  );
}
