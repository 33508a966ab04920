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

export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((one) => one != null && one !== false));
}

export function partsOf(root) {
  return Object.fromEntries([...root.querySelectorAll("[data-part]")].map((one) => [one.dataset.part, one]));
}

/** A copy of a template of index.html, as `root`, and its parts. */
export function cut(template) {
  const root = document.getElementById(template).content.firstElementChild.cloneNode(true);
  return { root, ...partsOf(root) };
}

/** A problem's title and detail, each place that was wrong, and a way to try again. */
export function trouble(error, retry) {
  return el(
    "div", { class: "trouble" },
    el("strong", {}, error.title ?? "The page met an error"),
    el("p", {}, error.detail ?? String(error)),
    error.errors?.map((one) => el("p", {}, `${one.loc.slice(1).join(".")}: ${one.msg}`)),
    retry && el("button", { type: "button", click: retry }, "Try again"),
  );
}

/** Do what may fail, and say in `place` where it does. */
export async function attempt(place, work, again = false) {
  fill(place);
  try {
    await work();
  } catch (error) {
    fill(place, trouble(error, again && (() => attempt(place, work, true))));
  }
}

export const warnings = (sentences) => sentences.map((one) => el("p", { class: "warning" }, one));

export function showPicture(frame, address) {
  if (frame.dataset.address === address) return;
  frame.dataset.address = address;
  fill(frame, address && el("img", {
    src: address, alt: "", loading: "lazy",
    error: () => fill(frame, "no picture"),
  }));
}

export function announce(text) {
  document.getElementById("announcer").textContent = text;
}
