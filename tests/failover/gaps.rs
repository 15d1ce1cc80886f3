//! Times between completions: which was the longest, and when.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::{Duration, Instant};

use ::braid::lab::workload::Done;
use anyhow::Result;
use hdrhistogram::Histogram;

/// A gap that begins later than this after a cut has other causes, unless commands wait for what the cut has left: a machine with
/// other guests makes gaps of 10 ms by itself, one in some seconds.
pub(crate) const FAILOVER: Duration = Duration::from_millis(250);

/// Upper bounds of the classes of the histogram that is printed, in milliseconds.
const CLASSES: [u64; 15] = [1, 2, 5, 10, 20, 50, 100, 150, 200, 500, 1000, 2000, 5000, 10_000, 30_000];

/// The worst of some time.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Worst {
    /// Longest time between two completions of any commands.
    pub(crate) gap: Duration,
    /// Longest time of a command.
    pub(crate) took: Duration,
}

/// The record of one cut, in its order: before it, its beginning ([`FAILOVER`]), while it lasts, and after it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Cycle {
    pub(crate) undisturbed: Worst,
    pub(crate) failover: Worst,
    pub(crate) cut: Worst,
    pub(crate) healed: Worst,
}

impl Cycle {
    /// Sorts completions, beginning with the last one before the cycle, by the times of the cut and of the healing. A gap or a
    /// command during which the link was cut belongs to the cut.
    pub(crate) fn new(completions: &[Done], cut: Instant, healed: Instant) -> Self {
        let mut cycle = Self::default();
        for pair in completions.windows(2) {
            let (from, done) = (pair[0].at, pair[1]);
            let gap = &mut cycle.part(cut..healed, from..done.at).gap;
            *gap = (*gap).max(done.at - from);
            let took = &mut cycle.part(cut..healed, done.at - done.took..done.at).took;
            *took = (*took).max(done.took);
        }
        cycle
    }

    /// Where some time belongs.
    fn part(&mut self, cut: Range<Instant>, time: Range<Instant>) -> &mut Worst {
        let after = time.start.saturating_duration_since(cut.start);
        match (time.end <= cut.start, after < FAILOVER, time.start < cut.end) {
            (true, _, _) => &mut self.undisturbed,
            (false, true, true) => &mut self.failover,
            (false, false, true) => &mut self.cut,
            (false, _, false) => &mut self.healed,
        }
    }
}

/// Percentiles of some times.
pub(crate) struct Spread(Histogram<u64>);

impl Spread {
    /// Of these.
    pub(crate) fn new(times: impl IntoIterator<Item = Duration>) -> Result<Self> {
        let mut histogram = Histogram::new_with_bounds(1, 3_600_000_000, 3)?;
        for time in times {
            histogram.record(u64::try_from(time.as_micros())?)?;
        }
        Ok(Self(histogram))
    }

    /// In milliseconds.
    pub(crate) fn at(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Median, 99th percentile and maximum, as cells of a table.
    pub(crate) fn cells(&self) -> String {
        format!("| {:.1} | {:.1} | {:.1} ", self.at(0.5), self.at(0.99), self.at(1.0))
    }

    /// How many lie in each class, as cells of a table.
    pub(crate) fn classes(&self) -> String {
        let mut cells = String::new();
        let mut from = 0;
        for bound in CLASSES.map(|bound| bound * 1000).into_iter().chain([u64::MAX]) {
            let count = self.0.count_between(from, bound - 1);
            let cell = if count == 0 { String::new() } else { count.to_string() };
            write!(cells, "| {cell} ").expect("string");
            from = bound;
        }
        cells
    }
}

/// The heads of [`Spread::classes`].
pub(crate) fn class_heads() -> String {
    let bound = |ms: u64| if ms < 1000 { format!("<{ms} ms") } else { format!("<{} s", ms / 1000) };
    let heads: String = CLASSES.iter().map(|ms| format!("| {} ", bound(*ms))).collect();
    heads + "| more "
}

/// A line below the heads of a table.
pub(crate) fn rule(heads: &str) -> String {
    "|---".repeat(heads.matches('|').count()) + "|"
}
