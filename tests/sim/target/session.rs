//! Sessions and connections: what they are, and how they end.

use super::echo::Held;
use super::luns::Traded;
use super::trigger::Trigger;
use super::{Effect, Persona, Target, device};
use braid::iscsi::{Cid, CmdSn, DataOut, Pdu, StatSn, Ttt};
use braid::login::SessionParams;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// An initiator port as a target port sees it: who may have one session only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Port {
    pub(super) initiator: String,
    pub(super) isid: [u8; 6],
    pub(super) portal: u16,
}

impl Port {
    pub(super) fn is_same_initiator(&self, other: &Self) -> bool {
        (self.isid, &self.initiator) == (other.isid, &other.initiator)
    }
}

pub(super) struct Session {
    pub(super) port: Port,
    /// How often the power had been cut when it began.
    pub(super) power: u32,
    pub(super) params: SessionParams,
    /// It has connections, or had until a moment ago.
    pub(super) alive: bool,
    /// A leading login took its place.
    pub(super) replaced: bool,
    pub(super) exp_cmd_sn: CmdSn,
    /// As told.
    pub(super) max_cmd_sn: CmdSn,
    /// What came before its turn; none stands for a number that counts as received.
    pub(super) early: BTreeMap<u32, Option<(u32, Pdu)>>,
    /// Unsolicited data of commands that came early, with the connection.
    pub(super) early_data: Vec<(u32, DataOut)>,
    /// Task tags of the last numbers, to tell a repetition from a breach.
    pub(super) recent: [u32; RECENT],
    /// Numbers that counted as received before they came.
    pub(super) plugged: SmallVec<[u32; 4]>,
    /// Numbered commands not done, and places of the window lost for good.
    pub(super) open: u32,
    pub(super) leaked: u32,
    /// The window is the full one.
    pub(super) widened: bool,
    pub(super) shrunk_until: Option<Instant>,
    /// Its numbers are in disorder by the target's own fault.
    pub(super) disordered: bool,
    /// It answers nothing any more.
    pub(super) mute: bool,
    pub(super) close_at: Option<Instant>,
    /// Unit attentions of each unit.
    pub(super) attentions: Vec<SmallVec<[Attention; 2]>>,
    /// Each waits by itself.
    pub(super) queues_attentions: bool,
    /// Numbers that have changed places, while it may not know.
    pub(super) traded: Option<Traded>,
    /// When it began, or its LUNs changed last: any unit may greet from then on.
    pub(super) began: Instant,
    /// When it last had nothing to report of each unit, as far as the initiator can tell: it is told of what happens from its
    /// beginning on (SAM-5 section 5.14.1), which is some time after its login was sent; and a command that met nothing ran
    /// some time after it was sent.
    pub(super) clean: Vec<Instant>,
}

/// POWER ON, RESET, OR BUS DEVICE RESET OCCURRED: of a new nexus.
const GREETING: (u8, u8) = (0x29, 0x00);

/// A unit attention that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Attention {
    pub(super) code: (u8, u8),
    /// The event behind it, if it came from outside; the first one, if there were several.
    pub(super) event: Option<u32>,
}

/// Numbers remembered.
pub(super) const RECENT: usize = 256;

pub(super) struct Conn {
    pub(super) id: u32,
    pub(super) session: usize,
    pub(super) cid: Cid,
    pub(super) stat_sn: StatSn,
    /// Longest data segment the initiator takes.
    pub(super) segment: usize,
    last_heard: Instant,
    /// A NOP-In that waits for its answer.
    pub(super) pinged: Option<(Ttt, Instant)>,
    /// An echo that is not sent yet.
    pub(super) held: Option<Held>,
}

impl Session {
    pub(super) fn new(
        port: Port,
        power: u32,
        params: SessionParams,
        cmd_sn: CmdSn,
        units: usize,
        (asked, now): (Instant, Instant),
    ) -> Self {
        Self {
            port,
            power,
            params,
            alive: true,
            replaced: false,
            exp_cmd_sn: cmd_sn,
            max_cmd_sn: cmd_sn.minus(1),
            early: BTreeMap::new(),
            early_data: Vec::new(),
            recent: [u32::MAX; RECENT],
            plugged: SmallVec::new(),
            open: 0,
            leaked: 0,
            widened: false,
            shrunk_until: None,
            disordered: false,
            mute: false,
            close_at: None,
            attentions: vec![SmallVec::new(); units],
            queues_attentions: false,
            traded: None,
            began: now,
            clean: vec![asked; units],
        }
    }

    /// A number is missing before one that has come.
    pub(super) fn has_hole(&self) -> bool {
        !self.early.is_empty()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match (self.close_at, self.shrunk_until) {
            _ if !self.alive => None,
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

impl Conn {
    pub(super) fn new(
        id: u32,
        session: usize,
        cid: Cid,
        stat_sn: StatSn,
        segment: u32,
        now: Instant,
    ) -> Self {
        let segment = usize::try_from(segment).unwrap();
        Self { id, session, cid, stat_sn, segment, last_heard: now, pinged: None, held: None }
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.last_heard = now;
    }

    pub(super) fn ping_due(&self, persona: &Persona) -> Option<Instant> {
        let (interval, patience) = persona.pings?;
        Some(match self.pinged {
            Some((_, at)) => at + patience,
            None => self.last_heard + interval,
        })
    }
}

impl Target {
    pub(super) fn conn(&self, id: u32) -> Option<&Conn> {
        self.conns.iter().find(|c| c.id == id)
    }

    pub(super) fn conn_mut(&mut self, id: u32) -> Option<&mut Conn> {
        self.conns.iter_mut().find(|c| c.id == id)
    }

    /// Living connections of a session.
    pub(super) fn conns_of(&self, session: usize) -> SmallVec<[u32; 8]> {
        self.conns.iter().filter(|c| c.session == session).map(|c| c.id).collect()
    }

    /// Its TCP noticed that a connection is gone.
    pub(crate) fn closed(&mut self, conn: u32, now: Instant) {
        self.now = Some(now);
        self.logins.retain(|l| l.conn != conn);
        self.lose_conn(conn);
        self.announce_windows();
    }

    /// Ends a connection from this side.
    pub(super) fn reset_conn(&mut self, conn: u32) {
        self.effects.push_back(Effect::Reset(conn));
        self.lose_conn(conn);
    }

    /// A connection is gone: what waits for its data ends, what is in the device becomes a ghost.
    pub(super) fn lose_conn(&mut self, conn: u32) {
        let Some(at) = self.conns.iter().position(|c| c.id == conn) else { return };
        let Conn { session, cid, .. } = self.conns.remove(at);
        if !self.keep_lost(conn, session, cid) {
            self.sent.retain(|(to, _), _| *to != conn);
            self.drop_commands(conn, session);
        }
        if self.conns_of(session).is_empty() {
            self.end_session(session);
        } else if let Some(patience) = self.persona.dies_with_connection {
            let at = self.entered_at() + patience;
            self.sessions[session].close_at.get_or_insert(at);
        } else if self.persona.tells_drops {
            self.tell_drop(session, cid);
        }
        if self.persona.forgets {
            let at = self.entered_at() + self.random.between(Duration::ZERO, Duration::from_millis(1_500));
            self.cleanups.push((at, self.sessions[session].port.clone()));
        }
        self.device_changed();
    }

    /// Takes a lost connection's commands out where they did not reach the device.
    pub(super) fn drop_commands(&mut self, conn: u32, session: usize) {
        self.sessions[session].early_data.retain(|(from, _)| *from != conn);
        self.sessions[session].early.retain(|_, kept| kept.as_ref().is_none_or(|(from, _)| *from != conn));
        let mut at = 0;
        while at < self.tasks.len() {
            if self.tasks[at].conn != conn {
                at += 1;
                continue;
            }
            if self.tasks[at].counted && self.persona.window_leaks {
                self.tasks[at].counted = false;
                let session = &mut self.sessions[self.tasks[at].session];
                session.open -= 1;
                session.leaked += 1;
                self.count(Trigger::WindowLeaked);
            }
            if matches!(self.tasks[at].state, device::State::Collecting(_)) {
                self.take(at);
                continue;
            }
            self.haunt(at);
            at += 1;
        }
    }

    /// The last connection is gone.
    pub(super) fn end_session(&mut self, session: usize) {
        let ended = &mut self.sessions[session];
        ended.alive = false;
        ended.early.clear();
        self.end_kept(session);
        for unit in &mut self.units {
            unit.reservations.session_ended(session);
        }
    }

    /// Closes a whole session.
    pub(super) fn kill_session(&mut self, session: usize) {
        for conn in self.conns_of(session) {
            self.reset_conn(conn);
        }
        if self.sessions[session].alive {
            self.end_session(session);
        }
    }

    pub(super) fn session_due(&mut self, session: usize) {
        let now = self.entered_at();
        let s = &mut self.sessions[session];
        if s.shrunk_until.is_some_and(|at| at <= now) {
            s.shrunk_until = None;
        }
        if s.close_at.is_some_and(|at| at <= now) {
            s.close_at = None;
            self.count(Trigger::SessionDied);
            self.kill_session(session);
        }
    }

    /// The target wants a sign of life, or misses one.
    pub(super) fn ping_due(&mut self, index: usize) {
        let now = self.entered_at();
        let (id, session) = (self.conns[index].id, self.conns[index].session);
        if self.conns[index].pinged.is_some() {
            self.count(Trigger::PingUnanswered);
            self.kill_session(session);
            return;
        }
        let ttt = self.new_ttt();
        self.conns[index].pinged = Some((ttt, now));
        self.count(Trigger::Pinged);
        self.send_nop_in(id, ttt);
    }

    /// It clears up after a lost connection, and sweeps away too much.
    pub(super) fn clear_up(&mut self, index: usize) {
        let (_, port) = self.cleanups.remove(index);
        let mut at = 0;
        while at < self.tasks.len() {
            let task = &self.tasks[at];
            let queued = task.state == device::State::Waiting && task.op.is_quick();
            if queued && self.sessions[task.session].port == port {
                self.count(Trigger::Forgotten);
                self.take(at);
            } else {
                at += 1;
            }
        }
        self.device_changed();
    }
}

impl Session {
    /// Other LUNs are shown, perhaps of units that have powered on since, and say so (SAM-5 section 6.2). What waits with
    /// the same code is told from that by nobody.
    pub(super) fn renew(&mut self, now: Instant) {
        self.began = now;
        let waiting = self.attentions.iter_mut().flatten();
        waiting.filter(|a| a.code == GREETING).for_each(|a| a.event = None);
    }

    /// A unit attention waits; on most targets the same one waits once.
    pub(super) fn attend(&mut self, unit: usize, code: (u8, u8), event: Option<u32>) {
        // What a new session is greeted with nobody can tell from its greeting.
        let event = event.filter(|_| code != GREETING || self.clean[unit] > self.began);
        let waiting = &mut self.attentions[unit];
        match waiting.iter_mut().find(|w| w.code == code && !self.queues_attentions) {
            // The initiator's own doing may be all that is told of it.
            Some(waiting) => waiting.event = waiting.event.filter(|_| event.is_some()),
            None => waiting.push(Attention { code, event }),
        }
    }
}
