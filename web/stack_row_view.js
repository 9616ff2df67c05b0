// @ts-check
/** Makes the elements of one row of a LoRA stack; what an edit does is given. */

import { element } from "./dom.js";
import { t } from "./page_text.js";
import { strengthField } from "./strength_field.js";

/** @typedef {import("./stack_rows_state.js").LoraRow} LoraRow */
/** @typedef {import("./report_state.js").ReportView} ReportView */
/**
 * What a row can do. `change` writes and draws nothing anew; `edit` does both.
 * @typedef {{
 *   change: (fields: Partial<LoraRow>) => void, edit: (fields: Partial<LoraRow>) => void, settled: () => void,
 *   blocks: (anchor: HTMLElement) => void, schedule: (anchor: HTMLElement) => void,
 *   pick: (anchor: HTMLElement) => void, info: () => void, menu: (anchor: HTMLElement) => void,
 *   drag: (event: PointerEvent, line: HTMLElement) => void, key: (event: KeyboardEvent) => void,
 * }} RowActions
 */

const SIGNS = { whole: "✓", part: "!", none: "✕" };

/**
 * @param {LoraRow} row
 * @param {{listed: boolean, nearest: string, report: ReportView | undefined, withClip: boolean}} known
 * @param {RowActions} actions
 */
export function loraRow(row, known, actions) {
  const line = element("div", { className: "lora-loom-row" });
  line.setAttribute("role", "listitem");
  const on = element("input", { type: "checkbox", className: "lora-loom-switch", checked: row.on, ariaLabel: t("on") });
  on.addEventListener("change", () => actions.edit({ on: on.checked }));
  const menu = button("⋯", "lora-loom-icon", t("menu"), () => actions.menu(menu));
  menu.ariaHasPopup = "menu";
  const strengths = [strength("model")];
  if (row.clip !== null) strengths.push(strength("clip"));
  else if (known.withClip) strengths.push(element("span", { className: "lora-loom-no-clip" }));
  line.append(grip(line, actions), on, nameCell(row, known, actions), badge(known.report, actions), ...strengths, menu);
  line.classList.toggle("lora-loom-off", !row.on);
  line.addEventListener("keydown", (event) => actions.key(event));
  line.addEventListener("contextmenu", (event) => {
    if (event.target instanceof HTMLInputElement) return;
    event.preventDefault();
    event.stopPropagation();
    actions.menu(menu);
  });
  return line;

  /** @param {"model" | "clip"} which */
  function strength(which) {
    return strengthField({
      label: t(which),
      title: t(which === "model" ? "modelHint" : "clipHint"),
      value: row[which] ?? row.model,
      changed: (number) => actions.change({ [which]: number }),
      settled: actions.settled,
    });
  }
}

/**
 * @param {HTMLElement} line
 * @param {RowActions} actions
 */
export function grip(line, actions) {
  const handle = button("⠿", "lora-loom-grip", t("drag"), () => undefined);
  handle.addEventListener("pointerdown", (event) => event.button === 0 && actions.drag(event, line));
  return handle;
}

/**
 * @param {string} sign
 * @param {string} className
 * @param {string} title
 * @param {() => void} pressed
 */
export function button(sign, className, title, pressed) {
  const made = element("button", { type: "button", className, textContent: sign, title, ariaLabel: title });
  made.addEventListener("click", pressed);
  return made;
}

/**
 * @param {LoraRow} row
 * @param {{listed: boolean, nearest: string}} known
 * @param {RowActions} actions
 */
function nameCell(row, { listed, nearest }, actions) {
  const path = row.name.replaceAll("\\", "/");
  const cut = path.lastIndexOf("/") + 1;
  const file = element("span", { className: "lora-loom-file-name" });
  file.append(path.slice(cut).replace(/\.safetensors$/i, ""));
  const name = element("button", { type: "button", className: "lora-loom-pick", title: row.name }, file);
  if (cut) name.append(element("span", { className: "lora-loom-quiet lora-loom-folder" }, path.slice(0, cut - 1)));
  name.ariaLabel = `${t("chooseFile")}: ${row.name}`;
  name.addEventListener("click", () => actions.pick(name));
  const cell = element("span", { className: "lora-loom-name" }, name, ...marks(row, actions));
  if (listed) return cell;
  cell.classList.add("lora-loom-wrong");
  const told = element("small", {}, t("missing"));
  if (nearest) {
    const stem = nearest.slice(Math.max(nearest.lastIndexOf("/"), nearest.lastIndexOf("\\")) + 1);
    const use = () => actions.edit({ name: nearest });
    const link = button(t("replace", { name: stem.replace(/\.safetensors$/i, "") }), "lora-loom-link", nearest, use);
    link.ariaLabel = t("replace", { name: nearest });
    told.append(link);
  }
  cell.append(told);
  return cell;
}

/**
 * What the row has of its own, to be pressed.
 * @param {LoraRow} row
 * @param {RowActions} actions
 */
function marks({ blocks, schedule }, actions) {
  /** @type {[string, string | undefined, string, (anchor: HTMLElement) => void][]} */
  const known = [
    ["▥", blocks, t("blockStrengths"), actions.blocks],
    ["∿", schedule, t("rowSchedule"), actions.schedule],
  ];
  return known
    .filter(([, text]) => text !== undefined)
    .map(([sign, text, title, open]) => {
      const mark = button(sign, "lora-loom-mark", `${title}: ${text}`, () => open(mark));
      return mark;
    });
}

/**
 * @param {ReportView | undefined} report of the last run
 * @param {RowActions} actions
 */
function badge(report, actions) {
  const title = report ? `${report.badge}: ${report.summary}` : t("notRun");
  const look = report ? `lora-loom-dot lora-loom-${report.arrival}` : "lora-loom-dot";
  return button(report ? SIGNS[report.arrival] : "i", look, title, actions.info);
}
