/** Resumable uploads by tus in chunks of 8 MiB, one file after another. */

import { actions, call, emit, on, PAGE_HEADERS, Problem, problemOf, urlOf } from "./api.js";
import { announce, clone, fill, problemBox } from "./dom.js";
import { bindCommands } from "./row_actions.js";
import { formatBytes, formatDuration } from "./format.js";

const CHUNK_BYTES = 8 * 2 ** 20;
const RETRY_MS = [0, 1000, 3000, ...Array(90).fill(10000)];
const RETRY_STATUSES = [0, 409, 423, 429, 460, 500, 502, 503, 504];

let waiting = [];
let running = null;

/** Accept files that are dropped on the page or chosen with the button. */
export function setUpUploads({ area, choose, chooser, uploads, unfinished, names: list, folder, fold }) {
  const addFiles = (files) => {
    unfinished.hidden ||= files.some((one) => list.textContent.includes(one.name));
    uploads.append(...files.map(createUpload));
    startNext();
  };
  const drop = (items) => {
    const files = items.filter((one) => !one.webkitGetAsEntry()?.isDirectory);
    folder.hidden = files.length === items.length;
    addFiles(files.map((one) => one.getAsFile()));
  };
  for (const kind of ["dragover", "dragleave", "drop"]) {
    window.addEventListener(kind, (event) => { // otherwise the browser opens the file
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      area.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && area.offsetParent) drop([...event.dataTransfer.items].filter((one) => one.kind === "file"));
    });
  }
  choose.onclick = () => chooser.click();
  chooser.onchange = () => { addFiles([...chooser.files]); chooser.value = ""; };
  window.addEventListener("beforeunload", (event) => { if (running) event.preventDefault(); });
  bindCommands(fold, () => [["Upload in one piece", actions.addSlide("slide.svs")]]);
  interruptedUploads().then((names) => {
    unfinished.hidden = !names.length;
    list.textContent = names.join(", ");
  });
}

/** Names of interrupted uploads; finished and expired ones are removed from the browser's list. */
async function interruptedUploads() {
  const names = [];
  const storage = tus.defaultOptions.urlStorage;
  for (const one of await storage.findAllUploads()) {
    const { state, code } = await call(actions.upload(idOf(one.uploadUrl))).catch((error) => error);
    if (state === "arriving") names.push(one.metadata.filename);
    else if (state || code) storage.removeUpload(one.urlStorageKey);
  }
  return names;
}

const idOf = (url) => url.split("/").at(-1);

function startNext() {
  running ??= waiting.shift();
  running?.();
}

function createUpload(file) {
  const { root, name, bar, status, pause, drop, problem } = clone("upload");
  const words = status.dataset;
  let idle = false;
  let first = null; // start of this run, from which the speed is computed
  let quarter = 0;

  const upload = new tus.Upload(file, {
    endpoint: urlOf({ path: "v1/uploads" }),
    chunkSize: CHUNK_BYTES,
    headers: PAGE_HEADERS,
    metadata: { filename: file.name },
    retryDelays: RETRY_MS,
    removeFingerprintOnSuccess: true,
    onShouldRetry({ originalResponse: answer }) {
      if (!answer) emit("unreachable");
      status.textContent = words.broken;
      first = null;
      return RETRY_STATUSES.includes(answer?.getStatus() ?? 0);
    },
    onProgress: show,
    onSuccess: ({ lastResponse: answer }) => finish(answer?.getHeader("Slide-Id")).catch(stop),
    async onError({ originalResponse: answer }) {
      stop(answer
        ? await problemOf(answer.getStatus(), () => JSON.parse(answer.getBody()))
        : new Problem({ title: "The upload stopped", detail: words.lost }));
    },
  });

  function show(sent, total) {
    const now = Date.now() / 1000;
    first ??= { sent, now };
    const speed = (sent - first.sent) / (now - first.now);
    const left = speed > 0 ? `, ${formatBytes(speed)}/s, ${formatDuration((total - sent) / speed)} left` : "";
    bar.value = sent;
    status.textContent = sent < total ? `${formatBytes(sent)} of ${formatBytes(total)}${left}` : words.whole;
    const reached = Math.floor((4 * sent) / total);
    if (reached > quarter) announce(`${file.name}: ${25 * reached} %`);
    quarter = reached;
  }

  async function begin() {
    setIdle(false, "Pause", words.begins);
    fill(problem);
    first = null;
    const [before] = await upload.findPreviousUploads();
    if (before && !upload.url) upload.resumeFromPreviousUpload(before);
    upload.start();
  }

  function setIdle(value, label, message) {
    idle = value;
    pause.textContent = label;
    status.textContent = message;
    if (idle) release();
  }

  function stop(error) {
    fill(problem, problemBox(error));
    setIdle(true, "Try again", words.stopped);
    pause.hidden = error.status < 500; // the file was refused
  }

  /** Show the slide; ask the service for its id if that response was lost. */
  async function finish(slide) {
    while (!slide) {
      const facts = await call(actions.awaitUpload(idOf(upload.url)));
      if (facts.error) throw new Problem(facts.error);
      slide = facts.slide;
    }
    emit("slide", await call(actions.slide(slide)));
    announce(`${file.name} is uploaded`);
    root.remove();
    release();
  }

  function release() {
    waiting = waiting.filter((one) => one !== begin);
    if (running === begin) running = null;
    startNext();
  }

  name.textContent = file.name;
  bar.max = file.size || 1;
  bar.setAttribute("aria-label", `Upload of ${file.name}`);
  pause.onclick = () => (idle ? begin() : upload.abort().then(() => setIdle(true, "Continue", words.paused)));
  drop.onclick = () => {
    upload.abort(Boolean(upload.url)).catch(() => {});
    root.remove();
    release();
  };
  on("reconnected", () => { if (idle && problem.firstChild && !pause.hidden && root.isConnected) begin(); });
  waiting.push(begin);
  return root;
}
