/** Files that come (chosen, dropped, pasted, photographed) and files that go (exports). */
import { make } from "./elements.js";
import { takePicture } from "./picture_loading.js";
import { ServerError } from "./server.js";

export class Files {
  /** @param page see canvas.js */
  constructor(page) {
    this.page = page;
    this.writing = null; // ticket of the file that is being written
  }

  take(files) {
    const [file] = [...files].filter(({ type, name }) => type.startsWith("image/") || /\.(tiff?|bmp|webp)$/i.test(name));
    const [session] = [...files].filter(({ name, type }) => /\.json$/i.test(name) || type === "application/json");
    if (file) this.page.open(file);
    else if (session) this.openSession(session);
    else if (files.length) this.page.tell("This is no picture. PNG, JPEG, WebP, TIFF, BMP and GIF are read.");
  }

  async camera() {
    const button = (words, look, onclick) => make("button", { type: "button", className: `sam-button ${look}`, textContent: words, onclick });
    const file = await takePicture(this.page.part("camera"), button);
    if (file) this.page.open(file);
    else if (file === undefined) this.page.part("file").click();
  }

  async openSession(file) {
    try {
      if (!this.page.app.isReady) throw new ServerError("Open the picture of this session first.");
      this.page.showSession(JSON.parse(await file.text()));
    } catch (error) {
      this.page.tell(error instanceof SyntaxError ? "This file is no session of this app." : error);
    }
  }

  async export(format) {
    const { app } = this.page;
    if (!app.isReady) return app.say("The picture is being encoded. One moment.");
    const needsObjects = !["background", "npy", "safetensors", "session"].includes(format);
    const isFeatures = format === "npy" || format === "safetensors";
    if (app.document.steps.length && !isFeatures && !(await app.keep())) { // what is seen is what is exported
      return this.page.tell("The mask that is being made could not be kept, so nothing was written. Keep or clear it first.", null, true);
    }
    await app.keeper.confirming;
    const objects = app.document.objects;
    if (needsObjects && !objects.length) return this.page.tell("There is nothing to export yet: click on something and keep its mask.", null, true);
    const button = this.page.element.querySelector(`[data-export="${format}"]`);
    button.setAttribute("aria-busy", "true");
    this.page.busy("Writing file");
    this.stop();
    const ticket = (this.writing = new AbortController());
    const { signal } = ticket;
    try {
      const shown = format === "background" || format === "cutout" ? objects.filter(({ hidden }) => !hidden) : objects;
      const data = { objects: shown.map(({ id, original, ...rest }) => rest), format, name: this.page.image.name };
      const file = await app.answers.call("/export", data, { signal });
      const url = URL.createObjectURL(await (await this.page.server.bytes(file, { signal })).blob());
      if (signal.aborted) return undefined;
      make("a", { href: url, download: file.orig_name ?? file.path.split("/").at(-1) }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60000);
      if (format !== "background" && !isFeatures) this.page.saved = objects;
      app.say("Saved.");
    } catch (error) {
      if (!signal.aborted) this.page.tell(error, () => this.export(format));
    } finally {
      button.removeAttribute("aria-busy");
      if (this.writing === ticket) {
        this.writing = null;
        this.page.busy(null);
      }
    }
    return undefined;
  }

  /** Cancels the file that is being written; true if there is one. */
  stop() {
    this.writing?.abort();
    return Boolean(this.writing);
  }

  listen(signal) {
    const { element } = this.page;
    for (const name of ["file", "session-file"]) {
      this.page.part(name).addEventListener("change", ({ target }) => {
        this.take(target.files);
        target.value = "";
      }, { signal });
    }
    document.addEventListener("paste", (event) => {
      if (event.target.closest?.("input[type=text], textarea, [contenteditable]")) return;
      const files = [...(event.clipboardData?.files ?? [])];
      if (!files.length) return;
      event.preventDefault();
      this.take(files);
    }, { signal });
    let depth = 0; // entering a child comes before leaving its parent
    const drop = (shown) => (this.page.part("drop").hidden = !shown);
    const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
    element.addEventListener("dragenter", (event) => carriesFiles(event) && drop(++depth > 0), { signal });
    element.addEventListener("dragleave", (event) => carriesFiles(event) && drop((depth = Math.max(0, depth - 1)) > 0), { signal });
    element.addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault(), { signal });
    element.addEventListener("drop", (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      drop((depth = 0) > 0);
      this.take(event.dataTransfer.files);
    }, { signal });
  }
}
