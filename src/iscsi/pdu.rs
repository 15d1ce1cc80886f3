//! One struct per PDU (RFC 7143 section 11). Fields carry the RFC's names; reserved fields are left out.
//!
//! Lengths (TotalAHSLength, DataSegmentLength) are not fields: they follow from the content. Digests belong to the
//! connection, not to the PDU ([`crate::iscsi::framer`], [`crate::iscsi::sendq`]).

use super::{Cid, CmdSn, Isid, Itt, Lun, Payload, StatSn, Tsih, Ttt};
use smallvec::SmallVec;

/// Any PDU of either direction.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "each variant is named after the struct that documents it")]
pub enum Pdu {
    NopOut(NopOut),
    ScsiCommand(ScsiCommand),
    TaskManagementRequest(TaskManagementRequest),
    LoginRequest(LoginRequest),
    TextRequest(TextRequest),
    DataOut(DataOut),
    LogoutRequest(LogoutRequest),
    SnackRequest(SnackRequest),
    NopIn(NopIn),
    ScsiResponse(ScsiResponse),
    TaskManagementResponse(TaskManagementResponse),
    LoginResponse(LoginResponse),
    TextResponse(TextResponse),
    DataIn(DataIn),
    LogoutResponse(LogoutResponse),
    R2t(R2t),
    AsyncMessage(AsyncMessage),
    Reject(Reject),
}

/// A command descriptor block: 16 bytes in the header, longer ones with an extended-CDB AHS.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cdb(pub SmallVec<[u8; 16]>);

/// Task attribute of a SCSI command (SAM-5 section 8.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TaskAttribute {
    /// No tag: one at a time.
    Untagged,
    /// May be reordered.
    #[default]
    Simple,
    /// Runs after all older and before all younger tasks.
    Ordered,
    /// Runs next.
    HeadOfQueue,
    /// Auto contingent allegiance.
    Aca,
}

/// SCSI Command (opcode 0x01, section 11.3).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScsiCommand {
    /// Immediate delivery: takes no CmdSN.
    pub immediate: bool,
    /// No unsolicited Data-Out PDUs follow.
    pub final_: bool,
    /// Data is expected to flow to the initiator.
    pub read: bool,
    /// Data is expected to flow to the target.
    pub write: bool,
    /// Task attribute.
    pub attribute: TaskAttribute,
    /// Logical unit.
    pub lun: Lun,
    /// Task tag.
    pub itt: Itt,
    /// Expected Data Transfer Length in bytes (of the write part if bidirectional).
    pub expected_length: u32,
    /// Command sequence number.
    pub cmd_sn: CmdSn,
    /// Acknowledges responses.
    pub exp_stat_sn: StatSn,
    /// What to do.
    pub cdb: Cdb,
    /// Expected bidirectional read data length AHS, if present.
    pub bidi_read_length: Option<u32>,
    /// Immediate data.
    pub data: Payload,
}

/// SCSI Response (opcode 0x21, section 11.4).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScsiResponse {
    /// Residual of the bidirectional read part: overflow.
    pub bidi_overflow: bool,
    /// Residual of the bidirectional read part: underflow.
    pub bidi_underflow: bool,
    /// More data than expected.
    pub overflow: bool,
    /// Less data than expected.
    pub underflow: bool,
    /// iSCSI service response; 0 = command completed at target.
    pub response: u8,
    /// SCSI status, valid with response 0.
    pub status: u8,
    /// Task tag.
    pub itt: Itt,
    /// SNACK tag, or zero.
    pub snack_tag: u32,
    /// Response sequence number.
    pub stat_sn: StatSn,
    /// Next command expected.
    pub exp_cmd_sn: CmdSn,
    /// Last command accepted.
    pub max_cmd_sn: CmdSn,
    /// Number of Data-In and R2T PDUs sent for the command.
    pub exp_data_sn: u32,
    /// Residual count of the bidirectional read part.
    pub bidi_residual: u32,
    /// Residual count.
    pub residual: u32,
    /// Two bytes of SenseLength, sense data, then response data; empty without sense.
    pub data: Payload,
}

/// Task Management Function Request (opcode 0x02, section 11.5).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TaskManagementRequest {
    /// Immediate delivery.
    pub immediate: bool,
    /// Function code: see [`tmf`].
    pub function: u8,
    /// Logical unit.
    pub lun: Lun,
    /// Own tag.
    pub itt: Itt,
    /// Tag of the task concerned.
    pub referenced_itt: Itt,
    /// Command sequence number.
    pub cmd_sn: CmdSn,
    /// Acknowledges responses.
    pub exp_stat_sn: StatSn,
    /// CmdSN of the referenced task.
    pub ref_cmd_sn: CmdSn,
    /// First data number not received, for reassignment.
    pub exp_data_sn: u32,
}

/// Task management function codes (section 11.5.1; RFC 7144 section 6.3).
#[expect(missing_docs, reason = "the RFC's names say it")]
pub mod tmf {
    pub const ABORT_TASK: u8 = 1;
    pub const ABORT_TASK_SET: u8 = 2;
    pub const CLEAR_ACA: u8 = 3;
    pub const CLEAR_TASK_SET: u8 = 4;
    pub const LOGICAL_UNIT_RESET: u8 = 5;
    pub const TARGET_WARM_RESET: u8 = 6;
    pub const TARGET_COLD_RESET: u8 = 7;
    pub const TASK_REASSIGN: u8 = 8;
    pub const QUERY_TASK: u8 = 9;
    pub const QUERY_TASK_SET: u8 = 10;
    pub const I_T_NEXUS_RESET: u8 = 11;
    pub const QUERY_ASYNC_EVENT: u8 = 12;

    /// Responses (section 11.6.1).
    pub const COMPLETE: u8 = 0;
    pub const TASK_DOES_NOT_EXIST: u8 = 1;
    pub const LUN_DOES_NOT_EXIST: u8 = 2;
    pub const TASK_STILL_ALLEGIANT: u8 = 3;
    pub const REASSIGN_UNSUPPORTED: u8 = 4;
    pub const NOT_SUPPORTED: u8 = 5;
    pub const AUTHORIZATION_FAILED: u8 = 6;
    pub const REJECTED: u8 = 255;
}

/// Task Management Function Response (opcode 0x22, section 11.6).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TaskManagementResponse {
    /// Outcome: see [`tmf`].
    pub response: u8,
    /// Tag of the request.
    pub itt: Itt,
    /// Response sequence number.
    pub stat_sn: StatSn,
    /// Next command expected.
    pub exp_cmd_sn: CmdSn,
    /// Last command accepted.
    pub max_cmd_sn: CmdSn,
    /// RFC 7144 additional information: response information, or zero.
    pub additional: u32,
}

/// SCSI Data-Out (opcode 0x05, section 11.7).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DataOut {
    /// Last PDU of its sequence.
    pub final_: bool,
    /// Logical unit, when the transfer tag is valid.
    pub lun: Lun,
    /// Task tag.
    pub itt: Itt,
    /// Transfer tag of the R2T answered, or none if unsolicited.
    pub ttt: Ttt,
    /// Acknowledges responses.
    pub exp_stat_sn: StatSn,
    /// Number of the PDU in its sequence.
    pub data_sn: u32,
    /// Where in the transfer the data belongs.
    pub buffer_offset: u32,
    /// The data.
    pub data: Payload,
}

/// SCSI Data-In (opcode 0x25, section 11.7).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DataIn {
    /// Last PDU of its sequence.
    pub final_: bool,
    /// An acknowledgement by SNACK is asked for (error recovery level 1 and up).
    pub acknowledge: bool,
    /// With status: more data than expected.
    pub overflow: bool,
    /// With status: less data than expected.
    pub underflow: bool,
    /// Status, StatSN and residual count are valid (the S bit).
    pub has_status: bool,
    /// SCSI status, if `has_status`.
    pub status: u8,
    /// Logical unit, when the transfer tag is valid.
    pub lun: Lun,
    /// Task tag.
    pub itt: Itt,
    /// Transfer tag, for data acknowledgements.
    pub ttt: Ttt,
    /// Response sequence number, if `has_status`; otherwise reserved.
    pub stat_sn: StatSn,
    /// Next command expected.
    pub exp_cmd_sn: CmdSn,
    /// Last command accepted.
    pub max_cmd_sn: CmdSn,
    /// Number of the PDU in its command.
    pub data_sn: u32,
    /// Where in the transfer the data belongs.
    pub buffer_offset: u32,
    /// Residual count, if `has_status`.
    pub residual: u32,
    /// The data.
    pub data: Payload,
}

/// Ready To Transfer (opcode 0x31, section 11.8).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct R2t {
    /// Logical unit.
    pub lun: Lun,
    /// Task tag.
    pub itt: Itt,
    /// Transfer tag to be returned with the data.
    pub ttt: Ttt,
    /// Next StatSN; not advanced.
    pub stat_sn: StatSn,
    /// Next command expected.
    pub exp_cmd_sn: CmdSn,
    /// Last command accepted.
    pub max_cmd_sn: CmdSn,
    /// Number of the R2T in its command.
    pub r2t_sn: u32,
    /// First byte wanted.
    pub buffer_offset: u32,
    /// Number of bytes wanted.
    pub desired_length: u32,
}

/// Asynchronous Message (opcode 0x32, section 11.9).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AsyncMessage {
    /// Logical unit, for SCSI events.
    pub lun: Lun,
    /// Response sequence number.
    pub stat_sn: StatSn,
    /// Next command expected.
    pub exp_cmd_sn: CmdSn,
    /// Last command accepted.
    pub max_cmd_sn: CmdSn,
    /// 0 SCSI event, 1 logout wanted, 2 connection dropped, 3 session dropped, 4 renegotiation, 5 tasks aborted.
    pub event: u8,
    /// Vendor code.
    pub vendor_code: u8,
    /// Event's parameters.
    pub parameters: [u16; 3],
    /// Sense and event data.
    pub data: Payload,
}

/// Text Request (opcode 0x04, section 11.10).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TextRequest {
    /// Immediate delivery.
    pub immediate: bool,
    /// Nothing more to negotiate from here.
    pub final_: bool,
    /// The key list goes on in the next PDU.
    pub continue_: bool,
    /// Logical unit, copied from the response.
    pub lun: Lun,
    /// Own tag.
    pub itt: Itt,
    /// Transfer tag copied from the response, or none.
    pub ttt: Ttt,
    /// Command sequence number.
    pub cmd_sn: CmdSn,
    /// Acknowledges responses.
    pub exp_stat_sn: StatSn,
    /// Keys.
    pub data: Payload,
}

/// Text Response (opcode 0x24, section 11.11).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TextResponse {
    /// The negotiation is over.
    pub final_: bool,
    /// The key list goes on in the next PDU.
    pub continue_: bool,
    /// Logical unit.
    pub lun: Lun,
    /// Tag of the request.
    pub itt: Itt,
    /// Transfer tag, if more is to come.
    pub ttt: Ttt,
    /// Response sequence number.
    pub stat_sn: StatSn,
    /// Next command expected.
    pub exp_cmd_sn: CmdSn,
    /// Last command accepted.
    pub max_cmd_sn: CmdSn,
    /// Keys.
    pub data: Payload,
}

/// Stage of a login (section 11.12.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Stage {
    /// Security negotiation (0).
    #[default]
    Security,
    /// Operational negotiation (1).
    Operational,
    /// Full feature phase (3).
    FullFeature,
}

/// Login Request (opcode 0x03, section 11.12); always immediate.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LoginRequest {
    /// Transit to the next stage.
    pub transit: bool,
    /// The key list goes on in the next PDU.
    pub continue_: bool,
    /// Current stage.
    pub current: Stage,
    /// Next stage, meaningful with `transit`.
    pub next: Stage,
    /// Highest version supported.
    pub version_max: u8,
    /// Lowest version supported.
    pub version_min: u8,
    /// Initiator's session id.
    pub isid: Isid,
    /// Zero for a new session.
    pub tsih: Tsih,
    /// Tag of the whole login.
    pub itt: Itt,
    /// Connection id.
    pub cid: Cid,
    /// Command sequence number.
    pub cmd_sn: CmdSn,
    /// Acknowledges login responses.
    pub exp_stat_sn: StatSn,
    /// Keys.
    pub data: Payload,
}

/// Login Response (opcode 0x23, section 11.13).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LoginResponse {
    /// Transit to the next stage.
    pub transit: bool,
    /// The key list goes on in the next PDU.
    pub continue_: bool,
    /// Current stage.
    pub current: Stage,
    /// Next stage, meaningful with `transit`.
    pub next: Stage,
    /// Highest version supported.
    pub version_max: u8,
    /// Version in use.
    pub version_active: u8,
    /// Initiator's session id.
    pub isid: Isid,
    /// The session's handle, in the last response.
    pub tsih: Tsih,
    /// Tag of the whole login.
    pub itt: Itt,
    /// Response sequence number.
    pub stat_sn: StatSn,
    /// Next command expected.
    pub exp_cmd_sn: CmdSn,
    /// Last command accepted.
    pub max_cmd_sn: CmdSn,
    /// 0 success, 1 redirection, 2 initiator error, 3 target error.
    pub status_class: u8,
    /// Detail within the class.
    pub status_detail: u8,
    /// Keys.
    pub data: Payload,
}

/// Logout Request (opcode 0x06, section 11.14).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogoutRequest {
    /// Immediate delivery.
    pub immediate: bool,
    /// 0 close the session, 1 close the connection, 2 remove the connection for recovery.
    pub reason: u8,
    /// Own tag.
    pub itt: Itt,
    /// The connection concerned, for reasons 1 and 2.
    pub cid: Cid,
    /// Command sequence number.
    pub cmd_sn: CmdSn,
    /// Acknowledges responses.
    pub exp_stat_sn: StatSn,
}

/// Logout Response (opcode 0x26, section 11.15).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogoutResponse {
    /// 0 done, 1 CID not found, 2 recovery not supported, 3 cleanup failed.
    pub response: u8,
    /// Tag of the request.
    pub itt: Itt,
    /// Response sequence number.
    pub stat_sn: StatSn,
    /// Next command expected.
    pub exp_cmd_sn: CmdSn,
    /// Last command accepted.
    pub max_cmd_sn: CmdSn,
    /// Seconds to wait before reconnecting.
    pub time2wait: u16,
    /// Seconds for which tasks are kept.
    pub time2retain: u16,
}

/// SNACK Request (opcode 0x10, section 11.16).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SnackRequest {
    /// 0 Data/R2T, 1 Status, 2 DataACK, 3 R-Data.
    pub kind: u8,
    /// Logical unit.
    pub lun: Lun,
    /// Task tag, or none.
    pub itt: Itt,
    /// Transfer or SNACK tag.
    pub ttt: Ttt,
    /// Acknowledges responses.
    pub exp_stat_sn: StatSn,
    /// First number wanted.
    pub begin_run: u32,
    /// How many; zero = all.
    pub run_length: u32,
}

/// Reject (opcode 0x3f, section 11.17).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reject {
    /// Why: see [`reject`].
    pub reason: u8,
    /// Response sequence number.
    pub stat_sn: StatSn,
    /// Next command expected.
    pub exp_cmd_sn: CmdSn,
    /// Last command accepted.
    pub max_cmd_sn: CmdSn,
    /// DataSN or R2TSN concerned, or zero.
    pub data_sn: u32,
    /// The header complained of.
    pub data: Payload,
}

/// Reject reasons (section 11.17.1).
#[expect(missing_docs, reason = "the RFC's names say it")]
pub mod reject {
    pub const DATA_DIGEST: u8 = 0x02;
    pub const SNACK: u8 = 0x03;
    pub const PROTOCOL_ERROR: u8 = 0x04;
    pub const NOT_SUPPORTED: u8 = 0x05;
    pub const IMMEDIATE_REJECTED: u8 = 0x06;
    pub const TASK_IN_PROGRESS: u8 = 0x07;
    pub const INVALID_DATA_ACK: u8 = 0x08;
    pub const INVALID_FIELD: u8 = 0x09;
    pub const LONG_OPERATION: u8 = 0x0a;
    pub const NEGOTIATION_RESET: u8 = 0x0b;
    pub const WAITING_FOR_LOGOUT: u8 = 0x0c;
}

/// NOP-Out (opcode 0x00, section 11.18).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NopOut {
    /// Immediate delivery.
    pub immediate: bool,
    /// Logical unit, copied from the NOP-In answered.
    pub lun: Lun,
    /// Tag of a ping, or none.
    pub itt: Itt,
    /// Tag of the NOP-In answered, or none.
    pub ttt: Ttt,
    /// Command sequence number.
    pub cmd_sn: CmdSn,
    /// Acknowledges responses.
    pub exp_stat_sn: StatSn,
    /// Ping data.
    pub data: Payload,
}

/// NOP-In (opcode 0x20, section 11.19).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NopIn {
    /// Logical unit, when the transfer tag is valid.
    pub lun: Lun,
    /// Tag of the ping answered, or none.
    pub itt: Itt,
    /// Tag to be answered with, or none.
    pub ttt: Ttt,
    /// Response sequence number; advanced only if a ping is answered.
    pub stat_sn: StatSn,
    /// Next command expected.
    pub exp_cmd_sn: CmdSn,
    /// Last command accepted.
    pub max_cmd_sn: CmdSn,
    /// Ping data returned.
    pub data: Payload,
}
