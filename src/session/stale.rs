//! Runs of commands that ended without an answer while their connection lives on: a task management function ended them,
//! somebody else's did and they run again ([`super::cleared`]), or they were asked again elsewhere since their connection is
//! suspect or they are late ([`super::evade`], [`super::hedge`]). Should the target answer after all, its answer is not for
//! the initiator, but for what follows. But it shows that nothing of the run can happen any more, and a unit attention in it
//! counts as any other: it is not lost (DESIGN: P3), and what it says of other commands or of LUNs holds.
//!
//! A run that was moved goes on until it is answered or its connection ends: the target's R2Ts for it are answered with
//! the same data, since targets take it ill when they are not (LIO ends the session, tgt keeps the task for ever). The data
//! stay with the task as long as it is there, and then with the run; they count as held until nobody needs them.
//!
//! # The first answer wins
//! Of the runs of a read, that of which data or GOOD comes first is the one that counts: if it is one that was moved, the task
//! takes it up again, and what it had in its place is left to itself. From then on nothing of the others is taken. An error
//! does not win: as long as another run is on its way over a connection that is trusted, it is waited for.
//!
//! As long as its connection is suspect, what a run left may still be on its way: time alone does not lay such a ghost.

use super::Session;
use super::api::ConnId;
use super::data::WriteBuffer;
use super::nexus::{ConnState, HOME};
use super::recover::Ghost;
use super::select::{Transfer, send_data};
use super::tasks::{Run, Task, TaskKey};
use crate::iscsi::{DataIn, Itt, Lun, R2t, ScsiResponse, Ttt};
use std::sync::Arc;
use std::time::Instant;

/// Runs remembered; an answer to an older one is dropped, and its ghost left to time.
const MOST_REMEMBERED: usize = 1024;
/// So many of them may be runs that were moved; these are never dropped.
const MOST_MOVED: usize = 512;

/// Where the data of a run are.
#[derive(Debug)]
enum Source {
    /// It has none, or nobody needs it.
    Nowhere,
    /// With its task.
    Task(TaskKey),
    /// Here; the task has ended.
    Kept(Arc<WriteBuffer>),
}

/// A run that may still be answered.
#[derive(Debug)]
pub(super) struct StaleRun {
    run: Run,
    lun: Lun,
    /// When it was left to itself, or arrived for certain.
    since: Instant,
    /// What it left behind.
    ghost: Option<u64>,
    /// It goes on by itself.
    moved: bool,
    /// It is one of a read of which nothing was dropped: its answer may be the one that counts.
    may_win: bool,
    /// It counts as load of its path.
    counted: bool,
    /// What was sent for it last may not have arrived.
    under_way: bool,
    source: Source,
}

impl StaleRun {
    /// The task that may take it up again.
    fn rivals(&self) -> Option<TaskKey> {
        match self.source {
            Source::Task(key) if self.may_win => Some(key),
            Source::Task(_) | Source::Kept(_) | Source::Nowhere => None,
        }
    }
}

impl Session {
    /// A run ends without an answer.
    pub(super) fn run_ended(&mut self, run: Run, lun: Lun, ghost: Option<u64>) {
        self.remember(run, lun, ghost, None);
    }

    /// A run is left to itself, and its command runs again elsewhere. If it is `counted`, it is still load of its path.
    pub(super) fn run_moved(
        &mut self,
        run: Run,
        (key, lun): (TaskKey, Lun),
        ghost: Option<u64>,
        counted: bool,
    ) {
        self.remember(run, lun, ghost, Some((key, counted)));
    }

    fn remember(&mut self, run: Run, lun: Lun, ghost: Option<u64>, moved: Option<(TaskKey, bool)>) {
        if self.stale_runs.len() >= MOST_REMEMBERED
            && let Some(oldest) = self.stale_runs.iter().position(|r| !r.moved)
        {
            self.stale_runs.remove(oldest);
        }
        let task = moved.and_then(|(key, _)| self.tasks.get(key));
        self.stale_runs.push_back(StaleRun {
            run,
            lun,
            since: self.now,
            ghost,
            moved: moved.is_some(),
            may_win: task.is_some_and(Task::is_plain_read),
            counted: moved.is_some_and(|(_, counted)| counted),
            under_way: true,
            source: moved.map_or(Source::Nowhere, |(key, _)| Source::Task(key)),
        });
    }

    /// Whether one more run may be moved.
    pub(super) fn may_remember_run(&self) -> bool {
        self.stale_runs.len() < MOST_MOVED || self.stale_runs.iter().filter(|r| r.moved).count() < MOST_MOVED
    }

    /// Whether a moved run over a connection is unanswered.
    pub(super) fn owes_stale_answer(&self, id: ConnId) -> bool {
        self.stale_runs.iter().any(|r| r.moved && r.run.conn == id)
    }

    /// Whether a run over a connection was left to itself, and may still be answered.
    pub(super) fn has_stale_runs(&self, id: ConnId) -> bool {
        self.stale_runs.iter().any(|r| r.run.conn == id)
    }

    /// Connections over which runs of a unit's commands may still be answered.
    pub(super) fn stale_runs_of(&self, lun: Lun) -> impl Iterator<Item = ConnId> {
        self.stale_runs.iter().filter(move |r| r.lun == lun).map(|r| r.run.conn)
    }

    fn stale_run(&self, id: ConnId, itt: Itt) -> Option<usize> {
        self.stale_runs.iter().position(|r| (r.run.conn, r.run.itt) == (id, itt))
    }

    /// So many runs count as load of a path although no task waits for them.
    pub(super) fn stale_load(&self, path: usize) -> usize {
        self.stale_runs.iter().filter(|r| r.counted && r.run.path.0 == path).count()
    }

    /// An answer begins that no running task waits for. If it is the first that comes of any run of its read, the task takes
    /// the run up again; returns whether it did.
    pub(super) fn take_up(&mut self, id: ConnId, itt: Itt) -> bool {
        self.stale_run(id, itt).is_some_and(|at| self.resume(at))
    }

    /// A read was answered with an error before anything came of it: whether another run of it that is on its way is waited
    /// for instead.
    pub(super) fn gives_way(&mut self, key: TaskKey) -> bool {
        let trusted = |r: &StaleRun| {
            let conn =
                self.conn(r.run.conn).filter(|c| matches!(c.state, ConnState::Up | ConnState::Draining(_)));
            conn.is_some_and(|c| self.standing(c).is_well())
        };
        let other = self.stale_runs.iter().position(|r| r.rivals() == Some(key) && trusted(r));
        other.is_some_and(|at| self.resume(at))
    }

    fn resume(&mut self, at: usize) -> bool {
        let fresh = |t: &Task| t.run.as_ref().is_none_or(|r| r.next_sn == 0) && !t.undecided;
        let free = |t: &&Task| fresh(t) && t.held_response.is_none() && !self.is_held(t);
        let key = self.stale_runs.get(at).and_then(StaleRun::rivals);
        let Some((key, lun)) = key.and_then(|key| Some((key, self.tasks.get(key).filter(free)?.lun))) else {
            return false;
        };
        let Some(winner) = self.stale_runs.remove(at) else { return false };
        self.wait_no_more(key);
        if let Some(load) = self.loads.get_mut(winner.run.path.0).filter(|_| !winner.counted) {
            load.started(winner.run.load);
        }
        let before = self.tasks.get_mut(key).and_then(|task| task.run.replace(winner.run));
        if let Some(before) = before {
            self.run_moved(before, (key, lun), None, true);
        }
        true
    }

    /// A task that was to run again does not have to.
    fn wait_no_more(&mut self, key: TaskKey) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let (queued, held) = (std::mem::take(&mut task.queued), task.held.take());
        if std::mem::take(&mut task.blockers) > 0 {
            self.order.stop_waiting(key);
        }
        if queued {
            self.unqueue(key);
        }
        if let Some(held) = held {
            self.count_hold(held);
        }
    }

    /// A run is remembered no more. One that was answered tells how fast its path is.
    fn forget_run(&mut self, run: StaleRun, answered: bool) {
        if let Some(load) = self.loads.get_mut(run.run.path.0).filter(|_| run.counted) {
            match answered {
                true => load.finished(run.run.load, self.now.saturating_duration_since(run.run.sent_at)),
                false => load.forgotten(run.run.load),
            }
        }
        self.free_source(run.source);
    }

    /// Data came that no running task waits for.
    pub(super) fn stale_data(&mut self, id: ConnId, data: &DataIn, now: Instant) {
        let Some(at) = self.stale_run(id, data.itt) else { return };
        let Some(run) = self.stale_runs.get_mut(at) else { return };
        let first = run.run.next_sn == 0 && run.may_win;
        (run.run.next_sn, run.may_win) = (run.run.next_sn.saturating_add(1), false);
        if first {
            let (path, bytes, sent_at) = (run.run.path, run.run.load, run.run.sent_at);
            self.read_took(path, bytes, sent_at, now);
        }
        if data.has_status {
            let response = ScsiResponse { itt: data.itt, status: data.status, ..ScsiResponse::default() };
            self.stale_answer(id, &response, now);
        }
    }

    /// A response came that no running task waits for.
    pub(super) fn stale_answer(&mut self, id: ConnId, response: &ScsiResponse, now: Instant) {
        let found = self.stale_run(id, response.itt);
        let Some(run) = found.and_then(|at| self.stale_runs.remove(at)) else { return };
        let (ghost, lun, cmd_sn, sent_at) = (run.ghost, run.lun, run.run.cmd_sn, run.run.sent_at);
        self.forget_run(run, true);
        let Some(nexus) = self.conn(id).map(|c| c.nexus) else { return };
        if ghost.is_some() {
            self.lay_ghosts(|g| Some(g.id) == ghost);
        }
        if broken!(self.rules, StaleAttentionsDropped) {
            return;
        }
        self.note_cleared_before(lun, (nexus, cmd_sn), response, now);
        self.attention_met(nexus, lun, response, sent_at);
        if nexus != HOME && response.is_attention() {
            self.attention_doubts(lun, nexus, (response, sent_at), now);
        }
    }

    /// The target asks for data of a run that was moved: all of them are there.
    pub(super) fn stale_r2t(&mut self, id: ConnId, r2t: &R2t) {
        let wanted = |r: &StaleRun| r.moved && (r.run.conn, r.run.itt) == (id, r2t.itt);
        let Some(at) = self.stale_runs.iter().position(wanted) else { return };
        let Some(run) = self.stale_runs.get(at) else { return };
        let buffer = match &run.source {
            Source::Nowhere => None,
            Source::Task(key) => self.tasks.get(*key).map(|t| &t.inbound),
            Source::Kept(buffer) => Some(buffer.as_ref()),
        };
        let (Some(buffer), Some(conn)) = (buffer, self.conns.iter().find(|c| c.id == id)) else { return };
        let (from, length) = (r2t.buffer_offset, r2t.desired_length);
        let Some(end) = from.checked_add(length).filter(|end| *end <= buffer.received()) else { return };
        if length == 0 || r2t.ttt == Ttt::NONE || broken!(self.rules, StaleRequestsUnanswered) {
            return;
        }
        let range = Transfer { ttt: r2t.ttt, lun: run.run.lun, from, to: end, end, data_sn: 0 };
        send_data(&mut self.outputs, conn, run.run.itt, buffer, range);
        if let Some(run) = self.stale_runs.get_mut(at) {
            run.under_way = true;
        }
    }

    /// A task ends. Where runs of it still need its data, these stay and count as held.
    pub(super) fn keep_for_stale(&mut self, key: TaskKey, buffer: WriteBuffer) {
        let buffer = Arc::new(buffer);
        for run in &mut self.stale_runs {
            if matches!(run.source, Source::Task(k) if k == key) {
                run.source =
                    if buffer.received() > 0 { Source::Kept(buffer.clone()) } else { Source::Nowhere };
            }
        }
        self.free_source(Source::Kept(buffer));
    }

    /// Memory that nobody needs any more is free.
    fn free_source(&mut self, source: Source) {
        if let Source::Kept(buffer) = source
            && let Some(last) = Arc::into_inner(buffer)
        {
            self.held = self.held.saturating_sub(u64::from(last.received()));
            self.open_window();
        }
    }

    /// Bytes held for runs whose task has ended.
    pub(super) fn held_for_stale(&self) -> u64 {
        let mut seen: Vec<&Arc<WriteBuffer>> = Vec::new();
        for run in &self.stale_runs {
            if let Source::Kept(buffer) = &run.source
                && !seen.iter().any(|other| Arc::ptr_eq(other, buffer))
            {
                seen.push(buffer);
            }
        }
        seen.iter().map(|buffer| u64::from(buffer.received())).sum()
    }

    /// Connections have gone: nothing of their runs is answered any more. What they left counts from now on.
    pub(super) fn forget_stale_runs(&mut self, now: Instant) {
        if self.stale_runs.is_empty() {
            return;
        }
        let runs = std::mem::take(&mut self.stale_runs);
        for run in runs {
            if self.conn(run.run.conn).is_some() {
                self.stale_runs.push_back(run);
                continue;
            }
            self.ghosts
                .iter_mut()
                .filter(|g| run.moved && Some(g.id) == run.ghost)
                .for_each(|g| g.since = now);
            self.forget_run(run, false);
        }
    }

    /// A connection is trusted again: what was on its way has arrived, and counts from now on. (What had arrived before counts since
    /// then, or a path that is suspect now and again would never let it go.)
    pub(super) fn ghosts_delivered(&mut self, id: ConnId, now: Instant) {
        let mut left: Vec<u64> = Vec::new();
        for run in self.stale_runs.iter_mut().filter(|r| r.moved && r.under_way && r.run.conn == id) {
            (run.since, run.under_way) = (now, false);
            left.extend(run.ghost);
        }
        self.ghosts.iter_mut().filter(|g| left.contains(&g.id)).for_each(|g| g.since = now);
    }

    /// Whether what left a ghost may still be on its way over a suspect connection.
    pub(super) fn is_on_its_way(&self, ghost: &Ghost) -> bool {
        self.stale_runs.iter().any(|r| r.moved && r.ghost == Some(ghost.id) && self.is_run_on_its_way(r))
    }

    fn is_run_on_its_way(&self, run: &StaleRun) -> bool {
        run.under_way && self.conn(run.run.conn).is_some_and(|c| !self.standing(c).is_well())
    }

    /// Moved runs that have had `fence_time` to be answered are waited for no more.
    pub(super) fn retire_stale_runs(&mut self, now: Instant) {
        let limit = self.plan.fence_time;
        for run in std::mem::take(&mut self.stale_runs) {
            if run.moved && now >= run.since + limit && !self.is_run_on_its_way(&run) {
                self.forget_run(run, false);
            } else {
                self.stale_runs.push_back(run);
            }
        }
    }

    /// Whether a run that left a ghost was moved, and may still be answered.
    pub(super) fn may_be_answered(&self, ghost: &Ghost) -> bool {
        self.stale_runs
            .iter()
            .any(|r| r.moved && r.ghost == Some(ghost.id) && self.conn(r.run.conn).is_some())
    }
}
