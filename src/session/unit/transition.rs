//! Explicit transitions: Braid asks the target to make a port group active, when nothing else helps.
//!
//! Only where the target supports it (TPGS), while commands wait, no path has been active for [`GRACE`], and the newest answer
//! shows none that is about to be. One group is asked for, the preferred one of those that can be reached and help those that
//! wait (what a reservation binds to home needs home's), once; then not
//! again before a pause that doubles as long as it is needed that often: another initiator may want it elsewhere, and two
//! that ask in turn would keep the unit busy with nothing else. Nothing is ever asked for only because it would be better.
//!
//! What the target then tells every nexus (2Ah/06h) is Braid's own doing, and is absorbed once on each of them.

use super::echo::Echo;
use super::proof::Proof;
use crate::iscsi::{Cdb, Lun, ScsiResponse};
use crate::scsi::Sense;
use crate::scsi::alua::{self, PortGroup, State};
use crate::scsi::sense::status;
use crate::session::Session;
use crate::session::api::Notice;
use crate::session::nexus::{HOME, NexusId, NexusState};
use crate::session::tasks::{Origin, Task};
use std::time::{Duration, Instant};

/// A path that was lost may be back by then, and a target that acts by itself has begun to.
const GRACE: Duration = Duration::from_secs(1);
/// From one to the next.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Explicit transitions of one unit.
#[derive(Debug, Default)]
pub(super) struct Transition {
    /// When the last was asked for, and when it was answered.
    asked: Option<Instant>,
    answered: Option<Instant>,
    /// The target would not.
    refused: bool,
    pause: Duration,
}

impl Transition {
    fn is_under_way(&self) -> bool {
        self.asked.is_some() && self.answered.is_none()
    }

    /// When the next may be asked for.
    fn next(&self) -> Option<Instant> {
        self.asked.map(|at| at + self.pause)
    }

    fn note_asked(&mut self, now: Instant, hasty: bool) {
        let lately = self.asked.is_some_and(|at| now < at + self.pause * 4) && !hasty;
        self.pause = if lately { (self.pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
        (self.asked, self.answered, self.refused) = (Some(now), None, false);
    }
}

impl Session {
    /// Whether a transition is under way, or may be asked for sooner or later and not in vain, as far as is known.
    pub(super) fn may_transition(&self, lun: Lun) -> bool {
        let Some(unit) = self.units.get(&lun).filter(|u| u.access.support.explicit) else { return false };
        let transition = &unit.access.transition;
        transition.is_under_way() || !transition.refused && self.candidate(lun).is_some()
    }

    /// The nexus through whose port group the unit can best be made active, its LUN there, and that group.
    fn candidate(&self, lun: Lun) -> Option<(NexusId, Lun, &PortGroup)> {
        let unit = self.units.get(&lun)?;
        let up = |nexus: NexusId| self.nexus(nexus).is_some_and(|n| n.state == NexusState::Up);
        let leaves = unit.may_leave_home(unit.access.starvation.wanted());
        let mut best: Option<(NexusId, Lun, &PortGroup)> = None;
        for (nexus, standing) in &unit.access.standings {
            let refused = unit.proofs.get(nexus) == Some(&Proof::Refused);
            let group = unit.access.group_of(standing);
            let helps = standing.recognised && up(*nexus) && !refused && (*nexus == HOME || leaves);
            let Some(group) = group.filter(|g| helps && may_rise(g)) else { continue };
            let better = |(_, _, other): (_, _, &PortGroup)| rank(group) < rank(other);
            if best.is_none_or(better) {
                best = Some((*nexus, standing.there, group));
            }
        }
        best
    }

    /// Asks for a transition if it is time; returns when to look again.
    pub(super) fn transition_if_due(&mut self, lun: Lun, now: Instant) -> Option<Instant> {
        let unit = self.units.get(&lun).filter(|u| u.access.support.explicit)?;
        let (transition, hasty) = (&unit.access.transition, broken!(self.rules, TransitionsPingPong));
        let due =
            (unit.access.starvation.since? + GRACE).max(transition.next().filter(|_| !hasty).unwrap_or(now));
        if transition.is_under_way()
            || unit.access.is_changing()
            || self.best_grade(lun, unit.access.starvation.wanted()).is_some()
        {
            return None;
        }
        if due > now {
            return Some(due);
        }
        let (nexus, there, group) =
            self.candidate(lun).map(|(nexus, there, group)| (nexus, there, group.id))?;
        self.units.get_mut(&lun)?.access.transition.note_asked(now, hasty);
        (0..self.nexuses.len()).for_each(|nexus| self.expect_echo(lun, nexus, Echo::States));
        let path = self.path_of(nexus);
        self.note(Notice::TransitionAsked { path, lun: lun.number(), group });
        let list = alua::optimize(group);
        let cdb = Cdb(alua::set_port_groups_cdb().into_iter().collect());
        let task = Task::own_write(Origin::Transition, nexus, lun, cdb, list.to_vec(), now).under(there);
        self.held += list.len() as u64;
        self.submit_own(task, now);
        None
    }

    /// The target answered, or its nexus was lost: the target must be asked what came of it.
    pub(in crate::session) fn transition_over(&mut self, lun: Lun, now: Instant) {
        if let Some(unit) = self.units.get_mut(&lun) {
            unit.access.transition.answered = Some(now);
            self.ask_access(lun, now);
        }
    }

    /// A target has told of its states: whether all that can be asked had done by then what was asked of one of them. (What
    /// another target tells says nothing of the one that is at it.)
    pub(super) fn transition_seen(&mut self, lun: Lun, now: Instant) {
        let told = self.states_told_since(lun);
        let Some(unit) = self.units.get(&lun) else { return };
        let done = !unit.access.is_unsettled();
        if unit.access.transition.answered.is_some_and(|at| Some(at) <= told) && done {
            self.echo_over(lun, Echo::States, now);
        }
    }

    /// The target answered. It may have only begun what was asked of it.
    pub(in crate::session) fn transition_answered(
        &mut self,
        lun: Lun,
        (nexus, sent_at): (NexusId, Instant),
        response: &ScsiResponse,
    ) {
        let path = self.path_of(nexus);
        let Some(unit) = self.units.get_mut(&lun) else { return };
        if response.is_attention() {
            // It was not run, and may be asked for again at once.
            unit.access.transition.asked = None;
            self.attention_met(nexus, lun, response, sent_at);
        } else if response.status != status::GOOD || response.response != 0 {
            unit.access.transition.refused = true;
            let sense = response.sense().and_then(|s| Sense::parse(&s));
            let what = sense.map_or_else(|| format!("status {:02x}h", response.status), |s| s.to_string());
            self.note(Notice::TransitionRefused { path, lun: lun.number(), what });
        }
    }
}

/// Whether a group can be made active.
fn may_rise(group: &PortGroup) -> bool {
    group.can_optimize && matches!(group.state, State::Standby | State::Unavailable)
}

/// The better, the less.
fn rank(group: &PortGroup) -> (bool, bool) {
    (!group.preferred, group.state != State::Standby)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin")]
    fn pauses_double_while_transitions_are_needed_often() {
        let start = Instant::now();
        let mut transition = Transition::default();
        assert_eq!(transition.next(), None, "the first one need not wait");
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let now = transition.next().unwrap_or(start);
            transition.note_asked(now, false);
            pauses.push(transition.pause.as_secs());
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600]);
        let later = transition.next().unwrap() + 4 * LONGEST_PAUSE;
        transition.note_asked(later, false);
        assert_eq!(transition.pause, FIRST_PAUSE, "not needed for long");
    }
}
