//! Data both ways: R2T and Data-Out, Data-In and responses.

use super::session::{Stage, Task, Transfer};
use super::unit::fault::{DATA_CRC, Fault, WRONG_DATA_AMOUNT};
use super::unit::{Reply, TaskRef};
use super::{At, ConnId, Connection, Full, Output, Phase, Target};
use crate::iscsi::{DataIn, DataOut, Itt, Payload, Pdu, R2t, ScsiResponse, StatSn, Tsih, Ttt, reject};
use crate::scsi::sense::status;
use std::time::Instant;

/// A response's residual: overflow, underflow, count (R134).
#[derive(Clone, Copy, Default)]
struct Residual {
    overflow: bool,
    underflow: bool,
    count: u32,
}

impl Residual {
    fn of(expected: u32, actual: u64) -> Self {
        let expected = u64::from(expected);
        let count = u32::try_from(expected.abs_diff(actual)).unwrap_or(u32::MAX);
        Self { overflow: actual > expected, underflow: actual < expected, count }
    }
}

impl Target {
    /// Asks for the next ranges of write data (R125).
    pub(super) fn solicit(&mut self, task: TaskRef) {
        let Some(session) = self.sessions.get_mut(&task.tsih) else { return };
        let (most, burst) = (session.params.max_outstanding_r2t, session.params.max_burst_length);
        let mut requests = Vec::new();
        let Some(mut entry) = session.tasks.remove(&task.itt) else { return };
        entry.asked = entry.asked.max(u32::try_from(entry.data.len()).unwrap_or(u32::MAX));
        while entry.transfers.len() < usize::from(most) && entry.asked < entry.wanted {
            let length = burst.min(entry.wanted - entry.asked);
            let ttt = session.new_ttt();
            requests.push(R2t {
                lun: entry.command.lun,
                itt: task.itt,
                ttt,
                r2t_sn: entry.r2t_sn,
                buffer_offset: entry.asked,
                desired_length: length,
                ..R2t::default()
            });
            entry.asked += length;
            entry.r2t_sn += 1;
            entry.transfers.push_back(Transfer { ttt, end: entry.asked, next_data_sn: 0 });
        }
        let conn = entry.conn;
        session.tasks.insert(task.itt, entry);
        for request in requests {
            self.send(conn, Pdu::R2t(request));
        }
    }

    /// Write data arrived.
    pub(super) fn data_out(&mut self, at: At, data: DataOut, now: Instant) {
        let Some(session) = self.sessions.get_mut(&at.tsih) else { return };
        let first_burst = session.params.first_burst_length;
        let stale = data.ttt == Ttt::NONE || session.knew_ttt(data.ttt);
        let Some(task) = session.tasks.get_mut(&data.itt).filter(|task| task.conn == at.conn) else {
            // Data of a task that was aborted may still be on their way.
            if !stale {
                self.reject_pdu(at.conn, reject::PROTOCOL_ERROR, 0x05, false, data.itt, data.lun);
            }
            return;
        };
        match task.take(&data, first_burst) {
            Taken::Unknown => {
                self.reject_pdu(at.conn, reject::PROTOCOL_ERROR, 0x05, false, data.itt, data.lun);
            }
            Taken::More => {}
            Taken::SequenceDone => self.advance(TaskRef { tsih: at.tsih, itt: data.itt }, now),
        }
    }

    /// A PDU's data were lost to a digest error; if they were write data, the task ends with the fitting sense (R177).
    pub(super) fn data_lost(&mut self, at: At, header: &[u8; 48], now: Instant) {
        let word = |at: usize| {
            let bytes = header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            u32::from_be_bytes(bytes.unwrap_or_default())
        };
        let [opcode, flags, ..] = *header;
        if opcode & 0x3f != 0x05 {
            return;
        }
        let (itt, ttt) = (Itt(word(16)), Ttt(word(20)));
        let Some(task) = self.sessions.get_mut(&at.tsih).and_then(|session| session.tasks.get_mut(&itt))
        else {
            return;
        };
        task.failure = task.failure.or(Some(Fault::Sense(DATA_CRC)));
        if flags & 0x80 != 0 {
            task.end_sequence(ttt);
            self.advance(TaskRef { tsih: at.tsih, itt }, now);
        }
    }

    /// Sends what a finished task has to say.
    pub(super) fn respond(&mut self, tsih: Tsih, task: Task, reply: Reply) {
        let said = Said { task, reply, stat_sn: None, cut: None };
        self.say(tsih, said, 0);
    }

    /// Says it, but for the read data before `exp_data_sn`, which have arrived; keeps it where it may have to be said again.
    pub(super) fn say(&mut self, tsih: Tsih, mut said: Said, exp_data_sn: u32) {
        let Some(session) = self.sessions.get(&tsih) else { return };
        let (burst, keeps) = (session.params.max_burst_length, session.keeps_tasks());
        let conn = said.task.conn;
        let segment = self.full(conn).map(|full| full.params.max_send_data_segment);
        if let Some(segment) = segment {
            let (from, data_sn) = said.arrived(exp_data_sn, burst);
            said.cut.get_or_insert(segment);
            self.send_said(&said, (from, data_sn), burst);
            said.stat_sn = self.full(conn).map(|full| full.stat_sn.minus(1));
        }
        if let Some(session) = self.sessions.get_mut(&tsih).filter(|_| keeps) {
            session.keep_said(said);
        }
    }

    fn full(&self, conn: ConnId) -> Option<&Full> {
        match self.conns.get(&conn) {
            Some(Connection { phase: Phase::Full(full), .. }) => Some(full),
            _ => None,
        }
    }

    fn send_said(&mut self, said: &Said, from: (usize, u32), burst: u32) {
        let (task, reply) = (&said.task, &said.reply);
        let expected = task.command.expected_length;
        let moved = if reply.status == status::CHECK_CONDITION && reply.data.is_empty() {
            u64::from(task.wanted)
        } else {
            task.full.max(reply.data.len() as u64)
        };
        let residual = Residual::of(expected, moved);
        let data = said.data();
        let collapse = self.options.phase_collapse && reply.status == status::GOOD && from.0 < data.len();
        let sent = self.data_in(task, &data, from, burst, collapse.then_some(residual));
        if collapse {
            return;
        }
        let response = ScsiResponse {
            overflow: residual.overflow,
            underflow: residual.underflow,
            status: reply.status,
            itt: task.command.itt,
            exp_data_sn: sent,
            residual: residual.count,
            data: with_length(&reply.sense),
            ..ScsiResponse::default()
        };
        self.send(task.conn, Pdu::ScsiResponse(response));
    }

    /// Sends read data from an offset and DataSN on, with the status in the last PDU if a residual is given; returns the number
    /// of PDUs.
    fn data_in(
        &mut self,
        task: &Task,
        data: &Payload,
        (mut offset, mut data_sn): (usize, u32),
        burst: u32,
        status: Option<Residual>,
    ) -> u32 {
        let Some(numbers) = self.numbers(task.conn) else { return 0 };
        let Some(Connection { phase: Phase::Full(full), .. }) = self.conns.get_mut(&task.conn) else {
            return 0;
        };
        let segment = full.params.max_send_data_segment as usize;
        let total = data.len();
        let mut left = burst as usize - offset % burst as usize;
        while offset < total {
            let length = segment.min(left).min(total - offset);
            left -= length;
            let last = offset + length == total;
            let residual = status.filter(|_| last);
            let pdu = DataIn {
                final_: last || left == 0,
                has_status: residual.is_some(),
                overflow: residual.is_some_and(|residual| residual.overflow),
                underflow: residual.is_some_and(|residual| residual.underflow),
                residual: residual.map_or(0, |residual| residual.count),
                itt: task.command.itt,
                stat_sn: numbers.stat_sn,
                exp_cmd_sn: numbers.exp_cmd_sn,
                max_cmd_sn: numbers.max_cmd_sn,
                data_sn,
                buffer_offset: u32::try_from(offset).unwrap_or(u32::MAX),
                data: data.slice(offset, length),
                ..DataIn::default()
            };
            self.outputs.push_back((task.conn, Output::Send(Pdu::DataIn(pdu))));
            if left == 0 {
                left = burst as usize;
            }
            offset += length;
            data_sn += 1;
        }
        if status.is_some() {
            full.stat_sn = full.stat_sn.next();
        }
        data_sn
    }
}

/// What a task has to say, or has said.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) task: Task,
    reply: Reply,
    /// The number it was said with, if it was.
    pub(super) stat_sn: Option<StatSn>,
    /// Bytes of the segments that its data were first cut into.
    cut: Option<u32>,
}

impl Said {
    /// The read data that the initiator has room for.
    fn data(&self) -> Payload {
        let command = &self.task.command;
        self.reply.data.slice(0, if command.read { command.expected_length as usize } else { 0 })
    }

    /// How far data have come of which the PDUs before a number have arrived, and that number; a number that was not sent says
    /// nothing (R191).
    fn arrived(&self, exp_data_sn: u32, burst: u32) -> (usize, u32) {
        let (total, burst) = (self.data().len(), burst as usize);
        let segment = self.cut.map_or(burst, |segment| segment as usize);
        let (mut offset, mut data_sn) = (0, 0);
        while data_sn < exp_data_sn && offset < total {
            offset += segment.min(burst - offset % burst).min(total - offset);
            data_sn += 1;
        }
        if data_sn < exp_data_sn { (0, 0) } else { (offset, data_sn) }
    }
}

/// What became of a Data-Out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Taken {
    /// It belongs to no sequence of the task.
    Unknown,
    /// Its sequence goes on.
    More,
    /// It was the last of its sequence.
    SequenceDone,
}

impl Task {
    fn take(&mut self, data: &DataOut, first_burst: u32) -> Taken {
        let Some((expected_sn, end)) = self.sequence(data.ttt, first_burst) else { return Taken::Unknown };
        let offset = self.data.len();
        let after = offset + data.data.len();
        let fits =
            data.data_sn == expected_sn && data.buffer_offset as usize == offset && after <= end as usize;
        let short = data.final_ && data.ttt != Ttt::NONE && after != end as usize;
        if fits && !short && self.stage != Stage::Device {
            self.data.append(&data.data);
        } else {
            self.failure = self.failure.or(Some(Fault::Sense(WRONG_DATA_AMOUNT)));
        }
        if data.final_ {
            self.end_sequence(data.ttt);
            Taken::SequenceDone
        } else {
            Taken::More
        }
    }

    /// The DataSN expected next in a sequence, which is advanced, and the offset at which the sequence ends.
    fn sequence(&mut self, ttt: Ttt, first_burst: u32) -> Option<(u32, u32)> {
        if ttt == Ttt::NONE {
            let next = self.unsolicited.as_mut()?;
            *next += 1;
            return Some((*next - 1, first_burst.min(self.command.expected_length)));
        }
        let transfer = self.transfers.iter_mut().find(|transfer| transfer.ttt == ttt)?;
        transfer.next_data_sn += 1;
        Some((transfer.next_data_sn - 1, transfer.end))
    }

    fn end_sequence(&mut self, ttt: Ttt) {
        if ttt == Ttt::NONE {
            self.unsolicited = None;
        } else {
            self.transfers.retain(|transfer| transfer.ttt != ttt);
        }
    }
}

/// Sense data as a response carries it: preceded by its length (R135).
fn with_length(sense: &[u8]) -> Payload {
    if sense.is_empty() {
        return Payload::new();
    }
    let length = u16::try_from(sense.len()).unwrap_or(u16::MAX);
    Payload::from([&length.to_be_bytes(), sense].concat())
}
