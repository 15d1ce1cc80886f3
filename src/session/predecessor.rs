//! What an earlier session of the same initiator may have left at the target: Braid died, or the session was killed.
//!
//! A session that ends in order leaves nothing ([`super::finish`]). One that does not leaves commands that may still
//! execute, on any nexus that it may have used: home, which the leading login of this session has reinstated (half a
//! fence on some targets); the further nexus of any path; and home in another portal group, where it may have moved to
//! when its own paths failed. So for `fence_time` from the end of the predecessor on, the first command for a unit
//! finds **ghosts** on the whole of it, one for each of these nexuses, and waits until they are laid
//! ([`super::recover`]) by the same fences as any others:
//! - A nexus that lives was reinstated by this session: what makes sure that nothing still runs follows at once.
//! - A further nexus that is down, home's path's own for one, is reinstated over a living path of its portal group.
//! - So is a **stray**, home as it may be in another portal group, of the same target or of another: with the initiator's own ISID, over
//!   a path there. There is one for each path until its group is known, then one for each group. (This session's home may
//!   leave one too, when it moves to another group.)
//! - The portal group of a path that has not been up is not known, and time must do.
//!
//! Nexuses of paths that the predecessor had under other names are not known: after such a change of the configuration
//! and a crash at once, let `fence_time` pass.
//!
//! The ghosts go when this session ends: whoever made the next one's plan knows of the predecessor too.

use super::Session;
use super::api::PathId;
use super::group::Group;
use super::nexus::{HOME, Nexus, NexusId, NexusState};
use super::recover::Ghost;
use crate::iscsi::Lun;
use std::time::Instant;

impl Session {
    /// Home in the portal group of a path, if that is another one than home's.
    fn stray(&self, path: PathId) -> NexusId {
        1 + self.paths.len() + path.0
    }

    pub(super) fn is_stray(&self, nexus: NexusId) -> bool {
        nexus > self.paths.len()
    }

    /// One for each path; they stand behind the nexuses of the paths.
    pub(super) fn build_strays(&mut self) {
        let count = self.plan.paths.len();
        let stray = |path| Nexus::new(self.plan.home.isid, self.target_of(PathId(path)), self.now);
        let strays: Vec<Nexus> = (0..count).map(stray).collect();
        self.nexuses.extend(strays);
    }

    /// The first command for a unit: whatever a predecessor sent there may still execute. A unit that is not `tracked`
    /// is left to time.
    pub(super) fn fear_predecessor(&mut self, lun: Lun, tracked: bool, now: Instant) {
        let Some(since) = self.plan.predecessor.filter(|since| now < *since + self.quarantine()) else {
            return;
        };
        let known = !tracked && self.ghosts.iter().any(|g| g.inherited && g.lun == lun);
        if known || broken!(self.rules, PredecessorForgotten) {
            return;
        }
        // A path that is alone carries home and nothing else.
        let further = if self.paths.len() > 1 { self.paths.len() } else { 0 };
        let mut nexuses: Vec<NexusId> = (HOME..=further).collect();
        for path in 0..self.paths.len() {
            let held_by = self.nexus_in_group_of(PathId(path));
            if !nexuses.contains(&held_by) {
                nexuses.push(held_by);
            }
        }
        for nexus in &nexuses {
            self.next_ghost += 1;
            let (id, path) = (self.next_ghost, self.path_of(*nexus));
            let lun_there = self.lun_there(lun, *nexus);
            self.order.inherit(id, lun);
            self.ghosts.push(Ghost {
                id,
                nexus: *nexus,
                lun,
                lun_there,
                path,
                since,
                timed: !tracked,
                inherited: true,
                owner: None,
                alone: false,
            });
        }
        self.changed = true;
        for nexus in nexuses {
            self.fence_living(nexus, now);
        }
    }

    /// The nexus that has the initiator's own ISID in the portal group of a path.
    fn nexus_in_group_of(&self, path: PathId) -> NexusId {
        let own = self.stray(path);
        let Some(group) = self.group_of(path).filter(|g| g.tag.is_some()) else { return own };
        if self.group_in(HOME) == Some(group) {
            return HOME;
        }
        let mut strays = 1 + self.paths.len()..self.nexuses.len();
        strays.find(|n| self.group_in(*n) == Some(group)).unwrap_or(own)
    }

    /// The portal group of a path is known now: which nexus the ghosts are of that were feared there.
    pub(super) fn group_known(&mut self, path: PathId, now: Instant) {
        let (stray, group) = (self.stray(path), self.group_of(path));
        if self.group_in(stray).is_none_or(|g| g.tag.is_some()) {
            return;
        }
        let nexus = self.nexus_in_group_of(path);
        if nexus == stray {
            if let (Some(stray), Some(group)) = (self.nexuses.get_mut(stray), group) {
                stray.group = group;
            }
        } else {
            self.hand_over_ghosts(stray, nexus, now);
        }
    }

    fn hand_over_ghosts(&mut self, from: NexusId, to: NexusId, now: Instant) {
        // Where home is, it was reinstated by the login over the path it has now.
        let path = self.path_of(to);
        for ghost in self.ghosts.iter_mut().filter(|g| g.nexus == from) {
            (ghost.nexus, ghost.path) = (to, path);
        }
        self.fence_living(to, now);
    }

    /// Home begins to log in, perhaps in the portal group of a stray: two logins of one ISID would end each other.
    pub(super) fn recall_strays(&mut self, now: Instant) {
        for nexus in 1 + self.paths.len()..self.nexuses.len() {
            while let Some(id) = self.conns.iter().find(|c| c.nexus == nexus).map(|c| c.id) {
                self.close_conn(id, super::How::Reset, now);
            }
        }
    }

    /// A nexus has logged in to another portal group than before. Its ghosts stay behind: home's become a stray's, and
    /// those of a stray that was there already are home's now; for those of other nexuses time must do.
    pub(super) fn left_group(&mut self, nexus: NexusId, left: Group) {
        let strays = 1 + self.paths.len()..self.nexuses.len();
        let group = self.group_in(nexus);
        let of_group = |group| strays.clone().find(|n| self.group_in(*n) == group);
        let (mut behind, mut here) = (None, None);
        if nexus == HOME {
            let path = self.paths.iter().position(|p| p.group == left);
            behind = of_group(Some(left)).or_else(|| path.map(|p| self.stray(PathId(p))));
            here = of_group(group);
        }
        for ghost in &mut self.ghosts {
            if ghost.nexus == nexus {
                ghost.nexus = behind.unwrap_or(NexusId::MAX);
                ghost.timed |= behind.is_none();
            } else if here == Some(ghost.nexus) {
                ghost.nexus = nexus;
            }
        }
        if let Some(stray) = behind.and_then(|n| self.nexuses.get_mut(n)) {
            stray.group = left;
        }
    }

    /// Whether a nexus that is down may be reinstated only to fence it.
    pub(super) fn may_fence(&self, nexus: NexusId) -> bool {
        let home = self.nexus(HOME);
        let stays = home.is_some_and(|h| matches!(h.state, NexusState::Up | NexusState::Settling));
        let elsewhere = self.group_in(HOME) != self.group_in(nexus);
        !self.is_stray(nexus) || elsewhere && (stays || self.finishing.is_some())
    }

    /// What was feared of a predecessor is no longer this session's business.
    pub(super) fn leave_predecessor(&mut self) {
        self.lay_ghosts(|g| g.inherited);
    }
}
