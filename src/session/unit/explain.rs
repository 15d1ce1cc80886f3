//! What an operator is told of the units of a session: over which paths their commands go, and why not over the others.

use super::Unit;
use super::proof::Proof;
use super::starvation::{SOME_READ, SOME_WRITE};
use crate::iscsi::Lun;
use crate::session::Session;
use crate::session::api::PathId;
use crate::session::nexus::{ConnState, HOME, NexusId, NexusState};

/// Units that are told of, at most.
pub const MOST_TOLD: usize = 64;

/// Which of a unit's commands may go over a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    /// None.
    Nothing,
    /// Reads.
    Reads,
    /// Plain reads and writes.
    Blocks,
    /// All: it is home.
    Everything,
}

/// What is told of a unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnitStatus {
    /// Its number.
    pub lun: u64,
    /// Who it is; none while home has not said it.
    pub who: Option<String>,
    /// For each path of the plan, what of the unit's commands may go there, and why no more.
    pub paths: Vec<(Share, String)>,
}

impl Session {
    /// What is told of the units that the initiator uses, of [`MOST_TOLD`] at most.
    #[must_use]
    pub fn units(&self) -> Vec<UnitStatus> {
        let told = |(lun, unit): (&Lun, &Unit)| UnitStatus {
            lun: lun.number(),
            who: unit.facts.as_ref().map(ToString::to_string),
            paths: (0..self.paths.len()).map(|path| self.share(*lun, unit, PathId(path))).collect(),
        };
        self.units.iter().take(MOST_TOLD).map(told).collect()
    }

    fn share(&self, lun: Lun, unit: &Unit, path: PathId) -> (Share, String) {
        let up = || self.conns.iter().filter(|c| c.path == path && c.state == ConnState::Up);
        if up().any(|c| c.nexus == HOME) {
            let state = unit.access.state(HOME);
            let note = if state.is_active() { String::new() } else { format!("its port is {state}") };
            return (Share::Everything, note);
        }
        let Some(nexus) = up().map(|c| c.nexus).next() else {
            return (Share::Nothing, "there is no connection over it".to_owned());
        };
        match self.kept_off(lun, unit, nexus) {
            Some(why) => (Share::Nothing, why),
            None if self.unit_usable(lun, nexus, &SOME_WRITE) => (Share::Blocks, String::new()),
            None => (Share::Reads, "home holds a reservation that lets others read".to_owned()),
        }
    }

    /// Why a unit's commands do not go over a further nexus.
    fn kept_off(&self, lun: Lun, unit: &Unit, nexus: NexusId) -> Option<String> {
        let proof = unit.proofs.get(&nexus).copied().unwrap_or_default();
        let state = unit.access.state(nexus);
        let best = self.best_grade(lun, &SOME_READ);
        let plain = match proof {
            _ if self.nexus(nexus).is_none_or(|n| n.state != NexusState::Up) => {
                "its session is not ready yet"
            }
            _ if unit.manner.is_bound() => "an initiator's command with NACA binds the unit to home",
            _ if self.is_single_file(lun) => "it is no disk: all commands go over home, one behind the other",
            Proof::Unknown => "it was not asked yet whether it shows the same unit",
            Proof::Checking | Proof::Searching => "it is being asked whether it shows the same unit",
            Proof::Refused => "it shows another unit, or one that cannot be told from others",
            Proof::Proved if !unit.control.may_spread() => {
                unit.control.binds().unwrap_or("the unit's Control mode page is not known yet")
            }
            Proof::Proved if unit.reserved => "home holds the unit by RESERVE",
            Proof::Proved if !unit.registrations.allow(nexus, &SOME_READ, self.rules) => {
                "the initiator's persistent registration is not known to be the same there"
            }
            Proof::Proved => "",
        };
        if !plain.is_empty() {
            return Some(plain.to_owned());
        }
        let better = best.is_some_and(|best| !self.has_grade(lun, nexus, best));
        better.then(|| format!("its port is {state}, and others are better"))
    }
}
