//! Whether a path comes and goes too often to be relied on: then it is **marginal**, and kept for emergencies.
//!
//! # Contract
//! The caller keeps one [`Flaps`] beside each path, tells it of every connection that was lost and of every return, and, while
//! the path works, asks it for [`Flaps::settle`] when [`Flaps::settles_at`] has come. Both say what changed.
//!
//! # How long
//! So many losses within a time make a path marginal ([`Limits`]). It is normal again once none has come for `calm`. If it
//! becomes marginal again soon, that takes twice as long, up to [`LONGEST_CALM`]; half as long for every `RELAPSE` that it
//! was not.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A path is never marginal for longer after its last loss.
pub const LONGEST_CALM: Duration = Duration::from_secs(300);
/// Marginal again within this time counts as a relapse.
const RELAPSE: Duration = Duration::from_secs(300);

/// When a path is marginal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// After so many losses; never if 0.
    pub losses: u32,
    /// In this time.
    pub within: Duration,
    /// Until none has come for so long, the first time.
    pub calm: Duration,
}

/// What a path's losses say of it.
#[derive(Clone, Default, Debug)]
pub struct Flaps {
    /// The latest, as many as count.
    losses: VecDeque<Instant>,
    /// When it is normal again, if it is marginal, and how long it had to be calm for that.
    marginal: Option<(Instant, Duration)>,
    /// When it was normal again last, and how long it had to be calm.
    before: Option<(Instant, Duration)>,
}

impl Flaps {
    /// Whether it is kept for emergencies.
    #[must_use]
    pub const fn is_marginal(&self) -> bool {
        self.marginal.is_some()
    }

    /// When it is normal again, if nothing happens before.
    #[must_use]
    pub fn settles_at(&self) -> Option<Instant> {
        self.marginal.map(|(at, _)| at)
    }

    /// A connection was lost. Returns whether the path is marginal from now on.
    pub fn lost(&mut self, limits: &Limits, now: Instant) -> bool {
        if let Some((at, calm)) = &mut self.marginal {
            *at = now + *calm;
            return false;
        }
        if limits.losses == 0 {
            return false;
        }
        self.losses.push_back(now);
        while self.losses.front().is_some_and(|at| now > *at + limits.within) {
            self.losses.pop_front();
        }
        if self.losses.len() < usize::try_from(limits.losses).unwrap_or(usize::MAX) {
            return false;
        }
        self.losses.clear();
        let calm = self.calm(limits, now);
        self.marginal = Some((now + calm, calm));
        true
    }

    fn calm(&self, limits: &Limits, now: Instant) -> Duration {
        let Some((at, calm)) = self.before else { return limits.calm };
        let well = now.saturating_duration_since(at);
        let most = LONGEST_CALM.max(limits.calm);
        if well < RELAPSE {
            return (calm * 2).clamp(limits.calm, most);
        }
        let halvings = u32::try_from(well.as_secs() / RELAPSE.as_secs()).unwrap_or(u32::MAX).min(16);
        (calm / (1 << halvings)).clamp(limits.calm, most)
    }

    /// It works again: calm begins now.
    pub fn returned(&mut self, now: Instant) {
        if let Some((at, calm)) = &mut self.marginal {
            *at = now + *calm;
        }
    }

    /// Looks whether it has been calm for long enough. Returns whether the path is normal again from now on.
    pub fn settle(&mut self, now: Instant) -> bool {
        let Some((_, calm)) = self.marginal.take_if(|(at, _)| *at <= now) else { return false };
        self.before = Some((now, calm));
        true
    }

    /// Other limits hold from now on. Returns whether the path is normal again from now on.
    pub fn retune(&mut self, limits: &Limits, now: Instant) -> bool {
        self.losses.clear();
        if limits.losses == 0 {
            return self.marginal.take().is_some();
        }
        if let Some((at, calm)) = &mut self.marginal {
            (*at, *calm) = ((*at).min(now + limits.calm), limits.calm);
        }
        self.settle(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: Limits =
        Limits { losses: 3, within: Duration::from_secs(60), calm: Duration::from_secs(10) };

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin")]
    fn origin() -> Instant {
        Instant::now()
    }

    /// Loses it three times at once; returns how long it is marginal.
    fn lose(flaps: &mut Flaps, now: Instant) -> Duration {
        assert!(!flaps.lost(&LIMITS, now) && !flaps.lost(&LIMITS, now));
        assert!(flaps.lost(&LIMITS, now) && flaps.is_marginal());
        flaps.settles_at().unwrap() - now
    }

    #[test]
    fn losses_that_lie_close_together_count() {
        let (mut flaps, mut now) = (Flaps::default(), origin());
        for _ in 0..100 {
            assert!(!flaps.lost(&LIMITS, now));
            now += SECOND * 31;
        }
        assert!(flaps.losses.len() < 3, "no more is kept than counts");
        assert_eq!(lose(&mut Flaps::default(), now), SECOND * 10);
    }

    #[test]
    fn every_loss_begins_the_calm_anew() {
        let (mut flaps, now) = (Flaps::default(), origin());
        lose(&mut flaps, now);
        assert!(!flaps.settle(now + SECOND * 9));
        assert!(!flaps.lost(&LIMITS, now + SECOND * 9), "it is marginal already");
        assert!(!flaps.settle(now + SECOND * 18));
        assert!(flaps.settle(now + SECOND * 19) && !flaps.is_marginal());
        assert!(!flaps.settle(now + SECOND * 20), "told once");
        lose(&mut flaps, now + SECOND * 20);
        flaps.returned(now + SECOND * 60);
        assert_eq!(flaps.settles_at(), Some(now + SECOND * 80), "being away is no calm");
    }

    #[test]
    fn relapses_take_longer_and_are_forgotten() {
        let (mut flaps, mut now) = (Flaps::default(), origin());
        let mut took = Vec::new();
        for _ in 0..7 {
            let calm = lose(&mut flaps, now);
            took.push(calm.as_secs());
            now += calm;
            assert!(flaps.settle(now));
        }
        assert_eq!(took, [10, 20, 40, 80, 160, 300, 300]);
        now += RELAPSE * 2 + SECOND;
        assert_eq!(lose(&mut flaps, now).as_secs(), 75);
    }

    #[test]
    fn other_limits_hold_at_once() {
        let (mut flaps, now) = (Flaps::default(), origin());
        lose(&mut flaps, now);
        assert!(!flaps.retune(&Limits { calm: SECOND * 2, ..LIMITS }, now));
        assert_eq!(flaps.settles_at(), Some(now + SECOND * 2));
        assert!(flaps.retune(&Limits { losses: 0, ..LIMITS }, now));
        for _ in 0..100 {
            assert!(!flaps.lost(&Limits { losses: 0, ..LIMITS }, now));
        }
    }
}
