//! Numbers: CmdSN in, StatSN out, and the window between.

use super::trigger::Trigger;
use super::{Duplicate, Effect, Target};
use braid::iscsi::{CmdSn, Itt, NopIn, Payload, Pdu, Reject, StatSn, Ttt, reject};
use std::time::{Duration, Instant};

/// Immediate flag and CmdSN of a request that has them.
fn numbered(pdu: &Pdu) -> Option<(bool, CmdSn)> {
    match pdu {
        Pdu::ScsiCommand(c) => Some((c.immediate, c.cmd_sn)),
        Pdu::NopOut(n) => Some((n.immediate, n.cmd_sn)),
        Pdu::TaskManagementRequest(t) => Some((t.immediate, t.cmd_sn)),
        Pdu::LogoutRequest(l) => Some((l.immediate, l.cmd_sn)),
        Pdu::TextRequest(t) => Some((t.immediate, t.cmd_sn)),
        Pdu::DataOut(_)
        | Pdu::SnackRequest(_)
        | Pdu::LoginRequest(_)
        | Pdu::NopIn(_)
        | Pdu::ScsiResponse(_)
        | Pdu::TaskManagementResponse(_)
        | Pdu::LoginResponse(_)
        | Pdu::TextResponse(_)
        | Pdu::DataIn(_)
        | Pdu::LogoutResponse(_)
        | Pdu::R2t(_)
        | Pdu::AsyncMessage(_)
        | Pdu::Reject(_) => None,
    }
}

impl Target {
    /// A PDU is on its way to a connection.
    pub(crate) fn note_sent(&mut self, conn: u32, pdu: &Pdu, now: Instant) {
        if let Pdu::ScsiCommand(command) = pdu {
            self.sent.insert((conn, command.itt.0), now);
        }
    }

    /// A PDU came on a connection.
    pub(crate) fn receive(&mut self, conn: u32, pdu: Pdu, now: Instant) {
        self.now = Some(now);
        let Some(at) = self.conns.iter().position(|c| c.id == conn) else { return };
        let session = self.conns[at].session;
        self.conns[at].heard(now);
        self.acknowledged(conn, session, &pdu);
        self.forget_said(conn, &pdu);
        if self.sessions[session].mute {
            return;
        }
        match numbered(&pdu) {
            None => self.act(conn, session, pdu),
            Some((true, cmd_sn)) => self.immediate(conn, session, cmd_sn, pdu),
            Some((false, cmd_sn)) => self.in_turn(conn, session, cmd_sn, pdu),
        }
        self.announce_windows();
    }

    fn immediate(&mut self, conn: u32, session: usize, cmd_sn: CmdSn, pdu: Pdu) {
        let s = &self.sessions[session];
        let expected = cmd_sn == s.exp_cmd_sn;
        if !expected && self.persona.immediate_must_be_expected {
            self.count(Trigger::ImmediateClosed);
            self.reset_conn(conn);
            return;
        }
        if s.has_hole() && self.persona.rejects_immediate_in_hole && matches!(pdu, Pdu::ScsiCommand(_)) {
            self.count(Trigger::ImmediateRejected);
            self.reject(conn, &pdu, reject::IMMEDIATE_REJECTED);
            return;
        }
        let function = matches!(pdu, Pdu::TaskManagementRequest(_));
        if function && expected && self.persona.odd_numbers && self.random.once_in(2) {
            self.count(Trigger::NumberTaken);
            let s = &mut self.sessions[session];
            s.disordered = true;
            s.exp_cmd_sn = s.exp_cmd_sn.next();
        }
        self.act(conn, session, pdu);
    }

    fn in_turn(&mut self, conn: u32, session: usize, cmd_sn: CmdSn, pdu: Pdu) {
        let s = &mut self.sessions[session];
        let exp = s.exp_cmd_sn;
        if let Some(at) = s.plugged.iter().position(|n| *n == cmd_sn.0) {
            s.plugged.remove(at);
            return;
        }
        if cmd_sn.is_before(exp) || s.early.contains_key(&cmd_sn.0) {
            self.out_of_turn(conn, session, cmd_sn, pdu);
            return;
        }
        let max = s.max_cmd_sn;
        assert!(!cmd_sn.is_after(max), "R99: CmdSN {cmd_sn} is outside the window {exp}..={max}: {pdu:?}");
        self.remember(session, cmd_sn, pdu.itt());
        if !self.persona.orders_across {
            if cmd_sn != exp {
                self.count(Trigger::ExecutedOutOfOrder);
            }
            self.sessions[session].exp_cmd_sn = cmd_sn.next();
            self.act(conn, session, pdu);
            return;
        }
        if cmd_sn != exp {
            self.count(Trigger::Hole);
            self.sessions[session].early.insert(cmd_sn.0, Some((conn, pdu)));
            return;
        }
        self.advance(session, &pdu);
        self.act(conn, session, pdu);
        self.deliver_early(session);
    }

    /// The next number is received.
    fn advance(&mut self, session: usize, pdu: &Pdu) {
        let others = self.conns_of(session).len() > 1;
        if self.persona.logout_leaves_hole && matches!(pdu, Pdu::LogoutRequest(_)) && others {
            self.count(Trigger::LogoutHole);
            return;
        }
        let now = self.entered_at();
        let shrinks = self.persona.window_shrinks && self.random.once_in(200);
        let span = if shrinks { self.between_us(1_000, 50_000) } else { Duration::ZERO };
        let s = &mut self.sessions[session];
        s.exp_cmd_sn = s.exp_cmd_sn.next();
        s.widened = true;
        if shrinks {
            s.shrunk_until = Some(now + span);
            self.count(Trigger::WindowShrunk);
        }
    }

    /// Acts on what came early and is next now.
    pub(super) fn deliver_early(&mut self, session: usize) {
        let held = self.sessions[session].has_hole();
        while let Some(kept) = {
            let s = &mut self.sessions[session];
            s.early.remove(&s.exp_cmd_sn.0)
        } {
            match kept {
                Some((from, pdu)) => {
                    self.advance(session, &pdu);
                    self.act(from, session, pdu);
                }
                None => {
                    let s = &mut self.sessions[session];
                    s.exp_cmd_sn = s.exp_cmd_sn.next();
                }
            }
        }
        if held && self.persona.hole_blocks && !self.sessions[session].has_hole() {
            self.device_changed();
        }
    }

    /// A number that was used already, or that nobody waits for any more.
    fn out_of_turn(&mut self, conn: u32, session: usize, cmd_sn: CmdSn, pdu: Pdu) {
        let s = &self.sessions[session];
        let known = s.recent[cmd_sn.0 as usize % super::session::RECENT];
        let again = s.disordered || known == pdu.itt().0;
        if !self.persona.orders_across && known != pdu.itt().0 {
            // Late, over another connection: at error recovery level 0 that is a fault.
            self.count(Trigger::LateNumberClosed);
            self.reset_conn(conn);
            return;
        }
        assert!(again, "R92: CmdSN {cmd_sn} used twice, {} expected: {pdu:?}", s.exp_cmd_sn);
        self.count(Trigger::Duplicate);
        match self.persona.duplicate {
            Duplicate::Closes => self.reset_conn(conn),
            Duplicate::Dropped => {}
            Duplicate::Executed => self.act(conn, session, pdu),
        }
    }

    fn remember(&mut self, session: usize, cmd_sn: CmdSn, itt: Itt) {
        self.sessions[session].recent[cmd_sn.0 as usize % super::session::RECENT] = itt.0;
    }

    /// ExpCmdSN and MaxCmdSN as they are told now; MaxCmdSN never moves back.
    pub(super) fn window(&mut self, session: usize) -> (CmdSn, CmdSn) {
        let now = self.entered_at();
        let s = &mut self.sessions[session];
        let limit = match s.widened {
            false => self.persona.first_window,
            true if s.shrunk_until.is_some_and(|until| until > now) => 1,
            true => self.persona.window,
        };
        let room = limit.saturating_sub(s.open + s.leaked);
        s.max_cmd_sn = s.max_cmd_sn.max(s.exp_cmd_sn.plus(room).minus(1));
        (s.exp_cmd_sn, s.max_cmd_sn)
    }

    /// Where a closed window has opened and no answer says so, a NOP-In does (R98).
    pub(super) fn announce_windows(&mut self) {
        for session in 0..self.sessions.len() {
            let s = &self.sessions[session];
            if !s.alive || s.mute || !s.max_cmd_sn.is_before(s.exp_cmd_sn) {
                continue;
            }
            let Some(conn) = self.conns_of(session).first().copied() else { continue };
            let (exp, max) = self.window(session);
            if !max.is_before(exp) {
                self.count(Trigger::WindowAnnounced);
                self.send_nop_in(conn, Ttt::NONE);
            }
        }
    }

    /// Sends something with this connection's numbers; `counts` if it takes a StatSN.
    pub(super) fn reply(&mut self, conn: u32, counts: bool, make: impl FnOnce(StatSn, CmdSn, CmdSn) -> Pdu) {
        let Some(session) = self.conn(conn).map(|c| c.session).filter(|s| !self.sessions[*s].mute) else {
            return;
        };
        let (exp, max) = self.window(session);
        let Some(at) = self.conn_mut(conn) else { return };
        let number = at.stat_sn;
        let pdu = make(number, exp, max);
        if counts {
            at.stat_sn = number.next();
        }
        if counts && let Some(echo) = self.overtake(conn, number, (exp, max)) {
            if let Some(at) = self.conn_mut(conn) {
                at.stat_sn = at.stat_sn.next();
            }
            self.effects.push_back(Effect::Send(conn, echo));
        }
        self.effects.push_back(Effect::Send(conn, pdu));
    }

    pub(super) fn send_nop_in(&mut self, conn: u32, ttt: Ttt) {
        self.reply(conn, false, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            Pdu::NopIn(NopIn { ttt, stat_sn, exp_cmd_sn, max_cmd_sn, ..NopIn::default() })
        });
    }

    pub(super) fn reject(&mut self, conn: u32, pdu: &Pdu, reason: u8) {
        let header = pdu.encode().0.to_vec();
        self.reply(conn, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            let data = Payload::from(header);
            Pdu::Reject(Reject { reason, stat_sn, exp_cmd_sn, max_cmd_sn, data_sn: 0, data })
        });
    }

    pub(super) fn new_ttt(&mut self) -> Ttt {
        self.next_ttt = (self.next_ttt + 1) & 0x7fff_ffff;
        Ttt(self.next_ttt)
    }

    /// Acts on a request whose turn it is.
    fn act(&mut self, conn: u32, session: usize, pdu: Pdu) {
        match pdu {
            Pdu::ScsiCommand(command) => self.arrive(conn, session, command),
            Pdu::DataOut(data) => self.data_out(conn, &data),
            Pdu::NopOut(nop) if nop.itt == Itt::NONE => {
                assert!(nop.immediate, "R226: a NOP-Out without a task tag must be immediate");
                if let Some(conn) = self.conn_mut(conn)
                    && conn.pinged.is_some_and(|(ttt, _)| ttt == nop.ttt)
                {
                    conn.pinged = None;
                }
            }
            Pdu::NopOut(nop) => self.echo(conn, nop.itt, nop.data),
            Pdu::TaskManagementRequest(request) => self.manage(conn, session, &request),
            Pdu::LogoutRequest(request) => self.logout(conn, session, &request),
            Pdu::TextRequest(_) | Pdu::SnackRequest(_) => self.reject(conn, &pdu, reject::NOT_SUPPORTED),
            Pdu::LoginRequest(_) => panic!("R15: a login request in full feature phase"),
            Pdu::NopIn(_)
            | Pdu::ScsiResponse(_)
            | Pdu::TaskManagementResponse(_)
            | Pdu::LoginResponse(_)
            | Pdu::TextResponse(_)
            | Pdu::DataIn(_)
            | Pdu::LogoutResponse(_)
            | Pdu::R2t(_)
            | Pdu::AsyncMessage(_)
            | Pdu::Reject(_) => panic!("R142: a target's PDU came from Braid: {pdu:?}"),
        }
    }
}
