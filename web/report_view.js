// @ts-check
/** Shows reports inside a node: one card per file, with the keys that did not arrive folded away. */

import { blockStrip } from "./block_strip.js";
import { element } from "./dom.js";
import { t } from "./page_text.js";

/** @typedef {import("./report_state.js").ReportView} Report */

const SIGNS = { whole: "✓", part: "!", none: "✕" };

/** The report area of one node: each call replaces what is shown. */
export class ReportView {
  #hasReport = false;
  #files;

  /** @param {import("./lora_files.js").LoraFiles} files asked for the sizes of blocks */
  constructor(files) {
    this.#files = files;
    this.body = element("div", { className: "lora-loom-scroll" });
    this.root = element("div", { className: "lora-loom-widget lora-loom-report" }, this.body);
    this.#show(quiet(t("reportNotRun")));
  }

  /** The node need not run again: what is shown stays, or, after a reload of the page, why there is nothing. */
  noteCached() {
    if (!this.#hasReport) this.#show(quiet(t("reportCached")));
  }

  /** @param {{reports: Report[], text: string}} views */
  showReports({ reports, text }) {
    this.#hasReport = true;
    this.#show(...(reports.length ? reports.map((report) => card(report, this.#files)) : [quiet(text)]));
  }

  /** @param {string} message why the node stopped */
  showError(message) {
    this.#hasReport = true;
    const head = element("div", { className: "lora-loom-head" }, badge("none", t("reportStopped")));
    this.#show(element("section", {}, head, element("p", {}, message)));
  }

  /** @param {...HTMLElement} content */
  #show(...content) {
    this.body.replaceChildren(...content);
    this.body.scrollTop = 0;
  }
}

/**
 * @param {Report} report
 * @param {import("./lora_files.js").LoraFiles} files
 */
function card(report, files) {
  return element(
    "section",
    {},
    element("div", { className: "lora-loom-head" }, fileName(report.file), badge(report.arrival, report.badge)),
    element("p", {}, report.summary),
    quiet(report.facts),
    ...report.about.map(quiet),
    ...report.notes.map((note) => element("p", { className: "lora-loom-note" }, t("note", { text: note }))),
    ...blocks(report, files),
    ...unmatchedKeys(report.unmatched),
    ...ignoredKeys(report.ignored),
  );
}

/**
 * @param {Report} report
 * @param {import("./lora_files.js").LoraFiles} files
 */
function blocks(report, files) {
  const count = report.blocks.length;
  return count ? [folded(t("blockCount", { count }), () => [blockStrip(report, files)])] : [];
}

/** @param {string} text */
function quiet(text) {
  return element("p", { className: "lora-loom-quiet" }, text);
}

/** @param {string} file */
function fileName(file) {
  return element("strong", { title: file }, file);
}

/**
 * @param {Report["arrival"]} arrival
 * @param {string} label
 */
function badge(arrival, label) {
  return element("span", { className: `lora-loom-badge lora-loom-${arrival}` }, `${SIGNS[arrival]} ${label}`);
}

/** @param {Report["unmatched"]} unmatched */
function unmatchedKeys({ count, unlisted, keys }) {
  if (!count) return [];
  const list = () =>
    keys.map(({ key, reason, nearest }) =>
      element(
        "li",
        {},
        element("code", {}, key),
        element("span", {}, reason),
        ...(nearest ? [element("span", {}, t("nearestName"), element("code", {}, nearest))] : []),
      ),
    );
  return [folded(t("keysUnmatched", { count }), () => [element("ul", {}, ...list()), ...more(unlisted)])];
}

/** @param {Report["ignored"]} ignored */
function ignoredKeys({ count, unlisted, groups }) {
  if (!count) return [];
  const list = () =>
    groups.map(({ reason, keys }) =>
      folded(t("keysBecause", { count: keys.length, reason }), () => [
        element("ul", {}, ...keys.map((key) => element("li", {}, element("code", {}, key)))),
      ]),
    );
  return [folded(t("keysLeftOut", { count }), () => [...list(), ...more(unlisted)])];
}

/** @param {number} unlisted */
function more(unlisted) {
  return unlisted ? [quiet(t("moreKeys", { count: unlisted }))] : [];
}

/**
 * A line that opens; its content is made when it is first opened, since a file can have thousands of keys.
 * @param {string} title
 * @param {() => HTMLElement[]} content
 */
function folded(title, content) {
  const details = element("details", {}, element("summary", {}, title));
  details.addEventListener("toggle", () => details.append(...content()), { once: true });
  return details;
}
