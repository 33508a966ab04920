/** The service's calls, each described once: `call` sends what `curl` prints. */

/** A problem (RFC 9457): branch on `code`, show `title` and `detail`. */
export class Problem extends Error {
  constructor(facts) {
    super(facts.detail);
    Object.assign(this, facts);
  }
}

const get = (path) => ({ method: "GET", path, headers: {} });
const send = (method, path) => ({ method, path, headers: {}, flags: `-X ${method}` });
const sendJson = (method, path, body) => ({
  method, path, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), flags: `-X ${method}`,
});

export const actions = {
  session: () => get("v1/session"),
  signIn: (token) => sendJson("POST", "v1/session", { token }),
  signOut: () => send("DELETE", "v1/session"),
  models: () => get("v1/models"),
  slides: (next) => get(next ?? "v1/slides?limit=20"),
  slide: (id) => get(`v1/slides/${id}`),
  addSlide: (file) => ({ ...get(`v1/slides/${file}`), method: "PUT", flags: `-T ${file}` }),
  deleteSlide: (id) => send("DELETE", `v1/slides/${id}`),
  uploads: () => send("POST", "v1/uploads"),
  upload: (id) => get(`v1/uploads/${id}`),
  landing: (id) => ({ ...get(`v1/uploads/${id}`), headers: { Prefer: "wait=30" } }),
  jobs: (next) => get(next ?? "v1/jobs?limit=20"),
  finishedJobs: (slide) => get(`v1/jobs?state=succeeded&limit=100&slide=${slide}`),
  job: (id) => get(`v1/jobs/${id}`),
  ask: (job) => sendJson("POST", "v1/jobs", job),
  cancel: (id) => send("DELETE", `v1/jobs/${id}`),
  pause: (id) => send("POST", `v1/jobs/${id}/pause`),
  resume: (id) => send("POST", `v1/jobs/${id}/resume`),
  retry: (id) => send("POST", `v1/jobs/${id}/retry`),
  result: (id) => ({ ...get(`v1/jobs/${id}/result`), flags: "-OJ" }),
  deleteResult: (id) => send("DELETE", `v1/jobs/${id}/result`),
  report: (id) => get(`v1/jobs/${id}/report`),
  reportPage: (id) => get(`v1/jobs/${id}/report.html`),
  tissue: (id) => ({ ...get(`v1/jobs/${id}/tissue.geojson`), flags: `-o ${id}.tissue.geojson` }),
  map: (id) => get(`v1/jobs/${id}/map`),
  events: () => get("v1/events"),
  alive: () => get("health/live"),
};

/** Who is signed in, as the service says; filled by `refreshSession`. */
export const session = { needed: false, signed_in: false, name: null, scopes: [] };

export async function refreshSession() {
  return Object.assign(session, await call(actions.session()));
}

export const may = (scope) => !session.needed || session.scopes.includes(scope) || session.scopes.includes("admin");

/** What the browser's cookie needs beside it, so that no page of another site can write in its name. */
export const PAGE_HEADERS = { "X-Slidelift": "page" };

export const address = (action) => new URL(action.path, document.baseURI).href;

/** Do it; the answer's JSON, or null where there is none. Throws a Problem. */
export async function call(action) {
  const headers = { ...action.headers, ...(action.method === "GET" ? {} : PAGE_HEADERS) };
  let answer;
  try {
    answer = await fetch(address(action), { method: action.method, headers, body: action.body });
  } catch {
    throw unreachable();
  }
  if (answer.ok) {
    tell("reached");
    return answer.status === 204 ? null : answer.json();
  }
  throw await problemOf(answer.status, () => answer.json());
}

/** The Problem of an answer; one that is none comes from a proxy whose service is away. */
export async function problemOf(status, read) {
  let facts;
  try {
    facts = await read();
  } catch {
    if (status >= 502) return unreachable();
    facts = { status, title: `Status ${status}`, detail: "Something between this page and the service refused it." };
  }
  if (status === 401 && session.signed_in) {
    session.signed_in = false;
    tell("signed-out");
  }
  return new Problem(facts);
}

function unreachable() {
  tell("unreachable");
  return new Problem({ code: "unreachable", title: "The service does not answer", detail: "The page tries again by itself." });
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The command that does the same from a terminal. */
export function curl(action) {
  const words = ["curl"];
  if (action.flags) words.push(action.flags);
  if (session.needed) words.push('-H "Authorization: Bearer $SLIDELIFT_TOKEN"');
  for (const [name, value] of Object.entries(action.headers)) words.push(`-H ${quoted(`${name}: ${value}`)}`);
  if (action.body) words.push(`-d ${quoted(action.body)}`);
  return [...words, quoted(address(action))].join(" ");
}

const listeners = new Map();

/** Hear of "job", "slide", "reached", "unreachable", "returned", "signed-out"; answers with how to stop. */
export function on(what, callback) {
  if (!listeners.has(what)) listeners.set(what, new Set());
  listeners.get(what).add(callback);
  return () => listeners.get(what).delete(callback);
}

export function tell(what, value) {
  if (what === "job") known.set(value.id, value);
  for (const callback of listeners.get(what) ?? []) callback(value);
}

/** Hear of every job that changes or appears, from the page's one stream of events. */
export const onJob = (callback) => on("job", callback);

const known = new Map();

/** A slide or a job by its id, remembered; a job is kept up to date by the stream. */
export const slide = (id) => remembered(id, actions.slide(id));
export const job = (id) => remembered(id, actions.job(id));

export const remember = (facts) => known.set(facts.id, facts);

/** A slide's name, or null; never asked for alone, since a browser logs each 404 as an error. */
export async function slideName(id) {
  if (!known.has(id)) {
    listing ??= call(actions.slides("v1/slides?limit=1000")).finally(() => { listing = null; });
    (await listing).slides.forEach(remember);
  }
  return (await known.get(id))?.name ?? null;
}

let listing = null;

async function remembered(key, action) {
  if (!known.has(key)) {
    known.set(key, call(action).catch((error) => { known.delete(key); throw error; }));
  }
  return known.get(key);
}

export const catalog = () => remembered("models", actions.models());
