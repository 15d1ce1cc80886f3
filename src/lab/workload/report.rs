//! Figures of a workload: while it runs, and in the end.

use super::super::initiator::InitiatorError;
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong blocks described in a report; all are counted.
const DESCRIBED: usize = 16;

/// What is wrong with a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wrong {
    /// Its bytes belong to no write of this workload.
    Spoilt,
    /// It was written to another address.
    Misplaced {
        /// That address.
        from: u64,
    },
    /// It holds a write that was overwritten, or not the one that was acknowledged.
    Stale {
        /// The write found.
        found: u64,
        /// The writes that were legal.
        legal: Vec<u64>,
    },
}

/// A block that did not hold what it should.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WrongBlock {
    /// Its address.
    pub lba: u64,
    /// What is wrong.
    pub wrong: Wrong,
}

/// Why a run ended early.
#[derive(Debug)]
pub enum Ended {
    /// The session ended.
    Connection(InitiatorError),
    /// Nothing completed for longer than the workload's patience.
    Stuck,
}

/// The outcome.
#[derive(Debug)]
pub struct Report {
    /// Operations completed, well or not.
    pub operations: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Flushes done.
    pub flushes: u64,
    /// Operations that failed, those that never completed included.
    pub errors: u64,
    /// Blocks that did not hold what they should.
    pub wrong_blocks: u64,
    /// The first of them.
    pub wrong: Vec<WrongBlock>,
    /// Longest time between two completions, or from the start to the first.
    pub stall: Duration,
    /// Time from submission to completion, in microseconds.
    pub latency: Histogram<u64>,
    /// From start to end.
    pub elapsed: Duration,
    /// Why it ended early, if it did.
    pub ended: Option<Ended>,
}

impl Report {
    /// Whether nothing went wrong.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.errors == 0 && self.wrong_blocks == 0 && self.ended.is_none()
    }
}

/// Running figures, over all calls of one workload; to be shared.
#[derive(Debug, Default)]
pub struct Progress {
    operations: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    errors: AtomicU64,
    wrong_blocks: AtomicU64,
    stall_us: AtomicU64,
    stop: AtomicBool,
    /// When the oldest operation under way was submitted.
    oldest: Mutex<Option<Instant>>,
    /// Since the last look, once somebody looks.
    completions: Mutex<Option<Vec<Done>>>,
}

/// An operation that completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// When.
    pub at: Instant,
    /// Time since its submission.
    pub took: Duration,
}

/// Running figures at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sample {
    /// Operations completed.
    pub operations: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Operations failed.
    pub errors: u64,
    /// Wrong blocks seen.
    pub wrong_blocks: u64,
    /// Longest stall that is over.
    pub stall: Duration,
}

impl Progress {
    /// The figures now.
    #[must_use]
    pub fn sample(&self) -> Sample {
        Sample {
            operations: self.operations.load(Relaxed),
            bytes_read: self.bytes_read.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
            errors: self.errors.load(Relaxed),
            wrong_blocks: self.wrong_blocks.load(Relaxed),
            stall: Duration::from_micros(self.stall_us.load(Relaxed)),
        }
    }

    /// Lets the run end once what is in flight is complete. Later runs end at once, until [`Progress::resume`].
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Lets later runs run again.
    pub fn resume(&self) {
        self.stop.store(false, Relaxed);
    }

    /// All completions since the last call, in their order; the first call begins the record.
    #[must_use]
    pub fn take_completions(&self) -> Vec<Done> {
        let mut record = self.completions.lock().unwrap_or_else(PoisonError::into_inner);
        record.replace(Vec::new()).unwrap_or_default()
    }

    /// When the oldest operation under way was submitted; none if none is.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        *self.oldest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_oldest(&self, since: Option<Instant>) {
        *self.oldest.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn record(&self, done: Done) {
        if let Some(record) = self.completions.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            record.push(done);
        }
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }
}

/// Collects the figures of one call.
pub(super) struct Meter {
    progress: Arc<Progress>,
    report: Report,
    start: Instant,
    last: Instant,
}

impl Meter {
    pub(super) fn new(progress: Arc<Progress>) -> Self {
        let now = Instant::now();
        let report = Report {
            operations: 0,
            bytes_read: 0,
            bytes_written: 0,
            flushes: 0,
            errors: 0,
            wrong_blocks: 0,
            wrong: Vec::new(),
            stall: Duration::ZERO,
            latency: new_histogram(),
            elapsed: Duration::ZERO,
            ended: None,
        };
        Self { progress, report, start: now, last: now }
    }

    pub(super) fn completed(&mut self, took: Duration) {
        let now = Instant::now();
        self.report.operations += 1;
        self.progress.operations.fetch_add(1, Relaxed);
        self.gap(now);
        self.progress.record(Done { at: now, took });
        self.report.latency.saturating_record(micros(took));
    }

    fn gap(&mut self, now: Instant) {
        let gap = now.duration_since(self.last);
        self.last = now;
        if gap > self.report.stall {
            self.report.stall = gap;
            self.progress.stall_us.fetch_max(micros(gap), Relaxed);
        }
    }

    pub(super) fn read(&mut self, bytes: u64) {
        self.report.bytes_read += bytes;
        self.progress.bytes_read.fetch_add(bytes, Relaxed);
    }

    pub(super) fn written(&mut self, bytes: u64) {
        self.report.bytes_written += bytes;
        self.progress.bytes_written.fetch_add(bytes, Relaxed);
    }

    pub(super) const fn flushed(&mut self) {
        self.report.flushes += 1;
    }

    pub(super) fn failed(&mut self) {
        self.report.errors += 1;
        self.progress.errors.fetch_add(1, Relaxed);
    }

    pub(super) fn wrong(&mut self, wrong: WrongBlock) {
        self.report.wrong_blocks += 1;
        self.progress.wrong_blocks.fetch_add(1, Relaxed);
        if self.report.wrong.len() < DESCRIBED {
            self.report.wrong.push(wrong);
        }
    }

    pub(super) fn report(mut self, ended: Option<Ended>) -> Report {
        let now = Instant::now();
        if ended.is_some() {
            self.gap(now);
        }
        self.report.elapsed = now.duration_since(self.start);
        self.report.ended = ended;
        self.report
    }
}

/// One microsecond to one hour, three digits.
fn new_histogram() -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "the bounds are constants within the library's limits")]
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("legal bounds")
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
