import assert from "node:assert/strict";
import { test } from "node:test";

import { choicesOf, isListed } from "../../web/lora_names_state.js";

const LISTED = ["ink.safetensors", "styles/ink_2.safetensors", "people\\old man.safetensors", "a/twin.pt", "b/twin.pt"];

test("the choices of a combo are found in both forms that hosts send", () => {
  const asList = { input: { required: { lora_name: [["a", "b"], { tooltip: "" }] } } };
  const asCombo = { input: { required: {}, optional: { lora_name: ["COMBO", { options: ["a", "b"] }] } } };
  assert.deepEqual(choicesOf(asList, "lora_name"), ["a", "b"]);
  assert.deepEqual(choicesOf(asCombo, "lora_name"), ["a", "b"]);
});

test("no choices where there is no such input", () => {
  for (const definition of [undefined, {}, { input: {} }, { input: { required: { lora_name: ["COMBO"] } } }]) {
    assert.deepEqual(choicesOf(definition, "lora_name"), []);
  }
});

test("a file is known as listed, without its ending, with either slash, and by its bare name", () => {
  const inFolders = ["styles/ink_2", "styles\\ink_2.safetensors", "people/old man"];
  const bare = ["ink.safetensors", "ink", "ink_2", "old man"];
  for (const name of [...inFolders, ...bare]) assert.equal(isListed(name, LISTED), true, name);
});

test("a name that fits no file or two files is not known", () => {
  for (const name of ["pen", "ink.pt", "twin", "styles/ink"]) assert.equal(isListed(name, LISTED), false, name);
});
