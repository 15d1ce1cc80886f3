//! What happens to a target from outside: other initiators, failures, power.

use super::commands::Outcome;
use super::device::State;
use super::trigger::Trigger;
use super::{Effect, Target};
use braid::iscsi::{AsyncMessage, Pdu};
use braid::scsi::Sense;
use braid::scsi::sense::key;
use std::time::Instant;

impl Target {
    /// The power goes: unflushed blocks fall back, and every later session is told.
    pub(crate) fn power_cut(&mut self, now: Instant) {
        self.now = Some(now);
        self.count(Trigger::PowerCut);
        self.drop_everything();
        self.tasks.clear();
        for unit in &mut self.units {
            let (kept, lost) = unit.medium.power_cut(&mut self.random);
            (0..kept).for_each(|_| self.counts.count(Trigger::UnflushedKept));
            (0..lost).for_each(|_| self.counts.count(Trigger::UnflushedLost));
            unit.reservations.forget();
            unit.power_on = true;
        }
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

    /// Another initiator resets a unit.
    pub(crate) fn foreign_reset(&mut self, unit: usize) {
        let how = self.persona.unit_reset;
        if self.end_tasks(how, usize::MAX, |t| t.unit == unit).is_ok() {
            self.units[unit].reservations.simple = None;
            self.raise(unit, None, self.persona.reset_attention);
        }
        self.device_changed();
        self.announce_windows();
    }

    /// Another initiator changes a mode page.
    pub(crate) fn foreign_mode_select(&mut self, unit: usize) {
        self.raise(unit, None, (0x2a, 0x01));
    }

    /// The target asks for a logout of this connection within so many seconds.
    pub(crate) fn async_logout(&mut self, conn: u32, seconds: u16) {
        self.count(Trigger::AsyncLogout);
        self.send_async(conn, 1, [0, 0, seconds]);
    }

    /// The target drops a connection and says so on another one of its session, if there is one.
    pub(crate) fn async_drop(&mut self, conn: u32) {
        let Some((session, cid)) = self.conn(conn).map(|c| (c.session, c.cid)) else { return };
        self.count(Trigger::AsyncDrop);
        self.reset_conn(conn);
        if let Some(other) = self.conns_of(session).first().copied() {
            self.send_async(other, 2, [cid.0, 2, 20]);
        }
        self.announce_windows();
    }

    /// The target drops a whole session and says so.
    pub(crate) fn async_drop_session(&mut self, conn: u32) {
        let Some(session) = self.conn(conn).map(|c| c.session) else { return };
        self.count(Trigger::AsyncDrop);
        self.send_async(conn, 3, [0, 2, 20]);
        for id in self.conns_of(session) {
            self.effects.push_back(Effect::Close(id));
            self.lose_conn(id);
        }
    }

    fn send_async(&mut self, conn: u32, event: u8, parameters: [u16; 3]) {
        self.reply(conn, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            let numbers = AsyncMessage { stat_sn, exp_cmd_sn, max_cmd_sn, ..AsyncMessage::default() };
            Pdu::AsyncMessage(AsyncMessage { event, parameters, ..numbers })
        });
    }

    /// One of the reads and writes under way ends with a medium error, not executed; false if there is none.
    pub(crate) fn media_error(&mut self, choice: usize) -> bool {
        let living = |t: &super::device::Task| t.op.is_block_io() && self.conn(t.conn).is_some();
        let count = self.tasks.iter().filter(|t| living(t)).count();
        if count == 0 {
            return false;
        }
        let nth = choice % count;
        let (at, _) = self.tasks.iter().enumerate().filter(|(_, t)| living(t)).nth(nth).unwrap();
        let task = self.take(at);
        self.count(Trigger::MediaError);
        let asc = if task.op.writes() { 0x0c } else { 0x11 };
        let sense = Sense { key: key::MEDIUM_ERROR, asc, ascq: 0 };
        self.respond(task.conn, &task.command, task.r2ts, Outcome::Sense(sense));
        self.device_changed();
        true
    }
}
