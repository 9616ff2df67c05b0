import assert from "node:assert/strict";
import { test } from "node:test";

import { foldersOf, indexOf, nearestFiles, search } from "../../web/lora_picker_state.js";

const FACTS = { bytes: 0, modified: 0, title: "", base_model: "", preview: false, notes: false };
const FILES = ["ink.safetensors", "styles/thin ink.safetensors", "styles\\wide\\brush.safetensors", "people/anna.safetensors"];
const ENTRIES = indexOf(FILES.map((name) => ({ ...FACTS, name, title: name.startsWith("people") ? "Ink of Anna" : "" })));
const names = (query, folder = "") => search(ENTRIES, query, folder).map((entry) => entry.file.name);

test("every word has to be there, in any order and case", () => {
  assert.deepEqual(names("INK thin"), [FILES[1]]);
  assert.deepEqual(names("ink brush"), []);
  assert.deepEqual(names("  "), FILES);
});

test("names that begin with the query come first, then those that have it, then titles", () => {
  assert.deepEqual(names("ink"), [FILES[0], FILES[1], FILES[3]]);
});

test("a folder holds what lies below it, with either slash", () => {
  assert.deepEqual(names("", "styles/"), [FILES[1], FILES[2]]);
  assert.deepEqual(names("", "styles/wide/"), [FILES[2]]);
});

test("folders are told as a tree with the files below each", () => {
  assert.deepEqual(
    foldersOf(ENTRIES).map(({ path, label, depth, count }) => [path, label, depth, count]),
    [["", "", 0, 4], ["people/", "people", 0, 1], ["styles/", "styles", 0, 2], ["styles/wide/", "wide", 1, 1]],
  );
});

test("the nearest names are those that look alike, none where nothing does", () => {
  assert.equal(nearestFiles("old/Thin-Ink_v2", ENTRIES)[0].name, FILES[1]);
  assert.deepEqual(nearestFiles("zzz", ENTRIES), []);
});
