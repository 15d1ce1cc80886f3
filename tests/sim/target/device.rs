//! Tasks: in which order the device takes them, how long it needs, and when they execute.

use super::Target;
use super::commands::Op;
use super::trigger::Trigger;
use braid::iscsi::{Payload, ScsiCommand, TaskAttribute, Ttt};
use smallvec::SmallVec;
use std::time::{Duration, Instant};

pub(super) struct Task {
    /// By arrival.
    pub(super) age: u64,
    /// Its place in the unit's queue.
    pub(super) place: u64,
    pub(super) session: usize,
    pub(super) conn: u32,
    pub(super) unit: usize,
    pub(super) op: Op,
    pub(super) command: ScsiCommand,
    pub(super) data: Payload,
    /// Bytes of write data.
    pub(super) wanted: usize,
    pub(super) asked: Asked,
    pub(super) r2ts: u32,
    pub(super) state: State,
    /// It takes a place of its session's window.
    pub(super) counted: bool,
    /// When it had all its data.
    pub(super) entered: Instant,
    /// Its connection is lost.
    pub(super) ghost: bool,
}

/// The data sequence that is under way.
pub(super) struct Asked {
    pub(super) ttt: Ttt,
    pub(super) end: usize,
    pub(super) data_sn: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Waits for write data, since something of it came or was asked for.
    Collecting(Instant),
    /// In the unit's queue.
    Waiting,
    /// In the device; executes then.
    Running(Instant),
}

impl State {
    pub(super) fn is_collecting(self) -> bool {
        matches!(self, Self::Collecting(_))
    }
}

impl Target {
    /// A command has all it needs.
    pub(super) fn enter(&mut self, at: usize) {
        self.next_age += 1;
        let now = self.entered_at();
        let task = &mut self.tasks[at];
        task.state = State::Waiting;
        task.entered = now;
        if !self.persona.ordered_waits_for_data {
            task.place = self.next_age;
        }
        if !self.start(at) {
            let ordered = self.tasks[at].command.attribute == TaskAttribute::Ordered;
            self.count(if ordered { Trigger::OrderedWaited } else { Trigger::OrderedHeld });
        }
    }

    /// Something left the device, or came to be allowed: takes what can be taken.
    pub(super) fn device_changed(&mut self) {
        let mut at = 0;
        while at < self.tasks.len() {
            let task = &self.tasks[at];
            if task.state == State::Waiting {
                if task.ghost && task.entered + self.persona.ghost_time <= self.entered_at() {
                    // It never began, and whoever sent it is long gone.
                    self.take(at);
                    continue;
                }
                self.start(at);
            }
            at += 1;
        }
    }

    /// Starts a waiting task, if its turn has come.
    fn start(&mut self, at: usize) -> bool {
        if !self.may_start(at) {
            return false;
        }
        let task = &self.tasks[at];
        let (unit, op, entered) = (task.unit, task.op, task.entered);
        if task.command.attribute == TaskAttribute::Ordered
            && op.is_test_unit_ready()
            && self.units[unit].wedge_armed
        {
            self.units[unit].wedged = true;
            self.count(Trigger::Wedged);
            return false;
        }
        let now = self.entered_at();
        let quick = if op.uses_medium() { self.between_us(50, 2_000) } else { self.between_us(10, 100) };
        let mut until = now + quick;
        if op.uses_medium() && !self.healed && self.random.once_in(self.persona.slow_once_in) {
            let longest = if self.random.once_in(8) { self.persona.ghost_time } else { self.persona.slow };
            let slow = now + self.random.between(Duration::from_millis(2), longest);
            // However long it waited, it is done so long after it came. (Packets may have been lost before that.)
            until = slow.min(until.max(entered + self.persona.ghost_time * 19 / 20));
            self.count(Trigger::Slow);
        }
        self.tasks[at].state = State::Running(until);
        true
    }

    /// Whether nothing in front of a task holds it back.
    fn may_start(&self, at: usize) -> bool {
        let task = &self.tasks[at];
        if self.units[task.unit].wedged || self.is_blocked(task) {
            return false;
        }
        if task.command.attribute == TaskAttribute::HeadOfQueue {
            return true;
        }
        let ordered = |t: &Task| t.command.attribute == TaskAttribute::Ordered;
        let held_by = |other: &&Task| {
            other.unit == task.unit
                && other.place < task.place
                && (!other.state.is_collecting() || self.persona.ordered_waits_for_data)
                && (ordered(task)
                    || ordered(other)
                    || self.persona.serial
                    || self.persona.restricted && other.op.conflicts_with(&task.op))
        };
        !self.tasks.iter().any(|other| held_by(&other))
    }

    /// Whether a missing CmdSN keeps a session's tasks from running.
    fn is_blocked(&self, task: &Task) -> bool {
        self.persona.hole_blocks && self.sessions[task.session].has_hole()
    }

    /// A task's connection is lost: it stays in the device, for a while.
    pub(super) fn haunt(&mut self, at: usize) {
        let lingers = self.tasks[at].op.writes() && self.random.once_in(2);
        let longer = self.random.between(Duration::ZERO, self.persona.ghost_time);
        let now = self.entered_at();
        let task = &mut self.tasks[at];
        task.ghost = true;
        if let State::Running(until) = &mut task.state
            && lingers
        {
            *until = (*until).max((now + longer).min(task.entered + self.persona.ghost_time));
        }
    }

    /// Takes a task out, done or not.
    pub(super) fn take(&mut self, at: usize) -> Task {
        let task = self.tasks.remove(at);
        if task.counted {
            self.sessions[task.session].open -= 1;
        }
        for function in &mut self.functions {
            function.task_gone(task.age);
        }
        task
    }

    /// A task's time has come.
    pub(super) fn execute(&mut self, at: usize) {
        if self.is_blocked(&self.tasks[at]) {
            self.tasks[at].state = State::Waiting;
            self.count(Trigger::HoleBlocked);
            return;
        }
        self.note_execution(at);
        let task = self.take(at);
        let outcome = self.run(&task);
        self.respond(task.conn, &task.command, task.r2ts, outcome);
        self.device_changed();
    }

    fn note_execution(&mut self, at: usize) {
        let task = &self.tasks[at];
        let mut met: SmallVec<[Trigger; 4]> = SmallVec::new();
        if task.op.writes() && self.conn(task.conn).is_none() {
            met.push(Trigger::Ghost);
            if self.is_replaced(task) {
                met.push(Trigger::GhostAfterReinstatement);
            }
        }
        let older = |t: &&Task| t.unit == task.unit && t.age < task.age;
        if task.command.attribute == TaskAttribute::HeadOfQueue && self.tasks.iter().any(|t| older(&t)) {
            met.push(Trigger::HeadOfQueue);
        }
        if self.tasks.iter().any(|t| older(&t) && t.op.conflicts_with(&task.op)) {
            met.push(Trigger::ReadBeforeWrite);
        }
        for trigger in met {
            self.count(trigger);
        }
    }
}
