/** A list that loads page by page, newest first, and keeps its rows. */

import { call, on } from "./api.js";
import { attempt, clone, el, fill } from "./dom.js";

/** `page(next)` returns a request, `member` names its entries, `makeRow(entry)` returns {element, update}. */
export function pagedList(page, member, makeRow) {
  const rows = new Map();
  const body = el("ul", { class: "rows", "aria-label": member }, el("li", { class: "row skeleton" }));
  const empty = clone(`no-${member}`).root;
  const foot = el("div", { class: "foot" });
  let loaded = false;

  function put(entry) {
    let row = rows.get(entry.id);
    if (row?.entry.revision > entry.revision || !loaded) return;
    if (row) {
      row.update(entry);
    } else {
      row = makeRow(entry);
      row.element.dataset.created = entry.created;
      rows.set(entry.id, row);
      body.insertBefore(row.element, [...body.children].find((one) => one.dataset.created < entry.created) ?? null);
      empty.hidden = true;
    }
    row.entry = entry;
  }

  function remove(id) {
    rows.get(id).element.remove();
    rows.delete(id);
    empty.hidden = rows.size > 0;
  }

  const load = (next) => attempt(foot, async () => {
    const answer = await call(page(next));
    if (!loaded) fill(body);
    loaded = true;
    const listed = answer[member].map((entry) => entry.id);
    const oldest = answer.next ? answer[member].at(-1).created : "";
    if (!next) for (const [id, { entry }] of rows) if (!listed.includes(id) && entry.created > oldest) remove(id);
    answer[member].forEach(put);
    empty.hidden = rows.size > 0;
    fill(foot, answer.next && el("button", { type: "button", click: () => load(answer.next) }, "More"));
  }, true);

  on("reconnected", () => load());
  load();
  return { element: el("div", {}, body, empty, foot), put, remove };
}
