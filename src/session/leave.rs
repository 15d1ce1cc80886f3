//! Connections that leave: no new commands, a logout once they are idle, the end once that is answered. A session that ends
//! is logged out over its last connection, when the others are gone (RFC 7143 section 11.14).

use super::Session;
use super::api::{Cause, ConnId, How, Notice, Output, Trigger};
use super::nexus::{Conn, ConnState, NexusId, Role};
use super::tasks::Task;
use crate::iscsi::{LogoutRequest, Pdu};
use std::time::{Duration, Instant};

/// Given to a logout before the connection is closed regardless.
const LOGOUT_PATIENCE: Duration = Duration::from_secs(2);

impl Session {
    /// Whether a connection waits to become idle.
    pub(super) fn is_draining(&self) -> bool {
        self.conns.iter().any(|c| matches!(c.state, ConnState::Draining(_)))
    }

    /// Connections that are to leave: logout once idle, close once logged out.
    pub(super) fn check_drains(&mut self, now: Instant) {
        for id in self.conns.iter().map(|c| c.id).collect::<Vec<_>>() {
            let Some(conn) = self.conn(id) else { continue };
            match conn.state {
                ConnState::Draining(until) => {
                    let runs = |t: &Task| t.run.as_ref().is_some_and(|r| r.conn == id);
                    let owes = self.owes_answer(id) || self.owes_stale_answer(id);
                    let busy = self.tasks.iter().any(|(_, t)| runs(t)) || owes;
                    let idle = !busy || broken!(self.rules, LeavesWithCommands);
                    let window = self.nexus(conn.nexus).map(|n| n.window);
                    let later = self.closes_session_later(id) || self.is_recovering(conn.nexus);
                    if idle && !later && window.is_some_and(|w| w.admits() || w.all_acknowledged()) {
                        self.log_out(id, now);
                    } else if now >= until {
                        self.fail_conn(id, Cause::Protocol("the drain took too long".into()), now);
                    }
                }
                ConnState::LoggingOut(until) if now >= until => {
                    self.outputs.push_back(Output::Close(id, How::Graceful));
                    self.disconnected(id, Cause::Protocol("logout unanswered".into()), now);
                }
                ConnState::LoggedOut(until) if now >= until => self.close_conn(id, How::Graceful, now),
                ConnState::LoggingOut(_) | ConnState::LoggedOut(_) | ConnState::Opening | ConnState::Up => {}
            }
        }
    }

    /// Whether a connection is the last one that is not leaving while others still do. It waits until it is alone, to log the
    /// session out: a session whose last connection left as a connection may live on at the target, reservations and all,
    /// until Time2Retain has passed.
    pub(super) fn closes_session_later(&self, id: ConnId) -> bool {
        let Some(nexus) = self.conn(id).map(|c| c.nexus) else { return false };
        let others = || self.conns.iter().filter(|c| c.nexus == nexus && c.id != id);
        let leaving = others().any(|c| matches!(c.state, ConnState::LoggingOut(_) | ConnState::LoggedOut(_)));
        let staying = others().any(|c| matches!(c.state, ConnState::Up | ConnState::Draining(_)));
        leaving && !staying && !broken!(self.rules, SessionLeftOpen)
    }

    /// Logs a connection out: the session if it is the nexus' only one, else the connection itself, and never another
    /// one (TARGETS: logout for another CID).
    pub(super) fn log_out(&mut self, id: ConnId, now: Instant) {
        let Some(conn) = self.conn(id) else { return };
        let (nexus, cid, exp_stat_sn) = (conn.nexus, conn.cid, conn.statuses.expected());
        let others = |c: &&Conn| c.nexus == nexus && c.id != id && c.state != ConnState::Opening;
        let another = self.conns.iter().find(others).map(|c| c.cid);
        let alone = another.is_none();
        let cid = another.filter(|_| broken!(self.rules, LogoutNamesAnother)).unwrap_or(cid);
        let Some(window) = self.nexuses.get_mut(nexus).map(|n| &mut n.window) else { return };
        // Immediate if that is safe: a non-immediate one would leave a hole for the other connections on some targets.
        // Also if the window is closed: a number outside it would not be taken.
        let immediate = window.all_acknowledged() || !window.is_open();
        let cmd_sn = if immediate { window.current() } else { window.take() };
        let itt = self.control_tag();
        let reason = u8::from(!alone);
        let logout = LogoutRequest { immediate, reason, itt, cid, cmd_sn, exp_stat_sn };
        if let Some(conn) = self.conn_mut(id) {
            conn.state = ConnState::LoggingOut(now + LOGOUT_PATIENCE);
            let path = conn.path;
            self.path_turns(path, Trigger::Dispensable);
        }
        self.send_numbered(id, nexus, (cmd_sn, immediate), Pdu::LogoutRequest(logout));
        if alone {
            self.call_off_logins(nexus, now);
        }
    }

    /// A logout was answered. Where the session is to be logged out next, over another connection, that waits until the target
    /// has closed this one: LIO's kernel panics when it closes a session while it is still closing one of its connections.
    pub(super) fn logged_out(&mut self, id: ConnId, now: Instant) {
        let Some(conn) = self.conn(id) else { return };
        let ConnState::LoggingOut(until) = conn.state else { return };
        let nexus = conn.nexus;
        let others = self.conns.iter().any(|c| c.nexus == nexus && c.id != id);
        if !(self.finishing.is_some() && others) {
            self.close_conn(id, How::Graceful, now);
        } else if let Some(conn) = self.conn_mut(id) {
            conn.state = ConnState::LoggedOut(until);
        }
    }

    /// Closes a connection that carries nothing.
    pub(super) fn close_conn(&mut self, id: ConnId, how: How, now: Instant) {
        let Some(conn) = self.conn(id) else { return };
        let (nexus, path, role) = (conn.nexus, conn.path, conn.role);
        let was_up = conn.state != ConnState::Opening;
        let noted = was_up && role != Role::Fencing;
        self.conns.retain(|c| c.id != id);
        self.path_turns(path, if was_up { Trigger::Left } else { Trigger::Failed });
        // At the end of the session every path goes: that is no loss.
        if noted && self.finishing.is_none() {
            let cause = Cause::Logout;
            self.note(Notice::PathDown { path, was_up: true, cause });
        }
        self.outputs.push_back(Output::Close(id, how));
        self.changed = true;
        // A path that another connection stays on has not failed: what left it was a rescue.
        let stays = self.conns.iter().any(|c| c.path == path && c.state == ConnState::Up);
        if self.finishing.is_none() && role != Role::Fencing && !stays {
            self.path_failed(path, now);
        }
        self.tmf_conns_lost(now);
        self.nexus_emptied(nexus, now);
    }

    /// A connection of this nexus ended as it should; without any the nexus is down, and nothing can join it any more.
    pub(super) fn nexus_emptied(&mut self, nexus: NexusId, now: Instant) {
        if self.conns.iter().any(|c| c.nexus == nexus && c.state != ConnState::Opening) {
            return;
        }
        let opening: Vec<_> =
            self.conns.iter().filter(|c| c.nexus == nexus).map(|c| (c.id, c.path)).collect();
        for (id, path) in opening {
            self.outputs.push_back(Output::Close(id, How::Reset));
            self.conns.retain(|c| c.id != id);
            self.path_turns(path, Trigger::Failed);
        }
        self.nexus_gone(nexus, now);
    }

    /// A session that is asked to close takes no connection any more (R211).
    fn call_off_logins(&mut self, nexus: NexusId, now: Instant) {
        let opening = |c: &&Conn| c.nexus == nexus && c.state == ConnState::Opening;
        while let Some(id) = self.conns.iter().find(opening).map(|c| c.id) {
            self.close_conn(id, How::Reset, now);
        }
    }
}
