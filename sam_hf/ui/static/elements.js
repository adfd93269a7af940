/** Elements of the page that are made in JavaScript. What people typed is set as text, never as markup. */
import { putIcon } from "./icons.js";

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
