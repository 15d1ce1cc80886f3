//! One side's negotiation: what it wants, what it proposed, what is settled (RFC 7143 section 6.2).
//!
//! Input are the pairs the peer sent, in any order of proposals and answers; output are the answers to send back and, at
//! the end, the parameters. Both roles use the same [`Book`]; only what it is filled with differs. Invariants: a key is
//! settled once; what is settled is in the key's range and never beyond this side's limit; nothing counts before
//! [`Book::check`] has passed (R54).

use super::keys::{Id, Key, Phase, Rule, Sender, TABLE};
use super::params::{ConnectionParams, DEFAULT_SEGMENT, SessionParams};
use crate::iscsi::Stage;
use crate::iscsi::quirk::{Quirk, Quirks};
use crate::iscsi::text::{KeyList, parse_boolean, parse_list, parse_number};
use std::collections::{BTreeMap, BTreeSet};

/// A negotiation that cannot be concluded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    /// The key.
    pub(super) key: String,
    /// What is wrong with it.
    pub(super) why: String,
}

impl Fault {
    fn new(key: &str, why: impl Into<String>) -> Self {
        Self { key: key.to_owned(), why: why.into() }
    }
}

/// The answer to a proposal of the peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    /// Key.
    pub(super) name: String,
    /// Value.
    pub(super) value: String,
    /// Whether the peer can do without it: it confirms what the peer said, or that its key is not known.
    pub(super) optional: bool,
}

impl Answer {
    fn new(name: &str, value: &str, optional: bool) -> Self {
        Self { name: name.to_owned(), value: value.to_owned(), optional }
    }
}

/// A value in the book.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Value {
    Number(u32),
    Bool(bool),
    Choice(&'static str),
}

/// What this side wants of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Own {
    /// The limit of a minimum or maximum, or the wish of a boolean.
    Limit(Value),
    /// What it supports, most wanted first.
    Supported(&'static [&'static str]),
}

#[derive(Clone, Debug)]
struct Settled {
    value: Value,
    stage: Stage,
    /// The peer's last word on the key, to tell a repetition from a change of mind.
    heard: String,
}

/// One side's side of a login.
#[derive(Debug)]
pub(super) struct Book {
    side: Sender,
    leading: bool,
    own: BTreeMap<Id, Own>,
    proposed: BTreeSet<Id>,
    settled: BTreeMap<Id, Settled>,
    declared: BTreeMap<Id, String>,
    quirks: Quirks,
}

/// `CRC32C` accepted or wanted, with the way out that the RFC asks for.
const WITH_DIGEST: &[&str] = &["CRC32C", "None"];
const WITHOUT_DIGEST: &[&str] = &["None"];

impl Book {
    /// A book of `side`. `limits` bounds the session keys; `header` and `data` tell whether digests are wanted (initiator)
    /// or allowed (target). In a login that is not leading, session keys are refused (R41).
    pub(super) fn new(side: Sender, leading: bool, limits: &SessionParams, header: bool, data: bool) -> Self {
        let digest = |wanted| Own::Supported(if wanted { WITH_DIGEST } else { WITHOUT_DIGEST });
        let mut own = BTreeMap::from([
            (Id::AuthMethod, Own::Supported(&["None"])),
            (Id::HeaderDigest, digest(header)),
            (Id::DataDigest, digest(data)),
            (Id::TaskReporting, Own::Supported(&["RFC3720"])),
            (Id::ProtocolLevel, Own::Limit(Value::Number(1))),
        ]);
        for (id, value) in session_values(limits) {
            own.insert(id, Own::Limit(row(id).map_or(value, |key| value.clamped(key.rule))));
        }
        Self {
            side,
            leading,
            own,
            proposed: BTreeSet::new(),
            settled: BTreeMap::new(),
            declared: BTreeMap::new(),
            quirks: Quirks::default(),
        }
    }

    /// Proposes a key: the pair to send. The peer's next word on it is the answer.
    pub(super) fn propose(&mut self, id: Id) -> Option<(&'static str, String)> {
        let key = row(id)?;
        let text = match self.limit(id)? {
            Own::Limit(value) => value.text(),
            Own::Supported(list) => list.join(","),
        };
        self.proposed.insert(id);
        Some((key.name, text))
    }

    /// Takes all that the peer said in one text of `stage`; the answers come in no particular order.
    ///
    /// # Errors
    /// [`Fault`]: the login has failed.
    pub(super) fn take(&mut self, keys: &KeyList, stage: Stage) -> Result<Vec<Answer>, Fault> {
        // Keys whose range depends on others come after them, wherever the peer put them.
        let depends = |name: &str| matches!(name, "FirstBurstLength" | "MaxOutstandingR2T");
        let (last, first): (Vec<_>, Vec<_>) = keys.iter().partition(|(name, _)| depends(name));
        let mut answers = Vec::new();
        for (name, text) in first.into_iter().chain(last) {
            answers.extend(self.take_pair(name, text, stage)?);
        }
        Ok(answers)
    }

    fn take_pair(&mut self, name: &str, text: &str, stage: Stage) -> Result<Option<Answer>, Fault> {
        let Some(key) = Key::named(name) else {
            return Ok(Some(Answer::new(name, "NotUnderstood", true)));
        };
        if key.sender != Sender::Both && key.sender == self.side {
            let passed_over = self.stray(key)?;
            self.quirks.insert(Quirk::ForeignKey);
            return Ok(passed_over);
        }
        Self::check_place(key, stage)?;
        if key.is_declaration() {
            return self.declare(key, text);
        }
        if self.proposed.remove(&key.id) {
            return self.conclude(key, text, stage);
        }
        match self.settled.get(&key.id) {
            // A list sent in the security stage may be sent again where it belongs.
            Some(old) if old.stage == stage && self.side == Sender::Initiator && old.heard == text => {
                self.quirks.insert(Quirk::KeyRepeated);
                Ok(None)
            }
            Some(old) if old.stage == stage => Err(Fault::new(name, "negotiated a second time")),
            Some(_) => {
                self.quirks.insert(Quirk::KeyRepeated);
                self.respond(key, text, stage)
            }
            None => self.respond(key, text, stage),
        }
    }

    /// Ends a stage: every proposal must have been answered, but for those whose result no answer could change (R56).
    ///
    /// # Errors
    /// [`Fault`]: a proposal was left open.
    pub(super) fn close_stage(&mut self, stage: Stage) -> Result<(), Fault> {
        for id in std::mem::take(&mut self.proposed) {
            match (self.foregone(id), row(id)) {
                (Some(value), _) => {
                    self.settled.insert(id, Settled { value, stage, heard: value.text() });
                }
                (None, Some(key)) => {
                    return Err(Fault::new(key.name, "the peer did not answer the proposal"));
                }
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// The session keys whose present value is beyond this side's limit, and which were not talked about yet.
    pub(super) fn to_propose(&self) -> Vec<Id> {
        let open = |key: &&Key| {
            key.phase == Phase::Leading
                && self.leading
                && !self.settled.contains_key(&key.id)
                && !self.proposed.contains(&key.id)
                && !self.is_within(key.id, self.value(key.id))
        };
        TABLE.iter().filter(open).map(|key| key.id).collect()
    }

    /// Checks what can be checked only once all is said (R58, R76).
    ///
    /// # Errors
    /// [`Fault`]: the values contradict each other, or a limit is not kept.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let session = self.session();
        if session.first_burst_length > session.max_burst_length {
            return Err(Fault::new("FirstBurstLength", "larger than MaxBurstLength"));
        }
        if session.error_recovery_level > 0
            && session.data_sequence_in_order
            && session.max_outstanding_r2t > 1
        {
            return Err(Fault::new(
                "MaxOutstandingR2T",
                "must be 1 with error recovery and sequences in order",
            ));
        }
        for key in TABLE {
            if self.leading && !self.is_within(key.id, self.value(key.id)) {
                return Err(Fault::new(key.name, "the peer refused what this side needs"));
            }
        }
        Ok(())
    }

    /// The session's parameters: what is settled, defaults elsewhere.
    pub(super) fn session(&self) -> SessionParams {
        SessionParams {
            max_connections: self.number16(Id::MaxConnections),
            initial_r2t: self.flag(Id::InitialR2T),
            immediate_data: self.flag(Id::ImmediateData),
            max_burst_length: self.number(Id::MaxBurstLength),
            first_burst_length: self.number(Id::FirstBurstLength),
            default_time2wait: self.number16(Id::DefaultTime2Wait),
            default_time2retain: self.number16(Id::DefaultTime2Retain),
            max_outstanding_r2t: self.number16(Id::MaxOutstandingR2T),
            data_pdu_in_order: self.flag(Id::DataPduInOrder),
            data_sequence_in_order: self.flag(Id::DataSequenceInOrder),
            error_recovery_level: u8::try_from(self.number(Id::ErrorRecoveryLevel)).unwrap_or_default(),
        }
    }

    /// The connection's parameters, this side having declared `recv`.
    pub(super) fn connection(&self, recv: u32) -> ConnectionParams {
        let crc = |id| self.value(id) == Some(Value::Choice("CRC32C"));
        let declared = self.declared.get(&Id::MaxRecvDataSegmentLength).and_then(|text| number(text));
        ConnectionParams {
            header_digest: crc(Id::HeaderDigest),
            data_digest: crc(Id::DataDigest),
            max_recv_data_segment: recv,
            max_send_data_segment: declared.unwrap_or(DEFAULT_SEGMENT),
        }
    }

    /// What the peer has shown.
    pub(super) const fn quirks(&self) -> Quirks {
        self.quirks
    }

    /// What the peer declared.
    pub(super) fn declared(&self, id: Id) -> Option<&str> {
        self.declared.get(&id).map(String::as_str)
    }

    /// A key that only this side may send. From an initiator it is an error; targets are forgiven, they only echo.
    fn stray(&self, key: &Key) -> Result<Option<Answer>, Fault> {
        match self.side {
            Sender::Initiator => Ok(None),
            Sender::Target | Sender::Both => Err(Fault::new(key.name, "not for an initiator to send")),
        }
    }

    fn check_place(key: &Key, stage: Stage) -> Result<(), Fault> {
        if key.phase == Phase::FullFeature || (key.phase == Phase::Security && stage != Stage::Security) {
            return Err(Fault::new(key.name, "not legal in this stage"));
        }
        if key.phase == Phase::Security && key.is_declaration() {
            return Err(Fault::new(key.name, "no authentication method is in use that knows it"));
        }
        Ok(())
    }

    fn declare(&mut self, key: &Key, text: &str) -> Result<Option<Answer>, Fault> {
        if let Rule::Number { min, max } = key.rule
            && !number(text).is_some_and(|n| (min..=max).contains(&n))
        {
            return Err(Fault::new(key.name, format!("{text:?} is not a number from {min} to {max}")));
        }
        match self.declared.get(&key.id) {
            Some(old) if old != text => Err(Fault::new(key.name, "declared a second time")),
            _ => {
                self.declared.insert(key.id, text.to_owned());
                Ok(None)
            }
        }
    }

    /// Answers a proposal. One that makes no sense is rejected and leaves the value as it is (R53, R57).
    fn respond(&mut self, key: &Key, text: &str, stage: Stage) -> Result<Option<Answer>, Fault> {
        if let Rule::Retired(value) = key.rule {
            self.quirks.insert(Quirk::Markers);
            return Ok(Some(Answer::new(key.name, value, value == text)));
        }
        if key.phase == Phase::Leading && !self.leading {
            // What holds is confirmed and nothing else; either way it stays, so that no answer matters (tgt proposes
            // its MaxConnections with the end of the stage).
            let holds = self.own.get(&key.id).copied() == parse(key.rule, text).map(Own::Limit);
            return Ok(Some(Answer::new(key.name, if holds { text } else { "Reject" }, true)));
        }
        let selected = self.limit(key.id).and_then(|own| select(key.rule, text, own));
        let value = selected.or_else(|| default(key.rule));
        let Some(value) = value else {
            return Err(Fault::new(key.name, "cannot be negotiated"));
        };
        self.settled.insert(key.id, Settled { value, stage, heard: text.to_owned() });
        let reply = selected.map_or_else(|| "Reject".to_owned(), Value::text);
        let optional = reply == text;
        Ok(Some(Answer { name: key.name.to_owned(), value: reply, optional }))
    }

    /// Takes the answer to a proposal of this side.
    fn conclude(&mut self, key: &Key, text: &str, stage: Stage) -> Result<Option<Answer>, Fault> {
        let refused = matches!(text, "Reject" | "Irrelevant" | "NotUnderstood");
        let value = if refused { default(key.rule) } else { parse(key.rule, text) };
        match value {
            Some(value) if self.is_within(key.id, Some(value)) => {
                self.settled.insert(key.id, Settled { value, stage, heard: text.to_owned() });
                Ok(None)
            }
            _ if refused => Err(Fault::new(key.name, format!("the peer answered {text}"))),
            _ => Err(Fault::new(key.name, format!("the peer answered {text:?}, which was not on offer"))),
        }
    }

    /// This side's limit, with what is settled already taken into account: a later key must fit the earlier (R58, R76).
    fn limit(&self, id: Id) -> Option<Own> {
        let own = *self.own.get(&id)?;
        let Own::Limit(Value::Number(mut most)) = own else {
            return Some(own);
        };
        if id == Id::FirstBurstLength {
            most = most.min(self.burst_limit());
        }
        if id == Id::MaxOutstandingR2T
            && self.number(Id::ErrorRecoveryLevel) > 0
            && self.flag(Id::DataSequenceInOrder)
        {
            most = 1;
        }
        Some(Own::Limit(Value::Number(most)))
    }

    /// MaxBurstLength as settled, or the most that it can still become.
    fn burst_limit(&self) -> u32 {
        let id = Id::MaxBurstLength;
        match self.own.get(&id) {
            Some(Own::Limit(Value::Number(own))) if self.proposed.contains(&id) => *own,
            _ => self.number(id),
        }
    }

    fn is_within(&self, id: Id, value: Option<Value>) -> bool {
        let (Some(key), Some(own), Some(value)) = (row(id), self.limit(id), value) else {
            return true;
        };
        match (key.rule, own, value) {
            (Rule::Minimum { .. }, Own::Limit(Value::Number(own)), Value::Number(n)) => n <= own,
            (Rule::Maximum { .. }, Own::Limit(Value::Number(own)), Value::Number(n)) => n >= own,
            (Rule::And, Own::Limit(Value::Bool(own)), Value::Bool(b)) => own || !b,
            (Rule::Or, Own::Limit(Value::Bool(own)), Value::Bool(b)) => b || !own,
            (_, Own::Supported(list), Value::Choice(choice)) => list.contains(&choice),
            _ => false,
        }
    }

    /// The result of this side's proposal, where the proposal alone fixes it.
    fn foregone(&self, id: Id) -> Option<Value> {
        match (row(id)?.rule, *self.own.get(&id)?) {
            (Rule::Or, Own::Limit(Value::Bool(true))) => Some(Value::Bool(true)),
            (Rule::And, Own::Limit(Value::Bool(false))) => Some(Value::Bool(false)),
            (Rule::List { default }, Own::Supported(list)) if list == [default] => {
                Some(Value::Choice(default))
            }
            _ => None,
        }
    }

    fn value(&self, id: Id) -> Option<Value> {
        let settled = self.settled.get(&id).map(|settled| settled.value);
        settled.or_else(|| row(id).and_then(|key| default(key.rule)))
    }

    fn number(&self, id: Id) -> u32 {
        if let Some(Value::Number(n)) = self.value(id) { n } else { 0 }
    }

    fn number16(&self, id: Id) -> u16 {
        u16::try_from(self.number(id)).unwrap_or(u16::MAX)
    }

    fn flag(&self, id: Id) -> bool {
        self.value(id) == Some(Value::Bool(true))
    }
}

impl Value {
    /// The nearest legal value.
    fn clamped(self, rule: Rule) -> Self {
        match (self, rule) {
            (Self::Number(n), Rule::Minimum { min, max, .. } | Rule::Maximum { min, max, .. }) => {
                Self::Number(n.clamp(min, max))
            }
            _ => self,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Number(n) => n.to_string(),
            Self::Bool(true) => "Yes".to_owned(),
            Self::Bool(false) => "No".to_owned(),
            Self::Choice(choice) => choice.to_owned(),
        }
    }
}

fn row(id: Id) -> Option<&'static Key> {
    TABLE.iter().find(|key| key.id == id)
}

/// A number of 32 bits.
fn number(text: &str) -> Option<u32> {
    parse_number(text).and_then(|n| u32::try_from(n).ok())
}

const fn default(rule: Rule) -> Option<Value> {
    match rule {
        Rule::Minimum { default, .. } | Rule::Maximum { default, .. } => Some(Value::Number(default)),
        Rule::And | Rule::Or => Some(Value::Bool(true)),
        Rule::List { default } => Some(Value::Choice(default)),
        Rule::Text | Rule::Number { .. } | Rule::Retired(_) => None,
    }
}

/// A single value of a key, if it is legal.
fn parse(rule: Rule, text: &str) -> Option<Value> {
    match rule {
        Rule::Minimum { min, max, .. } | Rule::Maximum { min, max, .. } => {
            number(text).filter(|n| (min..=max).contains(n)).map(Value::Number)
        }
        Rule::And | Rule::Or => parse_boolean(text).map(Value::Bool),
        Rule::List { .. } => {
            ["None", "CRC32C", "RFC3720"].into_iter().find(|c| *c == text).map(Value::Choice)
        }
        Rule::Text | Rule::Number { .. } | Rule::Retired(_) => None,
    }
}

/// The result of a proposal against this side's limit; none if there is no legal one.
fn select(rule: Rule, text: &str, own: Own) -> Option<Value> {
    if let Own::Supported(list) = own {
        let offered = parse_list(text).find_map(|offer| list.iter().find(|mine| **mine == offer));
        return offered.map(|choice| Value::Choice(choice));
    }
    match (rule, parse(rule, text)?, own) {
        (Rule::Minimum { .. }, Value::Number(n), Own::Limit(Value::Number(own))) => {
            Some(Value::Number(n.min(own)))
        }
        (Rule::Maximum { .. }, Value::Number(n), Own::Limit(Value::Number(own))) => {
            Some(Value::Number(n.max(own)))
        }
        (Rule::And, Value::Bool(b), Own::Limit(Value::Bool(own))) => Some(Value::Bool(b && own)),
        (Rule::Or, Value::Bool(b), Own::Limit(Value::Bool(own))) => Some(Value::Bool(b || own)),
        _ => None,
    }
}

/// The session keys and their limits.
fn session_values(limits: &SessionParams) -> [(Id, Value); 11] {
    [
        (Id::MaxConnections, Value::Number(limits.max_connections.into())),
        (Id::InitialR2T, Value::Bool(limits.initial_r2t)),
        (Id::ImmediateData, Value::Bool(limits.immediate_data)),
        (Id::MaxBurstLength, Value::Number(limits.max_burst_length)),
        (Id::FirstBurstLength, Value::Number(limits.first_burst_length.min(limits.max_burst_length))),
        (Id::DefaultTime2Wait, Value::Number(limits.default_time2wait.into())),
        (Id::DefaultTime2Retain, Value::Number(limits.default_time2retain.into())),
        (Id::MaxOutstandingR2T, Value::Number(limits.max_outstanding_r2t.into())),
        (Id::DataPduInOrder, Value::Bool(limits.data_pdu_in_order)),
        (Id::DataSequenceInOrder, Value::Bool(limits.data_sequence_in_order)),
        (Id::ErrorRecoveryLevel, Value::Number(limits.error_recovery_level.into())),
    ]
}
