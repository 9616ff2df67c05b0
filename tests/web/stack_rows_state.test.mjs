import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";

import {
  addRow,
  changeRow,
  dropRow,
  duplicateRow,
  formatRows,
  howManyOn,
  isJson,
  moveRow,
  nameProblem,
  parseRows,
  parseStrength,
  removeRow,
  retypeLine,
  scaleAll,
  switchAll,
  tagsIn,
} from "../../web/stack_rows_state.js";

const CASES = JSON.parse(readFileSync(new URL("rows_cases.json", import.meta.url), "utf8"));
const TWO = parseRows("<lora:a:1>\n# <lora:b:0.5:0.25>");

describe("text is read into rows", () => {
  for (const { title, text, rows } of CASES) test(title, () => assert.deepEqual(parseRows(text), rows));
});

describe("rows are written as text that reads back the same", () => {
  for (const { title, rows } of CASES) test(title, () => assert.deepEqual(parseRows(formatRows(rows)), rows));
});

test("rows are written one per line, with the off ones marked", () => {
  assert.equal(formatRows(TWO), "<lora:a:1>\n# <lora:b:0.5:0.25>");
});

test("a line that can't be read is written back letter by letter", () => {
  assert.equal(formatRows(parseRows("<lora:a:x>  y")), "<lora:a:x>  y");
});

test("a row for a file is added at the end", () => {
  assert.equal(formatRows(addRow(TWO, "c")), `${formatRows(TWO)}\n<lora:c:1>`);
});

test("a row is dropped before another, also behind the last", () => {
  const rows = parseRows("<lora:a:1>\n<lora:b:1>\n<lora:c:1>");
  const names = (from, to) => dropRow(rows, from, to).map((row) => row.name).join("");
  assert.deepEqual([names(0, 3), names(0, 2), names(2, 0), names(1, 1), names(1, 2)], ["bca", "bac", "cab", "abc", "abc"]);
});

test("a row is duplicated behind itself", () => {
  assert.equal(formatRows(duplicateRow(TWO, 0)), `<lora:a:1>\n${formatRows(TWO)}`);
});

test("all rows are switched, and it is told how many are on", () => {
  assert.deepEqual([TWO, switchAll(TWO, true), switchAll(TWO, false), []].map(howManyOn), ["some", "all", "none", "none"]);
});

test("all strengths are scaled within the host's range, lines that are no rows stay", () => {
  const rows = parseRows("<lora:a:1>\n<lora:b:80:-0.3>\nhello");
  assert.equal(formatRows(scaleAll(rows, 1.5)), "<lora:a:1.5>\n<lora:b:100:-0.45>\nhello");
  assert.equal(formatRows(scaleAll(rows, 0)), "<lora:a:0>\n<lora:b:0:0>\nhello");
});

test("tags are found in a prompt, and those that can't be read are left", () => {
  const found = tagsIn("a cat <lora:a:0.8>, <lora:b:x> ink <LORA:c:1:0.5>");
  assert.equal(formatRows(found), "<lora:a:0.8>\n<lora:c:1:0.5>");
});

test("a row is changed and the others are not", () => {
  const changed = changeRow(TWO, 1, { on: true, model: -2, clip: null });
  assert.equal(formatRows(changed), "<lora:a:1>\n<lora:b:-2>");
  assert.equal(formatRows(TWO), "<lora:a:1>\n# <lora:b:0.5:0.25>");
});

test("changing the fields of a line that is no row leaves it", () => {
  const rows = parseRows("hello");
  assert.deepEqual(changeRow(rows, 0, { on: false, name: "a" }), rows);
});

test("a row moves by one, and stays at the ends", () => {
  assert.equal(formatRows(moveRow(TWO, 1, -1)), "# <lora:b:0.5:0.25>\n<lora:a:1>");
  assert.deepEqual(moveRow(TWO, 0, -1), TWO);
  assert.deepEqual(moveRow(TWO, 1, 1), TWO);
});

test("a row is removed", () => assert.equal(formatRows(removeRow(TWO, 0)), "# <lora:b:0.5:0.25>"));

test("a line typed anew becomes what it now says", () => {
  const rows = parseRows("hello\n<lora:a:1>");
  assert.equal(formatRows(retypeLine(rows, 0, "<lora:x:2> <lora:y:3>")), "<lora:x:2>\n<lora:y:3>\n<lora:a:1>");
  assert.equal(formatRows(retypeLine(rows, 0, "still wrong")), "still wrong\n<lora:a:1>");
});

test("a strength is a finite number in the host's range", () => {
  for (const [typed, strength] of [["1", 1], [" -0.5 ", -0.5], [".5", 0.5], ["1e-3", 0.001], ["100", 100]]) {
    assert.equal(parseStrength(typed), strength);
  }
  for (const typed of ["", " ", "1,5", "0x10", "Infinity", "nan", "100.01", "-101", "1 2"]) {
    assert.equal(parseStrength(typed), null, typed);
  }
});

test("a name that would break the line is refused with a reason", () => {
  for (const name of ["", "  ", "a\nb"]) assert.notEqual(nameProblem(name), "", name);
  for (const name of ["a", "styles/a b (2).safetensors", "styles\\a", "#a", "a:b", " a <b> ", 'a"']) assert.equal(nameProblem(name), "", name);
});

test("the JSON form is recognised", () => {
  assert.equal(isJson(' [{"name": "a"}]'), true);
  assert.equal(isJson("<lora:a:1>"), false);
});
