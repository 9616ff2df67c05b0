// @ts-check
/** Edits the rows of a LoRA stack in a node: renders stack_rows_state, and writes every edit back as text. */

import { element, fieldsOf } from "./dom.js";
import { isListed } from "./lora_names_state.js";
import {
  STRENGTH_LIMIT,
  addRow,
  changeRow,
  formatRows,
  isJson,
  moveRow,
  nameProblem,
  parseRows,
  parseStrength,
  removeRow,
  retypeLine,
} from "./stack_rows_state.js";

/** @typedef {import("./stack_rows_state.js").Row} Row */
/** @typedef {import("./stack_rows_state.js").LoraRow} LoraRow */
/**
 * What the editor needs from outside: the id of the datalist with the file names and the names in it, and whom to tell
 * of every edit (`changed`) and of the end of one (`settled`), which is a step that can be undone.
 * @typedef {{
 *   listId: string, listed: () => readonly string[], changed: (text: string) => void, settled: () => void,
 * }} Surroundings
 */

const STRENGTH_STEP = 0.05; // factor; what the arrows of a strength field add

/** The editor of one node. The text is the truth; the rows are read from it and written to it. */
export class StackRowsEditor {
  #text = "";
  #asText = false;
  #linked = false;
  /** @type {Row[]} */
  #rows = [];
  #surroundings;
  #body = element("div", { className: "lora-loom-scroll" });
  #add = element("button", { type: "button", textContent: "+ Add LoRA" });
  #hint = element("span", { className: "lora-loom-quiet" });
  #toggle = element("button", { type: "button" });

  /** @param {Surroundings} surroundings */
  constructor(surroundings) {
    this.#surroundings = surroundings;
    this.#add.addEventListener("click", () => this.#addRow());
    this.#toggle.addEventListener("click", () => {
      this.#asText = !this.#asText;
      this.render();
    });
    const bar = element("div", { className: "lora-loom-bar" }, this.#add, this.#hint, this.#toggle);
    this.root = element("div", { className: "lora-loom-widget lora-loom-stack" }, this.#body, bar);
    this.render();
  }

  get text() {
    return this.#text;
  }

  /** The text as the host sets it: at load, paste, undo. */
  set text(text) {
    if (text === this.#text) return;
    this.#text = text;
    this.#rows = parseRows(text);
    this.render();
  }

  /** @param {boolean} linked whether the rows come in over a wire, so that editing here has no effect */
  set linked(linked) {
    if (linked === this.#linked) return;
    this.#linked = linked;
    this.render();
  }

  /** Draw everything anew; also when the list of files changed. */
  render() {
    const focused = this.#focusedPlace();
    if (this.#asText || isJson(this.#text)) this.#body.replaceChildren(this.#textArea());
    else this.#body.replaceChildren(...this.#rowElements());
    this.#renderBar();
    this.root.inert = this.#linked;
    this.#focus(focused);
  }

  #renderBar() {
    const json = isJson(this.#text);
    this.#add.hidden = this.#asText || json || this.#linked;
    this.#toggle.hidden = json || this.#linked;
    this.#toggle.textContent = this.#asText ? "Rows" : "Text";
    this.#toggle.title = this.#asText ? "Show the rows" : "Show the rows as text, to copy, paste or edit";
    const connected = this.#linked ? "The rows come from the connected input." : "";
    this.#hint.textContent = connected || (json ? "These rows are JSON, edited as text." : "");
  }

  #textArea() {
    const area = element("textarea", { value: this.#text, spellcheck: false, placeholder: "<lora:name:strength>" });
    area.ariaLabel = "Rows as text, one per line";
    area.addEventListener("input", () => {
      this.#text = area.value;
      this.#rows = parseRows(area.value);
      this.#surroundings.changed(this.#text);
    });
    area.addEventListener("change", () => {
      this.#asText ||= !isJson(this.#text);
      this.#renderBar();
      this.#surroundings.settled();
    });
    return area;
  }

  #rowElements() {
    if (!this.#rows.length) return [element("p", { className: "lora-loom-quiet" }, "No LoRA yet.")];
    const head = element("div", { className: "lora-loom-row lora-loom-titles" });
    head.append(...["", "LoRA", "model", "CLIP", ""].map((title) => element("span", {}, title)));
    return [head, ...this.#rows.map((row, index) => this.#rowElement(row, index))];
  }

  /**
   * @param {Row} row
   * @param {number} index
   */
  #rowElement(row, index) {
    const buttons = element(
      "span",
      { className: "lora-loom-buttons" },
      this.#button("▲", "Move up", index === 0, () => moveRow(this.#rows, index, -1)),
      this.#button("▼", "Move down", index === this.#rows.length - 1, () => moveRow(this.#rows, index, 1)),
      this.#button("✕", "Remove", false, () => removeRow(this.#rows, index)),
    );
    const fields = row.kind === "line" ? [this.#lineField(row, index)] : this.#loraFields(row, index);
    const line = element("div", { className: "lora-loom-row" }, ...fields, buttons);
    line.classList.toggle("lora-loom-off", row.kind === "lora" && !row.on);
    return line;
  }

  /**
   * @param {LoraRow} row
   * @param {number} index
   */
  #loraFields(row, index) {
    const on = element("input", { type: "checkbox", checked: row.on, title: "On or off", ariaLabel: "On" });
    on.addEventListener("change", () => this.#edit(changeRow(this.#rows, index, { on: on.checked })));
    const clip = this.#strengthField(row, index, "clip");
    const model = this.#strengthField(row, index, "model");
    model.addEventListener("input", () => (clip.placeholder = String(this.#loraRow(index).model)));
    return [on, this.#nameField(row, index), model, clip];
  }

  /**
   * @param {import("./stack_rows_state.js").OtherLine} row
   * @param {number} index
   */
  #lineField(row, index) {
    const field = element("input", { type: "text", value: row.text, ariaLabel: "Line as text" });
    field.addEventListener("change", () => this.#edit(retypeLine(this.#rows, index, field.value)));
    const className = `lora-loom-line ${row.problem ? "lora-loom-wrong" : ""}`;
    return element("span", { className }, field, element("small", {}, row.problem));
  }

  /**
   * The file of a row. While it has the focus it is empty, so that the list offers every file, not only this one.
   * @param {LoraRow} row
   * @param {number} index
   */
  #nameField(row, index) {
    const field = element("input", { type: "text", value: row.name, ariaLabel: "LoRA file" });
    field.setAttribute("list", this.#surroundings.listId);
    const told = element("small");
    const cell = element("span", { className: "lora-loom-name" }, field, told);
    const tell = (/** @type {string} */ problem) => {
      told.textContent = problem;
      cell.classList.toggle("lora-loom-wrong", problem !== "");
    };
    const show = () => {
      const { name } = this.#loraRow(index);
      [field.value, field.title, field.placeholder] = [name, name, name || "type to search"];
      tell(name === "" || isListed(name, this.#surroundings.listed()) ? "" : "no such file in the loras folders");
    };
    field.addEventListener("focus", () => (field.value = ""));
    field.addEventListener("change", () => {
      const name = field.value.trim();
      const problem = nameProblem(name);
      if (problem === "") this.#change(index, { name });
      show();
      if (name !== "" && problem !== "") tell(problem);
      this.#surroundings.settled();
      field.blur();
    });
    field.addEventListener("blur", () => (field.value = this.#loraRow(index).name));
    field.addEventListener("keydown", ({ key }) => {
      if (key !== "Escape") return;
      field.value = this.#loraRow(index).name;
      field.blur();
    });
    show();
    return cell;
  }

  /**
   * A strength. The CLIP's is empty where it follows the model's.
   * @param {LoraRow} row
   * @param {number} index
   * @param {"model" | "clip"} which
   */
  #strengthField(row, index, which) {
    const follows = which === "clip";
    const field = element("input", {
      type: "number",
      min: String(-STRENGTH_LIMIT),
      max: String(STRENGTH_LIMIT),
      step: String(STRENGTH_STEP),
      value: String(row[which] ?? ""),
      placeholder: String(row.model),
      title: follows ? "Strength on the text encoders; empty: as on the model" : "Strength on the model",
      ariaLabel: follows ? "CLIP strength" : "Model strength",
    });
    field.addEventListener("input", () => {
      const strength = parseStrength(field.value);
      const emptied = follows && field.value === "" && !field.validity.badInput;
      if (strength !== null || emptied) this.#change(index, { [which]: strength });
    });
    field.addEventListener("change", () => {
      field.value = String(this.#loraRow(index)[which] ?? "");
      this.#surroundings.settled();
    });
    return field;
  }

  /**
   * @param {string} sign
   * @param {string} title
   * @param {boolean} disabled
   * @param {() => Row[]} edited the rows after it was pressed
   */
  #button(sign, title, disabled, edited) {
    const button = element("button", { type: "button", textContent: sign, title, ariaLabel: title, disabled });
    button.addEventListener("click", () => this.#edit(edited()));
    return button;
  }

  #addRow() {
    this.#rows = addRow(this.#rows);
    this.render();
    const fields = /** @type {NodeListOf<HTMLInputElement>} */ (this.#body.querySelectorAll(".lora-loom-name input"));
    const field = fields[fields.length - 1];
    field.scrollIntoView({ block: "nearest" });
    field.focus();
    if (navigator.userActivation?.isActive) field.showPicker();
  }

  /**
   * @param {number} index
   * @returns {LoraRow}
   */
  #loraRow(index) {
    return /** @type {LoraRow} */ (this.#rows[index]);
  }

  /**
   * Write an edit that the fields show already. Nothing is drawn anew: a click that ends an edit must find its button.
   * @param {number} index
   * @param {Partial<LoraRow>} fields
   */
  #change(index, fields) {
    this.#rows = changeRow(this.#rows, index, fields);
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
    this.#text = formatRows(this.#rows);
    this.#surroundings.changed(this.#text);
  }

  /** Which field of which row has the focus. */
  #focusedPlace() {
    const row = [...this.#body.children].findIndex((child) => child.contains(document.activeElement));
    return { row, field: row < 0 ? -1 : fieldsOf(this.#body.children[row]).indexOf(document.activeElement) };
  }

  /** @param {{row: number, field: number}} place */
  #focus({ row, field }) {
    const target = row < 0 ? undefined : fieldsOf(this.#body.children[row])[field];
    if (target instanceof HTMLElement) target.focus();
  }
}
