//! A session of several connections that loses one goes on, where error recovery level 2 was agreed (RFC 7143 sections
//! 7.1.4.3, 7.2, 11.5 and 11.14). It is agreed only for targets of which the operator says that they can (TARGETS section 3:
//! the one that offers it by itself crashes).
//!
//! # Steps
//! 1. The lost connection is **logged out** over another one, with the reason "remove the connection for recovery". From the
//!    answer on nothing of it can arrive any more, and the target keeps its tasks. Until then no command is sent to the
//!    session (R216).
//! 2. What it has not acknowledged by then it has dropped (R106): these requests are **sent again** over the other
//!    connection, as they were, under their own numbers. That closes the holes.
//! 3. Each other task is **reassigned** to it, one at a time: targets need not take more than one immediate function at once
//!    (R104). A read goes on behind the data that the initiator has; for a write the target asks for what it lacks.
//!
//! Nothing runs twice, so that there are no ghosts to wait for, and what must not run twice has an outcome after all.
//!
//! # What is not recovered so
//! Whatever the target refuses, or does not answer in time, ends the attempt: the session is given up as any other
//! ([`super::recover`]), and fenced. So it is from the beginning where the target broke the protocol, where no other
//! connection of the session is trusted, and where more is at stake than commands that run: a task management function, a run
//! that was left to itself ([`super::stale`]), or one that somebody may have cleared. And where the target wants to be waited for
//! (Time2Wait): a new session need not wait.

use super::Session;
use super::api::{ConnId, Notice, Output, PathId};
use super::nexus::{Conn, ConnState, Nexus, NexusId, NexusState};
use super::select::{Transfer, send_data};
use super::tasks::{Task, TaskKey};
use crate::iscsi::{
    Cid, CmdSn, DataIn, Itt, LogoutRequest, LogoutResponse, Pdu, ScsiCommand, SnackRequest, StatSn,
    TaskManagementRequest, Ttt, tmf,
};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long each answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Reason of a logout.
const FOR_RECOVERY: u8 = 2;
/// Kind of a SNACK.
const DATA_ACK: u8 = 2;

/// A numbered request that the target has not acknowledged.
#[derive(Debug)]
pub(super) struct Unacknowledged {
    cmd_sn: CmdSn,
    conn: ConnId,
    pdu: Pdu,
}

/// A connection is lost, and its session goes on.
#[derive(Debug)]
pub(super) struct Recovery {
    nexus: NexusId,
    lost: ConnId,
    path: PathId,
    /// The connection that takes its tasks.
    over: ConnId,
    step: Step,
    /// The request that waits for its answer, and until when.
    asked: Itt,
    until: Instant,
    /// Commands that go on so far.
    carried_on: usize,
}

#[derive(Debug)]
enum Step {
    /// The lost connection is being logged out.
    LoggingOut,
    /// The first of these runs is being reassigned; those behind it will be.
    Reassigning(VecDeque<(TaskKey, Itt)>),
}

impl Recovery {
    pub(super) fn is_of(&self, nexus: NexusId) -> bool {
        self.nexus == nexus
    }
}

impl Nexus {
    /// Whether tasks of its session outlive the connection that carries them.
    fn keeps_tasks(&self) -> bool {
        self.params.error_recovery_level >= 2
    }

    /// A request goes out with a number of its own.
    pub(super) fn keep(&mut self, conn: ConnId, cmd_sn: CmdSn, pdu: &Pdu) {
        if self.keeps_tasks() {
            self.unacknowledged.push_back(Unacknowledged { cmd_sn, conn, pdu: pdu.clone() });
        }
    }

    /// Takes ExpCmdSN and MaxCmdSN from a response.
    pub(super) fn take_window(&mut self, exp_cmd_sn: CmdSn, max_cmd_sn: CmdSn) {
        self.window.update(exp_cmd_sn, max_cmd_sn);
        if exp_cmd_sn.is_after(self.window.current()) || max_cmd_sn.is_before(exp_cmd_sn.minus(1)) {
            return;
        }
        while self.unacknowledged.front().is_some_and(|u| u.cmd_sn.is_before(exp_cmd_sn)) {
            self.unacknowledged.pop_front();
        }
    }
}

impl Session {
    /// Sends a request with a number, which may have to be sent again.
    pub(super) fn send_numbered(
        &mut self,
        id: ConnId,
        nexus: NexusId,
        (cmd_sn, immediate): (CmdSn, bool),
        request: Pdu,
    ) {
        if let Some(nexus) = self.nexuses.get_mut(nexus).filter(|_| !immediate) {
            nexus.keep(id, cmd_sn, &request);
        }
        self.outputs.push_back(Output::ToTarget(id, request));
    }

    /// A connection was cut. Returns whether its session goes on without it.
    pub(super) fn begin_recovery(
        &mut self,
        (lost, cid, path): (ConnId, Cid, PathId),
        nexus: NexusId,
        now: Instant,
    ) -> bool {
        let Some(over) = self.survivor(lost, nexus) else { return false };
        let Some((cmd_sn, exp_stat_sn)) = self.numbers_over(over, nexus) else { return false };
        let (asked, until) = (self.control_tag(), now + PATIENCE);
        let step = Step::LoggingOut;
        self.recovery = Some(Recovery { nexus, lost, path, over, step, asked, until, carried_on: 0 });
        // Some of what they were sent may not have arrived.
        for key in self.tasks.select(|t| runs_over(t, lost)) {
            self.doubt_handed_over(key);
        }
        let (immediate, reason) = (true, FOR_RECOVERY);
        let logout = LogoutRequest { immediate, reason, itt: asked, cid, cmd_sn, exp_stat_sn };
        self.outputs.push_back(Output::ToTarget(over, Pdu::LogoutRequest(logout)));
        if broken!(self.rules, ReassignedBeforeLogout) {
            self.begin_reassigning(now);
        }
        true
    }

    /// The connection that takes the tasks of a lost one, if they can go on.
    fn survivor(&self, lost: ConnId, nexus: NexusId) -> Option<ConnId> {
        let serves = |n: &Nexus| n.keeps_tasks() && n.state == NexusState::Up;
        let free = self.recovery.is_none() && self.finishing.is_none() && self.functions.is_empty();
        let plain =
            |t: &Task| t.bidi_read.is_none() && t.run.as_ref().is_some_and(|r| r.in_question.is_none());
        let all_plain = self.tasks.iter().filter(|(_, t)| runs_over(t, lost)).all(|(_, t)| plain(t));
        let left_to_itself = self.has_stale_runs(lost) || self.awaits_echo(lost);
        if !self.nexus(nexus).is_some_and(serves) || !free || !all_plain || left_to_itself {
            return None;
        }
        let trusted = |c: &&Conn| {
            c.nexus == nexus && c.id != lost && c.state == ConnState::Up && c.health.doubt().is_none()
        };
        // Always the same for units whose commands go one behind the other.
        self.conns.iter().filter(trusted).min_by_key(|c| (c.up_since, c.id)).map(|c| c.id)
    }

    /// The numbers of an immediate request.
    fn numbers_over(&self, conn: ConnId, nexus: NexusId) -> Option<(CmdSn, StatSn)> {
        Some((self.nexus(nexus)?.window.current(), self.conn(conn)?.statuses.expected()))
    }

    /// Whether a nexus has lost a connection, and tasks of it are not back yet.
    pub(super) fn is_recovering(&self, nexus: NexusId) -> bool {
        self.recovery.as_ref().is_some_and(|r| r.nexus == nexus)
    }

    /// Whether a nexus takes no commands, because a lost connection of it has not been logged out (R216).
    pub(super) fn is_logging_out_lost(&self, nexus: NexusId) -> bool {
        self.recovery.as_ref().is_some_and(|r| r.nexus == nexus && matches!(r.step, Step::LoggingOut))
    }

    /// Whether tasks of a connection that is gone wait to be reassigned.
    pub(super) fn is_being_recovered(&self, conn: ConnId) -> bool {
        self.recovery.as_ref().is_some_and(|r| r.lost == conn)
    }

    /// When the answer that a recovery waits for is late.
    pub(super) fn recovery_deadline(&self) -> Option<Instant> {
        self.recovery.as_ref().filter(|_| !self.paused).map(|r| r.until)
    }

    /// An answer is late: the session is given up.
    pub(super) fn expire_recovery(&mut self, now: Instant) {
        if self.recovery_deadline().is_some_and(|until| until <= now) {
            self.abandon_recovery(now);
        }
    }

    /// Nothing was read from targets for a while.
    pub(super) fn restart_recovery_patience(&mut self, now: Instant) {
        self.recovery.iter_mut().for_each(|r| r.until = now + PATIENCE);
    }

    /// A recovery under way comes to nothing: the session is given up with all that it carries.
    pub(super) fn abandon_recovery(&mut self, now: Instant) {
        if let Some(Recovery { nexus, path, .. }) = self.recovery {
            self.nexus_lost(nexus, path, now);
        }
    }

    /// The answer to the logout of a lost connection; false for any other.
    pub(super) fn lost_logged_out(&mut self, id: ConnId, response: &LogoutResponse, now: Instant) -> bool {
        let logging_out = |r: &Recovery| matches!(r.step, Step::LoggingOut);
        let awaited = |r: &&Recovery| (r.over, r.asked) == (id, response.itt) && logging_out(r);
        if !self.recovery.as_ref().is_some_and(|r| awaited(&r)) {
            return false;
        }
        let done = response.response == 0 && response.time2wait == 0;
        if !done || !self.begin_reassigning(now) || response.time2retain == 0 && self.has_to_reassign() {
            self.abandon_recovery(now);
        } else {
            self.reassign_next(now);
        }
        true
    }

    fn has_to_reassign(&self) -> bool {
        matches!(&self.recovery, Some(Recovery { step: Step::Reassigning(left), .. }) if !left.is_empty())
    }

    /// The lost connection has no claim to its tasks any more. Returns whether what did not arrive could be sent again.
    fn begin_reassigning(&mut self, now: Instant) -> bool {
        let Some(Recovery { nexus, lost, over, .. }) = self.recovery else { return false };
        // One that the target has asked to leave meanwhile takes no command any more (R218).
        let stays = self.conn(over).is_some_and(|c| c.state == ConnState::Up);
        if !stays || !self.plug(nexus, lost, over) {
            return false;
        }
        let tag = |key: &TaskKey| Some((*key, self.tasks.get(*key)?.run.as_ref()?.itt));
        let left = self.tasks.select(|t| runs_over(t, lost)).iter().filter_map(tag).collect();
        if let Some(recovery) = &mut self.recovery {
            recovery.step = Step::Reassigning(left);
        }
        if broken!(self.rules, ReassignedBeforeLogout) {
            self.reassign_next(now);
        }
        true
    }

    /// Sends again what the target has dropped with the lost connection (R106, R187).
    fn plug(&mut self, nexus: NexusId, lost: ConnId, over: ConnId) -> bool {
        let Some(nexus) = self.nexuses.get_mut(nexus) else { return false };
        let mut dropped = Vec::new();
        for request in nexus.unacknowledged.iter_mut().filter(|u| u.conn == lost) {
            request.conn = over;
            dropped.push(request.pdu.clone());
        }
        if broken!(self.rules, HolesLeftOpen) {
            return true;
        }
        dropped.into_iter().all(|pdu| self.send_again(pdu, lost, over))
    }

    fn send_again(&mut self, pdu: Pdu, lost: ConnId, over: ConnId) -> bool {
        let Some(exp_stat_sn) = self.conn(over).map(|c| c.statuses.expected()) else { return false };
        match pdu {
            Pdu::NopOut(mut nop) => {
                nop.exp_stat_sn = exp_stat_sn;
                self.outputs.push_back(Output::ToTarget(over, Pdu::NopOut(nop)));
                true
            }
            Pdu::ScsiCommand(mut command) => {
                command.exp_stat_sn = exp_stat_sn;
                self.send_command_again(command, lost, over)
            }
            // Functions and logouts are not recovered so, and nothing else has a number.
            Pdu::TaskManagementRequest(_)
            | Pdu::LogoutRequest(_)
            | Pdu::LoginRequest(_)
            | Pdu::TextRequest(_)
            | Pdu::DataOut(_)
            | Pdu::SnackRequest(_)
            | Pdu::NopIn(_)
            | Pdu::ScsiResponse(_)
            | Pdu::TaskManagementResponse(_)
            | Pdu::LoginResponse(_)
            | Pdu::TextResponse(_)
            | Pdu::DataIn(_)
            | Pdu::LogoutResponse(_)
            | Pdu::R2t(_)
            | Pdu::AsyncMessage(_)
            | Pdu::Reject(_) => false,
        }
    }

    /// Sends a command as it was, with its unsolicited data. One that has ended since must not come back, and one that the
    /// connection is too small for cannot.
    fn send_command_again(&mut self, command: ScsiCommand, lost: ConnId, over: ConnId) -> bool {
        let itt = command.itt;
        let Some((key, task)) = self.tasks.running(lost, itt) else { return false };
        let Some(conn) = self.conns.iter().find(|c| c.id == over) else { return false };
        let Some(nexus) = self.nexuses.get(conn.nexus) else { return false };
        let immediate = u32::try_from(command.data.len()).unwrap_or(u32::MAX);
        let burst = task.expected.min(nexus.params.first_burst_length);
        let to = if command.final_ { immediate } else { burst };
        if immediate > conn.max_send {
            return false;
        }
        let lun = command.lun;
        self.outputs.push_back(Output::ToTarget(over, Pdu::ScsiCommand(command)));
        if to > immediate {
            let range = Transfer { ttt: Ttt::NONE, lun, from: immediate, to, end: to, data_sn: 0 };
            send_data(&mut self.outputs, conn, itt, &task.inbound, range);
        }
        self.carry_on(key, over, to);
        true
    }

    /// A run goes on over another connection, whose target has been sent so much of its data.
    fn carry_on(&mut self, key: TaskKey, over: ConnId, data_sent: u32) {
        let Some(path) = self.conn(over).map(|c| c.path) else { return };
        let Some(run) = self.tasks.get_mut(key).and_then(|t| t.run.as_mut()) else { return };
        let left = std::mem::replace(&mut run.path, path);
        run.conn = over;
        run.data_sent = data_sent;
        // What was asked for over the lost connection is asked for anew (R205).
        run.solicited.clear();
        let load = run.load;
        if let Some(left) = self.loads.get_mut(left.0) {
            left.forgotten(load);
        }
        if let Some(path) = self.loads.get_mut(path.0) {
            path.started(load);
        }
        self.recovery.iter_mut().for_each(|r| r.carried_on += 1);
        self.handed_over(key);
    }

    /// Reassigns the next task, or ends the recovery.
    fn reassign_next(&mut self, now: Instant) {
        let Some(Recovery { nexus, lost, over, step: Step::Reassigning(left), .. }) = &self.recovery else {
            return;
        };
        let (nexus, lost, over) = (*nexus, *lost, *over);
        let Some((key, tag)) = left.front().copied() else {
            self.recovered();
            return;
        };
        let run = self.tasks.get(key).and_then(|t| t.run.as_ref());
        let run = run.filter(|r| (r.conn, r.itt) == (lost, tag)).map(|r| (r.lun, r.next_sn));
        let (Some((lun, next_sn)), Some((cmd_sn, exp_stat_sn))) = (run, self.numbers_over(over, nexus))
        else {
            // The task has ended, and the target still has it.
            self.abandon_recovery(now);
            return;
        };
        let itt = self.control_tag();
        if let Some(recovery) = &mut self.recovery {
            (recovery.asked, recovery.until) = (itt, now + PATIENCE);
        }
        let request = TaskManagementRequest {
            immediate: true,
            function: tmf::TASK_REASSIGN,
            lun,
            itt,
            referenced_itt: tag,
            cmd_sn,
            exp_stat_sn,
            // Data before it have come (R191).
            exp_data_sn: next_sn,
            ..TaskManagementRequest::default()
        };
        self.outputs.push_back(Output::ToTarget(over, Pdu::TaskManagementRequest(request)));
    }

    /// The answer to a reassignment, or a refusal of what a recovery asks for; false for anything else.
    pub(super) fn reassigned(&mut self, id: ConnId, itt: Itt, response: u8, now: Instant) -> bool {
        let Some(recovery) = self.recovery.as_mut().filter(|r| (r.over, r.asked) == (id, itt)) else {
            return false;
        };
        let over = recovery.over;
        let next = match &mut recovery.step {
            Step::Reassigning(left) if response == tmf::COMPLETE => left.pop_front(),
            Step::Reassigning(_) | Step::LoggingOut => None,
        };
        match next {
            Some((key, _)) => {
                self.carry_on(key, over, 0);
                self.reassign_next(now);
            }
            None => self.abandon_recovery(now),
        }
        true
    }

    /// All tasks are back.
    fn recovered(&mut self) {
        let Some(Recovery { path, carried_on, .. }) = self.recovery.take() else { return };
        self.changed = true;
        self.note(Notice::Reassigned { path, commands: carried_on });
    }

    /// Acknowledges read data where the target asks for it (R130).
    pub(super) fn acknowledge_data(&mut self, id: ConnId, data: &DataIn) {
        let Some(conn) = self.conn(id).filter(|_| data.acknowledge) else { return };
        if self.nexus(conn.nexus).is_none_or(|n| n.params.error_recovery_level == 0) {
            return;
        }
        let acknowledgement = SnackRequest {
            kind: DATA_ACK,
            lun: data.lun,
            itt: Itt::NONE,
            ttt: data.ttt,
            exp_stat_sn: conn.statuses.expected(),
            begin_run: data.data_sn.wrapping_add(1),
            run_length: 0,
        };
        self.outputs.push_back(Output::ToTarget(id, Pdu::SnackRequest(acknowledgement)));
    }
}

fn runs_over(task: &Task, conn: ConnId) -> bool {
    task.run.as_ref().is_some_and(|r| r.conn == conn)
}
