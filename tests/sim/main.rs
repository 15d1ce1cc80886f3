//! The engine in a simulated world: model initiator, model targets, links that fail, one seed, virtual time.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod random;
mod target;

use libtest_mimic::{Arguments, Trial};
use std::time::Duration;

fn main() {
    let mut trials = vec![Trial::test("random::spreads", || {
        let mut random = random::Random::new(1).fork();
        let mut seen = [0; 8];
        (0..800).for_each(|_| seen[random.below(8)] += 1);
        assert!(seen.iter().all(|n| *n > 50));
        let (least, most) = (Duration::from_millis(random.pick(&[1, 2])), Duration::from_millis(3));
        let all = (0..100).map(|_| random.between(least, most));
        assert!(all.into_iter().all(|d| d >= least && d <= most));
        assert!((0..100).any(|_| random.once_in(8)));
        Ok(())
    })];
    let target = target::trials();
    trials.extend(target.into_iter().map(|(name, trial)| {
        Trial::test(name, move || {
            trial();
            Ok(())
        })
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
