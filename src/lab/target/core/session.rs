//! One session: command numbering over all its connections, and its tasks.

use super::data::Said;
use super::recovery::Lost;
use super::unit::fault::Fault;
use super::unit::{NexusName, Op};
use super::{ConnId, SessionInfo};
use crate::iscsi::{Cid, CmdSn, Itt, Payload, Pdu, ScsiCommand, TaskManagementRequest, Tsih, Ttt};
use crate::login::SessionParams;
use std::collections::{BTreeMap, VecDeque};

/// Immediate tasks of a session at a time; more are rejected (R104).
pub(super) const MAX_IMMEDIATE: usize = 16;

/// What takes a place in the order of commands.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A SCSI command, whose task is already registered so that its data can be collected.
    Task(Itt),
    /// NOP, text, task management or logout.
    Control(Pdu),
    /// Nothing: a number that was aborted before it arrived (R149).
    Void,
}

/// A request that waits for an earlier number.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) conn: ConnId,
    pub(super) what: Arrival,
}

/// What to do with a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    Now,
    Hold,
    Ignore,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) name: NexusName,
    pub(super) tpgt: u16,
    /// The portal of a discovery session, which belongs to its identity (R236).
    pub(super) discovery: Option<usize>,
    pub(super) params: SessionParams,
    /// Connections, those that are still logging in included.
    pub(super) conns: BTreeMap<Cid, ConnId>,
    pub(super) exp_cmd_sn: CmdSn,
    window: u32,
    /// Tasks that were delivered with a number of their own; never more than `window`.
    active: u32,
    held: BTreeMap<u32, Held>,
    pub(super) tasks: BTreeMap<Itt, Task>,
    /// Set-wide task management that waits for earlier commands (R146).
    pub(super) waiting: Vec<(ConnId, TaskManagementRequest)>,
    next_ttt: u32,
    commands: BTreeMap<Cid, u64>,
    /// At error recovery level 2: connections that are gone and have tasks, and answers that may not have arrived.
    pub(super) lost: Vec<Lost>,
    pub(super) said: Vec<Said>,
}

impl Session {
    pub(super) fn new(name: NexusName, tpgt: u16, params: SessionParams, exp: CmdSn, window: u32) -> Self {
        Self {
            name,
            tpgt,
            discovery: None,
            params,
            conns: BTreeMap::new(),
            exp_cmd_sn: exp,
            window,
            active: 0,
            held: BTreeMap::new(),
            tasks: BTreeMap::new(),
            waiting: Vec::new(),
            next_ttt: 0,
            commands: BTreeMap::new(),
            lost: Vec::new(),
            said: Vec::new(),
        }
    }

    /// Grows by one with each task that ends, and never shrinks (R96).
    pub(super) fn max_cmd_sn(&self) -> CmdSn {
        self.exp_cmd_sn.plus(self.window).minus(self.active + 1)
    }

    pub(super) fn order(&self, cmd_sn: CmdSn, immediate: bool) -> Order {
        if immediate {
            Order::Now
        } else if cmd_sn.is_before(self.exp_cmd_sn)
            || cmd_sn.is_after(self.max_cmd_sn())
            || self.held.contains_key(&cmd_sn.0)
        {
            Order::Ignore
        } else if cmd_sn == self.exp_cmd_sn {
            Order::Now
        } else {
            Order::Hold
        }
    }

    pub(super) fn hold(&mut self, cmd_sn: CmdSn, held: Held) {
        self.held.insert(cmd_sn.0, held);
    }

    /// The request whose turn has come, if it is here.
    pub(super) fn next_held(&mut self) -> Option<Held> {
        let held = self.held.remove(&self.exp_cmd_sn.0)?;
        self.exp_cmd_sn = self.exp_cmd_sn.next();
        Some(held)
    }

    /// Drops undelivered requests of a connection: their numbers become holes (R106).
    pub(super) fn forget_held(&mut self, conn: ConnId) {
        self.held.retain(|_, held| held.conn != conn || matches!(held.what, Arrival::Void));
        self.waiting.retain(|(from, _)| *from != conn);
    }

    /// Whether a number could still arrive, or has arrived without being delivered.
    pub(super) fn undelivered(&self, cmd_sn: CmdSn) -> bool {
        !cmd_sn.is_before(self.exp_cmd_sn) && !cmd_sn.is_after(self.max_cmd_sn())
    }

    /// A task's turn in the order of commands has come.
    pub(super) fn delivered(&mut self, itt: Itt) {
        let Some(task) = self.tasks.get(&itt) else { return };
        if !task.command.immediate {
            self.active += 1;
        }
        let cid = self.conns.iter().find(|(_, conn)| **conn == task.conn).map(|(cid, _)| *cid);
        *self.commands.entry(cid.unwrap_or_default()).or_default() += 1;
    }

    /// Removes a task.
    pub(super) fn remove_task(&mut self, itt: Itt) -> Option<Task> {
        let task = self.tasks.remove(&itt)?;
        if task.stage != Stage::Held && !task.command.immediate {
            self.active -= 1;
        }
        Some(task)
    }

    /// Counts a number as arrived without a request behind it.
    pub(super) fn void(&mut self, cmd_sn: CmdSn) {
        self.held.insert(cmd_sn.0, Held { conn: ConnId(0), what: Arrival::Void });
    }

    pub(super) fn new_ttt(&mut self) -> Ttt {
        let ttt = Ttt(self.next_ttt);
        // The number that means "none" is left out.
        self.next_ttt = if self.next_ttt == u32::MAX - 1 { 0 } else { self.next_ttt + 1 };
        ttt
    }

    /// Whether a transfer tag was given out before, so that late data for it are no surprise.
    pub(super) const fn knew_ttt(&self, ttt: Ttt) -> bool {
        ttt.0 < self.next_ttt
    }

    pub(super) fn info(&self, tsih: Tsih) -> SessionInfo {
        SessionInfo {
            tsih,
            initiator: self.name.initiator.clone(),
            isid: self.name.isid,
            tpgt: self.tpgt,
            discovery: self.discovery.is_some(),
            connections: self.conns.iter().map(|(cid, conn)| (*cid, *conn)).collect(),
            commands: self.commands.iter().map(|(cid, count)| (*cid, *count)).collect(),
            tasks: self.tasks.len(),
            exp_cmd_sn: self.exp_cmd_sn,
            held: self.held.len(),
        }
    }
}

/// Where a task is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// Waits for an earlier CmdSN.
    Held,
    /// Waits for older tasks of the unit.
    Dormant,
    /// Waits for its data.
    Gathering,
    /// In the device.
    Device,
}

/// A SCSI command from arrival to status.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) conn: ConnId,
    /// Recognises the task after its tag was used again.
    pub(super) serial: u64,
    /// The command, without its immediate data.
    pub(super) command: ScsiCommand,
    /// The unit, if there is one with that number.
    pub(super) unit: Option<usize>,
    /// Place in the unit's task set.
    pub(super) age: Option<u64>,
    pub(super) stage: Stage,
    pub(super) op: Option<Op>,
    /// Bytes of data that the command takes, as far as the initiator means to send them.
    pub(super) wanted: u32,
    /// Bytes that the command would take or give if the expected length allowed.
    pub(super) full: u64,
    /// Data received so far, in order of offset.
    pub(super) data: Payload,
    /// Next DataSN of unsolicited data still to come.
    pub(super) unsolicited: Option<u32>,
    /// Requested and not yet complete.
    pub(super) transfers: VecDeque<Transfer>,
    /// First byte not yet requested.
    pub(super) asked: u32,
    pub(super) r2t_sn: u32,
    /// The outcome is settled, but data on their way are awaited first (R138).
    pub(super) failure: Option<Fault>,
}

/// A range of data requested with one R2T.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) ttt: Ttt,
    pub(super) end: u32,
    pub(super) next_data_sn: u32,
}
