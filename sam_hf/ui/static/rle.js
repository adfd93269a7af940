/**
 * COCO's compressed run-length encoding, {size: [H, W], counts: string}: runs go down the columns, outside first, each
 * written in base 48 with six bits a character, from the third one on as the difference to the run before the last.
 * Source: the format is that of pycocotools; tests compare with it.
 */

const known = new WeakMap(); // RLE -> {runs, ends, box}; masks are looked up at every move of the mouse

function about(rle) {
  if (!known.has(rle)) known.set(rle, {});
  return known.get(rle);
}

/** counts -> run lengths, which nobody may change. Throws if they do not fill the mask. */
export function runsOf(rle) {
  return (about(rle).runs ??= readRuns(rle));
}

function readRuns({ size, counts }) {
  const runs = Array.isArray(counts) ? counts : readCounts(counts);
  const isFull = runs.every((run) => Number.isSafeInteger(run) && run >= 0) && runs.reduce((sum, run) => sum + run, 0) === size[0] * size[1];
  if (!isFull) throw new Error("rle.counts does not fill rle.size");
  return runs;
}

function readCounts(counts) {
  const runs = [];
  for (let place = 0; place < counts.length; ) {
    let value = 0;
    let shift = 0;
    let more = true;
    while (more) {
      const code = counts.charCodeAt(place++) - 48;
      if (!(code >= 0 && code < 64)) throw new Error("rle.counts is not COCO's compressed text");
      value += (code & 31) * 2 ** shift;
      more = (code & 32) !== 0;
      shift += 5;
      if (!more && code & 16) value -= 2 ** shift;
    }
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

/** Run lengths -> {size, counts}. */
export function rleOfRuns(runs, size) {
  let counts = "";
  for (let index = 0; index < runs.length; index++) {
    let value = index > 2 ? runs[index] - runs[index - 2] : runs[index];
    for (let more = true; more; ) {
      const bits = value & 31;
      value >>= 5;
      more = bits & 16 ? value !== -1 : value !== 0;
      counts += String.fromCharCode(48 + (more ? bits | 32 : bits));
    }
  }
  return { size: [...size], counts };
}

/** A mask, bytes row by row -> RLE. */
export function encode(mask, [height, width]) {
  const runs = [];
  let inside = 0;
  let run = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0, place = x; y < height; y++, place += width) {
      if ((mask[place] ? 1 : 0) === inside) run++;
      else {
        runs.push(run);
        inside ^= 1;
        run = 1;
      }
    }
  }
  runs.push(run);
  return rleOfRuns(runs, [height, width]);
}

/** RLE -> a mask, bytes row by row. */
export function decode(rle) {
  const [height, width] = rle.size;
  const mask = new Uint8Array(height * width);
  forEachSpan(rle, (x, top, bottom) => {
    for (let y = top; y < bottom; y++) mask[y * width + x] = 1;
  });
  return mask;
}

/** Calls visit(x, top, bottom) for each stretch of a column that is inside, bottom excluded. */
export function forEachSpan(rle, visit) {
  const height = rle.size[0];
  let place = 0;
  runsOf(rle).forEach((run, index) => {
    if (index % 2) {
      for (let start = place; start < place + run; ) {
        const x = Math.floor(start / height);
        const end = Math.min(place + run, (x + 1) * height);
        visit(x, start - x * height, end - x * height);
        start = end;
      }
    }
    place += run;
  });
}

export function area(rle) {
  return runsOf(rle).reduce((sum, run, index) => (index % 2 ? sum + run : sum), 0);
}

/** Whether a point (original pixels) is inside. */
export function contains(rle, [x, y]) {
  const [height, width] = rle.size;
  if (x < 0 || y < 0 || x >= width || y >= height) return false;
  const box = boundingBox(rle);
  if (!box || x < box[0] || y < box[1] || x >= box[0] + box[2] || y >= box[1] + box[3]) return false;
  const wanted = Math.floor(x) * height + Math.floor(y);
  const ends = endsOf(rle);
  let [first, last] = [0, ends.length - 1]; // the first run that ends behind it
  while (first < last) {
    const middle = (first + last) >> 1;
    if (ends[middle] > wanted) last = middle;
    else first = middle + 1;
  }
  return first % 2 === 1;
}

/** Where each run ends, counted down the columns. */
function endsOf(rle) {
  let place = 0;
  return (about(rle).ends ??= Float64Array.from(runsOf(rle), (run) => (place += run)));
}

/** [x, y, width, height] of the pixels inside; null for an empty mask. */
export function boundingBox(rle) {
  const found = about(rle);
  if (found.box === undefined) found.box = findBox(rle);
  return found.box;
}

function findBox(rle) {
  let [left, top, right, bottom] = [Infinity, Infinity, -1, -1];
  forEachSpan(rle, (x, first, last) => {
    left = Math.min(left, x);
    right = Math.max(right, x + 1);
    top = Math.min(top, first);
    bottom = Math.max(bottom, last);
  });
  return right < 0 ? null : [left, top, right - left, bottom - top];
}

/** IoU of two masks of one size; two empty ones agree. */
export function overlap(one, other) {
  const [ends, others] = [endsOf(one), endsOf(other)];
  let [both, either, place, first, second] = [0, 0, 0, 0, 0];
  while (first < ends.length && second < others.length) {
    const end = Math.min(ends[first], others[second]);
    if (first % 2 && second % 2) both += end - place;
    if (first % 2 || second % 2) either += end - place;
    place = end;
    if (ends[first] === end) first++;
    if (others[second] === end) second++;
  }
  return either ? both / either : 1;
}

/** How much of each cell of a coarser grid is inside, minus one half: above 0 where most of it is. */
export function coverage(rle, longestSide = 768) {
  const [height, width] = rle.size;
  const shrink = Math.min(1, longestSide / Math.max(height, width));
  const [rows, columns] = [Math.max(1, Math.round(height * shrink)), Math.max(1, Math.round(width * shrink))];
  const grid = new Float32Array(rows * columns);
  const [perRow, perColumn] = [rows / height, columns / width];
  const share = perRow * perColumn;
  forEachSpan(rle, (x, top, bottom) => {
    const column = Math.min(columns - 1, Math.floor((x + 0.5) * perColumn));
    const [from, to] = [top * perRow, bottom * perRow];
    for (let row = Math.floor(from); row < Math.min(rows, Math.ceil(to)); row++) {
      grid[row * columns + column] += (Math.min(to, row + 1) - Math.max(from, row)) * (share / perRow);
    }
  });
  // Where columns do not divide evenly, a cell holds a column more or less than its share: full is what is full.
  const full = new Float32Array(columns);
  for (let x = 0; x < width; x++) full[Math.min(columns - 1, Math.floor((x + 0.5) * perColumn))] += perColumn;
  for (let place = 0; place < grid.length; place++) grid[place] = grid[place] / (full[place % columns] || 1) - 0.5;
  return { grid, size: [rows, columns] };
}
