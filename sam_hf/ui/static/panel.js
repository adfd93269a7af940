/**
 * The panel beside the picture: masks on offer, prompts that hold, what was found, kept objects (object_rows.js). Built
 * anew where something has changed. What people typed and files' names are set as text, never as markup.
 */
import { make } from "./elements.js";
import { putIcon } from "./icons.js";
import { ObjectRows } from "./object_rows.js";
import { paintingOf } from "./prompts.js";
import { percent } from "./speech.js";

export class Panel {
  constructor(part, app) {
    this.part = part;
    this.app = app;
    this.drawn = {};
    this.rows = new ObjectRows(part("objects"), app);
  }

  /** Calls `build` if one of the values differs from those of the last time. */
  when(name, values, build) {
    const before = this.drawn[name];
    if (before && before.length === values.length && before.every((value, index) => Object.is(value, values[index]))) return;
    this.drawn[name] = values;
    build();
  }

  render() {
    const { app } = this;
    const { document, finder } = app;
    this.when("chips", [app.answer, app.selected, app.isAsking && !app.answer, app.isReady, document.steps.length > 0], () => this.chips());
    this.when("prompts", [document.steps], () => this.prompts());
    this.when("objects", [document.objects, document.selected, document.editing, app.keeper.drawn], () => this.objects());
    this.when("finds", [finder.shown, finder.note, finder.progress], () => this.finds());
  }

  chips() {
    const { app } = this;
    const { answer } = app;
    const box = this.part("chips");
    const hadFocus = box.contains(document.activeElement);
    if (!answer) {
      const words = app.isAsking ? "Decoding…" : app.isReady ? "Point at something in the picture." : "";
      box.replaceChildren(make("p", { textContent: words }));
    } else {
      const part = partOf(answer.candidates, app.stage.size);
      const chips = answer.candidates.map((candidate, index) => this.chip(candidate, index, part));
      box.replaceChildren(...chips);
      if (hadFocus) chips[app.selected].focus();
    }
    this.part("app").querySelector("[data-action=keep]").disabled = !answer;
    this.part("app").querySelector("[data-action=clear]").disabled = !app.document.steps.length && !app.document.editing;
  }

  chip(candidate, index, part) {
    const { app } = this;
    const thumb = make("canvas", { width: 160, height: 96, "aria-hidden": "true" });
    drawThumb(thumb, app.stage, candidate.path, part);
    const score = make("span", {}, candidate.score.toFixed(2), make("i", { textContent: percent(candidate.share) }));
    const words = `Mask ${index + 1}, score ${candidate.score.toFixed(2)}, ${percent(candidate.share)} of the picture`;
    const pressed = String(index === app.selected);
    return make("button", { type: "button", "aria-pressed": pressed, "aria-label": words, title: words, onclick: () => app.choose(index) }, thumb, score);
  }

  prompts() {
    const { app } = this;
    const step = app.document.steps.at(-1);
    const chips = [];
    const add = (words, remove) => {
      const button = make("button", { type: "button", "aria-label": `Take back: ${words}`, title: `Take back: ${words}`, onclick: remove });
      button.append(make("span", { textContent: words }));
      const cross = make("b");
      putIcon(cross, "close");
      button.append(...cross.children);
      chips.push(button);
    };
    step?.points.forEach((_, index) => add(`${step.labels[index] ? "+" : "−"} ${index + 1}`, () => app.dropPoint(index)));
    if (step?.box) add("Box", () => app.dropKind("box"));
    if (paintingOf(app.document.steps)) add("Painting", () => app.dropKind("brush"));
    if (step?.text) add(`“${step.text}”`, () => app.dropKind("text"));
    const box = this.part("prompts");
    const place = [...box.children].indexOf(document.activeElement);
    box.replaceChildren(...chips);
    if (place >= 0) chips[Math.min(place, chips.length - 1)]?.focus(); // the next one
  }

  objects() {
    const { objects } = this.app.document;
    this.rows.render();
    this.part("count").textContent = objects.length ? String(objects.length) : "";
    this.part("no-objects").hidden = objects.length > 0;
  }

  finds() {
    const { app } = this;
    const { finder } = app;
    const section = this.part("finds");
    const wasHidden = section.hidden;
    section.hidden = !finder.note || finder.progress !== null;
    if (section.hidden) return;
    if (wasHidden) requestAnimationFrame(() => (section.parentElement.scrollTop = section.offsetTop)); // where it scrolls
    const buttons = finder.shown.length
      ? [
          make("button", { type: "button", className: "sam-button sam-small sam-grow", textContent: "Keep all", onclick: () => finder.keepAll() }),
          make("button", { type: "button", className: "sam-button sam-small", textContent: "Let go", onclick: () => finder.stop() }),
        ]
      : [make("button", { type: "button", className: "sam-button sam-small", textContent: "Close", onclick: () => finder.stop() })];
    if (finder.others.length) {
      const words = `Show ${finder.others.length} ${finder.others.length === 1 ? "other" : "others"}`;
      buttons.splice(-1, 0, make("button", { type: "button", className: "sam-button sam-small", textContent: words, onclick: () => finder.showOthers() }));
    }
    const list = make("ul", { "aria-label": "Found masks" }, ...finder.shown.map((found) => this.found(found)));
    const hadFocus = section.contains(document.activeElement);
    const place = [...section.querySelectorAll("li")].findIndex((item) => item.contains(document.activeElement));
    const scrolled = section.querySelector("ul")?.scrollTop ?? 0;
    section.replaceChildren(make("p", { textContent: finder.note }), make("div", { className: "sam-row" }, ...buttons), list);
    list.scrollTop = scrolled;
    if (place >= 0) (list.children[Math.min(place, list.children.length - 1)]?.firstChild ?? buttons[0]).focus(); // the next one
    else if (hadFocus) buttons[0].focus();
  }

  /** A found mask by its name: to point at it without a mouse, and to see how sure its name is. */
  found(found) {
    const { app } = this;
    const point = (at) => () => {
      app.finder.hovered = at;
      app.changed();
    };
    const swatch = make("i", { "aria-hidden": "true" });
    swatch.style.background = found.color;
    const about = found.likely === undefined ? `${found.detail} of the picture` : `${found.detail} likely`;
    return make("li", {}, make("button", {
      type: "button", "aria-label": `Keep ${found.title}, ${about}`, onclick: () => app.finder.keep(found),
      onmouseenter: point(found), onmouseleave: point(null), onfocus: point(found), onblur: point(null),
    }, swatch, make("span", { textContent: found.title }), make("small", { textContent: found.detail })));
  }
}

/** The part of the picture that the masks on offer are in, dimmed, and one of them. */
function drawThumb(canvas, stage, path, part) {
  if (!stage.bitmap) return;
  const context = canvas.getContext("2d");
  const [height, width] = stage.size;
  const [left, top, right, bottom] = part;
  const scale = Math.min(canvas.width / (right - left), canvas.height / (bottom - top));
  const [x, y] = [(canvas.width - (right + left) * scale) / 2, (canvas.height - (bottom + top) * scale) / 2];
  context.setTransform(scale, 0, 0, scale, x, y);
  context.beginPath();
  context.rect(0, 0, width, height);
  context.clip();
  context.globalAlpha = 0.3;
  context.drawImage(stage.bitmap, 0, 0, width, height);
  context.globalAlpha = 1;
  context.clip(path, "evenodd");
  context.drawImage(stage.bitmap, 0, 0, width, height);
}

/** What all masks on offer lie in, with a margin, inside the picture. */
function partOf(candidates, [height, width]) {
  const bounds = candidates.map((candidate) => candidate.bounds).filter(Boolean);
  if (!bounds.length) return [0, 0, width, height];
  const margin = Math.max(...bounds.map(([left, top, right, bottom]) => Math.max(right - left, bottom - top))) / 8 + 4;
  const least = (index) => Math.max(0, Math.min(...bounds.map((one) => one[index])) - margin);
  const most = (index, limit) => Math.min(limit, Math.max(...bounds.map((one) => one[index])) + margin);
  return [least(0), least(1), most(2, width), most(3, height)];
}
