//! CHAP (RFC 7143 section 12.1, RFC 1994), in both roles, one-way and mutual.
//!
//! # Contract
//! A [`Client`] proves an initiator to a target, and with [`Credentials::peer`] wants the target proved in turn; a
//! [`Guard`] does the same from the target's side. Both take the authentication keys of one text of the security stage and
//! give back the keys to answer with; neither knows PDUs or stages. They have no randomness of their own: the caller gives
//! a [`Nonce`] of fresh random bytes for every login.
//!
//! # Rules
//! - The strongest algorithm that both sides know is taken; the initiator offers all, MD5 among them (R85). The numbers are
//!   IANA's: MD5 (5), SHA-1 (6), SHA-256 (7), SHA3-256 (8). tgt means SHA-1 by 7, so that [`Client::narrowed`] exists.
//! - Binary items are read in hexadecimal (`0x`) and base64 (`0b`), are 1024 bytes long at most (R85), and a response is as
//!   long as its hash. Challenges of this side are as long as the hash, as RFC 1994 section 2.3 advises.
//! - A challenge that comes back as the peer's own, and a response that this side would give itself, are failures (R87).
//! - Responses are compared in constant time. Secrets are wiped from memory when they are dropped, and nothing here prints
//!   them. What a secret may look like is checked where it is read, in the configuration.

use crate::iscsi::text::{KeyList, parse_list, parse_number};
use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use sha3::Digest;
use std::fmt;
use std::sync::Arc;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Longest binary item and longest name, in bytes (R85).
const LONGEST: usize = 1024;

/// A secret. It can be hashed and compared, not shown.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Fewest bytes of a secret that may be used without IPsec: 96 bits (R86).
    pub const SHORTEST: usize = 12;

    /// A secret of these bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// Whether it is these bytes; takes as long wherever they differ.
    #[must_use]
    pub fn is(&self, bytes: &[u8]) -> bool {
        self.0.as_slice().ct_eq(bytes).into()
    }

    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(<hidden>)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.0)
    }
}

impl Eq for Secret {}

/// A name and the secret that proves it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// CHAP_N.
    pub name: String,
    /// What CHAP_R is made of.
    pub secret: Secret,
}

/// How an initiator logs in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// What it proves itself with.
    pub own: Account,
    /// What the target has to prove itself with; none if it need not.
    pub peer: Option<Account>,
}

/// Whom a target lets in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Accounts {
    /// What initiators prove themselves with.
    pub initiators: Vec<Account>,
    /// What the target proves itself with to those who ask for it.
    pub own: Option<Account>,
}

/// Random bytes for one login: what this side asks the other with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nonce([u8; Self::LENGTH]);

impl Nonce {
    /// Bytes of randomness: an identifier, and a challenge for the longest hash.
    pub const LENGTH: usize = 33;

    /// A nonce of these bytes, which must come from a cryptographic generator and be used for one login only.
    #[must_use]
    pub const fn new(random: [u8; Self::LENGTH]) -> Self {
        Self(random)
    }

    const fn id(&self) -> u8 {
        let [id, ..] = self.0;
        id
    }

    fn challenge(&self, algorithm: Algorithm) -> &[u8] {
        self.0.get(1..=algorithm.length()).unwrap_or_default()
    }
}

/// A hash algorithm (IANA registry "PPP Authentication Algorithms").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// 8.
    Sha3With256,
    /// 7.
    Sha256,
    /// 6.
    Sha1,
    /// 5.
    Md5,
}

impl Algorithm {
    /// All that are known, strongest first.
    pub const ALL: &'static [Self] = &[Self::Sha3With256, Self::Sha256, Self::Sha1, Self::Md5];

    const fn number(self) -> u64 {
        match self {
            Self::Md5 => 5,
            Self::Sha1 => 6,
            Self::Sha256 => 7,
            Self::Sha3With256 => 8,
        }
    }

    fn named(text: &str) -> Option<Self> {
        let number = parse_number(text)?;
        Self::ALL.iter().copied().find(|known| known.number() == number)
    }

    /// Length of the hash in bytes.
    const fn length(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Sha3With256 => 32,
        }
    }

    /// The response to a challenge: the hash of identifier, secret and challenge (RFC 1994 section 4.1).
    fn response(self, id: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
        let parts = [&[id], secret.0.as_slice(), challenge];
        match self {
            Self::Md5 => hash::<md5::Md5>(parts),
            Self::Sha1 => hash::<sha1::Sha1>(parts),
            Self::Sha256 => hash::<sha2::Sha256>(parts),
            Self::Sha3With256 => hash::<sha3::Sha3_256>(parts),
        }
    }
}

fn hash<D: Digest>(parts: [&[u8]; 3]) -> Vec<u8> {
    let mut digest = D::new();
    for part in parts {
        digest.update(part);
    }
    digest.finalize().to_vec()
}

/// Why an authentication failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The peer broke the protocol.
    Malformed(String),
    /// The peer did not prove itself, or there is no way in which it could.
    Unproved(String),
}

impl Failure {
    fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }

    fn unproved(what: impl Into<String>) -> Self {
        Self::Unproved(what.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Malformed(what) | Self::Unproved(what)) = self;
        f.write_str(what)
    }
}

/// Whether a key belongs to the authentication.
pub(super) fn is_key(name: &str) -> bool {
    name == "AuthMethod" || name.starts_with("CHAP_")
}

/// The keys that belong to the authentication, and the others.
pub(super) fn split(keys: &KeyList) -> (KeyList, KeyList) {
    let (mut words, mut others) = (KeyList::new(), KeyList::new());
    for (name, value) in keys.iter() {
        let list = if is_key(name) { &mut words } else { &mut others };
        list.push(name, value);
    }
    (words, others)
}

/// The initiator's side of one login.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Client {
    credentials: Arc<Credentials>,
    nonce: Nonce,
    offer: &'static [Algorithm],
    state: ClientState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ClientState {
    /// The methods are offered.
    Offering,
    /// CHAP is agreed, and the algorithms are offered.
    Asking,
    /// This side has proved itself with this algorithm.
    Answered(Algorithm),
    /// The target has proved itself too.
    Proved,
    /// The target wants no authentication.
    Unasked,
}

impl Client {
    /// For one login with fresh random bytes.
    #[must_use]
    pub const fn new(credentials: Arc<Credentials>, nonce: Nonce) -> Self {
        Self { credentials, nonce, offer: Algorithm::ALL, state: ClientState::Offering }
    }

    /// The same, offering nothing but MD5: for a target that means something else by a number than IANA does.
    #[must_use]
    pub const fn narrowed(credentials: Arc<Credentials>, nonce: Nonce) -> Self {
        Self { credentials, nonce, offer: &[Algorithm::Md5], state: ClientState::Offering }
    }

    /// The algorithm that this side answered with, if it did.
    #[must_use]
    pub const fn algorithm(&self) -> Option<Algorithm> {
        match self.state {
            ClientState::Answered(algorithm) => Some(algorithm),
            ClientState::Offering | ClientState::Asking | ClientState::Proved | ClientState::Unasked => None,
        }
    }

    /// The value of AuthMethod: no authentication will do too, unless the target has to prove itself.
    pub(super) fn methods(&self) -> &'static str {
        if self.credentials.peer.is_some() { "CHAP" } else { "CHAP,None" }
    }

    /// Whether all has been said that this side has to say, so that it may ask for the next stage.
    pub(super) const fn wants_on(&self) -> bool {
        !matches!(self.state, ClientState::Offering | ClientState::Asking)
    }

    /// Whether the stage may end.
    pub(super) fn is_over(&self) -> bool {
        match self.state {
            ClientState::Offering | ClientState::Asking => false,
            ClientState::Answered(_) => self.credentials.peer.is_none(),
            ClientState::Proved | ClientState::Unasked => true,
        }
    }

    /// Takes the authentication keys of one text and gives those to send.
    pub(super) fn take(&mut self, words: &KeyList) -> Result<KeyList, Failure> {
        if words.is_empty() {
            return Ok(KeyList::new());
        }
        match self.state {
            ClientState::Offering => self.agreed(&Words::of(words, &["AuthMethod"])?),
            ClientState::Asking => self.challenged(&Words::of(words, &["CHAP_A", "CHAP_I", "CHAP_C"])?),
            ClientState::Answered(algorithm) => {
                self.answered(algorithm, &Words::of(words, &["CHAP_N", "CHAP_R"])?)
            }
            ClientState::Proved | ClientState::Unasked => {
                Err(Failure::malformed("authentication goes on after its end"))
            }
        }
    }

    fn agreed(&mut self, words: &Words<'_>) -> Result<KeyList, Failure> {
        let mut reply = KeyList::new();
        match words.get("AuthMethod")? {
            "CHAP" => {
                let numbers: Vec<String> = self.offer.iter().map(|a| a.number().to_string()).collect();
                reply.push("CHAP_A", numbers.join(","));
                self.state = ClientState::Asking;
            }
            "None" if self.credentials.peer.is_none() => self.state = ClientState::Unasked,
            other => return Err(Failure::unproved(format!("the target answers AuthMethod={other:?}"))),
        }
        Ok(reply)
    }

    fn challenged(&mut self, words: &Words<'_>) -> Result<KeyList, Failure> {
        let algorithm = Algorithm::named(words.get("CHAP_A")?).filter(|chosen| self.offer.contains(chosen));
        let algorithm = algorithm.ok_or_else(|| Failure::unproved("no algorithm in common"))?;
        let (id, challenge) = (words.id()?, words.binary("CHAP_C")?);
        if challenge == self.nonce.challenge(algorithm) {
            return Err(Failure::unproved("the target's challenge is this side's own"));
        }
        let Credentials { own, peer } = &*self.credentials;
        let mut reply = KeyList::new();
        reply.push("CHAP_N", own.name.clone());
        reply.push("CHAP_R", hex(&algorithm.response(id, &own.secret, &challenge)));
        if peer.is_some() {
            reply.push("CHAP_I", self.nonce.id().to_string());
            reply.push("CHAP_C", hex(self.nonce.challenge(algorithm)));
        }
        self.state = ClientState::Answered(algorithm);
        Ok(reply)
    }

    fn answered(&mut self, algorithm: Algorithm, words: &Words<'_>) -> Result<KeyList, Failure> {
        let Credentials { own, peer } = &*self.credentials;
        let peer = peer.as_ref().ok_or_else(|| Failure::malformed("a proof that was not asked for"))?;
        let response = words.response(algorithm)?;
        let expected = |secret| algorithm.response(self.nonce.id(), secret, self.nonce.challenge(algorithm));
        let reflected = response.ct_eq(&expected(&own.secret));
        let proved = response.ct_eq(&expected(&peer.secret)) & !reflected;
        if !bool::from(proved) || words.get("CHAP_N")? != peer.name {
            return Err(Failure::unproved("the target does not prove itself"));
        }
        self.state = ClientState::Proved;
        Ok(KeyList::new())
    }
}

/// The target's side of one login.
#[derive(Debug)]
pub struct Guard {
    accounts: Arc<Accounts>,
    nonce: Nonce,
    state: GuardState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum GuardState {
    /// Nothing was said yet.
    Idle,
    /// CHAP is agreed.
    Agreed,
    /// The challenge is out.
    Challenged(Algorithm),
    /// The initiator has proved itself.
    Passed,
}

impl Guard {
    /// For one login with fresh random bytes.
    #[must_use]
    pub const fn new(accounts: Arc<Accounts>, nonce: Nonce) -> Self {
        Self { accounts, nonce, state: GuardState::Idle }
    }

    /// Whether the initiator has proved itself.
    pub(super) fn is_passed(&self) -> bool {
        self.state == GuardState::Passed
    }

    /// Whether the initiator has begun.
    pub(super) fn is_idle(&self) -> bool {
        self.state == GuardState::Idle
    }

    /// Takes the authentication keys of one text and gives those to send.
    pub(super) fn take(&mut self, words: &KeyList) -> Result<KeyList, Failure> {
        if words.is_empty() {
            return Ok(KeyList::new());
        }
        match self.state {
            GuardState::Idle => self.offered(&Words::of(words, &["AuthMethod"])?),
            GuardState::Agreed => self.asked(&Words::of(words, &["CHAP_A"])?),
            GuardState::Challenged(algorithm) => {
                self.answered(algorithm, &Words::of(words, &["CHAP_N", "CHAP_R", "CHAP_I", "CHAP_C"])?)
            }
            GuardState::Passed => Err(Failure::malformed("authentication goes on after its end")),
        }
    }

    fn offered(&mut self, words: &Words<'_>) -> Result<KeyList, Failure> {
        let methods = words.get("AuthMethod")?;
        if !parse_list(methods).any(|method| method == "CHAP") {
            return Err(Failure::unproved(format!("CHAP is required, but the initiator offers {methods:?}")));
        }
        self.state = GuardState::Agreed;
        let mut reply = KeyList::new();
        reply.push("AuthMethod", "CHAP");
        Ok(reply)
    }

    fn asked(&mut self, words: &Words<'_>) -> Result<KeyList, Failure> {
        let offered: Vec<_> = parse_list(words.get("CHAP_A")?).filter_map(Algorithm::named).collect();
        let strongest = Algorithm::ALL.iter().copied().find(|known| offered.contains(known));
        let algorithm = strongest.ok_or_else(|| Failure::unproved("no algorithm in common"))?;
        self.state = GuardState::Challenged(algorithm);
        let mut reply = KeyList::new();
        reply.push("CHAP_A", algorithm.number().to_string());
        reply.push("CHAP_I", self.nonce.id().to_string());
        reply.push("CHAP_C", hex(self.nonce.challenge(algorithm)));
        Ok(reply)
    }

    fn answered(&mut self, algorithm: Algorithm, words: &Words<'_>) -> Result<KeyList, Failure> {
        let own = self.accounts.own.as_ref();
        let mut reply = KeyList::new();
        if words.has("CHAP_I") || words.has("CHAP_C") {
            let (id, challenge) = (words.id()?, words.binary("CHAP_C")?);
            if challenge == self.nonce.challenge(algorithm) {
                return Err(Failure::unproved("the initiator's challenge is this side's own"));
            }
            let own = own.ok_or_else(|| {
                Failure::unproved("the initiator wants a proof of the target, but none is set up")
            })?;
            reply.push("CHAP_N", own.name.clone());
            reply.push("CHAP_R", hex(&algorithm.response(id, &own.secret, &challenge)));
        }
        let (name, response) = (words.get("CHAP_N")?, words.response(algorithm)?);
        let is_of = |account: &Account| {
            let expected =
                algorithm.response(self.nonce.id(), &account.secret, self.nonce.challenge(algorithm));
            response.ct_eq(&expected)
        };
        if own.is_some_and(|own| is_of(own).into()) {
            return Err(Failure::unproved("the initiator gives the target's own response"));
        }
        // All are tried, so that the time taken does not tell which names there are.
        let proofs = self.accounts.initiators.iter();
        let proved = proofs.fold(subtle::Choice::from(0), |proved, account| {
            proved | (account.name.as_bytes().ct_eq(name.as_bytes()) & is_of(account))
        });
        if !bool::from(proved) {
            return Err(Failure::unproved("wrong name or secret"));
        }
        self.state = GuardState::Passed;
        Ok(reply)
    }
}

/// The authentication keys of one text, all of which belong there.
struct Words<'a>(&'a KeyList);

impl<'a> Words<'a> {
    fn of(keys: &'a KeyList, expected: &[&str]) -> Result<Self, Failure> {
        match keys.iter().find(|(name, _)| !expected.contains(name)) {
            Some((name, _)) => Err(Failure::malformed(format!("{name} is out of place"))),
            None => Ok(Self(keys)),
        }
    }

    fn has(&self, key: &str) -> bool {
        self.0.value(key).is_some()
    }

    fn get(&self, key: &str) -> Result<&'a str, Failure> {
        let value = self.0.value(key).ok_or_else(|| Failure::malformed(format!("{key} is missing")))?;
        // Hexadecimal takes two characters for a byte, and two in front.
        if value.len() <= 2 * LONGEST + 2 {
            Ok(value)
        } else {
            Err(Failure::malformed(format!("{key} is too long")))
        }
    }

    fn id(&self) -> Result<u8, Failure> {
        let id = parse_number(self.get("CHAP_I")?).and_then(|id| u8::try_from(id).ok());
        id.ok_or_else(|| Failure::malformed("CHAP_I is no number of one byte"))
    }

    fn binary(&self, key: &str) -> Result<Vec<u8>, Failure> {
        match binary(self.get(key)?) {
            Some(bytes) if (1..=LONGEST).contains(&bytes.len()) => Ok(bytes),
            Some(_) => Err(Failure::malformed(format!("{key} is not 1 to {LONGEST} bytes long"))),
            None => Err(Failure::malformed(format!("{key} is neither hexadecimal nor base64"))),
        }
    }

    fn response(&self, algorithm: Algorithm) -> Result<Vec<u8>, Failure> {
        let response = self.binary("CHAP_R")?;
        if response.len() == algorithm.length() {
            Ok(response)
        } else {
            Err(Failure::malformed("CHAP_R is not as long as its hash"))
        }
    }
}

/// A binary item: `0x` and hexadecimal, or `0b` and base64 (R49).
fn binary(text: &str) -> Option<Vec<u8>> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok();
    }
    let base64 = text.strip_prefix("0b").or_else(|| text.strip_prefix("0B"))?;
    BASE64.decode(base64.as_bytes()).ok()
}

fn hex(bytes: &[u8]) -> String {
    format!("0x{}", HEXLOWER.encode(bytes))
}

#[cfg(test)]
mod tests;
