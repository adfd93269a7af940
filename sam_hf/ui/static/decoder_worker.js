/**
 * The mask decoder, in a thread of its own so that the page never waits.
 *
 * One request is answered after the other; whoever asks (decoder.js) sends the next one when the last is answered.
 * `decoder_per_image` runs once per picture and once per mask prompt, and its answers are kept; `decoder_per_click`
 * runs for each click or place of the mouse. What travels back is transferred, not copied.
 *
 *   {id, type: "load", perImage, perClick (URLs), threads}    -> {id, threads}
 *   {id, type: "picture", key, embedding (ArrayBuffer of float16), shape}
 *   {id, type: "decode", picture, points, labels, text, maskKey, mask (Float32Array or null), wanted}
 *                                                              -> {id, scores, masks, low, milliseconds}
 *   {id, type: "stretch", logits, low, frame}                  -> {id, rle}
 *   {id, type: "failed"...}: every request may be answered by {id, error}.
 */
import * as ort from "./vendor/ort.wasm.min.mjs";
import { rleOfLogits } from "./mask_drawing.js";

const MASK_PROMPTS_KEPT = 3; // 14 MB each with Meta's sizes: none, the one before, the one that holds

let sessions = null;
let picture = null; // {key, embedding: ort.Tensor, prepared: Map(maskKey -> outputs of decoder_per_image)}

ort.env.wasm.wasmPaths = new URL("./vendor/", import.meta.url).href;
ort.env.logLevel = "error";

async function load({ perImage, perClick, threads }) {
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.max(1, threads) : 1;
  const open = async (url) => {
    const answer = await fetch(url);
    if (!answer.ok) throw new Error(`the decoder could not be fetched (${answer.status})`);
    const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all", enableCpuMemArena: true };
    return ort.InferenceSession.create(new Uint8Array(await answer.arrayBuffer()), options);
  };
  const opened = { image: await open(perImage), click: null };
  opened.click = await open(perClick); // one after the other: the runtime starts once
  await Promise.all(Object.values(sessions ?? {}).map((session) => session.release()));
  sessions = opened;
  picture = null;
  const inputs = sessions.click.inputMetadata;
  sessions.textWidth = inputs.find(({ name }) => name === "text_embeds")?.shape[1] ?? 0;
  return { threads: ort.env.wasm.numThreads };
}

function setPicture({ key, embedding, shape }) {
  const [, , height, width] = shape;
  const tensor = new ort.Tensor("float16", new Uint16Array(embedding), shape);
  picture = { key, embedding: tensor, low: [4 * height, 4 * width], prepared: new Map() };
  return {};
}

/** What decoder_per_image makes of the picture and a mask prompt; made once for each. */
async function prepare(maskKey, mask) {
  const { prepared, embedding, low } = picture;
  if (!prepared.has(maskKey)) {
    const values = mask ?? new Float32Array(low[0] * low[1]);
    const outputs = await sessions.image.run({
      image_embeddings: embedding,
      mask_input: new ort.Tensor("float32", values, [1, 1, ...low]),
      has_mask_input: new ort.Tensor("float32", [mask ? 1 : 0], [1]),
    });
    const oldest = [...prepared.keys()].find((key) => key !== "");
    if (prepared.size >= MASK_PROMPTS_KEPT) prepared.delete(oldest);
    prepared.set(maskKey, outputs);
  }
  const outputs = prepared.get(maskKey);
  if (maskKey) {
    prepared.delete(maskKey); // to the end: used last
    prepared.set(maskKey, outputs);
  }
  return outputs;
}

async function decode({ picture: key, points, labels, text, maskKey, mask, wanted }) {
  if (!sessions || picture?.key !== key) throw new Error("this picture is not open any more");
  const began = performance.now();
  const count = labels.length;
  const inputs = {
    ...(await prepare(maskKey, mask)),
    input_points: new ort.Tensor("float32", points, [1, count, 2]),
    input_labels: new ort.Tensor("int64", BigInt64Array.from(labels, BigInt), [1, count]),
  };
  if (sessions.textWidth) {
    const vector = text ?? new Float32Array(sessions.textWidth);
    inputs.text_embeds = new ort.Tensor("float32", vector, [1, sessions.textWidth]);
  }
  const { iou_scores, pred_masks } = await sessions.click.run(inputs);
  const each = picture.low[0] * picture.low[1];
  const scores = wanted.map((index) => iou_scores.data[index]);
  // For a look under the mouse the best mask is enough; it is cut out so that the others need not travel.
  const masks = wanted.map((index) => pred_masks.data.slice(index * each, (index + 1) * each));
  return { scores, masks, low: picture.low[0], milliseconds: performance.now() - began };
}

const ANSWERS = {
  load,
  picture: setPicture,
  decode,
  stretch: ({ logits, low, frame }) => ({ rle: rleOfLogits(logits, low, frame) }),
};

self.onmessage = async ({ data }) => {
  try {
    const answer = await ANSWERS[data.type](data);
    self.postMessage({ id: data.id, ...answer }, (answer.masks ?? []).map((mask) => mask.buffer));
  } catch (error) {
    self.postMessage({ id: data.id, error: String(error?.message ?? error) });
  }
};
