/** What became of each tile, laid over the picture as squares. */

import { cut, el, fill } from "./dom.js";

// Told apart by those who don't see red or green, and by their words.
const CLASSES = {
  t: ["Tissue, through the model", [0, 90, 181]],
  r: ["Rejected by its entropy, plainly resampled", [254, 180, 0]],
  g: ["Glass, plainly resampled", [110, 110, 110]],
  o: ["Outside of the region of interest, plainly resampled", [200, 200, 200]],
  b: ["Failed: not read, or the model not believed", [204, 17, 0]],
  ".": ["Not finished yet", [255, 255, 255]],
};
const COOL = [255, 255, 204], WARM = [128, 0, 38];
const SIDE = 4; // pixels of a square, so that a cut tile's can be cut, too
const MOST_FAILED = 50;

export class Overlays {
  constructor(list, results) {
    Object.assign(this, { list, results, panes: [], on: new Set() });
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
    const classes = Object.entries(CLASSES).map(([letter, [words, colour]]) => {
      const count = letters.split(letter).length - 1;
      return count > 0 && this.choice(letter, `${words}: ${count} tiles`, `rgb(${colour})`);
    });
    const distance = `Distance of the result, reduced again, from its source: 0 to ${this.worst.toFixed(1)} grey levels`;
    const failed = maps.flatMap((one) => one.bad).slice(0, MOST_FAILED);
    fill(
      this.list,
      maps.length ? classes : "Nothing is known of the tiles yet.",
      maps.length > 0 && this.choice("heat", distance, `linear-gradient(to right, rgb(${COOL}), rgb(${WARM}))`),
      el("ul", {}, failed.map((one) => el("li", {}, `Row ${one.row}, column ${one.column}: ${one.cause}; ${one.remedy}`))),
    );
    this.draw();
  }

  choice(name, words, colours) {
    const { root, box, swatch, word } = cut("overlay");
    word.textContent = words;
    swatch.style.background = colours;
    box.checked = this.on.has(name);
    box.addEventListener("change", () => {
      this.on[box.checked ? "add" : "delete"](name);
      this.draw();
    });
    return root;
  }

  draw() {
    for (const one of this.panes) {
      for (const canvas of one.canvases) one.pane.osd.removeOverlay(canvas);
      one.canvases = this.on.size ? this.results.flatMap(({ map }) => (map ? this.lay(one.pane, map) : [])) : [];
    }
  }

  lay(pane, map) {
    const side = (length) => Math.max(1, Math.round((length / map.tile) * SIDE));
    const canvas = el("canvas", { class: "overlay", width: side(map.width), height: side(map.height), "aria-hidden": "true" });
    const context = canvas.getContext("2d");
    map.map.forEach((row, y) => [...row].forEach((letter, x) => {
      const colour = this.colourOf(letter, map.consistency[y][x]);
      if (!colour) return;
      context.fillStyle = `rgb(${colour})`;
      context.fillRect(x * SIDE, y * SIDE, SIDE, SIDE);
    }));
    const location = new window.OpenSeadragon.Rect(...map.place.map((one) => one / pane.unit));
    pane.osd.addOverlay({ element: canvas, location });
    return canvas;
  }

  colourOf(letter, distance) {
    if (this.on.has("heat") && distance !== null) {
      return COOL.map((cool, at) => Math.round(cool + ((WARM[at] - cool) * distance) / this.worst));
    }
    return this.on.has(letter) && CLASSES[letter][1];
  }
}
