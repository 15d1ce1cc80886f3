//! The drill's own load: it writes a region of a disk, works on it, and in the end reads everything that it wrote.

use super::scenario::Load;
use crate::lab::initiator::{Initiator, InitiatorOptions};
use crate::lab::workload::{Ended, Limit, Progress, Report, Workload, WorkloadOptions};
use anyhow::Context;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Given to what is under way when the load is to end, and to its end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A load at work.
pub(super) struct Working {
    progress: Arc<Progress>,
    prepared: Report,
    task: JoinHandle<(Report, Workload, Initiator)>,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) commands: u64,
    pub(super) read: u64,
    pub(super) written: u64,
    /// Read and compared with what had been written.
    pub(super) verified: u64,
    pub(super) errors: u64,
    pub(super) wrong_blocks: u64,
    /// Median, 99th percentile and longest time of a command, in microseconds.
    pub(super) latency: Option<[u64; 3]>,
    /// The first of what went wrong.
    pub(super) complaints: Vec<String>,
}

impl Working {
    /// Logs in, writes the region, and begins. No command is stuck before it has taken `stuck`.
    pub(super) async fn begin(to: &InitiatorOptions, load: &Load, stuck: Duration) -> anyhow::Result<Self> {
        let mut initiator = Initiator::connect(to).await.context("cannot log in to Braid")?;
        let blocks = (load.region / u64::from(initiator.block_size())).min(initiator.blocks());
        let options = WorkloadOptions {
            seed: load.seed.into(),
            queue_depth: load.queue_depth as usize,
            reads: load.reads,
            flushes: load.flushes,
            sizes: load.sizes,
            region: Some((0, blocks)),
            patience: stuck + PATIENCE,
            ..WorkloadOptions::default()
        };
        let mut workload = Workload::new(options, &initiator)?;
        let progress = workload.progress();
        let prepared = workload.prepare(&mut initiator).await;
        // It is stopped; this is for the case that it is not.
        let limit = Limit::Time(super::scenario::LONGEST + PATIENCE);
        // From now on each completion is recorded.
        drop(progress.take_completions());
        let task = tokio::spawn(async move {
            let ran = workload.run(&mut initiator, limit).await;
            (ran, workload, initiator)
        });
        Ok(Self { progress, prepared, task })
    }

    /// Its figures as it runs.
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether it has ended by itself, which it should not.
    pub(super) fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// Ends it, and reads everything if that is wanted.
    pub(super) async fn finish(mut self, verify: bool) -> Outcome {
        self.progress.stop();
        let mut outcome = Outcome::default();
        outcome.add(&self.prepared);
        (outcome.commands, outcome.read, outcome.written) = (0, 0, 0);
        let ended = tokio::time::timeout(PATIENCE, &mut self.task).await;
        let Ok(Ok((ran, mut workload, mut initiator))) = ended else {
            self.task.abort();
            outcome.errors += 1;
            outcome.complaints.push("what was under way did not complete".to_owned());
            return outcome;
        };
        outcome.add(&ran);
        outcome.verified = ran.bytes_read;
        outcome.latency = Some([0.5, 0.99, 1.0].map(|quantile| ran.latency.value_at_quantile(quantile)));
        if verify && ran.ended.is_none() {
            self.progress.resume();
            let verified = workload.verify(&mut initiator).await;
            outcome.verified += verified.bytes_read;
            let work = (outcome.commands, outcome.read, outcome.written);
            outcome.add(&verified);
            (outcome.commands, outcome.read, outcome.written) = work;
            if let Err(error) = initiator.logout().await {
                outcome.complaints.push(format!("cannot log out: {error}"));
            }
        }
        outcome
    }
}

impl Outcome {
    fn add(&mut self, report: &Report) {
        self.commands += report.operations;
        self.read += report.bytes_read;
        self.written += report.bytes_written;
        self.errors += report.errors;
        self.wrong_blocks += report.wrong_blocks;
        self.complaints
            .extend(report.wrong.iter().map(|wrong| format!("LBA {}: {:?}", wrong.lba, wrong.wrong)));
        match &report.ended {
            Some(Ended::Connection(error)) => self.complaints.push(format!("the session ended: {error}")),
            Some(Ended::Stuck) => self.complaints.push("a command did not complete".to_owned()),
            None => {}
        }
    }
}
