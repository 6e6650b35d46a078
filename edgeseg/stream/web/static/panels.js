// Everything beside the picture. Each function takes what the server told and brings its part of the document up to date.

import { $, duration, figure, make, number, percent, say, tone } from "./text.js";

/** Put rows where others were, keeping those whose key is still there, so that focus and hover stay. */
function rows(parent, items, key, build, update) {
  const known = new Map([...parent.children].map((row) => [row.dataset.key, row]));
  items.forEach((item, place) => {
    const name = String(key(item));
    const row = known.get(name) ?? build(item);
    row.dataset.key = name;
    known.delete(name);
    update(row, item);
    if (parent.children[place] !== row) parent.insertBefore(row, parent.children[place] ?? null);
  });
  known.forEach((row) => row.remove());
}

const total = (counts) => Object.values(counts).reduce((sum, count) => sum + count, 0);

export function drawSources(sources, shown, choose) {
  say($("source-count"), sources.length > 1 ? `${sources.filter(({ state }) => state === "RUNNING").length} of ${sources.length} running` : "");
  rows($("sources"), sources, (one) => one.source, ({ source }) => {
    const row = make("button", { type: "button", className: "source", onclick: () => choose(source) },
      make("i", { className: "dot" }), make("b"), make("span", { className: "word" }), make("small"));
    return row;
  }, (row, one) => {
    const [dot, name, word, more] = row.children;
    row.setAttribute("aria-pressed", String(one.source === shown));
    row.title = [one.policy, one.reason].filter(Boolean).join("; ");
    say(name, one.source);
    say(word, one.state.toLowerCase());
    dot.dataset.tone = word.dataset.tone = one.state === "CONNECTING" && one.last_error ? "warn" : tone(one.state);
    const size = one.size_hw ? `${one.size_hw[1]}×${one.size_hw[0]}` : "";
    const parts = one.state === "RUNNING" || one.state === "ENDED"
      ? [size, `${number(one.measured_fps, 1)} fps`, one.reconnects ? `${one.reconnects} reconnect${one.reconnects > 1 ? "s" : ""}` : ""]
      : [`for ${duration(one.since_s)}`, one.last_error ?? one.reason];
    say(more, parts.filter(Boolean).join(" · "));
  });
}

export function buildClasses(classes, stage) {
  $("classes").replaceChildren(...classes.map(({ name, rgb }, index) => {
    const box = make("input", { type: "checkbox", id: `class-${index}`, checked: !stage.hidden.has(name) });
    const swatch = make("i", { className: "swatch" });
    swatch.style.background = `rgb(${rgb})`;
    const bar = make("i", { className: "bar" });
    bar.style.background = `rgb(${rgb})`;
    const only = make("button", { type: "button", className: "plain", textContent: "only", title: `Show ${name} alone` });
    const row = make("li", { className: "class", dataset: { name } },
      box, swatch, make("label", { htmlFor: box.id, textContent: name }), only, make("span", { className: "share" }), bar);
    box.onchange = () => setHidden(stage, box.checked ? [...stage.hidden].filter((one) => one !== name) : [...stage.hidden, name]);
    only.onclick = () => setHidden(stage, classes.map((one) => one.name).filter((one) => one !== name));
    return row;
  }));
}

/** Hide these classes and no others. */
export function setHidden(stage, names) {
  stage.hidden = new Set(names);
  for (const row of $("classes").children) {
    row.classList.toggle("off", stage.hidden.has(row.dataset.name));
    row.firstChild.checked = !stage.hidden.has(row.dataset.name);
  }
  stage.colour();
}

/** Shares of the picture that is shown. The order of the list changes seldom, so that nobody misses his click. */
export function drawShares(shares, sort) {
  const list = $("classes");
  for (const row of list.children) {
    const share = shares[row.dataset.name] ?? 0;
    row.classList.toggle("absent", !share);
    say(row.children[4], share ? percent(share) : "–");
    row.lastChild.style.transform = `scaleX(${share.toFixed(4)})`;
  }
  if (!sort || list.matches(":hover, :focus-within")) return;
  const order = [...list.children].sort((a, b) => (shares[b.dataset.name] ?? 0) - (shares[a.dataset.name] ?? 0));
  if (order.some((row, place) => list.children[place] !== row)) list.append(...order);
}

const RATE_POINTS = 4;

export function drawTiles(status, source, points, power) {
  const age = source?.age_ms ?? {};
  const last = points.slice(-RATE_POINTS).map(([, fps]) => fps);
  say($("fps"), figure(last.reduce((sum, fps) => sum + fps, 0) / last.length));
  const others = status.sources.length > 1 ? `total ${figure(status.fps)}` : `${number(source?.delivered)} frames`;
  say($("fps-more"), source?.fps ? `${source.is_live ? "camera" : "clip"} ${figure(source.fps)}, ${others}` : others);
  say($("latency"), figure(status.latency.p50_ms));
  say($("latency-more"), `p90 ${figure(status.latency.p90_ms)}, p99 ${figure(status.latency.p99_ms)}`);
  say($("age"), figure(age.p50_ms));
  say($("age-more"), `p99 ${figure(age.p99_ms)}, worst ${figure(age.max_ms)}`);
  const dropped = source?.dropped ?? {};
  say($("dropped"), number(total(dropped)));
  const reasons = Object.entries(dropped).filter(([, count]) => count).map(([why, count]) => `${why} ${number(count)}`);
  say($("dropped-more"), reasons.length ? `${percent(total(dropped) / source.frames)}: ${reasons.join(", ")}` : "every frame was used");
  say($("level"), String(status.level));
  say($("level-more"), status.level_reason || "0 is the most exact");
  const watts = Object.entries(power ?? {});
  $("power-tile").hidden = !watts.length;
  say($("power"), figure(watts[0]?.[1]));
  say($("power-more"), watts.map(([rail, value]) => (watts.length > 1 ? `${rail} ${figure(value)}` : rail)).join(", "));
  for (const id of ["fps", "latency", "age", "dropped", "level", "power"]) $(`${id}-more`).title = $(`${id}-more`).textContent;
}

export function drawStages(stages) {
  const named = Object.entries(stages);
  const most = Math.max(...named.map(([, stage]) => stage.busy ?? 0));
  rows($("stages"), named, ([name]) => name, () => {
    const meter = make("meter", { min: 0, max: 1 });
    return make("tr", {}, make("td"), make("td", {}, meter), make("td"), make("td"));
  }, (row, [name, stage]) => {
    const [first, bar, mean, worst] = row.children;
    say(first, name);
    bar.firstChild.value = Math.min(1, stage.busy ?? 0);
    bar.firstChild.title = `busy ${percent(stage.busy, 0)} of the time`;
    row.classList.toggle("most", stage.busy === most);
    say(mean, stage.count ? `${figure(stage.mean_ms)} ms` : "–");
    say(worst, stage.count ? `p99 ${figure(stage.p99_ms)}` : "");
  });
}

const EVENT_TONES = { sink_failed: "bad", dropped: "warn", resized: "warn", sink_recovered: "good" };

export function addEvents(events) {
  const list = $("events");
  if (!events.length && !list.children.length) list.append(make("li", { className: "empty", textContent: "nothing so far" }));
  for (const event of events) {
    list.querySelector(".empty")?.remove();
    const raised = event.kind === "region" ? (event.details?.raised ? "warn" : "good") : null;
    const colour = raised ?? EVENT_TONES[event.kind] ?? tone(event.details?.state);
    const state = event.details?.state ? ` ${event.details.state.toLowerCase()}` : "";
    const reason = (event.reason || event.kind).replace(`${event.source}: `, "");
    const text = event.source ? `${event.source}${state}: ${reason}` : reason;
    list.prepend(make("li", {}, make("i", { className: "dot", dataset: { tone: colour } }),
      make("time", { textContent: duration(event.at_s) }), make("span", { textContent: text })));
  }
  while (list.children.length > 200) list.lastChild.remove();
}

export function drawSinks(all) {
  const sinks = all.filter(({ sink }) => sink !== "live page");
  rows($("sinks"), sinks.length ? sinks : [{ sink: "", state: "" }], (one) => `${one.sink} ${one.source}`, () =>
    make("li", {}, make("i", { className: "dot" }), make("span"), make("small")), (row, one) => {
    const [dot, name, more] = row.children;
    dot.dataset.tone = tone(one.state);
    dot.hidden = !one.sink;
    say(name, one.sink || "none");
    row.title = one.last_error ?? "";
    say(more, !one.sink ? "" : one.state === "FAILED" ? "failed" : `${number(one.written)} frames${one.missed ? `, ${number(one.missed)} missed` : ""}`);
  });
}
