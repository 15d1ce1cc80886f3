//! Commands that somebody else has cleared (SAM-5 section 5.6: aborting commands; SPC-4 section 4.5: sense codes).
//!
//! Where a target does not answer TASK ABORTED (TAS = 0), all that is heard of a reset, CLEAR TASK SET or PREEMPT AND
//! ABORT by another initiator is a unit attention on each nexus that had commands: those sent before it may never be
//! answered. Or they may: some targets let them end. Nothing but an answer tells the two apart. So an attention that says so puts
//! the commands that its nexus still has on the unit, sent before the one that met it, **in question**:
//! - What may run twice runs again once it was in question for a while. What it leaves on the medium is a ghost, as if
//!   its nexus had been lost, until the target answers after all ([`super::stale`]), or until `fence_time` has passed.
//!   Not while a command that follows it is still at the target: if it was not cleared, both are answered in order there.
//!   Nothing more is sent to follow it ([`super::order`]).
//! - For the others the outcome is unknown (P5) if they are not answered in `task_timeout`: an answer is better. After
//!   a preemption that is everything that changes the medium: run again it would be refused, as if it had not run.
//!
//! The greeting of a new session says the same, and so does what the initiator's own reset leaves on other nexuses. Then
//! all is answered soon, and nothing comes of it.
//!
//! The attention waits on each nexus for a command to meet it. So the others that have commands of the unit are asked
//! (unless it can be a greeting), and so is any that leaves a command unanswered for half of `task_timeout`. Where the unit
//! cannot be asked, since its port has become a standby one perhaps, such a command is in question after all of that time.

use super::Session;
use super::api::Cause;
use super::deed::Deed;
use super::nexus::{NexusId, NexusState};
use super::tasks::{Origin, Run, Task, TaskKey};
use super::unit::Repeat;
use crate::iscsi::{CmdSn, Lun, ScsiResponse};
use std::time::{Duration, Instant};

/// How long what may run twice stays in question.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a command came into question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InQuestion {
    since: Instant,
    /// By a preemption.
    preempted: bool,
}

impl Session {
    /// A command was answered: it may have met an attention that says that others were cleared.
    pub(super) fn note_cleared(&mut self, key: TaskKey, response: &ScsiResponse, now: Instant) {
        if let Some((task, run)) = self.tasks.get(key).and_then(|t| Some((t, t.run.as_ref()?))) {
            self.note_cleared_before(task.lun, (run.nexus, run.cmd_sn), response, now);
        }
    }

    /// The same, of a command of the unit that a nexus was sent with a number.
    pub(super) fn note_cleared_before(
        &mut self,
        lun: Lun,
        (nexus, cmd_sn): (NexusId, CmdSn),
        response: &ScsiResponse,
        now: Instant,
    ) {
        let Some(deed) = response.attention_deed() else { return };
        let preempted = deed == Deed::Reservation;
        let clears = preempted || matches!(deed, Deed::Reset | Deed::Clear);
        if !clears || broken!(self.rules, ClearedWaitedFor) {
            return;
        }
        let earlier = |t: &Task| {
            let run = t.run.as_ref().filter(|r| r.nexus == nexus && r.in_question.is_none());
            t.lun == lun && run.is_some_and(|r| r.cmd_sn.is_before(cmd_sn))
        };
        for other in self.tasks.select(earlier) {
            self.put_in_question(other, preempted, now);
        }
        if self.is_greeting(lun, nexus, response) {
            return;
        }
        // Home is asked whenever a further nexus tells of something that home has not told.
        for other in (1..=self.paths.len()).filter(|n| *n != nexus) {
            let waits = |t: &Task| t.lun == lun && t.run.as_ref().is_some_and(|r| r.nexus == other);
            if self.tasks.iter().any(|(_, t)| waits(t)) {
                self.probe(other, lun, now);
            }
        }
    }

    /// When a command has been in question for long enough.
    pub(super) fn question_deadline(&self) -> Option<Instant> {
        self.question_at.filter(|_| !self.paused)
    }

    /// Ends what was in question for long enough.
    pub(super) fn settle_questions(&mut self, now: Instant) {
        if self.paused || self.question_at.is_none_or(|at| now < at) {
            return;
        }
        let questioned = |t: &Task| t.run.as_ref().is_some_and(|r| r.in_question.is_some());
        // The last first: what follows another leaves the target before it.
        for key in self.tasks.select(questioned).into_iter().rev() {
            let found = self.tasks.get(key).filter(|t| self.is_settled(key, t, now));
            let Some((task, run)) = found.and_then(|t| Some((t, t.run.as_ref()?))) else { continue };
            let (origin, path, again) = (task.origin, run.path, self.runs_again(task, run));
            let (conn, lun, nexus, there) = (run.conn, task.lun, run.nexus, run.lun);
            if origin == Origin::Registration && !again {
                // Whether the nexus is registered is found out when it is opened anew.
                let cause = "somebody cleared a registration that may not be done twice";
                self.fail_conn(conn, Cause::Protocol(cause.into()), now);
                continue;
            }
            self.forsake(key, path, if again { Repeat::Yes } else { Repeat::No }, now);
            match origin {
                Origin::Check(id) => self.ask(id, now),
                Origin::Survey(id) => self.survey(id, now),
                Origin::Fence(nexus) => self.next_fence_step(nexus, now),
                Origin::Met(itt) => self.ask_who_is(nexus, (lun, there), itt, now),
                Origin::Registration => self.registration_swept_away(lun, nexus, now),
                // Whether a transition came of it, the target is asked.
                Origin::Initiator { .. } | Origin::Transition | Origin::Wash(_) => {}
            }
        }
        let left = self.tasks.iter().filter_map(|(k, t)| self.question_due(k, t)).min();
        // What keeps one in question may end before.
        self.question_at = left.map(|at| if at <= now { now + PATIENCE } else { at.min(now + PATIENCE) });
    }

    /// Whether a command was in question for long enough.
    fn is_settled(&self, key: TaskKey, task: &Task, now: Instant) -> bool {
        // What a function of the initiator's own covers is for its answer to end: it may be what the attention tells of.
        let own = task.is_initiators() && self.is_held(task);
        !task.awaits_data() && !own && self.question_due(key, task).is_some_and(|at| at <= now)
    }

    fn question_due(&self, key: TaskKey, task: &Task) -> Option<Instant> {
        let run = task.run.as_ref()?;
        let since = run.in_question?.since;
        // What waits for an ACA condition to be cleared is not gone.
        let blocked = self.may_be_blocked(task.lun);
        let followed = || self.order.followers_of(key).any(|k| self.tasks.runs(k));
        let soon = self.runs_again(task, run) && !blocked && !followed();
        Some(since + if soon { PATIENCE } else { self.plan.task_timeout })
    }

    /// Whether a command in question may run again, and nobody is misled if it then fails.
    fn runs_again(&self, task: &Task, run: &Run) -> bool {
        let misleading = run.in_question.is_some_and(|q| q.preempted) && task.leaves_ghost();
        let twice = self.repeat(task, run.nexus) == Repeat::Yes;
        twice && !misleading
    }

    /// Asks nexuses that leave a command unanswered for long whether somebody has cleared it.
    pub(super) fn probe_the_silent(&mut self, now: Instant) {
        let (patience, rules) = (self.plan.task_timeout / 2, self.rules);
        for key in self.tasks.select(|t| self.is_vain_wash(t)) {
            if let Some(path) = self.tasks.get(key).and_then(|t| Some(t.run.as_ref()?.path)) {
                self.forsake(key, path, Repeat::Yes, now);
            }
        }
        let late = |t: &Task| {
            let wash = matches!(t.origin, Origin::Wash(_)) && !broken!(rules, WashNotAskedAbout);
            let asked = t.only_nexus.is_none() || wash;
            let run = t.run.as_ref().filter(|r| r.in_question.is_none() && asked);
            run.is_some_and(|r| now >= r.sent_at + patience * (r.probes + 1))
        };
        for key in self.tasks.select(late) {
            let Some(task) = self.tasks.get_mut(key) else { continue };
            let lun = task.lun;
            let Some(run) = task.run.as_mut() else { continue };
            run.probes += 1;
            let (nexus, often) = (run.nexus, run.probes > 1);
            if often && self.unit_cannot_be_asked(lun, nexus) && !broken!(rules, ClearedWaitedFor) {
                self.put_in_question(key, false, now);
            } else {
                self.probe(nexus, lun, now);
            }
        }
    }

    fn put_in_question(&mut self, key: TaskKey, preempted: bool, now: Instant) {
        if let Some(run) = self.tasks.get_mut(key).and_then(|t| t.run.as_mut()) {
            run.in_question = Some(InQuestion { since: now, preempted });
            self.question_at = Some(self.question_at.map_or(now + PATIENCE, |at| at.min(now + PATIENCE)));
        }
        // It may run again, behind what would follow it.
        self.doubt_handed_over(key);
    }

    /// Lets a unit's attention on a nexus come out, if there is one.
    fn probe(&mut self, nexus: NexusId, lun: Lun, now: Instant) {
        let up = self.nexus(nexus).is_some_and(|n| n.state == NexusState::Up);
        if up && !broken!(self.rules, OthersNotProbed) {
            self.ask_whether_ready(nexus, lun, now);
        }
    }
}
