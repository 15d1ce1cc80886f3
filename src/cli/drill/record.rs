//! What is seen while a drill runs: what paths carry, how long commands take, and for how long nothing completes.

use super::report::{Class, PathSeries, Series, Stalls};
use crate::admin::view;
use crate::lab::workload::Done;
use crate::session::PathState;
use std::time::{Duration, Instant};

/// Upper bounds of the classes of stalls, in milliseconds.
const CLASSES: [u64; 14] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000];

/// Intervals that a drill is cut into, at most.
const MOST_INTERVALS: u32 = 400;

/// Shortest interval.
const SHORTEST: Duration = Duration::from_millis(200);

/// What is seen of a target.
pub(super) struct Record {
    start: Instant,
    interval: Duration,
    /// How it stood when the interval began.
    before: Option<(Duration, view::Target)>,
    /// Times of commands that completed in this interval.
    took: Vec<Duration>,
    series: Series,
    stalls: Counted,
    /// For a load that is watched.
    progress: Option<Progress>,
    /// What Braid had told of failovers.
    failovers: Option<view::Failovers>,
}

/// When something completed last, or nothing was under way.
struct Progress {
    at: Duration,
    commands: u64,
    /// Nothing has completed since, though something is under way.
    stalls: bool,
}

impl Record {
    pub(super) fn new(start: Instant, duration: Duration) -> Self {
        let interval = SHORTEST.max(duration / MOST_INTERVALS);
        let series = Series::default();
        Self {
            start,
            interval,
            before: None,
            took: Vec::new(),
            series,
            stalls: Counted::default(),
            progress: None,
            failovers: None,
        }
    }

    /// Time since the start.
    pub(super) fn since(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.start)
    }

    /// Commands of the drill's own load completed.
    pub(super) fn completed(&mut self, completions: &[Done]) {
        for done in completions {
            let at = self.since(done.at);
            self.stalls.completed(at);
            self.took.push(done.took);
        }
    }

    /// How the target stands; for a load that is watched it says for how long nothing has completed.
    pub(super) fn seen(&mut self, at: Instant, target: &view::Target, watched: bool) {
        let now = self.since(at);
        if watched {
            self.watch(now, target);
        }
        match &self.before {
            Some((began, _)) if now < *began + self.interval => {}
            Some((began, before)) => {
                let seconds = (now - *began).as_secs_f64();
                close(&mut self.series, before, target, seconds);
                self.series.at_seconds.push(now.as_secs_f64());
                self.took.sort_unstable();
                let at = |place: usize| self.took.get(place).map(Duration::as_secs_f64);
                let (half, last) = (self.took.len() / 2, self.took.len().checked_sub(1));
                self.series.latency_median_seconds.push(at(half));
                self.series.latency_max_seconds.push(last.and_then(at));
                self.took.clear();
                self.before = Some((now, target.clone()));
            }
            None => self.before = Some((now, target.clone())),
        }
    }

    fn watch(&mut self, now: Duration, target: &view::Target) {
        if let Some(before) = self.failovers.replace(target.failovers.clone()) {
            self.stalls.told(&before, &target.failovers);
        }
        let completed = commands(target);
        let standing = target.sessions.iter().filter_map(|session| session.standing.as_ref());
        let idle = standing.map(|standing| standing.commands).sum::<usize>() == 0;
        match &mut self.progress {
            Some(last) if completed == last.commands && !idle => {
                self.stalls.pending(last.at, now);
                last.stalls = true;
            }
            last => {
                if let Some(Progress { at, stalls: true, .. }) = last {
                    self.stalls.over(*at, now);
                }
                *last = Some(Progress { at: now, commands: completed, stalls: false });
            }
        }
    }

    /// The end: commands of the drill's own load may still be under way since `oldest`.
    pub(super) fn finish(mut self, oldest: Option<Instant>, now: Instant) -> (Series, Stalls) {
        let now = self.since(now);
        if oldest.is_some() {
            self.stalls.completed(now);
        }
        (self.series, self.stalls.into_stalls())
    }

    /// How a load that is watched is looked at.
    pub(super) fn set_resolution(&mut self, resolution: Duration) {
        self.stalls.resolution = resolution;
    }
}

/// Commands that all paths have carried.
fn commands(target: &view::Target) -> u64 {
    target.paths.iter().filter_map(|path| path.totals.as_ref()).map(|totals| totals.commands).sum()
}

/// What happened between two looks.
fn close(series: &mut Series, before: &view::Target, now: &view::Target, seconds: f64) {
    let per_second = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
    let totals = |target: &view::Target, path: &str| {
        target.paths.iter().find(|own| own.name == path).and_then(|own| own.totals.clone())
    };
    let (mut all, mut time) = (0, 0.0);
    for path in &now.paths {
        let number = series.paths.iter().position(|own| own.name == path.name);
        let number = number.unwrap_or_else(|| {
            // A path that came later carried nothing before.
            let zeros = vec![0.0; series.at_seconds.len()];
            series.paths.push(PathSeries {
                name: path.name.clone(),
                read_bytes_per_second: zeros.clone(),
                written_bytes_per_second: zeros,
                state: vec!["none".to_owned(); series.at_seconds.len()],
            });
            series.paths.len() - 1
        });
        let Some(own) = series.paths.get_mut(number) else { continue };
        let (was, is) = (totals(before, &path.name), path.totals.clone());
        let of = |field: fn(&view::Totals) -> u64| {
            let value = |totals: &Option<view::Totals>| totals.as_ref().map_or(0, field);
            (value(&was), value(&is))
        };
        let (read, written, done) = (of(|t| t.read_bytes), of(|t| t.written_bytes), of(|t| t.commands));
        own.read_bytes_per_second.push(per_second(read.0, read.1));
        own.written_bytes_per_second.push(per_second(written.0, written.1));
        own.state.push(state(now, &path.name).to_owned());
        all += done.1.saturating_sub(done.0);
        let seconds = |totals: &Option<view::Totals>| totals.as_ref().map_or(0.0, |t| t.command_seconds);
        time += seconds(&is) - seconds(&was);
    }
    for gone in series.paths.iter_mut().filter(|own| !now.paths.iter().any(|path| path.name == own.name)) {
        gone.read_bytes_per_second.push(0.0);
        gone.written_bytes_per_second.push(0.0);
        gone.state.push("none".to_owned());
    }
    series.commands_per_second.push(all as f64 / seconds);
    series.latency_mean_seconds.push((all > 0).then(|| time.max(0.0) / all as f64));
}

/// The worst state of a path in any session.
pub(super) fn state(target: &view::Target, path: &str) -> &'static str {
    let standings = target.sessions.iter().filter_map(|session| session.standing.as_ref());
    let states = standings.flat_map(|standing| &standing.paths).filter(|own| own.name == path);
    let rank = |own: &view::Path| PathState::ALL.iter().position(|known| known.word() == own.state);
    let worst = states.filter_map(rank).max().and_then(|worst| PathState::ALL.get(worst));
    worst.map_or("none", |state| state.word())
}

/// Times between completions.
#[derive(Default)]
struct Counted {
    last: Option<Duration>,
    longest: Duration,
    longest_at: Option<Duration>,
    counts: [u64; CLASSES.len() + 1],
    resolution: Duration,
}

impl Counted {
    fn completed(&mut self, at: Duration) {
        if let Some(last) = self.last.replace(at) {
            self.over(last, at);
        }
    }

    /// Nothing completed from then until then.
    fn over(&mut self, from: Duration, to: Duration) {
        self.pending(from, to);
        self.count(to.saturating_sub(from), 1);
    }

    fn count(&mut self, gap: Duration, times: u64) {
        let gap = gap.as_micros();
        let class = CLASSES.iter().position(|bound| gap < u128::from(*bound) * 1000);
        if let Some(count) = self.counts.get_mut(class.unwrap_or(CLASSES.len())) {
            *count += times;
        }
    }

    /// The same, and it goes on.
    fn pending(&mut self, from: Duration, to: Duration) {
        let gap = to.saturating_sub(from);
        if gap > self.longest {
            (self.longest, self.longest_at) = (gap, Some(from));
        }
    }

    /// Braid has told of failovers: what was too short to be seen is taken from there.
    fn told(&mut self, before: &view::Failovers, now: &view::Failovers) {
        let count = now.count.saturating_sub(before.count);
        let mean = (now.stall_seconds - before.stall_seconds) / count.max(1) as f64;
        let mean = Duration::try_from_secs_f64(mean).unwrap_or_default();
        if count == 0 || mean >= self.resolution {
            return;
        }
        self.count(mean, count);
        if mean > self.longest {
            (self.longest, self.longest_at) = (mean, None);
        }
    }

    fn into_stalls(self) -> Stalls {
        let bounds = CLASSES.iter().map(|bound| Some(*bound as f64 / 1e3)).chain([None]);
        let classes = bounds.zip(self.counts).map(|(below_seconds, count)| Class { below_seconds, count });
        Stalls {
            longest_seconds: self.longest.as_secs_f64(),
            longest_at_seconds: self.longest_at.map(|at| at.as_secs_f64()),
            resolution_seconds: self.resolution.as_secs_f64(),
            classes: classes.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn longest(stalls: &Stalls) -> (f64, Option<f64>) {
        (stalls.longest_seconds, stalls.longest_at_seconds)
    }

    /// A target of which so many commands were completed, and so many are under way.
    fn target(completed: u64, commands: usize) -> view::Target {
        let totals =
            view::Totals { read_bytes: 0, written_bytes: 0, commands: completed, command_seconds: 0.0 };
        let (name, portal) = ("left".to_owned(), "10.0.0.1:3260".to_owned());
        let standing = view::Standing {
            fanout: "sessions".to_owned(),
            initiator_connections: 1,
            commands,
            waiting: 0,
            ghosts: 0,
            outage_seconds: None,
            memory_bytes: 0,
            paths: Vec::new(),
        };
        let session = view::Session {
            initiator: "iqn.i".to_owned(),
            peer: None,
            isid: "0".to_owned(),
            tsih: 1,
            standing: Some(standing),
        };
        let path = view::ConfiguredPath { name, portal, out: false, totals: Some(totals) };
        let (paths, sessions) = (vec![path], vec![session]);
        view::Target { name: "iqn.a".to_owned(), paths, sessions, failovers: view::Failovers::default() }
    }

    #[test]
    fn the_longest_stall_and_its_class_are_found() {
        let mut counted = Counted::default();
        [0, 1, 3, 1003, 1004].into_iter().for_each(|at| counted.completed(MS(at)));
        let stalls = counted.into_stalls();
        assert_eq!(longest(&stalls), (1.0, Some(0.003)));
        let counts: Vec<_> = stalls.classes.iter().filter(|class| class.count > 0).collect();
        let counts: Vec<_> = counts.iter().map(|class| (class.below_seconds, class.count)).collect();
        assert_eq!(counts, [(Some(0.002), 2), (Some(0.005), 1), (Some(2.0), 1)]);
    }

    #[test]
    fn of_a_load_that_is_watched_idle_time_is_no_stall() {
        #[expect(clippy::disallowed_methods, reason = "an arbitrary origin")]
        let start = Instant::now();
        let mut record = Record::new(start, MS(10_000));
        let looks = [
            (0, 10, 4),
            (100, 20, 4),
            (200, 20, 4),
            (900, 20, 4),
            (1000, 30, 0),
            (9000, 30, 0),
            (9100, 40, 1),
        ];
        for (at, completed, commands) in looks {
            record.seen(start + MS(at), &target(completed, commands), true);
        }
        let (series, stalls) = record.finish(None, start + MS(9200));
        assert_eq!(longest(&stalls), (0.9, Some(0.1)));
        assert_eq!(stalls.classes.iter().map(|class| class.count).sum::<u64>(), 1);
        assert_eq!(series.at_seconds, [0.2, 0.9, 9.0]);
        assert_eq!(series.paths[0].state, ["none", "none", "none"]);
    }

    #[test]
    fn of_a_load_that_is_watched_braid_tells_what_is_too_short_to_be_seen() {
        #[expect(clippy::disallowed_methods, reason = "an arbitrary origin")]
        let start = Instant::now();
        let mut record = Record::new(start, MS(10_000));
        record.set_resolution(MS(100));
        // The first is older than the drill, the last was seen.
        let told = [(0, 1, 7.0), (100, 1, 7.0), (200, 3, 7.08), (300, 4, 7.58)];
        for (at, count, stall_seconds) in told {
            let failovers = view::Failovers { count, stall_seconds };
            let target = view::Target { failovers, ..target(at, 1) };
            record.seen(start + MS(at), &target, true);
        }
        let (_, stalls) = record.finish(None, start + MS(400));
        assert!(
            (stalls.longest_seconds - 0.04).abs() < 1e-6 && stalls.longest_at_seconds.is_none(),
            "{stalls:?}"
        );
        let counts: Vec<_> = stalls.classes.iter().filter(|class| class.count > 0).collect();
        let counts: Vec<_> = counts.iter().map(|class| (class.below_seconds, class.count)).collect();
        assert_eq!(counts, [(Some(0.05), 2)]);
    }
}
