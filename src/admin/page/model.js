// What is made of the answers to `v1/status`: rates between two of them, the minutes behind us, and who is in trouble.

import { rank } from "./words.js";

/** How far back the charts go, in milliseconds. */
export const MEMORY = 5 * 60 * 1000;
/** Answers closer together make no rate, in seconds. */
const SHORTEST = 0.2;
/** Points of a target that are kept. */
const MOST_POINTS = 600;

const sum = (values) => values.reduce((all, value) => all + value, 0);
const most = (values) => values.reduce((all, value) => Math.max(all, value ?? 0), 0);

/** Holds what the page knows; `take` takes the next answer. */
export class Model {
  /** Points of each target by its name: `{ at, read, written, latency }`. */
  history = new Map();
  targets = [];
  version = "";
  uptime = 0;
  #before = null;

  take(status, at) {
    const before = this.#before;
    const seconds = before === null ? 0 : status.uptime_seconds - before.uptime_seconds;
    // An answer that was kept for us, or came at once: nothing can be told from it.
    if (seconds > 0 && seconds < SHORTEST) return;
    const earlier = new Map();
    if (seconds > 0) {
      for (const target of before.targets) {
        earlier.set(target.name, new Map(target.paths.map((path) => [path.name, path.totals])));
      }
    }
    this.version = status.version;
    this.uptime = status.uptime_seconds;
    this.targets = status.targets.map((target) => this.#target(target, earlier.get(target.name), seconds));
    this.#before = status;
    for (const target of this.targets) this.#remember(target, at);
    const names = new Set(this.targets.map((target) => target.name));
    for (const name of this.history.keys()) if (!names.has(name)) this.history.delete(name);
  }

  #target(target, earlier, seconds) {
    const own = new Map(target.paths.map((path) => [path.name, []]));
    const sessions = target.sessions.map((session) => {
      const paths = session.standing?.paths ?? [];
      for (const path of paths) own.get(path.name)?.push(path);
      return { ...session, key: `${session.initiator} ${session.isid} ${session.tsih}`, paths, trouble: trouble(session) };
    });
    const paths = target.paths.map((path) => ({
      ...pathOf(path, own.get(path.name)),
      rates: rates(earlier?.get(path.name), path.totals, seconds),
    }));
    const known = paths.map((path) => path.rates).filter((rates) => rates !== null);
    return {
      name: target.name,
      paths,
      sessions,
      without: sessions.filter((session) => session.standing?.outage_seconds != null).length,
      ghosts: sum(sessions.map((session) => session.standing?.ghosts ?? 0)),
      rates: known.length > 0 ? together(known) : null,
    };
  }

  #remember({ name, rates }, at) {
    const points = this.history.get(name) ?? [];
    points.push({ at, read: rates?.read ?? null, written: rates?.written ?? null, latency: rates?.latency ?? null });
    while (points.length > MOST_POINTS || points[0].at < at - MEMORY) points.shift();
    this.history.set(name, points);
  }

  /** Of everything. */
  totals() {
    const paths = this.targets.flatMap((target) => target.paths);
    const known = this.targets.map((target) => target.rates).filter((rates) => rates !== null);
    return {
      sessions: sum(this.targets.map((target) => target.sessions.length)),
      used: paths.filter((path) => path.state !== "none").length,
      bad: paths.filter((path) => path.state === "down" || path.state === "suspect").length,
      without: sum(this.targets.map((target) => target.without)),
      ghosts: sum(this.targets.map((target) => target.ghosts)),
      rates: known.length > 0 ? together(known) : null,
    };
  }
}

/** A path, as all sessions together have it. */
function pathOf(path, own) {
  const counts = new Map();
  for (const { state } of own) counts.set(state, (counts.get(state) ?? 0) + 1);
  const states = [...counts].sort(([a], [b]) => rank(a) - rank(b));
  const worst = states[0]?.[0] ?? (path.out ? "drained" : "none");
  return {
    name: path.name,
    portal: path.portal,
    state: worst,
    states,
    home: own.some((path) => path.home),
    commands: sum(own.map((path) => path.commands)),
    oldest: most(own.map((path) => path.oldest_seconds)),
    retry: own.map((path) => path.retry_seconds).find((seconds) => seconds != null) ?? null,
  };
}

/** How badly a session stands: 0 is well. */
function trouble({ standing }) {
  if (standing === null) return 1;
  if (standing.outage_seconds !== null) return 3;
  return standing.ghosts > 0 || standing.paths.some(({ state }) => state === "down" || state === "suspect") ? 2 : 0;
}

/** Null where there is no earlier answer of the same Braid. */
function rates(before, now, seconds) {
  if (!before || !now || seconds <= 0) return null;
  const commands = now.commands - before.commands;
  const [read, written] = [now.read_bytes - before.read_bytes, now.written_bytes - before.written_bytes];
  const busy = now.command_seconds - before.command_seconds;
  if (commands < 0 || read < 0 || written < 0) return null;
  return {
    read: read / seconds,
    written: written / seconds,
    commands: commands / seconds,
    busy: busy / seconds,
    latency: commands > 0 ? Math.max(busy, 0) / commands : null,
  };
}

function together(all) {
  const [read, written, commands, busy] =
    ["read", "written", "commands", "busy"].map((name) => sum(all.map((rates) => rates[name])));
  return { read, written, commands, busy, latency: commands > 0 ? busy / commands : null };
}

/** Lower case words of which each must be found. */
export const wordsOf = (text) => text.toLowerCase().split(/\s+/).filter((word) => word !== "");

export function fits(words, ...texts) {
  const all = texts.map((text) => (text ?? "").toLowerCase());
  return words.every((word) => all.some((text) => text.includes(word)));
}
