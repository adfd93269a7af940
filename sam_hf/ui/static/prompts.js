/**
 * Steps: what a person asked, in original pixels, as it goes into sessions and to the server.
 *
 * A step carries all prompts that hold at that moment; an object is a list of steps:
 *   {points: [[x,y],...], labels: [1|0,...], box: [x0,y0,x1,y1]|null, text: string|null, brush: RLE|null,
 *    previous: boolean, selected: 0|1|2|null}
 * The rule for one or three masks is `wants_three` of sam_hf/inference/session.py; both are tested on
 * tests/ui/cases.json.
 */
import { toResized } from "./geometry.js";

/** A step without prompts. */
export const NOTHING = Object.freeze({
  points: [], labels: [], box: null, text: null, brush: null, previous: false, selected: null,
});

/** Whether the prompt is ambiguous (or one of three was chosen), so that the model offers three masks, or just one. */
export function wantsThree(step) {
  const ambiguous = !step.previous && step.points.length + (step.box ? 2 : 0) <= 1;
  return ambiguous || (step.selected ?? 0) >= 1;
}

export const isEmpty = (step) => !step.points.length && !step.box && !step.text && !step.brush;

/** The next step: `change` on top of what holds already; the mask so far becomes a prompt, unless one was painted. */
export function nextStep(steps, change) {
  const last = steps.at(-1) ?? NOTHING;
  const brush = "brush" in change ? change.brush : null; // a painted mask counts once; later clicks refine its result
  return { ...NOTHING, ...last, ...change, brush, previous: steps.length > 0 && !brush, selected: null };
}

export function withPoint(steps, point, label) {
  const { points, labels } = steps.at(-1) ?? NOTHING;
  return nextStep(steps, { points: [...points, point], labels: [...labels, label] });
}

/** The painting that the steps build on, whichever step it was given with; null if there is none. */
export function paintingOf(steps) {
  for (const step of [...steps].reverse()) {
    if (step.brush || !step.previous) return step.brush;
  }
  return null;
}

/** Without one of the points; null if nothing is left. The mask that the point had a part in is no prompt any more. */
export function withoutPoint(steps, index) {
  const last = steps.at(-1);
  const without = (values) => values.filter((_, place) => place !== index);
  return alone(steps, { points: without(last.points), labels: without(last.labels) });
}

/** Without the box, the text or the painting; null if nothing is left. */
export const without = (steps, kind) => alone(steps, { [kind]: null });

/** The prompts of the last step with a change, on no mask but what was painted. */
function alone(steps, change) {
  const step = { ...steps.at(-1), brush: paintingOf(steps), ...change, previous: false, selected: null };
  return isEmpty(step) ? null : step;
}

/**
 * What decoder_per_click takes, in resized pixels.
 * @returns {{points: Float32Array, labels: number[]}} A step without a point or box has one row of padding.
 */
export function decoderInput(step, size, resized) {
  const places = step.points.map((point) => toResized(point, size, resized));
  const labels = [...step.labels];
  if (step.box) {
    const [x0, y0, x1, y1] = step.box;
    places.push(toResized([x0, y0], size, resized), toResized([x1, y1], size, resized));
    labels.push(2, 3); // the upper left and lower right corner of a box
  }
  if (!places.length) return { points: new Float32Array(2), labels: [-10] };
  return { points: Float32Array.from(places.flat()), labels };
}

/** Which of the decoder's four masks a step offers: 1 to 3 for an ambiguous prompt, else 0. */
export const offeredMasks = (step) => (wantsThree(step) ? [1, 2, 3] : [0]);

/** Place among the offered masks that holds: the chosen one, else the one with the best score. */
export function selectedMask(step, scores) {
  if (step.selected !== null && step.selected < scores.length) return step.selected;
  return scores.indexOf(Math.max(...scores));
}
