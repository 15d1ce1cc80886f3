//! What to do when a nexus is lost (DESIGN: failure and recovery), in its safe form.
//!
//! A nexus is lost with any of its connections: what targets do with an MC/S session that lost one differs too much
//! (TARGETS section 3) to build on. Then:
//! 1. its other connections are reset;
//! 2. each unanswered command that may run twice goes back to its place in the queue; for the others the initiator is
//!    told that the outcome is unknown (P5);
//! 3. each unanswered command that changes the medium leaves a **ghost**: newer commands that it could overwrite wait
//!    until the nexus is fenced, or until `fence_time` has passed since the loss; so do commands that read what it
//!    writes, once it is certain that it will not run again;
//! 4. the nexus is reinstated over a living portal of its group: after that nothing more can arrive from the old
//!    connections. What makes sure that nothing still runs depends on the target ([`FenceMethod`]). Where that is another
//!    path than the one lost, the unit must first say there that it is the one home knows ([`super::recognise`]): another
//!    target under the same name knows nothing of the old session.

use super::Session;
use super::api::{Cause, FenceMethod, How, Notice, Output, PathId};
use super::group::Group;
use super::nexus::{Conn, ConnState, HOME, Nexus, NexusId, NexusState, Role};
use super::order::Holder;
use super::tasks::{Origin, Task, TaskKey};
use super::unit::Repeat;
use crate::iscsi::{Cdb, Lun, ScsiResponse, TaskAttribute, Tsih};
use crate::scsi::inquiry::Inquiry;
use crate::scsi::sense::{key, status};
use crate::scsi::{Class, Sense, inquiry};
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
}

/// A fence under way: one logical unit after the other.
#[derive(Debug)]
pub(super) struct Fence {
    pub(super) nexus: NexusId,
    pub(super) units: Vec<Lun>,
    /// The unit in front is the one that its ghosts are of.
    pub(super) recognised: bool,
    /// What the unit in front said it is, once asked (only for [`FenceMethod::Auto`]).
    method: FenceMethod,
    pub(super) attempts: u32,
}

/// A unit attention may answer the fence's own command; so often it is sent again.
pub(super) const FENCE_ATTEMPTS: u32 = 16;
/// A command that met so many lost nexuses is ended instead of being moved once more.
const MOST_LOSSES: u32 = 16;

/// What completes a fence on targets whose behaviour was measured (TARGETS section 4), by vendor and product.
fn known_fence(identity: &Inquiry) -> FenceMethod {
    match (identity.vendor.as_str(), identity.product.as_str()) {
        // A write inside the backing store outlives reinstatement; ORDERED waits for it.
        ("IET", _) => FenceMethod::Ordered,
        // The login itself waits for the device; an ORDERED command could wedge the unit.
        ("LIO-ORG", _) => FenceMethod::Reinstate,
        // istgt: the login waits for the device.
        ("FreeBSD", _) => FenceMethod::Reinstate,
        // The lab target: reinstatement ends the old session's tasks before it is answered.
        ("BRAID", _) => FenceMethod::Reinstate,
        _ => FenceMethod::Time,
    }
}

/// Whether an ORDERED command was answered from its place in the task set: other statuses, unit attentions, and what the
/// state of the port refuses, may be given before a command takes its place.
fn took_its_turn(response: &ScsiResponse) -> bool {
    let sense = || response.sense().and_then(|s| Sense::parse(&s));
    match response.status {
        _ if response.response != 0 => false,
        status::GOOD => true,
        status::CHECK_CONDITION => {
            sense().is_some_and(|s| !s.is_unit_attention()) && !response.is_access_refusal()
        }
        _ => false,
    }
}

impl Session {
    /// A nexus lost a connection that was up: everything it carried is given up.
    pub(super) fn nexus_lost(&mut self, nexus: NexusId, path: PathId, now: Instant) {
        let others: Vec<_> =
            self.conns.iter().filter(|c| c.nexus == nexus).map(|c| (c.id, c.path, c.state)).collect();
        for (id, other, state) in others {
            if state != ConnState::Opening {
                let cause = Cause::Protocol("its session lost another connection".into());
                self.note(Notice::PathDown { path: other, was_up: true, cause });
            }
            self.outputs.push_back(Output::Close(id, How::Reset));
            self.conns.retain(|c| c.id != id);
            let still = self.conns.iter().any(|c| c.path == other && c.state == ConnState::Up);
            if let Some(slot) = self.paths.get_mut(other.0) {
                slot.up = still;
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
        let nexus = run.nexus;
        task.losses += 1;
        let (lun, answered) = (task.lun, task.held_response.is_some());
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
        let ghost = (ghost && !own).then(|| self.leave_ghost(task_key, (nexus, run.lun), lun, path, now));
        if self.conn(run.conn).is_some() {
            self.run_ended(&run, lun, ghost);
        }
        if own {
            if command.class == Class::Reservation {
                let ghost = self.leave_own_ghost((nexus, run.lun), lun, path, now);
                self.registration_haunted(lun, nexus, ghost);
            }
            self.conclude(task_key, now);
            return false;
        }
        if finishing {
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

    fn leave_ghost(
        &mut self,
        key: TaskKey,
        (nexus, lun_there): (NexusId, Lun),
        lun: Lun,
        path: PathId,
        since: Instant,
    ) -> u64 {
        self.next_ghost += 1;
        let id = self.next_ghost;
        let tasks = &self.tasks;
        let waiting = self.order.haunt(key, id, |k| tasks.runs(k));
        self.hold_back(&waiting);
        self.ghosts.push(Ghost {
            id,
            nexus,
            lun,
            lun_there,
            path,
            since,
            timed: false,
            inherited: false,
            owner: Some(key),
        });
        id
    }

    /// A ghost of a command of Braid's own; nothing of the initiator's waits for it.
    fn leave_own_ghost(
        &mut self,
        (nexus, lun_there): (NexusId, Lun),
        lun: Lun,
        path: PathId,
        since: Instant,
    ) -> u64 {
        self.next_ghost += 1;
        let (id, owner) = (self.next_ghost, None);
        let ghost = Ghost { id, nexus, lun, lun_there, path, since, timed: false, inherited: false, owner };
        self.ghosts.push(ghost);
        id
    }

    /// A command that left ghosts has ended. Unless it is done, they may still change what is read.
    pub(super) fn disown_ghosts(&mut self, key: TaskKey, done: bool) {
        let owned = self.ghosts.iter_mut().filter(|g| g.owner == Some(key));
        let ids: Vec<u64> = owned.map(|g| (g.owner = None, g.id).1).collect();
        for id in ids {
            if !done {
                let tasks = &self.tasks;
                let waiting = self.order.haunt_reads(key, id, |k| tasks.runs(k));
                self.hold_back(&waiting);
            }
        }
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
            let waiting = self.order.leave(Holder::Ghost(ghost.id));
            self.release(&waiting);
        }
    }

    /// After `fence_time` the target must have dropped the old tasks; newer writes no longer wait.
    pub(super) fn expire_ghosts(&mut self, now: Instant) {
        let limit = self.quarantine();
        let expired: Vec<(PathId, Instant)> =
            self.ghosts.iter().filter(|g| now >= g.since + limit).map(|g| (g.path, g.since)).collect();
        if let Some((path, since)) = expired.first().copied() {
            self.note(Notice::Fenced {
                path,
                method: FenceMethod::Time,
                took: now.saturating_duration_since(since),
            });
            self.lay_ghosts(|g| now >= g.since + limit);
            let left: Vec<NexusId> = self.ghosts.iter().map(|g| g.nexus).collect();
            let done: Vec<NexusId> =
                self.fences.iter().map(|f| f.nexus).filter(|n| !left.contains(n)).collect();
            for nexus in done {
                self.fence_done(nexus, now);
            }
        }
    }

    /// Nexuses that live and have ghosts of their own: only their end will fence these.
    pub(super) fn haunted_alive(&self) -> impl Iterator<Item = NexusId> {
        let alive = |n: &Nexus, since| n.state == NexusState::Up && since > n.login_began;
        let own = move |g: &&Ghost| self.nexus(g.nexus).is_some_and(|n| alive(n, g.since));
        self.ghosts.iter().filter(own).map(|g| g.nexus)
    }

    /// When the first ghost expires.
    pub(super) fn ghost_deadline(&self) -> Option<Instant> {
        self.ghosts.iter().map(|g| g.since + self.quarantine()).min()
    }

    /// How long a ghost is feared at most.
    pub(super) fn quarantine(&self) -> Duration {
        if broken!(self.rules, QuarantineEndsAtOnce) { Duration::ZERO } else { self.plan.fence_time }
    }

    /// Lost further nexuses with ghosts are reinstated over a living path of their portal group, without waiting for
    /// their own path. (Home is reinstated anyway, as long as the session goes on.)
    pub(super) fn open_fences(&mut self, now: Instant) {
        for nexus in 0..self.nexuses.len() {
            let wanted = self.ghosts.iter().any(|g| g.nexus == nexus && !g.timed)
                && self.nexus(nexus).is_some_and(|n| n.state == NexusState::Down)
                && (nexus != HOME || self.finishing.is_some());
            let due = self.nexus(nexus).is_some_and(|n| n.fence_retry_at.is_none_or(|at| at <= now));
            if !wanted || !due || !self.may_fence(nexus) {
                continue;
            }
            let path = self.fence_path(nexus).filter(|p| self.may_recognise(nexus, *p));
            let Some(path) = path else { continue };
            let tag = self.group_of(path).and_then(|g| g.tag);
            if let Some(nexus) = self.nexuses.get_mut(nexus) {
                nexus.fence_retry_at = Some(now + self.plan.reconnect.0);
                nexus.group.tag = nexus.group.tag.or(tag);
            }
            self.set_nexus_state(nexus, NexusState::Opening);
            self.open(path, nexus, Role::Fencing, now);
        }
    }

    /// When the next attempt to reinstate a lost nexus is due.
    pub(super) fn fence_deadline(&self) -> Option<Instant> {
        let haunted = self.ghosts.iter().filter(|g| !g.timed).filter_map(|g| self.nexus(g.nexus));
        let down = haunted.filter(|n| n.state == NexusState::Down);
        down.filter_map(|n| n.fence_retry_at).filter(|at| *at > self.looked).min()
    }

    fn fence_path(&self, nexus: NexusId) -> Option<PathId> {
        let lost = self.nexus(nexus)?;
        // One that this session has not logged in is where its path leads, as soon as that is known.
        let of_path = || self.group_of(self.path_of(nexus)).and_then(|g| g.tag);
        let mut group = lost.group;
        if lost.tsih == Tsih(0) {
            group.tag = Some(group.tag.or_else(of_path)?);
        }
        let blind = broken!(self.rules, FencedAtAnotherTarget);
        let same = |of: Group| of == group || blind && of.tag == group.tag;
        let same_group = |c: &&Conn| c.state == ConnState::Up && self.group_of(c.path).is_some_and(same);
        // The one over which no attempt failed lately.
        let retry_at = |c: &&Conn| self.paths.get(c.path.0).and_then(|p| p.retry_at);
        // One whose units were found to be home's, if there is one.
        let unproved = |c: &&Conn| c.nexus != HOME && !self.is_proved(c.nexus);
        let by_trust = |c: &&Conn| (unproved(c), retry_at(c));
        let living = self.conns.iter().filter(same_group).min_by_key(by_trust).map(|c| c.path);
        // With no other path left, the nexus' own may come back.
        let own = || self.ghosts.iter().find(|g| g.nexus == nexus).map(|g| g.path);
        living.or_else(|| own().filter(|_| self.finishing.is_some()))
    }

    /// A leading login of `nexus` succeeded: old connections of it are gone at the target. Makes the nexus usable once its
    /// ghosts are laid and, for home, the attentions of the new login are cleared.
    pub(super) fn settle(&mut self, nexus: NexusId, now: Instant) {
        self.set_nexus_state(nexus, NexusState::Settling);
        self.end_fence_tasks(nexus, now);
        let mut units: Vec<Lun> = Vec::new();
        for ghost in self.ghosts.iter().filter(|g| g.nexus == nexus) {
            if !units.contains(&ghost.lun) {
                units.push(ghost.lun);
            }
        }
        self.fences.retain(|f| f.nexus != nexus);
        let method = self.rules.fence(self.plan.fence);
        self.fences.push(Fence { nexus, units, recognised: false, method, attempts: 0 });
        self.next_fence_step(nexus, now);
    }

    /// A nexus that has logged in has ghosts from before that: makes sure that nothing of them still runs.
    pub(super) fn fence_living(&mut self, nexus: NexusId, now: Instant) {
        let Some(state) = self.nexus(nexus).map(|n| n.state) else { return };
        let under_way = self.fences.iter().any(|f| f.nexus == nexus);
        if state != NexusState::Up && !(state == NexusState::Settling && under_way) {
            return;
        }
        if !under_way {
            let method = self.rules.fence(self.plan.fence);
            self.fences.push(Fence { nexus, units: Vec::new(), recognised: false, method, attempts: 0 });
        }
        let Some(fence) = self.fences.iter_mut().find(|f| f.nexus == nexus) else { return };
        for ghost in self.ghosts.iter().filter(|g| g.nexus == nexus && !g.timed) {
            if !fence.units.contains(&ghost.lun) {
                fence.units.push(ghost.lun);
            }
        }
        if !under_way {
            self.next_fence_step(nexus, now);
        }
    }

    /// Sends what the fence needs next for its first unit, or finishes.
    pub(super) fn next_fence_step(&mut self, nexus: NexusId, now: Instant) {
        let Some(fence) = self.fences.iter().find(|f| f.nexus == nexus) else { return };
        let (method, unit) = (fence.method, fence.units.first().copied());
        let Some(lun) = unit else {
            self.fence_done(nexus, now);
            return;
        };
        if method != FenceMethod::Time && !self.recognise(nexus, lun, now) {
            return;
        }
        match method {
            FenceMethod::Auto => {
                let cdb = Cdb(inquiry::inquiry_cdb(None, 96).into_iter().collect());
                self.submit_fence(Task::own(Origin::Fence(nexus), nexus, lun, cdb, 96, now), now);
            }
            FenceMethod::Ordered => {
                let cdb = Cdb(inquiry::test_unit_ready_cdb().into_iter().collect());
                let mut task = Task::own(Origin::Fence(nexus), nexus, lun, cdb, 0, now);
                task.attribute = TaskAttribute::Ordered;
                self.submit_fence(task, now);
            }
            FenceMethod::Reinstate => self.unit_fenced(nexus, lun, now),
            // Ghosts expire by themselves; the connection is of no further use for them.
            FenceMethod::Time => {
                self.leave_to_time(|g| g.nexus == nexus);
                self.fence_done(nexus, now);
            }
        }
    }

    /// An answer to a fence's own command.
    pub(super) fn fence_answered(
        &mut self,
        nexus: NexusId,
        task: &Task,
        response: &ScsiResponse,
        now: Instant,
    ) {
        let rules = self.rules;
        let Some(fence) = self.fences.iter_mut().find(|f| f.nexus == nexus) else { return };
        let Some(lun) = fence.units.first().copied() else { return };
        if !fence.recognised {
            let Some(shown) = self.shows_unit(nexus, lun, (task, response), now) else { return };
            if shown {
                self.fences.iter_mut().filter(|f| f.nexus == nexus).for_each(|f| f.recognised = true);
            } else if self.look_for_ghosts(nexus, lun, now) {
                return;
            } else {
                self.give_up_fence(nexus, lun);
            }
            self.next_fence_step(nexus, now);
            return;
        }
        match fence.method {
            FenceMethod::Auto => {
                let identity = Inquiry::parse(&task.collected);
                fence.method = rules.fence(identity.map_or(FenceMethod::Time, |i| known_fence(&i)));
            }
            FenceMethod::Ordered => {
                if took_its_turn(response) || broken!(rules, AttentionTakenForFence) {
                    self.unit_fenced(nexus, lun, now);
                    return;
                }
                let sent_at = task.run.as_ref().map_or(now, |r| r.sent_at);
                self.fence_met((nexus, sent_at), lun, response, now);
                let moved = nexus != HOME && response.says_luns_changed();
                if moved {
                    self.attention_doubts(lun, nexus, (response, sent_at), now);
                }
                let Some(fence) = self.fences.iter_mut().find(|f| f.nexus == nexus) else { return };
                // Another unit may be there now.
                fence.recognised &= !moved;
                fence.attempts += 1;
                if fence.attempts >= FENCE_ATTEMPTS {
                    self.give_up_fence(nexus, lun);
                }
            }
            FenceMethod::Reinstate | FenceMethod::Time => {}
        }
        self.next_fence_step(nexus, now);
    }

    /// Nothing more can be done for a unit: time must do the rest.
    pub(super) fn give_up_fence(&mut self, nexus: NexusId, lun: Lun) {
        self.next_unit(nexus, lun);
        self.leave_to_time(|g| g.nexus == nexus && g.lun == lun);
    }

    fn next_unit(&mut self, nexus: NexusId, done: Lun) {
        let method = self.rules.fence(self.plan.fence);
        if let Some(fence) = self.fences.iter_mut().find(|f| f.nexus == nexus) {
            fence.units.retain(|u| *u != done);
            (fence.recognised, fence.method, fence.attempts) = (false, method, 0);
        }
    }

    fn leave_to_time(&mut self, which: impl Fn(&Ghost) -> bool) {
        for ghost in self.ghosts.iter_mut().filter(|g| which(g)) {
            ghost.timed = true;
        }
    }

    /// Commands of a fence that is over or starts anew: their answers mean nothing any more.
    fn end_fence_tasks(&mut self, nexus: NexusId, now: Instant) {
        for key in self.tasks.select(|t| t.origin == Origin::Fence(nexus)) {
            self.conclude(key, now);
        }
    }

    /// Nothing of the lost nexus can still run on this unit.
    fn unit_fenced(&mut self, nexus: NexusId, lun: Lun, now: Instant) {
        let oldest = self.ghosts.iter().find(|g| g.nexus == nexus && g.lun == lun).map(|g| (g.path, g.since));
        let ordered = |f: &Fence| f.nexus == nexus && f.method != FenceMethod::Reinstate;
        let ordered = self.fences.iter().any(ordered);
        let used = if ordered { FenceMethod::Ordered } else { FenceMethod::Reinstate };
        self.next_unit(nexus, lun);
        if let Some((path, since)) = oldest {
            self.note(Notice::Fenced { path, method: used, took: now.saturating_duration_since(since) });
        }
        let (units, nexuses) =
            (broken!(self.rules, FenceLaysAllUnits), broken!(self.rules, FenceLaysAllNexuses));
        // What was left behind by a session that lives on is not touched by the login that began it.
        let login = self.nexus(nexus).map_or(now, |n| n.login_began);
        let met = |g: &Ghost| ordered || g.since <= login;
        self.lay_ghosts(|g| (nexuses || g.nexus == nexus) && (units || g.lun == lun) && met(g));
        self.next_fence_step(nexus, now);
    }

    /// The fence is as complete as it can be: the nexus goes into service, or its fencing connection away.
    fn fence_done(&mut self, nexus: NexusId, now: Instant) {
        self.fences.retain(|f| f.nexus != nexus);
        self.end_fence_tasks(nexus, now);
        let fencing = self.conns.iter().find(|c| c.nexus == nexus && c.role == Role::Fencing).map(|c| c.id);
        if let Some(id) = fencing {
            self.log_out(id, now);
            return;
        }
        if self.nexus(nexus).is_none_or(|n| n.state != NexusState::Settling) {
            return;
        }
        if nexus == HOME && self.check_home_again(now) {
            return;
        }
        self.nexus_ready(nexus, now);
    }

    /// A nexus goes into service.
    pub(super) fn nexus_ready(&mut self, nexus: NexusId, now: Instant) {
        self.set_nexus_state(nexus, NexusState::Up);
        self.fence_living(nexus, now);
        if nexus == HOME {
            self.outage_over();
            self.home_moved = false;
            self.decide_lost(now);
            self.reissue_resets(now);
            self.ask_about_doubts(now);
        } else {
            self.check_nexus(nexus, now);
        }
    }
}
