//! Upstream sessions and their connections: what exists, what is to be opened, and whether it lives.
//!
//! Nexus 0 is **home**: the initiator's own ISID; everything that is not plain block I/O goes there. Nexus `p + 1` is
//! the further nexus of path `p`, with an ISID derived from the initiator's by rule, so that a restarted Braid
//! reinstates the sessions of its predecessor. A path that carries home (alone, or as a connection of an MC/S session)
//! has no use for its own nexus. Behind these come strays ([`super::predecessor`]), which are only ever fenced.

use super::Session;
use super::api::{Cause, ConnId, Fanout, How, Notice, Output, PathId, PathState, Trigger};
use super::group::{Group, TargetId};
use super::reassign::Unacknowledged;
use super::sequence::{StatusNumbers, UpstreamWindow};
use super::tasks::CONTROL_TAG;
use super::watch::Quiet;
use crate::iscsi::{Cid, CmdSn, Isid, Itt, StatSn, Tsih};
use crate::login::{LoginKind, LoginPlan, Negotiated, SessionParams};
use crate::path::backoff::Backoff;
use crate::path::flaps::Flaps;
use crate::path::health::Health;
use std::collections::VecDeque;
use std::time::Instant;

/// Index into [`Session::nexuses`].
pub(super) type NexusId = usize;

/// The nexus that carries everything that is not plain block I/O.
pub(super) const HOME: NexusId = 0;

/// Life of a nexus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NexusState {
    /// No session at the target that is known to live.
    Down,
    /// The leading login is under way.
    Opening,
    /// Logged in, but not usable yet: ghosts are being fenced, or (home) unit attentions of the login cleared.
    Settling,
    /// Carries commands.
    Up,
}

/// One upstream session.
#[derive(Debug)]
pub(super) struct Nexus {
    pub(super) isid: Isid,
    pub(super) tsih: Tsih,
    pub(super) group: Group,
    pub(super) state: NexusState,
    pub(super) window: UpstreamWindow,
    pub(super) params: SessionParams,
    /// When its last leading login was sent.
    pub(super) login_began: Instant,
    /// So many writes had been answered when it succeeded.
    pub(super) writes_before: u64,
    next_cid: u16,
    /// When it may next be reinstated only to fence it.
    pub(super) fence_retry_at: Option<Instant>,
    /// Where tasks outlive their connection ([`super::reassign`]): requests not acknowledged yet, by CmdSN. Never more than the
    /// target's window admits.
    pub(super) unacknowledged: VecDeque<Unacknowledged>,
}

impl Nexus {
    /// One that has not logged in yet, to a target.
    pub(super) fn new(isid: Isid, target: TargetId, now: Instant) -> Self {
        Self {
            isid,
            fence_retry_at: None,
            tsih: Tsih(0),
            group: Group { target, tag: None },
            state: NexusState::Down,
            window: UpstreamWindow::new(CmdSn(1), CmdSn(0)),
            params: SessionParams::default(),
            login_began: now,
            writes_before: 0,
            next_cid: 0,
            unacknowledged: VecDeque::new(),
        }
    }
}

/// What a connection was opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Leading connection of its nexus.
    Leading,
    /// A further connection of home's session.
    Joining,
    /// Reinstates a further nexus over a foreign path, only to fence it; closed afterwards.
    Fencing,
}

/// Life of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnState {
    Opening,
    Up,
    /// No new commands; logs out when idle, at the latest at the deadline.
    Draining(Instant),
    /// Logout sent; closed when answered, at the latest at the deadline.
    LoggingOut(Instant),
    /// Logged out while the session ends; closed when the target has closed it, at the latest at the deadline.
    LoggedOut(Instant),
}

/// One upstream connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) path: PathId,
    pub(super) nexus: NexusId,
    pub(super) role: Role,
    pub(super) state: ConnState,
    pub(super) cid: Cid,
    pub(super) statuses: StatusNumbers,
    /// Longest data segment the target accepts, in bytes.
    pub(super) max_send: u32,
    pub(super) up_since: Instant,
    pub(super) last_heard: Instant,
    /// A ping was due since, and could not be sent without harm.
    pub(super) ping_put_off: bool,
    pub(super) ping: Option<(Itt, Instant)>,
    /// When anything but an echo came last, and when the youngest command answered so far had been sent.
    pub(super) last_answer: Instant,
    pub(super) newest_done: Instant,
    pub(super) health: Health,
    /// A sample was asked for, and has not come.
    pub(super) sample_owed: bool,
    pub(super) quiet: Quiet,
}

/// What is known of a path, whatever it carries.
#[derive(Debug)]
pub(super) struct PathSlot {
    pub(super) backoff: Backoff,
    pub(super) retry_at: Option<Instant>,
    /// Taken out by the operator.
    pub(super) out: bool,
    /// Cannot join home's session (MC/S refused, other portal group, no room): carries a nexus of its own.
    pub(super) own_nexus: bool,
    /// Where it leads.
    pub(super) group: Group,
    pub(super) up: bool,
    /// As it was told last ([`super::states`]).
    pub(super) state: PathState,
    /// When it was last tried out of its turn.
    pub(super) hurried_at: Option<Instant>,
    /// It was lost, and has not come back since.
    pub(super) was_lost: bool,
    /// When it came back, while its share of the commands grows.
    pub(super) returned_at: Option<Instant>,
    pub(super) flaps: Flaps,
}

/// The ISID of a path's own nexus: type 10b ("random"), the rest a hash of names that do not change over a restart
/// (R3, R7, R8).
fn derived_isid(home: Isid, initiator: &str, path: &str, taken: &[Isid]) -> Isid {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in home.0.iter().copied().chain(initiator.bytes()).chain([0]).chain(path.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    loop {
        let [_, _, _, b, c, d, e, f] = hash.to_be_bytes();
        let isid = Isid([0x80, b, c, d, e, f]);
        if !taken.contains(&isid) {
            return isid;
        }
        hash = hash.wrapping_add(1);
    }
}

impl Session {
    /// Home as logged in by the driver, and one nexus for each path.
    pub(super) fn build_nexuses(&mut self, now: Instant) {
        let mut isids = vec![self.plan.home.isid];
        self.nexuses.push(Nexus::new(self.plan.home.isid, self.target_of(self.plan.home_path), now));
        for (index, path) in self.plan.paths.iter().enumerate() {
            let target = self.target_of(PathId(index));
            let isid = derived_isid(self.plan.home.isid, &self.plan.home.initiator_name, &path.name, &isids);
            isids.push(isid);
            self.nexuses.push(Nexus::new(isid, target, now));
            let (first, longest) = self.plan.reconnect;
            self.paths.push(PathSlot {
                backoff: Backoff::new(first, longest, self.plan.seed.wrapping_add(index as u64)),
                retry_at: None,
                out: path.out,
                own_nexus: self.plan.fanout == Fanout::Sessions,
                group: Group { target, tag: None },
                up: false,
                state: PathState::Down,
                hurried_at: None,
                was_lost: false,
                returned_at: None,
                flaps: Flaps::default(),
            });
        }
        for index in 0..self.paths.len() {
            self.path_turns(PathId(index), Trigger::Ordered);
        }
        self.build_strays();
        let (path, negotiated) = (self.plan.home_path, self.plan.home.clone());
        self.next_conn = 1;
        self.conns.push(self.new_conn(super::SessionPlan::HOME_CONN, path, HOME, Role::Leading, now));
        self.path_turns(path, Trigger::Tried);
        self.adopt(super::SessionPlan::HOME_CONN, &negotiated, now);
        self.group_known(path, now);
        if let Some(home) = self.nexuses.get_mut(HOME) {
            home.state = NexusState::Up;
        }
    }

    fn new_conn(&self, id: ConnId, path: PathId, nexus: NexusId, role: Role, now: Instant) -> Conn {
        Conn {
            id,
            path,
            nexus,
            role,
            state: ConnState::Opening,
            cid: Cid(0),
            statuses: StatusNumbers::new(StatSn(0)),
            max_send: 8192,
            up_since: now,
            last_heard: now,
            ping_put_off: false,
            ping: None,
            last_answer: now,
            newest_done: now,
            health: Health::new(),
            sample_owed: false,
            quiet: Quiet::new(now),
        }
    }

    pub(super) fn conn(&self, id: ConnId) -> Option<&Conn> {
        self.conns.iter().find(|c| c.id == id)
    }

    pub(super) fn conn_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.iter_mut().find(|c| c.id == id)
    }

    pub(super) fn nexus(&self, id: NexusId) -> Option<&Nexus> {
        self.nexuses.get(id)
    }

    pub(super) fn home_state(&self) -> NexusState {
        self.nexus(HOME).map_or(NexusState::Down, |n| n.state)
    }

    pub(super) fn set_nexus_state(&mut self, id: NexusId, state: NexusState) {
        self.changed = true;
        if let Some(nexus) = self.nexuses.get_mut(id) {
            nexus.state = state;
        }
    }

    /// Opens what is missing and may be opened now. Called after every event; does nothing while finishing, except
    /// that fences still need their connections.
    pub(super) fn maintain(&mut self, now: Instant) {
        if self.finishing.is_none() {
            self.open_home(now);
            for index in 0..self.paths.len() {
                self.open_path(PathId(index), now);
            }
            self.tend_rescues(now);
        }
        self.open_fences(now);
    }

    pub(super) fn path_ready(&self, path: PathId, now: Instant) -> bool {
        let wanted = |out: bool| !out || broken!(self.rules, DrainedPathTried);
        self.paths.get(path.0).is_some_and(|p| wanted(p.out) && p.retry_at.is_none_or(|at| at <= now))
    }

    /// Home must be somewhere: over a path that works, else over one that nothing speaks against, else over any that may be
    /// tried. (A login over a silent path takes seconds to fail.)
    fn open_home(&mut self, now: Instant) {
        if self.home_state() != NexusState::Down {
            return;
        }
        // A path over which the last attempt failed waits for its turn, even if other sessions live on it.
        // One that shows other units under the initiator's LUNs is none for it.
        let ready = |path: &PathId| self.path_ready(*path, now) && !self.has_other_luns(*path);
        let fits = |c: &&Conn| self.home_path_ok(c.path) && !self.has_other_luns(c.path);
        let living = |c: &&Conn| c.state == ConnState::Up && fits(c) && !self.is_suspect(c.path);
        let lives = self.conns.iter().any(|c| living(&c));
        let blemish = |path: &PathId| {
            let failed = self.paths.get(path.0).is_some_and(|p| p.retry_at.is_some());
            (self.is_suspect(*path), self.is_marginal(*path), failed)
        };
        let others = (0..self.paths.len()).map(PathId).filter(ready);
        let other =
            others.min_by_key(blemish).filter(|path| !lives || blemish(path) == (false, false, false));
        let lived = self.conns.iter().filter(living).map(|c| c.path).filter(ready);
        let path = lived.min_by_key(|path| self.is_marginal(*path)).or(other);
        let Some(path) = path else { return };
        self.recall_strays(now);
        self.set_nexus_state(HOME, NexusState::Opening);
        self.open(path, HOME, Role::Leading, now);
    }

    /// Reinstating a nexus needs a portal of its own portal group (R9).
    fn home_path_ok(&self, path: PathId) -> bool {
        self.group_of(path) == self.group_in(HOME)
    }

    fn open_path(&mut self, path: PathId, now: Instant) {
        let busy = |c: &Conn| c.path == path && c.role != Role::Fencing;
        if !self.path_ready(path, now) || self.conns.iter().any(busy) {
            return;
        }
        let joins = self.may_join_home(path);
        let room = self.conns.iter().filter(|c| c.nexus == HOME).count()
            < self.nexus(HOME).map_or(0, |n| usize::from(n.params.max_connections));
        if joins && room {
            if self.home_state() == NexusState::Up && !self.home_leaves() && !self.is_recovering(HOME) {
                self.open(path, HOME, Role::Joining, now);
            }
            return;
        }
        let own = path.0 + 1;
        if self.nexus(own).is_some_and(|n| n.state == NexusState::Down)
            && (!joins || self.home_state() == NexusState::Up)
        {
            self.set_nexus_state(own, NexusState::Opening);
            self.open(path, own, Role::Leading, now);
        }
    }

    /// Whether the last connection of home was logged out, and with it the session: nothing joins it any more (R211).
    fn home_leaves(&self) -> bool {
        let stays = |c: &Conn| matches!(c.state, ConnState::Up | ConnState::Draining(_));
        !self.conns.iter().any(|c| c.nexus == HOME && stays(c))
    }

    /// Starts a login over `path`.
    pub(super) fn open(&mut self, path: PathId, nexus: NexusId, role: Role, now: Instant) {
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        let mut conn = self.new_conn(id, path, nexus, role, now);
        let Some(target) = self.nexuses.get_mut(nexus) else { return };
        if role == Role::Joining {
            // One that no connection of the session has, so that the login adds one and replaces none (R33).
            let taken = |cid| self.conns.iter().any(|c| c.nexus == nexus && c.cid == Cid(cid));
            target.next_cid = target.next_cid.wrapping_add(1);
            while taken(target.next_cid) {
                target.next_cid = target.next_cid.wrapping_add(1);
            }
            conn.cid = Cid(target.next_cid);
        } else {
            target.login_began = now;
        }
        let mut plan = login_plan(&self.plan.home_login, target, role, nexus, conn.cid);
        if let Some(path) = self.plan.paths.get(path.0) {
            plan.target_name.clone_from(&path.target);
        }
        let fencing = role != Role::Joining && self.ghosts.iter().any(|g| g.nexus == nexus);
        if fencing && broken!(self.rules, FenceWithAnotherIsid) {
            plan.isid.0 = plan.isid.0.map(|byte| byte ^ 1);
        }
        self.conns.push(conn);
        self.path_turns(path, Trigger::Tried);
        self.outputs.push_back(Output::Open(id, path, Box::new(plan)));
    }

    /// A login succeeded.
    pub(super) fn connected(&mut self, id: ConnId, negotiated: &Negotiated, now: Instant) {
        let Some(conn) = self.conn(id) else {
            self.outputs.push_back(Output::Close(id, How::Graceful));
            return;
        };
        let (path, nexus, role) = (conn.path, conn.nexus, conn.role);
        self.changed = true;
        let met = Group { target: self.target_of(path), tag: negotiated.tpgt };
        let Some(expected) = self.group_in(nexus) else { return };
        let foreign = met.is_apart_from(expected);
        if role != Role::Leading && foreign && !broken!(self.rules, ForeignGroupJoined) {
            // Another portal group cannot carry this nexus (R5): the path gets a nexus of its own.
            self.close_conn(id, How::Graceful, now);
            if let Some(slot) = self.paths.get_mut(path.0) {
                slot.own_nexus = true;
                slot.group = met;
            }
            self.group_known(path, now);
            return;
        }
        self.adopt(id, negotiated, now);
        if nexus == HOME && role == Role::Leading && std::mem::replace(&mut self.home_path, path) != path {
            self.home_moved(path, now);
        }
        if foreign && role == Role::Leading && !broken!(self.rules, ForeignGroupFences) {
            // In another portal group it is another nexus (R9): its login says nothing of the old one's tasks.
            self.left_group(nexus, expected);
        }
        self.group_known(path, now);
        match role {
            Role::Joining => {}
            Role::Leading | Role::Fencing => self.settle(nexus, now),
        }
    }

    /// Takes over what a login agreed.
    fn adopt(&mut self, id: ConnId, negotiated: &Negotiated, now: Instant) {
        let Some(conn) = self.conns.iter_mut().find(|c| c.id == id) else { return };
        conn.state = ConnState::Up;
        conn.statuses = StatusNumbers::new(negotiated.stat_sn);
        conn.max_send = negotiated.connection.max_send_data_segment.max(512);
        conn.up_since = now;
        conn.last_heard = now;
        conn.cid = negotiated.cid;
        let (path, nexus, role) = (conn.path, conn.nexus, conn.role);
        let (target_id, writes) = (self.target_of(path), self.writes_answered());
        if let Some(target) = self.nexuses.get_mut(nexus) {
            if role == Role::Joining {
                if broken!(self.rules, JoiningTakesCmdSn) {
                    target.window.take();
                }
                target.window.update(target.window.current(), negotiated.max_cmd_sn);
            } else {
                let wide = negotiated.max_cmd_sn.max(negotiated.cmd_sn.plus(31));
                let max_cmd_sn =
                    if broken!(self.rules, FirstWindowIgnored) { wide } else { negotiated.max_cmd_sn };
                target.window = UpstreamWindow::new(negotiated.cmd_sn, max_cmd_sn);
                target.unacknowledged.clear();
                target.writes_before = writes;
                target.params = negotiated.session.clone();
                target.tsih = negotiated.tsih;
                let known = target.group.tag.filter(|_| target.group.target == target_id);
                target.group = Group { target: target_id, tag: negotiated.tpgt.or(known) };
                target.next_cid = negotiated.cid.0;
            }
        }
        for quirk in negotiated.quirks.iter() {
            self.note(Notice::Quirk { path, quirk });
        }
        if role != Role::Fencing {
            self.path_returns(path, now);
        }
        let known = self.group_in(nexus).and_then(|g| g.tag);
        if let Some(slot) = self.paths.get_mut(path.0) {
            slot.group.tag = negotiated.tpgt.or(known);
            if role != Role::Fencing {
                slot.retry_at = None;
                slot.up = true;
                self.path_turns(path, Trigger::Connected);
                self.note(Notice::PathUp { path, home: nexus == HOME });
            }
        }
    }

    /// A connection could not be made or was lost.
    pub(super) fn disconnected(&mut self, id: ConnId, cause: Cause, now: Instant) {
        let Some(conn) = self.conn(id) else { return };
        let (path, nexus, role, state, cid) = (conn.path, conn.nexus, conn.role, conn.state, conn.cid);
        self.changed = true;
        let carried = matches!(state, ConnState::Up | ConnState::Draining(_));
        let cut = carried && matches!(cause, Cause::Tcp(_));
        if matches!(state, ConnState::LoggedOut(_)) {
            self.close_conn(id, How::Graceful, now);
            return;
        }
        let was_up = state != ConnState::Opening;
        if !was_up && role == Role::Joining && matches!(cause, Cause::Login(_)) {
            // The target does not take it into the session (R46): the path gets a nexus of its own.
            if let Some(slot) = self.paths.get_mut(path.0) {
                slot.own_nexus = true;
            }
        }
        if let Some(conn) = self.conns.iter().position(|c| c.id == id).map(|at| self.conns.remove(at)) {
            self.path_turns(path, if was_up { Trigger::Lost } else { Trigger::Failed });
            self.count_loss(&conn, &cause, now);
        }
        self.note(Notice::PathDown { path, was_up: was_up && role != Role::Fencing, cause });
        self.path_failed(path, now);
        if cut && self.begin_recovery((id, cid, path), nexus, now) {
            return;
        }
        let others = self.conns.iter().any(|c| c.nexus == nexus && c.state != ConnState::Opening);
        let whole = !others || self.nexus(nexus).is_none_or(|n| n.window.all_acknowledged());
        if matches!(state, ConnState::LoggingOut(_)) && whole {
            self.tmf_conns_lost(now);
            self.nexus_emptied(nexus, now);
        } else if was_up {
            // A logout that never arrived leaves a hole in the session's numbers (R106).
            self.nexus_lost(nexus, path, now);
        } else if role != Role::Joining {
            self.set_nexus_state(nexus, NexusState::Down);
        }
    }

    /// Gives up a connection from this side.
    pub(super) fn fail_conn(&mut self, id: ConnId, cause: Cause, now: Instant) {
        self.outputs.push_back(Output::Close(id, How::Reset));
        self.disconnected(id, cause, now);
    }

    /// Tag for a control PDU (ping, task management, logout).
    pub(super) fn control_tag(&mut self) -> Itt {
        self.control = (self.control + 1) % (CONTROL_TAG - 1);
        Itt(CONTROL_TAG | self.control)
    }

    /// How many connections a nexus has.
    pub(super) fn established(&self, nexus: NexusId) -> usize {
        self.conns.iter().filter(|c| c.nexus == nexus && c.state != ConnState::Opening).count()
    }

    /// CmdSN and immediate flag for a control PDU, or none while neither is safe: the window is closed, and an
    /// immediate PDU might overtake commands on other connections and carry a number that the target does not expect
    /// yet, which some do not accept (TARGETS: immediate PDUs).
    pub(super) fn control_number(&mut self, nexus: NexusId) -> Option<(CmdSn, bool)> {
        let alone = self.established(nexus) <= 1;
        let window = &mut self.nexuses.get_mut(nexus)?.window;
        if window.is_open() {
            let kept = broken!(self.rules, ControlKeepsCmdSn);
            return Some((if kept { window.current() } else { window.take() }, false));
        }
        (alone || window.all_acknowledged()).then(|| (window.current(), true))
    }

    /// The earliest time at which something here is due.
    pub(super) fn nexus_deadline(&self) -> Option<Instant> {
        let mut earliest: Option<Instant> = None;
        let mut consider = |at: Option<Instant>| {
            // What is overdue was looked at when that time came, and waits for an event.
            if let Some(at) = at.filter(|at| *at > self.looked) {
                earliest = Some(earliest.map_or(at, |e| e.min(at)));
            }
        };
        for conn in &self.conns {
            consider(match (conn.state, conn.ping) {
                (ConnState::Draining(at) | ConnState::LoggingOut(at) | ConnState::LoggedOut(at), _) => {
                    Some(at)
                }
                (ConnState::Opening, _) => None,
                (ConnState::Up, _) if self.paused => None,
                (ConnState::Up, Some((_, at))) => Some(conn.last_heard.max(at) + self.plan.ping_timeout),
                (ConnState::Up, None) => Some(conn.last_heard + self.plan.ping_interval),
            });
        }
        consider(self.unanswered_deadline());
        if self.finishing.is_none() {
            for (index, slot) in self.paths.iter().enumerate() {
                let idle = !self.conns.iter().any(|c| c.path == PathId(index));
                consider(slot.retry_at.filter(|_| idle || self.home_state() == NexusState::Down));
            }
        }
        earliest
    }
}

/// The login of a further connection, derived from home's.
fn login_plan(home: &LoginPlan, nexus: &Nexus, role: Role, id: NexusId, cid: Cid) -> LoginPlan {
    let mut plan = home.clone();
    plan.isid = nexus.isid;
    plan.cid = cid;
    match role {
        Role::Joining => {
            plan.kind = LoginKind::Joining { session: nexus.params.clone(), tsih: nexus.tsih };
            plan.cmd_sn = nexus.window.current();
        }
        Role::Leading | Role::Fencing => {
            plan.kind = LoginKind::Leading;
            if id != HOME {
                (plan.offer.max_connections, plan.offer.error_recovery_level) = (1, 0);
            }
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn isids_are_stable_distinct_and_of_type_random_r7_r8() {
        let home = Isid([0, 2, 0x3d, 1, 2, 3]);
        let first = derived_isid(home, "iqn.2026-11.org.example:a", "p1", &[home]);
        assert_eq!(first, derived_isid(home, "iqn.2026-11.org.example:a", "p1", &[home]));
        assert_ne!(first, derived_isid(home, "iqn.2026-11.org.example:a", "p2", &[home]));
        assert_ne!(first, derived_isid(home, "iqn.2026-11.org.example:a", "p1", &[home, first]));
        assert_eq!(first.0[0] & 0xc0, 0x80);
    }
}
