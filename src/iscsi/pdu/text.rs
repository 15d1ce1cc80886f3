//! Text request and response (RFC 7143 sections 11.10 and 11.11).

use super::header::{Build, FINAL, View};
use super::{CONTINUE, opcode};
use crate::iscsi::{CmdSn, Itt, Lun, Payload, StatSn, Ttt, WireError};

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

/// F with C promises the end of a negotiation whose text is not at its end.
fn check_flags(h: View<'_>) -> Result<(), WireError> {
    if h.final_() && h.flag(1, CONTINUE) { Err(WireError::Field("F and C")) } else { Ok(()) }
}

impl TextRequest {
    pub(super) fn parse(h: View<'_>, data: Payload) -> Result<Self, WireError> {
        check_flags(h)?;
        Ok(Self {
            immediate: h.immediate(),
            final_: h.final_(),
            continue_: h.flag(1, CONTINUE),
            lun: h.lun(),
            itt: h.itt(),
            ttt: h.ttt(),
            cmd_sn: h.cmd_sn(),
            exp_stat_sn: h.exp_stat_sn(),
            data,
        })
    }

    pub(super) fn emit(&self) -> Build {
        Build::request(opcode::TEXT_REQUEST, self.immediate)
            .flag(1, FINAL, self.final_)
            .flag(1, CONTINUE, self.continue_)
            .lun(self.lun)
            .itt(self.itt)
            .ttt(self.ttt)
            .request_numbers(self.cmd_sn, self.exp_stat_sn)
    }
}

impl TextResponse {
    pub(super) fn parse(h: View<'_>, data: Payload) -> Result<Self, WireError> {
        check_flags(h)?;
        Ok(Self {
            final_: h.final_(),
            continue_: h.flag(1, CONTINUE),
            lun: h.lun(),
            itt: h.itt(),
            ttt: h.ttt(),
            stat_sn: h.stat_sn(),
            exp_cmd_sn: h.exp_cmd_sn(),
            max_cmd_sn: h.max_cmd_sn(),
            data,
        })
    }

    pub(super) fn emit(&self) -> Build {
        Build::new(opcode::TEXT_RESPONSE)
            .flag(1, FINAL, self.final_)
            .flag(1, CONTINUE, self.continue_)
            .lun(self.lun)
            .itt(self.itt)
            .ttt(self.ttt)
            .response_numbers(self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn)
    }
}
