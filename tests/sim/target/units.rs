//! Logical units, and the unit attentions that wait on them for each session.

use super::commands::{Op, Outcome};
use super::medium::Medium;
use super::reservations::Reservations;
use super::session::Attention;
use super::trigger::Trigger;
use super::{Disk, Report, Target};
use braid::iscsi::Itt;
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
    pub(super) fn attention(
        &mut self,
        (conn, session): (u32, usize),
        unit: usize,
        op: Op,
        itt: Itt,
    ) -> Option<Outcome> {
        if op.ignores_attentions() {
            return None;
        }
        let to = &mut self.sessions[session];
        if to.attentions[unit].is_empty() {
            return None;
        }
        let Attention { code: (asc, ascq), event } = to.attentions[unit].remove(0);
        if let Some(event) = event {
            self.reports.push(Report { conn, itt, isid: to.port.isid, unit, event, since: to.clean[unit] });
        }
        self.count(Trigger::Attention);
        Some(Outcome::Sense(Sense { key: key::UNIT_ATTENTION, asc, ascq }))
    }

    /// Something happened to a unit: sessions are told, but for the one that did it.
    pub(super) fn raise(&mut self, unit: usize, but: Option<usize>, code: (u8, u8), event: Option<u32>) {
        for (index, session) in self.sessions.iter_mut().enumerate() {
            if session.alive && Some(index) != but {
                session.attend(unit, code, event);
            }
        }
    }

    /// Something happens from outside.
    pub(super) fn new_event(&mut self) -> u32 {
        self.next_event += 1;
        self.next_event
    }
}
