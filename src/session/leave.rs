//! Connections that leave: no new commands, a logout once they are idle, the end once that is answered.

use super::Session;
use super::api::{Cause, ConnId, How, Output};
use super::nexus::{Conn, ConnState, NexusId};
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
                    let busy = self.tasks.iter().any(|(_, t)| runs(t)) || self.owes_answer(id);
                    let idle = !busy || broken!(self.rules, LeavesWithCommands);
                    let window = self.nexus(conn.nexus).map(|n| n.window);
                    if idle && window.is_some_and(|w| w.is_open() || w.all_acknowledged()) {
                        self.log_out(id, now);
                    } else if now >= until {
                        self.fail_conn(
                            id,
                            Cause::Protocol("drain asked by the target took too long".into()),
                            now,
                        );
                    }
                }
                ConnState::LoggingOut(until) if now >= until => {
                    self.outputs.push_back(Output::Close(id, How::Graceful));
                    self.disconnected(id, Cause::Protocol("logout unanswered".into()), now);
                }
                ConnState::LoggingOut(_) | ConnState::Opening | ConnState::Up => {}
            }
        }
    }

    /// Logs a connection out: the session if it is the nexus' only one, else the connection itself, and never another
    /// one (TARGETS: logout for another CID).
    pub(super) fn log_out(&mut self, id: ConnId, now: Instant) {
        let Some(conn) = self.conn(id) else { return };
        let (nexus, cid, exp_stat_sn) = (conn.nexus, conn.cid, conn.exp_stat_sn);
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
        }
        self.outputs.push_back(Output::ToTarget(id, Pdu::LogoutRequest(logout)));
        if alone {
            self.call_off_logins(nexus, now);
        }
    }

    /// A session that is asked to close takes no connection any more (R211).
    fn call_off_logins(&mut self, nexus: NexusId, now: Instant) {
        let opening = |c: &&Conn| c.nexus == nexus && c.state == ConnState::Opening;
        while let Some(id) = self.conns.iter().find(opening).map(|c| c.id) {
            self.close_conn(id, How::Reset, now);
        }
    }
}
