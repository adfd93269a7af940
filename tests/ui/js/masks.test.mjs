// Masks in the page: run-length encoding, stretching and outlines.
import assert from "node:assert/strict";
import test from "node:test";
import * as rle from "../../../sam_hf/ui/static/rle.js";
import * as drawing from "../../../sam_hf/ui/static/mask_drawing.js";

const disc = (height, width, x, y, radius) =>
  Uint8Array.from({ length: height * width }, (_, place) => Math.hypot((place % width) - x, Math.floor(place / width) - y) < radius);

/** The area inside lines, by the rule "evenodd" for lines that do not cross. */
const areaOf = (lines) =>
  Math.abs(
    lines.reduce((sum, line) => {
      for (let at = 0; at < line.length; at += 2) {
        const next = (at + 2) % line.length;
        sum += (line[at] * line[next + 1] - line[next] * line[at + 1]) / 2;
      }
      return sum;
    }, 0),
  );

test("a mask survives encoding and decoding, whatever its first pixel and its height", () => {
  for (const [height, width] of [[1, 1], [1, 7], [7, 1], [13, 9], [90, 120]]) {
    for (const inverted of [0, 1]) {
      const mask = disc(height, width, width / 3, height / 2, height / 3).map((value) => value ^ inverted);
      const encoded = rle.encode(mask, [height, width]);
      assert.deepEqual(rle.decode(encoded), mask);
      assert.equal(rle.area(encoded), mask.reduce((sum, value) => sum + value, 0));
    }
  }
});

test("text of pycocotools is read, and written the same", () => {
  // pycocotools 2.0.11, encode of a 6 x 5 mask with the rows 1..3 of the columns 1..3 inside
  const known = { size: [6, 5], counts: "7330005" };
  const mask = rle.decode(known);
  const inside = [...mask].flatMap((value, place) => (value ? [[place % 5, Math.floor(place / 5)]] : []));
  assert.deepEqual(inside.map(String).sort(), ["1,1", "1,2", "1,3", "2,1", "2,2", "2,3", "3,1", "3,2", "3,3"]);
  assert.equal(rle.encode(mask, [6, 5]).counts, known.counts);
});

test("counts that are too long, too short or no such text are refused", () => {
  for (const counts of ["7", "7333333333", "7 3"]) {
    assert.throws(() => rle.runsOf({ size: [6, 5], counts }), /rle\.counts/);
  }
});

test("a point is looked up without decoding", () => {
  const mask = disc(40, 50, 20, 15, 9);
  const encoded = rle.encode(mask, [40, 50]);
  for (let place = 0; place < mask.length; place += 7) {
    assert.equal(rle.contains(encoded, [(place % 50) + 0.4, Math.floor(place / 50) + 0.9]), mask[place] === 1);
  }
  for (const outside of [[-1, 3], [50, 3], [3, -0.1], [3, 40]]) assert.equal(rle.contains(encoded, outside), false);
});

test("the box of a mask is that of its outermost pixels", () => {
  assert.deepEqual(rle.boundingBox(rle.encode(disc(40, 50, 20, 15, 3.5), [40, 50])), [17, 12, 7, 7]);
  assert.equal(rle.boundingBox(rle.encode(new Uint8Array(6), [2, 3])), null);
});

test("outlines enclose what they outline, holes and rims included", () => {
  const [height, width] = [300, 400];
  const hole = disc(height, width, 200, 150, 40);
  const ring = disc(height, width, 200, 150, 90).map((value, place) => value ^ hole[place]);
  const area = ring.reduce((sum, value) => sum + value, 0);
  const lines = drawing.outlineOfRle(rle.encode(ring, [height, width]));
  assert.equal(lines.length, 2);
  assert.ok(Math.abs(areaOf(lines) - area) < 0.01 * area);
  const whole = drawing.outlineOfRle(rle.encode(new Uint8Array(height * width).fill(1), [height, width]));
  assert.equal(whole.length, 1);
  assert.ok(areaOf(whole) >= height * width);
  assert.deepEqual(drawing.outlineOfRle(rle.encode(new Uint8Array(height * width), [height, width])), []);
});

test("cells that touch at a corner are outlined without a break", () => {
  const grid = Float32Array.from([1, -1, -1, 1]);
  for (const sign of [1, -1]) {
    for (const line of drawing.contours(grid.map((value) => sign * value), 2, 2)) assert.ok(line.length >= 6);
  }
});

test("logits become the mask that two resizes after one another give", () => {
  // Reference: both resizes in full, as torch.nn.functional.interpolate(mode="bilinear", align_corners=False) does.
  const resize = (values, from, to) =>
    Float64Array.from({ length: to[0] * to[1] }, (_, place) => {
      const at = [Math.floor(place / to[1]), place % to[1]].map((pixel, axis) =>
        Math.max(0, ((pixel + 0.5) * from[axis]) / to[axis] - 0.5),
      );
      const [y, x] = at.map((value, axis) => Math.min(Math.floor(value), from[axis] - 1));
      const [down, right] = [Math.min(y + 1, from[0] - 1), Math.min(x + 1, from[1] - 1)];
      const [v, u] = [at[0] - y, at[1] - x];
      const upper = values[y * from[1] + x] * (1 - u) + values[y * from[1] + right] * u;
      const lower = values[down * from[1] + x] * (1 - u) + values[down * from[1] + right] * u;
      return upper * (1 - v) + lower * v;
    });
  const low = 16;
  const logits = Float32Array.from({ length: low * low }, (_, place) => 5 * Math.sin(place * 0.7) + Math.cos(place * 0.11));
  for (const [size, resized] of [[[45, 60], [48, 64]], [[200, 90], [64, 29]], [[3, 64], [3, 64]], [[500, 1], [64, 1]]]) {
    const frame = { size, resized, padded: 64 };
    const padded = resize(logits, [low, low], [64, 64]);
    const cut = Float64Array.from({ length: resized[0] * resized[1] }, (_, place) =>
      padded[Math.floor(place / resized[1]) * 64 + (place % resized[1])],
    );
    const wanted = resize(cut, resized, size);
    const got = rle.decode(drawing.rleOfLogits(logits, low, frame));
    const wrong = got.filter((value, place) => value !== (wanted[place] > 0 ? 1 : 0) && Math.abs(wanted[place]) > 1e-4);
    assert.equal(wrong.length, 0, `${size}`);
    const share = got.reduce((sum, value) => sum + value, 0) / got.length;
    if (Math.min(...size) > 20) assert.ok(Math.abs(drawing.shareOfLogits(logits, low, frame) - share) < 0.06);
  }
});

test("of a mask that is noise the longest lines are drawn, of a plain one all", () => {
  const lines = [10, 400, 30, 200].map((length) => new Float32Array(length));
  assert.deepEqual(drawing.longestLines(lines, 310).map((line) => line.length), [400, 200]);
  assert.equal(drawing.longestLines(lines), lines);
});

test("hundreds of masks are looked up under a moving mouse in no time", () => {
  const size = [1500, 2000];
  const masks = Array.from({ length: 300 }, (_, index) => {
    const runs = [100 + 1500 * 5 * index];
    for (let column = 0; column < 400; column++) runs.push(700, 800);
    runs[runs.length - 1] = 0;
    runs[runs.length - 1] = size[0] * size[1] - runs.reduce((sum, run) => sum + run, 0);
    return rle.rleOfRuns(runs, size);
  });
  const look = (moves) => {
    const began = performance.now();
    for (let move = 0; move < moves; move++) for (const mask of masks) rle.contains(mask, [3 * move, 450]);
    return performance.now() - began;
  };
  look(1); // read once
  assert.ok(look(500) < 500, "more than a millisecond for a move");
  assert.equal(rle.contains(masks[0], [0, 99]), false);
  assert.equal(rle.contains(masks[0], [0, 100]), true);
  assert.equal(rle.contains(masks[0], [399, 799]), true);
  assert.equal(rle.contains(masks[0], [399, 800]), false);
  assert.equal(rle.contains(masks[0], [400, 200]), false);
});
