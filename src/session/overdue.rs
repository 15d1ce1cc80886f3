//! Write data that do not come, at error recovery level 1 (RFC 7143 section 7.1.4.1).
//!
//! An R2T may be lost on its way, and the last PDUs of a sequence with nothing behind them that would show it; initiators do not
//! ask for an R2T from timers of their own (R175). When nothing has come of a sequence for
//! [`sequence_timeout`](super::SessionPlan::sequence_timeout), it is given up, and a recovery R2T asks for all that is missing. What
//! still comes of the old one is dropped. But where other data come, it is in their queue as long as none have come that were
//! asked for later.
//!
//! After [`MOST_IN_VAIN`] of them in a row the command ends with CHECK CONDITION (R139); one that a target has is aborted there
//! first. But an initiator that says nothing at all may be out of reach rather than at fault: it is pinged, and its commands wait
//! until it is heard again. At level 0 nobody asks again.

use super::Session;
use super::api::LineId;
use super::tasks::{Task, TaskKey};
use super::upstream::take_tag;
use crate::iscsi::{Itt, NopIn, Pdu, ScsiResponse};
use crate::scsi::Sense;
use crate::scsi::sense::key;
use std::time::Instant;

/// Recovery R2Ts sent in a row while nothing comes.
const MOST_IN_VAIN: u32 = 5;

/// Protocol service CRC error.
const LOST_IN_TRANSIT: Sense = Sense { key: key::ABORTED_COMMAND, asc: 0x47, ascq: 0x05 };

/// What the initiator was heard of.
#[derive(Debug)]
pub(super) struct Reception {
    /// When it said anything last.
    pub(super) heard: Instant,
    /// When write data came last, and when those were asked for that were asked for last among all that came.
    data: Instant,
    newest: Instant,
    /// When write data that do not come are looked for next; set while some may be awaited.
    look_at: Option<Instant>,
}

impl Reception {
    pub(super) const fn new(now: Instant) -> Self {
        Self { heard: now, data: now, newest: now, look_at: None }
    }
}

impl Session {
    /// Write data are awaited from now on.
    pub(super) fn await_data(&mut self, key: TaskKey) {
        if self.recovers()
            && let Some(task) = self.tasks.get_mut(key)
        {
            (task.data_asked, task.data_since) = (self.now, self.now);
            self.reception.look_at.get_or_insert(self.now + self.plan.sequence_timeout);
        }
    }

    /// Write data came, of which so many bytes were taken.
    pub(super) fn data_came(&mut self, key: TaskKey, taken: u32, now: Instant) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        self.reception.data = now;
        self.reception.newest = self.reception.newest.max(task.data_asked);
        task.data_since = now;
        if taken > 0 {
            task.asked_in_vain = 0;
        }
    }

    /// When to look for write data that do not come.
    pub(super) fn sequence_deadline(&self) -> Option<Instant> {
        self.reception.look_at.filter(|_| self.finishing.is_none() && !self.paused)
    }

    /// Nothing was sent to the initiator for a while.
    pub(super) fn restart_sequences_patience(&mut self, now: Instant) {
        if self.reception.look_at.is_some() {
            self.reception.look_at = Some(now + self.plan.sequence_timeout);
            for key in self.tasks.select(Task::data_due) {
                self.await_data(key);
            }
        }
    }

    /// Asks again for write data that do not come.
    pub(super) fn expire_sequences(&mut self, now: Instant) {
        let patience = self.plan.sequence_timeout;
        if self.sequence_deadline().is_none_or(|at| now < at) || broken!(self.rules, SequencesNotTimed) {
            return;
        }
        let overdue = self.tasks.select(|task| self.is_overdue(task, now));
        let unheard =
            |key: &TaskKey| self.tasks.get(*key).is_some_and(|t| self.reception.heard <= t.data_since);
        let lines = overdue.iter().filter(|key| unheard(key)).filter_map(|key| self.tasks.get(*key)?.line());
        let mut unheard: Vec<LineId> = lines.collect();
        unheard.sort_unstable();
        unheard.dedup();
        for line in unheard {
            self.ask_for_a_sign(line);
        }
        for key in overdue {
            self.sequence_overdue(key, now);
        }
        let due = self.tasks.iter().filter(|(_, task)| task.data_due()).map(|(_, t)| t.data_since + patience);
        // What waits for something else is looked at again later.
        self.reception.look_at = due.map(|at| if at > now { at } else { now + patience }).min();
    }

    fn is_overdue(&self, task: &Task, now: Instant) -> bool {
        let patience = self.plan.sequence_timeout;
        let queues = now < self.reception.data + patience && self.reception.newest <= task.data_asked;
        task.data_due() && now >= task.data_since + patience && !queues && !self.is_held(task)
    }

    fn sequence_overdue(&mut self, key: TaskKey, now: Instant) {
        let heard = self.reception.heard;
        let Some(task) = self.tasks.get_mut(key) else { return };
        let hopeless = task.asked_in_vain >= MOST_IN_VAIN || task.inbound.is_beyond_help();
        if hopeless && heard <= task.data_since {
            return;
        }
        task.inbound.give_up(hopeless);
        task.asked_in_vain += 1;
        if hopeless && task.held_response.is_none() {
            self.note_missing_data();
            self.abandon(key, now);
        } else {
            self.sequence_went_on(key, 0, now);
        }
    }

    /// An initiator that lives answers.
    fn ask_for_a_sign(&mut self, line: LineId) {
        let ttt = take_tag(&mut self.next_ttt);
        let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.peek(line);
        let ping = NopIn { itt: Itt::NONE, ttt, stat_sn, exp_cmd_sn, max_cmd_sn, ..NopIn::default() };
        self.tell(line, Pdu::NopIn(ping));
    }

    /// A write whose data do not come is at no target any more: it ends.
    pub(super) fn answer_to_missing_data(&mut self, key: TaskKey, now: Instant) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let lun = task.lun;
        if let Some(run) = task.run.take() {
            if let Some(load) = self.loads.get_mut(run.path.0) {
                load.forgotten(run.load);
            }
            self.run_ended(run, lun, None);
        }
        self.respond(key, ScsiResponse::check_condition(&LOST_IN_TRANSIT.to_fixed()), now);
    }
}
