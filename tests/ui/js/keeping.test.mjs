// Answers belong to the steps they were asked for, and nothing that a person does is dropped without a word.
import assert from "node:assert/strict";
import test from "node:test";
import { App } from "../../../sam_hf/ui/static/app.js";
import { NOTHING } from "../../../sam_hf/ui/static/prompts.js";
import { encode, overlap } from "../../../sam_hf/ui/static/rle.js";
import * as state from "../../../sam_hf/ui/static/state.js";

const SIZE = [4, 4];
const mask = (count) => encode(Array.from({ length: 16 }, (_, place) => place < count), SIZE);
const step = (count) => ({ ...NOTHING, points: Array(count).fill([1, 1]), labels: Array(count).fill(1), previous: count > 1 });
const turn = () => new Promise((resolve) => setTimeout(resolve));

/** An app without a page; `answer(steps)` gives the answers by hand. */
function begin({ call = async () => null, refine } = {}) {
  const said = [];
  const told = [];
  const stage = { size: SIZE, view: { scale: 1 }, clamp: (place) => place, onStage: (place) => place, overlay: { focus() {} } };
  const server = { call: (_, data) => refine(data) };
  const app = new App({ server, stage, say: (words) => void said.push(words), tell: (error) => void told.push(error), changed() {} });
  const waiting = [];
  const known = new Map();
  app.picture = { size: SIZE, name: "x" };
  app.answers = {
    picture: {},
    call,
    isLocal: () => false,
    of: (steps) => {
      if (!known.has(steps)) known.set(steps, new Promise((resolve, reject) => waiting.push({ steps, resolve, reject })));
      return known.get(steps);
    },
    rle: async (chosen) => chosen.rle,
    pinned: async (steps, selected) => steps.map((one, place) => (place === steps.length - 1 ? { ...one, selected } : one)),
  };
  const answer = async (...sizes) => {
    const candidates = sizes.map((size) => ({ rle: mask(size), score: size / 16, share: size / 16, logits: [] }));
    waiting.shift().resolve({ candidates, three: sizes.length > 1 });
    await turn();
  };
  return { app, said, told, waiting, answer };
}

test("what is kept is the answer to the steps that hold, not the one before", async () => {
  const { app, answer } = begin();
  app.go(state.addStep(app.document, step(1)));
  await answer(2, 3, 4);
  app.choose(1);
  app.go(state.addStep(app.document, step(2)));
  const kept = app.keep(); // before the second step is answered
  app.choose(2); // of masks that are offered no more
  await turn();
  assert.equal(app.document.objects.length, 0);
  await answer(9);
  const object = await kept;
  assert.deepEqual(object.rle, mask(9));
  assert.deepEqual(object.steps.map(({ selected }) => selected), [1, 0]);
  assert.equal(app.isAsking, false);
});

test("a click while a mask is being kept begins the next object", async () => {
  const { app, answer } = begin();
  app.go(state.addStep(app.document, step(1)));
  const kept = app.keep();
  app.click([3, 3]);
  await answer(5);
  await kept;
  await turn();
  assert.equal(app.document.objects.length, 1);
  assert.deepEqual(app.document.steps.map(({ points }) => points), [[[3, 3]]]);
});

test("prompts that change while a mask is being kept are said, and the newest answer ends the asking", async () => {
  const { app, said, answer, waiting } = begin();
  app.go(state.addStep(app.document, step(1)));
  app.go(state.addStep(app.document, step(2)));
  waiting.shift().reject(new Error("late"));
  await turn();
  assert.equal(app.isAsking, true);
  const kept = app.keep();
  app.undo();
  app.undo();
  assert.equal(await kept, undefined);
  assert.match(said.join(), /no mask to keep/);
  assert.equal(app.isAsking, false);
  await answer(3);
  assert.equal(app.answer, null);
});

test("an answer about one object does not stop another one from being kept", async () => {
  const { app, answer } = begin();
  let goOn;
  app.go(state.addStep(app.document, step(1)));
  await answer(5);
  app.answers.rle = (chosen) => new Promise((resolve) => (goOn = () => resolve(chosen.rle)));
  const kept = app.keep();
  await turn();
  app.history = state.amend(app.history, { ...app.document, objects: [...app.document.objects] }); // as `confirm` does
  goOn();
  assert.ok(await kept);
});

test("the server's mask takes the place of one that it agrees with; another one does not", async () => {
  for (const [there, shown, isTaken] of [[16, 16, true], [15, 16, true], [8, 16, false], [0, 16, false]]) {
    const { app, told, answer } = begin({ call: async () => ({ masks: [{ rle: { ...mask(there), from: "server" } }], selected: 0 }) });
    app.go(state.addStep(app.document, step(1)));
    await answer(shown);
    await app.keep();
    await turn();
    assert.equal(app.document.objects[0].rle.from, isTaken ? "server" : undefined);
    assert.equal(told.length, isTaken ? 0 : 1);
  }
});

test("sliders that move while one is answered are asked together, and come with the mask they made", async () => {
  const asked = [];
  const refine = (data) => new Promise((resolve) => asked.push({ data, resolve }));
  const { app } = begin({ refine });
  app.keepFound([{ rle: mask(5), score: 1 }]);
  const { id } = app.document.objects[0];
  app.refine(id, { fill_holes: 10 });
  app.refine(id, { fill_holes: 30 });
  app.refine(id, { drop_islands: 3 });
  await turn();
  assert.equal(asked.length, 1);
  asked[0].resolve({ rle: mask(1) });
  await turn();
  assert.equal(app.document.objects[0].fill_holes, 0);
  assert.deepEqual([asked[1].data.fill_holes, asked[1].data.drop_islands], [30, 3]);
  asked[1].resolve({ rle: mask(2) });
  await turn();
  const { fill_holes, drop_islands, rle } = app.document.objects[0];
  assert.deepEqual([fill_holes, drop_islands, rle], [30, 3, mask(2)]);
});

test("IoU of run lengths is that of their masks", () => {
  assert.equal(overlap(mask(4), mask(8)), 0.5);
  assert.equal(overlap(mask(0), mask(0)), 1);
  assert.equal(overlap(mask(16), mask(0)), 0);
  assert.equal(overlap(mask(7), mask(7)), 1);
});

test("selecting is nothing to undo; keeping what was found is, and brings it back", () => {
  const { app } = begin();
  app.keepFound([{ rle: mask(5), score: 1 }]);
  app.select(null);
  app.finder.show([3, 2].map((count) => ({ rle: mask(count), score: 1 })), "2 masks found");
  app.finder.keep(app.finder.shown[0]);
  app.finder.keepAll();
  assert.deepEqual([app.document.objects.length, app.finder.shown.length], [3, 0]);
  app.undo();
  assert.deepEqual([app.document.objects.length, app.finder.shown.length], [2, 1]);
  app.undo();
  assert.deepEqual([app.document.objects.length, app.finder.shown.length, app.finder.note], [1, 2, "2 masks found"]);
  app.finder.stop();
  assert.equal(app.finder.shown.length, 0);
  app.undo();
  assert.equal(app.finder.shown.length, 2);
  app.undo();
  app.undo();
  assert.equal(app.document.objects.length, 0);
});

test("an object that is edited and kept again has its holes filled as before, in one step of history", async () => {
  const { app, answer } = begin({ refine: async ({ fill_holes }) => ({ rle: mask(fill_holes) }) });
  app.keepFound([{ rle: mask(5), score: 1, steps: [step(1)] }]);
  const { id } = app.document.objects[0];
  await app.refine(id, { fill_holes: 10 });
  app.edit(id);
  await answer(6);
  const { length } = app.history.past;
  await app.keep();
  await turn();
  const [object] = app.document.objects;
  assert.deepEqual([object.fill_holes, object.rle, object.original], [10, mask(10), mask(6)]);
  assert.equal(app.history.past.length, length + 1);
});

test("a click inside a kept object selects it and begins another one there", async () => {
  const { app } = begin();
  app.keepFound([{ rle: mask(16), score: 1 }, { rle: mask(1), score: 1 }]);
  app.click([3, 3]);
  assert.equal(app.document.selected, app.document.objects[0].id);
  assert.deepEqual(app.document.steps[0].points, [[3, 3]]);
});

test("an object's polygons are asked for once somebody has changed their detail, and belong to its mask", async () => {
  const asked = [];
  const { app } = begin({ refine: async (data) => asked.push(data) && { rle: data.rle, polygons: [[0, 0, 2, 0, 2, 2]] } });
  app.keepFound([{ rle: mask(5), score: 1 }]);
  const { id } = app.document.objects[0];
  assert.equal(app.keeper.polygonOf(id), null);
  assert.equal(asked.length, 0); // not for every object that is kept
  app.update(id, { polygon_detail: 0.5 });
  for (let draws = 0; draws < 3; draws++) app.keeper.polygonOf(id);
  await turn();
  assert.deepEqual([asked.length, asked[0].polygon_detail, app.keeper.polygonOf(id).corners], [1, 0.5, 3]);
  app.update(id, { rle: mask(6) });
  assert.equal(app.keeper.polygonOf(id), null); // of another mask
  await turn();
  assert.equal(app.keeper.polygonOf(id).rle.counts, mask(6).counts);
});
