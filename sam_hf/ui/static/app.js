/**
 * What a person does, and what follows from it. The app holds the history (state.js), the picture and what is under
 * the mouse; views (stage.js, panel.js) are told when something has changed and draw what holds now.
 */
import { Answers } from "./answers.js";
import { paint } from "./brush.js";
import { boxOf, distance, isInside, rounded } from "./geometry.js";
import { Finder } from "./finding.js";
import { Keeper } from "./keeping.js";
import { NOTHING, nextStep, paintingOf, selectedMask, withPoint, without, withoutPoint } from "./prompts.js";
import { contains } from "./rle.js";
import { Scene } from "./scene.js";
import { maskSentence } from "./speech.js";
import * as state from "./state.js";

const MARKER = 12; // stage pixels around a marker that belong to it
const SMALLEST_BOX = 3; // stage pixels

export class App {
  constructor({ server, stage, say, tell, renew, lost, changed }) {
    Object.assign(this, { server, stage, say, tell, renew, lost, changed });
    this.tool = "point";
    this.adds = true; // the Add/Remove switch
    this.brushSize = 28; // stage pixels
    this.spaceIsDown = false;
    this.checkpoint = null;
    this.isHidden = false;
    this.isCutout = false;
    this.finder = new Finder(this);
    this.keeper = new Keeper(this);
    this.view = new Scene(this);
    this.requests = 0; // how often something was asked: an answer to an earlier one is dropped
    this.asked = null; // promise of the newest
    this.letGo = () => {}; // ends the waiting for it
    this.painting = Promise.resolve(); // until all strokes are part of the document
    this.forgetPicture();
  }

  forgetPicture() {
    this.history = state.begin();
    this.picture = null; // what is shown: {size, name}
    this.answers = null; // once it is encoded
    this.shown = null; // {steps, answer, answers}: the newest answer, what it answers and who gave it
    this.isAsking = false;
    this.requests++;
    this.letGo();
    this.glanced = null;
    this.crosshair = null;
    this.corner = null;
    this.box = null;
    this.strokes = [];
    this.pointer = null;
    this.finder.reset();
  }

  get document() {
    return this.history.present;
  }

  get hasPicture() {
    return this.picture !== null;
  }

  get isReady() {
    return this.answers !== null;
  }

  get canDrag() {
    return this.isReady && (this.tool === "point" || this.tool === "box");
  }

  /** What is drawn: the answer to the steps that hold, or to those before while they are being decoded. */
  get answer() {
    return this.shown?.answer ?? null;
  }

  /** Whether the answer is one to the steps that hold. */
  get isCurrent() {
    return this.shown !== null && this.shown.steps === this.document.steps;
  }

  /** Place among the candidates of the mask that holds. */
  get selected() {
    if (!this.shown) return null;
    return selectedMask(this.shown.steps.at(-1), this.answer.candidates.map(({ score }) => score));
  }

  get chosen() {
    return this.answer ? this.answer.candidates[this.selected] : null;
  }

  // --- pictures ------------------------------------------------------------------------------------------------------

  showPicture(picture) {
    this.picture = picture;
    this.changed();
  }

  /** The picture is encoded: prompts are answered from now on. */
  ready(picture, decoder) {
    const { server, checkpoint, renew, lost } = this;
    this.answers = new Answers({ decoder, server, picture, checkpoint, renew, lost });
    this.say(decoder ? "Ready. Hover to see a mask, click to begin an object." : "Ready. Click to begin an object.");
    this.refresh();
    if (this.pointer) this.hover(this.pointer);
  }

  // --- history -------------------------------------------------------------------------------------------------------

  /** Goes on with another document, and asks for the answer to its steps. */
  go(document) {
    this.history = state.change(this.history, document);
    return this.refresh();
  }

  undo() {
    if (!this.history.past.length) return this.say("Nothing to undo.");
    this.history = state.undo(this.history);
    this.say("Undone.");
    return this.refresh();
  }

  redo() {
    if (!this.history.future.length) return this.say("Nothing to redo.");
    this.history = state.redo(this.history);
    this.say("Done again.");
    return this.refresh();
  }

  /** The answer to the steps that hold; done when it has come or another one is asked for. */
  refresh() {
    this.letGo();
    const other = new Promise((resolve) => (this.letGo = resolve));
    this.asked = Promise.race([this.ask(), other]);
    return this.asked;
  }

  /** What comes late, after another step, is dropped. */
  async ask() {
    const { steps } = this.document;
    const { answers } = this;
    const request = ++this.requests;
    this.glanced = null;
    this.isAsking = steps.length > 0 && answers !== null;
    this.changed();
    if (!this.isAsking) {
      this.shown = null;
      return;
    }
    let shown = null;
    try {
      shown = { steps, answers, answer: await answers.of(steps) };
    } catch (error) {
      if (request === this.requests) this.tell(error, () => this.refresh());
    }
    if (request !== this.requests) return;
    this.shown = shown;
    this.isAsking = false;
    if (shown) this.say(maskSentence(shown.answer, this.selected));
    this.changed();
  }

  /** Another prompt on top of those that hold; while a mask is being kept, on top of what holds then. */
  prompt(next, change = {}) {
    if (this.keeper.keeping) return this.keeper.keeping.then(() => this.prompt(next, change));
    const { document } = this;
    return this.go(state.addStep({ ...document, ...change }, next(document.steps)));
  }

  // --- pointing ------------------------------------------------------------------------------------------------------

  /** The mouse is somewhere: show what a click would give. */
  hover(place) {
    this.pointer = place;
    const inside = isInside(place, this.stage.size);
    if (this.finder.hover(inside ? place : null)) return this.changed();
    if (this.tool === "brush") return this.changed();
    if (!inside) return this.leave(place);
    if (this.tool === "point" && this.answers?.isLocal(this.document.steps)) this.glance(place);
    return undefined;
  }

  leave(place = null) {
    this.pointer = place;
    this.answers?.decoder?.forgetGlance();
    this.finder.hover(null);
    this.glanced = null;
    this.changed();
  }

  async glance(place) {
    const { answers, document } = this;
    try {
      const steps = [...document.steps, withPoint(document.steps, rounded(place), this.adds ? 1 : 0)];
      const answer = await answers.glance(steps);
      if (!answer || this.answers !== answers || this.document.steps !== document.steps || !this.isLookingAt(place)) return undefined;
      const best = selectedMask(NOTHING, answer.candidates.map(({ score }) => score));
      this.glanced = answer.candidates[best];
      return this.changed();
    } catch {
      return undefined; // a click will say what is wrong
    }
  }

  /** Whether the mouse, or the crosshair, is on the picture still. An answer a moment old is better than none. */
  isLookingAt() {
    const place = this.crosshair ?? this.pointer;
    return place !== null && isInside(place, this.stage.size);
  }

  click(place, removes = false) {
    if (!this.picture) return undefined;
    this.stage.overlay.focus({ preventScroll: true });
    if (!isInside(place, this.stage.size)) return undefined;
    if (!this.isReady) return this.say("The picture is being encoded. One moment.");
    if (this.keeper.keeping) return this.keeper.keeping.then(() => this.click(place, removes));
    if (this.finder.pick(place)) return undefined;
    const { document } = this;
    const marker = this.markerAt(place);
    if (marker !== null) return this.dropPoint(marker);
    const object = this.kept(place);
    if (object && !document.steps.length && !removes) this.select(object.id); // and what is inside it is segmented
    if (this.tool !== "point" && place !== this.crosshair) this.setTool("point");
    const label = (removes ? !this.adds : this.adds) ? 1 : 0;
    return this.prompt((steps) => withPoint(steps, rounded(place), label));
  }

  markerAt(place) {
    const points = this.document.steps.at(-1)?.points ?? [];
    const index = points.findLastIndex((point) => distance(this.stage.onStage(point), this.stage.onStage(place)) < MARKER);
    return index < 0 ? null : index;
  }

  /** The kept object on top at a place. */
  kept(place) {
    if (this.isHidden) return undefined;
    return this.document.objects.findLast((object) => !object.hidden && object.id !== this.document.editing && contains(object.rle, place));
  }

  dropPoint(index) {
    const { document } = this;
    const step = withoutPoint(document.steps, index);
    return this.go(state.setSteps(document, step ? [...document.steps, step] : []));
  }

  dropKind(kind) {
    const { document } = this;
    const step = without(document.steps, kind);
    return this.go(state.setSteps(document, step ? [...document.steps, step] : []));
  }

  dropPrompt() {
    return this.go(state.dropStep(this.document));
  }

  /** A box is being dragged, or is complete. */
  dragBox(from, to, isDone) {
    this.box = boxOf(this.stage.clamp(from), this.stage.clamp(to));
    if (!isDone) return this.changed();
    const [x0, y0, x1, y1] = rounded(this.box);
    this.box = this.corner = null;
    const scale = this.stage.view.scale;
    if ((x1 - x0) * scale < SMALLEST_BOX || (y1 - y0) * scale < SMALLEST_BOX) return this.changed();
    return this.prompt((steps) => nextStep(steps, { box: [x0, y0, x1, y1] }));
  }

  dropDrag() {
    this.box = null;
    this.strokes = this.strokes.filter(({ isDone }) => isDone);
    this.changed();
  }

  // --- brush ---------------------------------------------------------------------------------------------------------

  get brushRadius() {
    return this.brushSize / 2 / (this.stage.view?.scale ?? 1);
  }

  beginStroke(place, removes) {
    if (!this.isReady) return this.say("The picture is being encoded. One moment.");
    const erases = removes ? this.adds : !this.adds;
    this.strokes = [...this.strokes, { points: [place], radius: this.brushRadius, erases, isDone: false }];
    return this.changed();
  }

  continueStroke(places) {
    this.pointer = places.at(-1);
    const stroke = this.strokes.at(-1);
    if (stroke && !stroke.isDone) stroke.points.push(...places);
    this.changed();
  }

  /** A stroke is complete. Strokes are put on the mask one after the other, each on what the one before has led to. */
  endStroke() {
    const stroke = this.strokes.at(-1);
    if (!stroke || stroke.isDone) return this.painting;
    stroke.isDone = true;
    this.painting = this.painting.then(() => this.paint(stroke));
    return this.painting;
  }

  async paint(stroke) {
    try {
      while (this.isAsking || this.keeper.keeping) await (this.keeper.keeping ?? this.asked);
      if (!this.strokes.includes(stroke)) return; // another picture by now
      const { steps } = this.document;
      const base = steps.length ? steps.at(-1).brush ?? (this.chosen && (await this.shown.answers.rle(this.chosen))) : null;
      if (this.document.steps !== steps) return void this.say("The prompts have changed meanwhile. Paint again.");
      const brush = paint([stroke], this.stage.size, base);
      if (brush) this.go(state.addStep(this.document, nextStep(steps, { brush })));
      else if (paintingOf(steps)) this.dropKind("brush"); // all of it is erased; points, box and words stay
      else this.say(steps.length ? "That erases all of it. Esc clears the prompts." : "Nothing is painted.");
    } catch (error) {
      this.tell(error);
    } finally {
      this.strokes = this.strokes.filter((one) => one !== stroke);
      this.changed();
    }
  }

  // --- text ----------------------------------------------------------------------------------------------------------

  /** The phrase becomes part of the object being made. */
  describe(text) {
    if (!this.isReady) return this.say("The picture is being encoded. One moment.");
    this.finder.reset();
    return this.prompt((steps) => nextStep(steps, { text }), { finds: state.NOTHING_FOUND });
  }

  // --- masks and objects ---------------------------------------------------------------------------------------------

  choose(index) {
    if (!this.isCurrent || this.answer.candidates.length <= index) return; // of masks that are offered still
    this.history = state.amend(this.history, state.chooseMask(this.document, index));
    this.shown = { ...this.shown, steps: this.document.steps };
    this.say(maskSentence(this.answer, index));
    this.changed();
  }

  cycle(by) {
    const count = this.answer?.candidates.length ?? 0;
    if (count > 1) this.choose((this.selected + by + count) % count);
  }

  /** Tab: the next mask; false past the last one, and the focus goes on. */
  tab(by) {
    if (this.isAsking) return true; // a moment later there is something to choose from
    const count = this.answer?.candidates.length ?? 0;
    const next = (this.selected ?? 0) + by;
    if (count < 2 || next < 0 || next >= count) return false;
    this.choose(next);
    return true;
  }

  keep() {
    return this.keeper.keep();
  }

  keepFound(masks, finds = this.document.finds) {
    return this.go(state.keepAll({ ...this.document, finds }, masks));
  }

  update(id, values) {
    return this.go(state.updateObject(this.document, id, values));
  }

  remove(id) {
    const { name } = this.document.objects.find((object) => object.id === id);
    this.say(`${name} deleted.`);
    return this.go(state.removeObject(this.document, id));
  }

  edit(id) {
    this.say("Open again. Click to refine, C keeps it.");
    return this.go(state.reopen(this.document, id, NOTHING));
  }

  /** What the panel is about; nothing to be undone. */
  select(id) {
    this.history = state.amend(this.history, state.select(this.document, id));
    this.changed();
  }

  editSelected() {
    if (this.document.selected) this.edit(this.document.selected);
  }

  deleteSelected() {
    if (this.document.selected) this.remove(this.document.selected);
  }

  refine(id, values) {
    return this.keeper.refine(id, values);
  }

  // --- view ----------------------------------------------------------------------------------------------------------

  /** By key: the page gives the field that belongs to a tool the focus. */
  openTool(tool) {
    this.setTool(tool);
  }

  setTool(tool) {
    this.tool = tool;
    this.glanced = null;
    this.box = this.corner = null;
    this.changed();
  }

  toggle(what) {
    if (what === "hide") this.isHidden = !this.isHidden;
    else this.isCutout = !this.isCutout;
    this.changed();
  }

  zoom(factor) {
    if (factor) this.stage.zoom(factor);
    else this.stage.fit();
  }

  moveCrosshair(dx, dy) {
    const [height, width] = this.stage.size;
    const from = this.crosshair ?? [Math.floor(width / 2), Math.floor(height / 2)];
    const limit = (value, most) => Math.min(Math.max(value, 0), most - 1);
    this.crosshair = this.crosshair ? [limit(from[0] + dx, width), limit(from[1] + dy, height)] : from;
    if (!this.stage.isFitted) this.stage.reveal(this.crosshair);
    this.say(`${Math.round(this.crosshair[0])}, ${Math.round(this.crosshair[1])}`);
    if (this.corner) this.box = boxOf(this.corner, this.crosshair);
    else this.hover(this.crosshair);
    this.changed();
  }

  /** Whoever points with the mouse or a finger has left the keyboard. */
  dropCrosshair() {
    this.crosshair = null;
    if (this.corner) this.box = this.corner = null;
  }

  /** B: the crosshair is one corner of a box, then the other. */
  cornerHere() {
    if (!this.crosshair) return this.moveCrosshair(0, 0);
    if (this.corner) return this.dragBox(this.corner, this.crosshair, true);
    this.corner = this.crosshair;
    return this.say("Box begun. Move the crosshair and press B again.");
  }

  escape() {
    if (this.finder.isActive) this.finder.stop();
    else if (this.box || this.corner) this.box = this.corner = null;
    else if (this.document.steps.length || this.document.editing) return this.go(state.clear(this.document));
    else {
      this.crosshair = null;
      this.select(null);
    }
    return this.changed();
  }

  /** What the stage draws. */
  scene() {
    return this.view.now();
  }

  /** Outline and box of a kept mask. */
  drawing(rle) {
    return this.view.drawing(rle);
  }
}
