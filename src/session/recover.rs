//! What to do when a nexus is lost (DESIGN: failure and recovery), in its safe form.
//!
//! A nexus is lost with any of its connections: what targets do with an MC/S session that lost one differs too much
//! (TARGETS section 3) to build on, unless the operator says otherwise ([`super::reassign`]). Then:
//! 1. its other connections are reset;
//! 2. each unanswered command that may run twice goes back to its place in the queue; for the others the initiator is
//!    told that the outcome is unknown (P5);
//! 3. each unanswered command that changes the medium leaves a **ghost**: newer commands that it could overwrite wait
//!    until the nexus is fenced, or until `fence_time` has passed since the loss; so do commands that read what it
//!    writes, once it is certain that it will not run again, or a target that may have run it in vain lost its cache;
//! 4. the nexus is reinstated, and what it left behind is fenced ([`super::fence`]).
//!
//! # Why no outcome is found out by reading back
//! After the fence a lost command will not run any more, and what the blocks hold could be read. For COMPARE AND WRITE that
//! looks tempting, and is exact in no case that matters. Blocks that hold the data to be written may have held them before, so
//! that it was a miscompare, or have them from another initiator's command of the same kind; those that hold what was to be
//! compared with may have been written and put back. Only a reservation that keeps all others from writing would exclude the
//! others, and not the first of these; and that it has been held all the time, nobody can tell (a preemption is told
//! afterwards, if at all). An initiator takes a lock with this command: a wrong GOOD is two owners, and a wrong miscompare a
//! lock that nobody releases. The rest is no better. What EXTENDED COPY did is told to the nexus only that sent it, and that
//! is lost; RESERVE and its like are replicated, asked for and told elsewhere ([`super::unit`]); of commands that Braid does
//! not know, nothing is known. So the honest answer is the sense data that a lost nexus gives, and the initiator, which knows
//! what it wanted, reads back itself.

use super::Session;
use super::api::{Cause, FenceMethod, How, Notice, Output, PathId, Trigger};
use super::group::TargetId;
use super::nexus::{ConnState, HOME, Nexus, NexusId, NexusState};
use super::order::Holder;
use super::tasks::{Origin, TaskKey};
use super::unit::Repeat;
use crate::iscsi::{Lun, ScsiResponse};
use crate::scsi::sense::key;
use crate::scsi::{Class, Sense};
use std::time::{Duration, Instant};

/// A command that may still execute over a nexus that was given up.
#[derive(Debug)]
pub(super) struct Ghost {
    pub(super) id: u64,
    pub(super) nexus: NexusId,
    pub(super) lun: Lun,
    /// The LUN on that nexus.
    pub(super) lun_there: Lun,
    pub(super) path: PathId,
    pub(super) since: Instant,
    /// All that can be done for it was done: time must do the rest.
    pub(super) timed: bool,
    /// An earlier session may have left it.
    pub(super) inherited: bool,
    /// The command that left it, while that may run again.
    pub(super) owner: Option<TaskKey>,
    /// What it does is not, or no longer, there already.
    pub(super) alone: bool,
}

/// A command that met so many lost nexuses is ended instead of being moved once more.
const MOST_LOSSES: u32 = 16;

impl Session {
    /// A nexus lost a connection that was up: everything it carried is given up.
    pub(super) fn nexus_lost(&mut self, nexus: NexusId, path: PathId, now: Instant) {
        self.recovery.take_if(|r| r.is_of(nexus));
        let others: Vec<_> =
            self.conns.iter().filter(|c| c.nexus == nexus).map(|c| (c.id, c.path, c.state)).collect();
        for (id, other, state) in others {
            let well = state == ConnState::Up && !self.is_suspect(other);
            let was_up = state != ConnState::Opening;
            self.conns.retain(|c| c.id != id);
            self.path_turns(other, if was_up { Trigger::Lost } else { Trigger::Failed });
            if was_up {
                let cause = Cause::Protocol("its session lost another connection".into());
                self.note(Notice::PathDown { path: other, was_up, cause });
            }
            self.outputs.push_back(Output::Close(id, How::Reset));
            let still = self.conns.iter().any(|c| c.path == other && c.state == ConnState::Up);
            if let Some(slot) = self.paths.get_mut(other.0) {
                slot.up = still;
                // What failed over it before is of no account: it carried until now.
                slot.retry_at.take_if(|_| well);
            }
        }
        self.give_up_runs(nexus, path, now);
        self.nexus_gone(nexus, now);
    }

    /// A nexus has no connection any more: what was under way on it besides the initiator's commands ends.
    pub(super) fn nexus_gone(&mut self, nexus: NexusId, now: Instant) {
        self.set_nexus_state(nexus, NexusState::Down);
        self.fences.retain(|f| f.nexus != nexus);
        self.forget_checks(nexus, now);
        for key in self.tasks.select(|t| t.only_nexus == Some(nexus)) {
            self.conclude(key, now);
        }
        if nexus == HOME {
            self.home_lost_since.get_or_insert(now);
        }
        if self.finishing.is_none() && self.conns.iter().all(|c| c.state == ConnState::Opening) {
            self.note(Notice::AllPathsDown);
        }
        self.hurry(now);
        self.tmf_conns_lost(now);
    }

    fn give_up_runs(&mut self, nexus: NexusId, path: PathId, now: Instant) {
        let lost = self.tasks.select(|t| t.run.as_ref().is_some_and(|r| r.nexus == nexus));
        let mut moved = 0;
        for task_key in lost.into_iter().rev() {
            let repeat = self.tasks.get(task_key).map_or(Repeat::No, |task| self.repeat(task, nexus));
            moved += usize::from(self.forsake(task_key, path, repeat, now));
        }
        if moved > 0 {
            self.note(Notice::Moved { path, commands: moved });
        }
    }

    /// Gives up one run; returns whether the command will run again, or may. For one that does not, the outcome is unknown.
    pub(super) fn forsake(&mut self, task_key: TaskKey, path: PathId, repeat: Repeat, now: Instant) -> bool {
        let finishing = self.finishing.is_some();
        let Some(task) = self.tasks.get_mut(task_key) else { return false };
        let Some(run) = task.run.take() else { return false };
        let (nexus, there) = (run.nexus, run.lun);
        task.losses += 1;
        let (lun, answered, abandoned) = (task.lun, task.held_response.is_some(), task.abandoned);
        let command = task.command.clone();
        let class = &command.class;
        let spared = broken!(self.rules, OnlyPlainWritesHaunt) && !matches!(class, Class::Write(_));
        let ghost = task.leaves_ghost() && !broken!(self.rules, NoGhosts) && !spared;
        let own = !matches!(task.origin, Origin::Initiator { .. });
        let again = task.losses > 1;
        let made_up = again && class.writes() && broken!(self.rules, LostTwiceAnsweredGood);
        let worn_out = task.losses > MOST_LOSSES;
        if let Some(load) = self.loads.get_mut(run.path.0) {
            load.forgotten(run.load);
        }
        if answered {
            return false;
        }
        let ghost = (ghost && !own).then(|| self.leave_ghost(task_key, (nexus, there), lun, path, now));
        if self.conn(run.conn).is_some() {
            self.run_ended(run, lun, ghost);
        }
        if own {
            if command.class == Class::Reservation {
                let ghost = self.add_ghost((nexus, there), lun, path, now, None);
                self.registration_haunted(lun, nexus, ghost);
            }
            self.conclude(task_key, now);
            return false;
        }
        if finishing || abandoned {
            self.conclude(task_key, now);
            return false;
        }
        if made_up {
            self.respond(task_key, ScsiResponse::default(), now);
            return false;
        }
        let repeat = if broken!(self.rules, RunAgainWhatMustNot) { Repeat::Yes } else { repeat };
        if repeat != Repeat::No && !worn_out {
            self.recall(task_key);
            if let Some(task) = self.tasks.get_mut(task_key) {
                task.undecided = repeat == Repeat::Undecided;
            }
            if !(again && broken!(self.rules, LostTwiceForgotten)) {
                self.run_again(task_key);
            }
            return true;
        }
        self.note(Notice::OutcomeUnknown { path });
        self.note_change(lun, &command);
        if let Some(task) = self.tasks.get(task_key).filter(|_| command.class == Class::Reservation) {
            let request = task.persistent_request();
            self.persistent_doubted(lun, request, ghost);
        }
        self.answer_unknown_outcome(task_key, now);
        false
    }

    /// The target may or may not have run it, and running it again is not the same (P5). ABORTED COMMAND says that
    /// the outcome is open; a unit attention would say that the command did not run.
    pub(super) fn answer_unknown_outcome(&mut self, task_key: TaskKey, now: Instant) {
        let misleading = broken!(self.rules, OutcomeToldAsAttention);
        let key = if misleading { key::UNIT_ATTENTION } else { key::ABORTED_COMMAND };
        let sense = Sense { key, asc: 0x29, ascq: 0x07 };
        let lun = self.tasks.get(task_key).map(|t| t.lun).unwrap_or_default();
        let told = ScsiResponse::check_condition(&self.own_sense(lun, sense));
        let response = if broken!(self.rules, OutcomeMadeUp) { ScsiResponse::default() } else { told };
        self.respond(task_key, response, now);
    }

    pub(super) fn leave_ghost(
        &mut self,
        key: TaskKey,
        (nexus, lun_there): (NexusId, Lun),
        lun: Lun,
        path: PathId,
        since: Instant,
    ) -> u64 {
        let id = self.add_ghost((nexus, lun_there), lun, path, since, Some(key));
        let tasks = &self.tasks;
        let waiting = self.order.haunt(key, id, |k| tasks.runs(k));
        self.hold_back(&waiting);
        id
    }

    /// A ghost of the command that owns it, or of one of Braid's own; for the latter nothing of the initiator's waits.
    fn add_ghost(
        &mut self,
        (nexus, lun_there): (NexusId, Lun),
        lun: Lun,
        path: PathId,
        since: Instant,
        owner: Option<TaskKey>,
    ) -> u64 {
        self.next_ghost += 1;
        let id = self.next_ghost;
        self.ghosts.push(Ghost {
            id,
            nexus,
            lun,
            lun_there,
            path,
            since,
            timed: false,
            inherited: false,
            owner,
            alone: false,
        });
        id
    }

    /// A command that left ghosts has ended. Unless it is done, they may still change what is read.
    pub(super) fn disown_ghosts(&mut self, key: TaskKey, done: bool) {
        let owned = self.ghosts.iter_mut().filter(|g| g.owner == Some(key));
        let ids: Vec<u64> = owned.map(|g| (g.owner = None, g.id).1).collect();
        if !done {
            self.leave_alone(&ids, Some(key));
        }
    }

    /// A target lost writes that it had answered. A ghost of one, at another target, may bring it back.
    pub(super) fn fear_revival(&mut self, lun: Lun, lost_at: TargetId) {
        let elsewhere = |nexus| self.group_in(nexus).is_some_and(|group| group.target != lost_at);
        let revives = |g: &&Ghost| g.lun == lun && g.owner.is_none() && elsewhere(g.nexus);
        let ids: Vec<u64> = self.ghosts.iter().filter(revives).map(|g| g.id).collect();
        self.leave_alone(&ids, None);
    }

    /// What these ghosts do is not, or no longer, there already. What ends with them does not wait for them.
    fn leave_alone(&mut self, ids: &[u64], ending: Option<TaskKey>) {
        for id in ids {
            let tasks = &self.tasks;
            let waiting = self.order.haunt_reads(*id, |k| Some(k) == ending || tasks.runs(k));
            self.hold_back(&waiting);
        }
        self.ghosts.iter_mut().filter(|g| ids.contains(&g.id)).for_each(|g| g.alone = true);
    }

    /// A command runs again: for some time nothing held it back.
    pub(super) fn wait_for_ghosts(&mut self, key: TaskKey) {
        if self.ghosts.is_empty() {
            return;
        }
        let own: Vec<u64> = self.ghosts.iter().filter(|g| g.owner == Some(key)).map(|g| g.id).collect();
        let tasks = &self.tasks;
        let more = self.order.run_again(key, |id| own.contains(&id), |k| tasks.runs(k));
        if let Some(task) = self.tasks.get_mut(key) {
            task.fear(more, self.now);
        }
    }

    /// These have one more entry of the order to wait for.
    pub(super) fn hold_back(&mut self, waiting: &[TaskKey]) {
        for key in waiting {
            let Some(task) = self.tasks.get_mut(*key) else { continue };
            task.fear(1, self.now);
            if std::mem::take(&mut task.queued) {
                self.unqueue(*key);
            }
            self.flush_held(*key);
        }
    }

    /// Ghosts of `nexus` (all units, or one) are gone.
    pub(super) fn lay_ghosts(&mut self, gone: impl Fn(&Ghost) -> bool) {
        let (laid, left) = std::mem::take(&mut self.ghosts).into_iter().partition(|g| gone(g));
        self.ghosts = left;
        let laid: Vec<Ghost> = laid;
        // Somebody may have waited for them without a place in the order.
        self.changed |= !laid.is_empty();
        for ghost in laid {
            self.ghost_may_have_written(&ghost);
            let waiting = self.order.leave(Holder::Ghost(ghost.id));
            self.release(&waiting);
        }
    }

    /// After `fence_time` the target must have dropped the old tasks; newer writes no longer wait.
    pub(super) fn expire_ghosts(&mut self, now: Instant) {
        let limit = self.quarantine();
        let due = |g: &&Ghost| now >= g.since + limit && !self.is_on_its_way(g);
        let expired: Vec<(u64, PathId, Instant)> =
            self.ghosts.iter().filter(due).map(|g| (g.id, g.path, g.since)).collect();
        if let Some((_, path, since)) = expired.first().copied() {
            self.note(Notice::Fenced {
                path,
                method: FenceMethod::Time,
                took: now.saturating_duration_since(since),
            });
            self.lay_ghosts(|g| expired.iter().any(|(id, _, _)| *id == g.id));
            let left: Vec<NexusId> = self.ghosts.iter().map(|g| g.nexus).collect();
            let done: Vec<NexusId> =
                self.fences.iter().map(|f| f.nexus).filter(|n| !left.contains(n)).collect();
            for nexus in done {
                self.fence_done(nexus, now);
            }
        }
    }

    /// Nexuses that live and have ghosts of their own: only their end will fence these, and those whose command may still
    /// be answered once it is `late`.
    pub(super) fn haunted_alive(&self, late: bool) -> impl Iterator<Item = NexusId> {
        let alive = |n: &Nexus, since| n.state == NexusState::Up && since > n.login_began;
        let own = move |g: &&Ghost| {
            (late || !self.may_be_answered(g)) && self.nexus(g.nexus).is_some_and(|n| alive(n, g.since))
        };
        self.ghosts.iter().filter(own).map(|g| g.nexus)
    }

    /// When the first ghost expires.
    pub(super) fn ghost_deadline(&self) -> Option<Instant> {
        let timed = self.ghosts.iter().filter(|g| !self.is_on_its_way(g));
        timed.map(|g| g.since + self.quarantine()).min()
    }

    /// How long a ghost is feared at most.
    pub(super) fn quarantine(&self) -> Duration {
        if broken!(self.rules, QuarantineEndsAtOnce) { Duration::ZERO } else { self.plan.fence_time }
    }
}
