/**
 * What a person does, and what follows from it. The app holds the history (state.js), the picture and what is under
 * the mouse; views (stage.js, panel.js) are told when something has changed and draw what holds now.
 */
import { Answers, candidateOfRle } from "./answers.js";
import { paint } from "./brush.js";
import { boxOf, distance, isInside, rounded } from "./geometry.js";
import { Finder } from "./finding.js";
import { NOTHING, nextStep, selectedMask, withPoint, without, withoutPoint } from "./prompts.js";
import { boundingBox, contains } from "./rle.js";
import { maskSentence, percent } from "./speech.js";
import * as state from "./state.js";

const MARKER = 12; // stage pixels around a marker that belong to it
const MAKING = "#1e7bff"; // the mask that is being made, and the one under the mouse
const SMALLEST_BOX = 3; // stage pixels

export class App {
  constructor({ server, stage, say, tell, changed }) {
    Object.assign(this, { server, stage, say, tell, changed });
    this.tool = "point";
    this.adds = true; // the Add/Remove switch
    this.brushSize = 28; // stage pixels
    this.spaceIsDown = false;
    this.checkpoint = null;
    this.isHidden = false;
    this.isCutout = false;
    this.drawings = new Map(); // RLE's counts -> candidate, for kept objects
    this.finder = new Finder(this);
    this.forgetPicture();
  }

  forgetPicture() {
    this.history = state.begin();
    this.picture = null; // what is shown: {size, name}
    this.answers = null; // once it is encoded
    this.answer = null; // to the steps that hold
    this.isAsking = false;
    this.glanced = null;
    this.crosshair = null;
    this.corner = null;
    this.box = null;
    this.strokes = [];
    this.pointer = null;
    this.finder?.clear();
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

  /** Place among the candidates of the mask that holds. */
  get selected() {
    if (!this.answer) return null;
    return selectedMask(this.document.steps.at(-1), this.answer.candidates.map(({ score }) => score));
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
    const { server, checkpoint } = this;
    this.answers = new Answers({ decoder, server, picture, checkpoint });
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

  /** The answer to the steps that hold. What comes late, after another step, is dropped. */
  async refresh() {
    const { steps } = this.document;
    const { answers } = this;
    this.glanced = null;
    if (!steps.length || !answers) {
      this.answer = null;
      this.isAsking = false;
      return this.changed();
    }
    this.isAsking = true;
    this.changed();
    try {
      const answer = await answers.of(steps);
      if (this.document.steps !== steps || this.answers !== answers) return undefined;
      this.answer = answer;
      this.say(maskSentence(answer, this.selected));
    } catch (error) {
      if (this.document.steps !== steps || this.answers !== answers) return undefined;
      this.answer = null;
      this.tell(error, () => this.refresh());
    }
    this.isAsking = false;
    return this.changed();
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
    if (this.kept(place) && !document.steps.length) return this.leave(place); // it is shown already
    try {
      const steps = [...document.steps, withPoint(document.steps, rounded(place), this.adds ? 1 : 0)];
      const answer = await answers.glance(steps);
      if (!answer || this.answers !== answers || this.document !== document || !this.isLookingAt(place)) return undefined;
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
    if (this.finder.pick(place)) return undefined;
    const { document } = this;
    const marker = this.markerAt(place);
    if (marker !== null) return this.dropPoint(marker);
    const object = this.kept(place);
    if (object && !document.steps.length && document.selected !== object.id && !removes) {
      this.say(`${object.name} selected. Click again to segment inside it.`);
      return this.go(state.select(document, object.id));
    }
    if (this.tool !== "point" && place !== this.crosshair) this.setTool("point");
    const label = (removes ? !this.adds : this.adds) ? 1 : 0;
    return this.go(state.addStep(document, withPoint(document.steps, rounded(place), label)));
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
    const { document } = this;
    return this.go(state.addStep(document, nextStep(document.steps, { box: [x0, y0, x1, y1] })));
  }

  dropDrag() {
    this.box = null;
    this.strokes = [];
    this.changed();
  }

  // --- brush ---------------------------------------------------------------------------------------------------------

  get brushRadius() {
    return this.brushSize / 2 / (this.stage.view?.scale ?? 1);
  }

  beginStroke(place, removes) {
    if (!this.isReady) return this.say("The picture is being encoded. One moment.");
    const erases = removes ? this.adds : !this.adds;
    this.strokes = [{ points: [place], radius: this.brushRadius, erases }];
    return this.changed();
  }

  continueStroke(places) {
    this.pointer = places.at(-1);
    this.strokes[0]?.points.push(...places);
    this.changed();
  }

  async endStroke() {
    const { strokes, document, answers } = this;
    if (!strokes.length) return undefined;
    const base = document.steps.length ? document.steps.at(-1).brush ?? (this.chosen && (await answers.rle(this.chosen))) : null;
    this.strokes = [];
    if (this.document !== document) return this.changed();
    const brush = paint(strokes, this.stage.size, base);
    if (!brush) return this.go(state.setSteps(document, []));
    return this.go(state.addStep(document, nextStep(document.steps, { brush })));
  }

  // --- text ----------------------------------------------------------------------------------------------------------

  /** The phrase becomes part of the object being made. */
  describe(text) {
    if (!this.isReady) return this.say("The picture is being encoded. One moment.");
    this.finder.clear();
    return this.go(state.addStep(this.document, nextStep(this.document.steps, { text })));
  }

  // --- masks and objects ---------------------------------------------------------------------------------------------

  choose(index) {
    if (!this.answer || this.answer.candidates.length <= index) return;
    this.history = state.amend(this.history, state.chooseMask(this.document, index));
    this.say(maskSentence(this.answer, index));
    this.changed();
  }

  cycle(by) {
    const count = this.answer?.candidates.length ?? 0;
    if (count > 1) this.choose((this.selected + by + count) % count);
  }

  /** Tab: the next mask; false past the last one, and the focus goes on. */
  tab(by) {
    const count = this.answer?.candidates.length ?? 0;
    const next = (this.selected ?? 0) + by;
    if (count < 2 || next < 0 || next >= count) return false;
    this.choose(next);
    return true;
  }

  async keep() {
    const { document, chosen, answers } = this;
    if (!chosen) return this.say("There is no mask to keep yet.");
    const selected = this.selected;
    const rle = await answers.rle(chosen).catch((error) => this.tell(error));
    if (!rle || this.document !== document) return undefined;
    if (!boundingBox(rle)) return this.say("This mask is empty. Choose another one or move the point.");
    const fixed = state.chooseMask(document, selected); // a session says which mask it was
    await this.go(state.keep(fixed, { rle, score: chosen.score }));
    const kept = this.document.objects.find(({ id }) => id === this.document.selected);
    this.say(`Kept as ${kept.name}. ${this.document.objects.length} objects.`);
    if (chosen.logits) this.confirm(kept, answers);
    return kept;
  }

  /** The server's mask is the one that counts; this browser's differs from it by single pixels along the outline. */
  async confirm(kept, answers) {
    const image = { picture: answers.picture.key };
    const data = { image, checkpoint: answers.checkpoint, steps: kept.steps };
    const answer = await this.server.call("/segment", data).catch(() => null); // ours is good enough then
    if (!answer) return;
    const { rle } = answer.masks[answer.selected];
    this.history = state.amendEverywhere(this.history, kept.id, kept.rle, { rle, original: rle });
    this.changed();
  }

  keepFound(masks) {
    return this.go(state.keepAll(this.document, masks));
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

  select(id) {
    return this.go(state.select(this.document, id));
  }

  editSelected() {
    if (this.document.selected) this.edit(this.document.selected);
  }

  deleteSelected() {
    if (this.document.selected) this.remove(this.document.selected);
  }

  /** Fills holes and drops islands of a kept object, from its mask as it was; `values` are the sliders'. */
  async refine(id, values) {
    const object = this.document.objects.find((candidate) => candidate.id === id);
    const { fill_holes, drop_islands } = { ...object, ...values };
    try {
      const { rle } = await this.server.call("/refine", { rle: object.original, fill_holes, drop_islands, polygon_detail: null });
      if (!this.document.objects.some((candidate) => candidate.id === id)) return;
      await this.update(id, { ...values, rle });
    } catch (error) {
      this.tell(error, () => this.refine(id, values));
    }
  }

  // --- view ----------------------------------------------------------------------------------------------------------

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
    this.say(`${Math.round(this.crosshair[0])}, ${Math.round(this.crosshair[1])}`);
    if (this.corner) this.box = boxOf(this.corner, this.crosshair);
    else this.hover(this.crosshair);
    this.changed();
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
      return this.go(state.select(this.document, null));
    }
    return this.changed();
  }

  /** What the stage draws. */
  scene() {
    const { document, tool } = this;
    const objects = document.objects
      .filter(({ id }) => id !== document.editing)
      .map((object) => ({ ...this.drawing(object.rle), hidden: object.hidden, name: object.name, color: object.color, selected: object.id === document.selected }));
    const editing = document.objects.find(({ id }) => id === document.editing);
    const chosen = this.isAsking && !this.answer ? null : this.chosen;
    return {
      hidden: this.isHidden,
      cutout: this.isCutout,
      objects: objects.map(({ candidate, ...rest }) => ({ ...rest, path: candidate.path })),
      finds: this.finder.shown,
      hoverFind: this.finder.hovered,
      chosen,
      others: this.answer?.candidates.filter((candidate) => candidate !== chosen) ?? [],
      glance: this.glanced,
      color: editing?.color ?? MAKING,
      step: document.steps.at(-1),
      box: this.box,
      crosshair: this.crosshair,
      brush: tool === "brush" ? { strokes: this.strokes, at: this.pointer, radius: this.brushRadius, erases: !this.adds } : null,
    };
  }

  /** Outline and box of a kept mask, found once. */
  drawing(rle) {
    if (!this.drawings.has(rle.counts)) {
      const candidate = candidateOfRle(rle, null);
      this.drawings.set(rle.counts, { candidate, box: boundingBox(rle), share: percent(candidate.share) });
      if (this.drawings.size > 600) this.drawings.delete(this.drawings.keys().next().value);
    }
    return this.drawings.get(rle.counts);
  }
}
