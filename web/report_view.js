// @ts-check
/** Shows reports inside a node: one card per file, with the keys that did not arrive folded away. */

import { blockStrip } from "./block_strip.js";
import { element } from "./dom.js";
import { plural } from "./report_state.js";

/** @typedef {import("./report_state.js").ReportView} Report */

const NOT_RUN = "Not run yet. After a run, this shows which layers the file reached.";
const CACHED =
  "The result was taken from the host's cache, so there is no new report. It comes when something here changes.";
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
    this.#show(quiet(NOT_RUN));
  }

  /** The node need not run again: what is shown stays, or, after a reload of the page, why there is nothing. */
  noteCached() {
    if (!this.#hasReport) this.#show(quiet(CACHED));
  }

  /** @param {{reports: Report[], text: string}} views */
  showReports({ reports, text }) {
    this.#hasReport = true;
    this.#show(...(reports.length ? reports.map((report) => card(report, this.#files)) : [quiet(text)]));
  }

  /** @param {string} message why the node stopped */
  showError(message) {
    this.#hasReport = true;
    const head = element("div", { className: "lora-loom-head" }, badge("none", "stopped, nothing applied"));
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
    ...report.notes.map((note) => element("p", { className: "lora-loom-note" }, `Note: ${note}`)),
    ...(report.blocks.length ? [folded(plural(report.blocks.length, "block"), () => [blockStrip(report, files)])] : []),
    ...unmatchedKeys(report.unmatched),
    ...ignoredKeys(report.ignored),
  );
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
        ...(nearest ? [element("span", {}, "nearest name: ", element("code", {}, nearest))] : []),
      ),
    );
  return [folded(plural(count, "unmatched key"), () => [element("ul", {}, ...list()), ...more(unlisted)])];
}

/** @param {Report["ignored"]} ignored */
function ignoredKeys({ count, unlisted, groups }) {
  if (!count) return [];
  const list = () =>
    groups.map(({ reason, keys }) =>
      folded(`${plural(keys.length, "key")}: ${reason}`, () => [
        element("ul", {}, ...keys.map((key) => element("li", {}, element("code", {}, key)))),
      ]),
    );
  return [folded(`${plural(count, "key")} left out`, () => [...list(), ...more(unlisted)])];
}

/** @param {number} unlisted */
function more(unlisted) {
  const where = "Inspect LoRA gives all of them in its json output.";
  return unlisted ? [quiet(`and ${unlisted} more. ${where}`)] : [];
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
