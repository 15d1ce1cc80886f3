//! What is late: longer than a quantile of the times that reads over a path took of late.
//!
//! # Contract
//! The caller keeps one [`Answers`] beside each path, and tells it how long each read took until the first of its answer
//! came. [`Answers::late`] then gives the time that all but the slowest exceed. Reads are judged among reads of about their
//! size: large ones take longer by nature.
//!
//! # How
//! Times are counted in buckets an eighth of an octave wide, so that the answer is too long by an eighth at most. Once enough
//! have come for the quantile to be known 16 times over, all counts are halved: what was long ago counts for less and less.
//! Nothing is late before two reads are to be expected beyond the quantile.

use std::time::Duration;

/// Sizes that are told apart: up to 8, 32, 128 and 512 KiB, and more.
const SIZES: usize = 5;
/// Times up to this share a bucket, in microseconds.
const SHORTEST: u64 = 1 << SHORTEST_OCTAVE;
const SHORTEST_OCTAVE: u32 = 6;
/// Buckets in an octave.
const STEPS: u64 = 1 << STEP_BITS;
const STEP_BITS: u32 = 3;
/// The last one begins at about a minute.
const BUCKETS: usize = 160;
/// The quantile is looked up again after so many more.
const FRESH: u32 = 16;
/// A quantile is given in so many parts of the whole.
const WHOLE: u32 = 1000;

/// How long reads over one path took.
#[derive(Clone, Default, Debug)]
pub struct Answers {
    sizes: [Times; SIZES],
}

/// The same, of one size.
#[derive(Clone, Default, Debug)]
struct Times {
    /// Empty until the first comes.
    counts: Vec<u16>,
    total: u32,
    /// Counted since `late` was looked up.
    fresh: u32,
    late: Option<Duration>,
}

impl Answers {
    /// A read of so many bytes took so long; `quantile` in thousandths.
    pub fn note(&mut self, bytes: u64, took: Duration, quantile: u16) {
        if let Some(times) = self.sizes.get_mut(size_of(bytes)) {
            times.note(took, quantile);
        }
    }

    /// After what time a read of so many bytes is late. None while that is not known.
    #[must_use]
    pub fn late(&self, bytes: u64) -> Option<Duration> {
        self.sizes.get(size_of(bytes)).and_then(|times| times.late)
    }

    /// The shortest time after which a read of any size is late.
    #[must_use]
    pub fn soonest(&self) -> Option<Duration> {
        self.sizes.iter().filter_map(|times| times.late).min()
    }
}

impl Times {
    fn note(&mut self, took: Duration, quantile: u16) {
        self.counts.resize(BUCKETS, 0);
        if let Some(count) = self.counts.get_mut(bucket_of(took)) {
            *count = count.saturating_add(1);
        }
        let beyond = WHOLE.saturating_sub(u32::from(quantile)).max(1);
        (self.total, self.fresh) = (self.total + 1, self.fresh + 1);
        if self.fresh >= FRESH || self.late.is_none() {
            self.fresh = 0;
            self.late = (self.total * beyond >= 2 * WHOLE).then(|| self.exceeded_by(beyond));
        }
        if self.total >= (32 * WHOLE / beyond).max(WHOLE) {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().copied().map(u32::from).sum();
        }
    }

    /// The time that so many thousandths exceed.
    fn exceeded_by(&self, beyond: u32) -> Duration {
        let most = self.total * beyond / WHOLE;
        let mut longer = 0;
        let found = self.counts.iter().rposition(|count| {
            longer += u32::from(*count);
            longer > most
        });
        end_of(found.unwrap_or(0))
    }
}

fn size_of(bytes: u64) -> usize {
    [8, 32, 128, 512].iter().filter(|kib| bytes > **kib << 10).count()
}

fn bucket_of(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(SHORTEST);
    let octave = micros.ilog2();
    let step = (micros >> (octave - STEP_BITS)) - STEPS;
    let bucket = u64::from(octave - SHORTEST_OCTAVE) * STEPS + step;
    usize::try_from(bucket).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// Where a bucket ends.
fn end_of(bucket: usize) -> Duration {
    let bucket = bucket as u64;
    let (octave, step) = (bucket / STEPS, bucket % STEPS);
    Duration::from_micros((SHORTEST + (step + 1) * SHORTEST / STEPS) << octave)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);
    const P90: u16 = 900;

    fn is_about(late: Option<Duration>, time: Duration) -> bool {
        late.is_some_and(|late| late >= time && late <= time * 9 / 8 + Duration::from_micros(1))
    }

    #[test]
    fn nothing_is_late_before_enough_has_come() {
        let mut answers = Answers::default();
        for _ in 0..19 {
            answers.note(4096, MS, P90);
        }
        assert_eq!((answers.late(4096), answers.soonest()), (None, None));
        answers.note(4096, MS, P90);
        assert!(is_about(answers.late(4096), MS));
    }

    #[test]
    fn late_is_what_the_quantile_says() {
        for (quantile, expected) in [(500, 50), (900, 90), (980, 98)] {
            let mut answers = Answers::default();
            for n in 0..800 {
                answers.note(512, MS * (n * 37 % 100 + 1), quantile);
            }
            assert!(is_about(answers.late(512), MS * expected), "{quantile}: {:?}", answers.late(512));
        }
    }

    #[test]
    fn sizes_are_judged_apart() {
        let mut answers = Answers::default();
        for _ in 0..100 {
            answers.note(4 << 10, MS, P90);
            answers.note(1 << 20, MS * 10, P90);
        }
        assert!(is_about(answers.late(8 << 10), MS));
        assert_eq!(answers.late(9 << 10), None, "none of that size has come");
        assert!(is_about(answers.late(513 << 10), MS * 10));
        assert!(is_about(answers.soonest(), MS));
    }

    #[test]
    fn a_path_that_has_become_slow_is_late_no_more_soon() {
        let mut answers = Answers::default();
        for _ in 0..100_000 {
            answers.note(512, MS, 990);
        }
        let mut slow = 0;
        while !is_about(answers.late(512), MS * 20) {
            answers.note(512, MS * 20, 990);
            slow += 1;
        }
        assert!((16..=64).contains(&slow), "{slow}");
        let mut quick = 0;
        while !is_about(answers.late(512), MS) {
            answers.note(512, MS, 990);
            quick += 1;
        }
        assert!(quick < 20_000, "{quick}");
    }

    proptest! {
        #[test]
        fn every_time_lies_in_a_bucket_that_ends_at_most_an_eighth_later(micros in 0_u64..60_000_000) {
            let took = Duration::from_micros(micros);
            let end = end_of(bucket_of(took));
            prop_assert!(end > took);
            prop_assert!(end <= took.max(Duration::from_micros(SHORTEST)) * 9 / 8 + Duration::from_micros(1));
        }
    }
}
