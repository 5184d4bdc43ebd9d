// What a reader sees of any page: texts, and whether they and marks stand out from their ground.

const TEXT = 4.5, LARGE = 3, MARK = 3; // WCAG 2.2, level AA
// --- colours

const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function rgba(colour) {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = "#000";
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
}
const over = (top, ground, alpha = 1) => top.slice(0, 3).map((c, i) => c * top[3] * alpha + ground[i] * (1 - top[3] * alpha));
const linear = (c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
function contrast(a, b) {
  const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
}
function groundOf(element) {
  const layers = [];
  for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
  return layers.reverse().reduce((ground, layer) => over(layer, ground), [255, 255, 255]);
}

// --- text

function* texts() {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest("script, style, .hidden, .skip")) continue;
    if (parent.checkVisibility({ opacityProperty: true, visibilityProperty: true })) yield node;
  }
}

function paleTexts() {
  const found = [];
  for (const node of texts()) {
    const style = getComputedStyle(node.parentElement);
    const ground = groundOf(node.parentElement);
    const size = parseFloat(style.fontSize);
    const need = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? LARGE : TEXT;
    const colour = node.parentElement instanceof SVGElement ? style.fill : style.color;
    const ratio = contrast(over(rgba(colour), ground), ground);
    if (ratio < need) found.push(`${node.data.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return found;
}

// --- marks of vector graphics in the page

// Those that are painted too weakly; the better of filling and outline counts.
function paleShapes(selector) {
  const found = [];
  for (const shape of document.querySelectorAll(selector)) {
    if (!shape.checkVisibility()) continue;
    const style = getComputedStyle(shape), ground = groundOf(shape);
    const ratios = (shape.tagName === "line" ? ["stroke"] : ["fill", "stroke"])
      .filter((paint) => style[paint] !== "none")
      .map((paint) => contrast(over(rgba(style[paint]), ground, Number(style[`${paint}Opacity`])), ground));
    const ratio = Math.max(...ratios);
    if (ratio < MARK) found.push(`${shape.parentElement.getAttribute("class")} ${shape.getAttribute("class") ?? shape.tagName}: ${ratio.toFixed(2)}`);
  }
  return [...new Set(found)];
}
