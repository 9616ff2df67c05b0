// @ts-check
/** Keeps the rows of a stack under a name, and puts kept rows back, through the pack's routes. */

import { element } from "./dom.js";
import { t } from "./page_text.js";
import { openPopup } from "./popup.js";
import { parseRows } from "./stack_rows_state.js";

/** @typedef {import("./stack_rows_state.js").Row} Row */

/**
 * @param {HTMLElement} anchor
 * @param {{files: import("./lora_files.js").LoraFiles, rows: string, now: () => Row[], add: (rows: Row[]) => void}} given
 */
export function openTemplates(anchor, { files, rows, now, add }) {
  const list = element("div", { className: "lora-loom-template-list" }, quiet(t("loading")));
  const name = element("input", { type: "text", placeholder: t("templateName"), ariaLabel: t("templateName") });
  name.maxLength = 80;
  const keep = element("button", { type: "submit", textContent: t("save") });
  const form = element("form", { className: "lora-loom-template-form" }, name, keep);
  const root = element("div", { className: "lora-loom-templates" }, list, rows ? form : quiet(t("noRows")));
  root.setAttribute("role", "dialog");
  root.ariaLabel = t("templates");
  const close = openPopup(anchor, root);
  const told = (/** @type {Error} */ error) => list.replaceChildren(quiet(error.message));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    files.tell("templates", { name: name.value.trim(), rows }).then(show, told);
  });
  name.focus();
  files.ask("templates").then(show, told);

  /** @param {{templates: Record<string, string>}} answer */
  function show({ templates }) {
    const kept = Object.entries(templates);
    list.replaceChildren(...(kept.length ? kept.map(line) : [quiet(t("templatesNone"))]));
  }

  /** @param {[string, string]} kept */
  function line([title, text]) {
    const take = element("button", { type: "button", className: "lora-loom-template", title: text }, title);
    take.ariaLabel = `${t("templateAdd")}: ${title}`;
    take.addEventListener("click", () => {
      close();
      add([...now(), ...parseRows(text)]);
    });
    const remove = element("button", { type: "button", className: "lora-loom-icon", textContent: "✕", title: t("remove") });
    remove.ariaLabel = `${t("remove")}: ${title}`;
    remove.addEventListener("click", () => files.tell("templates", { name: title, rows: null }).then(show, told));
    return element("div", { className: "lora-loom-template-line" }, take, remove);
  }
}

/** @param {string} text */
function quiet(text) {
  return element("p", { className: "lora-loom-quiet" }, text);
}
