/** Keys on the picture. They count while the picture has the focus, so that typing a phrase never triggers them. */

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const TOOLS = { 1: "point", 2: "box", 3: "brush", 4: "text", 5: "everything" };

/** What a key means to the app; true if it was one of ours. */
export function pressKey(app, event) {
  const { key, shiftKey, ctrlKey, metaKey, altKey } = event;
  const letter = key.length === 1 ? key.toLowerCase() : key;
  if (ctrlKey || metaKey) {
    if (letter === "z") return done(shiftKey ? app.redo() : app.undo());
    if (letter === "y") return done(app.redo());
    return false;
  }
  if (altKey) return false;
  if (MOVES[key]) {
    const step = shiftKey ? 10 : 1;
    return done(app.moveCrosshair(MOVES[key][0] * step, MOVES[key][1] * step));
  }
  if (TOOLS[key]) return done(app.openTool(TOOLS[key]));
  switch (letter) {
    case "Enter":
      return done(app.crosshair ? app.click(app.crosshair, shiftKey) : app.keep());
    case "Tab":
      return app.tab(shiftKey ? -1 : 1); // past the last mask the focus moves on: nobody is held here
    case "[":
      return done(app.cycle(-1));
    case "]":
      return done(app.cycle(1));
    case "b":
      return done(app.cornerHere());
    case "c":
      return done(app.keep());
    case "e":
      return done(app.editSelected());
    case "h":
      return done(app.toggle("hide"));
    case "x":
      return done(app.toggle("cutout"));
    case "?":
      return done(app.help());
    case "Backspace":
      return done(app.dropPrompt());
    case "Delete":
      return done(app.deleteSelected());
    case "Escape":
      return done(app.escape());
    case "+":
    case "=":
      return done(app.zoom(1.25));
    case "-":
      return done(app.zoom(0.8));
    case "0":
      return done(app.zoom(0));
    default:
      return false;
  }
}

const done = () => true;

export function listenToKeys(canvas, app, signal) {
  canvas.addEventListener(
    "keydown",
    (event) => {
      canvas.parentElement.classList.remove("sam-pointed");
      if (event.key === " ") {
        app.spaceIsDown = true;
        event.preventDefault();
      } else if (app.hasPicture ? pressKey(app, event) : event.key === "?" && pressKey(app, event)) {
        event.preventDefault();
      }
    },
    { signal },
  );
  const release = (event) => {
    if (event.type === "blur" || event.key === " ") app.spaceIsDown = false;
  };
  canvas.addEventListener("keyup", release, { signal });
  canvas.addEventListener("blur", release, { signal });
}
