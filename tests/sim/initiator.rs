//! The model initiator: one connection, any mix of commands, task management at bad moments, and a good memory.
//!
//! It tells the oracle of every command in the order of CmdSN, builds data from stamps, checks what it gets byte by
//! byte, and judges every condition it is told: was there a reason for it that a single nexus would have had too (P3)?

mod answers;
mod commands;
mod kind;
mod lines;
mod reception;
mod reserving;

pub(crate) use reserving::Reserving;

use crate::claims::Claim;
use crate::conditions::{Conditions, UnderWay};
use crate::coverage::Coverage;
use crate::oracle::{OpId, Oracle, Stamp};
use crate::random::Random;
use crate::scenario::Scenario;
use braid::iscsi::{
    Cid, CmdSn, Itt, LogoutRequest, Lun, Pdu, StatSn, TaskAttribute, TaskManagementRequest, tmf,
};
use braid::login::Negotiated;
use braid::session::Barriers;
use bytes::Bytes;
use kind::Kind;
use lines::Lines;
use reception::Reception;
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
    /// At error recovery level 1.
    reception: Option<Reception>,
    /// Where it has several connections.
    lines: Option<Lines>,
    /// CIDs of connections that Braid says are gone.
    pub(crate) dropped: Vec<u16>,
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
            reception: None,
            lines: None,
            dropped: Vec::new(),
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
        let recovers = agreed.session.error_recovery_level > 0;
        self.reception =
            recovers.then(|| Reception::new(self.extra.branch(u64::from(self.issued)), agreed.stat_sn));
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
        self.reception = None;
        self.lines = None;
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

    /// Whether another command may be sent now.
    pub(crate) fn may_send(&self) -> bool {
        self.room()
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
        let unheard = self.reception.as_ref().is_some_and(Reception::is_unheard);
        if tags.is_empty() || !self.logged_in || (!immediate && !self.room()) || unheard || self.has_limbo() {
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
}
