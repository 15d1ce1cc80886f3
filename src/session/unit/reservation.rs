//! What binds a unit to the nexus that reserved it (SPC-4 section 5.13; RESERVE and RELEASE: SPC-2).
//!
//! RESERVE binds the unit to home until RELEASE, a reset or the loss of home; a persistent registration for as long as
//! the session lasts. If home is lost while it holds one, the initiator is told, and what relied on it does not run (P5).

use crate::iscsi::Lun;
use crate::scsi::sense::key;
use crate::scsi::{Class, Sense};
use crate::session::Session;
use crate::session::attention::Deed;
use crate::session::tasks::{Origin, Task};
use bytes::Bytes;
use std::time::Instant;

/// What binds one unit to home.
#[derive(Debug, Default)]
pub(super) struct Binding {
    /// By RESERVE.
    reserved: bool,
    /// By a persistent registration.
    registered: bool,
}

impl Binding {
    /// Whether plain block I/O may go over further nexuses.
    pub(super) const fn is_free(&self) -> bool {
        !self.reserved && !self.registered
    }
}

impl Session {
    /// A reservation command ended well (by its name): RESERVE binds the unit to home until RELEASE, a persistent
    /// registration for as long as the session lasts.
    pub(in crate::session) fn unit_reservation(&mut self, lun: Lun, name: &str) {
        let Some(unit) = self.units.get_mut(&lun) else { return };
        match name {
            "RESERVE(6)" | "RESERVE(10)" => unit.binding.reserved = true,
            "RELEASE(6)" | "RELEASE(10)" => unit.binding.reserved = false,
            _ => unit.binding.registered = true,
        }
    }

    /// A unit (or all of them) was reset: RESERVE ended with it.
    pub(in crate::session) fn unit_reset(&mut self, lun: Option<Lun>) {
        let now = self.now;
        for (_, unit) in self.units.iter_mut().filter(|(l, _)| lun.is_none_or(|lun| lun == **l)) {
            unit.binding.reserved = false;
            unit.attentions.note_deed(Deed::Reset, now);
        }
    }

    /// Somebody else reset the unit: RESERVE ended with it.
    pub(in crate::session) fn reservation_ended(&mut self, lun: Lun) {
        if let Some(unit) = self.units.get_mut(&lun) {
            unit.binding.reserved = false;
        }
    }

    /// Home was lost and is back: a reservation that went with it is over, and the initiator must know (P5).
    pub(super) fn reservation_lost(&mut self, lun: Lun, now: Instant) {
        let rules = self.rules;
        let Some(unit) = self.units.get_mut(&lun) else { return };
        if !unit.binding.reserved && !unit.binding.registered {
            return;
        }
        let loss = Sense { key: key::UNIT_ATTENTION, asc: 0x29, ascq: 0x07 };
        if !broken!(rules, ReservationLossUntold) {
            unit.attentions.keep(Bytes::copy_from_slice(&loss.to_fixed()), now);
        }
        if std::mem::take(&mut unit.binding.reserved) {
            self.end_what_relied_on_reservation(lun, now);
        }
    }

    /// Commands given under a reservation must not run without it: somebody else may have had the unit meanwhile.
    fn end_what_relied_on_reservation(&mut self, lun: Lun, now: Instant) {
        let relied = |t: &Task| {
            let waits = t.lun == lun && t.run.is_none() && t.held_response.is_none();
            let harmless = matches!(t.command.class, Class::Stateless | Class::Query | Class::Survey(_));
            waits && !harmless && matches!(t.origin, Origin::Initiator { .. })
        };
        for key in self.tasks.select(relied) {
            self.unqueue(key);
            if let Some(task) = self.tasks.get_mut(key) {
                task.queued = false;
            }
            self.answer_unknown_outcome(key, now);
        }
    }
}
