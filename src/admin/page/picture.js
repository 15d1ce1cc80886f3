// A target as a picture: its initiators, Braid, its portals, and lines between them. Everything that the lines say stands in
// words in the lists at both sides, so that readers need no lines.

import { html, icon, keep, outline, redraw, say, svg } from "./dom.js";
import { number, rate, some, stateOf, time } from "./words.js";

/** Initiators and portals that are drawn, at most. */
const MOST_INITIATORS = 6;
const MOST_PORTALS = 16;
const [THIN, THICK] = [1.5, 9];

export class Picture {
  constructor() {
    this.initiators = html("ul", { class: "initiators", "aria-label": "Initiators" });
    this.portals = html("ul", { class: "portals", "aria-label": "Portals" });
    this.lines = svg("svg", { "aria-hidden": "true" });
    this.element = html("div", { class: "picture" }, this.initiators, this.lines, this.portals);
    /** The most that a path has carried since the page was opened. */
    this.most = 1;
    this.target = null;
    new ResizeObserver(() => this.#draw()).observe(this.element);
  }

  show(target) {
    this.target = target;
    const [near, far] = [initiators(target), portals(target)];
    keep(this.initiators, near, (end) => end.key, makeInitiator, fillInitiator);
    keep(this.portals, far, (end) => end.key, makePortal, fillPortal);
    this.near = near;
    this.far = far;
    this.#draw();
  }

  #draw() {
    const { width, height, top } = this.lines.getBoundingClientRect();
    if (this.target === null || width === 0) return;
    const middle = height / 2;
    const half = Math.min(30, Math.max(24, width / 5));
    const centre = width * 0.45;
    const heights = (list) => [...list.children].map((end) => {
      const box = end.getBoundingClientRect();
      return box.top - top + box.height / 2;
    });
    const loads = this.near.map((end) => end.commands);
    const busiest = Math.max(1, ...loads);
    this.most = Math.max(this.most, ...this.far.map((end) => end.load ?? 0));
    const parts = [];
    heights(this.initiators).forEach((y, at) => {
      const end = this.near[at];
      const thickness = thick(end.commands / busiest);
      parts.push(line(bow(0, y, centre - half, spread(middle, at, this.near.length)), end.line, thickness));
    });
    const marks = [];
    heights(this.portals).forEach((y, at) => {
      const end = this.far[at];
      const from = spread(middle, at, this.far.length);
      parts.push(line(bow(centre + half, from, width, y), end.state, thick((end.load ?? 0) / this.most)));
      marks.push(...shape(end.state, centre + half + (width - centre - half) * 0.72, from + (y - from) * 0.85));
    });
    const box = svg(
      "g", { class: "braid" },
      svg("rect", { x: centre - half, y: middle - 18, width: 2 * half, height: 36, rx: 8 }),
      svg("text", { x: centre, y: middle }, "Braid"),
    );
    this.lines.replaceChildren(...parts, box, ...marks);
  }
}

const thick = (share) => THIN + (THICK - THIN) * Math.sqrt(Math.min(Math.max(share, 0), 1));

/** Lines come to Braid's edge beside each other. */
const spread = (middle, at, count) => middle + (count > 1 ? (at / (count - 1) - 0.5) * 24 : 0);

function bow(x1, y1, x2, y2) {
  const bend = (x2 - x1) * 0.5;
  return `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
}

function line(d, state, thickness) {
  return svg("path", { class: `line ${state} ${stateOf(state).tone}`, d, "stroke-width": thickness.toFixed(1) });
}

/** The shape of a state, on a ground of its own. */
function shape(state, x, y) {
  const { shape, tone } = stateOf(state);
  return [
    svg("circle", { class: "halo", cx: x, cy: y, r: 10 }),
    svg("path", { class: tone, d: outline(shape), fill: "currentColor", transform: `translate(${x - 7} ${y - 7}) scale(1.17)` }),
  ];
}

/** Those in trouble first, then the busiest; the rest as one. */
function initiators({ sessions }) {
  if (sessions.length === 0) return [{ key: "none", name: "no initiator", facts: "", line: "none", commands: 0 }];
  const room = sessions.length > MOST_INITIATORS ? MOST_INITIATORS - 1 : MOST_INITIATORS;
  const chosen = sessions.length > MOST_INITIATORS ? [...sessions].sort(byTrouble).slice(0, room) : sessions;
  const ends = chosen.map((session) => ({
    key: session.key,
    name: session.initiator,
    where: session.peer,
    ...sessionFacts(session),
    commands: session.standing?.commands ?? 0,
  }));
  const rest = sessions.length - chosen.length;
  if (rest > 0) {
    const shown = new Set(chosen);
    const others = sessions.filter((session) => !shown.has(session));
    const lost = others.filter((session) => session.trouble === 3).length;
    const commands = others.reduce((all, { standing }) => all + (standing?.commands ?? 0), 0);
    const facts = `${some(commands, "command")} under way` + (lost > 0 ? `, ${lost} without a path` : "");
    ends.push({ key: "rest", name: `${number(rest)} more`, facts, line: lost > 0 ? "down" : "up", commands });
  }
  return ends;
}

export const byTrouble = (a, b) =>
  b.trouble - a.trouble || (b.standing?.commands ?? 0) - (a.standing?.commands ?? 0) || a.key.localeCompare(b.key);

function sessionFacts({ standing }) {
  if (standing === null) return { facts: "begins, or does not answer", line: "probing" };
  const { commands, waiting, outage_seconds: outage, ghosts } = standing;
  const facts = [`${number(commands)} under way`];
  if (waiting > 0) facts.push(`${number(waiting)} waiting`);
  if (ghosts > 0) facts.push(`${number(ghosts)} in doubt`);
  if (outage !== null) facts.unshift(`no path for ${time(outage)}`);
  return { facts: facts.join(", "), line: outage === null ? "up" : "down" };
}

function portals({ paths }) {
  const shown = paths.length > MOST_PORTALS ? [...paths].sort(worstFirst).slice(0, MOST_PORTALS - 1) : paths;
  const ends = shown.map((path) => ({ key: path.name, path, state: path.state, load: load(path) }));
  const rest = paths.length - shown.length;
  if (rest > 0) ends.push({ key: "rest", rest, state: "none", load: null });
  return ends;
}

const worstFirst = (a, b) => ["up", "none"].indexOf(a.state) - ["up", "none"].indexOf(b.state);
const load = ({ rates }) => (rates === null ? null : rates.read + rates.written);

function makeInitiator() {
  return html("li", { class: "end" }, html("span", { class: "name clip" }), html("span", { class: "facts" }));
}

function fillInitiator(element, { name, where, facts }) {
  const [first, second] = element.children;
  say(first, name);
  first.title = name;
  say(second, [where, facts].filter(Boolean).join(" · "));
}

function makePortal() {
  return html(
    "li", { class: "end" },
    html("span", { class: "name clip" }),
    html("span", { class: "state" }, icon("dash", "idle"), html("span")),
    html("div", { class: "facts" }),
  );
}

function fillPortal(element, { path, rest, state }) {
  const [name, standing, facts] = element.children;
  const { shape, tone } = stateOf(state);
  redraw(standing.firstElementChild, shape, tone);
  standing.className = `state ${tone}`;
  if (!path) {
    say(name, some(rest, "more path"));
    say(standing.lastElementChild, "");
    say(facts, "");
    return;
  }
  say(name, path.name === path.portal ? path.name : `${path.name} ${path.portal}`);
  name.title = name.textContent;
  say(standing.lastElementChild, stateWords(path));
  say(facts, pathFacts(path));
}

/** One word if all sessions agree, else how many say what. */
export function stateWords({ states, state, retry }) {
  const words = states.length > 1
    ? states.map(([word, count]) => `${number(count)} ${stateOf(word).says}`).join(", ")
    : stateOf(state).says;
  return retry === null ? words : `${words}, next try in ${time(retry)}`;
}

function pathFacts({ rates, commands, home, oldest }) {
  const facts = [];
  if (rates !== null) {
    facts.push(`read ${rate(rates.read)}`, `write ${rate(rates.written)}`, `${number(rates.commands)} commands/s`);
    if (rates.latency !== null) facts.push(`each ${time(rates.latency)}`);
  }
  facts.push(`${number(commands)} under way`);
  if (oldest >= 1) facts.push(`the oldest for ${time(oldest)}`);
  if (home) facts.push("home");
  return facts.join(" · ");
}

