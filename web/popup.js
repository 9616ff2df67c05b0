// @ts-check
/** Puts something on top of the page beside an element, until it is chosen from or left. */

import { element } from "./dom.js";

const GAP = 4; // pixels between the element and what belongs to it
const EDGE = 8; // pixels kept free at the edge of the page

/** @typedef {{label: string, hint?: string, disabled?: boolean, chosen: () => void}} MenuItem */

/**
 * Show content under an element, or above it where there is more room. Closes on Escape and on a press outside.
 * @param {HTMLElement} anchor gets the focus back
 * @param {HTMLElement} content
 * @param {() => void} [closed]
 * @returns {() => void} closes it
 */
export function openPopup(anchor, content, closed) {
  content.classList.add("lora-loom-popup");
  document.body.append(content);
  place(anchor, content);
  const outside = (/** @type {Event} */ event) => {
    if (event.target instanceof Node && !content.contains(event.target)) close();
  };
  const close = () => {
    if (!content.isConnected) return;
    removeEventListener("pointerdown", outside, true);
    const hadFocus = content.contains(document.activeElement);
    content.remove();
    if (hadFocus && anchor.isConnected) anchor.focus();
    closed?.();
  };
  content.addEventListener("keydown", (event) => {
    event.stopPropagation(); // the host's keys act on nodes
    if (event.key !== "Escape") return;
    event.preventDefault();
    close();
  });
  for (const name of ["copy", "paste", "cut"]) content.addEventListener(name, (event) => event.stopPropagation());
  addEventListener("pointerdown", outside, true);
  return close;
}

/**
 * @param {HTMLElement} anchor
 * @param {readonly MenuItem[]} items
 */
export function openMenu(anchor, items) {
  const buttons = items.map(({ label, hint, disabled, chosen }) => {
    const key = element("span", { className: "lora-loom-quiet" }, hint ?? "");
    const button = element("button", { type: "button", disabled, tabIndex: -1 }, element("span", {}, label), key);
    button.setAttribute("role", "menuitem");
    button.addEventListener("click", () => {
      close();
      chosen();
    });
    return button;
  });
  const menu = element("div", { className: "lora-loom-menu" }, ...buttons);
  menu.setAttribute("role", "menu");
  const enabled = buttons.filter((button) => !button.disabled);
  menu.addEventListener("keydown", (event) => {
    const at = enabled.findIndex((button) => button === document.activeElement);
    /** @type {Record<string, number>} */
    const places = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 };
    if (event.key === "Tab") close();
    if (!(event.key in places)) return;
    event.preventDefault();
    enabled.at(places[event.key] % enabled.length)?.focus();
  });
  const close = openPopup(anchor, menu);
  enabled[0]?.focus();
}

/**
 * @param {HTMLElement} anchor
 * @param {HTMLElement} content
 */
function place(anchor, content) {
  const at = anchor.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = content;
  const under = at.bottom + GAP;
  const above = at.top - GAP - height;
  const top = under + height > innerHeight - EDGE && above >= EDGE ? above : under;
  content.style.left = `${Math.max(EDGE, Math.min(at.left, innerWidth - EDGE - width))}px`;
  content.style.top = `${Math.max(EDGE, Math.min(top, innerHeight - EDGE - height))}px`;
}
