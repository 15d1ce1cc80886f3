//! Errands: a handful of requests that Braid makes for itself, in a session of its own, one at a time.
//!
//! [`Numbers`] are the session's, [`Line`] is one of its connections. Requests are sent without the immediate flag, which
//! some targets take badly outside login and logout (tgt and istgt close the connection); the logout is immediate with
//! the CmdSN that the target expects, because a numbered one leaves a hole for the other connections on istgt. The
//! caller must not log out while anything is unanswered.

use super::conn::{Conn, ConnError};
use crate::iscsi::{
    Cdb, Cid, CmdSn, Itt, LogoutRequest, Lun, NopIn, NopOut, Payload, Pdu, ScsiCommand, StatSn, TextRequest,
    TextResponse, Ttt,
};
use crate::login::Negotiated;
use crate::scsi::inquiry::inquiry_cdb;
use std::time::Duration;

/// Allocation length of INQUIRY, in bytes: the standard data up to the revision.
const INQUIRY_LENGTH: u16 = 36;

/// How long a logout may take.
const LOGOUT_PATIENCE: Duration = Duration::from_secs(2);

/// What is the same for all connections of a session.
#[derive(Debug)]
pub(super) struct Numbers {
    /// CmdSN of the next numbered request.
    next: CmdSn,
    max: CmdSn,
    tag: u32,
}

impl Numbers {
    /// After the leading login.
    pub(super) const fn new(agreed: &Negotiated) -> Self {
        Self { next: agreed.cmd_sn, max: agreed.max_cmd_sn, tag: 0 }
    }

    /// CmdSN of the next numbered request, not used up.
    pub(super) const fn next(&self) -> CmdSn {
        self.next
    }

    /// Uses up `count` command numbers; the first of them.
    pub(super) const fn take(&mut self, count: u32) -> CmdSn {
        let first = self.next;
        self.next = first.plus(count);
        first
    }

    /// How many numbered requests the target takes now (R99).
    pub(super) const fn room(&self) -> u32 {
        let room = self.max.next().since(self.next);
        if room < 0x8000_0000 { room } else { 0 }
    }

    /// A task tag.
    pub(super) const fn tag(&mut self) -> Itt {
        self.tag += 1;
        Itt(self.tag)
    }

    fn note(&mut self, exp: CmdSn, max: CmdSn) {
        // R97.
        if !max.is_before(exp.minus(1)) {
            self.max = self.max.max(max);
        }
    }
}

/// Something that a target said.
#[derive(Debug)]
pub(super) enum Event {
    /// A command is done, whatever its status.
    Answer {
        /// The command.
        itt: Itt,
        /// Its data.
        data: Vec<u8>,
    },
    /// Part of an answer to a text request.
    Text(TextResponse),
    /// The connection is logged out.
    LoggedOut,
    /// A request was rejected, for this reason.
    Rejected(u8),
}

/// A connection of the session.
#[derive(Debug)]
pub(super) struct Line {
    conn: Conn,
    cid: Cid,
    exp_stat_sn: StatSn,
    data: Vec<u8>,
}

impl Line {
    /// A connection that has logged in.
    pub(super) const fn new(conn: Conn, agreed: &Negotiated) -> Self {
        Self { conn, cid: agreed.cid, exp_stat_sn: agreed.stat_sn, data: Vec::new() }
    }

    /// Sends an INQUIRY to LUN 0.
    ///
    /// # Errors
    /// If the connection ended.
    pub(super) async fn inquire(&mut self, itt: Itt, cmd_sn: CmdSn) -> Result<(), ConnError> {
        self.data.clear();
        let command = ScsiCommand {
            final_: true,
            read: true,
            lun: Lun(0),
            itt,
            expected_length: INQUIRY_LENGTH.into(),
            cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            cdb: Cdb(inquiry_cdb(None, INQUIRY_LENGTH).into()),
            ..ScsiCommand::default()
        };
        self.conn.send(&[Pdu::ScsiCommand(command)]).await
    }

    /// Sends a text request, or with the transfer tag of an answer asks for the rest of it.
    ///
    /// # Errors
    /// If the connection ended.
    pub(super) async fn ask(
        &mut self,
        itt: Itt,
        ttt: Ttt,
        cmd_sn: CmdSn,
        data: Payload,
    ) -> Result<(), ConnError> {
        let exp_stat_sn = self.exp_stat_sn;
        let text =
            TextRequest { final_: true, itt, ttt, cmd_sn, exp_stat_sn, data, ..TextRequest::default() };
        self.conn.send(&[Pdu::TextRequest(text)]).await
    }

    /// Waits for something to happen; may be given up and called again. Pings are answered on the way.
    ///
    /// # Errors
    /// If the connection ended.
    pub(super) async fn event(&mut self, numbers: &mut Numbers) -> Result<Event, ConnError> {
        loop {
            let pdu = self.conn.recv().await?;
            self.note(&pdu, numbers);
            if let Some(event) = self.sort(pdu, numbers)? {
                return Ok(event);
            }
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "what an errand does not ask for does not matter to it"
    )]
    fn sort(&mut self, pdu: Pdu, numbers: &Numbers) -> Result<Option<Event>, ConnError> {
        let event = match pdu {
            Pdu::DataIn(part) => {
                self.keep(&part.data);
                part.has_status.then(|| self.answer(part.itt))
            }
            Pdu::ScsiResponse(response) => Some(self.answer(response.itt)),
            Pdu::TextResponse(text) => Some(Event::Text(text)),
            Pdu::LogoutResponse(_) => Some(Event::LoggedOut),
            Pdu::Reject(reject) => Some(Event::Rejected(reject.reason)),
            Pdu::NopIn(ping) if ping.ttt != Ttt::NONE => {
                self.pong(&ping, numbers)?;
                None
            }
            _ => None,
        };
        Ok(event)
    }

    /// Answers a ping with its own tag and LUN (R225).
    fn pong(&mut self, ping: &NopIn, numbers: &Numbers) -> Result<(), ConnError> {
        let pong = NopOut {
            immediate: true,
            lun: ping.lun,
            ttt: ping.ttt,
            cmd_sn: numbers.next,
            exp_stat_sn: self.exp_stat_sn,
            ..NopOut::default()
        };
        self.conn.queue(&Pdu::NopOut(pong));
        Ok(self.conn.flush()?)
    }

    /// Logs this connection out (reason 1), or the session where this is its last (reason 0), and closes it. Returns
    /// whether the target answered.
    pub(super) async fn log_out(mut self, numbers: &mut Numbers, reason: u8) -> bool {
        let request = LogoutRequest {
            immediate: true,
            reason,
            itt: numbers.tag(),
            cid: self.cid,
            cmd_sn: numbers.next,
            exp_stat_sn: self.exp_stat_sn,
        };
        let answered = tokio::time::timeout(LOGOUT_PATIENCE, async {
            self.conn.send(&[Pdu::LogoutRequest(request)]).await?;
            while !matches!(self.event(numbers).await?, Event::LoggedOut) {}
            Ok::<_, ConnError>(())
        })
        .await;
        self.conn.close().await;
        matches!(answered, Ok(Ok(())))
    }

    /// Resets the connection: the target finds out at once.
    pub(super) fn reset(self) {
        self.conn.reset();
    }

    /// The peer's address.
    pub(super) fn peer(&self) -> String {
        self.conn.peer().map(|peer| peer.to_string()).unwrap_or_default()
    }

    fn note(&mut self, pdu: &Pdu, numbers: &mut Numbers) {
        let Some((stat_sn, exp, max)) = pdu.target_numbers() else { return };
        numbers.note(exp, max);
        // R112: these carry a StatSN without using it up.
        let unused = matches!(pdu, Pdu::R2t(_))
            || matches!(pdu, Pdu::DataIn(part) if !part.has_status)
            || matches!(pdu, Pdu::NopIn(ping) if ping.itt == Itt::NONE);
        if !unused {
            self.exp_stat_sn = stat_sn.next();
        }
    }

    fn keep(&mut self, data: &Payload) {
        let room = usize::from(INQUIRY_LENGTH).saturating_sub(self.data.len());
        self.data.extend_from_slice(&data.slice(0, room).contiguous());
    }

    fn answer(&mut self, itt: Itt) -> Event {
        Event::Answer { itt, data: std::mem::take(&mut self.data) }
    }
}
