/**
 * The panel beside the picture: masks on offer, prompts that hold, kept objects. Built anew where something changed,
 * never while somebody is typing in it. What people typed and files' names are set as text, never as markup.
 */
import { putIcon } from "./icons.js";
import { paintingOf } from "./prompts.js";
import { percent } from "./speech.js";

/** An element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** A small button with an icon. */
export function iconButton(icon, label, onclick, properties = {}) {
  const button = make("button", { type: "button", className: "sam-icon", "aria-label": label, title: label, onclick, ...properties });
  putIcon(button, icon);
  return button;
}

export class Panel {
  constructor(part, app) {
    this.part = part;
    this.app = app;
    this.drawn = {};
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
    this.when("objects", [document.objects, document.selected, document.editing], () => this.objects());
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
    this.part("prompts").replaceChildren(...chips);
  }

  objects() {
    const { app } = this;
    const { objects, selected } = app.document;
    const list = this.part("objects");
    const typing = list.contains(document.activeElement) ? document.activeElement.dataset.place : null;
    list.replaceChildren(...objects.map((object) => this.object(object, object.id === selected)));
    if (typing) list.querySelector(`[data-place="${typing}"]`)?.focus();
    this.part("count").textContent = objects.length ? String(objects.length) : "";
    this.part("no-objects").hidden = objects.length > 0;
    if (this.drawn.scrolled !== selected) list.querySelector("[data-selected=true]")?.scrollIntoView({ block: "nearest" });
    this.drawn.scrolled = selected;
  }

  object(object, isSelected) {
    const { app } = this;
    const { id, name, color, hidden } = object;
    const place = (what) => ({ "data-place": `${id} ${what}` });
    const swatch = make("input", { type: "color", value: color, "aria-label": `Colour of ${name}`, onchange: ({ target }) => app.update(id, { color: target.value }), ...place("color") });
    const label = make("input", {
      type: "text", className: "sam-name", value: name, maxLength: 120, "aria-label": `Name of ${name}`, ...place("name"),
      onfocus: () => app.document.selected === id || app.select(id),
      onchange: ({ target }) => (target.value.trim() ? app.update(id, { name: target.value.trim() }) : (target.value = name)),
      onkeydown: (event) => event.key === "Enter" && event.target.blur(),
    });
    const share = make("small", { textContent: app.drawing(object.rle).share });
    const hide = iconButton(hidden ? "hidden" : "eye", hidden ? `Show ${name}` : `Hide ${name}`, () => app.update(id, { hidden: !hidden }), place("hide"));
    const edit = iconButton("edit", `Edit ${name}`, () => app.edit(id), place("edit"));
    const remove = iconButton("remove", `Delete ${name}`, () => app.remove(id), place("remove"));
    const row = make("div", { className: "sam-row" }, swatch, label, share, hide, edit, remove);
    const item = make("li", { className: hidden ? "sam-off" : "" }, row);
    item.dataset.selected = String(isSelected);
    row.addEventListener("click", ({ target }) => target === row || target === share ? app.select(id) : undefined);
    if (isSelected) item.append(this.sliders(object));
    return item;
  }

  sliders(object) {
    const { app } = this;
    const slider = (words, key, values, tell, set) => {
      const output = make("output", { textContent: tell(object[key]) });
      const at = Math.max(0, values.findIndex((value) => value >= object[key]));
      const input = make("input", {
        type: "range", min: 0, max: values.length - 1, step: 1, value: at, "aria-label": `${words} of ${object.name}`,
        "aria-valuetext": tell(object[key]), "data-place": `${object.id} ${key}`,
        oninput: ({ target }) => (output.textContent = tell(values[target.value])),
        onchange: ({ target }) => set({ [key]: values[target.value] }),
      });
      return make("label", {}, words, input, output);
    };
    const areas = [0, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000];
    const pixels = (value) => (value ? `${value < 1000 ? value : `${value / 1000}k`} px` : "off");
    const refine = (values) => app.refine(object.id, values);
    const details = Array.from({ length: 11 }, (_, index) => index / 10);
    return make(
      "div", { className: "sam-sliders" },
      slider("Fill holes", "fill_holes", areas, pixels, refine),
      slider("Drop islands", "drop_islands", areas, pixels, refine),
      slider("Polygon detail", "polygon_detail", details, (value) => `${Math.round(100 * value)} %`, (values) => app.update(object.id, values)),
    );
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
    const place = [...section.querySelectorAll("li")].findIndex((item) => item.contains(document.activeElement));
    const scrolled = section.querySelector("ul")?.scrollTop ?? 0;
    section.replaceChildren(make("p", { textContent: finder.note }), make("div", { className: "sam-row" }, ...buttons), list);
    list.scrollTop = scrolled;
    if (place >= 0) (list.children[Math.min(place, list.children.length - 1)]?.firstChild ?? buttons[0]).focus(); // the next one
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
