/** The viewer: one slide, or two pictures of it in register, seen through a curtain, side by side, blinking or mixed. */

import { actions, address, call, job, may, onJob, slide } from "./api.js";
import { announce, el, fill, trouble } from "./dom.js";
import { Overlays } from "./overlays.js";
import { Pane } from "./pane.js";
import { magnification, scaleBar } from "./ruler.js";
import { save, snapshot } from "./snapshot.js";

const MARK = "Computed image — not for primary diagnosis";
const MODES = { curtain: "Curtain", side: "Side by side", blink: "Blink", mix: "Mix" };
const KEYS = [
  ["c s b m", "curtain, side by side, blink, mix"], ["Space", "blink: the other picture"],
  ["[ ]", "move the curtain, or change the mix"], ["arrows, + −, 0", "move, zoom, see all"],
  ["1", "a pixel of the finest picture for each of the screen"], ["f", "full screen"], ["e", "save the view as PNG"],
];

/** Show what a route names in `root`; see main.js. */
export function openViewer(root, route) {
  const viewer = new Viewer(root, route);
  viewer.start().catch((error) => { if (!viewer.closed) fill(root, el("div", { class: "page" }, trouble(error, () => location.reload()))); });
  return viewer;
}

class Viewer {
  constructor(root, { kind, ids, view }) {
    Object.assign(this, { root, kind, ids, wanted: view, mode: "curtain", share: 0.5, shows: 1, panes: [], layers: [], stops: [] });
    fill(root, el("p", { class: "viewer-wait", role: "status" }, "Opening the slide…"));
  }

  async start() {
    const jobs = this.kind === "slide" ? [] : await Promise.all(this.ids.map(job));
    this.slideId = jobs.length ? jobs[0].slide : this.ids[0];
    this.facts = await slide(this.slideId).catch((error) => { if (jobs.length && error.status === 404) return null; throw error; });
    await loadLibrary();
    if (this.closed) return;
    if (this.facts) this.layers.push({ name: "Source", dzi: () => `v1/slides/${this.slideId}.dzi`, rect: [0, 0, this.facts.width, this.facts.height] });
    this.results = jobs.map((one) => ({ id: one.id, job: one, name: this.kind === "job" ? `Result, ${one.model}` : one.model, dzi: null, looks: 0 }));
    this.layers.push(...this.results);
    await Promise.all(this.results.map((one) => this.learn(one)));
    if (this.closed) return;
    this.build();
    await this.place();
    this.stops.push(onJob((changed) => this.heard(changed)));
  }

  /** What is known of a result by now: its map, its place on the slide, and an address for its tiles. */
  async learn(result) {
    try {
      const map = await call(actions.map(result.id));
      Object.assign(result, { map, rect: map.place, trouble: null });
      result.dzi = () => `v1/jobs/${result.id}/result.dzi${map.complete ? "" : `?n=${result.looks}`}`;
    } catch (error) {
      result.trouble = error.code === "job.not-finished" ? null : error;
    }
  }

  get pair() { return this.layers.slice(-2); }

  get width() { return this.facts?.width ?? Math.max(...this.results.map((one) => (one.rect ? one.rect[0] + one.rect[2] : 1))); }

  /** µm per pixel of the slide's finest level, as the job used it. */
  get mpp() {
    const known = this.results.find((one) => one.map?.mpp);
    return known ? (known.map.mpp[0] * known.map.width) / known.map.place[2] : this.facts?.mpp?.[0] ?? null;
  }

  build() {
    const button = (text, title, click) => el("button", { type: "button", title, click }, text);
    const two = this.layers.length > 1;
    this.stage = el("div", { class: "stage" });
    this.names = [el("span", { class: "name left" }), el("span", { class: "name right" })];
    this.bar = el("div", { class: "scale-bar" });
    this.slider = el("input", { type: "range", min: 0, max: 100, step: 1, id: "share", input: () => this.divide(this.slider.value / 100) });
    this.line = el("div", { class: "curtain", pointerdown: (event) => this.drag(event), wheel: (event) => this.main.osd.canvas.dispatchEvent(new WheelEvent("wheel", event)) });
    this.status = el("p", { class: "viewer-status", role: "status" });
    this.modes = Object.entries(MODES).map(([mode, text]) => [mode, el("button", { type: "button", "aria-pressed": "false", title: `${text} (${mode[0]})`, click: () => this.turn(mode) }, text)]);
    this.overlays = new Overlays(this.results);
    const help = el("details", { class: "keys" }, el("summary", {}, "Keys"), el("dl", {}, KEYS.map(([key, what]) => [el("dt", {}, key), el("dd", {}, what)])));
    fill(
      this.root,
      el("div", { class: "viewer-tools", role: "toolbar", "aria-label": "Viewer" },
        two && el("div", { class: "group", role: "group", "aria-label": "How the two are shown" }, this.modes.map((one) => one[1])),
        two && el("label", { class: "share", for: "share" }, el("span", {}, ""), this.slider),
        el("div", { class: "group", role: "group", "aria-label": "View" },
          button("−", "Zoom out (-)", () => this.zoom(0.5)), button("+", "Zoom in (+)", () => this.zoom(2)),
          button("All", "See all (0)", () => this.main.home()), button("1:1", "Pixel for pixel (1)", () => this.one()),
          button("Full screen", "Full screen (f)", () => this.fullScreen()), button("Save PNG", "Save this view (e)", () => this.save())),
        this.kind === "slide" && may("write") && button("Upscale this view…", "Ask for a job over what is shown", () => this.upscale()),
        this.overlays.controls, help),
      el("div", { class: "stage-box" }, this.stage, this.names, this.line, this.bar, two || this.results.length ? el("p", { class: "computed" }, MARK) : null),
      this.status,
    );
    this.main = this.pane();
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.stops.push(() => this.panes.forEach((one) => one.close()));
  }

  pane() {
    const pane = new Pane(this.stage, this.width, () => this.moved(pane));
    this.panes.push(pane);
    this.overlays.over(pane);
    return pane;
  }

  /** Put every layer whose place is known into the panes, once. */
  async place() {
    const known = this.layers.filter((one) => one.dzi);
    await Promise.all(known.map((one) => this.main.put(one, one.rect, address({ path: one.dzi() }))));
    if (this.closed) return;
    this.show(this.wanted);
    this.tellState();
  }

  /** A view "x,y,zoom,mode": the slide's pixel in the middle, screen pixels for each of the slide's, and the mode. */
  show(view) {
    const [x, y, zoom, mode] = (view ?? "").split(",");
    this.turn(mode in MODES ? mode : this.mode);
    if ([x, y, zoom].every((one) => Number.isFinite(parseFloat(one))) && zoom > 0) this.main.look(+x, +y, +zoom);
    else if (this.results.some((one) => one.rect) && this.facts) this.main.fit(this.pair.at(-1).rect ?? this.pair[0].rect);
    else this.main.home();
  }

  moved(pane) {
    if (this.mode === "side" && pane === this.leader()) this.panes.filter((one) => one !== pane).forEach((one) => one.follow(pane));
    this.divide(this.share);
    const { x, y, zoom } = this.main.where();
    const { width, label } = scaleBar(this.mpp, zoom);
    fill(this.bar, el("span", { class: "ruler" }), el("span", {}, label), el("span", {}, magnification(this.mpp, zoom)));
    this.bar.firstChild.style.width = `${width}px`;
    clearTimeout(this.later);
    this.later = setTimeout(() => {
      const view = [x.toFixed(1), y.toFixed(1), zoom.toPrecision(5), this.mode].join(",");
      history.replaceState(null, "", `${location.hash.split("@")[0]}@${view}`);
    }, 200);
  }

  leader() { return this.panes.find((one) => one.leads) ?? this.main; }

  turn(mode) {
    const view = this.panes.length && this.main.ready ? this.main.where() : null;
    this.mode = mode;
    this.modes.forEach(([name, button]) => button.setAttribute("aria-pressed", String(name === mode)));
    const [left, right] = this.pair;
    const side = mode === "side" && right;
    this.stage.classList.toggle("two", Boolean(side));
    if (side && this.panes.length === 1) this.pane();
    if (!side && this.panes.length === 2) { this.panes.pop().close(); this.overlays.forget(1); }
    if (view) this.main.resize().look(view.x, view.y, view.zoom);
    if (side) {
      const other = this.panes[1];
      if (right.dzi) other.put(right, right.rect, address({ path: right.dzi() })).then(() => other.follow(this.main));
      other.follow(this.main);
    }
    this.slider.parentElement?.classList.toggle("off", mode === "side" || mode === "blink");
    if (this.slider.previousSibling) fill(this.slider.previousSibling, mode === "mix" ? "Share of the right picture" : "Place of the curtain");
    this.line.hidden = mode !== "curtain" || !right;
    this.names[0].textContent = right ? left.name : "";
    this.shows = 1;
    this.divide(this.share);
  }

  /** Share the picture out between the two, as the mode does it; `share` is the curtain's place, or how much of the mix. */
  divide(share) {
    this.share = Math.min(1, Math.max(0, share));
    const [left, right] = this.pair;
    if (!right) return;
    const mode = this.mode;
    this.slider.value = Math.round(100 * this.share);
    this.line.style.left = `${100 * this.share}%`;
    const opacity = { curtain: this.share < 1 ? 1 : 0, side: 0, blink: this.shows, mix: this.share }[mode];
    this.main.draw(right, opacity, mode === "curtain" ? this.share : 0);
    this.main.draw(left, 1, 0);
    const single = mode === "blink";
    this.names[0].textContent = single ? "" : left.name;
    this.names[1].textContent = single ? (this.shows ? right.name : left.name) : right.name;
    this.names[0].hidden = single;
  }

  drag(event) {
    event.preventDefault();
    this.line.setPointerCapture(event.pointerId);
    const box = this.stage.getBoundingClientRect();
    const move = (one) => this.divide((one.clientX - box.left) / box.width);
    this.line.addEventListener("pointermove", move);
    this.line.addEventListener("pointerup", () => this.line.removeEventListener("pointermove", move), { once: true });
  }

  blink() {
    this.shows = 1 - this.shows;
    this.divide(this.share);
    announce(`Shown: ${this.names[1].textContent}`);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
    const two = this.layers.length > 1;
    const mode = two && Object.keys(MODES).find((name) => name[0] === event.key);
    const does = {
      "[": () => two && this.divide(this.share - 0.02), "]": () => two && this.divide(this.share + 0.02),
      "1": () => this.one(), "0": () => this.main.home(), f: () => this.fullScreen(), e: () => this.save(),
    }[event.key];
    if (event.key === " " && this.mode === "blink" && !event.target.matches("button, summary")) this.blink();
    else if (mode === "blink" && this.mode === "blink") this.blink();
    else if (mode) this.turn(mode);
    else if (does) does();
    else return;
    event.preventDefault();
  }

  zoom(factor) { this.leader().zoom(factor); }

  /** The finest of what is shown, pixel for pixel. */
  one() {
    const scales = this.results.filter((one) => one.map).map((one) => one.map.width / one.map.place[2]);
    const { x, y } = this.main.where();
    this.main.look(x, y, Math.max(1, ...scales) / devicePixelRatio);
  }

  fullScreen() { return document.fullscreenElement ? document.exitFullscreen() : this.root.requestFullscreen(); }

  async save() {
    const words = [this.results.length ? MARK : "", this.bar.textContent];
    const names = this.layers.length > 1 ? this.names.map((one) => (one.hidden ? "" : one.textContent)) : ["", ""];
    const picture = snapshot(this.stage, this.panes, { words, names, bar: this.bar.firstChild.offsetWidth, line: this.line.hidden ? null : this.share });
    await save(picture, `${this.ids.join("-")}-${location.hash.split("@")[1] ?? "view"}.png`);
    announce("The view was saved as a PNG file.");
  }

  upscale() {
    const { x, y, width, height } = this.main.shown();
    const left = Math.max(0, Math.floor(x)), top = Math.max(0, Math.floor(y));
    const region = [left, top, Math.min(this.facts.width, Math.ceil(x + width)) - left, Math.min(this.facts.height, Math.ceil(y + height)) - top];
    if (region[2] > 0 && region[3] > 0) location.hash = `/slides/${this.slideId}/upscale?region=${region.join(",")}`;
  }

  /** A job that is looked at has changed: when more of its stripes are finished, or all, show them. */
  async heard(changed) {
    const result = this.results.find((one) => one.id === changed.id);
    if (!result) return;
    const before = result.map?.stripes.filter(Boolean).length ?? -1, was = result.map?.complete;
    result.job = changed;
    this.tellState();
    const soon = changed.state === "succeeded" || !result.asked || Date.now() - result.asked > 1500;
    if (was || result.busy || !soon || !["running", "succeeded"].includes(changed.state)) return;
    Object.assign(result, { asked: Date.now(), busy: true });
    await this.learn(result);
    result.busy = false;
    if (this.closed || !result.map) return;
    const finished = result.map.stripes.filter(Boolean).length;
    if (finished === before && result.map.complete === Boolean(was)) return;
    result.looks = finished;
    this.overlays.refresh();
    await Promise.all(this.panes.map((one, number) => (number && result !== this.pair[1] ? null : one.put(result, result.rect, address({ path: result.dzi() })))));
    if (!this.closed) { this.divide(this.share); this.tellState(); }
  }

  tellState() {
    const told = this.results.map(({ name, job: { state, progress, error }, map, trouble: met }) => {
      const stripes = map && !map.complete ? `; ${map.stripes.filter(Boolean).length} of ${map.stripes.length} stripes can be seen` : "";
      const tiles = progress.tiles_total ? `, ${progress.tiles_done} of ${progress.tiles_total} tiles` : "";
      if (met) return `${name}: ${met.detail}`;
      if (error) return `${name} failed: ${error.title}${stripes}`;
      return state === "succeeded" ? "" : `${name} is ${state}${tiles}${stripes}`;
    });
    if (this.results.length && !this.facts) told.push("The slide was deleted: only the result is left.");
    if (this.mpp === null) told.push("The slide does not say its pixel size: no scale can be shown.");
    const text = told.filter(Boolean).join(". ");
    if (this.status.textContent !== text) this.status.textContent = text;
  }

  close() {
    this.closed = true;
    clearTimeout(this.later);
    this.stops.forEach((stop) => stop());
  }
}

let loading;

/** OpenSeadragon, which no other page needs. */
function loadLibrary() {
  return (loading ??= new Promise((resolve, reject) => {
    // The library adds a style sheet unless one is there, and the page's policy refuses it: this stands in for one.
    const sheet = document.createElementNS(null, "style");
    sheet.setAttribute("data-openseadragon-mobile-css", "");
    document.head.append(sheet);
    const failed = () => { loading = null; reject(new Error("The viewer's library could not be loaded.")); };
    document.head.append(el("script", { src: "page/vendor/openseadragon/openseadragon.min.js", load: resolve, error: failed }));
  }));
}
