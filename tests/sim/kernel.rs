//! What the kernel of Braid's machine knows of a connection, and the weather on the links.
//!
//! A connection's bytes towards the target are acknowledged when they have arrived, along with the next packet on the way
//! back, or after the peer's delay. While the way back is silent no acknowledgement arrives. What is lost is sent again when
//! the retransmission timer has run out, and holds up what is behind it.
//!
//! Drawn from a stream of its own, so that what else a seed draws does not depend on it.

use crate::random::Random;
use braid::session::Sample;
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);
/// The first retransmission of Linux comes after this and the round trip time.
const RETRANSMISSION: Duration = Duration::from_millis(200);
/// No packet is lost again after a wait of this: four times in a row is no weather, but a link that is down.
const MOST_LOST: Duration = Duration::from_secs(1);
/// Of this piece's own stream.
const STREAM: u64 = 0x7765_6174_6865_7221;

/// What links and peers are like, but for what goes wrong.
#[derive(Debug)]
pub(crate) struct Weather {
    random: Random,
    /// The kernel tells nothing, and all is as if nobody asked.
    pub(crate) mute: bool,
    /// Peers acknowledge what they do not answer at once after this.
    pub(crate) delayed_ack: Duration,
    /// One packet in so many is lost; 0 for none.
    lossy: usize,
    /// One packet in a few is late by up to this.
    gusts: Duration,
}

impl Weather {
    /// Draws it; `fair` weather delays acknowledgements only.
    pub(crate) fn new(seed: u64, fair: bool) -> Self {
        let mut random = Random::new(seed ^ STREAM);
        let delayed_ack = random.pick(&[Duration::ZERO, MS, 40 * MS, 40 * MS, 100 * MS, 200 * MS]);
        let lossy = if random.once_in(12) { random.pick(&[10, 50, 200]) } else { 0 };
        let gusts = if random.once_in(12) { random.pick(&[20 * MS, 50 * MS]) } else { Duration::ZERO };
        let mute = seed % 3 == 2 && !fair;
        if fair || mute {
            let delayed_ack = delayed_ack.min(40 * MS);
            return Self { random, mute, delayed_ack, lossy: 0, gusts: Duration::ZERO };
        }
        Self { random, mute, delayed_ack, lossy, gusts }
    }

    /// By how much a packet is late, and whether it was lost at first.
    pub(crate) fn delay(&mut self) -> (Duration, bool) {
        let mut late = Duration::ZERO;
        let mut patience = RETRANSMISSION;
        while self.lossy > 0 && patience < MOST_LOST && self.random.once_in(self.lossy) {
            late += patience;
            patience *= 2;
        }
        let lost = late > Duration::ZERO;
        if self.gusts > Duration::ZERO && self.random.once_in(4) {
            late += self.random.between(Duration::ZERO, self.gusts);
        }
        (late, lost)
    }
}

/// The sender's side of a connection's way towards the target.
#[derive(Debug)]
pub(crate) struct Kernel {
    sent: u64,
    arrived: u64,
    acked: u64,
    /// Acknowledgements on their way: when they come, and up to which byte.
    acks: Vec<(Instant, u64)>,
    heard: Instant,
    /// When the acknowledged bytes grew last, or something was sent with nothing unacknowledged before it.
    progress: Instant,
    timeouts: u32,
    resent: u32,
}

impl Kernel {
    pub(crate) fn new(now: Instant) -> Self {
        let acks = Vec::new();
        Self { sent: 0, arrived: 0, acked: 0, acks, heard: now, progress: now, timeouts: 0, resent: 0 }
    }

    pub(crate) fn sends(&mut self, bytes: u64, now: Instant) {
        if self.sent == self.acked {
            self.progress = now;
        }
        self.sent += bytes;
    }

    /// Something has arrived, and its acknowledgement comes at `ack`, if nothing brings it before.
    pub(crate) fn arrives(&mut self, bytes: u64, ack: Instant) {
        self.arrived += bytes;
        self.acks.push((ack, self.arrived));
    }

    /// A packet of the other end, which will arrive at `at`, acknowledges all that has arrived there.
    pub(crate) fn answered(&mut self, at: Instant) {
        self.acks.push((at, self.arrived));
    }

    /// Acknowledgements that have come by now.
    pub(crate) fn hear(&mut self, now: Instant) {
        let (come, left): (Vec<_>, Vec<_>) = self.acks.iter().partition(|(at, _)| *at <= now);
        self.acks = left;
        for (at, upto) in come {
            self.heard = self.heard.max(at);
            if upto > self.acked {
                self.acked = upto;
                self.progress = self.progress.max(at);
                self.timeouts = 0;
            }
        }
    }

    /// What the kernel tells now; `deaf` while the way back is silent, `trip` is the round trip time.
    pub(crate) fn sample(&mut self, now: Instant, deaf: bool, trip: Duration) -> Sample {
        if !deaf {
            self.hear(now);
        }
        let unacked = self.sent > self.acked;
        let age = if unacked { now.saturating_duration_since(self.progress) } else { Duration::ZERO };
        let mut patience = RETRANSMISSION + trip;
        let mut timeouts: u32 = 0;
        while age >= patience {
            patience = patience * 2 + (RETRANSMISSION + trip);
            timeouts += 1;
        }
        self.resent += timeouts.saturating_sub(self.timeouts);
        self.timeouts = timeouts;
        Sample {
            acked: self.acked,
            unacked,
            timeouts,
            resent: self.resent,
            rtt: trip,
            rtt_variation: trip / 4,
            since_ack: now.saturating_duration_since(self.heard),
        }
    }
}
