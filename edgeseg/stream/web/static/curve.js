// A curve of the last minute: an area under the mean, and a thin line for the worst where it is known.

const STEPS = 120;

export class Curve {
  constructor(svg) {
    this.svg = svg;
    svg.setAttribute("viewBox", `0 0 ${STEPS - 1} 34`);
    svg.setAttribute("preserveAspectRatio", "none");
    [this.area, this.peak, this.line] = ["area", "peak", "line"].map((name) => {
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("class", name);
      svg.append(path);
      return path;
    });
  }

  /** values, peaks: numbers or null, oldest first; the last stands at the right edge. */
  draw(values, peaks = []) {
    const top = Math.max(1e-9, ...values.filter(Number.isFinite), ...peaks.filter(Number.isFinite)) * 1.08;
    const y = (value) => (33 - (31 * value) / top).toFixed(2);
    const start = STEPS - values.length;
    const runs = []; // gaps where nothing was measured stay gaps
    values.forEach((value, i) => {
      if (!Number.isFinite(value)) runs.push([]);
      else (runs.at(-1) ?? (runs.push([]), runs.at(-1))).push([start + i, value]);
    });
    const path = (run) => run.map(([x, value], i) => `${i ? "L" : "M"}${x} ${y(value)}`).join("");
    const full = runs.filter((run) => run.length);
    this.line.setAttribute("d", full.map(path).join(""));
    this.area.setAttribute("d", full.map((run) => `${path(run)}L${run.at(-1)[0]} 34L${run[0][0]} 34Z`).join(""));
    const worst = peaks.map((value, i) => [start + i, value]).filter(([, value]) => Number.isFinite(value));
    this.peak.setAttribute("d", path(worst));
  }
}
