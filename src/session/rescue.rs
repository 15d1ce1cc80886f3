//! A way out of a session of several connections of which one is silent.
//!
//! The connections of a session share its command numbers. What was sent over a silent one and has not arrived leaves holes,
//! and behind a hole targets run nothing (TARGETS section 3): all its connections wait. So while one of home's is suspect, a
//! path on which home's own connection is trusted gets a nexus of its own besides, a **rescue**. What is caught in home's session
//! is asked again over it ([`super::evade`]), and new commands go there; it is like any further nexus, and proves its units
//! first. When home has been well for [`LINGER`] the rescue is drained and logged out.

use super::Session;
use super::api::{Fanout, PathId, Trigger};
use super::nexus::{Conn, ConnState, HOME, NexusState, Role};
use std::time::{Duration, Instant};

/// How long home must have been well before it is trusted to stay so.
const LINGER: Duration = Duration::from_secs(10);

impl Session {
    /// Opens a rescue if home needs one, and lets it go when home has been well for long enough.
    pub(super) fn tend_rescues(&mut self, now: Instant) {
        if self.plan.fanout != Fanout::Mcs || broken!(self.rules, NobodyRescued) {
            return;
        }
        let of_home = |c: &&Conn| c.nexus == HOME && c.state != ConnState::Opening;
        let silent = self.conns.iter().filter(of_home).any(|c| c.health.doubt().is_some());
        let well = self.home_state() == NexusState::Up && !silent;
        if !well || !self.conns.iter().any(|c| self.is_rescue(c)) {
            self.rescued_until = None;
        }
        if silent && let Some(path) = self.rescue_path(now) {
            let own = path.0 + 1;
            self.set_nexus_state(own, NexusState::Opening);
            self.open(path, own, Role::Leading, now);
        } else if well {
            self.let_rescues_go(now);
        }
    }

    /// When a rescue is let go.
    pub(super) fn rescue_deadline(&self) -> Option<Instant> {
        self.rescued_until
    }

    /// A nexus of its own in full service on a path that could join home.
    fn is_rescue(&self, conn: &Conn) -> bool {
        let own = conn.nexus == conn.path.0 + 1 && conn.role == Role::Leading;
        own && conn.state == ConnState::Up && self.may_join_home(conn.path)
    }

    /// Where a rescue can be had, if there is nothing else that serves.
    fn rescue_path(&self, now: Instant) -> Option<PathId> {
        let opens = |c: &Conn| c.state == ConnState::Opening || c.state == ConnState::Up;
        let serves = |c: &Conn| c.nexus != HOME && c.role != Role::Fencing && !self.is_suspect(c.path);
        if self.conns.iter().any(|c| opens(c) && serves(c)) {
            return None;
        }
        let trusted = |c: &&Conn| c.nexus == HOME && c.state == ConnState::Up && c.health.doubt().is_none();
        let free = |path: &PathId| self.nexus(path.0 + 1).is_some_and(|n| n.state == NexusState::Down);
        let ready = |path: &PathId| free(path) && self.path_ready(*path, now) && !self.has_other_luns(*path);
        let paths = self.conns.iter().filter(trusted).map(|c| c.path).filter(ready);
        paths.min_by_key(|path| self.is_marginal(*path))
    }

    fn let_rescues_go(&mut self, now: Instant) {
        let rescues: Vec<_> = self.conns.iter().filter(|c| self.is_rescue(c)).map(|c| c.id).collect();
        if rescues.is_empty() || *self.rescued_until.get_or_insert(now + LINGER) > now {
            return;
        }
        self.rescued_until = None;
        let until = now + self.plan.task_timeout;
        for id in rescues {
            let Some(conn) = self.conn_mut(id) else { continue };
            conn.state = ConnState::Draining(until);
            let path = conn.path;
            self.path_turns(path, Trigger::Dispensable);
        }
    }
}
