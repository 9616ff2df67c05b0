// @ts-check
/** A strength's curve over the steps, as plain data: its text, its points, and edits of them. No DOM. */

/** @typedef {[number, number]} Point position, 0 to 1, and factor */
/** @typedef {{low: number, high: number}} Range of factors */

const FACTOR_LIMIT = 100;
const POINTS_LIMIT = 64;
export const POSITION_STEP = 0.05; // of an arrow key
export const FACTOR_STEP = 0.05;
export const FINE_STEP = 0.01; // of both, with Shift
const NUMBER = /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i;

/**
 * The points that a text says, by rising position, and the parts of it that say none. As lora_core/weave/schedule.py
 * reads it.
 * @param {string} text
 * @returns {{points: Point[], problems: string[]}}
 */
export function parseSchedule(text) {
  /** @type {Point[]} */
  const points = [];
  const problems = [];
  for (const part of text.split(/[,\n]/).map((each) => each.trim())) {
    if (!part) continue;
    const point = pointOf(part);
    if (point) points.push(point);
    else problems.push(part);
  }
  if (points.length > POINTS_LIMIT) problems.push(`${points.length} > ${POINTS_LIMIT}`);
  return { points: sorted(points), problems };
}

/** @param {Point[]} points */
export function textOf(points) {
  return points.map(([position, factor]) => `${plain(position)}:${plain(factor)}`).join(", ");
}

/**
 * The points with one of them elsewhere: between its neighbours, which it doesn't pass, and within the limits.
 * @param {Point[]} points
 * @param {number} index
 * @param {Point} to
 * @returns {Point[]}
 */
export function movePoint(points, index, [position, factor]) {
  const left = points[index - 1]?.[0] ?? 0;
  const right = points[index + 1]?.[0] ?? 1;
  /** @type {Point} */
  const moved = [rounded(within(position, left, right)), rounded(within(factor, -FACTOR_LIMIT, FACTOR_LIMIT))];
  return points.map((point, at) => (at === index ? moved : point));
}

/**
 * The points with one more, and its index.
 * @param {Point[]} points
 * @param {Point} point
 * @returns {{points: Point[], index: number}}
 */
export function addPoint(points, [position, factor]) {
  if (points.length >= POINTS_LIMIT) return { points, index: points.length - 1 };
  /** @type {Point} */
  const made = [rounded(within(position, 0, 1)), rounded(within(factor, -FACTOR_LIMIT, FACTOR_LIMIT))];
  const all = sorted([...points, made]);
  return { points: all, index: all.indexOf(made) };
}

/**
 * A new point half way from one to the next, or half way to the end.
 * @param {Point[]} points
 * @param {number} index
 */
export function addBehind(points, index) {
  const [position, factor] = points[index];
  const [nextPosition, nextFactor] = points[index + 1] ?? [1, factor];
  return addPoint(points, [(position + nextPosition) / 2, (factor + nextFactor) / 2]);
}

/**
 * The points without one; the last one stays.
 * @param {Point[]} points
 * @param {number} index
 */
export function removePoint(points, index) {
  return points.length > 1 ? points.filter((_, at) => at !== index) : points;
}

/**
 * The factors that are shown: at least 0 to 1, with room to drag further up.
 * @param {Point[]} points
 * @returns {Range}
 */
export function rangeOf(points) {
  const factors = points.map(([, factor]) => factor);
  const [least, most] = [Math.min(0, ...factors), Math.max(1, ...factors)];
  return { low: least < 0 ? Math.floor(least * 2) / 2 - 0.5 : 0, high: Math.floor(most * 2) / 2 + 0.5 };
}

/**
 * Where a point stands in the unit square, y 0 at the top.
 * @param {Point} point
 * @param {Range} range
 * @returns {Point}
 */
export function placeOf([position, factor], { low, high }) {
  return [position, (high - factor) / (high - low)];
}

/**
 * The point at a place of the unit square.
 * @param {Point} place
 * @param {Range} range
 * @returns {Point}
 */
export function pointAt([x, y], { low, high }) {
  return [x, high - y * (high - low)];
}

/**
 * The curve as a path in the unit square, from position 0 to 1.
 * @param {Point[]} points
 * @param {Range} range
 */
export function pathOf(points, range) {
  if (!points.length) return "";
  const ends = /** @type {Point[]} */ ([[0, points[0][1]], ...points, [1, points[points.length - 1][1]]]);
  return `M${ends.map((point) => placeOf(point, range).map(plain).join(" ")).join("L")}`;
}

/**
 * @param {string} part
 * @returns {Point | null}
 */
function pointOf(part) {
  const at = part.indexOf(":");
  const [position, factor] = [part.slice(0, at), part.slice(at + 1)];
  if (at < 0 || !NUMBER.test(position) || !NUMBER.test(factor)) return null;
  if (!(Number(position) >= 0 && Number(position) <= 1 && Math.abs(Number(factor)) <= FACTOR_LIMIT)) return null;
  return [Number(position), Number(factor)];
}

/** @param {Point[]} points */
function sorted(points) {
  return [...points].sort((one, other) => one[0] - other[0]);
}

/**
 * @param {number} value
 * @param {number} low
 * @param {number} high
 */
function within(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

/** @param {number} value */
function rounded(value) {
  return Math.round(value * 1000) / 1000 + 0; // no minus zero
}

/** @param {number} value */
function plain(value) {
  return String(Number(value.toFixed(6)));
}
