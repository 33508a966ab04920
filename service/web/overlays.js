/** Overlays that show the state of each tile as coloured squares. */

import { el, fill } from "./dom.js";

const LOW = [255, 255, 204], HIGH = [128, 0, 38];
const SIDE = 4; // pixels per tile, so that a partial tile can be drawn narrower
const MAX_FAILED = 50;

export class Overlays {
  constructor(list, results) {
    Object.assign(this, { list, results, panes: [], choices: new Map() });
    for (const label of list.querySelectorAll("label")) {
      const [box, swatch, words] = label.children;
      this.choices.set(label.dataset.letter, { label, box, swatch, figure: words.lastElementChild });
    }
    list.onchange = () => this.draw();
    this.choices.get("heat").swatch.style.background = `linear-gradient(to right, rgb(${LOW}), rgb(${HIGH}))`;
    this.refresh();
  }

  addPane(pane) {
    this.panes.push({ pane, canvases: [] });
    this.draw();
  }

  removePane(number) { this.panes.splice(number, 1); }

  refresh() {
    const maps = this.results.flatMap((one) => one.map ?? []);
    const letters = maps.flatMap((one) => one.map).join("");
    this.worst = Math.max(0.01, ...maps.flatMap((one) => one.consistency.flat()));
    for (const [letter, { label, figure }] of this.choices) {
      const count = letter === "heat" ? maps.length && this.worst.toFixed(1) : letters.split(letter).length - 1;
      figure.textContent = count;
      label.hidden = !count;
    }
    const failed = maps.flatMap((one) => one.bad).slice(0, MAX_FAILED);
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
      one.canvases = this.results.flatMap(({ map }) => (map && Object.keys(this.colours).length ? this.drawMap(one.pane, map) : []));
    }
  }

  drawMap(pane, map) {
    const side = (length) => Math.max(1, Math.round((length / map.tile) * SIDE));
    const canvas = el("canvas", { class: "overlay", width: side(map.width), height: side(map.height), "aria-hidden": "true" });
    const context = canvas.getContext("2d");
    map.map.forEach((row, y) => [...row].forEach((letter, x) => {
      context.fillStyle = this.colourOf(letter, map.consistency[y][x]) ?? "transparent";
      context.fillRect(x * SIDE, y * SIDE, SIDE, SIDE);
    }));
    pane.addOverlay(canvas, map.place);
    return canvas;
  }

  colourOf(letter, distance) {
    if (!this.colours.heat || distance === null) return this.colours[letter];
    return `rgb(${LOW.map((low, at) => Math.round(low + ((HIGH[at] - low) * distance) / this.worst))})`;
  }
}
