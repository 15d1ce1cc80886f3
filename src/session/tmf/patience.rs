//! What functions wait for, for how long, and what becomes of them if it does not come.

use super::{Function, MOST_TRIES, Stage};
use crate::iscsi::tmf;
use crate::session::Session;
use crate::session::api::{Cause, ConnId};
use crate::session::nexus::NexusId;
use crate::session::tasks::{Task, TaskKey};
use std::time::{Duration, Instant};

/// How long write data that the initiator owes is waited for, from the request on.
const DATA_PATIENCE: Duration = Duration::from_secs(1);

impl Session {
    /// Gives up connections over which a function stays unanswered for too long.
    pub(in crate::session) fn expire_functions(&mut self, now: Instant) {
        let patience = self.function_patience();
        let late = |f: &Function| f.is_at_target() && now >= f.asked_at + patience;
        self.function_data_came(now);
        if self.paused || broken!(self.rules, FunctionsWaitedForWithoutEnd) {
            return;
        }
        while let Some(function) = self.functions.iter_mut().find(|f| late(f)) {
            function.tries = MOST_TRIES;
            // Each connection is given up once, whatever comes of it.
            function.asked_at = now;
            let conns: Vec<ConnId> = function.awaited.iter().map(|(conn, _)| *conn).collect();
            for conn in conns {
                if self.conn(conn).is_some() {
                    let cause = "a task management function stays unanswered";
                    self.fail_conn(conn, Cause::Protocol(cause.into()), now);
                }
            }
        }
    }

    fn function_patience(&self) -> Duration {
        self.plan.fence_time + self.plan.task_timeout
    }

    /// When a function has been waited for long enough.
    pub(in crate::session) fn function_deadline(&self) -> Option<Instant> {
        let patience = self.function_patience();
        let due = |f: &Function| {
            let answer = (f.is_at_target() && !self.paused).then(|| f.asked_at + patience);
            let data = self.awaits_data(f, self.looked).then(|| f.began + DATA_PATIENCE);
            answer.or_else(|| data.filter(|_| f.stage == Stage::Echoing))
        };
        self.functions.iter().filter_map(due).min()
    }

    /// Nothing was read from targets for a while.
    pub(in crate::session) fn restart_functions_patience(&mut self, now: Instant) {
        self.functions.iter_mut().for_each(|f| f.asked_at = now);
    }

    pub(super) fn may_go_on(&self, function: &Function, now: Instant) -> bool {
        let waits = function.stage == Stage::Echoing && self.awaits_data(function, now);
        let acknowledged = function.owed.as_ref().is_none_or(Vec::is_empty);
        function.awaited.is_empty() && !function.waits_for_home && !waits && acknowledged
    }

    /// Whether the initiator owes data of a command that the function has ended, and may yet send it.
    fn awaits_data(&self, function: &Function, now: Instant) -> bool {
        let owed = |key: &TaskKey| self.tasks.get(*key).is_some_and(Task::data_due);
        let in_vain = function.response != tmf::COMPLETE || now >= function.began + DATA_PATIENCE;
        !in_vain && self.covered(function).iter().any(owed)
    }

    /// Write data came: it may be what a function waits for.
    pub(in crate::session) fn function_data_came(&mut self, now: Instant) {
        if !self.functions.is_empty() {
            self.finish_functions(now);
        }
    }

    /// The session ends: what is at the targets is awaited, because it may sweep away commands of Braid's own.
    pub(in crate::session) fn end_functions(&mut self) {
        self.functions.retain(|f| !f.waits_for_home);
        // Nobody hears of them any more.
        self.functions.iter_mut().for_each(|f| f.owed = Some(Vec::new()));
    }

    /// Whether a connection still owes an answer to a function.
    pub(in crate::session) fn owes_answer(&self, id: ConnId) -> bool {
        self.functions.iter().any(|f| f.awaited.iter().any(|(conn, _)| *conn == id))
    }

    /// Connections that are gone will not answer: their tasks have ended there, or will with the fence.
    pub(in crate::session) fn tmf_conns_lost(&mut self, now: Instant) {
        let alive: Vec<ConnId> = self.conns.iter().map(|c| c.id).collect();
        let nexuses: Vec<NexusId> = self.conns.iter().map(|c| c.nexus).collect();
        let mut ended = false;
        for function in &mut self.functions {
            // What the nexus carries when it is back was not there to be ended.
            function.asked_of.retain(|n| nexuses.contains(n));
            let before = function.awaited.len();
            function.awaited.retain(|(conn, _)| alive.contains(conn));
            let lost = function.stage == Stage::Asked
                && function.awaited.len() < before
                && !broken!(self.rules, LostResetAnswered);
            // One that was not answered in time was ignored. Any other may be what ended the session.
            ended |= lost && function.is_cold() && function.tries < MOST_TRIES;
            function.waits_for_home |= lost && function.is_reset();
        }
        self.attention_conns_lost(now);
        if ended {
            self.begin_finish(now);
        }
        self.finish_functions(now);
    }

    /// Home is back: resets that were lost with it go out again, before any command does. (A reset may be what closed
    /// home's connections: istgt closes all but the one it came on.)
    pub(in crate::session) fn reissue_resets(&mut self, now: Instant) {
        if self.finishing.is_some() {
            return;
        }
        while let Some(at) = self.functions.iter().position(|f| f.waits_for_home) {
            let mut function = self.functions.remove(at);
            function.waits_for_home = false;
            function.tries += 1;
            if function.tries > MOST_TRIES {
                function.stage = Stage::Echoing;
                function.response = tmf::REJECTED;
            } else {
                self.gather(&mut function, now);
            }
            self.functions.insert(at, function);
        }
        self.finish_functions(now);
    }
}
