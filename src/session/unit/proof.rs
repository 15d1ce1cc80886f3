//! Whether a further nexus shows home's unit.
//!
//! Before a further nexus carries data of a unit, what the unit says of itself there (device identification, serial
//! number, capacity, block size) must equal what it says on home. It is asked when it comes up, again after it
//! reported a unit attention, and again when the initiator has changed its parameters. First home's own number is tried
//! there; if that is another unit, see [`super::inventory`].

use super::inquire::{Check, Reach};
use crate::iscsi::{Lun, ScsiResponse};
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
    /// Home's number shows another unit there: its other LUNs are being looked at.
    Searching,
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
        let active = unit.access.may_serve(nexus);
        let proof = unit.proofs.entry(nexus).or_default();
        if nexus != HOME && ready && disk && active && *proof == Proof::Unknown {
            *proof = Proof::Checking;
            let there = self.lun_there(lun, nexus);
            self.start_check(nexus, lun, there, now);
        }
    }

    /// A further nexus reported a unit attention, in answer to a command sent at a time.
    pub(in crate::session) fn attention_doubts(
        &mut self,
        lun: Lun,
        nexus: NexusId,
        (response, sent_at): (&ScsiResponse, Instant),
        now: Instant,
    ) {
        if response.says_luns_changed() {
            if broken!(self.rules, ChangedLunsBelieved) {
                return;
            }
            self.inventory_changed(nexus, sent_at, now);
        }
        self.unit_doubted(lun, nexus, now);
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
        self.drop_checks(nexus, now);
        self.inventories.remove(&nexus);
        for unit in self.units.values_mut() {
            unit.proofs.remove(&nexus);
            if nexus != HOME {
                unit.access.forget(nexus);
            }
            unit.attentions.forget(nexus);
        }
        self.registrations_lost(nexus, now);
    }

    /// Ends what is being asked on a nexus.
    pub(super) fn drop_checks(&mut self, nexus: NexusId, now: Instant) {
        let (lost, left) = std::mem::take(&mut self.checks).into_iter().partition(|c| c.nexus == nexus);
        self.checks = left;
        let lost: Vec<Check> = lost;
        for check in lost.iter().filter(|c| c.is_about_access()) {
            self.ask_access(check.lun, now);
        }
    }

    /// Whether a check has found another unit than home's.
    pub(super) fn is_another(&self, check: usize) -> bool {
        let Some(check) = self.checks.get(check) else { return false };
        let home = self.units.get(&check.lun).and_then(|unit| unit.facts.as_ref());
        home.is_some_and(|home| home.another(&check.facts).is_some())
    }

    /// The unit is not under this LUN of a further nexus.
    pub(super) fn not_here(&mut self, check: &Check, now: Instant) {
        let (nexus, lun, there) = (check.nexus, check.lun, check.there);
        let Some(unit) = self.units.get_mut(&lun) else { return };
        let shown = unit.shown.entry(nexus).or_default();
        if there == lun {
            (shown.other_here, shown.here) = (true, Some(check.facts.to_string()));
        }
        shown.lun = None;
        if let Some(home) = unit.facts.clone() {
            self.not_under(nexus, there, &home);
        }
        self.search(nexus, lun, now);
    }

    /// A further nexus has told all that was asked: is it home's unit?
    pub(super) fn compared(&mut self, check: &Check, now: Instant) {
        let (path, nexus, lun, there) = (self.path_of(check.nexus), check.nexus, check.lun, check.there);
        let rules = self.rules;
        let Some(unit) = self.units.get_mut(&lun) else { return };
        let asymmetric = unit.access.support.any();
        let Some(home) = &mut unit.facts else { return };
        if home.capacity.is_none() && asymmetric && home.another(&check.facts).is_none() {
            // Home's port gave no access to the medium, and need not know its size.
            home.capacity = check.facts.capacity;
        }
        if unit.learning {
            // Home is being asked again, and then this one.
            unit.proofs.remove(&nexus);
        } else if home.another(&check.facts).is_some() {
            self.not_here(check, now);
        } else if let Some(what) = home.other_size(&check.facts).filter(|_| !broken!(rules, SizeNotCompared))
        {
            let what = format!(
                "LUN {there} has the name of home's LUN {lun}, {home}, but {what}: a copy under the same name, or a \
                 unit that has changed its size on one path only"
            );
            // Where one of them has not told its size, the name says all that is known: home may move there.
            let told = home.capacity.is_some() && check.facts.capacity.is_some();
            unit.shown.entry(nexus).or_default().other_here |= there == lun && told;
            unit.attentions.renew(nexus, now);
            self.refuse(nexus, lun, what, now);
        } else {
            unit.proofs.insert(nexus, Proof::Proved);
            unit.attentions.proved(nexus, there, now);
            let shown = unit.shown.entry(nexus).or_default();
            (shown.lun, shown.told) = ((there != lun).then_some(there), None);
            shown.other_here &= there != lun;
            self.keys_seen(lun, nexus, check.registered);
            self.note(Notice::IdentityProved { path, lun: lun.number(), there: there.number() });
            self.ask_about_doubts(now);
        }
    }

    /// Whether a unit was found to be home's on a further nexus.
    pub(in crate::session) fn is_proved(&self, nexus: NexusId) -> bool {
        self.units.values().any(|unit| unit.proofs.get(&nexus) == Some(&Proof::Proved))
    }
}
