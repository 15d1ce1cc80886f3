//! Login towards a target.

use super::{ConnectionParams, Negotiated, SessionParams};
use crate::iscsi::{Cid, CmdSn, Isid, LoginResponse, Pdu, Tsih};

/// What kind of login.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LoginKind {
    /// First connection of a normal session.
    Leading,
    /// A further connection of the session with these parameters.
    Joining {
        /// The session's parameters, which this login cannot change.
        session: SessionParams,
        /// The session's handle.
        tsih: Tsih,
    },
    /// Discovery session.
    Discovery,
}

/// Everything a login needs to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoginPlan {
    /// Leading, joining or discovery.
    pub kind: LoginKind,
    /// InitiatorName.
    pub initiator_name: String,
    /// TargetName; empty for discovery.
    pub target_name: String,
    /// Session id.
    pub isid: Isid,
    /// Connection id.
    pub cid: Cid,
    /// CmdSN to carry: start value of a leading login, the session's current one when joining.
    pub cmd_sn: CmdSn,
    /// What to offer for the session (leading).
    pub offer: SessionParams,
    /// What to offer for the connection: digests wanted, MaxRecvDataSegmentLength declared.
    pub connection: ConnectionParams,
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InitiatorStep {
    /// Send this and wait for the answer.
    Send(Pdu),
    /// Full feature phase.
    Done(Box<Negotiated>),
    /// The target is elsewhere (status class 1): connect there and start again.
    Redirect {
        /// `host:port`, as the target gave it with the default port filled in.
        address: String,
        /// Whether to remember it.
        permanent: bool,
    },
}

/// Why a login failed. The connection is to be closed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LoginError {
    /// The target refused: status class and detail (RFC 7143 section 11.13.5).
    #[error("login refused by the target: {} ({class:02x}/{detail:02x})", status_text(*class, *detail))]
    Refused {
        /// Status class 2 (initiator error) or 3 (target error).
        class: u8,
        /// Detail within the class.
        detail: u8,
    },
    /// The peer broke the protocol.
    #[error("login protocol error: {0}")]
    Protocol(String),
    /// The negotiation could not be concluded.
    #[error("negotiation of {key} failed: {why}")]
    Negotiation {
        /// The key.
        key: String,
        /// Why.
        why: String,
    },
}

/// The RFC's words for a login status.
#[must_use]
pub fn status_text(class: u8, detail: u8) -> &'static str {
    match (class, detail) {
        (0, _) => "success",
        (1, 1) => "target moved temporarily",
        (1, 2) => "target moved permanently",
        (2, 0) => "initiator error",
        (2, 1) => "authentication failure",
        (2, 2) => "authorization failure",
        (2, 3) => "target not found",
        (2, 4) => "target removed",
        (2, 5) => "unsupported version",
        (2, 6) => "too many connections",
        (2, 7) => "missing parameter",
        (2, 8) => "cannot include in session",
        (2, 9) => "session type not supported",
        (2, 10) => "session does not exist",
        (2, 11) => "invalid during login",
        (3, 0) => "target error",
        (3, 1) => "service unavailable",
        (3, 2) => "out of resources",
        _ => "unknown status",
    }
}

/// State machine of one login.
#[derive(Debug)]
pub struct InitiatorLogin {
    plan: LoginPlan,
}

impl InitiatorLogin {
    /// The machine and the first PDU to send.
    #[must_use]
    pub fn start(plan: LoginPlan) -> (Self, Pdu) {
        todo!("{plan:?}")
    }

    /// Takes a login response.
    ///
    /// # Errors
    /// [`LoginError`]: close the connection.
    pub fn handle(&mut self, response: LoginResponse) -> Result<InitiatorStep, LoginError> {
        todo!("{response:?} {:?}", self.plan)
    }
}
