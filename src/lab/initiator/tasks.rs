//! The initiator's commands from submission to completion, and its checks on every number the target sends.

use super::{Completion, Data, InitiatorError, Tag};
use crate::iscsi::{
    Cdb, Cid, CmdSn, DataIn, DataOut, Itt, LogoutRequest, Lun, NopIn, NopOut, Payload, Pdu, R2t, ScsiCommand,
    ScsiResponse, StatSn, Ttt,
};
use crate::lab::wire::Wire;
use crate::login::Negotiated;
use crate::scsi::sense::status;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

/// A command to send.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) cdb: Cdb,
    pub(super) lun: Lun,
    pub(super) data: Data,
}

/// A command sent.
#[derive(Debug)]
struct Task {
    tag: Tag,
    lun: Lun,
    expected: u32,
    out: Payload,
    data: Payload,
    /// Next DataSN.
    data_sn: u32,
    /// Next R2TSN.
    r2t_sn: u32,
    /// Bytes received since the last F bit.
    burst: usize,
}

/// All commands of a session.
#[derive(Debug)]
pub(super) struct Tasks {
    pub(super) negotiated: Negotiated,
    queue_depth: usize,
    waiting: VecDeque<(Tag, Order)>,
    sent: FxHashMap<Itt, Task>,
    done: VecDeque<(Tag, Completion)>,
    last_tag: u64,
    last_itt: u32,
    cmd_sn: CmdSn,
    max_cmd_sn: CmdSn,
    exp_stat_sn: StatSn,
    logout: Option<Itt>,
    logged_out: bool,
}

fn broken(what: impl Into<String>) -> InitiatorError {
    InitiatorError::Protocol(what.into())
}

impl Tasks {
    pub(super) fn new(negotiated: Negotiated, queue_depth: usize) -> Self {
        Self {
            queue_depth: queue_depth.max(1),
            waiting: VecDeque::new(),
            sent: FxHashMap::default(),
            done: VecDeque::new(),
            last_tag: 0,
            last_itt: 0,
            cmd_sn: negotiated.cmd_sn,
            max_cmd_sn: negotiated.max_cmd_sn,
            exp_stat_sn: negotiated.stat_sn,
            logout: None,
            logged_out: false,
            negotiated,
        }
    }

    pub(super) fn outstanding(&self) -> usize {
        self.waiting.len() + self.sent.len() + self.done.len()
    }

    pub(super) fn take_done(&mut self) -> Option<(Tag, Completion)> {
        self.done.pop_front()
    }

    /// Returns completions that somebody else waits for, in their order.
    pub(super) fn put_back(&mut self, done: Vec<(Tag, Completion)>) {
        done.into_iter().rev().for_each(|done| self.done.push_front(done));
    }

    pub(super) const fn logged_out(&self) -> bool {
        self.logged_out
    }

    pub(super) fn submit(&mut self, order: Order, wire: &mut Wire) -> Tag {
        self.last_tag += 1;
        let tag = Tag(self.last_tag);
        self.waiting.push_back((tag, order));
        self.send_waiting(wire);
        tag
    }

    pub(super) fn logout(&mut self, wire: &mut Wire) {
        let itt = self.new_itt();
        self.logout = Some(itt);
        wire.push(&Pdu::LogoutRequest(LogoutRequest {
            immediate: true,
            reason: 0,
            itt,
            cid: Cid(0),
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
        }));
    }

    /// Sends commands as far as queue depth and window allow (R99).
    fn send_waiting(&mut self, wire: &mut Wire) {
        while self.sent.len() < self.queue_depth && !self.cmd_sn.is_after(self.max_cmd_sn) {
            let Some((tag, order)) = self.waiting.pop_front() else { return };
            self.send(tag, order, wire);
        }
    }

    fn send(&mut self, tag: Tag, order: Order, wire: &mut Wire) {
        let itt = self.new_itt();
        let (read, out, expected) = match order.data {
            Data::None => (false, Payload::new(), 0),
            Data::In(expected) => (true, Payload::new(), expected),
            Data::Out(out) => {
                let expected = u32::try_from(out.len()).unwrap_or(u32::MAX);
                (false, out, expected)
            }
        };
        let session = &self.negotiated.session;
        let first = out.len().min(session.first_burst_length as usize);
        let segment = self.negotiated.connection.max_send_data_segment as usize;
        let immediate = if session.immediate_data { first.min(segment) } else { 0 };
        let unsolicited = if session.initial_r2t { immediate } else { first };
        let command = ScsiCommand {
            final_: unsolicited == immediate,
            read,
            write: !out.is_empty(),
            lun: order.lun,
            itt,
            expected_length: expected,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            cdb: order.cdb,
            data: out.slice(0, immediate),
            ..ScsiCommand::default()
        };
        self.cmd_sn = self.cmd_sn.next();
        wire.push(&Pdu::ScsiCommand(command));
        let task = Task {
            tag,
            lun: order.lun,
            expected,
            out,
            data: Payload::new(),
            data_sn: 0,
            r2t_sn: 0,
            burst: 0,
        };
        self.send_data(itt, &task, Ttt::NONE, immediate..unsolicited, wire);
        self.sent.insert(itt, task);
    }

    /// Sends a range of a command's data as one sequence (R124).
    fn send_data(&self, itt: Itt, task: &Task, ttt: Ttt, range: std::ops::Range<usize>, wire: &mut Wire) {
        let segment = (self.negotiated.connection.max_send_data_segment as usize).max(1);
        for (data_sn, offset) in (0..).zip(range.clone().step_by(segment)) {
            let len = segment.min(range.end - offset);
            wire.push(&Pdu::DataOut(DataOut {
                final_: offset + len == range.end,
                lun: if ttt == Ttt::NONE { Lun::default() } else { task.lun },
                itt,
                ttt,
                exp_stat_sn: self.exp_stat_sn,
                data_sn,
                buffer_offset: u32::try_from(offset).unwrap_or(u32::MAX),
                data: task.out.slice(offset, len),
            }));
        }
    }

    fn new_itt(&mut self) -> Itt {
        self.last_itt = self.last_itt.wrapping_add(1);
        if Itt(self.last_itt) == Itt::NONE {
            self.last_itt = 0;
        }
        Itt(self.last_itt)
    }

    /// Takes a PDU of the target.
    pub(super) fn handle(&mut self, pdu: Pdu, wire: &mut Wire) -> Result<(), InitiatorError> {
        match pdu {
            Pdu::DataIn(data) => self.data_in(data)?,
            Pdu::ScsiResponse(response) => self.response(&response)?,
            Pdu::R2t(r2t) => self.r2t(&r2t, wire)?,
            Pdu::NopIn(nop) => self.nop_in(&nop, wire),
            Pdu::AsyncMessage(message) => self.numbered(message.stat_sn)?,
            Pdu::LogoutResponse(response) if Some(response.itt) == self.logout => self.logged_out = true,
            Pdu::Reject(reject) => return Err(InitiatorError::Rejected(reject.reason)),
            Pdu::LogoutResponse(_)
            | Pdu::TaskManagementResponse(_)
            | Pdu::LoginResponse(_)
            | Pdu::TextResponse(_)
            | Pdu::NopOut(_)
            | Pdu::ScsiCommand(_)
            | Pdu::TaskManagementRequest(_)
            | Pdu::LoginRequest(_)
            | Pdu::TextRequest(_)
            | Pdu::DataOut(_)
            | Pdu::LogoutRequest(_)
            | Pdu::SnackRequest(_) => return Err(broken("a PDU that nothing asked for")),
        }
        self.send_waiting(wire);
        Ok(())
    }

    /// Checks a response's number (R111, R115).
    fn numbered(&mut self, stat_sn: StatSn) -> Result<(), InitiatorError> {
        if stat_sn != self.exp_stat_sn {
            return Err(broken(format!("StatSN {stat_sn} where {} was due", self.exp_stat_sn)));
        }
        self.exp_stat_sn = stat_sn.next();
        Ok(())
    }

    /// Takes a window (R97).
    fn window(&mut self, exp: CmdSn, max: CmdSn) {
        if !max.is_before(exp.minus(1)) {
            self.max_cmd_sn = self.max_cmd_sn.max(max);
        }
    }

    fn data_in(&mut self, data: DataIn) -> Result<(), InitiatorError> {
        let burst = self.negotiated.session.max_burst_length as usize;
        let Some(task) = self.sent.get_mut(&data.itt) else { return Err(broken("Data-In for no command")) };
        if data.data_sn != task.data_sn || data.buffer_offset as usize != task.data.len() {
            return Err(broken(format!("Data-In out of order: {} at {}", data.data_sn, data.buffer_offset)));
        }
        task.data_sn += 1;
        task.data.append(&data.data);
        task.burst += data.data.len();
        if task.data.len() > task.expected as usize || task.burst > burst {
            return Err(broken("more data than expected"));
        }
        if data.final_ {
            task.burst = 0;
        }
        self.window(data.exp_cmd_sn, data.max_cmd_sn);
        if !data.has_status {
            return Ok(());
        }
        self.numbered(data.stat_sn)?;
        let residual = signed(data.overflow, data.underflow, data.residual);
        self.end(data.itt, data.status, Vec::new(), residual)
    }

    fn response(&mut self, response: &ScsiResponse) -> Result<(), InitiatorError> {
        self.numbered(response.stat_sn)?;
        self.window(response.exp_cmd_sn, response.max_cmd_sn);
        if response.response != 0 {
            return Err(broken(format!("service response {}", response.response)));
        }
        // RFC 7143 counts Data-In PDUs; targets of RFC 3720's time count R2Ts too.
        if let Some(task) = self.sent.get(&response.itt)
            && ![task.data_sn, task.data_sn + task.r2t_sn].contains(&response.exp_data_sn)
        {
            return Err(broken(format!("ExpDataSN {} is wrong", response.exp_data_sn)));
        }
        let raw = response.data.contiguous();
        let sense = raw.split_at_checked(2).map(|(length, rest)| {
            let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            rest.get(..length).unwrap_or(rest).to_vec()
        });
        let residual = signed(response.overflow, response.underflow, response.residual);
        self.end(response.itt, response.status, sense.unwrap_or_default(), residual)
    }

    fn end(&mut self, itt: Itt, status: u8, sense: Vec<u8>, residual: i64) -> Result<(), InitiatorError> {
        let Some(task) = self.sent.remove(&itt) else { return Err(broken("response for no command")) };
        let short = i64::from(task.expected) - i64::try_from(task.data.len()).unwrap_or(i64::MAX);
        let reads = task.out.is_empty();
        if status == status::GOOD && reads && residual.min(0) != -short {
            return Err(broken(format!("{short} bytes missing, residual {residual}")));
        }
        self.done.push_back((task.tag, Completion { status, sense, data: task.data, residual }));
        Ok(())
    }

    fn r2t(&mut self, r2t: &R2t, wire: &mut Wire) -> Result<(), InitiatorError> {
        self.window(r2t.exp_cmd_sn, r2t.max_cmd_sn);
        let Some(mut task) = self.sent.remove(&r2t.itt) else { return Err(broken("R2T for no command")) };
        let start = r2t.buffer_offset as usize;
        let end = start.saturating_add(r2t.desired_length as usize);
        let legal = start < end
            && end <= task.out.len()
            && r2t.desired_length <= self.negotiated.session.max_burst_length
            && r2t.ttt != Ttt::NONE
            && r2t.r2t_sn == task.r2t_sn;
        if !legal {
            return Err(broken(format!("bad R2T {r2t:?}")));
        }
        task.r2t_sn += 1;
        self.send_data(r2t.itt, &task, r2t.ttt, start..end, wire);
        self.sent.insert(r2t.itt, task);
        Ok(())
    }

    /// Answers the target's ping (R225).
    fn nop_in(&mut self, nop: &NopIn, wire: &mut Wire) {
        self.window(nop.exp_cmd_sn, nop.max_cmd_sn);
        if nop.ttt != Ttt::NONE {
            wire.push(&Pdu::NopOut(NopOut {
                immediate: true,
                lun: nop.lun,
                ttt: nop.ttt,
                cmd_sn: self.cmd_sn,
                exp_stat_sn: self.exp_stat_sn,
                ..NopOut::default()
            }));
        }
    }
}

fn signed(overflow: bool, underflow: bool, count: u32) -> i64 {
    match (overflow, underflow) {
        (true, _) => i64::from(count),
        (_, true) => -i64::from(count),
        _ => 0,
    }
}
