//! What a login results in.

use crate::iscsi::quirk::Quirks;
use crate::iscsi::{Cid, CmdSn, Isid, StatSn, Tsih};

/// Parameters of a session, agreed in its leading login (RFC 7143 section 13).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionParams {
    /// Connections allowed.
    pub max_connections: u16,
    /// Unsolicited data other than immediate data is forbidden.
    pub initial_r2t: bool,
    /// Immediate data is allowed.
    pub immediate_data: bool,
    /// Bytes in one Data-In or solicited Data-Out sequence.
    pub max_burst_length: u32,
    /// Bytes of unsolicited data per command, immediate data included.
    pub first_burst_length: u32,
    /// Seconds before reconnecting.
    pub default_time2wait: u16,
    /// Seconds for which tasks are kept.
    pub default_time2retain: u16,
    /// R2Ts outstanding per task.
    pub max_outstanding_r2t: u16,
    /// PDUs of a sequence come in order of offset.
    pub data_pdu_in_order: bool,
    /// Sequences come in order of offset.
    pub data_sequence_in_order: bool,
    /// Error recovery level.
    pub error_recovery_level: u8,
}

impl Default for SessionParams {
    /// The RFC's defaults, in force where a key was not negotiated.
    fn default() -> Self {
        Self {
            max_connections: 1,
            initial_r2t: true,
            immediate_data: true,
            max_burst_length: 262_144,
            first_burst_length: 65_536,
            default_time2wait: 2,
            default_time2retain: 20,
            max_outstanding_r2t: 1,
            data_pdu_in_order: true,
            data_sequence_in_order: true,
            error_recovery_level: 0,
        }
    }
}

/// MaxRecvDataSegmentLength of a side that has not declared it, in bytes (RFC 7143 section 13.12).
pub(super) const DEFAULT_SEGMENT: u32 = 8192;

/// Parameters of one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionParams {
    /// CRC32C after headers.
    pub header_digest: bool,
    /// CRC32C after data segments.
    pub data_digest: bool,
    /// Longest data segment this side accepts, in bytes.
    pub max_recv_data_segment: u32,
    /// Longest data segment the peer accepts, in bytes.
    pub max_send_data_segment: u32,
}

impl Default for ConnectionParams {
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            max_recv_data_segment: DEFAULT_SEGMENT,
            max_send_data_segment: DEFAULT_SEGMENT,
        }
    }
}

/// A finished login of one connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Negotiated {
    /// Of the session; for a joining connection those of its leading login.
    pub session: SessionParams,
    /// Of this connection.
    pub connection: ConnectionParams,
    /// Whether it is a discovery session.
    pub discovery: bool,
    /// Initiator's name.
    pub initiator_name: String,
    /// Target's name; empty in an unnamed discovery session.
    pub target_name: String,
    /// TargetAlias, if given.
    pub target_alias: Option<String>,
    /// Target portal group tag, if given.
    pub tpgt: Option<u16>,
    /// Session id.
    pub isid: Isid,
    /// Session handle.
    pub tsih: Tsih,
    /// Connection id.
    pub cid: Cid,
    /// Next CmdSN: of the initiator to send, for the target to expect (its ExpCmdSN).
    pub cmd_sn: CmdSn,
    /// MaxCmdSN as last told.
    pub max_cmd_sn: CmdSn,
    /// Next StatSN: for the initiator to expect (its ExpStatSN), of the target to send.
    pub stat_sn: StatSn,
    /// What the peer has shown.
    pub quirks: Quirks,
}
