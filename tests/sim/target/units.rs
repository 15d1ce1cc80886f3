//! Logical units, and the unit attentions that wait on them for each session.

use super::commands::{Op, Outcome};
use super::medium::Medium;
use super::reservations::Reservations;
use super::trigger::Trigger;
use super::{Disk, Target};
use braid::scsi::Sense;
use braid::scsi::sense::key;

pub(super) struct Unit {
    pub(super) disk: Disk,
    pub(super) medium: Medium,
    pub(super) reservations: Reservations,
    /// The next ORDERED TEST UNIT READY blocks it for good.
    pub(super) wedge_armed: bool,
    pub(super) wedged: bool,
}

impl Unit {
    pub(super) fn new(disk: Disk, cached: bool) -> Self {
        Self {
            disk,
            medium: Medium::new(disk.blocks, cached),
            reservations: Reservations::default(),
            wedge_armed: false,
            wedged: false,
        }
    }
}

impl Target {
    /// Reports a waiting unit attention, unless the command is one of those that do not.
    pub(super) fn attention(&mut self, session: usize, unit: usize, op: Op) -> Option<Outcome> {
        if op.ignores_attentions() {
            return None;
        }
        let waiting = &mut self.sessions[session].attentions[unit];
        let (asc, ascq) = (!waiting.is_empty()).then(|| waiting.remove(0))?;
        self.count(Trigger::Attention);
        Some(Outcome::Sense(Sense { key: key::UNIT_ATTENTION, asc, ascq }))
    }

    /// Something happened to a unit: sessions are told, but for the one that did it.
    pub(super) fn raise(&mut self, unit: usize, but: Option<usize>, (asc, ascq): (u8, u8)) {
        for (index, session) in self.sessions.iter_mut().enumerate() {
            if session.alive && Some(index) != but {
                session.attend(unit, (asc, ascq));
            }
        }
    }
}
