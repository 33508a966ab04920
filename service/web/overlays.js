/** What became of each tile, laid over the picture as squares. */

import { el, fill } from "./dom.js";

const COOL = [255, 255, 204], WARM = [128, 0, 38];
const SIDE = 4; // pixels of a square, so that a cut tile's can be cut, too
const MOST_FAILED = 50;

export class Overlays {
  constructor(list, results) {
    Object.assign(this, { list, results, panes: [], choices: new Map() });
    for (const label of list.querySelectorAll("label")) {
      const [box, swatch, words] = label.children;
      this.choices.set(label.dataset.letter, { label, box, swatch, figure: words.lastElementChild });
    }
    list.onchange = () => this.draw();
    this.choices.get("heat").swatch.style.background = `linear-gradient(to right, rgb(${COOL}), rgb(${WARM}))`;
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
    const maps = this.results.flatMap((one) => one.map ?? []);
    const letters = maps.flatMap((one) => one.map).join("");
    this.worst = Math.max(0.01, ...maps.flatMap((one) => one.consistency.flat()));
    for (const [letter, { label, figure }] of this.choices) {
      const count = letter === "heat" ? maps.length && this.worst.toFixed(1) : letters.split(letter).length - 1;
      figure.textContent = count;
      label.hidden = !count;
    }
    const failed = maps.flatMap((one) => one.bad).slice(0, MOST_FAILED);
    fill(this.list.lastElementChild, failed.map((one) => el("li", {}, `Row ${one.row}, column ${one.column}: ${one.cause}; ${one.remedy}`)));
    this.draw();
  }

  draw() {
    this.colours = {};
    for (const [letter, { box, swatch }] of this.choices) {
      if (box.checked) this.colours[letter] = getComputedStyle(swatch).backgroundColor;
    }
    for (const one of this.panes) {
      for (const canvas of one.canvases) one.pane.osd.removeOverlay(canvas);
      one.canvases = this.results.flatMap(({ map }) => (map && Object.keys(this.colours).length ? this.lay(one.pane, map) : []));
    }
  }

  lay(pane, map) {
    const side = (length) => Math.max(1, Math.round((length / map.tile) * SIDE));
    const canvas = el("canvas", { class: "overlay", width: side(map.width), height: side(map.height), "aria-hidden": "true" });
    const context = canvas.getContext("2d");
    map.map.forEach((row, y) => [...row].forEach((letter, x) => {
      context.fillStyle = this.colourOf(letter, map.consistency[y][x]) ?? "transparent";
      context.fillRect(x * SIDE, y * SIDE, SIDE, SIDE);
    }));
    pane.lay(canvas, map.place);
    return canvas;
  }

  colourOf(letter, distance) {
    if (!this.colours.heat || distance === null) return this.colours[letter];
    return `rgb(${COOL.map((cool, at) => Math.round(cool + ((WARM[at] - cool) * distance) / this.worst))})`;
  }
}
