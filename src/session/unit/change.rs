//! Changes of a unit while it is in use, as answers and attentions tell of them.
//!
//! - Home reports that the capacity, the INQUIRY data, the block size or its LUNs changed: home is asked again who and how
//!   large the unit is, then every further nexus. Until then the unit's block I/O stays on home.
//! - Home's LUN goes: what home answers is the initiator's to hear; further nexuses do not serve the unit any more.
//!   If home has told of a change, or the unit was gone meanwhile, there may be another unit under the LUN from then on,
//!   as there may be without Braid. One that takes its place unannounced ends the session.
//! - A further nexus has the unit no more, or has it smaller or not ready: home's answer counts, so the command runs
//!   again there, and the nexus is asked anew.

use super::Reach;
use super::proof::Proof;
use crate::iscsi::{Lun, ScsiResponse};
use crate::scsi::sense::key;
use crate::scsi::{Extent, Sense};
use crate::session::Session;
use crate::session::attention::{Code, REPORTED_LUNS_CHANGED};
use crate::session::nexus::{NexusId, NexusState};
use crate::session::tasks::TaskKey;
use std::time::Instant;

/// INQUIRY DATA HAS CHANGED.
const INQUIRY_CHANGED: Code = (0x3f, 0x03);
/// CAPACITY DATA HAS CHANGED, and MODE PARAMETERS CHANGED, the block size perhaps among them.
const SIZE_CHANGED: [Code; 2] = [(0x2a, 0x09), (0x2a, 0x01)];

/// What an answer of a further nexus says of the unit there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unfit {
    /// LOGICAL UNIT NOT SUPPORTED.
    Missing,
    /// LOGICAL BLOCK ADDRESS OUT OF RANGE.
    Small,
    NotReady,
}

impl Unfit {
    fn told_by(sense: Sense) -> Option<Self> {
        match (sense.key, sense.asc, sense.ascq) {
            (key::ILLEGAL_REQUEST, 0x25, _) => Some(Self::Missing),
            (key::ILLEGAL_REQUEST, 0x21, 0x00) => Some(Self::Small),
            _ if is_not_ready(sense) => Some(Self::NotReady),
            _ => None,
        }
    }
}

/// Whether a unit cannot be used, for another reason than the asymmetric access state of a port.
pub(super) fn is_not_ready(sense: Sense) -> bool {
    let access_state = sense.asc == 0x04 && matches!(sense.ascq, 0x0a..=0x0c);
    sense.key == key::NOT_READY && !access_state
}

impl Session {
    /// Whether a further nexus has answered a command of the initiator with something that home need not say: it did not
    /// run, and runs again on home.
    pub(in crate::session) fn is_unfit_there(
        &mut self,
        task: TaskKey,
        nexus: NexusId,
        response: &ScsiResponse,
        now: Instant,
    ) -> bool {
        let unfit = response.sense().and_then(|sense| Sense::parse(&sense)).and_then(Unfit::told_by);
        let (Some(unfit), Some(task)) = (unfit, self.tasks.get(task)) else { return false };
        let (lun, extent) = (task.lun, task.command.class.extent());
        if broken!(self.rules, FurtherAbsencePassedOn) {
            return false;
        }
        match unfit {
            Unfit::Small if extent.is_some_and(|extent| self.is_beyond(lun, extent)) => {}
            Unfit::Small => self.units_changed(|l| l == lun, now),
            Unfit::Missing | Unfit::NotReady => self.unit_missing(lun, nexus, now),
        }
        true
    }

    /// A further nexus does not show a unit where it did.
    pub(in crate::session) fn unit_missing(&mut self, lun: Lun, nexus: NexusId, now: Instant) {
        self.inventory_outdated(nexus);
        if let Some(unit) = self.units.get_mut(&lun)
            && unit.proofs.get(&nexus) == Some(&Proof::Proved)
        {
            unit.proofs.remove(&nexus);
        }
        self.prove(nexus, lun, now);
    }

    /// Whether a command reaches beyond the unit as home has told of it.
    fn is_beyond(&self, lun: Lun, extent: Extent) -> bool {
        let capacity = self.units.get(&lun).and_then(|unit| unit.facts.as_ref()?.capacity);
        capacity.is_some_and(|capacity| extent.lba.saturating_add(extent.blocks) > capacity.blocks())
    }

    /// Home has served a command beyond the end that it told: the unit has grown.
    pub(in crate::session) fn unit_outgrown(&mut self, lun: Lun, extent: Extent, now: Instant) {
        if self.is_beyond(lun, extent) {
            self.units_changed(|l| l == lun, now);
        }
    }

    /// Home reported an attention: what it says of a unit, or of all, may not hold.
    pub(in crate::session) fn home_reported(&mut self, lun: Lun, code: Code) {
        let now = self.now;
        if code != REPORTED_LUNS_CHANGED && code != INQUIRY_CHANGED && !SIZE_CHANGED.contains(&code) {
            return;
        }
        let all = code == REPORTED_LUNS_CHANGED;
        for (_, unit) in self.units.iter_mut().filter(|(l, _)| all || **l == lun) {
            // The initiator hears of it.
            unit.announced |= !SIZE_CHANGED.contains(&code);
        }
        self.units_changed(|l| all || l == lun, now);
    }

    /// Units have perhaps changed: home is asked again, then the others.
    fn units_changed(&mut self, which: impl Fn(Lun) -> bool, now: Instant) {
        // A question that is under way may have been answered before the change.
        for check in self.checks.iter_mut().filter(|c| which(c.lun)) {
            check.stale |= check.has_begun() && check.reach != Reach::Control;
        }
        let mut known = Vec::new();
        for (lun, unit) in self.units.iter_mut().filter(|(lun, _)| which(**lun)) {
            unit.proofs.retain(|_, proof| !matches!(proof, Proof::Proved | Proof::Refused));
            if unit.known && !unit.learning {
                known.push(*lun);
            }
        }
        // If home is away, it is asked when it is back.
        if self.home_state() == NexusState::Up {
            known.into_iter().for_each(|lun| self.learn(lun, Reach::Whole, now));
        }
    }

    /// Whether the initiator must reckon with another unit under a LUN of home's. What changed while home was away it was
    /// not told.
    pub(super) fn may_be_replaced(&self, lun: Lun) -> bool {
        let stays = self.home_state() == NexusState::Up;
        stays && self.units.get(&lun).is_some_and(|unit| unit.announced || unit.gone)
    }
}
