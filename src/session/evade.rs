//! Commands caught on a suspect connection are asked again elsewhere, while it lives.
//!
//! Nothing is given up: the old run goes on by itself ([`super::stale`]). If the connection recovers, the target still gets
//! the data that it asks for, and its answer lays the ghost that the run left; that of a read is taken, if it is the first. So a
//! false alarm costs a command executed twice and newer overlapping writes that wait until the old run is answered, or the nexus
//! fenced. Reads that are merely late are asked again in the same way ([`super::hedge`]).
//!
//! # What is moved
//! Commands of the initiator that may run twice, reads and writes that any path may take and SIMPLE cache flushes, if a
//! nexus without suspect connections may carry the unit. A write is moved once all its data have come: a target that asks
//! for it over the old connection must get it, however slow the initiator is. The rest stays: what may not run twice, a
//! read of which the initiator has data of this run (some targets send any data before the sense that says not to count
//! them, and a status may still be on its way), what only home may carry, what a task management function concerns. A
//! command is moved a few times at most, so that a target that is slow on all its paths is not given ever more to do.
//!
//! # Flushes
//! SYNCHRONIZE CACHE is for the cache of the logical unit, whichever I_T nexus asks for it (SBC-4 section 5.28). Under
//! strict barriers it was sent after all that it is for had been answered; under native ones it covers what had been
//! answered before it. Either holds on any nexus that was proved to show the unit. One that follows an ORDERED command
//! in home's session must stay behind it there.

use super::Session;
use super::api::{Notice, PathId};
use super::nexus::{Conn, ConnState, HOME, NexusState};
use super::tasks::{Task, TaskKey};
use super::unit::{Grade, Repeat};
use super::watch::Standing;
use crate::iscsi::{Lun, TaskAttribute};
use crate::scsi::Class;
use std::time::Instant;

/// So often a command is moved.
const MOST_MOVES: u32 = 4;

impl Session {
    /// Moves what is caught on suspect connections and has somewhere else to go.
    pub(super) fn evade(&mut self, now: Instant) {
        if self.finishing.is_some() || !self.conns.iter().any(|c| c.health.doubt().is_some()) {
            return;
        }
        let caught = self.tasks.select(|t| self.should_move(t));
        let mut moved: Vec<(PathId, usize)> = Vec::new();
        for key in caught {
            // Moving one may have used up the room for old runs.
            let Some(path) = self.move_away(key, false, now) else { continue };
            match moved.iter_mut().find(|(p, _)| *p == path) {
                Some((_, commands)) => *commands += 1,
                None => moved.push((path, 1)),
            }
        }
        for (path, commands) in &moved {
            self.note(Notice::Evaded { path: *path, commands: *commands });
        }
        if !moved.is_empty() {
            self.dispatch(now);
        }
    }

    fn should_move(&self, task: &Task) -> bool {
        let Some(conn) = task.run.as_ref().and_then(|run| self.conn(run.conn)) else { return false };
        let standing = self.standing(conn);
        let better = |(best, _): (Standing, Grade)| best.is_refuge_from(standing);
        !standing.is_well()
            && self.may_move(task)
            && self.best_place(task.lun, &task.command.class).is_some_and(better)
    }

    /// Whether a command that is at a target may be asked again elsewhere.
    pub(super) fn may_move(&self, task: &Task) -> bool {
        let Some(run) = &task.run else { return false };
        let free = task.is_initiators() && task.moves < MOST_MOVES && run.in_question.is_none();
        free && self.may_leave(task)
            && (!task.write || task.inbound.received() == task.expected)
            && task.outbound.delivered == run.passed_on_before
            && self.repeat(task, run.nexus) == Repeat::Yes
            && !self.is_held(task)
            && !self.waits_for_registrations(task)
    }

    /// Whether a command may be sent over another nexus than home because home is suspect.
    fn may_leave(&self, task: &Task) -> bool {
        let plain = !task.home_only || self.is_errant_flush(task);
        plain && !self.is_single_file(task.lun)
    }

    fn is_errant_flush(&self, task: &Task) -> bool {
        let simple = task.attribute == TaskAttribute::Simple && !task.follows && !task.bound;
        simple && matches!(task.command.class, Class::Flush(_))
    }

    /// Whether a flush goes elsewhere, since home is suspect and another nexus is not.
    pub(super) fn flushes_elsewhere(&self, key: TaskKey) -> bool {
        let home = |c: &&Conn| c.nexus == HOME && c.state == ConnState::Up;
        let standing = self.conns.iter().filter(home).map(|c| self.standing(c)).min();
        let Some(standing) = standing.filter(|s| !s.is_well()) else { return false };
        let better = |(best, _): (Standing, Grade)| best.is_refuge_from(standing);
        self.tasks.get(key).is_some_and(|t| {
            self.is_errant_flush(t)
                && self.may_leave(t)
                && self.best_place(t.lun, &t.command.class).is_some_and(better)
        })
    }

    /// How good a place the unit has, among the connections that may carry it, whether or not they have room: trust counts
    /// before access. None if none of them gives access to its medium.
    pub(super) fn best_place(&self, lun: Lun, class: &Class) -> Option<(Standing, Grade)> {
        let plain = |c: &Conn| c.health.doubt().is_none() && !self.is_marginal(c.path);
        if self.conns.iter().all(plain) {
            return Some((Standing::Trusted, self.best_grade(lun, class)?));
        }
        let in_service = |nexus| self.nexus(nexus).is_some_and(|n| n.state == NexusState::Up);
        let up = self.conns.iter().filter(|c| c.state == ConnState::Up && in_service(c.nexus));
        let usable = up.filter(|c| self.unit_usable(lun, c.nexus, class));
        usable.filter_map(|c| Some((self.standing(c), self.grade(lun, c.nexus)?))).min()
    }

    /// Leaves one run to itself and puts the command back to its place; returns the path that it left. A run that stays
    /// `counted` is still load of that path.
    pub(super) fn move_away(&mut self, key: TaskKey, counted: bool, now: Instant) -> Option<PathId> {
        if !self.may_remember_run() {
            return None;
        }
        let task = self.tasks.get_mut(key)?;
        let run = task.run.take()?;
        task.moves += 1;
        let (lun, path) = (task.lun, run.path);
        let haunts = task.leaves_ghost() && !broken!(self.rules, MovedLeavesNoGhost);
        if let Some(load) = self.loads.get_mut(path.0).filter(|_| !counted) {
            load.forgotten(run.load);
        }
        let ghost = haunts.then(|| self.leave_ghost(key, (run.nexus, run.lun), lun, path, now));
        self.run_moved(run, (key, lun), ghost, counted);
        self.recall(key);
        self.run_again(key);
        Some(path)
    }
}
