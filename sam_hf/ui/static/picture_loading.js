/**
 * Opening a picture: shown at once, sent, encoded on the server, its embedding fetched and given to the decoder.
 * Each opening has a ticket (an AbortController); a newer one aborts it, and nothing of it arrives any more.
 */
import { ServerError } from "./server.js";

const LONGEST_SIDE = 2048; // of what is shown
const LARGEST_FILE = 20 * 2 ** 20;

/** What a browser can show of a file at once; null where it cannot (TIFF) and the server's copy is waited for. */
export async function preview(blob) {
  try {
    const whole = await createImageBitmap(blob); // turned upright by its EXIF orientation
    const size = [whole.height, whole.width];
    const shrink = LONGEST_SIDE / Math.max(...size);
    if (shrink >= 1) return { bitmap: whole, size };
    const [resizeHeight, resizeWidth] = size.map((side) => Math.max(1, Math.round(side * shrink)));
    const bitmap = await createImageBitmap(whole, { resizeHeight, resizeWidth, resizeQuality: "high" });
    whole.close();
    return { bitmap, size };
  } catch {
    return null;
  }
}

/** Throws a sentence for what cannot be a picture. */
export function checkFile(file) {
  if (file.type && !file.type.startsWith("image/")) throw new ServerError("This is no picture. PNG, JPEG, WebP, TIFF, BMP and GIF are read.");
  if (!file.size) throw new ServerError("This file is empty.");
  if (file.size > LARGEST_FILE) {
    throw new ServerError(`This file has ${(file.size / 2 ** 20).toFixed(0)} MB; at most 20 MB are taken.`);
  }
}

/**
 * @param source {File} or {example: {name, title, url, size}} or {file: FileData, name} that the server has already
 * @param stage what to do at each stage: {shown(bitmap, size), busy(sentence, share)}
 * @returns {Promise<object>} what `encode` gives, `image` as later requests may name it, the file's `blob` and SHA-256
 */
export async function openPicture(server, source, checkpoint, { signal, shown, busy }) {
  const isFile = source instanceof Blob;
  if (isFile) checkFile(source);
  busy("Loading picture");
  const url = source.example?.url ?? source.file?.url;
  const blob = isFile ? source : await (await server.bytes({ url }, { signal })).blob();
  const seen = await preview(blob);
  if (signal.aborted) throw new ServerError("Cancelled.", "cancelled");
  if (seen) shown(seen.bitmap, seen.size);
  const image = source.file ?? (await sent(server, source, { signal, busy }));
  const opened = await encode(server, (how) => server.stream("/embed", { image, checkpoint }, how), { signal, busy });
  if (String(seen?.size) !== String(opened.size)) { // not shown yet, or turned in another way than the server reads it
    const copy = await preview(await (await server.bytes(opened.image, { signal })).blob());
    if (copy) shown(copy.bitmap, opened.size);
  }
  return { ...opened, sent: image, blob, sha256: await sha256(blob) };
}

/** An image for requests: the name of an example, else a file that has been sent. */
export async function sent(server, source, { signal, busy }) {
  if (source.example) return { example: source.example.name };
  return server.upload(source, { signal, progress: (share) => busy("Sending picture", share) });
}

/** /embed's last answer and the embedding's bytes; `asked` asks for them. */
export async function encode(server, asked, { signal, busy }) {
  const opened = await embed(asked, { signal, busy });
  const bytes = await (await server.bytes(opened.embedding, { signal })).arrayBuffer();
  return { ...opened, bytes };
}

/** Has a picture encoded, telling what goes on: how long it will take is not known, so seconds are told. */
export async function embed(asked, { signal, busy }) {
  const began = performance.now();
  let words = "Sending picture";
  const clock = setInterval(() => busy(`${words}, ${Math.round((performance.now() - began) / 1000)} s`), 1000);
  try {
    let opened = null;
    const waiting = (place) => busy((words = `Waiting, ${place} before you`));
    for await (const step of asked({ signal, waiting })) {
      if (step.stage === "ready") opened = step;
      else busy((words = { loading: "Loading model", reading: "Reading picture", encoding: "Encoding" }[step.stage]));
    }
    if (!opened) throw new ServerError("The picture could not be encoded. Try again.");
    return opened;
  } finally {
    clearInterval(clock);
  }
}

/** Hexadecimal; null where the browser has no cryptography (pages that are not served securely). */
async function sha256(blob) {
  if (!globalThis.crypto?.subtle) return null;
  const digest = await crypto.subtle.digest("SHA-256", await blob.arrayBuffer());
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Takes a picture with the camera: a File, or null if the person went away. */
export async function takePicture(dialog, makeButton) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
  } catch {
    return undefined; // no camera or no permission: the caller opens the file dialogue, where phones offer theirs
  }
  const video = document.createElement("video");
  Object.assign(video, { autoplay: true, muted: true, playsInline: true, srcObject: stream });
  const row = document.createElement("div");
  row.className = "sam-row";
  const answer = new Promise((resolve) => {
    const take = makeButton("Take picture", "sam-first", () => resolve(frame(video)));
    take.disabled = true; // until there is something to take
    video.onloadeddata = () => (take.disabled = false);
    row.append(take, makeButton("Cancel", "", () => resolve(null)));
    dialog.onclose = () => resolve(null);
  });
  dialog.replaceChildren(video, row);
  dialog.showModal();
  try {
    return await answer;
  } finally {
    stream.getTracks().forEach((track) => track.stop());
    dialog.onclose = null;
    dialog.close();
  }
}

async function frame(video) {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new File([await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 })], "camera.jpg", { type: "image/jpeg" });
}
