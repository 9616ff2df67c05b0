import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

const WEB = new URL("../../web/", import.meta.url);
const MODULES = readdirSync(WEB, { recursive: true }).filter((name) => name.endsWith(".js"));
const read = (name) => readFileSync(new URL(name, WEB), "utf8");

// The front end imports every .js file of the web folder on its own. There is no page here, so an effect would throw.
for (const name of MODULES.filter((name) => name !== "extension.js")) {
  test(`${name} does nothing when it is imported`, async () => {
    const before = Object.keys(globalThis);
    await import(new URL(name, WEB).href);
    assert.deepEqual(Object.keys(globalThis), before);
  });

  test(`${name} does not import the host`, () => assert.ok(!/from "\.\.\//.test(read(name))));
}

for (const name of MODULES) {
  test(`${name} is type-checked, and puts no markup together`, () => {
    assert.ok(read(name).startsWith("// @ts-check\n"));
    assert.ok(!/innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(/.test(read(name)));
  });
}

// A rule that is left open swallows all that come after it, without a word from the browser.
test("every rule of the style sheet is closed before the next one begins", () => {
  const open = [];
  for (const line of read("lora_loom.css").split("\n")) {
    if (line.includes("{")) open.push(line.trim());
    if (line.includes("}")) open.pop();
    assert.ok(open.length < 2 || open[0].startsWith("@"), `not closed: ${open[0]}`);
  }
  assert.deepEqual(open, []);
});
