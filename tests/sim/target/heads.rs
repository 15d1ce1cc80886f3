//! One array, two targets: portal groups that belong to targets of different names (heads), which show the same units.
//!
//! Inside the model a portal group keeps a number of its own. What an initiator is told is the number within its target, so
//! that both targets have portal groups, target port groups and ports of the same numbers. What the device knows is common to
//! both heads (blocks as they are read, reservations, access states, unit attentions); each head has sessions, a write cache
//! and a power supply of its own.

use super::Target;

/// The names of the targets; the first is the only one where there are no two heads.
pub(crate) const NAMES: [&str; 2] = ["iqn.2026-11.org.example:target", "iqn.2026-11.org.example:twin"];

/// Which portal group belongs to which head.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Heads {
    pub(crate) two: bool,
    /// They have one write cache in common.
    pub(crate) one_cache: bool,
}

impl Heads {
    /// The head that a portal group belongs to.
    pub(crate) fn of(self, group: u16) -> usize {
        if self.two { usize::from(group - 1) % 2 } else { 0 }
    }

    /// The number that the initiator knows a portal group by.
    pub(crate) fn shown(self, group: u16) -> u16 {
        if self.two { (group - 1) / 2 + 1 } else { group }
    }
}

impl Target {
    /// There are two heads.
    pub(crate) fn set_heads(&mut self, heads: Heads) {
        self.heads = heads;
    }

    /// The write cache that takes what a session writes.
    pub(super) fn cache_of(&self, session: usize) -> usize {
        if self.heads.one_cache { 0 } else { self.head_of(session) }
    }

    /// The head that a session is with.
    pub(super) fn head_of(&self, session: usize) -> usize {
        self.heads.of(self.sessions[session].port.portal)
    }
}
