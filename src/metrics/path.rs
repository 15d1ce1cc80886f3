//! The series of a path, and what one session has part in.

use super::labels::{CAUSES, DIRECTIONS, DOUBTS, FENCES, cause_label, doubt_label, fence_label};
use super::{Contribution, Families};
use crate::session::{Notice, PathState, Trigger};
use prometheus::{Counter, Histogram, IntCounter, IntCounterVec};

/// Series of one path.
#[derive(Debug)]
pub(super) struct PathSeries {
    pub(super) connections: Contribution,
    pub(super) down: Contribution,
    pub(super) in_flight: Contribution,
    connects: IntCounter,
    losses: [IntCounter; CAUSES.len()],
    connect_failures: [IntCounter; CAUSES.len()],
    read: IntCounter,
    written: IntCounter,
    commands: IntCounter,
    moved: IntCounter,
    reassigned: IntCounter,
    /// One is 1, that of the state that the path is in.
    states: [Contribution; PathState::ALL.len()],
    suspicions: [IntCounter; DOUBTS.len()],
    demotions: IntCounter,
    evaded: IntCounter,
    hedged: IntCounter,
    hedges_won: IntCounter,
    unknown: IntCounter,
    fences: [IntCounter; FENCES.len()],
    fence_seconds: Counter,
    identity_proofs: IntCounter,
    identity_mismatches: IntCounter,
    access_changes: IntCounter,
    transitions: IntCounter,
    transitions_refused: IntCounter,
    absorbed: IntCounter,
    duration: [Histogram; DIRECTIONS.len()],
}

impl PathSeries {
    pub(super) fn new(families: &Families, target: &str, path: &str) -> Self {
        let labels = &[target, path];
        let by_cause =
            |family: &IntCounterVec| CAUSES.map(|cause| family.with_label_values(&[target, path, cause]));
        Self {
            connections: Contribution::new(families.connections.with_label_values(labels)),
            down: Contribution::new(families.down.with_label_values(labels)),
            in_flight: Contribution::new(families.in_flight.with_label_values(labels)),
            connects: families.connects.with_label_values(labels),
            losses: by_cause(&families.losses),
            connect_failures: by_cause(&families.connect_failures),
            read: families.read.with_label_values(labels),
            written: families.written.with_label_values(labels),
            commands: families.commands.with_label_values(labels),
            moved: families.moved.with_label_values(labels),
            reassigned: families.reassigned.with_label_values(labels),
            states: PathState::ALL
                .map(|state| families.states.with_label_values(&[target, path, state.word()]))
                .map(Contribution::new),
            suspicions: DOUBTS.map(|cause| families.suspicions.with_label_values(&[target, path, cause])),
            demotions: families.demotions.with_label_values(labels),
            evaded: families.evaded.with_label_values(labels),
            hedged: families.hedged.with_label_values(labels),
            hedges_won: families.hedges_won.with_label_values(labels),
            unknown: families.unknown.with_label_values(labels),
            fences: FENCES.map(|method| families.fences.with_label_values(&[target, path, method])),
            fence_seconds: families.fence_seconds.with_label_values(labels),
            identity_proofs: families.identity_proofs.with_label_values(labels),
            identity_mismatches: families.identity_mismatches.with_label_values(labels),
            access_changes: families.access_changes.with_label_values(labels),
            transitions: families.transitions.with_label_values(labels),
            transitions_refused: families.transitions_refused.with_label_values(labels),
            absorbed: families.absorbed.with_label_values(labels),
            duration: DIRECTIONS.map(|to| families.duration.with_label_values(&[target, path, to])),
        }
    }
}

impl PathSeries {
    /// The state of the path in a session that is open.
    pub(super) fn stands(&mut self, now: PathState) {
        for (state, contribution) in PathState::ALL.iter().zip(&mut self.states) {
            contribution.set(i64::from(*state == now));
        }
    }

    /// Counts what the engine tells of the path.
    pub(super) fn note(&mut self, notice: &Notice) {
        match notice {
            Notice::PathUp { .. } => {
                self.connects.inc();
                self.connections.add(1);
            }
            Notice::PathDown { was_up: true, cause, .. } => {
                self.connections.add(-1);
                cause_label(cause).into_iter().for_each(|label| count(&self.losses, &CAUSES, label));
            }
            Notice::PathDown { was_up: false, cause, .. } => {
                cause_label(cause)
                    .into_iter()
                    .for_each(|label| count(&self.connect_failures, &CAUSES, label));
            }
            Notice::Moved { commands, .. } => add(&self.moved, *commands),
            Notice::Reassigned { commands, .. } => add(&self.reassigned, *commands),
            Notice::PathState { to, trigger, .. } => {
                self.stands(*to);
                if let Trigger::Doubted(doubt) = trigger {
                    count(&self.suspicions, &DOUBTS, doubt_label(*doubt));
                }
            }
            Notice::Evaded { commands, .. } => add(&self.evaded, *commands),
            Notice::PathMarginal { .. } => self.demotions.inc(),
            Notice::Hedged { .. } => self.hedged.inc(),
            Notice::HedgeWon { .. } => self.hedges_won.inc(),
            Notice::Fenced { method, took, .. } => {
                count(&self.fences, &FENCES, fence_label(*method));
                self.fence_seconds.inc_by(took.as_secs_f64());
            }
            Notice::IdentityMismatch { .. } => self.identity_mismatches.inc(),
            Notice::IdentityProved { .. } => self.identity_proofs.inc(),
            Notice::AccessChanged { .. } => self.access_changes.inc(),
            Notice::TransitionAsked { .. } => self.transitions.inc(),
            Notice::TransitionRefused { .. } => self.transitions_refused.inc(),
            Notice::Completed { read, written, took, .. } => {
                self.commands.inc();
                self.read.inc_by(*read);
                self.written.inc_by(*written);
                let [reads, writes, others] = &self.duration;
                let duration = if *written > 0 {
                    writes
                } else if *read > 0 {
                    reads
                } else {
                    others
                };
                duration.observe(took.as_secs_f64());
            }
            Notice::UnitAttentionAbsorbed { .. } => self.absorbed.inc(),
            Notice::OutcomeUnknown { .. } => self.unknown.inc(),
            Notice::UnitBound { .. }
            | Notice::Quirk { .. }
            | Notice::DownstreamProtocol(_)
            | Notice::DownstreamDigest(_)
            | Notice::LineUp { .. }
            | Notice::LineDown { .. }
            | Notice::AllPathsDown
            | Notice::GaveUp(_)
            | Notice::TakenAgain => {}
        }
    }
}

fn add(counter: &IntCounter, commands: usize) {
    counter.inc_by(u64::try_from(commands).unwrap_or(u64::MAX));
}

/// Counts under one of a family's fixed labels.
fn count(counters: &[IntCounter], labels: &[&str], label: &str) {
    if let Some((_, counter)) = labels.iter().zip(counters).find(|(name, _)| **name == label) {
        counter.inc();
    }
}
