// @ts-check
/** Asks the pack's routes for files, their info and templates, and keeps the list of files for the pickers. */

import { indexOf } from "./lora_picker_state.js";

/** @typedef {import("./lora_picker_state.js").ListedFile} ListedFile */
/** @typedef {(path: string, options?: RequestInit) => Promise<Response>} FetchApi the host's api.fetchApi */

const PREFIX = "/lora_loom/";

/** The files that the host has. The names are known from the start; facts and pictures once the list has come. */
export class LoraFiles {
  /** @type {readonly string[]} */
  #names = [];
  /** @type {import("./lora_picker_state.js").Entry[]} */
  #entries = [];
  #fetchApi;
  #apiUrl;

  /**
   * @param {FetchApi} fetchApi
   * @param {(path: string) => string} apiUrl the address of a route, for pictures
   */
  constructor(fetchApi, apiUrl) {
    this.#fetchApi = fetchApi;
    this.#apiUrl = apiUrl;
  }

  get names() {
    return this.#names;
  }

  /** @param {readonly string[]} names as the nodes' inputs list them */
  set names(names) {
    this.#names = names;
    if (names.length === this.#entries.length && names.every((name, at) => name === this.#entries[at].file.name)) return;
    this.#entries = indexOf(names.map((name) => ({ ...NO_FACTS, name })));
  }

  get entries() {
    return this.#entries;
  }

  /** Bring the list up to date; the one there was stays where the host does not answer. */
  async refresh() {
    const { files } = await this.ask("files");
    this.#entries = indexOf(files);
    this.#names = files.map((/** @type {ListedFile} */ file) => file.name);
  }

  /**
   * The address of the small picture of a file.
   * @param {ListedFile} file
   */
  picture(file) {
    return this.#apiUrl(`${PREFIX}preview?${new URLSearchParams({ name: file.name, v: String(file.modified) })}`);
  }

  /**
   * The answer of a route. Throws an Error with the host's one line.
   * @param {string} route
   * @param {Record<string, string>} [query]
   * @returns {Promise<any>}
   */
  async ask(route, query = {}) {
    return answer(await this.#fetchApi(`${PREFIX}${route}?${new URLSearchParams(query)}`));
  }

  /**
   * @param {string} route
   * @param {unknown} fields
   * @returns {Promise<any>}
   */
  async tell(route, fields) {
    const headers = { "Content-Type": "application/json" };
    return answer(await this.#fetchApi(PREFIX + route, { method: "POST", headers, body: JSON.stringify(fields) }));
  }
}

/** @type {Omit<ListedFile, "name">} */
const NO_FACTS = { bytes: 0, modified: 0, title: "", base_model: "", preview: false, notes: false };

/** @param {Response} response */
async function answer(response) {
  const fields = await response.json().catch(() => ({ error: `the host answered ${response.status}` }));
  if (!response.ok) throw new Error(String(fields.error ?? response.status));
  return fields;
}
