// Elements from values: text is always text, so no name of a camera or a part can become a tag.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element of HTML; `properties` are attributes, or listeners where they begin with "on". */
export function h(name, properties = {}, ...children) {
  return fill(document.createElement(name), properties, children);
}

/** An element of SVG. */
export function s(name, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, name), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Set a text only where it changed: whoever selects it or hears it is not disturbed. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A sign for each verdict, told apart by its shape. */
export function sign(kind) {
  const shapes = {
    OK: [s("circle", { cx: 10, cy: 10, r: 8.5, class: "fill" }), s("path", { d: "M6 10.5l2.8 2.8L14 7.6", class: "stroke" })],
    NG: [s("path", { d: "M10 .8L19.2 10 10 19.2 .8 10z", class: "fill" }), s("path", { d: "M10 5.4v5.6M10 13.2v1.8", class: "stroke" })],
    lost: [s("circle", { cx: 10, cy: 10, r: 8, class: "ring" }), s("path", { d: "M4.5 15.5l11-11", class: "ring" })],
    none: [s("circle", { cx: 10, cy: 10, r: 8, class: "ring dashed" })],
  };
  return s("svg", { viewBox: "0 0 20 20", class: "sign", "aria-hidden": "true" }, ...shapes[kind]);
}

/** A number with three digits that count. */
export function digits(value) {
  if (value === null || value === undefined) return "no number";
  if (value === 0 || (Math.abs(value) >= 0.001 && Math.abs(value) < 10000)) return String(Number(value.toPrecision(3)));
  return value.toExponential(2);
}

export const count = (value) => value.toLocaleString("en-GB");

export const ms = (value) => (value === null || value === undefined ? "–" : `${Number(value.toPrecision(3))} ms`);

export const percent = (rate) => `${Number((rate * 100).toPrecision(3))} %`;

export function clock(time) {
  return new Date(time).toLocaleTimeString("en-GB");
}

export function day(time) {
  const date = new Date(time);
  const today = new Date().toDateString() === date.toDateString();
  return today ? clock(time) : `${date.toLocaleDateString("en-GB")} ${clock(time)}`;
}

export function span(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

/** Draw a frame on a canvas: the heat map over it where it is wanted, and a box around each region. */
export function draw(canvas, picture, overlay) {
  const [width, height] = picture.size;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.drawImage(picture.bitmap, 0, 0);
  if (!overlay) return;
  context.imageSmoothingQuality = "high";
  if (picture.over) context.drawImage(picture.over, 0, 0, width, height);
  const line = Math.max(2, Math.min(width, height) / 200);
  for (const [x, y, w, h] of picture.boxes) {
    // Dark below bright: the box stays visible on any part.
    for (const [style, thickness] of [["#14171b", line * 2], ["#f79550", line]]) {
      context.strokeStyle = style;
      context.lineWidth = thickness;
      context.strokeRect(x * width, y * height, w * width, h * height);
    }
  }
}

/** The bitmaps of a picture that the server described, from the bytes behind the header. */
export async function decode(described, take) {
  const jpeg = new Blob([take(described.jpeg)], { type: "image/jpeg" });
  const png = described.heat ? new Blob([take(described.heat)], { type: "image/png" }) : null;
  const [bitmap, over] = await Promise.all([createImageBitmap(jpeg), png && createImageBitmap(png)]);
  return { ...described, bitmap, over };
}

export function release(picture) {
  picture?.bitmap.close();
  picture?.over?.close();
}
