//! A SCSI command from arrival to status.

use super::session::{Arrival, MAX_IMMEDIATE, Order, Session, Stage, Task};
use super::unit::fault::{Fault, INVALID_FIELD, UNEXPECTED_DATA, WRONG_DATA_AMOUNT};
use super::unit::{Op, Reply, TaskRef, without_unit};
use super::{At, ConnId, Target, Timer};
use crate::iscsi::{Itt, Payload, ScsiCommand, Tsih, reject};
use crate::login::SessionParams;
use std::collections::VecDeque;
use std::time::Instant;

impl Target {
    /// A SCSI command arrived: its data are collected from now on, its turn may come later.
    pub(super) fn scsi_command(&mut self, at: At, command: ScsiCommand, now: Instant) {
        let serial = self.next_serial();
        let units = self.units.len() as u64;
        let Some(session) = self.sessions.get_mut(&at.tsih) else { return };
        let (itt, cmd_sn, immediate, lun) = (command.itt, command.cmd_sn, command.immediate, command.lun);
        if session.order(cmd_sn, immediate) == Order::Ignore {
            return;
        }
        if let Some(reason) = refusal(session, &command) {
            self.reject_pdu(at.conn, reason, 0x01, immediate, itt, lun);
            return;
        }
        let unit = usize::try_from(lun.number()).ok().filter(|unit| (*unit as u64) < units);
        let task = Task::new(at.conn, serial, command, unit, &session.params);
        session.tasks.insert(itt, task);
        self.in_order(at, cmd_sn, immediate, Arrival::Task(itt), now);
    }

    /// The command's turn in the session has come: it joins the unit's task set.
    pub(super) fn enter(&mut self, task: TaskRef) {
        let Some(session) = self.sessions.get_mut(&task.tsih) else { return };
        session.delivered(task.itt);
        let Some(entry) = session.tasks.get_mut(&task.itt) else { return };
        entry.stage = Stage::Dormant;
        let unit = entry.unit.and_then(|unit| self.units.get_mut(unit));
        let runs = match unit {
            Some(unit) => {
                let (age, runs) = unit.tasks.enter(task, entry.command.attribute);
                entry.age = Some(age);
                runs
            }
            None => true,
        };
        if runs {
            self.ready.push_back(task);
        }
    }

    /// The command's turn in the task set has come: it is judged, and its data are asked for.
    pub(super) fn begin(&mut self, task: TaskRef, now: Instant) {
        let Some(entry) = self.sessions.get_mut(&task.tsih).and_then(|s| s.tasks.get_mut(&task.itt)) else {
            return;
        };
        if entry.stage != Stage::Dormant {
            return;
        }
        entry.stage = Stage::Gathering;
        if let Some(unit) = entry.unit.and_then(|unit| self.units.get_mut(unit)) {
            match unit.admit(task.tsih, &entry.command.cdb.0) {
                Ok(op) => entry.expect(op, unit.medium.block_size()),
                Err(fault) => entry.failure = entry.failure.or(Some(fault)),
            }
        }
        self.advance(task, now);
    }

    /// Goes on with a task as far as its data allow.
    pub(super) fn advance(&mut self, task: TaskRef, now: Instant) {
        let Some(entry) = self.sessions.get_mut(&task.tsih).and_then(|s| s.tasks.get_mut(&task.itt)) else {
            return;
        };
        if entry.stage != Stage::Gathering || entry.unsolicited.is_some() {
            return;
        }
        if let Some(fault) = entry.failure {
            if entry.transfers.is_empty() {
                self.finish(task, fault.into());
            }
        } else if entry.data.len() < entry.wanted as usize {
            self.solicit(task);
        } else {
            entry.stage = Stage::Device;
            let serial = entry.serial;
            if self.options.delay.is_zero() {
                self.device_done(task, serial);
            } else {
                let order = self.next_serial();
                self.timers.insert((now + self.options.delay, order), Timer::Device(task, serial));
            }
        }
    }

    /// The device executes the command, and status is sent.
    pub(super) fn device_done(&mut self, task: TaskRef, serial: u64) {
        let units = self.units.len();
        let Some(session) = self.sessions.get_mut(&task.tsih) else { return };
        let Some(entry) = session.tasks.get_mut(&task.itt) else { return };
        if entry.serial != serial {
            return;
        }
        let data = std::mem::take(&mut entry.data).slice(0, entry.wanted as usize);
        let unit = entry.unit.and_then(|unit| self.units.get_mut(unit));
        let (reply, purged) = match (unit, &entry.op) {
            (Some(unit), Some(op)) => (unit.execute(task.tsih, op, &data, units), unit.take_purged()),
            _ => (without_unit(&entry.command.cdb.0, units), Vec::new()),
        };
        let unit = entry.unit;
        for tsih in purged {
            self.abort_where(tsih, |other| {
                other.unit == unit && other.age.is_some() && other.serial != serial
            });
        }
        self.finish(task, reply);
    }

    /// Ends a task with its status.
    fn finish(&mut self, task: TaskRef, reply: Reply) {
        if let Some(entry) = self.take_task(task) {
            self.respond(task.tsih, entry, reply);
        }
    }

    /// Removes a task from session and unit; tasks that waited for it become ready.
    pub(super) fn take_task(&mut self, task: TaskRef) -> Option<Task> {
        let entry = self.sessions.get_mut(&task.tsih)?.remove_task(task.itt)?;
        let unit = entry.unit.and_then(|unit| self.units.get_mut(unit));
        if let (Some(unit), Some(age)) = (unit, entry.age) {
            self.ready.extend(unit.tasks.leave(age));
        }
        Some(entry)
    }

    /// Ends tasks of a session without a status; returns how many.
    pub(super) fn abort_where(&mut self, tsih: Tsih, which: impl Fn(&Task) -> bool) -> usize {
        let Some(session) = self.sessions.get(&tsih) else { return 0 };
        let tags: Vec<Itt> =
            session.tasks.iter().filter(|(_, task)| which(task)).map(|(itt, _)| *itt).collect();
        for itt in &tags {
            self.take_task(TaskRef { tsih, itt: *itt });
        }
        tags.len()
    }
}

/// Why a command cannot even become a task.
fn refusal(session: &Session, command: &ScsiCommand) -> Option<u8> {
    let immediate = |task: &&Task| task.command.immediate;
    if session.discovery.is_some() || command.itt == Itt::NONE || session.tasks.contains_key(&command.itt) {
        Some(reject::PROTOCOL_ERROR)
    } else if command.immediate && session.tasks.values().filter(immediate).count() >= MAX_IMMEDIATE {
        Some(reject::IMMEDIATE_REJECTED)
    } else {
        None
    }
}

impl Task {
    fn new(
        conn: ConnId,
        serial: u64,
        mut command: ScsiCommand,
        unit: Option<usize>,
        params: &SessionParams,
    ) -> Self {
        let data = std::mem::take(&mut command.data);
        let unsolicited = (!command.final_ && command.write).then_some(0);
        let failure = unsolicited_fault(params, &command, &data);
        Self {
            conn,
            serial,
            command,
            unit,
            age: None,
            stage: Stage::Held,
            op: None,
            wanted: 0,
            full: 0,
            data,
            unsolicited,
            transfers: VecDeque::new(),
            asked: 0,
            r2t_sn: 0,
            failure,
        }
    }

    /// Settles how much data the command takes.
    fn expect(&mut self, op: Op, block_size: u32) {
        let whole = op.data_out(block_size);
        let announced = if self.command.write { self.command.expected_length } else { 0 };
        self.wanted = u32::try_from(whole).unwrap_or(u32::MAX).min(announced);
        self.full = whole;
        let cut = u64::from(self.wanted) < whole;
        if cut && !matches!(op, Op::Write(_) | Op::WriteVerify { .. }) {
            self.failure = self.failure.or(Some(Fault::Sense(INVALID_FIELD)));
        }
        self.op = Some(op);
    }
}

/// Judges what a command brings or announces unsolicited (R121, R122, R139).
fn unsolicited_fault(params: &SessionParams, command: &ScsiCommand, data: &Payload) -> Option<Fault> {
    let immediate = !data.is_empty();
    let announced = !command.final_ && command.write;
    if (immediate && !params.immediate_data) || (announced && params.initial_r2t) {
        return Some(Fault::Sense(UNEXPECTED_DATA));
    }
    let most = params.first_burst_length.min(command.expected_length) as usize;
    (immediate && (data.len() > most || !command.write)).then_some(Fault::Sense(WRONG_DATA_AMOUNT))
}
