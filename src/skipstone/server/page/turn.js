// One turn of the chat: what was asked, one answer or two beside each other, and where they part.

import { Answer } from "./answer.js";
import { Divergence } from "./divergence.js";
import { make } from "./dom.js";
import { Proof } from "./proof.js";
import { hush, say } from "./words.js";

export class Turn {
  /**
   * @param {string} question
   * @param {Object<string, string>[]} settings of each column
   * @param {boolean} record whether answers are recorded, so that there is something to prove
   */
  constructor(question, settings, record) {
    this.question = question;
    this.answers = settings.map((own, number) => new Answer("AB"[number], own));
    const [a, b] = this.answers;
    this.record = record;
    this.parting = make("p", { class: "parting", role: "status" });
    this.show = say(make("button", { type: "button", class: "quiet show", disabled: true }), "parted.show");
    this.show.addEventListener("click", () => this.showParting());
    this.proof = new Proof(Boolean(b));
    this.bar = make(
      "div",
      { class: "bar" },
      this.parting,
      make("div", { class: "buttons" }, ...(b ? [this.show] : []), ...(record ? this.proof.buttons : [])),
      this.proof.found,
    );
    if (b) say(this.parting, "parted.far");
    this.divergence = b ? new Divergence(a.canvas, b.canvas) : null;
    this.element = make(
      "section",
      { class: "turn" },
      make("div", { class: "question" }, say(make("h2", { class: "hidden" }), "you"), make("p", {}, question)),
      this.bar,
      make("div", { class: "answers" }, ...this.answers.map(({ element }) => element)),
      legend(Boolean(b)),
    );
  }

  /** Whether there is no answer at all. */
  get refused() {
    return this.answers.every(({ failed, text }) => failed && !text);
  }

  /** What the chat has of this turn; nothing if there is no answer to go on with. */
  get messages() {
    const [{ text }] = this.answers;
    if (!text) return [];
    return [{ role: "user", content: this.question }, { role: "assistant", content: text }];
  }

  /** Ask for all answers at once. */
  async read(request, signal) {
    const seen = () => this.look();
    await Promise.all(this.answers.map((answer) => answer.read(request, this.record, signal, seen)));
    this.conclude();
  }

  /** Mark the first decision that differs as soon as there is one. */
  look() {
    if (!this.divergence || this.marked) return;
    const found = this.divergence.look();
    if (!found) return;
    this.marked = true;
    say(this.parting, `parted.${found.kind}`, found);
    this.parting.dataset.position = found.position;
    this.answers.forEach(({ board }) => board.part(found.position));
    this.element.classList.add("differs");
  }

  conclude() {
    const [a, b] = this.answers;
    const whole = this.answers.every(({ canvas, failed }) => canvas.ended && !failed);
    if (b && !this.marked) {
      if (whole) say(this.parting, "parted.none");
      else hush(this.parting);
    }
    this.show.disabled = !this.marked;
    if (this.answers.every(({ trace }) => trace)) this.proof.offer(b ? a.trace : null, (b ?? a).trace);
    for (const { run, unrecorded } of this.answers.filter((one) => one.unrecorded)) {
      this.bar.append(say(make("p", { class: "refused" }), "answer.unrecorded", { run, why: unrecorded }));
    }
    if (b && a.text) this.element.append(say(make("p", { class: "faint" }), "goes.on"));
  }

  /** Both canvases as they were right after the decision. */
  showParting() {
    const { a, b } = this.divergence.found;
    [a ?? b, b ?? a].forEach((step, number) => this.answers[number].show(step + 1));
  }
}

function legend(two) {
  const states = ["masked", "provisional", "committed", "revoked", "filled", ...(two ? ["parted"] : [])];
  const items = states.map((state) => {
    const mark = make("i", { class: `cell ${state}`, "data-state": state, "aria-hidden": "true" });
    return make("li", {}, mark, say(make("span"), `legend.${state}`));
  });
  return make("ul", { class: "legend" }, ...items);
}
