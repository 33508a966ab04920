/** One OpenSeadragon viewer whose layers lie on the slide's own pixels; the slide is one unit of its world wide. */

const OSD_KEYS = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "+", "-", "="];

export class Pane {
  constructor(stage, width, moved) {
    const { OpenSeadragon } = window;
    this.unit = width;
    this.layers = new Map();
    this.element = document.createElement("div");
    this.element.className = "pane";
    stage.append(this.element);
    this.osd = new OpenSeadragon.Viewer({
      element: this.element, drawer: "canvas", showNavigationControl: false, showNavigator: stage.children.length === 1,
      navigatorPosition: "BOTTOM_RIGHT", navigatorSizeRatio: 0.16, preload: true, animationTime: 0.5, visibilityRatio: 0.2,
      minZoomImageRatio: 0.5, maxZoomPixelRatio: 16, gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      imageLoaderLimit: 5, timeout: 40_000, placeholderFillStyle: null,
    });
    this.osd.innerTracker.element.setAttribute("aria-label", "The picture: arrow keys move, plus and minus zoom");
    this.osd.addHandler("canvas-key", (event) => { event.preventDefaultAction = !OSD_KEYS.includes(event.originalEvent.key); });
    this.element.addEventListener("pointerenter", () => { this.leads = true; });
    this.element.addEventListener("pointerleave", () => { this.leads = false; });
    for (const name of ["update-viewport", "resize"]) this.osd.addHandler(name, () => { if (this.ready) moved(); });
  }

  get ready() { return this.osd.world.getItemCount() > 0; }

  /** Show a layer, in the place of what was shown of it before; `rect` in pixels of the slide. */
  put(layer, rect, tileSource) {
    const before = this.layers.get(layer);
    const index = before ? this.osd.world.getIndexOfItem(before) : undefined;
    return new Promise((resolve) => {
      this.osd.addTiledImage({
        tileSource, x: rect[0] / this.unit, y: rect[1] / this.unit, width: rect[2] / this.unit,
        opacity: before ? before.getOpacity() : 1, ...(index >= 0 ? { index, replace: true } : {}),
        success: ({ item }) => { this.layers.set(layer, item); resolve(); },
        error: () => resolve(),
      });
    });
  }

  /** Draw a layer with that opacity, and only what lies right of `from`, a share of the pane's width. */
  draw(layer, opacity, from) {
    const item = this.layers.get(layer);
    if (!item) return;
    if (item.getOpacity() !== opacity) item.setOpacity(opacity);
    if (from <= 0) return item.getClip() && item.setClip(null);
    const { Point, Rect } = window.OpenSeadragon;
    const size = item.getContentSize();
    const x = item.viewerElementToImageCoordinates(new Point(from * this.element.clientWidth, 0)).x;
    const left = Math.min(size.x, Math.max(0, x));
    item.setClip(new Rect(left, 0, size.x - left, size.y));
    if (left >= size.x) item.setOpacity(0);
  }

  /** The slide's pixel in the middle, and screen pixels for each of the slide's. */
  where() {
    const { viewport } = this.osd;
    const centre = viewport.getCenter(true);
    return { x: centre.x * this.unit, y: centre.y * this.unit, zoom: (viewport.getZoom(true) * this.element.clientWidth) / this.unit };
  }

  /** What is shown, in pixels of the slide. */
  shown() {
    const { x, y, width, height } = this.osd.viewport.getBounds(true);
    return { x: x * this.unit, y: y * this.unit, width: width * this.unit, height: height * this.unit };
  }

  look(x, y, zoom) {
    const { viewport } = this.osd;
    viewport.zoomTo((zoom * this.unit) / this.element.clientWidth, null, true);
    viewport.panTo(new window.OpenSeadragon.Point(x / this.unit, y / this.unit), true);
  }

  follow(other) {
    const { x, y, zoom } = other.where();
    const here = this.where();
    if (Math.abs(here.x - x) + Math.abs(here.y - y) > 1e-3 || Math.abs(here.zoom / zoom - 1) > 1e-6) this.look(x, y, zoom);
  }

  fit(rect) {
    const [x, y, width, height] = rect.map((one) => one / this.unit);
    this.osd.viewport.fitBounds(new window.OpenSeadragon.Rect(x, y, width, height), true);
  }

  home() { this.osd.viewport.goHome(); }

  zoom(factor) { this.osd.viewport.zoomBy(factor).applyConstraints(); }

  /** Take a changed size of the stage at once, not at the next look. */
  resize() {
    const { Point } = window.OpenSeadragon;
    this.osd.viewport.resize(new Point(this.element.clientWidth, this.element.clientHeight), false);
    this.osd.forceResize();
    return this;
  }

  close() {
    this.osd.destroy();
    this.element.remove();
  }
}
