// Small charts of the last minutes.

import { html, say, svg } from "./dom.js";
import { MEMORY } from "./model.js";

const HEIGHT = 96;
const [LEFT, RIGHT, TOP, BOTTOM] = [2, 2, 14, 16];
/** Longer between two points, in milliseconds, is a gap and no line. */
const GAP = 12_000;

/** A chart with one or two curves; `show` writes their values, whose units are powers of `base`. */
export class Chart {
  constructor(title, curves, show, base) {
    this.title = title;
    this.curves = curves;
    this.show = show;
    this.base = base;
    this.values = curves.map(() => html("b"));
    const keys = curves.map(({ says, tone, second }, at) => html(
      "span", { class: "key" },
      svg("svg", { "aria-hidden": "true", class: tone }, svg("line", {
        x1: 0, x2: 20, y1: 4, y2: 4, class: second ? "curve second" : "curve",
      })),
      says, " ", this.values[at],
    ));
    this.picture = svg("svg", { role: "img" });
    this.element = html("div", { class: "chart" }, html("div", { class: "top" }, html("h3", {}, title), ...keys), this.picture);
    this.scale = svg("text", { x: LEFT, y: 10 });
    this.lines = curves.map(({ tone, second }) => svg("path", { class: `curve ${tone}${second ? " second" : ""}` }));
    this.marks = svg("g");
    this.grid = [0, 0.5, 1].map(() => svg("line", { class: "grid", x1: 0 }));
    this.ends = [svg("text", { x: LEFT, y: HEIGHT - 3 }, "5 min ago"), svg("text", { y: HEIGHT - 3, "text-anchor": "end" }, "now")];
    this.picture.append(...this.grid, this.marks, ...this.lines, this.scale, ...this.ends);
  }

  /** Draws points until `now`, with what went wrong meanwhile. */
  draw(points, now, mishaps) {
    const { width } = this.picture.getBoundingClientRect();
    if (width === 0) return;
    const top = nice(Math.max(...points.flatMap((point) => this.curves.map(({ of }) => point[of] ?? 0)), 0), this.base);
    const x = (at) => LEFT + (width - LEFT - RIGHT) * (1 - (now - at) / MEMORY);
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
    this.grid.forEach((line, at) => {
      line.setAttribute("x2", width);
      line.setAttribute("y1", y((top * at) / 2));
      line.setAttribute("y2", y((top * at) / 2));
    });
    this.ends[1].setAttribute("x", width - RIGHT);
    say(this.scale, this.show(top));
    this.lines.forEach((line, at) => line.setAttribute("d", curve(points, this.curves[at].of, x, y)));
    this.marks.replaceChildren(...mishaps.filter((at) => at > now - MEMORY).slice(-20).map((at) => mark(x(at))));
    const latest = points.at(-1);
    const words = this.curves.map(({ of, says }, at) => {
      const value = this.show(latest?.[of] ?? null);
      say(this.values[at], value);
      return `${says} ${value}`;
    });
    const label = `${this.title} over the last 5 minutes. Now: ${words.join(", ")}. Top of the scale: ${this.show(top)}.`;
    this.picture.setAttribute("aria-label", label);
  }
}

function curve(points, of, x, y) {
  let path = "";
  let last = null;
  for (const point of points) {
    if (point[of] === null) {
      last = null;
      continue;
    }
    const goes = last !== null && point.at - last < GAP;
    path += `${goes ? "L" : "M"}${x(point.at).toFixed(1)} ${y(point[of]).toFixed(1)}`;
    // A point without a neighbour is seen as well.
    if (!goes) path += "h0.1";
    last = point.at;
  }
  return path;
}

function mark(x) {
  return svg(
    "g", {},
    svg("line", { class: "mark", x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }),
    svg("path", { class: "mark-shape", d: `M${x - 3} ${TOP - 3}l6 6m0 -6l-6 6` }),
  );
}

/** The next of 1, 2, 5 and their tens, in the unit of `base` that fits. */
function nice(value, base) {
  if (value <= 0) return 1;
  const unit = base ** Math.max(0, Math.floor(Math.log(value) / Math.log(base)));
  const ten = unit * 10 ** Math.floor(Math.log10(value / unit));
  return [1, 2, 5, 10].map((step) => step * ten).find((step) => step >= value);
}
