//! Commands that find no active path: how long they wait for one.
//!
//! A command waits while there is hope: something is transitioning, or being asked or proved, or a path that may be active
//! is down, or a group can be made active ([`super::transition`]); and no longer than a transition may take, counted from the first
//! that waited. But one that comes later waits for every target to be asked once more, and for a path that is back to be
//! proved. Then it goes to home, and the initiator hears home's own answer. A command is refused a bounded number of times
//! before that.
//!
//! Commands that a reservation binds to home may starve while reads find a path; these end nothing of that.

use super::access::PATIENCE;
use super::proof::Proof;
use crate::iscsi::Lun;
use crate::scsi::{Class, Extent};
use crate::session::Session;
use crate::session::nexus::{Conn, ConnState, HOME, NexusId, NexusState};
use std::time::{Duration, Instant};

/// Stand for any command that needs access: for what reservations leave to every nexus, and for all else.
pub(super) const SOME_READ: Class = Class::Read(Extent { lba: 0, blocks: 0 });
pub(super) const SOME_WRITE: Class = Class::Write(Extent { lba: 0, blocks: 0 });

/// What waits for access to a unit.
#[derive(Debug, Default)]
pub(super) struct Starvation {
    /// Since when commands have found no active path.
    pub(super) since: Option<Instant>,
    /// Some of them do not only read: a reservation may keep them from paths that others find.
    pub(super) writes: bool,
}

impl Starvation {
    /// Stands for the commands that wait.
    pub(super) const fn wanted(&self) -> &'static Class {
        if self.writes { &SOME_WRITE } else { &SOME_READ }
    }

    /// Nobody waits any more, or everybody begins to wait anew.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }
}

impl Session {
    /// A unit's command finds no active path: whether it waits for one. It does, in any case, until every target has been
    /// asked since it arrived, and while a path that is back is being proved.
    pub(in crate::session) fn waits_for_access(
        &mut self,
        lun: Lun,
        class: &Class,
        arrived: Instant,
        now: Instant,
    ) -> bool {
        let (patience, told, proving) =
            (self.patience(lun), self.states_told_since(lun), self.is_proving(lun));
        let Some(unit) = self.units.get_mut(&lun) else { return false };
        unit.access.starvation.writes |= !class.only_reads();
        let first = unit.access.starvation.since.is_none();
        let since = *unit.access.starvation.since.get_or_insert(now);
        let open = unit.access.support.any() && (told < Some(arrived) || proving);
        let patient = now < since + patience || open && now < arrived + PATIENCE;
        let waits = patient && !broken!(self.rules, TransitionNotAwaited);
        if first {
            unit.access.want_answer(now);
            self.access_at = Some(now);
        }
        waits
    }

    /// A unit's command of a class has found an active path.
    pub(in crate::session) fn access_found(&mut self, lun: Lun, class: &Class) {
        if let Some(access) = self.units.get_mut(&lun).map(|unit| &mut unit.access)
            && !(access.starvation.writes && class.only_reads())
        {
            access.starvation.end();
        }
    }

    /// How long a command waits for access, by what there is to hope for; zero if nothing will change.
    pub(super) fn patience(&self, lun: Lun) -> Duration {
        let Some(unit) = self.units.get(&lun) else { return Duration::ZERO };
        let access = &unit.access;
        let unknown = unit.learning || !unit.known && access.starvation.since.is_none();
        // While commands wait, an answer to a question of before says nothing.
        let told = self.states_told_since(lun);
        let to_ask = access.ask_at.is_some() && access.starvation.since.is_none_or(|at| told < Some(at));
        let asked = to_ask || self.checks.iter().any(|c| c.lun == lun && c.is_about_access());
        let may_come = |nexus: NexusId| {
            let carries = |c: &Conn| c.nexus == nexus && c.state == ConnState::Up;
            let in_service = self.nexus(nexus).is_some_and(|n| n.state == NexusState::Up);
            let down = !in_service || !self.conns.iter().any(carries);
            down && !self.is_carried_by_home(nexus) && access.state(nexus).is_active()
        };
        let coming = self.is_proving(lun) || (0..=self.plan.paths.len()).any(may_come);
        if unknown || access.support.any() && (asked || coming) || self.may_transition(lun) {
            PATIENCE
        } else if access.is_changing() {
            access.transition_time()
        } else {
            Duration::ZERO
        }
    }

    /// Whether a nexus that may give access to the unit is being proved, or will be once home has said again what the unit is.
    fn is_proving(&self, lun: Lun) -> bool {
        let Some(unit) = self.units.get(&lun) else { return false };
        let proving = |nexus: NexusId| {
            matches!(unit.proofs.get(&nexus), Some(Proof::Checking | Proof::Searching))
                && unit.access.may_serve(nexus)
        };
        unit.learning || (1..=self.plan.paths.len()).any(proving)
    }

    /// Whether a further nexus' path carries home, so that the nexus is not wanted.
    fn is_carried_by_home(&self, nexus: NexusId) -> bool {
        nexus != HOME && self.conns.iter().any(|c| c.nexus == HOME && c.path.0 + 1 == nexus)
    }
}
