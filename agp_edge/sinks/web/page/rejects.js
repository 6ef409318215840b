// The last rejects of all sources: small ones in a list, a large one on demand.

import { byId, day, decode, digits, draw, h, release, setText } from "./dom.js";

export class Rejects {
  constructor(fetchPacked, nameOf) {
    this.fetchPacked = fetchPacked;
    this.nameOf = nameOf;
    this.entries = new Map();
    this.list = byId("rejects");
    this.dialog = byId("large");
    this.shown = null;
    this.picture = null;
    byId("large-close").addEventListener("click", () => this.dialog.close());
    byId("large-newer").addEventListener("click", () => this.step(1));
    byId("large-older").addEventListener("click", () => this.step(-1));
    byId("large-overlay").addEventListener("change", () => this.redraw());
    this.dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.step(1);
      if (event.key === "ArrowRight") this.step(-1);
    });
    this.dialog.addEventListener("close", () => {
      this.entries.get(this.shown)?.button.focus();
      this.shown = null;
      release(this.picture);
      this.picture = null;
    });
    // A click beside the picture closes it.
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  /** Take a reject, or its picture, which comes later; whether it is a new one. */
  take(described, thumb, kept) {
    const known = this.entries.get(described.reject);
    const entry = known ?? this.make(described);
    entry.large = described.large;
    if (thumb.byteLength) {
      const url = URL.createObjectURL(new Blob([thumb], { type: "image/jpeg" }));
      const image = h("img", { src: url, alt: "" });
      image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
      entry.place.replaceChildren(image);
    } else {
      setText(entry.place, described.waits ? "" : "no picture: too many at once");
    }
    const mine = [...this.entries.values()].filter((other) => other.tile === described.tile);
    for (const old of mine.slice(0, Math.max(0, mine.length - kept))) this.drop(old);
    byId("no-rejects").hidden = this.entries.size > 0;
    return !known;
  }

  make(described) {
    const { said, reject, tile } = described;
    const place = h("span", { class: "thumb" });
    const part = said.part ? `part ${said.part}, ` : "";
    const button = h(
      "button", { type: "button", onclick: () => this.open(reject), "data-reject": reject },
      place,
      h("span", { class: "when" }, day(said.time)),
      h("span", { class: "what" }, `${part}score ${digits(said.score)}`),
      h("span", { class: "where" }, this.nameOf(tile)),
    );
    const item = h("li", {}, button);
    const entry = { reject, tile, said, place, button, item, large: false };
    this.entries.set(reject, entry);
    this.list.prepend(item);
    return entry;
  }

  drop(entry) {
    // Whoever stands on it is not sent back to the top of the page.
    if (entry.item.contains(document.activeElement)) {
      (entry.item.previousElementSibling ?? entry.item.nextElementSibling)?.querySelector("button").focus();
    }
    this.entries.delete(entry.reject);
    entry.item.remove();
  }

  clear() {
    if (this.dialog.open) this.dialog.close();
    for (const entry of [...this.entries.values()]) this.drop(entry);
    byId("no-rejects").hidden = false;
  }

  async open(number) {
    const entry = this.entries.get(number);
    if (!entry) return;
    this.shown = number;
    const { said } = entry;
    setText(byId("large-title"), `Reject, ${day(said.time)}`);
    const part = said.part ? `Part ${said.part}. ` : "";
    const words = `${part}${this.nameOf(entry.tile)}, frame ${said.frame}: score ${digits(said.score)} above ${digits(said.threshold)}, p-value ${digits(said.p_value)}`;
    setText(byId("large-said"), words);
    byId("large-picture").hidden = !entry.large;
    byId("large-picture").setAttribute("aria-label", `Picture of the reject. ${words}`);
    this.setEnds();
    if (!this.dialog.open) this.dialog.showModal();
    if (!entry.large) return;
    let picture = null;
    try {
      const [header, take] = await this.fetchPacked(`api/rejects/${number}`);
      picture = header.picture && (await decode(header.picture, take));
    } catch (error) {
      if (this.shown === number) setText(byId("large-said"), `${words}. The picture did not come: ${error.message}`);
      return;
    }
    // Meanwhile another may have been asked for.
    if (this.shown !== number || !picture) return release(picture);
    release(this.picture);
    this.picture = picture;
    this.redraw();
  }

  redraw() {
    if (!this.picture) return;
    const canvas = byId("large-picture");
    draw(canvas, this.picture, byId("large-overlay").checked);
    canvas.dataset.reject = this.shown;
  }

  order() {
    return [...this.entries.keys()].sort((a, b) => a - b);
  }

  step(by) {
    const order = this.order();
    const next = order[order.indexOf(this.shown) + by];
    if (next !== undefined) this.open(next);
  }

  setEnds() {
    const order = this.order();
    // Not `disabled`: a button that vanishes under the finger takes the keyboard's place with it.
    byId("large-newer").setAttribute("aria-disabled", String(order.at(-1) === this.shown));
    byId("large-older").setAttribute("aria-disabled", String(order[0] === this.shown));
  }
}
