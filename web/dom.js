// @ts-check
/** Makes elements, and keeps the events of a widget apart from those of the canvas around it. */

/**
 * An element. Text always goes in as text, never as markup.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Partial<HTMLElementTagNameMap[Tag]> & Record<string, unknown>} properties set on the element as they are
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/**
 * Everything in an element that can have the focus, in the order of the tab key.
 * @param {Element | undefined} parent
 * @returns {(Element | null)[]}
 */
export function fieldsOf(parent) {
  return [...(parent?.querySelectorAll("input, button, textarea") ?? [])];
}

/**
 * Keeps clicks, drags and scrolling inside a widget; hands the middle button, and the wheel where nothing scrolls, on
 * to the canvas.
 * @param {HTMLElement} root
 * @param {() => HTMLElement | undefined} canvas the host's canvas element
 */
export function separateFromCanvas(root, canvas) {
  const pass = (/** @type {Event} */ event, /** @type {Event} */ copy) => {
    event.preventDefault();
    event.stopPropagation();
    canvas()?.dispatchEvent(copy);
  };
  for (const name of /** @type {const} */ (["pointerdown", "pointermove", "pointerup"])) {
    root.addEventListener(name, (event) => {
      const middle = event.button === 1 || (event.buttons & 4) !== 0;
      if (middle) pass(event, new PointerEvent(event.type, event));
      else event.stopPropagation();
    });
  }
  root.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey && canScroll(event, root)) event.stopPropagation();
      else pass(event, new WheelEvent(event.type, event));
    },
    { passive: false },
  );
  // The host copies the selected nodes on every copy outside a text field; here selected text is meant.
  root.addEventListener("copy", (event) => {
    if (!document.getSelection()?.isCollapsed) event.stopPropagation();
  });
}

/**
 * Whether something between the event's target and the root can still scroll the way the wheel turns.
 * @param {WheelEvent} event
 * @param {HTMLElement} root
 */
function canScroll(event, root) {
  let inside = event.target instanceof Element ? event.target : null;
  for (; inside && root.contains(inside); inside = inside.parentElement) {
    const left = event.deltaY < 0 ? inside.scrollTop : inside.scrollHeight - inside.clientHeight - inside.scrollTop;
    const scrolls = /auto|scroll/.test(getComputedStyle(inside).overflowY) || inside instanceof HTMLTextAreaElement;
    if (scrolls && left >= 1) return true;
  }
  return false;
}
