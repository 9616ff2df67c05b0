// @ts-check
/** What a training looks like on the page, as plain data: the host's message to lines, curves and pictures. No DOM. */

import { t } from "./page_text.js";

/** @typedef {[number, number][]} Points step and value */
/** @typedef {{d: string, low: string, high: string, last: string}} Curve a path in the unit square, and its labels */
/**
 * @typedef {{
 *   node: string, state: string, sign: string, headline: string, share: number, facts: string, canStop: boolean,
 *   loss: Curve | null, smooth: Curve | null, validation: Curve | null, suggestion: string, notes: string[],
 *   previews: {url: string, label: string, about: string}[],
 * }} TrainingView
 */

const UNDER_WAY = new Set(["preparing", "training"]);
const SMOOTHING = 0.9; // of the moving average that the thick line shows
const PREVIEWS_SHOWN = 12;

/** @typedef {import("./page_text.js").Phrase} Phrase */
/** @type {Record<string, {sign: Phrase, headline: Phrase}>} by the state of the training */
const STATES = {
  preparing: { sign: "trainingIsPreparing", headline: "trainingAtPreparing" },
  training: { sign: "trainingIsTraining", headline: "trainingAtTraining" },
  stopped: { sign: "trainingIsStopped", headline: "trainingAtStopped" },
  cancelled: { sign: "trainingIsCancelled", headline: "trainingAtCancelled" },
  done: { sign: "trainingIsDone", headline: "trainingAtDone" },
  failed: { sign: "trainingIsFailed", headline: "trainingAtFailed" },
};

/**
 * The view of a message; null if it is none.
 * @param {any} message
 * @returns {TrainingView | null}
 */
export function trainingView(message) {
  if (typeof message?.node !== "string" || !(message.state in STATES)) return null;
  const losses = pointsOf(message.losses);
  const range = rangeOf(losses);
  return {
    node: message.node,
    state: message.state,
    sign: t(STATES[message.state].sign),
    headline: t(STATES[message.state].headline, { step: message.step, steps: message.steps }),
    share: message.steps ? Math.min(1, message.step / message.steps) : 0,
    facts: factsOf(message).join(" · "),
    canStop: UNDER_WAY.has(message.state),
    loss: curve(losses, message.steps, range, short),
    smooth: curve(smoothed(losses), message.steps, range, short),
    validation: curve(pointsOf(message.validation), message.steps, undefined, percent),
    suggestion: String(message.suggestion ?? ""),
    notes: [message.notes ?? []].flat().map(String),
    previews: [message.previews ?? []].flat().slice(-PREVIEWS_SHOWN).map(previewOf),
  };
}

/**
 * A time for a person: "45 s", "3 min 20 s", "2 h 5 min".
 * @param {number} seconds
 */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return t("seconds", { seconds: whole });
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return t("minutes", { minutes, seconds: whole % 60 });
  return t("hours", { hours: Math.floor(minutes / 60), minutes: minutes % 60 });
}

/**
 * A moving average that begins at the first value.
 * @param {Points} points
 * @returns {Points}
 */
export function smoothed(points) {
  let mean = points[0]?.[1] ?? 0;
  return points.map(([step, value]) => [step, (mean = SMOOTHING * mean + (1 - SMOOTHING) * value)]);
}

/**
 * @param {any} message
 * @returns {string[]}
 */
function factsOf(message) {
  const facts = [];
  const last = pointsOf(message.validation).at(-1);
  if (last) facts.push(t("validationNow", { share: percent(last[1]) }));
  if (message.state === "training" && message.seconds_left != null) {
    facts.push(t("timeLeft", { time: duration(message.seconds_left) }));
  }
  if (message.state === "training" && message.learning_rate) {
    facts.push(t("learningRate", { rate: short(message.learning_rate) }));
  }
  if (message.file) facts.push(t("savedAs", { file: String(message.file) }));
  return facts;
}

/**
 * @param {any} points
 * @returns {Points}
 */
function pointsOf(points) {
  if (!Array.isArray(points)) return [];
  return points.filter((point) => Array.isArray(point) && point.every(Number.isFinite));
}

/** @param {Points} points */
function rangeOf(points) {
  const values = points.map(([, value]) => value);
  return values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
}

/**
 * A path through points, its x the share of the steps, its y 0 at the top for the largest value.
 * @param {Points} points
 * @param {number} steps
 * @param {number[] | undefined} range lowest and highest value; by default those of the points
 * @param {(value: number) => string} label
 * @returns {Curve | null}
 */
function curve(points, steps, range, label) {
  if (!points.length) return null;
  const [low, high] = range ?? rangeOf(points);
  const [span, end] = [high - low || 1, Math.max(1, steps)];
  const places = points.map(([step, value]) => `${tidy(step / end)} ${tidy(1 - (value - low) / span)}`);
  if (places.length === 1) places.push(places[0]);
  return { d: `M${places.join("L")}`, low: label(low), high: label(high), last: label(points[points.length - 1][1]) };
}

/** @param {any} preview */
function previewOf(preview) {
  const query = new URLSearchParams({
    filename: String(preview?.filename ?? ""),
    subfolder: String(preview?.subfolder ?? ""),
    type: String(preview?.type ?? "temp"),
  });
  const step = Number(preview?.step ?? 0);
  return { url: `/view?${query}`, label: t("step", { step }), about: t("preview", { step }) };
}

/** @param {number} number */
function tidy(number) {
  return String(Number(number.toFixed(4)));
}

/** @param {number} number */
function short(number) {
  return String(Number(number.toPrecision(3)));
}

/** @param {number} share */
function percent(share) {
  return `${Number((100 * share).toPrecision(3))} %`;
}
