//! What targets send: read data and responses are passed on under the initiator's own numbers, R2Ts are answered from
//! the write buffer, and everything else is Braid's own business.

use super::Session;
use super::api::{Cause, ConnId, Notice, Output};
use super::deed::Deed;
use super::nexus::{Conn, ConnState, HOME};
use super::order::Holder;
use super::sequence::Arrival;
use super::tasks::{Origin, Solicited, Task, TaskKey};
use super::unit::meets_registrations;
use crate::iscsi::quirk::Quirk;
use crate::iscsi::{DataIn, Lun, Pdu, R2t, ScsiResponse, Ttt};
use crate::scsi::sense::status;
use crate::scsi::{Class, Command};
use std::time::Instant;

/// A target that breaks the protocol: its connection is given up with this reason.
pub(super) type Fault = &'static str;

impl Session {
    /// A PDU from a target.
    pub(super) fn take_upstream(&mut self, id: ConnId, pdu: Pdu, now: Instant) {
        if self.conn(id).is_none() && !broken!(self.rules, StaleAnswersTaken) {
            return;
        }
        if let Err(fault) = self.take_numbers(id, &pdu, now).and_then(|fresh| match fresh {
            true => self.act_on(id, pdu, now),
            false => Ok(()),
        }) {
            self.fail_conn(id, Cause::Protocol(fault.into()), now);
        }
        self.look_for_skipped(id, now);
    }

    /// Makes sure that a skipped StatSN still comes ([`super::sequence::StatusNumbers`]).
    fn look_for_skipped(&mut self, id: ConnId, now: Instant) {
        let asks = |c: &&mut Conn| matches!(c.state, ConnState::Up | ConnState::Draining(_));
        let Some(conn) = self.conn_mut(id).filter(asks) else { return };
        if conn.statuses.wants_proof()
            && let Some(ping) = self.ask_echo(id, now)
            && let Some(conn) = self.conn_mut(id)
        {
            conn.statuses.proves(ping);
        }
    }

    /// Books StatSN, ExpCmdSN and MaxCmdSN; false for a response that was taken before.
    fn take_numbers(&mut self, id: ConnId, pdu: &Pdu, now: Instant) -> Result<bool, Fault> {
        let Some((stat_sn, exp_cmd_sn, max_cmd_sn)) = pdu.target_numbers() else {
            return Err("an initiator's PDU came from the target");
        };
        let stale = broken!(self.rules, StaleAnswersTaken);
        let Some(conn) = self.conn_mut(id) else { return Ok(stale) };
        conn.last_heard = now;
        conn.ping_put_off = false;
        if !matches!(pdu, Pdu::NopIn(_)) {
            conn.last_answer = now;
        }
        let nexus = conn.nexus;
        let (path, arrival) =
            (conn.path, pdu.takes_stat_sn().then(|| conn.statuses.take(stat_sn)).transpose()?);
        match arrival {
            Some(Arrival::Again) => return Ok(false),
            Some(Arrival::Late) => self.note(Notice::Quirk { path, quirk: Quirk::StatusOutOfOrder }),
            Some(Arrival::InTime) | None => {}
        }
        if let Some(nexus) = self.nexuses.get_mut(nexus) {
            nexus.take_window(exp_cmd_sn, max_cmd_sn);
        }
        Ok(true)
    }

    fn act_on(&mut self, id: ConnId, pdu: Pdu, now: Instant) -> Result<(), Fault> {
        match pdu {
            Pdu::DataIn(data) => self.data_in(id, data, now),
            Pdu::ScsiResponse(response) => self.answer(id, response, now),
            Pdu::R2t(r2t) => self.r2t(id, r2t),
            Pdu::NopIn(nop) => self.nop_in(id, nop, now),
            Pdu::TaskManagementResponse(response) => {
                if !self.reassigned(id, response.itt, response.response, now) {
                    self.tmf_answered(id, response.itt, response.response, now);
                }
                Ok(())
            }
            Pdu::LogoutResponse(response) => {
                if !self.lost_logged_out(id, &response, now) {
                    self.logged_out(id, now);
                }
                Ok(())
            }
            Pdu::AsyncMessage(message) => self.async_message(id, &message, now),
            Pdu::Reject(reject) => self.rejected(id, &reject, now),
            Pdu::TextResponse(_) => Err("a text response that was not asked for"),
            Pdu::LoginResponse(_) => Err("a login response in full feature phase"),
            Pdu::NopOut(_)
            | Pdu::ScsiCommand(_)
            | Pdu::TaskManagementRequest(_)
            | Pdu::LoginRequest(_)
            | Pdu::TextRequest(_)
            | Pdu::DataOut(_)
            | Pdu::LogoutRequest(_)
            | Pdu::SnackRequest(_) => Err("an initiator's PDU came from the target"),
        }
    }

    fn answer(&mut self, id: ConnId, response: ScsiResponse, now: Instant) -> Result<(), Fault> {
        let good = is_good(&response);
        if self.tasks.running(id, response.itt).is_none() && !(good && self.take_up(id, response.itt)) {
            self.stale_answer(id, &response, now);
            return Ok(());
        }
        let Some((key, task)) = self.tasks.running(id, response.itt) else { return Ok(()) };
        all_data_came(task, &response)?;
        let fresh = task.run.as_ref().is_some_and(|r| r.next_sn == 0);
        if fresh && good {
            self.read_answers(key, now);
        } else if fresh && self.gives_way(key) {
            self.stale_answer(id, &response, now);
            return Ok(());
        }
        self.completed(key, id, response, now);
        Ok(())
    }

    fn data_in(&mut self, id: ConnId, mut pdu: DataIn, now: Instant) -> Result<(), Fault> {
        self.acknowledge_data(id, &pdu);
        let well = !pdu.has_status || pdu.status == status::GOOD;
        if self.tasks.running(id, pdu.itt).is_none() && !(well && self.take_up(id, pdu.itt)) {
            self.stale_data(id, &pdu, now);
            return Ok(());
        }
        let Some((key, task)) = self.tasks.running(id, pdu.itt) else { return Ok(()) };
        let expected = task.read_length();
        let Some(run) = task.run.as_mut() else { return Ok(()) };
        let length = u32::try_from(pdu.data.len()).map_err(|_| "a data segment is too long")?;
        let end = pdu.buffer_offset.checked_add(length).ok_or("a data offset is out of range")?;
        // A bidirectional command counts its R2Ts too (R126), not on every target: there the offset alone is judged.
        let counted = task.bidi_read.is_some() || pdu.data_sn == run.next_sn;
        if !counted || (pdu.buffer_offset != run.received && length > 0) {
            return Err("read data is out of sequence");
        }
        if end > expected {
            return Err("more read data than expected");
        }
        let first = run.next_sn == 0;
        run.next_sn += 1;
        run.received = run.received.max(end);
        let response = pdu.has_status.then(|| ScsiResponse {
            status: pdu.status,
            overflow: pdu.overflow,
            underflow: pdu.underflow,
            residual: pdu.residual,
            ..ScsiResponse::default()
        });
        if let Some(response) = &response {
            all_data_came(task, response)?;
        }
        let delivered = task.outbound.delivered;
        if broken!(self.rules, MovedReadRepeats) {
            task.outbound.delivered = delivered.min(pdu.buffer_offset);
        }
        if broken!(self.rules, MovedReadShifted) && pdu.buffer_offset < delivered {
            pdu.buffer_offset = delivered;
            pdu.data = pdu.data.slice(0, length.min(expected - delivered) as usize);
        }
        if matches!(task.origin, Origin::Initiator { .. }) && task.wide.is_none() {
            if first {
                self.read_answers(key, now);
            }
            self.pass_on(key, &pdu, end == expected);
        } else {
            for chunk in pdu.data.chunks() {
                task.collected.extend_from_slice(chunk);
            }
        }
        if let Some(response) = response {
            self.completed(key, id, response, now);
        }
        Ok(())
    }

    /// Sends read data to the initiator, cut for it.
    pub(super) fn pass_on(&mut self, key: TaskKey, pdu: &DataIn, complete: bool) {
        let session = &self.plan.downstream.session;
        let (exp_cmd_sn, max_cmd_sn) = self.front.window();
        let recovers = self.recovers();
        let Some(task) = self.tasks.get_mut(key) else { return };
        let (lun, end, itt) = (task.lun, task.read_length(), task.initiator_tag());
        let Some(line) = task.line().and_then(|line| self.lines.get(line)) else { return };
        if self.finishing.is_some() {
            return;
        }
        let (line, segment) = (line.id, line.segment.max(512));
        let (outputs, next_ttt) = (&mut self.outputs, &mut self.next_ttt);
        let last = pdu.final_ || complete;
        task.outbound.cut(
            pdu.buffer_offset,
            &pdu.data,
            segment,
            session.max_burst_length.max(512),
            last,
            |piece| {
                // Acknowledged, it need not be kept (R130); the end of the data is with the status.
                let acknowledge = recovers && piece.full && piece.end() < end;
                let tag = acknowledge.then(|| take_tag(next_ttt));
                let data = DataIn {
                    final_: piece.final_,
                    acknowledge,
                    lun: if acknowledge { lun } else { Lun(0) },
                    itt,
                    ttt: tag.unwrap_or(Ttt::NONE),
                    exp_cmd_sn,
                    max_cmd_sn,
                    data_sn: piece.data_sn,
                    buffer_offset: piece.offset,
                    data: piece.data,
                    ..DataIn::default()
                };
                outputs.push_back(Output::ToInitiator(line, Pdu::DataIn(data)));
            },
        );
    }

    fn r2t(&mut self, id: ConnId, r2t: R2t) -> Result<(), Fault> {
        let Some(conn) = self.conn(id) else { return Ok(()) };
        let burst = self.nexus(conn.nexus).map_or(0, |n| n.params.max_burst_length);
        let Some((key, task)) = self.tasks.running(id, r2t.itt) else {
            self.stale_r2t(id, &r2t);
            return Ok(());
        };
        let expected = task.expected;
        let end = r2t.buffer_offset.checked_add(r2t.desired_length).ok_or("an R2T is out of range")?;
        let Some(run) = task.run.as_mut() else { return Ok(()) };
        if !task.write || r2t.desired_length == 0 || r2t.desired_length > burst || end > expected {
            return Err("an R2T asks for data beyond the command or the burst length");
        }
        if r2t.ttt == Ttt::NONE || run.solicited.len() >= 64 {
            return Err("an R2T has no transfer tag, or there are too many");
        }
        if r2t.lun != Lun(0) && r2t.lun != run.lun {
            return Err("an R2T names another logical unit than its command (R108)");
        }
        run.solicited.push_back(Solicited {
            ttt: r2t.ttt,
            lun: run.lun,
            next: r2t.buffer_offset,
            end,
            data_sn: 0,
        });
        if r2t.lun != run.lun {
            let path = run.path;
            self.note(Notice::Quirk { path, quirk: Quirk::R2tWithoutLun });
        }
        self.answer_r2ts(key);
        Ok(())
    }

    /// A run ended with a status.
    pub(super) fn completed(&mut self, key: TaskKey, id: ConnId, response: ScsiResponse, now: Instant) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let Some(run) = task.run.as_ref() else { return };
        let (nexus, path, load, lun) = (run.nexus, run.path, run.load, task.lun);
        let (sent_at, initiators) = (run.sent_at, task.is_initiators());
        if let Some(conn) = self.conn_mut(id) {
            conn.newest_done = conn.newest_done.max(sent_at);
        }
        if let Some(l) = self.loads.get_mut(path.0) {
            l.finished(load, now.saturating_duration_since(sent_at));
        }
        self.path_answered(id, now);
        self.note_cleared(key, &response, now);
        self.note_clean(key, &response);
        self.note_access(lun, nexus, &response, now);
        if response.status == status::TASK_ABORTED && self.aborted_by_own_function(key) {
            return;
        }
        if initiators && self.has_not_run(key, &response, now) {
            return;
        }
        if initiators {
            self.note_cached(key, nexus, &response, now);
        }
        let Some(task) = self.tasks.get_mut(key) else { return };
        match task.origin {
            Origin::Initiator { .. } => {
                let command = task.command.clone();
                let completed = Notice::Completed {
                    path,
                    read: u64::from(task.outbound.delivered),
                    written: u64::from(task.inbound.received()),
                    took: now.saturating_duration_since(task.arrived),
                };
                let response = self.narrow(key, response);
                let waits = nexus == HOME && self.home_answered(key, &command, &response, now);
                if nexus != HOME && response.tells_of_a_run() {
                    self.note_change(lun, &command);
                }
                if waits {
                    self.hold_answer(key, response);
                } else {
                    self.respond(key, response, now);
                }
                self.note(completed);
            }
            Origin::Check(_)
            | Origin::Survey(_)
            | Origin::Fence(_)
            | Origin::Met(_)
            | Origin::Registration
            | Origin::Transition
            | Origin::Wash(_) => self.own_completed(key, (nexus, sent_at), &response, now),
        }
    }

    /// What home's answer to a command of the initiator says of the unit. Returns whether the initiator gets it later.
    fn home_answered(
        &mut self,
        key: TaskKey,
        command: &Command,
        response: &ScsiResponse,
        now: Instant,
    ) -> bool {
        let Some(lun) = self.tasks.get(key).map(|t| t.lun) else { return false };
        self.home_tells(lun, response);
        if response.tells_of_a_run() {
            self.note_change(lun, command);
        }
        if response.status == status::RESERVATION_CONFLICT {
            self.registrations_doubted(lun);
        }
        if command.class == Class::Reservation {
            return self.reservation_answered(key, response, now);
        }
        if command.name.starts_with("MODE SELECT") {
            self.mode_selected(lun, now);
        }
        if !is_good(response) {
            return false;
        }
        match command.class {
            Class::Read(extent) | Class::Write(extent) => {
                self.unit_used(lun, now);
                self.unit_outgrown(lun, extent, now);
            }
            Class::Barrier if Deed::of(command) == Some(Deed::Parameters) => self.unit_changed(lun, now),
            Class::WriteAnywhere(_)
            | Class::WriteOnce(_)
            | Class::Flush(_)
            | Class::Survey(_)
            | Class::Query
            | Class::Stateless
            | Class::Reservation
            | Class::Barrier => {}
        }
        false
    }

    /// The initiator gets this answer later.
    fn hold_answer(&mut self, key: TaskKey, response: ScsiResponse) {
        if let Some(task) = self.tasks.get_mut(key) {
            task.run = None;
            task.held_response = Some(Box::new(response));
        }
    }

    /// Answers the initiator and ends the task; waits with it while the initiator still owes data (R138). Data that may be
    /// anything are never called good: the initiator is told why, or BUSY, and reads again.
    pub(super) fn respond(&mut self, key: TaskKey, mut response: ScsiResponse, now: Instant) {
        let Some((tainted, lun)) = self.tasks.get(key).map(|t| (t.tainted, t.lun)) else { return };
        if tainted && is_good(&response) {
            response = match self.take_attention(lun) {
                Some(sense) => ScsiResponse::check_condition(&sense),
                None => ScsiResponse { status: status::BUSY, ..ScsiResponse::default() },
            };
        }
        let Some(task) = self.tasks.get_mut(key) else { return };
        if task.unrecovered && response.response == 0 && response.status == status::GOOD {
            response = Self::answer_to_lost_data();
        }
        task.run = None;
        task.done = is_good(&response);
        if task.abandoned {
            // What it says of the unit is kept for one that is heard.
            task.held_response = Some(Box::new(response));
            return self.conclude(key, now);
        }
        if task.data_due() && !broken!(self.rules, ResponseBeforeData) {
            task.held_response = Some(Box::new(response));
            return;
        }
        let Origin::Initiator { mut line, itt, .. } = task.origin else { return };
        if let Some(first) = self.lines.first().filter(|_| broken!(self.rules, AnswersOverFirstLine)) {
            line = first;
        }
        let exp_data_sn = if response.response == 0 { task.outbound.data_ins } else { 0 };
        let one_way = !task.write;
        if let Some(replay) = self.replay(line) {
            replay.answers(itt);
        }
        self.conclude(key, now);
        let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.stamp(line);
        if let Some(replay) = self.replay(line) {
            replay.answered_with(itt, stat_sn);
        }
        // What is kept to be sent again is kept apart.
        let apart = self.recovers();
        if let Some(Output::ToInitiator(_, Pdu::DataIn(data))) = self.outputs.back_mut()
            && !apart
            && data.itt == itt
            && data.final_
            && one_way
            && response.response == 0
            && response.status == status::GOOD
            && response.data.is_empty()
        {
            // The last data has not left yet: the status travels with it (R128).
            data.has_status = true;
            data.status = response.status;
            data.overflow = response.overflow;
            data.underflow = response.underflow;
            data.residual = response.residual;
            (data.stat_sn, data.exp_cmd_sn, data.max_cmd_sn) = (stat_sn, exp_cmd_sn, max_cmd_sn);
            return;
        }
        let data = self.cut_for_initiator(line, &response.data);
        let response = ScsiResponse {
            itt,
            snack_tag: 0,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            exp_data_sn,
            data,
            ..response
        };
        self.tell(line, Pdu::ScsiResponse(response));
    }

    /// Ends a task without a word: releases what waited for it and opens the window.
    pub(super) fn conclude(&mut self, key: TaskKey, now: Instant) {
        self.unqueue_if_queued(key);
        let Some(task) = self.tasks.remove(key) else { return };
        if let Some(replay) = task.line().and_then(|line| self.replay(line)) {
            replay.ended(task.initiator_tag());
        }
        if task.origin == Origin::Transition {
            self.transition_over(task.lun, now);
        } else if let Origin::Wash(target) = task.origin {
            self.wash_over(task.lun, target);
        }
        if let Some(untold) = &task.held_response {
            self.attention_untold(task.lun, untold);
        }
        self.change_over(task.lun, &task.command, now);
        self.changed |= meets_registrations(&task);
        if task.run.is_some() && matches!(task.origin, Origin::Initiator { .. }) {
            if task.command.class == Class::Reservation {
                self.note_change(task.lun, &task.command);
            }
            self.persistent_doubted(task.lun, task.persistent_request(), None);
        }
        self.promised = self.promised.saturating_sub(task.booked());
        if let Some(run) = task.run {
            if let Some(load) = self.loads.get_mut(run.path.0) {
                load.forgotten(run.load);
            }
            self.run_ended(run, task.lun, None);
        }
        self.keep_for_stale(key, task.inbound);
        self.overdrawn.take_if(|overdrawn| *overdrawn == key);
        if task.losses + task.moves > 0 {
            self.disown_ghosts(key, task.done);
        }
        if task.blockers > 0 {
            self.order.stop_waiting(key);
        }
        let waiting = self.order.leave(Holder::Task(key));
        self.release(&waiting);
        self.open_window();
        if !broken!(self.rules, StarvedWritesForgotten) {
            self.solicit_more();
        }
    }

    fn unqueue_if_queued(&mut self, key: TaskKey) {
        if self.tasks.get(key).is_some_and(|t| t.queued || t.only_nexus.is_some()) {
            self.unqueue(key);
        }
    }

    /// The target has all of a command: what follows it there may go.
    pub(super) fn handed_over(&mut self, key: TaskKey) {
        let unsent = broken!(self.rules, FollowsUnsentData);
        let home = |t: &Task| t.run.as_ref().is_some_and(|r| r.nexus == HOME && r.in_question.is_none());
        let whole = |t: &&Task| (unsent || t.is_whole_at_target()) && home(t);
        // What a port may refuse for its state runs again, behind what would follow it.
        if !self.tasks.get(key).filter(whole).is_some_and(|t| self.is_symmetric(t.lun)) {
            return;
        }
        let followers = self.order.hand_over(key);
        for follower in &followers {
            if let Some(task) = self.tasks.get_mut(*follower) {
                task.follow();
            }
        }
        self.release(&followers);
    }

    /// The target may have forgotten a command: what would follow it there waits.
    pub(super) fn doubt_handed_over(&mut self, key: TaskKey) {
        let tasks = &self.tasks;
        let waiting = self.order.doubt(key, |k| tasks.runs(k));
        self.held_by_barrier(&waiting);
        self.hold_back(&waiting);
    }

    /// A command will run again.
    pub(super) fn recall(&mut self, key: TaskKey) {
        self.flush_held(key);
        let tasks = &self.tasks;
        let waiting = self.order.recall(key, |k| tasks.runs(k));
        self.held_by_barrier(&waiting);
        self.hold_back(&waiting);
    }

    /// Entries of the order went away: whoever waited for nothing else may go.
    pub(super) fn release(&mut self, waiting: &[TaskKey]) {
        for key in waiting {
            let Some(task) = self.tasks.get_mut(*key) else { continue };
            task.blockers = task.blockers.saturating_sub(1);
            if let Some(hold) = task.held.take_if(|_| task.blockers == 0) {
                self.count_hold(hold);
            }
            self.queue_if_ready(*key);
        }
        if !waiting.is_empty() {
            self.solicit_more();
        }
    }
}

/// A transfer tag of Braid's own.
pub(super) fn take_tag(next: &mut u32) -> Ttt {
    let tag = Ttt(*next);
    *next = (*next + 1) % u32::MAX;
    tag
}

fn is_good(response: &ScsiResponse) -> bool {
    response.response == 0 && response.status == status::GOOD
}

/// A block read that ended well has brought all its data, short of a residual that is told (R119): success must not be
/// passed on where data is missing.
fn all_data_came(task: &Task, response: &ScsiResponse) -> Result<(), Fault> {
    let Some(run) = task.run.as_ref() else { return Ok(()) };
    let good = is_good(response);
    let short = !response.underflow && run.received < task.read_length();
    if good && short && matches!(task.command.class, Class::Read(_)) {
        return Err("a read ended well without all its data");
    }
    Ok(())
}
