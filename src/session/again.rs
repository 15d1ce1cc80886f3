//! Commands that were answered and have not run: they run again, and the initiator does not hear of it.
//!
//! - Refused for the state of the port they went through ([`super::unit`], access): where the unit can be reached.
//! - Stopped on a further nexus by a unit attention, by a reservation, or because the unit is not there as home has it
//!   ([`super::unit`], change): on home. Home is the nexus that the initiator knows, and what home says is what it must hear.
//! - Stopped by a unit attention on home that nobody needs to hear (echo): on home.

use super::Session;
use super::api::{Notice, PathId};
use super::nexus::{HOME, NexusId};
use super::tasks::TaskKey;
use crate::iscsi::ScsiResponse;
use crate::scsi::Sense;
use crate::scsi::sense::status;
use std::time::Instant;

/// So often what a further nexus says of a command is not believed where home cannot be asked.
const MOST_CONTRADICTIONS: u32 = 4;

impl Session {
    /// Whether a command of the initiator that was answered has not run and does so again.
    pub(super) fn has_not_run(&mut self, key: TaskKey, response: &ScsiResponse, now: Instant) -> bool {
        let Some(run) = self.tasks.get(key).and_then(|t| t.run.as_ref()) else { return false };
        let (nexus, path, sent_at) = (run.nexus, run.path, run.sent_at);
        self.refused(key, nexus, response, now)
            || match nexus {
                HOME => self.stopped_by_echo(key, (path, sent_at), response),
                _ => self.stopped_on_further(key, (nexus, path, sent_at), response, now),
            }
    }

    fn stopped_by_echo(
        &mut self,
        key: TaskKey,
        (path, sent_at): (PathId, Instant),
        response: &ScsiResponse,
    ) -> bool {
        let sense = response.sense().and_then(|s| Sense::parse(&s)).filter(|s| s.is_unit_attention());
        let (Some(sense), Some(lun)) = (sense, self.tasks.get(key).map(|t| t.lun)) else { return false };
        let echo = self.is_echo(lun, (HOME, sent_at), (sense.asc, sense.ascq));
        if echo {
            self.note(Notice::UnitAttentionAbsorbed { path });
            self.put_back(key);
        }
        echo
    }

    fn stopped_on_further(
        &mut self,
        key: TaskKey,
        (nexus, path, sent_at): (NexusId, PathId, Instant),
        response: &ScsiResponse,
        now: Instant,
    ) -> bool {
        let Some(task) = self.tasks.get(key) else { return false };
        let lun = task.lun;
        // Where home's port gives no access, home cannot say more: the nexus is proved once more, or not. Of reservations home
        // always can.
        let (shut_out, worn_out) = (self.is_shut_out(task), task.refusals >= MOST_CONTRADICTIONS);
        let attention = response.is_attention() && !broken!(self.rules, FurtherAttentionPassedOn);
        let conflict =
            response.status == status::RESERVATION_CONFLICT && !broken!(self.rules, ReservedUnitSpread);
        if attention {
            self.note(Notice::UnitAttentionAbsorbed { path });
            self.attention_met(nexus, lun, response, sent_at);
            self.attention_doubts(lun, nexus, (response, sent_at), now);
        } else if conflict {
            self.registrations_doubted(lun);
        } else if shut_out && worn_out || !self.is_unfit_there(key, nexus, response, now) {
            return false;
        }
        if let Some(task) = self.tasks.get_mut(key) {
            task.refusals += u32::from(shut_out && !attention);
        }
        self.move_to_home(key);
        true
    }

    /// Runs a command that did not run on a further nexus on home.
    pub(super) fn move_to_home(&mut self, key: TaskKey) {
        if let Some(task) = self.tasks.get_mut(key) {
            (task.home_only, task.bound) = (true, true);
        }
        self.put_back(key);
    }

    /// A command that was answered and has not run goes back to its place in the queue. Some targets send read data all the
    /// same, whatever was in their memory (tgt, before a unit attention): the initiator has them, and cannot be sent others
    /// in their place. Where the connection is lost after such data and before the status, nobody can know that they do
    /// not count.
    pub(super) fn put_back(&mut self, key: TaskKey) {
        let rules = self.rules;
        if let Some(task) = self.tasks.get_mut(key)
            && let Some(run) = task.run.take()
        {
            let passed_on = task.outbound.delivered > run.passed_on_before;
            task.tainted |= passed_on && !broken!(rules, TaintedReadAnsweredGood);
        }
        self.recall(key);
        self.wait_for_ghosts(key);
        self.queue_if_ready(key);
    }
}
