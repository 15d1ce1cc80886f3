//! SendTargets (RFC 7143 appendix C): asked of targets, answered to initiators.

use crate::iscsi::text::KeyList;

/// One target and its addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetRecord {
    /// TargetName.
    pub name: String,
    /// `host:port` and portal group tag of each portal.
    pub portals: Vec<(String, u16)>,
}

/// Reads a SendTargets answer. A target without TargetAddress is at `default_address`; a missing port is 3260.
#[must_use]
pub fn parse_answer(keys: &KeyList, default_address: &str) -> Vec<TargetRecord> {
    todo!("{keys:?} {default_address}")
}

/// Writes a SendTargets answer; portals of a group stand together (R233).
#[must_use]
pub fn answer(targets: &[TargetRecord]) -> KeyList {
    todo!("{targets:?}")
}
