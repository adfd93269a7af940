/** Strokes of a brush to a mask in original pixels. */
import { coverage, rleOfRuns } from "./rle.js";

const LONGEST_SIDE = 1024; // of the sheet that is painted on: a rough mask needs no more

/**
 * @param strokes [{points: [[x, y], ...], radius, erases}] in original pixels, in order
 * @param size [H, W], original pixels
 * @param base the mask that is painted on, as RLE, or null
 * @returns RLE, or null if nothing is painted
 */
export function paint(strokes, size, base) {
  const shrink = Math.min(1, LONGEST_SIDE / Math.max(...size));
  const [rows, columns] = size.map((side) => Math.max(1, Math.round(side * shrink)));
  const sheet = new OffscreenCanvas(columns, rows);
  const context = sheet.getContext("2d", { willReadFrequently: true });
  if (base) putMask(context, base, [rows, columns]);
  context.setTransform(columns / size[1], 0, 0, rows / size[0], 0, 0);
  context.lineCap = context.lineJoin = "round";
  for (const { points, radius, erases } of strokes) {
    context.globalCompositeOperation = erases ? "destination-out" : "source-over";
    context.lineWidth = 2 * radius;
    context.beginPath();
    context.moveTo(...points[0]);
    for (const point of points) context.lineTo(...point);
    context.stroke();
  }
  const { data } = context.getImageData(0, 0, columns, rows);
  return rleOfSheet((row, column) => data[4 * (row * columns + column) + 3] > 127, [rows, columns], size);
}

function putMask(context, base, [rows, columns]) {
  const { grid, size } = coverage(base, Math.max(rows, columns));
  const pixels = new ImageData(columns, rows);
  for (let row = 0; row < rows; row++) {
    const from = Math.min(size[0] - 1, Math.floor(((row + 0.5) * size[0]) / rows)) * size[1];
    for (let column = 0; column < columns; column++) {
      const at = from + Math.min(size[1] - 1, Math.floor(((column + 0.5) * size[1]) / columns));
      if (grid[at] > 0) pixels.data[4 * (row * columns + column) + 3] = 255;
    }
  }
  context.putImageData(pixels, 0, 0);
}

/** Each original pixel takes the value of the sheet's pixel that it lies in. */
export function rleOfSheet(isInside, [rows, columns], [height, width]) {
  const runs = [];
  let inside = false;
  let run = 0;
  let any = false;
  for (let x = 0; x < width; x++) {
    const column = Math.min(columns - 1, Math.floor(((x + 0.5) * columns) / width));
    for (let y = 0; y < height; y++) {
      const value = isInside(Math.min(rows - 1, Math.floor(((y + 0.5) * rows) / height)), column);
      any ||= value;
      if (value === inside) run++;
      else {
        runs.push(run);
        inside = value;
        run = 1;
      }
    }
  }
  runs.push(run);
  return any ? rleOfRuns(runs, [height, width]) : null;
}
