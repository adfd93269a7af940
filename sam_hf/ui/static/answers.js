/**
 * From steps to masks: the decoder in this browser where it runs, else the server. Asked twice, answered once.
 *
 * An answer is {candidates: [{score, share, path, logits, low, rle}], three}; `rle` is there where the server answered,
 * `logits` where the browser did.
 */
import { boundsOf, maskPrompt, outlineOfLogits, outlineOfRle, pathOf, rleOfLogits, shareOfLogits } from "./mask_drawing.js";
import { decoderInput, offeredMasks, selectedMask, wantsThree } from "./prompts.js";
import { area } from "./rle.js";
import { lastOf } from "./server.js";

const KEPT = 48;
const SPECK = 32; // numbers of a line that is too short to be drawn where a mask is only hinted at

export class Answers {
  /**
   * @param renew sends the picture of answers again that the server has let go of; gives what it calls it now
   * @param lost hears that the decoder in this browser has failed
   */
  constructor({ decoder, server, picture, checkpoint, renew, lost }) {
    Object.assign(this, { decoder, server, picture, checkpoint, renew, lost });
    this.id = picture.key; // what the server calls it; the decoder knows it by its key for good
    this.known = new Map(); // key of steps -> promise of an answer
    this.phrases = new Map(); // text -> promise of a vector, or null where the server has to decode it
  }

  /** What the server answers about this picture. Where it does not know it any more, it gets it again and is asked again. */
  async *stream(endpoint, data, how) {
    for (let isSecond = false; ; isSecond = true) {
      const image = { picture: this.id };
      const checkpoint = endpoint === "/replay" ? {} : { checkpoint: this.checkpoint }; // a session names its own
      try {
        yield* this.server.stream(endpoint, { image, ...checkpoint, ...data }, how);
        return;
      } catch (error) {
        if (error.kind !== "expired" || isSecond) throw error;
        if (this.id === image.picture) this.id = await this.renew(this);
      }
    }
  }

  call(endpoint, data, how) {
    return lastOf(this.stream(endpoint, data, how));
  }

  /** Whether steps can be decoded here. */
  isLocal(steps) {
    return Boolean(this.decoder) && (this.picture.textWidth > 0 || steps.every((step) => !step.text));
  }

  /** The answer to the last step. */
  of(steps) {
    const key = keyOf(steps);
    if (!this.known.has(key)) {
      const answer = this.isLocal(steps) ? this.decodeHere(steps) : this.decodeThere(steps);
      this.known.set(key, answer);
      answer.catch(() => this.known.delete(key));
      if (this.known.size > KEPT) this.known.delete(this.known.keys().next().value);
    }
    return this.known.get(key);
  }

  /** The same steps with the masks chosen that they build on, so that nobody has to guess them: `selected` of the last. */
  async pinned(steps, selected) {
    const pin = async (step, place) => {
      if (place === steps.length - 1) return { ...step, selected };
      if (step.selected !== null || !wantsThree(step)) return step;
      const { candidates } = await this.of(steps.slice(0, place + 1));
      return { ...step, selected: selectedMask(step, candidates.map(({ score }) => score)) };
    };
    return Promise.all(steps.map(pin));
  }

  /** What a further step would give, if nothing newer is asked before; null where something was. Local steps only. */
  async glance(steps) {
    const request = await this.request(steps);
    if (!this.decoder) return null;
    const answer = await this.decoder.glance(request).catch((error) => this.lose(error));
    return answer && this.local(answer, steps.at(-1));
  }

  /** Decoded here, or by the server if the decoder fails. */
  async decodeHere(steps) {
    const request = await this.request(steps);
    const answer = await this.decoder?.decode(request).catch((error) => this.lose(error));
    return answer ? this.local(answer, steps.at(-1)) : this.decodeThere(steps);
  }

  /** The decoder has failed, and would fail again: whatever it made of steps goes on at the server. */
  lose(error) {
    if (!this.decoder) return null;
    this.decoder = null;
    this.lost?.(this, error);
    return null;
  }

  async request(steps) {
    const step = steps.at(-1);
    const { picture } = this;
    let [mask, maskKey] = [null, ""];
    if (step.brush) {
      maskKey = step.brush.counts;
      mask = maskPrompt(step.brush, picture.low, picture.frame);
    } else if (step.previous) {
      const before = steps.slice(0, -1);
      const answer = await this.of(before);
      const chosen = selectedMask(before.at(-1), answer.candidates.map(({ score }) => score));
      mask = answer.candidates[chosen].logits;
      maskKey = `${keyOf(before)} ${chosen}`;
    }
    const text = step.text ? await this.vector(step.text) : null;
    const input = decoderInput(step, picture.frame.size, picture.frame.resized);
    return { picture: picture.key, ...input, text, mask, maskKey, wanted: offeredMasks(step) };
  }

  local({ scores, masks, low }, step) {
    const { frame } = this.picture;
    const candidates = masks.map((logits, index) => candidate(scores[index], logits, low, frame));
    return { candidates, three: wantsThree(step) };
  }

  async decodeThere(steps) {
    const answer = await this.call("/segment", { steps });
    const [height, width] = this.picture.frame.size;
    const candidates = answer.masks.map(({ rle, score, area: pixels }) =>
      outlined({ score, rle, share: pixels / (height * width), logits: null }, () => outlineOfRle(rle)),
    );
    return { candidates, three: candidates.length > 1 };
  }

  /** The vector of a phrase, as the decoder takes it. */
  vector(text) {
    if (!this.phrases.has(text)) {
      const asked = this.server.call("/phrase", { text, checkpoint: this.checkpoint });
      const vector = asked.then(({ embedding }) => (embedding ? Float32Array.from(embedding) : null));
      vector.catch(() => this.phrases.delete(text));
      this.phrases.set(text, vector);
    }
    return this.phrases.get(text);
  }

  /** A candidate's mask in original pixels, as RLE. */
  async rle(chosen) {
    const { logits, low } = chosen;
    const { frame } = this.picture;
    chosen.rle ??= await this.decoder?.stretch(logits, low, frame).catch((error) => this.lose(error));
    chosen.rle ??= rleOfLogits(logits, low, frame); // on this thread, which waits a moment
    return chosen.rle;
  }
}

/** Kept masks as candidates: what everything mode and phrases find. */
export function candidateOfRle(rle, score) {
  const share = area(rle) / (rle.size[0] * rle.size[1]);
  return outlined({ score, rle, share, logits: null }, () => outlineOfRle(rle));
}

function candidate(score, logits, low, frame) {
  const share = shareOfLogits(logits, low, frame);
  return outlined({ score, logits, low, rle: null, share }, () => outlineOfLogits(logits, low, frame));
}

/** Adds `path`, `calm` (the path without specks) and `bounds`, found when they are first drawn: of three masks often one is looked at. */
function outlined(values, outline) {
  let found = null;
  const find = () => {
    if (!found) {
      const lines = outline();
      found = { path: pathOf(lines), calm: pathOf(lines.filter((line) => line.length > SPECK)), bounds: boundsOf(lines) };
    }
    return found;
  };
  const names = ["path", "calm", "bounds"];
  return Object.defineProperties(values, Object.fromEntries(names.map((name) => [name, { get: () => find()[name] }])));
}

/** Which of the last step's masks is chosen makes no other answer, unless it makes the step ambiguous. */
function keyOf(steps) {
  const last = steps.at(-1);
  return JSON.stringify([...steps.slice(0, -1), { ...last, selected: wantsThree(last) }]);
}
