/**
 * What a person has made of a picture: an immutable document and its history. Pure functions, no page.
 *
 * Document: {steps, editing, objects, selected, finds}
 *   steps     of the object being made, see prompts.js
 *   editing   id of the kept object that is open again, or null
 *   objects   [{id, name, color, steps, rle, original, score, hidden, fill_holes, drop_islands, polygon_detail}]
 *             `original` is the mask before holes were filled and islands dropped; null where a session file has the
 *             tidied one alone
 *   selected  id of the kept object that the panel is about, or null
 *   finds     what everything mode or a phrase has found and nobody has kept yet, see finding.js: {shown, others, note};
 *             `others` are masks of other things than those that were asked for
 */

import { readObject } from "./session_file.js";

/** Okabe and Ito's colours that stand out from photographs; told apart with any kind of colour vision. */
export const COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"];
const HISTORY = 200;
export const LONGEST_NAME = 120;

export const NOTHING_FOUND = Object.freeze({ shown: [], others: [], note: "" });
export const EMPTY = Object.freeze({ steps: [], editing: null, objects: [], selected: null, finds: NOTHING_FOUND });

// --- history ---------------------------------------------------------------------------------------------------------

export const begin = (document = EMPTY) => ({ past: [], present: document, future: [] });

/** Goes on with another document; what was undone is forgotten. Nothing happens if nothing has changed. */
export function change(history, document) {
  if (document === history.present) return history;
  return { past: [...history.past, history.present].slice(-HISTORY), present: document, future: [] };
}

/** Puts another document in the place of the present one, for what is no act of a person (an answer that arrived). */
export const amend = (history, document) => ({ ...history, present: document });

export function undo(history) {
  if (!history.past.length) return history;
  const past = history.past.slice(0, -1);
  return { past, present: history.past.at(-1), future: [history.present, ...history.future] };
}

export function redo(history) {
  if (!history.future.length) return history;
  const [present, ...future] = history.future;
  return { past: [...history.past, history.present], present, future };
}

/** An answer about one object, put into every document of the history that holds it unchanged. */
export function amendEverywhere(history, id, expected, values) {
  const amended = (document) => {
    const object = document.objects.find((candidate) => candidate.id === id);
    return object && object.rle === expected ? updateObject(document, id, values) : document;
  };
  return { past: history.past.map(amended), present: amended(history.present), future: history.future.map(amended) };
}

// --- the object being made -------------------------------------------------------------------------------------------

export const addStep = (document, step) => ({ ...document, steps: [...document.steps, step] });
export const setSteps = (document, steps) => ({ ...document, steps });
export const dropStep = (document) => (document.steps.length ? setSteps(document, document.steps.slice(0, -1)) : document);

/** Another one of the three masks; the choice is part of the step. */
export function chooseMask(document, selected) {
  const last = document.steps.at(-1);
  if (!last || last.selected === selected) return document;
  return setSteps(document, [...document.steps.slice(0, -1), { ...last, selected }]);
}

export const clear = (document) => (document.steps.length || document.editing ? { ...document, steps: [], editing: null } : document);

// --- kept objects ----------------------------------------------------------------------------------------------------

/** A colour that the fewest objects have. */
export function nextColor(objects) {
  const uses = COLORS.map((color) => objects.filter((object) => object.color === color).length);
  return COLORS[uses.indexOf(Math.min(...uses))];
}

/** The first free name of "object 1", "object 2", ... */
export function nextName(objects) {
  const names = new Set(objects.map((object) => object.name));
  let number = 1;
  while (names.has(`object ${number}`)) number++;
  return `object ${number}`;
}

let made = 0;

/** An object as it is kept. Several may have one name: it is their class in datasets. */
export function makeObject(objects, { rle, score = null, steps = [], name, color, ...rest }) {
  const plain = { hidden: false, fill_holes: 0, drop_islands: 0, polygon_detail: 1 };
  const id = `o${++made}`;
  const named = { name: name?.slice(0, LONGEST_NAME) || nextName(objects), color: color ?? nextColor(objects) };
  const original = rest.fill_holes || rest.drop_islands ? null : rle;
  return { ...plain, ...named, ...rest, id, steps, rle, original, score };
}

/** Keeps the object being made: a new one, or the one that was open again. */
export function keep(document, { rle, score }) {
  const { steps, editing, objects } = document;
  if (editing !== null && objects.some((object) => object.id === editing)) {
    const values = { steps, rle, original: rle, score, fill_holes: 0, drop_islands: 0 };
    return { ...updateObject(document, editing, values), steps: [], editing: null, selected: editing };
  }
  return { ...keepAll({ ...document, steps: [], editing: null }, [{ rle, score, steps }]) };
}

/** Keeps masks that are there already, such as those that everything mode found. */
export function keepAll(document, masks) {
  const objects = [...document.objects];
  for (const mask of masks) objects.push(makeObject(objects, mask));
  return { ...document, objects, selected: objects.at(-1)?.id ?? null };
}

export function updateObject(document, id, values) {
  return { ...document, objects: document.objects.map((object) => (object.id === id ? { ...object, ...values } : object)) };
}

export function removeObject(document, id) {
  return {
    ...document,
    objects: document.objects.filter((object) => object.id !== id),
    selected: document.selected === id ? null : document.selected,
    ...(document.editing === id ? { editing: null, steps: [] } : {}),
  };
}

/** Opens a kept object again. One that has no steps begins with its mask, as if it had been painted. */
export function reopen(document, id, nothing) {
  const object = document.objects.find((candidate) => candidate.id === id);
  if (!object) return document;
  const steps = object.steps.length ? object.steps : [{ ...nothing, brush: object.original ?? object.rle }];
  return { ...document, steps, editing: id, selected: id };
}

export const select = (document, id) => (document.selected === id ? document : { ...document, selected: id });

// --- session file ----------------------------------------------------------------------------------------------------

const KEPT = ["name", "color", "steps", "fill_holes", "drop_islands", "polygon_detail", "hidden", "rle"];

/** The session as it goes to the server, the command line and back; sam_hf/inference/session.py reads it. */
export function sessionOf(document, image, checkpoint) {
  const objects = document.objects.map((object) => Object.fromEntries(KEPT.map((key) => [key, object[key]])));
  return { format: "sam_hf.session", version: 1, image, checkpoint, objects };
}

/** Whether a session holds prompts alone, so that the server has to decode them. */
export const lacksMasks = (session) => Array.isArray(session?.objects) && session.objects.some((object) => object && !object.rle);

/** The session with the masks that the server has decoded. */
export function withMasks(session, decoded) {
  const objects = session.objects.map((object, index) => (object?.rle ? object : { ...object, rle: decoded[index]?.rle, score: decoded[index]?.score }));
  return { ...session, objects };
}

/** What is to be known about a session of another file or checkpoint, as a sentence; null if there is nothing. */
export function strangeness(session, image, checkpoint) {
  const isOther = session.image?.sha256 && image.sha256 && session.image.sha256 !== image.sha256;
  if (isOther) return "This session was made with another file of the same size: its masks may not fit.";
  if (!session.checkpoint || session.checkpoint === checkpoint) return null;
  return `This session was made with the checkpoint ${String(session.checkpoint).slice(0, 80)}: editing its objects gives other masks here.`;
}

/** A session file's objects as a document. Throws a sentence if it is none or of another picture. */
export function documentOf(session, size) {
  if (session?.format !== "sam_hf.session" || !Array.isArray(session.objects)) {
    throw new Error("This file is no session of this app.");
  }
  if (session.version !== 1) throw new Error("This session was written by a newer version of this app.");
  if (session.image?.size && String(session.image.size) !== String(size)) {
    throw new Error(`This session belongs to a picture of ${session.image.size[1]} × ${session.image.size[0]} pixels.`);
  }
  const objects = [];
  for (const object of session.objects) objects.push(makeObject(objects, readObject(object, size)));
  return { ...EMPTY, objects, selected: objects.at(-1)?.id ?? null };
}
