// What a difference comes from: the server runs the model again, and proves a cause.

import { ask } from "./api.js";
import { make } from "./dom.js";
import { say, spoken, words } from "./words.js";

/**
 * Buttons for two recorded answers; with one alone, it is held against the same request without
 * cache and skip.
 * @param {string|null} a id of a trace @param {string} b
 */
export function proofOf(a, b) {
  const found = make("div", { class: "found", role: "status" });
  const button = say(make("button", { type: "button", class: "quiet cause" }), a ? "proof.cause" : "proof.exact");
  const report = say(make("button", { type: "button", class: "quiet report" }), "proof.report");
  button.addEventListener("click", () => diagnose(a, b, button, found));
  report.addEventListener("click", () => openReport(a, b));
  return make("div", { class: "proof" }, make("div", { class: "buttons" }, button, report), found);
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
  line("proof.of", { what: first.what, proof: words(`proof.${first.proof}`) });
  if (first.remedy) line("proof.remedy", { remedy: first.remedy });
  lines.push(make("p", { class: "faint", lang: "en" }, diagnosis.summary));
  return lines;
}
