// @ts-check
/** Gives one row of a LoRA stack block strengths or a schedule of its own, in a popup beside the row. */

import { element } from "./dom.js";
import { t } from "./page_text.js";
import { openPopup } from "./popup.js";
import { ScheduleEditor } from "./schedule_editor.js";
import { blocksProblem, scheduleProblem } from "./stack_rows_state.js";

const NEW_SCHEDULE = "0:1, 1:1";
const OF_ROWS = /[:<>]/; // characters that end a field in the text of a row

/**
 * @param {HTMLElement} anchor
 * @param {string | undefined} text what the row has
 * @param {(text: string | undefined) => void} chosen undefined: none
 */
export function openBlocks(anchor, text, chosen) {
  const field = element("input", { type: "text", value: text ?? "", spellcheck: false, ariaLabel: t("blockStrengths") });
  const problem = () => {
    if (OF_ROWS.test(field.value)) return t("blocksNoColon");
    return field.value.trim() ? blocksProblem(field.value) : t("blocksHint");
  };
  const popup = open(anchor, t("blockStrengths"), [field], text !== undefined, {
    problem,
    chosen: () => chosen(field.value.trim()),
    removed: () => chosen(undefined),
  });
  field.addEventListener("input", popup.check);
  field.addEventListener("keydown", (event) => event.key === "Enter" && popup.use());
  field.focus();
}

/**
 * @param {HTMLElement} anchor
 * @param {string | undefined} text what the row has
 * @param {(text: string | undefined) => void} chosen undefined: none
 */
export function openSchedule(anchor, text, chosen) {
  const editor = new ScheduleEditor({ changed: () => popup.check(), settled: () => popup.check() });
  const popup = open(anchor, t("rowSchedule"), [editor.root], text !== undefined, {
    problem: () => scheduleProblem(editor.text),
    chosen: () => chosen(editor.text.trim()),
    removed: () => chosen(undefined),
  });
  editor.text = text ?? NEW_SCHEDULE;
  popup.check();
  editor.root.querySelector("textarea")?.focus();
}

/**
 * @param {HTMLElement} anchor
 * @param {string} title
 * @param {HTMLElement[]} content
 * @param {boolean} removable
 * @param {{problem: () => string, chosen: () => void, removed: () => void}} given
 * @returns {{check: () => void, use: () => void}}
 */
function open(anchor, title, content, removable, { problem, chosen, removed }) {
  const told = element("p", { className: "lora-loom-quiet", ariaLive: "polite" });
  const take = element("button", { type: "button" }, t("use"));
  const remove = element("button", { type: "button", disabled: !removable }, t("remove"));
  const buttons = element("div", { className: "lora-loom-bar" }, take, remove);
  const root = element("div", { className: "lora-loom-own" }, element("strong", {}, title), ...content, told, buttons);
  root.setAttribute("role", "dialog");
  root.ariaLabel = title;
  const check = () => {
    told.textContent = problem();
    take.disabled = told.textContent !== "";
  };
  const use = () => {
    check();
    if (take.disabled) return;
    close();
    chosen();
  };
  take.addEventListener("click", use);
  remove.addEventListener("click", () => {
    close();
    removed();
  });
  const close = openPopup(anchor, root);
  check();
  return { check, use };
}
