/** The viewer: a slide, or two aligned images of it as curtain, side by side, blinking or mixed. */

import { actions, call, job, on, slide } from "./api.js";
import { announce, clone, el, fill, problemBox } from "./dom.js";
import { Overlays } from "./overlays.js";
import { ViewerPane } from "./viewer_pane.js";
import { needsMpp } from "./slides.js";
import { save, snapshot } from "./snapshot.js";
import { formatObjective, scaleBar } from "./format.js";

const MAP_MS = 1500;
const ADDRESS_MS = 300;

/** Open a viewer in `root` for a route of main.js. */
export function openViewer(root, route) {
  const viewer = new Viewer(root, route);
  viewer.start().catch((error) => {
    if (!viewer.closed) fill(root, el("div", { class: "page", role: "alert" }, problemBox(error, () => location.reload())));
  });
  return viewer;
}

class Viewer {
  constructor(root, { kind, ids, view }) {
    Object.assign(this, { root, kind, ids, initialView: view, mode: "curtain", share: 0.5, blinkIndex: 1, panes: [] });
    fill(root, el("p", { class: "page", role: "status" }, "Opening the slide…"));
  }

  async start() {
    const jobs = this.kind === "slide" ? [] : await Promise.all(this.ids.map(job));
    this.slideId = jobs[0]?.slide ?? this.ids[0];
    this.facts = await slide(this.slideId).catch((error) => {
      if (jobs.length && error.status === 404) return null; // a result is kept when its slide is deleted
      throw error;
    });
    this.results = jobs.map((one) => ({ id: one.id, job: one, name: this.kind === "job" ? `Result, ${one.model}` : one.model }));
    await Promise.all(this.results.map((one) => this.loadMap(one)));
    if (this.closed) return;
    this.layers = [...this.results];
    if (this.facts) {
      const { width, height } = this.facts;
      this.layers.unshift({ name: "Source", dzi: `v1/slides/${this.slideId}.dzi`, rect: [0, 0, width, height] });
    }
    [this.left, this.right] = this.layers.slice(-2);
    this.build();
    await Promise.all(this.layers.map((one) => this.main.showLayer(one)));
    if (this.closed) return;
    this.show(this.initialView);
    this.updateStatus();
    this.main.osd.canvas.focus();
    this.unsubscribe = on("job", (changed) => this.onJobChange(changed));
  }

  /** Load a result's tile map, position and tile address. */
  async loadMap(result) {
    try {
      const map = await call(actions.map(result.id));
      const finished = map.stripes.filter(Boolean).length;
      const dzi = `v1/jobs/${result.id}/result.dzi${map.complete ? "" : `?n=${finished}`}`;
      Object.assign(result, { map, finished, dzi, rect: map.place, problem: null });
    } catch (error) {
      result.problem = error.code === "job.not-finished" ? null : error;
    }
  }

  build() {
    this.parts = clone("viewer");
    const { root, modes, share, slider, line, mark, upscale, overlays, list, stage } = this.parts;
    this.parts.slide.textContent = this.facts?.name ?? "";
    modes.hidden = share.hidden = !this.right;
    overlays.hidden = mark.hidden = !this.results.length;
    upscale.hidden = this.kind !== "slide";
    slider.addEventListener("input", () => this.setShare(slider.value / 100));
    line.addEventListener("pointerdown", (event) => this.drag(event));
    line.addEventListener("wheel", (event) => this.main.osd.canvas.dispatchEvent(new WheelEvent("wheel", event)));
    root.addEventListener("click", ({ target }) => this.runKey(target.closest("[data-key]")?.dataset.key));
    root.addEventListener("keydown", (event) => this.key(event));
    fill(this.root, root);
    this.overlays = new Overlays(list, this.results);
    this.width = this.facts?.width ?? Math.max(1, ...this.results.map(({ rect }) => (rect ? rect[0] + rect[2] : 1)));
    this.stage = stage;
    this.main = this.addPane();
  }

  addPane() {
    const pane = new ViewerPane(this.stage, this.width, () => this.onMove(pane), () => this.onTileFailed());
    this.panes.push(pane);
    this.overlays.addPane(pane);
    return pane;
  }

  /** Show "x,y,zoom,mode": slide pixel in the centre, screen pixels per slide pixel, and mode. */
  async show(view) {
    const [x, y, zoom, mode] = (view ?? "").split(",");
    this.setMode(["curtain", "side", "blink", "mix"].includes(mode) ? mode : this.mode);
    await this.main.resized();
    if (this.closed) return;
    if (zoom > 0 && Number.isFinite(x - y)) this.main.moveTo(+x, +y, +zoom);
    else this.main.fit((this.results[0] ?? this.left).rect ?? this.left.rect);
  }

  onMove(pane) {
    if (pane === this.activePane) for (const one of this.panes) if (one !== pane) one.follow(pane);
    this.setShare(this.share);
    const { zoom } = this.main.position();
    const { width, label } = scaleBar(this.mpp, zoom);
    this.parts.ruler.style.width = `${width}px`;
    this.parts.length.textContent = label;
    this.parts.power.textContent = this.mpp ? formatObjective(this.mpp / zoom) : "";
    this.addressTimer ??= setTimeout(() => this.updateAddress(), ADDRESS_MS);
  }

  /** Write the view into the page's address; browsers limit such changes to about a hundred a minute. */
  updateAddress() {
    const { x, y, zoom } = this.main.position();
    this.addressTimer = null;
    this.view = [x.toFixed(1), y.toFixed(1), zoom.toPrecision(5), this.mode].join(",");
    history.replaceState(null, "", `${location.hash.split("@")[0]}@${this.view}`);
  }

  /** µm per pixel of level 0, as used by a job or stated by the slide. */
  get mpp() {
    const { map } = this.results.find((one) => one.map?.mpp) ?? {};
    if (map) return (map.mpp[0] * map.width) / map.place[2];
    return !this.facts || needsMpp(this.facts) ? null : this.facts.mpp[0];
  }

  get activePane() { return this.panes.find((one) => one.hasPointer) ?? this.main; }

  setMode(mode) {
    const side = mode === "side" && this.right;
    const { modes, line, share, shareWord } = this.parts;
    this.mode = mode;
    this.blinkIndex = 1;
    for (const one of modes.children) one.setAttribute("aria-pressed", one.dataset.mode === mode);
    share.classList.toggle("off", mode === "side" || mode === "blink");
    shareWord.textContent = mode === "mix" ? "Right image share" : "Curtain position";
    line.hidden = mode !== "curtain" || !this.right;
    if (!side && this.panes[1]) {
      this.panes.pop().close();
      this.overlays.removePane(1);
    }
    const other = this.panes[1] ?? (side && this.addPane());
    if (other) other.showLayer(this.right)?.then(() => other.follow(this.main));
    this.setShare(this.share);
  }

  /** Set the curtain position or the fraction of the right image in the mix. */
  setShare(share) {
    const { mode, blinkIndex, left, right, parts } = this;
    this.share = Math.min(1, Math.max(0, share));
    if (!right) return;
    parts.slider.value = 100 * this.share;
    parts.line.style.left = `${100 * this.share}%`;
    const single = mode === "blink";
    this.main.draw(right, { curtain: 1, side: 0, blink: blinkIndex, mix: this.share }[mode], mode === "curtain" ? this.share : 0);
    const { width, height } = this.facts ?? {};
    const showsSource = mode !== "side" && width && !(right.map?.complete && right.rect[2] * right.rect[3] > 0.99 * width * height);
    parts.left.textContent = single ? "" : left.name;
    parts.right.textContent = single && !blinkIndex ? left.name : right.name + (showsSource ? parts.right.dataset.else : "");
  }

  drag(event) {
    const { line } = this.parts;
    event.preventDefault();
    line.setPointerCapture(event.pointerId);
    line.onpointermove = ({ clientX }) => {
      const { left, width } = this.stage.getBoundingClientRect();
      this.setShare((clientX - left) / width);
    };
    line.onpointerup = () => { line.onpointermove = null; };
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const isPaneKey = ["+", "-", "0"].includes(event.key) && event.target.closest(".pane"); // handled by the pane
    if (!isPaneKey && this.runKey(event.key)) event.preventDefault();
  }

  /** Run the action of a key or its button; return whether there is one. */
  runKey(key) {
    const mode = this.right && { c: "curtain", s: "side", b: "blink", m: "mix" }[key];
    const act = {
      "+": () => this.activePane.zoom(2), "-": () => this.activePane.zoom(0.5), 0: () => this.main.home(), 1: () => this.pixelForPixel(),
      "[": () => this.setShare(this.share - 0.02), "]": () => this.setShare(this.share + 0.02),
      f: () => (document.fullscreenElement ? document.exitFullscreen() : this.root.requestFullscreen()),
      e: () => this.save(), u: () => this.kind === "slide" && this.upscale(),
    }[key];
    if (mode === "blink" && this.mode === "blink") this.blink();
    else if (mode) this.setMode(mode);
    else act?.();
    return Boolean(mode || act);
  }

  blink() {
    this.blinkIndex = 1 - this.blinkIndex;
    this.setShare(this.share);
    announce(`Shown: ${this.parts.right.textContent}`);
  }

  pixelForPixel() {
    const { x, y } = this.main.position();
    this.main.moveTo(x, y, Math.max(1, ...this.results.map(({ map }) => (map ? map.width / map.place[2] : 1))) / devicePixelRatio);
  }

  async save() {
    await save(snapshot(this.parts, this.panes), `${this.ids.join("-")}-${this.view ?? "view"}.png`);
    announce("The view was saved as PNG.");
  }

  upscale() {
    const { x, y, width, height } = this.main.visibleRegion();
    const within = (value, most) => Math.round(Math.min(most, Math.max(0, value)));
    const left = within(x, this.facts.width - 1), top = within(y, this.facts.height - 1);
    const right = within(x + width, this.facts.width), bottom = within(y + height, this.facts.height);
    location.hash = `/slides/${this.slideId}/upscale?region=${[left, top, right - left, bottom - top]}`;
  }

  async onJobChange(changed) {
    const result = this.results.find((one) => one.id === changed.id);
    if (!result) return;
    result.job = changed;
    this.updateStatus();
    const ended = changed.state === "succeeded", finished = result.finished;
    if (result.map?.complete || result.loading || !(ended || Date.now() - (result.requested ?? 0) > MAP_MS)) return;
    Object.assign(result, { requested: Date.now(), loading: true });
    await this.loadMap(result);
    result.loading = false;
    if (this.closed || (result.finished === finished && !result.map?.complete)) return;
    this.tilesFailed = false;
    this.overlays.refresh();
    await Promise.all(this.panes.map((one) => (one === this.main || result === this.right) && one.showLayer(result)));
    this.updateStatus();
    if (!this.closed) this.setShare(this.share);
  }

  /** Send a request, which reports a lost service or session. */
  async onTileFailed() {
    if (this.tilesFailed) return;
    this.tilesFailed = true;
    await call(actions.slide(this.slideId)).catch(() => {});
    if (!this.closed) this.updateStatus();
  }

  updateStatus() {
    const words = this.parts.status.dataset;
    const messages = this.results.map(({ name, problem, map, finished, job: { state, error } }) => {
      if (problem) return `${name}: ${problem.detail}`;
      if (state === "succeeded") return "";
      const stripes = map ? `, ${finished} of ${map.stripes.length} stripes are visible` : "";
      return `${name}: ${state}${error ? ` (${error.title})` : ""}${stripes}`;
    });
    if (!this.facts) messages.push(words.deleted);
    if (!this.mpp) messages.push(words.scaleless);
    if (this.tilesFailed) messages.push(words.missing);
    this.parts.status.textContent = messages.filter(Boolean).join(". ");
  }

  close() {
    this.closed = true;
    clearTimeout(this.addressTimer);
    this.unsubscribe?.();
    for (const one of this.panes) one.close();
  }
}
