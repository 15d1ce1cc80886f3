//! Chance, from one seed.

use std::time::Duration;

/// A seeded generator (xorshift64*): small, fast, and the same on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // SplitMix64 of the seed: neighbouring seeds must not begin alike, and the state must not be 0.
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((z ^ (z >> 31)) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % bound.max(1)
    }

    /// The seed of another generator.
    pub(crate) fn seed(&mut self) -> u64 {
        self.next()
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of the choices.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A duration from `least` to `most`, in whole microseconds.
    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = most.saturating_sub(least).as_micros();
        let extra = u128::from(self.next() >> 11) % (span + 1);
        least + Duration::from_micros(u64::try_from(extra).unwrap())
    }

    /// A generator that depends on this one and `name`, without a draw from this one.
    pub(crate) fn branch(&self, name: u64) -> Self {
        Self::new(self.0 ^ name)
    }

    /// A generator of its own, so that one part's draws do not shift another's.
    pub(crate) fn fork(&mut self) -> Self {
        Self::new(self.next())
    }
}

pub(crate) fn trials() -> Vec<(&'static str, fn())> {
    vec![("random::spreads", spreads)]
}

fn spreads() {
    let mut random = Random::new(1).fork();
    let mut seen = [0; 8];
    (0..800).for_each(|_| seen[random.below(8)] += 1);
    assert!(seen.iter().all(|n| *n > 50));
    let (least, most) = (Duration::from_millis(random.pick(&[1, 2])), Duration::from_millis(3));
    assert!((0..100).map(|_| random.between(least, most)).all(|d| d >= least && d <= most));
    assert!((0..100).any(|_| random.once_in(8)));
}
