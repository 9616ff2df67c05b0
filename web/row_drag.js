// @ts-check
/** Moves a row among others with the pointer: a line shows where it would land. */

/**
 * Called at the press of a row's handle.
 * @param {PointerEvent} event
 * @param {HTMLElement} dragged
 * @param {HTMLElement[]} rows in their order, the dragged one among them
 * @param {(to: number) => void} dropped before which row it landed, or behind the last; not called where it stays
 */
export function dragRow(event, dragged, rows, dropped) {
  const handle = /** @type {HTMLElement} */ (event.currentTarget);
  const from = rows.indexOf(dragged);
  let to = from;
  const mark = (/** @type {number} */ place) =>
    rows.forEach((row, at) => {
      row.classList.toggle("lora-loom-drop-above", at === place);
      row.classList.toggle("lora-loom-drop-below", at === rows.length - 1 && place === rows.length);
    });
  const move = (/** @type {PointerEvent} */ now) => {
    const middles = rows.map((row) => row.getBoundingClientRect()).map((box) => box.top + box.height / 2);
    to = middles.filter((middle) => middle < now.clientY).length;
    mark(to);
  };
  const end = () => {
    handle.removeEventListener("pointermove", move);
    dragged.classList.remove("lora-loom-dragged");
    mark(-1);
    if (to !== from && to !== from + 1) dropped(to);
  };
  event.preventDefault();
  handle.setPointerCapture(event.pointerId);
  dragged.classList.add("lora-loom-dragged");
  handle.addEventListener("pointermove", move);
  handle.addEventListener("lostpointercapture", end, { once: true });
}
