import assert from "node:assert/strict";
import { test } from "node:test";

import { dayText, LANGUAGE_CODES, phrasesOf, setLanguage, t, timeText } from "../../web/page_text.js";

const values = (text) => [...text.matchAll(/\{(\w+)\}/g)].map(([, name]) => name).sort();

for (const code of LANGUAGE_CODES) {
  test(`${code} says every phrase, with the same values in it`, () => {
    const [own, english] = [phrasesOf(code), phrasesOf("en")];
    assert.deepEqual(Object.keys(own), Object.keys(english));
    for (const [phrase, text] of Object.entries(own)) {
      for (const form of text.split("|")) assert.deepEqual(values(form), values(english[phrase].split("|")[0]), phrase);
    }
  });
}

test("the count chooses between one and several", () => {
  setLanguage("en");
  assert.deepEqual([0, 1, 2].map((count) => t("layerCount", { count })), ["0 layers", "1 layer", "2 layers"]);
  setLanguage("zh");
  assert.equal(t("layerCount", { count: 1 }), "1 层");
  setLanguage("en");
});

test("a language is found by its code, and English stands in", () => {
  setLanguage("de-AT");
  assert.equal(t("filesOf", { found: 2, all: 3 }), "2 von 3 Dateien");
  setLanguage("xx");
  assert.equal(t("filesOf", { found: 2, all: 3 }), "2 of 3 files");
});

test("dates are written as the language writes them", () => {
  const noon = new Date(2026, 10, 22, 12, 5).getTime() / 1000;
  setLanguage("de");
  assert.deepEqual([dayText(noon), timeText(noon)], ["22.11.2026", "22.11.2026, 12:05"]);
  setLanguage("en");
  assert.equal(dayText(noon), "Nov 22, 2026");
});
