//! The series of a target, and what one session has part in.

use super::labels::FENCES;
use super::stall::{StallWatch, Turn};
use super::{Contribution, Families, fanout_label};
use crate::iscsi::quirk::Side;
use crate::session::{Barriers, Cause, Fanout, FenceMethod, HeldBy, Notice, Session, Tally, Waits};
use prometheus::{Counter, GaugeVec, Histogram, IntCounter};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

const ORDERS: [&str; 3] = ["one_path", "strict", "native"];
const AUTO: &str = "auto";
/// How often the oldest command is looked for: it is a look at all commands.
const AGE_INTERVAL: Duration = Duration::from_millis(100);

/// What a session runs under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// How it is fanned out.
    pub fanout: Fanout,
    /// Who keeps barriers in order.
    pub barriers: Barriers,
    /// How lost nexuses are fenced.
    pub fence: FenceMethod,
    /// Most write data that it may hold, in bytes.
    pub memory_budget: u64,
}

impl Terms {
    /// Makes the series of a target that count sessions by their terms.
    pub(super) fn declare(families: &Families, target: &str) {
        for fanout in [Fanout::Mcs, Fanout::Sessions] {
            families.sessions.with_label_values(&[target, fanout_label(fanout)]);
        }
        for (order, fence) in
            ORDERS.into_iter().flat_map(|o| FENCES.into_iter().chain([AUTO]).map(move |f| (o, f)))
        {
            families.guarantees.with_label_values(&[target, order, fence]);
        }
    }

    /// Counts a session with so many paths as long as the result lives.
    pub(super) fn enter(&self, families: &Families, target: &str, paths: usize) -> [Contribution; 2] {
        let order = match self.barriers {
            _ if paths == 1 => "one_path",
            Barriers::Strict => "strict",
            Barriers::Native => "native",
        };
        let fence = match self.fence {
            FenceMethod::Auto => AUTO,
            FenceMethod::Reinstate => "reinstate",
            FenceMethod::Ordered => "ordered",
            FenceMethod::Time => "time",
        };
        let gauges = [
            families.sessions.with_label_values(&[target, fanout_label(self.fanout)]),
            families.guarantees.with_label_values(&[target, order, fence]),
        ];
        gauges.map(|gauge| {
            let mut one = Contribution::new(gauge);
            one.set(1);
            one
        })
    }
}

fn held_label(by: HeldBy) -> &'static str {
    match by {
        HeldBy::Overlap => "overlap",
        HeldBy::Barrier => "barrier",
        HeldBy::Quarantine => "quarantine",
    }
}

/// Waits: how many, and how long.
#[derive(Debug)]
struct WaitSeries {
    count: IntCounter,
    seconds: Counter,
}

impl WaitSeries {
    /// Adds what came to `before`.
    fn add(&self, before: &Waits, now: &Waits) {
        if before != now {
            self.count.inc_by(now.count.saturating_sub(before.count));
            self.seconds.inc_by(now.time.saturating_sub(before.time).as_secs_f64());
        }
    }
}

/// Series of one target.
#[derive(Debug)]
pub(super) struct TargetSeries {
    pub(super) memory: Contribution,
    pub(super) all_paths_down: IntCounter,
    pub(super) given_up: IntCounter,
    pub(super) protocol_errors: IntCounter,
    lines: Contribution,
    memory_budget: Contribution,
    pathless: Contribution,
    irredundant: Contribution,
    held: [WaitSeries; HeldBy::ALL.len()],
    window: WaitSeries,
    /// From the initiator, and from the target.
    digest_errors: [IntCounter; 2],
    stall: Histogram,
    /// What of the engine's tally is published.
    tally: Tally,
    turn: Turn,
    stalls: StallWatch,
    /// In milliseconds.
    age: Arc<AtomicU64>,
    age_looked: Option<Instant>,
}

impl TargetSeries {
    pub(super) fn new(families: &Families, target: &str) -> Self {
        let label = &[target];
        let gauge = |family: &prometheus::IntGaugeVec| Contribution::new(family.with_label_values(label));
        let held = |by: HeldBy| WaitSeries {
            count: families.held.with_label_values(&[target, held_label(by)]),
            seconds: families.held_seconds.with_label_values(&[target, held_label(by)]),
        };
        families.oldest_command.with_label_values(label);
        Self {
            memory: gauge(&families.memory),
            all_paths_down: families.all_paths_down.with_label_values(label),
            given_up: families.given_up.with_label_values(label),
            protocol_errors: families.protocol_errors.with_label_values(label),
            lines: gauge(&families.lines),
            memory_budget: gauge(&families.memory_budget),
            pathless: gauge(&families.pathless),
            irredundant: gauge(&families.irredundant),
            held: HeldBy::ALL.map(held),
            window: WaitSeries {
                count: families.window_stalls.with_label_values(label),
                seconds: families.window_stall_seconds.with_label_values(label),
            },
            digest_errors: ["initiator", "target"]
                .map(|from| families.digest_errors.with_label_values(&[target, from])),
            stall: families.stall.with_label_values(label),
            tally: Tally::default(),
            turn: Turn::default(),
            stalls: StallWatch::default(),
            age: Arc::default(),
            age_looked: None,
        }
    }

    /// For a session under these terms, whose oldest command's age is told by `age`.
    pub(super) fn of_session(mut self, terms: &Terms, age: Arc<AtomicU64>) -> Self {
        self.budget(terms.memory_budget);
        self.age = age;
        self
    }

    /// So many bytes of write data may be held.
    pub(super) fn budget(&mut self, bytes: u64) {
        self.memory_budget.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// So many of the session's paths work.
    pub(super) fn paths_up(&mut self, up: usize, paths: usize) {
        self.pathless.set(i64::from(up == 0));
        self.irredundant.set(i64::from(paths > 1 && up <= 1));
    }

    pub(super) fn digest_error(&self, from: Side) {
        let [initiator, target] = &self.digest_errors;
        match from {
            Side::Initiator => initiator.inc(),
            Side::Target => target.inc(),
        }
    }

    /// Remembers until the end of the turn what matters for stalls.
    pub(super) fn note(&mut self, notice: &Notice) {
        let failed = |cause: &Cause| !matches!(cause, Cause::Logout);
        self.turn.completed |= matches!(notice, Notice::Completed { .. });
        self.turn.lost |= matches!(notice, Notice::PathDown { was_up: true, cause, .. } if failed(cause));
    }

    /// Publishes what came about in a turn; gives the stall of a failover that is over.
    pub(super) fn look(&mut self, engine: &Session, now: Instant) -> Option<Duration> {
        self.lines.set(i64::try_from(engine.lines()).unwrap_or(i64::MAX));
        let tally = engine.tally();
        if *tally != self.tally {
            for (series, (before, held)) in self.held.iter().zip(self.tally.held.iter().zip(&tally.held)) {
                series.add(before, held);
            }
            self.window.add(&self.tally.target_window, &tally.target_window);
            self.tally = *tally;
        }
        let outstanding = engine.outstanding() > 0;
        let stall = self.stalls.turn(std::mem::take(&mut self.turn), outstanding, now);
        if let Some(stall) = stall {
            self.stall.observe(stall.as_secs_f64());
        }
        let due = self.age_looked.is_none_or(|at| now.saturating_duration_since(at) >= AGE_INTERVAL);
        if !outstanding {
            self.age.store(0, Ordering::Relaxed);
        } else if due {
            self.age_looked = Some(now);
            let age = engine.oldest_arrival().map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
            self.age.store(u64::try_from(age.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        stall
    }
}

impl Drop for TargetSeries {
    fn drop(&mut self) {
        if let Some(stall) = self.stalls.end() {
            self.stall.observe(stall.as_secs_f64());
        }
    }
}

/// Ages of the oldest commands of all sessions, by target.
#[derive(Debug, Default)]
pub(super) struct Ages(Mutex<BTreeMap<String, Vec<Weak<AtomicU64>>>>);

impl Ages {
    /// A place for one session's.
    pub(super) fn new_session(&self, target: &str) -> Arc<AtomicU64> {
        let age = Arc::default();
        let mut ages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_target = ages.entry(target.to_owned()).or_default();
        of_target.retain(|age| age.strong_count() > 0);
        of_target.push(Arc::downgrade(&age));
        age
    }

    /// Forgets a target that has no sessions.
    pub(super) fn forget(&self, target: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(target);
    }

    /// The highest of each target goes into its gauge.
    pub(super) fn publish(&self, gauges: &GaugeVec) {
        let ages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (target, ages) in ages.iter() {
            let ages = ages.iter().filter_map(Weak::upgrade).map(|age| age.load(Ordering::Relaxed));
            let oldest = Duration::from_millis(ages.max().unwrap_or(0));
            gauges.with_label_values(&[target]).set(oldest.as_secs_f64());
        }
    }
}
