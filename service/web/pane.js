/** One OpenSeadragon viewer whose layers lie on the slide's own pixels; its world is one slide wide. */

// The library adds a style sheet unless one is there, and the page's policy refuses it: this stands in for one.
const sheet = document.createElementNS(null, "style");
sheet.setAttribute("data-openseadragon-mobile-css", "");
document.head.append(sheet);

const { Point, Rect, Viewer } = window.OpenSeadragon;
const OSD_KEYS = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "+", "-", "=", "0"];

export class Pane {
  constructor(stage, unit, moved, missed) {
    const first = !stage.children.length;
    this.unit = unit;
    this.items = new Map();
    this.element = document.createElement("div");
    this.element.className = "pane";
    stage.append(this.element);
    this.osd = new Viewer({
      element: this.element, drawer: "canvas", preload: true, showNavigationControl: false,
      preserveImageSizeOnResize: true, showNavigator: first, navigatorPosition: "BOTTOM_RIGHT", navigatorSizeRatio: 0.16,
      animationTime: 0.5, visibilityRatio: 0.2, minZoomImageRatio: 0.5, maxZoomPixelRatio: 16,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true }, imageLoaderLimit: 5, timeout: 40_000,
    });
    this.osd.canvas.setAttribute("role", "application");
    this.osd.canvas.setAttribute("aria-label", "The picture: arrow keys move it, plus and minus zoom");
    this.osd.addHandler("canvas-key", (event) => { event.preventDefaultAction = !OSD_KEYS.includes(event.originalEvent.key); });
    this.element.onpointerenter = () => { this.leads = true; };
    this.element.onpointerleave = () => { this.leads = false; };
    this.osd.addHandler("tile-load-failed", ({ message, tiledImage: of }) => {
      if (message !== "Image load aborted." && this.osd.world.getIndexOfItem(of) >= 0) missed();
    });
    for (const name of ["update-viewport", "resize"]) this.osd.addHandler(name, () => { if (this.ready) moved(); });
  }

  get ready() { return this.osd.world.getItemCount() > 0; }

  /** Show a layer whose place is known, instead of what was shown of it before. */
  put(layer) {
    if (!layer.rect) return null;
    const [x, y, width] = layer.rect.map((one) => one / this.unit);
    const before = this.items.get(layer);
    const place = before ? { index: this.osd.world.getIndexOfItem(before), replace: true, opacity: before.getOpacity() } : {};
    return new Promise((resolve) => {
      this.osd.addTiledImage({
        tileSource: new URL(layer.dzi, document.baseURI).href, x, y, width, ...place, error: resolve,
        success: ({ item }) => { resolve(this.items.set(layer, item)); },
      });
    });
  }

  /** Draw a layer with that opacity, and only what lies right of `from`, a share of the pane's width. */
  draw(layer, opacity, from) {
    const item = this.items.get(layer);
    if (!item) return;
    const { x: width, y: height } = item.getContentSize();
    const cut = from && item.viewerElementToImageCoordinates(new Point(from * this.element.clientWidth, 0)).x;
    const left = Math.min(width, Math.max(0, cut));
    const state = `${left} ${opacity}`;
    if (item.drawn === state) return; // each change makes the picture be drawn again, and that asks for this again
    item.drawn = state;
    item.setClip(left > 0 ? new Rect(left, 0, width - left, height) : null);
    item.setOpacity(left < width ? opacity : 0);
  }

  /** Lay an element over a part of the slide. */
  lay(element, rect) {
    this.osd.addOverlay({ element, location: new Rect(...rect.map((one) => one / this.unit)) });
  }

  /** The slide's pixel in the middle, and screen pixels for each of the slide's. */
  where() {
    const { x, y, width, height } = this.shown();
    return { x: x + width / 2, y: y + height / 2, zoom: this.element.clientWidth / width };
  }

  /** Wait for the library to hear of a new width, at which it zooms. */
  async sized() {
    const { element, osd: { viewport } } = this;
    while (element.clientWidth && viewport.getContainerSize().x !== element.clientWidth) await new Promise(requestAnimationFrame);
  }

  /** What is shown, in pixels of the slide. */
  shown() {
    const { x, y, width, height } = this.osd.viewport.getBounds(true);
    return { x: x * this.unit, y: y * this.unit, width: width * this.unit, height: height * this.unit };
  }

  look(x, y, zoom) {
    this.osd.viewport.zoomTo((zoom * this.unit) / this.element.clientWidth, null, true);
    this.osd.viewport.panTo(new Point(x / this.unit, y / this.unit), true);
  }

  follow(other) {
    const here = this.where(), there = other.where();
    const apart = Math.hypot(here.x - there.x, here.y - there.y) * there.zoom;
    if (apart > 0.01 || Math.abs(here.zoom / there.zoom - 1) > 1e-6) this.look(there.x, there.y, there.zoom);
  }

  fit(rect) {
    if (rect) this.osd.viewport.fitBounds(new Rect(...rect.map((one) => one / this.unit)), true);
  }

  home() { this.osd.viewport.goHome(); }

  zoom(factor) { this.osd.viewport.zoomBy(factor).applyConstraints(); }

  close() {
    this.osd.destroy();
    this.element.remove();
  }
}
