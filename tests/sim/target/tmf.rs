//! Task management, as each kind of target understands it.

use super::device::{State, Task};
use super::trigger::Trigger;
use super::{Abort, Target};
use braid::iscsi::{CmdSn, Itt, Pdu, TaskManagementRequest, TaskManagementResponse, tmf};
use braid::scsi::sense::status;
use smallvec::SmallVec;
use std::time::Instant;

/// A function that is not answered yet.
pub(super) struct Function {
    conn: u32,
    itt: Itt,
    response: u8,
    /// Tasks in the device that it waits for, by age.
    waits: SmallVec<[u64; 8]>,
    at: Instant,
    /// All sessions end with it.
    cold: bool,
}

impl Function {
    pub(super) fn task_gone(&mut self, age: u64) {
        self.waits.retain(|waited| *waited != age);
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.waits.is_empty().then_some(self.at)
    }
}

impl Target {
    pub(super) fn manage(&mut self, conn: u32, session: usize, request: &TaskManagementRequest) {
        let unit = self.unit_of(session, request.lun);
        let function = request.function;
        if self.once_in(self.persona.ignores_functions) {
            self.count(Trigger::FunctionIgnored);
            return;
        }
        let waits = match (function, unit) {
            (tmf::ABORT_TASK, _) => Ok(self.abort_task(session, request)),
            (tmf::TASK_REASSIGN, _) if self.keeps_tasks(session) => {
                match self.judge_reassignment(session, request) {
                    tmf::COMPLETE => Ok((tmf::COMPLETE, SmallVec::new())),
                    refusal => Err(refusal),
                }
            }
            (tmf::TASK_REASSIGN, _) => Err(self.persona.reassign),
            (tmf::ABORT_TASK_SET | tmf::CLEAR_TASK_SET | tmf::LOGICAL_UNIT_RESET, None) => {
                Err(tmf::LUN_DOES_NOT_EXIST)
            }
            (tmf::ABORT_TASK_SET | tmf::CLEAR_TASK_SET, _) if self.once_in(self.persona.refuses_sets) => {
                Err(tmf::REJECTED)
            }
            (tmf::ABORT_TASK_SET, Some(unit)) => self.end_set(session, unit),
            (tmf::CLEAR_TASK_SET, Some(unit)) => self.clear_set(session, unit),
            (tmf::LOGICAL_UNIT_RESET, Some(unit)) => {
                self.reset(conn, session, &[unit], self.persona.unit_reset)
            }
            (tmf::TARGET_WARM_RESET | tmf::TARGET_COLD_RESET, _) => {
                let all: Vec<usize> = (0..self.units.len()).collect();
                self.reset(conn, session, &all, self.persona.target_reset)
            }
            _ => Err(tmf::NOT_SUPPORTED),
        };
        let mut at = self.entered_at();
        let (response, waits) = match waits {
            Ok((response, waits)) => (response, waits),
            Err(response) => {
                self.count(Trigger::AbortUnsupported);
                (response, SmallVec::new())
            }
        };
        if !waits.is_empty() {
            self.count(Trigger::AbortWaited);
            if let Some((least, most)) =
                self.persona.slow_reset.filter(|_| function == tmf::LOGICAL_UNIT_RESET)
            {
                self.count(Trigger::ResetSlow);
                at += self.random.between(least, most);
            }
        }
        let cold = function == tmf::TARGET_COLD_RESET && response == tmf::COMPLETE;
        let reassigned = function == tmf::TASK_REASSIGN && response == tmf::COMPLETE;
        let function = Function { conn, itt: request.itt, response, waits, at, cold };
        if function.waits.is_empty() {
            self.answer(&function);
            if reassigned && self.keeps_tasks(session) {
                self.resume(conn, session, request);
            }
        } else {
            self.functions.push(function);
        }
        self.device_changed();
    }

    /// Answers that would come late come soon.
    pub(super) fn hurry_functions(&mut self, now: Instant) {
        self.functions.iter_mut().for_each(|f| f.at = f.at.min(now));
    }

    pub(super) fn answer_function(&mut self, index: usize) {
        let function = self.functions.remove(index);
        self.answer(&function);
    }

    fn answer(&mut self, function: &Function) {
        let (itt, response) = (function.itt, function.response);
        if function.cold && self.random.once_in(2) {
            self.end_all_sessions();
            return;
        }
        self.reply(function.conn, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            Pdu::TaskManagementResponse(TaskManagementResponse {
                response,
                itt,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                additional: 0,
            })
        });
        if function.cold {
            self.end_all_sessions();
        }
    }

    fn end_all_sessions(&mut self) {
        self.count(Trigger::SessionsReset);
        for session in 0..self.sessions.len() {
            if self.sessions[session].alive {
                self.kill_session(session);
            }
        }
    }

    /// Whether something happens that happens once in so often; 0 for never.
    fn once_in(&mut self, often: usize) -> bool {
        !self.healed && often > 0 && self.random.once_in(often)
    }

    /// The response to come, and the tasks to wait for.
    fn abort_task(&mut self, session: usize, request: &TaskManagementRequest) -> (u8, SmallVec<[u64; 8]>) {
        let none = SmallVec::new;
        if self.persona.abort_task == Abort::Unsupported {
            self.count(Trigger::AbortUnsupported);
            return (tmf::NOT_SUPPORTED, none());
        }
        let referenced = request.referenced_itt;
        let concerned =
            |t: &Task| t.session == session && t.command.itt == referenced && self.conn(t.conn).is_some();
        let Some(at) = self.tasks.iter().position(concerned) else {
            let plugged = self.plug(session, referenced, request.ref_cmd_sn);
            self.count(Trigger::AbortNotFound);
            return (if plugged { tmf::COMPLETE } else { tmf::TASK_DOES_NOT_EXIST }, none());
        };
        if self.persona.ordered_wedges {
            let unit = self.tasks[at].unit;
            self.units[unit].wedge_armed = true;
        }
        if self.persona.abort_task == Abort::TakesOut || self.tasks[at].state.is_collecting() {
            self.count(Trigger::AbortTook);
            self.take(at);
            return (tmf::COMPLETE, none());
        }
        (tmf::TASK_DOES_NOT_EXIST, SmallVec::from_slice(&[self.tasks[at].age]))
    }

    /// A command to abort that is not there: one that came early, or may still come, counts as received.
    fn plug(&mut self, session: usize, itt: Itt, ref_cmd_sn: CmdSn) -> bool {
        let s = &mut self.sessions[session];
        let early = s.early.iter_mut().find(|(_, kept)| {
            kept.as_ref().is_some_and(|(_, pdu)| matches!(pdu, Pdu::ScsiCommand(c) if c.itt == itt))
        });
        if let Some((_, kept)) = early {
            *kept = None;
            return true;
        }
        let to_come = !ref_cmd_sn.is_before(s.exp_cmd_sn) && !ref_cmd_sn.is_after(s.max_cmd_sn);
        if !to_come || !self.persona.orders_across || s.early.contains_key(&ref_cmd_sn.0) {
            return false;
        }
        s.early.insert(ref_cmd_sn.0, None);
        s.plugged.push(ref_cmd_sn.0);
        self.deliver_early(session);
        true
    }

    /// ABORT TASK SET.
    fn end_set(&mut self, session: usize, unit: usize) -> Result<(u8, SmallVec<[u64; 8]>), u8> {
        let collecting = |t: &Task| t.session == session && t.unit == unit && t.state.is_collecting();
        if self.persona.abort_set_breaks && self.tasks.iter().any(collecting) {
            self.count(Trigger::SessionBroken);
            self.sessions[session].mute = true;
        }
        let how = self.persona.abort_task_set;
        self.end_tasks(how, session, |t| t.session == session && t.unit == unit)
    }

    fn clear_set(&mut self, session: usize, unit: usize) -> Result<(u8, SmallVec<[u64; 8]>), u8> {
        let how = self.persona.clear_task_set;
        let mut losers: SmallVec<[usize; 4]> =
            self.tasks.iter().filter(|t| t.unit == unit && t.session != session).map(|t| t.session).collect();
        let ended = self.end_tasks(how, session, |t| t.unit == unit)?;
        losers.dedup();
        if how == Abort::TakesOut && !self.persona.task_aborted_status {
            losers.into_iter().for_each(|loser| self.sessions[loser].attend(unit, (0x2f, 0x00), None));
        }
        Ok(ended)
    }

    fn reset(
        &mut self,
        conn: u32,
        session: usize,
        units: &[usize],
        how: Abort,
    ) -> Result<(u8, SmallVec<[u64; 8]>), u8> {
        let ended = self.end_tasks(how, session, |t| units.contains(&t.unit))?;
        for unit in units {
            self.units[*unit].reservations.reset();
            let but = (!self.persona.telling.issuer).then_some(session);
            self.raise(*unit, but, self.persona.reset_attention, None);
        }
        if self.persona.reset_closes_others {
            let others: Vec<u32> = self.conns.iter().filter(|c| c.id != conn).map(|c| c.id).collect();
            for other in others {
                self.count(Trigger::ResetClosedOthers);
                self.reset_conn(other);
            }
        }
        Ok(ended)
    }

    /// Ends the tasks chosen, or finds out which to wait for. What waits for data ends in any case.
    pub(super) fn end_tasks(
        &mut self,
        how: Abort,
        session: usize,
        chosen: impl Fn(&Task) -> bool,
    ) -> Result<(u8, SmallVec<[u64; 8]>), u8> {
        if how == Abort::Unsupported {
            return Err(tmf::NOT_SUPPORTED);
        }
        let mut waits = SmallVec::new();
        let mut at = 0;
        while at < self.tasks.len() {
            let task = &self.tasks[at];
            if !chosen(task) {
                at += 1;
            } else if how == Abort::Waits && !task.state.is_collecting() {
                waits.push(task.age);
                at += 1;
            } else {
                let task = self.take(at);
                self.count(Trigger::AbortTook);
                if task.session != session && self.persona.task_aborted_status {
                    self.count(Trigger::TaskAborted);
                    let outcome = super::commands::Outcome::Status(status::TASK_ABORTED);
                    self.respond(task.conn, &task.command, task.r2ts, outcome);
                }
            }
        }
        Ok((tmf::COMPLETE, waits))
    }

    /// PREEMPT AND ABORT takes out what is in the device.
    pub(super) fn abort_for_preempt(&mut self, session: usize, unit: usize) {
        let mut at = 0;
        while at < self.tasks.len() {
            let task = &self.tasks[at];
            if task.session == session && task.unit == unit && task.state != State::Waiting {
                self.count(Trigger::AbortTook);
                self.take(at);
            } else {
                at += 1;
            }
        }
    }
}
