/**
 * Mouse, pen and fingers on the stage, as a few words to the app: hover, click, box, stroke, pan, zoom.
 *
 * A press that moves becomes a box (or a stroke of the brush); one that stays is a click, and by touch, if it stays
 * long, a click that removes. Two fingers move and zoom; so do the middle button, Space and Ctrl with the wheel.
 */
import { distance } from "./geometry.js";

const DRAG = 5; // stage pixels
const LONG_PRESS = 500; // milliseconds

/** @param app see canvas.js; @param {import("./stage.js").Stage} stage */
export function listenToPointers(stage, app, signal) {
  const canvas = stage.overlay;
  const fingers = new Map(); // pointerId -> [x, y] on the page
  let press = null; // {id, at, from, removes, kind: "click" | "drag" | "pan" | "done", timer}
  let lastMiddle = null;
  const on = (type, listener, options = {}) => canvas.addEventListener(type, listener, { signal, ...options });
  const where = (event) => [event.clientX, event.clientY];

  function begin(event) {
    const isMouse = event.pointerType === "mouse";
    const pans = isMouse && (event.button === 1 || app.spaceIsDown);
    const removes = event.button === 2 || event.shiftKey || (isMouse && event.ctrlKey && event.button === 0);
    press = { id: event.pointerId, at: where(event), from: stage.place(event), removes, kind: pans ? "pan" : "click" };
    if (pans) return stage.element.classList.add("sam-panning");
    if (app.tool === "brush") {
      press.kind = "drag";
      app.beginStroke(press.from, removes);
    } else if (!isMouse && app.tool === "point") {
      press.timer = setTimeout(() => {
        if (press?.kind !== "click") return;
        press.kind = "done";
        navigator.vibrate?.(15);
        app.click(press.from, true);
      }, LONG_PRESS);
    }
  }

  function move(event) {
    if (!press) return event.pointerType === "touch" ? undefined : app.hover(stage.place(event));
    if (press.id !== event.pointerId) return undefined;
    if (press.kind === "pan") {
      stage.pan(event.clientX - press.at[0], event.clientY - press.at[1]);
      press.at = where(event);
    } else if (press.kind === "click" && distance(press.at, where(event)) > DRAG && app.canDrag) {
      press.kind = "drag";
    }
    if (press.kind !== "drag") return undefined;
    if (app.tool !== "brush") return app.dragBox(press.from, stage.place(event), false);
    const passed = event.getCoalescedEvents?.() ?? [];
    return app.continueStroke((passed.length ? passed : [event]).map((one) => stage.place(one)));
  }

  function end(event) {
    if (press?.id !== event.pointerId) return;
    const { kind, from, removes, timer } = press;
    clearTimeout(timer);
    press = null;
    stage.element.classList.remove("sam-panning");
    if (kind === "click") app.click(from, removes);
    else if (kind === "drag" && app.tool === "brush") app.endStroke();
    else if (kind === "drag") app.dragBox(from, stage.place(event), true);
  }

  function drop() {
    clearTimeout(press?.timer);
    if (press?.kind === "drag") app.dropDrag();
    press = null;
    stage.element.classList.remove("sam-panning");
  }

  /** Two fingers: their middle moves the picture, their distance zooms it. */
  function pinch() {
    const [first, second] = [...fingers.values()];
    const { left, top } = canvas.getBoundingClientRect();
    const middle = [(first[0] + second[0]) / 2 - left, (first[1] + second[1]) / 2 - top];
    const apart = Math.max(1, distance(first, second));
    if (lastMiddle) {
      stage.pan(middle[0] - lastMiddle.at[0], middle[1] - lastMiddle.at[1]);
      stage.zoom(apart / lastMiddle.apart, middle);
    }
    lastMiddle = { at: middle, apart };
  }

  on("pointerdown", (event) => {
    if (!app.hasPicture) return;
    stage.element.classList.add("sam-pointed");
    app.dropCrosshair();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    if (event.pointerType === "touch") fingers.set(event.pointerId, where(event));
    if (fingers.size === 2) {
      drop();
      lastMiddle = null;
      pinch(); // from here on
    } else if (fingers.size < 2 && !press) begin(event);
  });
  on("pointermove", (event) => {
    if (!app.hasPicture) return;
    if (fingers.has(event.pointerId)) fingers.set(event.pointerId, where(event));
    if (fingers.size === 2) pinch();
    else move(event);
  });
  on("pointerup", (event) => {
    fingers.delete(event.pointerId);
    lastMiddle = null; // a third finger has gone
    end(event);
  });
  on("pointercancel", (event) => {
    fingers.delete(event.pointerId);
    drop();
  });
  on("pointerleave", () => app.leave());
  on("contextmenu", (event) => event.preventDefault());
  on("auxclick", (event) => event.preventDefault());
  on("dragstart", (event) => event.preventDefault());
  on(
    "wheel",
    (event) => {
      if (!app.hasPicture) return;
      if (event.altKey) {
        event.preventDefault();
        app.cycle(event.deltaY > 0 || event.deltaX > 0 ? 1 : -1);
      } else if (event.ctrlKey || event.metaKey) {
        event.preventDefault();
        const { left, top } = canvas.getBoundingClientRect();
        stage.zoom(Math.exp(-event.deltaY / (event.deltaMode ? 20 : 300)), [event.clientX - left, event.clientY - top]);
      }
    },
    { passive: false },
  );
}
