//! What targets send besides answers to commands: pings and their echoes, asynchronous messages, rejections; and what they do
//! besides the standard ([`Quirk`]).

use super::Session;
use super::api::{Cause, ConnId, Notice, Output, Trigger};
use super::nexus::{Conn, ConnState, HOME};
use super::upstream::Fault;
use crate::iscsi::pdu::opcode;
use crate::iscsi::quirk::Quirk;
use crate::iscsi::{AsyncMessage, Itt, NopIn, NopOut, Payload, Pdu, Reject, Ttt, reject, tmf};
use std::time::{Duration, Instant};

impl Session {
    /// A ping, or the answer to one.
    pub(super) fn nop_in(&mut self, id: ConnId, nop: NopIn, now: Instant) -> Result<(), Fault> {
        if nop.itt != Itt::NONE {
            if let Some(conn) = self.conn_mut(id) {
                conn.ping.take_if(|(itt, _)| *itt == nop.itt);
                conn.statuses.echoed(nop.itt)?;
            }
            self.path_answered(id, now);
            self.echoed(id, nop.itt, now);
            if nop.ttt != Ttt::NONE {
                self.note_quirk(id, Quirk::EchoIsPing);
            }
        }
        // Nothing follows a logout (R211).
        let stays = |c: &&Conn| !matches!(c.state, ConnState::LoggingOut(_) | ConnState::LoggedOut(_));
        let Some(conn) = self.conn(id).filter(stays) else { return Ok(()) };
        if nop.ttt == Ttt::NONE || broken!(self.rules, PingUnanswered) {
            return Ok(());
        }
        let (exp_stat_sn, nexus) = (conn.statuses.expected(), conn.nexus);
        let Some(cmd_sn) = self.nexus(nexus).map(|n| n.window.current()) else { return Ok(()) };
        // An answer has no task tag and is always immediate (R225, R226).
        let answer = NopOut {
            immediate: true,
            lun: nop.lun,
            itt: Itt::NONE,
            ttt: nop.ttt,
            cmd_sn,
            exp_stat_sn,
            data: Payload::new(),
        };
        self.outputs.push_back(Output::ToTarget(id, Pdu::NopOut(answer)));
        Ok(())
    }

    /// The target tells of something, or wants something.
    pub(super) fn async_message(
        &mut self,
        id: ConnId,
        message: &AsyncMessage,
        now: Instant,
    ) -> Result<(), Fault> {
        let ([cid, _, patience], rules) = (message.parameters, self.rules);
        let Some(conn) = self.conn_mut(id) else { return Ok(()) };
        let nexus = conn.nexus;
        match message.event {
            0 if nexus == HOME => {
                let Some(line) = self.lines.first() else { return Ok(()) };
                let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.stamp(line);
                let data = self.cut_for_initiator(line, &message.data);
                let message = AsyncMessage { stat_sn, exp_cmd_sn, max_cmd_sn, data, ..message.clone() };
                self.tell(line, Pdu::AsyncMessage(message));
            }
            // Logout wanted, or a renegotiation that is declined by leaving (R218, R220).
            1 | 4 if conn.state == ConnState::Up && !broken!(rules, LogoutRequestIgnored) => {
                conn.state = ConnState::Draining(now + Duration::from_secs(u64::from(patience.max(1))));
                let path = conn.path;
                self.changed = true;
                self.path_turns(path, Trigger::Asked);
                let renegotiate = message.event == 4;
                let quirk = if renegotiate { Quirk::AsyncRenegotiation } else { Quirk::AsyncLogoutRequest };
                self.note_quirk(id, quirk);
            }
            2 => {
                let dropped = self.conns.iter().find(|c| c.nexus == nexus && c.cid.0 == cid).map(|c| c.id);
                if let Some(dropped) = dropped {
                    self.fail_conn(dropped, Cause::Tcp("the target dropped the connection".into()), now);
                }
            }
            3 => return Err("the target drops the session"),
            // Other initiators' doing, told by unit attentions too; and vendors' own events (R222).
            _ => {}
        }
        Ok(())
    }

    /// The target refused a PDU of Braid's.
    pub(super) fn rejected(&mut self, id: ConnId, reject: &Reject, now: Instant) -> Result<(), Fault> {
        let header = reject.data.contiguous();
        let tag = header.get(16..20).and_then(|b| b.first_chunk()).map(|b| Itt(u32::from_be_bytes(*b)));
        let Some(itt) = tag else { return Err("the target rejected something it does not name") };
        if let Some(conn) = self.conn_mut(id)
            && conn.ping.is_some_and(|(ping, _)| ping == itt)
        {
            conn.ping = None;
            conn.statuses.echoed(itt)?;
            // Whoever waited for the echo has it: the target answered.
            self.echoed(id, itt, now);
            self.note_quirk(id, Quirk::PingRejected);
            return Ok(());
        }
        if self.reassigned(id, itt, tmf::REJECTED, now) || self.tmf_answered(id, itt, tmf::REJECTED, now) {
            return Ok(());
        }
        if reject.reason == reject::DATA_DIGEST && self.asks_for_data_again(id, &header) {
            return Ok(());
        }
        // A rejected command leaves a hole in CmdSN (R105): the session starts anew, the command runs again.
        Err("the target rejected a command")
    }

    /// Whether what came broken were write data that a target asks for again: it does above error recovery level 0 (R177).
    fn asks_for_data_again(&self, id: ConnId, header: &[u8]) -> bool {
        let data = header.first().is_some_and(|byte| byte & 0x3f == opcode::DATA_OUT);
        let nexus = self.conn(id).and_then(|c| self.nexus(c.nexus));
        data && nexus.is_some_and(|n| n.params.error_recovery_level > 0)
    }

    /// Its target has shown one.
    pub(super) fn note_quirk(&mut self, id: ConnId, quirk: Quirk) {
        if let Some(path) = self.conn(id).map(|conn| conn.path) {
            self.note(Notice::Quirk { path, quirk });
        }
    }
}
