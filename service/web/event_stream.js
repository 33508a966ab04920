/** Receives job changes from one event stream; polls where the stream is refused. */

import { actions, call, emit, on, urlOf } from "./api.js";

const RETRY_MS = 4000;

let stream = null;
let retryTimer = null;
let probeTimer = null;

/** Start; a hidden page closes its stream, because a browser keeps only six connections to a host. */
export function startEventStream() {
  document.addEventListener("visibilitychange", connect);
  connect();
}

function connect() {
  stream?.close();
  clearTimeout(retryTimer);
  if (document.hidden) return;
  stream = new EventSource(urlOf({ path: "v1/events" }));
  stream.addEventListener("job", (event) => emit("job", JSON.parse(event.data)));
  stream.addEventListener("open", () => emit("reconnected")); // earlier changes are only in the lists
  stream.addEventListener("error", () => {
    probe();
    if (stream.readyState !== EventSource.CLOSED) return; // the browser reconnects
    retryTimer = setTimeout(() => { emit("reconnected"); connect(); }, RETRY_MS);
  });
}

/** Poll until the service responds: each failure emits "unreachable", which schedules the next attempt. */
function probe() {
  probeTimer ??= setTimeout(() => {
    probeTimer = null;
    call(actions.alive()).catch(() => {});
  }, RETRY_MS);
}

on("unreachable", probe);
