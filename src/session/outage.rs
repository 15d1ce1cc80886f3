//! No path for home: how long commands are held, and what becomes of them then.
//!
//! While home is lost, what only home may take waits, and so does everything else where no further nexus is left that
//! shows the unit. The initiator is kept calm: its pings are answered, and its window closes as what waits fills it.
//! When that has lasted for `queue_time`, or the operator does not want to wait so long ([`super::Control::GiveUp`]):
//! - [`Exhausted::Close`]: the session ends, so that the initiator helps itself, for its own time.
//! - [`Exhausted::Busy`]: the session lives on, and until home is back every command that no nexus can take is ended as it
//!   comes. One that has not been at a target is answered BUSY (SAM-5 5.3.1: it was not run, and may be sent again). Of one
//!   that was lost with its path and may change the medium the outcome is unknown, and that is what is said (P5).

use super::Session;
use super::api::{Exhausted, Notice};
use super::nexus::NexusState;
use super::tasks::{Task, TaskKey};
use crate::iscsi::ScsiResponse;
use crate::scsi::sense::status;
use std::time::Instant;

impl Session {
    /// When what waits for home is given up.
    pub(super) fn outage_deadline(&self) -> Option<Instant> {
        let waiting = self.home_lost_since.filter(|_| self.finishing.is_none() && !self.exhausted);
        waiting.map(|since| since + self.plan.queue_time)
    }

    /// Home did not come back in time.
    pub(super) fn give_up_in_time(&mut self, now: Instant) {
        if self.outage_deadline().is_some_and(|at| at <= now) {
            self.give_up(now);
        }
    }

    /// What waits for home waits no longer. Without an outage there is nothing to give up.
    pub(super) fn give_up(&mut self, now: Instant) {
        if self.home_lost_since.is_none() || self.finishing.is_some() || self.exhausted {
            return;
        }
        self.note(Notice::GaveUp(self.plan.exhausted));
        match self.plan.exhausted {
            Exhausted::Close => self.begin_finish(now),
            Exhausted::Busy => self.exhausted = true,
        }
    }

    /// Home is back.
    pub(super) fn outage_over(&mut self) {
        self.home_lost_since = None;
        if std::mem::take(&mut self.exhausted) {
            self.note(Notice::TakenAgain);
        }
    }

    /// Ends what no nexus can take, once it was given up.
    pub(super) fn end_hopeless(&mut self, now: Instant) {
        if !self.exhausted || self.finishing.is_some() {
            return;
        }
        for key in self.tasks.select(|t| t.is_initiators() && t.run.is_none() && t.held_response.is_none()) {
            self.end_if_hopeless(key, now);
        }
    }

    fn end_if_hopeless(&mut self, key: TaskKey, now: Instant) {
        // Those that ended before it may have let it go.
        let waits = |t: &&Task| t.run.is_none() && t.held_response.is_none() && !self.has_way(t);
        let Some(task) = self.tasks.get(key).filter(waits) else { return };
        let unknown = task.losses > 0 && task.leaves_ghost();
        // Its answer may have to wait for its data; it is not to be sent meanwhile.
        self.unqueue(key);
        if let Some(task) = self.tasks.get_mut(key) {
            task.queued = false;
        }
        if unknown {
            self.answer_unknown_outcome(key, now);
        } else {
            self.respond(key, ScsiResponse { status: status::BUSY, ..ScsiResponse::default() }, now);
        }
    }

    /// Whether a nexus that works may carry it, now or when there is room.
    fn has_way(&self, task: &Task) -> bool {
        let carries = |(id, n): (usize, &super::nexus::Nexus)| {
            n.state == NexusState::Up && self.unit_usable(task.lun, id, &task.command.class)
        };
        !task.home_only && !self.is_single_file(task.lun) && self.nexuses.iter().enumerate().any(carries)
    }
}
