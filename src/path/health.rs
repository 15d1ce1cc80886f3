//! Whether a connection can be trusted: suspicion, trust and death, from what the kernel knows of it.
//!
//! # Contract
//! The caller takes a [`Sample`] of the kernel's view every few milliseconds while something is under way, and hands it to
//! [`Health::sample`]; it says when the target leaves a ping unanswered ([`Health::target_silent`]) and when it was heard
//! again ([`Health::target_heard`]), and when the link that the connection goes out by loses its carrier or gets it back
//! ([`Health::carrier`]). [`Health::doubt`] then tells whether the connection is suspect, and why. A sample costs
//! a few comparisons. Where [`Health::is_late`] it should ping, if it can, and say so ([`Health::pinged`]). Between samples nothing is kept running: samples may stop at any time and go on later.
//!
//! # Suspicion
//! What counts is the **age**: for how long something has been unacknowledged without the acknowledged bytes having grown. A
//! connection is suspect once the age exceeds 50 ms, the smoothed round trip time with four times its variation, and what
//! was *learned*; or as soon as TCP sends again because its retransmission timer ran out.
//!
//! Peers delay acknowledgements (Linux by 40 to 200 ms, BSD by 100), to send them along with an answer. So an age that ended
//! without anything having been sent again was such a delay, and ages half as long again are not suspected for the time
//! being. What was learned fades within a minute, and is never more than [`MOST_LEARNED`].
//!
//! That would hide a dead link behind a peer that is slow to acknowledge. But a peer that is asked for an answer acknowledges
//! with that. So a ping is due once something is unacknowledged for 30 ms, and from there the same rule counts anew: for as
//! long as a ping has gone unacknowledged, against what was learned of pings.
//!
//! # Trust
//! It returns once acknowledgements have flown for a while: [`PROBATION`] at first, twice as long whenever suspicion comes
//! back soon, so that a link that comes and goes is used less and less; half as long for every ten seconds of trust.
//!
//! # Death
//! Only silence is death: something unacknowledged, and no acknowledgement of any kind, for the time that the caller sets. A
//! peer whose process has stopped still acknowledges, with a window of zero: it is slow, however long.

use std::time::{Duration, Instant};

/// A ping is due at this age.
const LATE: Duration = Duration::from_millis(30);
/// Ages up to this are never suspected.
const SHORTEST: Duration = Duration::from_millis(50);
/// Beyond this no age passes for a delayed acknowledgement.
pub const MOST_LEARNED: Duration = Duration::from_millis(400);
/// Within this time what was learned fades.
const MEMORY: Duration = Duration::from_secs(60);
/// How long all must be well before a suspect connection is trusted again, the first time.
pub const PROBATION: Duration = Duration::from_millis(60);
/// The longest that it becomes.
const LONGEST_PROBATION: Duration = Duration::from_secs(5);
/// Suspicion that comes back within this time doubles it, each such time of trust halves it.
const RELAPSE: Duration = Duration::from_secs(10);

/// What the kernel knows of a connection at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sample {
    /// Bytes that the peer has acknowledged since the connection began.
    pub acked: u64,
    /// Whether something that was sent is unacknowledged.
    pub unacked: bool,
    /// How often in a row the retransmission timer has run out, without an acknowledgement since.
    pub timeouts: u32,
    /// Segments that were ever sent again; wraps around.
    pub resent: u32,
    /// Smoothed round trip time, and its variation.
    pub rtt: Duration,
    /// Its variation.
    pub rtt_variation: Duration,
    /// Time since an acknowledgement came last, whether or not it acknowledged anything new.
    pub since_ack: Duration,
}

/// Why a connection is suspect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doubt {
    /// What was sent is unacknowledged for longer than the peer usually takes.
    Unacknowledged,
    /// TCP has sent again.
    Resending,
    /// TCP is well, but the target leaves a ping unanswered.
    TargetSilent,
    /// The link that it goes out by has no carrier.
    NoCarrier,
}

/// What a sample changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It is suspect now.
    Suspect(Doubt),
    /// It is trusted again.
    Trusted,
    /// It is dead.
    Dead,
}

/// How long ages of late lasted that ended by themselves.
#[derive(Clone, Copy, Debug, Default)]
struct Learned {
    /// The longest, and when that was.
    longest: Option<(Duration, Instant)>,
}

impl Learned {
    const NOTHING: Self = Self { longest: None };

    fn add(&mut self, age: Duration, now: Instant) {
        if age > self.left(now) {
            self.longest = Some((age, now));
        }
    }

    /// What has not faded.
    fn left(&self, now: Instant) -> Duration {
        let Some((age, at)) = self.longest else { return Duration::ZERO };
        let left = MEMORY.saturating_sub(now.saturating_duration_since(at));
        age.mul_f64(left.as_secs_f64() / MEMORY.as_secs_f64())
    }

    /// Ages up to this are not suspected.
    fn excuses(&self, now: Instant) -> Duration {
        (self.left(now) * 3 / 2).min(MOST_LEARNED)
    }
}

/// Something is unacknowledged.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// When the acknowledged bytes grew last, or it was found.
    since: Instant,
    /// [`Sample::resent`] at that time.
    resent: u32,
}

/// Suspicion under way.
#[derive(Clone, Copy, Debug)]
struct Suspicion {
    doubt: Doubt,
    /// Since when all is well again.
    well_since: Option<Instant>,
}

/// Health of one connection.
#[derive(Clone, Debug)]
pub struct Health {
    /// There was a sample: the kernel tells.
    sampled: bool,
    acked: u64,
    waiting: Option<Waiting>,
    /// When a ping was sent, if nothing was acknowledged since.
    pinged: Option<Instant>,
    /// The smoothed round trip time with four times its variation.
    round_trip: Duration,
    learned: Learned,
    learned_of_pings: Learned,
    suspicion: Option<Suspicion>,
    /// The target leaves a ping unanswered.
    silent: bool,
    /// When its link has lost the carrier, if nothing was acknowledged since.
    dark: Option<Instant>,
    probation: Duration,
    /// When trust returned last.
    trusted_at: Option<Instant>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Of a new connection: trusted.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            sampled: false,
            acked: 0,
            waiting: None,
            pinged: None,
            round_trip: Duration::ZERO,
            learned: Learned::NOTHING,
            learned_of_pings: Learned::NOTHING,
            suspicion: None,
            silent: false,
            dark: None,
            probation: PROBATION,
            trusted_at: None,
        }
    }

    /// Why it is suspect, if it is.
    #[must_use]
    pub fn doubt(&self) -> Option<Doubt> {
        self.suspicion.map(|s| s.doubt)
    }

    /// Whether nothing speaks against it any more, but trust has not returned yet.
    #[must_use]
    pub fn is_on_probation(&self) -> bool {
        self.suspicion.is_some_and(|s| s.well_since.is_some())
    }

    /// Whether something was unacknowledged when it was looked at last.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether something is unacknowledged for so long that a ping is due, and none was sent since.
    #[must_use]
    pub fn is_late(&self, now: Instant) -> bool {
        self.pinged.is_none() && self.age(now) >= LATE.max(self.round_trip)
    }

    /// A ping was sent.
    pub const fn pinged(&mut self, now: Instant) {
        self.pinged = Some(now);
    }

    /// Whether the kernel tells anything of it.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// Whether a ping is left unanswered.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        self.silent
    }

    /// Takes a sample; `patience` is how long silence lasts before it is death.
    pub fn sample(&mut self, sample: &Sample, patience: Duration, now: Instant) -> Option<Change> {
        self.sampled = true;
        self.round_trip = sample.rtt + sample.rtt_variation * 4;
        self.note_progress(sample, now);
        let age = self.age(now);
        if age.min(sample.since_ack) >= patience && self.waiting.is_some() {
            return Some(Change::Dead);
        }
        let doubt = match (sample.timeouts > 0 && sample.unacked, self.is_too_old(age, now)) {
            (true, _) => Some(Doubt::Resending),
            (false, true) => Some(Doubt::Unacknowledged),
            (false, false) if self.dark.is_some() => Some(Doubt::NoCarrier),
            (false, false) => self.silent.then_some(Doubt::TargetSilent),
        };
        self.judge(doubt, now)
    }

    /// A ping is left unanswered, while TCP may be well.
    pub fn target_silent(&mut self, now: Instant) -> Option<Change> {
        self.silent = true;
        match self.suspicion {
            Some(_) => None,
            None => self.judge(Some(Doubt::TargetSilent), now),
        }
    }

    /// The target was heard. Trust returns with the samples that follow.
    pub const fn target_heard(&mut self) {
        self.silent = false;
    }

    /// The link that the connection goes out by has lost its carrier, or has it again. Where the kernel tells, trust returns
    /// with the samples that follow, or when something is acknowledged all the same.
    pub fn carrier(&mut self, present: bool, now: Instant) -> Option<Change> {
        self.dark = (!present).then_some(now);
        match (present, self.suspicion) {
            (false, None) => self.judge(Some(Doubt::NoCarrier), now),
            (true, Some(Suspicion { doubt: Doubt::NoCarrier, .. })) if !self.sampled => {
                (self.suspicion, self.trusted_at) = (None, Some(now));
                Some(Change::Trusted)
            }
            (false, Some(_)) | (true, _) => None,
        }
    }

    fn note_progress(&mut self, sample: &Sample, now: Instant) {
        let fresh = Waiting { since: now, resent: sample.resent };
        if sample.acked == self.acked {
            let waiting = self.waiting.unwrap_or(fresh);
            self.waiting = sample.unacked.then_some(waiting);
            return;
        }
        let acked_at = now.checked_sub(sample.since_ack).unwrap_or(now);
        self.dark.take_if(|at| acked_at > *at);
        self.acked = sample.acked;
        let pinged = self.pinged.take_if(|at| acked_at >= *at);
        if let Some(ended) = self.waiting.filter(|w| w.resent == sample.resent) {
            self.learned.add(acked_at.saturating_duration_since(ended.since), now);
            if let Some(pinged) = pinged {
                self.learned_of_pings.add(acked_at.saturating_duration_since(pinged), now);
            }
        }
        self.waiting = sample.unacked.then_some(fresh);
    }

    /// For how long something has been unacknowledged.
    fn age(&self, now: Instant) -> Duration {
        self.waiting.map_or(Duration::ZERO, |w| now.saturating_duration_since(w.since))
    }

    fn is_too_old(&self, age: Duration, now: Instant) -> bool {
        let shortest = SHORTEST.max(self.round_trip);
        // What was sent before anything was unacknowledged may not have left yet.
        let since_ping = self.pinged.map_or(Duration::ZERO, |at| now.saturating_duration_since(at)).min(age);
        age > shortest.max(self.learned.excuses(now))
            || since_ping > shortest.max(self.learned_of_pings.excuses(now))
    }

    fn judge(&mut self, doubt: Option<Doubt>, now: Instant) -> Option<Change> {
        match (doubt, &mut self.suspicion) {
            (None, None) => None,
            (Some(doubt), Some(suspicion)) => {
                *suspicion = Suspicion { doubt, well_since: None };
                None
            }
            (Some(doubt), None) => {
                self.suspicion = Some(Suspicion { doubt, well_since: None });
                self.damp(now);
                Some(Change::Suspect(doubt))
            }
            (None, Some(suspicion)) => {
                let since = *suspicion.well_since.get_or_insert(now);
                if now < since + self.probation {
                    return None;
                }
                (self.suspicion, self.trusted_at) = (None, Some(now));
                Some(Change::Trusted)
            }
        }
    }

    /// Suspicion came: how long the next probation lasts.
    fn damp(&mut self, now: Instant) {
        let Some(at) = self.trusted_at else { return };
        let trusted = now.saturating_duration_since(at);
        if trusted < RELAPSE {
            self.probation = (self.probation * 2).min(LONGEST_PROBATION);
            return;
        }
        let halvings = u32::try_from(trusted.as_secs() / RELAPSE.as_secs()).unwrap_or(u32::MAX).min(16);
        self.probation = (self.probation / (1 << halvings)).max(PROBATION);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const PATIENCE: Duration = Duration::from_secs(5);

    /// A connection and its kernel; time passes in steps of 10 ms.
    struct Bench {
        health: Health,
        sample: Sample,
        now: Instant,
        changes: Vec<Change>,
    }

    impl Bench {
        #[expect(clippy::disallowed_methods, reason = "an arbitrary origin")]
        fn new() -> Self {
            let sample = Sample { rtt: MS / 5, rtt_variation: MS / 20, acked: 1, ..Sample::default() };
            Self { health: Health::new(), sample, now: Instant::now(), changes: Vec::new() }
        }

        fn step(&mut self) -> Option<Change> {
            self.now += 10 * MS;
            self.sample.since_ack += 10 * MS;
            let change = self.health.sample(&self.sample, PATIENCE, self.now);
            self.changes.extend(change);
            change
        }

        /// Steps until something changes; returns how long that took.
        fn until_change(&mut self) -> (Duration, Change) {
            let began = self.now;
            loop {
                if let Some(change) = self.step() {
                    return (self.now - began, change);
                }
                assert!(self.now < began + Duration::from_secs(60), "nothing changes");
            }
        }

        fn ack(&mut self, unacked: bool) {
            self.sample = Sample {
                acked: self.sample.acked + 100,
                unacked,
                timeouts: 0,
                since_ack: Duration::ZERO,
                ..self.sample
            };
        }

        /// Silence, with a ping where one is due; returns how long it took until something changed.
        fn until_change_with_ping(&mut self) -> (Duration, Change) {
            let began = self.now;
            loop {
                if let Some(change) = self.step() {
                    return (self.now - began, change);
                }
                self.ping_if_late();
                assert!(self.now < began + Duration::from_secs(60), "nothing changes");
            }
        }

        fn ping_if_late(&mut self) -> bool {
            let late = self.health.is_late(self.now);
            if late {
                self.health.pinged(self.now);
            }
            late
        }

        /// Traffic that is acknowledged at once.
        fn flow(&mut self, time: Duration) {
            let until = self.now + time;
            while self.now < until {
                self.ack(true);
                self.step();
            }
        }

        /// An acknowledgement that takes so long.
        fn wait_for_ack(&mut self, time: Duration) {
            self.sample.unacked = true;
            let until = self.now + time;
            while self.now < until {
                self.step();
            }
            self.ack(false);
            self.step();
        }
    }

    #[test]
    fn silence_is_suspected_soon_and_is_death_only_after_patience() {
        let mut bench = Bench::new();
        bench.flow(1000 * MS);
        assert_eq!(bench.until_change(), (60 * MS, Change::Suspect(Doubt::Unacknowledged)));
        bench.sample.timeouts = 1;
        assert_eq!(bench.until_change(), (4940 * MS, Change::Dead));
    }

    #[test]
    fn acknowledgements_of_nothing_new_are_suspect_but_no_death() {
        let mut bench = Bench::new();
        bench.flow(100 * MS);
        for _ in 0..2000 {
            bench.sample.since_ack = Duration::ZERO;
            bench.step();
        }
        assert_eq!(bench.changes, [Change::Suspect(Doubt::Unacknowledged)]);
    }

    #[test]
    fn a_closed_window_and_an_idle_connection_are_neither() {
        let mut bench = Bench::new();
        bench.flow(100 * MS);
        bench.ack(false);
        for _ in 0..2000 {
            bench.step();
        }
        assert_eq!(bench.changes, []);
    }

    #[test]
    fn delayed_acknowledgements_are_learned_and_forgotten() {
        let mut bench = Bench::new();
        bench.wait_for_ack(200 * MS);
        assert_eq!(bench.changes, [Change::Suspect(Doubt::Unacknowledged)], "the first is not known yet");
        bench.flow(1000 * MS);
        bench.changes.clear();
        for _ in 0..50 {
            bench.wait_for_ack(200 * MS);
            bench.flow(100 * MS);
        }
        assert_eq!(bench.changes, []);
        bench.flow(Duration::from_secs(70));
        bench.wait_for_ack(200 * MS);
        assert_eq!(bench.changes.len(), 1, "forgotten by now");
        // However long they are, silence is noticed.
        bench.flow(100 * MS);
        bench.wait_for_ack(1000 * MS);
        bench.flow(1000 * MS);
        bench.changes.clear();
        assert_eq!(bench.until_change().0, 410 * MS);
    }

    /// A peer that is known to delay acknowledgements by 200 ms.
    fn delaying() -> Bench {
        let mut bench = Bench::new();
        bench.wait_for_ack(200 * MS);
        bench.flow(1000 * MS);
        bench.changes.clear();
        bench
    }

    #[test]
    fn a_ping_finds_out_whether_the_peer_only_delays() {
        let mut bench = delaying();
        for _ in 0..50 {
            bench.wait_for_ack(30 * MS);
            assert!(!bench.ping_if_late(), "there is nothing to ask for");
            bench.sample.unacked = true;
            while !bench.ping_if_late() {
                bench.step();
            }
            assert!(!bench.health.is_late(bench.now), "one ping at a time");
            bench.wait_for_ack(10 * MS);
        }
        assert_eq!(bench.changes, []);
        bench.flow(100 * MS);
        let doubt = Change::Suspect(Doubt::Unacknowledged);
        assert_eq!(bench.until_change_with_ping(), (90 * MS, doubt), "a ping after 30 ms, and over 50 more");
    }

    #[test]
    fn that_pings_take_long_is_learned_too() {
        let mut bench = delaying();
        for suspected in [1, 0] {
            bench.sample.unacked = true;
            while !bench.ping_if_late() {
                bench.step();
            }
            bench.wait_for_ack(80 * MS);
            bench.flow(1000 * MS);
            assert_eq!(std::mem::take(&mut bench.changes).len(), 2 * suspected, "the first is not known yet");
        }
        assert_eq!(bench.until_change_with_ping().0, 150 * MS, "a ping after 30 ms, and half as long again");
    }

    #[test]
    fn what_is_acknowledged_after_a_ping_may_have_been_sent_before_it() {
        let mut bench = delaying();
        bench.sample.unacked = true;
        bench.step();
        bench.health.pinged(bench.now);
        bench.now += 10 * MS;
        bench.sample = Sample { acked: bench.sample.acked + 1, since_ack: 15 * MS, ..bench.sample };
        bench.health.sample(&bench.sample, PATIENCE, bench.now);
        assert_eq!(bench.until_change().0, 60 * MS, "of the ping nothing was heard");
    }

    #[test]
    fn what_was_sent_again_is_not_learned() {
        let mut bench = Bench::new();
        bench.flow(100 * MS);
        bench.sample.resent += 1;
        bench.wait_for_ack(200 * MS);
        bench.flow(1000 * MS);
        assert_eq!(bench.until_change().0, 60 * MS);
    }

    #[test]
    fn a_long_round_trip_is_no_silence() {
        let mut bench = Bench::new();
        (bench.sample.rtt, bench.sample.rtt_variation) = (150 * MS, 10 * MS);
        bench.flow(100 * MS);
        assert_eq!(bench.until_change().0, 200 * MS);
    }

    #[test]
    fn sending_again_is_suspect_at_once() {
        let mut bench = Bench::new();
        bench.sample.rtt = 300 * MS;
        bench.flow(100 * MS);
        bench.sample.timeouts = 1;
        assert_eq!(bench.until_change(), (10 * MS, Change::Suspect(Doubt::Resending)));
    }

    #[test]
    fn trust_returns_sooner_or_later() {
        let mut bench = Bench::new();
        let mut took = Vec::new();
        for _ in 0..10 {
            bench.flow(100 * MS);
            bench.until_change();
            let began = bench.now;
            bench.sample.resent += 1;
            while bench.health.doubt().is_some() {
                bench.flow(10 * MS);
            }
            took.push((bench.now - began).as_millis());
        }
        assert_eq!(took, [70, 130, 250, 490, 970, 1930, 3850, 5010, 5010, 5010]);
        bench.flow(Duration::from_secs(35));
        bench.until_change();
        bench.flow(700 * MS);
        assert_eq!(bench.health.doubt(), None, "an eighth of the longest");
    }

    #[test]
    fn without_a_carrier_it_is_suspect_at_once_until_that_is_back() {
        let mut bench = Bench::new();
        bench.flow(100 * MS);
        bench.ack(false);
        assert_eq!(bench.health.carrier(false, bench.now), Some(Change::Suspect(Doubt::NoCarrier)));
        for _ in 0..100 {
            bench.step();
        }
        assert_eq!(bench.health.carrier(false, bench.now), None, "told once");
        assert_eq!(bench.health.carrier(true, bench.now), None);
        assert_eq!(bench.until_change(), (70 * MS, Change::Trusted));
    }

    #[test]
    fn what_is_acknowledged_without_a_carrier_went_another_way() {
        let mut bench = Bench::new();
        bench.flow(100 * MS);
        bench.health.carrier(false, bench.now);
        bench.flow(100 * MS);
        assert_eq!(bench.changes, [Change::Trusted]);
    }

    #[test]
    fn a_carrier_that_is_back_is_enough_where_the_kernel_tells_nothing() {
        let mut bench = Bench::new();
        assert_eq!(bench.health.carrier(false, bench.now), Some(Change::Suspect(Doubt::NoCarrier)));
        assert_eq!(bench.health.carrier(true, bench.now), Some(Change::Trusted));
    }

    #[test]
    fn a_ping_left_unanswered_is_suspect_until_the_target_is_heard() {
        let mut bench = Bench::new();
        bench.flow(100 * MS);
        let doubt = Change::Suspect(Doubt::TargetSilent);
        assert_eq!(bench.health.target_silent(bench.now), Some(doubt));
        assert_eq!(bench.health.target_silent(bench.now), None, "told once");
        bench.flow(10_000 * MS);
        assert_eq!(bench.changes, []);
        bench.health.target_heard();
        bench.flow(100 * MS);
        assert_eq!(bench.changes, [Change::Trusted]);
    }
}
