// A target: its head, its picture, its charts and its sessions.

import { Chart } from "./chart.js";
import { html, icon, keep, redraw, say } from "./dom.js";
import { Picture, byTrouble } from "./picture.js";
import { number, rate, some, stateOf, time } from "./words.js";

/** Sessions that are listed, and paths that are shown of each. */
const MOST_SESSIONS = 50;
const FEW_SESSIONS = 8;
const MOST_PATHS = 8;

const THROUGHPUT = [
  { of: "read", says: "read", tone: "cool", second: false },
  { of: "written", says: "written", tone: "good", second: true },
];
const LATENCY = [{ of: "latency", says: "mean of all commands", tone: "cool", second: false }];

export class TargetView {
  constructor(name) {
    this.title = html("h2", { id: `target-${TargetView.count++}` }, name);
    this.state = html("p", { class: "state" }, icon("dash", "idle"), html("span"));
    this.picture = new Picture();
    this.charts = [new Chart("Throughput", THROUGHPUT, rate, 1024), new Chart("Latency", LATENCY, time, 1000)];
    this.summary = html("summary");
    this.rows = html("tbody");
    this.more = html("p", { class: "more" });
    const heads = ["Initiator", "Commands", "Oldest", "Paths"].map((head, at) =>
      html("th", { scope: "col", class: ["", "number", "number aside-column", ""][at] }, head));
    const table = html("table", {}, html("thead", {}, html("tr", {}, ...heads)), this.rows);
    this.sessions = html("details", {}, this.summary, table, this.more);
    /** What the sessions are searched for; none before they are shown for the first time. */
    this.sought = null;
    this.element = html(
      "section", { class: "sheet", "aria-labelledby": this.title.id },
      html("div", { class: "head" }, this.title, this.state),
      this.picture.element,
      html("div", { class: "charts" }, ...this.charts.map((chart) => chart.element)),
      this.sessions,
    );
  }

  static count = 0;

  /** `sessions` are those that fit what is `sought`. */
  show(target, sessions, sought, points, now, mishaps) {
    const { tone, shape, says } = verdict(target);
    redraw(this.state.firstElementChild, shape, tone);
    this.state.className = `state ${tone}`;
    say(this.state.lastElementChild, says);
    this.picture.show(target);
    for (const chart of this.charts) chart.draw(points, now, mishaps);
    // Few are shown at once, and what is sought is; after that it is left to who looks.
    if (this.sought === null) this.sessions.open = target.sessions.length <= FEW_SESSIONS;
    if (sought !== "" && sought !== this.sought) this.sessions.open = true;
    this.sought = sought;
    this.sessions.hidden = target.sessions.length === 0;
    say(this.summary, `Sessions (${number(target.sessions.length)})`);
    const shown = [...sessions].sort(byTrouble).slice(0, MOST_SESSIONS);
    keep(this.rows, shown, (session) => session.key, makeRow, fillRow);
    say(this.more, left(target.sessions.length, sessions.length, shown.length));
  }
}

function left(all, fit, shown) {
  if (shown === fit) return fit === all ? "" : `${number(all - fit)} sessions do not fit the filter.`;
  return `Shown are ${number(shown)} of ${number(fit)}, those in trouble first, then the busiest. The filter finds the others.`;
}

/** How a target stands, in a word. */
export function verdict({ paths, sessions, without, ghosts }) {
  if (without > 0) return { tone: "bad", shape: "cross", says: `${some(without, "session")} without a path` };
  const count = (...states) => paths.filter((path) => states.includes(path.state)).length;
  const [down, suspect, drained] = [count("down"), count("suspect"), count("drained", "draining")];
  const facts = [];
  if (down > 0) facts.push(`${number(down)} of ${some(paths.length, "path")} down`);
  if (suspect > 0) facts.push(`${number(suspect)} suspect`);
  if (ghosts > 0) facts.push(`${some(ghosts, "write")} in doubt`);
  if (down > 0 || suspect > 0 || ghosts > 0) {
    return { tone: down > 0 ? "bad" : "warn", shape: down > 0 ? "cross" : "triangle", says: facts.join(", ") };
  }
  if (sessions.length === 0) return { tone: "idle", shape: "dash", says: "no session" };
  if (drained > 0) return { tone: "cool", shape: "square", says: `${number(drained)} of ${some(paths.length, "path")} drained` };
  const marginal = count("marginal");
  if (marginal > 0) return { tone: "cool", shape: "triangle", says: `${number(marginal)} marginal` };
  if (count("probing") > 0) return { tone: "cool", shape: "ring", says: "paths are being probed" };
  return { tone: "good", shape: "disc", says: paths.length === 1 ? "the path is up" : `all ${number(paths.length)} paths up` };
}

function makeRow() {
  return html(
    "tr", {},
    html("td", {}, html("div", { class: "name" }), html("div", { class: "where" })),
    html("td", { class: "number" }),
    html("td", { class: "number aside-column" }),
    html("td", {}, html("span", { class: "icons" }), html("div", { class: "where" })),
  );
}

function fillRow(row, { initiator, peer, isid, standing, paths }) {
  const [who, commands, oldest, ways] = row.children;
  say(who.firstElementChild, initiator);
  say(who.lastElementChild, [peer, standing ? manner(standing) : "begins, or does not answer", `ISID ${isid}`].filter(Boolean).join(" · "));
  const waiting = standing?.waiting ?? 0;
  say(commands, standing ? number(standing.commands) + (waiting > 0 ? ` (${number(waiting)} waiting)` : "") : "–");
  say(oldest, time(paths.reduce((most, path) => Math.max(most, path.oldest_seconds ?? 0), 0) || null));
  const shown = paths.slice(0, MOST_PATHS);
  keep(ways.firstElementChild, shown, (path) => path.name, makeWay, fillWay);
  say(ways.lastElementChild, inWords(paths));
}

const manner = ({ fanout }) => (fanout === "mcs" ? "one session of several connections" : "several sessions");

function makeWay() {
  return html("span", {}, icon("dash", "idle"));
}

function fillWay(way, { name, state }) {
  const { shape, tone, says } = stateOf(state);
  redraw(way.firstElementChild, shape, tone);
  way.title = `${name}: ${says}`;
}

/** The shapes before it are for eyes; this is for everybody. */
function inWords(paths) {
  const bad = paths.filter(({ state }) => state !== "up");
  const up = some(paths.length - bad.length, "path") + " up";
  const others = bad.slice(0, 3).map(({ name, state }) => `${name} ${stateOf(state).says}`);
  if (bad.length > 3) others.push(`${number(bad.length - 3)} more not up`);
  return [up, ...others].join(", ");
}
