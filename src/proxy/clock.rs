//! The only place where Braid's data path reads clocks.

use std::time::{Instant, SystemTime};

/// The present, for the engine.
#[expect(clippy::disallowed_methods, reason = "the driver is the one that tells the core the time")]
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// The time of day, for people.
#[expect(clippy::disallowed_methods, reason = "nothing depends on it: it is shown")]
#[must_use]
pub(super) fn time_of_day() -> SystemTime {
    SystemTime::now()
}
