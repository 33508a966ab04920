/** The page's start: who is there, which address is shown, and whether the service answers. */

import { actions, call, on, refreshSession, session, tell } from "./api.js";
import { askView } from "./ask.js";
import { el, fill, trouble } from "./dom.js";
import { jobList } from "./jobs.js";
import { follow } from "./live.js";
import { modelsView } from "./models.js";
import { reportView } from "./report.js";
import { slideList } from "./slides.js";
import { uploadPanel } from "./upload.js";
import { openViewer } from "./viewer.js";

const ID = "([\\w-]+)";
const ROUTES = [
  ["/?", "Work", () => workView()],
  ["/models", "Models", modelsView],
  [`/slides/${ID}/upscale`, "Upscale", askView],
  [`/jobs/${ID}/report`, "Report", reportView],
  [`/slides/${ID}`, "Slide", viewer("slide")],
  [`/jobs/${ID}`, "Result", viewer("job")],
  [`/compare/${ID}/${ID}`, "Comparison", viewer("compare")],
];
const main = document.getElementById("main");
const banner = document.getElementById("banner");

let work = null;
let shownPath = null;
let opened = null;

/** Made once and kept: uploads go on while people look at slides. */
function workView() {
  return (work ??= el(
    "div", { class: "page work" },
    el("section", { "aria-labelledby": "slides" }, el("h1", { id: "slides", tabindex: "-1" }, "Slides"), uploadPanel(), slideList()),
    el("section", { "aria-labelledby": "jobs" }, el("h2", { id: "jobs", class: "as-h1" }, "Jobs"), jobList()),
  ));
}

function viewer(kind) {
  return (...parts) => {
    const [query, ...ids] = parts.reverse();
    const root = el("section", { class: "viewer", "aria-label": "Viewer" });
    fill(main, root);
    opened = openViewer(root, { kind, ids: ids.reverse(), view: query.view });
    return root;
  };
}

async function show() {
  const [rest, view = null] = location.hash.slice(1).split("@");
  const [path, search] = rest.split("?");
  if (rest === shownPath && opened) return opened.show(view);
  const first = shownPath === null;
  shownPath = rest;
  opened?.close();
  opened = null;
  const query = Object.assign(new URLSearchParams(search), { view });
  for (const [pattern, title, make] of ROUTES) {
    const found = path.match(`^${pattern}$`);
    if (!found) continue;
    document.title = `${title} – slidelift`;
    await put(() => make(...found.slice(1), query), rest);
    if (!first) main.querySelector("h1")?.focus();
    return;
  }
  fill(main, el("div", { class: "page" }, el("h1", {}, "Nothing here"), el("p", {}, "This address leads nowhere. ", el("a", { href: "#/" }, "Go to your work"))));
}

/** Put a view in place; one that loads shows that it does, and one that fails says why. */
async function put(make, path) {
  for (const one of document.querySelectorAll("nav a")) {
    if (one.hash === `#${path || "/"}`) one.setAttribute("aria-current", "page");
    else one.removeAttribute("aria-current");
  }
  const made = make();
  if (made instanceof Promise) fill(main, el("div", { class: "page" }, el("div", { class: "row skeleton" }), el("div", { class: "row skeleton" })));
  try {
    const view = await made;
    if (shownPath === path && !view.isConnected) fill(main, view);
  } catch (error) {
    if (shownPath === path) fill(main, el("div", { class: "page" }, trouble(error, () => put(make, path))));
  }
}

function signIn() {
  const token = el("input", { type: "password", name: "token", autocomplete: "current-password", required: true });
  const problem = el("div", { role: "alert" });
  const enter = async (event) => {
    event.preventDefault();
    const given = token.value.trim();
    try {
      await call(actions.signIn(given));
      token.value = "";
      await start();
    } catch (error) {
      fill(problem, trouble(error));
    }
  };
  document.title = "Sign in – slidelift";
  fill(account);
  fill(main, el(
    "form", { class: "page narrow", submit: enter },
    el("h1", {}, "Sign in"),
    el("p", {}, "This service asks for an access token. Who runs it makes one with ", el("code", {}, "slidelift token create --name NAME"), ". The page hands it over once and does not keep it."),
    el("label", {}, "Access token", token),
    problem,
    el("div", { class: "actions" }, el("button", { class: "main" }, "Sign in")),
  ));
  token.focus();
}

const account = document.getElementById("account");

function showAccount() {
  const leave = async () => {
    await call(actions.signOut()).catch(() => {});
    location.reload();
  };
  fill(account, session.needed && [
    el("span", {}, session.name, !session.scopes.some((one) => one !== "read") && " (may look only)"),
    el("button", { type: "button", class: "quiet", click: leave }, "Sign out"),
  ]);
}

let following = false;

async function start() {
  try {
    await refreshSession();
  } catch (error) {
    fill(main, el("div", { class: "page" }, trouble(error, start)));
    return;
  }
  if (session.needed && !session.signed_in) {
    signIn();
    return;
  }
  showAccount();
  if (!following) follow();
  following = true;
  shownPath = null;
  await show();
}

on("unreachable", () => fill(banner, el("p", {}, "The service does not answer. What you see may be old; the page tries again by itself.")));
on("reached", () => {
  if (!banner.firstChild) return;
  fill(banner);
  if (following) tell("returned");
  else start();
});
on("signed-out", () => { session.signed_in = false; signIn(); });
window.addEventListener("hashchange", () => { if (following) show(); });
start();
