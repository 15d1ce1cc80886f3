//! Login towards an initiator (RFC 7143 section 6.3).
//!
//! Requests go in with [`TargetLogin::handle`], one [`TargetStep`] comes out for each. The first whole key list leads to
//! [`TargetStep::Decide`]; nothing is granted before the caller has answered it with [`TargetLogin::accept`] or
//! [`TargetLogin::refuse`]. Any failure ends the login with a status and [`TargetStep::Close`] (R45). Invariants: one
//! response per request (R18); a stage is never left backwards; what the initiator left to defaults beyond
//! [`Offer::limits`] is proposed by this side before full feature phase; who must prove itself ([`TargetLogin::require`])
//! gets no further without (R89); rounds and text are bounded, so that a login cannot last for ever.

use super::chap::{self, Guard};
use super::initiator::status_text;
use super::keys::Sender;
use super::name;
use super::negotiate::{Book, Fault};
use super::params::{DEFAULT_SEGMENT, Negotiated, SessionParams};
use super::text::{TextOut, collect};
use crate::iscsi::quirk::{Quirk, Quirks};
use crate::iscsi::text::{KeyList, TextCollector, parse_list};
use crate::iscsi::{Cid, CmdSn, Isid, LoginRequest, LoginResponse, Payload, Pdu, Stage, StatSn, Tsih};

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

/// Most requests in one login. Far above what any real one takes, also with a key list in many pieces (R43).
const MOST_REQUESTS: u32 = 64;

/// A status class and detail (RFC 7143 section 11.13.5).
type Status = (u8, u8);
pub(super) const INITIATOR_ERROR: Status = (2, 0);
const AUTHENTICATION_FAILURE: Status = (2, 1);
const UNSUPPORTED_VERSION: Status = (2, 5);
const MISSING_PARAMETER: Status = (2, 7);
const SESSION_TYPE_UNSUPPORTED: Status = (2, 9);
const INVALID_DURING_LOGIN: Status = (2, 11);

/// How a login fails: what the initiator is told, and the reason for this side's log.
#[derive(Debug)]
pub(super) struct Failure {
    refusal: Refusal,
    why: String,
}

impl Failure {
    pub(super) fn new((class, detail): Status, why: impl Into<String>) -> Self {
        Self { refusal: Refusal { class, detail, address: None }, why: why.into() }
    }
}

/// Any fault of a negotiation is the initiator's error (R28).
impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::new(INITIATOR_ERROR, format!("{}: {}", fault.key, fault.why))
    }
}

impl From<chap::Failure> for Failure {
    fn from(failure: chap::Failure) -> Self {
        let status = match failure {
            chap::Failure::Malformed(_) => INITIATOR_ERROR,
            chap::Failure::Unproved(_) => AUTHENTICATION_FAILURE,
        };
        Self::new(status, format!("authentication: {failure}"))
    }
}

/// State machine of one login.
#[derive(Debug, Default)]
pub struct TargetLogin {
    requests: u32,
    pub(super) stage: Stage,
    /// The first request, without its text: what must stay constant.
    first: Option<LoginRequest>,
    stat_sn: StatSn,
    /// ExpCmdSN and MaxCmdSN as told in responses.
    window: Option<(CmdSn, CmdSn)>,
    text: TextCollector,
    pub(super) state: State,
    /// What the initiator has to pass, and the portal group tag to tell meanwhile.
    guard: Option<(Guard, u16)>,
    /// What somebody else has answered to the initiator's authentication ([`super::relay`]).
    pub(super) relayed: Relayed,
    failure: Option<String>,
}

/// How far an authentication has come that somebody else answers.
#[derive(Debug, Default)]
pub(super) struct Relayed {
    /// Whether a response was sent, and so the portal group tag told.
    pub(super) begun: bool,
    /// The last words, which go out with what is granted; none while it is not over.
    pub(super) last: Option<KeyList>,
}

#[derive(Debug, Default)]
pub(super) enum State {
    /// The first key list is not complete yet.
    #[default]
    Opening,
    /// The caller has to decide; the keys and the wish to move on wait.
    Deciding(Box<Intent>, KeyList, Option<Stage>),
    /// Somebody else's answer is out, and the initiator's is awaited; other keys wait.
    Relaying(Box<Intent>, KeyList),
    /// Granted; keys are exchanged.
    Negotiating(Box<Talk>),
    /// Over, well or badly.
    Ended,
}

/// The negotiation after the caller has accepted.
#[derive(Debug)]
pub(super) struct Talk {
    intent: Intent,
    offer: Offer,
    book: Book,
    /// Whether the authentication is behind.
    authenticated: bool,
    out: TextOut,
    /// Whether TargetPortalGroupTag was told.
    introduced: bool,
    /// What this side has declared as its MaxRecvDataSegmentLength.
    declared: Option<u32>,
    quirks: Quirks,
}

impl TargetLogin {
    /// A connection that has sent nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a login request. Rounds and text size are limited; what is over the limit ends in [`TargetStep::Close`].
    pub fn handle(&mut self, request: LoginRequest) -> TargetStep {
        self.step(|login| login.take(request))
    }

    /// Takes any other PDU: nothing but login requests is legal (RFC 7143 section 4.2.4; R16).
    pub fn handle_other(&mut self, _pdu: &Pdu) -> TargetStep {
        if self.first.is_none() {
            self.state = State::Ended;
            return TargetStep::Close(Vec::new());
        }
        self.step(|_| Err(Failure::new(INVALID_DURING_LOGIN, "a PDU that is not a login request")))
    }

    /// Why the login failed, once it has.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Tells the session's command numbers, for the responses to a connection that joins a session: ExpCmdSN, and
    /// MaxCmdSN in [`Offer::window`] as always. Without it both follow from the CmdSN of the login. Call it before
    /// [`TargetLogin::accept`].
    pub fn join_at(&mut self, exp_cmd_sn: CmdSn) {
        self.window = Some((exp_cmd_sn, exp_cmd_sn.minus(1)));
    }

    /// Wants a proof from whom [`TargetStep::Decide`] named, before anything is granted or refused: the same decision is
    /// asked for again once there is one. `tpgt` is told with the first answer (R40).
    pub fn require(&mut self, guard: Guard, tpgt: u16) -> TargetStep {
        self.step(|login| {
            login.guard = Some((guard, tpgt));
            login.prove()
        })
    }

    /// Grants what [`TargetStep::Decide`] asked, and answers the request that is pending.
    pub fn accept(&mut self, offer: Offer) -> TargetStep {
        self.step(|login| {
            let State::Deciding(intent, keys, wish) = std::mem::take(&mut login.state) else {
                return Err(Failure::new(INITIATOR_ERROR, "granted without having been asked"));
            };
            let exp = login.window.map_or(intent.cmd_sn, |(exp, _)| exp);
            login.window = Some((exp, exp.plus(offer.window).minus(1)));
            let mut talk = Talk::new(*intent, offer);
            let keys = match login.relayed.last.take() {
                Some(words) => {
                    talk.introduced = login.relayed.begun;
                    talk.authenticated = true;
                    talk.out.add(&words);
                    chap::split(&keys).1
                }
                None => keys,
            };
            if talk.intent.tsih == Tsih(0) && keys.value("SessionType").is_none() {
                talk.quirks.insert(Quirk::NoSessionType);
            }
            talk.take(&keys, login.stage)?;
            login.state = State::Negotiating(Box::new(talk));
            login.respond(wish)
        })
    }

    /// Refuses what [`TargetStep::Decide`] asked.
    pub fn refuse(&mut self, refusal: Refusal) -> TargetStep {
        self.step(|_| Err(Failure { why: status_text(refusal.class, refusal.detail).to_owned(), refusal }))
    }

    /// Runs one step; a refusal becomes the last response.
    pub(super) fn step(&mut self, run: impl FnOnce(&mut Self) -> Result<TargetStep, Failure>) -> TargetStep {
        if matches!(self.state, State::Ended) {
            return TargetStep::Close(Vec::new());
        }
        run(self).unwrap_or_else(|failure| self.fail(failure))
    }

    fn take(&mut self, mut request: LoginRequest) -> Result<TargetStep, Failure> {
        let text = std::mem::take(&mut request.data);
        self.check_header(&request)?;
        let wish = request.transit.then_some(request.next);
        if let State::Negotiating(talk) = &mut self.state
            && !talk.out.is_empty()
        {
            // This side's list goes on; the initiator has nothing to say meanwhile (R26).
            return if text.is_empty() && !request.continue_ {
                self.respond(wish)
            } else {
                Err(Failure::new(INITIATOR_ERROR, "the initiator interrupts a list of keys"))
            };
        }
        let keys = collect(&mut self.text, &text, request.continue_);
        let Some(keys) = keys.map_err(|why| Failure::new(INITIATOR_ERROR, why))? else {
            return Ok(TargetStep::Send(vec![self.response(Payload::new(), false, None)]));
        };
        match &mut self.state {
            State::Negotiating(talk) => {
                talk.take(&keys, self.stage)?;
                self.respond(wish)
            }
            State::Relaying(intent, held) => {
                let (intent, mut all) = (intent.clone(), std::mem::take(held));
                keys.iter().for_each(|(name, value)| all.push(name, value));
                self.state = State::Deciding(intent.clone(), all, wish);
                if self.guard.is_some() { self.prove() } else { Ok(TargetStep::Decide(intent)) }
            }
            State::Opening | State::Deciding(..) | State::Ended => {
                let intent = intent(&request, &keys)?;
                self.state = State::Deciding(Box::new(intent.clone()), keys, wish);
                Ok(TargetStep::Decide(Box::new(intent)))
            }
        }
    }

    /// Checks a request's header against the stage and against the first request (R22, R23, R26, R30 to R32).
    fn check_header(&mut self, request: &LoginRequest) -> Result<(), Failure> {
        self.requests += 1;
        let first = self.first.get_or_insert_with(|| {
            self.stage = request.current;
            request.clone()
        });
        if first.version_min > 0 {
            return Err(Failure::new(UNSUPPORTED_VERSION, "only version 0 is known"));
        }
        let id = |r: &LoginRequest| (r.isid, r.tsih, r.itt, r.cid, r.version_min, r.version_max);
        let backward = request.transit && order(request.next) <= order(request.current);
        let checks = [
            (self.requests > MOST_REQUESTS, "the login does not come to an end"),
            (id(first) != id(request), "the request does not belong to this login"),
            (request.current != self.stage || request.current == Stage::FullFeature, "wrong stage"),
            (backward, "wrong change of stage"),
            (request.transit && request.continue_, "a stage cannot end within a list of keys"),
            (matches!(self.state, State::Deciding(..)), "a request before the last one was answered"),
        ];
        match checks.into_iter().find(|(wrong, _)| *wrong) {
            Some((_, why)) => Err(Failure::new(INITIATOR_ERROR, why)),
            None => Ok(()),
        }
    }

    /// Takes the initiator a step further in its proof (R84); there is no way around it (R89).
    fn prove(&mut self) -> Result<TargetStep, Failure> {
        let (State::Deciding(intent, keys, wish), Some((guard, tpgt))) = (&mut self.state, &mut self.guard)
        else {
            return Err(Failure::new(INITIATOR_ERROR, "a proof that nobody asked for"));
        };
        let (words, others) = chap::split(keys);
        let reply = if self.stage == Stage::Security { guard.take(&words)? } else { return Err(skipped()) };
        if guard.is_passed() {
            *keys = others;
            let intent = intent.clone();
            self.guard = None;
            self.relayed.last = Some(reply);
            return Ok(TargetStep::Decide(intent));
        }
        if guard.is_idle() && wish.is_some() {
            return Err(skipped());
        }
        let tpgt = *tpgt;
        self.answer(&reply, tpgt)
    }

    /// Sends the next piece of this side's list; with the last one, moves on if the initiator wants to and all is said.
    fn respond(&mut self, wish: Option<Stage>) -> Result<TargetStep, Failure> {
        let State::Negotiating(talk) = &mut self.state else {
            return Err(Failure::new(INITIATOR_ERROR, "nothing was granted"));
        };
        let next = if talk.out.is_last() { talk.conclude(self.stage, wish)? } else { None };
        let (data, more) = talk.out.piece();
        let response = self.response(data, more, next);
        let Some(next) = next else {
            return Ok(TargetStep::Send(vec![response]));
        };
        self.stage = next;
        let done = talk_done(next, &mut self.state);
        Ok(match done {
            Some(talk) => {
                let done = talk.finish(self.window.unwrap_or_default(), self.stat_sn);
                TargetStep::Done(vec![response], Box::new(done))
            }
            None => TargetStep::Send(vec![response]),
        })
    }

    pub(super) fn response(&mut self, data: Payload, more: bool, next: Option<Stage>) -> Pdu {
        let first = self.first.clone().unwrap_or_default();
        let (exp_cmd_sn, max_cmd_sn) = self.window.unwrap_or_else(|| (first.cmd_sn, first.cmd_sn.minus(1)));
        let tsih = if let (State::Negotiating(talk), Some(Stage::FullFeature)) = (&self.state, next) {
            talk.offer.tsih
        } else {
            first.tsih
        };
        let stat_sn = self.stat_sn;
        self.stat_sn = stat_sn.next();
        Pdu::LoginResponse(LoginResponse {
            transit: next.is_some(),
            continue_: more,
            current: self.stage,
            next: next.unwrap_or_default(),
            isid: first.isid,
            tsih,
            itt: first.itt,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            data,
            ..LoginResponse::default()
        })
    }

    fn fail(&mut self, Failure { refusal, why }: Failure) -> TargetStep {
        let mut keys = KeyList::new();
        if let Some(address) = refusal.address {
            keys.push("TargetAddress", address);
        }
        let mut pdu = self.response(Payload::from(keys.to_bytes()), false, None);
        if let Pdu::LoginResponse(response) = &mut pdu {
            response.status_class = refusal.class;
            response.status_detail = refusal.detail;
        }
        self.state = State::Ended;
        self.failure = Some(why);
        TargetStep::Close(vec![pdu])
    }
}

impl Talk {
    fn new(intent: Intent, offer: Offer) -> Self {
        // Most session keys mean nothing in a discovery session; there the defaults bind (R66, R235).
        let limits = if intent.discovery { SessionParams::default() } else { offer.limits.clone() };
        let digests = offer.allow_digests;
        let book = Book::new(Sender::Target, !offer.joining, &limits, digests, digests);
        Self {
            intent,
            offer,
            book,
            authenticated: false,
            out: TextOut::default(),
            introduced: false,
            quirks: Quirks::default(),
            declared: None,
        }
    }

    /// Takes a whole list and prepares the answer.
    fn take(&mut self, keys: &KeyList, stage: Stage) -> Result<(), Failure> {
        self.authenticate(keys, stage)?;
        let mut reply = KeyList::new();
        if !self.introduced && !self.intent.target_name.is_empty() {
            // R40.
            reply.push("TargetPortalGroupTag", self.offer.tpgt.to_string());
            if let Some(alias) = &self.offer.target_alias {
                reply.push("TargetAlias", alias.clone());
            }
        }
        self.introduced = true;
        let answers = self.book.take(keys, stage)?;
        // Some initiators negotiate everything in the security stage; there may be no later chance to declare.
        let early =
            answers.iter().any(|answer| answer.name != "AuthMethod" && answer.value != "NotUnderstood");
        if early && stage == Stage::Security {
            self.quirks.insert(Quirk::KeysEarly);
        }
        if self.declared.is_none() && (stage == Stage::Operational || early) {
            self.declared = Some(self.offer.max_recv_data_segment);
            reply.push("MaxRecvDataSegmentLength", self.offer.max_recv_data_segment.to_string());
        }
        for answer in answers {
            reply.push(answer.name, answer.value);
        }
        self.out.add(&reply);
        Ok(())
    }

    /// The security stage: `None` is the one method (R55), unless the authentication is behind.
    fn authenticate(&self, keys: &KeyList, stage: Stage) -> Result<(), Failure> {
        if self.authenticated && keys.iter().any(|(name, _)| chap::is_key(name)) {
            return Err(Failure::new(INITIATOR_ERROR, "authentication goes on after its end"));
        }
        match keys.value("AuthMethod") {
            Some(methods) if stage == Stage::Security && !parse_list(methods).any(|m| m == "None") => {
                Err(Failure::new(AUTHENTICATION_FAILURE, format!("no known method among {methods:?}")))
            }
            _ => Ok(()),
        }
    }

    /// Where to go with this response (R24, R25): nowhere while this side has something to ask.
    fn conclude(&mut self, stage: Stage, wish: Option<Stage>) -> Result<Option<Stage>, Failure> {
        let Some(next) = wish else {
            return Ok(None);
        };
        self.book.close_stage(stage)?;
        if next != Stage::FullFeature {
            return Ok(Some(next));
        }
        let open = self.book.to_propose();
        if open.is_empty() {
            self.book.check()?;
            return Ok(Some(next));
        }
        if stage == Stage::Security {
            return Ok(Some(Stage::Operational));
        }
        let mut proposals = KeyList::new();
        for (name, value) in open.into_iter().filter_map(|id| self.book.propose(id)) {
            proposals.push(name, value);
        }
        self.out.add(&proposals);
        Ok(None)
    }

    fn finish(self, (exp_cmd_sn, max_cmd_sn): (CmdSn, CmdSn), stat_sn: StatSn) -> Negotiated {
        let recv = self.declared.unwrap_or(DEFAULT_SEGMENT);
        Negotiated {
            session: if self.offer.joining { self.offer.limits } else { self.book.session() },
            connection: self.book.connection(recv),
            discovery: self.intent.discovery,
            initiator_name: self.intent.initiator_name,
            target_name: self.intent.target_name,
            target_alias: self.offer.target_alias,
            tpgt: Some(self.offer.tpgt),
            isid: self.intent.isid,
            tsih: self.offer.tsih,
            cid: self.intent.cid,
            cmd_sn: exp_cmd_sn,
            max_cmd_sn,
            stat_sn,
            quirks: self.quirks.and(self.book.quirks()),
        }
    }
}

/// Stages in the order they are passed.
const fn order(stage: Stage) -> u8 {
    match stage {
        Stage::Security => 0,
        Stage::Operational => 1,
        Stage::FullFeature => 3,
    }
}

/// What the first key list asks for (R21).
fn intent(request: &LoginRequest, keys: &KeyList) -> Result<Intent, Failure> {
    let discovery = match keys.value("SessionType") {
        None | Some("Normal") => false,
        Some("Discovery") => true,
        Some(kind) => return Err(Failure::new(SESSION_TYPE_UNSUPPORTED, format!("SessionType {kind:?}"))),
    };
    let initiator_name = keys.value("InitiatorName").ok_or_else(|| missing("InitiatorName"))?;
    let target_name = match keys.value("TargetName") {
        Some(target) => target,
        None if discovery => "",
        None => return Err(missing("TargetName")),
    };
    let target_is_valid = name::is_valid(target_name) || (discovery && target_name.is_empty());
    if !name::is_valid(initiator_name) || !target_is_valid {
        return Err(Failure::new(INITIATOR_ERROR, "not an iSCSI name"));
    }
    Ok(Intent {
        initiator_name: initiator_name.to_owned(),
        initiator_alias: keys.value("InitiatorAlias").map(str::to_owned),
        target_name: target_name.to_owned(),
        discovery,
        isid: request.isid,
        tsih: request.tsih,
        cid: request.cid,
        cmd_sn: request.cmd_sn,
    })
}

/// The initiator passes by the authentication (R89).
fn skipped() -> Failure {
    Failure::new(AUTHENTICATION_FAILURE, "authentication is required, and the initiator skips it")
}

fn missing(key: &str) -> Failure {
    Failure::new(MISSING_PARAMETER, format!("{key} is missing"))
}

/// The negotiation, taken out of a login that has reached full feature phase.
fn talk_done(stage: Stage, state: &mut State) -> Option<Box<Talk>> {
    match std::mem::replace(state, State::Ended) {
        State::Negotiating(talk) if stage == Stage::FullFeature => Some(talk),
        other @ (State::Opening
        | State::Deciding(..)
        | State::Relaying(..)
        | State::Negotiating(_)
        | State::Ended) => {
            *state = other;
            None
        }
    }
}
