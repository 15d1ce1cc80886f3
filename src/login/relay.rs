//! The authentication of a leading login passed on: the initiator proves itself to the target, and whoever stands between
//! them carries the words (AuthMethod and the CHAP keys) without knowing a secret.
//!
//! # How to
//! 1. [`TargetLogin`] asks for a decision, and [`TargetLogin::words`] says that the initiator offers CHAP.
//! 2. An [`InitiatorLogin`] begins with these words ([`super::Proof::Relayed`]); each response goes in with
//!    [`InitiatorLogin::handle_relayed`].
//! 3. [`Told::Words`] go to the initiator with [`TargetLogin::relay`]. It answers with another decision to take, whose
//!    words go to the target with [`InitiatorLogin::relay`].
//! 4. [`Told::Over`] ends it: the last words wait in [`TargetLogin::relayed`] until the other login is done as usual
//!    ([`InitiatorLogin::handle`]) and [`TargetLogin::accept`] can say what is granted.
//!
//! All keys but these are negotiated on each side for that side. A refusal of the target is an error as in any login.

use super::chap;
use super::initiator::{InitiatorLogin, InitiatorStep, LoginError, Proof, Received};
use super::target::{Failure, INITIATOR_ERROR, State, TargetLogin, TargetStep};
use crate::iscsi::text::{KeyList, parse_list};
use crate::iscsi::{LoginResponse, Payload, Pdu, Stage};

/// Most bytes of words that fit into one response (R20).
const SEGMENT: usize = 8192;

/// What a target has told in the security stage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// Nothing whole yet: send this.
    More(Pdu),
    /// Words for the initiator, whose answer is awaited.
    Words(KeyList),
    /// The last words for the initiator; the login goes on with this PDU, without them.
    Over(KeyList, Pdu),
    /// The target is elsewhere.
    Redirect(String),
}

impl InitiatorLogin {
    /// Takes a login response of the security stage.
    ///
    /// # Errors
    /// [`LoginError`]: close the connection.
    pub fn handle_relayed(&mut self, response: LoginResponse) -> Result<Told, LoginError> {
        let keys = match self.receive(&response)? {
            Received::Keys(keys) => keys,
            Received::Step(InitiatorStep::Send(pdu)) => return Ok(Told::More(pdu)),
            Received::Step(InitiatorStep::Redirect { address, .. }) => return Ok(Told::Redirect(address)),
            Received::Step(InitiatorStep::Done(_)) => {
                return Err(LoginError::Protocol("a login that ends before its keys".to_owned()));
            }
        };
        let words = chap::split(&keys).0;
        self.take(&keys, &response)?;
        Ok(if self.stage == Stage::Security { Told::Words(words) } else { Told::Over(words, self.request()) })
    }

    /// Passes on what the initiator says, and whether it wants the stage to end: the PDU to send.
    pub fn relay(&mut self, words: &KeyList, wish: bool) -> Pdu {
        self.out.add(words);
        self.proof = Proof::Relayed(KeyList::new(), wish);
        self.request()
    }

    /// What the target says of its portal group, as far as it has.
    #[must_use]
    pub fn tpgt(&self) -> Option<u16> {
        self.declared_tpgt()
    }
}

impl TargetLogin {
    /// While a decision is awaited in the security stage: what the initiator says to prove itself, and whether it wants the
    /// stage to end. None if it offers no CHAP.
    #[must_use]
    pub fn words(&self) -> Option<(KeyList, bool)> {
        let State::Deciding(_, keys, wish) = &self.state else { return None };
        let mut words = chap::split(keys).0;
        if self.stage != Stage::Security {
            return None;
        }
        if !self.relayed.begun {
            let methods = words.value("AuthMethod")?;
            let known: Vec<_> = parse_list(methods).filter(|m| matches!(*m, "CHAP" | "None")).collect();
            if !known.contains(&"CHAP") {
                return None;
            }
            let methods = known.join(",");
            words = KeyList::new();
            words.push("AuthMethod", methods);
        }
        Some((words, wish.is_some()))
    }

    /// Answers the initiator with these words; `tpgt` is told once (R40).
    pub fn relay(&mut self, words: &KeyList, tpgt: u16) -> TargetStep {
        self.step(|login| login.answer(words, tpgt))
    }

    pub(super) fn answer(&mut self, words: &KeyList, tpgt: u16) -> Result<TargetStep, Failure> {
        let State::Deciding(intent, keys, _) = std::mem::take(&mut self.state) else {
            return Err(Failure::new(INITIATOR_ERROR, "answered without having been asked"));
        };
        let mut reply = KeyList::new();
        if !std::mem::replace(&mut self.relayed.begun, true) && !intent.target_name.is_empty() {
            reply.push("TargetPortalGroupTag", tpgt.to_string());
        }
        words.iter().for_each(|(name, value)| reply.push(name, value));
        let data = reply.to_bytes();
        if data.len() > SEGMENT {
            return Err(Failure::new(INITIATOR_ERROR, "the target's words are too long"));
        }
        self.state = State::Relaying(intent, chap::split(&keys).1);
        Ok(TargetStep::Send(vec![self.response(Payload::from(data), false, None)]))
    }

    /// Keeps the last words for the initiator until [`TargetLogin::accept`].
    pub fn relayed(&mut self, words: KeyList) {
        self.relayed.last = Some(words);
    }
}
