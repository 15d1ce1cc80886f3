//! What a scenario comes to: what is done to which path from when to when, and what is expected.
//!
//! # Invariants of a [`Scenario`]
//! Every span lies within the duration, which is at most [`LONGEST`]. At any time at most one thing is done to a path. What is
//! expected can be seen, and is not ruled out by what is done.

use crate::cli::stage::Plan;
use crate::cli::wire::Slow;
use crate::lab::cutter::Direction;
use std::collections::BTreeSet;
use std::time::Duration;

/// Longest that a drill may last.
pub(super) const LONGEST: Duration = Duration::from_secs(3600);

/// The word for all paths.
pub(super) const ALL: &str = "all";

/// What stands for the target in the place of a path.
pub(super) const TARGET: &str = "the target";

/// A drill.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Scenario {
    /// The file that it was read from.
    pub(super) file: String,
    /// What it is called in reports.
    pub(super) name: String,
    /// How long the load runs.
    pub(super) duration: Duration,
    /// Where it happens.
    pub(super) ground: Ground,
    /// The drill's own load; without one the real load is watched.
    pub(super) load: Option<Load>,
    /// What is done, in the order of time.
    pub(super) steps: Vec<Step>,
    /// The same path by path.
    pub(super) spans: Vec<Span>,
    /// What is expected.
    pub(super) objectives: Objectives,
}

/// Where a drill happens.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Ground {
    /// On a RAM disk, links and a Braid of its own; the plan says whether the links are the kernel's.
    Lab(Plan),
    /// In a running Braid.
    Live(Live),
}

impl Ground {
    /// The word for it.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Lab(plan) if plan.real => "links",
            Self::Lab(_) => "lab",
            Self::Live(_) => "live",
        }
    }
}

/// Which target of a running Braid.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Live {
    /// TargetName; none for the only one.
    pub(super) target: Option<String>,
    /// A session may be left without a path, if the command line says so too.
    pub(super) last_path: bool,
}

/// The drill's own load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Load {
    pub(super) queue_depth: u32,
    /// Of a hundred operations.
    pub(super) reads: u8,
    pub(super) flushes: u8,
    /// Shortest and longest operation in bytes.
    pub(super) sizes: (u32, u32),
    pub(super) seed: u32,
    /// Bytes of the disk that are used, from its beginning.
    pub(super) region: u64,
    /// The unit that is overwritten, if it is not the lab's.
    pub(super) scratch: Option<Scratch>,
}

/// A unit with nothing on it that anybody needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Scratch {
    /// Where Braid listens.
    pub(super) portal: String,
    pub(super) lun: u16,
}

/// What can be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    /// Connections are reset, and refused.
    Reset,
    /// Nothing passes, and nobody says so.
    Silent,
    /// Nothing passes in this direction.
    HalfOpen(Direction),
    /// The link loses its carrier.
    Unplug,
    /// Less passes, or it takes longer.
    Slow(Slow),
    /// One packet in so many is lost.
    Lossy(u32),
    /// Down and up, again and again.
    Flap { reset: bool, down: Duration, up: Duration },
    /// The target answers nothing, on any path.
    StopTarget,
    /// Braid is told to take the path out in order.
    Drain,
    /// Braid is told to take the path out at once.
    Fail,
    /// Whatever was done is undone.
    Heal,
}

/// The words for actions.
pub(super) const ACTIONS: &[&str] = &[
    "reset",
    "silent",
    "half-open",
    "unplug",
    "slow",
    "lossy",
    "flap",
    "stop-target",
    "drain",
    "fail",
    "heal",
];

impl Action {
    /// The word for it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Silent => "silent",
            Self::HalfOpen(_) => "half-open",
            Self::Unplug => "unplug",
            Self::Slow(_) => "slow",
            Self::Lossy(_) => "lossy",
            Self::Flap { .. } => "flap",
            Self::StopTarget => "stop-target",
            Self::Drain => "drain",
            Self::Fail => "fail",
            Self::Heal => "heal",
        }
    }

    /// In words, with what belongs to it.
    pub(super) fn describe(self) -> String {
        let time = |time: Duration| humantime::format_duration(time).to_string();
        match self {
            Self::HalfOpen(Direction::ToTarget) => "half-open, nothing reaches the target".to_owned(),
            Self::HalfOpen(Direction::ToInitiator) => "half-open, nothing comes back".to_owned(),
            Self::Slow(Slow { rate, delay, jitter }) => {
                let rate = rate.map(|rate| format!("{}/s", crate::cli::screen::bytes(rate)));
                let jitter = jitter.map_or_else(String::new, |jitter| format!(" ± {}", time(jitter)));
                let delay = delay.map(|delay| format!("{}{jitter} each way", time(delay)));
                let parts: Vec<_> = rate.into_iter().chain(delay).collect();
                format!("slow, {}", parts.join(", "))
            }
            Self::Lossy(one_in) => format!("lossy, one packet in {one_in}"),
            Self::Flap { reset, down, up } => {
                let how = if reset { "reset" } else { "silent" };
                format!("flap, {how} for {} of {}", time(down), time(down + up))
            }
            Self::Reset
            | Self::Silent
            | Self::Unplug
            | Self::StopTarget
            | Self::Drain
            | Self::Fail
            | Self::Heal => self.word().to_owned(),
        }
    }

    /// Whether a running Braid can do it to itself.
    pub(super) const fn is_an_order(self) -> bool {
        matches!(self, Self::Drain | Self::Fail | Self::Heal)
    }

    /// Whether no command can complete over a path as long as this is so.
    const fn severs(self) -> bool {
        match self {
            Self::Reset
            | Self::Silent
            | Self::HalfOpen(_)
            | Self::Unplug
            | Self::StopTarget
            | Self::Drain
            | Self::Fail => true,
            Self::Slow(_) | Self::Lossy(_) | Self::Flap { .. } | Self::Heal => false,
        }
    }
}

/// Something that is done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Step {
    /// Where it is written.
    pub(super) line: usize,
    pub(super) at: Duration,
    pub(super) action: Action,
    /// To which paths.
    pub(super) paths: Vec<String>,
}

/// What is done to one path, and for how long.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Span {
    /// Which step does it.
    pub(super) step: usize,
    /// The path, or [`ALL`] of a running Braid, or [`TARGET`].
    pub(super) path: String,
    pub(super) action: Action,
    pub(super) from: Duration,
    pub(super) to: Duration,
}

impl Span {
    pub(super) fn is_on(&self, at: Duration) -> bool {
        self.from <= at && at < self.to
    }

    /// Whether this is the path meant, or one of those.
    pub(super) fn touches(&self, path: &str) -> bool {
        self.path == path
            || [self.path.as_str(), path].contains(&ALL) && self.path != TARGET && path != TARGET
    }
}

/// What is expected; nothing where it is not judged.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Objectives {
    /// Longest time between two completions.
    pub(super) longest_stall: Option<Duration>,
    /// Longest time of a command.
    pub(super) slowest_command: Option<Duration>,
    /// Commands that failed.
    pub(super) errors: Option<u64>,
    /// Blocks that did not hold what they must.
    pub(super) wrong_blocks: Option<u64>,
    /// From the end of what was done to a path until it carries again.
    pub(super) paths_back_within: Option<Duration>,
    /// Bytes per second, over the whole.
    pub(super) throughput_at_least: Option<u64>,
}

/// When everything stands still, because nothing can pass to the target: the longest such time.
pub(super) fn longest_outage(spans: &[Span], paths: &[String]) -> Option<(Duration, Duration)> {
    let times: BTreeSet<Duration> = spans.iter().flat_map(|span| [span.from, span.to]).collect();
    let times: Vec<Duration> = times.into_iter().collect();
    let severed = |path: &str, at| {
        spans.iter().any(|span| span.action.severs() && span.is_on(at) && span.touches(path))
    };
    let mut outages: Vec<(Duration, Duration)> = Vec::new();
    for pair in times.windows(2) {
        let [from, to] = *pair else { continue };
        let all = severed(TARGET, from) || !paths.is_empty() && paths.iter().all(|path| severed(path, from));
        match outages.last_mut() {
            Some(last) if all && last.1 == from => last.1 = to,
            _ if all => outages.push((from, to)),
            _ => {}
        }
    }
    outages.into_iter().max_by_key(|(from, to)| *to - *from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(path: &str, action: Action, from: u64, to: u64) -> Span {
        let [from, to] = [from, to].map(Duration::from_secs);
        Span { step: 0, path: path.to_owned(), action, from, to }
    }

    fn outage(spans: &[Span]) -> Option<(u64, u64)> {
        let paths = ["a", "b"].map(str::to_owned);
        longest_outage(spans, &paths).map(|(from, to)| (from.as_secs(), to.as_secs()))
    }

    #[test]
    fn an_outage_is_when_no_path_is_left() {
        assert_eq!(outage(&[span("a", Action::Reset, 1, 9)]), None);
        let both = [span("a", Action::Reset, 1, 6), span("b", Action::Silent, 4, 9)];
        assert_eq!(outage(&both), Some((4, 6)));
        let slow = [span("a", Action::Reset, 1, 6), span("b", Action::Lossy(9), 4, 9)];
        assert_eq!(outage(&slow), None);
        assert_eq!(outage(&[span(TARGET, Action::StopTarget, 2, 5)]), Some((2, 5)));
        assert_eq!(outage(&[span(ALL, Action::Fail, 2, 5), span(ALL, Action::Drain, 5, 6)]), Some((2, 6)));
    }
}
