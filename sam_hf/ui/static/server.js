/**
 * All that the page asks of the server, through Gradio's own client: places in the queue, progress, cancelling and
 * ZeroGPU's tokens come with it. Failures arrive here as a sentence that can be shown.
 */
import { Client } from "./vendor/gradio_client.min.js";

const SECONDS = { "/segment": 60, "/phrase": 30, "/refine": 30, "/export": 120, "/segment_text": 120 };
const PATIENCE = 600; // seconds for what says how far it is: encoding a large picture on a small machine

/** A failure to be shown to a person; `kind` is "busy", "offline", "expired", "cancelled" or "refused". */
export class ServerError extends Error {
  constructor(message, kind = "refused") {
    super(message);
    this.kind = kind;
  }
}

export class Server {
  /** @param {string} root address of the app */
  constructor(root) {
    this.root = root;
    this.client = null;
  }

  /** Connects, or waits for the connection that is being made. */
  connect() {
    this.client ??= Client.connect(this.root, { events: ["data", "status"] }).catch((error) => {
      this.client = null;
      throw explained(error);
    });
    return this.client;
  }

  /** One answer. */
  call(endpoint, data, how) {
    return lastOf(this.stream(endpoint, data, how));
  }

  /** Whether the server answers at all. */
  async isThere() {
    const answer = await fetch(`${this.root}/gradio_api/app_id`, { cache: "no-store" }).catch(() => null);
    return Boolean(answer?.ok);
  }

  /**
   * Answers as they come.
   * @param {{signal?: AbortSignal, seconds?: number, waiting?: (place: number) => void}} options `waiting` hears how
   *   many are before us.
   */
  async *stream(endpoint, data, { signal, seconds = SECONDS[endpoint] ?? PATIENCE, waiting } = {}) {
    const connection = this.connect();
    const client = oneCall(await connection);
    if (signal?.aborted) throw new ServerError("Cancelled.", "cancelled");
    const job = client.submit(endpoint, data);
    let stop;
    const stopped = new Promise((_, reject) => {
      stop = (error) => {
        reject(error);
        cancelWhenKnown(job); // the server is told, whether it hears it or not
      };
    });
    stopped.catch(() => {});
    const cancelled = () => stop(new ServerError("Cancelled.", "cancelled"));
    const late = () => stop(new ServerError("The server takes too long. Try again later.", "busy"));
    const timer = setTimeout(late, seconds * 1000);
    signal?.addEventListener("abort", cancelled, { once: true });
    try {
      const events = job[Symbol.asyncIterator]();
      for (;;) {
        const { value: event, done } = await Promise.race([events.next(), stopped]);
        if (done) return;
        if (event.type === "data") yield event.data[0];
        else if (event.type === "status") {
          if (event.stage === "error") throw explained(event);
          if (event.stage === "pending" && event.position) waiting?.(event.position);
          if (event.stage === "complete") return;
        }
      }
    } catch (error) {
      const failure = error instanceof ServerError ? error : explained(error);
      // Gradio's client holds a broken stream to be open for ever, and would wait for answers from it.
      if (failure.kind === "offline" && this.client === connection) this.client = null;
      throw failure;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", cancelled);
    }
  }

  /** Uploads a file; what comes back names it in later calls. `progress` hears the share that has arrived. */
  upload(file, { signal, progress } = {}) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest(); // fetch does not tell how much has been sent
      const body = new FormData();
      body.append("files", file, file.name || "picture");
      request.open("POST", `${this.root}/gradio_api/upload`);
      request.upload.onprogress = ({ loaded, total }) => progress?.(total ? loaded / total : 0);
      request.onload = () => {
        if (request.status === 413) return reject(new ServerError("This file is too large; at most 20 MB are taken."));
        if (request.status !== 200) return reject(new ServerError("The picture could not be uploaded. Try again."));
        const [path] = JSON.parse(request.responseText);
        resolve({ path, orig_name: file.name, meta: { _type: "gradio.FileData" } });
      };
      request.onerror = () => reject(offline());
      request.onabort = () => reject(new ServerError("Cancelled.", "cancelled"));
      signal?.addEventListener("abort", () => request.abort(), { once: true });
      request.send(body);
    });
  }

  /** The bytes of a file that an answer named. */
  async bytes(file, { signal } = {}) {
    const answer = await fetch(file.url, { signal }).catch((error) => {
      throw signal?.aborted ? new ServerError("Cancelled.", "cancelled") : offline(error);
    });
    if (!answer.ok) throw new ServerError("A file of this picture has expired. Open the picture again.", "expired");
    return answer;
  }
}

/**
 * A client of the same app for one call. All calls of a client come in one stream, which the server closes after the
 * last answer that it owes: a call that is made in that moment would wait for ever.
 */
function oneCall(client) {
  const { config, api_prefix, api_info, api_map, options } = client;
  return Object.assign(new Client(client.app_reference, options), { config, api_prefix, api_info, api_map });
}

/** Cancels; a call that has no number yet is cancelled as soon as it has one. */
async function cancelWhenKnown(job, tries = 50) {
  while (!job.event_id() && --tries) await new Promise((resolve) => setTimeout(resolve, 100));
  if (job.event_id()) await job.cancel().catch(() => {});
}

/** The last answer of several. */
export async function lastOf(answers) {
  let last;
  for await (const answer of answers) last = answer;
  return last;
}

const offline = () => new ServerError("The server cannot be reached. This page looks for it and goes on by itself.", "offline");

/** What the client threw or reported, as a sentence. */
export function explained(failure) {
  const message = String(failure?.message ?? failure ?? "");
  if (/queue is full|too many|busy|\b429\b|\b503\b/i.test(message)) {
    return new ServerError("The server is busy. Try again in a moment.", "busy");
  }
  if (failure?.broken || /failed to fetch|network|connection|load failed|could not resolve|fetch failed/i.test(message)) {
    return offline();
  }
  if (/expired|not open|unknown picture|no such picture/i.test(message)) return new ServerError(sentence(message), "expired");
  if (!message || /^(error|null|undefined)$/i.test(message) || /<html|Traceback|\bat \w+ \(/.test(message)) {
    return new ServerError("The server could not answer this. Try again.");
  }
  return new ServerError(sentence(message));
}

/** Begins with a capital letter and ends with a full stop. */
export function sentence(text) {
  const trimmed = text.trim().replace(/^(image|picture): /, "");
  const ended = /[.!?]$/.test(trimmed) ? trimmed : `${trimmed}.`;
  return ended.charAt(0).toUpperCase() + ended.slice(1);
}
