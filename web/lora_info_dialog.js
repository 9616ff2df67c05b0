// @ts-check
/** Shows what is known of one LoRA file, and lets a person note trigger words and remarks beside it. */

import { blockStrip } from "./block_strip.js";
import { element } from "./dom.js";
import { t, timeText } from "./page_text.js";

/** @typedef {import("./lora_files.js").LoraFiles} LoraFiles */

const HASH_LOOK_MS = 1000; // between two looks at what waits before a hash

/**
 * @param {string} name
 * @param {LoraFiles} files
 * @param {import("./report_state.js").ReportView | undefined} report of the last run
 */
export async function openInfo(name, files, report) {
  const back = document.activeElement;
  const body = element("div", { className: "lora-loom-info-body" }, quiet(t("loading")));
  const close = element("button", { type: "button", className: "lora-loom-icon", textContent: "✕", title: t("close") });
  close.ariaLabel = t("close");
  const head = element("header", {}, element("strong", {}, name), close);
  const dialog = element("dialog", { className: "lora-loom-dialog", ariaLabel: `${t("info")}: ${name}` }, head, body);
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => event.stopPropagation()); // the host's keys act on nodes
  for (const kind of ["copy", "paste", "cut"]) dialog.addEventListener(kind, (event) => event.stopPropagation());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (back instanceof HTMLElement && back.isConnected) back.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  try {
    const info = await files.ask("info", { name });
    body.replaceChildren(...sections(info, files, report));
  } catch (error) {
    body.replaceChildren(element("p", { className: "lora-loom-note" }, /** @type {Error} */ (error).message));
  }
}

/**
 * @param {any} info
 * @param {LoraFiles} files
 * @param {import("./report_state.js").ReportView | undefined} report
 */
function sections(info, files, report) {
  return [
    ...(info.problem ? [element("p", { className: "lora-loom-note" }, info.problem)] : []),
    element("div", { className: "lora-loom-info-top" }, ...picture(info, files), facts(info, files)),
    ...words(info),
    ...(report ? [section(t("blocks"), blockStrip(report, files))] : []),
    notes(info, files),
    metadata(info),
  ];
}

/**
 * @param {any} info
 * @param {LoraFiles} files
 */
function picture(info, files) {
  return info.preview ? [element("img", { src: files.picture(info), alt: "" })] : [];
}

/**
 * @param {any} info
 * @param {LoraFiles} files
 */
function facts(info, files) {
  const table = element("dl");
  const algorithms = Object.entries(info.algorithms).map(([name, layers]) => `${name} (${t("layerCount", { count: layers })})`);
  const rows = {
    [t("infoFamily")]: info.family,
    [t("infoNames")]: info.dialect,
    [t("infoAlgorithm")]: algorithms.join(", "),
    [t("infoRank")]: span(info.rank),
    [t("infoAlpha")]: span(info.alpha),
    [t("infoKeys")]: info.keys ? String(info.keys) : "",
    [t("infoSize")]: `${(info.bytes / 1e6).toFixed(2)} MB`,
    [t("infoChanged")]: timeText(info.modified),
  };
  for (const [title, value] of Object.entries(rows)) {
    if (value) table.append(element("dt", {}, title), element("dd", {}, value));
  }
  const sum = element("dd");
  const compute = element("button", { type: "button", textContent: t("computeHash") });
  compute.addEventListener("click", async () => {
    compute.disabled = true;
    const waits = setInterval(async () => {
      const { waiting } = await files.ask("queue").catch(() => ({ waiting: 0 }));
      compute.textContent = waiting ? t("hashWaits", { count: waiting }) : t("hashRuns");
    }, HASH_LOOK_MS);
    try {
      const { hashes } = await files.ask("hashes", { name: info.name });
      sum.replaceChildren(element("code", {}, hashes.sha256));
    } catch (error) {
      sum.replaceChildren(quiet(String(error instanceof Error ? error.message : error)));
    } finally {
      clearInterval(waits);
    }
  });
  sum.append(compute);
  table.append(element("dt", {}, "sha256"), sum);
  return table;
}

/** @param {any} info */
function words(info) {
  /** @type {Map<string, string>} */
  const chips = new Map();
  for (const word of [...info.written_words, ...info.trigger_words]) chips.set(word, "");
  for (const { text, share } of info.words) if (!chips.has(text)) chips.set(text, `${Math.round(share * 100)} %`);
  if (!chips.size) return [];
  const told = quiet("");
  told.setAttribute("role", "status");
  const made = [...chips].map(([text, share]) => {
    const label = share ? [text, element("small", {}, share)] : [text];
    const chip = element("button", { type: "button", className: "lora-loom-chip" }, ...label);
    chip.title = t("copyWord", { text });
    chip.addEventListener("click", async () => {
      await navigator.clipboard?.writeText(text);
      told.textContent = t("copied", { text });
    });
    return chip;
  });
  return [section(t("words"), element("div", { className: "lora-loom-chips" }, ...made), told)];
}

/**
 * @param {any} info
 * @param {LoraFiles} files
 */
function notes(info, files) {
  const mine = area(t("wordsMine"), info.written_words.join("\n"), 2);
  const text = area(t("notes"), info.notes, 3);
  const save = element("button", { type: "submit", textContent: t("save") });
  const told = element("span", { className: "lora-loom-quiet" }, info.sidecar_problem);
  told.setAttribute("role", "status");
  const labels = [mine, text].map((field) => element("label", {}, element("span", {}, field.ariaLabel ?? ""), field));
  const form = element("form", {}, ...labels, element("div", { className: "lora-loom-save" }, save, told));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const trigger_words = mine.value.split("\n").map((word) => word.trim()).filter(Boolean);
    files.tell("notes", { name: info.name, notes: text.value, trigger_words }).then(
      () => (told.textContent = t("saved")),
      (error) => (told.textContent = error.message),
    );
  });
  return section(t("notes"), form);
}

/** @param {any} info */
function metadata(info) {
  const rows = Object.entries(info.metadata).map(([field, value]) =>
    element("tr", {}, element("th", { scope: "row" }, field), element("td", {}, String(value))),
  );
  const details = element("details", {}, element("summary", {}, `${t("metadata")} (${rows.length})`));
  details.append(rows.length ? element("table", {}, element("tbody", {}, ...rows)) : quiet(t("noMetadata")));
  return details;
}

/**
 * @param {string} title
 * @param {...HTMLElement} content
 */
function section(title, ...content) {
  return element("section", {}, element("h3", {}, title), ...content);
}

/**
 * @param {string} label
 * @param {string} value
 * @param {number} rows
 */
function area(label, value, rows) {
  return element("textarea", { value, rows, ariaLabel: label, spellcheck: false });
}

/** @param {string} text */
function quiet(text) {
  return element("p", { className: "lora-loom-quiet" }, text);
}

/** @param {readonly number[]} ends */
function span(ends) {
  if (!ends.length) return "";
  return ends[0] === ends[1] ? String(ends[0]) : `${ends[0]} – ${ends[1]}`;
}
