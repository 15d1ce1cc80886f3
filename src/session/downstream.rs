//! What the initiator sends, over any of its connections: commands and their data, pings, text, logout, and what it must not
//! send.

use super::Session;
use super::api::{LineId, Notice};
use super::attention::REPORTED_LUNS_CHANGED;
use super::data::DataFault;
use super::order::Footprint;
use super::select::place;
use super::sequence::Admission;
use super::tasks::{Task, TaskKey};
use super::upstream::take_tag;
use crate::iscsi::pdu::BHS_LEN;
use crate::iscsi::text::{KeyList, TextCollector, parse_number};
use crate::iscsi::{
    CmdSn, DataOut, Itt, LogoutRequest, LogoutResponse, NopIn, NopOut, Payload, Pdu, R2t, Reject,
    ScsiCommand, ScsiResponse, TextRequest, TextResponse, Ttt, reject,
};
use crate::scsi::sense::{key, status};
use crate::scsi::{Class, Sense};
use std::collections::BTreeSet;
use std::time::Instant;

/// Immediate commands that may be open at a time; more are rejected (R104).
const MOST_IMMEDIATE: usize = 32;

impl Session {
    /// A PDU from the initiator.
    pub(super) fn take_downstream(&mut self, line: LineId, pdu: Pdu, now: Instant) {
        self.take_acknowledgements(line, &pdu, now);
        if let Some(cmd_sn) = numbered(&pdu) {
            match self.front.admit(line, cmd_sn, &pdu) {
                Admission::Now => {}
                Admission::Kept | Admission::Ignored => return,
            }
        }
        let mut next = Some((line, pdu));
        while let Some((line, pdu)) = next {
            let itt = pdu.itt();
            self.act(line, pdu, now);
            self.take_early_data(line, itt, now);
            self.act_on_early_functions(now);
            // What follows a logout is not acted on (R211).
            next = if self.finishing.is_none() { self.front.next_early() } else { None };
        }
        self.act_on_early_functions(now);
    }

    fn act(&mut self, line: LineId, pdu: Pdu, now: Instant) {
        if !matches!(pdu, Pdu::ScsiCommand(_)) {
            // What takes a number without becoming a command gives its place back at once.
            self.open_window();
        }
        match pdu {
            Pdu::ScsiCommand(command) => self.command(line, command, now),
            Pdu::DataOut(data) => {
                self.data_out(line, &data, now);
                self.function_data_came(now);
            }
            Pdu::TaskManagementRequest(request) => self.task_management(line, &request, now),
            Pdu::NopOut(nop) => self.nop_out(line, nop, now),
            Pdu::TextRequest(request) => self.text(line, &request),
            Pdu::LogoutRequest(request) => self.logout(line, &request, now),
            Pdu::SnackRequest(request) => self.snack(line, &request),
            Pdu::LoginRequest(_) => {
                // No second login on a connection (R15).
                self.reject(line, &pdu, reject::PROTOCOL_ERROR);
                self.downstream_broken("login request in full feature phase", now);
            }
            Pdu::NopIn(_)
            | Pdu::ScsiResponse(_)
            | Pdu::TaskManagementResponse(_)
            | Pdu::LoginResponse(_)
            | Pdu::TextResponse(_)
            | Pdu::DataIn(_)
            | Pdu::LogoutResponse(_)
            | Pdu::R2t(_)
            | Pdu::AsyncMessage(_)
            | Pdu::Reject(_) => self.reject(line, &pdu, reject::PROTOCOL_ERROR),
        }
    }

    /// The initiator broke a rule after which its numbers can no longer be trusted: all its connections are closed (R180).
    pub(super) fn downstream_broken(&mut self, what: &str, now: Instant) {
        self.note(Notice::DownstreamProtocol(what.into()));
        self.begin_finish(now);
    }

    /// The initiator does not send what it was asked for (R123).
    pub(super) fn note_missing_data(&mut self) {
        let what = "write data did not come, however often they were asked for";
        self.note(Notice::DownstreamProtocol(what.into()));
    }

    /// Rejects a PDU with its header. Its number stays open: the initiator sends another request under it, or aborts it.
    pub(super) fn reject(&mut self, line: LineId, pdu: &Pdu, reason: u8) {
        if let Some(cmd_sn) = numbered(pdu) {
            self.front.refuse(cmd_sn);
        }
        let (header, _) = pdu.encode();
        self.reject_header(line, &header, reason);
    }

    /// Rejects a PDU by its header as received.
    pub(super) fn reject_header(&mut self, line: LineId, header: &[u8; BHS_LEN], reason: u8) {
        let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.stamp(line);
        let data = Payload::from(header.to_vec());
        let reject = Reject { reason, stat_sn, exp_cmd_sn, max_cmd_sn, data_sn: 0, data };
        self.tell(line, Pdu::Reject(reject));
        if reason != reject::DATA_DIGEST {
            self.note(Notice::DownstreamProtocol(format!("rejected a PDU, reason {reason:#04x}")));
        }
    }

    fn command(&mut self, line: LineId, command: ScsiCommand, now: Instant) {
        if let Some(reason) = self.refusal(&command) {
            self.reject(line, &Pdu::ScsiCommand(command), reason);
            return;
        }
        self.unit_seen(command.lun, now);
        self.seq += 1;
        let mut task = Task::from_initiator(line, &command, self.seq, now);
        let announced = command.write && !command.final_;
        self.held += command.data.len() as u64;
        task.inbound.begin(command.data, announced);
        self.suit(&mut task);
        if let Some(replay) = self.replay(line) {
            replay.begin(command.itt);
        }
        let key = self.tasks.insert(task);
        if announced {
            self.await_data(key);
        }
        self.open_window();
        self.enter_order(key);
        if broken!(self.rules, FlushElided) && self.tasks.get(key).is_some_and(Task::flushes_nothing) {
            self.respond(key, ScsiResponse::default(), now);
            return;
        }
        self.solicit(key);
        self.queue_if_ready(key);
    }

    /// Why a command is not taken, if it is not.
    fn refusal(&self, command: &ScsiCommand) -> Option<u8> {
        if command.itt == Itt::NONE || self.tasks.find(command.itt).is_some() {
            // R107: a tag names one task at a time.
            return Some(reject::TASK_IN_PROGRESS);
        }
        let flood = command.immediate && self.tasks.immediate() >= MOST_IMMEDIATE;
        if flood || self.tasks.len() >= super::MOST_TASKS {
            return Some(reject::IMMEDIATE_REJECTED);
        }
        (!self.sound(command)).then_some(reject::PROTOCOL_ERROR)
    }

    /// Immediate data and flags within what was negotiated (R121, R122, R131).
    fn sound(&self, command: &ScsiCommand) -> bool {
        let session = &self.plan.downstream.session;
        let data = u32::try_from(command.data.len()).unwrap_or(u32::MAX);
        let within = data <= command.expected_length && data <= session.first_burst_length;
        let allowed = data == 0 || (session.immediate_data && command.write && within);
        let announced = !command.final_;
        allowed && !(announced && (session.initial_r2t || !command.write))
    }

    fn enter_order(&mut self, key: TaskKey) {
        let Some(task) = self.tasks.get(key) else { return };
        let class = if task.moves_nothing() { Class::Stateless } else { task.command.class.clone() };
        let footprint = Footprint { lun: task.lun, class, attribute: task.attribute };
        let verdict = self.order.arrive(key, footprint);
        if let Some(task) = self.tasks.get_mut(key) {
            task.blockers = verdict.blockers;
            task.held = (verdict.blockers > 0).then_some((verdict.by, task.arrived));
            if verdict.follows {
                task.follow();
            }
        }
    }

    pub(super) fn data_out(&mut self, line: LineId, pdu: &DataOut, now: Instant) {
        let Some(key) = self.tasks.find(pdu.itt) else {
            if !self.follows_early(line, pdu) && !self.tasks.ended_lately(line, pdu.itt) {
                self.reject(line, &Pdu::DataOut(pdu.clone()), reject::INVALID_FIELD);
            }
            return;
        };
        let first_burst = self.plan.downstream.session.first_burst_length;
        let recovers = self.recovers();
        let Some(task) = self.tasks.get_mut(key) else { return };
        if task.line() != Some(line) {
            // Data come over the connection of their command (R118). A command that had the tag before may have left some behind
            // on another, which that with the tag now has overtaken.
            if !self.tasks.ended_lately(line, pdu.itt) {
                self.reject(line, &Pdu::DataOut(pdu.clone()), reject::PROTOCOL_ERROR);
            }
            return;
        }
        let taken = match task.inbound.accept(pdu, task.expected, first_burst, recovers) {
            Ok(taken) => taken,
            Err(DataFault::UnknownTransfer) => {
                self.reject(line, &Pdu::DataOut(pdu.clone()), reject::INVALID_FIELD);
                return;
            }
            Err(DataFault::OutOfSequence) => {
                self.reject(line, &Pdu::DataOut(pdu.clone()), reject::PROTOCOL_ERROR);
                self.downstream_broken("Data-Out out of sequence", now);
                return;
            }
        };
        if pdu.final_ {
            self.r2t_answered(line, pdu.itt, pdu.ttt);
        }
        self.data_came(key, taken, now);
        self.sequence_went_on(key, taken, now);
    }

    /// A Data-Out PDU came, of which so many bytes were taken.
    pub(super) fn sequence_went_on(&mut self, key: TaskKey, taken: u32, now: Instant) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let (length, due) = (u64::from(taken), task.data_due());
        self.held += length;
        if task.reserved {
            self.promised = self.promised.saturating_sub(length);
        }
        let held = task.held_response.take_if(|_| !due);
        if let Some(response) = held {
            self.respond(key, *response, now);
            return;
        }
        self.solicit(key);
        if self.tasks.get(key).is_some_and(|task| task.run.is_some()) {
            self.answer_r2ts(key);
        } else {
            self.queue_if_ready(key);
        }
    }

    /// Asks the initiator for write data, ahead of the target's asking, as far as the memory budget goes.
    pub(super) fn solicit(&mut self, key: TaskKey) {
        let session = &self.plan.downstream.session;
        let (burst, outstanding) = (session.max_burst_length.max(512), session.max_outstanding_r2t.max(1));
        loop {
            let Some(task) = self.tasks.get(key) else { return };
            let Some(line) = task.line() else { return };
            if !task.write || task.held_response.is_some() || !self.reserve(key) {
                return;
            }
            let Some(task) = self.tasks.get_mut(key) else { return };
            let wanted = task.inbound.want(task.expected, burst, usize::from(outstanding));
            let Some((offset, length)) = wanted else { return };
            let ttt = take_tag(&mut self.next_ttt);
            task.inbound.ask(ttt, offset, length);
            let r2t_sn = task.outbound.data_sn;
            task.outbound.data_sn += 1;
            let (itt, lun) = (task.initiator_tag(), task.lun);
            let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.peek(line);
            let r2t = R2t {
                lun,
                itt,
                ttt,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                r2t_sn,
                buffer_offset: offset,
                desired_length: length,
            };
            self.tell(line, Pdu::R2t(r2t));
            self.await_data(key);
        }
    }

    /// Books memory for all that is still to come of a write's data; returns whether it has it. Booked whole, a write
    /// that has begun at a target always gets its data, whatever waits for it there.
    fn reserve(&mut self, key: TaskKey) -> bool {
        let Some(task) = self.tasks.get(key) else { return false };
        if task.reserved {
            return true;
        }
        let needed = u64::from(task.expected - task.inbound.received());
        let fits = self.held + self.promised + needed <= self.plan.memory_budget
            || broken!(self.rules, BudgetIgnored);
        if !fits && !self.may_overdraw(key) {
            if !self.unsolicited.contains(&key) {
                self.unsolicited.push_back(key);
            }
            return false;
        }
        if !fits {
            self.overdrawn = Some(key);
        }
        self.promised += needed;
        if let Some(task) = self.tasks.get_mut(key) {
            task.reserved = true;
        }
        true
    }

    /// One write at a time may go beyond the budget: the next of those that wait for nothing else, so that it completes
    /// and frees memory.
    fn may_overdraw(&self, key: TaskKey) -> bool {
        let starving = self.tasks.iter().filter(|(_, t)| t.is_starving() && t.blockers == 0);
        let next = starving.min_by_key(|(_, t)| place(t)).map(|(next, _)| next);
        self.overdrawn.is_none() && next == Some(key) && !broken!(self.rules, BudgetStarvesTheOldest)
    }

    /// Memory was freed, or a write waits for nothing else now: goes on asking for data where the budget had stopped it.
    pub(super) fn solicit_more(&mut self) {
        for _ in 0..self.unsolicited.len() {
            if let Some(key) = self.unsolicited.pop_front() {
                self.solicit(key);
                self.queue_if_ready(key);
            }
        }
    }

    /// Admits as many commands as there are places and memory for their unsolicited data.
    pub(super) fn open_window(&mut self) {
        let first_burst = u64::from(self.plan.downstream.session.first_burst_length.max(1));
        let memory = self.plan.memory_budget.saturating_sub(self.held + self.promised) / first_burst;
        let places = self.plan.max_window.saturating_sub(self.tasks.commands());
        let idle = self.tasks.commands() == 0;
        let free = places.min(u32::try_from(memory).unwrap_or(u32::MAX)).max(u32::from(idle));
        self.front.open(free);
    }

    /// As much of what cannot be sent in pieces as the initiator takes in one segment (R127).
    pub(super) fn cut_for_initiator(&self, line: LineId, data: &Payload) -> Payload {
        data.slice(0, self.lines.get(line).map_or(0, |line| line.segment as usize))
    }

    fn nop_out(&mut self, line: LineId, nop: NopOut, now: Instant) {
        if nop.itt == Itt::NONE {
            // Without an answer, nothing would tell of the number that it took (R98, R226).
            if nop.immediate {
                self.line_echoed(line, nop.ttt, now);
            } else {
                self.reject(line, &Pdu::NopOut(nop), reject::INVALID_FIELD);
            }
            return;
        }
        let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.stamp(line);
        let data = self.cut_for_initiator(line, &nop.data);
        let answer =
            NopIn { lun: nop.lun, itt: nop.itt, ttt: Ttt::NONE, stat_sn, exp_cmd_sn, max_cmd_sn, data };
        self.tell(line, Pdu::NopIn(answer));
    }

    fn text(&mut self, id: LineId, request: &TextRequest) {
        let Some(line) = self.lines.get_mut(id) else { return };
        if request.ttt == Ttt::NONE {
            // A request that continues nothing starts anew (R61).
            line.text = TextCollector::new();
            line.text_rest.clear();
        } else if !line.text_rest.is_empty() {
            self.text_response(id, request);
            return;
        }
        match line.text.push(&request.data, request.continue_) {
            Ok(None) => {}
            Ok(Some(keys)) if !has_repetition(&keys) => {
                let answer = self.text_answer(id, &keys).to_bytes();
                if let Some(line) = self.lines.get_mut(id) {
                    line.text_rest = answer;
                }
            }
            // Garbage, or a key twice (R63).
            Ok(Some(_)) | Err(_) => {
                self.reject(id, &Pdu::TextRequest(request.clone()), reject::PROTOCOL_ERROR);
                return;
            }
        }
        self.text_response(id, request);
    }

    /// In a normal session: SendTargets for this target (R232), and how long segments for the initiator may be from now
    /// on (R69); everything else stays as agreed at login.
    fn text_answer(&mut self, line: LineId, keys: &KeyList) -> KeyList {
        let mut answer = KeyList::new();
        for (key, value) in keys.iter() {
            if key == "MaxRecvDataSegmentLength"
                && let Some(length) = segment_length(value)
            {
                if let Some(line) = self.lines.get_mut(line) {
                    line.segment = length;
                }
            } else if key != "SendTargets" {
                let known = crate::login::keys::Key::named(key).is_some();
                answer.push(key, if known { "Reject" } else { "NotUnderstood" });
            } else if value.is_empty() || value == self.plan.downstream.target_name {
                for (key, value) in self.plan.send_targets.iter() {
                    answer.push(key, value);
                }
            } else {
                answer.push(key, "Reject");
            }
        }
        answer
    }

    /// As much of the answer as the initiator takes at once (R62); it asks for the rest (R237).
    fn text_response(&mut self, id: LineId, request: &TextRequest) {
        let Some(line) = self.lines.get_mut(id) else { return };
        let rest = line.text_rest.split_off(line.text_rest.len().min(line.segment as usize));
        let data = Payload::from(std::mem::replace(&mut line.text_rest, rest));
        let continue_ = !line.text_rest.is_empty();
        let final_ = request.final_ && !continue_;
        let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.stamp(id);
        let response = TextResponse {
            final_,
            continue_,
            lun: request.lun,
            itt: request.itt,
            ttt: if final_ { Ttt::NONE } else { Ttt(1) },
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            data,
        };
        self.tell(id, Pdu::TextResponse(response));
    }

    fn logout(&mut self, line: LineId, request: &LogoutRequest, now: Instant) {
        let response = match request.reason {
            0 => 0,
            1 if self.knows_line(request.cid) => 0,
            1 => 1,
            2 => 2,
            _ => {
                self.reject(line, &Pdu::LogoutRequest(request.clone()), reject::INVALID_FIELD);
                return;
            }
        };
        let closes = (request.reason, response) == (1, 0);
        if closes {
            self.log_out_other(line, request.cid, now);
        }
        let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.stamp(line);
        let answer = LogoutResponse {
            response,
            itt: request.itt,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            time2wait: 0,
            time2retain: 0,
        };
        self.tell(line, Pdu::LogoutResponse(answer));
        if closes {
            self.log_out_own(line, request.cid, now);
        } else if response == 0 {
            self.begin_finish(now);
        }
    }
}

fn has_repetition(keys: &KeyList) -> bool {
    let mut seen = BTreeSet::new();
    !keys.iter().all(|(key, _)| seen.insert(key))
}

/// A MaxRecvDataSegmentLength as it may be declared.
fn segment_length(value: &str) -> Option<u32> {
    let length = u32::try_from(parse_number(value)?).ok()?;
    (512..1 << 24).contains(&length).then_some(length)
}

/// The CmdSN of a PDU that takes a place in the order of commands; none for immediate PDUs and data.
fn numbered(pdu: &Pdu) -> Option<CmdSn> {
    let (immediate, cmd_sn) = match pdu {
        Pdu::ScsiCommand(p) => (p.immediate, p.cmd_sn),
        Pdu::TaskManagementRequest(p) => (p.immediate, p.cmd_sn),
        Pdu::NopOut(p) => (p.immediate, p.cmd_sn),
        Pdu::TextRequest(p) => (p.immediate, p.cmd_sn),
        Pdu::LogoutRequest(p) => (p.immediate, p.cmd_sn),
        Pdu::LoginRequest(_)
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
        | Pdu::Reject(_) => return None,
    };
    (!immediate).then_some(cmd_sn)
}

impl ScsiResponse {
    /// Whether it reports a unit attention.
    pub(super) fn is_attention(&self) -> bool {
        self.sense().and_then(|s| Sense::parse(&s)).is_some_and(Sense::is_unit_attention)
    }

    /// Whether it reports that the LUNs of the nexus have changed.
    pub(super) fn says_luns_changed(&self) -> bool {
        let attention = |s: Sense| s.is_unit_attention() && (s.asc, s.ascq) == REPORTED_LUNS_CHANGED;
        self.sense().and_then(|s| Sense::parse(&s)).is_some_and(attention)
    }

    /// Whether it says that there is no such unit.
    pub(super) fn says_no_unit(&self) -> bool {
        let missing = |s: Sense| (s.key, s.asc) == (key::ILLEGAL_REQUEST, 0x25);
        self.sense().and_then(|s| Sense::parse(&s)).is_some_and(missing)
    }

    /// CHECK CONDITION with this sense data, for an answer of Braid's own.
    pub(super) fn check_condition(sense: &[u8]) -> Self {
        Self { status: status::CHECK_CONDITION, data: Self::sense_data(sense), ..Self::default() }
    }
}
