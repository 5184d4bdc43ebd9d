// What the page says, in the reader's language: the browser's, until another one is chosen.

import { english } from "./words-en.js";
import { chinese } from "./words-zh.js";

const CHOSEN = "skipstone.language";
const WORDS = { en: english, zh: chinese };

/** Values of what each element says, so that it can be said again in another language. */
const values = new WeakMap();
let language = "en";

export const spoken = () => language;

/** A sentence; `{name}` in it stands for a value. */
export function words(key, given = {}) {
  return (WORDS[language][key] ?? key).replace(/\{(\w+)\}/g, (_, name) => given[name]);
}

/** Let an element say something, as its text or in one of its attributes, now and in any language. */
export function say(element, key, given = {}, within = "") {
  element.dataset.word = key;
  if (within) element.dataset.wordIn = within;
  values.set(element, given);
  if (within) element.setAttribute(within, words(key, given));
  else element.textContent = words(key, given);
  return element;
}

/** Let an element say nothing. */
export function hush(element) {
  delete element.dataset.word;
  element.textContent = "";
}

/** Begin in the reader's language, and follow the buttons that have a `data-language`. */
export function startLanguage() {
  const known = [localStorage.getItem(CHOSEN), ...navigator.languages].filter(Boolean);
  speak(known.map((one) => one.slice(0, 2).toLowerCase()).find((one) => one in WORDS) ?? "en");
  for (const button of document.querySelectorAll("button[data-language]")) {
    button.addEventListener("click", () => {
      localStorage.setItem(CHOSEN, button.dataset.language);
      speak(button.dataset.language);
    });
  }
}

function speak(chosen) {
  language = chosen;
  document.documentElement.lang = chosen === "zh" ? "zh-CN" : chosen;
  for (const element of document.querySelectorAll("[data-word]")) {
    say(element, element.dataset.word, values.get(element), element.dataset.wordIn);
  }
  for (const button of document.querySelectorAll("button[data-language]")) {
    button.setAttribute("aria-pressed", button.dataset.language === chosen);
  }
  // For what says more than one sentence at once.
  document.dispatchEvent(new Event("spoken"));
}
