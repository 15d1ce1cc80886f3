//! Whether a nexus shows the unit that its ghosts are of, before it is fenced.
//!
//! A session reinstated elsewhere says nothing of a unit that is another one there. Home over its own path needs no
//! question; a further nexus does, since its LUNs may have changed while it was away. The question, like all commands of
//! a fence, goes to the LUN under which the ghosts went.

use super::Session;
use super::api::PathId;
use super::nexus::{ConnState, HOME, NexusId};
use super::recover::{Fence, Ghost};
use super::tasks::{Origin, Task};
use crate::iscsi::{Cdb, Lun};
use crate::scsi::inquiry;
use std::time::Instant;

/// Longest answer taken to the question for a unit's name, in bytes.
const NAME_LENGTH: u16 = 1024;

impl Session {
    /// Whether units with ghosts of a nexus can be recognised over a path.
    pub(super) fn may_recognise(&self, nexus: NexusId, path: PathId) -> bool {
        let same_path = |g: &Ghost| g.path == path && !self.is_stray(nexus);
        let mut left = self.ghosts.iter().filter(|g| g.nexus == nexus && !g.timed);
        left.any(|g| same_path(g) || self.name_page(g.lun).is_some())
    }

    /// Makes sure that a nexus shows the unit that its ghosts are of; false while it must be asked.
    pub(super) fn recognise(&mut self, nexus: NexusId, lun: Lun, now: Instant) -> bool {
        let path = self.conns.iter().find(|c| c.nexus == nexus && c.state == ConnState::Up).map(|c| c.path);
        let mut left = self.ghosts.iter().filter(|g| g.nexus == nexus && g.lun == lun);
        let same_path = !self.is_stray(nexus) && left.all(|g| Some(g.path) == path);
        let page = self.name_page(lun);
        // A further nexus may show another unit under a LUN than it did.
        let trusted = nexus == HOME || page.is_none() && self.is_introduced(lun);
        let waits = same_path && !trusted && page.is_none();
        let Some(fence) = self.fences.iter_mut().find(|f| f.nexus == nexus) else { return false };
        fence.recognised |= same_path && trusted || broken!(self.rules, FenceUnrecognised);
        if fence.recognised || waits {
            return fence.recognised;
        }
        match page {
            Some(page) => {
                let cdb = Cdb(inquiry::inquiry_cdb(Some(page), NAME_LENGTH).into_iter().collect());
                let length = u32::from(NAME_LENGTH);
                self.submit_fence(Task::own(Origin::Fence(nexus), nexus, lun, cdb, length, now), now);
            }
            None => {
                self.give_up_fence(nexus, lun);
                self.next_fence_step(nexus, now);
            }
        }
        false
    }

    /// A command of a fence goes where the ghosts of its unit are.
    pub(super) fn submit_fence(&mut self, task: Task, now: Instant) {
        let nexus = task.only_nexus;
        let ghost = self.ghosts.iter().find(|g| Some(g.nexus) == nexus && g.lun == task.lun);
        let lun_there = ghost.map_or(task.lun, |g| g.lun_there);
        self.submit_own(task.under(lun_there), now);
    }

    /// Home has said who a unit is: fences may have waited for that.
    pub(super) fn go_on_with_fences(&mut self, lun: Lun, now: Instant) {
        let waits = |f: &&Fence| f.units.first() == Some(&lun) && !f.recognised;
        for nexus in self.fences.iter().filter(waits).map(|f| f.nexus).collect::<Vec<_>>() {
            if !self.asks_for_fence(nexus) {
                self.next_fence_step(nexus, now);
            }
        }
    }

    fn asks_for_fence(&self, nexus: NexusId) -> bool {
        self.tasks.iter().any(|(_, t)| t.origin == Origin::Fence(nexus))
    }

    /// A nexus was surveyed: its fence may have waited for that.
    pub(super) fn go_on_with_fence(&mut self, nexus: NexusId, now: Instant) {
        let Some(fence) = self.fences.iter().find(|f| f.nexus == nexus && !f.recognised) else { return };
        let Some(lun) = fence.units.first().copied() else { return };
        if !self.asks_for_fence(nexus) && !self.look_for_ghosts(nexus, lun, now) {
            self.next_fence_step(nexus, now);
        }
    }

    /// Another unit is where the ghosts of an earlier session were feared, on a further nexus: that session may have found
    /// theirs under another LUN. Returns whether it is still being looked for, or is to be asked under that.
    pub(super) fn look_for_ghosts(&mut self, nexus: NexusId, lun: Lun, now: Instant) -> bool {
        let feared = |g: &Ghost| g.nexus == nexus && g.lun == lun && !g.timed;
        let inherited = self.ghosts.iter().filter(|g| feared(g)).all(|g| g.inherited);
        if nexus == HOME || self.is_stray(nexus) || !inherited || !self.is_introduced(lun) {
            return false;
        }
        let Some(found) = self.survey_for(nexus, lun, now) else { return true };
        let mut moved = false;
        for ghost in self.ghosts.iter_mut().filter(|g| feared(g)) {
            moved |= found.is_some_and(|there| ghost.lun_there != there);
            ghost.lun_there = found.unwrap_or(ghost.lun_there);
        }
        if moved {
            self.next_fence_step(nexus, now);
        }
        moved
    }
}
