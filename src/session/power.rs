//! Targets that lost power, as nexuses other than home tell of it (29h/01h).
//!
//! Every login after a power loss may be greeted with it, long after the event, and so does it not need to be told like other
//! attentions. Home tells of its own target. Of another target, or while home is away, the initiator must hear of it
//! - if what it wrote may have been lost with that target's write cache ([`super::caches`]). That is what was written before
//!   the power went, and it went before the oldest login that is known to live: a session does not outlive its target;
//! - if it is a stray ([`super::predecessor`]) that tells of it: a stray is home's own port in another portal group, and should
//!   home move there, it will not say this again. But not if another nexus with that target has told the same before, and
//!   lives.

use super::Session;
use super::attention::POWER_ON;
use super::nexus::{Conn, ConnState, HOME, NexusId, NexusState};
use crate::iscsi::Lun;
use std::time::Instant;

impl Session {
    /// Home tells that its target lost power, and the initiator hears it.
    pub(super) fn home_lost_power(&mut self, lun: Lun) {
        if let Some((target, writes)) = self.nexus(HOME).map(|n| (n.group.target, n.writes_before)) {
            self.cache_lost(lun, target, writes);
        }
    }

    /// A further nexus tells that its target lost power: since when that may have happened, if it is the initiator's business.
    pub(super) fn power_lost(&mut self, lun: Lun, nexus: NexusId) -> Option<Instant> {
        let target = self.group_in(nexus)?.target;
        let home_tells = self.home_state() == NexusState::Up;
        if home_tells && self.group_in(HOME).is_some_and(|g| g.target == target) {
            return None;
        }
        let with_target = |n: &NexusId| {
            let logged_in =
                |n: &super::nexus::Nexus| matches!(n.state, NexusState::Up | NexusState::Settling);
            *n != nexus && self.nexus(*n).is_some_and(|n| n.group.target == target && logged_in(n))
        };
        let others: Vec<NexusId> = (HOME..self.nexuses.len()).filter(with_target).collect();
        let own = self.nexus(nexus)?;
        let (login, own_writes) = (own.login_began, own.writes_before);
        let logged_in = self.conns.iter().filter(|c| c.nexus == nexus).map(|c| c.up_since).min();
        // One that has answered since then lives.
        let alive = |c: &Conn| c.state == ConnState::Up && logged_in.is_some_and(|at| c.newest_done >= at);
        let lives = |n: &NexusId| self.conns.iter().any(|c| c.nexus == *n && alive(c));
        let of_living = others.iter().filter(|n| lives(n)).filter_map(|n| self.nexus(*n));
        let writes = of_living.map(|n| n.writes_before).fold(own_writes, u64::min);
        let lost = self.cache_lost(lun, target, writes);
        let stray = self.is_stray(nexus);
        let unit = self.units.get(&lun)?.attentions();
        let told = |n: &NexusId| self.nexus(*n).is_some_and(|m| unit.has_told(*n, POWER_ON, m.login_began));
        let new_to_home = stray && !others.iter().any(told);
        (lost.is_some() || new_to_home).then(|| lost.or(self.home_lost_since).unwrap_or(login))
    }
}
