/** The viewer: a slide, or two pictures of it in register: through a curtain, side by side, blinking or mixed. */

import { actions, call, job, on, slide } from "./api.js";
import { announce, cut, el, fill, trouble } from "./dom.js";
import { Overlays } from "./overlays.js";
import { Pane } from "./pane.js";
import { needsMpp } from "./slides.js";
import { save, snapshot } from "./snapshot.js";
import { objective, scaleBar } from "./words.js";

const MAP_AGAIN_MS = 1500;
const ADDRESS_AGAIN_MS = 300;

/** Show in `root` what a route names; see main.js. */
export function openViewer(root, route) {
  const viewer = new Viewer(root, route);
  viewer.start().catch((error) => {
    if (!viewer.closed) fill(root, el("div", { class: "page", role: "alert" }, trouble(error, () => location.reload())));
  });
  return viewer;
}

class Viewer {
  constructor(root, { kind, ids, view }) {
    Object.assign(this, { root, kind, ids, wanted: view, mode: "curtain", share: 0.5, shows: 1, panes: [] });
    fill(root, el("p", { class: "page", role: "status" }, "Opening the slide…"));
  }

  async start() {
    const jobs = this.kind === "slide" ? [] : await Promise.all(this.ids.map(job));
    this.slideId = jobs[0]?.slide ?? this.ids[0];
    this.facts = await slide(this.slideId).catch((error) => {
      if (jobs.length && error.status === 404) return null; // results outlive their slide
      throw error;
    });
    this.results = jobs.map((one) => ({ id: one.id, job: one, name: this.kind === "job" ? `Result, ${one.model}` : one.model }));
    await Promise.all(this.results.map((one) => this.learn(one)));
    if (this.closed) return;
    this.layers = [...this.results];
    if (this.facts) {
      const { width, height } = this.facts;
      this.layers.unshift({ name: "Source", dzi: `v1/slides/${this.slideId}.dzi`, rect: [0, 0, width, height] });
    }
    [this.left, this.right] = this.layers.slice(-2);
    this.build();
    await Promise.all(this.layers.map((one) => this.main.put(one)));
    if (this.closed) return;
    this.show(this.wanted);
    this.tellState();
    this.main.osd.canvas.focus();
    this.unhear = on("job", (changed) => this.heard(changed));
  }

  /** What is known of a result by now: its map, its place on the slide, and where its tiles are. */
  async learn(result) {
    try {
      const map = await call(actions.map(result.id));
      const finished = map.stripes.filter(Boolean).length;
      const dzi = `v1/jobs/${result.id}/result.dzi${map.complete ? "" : `?n=${finished}`}`;
      Object.assign(result, { map, finished, dzi, rect: map.place, met: null });
    } catch (error) {
      result.met = error.code === "job.not-finished" ? null : error;
    }
  }

  build() {
    this.parts = cut("viewer");
    const { root, modes, share, slider, line, mark, upscale, overlays, list, stage } = this.parts;
    this.parts.slide.textContent = this.facts?.name ?? "";
    modes.hidden = share.hidden = !this.right;
    overlays.hidden = mark.hidden = !this.results.length;
    upscale.hidden = this.kind !== "slide";
    slider.addEventListener("input", () => this.divide(slider.value / 100));
    line.addEventListener("pointerdown", (event) => this.drag(event));
    line.addEventListener("wheel", (event) => this.main.osd.canvas.dispatchEvent(new WheelEvent("wheel", event)));
    root.addEventListener("click", ({ target }) => this.does(target.closest("[data-key]")?.dataset.key));
    root.addEventListener("keydown", (event) => this.key(event));
    fill(this.root, root);
    this.overlays = new Overlays(list, this.results);
    this.width = this.facts?.width ?? Math.max(1, ...this.results.map(({ rect }) => (rect ? rect[0] + rect[2] : 1)));
    this.stage = stage;
    this.main = this.addPane();
  }

  addPane() {
    const pane = new Pane(this.stage, this.width, () => this.moved(pane), () => this.miss());
    this.panes.push(pane);
    this.overlays.over(pane);
    return pane;
  }

  /** A view "x,y,zoom,mode": the slide's pixel in the middle, screen pixels for each of the slide's, and the mode. */
  async show(view) {
    const [x, y, zoom, mode] = (view ?? "").split(",");
    this.turn(["curtain", "side", "blink", "mix"].includes(mode) ? mode : this.mode);
    await this.main.sized();
    if (this.closed) return;
    if (zoom > 0 && Number.isFinite(x - y)) this.main.look(+x, +y, +zoom);
    else this.main.fit((this.results[0] ?? this.left).rect ?? this.left.rect);
  }

  moved(pane) {
    if (pane === this.leader) for (const one of this.panes) if (one !== pane) one.follow(pane);
    this.divide(this.share);
    const { zoom } = this.main.where();
    const { width, label } = scaleBar(this.mpp, zoom);
    this.parts.ruler.style.width = `${width}px`;
    this.parts.length.textContent = label;
    this.parts.power.textContent = this.mpp ? objective(this.mpp / zoom) : "";
    this.later ??= setTimeout(() => this.tellAddress(), ADDRESS_AGAIN_MS);
  }

  /** Make the page's address one of this view; browsers allow some hundred a minute. */
  tellAddress() {
    const { x, y, zoom } = this.main.where();
    this.later = null;
    this.view = [x.toFixed(1), y.toFixed(1), zoom.toPrecision(5), this.mode].join(",");
    history.replaceState(null, "", `${location.hash.split("@")[0]}@${this.view}`);
  }

  /** µm per pixel of the slide's finest level, as a job used it or the slide says. */
  get mpp() {
    const { map } = this.results.find((one) => one.map?.mpp) ?? {};
    if (map) return (map.mpp[0] * map.width) / map.place[2];
    return !this.facts || needsMpp(this.facts) ? null : this.facts.mpp[0];
  }

  get leader() { return this.panes.find((one) => one.leads) ?? this.main; }

  turn(mode) {
    const side = mode === "side" && this.right;
    const { modes, line, share, shareWord } = this.parts;
    this.mode = mode;
    this.shows = 1;
    for (const one of modes.children) one.setAttribute("aria-pressed", one.dataset.mode === mode);
    share.classList.toggle("off", mode === "side" || mode === "blink");
    shareWord.textContent = mode === "mix" ? "Share of the right" : "Place of the curtain";
    line.hidden = mode !== "curtain" || !this.right;
    if (!side && this.panes[1]) {
      this.panes.pop().close();
      this.overlays.forget(1);
    }
    const other = this.panes[1] ?? (side && this.addPane());
    if (other) other.put(this.right)?.then(() => other.follow(this.main));
    this.divide(this.share);
  }

  /** Share the picture out between the two: `share` is the curtain's place, or how much of the right one is mixed in. */
  divide(share) {
    const { mode, shows, left, right, parts } = this;
    this.share = Math.min(1, Math.max(0, share));
    if (!right) return;
    parts.slider.value = 100 * this.share;
    parts.line.style.left = `${100 * this.share}%`;
    const single = mode === "blink";
    this.main.draw(right, { curtain: 1, side: 0, blink: shows, mix: this.share }[mode], mode === "curtain" ? this.share : 0);
    const { width, height } = this.facts ?? {};
    const beneath = mode !== "side" && width && !(right.map?.complete && right.rect[2] * right.rect[3] > 0.99 * width * height);
    parts.left.textContent = single ? "" : left.name;
    parts.right.textContent = single && !shows ? left.name : right.name + (beneath ? parts.right.dataset.else : "");
  }

  drag(event) {
    const { line } = this.parts;
    event.preventDefault();
    line.setPointerCapture(event.pointerId);
    line.onpointermove = ({ clientX }) => {
      const { left, width } = this.stage.getBoundingClientRect();
      this.divide((clientX - left) / width);
    };
    line.onpointerup = () => { line.onpointermove = null; };
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = ["+", "-", "0"].includes(event.key) && event.target.closest(".pane"); // the pane's own
    if (!moves && this.does(event.key)) event.preventDefault();
  }

  /** Do what a key or the button of that key stands for; tells whether there is such a thing. */
  does(key) {
    const mode = this.right && { c: "curtain", s: "side", b: "blink", m: "mix" }[key];
    const act = {
      "+": () => this.leader.zoom(2), "-": () => this.leader.zoom(0.5), 0: () => this.main.home(), 1: () => this.pixelForPixel(),
      "[": () => this.divide(this.share - 0.02), "]": () => this.divide(this.share + 0.02),
      f: () => (document.fullscreenElement ? document.exitFullscreen() : this.root.requestFullscreen()),
      e: () => this.save(), u: () => this.kind === "slide" && this.upscale(),
    }[key];
    if (mode === "blink" && this.mode === "blink") this.blink();
    else if (mode) this.turn(mode);
    else act?.();
    return Boolean(mode || act);
  }

  blink() {
    this.shows = 1 - this.shows;
    this.divide(this.share);
    announce(`Shown: ${this.parts.right.textContent}`);
  }

  pixelForPixel() {
    const { x, y } = this.main.where();
    this.main.look(x, y, Math.max(1, ...this.results.map(({ map }) => (map ? map.width / map.place[2] : 1))) / devicePixelRatio);
  }

  async save() {
    await save(snapshot(this.parts, this.panes), `${this.ids.join("-")}-${this.view ?? "view"}.png`);
    announce("The view was saved as PNG.");
  }

  upscale() {
    const { x, y, width, height } = this.main.shown();
    const within = (value, most) => Math.round(Math.min(most, Math.max(0, value)));
    const left = within(x, this.facts.width - 1), top = within(y, this.facts.height - 1);
    const right = within(x + width, this.facts.width), bottom = within(y + height, this.facts.height);
    location.hash = `/slides/${this.slideId}/upscale?region=${[left, top, right - left, bottom - top]}`;
  }

  /** A job that is looked at has changed: when more of its stripes are finished, or all, show them. */
  async heard(changed) {
    const result = this.results.find((one) => one.id === changed.id);
    if (!result) return;
    result.job = changed;
    this.tellState();
    const ended = changed.state === "succeeded", finished = result.finished;
    if (result.map?.complete || result.asking || !(ended || Date.now() - (result.asked ?? 0) > MAP_AGAIN_MS)) return;
    Object.assign(result, { asked: Date.now(), asking: true });
    await this.learn(result);
    result.asking = false;
    if (this.closed || (result.finished === finished && !result.map?.complete)) return;
    this.missing = false;
    this.overlays.refresh();
    await Promise.all(this.panes.map((one) => (one === this.main || result === this.right) && one.put(result)));
    this.tellState();
    if (!this.closed) this.divide(this.share);
  }

  /** A tile did not come; asking tells of a service or session that is gone. */
  async miss() {
    if (this.missing) return;
    this.missing = true;
    await call(actions.slide(this.slideId)).catch(() => {});
    if (!this.closed) this.tellState();
  }

  tellState() {
    const words = this.parts.status.dataset;
    const told = this.results.map(({ name, met, map, finished, job: { state, error } }) => {
      if (met) return `${name}: ${met.detail}`;
      if (state === "succeeded") return "";
      const stripes = map ? `, ${finished} of ${map.stripes.length} stripes can be seen` : "";
      return `${name}: ${state}${error ? ` (${error.title})` : ""}${stripes}`;
    });
    if (!this.facts) told.push(words.deleted);
    if (!this.mpp) told.push(words.scaleless);
    if (this.missing) told.push(words.missing);
    this.parts.status.textContent = told.filter(Boolean).join(". ");
  }

  close() {
    this.closed = true;
    clearTimeout(this.later);
    this.unhear?.();
    for (const one of this.panes) one.close();
  }
}
