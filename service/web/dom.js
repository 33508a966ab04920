/** Functions that create elements: data of the service is inserted as text, never as markup. */

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  fill(element, ...children);
  return element;
}

export function fill(parent, ...children) {
  parent.replaceChildren(...children.flat().filter((one) => one != null && one !== false));
}

export function namedParts(root) {
  return Object.fromEntries([...root.querySelectorAll("[data-part]")].map((one) => [one.dataset.part, one]));
}

/** Copy a template of index.html; return its `root` and its named parts. */
export function clone(template) {
  const root = document.getElementById(template).content.firstElementChild.cloneNode(true);
  return { root, ...namedParts(root) };
}

/** Show an error's title, detail and invalid fields, and a button to try again. */
export function problemBox(error, retry) {
  return el(
    "div", { class: "problem" },
    el("strong", {}, error.title ?? "An error occurred in the page"),
    el("p", {}, error.detail ?? String(error)),
    error.errors?.map((one) => el("p", {}, `${one.loc.slice(1).join(".")}: ${one.msg}`)),
    retry && el("button", { type: "button", click: retry }, "Try again"),
  );
}

/** Run `work` and show its error in `place`. */
export async function attempt(place, work, retry = false) {
  fill(place);
  try {
    await work();
  } catch (error) {
    fill(place, problemBox(error, retry && (() => attempt(place, work, true))));
  }
}

export const warnings = (sentences) => sentences.map((one) => el("p", { class: "warning" }, one));

export function showImage(frame, address) {
  if (frame.dataset.address === address) return;
  frame.dataset.address = address;
  fill(frame, address && el("img", {
    src: address, alt: "", loading: "lazy",
    error: () => fill(frame, "no image"),
  }));
}

export function announce(text) {
  document.getElementById("announcer").textContent = text;
}
