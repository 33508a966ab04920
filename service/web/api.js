/** The service's calls, each described once: `call` sends what `curl` prints. */

/** A problem (RFC 9457): branch on `code`, show `title` and `detail`. */
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
  landing: (id) => ({ ...get(`v1/uploads/${id}`), headers: { Prefer: "wait=30" } }),
  jobs: (next) => get(next ?? "v1/jobs?limit=20"),
  finishedJobs: (slide) => get(`v1/jobs?state=succeeded&limit=100&slide=${slide}`),
  job: (id) => get(`v1/jobs/${id}`),
  ask: (job) => send("POST", "v1/jobs", job),
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

/** What the browser's cookie needs beside it, so that no page of another site can write in its name. */
export const PAGE_HEADERS = { "X-Slidelift": "page" };

export const session = {};
export const refreshSession = async () => Object.assign(session, await call(actions.session()));
export const may = (scope) => session.scopes.includes(scope);

export const address = ({ path }) => new URL(path, document.baseURI).href;

/** Do it: the answer's JSON, or null, or a Problem thrown. */
export async function call(action) {
  const { method, headers, body } = action;
  let answer;
  try {
    answer = await fetch(address(action), { method, body, headers: { ...headers, ...(method !== "GET" && PAGE_HEADERS) } });
  } catch {
    throw unreachable();
  }
  if (!answer.ok) throw await problemOf(answer.status, () => answer.json());
  tell("reached");
  return answer.status === 204 ? null : answer.json();
}

/** The Problem of an answer, which may be a proxy's. */
export async function problemOf(status, read) {
  let facts;
  try {
    facts = await read();
  } catch {
    if (status >= 502) return unreachable();
    facts = { status, title: `Status ${status}`, detail: "A proxy refused it, not the service." };
  }
  if (status === 401 && session.signed_in) {
    session.signed_in = false;
    tell("signed-out");
  }
  return new Problem(facts);
}

function unreachable() {
  tell("unreachable");
  return new Problem({ title: "The service does not answer", detail: "The page tries again by itself." });
}

/** The command that does the same from a terminal. */
export function curl(action) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  return [
    "curl", action.flags,
    session.needed && '-H "Authorization: Bearer $SLIDELIFT_TOKEN"',
    ...Object.entries(action.headers).map(([name, value]) => `-H ${quoted(`${name}: ${value}`)}`),
    action.body && `-d ${quoted(action.body)}`,
    quoted(address(action)),
  ].filter(Boolean).join(" ");
}

const news = new EventTarget();

/** Hear of "job", "slide", "reached", "unreachable", "returned", "signed-out"; gives how to stop. */
export function on(what, callback) {
  const hear = (event) => callback(event.detail);
  news.addEventListener(what, hear);
  return () => news.removeEventListener(what, hear);
}

export function tell(what, detail) {
  if (what === "job" || what === "slide") remember(detail);
  news.dispatchEvent(new CustomEvent(what, { detail }));
}

const known = new Map();

export const remember = (facts) => known.set(facts.id, facts);

/** A slide, a job or the models, asked for once; a job is kept up to date by the stream. */
export const slide = (id) => remembered(id, actions.slide(id));
export const job = (id) => remembered(id, actions.job(id));
export const catalog = () => remembered("models", actions.models());

async function remembered(key, action) {
  if (!known.has(key)) known.set(key, await call(action));
  return known.get(key);
}

let listing = null;

/** A slide's name; not asked for alone, since a browser logs each 404 as an error. */
export async function slideName(id) {
  if (!known.has(id)) {
    listing ??= call(actions.slides("v1/slides?limit=1000")).finally(() => { listing = null; });
    (await listing).slides.forEach(remember);
  }
  return known.get(id)?.name;
}
