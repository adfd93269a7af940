/**
 * Checks what a session file holds before it is shown: files come from anywhere. sam_hf/inference/session_format.py
 * checks the same where the server or the command line reads it.
 */
import { NOTHING } from "./prompts.js";
import { rleOfRuns, runsOf } from "./rle.js";

const MOST_STEPS = 256; // of an object, and points of a step

function need(holds, what) {
  if (!holds) throw new Error(`This session is damaged: ${what}.`);
}

const isPlace = (value) => Array.isArray(value) && value.length === 2 && value.every(Number.isFinite);
const isBox = (value) => Array.isArray(value) && value.length === 4 && value.every(Number.isFinite) && value[0] < value[2] && value[1] < value[3];
const isAmount = (value) => Number.isFinite(value) && value >= 0;

/** What is not null: null says the same as nothing. */
const told = (values) => Object.fromEntries(Object.entries(values).filter(([, value]) => value !== null));

/** An RLE of a picture of this size, its counts as text. */
export function readMask(rle, size) {
  need(rle && typeof rle === "object" && String(rle.size) === String(size), "a mask in it belongs to another size");
  try {
    const { counts } = rle;
    if (!Array.isArray(counts) && typeof counts !== "string") throw new Error("no counts");
    return rleOfRuns(runsOf({ size, counts }), size);
  } catch {
    throw new Error("This session is damaged: a mask in it cannot be read.");
  }
}

function readStep(step, index, size) {
  need(step && typeof step === "object", "a step is no list of prompts");
  const { points, labels: given, box, text, brush, previous, selected } = { ...NOTHING, labels: null, ...told(step) };
  need(Array.isArray(points) && points.length <= MOST_STEPS && points.every(isPlace), "points are no places");
  const labels = given ?? points.map(() => 1);
  need(Array.isArray(labels) && labels.length === points.length && labels.every((label) => label === 0 || label === 1), "labels do not belong to the points");
  need(box === null || isBox(box), "a box is no box");
  need(text === null || (typeof text === "string" && text.length > 0), "a text is no text");
  need(typeof previous === "boolean" && !(previous && index === 0), "the first step has no mask before it");
  need([null, 0, 1, 2].includes(selected), "of three masks none is selected");
  return { points, labels, box, text, brush: brush === null ? null : readMask(brush, size), previous, selected };
}

/** One of a session's objects, as `makeObject` of state.js takes it. */
export function readObject(object, size) {
  need(object && typeof object === "object", "an object in it cannot be read");
  const { name, color, steps = [], rle, score, fill_holes = 0, drop_islands = 0, polygon_detail = 1, hidden = false } = told(object);
  need(name === undefined || typeof name === "string", "a name is no text");
  need(color === undefined || (typeof color === "string" && /^#[0-9a-f]{6}$/i.test(color)), "a colour is not written as #rrggbb");
  need(Array.isArray(steps) && steps.length <= MOST_STEPS, "steps are no list");
  need(isAmount(fill_holes) && isAmount(drop_islands), "an area is no number");
  need(isAmount(polygon_detail) && polygon_detail <= 1, "a polygon's detail is not between 0 and 1");
  need(typeof hidden === "boolean", "hidden is neither true nor false");
  return {
    name, color, steps: steps.map((step, index) => readStep(step, index, size)), rle: readMask(rle, size),
    score: Number.isFinite(score) ? score : null, fill_holes, drop_islands, polygon_detail, hidden,
  };
}
