// @ts-check
/** Shows a training inside its node: progress, curves, previews, and the button that stops and keeps. */

import { element } from "./dom.js";
import { t } from "./page_text.js";

/** @typedef {import("./training_state.js").TrainingView} View */
/** @typedef {import("./training_state.js").Curve} Curve */

const SVG = "http://www.w3.org/2000/svg";
const SIGNS = { preparing: "part", training: "part", stopped: "whole", cancelled: "part", done: "whole", failed: "none" };

/** The training area of one node: each call replaces what is shown. */
export class TrainingView {
  #stopping = false;

  /**
   * @param {{stop: () => Promise<boolean>, viewUrl: (path: string) => string}} host stop asks the server to stop and
   *   keep; viewUrl gives a picture's address on this host
   */
  constructor({ stop, viewUrl }) {
    this.viewUrl = viewUrl;
    this.button = element("button", { type: "button", disabled: true }, t("stopAndKeep"));
    this.button.addEventListener("click", async () => {
      this.#stopping = true;
      this.button.disabled = true;
      if (!(await stop())) this.#stopping = false;
    });
    this.body = element("div", { className: "lora-loom-scroll", ariaLive: "off" });
    this.bar = element("div", { className: "lora-loom-bar" }, this.button);
    this.root = element("div", { className: "lora-loom-widget lora-loom-training" }, this.body, this.bar);
    this.body.replaceChildren(element("p", { className: "lora-loom-quiet" }, t("trainingNotRun")));
  }

  /** @param {View} view */
  show(view) {
    if (!view.canStop) this.#stopping = false;
    this.button.disabled = !view.canStop || this.#stopping;
    this.body.replaceChildren(
      ...head(view),
      ...chart(t("chartValidation"), view.validation ? [["lora-loom-line-2", view.validation]] : []),
      ...chart(t("chartLoss"), view.loss && view.smooth ? [["lora-loom-faint", view.loss], ["lora-loom-line-1", view.smooth]] : []),
      ...(view.suggestion ? [element("p", { className: "lora-loom-note" }, view.suggestion)] : []),
      ...this.#previews(view),
      ...view.notes.map((note) => element("p", { className: "lora-loom-note" }, t("note", { text: note }))),
    );
  }

  /** @param {View} view */
  #previews({ previews }) {
    if (!previews.length) return [];
    const pictures = previews.map(({ url, label, about }) =>
      element("figure", {}, element("img", { src: this.viewUrl(url), alt: about }), element("figcaption", {}, label)),
    );
    return [element("div", { className: "lora-loom-previews" }, ...pictures)];
  }
}

/** @param {View} view */
function head(view) {
  const sign = SIGNS[/** @type {keyof typeof SIGNS} */ (view.state)];
  const bar = element("progress", { value: view.share, max: 1, ariaLabel: t("training") });
  return [
    element(
      "div",
      { className: "lora-loom-head" },
      element("strong", {}, view.headline),
      element("span", { className: `lora-loom-badge lora-loom-${sign}` }, view.sign),
    ),
    bar,
    element("p", { className: "lora-loom-quiet" }, view.facts),
  ];
}

/**
 * @param {string} title
 * @param {[string, Curve][]} curves class of the line, and the line
 */
function chart(title, curves) {
  if (!curves.length) return [];
  const picture = document.createElementNS(SVG, "svg");
  picture.setAttribute("viewBox", "0 -0.04 1 1.08");
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", t("chartNow", { title, value: curves[curves.length - 1][1].last }));
  for (const [name, { d }] of curves) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    path.setAttribute("d", d);
    picture.append(path);
  }
  const { low, high, last } = curves[curves.length - 1][1];
  return [
    element(
      "figure",
      { className: "lora-loom-chart" },
      element("figcaption", {}, element("span", {}, title), element("strong", {}, last)),
      element("div", {}, picture, element("span", {}, high), element("span", {}, low)),
    ),
  ];
}
