//! When a lost path is tried again: exponential with jitter from a seed.

use std::time::Duration;

/// Delays between attempts.
///
/// The n-th delay since the last [`Backoff::reset`] lies between three quarters and the whole of
/// `min(first * 2^n, longest)`; the same seed gives the same delays.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    /// The next delay before jitter: at least `first`, at most `longest`.
    next: Duration,
    /// State of the generator of jitter.
    random: u64,
}

impl Backoff {
    /// Starts at `first`, doubles up to `longest`, each with jitter of up to a quarter drawn from `seed`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        let first = first.min(longest);
        Self { first, longest, next: first, random: seed }
    }

    /// The delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(self.longest);
        whole - (whole / 4).mul_f64(self.fraction())
    }

    /// A delay with jitter, of `longest` or the first at most, that counts for nothing.
    pub fn soon(&mut self, longest: Duration) -> Duration {
        let whole = self.next.min(longest.max(self.first));
        whole - (whole / 4).mul_f64(self.fraction())
    }

    /// Other bounds from now on; where it stands between them is kept.
    pub fn retune(&mut self, first: Duration, longest: Duration) {
        self.first = first.min(longest);
        self.longest = longest;
        self.next = self.next.clamp(self.first, longest);
    }

    /// An attempt succeeded and lasted: start over.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// The next number from the generator (SplitMix64), between 0 and 1.
    fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.random;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ bits >> 31) as f64 / u64::MAX as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn delays(seed: u64, count: usize) -> Vec<Duration> {
        let mut backoff = Backoff::new(SECOND, SECOND * 30, seed);
        (0..count).map(|_| backoff.next_delay()).collect()
    }

    #[test]
    fn doubles_up_to_the_longest_with_a_quarter_of_jitter() {
        for seed in 0..200 {
            for (delay, whole) in delays(seed, 9).iter().zip([1, 2, 4, 8, 16, 30, 30, 30, 30]) {
                assert!(*delay <= SECOND * whole && *delay >= SECOND * whole * 3 / 4, "{delay:?} of {whole}");
            }
        }
    }

    #[test]
    fn jitter_comes_from_the_seed_and_spreads() {
        assert_eq!(delays(7, 20), delays(7, 20));
        let first: Vec<_> = (0..100).map(|seed| delays(seed, 1)[0]).collect();
        assert!(first.iter().any(|delay| *delay < SECOND * 4 / 5));
        assert!(first.iter().any(|delay| *delay > SECOND * 19 / 20));
        let late = delays(1, 20);
        assert_ne!(late[10], late[11], "jitter does not end at the longest delay");
    }

    #[test]
    fn other_bounds_hold_from_the_next_delay_on() {
        let mut backoff = Backoff::new(SECOND, SECOND * 30, 7);
        while backoff.next_delay() < SECOND * 23 {}
        backoff.retune(SECOND / 10, SECOND * 2);
        assert!(backoff.next_delay() <= SECOND * 2);
        backoff.reset();
        assert!(backoff.next_delay() <= SECOND / 10);
        backoff.retune(SECOND * 5, SECOND * 60);
        assert!(backoff.next_delay() >= SECOND * 5 * 3 / 4);
    }

    #[test]
    fn what_is_urgent_waits_for_a_while_at_most_and_counts_for_nothing() {
        let mut backoff = Backoff::new(SECOND, SECOND * 30, 7);
        for _ in 0..100 {
            assert!((SECOND * 3 / 4..=SECOND).contains(&backoff.soon(SECOND / 2)), "the first delay holds");
        }
        while backoff.next_delay() < SECOND * 23 {}
        assert!((SECOND * 9 / 4..=SECOND * 3).contains(&backoff.soon(SECOND * 3)));
        assert!(backoff.next_delay() > SECOND * 22);
    }

    #[test]
    fn reset_starts_over() {
        let mut backoff = Backoff::new(SECOND, SECOND * 30, 1);
        for _ in 0..5 {
            backoff.next_delay();
        }
        backoff.reset();
        assert!(backoff.next_delay() <= SECOND);
        assert!(backoff.next_delay() > SECOND);
    }

    #[test]
    fn odd_bounds_are_harmless() {
        let mut backoff = Backoff::new(SECOND * 9, SECOND, 1);
        assert!(backoff.next_delay() <= SECOND, "longest wins");
        let mut none = Backoff::new(Duration::ZERO, SECOND, 1);
        assert_eq!(none.next_delay(), Duration::ZERO);
        let mut forever = Backoff::new(Duration::MAX, Duration::MAX, 1);
        assert!(forever.next_delay() > Duration::MAX / 2);
        assert!(forever.next_delay() > Duration::MAX / 2);
    }
}
