//! How long a session stood still around the loss of a path.

use std::time::{Duration, Instant};

/// A failover is over when so much time has passed since the last loss, and something has completed.
const SETTLED: Duration = Duration::from_secs(1);

/// What happened in one turn.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Turn {
    /// A command completed.
    pub(super) completed: bool,
    /// A path was lost.
    pub(super) lost: bool,
}

/// Watches one session's completions. Time without commands is no stall.
#[derive(Debug, Default)]
pub(super) struct StallWatch {
    /// When something completed last, or the first command came after a time without any; none without commands.
    progress: Option<Instant>,
    failover: Option<Failover>,
}

#[derive(Debug)]
struct Failover {
    lost_at: Instant,
    longest: Duration,
    completed: bool,
}

impl StallWatch {
    /// Takes note of a turn, at the end of which commands are `outstanding` or not. Returns the longest time without a
    /// completion if a failover is over.
    pub(super) fn turn(&mut self, turn: Turn, outstanding: bool, now: Instant) -> Option<Duration> {
        if turn.lost && (self.progress.is_some() || self.failover.is_some()) {
            let begun = self.failover.get_or_insert(Failover {
                lost_at: now,
                longest: Duration::ZERO,
                completed: false,
            });
            (begun.lost_at, begun.completed) = (now, false);
        }
        if turn.completed {
            let gap = self.gap(now);
            if let Some(failover) = &mut self.failover {
                failover.longest = failover.longest.max(gap);
                failover.completed = true;
            }
            self.progress = None;
        }
        self.progress = if outstanding { self.progress.or(Some(now)) } else { None };
        let over = |f: &mut Failover| now >= f.lost_at + SETTLED && (f.completed || !outstanding);
        self.failover.take_if(over).map(|f| f.longest)
    }

    /// The session ends: what is known of a failover that is not over.
    pub(super) fn end(&mut self) -> Option<Duration> {
        self.failover.take().map(|f| f.longest)
    }

    /// Time since the last progress.
    fn gap(&self, now: Instant) -> Duration {
        self.progress.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETED: Turn = Turn { completed: true, lost: false };
    const LOST: Turn = Turn { completed: false, lost: true };
    const NOTHING: Turn = Turn { completed: false, lost: false };

    /// Plays turns at these milliseconds; what came out, with its time.
    fn play(turns: &[(u64, Turn, bool)]) -> Vec<(u64, u128)> {
        #[expect(clippy::disallowed_methods, reason = "an arbitrary origin")]
        let origin = Instant::now();
        let mut watch = StallWatch::default();
        let stall = |(at, turn, outstanding): &(u64, Turn, bool)| {
            let stall = watch.turn(*turn, *outstanding, origin + Duration::from_millis(*at));
            stall.map(|stall| (*at, stall.as_millis()))
        };
        turns.iter().filter_map(stall).collect()
    }

    #[test]
    fn the_gap_begins_before_the_loss_is_seen_and_the_longest_counts() {
        let turns = [
            (0, NOTHING, true),
            (10, COMPLETED, true),
            (5000, LOST, true),
            (5010, COMPLETED, true),
            (5030, COMPLETED, true),
            (6100, COMPLETED, true),
            (9000, COMPLETED, true),
        ];
        assert_eq!(play(&turns), [(6100, 5000)]);
    }

    #[test]
    fn idle_time_is_no_stall_and_a_loss_without_commands_no_failover() {
        let turns = [(0, NOTHING, true), (10, COMPLETED, false), (5000, LOST, false), (9000, NOTHING, true)];
        assert!(play(&turns).is_empty());
        let turns = [
            (0, NOTHING, true),
            (20, LOST, true),
            (40, COMPLETED, false),
            (900, NOTHING, true),
            (930, COMPLETED, false),
            (2000, NOTHING, false),
        ];
        assert_eq!(play(&turns), [(2000, 40)]);
    }

    #[test]
    fn losses_shortly_one_after_the_other_are_one_failover() {
        let turns = [
            (0, NOTHING, true),
            (100, LOST, true),
            (200, COMPLETED, true),
            (900, LOST, true),
            (1500, NOTHING, true),
            (3000, NOTHING, true),
            (4000, COMPLETED, true),
        ];
        assert_eq!(play(&turns), [(4000, 3800)]);
    }
}
