//! What an operator does to a running session, and what is shown of it.
//!
//! A path that is taken out carries nothing and is not tried until it is given back. Draining lets what is under way end and
//! logs out; failing it resets its connections at once, as a cut would, so that commands are moved. Whether enough is left
//! is for the operator's tools to ask first ([`Session::carries_beside`]): the engine does what it is told.

use super::Session;
use super::api::{Cause, ConnId, Control, Doubt, Fanout, How, PathId, PathState, Trigger, Tuning};
use super::nexus::{ConnState, HOME};
use crate::path::select::Selector;
use std::time::{Duration, Instant};

/// What is shown of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathStatus {
    /// State.
    pub state: PathState,
    /// Whether home's nexus has a connection over it.
    pub home: bool,
    /// Connections in full feature phase.
    pub connections: usize,
    /// Commands under way.
    pub commands: u32,
    /// How long the oldest of them has been.
    pub oldest: Option<Duration>,
    /// Weight, for the policies that use one.
    pub weight: u32,
    /// What makes it suspect.
    pub doubt: Option<Doubt>,
    /// When it is tried again, if it is down.
    pub retry_in: Option<Duration>,
    /// When it is normal again, if it is marginal and all goes well.
    pub calm_in: Option<Duration>,
    /// Tag of its portal group, as far as that is known.
    pub group: Option<u16>,
}

/// What is shown of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// How it is fanned out.
    pub fanout: Fanout,
    /// Connections of the initiator.
    pub lines: usize,
    /// Its paths, in the order of the plan.
    pub paths: Vec<PathStatus>,
    /// Commands of the initiator that are not answered.
    pub commands: usize,
    /// Those among them that are at no target.
    pub waiting: usize,
    /// Writes that may still reach a target over a path that was given up.
    pub ghosts: usize,
    /// How long home has been lost.
    pub outage: Option<Duration>,
    /// Bytes of write data held.
    pub memory: u64,
}

impl Session {
    pub(super) fn control(&mut self, control: Control, now: Instant) {
        match control {
            Control::GiveUp => self.give_up(now),
            Control::Drain(path) => self.take_out(path, now, Self::drain),
            Control::Fail(path) => self.take_out(path, now, |session, conn, now| {
                session.fail_conn(conn, Cause::Tcp("failed by the operator".into()), now);
            }),
            Control::Restore(path) => {
                if let Some(slot) = self.paths.get_mut(path.0).filter(|slot| slot.out) {
                    (slot.out, slot.retry_at) = (false, None);
                    self.changed = true;
                    self.path_turns(path, Trigger::Restored);
                }
            }
            Control::Weigh(path, weight) => {
                if let Some(load) = self.loads.get_mut(path.0) {
                    load.weight = weight.max(1);
                }
            }
        }
    }

    /// Takes over other settings. Everything that is due by them already is due now.
    pub(super) fn retune(&mut self, tuning: &Tuning, now: Instant) {
        if self.plan.policy != tuning.policy {
            self.selector = Selector::new(tuning.policy);
        }
        let (first, longest) = tuning.reconnect;
        for slot in &mut self.paths {
            slot.backoff.retune(first, longest);
            slot.retry_at = slot.retry_at.map(|at| at.min(now + longest));
        }
        let other_limits = self.plan.marginal != tuning.marginal;
        let plan = &mut self.plan;
        plan.policy = tuning.policy;
        (plan.queue_time, plan.exhausted) = (tuning.queue_time, tuning.exhausted);
        (plan.ping_interval, plan.ping_timeout) = (tuning.ping_interval, tuning.ping_timeout);
        (plan.silence_timeout, plan.task_timeout) = (tuning.silence_timeout, tuning.task_timeout);
        (plan.reconnect, plan.hedge, plan.marginal) = (tuning.reconnect, tuning.hedge, tuning.marginal);
        (plan.max_window, plan.memory_budget) = (tuning.max_window, tuning.memory_budget);
        if other_limits {
            self.retune_paths(now);
        }
        self.stuck_check_at = None;
        self.changed = true;
        self.solicit_more();
        self.open_window();
        self.handle_timeout(now);
    }

    fn take_out(&mut self, path: PathId, now: Instant, end: impl Fn(&mut Self, ConnId, Instant)) {
        let Some(slot) = self.paths.get_mut(path.0) else { return };
        slot.out = true;
        self.changed = true;
        self.path_turns(path, Trigger::Ordered);
        for id in self.conns.iter().filter(|c| c.path == path).map(|c| c.id).collect::<Vec<_>>() {
            end(self, id, now);
        }
    }

    fn drain(&mut self, id: ConnId, now: Instant) {
        let until = now + self.plan.task_timeout;
        let Some(conn) = self.conn_mut(id) else { return };
        match conn.state {
            ConnState::Up => {
                conn.state = ConnState::Draining(until);
                let path = conn.path;
                self.path_turns(path, Trigger::Ordered);
            }
            ConnState::Opening => {
                self.outputs.push_back(super::Output::Close(id, How::Reset));
                self.disconnected(id, Cause::Logout, now);
            }
            ConnState::Draining(_) | ConnState::LoggingOut(_) | ConnState::LoggedOut(_) => {}
        }
    }

    /// Whether commands could still be carried without a path.
    #[must_use]
    pub fn carries_beside(&self, path: PathId) -> bool {
        self.conns.iter().any(|c| c.path != path && c.state == ConnState::Up)
    }

    /// What is shown of the session.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let own = || self.tasks.iter().map(|(_, task)| task).filter(|task| task.is_initiators());
        Status {
            fanout: self.plan.fanout,
            lines: self.lines.len(),
            paths: (0..self.paths.len()).map(|path| self.path_status(PathId(path), now)).collect(),
            commands: own().count(),
            waiting: own().filter(|task| task.run.is_none()).count(),
            ghosts: self.ghosts.len(),
            outage: self.home_lost_since.map(|since| now.saturating_duration_since(since)),
            memory: self.memory(),
        }
    }

    fn path_status(&self, path: PathId, now: Instant) -> PathStatus {
        let conns = || self.conns.iter().filter(|c| c.path == path);
        let runs = self.tasks.iter().filter_map(|(_, task)| task.run.as_ref());
        let of_path = runs.filter(|run| conns().any(|c| c.id == run.conn));
        let oldest = of_path.map(|run| run.sent_at).min();
        let out = self.paths.get(path.0).is_some_and(|slot| slot.out);
        let retry_at = self.paths.get(path.0).and_then(|slot| slot.retry_at);
        let retry_at = retry_at.filter(|_| !out && conns().next().is_none());
        let calm_at = self.paths.get(path.0).and_then(|slot| slot.flaps.settles_at());
        PathStatus {
            state: self.paths.get(path.0).map_or(PathState::Down, |slot| slot.state),
            home: conns().any(|c| c.nexus == HOME && c.state != ConnState::Opening),
            connections: conns().filter(|c| c.state != ConnState::Opening).count(),
            commands: self.in_flight(path),
            oldest: oldest.map(|at| now.saturating_duration_since(at)),
            weight: self.loads.get(path.0).map_or(1, |load| load.weight),
            doubt: conns().find_map(|c| c.health.doubt()),
            retry_in: retry_at.map(|at| at.saturating_duration_since(now)),
            calm_in: calm_at.map(|at| at.saturating_duration_since(now)),
            group: self.group_of(path).and_then(|group| group.tag),
        }
    }
}
