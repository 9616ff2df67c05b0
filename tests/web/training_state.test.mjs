import assert from "node:assert/strict";
import { test } from "node:test";

import { setLanguage } from "../../web/page_text.js";
import { duration, smoothed, trainingView } from "../../web/training_state.js";

const MESSAGE = {
  node: "7",
  state: "training",
  step: 50,
  steps: 200,
  seconds_left: 93.4,
  losses: [
    [1, 0.5],
    [50, 0.25],
  ],
  validation: [
    [0, 1],
    [50, 0.8125],
  ],
  previews: [{ step: 50, filename: "a b.png", subfolder: "x&y", type: "temp" }],
  notes: ["checkpointing is off"],
  suggestion: "",
  learning_rate: 0.0005,
  file: "",
};

test("a message that is none has no view", () => {
  for (const message of [undefined, null, {}, { node: 7, state: "training" }, { node: "7", state: "odd" }]) {
    assert.equal(trainingView(message), null);
  }
});

test("a training under way tells its step, the time left and the validation, and can be stopped", () => {
  const view = trainingView(MESSAGE);
  assert.equal(view.headline, "step 50 of 200");
  assert.equal(view.share, 0.25);
  assert.equal(view.facts, "validation 81.3 % of the start · 1 min 33 s left · learning rate 0.0005");
  assert.ok(view.canStop);
});

test("a training that ended can't be stopped and says where the file is", () => {
  const view = trainingView({ ...MESSAGE, state: "cancelled", file: "mine.safetensors" });
  assert.equal(view.headline, "cancelled at step 50 of 200, result kept");
  assert.match(view.facts, /saved as mine\.safetensors$/);
  assert.ok(!view.canStop);
});

test("the largest value is at the top, and the steps to come stay free", () => {
  const { loss } = trainingView(MESSAGE);
  assert.deepEqual(loss, { d: "M0.005 0L0.25 1", low: "0.25", high: "0.5", last: "0.25" });
});

test("a curve of one point, or of equal values, is a line all the same", () => {
  assert.equal(trainingView({ ...MESSAGE, losses: [[10, 3]] }).loss.d, "M0.05 1L0.05 1");
});

test("numbers that are none are left out of a curve", () => {
  assert.equal(trainingView({ ...MESSAGE, losses: [[1, NaN], [2, null], "x"] }).loss, null);
});

test("a picture's address holds its name safely", () => {
  const [{ url, label }] = trainingView(MESSAGE).previews;
  assert.equal(url, "/view?filename=a+b.png&subfolder=x%26y&type=temp");
  assert.equal(label, "step 50");
});

test("the smoothed curve begins at the first value and follows slowly", () => {
  assert.deepEqual(
    smoothed([
      [0, 1],
      [1, 0],
    ]),
    [
      [0, 1],
      [1, 0.9],
    ],
  );
});

test("times are told in the units of a person", () => {
  assert.deepEqual([0.4, 59.6, 200, 7500].map(duration), ["0 s", "1 min 0 s", "3 min 20 s", "2 h 5 min"]);
});

test("a training tells itself in the language of the page", () => {
  setLanguage("de");
  const { sign, headline, facts, previews } = trainingView(MESSAGE);
  setLanguage("en");
  assert.deepEqual([sign, headline], ["läuft", "Schritt 50 von 200"]);
  assert.equal(facts, "Prüfung 81.3 % des Anfangs · noch 1 min 33 s · Lernrate 0.0005");
  assert.equal(previews[0].about, "Vorschau bei Schritt 50");
});
