// Masks are made with and without a decoder in this browser, and a decoder that is lost is replaced.
import assert from "node:assert/strict";
import test from "node:test";
import { Answers } from "../../../sam_hf/ui/static/answers.js";
import { Decoder } from "../../../sam_hf/ui/static/decoder.js";
import { Decoders } from "../../../sam_hf/ui/static/decoders.js";
import { NOTHING } from "../../../sam_hf/ui/static/prompts.js";
import { encode } from "../../../sam_hf/ui/static/rle.js";

const LOW = 4;
const FRAME = { size: [4, 4], resized: [4, 4], padded: 4 };
const turn = () => new Promise((resolve) => setTimeout(resolve, 5));
const STEPS = [{ ...NOTHING, points: [[1, 1]], labels: [1] }];
console.warn = () => {};

/** A thread that answers at once, until `breaks` says how it ends. */
class Thread {
  static made = [];
  static breaks = () => false;

  constructor() {
    Thread.made.push(this);
  }

  postMessage({ id, type, wanted = [] }) {
    setTimeout(() => {
      if (Thread.breaks(type, this)) return;
      const masks = wanted.map(() => new Float32Array(LOW * LOW).fill(1));
      this.onmessage?.({ data: { id, threads: 1, scores: wanted.map(() => 0.9), masks, low: LOW } });
    });
  }

  terminate() {
    this.onmessage = this.onerror = null;
  }
}
globalThis.Worker = Thread;
globalThis.navigator ??= { hardwareConcurrency: 2 };

function begin({ about = { per_image: {}, per_click: {}, text_width: 0, image_size: 4 } } = {}) {
  Thread.made = [];
  Thread.breaks = () => false;
  const told = [];
  const asked = [];
  const server = {
    call: async () => {
      if (!about) throw new Error("no decoder");
      return about;
    },
    bytes: async () => ({ arrayBuffer: async () => new ArrayBuffer(8) }),
    async *stream(endpoint) {
      asked.push(endpoint);
      yield { masks: [1, 2, 3].map((count) => ({ rle: encode([1, 1, 1, 1], [2, 2]), score: count / 4, area: count, bbox: [] })), selected: 2 };
    },
  };
  const page = { server, bridge: { base: "" }, app: {}, showDecoding: (here) => (page.decodesHere = here), tell: (words, again) => told.push({ words, again }) };
  const decoders = new Decoders(page);
  const lost = (answers, error) => decoders.lost(answers, error);
  page.ready = (picture, decoder) => (page.app.answers = new Answers({ decoder, server, picture, checkpoint: "tiny", lost }));
  const picture = { key: "p", frame: FRAME, low: LOW, textWidth: 0 };
  const open = () => decoders.attach({ picture, opened: { picture: "p", shape: [1, 2, 1, 1], bytes: new ArrayBuffer(8) }, checkpoint: "tiny" }, decoders.of("tiny"), () => {});
  return { page, decoders, told, asked, open };
}

test("without a decoder the server answers, and a person can ask for it again", async () => {
  const { page, told, asked, open } = begin({ about: null });
  await open();
  assert.equal(page.decodesHere, false);
  assert.equal((await page.app.answers.of(STEPS)).candidates.length, 3);
  assert.deepEqual(asked, ["/segment"]);
  page.server.call = async () => ({ per_image: {}, per_click: {}, text_width: 0, image_size: 4 });
  await told[0].again();
  assert.ok(page.app.answers.decoder);
});

test("a thread that ends answers by the server, and another one takes its place", async () => {
  const { page, told, asked, open } = begin();
  await open();
  const before = page.app.answers;
  assert.equal((await before.of(STEPS)).candidates[0].logits.length, LOW * LOW);
  assert.deepEqual(asked, []);
  const end = ({ message }) => (type, thread) => type === "decode" && (thread.onerror?.({ message }), true);
  Thread.breaks = end({ message: "out of memory" });
  const late = before.of([...STEPS, { ...STEPS[0], previous: true }]);
  Thread.made[0].onerror({ message: "out of memory" });
  Thread.breaks = () => false;
  assert.equal((await late).candidates.length, 3);
  assert.deepEqual(asked, ["/segment"]);
  for (let wait = 0; wait < 20 && page.app.answers === before; wait++) await turn();
  assert.equal(Thread.made.length, 2);
  assert.ok(page.app.answers.decoder);
  assert.equal(told.length, 0);
});

test("what was decoded here is kept even though the thread is gone", async () => {
  const { page, open } = begin();
  await open();
  const { answers } = page.app;
  const { candidates } = await answers.of(STEPS);
  answers.decoder.close();
  assert.deepEqual(await answers.rle(candidates[0]), encode(Array(16).fill(1), [4, 4]));
});

test("a decoder that is lost again and again is given up with a sentence", async () => {
  const { page, told, open } = begin();
  Thread.breaks = (type, thread) => type === "picture" && (thread.onerror?.({ message: "unreachable" }), true);
  await open();
  for (let wait = 0; wait < 50 && !told.length; wait++) await turn();
  assert.equal(told.length, 1);
  assert.match(told[0].words, /has stopped/);
  assert.doesNotMatch(told[0].words, /unreachable/);
  assert.equal(page.app.answers.decoder, null);
});

test("a closed decoder makes no further thread", async () => {
  Thread.made = [];
  const decoder = new Decoder(() => new Thread());
  const open = decoder.decode({ wanted: [0] });
  decoder.close("gone");
  await assert.rejects(open, /gone/);
  await assert.rejects(decoder.decode({ wanted: [0] }), /gone/);
  await assert.rejects(decoder.glance({ wanted: [0] }), /gone/);
  assert.equal(Thread.made.length, 1);
});
