//! Whether a further nexus shows home's unit.
//!
//! Before a further nexus carries data of a unit, what the unit says of itself there (device identification, serial
//! number, capacity, block size) must equal what it says on home. It is asked when it comes up, again after it
//! reported a unit attention, and again when the initiator has changed its parameters.

use super::inquire::{Check, Reach};
use crate::iscsi::Lun;
use crate::scsi::inquiry::Inquiry;
use crate::session::Session;
use crate::session::api::Notice;
use crate::session::nexus::{HOME, NexusId, NexusState};
use std::time::Instant;

/// How far a further nexus is with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Proof {
    #[default]
    Unknown,
    Checking,
    Proved,
    /// Another unit.
    Refused,
}

impl Session {
    /// A further nexus came up: asks it for every unit that home has told about.
    pub(in crate::session) fn check_nexus(&mut self, nexus: NexusId, now: Instant) {
        for lun in self.units.keys().copied().collect::<Vec<_>>() {
            self.prove(nexus, lun, now);
        }
    }

    pub(super) fn prove(&mut self, nexus: NexusId, lun: Lun, now: Instant) {
        let ready = self.nexus(nexus).is_some_and(|n| n.state == NexusState::Up);
        let Some(unit) = self.units.get_mut(&lun) else { return };
        let facts = unit.facts.as_ref().filter(|_| unit.known);
        let disk = facts.and_then(|f| f.inquiry.as_ref()).is_some_and(Inquiry::is_disk);
        let proof = unit.proofs.entry(nexus).or_default();
        if nexus != HOME && ready && disk && *proof == Proof::Unknown {
            *proof = Proof::Checking;
            self.start_check(nexus, lun, now);
        }
    }

    /// A further nexus reported a unit attention: what was proved there may no longer hold, and what home said neither.
    pub(in crate::session) fn unit_doubted(&mut self, lun: Lun, nexus: NexusId, now: Instant) {
        let Some(unit) = self.units.get_mut(&lun) else { return };
        let proved = unit.proofs.get(&nexus) == Some(&Proof::Proved);
        if proved {
            unit.proofs.insert(nexus, Proof::Unknown);
        }
        // Home is asked first; if it is away, it will be when it is back.
        let ask = proved || unit.attentions.is_doubtful();
        if ask && !unit.learning && self.home_state() == NexusState::Up {
            self.learn(lun, Reach::Whole, now);
        }
    }

    /// The initiator changed parameters of the unit, and the target has a unit attention for every other nexus: they are
    /// asked again before they carry anything, so that no command of the initiator meets it there.
    pub(in crate::session) fn unit_changed(&mut self, lun: Lun, now: Instant) {
        let Some(unit) = self.units.get(&lun) else { return };
        let proved = unit.proofs.iter().filter(|(_, proof)| **proof == Proof::Proved);
        for nexus in proved.map(|(nexus, _)| *nexus).collect::<Vec<_>>() {
            self.unit_doubted(lun, nexus, now);
        }
    }

    /// Checks on a lost nexus end; what was proved there no longer holds.
    pub(in crate::session) fn forget_checks(&mut self, nexus: NexusId, now: Instant) {
        for check in self.checks.iter().filter(|c| c.nexus == nexus) {
            if let Some(unit) = self.units.get_mut(&check.lun) {
                unit.learning = unit.learning && nexus != HOME;
            }
        }
        self.checks.retain(|c| c.nexus != nexus);
        for unit in self.units.values_mut() {
            unit.proofs.remove(&nexus);
            unit.attentions.forget(nexus);
        }
        self.registrations_lost(nexus, now);
    }

    /// A further nexus has told all that was asked: is it home's unit?
    pub(super) fn compared(&mut self, check: &Check) {
        let path = self.path_of(check.nexus);
        let lun = check.lun.number();
        let Some(unit) = self.units.get_mut(&check.lun) else { return };
        let Some(known) = &unit.facts else { return };
        let difference = known.difference(&check.facts);
        let proof = if difference.is_some() { Proof::Refused } else { Proof::Proved };
        unit.proofs.insert(check.nexus, proof);
        if proof == Proof::Proved {
            self.keys_seen(check.lun, check.nexus, check.registered);
        }
        self.note(match difference {
            Some(what) => Notice::IdentityMismatch { path, lun, what },
            None => Notice::IdentityProved { path, lun },
        });
    }

    /// Whether a unit was found to be home's on a further nexus.
    pub(in crate::session) fn is_proved(&self, nexus: NexusId) -> bool {
        self.units.values().any(|unit| unit.proofs.get(&nexus) == Some(&Proof::Proved))
    }
}
