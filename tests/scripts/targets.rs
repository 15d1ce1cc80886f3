//! The targets of a script: their PDUs from words, and one disk behind all of them.

use crate::initiator::{base, lun};
use crate::print::content;
use crate::setup::TARGET_WINDOW;
use crate::words::{Words, hex};
use braid::iscsi::{
    AsyncMessage, CmdSn, DataIn, Itt, LogoutResponse, NopIn, Payload, Pdu, R2t, Reject, ScsiCommand,
    ScsiResponse, StatSn, TaskAttribute, TaskManagementResponse, Ttt, tmf,
};
use braid::login::{LoginKind, LoginPlan};
use braid::scsi::Sense;
use std::collections::BTreeMap;

/// One connection as its target sees it.
struct Line {
    /// The session, named by its first connection.
    session: u32,
    stat_sn: StatSn,
    /// Commands by tag, and other requests whose header a Reject may carry.
    seen: BTreeMap<Itt, Pdu>,
}

pub(crate) struct Targets {
    lines: BTreeMap<u32, Line>,
    /// Those that are closed: what came over them may be sent again, or reassigned.
    closed: Vec<Line>,
    /// ExpCmdSN of each session.
    expected: BTreeMap<u32, CmdSn>,
    /// Commands that a session may have beyond ExpCmdSN.
    pub(crate) window: u32,
    pub(crate) vendor: String,
    /// Peripheral device type of the units.
    pub(crate) device_type: u8,
    /// Bytes 2 to 4 of the Control mode page, of units with command queueing.
    pub(crate) control: Option<Vec<u8>>,
}

/// The numbers of a target's PDU.
type Numbers = (StatSn, CmdSn, CmdSn);

impl Targets {
    pub(crate) fn new() -> Self {
        let (lines, expected) = (BTreeMap::new(), BTreeMap::new());
        let (closed, window, vendor) = (Vec::new(), TARGET_WINDOW, "IET".into());
        Self { lines, closed, expected, window, vendor, device_type: 0, control: None }
    }

    pub(crate) fn is_open(&self, conn: u32) -> bool {
        self.lines.contains_key(&conn)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// A connection is in full feature phase; returns its session, ExpCmdSN and MaxCmdSN.
    pub(crate) fn open(&mut self, conn: u32, plan: &LoginPlan) -> (u32, CmdSn, CmdSn) {
        let session = match &plan.kind {
            LoginKind::Joining { tsih, .. } => u32::from(tsih.0).saturating_sub(1000),
            LoginKind::Leading | LoginKind::Discovery => conn,
        };
        let exp = *self.expected.entry(session).or_insert(plan.cmd_sn);
        self.lines.insert(conn, Line { session, stat_sn: StatSn(1), seen: BTreeMap::new() });
        (session, exp, exp.plus(self.window).minus(1))
    }

    pub(crate) fn close(&mut self, conn: u32) {
        self.closed.extend(self.lines.remove(&conn));
    }

    /// Braid sends a PDU; returns where the data of its task stands.
    pub(crate) fn receive(&mut self, conn: u32, pdu: &Pdu) -> Result<u64, String> {
        let line =
            self.lines.get_mut(&conn).ok_or_else(|| format!("sent over a closed connection: {pdu}"))?;
        let number = match pdu {
            Pdu::ScsiCommand(p) => Some((p.immediate, p.cmd_sn)),
            Pdu::TaskManagementRequest(p) => Some((p.immediate, p.cmd_sn)),
            Pdu::NopOut(p) => Some((p.immediate, p.cmd_sn)),
            Pdu::LogoutRequest(p) => Some((p.immediate, p.cmd_sn)),
            _ => None,
        };
        let mut lost = self.closed.iter().filter(|closed| closed.session == line.session);
        if let Pdu::TaskManagementRequest(function) = pdu
            && function.function == tmf::TASK_REASSIGN
        {
            let task = lost.clone().find_map(|closed| closed.seen.get(&function.referenced_itt));
            line.seen.extend(task.map(|task| (function.referenced_itt, task.clone())));
        }
        if let Some((immediate, cmd_sn)) = number {
            let expected = self.expected.entry(line.session).or_insert(cmd_sn);
            let again =
                lost.any(|closed| closed.seen.contains_key(&pdu.itt())) && cmd_sn.is_before(*expected);
            if cmd_sn != *expected && !again {
                return Err(format!("R93: CmdSN is not {expected}: {pdu}"));
            }
            if !immediate && !again {
                *expected = cmd_sn.next();
            }
            line.seen.insert(pdu.itt(), pdu.clone());
        }
        Ok(Self::place(line, pdu.itt()))
    }

    fn place(line: &Line, itt: Itt) -> u64 {
        match line.seen.get(&itt) {
            Some(Pdu::ScsiCommand(command)) => base(&command.cdb),
            _ => 0,
        }
    }

    fn numbers(&mut self, conn: u32, counts: bool, words: &mut Words<'_>) -> Result<Numbers, String> {
        let line = self.lines.get_mut(&conn).ok_or("the connection is not open")?;
        let next = line.stat_sn;
        if counts {
            line.stat_sn = next.next();
        }
        let exp = self.expected.get(&line.session).copied().unwrap_or_default();
        let exp = CmdSn(words.number_or("expcmdsn", exp.0)?);
        let max = CmdSn(words.number_or("maxcmdsn", exp.plus(self.window).minus(1).0)?);
        Ok((StatSn(words.number_or("statsn", next.0)?), exp, max))
    }

    /// The PDU that the words say a target sends.
    pub(crate) fn pdu(&mut self, conn: u32, words: &mut Words<'_>) -> Result<Pdu, String> {
        let line = self.lines.get(&conn).ok_or("the connection is not open")?;
        let itt = Itt(words.tag("itt")?);
        if itt != Itt::NONE && !line.seen.contains_key(&itt) && !words.flag("unknown") {
            return Err("no such request came over this connection".into());
        }
        let at = Self::place(line, itt);
        if words.begin("Data-In") {
            return self.data_in(conn, words, itt, at);
        }
        if words.begin("SCSI Response") {
            return self.scsi_response(conn, words, itt);
        }
        if words.begin("R2T") {
            let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers(conn, false, words)?;
            return Ok(Pdu::R2t(R2t {
                lun: lun(words)?,
                itt,
                ttt: Ttt(words.tag("ttt")?),
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                r2t_sn: words.number_or("r2tsn", 0)?,
                buffer_offset: words.number_or("offset", 0)?,
                desired_length: words.number_or("desired", 0)?,
            }));
        }
        if words.begin("NOP-In") {
            let (lun, ttt) = (lun(words)?, Ttt(words.tag("ttt")?));
            let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers(conn, itt != Itt::NONE, words)?;
            let data = Payload::new();
            return Ok(Pdu::NopIn(NopIn { lun, itt, ttt, stat_sn, exp_cmd_sn, max_cmd_sn, data }));
        }
        if words.begin("TMF Response") {
            let response = words.number_or("response", 0)?;
            let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers(conn, true, words)?;
            let numbers = TaskManagementResponse { stat_sn, exp_cmd_sn, max_cmd_sn, ..Default::default() };
            let answer = TaskManagementResponse { response, itt, ..numbers };
            return Ok(Pdu::TaskManagementResponse(answer));
        }
        if words.begin("Logout Response") {
            let response = words.number_or("response", 0)?;
            let (time2wait, time2retain) =
                (words.number_or("time2wait", 0)?, words.number_or("time2retain", 0)?);
            let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers(conn, true, words)?;
            let numbers =
                LogoutResponse { itt, stat_sn, exp_cmd_sn, max_cmd_sn, ..LogoutResponse::default() };
            return Ok(Pdu::LogoutResponse(LogoutResponse { response, time2wait, time2retain, ..numbers }));
        }
        if words.begin("Async Message") {
            return self.async_message(conn, words);
        }
        if words.begin("Reject") {
            let header = line.seen.get(&itt).ok_or("no such request came")?.encode().0;
            let reason = words.number_or("reason", 0)?;
            let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers(conn, true, words)?;
            let data = Payload::from(header.to_vec());
            return Ok(Pdu::Reject(Reject { reason, stat_sn, exp_cmd_sn, max_cmd_sn, data_sn: 0, data }));
        }
        Err("targets do not know such a PDU".into())
    }

    fn data_in(&mut self, conn: u32, words: &mut Words<'_>, itt: Itt, at: u64) -> Result<Pdu, String> {
        let status: Option<u8> = words.number("status")?;
        let underflow: Option<u32> = words.number("underflow")?;
        let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers(conn, status.is_some(), words)?;
        let buffer_offset: u32 = words.number_or("offset", 0)?;
        Ok(Pdu::DataIn(DataIn {
            final_: words.flag("F"),
            has_status: status.is_some(),
            status: status.unwrap_or(0),
            underflow: underflow.is_some(),
            residual: underflow.unwrap_or(0),
            itt,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            data_sn: words.number_or("datasn", 0)?,
            buffer_offset,
            data: content(at + u64::from(buffer_offset), words.number_or("data", 0)?),
            ..DataIn::default()
        }))
    }

    fn scsi_response(&mut self, conn: u32, words: &mut Words<'_>, itt: Itt) -> Result<Pdu, String> {
        let sense = words.value("sense").map(sense).transpose()?;
        let (overflow, underflow) = (words.number("overflow")?, words.number("underflow")?);
        let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers(conn, true, words)?;
        Ok(Pdu::ScsiResponse(ScsiResponse {
            overflow: overflow.is_some(),
            underflow: underflow.is_some(),
            residual: overflow.or(underflow).unwrap_or(0),
            response: words.number_or("response", 0)?,
            status: words.number_or("status", if sense.is_some() { 2 } else { 0 })?,
            itt,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            data: sense.map_or_else(Payload::new, |s| ScsiResponse::sense_data(&s.to_fixed())),
            ..ScsiResponse::default()
        }))
    }

    fn async_message(&mut self, conn: u32, words: &mut Words<'_>) -> Result<Pdu, String> {
        let sense = words.value("sense").map(sense).transpose()?;
        let list = words.value("parameters").unwrap_or("0,0,0");
        let numbers: Vec<u16> = list.split(',').filter_map(|n| n.parse().ok()).collect();
        let parameters = <[u16; 3]>::try_from(numbers).map_err(|_| "three parameters are wanted")?;
        let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers(conn, true, words)?;
        Ok(Pdu::AsyncMessage(AsyncMessage {
            lun: lun(words)?,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            event: words.number_or("event", 0)?,
            vendor_code: 0,
            parameters,
            data: sense.map_or_else(Payload::new, |s| ScsiResponse::sense_data(&s.to_fixed())),
        }))
    }

    /// All that a healthy disk says to a command that came: its data, if any, and GOOD.
    pub(crate) fn answer(&mut self, conn: u32, itt: Itt, foreign: bool) -> Result<Vec<Pdu>, String> {
        let line = self.lines.get(&conn).ok_or("the connection is not open")?;
        let Some(Pdu::ScsiCommand(command)) = line.seen.get(&itt) else {
            return Err("no such command came".into());
        };
        let length = if command.read { command.expected_length } else { 0 };
        let data = if command.cdb.0.first() == Some(&0x28) {
            content(base(&command.cdb), length)
        } else {
            let mut data = self.disk(&command.cdb.0, foreign);
            data.truncate(length as usize);
            Payload::from(data)
        };
        let none = || Words::new("");
        let mut said = Vec::new();
        if !data.is_empty() {
            let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers(conn, false, &mut none())?;
            let numbers = DataIn { stat_sn, exp_cmd_sn, max_cmd_sn, ..DataIn::default() };
            said.push(Pdu::DataIn(DataIn { final_: true, itt, data, ..numbers }));
        }
        said.push(self.scsi_response(conn, &mut none(), itt)?);
        Ok(said)
    }

    /// What the disk says of itself; a foreign one has another name and serial number.
    fn disk(&self, cdb: &[u8], foreign: bool) -> Vec<u8> {
        let last = u8::from(foreign);
        match cdb {
            [0x12, 0, ..] => {
                let mut data =
                    vec![self.device_type, 0, 0, 0, 0, 0, 0, u8::from(self.control.is_some()) << 1];
                data.extend_from_slice(format!("{:8}{:16}{:4}", self.vendor, "VIRTUAL-DISK", "1").as_bytes());
                data
            }
            [0x12, _, 0x83, ..] => vec![0, 0x83, 0, 12, 1, 3, 0, 8, 0x60, 1, 2, 3, 4, 5, 6, last],
            [0x12, ..] => vec![0, 0x80, 0, 4, b'a', b'b', b'c', b'0' + last],
            // 2^20 blocks of 512 bytes.
            [0x9e, ..] => hex("00000000000fffff00000200").map_or_else(
                |_| Vec::new(),
                |mut data| {
                    data.resize(32, 0);
                    data
                },
            ),
            [0x5e, ..] => vec![0; 8],
            [0x1a, ..] => {
                let fields = self.control.as_deref().unwrap_or_default();
                [&[15, 0, 0x10, 0, 0x0a, 10][..], fields, &[0; 7]].concat()
            }
            [0xa0, ..] => [[0, 0, 0, 8, 0, 0, 0, 0], [0; 8]].concat(),
            _ => Vec::new(),
        }
    }
}

/// Whether a command looks like one of the questions by which Braid learns who a unit is.
pub(crate) fn is_question(command: &ScsiCommand) -> bool {
    let opcode = command.cdb.0.first().copied().unwrap_or(0);
    let known = match opcode {
        0x00 => command.expected_length == 0,
        0x12 | 0x5e => command.expected_length == 1024,
        0x1a => command.expected_length == 255,
        0x25 | 0x9e => true,
        _ => false,
    };
    known && command.attribute == TaskAttribute::Simple
}

/// `key/asc/ascq` in hexadecimal.
fn sense(text: &str) -> Result<Sense, String> {
    let parts: Vec<u8> = text.split('/').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
    match parts.as_slice() {
        [key, asc, ascq] => Ok(Sense { key: *key, asc: *asc, ascq: *ascq }),
        _ => Err(format!("sense={text} is not key/asc/ascq")),
    }
}
