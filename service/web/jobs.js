/** The jobs: where each stands, and what can be done with it. */

import { actions, call, curl, may, onJob, slide as slideOf, tell } from "./api.js";
import { announce, commands, confirmed, dialog, el, fill, picture, trouble } from "./dom.js";
import { pagedList } from "./list.js";
import { thumbnail } from "./slides.js";
import { count, duration, micrometres, moment, pixels, size } from "./words.js";

const STAGES = {
  opening: "opening the slide", planning: "finding the tissue", upscaling: "upscaling",
  joining: "joining the pyramid", verifying: "reading the result back",
};
const MARKS = { queued: "○", running: "▶", paused: "Ⅱ", succeeded: "✓", failed: "✕", cancelled: "–" };
const FINISHED = ["succeeded", "failed", "cancelled"];

export function jobList() {
  const list = pagedList({
    label: "Jobs",
    page: actions.jobs,
    member: "jobs",
    makeRow: row,
    empty: el("p", { class: "empty" }, "No jobs yet. Choose “Upscale…” at a slide."),
  });
  onJob(list.put);
  return list.element;
}

function row(job) {
  const name = el("h3", {}, "…");
  const state = el("span", { class: "state" });
  const about = el("p", { class: "facts" });
  const progress = el("div", { class: "progress" });
  const bar = el("progress", { "aria-label": "Tiles done" });
  const told = el("p", { class: "facts" });
  const rest = el("div");
  const frame = el("div", {}, picture(null, ""));
  const element = el("li", { class: "row" }, frame, el("div", {}, el("div", { class: "head" }, name, state), about, progress, rest));
  let shown = null;
  slideOf(job.slide).then((one) => one.name, () => "A slide that was deleted").then((text) => { name.textContent = text; });

  function update(now) {
    const { tiles_done: done, tiles_total: total } = now.progress;
    if (total) bar.max = total;
    if (total) bar.value = done;
    else bar.removeAttribute("value");
    fill(progress, !FINISHED.includes(now.state) && [now.state !== "queued" && bar, told]);
    told.textContent = standing(now);
    const key = [now.state, now.cancel_requested, now.pause_requested, now.warnings.length, now.result?.sha256].join();
    if (key === shown) return;
    if (shown && now.state !== job.state) announce(`${name.textContent}: ${now.state}`);
    shown = key;
    job = now;
    state.dataset.state = now.state;
    fill(state, el("span", { "aria-hidden": "true" }, MARKS[now.state]), ` ${now.state}`);
    about.textContent = order(now);
    const focused = rest.contains(document.activeElement);
    fill(rest, details(now, name.textContent));
    if (focused) rest.querySelector("button, a")?.focus();
    fill(frame, picture(now.result && thumbnail(`v1/jobs/${now.id}/result`, { width: 256, height: 256 }), ""));
  }

  update(job);
  return { element, update };
}

/** What was asked. */
function order(job) {
  return [
    job.model,
    job.target_mpp ? `to ${micrometres(job.target_mpp)}` : `level ${job.level ?? 0}`,
    job.region ? `region ${pixels(job.region[2], job.region[3])}` : job.roi_points ? "region of interest" : "whole slide",
    job.format === "ome-tiff" ? "OME-TIFF" : "OME-Zarr",
  ].join(" · ");
}

/** Where an unfinished job stands. */
function standing(job) {
  const { tiles_done: done, tiles_total: total, tiles_per_second: speed, eta_seconds: eta } = job.progress;
  return [
    job.cancel_requested ? "is being cancelled" : job.pause_requested ? "is being paused" : job.state === "queued" ? "waits for a worker" : STAGES[job.stage],
    total > 0 && `${count(done)} of ${count(total)} tiles`,
    speed && `${speed >= 10 ? Math.round(speed) : speed.toFixed(1)} tiles/s`,
    eta != null && job.state === "running" && `about ${duration(eta)} left`,
    job.started && `since ${moment(job.started)}`,
  ].filter(Boolean).join(" · ");
}

function details(job, name) {
  const problem = el("div", { role: "alert" });
  const attempt = async (action) => {
    try {
      const answer = await call(action);
      tell("job", answer ?? await call(actions.job(job.id)));
    } catch (error) {
      fill(problem, trouble(error));
    }
  };
  const button = (word, make, kind = "") => may("write") && el("button", { type: "button", class: kind, click: () => attempt(make(job.id)) }, word);
  const link = (word, href, kind = "", extra = {}) => el("a", { class: `button ${kind}`, href, ...extra }, word);
  const remove = async () => {
    if (await confirmed("Delete this result?", "The image, its page and its outlines are deleted; the job and its report stay.", "Delete result")) attempt(actions.deleteResult(job.id));
  };
  const file = `${job.id}.ome.${job.format === "ome-tiff" ? "tiff" : "zarr.zip"}`;
  const told = { Pause: actions.pause, Resume: actions.resume, Cancel: actions.cancel, Retry: actions.retry };
  const moves = {
    queued: ["Pause", "Cancel"], running: ["Pause", "Cancel"], paused: ["Resume", "Cancel"],
    failed: ["Retry"], cancelled: ["Retry"], succeeded: [],
  }[job.cancel_requested ? "succeeded" : job.state].filter((word) => word !== "Pause" || !job.pause_requested);
  const has = job.result;
  return [
    job.finished && el("p", { class: "facts" }, [
      moment(job.finished), job.started && `took ${duration((new Date(job.finished) - new Date(job.started)) / 1000)}`,
      has ? size(has.bytes) : job.state === "succeeded" && "the result was deleted",
    ].filter(Boolean).join(" · ")),
    job.error && trouble(job.error),
    job.warnings.map((one) => el("p", { class: "warning" }, one)),
    el(
      "div", { class: "actions" },
      has && [
        link("Look", `#/jobs/${job.id}`, "main"),
        el("button", { type: "button", click: () => compare(job) }, "Compare…"),
        link("Download", actions.result(job.id).path, "", { download: file }),
      ],
      job.report_html && link("Report", `#/jobs/${job.id}/report`),
      moves.map((word) => button(word, told[word])),
      has && may("write") && el("button", { type: "button", class: "quiet", click: remove }, "Delete result"),
    ),
    problem,
    has && el(
      "details", { class: "fold" },
      el("summary", {}, "Open in QuPath"),
      el("p", {}, job.format === "ome-tiff" ? "Download the file and drag it into QuPath: it has its pixel size and its pyramid." : "Download the file, unpack it, and drag the folder into QuPath: it has its pixel size and its pyramid."),
      el("p", {}, "Then drop ", el("a", { href: actions.tissue(job.id).path, download: actions.tissue(job.id).file }, "the outlines of the tissue"), " on the open image."),
    ),
    commands([
      ["Where it stands", curl(actions.job(job.id))],
      ...moves.map((word) => [word, curl(told[word](job.id))]),
      ...(has ? [["Download the result", curl(actions.result(job.id, file))], ["Outlines of the tissue", curl(actions.tissue(job.id))], ["Delete the result", curl(actions.deleteResult(job.id))]] : []),
      ...(job.report ? [["The report", curl(actions.report(job.id))]] : []),
    ]),
  ];
}

/** Choose another result of the same slide to lay over this one. */
async function compare(job) {
  const content = el("div", {}, "…");
  const box = dialog("Compare with", content, el("div", { class: "actions" }, el("button", { type: "button", click: () => box.close() }, "Close")));
  try {
    const others = (await call(actions.finishedJobs(job.slide))).jobs.filter((one) => one.id !== job.id && one.result);
    fill(content, others.length
      ? el("ul", { class: "choices" }, others.map((one) => el("li", {}, el("a", { href: `#/compare/${job.id}/${one.id}`, click: () => box.close() }, `${order(one)} · ${moment(one.finished)}`))))
      : el("p", {}, "This slide has no other result yet. Upscale it with another model, and compare then."));
  } catch (error) {
    fill(content, trouble(error));
  }
}
