/**
 * Who asks the decoder's thread: one request in flight, clicks in order, and of the places the mouse passed only the
 * newest. So nothing queues up however fast the mouse moves, and an answer for a picture that is gone is dropped.
 */

const LONGEST = { load: 600, picture: 60, decode: 30, stretch: 30 }; // seconds: a thread without an answer is lost

export class Decoder {
  /** @param {() => Worker} makeWorker */
  constructor(makeWorker) {
    this.makeWorker = makeWorker;
    this.worker = null;
    this.count = 0;
    this.waiting = []; // requests that all have to be answered, in order
    this.passing = null; // the newest request that may be replaced by a newer one
    this.current = null;
    this.end = null; // why it is closed, once it is
    this.timer = null;
  }

  /** Loads the two ONNX files. Rejects where WebAssembly does not work. */
  load(files, threads) {
    return this.request({ type: "load", ...files, threads });
  }

  setPicture(key, embedding, shape) {
    return this.request({ type: "picture", key, embedding, shape }, [embedding]);
  }

  /** The masks for a prompt. */
  decode(request) {
    return this.request({ type: "decode", ...request });
  }

  /** Like `decode`, but answered by null if a newer place comes before its turn. */
  glance(request) {
    if (this.end !== null) return Promise.reject(new Error(this.end));
    return new Promise((resolve, reject) => {
      this.passing?.resolve(null);
      this.passing = { message: { type: "decode", ...request }, transfer: [], resolve, reject };
      this.next();
    });
  }

  /** Nobody looks at what was last glanced at any more. */
  forgetGlance() {
    this.passing?.resolve(null);
    this.passing = null;
  }

  /** Logits to a mask in original pixels, as RLE. */
  async stretch(logits, low, frame) {
    return (await this.request({ type: "stretch", logits, low, frame })).rle;
  }

  /** Lets go of the thread and whatever was asked of it, for good. */
  close(reason = "closed") {
    this.end ??= reason;
    clearTimeout(this.timer);
    this.worker?.terminate();
    this.worker = null;
    const open = [this.current, ...this.waiting, this.passing].filter(Boolean);
    this.current = this.passing = null;
    this.waiting = [];
    for (const { reject } of open) reject(new Error(reason));
  }

  request(message, transfer = []) {
    if (this.end !== null) return Promise.reject(new Error(this.end));
    return new Promise((resolve, reject) => {
      this.waiting.push({ message, transfer, resolve, reject });
      this.next();
    });
  }

  next() {
    if (this.current) return;
    const next = this.waiting.shift() ?? this.passing;
    if (!next) return;
    if (next === this.passing) this.passing = null;
    this.current = next;
    if (!this.worker) {
      this.worker = this.makeWorker();
      this.worker.onmessage = ({ data }) => this.answered(data);
      this.worker.onerror = (event) => this.close(event.message || "the decoder's thread could not be started");
    }
    next.id = ++this.count;
    this.timer = setTimeout(() => this.close("the decoder does not answer"), 1000 * LONGEST[next.message.type]);
    this.timer.unref?.(); // under node a timer keeps the process alive
    this.worker.postMessage({ ...next.message, id: next.id }, next.transfer);
  }

  answered({ id, error, ...answer }) {
    const { current } = this;
    if (!current || current.id !== id) return;
    this.current = null;
    clearTimeout(this.timer);
    if (error !== undefined) current.reject(new Error(error));
    else current.resolve(answer);
    this.next();
  }
}
