// @ts-check
/** A strength that is typed, stepped with the arrow keys, or scrubbed by dragging sideways. */

import { element } from "./dom.js";
import { STRENGTH_LIMIT, inRange, parseStrength } from "./stack_rows_state.js";

export const STEP = 0.05; // factor; of an arrow key and of a scrub's detent
const FINE_STEP = 0.01; // factor; with Shift
const COARSE_STEP = 0.5; // factor; Page Up and Page Down
const PIXELS_PER_STEP = 4;
const SLACK = 3; // pixels moved before a press becomes a scrub

/**
 * @param {{
 *   label: string, title: string, value: number, changed: (strength: number) => void, settled: () => void,
 * }} given
 */
export function strengthField({ label, title, value, changed, settled }) {
  const field = element("input", { type: "text", inputMode: "decimal", title, ariaLabel: label, spellcheck: false });
  field.className = "lora-loom-strength";
  field.autocomplete = "off";
  field.setAttribute("role", "spinbutton");
  field.ariaValueMin = String(-STRENGTH_LIMIT);
  field.ariaValueMax = String(STRENGTH_LIMIT);
  let strength = value;
  const show = () => {
    field.value = shown(strength);
    field.ariaValueNow = String(strength);
    field.classList.remove("lora-loom-wrong-number");
  };
  const set = (/** @type {number} */ next) => {
    strength = inRange(next);
    show();
    changed(strength);
  };
  field.addEventListener("input", () => {
    const typed = parseStrength(field.value);
    field.classList.toggle("lora-loom-wrong-number", typed === null);
    if (typed !== null) changed((strength = typed));
  });
  field.addEventListener("change", () => {
    show();
    settled();
  });
  field.addEventListener("blur", show);
  field.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? FINE_STEP : STEP;
    /** @type {Record<string, number>} */
    const steps = { ArrowUp: step, ArrowDown: -step, PageUp: COARSE_STEP, PageDown: -COARSE_STEP };
    if (event.altKey || !(event.key in steps)) return;
    event.preventDefault();
    event.stopPropagation();
    set(strength + steps[event.key]);
    settled();
  });
  scrub(field, {
    start: () => strength,
    moved: (start, steps, fine) => set(start + steps * (fine ? FINE_STEP : STEP)),
    settled,
    clicked: () => {
      field.focus();
      field.select();
    },
  });
  show();
  return field;
}

/**
 * Turns a sideways drag on an element into steps; a press without a drag is a click.
 * @param {HTMLElement} handle
 * @param {{
 *   start: () => number, moved: (start: number, steps: number, fine: boolean) => void, settled: () => void,
 *   clicked?: () => void,
 * }} given
 */
export function scrub(handle, { start, moved, settled, clicked }) {
  handle.classList.add("lora-loom-scrub");
  handle.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || document.activeElement === handle) return;
    event.preventDefault(); // the press must not put the caret before it is known to be a click
    const from = start();
    let scrubbed = false;
    const move = (/** @type {PointerEvent} */ now) => {
      const distance = now.clientX - event.clientX;
      scrubbed ||= Math.abs(distance) > SLACK;
      if (scrubbed) moved(from, Math.round(distance / PIXELS_PER_STEP), now.shiftKey);
    };
    const end = () => {
      handle.removeEventListener("pointermove", move);
      handle.classList.remove("lora-loom-scrubbed");
      if (scrubbed) settled();
      else clicked?.();
    };
    handle.setPointerCapture(event.pointerId);
    handle.classList.add("lora-loom-scrubbed");
    handle.addEventListener("pointermove", move);
    handle.addEventListener("lostpointercapture", end, { once: true });
  });
}

/** @param {number} strength */
function shown(strength) {
  return Number.isInteger(strength * 100) ? strength.toFixed(2) : String(strength);
}
