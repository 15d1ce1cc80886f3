//! The driver of one downstream session: one task owns the engine, all its sockets and its timer.
//!
//! # A turn
//! `Driver::select` is all that waits: for bytes of either side, for room to write, for a finished dial, for the
//! engine's deadline, or for the order to stop. It reads each socket at most once and says what there is.
//! `Driver::apply` is plain code: it reads the clock once, feeds every PDU that has arrived to the engine, does what
//! the engine puts out after each, and then writes every connection once. At queue depth one a command thus costs one
//! wakeup, one read and one write per hop; nothing is spawned and nothing is locked.
//!
//! # Back-pressure
//! | queue | limit | what stops |
//! | --- | --- | --- |
//! | to the initiator | `DOWNSTREAM_HIGH`, until below `DOWNSTREAM_LOW` | reading from the targets |
//! | to the initiator | `DOWNSTREAM_FLOOD` | reading from the initiator: it makes Braid answer, but takes nothing |
//! | to a target | `UPSTREAM_FLOOD` | reading from the initiator |
//!
//! The first is the normal one: the initiator is slower than the targets. The engine is told
//! ([`Event::Paused`]), because a ping is not late when nobody reads. The others only bound memory: write data in
//! upstream queues is the same memory that the engine's budget counts. A path that does not take its queue dies by its
//! ping, which drops the queue, so the initiator is never stopped for good. Of several connections of the initiator the
//! fullest counts; one that takes nothing is given up by the kernel (`TCP_USER_TIMEOUT`).

mod front;

use super::clock;
use super::conn::{Conn, ConnError};
use super::dial::{DialError, Way, dial_way};
use super::links::Network;
use super::notice::Observer;
use super::operator::Asked;
use super::recorder::Recorder;
use super::reload::{PathTerms, Terms};
use crate::iscsi::Cid;
use crate::login::{LoginPlan, Negotiated};
use crate::session::{Cause, ConnId, Control, Event, How, Output, PathId, Session, Unwashed};
use front::Front;
pub(super) use front::{Joined, Place};
use smallvec::SmallVec;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::Sleep;

/// Bytes for the initiator above which targets are not read.
const DOWNSTREAM_HIGH: usize = 4 << 20;

/// Bytes for the initiator below which targets are read again.
const DOWNSTREAM_LOW: usize = 1 << 20;

/// Bytes for the initiator above which it is not read itself.
const DOWNSTREAM_FLOOD: usize = 16 << 20;

/// Bytes for one target above which the initiator is not read.
const UPSTREAM_FLOOD: usize = 64 << 20;

/// An upstream connection in full feature phase.
#[derive(Debug)]
struct Upstream {
    id: ConnId,
    conn: Conn,
    /// The link that it goes out by has no carrier.
    dark: bool,
}

impl Upstream {
    fn new(id: ConnId, conn: Conn) -> Self {
        Self { id, conn, dark: false }
    }
}

/// What `Driver::select` found.
#[derive(Debug, Default)]
struct Ready {
    /// Connections over which the initiator sent something, or that are gone.
    downstream: front::Results,
    /// Targets that sent something, or are gone.
    upstream: SmallVec<[(ConnId, Result<(), ConnError>); 8]>,
    /// Something ended that ran beside the session.
    errand: Option<Errand>,
    /// The alarm went off.
    alarm: bool,
    /// Back-pressure begins or ends.
    turn_pause: bool,
}

impl Ready {
    fn is_any(&self) -> bool {
        !self.downstream.is_empty()
            || !self.upstream.is_empty()
            || self.errand.is_some()
            || self.alarm
            || self.turn_pause
    }
}

/// What runs beside the session as a task of its own, so that it costs the data path nothing until it ends.
#[derive(Debug)]
enum Errand {
    /// A dial.
    Dial(ConnId, Box<Dialled>),
    /// The order to end in order came.
    Stop,
    /// The order to end at once came.
    Kill,
    /// The network of this machine has changed.
    Network(watch::Receiver<Network>),
    /// The operator asks or orders something.
    Asked(Asked, mpsc::Receiver<Asked>),
    /// A login that the engine awaits is over; it may have come to nothing.
    Login(Cid, Option<Box<Joined>>),
}

/// Who else may have something to tell a session.
pub(super) struct Beside {
    /// Changes with the network of this machine.
    pub(super) links: watch::Receiver<Network>,
    /// Where the operator asks and orders.
    pub(super) asked: mpsc::Receiver<Asked>,
    /// What keeps the headers of PDUs.
    pub(super) recorder: Recorder,
}

/// Ends when the operator asks something; never once nobody can.
async fn asked(mut desk: mpsc::Receiver<Asked>) -> Errand {
    match desk.recv().await {
        Some(asked) => Errand::Asked(asked, desk),
        None => std::future::pending().await,
    }
}

/// Ends when the network changes; never where nobody tells.
async fn network(mut links: watch::Receiver<Network>) -> Errand {
    if links.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    Errand::Network(links)
}

type Dialled = Result<(Conn, Negotiated), DialError>;

/// How a session ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// Everything was finished and logged out; this is left in caches.
    InOrder(Unwashed),
    /// It was told to end at once.
    Killed,
}

/// One downstream session under way.
pub(super) struct Driver {
    engine: Session,
    ways: Vec<Way>,
    front: Front,
    upstream: Vec<Upstream>,
    errands: JoinSet<Errand>,
    dialling: Vec<(ConnId, PathId, AbortHandle)>,
    /// Connections of which the engine wants a sample.
    to_sample: SmallVec<[ConnId; 8]>,
    closing: JoinSet<()>,
    alarm: Alarm,
    paused: bool,
    /// [`Network::came_up`] when it was looked at last.
    came_up: u64,
    end: Option<Ending>,
    observer: Observer,
    recorder: Recorder,
}

impl Driver {
    /// A session whose downstream login and leading upstream login are done. `ways` goes with the plan's paths;
    /// `stop` ends when the session is to end in order, `kill` when it is to end at once.
    pub(super) fn new(
        engine: Session,
        ways: Vec<Way>,
        mut downstream: Conn,
        home: (ConnId, PathId, Conn),
        (stop, kill): (impl Future<Output = ()> + Send + 'static, impl Future<Output = ()> + Send + 'static),
        beside: Beside,
        observer: Observer,
    ) -> Self {
        let (id, path, mut conn) = home;
        beside.recorder.begin(&mut downstream, None);
        beside.recorder.begin(&mut conn, Some(path));
        let mut errands = JoinSet::new();
        errands.spawn(async move {
            stop.await;
            Errand::Stop
        });
        errands.spawn(async move {
            kill.await;
            Errand::Kill
        });
        let came_up = beside.links.borrow().came_up;
        errands.spawn(network(beside.links));
        errands.spawn(asked(beside.asked));
        Self {
            engine,
            ways,
            front: Front::new(downstream),
            upstream: vec![Upstream::new(id, conn)],
            errands,
            dialling: Vec::new(),
            to_sample: SmallVec::new(),
            closing: JoinSet::new(),
            alarm: Alarm::new(),
            paused: false,
            came_up,
            end: None,
            observer,
            recorder: beside.recorder,
        }
    }

    /// Runs until the engine is finished and all connections are closed. Dropping the future closes them at once.
    pub(super) async fn run(mut self) -> Ending {
        // Both logins may have left bytes behind their last PDU.
        let mut ready = Ready {
            downstream: self.front.ids().map(|id| (id, Ok(()))).collect(),
            upstream: self.upstream.iter().map(|up| (up.id, Ok(()))).collect(),
            ..Ready::default()
        };
        let ending = loop {
            self.apply(ready, clock::now());
            match self.end.take() {
                Some(Ending::Killed) => return Ending::Killed,
                Some(ending) => break ending,
                None => ready = self.select().await,
            }
        };
        self.errands.abort_all();
        self.close_downstream();
        while self.closing.join_next().await.is_some() {}
        ending
    }

    /// Waits until there is something to do.
    async fn select(&mut self) -> Ready {
        let deadline = self.engine.next_deadline();
        std::future::poll_fn(|cx| self.poll_ready(deadline, cx)).await
    }

    fn poll_ready(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> Poll<Ready> {
        let mut ready = Ready::default();
        self.poll_writes(&mut ready, cx);
        self.poll_reads(&mut ready, cx);
        self.poll_errands(&mut ready, cx);
        // A turn looks at the deadline anyway: the timer matters only when nothing else makes one.
        ready.alarm = !ready.is_any() && self.alarm.poll(deadline, cx).is_ready();
        if ready.is_any() { Poll::Ready(ready) } else { Poll::Pending }
    }

    /// Writes what could not be written at the end of a turn.
    fn poll_writes(&mut self, ready: &mut Ready, cx: &mut Context<'_>) {
        self.front.poll_drain(&mut ready.downstream, cx);
        for up in &mut self.upstream {
            if let Poll::Ready(Err(error)) = up.conn.poll_drain(cx) {
                ready.upstream.push((up.id, Err(error.into())));
            }
        }
        ready.turn_pause = self.paused != self.should_pause();
    }

    /// Reads each connection once, unless back-pressure or a failure forbids it.
    fn poll_reads(&mut self, ready: &mut Ready, cx: &mut Context<'_>) {
        if !self.flooded() {
            self.front.poll_fill(&mut ready.downstream, cx);
        }
        if self.paused || ready.turn_pause {
            return;
        }
        for up in &mut self.upstream {
            if ready.upstream.iter().any(|(id, _)| *id == up.id) {
                continue;
            }
            if let Poll::Ready(result) = up.conn.poll_fill(cx) {
                ready.upstream.push((up.id, result));
            }
        }
    }

    /// Takes one finished errand, passing over dials that were given up.
    fn poll_errands(&mut self, ready: &mut Ready, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(joined)) = self.errands.poll_join_next(cx) {
            match joined.map_err(JoinError::try_into_panic) {
                Ok(errand) => {
                    ready.errand = Some(errand);
                    return;
                }
                Err(Ok(panic)) => std::panic::resume_unwind(panic),
                Err(Err(_given_up)) => {}
            }
        }
    }

    fn should_pause(&self) -> bool {
        let limit = if self.paused { DOWNSTREAM_LOW } else { DOWNSTREAM_HIGH };
        self.front.has_queued(limit)
    }

    fn flooded(&self) -> bool {
        self.front.has_queued(DOWNSTREAM_FLOOD)
            || self.upstream.iter().any(|up| up.conn.queued() > UPSTREAM_FLOOD)
    }

    /// Does all there is to do at `now`, and writes the results.
    fn apply(&mut self, ready: Ready, now: Instant) {
        // Asked before the engine is told the new time: after that it looks ahead only.
        let due = self.engine.next_deadline().is_some_and(|deadline| deadline <= now);
        self.front
            .conns_mut()
            .chain(self.upstream.iter_mut().map(|up| &mut up.conn))
            .for_each(|conn| conn.tick(now));

        for (id, result) in ready.upstream {
            match result {
                Ok(()) => self.pump_upstream(id, now),
                Err(error) => self.lose_upstream(id, Cause::Tcp(error.to_string()), now),
            }
        }
        for (id, result) in ready.downstream {
            match result {
                Ok(()) => self.pump_downstream(id, now),
                Err(error) => self.lose_downstream(id, &error.to_string(), now),
            }
        }
        match ready.errand {
            Some(Errand::Dial(id, result)) => self.dialled(id, *result, now),
            Some(Errand::Stop) => self.feed(Event::Stop, now),
            Some(Errand::Network(mut links)) => {
                let changed = links.borrow_and_update().clone();
                self.errands.spawn(network(links));
                self.network_changed(&changed, now);
            }
            Some(Errand::Asked(what, desk)) => {
                self.errands.spawn(asked(desk));
                self.answer(what, now);
            }
            Some(Errand::Login(_, Some(joined))) => self.joined(*joined, now),
            Some(Errand::Login(cid, None)) => self.feed(Event::DownstreamNotJoined(cid), now),
            Some(Errand::Kill) => self.end = Some(Ending::Killed),
            None => {}
        }
        if due {
            self.engine.handle_timeout(now);
            self.drain();
            self.take_samples(now);
        }
        self.flush(now);
        self.turn_pause(now);
        self.observer.look(&self.engine, now);
    }

    fn answer(&mut self, what: Asked, now: Instant) {
        match what {
            // Whoever asked may have lost patience.
            Asked::Status(answer) => drop(answer.send(self.engine.status(now))),
            Asked::Units(answer) => drop(answer.send(self.engine.units())),
            Asked::Recordings(answer) => drop(answer.send(self.recorder.recordings(self.open_conns()))),
            Asked::Control(control) => self.feed(Event::Control(control), now),
            Asked::Retune(terms) => self.retune(&terms, now),
            Asked::Join(cid, answer) => self.await_line(cid, answer, now),
        }
    }

    /// Tells the engine what has become of links.
    fn network_changed(&mut self, network: &Network, now: Instant) {
        let mut changed: SmallVec<[(ConnId, bool); 8]> = SmallVec::new();
        for up in &mut self.upstream {
            let local = up.conn.stream().local_addr();
            let dark = local.is_ok_and(|local| network.is_dark(local.ip()));
            if std::mem::replace(&mut up.dark, dark) != dark {
                changed.push((up.id, !dark));
            }
        }
        for (id, present) in changed {
            self.feed(Event::Carrier(id, present), now);
        }
        if std::mem::replace(&mut self.came_up, network.came_up) != network.came_up {
            self.feed(Event::LinkUp, now);
        }
    }

    /// Goes on under other settings.
    fn retune(&mut self, terms: &Terms, now: Instant) {
        for (path, (way, own)) in self.ways.iter_mut().zip(&terms.paths).enumerate() {
            way.timing = terms.timing;
            if let Some(PathTerms { credentials, weight }) = own {
                way.route.credentials.clone_from(credentials);
                if let Some(weight) = *weight {
                    self.engine.handle(Event::Control(Control::Weigh(PathId(path), weight)), now);
                }
            }
        }
        self.observer.budget(terms.tuning.memory_budget);
        self.feed(Event::Retune(Box::new(terms.tuning)), now);
    }

    /// Gives the engine one event and does what it wants done.
    fn feed(&mut self, event: Event, now: Instant) {
        self.engine.handle(event, now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.engine.poll() {
            match output {
                Output::ToInitiator(id, pdu) => self.front.queue(id, &pdu),
                Output::ToTarget(id, pdu) => {
                    if let Some(up) = self.upstream.iter_mut().find(|up| up.id == id) {
                        tracing::trace!(conn = id.0, ?pdu, "to target");
                        up.conn.queue(&pdu);
                    }
                }
                Output::Sample(id) => self.to_sample.push(id),
                Output::Open(id, path, plan) => self.open(id, path, plan),
                Output::Close(id, how) => self.close_upstream(id, how),
                Output::CloseLine(id) => self.close_line(id),
                Output::CloseDownstream => self.close_downstream(),
                Output::Finished(unwashed) => self.end = Some(Ending::InOrder(unwashed)),
                Output::Note(notice) => {
                    self.observer.note(&notice);
                    self.recorder.note(&notice, self.open_conns());
                }
            }
        }
    }

    fn open_conns(&self) -> impl Iterator<Item = &Conn> {
        self.front.conns().chain(self.upstream.iter().map(|up| &up.conn))
    }

    /// Tells the engine what the kernel knows of the connections that it asked for.
    fn take_samples(&mut self, now: Instant) {
        for id in std::mem::take(&mut self.to_sample) {
            let sample = self.upstream.iter().find(|up| up.id == id).and_then(|up| up.conn.sample());
            if let Some(sample) = sample {
                self.feed(Event::Health(id, sample), now);
            }
        }
    }

    fn pump_upstream(&mut self, id: ConnId, now: Instant) {
        while let Some(up) = self.upstream.iter_mut().find(|up| up.id == id) {
            match up.conn.next_pdu() {
                Ok(Some(pdu)) => {
                    tracing::trace!(conn = id.0, ?pdu, "from target");
                    self.feed(Event::Upstream(id, pdu), now);
                }
                Ok(None) => return,
                // Below error recovery level 1 a PDU that was lost to its digest can only be had again by running its
                // task again (R178); its connection goes, so that the engine does just that.
                Err(error) => {
                    let cause = self.observer.upstream_spoilt(&error);
                    return self.lose_upstream(id, cause, now);
                }
            }
        }
    }

    fn lose_upstream(&mut self, id: ConnId, cause: Cause, now: Instant) {
        if let Some(at) = self.upstream.iter().position(|up| up.id == id) {
            self.recorder.keep(&mut self.upstream.remove(at).conn);
            self.feed(Event::Disconnected(id, cause), now);
        }
    }

    fn open(&mut self, id: ConnId, path: PathId, plan: Box<LoginPlan>) {
        let Some(way) = self.ways.get(path.0).cloned() else { return };
        let dial = async move { Errand::Dial(id, Box::new(dial_way(&way, &plan).await)) };
        self.dialling.push((id, path, self.errands.spawn(dial)));
    }

    fn dialled(&mut self, id: ConnId, result: Dialled, now: Instant) {
        let at = self.dialling.iter().position(|(dialling, ..)| *dialling == id);
        let path = at.map(|at| self.dialling.swap_remove(at).1);
        match result {
            // The engine gave it up while it was being made.
            Ok((conn, _)) if path.is_none() => conn.reset(),
            Ok((mut conn, agreed)) => {
                self.recorder.begin(&mut conn, path);
                conn.tick(now);
                self.upstream.push(Upstream::new(id, conn));
                self.feed(Event::Connected(id, Box::new(agreed)), now);
                self.pump_upstream(id, now);
            }
            Err(error) => self.feed(Event::Disconnected(id, error.into()), now),
        }
    }

    fn close_upstream(&mut self, id: ConnId, how: How) {
        if let Some(at) = self.dialling.iter().position(|(dialling, ..)| *dialling == id) {
            self.dialling.swap_remove(at).2.abort();
        }
        let Some(at) = self.upstream.iter().position(|up| up.id == id) else { return };
        let mut conn = self.upstream.swap_remove(at).conn;
        self.recorder.keep(&mut conn);
        match how {
            How::Graceful => self.close_in_order(conn),
            How::Reset => conn.reset(),
        }
    }

    fn close_in_order(&mut self, conn: Conn) {
        while self.closing.try_join_next().is_some() {}
        self.closing.spawn(conn.close());
    }

    /// Writes every connection once. A connection that fails is an event, whose results are written in turn.
    fn flush(&mut self, now: Instant) {
        loop {
            while let Err((id, error)) = self.front.flush() {
                self.lose_downstream(id, &error.to_string(), now);
            }
            let failed = self.upstream.iter_mut().find_map(|up| Some((up.id, up.conn.flush().err()?)));
            let Some((id, error)) = failed else { return };
            self.lose_upstream(id, Cause::Tcp(error.to_string()), now);
        }
    }

    /// Tells the engine when back-pressure begins or ends.
    fn turn_pause(&mut self, now: Instant) {
        let pause = self.should_pause();
        if pause != self.paused {
            self.paused = pause;
            tracing::debug!(pause, "back-pressure from the initiator");
            self.feed(Event::Paused(pause), now);
            self.flush(now);
        }
    }
}

/// The timer, set anew only when it would ring too late: deadlines mostly move away, and setting a timer costs more
/// than an early ring.
#[derive(Debug)]
struct Alarm {
    sleep: Pin<Box<Sleep>>,
    set: bool,
}

impl Alarm {
    fn new() -> Self {
        Self { sleep: Box::pin(tokio::time::sleep(std::time::Duration::ZERO)), set: false }
    }

    /// Ready at the deadline at the latest, or earlier.
    fn poll(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = deadline.map(tokio::time::Instant::from_std) else { return Poll::Pending };
        if !self.set || self.sleep.deadline() > deadline {
            self.sleep.as_mut().reset(deadline);
            self.set = true;
        }
        if self.sleep.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.set = false;
        Poll::Ready(())
    }
}
