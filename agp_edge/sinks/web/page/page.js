// What runs on the page: it asks for what is new, shows it, and asks again.

import { byId, count, day, decode, digits, h, percent, setText, span } from "./dom.js";
import { Rejects } from "./rejects.js";
import { Tile } from "./tile.js";

const TOKEN = "agp-edge-token";
const LONGEST_WAIT_MS = 40000;
const ANNOUNCE_MS = 5000;
const KEPT_EVENTS = 50;
const CHART_MS = 1000;

const tiles = new Map();
const rejects = new Rejects(fetchPacked, (number) => tiles.get(number)?.name ?? "");
let seen = "";
let epoch = "";
let header = null;
let headerAt = 0;
let status = null;
let paused = false;
let lostAt = null;
let wake = () => {};
const news = new Map();

// ---- asking -------------------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(code, said) {
    super(said.hint ? `${said.error}: ${said.hint}` : said.error);
    this.code = code;
  }
}

const token = () => sessionStorage.getItem(TOKEN);

async function ask(path, options = {}) {
  const given = options.token ?? token();
  // A header takes no other characters, and so no token has them.
  if (given && !/^[!-~]+$/.test(given)) throw new Refused(401, { error: "this is not the token" });
  const headers = { ...options.headers, ...(given ? { Authorization: `Bearer ${given}` } : {}) };
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), LONGEST_WAIT_MS);
  try {
    const response = await fetch(path, { ...options, headers, signal: late.signal, cache: "no-store" });
    const body = await response.arrayBuffer();
    if (response.ok) return body;
    let said = { error: `the server says ${response.status}` };
    try {
      said = JSON.parse(new TextDecoder().decode(body));
    } catch {
      // A proxy's own page.
    }
    throw new Refused(response.status, said);
  } finally {
    clearTimeout(timer);
  }
}

/** [header, take]: take(n) gives the next n bytes behind the header. */
async function fetchPacked(path) {
  const body = await ask(path);
  let at = 4 + new DataView(body).getUint32(0);
  const described = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 4, at - 4)));
  const take = (n) => {
    at += n;
    return new Uint8Array(body, at - n, n);
  };
  return [described, take];
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function follow() {
  let delay = 500;
  for (;;) {
    while (paused || document.hidden) await new Promise((resolve) => (wake = resolve));
    try {
      const [described, take] = await fetchPacked(`api/live?seen=${encodeURIComponent(seen)}`);
      await show(described, take);
      delay = 500;
      setTrouble("");
      lostAt = null;
    } catch (error) {
      if (error.code === 401 || error.code === 429) {
        await logIn(error);
        continue;
      }
      lostAt ??= Date.now();
      const what = error.code ? error.message : "The stream does not answer";
      setTrouble(`${what}. What is shown is from ${day(lostAt)}; it is tried again.`);
      setHealth(null);
      await pause(delay * (0.5 + Math.random() / 2));
      delay = Math.min(delay * 2, 8000);
    }
  }
}

function setTrouble(text) {
  byId("trouble").hidden = !text;
  document.body.classList.toggle("stale", Boolean(text));
  setText(byId("trouble"), text);
}

// ---- showing ------------------------------------------------------------------------------------------------

async function show(described, take) {
  byId("content").hidden = false;
  byId("login").hidden = true;
  if (described.epoch !== epoch) begin(described.epoch);
  header = described;
  headerAt = performance.now();
  for (const said of described.tiles) {
    const tile = tiles.get(said.tile) ?? add(said);
    if (tile.take(said, described)) news.set(tile.number, tile);
  }
  byId("no-sources").hidden = tiles.size > 0;
  if (described.status) showStatus(described.status, described.can_change);
  // The bytes lie in this order: pictures, then rejects.
  const pictures = described.pictures.map((picture) => [picture, decode(picture, take)]);
  for (const said of described.rejects) {
    const isNew = rejects.take(said, take(said.thumb), described.kept_rejects);
    if (isNew) tiles.get(said.tile)?.takeReject(said.said, seen !== "");
  }
  showEvents(described.events);
  for (const [picture, coming] of pictures) tiles.get(picture.tile)?.show(await coming, byId("overlay").checked);
  seen = described.seen;
}

/** Another stream than before: nothing of the old one stays. */
function begin(next) {
  epoch = next;
  seen = "";
  for (const tile of tiles.values()) tile.close();
  tiles.clear();
  rejects.clear();
  byId("events").replaceChildren();
}

function add(said) {
  const tile = new Tile(said.tile, said.source, said.roi);
  tiles.set(said.tile, tile);
  byId("sources").append(tile.root);
  setTimeout(drawCharts);
  return tile;
}

function showStatus(now, canChange) {
  status = now;
  setHealth(now);
  const frames = now.sources.reduce((sum, source) => sum + source.judged, 0);
  setText(byId("facts"), `engine ${now.engine}, running for ${span(now.uptime_s)}, ${count(frames)} verdicts`);
  for (const tile of tiles.values()) {
    const source = now.sources.find((each) => each.source === tile.source && each.roi === tile.roi);
    if (source) tile.takeStatus(source);
  }
  showThreshold(now, canChange);
  byId("sinks").replaceChildren(
    h("thead", {}, h("tr", {}, ...["sink", "written", "waiting", "lost"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, ...now.sinks.flatMap((sink) => [
      h("tr", {}, h("th", { scope: "row" }, sink.sink), ...["written", "waiting", "lost"].map((key) => h("td", {}, count(sink[key])))),
      sink.error ? h("tr", {}, h("td", { colspan: 4, class: "error" }, sink.error)) : null,
    ].filter(Boolean))),
  );
}

function setHealth(now) {
  const [kind, words] = now === null ? ["lost", "No connection"] : now.healthy ? ["good", "Healthy"] : ["bad", `Not healthy: ${now.reason}`];
  byId("health").dataset.kind = kind;
  setText(byId("health"), paused && kind === "good" ? "Paused" : words);
}

function showThreshold(now, canChange) {
  const rate = now.false_reject_rate;
  const promise = rate === null ? "set by hand; it promises nothing about good parts"
    : now.provisional ? `taken for ${percent(rate)} of false rejects`
    : `at most ${percent(rate)} of good parts are rejected`;
  setText(byId("threshold-now"), `${digits(now.threshold)}: ${promise}.`);
  byId("threshold-note").hidden = !now.provisional;
  setText(byId("threshold-note"), "Provisional: it rests on images that the network was trained on, so nothing is promised. Calibrate with good images that it never saw.");
  const settable = canChange && now.rates !== null;
  byId("threshold-form").hidden = !settable;
  byId("trigger-form").hidden = !(canChange && now.waits_for_trigger);
  byId("change-off").hidden = canChange;
  byId("rate-token-part").hidden = token() !== null;
  byId("forget").hidden = token() === null;
  if (!settable) return;
  const [least, most] = now.rates;
  setText(byId("rate-hint"), `From ${percent(least)} to ${percent(most)}: more than that the held-out good frames cannot promise.`);
  const input = byId("rate");
  // What somebody types is not taken away.
  if (document.activeElement !== input && !input.dataset.typed && rate !== null) input.value = Number((rate * 100).toPrecision(6));
}

function showEvents(events) {
  const list = byId("events");
  for (const event of events) {
    list.prepend(h("li", { class: event.level },
      h("time", { datetime: event.time }, day(event.time)), h("span", { class: "level" }, event.level), h("span", { class: "text" }, event.text)));
  }
  while (list.children.length > KEPT_EVENTS) list.lastElementChild.remove();
  byId("no-events").hidden = list.children.length > 0;
}

// ---- in words, now and then ----------------------------------------------------------------------------------

setInterval(() => {
  if (!news.size) return;
  // How it stands, not each change: at thirty verdicts a second nobody could listen.
  setText(byId("announce"), [...news.values()].map((tile) => `${tile.name}: ${tile.words}`).join("; "));
  news.clear();
}, ANNOUNCE_MS);

function drawCharts() {
  if (paused || !header) return;
  const now = header.bucket + (performance.now() - headerAt) / 1000 / header.bucket_s;
  for (const tile of tiles.values()) tile.drawChart(now, header);
}

setInterval(drawCharts, CHART_MS);

// ---- changing ------------------------------------------------------------------------------------------------

async function change(path, value, form) {
  const said = byId("change-said");
  const typed = byId("rate-token").value;
  const given = token() ?? typed;
  if (!given) {
    setText(said, "This takes the token.");
    byId("rate-token").focus();
    return;
  }
  const buttons = form.querySelectorAll("button");
  buttons.forEach((button) => (button.disabled = true));
  setText(said, "Asking …");
  try {
    const body = await ask(path, {
      method: "POST", token: given, headers: { "Content-Type": "application/json" }, body: JSON.stringify(value),
    });
    const answer = JSON.parse(new TextDecoder().decode(body));
    sessionStorage.setItem(TOKEN, given);
    byId("rate-token").value = "";
    byId("rate-token-part").hidden = true;
    byId("forget").hidden = false;
    delete byId("rate").dataset.typed;
    setText(said, path.endsWith("trigger") ? `Triggered: ${answer.sources} of the sources.`
      : `Set: from now on the threshold is ${digits(answer.threshold)}, for ${percent(answer.false_reject_rate)} of false rejects.`);
  } catch (error) {
    if (error.code === 401) forget();
    setText(said, error.code ? `Refused: ${error.message}.` : "The stream does not answer; nothing was changed.");
  } finally {
    buttons.forEach((button) => (button.disabled = false));
  }
}

/** The rate that was typed; one that was rounded for the screen is what it was before. */
function rateOf(typed) {
  const known = [status?.false_reject_rate, ...(status?.rates ?? [])];
  return known.find((rate) => rate && Math.abs(rate - typed) < 1e-5 * rate) ?? typed;
}

function forget() {
  sessionStorage.removeItem(TOKEN);
  byId("rate-token-part").hidden = false;
  byId("forget").hidden = true;
}

/** Ask for the token until there is one to try. */
async function logIn(error) {
  const tried = token() !== null;
  sessionStorage.removeItem(TOKEN);
  byId("content").hidden = true;
  byId("login").hidden = false;
  setTrouble("");
  setText(byId("health"), "Token needed");
  byId("health").dataset.kind = "lost";
  setText(byId("login-said"), tried || error.code === 429 ? `Refused: ${error.message}.` : "");
  byId("login-token").focus();
  await new Promise((resolve) => byId("login-form").addEventListener("submit", resolve, { once: true }));
}

byId("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, byId("login-token").value.trim());
  byId("login-token").value = "";
});
byId("threshold-form").addEventListener("submit", (event) => {
  event.preventDefault();
  change("api/threshold", { false_reject_rate: rateOf(Number(byId("rate").value) / 100) }, event.target);
});
byId("trigger-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const part = byId("part").value.trim();
  change("api/trigger", part ? { part } : {}, event.target);
});
byId("rate").addEventListener("input", () => (byId("rate").dataset.typed = "yes"));
byId("forget").addEventListener("click", () => {
  forget();
  setText(byId("change-said"), "The token is forgotten on this page.");
});
byId("overlay").addEventListener("change", (event) => {
  for (const tile of tiles.values()) tile.redraw(event.target.checked);
});
byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  setText(byId("pause"), paused ? "Go on" : "Pause");
  if (status) setHealth(status);
  wake();
});
document.addEventListener("visibilitychange", () => wake());
follow();
