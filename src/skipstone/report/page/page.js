// The page's script: one cursor (step, layer, position) that all views follow.
// Tables are unpacked when they are first needed, charts drawn when they come into sight.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
const cursor = { ...data.start };
const charts = new Map(); // figure -> the Vega view drawn in it
const MOST_ROWS = 400;

const word = (key, values = {}) =>
  data.words[root.lang][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
const theme = () => root.dataset.theme || (dark.matches ? "dark" : "light");

// A chart with the colours of the theme in place of the roles that it names.
function painted(part) {
  if (typeof part === "string") return part.startsWith("@") ? data.colours[theme()][part.slice(1)] ?? part : part;
  if (Array.isArray(part)) return part.map(painted);
  if (part === null || typeof part !== "object") return part;
  return Object.fromEntries(Object.entries(part).map(([name, value]) => [name, painted(value)]));
}

// --- tables

const ARRAYS = { uint8: Uint8Array, uint16: Uint16Array, int32: Int32Array, float32: Float32Array, float64: Float64Array };

async function inflate(column) {
  const bytes = Uint8Array.from(atob(column.data), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new ARRAYS[column.dtype](await new Response(stream).arrayBuffer());
}

// The numbers of a column; an axis has none, it is counted.
function numbers(column) {
  if (column.data) column.numbers ??= inflate(column);
  return column.numbers;
}

function cell(column, numbers, i) {
  const number = numbers ? numbers[i] : Math.floor(i / column.repeat) % column.count;
  if (Number.isNaN(number) || number === (column.missing ?? null)) return null;
  if (column.labels.length) return word(column.labels[number]);
  if (column.texts.length) return column.texts[number];
  return numbers ? column.start + column.scale * number : number;
}

async function rowsOf(view) {
  const { columns, ends, needs } = view.table;
  const step = view.byStep ? cursor.step : 0;
  const names = Object.keys(columns);
  const arrays = await Promise.all(names.map((name) => numbers(columns[name])));
  const rows = [];
  for (let i = step ? ends[step - 1] : 0; i < ends[step]; i++) {
    const row = {};
    names.forEach((name, k) => (row[name] = cell(columns[name], arrays[k], i)));
    if (!needs || row[needs] !== null) rows.push(row);
  }
  return rows;
}

// --- charts

const signals = () => Object.entries(cursor).map(([name, value]) => [`cursor_${name}`, value]);

async function draw(figure) {
  const view = data.views[figure.dataset.view];
  const rows = await rowsOf(view);
  const shown = figure.dataset.view === "top" ? rows.filter((r) => r.position === cursor.position) : rows;
  figure.dataset.rows = shown.length;
  figure.querySelector(".empty").hidden = shown.length > 0;
  const place = figure.querySelector(".chart");
  place.hidden = shown.length === 0;
  if (figure.querySelector("details").open) tabulate(figure.querySelector(".rows"), rows);
  explain(figure, shown.length > 0);
  if (!shown.length) return;
  const drawn = charts.get(figure);
  if (drawn) {
    signals().forEach(([name, value]) => drawn.signal(name, value));
    if (view.byStep) drawn.data("rows", rows);
    await drawn.runAsync();
    return;
  }
  const drawing = painted(view.specs[root.lang]);
  const spec = { ...drawing, datasets: { ...drawing.datasets, rows } };
  spec.params = spec.params.map((p) => ({ ...p, value: cursor[p.name.slice("cursor_".length)] ?? p.value }));
  const options = { actions: false, ast: true, renderer: "canvas", config: configured(figure), tooltip: { theme: theme() } };
  const { view: made } = await window.vegaEmbed(place, spec, options);
  charts.set(figure, made);
  made.addEventListener("click", (event) => point(made, event));
}

// Legends stand below each other where there is no room for them side by side.
function configured(figure) {
  const config = painted(data.config);
  if (figure.clientWidth >= 560) return config;
  return { ...config, legend: { ...config.legend, columns: 1, layout: { bottom: { direction: "vertical", anchor: "start" } } } };
}

// Says how many cells are blank in this step, and why.
function explain(figure, shown) {
  const counts = Object.entries(data.views[figure.dataset.view].blanks[cursor.step] ?? {});
  const place = figure.querySelector(".blanks");
  place.hidden = !shown || counts.length === 0;
  const reasons = counts.map(([key, count]) => word(key, { count })).join(word("blank.and"));
  if (!place.hidden) place.textContent = word("blank.all", { reasons });
}

// A click moves the cursor to what is under it, mark or empty ground.
function point(drawn, event) {
  const { origin } = { origin: drawn.origin() };
  const box = drawn.container().querySelector("canvas").getBoundingClientRect();
  const names = { x: event.clientX - box.left - origin[0], y: event.clientY - box.top - origin[1] };
  const figure = drawn.container().closest("figure");
  const axes = AXES[figure.dataset.view];
  const to = {};
  Object.entries(axes ?? {}).forEach(([scale, name]) => {
    const value = drawn.scale(scale)?.invert?.(names[scale]);
    if (Number.isFinite(value)) to[name] = Math.round(value);
  });
  move(to);
}

const MAP = { x: "position", y: "step" };
const AXES = {
  commits_a: MAP, commits_b: MAP, commits_difference: MAP, shapes_a: MAP, shapes_b: MAP,
  errors: { x: "position", y: "layer" }, similarity_a: { x: "position", y: "layer" },
  similarity_b: { x: "position", y: "layer" }, provenance: { x: "position" },
  candidates: { x: "position" }, skipped: { x: "step" }, milliseconds: { x: "step" },
};

// --- the same as tables

function tabulate(place, rows) {
  place.replaceChildren();
  if (!rows.length) return;
  const table = place.appendChild(document.createElement("table"));
  const head = table.createTHead().insertRow();
  for (const name of Object.keys(rows[0])) {
    const th = head.appendChild(document.createElement("th"));
    th.scope = "col";
    th.textContent = word(`column.${name}`);
  }
  const body = table.createTBody();
  const shown = rows.slice(0, MOST_ROWS);
  const texts = written(shown);
  for (const row of shown) {
    const tr = body.insertRow();
    Object.entries(row).forEach(([name, value]) => fill(tr.insertCell(), name, value, texts));
  }
  if (rows.length > MOST_ROWS) {
    place.append(word("cursor.more", { count: rows.length - MOST_ROWS }));
  }
}

// Texts of numbers by column; what differs does not look the same. Confidences are held against bounds.
const COLUMN_OF = { bound: "confidence" };

function written(rows) {
  const columns = {};
  for (const row of rows) {
    for (const [name, value] of Object.entries(row)) {
      if (typeof value === "number") (columns[COLUMN_OF[name] ?? name] ??= []).push(value);
    }
  }
  return Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, toldApart(values)]));
}

// The twin of skipstone/digits.py: Map of number -> text, with more digits where two look the same.
function toldApart(values, digits = 6) {
  const texts = new Map(values.map((value) => [value, nearOne(value, digits)]));
  let alike = [...texts.keys()];
  for (let precision = digits + 1; precision <= 17 && alike.length; precision++) {
    const counts = new Map();
    for (const text of texts.values()) counts.set(text, (counts.get(text) ?? 0) + 1);
    alike = alike.filter((value) => counts.get(texts.get(value)) > 1);
    alike.forEach((value) => texts.set(value, nearOne(value, precision)));
  }
  return texts;
}

function nearOne(value, digits) {
  const plain = shortest(value, digits);
  const far = 1 - value;
  if (far === 0 || !(Math.abs(far) < 0.5)) return plain;
  const kept = Math.max(2, digits - Math.floor(-Math.log10(Math.abs(far))));
  const near = `1 ${far > 0 ? "-" : "+"} ${shortest(Math.abs(far), kept)}`;
  return plain === "1" || near.length < plain.length ? near : plain;
}

function shortest(value, digits) {
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return String(value);
  const rounded = Number(value.toPrecision(digits));
  return rounded !== 0 && Math.abs(rounded) < 1e-4 ? rounded.toExponential() : String(rounded);
}

function fill(td, name, value, texts) {
  const text = td.appendChild(document.createElement("bdi"));
  if (value === null) text.textContent = "–";
  else if (typeof value !== "number") text.textContent = value;
  else if (name.startsWith("step") && data.steps[value]) text.textContent = named(value);
  else text.textContent = texts[COLUMN_OF[name] ?? name].get(value);
}

const named = (step) => `b${data.steps[step].block} s${data.steps[step].step}`;

// The candidates of both runs at the cursor's position, one column a run.
async function inspect() {
  const found = (await rowsOf(data.views.candidates)).filter((r) => r.position === cursor.position);
  const place = document.querySelector("#inspector .rows");
  document.querySelector("#inspector .empty").hidden = found.length > 0;
  place.replaceChildren();
  if (!found.length) return;
  const table = place.appendChild(document.createElement("table"));
  const texts = written(found);
  for (const name of Object.keys(found[0]).filter((name) => name !== "position")) {
    const tr = (name === "run" ? table.createTHead() : table.tBodies[0] ?? table.createTBody()).insertRow();
    const th = tr.appendChild(document.createElement("th"));
    th.scope = "row";
    th.textContent = word(`column.${name}`);
    found.forEach((row) => fill(tr.insertCell(), name, row[name], texts));
  }
}

// --- the cursor

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function move(to) {
  if (to.step !== undefined) cursor.step = clamp(to.step, 0, data.steps.length - 1);
  if (to.layer !== undefined) cursor.layer = clamp(to.layer, 0, data.layers);
  if (to.position !== undefined) cursor.position = clamp(to.position, 0, data.length - 1);
  const { block, step } = data.steps[cursor.step];
  const link = `#b${block}.s${step}.l${cursor.layer}.p${cursor.position}`;
  if (location.hash !== link) history.replaceState(null, "", link);
  follow();
}

function fromLink() {
  const found = /^#b(\d+)\.s(\d+)(?:\.l(\d+))?(?:\.p(\d+))?$/.exec(location.hash);
  if (!found) return;
  const [block, step, layer, position] = found.slice(1).map((n) => (n === undefined ? undefined : Number(n)));
  const index = data.steps.findIndex((s) => s.block === block && s.step === step);
  move({ step: index < 0 ? undefined : index, layer, position });
}

let waiting = false;
function follow() {
  announce();
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(async () => {
    waiting = false;
    await Promise.all([inspect(), ...seen].map((f) => (f instanceof Element ? queue(f) : f)));
  });
}

function announce() {
  const at = data.steps[cursor.step];
  const fresh = cursor.position - data.prompt;
  const parts = [
    word("cursor.step", at),
    word("cursor.layer", cursor),
    `${word("cursor.position", cursor)} (${fresh < 0 ? word("cursor.prompt") : word("cursor.new", { new: fresh })})`,
  ];
  const how = ["canvas", "alone", "writes"].includes(at.how) ? at.how : "apart";
  const said = (className, text) => {
    const span = document.createElement("span");
    span.className = className;
    span.textContent = text;
    return span;
  };
  const short = word("cursor.short", { ...at, ...cursor, step: at.step });
  document.getElementById("where").replaceChildren(said("wide", parts.join(" · ")), said("narrow", short));
  document.getElementById("canvases").textContent = word(`cursor.${how}`);
  document.querySelectorAll(".token").forEach(({ classList, dataset }) =>
    classList.toggle("here", dataset.position <= cursor.position && cursor.position <= dataset.last),
  );
}

function pressed(event) {
  const figure = event.target.closest?.("figure.view");
  if (!figure || event.target !== figure || event.altKey || event.ctrlKey || event.metaKey) return;
  const kind = data.views[figure.dataset.view].keys;
  const up = kind === "layer" ? { layer: cursor.layer + 1 } : { step: cursor.step - 1 };
  const down = kind === "layer" ? { layer: cursor.layer - 1 } : { step: cursor.step + 1 };
  const to = {
    ArrowLeft: { position: cursor.position - 1 }, ArrowRight: { position: cursor.position + 1 },
    ArrowUp: up, ArrowDown: down, Home: data.start,
    PageUp: { step: cursor.step - 1 }, PageDown: { step: cursor.step + 1 },
  }[event.key];
  if (!to) return;
  event.preventDefault();
  move(to);
}

// --- drawing in turn

const seen = new Set();
const busy = new Map(); // figure -> the drawing under way; a figure is never drawn twice at once

function queue(figure) {
  const next = (busy.get(figure) ?? Promise.resolve()).then(() => draw(figure));
  busy.set(figure, next);
  return next;
}

function redraw() {
  for (const [figure, drawn] of charts) {
    drawn.finalize();
    charts.delete(figure);
    figure.querySelector(".chart").replaceChildren();
  }
  follow();
}

function speak(language) {
  root.lang = language;
  document.querySelectorAll("[data-language]").forEach((b) => b.setAttribute("aria-pressed", b.dataset.language === language));
  document.title = `${document.querySelector("h1").innerText} · Skipstone`;
  redraw();
}

function watch() {
  const figures = [...document.querySelectorAll("figure.view")];
  const show = (figure) => {
    if (seen.has(figure)) return;
    seen.add(figure);
    queue(figure);
  };
  const sight = new IntersectionObserver((entries) => entries.forEach((e) => e.isIntersecting && show(e.target)), { rootMargin: "300px" });
  figures.forEach((figure) => {
    sight.observe(figure);
    figure.querySelector("details").addEventListener("toggle", () => show(figure) ?? queue(figure));
  });
  const idle = window.requestIdleCallback ?? ((f) => setTimeout(f, 200));
  const rest = () => {
    const figure = figures.find((f) => !seen.has(f));
    if (!figure) return;
    show(figure);
    busy.get(figure).then(() => idle(rest));
  };
  addEventListener("load", () => idle(rest));
}

document.addEventListener("keydown", pressed);
document.getElementById("contents").addEventListener("click", (event) => event.target.closest("a") && event.currentTarget.matches(":popover-open") && event.currentTarget.hidePopover());
document.querySelectorAll("[data-language]").forEach((b) => b.addEventListener("click", () => speak(b.dataset.language)));
document.querySelectorAll("[data-move]").forEach((b) =>
  b.addEventListener("click", () => move(b.dataset.move === "0" ? data.start : { step: cursor.step + Number(b.dataset.move) })),
);
document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = theme() === "dark" ? "light" : "dark";
  redraw();
});
dark.addEventListener("change", redraw);
matchMedia("(max-width: 40rem)").addEventListener("change", redraw);
addEventListener("hashchange", fromLink);
fromLink();
follow();
watch();
