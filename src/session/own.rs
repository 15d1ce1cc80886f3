//! Tasks of Braid's own: who gets the answer.

use super::Session;
use super::nexus::NexusId;
use super::tasks::{Origin, TaskKey};
use crate::iscsi::ScsiResponse;
use std::time::Instant;

impl Session {
    /// A run of a task of Braid's own ended with a status.
    pub(super) fn own_completed(
        &mut self,
        key: TaskKey,
        (nexus, sent_at): (NexusId, Instant),
        response: &ScsiResponse,
        now: Instant,
    ) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let lun = task.lun;
        match task.origin {
            Origin::Initiator { .. } => {}
            Origin::Check(check) => {
                if let Some(task) = self.tasks.remove(key) {
                    self.check_answered(check, &task, response, now);
                }
            }
            Origin::Survey(survey) => {
                if let Some(task) = self.tasks.remove(key) {
                    self.survey_answered(survey, &task, response, now);
                }
            }
            Origin::Fence(nexus) => {
                if let Some(task) = self.tasks.remove(key) {
                    self.fence_answered(nexus, &task, response, now);
                }
            }
            Origin::Met(itt) => {
                if let Some(task) = self.tasks.remove(key) {
                    self.met(itt, &task, now);
                }
            }
            Origin::Registration => {
                if let Some(task) = self.tasks.remove(key) {
                    self.held -= u64::from(task.inbound.received());
                    self.registration_answered(&task, response, now);
                }
            }
            Origin::Wash(target) => {
                if let Some(task) = self.tasks.remove(key) {
                    self.wash_answered(target, &task, response, now);
                }
            }
            Origin::Transition => {
                task.run = None;
                self.transition_answered(lun, (nexus, sent_at), response);
                self.conclude(key, now);
            }
        }
    }
}
