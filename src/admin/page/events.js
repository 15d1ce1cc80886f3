// What happened, the latest first.

import { html, icon, keep, redraw, say } from "./dom.js";
import { fits } from "./model.js";
import { kindOf, number, some } from "./words.js";

/** Events that are kept, and those that are shown. */
const KEPT = 2048;
const SHOWN = 100;

export class Events {
  constructor(list, more, said) {
    this.list = list;
    this.more = more;
    this.said = said;
    this.events = [];
    this.missed = 0;
    /** What to ask with next time. */
    this.last = 0;
    /** Whether Braid has told anything yet. */
    this.begun = false;
    /** Tells events of one Braid from those of the next, whose numbers begin anew. */
    this.life = 0;
  }

  /** Takes an answer; says the worst of it aloud, unless it is what happened before the page was opened. */
  take(news) {
    const first = !this.begun;
    this.begun = true;
    if (news.last < this.last) this.life += 1;
    const fresh = news.events.map((event) => ({ ...event, key: `${this.life} ${event.number}`, ...kindOf(event.kind) }));
    this.last = news.last;
    this.missed += first ? 0 : news.missed;
    this.events = [...fresh.reverse(), ...this.events].slice(0, KEPT);
    const grave = fresh.filter((event) => event.tone === "bad");
    if (!first && grave.length > 0) say(this.said, sentence(grave));
    return first ? [] : grave;
  }

  show(words, trouble) {
    const fit = this.events.filter((event) =>
      (!trouble || event.tone === "bad" || event.tone === "warn") &&
      fits(words, event.target, event.initiator, event.path, event.kind, event.text));
    const shown = fit.slice(0, SHOWN);
    keep(this.list, shown, (event) => event.key, make, fill);
    const facts = [];
    if (this.events.length === 0) facts.push("Nothing has happened yet.");
    else if (fit.length === 0) facts.push("No event fits the filter.");
    if (fit.length > shown.length) facts.push(`${number(fit.length - shown.length)} older ones are not shown.`);
    if (this.missed > 0) facts.push(`${some(this.missed, "event")} went by too fast to be shown.`);
    say(this.more, facts.join(" "));
  }
}

function sentence(grave) {
  const [{ kind, path, text }] = grave;
  const more = grave.length > 1 ? `, and ${number(grave.length - 1)} more` : "";
  return [kind.replaceAll("-", " "), path, text].filter(Boolean).join(", ") + more;
}

function make() {
  return html(
    "li", {},
    icon("ring", "cool"),
    html("span", { class: "kind" }),
    html("time"),
    html("span", { class: "about" }),
    html("span", { class: "cause" }),
  );
}

function fill(item, { kind, time, path, target, initiator, text, shape, tone }) {
  const [picture, what, when, about, cause] = item.children;
  redraw(picture, shape, tone);
  what.className = `kind ${tone}`;
  say(what, kind.replaceAll("-", " "));
  const moment = new Date(time);
  when.dateTime = time;
  when.title = time;
  const today = moment.toDateString() === new Date().toDateString();
  say(when, today ? moment.toLocaleTimeString() : `${moment.toLocaleDateString()} ${moment.toLocaleTimeString()}`);
  say(about, [path, target, initiator].filter(Boolean).join(" · "));
  about.hidden = about.textContent === "";
  say(cause, text);
  cause.hidden = text === "";
}
