//! Fences: what makes sure that nothing of a lost nexus can still execute.
//!
//! The nexus is reinstated over a living portal of its group: after that nothing more can arrive from the old connections. What
//! makes sure that nothing still runs depends on the target ([`FenceMethod`]). Where that is another path than the one lost, the
//! unit must first say there that it is the one home knows ([`super::recognise`]): another target under the same name knows
//! nothing of the old session.

use super::Session;
use super::api::{FenceMethod, Notice, PathId};
use super::group::Group;
use super::nexus::{Conn, ConnState, HOME, NexusId, NexusState, Role};
use super::recover::Ghost;
use super::tasks::{Origin, Task};
use crate::iscsi::{Cdb, Lun, ScsiResponse, TaskAttribute, Tsih};
use crate::scsi::inquiry::Inquiry;
use crate::scsi::sense::status;
use crate::scsi::{Sense, inquiry};
use std::time::Instant;

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

    /// A nexus that has logged in has ghosts from before that: makes sure that nothing of them still runs. (Not of those that it
    /// left since over a connection that lives: they may wait for data there, and no command waits for that.)
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
        let met = |g: &&Ghost| g.nexus == nexus && !g.timed && !self.may_be_answered(g);
        let units: Vec<Lun> = self.ghosts.iter().filter(met).map(|g| g.lun).collect();
        let Some(fence) = self.fences.iter_mut().find(|f| f.nexus == nexus) else { return };
        for lun in units {
            if !fence.units.contains(&lun) {
                fence.units.push(lun);
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
        let alive: Vec<u64> = self.ghosts.iter().filter(|g| self.may_be_answered(g)).map(|g| g.id).collect();
        let met = |g: &Ghost| ordered && !alive.contains(&g.id) || g.since <= login;
        self.lay_ghosts(|g| (nexuses || g.nexus == nexus) && (units || g.lun == lun) && met(g));
        self.next_fence_step(nexus, now);
    }

    /// The fence is as complete as it can be: the nexus goes into service, or its fencing connection away.
    pub(super) fn fence_done(&mut self, nexus: NexusId, now: Instant) {
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
