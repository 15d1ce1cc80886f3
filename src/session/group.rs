//! Targets, and their portal groups.
//!
//! A nexus is between an initiator port (name and ISID) and a target portal group, and that is one of a target: two targets
//! may use the same tag. So a [`Group`] is the pair, and everywhere in the engine portals are of one group only if both
//! agree: what joins a session (R5), where a session can be reinstated (R9), what is fenced by that, and whose port groups a
//! unit tells of.

use super::Session;
use super::api::PathId;
use super::nexus::{HOME, NexusId};

/// A target among those that the paths lead to, told apart by their names.
pub(super) type TargetId = usize;

/// A target portal group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) target: TargetId,
    /// Its tag; none while it is not known, and where the target does not tell it.
    pub(super) tag: Option<u16>,
}

impl Group {
    /// Whether the two are known to be different ones.
    pub(super) fn is_apart_from(self, other: Self) -> bool {
        let tags_differ = self.tag.is_some() && other.tag.is_some() && self.tag != other.tag;
        self.target != other.target || tags_differ
    }
}

impl Session {
    /// The target that a path leads to: the place of the first path to a target of this name.
    pub(super) fn target_of(&self, path: PathId) -> TargetId {
        let name = self.plan.paths.get(path.0).map(|p| &p.target);
        self.plan.paths.iter().position(|p| Some(&p.target) == name).unwrap_or_default()
    }

    /// The portal group that a path leads to, as far as it is known.
    pub(super) fn group_of(&self, path: PathId) -> Option<Group> {
        self.paths.get(path.0).map(|p| p.group)
    }

    /// The portal group that a nexus is in, or would be.
    pub(super) fn group_in(&self, nexus: NexusId) -> Option<Group> {
        self.nexus(nexus).map(|n| n.group)
    }

    /// Whether a path's connection may become one of home's session, as far as is known.
    pub(super) fn may_join_home(&self, path: PathId) -> bool {
        let same_target = self.group_in(HOME).is_some_and(|home| home.target == self.target_of(path));
        let joins = same_target || broken!(self.rules, OtherTargetJoined);
        joins && self.paths.get(path.0).is_some_and(|slot| !slot.own_nexus)
    }
}
