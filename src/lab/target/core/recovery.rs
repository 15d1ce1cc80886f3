//! Error recovery level 2 (RFC 7143 sections 7.1.4.3, 7.2.2, 11.5 and 11.14): the tasks of a lost connection are kept, go on in
//! the device, and wait to be reassigned; what was answered is kept until it is acknowledged, so that it can be said again.
//!
//! A lost connection must be logged out ("remove the connection for recovery"), or replaced by one with its CID, before its tasks
//! can go to another. What is not reassigned in DefaultTime2Wait and DefaultTime2Retain together ends, and the initiator is
//! told (R200). A session ends with its last connection, whatever its level: nothing continues it (R198).
//!
//! SNACK, which level 1 brings, is for PDUs that were lost without their connection. Nothing is, here: all but acknowledgements of
//! data are rejected.

use super::data::Said;
use super::session::{Session, Stage, Task};
use super::unit::TaskRef;
use super::unit::fault::LOST_COMMANDS_CLEARED;
use super::{At, ConnId, Target, Timer};
use crate::iscsi::{
    AsyncMessage, Cid, Itt, LogoutRequest, LogoutResponse, Pdu, StatSn, TaskManagementRequest, Tsih, tmf,
};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Answers kept for an initiator that does not acknowledge them, and connections lost without a logout; of more the oldest go.
const MOST_KEPT: usize = 1024;
const MOST_LOST: usize = 64;

/// A connection that is gone, with tasks that may be reassigned.
#[derive(Debug)]
pub(super) struct Lost {
    cid: Cid,
    conn: ConnId,
    /// It has no claim to them any more.
    logged_out: bool,
}

impl Session {
    /// Whether its tasks outlive their connection.
    pub(super) const fn keeps_tasks(&self) -> bool {
        self.params.error_recovery_level >= 2
    }

    /// What was said over a connection before a number has arrived.
    pub(super) fn acknowledged(&mut self, conn: ConnId, exp_stat_sn: StatSn) {
        let arrived = |said: &Said| said.stat_sn.is_some_and(|stat_sn| stat_sn.is_before(exp_stat_sn));
        self.said.retain(|said| said.task.conn != conn || !arrived(said));
    }

    pub(super) fn keep_said(&mut self, said: Said) {
        if self.said.len() == MOST_KEPT {
            self.said.remove(0);
        }
        self.said.push(said);
    }

    fn lost(&mut self, conn: ConnId) -> Option<&mut Lost> {
        self.lost.iter_mut().find(|lost| lost.conn == conn)
    }

    /// Why a task cannot be reassigned, if it cannot: it is not there, or a connection has a claim to it.
    fn refusal(&mut self, itt: Itt) -> Option<u8> {
        let said = || self.said.iter().map(|said| &said.task).find(|task| task.command.itt == itt);
        let task = self.tasks.get(&itt).or_else(said);
        let Some(conn) = task.map(|task| task.conn) else { return Some(tmf::TASK_DOES_NOT_EXIST) };
        let free = self.lost(conn).is_some_and(|lost| lost.logged_out);
        (!free).then_some(tmf::TASK_STILL_ALLEGIANT)
    }
}

impl Target {
    /// A connection of a session that keeps its tasks is gone, and others are there.
    pub(super) fn keep_tasks(&mut self, tsih: Tsih, cid: Cid, conn: ConnId, now: Instant) {
        let order = self.next_serial();
        let oldest = self.sessions.get(&tsih).and_then(|s| s.lost.get(s.lost.len().checked_sub(MOST_LOST)?));
        if let Some(oldest) = oldest.map(|lost| lost.conn) {
            self.retained(tsih, oldest);
        }
        let Some(session) = self.sessions.get_mut(&tsih) else { return };
        // Its CID is in use again: it was replaced (R193).
        let logged_out = session.conns.contains_key(&cid);
        session.lost.push(Lost { cid, conn, logged_out });
        let (wait, retain) = (session.params.default_time2wait, session.params.default_time2retain);
        let kept = Duration::from_secs(u64::from(wait) + u64::from(retain));
        self.timers.insert((now + kept, order), Timer::Retained(tsih, conn));
        let told = session.conns.values().next().copied();
        if let Some(other) = told.filter(|_| !logged_out) {
            // R186.
            let message =
                AsyncMessage { event: 2, parameters: [cid.0, wait, retain], ..AsyncMessage::default() };
            self.send(other, Pdu::AsyncMessage(message));
        }
        if logged_out {
            self.lost_has_left(tsih, conn);
        }
    }

    /// A lost connection is logged out: what of it was not delivered is dropped (R106), the rest may be reassigned.
    fn lost_has_left(&mut self, tsih: Tsih, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(&tsih) else { return };
        if let Some(lost) = session.lost(conn) {
            lost.logged_out = true;
        }
        session.forget_held(conn);
        self.abort_where(tsih, |task| task.conn == conn && task.stage == Stage::Held);
    }

    /// A connection has the CID of a lost one, which is logged out by that (R193, R215).
    pub(super) fn cid_is_back(&mut self, tsih: Tsih, cid: Cid) {
        let lost = self.sessions.get(&tsih).into_iter().flat_map(|session| &session.lost);
        let conns: Vec<ConnId> = lost.filter(|lost| lost.cid == cid).map(|lost| lost.conn).collect();
        conns.into_iter().for_each(|conn| self.lost_has_left(tsih, conn));
    }

    /// Logout of a connection for recovery.
    pub(super) fn remove_for_recovery(&mut self, at: At, request: &LogoutRequest, now: Instant) {
        let Some(session) = self.sessions.get(&at.tsih) else { return };
        let living = session.conns.get(&request.cid).copied();
        let lost = session.lost.iter().find(|lost| lost.cid == request.cid).map(|lost| lost.conn);
        let response = match (session.keeps_tasks(), living.or(lost)) {
            (false, _) => 2,
            (true, None) => 1,
            (true, Some(_)) => 0,
        };
        let (time2wait, time2retain) = match response {
            0 => (session.params.default_time2wait, session.params.default_time2retain),
            _ => (0, 0),
        };
        if response == 0 {
            if let Some(conn) = living.filter(|conn| *conn != at.conn) {
                self.drop_connection(conn, super::Output::Reset, now);
            }
            living.or(lost).into_iter().for_each(|conn| self.lost_has_left(at.tsih, conn));
        }
        let itt = request.itt;
        let done = LogoutResponse { response, itt, time2wait, time2retain, ..LogoutResponse::default() };
        self.send(at.conn, Pdu::LogoutResponse(done));
        if response == 0 && living == Some(at.conn) {
            self.drop_connection(at.conn, super::Output::Close, now);
            self.lost_has_left(at.tsih, at.conn);
        }
    }

    /// Moves a task to the connection that asks for it; what it still lacks, or had said, follows the answer (R190).
    pub(super) fn reassign(&mut self, at: At, request: &TaskManagementRequest, now: Instant) {
        let itt = request.referenced_itt;
        let Some(session) = self.sessions.get_mut(&at.tsih) else { return };
        let refusal = match session.keeps_tasks() {
            true => session.refusal(itt),
            false => Some(tmf::REASSIGN_UNSUPPORTED),
        };
        self.conclude(at.conn, request, refusal.unwrap_or(tmf::COMPLETE));
        if refusal.is_some() {
            return;
        }
        let Some(session) = self.sessions.get_mut(&at.tsih) else { return };
        if let Some(task) = session.tasks.get_mut(&itt) {
            task.resume(at.conn);
            self.advance(TaskRef { tsih: at.tsih, itt }, now);
        } else if let Some(found) = session.said.iter().position(|said| said.task.command.itt == itt) {
            let mut said = session.said.remove(found);
            said.task.conn = at.conn;
            self.say(at.tsih, said, request.exp_data_sn);
        }
    }

    /// What was kept of a lost connection for so long ends (R200).
    pub(super) fn retained(&mut self, tsih: Tsih, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(&tsih) else { return };
        session.lost.retain(|lost| lost.conn != conn);
        session.forget_held(conn);
        let of_conn = |task: &Task| task.conn == conn;
        let units: BTreeSet<usize> =
            session.tasks.values().filter(|task| of_conn(task)).filter_map(|task| task.unit).collect();
        session.said.retain(|said| !of_conn(&said.task));
        if self.abort_where(tsih, of_conn) > 0 {
            self.tell_window(tsih);
        }
        for unit in units {
            if let Some(unit) = self.units.get_mut(unit) {
                unit.tell_one(tsih, LOST_COMMANDS_CLEARED);
            }
        }
    }
}

impl Task {
    /// Goes on over another connection: data on their way, and requests for data, are lost (R205).
    fn resume(&mut self, conn: ConnId) {
        self.conn = conn;
        self.transfers.clear();
        self.unsolicited = None;
        self.asked = 0;
    }
}
