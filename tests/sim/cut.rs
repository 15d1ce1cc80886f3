//! One path falls silent under plain reads and writes, once or time and again, and nothing else goes wrong: how long nothing is
//! answered is bounded by suspicion, long before anything is given up, or at least by that.
//!
//! Drawn from a stream of its own.

use crate::net::Quality;
use crate::random::Random;
use crate::scenario::{Fault, Mix, PathSetup, Planned, Scenario};
use crate::target::Persona;
use braid::session::{Barriers, Fanout};
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);
/// Of this piece's own stream.
const STREAM: u64 = 0x6375_7421;
/// Nothing is answered for so long at most: a peer's delay that was learned, samples, and then the rest.
const LONGEST_STALL: Duration = Duration::from_millis(400);
/// The same in a session of several connections, at its first cut. Where all was acknowledged when the path fell silent a ping must show it, and
/// there pings wait for a second, since they are numbered.
const LONGEST_STALL_OF_ONE_SESSION: Duration = Duration::from_millis(1400);
/// The same where one cut follows the other, so that the session may be on its way back from the last. Then what is silent may
/// have to be given up first, which takes two seconds, and the ping that shows it one more.
const LONGEST_STALL_OF_A_TRAIN: Duration = Duration::from_secs(4);
/// Cuts in a train.
const TRAIN: u32 = 16;

/// Since when nothing was answered although something was asked.
#[derive(Debug)]
pub(crate) struct Stall {
    since: Option<Instant>,
    longest: Duration,
}

impl Stall {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let longest = match scenario.fanout {
            _ if scenario.faults.len() > 1 => LONGEST_STALL_OF_A_TRAIN,
            Fanout::Mcs => LONGEST_STALL_OF_ONE_SESSION,
            Fanout::Sessions => LONGEST_STALL,
        };
        Self { since: None, longest }
    }

    /// So many commands are open, of which some have just been issued or `answered`.
    pub(crate) fn note(&mut self, open: usize, answered: bool, now: Instant) {
        if let Some(since) = self.since.filter(|_| answered) {
            let stall = now.saturating_duration_since(since);
            assert!(stall < self.longest, "P4: nothing was answered for {stall:?}");
        }
        let since = if answered { now } else { self.since.unwrap_or(now) };
        self.since = (open > 0).then_some(since);
    }
}

impl Scenario {
    /// Makes this seed one of a single cut, if it is to be one.
    pub(crate) fn cut(&mut self, seed: u64) -> bool {
        if seed % 16 != 5 || self.access.is_some() || self.inventory.is_some() || self.heads.two {
            return false;
        }
        let mut random = Random::new(seed ^ STREAM);
        self.persona = random.pick(&[Persona::lab, Persona::tgt, Persona::lio])();
        (self.persona.slow_once_in, self.persona.ghost_time) = (1 << 30, 100 * MS);
        (self.fanout, self.order.barriers) = (Fanout::Sessions, Barriers::Strict);
        (self.order.naca, self.order.device_type, self.order.control) = (false, 0, None);
        if seed % 32 == 21 {
            // One session, which waits for its silent connection: a rescue is needed.
            self.fanout = Fanout::Mcs;
            self.persona.max_connections = 8;
        }
        let delay = random.pick(&[MS / 200, MS / 20, MS / 2]);
        let quality = Quality { delay, jitter: Duration::ZERO, bytes_per_second: 100_000_000 };
        let path = PathSetup { quality, group: 1, wrong: false };
        self.paths = vec![path; random.pick(&[2, 2, 3])];
        self.downstream = quality;
        (self.units, self.blocks, self.longest) = (1, 240, 2);
        (self.commands, self.depth, self.window, self.memory) = (130, 12, 32, 1 << 20);
        self.think = random.pick(&[MS / 10, 2 * MS]);
        self.mix = Mix { read: 8, write: 8, ..Mix::default() };
        let (up, down) = random.pick(&[(true, true), (true, false), (false, true)]);
        let long = random.pick(&[700 * MS, 3000 * MS, 6000 * MS]);
        let fault = Fault::Silence(random.below(self.paths.len()), up, down, long);
        let delay = random.between(Duration::ZERO, 2 * MS);
        self.faults = vec![Planned { after_commands: 80, delay, fault }];
        if self.fanout == Fanout::Mcs && random.once_in(2) {
            self.cut_again_and_again(random);
        }
        true
    }

    /// One cut follows the other, each when all is well again, over a minute or so.
    fn cut_again_and_again(&mut self, mut random: Random) {
        (self.commands, self.depth, self.think) = (1000, 8, 300 * MS);
        let (up, down) = random.pick(&[(true, true), (true, false), (false, true)]);
        self.faults = (0..TRAIN)
            .map(|n| {
                let long = random.pick(&[700 * MS, 3000 * MS, 6000 * MS]);
                let fault = Fault::Silence(random.below(self.paths.len()), up, down, long);
                let delay = random.between(Duration::ZERO, 2000 * MS);
                Planned { after_commands: 80 + 50 * n, delay, fault }
            })
            .collect();
    }
}
