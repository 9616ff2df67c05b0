// @ts-check
/** What a report looks like on the page, as plain data: a node's output to views. No DOM. */

import { t } from "./page_text.js";

/** @typedef {"whole" | "part" | "none"} Arrival how much of a file arrived */
/** @typedef {{key: string, reason: string, nearest: string}} UnmatchedKey */
/** @typedef {{reason: string, keys: string[]}} IgnoredGroup */
/** @typedef {{block: string, matched: number, unmatched: number}} BlockCount keys of one block */
/**
 * A block as it is drawn. `height` is its change's size against the largest, 0..1; `norm` is null where it is not known.
 * @typedef {BlockCount & {arrival: Arrival, height: number, norm: number | null}} BlockCell
 */
/**
 * One file's report. `unlisted` counts the keys that the host left out of the list.
 * @typedef {{
 *   file: string, arrival: Arrival, badge: string, summary: string, facts: string, about: string[], notes: string[],
 *   unmatched: {count: number, unlisted: number, keys: UnmatchedKey[]},
 *   ignored: {count: number, unlisted: number, groups: IgnoredGroup[]}, blocks: BlockCount[],
 * }} ReportView
 */

const NO_MODEL = "not given"; // the model family of a report that was made without a model

/**
 * The views of what a node sent after it ran; null if it sent no report.
 * @param {any} output the node's ui output
 * @returns {{reports: ReportView[], text: string} | null}
 */
export function viewsOf(output) {
  const reports = output?.lora_loom_reports;
  if (!Array.isArray(reports)) return null;
  return { reports: reports.map(viewOf), text: [output.text].flat().filter(Boolean).join("\n") };
}

/**
 * @param {any} report
 * @returns {ReportView}
 */
function viewOf(report) {
  const unmatched = keysOf(report.unmatched);
  const ignored = keysOf(report.ignored);
  const arrival = arrivalOf(report);
  return {
    file: text(report.file),
    arrival,
    badge: badgeOf(arrival, report),
    summary: summaryOf(report),
    facts: factsOf(report).join(" · "),
    about: [report.about ?? []].flat().map(text),
    notes: [report.notes ?? []].flat().map(text),
    unmatched: { ...counts(report.unmatched_count, unmatched), keys: unmatched },
    ignored: { ...counts(report.ignored_count, ignored), groups: byReason(ignored) },
    blocks: Array.isArray(report.blocks) ? report.blocks : [],
  };
}

/**
 * The blocks of a report with the sizes of their changes.
 * @param {readonly BlockCount[]} blocks
 * @param {readonly {block: string, norm: number}[]} norms
 * @returns {BlockCell[]}
 */
export function blockCells(blocks, norms) {
  const known = new Map(norms.map(({ block, norm }) => [block, norm]));
  const largest = Math.max(...known.values(), 0);
  return blocks.map((block) => {
    const norm = known.get(block.block) ?? null;
    const arrival = block.matched === 0 ? "none" : block.unmatched > 0 ? "part" : "whole";
    return { ...block, arrival, norm, height: norm !== null && largest > 0 ? norm / largest : 0 };
  });
}

/**
 * @param {any} report
 * @returns {Arrival}
 */
function arrivalOf(report) {
  if (!report.targets) return "none";
  return report.unmatched_count ? "part" : "whole";
}

/**
 * @param {Arrival} arrival
 * @param {any} report
 */
function badgeOf(arrival, report) {
  if (report.model_family === NO_MODEL) {
    return { whole: t("badgeKnownAll"), part: t("badgeKnownPart"), none: t("badgeKnownNone") }[arrival];
  }
  const whole = report.ignored_count ? t("badgeAllBut", { count: report.ignored_count }) : t("badgeAll");
  return { whole, part: t("badgePart"), none: t("badgeNone") }[arrival];
}

/** @param {any} report */
function summaryOf(report) {
  const [layers, keys] = [{ count: report.targets ?? 0 }, { count: report.keys ?? 0 }];
  const arrived = report.matched ?? 0;
  if (report.model_family === NO_MODEL) return `${t("layersHeld", layers)}; ${t("keysKnown", { ...keys, known: arrived })}`;
  return `${t("layersReached", layers)}; ${t("keysMatched", { ...keys, matched: arrived })}`;
}

/**
 * @param {any} report
 * @returns {string[]}
 */
function factsOf(report) {
  const algorithms = Object.entries(report.algorithms ?? {});
  const several = algorithms.length > 1;
  return [
    algorithms.map(([name, layers]) => (several ? `${name} (${layers})` : name)).join(", "),
    span("rank", report.rank),
    span("alpha", report.alpha),
    report.dialect ? t("factDialect", { dialect: text(report.dialect) }) : "",
    report.family ? t("factFamily", { family: text(report.family) }) : "",
    [report.family, NO_MODEL, undefined].includes(report.model_family)
      ? ""
      : t("factModel", { family: text(report.model_family) }),
  ].filter(Boolean);
}

/**
 * @param {string} name
 * @param {{min: number, max: number} | null | undefined} ends
 */
function span(name, ends) {
  if (!ends) return "";
  const [low, high] = [short(ends.min), short(ends.max)];
  return low === high ? `${name} ${low}` : t("factRange", { name, low, high });
}

/** @param {any} notes */
function keysOf(notes) {
  return (Array.isArray(notes) ? notes : []).map((note) => ({
    key: text(note.key),
    reason: text(note.reason),
    nearest: text(note.nearest),
  }));
}

/**
 * @param {unknown} count
 * @param {readonly unknown[]} listed
 */
function counts(count, listed) {
  const all = typeof count === "number" ? count : listed.length;
  return { count: all, unlisted: Math.max(0, all - listed.length) };
}

/**
 * The keys of each reason, in the order in which the reasons first occur.
 * @param {readonly UnmatchedKey[]} keys
 * @returns {IgnoredGroup[]}
 */
function byReason(keys) {
  /** @type {Map<string, string[]>} */
  const groups = new Map();
  for (const { key, reason } of keys) groups.set(reason, [...(groups.get(reason) ?? []), key]);
  return [...groups].map(([reason, members]) => ({ reason, keys: members }));
}

/** @param {number} number */
function short(number) {
  return String(Number(number.toPrecision(6)));
}

/** @param {unknown} value */
function text(value) {
  return value === null || value === undefined ? "" : String(value);
}
