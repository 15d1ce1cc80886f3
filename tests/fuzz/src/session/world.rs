//! Both sides of one engine, and the judge of what it puts out.

use super::initiator::Initiator;
use super::ops::{Op, Setup, Sizes, logged_in};
use super::target::Line;
use braid::iscsi::{CmdSn, Itt, Pdu, Receiver, Tsih};
use braid::login::{LoginKind, LoginPlan};
use braid::session::{Cause, ConnId, Event, Output, Session, SessionPlan};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Most outputs of one event: every task of a full window may move all its data.
const MOST_OUTPUTS: usize = 4096;
/// Handles of sessions that are led later count from here, apart from the first one's.
const FIRST_TSIH: u16 = 1000;
/// Most deadlines on the way through one wait, and until a session has ended.
const MOST_DEADLINES: usize = 4096;

const WAITS: [Duration; 8] = [
    Duration::from_millis(1),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(25),
    Duration::from_secs(61),
];

/// A login that the engine wants.
pub(super) struct Opening {
    pub(super) conn: ConnId,
    pub(super) plan: LoginPlan,
}

/// The engine and all around it.
pub(super) struct World {
    pub(super) session: Session,
    pub(super) plan: SessionPlan,
    pub(super) sizes: Sizes,
    pub(super) now: Instant,
    pub(super) initiator: Initiator,
    pub(super) lines: BTreeMap<ConnId, Line>,
    pub(super) opening: VecDeque<Opening>,
    pub(super) closed: BTreeSet<ConnId>,
    /// Next CmdSN of each upstream session, named by its leading connection.
    pub(super) due: BTreeMap<ConnId, CmdSn>,
    /// Each session by its handle. (One ISID may have several, in as many portal groups.)
    leading: BTreeMap<Tsih, ConnId>,
    downstream_closed: bool,
    pub(super) over: bool,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin; time passes only by adding to it")]
    pub(super) fn new(setup: &Setup) -> Self {
        let plan = setup.plan();
        let now = Instant::now();
        let mut world = Self {
            session: Session::new(plan.clone(), now),
            sizes: setup.upstream,
            now,
            initiator: Initiator::new(&plan),
            lines: BTreeMap::new(),
            opening: VecDeque::new(),
            closed: BTreeSet::new(),
            due: BTreeMap::new(),
            leading: BTreeMap::new(),
            downstream_closed: false,
            over: false,
            plan,
        };
        let (home, tsih) = (world.plan.home_login.clone(), world.plan.home.tsih);
        world.line_up(SessionPlan::HOME_CONN, &home, tsih, 16);
        world.drain();
        world
    }

    fn line_up(&mut self, conn: ConnId, plan: &LoginPlan, tsih: Tsih, window: u32) {
        let leads = !matches!(plan.kind, LoginKind::Joining { .. });
        if leads {
            self.leading.insert(tsih, conn);
            self.due.insert(conn, plan.cmd_sn);
        }
        let session = self.leading[&tsih];
        self.lines.insert(conn, Line::new(session, window, self.sizes.connection().max_send_data_segment));
    }

    /// One event, and all that comes of it.
    pub(super) fn handle(&mut self, event: Event) {
        if !self.over {
            self.session.handle(event, self.now);
            self.drain();
        }
    }

    fn drain(&mut self) {
        let mut outputs = 0;
        while let Some(output) = self.session.poll() {
            outputs += 1;
            assert!(outputs <= MOST_OUTPUTS, "one event causes more than {MOST_OUTPUTS} outputs");
            assert!(!self.over, "nothing comes after Finished: {output:?}");
            self.output(output);
        }
        if let Err(broken) = self.session.check() {
            panic!("invariant: {broken}");
        }
        let most = self.initiator.most_memory();
        assert!(self.session.memory() <= most, "{} bytes held, {most} allowed", self.session.memory());
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::ToInitiator(line, pdu) => {
                assert_eq!(line, SessionPlan::FIRST_LINE);
                assert!(!self.downstream_closed, "sent to an initiator that is gone: {pdu}");
                sendable(Receiver::Initiator, &pdu);
                self.initiator.told(pdu);
            }
            Output::ToTarget(conn, pdu) => {
                sendable(Receiver::Target, &pdu);
                let Some(line) = self.lines.get_mut(&conn) else { panic!("{conn:?} is not open: {pdu}") };
                let due = self.due.get_mut(&line.session).unwrap();
                line.take(pdu, due);
            }
            Output::Sample(_) => {}
            Output::Open(conn, path, plan) => {
                let known = self.lines.contains_key(&conn) || self.closed.contains(&conn);
                assert!(!known && self.opening.iter().all(|o| o.conn != conn), "{conn:?} is used twice");
                assert!(path.0 < self.plan.paths.len());
                self.opening.push_back(Opening { conn, plan: *plan });
            }
            Output::Close(conn, _) => {
                let was_opening = self.opening.iter().position(|o| o.conn == conn);
                let known = self.lines.remove(&conn).is_some() || was_opening.is_some();
                assert!(known, "{conn:?} is closed, and is not open");
                was_opening.map(|at| self.opening.remove(at));
                self.closed.insert(conn);
            }
            Output::CloseLine(line) => panic!("the initiator has one connection: {line:?}"),
            Output::CloseDownstream => {
                assert!(!self.downstream_closed, "the initiator's connection is closed twice");
                self.downstream_closed = true;
            }
            Output::Finished(_) => {
                assert!(self.downstream_closed && self.lines.is_empty() && self.opening.is_empty());
                self.over = true;
            }
            Output::Note(notice) => assert!(!format!("{notice:?}").is_empty()),
        }
    }

    /// What happens next.
    pub(super) fn act(&mut self, op: &Op<'_>) {
        match *op {
            Op::Connect { which, tpgt, window } => self.connect(which, 1 + u16::from(tpgt % 3 == 2), window),
            Op::Refuse { which, by_login } => {
                let cause = if by_login { Cause::Login("no".into()) } else { Cause::Tcp("no".into()) };
                if let Some(opening) = self.opening.remove(usize::from(which) % self.opening.len().max(1)) {
                    self.lost(opening.conn, cause);
                }
            }
            Op::Cut { conn, cause } => {
                let cause = match cause % 3 {
                    0 => Cause::Tcp("reset".into()),
                    1 => Cause::Protocol("nonsense".into()),
                    _ => Cause::Logout,
                };
                if let Some(conn) = self.line(conn) {
                    self.lines.remove(&conn);
                    self.lost(conn, cause);
                }
            }
            Op::Wait(length) => self.pass(WAITS[usize::from(length) % WAITS.len()]),
            Op::Pause(paused) => self.handle(Event::Paused(paused)),
            Op::Leave { stop, sure } if sure % 16 == 1 => {
                self.handle(if stop {
                    Event::Stop
                } else {
                    Event::DownstreamClosed(SessionPlan::FIRST_LINE)
                });
            }
            Op::Leave { .. } => {}
            Op::Serve { conn, which, how } => self.serve(conn, which, how),
            Op::ServeAll => self.serve_all(),
            Op::FromTarget { conn, raw } => self.say_anything(conn, &raw),
            Op::Late { raw } => self.late(&raw),
            Op::Command(_)
            | Op::Data { .. }
            | Op::Unsolicited { .. }
            | Op::Manage { .. }
            | Op::Ping { .. }
            | Op::Text { .. }
            | Op::Logout { .. }
            | Op::FromInitiator(_)
            | Op::Rejectable { .. } => {
                if let Some(event) = self.initiator.act(op) {
                    self.handle(event);
                }
            }
        }
    }

    /// The connection that a byte names.
    pub(super) fn line(&self, number: u8) -> Option<ConnId> {
        self.lines.keys().nth(usize::from(number) % self.lines.len().max(1)).copied()
    }

    fn connect(&mut self, which: u8, tpgt: u16, window: u8) {
        let Some(opening) = self.opening.remove(usize::from(which) % self.opening.len().max(1)) else {
            return;
        };
        let Opening { conn, plan } = opening;
        let window = 1 + u32::from(window % 32);
        let mut done = logged_in(&plan, self.sizes, tpgt, window);
        done.tsih = match plan.kind {
            LoginKind::Joining { tsih, .. } => tsih,
            LoginKind::Leading | LoginKind::Discovery => Tsih(FIRST_TSIH + u16::try_from(conn.0).unwrap()),
        };
        self.line_up(conn, &plan, done.tsih, window);
        if let LoginKind::Joining { .. } = plan.kind {
            let session = self.lines[&conn].session;
            done.max_cmd_sn = self.due[&session].plus(window).minus(1);
        }
        self.handle(Event::Connected(conn, Box::new(done)));
    }

    /// A connection is gone, and the engine is told.
    fn lost(&mut self, conn: ConnId, cause: Cause) {
        self.closed.insert(conn);
        self.handle(Event::Disconnected(conn, cause));
    }

    /// Time passes; the engine is woken at each of its deadlines on the way.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..MOST_DEADLINES {
            let deadline = if self.over { None } else { self.session.next_deadline() };
            let Some(at) = deadline.filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.wake(at);
        }
        panic!("the engine asks to be woken for ever");
    }

    fn wake(&mut self, at: Instant) {
        self.now = self.now.max(at);
        self.session.handle_timeout(self.now);
        self.drain();
    }

    /// The initiator goes, and all paths fall silent: the session ends all the same.
    pub(super) fn end(&mut self) {
        self.handle(Event::Paused(false));
        self.handle(Event::DownstreamClosed(SessionPlan::FIRST_LINE));
        for _ in 0..MOST_DEADLINES {
            while let Some(opening) = self.opening.pop_front() {
                self.lost(opening.conn, Cause::Tcp("no".into()));
            }
            if self.over {
                return;
            }
            let at = self.session.next_deadline();
            self.wake(at.expect("nothing will end the session"));
        }
        panic!("the session does not end");
    }

    /// Everything happens as it should: commands of an initiator and targets that kept to the rules come to their end.
    pub(super) fn heal(&mut self) {
        self.handle(Event::Paused(false));
        for _ in 0..120 {
            for _ in 0..self.opening.len() {
                self.connect(0, 1, 31);
            }
            self.serve_all();
            while let Some(event) = self.initiator.oblige() {
                self.handle(event);
            }
            self.serve_all();
            if self.over || self.downstream_closed || self.initiator.is_content() {
                return;
            }
            self.pass(Duration::from_secs(1));
        }
        if let Some(waiting) = self.initiator.waits_in_vain() {
            panic!("{waiting:?} is not answered though all is well");
        }
    }

    /// What a target sends reaches the engine.
    pub(super) fn deliver(&mut self, conn: ConnId, pdu: Pdu) {
        self.handle(Event::Upstream(conn, pdu));
    }
}

/// What is sent must be what the receiver reads.
fn sendable(receiver: Receiver, pdu: &Pdu) {
    let (header, ahs) = pdu.encode();
    let back = Pdu::parse(receiver, &header, &ahs, pdu.data().clone());
    assert_eq!(back.as_ref(), Ok(pdu), "not what was meant");
}

/// Whether a target's PDU takes a StatSN (R112).
pub(super) fn counts(pdu: &Pdu) -> bool {
    match pdu {
        Pdu::DataIn(data) => data.has_status,
        Pdu::R2t(_) => false,
        Pdu::NopIn(nop) => nop.itt != Itt::NONE,
        _ => true,
    }
}
