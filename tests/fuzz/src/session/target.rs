//! The targets: what they are sent, and what they answer, right and wrong.

use super::ops::{How, Raw};
use super::world::{World, counts};
use braid::iscsi::{
    CmdSn, DataIn, Itt, LogoutResponse, NopIn, Payload, Pdu, R2t, Receiver, Reject, ScsiCommand,
    ScsiResponse, StatSn, TaskManagementResponse, Ttt,
};
use braid::scsi::Sense;
use braid::session::ConnId;

/// Longest piece of read data sent.
const PIECE: u32 = 2048;

/// Of longer reads, in bytes, the rest is a residual.
const MOST_READ: u32 = 1 << 16;

/// A connection as its target sees it.
pub(super) struct Line {
    /// The leading connection of its session.
    pub(super) session: ConnId,
    window: u32,
    /// Longest data segment taken.
    segment: u32,
    stat_sn: StatSn,
    work: Vec<Work>,
}

/// A request that is not answered.
#[derive(Clone)]
struct Work {
    pdu: Pdu,
    /// Bytes of a write that came and that were asked for, and of a read that were sent.
    got: u32,
    asked: u32,
    sent: u32,
    sn: u32,
}

impl Line {
    pub(super) fn new(session: ConnId, window: u32, segment: u32) -> Self {
        Self { session, window, segment, stat_sn: StatSn(1), work: Vec::new() }
    }

    /// Takes what the engine sends; `due` is the session's next CmdSN.
    pub(super) fn take(&mut self, pdu: Pdu, due: &mut CmdSn) {
        assert!(pdu.data().len() <= self.segment as usize, "longer than the target takes: {pdu}");
        let (immediate, cmd_sn) = match &pdu {
            Pdu::DataOut(data) => {
                let end = data.buffer_offset + u32::try_from(data.data.len()).unwrap();
                if let Some(work) = self.work.iter_mut().find(|work| work.pdu.itt() == data.itt) {
                    let Pdu::ScsiCommand(command) = &work.pdu else { panic!("data for no command: {pdu}") };
                    assert!(command.write && end <= command.expected_length, "{pdu} for {command:?}");
                    work.got = work.got.max(end);
                }
                return;
            }
            Pdu::ScsiCommand(p) => (p.immediate, p.cmd_sn),
            Pdu::TaskManagementRequest(p) => (p.immediate, p.cmd_sn),
            Pdu::NopOut(p) => (p.immediate, p.cmd_sn),
            Pdu::LogoutRequest(p) => (p.immediate, p.cmd_sn),
            other => panic!("the engine has no use for it: {other}"),
        };
        assert_eq!(cmd_sn, *due, "R94: {pdu}");
        if !immediate {
            *due = due.next();
        }
        if pdu.itt() != Itt::NONE {
            assert!(self.work.iter().all(|work| work.pdu.itt() != pdu.itt()), "R107: {pdu}");
            let got = u32::try_from(pdu.data().len()).unwrap();
            self.work.push(Work { pdu, got, asked: got, sent: 0, sn: 0 });
        }
    }
}

impl World {
    /// One step of one request.
    pub(super) fn serve(&mut self, conn: u8, which: u8, how: How) {
        let Some(conn) = self.line(conn) else { return };
        let Some(line) = self.lines.get(&conn) else { return };
        let at = usize::from(which) % line.work.len().max(1);
        let Some(work) = line.work.get(at).cloned() else { return };
        match &work.pdu {
            Pdu::ScsiCommand(command) => self.serve_command(conn, at, &work, command, how),
            other => {
                let code = if let How::Response(code) = how { code } else { 0 };
                let answer = match other {
                    _ if matches!(how, How::Refused(_)) => refusal(other, how),
                    Pdu::NopOut(nop) => {
                        Pdu::NopIn(NopIn { itt: nop.itt, data: nop.data.clone(), ..NopIn::default() })
                    }
                    Pdu::TaskManagementRequest(request) => {
                        let (itt, response) = (request.itt, code);
                        Pdu::TaskManagementResponse(TaskManagementResponse {
                            response,
                            itt,
                            ..TaskManagementResponse::default()
                        })
                    }
                    _ => Pdu::LogoutResponse(LogoutResponse {
                        response: code,
                        itt: other.itt(),
                        ..LogoutResponse::default()
                    }),
                };
                self.finish(conn, other.itt(), answer);
            }
        }
    }

    fn serve_command(&mut self, conn: ConnId, at: usize, work: &Work, command: &ScsiCommand, how: How) {
        let itt = command.itt;
        let expected = command.expected_length;
        let mut answer = ScsiResponse { itt, ..ScsiResponse::default() };
        let reads = if command.read { command.bidi_read_length.unwrap_or(expected) } else { 0 };
        match how {
            How::Ask { at: offset, units } => {
                let length = u32::from(units) * 512;
                return self.ask(conn, at, u32::from(offset) * 512, length);
            }
            How::Well | How::Phased | How::Piece(_) | How::Underflow => {
                if command.write && work.asked < expected {
                    let burst = self.sizes.session(1).max_burst_length;
                    return self.ask(conn, at, work.asked, (expected - work.asked).min(burst));
                }
                if command.write && work.got < expected {
                    return;
                }
                let facts = facts(&command.cdb.0);
                let whole =
                    facts.as_ref().map_or(reads, |facts| reads.min(u32::try_from(facts.len()).unwrap()));
                let whole = if how == How::Underflow { whole / 2 } else { whole.min(MOST_READ) };
                let rest = whole.saturating_sub(work.sent);
                let length = if let How::Piece(units) = how { u32::from(units) * 64 } else { rest };
                let length = length.min(rest).min(PIECE);
                let underflow = whole < reads;
                let residual = reads - whole;
                if length > 0 || (how == How::Phased && reads > 0) {
                    let last = work.sent + length >= whole;
                    let start = work.sent as usize;
                    let data = facts.map_or_else(
                        || vec![3; length as usize],
                        |facts| facts[start..start + length as usize].to_vec(),
                    );
                    let has_status = how == How::Phased && last;
                    let pdu = DataIn {
                        final_: last,
                        has_status,
                        underflow: has_status && underflow,
                        residual: if has_status { residual } else { 0 },
                        itt,
                        data_sn: work.sn,
                        buffer_offset: work.sent,
                        data: Payload::from(data),
                        ..DataIn::default()
                    };
                    let work = &mut self.lines.get_mut(&conn).unwrap().work[at];
                    work.sent += length;
                    work.sn += 1;
                    if has_status {
                        return self.finish(conn, itt, Pdu::DataIn(pdu));
                    }
                    return self.send(conn, Pdu::DataIn(pdu));
                }
                (answer.underflow, answer.residual) = (underflow, residual);
            }
            How::Status(status) => answer.status = status,
            How::Sense { key, asc } => {
                answer.status = 2;
                answer.data = ScsiResponse::sense_data(&Sense { key: key % 16, asc, ascq: 0 }.to_fixed());
            }
            How::Response(code) => answer.response = code,
            How::Refused(_) => return self.finish(conn, itt, refusal(&work.pdu, how)),
        }
        self.finish(conn, itt, Pdu::ScsiResponse(answer));
    }

    fn ask(&mut self, conn: ConnId, at: usize, offset: u32, length: u32) {
        let work = &mut self.lines.get_mut(&conn).unwrap().work[at];
        work.asked = work.asked.max(offset.saturating_add(length));
        let pdu = R2t {
            itt: work.pdu.itt(),
            ttt: Ttt(work.sn + 1),
            r2t_sn: work.sn,
            buffer_offset: offset,
            desired_length: length.max(1),
            ..R2t::default()
        };
        work.sn += 1;
        self.send(conn, Pdu::R2t(pdu));
    }

    fn finish(&mut self, conn: ConnId, itt: Itt, pdu: Pdu) {
        self.lines.get_mut(&conn).unwrap().work.retain(|work| work.pdu.itt() != itt);
        self.send(conn, pdu);
    }

    /// Sends under the numbers that are due.
    fn send(&mut self, conn: ConnId, mut pdu: Pdu) {
        let line = self.lines.get_mut(&conn).unwrap();
        let exp = self.due[&line.session];
        let max = exp.plus(line.window).minus(1);
        let stat_sn = line.stat_sn;
        if counts(&pdu) {
            line.stat_sn = stat_sn.next();
        }
        match &mut pdu {
            Pdu::NopIn(p) => (p.stat_sn, p.exp_cmd_sn, p.max_cmd_sn) = (stat_sn, exp, max),
            Pdu::ScsiResponse(p) => (p.stat_sn, p.exp_cmd_sn, p.max_cmd_sn) = (stat_sn, exp, max),
            Pdu::TaskManagementResponse(p) => (p.stat_sn, p.exp_cmd_sn, p.max_cmd_sn) = (stat_sn, exp, max),
            Pdu::DataIn(p) => (p.stat_sn, p.exp_cmd_sn, p.max_cmd_sn) = (stat_sn, exp, max),
            Pdu::LogoutResponse(p) => (p.stat_sn, p.exp_cmd_sn, p.max_cmd_sn) = (stat_sn, exp, max),
            Pdu::R2t(p) => (p.stat_sn, p.exp_cmd_sn, p.max_cmd_sn) = (stat_sn, exp, max),
            Pdu::Reject(p) => (p.stat_sn, p.exp_cmd_sn, p.max_cmd_sn) = (stat_sn, exp, max),
            other => panic!("not sent by this target: {other}"),
        }
        self.deliver(conn, pdu);
    }

    /// All targets serve all that they have, and what comes of it.
    pub(super) fn serve_all(&mut self) {
        for _ in 0..64 {
            let busy: Vec<ConnId> =
                self.lines.iter().filter(|(_, line)| !line.work.is_empty()).map(|(conn, _)| *conn).collect();
            if busy.is_empty() {
                return;
            }
            for conn in busy {
                let mut at = 0;
                // A write that waits for data stays; the next one is served.
                while let Some(line) = self.lines.get(&conn)
                    && at < line.work.len()
                {
                    let before = line.work.len();
                    let number = self.lines.keys().position(|other| *other == conn).unwrap();
                    self.serve(u8::try_from(number).unwrap(), u8::try_from(at % 256).unwrap(), How::Well);
                    let after = self.lines.get(&conn).map_or(0, |line| line.work.len());
                    at += usize::from(after >= before);
                }
            }
        }
    }

    /// Any PDU that a target could have sent; that may have been anything.
    pub(super) fn say_anything(&mut self, conn: u8, raw: &Raw<'_>) {
        let Some(conn) = self.line(conn) else { return };
        let Some(line) = self.lines.get_mut(&conn) else { return };
        let mut header = raw.header;
        if let Some(which) = raw.tag
            && let Some(work) = line.work.get(usize::from(which) % line.work.len().max(1))
        {
            header[16..20].copy_from_slice(&work.pdu.itt().0.to_be_bytes());
        }
        if raw.numbered {
            let exp = self.due[&line.session];
            header[24..28].copy_from_slice(&line.stat_sn.0.to_be_bytes());
            header[28..32].copy_from_slice(&exp.0.to_be_bytes());
            header[32..36].copy_from_slice(&exp.plus(line.window).minus(1).0.to_be_bytes());
        }
        let Some(pdu) = target_pdu(header, raw) else { return };
        if counts(&pdu) && pdu.target_numbers().is_some_and(|(stat_sn, ..)| stat_sn == line.stat_sn) {
            line.stat_sn = line.stat_sn.next();
        }
        self.deliver(conn, pdu);
    }

    /// What a connection that is closed had still under way.
    pub(super) fn late(&mut self, raw: &Raw<'_>) {
        if let (Some(conn), Some(pdu)) = (self.closed.last().copied(), target_pdu(raw.header, raw)) {
            self.deliver(conn, pdu);
        }
    }
}

fn target_pdu(mut header: [u8; 48], raw: &Raw<'_>) -> Option<Pdu> {
    header[0] = [0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3f][usize::from(header[0] % 10)];
    let data = Payload::from(vec![raw.data; usize::from(raw.data) * 16]);
    Pdu::parse(Receiver::Initiator, &header, &[], data)
        .or_else(|_| Pdu::parse(Receiver::Initiator, &header, &[], Payload::new()))
        .ok()
}

fn refusal(pdu: &Pdu, how: How) -> Pdu {
    let reason = if let How::Refused(reason) = how { reason } else { 0 };
    let data = Payload::from(pdu.encode().0.to_vec());
    Pdu::Reject(Reject { reason, data, ..Reject::default() })
}

/// What the one disk says of itself; none of what is read from its blocks.
fn facts(cdb: &[u8]) -> Option<Vec<u8>> {
    let mut data = match (cdb[0], cdb[1], cdb[2]) {
        (0x12, 0, _) => {
            let mut data = vec![0; 36];
            data[4] = 31;
            data[8..16].copy_from_slice(b"BRAID   ");
            data
        }
        (0x12, _, 0x83) => vec![0, 0x83, 0, 12, 1, 3, 0, 8, 0x60, 1, 2, 3, 4, 5, 6, 7],
        (0x12, ..) => b"\x00\x80\x00\x04abcd".to_vec(),
        (0x25, ..) => vec![0, 0, 0x10, 0, 0, 0, 2, 0],
        (0x9e, ..) => {
            let mut data = vec![0; 32];
            data[6..8].copy_from_slice(&[0x10, 0]);
            data[10] = 2;
            data
        }
        (0x5e, ..) => vec![0; 8],
        _ => return None,
    };
    data.truncate(4096);
    Some(data)
}
