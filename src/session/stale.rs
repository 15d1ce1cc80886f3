//! Runs of commands that ended without an answer while their connection lives on: a task management function ended them,
//! or somebody else's did and they run again ([`super::cleared`]). Should the target answer after all, its answer is
//! not for the initiator. But it shows that nothing of the run can happen any more, and a unit attention in it is not
//! lost (DESIGN: P3).

use super::Session;
use super::api::ConnId;
use super::nexus::HOME;
use super::tasks::Run;
use crate::iscsi::{Itt, Lun, ScsiResponse};
use std::time::Instant;

/// Runs remembered; an answer to an older one is dropped, and its ghost left to time.
const MOST_REMEMBERED: usize = 256;

/// A run that may still be answered.
#[derive(Debug)]
pub(super) struct StaleRun {
    conn: ConnId,
    itt: Itt,
    lun: Lun,
    sent_at: Instant,
    /// What it left behind.
    ghost: Option<u64>,
}

impl Session {
    /// A run ends without an answer.
    pub(super) fn run_ended(&mut self, run: &Run, lun: Lun, ghost: Option<u64>) {
        if self.stale_runs.len() == MOST_REMEMBERED {
            self.stale_runs.pop_front();
        }
        let (conn, itt, sent_at) = (run.conn, run.itt, run.sent_at);
        self.stale_runs.push_back(StaleRun { conn, itt, lun, sent_at, ghost });
    }

    /// A response came that no running task waits for.
    pub(super) fn stale_answer(&mut self, id: ConnId, response: &ScsiResponse, now: Instant) {
        let found = self.stale_runs.iter().position(|r| (r.conn, r.itt) == (id, response.itt));
        let Some(run) = found.and_then(|at| self.stale_runs.remove(at)) else { return };
        let Some(nexus) = self.conn(id).map(|c| c.nexus) else { return };
        if run.ghost.is_some() {
            self.lay_ghosts(|g| Some(g.id) == run.ghost);
        }
        if broken!(self.rules, StaleAttentionsDropped) {
            return;
        }
        self.attention_met(nexus, run.lun, response, run.sent_at);
        if nexus != HOME && response.is_attention() {
            self.unit_doubted(run.lun, nexus, now);
        }
    }
}
