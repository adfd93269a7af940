/** What the stage draws (stage.js), from what holds in the app; kept objects' outlines are found once. */
import { candidateOfRle } from "./answers.js";
import { boundingBox } from "./rle.js";
import { percent } from "./speech.js";

const MAKING = "#1e7bff"; // the mask that is being made, and the one under the mouse
const LEAST_KEPT = 600; // outlines

export class Scene {
  /** @param app see app.js */
  constructor(app) {
    this.app = app;
    this.drawings = new Map(); // RLE's counts -> {candidate, box, share}
    this.objects = null; // {key, drawn}
  }

  /** The description that `Stage.draw` takes. */
  now() {
    const { app } = this;
    const { document, finder } = app;
    const editing = document.objects.find(({ id }) => id === document.editing);
    const { chosen } = app;
    const brush = { strokes: app.strokes, at: app.pointer, radius: app.brushRadius, erases: !app.adds };
    return {
      hidden: app.isHidden,
      cutout: app.isCutout,
      objects: this.drawnObjects(document),
      finds: finder.shown,
      hoverFind: finder.shown.includes(finder.hovered) ? finder.hovered : null,
      polygon: app.keeper.polygonOf(document.selected),
      chosen,
      others: app.answer?.candidates.filter((candidate) => candidate !== chosen) ?? [],
      glance: app.glanced,
      color: editing?.color ?? MAKING,
      step: document.steps.at(-1),
      box: app.box,
      crosshair: app.crosshair,
      brush: app.tool === "brush" ? brush : null,
    };
  }

  /** Kept objects as they are drawn; the same array as long as nothing about them changes. */
  drawnObjects({ objects, editing, selected }) {
    const key = [objects, editing, selected];
    if (this.objects?.key.every((value, index) => value === key[index])) return this.objects.drawn;
    const drawn = objects.filter(({ id }) => id !== editing).map(({ id, rle, hidden, name, color }) => {
      const { candidate, box } = this.drawing(rle);
      return { path: candidate.path, box, hidden, name, color, selected: id === selected };
    });
    this.objects = { key, drawn };
    return drawn;
  }

  /** Outline, box and share of a kept mask. */
  drawing(rle) {
    if (!this.drawings.has(rle.counts)) {
      const candidate = candidateOfRle(rle, null);
      this.drawings.set(rle.counts, { candidate, box: boundingBox(rle), share: percent(candidate.share) });
      const most = Math.max(LEAST_KEPT, 2 * this.app.document.objects.length);
      if (this.drawings.size > most) this.drawings.delete(this.drawings.keys().next().value);
    }
    return this.drawings.get(rle.counts);
  }
}
