/** The page's start: who is there, which address is shown, and whether the service answers. */

import { actions, call, may, on, refreshSession, session, tell } from "./api.js";
import { askView } from "./ask.js";
import { announce, attempt, cut, el, fill } from "./dom.js";
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
  [".*", "Nothing here", () => el("h1", { class: "page" }, "Nothing is at this address")],
];
const main = document.getElementById("main");
const banner = document.getElementById("banner");
const account = document.getElementById("account");

let work = null;
let shown = null;
let opened = null;
let following = false;

/** Made once: uploads go on while people look at slides. */
function workView() {
  if (work) return work.root;
  work = cut("work");
  takeUploads(work);
  work.slides.append(slideList());
  work.jobs.append(jobList());
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

/** Put a view in place; one that loads shows that it does, one that fails says why. */
function put(make, address) {
  const place = el("div", { class: "page", role: "alert" });
  return attempt(place, async () => {
    fill(main, el("p", { class: "row skeleton" }), place);
    const view = await make();
    if (shown === address && !view.isConnected) fill(main, view);
  }, true);
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
  if (!following) start();
  else tell("returned");
  main.querySelector(":scope > [role=alert] button")?.click();
});
on("signed-out", signIn);
window.addEventListener("hashchange", () => { if (following) show(); });
start();
