/** News of jobs by the page's one stream of events; by asking every few seconds where there is none. */

import { actions, address, call, on, tell } from "./api.js";

const POLL_MS = 4000;
const STREAM_AGAIN_MS = 30000;
const PROBE_MS = 3000;

let stream = null;
let polling = null;
let probing = null;
let opened = false;

/** Begin; a hidden page lets its stream go, since a browser keeps only six connections to a host. */
export function follow() {
  on("unreachable", probe);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stop();
    else listen();
  });
  if (!document.hidden) listen();
}

function listen() {
  stop();
  stream = new EventSource(address(actions.events()));
  stream.addEventListener("job", (event) => tell("job", JSON.parse(event.data)));
  stream.addEventListener("open", () => {
    stopPolling();
    if (opened) tell("returned"); // what happened in between is in the lists alone
    opened = true;
  });
  stream.addEventListener("error", () => {
    probe();
    if (stream?.readyState === EventSource.CLOSED) poll();
  });
}

function stop() {
  stream?.close();
  stream = null;
  stopPolling();
}

function poll() {
  const begun = Date.now();
  stopPolling();
  polling = setInterval(async () => {
    if (Date.now() - begun > STREAM_AGAIN_MS) return listen();
    try {
      for (const job of (await call(actions.jobs())).jobs) tell("job", job);
    } catch { /* the call has told */ }
  }, POLL_MS);
}

function stopPolling() {
  clearInterval(polling);
}

/** Ask until the service answers. */
function probe() {
  probing ??= setTimeout(async () => {
    probing = null;
    try {
      await call(actions.alive());
    } catch { /* the call has told, and so probe goes on */ }
  }, PROBE_MS);
}
