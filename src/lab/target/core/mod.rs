//! The RAM-disk target without sockets or clock: PDUs and times in, PDUs and deadlines out.
//!
//! # Contract
//! The driver tells of each transport connection with [`Target::accept`], gives every received PDU to
//! [`Target::handle`] together with the current time (which never goes back), tells of lost connections with
//! [`Target::closed`], and calls [`Target::handle_timeout`] at [`Target::next_deadline`]. After each call it takes outputs
//! with [`Target::poll`] until there are none, and does them in the order given for each connection.
//!
//! # Inside
//! - [`medium`]: the blocks.
//! - `unit`: what the disk answers to CDBs, its task set and reservations.
//! - `session`: one session: command numbering over all its connections, and its tasks.
//! - `login`: who may log in; reinstatement of sessions and connections.
//! - `task`: a SCSI command from arrival to status; `data`: its data both ways.
//! - `control`: NOP, text, logout; `tmf`: task management; `recovery`: tasks that outlive their connection.
//!
//! Tasks end with their connection, unless error recovery level 2 was agreed; the session lives while it has a connection.

mod control;
mod data;
mod login;
pub mod medium;
mod options;
mod recovery;
mod session;
mod task;
mod tmf;
mod unit;

pub use options::{Disk, Options, OptionsError, PortalAddress, SessionInfo};

use crate::iscsi::{Cid, CmdSn, Itt, Lun, Pdu, Reject, StatSn, Tsih, Ttt, reject};
use crate::login::{ConnectionParams, TargetLogin};
use session::{Arrival, Held, Order, Session};
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;
use unit::{TaskRef, Unit};

/// A transport connection; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ConnId(pub u64);

/// Something to do on a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send this.
    Send(Pdu),
    /// Login is over: these limits and digests hold from the next PDU on, both ways.
    FullFeature(ConnectionParams),
    /// Send what is queued, then close.
    Close,
    /// Drop the connection at once.
    Reset,
}

/// A RAM-disk target.
#[derive(Debug)]
pub struct Target {
    options: Options,
    units: Vec<Unit>,
    sessions: BTreeMap<Tsih, Session>,
    conns: BTreeMap<ConnId, Connection>,
    timers: BTreeMap<(Instant, u64), Timer>,
    outputs: VecDeque<(ConnId, Output)>,
    /// Tasks whose turn has come.
    ready: VecDeque<TaskRef>,
    /// The last number given to a connection, timer or task.
    serial: u64,
    last_tsih: u16,
}

#[derive(Debug)]
struct Connection {
    portal: usize,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Login(Box<TargetLogin>, Option<Place>),
    Full(Full),
}

/// Where a connection that logs in will belong.
#[derive(Clone, Copy, Debug)]
struct Place {
    tsih: Tsih,
    cid: Cid,
    joining: bool,
}

/// A connection in full feature phase.
#[derive(Debug)]
struct Full {
    tsih: Tsih,
    cid: Cid,
    params: ConnectionParams,
    stat_sn: StatSn,
    text: control::Text,
    /// The ping that waits for its answer.
    ping: Option<Ttt>,
}

/// Where a PDU came from.
#[derive(Clone, Copy, Debug)]
struct At {
    conn: ConnId,
    tsih: Tsih,
}

#[derive(Clone, Copy, Debug)]
enum Timer {
    /// The device is done with a task, recognised by its serial number.
    Device(TaskRef, u64),
    /// Time to ping.
    Ping(ConnId),
    /// A login that is not over by now never will be (R47).
    Login(ConnId),
    /// What was kept of a lost connection has not been asked for.
    Retained(Tsih, ConnId),
}

/// The numbers every PDU to the initiator carries.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    stat_sn: StatSn,
    exp_cmd_sn: CmdSn,
    max_cmd_sn: CmdSn,
}

impl Target {
    /// A target with zeroed disks and nobody logged in.
    ///
    /// # Errors
    /// The options contradict themselves.
    pub fn new(options: Options) -> Result<Self, OptionsError> {
        options.check()?;
        let units =
            options.disks.iter().map(|disk| Unit::new(disk.serial.clone(), disk.blocks, disk.block_size));
        Ok(Self {
            units: units.collect(),
            options,
            sessions: BTreeMap::new(),
            conns: BTreeMap::new(),
            timers: BTreeMap::new(),
            outputs: VecDeque::new(),
            ready: VecDeque::new(),
            serial: 0,
            last_tsih: 0,
        })
    }

    /// A transport connection to the portal with this index was made.
    pub fn accept(&mut self, portal: usize, now: Instant) -> ConnId {
        let conn = ConnId(self.next_serial());
        self.timers.insert((now + self.options.login_timeout, conn.0), Timer::Login(conn));
        let phase = Phase::Login(Box::new(TargetLogin::new()), None);
        self.conns.insert(conn, Connection { portal, phase });
        conn
    }

    /// A PDU arrived. Connections already given up are ignored.
    pub fn handle(&mut self, conn: ConnId, pdu: Pdu, now: Instant) {
        match self.conns.get(&conn).map(|connection| &connection.phase) {
            None => return,
            Some(Phase::Login(..)) => self.login(conn, pdu, now),
            Some(Phase::Full(full)) => {
                let at = At { conn, tsih: full.tsih };
                self.full_feature(at, pdu, now);
            }
        }
        self.run(now);
    }

    /// A PDU arrived that the framer refused but survived, such as one with a bad data digest.
    pub fn handle_rejectable(&mut self, conn: ConnId, header: [u8; 48], reason: u8, now: Instant) {
        let Some(Connection { phase: Phase::Full(full), .. }) = self.conns.get(&conn) else {
            self.drop_connection(conn, Output::Reset, now);
            return;
        };
        let at = At { conn, tsih: full.tsih };
        self.reject(conn, reason, &header);
        if reason == reject::DATA_DIGEST {
            self.data_lost(at, &header, now);
        }
        self.run(now);
    }

    /// A transport connection is gone.
    pub fn closed(&mut self, conn: ConnId, now: Instant) {
        self.forget_connection(conn, now);
        self.run(now);
    }

    /// When [`Target::handle_timeout`] is next wanted.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now {
                break;
            }
            match entry.remove() {
                Timer::Device(task, serial) => self.device_done(task, serial),
                Timer::Ping(conn) => self.ping(conn, now),
                Timer::Login(conn) => self.login_overdue(conn, now),
                Timer::Retained(tsih, conn) => self.retained(tsih, conn),
            }
        }
        self.run(now);
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<(ConnId, Output)> {
        self.outputs.pop_front()
    }

    /// The sessions there are, by handle.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.sessions.iter().map(|(tsih, session)| session.info(*tsih)).collect()
    }

    /// Time every command spends in the device, from now on.
    pub fn set_delay(&mut self, delay: std::time::Duration) {
        self.options.delay = delay;
    }

    /// The blocks of a unit, for tests.
    pub fn medium(&mut self, unit: usize) -> Option<&mut medium::Medium> {
        self.units.get_mut(unit).map(|unit| &mut unit.medium)
    }

    /// Drops a connection from the target's side.
    pub fn kick(&mut self, conn: ConnId, now: Instant) {
        self.drop_connection(conn, Output::Reset, now);
        self.run(now);
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Begins tasks until none is ready; each may make others ready.
    fn run(&mut self, now: Instant) {
        while let Some(task) = self.ready.pop_front() {
            self.begin(task, now);
        }
    }

    fn keeps_tasks(&self, tsih: Tsih) -> bool {
        self.sessions.get(&tsih).is_some_and(Session::keeps_tasks)
    }

    fn full_feature(&mut self, at: At, pdu: Pdu, now: Instant) {
        let acknowledged = exp_stat_sn(&pdu).filter(|_| self.keeps_tasks(at.tsih));
        if let (Some(exp_stat_sn), Some(session)) = (acknowledged, self.sessions.get_mut(&at.tsih)) {
            session.acknowledged(at.conn, exp_stat_sn);
        }
        match pdu {
            Pdu::ScsiCommand(command) => self.scsi_command(at, command, now),
            Pdu::DataOut(data) => self.data_out(at, data, now),
            Pdu::NopOut(ref nop) => self.in_order(at, nop.cmd_sn, nop.immediate, Arrival::Control(pdu), now),
            Pdu::TextRequest(ref text) => {
                self.in_order(at, text.cmd_sn, text.immediate, Arrival::Control(pdu), now);
            }
            Pdu::TaskManagementRequest(ref tmf) => {
                self.in_order(at, tmf.cmd_sn, tmf.immediate, Arrival::Control(pdu), now);
            }
            Pdu::LogoutRequest(ref logout) => {
                self.in_order(at, logout.cmd_sn, logout.immediate, Arrival::Control(pdu), now);
            }
            // Data that have arrived: nothing is kept for them.
            Pdu::SnackRequest(snack) if snack.kind == DATA_ACK && self.keeps_tasks(at.tsih) => {}
            Pdu::SnackRequest(snack) => {
                self.reject_pdu(at.conn, reject::SNACK, 0x10, true, snack.itt, snack.lun);
            }
            // A second login on a connection (R15), or an opcode of the other role (R142).
            Pdu::LoginRequest(_)
            | Pdu::NopIn(_)
            | Pdu::ScsiResponse(_)
            | Pdu::TaskManagementResponse(_)
            | Pdu::LoginResponse(_)
            | Pdu::TextResponse(_)
            | Pdu::DataIn(_)
            | Pdu::LogoutResponse(_)
            | Pdu::R2t(_)
            | Pdu::AsyncMessage(_)
            | Pdu::Reject(_) => self.drop_connection(at.conn, Output::Reset, now),
        }
    }

    /// Puts a request in its place in the session's order (R94, R96).
    fn in_order(&mut self, at: At, cmd_sn: CmdSn, immediate: bool, what: Arrival, now: Instant) {
        let Some(session) = self.sessions.get_mut(&at.tsih) else { return };
        match session.order(cmd_sn, immediate) {
            Order::Ignore => {}
            Order::Hold => session.hold(cmd_sn, Held { conn: at.conn, what }),
            Order::Now if immediate => self.deliver(at, what, now),
            Order::Now => {
                session.exp_cmd_sn = cmd_sn.next();
                self.deliver(at, what, now);
                self.deliver_held(at.tsih, now);
            }
        }
    }

    fn deliver_held(&mut self, tsih: Tsih, now: Instant) {
        while let Some(held) = self.sessions.get_mut(&tsih).and_then(Session::next_held) {
            self.deliver(At { conn: held.conn, tsih }, held.what, now);
        }
        self.tmfs_complete(tsih);
    }

    fn deliver(&mut self, at: At, what: Arrival, now: Instant) {
        match what {
            Arrival::Task(itt) => self.enter(TaskRef { tsih: at.tsih, itt }),
            Arrival::Control(pdu) => self.control(at, pdu, now),
            Arrival::Void => {}
        }
    }

    /// Sends a PDU with the numbers of its connection and session filled in.
    fn send(&mut self, conn: ConnId, mut pdu: Pdu) {
        let Some(numbers) = self.numbers(conn) else { return };
        let Some(Connection { phase: Phase::Full(full), .. }) = self.conns.get_mut(&conn) else { return };
        if stamp(&mut pdu, numbers) {
            full.stat_sn = full.stat_sn.next();
        }
        self.outputs.push_back((conn, Output::Send(pdu)));
    }

    fn numbers(&self, conn: ConnId) -> Option<Numbers> {
        let Some(Connection { phase: Phase::Full(full), .. }) = self.conns.get(&conn) else { return None };
        let session = self.sessions.get(&full.tsih)?;
        Some(Numbers {
            stat_sn: full.stat_sn,
            exp_cmd_sn: session.exp_cmd_sn,
            max_cmd_sn: session.max_cmd_sn(),
        })
    }

    fn reject(&mut self, conn: ConnId, reason: u8, header: &[u8]) {
        let data = header.to_vec().into();
        self.send(conn, Pdu::Reject(Reject { reason, data, ..Reject::default() }));
    }

    /// Rejects a parsed PDU; the header returned is put together from what identifies it.
    fn reject_pdu(&mut self, conn: ConnId, reason: u8, opcode: u8, immediate: bool, itt: Itt, lun: Lun) {
        let mut header = [0; 48];
        let fields = [opcode | if immediate { 0x40 } else { 0 }, 0x80];
        let bytes = header
            .iter_mut()
            .zip(fields.into_iter().chain([0; 6]).chain(lun.0.to_be_bytes()).chain(itt.0.to_be_bytes()));
        bytes.for_each(|(to, from)| *to = from);
        self.reject(conn, reason, &header);
    }
}

/// Kind of a SNACK.
const DATA_ACK: u8 = 2;

/// What a request acknowledges.
fn exp_stat_sn(pdu: &Pdu) -> Option<StatSn> {
    match pdu {
        Pdu::ScsiCommand(p) => Some(p.exp_stat_sn),
        Pdu::DataOut(p) => Some(p.exp_stat_sn),
        Pdu::NopOut(p) => Some(p.exp_stat_sn),
        Pdu::TaskManagementRequest(p) => Some(p.exp_stat_sn),
        Pdu::TextRequest(p) => Some(p.exp_stat_sn),
        Pdu::LogoutRequest(p) => Some(p.exp_stat_sn),
        Pdu::SnackRequest(p) => Some(p.exp_stat_sn),
        Pdu::LoginRequest(_)
        | Pdu::NopIn(_)
        | Pdu::ScsiResponse(_)
        | Pdu::TaskManagementResponse(_)
        | Pdu::LoginResponse(_)
        | Pdu::TextResponse(_)
        | Pdu::DataIn(_)
        | Pdu::LogoutResponse(_)
        | Pdu::R2t(_)
        | Pdu::AsyncMessage(_)
        | Pdu::Reject(_) => None,
    }
}

/// Fills in the numbers; returns whether the PDU takes its StatSN (R112).
fn stamp(pdu: &mut Pdu, numbers: Numbers) -> bool {
    macro_rules! fill {
        ($pdu:ident, $takes:expr) => {{
            $pdu.stat_sn = numbers.stat_sn;
            $pdu.exp_cmd_sn = numbers.exp_cmd_sn;
            $pdu.max_cmd_sn = numbers.max_cmd_sn;
            $takes
        }};
    }
    match pdu {
        Pdu::NopIn(p) => fill!(p, p.itt != Itt::NONE),
        Pdu::ScsiResponse(p) => fill!(p, true),
        Pdu::TaskManagementResponse(p) => fill!(p, true),
        Pdu::TextResponse(p) => fill!(p, true),
        Pdu::DataIn(p) => fill!(p, p.has_status),
        Pdu::LogoutResponse(p) => fill!(p, true),
        Pdu::R2t(p) => fill!(p, false),
        Pdu::AsyncMessage(p) => fill!(p, true),
        Pdu::Reject(p) => fill!(p, true),
        Pdu::LoginResponse(_)
        | Pdu::NopOut(_)
        | Pdu::ScsiCommand(_)
        | Pdu::TaskManagementRequest(_)
        | Pdu::LoginRequest(_)
        | Pdu::TextRequest(_)
        | Pdu::DataOut(_)
        | Pdu::LogoutRequest(_)
        | Pdu::SnackRequest(_) => false,
    }
}
