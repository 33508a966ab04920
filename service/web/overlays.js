/** What became of each tile, laid over the picture as squares. */

import { el, fill } from "./dom.js";

// Told apart by people who don't see red or green, and by their words beside.
const CLASSES = [
  ["tissue", "t", "Tissue, through the model", [0, 90, 181]],
  ["rejected", "r", "Rejected by its entropy, plainly resampled", [254, 180, 0]],
  ["glass", "g", "Glass, plainly resampled", [120, 120, 120]],
  ["failed", "b", "Failed: not read or not believed", [204, 17, 0]],
  ["later", ".", "Not finished yet", [255, 255, 255]],
];
const SIDE = 4; // pixels of a square, so that a cut tile's can be cut, too
const COOL = [255, 255, 204], WARM = [128, 0, 38];

export class Overlays {
  constructor(results) {
    Object.assign(this, { results, panes: [], on: new Set() });
    this.list = el("div", { class: "list" });
    this.controls = results.length ? el("details", { class: "overlays" }, el("summary", {}, "Overlays"), this.list) : null;
    this.refresh();
  }

  /** Draw on this pane, too. */
  over(pane) {
    this.panes.push({ pane, canvases: [] });
    this.draw();
  }

  forget(number) { this.panes.splice(number, 1); }

  /** The maps have changed. */
  refresh() {
    const known = this.results.filter((one) => one.map);
    this.worst = Math.max(0.01, ...known.flatMap((one) => one.map.consistency.flat()).filter((one) => one !== null));
    const count = (letter) => known.reduce((sum, one) => sum + one.map.map.join("").split(letter).length - 1, 0);
    const box = (name, text, swatch) => el("label", {},
      el("input", { type: "checkbox", checked: this.on.has(name), change: ({ target }) => { this.on[target.checked ? "add" : "delete"](name); this.draw(); } }),
      swatch, el("span", {}, text));
    const classes = CLASSES.filter(([name, letter]) => count(letter) || this.on.has(name)).map(([name, letter, text, colour]) => box(name, `${text}: ${count(letter)} tiles`, swatch(`rgb(${colour})`)));
    const scale = swatch(`linear-gradient(to right, rgb(${COOL}), rgb(${WARM}))`);
    const bad = known.flatMap((one) => one.map.bad.map((tile) => el("li", {}, `row ${tile.row}, column ${tile.column}: ${tile.cause}; ${tile.remedy}`)));
    fill(
      this.list,
      known.length === 0 && el("p", {}, "Nothing is known of the tiles yet."),
      classes,
      known.length > 0 && box("consistency", `Distance from the source, reduced again: 0 to ${this.worst.toFixed(1)} grey levels`, scale),
      bad.length > 0 && el("ul", {}, bad.slice(0, 50)),
    );
    this.draw();
  }

  draw() {
    for (const one of this.panes) {
      for (const canvas of one.canvases) one.pane.osd.removeOverlay(canvas);
      one.canvases = this.results.filter((result) => result.map && this.on.size).map((result) => this.lay(one.pane, result.map));
    }
  }

  lay(pane, map) {
    const cut = (length) => Math.max(1, Math.round((length / map.tile) * SIDE));
    const canvas = el("canvas", { class: "overlay", width: cut(map.width), height: cut(map.height), "aria-hidden": "true" });
    const context = canvas.getContext("2d");
    map.map.forEach((row, y) => [...row].forEach((letter, x) => {
      const share = map.consistency[y][x];
      const known = CLASSES.find(([name, mark]) => mark === letter && this.on.has(name));
      const heat = this.on.has("consistency") && share !== null && COOL.map((cool, at) => Math.round(cool + (WARM[at] - cool) * (share / this.worst)));
      if (!heat && !known) return;
      context.fillStyle = `rgb(${heat || known[3]})`;
      context.fillRect(x * SIDE, y * SIDE, SIDE, SIDE);
    }));
    pane.osd.addOverlay({ element: canvas, location: new window.OpenSeadragon.Rect(...map.place.map((one) => one / pane.unit)) });
    return canvas;
  }
}

function swatch(background) {
  const made = el("span", { class: "swatch", "aria-hidden": "true" });
  made.style.background = background;
  return made;
}
