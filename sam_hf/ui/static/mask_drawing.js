/**
 * Low-resolution logits to what is seen and what is saved.
 *
 * Logits (4h,4w) lie in the padded square of resized pixels. SAM stretches them twice, bilinear with pixels' middles
 * aligned: to the square, whose padding is cut off, and to the original size. Both are linear and separable, so along
 * each axis a pixel is a weighted sum of three neighbours: `axisTaps`. What is saved is made that way, and is the
 * server's mask; what is drawn is the outline where the logits cross 0, found on the low-resolution grid (marching
 * squares) and filled by the browser at whatever zoom, which costs a millisecond instead of a pass over all pixels.
 */
import { coverage, rleOfRuns } from "./rle.js";

/** @typedef {{size: number[], resized: number[], padded: number}} Frame original [H,W], resized [h,w], square's side */

/** First low-resolution value and three weights for each original pixel of one axis. */
export function axisTaps(low, padded, resized, original) {
  const first = new Int32Array(original);
  const weights = new Float32Array(3 * original);
  const place = (index, from, to) => {
    const at = Math.max(0, ((index + 0.5) * from) / to - 0.5);
    const lower = Math.min(Math.floor(at), from - 1);
    return [lower, Math.min(lower + 1, from - 1), at - lower];
  };
  for (let pixel = 0; pixel < original; pixel++) {
    const [near, far, share] = place(pixel, resized, original);
    const ends = [place(near, low, padded), place(far, low, padded)];
    const start = ends[0][0];
    first[pixel] = start;
    [1 - share, share].forEach((weight, end) => {
      const [lower, upper, part] = ends[end];
      weights[3 * pixel + lower - start] += weight * (1 - part);
      weights[3 * pixel + upper - start] += weight * part;
    });
  }
  return { first, weights };
}

/** The mask in original pixels, exactly as the server stretches and cuts it, as RLE. */
export function rleOfLogits(logits, low, frame) {
  const [height, width] = frame.size;
  const rows = axisTaps(low, frame.padded, frame.resized[0], height);
  const columns = axisTaps(low, frame.padded, frame.resized[1], width);
  const column = new Float32Array(low + 2); // two more, so that taps beyond the end (of weight 0) read something
  const runs = [];
  let inside = false;
  let run = 0;
  for (let x = 0; x < width; x++) {
    const from = columns.first[x];
    for (let y = 0; y < low; y++) {
      let sum = 0;
      for (let tap = 0; tap < 3; tap++) {
        if (from + tap < low) sum += columns.weights[3 * x + tap] * logits[y * low + from + tap];
      }
      column[y] = sum;
    }
    for (let y = 0; y < height; y++) {
      const at = rows.first[y];
      const value =
        rows.weights[3 * y] * column[at] + rows.weights[3 * y + 1] * column[at + 1] + rows.weights[3 * y + 2] * column[at + 2];
      if (value > 0 === inside) run++;
      else {
        runs.push(run);
        inside = !inside;
        run = 1;
      }
    }
  }
  runs.push(run);
  return rleOfRuns(runs, frame.size);
}

/** Share of the picture that a mask covers, to within what can be shown. */
export function shareOfLogits(logits, low, frame) {
  const rows = Math.max(1, Math.round((low * frame.resized[0]) / frame.padded));
  const columns = Math.max(1, Math.round((low * frame.resized[1]) / frame.padded));
  let count = 0;
  for (let y = 0; y < rows; y++) for (let x = 0; x < columns; x++) if (logits[y * low + x] > 0) count++;
  return count / (rows * columns);
}

/**
 * A painted mask as the logits that the decoder takes: -10 and 10, made smaller as the picture is, padded with outside.
 * The server averages a little differently where the picture is larger than the model's; nothing that is seen.
 */
export function maskPrompt(rle, low, frame) {
  const { grid, size } = coverage(rle, Math.max(...frame.resized));
  const across = shrinkingWeights(low, frame.padded, frame.resized[1], size[1]);
  const down = shrinkingWeights(low, frame.padded, frame.resized[0], size[0]);
  const narrow = new Float32Array(size[0] * low);
  for (let y = 0; y < size[0]; y++) {
    for (let x = 0; x < low; x++) {
      for (const [place, weight] of across[x]) narrow[y * low + x] += weight * (grid[y * size[1] + place] + 0.5);
    }
  }
  const logits = new Float32Array(low * low).fill(-10);
  for (let y = 0; y < low; y++) {
    for (const [place, weight] of down[y]) {
      for (let x = 0; x < low; x++) logits[y * low + x] += 20 * weight * narrow[place * low + x];
    }
  }
  return logits;
}

/** For each low-resolution value the pixels of a coarser picture it is made of: a triangle as wide as two of its own. */
function shrinkingWeights(low, padded, resized, count) {
  const factor = padded / low;
  return Array.from({ length: low }, (_, value) => {
    const middle = (value + 0.5) * factor;
    const weights = new Map();
    let sum = 0;
    for (let pixel = Math.max(0, Math.floor(middle - factor)); pixel < Math.min(padded, middle + factor); pixel++) {
      const weight = Math.max(0, 1 - Math.abs(pixel + 0.5 - middle) / Math.max(factor, 1));
      sum += weight;
      if (pixel >= resized) continue; // padding is outside
      const at = Math.max(0, ((pixel + 0.5) * count) / resized - 0.5);
      const lower = Math.min(Math.floor(at), count - 1);
      const upper = Math.min(lower + 1, count - 1);
      weights.set(lower, (weights.get(lower) ?? 0) + weight * (1 - at + lower));
      weights.set(upper, (weights.get(upper) ?? 0) + weight * (at - lower));
    }
    return [...weights].map(([place, weight]) => [place, weight / sum]);
  });
}

// Kept between calls: the grid with its rings, and which crossing comes after a crossing.
let ringed = new Float32Array(0);
let follow = new Int32Array(0);

// Segments of a cell by which corners are inside (1: upper left, 2: upper right, 4: lower right, 8: lower left), from
// side to side (0 top, 1 right, 2 bottom, 3 left), with the inside on the right-hand side of the way.
const SEGMENTS = [
  [], [[0, 3]], [[1, 0]], [[1, 3]], [[2, 1]], null, [[2, 0]], [[2, 3]],
  [[3, 2]], [[0, 2]], null, [[1, 2]], [[3, 1]], [[0, 1]], [[3, 0]], [],
];
const SADDLES = {
  5: { apart: [[0, 3], [2, 1]], together: [[0, 1], [2, 3]] },
  10: { apart: [[1, 0], [3, 2]], together: [[3, 0], [1, 2]] },
};

/**
 * Closed lines where a grid crosses 0; values count at the cells' middles, and beyond the rim everything is outside.
 * @returns {Float32Array[]} x, y, x, y, ... in cells of the grid.
 */
export function contours(grid, rows, columns) {
  const wide = columns + 4;
  const high = rows + 4;
  putRings(grid, rows, columns, wide, high);
  if (follow.length < 2 * wide * high) follow = new Int32Array(2 * wide * high);
  follow.fill(-1, 0, 2 * wide * high);
  const starts = [];
  const link = (x, y, from, to) => {
    const sides = [2 * (y * wide + x), 2 * (y * wide + x + 1) + 1, 2 * ((y + 1) * wide + x), 2 * (y * wide + x) + 1];
    follow[sides[from]] = sides[to];
    starts.push(sides[from]);
  };
  for (let y = 0; y < high - 1; y++) {
    const row = y * wide;
    let left = 0; // the outer ring is outside
    for (let x = 0; x < wide - 1; x++) {
      const right = (ringed[row + x + 1] > 0 ? 2 : 0) | (ringed[row + wide + x + 1] > 0 ? 4 : 0);
      const corners = left | right;
      left = (right & 2 ? 1 : 0) | (right & 4 ? 8 : 0);
      if (corners === 0 || corners === 15) continue;
      let segments = SEGMENTS[corners];
      if (!segments) {
        const at = row + x;
        const middle = ringed[at] + ringed[at + 1] + ringed[at + wide] + ringed[at + wide + 1];
        segments = SADDLES[corners][middle > 0 ? "together" : "apart"];
      }
      for (const [from, to] of segments) link(x, y, from, to);
    }
  }
  return starts.map((start) => trace(start, wide)).filter(Boolean);
}

/** Two rings around: the rim repeated, then outside. So a mask that touches the rim closes beyond it. */
function putRings(grid, rows, columns, wide, high) {
  if (ringed.length < wide * high) ringed = new Float32Array(wide * high);
  ringed.fill(-1, 0, wide * high);
  for (let y = 1; y < high - 1; y++) {
    const from = Math.min(Math.max(y - 2, 0), rows - 1) * columns;
    const to = y * wide;
    ringed.set(grid.subarray(from, from + columns), to + 2);
    ringed[to + 1] = grid[from];
    ringed[to + columns + 2] = grid[from + columns - 1];
  }
}

/** Follows crossings from one until it comes round; null if somebody was here before. */
function trace(start, wide) {
  const line = [];
  for (let side = start; follow[side] >= 0; ) {
    const at = side >> 1;
    const x = at % wide;
    const y = (at - x) / wide;
    const here = ringed[at];
    const there = ringed[at + (side & 1 ? wide : 1)];
    const part = here / (here - there);
    line.push(x - 1.5 + (side & 1 ? 0 : part), y - 1.5 + (side & 1 ? part : 0));
    const next = follow[side];
    follow[side] = -1;
    side = next;
  }
  return line.length > 4 ? Float32Array.from(line) : null;
}

/** The outline of logits in original pixels, of which the part inside the picture counts. */
export function outlineOfLogits(logits, low, frame) {
  const stretch = [frame.padded / low, frame.padded / low];
  return scaled(contours(logits, low, low), [
    (stretch[0] * frame.size[1]) / frame.resized[1],
    (stretch[1] * frame.size[0]) / frame.resized[0],
  ]);
}

/** The outline of an RLE in original pixels. */
export function outlineOfRle(rle) {
  const { grid, size } = coverage(rle);
  return scaled(contours(grid, size[0], size[1]), [rle.size[1] / size[1], rle.size[0] / size[0]]);
}

function scaled(lines, [byX, byY]) {
  for (const line of lines) {
    for (let place = 0; place < line.length; place += 2) {
      line[place] *= byX;
      line[place + 1] *= byY;
    }
  }
  return lines;
}

const MOST_POINTS = 8000; // of a path: more would make drawing slower than decoding

/** The longest of the lines, as many as are drawn in time: what nobody could tell from noise stays out. */
export function longestLines(lines, most = MOST_POINTS) {
  let points = lines.reduce((sum, line) => sum + line.length / 2, 0);
  if (points <= most) return lines;
  points = 0;
  return [...lines].sort((one, other) => other.length - one.length).filter((line) => (points += line.length / 2) <= most);
}

/** Lines -> a Path2D; fill it by the rule "evenodd". */
export function pathOf(lines) {
  const path = new Path2D();
  for (const line of longestLines(lines)) {
    path.moveTo(line[0], line[1]);
    for (let place = 2; place < line.length; place += 2) path.lineTo(line[place], line[place + 1]);
    path.closePath();
  }
  return path;
}

/** [left, top, right, bottom] of lines; null where there are none. */
export function boundsOf(lines) {
  const bounds = [Infinity, Infinity, -Infinity, -Infinity];
  for (const line of lines) {
    for (let place = 0; place < line.length; place += 2) {
      bounds[0] = Math.min(bounds[0], line[place]);
      bounds[1] = Math.min(bounds[1], line[place + 1]);
      bounds[2] = Math.max(bounds[2], line[place]);
      bounds[3] = Math.max(bounds[3], line[place + 1]);
    }
  }
  return lines.length ? bounds : null;
}
