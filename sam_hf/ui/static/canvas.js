/**
 * The page: `mount` puts app, stage, panel, keys and pointer together and wires the buttons of canvas.html.
 *
 * Reads from Gradio: props.examples, props.default_checkpoint, props.value {image, session}; tells it the session when
 * it changes.
 */
import { App } from "./app.js";
import { Decoders } from "./decoders.js";
import { iconButton, make } from "./elements.js";
import { Files } from "./files.js";
import { putIcons } from "./icons.js";
import { listenToKeys } from "./keys.js";
import { Panel } from "./panel.js";
import { checkFile, encode, openPicture } from "./picture_loading.js";
import { listenToPointers } from "./pointer.js";
import { Recovery } from "./recovery.js";
import { explained, Server, ServerError } from "./server.js";
import { fillHelp, HINTS, makeSpeech } from "./speech.js";
import { Stage } from "./stage.js";
import * as state from "./state.js";

/** @param {HTMLElement} element where canvas.html stands */
export async function mount(element, props, bridge) {
  await loadLook(`${bridge.base}/canvas.css`);
  const page = new Page(element, props, bridge);
  element.querySelector("[data-part=start]").hidden = true;
  page.part("app").hidden = false;
  page.part("app").page = page; // for the console, tests and benchmarks
  page.begin();
  return page;
}

function loadLook(href) {
  return new Promise((resolve) => {
    const link = make("link", { rel: "stylesheet", href, onload: resolve, onerror: resolve });
    document.head.append(link);
  });
}

class Page {
  constructor(element, props, bridge) {
    Object.assign(this, { element, props, bridge });
    this.part = (name) => element.querySelector(`[data-part="${name}"]`);
    this.server = new Server(bridge.root);
    this.stage = new Stage(this.part("stage"));
    this.app = new App({
      server: this.server,
      stage: this.stage,
      say: makeSpeech(this.part("status")),
      tell: (error, again) => this.tell(error, again),
      renew: (answers) => this.recovery.sendAgain(answers),
      lost: (answers, error) => this.decoders.lost(answers, error),
      changed: () => this.changed(),
    });
    this.app.help = () => this.part("help").showModal();
    this.app.openTool = (tool) => this.choose(tool);
    this.panel = new Panel(this.part, this.app);
    this.files = new Files(this);
    this.recovery = new Recovery(this);
    this.listening = new AbortController();
    this.ticket = null; // of the picture that is being opened
    this.decoders = new Decoders(this);
    this.decodesHere = null; // whether this browser makes the masks, once that is known
    this.source = null;
    this.origin = null; // what the server can be given again
    this.lastAnswers = null; // about the picture that is open, by whichever checkpoint
    this.again = null; // does once more what was cancelled
    this.told = null;
    this.saved = null; // the objects that were exported last
    this.wire();
  }

  // --- beginning -----------------------------------------------------------------------------------------------------

  async begin() {
    putIcons(this.part("app"));
    this.fillExamples();
    fillHelp(this.part("help"), iconButton("close", "Close help", () => this.part("help").close()));
    this.layout();
    this.changed();
    const { value, examples, default_checkpoint: first } = this.props;
    this.app.checkpoint = first;
    const opening = value?.image ? this.openValue(value) : examples?.length ? this.open({ example: examples[0] }) : null;
    if (!opening) this.part("empty").hidden = false;
    this.fillCheckpoints();
    await opening;
  }

  fillExamples() {
    const buttons = (this.props.examples ?? []).map((example) => {
      const url = this.absolute(example.url);
      const image = make("img", { src: url, alt: "", loading: "lazy", decoding: "async" });
      return make("button", {
        type: "button", title: example.title, "aria-label": `Example: ${example.title}`, "data-example": example.name,
        onclick: () => this.open({ example }),
      }, image);
    });
    this.part("examples").replaceChildren(...buttons);
    this.part("examples").hidden = !buttons.length;
  }

  absolute(url) {
    return url.startsWith("/") ? this.bridge.root + url : url;
  }

  async fillCheckpoints() {
    try {
      const { checkpoints } = await this.server.call("/checkpoints", {}, { seconds: 30 });
      this.checkpoints = checkpoints;
      const select = this.part("checkpoint");
      select.replaceChildren(...checkpoints.map(({ name, title }) => make("option", { value: name, textContent: title ?? name })));
      select.value = this.app.checkpoint;
      select.disabled = checkpoints.length < 2;
      this.showDevice();
    } catch (error) {
      this.tell(error, () => this.fillCheckpoints());
    }
  }

  showDecoding(isHere) {
    this.decodesHere = isHere;
    this.showDevice();
  }

  showDevice() {
    const chosen = this.checkpoints?.find(({ name }) => name === this.app.checkpoint);
    const here = this.decodesHere === false ? "masks by the server" : "masks in this browser";
    if (chosen) this.part("device").textContent = `${chosen.device} · ${String(chosen.dtype).replace("torch.", "")} · ${here}`;
  }

  // --- pictures ------------------------------------------------------------------------------------------------------

  /**
   * Opens a File, {example} or {file}; what was being opened before is let go. The picture that is open and its objects
   * stay until the new one is known to be good. `kept` are objects that the new one had before.
   */
  async open(source, kept = []) {
    try {
      if (source instanceof Blob) checkFile(source);
    } catch (error) {
      this.tell(error);
      return false;
    }
    const ticket = this.newTicket();
    this.again = () => this.open(source, kept);
    this.part("empty").hidden = true;
    this.dismiss();
    const { checkpoint } = this.app;
    const name = source.example?.title ?? source.name ?? "picture";
    const stays = this.app.isReady || this.app.document.objects.length > 0;
    if (!stays) this.show(source, null, null);
    const decoder = this.decoders.of(checkpoint); // on its way while the picture is
    let seen = null;
    const steps = {
      signal: ticket.signal,
      busy: (words, share) => this.ticket === ticket && this.busy(words, share),
      shown: (bitmap, size) => {
        if (this.ticket !== ticket) return bitmap.close();
        if (seen && seen.bitmap !== this.stage.bitmap) seen.bitmap.close();
        seen = { bitmap, size };
        return stays || this.show(source, bitmap, { name, size });
      },
    };
    try {
      const url = source.example && this.absolute(source.example.url);
      const opened = await openPicture(this.server, url ? { example: { ...source.example, url } } : source, checkpoint, steps);
      if (this.ticket !== ticket) throw new ServerError("Cancelled.", "cancelled");
      const unsaved = this.unsaved();
      if (stays) this.show(source, seen?.bitmap ?? null, { name, size: opened.size });
      const file = source.example?.name ?? source.name ?? opened.name;
      this.origin = source.example ? source : new File([opened.blob], file, { type: opened.blob.type });
      this.shownAs = { title: name, file, sha256: opened.sha256, sent: opened.sent };
      await this.opened(ticket, opened, decoder);
      if (this.ticket !== ticket) return false;
      if (kept.length) this.app.go({ ...this.app.document, objects: [...kept, ...this.app.document.objects] });
      if (unsaved) this.offerBack(unsaved);
    } catch (error) {
      if (seen && seen.bitmap !== this.stage.bitmap) seen.bitmap.close();
      this.failed(ticket, error, this.again);
    }
    return this.ticket === ticket && this.app.isReady;
  }

  /** Another picture, or nothing yet, in the place of the one before and of all that was made of it. */
  show(source, bitmap, picture) {
    this.source = source;
    this.lastAnswers = this.origin = this.image = null;
    this.decoders.forget();
    this.files.stop(); // of the picture before
    this.app.forgetPicture();
    this.stage.setPicture(bitmap, picture?.size ?? null, true);
    if (picture) this.app.showPicture(picture);
  }

  /** The open picture with its objects, if there are some and they were not exported. */
  unsaved() {
    const { picture, document } = this.app;
    const { objects } = document;
    return objects.length && objects !== this.saved ? { source: this.source, name: picture.name, objects } : null;
  }

  /** A picture that was dropped by mistake takes nobody's work away. */
  offerBack({ source, name, objects }) {
    const words = objects.length === 1 ? "1 object" : `${objects.length} objects`;
    this.tell(`${words} of ${name} had not been saved.`, () => this.open(source, objects), true, "Bring back");
  }

  newTicket() {
    this.ticket?.abort();
    this.ticket = new AbortController();
    return this.ticket;
  }

  failed(ticket, error, again) {
    if (this.ticket !== ticket || error.kind === "cancelled") return;
    this.busy(null);
    this.tell(error, again);
    if (!this.app.hasPicture) this.part("empty").hidden = false;
    this.changed();
  }

  /** The picture is encoded. */
  async opened(ticket, opened, decoder) {
    const { picture: key, size, resized, shape } = opened;
    if (this.stage.bitmap && String(this.stage.size) !== String(size)) this.stage.setPicture(this.stage.bitmap, size);
    const { title, file, sha256 } = this.shownAs;
    this.image = { name: opened.name ?? file, size, sha256 };
    this.app.showPicture({ name: title, size });
    const frame = { size, resized, padded: Math.max(...resized) };
    const picture = { key, frame, low: 4 * shape[2], textWidth: 0, origin: this.origin };
    const busy = (words) => this.ticket === ticket && this.busy(words);
    await this.decoders.attach({ picture, opened, checkpoint: this.app.checkpoint }, decoder, busy);
  }

  ready(picture, decoder) {
    this.app.ready(picture, decoder);
    this.lastAnswers = this.app.answers;
  }

  /** What Python has set: a picture, the objects of a session, or both. */
  async openValue({ image, session }) {
    const isOpen = image ? await this.open({ file: image, name: image.orig_name ?? "picture" }) : this.app.isReady;
    if (session && isOpen) this.showSession(session);
  }

  /** Another model for the same picture: kept objects stay, the object being made begins anew. */
  async changeCheckpoint(name) {
    const { app } = this;
    app.checkpoint = this.part("checkpoint").value = name;
    this.showDevice();
    if (!this.source) return;
    if (!this.lastAnswers) return void this.open(this.source);
    const ticket = this.newTicket();
    this.again = () => this.changeCheckpoint(name);
    this.dismiss();
    this.decoders.forget();
    app.answers = null;
    app.go(state.clear(app.document));
    try {
      const busy = (words, share) => this.ticket === ticket && this.busy(words, share);
      const asked = (how) => this.lastAnswers.stream("/embed", { checkpoint: name }, how);
      const opened = await encode(this.server, asked, { signal: ticket.signal, busy });
      if (this.ticket === ticket) await this.opened(ticket, opened, this.decoders.of(name));
    } catch (error) {
      this.failed(ticket, error, this.again);
    }
  }

  /** The objects of a session, or a sentence about what is wrong with it. */
  async showSession(session) {
    const { answers } = this.app;
    const { signal } = this.ticket;
    try {
      if (state.lacksMasks(session)) {
        this.busy("Decoding the session's prompts");
        const { objects } = await answers.call("/replay", { session }, { signal }).finally(() => this.busy(null));
        if (this.app.answers?.picture !== answers.picture) return;
        session = state.withMasks(session, objects);
      }
      this.app.go(state.documentOf(session, this.stage.size));
      this.app.say(`${this.app.document.objects.length} objects opened.`);
      const strange = state.strangeness(session, this.image, this.app.checkpoint);
      if (strange) this.tell(strange, null, true);
    } catch (error) {
      if (error.kind !== "cancelled") this.tell(error);
    }
  }

  session() {
    return state.sessionOf(this.app.document, this.image, this.app.checkpoint);
  }

  // --- what is seen --------------------------------------------------------------------------------------------------

  busy(words, share) {
    this.part("busy").hidden = !words;
    this.part("stage").setAttribute("aria-busy", String(Boolean(words)));
    if (!words) return;
    this.part("busy-text").textContent = share === undefined ? words : `${words}, ${Math.round(100 * share)} %`;
    const bar = this.part("busy-bar");
    if (share === undefined) bar.removeAttribute("value");
    else bar.value = share;
  }

  /** Shows a sentence; `again` is what its button does. */
  tell(error, again = null, isPlain = false, label = "Try again") {
    const shown = error instanceof ServerError || typeof error === "string" ? error : explained(error);
    this.part("message-text").textContent = shown.message ?? shown;
    this.part("message").hidden = false;
    this.part("message").classList.toggle("sam-plain", isPlain);
    this.retry = again;
    const button = this.element.querySelector("[data-action=retry]");
    button.hidden = !again;
    button.textContent = label;
    if (shown.kind === "offline") this.recovery.waitForServer(again);
  }

  dismiss() {
    this.part("message").hidden = true;
  }

  changed() {
    if (this.isStale) return;
    this.isStale = true;
    requestAnimationFrame(() => {
      this.isStale = false;
      const wasHere = this.element.contains(document.activeElement);
      this.render();
      const active = document.activeElement;
      // What had the focus is gone or can no longer be used, and nothing has taken its place: the picture has it then.
      const isLost = !active || active === document.body || active.disabled || active.checkVisibility?.() === false;
      if (wasHere && isLost) this.stage.overlay.focus({ preventScroll: true });
    });
  }

  render() {
    const { app } = this;
    this.stage.draw(app.scene());
    this.panel.render();
    const attribute = (selector, name, value) => {
      for (const button of this.element.querySelectorAll(selector)) button.setAttribute(name, String(value(button.dataset)));
    };
    attribute("[data-tool]", "aria-pressed", ({ tool }) => tool === app.tool);
    attribute("[data-sign]", "aria-pressed", ({ sign }) => (sign === "1") === app.adds);
    attribute("[data-action=hide]", "aria-pressed", () => app.isHidden);
    attribute("[data-action=cutout]", "aria-pressed", () => app.isCutout);
    attribute("[data-example]", "aria-pressed", ({ example }) => this.source?.example?.name === example);
    for (const field of this.element.querySelectorAll("[data-for]")) field.classList.toggle("sam-shown", field.dataset.for === app.tool);
    this.part("hint").textContent = HINTS[app.tool];
    this.part("hint").hidden = !HINTS[app.tool];
    this.part("signs").hidden = app.tool === "text" || app.tool === "everything" || app.tool === "box";
    this.part("stage").classList.toggle("sam-picking", app.finder.shown.length > 0);
    this.element.querySelector("[data-action=undo]").disabled = !app.history.past.length;
    this.element.querySelector("[data-action=redo]").disabled = !app.history.future.length;
    this.part("name").textContent = app.picture?.name ?? "No picture";
    this.part("about").textContent = app.picture ? `${app.picture.size[1]} × ${app.picture.size[0]} pixels` : "Open, drop or paste one";
    this.part("zoom").textContent = this.stage.view ? `${Math.round(100 * this.stage.view.scale)} %` : "100 %";
    const { progress } = app.finder;
    if (progress) this.busy(progress.words, progress.total ? progress.done / progress.total : undefined);
    else if (this.wasFinding) this.busy(null);
    this.wasFinding = progress !== null;
    this.tellGradio();
  }

  /** The session, to Python; a moment later, so that quick clicks are one message. */
  tellGradio() {
    if (!this.image || this.told === this.app.document || !this.isHeard) return;
    this.told = this.app.document;
    clearTimeout(this.telling);
    const { image } = this;
    this.telling = setTimeout(() => {
      if (this.image !== image) return; // another picture by now
      const { sent } = this.shownAs;
      this.sent = { image: sent.path ? sent : null, session: this.session() };
      this.props.value = this.sent;
    }, 400);
  }

  /** Whether Python listens to this canvas, or reads it for another event; a session is not copied about for nobody. */
  get isHeard() {
    const { components, dependencies } = window.gradio_config ?? {};
    if (!components || !dependencies) return true;
    const ours = new Set(components.filter(({ props }) => props?.props?.static_url === this.props.static_url).map(({ id }) => id));
    const names = ({ targets = [], inputs = [] }) => [...inputs, ...targets.map(([id]) => id)];
    return !ours.size || dependencies.some((dependency) => names(dependency).some((id) => ours.has(id)));
  }

  /** The page's height goes to the app: the picture is the stage. */
  layout() {
    const top = this.element.getBoundingClientRect().top + window.scrollY;
    this.part("app").style.setProperty("--height", `calc(100dvh - ${Math.round(Math.min(top, 160)) + 16}px)`);
  }

  // --- events --------------------------------------------------------------------------------------------------------

  wire() {
    const { app, stage, element } = this;
    const { signal } = this.listening;
    listenToPointers(stage, app, signal);
    listenToKeys(stage.overlay, app, signal);
    stage.drawn = () => (this.part("zoom").textContent = stage.view ? `${Math.round(100 * stage.view.scale)} %` : "100 %");
    const actions = {
      undo: () => app.undo(),
      redo: () => app.redo(),
      hide: () => app.toggle("hide"),
      cutout: () => app.toggle("cutout"),
      help: () => app.help(),
      open: () => this.part("file").click(),
      camera: () => this.files.camera(),
      keep: () => app.keep(),
      clear: () => app.go(state.clear(app.document)),
      cancel: () => this.cancel(),
      dismiss: () => this.dismiss(),
      retry: () => {
        this.dismiss();
        this.retry?.();
      },
      describe: () => this.phrase((text) => app.describe(text)),
      "open-session": () => this.part("session-file").click(),
      "zoom-in": () => stage.zoom(1.25),
      "zoom-out": () => stage.zoom(0.8),
      "zoom-fit": () => stage.fit(),
    };
    element.addEventListener("click", ({ target }) => {
      const { action, tool, sign, export: format } = target.closest("button")?.dataset ?? {};
      if (action) actions[action]?.();
      else if (tool) this.choose(tool);
      else if (sign) {
        app.adds = sign === "1";
        this.changed();
      } else if (format) this.files.export(format);
    }, { signal });
    this.wireFields(signal);
    this.files.listen(signal);
    this.bridge.watch("value", () => {
      const { value } = this.props;
      if (JSON.stringify(value) === JSON.stringify(this.sent)) return;
      if (value) this.openValue(value);
    });
    window.addEventListener("resize", () => this.layout(), { signal });
    window.addEventListener("beforeunload", (event) => {
      const { objects } = app.document;
      if (objects.length && objects !== this.saved) event.preventDefault(); // the browser asks whether to stay
    }, { signal });
    // Gradio has no event for a component that goes away.
    const gone = setInterval(() => {
      if (element.isConnected) return;
      clearInterval(gone);
      this.listening.abort();
      stage.observer.disconnect();
      this.decoders.close();
    }, 5000);
  }

  choose(tool) {
    this.app.setTool(tool);
    if (tool === "text" && matchMedia("(hover: hover)").matches) setTimeout(() => this.part("phrase").focus(), 30);
  }

  cancel() {
    if (this.app.finder.progress) return this.app.finder.stop();
    if (this.files.stop()) return this.app.say("Cancelled.");
    this.newTicket(); // whatever is being opened is not waited for any more
    this.busy(null);
    if (!this.app.isReady) this.tell("Cancelled.", this.again, true);
    return this.app.say("Cancelled.");
  }

  phrase(use) {
    const text = this.part("phrase").value.trim();
    if (text) use(text);
    else this.part("phrase").focus();
  }

  wireFields(signal) {
    const { app } = this;
    this.part("text-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.phrase((text) => app.finder.phrase(text));
    }, { signal });
    this.part("phrase").addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.stage.overlay.focus();
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.phrase((text) => app.describe(text));
    }, { signal });
    const options = [...this.element.querySelectorAll("[data-option]")];
    const show = ({ dataset, value }) => (this.element.querySelector(`[data-of="${dataset.option}"]`).textContent = value);
    for (const input of options) {
      show(input);
      input.addEventListener("input", () => show(input), { signal });
    }
    this.part("everything-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.part("settings").open = false;
      const names = this.part("names").value.split(/[,;\n]/).map((name) => name.trim()).filter(Boolean);
      app.finder.everything(Object.fromEntries(options.map((input) => [input.dataset.option, Number(input.value)])), names);
    }, { signal });
    this.part("brush-size").addEventListener("input", ({ target }) => (app.brushSize = Number(target.value)), { signal });
    this.part("checkpoint").addEventListener("change", ({ target }) => this.changeCheckpoint(target.value), { signal });
    document.addEventListener("click", ({ target }) => {
      if (!this.part("settings").contains(target)) this.part("settings").open = false;
    }, { signal });
  }
}
