//! Which path takes the next command.

use std::time::Duration;

/// How a path is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// Least expected completion time, from bytes in flight and measured service rate.
    #[default]
    ServiceTime,
    /// Fewest commands in flight, relative to weight.
    QueueDepth,
    /// In turn.
    RoundRobin,
    /// In proportion to weight (smooth weighted round robin).
    Weighted,
    /// The first usable path in the order of the configuration.
    Failover,
}

/// What is known of one path; one per path, kept by the caller beside it.
#[derive(Clone, Debug)]
pub struct PathLoad {
    /// Configured weight, at least 1.
    pub weight: u32,
    /// Commands in flight.
    pub commands: u32,
    /// Payload bytes in flight.
    pub bytes: u64,
}

impl PathLoad {
    /// An idle path.
    #[must_use]
    pub fn new(weight: u32) -> Self {
        Self { weight: weight.max(1), commands: 0, bytes: 0 }
    }

    /// A command with this payload was sent.
    pub fn started(&mut self, bytes: u64) {
        self.commands += 1;
        self.bytes += bytes;
    }

    /// It completed `took` after it was sent; feeds the estimate of the path's rate.
    pub fn finished(&mut self, bytes: u64, took: Duration) {
        todo!("{bytes} {took:?}")
    }

    /// It left the path without completing (path lost, command moved).
    pub fn forgotten(&mut self, bytes: u64) {
        todo!("{bytes}")
    }
}

/// State of a policy over all paths of a session.
#[derive(Clone, Debug)]
pub struct Selector {
    policy: Policy,
}

impl Selector {
    /// A selector for this policy.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy }
    }

    /// Chooses among the usable paths for a command of `bytes`; `loads` has one entry per path and `usable[i]` tells
    /// whether path `i` may be taken. None if no path is usable.
    pub fn choose(&mut self, loads: &[PathLoad], usable: &[bool], bytes: u64) -> Option<usize> {
        todo!("{loads:?} {usable:?} {bytes} {:?}", self.policy)
    }
}
