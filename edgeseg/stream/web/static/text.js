// Numbers and times for people, and the smallest of helpers for the document.

export const $ = (id) => document.getElementById(id);

/** Set text, and touch the document only where it changed. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** An element with attributes or properties, and children. */
export function make(tag, properties = {}, ...children) {
  const { dataset, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  Object.assign(element.dataset, dataset);
  element.append(...children);
  return element;
}

export const number = (value, digits = 0) =>
  Number.isFinite(value) ? value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }) : "–";

/** Three digits that count: 4.21, 42.1, 421. */
export const figure = (value) => number(value, !Number.isFinite(value) || value >= 100 ? 0 : value >= 10 ? 1 : 2);

export const percent = (share, digits = 1) => (Number.isFinite(share) ? `${number(100 * share, digits)} %` : "–");

export function duration(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const [hours, minutes, rest] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds % 60)];
  const pad = (value) => String(value).padStart(2, "0");
  return hours ? `${hours}:${pad(minutes)}:${pad(rest)}` : `${minutes}:${pad(rest)}`;
}

/** 83.42 -> 1:23.42, as a clip's position. */
export const position = (seconds) => `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(2).padStart(5, "0")}`;

const TONES = {
  RUNNING: "good", OPEN: "good", ok: "good", ENDED: "quiet", CLOSED: "quiet", WAITING: "quiet", CONNECTING: "quiet", starting: "quiet",
  STALLED: "warn", RECONNECTING: "warn", degraded: "warn", FAILED: "bad", failing: "bad",
};

/** good, warn, bad or quiet: the colour of a state. */
export const tone = (state) => TONES[state] ?? "quiet";
