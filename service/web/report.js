/** Shows the HTML report of a job. */

import { actions } from "./api.js";
import { clone } from "./dom.js";
import { bindCommands } from "./row_actions.js";

export function reportView(id) {
  const { root, view, page, fold } = clone("report");
  view.href = `#/jobs/${id}`;
  page.src = actions.reportPage(id).path;
  bindCommands(fold, () => [["As JSON", actions.report(id)], ["As HTML", actions.reportPage(id)]]);
  return root;
}
