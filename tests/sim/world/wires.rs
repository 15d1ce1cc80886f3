//! Connections: sending, arriving, silence, and the ends of them.

use super::{Happening, World};
use crate::net::{Dir, End, Packet, Role};
use braid::iscsi::Pdu;
use braid::scsi::Sense;
use std::time::{Duration, Instant};

/// How long TCP keeps trying to deliver to Braid, and Braid's to the initiator (TCP_USER_TIMEOUT, as the proxy sets it). How
/// long it tries to reach a target is for the engine to say.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Sense data, for the trace.
pub(super) fn sense(pdu: &Pdu) -> String {
    let Pdu::ScsiResponse(response) = pdu else { return String::new() };
    let sense = response.sense().and_then(|s| Sense::parse(&s));
    sense.map_or_else(String::new, |s| format!(" sense={:x}/{:02x}/{:02x}", s.key, s.asc, s.ascq))
}

fn index(dir: Dir) -> usize {
    usize::from(dir == Dir::Down)
}

impl World {
    /// Hands a packet to a connection; one that is closed at that end takes none.
    pub(super) fn transmit(&mut self, wire: u32, dir: Dir, packet: Packet) {
        let connection = &mut self.wires[wire as usize];
        let from = if dir == Dir::Up { connection.near } else { connection.far };
        if from == End::Closed && !matches!(packet, Packet::End) {
            return;
        }
        let mut at = self.links[connection.link].arrival(dir, &packet, self.now);
        if connection.role != Role::Downstream {
            let (late, lost) = self.weather.delay();
            at += late;
            if lost {
                self.coverage.hit("link: packet lost");
            }
        }
        let at = connection.in_order(dir, at);
        match dir {
            Dir::Up => connection.kernel.sends(packet.bytes(), self.now),
            Dir::Down => connection.kernel.answered(at),
        }
        self.schedule(at, Happening::Arrive { wire, dir, packet });
    }

    /// A packet reaches the other end, unless the direction is silent: then it waits, and all behind it.
    pub(super) fn arrive(&mut self, wire: u32, dir: Dir, packet: Packet) {
        let connection = &mut self.wires[wire as usize];
        let way = index(dir);
        if connection.torn[way] {
            return;
        }
        if self.links[connection.link].is_silent(dir, self.now) || !connection.stuck[way].is_empty() {
            connection.stuck[way].push_back(packet);
            if connection.stuck_since[way].is_none() {
                connection.stuck_since[way] = Some(self.now);
                if dir == Dir::Up && matches!(connection.role, Role::Engine(_)) {
                    return;
                }
                let since = self.now;
                self.after(USER_TIMEOUT, Happening::UserTimeout { wire, dir, since });
            }
            return;
        }
        self.take(wire, dir, packet);
    }

    fn take(&mut self, wire: u32, dir: Dir, packet: Packet) {
        let (role, to) = {
            let connection = &self.wires[wire as usize];
            (connection.role, if dir == Dir::Up { connection.far } else { connection.near })
        };
        if to == End::Closed {
            // The peer's kernel answers with a reset.
            if !matches!(packet, Packet::End) {
                let back = if dir == Dir::Up { Dir::Down } else { Dir::Up };
                self.transmit(wire, back, Packet::End);
            }
            return;
        }
        if dir == Dir::Up {
            let back = self.links[self.wires[wire as usize].link].trip() / 2;
            let ack = self.now + self.weather.delayed_ack + back;
            self.wires[wire as usize].kernel.arrives(packet.bytes(), ack);
        }
        match (role, dir) {
            (Role::Downstream, Dir::Up) => self.braid_hears_initiator(wire, packet),
            (Role::Downstream, Dir::Down) => self.initiator_hears(wire, packet),
            (Role::Leading | Role::Engine(_), Dir::Up) => self.target_hears(wire, packet),
            (Role::Leading | Role::Engine(_), Dir::Down) => self.braid_hears_target(wire, packet),
        }
    }

    /// Which target a path leads to.
    pub(super) fn target_of(&self, wire: u32) -> usize {
        let link = self.wires[wire as usize].link;
        usize::from(self.scenario.paths[link].wrong)
    }

    fn target_hears(&mut self, wire: u32, packet: Packet) {
        let which = self.target_of(wire);
        let group = self.scenario.paths[self.wires[wire as usize].link].group;
        match packet {
            Packet::Pdu(pdu) => self.targets[which].receive(wire, pdu, self.now),
            Packet::Login(plan) => {
                let sent_at = self.wires[wire as usize].opened;
                self.targets[which].login(wire, group, &plan, (sent_at, self.now));
            }
            Packet::LoginAnswer(_) => {}
            Packet::End => {
                self.wires[wire as usize].far = End::Closed;
                self.targets[which].closed(wire, self.now);
            }
        }
        self.drain_target(which);
    }

    /// Does what a target wants done.
    pub(super) fn drain_target(&mut self, which: usize) {
        use crate::target::Effect;
        self.reports.extend(self.targets[which].reports());
        self.note_access(which);
        while let Some(effect) = self.targets[which].poll() {
            match effect {
                Effect::Send(wire, pdu) => {
                    self.trace(&[2, u64::from(wire)], || {
                        format!("target    ->  #{wire} {pdu}{}", sense(&pdu))
                    });
                    self.transmit(wire, Dir::Down, Packet::Pdu(pdu));
                }
                Effect::LoggedIn(wire, agreed) => {
                    self.trace(&[3, u64::from(wire)], || format!("target    ->  #{wire} logged in"));
                    self.transmit(wire, Dir::Down, Packet::LoginAnswer(Ok(agreed)));
                }
                Effect::Refused(wire, class, detail) => {
                    self.trace(&[4, u64::from(wire)], || format!("target    ->  #{wire} refused"));
                    self.transmit(wire, Dir::Down, Packet::LoginAnswer(Err((class, detail))));
                    self.far_closes(wire);
                }
                Effect::Close(wire) | Effect::Reset(wire) => {
                    self.trace(&[5, u64::from(wire)], || format!("target    ->  #{wire} closes"));
                    self.far_closes(wire);
                }
            }
        }
    }

    /// The far end closes by itself.
    pub(super) fn far_closes(&mut self, wire: u32) {
        if self.wires[wire as usize].far == End::Open {
            self.wires[wire as usize].far = End::Closed;
            self.transmit(wire, Dir::Down, Packet::End);
        }
    }

    /// The near end closes: what is under way still arrives, what waits for a silent direction is gone with it. A far
    /// end that cannot be told finds out by itself.
    pub(super) fn near_closes(&mut self, wire: u32) {
        let connection = &mut self.wires[wire as usize];
        if connection.near == End::Closed {
            return;
        }
        connection.near = End::Closed;
        let lost =
            self.links[connection.link].is_silent(Dir::Up, self.now) || !connection.stuck[0].is_empty();
        connection.stuck[0].clear();
        connection.torn[0] |= lost;
        if lost {
            let finds_out = self.random.between(Duration::from_millis(1), Duration::from_secs(20));
            self.after(finds_out, Happening::FarGone { wire });
        } else {
            self.transmit(wire, Dir::Up, Packet::End);
        }
    }

    /// The near end's machine dies: it says nothing.
    pub(super) fn dies_silently(&mut self, wire: u32) {
        let connection = &mut self.wires[wire as usize];
        connection.near = End::Closed;
        connection.torn[0] |= !connection.stuck[0].is_empty();
        connection.stuck[0].clear();
        let finds_out = self.random.between(Duration::from_millis(1), Duration::from_secs(20));
        self.after(finds_out, Happening::FarGone { wire });
    }

    /// The far end's TCP finds out that nobody is there.
    pub(super) fn far_gone(&mut self, wire: u32) {
        if self.wires[wire as usize].far == End::Open {
            self.wires[wire as usize].far = End::Closed;
            if self.wires[wire as usize].role == Role::Downstream {
                self.braid_hears_initiator(wire, Packet::End);
                return;
            }
            let which = self.target_of(wire);
            self.targets[which].closed(wire, self.now);
            self.drain_target(which);
        }
    }

    pub(super) fn user_timeout(&mut self, wire: u32, dir: Dir, since: Instant) {
        if self.wires[wire as usize].stuck_since[index(dir)] != Some(since) {
            return;
        }
        self.coverage.hit("recovery: tcp gives up");
        self.wires[wire as usize].stuck[index(dir)].clear();
        self.wires[wire as usize].torn[index(dir)] = true;
        match dir {
            Dir::Up => self.break_near(wire, "timed out"),
            Dir::Down => self.far_gone(wire),
        }
    }

    /// The near end finds its connection broken.
    pub(super) fn break_near(&mut self, wire: u32, why: &str) {
        if self.wires[wire as usize].near == End::Open {
            match self.wires[wire as usize].role {
                Role::Downstream => self.initiator_loses(wire),
                Role::Leading | Role::Engine(_) => {
                    self.near_closes(wire);
                    self.braid_loses(wire, why);
                }
            }
        }
    }

    /// What waited is delivered, in order.
    pub(super) fn speak_again(&mut self, link: usize) {
        for wire in 0..u32::try_from(self.wires.len()).unwrap() {
            if self.wires[wire as usize].link != link {
                continue;
            }
            for dir in [Dir::Up, Dir::Down] {
                while !self.links[link].is_silent(dir, self.now) {
                    let Some(packet) = self.wires[wire as usize].stuck[index(dir)].pop_front() else {
                        self.wires[wire as usize].stuck_since[index(dir)] = None;
                        break;
                    };
                    self.take(wire, dir, packet);
                }
            }
        }
        if self.scenario.order.told_of_links {
            let speaks = |dir| !self.links[link].is_silent(dir, self.now);
            if speaks(Dir::Up) && speaks(Dir::Down) {
                self.carrier(link, true);
            }
            self.link_up();
        }
    }
}
