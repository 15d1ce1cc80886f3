//! Orders of the operator: paths drained, failed and given back under load, an outage given up, and settings changed.
//!
//! Drawn from a stream of its own. A path is taken out only if another one works, as Braid's own tools see to; it is given back
//! when everything heals, at the latest.

use crate::random::Random;
use crate::scenario::{Fault, Planned, Scenario};
use crate::world::World;
use braid::path::select::Policy;
use braid::session::{Control, Event, PathId, Tuning};
use std::time::Duration;

/// Of this piece's own streams.
const STREAM: u64 = 0x6f72_6465;
const STREAM_OF_SETTINGS: u64 = 0x7475_6e65;

const MS: Duration = Duration::from_millis(1);

/// What is ordered, of which path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    Drain(usize),
    Fail(usize),
    Restore(usize),
    GiveUp,
    /// Other settings, drawn from this seed.
    Retune(u64),
}

impl Order {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Drain(_) => "operator: drains a path",
            Self::Fail(_) => "operator: fails a path",
            Self::Restore(_) => "operator: gives a path back",
            Self::GiveUp => "operator: waits no longer",
            Self::Retune(_) => "operator: changes settings",
        }
    }
}

impl Scenario {
    /// Adds orders, if this seed has some.
    pub(crate) fn draw_orders(&mut self, seed: u64) {
        self.draw_settings(seed);
        let mut random = Random::new(seed ^ STREAM);
        if !random.once_in(8) {
            return;
        }
        for _ in 0..random.pick(&[1, 2, 4]) {
            let path = random.below(self.paths.len());
            let after_commands = u32::try_from(random.below(self.commands as usize)).unwrap();
            let order = random.pick(&[Order::Drain(path), Order::Drain(path), Order::Fail(path)]);
            let order = if random.once_in(12) { Order::GiveUp } else { order };
            let mut plan = |delay, order| {
                self.faults.push(Planned { after_commands, delay, fault: Fault::Operator(order) });
            };
            let delay = random.between(Duration::ZERO, 5 * MS);
            plan(delay, order);
            let later = random.pick(&[MS, 50 * MS, 3000 * MS, 30_000 * MS]);
            plan(delay + random.between(Duration::ZERO, later), Order::Restore(path));
        }
    }
}

impl Scenario {
    fn draw_settings(&mut self, seed: u64) {
        self.draw_hedging(seed);
        let mut random = Random::new(seed ^ STREAM_OF_SETTINGS);
        if random.once_in(16) {
            for _ in 0..random.pick(&[1, 3]) {
                let after_commands = u32::try_from(random.below(self.commands as usize)).unwrap();
                let delay = random.between(Duration::ZERO, 50 * MS);
                let fault = Fault::Operator(Order::Retune(random.seed()));
                self.faults.push(Planned { after_commands, delay, fault });
            }
        }
    }
}

/// Settings around those that a session began with: neither so short that calm targets are given up, nor so long that a
/// scenario does not end.
fn around(began: Tuning, seed: u64) -> Tuning {
    let mut random = Random::new(seed);
    let mut some = |time: Duration, halves: &[u32]| time * random.pick(halves) / 2;
    let first = some(began.reconnect.0, &[1, 2, 4]);
    Tuning {
        ping_interval: some(began.ping_interval, &[1, 2]),
        ping_timeout: some(began.ping_timeout, &[2, 3]),
        silence_timeout: some(began.silence_timeout, &[2, 3]),
        task_timeout: some(began.task_timeout, &[2, 3]),
        reconnect: (first, first.max(some(began.reconnect.1, &[1, 2]))),
        policy: random.pick(&[Policy::ServiceTime, Policy::RoundRobin, Policy::QueueDepth, Policy::Failover]),
        max_window: random.pick(&[1, 4, began.max_window]).min(began.max_window),
        memory_budget: random.pick(&[began.memory_budget / 2, began.memory_budget]),
        ..began
    }
}

impl World {
    /// The operator wants something of the session that runs, if there is one.
    pub(crate) fn order(&mut self, order: Order) {
        let beside = |w: &Self, path| w.session().is_some_and(|session| session.carries_beside(path));
        let control = match order {
            Order::Drain(path) if beside(self, PathId(path)) => Control::Drain(PathId(path)),
            Order::Fail(path) if beside(self, PathId(path)) => Control::Fail(PathId(path)),
            Order::Drain(_) | Order::Fail(_) => return,
            Order::Restore(path) => Control::Restore(PathId(path)),
            Order::GiveUp => Control::GiveUp,
            Order::Retune(seed) => {
                return self.feed(Event::Retune(Box::new(around(self.first_tuning(), seed))));
            }
        };
        self.feed(Event::Control(control));
    }
}
