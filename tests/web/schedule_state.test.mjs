import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import {
  addBehind,
  addPoint,
  movePoint,
  parseSchedule,
  pathOf,
  placeOf,
  pointAt,
  rangeOf,
  removePoint,
  textOf,
} from "../../web/schedule_state.js";

const CASES = JSON.parse(readFileSync(new URL("schedule_cases.json", import.meta.url), "utf8"));
const FADE = [
  [0, 0],
  [0.3, 1],
  [1, 0.5],
];

for (const { title, text, points, problems } of CASES) {
  test(`${title} is read as the host reads it`, () => assert.deepEqual(parseSchedule(text), { points, problems }));
}

test("points are written as they are read", () => {
  assert.equal(textOf(FADE), "0:0, 0.3:1, 1:0.5");
  assert.deepEqual(parseSchedule(textOf([[0.125, -0.333]])).points, [[0.125, -0.333]]);
});

test("more points than the host takes are a problem", () => {
  assert.equal(parseSchedule("0:1,".repeat(65)).problems.length, 1);
  assert.equal(addPoint(parseSchedule("0:1,".repeat(64)).points, [0.5, 1]).points.length, 64);
});

test("a point moves between its neighbours, up to them, and within the limits", () => {
  assert.deepEqual(movePoint(FADE, 1, [0.5, 0.8])[1], [0.5, 0.8]);
  assert.deepEqual(movePoint(FADE, 1, [-3, 0.8])[1], [0, 0.8]);
  assert.deepEqual(movePoint(FADE, 1, [3, 1000])[1], [1, 100]);
  assert.deepEqual(movePoint(FADE, 0, [0.9, -1000])[0], [0.3, -100]);
  assert.deepEqual(movePoint(FADE, 2, [2, -0.0001])[2], [1, 0]);
  assert.deepEqual(FADE[1], [0.3, 1]); // the points given are left alone
});

test("a point is added where it belongs", () => {
  assert.deepEqual(addPoint(FADE, [0.6, 0.2]), { points: [[0, 0], [0.3, 1], [0.6, 0.2], [1, 0.5]], index: 2 });
  assert.deepEqual(addPoint([], [2, 0.2]), { points: [[1, 0.2]], index: 0 });
  assert.deepEqual(addBehind(FADE, 0), { points: [[0, 0], [0.15, 0.5], [0.3, 1], [1, 0.5]], index: 1 });
  assert.deepEqual(addBehind(FADE, 2).points.at(-1), [1, 0.5]);
});

test("a point is removed, but not the last one", () => {
  assert.deepEqual(removePoint(FADE, 1), [[0, 0], [1, 0.5]]);
  assert.deepEqual(removePoint([[0, 1]], 0), [[0, 1]]);
});

test("0 to 1 is always shown, with room above", () => {
  assert.deepEqual(rangeOf([]), { low: 0, high: 1.5 });
  assert.deepEqual(rangeOf([[0, 0.4]]), { low: 0, high: 1.5 });
  assert.deepEqual(rangeOf([[0, 2.2], [1, -0.3]]), { low: -1, high: 2.5 });
});

test("a place of the picture and its point belong together", () => {
  const range = { low: -1, high: 2 };
  assert.deepEqual(placeOf([0.25, 0.5], range), [0.25, 0.5]);
  assert.deepEqual(pointAt(placeOf([0.25, 1.25], range), range), [0.25, 1.25]);
});

test("the curve goes on at its ends", () => {
  assert.equal(pathOf([[0.2, 0], [0.8, 1]], { low: 0, high: 1 }), "M0 1L0.2 1L0.8 0L1 0");
  assert.equal(pathOf([], { low: 0, high: 1 }), "");
});
