//! Reservation commands of the initiator, and what binds a unit to home (RESERVE and RELEASE: SPC-2; persistent ones:
//! [`super::registration`]).
//!
//! RESERVE binds the unit to home until RELEASE, a reset or the loss of home. If home is lost while it holds a reservation that
//! the target does not keep for it, the initiator is told, and what relied on it does not run (P5).

use crate::iscsi::{Lun, ScsiResponse};
use crate::scsi::sense::{key, status};
use crate::scsi::{Class, Sense};
use crate::session::Session;
use crate::session::deed::Deed;
use crate::session::tasks::{Origin, Task, TaskKey};

use std::time::Instant;

impl Session {
    /// Home answered a reservation command of the initiator. Returns whether the initiator gets the answer later.
    pub(in crate::session) fn reservation_answered(
        &mut self,
        key: TaskKey,
        response: &ScsiResponse,
        now: Instant,
    ) -> bool {
        let Some(task) = self.tasks.get(key) else { return false };
        let (lun, name) = (task.lun, task.command.name);
        let good = response.response == 0 && response.status == status::GOOD;
        if !good && Self::may_have_changed(response) {
            self.persistent_doubted(lun, task.persistent_request(), None);
        }
        let Some(unit) = self.units.get_mut(&lun).filter(|_| good) else { return false };
        match name {
            "RESERVE(6)" | "RESERVE(10)" => unit.reserved = true,
            "RELEASE(6)" | "RELEASE(10)" => unit.reserved = false,
            _ => return self.persistent_changed(key, now),
        }
        false
    }

    /// A unit (or all of them) was reset: RESERVE ended with it.
    pub(in crate::session) fn unit_reset(&mut self, lun: Option<Lun>) {
        let now = self.now;
        for (_, unit) in self.units.iter_mut().filter(|(l, _)| lun.is_none_or(|lun| lun == **l)) {
            unit.reserved = false;
            unit.attentions.note_deed(Deed::Reset, now);
        }
    }

    /// Somebody else reset the unit: RESERVE ended with it.
    pub(in crate::session) fn reservation_ended(&mut self, lun: Lun) {
        if let Some(unit) = self.units.get_mut(&lun) {
            unit.reserved = false;
        }
    }

    /// Home was lost and is back: what it held by RESERVE is over. Returns whether the initiator is told of it.
    pub(super) fn reservation_lost(&mut self, lun: Lun, now: Instant) -> bool {
        let held = self.units.get_mut(&lun).is_some_and(|unit| std::mem::take(&mut unit.reserved));
        if held {
            self.tell_loss(lun, now);
            self.end_what_relied_on_reservation(lun, now);
        }
        held
    }

    /// Home is back without its registration, or without a sign of it; `held`: it may have held a reservation.
    pub(super) fn registration_gone(&mut self, lun: Lun, told: bool, held: bool, now: Instant) {
        if !told {
            self.tell_loss(lun, now);
        }
        if held {
            self.end_what_relied_on_reservation(lun, now);
        }
    }

    /// The initiator must know that it lost what it had (P5).
    fn tell_loss(&mut self, lun: Lun, now: Instant) {
        let loss = Sense { key: key::UNIT_ATTENTION, asc: 0x29, ascq: 0x07 };
        let told = !broken!(self.rules, ReservationLossUntold);
        let sense = self.own_sense(lun, loss);
        if let Some(unit) = self.units.get_mut(&lun).filter(|_| told) {
            unit.attentions.keep(sense, now);
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
