/** The page's start: who is there, which address is shown, and whether the service answers. */

import { actions, call, may, on, refreshSession, session, tell } from "./api.js";
import { askView } from "./ask.js";
import { announce, attempt, cut, el, fill, trouble } from "./dom.js";
import { jobList } from "./jobs.js";
import { follow } from "./live.js";
import { modelsView } from "./models.js";
import { reportView } from "./report.js";
import { slideList } from "./slides.js";
import { takeUploads } from "./upload.js";
import { openViewer } from "./viewer.js";

const ID = "([\\w-]+)";
const ROUTES = [
  ["/?", "Work", workView],
  ["/models", "Models", modelsView],
  [`/slides/${ID}/upscale`, "Upscale", askView],
  [`/jobs/${ID}/report`, "Report", reportView],
  [`/slides/${ID}`, "Slide", viewer("slide")],
  [`/jobs/${ID}`, "Result", viewer("job")],
  [`/compare/${ID}/${ID}`, "Comparison", viewer("compare")],
  [".*", "Nothing here", () => el("p", { class: "page" }, "There is nothing at this address.")],
];
const main = document.getElementById("main");
const banner = document.getElementById("banner");
const account = document.getElementById("account");

let work = null;
let shown = null;
let opened = null;
let following = false;

/** Made once and kept: uploads go on while people look at slides. */
function workView() {
  if (!work) {
    work = cut("work");
    takeUploads(work);
    work.slides.append(slideList());
    work.jobs.append(jobList());
  }
  return work.root;
}

function viewer(kind) {
  return (...parts) => {
    const { view } = parts.pop();
    const root = el("section", { class: "viewer", "aria-label": "Viewer" });
    fill(main, el("h1", { class: "unseen", tabindex: "-1" }, document.title), root);
    opened = openViewer(root, { kind, ids: parts, view });
    return root;
  };
}

async function show() {
  const [address, view = null] = location.hash.slice(1).split("@");
  if (address === shown && opened) {
    opened.show(view);
    return;
  }
  const [path, search] = address.split("?");
  const query = Object.assign(new URLSearchParams(search), { view });
  const first = shown === null;
  shown = address;
  opened?.close();
  opened = null;
  const [pattern, title, make] = ROUTES.find(([one]) => path.match(`^${one}$`));
  document.title = `${title} – slidelift`;
  for (const one of document.querySelectorAll("nav a")) {
    one.setAttribute("aria-current", one.hash === `#${path || "/"}` ? "page" : "false");
  }
  await put(() => make(...path.match(`^${pattern}$`).slice(1), query), address);
  if (!first) (main.querySelector("h1") ?? main).focus();
}

/** Put a view in place; one that loads shows that it does, and one that fails says why. */
async function put(make, address) {
  try {
    const made = make();
    if (made instanceof Promise) fill(main, el("div", { class: "page" }, el("div", { class: "row skeleton" })));
    const view = await made;
    if (shown === address && !view.isConnected) fill(main, view);
  } catch (error) {
    if (shown === address) fill(main, el("div", { class: "page", role: "alert" }, trouble(error, () => put(make, address))));
  }
}

function signIn() {
  const { root, token, problem } = cut("sign-in");
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
  document.body.classList.toggle("read-only", !may("write"));
  follow();
  following = true;
  await show();
}, true);

account.lastElementChild.onclick = () => call(actions.signOut()).finally(() => location.reload());
document.querySelector(".skip").onclick = (event) => {
  event.preventDefault(); // its hash would be taken for a route
  main.focus();
};
on("unreachable", () => {
  if (banner.hidden) announce(banner.textContent);
  banner.hidden = false;
});
on("reached", () => {
  if (banner.hidden) return;
  banner.hidden = true;
  announce("The service answers again.");
  if (following) tell("returned");
  else start();
});
on("signed-out", signIn);
window.addEventListener("hashchange", () => { if (following) show(); });
start();
