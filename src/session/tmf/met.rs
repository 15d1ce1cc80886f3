//! Whether a function for a task set met the unit whose commands it was to end.
//!
//! ABORT TASK SET names a unit by its LUN. The LUNs of a further nexus may change under the commands that it carries, and
//! nobody tells Braid before its next command there: what was to be ended then still runs, in another unit than the one
//! that was asked. So where a command that may change the medium was not answered, its LUN is asked for the unit's name
//! afterwards. If that is not home's unit any more, the nexus is given up, which leaves ghosts and fences them.

use super::Function;
use crate::iscsi::{Cdb, Itt, Lun, tmf};
use crate::scsi::inquiry;
use crate::session::Session;
use crate::session::nexus::{HOME, NexusId};
use crate::session::tasks::{Origin, Task};
use std::time::Instant;

/// Longest answer taken to the question for a unit's name, in bytes.
const NAME_LENGTH: u16 = 1024;

impl Session {
    /// Asks further nexuses with unanswered commands who the units are that a function was sent to.
    pub(super) fn ask_whom_it_met(&mut self, function: &mut Function, now: Instant) {
        if !function.is_for_sets() || broken!(self.rules, WrongUnitCleared) {
            return;
        }
        let mut places = Vec::new();
        for key in self.covered(function) {
            let Some(task) = self.tasks.get(key).filter(|t| t.leaves_ghost()) else { continue };
            let run = task.run.as_ref().filter(|r| r.nexus != HOME);
            let place = run.map(|r| (r.nexus, task.lun, r.lun));
            places.extend(place.filter(|place| !places.contains(place)));
        }
        for (nexus, lun, there) in places {
            if let Some(conn) = self.function_conn(nexus) {
                let itt = self.control_tag();
                function.awaited.push((conn, itt));
                self.ask_who_is(nexus, (lun, there), itt, now);
            }
        }
    }

    /// Sends the question with the next of Braid's own; its answer stands for one with this control tag.
    pub(in crate::session) fn ask_who_is(
        &mut self,
        nexus: NexusId,
        (lun, there): (Lun, Lun),
        itt: Itt,
        now: Instant,
    ) {
        let Some(page) = self.name_page(lun) else { return };
        let cdb = Cdb(inquiry::inquiry_cdb(Some(page), NAME_LENGTH).into_iter().collect());
        let task = Task::own(Origin::Met(itt), nexus, lun, cdb, u32::from(NAME_LENGTH), now).under(there);
        let key = self.tasks.insert(task);
        self.own_queue.push_back(key);
    }

    /// A unit has said who it is.
    pub(in crate::session) fn met(&mut self, itt: Itt, task: &Task, now: Instant) {
        let same = self.is_known_unit(task.lun, &task.collected);
        let response = if same { tmf::COMPLETE } else { tmf::LUN_DOES_NOT_EXIST };
        let awaited = self.functions.iter().flat_map(|f| &f.awaited).find(|(_, tag)| *tag == itt);
        if let Some((conn, _)) = awaited.copied() {
            self.tmf_answered(conn, itt, response, now);
        }
    }
}
