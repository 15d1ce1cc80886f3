//! The three phases of a run.

use super::host::FENCE_TIME;
use super::{Happening, Outcome, World};
use crate::orders::Order;
use std::hash::Hasher;
use std::time::Duration;

/// The longest that any plan of faults lasts.
const SAFETY: Duration = Duration::from_secs(1200);
/// With every link healed: the longest silence noticed, the longest backoff, a fence by time, lost commands noticed.
const LIVENESS: Duration = Duration::from_secs(90);
/// A session's end: its drain, and a fence.
const ENDING: Duration = Duration::from_secs(60);

impl World {
    /// Runs to the end, or panics with the promise that was broken.
    pub(crate) fn run(mut self) -> Outcome {
        self.after(Duration::ZERO, Happening::InitiatorLogin);
        self.safety();
        self.liveness();
        self.ask_around();
        self.ending();
        for target in &self.targets {
            for (name, times) in target.triggered() {
                self.coverage.hits(name, u64::from(times));
            }
        }
        self.coverage.hit(self.scenario.persona.name);
        self.coverage.add(&self.initiator.coverage);
        Outcome { hash: self.hash.finish(), coverage: self.coverage, judged: self.judged }
    }

    fn safety(&mut self) {
        let until = self.now + SAFETY;
        while self.initiator.issued < self.scenario.commands || !self.planned.is_empty() {
            self.step();
            assert!(self.now < until, "P4: commands do not get through: {}", self.initiator.open());
        }
        let rest = self.now + Duration::from_millis(60);
        while self.now < rest {
            self.step();
        }
    }

    fn liveness(&mut self) {
        self.trace(&[30], || "*** everything is healed".into());
        self.healing = true;
        for link in 0..self.links.len() {
            self.links[link].heal(self.now);
            self.speak_again(link);
        }
        self.targets[0].heal();
        self.set_paused(false);
        for path in 0..self.scenario.paths.len() {
            self.order(Order::Restore(path));
        }
        let until = self.now + LIVENESS;
        loop {
            let idle = self.initiator.logged_in && self.initiator.is_idle();
            let missing = self.missing_path();
            if idle && missing.is_none() && self.host.session.is_some() {
                return;
            }
            assert!(
                self.now < until,
                "P4: not everything ends or comes back: path {missing:?} is down, open: {}",
                self.initiator.open()
            );
            self.step();
        }
    }

    /// Asks every unit until it has nothing left to say, and reads it. (A read may find out something on a further path.) What
    /// the target tells Braid of one unit while others are asked, a later command meets (SAM-5 section 5.14): then all are
    /// asked once more.
    fn ask_around(&mut self) {
        self.ask_each();
        if self.initiator.conditions.owes() {
            self.ask_each();
        }
        let target = &self.targets[0];
        self.initiator.conditions.end(|unit| target.reserved(unit));
    }

    fn ask_each(&mut self) {
        for unit in 0..self.scenario.units {
            for turn in 0..10 {
                let asks = |w: &Self| w.initiator.may_send() && !w.initiator.is_given_up(w.now);
                self.wait("an answer", |w| w.initiator.is_idle() && asks(w));
                match turn {
                    6 => self.initiator.read_all(unit, self.now),
                    _ => self.initiator.ready(unit, self.now),
                }
                self.send_downstream();
            }
        }
        self.wait("the rest", |w| w.initiator.is_idle());
    }

    fn wait(&mut self, what: &str, until: impl Fn(&Self) -> bool) {
        let deadline = self.now + LIVENESS;
        while !until(self) {
            assert!(self.now < deadline, "P4: {what}: {}", self.initiator.open());
            self.step();
        }
    }

    fn ending(&mut self) {
        self.leaving = true;
        self.initiator.log_out();
        self.send_downstream();
        let deadline = self.now + ENDING + FENCE_TIME;
        while self.host.session.is_some() || self.front.is_some() {
            assert!(self.now < deadline, "P4: the session does not end");
            self.step();
        }
        let medium = self.medium();
        // What can never run any more is no ghost.
        while self.targets[0].busy() && (!self.events.is_empty() || self.targets[0].next_deadline().is_some())
        {
            self.step();
        }
        assert_eq!(self.medium(), medium, "P2: a ghost outlived the session");
        let [right, wrong] = &self.targets;
        self.initiator.oracle.end(|unit, lba| right.block(unit, lba));
        self.initiator.judge_once(|stamp| right.executions(stamp));
        for unit in 0..self.scenario.units {
            let untouched = (0..self.scenario.blocks).all(|lba| wrong.block(unit, lba) == 0);
            assert!(untouched, "P2: written to another disk");
        }
        for other in 0..self.scenario.inventory.as_ref().map_or(0, |i| i.others.len()) {
            let unit = self.scenario.units + other;
            let untouched = (0..self.scenario.blocks).all(|lba| right.block(unit, lba) == 0);
            assert!(untouched, "P2: written to a disk that home does not show");
        }
    }

    fn medium(&self) -> Vec<u64> {
        let unit = |unit| (0..self.scenario.blocks).map(move |lba| (unit, lba));
        (0..self.scenario.units).flat_map(unit).map(|(unit, lba)| self.targets[0].block(unit, lba)).collect()
    }
}
