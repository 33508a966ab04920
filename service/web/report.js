/** The report of a job, as the page that the service wrote with the result. */

import { actions } from "./api.js";
import { cut } from "./dom.js";
import { printWhenOpened } from "./offer.js";

export function reportView(id) {
  const { root, look, page, fold } = cut("report");
  look.href = `#/jobs/${id}`;
  page.src = actions.reportPage(id).path;
  printWhenOpened(fold, () => [["As JSON", actions.report(id)], ["As a page", actions.reportPage(id)]]);
  return root;
}
