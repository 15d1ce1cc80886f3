//! What is different where the initiator has several connections, or loses one of them ([`super::super::line`]).

use super::Function;
use crate::iscsi::{CmdSn, tmf};
use crate::session::Session;
use crate::session::api::Cause;
use crate::session::tasks::{Origin, Task, TaskKey};
use std::time::Instant;

impl Session {
    /// Aborts a command that lacks data which nobody will send any more.
    pub(in crate::session) fn abort_abandoned(&mut self, key: TaskKey, now: Instant) {
        self.abort_at_target(key, None, now);
    }

    /// Ends a write whose data the initiator does not send, once its target has let it go.
    pub(in crate::session) fn abandon(&mut self, key: TaskKey, now: Instant) {
        // Nobody asked for it: there is no answer to give.
        if !self.abort_at_target(key, None, now) {
            self.answer_to_missing_data(key, now);
        }
    }

    /// Whether something over other connections of the initiator's must be acknowledged first. Until then the commands that it
    /// has ended, and those that come later, stay where they are.
    pub(super) fn has_to_be_acknowledged(&mut self, function: &mut Function) -> bool {
        let Some((line, _)) = function.asker.filter(|_| function.owed.is_none()) else { return false };
        let owed = self.ask_to_acknowledge(line);
        !function.owed.insert(owed).is_empty()
    }

    /// The last command that a function with this number covers: of several connections, one may have brought commands with
    /// later numbers before (R145).
    pub(super) fn covered_to(&self, cmd_sn: CmdSn) -> u64 {
        // An immediate one may have come before commands that are covered.
        let numbered = |task: &Task| !matches!(task.origin, Origin::Initiator { immediate: true, .. });
        let later = self.tasks.iter().filter(|(_, task)| numbered(task) && self.is_later(task, cmd_sn));
        later.map(|(_, task)| task.seq).min().map_or(self.seq, |first| first - 1)
    }

    /// Whether the initiator sent a command after a function with this number, though it came before it, over another
    /// connection. Its tag may be that of a command before, which the function means.
    pub(super) fn is_later(&self, task: &Task, cmd_sn: CmdSn) -> bool {
        let later = match task.origin {
            Origin::Initiator { cmd_sn: own, immediate, .. } => {
                own.is_after(cmd_sn) || own == cmd_sn && !immediate
            }
            Origin::Check(_)
            | Origin::Survey(_)
            | Origin::Fence(_)
            | Origin::Met(_)
            | Origin::Registration
            | Origin::Transition
            | Origin::Wash(_) => false,
        };
        later && self.lines.may_be_several()
    }

    /// Commands that a function does not cover, and has ended at the target all the same: they were there when it came.
    pub(super) fn swept_besides(&self, function: &Function) -> Vec<TaskKey> {
        let later = |task: &Task| task.seq > function.before && task.run.is_some();
        match self.lines.may_be_several() {
            true => self.tasks.select(|task| later(task) && function.concerns(task)),
            false => Vec::new(),
        }
    }

    pub(super) fn run_swept_again(&mut self, key: TaskKey, now: Instant) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let (lun, twice) = (task.lun, task.may_run_twice());
        let Some(run) = task.run.take() else { return };
        if let Some(load) = self.loads.get_mut(run.path.0) {
            load.forgotten(run.load);
        }
        self.run_ended(run, lun, None);
        if twice {
            self.recall(key);
        } else {
            self.answer_unknown_outcome(key, now);
        }
    }

    /// The target has answered what Braid wanted itself, or is gone: a command that lacks data has ended there. If it is one that the
    /// initiator does not send any more, the initiator is told. A target that keeps the command would wait for its data without end.
    pub(super) fn given_up(&mut self, function: &Function, now: Instant) {
        let let_go = matches!(function.response, tmf::COMPLETE | tmf::TASK_DOES_NOT_EXIST);
        for key in self.covered(function) {
            let Some(task) = self.tasks.get(key) else { continue };
            match (task.abandoned, let_go) {
                (true, true) => self.conclude(key, now),
                (false, true) => self.answer_to_missing_data(key, now),
                (false, false) => self.begin_finish(now),
                (true, false) => {
                    if let Some(conn) = task.run.as_ref().map(|run| run.conn) {
                        let cause = "it does not abort a command that lacks data";
                        self.fail_conn(conn, Cause::Protocol(cause.into()), now);
                    }
                }
            }
        }
    }
}
