/**
 * The decoder in this browser: loaded once for a checkpoint, given the picture, and replaced when it is lost. Masks do
 * not wait for it: wherever there is none, the server decodes.
 */
import { Decoder } from "./decoder.js";

const MOST_THREADS = 4;
const PATIENCE = 400; // milliseconds that a picture waits for the decoder before the server decodes
const MOST_LOSSES = 3; // of one page: a decoder that is lost again and again is not replaced by itself
const NOTHING = { points: new Float32Array(2), labels: [-10], text: null, mask: null, maskKey: "", wanted: [0] };

export class Decoders {
  /** @param page see canvas.js */
  constructor(page) {
    this.page = page;
    this.known = new Map(); // checkpoint -> promise of {decoder, about}; one at a time: each holds the weights
    this.losses = 0;
    this.open = null; // {picture, opened, checkpoint} that the decoder is for
  }

  /** The decoder of a checkpoint and /decoder's answer; null where masks cannot be decoded here. Never rejects. */
  of(checkpoint) {
    if (!this.known.has(checkpoint)) {
      this.close();
      this.known.set(checkpoint, this.load(checkpoint));
    }
    return this.known.get(checkpoint);
  }

  async load(checkpoint) {
    const { page } = this;
    const nothing = { decoder: null, about: null };
    let about;
    try {
      about = await page.server.call("/decoder", { checkpoint }, { seconds: 600 });
    } catch (error) {
      return this.without(error, nothing, "The preview under the mouse could not be prepared; the server makes the masks.", checkpoint);
    }
    const decoder = new Decoder(() => new Worker(`${page.bridge.base}/decoder_worker.js`, { type: "module" }));
    const threads = Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1);
    try {
      if (typeof WebAssembly === "undefined") throw new Error("no WebAssembly");
      const files = { perImage: about.per_image.url, perClick: about.per_click.url };
      ({ threads: page.threads } = await decoder.load(files, threads));
    } catch (error) {
      decoder.close();
      const words = "This browser cannot decode masks itself, so the server does: there is no preview under the mouse.";
      return this.without(error, { decoder: null, about }, words, checkpoint);
    }
    page.showDecoding(true);
    return { decoder, about };
  }

  /** What holds without a decoder; said once, and tried again with the next picture or when a person asks for it. */
  without(error, loaded, words, checkpoint) {
    console.warn("decoding on the server:", error);
    this.page.showDecoding(false);
    if (typeof WebAssembly === "undefined") this.page.tell(words, null, true);
    else {
      this.known.delete(checkpoint);
      this.page.tell(words, () => this.again(), true);
    }
    return loaded;
  }

  /**
   * Answers come from the server at once, and from this browser as soon as it can.
   * @param picture {key, frame, low, textWidth}, see answers.js; @param opened what `encode` gave
   * @param loaded promise of the decoder; @param ready called with the picture and each decoder that answers
   */
  async attach({ picture, opened, checkpoint }, loaded, busy) {
    const { page } = this;
    const open = (this.open = { picture, opened, checkpoint });
    const first = await Promise.race([loaded, new Promise((resolve) => setTimeout(resolve, PATIENCE, null))]);
    if (this.open !== open) return;
    if (!first) {
      page.ready(picture, null);
      busy("Preparing the preview under the mouse");
    }
    const { decoder, about } = first ?? (await loaded);
    if (this.open !== open) return;
    if (about) {
      picture.textWidth = about.text_width;
      picture.frame.padded = about.image_size;
    }
    const works = decoder && (await this.warmUp(decoder, opened));
    if (this.open !== open) return;
    busy(null);
    page.ready(picture, works ? decoder : null);
    if (decoder && !works) this.lost(page.app.answers, new Error("the first mask could not be decoded"), true);
  }

  /** Gives the picture to the decoder, whose first run is the slow one; false if it fails. */
  async warmUp(decoder, opened) {
    const { picture: key, shape } = opened;
    try {
      const bytes = opened.bytes ?? (await (await this.page.server.bytes(opened.embedding)).arrayBuffer());
      opened.bytes = null; // the thread takes them; whoever needs them again fetches them
      await decoder.setPicture(key, bytes, shape);
      await decoder.decode({ picture: key, ...NOTHING });
      return true;
    } catch (error) {
      console.warn("the decoder does not begin:", error);
      return false;
    }
  }

  /** A decoder has failed: the server answers, and another decoder is made in the background. */
  lost(answers, error) {
    if (this.page.app.answers !== answers || !this.open) return;
    console.warn("the decoder is lost:", error);
    this.close();
    this.page.showDecoding(false);
    if (++this.losses > MOST_LOSSES) {
      const words = "This browser's decoder has stopped, so the server makes the masks: there is no preview under the mouse.";
      return void this.page.tell(words, () => this.again(), true);
    }
    this.again();
  }

  again() {
    if (!this.open) return undefined;
    return this.attach(this.open, this.of(this.open.checkpoint), () => {});
  }

  /** Nothing that is under way is for the picture that is shown any more. */
  forget() {
    this.open = null;
  }

  close() {
    for (const known of this.known.values()) known.then(({ decoder }) => decoder?.close());
    this.known.clear();
  }
}
