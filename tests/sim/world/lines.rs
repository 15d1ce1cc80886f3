//! The initiator's connections, where it has several: how they come and go at both ends.

use super::{Happening, World};
use crate::net::{Dir, End, Packet, Role, Wire};
use braid::iscsi::{Cid, StatSn, Tsih};
use braid::login::{LoginKind, LoginPlan, Negotiated};
use braid::session::{Event, LineId};
use std::time::Duration;

/// A connection at the initiator's end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) wire: u32,
    cid: Cid,
    /// It is logged in.
    up: bool,
}

impl World {
    // The initiator's end.

    /// It has logged in to a new session, and adds connections a little later.
    pub(super) fn begin_lines(&mut self, wire: u32, agreed: &Negotiated) {
        self.lines = vec![Line { wire, cid: agreed.cid, up: true }];
        if self.scenario.lines == 1 {
            return;
        }
        self.initiator.begin_lines(wire, agreed.stat_sn);
        self.next_cid = 0;
        for _ in 1..self.scenario.lines {
            self.next_cid += 1;
            self.join_soon(Cid(self.next_cid));
        }
    }

    fn join_soon(&mut self, cid: Cid) {
        let pause = self.line_random.between(Duration::ZERO, Duration::from_millis(5));
        let session = self.front.unwrap_or(u32::MAX);
        self.after(pause, Happening::Join { session, cid });
    }

    /// It makes a further connection in the session that began over a wire.
    pub(super) fn join(&mut self, session: u32, cid: Cid) {
        let several = self.lines.iter().any(|line| line.up);
        if self.front != Some(session) || self.leaving || self.initiator.logging_out || !several {
            return;
        }
        let wire = u32::try_from(self.wires.len()).unwrap();
        self.wires.push(Wire::new(self.downstream_link(), Role::Downstream, self.now));
        self.lines.push(Line { wire, cid, up: false });
        let params = self.session_params();
        let kind = LoginKind::Joining { session: params, tsih: Tsih(1) };
        let plan = LoginPlan { kind, cid, ..Self::plain_login() };
        self.transmit(wire, Dir::Up, Packet::Login(Box::new(plan)));
    }

    /// The answer to that came.
    pub(super) fn joined(&mut self, wire: u32, agreed: &Negotiated) {
        let Some(line) = self.lines.iter_mut().find(|line| line.wire == wire) else { return };
        line.up = true;
        self.initiator.line_up(wire, agreed);
        self.send_downstream();
    }

    /// A connection of several is gone, or could not be made. False if it is the session that is gone.
    pub(super) fn line_lost(&mut self, wire: u32) -> bool {
        let Some(at) = self.lines.iter().position(|line| line.wire == wire) else { return true };
        let line = self.lines.remove(at);
        self.near_closes(wire);
        if !line.up {
            // Braid would not have it: the session ends, or one connection has not ended there yet.
            if !self.initiator.logging_out && !self.leaving {
                self.join_soon(line.cid);
            }
            return true;
        }
        // Over a connection that Braid has lost it will hear nothing, and finds that out in the end.
        let lives = |line: &Line| line.up && self.wires[line.wire as usize].far != End::Closed;
        let others = self.lines.iter().any(lives);
        if !others || self.initiator.logging_out || !self.initiator.line_lost(wire, line.cid) {
            return false;
        }
        if self.line_random.once_in(2) && !self.initiator.is_leaving_line() {
            self.leave_line(line.cid);
        } else {
            self.join_soon(line.cid);
        }
        true
    }

    /// It logs a connection out over another, and makes a new one.
    fn leave_line(&mut self, cid: Cid) {
        self.initiator.log_out_line(cid);
        self.send_downstream();
        self.next_cid += 1;
        self.join_soon(Cid(self.next_cid));
    }

    /// All of its connections are gone.
    pub(super) fn all_lines_lost(&mut self) {
        for line in std::mem::take(&mut self.lines) {
            self.near_closes(line.wire);
        }
    }

    /// One of its connections is reset.
    pub(super) fn reset_line(&mut self) {
        let up: Vec<u32> = self.lines.iter().filter(|line| line.up).map(|line| line.wire).collect();
        if up.len() < 2 {
            return;
        }
        let wire = self.line_random.pick(&up);
        match self.line_random.below(3) {
            0 => self.initiator_loses(wire),
            1 => {
                self.far_closes(wire);
                self.braid_loses_line(wire);
            }
            // The initiator learns of it when it sends something, or is told.
            _ => self.far_gone(wire),
        }
    }

    /// The initiator was told that Braid has lost connections.
    pub(super) fn lines_dropped(&mut self) {
        for cid in std::mem::take(&mut self.initiator.dropped) {
            let gone = |line: &&Line| line.cid.0 == cid && self.wires[line.wire as usize].far == End::Closed;
            if let Some(wire) = self.lines.iter().find(gone).map(|line| line.wire) {
                self.initiator_loses(wire);
            }
        }
    }

    /// It logs one of them out.
    pub(super) fn line_leaves(&mut self) {
        let up: Vec<Line> = self.lines.iter().filter(|line| line.up).copied().collect();
        if up.len() < 2 || self.initiator.logging_out || self.initiator.is_leaving_line() {
            return;
        }
        let line = self.line_random.pick(&up);
        self.lines.retain(|other| other.wire != line.wire);
        if !self.initiator.line_lost(line.wire, line.cid) {
            self.near_closes(line.wire);
            return self.initiator_loses_all();
        }
        self.leave_line(line.cid);
        self.near_closes(line.wire);
    }

    // Braid's end.

    /// The connection of a wire.
    pub(super) fn line_of(&self, wire: u32) -> Option<LineId> {
        self.host.lines.iter().find(|(_, w)| *w == wire).map(|(line, _)| *line)
    }

    /// The wire of a connection.
    pub(super) fn wire_of(&self, line: LineId) -> Option<u32> {
        self.host.lines.iter().find(|(l, _)| *l == line).map(|(_, wire)| *wire)
    }

    /// The initiator wants to log in over a further connection.
    pub(super) fn join_asked(&mut self, wire: u32, plan: &LoginPlan) {
        self.feed(Event::DownstreamAwaited(plan.cid));
        let awaited = self.session().and_then(|session| session.awaited(plan.cid));
        let Some(awaited) = awaited else {
            self.transmit(wire, Dir::Down, Packet::LoginAnswer(Err((2, 6))));
            return self.far_closes(wire);
        };
        let line = LineId(self.host.next_line);
        self.host.next_line += 1;
        self.host.lines.push((line, wire));
        let agreed = Negotiated { stat_sn: StatSn(line.0.wrapping_mul(0x1357_9bdf)), ..*awaited };
        if let Some(checker) = &mut self.host.downstream {
            checker.joined(line, &agreed);
        }
        self.coverage.hit("lines: a connection joins");
        self.trace(&[40, u64::from(line.0)], || {
            format!("braid: connection {} of the initiator joins", line.0)
        });
        self.transmit(wire, Dir::Down, Packet::LoginAnswer(Ok(Box::new(agreed.clone()))));
        self.feed(Event::DownstreamJoined(line, Box::new(agreed)));
    }

    /// Braid finds a connection of the initiator's closed.
    pub(super) fn braid_loses_line(&mut self, wire: u32) {
        let Some(line) = self.line_of(wire) else { return };
        self.host.lines.retain(|(l, _)| *l != line);
        if self.host.lines.is_empty() {
            self.host.front = None;
        } else if let Some(checker) = &mut self.host.downstream {
            checker.line_closed(line);
        }
        self.feed(Event::DownstreamClosed(line));
    }

    /// Braid closes one of several.
    pub(super) fn braid_closes_line(&mut self, line: LineId) {
        if let Some(checker) = &mut self.host.downstream {
            checker.line_closed(line);
        }
        self.coverage.hit("lines: a connection is replaced");
        if let Some(wire) = self.wire_of(line) {
            self.host.lines.retain(|(l, _)| *l != line);
            self.far_closes(wire);
        }
    }
}
