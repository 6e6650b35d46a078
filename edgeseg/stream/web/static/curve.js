// A curve of the last minute: an area under the mean, and a thin line for the worst where it is known.

const STEPS = 120;
const BRIDGED = 4; // steps without a value that a slow source may have between two frames

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
    const measured = (series) => series.map((value, i) => [start + i, value]).filter(([, value]) => Number.isFinite(value));
    const path = (run) => run.map(([x, value], i) => `${i ? "L" : "M"}${x} ${y(value)}`).join("");
    const runs = []; // long gaps where nothing was measured stay gaps
    for (const point of measured(values)) {
      if (runs.length && point[0] - runs.at(-1).at(-1)[0] <= BRIDGED) runs.at(-1).push(point);
      else runs.push([point]);
    }
    this.line.setAttribute("d", runs.map(path).join(""));
    this.area.setAttribute("d", runs.map((run) => `${path(run)}L${run.at(-1)[0]} 34L${run[0][0]} 34Z`).join(""));
    this.peak.setAttribute("d", path(measured(peaks)));
  }
}
