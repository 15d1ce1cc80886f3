//! Write caches of targets of different names: what a flush must reach (DESIGN: order across paths).
//!
//! Redundant targets show the same unit, but Braid cannot know whether they share a write cache. (Targets of one name do.) So a
//! target through which the unit was written keeps a **mark** until a flush of the whole unit, sent later, has ended well
//! there. FUA writes leave none.
//!
//! SYNCHRONIZE CACHE, whatever its range, and START STOP UNIT are sent once nothing that was written before is marked at
//! any other target than the one that they go to. Before that Braid sends those a SYNCHRONIZE CACHE (10) of its own over the
//! whole unit (a **wash**), over one nexus of each, all at once. If one ends badly, that is the command's answer. So GOOD
//! means that everything which was written before is durable at every target (P5), and the command itself runs once, on
//! home, where task management finds it; while it waits for a wash it is inside Braid. A command that changes reservations
//! waits for a wash too, since it may shut the others out, but not for one that cannot be had.
//!
//! Tapes, changers and the like keep in the device what they have not written: there is nothing to mark.
//!
//! # When a target is gone
//! Other nexuses with the same target do: a wash whose nexus is lost is sent again over any that has proved to show the unit.
//! One that stays unanswered may have been cleared by somebody else: its nexus is asked ([`super::cleared`]).
//! While there is none the flush is held, for as long as commands are held when no path works at all (`queue_time`). Then
//! what is in that cache may be lost with the target, and the initiator is told: HARDWARE ERROR, WRITE ERROR, as arrays say whose
//! cache has failed. Once it was told so of the whole unit the mark is gone: the initiator knows. (A flush of some blocks says
//! nothing of the others: the next one is told too, without being held.) So it must be a sense that is not tried again, since the
//! next flush would end well: Linux passes this one on to the file system, but tries MEDIUM ERROR with the same code again
//! (`scsi_check_sense`). A write that runs again elsewhere because its path was lost is marked where it was answered.
//!
//! A target that is back may have lost power meanwhile. Where it says so (29h/01h) and had a mark, the initiator hears of it
//! ([`super::attention`]), as it would have of its own target. A ghost of a write that was lost so may bring it back, at another
//! target, or has written it there before: reads of it wait for the ghost from then on ([`super::recover`]), and the other target
//! is marked. Where it says the same at every login, nobody can tell. The
//! mark stays: a nexus may say so late, when more was written.
//!
//! A target all of whose ports are standby or unavailable (ALUA) takes no flush (SPC-4 section 5.15.2.4): what was written
//! through them is the unit's to look after, and the active ports' flush is for all of it.
//!
//! # From session to session
//! A session that ends washes what is marked and can be reached, and says what is left ([`Unwashed`]). That, and everything
//! if it did not end in order, is taken to be marked everywhere by its successor. (Of a zoned disk, whose commands all go
//! over home, that is not done: elsewhere it cannot be proved to be the same.)

use super::Session;
use super::api::{ConnId, Unwashed};
use super::group::TargetId;
use super::nexus::{ConnState, HOME, NexusId, NexusState};
use super::recover::Ghost;
use super::tasks::{Origin, Task, TaskKey};
use crate::iscsi::{Cdb, Lun, ScsiResponse};
use crate::scsi::sense::{key, status};
use crate::scsi::{Class, Command, Extent, Sense};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// SYNCHRONIZE CACHE (10) of all blocks, padded to the length of the header's field.
const WHOLE_UNIT: [u8; 16] = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What a target may hold of a unit in its write cache. Writes are numbered in the order of their answers.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// The oldest write that may not be durable, and the youngest, and when that was answered.
    first: u64,
    last: u64,
    at: Instant,
    /// The oldest write of which the target has not said that it was lost.
    at_risk: u64,
    /// A wash is under way, for writes up to this.
    washing: Option<u64>,
    /// Writes up to this were washed, well or not.
    tried: Option<u64>,
    /// A wash was refused for something that may pass: not again before.
    retry_at: Option<Instant>,
    /// A flush has failed because no wash could be had, and none has ended well since.
    told: bool,
    /// Nothing is known of such a write: an earlier session may have left one.
    feared: bool,
    /// There is nothing but what may have been written there a second time. It is washed if it can be: nobody knows that it is
    /// there, and so a flush does not fail for it, and its loss is no news.
    double: bool,
}

/// Marks of all units.
#[derive(Debug, Default)]
pub(super) struct Caches {
    /// Paths lead to more than one target.
    several: bool,
    /// Writes answered.
    written: u64,
    marks: BTreeMap<(Lun, TargetId), Mark>,
    /// Where a write that was answered elsewhere may have been written too.
    doubles: BTreeSet<(Lun, TargetId)>,
    /// When a held flush is to be looked at again.
    look_at: Option<Instant>,
}

impl Caches {
    pub(super) fn new(several: bool) -> Self {
        Self { several, ..Self::default() }
    }

    fn mark(&mut self, lun: Lun, target: TargetId, feared: bool, at: Instant) {
        // What an earlier session left is older than everything of this one.
        let number = if feared { 0 } else { self.written };
        let fresh = Mark {
            first: number,
            last: number,
            at_risk: number,
            at,
            washing: None,
            tried: None,
            retry_at: None,
            told: false,
            feared,
            double: false,
        };
        let mark = self.marks.entry((lun, target)).or_insert(fresh);
        // Where all that was there was told to be lost, or is no news, this is the oldest that is at risk.
        if std::mem::take(&mut mark.double) || mark.at_risk > mark.last {
            mark.at_risk = mark.at_risk.max(number);
        }
        (mark.last, mark.at, mark.feared) = (number, at, feared);
    }

    /// Something may have been written there a second time.
    fn mark_double(&mut self, lun: Lun, target: TargetId, at: Instant) {
        self.written += 1;
        let there = self.marks.get(&(lun, target)).copied();
        self.mark(lun, target, there.is_some_and(|mark| mark.feared), at);
        let Some(mark) = self.marks.get_mut(&(lun, target)) else { return };
        mark.double = there.is_none_or(|old| old.double);
        // Of what was there before, nothing more may be lost than may have been.
        mark.at_risk = there.filter(|old| old.at_risk <= old.last).map_or(mark.last + 1, |old| old.at_risk);
    }

    /// Writes up to a number are durable at a target.
    fn clean(&mut self, lun: Lun, target: TargetId, up_to: u64) {
        let Some(mark) = self.marks.get_mut(&(lun, target)) else { return };
        (mark.first, mark.told) = (mark.first.max(up_to + 1), false);
        if mark.last <= up_to {
            self.marks.remove(&(lun, target));
        }
    }
}

/// What a command has to do with what was written before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    /// It should be durable, if that can be had.
    Wanted,
    /// It must be durable, or the command fails.
    Demanded,
}

fn need(command: &Command) -> Need {
    match command.class {
        Class::Flush(_) => Need::Demanded,
        Class::Barrier if command.name == "START STOP UNIT" => Need::Demanded,
        Class::Reservation => Need::Wanted,
        Class::Read(_)
        | Class::Write(_)
        | Class::WriteAnywhere(_)
        | Class::WriteOnce(_)
        | Class::Survey(_)
        | Class::Query
        | Class::Stateless
        | Class::Barrier => Need::Nothing,
    }
}

/// Whether a command leaves something in a cache.
fn is_cached(command: &Command) -> bool {
    command.class.writes() && !command.fua || command.class == Class::Barrier
}

/// Whether a flush says nothing of when it is done.
fn is_immediate(cdb: &Cdb) -> bool {
    const IMMED: u8 = 0x02;
    cdb.0.get(1).is_some_and(|byte| byte & IMMED != 0)
}

impl Session {
    /// A command of the initiator ran over a nexus and was answered.
    pub(super) fn note_cached(
        &mut self,
        key: TaskKey,
        nexus: NexusId,
        response: &ScsiResponse,
        now: Instant,
    ) {
        if !self.caches.several {
            return;
        }
        let Some(target) = self.group_in(nexus).map(|g| g.target) else { return };
        let Some(task) = self.tasks.get(key) else { return };
        let (lun, command) = (task.lun, &task.command);
        let good = response.response == 0 && response.status == status::GOOD;
        if is_cached(command) && response.tells_of_a_run() && !self.unit_buffers(lun) {
            self.caches.written += 1;
            self.caches.mark(lun, target, false, now);
        } else if command.class == Class::Flush(Extent::ALL)
            && good
            && !is_immediate(&task.cdb)
            && let Some(up_to) = task.flushes
        {
            self.caches.clean(lun, target, up_to);
        }
    }

    /// A ghost will do nothing more. What it may have done is in its target's cache. That is no loss as long as it is durable, or in
    /// a cache with a mark, where the write was answered.
    pub(super) fn ghost_may_have_written(&mut self, ghost: &Ghost) {
        let Some(target) = self.group_in(ghost.nexus).map(|g| g.target) else { return };
        if !self.caches.several || ghost.inherited {
            return;
        }
        if ghost.alone {
            self.caches.mark_double(ghost.lun, target, self.now);
        } else {
            self.caches.doubles.insert((ghost.lun, target));
        }
    }

    /// The first command for a unit: an earlier session may have left something of it in any cache.
    pub(super) fn fear_caches(&mut self, lun: Lun, now: Instant) {
        if self.caches.several && self.plan.unwashed.may_hold(lun) {
            for path in 0..self.paths.len() {
                let target = self.target_of(super::PathId(path));
                self.caches.mark(lun, target, true, now);
            }
        }
    }

    /// How many writes have been answered.
    pub(super) fn writes_answered(&self) -> u64 {
        self.caches.written
    }

    /// A unit is no disk: what was feared for it is not, or it has nothing in caches of targets at all.
    pub(super) fn caches_of_no_disk(&mut self, lun: Lun) {
        let none = self.unit_buffers(lun);
        self.caches.marks.retain(|at, mark| at.0 != lun || !none && !mark.feared);
    }

    /// What is left in caches, now that the session ends.
    pub(super) fn unwashed(&self) -> Unwashed {
        let mut left = self.plan.unwashed.clone();
        if self.caches.several && !broken!(self.rules, UnwashedForgotten) {
            for lun in self.units.keys() {
                left.note(*lun, self.caches.marks.iter().any(|((of, _), mark)| of == lun && !mark.double));
            }
        }
        left
    }

    /// A target says that it has lost what its cache held, of the writes up to a number as far as is known: whether there may have
    /// been any of which it has not said so yet, and when the youngest that it held then or later was answered.
    pub(super) fn cache_lost(&mut self, lun: Lun, target: TargetId, up_to: u64) -> Option<Instant> {
        let mark = self.caches.marks.get_mut(&(lun, target))?;
        let lost = mark.at_risk.max(mark.first) <= up_to.min(mark.last);
        mark.at_risk = mark.at_risk.max(up_to + 1);
        let at = mark.at;
        if lost {
            self.fear_revival(lun, target);
            let there = |double: &&(Lun, TargetId)| double.0 == lun && double.1 != target;
            let doubles: Vec<_> = self.caches.doubles.iter().filter(there).copied().collect();
            for (lun, other) in doubles {
                self.caches.mark_double(lun, other, self.now);
            }
        }
        lost.then_some(at)
    }

    /// Before the commands of the queues are looked at.
    pub(super) fn begin_looking_at_caches(&mut self) {
        self.caches.look_at = None;
    }

    /// When a command that waits for washes is to be looked at again.
    pub(super) fn caches_deadline(&self) -> Option<Instant> {
        self.caches.look_at
    }

    /// A command will be sent later than was thought: writes before it may be answered until then.
    pub(super) fn flush_held(&mut self, key: TaskKey) {
        if let Some(task) = self.tasks.get_mut(key) {
            task.flushes = None;
        }
    }

    fn look_at_caches(&mut self, at: Instant) {
        self.caches.look_at = Some(self.caches.look_at.map_or(at, |other| other.min(at)));
    }

    /// Whether a command that is about to be sent over a connection waits until other targets' caches were washed, or was
    /// answered because one cannot be. Sees to it that they are.
    pub(super) fn waits_for_caches(&mut self, key: TaskKey, conn: ConnId, now: Instant) -> bool {
        let Some(own) = self.conn(conn).and_then(|c| self.group_in(c.nexus)).map(|g| g.target) else {
            return false;
        };
        let Some(task) = self.tasks.get_mut(key).filter(|_| self.caches.several) else { return false };
        let (lun, need) = (task.lun, need(&task.command));
        if need == Need::Nothing {
            return false;
        }
        let up_to = *task.flushes.get_or_insert(self.caches.written);
        let concerned = |(at, mark): (&(Lun, TargetId), &Mark)| {
            (at.0 == lun && at.1 != own && mark.first <= up_to).then_some(at.1)
        };
        let targets: Vec<TargetId> = self.caches.marks.iter().filter_map(concerned).collect();
        if broken!(self.rules, OnlyHomeFlushed) {
            return false;
        }
        let (mut waits, mut soon, mut unreachable) = (false, false, None);
        for target in targets {
            match self.wash(lun, target, need == Need::Wanted, up_to, now) {
                Washing::Done => {}
                Washing::UnderWay => {
                    waits = true;
                    // Once more, after it was refused.
                    let again = self.caches.marks.get(&(lun, target)).is_some_and(|m| m.retry_at.is_some());
                    unreachable = unreachable.or_else(|| again.then_some(target));
                }
                Washing::Unreachable if self.may_reach_soon(lun, target) => soon = true,
                Washing::Unreachable => unreachable = Some(target),
            }
        }
        let Some(task) = self.tasks.get_mut(key) else { return true };
        let Some(target) = unreachable.filter(|_| need == Need::Demanded) else {
            if !soon {
                task.cut_off = None;
            }
            return waits || soon;
        };
        let fresh = task.cut_off.is_none();
        let until = *task.cut_off.get_or_insert(now) + self.plan.queue_time;
        let told = self.caches.marks.get(&(lun, target)).is_some_and(|mark| mark.told);
        if now >= until || told && !waits && !soon {
            self.flush_impossible(lun, target, now);
            return true;
        }
        self.look_at_caches(until);
        if fresh && self.home_state() == NexusState::Up {
            // It may be in use for the first time, and not have been looked for elsewhere.
            self.unit_used(lun, now);
        }
        true
    }

    /// A target's cache cannot be washed: those that wait for it are told.
    fn flush_impossible(&mut self, lun: Lun, target: TargetId, now: Instant) {
        let sense = Sense { key: key::HARDWARE_ERROR, asc: 0x0c, ascq: 0 };
        let response = ScsiResponse::check_condition(&self.own_sense(lun, sense));
        let whole = self.fail_flushes(lun, &response, now);
        if whole {
            self.caches.marks.remove(&(lun, target));
        } else if let Some(mark) = self.caches.marks.get_mut(&(lun, target)) {
            mark.told = true;
        }
    }

    /// Whether a target is there and is being asked whether it shows the unit.
    fn may_reach_soon(&self, lun: Lun, target: TargetId) -> bool {
        (HOME..=self.paths.len()).any(|n| self.is_in_service_at(n, target) && self.unit_is_asked_for(lun, n))
    }

    /// Washes a target's cache, if it can be.
    fn wash(&mut self, lun: Lun, target: TargetId, once: bool, up_to: u64, now: Instant) -> Washing {
        let Some(mark) = self.caches.marks.get(&(lun, target)).copied() else { return Washing::Done };
        if mark.washing.is_some() {
            return Washing::UnderWay;
        }
        if once && mark.tried >= Some(up_to) {
            return Washing::Done;
        }
        let Some(nexus) = self.nexus_to_wash(lun, target) else {
            if self.is_shut(lun, target) || mark.feared && self.is_another_at(lun, target) {
                self.caches.marks.remove(&(lun, target));
                return Washing::Done;
            }
            return if mark.double { Washing::Done } else { Washing::Unreachable };
        };
        if let Some(at) = mark.retry_at.filter(|at| now < *at) {
            self.look_at_caches(at);
            return if mark.double { Washing::Done } else { Washing::Unreachable };
        }
        let written = self.caches.written;
        if let Some(mark) = self.caches.marks.get_mut(&(lun, target)) {
            mark.washing = Some(written);
        }
        let cdb = Cdb(WHOLE_UNIT.into_iter().collect());
        let task = Task::own(Origin::Wash(target), nexus, lun, cdb, 0, now);
        let key = self.tasks.insert(task);
        self.own_queue.push_back(key);
        Washing::UnderWay
    }

    /// A nexus in service over which a target shows the unit and gives access to it.
    fn nexus_to_wash(&self, lun: Lun, target: TargetId) -> Option<NexusId> {
        let carries =
            |nexus: NexusId| self.conns.iter().any(|c| c.nexus == nexus && c.state == ConnState::Up);
        let fits =
            |n: &NexusId| self.is_in_service_at(*n, target) && carries(*n) && self.unit_reached(lun, *n);
        (HOME..=self.paths.len()).find(fits)
    }

    fn is_in_service_at(&self, nexus: NexusId, target: TargetId) -> bool {
        self.nexus(nexus).is_some_and(|n| n.state == NexusState::Up && n.group.target == target)
    }

    /// Whether a target says that none of its ports gives access to the unit, and that is no passing state.
    fn is_shut(&self, lun: Lun, target: TargetId) -> bool {
        let with = |nexus: &NexusId| self.group_in(*nexus).is_some_and(|g| g.target == target);
        let mut states =
            (HOME..=self.paths.len()).filter(with).filter_map(|n| self.told_state(lun, n)).peekable();
        states.peek().is_some()
            && states.all(|state| !state.is_active() && state != super::AccessState::Transitioning)
    }

    /// Whether a target shows another unit, over all its nexuses that are in service.
    fn is_another_at(&self, lun: Lun, target: TargetId) -> bool {
        let with = |nexus: &NexusId| self.is_in_service_at(*nexus, target);
        let mut nexuses = (HOME..=self.paths.len()).filter(with).peekable();
        nexuses.peek().is_some() && nexuses.all(|nexus| self.unit_refused(lun, nexus))
    }

    /// A wash was answered.
    pub(super) fn wash_answered(
        &mut self,
        target: TargetId,
        task: &Task,
        response: &ScsiResponse,
        now: Instant,
    ) {
        let lun = task.lun;
        let Some((nexus, sent_at)) = task.run.as_ref().map(|r| (r.nexus, r.sent_at)) else { return };
        let reserved = self.unit_reserved(lun);
        let Some(mark) = self.caches.marks.get_mut(&(lun, target)) else { return };
        let Some(up_to) = mark.washing.take() else { return };
        let good = response.response == 0 && response.status == status::GOOD;
        let passing = [status::BUSY, status::TASK_SET_FULL, status::TASK_ABORTED, status::ACA_ACTIVE];
        if good {
            mark.tried = Some(up_to);
            self.caches.clean(lun, target, up_to);
        } else if response.is_attention() {
            self.attention_met(nexus, lun, response, sent_at);
            if nexus != HOME {
                self.attention_doubts(lun, nexus, (response, sent_at), now);
            }
        } else if response.says_no_unit() {
            mark.tried = Some(up_to);
            mark.retry_at = Some(now + self.plan.reconnect.0);
            self.unit_missing(lun, nexus, now);
        } else if passing.contains(&response.status)
            || response.is_access_refusal()
            // Home holds the reservation, so that its own answer would not tell.
            || response.status == status::RESERVATION_CONFLICT && reserved
        {
            mark.tried = Some(up_to);
            mark.retry_at = Some(now + self.plan.reconnect.0);
        } else {
            mark.tried = Some(up_to);
            self.fail_flushes(lun, response, now);
        }
    }

    /// A wash ended without an answer.
    pub(super) fn wash_over(&mut self, lun: Lun, target: TargetId) {
        if let Some(mark) = self.caches.marks.get_mut(&(lun, target)) {
            mark.washing = None;
        }
    }

    /// A wash whose nexus shows the unit no more, or gives no access to it: nobody would ask that nexus what became of it.
    pub(super) fn is_vain_wash(&self, task: &Task) -> bool {
        let over = |nexus| !self.unit_reached(task.lun, nexus);
        matches!(task.origin, Origin::Wash(_)) && task.only_nexus.is_some_and(over)
    }

    /// What was to be made durable for commands that wait cannot be: they all fail. Returns whether one was for the whole unit.
    fn fail_flushes(&mut self, lun: Lun, response: &ScsiResponse, now: Instant) -> bool {
        let waits = |t: &Task| {
            t.is_initiators()
                && t.lun == lun
                && t.queued
                && t.flushes.is_some()
                && need(&t.command) == Need::Demanded
        };
        let mut whole = false;
        for key in self.tasks.select(waits) {
            self.unqueue(key);
            if let Some(task) = self.tasks.get_mut(key) {
                task.queued = false;
                whole |= !matches!(task.command.class, Class::Flush(extent) if extent != Extent::ALL);
            }
            self.respond(key, response.clone(), now);
        }
        whole
    }

    /// The session ends: washes what can be washed, once. Returns whether there is anything to wait for.
    pub(super) fn wash_at_end(&mut self, now: Instant) -> bool {
        let marks: Vec<(Lun, TargetId)> = self.caches.marks.keys().copied().collect();
        let up_to = self.caches.written;
        let mut waits = false;
        for (lun, target) in marks {
            waits |= self.wash(lun, target, true, up_to, now) == Washing::UnderWay;
        }
        waits
    }
}

/// How far a wash is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Washing {
    /// There is nothing left to wash, or no use in it.
    Done,
    UnderWay,
    /// No nexus will do at the moment.
    Unreachable,
}
