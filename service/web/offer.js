/** What a row offers: each button or link with `data-do` names an action, which is done or printed as curl. */

import { actions, call, curl } from "./api.js";
import { attempt, el, fill, partsOf } from "./dom.js";

/** Let the actions of a row work; `done` hears each answer. */
export function offer({ root, problem, fold }, id, done) {
  const offered = [...root.querySelectorAll("[data-do]")];
  const action = (one) => actions[one.dataset.do](id);
  for (const one of offered) {
    if (one.matches("a")) one.href = action(one).path;
    one.addEventListener("click", async () => {
      if (one.matches("a") || (one.dataset.sure && !await sure(one))) return;
      attempt(problem, async () => done(await call(action(one))));
    });
  }
  const possible = (one) => getComputedStyle(one).display !== "none";
  printWhenOpened(fold, () => offered.filter(possible).map((one) => [one.dataset.told ?? one.textContent, action(one)]));
}

/** Fill a fold with the commands of `list()`, headings and actions, when it opens. */
export function printWhenOpened(fold, list) {
  const place = el("div");
  let shown = [];
  fold.append(place);
  fold.addEventListener("toggle", () => {
    const now = fold.open ? list().map(([heading, action]) => [heading, curl(action)]) : [];
    if (String(now) === String(shown)) return; // focus and selection stay
    shown = now;
    fill(place, now.flatMap(([heading, text]) => [el("p", {}, heading), command(text)]));
  });
}

export function command(text) {
  const code = el("code", {}, text);
  const button = el("button", { type: "button", class: "quiet", click: () => copy(code, button) }, "Copy");
  return el("div", { class: "command" }, el("pre", {}, code), button);
}

async function copy(code, button) {
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch { // over plain http a page has no clipboard
    getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
}

function sure(button) {
  const box = document.getElementById("sure");
  const { question, keep, go } = partsOf(box);
  question.textContent = button.dataset.sure;
  go.textContent = button.textContent;
  box.returnValue = "";
  keep.onclick = () => box.close();
  go.onclick = () => box.close("yes");
  box.showModal();
  return new Promise((resolve) => { box.onclose = () => resolve(box.returnValue === "yes"); });
}
