// The page: asks Braid again and again how it stands and what happened, and shows it. When Braid does not answer, it says so.

import { html, icon, keep, say } from "./dom.js";
import { Events } from "./events.js";
import { Model, fits, wordsOf } from "./model.js";
import { TargetView } from "./target.js";
import { STATES, number, rate, some, span, time } from "./words.js";

/** Targets that are shown at once. */
const MOST_TARGETS = 8;
/** Between two questions, in milliseconds: longer where there is much to tell. */
const [SHORTLY, SOON, LATE, PER_SESSION] = [250, 1000, 5000, 2];
/** An answer that takes longer is none, in milliseconds. */
const PATIENCE = 8000;
/** How long Braid may wait for an event before it answers, in seconds. */
const WAIT = 20;

const at = (id) => document.getElementById(id);
const model = new Model();
const events = new Events(at("events"), at("events-more"), at("said"));
const views = new Map();
/** When something went wrong, by target; "" is for all. */
const mishaps = new Map();
let lostSince = null;

async function ask(page, patience) {
  const answer = await fetch(page, { cache: "no-store", signal: AbortSignal.timeout(patience) });
  if (!answer.ok) throw new Error(`it answers ${answer.status}`);
  return answer.json();
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

async function follow() {
  for (;;) {
    let sessions = 0;
    try {
      model.take(await ask("v1/status", PATIENCE), Date.now());
      sessions = model.totals().sessions;
      found();
      show();
    } catch (error) {
      lose(error);
    }
    await pause(Math.min(LATE, SOON + PER_SESSION * sessions));
  }
}

async function listen() {
  for (;;) {
    try {
      const wait = events.begun ? WAIT : 0;
      const news = await ask(`v1/events?after=${events.last}&wait=${wait}`, wait * 1000 + PATIENCE);
      for (const event of events.take(news)) remember(event.target ?? "");
      showEvents();
      await pause(SHORTLY);
    } catch {
      // `follow` says that Braid does not answer.
      await pause(2 * SOON);
    }
  }
}

function remember(target) {
  const all = mishaps.get(target) ?? [];
  mishaps.set(target, [...all, Date.now()].slice(-100));
}

function lose(error) {
  if (lostSince !== null) return;
  lostSince = new Date();
  const answers = error.message.startsWith("it answers") ? ` (${error.message})` : "";
  const since = `Braid cannot be reached any more, since ${lostSince.toLocaleTimeString()}${answers}.`;
  say(at("lost"), `${since} What is shown below was so before. This page goes on asking.`);
  at("lost").hidden = false;
  document.body.classList.add("stale");
  at("live").className = "live off";
  say(at("live-text"), "not reached");
  document.title = "✕ Braid not reached";
}

function found() {
  lostSince = null;
  at("lost").hidden = true;
  say(at("lost"), "");
  document.body.classList.remove("stale");
  at("live").className = "live on";
  say(at("live-text"), "live");
}

function show() {
  const totals = model.totals();
  say(at("version"), `${model.version}, up ${span(model.uptime)}`);
  const wrong = totals.without + totals.bad;
  document.title = wrong > 0 ? `✕ Braid: ${wrong} in trouble` : "Braid";
  const { rates } = totals;
  showTotals([
    ["sessions", number(totals.sessions), ""],
    ["paths in use", totals.bad > 0 ? `${number(totals.used)}, ${number(totals.bad)} bad` : number(totals.used), totals.bad > 0 ? "bad" : ""],
    ["read", rate(rates?.read ?? null), ""],
    ["written", rate(rates?.written ?? null), ""],
    ["commands/s", number(rates?.commands ?? null), ""],
    ["each takes", time(rates?.latency ?? null), ""],
    ...(totals.without > 0 ? [["without a path", number(totals.without), "bad"]] : []),
  ]);
  const words = wordsOf(at("words").value);
  const trouble = at("trouble").checked;
  const fit = model.targets.map((target) => ({ target, sessions: chosen(target, words, trouble) })).filter(({ sessions }) => sessions !== null);
  const shown = fit.slice(0, MOST_TARGETS);
  showNone(fit.length, shown.length);
  keep(at("targets"), [{ none: true }, ...shown], (item) => (item.none ? "" : item.target.name), makeTarget, fillTarget);
  for (const [name, view] of views) if (!view.element.isConnected) views.delete(name);
}

/** The sessions of a target that fit; null if it does not fit itself. */
function chosen(target, words, trouble) {
  const bad = target.without > 0 || target.ghosts > 0 || target.paths.some(({ state }) => state === "down" || state === "suspect");
  if (trouble && !bad) return null;
  const sessions = trouble ? target.sessions.filter((session) => session.trouble > 0) : target.sessions;
  if (fits(words, target.name, ...target.paths.flatMap((path) => [path.name, path.portal]))) return sessions;
  const fit = sessions.filter((session) => fits(words, target.name, session.initiator, session.peer, session.isid));
  return fit.length > 0 ? fit : null;
}

function makeTarget({ target }) {
  const view = new TargetView(target.name);
  views.set(target.name, view);
  return view.element;
}

function fillTarget(_element, item) {
  if (item.none) return;
  const { target, sessions } = item;
  const wrong = [...(mishaps.get(target.name) ?? []), ...(mishaps.get("") ?? [])];
  views.get(target.name).show(target, sessions, at("words").value.trim(), model.history.get(target.name) ?? [], Date.now(), wrong);
}

function showNone(fit, shown) {
  const none = at("none");
  const more = fit > shown ? `Shown are ${number(shown)} of ${some(fit, "target")}; the filter finds the others.` : "";
  const words = model.targets.length === 0 ? "No target is configured, and nobody has logged in to a discovered one." : "Nothing fits the filter.";
  say(none, fit === 0 ? words : more);
  none.hidden = none.textContent === "";
}

function showTotals(all) {
  keep(at("totals"), all, ([name]) => name, ([name]) => html("div", {}, html("dt", {}, name), html("dd")), (element, [, value, tone]) => {
    element.className = tone;
    say(element.lastElementChild, value);
  });
}

function showEvents() {
  events.show(wordsOf(at("words").value), at("trouble").checked);
}

function refilter() {
  if (model.version !== "") show();
  showEvents();
}

function begin() {
  at("none").dataset.key = "";
  for (const { shape, tone, says } of Object.values(STATES)) {
    at("legend").append(html("span", { class: `state ${tone}` }, icon(shape, tone), says));
  }
  at("words").addEventListener("input", refilter);
  at("trouble").addEventListener("change", refilter);
  at("filter").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("resize", refilter);
  follow();
  listen();
}

begin();
