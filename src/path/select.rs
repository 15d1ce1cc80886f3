//! Which path takes the next command.
//!
//! # Contract
//! The caller keeps a [`PathLoad`] beside each path and tells it of every command sent, finished and forgotten; the
//! [`Selector`] looks at them and chooses. A choice costs O(paths) and allocates only when the number of paths grows.
//!
//! # Service time
//! A command costs its payload plus a fixed amount for being a command, in bytes. What a path needs per byte of cost is
//! taken from the time its commands took. That time alone blames the path for its queue (the same command takes twice as
//! long behind another one); divided by all that was in flight it praises a path that merely has much in flight, so that
//! of two equal paths the busier looks better and better. The geometric mean of the two has neither fault: queues grow in
//! proportion to nearly the rate of the paths, and equal paths share equally, whether their links or their round trips
//! are the limit.
//!
//! - A path without a measurement counts as fast as the best one, and wins against it when both are idle.
//! - An idle path that is passed over looks better with every choice made without it. One that is `n` times slower than
//!   the best is thus measured again about every `8 n` choices, which costs about an eighth more time in the mean.
//! - Bad news is believed slowly, a much better time at once, so that a hiccup does not shut a path out for long.
//!
//! # Slow start
//! A path that is not to be given its full share yet ([`PathLoad::share`]) takes part in that part of the choices only, whatever
//! the policy, as long as there is another that has its full share.

use std::time::Duration;

/// [`PathLoad::share`] of a path that takes part like any other.
pub const FULL_SHARE: u32 = 64;

/// How a path is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// Least expected completion time, from bytes in flight and measured service rate.
    #[default]
    ServiceTime,
    /// Fewest commands in flight, relative to weight.
    QueueDepth,
    /// In turn.
    RoundRobin,
    /// In proportion to weight (smooth weighted round robin).
    Weighted,
    /// The first usable path in the order of the configuration.
    Failover,
}

/// What is known of one path; one per path, kept by the caller beside it.
#[derive(Clone, Debug)]
pub struct PathLoad {
    /// Configured weight, at least 1.
    pub weight: u32,
    /// Commands in flight.
    pub commands: u32,
    /// Payload bytes in flight.
    pub bytes: u64,
    /// What it is given of its share: from [`PathLoad::LEAST_SHARE`] to [`FULL_SHARE`], which means all of it.
    pub share: u32,
    /// Moving averages over finished commands; none before the first.
    measured: Option<Measured>,
}

/// Moving averages of the time commands took and of the cost that explains it. Their quotient is the time per byte: a
/// quotient of averages, not an average of quotients, so that large and small commands count by what they weigh.
#[derive(Clone, Copy, Debug)]
struct Measured {
    nanoseconds: f64,
    /// Geometric mean of a command's own cost and of all cost in flight when it finished.
    cost: f64,
}

impl Measured {
    fn per_byte(self) -> f64 {
        self.nanoseconds / self.cost
    }

    /// The averages moved by `share` of the way to `sample`.
    fn moved(self, sample: Self, share: f64) -> Self {
        Self {
            nanoseconds: self.nanoseconds + (sample.nanoseconds - self.nanoseconds) * share,
            cost: self.cost + (sample.cost - self.cost) * share,
        }
    }
}

/// What a command costs beyond its payload, in bytes: between what a round trip of 100 us is worth on a link of 1 Gbit/s
/// and on one of 10.
const COST_OF_COMMAND: u64 = 32 << 10;

impl PathLoad {
    /// The least share: one of so many choices is open to it.
    pub const LEAST_SHARE: u32 = 1;

    /// An idle path.
    #[must_use]
    pub fn new(weight: u32) -> Self {
        Self { weight: weight.max(1), commands: 0, bytes: 0, share: FULL_SHARE, measured: None }
    }

    /// A command with this payload was sent.
    pub fn started(&mut self, bytes: u64) {
        self.commands = self.commands.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// It completed `took` after it was sent; feeds the estimate of the path's rate.
    pub fn finished(&mut self, bytes: u64, took: Duration) {
        const USUAL_SHARE: f64 = 0.125;
        const SHARE_OF_GOOD_NEWS: f64 = 0.5;
        let own = cost(1, bytes);
        let sample = Measured {
            nanoseconds: (took.as_nanos() as f64).max(1.0),
            cost: (own * cost(self.commands, self.bytes).max(own)).sqrt(),
        };
        self.measured = Some(self.measured.map_or(sample, |known| {
            let good_news = sample.per_byte() < known.per_byte() / 2.0;
            known.moved(sample, if good_news { SHARE_OF_GOOD_NEWS } else { USUAL_SHARE })
        }));
        self.forgotten(bytes);
    }

    /// It left the path without completing (path lost, command moved).
    pub fn forgotten(&mut self, bytes: u64) {
        self.commands = self.commands.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// What its commands take, in the mean of late; zero before the first has finished.
    #[must_use]
    pub fn usual_time(&self) -> Duration {
        self.measured.map_or(Duration::ZERO, |m| Duration::from_secs_f64(m.nanoseconds / 1e9))
    }

    /// The path was made anew: what was measured of the old one is void, and nothing is in flight.
    pub fn reset(&mut self) {
        *self = Self::new(self.weight);
    }

    /// When a command of this payload would complete if sent now, in nanoseconds; `otherwise` stands in for a time per
    /// byte that was never measured.
    fn expected(&self, bytes: u64, otherwise: f64) -> f64 {
        let per_byte = self.measured.map_or(otherwise, Measured::per_byte);
        per_byte * (cost(self.commands, self.bytes) + cost(1, bytes))
    }
}

/// Cost of this many commands with this payload in all, in bytes.
fn cost(commands: u32, bytes: u64) -> f64 {
    (u64::from(commands) * COST_OF_COMMAND) as f64 + bytes as f64
}

/// State of a policy over all paths of a session.
#[derive(Clone, Debug)]
pub struct Selector {
    policy: Policy,
    /// Choices made so far.
    choices: u64,
    /// Per path; grows to the number of paths seen.
    turns: Vec<Turn>,
    /// Scratch: which paths this choice is open to.
    open: Vec<bool>,
}

/// Whose turn it is, seen from one path.
#[derive(Clone, Copy, Default, Debug)]
struct Turn {
    /// [`Selector::choices`] when it was chosen last.
    chosen: u64,
    /// Credit of the smooth weighted round robin; the credits of all usable paths sum up to zero.
    credit: i64,
    /// What a path with less than its full share has earned; a choice costs [`FULL_SHARE`].
    earned: u32,
}

impl Selector {
    /// A selector for this policy.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, choices: 0, turns: Vec::new(), open: Vec::new() }
    }

    /// Chooses among the usable paths for a command of `bytes`; `loads` has one entry per path and `usable[i]` tells
    /// whether path `i` may be taken. None if no path is usable.
    pub fn choose(&mut self, loads: &[PathLoad], usable: &[bool], bytes: u64) -> Option<usize> {
        if self.turns.len() < loads.len() {
            self.turns.resize(loads.len(), Turn::default());
        }
        let open = self.open_to(loads, usable);
        let chosen = self.choose_among(loads, &open, bytes);
        self.open = open;
        let chosen = chosen?;
        self.choices += 1;
        let choices = self.choices;
        let turn = self.turns.get_mut(chosen)?;
        (turn.chosen, turn.earned) = (choices, turn.earned.saturating_sub(FULL_SHARE));
        Some(chosen)
    }

    /// Which usable paths a choice is open to: those with their full share always, the others as often as their share
    /// says. Without any of the former it is open to all.
    fn open_to(&mut self, loads: &[PathLoad], usable: &[bool]) -> Vec<bool> {
        let mut open = std::mem::take(&mut self.open);
        open.clear();
        open.extend_from_slice(usable);
        let partial = |load: &PathLoad| load.share < FULL_SHARE;
        let mut whole = loads.iter().zip(usable).filter(|(load, usable)| **usable && !partial(load));
        if loads.iter().any(partial) && whole.next().is_some() {
            for ((open, load), turn) in open.iter_mut().zip(loads).zip(&mut self.turns) {
                if *open && partial(load) {
                    turn.earned = (turn.earned + load.share).min(FULL_SHARE + load.share);
                    *open = turn.earned >= FULL_SHARE;
                }
            }
        }
        open
    }

    fn choose_among(&mut self, loads: &[PathLoad], usable: &[bool], bytes: u64) -> Option<usize> {
        let chosen = match self.policy {
            Policy::ServiceTime => self.least_service_time(loads, usable, bytes),
            Policy::QueueDepth => self.least_queue(loads, usable),
            Policy::RoundRobin => self.candidates(loads, usable).min_by_key(|path| path.turn.chosen),
            Policy::Weighted => self.most_credit(loads, usable),
            Policy::Failover => self.candidates(loads, usable).next(),
        };
        chosen.map(|path| path.index)
    }

    fn least_service_time<'a>(
        &self,
        loads: &'a [PathLoad],
        usable: &[bool],
        bytes: u64,
    ) -> Option<Candidate<'a>> {
        let best = self
            .candidates(loads, usable)
            .filter_map(|path| path.load.measured.map(Measured::per_byte))
            .min_by(f64::total_cmp)
            .unwrap_or(1.0);
        let looks = |path: &Candidate<'_>| {
            (path.load.expected(bytes, best) / self.patience(path), path.load.measured.is_some())
        };
        self.candidates(loads, usable).min_by(|a, b| {
            let ((time_a, known_a), (time_b, known_b)) = (looks(a), looks(b));
            time_a.total_cmp(&time_b).then(known_a.cmp(&known_b))
        })
    }

    /// By how much the expected time of a path is divided for having been passed over: it grows by 1 with every 8 choices
    /// made while the path was idle. Commands in flight will tell how fast it is without another one.
    fn patience(&self, path: &Candidate<'_>) -> f64 {
        const CHOICES: f64 = 8.0;
        let passed_over = if path.load.commands == 0 { self.choices - path.turn.chosen } else { 0 };
        1.0 + passed_over as f64 / CHOICES
    }

    /// Least commands, this one included, per weight; of equals the one chosen longest ago.
    fn least_queue<'a>(&self, loads: &'a [PathLoad], usable: &[bool]) -> Option<Candidate<'a>> {
        let queue = |path: &Candidate<'_>| u64::from(path.load.commands) + 1;
        let weight = |path: &Candidate<'_>| u64::from(path.load.weight);
        self.candidates(loads, usable).min_by(|a, b| {
            let (a_scaled, b_scaled) =
                (queue(a).saturating_mul(weight(b)), queue(b).saturating_mul(weight(a)));
            a_scaled.cmp(&b_scaled).then(a.turn.chosen.cmp(&b.turn.chosen))
        })
    }

    /// Smooth weighted round robin: each usable path earns its weight, the richest is chosen and pays what all earned. A
    /// path that is not usable loses its credit, so that it does not come back with a burst.
    fn most_credit<'a>(&mut self, loads: &'a [PathLoad], usable: &[bool]) -> Option<Candidate<'a>> {
        let mut total = 0;
        for ((turn, load), usable) in self.turns.iter_mut().zip(loads).zip(usable) {
            if *usable {
                turn.credit += i64::from(load.weight);
                total += i64::from(load.weight);
            } else {
                turn.credit = 0;
            }
        }
        let first_of_richest = |a: &Candidate<'_>, b: &Candidate<'_>| b.turn.credit.cmp(&a.turn.credit);
        let chosen = self.candidates(loads, usable).min_by(first_of_richest)?;
        self.turns.get_mut(chosen.index)?.credit -= total;
        Some(chosen)
    }

    /// The usable paths in their order.
    fn candidates<'a>(&self, loads: &'a [PathLoad], usable: &[bool]) -> impl Iterator<Item = Candidate<'a>> {
        loads
            .iter()
            .zip(usable)
            .zip(&self.turns)
            .enumerate()
            .filter(|(_, ((_, usable), _))| **usable)
            .map(|(index, ((load, _), turn))| Candidate { index, load, turn: *turn })
    }
}

/// A usable path.
struct Candidate<'a> {
    index: usize,
    load: &'a PathLoad,
    turn: Turn,
}

#[cfg(test)]
mod tests;
