//! The initiator: what it sends, right and wrong, and what it must be told.

use super::ops::{Command, DataFault, Number, Op, Raw, Tag};
use super::world::counts;
use braid::iscsi::{
    Cdb, Cid, CmdSn, DataIn, DataOut, Itt, LogoutRequest, Lun, NopOut, Payload, Pdu, R2t, Receiver,
    ScsiCommand, StatSn, TaskAttribute, TaskManagementRequest, TextRequest, Ttt, reject,
};
use braid::login::Negotiated;
use braid::session::{Event, SessionPlan};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Immediate commands that a polite initiator has open at most.
const MOST_IMMEDIATE: usize = 16;

/// Of writes beyond this length, in bytes, no end is waited for.
const MOST_SENT: u32 = 1 << 16;

/// A command that was sent.
#[derive(Debug)]
struct Task {
    command: ScsiCommand,
    /// Sent under a tag that was never used before: what is told of it can be judged.
    clean: bool,
    ended: bool,
    /// Bytes that it may bring, with those of earlier ones of its tag.
    moves: u64,
    /// A task management function may have ended it.
    aborted: bool,
    /// Next DataSN or R2TSN, and next byte of a read.
    sn: u32,
    offset: u32,
    /// Next unsolicited byte, and its DataSN.
    unasked: u32,
    unasked_sn: u32,
    /// Unsolicited data still to be sent.
    announced: bool,
    /// First byte that no R2T has asked for.
    asked_to: u32,
}

/// An R2T that is not answered.
#[derive(Clone, Copy)]
struct Asked {
    itt: Itt,
    ttt: Ttt,
    lun: Lun,
    next: u32,
    end: u32,
    data_sn: u32,
}

pub(super) struct Initiator {
    agreed: Negotiated,
    max_window: u32,
    cmd_sn: CmdSn,
    skipped: VecDeque<CmdSn>,
    exp_cmd_sn: CmdSn,
    max_cmd_sn: CmdSn,
    stat_sn: StatSn,
    next_itt: u32,
    tasks: BTreeMap<u32, Task>,
    asked: Vec<Asked>,
    /// Task management functions not answered: they act on commands sent after them too, if holes keep them waiting.
    functions: BTreeSet<u32>,
    /// It has kept to the rules so far.
    fair: bool,
    /// At error recovery level 1: what it was told, by StatSN, and by tag and DataSN or R2TSN.
    recovers: bool,
    said: BTreeMap<u32, [u8; 48]>,
    said_of: BTreeMap<(u32, u32), [u8; 48]>,
    /// Tags of data that it was asked to acknowledge.
    asks: Vec<Ttt>,
    /// What may be kept of read data.
    memory_budget: u64,
    /// What was met of recovery, to see that the corpus does.
    pub(super) met: BTreeSet<&'static str>,
}

impl Initiator {
    pub(super) fn new(plan: &SessionPlan) -> Self {
        let agreed = plan.downstream.clone();
        Self {
            max_window: plan.max_window,
            cmd_sn: agreed.cmd_sn,
            skipped: VecDeque::new(),
            exp_cmd_sn: agreed.cmd_sn,
            max_cmd_sn: agreed.max_cmd_sn,
            stat_sn: agreed.stat_sn,
            next_itt: 0,
            tasks: BTreeMap::new(),
            asked: Vec::new(),
            functions: BTreeSet::new(),
            fair: true,
            recovers: agreed.session.error_recovery_level > 0,
            said: BTreeMap::new(),
            said_of: BTreeMap::new(),
            asks: Vec::new(),
            memory_budget: plan.memory_budget,
            met: BTreeSet::new(),
            agreed,
        }
    }

    /// Data that the engine may hold: all that the writes not answered move, and what there is room for to be sent again.
    pub(super) fn most_memory(&self) -> u64 {
        let open = self.tasks.values().filter(|task| !task.ended || !task.clean);
        let kept = if self.recovers { self.memory_budget } else { 0 };
        open.map(|task| task.moves).sum::<u64>() + kept
    }

    /// What it does next, if it can.
    pub(super) fn act(&mut self, op: &Op<'_>) -> Option<Event> {
        let pdu = match *op {
            Op::Command(made) => Pdu::ScsiCommand(self.command(made)?),
            Op::Data { which, part, fault } => self.data(which, part, fault)?,
            Op::Unsolicited { which, units, last } => self.unsolicited(which, units, last)?,
            Op::Manage { function, which, lun, immediate, number } => {
                let cmd_sn = self.number(number, immediate)?;
                self.manage(function, which, lun, immediate, cmd_sn)
            }
            Op::Ping { tagged, immediate, length } => {
                let cmd_sn = self.number(Number::Next, immediate)?;
                let itt = if tagged || !immediate { self.new_tag() } else { Itt::NONE };
                let data = Payload::from(vec![7; usize::from(length) * 16]);
                Pdu::NopOut(NopOut { immediate, itt, cmd_sn, data, ..NopOut::default() })
            }
            Op::Text { text, follow, more, last } => {
                let cmd_sn = self.number(Number::Next, false)?;
                let ttt = if follow { Ttt(1) } else { Ttt::NONE };
                let (itt, final_) = (self.new_tag(), last && !more);
                if text.windows(7).any(|part| part == b"MaxRecv") {
                    self.agreed.connection.max_send_data_segment = 1 << 24;
                }
                let data = Payload::from(text.to_vec());
                Pdu::TextRequest(TextRequest {
                    final_,
                    continue_: more,
                    itt,
                    ttt,
                    cmd_sn,
                    data,
                    ..TextRequest::default()
                })
            }
            Op::Logout { reason, cid, sure } => {
                let harmless = sure % 16 != 1;
                let reason = if harmless { 2 } else { reason % 3 };
                let cmd_sn = self.number(Number::Next, false)?;
                let (itt, cid) = (self.new_tag(), Cid(u16::from(cid % 8)));
                Pdu::LogoutRequest(LogoutRequest { reason, itt, cid, cmd_sn, ..LogoutRequest::default() })
            }
            Op::FromInitiator(raw) => self.anything(&raw)?,
            Op::Rejectable { header: bytes, reason }
                if self.agreed.connection.data_digest && reason & 0xc0 != 0xc0 =>
            {
                return self.lose(bytes, reason & 0x80 != 0);
            }
            Op::Rejectable { header: bytes, reason } => {
                self.fair = false;
                let mut header = [0; 48];
                header[..8].copy_from_slice(&bytes);
                let data_out = bytes[0] & 0x3f == 5;
                let itt = self.some_task(bytes[2]).filter(|_| data_out).unwrap_or_default();
                header[16..20].copy_from_slice(&itt.0.to_be_bytes());
                return Some(Event::DownstreamRejectable { line: SessionPlan::FIRST_LINE, header, reason });
            }
            _ => return None,
        };
        Some(Event::Downstream(SessionPlan::FIRST_LINE, pdu))
    }

    fn new_tag(&mut self) -> Itt {
        self.next_itt += 1;
        Itt(self.next_itt)
    }

    /// A CmdSN; none while the window is closed.
    fn number(&mut self, number: Number, immediate: bool) -> Option<CmdSn> {
        if let Number::Any(distance) = number {
            self.fair = false;
            return Some(CmdSn(self.cmd_sn.0.wrapping_add_signed(distance.into())));
        }
        if immediate {
            return Some(self.cmd_sn);
        }
        if number == Number::Fill && !self.skipped.is_empty() {
            return self.skipped.pop_front();
        }
        if number == Number::Skip && self.cmd_sn.is_before(self.max_cmd_sn) {
            self.skipped.push_back(self.cmd_sn);
            self.cmd_sn = self.cmd_sn.next();
        }
        if self.cmd_sn.is_after(self.max_cmd_sn) {
            return None;
        }
        let cmd_sn = self.cmd_sn;
        self.cmd_sn = cmd_sn.next();
        Some(cmd_sn)
    }

    fn command(&mut self, made: Command) -> Option<ScsiCommand> {
        let cmd_sn = self.number(made.number, made.immediate)?;
        let itt = match made.tag {
            Tag::New | Tag::NewToo => self.new_tag(),
            Tag::Used(which) => self.some_task(which).unwrap_or(Itt(1)),
            Tag::None => Itt::NONE,
        };
        let (cdb, read, write, bytes) = cdb(made);
        let session = &self.agreed.session;
        let expected_length = bytes.saturating_add_signed(i32::from(made.skew.clamp(-1, 1)) * 512);
        let data = (u32::from(made.data) * 128).min(self.agreed.connection.max_recv_data_segment);
        let flood =
            made.immediate && self.open().filter(|(_, t)| t.command.immediate).count() >= MOST_IMMEDIATE;
        let unasked = session.first_burst_length.min(expected_length);
        let within = data == 0 || (write && session.immediate_data && data <= unasked);
        let announced = made.announced && (!session.initial_r2t && write && data < unasked);
        let final_ = !(if within { announced } else { made.announced });
        self.fair &= within && !flood && matches!(made.tag, Tag::New | Tag::NewToo);
        let command = ScsiCommand {
            immediate: made.immediate,
            final_,
            read,
            write,
            attribute: [
                TaskAttribute::Simple,
                TaskAttribute::Simple,
                TaskAttribute::Ordered,
                TaskAttribute::HeadOfQueue,
                TaskAttribute::Untagged,
                TaskAttribute::Aca,
            ][usize::from(made.attribute % 6)],
            lun: Lun::from_number(u16::from(made.lun % 3)),
            itt,
            expected_length,
            cmd_sn,
            exp_stat_sn: self.stat_sn,
            cdb: Cdb(cdb.into_iter().collect()),
            bidi_read_length: (read && write).then_some(expected_length),
            data: Payload::from(vec![made.data; data as usize]),
        };
        self.sent(&command);
        Some(command)
    }

    /// Books a command that goes out.
    fn sent(&mut self, command: &ScsiCommand) {
        let earlier = self.tasks.get(&command.itt.0);
        let clean = earlier.is_none();
        let moves = earlier.map_or(0, |task| task.moves) + u64::from(command.expected_length);
        let data = u32::try_from(command.data.len()).unwrap();
        let task = Task {
            clean,
            moves,
            ended: false,
            aborted: !self.functions.is_empty(),
            sn: 0,
            offset: 0,
            unasked: data,
            unasked_sn: 0,
            announced: !command.final_,
            asked_to: 0,
            command: command.clone(),
        };
        self.tasks.insert(command.itt.0, task);
    }

    fn open(&self) -> impl Iterator<Item = (u32, &Task)> {
        self.tasks.iter().filter(|(_, task)| !task.ended).map(|(itt, task)| (*itt, task))
    }

    fn some_task(&self, which: u8) -> Option<Itt> {
        let count = self.open().count().max(1);
        self.open().nth(usize::from(which) % count).map(|(itt, _)| Itt(itt))
    }

    fn manage(&mut self, function: u8, which: u8, lun: u8, immediate: bool, cmd_sn: CmdSn) -> Pdu {
        let referenced_itt = self.some_task(which).unwrap_or_else(|| Itt(which.into()));
        let task = self.tasks.get(&referenced_itt.0);
        let ref_cmd_sn = task.map_or(cmd_sn, |task| task.command.cmd_sn);
        let lun = task.map_or_else(|| Lun::from_number(u16::from(lun % 3)), |task| task.command.lun);
        for task in self.tasks.values_mut() {
            task.aborted = true;
        }
        let function = function % 14;
        let itt = self.new_tag();
        self.functions.insert(itt.0);
        Pdu::TaskManagementRequest(TaskManagementRequest {
            immediate,
            function,
            lun,
            itt,
            referenced_itt,
            cmd_sn,
            exp_stat_sn: self.stat_sn,
            ref_cmd_sn,
            exp_data_sn: 0,
        })
    }

    fn data(&mut self, which: u8, part: u8, fault: DataFault) -> Option<Pdu> {
        let at = usize::from(which) % self.asked.len().max(1);
        let asked = self.asked.get_mut(at)?;
        let most = self.agreed.connection.max_recv_data_segment.min(asked.end - asked.next);
        let length = if part == 0 { most } else { most.min(u32::from(part) * 64) };
        let mut pdu = asked.pdu(length);
        asked.next += length;
        asked.data_sn += 1;
        match fault {
            DataFault::Nothing | DataFault::NothingToo => {}
            DataFault::Offset => pdu.buffer_offset = pdu.buffer_offset.wrapping_add(512),
            DataFault::Number => pdu.data_sn += 1,
            DataFault::Tag => pdu.ttt = Ttt(pdu.ttt.0 ^ 1),
            DataFault::Final => pdu.final_ = !pdu.final_,
            DataFault::Empty => pdu.data = Payload::new(),
        }
        // R2Ts of one task are answered in order.
        let first = self.asked.iter().position(|other| other.itt == pdu.itt) == Some(at);
        self.fair &= first && matches!(fault, DataFault::Nothing | DataFault::NothingToo);
        if self.asked[at].next == self.asked[at].end {
            self.asked.remove(at);
        }
        Some(Pdu::DataOut(pdu))
    }

    /// Data that are due are lost on their way: to their digest, or else without a trace.
    fn lose(&mut self, bytes: [u8; 8], unseen: bool) -> Option<Event> {
        let [_, kind, which, part, last, ..] = bytes;
        let pdu = match kind % 3 {
            0 => self.unsolicited(which, part, last % 2 == 1)?,
            _ => self.data(which, part, DataFault::Nothing)?,
        };
        self.fair &= self.recovers;
        let (header, _) = pdu.encode();
        (!unseen).then_some(Event::DownstreamRejectable {
            line: SessionPlan::FIRST_LINE,
            header,
            reason: reject::DATA_DIGEST,
        })
    }

    fn unsolicited(&mut self, which: u8, units: u8, last: bool) -> Option<Pdu> {
        let itt = self.some_task(which)?;
        let first_burst = self.agreed.session.first_burst_length;
        let task = self.tasks.get_mut(&itt.0)?;
        let limit = first_burst.min(task.command.expected_length);
        let rest = limit.saturating_sub(task.unasked);
        let length = rest.min(u32::from(units) * 128).min(self.agreed.connection.max_recv_data_segment);
        self.fair &= task.announced && last == (length == rest);
        Some(task.unsolicited(length, last))
    }

    /// Any PDU that an initiator could have sent; that may have been anything.
    fn anything(&mut self, raw: &Raw<'_>) -> Option<Pdu> {
        let mut header = raw.header;
        let opcode = [0, 1, 2, 3, 4, 5, 6, 0x10][usize::from(header[0] & 7)];
        header[0] = opcode | (header[0] & 0x40);
        if opcode == 0x10 && self.recovers {
            self.put_snack_right(&mut header);
            if header[1] == 0x82 && header[20..24] != [0xff; 4] {
                self.met.insert("DataACK");
            }
        } else {
            self.fair = false;
        }
        if let Some(itt) = raw.tag.and_then(|which| self.some_task(which)) {
            header[16..20].copy_from_slice(&itt.0.to_be_bytes());
        }
        if raw.numbered {
            header[24..28].copy_from_slice(&self.cmd_sn.0.to_be_bytes());
            if opcode == 5 {
                let ttt = self.asked.first().map_or(Ttt::NONE, |asked| asked.ttt);
                header[20..24].copy_from_slice(&ttt.0.to_be_bytes());
            }
        }
        let data = Payload::from(vec![raw.data; usize::from(raw.data) * 16]);
        let pdu = Pdu::parse(Receiver::Target, &header, raw.ahs, data)
            .or_else(|_| Pdu::parse(Receiver::Target, &header, &[], Payload::new()))
            .ok()?;
        if let Pdu::ScsiCommand(command) = &pdu {
            self.sent(command);
        }
        let numbered = !matches!(opcode, 3 | 5 | 0x10) && header[0] & 0x40 == 0;
        if raw.numbered && numbered && !self.cmd_sn.is_after(self.max_cmd_sn) {
            self.cmd_sn = self.cmd_sn.next();
        }
        Some(pdu)
    }

    /// A SNACK asks for something that may be there.
    fn put_snack_right(&self, header: &mut [u8; 48]) {
        header[1] = 0x80 | (header[1] % 3);
        let ask =
            self.asks.get(usize::from(header[20]) % self.asks.len().max(1)).filter(|_| header[1] == 0x82);
        header[20..24].copy_from_slice(&ask.copied().unwrap_or(Ttt::NONE).0.to_be_bytes());
        let seen = self.stat_sn.0.wrapping_sub(u32::from(header[31] % 8));
        header[28..32].copy_from_slice(&seen.to_be_bytes());
        // Half of the time from the beginning, or to the end.
        let few = |byte: u8, most: u8| if byte < 128 { 0 } else { u32::from(byte % most) };
        let (begin, run) = (few(header[43], 8), few(header[47], 4));
        let begin = if header[1] == 0x81 && begin > 0 { seen.wrapping_add(begin) } else { begin };
        header[40..44].copy_from_slice(&begin.to_be_bytes());
        header[44..48].copy_from_slice(&run.to_be_bytes());
    }

    /// What it owes: numbers left out, and data.
    pub(super) fn oblige(&mut self) -> Option<Event> {
        if let Some(cmd_sn) = self.skipped.pop_front() {
            let itt = self.new_tag();
            let ping = Pdu::NopOut(NopOut { itt, cmd_sn, ..NopOut::default() });
            return Some(Event::Downstream(SessionPlan::FIRST_LINE, ping));
        }
        if let Some(owed) = self.asked.iter().position(|asked| asked.end <= MOST_SENT) {
            let data = self.data(u8::try_from(owed).ok()?, 0, DataFault::Nothing)?;
            return Some(Event::Downstream(SessionPlan::FIRST_LINE, data));
        }
        let first_burst = self.agreed.session.first_burst_length;
        let task = self.tasks.values_mut().find(|task| task.announced && !task.ended)?;
        let rest = first_burst.min(task.command.expected_length).saturating_sub(task.unasked);
        let length = rest.min(self.agreed.connection.max_recv_data_segment);
        Some(Event::Downstream(SessionPlan::FIRST_LINE, task.unsolicited(length, length == rest)))
    }

    /// Whether every command has come to its end.
    pub(super) fn is_content(&self) -> bool {
        self.open().next().is_none()
    }

    /// A command that a fair initiator waits for.
    pub(super) fn waits_in_vain(&self) -> Option<String> {
        let waiting = self.open().find(|(_, task)| self.fair && task.clean && !task.aborted)?;
        Some(Pdu::ScsiCommand(waiting.1.command.clone()).to_string())
    }

    /// Judges what it is told, and keeps it in mind.
    pub(super) fn told(&mut self, pdu: Pdu) {
        let (stat_sn, exp, max) = pdu.target_numbers().unwrap();
        if self.recovers && self.knows(&pdu) {
            return;
        }
        if counts(&pdu) {
            assert_eq!(stat_sn, self.stat_sn, "R112: {pdu}");
            self.stat_sn = stat_sn.next();
        }
        assert!(!exp.is_before(self.exp_cmd_sn) && !max.is_before(self.max_cmd_sn), "R96: {pdu}");
        // One more place than the window has is that of a refused request, whose number stays open.
        assert!(!max.is_before(exp.minus(1)) && max.since(exp.minus(1)) <= self.max_window + 1, "R96: {pdu}");
        (self.exp_cmd_sn, self.max_cmd_sn) = (exp, max);
        assert!(
            pdu.data().len() <= self.agreed.connection.max_send_data_segment.max(48) as usize,
            "too long: {pdu}"
        );
        match &pdu {
            Pdu::ScsiResponse(response) => self.task(response.itt, &pdu).end(&pdu),
            Pdu::DataIn(data) => {
                self.task(data.itt, &pdu).data_in(data);
                if data.has_status {
                    self.task(data.itt, &pdu).end(&pdu);
                }
            }
            Pdu::R2t(r2t) => self.r2t(r2t, &pdu),
            Pdu::Reject(reject) => {
                let header = reject.data.contiguous();
                let field = |at: usize| u32::from_be_bytes(*header[at..].first_chunk().unwrap());
                if header[0] & 0x40 == 0 && CmdSn(field(24)) == exp && self.cmd_sn.is_after(exp) {
                    // What is rejected counts as not received (R105).
                    self.skipped.push_back(exp);
                }
                let itt = field(16);
                if let Some(task) = self.tasks.get_mut(&itt).filter(|_| header[0] & 0x3f == 1) {
                    assert!(!self.fair, "{pdu} for {:?}", task.command);
                    task.ended |= task.clean;
                }
            }
            Pdu::TaskManagementResponse(response) => {
                self.functions.remove(&response.itt.0);
            }
            Pdu::NopIn(_) | Pdu::TextResponse(_) | Pdu::LogoutResponse(_) | Pdu::AsyncMessage(_) => {}
            other => panic!("not for an initiator in full feature phase: {other}"),
        }
    }

    /// Whether it was told this before: then it is as it was (R171).
    fn knows(&mut self, pdu: &Pdu) -> bool {
        let (mut lasting, _) = pdu.encode();
        lasting[28..36].fill(0);
        let number = match pdu {
            Pdu::DataIn(data) => {
                self.asks.extend(data.acknowledge.then_some(data.ttt));
                Some(data.data_sn)
            }
            Pdu::R2t(r2t) => {
                lasting[24..28].fill(0);
                Some(r2t.r2t_sn)
            }
            _ => None,
        };
        let itt = pdu.itt().0;
        let before = match number {
            Some(number) if self.tasks.get(&itt).is_some_and(|task| task.clean) => {
                self.said_of.insert((itt, number), lasting)
            }
            None if counts(pdu) => {
                pdu.target_numbers().and_then(|(stat_sn, ..)| self.said.insert(stat_sn.0, lasting))
            }
            _ => None,
        };
        assert!(before.is_none_or(|before| before == lasting), "R171: {pdu}");
        if before.is_some() {
            self.met.insert(if number.is_some() { "data or R2T again" } else { "response again" });
        }
        before.is_some()
    }

    fn task(&mut self, itt: Itt, pdu: &Pdu) -> &mut Task {
        self.tasks.get_mut(&itt.0).unwrap_or_else(|| panic!("for a task that never was: {pdu}"))
    }

    fn r2t(&mut self, r2t: &R2t, pdu: &Pdu) {
        let session = self.agreed.session.clone();
        let task = self.task(r2t.itt, pdu);
        let end = r2t.buffer_offset + r2t.desired_length;
        if task.clean {
            assert!(!task.ended && task.command.write, "{pdu}");
            assert!(
                end <= task.command.expected_length && r2t.desired_length <= session.max_burst_length,
                "{pdu}"
            );
            assert_eq!(r2t.r2t_sn, task.sn, "{pdu}");
            task.sn += 1;
        }
        let clean = task.clean;
        let recovery = clean && r2t.buffer_offset < task.asked_to;
        task.asked_to = end;
        if recovery {
            self.met.insert("recovery R2T");
        }
        let open = self.asked.iter().filter(|asked| asked.itt == r2t.itt).count();
        // Where an R2T was answered wrongly, nobody knows how many are open; and what nobody answers is asked again.
        assert!(
            !clean || !self.fair || self.recovers || open < usize::from(session.max_outstanding_r2t),
            "{pdu}"
        );
        assert!(self.asked.iter().all(|asked| asked.ttt != r2t.ttt), "{pdu}");
        let R2t { itt, ttt, lun, buffer_offset: next, .. } = *r2t;
        self.asked.push(Asked { itt, ttt, lun, next, end, data_sn: 0 });
    }
}

impl Asked {
    fn pdu(&self, length: u32) -> DataOut {
        let Self { itt, ttt, lun, next, end, data_sn } = *self;
        DataOut {
            final_: next + length == end,
            lun,
            itt,
            ttt,
            data_sn,
            buffer_offset: next,
            data: Payload::from(vec![1; length as usize]),
            ..DataOut::default()
        }
    }
}

impl Task {
    fn unsolicited(&mut self, length: u32, last: bool) -> Pdu {
        let pdu = DataOut {
            final_: last,
            itt: self.command.itt,
            data_sn: self.unasked_sn,
            buffer_offset: self.unasked,
            data: Payload::from(vec![2; length as usize]),
            ..DataOut::default()
        };
        self.unasked += length;
        self.unasked_sn += 1;
        self.announced &= !last;
        Pdu::DataOut(pdu)
    }

    fn data_in(&mut self, data: &DataIn) {
        if !self.clean {
            return;
        }
        assert!(!self.ended && self.command.read, "R126: {data:?}");
        assert_eq!((data.data_sn, data.buffer_offset), (self.sn, self.offset), "R126: {data:?}");
        self.sn += 1;
        self.offset += u32::try_from(data.data.len()).unwrap();
        let most = self.command.bidi_read_length.unwrap_or(self.command.expected_length);
        assert!(self.offset <= most, "more than was asked for");
    }

    fn end(&mut self, pdu: &Pdu) {
        assert!(!self.clean || !self.ended, "answered twice: {pdu}");
        self.ended = true;
    }
}

/// A CDB, whether it reads and writes, and how many bytes.
fn cdb(made: Command) -> ([u8; 16], bool, bool, u32) {
    const KINDS: [(u8, u8, bool, bool); 24] = [
        (0x28, 0, true, false),
        (0x2a, 0, false, true),
        (0x28, 0, true, false),
        (0x2a, 0, false, true),
        (0x88, 0, true, false),
        (0x8a, 0, false, true),
        (0x00, 0, false, false),
        (0x35, 0, false, false),
        (0x89, 0, false, true),
        (0x5f, 1, false, true),
        (0x5e, 0, true, false),
        (0x12, 0, true, false),
        (0x25, 0, true, false),
        (0x42, 0, false, true),
        (0xa0, 0, true, false),
        (0x1a, 0, true, false),
        (0x1b, 0, false, false),
        (0xc1, 0, true, false),
        (0x16, 0, false, false),
        (0x17, 0, false, false),
        (0x53, 0, true, true),
        (0x41, 0, false, true),
        (0x03, 0, true, false),
        (0x2f, 0, false, false),
    ];
    let (opcode, byte_1, read, write) = KINDS[usize::from(made.kind) % KINDS.len()];
    let (lba, blocks) = (made.lba % 32, made.blocks % 24);
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (opcode, byte_1);
    let (lba_at, blocks_at) = match opcode {
        0x88..=0x8a => (9, 13),
        _ => (5, 8),
    };
    if !matches!(opcode, 0x00..=0x1b | 0xa0) {
        (cdb[lba_at], cdb[blocks_at]) = (lba, blocks);
    }
    let bytes = match opcode {
        _ if !read && !write => 0,
        0x89 => u32::from(blocks) * 1024,
        0x41 => 512,
        _ => u32::from(blocks) * 512,
    };
    (cdb, read, write, bytes)
}
