/** Entry point: session, routing and connection state. */

import { actions, call, emit, hasScope, on, refreshSession, session } from "./api.js";
import { jobFormView } from "./job_form.js";
import { announce, attempt, clone, el, fill } from "./dom.js";
import { jobList } from "./jobs.js";
import { startEventStream } from "./event_stream.js";
import { modelsView } from "./models.js";
import { reportView } from "./report.js";
import { slideList } from "./slides.js";
import { setUpUploads } from "./upload.js";
import { openViewer } from "./viewer.js";

const ID = "([\\w-]+)";
const ROUTES = [
  ["/?", "Slides and jobs", workView],
  ["/models", "Models", modelsView],
  [`/slides/${ID}/upscale`, "Upscale", jobFormView],
  [`/jobs/${ID}/report`, "Report", reportView],
  [`/slides/${ID}`, "Slide", viewer("slide")],
  [`/jobs/${ID}`, "Result", viewer("job")],
  [`/compare/${ID}/${ID}`, "Comparison", viewer("compare")],
  [".*", "Not found", () => el("h1", { class: "page" }, "There is no page at this address")],
];
const main = document.getElementById("main");
const banner = document.getElementById("banner");
const account = document.getElementById("account");

let work = null;
let shown = null;
let activeViewer = null;
let streaming = false;

/** Created once, so that uploads continue while another view is shown. */
function workView() {
  if (work) return work.root;
  work = clone("work");
  setUpUploads(work);
  work.slides.append(slideList());
  work.jobs.append(jobList());
  return work.root;
}

function viewer(kind) {
  return (...parts) => {
    const { view } = parts.pop();
    const root = el("section", { class: "viewer", "aria-label": "Viewer" });
    fill(main, el("h1", { class: "visually-hidden", tabindex: "-1" }, document.title), root);
    activeViewer = openViewer(root, { kind, ids: parts, view });
    return root;
  };
}

async function show() {
  const [address, view = null] = location.hash.slice(1).split("@");
  if (address === shown && activeViewer) {
    activeViewer.show(view);
    return;
  }
  const [path, search] = address.split("?");
  const query = Object.assign(new URLSearchParams(search), { view });
  const first = shown === null;
  shown = address;
  activeViewer?.close();
  activeViewer = null;
  const [pattern, title, make] = ROUTES.find(([one]) => path.match(`^${one}$`));
  document.title = `${title} – slidelift`;
  for (const one of document.querySelectorAll("nav a")) {
    one.setAttribute("aria-current", one.hash === `#${path || "/"}` ? "page" : "false");
  }
  await render(() => make(...path.match(`^${pattern}$`).slice(1), query), address);
  if (!first) (main.querySelector("h1") ?? main).focus();
}

/** Show a view, a placeholder while it loads, or its error. */
function render(make, address) {
  const place = el("div", { class: "page", role: "alert" });
  return attempt(place, async () => {
    fill(main, el("p", { class: "row skeleton" }), place);
    const view = await make();
    if (shown === address && !view.isConnected) fill(main, view);
  }, true);
}

function signIn() {
  const { root, token, problem } = clone("sign-in");
  root.addEventListener("submit", (event) => {
    event.preventDefault();
    const given = token.value.trim();
    token.value = "";
    attempt(problem, async () => {
      await call(actions.signIn(given));
      location.reload();
    });
  });
  account.hidden = true;
  fill(main, root);
  token.focus();
}

const start = () => attempt(main, async () => {
  await refreshSession();
  if (session.needed && !session.signed_in) {
    signIn();
    return;
  }
  account.hidden = !session.needed;
  account.firstElementChild.textContent = session.name;
  document.body.classList.toggle("read-only", !hasScope("write"));
  startEventStream();
  streaming = true;
  await show();
}, true);

account.lastElementChild.onclick = () => call(actions.signOut()).finally(() => location.reload());
document.querySelector(".skip").onclick = (event) => {
  event.preventDefault(); // its hash is not a route
  main.focus();
};
on("unreachable", () => {
  if (banner.hidden) announce(banner.textContent);
  banner.hidden = false;
});
on("reached", () => {
  if (banner.hidden) return;
  banner.hidden = true;
  announce("The service responds again.");
  if (!streaming) start();
  else emit("reconnected");
  main.querySelector(":scope > [role=alert] button")?.click();
});
on("signed-out", signIn);
window.addEventListener("hashchange", () => { if (streaming) show(); });
start();
