/** The requests to the service: `call` sends a request, `curl` prints it as a command. */

/** An error of the service (RFC 9457): branch on `code`, show `title` and `detail`. */
export class Problem extends Error {
  constructor(facts) {
    super(facts.detail);
    Object.assign(this, facts);
  }
}

const get = (path, flags) => ({ method: "GET", path, flags, headers: {} });
const send = (method, path, json) => ({
  method, path, flags: `-X ${method}`, headers: json ? { "Content-Type": "application/json" } : {}, body: JSON.stringify(json),
});

export const actions = {
  session: () => get("v1/session"),
  signIn: (token) => send("POST", "v1/session", { token }),
  signOut: () => send("DELETE", "v1/session"),
  models: () => get("v1/models"),
  slides: (next) => get(next ?? "v1/slides?limit=20"),
  slide: (id) => get(`v1/slides/${id}`),
  addSlide: (file) => ({ ...get(`v1/slides/${file}`, `-T ${file}`), method: "PUT" }),
  recommendation: (id, mpp) => get(`v1/slides/${id}/recommendation${mpp ? `?mpp=${mpp}` : ""}`),
  deleteSlide: (id) => send("DELETE", `v1/slides/${id}`),
  upload: (id) => get(`v1/uploads/${id}`),
  awaitUpload: (id) => ({ ...get(`v1/uploads/${id}`), headers: { Prefer: "wait=30" } }),
  jobs: (next) => get(next ?? "v1/jobs?limit=20"),
  finishedJobs: (slide) => get(`v1/jobs?state=succeeded&limit=100&slide=${slide}`),
  job: (id) => get(`v1/jobs/${id}`),
  submit: (job) => send("POST", "v1/jobs", job),
  cancel: (id) => send("DELETE", `v1/jobs/${id}`),
  pause: (id) => send("POST", `v1/jobs/${id}/pause`),
  resume: (id) => send("POST", `v1/jobs/${id}/resume`),
  retry: (id) => send("POST", `v1/jobs/${id}/retry`),
  result: (id) => get(`v1/jobs/${id}/result`, "-OJ"),
  deleteResult: (id) => send("DELETE", `v1/jobs/${id}/result`),
  map: (id) => get(`v1/jobs/${id}/map`),
  report: (id) => get(`v1/jobs/${id}/report`),
  reportPage: (id) => get(`v1/jobs/${id}/report.html`),
  tissue: (id) => get(`v1/jobs/${id}/tissue.geojson`, `-o ${id}.tissue.geojson`),
  alive: () => get("health/live"),
};

/** Required with the session cookie, so that a page of another site cannot send a request in the user's name. */
export const PAGE_HEADERS = { "X-Slidelift": "page" };

export const session = {};
export const refreshSession = async () => Object.assign(session, await call(actions.session()));
export const hasScope = (scope) => session.scopes.includes(scope);

export const urlOf = ({ path }) => new URL(path, document.baseURI).href;

/** Send a request; return its JSON or null, or throw a Problem. */
export async function call(action) {
  const { method, headers, body } = action;
  let answer;
  try {
    answer = await fetch(urlOf(action), { method, body, headers: { ...headers, ...(method !== "GET" && PAGE_HEADERS) } });
  } catch {
    throw unreachable();
  }
  if (!answer.ok) throw await problemOf(answer.status, () => answer.json());
  emit("reached");
  return answer.status === 204 ? null : answer.json();
}

/** Read the Problem from a response, which may come from a proxy. */
export async function problemOf(status, read) {
  let facts;
  try {
    facts = await read();
  } catch {
    if (status >= 502) return unreachable();
    facts = { status, title: `Status ${status}`, detail: "The response came from a proxy, not from the service." };
  }
  if (status === 401 && session.signed_in) {
    session.signed_in = false;
    emit("signed-out");
  }
  return new Problem(facts);
}

function unreachable() {
  emit("unreachable");
  return new Problem({ title: "The service does not respond", detail: "The page will try again automatically." });
}

export function curl(action) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  return [
    "curl", action.flags,
    session.needed && '-H "Authorization: Bearer $SLIDELIFT_TOKEN"',
    ...Object.entries(action.headers).map(([name, value]) => `-H ${quoted(`${name}: ${value}`)}`),
    action.body && `-d ${quoted(action.body)}`,
    quoted(urlOf(action)),
  ].filter(Boolean).join(" ");
}

const bus = new EventTarget();

/** Subscribe to job, slide, reached, unreachable, reconnected or signed-out; returns the function to unsubscribe. */
export function on(what, callback) {
  const listener = (event) => callback(event.detail);
  bus.addEventListener(what, listener);
  return () => bus.removeEventListener(what, listener);
}

export function emit(what, detail) {
  if (what === "job" || what === "slide") cacheRecord(detail);
  bus.dispatchEvent(new CustomEvent(what, { detail }));
}

const cache = new Map();

export const cacheRecord = (facts) => cache.set(facts.id, facts);

/** Load a slide, a job or the models once; events keep jobs up to date. */
export const slide = (id) => cached(id, actions.slide(id));
export const job = (id) => cached(id, actions.job(id));
export const catalog = () => cached("models", actions.models());

async function cached(key, action) {
  if (!cache.has(key)) cache.set(key, await call(action));
  return cache.get(key);
}

let listing = null;

/** Read a slide's name from the list, because a browser logs the 404 of a deleted slide as an error. */
export async function slideName(id) {
  if (!cache.has(id)) {
    listing ??= call(actions.slides("v1/slides?limit=1000")).finally(() => { listing = null; });
    (await listing).slides.forEach(cacheRecord);
  }
  return cache.get(id)?.name;
}
