//! The multipath engine of one downstream session: a pure state machine.
//!
//! # Contract
//! The driver owns sockets and the clock. It calls [`Session::handle`] or [`Session::handle_timeout`] with the current
//! time (which never goes back), then [`Session::poll`] until it returns none, then waits for the next event or for
//! [`Session::next_deadline`]. Outputs are done in the order given: a PDU for a connection is queued behind those
//! already queued for it.
//!
//! Connections to targets are named by [`ConnId`], given out by the engine, those of the initiator by [`LineId`], given out by
//! the driver. No name is used twice, so that events of a connection already given up are recognised and ignored. After
//! [`Output::Close`] or [`Output::CloseLine`] nothing more is sent to it.
//!
//! # Inside
//! - `tasks`: every task from arrival to response. `data`: its data, cut for the receiver.
//! - `sequence`: CmdSN of both sides, StatSN of targets. `line`: the connections of the initiator, and StatSN of each.
//! - `snack`: what the initiator lost, and what it sent broken, at error recovery level 1. `replay`: what is kept for that.
//!   `overdue`: write data that do not come.
//! - `order`: which command waits for which. `select`: which path takes the next one.
//! - `downstream`, `upstream`: what the initiator and the targets send. `own`: answers that only Braid wants.
//!   `besides`: what targets send besides answers. `tmf`: task management.
//! - `nexus`: upstream sessions and connections. `group`: where they lead. `leave`: logging them out.
//! - `unit`: logical units: who they are, whether two nexuses show the same one, what binds them to home.
//! - `attention`: unit attentions, each told once. `heard`: what each nexus has said. `deed`: what they tell of.
//! - `again`: commands that were answered and have not run.
//! - `tally`: what is counted in passing.
//! - `watch`: whether connections live, and which are suspect. `evade`: what is caught on these is asked again elsewhere.
//!   `hedge`: so are reads that are late.
//!   `rescue`: a nexus besides, while a session of several connections waits for one of them.
//! - `stuck`: commands that a living connection does not answer. `cleared`: those that somebody else has cleared.
//!   `stale`: runs left to themselves, and answers that come too late.
//! - `caches`: what a flush must reach where there are several targets. `power`: those that lost power.
//! - `comeback`: paths that are back, and those that come and go. `states`: how each path stands.
//! - `outage`: home is lost, and commands wait for it. `reassign`: a session of several connections that keeps its tasks when it
//!   loses one. `recover`: a nexus is lost: moved commands, ghosts. `fence`: what makes sure that these have ended. `recognise`: whether they are of the right unit. `predecessor`: ghosts of an earlier session.
//! - `operator`: what an operator does to the session, and is shown of it. `finish`: the end.
//!
//! # One WRITE
//! `downstream::command` files the task, `order` says whether it waits, `downstream::solicit` asks the initiator for its
//! data. When enough is there, `select` chooses a connection, takes a CmdSN and sends command and first data;
//! `upstream::r2t` and every further Data-Out send the rest. `upstream::completed` passes the status on under the
//! initiator's own numbers, and `conclude` lets go what waited.

#[macro_use]
mod rules;

mod again;
pub mod api;
mod attention;
mod besides;
mod caches;
mod check;
mod cleared;
mod comeback;
mod data;
mod deed;
mod downstream;
mod evade;
mod fence;
mod finish;
mod group;
mod heard;
mod hedge;
mod leave;
mod line;
#[cfg(feature = "mutants")]
pub mod mutant;
mod nexus;
mod operator;
mod order;
mod outage;
mod overdue;
mod own;
mod power;
mod predecessor;
mod reassign;
mod recognise;
mod recover;
mod replay;
mod rescue;
mod select;
mod sequence;
mod snack;
mod stale;
mod states;
mod stuck;
mod tally;
mod tasks;
mod tmf;
mod unit;
mod upstream;
mod watch;

pub use api::*;
pub use operator::{PathStatus, Status};
pub use tally::{HeldBy, Tally, Waits};
pub use unit::{MOST_TOLD, Share, UnitStatus};

use crate::iscsi::{Lun, Pdu, TaskManagementRequest};
use crate::path::select::{PathLoad, Selector};
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// Tasks of any kind at a time; task tags have room for this many.
const MOST_TASKS: usize = 0x8000;

/// The engine of one downstream session.
#[derive(Debug)]
pub struct Session {
    rules: rules::Rules,
    plan: SessionPlan,
    /// The latest time told.
    now: Instant,
    /// When deadlines were looked at last: what fell due before waits for an event.
    looked: Instant,
    front: sequence::Front,
    lines: line::Lines,
    tasks: tasks::Tasks,
    order: order::Order,
    /// Commands ready to be sent: block I/O that any path may take, what only home may take, Braid's own.
    any_queue: VecDeque<tasks::TaskKey>,
    home_queue: VecDeque<tasks::TaskKey>,
    own_queue: VecDeque<tasks::TaskKey>,
    /// Writes that the memory budget keeps from being solicited.
    unsolicited: VecDeque<tasks::TaskKey>,
    /// Bytes of write data held, and booked for what is still to come.
    held: u64,
    promised: u64,
    /// The write that goes beyond the memory budget.
    overdrawn: Option<tasks::TaskKey>,
    nexuses: Vec<nexus::Nexus>,
    conns: Vec<nexus::Conn>,
    paths: Vec<nexus::PathSlot>,
    /// Load of each path, and scratch for the choice among them.
    loads: Vec<PathLoad>,
    usable: Vec<bool>,
    selector: Selector,
    units: BTreeMap<Lun, unit::Unit>,
    /// Units addressed for the first time, of which home has not been asked yet.
    strangers: Vec<Lun>,
    checks: Vec<unit::Check>,
    /// What further nexuses show.
    inventories: BTreeMap<nexus::NexusId, unit::Inventory>,
    caches: caches::Caches,
    recovery: Option<reassign::Recovery>,
    ghosts: Vec<recover::Ghost>,
    fences: Vec<fence::Fence>,
    /// When unanswered commands are looked at next; set while there may be some.
    stuck_check_at: Option<Instant>,
    /// When commands that somebody may have cleared are looked at next; set while there are some.
    question_at: Option<Instant>,
    stale_runs: VecDeque<stale::StaleRun>,
    hedging: hedge::Hedging,
    reception: overdue::Reception,
    /// When samples of connections are taken next; set while there is something to watch.
    sample_at: Option<Instant>,
    functions: Vec<tmf::Function>,
    /// Immediate functions that wait for commands with lower numbers.
    early_functions: Vec<(LineId, TaskManagementRequest)>,
    /// Answers to functions that wait for acknowledgements.
    held_answers: Vec<line::HeldAnswer>,
    /// The path over which home's session was led last.
    home_path: PathId,
    home_lost_since: Option<Instant>,
    /// What waits for home was given up: it is ended as it comes.
    exhausted: bool,
    /// When rescues are let go, if home stays well.
    rescued_until: Option<Instant>,
    /// It is on another path than when it was up last.
    home_moved: bool,
    finishing: Option<finish::Finishing>,
    /// Nothing is read from targets at the moment.
    paused: bool,
    /// Connections, nexuses or ghosts changed: [`Session::maintain`] has something to look at.
    changed: bool,
    seq: u64,
    next_conn: u32,
    next_ttt: u32,
    next_check: u64,
    /// When states of port groups are looked at next.
    access_at: Option<Instant>,
    next_ghost: u64,
    control: u32,
    tally: Tally,
    /// Something waits for a place in a target's window.
    window_full_since: Option<Instant>,
    outputs: VecDeque<Output>,
}

impl Session {
    /// The engine of a session whose two leading logins have just succeeded.
    #[must_use]
    pub fn new(plan: SessionPlan, now: Instant) -> Self {
        let front = sequence::Front::new(plan.downstream.cmd_sn, plan.downstream.max_cmd_sn);
        let mut session = Self {
            rules: rules::Rules::default(),
            now,
            looked: now,
            front,
            lines: line::Lines::new(&plan.downstream),
            tasks: tasks::Tasks::default(),
            order: order::Order::new(order::Left::by(plan.barriers, plan.paths.len())),
            any_queue: VecDeque::new(),
            home_queue: VecDeque::new(),
            own_queue: VecDeque::new(),
            unsolicited: VecDeque::new(),
            held: 0,
            promised: 0,
            overdrawn: None,
            nexuses: Vec::new(),
            conns: Vec::new(),
            paths: Vec::new(),
            loads: plan.paths.iter().map(|p| PathLoad::new(p.weight)).collect(),
            usable: Vec::new(),
            selector: Selector::new(plan.policy),
            units: BTreeMap::new(),
            strangers: Vec::new(),
            checks: Vec::new(),
            inventories: BTreeMap::new(),
            caches: caches::Caches::new(plan.has_twins()),
            recovery: None,
            ghosts: Vec::new(),
            fences: Vec::new(),
            stuck_check_at: None,
            question_at: None,
            stale_runs: VecDeque::new(),
            hedging: hedge::Hedging::new(plan.paths.len(), now),
            reception: overdue::Reception::new(now),
            sample_at: None,
            functions: Vec::new(),
            early_functions: Vec::new(),
            held_answers: Vec::new(),
            home_path: plan.home_path,
            home_lost_since: None,
            exhausted: false,
            rescued_until: None,
            home_moved: false,
            finishing: None,
            paused: false,
            changed: true,
            seq: 0,
            next_conn: 0,
            next_ttt: 1,
            next_check: 0,
            access_at: None,
            next_ghost: 0,
            control: 0,
            tally: Tally::default(),
            window_full_since: None,
            outputs: VecDeque::new(),
            plan,
        };
        #[cfg(feature = "mutants")]
        session.mutate_as_all();
        session.build_nexuses(now);
        session.maintain(now);
        session
    }

    /// Something happened.
    pub fn handle(&mut self, event: Event, now: Instant) {
        self.now = now;
        match event {
            Event::Downstream(line, pdu) => {
                self.reception.heard = now;
                if self.finishing.is_none() && self.lines.get(line).is_some() {
                    self.take_downstream(line, pdu, now);
                }
            }
            Event::DownstreamRejectable { line, header, reason } => {
                self.reception.heard = now;
                if self.lines.get(line).is_some() {
                    self.downstream_spoilt(line, &header, reason, now);
                }
            }
            Event::DownstreamAwaited(cid) => self.await_line(cid, now),
            Event::DownstreamJoined(line, login) => self.line_joined(line, &login),
            Event::DownstreamNotJoined(cid) => self.line_not_joined(cid, now),
            Event::DownstreamClosed(line) => self.line_lost(line, now),
            Event::Stop => self.begin_finish(now),
            Event::Upstream(conn, pdu) => self.take_upstream(conn, pdu, now),
            Event::Connected(conn, negotiated) => self.connected(conn, &negotiated, now),
            Event::Disconnected(conn, cause) => self.disconnected(conn, cause, now),
            Event::Health(conn, sample) => self.sampled(conn, &sample, now),
            Event::Carrier(conn, present) => self.carrier_changed(conn, present, now),
            Event::Paused(paused) => self.set_paused(paused, now),
            Event::LinkUp => self.try_paths_again(now),
            Event::Control(control) => self.control(control, now),
            Event::Retune(tuning) => self.retune(&tuning, now),
        }
        self.dispatch(now);
        self.end_hopeless(now);
        self.introduce(now);
        if std::mem::take(&mut self.changed) || self.finishing.is_some() || self.is_draining() {
            self.look_around(now);
        }
        self.check_access(now);
        self.begin_watch(now);
        self.make_room();
    }

    /// A deadline has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.looked = now;
        self.settle_paths(now);
        self.expire_ghosts(now);
        self.expire_functions(now);
        self.expire_recovery(now);
        self.expire_sequences(now);
        self.expire_acknowledgements(now);
        self.settle_questions(now);
        self.watch(now);
        self.hedge(now);
        self.check_health(now);
        self.give_up_in_time(now);
        self.give_late_answers(now);
        self.look_for_units_again(now);
        self.dispatch(now);
        self.end_hopeless(now);
        self.look_around(now);
        self.check_access(now);
        self.begin_watch(now);
    }

    /// What changes with the state of connections rather than with data.
    fn look_around(&mut self, now: Instant) {
        self.forget_stale_runs(now);
        self.check_drains(now);
        self.tend_registrations(now);
        self.maintain(now);
        self.progress_finish(now);
        self.dispatch(now);
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front()?;
        if let Output::ToInitiator(line, pdu) = &output {
            self.keep(*line, pdu);
        }
        Some(output)
    }

    /// When [`Session::handle_timeout`] is due, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let all = [
            self.nexus_deadline(),
            self.ghost_deadline(),
            self.fence_deadline(),
            self.inventory_deadline(),
            self.outage_deadline(),
            self.finish_deadline(),
            self.registration_deadline(),
            self.function_deadline(),
            self.recovery_deadline(),
            self.sequence_deadline(),
            self.question_deadline(),
            self.access_deadline(),
            self.caches_deadline(),
            self.rescue_deadline(),
            self.sample_at,
            self.hedge_deadline(),
            self.calm_deadline(),
            self.acknowledgement_deadline(),
        ];
        all.into_iter().flatten().filter(|at| *at > self.looked).min()
    }

    /// Bytes of write data held and booked, and of what is kept to be sent again.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.held + self.promised + self.front.early_bytes() + self.lines.kept()
    }

    /// Number of the path's commands in flight.
    #[must_use]
    pub fn in_flight(&self, path: PathId) -> u32 {
        self.loads.get(path.0).map_or(0, |l| l.commands)
    }

    fn set_paused(&mut self, paused: bool, now: Instant) {
        self.paused = paused;
        for conn in &mut self.conns {
            conn.last_heard = now;
        }
        self.restart_functions_patience(now);
        self.restart_recovery_patience(now);
        self.restart_sequences_patience(now);
        self.hedging_paused(now);
    }

    /// Sends to the initiator, unless its connection is gone or being closed.
    fn tell(&mut self, line: LineId, pdu: Pdu) {
        if self.finishing.is_none() && self.lines.get(line).is_some() {
            self.outputs.push_back(Output::ToInitiator(line, pdu));
        }
    }

    fn note(&mut self, notice: Notice) {
        self.outputs.push_back(Output::Note(notice));
    }
}
