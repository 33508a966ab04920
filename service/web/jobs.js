/** The jobs: where each stands, and what can be done with it. */

import { actions, call, on, slideName, tell } from "./api.js";
import { announce, attempt, cut, el, fill, partsOf, showPicture, trouble, warnings } from "./dom.js";
import { pagedList } from "./list.js";
import { offer } from "./offer.js";
import { thumbnail } from "./slides.js";
import { count, duration, facts, micrometres, moment, pixels, size } from "./words.js";

export function jobList() {
  const list = pagedList(actions.jobs, "jobs", makeRow);
  on("job", list.put);
  return list.element;
}

function makeRow(job) {
  const parts = cut("job");
  const { root, name, state, bar, told, fold } = parts;
  slideName(job.slide).catch(() => null).then((text) => { name.textContent = text ?? name.dataset.gone; });
  parts.look.href = `#/jobs/${job.id}`;
  parts.report.href = `#/jobs/${job.id}/report`;
  parts.asked.textContent = order(job);
  parts.compare.onclick = () => compare(job);
  offer(parts, job.id, async (answer) => tell("job", answer ?? await call(actions.job(job.id))));

  function update(now) {
    const active = document.activeElement; // now: what is hidden loses the focus
    const words = [now.cancel_requested ? "leaving" : now.state, now.result && "result"];
    if (state.dataset.state && state.dataset.state !== now.state) announce(`${name.textContent}: ${now.state}`);
    state.dataset.state = now.state;
    state.textContent = now.state;
    bar.hidden = !["running", "paused"].includes(now.state);
    bar.max = now.progress.tiles_total || 1;
    if (now.progress.tiles_total) bar.value = now.progress.tiles_done;
    told.textContent = (now.finished ? ending : standing)(now, told.dataset);
    parts.summary.textContent = now.result?.summary ?? "";
    parts.summary.className = now.result?.few_enhanced ? "warning" : "facts";
    fill(parts.warnings, now.error && trouble(now.error), warnings(now.warnings));
    for (const one of root.querySelectorAll("[data-when]")) {
      one.hidden = !one.dataset.when.split(" ").some((word) => words.includes(word));
    }
    if (active.hidden && root.contains(active)) fold.firstElementChild.focus();
    fold.dispatchEvent(new Event("toggle")); // other commands fit now
    showPicture(parts.frame, now.result && thumbnail(`v1/jobs/${now.id}/result`, 256, 256));
  }

  update(job);
  return { element: root, update };
}

function order(job) {
  return facts(
    job.model,
    job.target_mpp ? `to ${micrometres(job.target_mpp)}` : `level ${job.level ?? 0}`,
    job.region ? `region ${pixels(job.region[2], job.region[3])}` : job.roi_points ? "region of interest" : "whole slide",
    job.format === "ome-tiff" ? "OME-TIFF" : "OME-Zarr",
  );
}

function standing(job, words) {
  const { tiles_done: done, tiles_total: total, tiles_per_second: speed, eta_seconds: eta } = job.progress;
  const runs = job.state === "running";
  return facts(
    words[job.cancel_requested ? "leaving" : job.pause_requested ? "pausing" : runs ? job.stage : job.state],
    total > 0 && `${count(done)} of ${count(total)} tiles`,
    runs && speed && `${Number(speed.toPrecision(2))} tiles/s`,
    runs && eta != null && `about ${duration(eta)} left`,
    job.started && `since ${moment(job.started)}`,
  );
}

function ending(job, words) {
  return facts(
    moment(job.finished),
    job.started && `took ${duration((new Date(job.finished) - new Date(job.started)) / 1000)}`,
    job.state === "succeeded" && (job.result ? size(job.result.bytes) : words.deleted),
  );
}

function compare(job) {
  const box = document.getElementById("compare");
  const { others, none, close } = partsOf(box);
  close.onclick = () => box.close();
  none.hidden = true;
  box.showModal();
  attempt(others, async () => {
    const found = (await call(actions.finishedJobs(job.slide))).jobs.filter((one) => one.id !== job.id && one.result);
    fill(others, found.map((one) => el("p", { click: () => box.close() }, el("a", { href: `#/compare/${job.id}/${one.id}` }, facts(order(one), moment(one.finished))))));
    none.hidden = found.length > 0;
  });
}
