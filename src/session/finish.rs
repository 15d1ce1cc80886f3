//! The end of a session: what runs is finished or fenced, then every upstream connection is logged out.
//!
//! The initiator is not waited for: what has not been sent is dropped, and a write whose data did not come whole is
//! given up with its nexus. Ghosts are fenced before the session ends, so that a successor of the same initiator finds
//! none ([`super::fence`]).

use super::Session;
use super::api::{How, Output};
use super::nexus::{ConnState, NexusId};
use super::tasks::Origin;
use std::time::{Duration, Instant};

/// How long commands that are at the targets may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Where the end stands.
#[derive(Debug)]
pub(super) struct Finishing {
    drain_until: Instant,
    told: bool,
}

impl Session {
    /// No more is taken from the initiator, nor told to it; the session winds up.
    pub(super) fn begin_finish(&mut self, now: Instant) {
        if self.finishing.is_some() {
            return;
        }
        self.changed = true;
        self.outputs.push_back(Output::CloseDownstream);
        self.finishing = Some(Finishing { drain_until: now + DRAIN, told: false });
        self.abandon_recovery(now);
        self.end_functions();
        self.held_answers.clear();
        self.leave_predecessor();
        self.checks.clear();
        for key in self.tasks.select(|t| t.run.is_none() && !matches!(t.origin, Origin::Fence(_))) {
            self.conclude(key, now);
        }
        let opening: Vec<_> =
            self.conns.iter().filter(|c| c.state == ConnState::Opening).map(|c| c.id).collect();
        for id in opening {
            self.close_conn(id, How::Reset, now);
        }
    }

    /// Takes the next step towards the end if it can be taken.
    pub(super) fn progress_finish(&mut self, now: Instant) {
        if self.finishing.is_none() || self.is_over() {
            return;
        }
        for nexus in self.hopeless(now) {
            if let Some(path) = self.conns.iter().find(|c| c.nexus == nexus).map(|c| c.path) {
                self.nexus_lost(nexus, path, now);
            }
        }
        let moved = self.conns.iter().any(|c| self.owes_stale_answer(c.id));
        let running = moved || self.tasks.iter().any(|(_, t)| t.run.is_some());
        if running || !(self.ghosts.is_empty() || broken!(self.rules, EndLeavesGhosts)) {
            self.open_fences(now);
            return;
        }
        let late = self.finishing.as_ref().is_some_and(|f| now >= f.drain_until);
        if !late && self.wash_at_end(now) {
            return;
        }
        let up: Vec<_> = self.conns.iter().filter(|c| c.state == ConnState::Up).map(|c| c.id).collect();
        for id in up {
            if !self.closes_session_later(id) {
                self.log_out(id, now);
            }
        }
        if self.conns.is_empty() {
            self.outputs.push_back(Output::Finished(self.unwashed()));
            if let Some(finishing) = &mut self.finishing {
                finishing.told = true;
            }
        }
    }

    /// Nexuses with a command that will not end, or did not end in time. Fences have the time that ghosts have.
    fn hopeless(&self, now: Instant) -> Vec<NexusId> {
        let late = self.finishing.as_ref().is_some_and(|f| now >= f.drain_until);
        let mut found: Vec<NexusId> = self.haunted_alive(late).collect();
        let owing = self.conns.iter().filter(|c| late && self.owes_stale_answer(c.id));
        found.extend(owing.map(|c| c.nexus));
        for (_, task) in self.tasks.iter().filter(|(_, t)| !matches!(t.origin, Origin::Fence(_))) {
            let starving = task.write && task.inbound.received() < task.expected;
            let Some(run) = task.run.as_ref().filter(|_| late || starving) else { continue };
            if !found.contains(&run.nexus) {
                found.push(run.nexus);
            }
        }
        found
    }

    /// Whether the end was told.
    pub(super) fn is_over(&self) -> bool {
        self.finishing.as_ref().is_some_and(|f| f.told)
    }

    /// When the draining gives way.
    pub(super) fn finish_deadline(&self) -> Option<Instant> {
        self.finishing.as_ref().filter(|f| !f.told).map(|f| f.drain_until)
    }
}
