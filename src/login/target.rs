//! Login towards an initiator.

use super::{Negotiated, SessionParams};
use crate::iscsi::{Cid, CmdSn, Isid, LoginRequest, Pdu, Tsih};

/// Who wants what: known after the first request, before anything is granted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Intent {
    /// InitiatorName.
    pub initiator_name: String,
    /// InitiatorAlias, if given.
    pub initiator_alias: Option<String>,
    /// TargetName; empty in an unnamed discovery session.
    pub target_name: String,
    /// Whether SessionType=Discovery was asked for; a missing SessionType means Normal.
    pub discovery: bool,
    /// Session id.
    pub isid: Isid,
    /// Zero for a new session or reinstatement.
    pub tsih: Tsih,
    /// Connection id.
    pub cid: Cid,
    /// The CmdSN that the first command will carry.
    pub cmd_sn: CmdSn,
}

/// What this side grants: the caller's answer to an [`Intent`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Limits for each session key; negotiation never goes beyond them. For a connection joining a session: that
    /// session's parameters.
    pub limits: SessionParams,
    /// Whether the connection joins an existing session (leading-only keys are then refused).
    pub joining: bool,
    /// MaxRecvDataSegmentLength declared by this side, in bytes.
    pub max_recv_data_segment: u32,
    /// Whether digests may be agreed to when the initiator prefers them.
    pub allow_digests: bool,
    /// TargetPortalGroupTag to return.
    pub tpgt: u16,
    /// TargetAlias to return.
    pub target_alias: Option<String>,
    /// Handle of the session (non-zero; ignored for discovery where the caller may still give one).
    pub tsih: Tsih,
    /// Number of commands to admit at first: MaxCmdSN = ExpCmdSN + window - 1.
    pub window: u32,
}

/// A refusal: status class and detail, and for class 1 the address to go to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Status class 1 to 3.
    pub class: u8,
    /// Detail within the class.
    pub detail: u8,
    /// TargetAddress for a redirection.
    pub address: Option<String>,
}

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TargetStep {
    /// Nothing to send: the rest of a continued text is awaited... or an empty answer was sent with `pdus`.
    Send(Vec<Pdu>),
    /// Decide on this, then call [`TargetLogin::accept`] or [`TargetLogin::refuse`].
    Decide(Box<Intent>),
    /// Send these; full feature phase then begins.
    Done(Vec<Pdu>, Box<Negotiated>),
    /// Send these and close the connection.
    Close(Vec<Pdu>),
}

/// State machine of one login.
#[derive(Debug)]
pub struct TargetLogin {
    rounds: u32,
}

impl TargetLogin {
    /// A connection that has sent nothing yet.
    #[must_use]
    pub fn new() -> Self {
        todo!()
    }

    /// Takes a login request. Rounds and text size are limited; what is over the limit ends in [`TargetStep::Close`].
    pub fn handle(&mut self, request: LoginRequest) -> TargetStep {
        todo!("{request:?} {}", self.rounds)
    }

    /// Takes any other PDU: nothing but login requests is legal (RFC 7143 section 4.2.4; R16).
    pub fn handle_other(&mut self, pdu: &Pdu) -> TargetStep {
        todo!("{pdu:?} {}", self.rounds)
    }

    /// Grants what [`TargetStep::Decide`] asked, and answers the request that is pending.
    pub fn accept(&mut self, offer: Offer) -> TargetStep {
        todo!("{offer:?} {}", self.rounds)
    }

    /// Refuses what [`TargetStep::Decide`] asked.
    pub fn refuse(&mut self, refusal: Refusal) -> TargetStep {
        todo!("{refusal:?} {}", self.rounds)
    }
}
