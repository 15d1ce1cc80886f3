//! Whether a nexus shows the unit that its ghosts are of, before it is fenced.
//!
//! A session reinstated elsewhere says nothing of a unit that is another one there. Home over its own path needs no
//! question; a further nexus does, since its LUNs may have changed while it was away. It is asked for the unit's name, and,
//! since there are copies under the same name, for its size if home has told that. (A unit that will not tell its size now,
//! to a port in standby for one, is known by its name.) The questions, like all commands of a fence, go to the LUN under
//! which the ghosts went.

use super::Session;
use super::api::PathId;
use super::fence::{FENCE_ATTEMPTS, Fence};
use super::nexus::{ConnState, HOME, NexusId};
use super::recover::Ghost;
use super::tasks::{Origin, Task};
use crate::iscsi::{Cdb, Lun, ScsiResponse};
use crate::scsi::inquiry;
use crate::scsi::sense::status;
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

    /// An answer to a question of a fence: whether its nexus shows the unit; none while more is asked.
    pub(super) fn shows_unit(
        &mut self,
        nexus: NexusId,
        lun: Lun,
        (task, response): (&Task, &ScsiResponse),
        now: Instant,
    ) -> Option<bool> {
        let (name_told, size) = (task.command.name == "INQUIRY", self.size_question(lun));
        let busy = matches!(response.status, status::BUSY | status::TASK_SET_FULL | status::TASK_ABORTED);
        let again = !name_told && (response.is_attention() || busy);
        if name_told && !self.is_known_unit(lun, &task.collected) {
            return Some(false);
        }
        if again {
            let sent_at = task.run.as_ref().map_or(now, |r| r.sent_at);
            self.fence_met((nexus, sent_at), lun, response, now);
            let fence = self.fences.iter_mut().find(|f| f.nexus == nexus)?;
            fence.attempts += 1;
            if fence.attempts >= FENCE_ATTEMPTS {
                return Some(false);
            }
        }
        match size.filter(|_| name_told || again) {
            Some((cdb, length)) => {
                let cdb = Cdb(cdb.into_iter().collect());
                self.submit_fence(Task::own(Origin::Fence(nexus), nexus, lun, cdb, length, now), now);
                None
            }
            None => {
                let told = !name_told && response.status == status::GOOD;
                Some(!told || !self.is_other_size(lun, &task.collected))
            }
        }
    }

    /// An answer to a fence's own command may report what the initiator has not seen. Where that is from another target than
    /// home's, home is asked at once: it will not be for its own sake.
    pub(super) fn fence_met(
        &mut self,
        (nexus, sent_at): (NexusId, Instant),
        lun: Lun,
        response: &ScsiResponse,
        now: Instant,
    ) {
        self.attention_met(nexus, lun, response, sent_at);
        if self.group_in(nexus).map(|g| g.target) != self.group_in(HOME).map(|g| g.target) {
            self.ask_about_doubts(now);
        }
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
