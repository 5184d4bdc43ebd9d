// The canvas of one answer, drawn from its stream alone (docs/serve.md, "The canvas of a stream").

/**
 * @typedef {object} Cell
 * @property {"masked"|"provisional"|"committed"|"filled"} state
 * @property {number|null} id @property {string} token @property {number} confidence
 * @property {number} step the last one that changed it; -1: none
 * @property {boolean} revoked whether what was decided here was ever taken back
 */

const MASKED = { state: "masked", id: null, token: "", confidence: 0, step: -1, revoked: false };

export class Canvas {
  constructor() {
    /** The `begin` event; null before it. */
    this.layout = null;
    /** The `step` events, in order. @type {object[]} */
    this.steps = [];
    /** What each step decided, without those that had nothing to decide; see divergence.js. */
    this.decisions = [];
    /** @type {Cell[]} */
    this.cells = [];
    this.ended = false;
  }

  /** Take an event of the stream. */
  take(news) {
    if (news.type === "begin") {
      this.layout = news;
      this.cells = blank(news.length);
    } else if (news.type === "step") {
      if (decides(news, this.cells, this.layout)) this.decisions.push(news);
      this.steps.push(news);
      apply(this.cells, news);
    } else {
      this.ended = true;
    }
  }

  /** The cells after so many steps. */
  after(count) {
    if (count === this.steps.length) return this.cells;
    const cells = blank(this.layout.length);
    for (const step of this.steps.slice(0, count)) apply(cells, step);
    return cells;
  }
}

const blank = (length) => Array.from({ length }, () => MASKED);

/** A step is applied in the order that the server's documentation gives. */
function apply(cells, step) {
  const put = (position, change) => {
    cells[position] = { ...cells[position], ...change, step: step.number };
  };
  for (const position of step.revoked) put(position, { ...MASKED, revoked: true });
  for (const state of ["committed", "provisional"]) {
    for (const { position, id, token, confidence } of step[state]) {
      put(position, { state, id, token, confidence });
    }
  }
  for (const position of step.filled) put(position, { state: "filled", id: null, token: "" });
}

/** Whether there is anything to decide in a step: some forwards only write keys and values. */
function decides(step, cells, layout) {
  if (step.committed.length || step.revoked.length || step.filled.length) return true;
  const [start, stop] = layout.blocks[step.block];
  return cells.slice(start, stop).some(({ state }) => state === "masked" || state === "provisional");
}
