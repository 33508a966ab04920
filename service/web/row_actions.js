/** Actions of a row: a button or link with `data-action` names a request, which is sent or printed as curl. */

import { actions, call, curl } from "./api.js";
import { attempt, el, fill, namedParts } from "./dom.js";

/** Connect a row's buttons and links; `done` receives each response. */
export function bindActions({ root, problem, fold }, id, done) {
  const controls = [...root.querySelectorAll("[data-action]")];
  const action = (one) => actions[one.dataset.action](id);
  for (const one of controls) {
    if (one.matches("a")) one.href = action(one).path;
    one.addEventListener("click", async () => {
      if (one.matches("a") || (one.dataset.confirm && !await confirmAction(one))) return;
      attempt(problem, async () => done(await call(action(one))));
    });
  }
  const isShown = (one) => getComputedStyle(one).display !== "none";
  bindCommands(fold, () => controls.filter(isShown).map((one) => [one.dataset.label ?? one.textContent, action(one)]));
}

/** Show the commands of `list()`, pairs of heading and request, when `fold` opens. */
export function bindCommands(fold, list) {
  const place = el("div");
  let shown = [];
  fold.append(place);
  fold.addEventListener("toggle", () => {
    const now = fold.open ? list().map(([heading, action]) => [heading, curl(action)]) : [];
    if (String(now) === String(shown)) return; // keep focus and selection
    shown = now;
    fill(place, now.flatMap(([heading, text]) => [el("p", {}, heading), commandBlock(text)]));
  });
}

export function commandBlock(text) {
  const code = el("code", {}, text);
  const button = el("button", { type: "button", class: "quiet", click: () => copy(code, button) }, "Copy");
  return el("div", { class: "command" }, el("pre", {}, code), button);
}

async function copy(code, button) {
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch { // the clipboard API needs https
    getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
}

function confirmAction(button) {
  const box = document.getElementById("confirm");
  const { question, cancel, proceed } = namedParts(box);
  question.textContent = button.dataset.confirm;
  proceed.textContent = button.textContent;
  box.returnValue = "";
  cancel.onclick = () => box.close();
  proceed.onclick = () => box.close("yes");
  box.showModal();
  return new Promise((resolve) => { box.onclose = () => resolve(box.returnValue === "yes"); });
}
