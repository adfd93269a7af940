/**
 * Frames and views. Three frames occur: *original* pixels of the picture (all prompts and masks are said in these),
 * *resized* pixels (longest side = the model's image size, what the decoder takes) and *stage* pixels (CSS pixels of
 * the canvas). A view {scale, x, y} takes original to stage pixels: stage = original * scale + offset.
 * Sizes are [height, width] as everywhere in sam_hf; points are [x, y].
 */

const LARGEST_SCALE = 40; // stage pixels per original pixel

/** The view in which the whole picture is seen, centred, with a margin around it. */
export function fit([height, width], stage, margin = 0) {
  const room = [Math.max(1, stage.width - 2 * margin), Math.max(1, stage.height - 2 * margin)];
  const scale = Math.min(room[0] / width, room[1] / height, LARGEST_SCALE);
  return { scale, x: (stage.width - width * scale) / 2, y: (stage.height - height * scale) / 2 };
}

export const toStage = (view, [x, y]) => [x * view.scale + view.x, y * view.scale + view.y];
export const toPicture = (view, [x, y]) => [(x - view.x) / view.scale, (y - view.y) / view.scale];

/** The view after zooming by `factor` while the picture stays where it is under `point` (stage pixels). */
export function zoomAt(view, point, factor, size, stage) {
  const smallest = Math.min(fit(size, stage).scale, 1) / 2;
  const scale = Math.min(LARGEST_SCALE, Math.max(smallest, view.scale * factor));
  const [x, y] = toPicture(view, point);
  return keepInSight({ scale, x: point[0] - x * scale, y: point[1] - y * scale }, size, stage);
}

/** The view moved by so many stage pixels. */
export function pan(view, dx, dy, size, stage) {
  return keepInSight({ ...view, x: view.x + dx, y: view.y + dy }, size, stage);
}

/** Moves a view back so that some of the picture can be seen; nobody gets lost beside it. */
export function keepInSight(view, [height, width], stage) {
  const seen = 48;
  const within = (value, low, high) => Math.min(Math.max(value, low), high);
  return {
    scale: view.scale,
    x: within(view.x, Math.min(seen, stage.width / 2) - width * view.scale, stage.width - Math.min(seen, stage.width / 2)),
    y: within(view.y, Math.min(seen, stage.height / 2) - height * view.scale, stage.height - Math.min(seen, stage.height / 2)),
  };
}

export const isInside = ([x, y], [height, width]) => x >= 0 && y >= 0 && x < width && y < height;

/** The nearest point of the picture. */
export const clampPoint = ([x, y], [height, width]) => [Math.min(Math.max(x, 0), width), Math.min(Math.max(y, 0), height)];

/** To a tenth of a pixel: finer than anyone points, and short in a session file. */
export const rounded = (values) => values.map((value) => Math.round(value * 10) / 10);

/** Two corners in any order -> [x0, y0, x1, y1]. */
export const boxOf = ([ax, ay], [bx, by]) => [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)];

/** Original pixels -> resized pixels, as the Python processor scales points. */
export const toResized = ([x, y], size, resized) => [(x * resized[1]) / size[1], (y * resized[0]) / size[0]];

export const distance = ([ax, ay], [bx, by]) => Math.hypot(ax - bx, ay - by);
