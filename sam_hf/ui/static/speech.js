/** What a screen reader says, and the sentences that everybody reads. */

/** Says a sentence in the live region; the same one again is said again. */
export function makeSpeech(region) {
  let timer = null;
  return (sentence) => {
    clearTimeout(timer); // a mouse that moves on makes the sentence before stale
    timer = setTimeout(() => {
      region.textContent = region.textContent === sentence ? `${sentence}\u00a0` : sentence;
    }, 150);
  };
}

export const percent = (share) => `${share < 0.0995 ? (100 * share).toFixed(1) : Math.round(100 * share)} %`;

/** "mask 2 of 3, score 0.93, 12 % of image" */
export function maskSentence(answer, selected) {
  const { score, share } = answer.candidates[selected];
  return `mask ${selected + 1} of ${answer.candidates.length}, score ${score.toFixed(2)}, ${percent(share)} of image`;
}

export const HINTS = {
  point: "Hover to look, click to add, right-click to remove. Drag for a box.",
  box: "Drag a box around one object.",
  brush: "Paint roughly over the object; right-drag erases.",
  text: "",
  everything: "",
};

const KEYS = [
  ["Click", "adds the place to the object"],
  ["Right click, Shift + click, long press", "removes the place from it"],
  ["Drag", "makes a box"],
  ["Click on a marker", "takes the prompt back"],
  ["Tab, [ ], Alt + wheel", "goes through the three masks"],
  ["C, or Enter", "keeps the mask as an object"],
  ["Ctrl + Z, Ctrl + Shift + Z", "undo, redo"],
  ["Backspace", "takes back the last prompt"],
  ["Esc", "clears the prompts"],
  ["1 2 3 4 5", "point, box, brush, text, everything"],
  ["Arrow keys, Shift for 10 pixels", "move a crosshair; Enter adds there, Shift + Enter removes, B begins and ends a box"],
  ["E, Delete", "edits or deletes the selected object"],
  ["X, H", "cut-out, hide masks"],
  ["Ctrl + wheel, pinch", "zooms; Space + drag or two fingers move the picture"],
];

/** The sheet behind "?". */
export function fillHelp(dialog, closeIcon) {
  const header = document.createElement("header");
  const title = document.createElement("h2");
  title.textContent = "How to use it";
  header.append(title, closeIcon);
  const about = document.createElement("p");
  about.textContent =
    "Points, a box, a rough painting and a phrase together describe one object. Where a prompt is ambiguous, three " +
    "masks are offered: choose one, refine it with more clicks, keep it, and go on with the next object.";
  const list = document.createElement("dl");
  for (const [keys, what] of KEYS) {
    const term = document.createElement("dt");
    const meaning = document.createElement("dd");
    term.textContent = keys;
    meaning.textContent = what;
    list.append(term, meaning);
  }
  const privacy = document.createElement("p");
  privacy.className = "sam-quiet";
  privacy.textContent = "The server keeps pictures you open in memory for an hour after their last use, and on its disk, like files you save, for about two hours. Only this page knows their addresses.";
  dialog.replaceChildren(header, about, list, privacy);
}
