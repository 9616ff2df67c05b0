// @ts-check
/** Edits the curve of a LoRA Schedule in its node: points to drag, and the text that they are. */

import { element } from "./dom.js";
import { t } from "./page_text.js";
import * as state from "./schedule_state.js";
import { TextEditor } from "./text_editor.js";

/** @typedef {import("./schedule_state.js").Point} Point */

const SVG = "http://www.w3.org/2000/svg";
const DETENT = 0.01; // of position and factor, while a point is dragged
const HEIGHT = 210; // pixels
/** @type {Record<string, [number, number]>} steps of position and factor */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

/** The editor of one node. The text is the truth; the points are read from it and written to it. */
export class ScheduleEditor extends TextEditor {
  /** @type {Point[]} */
  #points = [];
  /** @type {import("./schedule_state.js").Range} */
  #range = { low: 0, high: 1.5 };
  #surroundings;
  #curve = document.createElementNS(SVG, "path");
  #one = document.createElementNS(SVG, "path");
  #plot = element("div", { className: "lora-loom-plot", title: t("curveHint") });
  #high = element("span");
  #low = element("span");
  #area = element("textarea", { spellcheck: false, ariaLabel: t("curveText") });
  #hint = element("p", { className: "lora-loom-quiet", ariaLive: "polite" });
  /** @type {HTMLButtonElement[]} */
  #handles = [];

  /**
   * @param {{changed: (text: string) => void, settled: () => void}} surroundings whom to tell of every edit, and of the
   *   end of one, which is a step that can be undone
   */
  constructor(surroundings) {
    super();
    this.#surroundings = surroundings;
    const picture = document.createElementNS(SVG, "svg");
    picture.setAttribute("viewBox", "0 0 1 1");
    picture.setAttribute("preserveAspectRatio", "none");
    picture.setAttribute("aria-hidden", "true");
    this.#one.setAttribute("class", "lora-loom-faint");
    this.#curve.setAttribute("class", "lora-loom-line-1");
    picture.append(this.#one, this.#curve);
    this.#plot.setAttribute("role", "group");
    this.#plot.ariaLabel = t("curve");
    this.#plot.append(picture, this.#high, this.#low);
    this.#plot.addEventListener("dblclick", (event) => this.#addAt(event));
    this.#area.addEventListener("input", () => this.#typed());
    this.#area.addEventListener("change", () => this.#surroundings.settled());
    this.root = element("div", { className: "lora-loom-widget lora-loom-schedule" }, this.#plot, this.#area, this.#hint);
    for (const name of ["dblclick", "contextmenu"]) this.root.addEventListener(name, (event) => this.#keep(event));
    this.render();
  }

  /** Pixels that the widget needs. */
  get height() {
    return HEIGHT;
  }

  /** Draw everything as the text has it. */
  render() {
    this.#range = state.rangeOf(this.#points);
    if (this.#area.value !== this.text) this.#area.value = this.text;
    this.root.inert = this.linked;
    this.#draw();
  }

  /** The curve and its points where they are now; the points' elements are kept, so that a drag keeps its handle. */
  #draw() {
    while (this.#handles.length > this.#points.length) this.#handles.pop()?.remove();
    while (this.#handles.length < this.#points.length) this.#handles.push(this.#handle(this.#handles.length));
    this.#points.forEach((point, index) => this.#show(this.#handles[index], point, index));
    this.#curve.setAttribute("d", state.pathOf(this.#points, this.#range));
    this.#one.setAttribute("d", state.pathOf([[0, 1]], this.#range));
    [this.#high.textContent, this.#low.textContent] = [String(this.#range.high), String(this.#range.low)];
    const { problems } = state.parseSchedule(this.text);
    const wrong = problems.length > 0 || !this.#points.length;
    this.#area.classList.toggle("lora-loom-wrong-number", wrong);
    this.#area.ariaInvalid = String(wrong);
    this.#plot.inert = problems.length > 0; // an edit there would drop from the text what can't be read
    if (this.linked) this.#hint.textContent = t("curveConnected");
    else this.#hint.textContent = wrong ? t("curveWrong", { parts: problems.join(", ") }) : t("curveKeys");
  }

  /**
   * @param {HTMLButtonElement} handle
   * @param {Point} point
   * @param {number} index
   */
  #show(handle, point, index) {
    const [x, y] = state.placeOf(point, this.#range);
    handle.style.left = `${100 * x}%`;
    handle.style.top = `${100 * Math.min(1, Math.max(0, y))}%`;
    const [position, factor] = point;
    handle.ariaLabel = t("curvePoint", { number: index + 1, all: this.#points.length });
    handle.ariaValueMin = "-100";
    handle.ariaValueMax = "100";
    handle.ariaValueNow = String(factor);
    handle.ariaValueText = t("curveValue", { position, factor });
    handle.title = `${position}:${factor}`;
  }

  /** @param {number} index */
  #handle(index) {
    const handle = element("button", { type: "button", className: "lora-loom-point" });
    handle.setAttribute("role", "slider");
    handle.addEventListener("keydown", (event) => this.#key(event, index));
    handle.addEventListener("pointerdown", (event) => this.#drag(event, index));
    handle.addEventListener("contextmenu", (event) => {
      this.#keep(event);
      this.#remove(index);
    });
    handle.addEventListener("dblclick", (event) => this.#keep(event)); // no second point on top of it
    this.#plot.append(handle);
    return handle;
  }

  /**
   * @param {PointerEvent} event
   * @param {number} index
   */
  #drag(event, index) {
    if (event.button !== 0) return;
    const handle = this.#handles[index];
    const before = this.text;
    const move = (/** @type {PointerEvent} */ now) => {
      const [position, factor] = this.#pointUnder(now);
      this.#set(state.movePoint(this.#points, index, [detent(position), detent(factor)]));
    };
    const end = () => {
      handle.removeEventListener("pointermove", move);
      if (this.text === before) return;
      this.render(); // with the range of the new points
      this.#surroundings.settled();
    };
    handle.setPointerCapture(event.pointerId);
    handle.addEventListener("pointermove", move);
    handle.addEventListener("lostpointercapture", end, { once: true });
  }

  /**
   * @param {KeyboardEvent} event
   * @param {number} index
   */
  #key(event, index) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key in ARROWS) {
      const [across, up] = ARROWS[event.key];
      const [position, factor] = this.#points[index];
      const steps = event.shiftKey ? [state.FINE_STEP, state.FINE_STEP] : [state.POSITION_STEP, state.FACTOR_STEP];
      this.#keep(event);
      this.#edit(state.movePoint(this.#points, index, [position + across * steps[0], factor + up * steps[1]]));
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.#keep(event);
      this.#remove(index);
    } else if (event.key === "Insert") {
      this.#keep(event);
      this.#add(state.addBehind(this.#points, index));
    }
  }

  /** @param {MouseEvent} event */
  #addAt(event) {
    const [position, factor] = this.#pointUnder(event);
    this.#add(state.addPoint(this.#points, [detent(position), detent(factor)]));
  }

  /** @param {{points: Point[], index: number}} added */
  #add({ points, index }) {
    this.#edit(points);
    this.#handles[index]?.focus();
  }

  /** @param {number} index */
  #remove(index) {
    this.#edit(state.removePoint(this.#points, index));
    this.#handles[Math.min(index, this.#handles.length - 1)]?.focus();
  }

  /** @param {Point[]} points */
  #edit(points) {
    this.#set(points);
    this.render();
    this.#surroundings.settled();
  }

  /** @param {Point[]} points */
  #set(points) {
    this.#points = points;
    this.keep(state.textOf(points));
    this.#area.value = this.text;
    this.#draw();
    this.#surroundings.changed(this.text);
  }

  #typed() {
    this.keep(this.#area.value);
    this.read(this.text);
    this.render();
    this.#surroundings.changed(this.text);
  }

  /**
   * @override
   * @param {string} text
   */
  read(text) {
    this.#points = state.parseSchedule(text).points;
  }

  /**
   * @param {MouseEvent} event
   * @returns {Point} in the picture's own measure, at any zoom of the canvas
   */
  #pointUnder(event) {
    const box = this.#plot.getBoundingClientRect();
    return state.pointAt([(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height], this.#range);
  }

  /** @param {Event} event one that neither the page nor the canvas should act on */
  #keep(event) {
    const inText = event.target === this.#area;
    if (!inText) event.preventDefault();
    event.stopPropagation();
  }
}

/** @param {number} value */
function detent(value) {
  return Math.round(value / DETENT) * DETENT;
}
