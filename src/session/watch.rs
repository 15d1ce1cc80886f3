//! Whether connections live: samples of what the kernel knows, pings, suspicion.
//!
//! # Samples
//! While commands are under way over a path, a ping is out, or a connection is suspect, each of its connections is sampled
//! every [`PACE`] ([`Output::Sample`]), and [`crate::path::health`] judges. An idle connection costs nothing but its ping now
//! and then. Something unacknowledged shows a dead link within some 60 ms, whichever direction is dead.
//!
//! # Quiet
//! Where everything is acknowledged and an answer is due, nobody can tell a slow device from a link that has died on the way
//! back. So a connection on which nothing has come for 30 ms, or for several times what its commands usually take, gets a
//! ping: then something is unacknowledged. While the target stays slow, pings become rarer. One on which something is
//! unacknowledged for 30 ms gets a ping too: a target that only delays its acknowledgement answers. With several connections in the
//! session the former begins only after a second, and the latter never. There a ping goes alone: no command, and no second ping, is sent until the target
//! has acknowledged it. istgt ends the session when a command that comes over another connection right behind a ping gets ahead of
//! it. One that stays unanswered there says nothing of the target while another connection of the session is silent: it may wait
//! behind a number lost with that one.
//!
//! # What comes of it
//! - **Suspect**: no new commands as long as another connection is well ([`Standing`]), and those caught on it are asked
//!   again elsewhere ([`super::evade`]). The last path is never shut out: where all are suspect, all are used as before, but
//!   one that answers again, and has to do so for a while until it is trusted, before those that do not.
//!   In a session of several connections, one that is silent may have left holes in the command numbers, for which all of
//!   them wait: what runs over the others counts as doubtful, and other sessions are preferred. So does what other sessions have
//!   over the same path.
//! - **No carrier**: the link of this machine that a connection goes out by is down: suspect at once.
//! - **Target silent**: a ping is unanswered for a second while TCP is well: suspect, no more.
//! - **Dead**: no acknowledgement at all for `silence_timeout`, or no echo for `ping_timeout`: the connection is given up. While
//!   another path is trusted, silence of [`SPARED`] is enough: what waits for this one, be it newer writes that overlap what is
//!   caught on it, commands of home or a session of several connections, goes on once its session is made anew elsewhere.

use super::Session;
use super::api::{Cause, ConnId, Output, PathId, Trigger};
use super::nexus::{Conn, ConnState};
use crate::iscsi::{CmdSn, Itt, NopOut, Pdu};
use crate::path::health::{Change, Doubt, Sample};
use std::time::{Duration, Instant};

/// Time between samples.
const PACE: Duration = Duration::from_millis(10);
/// A connection that owes an answer is quiet after this, at the least.
const QUIET: Duration = Duration::from_millis(30);
/// The same where the session has several connections.
const QUIET_AMONG_OTHERS: Duration = Duration::from_secs(1);
/// The ping of a quiet connection that could not be sent without harm is tried again after this, and then goes out.
const AGAIN: Duration = Duration::from_millis(250);
/// So many times what its commands usually take.
const QUIET_COMMANDS: u32 = 4;
/// A ping unanswered for so long makes its connection suspect.
const LATE_ECHO: Duration = Duration::from_secs(1);

/// A ping that is due while another goes alone is tried again after this.
const AFTER_ANOTHER: Duration = Duration::from_millis(20);

/// How long a connection may be silent that can be spared. By then TCP has sent again three times (after 0.2, 0.6 and 1.4 s).
const SPARED: Duration = Duration::from_secs(2);

/// Pings that a quiet connection was sent since it last brought anything but an echo.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quiet {
    pings: u32,
    /// When the last of them was sent.
    at: Instant,
}

impl Quiet {
    pub(super) const fn new(now: Instant) -> Self {
        Self { pings: 0, at: now }
    }
}

/// How willingly commands are sent over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    Trusted,
    /// All is well, but its path comes and goes ([`super::comeback`]).
    Marginal,
    /// It, another connection of its session, or one over its path was suspect, and is well again, but not yet trusted.
    Probation,
    /// Another connection of its session, or over its path, is suspect.
    Doubtful,
    Suspect,
}

impl Standing {
    /// Whether nothing speaks against a connection at the moment.
    pub(super) fn is_well(self) -> bool {
        self <= Self::Marginal
    }

    /// Whether what is caught on a connection that stands like the other has something to gain here.
    pub(super) fn is_refuge_from(self, other: Self) -> bool {
        self < other && self <= Self::Probation && !other.is_well()
    }
}

/// Whether it has commands to carry, or still has.
fn carries(conn: &Conn) -> bool {
    matches!(conn.state, ConnState::Up | ConnState::Draining(_))
}

impl Session {
    pub(super) fn standing(&self, conn: &Conn) -> Standing {
        let doubted = |c: &Conn| c.health.doubt().is_some() && !broken!(self.rules, SuspicionIgnored);
        let suspect = |c: &Conn| doubted(c) && !c.health.is_on_probation();
        let shared = |c: &Conn| c.nexus == conn.nexus || c.path == conn.path;
        let beside = |c: &&Conn| shared(c) && c.state != ConnState::Opening;
        match () {
            () if suspect(conn) => Standing::Suspect,
            () if self.conns.iter().filter(beside).any(suspect) => Standing::Doubtful,
            () if doubted(conn) || self.conns.iter().filter(beside).any(doubted) => Standing::Probation,
            () if self.is_marginal(conn.path) => Standing::Marginal,
            () => Standing::Trusted,
        }
    }

    /// Whether a connection of the path is suspect.
    #[must_use]
    pub fn is_suspect(&self, path: PathId) -> bool {
        self.conns.iter().any(|c| c.path == path && c.health.doubt().is_some())
    }

    fn is_watched(&self, conn: &Conn) -> bool {
        let busy = self.loads.get(conn.path.0).is_some_and(|l| l.commands > 0);
        let doubt = conn.ping.is_some() || conn.health.doubt().is_some();
        carries(conn) && !conn.sample_owed && (busy || doubt || self.owes_stale_answer(conn.id))
    }

    /// Sees to it that samples are taken while there is something to watch.
    pub(super) fn begin_watch(&mut self, now: Instant) {
        if self.sample_at.is_none() && self.conns.iter().any(|c| self.is_watched(c)) {
            self.sample_at = Some(now + PACE);
        }
    }

    /// Asks for samples where they are due, and pings what is quiet.
    pub(super) fn watch(&mut self, now: Instant) {
        if self.sample_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        let watched: Vec<ConnId> = self.conns.iter().filter(|c| self.is_watched(c)).map(|c| c.id).collect();
        for id in &watched {
            if let Some(conn) = self.conn_mut(*id) {
                conn.sample_owed = true;
            }
            self.outputs.push_back(Output::Sample(*id));
            self.judge_echo(*id, now);
            if self.is_quiet(*id, now) {
                self.ping_quiet(*id, now);
            }
        }
        self.retire_stale_runs(now);
        self.evade(now);
        self.sample_at = (!watched.is_empty()).then(|| now + PACE);
    }

    /// What the kernel knows of a connection.
    pub(super) fn sampled(&mut self, id: ConnId, sample: &Sample, now: Instant) {
        let patience = self.silence_patience(id);
        let Some(conn) = self.conn_mut(id).filter(|c| carries(c)) else { return };
        conn.sample_owed = false;
        let change = conn.health.sample(sample, patience, now);
        self.health_changed(id, change, now);
    }

    /// The link that a connection goes out by has lost its carrier, or has it again.
    pub(super) fn carrier_changed(&mut self, id: ConnId, present: bool, now: Instant) {
        let Some(conn) = self.conn_mut(id).filter(|c| carries(c)) else { return };
        let change = conn.health.carrier(present, now);
        self.health_changed(id, change, now);
    }

    /// How long silence lasts before it is death.
    fn silence_patience(&self, id: ConnId) -> Duration {
        let longest = self.plan.silence_timeout;
        let path = self.conn(id).map(|c| c.path);
        let trusted = |c: &Conn| c.state == ConnState::Up && c.health.doubt().is_none();
        let spared = self.conns.iter().any(|c| Some(c.path) != path && trusted(c));
        if spared { longest.min(SPARED) } else { longest }
    }

    fn health_changed(&mut self, id: ConnId, change: Option<Change>, now: Instant) {
        let Some(path) = self.conn(id).map(|c| c.path) else { return };
        match change {
            None => {}
            Some(Change::Suspect(doubt)) => {
                self.path_turns(path, Trigger::Doubted(doubt));
                self.changed = true;
                self.hurry(now);
                self.evade(now);
            }
            Some(Change::Trusted) => {
                self.path_turns(path, Trigger::Trusted);
                self.changed = true;
                // What failed over it while it was silent is tried again at once.
                if let Some(slot) = self.paths.get_mut(path.0) {
                    slot.retry_at = None;
                }
                self.ghosts_delivered(id, now);
            }
            Some(Change::Dead) => self.fail_conn(id, Cause::Tcp("silent".into()), now),
        }
    }

    /// Whether the echo of a ping is late, or has come after all. One that waits in the target behind a number lost with a
    /// silent connection of the session is neither.
    fn judge_echo(&mut self, id: ConnId, now: Instant) {
        let Some(nexus) = self.conn(id).map(|c| c.nexus) else { return };
        let lost = |c: &Conn| c.health.doubt().is_some_and(|doubt| doubt != Doubt::TargetSilent);
        let behind = self.conns.iter().any(|c| c.nexus == nexus && c.id != id && lost(c));
        let excused = self.paused || behind;
        let Some(conn) = self.conn_mut(id) else { return };
        let late = conn.ping.is_some_and(|(_, at)| now >= conn.last_heard.max(at) + LATE_ECHO) && !excused;
        if late && conn.health.is_sampled() && !conn.health.is_silent() {
            let change = conn.health.target_silent(now);
            self.health_changed(id, change, now);
        } else if !late && conn.health.is_silent() {
            conn.health.target_heard();
        }
    }

    /// Whether a connection owes an answer, or its acknowledgement, and nothing has come for longer than it should take.
    fn is_quiet(&self, id: ConnId, now: Instant) -> bool {
        let Some(conn) = self.conn(id).filter(|c| c.state == ConnState::Up) else { return false };
        let health = &conn.health;
        if self.paused || conn.ping.is_some() || !health.is_sampled() || health.doubt().is_some() {
            return false;
        }
        if health.is_waiting() {
            let several = self.established(conn.nexus) > 1;
            return health.is_late(now) && !several;
        }
        let sent = |run: &super::tasks::Run| (run.conn == id).then_some(run.sent_at);
        let oldest = self.tasks.iter().filter_map(|(_, t)| sent(t.run.as_ref()?)).min();
        oldest.is_some_and(|sent| now >= sent.max(conn.last_heard) + self.quiet_patience(conn))
    }

    fn quiet_patience(&self, conn: &Conn) -> Duration {
        let shortest = if self.established(conn.nexus) > 1 { QUIET_AMONG_OTHERS } else { QUIET };
        let usual = self.loads.get(conn.path.0).map_or(Duration::ZERO, |l| l.usual_time());
        let answered = conn.last_answer > conn.quiet.at;
        let pings = if answered { 0 } else { conn.quiet.pings };
        if conn.ping_put_off {
            return AGAIN;
        }
        let patience = shortest.max(usual * QUIET_COMMANDS) * (1 << pings.min(10));
        patience.min(self.plan.ping_interval)
    }

    fn ping_quiet(&mut self, id: ConnId, now: Instant) {
        let Some(conn) = self.conn_mut(id) else { return };
        let pings = if conn.last_answer > conn.quiet.at { 1 } else { conn.quiet.pings + 1 };
        conn.quiet = Quiet { pings, at: now };
        self.ping(id, now);
    }

    /// Pings connections that were silent, and gives up those whose ping was not answered.
    pub(super) fn check_health(&mut self, now: Instant) {
        if self.paused {
            return;
        }
        let interval = self.plan.ping_interval;
        let timeout = self.plan.ping_timeout;
        let dead = |c: &Conn| c.ping.is_some_and(|(_, at)| now >= c.last_heard.max(at) + timeout);
        while let Some(id) =
            self.conns.iter().find(|c| c.state != ConnState::Opening && dead(c)).map(|c| c.id)
        {
            self.fail_conn(id, Cause::Tcp("ping unanswered".into()), now);
        }
        self.check_unanswered(now);
        let heard = !broken!(self.rules, SilenceNotPinged);
        let quiet = |c: &Conn| c.ping.is_none() && now >= c.last_heard + interval && heard;
        let silent = |c: &&Conn| c.state == ConnState::Up && quiet(c);
        let due: Vec<ConnId> = self.conns.iter().filter(silent).map(|c| c.id).collect();
        for id in due {
            self.ping(id, now);
        }
        self.check_drains(now);
    }

    /// Sends a ping, if one can be sent without harm.
    fn ping(&mut self, id: ConnId, now: Instant) {
        let Some(nexus) = self.conn(id).map(|c| c.nexus) else { return };
        if self.nexus(nexus).is_some_and(|n| n.window.is_alone()) {
            let soon = now + AFTER_ANOTHER;
            let interval = self.plan.ping_interval;
            if let Some(conn) = self.conn_mut(id) {
                conn.last_heard = soon.checked_sub(interval).unwrap_or(soon);
            }
            return;
        }
        if let Some(number) = self.control_number(nexus) {
            self.send_ping(id, number, now);
            return;
        }
        let Some(conn) = self.conn_mut(id) else { return };
        if std::mem::replace(&mut conn.ping_put_off, true) {
            // Better a connection that closes over it than one that is dead and is never asked.
            self.ask_echo(id, now);
        } else {
            // Nothing can be asked now; look again after another interval.
            conn.last_heard = now;
        }
    }

    /// Sends a ping whose echo is needed, and returns its tag.
    pub(super) fn ask_echo(&mut self, id: ConnId, now: Instant) -> Option<Itt> {
        let nexus = self.conn(id)?.nexus;
        let current = self.nexus(nexus)?.window.current();
        let number = self.control_number(nexus).unwrap_or((current, true));
        self.send_ping(id, number, now)
    }

    fn send_ping(&mut self, id: ConnId, (cmd_sn, immediate): (CmdSn, bool), now: Instant) -> Option<Itt> {
        let itt = self.control_tag();
        let nexus = self.conn(id)?.nexus;
        let several = self.established(nexus) > 1;
        if let Some(nexus) = self.nexuses.get_mut(nexus).filter(|_| several && !immediate) {
            nexus.window.send_alone();
        }
        let conn = self.conn_mut(id)?;
        conn.ping = Some((itt, now));
        conn.health.pinged(now);
        let exp_stat_sn = conn.statuses.expected();
        let (nexus, nop) = (conn.nexus, NopOut { immediate, itt, cmd_sn, exp_stat_sn, ..NopOut::default() });
        self.send_numbered(id, nexus, (cmd_sn, immediate), Pdu::NopOut(nop));
        Some(itt)
    }
}
