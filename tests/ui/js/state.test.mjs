// The document, its history, and who answers first.
import assert from "node:assert/strict";
import test from "node:test";
import { Decoder } from "../../../sam_hf/ui/static/decoder.js";
import { NOTHING } from "../../../sam_hf/ui/static/prompts.js";
import * as state from "../../../sam_hf/ui/static/state.js";

const RLE = { size: [2, 2], counts: "112" };
const step = (x) => ({ ...NOTHING, points: [[x, x]], labels: [1] });
const kept = (count) => {
  let document = state.EMPTY;
  for (let index = 0; index < count; index++) document = state.keep(state.addStep(document, step(index)), { rle: RLE, score: 0.9 });
  return document;
};

test("undo and redo go through all that was done, and a new act forgets what was undone", () => {
  let history = state.begin();
  for (const x of [1, 2, 3]) history = state.change(history, state.addStep(history.present, step(x)));
  history = state.change(history, state.keep(history.present, { rle: RLE, score: 0.5 }));
  history = state.undo(state.undo(history));
  assert.deepEqual([history.present.steps.length, history.present.objects.length], [2, 0]);
  assert.equal(state.redo(state.redo(history)).present.objects.length, 1);
  history = state.change(history, state.clear(history.present));
  assert.equal(history.future.length, 0);
  assert.equal(state.undo(history).present.steps.length, 2);
  assert.equal(state.undo(state.begin()).present, state.EMPTY);
});

test("documents are never changed", () => {
  const before = kept(2);
  const copy = structuredClone(before);
  const { id } = before.objects[0];
  for (const act of [
    (one) => state.updateObject(one, id, { name: "x" }), (one) => state.removeObject(one, id), (one) => state.reopen(one, id, NOTHING),
    (one) => state.addStep(one, step(9)), (one) => state.chooseMask(state.addStep(one, step(9)), 2), (one) => state.keepAll(one, [{ rle: RLE }]),
  ]) act(before);
  assert.deepEqual(before, copy);
});

test("kept objects have names and colours of their own, and keep their steps", () => {
  const { objects } = kept(9);
  assert.equal(new Set(objects.map(({ name }) => name)).size, 9);
  assert.equal(new Set(objects.slice(0, state.COLORS.length).map(({ color }) => color)).size, state.COLORS.length);
  assert.deepEqual(objects[3].steps, [step(3)]);
  const found = state.keepAll(state.EMPTY, [{ rle: RLE, name: "a cup" }, { rle: RLE, name: "a cup" }]).objects;
  assert.deepEqual(found.map(({ name, steps }) => [name, steps.length]), [["a cup", 0], ["a cup", 0]]); // one class in datasets
  assert.equal(state.keepAll(state.EMPTY, [{ rle: RLE, name: "x".repeat(300) }]).objects[0].name.length, 120);
});

test("an object that is opened again is replaced, not doubled", () => {
  const document = kept(2);
  const [first] = document.objects;
  const open = state.reopen(document, first.id, NOTHING);
  assert.deepEqual([open.steps, open.editing], [first.steps, first.id]);
  const again = state.keep(state.addStep(open, step(7)), { rle: { size: [2, 2], counts: "04" }, score: 0.7 });
  assert.deepEqual([again.objects.length, again.objects[0].name, again.objects[0].steps.length], [2, first.name, 2]);
  assert.equal(state.removeObject(open, first.id).editing, null);
});

test("a found mask without steps opens as a painting", () => {
  const document = state.keepAll(state.EMPTY, [{ rle: RLE, name: "a cup" }]);
  assert.deepEqual(state.reopen(document, document.objects[0].id, NOTHING).steps, [{ ...NOTHING, brush: RLE }]);
});

test("a late answer about an object reaches every moment of its history, unless it has changed since", () => {
  let history = state.change(state.begin(), kept(1));
  const [object] = history.present.objects;
  history = state.change(history, state.updateObject(history.present, object.id, { name: "cup" }));
  const better = { size: [2, 2], counts: "04" };
  const amended = state.amendEverywhere(history, object.id, object.rle, { rle: better });
  assert.deepEqual([amended.present.objects[0].rle, amended.present.objects[0].name, amended.past[1].objects[0].rle], [better, "cup", better]);
  assert.equal(state.amendEverywhere(history, object.id, better, { rle: null }).present.objects[0].rle, object.rle);
});

test("a session is opened as it was written; others are refused with a sentence", () => {
  const document = kept(3);
  const session = JSON.parse(JSON.stringify(state.sessionOf(document, { name: "a.png", size: [2, 2], sha256: null }, "tiny")));
  const opened = state.documentOf(session, [2, 2]);
  const plain = ({ objects }) => objects.map(({ id, score, ...rest }) => rest);
  assert.deepEqual(plain(opened), plain(document));
  assert.throws(() => state.documentOf({}, [2, 2]), /no session/);
  assert.throws(() => state.documentOf({ ...session, version: 2 }, [2, 2]), /newer/);
  for (const rle of [{ size: [2, 2], counts: "1" }, { size: [9, 9], counts: "112" }, {}, "112"]) {
    assert.throws(() => state.documentOf({ ...session, objects: [{ ...session.objects[0], rle }] }, [2, 2]), /damaged/);
  }
  assert.throws(() => state.documentOf(session, [3, 2]), /belongs to a picture of 2 × 2/);
});

/** A thread that answers when it is told to. */
class SlowWorker {
  constructor() {
    this.asked = [];
  }
  postMessage(message) {
    this.asked.push(message);
  }
  terminate() {}
  answer(values = {}) {
    this.onmessage({ data: { id: this.asked.at(-1).id, ...values } });
  }
}

test("one request is in flight; of glances the newest is asked, the others are told so", async () => {
  const worker = new SlowWorker();
  const decoder = new Decoder(() => worker);
  const glances = [1, 2, 3, 4].map((at) => decoder.glance({ at }));
  assert.deepEqual(worker.asked.map(({ at }) => at), [1]);
  assert.deepEqual(await Promise.all(glances.slice(1, 3)), [null, null]);
  const click = decoder.decode({ at: "click" });
  worker.answer({ value: 1 });
  assert.equal((await glances[0]).value, 1);
  assert.equal(worker.asked.at(-1).at, "click"); // clicks come before glances
  worker.answer({ value: 2 });
  assert.equal((await click).value, 2);
  assert.equal(worker.asked.at(-1).at, 4);
  worker.answer();
  await glances[3];
  assert.equal(worker.asked.length, 3);
});

test("an error is told to who asked, and the next is answered all the same", async () => {
  const worker = new SlowWorker();
  const decoder = new Decoder(() => worker);
  const [first, second] = [decoder.decode({}), decoder.decode({})];
  worker.answer({ error: "no" });
  await assert.rejects(first, /no/);
  worker.answer({ value: 5 });
  assert.equal((await second).value, 5);
  const third = decoder.decode({});
  decoder.close("gone");
  await assert.rejects(third, /gone/);
});

test("a session from anywhere is checked before it is shown", () => {
  const good = { name: "a", color: "#0072B2", steps: [step(1), { ...step(1), previous: true, brush: null }], rle: RLE };
  const session = (change) => ({ format: "sam_hf.session", version: 1, objects: [{ ...good, ...change }] });
  assert.equal(state.documentOf(session({}), [2, 2]).objects[0].steps.length, 2);
  const runs = state.documentOf(session({ rle: { size: [2, 2], counts: [1, 1, 2] } }), [2, 2]).objects[0].rle;
  assert.deepEqual(runs, RLE); // counts as a list are written as text
  for (const change of [
    { rle: { size: [2, 2], counts: [1, 1e15] } }, { rle: { size: [2, 2], counts: [5, -1] } }, { rle: { size: [2, 2], counts: [0.5, 3.5] } },
    { rle: { size: [2, 2], counts: [null, 4] } }, { rle: { size: [3, 2], counts: "112" } }, { rle: 7 }, { rle: { size: [2, 2] } },
    { color: "red; background: url(x)" }, { color: 3 }, { name: {} }, { hidden: "no" }, { polygon_detail: 2 }, { fill_holes: "all" },
    { steps: {} }, { steps: [null] }, { steps: [{ ...step(1), previous: true }] }, { steps: [{ ...step(1), labels: [2] }] },
    { steps: [{ ...step(1), labels: [] }] }, { steps: [{ ...step(1), points: [["1", 1]] }] }, { steps: [{ ...step(1), box: [3, 0, 1, 1] }] },
    { steps: [{ ...step(1), box: "all" }] }, { steps: [{ ...step(1), selected: 3 }] }, { steps: [{ ...step(1), text: 5 }] },
    { steps: [{ ...step(1), brush: { size: [9, 9], counts: "112" } }] },
  ]) assert.throws(() => state.documentOf(session(change), [2, 2]), /damaged/, JSON.stringify(change));
  assert.throws(() => state.documentOf({ ...session({}), objects: [null] }, [2, 2]), /damaged/);
});

test("a session of prompts alone takes the server's masks, one of another file or checkpoint is spoken of", () => {
  const session = { format: "sam_hf.session", version: 1, image: { sha256: "aa" }, checkpoint: "tiny", objects: [{ name: "a", steps: [step(1)] }] };
  assert.ok(state.lacksMasks(session));
  const whole = state.withMasks(session, [{ rle: RLE, score: 0.5 }]);
  assert.ok(!state.lacksMasks(whole));
  assert.deepEqual(state.documentOf(whole, [2, 2]).objects[0].rle, RLE);
  assert.equal(state.strangeness(session, { sha256: "aa" }, "tiny"), null);
  assert.match(state.strangeness(session, { sha256: "bb" }, "tiny"), /another file/);
  assert.match(state.strangeness(session, { sha256: null }, "other"), /checkpoint tiny/);
});

test("in a session null says the same as nothing, and points without labels are on the object", () => {
  const plain = { points: [[1, 1]], labels: null, box: null, brush: null, previous: null, selected: null };
  const object = { name: null, color: null, steps: [plain, { points: [[1, 1]] }], rle: RLE, fill_holes: null, hidden: null };
  const session = { format: "sam_hf.session", version: 1, image: null, objects: [object, { ...object, name: "a cup" }, { ...object, name: "a cup" }] };
  const { objects } = state.documentOf(session, [2, 2]);
  assert.deepEqual(objects.map(({ name }) => name), ["object 1", "a cup", "a cup"]);
  assert.deepEqual(objects[0].steps.map(({ labels, previous }) => [labels, previous]), [[[1], false], [[1], false]]);
});

test("the mask before holes were filled is not known from a session", () => {
  const objects = [{ steps: [], rle: RLE, fill_holes: 100 }, { steps: [], rle: RLE }];
  const document = state.documentOf({ format: "sam_hf.session", version: 1, objects }, [2, 2]);
  assert.deepEqual(document.objects.map(({ original }) => original), [null, RLE]);
  assert.deepEqual(state.reopen(document, document.objects[0].id, NOTHING).steps[0].brush, RLE);
});
