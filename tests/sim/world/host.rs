//! The machine that Braid runs on: takes logins, makes connections, and does what the engine wants done, as
//! `braid::proxy` does with sockets.

use super::{Happening, World};
use crate::checker::{Broken, Downstream, Upstream};
use crate::conditions::Told;
use crate::hedging::Hedges;
use crate::initiator::{BLOCK, FIRST_BURST, MAX_BURST, SEGMENT};
use crate::net::{Dir, End, Packet, Role, Wire};
use crate::target::{Abort, NAMES, Report};
use braid::iscsi::text::KeyList;
use braid::iscsi::{Cid, CmdSn, Isid, Pdu, StatSn, Tsih, reject};
use braid::login::{ConnectionParams, LoginKind, LoginPlan, Negotiated, SessionParams};
use braid::session::mutant::Mutant;
use braid::session::{
    Cause, ConnId, Doubt, Event, Exhausted, Fanout, FenceMethod, How, LineId, Notice, Output, PathId,
    PathPlan, Session, SessionPlan, Trigger, Tuning, Unwashed,
};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const LOGIN_TIMEOUT: Duration = Duration::from_secs(15);
/// Head start of a path before the next one is tried as well, for a leading login.
const STAGGER: Duration = Duration::from_millis(300);
/// As `braid::proxy` opens a session's window at first.
const FIRST_WINDOW: u32 = 32;
const SILENCE_TIMEOUT: Duration = Duration::from_secs(4);
const SEQUENCE_TIMEOUT: Duration = Duration::from_secs(3);
pub(super) const FENCE_TIME: Duration = Duration::from_secs(30);
/// The initiator's own, and so home's.
const HOME_ISID: Isid = Isid(crate::target::HOME);
/// How long a predecessor may take to end.
const REINSTATEMENT_PATIENCE: Duration = Duration::from_secs(15);

/// A leading login under way.
#[derive(Debug)]
struct Leading {
    front: u32,
    /// The initiator's first CmdSN.
    first: CmdSn,
    plan: LoginPlan,
    wire: u32,
    path: usize,
}

/// Braid's machine.
pub(super) struct Host {
    pub(super) running: bool,
    /// When Braid last came up after a crash.
    pub(super) crashed: Option<Instant>,
    /// What the sessions before left in caches.
    pub(super) unwashed: Unwashed,
    pub(super) session: Option<Session>,
    pub(super) incarnation: u32,
    mutant: Option<Mutant>,
    /// The engine's connections.
    wires: Vec<(ConnId, u32)>,
    /// Those of which it wants a sample.
    to_sample: Vec<ConnId>,
    /// The initiator's first connection of the session that is served, whether it is still there or not.
    pub(super) front: Option<u32>,
    /// Its connections that are there.
    pub(super) lines: Vec<(LineId, u32)>,
    pub(super) next_line: u32,
    /// One that wants to log in, with its login.
    waiting: Option<(u32, LoginPlan)>,
    leading: Option<Leading>,
    /// The initiator reads nothing, so targets are not read.
    paused: bool,
    parked: VecDeque<(u32, Packet)>,
    /// Braid told why the session must end.
    ends_for_cause: bool,
    upstream: Option<Upstream>,
    pub(super) downstream: Option<Downstream>,
    hedges: Hedges,
}

impl Host {
    pub(super) fn new(mutant: Option<Mutant>) -> Self {
        Self {
            running: true,
            crashed: None,
            unwashed: Unwashed::default(),
            session: None,
            incarnation: 0,
            mutant,
            wires: Vec::new(),
            to_sample: Vec::new(),
            front: None,
            lines: Vec::new(),
            next_line: 0,
            waiting: None,
            leading: None,
            paused: false,
            parked: VecDeque::new(),
            ends_for_cause: false,
            upstream: None,
            downstream: None,
            hedges: Hedges::default(),
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.session.as_ref().and_then(Session::next_deadline)
    }

    fn wire(&self, conn: ConnId) -> Option<u32> {
        self.wires.iter().find(|(c, _)| *c == conn).map(|(_, w)| *w)
    }
}

fn judged(result: Result<(), Broken>) {
    if let Err(broken) = result {
        panic!("R{}: {}", broken.requirement, broken.what);
    }
}

fn fenced(method: FenceMethod) -> &'static str {
    match method {
        FenceMethod::Reinstate => "notice: fenced by reinstatement",
        FenceMethod::Ordered => "notice: fenced by an ordered command",
        FenceMethod::Auto | FenceMethod::Time => "notice: fenced by time",
    }
}

fn turned(trigger: Trigger) -> &'static str {
    match trigger {
        Trigger::Tried => "path: tried",
        Trigger::Connected => "path: connected",
        Trigger::Failed => "path: not connected",
        Trigger::Doubted(Doubt::Unacknowledged) => "path: suspect, nothing acknowledged",
        Trigger::Doubted(Doubt::Resending) => "path: suspect, sending again",
        Trigger::Doubted(Doubt::TargetSilent) => "path: suspect, target silent",
        Trigger::Doubted(Doubt::NoCarrier) => "path: suspect, no carrier",
        Trigger::Trusted => "path: trusted again",
        Trigger::Demoted => "path: marginal while it works",
        Trigger::Calmed => "path: marginal no more",
        Trigger::Ordered => "path: drained by the operator",
        Trigger::Asked => "path: drained for the target",
        Trigger::Dispensable => "path: drained since home is well again",
        Trigger::Left => "path: left in order",
        Trigger::Lost => "path: lost",
        Trigger::Restored => "path: given back",
    }
}

impl World {
    /// What the initiator's first login says, and Braid's leading one with it.
    pub(super) fn login_plan(&mut self) -> LoginPlan {
        LoginPlan { cmd_sn: self.initiator.first_cmd_sn(), ..Self::plain_login() }
    }

    pub(super) fn plain_login() -> LoginPlan {
        LoginPlan {
            kind: LoginKind::Leading,
            initiator_name: "iqn.2026-11.org.example:model".into(),
            target_name: NAMES[0].into(),
            isid: HOME_ISID,
            cid: Cid(0),
            cmd_sn: CmdSn(0),
            offer: SessionParams::default(),
            connection: ConnectionParams::default(),
        }
    }

    pub(super) fn braid_hears_initiator(&mut self, wire: u32, packet: Packet) {
        if !self.host.running {
            self.far_closes(wire);
            return;
        }
        match packet {
            Packet::Login(plan) if matches!(plan.kind, LoginKind::Joining { .. }) => {
                self.join_asked(wire, &plan)
            }
            Packet::Login(plan) => {
                self.trace(&[10], || "braid: the initiator wants to log in".into());
                self.host.waiting = Some((wire, *plan));
                if self.host.session.is_some() {
                    self.coverage.hit("recovery: predecessor is ended first");
                    self.host.ends_for_cause = true;
                    self.feed(Event::Stop);
                    let incarnation = self.host.incarnation;
                    self.after(REINSTATEMENT_PATIENCE + FENCE_TIME, Happening::KillSession { incarnation });
                } else if self.host.leading.is_none() {
                    self.serve_waiting();
                }
            }
            Packet::Pdu(pdu) => {
                if let Some(line) = self.line_of(wire) {
                    if self.initiator.swallows(&pdu) {
                        return self.note_unseen(&pdu);
                    }
                    self.braid_hears_line(line, pdu);
                }
            }
            Packet::LoginAnswer(_) => {}
            Packet::End => {
                self.wires[wire as usize].far = End::Closed;
                self.braid_loses_line(wire);
                if self.host.waiting.as_ref().is_some_and(|(w, _)| *w == wire) {
                    self.host.waiting = None;
                }
            }
        }
    }

    /// A PDU is lost, and neither side knows.
    fn note_unseen(&mut self, pdu: &Pdu) {
        self.trace(&[22], || format!("lost: {pdu}"));
        if let Some(checker) = &mut self.host.downstream {
            checker.lost(pdu.itt());
        }
    }

    /// Begins the leading login for the initiator that waits.
    fn serve_waiting(&mut self) {
        let Some((front, mut plan)) = self.host.waiting.take() else { return };
        let paths = u16::try_from(self.scenario.paths.len()).unwrap();
        let first = plan.cmd_sn;
        plan.cmd_sn = CmdSn(1);
        plan.offer = SessionParams {
            max_connections: if self.scenario.fanout == Fanout::Mcs { paths } else { 1 },
            initial_r2t: false,
            default_time2wait: if self.scenario.reassigns { 0 } else { 2 },
            error_recovery_level: if self.scenario.reassigns { 2 } else { 0 },
            ..SessionParams::default()
        };
        plan.target_name = self.scenario.target_of(0);
        let wire = self.dial(0, Role::Leading, plan.clone());
        self.host.leading = Some(Leading { front, first, plan, wire, path: 0 });
    }

    /// Makes a connection over a path and sends the login.
    fn dial(&mut self, path: usize, role: Role, plan: LoginPlan) -> u32 {
        let wire = u32::try_from(self.wires.len()).unwrap();
        self.wires.push(Wire::new(path, role, self.now));
        let link = &self.links[path];
        let silent = link.is_silent(Dir::Up, self.now) || link.is_silent(Dir::Down, self.now);
        if link.refuses.is_some_and(|until| self.now < until) {
            self.wires[wire as usize].far = End::Closed;
            self.transmit(wire, Dir::Down, Packet::End);
        } else {
            self.transmit(wire, Dir::Up, Packet::Login(Box::new(plan)));
        }
        if silent && role == Role::Leading {
            self.after(STAGGER, Happening::LeadingStalls { wire });
        }
        let patience = if silent { CONNECT_TIMEOUT } else { LOGIN_TIMEOUT };
        self.after(patience, Happening::DialTimeout { wire });
        wire
    }

    pub(super) fn dial_timeout(&mut self, wire: u32) {
        if !self.wires[wire as usize].logged_in {
            self.break_near(wire, "login timed out");
        }
    }

    pub(super) fn leading_stalls(&mut self, wire: u32) {
        if !self.wires[wire as usize].logged_in {
            self.break_near(wire, "no headway");
        }
    }

    pub(super) fn braid_hears_target(&mut self, wire: u32, packet: Packet) {
        if self.host.paused && matches!(packet, Packet::Pdu(_) | Packet::End) {
            self.host.parked.push_back((wire, packet));
            return;
        }
        let role = self.wires[wire as usize].role;
        match (packet, role) {
            (Packet::LoginAnswer(Ok(agreed)), Role::Leading) => self.leading_done(wire, *agreed),
            (Packet::LoginAnswer(Ok(agreed)), Role::Engine(conn)) => {
                self.wires[wire as usize].logged_in = true;
                self.trace(&[11, u64::from(conn)], || format!("braid: connection {conn} is up (#{wire})"));
                if let Some(checker) = &mut self.host.upstream {
                    checker.connected(ConnId(conn), &agreed);
                }
                self.feed(Event::Connected(ConnId(conn), agreed));
            }
            (Packet::LoginAnswer(Err(_)), Role::Engine(conn)) => {
                self.coverage.hit("recovery: login refused");
                self.near_closes(wire);
                self.engine_loses(wire, ConnId(conn), Cause::Login("refused".into()));
            }
            (Packet::LoginAnswer(Err(_)), _) => self.break_near(wire, "login refused"),
            (Packet::Pdu(pdu), Role::Engine(conn)) => {
                if let Some(checker) = &mut self.host.upstream {
                    checker.received(ConnId(conn), &pdu);
                }
                self.note_report(wire, &pdu);
                self.feed(Event::Upstream(ConnId(conn), pdu));
            }
            (Packet::End, _) => self.break_near(wire, "closed by the target"),
            (Packet::Pdu(_) | Packet::Login(_) | Packet::LoginAnswer(_), _) => {}
        }
    }

    /// Braid hears of something that happened to the target, while it serves the initiator.
    fn note_report(&mut self, wire: u32, pdu: &Pdu) {
        // Data may come before the answer that tells, and be all that comes.
        if matches!(pdu, Pdu::DataIn(data) if !data.has_status) {
            return;
        }
        let Some(at) = self.reports.iter().position(|r| r.conn == wire && r.itt == pdu.itt()) else { return };
        let report = self.reports.swap_remove(at);
        if self.host.front.is_some() && self.host.front == self.front {
            let home = report.isid == HOME_ISID.0;
            let Report { event, unit, since, .. } = report;
            let under_way = self.initiator.under_way(unit);
            self.initiator.conditions.reported(&Told { event, unit, home, since }, under_way);
        }
    }

    /// Braid finds an upstream connection broken.
    pub(super) fn braid_loses(&mut self, wire: u32, why: &str) {
        match self.wires[wire as usize].role {
            Role::Engine(conn) => self.engine_loses(wire, ConnId(conn), Cause::Tcp(why.into())),
            Role::Leading => self.next_leading(wire),
            Role::Downstream => {}
        }
    }

    fn engine_loses(&mut self, wire: u32, conn: ConnId, cause: Cause) {
        let before = self.host.wires.len();
        self.host.wires.retain(|(_, w)| *w != wire);
        if self.host.wires.len() < before {
            self.trace(&[12, u64::from(conn.0)], || {
                format!("braid: connection {} is lost: {cause:?}", conn.0)
            });
            if let Some(checker) = &mut self.host.upstream {
                checker.closed(conn);
            }
            self.feed(Event::Disconnected(conn, cause));
        }
    }

    /// The leading login goes on over the next path, or fails.
    fn next_leading(&mut self, wire: u32) {
        let Some(mut leading) = self.host.leading.take_if(|l| l.wire == wire) else { return };
        let path = leading.path + 1;
        // Before anything is known of the disks, a path to other ones would be as good as any.
        if path >= self.scenario.paths.len() || self.scenario.misleads(path) {
            self.coverage.hit("recovery: no leading login");
            self.transmit(leading.front, Dir::Down, Packet::LoginAnswer(Err((3, 1))));
            self.far_closes(leading.front);
            self.serve_waiting();
            return;
        }
        self.coverage.hit("recovery: leading login over a further path");
        leading.plan.target_name = self.scenario.target_of(path);
        let wire = self.dial(path, Role::Leading, leading.plan.clone());
        self.host.leading = Some(Leading { wire, path, ..leading });
    }

    fn leading_done(&mut self, wire: u32, home: Negotiated) {
        let Some(leading) = self.host.leading.take_if(|l| l.wire == wire) else { return };
        self.wires[wire as usize].logged_in = true;
        self.wires[wire as usize].role = Role::Engine(0);
        if self.wires[leading.front as usize].far == End::Closed {
            // The initiator went away while it waited.
            self.near_closes(wire);
            self.serve_waiting();
            return;
        }
        let first = leading.first;
        let window = self.scenario.window.min(FIRST_WINDOW);
        let downstream = Negotiated {
            session: self.session_params(),
            connection: ConnectionParams {
                max_send_data_segment: u32::try_from(SEGMENT).unwrap(),
                max_recv_data_segment: u32::try_from(SEGMENT).unwrap(),
                ..ConnectionParams::default()
            },
            cmd_sn: first,
            max_cmd_sn: first.plus(window - 1),
            stat_sn: StatSn(first.0.rotate_left(7)),
            tsih: Tsih(1),
            cid: Cid(0),
            target_name: NAMES[0].into(),
            ..home.clone()
        };
        let plan = self.session_plan(leading.path, leading.plan, home, downstream.clone());
        self.host.incarnation += 1;
        self.host.ends_for_cause = false;
        self.host.wires = vec![(SessionPlan::HOME_CONN, wire)];
        self.host.upstream = Some(Upstream::new(&plan));
        self.host.downstream = Some(Downstream::new(&downstream));
        self.host.front = Some(leading.front);
        self.host.lines = vec![(SessionPlan::FIRST_LINE, leading.front)];
        self.host.next_line = SessionPlan::FIRST_LINE.0 + 1;
        self.host.hedges = Hedges::default();
        let mut session = Session::new(plan, self.now);
        if let Some(mutant) = self.host.mutant {
            session.mutate(mutant);
        }
        self.host.session = Some(session);
        self.coverage.hit("session begins");
        self.trace(&[13], || format!("braid: a session begins, home on path {} (#{wire})", leading.path));
        self.transmit(leading.front, Dir::Down, Packet::LoginAnswer(Ok(Box::new(downstream))));
        self.drain();
        if self.host.waiting.is_some() {
            self.host.ends_for_cause = true;
            self.feed(Event::Stop);
        }
    }

    fn braid_hears_line(&mut self, line: LineId, pdu: Pdu) {
        let spoilt = self.initiator.spoils(&pdu);
        match &mut self.host.downstream {
            Some(checker) if spoilt => checker.spoilt(line, &pdu),
            Some(checker) => checker.received(line, &pdu),
            None => {}
        }
        if spoilt {
            let (header, _) = pdu.encode();
            return self.feed(Event::DownstreamRejectable { line, header, reason: reject::DATA_DIGEST });
        }
        self.feed(Event::Downstream(line, pdu));
    }

    /// What Braid grants the initiator.
    pub(super) fn session_params(&self) -> SessionParams {
        SessionParams {
            max_connections: u16::try_from(self.scenario.lines).unwrap(),
            initial_r2t: self.scenario.initial_r2t,
            immediate_data: self.scenario.immediate_data,
            first_burst_length: FIRST_BURST,
            max_burst_length: MAX_BURST,
            error_recovery_level: u8::from(self.scenario.recovers),
            ..SessionParams::default()
        }
    }

    fn session_plan(
        &mut self,
        home_path: usize,
        home_login: LoginPlan,
        home: Negotiated,
        downstream: Negotiated,
    ) -> SessionPlan {
        let path =
            |n| PathPlan { name: format!("p{n}"), weight: 1, out: false, target: self.scenario.target_of(n) };
        let tuning = self.first_tuning();
        SessionPlan {
            downstream,
            paths: (0..self.scenario.paths.len()).map(path).collect(),
            home_path: PathId(home_path),
            home,
            home_login,
            fanout: self.scenario.fanout,
            policy: tuning.policy,
            fence: self.scenario.fence,
            barriers: self.scenario.order.barriers,
            fence_time: FENCE_TIME,
            predecessor: self.host.crashed,
            unwashed: self.host.unwashed.clone(),
            queue_time: tuning.queue_time,
            exhausted: tuning.exhausted,
            ping_interval: tuning.ping_interval,
            ping_timeout: tuning.ping_timeout,
            silence_timeout: tuning.silence_timeout,
            task_timeout: tuning.task_timeout,
            sequence_timeout: SEQUENCE_TIMEOUT,
            reconnect: tuning.reconnect,
            marginal: tuning.marginal,
            hedge: tuning.hedge,
            max_window: tuning.max_window,
            memory_budget: tuning.memory_budget,
            seed: 1,
            send_targets: KeyList::new(),
        }
    }

    /// The settings that a session begins with and that may change later.
    pub(crate) fn first_tuning(&self) -> Tuning {
        Tuning {
            policy: self.scenario.policy,
            queue_time: self.scenario.order.impatience.unwrap_or(Duration::from_secs(60)),
            exhausted: self.scenario.order.impatience.map_or(Exhausted::Close, |_| Exhausted::Busy),
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(5),
            silence_timeout: SILENCE_TIMEOUT,
            task_timeout: Duration::from_secs(20),
            reconnect: (Duration::from_millis(200), Duration::from_secs(10)),
            marginal: self.scenario.order.marginal,
            hedge: self.scenario.hedge,
            max_window: self.scenario.window,
            memory_budget: self.scenario.memory,
        }
    }

    /// The kernel tells that the link of a path has lost its carrier, or has it again.
    pub(super) fn carrier(&mut self, path: usize, present: bool) {
        let wires = self.host.wires.clone();
        for (conn, wire) in wires {
            let wire = &self.wires[wire as usize];
            if wire.link == path && wire.logged_in {
                self.feed(Event::Carrier(conn, present));
            }
        }
    }

    /// The kernel tells of a link.
    pub(super) fn link_up(&mut self) {
        if self.host.session.is_some() {
            self.coverage.hit("a link comes up");
            self.feed(Event::LinkUp);
        }
    }

    pub(super) fn engine_timeout(&mut self) {
        if let Some(session) = &mut self.host.session {
            session.handle_timeout(self.now);
            self.drain();
            self.take_samples();
        }
    }

    /// Tells the engine what the kernel knows of the connections that it asked for.
    fn take_samples(&mut self) {
        for conn in std::mem::take(&mut self.host.to_sample) {
            let Some(wire) = self.host.wire(conn).filter(|_| !self.weather.mute) else { continue };
            let wire = &mut self.wires[wire as usize];
            let link = &self.links[wire.link];
            let sample = wire.kernel.sample(self.now, link.is_silent(Dir::Down, self.now), link.trip());
            self.feed(Event::Health(conn, sample));
        }
    }

    pub(super) fn set_paused(&mut self, paused: bool) {
        if self.host.paused == paused || self.host.session.is_none() {
            self.host.paused &= paused;
            return;
        }
        self.host.paused = paused;
        self.feed(Event::Paused(paused));
        while !self.host.paused {
            let Some((wire, packet)) = self.host.parked.pop_front() else { break };
            if self.wires[wire as usize].near == End::Open {
                self.braid_hears_target(wire, packet);
            }
        }
    }

    /// A path over which the session has no connection.
    pub(super) fn missing_path(&self) -> Option<usize> {
        let up = |w: &Wire, path| w.link == path && w.logged_in && w.near == End::Open;
        let carried = |path| self.host.wires.iter().any(|(_, w)| up(&self.wires[*w as usize], path));
        (0..self.scenario.paths.len()).find(|path| !carried(*path))
    }

    /// The session that runs.
    pub(crate) fn session(&self) -> Option<&Session> {
        self.host.session.as_ref()
    }

    /// Gives the engine an event and does what it wants done.
    pub(crate) fn feed(&mut self, event: Event) {
        if let Some(session) = &mut self.host.session {
            if let (Event::Control(control), Some(checker)) = (&event, &mut self.host.upstream) {
                checker.states.ordered(*control);
            }
            session.handle(event, self.now);
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.host.session.as_mut().and_then(Session::poll) {
            match output {
                Output::ToInitiator(line, pdu) => self.send_to_initiator(line, pdu),
                Output::ToTarget(conn, pdu) => self.send_to_target(conn, pdu),
                Output::Sample(conn) => self.host.to_sample.push(conn),
                Output::Open(conn, path, plan) => {
                    self.coverage.hit(match plan.kind {
                        LoginKind::Joining { .. } => "opened: joins home's session",
                        _ if plan.isid == HOME_ISID => "opened: home anew",
                        _ => "opened: a further session",
                    });
                    self.trace(&[14, u64::from(conn.0)], || {
                        format!("braid: opens {} over path {}", conn.0, path.0)
                    });
                    if let Some(checker) = &mut self.host.upstream {
                        judged(checker.opened(conn, path, &plan));
                    }
                    let wire = self.dial(path.0, Role::Engine(conn.0), *plan);
                    self.host.wires.push((conn, wire));
                }
                Output::Close(conn, how) => {
                    self.trace(&[15, u64::from(conn.0)], || format!("braid: closes {} {how:?}", conn.0));
                    self.coverage.hit(if how == How::Reset {
                        "closed: by reset"
                    } else {
                        "closed: in order"
                    });
                    if let Some(checker) = &mut self.host.upstream {
                        checker.closed(conn);
                    }
                    if let Some(wire) = self.host.wire(conn) {
                        self.host.wires.retain(|(c, _)| *c != conn);
                        self.near_closes(wire);
                    }
                }
                Output::CloseDownstream => {
                    if let Some(checker) = &mut self.host.upstream {
                        checker.states.ends();
                    }
                    if self.host.front.take().is_some() {
                        let reset = self.initiator.cold_reset.is_some();
                        let wanted = self.initiator.logging_out || self.host.ends_for_cause || reset;
                        assert!(wanted, "P3: the initiator's connection is closed without a cause");
                    }
                    for (_, wire) in std::mem::take(&mut self.host.lines) {
                        self.far_closes(wire);
                    }
                }
                Output::CloseLine(line) => self.braid_closes_line(line),
                Output::Finished(unwashed) => {
                    self.host.unwashed = unwashed;
                    self.session_over();
                }
                Output::Note(notice) => self.noted(&notice),
            }
        }
        self.judge_memory();
        if let Some(checker) = &self.host.upstream {
            checker.states.judge();
        }
        // A mutant must be noticed from outside.
        if let Some(session) = &self.host.session
            && self.host.mutant.is_none()
            && let Err(broken) = session.check()
        {
            panic!("invariant: {broken}");
        }
    }

    /// Write data held stays within the budget, but for one write, and what came unasked before the window closed.
    fn judge_memory(&self) {
        let Some(session) = &self.host.session else { return };
        let unasked = u64::from(self.scenario.window) * u64::from(FIRST_BURST);
        let most = self.scenario.memory + unasked + (self.scenario.longest * BLOCK) as u64;
        assert!(
            session.memory() <= most,
            "P4: {} bytes of write data held, {most} allowed",
            session.memory()
        );
    }

    fn send_to_initiator(&mut self, line: LineId, pdu: Pdu) {
        self.trace(&[16], || {
            format!("braid     ->  initiator ({}) {pdu}{}", line.0, super::wires::sense(&pdu))
        });
        if let Some(checker) = &mut self.host.downstream {
            judged(checker.sent(line, &pdu));
        }
        if self.scenario.lines > 1 {
            self.initiator.is_told(&pdu, self.now);
        }
        if let Some(wire) = self.wire_of(line) {
            if self.scenario.lines > 1 && self.wires[wire as usize].near == End::Closed {
                self.initiator.conditions.answer_lost();
            }
            self.transmit(wire, Dir::Down, Packet::Pdu(pdu));
        }
    }

    fn send_to_target(&mut self, conn: ConnId, pdu: Pdu) {
        let wire = self.host.wire(conn).expect("a PDU for a connection that is not open");
        self.trace(&[17, u64::from(conn.0)], || format!("braid     ->  {} (#{wire}) {pdu}", conn.0));
        if let Some(checker) = &mut self.host.upstream {
            judged(checker.sent(conn, &pdu));
        }
        self.host.hedges.sent(&pdu);
        let which = self.target_of(wire);
        self.targets[which].note_sent(wire, &pdu, self.now);
        self.transmit(wire, Dir::Up, Packet::Pdu(pdu));
    }

    fn session_over(&mut self) {
        self.trace(&[18], || "braid: the session is over".into());
        self.coverage.hit("session ends in order");
        for (_, wire) in std::mem::take(&mut self.host.wires) {
            self.near_closes(wire);
        }
        self.judge_end();
        self.host.session = None;
        if self.host.leading.is_none() {
            self.serve_waiting();
        }
    }

    fn judge_end(&mut self) {
        if let Some(checker) = self.host.upstream.take() {
            judged(checker.end());
            self.judge_counts(checker.judged());
        }
        if let Some(checker) = self.host.downstream.take() {
            self.judge_counts(checker.judged());
        }
    }

    fn judge_counts(&mut self, judged: &[u64; 246]) {
        for (sum, times) in self.judged.iter_mut().zip(judged) {
            *sum += times;
        }
    }

    pub(super) fn kill_session(&mut self, incarnation: u32) {
        if self.host.session.is_some() && self.host.incarnation == incarnation {
            panic!("P4: a session does not end in {:?}", REINSTATEMENT_PATIENCE + FENCE_TIME);
        }
    }

    /// Braid dies, and starts again a little later.
    pub(super) fn braid_dies(&mut self, host: bool) {
        self.host.running = false;
        self.host.session = None;
        self.judge_end();
        self.host.front = None;
        let fronts = std::mem::take(&mut self.host.lines).into_iter().map(|(_, wire)| wire);
        let waiting = self.host.waiting.take().map(|(wire, _)| wire);
        let leading = self.host.leading.take();
        let fronts: Vec<u32> = fronts.chain(waiting).chain(leading.as_ref().map(|l| l.front)).collect();
        for front in fronts {
            if host && self.wires[front as usize].far == End::Open {
                self.wires[front as usize].far = End::Closed;
                let finds_out = self.random.between(Duration::from_millis(100), Duration::from_secs(8));
                self.after(finds_out, Happening::Arrive { wire: front, dir: Dir::Down, packet: Packet::End });
            }
            self.far_closes(front);
        }
        let wires: Vec<u32> =
            self.host.wires.drain(..).map(|(_, w)| w).chain(leading.map(|l| l.wire)).collect();
        for wire in wires {
            if host {
                self.dies_silently(wire);
            } else {
                self.near_closes(wire);
            }
        }
        self.host.parked.clear();
        self.host.paused = false;
        let pause = self.random.between(Duration::from_millis(20), Duration::from_secs(3));
        self.after(pause, Happening::BraidStarts);
    }

    /// A connection over a path was given up for silence: the link was silent, or the target had closed it while Braid read
    /// nothing.
    fn judge_silence(&self, path: usize) {
        let its = |w: &&Wire| w.link == path && w.near == End::Closed && matches!(w.role, Role::Engine(_));
        let gone = self.wires.iter().rfind(its).is_some_and(|w| w.far == End::Closed);
        let silent = self.links[path].was_silent(self.now - SILENCE_TIMEOUT);
        assert!(gone || silent, "P4: a path that is only slow was declared dead");
    }

    fn noted(&mut self, notice: &Notice) {
        self.trace(&[19], || format!("braid: {notice:?}"));
        if let Some(checker) = &mut self.host.upstream {
            checker.states.noted(notice);
        }
        let name = match notice {
            Notice::PathUp { .. } => "notice: path up",
            Notice::PathDown { path, was_up, cause } => {
                if *was_up {
                    self.initiator.connection_lost();
                }
                if *cause == Cause::Tcp("silent".into()) {
                    self.coverage.hit("recovery: a silent connection is given up");
                    self.judge_silence(path.0);
                }
                "notice: path down"
            }
            Notice::Moved { .. } => "notice: commands moved",
            Notice::Reassigned { .. } => "notice: session recovered with its tasks",
            Notice::PathState { trigger, .. } => turned(*trigger),
            Notice::PathMarginal { .. } => "notice: path marginal",
            Notice::Evaded { .. } => "notice: commands asked again elsewhere",
            Notice::Hedged { .. } => {
                self.host.hedges.hedged(self.scenario.hedge);
                "notice: late read asked again"
            }
            Notice::HedgeWon { .. } => "notice: late read answered elsewhere first",
            Notice::Fenced { method, .. } => fenced(*method),
            Notice::OutcomeUnknown { .. } => "notice: outcome unknown",
            Notice::IdentityMismatch { what, .. } => {
                self.host.ends_for_cause |= what.starts_with("home");
                "notice: identity mismatch"
            }
            Notice::UnitBound { .. } => "notice: unit bound to home",
            Notice::IdentityProved { .. } => "notice: identity proved",
            Notice::Completed { .. } => "notice: completed",
            Notice::UnitAttentionAbsorbed { .. } => "notice: unit attention absorbed",
            Notice::AccessChanged { .. } => "notice: access state changed",
            Notice::TransitionAsked { lun, .. } => {
                self.initiator.conditions.transition_asked(usize::try_from(*lun).unwrap());
                "notice: transition asked for"
            }
            Notice::TransitionRefused { .. } => "notice: transition refused",
            Notice::Quirk { quirk, .. } => quirk.row().name,
            // What came spoilt, and what was asked for in vain.
            Notice::DownstreamDigest(_) => "notice: data came with a wrong digest",
            Notice::DownstreamProtocol(what) => self.judge_complaint(what),
            Notice::LineUp { .. } => "notice: the initiator has a connection more",
            Notice::LineDown { .. } => "notice: the initiator has a connection less",
            Notice::AllPathsDown => "notice: all paths down",
            Notice::GaveUp(Exhausted::Busy) => {
                self.initiator.home_stays_away();
                "notice: commands given up"
            }
            Notice::TakenAgain => {
                self.initiator.home_is_back(self.now);
                "notice: commands taken again"
            }
            Notice::GaveUp(Exhausted::Close) => {
                self.host.ends_for_cause = true;
                "notice: gave up"
            }
        };
        self.coverage.hit(name);
        self.judge_calm(notice);
    }

    /// Braid says that the initiator broke the protocol: it is what came spoilt, what was asked for in vain, or data that never came.
    /// A target that does not abort the write keeps it, to the end of the session.
    fn judge_complaint(&mut self, what: &str) -> &'static str {
        let known = [
            ("rejected a PDU", "notice: a PDU rejected"),
            ("write data did not come", "notice: write data given up"),
        ];
        let keeps = self.scenario.persona.abort_task == Abort::Unsupported;
        self.host.ends_for_cause |= keeps && what.starts_with("write data did not come");
        let fits = known.iter().find(|(begin, _)| self.scenario.recovers && what.starts_with(begin));
        fits.unwrap_or_else(|| panic!("P3: a rule kept was called broken: {what}")).1
    }

    /// Where nothing goes wrong, Braid says nothing of the kind.
    fn judge_calm(&self, notice: &Notice) {
        // Where write data are lost, targets may lose patience too.
        let calm = self.scenario.is_calm() && !self.scenario.recovers && !self.leaving;
        let troubled = match notice {
            // Granted connections, and does not let them in.
            Notice::PathDown { was_up: false, cause: Cause::Login(_), .. } => false,
            // A rescue is let go.
            Notice::PathDown { cause: Cause::Logout, .. } => self.scenario.fanout != Fanout::Mcs,
            Notice::PathDown { .. }
            | Notice::Moved { .. }
            | Notice::Reassigned { .. }
            | Notice::OutcomeUnknown { .. }
            | Notice::GaveUp(_) => true,
            _ => false,
        };
        assert!(!calm || !troubled, "P3: nothing is wrong, and Braid says {notice:?}");
    }

    /// The initiator makes a connection and logs in.
    pub(super) fn initiator_login(&mut self) {
        if self.front.is_some() || self.leaving {
            return;
        }
        let wire = u32::try_from(self.wires.len()).unwrap();
        let link = self.downstream_link();
        self.wires.push(Wire::new(link, Role::Downstream, self.now));
        self.front = Some(wire);
        self.lines.clear();
        let plan = self.login_plan();
        self.transmit(wire, Dir::Up, Packet::Login(Box::new(plan)));
    }

    pub(super) fn initiator_hears(&mut self, wire: u32, packet: Packet) {
        match packet {
            Packet::LoginAnswer(Ok(agreed)) if self.front == Some(wire) && self.lines.is_empty() => {
                self.trace(&[20], || "initiator: logged in".into());
                self.initiator.begin(&agreed);
                self.begin_lines(wire, &agreed);
            }
            Packet::LoginAnswer(Ok(agreed)) => self.joined(wire, &agreed),
            Packet::Pdu(pdu) => {
                self.initiator.hears_over(wire);
                let open = self.initiator.open_commands();
                if self.initiator.misses(&pdu) {
                    return self.note_unseen(&pdu);
                }
                self.initiator.hear(pdu, self.now);
                self.note_stall(self.initiator.open_commands() < open);
                self.judge_claims();
                self.send_downstream();
                if self.initiator.wonders() {
                    let while_ = self.random.between(Duration::ZERO, Duration::from_millis(20));
                    self.after(while_, Happening::InitiatorWonders { wire });
                }
                self.lines_dropped();
                if self.initiator.logged_out {
                    self.initiator_loses_all();
                }
            }
            Packet::LoginAnswer(Err(_)) | Packet::End => self.initiator_loses(wire),
            Packet::Login(_) => {}
        }
        self.turn_soon();
    }

    /// The initiator's connection is gone; it comes again.
    pub(super) fn initiator_loses(&mut self, wire: u32) {
        let several = self.scenario.lines > 1 && !self.lines.is_empty();
        if several && !self.line_lost(wire) || !several && self.front == Some(wire) {
            self.initiator_loses_all();
        }
    }

    /// All of them are gone; it comes again.
    pub(super) fn initiator_loses_all(&mut self) {
        let Some(wire) = self.front.take() else { return };
        self.trace(&[21], || "initiator: the connection is gone".into());
        self.initiator.lost();
        self.near_closes(wire);
        self.all_lines_lost();
        let pause = self.random.between(Duration::from_millis(1), Duration::from_millis(500));
        self.after(pause, Happening::InitiatorLogin);
    }

    /// What the initiator was told of reservations is what home would have shown at some time while it was asked (P3).
    fn judge_claims(&mut self) {
        for claim in std::mem::take(&mut self.initiator.claims) {
            let views = self.targets[0].views(claim.unit, claim.issued);
            assert!(
                views.iter().any(|view| claim.fits(view)),
                "P3: {claim:?}, home would have shown {views:?}"
            );
        }
    }
}
