import assert from "node:assert/strict";
import { test } from "node:test";

import { blockCells, viewsOf } from "../../web/report_state.js";

const WHOLE = {
  file: "ink.safetensors",
  dialect: "kohya",
  family: "SD1.5",
  model_family: "SD1.5",
  algorithms: { LoRA: 264 },
  rank: { min: 8, max: 8 },
  alpha: { min: 4, max: 8 },
  keys: 792,
  matched: 792,
  ignored: [],
  ignored_count: 0,
  unmatched: [],
  unmatched_count: 0,
  targets: 264,
  notes: [],
};

const view = (fields) => viewsOf({ text: [""], lora_loom_reports: [{ ...WHOLE, ...fields }] }).reports[0];

test("an output without reports has no view", () => {
  for (const output of [undefined, null, {}, { images: [] }, { lora_loom_reports: "x" }]) {
    assert.equal(viewsOf(output), null);
  }
});

test("the text stands in where a run had no file", () => {
  assert.deepEqual(viewsOf({ text: ["The stack is empty."], lora_loom_reports: [] }), {
    reports: [],
    text: "The stack is empty.",
  });
});

test("what a file says of itself is shown line by line", () => {
  assert.deepEqual(view({ about: ["Title: ink", "Trigger phrase: sks"] }).about, ["Title: ink", "Trigger phrase: sks"]);
  assert.deepEqual(view({}).about, []);
});

test("every file has its view, in order", () => {
  const { reports } = viewsOf({ lora_loom_reports: [WHOLE, { ...WHOLE, file: "b" }] });
  assert.deepEqual(
    reports.map((report) => report.file),
    ["ink.safetensors", "b"],
  );
});

test("a file that arrived whole says so, with its numbers", () => {
  const { arrival, badge, summary, facts } = view({});
  assert.deepEqual([arrival, badge], ["whole", "all matched"]);
  assert.equal(summary, "reaches 264 layers; 792 of 792 keys matched");
  assert.equal(facts, "LoRA · rank 8 · alpha 4 to 8 · kohya names · made for SD1.5");
});

test("the model's family is told where the file's is another one", () => {
  assert.ok(view({ family: "an unknown family" }).facts.endsWith("made for an unknown family · model is SD1.5"));
});

test("keys that were left out are counted beside the good news", () => {
  assert.equal(view({ ignored_count: 216 }).badge, "all matched, 216 left out");
});

test("one unmatched key makes it part", () => {
  const { arrival, badge } = view({ unmatched_count: 1 });
  assert.deepEqual([arrival, badge], ["part", "matched in part"]);
});

test("no layer is nothing, whatever else was counted", () => {
  const { arrival, badge } = view({ targets: 0, ignored_count: 5 });
  assert.deepEqual([arrival, badge], ["none", "nothing matched"]);
});

test("without a model nothing is said to match one", () => {
  const { badge, summary, facts } = view({ model_family: "not given", ignored_count: 3 });
  assert.equal(badge, "all keys known");
  assert.equal(summary, "holds 264 layers; 792 of 792 keys known");
  assert.ok(!facts.includes("model is"));
});

test("several algorithms are told with their layers", () => {
  assert.ok(view({ algorithms: { LoRA: 2, "LoCon (Tucker)": 1 } }).facts.startsWith("LoRA (2), LoCon (Tucker) (1)"));
});

test("numbers that are missing are left out, long ones cut", () => {
  const { facts } = view({ rank: null, alpha: { min: 1 / 3, max: 1 / 3 } });
  assert.ok(!facts.includes("rank"));
  assert.ok(facts.includes("alpha 0.333333 "));
});

test("unmatched keys come with reason and nearest name, and the unlisted ones are counted", () => {
  const { unmatched } = view({ unmatched: [{ key: "k", reason: "r", nearest: null }], unmatched_count: 3 });
  assert.deepEqual(unmatched, { count: 3, unlisted: 2, keys: [{ key: "k", reason: "r", nearest: "" }] });
});

test("keys that were left out are grouped by reason", () => {
  const ignored = [
    { key: "a", reason: "one" },
    { key: "b", reason: "two" },
    { key: "c", reason: "one" },
  ];
  assert.deepEqual(view({ ignored, ignored_count: 3 }).ignored, {
    count: 3,
    unlisted: 0,
    groups: [
      { reason: "one", keys: ["a", "c"] },
      { reason: "two", keys: ["b"] },
    ],
  });
});

test("a block is as high as its change is large, and told by what arrived", () => {
  const blocks = [
    { block: "a", matched: 4, unmatched: 0 },
    { block: "b", matched: 1, unmatched: 3 },
    { block: "c", matched: 0, unmatched: 2 },
  ];
  const norms = [{ block: "a", norm: 1 }, { block: "b", norm: 4 }];
  const seen = blockCells(blocks, norms).map(({ arrival, height, norm }) => [arrival, height, norm]);
  assert.deepEqual(seen, [["whole", 0.25, 1], ["part", 1, 4], ["none", 0, null]]);
  assert.deepEqual(blockCells(blocks, []).map(({ height }) => height), [0, 0, 0]);
});
