//! Everything that is neither a SCSI command nor its data: NOP, text, logout.

use super::{At, ConnId, Connection, Full, Output, Phase, Target, Timer};
use crate::iscsi::text::KeyList;
use crate::iscsi::{
    LogoutRequest, LogoutResponse, Lun, NopIn, NopOut, Pdu, TextRequest, TextResponse, Ttt, reject,
};
use crate::login::discovery::{self, TargetRecord};
use std::time::Instant;

/// Longest text request put together from several PDUs, in bytes.
const MAX_TEXT: usize = 64 * 1024;

/// A text exchange under way on a connection.
#[derive(Debug, Default)]
pub(super) struct Text {
    /// Parts of a request that goes on.
    request: Vec<u8>,
    /// The answer still to be sent.
    answer: Vec<u8>,
    /// The tag under which the rest is asked for.
    ttt: Option<Ttt>,
}

impl Target {
    pub(super) fn control(&mut self, at: At, pdu: Pdu, now: Instant) {
        match pdu {
            Pdu::NopOut(nop) => self.nop_out(at, nop),
            Pdu::TextRequest(text) => self.text(at, text),
            Pdu::LogoutRequest(logout) => self.logout(at, &logout, now),
            Pdu::TaskManagementRequest(request) => self.task_management(at, request, now),
            // Nothing else is put in order.
            Pdu::ScsiCommand(_)
            | Pdu::LoginRequest(_)
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
            | Pdu::Reject(_) => {}
        }
    }

    fn full_mut(&mut self, conn: ConnId) -> Option<&mut Full> {
        match self.conns.get_mut(&conn) {
            Some(Connection { phase: Phase::Full(full), .. }) => Some(full),
            _ => None,
        }
    }

    /// Echoes a ping (R224), or takes the answer to one of ours.
    fn nop_out(&mut self, at: At, nop: NopOut) {
        let Some(full) = self.full_mut(at.conn) else { return };
        if full.ping == Some(nop.ttt) {
            full.ping = None;
        }
        if nop.itt == crate::iscsi::Itt::NONE {
            return;
        }
        let data = nop.data.slice(0, full.params.max_send_data_segment as usize);
        self.send(at.conn, Pdu::NopIn(NopIn { itt: nop.itt, data, ..NopIn::default() }));
    }

    /// Pings an initiator; one that left the last ping unanswered is dropped.
    pub(super) fn ping(&mut self, conn: ConnId, now: Instant) {
        let Some(interval) = self.options.ping else { return };
        let Some(full) = self.full_mut(conn) else { return };
        let tsih = full.tsih;
        if full.ping.is_some() {
            self.drop_connection(conn, Output::Reset, now);
            return;
        }
        let Some(ttt) = self.sessions.get_mut(&tsih).map(super::session::Session::new_ttt) else { return };
        if let Some(full) = self.full_mut(conn) {
            full.ping = Some(ttt);
        }
        self.send(conn, Pdu::NopIn(NopIn { lun: Lun::from_number(0), ttt, ..NopIn::default() }));
        let order = self.next_serial();
        self.timers.insert((now + interval, order), Timer::Ping(conn));
    }

    fn text(&mut self, at: At, request: TextRequest) {
        let tags = (request.itt, request.lun);
        let Some(full) = self.full_mut(at.conn) else { return };
        let text = &mut full.text;
        let goes_on = request.ttt != Ttt::NONE && text.ttt == Some(request.ttt);
        if request.ttt != Ttt::NONE && !goes_on {
            let immediate = request.immediate;
            self.reject_pdu(at.conn, reject::PROTOCOL_ERROR, 0x04, immediate, tags.0, tags.1);
            return;
        }
        if !goes_on {
            *text = Text::default();
        }
        text.request.extend_from_slice(&request.data.contiguous());
        if text.request.len() > MAX_TEXT {
            *text = Text::default();
            self.reject_pdu(at.conn, reject::PROTOCOL_ERROR, 0x04, request.immediate, tags.0, tags.1);
            return;
        }
        let asks_for_rest = goes_on && text.request.is_empty();
        if !request.continue_ && !asks_for_rest {
            let whole = std::mem::take(&mut text.request);
            let Some(answer) = self.answer(at, &whole) else {
                self.reject_pdu(at.conn, reject::PROTOCOL_ERROR, 0x04, request.immediate, tags.0, tags.1);
                return;
            };
            if let Some(full) = self.full_mut(at.conn) {
                full.text.answer = answer;
            }
        }
        self.answer_part(at, &request);
    }

    /// Sends as much of the answer as one PDU takes (R237); nothing yet while the request goes on.
    fn answer_part(&mut self, at: At, request: &TextRequest) {
        let Some(session) = self.sessions.get_mut(&at.tsih) else { return };
        let fresh = session.new_ttt();
        let Some(full) = self.full_mut(at.conn) else { return };
        let most = full.params.max_send_data_segment as usize;
        let rest = full.text.answer.split_off(most.min(full.text.answer.len()));
        let part = std::mem::replace(&mut full.text.answer, rest);
        let more = !full.text.answer.is_empty();
        let open = more || request.continue_ || !request.final_;
        full.text.ttt = open.then_some(fresh);
        let response = TextResponse {
            final_: !open,
            continue_: more,
            itt: request.itt,
            ttt: full.text.ttt.unwrap_or(Ttt::NONE),
            data: part.into(),
            ..TextResponse::default()
        };
        self.send(at.conn, Pdu::TextResponse(response));
    }

    /// Answers the keys of a text request; none if they are malformed.
    fn answer(&mut self, at: At, text: &[u8]) -> Option<Vec<u8>> {
        let keys = KeyList::parse(text).ok()?;
        let discovery = self.sessions.get(&at.tsih)?.discovery.is_some();
        let mut answer = KeyList::new();
        for (key, value) in keys.iter() {
            match key {
                "SendTargets" => {
                    let own = value == self.options.name || (value.is_empty() && !discovery);
                    if own || (value == "All" && discovery) {
                        let all = discovery::answer(&[self.record()]);
                        all.iter().for_each(|(key, value)| answer.push(key, value));
                    } else if !discovery {
                        answer.push(key, "Reject");
                    }
                }
                "MaxRecvDataSegmentLength" if !discovery => {
                    let size = value.parse().ok().filter(|size| (512..1 << 24).contains(size))?;
                    if let Some(full) = self.full_mut(at.conn) {
                        full.params.max_send_data_segment = size;
                    }
                }
                _ => answer.push(key, "NotUnderstood"),
            }
        }
        Some(answer.to_bytes())
    }

    fn record(&self) -> TargetRecord {
        let portals = self.options.portals.iter();
        TargetRecord {
            name: self.options.name.clone(),
            portals: portals.map(|portal| (portal.address.clone(), portal.tpgt)).collect(),
        }
    }

    /// Logout: 0 the session, 1 a connection, 2 a connection for recovery (R210).
    fn logout(&mut self, at: At, request: &LogoutRequest, now: Instant) {
        if request.reason == 2 {
            self.remove_for_recovery(at, request, now);
            return;
        }
        let named = self.sessions.get(&at.tsih).and_then(|session| session.conns.get(&request.cid)).copied();
        let (response, closes) = match (request.reason, named) {
            (0, _) => (0, None),
            (1, Some(conn)) => (0, Some(conn)),
            (1, None) => (1, None),
            _ => (2, None),
        };
        let time2wait = self.sessions.get(&at.tsih).map_or(0, |session| session.params.default_time2wait);
        if request.reason == 0 {
            self.abort_where(at.tsih, |_| true);
        } else if let Some(conn) = closes {
            self.abort_where(at.tsih, |task| task.conn == conn);
        }
        let done = LogoutResponse { response, itt: request.itt, time2wait, ..LogoutResponse::default() };
        self.send(at.conn, Pdu::LogoutResponse(done));
        match closes {
            _ if request.reason == 0 => self.end_session(at.tsih, &Output::Close),
            Some(conn) if conn == at.conn => self.drop_connection(conn, Output::Close, now),
            Some(conn) => self.kick(conn, now),
            None => {}
        }
    }
}
