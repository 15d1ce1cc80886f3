// Numbers and states as people read them.

/** States of a path, the worst first: a shape and a tone each, so that nobody needs to tell colours apart. */
export const STATES = {
  down: { shape: "cross", tone: "bad", says: "down" },
  suspect: { shape: "triangle", tone: "warn", says: "suspect" },
  marginal: { shape: "triangle", tone: "cool", says: "marginal" },
  probing: { shape: "ring", tone: "cool", says: "probing" },
  draining: { shape: "arrow", tone: "cool", says: "draining" },
  drained: { shape: "square", tone: "idle", says: "drained" },
  up: { shape: "disc", tone: "good", says: "up" },
  none: { shape: "dash", tone: "idle", says: "no session" },
};

/** How a state is shown; one that is not known as itself. */
export const stateOf = (word) => STATES[word] ?? { shape: "dash", tone: "idle", says: word };

/** How bad a state is: the least is the worst. */
export function rank(word) {
  const at = Object.keys(STATES).indexOf(word);
  return at < 0 ? 99 : at;
}

/** Kinds of events that are more than news. */
const KINDS = {
  bad: [
    "path-lost", "all-paths-down", "gave-up", "identity-mismatch", "outcome-unknown", "protocol-error", "not-reloaded",
  ],
  warn: [
    "path-suspect", "connection-lost", "path-marginal", "path-unreachable", "commands-moved", "failover", "login-refused", "unit-bound",
    "access-changed",
  ],
  good: ["path-up", "connection-joined", "path-trusted", "path-calm", "fenced", "taken-again"],
};
const SHAPE = { bad: "cross", warn: "triangle", good: "disc", cool: "ring" };

/** The tone and shape of a kind of event. */
export function kindOf(kind) {
  const tone = Object.keys(KINDS).find((tone) => KINDS[tone].includes(kind)) ?? "cool";
  return { tone, shape: SHAPE[tone] };
}

export function bytes(count) {
  if (count === null) return "–";
  let value = count;
  for (const unit of ["B", "KiB", "MiB"]) {
    if (value < 1000) return `${value < 10 && unit !== "B" ? value.toFixed(1) : value.toFixed(0)} ${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(value < 10 ? 2 : 1)} GiB`;
}

export const rate = (count) => (count === null ? "–" : `${bytes(count)}/s`);

/** A whole number with its thousands apart. */
export const number = (count) => (count === null ? "–" : Math.round(count).toLocaleString("en"));

export function time(seconds) {
  if (seconds === null) return "–";
  if (seconds < 0.001) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 0.01 ? 2 : seconds < 0.1 ? 1 : 0)} ms`;
  return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}

export function span(seconds) {
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

/** "1 path", "2 paths". */
export const some = (count, what) => `${number(count)} ${what}${count === 1 ? "" : "s"}`;
