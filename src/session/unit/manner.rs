//! How commands of a unit must be carried: what kind of device it is, and what binds all of its commands together.
//!
//! - The CDBs of other device types mean other things: WRITE(6) to a tape writes where the tape stands, and running it
//!   again writes twice. Of a unit that home has not shown to be a disk everything goes over one connection of home, in
//!   order of arrival, and only what is harmless on every device type runs twice. Zoned disks (ZBC: host managed) are read
//!   like disks, but written in order, and no write runs twice. Of a disk that has not said yet what it is, what is lost
//!   waits until home is back, and has said it.
//! - NACA: the auto contingent allegiance that such a command may establish blocks the unit for one nexus (SAM-5 section
//!   5.10). From the first command with NACA on, all commands of the unit go over one connection of home, to the end of
//!   the session (R162).

use super::Session;
use crate::iscsi::Lun;
use crate::scsi::cdb;
use crate::scsi::inquiry::Inquiry;
use crate::session::api::Notice;
use crate::session::nexus::{HOME, NexusId};
use crate::session::tasks::{Origin, Task, TaskKey};
use std::time::Instant;

/// What a unit is, as far as its commands are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Kind {
    /// Home has not said it yet.
    #[default]
    Unknown,
    Disk,
    Zoned,
    /// Tapes, changers, enclosures, controllers, units that are not there.
    Other,
}

impl Kind {
    fn of(inquiry: &Inquiry) -> Self {
        /// Host managed zoned block device.
        const ZONED: u8 = 0x14;
        match (inquiry.qualifier, inquiry.device_type) {
            _ if inquiry.is_disk() => Self::Disk,
            (0, ZONED) => Self::Zoned,
            _ => Self::Other,
        }
    }
}

/// How the commands of one unit are carried.
#[derive(Debug, Default)]
pub(super) struct Manner {
    kind: Kind,
    /// A command with NACA was seen.
    naca: bool,
}

impl Manner {
    /// Whether plain block I/O may go over further nexuses, if they show the same unit.
    pub(super) const fn may_spread(&self) -> bool {
        !self.naca
    }

    /// Whether the initiator has bound it to home.
    pub(super) const fn is_bound(&self) -> bool {
        self.naca
    }

    /// Whether all commands go over the same connection.
    const fn is_single_file(&self) -> bool {
        self.naca || matches!(self.kind, Kind::Zoned | Kind::Other)
    }
}

/// What is to be done with a command that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum Repeat {
    Yes,
    No,
    /// It is not known yet what it did.
    Undecided,
}

impl Session {
    fn kind(&self, lun: Lun) -> Kind {
        self.units.get(&lun).map_or(Kind::Unknown, |unit| unit.manner.kind)
    }

    /// Whether commands of a unit all go over the same connection of home.
    pub(in crate::session) fn is_single_file(&self, lun: Lun) -> bool {
        self.units.get(&lun).is_some_and(|unit| unit.manner.is_single_file())
    }

    /// Whether a unit is a device that keeps what it has not written to itself: no disk.
    pub(in crate::session) fn unit_buffers(&self, lun: Lun) -> bool {
        self.kind(lun) == Kind::Other
    }

    /// Whether commands of a unit may be blocked at the target until the initiator clears an ACA condition.
    pub(in crate::session) fn may_be_blocked(&self, lun: Lun) -> bool {
        self.units.get(&lun).is_some_and(|unit| unit.manner.naca)
    }

    /// A command arrives: reads it as a command of its unit's kind.
    pub(in crate::session) fn suit(&mut self, task: &mut Task) {
        if cdb::has_naca(&task.cdb.0)
            && !broken!(self.rules, NacaSpread)
            && let Some(unit) = self.units.get_mut(&task.lun)
        {
            unit.manner.naca = true;
        }
        self.reread(task.lun, task);
    }

    fn reread(&self, lun: Lun, task: &mut Task) {
        match self.kind(lun) {
            Kind::Unknown | Kind::Disk => {}
            _ if broken!(self.rules, EveryUnitIsADisk) => {}
            Kind::Zoned => task.command.on_zoned_disk(),
            Kind::Other => task.command.on_other_device(&task.cdb.0),
        }
        task.home_only |= !task.command.class.any_path();
    }

    /// Home has said what a unit is: what is here already is read accordingly.
    pub(super) fn kind_learned(&mut self, lun: Lun, inquiry: &Inquiry) {
        let Some(unit) = self.units.get_mut(&lun) else { return };
        let kind = Kind::of(inquiry);
        if std::mem::replace(&mut unit.manner.kind, kind) == kind {
            return;
        }
        if matches!(kind, Kind::Zoned | Kind::Other) {
            self.caches_of_no_disk(lun);
        }
        let of_unit = |t: &Task| t.lun == lun && matches!(t.origin, Origin::Initiator { .. });
        for key in self.tasks.select(of_unit) {
            let Some(task) = self.tasks.get(key) else { continue };
            let mut command = task.command.clone();
            match kind {
                Kind::Unknown | Kind::Disk => continue,
                _ if broken!(self.rules, EveryUnitIsADisk) => continue,
                Kind::Zoned => command.on_zoned_disk(),
                Kind::Other => command.on_other_device(&task.cdb.0),
            }
            self.order.reclassify(key, command.class.clone());
            if let Some(task) = self.tasks.get_mut(key) {
                task.command = command;
            }
        }
    }

    /// Whether a command that was lost with a nexus may run again.
    pub(in crate::session) fn repeat(&self, task: &Task, nexus: NexusId) -> Repeat {
        let mut elsewhere = task.command.clone();
        elsewhere.on_other_device(&task.cdb.0);
        let open = nexus == HOME && self.kind(task.lun) == Kind::Unknown && !elsewhere.class.may_run_twice();
        match task.may_run_twice() {
            false => Repeat::No,
            true if open && !broken!(self.rules, EveryUnitIsADisk) => Repeat::Undecided,
            true => Repeat::Yes,
        }
    }

    /// Home is back and has been asked: decides about what was lost before it was known what it did.
    pub(in crate::session) fn decide_lost(&mut self, now: Instant) {
        for key in self.tasks.select(|t| t.undecided) {
            let Some(task) = self.tasks.get_mut(key) else { continue };
            task.undecided = false;
            let (lun, command) = (task.lun, task.command.clone());
            let again = self.tasks.get(key).is_some_and(|t| self.repeat(t, HOME) == Repeat::Yes);
            if again {
                self.run_again(key);
            } else {
                let path = self.path_of(HOME);
                self.note(Notice::OutcomeUnknown { path });
                self.note_change(lun, &command);
                self.answer_unknown_outcome(key, now);
            }
        }
    }

    /// A command that was lost goes back to its place.
    pub(in crate::session) fn run_again(&mut self, key: TaskKey) {
        self.wait_for_ghosts(key);
        self.queue_if_ready(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_disks_are_disks() {
        let kind = |first: u8| Kind::of(&Inquiry::parse(&[first, 0, 6, 2, 0]).unwrap());
        let kinds = [0x00, 0x14, 0x01, 0x02, 0x07, 0x08, 0x0c, 0x0d, 0x0e, 0x20, 0x34, 0x7f].map(kind);
        let (disk, zoned) = (kinds[0], kinds[1]);
        assert_eq!((disk, zoned), (Kind::Disk, Kind::Zoned));
        assert!(kinds[2..].iter().all(|kind| *kind == Kind::Other), "{kinds:?}");
    }
}
