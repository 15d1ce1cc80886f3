//! The Control mode page (R242): what of it binds a unit to home, and in which format the initiator wants sense data.
//!
//! Home is asked for it when it has told what the unit is, and again when the initiator or somebody else changed mode
//! parameters. Until it has answered the unit is used over home alone; so it is while QERR or UA_INTLCK_CTRL are set,
//! whose effects show on one nexus only. While home's port refuses the page for its access state, what home has told before
//! holds, if nobody has changed it since. A unit without command queueing (CMDQUE) is not asked, and one that does not
//! answer has the values of a unit without the page.

use super::inquire::{Check, Reach, Step};
use crate::iscsi::Lun;
use crate::scsi::Sense;
use crate::scsi::mode::ControlPage;
use crate::session::Session;
use crate::session::api::Notice;
use crate::session::nexus::{HOME, NexusState};
use bytes::Bytes;
use std::time::Instant;

/// What is known of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Control {
    /// The unit has command queueing.
    asked: bool,
    /// Not known, or no longer.
    stale: bool,
    /// Home has told it, and nobody has changed it since.
    told: bool,
    page: ControlPage,
}

impl Control {
    /// Whether home is to be asked when it has carried block I/O again.
    pub(super) const fn is_open(&self) -> bool {
        self.stale
    }

    /// Why further nexuses may not be used, by what the page says.
    pub(super) fn binds(&self) -> Option<&'static str> {
        self.page.binds()
    }

    /// Whether further nexuses may be used.
    pub(super) const fn may_spread(&self) -> bool {
        !self.stale && self.page.binds().is_none()
    }
}

/// Mode parameters changed.
const CHANGED: (u8, u8) = (0x2a, 0x01);

impl Session {
    /// Home has told what a unit is, which has command queueing or has not: asks for the page.
    pub(super) fn learn_control(&mut self, lun: Lun, queues: bool, now: Instant) {
        let Some(unit) = self.units.get_mut(&lun) else { return };
        unit.control.asked |= queues;
        unit.control.stale = unit.control.asked;
        let asking = self.checks.iter().any(|c| c.lun == lun && c.nexus == HOME && c.reach == Reach::Control);
        if unit.control.stale && !asking {
            let id = self.new_check(HOME, (lun, lun), Step::Control, Reach::Control);
            self.ask(id, now);
        }
    }

    /// The page is open: asks home, unless that is away or settling. Then it is asked when it has told what the unit is.
    pub(super) fn ask_control(&mut self, lun: Lun, now: Instant) {
        if self.home_state() == NexusState::Up {
            self.learn_control(lun, false, now);
        } else if let Some(unit) = self.units.get_mut(&lun) {
            unit.control.stale = unit.control.asked;
        }
    }

    /// The initiator has changed mode parameters of a unit.
    pub(in crate::session) fn mode_selected(&mut self, lun: Lun, now: Instant) {
        if let Some(unit) = self.units.get_mut(&lun) {
            unit.control.told = false;
        }
        self.ask_control(lun, now);
    }

    /// A unit attention was met: it may say that somebody else has changed mode parameters.
    pub(in crate::session) fn mode_touched(&mut self, lun: Lun, code: (u8, u8)) {
        if code == CHANGED {
            self.mode_selected(lun, self.now);
        }
    }

    /// Home has told the page, or has none.
    pub(super) fn control_told(&mut self, check: &Check, now: Instant) {
        let (path, lun) = (self.path_of(HOME), check.lun.number());
        let Some(unit) = self.units.get_mut(&check.lun) else { return };
        if check.shut_out {
            // Somebody else has reserved the unit: it is asked when the initiator may use it again.
            self.home_checked(now);
            return;
        }
        if check.refused {
            // Home's port does not give access at the moment: what it told before holds, or else the unit stays with it.
            unit.control.stale = !unit.control.told;
            self.home_checked(now);
            return;
        }
        let before = unit.control.page.binds();
        let page = check.control.unwrap_or_default();
        unit.control = Control { asked: unit.control.asked, stale: false, told: true, page };
        if broken!(self.rules, ControlPageIgnored) {
            unit.control.page = ControlPage::default();
        } else if let Some(why) = page.binds().filter(|_| before != page.binds()) {
            self.note(Notice::UnitBound { path, lun, why });
        }
        self.home_checked(now);
    }

    /// Sense data of Braid's own, in the format that the initiator wants (D_SENSE).
    pub(in crate::session) fn own_sense(&self, lun: Lun, sense: Sense) -> Bytes {
        let descriptors = self.units.get(&lun).is_some_and(|unit| unit.control.page.descriptor_sense);
        if descriptors {
            Bytes::copy_from_slice(&sense.to_descriptors())
        } else {
            Bytes::copy_from_slice(&sense.to_fixed())
        }
    }
}
