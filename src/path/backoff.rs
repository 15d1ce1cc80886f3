//! When a lost path is tried again: exponential with jitter from a seed.

use std::time::Duration;

/// Delays between attempts.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// Starts at `first`, doubles up to `longest`, each with jitter of up to a quarter drawn from `seed`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        todo!("{first:?} {longest:?} {seed}")
    }

    /// The delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        todo!("{:?} {:?}", self.first, self.longest)
    }

    /// An attempt succeeded and lasted: start over.
    pub fn reset(&mut self) {
        todo!()
    }
}
