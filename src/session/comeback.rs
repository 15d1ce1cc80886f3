//! Paths that come back: how soon they are tried, how much they are given at first, and which are kept for emergencies.
//!
//! # How soon
//! After each failure the next attempt waits longer ([`crate::path::backoff`]), and when a link of this machine comes up there is
//! one at once ([`Session::try_paths_again`]). While no path works that is trusted everything waits for the first that does: then
//! no path is left alone for longer than [`ALONE`], however often it has failed before.
//!
//! # How much
//! A path that was lost may be lost again soon, and what is behind it may be cold. So where others have carried on, its share
//! of the commands grows from nearly nothing to the whole within [`SLOW_START`].
//!
//! # Marginal
//! A path that was lost too often of late works, but is not relied on ([`crate::path::flaps`]): as long as another works that is
//! not marginal, no new command goes there ([`super::watch::Standing`]), and home does not move there. What is under way there
//! stays. Where all paths are marginal they are used as if none were. What a lossy link does to a path short of losing it is
//! the business of suspicion, which lasts the longer the more often it comes ([`crate::path::health`]).

use super::Session;
use super::api::{Cause, Notice, PathId, Trigger};
use super::nexus::{Conn, ConnState, Role};
use crate::path::select::{FULL_SHARE, PathLoad};
use std::time::{Duration, Instant};

/// While no path is trusted each is tried again within this, unless the first delay is set to more.
const ALONE: Duration = Duration::from_secs(2);
/// In this time the share of a path that is back grows to the whole.
const SLOW_START: Duration = Duration::from_secs(5);

impl Session {
    /// Whether a path is kept for emergencies.
    pub(super) fn is_marginal(&self, path: PathId) -> bool {
        self.paths.get(path.0).is_some_and(|slot| slot.flaps.is_marginal())
    }

    /// A connection ended that nobody had wanted to end.
    pub(super) fn count_loss(&mut self, conn: &Conn, cause: &Cause, now: Instant) {
        let wanted = *cause == Cause::Logout || conn.role == Role::Fencing || self.finishing.is_some();
        if conn.state != ConnState::Up || wanted {
            return;
        }
        let (path, limits) = (conn.path, self.plan.marginal);
        let Some(slot) = self.paths.get_mut(path.0).filter(|slot| !slot.out) else { return };
        slot.was_lost = true;
        if slot.flaps.lost(&limits, now) {
            self.note(Notice::PathMarginal { path });
            self.path_turns(path, Trigger::Demoted);
        }
    }

    /// Paths that have been calm for long enough are normal again.
    pub(super) fn settle_paths(&mut self, now: Instant) {
        self.calm_paths(|slot| slot.up && slot.flaps.settle(now));
    }

    /// Other limits hold from now on.
    pub(super) fn retune_paths(&mut self, now: Instant) {
        let limits = self.plan.marginal;
        self.calm_paths(|slot| slot.flaps.retune(&limits, now));
    }

    fn calm_paths(&mut self, mut is_calm: impl FnMut(&mut super::nexus::PathSlot) -> bool) {
        for index in 0..self.paths.len() {
            if self.paths.get_mut(index).is_some_and(&mut is_calm) {
                self.path_turns(PathId(index), Trigger::Calmed);
            }
        }
    }

    /// When the first path is normal again.
    pub(super) fn calm_deadline(&self) -> Option<Instant> {
        self.paths.iter().filter(|slot| slot.up).filter_map(|slot| slot.flaps.settles_at()).min()
    }

    /// A path works, and it did not before.
    pub(super) fn path_returns(&mut self, path: PathId, now: Instant) {
        if let Some(slot) = self.paths.get_mut(path.0)
            && !slot.up
        {
            slot.flaps.returned(now);
            slot.returned_at = std::mem::take(&mut slot.was_lost).then_some(now);
        }
    }

    /// Gives paths that are back what is due to them by now.
    pub(super) fn grow_shares(&mut self, now: Instant) {
        for (slot, load) in self.paths.iter_mut().zip(&mut self.loads) {
            if let Some(at) = slot.returned_at {
                load.share = share_after(now.saturating_duration_since(at));
                slot.returned_at.take_if(|_| load.share == FULL_SHARE);
            }
        }
    }

    /// The next attempt over this path waits.
    pub(super) fn path_failed(&mut self, path: PathId, now: Instant) {
        let still_up = self.conns.iter().any(|c| c.path == path && c.state == ConnState::Up);
        let (alone, first) = (self.is_alone(), self.plan.reconnect.0);
        let Some(slot) = self.paths.get_mut(path.0) else { return };
        slot.up = still_up;
        let times = if broken!(self.rules, FailedPathNotRetried) { 1 << 20 } else { 1 };
        let delay = slot.backoff.next_delay();
        let delay = if alone && delay > ALONE.max(first) { slot.backoff.soon(ALONE) } else { delay };
        slot.retry_at = Some(now + delay * times);
    }

    fn is_alone(&self) -> bool {
        let carries = |c: &Conn| matches!(c.state, ConnState::Up | ConnState::Draining(_));
        !self.conns.iter().any(|c| carries(c) && c.health.doubt().is_none())
    }

    /// If no path is trusted any more none waits for long.
    pub(super) fn hurry(&mut self, now: Instant) {
        if !self.is_alone() {
            return;
        }
        let latest = now + ALONE.max(self.plan.reconnect.0);
        for slot in self.paths.iter_mut().filter(|slot| slot.retry_at.is_some_and(|at| at > latest)) {
            slot.retry_at = Some(now + slot.backoff.soon(ALONE));
        }
    }

    /// A link of this machine came up: paths that wait for their turn are tried at once, but not over and over while a link
    /// flaps.
    pub(super) fn try_paths_again(&mut self, now: Instant) {
        let first = self.plan.reconnect.0;
        for slot in self.paths.iter_mut().filter(|slot| slot.retry_at.is_some_and(|at| at > now)) {
            if slot.hurried_at.is_none_or(|at| now >= at + first) {
                (slot.retry_at, slot.hurried_at) = (Some(now), Some(now));
                self.changed = true;
            }
        }
    }

    /// Something was answered: once a connection has lived longer than the longest delay, the next failure of its path
    /// is tried again soon.
    pub(super) fn path_answered(&mut self, id: super::ConnId, now: Instant) {
        let Some((path, since)) = self.conn(id).map(|c| (c.path, c.up_since)) else { return };
        if now >= since + self.plan.reconnect.1
            && let Some(slot) = self.paths.get_mut(path.0)
        {
            slot.backoff.reset();
        }
    }
}

fn share_after(time: Duration) -> u32 {
    let grown = time.as_millis() * u128::from(FULL_SHARE) / SLOW_START.as_millis();
    u32::try_from(grown).unwrap_or(FULL_SHARE).clamp(PathLoad::LEAST_SHARE, FULL_SHARE)
}
