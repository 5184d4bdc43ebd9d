// One answer: its text, its canvas as it fills, and a slider to see its steps again.

import { stream } from "./api.js";
import { Board } from "./board.js";
import { Canvas } from "./canvas.js";
import { make } from "./dom.js";
import { hush, say } from "./words.js";

export class Answer {
  /**
   * @param {string} run A or B
   * @param {Object<string, string>} settings of the engine, that the server is asked to change
   */
  constructor(run, settings) {
    this.run = run;
    this.settings = settings;
    this.canvas = new Canvas();
    this.board = new Board(run);
    this.text = "";
    /** Under which the server keeps its trace. @type {string|null} */
    this.trace = null;
    /** Why it keeps none. @type {string|null} */
    this.unrecorded = null;
    this.failed = false;
    this.state = say(make("p", { class: "state" }), "answer.wait");
    // What is busy is read out once it is done.
    this.said = make("p", { class: "said", "aria-live": "polite", "aria-busy": "true" });
    this.slider = say(make("input", { type: "range", min: 0, max: 0, value: 0 }), "canvas.slider", { run }, "aria-label");
    this.at = make("span", { class: "at" });
    this.slider.addEventListener("input", () => this.show(Number(this.slider.value)));
    this.steps = make("div", { class: "steps", hidden: true }, this.slider, this.at);
    this.element = make(
      "article",
      { class: `answer answer-${run.toLowerCase()}` },
      this.head(),
      this.said,
      this.board.element,
      this.board.detail,
      this.steps,
      this.state,
    );
  }

  head() {
    const name = say(make("h3", { class: "hidden" }), "answer.of", { run: this.run });
    const spelled = Object.entries(this.settings).map(([key, value]) => `${key}=${value}`);
    const about = spelled.length ? make("code", {}, spelled.join(" ")) : say(make("span"), "settings.own");
    return make(
      "header",
      {},
      make("i", { class: `run run-${this.run.toLowerCase()}`, "aria-hidden": "true" }, this.run),
      name,
      about,
    );
  }

  /**
   * Ask, and draw what comes.
   * @param {object} request body of a chat completion, without what is of this answer alone
   * @param {boolean} record whether a trace is wanted
   * @param {() => void} seen called after each event
   */
  async read(request, record, signal, seen) {
    const skipstone = { ...this.settings, ...(record ? { trace: "decisions" } : {}) };
    const { seed, ...rest } = request;
    const drawn = seed === undefined || this.settings.seed ? {} : { seed };
    const body = { ...rest, ...drawn, stream: true, stream_options: { canvas: true }, skipstone };
    try {
      for await (const chunk of stream("/v1/chat/completions", body, signal)) {
        for (const choice of chunk.choices) this.take(choice);
        seen();
      }
      this.end("answer.done");
      if (!this.text) say(this.said, "answer.empty");
    } catch (error) {
      if (signal.aborted) this.end("answer.stopped");
      else this.refuse(error);
    }
    this.said.setAttribute("aria-busy", "false");
  }

  take({ delta, skipstone }) {
    if (delta.content) {
      this.text += delta.content;
      this.said.textContent = this.text;
    }
    this.trace = skipstone?.trace_id ?? this.trace;
    this.unrecorded = skipstone?.trace_error ?? null;
    const news = skipstone?.canvas;
    if (!news) return;
    this.canvas.take(news);
    if (news.type === "begin") this.board.lay(news);
    if (news.type === "step") {
      const { block, step } = news;
      say(this.state, "answer.step", { block, step });
    }
    if (news.type === "end") this.board.cut(news.tokens);
    this.board.draw(this.canvas.cells);
  }

  end(how) {
    const steps = this.canvas.steps.length;
    const tokens = this.canvas.cells.filter(({ state }) => state === "committed").length;
    say(this.state, how, { steps, tokens });
    this.steps.hidden = steps === 0;
    this.slider.max = steps;
    this.show(steps);
  }

  refuse(error) {
    this.failed = true;
    if (this.canvas.layout) {
      this.end("answer.broken");
      say(this.state, "answer.broken", { why: error.message }).classList.add("refused");
    } else {
      hush(this.state);
      say(this.said, "answer.refused", { why: error.message }).classList.add("refused");
      this.board.element.hidden = true;
    }
  }

  /** Show the canvas as it was after so many steps. */
  show(count) {
    if (!this.canvas.layout) return;
    this.slider.value = count;
    const last = this.canvas.steps[count - 1];
    if (last) say(this.at, "canvas.step", { block: last.block, step: last.step });
    else say(this.at, "canvas.blank");
    this.board.draw(this.canvas.after(count));
  }
}
