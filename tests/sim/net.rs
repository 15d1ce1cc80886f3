//! Links and the TCP connections over them: delay, jitter, bandwidth, silence, and what a closing connection leaves.
//!
//! A link is a pair of directions that all its connections share. What is sent over a silent direction waits there, as
//! TCP would send it again, and arrives in order once the direction speaks; if the sender closes meanwhile it is gone.

use crate::kernel::Kernel;
use crate::random::Random;
use braid::iscsi::Pdu;
use braid::login::{LoginPlan, Negotiated};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A way along a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dir {
    /// From the initiator to Braid, from Braid to a target.
    Up,
    /// Back.
    Down,
}

/// What a link is like when nothing is wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quality {
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    pub(crate) bytes_per_second: u64,
}

/// What travels.
#[derive(Debug)]
pub(crate) enum Packet {
    Pdu(Pdu),
    /// The login's requests, taken as one.
    Login(Box<LoginPlan>),
    /// Its responses: what was agreed, or status class and detail.
    LoginAnswer(Result<Box<Negotiated>, (u8, u8)>),
    /// The sender closed: FIN or RST.
    End,
}

impl Packet {
    pub(crate) fn bytes(&self) -> u64 {
        let data = match self {
            Self::Pdu(Pdu::ScsiCommand(p)) => p.data.len(),
            Self::Pdu(Pdu::DataOut(p)) => p.data.len(),
            Self::Pdu(Pdu::DataIn(p)) => p.data.len(),
            Self::Pdu(_) | Self::End => 0,
            Self::Login(_) | Self::LoginAnswer(_) => 512,
        };
        100 + data as u64
    }
}

#[derive(Debug)]
struct Lane {
    /// When the last byte sent so far has left.
    free: Instant,
    /// Silent until then, or was.
    silent: Option<Instant>,
    /// When it was made to speak again.
    healed: Option<Instant>,
}

/// A link.
#[derive(Debug)]
pub(crate) struct Link {
    quality: Quality,
    lanes: [Lane; 2],
    random: Random,
    /// New connections are refused until then.
    pub(crate) refuses: Option<Instant>,
}

impl Link {
    pub(crate) fn new(quality: Quality, random: Random, now: Instant) -> Self {
        let lane = || Lane { free: now, silent: None, healed: None };
        Self { quality, lanes: [lane(), lane()], random, refuses: None }
    }

    fn lane(&mut self, dir: Dir) -> &mut Lane {
        &mut self.lanes[usize::from(dir == Dir::Down)]
    }

    /// When a packet handed over now would arrive.
    pub(crate) fn arrival(&mut self, dir: Dir, packet: &Packet, now: Instant) -> Instant {
        let Quality { delay, jitter, bytes_per_second } = self.quality;
        let jitter = self.random.between(Duration::ZERO, jitter);
        let lane = self.lane(dir);
        lane.free =
            lane.free.max(now) + Duration::from_nanos(packet.bytes() * 1_000_000_000 / bytes_per_second);
        lane.free + delay + jitter
    }

    pub(crate) fn silence(&mut self, dir: Dir, until: Instant) {
        let lane = self.lane(dir);
        lane.silent = Some(lane.silent.map_or(until, |at| at.max(until)));
    }

    pub(crate) fn is_silent(&self, dir: Dir, now: Instant) -> bool {
        self.lanes[usize::from(dir == Dir::Down)].silent.is_some_and(|until| now < until)
    }

    /// Whether one of its directions was silent since then.
    pub(crate) fn was_silent(&self, since: Instant) -> bool {
        self.lanes
            .iter()
            .any(|lane| lane.silent.is_some_and(|until| since < until) || lane.healed > Some(since))
    }

    /// The round trip time.
    pub(crate) fn trip(&self) -> Duration {
        self.quality.delay * 2 + self.quality.jitter
    }

    /// Nothing is wrong any more.
    pub(crate) fn heal(&mut self, now: Instant) {
        for lane in &mut self.lanes {
            lane.healed = lane.silent.take().map(|until| until.min(now));
        }
        self.refuses = None;
    }
}

/// One end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Open,
    Closed,
}

/// A TCP connection. Its near end is the one that made it.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) link: usize,
    pub(crate) near: End,
    pub(crate) far: End,
    /// What waits for a silent direction to speak.
    pub(crate) stuck: [VecDeque<Packet>; 2],
    pub(crate) stuck_since: [Option<Instant>; 2],
    /// Something of the stream was lost for good: what follows never arrives.
    pub(crate) torn: [bool; 2],
    last: [Instant; 2],
    pub(crate) role: Role,
    pub(crate) logged_in: bool,
    pub(crate) opened: Instant,
    pub(crate) kernel: Kernel,
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// The initiator's.
    Downstream,
    /// Braid's leading login, before there is a session.
    Leading,
    /// One of the engine's, by its number.
    Engine(u32),
}

impl Wire {
    pub(crate) fn new(link: usize, role: Role, now: Instant) -> Self {
        Self {
            link,
            near: End::Open,
            far: End::Open,
            stuck: [VecDeque::new(), VecDeque::new()],
            stuck_since: [None; 2],
            torn: [false; 2],
            last: [now; 2],
            role,
            logged_in: false,
            opened: now,
            kernel: Kernel::new(now),
        }
    }

    /// Packets of a direction stay in order.
    pub(crate) fn in_order(&mut self, dir: Dir, arrival: Instant) -> Instant {
        let last = &mut self.last[usize::from(dir == Dir::Down)];
        *last = arrival.max(*last);
        *last
    }
}
