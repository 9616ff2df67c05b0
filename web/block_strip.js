// @ts-check
/** Draws a file block by block: how much of it matched, and how large its change is. */

import { element } from "./dom.js";
import { t } from "./page_text.js";
import { blockCells } from "./report_state.js";

/**
 * One cell per block; the sizes come from the host a little later.
 * @param {import("./report_state.js").ReportView} report
 * @param {import("./lora_files.js").LoraFiles} files
 */
export function blockStrip(report, files) {
  const strip = element("div", { className: "lora-loom-strip" });
  strip.setAttribute("role", "list");
  const told = element("p", { className: "lora-loom-quiet lora-loom-told" }, t("blocksLegend"));
  const draw = (/** @type {readonly {block: string, norm: number}[]} */ norms) =>
    strip.replaceChildren(...blockCells(report.blocks, norms).map((block) => cell(block, told)));
  draw([]);
  files.ask("norms", { name: report.file }).then(
    ({ blocks }) => draw(blocks),
    () => undefined, // an adapter in memory is no file; the counts are told anyway
  );
  return element("div", { className: "lora-loom-blocks" }, strip, told);
}

/**
 * @param {import("./report_state.js").BlockCell} block
 * @param {HTMLElement} told
 */
function cell(block, told) {
  const bar = element("span", { className: `lora-loom-bar-of lora-loom-${block.arrival}` });
  bar.style.height = `${Math.round(20 + 80 * block.height)}%`;
  const made = element("div", { className: "lora-loom-cell", tabIndex: 0 }, bar);
  made.setAttribute("role", "listitem");
  const size = block.norm === null ? [] : [t("blockSize", { norm: block.norm.toPrecision(3) })];
  made.ariaLabel = [t("block", { ...block }), ...size].join(" · ");
  for (const kind of ["pointerenter", "focus"]) {
    made.addEventListener(kind, () => (told.textContent = made.ariaLabel));
  }
  return made;
}
