/**
 * The list of kept objects. A row is made once and changed in place, so that whatever arrives meanwhile takes nothing
 * from somebody who types a name, picks a colour or drags a slider in it.
 */
import { iconButton, make } from "./elements.js";
import { putIcon } from "./icons.js";
import { LONGEST_NAME } from "./state.js";

const AREAS = [0, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000];
const DETAILS = Array.from({ length: 11 }, (_, index) => index / 10);
const pixels = (value) => (value ? `${value < 1000 ? value : `${value / 1000}k`} px` : "off");
const share = (value) => `${Math.round(100 * value)} %`;

export class ObjectRows {
  constructor(list, app) {
    this.list = list;
    this.app = app;
    this.rows = new Map(); // id -> row
    this.scrolled = null;
  }

  /** Makes the list what the document says; focus that was in a row that is gone goes to the one in its place. */
  render() {
    const { app, list } = this;
    const { objects, selected } = app.document;
    const active = document.activeElement;
    const place = [...list.children].findIndex((item) => item.contains(active));
    const ids = new Set(objects.map(({ id }) => id));
    for (const [id, row] of this.rows) {
      if (ids.has(id)) continue;
      row.item.remove();
      this.rows.delete(id);
    }
    objects.forEach((object, index) => {
      if (!this.rows.has(object.id)) this.rows.set(object.id, new Row(object.id, app));
      const row = this.rows.get(object.id);
      if (list.children[index] !== row.item) list.insertBefore(row.item, list.children[index] ?? null);
      row.update(object, object.id === selected);
    });
    if (place >= 0 && !active.isConnected) this.focusAt(place, active.dataset.place);
    if (this.scrolled !== selected) this.rows.get(selected)?.item.scrollIntoView({ block: "nearest" });
    this.scrolled = selected;
  }

  focusAt(place, what) {
    const item = this.list.children[Math.min(place, this.list.children.length - 1)];
    (item?.querySelector(`[data-place="${what}"]`) ?? this.app.stage.overlay).focus();
  }
}

class Row {
  constructor(id, app) {
    this.id = id;
    this.app = app;
    const update = (values) => app.update(id, values);
    const place = (what) => ({ "data-place": what });
    this.swatch = make("input", { type: "color", onchange: ({ target }) => update({ color: target.value }), ...place("color") });
    this.name = make("input", {
      type: "text", className: "sam-name", maxLength: LONGEST_NAME, ...place("name"),
      onfocus: () => app.select(id),
      onchange: () => this.rename(),
      onblur: () => (this.name.value = this.object.name),
      onkeydown: (event) => event.key === "Enter" && this.name.blur(),
    });
    this.share = make("small");
    this.hide = iconButton("eye", "", () => update({ hidden: !this.object.hidden }), place("hide"));
    this.edit = iconButton("edit", "", () => app.edit(id), place("edit"));
    this.remove = iconButton("remove", "", () => app.remove(id), place("remove"));
    const row = make("div", { className: "sam-row" }, this.swatch, this.name, this.share, this.hide, this.edit, this.remove);
    row.addEventListener("click", ({ target }) => (target === row || target === this.share ? app.select(id) : undefined));
    this.item = make("li", {}, row);
    this.sliders = [];
    this.object = {};
  }

  rename() {
    const name = this.name.value.trim();
    if (name && name !== this.object.name) this.app.update(this.id, { name });
    if (name) this.object = { ...this.object, name }; // what leaving the field shows
  }

  update(object, isSelected) {
    const before = this.object;
    this.object = object;
    const { name, color, hidden } = object;
    const isTyping = document.activeElement === this.name && this.name.value !== before.name;
    if (!isTyping && this.name.value !== name) this.name.value = name;
    if (before.color !== color) this.swatch.value = color;
    if (before.rle !== object.rle) this.share.textContent = this.app.drawing(object.rle).share;
    if (this.labelled !== name || before.hidden !== hidden) this.label(name, hidden);
    this.item.dataset.selected = String(isSelected);
    if (isSelected && !this.sliders.length) this.addSliders();
    if (!isSelected && this.sliders.length) {
      this.sliders = [];
      this.item.lastChild.remove();
    }
    for (const slider of this.sliders) slider.update(object);
  }

  label(name, hidden) {
    this.labelled = name;
    const hide = hidden ? `Show ${name}` : `Hide ${name}`;
    const words = { swatch: `Colour of ${name}`, name: `Name of ${name}`, hide, edit: `Edit ${name}`, remove: `Delete ${name}` };
    for (const [key, label] of Object.entries(words)) {
      this[key].setAttribute("aria-label", label);
      if (this[key].tagName === "BUTTON") this[key].title = label;
    }
    putIcon(this.hide, hidden ? "hidden" : "eye");
    this.item.className = hidden ? "sam-off" : "";
  }

  /** How detailed the exported outline is, and how many corners it has where that is known. */
  detail(value) {
    const known = value === this.object.polygon_detail ? this.app.keeper.polygonOf(this.id) : null;
    return known ? `${share(value)}, ${known.corners}` : share(value);
  }

  addSliders() {
    const { id, app } = this;
    const refine = (values) => app.refine(id, values);
    this.sliders = [
      new Slider("Fill holes", "fill_holes", AREAS, pixels, refine),
      new Slider("Drop islands", "drop_islands", AREAS, pixels, refine),
      new Slider("Polygon detail", "polygon_detail", DETAILS, (value) => this.detail(value), (values) => app.update(id, values)),
    ];
    this.item.append(make("div", { className: "sam-sliders" }, ...this.sliders.map(({ label }) => label)));
  }
}

class Slider {
  /** @param values what its places mean; @param tell a value in words; @param set what to do with {key: value} */
  constructor(words, key, values, tell, set) {
    Object.assign(this, { words, key, values, tell });
    this.shown = undefined; // the object's value when it was shown last
    this.wanted = null; // what a person has chosen while the object does not have it yet
    this.output = make("output");
    this.input = make("input", {
      type: "range", min: 0, max: values.length - 1, step: 1, "data-place": key,
      oninput: () => {
        this.wanted = values[this.input.value];
        this.output.textContent = tell(this.wanted);
        this.input.setAttribute("aria-valuetext", tell(this.wanted));
      },
      onchange: () => set({ [key]: values[this.input.value] }),
    });
    this.label = make("label", {}, words, this.input, this.output);
  }

  update(object) {
    const value = object[this.key];
    this.input.setAttribute("aria-label", `${this.words} of ${object.name}`);
    if (this.wanted !== null && value === this.shown && value !== this.wanted) return;
    this.wanted = null;
    this.shown = value;
    const words = this.tell(value);
    if (this.output.textContent !== words) this.output.textContent = words;
    this.input.setAttribute("aria-valuetext", /, /.test(words) ? `${words} corners` : words);
    this.output.title = /, /.test(words) ? `${words.split(", ")[1]} corners` : "";
    this.input.value = Math.max(0, this.values.findIndex((one) => one >= value));
  }
}
