//! The one table of keys (RFC 7143 sections 12 and 13, RFC 7144 section 7): both roles and the documentation read it.
//!
//! A key that is not in [`TABLE`] is answered `NotUnderstood` (R51). The table says what the standard says; what a side
//! is willing to agree to is the business of `super::negotiate`.

use Id as I;
use Phase::{Anytime, FullFeature, Initial, Leading, Login, Security};
use Rule::{And, List, Maximum, Minimum, Number, Or, Retired, Text};
use Scope::{Connection, Session};
use Sender::{Both, Initiator, Target};

/// What a negotiated value belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// The session.
    Session,
    /// One connection.
    Connection,
}

/// When a key may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Security stage only.
    Security,
    /// Login of any connection, either stage: names and tags.
    Initial,
    /// Login of the leading connection only (R41).
    Leading,
    /// Login of any connection.
    Login,
    /// Full feature phase only.
    FullFeature,
    /// Login and full feature phase.
    Anytime,
}

/// Who may send a key unasked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// Initiators.
    Initiator,
    /// Targets.
    Target,
    /// Either side.
    Both,
}

/// How a key gets its value, with the range of numbers and the value in force when it is not negotiated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Declared text.
    Text,
    /// Declared number.
    Number {
        /// Smallest legal value.
        min: u32,
        /// Largest legal value.
        max: u32,
    },
    /// The smaller of the two numbers.
    Minimum {
        /// Smallest legal value.
        min: u32,
        /// Largest legal value.
        max: u32,
        /// Value if not negotiated.
        default: u32,
    },
    /// The larger of the two numbers.
    Maximum {
        /// Smallest legal value.
        min: u32,
        /// Largest legal value.
        max: u32,
        /// Value if not negotiated.
        default: u32,
    },
    /// Yes if both say Yes; Yes if not negotiated.
    And,
    /// Yes if either says Yes; Yes if not negotiated.
    Or,
    /// The first value of the offered list that the other side supports.
    List {
        /// Value if not negotiated.
        default: &'static str,
    },
    /// No longer in use; answered with this (R80).
    Retired(&'static str),
}

/// Every key of [`TABLE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "the variants are the RFC's key names")]
pub enum Id {
    AuthMethod,
    ChapA,
    ChapC,
    ChapI,
    ChapN,
    ChapR,
    HeaderDigest,
    DataDigest,
    MaxConnections,
    SendTargets,
    TargetName,
    InitiatorName,
    TargetAlias,
    InitiatorAlias,
    TargetAddress,
    TargetPortalGroupTag,
    InitialR2T,
    ImmediateData,
    MaxRecvDataSegmentLength,
    MaxBurstLength,
    FirstBurstLength,
    DefaultTime2Wait,
    DefaultTime2Retain,
    MaxOutstandingR2T,
    DataPduInOrder,
    DataSequenceInOrder,
    ErrorRecoveryLevel,
    SessionType,
    TaskReporting,
    ProtocolLevel,
    NodeArchitecture,
    IfMarker,
    OfMarker,
    IfMarkInt,
    OfMarkInt,
}

/// One row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// Which key.
    pub id: Id,
    /// Its name on the wire.
    pub name: &'static str,
    /// What its value belongs to.
    pub scope: Scope,
    /// When it may be used.
    pub phase: Phase,
    /// Who may send it unasked.
    pub sender: Sender,
    /// How its value comes about.
    pub rule: Rule,
}

impl Key {
    /// The row of a name; keys are case-sensitive (R48).
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        TABLE.iter().find(|key| key.name == name)
    }

    /// Whether the key is announced by one side and not answered.
    #[must_use]
    pub const fn is_declaration(&self) -> bool {
        matches!(self.rule, Text | Number { .. })
    }
}

const fn key(id: Id, name: &'static str, scope: Scope, phase: Phase, sender: Sender, rule: Rule) -> Key {
    Key { id, name, scope, phase, sender, rule }
}

const fn minimum(min: u32, max: u32, default: u32) -> Rule {
    Minimum { min, max, default }
}

/// Longest segment and burst: 24 bits.
const LONGEST: u32 = 0x00ff_ffff;

/// All keys. Defaults and ranges are those of the RFC, in the RFC's units (bytes, seconds, counts).
#[rustfmt::skip]
pub const TABLE: &[Key] = &[
    key(I::AuthMethod,               "AuthMethod",               Connection, Security,    Both,      List { default: "None" }),
    key(I::ChapA,                    "CHAP_A",                   Connection, Security,    Both,      Text),
    key(I::ChapC,                    "CHAP_C",                   Connection, Security,    Both,      Text),
    key(I::ChapI,                    "CHAP_I",                   Connection, Security,    Both,      Text),
    key(I::ChapN,                    "CHAP_N",                   Connection, Security,    Both,      Text),
    key(I::ChapR,                    "CHAP_R",                   Connection, Security,    Both,      Text),
    key(I::HeaderDigest,             "HeaderDigest",             Connection, Login,       Both,      List { default: "None" }),
    key(I::DataDigest,               "DataDigest",               Connection, Login,       Both,      List { default: "None" }),
    key(I::MaxConnections,           "MaxConnections",           Session,    Leading,     Both,      minimum(1, 65_535, 1)),
    key(I::SendTargets,              "SendTargets",              Session,    FullFeature, Initiator, Text),
    key(I::TargetName,               "TargetName",               Session,    Initial,     Initiator, Text),
    key(I::InitiatorName,            "InitiatorName",            Session,    Initial,     Initiator, Text),
    key(I::TargetAlias,              "TargetAlias",              Session,    Anytime,     Target,    Text),
    key(I::InitiatorAlias,           "InitiatorAlias",           Session,    Anytime,     Initiator, Text),
    key(I::TargetAddress,            "TargetAddress",            Session,    Anytime,     Target,    Text),
    key(I::TargetPortalGroupTag,     "TargetPortalGroupTag",     Session,    Initial,     Target,    Number { min: 0, max: 65_535 }),
    key(I::InitialR2T,               "InitialR2T",               Session,    Leading,     Both,      Or),
    key(I::ImmediateData,            "ImmediateData",            Session,    Leading,     Both,      And),
    key(I::MaxRecvDataSegmentLength, "MaxRecvDataSegmentLength", Connection, Anytime,     Both,      Number { min: 512, max: LONGEST }),
    key(I::MaxBurstLength,           "MaxBurstLength",           Session,    Leading,     Both,      minimum(512, LONGEST, 262_144)),
    key(I::FirstBurstLength,         "FirstBurstLength",         Session,    Leading,     Both,      minimum(512, LONGEST, 65_536)),
    key(I::DefaultTime2Wait,         "DefaultTime2Wait",         Session,    Leading,     Both,      Maximum { min: 0, max: 3600, default: 2 }),
    key(I::DefaultTime2Retain,       "DefaultTime2Retain",       Session,    Leading,     Both,      minimum(0, 3600, 20)),
    key(I::MaxOutstandingR2T,        "MaxOutstandingR2T",        Session,    Leading,     Both,      minimum(1, 65_535, 1)),
    key(I::DataPduInOrder,           "DataPDUInOrder",           Session,    Leading,     Both,      Or),
    key(I::DataSequenceInOrder,      "DataSequenceInOrder",      Session,    Leading,     Both,      Or),
    key(I::ErrorRecoveryLevel,       "ErrorRecoveryLevel",       Session,    Leading,     Both,      minimum(0, 2, 0)),
    key(I::SessionType,              "SessionType",              Session,    Leading,     Initiator, Text),
    key(I::TaskReporting,            "TaskReporting",            Session,    Leading,     Both,      List { default: "RFC3720" }),
    key(I::ProtocolLevel,            "iSCSIProtocolLevel",       Session,    Leading,     Both,      minimum(0, 31, 1)),
    key(I::NodeArchitecture,         "X#NodeArchitecture",       Session,    Leading,     Both,      Text),
    key(I::IfMarker,                 "IFMarker",                 Connection, Login,       Both,      Retired("No")),
    key(I::OfMarker,                 "OFMarker",                 Connection, Login,       Both,      Retired("No")),
    key(I::IfMarkInt,                "IFMarkInt",                Connection, Login,       Both,      Retired("Reject")),
    key(I::OfMarkInt,                "OFMarkInt",                Connection, Login,       Both,      Retired("Reject")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_stands_once_and_its_default_is_in_range() {
        for (index, key) in TABLE.iter().enumerate() {
            assert!(
                TABLE[..index].iter().all(|other| other.name != key.name && other.id != key.id),
                "{}",
                key.name
            );
            assert!(key.name.len() <= 63);
            if let Minimum { min, max, default } | Maximum { min, max, default } = key.rule {
                assert!((min..=max).contains(&default), "{}", key.name);
            }
        }
    }

    #[test]
    fn names_are_case_sensitive() {
        assert_eq!(Key::named("DataPDUInOrder").map(|k| k.id), Some(Id::DataPduInOrder));
        assert!(Key::named("datapduinorder").is_none());
        assert!(Key::named("X-com.example").is_none());
    }
}
