//! Orders of the operator: paths drained, failed and given back under load, and an outage given up.
//!
//! Drawn from a stream of its own. A path is taken out only if another one works, as Braid's own tools see to; it is given back
//! when everything heals, at the latest.

use crate::random::Random;
use crate::scenario::{Fault, Planned, Scenario};
use crate::world::World;
use braid::session::{Control, Event, PathId};
use std::time::Duration;

/// Of this piece's own stream.
const STREAM: u64 = 0x6f72_6465;

const MS: Duration = Duration::from_millis(1);

/// What is ordered, of which path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    Drain(usize),
    Fail(usize),
    Restore(usize),
    GiveUp,
}

impl Order {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Drain(_) => "operator: drains a path",
            Self::Fail(_) => "operator: fails a path",
            Self::Restore(_) => "operator: gives a path back",
            Self::GiveUp => "operator: waits no longer",
        }
    }
}

impl Scenario {
    /// Adds orders, if this seed has some.
    pub(crate) fn draw_orders(&mut self, seed: u64) {
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
        };
        self.feed(Event::Control(control));
    }
}
