//! Login towards a target (RFC 7143 section 6.3).
//!
//! [`InitiatorLogin::start`] gives the first request; each response goes in with [`InitiatorLogin::handle`], and what is to
//! be done comes out. The login names both nodes and settles the authentication in the security stage ([`Proof`]), then
//! offers all its keys in the operational stage: real targets refuse a leading login without SessionType, and ask for keys
//! that were not offered, so every key is offered and every proposal answered. Invariants: one request for each response
//! (R18); what is agreed is within what was offered (R57); the login ends after a bounded number of responses and bytes.

use super::chap;
use super::keys::{Id, Sender};
use super::negotiate::{Book, Fault};
use super::text::{TextOut, collect};
use super::{ConnectionParams, Negotiated, SessionParams};
use crate::iscsi::quirk::{Quirk, Quirks};
use crate::iscsi::text::{KeyList, TextCollector};
use crate::iscsi::{Cid, CmdSn, Isid, Itt, LoginRequest, LoginResponse, Pdu, Stage, StatSn, Tsih};

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
    /// The authentication failed on this side.
    #[error("authentication failed: {0}")]
    Unproved(String),
}

/// How the initiator proves itself to the target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Proof {
    /// Not at all.
    None,
    /// By CHAP, with secrets of its own.
    Chap(Box<chap::Client>),
    /// By words of somebody else (see [`super::relay`]): the first of them, and whether they ask for the next stage.
    Relayed(KeyList, bool),
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

/// Most responses in one login (R43).
const MOST_RESPONSES: u32 = 64;

/// Commands admitted by a login, below which it is a quirk.
const SMALL_WINDOW: u32 = 8;

/// iSCSI's well-known port, where an address names none (R238).
const DEFAULT_PORT: u16 = 3260;

impl From<Fault> for LoginError {
    fn from(fault: Fault) -> Self {
        Self::Negotiation { key: fault.key, why: fault.why }
    }
}

/// State machine of one login.
#[derive(Debug)]
pub struct InitiatorLogin {
    plan: LoginPlan,
    pub(super) stage: Stage,
    responses: u32,
    exp_stat_sn: StatSn,
    book: Book,
    text: TextCollector,
    pub(super) out: TextOut,
    pub(super) proof: Proof,
    /// Whether the last request asked for the next stage.
    asked: bool,
    quirks: Quirks,
}

/// What a response comes to before its keys are looked at.
pub(super) enum Received {
    /// Not a whole list of keys: this is to be done.
    Step(InitiatorStep),
    /// A whole list.
    Keys(KeyList),
}

impl InitiatorLogin {
    /// The task tag of a connection's login: the top of the tag space, so that a login that joins a session does not meet
    /// a tag that the session is using (R107).
    #[must_use]
    pub const fn itt(cid: Cid) -> Itt {
        Itt(0xfffe_0000 | cid.0 as u32)
    }

    /// The machine and the first PDU to send, without authentication.
    #[must_use]
    pub fn start(plan: LoginPlan) -> (Self, Pdu) {
        Self::start_with(plan, Proof::None)
    }

    /// The machine and the first PDU to send.
    #[must_use]
    pub fn start_with(plan: LoginPlan, proof: Proof) -> (Self, Pdu) {
        let limits = match &plan.kind {
            LoginKind::Leading => plan.offer.clone(),
            LoginKind::Joining { session, .. } => session.clone(),
            LoginKind::Discovery => SessionParams::default(),
        };
        let leading = !matches!(plan.kind, LoginKind::Joining { .. });
        let ConnectionParams { header_digest, data_digest, .. } = plan.connection;
        let mut login = Self {
            stage: Stage::Security,
            responses: 0,
            exp_stat_sn: StatSn(0),
            book: Book::new(Sender::Initiator, leading, &limits, header_digest, data_digest),
            text: TextCollector::new(),
            out: TextOut::default(),
            proof,
            asked: false,
            quirks: Quirks::default(),
            plan,
        };
        login.introduce();
        let first = login.request();
        (login, first)
    }

    /// Takes a login response.
    ///
    /// # Errors
    /// [`LoginError`]: close the connection.
    pub fn handle(&mut self, response: LoginResponse) -> Result<InitiatorStep, LoginError> {
        match self.receive(&response)? {
            Received::Step(step) => Ok(step),
            Received::Keys(keys) => {
                let done = self.take(&keys, &response)?;
                Ok(done.unwrap_or_else(|| InitiatorStep::Send(self.request())))
            }
        }
    }

    /// The algorithm with which this side has answered a challenge, if it has.
    #[must_use]
    pub const fn algorithm(&self) -> Option<chap::Algorithm> {
        match &self.proof {
            Proof::Chap(client) => client.algorithm(),
            Proof::None | Proof::Relayed(..) => None,
        }
    }

    /// What the target has shown so far.
    #[must_use]
    pub const fn quirks(&self) -> Quirks {
        self.quirks.and(self.book.quirks())
    }

    /// What the target says of its portal group.
    pub(super) fn declared_tpgt(&self) -> Option<u16> {
        self.book.declared(Id::TargetPortalGroupTag).and_then(|tag| tag.parse().ok())
    }

    /// Checks a response and collects its text.
    pub(super) fn receive(&mut self, response: &LoginResponse) -> Result<Received, LoginError> {
        self.responses += 1;
        if self.responses > MOST_RESPONSES {
            return Err(protocol("the login does not come to an end"));
        }
        match response.status_class {
            0 => {}
            1 => return self.redirect(response).map(Received::Step),
            class @ (2 | 3) => return Err(LoginError::Refused { class, detail: response.status_detail }),
            class => return Err(protocol(format!("unknown status class {class}"))),
        }
        self.check_header(response)?;
        self.exp_stat_sn = response.stat_sn.next();
        if !self.out.is_empty() {
            // Own list goes on; the target has nothing to say meanwhile (R26).
            if response.continue_ || response.transit || !response.data.is_empty() {
                return Err(protocol("the target interrupts a list of keys"));
            }
            return Ok(Received::Step(InitiatorStep::Send(self.request())));
        }
        let keys = collect(&mut self.text, &response.data, response.continue_).map_err(protocol)?;
        Ok(keys.map_or_else(|| Received::Step(InitiatorStep::Send(self.request())), Received::Keys))
    }

    /// Takes a whole list of keys, and goes on to the stage the target agreed to. None while the login goes on: then the
    /// next request is due.
    pub(super) fn take(
        &mut self,
        keys: &KeyList,
        response: &LoginResponse,
    ) -> Result<Option<InitiatorStep>, LoginError> {
        let keys = self.authenticate(keys)?;
        let answers = self.book.take(&keys, self.stage)?;
        if response.transit {
            if let Some(open) = answers.iter().find(|answer| !answer.optional) {
                return Err(protocol(format!(
                    "the target proposes {} and ends the stage at once",
                    open.name
                )));
            }
            if !answers.is_empty() {
                self.quirks.insert(Quirk::ProposalAtEnd);
            }
            self.check_proof()?;
            self.book.close_stage(self.stage)?;
            self.stage = response.next;
            if self.stage == Stage::FullFeature {
                return self.finish(response).map(Some);
            }
            self.offer();
        } else {
            if self.asked && self.stage == Stage::Operational && !answers.is_empty() {
                self.quirks.insert(Quirk::ExtraLoginRound);
            }
            let mut reply = KeyList::new();
            for answer in answers {
                reply.push(answer.name, answer.value);
            }
            self.out.add(&reply);
        }
        Ok(None)
    }

    /// Takes the keys of the authentication in the security stage, and gives the others.
    fn authenticate(&mut self, keys: &KeyList) -> Result<KeyList, LoginError> {
        if self.stage != Stage::Security || self.proof == Proof::None {
            return Ok(keys.clone());
        }
        let (words, others) = chap::split(keys);
        if let Proof::Chap(client) = &mut self.proof {
            let reply = client.take(&words).map_err(|failure| LoginError::Unproved(failure.to_string()))?;
            self.out.add(&reply);
        }
        Ok(others)
    }

    /// The security stage ends only when all that had to be proved is proved (R84).
    fn check_proof(&self) -> Result<(), LoginError> {
        match &self.proof {
            Proof::Chap(client) if self.stage == Stage::Security && !client.is_over() => {
                Err(LoginError::Unproved("the target ends the security stage before its time".to_owned()))
            }
            Proof::None | Proof::Chap(_) | Proof::Relayed(..) => Ok(()),
        }
    }

    /// R19, R23, R24, R26, R30: a response must belong to this login and go nowhere it was not asked to.
    fn check_header(&self, response: &LoginResponse) -> Result<(), LoginError> {
        if response.itt != Self::itt(self.plan.cid) {
            return Err(protocol("wrong task tag"));
        }
        if response.isid != self.plan.isid {
            return Err(protocol("wrong session id"));
        }
        if response.version_active != 0 {
            return Err(protocol("unknown version"));
        }
        if response.current != self.stage {
            return Err(protocol("wrong stage"));
        }
        if response.transit && (!self.asked || response.continue_ || response.next != self.next_stage()) {
            return Err(protocol("wrong change of stage"));
        }
        Ok(())
    }

    /// Status class 1: the response names the address to go to (R39).
    fn redirect(&mut self, response: &LoginResponse) -> Result<InitiatorStep, LoginError> {
        let keys =
            KeyList::parse(&response.data.contiguous()).map_err(|error| protocol(error.to_string()))?;
        let permanent = match response.status_detail {
            1 => false,
            2 => true,
            detail => return Err(protocol(format!("unknown redirection {detail}"))),
        };
        match keys.value("TargetAddress").map(str::trim) {
            Some(address) if !address.is_empty() => {
                // No tag belongs here, but a target that adds one means the same address.
                let (address, tag) =
                    address.split_once(',').map_or((address, None), |(a, tag)| (a, Some(tag)));
                if tag.is_some() {
                    self.quirks.insert(Quirk::RedirectionTag);
                }
                Ok(InitiatorStep::Redirect { address: with_port(address), permanent })
            }
            _ => Err(protocol("redirection without an address")),
        }
    }

    const fn next_stage(&self) -> Stage {
        match self.stage {
            Stage::Security => Stage::Operational,
            Stage::Operational | Stage::FullFeature => Stage::FullFeature,
        }
    }

    /// The names, and the methods of authentication (R21).
    fn introduce(&mut self) {
        let mut keys = KeyList::new();
        keys.push("InitiatorName", self.plan.initiator_name.clone());
        match self.plan.kind {
            LoginKind::Leading => keys.push("SessionType", "Normal"),
            LoginKind::Discovery => keys.push("SessionType", "Discovery"),
            LoginKind::Joining { .. } => {}
        }
        if !self.plan.target_name.is_empty() {
            keys.push("TargetName", self.plan.target_name.clone());
        }
        match &self.proof {
            Proof::None => self.propose(&mut keys, &[Id::AuthMethod]),
            Proof::Chap(client) => keys.push("AuthMethod", client.methods()),
            Proof::Relayed(words, _) => words.iter().for_each(|(name, value)| keys.push(name, value)),
        }
        self.out.add(&keys);
    }

    /// All keys of the operational stage (R41: those of the session on its first connection only).
    fn offer(&mut self) {
        let mut keys = KeyList::new();
        self.propose(&mut keys, &[Id::HeaderDigest, Id::DataDigest]);
        keys.push("MaxRecvDataSegmentLength", self.plan.connection.max_recv_data_segment.to_string());
        if self.plan.kind == LoginKind::Leading {
            let session = [
                Id::MaxConnections,
                Id::InitialR2T,
                Id::ImmediateData,
                Id::MaxBurstLength,
                Id::FirstBurstLength,
                Id::DefaultTime2Wait,
                Id::DefaultTime2Retain,
                Id::MaxOutstandingR2T,
                Id::DataPduInOrder,
                Id::DataSequenceInOrder,
                Id::ErrorRecoveryLevel,
            ];
            self.propose(&mut keys, &session);
        }
        self.out.add(&keys);
    }

    fn propose(&mut self, keys: &mut KeyList, ids: &[Id]) {
        for (name, value) in ids.iter().filter_map(|id| self.book.propose(*id)) {
            keys.push(name, value);
        }
    }

    /// The next request: what is left of the own list, and with its end the wish to move on (R27).
    pub(super) fn request(&mut self) -> Pdu {
        let (data, more) = self.out.piece();
        let stays = self.stage == Stage::Security
            && match &self.proof {
                Proof::None => false,
                Proof::Chap(client) => !client.wants_on(),
                Proof::Relayed(_, wish) => !wish,
            };
        self.asked = !more && !stays;
        let tsih = match self.plan.kind {
            LoginKind::Joining { tsih, .. } => tsih,
            LoginKind::Leading | LoginKind::Discovery => Tsih(0),
        };
        Pdu::LoginRequest(LoginRequest {
            transit: self.asked,
            continue_: more,
            current: self.stage,
            next: if self.asked { self.next_stage() } else { Stage::default() },
            version_max: 0,
            version_min: 0,
            isid: self.plan.isid,
            tsih,
            itt: Self::itt(self.plan.cid),
            cid: self.plan.cid,
            cmd_sn: self.plan.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            data,
        })
    }

    fn finish(&mut self, response: &LoginResponse) -> Result<InitiatorStep, LoginError> {
        self.book.check()?;
        let session = match &self.plan.kind {
            LoginKind::Joining { session, tsih } if *tsih == response.tsih => session.clone(),
            LoginKind::Joining { .. } => return Err(protocol("another session's handle")),
            LoginKind::Leading if response.tsih == Tsih(0) => return Err(protocol("no session handle")),
            LoginKind::Leading | LoginKind::Discovery => self.book.session(),
        };
        let declared = |id| self.book.declared(id).map(str::to_owned);
        let mut quirks = self.quirks();
        let admitted = response.max_cmd_sn.plus(1).since(self.plan.cmd_sn);
        if self.plan.kind == LoginKind::Leading && admitted < SMALL_WINDOW {
            quirks.insert(Quirk::SmallFirstWindow);
        }
        Ok(InitiatorStep::Done(Box::new(Negotiated {
            session,
            connection: self.book.connection(self.plan.connection.max_recv_data_segment),
            discovery: self.plan.kind == LoginKind::Discovery,
            initiator_name: self.plan.initiator_name.clone(),
            target_name: self.plan.target_name.clone(),
            target_alias: declared(Id::TargetAlias),
            tpgt: self.declared_tpgt(),
            isid: self.plan.isid,
            tsih: response.tsih,
            cid: self.plan.cid,
            cmd_sn: self.plan.cmd_sn,
            max_cmd_sn: response.max_cmd_sn,
            stat_sn: self.exp_stat_sn,
            quirks,
        })))
    }
}

fn protocol(what: impl Into<String>) -> LoginError {
    LoginError::Protocol(what.into())
}

/// `host:port`, with iSCSI's port filled in where none is given; IPv6 addresses stand in brackets (R238).
pub(super) fn with_port(address: &str) -> String {
    let host_end = address.rfind(']').map_or(0, |end| end + 1);
    let has_port = address.get(host_end..).is_some_and(|rest| rest.contains(':'));
    if has_port { address.to_owned() } else { format!("{address}:{DEFAULT_PORT}") }
}
