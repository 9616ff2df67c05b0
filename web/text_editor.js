// @ts-check
/** What the editors of a node's text share: the text as the host has it, and whether it comes in over a wire. */

/** An editor whose truth is a text. Who extends it reads the text in `read` and draws it in `render`. */
export class TextEditor {
  #text = "";
  #linked = false;

  get text() {
    return this.#text;
  }

  /** The text as the host sets it: at load, paste, undo. */
  set text(text) {
    if (text === this.#text) return;
    this.keep(text);
    this.read(text);
    this.render();
  }

  get linked() {
    return this.#linked;
  }

  /** Whether the text comes in over a wire, so that editing here has no effect. */
  set linked(linked) {
    if (linked === this.#linked) return;
    this.#linked = linked;
    this.render();
  }

  /**
   * Take over a text that was edited here; nothing is read or drawn.
   * @param {string} text
   */
  keep(text) {
    this.#text = text;
  }

  /** @param {string} _text */
  read(_text) {
    throw new Error("an editor says how it reads its text");
  }

  render() {
    throw new Error("an editor says how it draws its text");
  }
}
