// A canvas as a grid of cells: each token one, in the blocks in which they are decoded. The grid is
// regular, so that nothing moves while it fills, and a position is where it is in the other column.

import { make } from "./dom.js";
import { say, words } from "./words.js";

export class Board {
  /** @param {string} run A or B */
  constructor(run) {
    this.element = say(make("div", { class: "board", role: "group" }), "canvas", { run }, "aria-label");
    this.detail = make("p", { class: "detail", "aria-hidden": "true" });
    this.items = [];
    this.drawn = [];
    this.parted = null;
    this.element.addEventListener("keydown", (event) => this.move(event));
    for (const kind of ["focusin", "pointerover"]) {
      this.element.addEventListener(kind, ({ target }) => this.tell(target));
    }
  }

  /** Lay the blocks out, all masked. */
  lay({ blocks }) {
    for (const [start, stop] of blocks) {
      const block = make("ol", { class: "block" });
      for (let position = start; position < stop; position += 1) {
        const item = make("li", { class: "cell", tabindex: position ? -1 : 0, "data-position": position });
        this.items.push(item);
        block.append(item);
      }
      this.element.append(block);
    }
  }

  /** Draw cells; those that are as they were are left alone. */
  draw(cells) {
    cells.forEach((cell, position) => {
      if (this.drawn[position] === cell) return;
      this.drawn[position] = cell;
      const item = this.items[position];
      item.dataset.state = cell.state;
      item.dataset.token = cell.id ?? "";
      item.classList.toggle("revoked", cell.revoked);
      // By script, which the policy of the page allows; style attributes in markup it does not.
      item.style.setProperty("--sure", cell.state === "committed" ? cell.confidence : 0);
      item.textContent = visible(cell.token);
      this.name(position);
    });
  }

  /** What is right of the answer is no part of it; blocks of nothing else are drawn small. */
  cut(tokens) {
    for (const block of this.element.children) {
      block.classList.toggle("after", Number(block.firstChild.dataset.position) >= tokens);
    }
    this.items.forEach((item, position) => item.classList.toggle("beyond", position >= tokens));
  }

  /** Mark where the answers part. */
  part(position) {
    this.parted = position;
    const item = this.items[position];
    if (!item) return;
    item.classList.add("parted");
    this.name(position);
  }

  /** Say in the language of now what each cell is. */
  retell() {
    this.items.forEach((_, position) => this.name(position));
  }

  name(position) {
    const cell = this.drawn[position];
    if (!cell) return;
    const confidence = `${(cell.confidence * 100).toFixed(1)} %`;
    const given = { position, token: JSON.stringify(cell.token), confidence, step: cell.step };
    const parts = [words(`cell.${cell.state}`, given)];
    if (cell.revoked) parts.push(words("cell.revoked"));
    if (position === this.parted) parts.push(words("cell.parted"));
    this.items[position].setAttribute("aria-label", parts.join(""));
  }

  tell(target) {
    this.detail.textContent = target.closest?.(".cell")?.getAttribute("aria-label") ?? "";
  }

  /** Arrow keys: one cell is reached by Tab, the others from it. */
  move(event) {
    const from = this.items.indexOf(event.target);
    const to = from < 0 ? -1 : this.next(from, event.key);
    if (!this.items[to]) return;
    event.preventDefault();
    this.items[from].tabIndex = -1;
    this.items[to].tabIndex = 0;
    this.items[to].focus();
  }

  next(from, key) {
    const last = this.items.length - 1;
    const beside = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last };
    if (key in beside) return beside[key];
    if (key !== "ArrowUp" && key !== "ArrowDown") return -1;
    // The nearest line of cells, and there the cell that is nearest.
    const here = this.items[from].getBoundingClientRect();
    const step = key === "ArrowDown" ? 1 : -1;
    let best = -1;
    let line = null;
    for (let at = from + step; this.items[at]; at += step) {
      const there = this.items[at].getBoundingClientRect();
      if (Math.abs(there.top - here.top) < 2) continue;
      line ??= there.top;
      if (Math.abs(there.top - line) > 2) break;
      const nearer = best < 0 || off(this.items[at], here) < off(this.items[best], here);
      if (nearer) best = at;
    }
    return best;
  }
}

const off = (item, here) => Math.abs(item.getBoundingClientRect().left - here.left);

/** A token as it is seen: blanks at its ends would not be. */
function visible(token) {
  return token.replace(/^ | $/g, "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥");
}
