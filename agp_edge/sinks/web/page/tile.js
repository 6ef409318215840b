// One source: its picture, its verdict, its scores and its counts.

import { Chart } from "./chart.js";
import { clock, count, day, digits, draw, h, ms, release, setText, sign } from "./dom.js";

const STAGES = ["capture", "queue", "transfer", "compute", "post", "total"];
/** So long a reject stays on the screen: at thirty verdicts a second nobody would see it, and nothing may flash. */
const HELD_MS = 1000;
const COUNTS = [
  ["OK", "ok"], ["NG", "ng"], ["captured", "captured"], ["judged", "judged"], ["dropped", "dropped"], ["failed", "failed"],
  ["reconnects", "reconnects"],
];

export class Tile {
  constructor(number, source, roi) {
    this.number = number;
    this.name = roi ? `${source}, ${roi}` : source;
    this.source = source;
    this.roi = roi;
    this.last = null;
    this.held = null;
    this.connected = true;
    this.lostSince = null;
    this.picture = null;
    const title = `tile-${number}`;
    this.canvas = h("canvas", { role: "img", "aria-label": `No picture of ${this.name} yet`, width: 640, height: 360 });
    this.stamp = h("span", { class: "stamp" });
    this.sign = h("span", { class: "sign-place" });
    this.word = h("strong", {});
    this.score = h("span", { class: "score" });
    this.reject = h("span", { class: "last-reject" });
    this.state = h("p", { class: "state" }, this.sign, h("span", {}, this.word, this.score), this.reject);
    this.chart = new Chart(this.name);
    this.counts = Object.fromEntries(COUNTS.map(([, key]) => [key, h("dd", {}, "0")]));
    this.age = h("dd", {}, "–");
    this.summary = h("summary", {}, "Latency");
    this.stages = h("tbody", {});
    this.root = h(
      "article", { class: "tile", "aria-labelledby": title },
      h("h3", { id: title }, source, roi ? h("small", {}, roi) : null),
      h("div", { class: "picture" }, this.canvas, this.stamp),
      this.state,
      this.chart.root,
      h("dl", { class: "counts" }, ...COUNTS.map(([name, key]) => h("div", {}, h("dt", {}, name), this.counts[key])),
        h("div", {}, h("dt", {}, "frame age"), this.age)),
      h("details", {}, this.summary, h("table", { class: "stages" },
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "stage"), h("th", { scope: "col" }, "p50"), h("th", { scope: "col" }, "p99"))),
        this.stages)),
    );
    this.showState();
  }

  /** Take what the server says of the newest verdict; whether the verdict's word changed. */
  take(described, header) {
    const before = this.last?.verdict;
    const lost = this.lostSince;
    this.last = described.last;
    this.lostSince = described.lost_since;
    this.chart.add(described.buckets, header.buckets);
    this.showState();
    return before !== this.last?.verdict || Boolean(lost) !== Boolean(this.lostSince);
  }

  /** Take a reject; a new one is held up for a moment. */
  takeReject(said, isNew) {
    setText(this.reject, `last reject ${day(said.time)}`);
    if (!isNew) return;
    clearTimeout(this.timer);
    this.held = said;
    this.timer = setTimeout(() => {
      this.held = null;
      this.showState();
    }, HELD_MS);
    this.showState();
  }

  takeStatus(status) {
    this.connected = status.connected;
    for (const [, key] of COUNTS) setText(this.counts[key], count(status[key]));
    setText(this.age, ms(status.frame_age_ms));
    const total = status.latency_ms.total;
    setText(this.summary, total ? `Latency: p50 ${ms(total.p50)}, p99 ${ms(total.p99)}` : "Latency");
    const rows = STAGES.filter((stage) => status.latency_ms[stage]).map((stage) => {
      const { p50, p99 } = status.latency_ms[stage];
      return h("tr", {}, h("th", { scope: "row" }, stage), h("td", {}, ms(p50)), h("td", {}, ms(p99)));
    });
    this.stages.replaceChildren(...rows);
    this.showState();
  }

  get lost() {
    return !this.connected || this.lostSince !== null;
  }

  /** The state in words, for the screen and for whoever listens. */
  get words() {
    if (this.lost) return this.lostSince ? `lost since ${day(this.lostSince)}` : "not connected";
    if (!this.last) return "no verdict yet";
    return this.last.verdict === "OK" ? "OK" : "NG, reject";
  }

  showState() {
    const last = this.held ?? this.last;
    const kind = this.lost ? "lost" : last ? last.verdict : "none";
    if (this.root.dataset.kind !== kind) {
      this.root.dataset.kind = kind;
      this.sign.replaceChildren(sign(kind));
    }
    const words = { OK: "OK", NG: "NG", none: "No verdict yet" }[kind];
    setText(this.word, words ?? this.words.replace(/^./, (letter) => letter.toUpperCase()));
    const relation = last?.verdict === "OK" ? "≤" : ">";
    const before = this.lost && last ? `last ${last.verdict}, ` : "";
    const part = last?.part ? `, part ${last.part}` : "";
    setText(this.score, last ? ` ${before}score ${digits(last.score)} ${relation} ${digits(last.threshold)}${part}` : "");
  }

  show(picture, overlay) {
    release(this.picture);
    this.picture = picture;
    this.redraw(overlay);
  }

  redraw(overlay) {
    if (!this.picture) return;
    draw(this.canvas, this.picture, overlay);
    const { frame, time, verdict, score } = this.picture;
    setText(this.stamp, `frame ${frame}, ${clock(time)}`);
    this.canvas.dataset.frame = frame;
    this.canvas.setAttribute("aria-label", `Picture of ${this.name}: frame ${frame}, ${verdict}, score ${digits(score)}`);
  }

  drawChart(now, header) {
    this.chart.draw(now, header.buckets, header.bucket_s);
  }

  close() {
    clearTimeout(this.timer);
    release(this.picture);
    this.root.remove();
  }
}
