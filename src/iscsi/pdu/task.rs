//! Task management request and response (RFC 7143 sections 11.5 and 11.6).

use super::header::{Build, FINAL, View};
use super::opcode;
use crate::iscsi::{CmdSn, Itt, Lun, StatSn};

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

impl TaskManagementRequest {
    pub(super) fn parse(h: View<'_>) -> Self {
        Self {
            immediate: h.immediate(),
            function: h.byte(1) & 0x7f,
            lun: h.lun(),
            itt: h.itt(),
            referenced_itt: Itt(h.u32(20)),
            cmd_sn: h.cmd_sn(),
            exp_stat_sn: h.exp_stat_sn(),
            ref_cmd_sn: CmdSn(h.u32(32)),
            exp_data_sn: h.u32(36),
        }
    }

    pub(super) fn emit(&self) -> Build {
        Build::request(opcode::TASK_MANAGEMENT_REQUEST, self.immediate)
            .byte(1, FINAL | (self.function & 0x7f))
            .lun(self.lun)
            .itt(self.itt)
            .u32(20, self.referenced_itt.0)
            .request_numbers(self.cmd_sn, self.exp_stat_sn)
            .u32(32, self.ref_cmd_sn.0)
            .u32(36, self.exp_data_sn)
    }
}

impl TaskManagementResponse {
    pub(super) fn parse(h: View<'_>) -> Self {
        let [a, b, c] = h.array(8);
        Self {
            response: h.byte(2),
            itt: h.itt(),
            stat_sn: h.stat_sn(),
            exp_cmd_sn: h.exp_cmd_sn(),
            max_cmd_sn: h.max_cmd_sn(),
            additional: u32::from_be_bytes([0, a, b, c]),
        }
    }

    pub(super) fn emit(&self) -> Build {
        let [_, a, b, c] = self.additional.to_be_bytes();
        Build::new(opcode::TASK_MANAGEMENT_RESPONSE)
            .byte(1, FINAL)
            .byte(2, self.response)
            .bytes(8, &[a, b, c])
            .itt(self.itt)
            .response_numbers(self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn)
    }
}
