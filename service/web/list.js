/** A list by pages whose rows stay: loading, empty, failed, more; the newest first. */

import { call, on } from "./api.js";
import { attempt, cut, el, fill } from "./dom.js";

/**
 * @param page    makes the action of a page, given the `next` of the one before
 * @param member  name of the entries in the answer
 * @param makeRow entry => {element, update(entry)}
 */
export function pagedList(page, member, makeRow) {
  const rows = new Map();
  const body = el("ul", { class: "rows", "aria-label": member }, [1, 2, 3].map(() => el("li", { class: "row skeleton" })));
  const empty = cut(`no-${member}`).root;
  const foot = el("div", { class: "foot" });
  let loaded = false;

  function put(entry) {
    const known = rows.get(entry.id);
    if (known?.entry.revision > entry.revision || !loaded) return;
    if (known) {
      known.entry = entry;
      known.row.update(entry);
      return;
    }
    const row = makeRow(entry);
    rows.set(entry.id, { entry, row });
    row.element.dataset.created = entry.created;
    body.insertBefore(row.element, [...body.children].find((one) => one.dataset.created < entry.created) ?? null);
    empty.hidden = true;
  }

  function remove(id) {
    rows.get(id).row.element.remove();
    rows.delete(id);
    empty.hidden = rows.size > 0;
  }

  const load = (next) => attempt(foot, async () => {
    const answer = await call(page(next));
    if (!loaded) fill(body);
    loaded = true;
    if (!next) forget(answer);
    answer[member].forEach(put);
    empty.hidden = rows.size > 0;
    fill(foot, answer.next && el("button", { type: "button", click: () => load(answer.next) }, "More"));
  }, true);

  /** Drop rows that the first page would hold if they were still there. */
  function forget(answer) {
    const there = answer[member].map((entry) => entry.id);
    const last = answer[member].at(-1)?.created ?? "";
    for (const [id, { entry }] of rows) {
      if (!there.includes(id) && (!answer.next || entry.created > last)) remove(id);
    }
  }

  on("returned", () => load());
  load();
  return { element: el("div", {}, body, empty, foot), put, remove };
}
