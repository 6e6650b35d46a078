// The page's wiring: numbers come as server-sent events, pictures one at a time; what the visitor chose stays in his browser.

import { Curve } from "./curve.js";
import { addEvents, buildClasses, drawShares, drawSinks, drawSources, drawStages, drawTiles, setHidden } from "./panels.js";
import { Stage, decode } from "./stage.js";
import { $, duration, position, say, tone } from "./text.js";

const POINTS_KEPT = 120;
const OLD_MS = 2500; // a picture older than this is shown as what it is
const SORT_MS = 3000;

const stage = new Stage($("canvas"));
const curves = Object.fromEntries(["fps", "latency", "age"].map((name) => [name, new Curve($(`${name}-curve`))]));
const state = { shown: null, status: null, points: {}, held: false, drawnAt: 0, sequence: 0, sortedAt: 0, connected: false, over: false };
let abort = new AbortController();
window.edgeseg = { stage, state }; // for a look from the console

/** Means over two seconds: half seconds hold too few frames of a slow source. */
const smooth = (values) => values.map((_, i) => values.slice(Math.max(0, i - 3), i + 1)).map((few) => few.reduce((a, b) => a + b) / few.length);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const shownSource = () => state.status?.sources.find(({ source }) => source === state.shown);

// Numbers

function connect() {
  const numbers = new EventSource("api/numbers");
  numbers.addEventListener("hello", ({ data }) => hello(JSON.parse(data)));
  numbers.addEventListener("tick", ({ data }) => tick(JSON.parse(data)));
  numbers.addEventListener("bye", () => { state.over = true; notice("The run has ended. This page comes back with the next one."); });
  numbers.onerror = () => {
    state.connected = false;
    if (!state.over) notice("The connection to the run is lost; trying again.");
    fetch("api/status").then(({ status }) => status === 401 && location.reload()).catch(() => {});
    if (numbers.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
  };
}

function hello(told) {
  Object.assign(state, { connected: true, over: false, points: told.points, sequence: 0 });
  notice("");
  say($("about"), [told.about.bundle, told.about.model, told.about.size].filter(Boolean).join(" · "));
  $("about").title = `edgeseg ${told.version}`;
  stage.classes = told.classes;
  stage.regions = told.about.regions ?? {};
  buildClasses(told.classes, stage);
  $("events").replaceChildren();
  update(told);
}

function tick(told) {
  for (const [source, points] of Object.entries(told.points)) {
    const known = (state.points[source] ??= []);
    for (const point of points) if (!(known.at(-1)?.[0] >= point[0])) known.push(point);
    known.splice(0, known.length - POINTS_KEPT);
  }
  update(told);
}

function update({ status, health, power_w: power, events }) {
  say($("health"), health);
  $("health").dataset.tone = tone(health);
  addEvents(events);
  if (!status) return;
  state.status = status;
  if (!shownSource()) choose(status.sources[0]?.source ?? null);
  say($("uptime"), duration(status.at_s));
  document.title = `${health === "ok" ? "" : `${health}: `}${state.shown ?? "live"} · edgeseg`;
  drawSources(status.sources, state.shown, choose);
  const points = state.points[state.shown] ?? [];
  drawTiles(status, shownSource(), points, power);
  drawStages(status.stages);
  drawSinks(status.sinks);
  curves.fps.draw(smooth(points.map(([, fps]) => fps)));
  curves.latency.draw(points.map((point) => point[4]));
  curves.age.draw(points.map((point) => point[2]), points.map((point) => point[3]));
  showAge();
}

function notice(text) {
  say($("notice"), text);
  $("notice").hidden = !text;
}

// Pictures

function choose(source) {
  if (source === state.shown) return;
  Object.assign(state, { shown: source, sequence: 0, drawnAt: 0 });
  stage.clear();
  drawShares({}, false);
  abort.abort();
  abort = new AbortController();
  say($("shown-source"), source ?? "");
  say($("clock"), "");
  if (state.status) drawSources(state.status.sources, source, choose);
  showAge();
}

async function pictures() {
  for (;;) {
    if (!state.shown || state.held || document.hidden || !state.connected) { await pause(200); continue; }
    const { shown } = state;
    try {
      const query = new URLSearchParams({ source: shown, after: state.sequence });
      const answer = await fetch(`api/frame?${query}`, { signal: abort.signal });
      if (answer.status === 200) {
        const packet = await decode(await answer.arrayBuffer());
        if (shown === state.shown && !state.held) draw(packet);
      } else if (answer.status !== 204) await pause(1000);
    } catch (error) {
      if (error.name !== "AbortError") await pause(1000);
    }
  }
}

function draw(packet) {
  const { header } = packet;
  stage.show(packet);
  Object.assign(state, { sequence: header.sequence, drawnAt: performance.now() });
  say($("clock"), [`frame ${header.index.toLocaleString("en")}`, header.pts_s === null ? "" : position(header.pts_s)].filter(Boolean).join(" · "));
  const sort = performance.now() - state.sortedAt > SORT_MS;
  if (sort) {
    state.sortedAt = performance.now();
    const most = Object.entries(header.class_share).sort((a, b) => b[1] - a[1]).slice(0, 3);
    $("canvas").setAttribute("aria-label", `${header.source}: ${most.map(([name, share]) => `${name} ${Math.round(100 * share)} %`).join(", ")}`);
  }
  drawShares(header.class_share, sort);
  showAge();
}

/** A picture that is no longer true must not look as if it were. */
function showAge() {
  const source = shownSource();
  const age = state.drawnAt ? performance.now() - state.drawnAt : null;
  const old = !state.held && (age === null || age > OLD_MS || !state.connected || state.over);
  const word = state.held ? "held" : !state.connected ? "disconnected" : (source?.state ?? "waiting").toLowerCase();
  say($("shown-state"), word);
  $("shown-state").dataset.tone = state.held || !state.connected ? "warn" : tone(source?.state);
  $("stage").classList.toggle("old", old && age !== null);
  const since = age === null ? "No picture yet" : `Last picture ${duration(age / 1000)} ago`;
  say($("stale"), source && source.state !== "RUNNING" && state.connected ? `${since}: ${source.last_error ?? (source.reason || word)}` : since);
  $("stale").hidden = !old || state.over;
}

// What the visitor does

function hold() {
  state.held = !state.held;
  $("pause").setAttribute("aria-pressed", String(state.held));
  showAge();
}

function save() {
  $("canvas").toBlob((blob) => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob) });
    link.download = `${state.shown ?? "edgeseg"}-${stage.header?.index ?? 0}.png`.replace(/[^\w.-]+/g, "_");
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else $("stage").requestFullscreen();
}

function setOpacity(value) {
  $("opacity").value = value;
  stage.opacity = $("opacity").value / 100;
  say($("opacity-value"), `${$("opacity").value} %`);
  localStorage.setItem("opacity", $("opacity").value);
  stage.draw();
}

const THEMES = { auto: "light dark", light: "light", dark: "dark" };
function setTheme(name) {
  document.documentElement.style.colorScheme = THEMES[name];
  say($("theme"), name);
  localStorage.setItem("theme", name);
}
const nextTheme = () => setTheme({ auto: "light", light: "dark", dark: "auto" }[$("theme").textContent]);

function step(by) {
  const names = state.status?.sources.map(({ source }) => source) ?? [];
  if (names.length) choose(names.at((names.indexOf(state.shown) + by) % names.length));
}

const KEYS = {
  " ": hold, s: save, f: fullScreen, t: nextTheme, ArrowDown: () => step(1), ArrowUp: () => step(-1),
  "[": () => setOpacity(Number($("opacity").value) - 10), "]": () => setOpacity(Number($("opacity").value) + 10),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, button, a, ol")) return;
  const act = KEYS[event.key];
  if (act) { event.preventDefault(); act(); }
});
$("pause").onclick = hold;
$("save").onclick = save;
$("full").onclick = fullScreen;
$("theme").onclick = nextTheme;
$("opacity").oninput = () => setOpacity($("opacity").value);
$("all").onclick = () => setHidden(stage, []);
$("none").onclick = () => setHidden(stage, stage.classes.map(({ name }) => name));
$("canvas").onpointermove = (event) => {
  const found = stage.classAt(event);
  $("probe").hidden = !found;
  if (!found) return;
  const swatch = Object.assign(document.createElement("i"), { className: "swatch" });
  swatch.style.background = `rgb(${found.rgb})`;
  $("probe").replaceChildren(swatch, found.name);
};
$("canvas").onpointerleave = () => { $("probe").hidden = true; };

setTheme(localStorage.getItem("theme") ?? "auto");
setOpacity(localStorage.getItem("opacity") ?? 50);
setInterval(showAge, 500);
connect();
pictures();
