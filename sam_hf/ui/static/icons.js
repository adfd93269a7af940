/** Icons of 20 x 20, drawn in lines of the colour of the text. */

const LINES = {
  point: '<circle cx="10" cy="10" r="2.5" fill="currentColor" stroke="none"/><path d="M10 2v4M10 14v4M2 10h4M14 10h4"/>',
  box: '<path d="M3 6V3h3M14 3h3v3M17 14v3h-3M6 17H3v-3M9 3h2M9 17h2M3 9v2M17 9v2"/>',
  brush: '<path d="M17 3 8.5 11.5M7.6 11.2a3 3 0 0 1 1.9 3.3c-.4 1.9-2.3 2.7-6.5 2.5 1.6-1.1 1-2.4 1.5-4 .4-1.4 1.9-2.2 3.1-1.8Z"/>',
  text: '<path d="M4 6V4h12v2M10 4v12M7.5 16h5"/>',
  everything: '<rect x="3" y="3" width="5.5" height="5.5" rx="1.5"/><circle cx="14.25" cy="5.75" r="2.75"/><path d="m5.75 11.5 3 5.5H2.75Z"/><rect x="11.5" y="11.5" width="5.5" height="5.5" rx="2.75"/>',
  undo: '<path d="M7 4 3.5 7.5 7 11M3.5 7.5H12a4.25 4.25 0 0 1 0 8.5H8"/>',
  redo: '<path d="m13 4 3.5 3.5L13 11M16.5 7.5H8A4.25 4.25 0 0 0 8 16h4"/>',
  cutout: '<circle cx="5.5" cy="5.5" r="2.5"/><circle cx="5.5" cy="14.5" r="2.5"/><path d="m7.5 7 9 8M7.5 13l9-8"/>',
  eye: '<path d="M2 10s2.8-5 8-5 8 5 8 5-2.8 5-8 5-8-5-8-5Z"/><circle cx="10" cy="10" r="2.3"/>',
  hidden: '<path d="M8.3 5.2A9 9 0 0 1 10 5c5.2 0 8 5 8 5a14 14 0 0 1-2.3 2.8M5.3 6.7A13 13 0 0 0 2 10s2.8 5 8 5a8 8 0 0 0 3.6-.8M3 3l14 14"/>',
  help: '<circle cx="10" cy="10" r="7.5"/><path d="M7.8 7.8a2.3 2.3 0 1 1 3.3 2.1c-.8.4-1.1.8-1.1 1.6M10 14.2v.1"/>',
  open: '<path d="M3 15V5a1 1 0 0 1 1-1h4l2 2h6a1 1 0 0 1 1 1v8a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1ZM10 13.5v-5M7.7 10.5 10 8.2l2.3 2.3"/>',
  camera: '<path d="M3 6.5h3L7.5 4h5L14 6.5h3a.8.8 0 0 1 .8.8v8a.8.8 0 0 1-.8.7H3a.8.8 0 0 1-.8-.7v-8a.8.8 0 0 1 .8-.8Z"/><circle cx="10" cy="11" r="2.7"/>',
  edit: '<path d="m4 16 .6-3L13.5 4.1a1.4 1.4 0 0 1 2 0l.4.4a1.4 1.4 0 0 1 0 2L7 15.4Z"/>',
  remove: '<path d="M4 6h12M8 6V4h4v2M5.5 6l.7 10h7.6l.7-10M8.5 9v4.5M11.5 9v4.5"/>',
  close: '<path d="m5 5 10 10M15 5 5 15"/>',
  check: '<path d="m4 10.5 4 4 8-9"/>',
  plus: '<path d="M10 4v12M4 10h12"/>',
  minus: '<path d="M4 10h12"/>',
  fit: '<path d="M3 7V3h4M13 3h4v4M17 13v4h-4M7 17H3v-4"/>',
  download: '<path d="M10 3v9M6.5 8.8 10 12.3l3.5-3.5M3.5 14.5v2h13v-2"/>',
  search: '<circle cx="9" cy="9" r="5"/><path d="m13 13 4 4"/>',
  background: '<path d="M3 3h4v4H3zM7 7h4v4H7zM3 11h4v4H3zM11 3h4v4h-4z" opacity=".5"/><circle cx="12" cy="9" r="2.5"/><path d="M7.5 17a4.5 4.5 0 0 1 9 0"/>',
  features: '<path d="M4 16V9M8 16V4M12 16v-5M16 16V7"/>',
  settings: '<path d="M3 6h7M14 6h3M3 14h3M10 14h7"/><circle cx="12" cy="6" r="2"/><circle cx="8" cy="14" r="2"/>',
  chevron: '<path d="m6 8 4 4 4-4"/>',
};

/** Puts an icon in front of what an element holds. */
export function putIcon(element, name) {
  element.querySelector(":scope > svg")?.remove();
  const template = document.createElement("template");
  template.innerHTML =
    `<svg viewBox="0 0 20 20" width="20" height="20" fill="none" stroke="currentColor" stroke-width="1.5" ` +
    `stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" focusable="false">${LINES[name]}</svg>`;
  element.prepend(template.content);
}

/** Draws all icons that the markup asks for by data-icon. */
export function putIcons(root) {
  for (const element of root.querySelectorAll("[data-icon]")) putIcon(element, element.dataset.icon);
}
