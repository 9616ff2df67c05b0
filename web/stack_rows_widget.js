// @ts-check
/** Edits the rows of a LoRA stack in a node: renders stack_rows_state, and writes every edit back as text. */

import { element, fieldsOf } from "./dom.js";
import { isListed } from "./lora_names_state.js";
import { openPicker } from "./lora_picker.js";
import { nearestFiles } from "./lora_picker_state.js";
import { t } from "./page_text.js";
import { openMenu } from "./popup.js";
import { dragRow } from "./row_drag.js";
import { openBlocks, openSchedule } from "./row_extras.js";
import { button, grip, loraRow } from "./stack_row_view.js";
import * as state from "./stack_rows_state.js";
import { scrub } from "./strength_field.js";
import { openTemplates } from "./templates_menu.js";
import { TextEditor } from "./text_editor.js";

/** @typedef {import("./stack_rows_state.js").Row} Row */
/** @typedef {import("./stack_rows_state.js").LoraRow} LoraRow */
/**
 * What the editor needs from outside: the files, the last report of a file, the info dialog, and whom to tell of every
 * edit (`changed`) and of the end of one (`settled`), which is a step that can be undone.
 * @typedef {{
 *   files: import("./lora_files.js").LoraFiles, changed: (text: string) => void, settled: () => void,
 *   reportOf: (name: string) => import("./report_state.js").ReportView | undefined, info: (name: string) => void,
 * }} Surroundings
 */

const [ROW, TOLD, OTHERS] = [28, 18, 88]; // pixels; height of a row, of what is told below it, and of the rest
const [ROWS_AT_LEAST, ROWS_AT_MOST] = [3, 12]; // between which the widget grows; more rows scroll
const SCALE_STEP = 0.02; // of all strengths, for each step of the header's drag

/** The editor of one node. The text is the truth; the rows are read from it and written to it. */
export class StackRowsEditor extends TextEditor {
  #asText = false;
  /** @type {Row[]} */
  #rows = [];
  #surroundings;
  #body = element("div", { className: "lora-loom-scroll" });
  #add;
  #templates;
  #hint = element("span", { className: "lora-loom-quiet" });
  #toggle = element("button", { type: "button" });

  /** @param {Surroundings} surroundings */
  constructor(surroundings) {
    super();
    this.#surroundings = surroundings;
    this.#add = button(`+ ${t("add")}`, "lora-loom-add", t("addHint"), () => this.#pickNew());
    this.#add.ariaLabel = `+ ${t("add")}`;
    this.#templates = button(t("templates"), "", t("templates"), () => this.#openTemplates());
    this.#toggle.addEventListener("click", () => {
      this.#asText = !this.#asText;
      this.render();
    });
    const right = element("span", { className: "lora-loom-side" }, this.#templates, this.#toggle);
    const bar = element("div", { className: "lora-loom-bar" }, this.#add, this.#hint, right);
    this.root = element("div", { className: "lora-loom-widget lora-loom-stack" }, this.#body, bar);
    this.root.addEventListener("paste", (event) => this.#paste(event));
    this.render();
  }

  /**
   * @override
   * @param {string} text
   */
  read(text) {
    this.#rows = state.parseRows(text);
  }

  /** Pixels that the widget needs to show its rows. It is counted, not measured, so that nothing can grow by itself. */
  get height() {
    const isTold = (/** @type {Row} */ row) =>
      row.kind === "line" ? row.problem !== "" : !isListed(row.name, this.#surroundings.files.names);
    const shown = this.#rows.slice(0, ROWS_AT_MOST);
    return OTHERS + ROW * Math.max(ROWS_AT_LEAST, shown.length) + TOLD * shown.filter(isTold).length;
  }

  /** Draw everything anew; also when the list of files or the reports changed. */
  render() {
    const focused = this.#focusedPlace();
    const scrolled = this.#body.scrollTop;
    if (this.#asText || state.isJson(this.text)) this.#body.replaceChildren(this.#textArea());
    else this.#body.replaceChildren(...this.#rowElements());
    this.#body.scrollTop = scrolled;
    this.#renderBar();
    this.root.inert = this.linked;
    this.root.style.setProperty("--lora-loom-height", `${this.height}px`); // for Nodes 2.0, see lora_loom.css
    this.#focus(focused);
  }

  #renderBar() {
    const json = state.isJson(this.text);
    this.#add.hidden = this.#templates.hidden = this.#asText || json || this.linked;
    this.#toggle.hidden = json || this.linked;
    this.#toggle.textContent = t(this.#asText ? "asRows" : "asText");
    this.#toggle.title = t(this.#asText ? "asRowsHint" : "asTextHint");
    this.#hint.textContent = this.linked ? t("connected") : json ? t("jsonRows") : "";
  }

  #textArea() {
    const area = element("textarea", { value: this.text, spellcheck: false, placeholder: "<lora:name:strength>" });
    area.ariaLabel = t("textOfRows");
    area.addEventListener("input", () => {
      this.keep(area.value);
      this.#rows = state.parseRows(area.value);
      this.#surroundings.changed(this.text);
    });
    area.addEventListener("change", () => {
      this.#asText ||= !state.isJson(this.text);
      this.#renderBar();
      this.#surroundings.settled();
    });
    return area;
  }

  #rowElements() {
    if (!this.#rows.length) return [element("p", { className: "lora-loom-quiet lora-loom-none-yet" }, t("empty"))];
    const withClip = this.#rows.some((row) => row.kind === "lora" && row.clip !== null);
    this.#body.classList.toggle("lora-loom-with-clip", withClip);
    const rows = this.#rows.map((row, at) => this.#row(row, at, withClip));
    const list = element("div", { className: "lora-loom-rows" }, ...rows);
    list.setAttribute("role", "list");
    return [this.#head(withClip), list];
  }

  /** @param {boolean} withClip */
  #head(withClip) {
    const all = element("input", { type: "checkbox", className: "lora-loom-switch", title: t("allOn") });
    all.ariaLabel = t("allOn");
    const on = state.howManyOn(this.#rows);
    [all.checked, all.indeterminate] = [on === "all", on === "some"];
    all.addEventListener("change", () => this.#edit(state.switchAll(this.#rows, on !== "all")));
    const title = element("span", { className: "lora-loom-scale", title: t("scaleAll") }, `↔ ${t("model")}`);
    let before = this.#rows;
    scrub(title, {
      start: () => ((before = this.#rows), 1),
      moved: (_, steps) => {
        this.#rows = state.scaleAll(before, Math.max(0, 1 + steps * SCALE_STEP));
        this.#write();
        this.#showRows();
      },
      settled: () => this.#surroundings.settled(),
    });
    const titles = [element("span"), all, element("span", {}, "LoRA"), element("span"), title];
    if (withClip) titles.push(element("span", { className: "lora-loom-clip-title" }, "CLIP"));
    return element("div", { className: "lora-loom-row lora-loom-titles" }, ...titles, element("span"));
  }

  /** The rows alone, so that the header's drag keeps its handle. */
  #showRows() {
    const withClip = this.#body.classList.contains("lora-loom-with-clip");
    this.#list()?.replaceChildren(...this.#rows.map((row, at) => this.#row(row, at, withClip)));
  }

  /**
   * @param {Row} row
   * @param {number} index
   * @param {boolean} withClip
   */
  #row(row, index, withClip) {
    const actions = this.#actions(index);
    if (row.kind === "line") return this.#otherLine(row, index, actions);
    const { files, reportOf } = this.#surroundings;
    const listed = isListed(row.name, files.names);
    const nearest = listed ? "" : (nearestFiles(row.name, files.entries)[0]?.name ?? "");
    return loraRow(row, { listed, nearest, report: reportOf(row.name), withClip }, actions);
  }

  /**
   * @param {number} index
   * @returns {import("./stack_row_view.js").RowActions}
   */
  #actions(index) {
    const edit = (/** @type {Partial<LoraRow>} */ fields) => this.#edit(state.changeRow(this.#rows, index, fields));
    return {
      change: (fields) => this.#change(index, fields),
      edit,
      settled: () => this.#surroundings.settled(),
      pick: (anchor) => this.#pick(index, anchor),
      info: () => this.#surroundings.info(this.#loraRow(index).name),
      menu: (anchor) => this.#openMenu(index, anchor),
      blocks: (anchor) => openBlocks(anchor, this.#loraRow(index).blocks, (blocks) => edit({ blocks })),
      schedule: (anchor) => openSchedule(anchor, this.#loraRow(index).schedule, (schedule) => edit({ schedule })),
      drag: (event, line) => dragRow(event, line, this.#lines(), (to) => this.#edit(state.dropRow(this.#rows, index, to))),
      key: (event) => this.#key(event, index),
    };
  }

  /**
   * @param {import("./stack_rows_state.js").OtherLine} row
   * @param {number} index
   * @param {import("./stack_row_view.js").RowActions} actions
   */
  #otherLine(row, index, actions) {
    const field = element("input", { type: "text", value: row.text, ariaLabel: t("line") });
    field.addEventListener("change", () => this.#edit(state.retypeLine(this.#rows, index, field.value)));
    const className = `lora-loom-line ${row.problem ? "lora-loom-wrong" : ""}`;
    const cell = element("span", { className }, field, element("small", {}, row.problem));
    const remove = button("✕", "lora-loom-icon", t("remove"), () => this.#edit(state.removeRow(this.#rows, index)));
    const line = element("div", { className: "lora-loom-row" });
    line.append(grip(line, actions), cell, remove);
    return line;
  }

  /**
   * @param {number} index
   * @param {HTMLElement} anchor
   */
  #openMenu(index, anchor) {
    const row = this.#loraRow(index);
    const last = this.#rows.length - 1;
    const clip = row.clip === null ? row.model : null;
    const actions = this.#actions(index);
    openMenu(anchor, [
      { label: t("info"), chosen: actions.info },
      { label: t(row.clip === null ? "twoStrengths" : "oneStrength"), chosen: () => actions.edit({ clip }) },
      { label: `${t("blockStrengths")}…`, chosen: () => actions.blocks(anchor) },
      { label: `${t("rowSchedule")}…`, chosen: () => actions.schedule(anchor) },
      { label: t("moveUp"), hint: "Alt ↑", disabled: index === 0, chosen: () => this.#move(index, -1) },
      { label: t("moveDown"), hint: "Alt ↓", disabled: index === last, chosen: () => this.#move(index, 1) },
      { label: t("duplicate"), chosen: () => this.#edit(state.duplicateRow(this.#rows, index)) },
      { label: t("remove"), hint: "Del", chosen: () => this.#edit(state.removeRow(this.#rows, index)) },
    ]);
  }

  /**
   * @param {number} index
   * @param {-1 | 1} by
   */
  #move(index, by) {
    if (!(index + by in this.#rows)) return;
    const focused = this.#focusedPlace();
    this.#edit(state.moveRow(this.#rows, index, by));
    this.#focus({ row: index + by, field: Math.max(0, focused.field) });
  }

  /**
   * The keys of a row, for a person without a pointer.
   * @param {KeyboardEvent} event
   * @param {number} index
   */
  #key(event, index) {
    const typing = event.target instanceof HTMLInputElement && event.target.type === "text";
    const { row, field } = this.#focusedPlace();
    /** @type {Record<string, () => void>} */
    const acts = {
      "Alt+ArrowUp": () => this.#move(index, -1),
      "Alt+ArrowDown": () => this.#move(index, 1),
      ...(typing
        ? {}
        : {
            ArrowUp: () => this.#focus({ row: row - 1, field }),
            ArrowDown: () => this.#focus({ row: row + 1, field }),
            Delete: () => {
              this.#edit(state.removeRow(this.#rows, index));
              this.#focus({ row: Math.min(index, this.#rows.length - 1), field });
            },
          }),
    };
    const act = acts[`${event.altKey ? "Alt+" : ""}${event.key}`];
    if (act) event.preventDefault();
    if (act || event.key === "Backspace") event.stopPropagation(); // the host would act on the node
    act?.();
  }

  /**
   * @param {number} index
   * @param {HTMLElement} anchor
   */
  #pick(index, anchor) {
    const { name } = this.#loraRow(index);
    const { files } = this.#surroundings;
    const chosen = (/** @type {string} */ next) => this.#takeName(index, next);
    const missing = !isListed(name, files.names);
    openPicker(anchor, { files, current: name, missing, chosen, pasted: (text) => this.#insert(text) });
  }

  #pickNew() {
    const { files } = this.#surroundings;
    const chosen = (/** @type {string} */ name) => this.#takeName(-1, name);
    openPicker(this.#add, { files, chosen, pasted: (text) => this.#insert(text) });
  }

  /**
   * @param {number} index -1 for a new row
   * @param {string} name
   */
  #takeName(index, name) {
    const problem = state.nameProblem(name);
    if (problem) this.#hint.textContent = problem;
    else this.#edit(index < 0 ? state.addRow(this.#rows, name) : state.changeRow(this.#rows, index, { name }));
    if (!problem && index < 0) this.#body.scrollTop = this.#body.scrollHeight;
  }

  #openTemplates() {
    const { files } = this.#surroundings;
    openTemplates(this.#templates, { files, rows: this.text, add: (rows) => this.#edit(rows), now: () => this.#rows });
  }

  /** @param {ClipboardEvent} event */
  #paste(event) {
    if (event.target instanceof HTMLInputElement || event.target instanceof HTMLTextAreaElement) return;
    if (this.#insert(event.clipboardData?.getData("text/plain") ?? "")) {
      event.preventDefault();
      event.stopPropagation();
    }
  }

  /**
   * @param {string} text
   * @returns {boolean} whether it held rows
   */
  #insert(text) {
    const rows = state.tagsIn(text);
    if (rows.length) this.#edit([...this.#rows, ...rows]);
    return rows.length > 0;
  }

  /**
   * @param {number} index
   * @returns {LoraRow}
   */
  #loraRow(index) {
    return /** @type {LoraRow} */ (this.#rows[index]);
  }

  #list() {
    return this.#body.querySelector(".lora-loom-rows");
  }

  /** The rows' elements, in order. */
  #lines() {
    return /** @type {HTMLElement[]} */ ([...(this.#list()?.children ?? [])]);
  }

  /**
   * Write an edit that the fields show already. Nothing is drawn anew: a click that ends an edit must find its button.
   * @param {number} index
   * @param {Partial<LoraRow>} fields
   */
  #change(index, fields) {
    this.#rows = state.changeRow(this.#rows, index, fields);
    this.#write();
  }

  /** @param {Row[]} rows */
  #edit(rows) {
    this.#rows = rows;
    this.#write();
    this.#surroundings.settled();
    this.render();
  }

  #write() {
    this.keep(state.formatRows(this.#rows));
    this.#surroundings.changed(this.text);
  }

  /** Which field of which row has the focus. */
  #focusedPlace() {
    const rows = this.#lines();
    const row = rows.findIndex((child) => child.contains(document.activeElement));
    return { row, field: row < 0 ? -1 : fieldsOf(rows[row]).indexOf(document.activeElement) };
  }

  /** @param {{row: number, field: number}} place */
  #focus({ row, field }) {
    const fields = row < 0 ? [] : fieldsOf(this.#lines()[row]);
    const target = fields[Math.min(field, fields.length - 1)];
    if (target instanceof HTMLElement) target.focus();
  }
}
