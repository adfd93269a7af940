/**
 * Masks that are kept: what the person sees is kept, the server's mask takes its place where both agree, and sliders
 * fill holes and drop islands. Answers that come late are put to the object they were asked for, or are let go.
 */
import { area, boundingBox, overlap } from "./rle.js";
import * as state from "./state.js";

const AGREE = 0.99; // IoU of this browser's mask and the server's: they differ by single pixels along the outline
const FRINGE = 0.4; // of a small mask, whose IoU a few pixels lower, a tenth of the outline of a square of its area may differ

export class Keeper {
  /** @param app see app.js */
  constructor(app) {
    this.app = app;
    this.keeping = null; // promise of the object that is being kept
    this.confirming = null; // promise, kept once the server's mask has taken the last one's place
    this.refining = new Map(); // id -> {values} that were asked for last
    this.polygons = new Map(); // id -> {rle, detail, rings, corners}, of objects whose detail somebody has looked at
    this.drawn = 0; // how many polygons have come
  }

  /** Keeps the mask of the steps that hold; gives the object, or undefined and a sentence why there is none. */
  keep() {
    this.keeping ??= this.keepNow().finally(() => (this.keeping = null));
    return this.keeping;
  }

  async keepNow() {
    const { app } = this;
    while (app.isAsking) await app.asked; // what is kept is the answer to the steps that hold
    const { shown, chosen, selected } = app;
    if (!chosen) return app.say("There is no mask to keep yet.");
    const { steps, answers } = shown;
    let rle, fixed;
    try {
      rle = await answers.rle(chosen);
      fixed = await answers.pinned(steps, selected);
    } catch (error) {
      return app.tell(error, () => this.keep());
    }
    if (app.document.steps !== steps) return app.say("The prompts have changed, so that the mask was not kept.");
    if (!boundingBox(rle)) return app.say("This mask is empty. Choose another one or move the point.");
    const { fill_holes = 0, drop_islands = 0 } = this.object(app.document.editing) ?? {};
    await app.go(state.keep(state.setSteps(app.document, fixed), { rle, score: chosen.score }));
    const kept = app.document.objects.find(({ id }) => id === app.document.selected);
    app.say(`Kept as ${kept.name}. ${app.document.objects.length} objects.`);
    this.confirming = chosen.logits ? this.confirm(kept, answers) : Promise.resolve();
    if (fill_holes || drop_islands) this.confirming.then(() => this.refine(kept.id, { fill_holes, drop_islands }, true)); // as before
    return kept;
  }

  /** The server's mask is the one that counts, unless it is another one than was seen. */
  async confirm(kept, answers) {
    const { app } = this;
    const answer = await answers.call("/segment", { steps: kept.steps }).catch(() => null); // ours is good enough then
    if (!answer) return;
    const { rle } = answer.masks[answer.selected];
    const agree = overlap(kept.rle, rle);
    const both = area(kept.rle) + area(rle);
    const differing = (both * (1 - agree)) / (1 + agree); // pixels
    if (agree < AGREE && differing > FRINGE * Math.sqrt(both / 2)) {
      if (!this.object(kept.id)) return;
      const words = `${kept.name} is kept as you saw it; the server's mask differs (IoU ${agree.toFixed(2)}).`;
      return void app.tell(words, null, true);
    }
    app.history = state.amendEverywhere(app.history, kept.id, kept.rle, { rle, original: rle });
    app.changed();
  }

  /**
   * Fills holes and drops islands of a kept object, from its mask as it was; `values` are the sliders'. One request per
   * object is under way; what was asked for meanwhile is asked together when it is answered. `isNoAct`: it belongs to
   * what was done before, and is undone with it.
   */
  async refine(id, values, isNoAct = false) {
    const { app } = this;
    const waiting = this.refining.get(id);
    if (waiting) return void (waiting.values = { ...waiting.values, ...values });
    const asked = { values };
    this.refining.set(id, asked);
    try {
      for (;;) {
        const object = this.object(id);
        if (!object) return;
        const { values: given } = asked;
        const { fill_holes, drop_islands } = { ...object, ...given };
        const original = object.original ?? (await this.untidied(object));
        const data = { rle: original, fill_holes, drop_islands, polygon_detail: null };
        const { rle } = await app.server.call("/refine", data);
        const now = this.object(id);
        if (!now) return;
        if (asked.values !== given || now.original !== object.original) continue; // asked again, or another mask by now
        const document = state.updateObject(app.document, id, { fill_holes, drop_islands, rle, original });
        if (!isNoAct) return void app.go(document);
        app.history = state.amend(app.history, document);
        return void app.changed();
      }
    } catch (error) {
      app.tell(error, () => this.refine(id, asked.values));
    } finally {
      this.refining.delete(id);
    }
  }

  /** The mask of an object of a session file as it was before holes were filled: its steps say it. */
  async untidied({ rle, steps }) {
    const { answers } = this.app;
    if (!answers || !steps.length) return rle;
    const { masks, selected } = await answers.call("/segment", { steps });
    return masks[selected].rle;
  }

  /** An object's outline with the detail that is exported: {rings, corners}; null where it is not there yet. */
  polygonOf(id) {
    const object = id && this.object(id);
    const known = object && this.polygons.get(id);
    if (object && !object.hidden && (known || object.polygon_detail < 1)) this.draw(object, known);
    return known?.rings && known.rle === object.rle && known.detail === object.polygon_detail ? known : null;
  }

  /** Asks for an object's polygons, unless it has been asked: one request at a time, and again if it has changed. */
  async draw({ id, rle, polygon_detail: detail }, known) {
    if (this.isDrawing || (known?.rle === rle && known.detail === detail)) return;
    this.isDrawing = true;
    const data = { rle, fill_holes: 0, drop_islands: 0, polygon_detail: detail };
    const answer = await this.app.server.call("/refine", data).catch(() => null); // it is no more than a look
    const corners = answer?.polygons.reduce((sum, ring) => sum + ring.length / 2, 0);
    this.polygons.set(id, { rle, detail, rings: answer?.polygons ?? null, corners });
    this.isDrawing = false;
    this.drawn++;
    this.app.changed();
  }

  object(id) {
    return this.app.document.objects.find((object) => object.id === id);
  }
}
