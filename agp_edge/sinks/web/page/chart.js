// The score over the last minutes, against the threshold: each bucket's range as a column, rejects as diamonds.

import { digits, s } from "./dom.js";

const HEIGHT = 140;
const LEFT = 44;
const RIGHT = 8;
const TOP = 10;
const BOTTOM = 22;
/** What is shown: as little as holds all there is. */
const MINUTES = [2, 5, 10];

export class Chart {
  constructor(name) {
    this.name = name;
    this.buckets = new Map();
    this.shapes = s("g");
    this.root = s("svg", { class: "chart", role: "img", "aria-label": `Score of ${name}` }, this.shapes);
  }

  /** Take the buckets that changed: [index, low, high, threshold, n, ng]. */
  add(buckets, most) {
    for (const bucket of buckets) this.buckets.set(bucket[0], bucket);
    const oldest = Math.max(...this.buckets.keys()) - most;
    for (const index of this.buckets.keys()) if (index < oldest) this.buckets.delete(index);
  }

  draw(now, most, seconds) {
    // In the pixels of the screen, so that its letters are as large on a phone.
    const width = Math.max(this.root.clientWidth, 200);
    this.root.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const oldest = Math.min(...this.buckets.keys());
    const minutes = MINUTES.find((m) => (m * 60) / seconds >= now - oldest) ?? MINUTES.at(-1);
    const length = Math.min((minutes * 60) / seconds, most);
    const shown = [...this.buckets.values()].filter((b) => b[0] > now - length).sort((a, b) => a[0] - b[0]);
    const values = shown.flatMap((b) => [b[1], b[2]]).filter((v) => v !== null);
    const thresholds = shown.map((b) => b[3]).filter((v) => v !== null);
    const middle = thresholds.length ? thresholds[thresholds.length - 1] : 0;
    const reach = Math.abs(middle) || 1;
    // A single score far beyond would press all others flat: it is drawn at the edge.
    const low = Math.min(0, ...thresholds, Math.max(Math.min(...values, 0), middle - 3 * reach));
    const high = Math.max(middle + 0.5 * reach, ...thresholds, Math.min(Math.max(...values, 0) * 1.05, middle + 2 * reach));
    const x = (index) => LEFT + ((index - now + length) / length) * (width - LEFT - RIGHT);
    const y = (value) => TOP + (1 - (Math.min(Math.max(value, low), high) - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    const column = Math.max(1.2, ((width - LEFT - RIGHT) / length) * 0.7);
    const parts = [];
    const text = (value, left, top, anchor, kind = "") =>
      s("text", { x: left, y: top, "text-anchor": anchor, class: kind }, value);
    parts.push(s("line", { x1: LEFT, x2: width - RIGHT, y1: y(low), y2: y(low), class: "axis" }));
    for (const share of [0, 0.5, 1]) {
      const at = LEFT + share * (width - LEFT - RIGHT);
      const label = share === 1 ? "now" : `−${minutes * (1 - share)} min`;
      parts.push(text(label, at, HEIGHT - 6, ["start", "middle", "end"][share * 2]));
    }
    const range = [];
    let path = "";
    for (const [index, least, most, , , ng] of shown) {
      if (most === null) continue;
      const top = y(most);
      const tall = Math.max(y(least) - top, 1.6);
      range.push(`M${x(index).toFixed(1)} ${(top + tall).toFixed(1)}v${(-tall).toFixed(1)}`);
      if (ng && most !== null) path += diamond(x(index), y(most));
    }
    for (const [index, , most, , , ng] of shown) if (ng && most === null) path += diamond(x(index), TOP);
    parts.push(s("path", { d: range.join(""), class: "range", "stroke-width": column }));
    parts.push(s("path", { d: thresholdPath(shown, x, y, width - RIGHT), class: "threshold" }));
    parts.push(s("path", { d: path, class: "rejected" }));
    if (thresholds.length) parts.push(text(digits(middle), LEFT - 5, y(middle) + 4, "end", "strong"));
    if (y(low) - y(middle) > 24) parts.push(text(digits(low), LEFT - 5, y(low), "end"));
    this.shapes.replaceChildren(...parts);
    const rejected = shown.reduce((sum, b) => sum + b[5], 0);
    const judged = shown.reduce((sum, b) => sum + b[4], 0);
    this.root.setAttribute(
      "aria-label",
      `Score of ${this.name} over the last ${minutes} minutes: ${judged} verdicts, ${rejected} rejects` +
        (values.length ? `, scores from ${digits(Math.min(...values))} to ${digits(Math.max(...values))}` : "") +
        (thresholds.length ? `, threshold ${digits(middle)}` : ""),
    );
  }
}

const diamond = (x, y) => `M${x.toFixed(1)} ${(y - 4.5).toFixed(1)}l4.5 4.5-4.5 4.5-4.5-4.5z`;

function thresholdPath(shown, x, y, end) {
  let path = "";
  let before = null;
  for (const [index, , , threshold] of shown) {
    if (threshold === null) continue;
    path += before === null ? `M${x(index).toFixed(1)} ${y(threshold).toFixed(1)}` : `H${x(index).toFixed(1)}V${y(threshold).toFixed(1)}`;
    before = threshold;
  }
  return before === null ? "" : `${path}H${end}`;
}

