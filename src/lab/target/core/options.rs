//! What kind of target to be.

use super::ConnId;
use crate::iscsi::{Cid, CmdSn, Isid, Tsih};
use crate::login::SessionParams;
use std::time::Duration;

/// One disk; its unit number is its place in [`Options::disks`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disk {
    /// Number of blocks, at least 1.
    pub blocks: u64,
    /// Bytes of a block: 512 or 4096.
    pub block_size: u32,
    /// Serial number, at most 32 characters; the identity in VPD page 83h is made from it.
    pub serial: String,
}

/// A portal as initiators see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortalAddress {
    /// `host:port` told in discovery.
    pub address: String,
    /// Portal group tag.
    pub tpgt: u16,
}

/// Everything a target is told at birth.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Target's iSCSI name.
    pub name: String,
    /// TargetAlias.
    pub alias: Option<String>,
    /// Portals, by index.
    pub portals: Vec<PortalAddress>,
    /// Disks, by unit number.
    pub disks: Vec<Disk>,
    /// Limits of each session key; `max_connections` above 1 allows several connections per session, and
    /// `error_recovery_level` 2 keeps the tasks of a lost connection for `default_time2wait` and `default_time2retain`.
    pub limits: SessionParams,
    /// MaxRecvDataSegmentLength declared, in bytes.
    pub max_recv_data_segment: u32,
    /// Whether digests are agreed to.
    pub digests: bool,
    /// Commands a session may have in the target at a time.
    pub window: u32,
    /// Sessions at a time, discovery included.
    pub max_sessions: usize,
    /// Whether status GOOD comes in the last Data-In instead of a response of its own.
    pub phase_collapse: bool,
    /// Whether a new session starts with unit attention 29h/00h on every unit.
    pub unit_attention: bool,
    /// Time every command spends in the device.
    pub delay: Duration,
    /// Time a connection has for its login.
    pub login_timeout: Duration,
    /// Interval of the target's own pings; a connection that leaves one unanswered until the next is dropped.
    pub ping: Option<Duration>,
}

impl Default for Options {
    /// One 64 MiB disk, eight connections per session, what current targets offer.
    fn default() -> Self {
        Self {
            name: "iqn.2026-01.org.braid:lab".into(),
            alias: Some("Braid lab".into()),
            portals: Vec::new(),
            disks: vec![Disk { blocks: 131_072, block_size: 512, serial: "BRAIDLAB0".into() }],
            limits: SessionParams {
                max_connections: 8,
                initial_r2t: false,
                max_burst_length: 1 << 20,
                first_burst_length: 256 << 10,
                default_time2retain: 0,
                max_outstanding_r2t: 4,
                ..SessionParams::default()
            },
            max_recv_data_segment: 256 << 10,
            digests: true,
            window: 128,
            max_sessions: 64,
            phase_collapse: true,
            unit_attention: false,
            delay: Duration::ZERO,
            login_timeout: Duration::from_secs(15),
            ping: None,
        }
    }
}

/// Why options make no target.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OptionsError {
    /// A list that needs an entry has none.
    #[error("at least one {0} is needed")]
    Empty(&'static str),
    /// A disk that cannot be.
    #[error("disk {0}: needs blocks of 512 or 4096 bytes, and a serial number of 1 to 32 characters")]
    Disk(usize),
    /// A number out of its range.
    #[error("{0} is out of range")]
    Range(&'static str),
}

impl Options {
    pub(super) fn check(&self) -> Result<(), OptionsError> {
        if self.portals.is_empty() {
            return Err(OptionsError::Empty("portal"));
        }
        if self.disks.is_empty() || self.disks.len() > 256 {
            return Err(OptionsError::Empty("disk, and at most 256"));
        }
        for (number, disk) in self.disks.iter().enumerate() {
            let size = matches!(disk.block_size, 512 | 4096);
            let addressable = (1..1 << 50).contains(&disk.blocks);
            if !size || !addressable || !(1..=32).contains(&disk.serial.len()) {
                return Err(OptionsError::Disk(number));
            }
        }
        if !(1..=4096).contains(&self.window) {
            return Err(OptionsError::Range("window"));
        }
        let lengths = 512..1 << 24;
        let bursts = [self.limits.first_burst_length, self.limits.max_burst_length];
        if !bursts.is_sorted() || !bursts.iter().all(|burst| lengths.contains(burst)) {
            return Err(OptionsError::Range("burst length"));
        }
        if !lengths.contains(&self.max_recv_data_segment) {
            return Err(OptionsError::Range("max_recv_data_segment"));
        }
        if self.limits.max_outstanding_r2t == 0 || self.limits.max_connections == 0 {
            return Err(OptionsError::Range("number of R2Ts or connections"));
        }
        if !matches!(self.limits.error_recovery_level, 0 | 2) {
            return Err(OptionsError::Range("error recovery level"));
        }
        Ok(())
    }
}

/// A session as seen from outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionInfo {
    /// Handle.
    pub tsih: Tsih,
    /// Initiator's name.
    pub initiator: String,
    /// Session id.
    pub isid: Isid,
    /// Portal group tag.
    pub tpgt: u16,
    /// Whether it is a discovery session.
    pub discovery: bool,
    /// Its connections.
    pub connections: Vec<(Cid, ConnId)>,
    /// SCSI commands delivered so far, by connection, over its whole life.
    pub commands: Vec<(Cid, u64)>,
    /// Tasks not yet answered.
    pub tasks: usize,
    /// Next CmdSN expected.
    pub exp_cmd_sn: CmdSn,
    /// Requests that wait for an earlier CmdSN.
    pub held: usize,
}
