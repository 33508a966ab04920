/** An OpenSeadragon viewer whose layers are placed in slide pixels; the slide is one world unit wide. */

// The library adds a style sheet unless it finds one. The page's security policy refuses that, hence this empty one.
const sheet = document.createElementNS(null, "style");
sheet.setAttribute("data-openseadragon-mobile-css", "");
document.head.append(sheet);

const { Point, Rect, Viewer } = window.OpenSeadragon;
const OSD_KEYS = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "+", "-", "=", "0"];

export class ViewerPane {
  constructor(stage, unit, onMove, onTileFailed) {
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
    this.osd.canvas.setAttribute("aria-label", "Image: arrow keys move it, plus and minus zoom");
    this.osd.addHandler("canvas-key", (event) => { event.preventDefaultAction = !OSD_KEYS.includes(event.originalEvent.key); });
    this.element.onpointerenter = () => { this.hasPointer = true; };
    this.element.onpointerleave = () => { this.hasPointer = false; };
    this.osd.addHandler("tile-load-failed", ({ message, tiledImage: of }) => {
      if (message !== "Image load aborted." && this.osd.world.getIndexOfItem(of) >= 0) onTileFailed();
    });
    for (const name of ["update-viewport", "resize"]) this.osd.addHandler(name, () => { if (this.isReady) onMove(); });
  }

  get isReady() { return this.osd.world.getItemCount() > 0; }

  /** Show a layer and replace its previous version. */
  showLayer(layer) {
    if (!layer.rect) return null;
    const [x, y, width] = layer.rect.map((one) => one / this.unit);
    const previous = this.items.get(layer);
    const place = previous ? { index: this.osd.world.getIndexOfItem(previous), replace: true, opacity: previous.getOpacity() } : {};
    return new Promise((resolve) => {
      this.osd.addTiledImage({
        tileSource: new URL(layer.dzi, document.baseURI).href, x, y, width, ...place, error: resolve,
        success: ({ item }) => { resolve(this.items.set(layer, item)); },
      });
    });
  }

  /** Set a layer's opacity and clip it to the right of `from`, a fraction of the pane's width. */
  draw(layer, opacity, from) {
    const item = this.items.get(layer);
    if (!item) return;
    const { x: width, y: height } = item.getContentSize();
    const cut = from && item.viewerElementToImageCoordinates(new Point(from * this.element.clientWidth, 0)).x;
    const left = Math.min(width, Math.max(0, cut));
    const state = `${left} ${opacity}`;
    if (item.drawn === state) return; // a change redraws the image, which calls this again
    item.drawn = state;
    item.setClip(left > 0 ? new Rect(left, 0, width - left, height) : null);
    item.setOpacity(left < width ? opacity : 0);
  }

  addOverlay(element, rect) {
    this.osd.addOverlay({ element, location: new Rect(...rect.map((one) => one / this.unit)) });
  }

  /** Slide pixel in the centre, and screen pixels per slide pixel. */
  position() {
    const { x, y, width, height } = this.visibleRegion();
    return { x: x + width / 2, y: y + height / 2, zoom: this.element.clientWidth / width };
  }

  /** Wait until the library has applied a new width, which changes its zoom. */
  async resized() {
    const { element, osd: { viewport } } = this;
    while (element.clientWidth && viewport.getContainerSize().x !== element.clientWidth) await new Promise(requestAnimationFrame);
  }

  /** Visible region in slide pixels. */
  visibleRegion() {
    const { x, y, width, height } = this.osd.viewport.getBounds(true);
    return { x: x * this.unit, y: y * this.unit, width: width * this.unit, height: height * this.unit };
  }

  moveTo(x, y, zoom) {
    this.osd.viewport.zoomTo((zoom * this.unit) / this.element.clientWidth, null, true);
    this.osd.viewport.panTo(new Point(x / this.unit, y / this.unit), true);
  }

  follow(other) {
    const here = this.position(), there = other.position();
    const apart = Math.hypot(here.x - there.x, here.y - there.y) * there.zoom;
    if (apart > 0.01 || Math.abs(here.zoom / there.zoom - 1) > 1e-6) this.moveTo(there.x, there.y, there.zoom);
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
