// @ts-check
/** Lets a person choose a LoRA file: search, folders, and a picture of the one under the pointer. */

import { element } from "./dom.js";
import { foldersOf, nearestFiles, search } from "./lora_picker_state.js";
import { dayText, t } from "./page_text.js";
import { openPopup } from "./popup.js";

/** @typedef {import("./lora_picker_state.js").ListedFile} ListedFile */

const ITEM = 30; // pixels; height of one file in the list, as in lora_loom.css
const MORE = 4; // files drawn above and below what is seen

/**
 * Open the picker under an element.
 * @param {HTMLElement} anchor
 * @param {{
 *   files: import("./lora_files.js").LoraFiles, current?: string, missing?: boolean, chosen: (name: string) => void,
 *   pasted: (text: string) => boolean,
 * }} given `missing`: files like `current` come first; `pasted` says whether it took the text
 */
export function openPicker(anchor, given) {
  const picker = new Picker(given, () => close());
  const close = openPopup(anchor, picker.root);
  picker.field.focus();
  given.files.refresh().then(
    () => picker.root.isConnected && picker.listChanged(),
    () => undefined, // the list there is goes on
  );
}

class Picker {
  #given;
  #close;
  #folder = "";
  #at = 0;
  #seen = 0;
  #top = 0; // pixels scrolled; kept, since asking the list lays out the page
  /** @type {ListedFile[]} */
  #found = [];
  #folders = element("div", { className: "lora-loom-folders" });
  #space = element("div", { className: "lora-loom-space" });
  #list = element("div", { className: "lora-loom-files", tabIndex: -1 }, this.#space);
  #status = element("div", { className: "lora-loom-status lora-loom-quiet" });
  #shown = element("figure", { className: "lora-loom-shown" });

  /**
   * @param {Parameters<typeof openPicker>[1]} given
   * @param {() => void} close
   */
  constructor(given, close) {
    this.#given = given;
    this.#close = close;
    this.field = element("input", { type: "text", placeholder: t("search"), ariaLabel: t("search"), spellcheck: false });
    this.field.setAttribute("role", "combobox");
    this.field.ariaExpanded = "true";
    this.#list.setAttribute("role", "listbox");
    this.#list.ariaLabel = t("files");
    const columns = element("div", { className: "lora-loom-columns" }, this.#folders, this.#list, this.#shown);
    this.root = element("div", { className: "lora-loom-picker" }, this.field, columns, this.#status);
    this.root.setAttribute("role", "dialog");
    this.root.ariaLabel = t("chooseFile");
    this.field.addEventListener("input", () => this.#search());
    this.field.addEventListener("keydown", (event) => this.#key(event));
    this.field.addEventListener("paste", (event) => {
      if (!given.pasted(event.clipboardData?.getData("text/plain") ?? "")) return;
      event.preventDefault();
      close();
    });
    this.#list.addEventListener("scroll", () => {
      this.#top = this.#list.scrollTop;
      this.#draw();
    });
    this.#list.addEventListener("pointermove", (event) => this.#point(event));
    this.#list.addEventListener("click", (event) => this.#choose(this.#indexAt(event)));
    this.listChanged();
  }

  /** The files came, or came anew. */
  listChanged() {
    const folders = foldersOf(this.#given.files.entries);
    this.#folders.hidden = folders.length === 1;
    this.#folders.replaceChildren(...folders.map((folder) => this.#folderButton(folder)));
    this.#search();
  }

  /** @param {import("./lora_picker_state.js").Folder} folder */
  #folderButton({ path, label, depth, count }) {
    const number = element("span", { className: "lora-loom-quiet" }, String(count));
    const text = element("span", {}, label || t("allFolders"));
    const button = element("button", { type: "button", title: path }, text, " ", number);
    button.style.paddingLeft = `${8 + 10 * depth}px`;
    button.ariaPressed = String(path === this.#folder);
    button.addEventListener("click", () => {
      this.#folder = path;
      for (const other of this.#folders.children) other.ariaPressed = String(other === button);
      this.#search();
      this.field.focus();
    });
    return button;
  }

  #search() {
    const { files, current, missing } = this.#given;
    const query = this.field.value;
    const found = search(files.entries, query, this.#folder).map((entry) => entry.file);
    const near = missing && current && !query ? nearestFiles(current, files.entries) : [];
    this.#found = near.length ? [...near, ...found.filter((file) => !near.includes(file))] : found;
    const at = query || missing ? 0 : this.#found.findIndex((file) => file.name === current);
    this.#space.style.height = `${this.#found.length * ITEM}px`;
    this.#status.textContent = t("filesOf", { found: this.#found.length, all: files.entries.length });
    this.#go(Math.max(0, at));
  }

  /** @param {number} index */
  #go(index) {
    this.#at = Math.max(0, Math.min(index, this.#found.length - 1));
    const [place, height] = [this.#at * ITEM, this.#height()];
    const top = Math.min(place, Math.max(this.#top, place + ITEM - height));
    if (top !== this.#top) this.#list.scrollTop = this.#top = top;
    this.#draw();
    this.#show();
  }

  /** Pixels of the list, read once: reading lays out the page, which a keystroke should not wait for. */
  #height() {
    return (this.#seen ||= this.#list.clientHeight) || 300;
  }

  /** Only what is seen is in the page. */
  #draw() {
    const first = Math.max(0, Math.floor(this.#top / ITEM) - MORE);
    const count = Math.ceil(this.#height() / ITEM) + 2 * MORE;
    const items = this.#found.slice(first, first + count).map((file, offset) => this.#item(file, first + offset));
    this.#space.replaceChildren(...items);
    this.field.setAttribute("aria-activedescendant", `lora-loom-file-${this.#at}`);
  }

  /**
   * @param {ListedFile} file
   * @param {number} index
   */
  #item(file, index) {
    const path = file.name.replaceAll("\\", "/");
    const cut = path.lastIndexOf("/") + 1;
    const name = element("span", { className: "lora-loom-file-name" });
    if (cut) name.append(element("span", { className: "lora-loom-quiet" }, path.slice(0, cut)));
    name.append(path.slice(cut).replace(/\.safetensors$/i, ""));
    const base = element("span", { className: "lora-loom-quiet" }, file.base_model);
    const item = element("div", { className: "lora-loom-file", id: `lora-loom-file-${index}` }, name, base);
    item.setAttribute("role", "option");
    item.ariaSelected = String(index === this.#at);
    item.style.top = `${index * ITEM}px`;
    return item;
  }

  #show() {
    const file = this.#found[this.#at];
    this.#shown.replaceChildren();
    if (!file) return;
    const caption = element("figcaption", {}, element("strong", {}, file.title || file.name));
    const megabytes = file.bytes ? `${(file.bytes / 1e6).toFixed(1)} MB` : "";
    const facts = [file.base_model, megabytes, file.modified ? dayText(file.modified) : ""];
    caption.append(element("span", { className: "lora-loom-quiet" }, facts.filter(Boolean).join(" · ")));
    const picture = file.preview
      ? element("img", { src: this.#given.files.picture(file), alt: "", decoding: "async" })
      : element("div", { className: "lora-loom-no-picture lora-loom-quiet" }, t("noPicture"));
    this.#shown.append(picture, caption);
  }

  /** @param {MouseEvent} event */
  #indexAt(event) {
    const { top } = this.#list.getBoundingClientRect();
    return Math.floor((event.clientY - top + this.#list.scrollTop) / ITEM);
  }

  /** @param {PointerEvent} event */
  #point(event) {
    const index = this.#indexAt(event);
    if (index === this.#at || index >= this.#found.length || (!event.movementX && !event.movementY)) return;
    this.#at = index;
    for (const item of this.#space.children) item.ariaSelected = String(item.id === `lora-loom-file-${index}`);
    this.#show();
  }

  /** @param {number} index */
  #choose(index) {
    const file = this.#found[index];
    if (!file) return;
    this.#close();
    this.#given.chosen(file.name);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const page = Math.floor(this.#height() / ITEM);
    /** @type {Record<string, number>} */
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page };
    if (event.key === "Enter") this.#choose(this.#at);
    else if (event.key in moves) this.#go(this.#at + moves[event.key]);
    else return;
    event.preventDefault();
  }
}
