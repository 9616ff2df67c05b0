// @ts-check
/** Says the page's phrases and dates in the language that the host is set to. No DOM. */

import { GERMAN } from "./languages/de.js";
import { ENGLISH } from "./languages/en.js";
import { CHINESE } from "./languages/zh.js";

/** @typedef {keyof typeof ENGLISH} Phrase */

/** @type {Record<string, typeof ENGLISH>} */
const LANGUAGES = { en: ENGLISH, de: GERMAN, zh: CHINESE };

export const LANGUAGE_CODES = Object.keys(LANGUAGES);
let spoken = ENGLISH;
let dates = datesIn("en"); // made once: making one takes as long as a search

/**
 * Speak a language from now on; English where it is not known.
 * @param {unknown} code as the host's setting has it: "de", "zh-TW"
 */
export function setLanguage(code) {
  const known = [String(code), String(code).split("-")[0]].find((own) => own in LANGUAGES) ?? "en";
  spoken = LANGUAGES[known];
  dates = datesIn(known);
}

/** A file's day, from seconds since 1970. */
export function dayText(/** @type {number} */ seconds) {
  return dates.day.format(seconds * 1000);
}

/** A file's day and time, from seconds since 1970. */
export function timeText(/** @type {number} */ seconds) {
  return dates.time.format(seconds * 1000);
}

/**
 * A phrase, with the values of its {names} in place. Of a phrase in two forms, "one|several", the value {count} decides.
 * @param {Phrase} phrase
 * @param {Record<string, string | number>} [values]
 */
export function t(phrase, values = {}) {
  const forms = spoken[phrase].split("|");
  const form = values.count === 1 ? forms[0] : forms[forms.length - 1];
  return form.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

/** Every phrase of a language, for tests. */
export function phrasesOf(/** @type {string} */ code) {
  return LANGUAGES[code];
}

function datesIn(/** @type {string} */ code) {
  return {
    day: new Intl.DateTimeFormat(code, { dateStyle: "medium" }),
    time: new Intl.DateTimeFormat(code, { dateStyle: "medium", timeStyle: "short" }),
  };
}
