//! The model initiator: one connection, any mix of commands, task management at bad moments, and a good memory.
//!
//! It tells the oracle of every command in the order of CmdSN, builds data from stamps, checks what it gets byte by
//! byte, and judges every condition it is told: was there a reason for it that a single nexus would have had too (P3)?

mod kind;
mod reserving;

pub(crate) use reserving::Reserving;

use crate::claims::{Claim, What};
use crate::conditions::{Conditions, UnderWay};
use crate::coverage::Coverage;
use crate::oracle::{Effect, OpId, Oracle, Span, Stamp};
use crate::random::Random;
use crate::scenario::Scenario;
use braid::iscsi::{
    Cdb, Cid, CmdSn, DataIn, DataOut, Itt, LogoutRequest, Lun, NopOut, Payload, Pdu, R2t, ScsiCommand,
    ScsiResponse, StatSn, TaskAttribute, TaskManagementRequest, TaskManagementResponse, Ttt, tmf,
};
use braid::login::Negotiated;
use braid::scsi::Sense;
use braid::scsi::sense::status;
use braid::session::Barriers;
use bytes::Bytes;
use kind::Kind;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub(crate) const BLOCK: usize = 512;
/// What a target sends whose data do not count.
pub(crate) const ANYTHING: u8 = 0xa5;
/// Bytes of a data segment, both ways, and of bursts: small, so that every transfer comes in pieces.
pub(crate) const SEGMENT: usize = 1024;
pub(crate) const FIRST_BURST: u32 = 1536;
pub(crate) const MAX_BURST: u32 = 4096;

#[derive(Debug)]
struct Pending {
    op: OpId,
    unit: usize,
    kind: Kind,
    cmd_sn: CmdSn,
    data: Bytes,
    /// Bytes expected back.
    reads: usize,
    got: Vec<u8>,
    attribute: TaskAttribute,
    /// With NACA set.
    naca: bool,
    /// Somebody else's reset may have taken it away.
    excused: bool,
    issued: Instant,
}

#[derive(Debug)]
struct Function {
    code: u8,
    unit: usize,
    /// Tags, and which of their commands: tags are used again.
    concerned: Vec<(u32, OpId)>,
}

impl Function {
    /// Whether it ends what other nexuses have too, which they are told of.
    fn clears(&self) -> bool {
        matches!(self.code, tmf::CLEAR_TASK_SET | tmf::LOGICAL_UNIT_RESET) || self.is_for_all()
    }

    fn is_for_all(&self) -> bool {
        matches!(self.code, tmf::TARGET_WARM_RESET | tmf::TARGET_COLD_RESET)
    }
}

/// An answer is on its way for less than this.
const TRANSIT: Duration = Duration::from_secs(5);

/// What a command needs besides its place and kind.
struct Build {
    cdb: [u8; 16],
    data: Bytes,
    reads: usize,
}

/// The model initiator.
#[derive(Debug)]
pub(crate) struct Initiator {
    random: Random,
    /// For what is drawn in some scenarios only.
    extra: Random,
    scenario: Scenario,
    pub(crate) oracle: Oracle,
    pub(crate) conditions: Conditions,
    pub(crate) coverage: Coverage,
    /// What it wants sent.
    pub(crate) out: Vec<Pdu>,
    pub(crate) logged_in: bool,
    /// Commands issued so far.
    pub(crate) issued: u32,
    /// What waits for home was given up: since no path came back, or until answers had come when one did.
    given_up: Option<Option<Instant>>,
    /// Units that a read or write of this session went well on.
    seen: Vec<bool>,
    /// A logout was sent.
    pub(crate) logging_out: bool,
    /// A logout was answered.
    pub(crate) logged_out: bool,
    /// It asked for TARGET COLD RESET in this session, and was told that it is done.
    pub(crate) cold_reset: Option<bool>,
    /// Stamps of commands that must not run twice: whether they ended well, ended otherwise, or nobody knows.
    once: Vec<(Stamp, Once)>,
    pending: BTreeMap<u32, Pending>,
    functions: BTreeMap<u32, Function>,
    cmd_sn: CmdSn,
    max_cmd_sn: CmdSn,
    exp_stat_sn: StatSn,
    params: Params,
    next_tag: u32,
    next_stamp: Stamp,
    pings: Vec<u32>,
    slowest: Duration,
    /// What it was told of reservations.
    pub(crate) claims: Vec<Claim>,
    /// The key it believes to be registered with, of each unit.
    keys: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Once {
    Ran,
    DidNotRun,
    Unknown,
}

#[derive(Clone, Copy, Debug, Default)]
struct Params {
    initial_r2t: bool,
    immediate_data: bool,
}

fn lun(unit: usize) -> Lun {
    Lun::from_number(u16::try_from(unit).unwrap())
}

/// Blocks that hold a stamp.
pub(crate) fn stamped(stamp: Stamp, blocks: usize) -> Bytes {
    Bytes::from(stamp.to_be_bytes().repeat(BLOCK / 8 * blocks))
}

impl Initiator {
    pub(crate) fn new(scenario: &Scenario, random: Random) -> Self {
        Self {
            extra: random.branch(1),
            random,
            oracle: Oracle::new(
                scenario.units,
                scenario.blocks,
                scenario.order.barriers == Barriers::Native,
                scenario.heads.two,
            ),
            conditions: Conditions::new(scenario),
            coverage: Coverage::default(),
            scenario: scenario.clone(),
            out: Vec::new(),
            logged_in: false,
            issued: 0,
            given_up: None,
            seen: vec![false; scenario.units],
            logging_out: false,
            logged_out: false,
            cold_reset: None,
            once: Vec::new(),
            pending: BTreeMap::new(),
            functions: BTreeMap::new(),
            cmd_sn: CmdSn(0),
            max_cmd_sn: CmdSn(0),
            exp_stat_sn: StatSn(0),
            params: Params::default(),
            next_tag: 0,
            next_stamp: 0,
            pings: Vec::new(),
            slowest: Duration::ZERO,
            claims: Vec::new(),
            keys: vec![0; scenario.units],
        }
    }

    /// The first number of its next session.
    pub(crate) fn first_cmd_sn(&mut self) -> CmdSn {
        CmdSn(self.random.pick(&[1, 1000, u32::MAX - 10, u32::MAX - 60, 0x7fff_fff0]))
    }

    /// The login succeeded, as Braid sees it.
    pub(crate) fn begin(&mut self, agreed: &Negotiated) {
        self.logged_in = true;
        self.given_up = None;
        self.seen.fill(false);
        self.logging_out = false;
        self.logged_out = false;
        self.cold_reset = None;
        self.cmd_sn = agreed.cmd_sn;
        self.max_cmd_sn = agreed.max_cmd_sn;
        self.exp_stat_sn = agreed.stat_sn;
        self.params =
            Params { initial_r2t: agreed.session.initial_r2t, immediate_data: agreed.session.immediate_data };
        self.conditions.login();
    }

    /// The connection is gone: nobody will ever say what became of what was open.
    pub(crate) fn lost(&mut self) {
        self.logged_in = false;
        for itt in self.pending.keys().copied().collect::<Vec<_>>() {
            self.unknown(itt);
        }
        self.functions.clear();
        self.pings.clear();
        self.out.clear();
        self.conditions.session_lost();
    }

    /// Braid has given up what waits for home.
    pub(crate) fn home_stays_away(&mut self) {
        self.given_up = Some(None);
    }

    /// Whether it may have waited for home when that was given up.
    fn was_given_up(&self, pending: &Pending) -> bool {
        self.given_up.is_some_and(|end| end.is_none_or(|end| pending.issued <= end))
    }

    /// Whether commands may still be given up unheard.
    pub(crate) fn is_given_up(&self, now: Instant) -> bool {
        self.given_up.is_some_and(|end| end.is_none_or(|end| now <= end))
    }

    /// Home takes commands again; answers may be on their way.
    pub(crate) fn home_is_back(&mut self, now: Instant) {
        self.given_up = self.given_up.map(|_| Some(now + TRANSIT));
    }

    /// Braid lost a connection. A reset that was lost with it is done again.
    pub(crate) fn connection_lost(&mut self) {
        self.conditions.connection_lost();
        for function in self.functions.values() {
            match function.code {
                tmf::LOGICAL_UNIT_RESET => self.conditions.own_reset(Some(function.unit)),
                tmf::TARGET_WARM_RESET => self.conditions.own_reset(None),
                _ => {}
            }
        }
    }

    /// Whether it has used every unit in this session.
    pub(crate) fn has_seen_all(&self) -> bool {
        self.seen.iter().all(|seen| *seen)
    }

    /// What of its own is under way that changes a unit for others.
    pub(crate) fn under_way(&self, unit: usize) -> UnderWay {
        let clears = |f: &Function| f.clears() && (f.unit == unit || f.is_for_all());
        UnderWay {
            selects: self.pending.values().any(|p| p.unit == unit && p.kind == Kind::ModeSelect),
            clears: self.functions.values().any(clears),
        }
    }

    /// Commands that are not answered.
    pub(crate) fn open_commands(&self) -> usize {
        self.pending.len()
    }

    /// Whether nothing is open.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.functions.is_empty() && self.pings.is_empty()
    }

    /// What is open, for a message.
    pub(crate) fn open(&self) -> String {
        let kinds: Vec<_> = self.pending.iter().map(|(tag, p)| (tag, p.kind, p.unit)).collect();
        format!("open: {kinds:?} {:?} {:?}", self.functions, self.pings)
    }

    fn unknown(&mut self, itt: u32) {
        let Some(pending) = self.pending.remove(&itt) else { return };
        self.oracle.unknown(pending.op);
        self.settle_once(pending.kind, Once::Unknown);
        if matches!(pending.kind, Kind::Reserve(_)) {
            self.conditions.reservation_unknown(pending.unit);
        }
    }

    fn settle_once(&mut self, kind: Kind, once: Once) {
        if let Kind::WriteOnce { stamp } | Kind::Swap { stamp } | Kind::Vendor { stamp } = kind {
            self.once.push((stamp, once));
        }
    }

    /// Commands that must not run twice, at the end: what was told of them is what happened (P5).
    pub(crate) fn judge_once(&self, executions: impl Fn(Stamp) -> u32) {
        for (stamp, once) in &self.once {
            let ran = executions(*stamp);
            let honest = match once {
                Once::Ran => ran == 1,
                Once::DidNotRun => ran == 0,
                Once::Unknown => ran <= 1,
            };
            assert!(honest, "P5: a command that must not run twice ({stamp}) ran {ran} times, told {once:?}");
        }
    }

    fn room(&self) -> bool {
        self.logged_in && !self.cmd_sn.is_after(self.max_cmd_sn)
    }

    /// Whether there are commands left to issue, and room for one.
    pub(crate) fn wants_turn(&self) -> bool {
        self.issued < self.scenario.commands && self.pending.len() < self.scenario.depth && self.room()
    }

    /// Issues a few commands, if there are some left and room for them.
    pub(crate) fn turn(&mut self, now: Instant) {
        for _ in 0..=self.random.below(4) {
            if !self.wants_turn() {
                return;
            }
            self.issued += 1;
            self.issue(now);
        }
    }

    fn issue(&mut self, now: Instant) {
        let mix = self.scenario.mix;
        let parts = [
            mix.read,
            mix.write,
            mix.fua,
            mix.flush,
            mix.write_same,
            mix.unmap,
            mix.compare_and_write,
            mix.vendor,
            mix.reserve,
            mix.persistent,
            mix.query,
            mix.mode_select,
            mix.ping,
            mix.registering,
        ];
        let mut at = self.random.below(parts.iter().sum());
        let kind = parts.iter().position(|part| {
            let here = at < *part;
            at = at.saturating_sub(*part);
            here
        });
        match kind.unwrap() {
            0 => self.read(now),
            1 => self.write(false, now),
            2 => self.write(true, now),
            3 => self.flush(now),
            4 => self.write_same(now),
            5 => self.unmap(now),
            6 => self.swap(now),
            7 => self.vendor(now),
            8 => self.reserve(now),
            9 => self.persistent(now),
            10 => self.query(now),
            11 => self.mode_select(now),
            13 => self.registering(now),
            _ => self.ping(),
        }
    }

    fn span(&mut self) -> Span {
        let unit = self.random.below(self.scenario.units);
        let blocks = 1 + self.random.below(self.scenario.longest.min(self.scenario.blocks));
        let lba = self.random.below(self.scenario.blocks - blocks + 1);
        Span { unit, lba, blocks }
    }

    fn stamp(&mut self) -> Stamp {
        self.next_stamp += 1;
        self.next_stamp
    }

    fn attribute(&mut self) -> TaskAttribute {
        let (ordered, head) = (self.scenario.mix.ordered, self.scenario.mix.head_of_queue);
        if ordered > 0 && self.random.once_in(ordered) {
            TaskAttribute::Ordered
        } else if head > 0 && self.random.once_in(head) {
            TaskAttribute::HeadOfQueue
        } else {
            TaskAttribute::Simple
        }
    }

    fn read(&mut self, now: Instant) {
        let (span, attribute) = (self.span(), self.attribute());
        let build = Build { cdb: block_cdb(0x28, span), data: Bytes::new(), reads: span.blocks * BLOCK };
        self.send(Kind::Read, span, Effect::Read, attribute, build, now);
    }

    /// Reads a whole unit, at the end.
    pub(crate) fn read_all(&mut self, unit: usize, now: Instant) {
        let span = Span { unit, lba: 0, blocks: self.scenario.blocks };
        let build = Build { cdb: block_cdb(0x28, span), data: Bytes::new(), reads: span.blocks * BLOCK };
        self.send(Kind::Read, span, Effect::Read, TaskAttribute::Simple, build, now);
    }

    /// Asks whether a unit has anything left to say.
    pub(crate) fn ready(&mut self, unit: usize, now: Instant) {
        let span = Span { unit, lba: 0, blocks: 0 };
        let build = Build { cdb: [0; 16], data: Bytes::new(), reads: 0 };
        self.send(Kind::Ready, span, Effect::Nothing, TaskAttribute::Simple, build, now);
    }

    /// Whether another command may be sent now.
    pub(crate) fn may_send(&self) -> bool {
        self.room()
    }

    fn write(&mut self, fua: bool, now: Instant) {
        let (span, attribute, stamp) = (self.span(), self.attribute(), self.stamp());
        let mut cdb = block_cdb(0x2a, span);
        cdb[1] = if fua { 8 } else { 0 };
        let build = Build { cdb, data: stamped(stamp, span.blocks), reads: 0 };
        self.send(Kind::Write, span, Effect::Write { stamp, fua }, attribute, build, now);
    }

    fn write_same(&mut self, now: Instant) {
        let (span, stamp) = (self.span(), self.stamp());
        let build = Build { cdb: block_cdb(0x41, span), data: stamped(stamp, 1), reads: 0 };
        let effect = Effect::Write { stamp, fua: false };
        self.send(Kind::Write, span, effect, TaskAttribute::Simple, build, now);
    }

    fn unmap(&mut self, now: Instant) {
        let span = self.span();
        let mut data = vec![0; 24];
        data[1] = 22;
        data[3] = 16;
        data[15] = u8::try_from(span.lba).unwrap();
        data[19] = u8::try_from(span.blocks).unwrap();
        let mut cdb = [0; 16];
        (cdb[0], cdb[8]) = (0x42, 24);
        let build = Build { cdb, data: data.into(), reads: 0 };
        let effect = Effect::Write { stamp: 0, fua: false };
        self.send(Kind::Write, span, effect, TaskAttribute::Simple, build, now);
    }

    fn flush(&mut self, now: Instant) {
        let unit = self.random.below(self.scenario.units);
        let opcode = self.random.pick(&[0x35, 0x91]);
        let (span, cdb) = self.flush_range(unit, opcode);
        let build = Build { cdb, data: Bytes::new(), reads: 0 };
        let attribute = if self.attribute() == TaskAttribute::Ordered {
            TaskAttribute::Ordered
        } else {
            TaskAttribute::Simple
        };
        self.send(Kind::Flush, span, Effect::Flush, attribute, build, now);
    }

    /// What a flush covers, and its CDB: all blocks, or some, or those from one on to the end.
    fn flush_range(&mut self, unit: usize, opcode: u8) -> (Span, [u8; 16]) {
        let all = self.scenario.blocks;
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        if !self.scenario.order.flush_ranges || self.extra.once_in(4) {
            return (Span { unit, lba: 0, blocks: all }, cdb);
        }
        let lba = self.extra.below(all);
        let count = self.extra.below(all - lba + 1);
        let (lba_ends, count_ends) = if opcode == 0x35 { (5, 8) } else { (9, 13) };
        (cdb[lba_ends], cdb[count_ends]) = (u8::try_from(lba).unwrap(), u8::try_from(count).unwrap());
        self.coverage.hit(if count == 0 { "flush to the end" } else { "flush of a range" });
        (Span { unit, lba, blocks: if count == 0 { all - lba } else { count } }, cdb)
    }

    fn swap(&mut self, now: Instant) {
        let span = Span { blocks: 1, ..self.span() };
        let certain = self.oracle.certain(span.unit, span.lba);
        let compare = if self.random.once_in(5) { 0 } else { certain.unwrap_or(0) };
        let stamp = self.stamp();
        let mut cdb = [0; 16];
        (cdb[0], cdb[9], cdb[13]) = (0x89, u8::try_from(span.lba).unwrap(), 1);
        let data = [stamped(compare, 1), stamped(stamp, 1)].concat().into();
        let build = Build { cdb, data, reads: 0 };
        self.send(
            Kind::Swap { stamp },
            span,
            Effect::Swap { stamp, compare },
            TaskAttribute::Simple,
            build,
            now,
        );
    }

    fn vendor(&mut self, now: Instant) {
        let (unit, stamp) = (self.random.below(self.scenario.units), self.stamp());
        let mut cdb = [0; 16];
        cdb[0] = 0xc1;
        let build = Build { cdb, data: stamped(stamp, 1), reads: 0 };
        let span = Span { unit, lba: 0, blocks: 0 };
        self.send(Kind::Vendor { stamp }, span, Effect::Nothing, TaskAttribute::Simple, build, now);
    }

    fn query(&mut self, now: Instant) {
        let unit = self.random.below(self.scenario.units);
        let mut cdb = [0; 16];
        let (kind, reads) = match self.random.below(4) {
            0 => return self.ready(unit, now),
            1 => {
                (cdb[0], cdb[4]) = (0x12, 36);
                (Kind::Inquiry, 36)
            }
            2 => {
                (cdb[0], cdb[1], cdb[13]) = (0x9e, 0x10, 32);
                (Kind::Query, 32)
            }
            _ => {
                (cdb[0], cdb[2], cdb[4]) = (0x1a, 0x0a, 24);
                (Kind::Query, 24)
            }
        };
        let span = Span { unit, lba: 0, blocks: 0 };
        let build = Build { cdb, data: Bytes::new(), reads };
        self.send(kind, span, Effect::Nothing, TaskAttribute::Simple, build, now);
    }

    fn mode_select(&mut self, now: Instant) {
        let unit = self.random.below(self.scenario.units);
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[4]) = (0x15, 0x10, 24);
        let mut data = vec![0; 24];
        (data[4], data[5]) = (0x08, 0x12);
        let span = Span { unit, lba: 0, blocks: 0 };
        let build = Build { cdb, data: data.into(), reads: 0 };
        self.send(Kind::ModeSelect, span, Effect::Nothing, TaskAttribute::Simple, build, now);
    }

    fn tag(&mut self) -> u32 {
        if self.scenario.reuse_tags {
            let free = |tag: &u32| {
                !self.pending.contains_key(tag)
                    && !self.functions.contains_key(tag)
                    && !self.pings.contains(tag)
            };
            return (0..).find(free).unwrap();
        }
        self.next_tag += 1;
        self.next_tag
    }

    fn ping(&mut self) {
        let tag = self.tag();
        let immediate = self.random.once_in(2);
        self.pings.push(tag);
        let nop = NopOut {
            immediate,
            itt: Itt(tag),
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            data: Payload::from(b"ping".to_vec()),
            ..NopOut::default()
        };
        if !immediate {
            self.cmd_sn = self.cmd_sn.next();
        }
        self.out.push(Pdu::NopOut(nop));
    }

    fn send(
        &mut self,
        kind: Kind,
        span: Span,
        effect: Effect,
        attribute: TaskAttribute,
        build: Build,
        now: Instant,
    ) {
        let tag = self.tag();
        let Build { mut cdb, data, reads } = build;
        let kind = kind.on_device(self.scenario.persona.device_type, effect);
        let plain = matches!(cdb[0], 0x28 | 0x2a);
        let naca = self.scenario.order.naca && plain && self.extra.once_in(16);
        if naca {
            cdb[9] |= 4;
            self.coverage.hit("command with NACA");
        }
        let op = self.oracle.issue(span, effect, attribute == TaskAttribute::HeadOfQueue);
        let pending = Pending {
            op,
            unit: span.unit,
            kind,
            cmd_sn: self.cmd_sn,
            data: data.clone(),
            reads,
            got: Vec::new(),
            attribute,
            naca,
            excused: false,
            issued: now,
        };
        self.pending.insert(tag, pending);
        let length = if reads > 0 { reads } else { data.len() };
        let first = data.len().min(FIRST_BURST as usize);
        let immediate = if self.params.immediate_data {
            (self.random.below(3) * BLOCK).min(first).min(SEGMENT)
        } else {
            0
        };
        let unsolicited = !self.params.initial_r2t && immediate < first && self.random.once_in(2);
        self.out.push(Pdu::ScsiCommand(ScsiCommand {
            final_: !unsolicited,
            read: reads > 0,
            write: !data.is_empty(),
            attribute,
            lun: lun(span.unit),
            itt: Itt(tag),
            expected_length: u32::try_from(length).unwrap(),
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            cdb: Cdb(cdb.into_iter().collect()),
            data: Payload::from(data.slice(..immediate)),
            ..ScsiCommand::default()
        }));
        self.cmd_sn = self.cmd_sn.next();
        if unsolicited {
            self.send_data(tag, Ttt::NONE, Lun(0), &data, immediate..first);
        }
    }

    fn send_data(&mut self, tag: u32, ttt: Ttt, lun: Lun, data: &Bytes, range: std::ops::Range<usize>) {
        for (data_sn, at) in range.clone().step_by(SEGMENT).enumerate() {
            let end = range.end.min(at + SEGMENT);
            self.out.push(Pdu::DataOut(DataOut {
                final_: end == range.end,
                lun,
                itt: Itt(tag),
                ttt,
                exp_stat_sn: self.exp_stat_sn,
                data_sn: u32::try_from(data_sn).unwrap(),
                buffer_offset: u32::try_from(at).unwrap(),
                data: Payload::from(data.slice(at..end)),
            }));
        }
    }

    /// Logs out.
    pub(crate) fn log_out(&mut self) {
        self.logging_out = true;
        let tag = self.tag();
        self.out.push(Pdu::LogoutRequest(LogoutRequest {
            immediate: true,
            reason: 0,
            itt: Itt(tag),
            cid: Cid(0),
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
        }));
    }

    /// A task management function, concerning the unit of some open command.
    pub(crate) fn manage(&mut self, code: u8, now: Instant) {
        let tags: Vec<u32> = self.pending.keys().copied().collect();
        let immediate = self.random.once_in(2);
        if tags.is_empty() || !self.logged_in || (!immediate && !self.room()) {
            return;
        }
        let referenced = self.random.pick(&tags);
        let (unit, ref_cmd_sn) = (self.pending[&referenced].unit, self.pending[&referenced].cmd_sn);
        let concerns = |tag: &u32| match code {
            tmf::ABORT_TASK => *tag == referenced,
            tmf::TARGET_WARM_RESET | tmf::TARGET_COLD_RESET => true,
            _ => self.pending[tag].unit == unit,
        };
        let named = |tag: u32| (tag, self.pending[&tag].op);
        let concerned: Vec<_> = tags.into_iter().filter(concerns).map(named).collect();
        concerned.iter().for_each(|(_, op)| self.oracle.doubt(*op));
        let tag = self.tag();
        self.functions.insert(tag, Function { code, unit, concerned });
        let whole = matches!(code, tmf::TARGET_WARM_RESET | tmf::TARGET_COLD_RESET);
        if matches!(code, tmf::CLEAR_TASK_SET | tmf::LOGICAL_UNIT_RESET) || whole {
            self.conditions.clears((!whole).then_some(unit), now);
        }
        if whole || code == tmf::LOGICAL_UNIT_RESET {
            self.conditions.own_reset((!whole).then_some(unit));
        }
        if code == tmf::TARGET_COLD_RESET {
            self.cold_reset.get_or_insert(false);
        }
        let cmd_sn = self.cmd_sn;
        if !immediate {
            self.cmd_sn = cmd_sn.next();
        }
        self.out.push(Pdu::TaskManagementRequest(TaskManagementRequest {
            immediate,
            function: code,
            lun: if whole { Lun(0) } else { lun(unit) },
            itt: Itt(tag),
            referenced_itt: if code == tmf::ABORT_TASK { Itt(referenced) } else { Itt::NONE },
            cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            ref_cmd_sn,
            ..TaskManagementRequest::default()
        }));
    }

    /// Somebody else's reset may end what is open on a unit without a word.
    pub(crate) fn excuse(&mut self, unit: usize) {
        self.pending.values_mut().filter(|p| p.unit == unit).for_each(|p| p.excused = true);
    }

    /// A PDU of Braid.
    pub(crate) fn receive(&mut self, pdu: Pdu, now: Instant) {
        let (stat_sn, _, max) = pdu.target_numbers().unwrap();
        assert!(self.cold_reset != Some(true), "R165: the session outlives a cold reset: {pdu:?}");
        self.max_cmd_sn = self.max_cmd_sn.max(max);
        if takes_number(&pdu) {
            self.exp_stat_sn = stat_sn.next();
        }
        match pdu {
            Pdu::R2t(r2t) => self.asked(&r2t),
            Pdu::DataIn(data) => self.data_in(&data, now),
            Pdu::ScsiResponse(response) => self.answered(&response, now),
            Pdu::TaskManagementResponse(answer) => self.managed(&answer, now),
            Pdu::NopIn(nop) => {
                let at = self.pings.iter().position(|tag| *tag == nop.itt.0);
                if nop.itt != Itt::NONE {
                    self.pings.swap_remove(at.expect("R224: an echo of no ping"));
                }
            }
            Pdu::LogoutResponse(answer) => {
                assert_eq!(answer.response, 0, "P3: a logout refused");
                self.logged_out = true;
            }
            other => panic!("P3: the initiator did not expect {other}"),
        }
    }

    fn asked(&mut self, r2t: &R2t) {
        let Some(pending) = self.pending.get(&r2t.itt.0) else { return };
        let data = pending.data.clone();
        let from = r2t.buffer_offset as usize;
        let to = from + r2t.desired_length as usize;
        assert!(to <= data.len(), "R125: asked beyond the end");
        self.send_data(r2t.itt.0, r2t.ttt, r2t.lun, &data, from..to);
    }

    fn data_in(&mut self, data: &DataIn, now: Instant) {
        let pending = self.pending.get_mut(&data.itt.0).expect("P3: data for no command");
        assert_eq!(data.buffer_offset as usize, pending.got.len(), "R126: data out of order");
        for chunk in data.data.chunks() {
            pending.got.extend_from_slice(chunk);
        }
        assert!(pending.got.len() <= pending.reads, "P3: more data than asked for");
        if data.has_status {
            let response = ScsiResponse { itt: data.itt, status: data.status, ..ScsiResponse::default() };
            self.answered(&response, now);
        }
    }

    fn answered(&mut self, response: &ScsiResponse, now: Instant) {
        let tag = response.itt.0;
        let pending = self.pending.remove(&tag).expect("P5: answered twice, or never asked");
        self.slowest = self.slowest.max(now.saturating_duration_since(pending.issued));
        assert_eq!(response.response, 0, "P3: the target failed");
        match response.status {
            0 => self.good(&pending, now),
            2 => {
                let sense = response.sense().and_then(|s| Sense::parse(&s));
                let sense = sense.expect("R135: CHECK CONDITION without sense");
                self.failed(pending, sense, now);
            }
            0x18 => {
                self.coverage.hit("status: reservation conflict");
                let reserving = matches!(pending.kind, Kind::Reserve(_));
                // It may have met the reservation that somebody else's reset ended meanwhile.
                let reason = self.conditions.conflict(pending.unit) || pending.excused;
                if !reserving && !reason {
                    let write = !matches!(pending.kind, Kind::Read);
                    let (unit, issued) = (pending.unit, pending.issued);
                    self.claims.push(Claim { unit, issued, what: What::Conflict { write } });
                }
                self.settle_once(pending.kind, Once::DidNotRun);
                self.oracle.unknown(pending.op);
            }
            // Somebody else's reset took it, and the target says so.
            status::TASK_ABORTED if pending.excused && self.scenario.persona.task_aborted_status => {
                self.coverage.hit("status: task aborted");
                self.settle_once(pending.kind, Once::Unknown);
                self.oracle.unknown(pending.op);
            }
            // No path came back in time.
            status::BUSY if self.was_given_up(&pending) => {
                self.coverage.hit("status: busy while no path works");
                self.settle_once(pending.kind, Once::DidNotRun);
                self.oracle.unknown(pending.op);
            }
            // It has data that came before a unit attention, which Braid learned of too late.
            status::BUSY
                if matches!(pending.kind, Kind::Read | Kind::Query)
                    && self.scenario.persona.data_before_sense =>
            {
                self.coverage.hit("status: busy after data that may be anything");
                self.conditions.busy(pending.unit);
                self.oracle.unknown(pending.op);
            }
            other => panic!("P3: status {other:#x} without a reason"),
        }
    }

    /// One nexus answers an ORDERED command, or one that may change the unit, after all that came before it, and before all
    /// that came later (P1, R241, R244).
    fn judge_barriers(&self, done: &Pending) {
        let orderly = |p: &Pending| {
            let stateless = matches!(p.kind, Kind::Inquiry | Kind::Ready);
            !stateless && p.attribute != TaskAttribute::HeadOfQueue && !p.excused
        };
        let barrier = |p: &Pending| {
            p.naca || matches!(p.kind, Kind::Vendor { .. } | Kind::ModeSelect | Kind::Reserve(_))
        };
        // What is left to the target may pass what was lost with a connection, or what the target itself forgot.
        let setup = &self.scenario;
        let forgotten = setup.paths.len() == 1 && setup.persona.forgets;
        let left = setup.order.barriers == Barriers::Native || forgotten;
        let is_ordered = |p: &Pending| p.attribute == TaskAttribute::Ordered && !left || barrier(p);
        let earlier = |p: &&Pending| p.unit == done.unit && p.op < done.op && orderly(p);
        let passed = self.pending.values().filter(earlier).find(|p| is_ordered(p) || is_ordered(done));
        assert!(
            passed.is_none() || !orderly(done),
            "P1: {done:?} was answered before {passed:?}, one of them a barrier"
        );
    }

    /// A target that sends anything before sense data, and a path that was cut between the two: nobody can know.
    fn met_worst_data(&self, read: &Pending) -> bool {
        let anything = |block: &[u8]| block.iter().all(|byte| *byte == ANYTHING);
        self.scenario.persona.data_before_sense
            && self.conditions.has_lost_connections()
            && read.got.chunks(BLOCK).any(anything)
    }

    fn good(&mut self, pending: &Pending, now: Instant) {
        self.judge_barriers(pending);
        let block_io = matches!(pending.kind, Kind::Read | Kind::Write | Kind::WriteOnce { .. });
        self.seen[pending.unit] |= block_io;
        match pending.kind {
            Kind::Read if self.met_worst_data(pending) => {
                self.coverage.hit("limit: data before sense, and a cut between the two");
                self.oracle.unknown(pending.op);
            }
            Kind::Read => {
                let blocks = pending.got.chunks(BLOCK);
                let stamps: Vec<Stamp> = blocks
                    .map(|block| {
                        let stamp = block.first_chunk().map_or(0, |s| Stamp::from_be_bytes(*s));
                        let whole = block.len() == BLOCK && block.chunks(8).all(|s| s == stamp.to_be_bytes());
                        assert!(whole, "P1: a torn block");
                        stamp
                    })
                    .collect();
                self.oracle.read(pending.op, &stamps);
            }
            kind => {
                self.settle_once(kind, Once::Ran);
                if kind == Kind::ModeSelect {
                    self.conditions.mode_selected(pending.unit, now);
                }
                if let Kind::Reserve(what) = kind {
                    self.conditions.reserved(pending.unit, what);
                    match what {
                        Reserving::Rekey(key) => self.keys[pending.unit] = key,
                        Reserving::Register => self.keys[pending.unit] = 0x42,
                        Reserving::Clear => self.keys[pending.unit] = 0,
                        _ => {}
                    }
                }
                if let Kind::Ask { full, allocation } = kind {
                    self.coverage.hit("registrations shown");
                    let scarred = self.conditions.scarred;
                    let what = What::Registered { full, allocation, data: pending.got.clone(), scarred };
                    self.claims.push(Claim { unit: pending.unit, issued: pending.issued, what });
                }
                self.oracle.done(pending.op, true);
            }
        }
    }

    /// A command ended with sense data.
    fn failed(&mut self, pending: Pending, sense: Sense, now: Instant) {
        let unit = pending.unit;
        match (sense.key, sense.asc, sense.ascq) {
            (0xe, 0x1d, 0) if matches!(pending.kind, Kind::Swap { .. }) => {
                self.coverage.hit("sense: miscompare");
                self.settle_once(pending.kind, Once::DidNotRun);
                self.oracle.done(pending.op, false);
                return;
            }
            (6, asc, ascq) => {
                self.coverage.hit("sense: unit attention");
                assert!(pending.kind != Kind::Inquiry, "P3: INQUIRY reports no unit attention");
                self.conditions.told(unit, asc, ascq, now);
                ((asc, ascq) == (0x29, 1)).then(|| self.oracle.power_loss_told(unit));
                self.settle_once(pending.kind, Once::DidNotRun);
            }
            (2, 4, 0x0a..=0x0c) => {
                self.coverage.hit("sense: not ready for the state of a port");
                if !matches!(pending.kind, Kind::Reserve(_)) {
                    self.conditions.refused(unit, pending.issued, now);
                }
                self.settle_once(pending.kind, Once::DidNotRun);
            }
            (3, ..) => {
                self.coverage.hit("sense: medium error");
                self.conditions.medium_error();
                self.settle_once(pending.kind, Once::Unknown);
            }
            (0xb, 0x29, 7) => {
                self.coverage.hit("sense: outcome unknown");
                let device_type = self.scenario.persona.device_type;
                let once = pending.naca || pending.kind.runs_once_on(device_type);
                let given_up = self.was_given_up(&pending);
                self.conditions.outcome_unknown(unit, once, pending.excused, given_up);
                match pending.kind {
                    Kind::ModeSelect => self.conditions.mode_maybe_changed(unit, now),
                    Kind::Reserve(_) => self.conditions.reservation_unknown(unit),
                    _ => {}
                }
                self.settle_once(pending.kind, Once::Unknown);
            }
            (4, 0x0c, 0) if matches!(pending.kind, Kind::Flush) => {
                self.coverage.hit("sense: what is in the cache of a target that is gone cannot be flushed");
                self.conditions.flush_failed(unit);
                self.oracle.flush_failed(pending.op);
            }
            (5, 0x26 | 0x24, _) if matches!(pending.kind, Kind::Reserve(_) | Kind::Ask { .. }) => {}
            other => panic!("P3: sense {other:x?} without a reason, for {:?}", pending.kind),
        }
        self.oracle.unknown(pending.op);
    }

    fn managed(&mut self, answer: &TaskManagementResponse, now: Instant) {
        let function = self.functions.remove(&answer.itt.0).expect("P5: a function answered twice");
        if function.clears() {
            self.conditions.clears((!function.is_for_all()).then_some(function.unit), now);
        }
        match answer.response {
            tmf::COMPLETE => {
                self.coverage.hit("task management: complete");
                match function.code {
                    tmf::LOGICAL_UNIT_RESET => self.conditions.was_reset(Some(function.unit)),
                    tmf::TARGET_WARM_RESET => self.conditions.was_reset(None),
                    tmf::TARGET_COLD_RESET => self.cold_reset = Some(true),
                    _ => {}
                }
                for (itt, op) in function.concerned {
                    if self.pending.get(&itt).is_some_and(|p| p.op == op) {
                        self.unknown(itt);
                    }
                }
            }
            tmf::TASK_DOES_NOT_EXIST => {
                assert_eq!(function.code, tmf::ABORT_TASK, "P3: only a task can be missing");
                let (task, op) = function.concerned[0];
                let doomed = self.functions.values().any(|f| f.concerned.contains(&(task, op)));
                let open = self.pending.get(&task).filter(|p| p.op == op);
                let excused = open.is_some_and(|p| p.excused);
                // Some targets lose commands, and it takes an abort to find out.
                let gone = open.is_some() && (excused || self.scenario.persona.forgets);
                assert!(open.is_none() || doomed || gone, "R149: a task that exists was said not to");
                if gone {
                    self.unknown(task);
                }
            }
            tmf::NOT_SUPPORTED | tmf::REJECTED => {
                self.coverage.hit("task management: refused");
            }
            other => panic!("P3: task management answered {other}"),
        }
    }
}

/// READ(10), WRITE(10), WRITE SAME(10).
fn block_cdb(opcode: u8, span: Span) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[5] = u8::try_from(span.lba).unwrap();
    cdb[8] = u8::try_from(span.blocks).unwrap();
    cdb
}

fn takes_number(pdu: &Pdu) -> bool {
    match pdu {
        Pdu::DataIn(data) => data.has_status,
        Pdu::NopIn(nop) => nop.itt != Itt::NONE,
        Pdu::R2t(_) => false,
        _ => true,
    }
}
