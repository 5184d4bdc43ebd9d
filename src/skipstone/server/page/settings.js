// The form of one column's settings, made of what the server says of itself. What is left empty is
// as the server was started; whatever is entered, the server judges.

import { make } from "./dom.js";
import { hush, say } from "./words.js";

const FIRST = ["unmask", "cache", "skip", "gen_length", "block_length", "temperature"];

export class SettingsForm {
  /** @param {Element} section @param {object} known what `/v1/settings` says */
  constructor(section, known) {
    this.known = known;
    /** Reads each setting; empty: it was not changed. @type {Map<string, () => string>} */
    this.fields = new Map();
    const more = make("details", {}, say(make("summary"), "settings.more"));
    const cards = new Map(known.data.map((card) => [card.name, card]));
    for (const name of FIRST.filter((one) => cards.has(one))) section.append(this.field(cards.get(name)));
    for (const card of known.data.filter(({ name }) => !FIRST.includes(name))) more.append(this.field(card));
    section.append(more);
  }

  /** What was changed, by name, as the command line has it. */
  changed() {
    const read = [...this.fields].map(([name, value]) => [name, value().trim()]);
    return Object.fromEntries(read.filter(([, value]) => value));
  }

  field(card) {
    if (card.name in this.known.policies) return this.policy(card);
    const box = card.choices.length ? choice(card, card.choices) : entry(card.value);
    box.name = card.name;
    this.fields.set(card.name, () => box.value);
    return labelled(card.name, box);
  }

  /** A policy by name, and its own settings below it. */
  policy(card) {
    const policies = new Map(this.known.policies[card.name].map((one) => [one.name, one]));
    const box = choice(card, [...policies.keys()]);
    const about = make("p", { class: "faint about", lang: "en" });
    const own = make("div", { class: "own" });
    let entries = [];
    box.name = card.name;
    box.addEventListener("change", () => {
      const chosen = policies.get(box.value);
      about.textContent = chosen?.about ?? "";
      entries = Object.entries(chosen?.settings ?? {}).map(([name, value]) => [name, entry(value)]);
      own.replaceChildren(
        ...entries.map(([name, input]) => make("label", {}, make("code", {}, name), input)),
      );
    });
    this.fields.set(card.name, () => {
      const given = entries.map(([name, input]) => [name, input.value.trim()]);
      const stated = given.filter(([, value]) => value).map(([name, value]) => `${name}=${value}`);
      return stated.length ? `${box.value}:${stated.join(",")}` : box.value;
    });
    return make("div", { class: "policy" }, labelled(card.name, box), about, own);
  }
}

function labelled(name, box) {
  const label = make("span");
  if (FIRST.includes(name)) say(label, `setting.${name}`);
  else hush(label);
  return make("label", {}, label, make("code", {}, name), box);
}

function choice(card, names) {
  const server = say(make("option", { value: "" }), "settings.server", { value: spelled(card.value) });
  return make("select", {}, server, ...names.map((name) => make("option", { value: name }, name)));
}

function entry(value) {
  return make("input", { type: "text", placeholder: spelled(value), autocomplete: "off", spellcheck: "false" });
}

const spelled = (value) => (Array.isArray(value) ? value.join(",") : String(value ?? "")) || "none";
