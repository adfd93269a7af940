/**
 * What is found at once: everything mode, and all that a phrase names. Found masks are shown until somebody clicks
 * them (then they are kept), keeps them all, or lets them go.
 */
import { candidateOfRle } from "./answers.js";
import { area, contains } from "./rle.js";
import { percent } from "./speech.js";
import { change, COLORS, NOTHING_FOUND } from "./state.js";

export class Finder {
  constructor(app) {
    this.app = app;
    this.ticket = null;
    this.reset();
  }

  /** Ends a search; what was found before is shown again. */
  reset() {
    this.ticket?.abort();
    this.ticket = null;
    this.progress = null; // {done, total, words} while something is being looked for
    this.hovered = null;
    this.words = ""; // about what is being looked for
  }

  /** What was found is part of the document, so that keeping it and letting it go can be undone. */
  get finds() {
    return this.ticket ? NOTHING_FOUND : this.app.document.finds;
  }

  get shown() {
    return this.finds.shown;
  }

  get others() {
    return this.finds.others;
  }

  get note() {
    return this.ticket ? this.words : this.finds.note;
  }

  get isActive() {
    return this.shown.length > 0 || this.ticket !== null;
  }

  /** Ends the search, or lets go of what was found. */
  stop() {
    const isSearching = this.ticket !== null;
    this.reset();
    this.app.say(isSearching ? "Cancelled." : "Found masks let go.");
    if (isSearching) this.app.changed();
    else this.put(NOTHING_FOUND);
  }

  /** What is under the mouse; true if there is anything to point at. */
  hover(place) {
    if (!this.shown.length) return false;
    this.hovered = place && this.at(place);
    return true;
  }

  /** The smallest mask at a place: a larger one can be pointed at beside it. */
  at(place) {
    return this.shown.find(({ rle }) => contains(rle, place)) ?? null;
  }

  /** Keeps the mask at a place; true if found masks are what one points at now. */
  pick(place) {
    if (!this.shown.length) return false;
    const found = this.at(place);
    if (found) this.keep(found);
    return true;
  }

  keep(found) {
    this.hovered = null;
    this.app.keepFound([kept(found)], { ...this.finds, shown: this.shown.filter((one) => one !== found) });
    this.app.say(`${found.title} kept. ${this.shown.length} more.`);
  }

  keepAll() {
    const masks = this.shown.map(kept);
    this.reset();
    this.app.keepFound(masks, NOTHING_FOUND);
    this.app.say(`${masks.length} masks kept.`);
  }

  /** Shows what was left out, too. */
  showOthers() {
    const shown = [...this.shown, ...this.others].sort((one, other) => one.area - other.area);
    const note = `${count(shown.length)}, of other things too. Click one to keep it.`;
    this.app.say(note);
    this.put({ shown, others: [], note });
  }

  /** Other found masks in the place of those before. */
  put(finds) {
    this.app.history = change(this.app.history, { ...this.app.document, finds });
    this.app.changed();
  }

  /** All instances of a phrase, and whether it is there at all. */
  phrase(text) {
    return this.search("Looking for the phrase", async (answers, signal) => {
      const [found] = await answers.call("/segment_text", { phrases: [text], instances: "all" }, { signal });
      if (found.absent || !found.instances.length) {
        const sure = found.presence === null || found.presence === undefined ? "" : ` (${Math.round(100 * found.presence)} % likely)`;
        this.words = `“${text}” does not seem to be in this picture${sure}.`;
        return [];
      }
      this.words = `“${text}”: ${count(found.instances.length)}. Click one to keep it.`;
      return found.instances.map(({ rle, score, text_probability: likely }) => ({ rle, score, likely, label: text }));
    });
  }

  /** Everything mode; with names, masks of other things are left out. */
  everything(options, names) {
    return this.search("Finding everything", async (answers, signal) => {
      let records = [];
      const waiting = (place) => this.tick({ words: `Waiting, ${place} before you` });
      for await (const step of answers.stream("/everything", { ...options, text: names }, { signal, waiting })) {
        this.tick({ words: "Finding everything", done: step.done, total: step.total });
        records = step.records ?? records;
      }
      const masks = records.map(({ segmentation: rle, predicted_iou: score, label, label_probability: likely }) => ({
        rle, score, label, likely, isOther: names.length > 0 && !names.includes(label),
      }));
      const left = masks.filter(({ isOther }) => isOther).length;
      this.words = masks.length > left
        ? `${count(masks.length - left)}${left ? `, ${left} of other things left out` : ""}. Click one to keep it.`
        : left ? `Nothing of what was asked for; ${left} ${left === 1 ? "mask" : "masks"} of other things left out.`
        : "Nothing was found. Lower the thresholds or ask about more points.";
      return masks;
    });
  }

  tick(progress) {
    this.progress = progress;
    this.app.changed();
  }

  async search(words, ask) {
    const { app } = this;
    if (!app.isReady) return app.say("The picture is being encoded. One moment.");
    this.reset();
    const ticket = (this.ticket = new AbortController());
    this.tick({ words });
    try {
      const masks = await ask(app.answers, ticket.signal);
      if (this.ticket !== ticket) return undefined;
      app.say(this.words);
      this.show(masks, this.words);
    } catch (error) {
      if (this.ticket !== ticket || error.kind === "cancelled") return undefined;
      app.tell(error, () => this.search(words, ask));
    }
    this.ticket = this.progress = null;
    return app.changed();
  }

  /** Shows masks, the smallest first, with a sentence about them. */
  show(masks, note) {
    const sized = masks.map((mask) => ({ ...mask, area: area(mask.rle) })).filter((mask) => mask.area > 0);
    sized.sort((one, other) => one.area - other.area);
    const found = sized.map((mask, index) => {
      const drawn = candidateOfRle(mask.rle, mask.score);
      const color = COLORS[index % COLORS.length];
      const title = mask.label ?? `Mask ${index + 1}`;
      const detail = mask.likely === undefined ? percent(drawn.share) : `${Math.round(100 * mask.likely)} %`;
      return Object.defineProperty({ ...mask, color, title, detail }, "path", { get: () => drawn.path });
    });
    this.put({ shown: found.filter(({ isOther }) => !isOther), others: found.filter(({ isOther }) => isOther), note });
  }
}

const count = (number) => `${number} ${number === 1 ? "mask" : "masks"} found`;

const kept = ({ rle, score, label, color }) => ({ rle, score, name: label, color });
