//! The model target: what Braid is connected to in the simulator.
//!
//! It keeps a session's commands in CmdSN order, asks for write data, and then holds each command *in the device* for a
//! random time; at its end the command executes. A lost connection takes nothing out of the device: what is left there
//! are ghosts, which still execute. What it does beyond that, right or wrong, is said by its [`Persona`].
//!
//! A logical unit's number is its place in the list of disks, if its portal group was told nothing else (`luns`). Breaches of the protocol on Braid's side panic with the
//! number of the requirement.

mod alua;
mod commands;
mod data;
mod device;
mod echo;
mod foreign;
mod heads;
mod login;
mod logout;
mod luns;
mod medium;
mod persona;
mod recovery;
mod reservations;
mod sequence;
mod session;
mod tmf;
mod trials;
mod trigger;
mod units;

pub(crate) use alua::{Header, Setup as AccessSetup};
pub(crate) use heads::{Heads, NAMES};
pub(crate) use luns::LunChange;
pub(crate) use medium::{BLOCK, block};
pub(crate) use persona::{Abort, Persona};
pub(crate) use reservations::{Deed, HOME, View};
pub(crate) use trials::trials;

use crate::random::Random;
use braid::iscsi::{Itt, Pdu};
use braid::login::Negotiated;
use persona::{Duplicate, Greeting, OtherCid, Reinstate};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use trigger::{Counts, Trigger};

/// A logical unit to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Disk {
    pub(crate) blocks: usize,
    /// Makes its names in VPD pages 80h and 83h; two disks are the same if this is.
    pub(crate) identity: u64,
}

/// What the target wants done.
#[derive(Debug)]
pub(crate) enum Effect {
    Send(u32, Pdu),
    LoggedIn(u32, Box<Negotiated>),
    /// Status class and detail.
    Refused(u32, u8, u8),
    /// After what was sent.
    Close(u32),
    Reset(u32),
}

/// A unit attention was reported that an event from outside had caused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    pub(crate) conn: u32,
    /// The command that it answers.
    pub(crate) itt: Itt,
    /// Of the session it was reported to.
    pub(crate) isid: [u8; 6],
    pub(crate) unit: usize,
    pub(crate) event: u32,
    /// When this session last had nothing to report.
    pub(crate) since: Instant,
}

pub(crate) struct Target {
    persona: Persona,
    random: Random,
    now: Option<Instant>,
    units: Vec<units::Unit>,
    luns: luns::Luns,
    heads: Heads,
    /// Never shortened: a session's place here makes its TSIH.
    sessions: Vec<session::Session>,
    conns: Vec<session::Conn>,
    /// Where error recovery level 2 was agreed: connections that are gone, and answers that may not have arrived.
    lost: Vec<recovery::Lost>,
    said: Vec<recovery::Said>,
    /// When commands were sent that may still come, by connection and task tag.
    sent: BTreeMap<(u32, u32), Instant>,
    /// In order of arrival.
    tasks: Vec<device::Task>,
    asymmetry: Option<alua::Asymmetry>,
    /// Changes of access states from outside.
    access_events: Vec<(u32, usize)>,
    functions: Vec<tmf::Function>,
    logins: Vec<login::Pending>,
    /// When lost connections of an initiator port are cleared up.
    cleanups: Vec<(Instant, session::Port)>,
    effects: VecDeque<Effect>,
    executions: BTreeMap<u64, u32>,
    counts: Counts,
    /// Of each head.
    power_cuts: [u32; 2],
    /// Events from outside: how many there were, the last power cut of each head among them, and those reported.
    next_event: u32,
    power_event: [u32; 2],
    reports: Vec<Report>,
    /// Reads that will fail.
    bad_reads: u32,
    /// Only what time ends may still go wrong.
    healed: bool,
    next_age: u64,
    next_ttt: u32,
}

impl Target {
    pub(crate) fn new(persona: Persona, disks: Vec<Disk>, random: Random) -> Self {
        let units = disks.iter().map(|disk| units::Unit::new(*disk, persona.write_cache)).collect();
        let luns = luns::Luns::new(disks.len());
        Self {
            persona,
            random,
            now: None,
            units,
            luns,
            heads: Heads::default(),
            sessions: Vec::new(),
            conns: Vec::new(),
            lost: Vec::new(),
            said: Vec::new(),
            sent: BTreeMap::new(),
            tasks: Vec::new(),
            asymmetry: None,
            access_events: Vec::new(),
            functions: Vec::new(),
            logins: Vec::new(),
            cleanups: Vec::new(),
            effects: VecDeque::new(),
            executions: BTreeMap::new(),
            counts: Counts::new(),
            power_cuts: [0; 2],
            next_event: 0,
            power_event: [0; 2],
            reports: Vec::new(),
            bad_reads: 0,
            healed: false,
            next_age: 0,
            next_ttt: 0,
        }
    }

    /// What is to be done next.
    pub(crate) fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// What was reported of events from outside since this was asked last.
    pub(crate) fn reports(&mut self) -> std::vec::Drain<'_, Report> {
        self.reports.drain(..)
    }

    /// What a read would show.
    pub(crate) fn block(&self, unit: usize, lba: usize) -> u64 {
        self.units[unit].medium.visible(lba)
    }

    /// How often a command that must not run twice (COMPARE AND WRITE, the vendor's) has run with this stamp.
    pub(crate) fn executions(&self, stamp: u64) -> u32 {
        self.executions.get(&stamp).copied().unwrap_or_default()
    }

    /// Whether any command may still execute, ghosts included.
    pub(crate) fn busy(&self) -> bool {
        let stuck = |t: &device::Task| self.units[t.unit].wedged;
        self.tasks.iter().any(|t| !stuck(t)) || self.sessions.iter().any(|s| !s.early.is_empty())
    }

    /// How often each kind of misbehaviour, or rare behaviour, was met.
    pub(crate) fn triggered(&self) -> impl Iterator<Item = (&'static str, u32)> {
        self.counts.iter()
    }

    /// Time passed; what is due happens in its order.
    pub(crate) fn timeout(&mut self, now: Instant) {
        self.now = Some(now);
        while let Some((_, due)) = self.next_due().filter(|(at, _)| *at <= now) {
            match due {
                Due::Task(index) => self.execute(index),
                Due::Login(index) => self.finish_login(index),
                Due::Function(index) => self.answer_function(index),
                Due::Cleanup(index) => self.clear_up(index),
                Due::Session(index) => self.session_due(index),
                Due::Ping(index) => self.ping_due(index),
                Due::Echo(conn) => self.let_go(conn),
                Due::Data(index) => self.data_late(index),
                Due::Access => self.access_due(),
            }
        }
        self.announce_windows();
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.next_due().map(|(at, _)| at)
    }

    fn entered_at(&self) -> Instant {
        self.now.unwrap()
    }

    fn count(&mut self, trigger: Trigger) {
        self.counts.count(trigger);
    }

    fn between_us(&mut self, least: u64, most: u64) -> Duration {
        self.random.between(Duration::from_micros(least), Duration::from_micros(most))
    }

    /// The first thing that is to happen.
    fn next_due(&self) -> Option<(Instant, Due)> {
        let mut first: Option<(Instant, Due)> = None;
        let mut consider = |at: Option<Instant>, due: Due| {
            if let Some(at) = at.filter(|at| first.is_none_or(|(f, _)| *at < f)) {
                first = Some((at, due));
            }
        };
        for (index, task) in self.tasks.iter().enumerate() {
            match task.state {
                device::State::Running(until) => consider(Some(until), Due::Task(index)),
                device::State::Collecting(since) => {
                    consider(self.persona.data_patience.map(|p| since + p), Due::Data(index));
                }
                device::State::Waiting => {}
            }
        }
        for (index, login) in self.logins.iter().enumerate() {
            consider(self.login_due(login), Due::Login(index));
        }
        for (index, function) in self.functions.iter().enumerate() {
            consider(function.due(), Due::Function(index));
        }
        for (index, (at, _)) in self.cleanups.iter().enumerate() {
            consider(Some(*at), Due::Cleanup(index));
        }
        for (index, session) in self.sessions.iter().enumerate() {
            consider(session.due(), Due::Session(index));
        }
        for (index, conn) in self.conns.iter().enumerate() {
            consider(conn.ping_due(&self.persona), Due::Ping(index));
            consider(conn.held.as_ref().map(|held| held.until), Due::Echo(conn.id));
        }
        consider(self.asymmetry.as_ref().and_then(alua::Asymmetry::due), Due::Access);
        first
    }
}

/// What happens by itself, with its place in its list.
#[derive(Clone, Copy, Debug)]
enum Due {
    Task(usize),
    Login(usize),
    Function(usize),
    Cleanup(usize),
    Session(usize),
    Ping(usize),
    Echo(u32),
    Data(usize),
    Access,
}
