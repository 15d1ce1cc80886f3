//! What happens to a target from outside: other initiators, failures, power.

use super::commands::Outcome;
use super::device::{State, Task};
use super::trigger::Trigger;
use super::{Abort, Effect, Target};
use braid::iscsi::{AsyncMessage, Cid, Pdu};
use braid::scsi::Sense;
use braid::scsi::sense::key;
use std::time::Instant;

impl Target {
    /// The power goes: unflushed blocks fall back, and every later session is told. Returns the event.
    pub(crate) fn power_cut(&mut self, now: Instant) -> u32 {
        self.now = Some(now);
        let event = self.new_event();
        self.power_event = [event; 2];
        self.count(Trigger::PowerCut);
        self.power_cuts.iter_mut().for_each(|cuts| *cuts += 1);
        self.drop_everything();
        self.tasks.clear();
        for unit in &mut self.units {
            let (kept, lost) = unit.medium.power_cut(None, &mut self.random);
            (0..kept).for_each(|_| self.counts.count(Trigger::UnflushedKept));
            (0..lost).for_each(|_| self.counts.count(Trigger::UnflushedLost));
            unit.reservations.forget();
        }
        (0..self.units.len()).for_each(|unit| self.note_view(unit));
        event
    }

    /// One of two heads loses power: its sessions, what they have in the device and its cache; the other goes on. Returns the
    /// event.
    pub(crate) fn head_loses_power(&mut self, head: usize, now: Instant) -> u32 {
        self.now = Some(now);
        self.count(Trigger::HeadLostPower);
        let event = self.new_event();
        self.power_event[head] = event;
        self.power_cuts[head] += 1;
        let heads = self.heads;
        for login in self.logins.extract_if(.., |l| heads.of(l.portal()) == head) {
            self.effects.push_back(Effect::Reset(login.conn));
        }
        for session in 0..self.sessions.len() {
            if self.head_of(session) == head {
                self.kill_session(session);
                self.sessions[session].replaced = true;
            }
        }
        let mut at = 0;
        while at < self.tasks.len() {
            if self.head_of(self.tasks[at].session) == head {
                self.take(at);
            } else {
                at += 1;
            }
        }
        for unit in 0..self.units.len() {
            if !self.heads.one_cache {
                let (kept, lost) = self.units[unit].medium.power_cut(Some(head), &mut self.random);
                (0..kept).for_each(|_| self.counts.count(Trigger::UnflushedKept));
                (0..lost).for_each(|_| self.counts.count(Trigger::UnflushedLost));
            }
            self.note_view(unit);
        }
        self.device_changed();
        self.announce_windows();
        event
    }

    /// The target's process starts anew: what the device holds is done, or never begun; the medium stays as it is.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.now = Some(now);
        self.count(Trigger::Restarted);
        self.drop_everything();
        let mut tasks = std::mem::take(&mut self.tasks);
        tasks.retain(|t| matches!(t.state, State::Running(_)));
        tasks.sort_by_key(|t| match t.state {
            State::Running(until) => until,
            State::Collecting(_) | State::Waiting => now,
        });
        for task in tasks {
            if self.random.once_in(2) {
                self.count(Trigger::FinishedByRestart);
                self.run(&task);
            }
        }
        for unit in &mut self.units {
            unit.reservations.forget();
        }
        (0..self.units.len()).for_each(|unit| self.note_view(unit));
    }

    fn drop_everything(&mut self) {
        let open = self.conns.iter().map(|c| c.id).chain(self.logins.iter().map(|l| l.conn));
        self.effects.extend(open.map(Effect::Reset));
        self.conns.clear();
        self.logins.clear();
        self.functions.clear();
        self.cleanups.clear();
        for session in &mut self.sessions {
            session.alive = false;
            session.replaced = true;
            session.early.clear();
            session.open = 0;
        }
        for unit in &mut self.units {
            unit.wedged = false;
            unit.wedge_armed = false;
        }
    }

    /// Only what time ends may still go wrong from now on.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
        self.bad_reads = 0;
        self.heal_access();
        self.units.iter_mut().for_each(|u| u.reservations.foreigners_leave());
        (0..self.units.len()).for_each(|unit| self.note_view(unit));
        if let Some(now) = self.now {
            self.hurry_functions(now);
        }
    }

    /// Another initiator resets a unit. Returns the event.
    pub(crate) fn foreign_reset(&mut self, unit: usize) -> u32 {
        // A target that lets its tasks end does so here too, those that wait for data included.
        if self.persona.unit_reset == Abort::TakesOut {
            self.end_tasks(Abort::TakesOut, usize::MAX, |t| t.unit == unit).unwrap();
        }
        self.units[unit].reservations.reset();
        let event = self.new_event();
        self.raise(unit, None, self.persona.reset_attention, Some(event));
        self.device_changed();
        self.announce_windows();
        event
    }

    /// Another initiator clears the task set of a unit, if the target lets it. Returns the event.
    pub(crate) fn foreign_clear(&mut self, unit: usize) -> Option<u32> {
        if self.persona.clear_task_set != Abort::TakesOut {
            return None;
        }
        let event = self.new_event();
        let mut losers: Vec<usize> =
            self.tasks.iter().filter(|t| t.unit == unit).map(|t| t.session).collect();
        losers.sort_unstable();
        losers.dedup();
        self.end_tasks(Abort::TakesOut, usize::MAX, |t| t.unit == unit).unwrap();
        if !self.persona.task_aborted_status {
            for loser in losers {
                self.sessions[loser].attend(unit, (0x2f, 0x00), Some(event));
            }
        }
        self.device_changed();
        self.announce_windows();
        Some(event)
    }

    /// Another initiator changes a mode page. Returns the event.
    pub(crate) fn foreign_mode_select(&mut self, unit: usize) -> u32 {
        let event = self.new_event();
        self.raise(unit, None, (0x2a, 0x01), Some(event));
        event
    }

    /// The target asks for a logout of this connection within so many seconds.
    pub(crate) fn async_logout(&mut self, conn: u32, seconds: u16) {
        self.count(Trigger::AsyncLogout);
        self.send_async(conn, 1, [0, 0, seconds]);
    }

    /// Tells another connection of a session that one was dropped.
    pub(super) fn tell_drop(&mut self, session: usize, cid: Cid) {
        if let Some(other) = self.conns_of(session).first().copied() {
            self.count(Trigger::AsyncDrop);
            self.send_async(other, 2, [cid.0, 2, 20]);
        }
    }

    fn send_async(&mut self, conn: u32, event: u8, parameters: [u16; 3]) {
        self.reply(conn, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            let numbers = AsyncMessage { stat_sn, exp_cmd_sn, max_cmd_sn, ..AsyncMessage::default() };
            Pdu::AsyncMessage(AsyncMessage { event, parameters, ..numbers })
        });
    }

    /// One of the reads and writes under way ends with a medium error and is not executed; if there is none, the next
    /// read. Returns whether an initiator will be told, if its connection lives.
    pub(crate) fn media_error(&mut self, choice: usize) -> bool {
        // An attention would be reported before the medium is looked at.
        let attentive = |t: &Task| self.sessions[t.session].attentions[t.unit].is_empty();
        let living = |t: &Task| t.op.is_block_io() && self.conn(t.conn).is_some() && attentive(t);
        let choices: Vec<usize> = (0..self.tasks.len()).filter(|at| living(&self.tasks[*at])).collect();
        if choices.is_empty() {
            self.bad_reads += 1;
            return true;
        }
        let at = choices[choice % choices.len()];
        let task = self.take(at);
        let outcome = self.medium_fault(&task);
        self.respond(task.conn, &task.command, task.r2ts, outcome);
        self.device_changed();
        self.announce_windows();
        true
    }

    pub(super) fn medium_fault(&mut self, task: &Task) -> Outcome {
        self.count(Trigger::MediaError);
        let asc = if task.op.writes() { 0x0c } else { 0x11 };
        Outcome::Sense(Sense { key: key::MEDIUM_ERROR, asc, ascq: 0 })
    }
}
