//! What the engine counts in passing, in plain numbers; the driver makes metrics of it.

use super::Session;
use super::nexus::NexusState;
use super::tasks::{Task, TaskKey};
use std::time::{Duration, Instant};

/// For what a command that has arrived must wait before it is sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub enum HeldBy {
    /// For an earlier command that overlaps it.
    #[default]
    Overlap,
    /// For a barrier, or it is one: ORDERED, a flush, or a command on which everything depends.
    Barrier,
    /// For a ghost: a write that may still run at the target over a path that was lost.
    Quarantine,
}

impl HeldBy {
    /// All of them, as [`Tally::held`] counts them.
    pub const ALL: [Self; 3] = [Self::Overlap, Self::Barrier, Self::Quarantine];
}

/// Waits of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Waits {
    /// How many.
    pub count: u64,
    /// How long they took, one after the other.
    pub time: Duration,
}

impl Waits {
    fn add(&mut self, since: Instant, now: Instant) {
        self.count += 1;
        self.time += now.saturating_duration_since(since);
    }
}

/// Numbers that only grow.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// Commands of the initiator that were held back and are not any more, by [`HeldBy::ALL`]; where there are several
    /// reasons, the last of these.
    pub held: [Waits; HeldBy::ALL.len()],
    /// Times that commands began to wait for a place in a target's command window (R96), and how long they have waited.
    pub target_window: Waits,
}

impl Task {
    /// It has to wait, if it does not already.
    pub(super) fn hold(&mut self, by: HeldBy, now: Instant) {
        let (reason, since) = self.held.unwrap_or((by, now));
        self.held = Some((reason.max(by), since));
    }

    /// It has so many ghosts more to wait for.
    pub(super) fn fear(&mut self, ghosts: u32, now: Instant) {
        self.blockers += ghosts;
        if ghosts > 0 {
            self.hold(HeldBy::Quarantine, now);
        }
    }
}

impl Session {
    /// What was counted so far.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Commands of the initiator that have not completed.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.tasks.outstanding()
    }

    /// When the oldest of them arrived. Looks at all tasks: not for every turn.
    #[must_use]
    pub fn oldest_arrival(&self) -> Option<Instant> {
        self.tasks.iter().filter(|(_, task)| task.is_initiators()).map(|(_, task)| task.arrived).min()
    }

    /// These wait for barriers, or are ones.
    pub(super) fn held_by_barrier(&mut self, waiting: &[TaskKey]) {
        for key in waiting {
            if let Some(task) = self.tasks.get_mut(*key) {
                task.hold(HeldBy::Barrier, self.now);
            }
        }
    }

    /// A command is held back no longer.
    pub(super) fn count_hold(&mut self, (by, since): (HeldBy, Instant)) {
        let waits = HeldBy::ALL.iter().zip(&mut self.tally.held).find(|(reason, _)| **reason == by);
        if let Some((_, waits)) = waits {
            waits.add(since, self.now);
        }
    }

    /// Notes whether anything waits for a place in a target's window.
    pub(super) fn watch_windows(&mut self, now: Instant) {
        let waiting = !self.any_queue.is_empty() || !self.home_queue.is_empty();
        let full = || self.nexuses.iter().any(|n| n.state == NexusState::Up && !n.window.is_open());
        let stalled = waiting && full();
        match self.window_full_since {
            None if stalled => self.tally.target_window.count += 1,
            None => return,
            Some(since) => self.tally.target_window.time += now.saturating_duration_since(since),
        }
        self.window_full_since = stalled.then_some(now);
    }
}
