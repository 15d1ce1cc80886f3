//! Data-Out, Data-In, Ready To Transfer and SNACK (RFC 7143 sections 11.7, 11.8 and 11.16).

use super::header::{Build, FINAL, View};
use super::opcode;
use crate::iscsi::{CmdSn, Itt, Lun, Payload, StatSn, Ttt, WireError};

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

impl DataOut {
    #[inline]
    pub(super) fn parse(h: View<'_>, data: Payload) -> Self {
        Self {
            final_: h.final_(),
            lun: h.lun(),
            itt: h.itt(),
            ttt: h.ttt(),
            exp_stat_sn: h.exp_stat_sn(),
            data_sn: h.u32(36),
            buffer_offset: h.u32(40),
            data,
        }
    }

    pub(super) fn emit(&self) -> Build {
        Build::new(opcode::DATA_OUT)
            .flag(1, FINAL, self.final_)
            .lun(self.lun)
            .itt(self.itt)
            .ttt(self.ttt)
            .u32(28, self.exp_stat_sn.0)
            .u32(36, self.data_sn)
            .u32(40, self.buffer_offset)
    }
}

impl DataIn {
    #[inline]
    pub(super) fn parse(h: View<'_>, data: Payload) -> Self {
        Self {
            final_: h.final_(),
            acknowledge: h.flag(1, 0x40),
            overflow: h.flag(1, 0x04),
            underflow: h.flag(1, 0x02),
            has_status: h.flag(1, 0x01),
            status: h.byte(3),
            lun: h.lun(),
            itt: h.itt(),
            ttt: h.ttt(),
            stat_sn: h.stat_sn(),
            exp_cmd_sn: h.exp_cmd_sn(),
            max_cmd_sn: h.max_cmd_sn(),
            data_sn: h.u32(36),
            buffer_offset: h.u32(40),
            residual: h.u32(44),
            data,
        }
    }

    pub(super) fn emit(&self) -> Build {
        Build::new(opcode::DATA_IN)
            .flag(1, FINAL, self.final_)
            .flag(1, 0x40, self.acknowledge)
            .flag(1, 0x04, self.overflow)
            .flag(1, 0x02, self.underflow)
            .flag(1, 0x01, self.has_status)
            .byte(3, self.status)
            .lun(self.lun)
            .itt(self.itt)
            .ttt(self.ttt)
            .response_numbers(self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn)
            .u32(36, self.data_sn)
            .u32(40, self.buffer_offset)
            .u32(44, self.residual)
    }
}

impl R2t {
    pub(super) fn parse(h: View<'_>) -> Result<Self, WireError> {
        let r2t = Self {
            lun: h.lun(),
            itt: h.itt(),
            ttt: h.ttt(),
            stat_sn: h.stat_sn(),
            exp_cmd_sn: h.exp_cmd_sn(),
            max_cmd_sn: h.max_cmd_sn(),
            r2t_sn: h.u32(36),
            buffer_offset: h.u32(40),
            desired_length: h.u32(44),
        };
        if r2t.ttt == Ttt::NONE {
            return Err(WireError::Field("target transfer tag"));
        }
        if r2t.desired_length == 0 {
            return Err(WireError::Field("desired data transfer length"));
        }
        Ok(r2t)
    }

    pub(super) fn emit(&self) -> Build {
        Build::new(opcode::R2T)
            .byte(1, FINAL)
            .lun(self.lun)
            .itt(self.itt)
            .ttt(self.ttt)
            .response_numbers(self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn)
            .u32(36, self.r2t_sn)
            .u32(40, self.buffer_offset)
            .u32(44, self.desired_length)
    }
}

impl SnackRequest {
    pub(super) fn parse(h: View<'_>) -> Result<Self, WireError> {
        let kind = h.byte(1) & 0x0f;
        if kind > 3 {
            return Err(WireError::Field("SNACK type"));
        }
        Ok(Self {
            kind,
            lun: h.lun(),
            itt: h.itt(),
            ttt: h.ttt(),
            exp_stat_sn: h.exp_stat_sn(),
            begin_run: h.u32(40),
            run_length: h.u32(44),
        })
    }

    pub(super) fn emit(&self) -> Build {
        Build::new(opcode::SNACK_REQUEST)
            .byte(1, FINAL | (self.kind & 0x0f))
            .lun(self.lun)
            .itt(self.itt)
            .ttt(self.ttt)
            .u32(28, self.exp_stat_sn.0)
            .u32(40, self.begin_run)
            .u32(44, self.run_length)
    }
}
