//! Who may log in, and what a login ends: reinstatement of sessions and connections (R33).

use super::control::Text;
use super::session::Session;
use super::unit::NexusName;
use super::unit::fault::POWER_ON;
use super::{ConnId, Connection, Full, Output, Phase, Place, Target, Timer};
use crate::iscsi::{NopIn, Pdu, Tsih};
use crate::login::{Intent, Negotiated, Offer, Refusal, SessionParams, TargetStep};
use std::time::Instant;

const TARGET_NOT_FOUND: Refusal = refusal(2, 3);
const TOO_MANY_CONNECTIONS: Refusal = refusal(2, 6);
const NO_SUCH_SESSION: Refusal = refusal(2, 10);
const OUT_OF_RESOURCES: Refusal = refusal(3, 2);

const fn refusal(class: u8, detail: u8) -> Refusal {
    Refusal { class, detail, address: None }
}

impl Target {
    pub(super) fn login(&mut self, conn: ConnId, pdu: Pdu, now: Instant) {
        let Some(Connection { phase: Phase::Login(login, _), .. }) = self.conns.get_mut(&conn) else {
            return;
        };
        let mut step = if let Pdu::LoginRequest(request) = pdu {
            login.handle(request)
        } else {
            login.handle_other(&pdu)
        };
        if let TargetStep::Decide(intent) = &step {
            let verdict = self.decide(conn, intent, now);
            let Some(Connection { phase: Phase::Login(login, place), .. }) = self.conns.get_mut(&conn) else {
                return;
            };
            step = match verdict {
                Ok((reserved, offer)) => {
                    *place = Some(reserved);
                    login.accept(offer)
                }
                Err(refusal) => login.refuse(refusal),
            };
        }
        self.login_step(conn, step, now);
    }

    pub(super) fn login_overdue(&mut self, conn: ConnId, now: Instant) {
        if let Some(Connection { phase: Phase::Login(..), .. }) = self.conns.get(&conn) {
            self.drop_connection(conn, Output::Reset, now);
        }
    }

    fn login_step(&mut self, conn: ConnId, step: TargetStep, now: Instant) {
        match step {
            TargetStep::Send(pdus) => self.send_login(conn, pdus),
            TargetStep::Done(pdus, negotiated) => {
                let params = negotiated.connection;
                if self.establish(conn, *negotiated, now) {
                    self.send_login(conn, pdus);
                    self.outputs.push_back((conn, Output::FullFeature(params)));
                } else {
                    self.drop_connection(conn, Output::Reset, now);
                }
            }
            TargetStep::Close(pdus) => {
                self.send_login(conn, pdus);
                self.drop_connection(conn, Output::Close, now);
            }
            // Never asked twice; if it were, the login could not go on.
            TargetStep::Decide(_) => self.drop_connection(conn, Output::Reset, now),
        }
    }

    /// Sends login responses; those of a joining connection carry the session's numbers, not their own.
    fn send_login(&mut self, conn: ConnId, pdus: Vec<Pdu>) {
        let tsih = match self.conns.get(&conn).map(|connection| &connection.phase) {
            Some(Phase::Login(_, Some(place))) if place.joining => Some(place.tsih),
            Some(Phase::Full(full)) => Some(full.tsih),
            _ => None,
        };
        let session = tsih.and_then(|tsih| self.sessions.get(&tsih));
        let numbers = session.map(|session| (session.exp_cmd_sn, session.max_cmd_sn()));
        for mut pdu in pdus {
            if let (Pdu::LoginResponse(response), Some((exp, max))) = (&mut pdu, numbers) {
                response.exp_cmd_sn = exp;
                response.max_cmd_sn = max;
            }
            self.outputs.push_back((conn, Output::Send(pdu)));
        }
    }

    fn decide(&mut self, conn: ConnId, intent: &Intent, now: Instant) -> Result<(Place, Offer), Refusal> {
        let unnamed = intent.discovery && intent.target_name.is_empty();
        if !unnamed && intent.target_name != self.options.name {
            return Err(TARGET_NOT_FOUND);
        }
        if intent.tsih == Tsih(0) {
            self.decide_leading(conn, intent)
        } else {
            self.decide_joining(conn, intent, now)
        }
    }

    fn decide_leading(&mut self, conn: ConnId, intent: &Intent) -> Result<(Place, Offer), Refusal> {
        if self.sessions.len() >= self.options.max_sessions {
            return Err(OUT_OF_RESOURCES);
        }
        let tsih = self.new_tsih();
        let mut limits = self.options.limits.clone();
        if intent.discovery {
            limits.max_connections = 1;
        }
        let place = Place { tsih, cid: intent.cid, joining: false };
        Ok((place, self.offer(conn, limits, tsih, false)))
    }

    fn decide_joining(
        &mut self,
        conn: ConnId,
        intent: &Intent,
        now: Instant,
    ) -> Result<(Place, Offer), Refusal> {
        let tpgt = self.tpgt(conn);
        let session = self.sessions.get_mut(&intent.tsih).filter(|session| {
            session.name == name_of(intent) && session.tpgt == tpgt && session.discovery.is_none()
        });
        let Some(session) = session else { return Err(NO_SUCH_SESSION) };
        let former = session.conns.get(&intent.cid).copied();
        if former.is_none() && session.conns.len() >= usize::from(session.params.max_connections) {
            return Err(TOO_MANY_CONNECTIONS);
        }
        let params = session.params.clone();
        session.conns.insert(intent.cid, conn);
        if let Some(former) = former {
            // Connection reinstatement: the former connection's tasks end without notice, or wait to be reassigned (R193).
            self.drop_connection(former, Output::Reset, now);
        }
        let place = Place { tsih: intent.tsih, cid: intent.cid, joining: true };
        Ok((place, self.offer(conn, params, intent.tsih, true)))
    }

    fn offer(&self, conn: ConnId, limits: SessionParams, tsih: Tsih, joining: bool) -> Offer {
        Offer {
            limits,
            joining,
            max_recv_data_segment: self.options.max_recv_data_segment,
            allow_digests: self.options.digests,
            tpgt: self.tpgt(conn),
            target_alias: self.options.alias.clone(),
            tsih,
            window: self.options.window,
        }
    }

    /// Begins full feature phase; false if the session to join is gone.
    fn establish(&mut self, conn: ConnId, negotiated: Negotiated, now: Instant) -> bool {
        let Some(Connection { phase: Phase::Login(_, Some(place)), portal }) = self.conns.get(&conn) else {
            return false;
        };
        let (place, portal) = (*place, *portal);
        if place.joining {
            if !self.sessions.contains_key(&place.tsih) {
                return false;
            }
            self.cid_is_back(place.tsih, place.cid);
        } else {
            self.create_session(conn, place, portal, &negotiated);
        }
        let full = Full {
            tsih: place.tsih,
            cid: place.cid,
            params: negotiated.connection,
            stat_sn: negotiated.stat_sn,
            text: Text::default(),
            ping: None,
        };
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.phase = Phase::Full(full);
        }
        if let Some(interval) = self.options.ping {
            let order = self.next_serial();
            self.timers.insert((now + interval, order), Timer::Ping(conn));
        }
        true
    }

    fn create_session(&mut self, conn: ConnId, place: Place, portal: usize, negotiated: &Negotiated) {
        let name = NexusName { initiator: negotiated.initiator_name.clone(), isid: negotiated.isid };
        let tpgt = self.tpgt(conn);
        let discovery = negotiated.discovery.then_some(portal);
        let same = |old: &Session| old.name == name && old.tpgt == tpgt && old.discovery == discovery;
        let former = self.sessions.iter().find(|(_, old)| same(old)).map(|(tsih, _)| *tsih);
        if let Some(former) = former {
            // Session reinstatement (R195).
            self.end_session(former, &Output::Reset);
        }
        let mut session = Session::new(
            name.clone(),
            tpgt,
            negotiated.session.clone(),
            negotiated.cmd_sn,
            self.options.window,
        );
        session.discovery = discovery;
        session.conns.insert(place.cid, conn);
        self.sessions.insert(place.tsih, session);
        if discovery.is_none() {
            let attention = self.options.unit_attention.then_some(POWER_ON);
            for unit in &mut self.units {
                unit.attach(place.tsih, name.clone(), attention);
            }
        }
    }

    /// Gives up a connection from this side.
    pub(super) fn drop_connection(&mut self, conn: ConnId, how: Output, now: Instant) {
        if self.conns.contains_key(&conn) {
            self.outputs.push_back((conn, how));
            self.forget_connection(conn, now);
        }
    }

    /// A connection is gone: its tasks end, unless they are kept, and with the last one its session.
    pub(super) fn forget_connection(&mut self, conn: ConnId, now: Instant) {
        let Some(connection) = self.conns.remove(&conn) else { return };
        let (tsih, cid) = match connection.phase {
            Phase::Login(_, Some(place)) if place.joining => (place.tsih, place.cid),
            Phase::Login(..) => return,
            Phase::Full(full) => (full.tsih, full.cid),
        };
        let Some(session) = self.sessions.get_mut(&tsih) else { return };
        // After connection reinstatement the place belongs to the successor.
        if session.conns.get(&cid) == Some(&conn) {
            session.conns.remove(&cid);
        }
        if session.conns.is_empty() {
            self.end_session(tsih, &Output::Reset);
            return;
        }
        if session.keeps_tasks() {
            self.keep_tasks(tsih, cid, conn, now);
            return;
        }
        let before = session.max_cmd_sn();
        session.forget_held(conn);
        self.abort_where(tsih, |task| task.conn == conn);
        if self.sessions.get(&tsih).is_some_and(|session| session.max_cmd_sn() != before) {
            self.tell_window(tsih);
        }
    }

    /// Tells a grown window where no response does (R98).
    pub(super) fn tell_window(&mut self, tsih: Tsih) {
        let Some(session) = self.sessions.get(&tsih) else { return };
        let conns: Vec<ConnId> = session.conns.values().copied().collect();
        for conn in conns {
            self.send(conn, Pdu::NopIn(NopIn::default()));
        }
    }

    /// Ends a session: its connections, its tasks, and what it holds of the units.
    pub(super) fn end_session(&mut self, tsih: Tsih, how: &Output) {
        self.abort_where(tsih, |_| true);
        let Some(session) = self.sessions.remove(&tsih) else { return };
        for conn in session.conns.into_values() {
            if self.conns.remove(&conn).is_some() {
                self.outputs.push_back((conn, how.clone()));
            }
        }
        for unit in &mut self.units {
            unit.detach(tsih);
        }
    }

    fn tpgt(&self, conn: ConnId) -> u16 {
        let portal = self.conns.get(&conn).and_then(|connection| self.options.portals.get(connection.portal));
        portal.map_or(1, |portal| portal.tpgt)
    }

    fn new_tsih(&mut self) -> Tsih {
        loop {
            self.last_tsih = self.last_tsih.wrapping_add(1).max(1);
            let tsih = Tsih(self.last_tsih);
            if !self.sessions.contains_key(&tsih) {
                return tsih;
            }
        }
    }
}

fn name_of(intent: &Intent) -> NexusName {
    NexusName { initiator: intent.initiator_name.clone(), isid: intent.isid }
}
