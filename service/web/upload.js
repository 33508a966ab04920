/** Uploads that survive a broken line and a reload: pieces of 8 MiB by tus, one file at a time. */

import { actions, address, call, curl, may, on, PAGE_HEADERS, Problem, problemOf, tell } from "./api.js";
import { announce, commands, el, fill, trouble } from "./dom.js";
import { duration, size } from "./words.js";

const PIECE_BYTES = 8 * 2 ** 20;
const RETRY_MS = [0, 1000, 3000, 5000, 10000, ...Array(60).fill(15000)];
const WORTH_A_RETRY = [0, 409, 423, 429, 460, 500, 502, 503, 504];

const waiting = [];
let running = null;

export function uploadPanel() {
  const list = el("ul", { class: "rows", "aria-label": "Uploads" });
  const take = (files) => {
    for (const file of files) list.append(transfer(file));
    next();
  };
  const chooser = el("input", { type: "file", multiple: true, hidden: true, change: () => { take([...chooser.files]); chooser.value = ""; } });
  const area = el(
    "div", {
      class: "drop",
      dragover: (event) => { event.preventDefault(); area.classList.add("over"); },
      dragleave: () => area.classList.remove("over"),
      drop: (event) => { event.preventDefault(); area.classList.remove("over"); take(event.dataTransfer.files); },
    },
    el("p", {}, "Drop slides here, or ", el("button", { type: "button", class: "main", click: () => chooser.click() }, "Choose files…"), chooser),
    el("p", { class: "hint" }, "SVS, NDPI, SCN, BIF, TIFF, DICOM and more. Slides of several files (MRXS, VMS, a DICOM series): as one .zip or .tar."),
    commands([["The same from a terminal", curl(actions.addSlide("slide.svs"))]]),
  );
  window.addEventListener("beforeunload", (event) => { if (running) event.preventDefault(); });
  unfinished().then((names) => {
    if (names.length) area.append(el("p", { class: "notice" }, `Unfinished: ${names.join(", ")}. Choose the file again, and the upload goes on where it stopped.`));
  });
  return may("write") && el("div", {}, area, list);
}

/** Names of what a reload interrupted; what the service has forgotten is forgotten here. */
async function unfinished() {
  const names = [];
  for (const one of await tus.defaultOptions.urlStorage.findAllUploads()) {
    const facts = await call(actions.upload(one.uploadUrl.split("/").at(-1))).catch((error) => error);
    if (facts.state === "arriving") names.push(one.metadata.filename);
    else if (facts.code !== "unreachable") await tus.defaultOptions.urlStorage.removeUpload(one.urlStorageKey);
  }
  return names;
}

function next() {
  if (!running) (running = waiting.shift() ?? null)?.start();
}

/** One file's row, and what drives it. */
function transfer(file) {
  const bar = el("progress", { max: file.size || 1, value: 0, "aria-label": `Upload of ${file.name}` });
  const told = el("p", { class: "facts" }, "Waiting");
  const pause = el("button", { type: "button", click: () => (paused ? go() : hold()) }, "Pause");
  const drop = el("button", { type: "button", click: giveUp }, "Abort");
  const problem = el("div", { role: "alert" });
  const row = el("li", { class: "row upload" }, el("h3", {}, file.name), bar, told, el("div", { class: "actions" }, pause, drop), problem);
  let paused = false;
  let speed = null;
  let last = null;
  let quarter = 0;

  const upload = new tus.Upload(file, {
    endpoint: address(actions.uploads()),
    chunkSize: PIECE_BYTES,
    headers: PAGE_HEADERS,
    metadata: { filename: file.name },
    retryDelays: RETRY_MS,
    removeFingerprintOnSuccess: true,
    onShouldRetry: (error) => {
      const status = error.originalResponse?.getStatus() ?? 0;
      if (!status) tell("unreachable");
      told.textContent = "The line is broken; it is tried again";
      last = null;
      return WORTH_A_RETRY.includes(status);
    },
    onProgress: show,
    onSuccess: ({ lastResponse }) => land(lastResponse?.getHeader("Slide-Id")),
    onError: async (error) => {
      const answer = error.originalResponse;
      fail(answer?.getStatus() ? await problemOf(answer.getStatus(), () => JSON.parse(answer.getBody())) : new Problem({ title: "The upload stopped", detail: "The line stayed broken, or the file can't be read any more." }));
    },
  });

  function show(sent, total) {
    const now = performance.now() / 1000;
    if (last && now > last.time) {
      const rate = (sent - last.sent) / (now - last.time);
      speed = speed === null ? rate : speed + (rate - speed) * Math.min(1, (now - last.time) / 5);
    }
    last = { sent, time: now };
    bar.value = sent;
    const left = speed > 0 ? `, ${size(speed)}/s, ${duration((total - sent) / speed)} left` : "";
    told.textContent = sent < total ? `${size(sent)} of ${size(total)}${left}` : "All is there; the service looks into the slide";
    if (Math.floor((4 * sent) / total) > quarter) {
      quarter = Math.floor((4 * sent) / total);
      announce(`${file.name}: ${quarter * 25} % uploaded`);
    }
  }

  async function go() {
    paused = false;
    fill(problem);
    pause.textContent = "Pause";
    told.textContent = "Begins";
    last = null;
    const [before] = await upload.findPreviousUploads();
    if (before && !upload.url) upload.resumeFromPreviousUpload(before);
    upload.start();
  }

  function hold() {
    paused = true;
    upload.abort();
    pause.textContent = "Continue";
    told.textContent = "Paused; what has arrived stays for a day";
    leave();
  }

  function fail(error) {
    paused = true;
    pause.textContent = "Try again";
    told.textContent = "Stopped";
    fill(problem, trouble(error));
    leave();
  }

  async function land(id) {
    try {
      if (!id) { // its answer was lost: the service knows
        let facts;
        do facts = await call(actions.upload(upload.url.split("/").at(-1))); while (facts.state === "checking");
        if (facts.error) throw new Problem(facts.error);
        id = facts.slide;
      }
      tell("slide", await call(actions.slide(id)));
      announce(`${file.name} is uploaded`);
      row.remove();
      leave();
    } catch (error) {
      fail(error);
    }
  }

  async function giveUp() {
    await upload.abort(Boolean(upload.url)).catch(() => {});
    waiting.splice(0, waiting.length, ...waiting.filter((one) => one !== mine));
    row.remove();
    leave();
  }

  function leave() {
    if (running === mine) running = null;
    next();
  }

  on("returned", () => { if (paused && problem.firstChild && row.isConnected) go(); });
  const mine = { start: go };
  waiting.push(mine);
  return row;
}
