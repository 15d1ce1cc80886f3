//! Logins: new sessions, sessions replaced, connections that join.

use super::session::{Attention, Conn, Port, Session};
use super::trigger::Trigger;
use super::{Effect, Greeting, NAMES, Reinstate, Target, device};
use braid::iscsi::{CmdSn, StatSn, Tsih};
use braid::login::{ConnectionParams, LoginKind, LoginPlan, Negotiated, SessionParams};
use std::time::Instant;

/// A login that is not answered yet.
pub(super) struct Pending {
    pub(super) conn: u32,
    portal: u16,
    plan: LoginPlan,
    sent_at: Instant,
    at: Instant,
    waited: bool,
}

/// Additional sense of the attention after a power cut.
const POWER_ON: (u8, u8) = (0x29, 0x01);

impl Pending {
    pub(super) fn portal(&self) -> u16 {
        self.portal
    }

    fn port(&self) -> Port {
        Port { initiator: self.plan.initiator_name.clone(), isid: self.plan.isid.0, portal: self.portal }
    }
}

impl Target {
    /// A login request that was sent at a time came on a new connection, at a portal of this group.
    pub(crate) fn login(
        &mut self,
        conn: u32,
        portal: u16,
        plan: &LoginPlan,
        (sent_at, now): (Instant, Instant),
    ) {
        self.now = Some(now);
        if plan.target_name != NAMES[self.heads.of(portal)] {
            // No such target at this portal.
            self.effects.push_back(Effect::Refused(conn, 2, 3));
            return;
        }
        let mut pending = Pending { conn, portal, plan: plan.clone(), sent_at, at: now, waited: false };
        match &plan.kind {
            LoginKind::Discovery => {
                self.effects.push_back(Effect::Refused(conn, 2, 9));
                return;
            }
            LoginKind::Joining { .. } => pending.at += self.between_us(100, 1_000),
            LoginKind::Leading => {
                let port = pending.port();
                let older = |l: &Pending| l.plan.kind == LoginKind::Leading && l.port() == port;
                while let Some(at) = self.logins.iter().position(older) {
                    let old = self.logins.remove(at);
                    self.count(Trigger::LoginReplaced);
                    self.effects.push_back(Effect::Reset(old.conn));
                }
                self.replace_sessions(&port);
                pending.at += self.persona.login_time;
            }
        }
        self.logins.push(pending);
        self.announce_windows();
    }

    /// When a login is to be looked at again; none while it waits for the device.
    pub(super) fn login_due(&self, login: &Pending) -> Option<Instant> {
        (!login.waited || !self.login_waits(login)).then_some(login.at)
    }

    /// Whether tasks of older sessions of the port are in the device.
    fn login_waits(&self, login: &Pending) -> bool {
        if self.persona.reinstate != Reinstate::Wait || login.plan.kind != LoginKind::Leading {
            return false;
        }
        let port = login.port();
        self.tasks.iter().any(|t| self.sessions[t.session].port == port && !self.units[t.unit].wedged)
    }

    /// Ends sessions of the same port, the fence's first half: nothing more arrives from them.
    fn replace_sessions(&mut self, port: &Port) {
        for index in 0..self.sessions.len() {
            if self.sessions[index].port != *port || self.sessions[index].replaced {
                continue;
            }
            if self.sessions[index].alive {
                self.count(Trigger::Reinstated);
                self.kill_session(index);
            }
            self.sessions[index].replaced = true;
        }
        if self.persona.reinstate == Reinstate::Drop {
            let mut at = 0;
            while at < self.tasks.len() {
                if self.sessions[self.tasks[at].session].port == *port {
                    self.count(Trigger::GhostDropped);
                    self.take(at);
                } else {
                    at += 1;
                }
            }
            self.device_changed();
        }
    }

    /// A login's time has come.
    pub(super) fn finish_login(&mut self, index: usize) {
        if self.login_waits(&self.logins[index]) {
            if !self.logins[index].waited {
                self.logins[index].waited = true;
                self.count(Trigger::LoginWaited);
            }
            return;
        }
        let login = self.logins.remove(index);
        match &login.plan.kind {
            LoginKind::Joining { tsih, .. } => self.join(&login, *tsih),
            LoginKind::Leading | LoginKind::Discovery => self.lead(&login),
        }
    }

    fn lead(&mut self, login: &Pending) {
        let port = login.port();
        let head = self.heads.of(port.portal);
        let power = self.power_cuts[head];
        self.replace_sessions(&port);
        let params = self.agree(&login.plan.offer);
        let index = self.sessions.len();
        let mut session = Session::new(
            port.clone(),
            power,
            params,
            login.plan.cmd_sn,
            self.units.len(),
            (login.sent_at, self.entered_at()),
        );
        session.queues_attentions = self.persona.telling.each;
        let first = self.sessions.is_empty();
        let heads = self.heads;
        let same_head = |s: &Session| heads.of(s.port.portal) == head && s.power == power;
        let same = |s: &&Session| s.port.is_same_initiator(&port) && same_head(s);
        for (number, (unit, waiting)) in self.units.iter_mut().zip(&mut session.attentions).enumerate() {
            let greets = match self.persona.greeting {
                Greeting::Each => true,
                Greeting::First => first,
                Greeting::Never => false,
            };
            // Each initiator is told of a power cut once, however many sessions it takes.
            let heard = |s: &Session| !s.attentions[number].iter().any(|w| w.code == POWER_ON);
            let told = self.sessions.iter().filter(same).any(heard);
            if power > 0 && !told {
                waiting.push(Attention { code: POWER_ON, event: Some(self.power_event[head]) });
            } else if greets {
                waiting.push(Attention { code: (0x29, 0x00), event: None });
            }
            if self.persona.returns_reservation {
                let same = |old: usize| self.sessions[old].port == port;
                unit.reservations.give_back(index, same);
            }
        }
        self.sessions.push(session);
        self.welcome(login, index);
    }

    fn join(&mut self, login: &Pending, tsih: Tsih) {
        let index = usize::from(tsih.0).wrapping_sub(1);
        let refused = self.refusal(login, index);
        if let Some(detail) = refused {
            self.count(Trigger::JoinRefused);
            self.effects.push_back(Effect::Refused(login.conn, 2, detail));
            return;
        }
        self.count(Trigger::Joined);
        self.welcome(login, index);
    }

    /// Why a connection may not join, as the detail of the refusal.
    fn refusal(&mut self, login: &Pending, index: usize) -> Option<u8> {
        let Some(session) = self.sessions.get(index).filter(|s| s.alive) else { return Some(10) };
        if session.port.isid != login.plan.isid.0 || session.port.initiator != login.plan.initiator_name {
            return Some(10);
        }
        let other_head = self.heads.of(session.port.portal) != self.heads.of(login.portal);
        if other_head || session.port.portal != login.portal && !self.persona.joins_any_group {
            return Some(8);
        }
        let taken = self.conns.iter().any(|c| c.session == index && c.cid == login.plan.cid);
        assert!(!taken, "R33: CID {} joins while its connection lives", login.plan.cid.0);
        let granted = session.params.max_connections;
        let present = u16::try_from(self.conns_of(index).len()).unwrap();
        if present >= granted {
            self.count(Trigger::MoreThanGranted);
            return self.persona.enforces_connections.then_some(self.persona.too_many);
        }
        self.persona.joins_allowed.filter(|allowed| present >= *allowed).map(|_| 6)
    }

    fn welcome(&mut self, login: &Pending, index: usize) {
        let stat_sn = if self.persona.random_stat_sn { self.random.below(usize::MAX) } else { 0 };
        let stat_sn = StatSn(u32::try_from(stat_sn & 0xffff_ffff).unwrap());
        let segment = login.plan.connection.max_recv_data_segment;
        let conn = Conn::new(login.conn, index, login.plan.cid, stat_sn, segment, self.entered_at());
        self.conns.push(conn);
        let (_, max_cmd_sn) = self.window(index);
        let negotiated = Negotiated {
            session: self.sessions[index].params.clone(),
            connection: ConnectionParams {
                max_send_data_segment: self.persona.segment,
                ..login.plan.connection
            },
            discovery: false,
            initiator_name: login.plan.initiator_name.clone(),
            target_name: login.plan.target_name.clone(),
            target_alias: None,
            tpgt: Some(self.heads.shown(login.portal)),
            isid: login.plan.isid,
            tsih: Tsih(u16::try_from(index + 1).unwrap()),
            cid: login.plan.cid,
            cmd_sn: CmdSn(login.plan.cmd_sn.0),
            max_cmd_sn,
            stat_sn,
            quirks: Default::default(),
        };
        self.effects.push_back(Effect::LoggedIn(login.conn, Box::new(negotiated)));
    }

    /// What both sides can do.
    fn agree(&self, offer: &SessionParams) -> SessionParams {
        let own = &self.persona;
        let max_burst_length = offer.max_burst_length.min(own.max_burst);
        SessionParams {
            max_connections: offer.max_connections.min(own.max_connections),
            initial_r2t: offer.initial_r2t || own.initial_r2t,
            immediate_data: offer.immediate_data && own.immediate_data,
            max_burst_length,
            first_burst_length: offer.first_burst_length.min(own.first_burst).min(max_burst_length),
            max_outstanding_r2t: 1,
            default_time2wait: offer.default_time2wait.max(own.recovery_logout.1),
            error_recovery_level: offer.error_recovery_level.min(own.error_recovery_level),
            ..offer.clone()
        }
    }

    /// Whether a task's session was replaced.
    pub(super) fn is_replaced(&self, task: &device::Task) -> bool {
        self.sessions[task.session].replaced
    }
}
