// What a reader sees of a report page, beside contrast.js: charts, what is cut off, and words.

const palette = data.colours[theme()];

// --- charts, drawn once more as vector graphics

async function drawings() {
  const found = [];
  for (const [figure, view] of charts) {
    const holder = document.createElement("div");
    holder.style.cssText = `position: absolute; left: 0; top: 0; visibility: hidden; width: ${figure.clientWidth}px`;
    holder.innerHTML = await view.toSVG();
    document.body.append(holder);
    found.push({ name: figure.dataset.view, holder, svg: holder.firstElementChild, width: figure.querySelector("canvas").clientWidth });
  }
  return found;
}

const inherited = (element, name) => element.closest(`[${name}]`)?.getAttribute(name);

// Contrast of what an element is painted with, the better of filling and outline.
function strength(element, svg) {
  const ground = rgba(palette.ground);
  const opacity = Number(element.getAttribute("opacity") ?? 1);
  const ratios = [];
  for (const paint of ["fill", "stroke"]) {
    const colour = inherited(element, paint);
    if (!colour || colour === "none" || colour === "transparent") continue;
    const alpha = opacity * Number(element.getAttribute(`${paint}-opacity`) ?? 1);
    if (alpha === 0) continue;
    if (colour.startsWith("url(")) {
      const stops = [...svg.querySelectorAll(`${colour.slice(4, -1)} stop`)];
      ratios.push(Math.min(...stops.map((stop) => contrast(rgba(stop.getAttribute("stop-color")), ground))));
    } else if (alpha === 1 && String(rgba(colour)) === String(ground)) {
      // Painted in the colour of the ground, on cells: of every colour that a cell can have.
      ratios.push(Math.min(...Object.entries(palette).filter(([role]) => role.startsWith("ramp")).map(([, c]) => contrast(rgba(c), ground))));
    } else ratios.push(contrast(over(rgba(colour), ground, alpha), ground));
  }
  return ratios.length ? Math.max(...ratios) : null;
}

async function paleMarks() {
  const found = new Set();
  for (const { name, holder, svg } of await drawings()) {
    const ground = rgba(palette.ground);
    for (const text of svg.querySelectorAll("text")) {
      if (!text.textContent || Number(text.getAttribute("opacity") ?? 1) === 0) continue;
      const ratio = contrast(over(rgba(text.getAttribute("fill")), ground), ground);
      if (ratio < TEXT) found.add(`${name} text ${text.textContent}: ${ratio.toFixed(2)}`);
    }
    const marks = ".role-mark, .role-legend-symbol, .role-legend-gradient";
    for (const group of svg.querySelectorAll(marks)) {
      for (const mark of group.querySelectorAll(":scope > path, :scope > line, :scope > rect, :scope > g > path")) {
        // What is left behind by a commit only repeats the mark on top of it.
        if ((mark.getAttribute("fill") ?? "") === palette.trail) continue;
        const ratio = strength(mark, svg);
        if (ratio !== null ? ratio < MARK : group.matches(".role-legend-symbol")) {
          found.add(`${name} ${group.getAttribute("class")}: ${ratio?.toFixed(2)} ${mark.outerHTML.slice(0, 160)}`);
        }
      }
    }
    holder.remove();
  }
  return [...found];
}

async function cutCharts() {
  const found = [];
  for (const { name, holder, svg, width } of await drawings()) {
    const box = svg.getBoundingClientRect();
    for (const text of svg.querySelectorAll("text")) {
      if (!text.textContent || Number(text.getAttribute("opacity") ?? 1) === 0) continue;
      const { left, right, top, bottom } = text.getBoundingClientRect();
      const inside = left >= box.left - 2 && right <= box.left + width + 2 && top >= box.top - 2 && bottom <= box.bottom + 2;
      if (!inside) found.push(`${name}: ${text.textContent} ends at ${right - box.left} of ${width}`);
    }
    holder.remove();
  }
  return found;
}

async function chartTexts() {
  const found = [];
  for (const { name, holder, svg } of await drawings()) {
    for (const text of svg.querySelectorAll("text")) found.push([name, text.closest("g[class]").getAttribute("class"), text.textContent]);
    holder.remove();
  }
  return found;
}

// --- what is cut off

function cutTexts() {
  const found = [];
  for (const node of texts()) {
    if (node.parentElement.closest(".scroll, .rows, .answer p, [popover]")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const { left, right } of range.getClientRects()) {
      if (left < -1 || right > innerWidth + 1) found.push(`${node.data.trim().slice(0, 40)}: ${left} to ${right}`);
    }
  }
  return found;
}

// Whether a bar is one line in which nothing overlaps, wraps or hides.
function inOneLine(selector) {
  const bar = document.querySelector(selector);
  const shown = [...bar.children].filter((e) => e.checkVisibility() && !e.matches(".hidden"));
  const boxes = shown.map((e) => e.getBoundingClientRect());
  const lines = shown.every((e, i) => boxes[i].height < 44 && e.scrollWidth <= e.clientWidth + 1);
  const apart = boxes.every((box, i) => i === 0 || box.left >= boxes[i - 1].right - 1);
  const inside = boxes.every((box) => box.left >= 0 && box.right <= innerWidth);
  return lines && apart && inside && bar.clientHeight < 56;
}

// --- words

// All that is written for the reader: no code, no tokens of the model, no names that runs were given.
function writing() {
  const names = "code, .token, .brand, .tools, .runs td:not(:last-child), .chain bdi, #inspector td, #answers";
  return [...texts()].filter((node) => !node.parentElement.closest(names)).map((node) => node.data.trim());
}
