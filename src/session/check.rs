//! Invariants of the whole engine, for tests and the simulator: what must hold between any two events.

use super::Session;
use super::api::PathId;
use super::nexus::{ConnState, NexusState};
use super::tasks::Origin;

impl Session {
    /// Checks the state as a whole.
    ///
    /// # Errors
    /// Names the first invariant that does not hold.
    pub fn check(&self) -> Result<(), String> {
        for (key, task) in self.tasks.iter() {
            let blockers = self.order.blockers_of(key);
            if task.blockers != blockers {
                return Err(format!(
                    "task {key} counts {} blockers, the order has {blockers}",
                    task.blockers
                ));
            }
            if task.run.is_some() && (task.queued || task.blockers > 0) {
                return Err(format!("task {key} runs although it is queued or held back"));
            }
            if let Some(run) = task.run.as_ref().filter(|r| !self.is_being_recovered(r.conn)) {
                let conn = self
                    .conn(run.conn)
                    .ok_or_else(|| format!("task {key} runs on a connection that is gone"))?;
                if conn.state == ConnState::Opening {
                    return Err(format!("task {key} runs on a connection that is not open"));
                }
            }
            let queues = [&self.any_queue, &self.home_queue].iter().filter(|q| q.contains(&key)).count();
            let initiator = matches!(task.origin, Origin::Initiator { .. });
            if initiator && self.is_ready(task) {
                return Err(format!("task {key} could go and stands in no queue"));
            }
            if initiator && queues != usize::from(task.queued) {
                return Err(format!("task {key} stands in {queues} queues, queued = {}", task.queued));
            }
        }
        let opening = self.conns.iter().any(|c| c.state == ConnState::Opening);
        if self.home_state() == NexusState::Down
            && !opening
            && self.next_deadline().is_none()
            && !self.is_over()
        {
            return Err("home is down, and nothing will bring it back or end the session".into());
        }
        let with_tasks: u64 = self.tasks.iter().map(|(_, t)| u64::from(t.inbound.received())).sum();
        let held = with_tasks + self.held_for_stale();
        let promised: u64 = self.tasks.iter().map(|(_, t)| t.booked()).sum();
        if (held, promised) != (self.held, self.promised) {
            return Err(format!("memory: {}/{} booked, {held}/{promised} held", self.held, self.promised));
        }
        for (index, slot) in self.paths.iter().enumerate() {
            let state = self.state_of(PathId(index));
            if slot.state != state {
                return Err(format!("path {index} is {state:?}, and noted is {:?}", slot.state));
            }
        }
        for (index, load) in self.loads.iter().enumerate() {
            let running =
                self.tasks.iter().filter(|(_, t)| t.run.as_ref().is_some_and(|r| r.path.0 == index)).count();
            let left = self.stale_load(index);
            if load.commands as usize != running + left {
                let counted = load.commands;
                return Err(format!("path {index} counts {counted} commands, {running} run, {left} left"));
            }
        }
        Ok(())
    }
}
