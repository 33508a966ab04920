/** A list by pages whose rows stay: loading, empty, failed, more; the newest first. */

import { call, on } from "./api.js";
import { el, fill, trouble } from "./dom.js";

/**
 * @param page   makes the action of a page, given the `next` of the one before
 * @param member name of the entries in the answer
 * @param makeRow entry => {element, update(entry)}
 * @param empty  element that says what to do where there is nothing
 */
export function pagedList({ label, page, member, makeRow, empty }) {
  const rows = new Map();
  const body = el("ul", { class: "rows", "aria-label": label });
  const foot = el("div", { class: "foot" });
  const element = el("div", { "aria-busy": "true" }, body, foot);
  let loaded = false;
  fill(body, [1, 2, 3].map(() => el("li", { class: "row skeleton" })));

  function put(entry) {
    const known = rows.get(entry.id);
    if (known) {
      if (entry.revision < known.entry.revision) return;
      known.entry = entry;
      known.row.update(entry);
      return;
    }
    if (!loaded) return;
    const older = [...rows.values()].find((one) => one.entry.created < entry.created);
    const row = makeRow(entry);
    rows.set(entry.id, { entry, row });
    body.insertBefore(row.element, older?.row.element ?? null);
    if (older) sort();
    settle();
  }

  function sort() {
    const sorted = [...rows].sort(([, one], [, other]) => (one.entry.created < other.entry.created ? 1 : -1));
    rows.clear();
    for (const [id, kept] of sorted) rows.set(id, kept);
  }

  function remove(id) {
    rows.get(id)?.row.element.remove();
    rows.delete(id);
    settle();
  }

  function settle() {
    empty.hidden = rows.size > 0;
    body.hidden = rows.size === 0;
    if (!empty.isConnected) body.after(empty);
  }

  async function load(next) {
    try {
      const answer = await call(page(next));
      if (!loaded) fill(body);
      loaded = true;
      if (!next) forget(answer);
      answer[member].forEach(put);
      settle();
      fill(foot, answer.next && el("button", { type: "button", click: () => load(answer.next) }, "More"));
    } catch (error) {
      fill(foot, trouble(error, () => load(next)));
    }
    element.setAttribute("aria-busy", String(!loaded));
  }

  /** Drop rows that the first page would hold if they were still there. */
  function forget(answer) {
    const there = new Set(answer[member].map((entry) => entry.id));
    const last = answer[member].at(-1)?.created ?? "";
    for (const [id, { entry }] of rows) {
      if (!there.has(id) && (!answer.next || entry.created > last)) remove(id);
    }
  }

  on("returned", () => load());
  load();
  return { element, put, remove };
}
