import assert from "node:assert/strict";
import { test } from "node:test";

import { LANGUAGE_CODES, phrasesOf, setLanguage, t } from "../../web/page_text.js";

const values = (text) => [...text.matchAll(/\{(\w+)\}/g)].map(([, name]) => name).sort();

for (const code of LANGUAGE_CODES) {
  test(`${code} says no phrase that is not there, with the same values in it`, () => {
    for (const [phrase, text] of Object.entries(phrasesOf(code))) {
      assert.deepEqual(values(text), values(phrasesOf("en")[phrase]), phrase);
    }
  });
}

test("a language is found by its code, and English stands in", () => {
  setLanguage("de-AT");
  assert.equal(t("filesOf", { found: 2, all: 3 }), "2 von 3 Dateien");
  setLanguage("xx");
  assert.equal(t("filesOf", { found: 2, all: 3 }), "2 of 3 files");
});
