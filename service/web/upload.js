/** Uploads that survive a broken line and a reload: pieces of 8 MiB by tus, one file after the other. */

import { actions, address, call, on, PAGE_HEADERS, Problem, problemOf, tell } from "./api.js";
import { announce, cut, fill, trouble } from "./dom.js";
import { printWhenOpened } from "./offer.js";
import { duration, size } from "./words.js";

const PIECE_BYTES = 8 * 2 ** 20;
const RETRY_MS = [0, 1000, 3000, ...Array(90).fill(10000)];
const WORTH_A_RETRY = [0, 409, 423, 429, 460, 500, 502, 503, 504];

let waiting = [];
let running = null;

/** Let the area of the work view take files, by dropping them or by its button. */
export function takeUploads({ area, choose, chooser, uploads, unfinished, names: list, folder, fold }) {
  const take = (files) => {
    unfinished.hidden ||= files.some((one) => list.textContent.includes(one.name));
    uploads.append(...files.map(transfer));
    next();
  };
  const drop = (items) => {
    const files = items.filter((one) => !one.webkitGetAsEntry()?.isDirectory);
    folder.hidden = files.length === items.length;
    take(files.map((one) => one.getAsFile()));
  };
  for (const kind of ["dragover", "dragleave", "drop"]) {
    window.addEventListener(kind, (event) => { // or the browser opens the file
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      area.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && area.offsetParent) drop([...event.dataTransfer.items].filter((one) => one.kind === "file"));
    });
  }
  choose.onclick = () => chooser.click();
  chooser.onchange = () => { take([...chooser.files]); chooser.value = ""; };
  window.addEventListener("beforeunload", (event) => { if (running) event.preventDefault(); });
  printWhenOpened(fold, () => [["Upload in one piece", actions.addSlide("slide.svs")]]);
  interrupted().then((names) => {
    unfinished.hidden = !names.length;
    list.textContent = names.join(", ");
  });
}

/** Names of what a reload interrupted; what has ended or expired is forgotten. */
async function interrupted() {
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

function next() {
  running ??= waiting.shift();
  running?.();
}

function transfer(file) {
  const { root, name, bar, told, pause, drop, problem } = cut("upload");
  const words = told.dataset;
  let idle = false;
  let first = null; // of this run: the speed is counted from here
  let quarter = 0;

  const upload = new tus.Upload(file, {
    endpoint: address({ path: "v1/uploads" }),
    chunkSize: PIECE_BYTES,
    headers: PAGE_HEADERS,
    metadata: { filename: file.name },
    retryDelays: RETRY_MS,
    removeFingerprintOnSuccess: true,
    onShouldRetry({ originalResponse: answer }) {
      if (!answer) tell("unreachable");
      told.textContent = words.broken;
      first = null;
      return WORTH_A_RETRY.includes(answer?.getStatus() ?? 0);
    },
    onProgress: show,
    onSuccess: ({ lastResponse: answer }) => land(answer?.getHeader("Slide-Id")).catch(stop),
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
    const left = speed > 0 ? `, ${size(speed)}/s, ${duration((total - sent) / speed)} left` : "";
    bar.value = sent;
    told.textContent = sent < total ? `${size(sent)} of ${size(total)}${left}` : words.whole;
    const reached = Math.floor((4 * sent) / total);
    if (reached > quarter) announce(`${file.name}: ${25 * reached} %`);
    quarter = reached;
  }

  async function begin() {
    rest(false, "Pause", words.begins);
    fill(problem);
    first = null;
    const [before] = await upload.findPreviousUploads();
    if (before && !upload.url) upload.resumeFromPreviousUpload(before);
    upload.start();
  }

  function rest(is, verb, word) {
    idle = is;
    pause.textContent = verb;
    told.textContent = word;
    if (is) leave();
  }

  function stop(error) {
    fill(problem, trouble(error));
    rest(true, "Try again", words.stopped);
    pause.hidden = error.status < 500; // the file's own fault
  }

  /** The slide is there; where the answer that names it was lost, the service is asked. */
  async function land(slide) {
    while (!slide) {
      const facts = await call(actions.landing(idOf(upload.url)));
      if (facts.error) throw new Problem(facts.error);
      slide = facts.slide;
    }
    tell("slide", await call(actions.slide(slide)));
    announce(`${file.name} is uploaded`);
    root.remove();
    leave();
  }

  function leave() {
    waiting = waiting.filter((one) => one !== begin);
    if (running === begin) running = null;
    next();
  }

  name.textContent = file.name;
  bar.max = file.size || 1;
  bar.setAttribute("aria-label", `Upload of ${file.name}`);
  pause.onclick = () => (idle ? begin() : upload.abort().then(() => rest(true, "Continue", words.paused)));
  drop.onclick = () => {
    upload.abort(Boolean(upload.url)).catch(() => {});
    root.remove();
    leave();
  };
  on("returned", () => { if (idle && problem.firstChild && !pause.hidden && root.isConnected) begin(); });
  waiting.push(begin);
  return root;
}
