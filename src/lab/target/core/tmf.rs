//! Task management (R145 to R169), without fast abort; reassignment is in `recovery`.

use super::session::{Session, Stage, Task};
use super::unit::TaskRef;
use super::unit::fault::COMMANDS_CLEARED;
use super::{At, ConnId, Target};
use crate::iscsi::{Pdu, TaskManagementRequest, TaskManagementResponse, Tsih, reject, tmf};
use std::collections::BTreeSet;
use std::time::Instant;

/// Task management requests of a session that may wait for earlier commands.
const MAX_WAITING: usize = 8;

impl Target {
    pub(super) fn task_management(&mut self, at: At, request: TaskManagementRequest, now: Instant) {
        let Some(session) = self.sessions.get_mut(&at.tsih) else { return };
        if session.discovery.is_some() || session.waiting.len() >= MAX_WAITING {
            let (itt, lun) = (request.itt, request.lun);
            self.reject_pdu(at.conn, reject::IMMEDIATE_REJECTED, 0x02, request.immediate, itt, lun);
        } else if request.function == tmf::TASK_REASSIGN {
            self.reassign(at, &request, now);
        } else if request.function == tmf::ABORT_TASK {
            let response = self.abort_task(at.tsih, &request);
            self.deliver_held(at.tsih, now);
            self.conclude(at.conn, &request, response);
        } else {
            session.waiting.push((at.conn, request));
            self.tmfs_complete(at.tsih);
        }
    }

    /// Runs set-wide functions whose earlier commands have all arrived (R146, R155).
    pub(super) fn tmfs_complete(&mut self, tsih: Tsih) {
        while let Some((conn, request)) = self.sessions.get_mut(&tsih).and_then(next_complete) {
            let response = self.set_wide(tsih, &request);
            self.conclude(conn, &request, response);
        }
    }

    pub(super) fn conclude(&mut self, conn: ConnId, request: &TaskManagementRequest, response: u8) {
        let answer =
            TaskManagementResponse { response, itt: request.itt, ..TaskManagementResponse::default() };
        self.send(conn, Pdu::TaskManagementResponse(answer));
    }

    /// A task that is here ends; one that may still come is counted as arrived (R149).
    fn abort_task(&mut self, tsih: Tsih, request: &TaskManagementRequest) -> u8 {
        let Some(session) = self.sessions.get_mut(&tsih) else { return tmf::REJECTED };
        if let Some(task) = session.tasks.get(&request.referenced_itt) {
            if task.stage == Stage::Held {
                let number = task.command.cmd_sn;
                session.void(number);
            }
            self.take_task(TaskRef { tsih, itt: request.referenced_itt });
            return tmf::COMPLETE;
        }
        if request.ref_cmd_sn.is_before(request.cmd_sn) && session.undelivered(request.ref_cmd_sn) {
            session.void(request.ref_cmd_sn);
            return tmf::COMPLETE;
        }
        tmf::TASK_DOES_NOT_EXIST
    }

    fn set_wide(&mut self, tsih: Tsih, request: &TaskManagementRequest) -> u8 {
        let unit = usize::try_from(request.lun.number()).ok().filter(|unit| *unit < self.units.len());
        match (request.function, unit) {
            (tmf::ABORT_TASK_SET, Some(unit)) => {
                self.abort_where(tsih, |task| concerns(task, unit));
                tmf::COMPLETE
            }
            (tmf::CLEAR_TASK_SET, Some(unit)) => {
                for other in self.clear(unit) {
                    if other != tsih
                        && let Some(unit) = self.units.get_mut(unit)
                    {
                        unit.tell_one(other, COMMANDS_CLEARED);
                    }
                }
                tmf::COMPLETE
            }
            (tmf::LOGICAL_UNIT_RESET, Some(unit)) => {
                self.reset(unit);
                tmf::COMPLETE
            }
            (tmf::TARGET_WARM_RESET, _) => {
                (0..self.units.len()).for_each(|unit| self.reset(unit));
                tmf::COMPLETE
            }
            (tmf::ABORT_TASK_SET | tmf::CLEAR_TASK_SET | tmf::LOGICAL_UNIT_RESET, None) => {
                tmf::LUN_DOES_NOT_EXIST
            }
            (tmf::CLEAR_ACA | tmf::TARGET_COLD_RESET, _) => tmf::NOT_SUPPORTED,
            (tmf::QUERY_TASK..=tmf::QUERY_ASYNC_EVENT, _) => tmf::NOT_SUPPORTED,
            _ => tmf::REJECTED,
        }
    }

    fn reset(&mut self, unit: usize) {
        self.clear(unit);
        if let Some(unit) = self.units.get_mut(unit) {
            unit.reset();
        }
    }

    /// Ends all tasks of a unit, of every session; returns the sessions that lost some.
    fn clear(&mut self, unit: usize) -> BTreeSet<Tsih> {
        let Some(tasks) = self.units.get(unit).map(|unit| unit.tasks.iter().collect::<Vec<_>>()) else {
            return BTreeSet::new();
        };
        for task in &tasks {
            self.take_task(*task);
        }
        tasks.into_iter().map(|task| task.tsih).collect()
    }
}

fn concerns(task: &Task, unit: usize) -> bool {
    task.unit == Some(unit) && task.stage != Stage::Held
}

/// The next waiting function that no earlier command is missing for.
fn next_complete(session: &mut Session) -> Option<(ConnId, TaskManagementRequest)> {
    let exp = session.exp_cmd_sn;
    let at = session.waiting.iter().position(|(_, request)| !request.cmd_sn.is_after(exp))?;
    Some(session.waiting.remove(at))
}
