/** News of jobs by the page's one stream of events; where it is refused, by asking every few seconds. */

import { actions, address, call, on, tell } from "./api.js";

const AGAIN_MS = 4000;

let stream = null;
let again = null;
let probing = null;

/** Begin; a hidden page lets its stream go, since a browser keeps only six connections to a host. */
export function follow() {
  document.addEventListener("visibilitychange", listen);
  listen();
}

function listen() {
  stream?.close();
  clearTimeout(again);
  if (document.hidden) return;
  stream = new EventSource(address({ path: "v1/events" }));
  stream.addEventListener("job", (event) => tell("job", JSON.parse(event.data)));
  stream.addEventListener("open", () => tell("returned")); // what happened before is in the lists alone
  stream.addEventListener("error", () => {
    probe();
    if (stream.readyState !== EventSource.CLOSED) return; // it comes back by itself
    again = setTimeout(() => { tell("returned"); listen(); }, AGAIN_MS);
  });
}

/** Ask until the service answers; each failure tells "unreachable", and so leads here again. */
function probe() {
  probing ??= setTimeout(() => {
    probing = null;
    call(actions.alive()).catch(() => {});
  }, AGAIN_MS);
}

on("unreachable", probe);
