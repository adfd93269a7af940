/**
 * The stage: the picture, and what is drawn over it. Two canvases in the screen's resolution; the picture's is drawn
 * again only when the view changes. Masks are outlines in original pixels that the browser fills and strokes.
 *
 * `draw(scene)` draws a plain description: {hidden, cutout, objects, finds, hoverFind, others, chosen, glance, step,
 * box, crosshair, brush}.
 */
import { clampPoint, fit, pan, toPicture, toStage, zoomAt } from "./geometry.js";
import { boundingBox } from "./rle.js";

const ADD = "#0072b2"; // Okabe and Ito's blue and vermilion, with a glyph each: never told apart by colour alone
const REMOVE = "#b34a00";
const MARGIN = 16;
const SIGHT = 48; // pixels from the edge at which the crosshair takes the view along

const shortened = (name) => (name.length > 28 ? `${name.slice(0, 27)}…` : name);

export class Stage {
  constructor(element) {
    this.element = element;
    this.pictureCanvas = element.querySelector("[data-part=picture]");
    this.overlay = element.querySelector("[data-part=overlay]");
    this.bitmap = null;
    this.size = null; // [H, W], original pixels
    this.view = null;
    this.isFitted = true;
    this.scene = {};
    this.still = null; // {key, layer}, see drawStill
    this.pictureIsStale = true;
    this.frame = 0;
    this.drawn = () => {};
    this.observer = new ResizeObserver(() => this.resized());
    this.observer.observe(element);
    this.resized();
  }

  /** @param {ImageBitmap|null} bitmap the picture, perhaps smaller than `size`; another than the one before or the same */
  setPicture(bitmap, size, isAnother = false) {
    const isSame = this.size && size && String(this.size) === String(size);
    if (this.bitmap !== bitmap) this.bitmap?.close?.();
    this.bitmap = bitmap;
    this.size = size;
    if (size && (isAnother || !isSame)) this.fit();
    this.redrawPicture();
  }

  get room() {
    return { width: this.element.clientWidth, height: this.element.clientHeight };
  }

  resized() {
    const { width, height } = this.room;
    const density = Math.min(window.devicePixelRatio || 1, 2);
    for (const canvas of [this.pictureCanvas, this.overlay]) {
      const [wide, high] = [Math.round(width * density), Math.round(height * density)];
      if (canvas.width !== wide) canvas.width = wide;
      if (canvas.height !== high) canvas.height = high;
    }
    this.density = density;
    if (this.size && (this.isFitted || !this.view)) this.view = fit(this.size, this.room, this.margin);
    this.redrawPicture();
    if (this.frame) this.flush(); // at once: an empty canvas for one frame would flicker
  }

  get margin() {
    return this.room.width < 500 ? 0 : MARGIN;
  }

  fit() {
    if (!this.size) return;
    this.isFitted = true;
    this.view = fit(this.size, this.room, this.margin);
    this.redrawPicture();
  }

  zoom(factor, at = [this.room.width / 2, this.room.height / 2]) {
    if (!this.size) return;
    this.isFitted = false;
    this.view = zoomAt(this.view, at, factor, this.size, this.room);
    this.redrawPicture();
  }

  /** Moves the view as far as is needed to see a place of the picture. */
  reveal(place) {
    const [x, y] = this.onStage(place);
    const needed = (at, length) => Math.max(SIGHT - at, 0) + Math.min(length - SIGHT - at, 0);
    const [dx, dy] = [needed(x, this.room.width), needed(y, this.room.height)];
    if (dx || dy) this.pan(dx, dy);
  }

  pan(dx, dy) {
    if (!this.size) return;
    this.isFitted = false;
    this.view = pan(this.view, dx, dy, this.size, this.room);
    this.redrawPicture();
  }

  /** Where on the picture an event is: original pixels, not clamped. */
  place(event) {
    const { left, top } = this.overlay.getBoundingClientRect();
    return toPicture(this.view, [event.clientX - left, event.clientY - top]);
  }

  /** The picture's place (clamped) on the stage. */
  onStage(point) {
    return toStage(this.view, point);
  }

  clamp(point) {
    return clampPoint(point, this.size);
  }

  redrawPicture() {
    this.pictureIsStale = true;
    this.request();
  }

  draw(scene) {
    if (scene.cutout || this.scene.cutout) this.pictureIsStale = true;
    this.scene = scene;
    this.request();
  }

  request() {
    this.frame ||= requestAnimationFrame(() => this.flush());
  }

  flush() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    if (this.pictureIsStale) this.drawPicture();
    this.pictureIsStale = false;
    this.drawOverlay();
    this.drawn();
  }

  /** Puts a context into original pixels, cut to the picture. */
  enter(context) {
    const { scale, x, y } = this.view;
    const d = this.density;
    context.setTransform(scale * d, 0, 0, scale * d, x * d, y * d);
    context.beginPath();
    context.rect(0, 0, this.size[1], this.size[0]);
    context.clip();
  }

  drawPicture() {
    const context = this.pictureCanvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.pictureCanvas.width, this.pictureCanvas.height);
    if (!this.bitmap || !this.view) return;
    context.save();
    this.enter(context);
    context.imageSmoothingEnabled = this.view.scale < 4;
    context.imageSmoothingQuality = "high";
    const paths = this.scene.cutout ? this.cutOutPaths() : null;
    if (paths) this.drawChequers(context);
    for (const path of paths ?? [null]) {
      context.save();
      if (path) context.clip(path, "evenodd");
      context.fillStyle = "#ffffff"; // transparency is white, as the model sees it
      context.fillRect(0, 0, this.size[1], this.size[0]);
      context.drawImage(this.bitmap, 0, 0, this.size[1], this.size[0]);
      context.restore();
    }
    context.restore();
  }

  cutOutPaths() {
    const { objects = [], chosen } = this.scene;
    const paths = objects.filter((object) => !object.hidden).map((object) => object.path);
    return chosen ? [...paths, chosen.path] : paths;
  }

  drawChequers(context) {
    const side = 10 / this.view.scale;
    const tile = new OffscreenCanvas(20, 20);
    const pen = tile.getContext("2d");
    const dark = document.body.classList.contains("dark");
    pen.fillStyle = dark ? "#23262d" : "#ffffff";
    pen.fillRect(0, 0, 20, 20);
    pen.fillStyle = dark ? "#2e323b" : "#e3e6ea";
    pen.fillRect(0, 0, 10, 10);
    pen.fillRect(10, 10, 10, 10);
    const pattern = context.createPattern(tile, "repeat");
    pattern.setTransform(new DOMMatrix().scale(side / 10));
    context.fillStyle = pattern;
    context.fillRect(0, 0, this.size[1], this.size[0]);
  }

  drawOverlay() {
    const context = this.overlay.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.overlay.width, this.overlay.height);
    if (!this.view || !this.bitmap) return;
    const { scene } = this;
    context.save();
    this.enter(context);
    context.lineJoin = "round";
    if (!scene.hidden) this.drawMasks(context, scene);
    if (scene.brush) this.drawBrush(context, scene.brush);
    context.restore();
    context.setTransform(this.density, 0, 0, this.density, 0, 0);
    if (!scene.hidden) for (const object of scene.objects ?? []) this.drawLabel(context, object);
    if (!scene.hidden && scene.hoverFind) this.drawFound(context, scene.hoverFind);
    this.drawPrompts(context, scene);
  }

  drawMasks(context, scene) {
    this.drawStill(context, scene);
    if (scene.hoverFind) {
      this.fillMask(context, scene.hoverFind.path, scene.hoverFind.color, 0.44);
      this.outline(context, scene.hoverFind.path, { width: 2 });
    }
    if (scene.polygon) this.drawPolygon(context, scene.polygon);
    for (const other of scene.others ?? []) this.outline(context, other.calm, { dashed: true, width: 1.25 });
    if (scene.chosen) {
      this.fillMask(context, scene.chosen.path, scene.color, scene.cutout ? 0 : 0.45);
      this.outline(context, scene.chosen.path, { width: 2 });
    }
    if (scene.glance) {
      if (!scene.chosen) this.fillMask(context, scene.glance.path, scene.color, 0.4);
      this.outline(context, scene.glance.path, { dashed: Boolean(scene.chosen), width: 1.5 });
    }
  }

  /** What does not change under a moving mouse, perhaps hundreds of masks: drawn when it changes, else copied. */
  drawStill(context, { objects = [], finds = [], cutout = false }) {
    if (!objects.length && !finds.length) return;
    const { width, height } = this.overlay;
    const key = [objects, finds, cutout, this.view, width, height];
    if (!this.still || this.still.key.some((value, index) => value !== key[index])) {
      const layer = this.still?.layer ?? new OffscreenCanvas(width, height);
      [layer.width, layer.height] = [width, height]; // which empties it
      const pen = layer.getContext("2d");
      pen.lineJoin = "round";
      this.enter(pen);
      this.drawKept(pen, objects, cutout ? 0 : 0.42);
      for (const found of [...finds].reverse()) {
        this.fillMask(pen, found.path, found.color, 0.38);
        this.outline(pen, found.path, { inner: found.color, width: 1 });
      }
      this.still = { key, layer };
    }
    context.save();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(this.still.layer, 0, 0);
    context.restore();
  }

  drawKept(context, objects, fill) {
    for (const object of objects) {
      if (object.hidden) continue;
      this.fillMask(context, object.path, object.color, object.selected ? fill + 0.08 : fill);
      this.outline(context, object.path, { inner: object.color, width: object.selected ? 2.5 : 1.5 });
    }
  }

  /** The outline as it is exported, with its corners where they can be told apart. */
  drawPolygon(context, { rings, corners }) {
    const path = new Path2D();
    const radius = corners < 600 ? 2.5 / this.view.scale : 0;
    for (const ring of rings) {
      const line = new Path2D();
      for (let at = 0; at < ring.length; at += 2) {
        line.lineTo(ring[at], ring[at + 1]);
        if (radius) path.rect(ring[at] - radius, ring[at + 1] - radius, 2 * radius, 2 * radius);
      }
      line.closePath();
      path.addPath(line);
    }
    this.outline(context, path, { width: 1.25 });
  }

  fillMask(context, path, color, alpha) {
    if (!alpha) return;
    context.globalAlpha = alpha;
    context.fillStyle = color;
    context.fill(path, "evenodd");
    context.globalAlpha = 1;
  }

  /** A double line, dark below light, which is seen on any picture. */
  outline(context, path, { inner = "#fff", width = 1.5, dashed = false }) {
    const pixel = 1 / this.view.scale;
    context.setLineDash(dashed ? [5 * pixel, 4 * pixel] : []);
    context.lineWidth = (width + 2) * pixel;
    context.strokeStyle = "rgb(0 0 0 / 65%)";
    context.stroke(path);
    context.lineWidth = width * pixel;
    context.strokeStyle = inner;
    context.stroke(path);
    context.setLineDash([]);
  }

  drawBrush(context, { strokes, at, radius, erases }) {
    context.lineCap = "round";
    context.globalAlpha = 0.5;
    for (const stroke of strokes) {
      context.strokeStyle = stroke.erases ? REMOVE : ADD;
      context.lineWidth = 2 * stroke.radius;
      context.beginPath();
      context.moveTo(...stroke.points[0]);
      for (const point of stroke.points) context.lineTo(...point);
      context.stroke();
    }
    context.globalAlpha = 1;
    if (!at) return;
    const ring = new Path2D();
    ring.arc(at[0], at[1], radius, 0, 2 * Math.PI);
    this.outline(context, ring, { width: 1.5, dashed: erases });
  }

  /** The box of a kept object, and its name where there is room. */
  drawLabel(context, object) {
    if (object.hidden || !object.box || !object.selected) return;
    const [x, y] = this.onStage(object.box);
    const [width, height] = [object.box[2] * this.view.scale, object.box[3] * this.view.scale];
    context.lineWidth = 3;
    context.strokeStyle = "rgb(0 0 0 / 55%)";
    context.strokeRect(x, y, width, height);
    context.lineWidth = 1.5;
    context.strokeStyle = object.color;
    context.strokeRect(x, y, width, height);
    this.drawWords(context, shortened(object.name), object.color, [x - 1, y]);
  }

  /** What a found mask is called, and how likely it is that. */
  drawFound(context, found) {
    const [left, top] = boundingBox(found.rle) ?? [0, 0];
    this.drawWords(context, `${shortened(found.title)}  ${found.detail}`, found.color, this.onStage([left, top]));
  }

  /** Words above a place, moved so that they are seen. */
  drawWords(context, text, color, [x, y]) {
    context.font = "600 12px ui-sans-serif, system-ui, sans-serif";
    const long = context.measureText(text).width + 14;
    const left = Math.min(Math.max(x, 0), this.room.width - long);
    const top = Math.min(Math.max(y - 21, 0), this.room.height - 20);
    context.fillStyle = "rgb(16 18 24 / 88%)";
    context.fillRect(left, top, long, 20);
    context.fillStyle = color;
    context.fillRect(left, top, 4, 20);
    context.fillStyle = "#fff";
    context.fillText(text, left + 8, top + 14);
  }

  drawPrompts(context, { step, box, crosshair }) {
    const asked = box ?? step?.box;
    if (asked) {
      const [x0, y0] = this.onStage(asked.slice(0, 2));
      const [x1, y1] = this.onStage(asked.slice(2));
      for (const [color, width] of [["rgb(0 0 0 / 65%)", 3.5], ["#fff", 1.5]]) {
        context.lineWidth = width;
        context.strokeStyle = color;
        context.strokeRect(x0, y0, x1 - x0, y1 - y0);
      }
    }
    step?.points.forEach((point, index) => this.drawMarker(context, this.onStage(point), step.labels[index] === 1));
    if (crosshair) this.drawCrosshair(context, this.onStage(crosshair));
  }

  drawMarker(context, [x, y], adds) {
    context.beginPath();
    context.arc(x, y, 8, 0, 2 * Math.PI);
    context.fillStyle = adds ? ADD : REMOVE;
    context.fill();
    context.lineWidth = 4;
    context.strokeStyle = "rgb(0 0 0 / 45%)";
    context.stroke();
    context.lineWidth = 2;
    context.strokeStyle = "#fff";
    context.stroke();
    context.beginPath();
    context.moveTo(x - 4, y);
    context.lineTo(x + 4, y);
    if (adds) {
      context.moveTo(x, y - 4);
      context.lineTo(x, y + 4);
    }
    context.stroke();
  }

  drawCrosshair(context, [x, y]) {
    for (const [color, width] of [["rgb(0 0 0 / 75%)", 4], ["#fff", 2]]) {
      context.lineWidth = width;
      context.strokeStyle = color;
      context.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + 4 * dx, y + 4 * dy);
        context.lineTo(x + 16 * dx, y + 16 * dy);
      }
      context.stroke();
    }
  }
}
