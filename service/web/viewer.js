/** The viewer: a slide, a result, or two of them over one another. */

export function openViewer(root, route) {
  root.textContent = `${route.kind} ${route.ids.join(", ")}`;
  return { close() {}, show() {} };
}
