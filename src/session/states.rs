//! How each path stands ([`crate::path::state`]), noted whenever a connection or the path changes, and told where that makes a
//! difference.

use super::Session;
use super::api::{Notice, PathId, PathState, Trigger};
use super::nexus::{Conn, ConnState, Role};

impl Session {
    /// Something happened to a path that may have put it into another state: that is told. Once the session ends every path
    /// goes, and nobody needs to know.
    pub(super) fn path_turns(&mut self, path: PathId, trigger: Trigger) {
        let to = self.state_of(path);
        let Some(slot) = self.paths.get_mut(path.0) else { return };
        let from = std::mem::replace(&mut slot.state, to);
        if from != to && self.finishing.is_none() {
            self.note(Notice::PathState { path, from, to, trigger });
        }
    }

    /// How a path stands: as well as the best of its connections, but none is trusted where one is suspect
    /// ([`super::watch`]). A connection that only fences makes no difference, unless it is suspect.
    pub(super) fn state_of(&self, path: PathId) -> PathState {
        let conns = || self.conns.iter().filter(|c| c.path == path);
        let any = |is: fn(&Conn) -> bool| conns().any(|c| c.role != Role::Fencing && is(c));
        match () {
            () if any(|c| c.state == ConnState::Up) && self.is_suspect(path) => PathState::Suspect,
            () if any(|c| c.state == ConnState::Up) && self.is_marginal(path) => PathState::Marginal,
            () if any(|c| c.state == ConnState::Up) => PathState::Up,
            () if any(|c| c.state != ConnState::Opening) => PathState::Draining,
            () if any(|_| true) => PathState::Probing,
            () if self.paths.get(path.0).is_some_and(|slot| slot.out) => PathState::Drained,
            () => PathState::Down,
        }
    }
}
