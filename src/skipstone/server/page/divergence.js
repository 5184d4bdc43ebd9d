// The first decision in which two answers to one prompt differ: the tracer's definition
// (src/skipstone/diff/divergence.py), applied to streams while they come. Up to there both
// canvases are the same, so step number n of one stands beside step number n of the other.

/** @typedef {{kind: "committed_set"|"token"|"stop", block: number, step: number, position: number,
 *    by: "A"|"B", a: number|null, b: number|null}} Found `by`: whose decision it is, if it is one's alone;
 *    `a` and `b`: number of the step there; null: it has none. */

export class Divergence {
  /** @param {import("./canvas.js").Canvas} a @param {import("./canvas.js").Canvas} b */
  constructor(a, b) {
    this.a = a;
    this.b = b;
    /** @type {Found|null} */
    this.found = null;
    this.next = 0;
  }

  /** Look at what has come since; the first decision that differs, once there is one. */
  look() {
    while (!this.found) {
      const a = this.a.decisions[this.next];
      const b = this.b.decisions[this.next];
      if (!a && !b) break;
      if (a && b) this.found = apart(a, b, this.a.layout, this.b.layout);
      else if (a ? this.b.ended : this.a.ended) {
        this.found = a ? alone("a", a, this.a.layout) : alone("b", b, this.b.layout);
      } else break;
      this.next += 1;
    }
    return this.found;
  }
}

function apart(a, b, layoutA, layoutB) {
  // One has gone on to the next block: the step of the earlier block has no counterpart.
  if (a.block !== b.block) return a.block < b.block ? alone("a", a, layoutA) : alone("b", b, layoutB);
  const wroteA = written(a);
  const wroteB = written(b);
  const at = { block: a.block, step: a.step, a: a.number, b: b.number };
  const whose = (position, ofA) => ({ position, by: ofA.includes(position) ? "A" : "B" });
  const others = smallest(difference(wroteA.keys(), wroteB.keys()));
  if (others !== null) return { ...at, kind: "committed_set", ...whose(others, [...wroteA.keys()]) };
  const token = smallest([...wroteA.keys()].filter((one) => wroteA.get(one) !== wroteB.get(one)));
  if (token !== null) return { ...at, kind: "token", position: token };
  const length = Math.min(layoutA.length, layoutB.length);
  const stopped = smallest(difference(a.filled, b.filled).filter((one) => one < length));
  return stopped === null ? null : { ...at, kind: "stop", ...whose(stopped, a.filled) };
}

function alone(run, step, layout) {
  const [position] = layout.blocks[step.block];
  return { kind: "stop", block: step.block, step: step.step, position, by: run.toUpperCase(), a: null, b: null, [run]: step.number };
}

/** What a step wrote, by position; null is a mask. */
function written(step) {
  const found = new Map(step.revoked.map((position) => [position, null]));
  for (const { position, id } of step.committed) found.set(position, id);
  return found;
}

/** What is in one of two lists alone. */
function difference(a, b) {
  const [mine, theirs] = [new Set(a), new Set(b)];
  return [...[...mine].filter((one) => !theirs.has(one)), ...[...theirs].filter((one) => !mine.has(one))];
}

const smallest = (numbers) => (numbers.length ? Math.min(...numbers) : null);
