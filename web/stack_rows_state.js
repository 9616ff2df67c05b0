// @ts-check
/**
 * The rows of a LoRA stack as plain data: text to rows, rows to text, and each edit as a function. No DOM.
 *
 * The line syntax is the one of lora_core/weave/stack_rows.py; tests/web/rows_cases.json holds both to it.
 */

import { parseSchedule } from "./schedule_state.js";

/**
 * A file with its strengths. `clip` is null where the line gives one strength for both; `blocks` and `schedule` are
 * there where the line has them.
 * @typedef {{kind: "lora", on: boolean, name: string, model: number, clip: number | null,
 *   blocks?: string, schedule?: string}} LoraRow
 */
/**
 * A line that is no row: kept letter by letter. `problem` is "" where the host skips the line, such as a remark.
 * @typedef {{kind: "line", text: string, problem: string}} OtherLine
 */
/** @typedef {LoraRow | OtherLine} Row */

export const STRENGTH_LIMIT = 100; // factor, either sign
const OFF = "#";
const LINE_END = /\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/;
const TAG =
  /<lora:("(?:[^"]|""){1,500}"(?=[:>])|[^:<>]+)(?::(?!blocks=|schedule=)([^:<>]*))?(?::(?!blocks=|schedule=)([^:<>]*))?(?::blocks=([^:<>]*))?(?::schedule=([^<>]*))?>/gi;
const NUMBER = /^\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?\s*$/i;
const NEEDS_QUOTES = /^\s|\s$|[:<>"]/;

/**
 * Whether the text is the other form that the host takes, a JSON list. It is edited as text only.
 * @param {string} text
 */
export function isJson(text) {
  return text.trimStart().startsWith("[");
}

/**
 * The rows of a text in line syntax. Blank lines are left out; every other line is in the answer.
 * @param {string} text
 * @returns {Row[]}
 */
export function parseRows(text) {
  return text
    .split(LINE_END)
    .map((line) => line.trim())
    .filter((line) => line !== "")
    .flatMap(parseLine);
}

/**
 * One line per row.
 * @param {readonly Row[]} rows
 */
export function formatRows(rows) {
  return rows
    .map((row) => (row.kind === "line" ? row.text : formatRow(row)))
    .join("\n");
}

/**
 * Why a file of this name can't stand in a line, "" if it can.
 * @param {string} name
 */
export function nameProblem(name) {
  if (name.trim() === "") return "a name is missing";
  return LINE_END.test(name) ? "a name with a line end can't be written as a row; rename the file" : "";
}

/**
 * A strength as a person typed it, null if it is none that the host takes.
 * @param {string} text
 */
export function parseStrength(text) {
  const strength = NUMBER.test(text) ? Number(text) : NaN;
  return Math.abs(strength) <= STRENGTH_LIMIT ? strength : null;
}

/**
 * With a row for a file at the end.
 * @param {readonly Row[]} rows
 * @param {string} name
 * @returns {Row[]}
 */
export function addRow(rows, name) {
  return [...rows, { kind: "lora", on: true, name, model: 1, clip: null }];
}

/**
 * @param {readonly Row[]} rows
 * @param {number} index
 */
export function removeRow(rows, index) {
  return rows.filter((_, other) => other !== index);
}

/**
 * With one row moved up (by -1) or down (by 1); at an end it stays.
 * @param {readonly Row[]} rows
 * @param {number} index
 * @param {-1 | 1} by
 */
export function moveRow(rows, index, by) {
  const moved = [...rows];
  const other = index + by;
  if (index in moved && other in moved) [moved[index], moved[other]] = [moved[other], moved[index]];
  return moved;
}

/**
 * With one row taken out and put in before the row that stands at `to` now (the number of rows: at the end).
 * @param {readonly Row[]} rows
 * @param {number} from
 * @param {number} to
 */
export function dropRow(rows, from, to) {
  const others = rows.filter((_, index) => index !== from);
  others.splice(to > from ? to - 1 : to, 0, rows[from]);
  return others;
}

/**
 * With a copy of one row behind it.
 * @param {readonly Row[]} rows
 * @param {number} index
 */
export function duplicateRow(rows, index) {
  return [...rows.slice(0, index + 1), { ...rows[index] }, ...rows.slice(index + 1)];
}

/**
 * Whether all, some or none of the rows that name a file are on; "none" for no rows.
 * @param {readonly Row[]} rows
 * @returns {"all" | "some" | "none"}
 */
export function howManyOn(rows) {
  const on = loraRows(rows).filter((row) => row.on).length;
  if (on === 0) return "none";
  return on === loraRows(rows).length ? "all" : "some";
}

/**
 * @param {readonly Row[]} rows
 * @param {boolean} on
 * @returns {Row[]}
 */
export function switchAll(rows, on) {
  return rows.map((row) => (row.kind === "lora" ? { ...row, on } : row));
}

/**
 * With every strength multiplied, kept in the host's range and rounded to 3 decimals.
 * @param {readonly Row[]} rows
 * @param {number} factor
 * @returns {Row[]}
 */
export function scaleAll(rows, factor) {
  const scaled = (/** @type {number} */ strength) => inRange(strength * factor);
  return rows.map((row) =>
    row.kind === "lora" ? { ...row, model: scaled(row.model), clip: row.clip === null ? null : scaled(row.clip) } : row,
  );
}

/**
 * A strength rounded to 3 decimals, and put at the end of the host's range if it lies beyond.
 * @param {number} strength
 */
export function inRange(strength) {
  const rounded = Math.round(strength * 1000) / 1000;
  return Math.min(STRENGTH_LIMIT, Math.max(-STRENGTH_LIMIT, rounded)) || 0;
}

/**
 * The rows of every <lora:...> tag in a text that may say other things too, such as a prompt.
 * @param {string} text
 * @returns {LoraRow[]}
 */
export function tagsIn(text) {
  const found = [...text.matchAll(TAG)].map((tag) => parseTag(tag, true));
  return /** @type {LoraRow[]} */ (found.filter((row) => typeof row !== "string"));
}

/**
 * @param {readonly Row[]} rows
 * @returns {LoraRow[]}
 */
function loraRows(rows) {
  return /** @type {LoraRow[]} */ (rows.filter((row) => row.kind === "lora"));
}

/**
 * With some fields of one row replaced. A line that is no row stays as it is.
 * @param {readonly Row[]} rows
 * @param {number} index
 * @param {Partial<Omit<LoraRow, "kind">>} fields
 * @returns {Row[]}
 */
export function changeRow(rows, index, fields) {
  return rows.map((row, other) => (other === index && row.kind === "lora" ? { ...row, ...fields } : row));
}

/**
 * With one line typed anew, which may make rows of it.
 * @param {readonly Row[]} rows
 * @param {number} index
 * @param {string} text
 * @returns {Row[]}
 */
export function retypeLine(rows, index, text) {
  return [...rows.slice(0, index), ...parseRows(text), ...rows.slice(index + 1)];
}

/**
 * @param {string} line not blank, without white space around it
 * @returns {Row[]}
 */
function parseLine(line) {
  const on = !line.startsWith(OFF);
  const content = line.replace(/^#+/, "").trim();
  const tags = [...content.matchAll(TAG)].map((found) => parseTag(found, on));
  const problem = tags.find((tag) => typeof tag === "string");
  const rest = content.replace(TAG, "").replace(/^[ ,]+|[ ,]+$/g, "");
  if (typeof problem === "string") return [{ kind: "line", text: line, problem }];
  if (rest === "" && tags.length > 0) return /** @type {LoraRow[]} */ (tags);
  const reason = on && rest !== "" ? "this is no row; <lora:name:strength> was expected" : "";
  return [{ kind: "line", text: line, problem: reason }];
}

/**
 * @param {RegExpMatchArray} found
 * @param {boolean} on
 * @returns {LoraRow | string} the row, or what is wrong with it
 */
function parseTag([, name, modelText, clipText, blocks, schedule], on) {
  const model = modelText === undefined ? 1 : parseStrength(modelText);
  const clip = clipText === undefined ? null : parseStrength(clipText);
  if (model === null || (clip === null && clipText !== undefined)) {
    const wrong = model === null ? modelText : clipText;
    return `a strength is a number from -${STRENGTH_LIMIT} to ${STRENGTH_LIMIT}, found "${wrong}"`;
  }
  const problem = blocksProblem(blocks ?? "") || (schedule === undefined ? "" : scheduleProblem(schedule));
  if (problem) return problem;
  const more = { ...(blocks === undefined ? {} : { blocks }), ...(schedule === undefined ? {} : { schedule }) };
  return { kind: "lora", on, name: unquoted(name), model, clip, ...more };
}

/** @param {string} name as it stands in a line */
function unquoted(name) {
  return /^".+"$/.test(name) ? name.slice(1, -1).replaceAll('""', '"') : name.trim();
}

/** @param {string} name as the file has it */
function quoted(name) {
  return NEEDS_QUOTES.test(name) ? `"${name.replaceAll('"', '""')}"` : name;
}

/**
 * Why a text can't be block strengths, "" if it can.
 * @param {string} text
 */
export function blocksProblem(text) {
  const parts = text.split(/[,;\n]/).map((part) => part.trim());
  const wrong = parts.filter((part) => part !== "" && !isFactor(part));
  return wrong.length ? `block strengths are PATTERN=FACTOR, found "${wrong.join('", "')}"` : "";
}

/** @param {string} part */
function isFactor(part) {
  const at = part.lastIndexOf("=");
  return part.slice(0, Math.max(at, 0)).trim() !== "" && parseStrength(part.slice(at + 1)) !== null;
}

/**
 * Why a text can't be a schedule, "" if it can.
 * @param {string} text
 */
export function scheduleProblem(text) {
  const { points, problems } = parseSchedule(text);
  if (problems.length) return `a schedule is position:factor, found "${problems.join('", "')}"`;
  return points.length ? "" : "a schedule has at least one point, such as 0:0, 0.3:1";
}

/** @param {LoraRow} row */
function formatRow({ on, name, model, clip, blocks, schedule }) {
  const strengths = clip === null ? `${model}` : `${model}:${clip}`;
  const more = (blocks === undefined ? "" : `:blocks=${blocks}`) + (schedule === undefined ? "" : `:schedule=${schedule}`);
  return `${on ? "" : `${OFF} `}<lora:${quoted(name)}:${strengths}${more}>`;
}
