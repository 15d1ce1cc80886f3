//! One struct per PDU (RFC 7143 section 11). Fields carry the RFC's names; reserved fields are left out.
//!
//! Lengths (TotalAHSLength, DataSegmentLength) are not fields: they follow from the content. Digests belong to the
//! connection, not to the PDU ([`crate::iscsi::framer`], [`crate::iscsi::sendq`]).
//!
//! [`Pdu::parse`] takes any bytes and never panics; of the PDU kinds only a SCSI command with additional header segments
//! may allocate. Reserved bits are ignored, reserved codes are errors (R141). [`Pdu::encode`] writes what `parse` reads;
//! the one thing it asks of its caller is a data segment below 2^24 bytes (checked in debug builds).

mod command;
mod control;
mod header;
mod login;
mod task;
mod text;
mod transfer;

pub use command::{AHS_MAX, Ahs, Cdb, ScsiCommand, ScsiResponse, TaskAttribute};
pub use control::{AsyncMessage, LogoutRequest, LogoutResponse, NopIn, NopOut, Reject, reject};
pub use header::{BHS_LEN, ahs_len, data_len, opcode_of, padding};
pub use login::{LoginRequest, LoginResponse, Stage};
pub use task::{TaskManagementRequest, TaskManagementResponse, tmf};
pub use text::{TextRequest, TextResponse};
pub use transfer::{DataIn, DataOut, R2t, SnackRequest};

use super::{CmdSn, Itt, Payload, Receiver, StatSn, WireError};
use header::View;

/// The C bit of login and text PDUs.
const CONTINUE: u8 = 0x40;

/// Opcodes (section 11.2.1.2).
#[expect(missing_docs, reason = "the RFC's names say it")]
pub mod opcode {
    pub const NOP_OUT: u8 = 0x00;
    pub const SCSI_COMMAND: u8 = 0x01;
    pub const TASK_MANAGEMENT_REQUEST: u8 = 0x02;
    pub const LOGIN_REQUEST: u8 = 0x03;
    pub const TEXT_REQUEST: u8 = 0x04;
    pub const DATA_OUT: u8 = 0x05;
    pub const LOGOUT_REQUEST: u8 = 0x06;
    pub const SNACK_REQUEST: u8 = 0x10;
    pub const NOP_IN: u8 = 0x20;
    pub const SCSI_RESPONSE: u8 = 0x21;
    pub const TASK_MANAGEMENT_RESPONSE: u8 = 0x22;
    pub const LOGIN_RESPONSE: u8 = 0x23;
    pub const TEXT_RESPONSE: u8 = 0x24;
    pub const DATA_IN: u8 = 0x25;
    pub const LOGOUT_RESPONSE: u8 = 0x26;
    pub const R2T: u8 = 0x31;
    pub const ASYNC_MESSAGE: u8 = 0x32;
    pub const REJECT: u8 = 0x3f;

    /// Which side receives PDUs of this opcode; none if it is unknown or vendor-specific.
    #[must_use]
    pub const fn receiver(opcode: u8) -> Option<crate::iscsi::Receiver> {
        match opcode {
            NOP_OUT..=LOGOUT_REQUEST | SNACK_REQUEST => Some(crate::iscsi::Receiver::Target),
            NOP_IN..=LOGOUT_RESPONSE | R2T | ASYNC_MESSAGE | REJECT => {
                Some(crate::iscsi::Receiver::Initiator)
            }
            _ => None,
        }
    }
}

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

impl Pdu {
    /// Makes a PDU of its parts: the basic header, the additional header segments and the data segment without padding.
    /// The lengths that the header itself states are not looked at.
    ///
    /// # Errors
    /// [`WireError::Opcode`] for an opcode that is unknown or of the wrong direction (R142), [`WireError::Field`] for
    /// reserved codes and impossible fields, [`WireError::Ahs`] for additional header segments that do not parse or do
    /// not belong to the opcode.
    pub fn parse(
        receiver: Receiver,
        header: &[u8; BHS_LEN],
        ahs: &[u8],
        data: Payload,
    ) -> Result<Self, WireError> {
        let code = opcode_of(header);
        if opcode::receiver(code) != Some(receiver) {
            return Err(WireError::Opcode(code));
        }
        let h = View(header);
        if code == opcode::SCSI_COMMAND {
            return task_tag(h).and_then(|()| ScsiCommand::parse(h, ahs, data)).map(Self::ScsiCommand);
        }
        if !ahs.is_empty() {
            return Err(WireError::Ahs);
        }
        match receiver {
            Receiver::Target => Self::parse_request(code, h, data),
            Receiver::Initiator => Self::parse_response(code, h, data),
        }
    }

    fn parse_request(code: u8, h: View<'_>, data: Payload) -> Result<Self, WireError> {
        if !matches!(code, opcode::NOP_OUT | opcode::LOGIN_REQUEST | opcode::SNACK_REQUEST) {
            task_tag(h)?;
        }
        Ok(match code {
            opcode::NOP_OUT => Self::NopOut(NopOut::parse(h, data)),
            opcode::LOGIN_REQUEST => Self::LoginRequest(LoginRequest::parse(h, data)?),
            opcode::TEXT_REQUEST => Self::TextRequest(TextRequest::parse(h, data)?),
            opcode::DATA_OUT => Self::DataOut(DataOut::parse(h, data)),
            _ if !data.is_empty() => return Err(WireError::Field("data segment length")),
            opcode::TASK_MANAGEMENT_REQUEST => Self::TaskManagementRequest(TaskManagementRequest::parse(h)),
            opcode::LOGOUT_REQUEST => Self::LogoutRequest(LogoutRequest::parse(h)?),
            opcode::SNACK_REQUEST => Self::SnackRequest(SnackRequest::parse(h)?),
            _ => return Err(WireError::Opcode(code)),
        })
    }

    fn parse_response(code: u8, h: View<'_>, data: Payload) -> Result<Self, WireError> {
        Ok(match code {
            opcode::DATA_IN => Self::DataIn(DataIn::parse(h, data)),
            opcode::SCSI_RESPONSE => Self::ScsiResponse(ScsiResponse::parse(h, data)),
            opcode::NOP_IN => Self::NopIn(NopIn::parse(h, data)),
            opcode::LOGIN_RESPONSE => Self::LoginResponse(LoginResponse::parse(h, data)?),
            opcode::TEXT_RESPONSE => Self::TextResponse(TextResponse::parse(h, data)?),
            opcode::ASYNC_MESSAGE => Self::AsyncMessage(AsyncMessage::parse(h, data)),
            opcode::REJECT => Self::Reject(Reject::parse(h, data)),
            _ if !data.is_empty() => return Err(WireError::Field("data segment length")),
            opcode::TASK_MANAGEMENT_RESPONSE => {
                Self::TaskManagementResponse(TaskManagementResponse::parse(h))
            }
            opcode::LOGOUT_RESPONSE => Self::LogoutResponse(LogoutResponse::parse(h)),
            opcode::R2T => Self::R2t(R2t::parse(h)?),
            _ => return Err(WireError::Opcode(code)),
        })
    }

    /// The basic header, with all lengths filled in, and the additional header segments. The data segment is
    /// [`Pdu::data`]; padding and digests are left to the sender.
    #[must_use]
    pub fn encode(&self) -> ([u8; BHS_LEN], Ahs) {
        let header = match self {
            Self::ScsiCommand(pdu) => {
                let (header, ahs) = pdu.emit();
                return (header.finish(ahs.len(), pdu.data.len()), ahs);
            }
            Self::NopOut(pdu) => pdu.emit(),
            Self::TaskManagementRequest(pdu) => pdu.emit(),
            Self::LoginRequest(pdu) => pdu.emit(),
            Self::TextRequest(pdu) => pdu.emit(),
            Self::DataOut(pdu) => pdu.emit(),
            Self::LogoutRequest(pdu) => pdu.emit(),
            Self::SnackRequest(pdu) => pdu.emit(),
            Self::NopIn(pdu) => pdu.emit(),
            Self::ScsiResponse(pdu) => pdu.emit(),
            Self::TaskManagementResponse(pdu) => pdu.emit(),
            Self::LoginResponse(pdu) => pdu.emit(),
            Self::TextResponse(pdu) => pdu.emit(),
            Self::DataIn(pdu) => pdu.emit(),
            Self::LogoutResponse(pdu) => pdu.emit(),
            Self::R2t(pdu) => pdu.emit(),
            Self::AsyncMessage(pdu) => pdu.emit(),
            Self::Reject(pdu) => pdu.emit(),
        };
        (header.finish(0, self.data().len()), Ahs::new())
    }

    /// The data segment; empty for PDUs that have none.
    #[must_use]
    pub const fn data(&self) -> &Payload {
        static NOTHING: Payload = Payload::new();
        match self {
            Self::NopOut(pdu) => &pdu.data,
            Self::ScsiCommand(pdu) => &pdu.data,
            Self::LoginRequest(pdu) => &pdu.data,
            Self::TextRequest(pdu) => &pdu.data,
            Self::DataOut(pdu) => &pdu.data,
            Self::NopIn(pdu) => &pdu.data,
            Self::ScsiResponse(pdu) => &pdu.data,
            Self::LoginResponse(pdu) => &pdu.data,
            Self::TextResponse(pdu) => &pdu.data,
            Self::DataIn(pdu) => &pdu.data,
            Self::AsyncMessage(pdu) => &pdu.data,
            Self::Reject(pdu) => &pdu.data,
            Self::TaskManagementRequest(_)
            | Self::LogoutRequest(_)
            | Self::SnackRequest(_)
            | Self::TaskManagementResponse(_)
            | Self::LogoutResponse(_)
            | Self::R2t(_) => &NOTHING,
        }
    }

    /// The opcode.
    #[must_use]
    pub const fn opcode(&self) -> u8 {
        match self {
            Self::NopOut(_) => opcode::NOP_OUT,
            Self::ScsiCommand(_) => opcode::SCSI_COMMAND,
            Self::TaskManagementRequest(_) => opcode::TASK_MANAGEMENT_REQUEST,
            Self::LoginRequest(_) => opcode::LOGIN_REQUEST,
            Self::TextRequest(_) => opcode::TEXT_REQUEST,
            Self::DataOut(_) => opcode::DATA_OUT,
            Self::LogoutRequest(_) => opcode::LOGOUT_REQUEST,
            Self::SnackRequest(_) => opcode::SNACK_REQUEST,
            Self::NopIn(_) => opcode::NOP_IN,
            Self::ScsiResponse(_) => opcode::SCSI_RESPONSE,
            Self::TaskManagementResponse(_) => opcode::TASK_MANAGEMENT_RESPONSE,
            Self::LoginResponse(_) => opcode::LOGIN_RESPONSE,
            Self::TextResponse(_) => opcode::TEXT_RESPONSE,
            Self::DataIn(_) => opcode::DATA_IN,
            Self::LogoutResponse(_) => opcode::LOGOUT_RESPONSE,
            Self::R2t(_) => opcode::R2T,
            Self::AsyncMessage(_) => opcode::ASYNC_MESSAGE,
            Self::Reject(_) => opcode::REJECT,
        }
    }

    /// The initiator task tag; [`Itt::NONE`] for PDUs that belong to no task.
    #[must_use]
    pub const fn itt(&self) -> Itt {
        match self {
            Self::NopOut(pdu) => pdu.itt,
            Self::ScsiCommand(pdu) => pdu.itt,
            Self::TaskManagementRequest(pdu) => pdu.itt,
            Self::LoginRequest(pdu) => pdu.itt,
            Self::TextRequest(pdu) => pdu.itt,
            Self::DataOut(pdu) => pdu.itt,
            Self::LogoutRequest(pdu) => pdu.itt,
            Self::SnackRequest(pdu) => pdu.itt,
            Self::NopIn(pdu) => pdu.itt,
            Self::ScsiResponse(pdu) => pdu.itt,
            Self::TaskManagementResponse(pdu) => pdu.itt,
            Self::LoginResponse(pdu) => pdu.itt,
            Self::TextResponse(pdu) => pdu.itt,
            Self::DataIn(pdu) => pdu.itt,
            Self::LogoutResponse(pdu) => pdu.itt,
            Self::R2t(pdu) => pdu.itt,
            Self::AsyncMessage(_) | Self::Reject(_) => Itt::NONE,
        }
    }

    /// StatSN, ExpCmdSN and MaxCmdSN of a target's PDU; none for an initiator's. The StatSN of a Data-In without status
    /// is reserved: look at [`DataIn::has_status`] first.
    #[must_use]
    pub const fn target_numbers(&self) -> Option<(StatSn, CmdSn, CmdSn)> {
        Some(match self {
            Self::NopIn(pdu) => (pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn),
            Self::ScsiResponse(pdu) => (pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn),
            Self::TaskManagementResponse(pdu) => (pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn),
            Self::LoginResponse(pdu) => (pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn),
            Self::TextResponse(pdu) => (pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn),
            Self::DataIn(pdu) => (pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn),
            Self::LogoutResponse(pdu) => (pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn),
            Self::R2t(pdu) => (pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn),
            Self::AsyncMessage(pdu) => (pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn),
            Self::Reject(pdu) => (pdu.stat_sn, pdu.exp_cmd_sn, pdu.max_cmd_sn),
            Self::NopOut(_)
            | Self::ScsiCommand(_)
            | Self::TaskManagementRequest(_)
            | Self::LoginRequest(_)
            | Self::TextRequest(_)
            | Self::DataOut(_)
            | Self::LogoutRequest(_)
            | Self::SnackRequest(_) => return None,
        })
    }

    /// Whether a target's PDU takes a StatSN of its own (R112).
    #[must_use]
    pub fn takes_stat_sn(&self) -> bool {
        match self {
            Self::DataIn(data) => data.has_status,
            Self::NopIn(nop) => nop.itt != Itt::NONE,
            Self::ScsiResponse(_)
            | Self::TaskManagementResponse(_)
            | Self::LoginResponse(_)
            | Self::TextResponse(_)
            | Self::LogoutResponse(_)
            | Self::AsyncMessage(_)
            | Self::Reject(_) => true,
            Self::R2t(_)
            | Self::NopOut(_)
            | Self::ScsiCommand(_)
            | Self::TaskManagementRequest(_)
            | Self::LoginRequest(_)
            | Self::TextRequest(_)
            | Self::DataOut(_)
            | Self::LogoutRequest(_)
            | Self::SnackRequest(_) => false,
        }
    }

    /// ExpStatSN of an initiator's PDU; none for a target's.
    #[must_use]
    pub const fn exp_stat_sn(&self) -> Option<StatSn> {
        Some(match self {
            Self::NopOut(pdu) => pdu.exp_stat_sn,
            Self::ScsiCommand(pdu) => pdu.exp_stat_sn,
            Self::TaskManagementRequest(pdu) => pdu.exp_stat_sn,
            Self::LoginRequest(pdu) => pdu.exp_stat_sn,
            Self::TextRequest(pdu) => pdu.exp_stat_sn,
            Self::DataOut(pdu) => pdu.exp_stat_sn,
            Self::LogoutRequest(pdu) => pdu.exp_stat_sn,
            Self::SnackRequest(pdu) => pdu.exp_stat_sn,
            Self::NopIn(_)
            | Self::ScsiResponse(_)
            | Self::TaskManagementResponse(_)
            | Self::LoginResponse(_)
            | Self::TextResponse(_)
            | Self::DataIn(_)
            | Self::LogoutResponse(_)
            | Self::R2t(_)
            | Self::AsyncMessage(_)
            | Self::Reject(_) => return None,
        })
    }
}

/// Requests that start or continue a task must name it.
fn task_tag(h: View<'_>) -> Result<(), WireError> {
    if h.itt() == Itt::NONE { Err(WireError::Field("initiator task tag")) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
