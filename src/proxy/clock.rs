//! The only place where Braid's data path reads a clock.

use std::time::Instant;

/// The present, for the engine.
#[expect(clippy::disallowed_methods, reason = "the driver is the one that tells the core the time")]
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}
