//! What peers do that the standard does not say, or that few do, and that Braid takes as it comes: one name for each, under
//! which it is counted and logged where it is met.
//!
//! [`TABLE`] is all there is. What a login shows comes with its result, as a set of them ([`Quirks`]).

/// Who sent something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Side {
    /// The initiator.
    Initiator,
    /// The target.
    Target,
}

impl Side {
    /// Its label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Initiator => "initiator",
            Self::Target => "target",
        }
    }
}

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "the table says what each is")]
pub enum Quirk {
    AsyncLogoutRequest,
    AsyncRenegotiation,
    ChapAlgorithm,
    CommandLost,
    EchoIsPing,
    ExtraLoginRound,
    ForeignKey,
    KeyRepeated,
    KeysEarly,
    Markers,
    NoSessionType,
    PingRejected,
    ProposalAtEnd,
    R2tWithoutLun,
    RedirectionTag,
    SmallFirstWindow,
    StatusOutOfOrder,
}

/// What is known of one.
#[derive(Debug)]
pub struct Row {
    /// Which it is.
    pub quirk: Quirk,
    /// Its name in metrics and logs.
    pub name: &'static str,
    /// Who has it.
    pub sides: &'static [Side],
    /// What it is, what is done about it, and who is known to have it.
    pub about: &'static str,
}

const fn row(quirk: Quirk, name: &'static str, sides: &'static [Side], about: &'static str) -> Row {
    Row { quirk, name, sides, about }
}

const I: &[Side] = &[Side::Initiator];
const T: &[Side] = &[Side::Target];
const BOTH: &[Side] = &[Side::Initiator, Side::Target];

/// All of them, in the order of the enumeration.
#[rustfmt::skip] // A table: one row per quirk.
pub const TABLE: [Row; 17] = [
    row(Quirk::AsyncLogoutRequest, "async_logout_request", T, "asks for a logout: the connection is drained and left, and comes back (EqualLogic)"),
    row(Quirk::AsyncRenegotiation, "async_renegotiation", T, "asks for a renegotiation, which is declined by leaving and coming back"),
    row(Quirk::ChapAlgorithm, "chap_algorithm", T, "means SHA-1 by the number of SHA-256: MD5 is taken instead (tgt)"),
    row(Quirk::CommandLost, "command_lost", T, "leaves a command unanswered while it answers others: its session is given up, the command runs again (istgt, after a connection was cut)"),
    row(Quirk::EchoIsPing, "echo_is_ping", T, "puts a ping of its own into the answer to one: both are taken"),
    row(Quirk::ExtraLoginRound, "extra_login_round", T, "proposes keys itself, which takes a further round of the login (tgt with several connections)"),
    row(Quirk::ForeignKey, "foreign_key", T, "says keys that are the initiator's to say: passed over"),
    row(Quirk::KeyRepeated, "key_repeated", BOTH, "says a key again: the later stage counts, the same word twice is one"),
    row(Quirk::KeysEarly, "keys_early", I, "negotiates the session in the security stage: answered there"),
    row(Quirk::Markers, "markers", BOTH, "offers markers, which are obsolete, or says that it has none: refused, without effect on the login (open-iscsi, libiscsi)"),
    row(Quirk::NoSessionType, "no_session_type", I, "names no session type: a normal session, and named so to the target, as LIO insists on it"),
    row(Quirk::PingRejected, "ping_rejected", T, "rejects a ping: it lives, which is what the ping asked"),
    row(Quirk::ProposalAtEnd, "proposal_at_end", T, "proposes a key as it ends a stage, when nobody can answer: what holds stays (tgt)"),
    row(Quirk::R2tWithoutLun, "r2t_without_lun", T, "asks for data without naming the logical unit: that of the command is meant"),
    row(Quirk::RedirectionTag, "redirection_tag", T, "redirects with a portal group tag behind the address, where none belongs: cut off"),
    row(Quirk::SmallFirstWindow, "small_first_window", T, "lets in but a few commands after the login: the others wait for its first answer (tgt two, LIO one)"),
    row(Quirk::StatusOutOfOrder, "statsn_out_of_order", T, "sends responses in another order than it numbers them: nothing is lost as long as all come (istgt)"),
];

impl Quirk {
    /// What is known of it.
    #[must_use]
    pub fn row(self) -> &'static Row {
        let [first, ..] = &TABLE;
        TABLE.get(self as usize).unwrap_or(first)
    }
}

/// A set of quirks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Quirks(u32);

impl Quirks {
    /// Adds one.
    pub const fn insert(&mut self, quirk: Quirk) {
        self.0 |= 1 << quirk as u32;
    }

    /// Adds those of another set.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// What is in it.
    pub fn iter(self) -> impl Iterator<Item = Quirk> {
        TABLE.iter().map(|row| row.quirk).filter(move |quirk| self.0 & 1 << *quirk as u32 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_quirk_has_its_row_and_a_name_of_its_own() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(row.quirk as usize, at, "{}", row.name);
            assert_eq!(row.quirk.row().name, row.name);
        }
        let names: BTreeSet<_> = TABLE.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), TABLE.len());
    }

    #[test]
    fn a_set_gives_what_was_put_in() {
        let mut some = Quirks::default();
        some.insert(Quirk::AsyncLogoutRequest);
        let mut other = Quirks::default();
        other.insert(Quirk::StatusOutOfOrder);
        other.insert(Quirk::StatusOutOfOrder);
        let all: Vec<_> = some.and(other).iter().collect();
        assert_eq!(all, [Quirk::AsyncLogoutRequest, Quirk::StatusOutOfOrder]);
    }
}
