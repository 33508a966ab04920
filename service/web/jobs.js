/** The list of jobs, their progress and their actions. */

import { actions, call, emit, on, slideName } from "./api.js";
import { announce, attempt, clone, el, fill, namedParts, problemBox, showImage, warnings } from "./dom.js";
import { pagedList } from "./list.js";
import { bindActions } from "./row_actions.js";
import { thumbnail } from "./slides.js";
import { formatBytes, formatCount, formatDate, formatDuration, formatMpp, formatSize, joinFacts } from "./format.js";

export function jobList() {
  const list = pagedList(actions.jobs, "jobs", makeRow);
  on("job", list.put);
  return list.element;
}

function makeRow(job) {
  const parts = clone("job");
  const { root, name, state, bar, status, fold } = parts;
  slideName(job.slide).catch(() => null).then((text) => { name.textContent = text ?? name.dataset.gone; });
  parts.view.href = `#/jobs/${job.id}`;
  parts.report.href = `#/jobs/${job.id}/report`;
  parts.request.textContent = describeRequest(job);
  parts.compare.onclick = () => compare(job);
  bindActions(parts, job.id, async (answer) => emit("job", answer ?? await call(actions.job(job.id))));

  function update(job) {
    const active = document.activeElement; // hiding an element removes its focus
    const words = [job.cancel_requested ? "cancelling" : job.state, job.result && "result"];
    if (state.dataset.state && state.dataset.state !== job.state) announce(`${name.textContent}: ${job.state}`);
    state.dataset.state = job.state;
    state.textContent = job.state;
    bar.hidden = !["running", "paused"].includes(job.state);
    bar.max = job.progress.tiles_total || 1;
    if (job.progress.tiles_total) bar.value = job.progress.tiles_done;
    status.textContent = (job.finished ? describeEnd : describeProgress)(job, status.dataset);
    parts.summary.textContent = job.result?.summary ?? "";
    parts.summary.className = job.result?.few_enhanced ? "warning" : "facts";
    fill(parts.warnings, job.error && problemBox(job.error), warnings(job.warnings));
    for (const one of root.querySelectorAll("[data-when]")) {
      one.hidden = !one.dataset.when.split(" ").some((word) => words.includes(word));
    }
    if (active.hidden && root.contains(active)) fold.firstElementChild.focus();
    fold.dispatchEvent(new Event("toggle")); // update the commands
    showImage(parts.frame, job.result && thumbnail(`v1/jobs/${job.id}/result`, 256, 256));
  }

  update(job);
  return { element: root, update };
}

function describeRequest(job) {
  return joinFacts(
    job.model,
    job.target_mpp ? `to ${formatMpp(job.target_mpp)}` : `level ${job.level ?? 0}`,
    job.region ? `region ${formatSize(job.region[2], job.region[3])}` : job.roi_points ? "region of interest" : "whole slide",
    job.format === "ome-tiff" ? "OME-TIFF" : "OME-Zarr",
  );
}

function describeProgress(job, words) {
  const { tiles_done: done, tiles_total: total, tiles_per_second: speed, eta_seconds: eta } = job.progress;
  const runs = job.state === "running";
  return joinFacts(
    words[job.cancel_requested ? "cancelling" : job.pause_requested ? "pausing" : runs ? job.stage : job.state],
    total > 0 && `${formatCount(done)} of ${formatCount(total)} tiles`,
    runs && speed && `${Number(speed.toPrecision(2))} tiles/s`,
    runs && eta != null && `about ${formatDuration(eta)} left`,
    job.started && `since ${formatDate(job.started)}`,
  );
}

function describeEnd(job, words) {
  return joinFacts(
    formatDate(job.finished),
    job.started && `took ${formatDuration((new Date(job.finished) - new Date(job.started)) / 1000)}`,
    job.state === "succeeded" && (job.result ? formatBytes(job.result.bytes) : words.deleted),
  );
}

function compare(job) {
  const box = document.getElementById("compare");
  const { others, none, close } = namedParts(box);
  close.onclick = () => box.close();
  none.hidden = true;
  box.showModal();
  attempt(others, async () => {
    const results = (await call(actions.finishedJobs(job.slide))).jobs.filter((one) => one.id !== job.id && one.result);
    fill(others, results.map((one) => el("p", { click: () => box.close() }, el("a", { href: `#/compare/${job.id}/${one.id}` }, joinFacts(describeRequest(one), formatDate(one.finished))))));
    none.hidden = results.length > 0;
  });
}
