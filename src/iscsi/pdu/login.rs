//! Login request and response (RFC 7143 sections 11.12 and 11.13).

use super::header::{Build, View};
use super::{CONTINUE, opcode};
use crate::iscsi::{Cid, CmdSn, Isid, Itt, Payload, StatSn, Tsih, WireError};

/// The T bit.
const TRANSIT: u8 = 0x80;

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

impl Stage {
    const fn parse(code: u8) -> Result<Self, WireError> {
        Ok(match code & 3 {
            0 => Self::Security,
            1 => Self::Operational,
            3 => Self::FullFeature,
            _ => return Err(WireError::Field("login stage")), // R23
        })
    }

    const fn code(self) -> u8 {
        match self {
            Self::Security => 0,
            Self::Operational => 1,
            Self::FullFeature => 3,
        }
    }
}

/// The flag byte of both directions.
struct Flags {
    transit: bool,
    continue_: bool,
    current: Stage,
    next: Stage,
}

impl Flags {
    fn parse(h: View<'_>) -> Result<Self, WireError> {
        let transit = h.flag(1, TRANSIT);
        let current = Stage::parse(h.byte(1) >> 2)?;
        if current == Stage::FullFeature {
            return Err(WireError::Field("login stage"));
        }
        // R23: the next stage means something only together with T.
        let next = if transit { Stage::parse(h.byte(1))? } else { Stage::default() };
        let continue_ = h.flag(1, CONTINUE);
        if transit && continue_ {
            return Err(WireError::Field("T and C")); // R26
        }
        Ok(Self { transit, continue_, current, next })
    }

    fn byte(transit: bool, continue_: bool, current: Stage, next: Stage) -> u8 {
        let mut byte = current.code() << 2;
        if transit {
            byte |= TRANSIT | next.code();
        }
        if continue_ {
            byte |= CONTINUE;
        }
        byte
    }
}

impl LoginRequest {
    pub(super) fn parse(h: View<'_>, data: Payload) -> Result<Self, WireError> {
        let Flags { transit, continue_, current, next } = Flags::parse(h)?;
        Ok(Self {
            transit,
            continue_,
            current,
            next,
            version_max: h.byte(2),
            version_min: h.byte(3),
            isid: Isid(h.array(8)),
            tsih: Tsih(h.u16(14)),
            itt: h.itt(),
            cid: Cid(h.u16(20)),
            cmd_sn: h.cmd_sn(),
            exp_stat_sn: h.exp_stat_sn(),
            data,
        })
    }

    pub(super) fn emit(&self) -> Build {
        Build::request(opcode::LOGIN_REQUEST, true)
            .byte(1, Flags::byte(self.transit, self.continue_, self.current, self.next))
            .byte(2, self.version_max)
            .byte(3, self.version_min)
            .bytes(8, &self.isid.0)
            .u16(14, self.tsih.0)
            .itt(self.itt)
            .u16(20, self.cid.0)
            .request_numbers(self.cmd_sn, self.exp_stat_sn)
    }
}

impl LoginResponse {
    pub(super) fn parse(h: View<'_>, data: Payload) -> Result<Self, WireError> {
        let status_class = h.byte(36);
        // A refusal's flags are reserved or junk on real targets: only its status counts (section 11.13.5).
        let flags = match Flags::parse(h) {
            Err(_) if status_class != 0 => {
                Flags { transit: false, continue_: false, current: Stage::Security, next: Stage::Security }
            }
            flags => flags?,
        };
        Ok(Self {
            transit: flags.transit,
            continue_: flags.continue_,
            current: flags.current,
            next: flags.next,
            version_max: h.byte(2),
            version_active: h.byte(3),
            isid: Isid(h.array(8)),
            tsih: Tsih(h.u16(14)),
            itt: h.itt(),
            stat_sn: h.stat_sn(),
            exp_cmd_sn: h.exp_cmd_sn(),
            max_cmd_sn: h.max_cmd_sn(),
            status_class,
            status_detail: h.byte(37),
            data,
        })
    }

    pub(super) fn emit(&self) -> Build {
        Build::new(opcode::LOGIN_RESPONSE)
            .byte(1, Flags::byte(self.transit, self.continue_, self.current, self.next))
            .byte(2, self.version_max)
            .byte(3, self.version_active)
            .bytes(8, &self.isid.0)
            .u16(14, self.tsih.0)
            .itt(self.itt)
            .response_numbers(self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn)
            .byte(36, self.status_class)
            .byte(37, self.status_detail)
    }
}
