// Steps, their rule for three masks, and what the decoder takes.
import assert from "node:assert/strict";
import fs from "node:fs";
import test from "node:test";
import * as geometry from "../../../sam_hf/ui/static/geometry.js";
import * as prompts from "../../../sam_hf/ui/static/prompts.js";

const { wants_three: cases } = JSON.parse(fs.readFileSync(new URL("../cases.json", import.meta.url)));

for (const { case: name, step, three } of cases) {
  test(`three masks or one: ${name}`, () => {
    assert.equal(prompts.wantsThree({ ...prompts.NOTHING, ...step }), three);
  });
}

test("further prompts hold together, and build on the mask before", () => {
  const first = prompts.withPoint([], [3, 4], 1);
  assert.deepEqual([first.previous, first.points, first.labels], [false, [[3, 4]], [1]]);
  const second = prompts.withPoint([first], [5, 6], 0);
  assert.deepEqual([second.previous, second.points, second.labels], [true, [[3, 4], [5, 6]], [1, 0]]);
  const third = prompts.nextStep([first, second], { box: [0, 0, 9, 9] });
  assert.deepEqual([third.points.length, third.box, third.previous], [2, [0, 0, 9, 9], true]);
});

test("a painting takes the place of the mask before, and counts once", () => {
  const brush = { size: [1, 1], counts: "01" };
  const painted = prompts.nextStep([prompts.withPoint([], [3, 4], 1)], { brush });
  assert.deepEqual([painted.previous, painted.brush], [false, brush]);
  const after = prompts.withPoint([painted], [1, 1], 1);
  assert.deepEqual([after.previous, after.brush], [true, null]);
});

test("a prompt that is taken back leaves nothing behind", () => {
  const first = prompts.withPoint([], [3, 4], 1);
  assert.equal(prompts.withoutPoint([first], 0), null);
  const second = prompts.withPoint([first], [5, 6], 0);
  const left = prompts.withoutPoint([first, second], 0);
  assert.deepEqual([left.points, left.labels, left.previous], [[[5, 6]], [0], false]);
  assert.equal(prompts.without([prompts.nextStep([], { text: "a cup" })], "text"), null);
});

test("the decoder takes resized pixels, corners of a box as points of their own kind, padding for nothing", () => {
  const step = { ...prompts.NOTHING, points: [[100, 50]], labels: [0], box: [0, 0, 200, 100] };
  const { points, labels } = prompts.decoderInput(step, [100, 200], [128, 256]);
  assert.deepEqual([...points], [128, 64, 0, 0, 256, 128]);
  assert.deepEqual(labels, [0, 2, 3]);
  assert.deepEqual(prompts.decoderInput(prompts.NOTHING, [1, 1], [1, 1]).labels, [-10]);
});

test("the best score holds unless another mask was chosen", () => {
  assert.equal(prompts.selectedMask(prompts.NOTHING, [0.2, 0.9, 0.4]), 1);
  assert.equal(prompts.selectedMask({ ...prompts.NOTHING, selected: 2 }, [0.2, 0.9, 0.4]), 2);
  assert.equal(prompts.selectedMask({ ...prompts.NOTHING, selected: 2 }, [0.2]), 0);
});

test("the view fits the picture, and zooming keeps the place under the mouse", () => {
  const stage = { width: 800, height: 600 };
  const view = geometry.fit([300, 300], stage, 20);
  assert.deepEqual(geometry.toStage(view, [150, 150]), [400, 300]);
  const before = geometry.toPicture(view, [500, 200]);
  const zoomed = geometry.zoomAt(view, [500, 200], 2, [300, 300], stage);
  assert.equal(zoomed.scale, 2 * view.scale);
  geometry.toPicture(zoomed, [500, 200]).forEach((value, axis) => assert.ok(Math.abs(value - before[axis]) < 1e-9));
});

test("however far it is moved or zoomed, some of the picture stays in sight", () => {
  const stage = { width: 800, height: 600 };
  for (const size of [[300, 300], [1, 3000], [4000, 3]]) {
    let view = geometry.fit(size, stage);
    for (const [dx, dy] of [[1e6, 0], [0, 1e6], [-2e6, -2e6]]) {
      view = geometry.pan(view, dx, dy, size, stage);
      const [right, bottom] = geometry.toStage(view, [size[1], size[0]]);
      assert.ok(view.x < 800 && view.y < 600 && right > 0 && bottom > 0);
    }
    for (let times = 0; times < 60; times++) view = geometry.zoomAt(view, [0, 0], 1.5, size, stage);
    assert.ok(view.scale <= 40);
  }
});

test("a painting survives further prompts and taking one of them back, until it is taken back itself", () => {
  const brush = { size: [1, 1], counts: "01" };
  const painted = [prompts.nextStep([], { brush })];
  const clicked = [...painted, prompts.withPoint(painted, [1, 1], 1)];
  const boxed = [...clicked, prompts.nextStep(clicked, { box: [0, 0, 1, 1] })];
  assert.equal(boxed.at(-1).brush, null); // it counts once
  assert.equal(prompts.paintingOf(boxed), brush);
  const unboxed = prompts.without(boxed, "box");
  assert.deepEqual([unboxed.brush, unboxed.previous, unboxed.points.length], [brush, false, 1]);
  assert.deepEqual(prompts.withoutPoint(clicked, 0), { ...prompts.NOTHING, brush });
  const bare = prompts.without(boxed, "brush");
  assert.deepEqual([bare.brush, bare.points.length, bare.box], [null, 1, [0, 0, 1, 1]]);
  assert.equal(prompts.paintingOf([...boxed, bare, prompts.withPoint([bare], [0, 0], 1)]), null);
  assert.equal(prompts.without(painted, "brush"), null);
  assert.equal(prompts.paintingOf([]), null);
});
