/** Makers of elements: what comes from the service is text, never markup. */

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  fill(made, ...children);
  return made;
}

/** Put children in place of what an element holds; null and false are left out. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(2).filter((one) => one != null && one !== false));
}

export const unseen = (text) => el("span", { class: "unseen" }, text);

/** A problem's title and detail, each place that was wrong, and a way to try again. */
export function trouble(error, retry) {
  const places = (error.errors ?? []).map((one) => el("li", {}, `${one.loc?.slice(1).join(".")}: ${one.msg}`));
  return el(
    "div", { class: "trouble" },
    el("strong", {}, error.title ?? "The page met an error"),
    el("p", {}, error.detail ?? String(error)),
    places.length > 0 && el("ul", {}, places),
    retry && el("button", { type: "button", click: retry }, "Try again"),
  );
}

/** A box of fixed size for a picture that may come late or not at all. */
export function picture(address, alt) {
  const frame = el("div", { class: "picture" });
  const image = el("img", {
    alt, loading: "lazy", decoding: "async",
    load: () => frame.classList.add("shown"),
    error: () => fill(frame, el("span", { class: "none" }, "no picture")),
  });
  if (address) image.src = address;
  fill(frame, address && image);
  return frame;
}

/** A command and a button that copies it; `show` changes the command. */
export function command(text) {
  const code = el("code", {}, text);
  const button = el("button", { type: "button", class: "quiet", click: () => copy(code, button) }, "Copy");
  const element = el("div", { class: "command" }, el("pre", { tabindex: "0" }, code), button);
  return { element, show: (changed) => { code.textContent = changed; } };
}

async function copy(code, button) {
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch { // over plain http a page has no clipboard
    getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

/** Commands behind a fold; `entries` are pairs of a heading and a command. */
export function commands(entries) {
  return el(
    "details", { class: "fold" },
    el("summary", {}, "curl"),
    entries.map(([heading, text]) => [el("p", {}, heading), command(text).element]),
  );
}

/** A dialog over the page, closed by its button, Escape, or whoever made it. */
export function dialog(heading, ...content) {
  const element = el(
    "dialog", { "aria-label": heading, close: () => element.remove() }, el("h2", {}, heading), content,
  );
  document.body.append(element);
  element.showModal();
  return element;
}

/** Ask before what can't be undone; true when the answer is yes. */
export function confirmed(question, consequence, verb) {
  return new Promise((resolve) => {
    const box = dialog(
      question,
      el("p", {}, consequence),
      el("div", { class: "actions" },
        el("button", { type: "button", autofocus: true, click: () => box.close() }, "Keep"),
        el("button", { type: "button", class: "danger", click: () => { box.returnValue = "yes"; box.close(); } }, verb)),
    );
    box.addEventListener("close", () => resolve(box.returnValue === "yes"));
  });
}

/** Tell those who can't see the page; rarely, or it becomes chatter. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}
