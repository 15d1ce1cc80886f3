//! Task management (RFC 7143 section 11.5): wherever the task is.
//!
//! ABORT TASK follows its task: one that waits inside Braid ends at once, one at a target is aborted there, over the
//! connection that carries it (R147).
//!
//! A set-wide function goes through stages ([`Stage`]). What it concerns and waits inside Braid stays there meanwhile,
//! and so does what comes later for the same unit. First, every connection that carries a command concerned echoes a
//! ping, so that the target has all of them: one that arrived after a reset would outlive it. Then the function goes to
//! home, the nexus that the initiator knows: what home refuses is refused, and nothing has happened. What home has done to
//! its task set is done on the further nexuses too; one that refuses, or has done it to another unit (`met`), is given
//! up, and its tasks with it, so that no command is left without an answer, or answered after the function. When all have answered, pings are echoed once
//! more, so that responses sent before are passed on before (R163); what then is still open on the unit has been ended
//! by the target. Write data that the initiator was asked for and still owes is waited for (R155), but not for long:
//! some initiators send none once they have asked for a reset.
//!
//! Targets have been seen to ignore functions, and to take as long over one as their device does. One that is not
//! answered in `fence_time` and `task_timeout` together is not waited for any longer: its nexus is given up. That ends
//! its tasks; a reset, which would have done more, is answered as rejected.
//!
//! With several connections of the initiator's, functions act across all of them; their answers wait for acknowledgements
//! ([`super::line`]). A write that lost the connection which its data were to come over is aborted without anybody asking.
//!
//! TARGET COLD RESET ends all sessions of the target (R165), and so does Braid with the initiator's, once home has
//! answered, or was lost before it could.

mod across;
mod met;
mod patience;

use super::Session;
use super::api::{Cause, ConnId, LineId};
use super::deed::Deed;
use super::line::Acknowledgement;
use super::nexus::{ConnState, HOME, NexusId};
use super::tasks::{Origin, Task, TaskKey};
use crate::iscsi::{CmdSn, Itt, Lun, Pdu, TaskManagementRequest, reject, tmf};
use std::time::Instant;

/// What a function ends once it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// The command with this place in the order of arrival.
    Task(u64),
    Unit(Lun),
    Target,
    Nothing,
}

/// The connection of the initiator's request, and its tag.
type Asker = (LineId, Itt);

/// A function on its way.
#[derive(Debug)]
pub(in crate::session) struct Function {
    /// Who asked; none if Braid wants it itself.
    asker: Option<Asker>,
    scope: Scope,
    /// Commands that came after the request are not concerned.
    before: u64,
    /// When it came.
    began: Instant,
    /// Answers awaited: connection and control tag.
    awaited: Vec<(ConnId, Itt)>,
    /// First answer that was not "complete".
    response: u8,
    /// What is asked of the targets, if more than one task is concerned: function and unit.
    asked: (u8, Lun),
    stage: Stage,
    /// When it was sent to targets last.
    asked_at: Instant,
    /// Home was lost under the reset, or is not there: it goes out (again) once home is back.
    waits_for_home: bool,
    /// How often the reset went out.
    tries: u8,
    /// Nexuses that were asked.
    asked_of: Vec<NexusId>,
    /// What is still to be acknowledged over other connections of the initiator's before it is answered, once it has been asked
    /// for.
    pub(in crate::session) owed: Option<Vec<Acknowledgement>>,
}

/// How far a function has come; [`Function::awaited`] tells what the next step waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The targets get all commands concerned.
    Gathering,
    /// Home was asked, or for one task the nexus that has it.
    Asked,
    /// Home has done it, and further nexuses were asked.
    Further,
    /// Responses that are under way come in.
    Echoing,
}

impl Function {
    pub(in crate::session) fn acknowledgements(&mut self) -> impl Iterator<Item = &mut Acknowledgement> {
        self.owed.iter_mut().flatten()
    }

    /// Whether it is a reset: that has happened only if home answered.
    fn is_reset(&self) -> bool {
        let (function, _) = self.asked;
        matches!(function, tmf::LOGICAL_UNIT_RESET | tmf::TARGET_WARM_RESET | tmf::TARGET_COLD_RESET)
    }

    /// Whether all sessions of the target end with it.
    fn is_cold(&self) -> bool {
        self.asked.0 == tmf::TARGET_COLD_RESET
    }

    /// Whether it concerns the task set of one nexus, so that each has to be asked.
    fn is_for_sets(&self) -> bool {
        matches!(self.asked.0, tmf::ABORT_TASK_SET | tmf::CLEAR_TASK_SET)
    }

    /// Whether it waits for the answer of a target.
    fn is_at_target(&self) -> bool {
        matches!(self.stage, Stage::Asked | Stage::Further) && !self.awaited.is_empty()
    }

    /// Whether a task is of the kind that it ends.
    fn concerns(&self, task: &Task) -> bool {
        let ours = matches!(task.origin, Origin::Initiator { .. });
        ours && (self.sweeps(task) || matches!(self.scope, Scope::Task(seq) if task.seq == seq))
    }

    /// Whether a task, Braid's own included, belongs to the set that it ends.
    fn sweeps(&self, task: &Task) -> bool {
        match self.scope {
            // What a survey asks may be this unit.
            Scope::Unit(lun) => task.lun == lun || task.is_survey(),
            Scope::Target => true,
            Scope::Task(_) | Scope::Nothing => false,
        }
    }
}

/// Whether a function concerns more than one task.
fn is_set_wide(function: u8) -> bool {
    let resets = [tmf::LOGICAL_UNIT_RESET, tmf::TARGET_WARM_RESET, tmf::TARGET_COLD_RESET];
    resets.contains(&function) || matches!(function, tmf::ABORT_TASK_SET | tmf::CLEAR_TASK_SET)
}

/// The request that aborts a task where it runs.
fn abort_of(task: &Task) -> Option<(ConnId, NexusId, TaskManagementRequest)> {
    let run = task.run.as_ref()?;
    let request = TaskManagementRequest {
        function: tmf::ABORT_TASK,
        lun: run.lun,
        referenced_itt: run.itt,
        ref_cmd_sn: run.cmd_sn,
        ..TaskManagementRequest::default()
    };
    Some((run.conn, run.nexus, request))
}

/// Functions open at a time; more are rejected.
const MOST_FUNCTIONS: usize = 32;
/// A reset that loses home so often is rejected.
const MOST_TRIES: u8 = 3;

impl Session {
    /// A request from the initiator.
    pub(in crate::session) fn task_management(
        &mut self,
        line: LineId,
        request: &TaskManagementRequest,
        now: Instant,
    ) {
        let early = self.early_functions.iter().any(|(_, f)| f.itt == request.itt);
        let held = self.held_answers.iter().any(|f| f.itt == request.itt);
        if early || held || self.has_function(request.itt) || self.tasks.find(request.itt).is_some() {
            // R107: a tag names one task at a time.
            self.reject(line, &Pdu::TaskManagementRequest(request.clone()), reject::TASK_IN_PROGRESS);
            return;
        }
        let open = self.functions.len() + self.early_functions.len() + self.held_answers.len();
        if open >= MOST_FUNCTIONS {
            self.answer_function(line, request.itt, tmf::REJECTED);
            return;
        }
        if self.front.awaits_before(request.cmd_sn) && is_set_wide(request.function) {
            // It covers commands that have not arrived (R146).
            self.early_functions.push((line, request.clone()));
            return;
        }
        // What it concerns may be at no connection just now.
        self.abandon_recovery(now);
        match request.function {
            tmf::ABORT_TASK => self.abort_task(line, request, now),
            tmf::ABORT_TASK_SET | tmf::CLEAR_TASK_SET | tmf::LOGICAL_UNIT_RESET => {
                self.set_wide(line, request, Scope::Unit(request.lun), now);
            }
            tmf::TARGET_WARM_RESET | tmf::TARGET_COLD_RESET => {
                self.set_wide(line, request, Scope::Target, now);
            }
            tmf::CLEAR_ACA => self.set_wide(line, request, Scope::Nothing, now),
            tmf::TASK_REASSIGN => self.answer_function(line, request.itt, tmf::REASSIGN_UNSUPPORTED),
            tmf::QUERY_TASK..=tmf::QUERY_ASYNC_EVENT => {
                self.answer_function(line, request.itt, tmf::NOT_SUPPORTED);
            }
            _ => self.answer_function(line, request.itt, tmf::REJECTED),
        }
    }

    /// Acts on functions for which no command is missing any more.
    pub(in crate::session) fn act_on_early_functions(&mut self, now: Instant) {
        if self.finishing.is_some() {
            return;
        }
        while let Some(at) =
            self.early_functions.iter().position(|(_, f)| !self.front.awaits_before(f.cmd_sn))
        {
            let (line, request) = self.early_functions.remove(at);
            self.task_management(line, &request, now);
        }
    }

    /// Whether a function of the initiator's with this tag is under way.
    fn has_function(&self, itt: Itt) -> bool {
        self.functions.iter().any(|f| f.asker.is_some_and(|(_, asked)| asked == itt))
    }

    fn abort_task(&mut self, line: LineId, request: &TaskManagementRequest, now: Instant) {
        let later =
            |key: &TaskKey| self.tasks.get(*key).is_some_and(|task| self.is_later(task, request.cmd_sn));
        let Some(key) = self.tasks.find(request.referenced_itt).filter(|key| !later(key)) else {
            // A function is no task to abort (R150). A command that may still come counts as received (R149); one that
            // is gone does not exist.
            let response = if self.has_function(request.referenced_itt) {
                tmf::REJECTED
            } else if self.front.plug(request.ref_cmd_sn, request.cmd_sn) {
                tmf::COMPLETE
            } else {
                tmf::TASK_DOES_NOT_EXIST
            };
            self.open_window();
            self.answer_function(line, request.itt, response);
            return;
        };
        let asker = (line, request.itt);
        if self.abort_at_target(key, Some(asker), now) {
            return;
        }
        if !self.lines.are_several() {
            self.conclude(key, now);
            return self.tell_answer(line, request.itt, tmf::COMPLETE);
        }
        if let Some((seq, lun)) = self.tasks.get(key).map(|task| (task.seq, task.lun)) {
            self.unqueue(key);
            if let Some(task) = self.tasks.get_mut(key) {
                task.queued = false;
            }
            let asked = (tmf::ABORT_TASK, lun);
            let function = self.function(Some(asker), asked, Scope::Task(seq), Stage::Asked);
            self.functions.push(function);
            self.finish_functions(now);
        }
    }

    /// Aborts a command where it runs; false if it runs nowhere.
    pub(super) fn abort_at_target(&mut self, key: TaskKey, asker: Option<Asker>, now: Instant) -> bool {
        let Some(task) = self.tasks.get(key) else { return false };
        let (seq, own_lun) = (task.seq, task.lun);
        let asked = abort_of(task).filter(|_| !broken!(self.rules, AbortNotAsked));
        let Some((conn, nexus, upstream)) = asked else { return false };
        let asked = (tmf::ABORT_TASK, own_lun);
        let mut function = self.function(asker, asked, Scope::Task(seq), Stage::Asked);
        self.send_tmf(&mut function, conn, nexus, upstream);
        self.functions.push(function);
        self.finish_functions(now);
        true
    }

    fn function(&self, asker: Option<Asker>, asked: (u8, Lun), scope: Scope, stage: Stage) -> Function {
        Function {
            asker,
            scope,
            before: self.seq,
            awaited: Vec::new(),
            response: tmf::COMPLETE,
            asked,
            stage,
            began: self.now,
            asked_at: self.now,
            waits_for_home: false,
            tries: 0,
            asked_of: Vec::new(),
            owed: None,
        }
    }

    /// Further nexuses that carry tasks which a function for task sets ends, each with the unit's LUN there.
    fn further_concerned(&self, function: &Function) -> Vec<(NexusId, Lun)> {
        let unmapped = broken!(self.rules, FunctionUnderHomesLun);
        let mut found = Vec::new();
        if !function.is_for_sets() || broken!(self.rules, AbortTaskSetOnHomeOnly) {
            return found;
        }
        for (_, task) in self.tasks.iter().filter(|(_, t)| t.is_initiators() && function.sweeps(t)) {
            let run = task.run.as_ref().map(|r| (r.nexus, if unmapped { function.asked.1 } else { r.lun }));
            found.extend(run.filter(|run| run.0 != HOME && !found.contains(run)));
        }
        found.sort_unstable();
        found
    }

    fn set_wide(&mut self, line: LineId, request: &TaskManagementRequest, scope: Scope, now: Instant) {
        let (asker, asked) = (Some((line, request.itt)), (request.function, request.lun));
        let mut function = self.function(asker, asked, scope, Stage::Gathering);
        function.before = self.covered_to(request.cmd_sn);
        // What waits inside Braid stays here until the outcome is known.
        for key in self.covered(&function) {
            self.unqueue(key);
            if let Some(task) = self.tasks.get_mut(key) {
                task.queued = false;
            }
        }
        self.gather(&mut function, now);
        self.functions.push(function);
        self.finish_functions(now);
    }

    /// The connection over which a function goes to a nexus.
    fn function_conn(&self, nexus: NexusId) -> Option<ConnId> {
        // Where home has moved to, it may yet turn out to be another unit.
        if nexus == HOME && self.home_moved {
            return None;
        }
        let talks = |c: &ConnState| matches!(c, ConnState::Up | ConnState::Draining(_));
        self.conns.iter().find(|c| c.nexus == nexus && talks(&c.state)).map(|c| c.id)
    }

    /// Makes sure that the commands concerned are at the target before the function is: on its own connection they are.
    fn gather(&mut self, function: &mut Function, now: Instant) {
        function.stage = Stage::Gathering;
        let further = self.further_concerned(function).into_iter().map(|(nexus, _)| nexus);
        let own: Vec<_> = further.chain([HOME]).filter_map(|n| self.function_conn(n)).collect();
        let mut others = self.carriers(function);
        others.retain(|c| !own.contains(c) && !broken!(self.rules, FunctionOvertakesCommands));
        self.await_echoes(function, &others, now);
    }

    fn send_to_home(&mut self, asking: &mut Function) {
        asking.stage = Stage::Asked;
        let (function, lun) = asking.asked;
        match self.function_conn(HOME) {
            Some(conn) => {
                let request = TaskManagementRequest { function, lun, ..TaskManagementRequest::default() };
                self.send_tmf(asking, conn, HOME, request);
            }
            // Home is being reinstated, which ends its tasks too; only a reset has yet to be done.
            None => asking.waits_for_home |= asking.is_reset(),
        }
    }

    /// Home's CLEAR TASK SET clears the task set of all nexuses, or its own if each has one. From a further nexus it would
    /// leave an attention on home, of Braid's own making: there the nexus' own tasks are aborted.
    fn send_to_further(&mut self, asking: &mut Function) {
        asking.stage = Stage::Further;
        let function = tmf::ABORT_TASK_SET;
        for (nexus, lun) in self.further_concerned(asking) {
            if let Some(conn) = self.function_conn(nexus) {
                let request = TaskManagementRequest { function, lun, ..TaskManagementRequest::default() };
                self.send_tmf(asking, conn, nexus, request);
            }
        }
    }

    /// Sends a function to a target, non-immediate where the window allows: some targets lose their CmdSN order over
    /// an immediate one.
    fn send_tmf(
        &mut self,
        function: &mut Function,
        id: ConnId,
        nexus: NexusId,
        request: TaskManagementRequest,
    ) {
        let itt = self.control_tag();
        let (cmd_sn, immediate) = self
            .control_number(nexus)
            .unwrap_or_else(|| (self.nexus(nexus).map_or(CmdSn(0), |n| n.window.current()), true));
        let Some(conn) = self.conn(id) else { return };
        let exp_stat_sn = conn.statuses.expected();
        function.awaited.push((id, itt));
        function.asked_of.push(nexus);
        function.asked_at = self.now;
        let request = TaskManagementRequest { immediate, itt, cmd_sn, exp_stat_sn, ..request };
        self.send_numbered(id, nexus, (cmd_sn, immediate), Pdu::TaskManagementRequest(request));
    }

    /// An answer with a control tag came; returns whether a function waited for it.
    pub(in crate::session) fn tmf_answered(
        &mut self,
        id: ConnId,
        itt: Itt,
        response: u8,
        now: Instant,
    ) -> bool {
        let Some(at) = self.functions.iter().position(|f| f.awaited.contains(&(id, itt))) else {
            return false;
        };
        let further = self.conn(id).is_some_and(|c| c.nexus != HOME);
        if response == tmf::LUN_DOES_NOT_EXIST && further {
            // The unit went away there under its commands: reinstatement ends them.
            let cause = Cause::Protocol("a unit whose commands are to be ended is gone".into());
            self.fail_conn(id, cause, now);
            return true;
        }
        if response == tmf::COMPLETE {
            self.stop_data(at, id);
        }
        let Some(function) = self.functions.get_mut(at) else { return false };
        function.awaited.retain(|a| *a != (id, itt));
        if function.response == tmf::COMPLETE && function.stage == Stage::Asked {
            function.response = response;
        }
        let refused = function.stage == Stage::Further && response != tmf::COMPLETE;
        if refused && !broken!(self.rules, FurtherRefusalIgnored) {
            let cause = "it does not end the tasks that home has ended";
            self.fail_conn(id, Cause::Protocol(cause.into()), now);
        }
        self.finish_functions(now);
        true
    }

    /// A target has ended what a function covers: over the connection that says so it expects no more data (R154).
    fn stop_data(&mut self, function: usize, id: ConnId) {
        let Some(function) = self.functions.get(function).filter(|f| f.is_at_target()) else { return };
        let swept = self.swept_besides(function);
        for key in self.covered(function).into_iter().chain(swept) {
            if let Some(run) = self.tasks.get_mut(key).and_then(|t| t.run.as_mut()).filter(|r| r.conn == id) {
                run.solicited.clear();
            }
        }
    }

    /// Connections that carry a command concerned.
    fn carriers(&self, function: &Function) -> Vec<ConnId> {
        let mut conns: Vec<ConnId> = Vec::new();
        for key in self.covered(function) {
            let conn = self.tasks.get(key).and_then(|t| t.run.as_ref()).map(|r| r.conn);
            conns.extend(conn.filter(|c| !conns.contains(c)));
        }
        conns
    }

    fn await_echoes(&mut self, function: &mut Function, conns: &[ConnId], now: Instant) {
        for conn in conns {
            let echo = self.ask_echo(*conn, now);
            function.awaited.extend(echo.map(|echo| (*conn, echo)));
        }
    }

    /// Tasks of the initiator that a function ends.
    fn covered(&self, function: &Function) -> Vec<TaskKey> {
        self.tasks.select(|task| function.concerns(task) && task.seq <= function.before)
    }

    /// Whether a function keeps a command that is not at a target from going there: one that it ends must not start
    /// anew elsewhere, and one that came later must not reach a target before it (R163).
    pub(in crate::session) fn is_held(&self, task: &Task) -> bool {
        let passes = |f: &Function| task.seq > f.before && broken!(self.rules, CommandsPassFunctions);
        self.functions.iter().any(|f| f.concerns(task) && !passes(f))
    }

    /// Whether the initiator resets a unit, or clears its task set.
    pub(in crate::session) fn is_being_reset(&self, lun: Lun) -> bool {
        let clears = |f: &Function| f.is_reset() || f.asked.0 == tmf::CLEAR_TASK_SET;
        let all = |f: &Function| f.scope == Scope::Target;
        self.functions.iter().any(|f| clears(f) && (all(f) || f.asked.1 == lun))
    }

    /// A target says that somebody aborted a command. If that is a function of the initiator's own, sent over another
    /// nexus, the function's answer is all that the initiator may hear of it.
    pub(in crate::session) fn aborted_by_own_function(&mut self, key: TaskKey) -> bool {
        let Some(task) = self.tasks.get(key) else { return false };
        let asked = |f: &&Function| f.stage != Stage::Gathering && task.seq <= f.before;
        let own = self.functions.iter().filter(asked).any(|f| f.concerns(task));
        let away = task.run.as_ref().is_some_and(|r| r.nexus != HOME);
        if !own || !task.may_run_twice() && !away || broken!(self.rules, OwnAbortTold) {
            return false;
        }
        if !task.may_run_twice() {
            if let Some(task) = self.tasks.get_mut(key) {
                task.run = None;
            }
            self.conclude(key, self.now);
            return true;
        }
        if let Some(task) = self.tasks.get_mut(key) {
            task.run = None;
        }
        self.recall(key);
        true
    }

    /// Takes functions that wait for nothing a step further, and answers those that are done.
    pub(in crate::session) fn finish_functions(&mut self, now: Instant) {
        while let Some(at) = self.functions.iter().position(|f| self.may_go_on(f, now)) {
            let mut function = self.functions.remove(at);
            let wide = matches!(function.scope, Scope::Unit(_) | Scope::Target);
            let goes_on = wide && function.response == tmf::COMPLETE && !function.is_cold();
            match function.stage {
                Stage::Gathering => self.send_to_home(&mut function),
                Stage::Asked if goes_on => self.send_to_further(&mut function),
                Stage::Further => {
                    function.stage = Stage::Echoing;
                    let carriers = self.carriers(&function);
                    self.await_echoes(&mut function, &carriers, now);
                    self.ask_whom_it_met(&mut function, now);
                }
                Stage::Asked | Stage::Echoing => {
                    if !self.has_to_be_acknowledged(&mut function) {
                        self.function_done(function, now);
                        continue;
                    }
                }
            }
            self.functions.insert(at, function);
        }
    }

    fn function_done(&mut self, mut function: Function, now: Instant) {
        let Some((line, itt)) = function.asker else { return self.given_up(&function, now) };
        let single = matches!(function.scope, Scope::Task(_));
        let open = |k: &TaskKey| single || self.tasks.get(*k).is_some_and(|t| t.run.is_none());
        let found = self.covered(&function).iter().any(open) && !broken!(self.rules, MovedCommandNotAborted);
        if function.response == tmf::TASK_DOES_NOT_EXIST && found {
            // It left the target that was asked and waits inside Braid, or the target has lost it: an answer would have
            // come first. For the initiator it exists until now (R149).
            function.response = tmf::COMPLETE;
        }
        let complete = function.response == tmf::COMPLETE;
        if complete {
            for key in self.swept_besides(&function) {
                self.run_swept_again(key, now);
            }
            let covered = self.covered(&function);
            if self.lines.are_several() {
                // An R2T over another connection might come after the answer.
                self.unsolicited.retain(|key| !covered.contains(key));
            }
            for key in covered {
                self.conclude(key, now);
            }
        }
        self.tell_answer(line, itt, function.response);
        if complete && function.is_cold() && !broken!(self.rules, ColdResetKeepsSession) {
            // Nothing comes after that answer.
            self.begin_finish(now);
        }
        if complete {
            self.ask_again(&function, now);
        }
        let (code, lun) = function.asked;
        if complete && function.is_reset() {
            self.unit_reset((function.scope != Scope::Target).then_some(lun));
        }
        if code == tmf::CLEAR_TASK_SET
            && let Some(unit) = self.attentions(lun)
        {
            unit.note_deed(Deed::Clear, now);
        }
        for key in self.tasks.select(|task| function.concerns(task)) {
            self.queue_if_ready(key);
        }
    }

    /// The target ended commands of Braid's own too, without an answer.
    fn ask_again(&mut self, function: &Function, now: Instant) {
        // ABORT TASK SET is for the nexus that it goes to; home's resets and CLEAR TASK SET are for all.
        let all = function.asked.0 != tmf::ABORT_TASK_SET && function.asked_of.contains(&HOME);
        let ended = |t: &Task| {
            let asked = t.only_nexus.is_some_and(|n| all || function.asked_of.contains(&n));
            t.run.is_some() && asked && function.sweeps(t)
        };
        for key in self.tasks.select(ended) {
            let Some(task) = self.tasks.get(key) else { continue };
            let (origin, lun, nexus) = (task.origin, task.lun, task.only_nexus);
            let there = task.lun_there.unwrap_or(lun);
            self.conclude(key, now);
            match origin {
                Origin::Check(id) => self.ask(id, now),
                Origin::Survey(id) => self.survey(id, now),
                Origin::Fence(nexus) => self.next_fence_step(nexus, now),
                Origin::Met(itt) => self.ask_who_is(nexus.unwrap_or(HOME), (lun, there), itt, now),
                Origin::Registration => {
                    self.registration_swept_away(lun, nexus.unwrap_or(HOME), now);
                }
                // Whether a transition came of it, the target is asked.
                Origin::Initiator { .. } | Origin::Transition | Origin::Wash(_) => {}
            }
        }
    }
}
