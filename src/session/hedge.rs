//! Hedged reads: a read that is late is asked again over another path, and the first answer wins.
//!
//! Late is what takes longer, until anything of its answer comes, than all but the slowest of its path's reads of about its
//! size took of late ([`crate::path::late`]), and [`SHORTEST`] at least. It is asked again in the way of commands caught on a
//! suspect connection ([`super::evade`]), with the same exceptions, and its run goes on by itself ([`super::stale`]).
//! Besides, only reads of blocks are asked again that any path may carry, of which nothing has come, each once; not where a
//! command that the target keeps behind it is there already; and only if another path has room at once, is trusted, and is as
//! good a place for the unit. That run counts as load of its path until it is answered, and its time is counted too: what is
//! late at one path is not forgotten because another was faster.
//!
//! # No double load
//! A target that is slow as a whole answers nothing sooner for being asked twice. So each read that is answered earns a share
//! of a hedge ([`Hedge::most`]), and a few at most are saved up.
//!
//! While Braid reads nothing from targets since the initiator takes nothing, no read is late, and no time is counted.

use super::Session;
use super::api::{Hedge, Notice, PathId};
use super::tasks::{Task, TaskKey};
use super::watch::Standing;
use crate::path::late::Answers;
use std::time::{Duration, Instant};

/// No read is late before this: timers are no finer.
const SHORTEST: Duration = Duration::from_millis(1);
/// What a hedge costs; a read that is answered earns so many thousandths of it.
const PRICE: u32 = 1000;
/// So much may be saved up.
const MOST_SAVED: u32 = 10 * PRICE;

/// What is known of reads.
#[derive(Debug)]
pub(super) struct Hedging {
    /// By path.
    answers: Vec<Answers>,
    saved: u32,
    /// When late reads are looked for next; set while there may be some.
    at: Option<Instant>,
    /// Since when targets are being read.
    reading_since: Instant,
}

impl Hedging {
    pub(super) fn new(paths: usize, now: Instant) -> Self {
        Self { answers: vec![Answers::default(); paths], saved: 0, at: None, reading_since: now }
    }

    /// After what time the first read may be late.
    fn soonest(&self) -> Option<Duration> {
        self.answers.iter().filter_map(Answers::soonest).min().map(|soonest| soonest.max(SHORTEST))
    }
}

impl Session {
    /// A command was sent: sees to it that it is looked at in time.
    pub(super) fn begin_hedging(&mut self, now: Instant) {
        if self.plan.hedge.is_some() && self.hedging.at.is_none() {
            self.hedging.at = self.hedging.soonest().map(|soonest| now + soonest);
        }
    }

    /// When late reads are looked for.
    pub(super) fn hedge_deadline(&self) -> Option<Instant> {
        self.hedging.at.filter(|_| !self.paused)
    }

    /// Targets are read again, or not any more.
    pub(super) fn hedging_paused(&mut self, now: Instant) {
        self.hedging.reading_since = now;
        self.hedging.at = None;
        self.begin_hedging(now);
    }

    /// Asks late reads again, where they are due.
    pub(super) fn hedge(&mut self, now: Instant) {
        if self.paused || self.hedging.at.take_if(|at| *at <= now).is_none() {
            return;
        }
        let Some(soonest) = self.hedging.soonest().filter(|_| self.plan.hedge.is_some()) else { return };
        let mut waiting: Vec<(Instant, TaskKey)> =
            self.tasks.iter().filter_map(|(key, task)| Some((self.late_at(task)?, key))).collect();
        waiting.sort_unstable();
        let next = waiting.iter().map(|(at, _)| *at).find(|at| *at > now);
        self.hedging.at =
            (!waiting.is_empty()).then(|| next.map_or(now + soonest, |at| at.min(now + soonest)));
        for (_, key) in waiting.into_iter().take_while(|(at, _)| *at <= now) {
            self.ask_twice(key, now);
        }
    }

    /// When a read is late that may be asked again.
    fn late_at(&self, task: &Task) -> Option<Instant> {
        let run = task.run.as_ref().filter(|run| run.next_sn == 0)?;
        let once = task.moves == 0 && task.is_plain_read();
        let usual = self.hedging.answers.get(run.path.0).filter(|_| once)?.late(run.load)?;
        Some(run.sent_at.max(self.hedging.reading_since) + usual.max(SHORTEST))
    }

    fn ask_twice(&mut self, key: TaskKey, now: Instant) {
        let affordable = self.hedging.saved >= PRICE || broken!(self.rules, HedgedWithoutBound);
        if !affordable || self.finishing.is_some() || !self.any_queue.is_empty() {
            return;
        }
        // Another that was asked again may have changed things.
        let late = |t: &&Task| self.late_at(t).is_some_and(|at| at <= now) && self.may_move(t);
        let Some(task) = self.tasks.get(key).filter(late) else { return };
        let Some(path) = task.run.as_ref().map(|run| run.path) else { return };
        let followed = self.order.followers_of(key).any(|k| self.tasks.runs(k));
        if followed || !self.has_room_beside(task, path) {
            return;
        }
        if self.move_away(key, true, now).is_none() {
            return;
        }
        self.hedging.saved = self.hedging.saved.saturating_sub(PRICE);
        if let Some(task) = self.tasks.get_mut(key) {
            task.hedged = Some(path);
        }
        self.note(Notice::Hedged { path });
        self.dispatch(now);
    }

    /// Whether another path would take a command at once, and as well.
    fn has_room_beside(&self, task: &Task, path: PathId) -> bool {
        let class = &task.command.class;
        let place = self.best_place(task.lun, class).filter(|(standing, _)| *standing == Standing::Trusted);
        let fits = |place| self.conns.iter().any(|c| c.path != path && self.fits(c, task.lun, class, place));
        place.is_some_and(fits)
    }

    /// The first of a read's answer has come, over the path of its run.
    pub(super) fn read_answers(&mut self, key: TaskKey, now: Instant) {
        let Some(task) = self.tasks.get_mut(key).filter(|task| task.is_plain_read()) else { return };
        let Some(run) = &task.run else { return };
        let (path, bytes, sent_at) = (run.path, run.load, run.sent_at);
        let late = task.hedged.take();
        self.read_took(path, bytes, sent_at, now);
        if let Some(Hedge { most, .. }) = self.plan.hedge {
            self.hedging.saved = (self.hedging.saved + u32::from(most)).min(MOST_SAVED);
        }
        if let Some(late) = late.filter(|late| *late != path) {
            self.note(Notice::HedgeWon { path: late });
        }
    }

    /// A read of so many bytes that was sent over a path is answered.
    pub(super) fn read_took(&mut self, path: PathId, bytes: u64, sent_at: Instant, now: Instant) {
        let Some(hedge) = self.plan.hedge.filter(|_| sent_at >= self.hedging.reading_since) else { return };
        if let Some(answers) = self.hedging.answers.get_mut(path.0) {
            answers.note(bytes, now.saturating_duration_since(sent_at), hedge.late);
        }
    }
}
