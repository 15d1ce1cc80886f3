//! Logout, as each kind of target understands it.

use super::trigger::Trigger;
use super::{Effect, OtherCid, Target};
use braid::iscsi::{LogoutRequest, LogoutResponse, Pdu};

impl Target {
    pub(super) fn logout(&mut self, conn: u32, session: usize, request: &LogoutRequest) {
        let Some(own) = self.conn(conn).map(|c| c.cid) else { return };
        if request.reason == 2 && self.remove_for_recovery(conn, session, request) {
            return;
        }
        let named = self.conns.iter().find(|c| c.session == session && c.cid == request.cid);
        let named = named.map(|c| c.id);
        if self.tasks.iter().any(|t| t.session == session) {
            self.count(Trigger::LogoutBusy);
            if self.persona.ordered_wedges {
                self.units.iter_mut().for_each(|u| u.wedge_armed = true);
            }
        }
        let whole = request.reason == 0 && self.persona.session_logout_closes_all;
        let (response, closed) = match (request.reason, named) {
            (0, _) if whole => (0, self.conns_of(session).to_vec()),
            (0, _) => (0, vec![conn]),
            (2, _) if self.persona.recovery_logout.0 != 0 => (self.persona.recovery_logout.0, Vec::new()),
            (_, Some(named)) if request.cid == own => (0, vec![named]),
            (_, named) => match (self.persona.other_cid, named) {
                (OtherCid::Obeyed, Some(named)) => (0, vec![named]),
                (OtherCid::ClosesItsOwn, _) => {
                    self.count(Trigger::LogoutClosedItsOwn);
                    (0, vec![conn])
                }
                (OtherCid::Obeyed, None) | (OtherCid::NotFound, _) => (1, Vec::new()),
            },
        };
        let itt = request.itt;
        self.reply(conn, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            Pdu::LogoutResponse(LogoutResponse {
                response,
                itt,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                ..LogoutResponse::default()
            })
        });
        for id in closed {
            self.part(id, session);
        }
        self.device_changed();
    }

    /// Closes a connection that was logged out: its commands end as those of a lost one do.
    fn part(&mut self, conn: u32, session: usize) {
        self.effects.push_back(Effect::Close(conn));
        self.conns.retain(|c| c.id != conn);
        self.drop_commands(conn, session);
        if self.conns_of(session).is_empty() {
            self.end_session(session);
        }
    }
}
