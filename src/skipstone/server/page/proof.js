// What a difference comes from: the server runs the model again, and proves a cause.

import { ask } from "./api.js";
import { make } from "./dom.js";
import { say, spoken, words } from "./words.js";

/**
 * Buttons for two answers; one alone is held against the same request without cache and skip. They
 * are there from the beginning, so that nothing moves when the answers are.
 */
export class Proof {
  /** @param {boolean} two whether there are two answers */
  constructor(two) {
    const button = (name, word) => say(make("button", { type: "button", class: `quiet ${name}`, disabled: true }), word);
    this.buttons = [button("cause", two ? "proof.cause" : "proof.exact"), button("report", "proof.report")];
    this.found = make("div", { class: "found", role: "status" });
  }

  /** Ids of their traces are known. @param {string|null} a null: of one answer, `b` @param {string} b */
  offer(a, b) {
    const [cause, report] = this.buttons;
    cause.addEventListener("click", () => diagnose(a, b, cause, this.found));
    report.addEventListener("click", () => openReport(a, b));
    for (const one of this.buttons) one.disabled = false;
  }
}

/** In a tab of its own. It has a copy of this tab's session, and so the key. */
function openReport(a, b) {
  const query = new URLSearchParams({ ...(a ? { against: a } : {}), lang: spoken() });
  const asked = new URLSearchParams({ report: `/traces/${b}/report?${query}` });
  window.open(`/page/reader.html?${asked}`, "_blank");
}

async function diagnose(a, b, button, found) {
  button.disabled = true;
  found.replaceChildren(say(make("p", { class: "working" }), "proof.working"));
  try {
    const answer = await ask("/traces/diagnose", a ? { a, b } : { b });
    found.replaceChildren(...told(await answer.json(), a));
  } catch (error) {
    found.replaceChildren(say(make("p", { class: "refused" }), "proof.refused", { why: error.message }));
  }
  button.disabled = false;
}

function told(diagnosis, a) {
  const lines = [];
  const line = (word, given, kind = "p") => lines.push(say(make(kind), word, given));
  if (!a) line("proof.exactly");
  const [first] = diagnosis.findings;
  if (!first) {
    line(diagnosis.parted ? "proof.found" : "proof.same", { rule: diagnosis.verdict, summary: diagnosis.summary });
    return lines;
  }
  line("proof.found", { rule: first.rule }, "h4");
  line("proof.of", { proof: words(`proof.${first.proof}`) });
  if (first.remedy) line("proof.remedy", { remedy: first.remedy });
  for (const text of [first.what, diagnosis.summary]) {
    lines.push(make("p", { class: "faint", lang: "en" }, text));
  }
  return lines;
}
