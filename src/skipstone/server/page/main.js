// The page: settings at its side, turns of the chat, and where the next one is asked.

import { ask, keepKey } from "./api.js";
import { byId, make } from "./dom.js";
import { SettingsForm } from "./settings.js";
import { startTheme } from "./theme.js";
import { Turn } from "./turn.js";
import { hush, say, startLanguage } from "./words.js";

const EXAMPLES = ["example.1", "example.2", "example.3"];
const UNAUTHORIZED = 401;
const MOST_SEED = 2 ** 31;

/** What `/v1/settings` says; null until it has. */
let known = null;
/** The forms of A and B. @type {SettingsForm[]} */
let forms = [];
/** @type {Turn[]} */
let turns = [];
/** Ends what is being asked; null: nothing is. @type {AbortController|null} */
let asking = null;

async function connect() {
  hush(byId("problem"));
  try {
    known = await (await ask("/v1/settings")).json();
  } catch (error) {
    if (error.status === UNAUTHORIZED) askForKey();
    // A key that was not given yet is asked for; that is enough.
    if (error.status !== UNAUTHORIZED || byId("key").value) complain(error);
    return;
  }
  byId("access").hidden = true;
  byId("model").textContent = known.model;
  byId("record").disabled = !known.traces;
  byId("record").checked &&= known.traces;
  byId("norecord").hidden = known.traces;
  byId("begin").disabled = false;
  if (!forms.length) forms = ["a", "b"].map((run) => new SettingsForm(byId(`settings-${run}`), known));
}

function askForKey() {
  byId("access").hidden = false;
  byId("panel").open = true;
  byId("key").focus();
}

function complain(error) {
  if (error.status) {
    hush(byId("problem"));
    byId("problem").textContent = error.message;
  } else {
    say(byId("problem"), "error.away", { why: error.message });
  }
}

async function send() {
  const question = byId("question").value.trim();
  if (!question || asking) return;
  if (!known) await connect();
  if (!known) return;
  const settings = forms.slice(0, byId("compare").checked ? 2 : 1).map((form) => form.changed());
  const turn = new Turn(question, settings, byId("record").checked);
  const system = byId("system").value.trim();
  const seed = settings.some(draws) ? { seed: Math.floor(Math.random() * MOST_SEED) } : {};
  const messages = [
    ...(system ? [{ role: "system", content: system }] : []),
    ...turns.flatMap((one) => one.messages),
    { role: "user", content: question },
  ];
  turns.push(turn);
  byId("turns").append(turn.element);
  byId("welcome").hidden = true;
  byId("question").value = "";
  working(new AbortController());
  turn.element.scrollIntoView({ block: "start" });
  await turn.read({ model: known.model, messages, ...seed }, asking.signal);
  working(null);
  // To be asked again, once what was refused is put right.
  if (turn.refused && !byId("question").value) byId("question").value = question;
}

/** Whether tokens are drawn, by chance that nobody has fixed: both columns are to have the same. */
function draws(settings) {
  const own = (name) => settings[name] ?? known.data.find((card) => card.name === name).value;
  return own("seed") === null && Number(own("temperature")) > 0;
}

/** @param {AbortController|null} controller of what is being asked */
function working(controller) {
  asking = controller;
  byId("send").hidden = Boolean(controller);
  byId("stop").hidden = !controller;
  document.body.classList.toggle("asking", Boolean(controller));
}

function begin() {
  asking?.abort();
  turns = [];
  byId("turns").replaceChildren();
  byId("welcome").hidden = false;
  byId("question").focus();
}

function offer() {
  for (const word of EXAMPLES) {
    const button = say(make("button", { type: "button", class: "quiet" }), word);
    button.addEventListener("click", () => {
      byId("question").value = button.textContent;
      byId("question").focus();
    });
    byId("examples").append(make("li", {}, button));
  }
  const compare = say(make("button", { type: "button", class: "quiet", id: "begin", disabled: true }), "compare.start");
  compare.addEventListener("click", () => {
    byId("panel").open = true;
    byId("compare").checked = true;
    byId("compare").dispatchEvent(new Event("change"));
    byId("settings-b").querySelector("select")?.focus();
  });
  byId("welcome").append(compare);
}

function listen() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("question").addEventListener("keydown", (event) => {
    // Enter also ends the choice of a Chinese character.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  document.addEventListener("keydown", ({ key }) => key === "Escape" && asking?.abort());
  byId("stop").addEventListener("click", () => asking?.abort());
  byId("anew").addEventListener("click", begin);
  byId("compare").addEventListener("change", ({ target }) => {
    byId("settings-b").hidden = !target.checked;
  });
  byId("access").addEventListener("submit", (event) => {
    event.preventDefault();
    keepKey(byId("key").value.trim());
    connect();
  });
  document.addEventListener("spoken", () => {
    for (const turn of turns) turn.answers.forEach(({ board }) => board.retell());
  });
}

startTheme(byId("theme"));
offer();
startLanguage();
listen();
byId("panel").open = matchMedia("(min-width: 60rem)").matches;
connect();
