//! Task management (RFC 7143 section 11.5): wherever the task is.
//!
//! ABORT TASK follows its task: one that waits inside Braid ends at once, one at a target is aborted there, over the
//! connection that carries it (R147). Set-wide functions end what waits inside Braid, go to the nexuses concerned, and
//! are answered when all of them have answered and every other connection has echoed a ping, so that responses sent
//! before are passed on before (R163); what then is still open on the unit has been ended by the target.

use super::Session;
use super::api::{ConnId, Output};
use super::nexus::{ConnState, HOME, NexusId};
use super::tasks::{Origin, Task, TaskKey};
use crate::iscsi::{CmdSn, Itt, Lun, Pdu, TaskManagementRequest, TaskManagementResponse, reject, tmf};
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

/// A function on its way.
#[derive(Debug)]
pub(super) struct Function {
    /// Tag of the initiator's request.
    itt: Itt,
    scope: Scope,
    /// Commands that came after the request are not concerned.
    before: u64,
    /// Answers awaited: connection and control tag.
    awaited: Vec<(ConnId, Itt)>,
    /// First answer that was not "complete".
    response: u8,
    /// A reset (function and unit): it has happened only if home answered.
    reset: Option<(u8, Lun)>,
    /// Home was lost under the reset, or is not there: it goes out (again) once home is back.
    waits_for_home: bool,
    /// How often the reset went out.
    tries: u8,
    /// Echoes of the other connections are awaited, or have come.
    echoing: bool,
}

impl Function {
    /// Whether a task is of the kind that it ends.
    fn concerns(&self, task: &Task) -> bool {
        let ours = matches!(task.origin, Origin::Initiator { .. });
        ours && (self.sweeps(task) || matches!(self.scope, Scope::Task(seq) if task.seq == seq))
    }

    /// Whether a task, Braid's own included, belongs to the set that it ends.
    fn sweeps(&self, task: &Task) -> bool {
        match self.scope {
            Scope::Unit(lun) => task.lun == lun,
            Scope::Target => true,
            Scope::Task(_) | Scope::Nothing => false,
        }
    }
}

/// Functions open at a time; more are rejected.
const MOST_FUNCTIONS: usize = 32;
/// A reset that loses home so often is rejected.
const MOST_TRIES: u8 = 3;

impl Session {
    /// A request from the initiator.
    pub(super) fn task_management(&mut self, request: &TaskManagementRequest, now: Instant) {
        if self.functions.iter().any(|f| f.itt == request.itt) || self.tasks.find(request.itt).is_some() {
            // R107: a tag names one task at a time.
            self.reject(&Pdu::TaskManagementRequest(request.clone()), reject::TASK_IN_PROGRESS);
            return;
        }
        if self.functions.len() >= MOST_FUNCTIONS {
            self.answer_tmf(request.itt, tmf::REJECTED);
            return;
        }
        match request.function {
            tmf::ABORT_TASK => self.abort_task(request, now),
            tmf::ABORT_TASK_SET | tmf::CLEAR_TASK_SET => {
                let nexuses = self.nexuses_with(request.lun);
                self.set_wide(request, Scope::Unit(request.lun), &nexuses, now);
            }
            tmf::LOGICAL_UNIT_RESET => self.set_wide(request, Scope::Unit(request.lun), &[HOME], now),
            tmf::TARGET_WARM_RESET | tmf::TARGET_COLD_RESET => {
                self.set_wide(request, Scope::Target, &[HOME], now);
            }
            tmf::CLEAR_ACA => self.set_wide(request, Scope::Nothing, &[HOME], now),
            tmf::TASK_REASSIGN => self.answer_tmf(request.itt, tmf::REASSIGN_UNSUPPORTED),
            tmf::QUERY_TASK..=tmf::QUERY_ASYNC_EVENT => self.answer_tmf(request.itt, tmf::NOT_SUPPORTED),
            _ => self.answer_tmf(request.itt, tmf::REJECTED),
        }
    }

    fn abort_task(&mut self, request: &TaskManagementRequest, now: Instant) {
        let Some(key) = self.tasks.find(request.referenced_itt) else {
            // A function is no task to abort (R150). A command that may still come counts as received (R149); one that
            // is gone does not exist.
            let response = if self.functions.iter().any(|f| f.itt == request.referenced_itt) {
                tmf::REJECTED
            } else if self.front.plug(request.ref_cmd_sn, request.cmd_sn) {
                tmf::COMPLETE
            } else {
                tmf::TASK_DOES_NOT_EXIST
            };
            self.open_window();
            self.answer_tmf(request.itt, response);
            return;
        };
        let Some(task) = self.tasks.get(key) else { return };
        let (seq, lun) = (task.seq, task.lun);
        let run = task.run.as_ref().map(|r| (r.conn, r.nexus, r.itt, r.cmd_sn));
        let Some((conn, nexus, run_itt, cmd_sn)) = run else {
            self.conclude(key, now);
            self.answer_tmf(request.itt, tmf::COMPLETE);
            return;
        };
        let mut function = self.function(request.itt, Scope::Task(seq));
        let upstream = TaskManagementRequest {
            function: tmf::ABORT_TASK,
            lun,
            referenced_itt: run_itt,
            ref_cmd_sn: cmd_sn,
            ..TaskManagementRequest::default()
        };
        self.send_tmf(&mut function, conn, nexus, upstream);
        self.functions.push(function);
        self.finish_functions(now);
    }

    fn function(&self, itt: Itt, scope: Scope) -> Function {
        let (awaited, response) = (Vec::new(), tmf::COMPLETE);
        Function {
            itt,
            scope,
            before: self.seq,
            awaited,
            response,
            reset: None,
            waits_for_home: false,
            tries: 0,
            echoing: false,
        }
    }

    /// Nexuses that carry tasks of a unit, and home.
    fn nexuses_with(&self, lun: Lun) -> Vec<NexusId> {
        let mut found = vec![HOME];
        for (_, task) in self.tasks.iter().filter(|(_, t)| t.lun == lun) {
            if let Some(nexus) = task.run.as_ref().map(|r| r.nexus).filter(|n| !found.contains(n)) {
                found.push(nexus);
            }
        }
        found
    }

    fn set_wide(&mut self, request: &TaskManagementRequest, scope: Scope, nexuses: &[NexusId], now: Instant) {
        let mut function = self.function(request.itt, scope);
        function.reset = match request.function {
            tmf::LOGICAL_UNIT_RESET | tmf::TARGET_WARM_RESET | tmf::TARGET_COLD_RESET => {
                Some((request.function, request.lun))
            }
            _ => None,
        };
        // What waits inside Braid stays here until the outcome is known.
        for key in self.covered(&function) {
            self.unqueue(key);
            if let Some(task) = self.tasks.get_mut(key) {
                task.queued = false;
            }
        }
        for nexus in nexuses {
            let talks = |c: &ConnState| matches!(c, ConnState::Up | ConnState::Draining(_));
            let conn = self.conns.iter().find(|c| c.nexus == *nexus && talks(&c.state)).map(|c| c.id);
            let Some(conn) = conn else {
                // Home is being reinstated, which ends its tasks too; only a reset has yet to be done.
                function.waits_for_home |= function.reset.is_some();
                continue;
            };
            let upstream = TaskManagementRequest {
                function: request.function,
                lun: request.lun,
                ..TaskManagementRequest::default()
            };
            self.send_tmf(&mut function, conn, *nexus, upstream);
        }
        self.functions.push(function);
        self.finish_functions(now);
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
        let exp_stat_sn = conn.exp_stat_sn;
        function.awaited.push((id, itt));
        let request = TaskManagementRequest { immediate, itt, cmd_sn, exp_stat_sn, ..request };
        self.outputs.push_back(Output::ToTarget(id, Pdu::TaskManagementRequest(request)));
    }

    /// An answer with a control tag came; returns whether a function waited for it.
    pub(super) fn tmf_answered(&mut self, id: ConnId, itt: Itt, response: u8, now: Instant) -> bool {
        let waits = |f: &&mut Function| f.awaited.contains(&(id, itt));
        let Some(function) = self.functions.iter_mut().find(waits) else { return false };
        function.awaited.retain(|a| *a != (id, itt));
        if function.response == tmf::COMPLETE {
            function.response = response;
        }
        let drained = function.awaited.is_empty() && !function.echoing;
        let itt = function.itt;
        if drained && matches!(function.scope, Scope::Unit(_) | Scope::Target) {
            self.ping_the_rest(itt, now);
        }
        self.finish_functions(now);
        true
    }

    /// All targets have answered: responses that further connections still carry must be passed on first.
    fn ping_the_rest(&mut self, itt: Itt, now: Instant) {
        let Some(function) = self.functions.iter().find(|f| f.itt == itt) else { return };
        let mut conns: Vec<ConnId> = Vec::new();
        for key in self.covered(function) {
            let conn = self.tasks.get(key).and_then(|t| t.run.as_ref()).map(|r| r.conn);
            if let Some(conn) = conn.filter(|c| !conns.contains(c)) {
                conns.push(conn);
            }
        }
        let mut echoes = Vec::new();
        for conn in conns {
            if let Some(echo) = self.ping(conn, now) {
                echoes.push((conn, echo));
            }
        }
        if let Some(function) = self.functions.iter_mut().find(|f| f.itt == itt) {
            function.awaited = echoes;
            function.echoing = true;
        }
    }

    /// Tasks of the initiator that a function ends.
    fn covered(&self, function: &Function) -> Vec<TaskKey> {
        self.tasks.select(|task| function.concerns(task) && task.seq <= function.before)
    }

    /// Whether a function keeps a command that is not at a target from going there: one that it ends must not start
    /// anew elsewhere, and one that came later must not reach a target before it (R163).
    pub(super) fn is_held(&self, task: &Task) -> bool {
        self.functions.iter().any(|f| f.concerns(task))
    }

    /// Answers every function that waits for nothing more.
    fn finish_functions(&mut self, now: Instant) {
        let done = |f: &Function| f.awaited.is_empty() && !f.waits_for_home;
        while let Some(at) = self.functions.iter().position(done) {
            let mut function = self.functions.remove(at);
            if function.response == tmf::TASK_DOES_NOT_EXIST
                && self.covered(&function).iter().any(|k| self.tasks.get(*k).is_some_and(|t| t.run.is_none()))
            {
                // It left the target that was asked, and waits inside Braid.
                function.response = tmf::COMPLETE;
            }
            if function.response == tmf::COMPLETE {
                for key in self.covered(&function) {
                    self.conclude(key, now);
                }
            }
            self.answer_tmf(function.itt, function.response);
            if function.response == tmf::COMPLETE {
                self.ask_again(&function, now);
            }
            if let Some((_, lun)) = function.reset.filter(|_| function.response == tmf::COMPLETE) {
                self.unit_reset((function.scope != Scope::Target).then_some(lun));
            }
            for key in self.tasks.select(|task| function.concerns(task)) {
                self.queue_if_ready(key);
            }
        }
    }

    /// The session ends: what is at the targets is awaited, because it may sweep away commands of Braid's own.
    pub(super) fn end_functions(&mut self) {
        self.functions.retain(|f| !f.waits_for_home);
    }

    /// The target ended commands of Braid's own too, without an answer.
    fn ask_again(&mut self, function: &Function, now: Instant) {
        for key in self.tasks.select(|t| t.run.is_some() && t.only_nexus.is_some() && function.sweeps(t)) {
            let Some(origin) = self.tasks.get(key).map(|t| t.origin) else { continue };
            self.conclude(key, now);
            match origin {
                Origin::Check(id) => self.ask(id, now),
                Origin::Fence(nexus) => self.next_fence_step(nexus, now),
                Origin::Initiator { .. } => {}
            }
        }
    }

    /// Whether a connection still owes an answer to a function.
    pub(super) fn owes_answer(&self, id: ConnId) -> bool {
        self.functions.iter().any(|f| f.awaited.iter().any(|(conn, _)| *conn == id))
    }

    /// Connections that are gone will not answer: their tasks have ended there, or will with the fence.
    pub(super) fn tmf_conns_lost(&mut self, now: Instant) {
        let alive: Vec<ConnId> = self.conns.iter().map(|c| c.id).collect();
        for function in &mut self.functions {
            let before = function.awaited.len();
            function.awaited.retain(|(conn, _)| alive.contains(conn));
            let lost = !function.echoing && function.awaited.len() < before;
            function.waits_for_home |= lost && function.reset.is_some();
        }
        self.finish_functions(now);
    }

    /// Home is back: resets that were lost with it go out again, before any command does. (A reset may be what closed
    /// home's connections: istgt closes all but the one it came on.)
    pub(super) fn reissue_resets(&mut self, now: Instant) {
        let home = self.conns.iter().find(|c| c.nexus == HOME && c.state == ConnState::Up).map(|c| c.id);
        let Some(home) = home.filter(|_| self.finishing.is_none()) else { return };
        for mut function in std::mem::take(&mut self.functions) {
            if let Some((code, lun)) = function.reset.filter(|_| function.waits_for_home) {
                function.waits_for_home = false;
                function.tries += 1;
                if function.tries > MOST_TRIES {
                    function.response = tmf::REJECTED;
                } else {
                    let request =
                        TaskManagementRequest { function: code, lun, ..TaskManagementRequest::default() };
                    self.send_tmf(&mut function, home, HOME, request);
                }
            }
            self.functions.push(function);
        }
        self.finish_functions(now);
    }

    fn answer_tmf(&mut self, itt: Itt, response: u8) {
        let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.front.stamp();
        let answer = TaskManagementResponse { response, itt, stat_sn, exp_cmd_sn, max_cmd_sn, additional: 0 };
        self.tell(Pdu::TaskManagementResponse(answer));
    }
}
