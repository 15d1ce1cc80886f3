//! Commands that a connection leaves unanswered although it lives: pings come back, answers do not.
//!
//! Targets lose commands. istgt, when it clears up a connection that was cut, drops whatever its initiator port has in
//! the unit's queue, the commands of the session that replaced the old one included, and never says so. Nothing on
//! the wire tells such a command from a slow one but time:
//! - While a nexus settles it waits for commands of Braid's own, which every target answers at once (but for ORDERED
//!   ones, which have `task_timeout`).
//! - A read, a write or a question about the unit's state counts as lost when `task_timeout` has passed since it was
//!   sent, and since then the connection has brought nothing but echoes, or has answered commands that were sent much
//!   later. (A deep queue on a slow link is neither.) Other commands may take their time: a flush, a format, a WRITE
//!   SAME over the whole unit.
//!
//! Either way the session is given up as if a connection of it had been cut, and everything runs again.

use super::Session;
use super::api::{Cause, ConnId};
use super::nexus::NexusState;
use super::tasks::{Origin, Task};
use crate::iscsi::TaskAttribute;
use crate::iscsi::quirk::Quirk;
use crate::scsi::Class;
use std::time::{Duration, Instant};

/// How long a settling nexus waits for the answer to a command of Braid's own.
const SETTLING_PATIENCE: Duration = Duration::from_secs(5);
/// Unanswered commands are looked for so often in the time they are given.
const LOOKS: u32 = 8;

impl Session {
    /// Gives up connections that keep an answer back for too long.
    pub(super) fn check_unanswered(&mut self, now: Instant) {
        let mut late: Vec<ConnId> = Vec::new();
        for (_, task) in self.tasks.iter() {
            let Some(run) = &task.run else { continue };
            if !late.contains(&run.conn) && (self.settles_late(task, now) || self.is_lost(task, now)) {
                late.push(run.conn);
            }
        }
        for id in late {
            if self.conn(id).is_some() {
                self.note_quirk(id, Quirk::CommandLost);
                self.fail_conn(id, Cause::Protocol("a command stays unanswered".into()), now);
            }
        }
        self.probe_the_silent(now);
        if self.stuck_check_at.is_none_or(|at| at <= now) {
            self.stuck_check_at = Some(now + self.plan.task_timeout / LOOKS);
        }
    }

    /// When to look again.
    pub(super) fn unanswered_deadline(&self) -> Option<Instant> {
        if self.paused || self.tasks.len() == 0 {
            return None;
        }
        let settling = self.nexuses.iter().any(|n| n.state == NexusState::Settling);
        let own = self.tasks.iter().filter(|(_, t)| settling && t.only_nexus.is_some());
        let settled =
            own.filter_map(|(_, t)| Some(t.run.as_ref()?.sent_at + self.settling_patience(t))).min();
        let look = self.stuck_check_at.unwrap_or_else(|| self.looked + self.plan.task_timeout / LOOKS);
        Some(settled.map_or(look, |settled| settled.min(look)))
    }

    fn settles_late(&self, task: &Task, now: Instant) -> bool {
        let Some(run) = task.run.as_ref().filter(|_| task.only_nexus.is_some()) else { return false };
        let settling = self.nexus(run.nexus).is_some_and(|n| n.state == NexusState::Settling);
        settling && now >= run.sent_at + self.settling_patience(task)
    }

    /// The ORDERED command of a fence rightly waits for what the device is doing.
    fn settling_patience(&self, task: &Task) -> Duration {
        match task.attribute {
            TaskAttribute::Ordered => self.plan.task_timeout,
            TaskAttribute::Untagged
            | TaskAttribute::Simple
            | TaskAttribute::HeadOfQueue
            | TaskAttribute::Aca => SETTLING_PATIENCE,
        }
    }

    fn is_lost(&self, task: &Task, now: Instant) -> bool {
        let Some(run) = &task.run else { return false };
        let Some(conn) = self.conn(run.conn) else { return false };
        let patience = self.plan.task_timeout;
        let patient = matches!(task.origin, Origin::Check(id) if self.is_patient(id))
            || self.follows_slow(task)
            || self.may_be_blocked(task.lun);
        let due = now >= run.sent_at + patience && should_be_quick(task) && !patient;
        if !due || broken!(self.rules, TaskTimeoutIgnored) {
            return false;
        }
        let silent = now >= conn.last_answer + patience;
        let overtaken = conn.newest_done >= run.sent_at + patience / 2;
        silent || overtaken
    }

    /// Whether the target may rightly hold a command back for an earlier one that takes its time.
    fn follows_slow(&self, task: &Task) -> bool {
        let slow = |t: &Task| t.lun == task.lun && t.seq < task.seq && t.run.is_some() && !should_be_quick(t);
        task.follows && self.tasks.iter().any(|(_, t)| slow(t))
    }
}

/// A read or write of blocks for which the target has all it needs, or a question about its state.
fn should_be_quick(task: &Task) -> bool {
    let quick = match task.command.class {
        // A unit that is behind may rightly hold back an ORDERED one.
        Class::Stateless | Class::Query | Class::Survey(_) => task.attribute != TaskAttribute::Ordered,
        Class::Read(_) | Class::Write(_) => !task.command.name.starts_with("WRITE SAME") && task.expected > 0,
        // Braid's own registrations wait for nothing.
        Class::Reservation => task.only_nexus.is_some(),
        Class::WriteAnywhere(_) | Class::WriteOnce(_) | Class::Flush(_) | Class::Barrier => false,
    };
    quick && !task.awaits_data()
}
