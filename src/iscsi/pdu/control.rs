//! What keeps a connection: NOP, logout, asynchronous messages, Reject (RFC 7143 sections 11.9, 11.14, 11.15, 11.17 to
//! 11.19).

use super::header::{Build, FINAL, View};
use super::opcode;
use crate::iscsi::{Cid, CmdSn, Itt, Lun, Payload, StatSn, Ttt, WireError};

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

impl NopOut {
    pub(super) fn parse(h: View<'_>, data: Payload) -> Self {
        Self {
            immediate: h.immediate(),
            lun: h.lun(),
            itt: h.itt(),
            ttt: h.ttt(),
            cmd_sn: h.cmd_sn(),
            exp_stat_sn: h.exp_stat_sn(),
            data,
        }
    }

    pub(super) fn emit(&self) -> Build {
        Build::request(opcode::NOP_OUT, self.immediate)
            .byte(1, FINAL)
            .lun(self.lun)
            .itt(self.itt)
            .ttt(self.ttt)
            .request_numbers(self.cmd_sn, self.exp_stat_sn)
    }
}

impl NopIn {
    pub(super) fn parse(h: View<'_>, data: Payload) -> Self {
        Self {
            lun: h.lun(),
            itt: h.itt(),
            ttt: h.ttt(),
            stat_sn: h.stat_sn(),
            exp_cmd_sn: h.exp_cmd_sn(),
            max_cmd_sn: h.max_cmd_sn(),
            data,
        }
    }

    pub(super) fn emit(&self) -> Build {
        Build::new(opcode::NOP_IN).byte(1, FINAL).lun(self.lun).itt(self.itt).ttt(self.ttt).response_numbers(
            self.stat_sn,
            self.exp_cmd_sn,
            self.max_cmd_sn,
        )
    }
}

impl LogoutRequest {
    pub(super) fn parse(h: View<'_>) -> Result<Self, WireError> {
        let reason = h.byte(1) & 0x7f;
        if reason > 2 {
            return Err(WireError::Field("logout reason"));
        }
        Ok(Self {
            immediate: h.immediate(),
            reason,
            itt: h.itt(),
            cid: Cid(h.u16(20)),
            cmd_sn: h.cmd_sn(),
            exp_stat_sn: h.exp_stat_sn(),
        })
    }

    pub(super) fn emit(&self) -> Build {
        Build::request(opcode::LOGOUT_REQUEST, self.immediate)
            .byte(1, FINAL | (self.reason & 0x7f))
            .itt(self.itt)
            .u16(20, self.cid.0)
            .request_numbers(self.cmd_sn, self.exp_stat_sn)
    }
}

impl LogoutResponse {
    pub(super) fn parse(h: View<'_>) -> Self {
        Self {
            response: h.byte(2),
            itt: h.itt(),
            stat_sn: h.stat_sn(),
            exp_cmd_sn: h.exp_cmd_sn(),
            max_cmd_sn: h.max_cmd_sn(),
            time2wait: h.u16(40),
            time2retain: h.u16(42),
        }
    }

    pub(super) fn emit(&self) -> Build {
        Build::new(opcode::LOGOUT_RESPONSE)
            .byte(1, FINAL)
            .byte(2, self.response)
            .itt(self.itt)
            .response_numbers(self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn)
            .u16(40, self.time2wait)
            .u16(42, self.time2retain)
    }
}

impl AsyncMessage {
    pub(super) fn parse(h: View<'_>, data: Payload) -> Self {
        Self {
            lun: h.lun(),
            stat_sn: h.stat_sn(),
            exp_cmd_sn: h.exp_cmd_sn(),
            max_cmd_sn: h.max_cmd_sn(),
            event: h.byte(36),
            vendor_code: h.byte(37),
            parameters: [h.u16(38), h.u16(40), h.u16(42)],
            data,
        }
    }

    pub(super) fn emit(&self) -> Build {
        let [first, second, third] = self.parameters;
        Build::new(opcode::ASYNC_MESSAGE)
            .byte(1, FINAL)
            .lun(self.lun)
            .itt(Itt::NONE)
            .response_numbers(self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn)
            .byte(36, self.event)
            .byte(37, self.vendor_code)
            .u16(38, first)
            .u16(40, second)
            .u16(42, third)
    }
}

impl Reject {
    pub(super) fn parse(h: View<'_>, data: Payload) -> Self {
        Self {
            reason: h.byte(2),
            stat_sn: h.stat_sn(),
            exp_cmd_sn: h.exp_cmd_sn(),
            max_cmd_sn: h.max_cmd_sn(),
            data_sn: h.u32(36),
            data,
        }
    }

    pub(super) fn emit(&self) -> Build {
        Build::new(opcode::REJECT)
            .byte(1, FINAL)
            .byte(2, self.reason)
            .itt(Itt::NONE)
            .response_numbers(self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn)
            .u32(36, self.data_sn)
    }
}
