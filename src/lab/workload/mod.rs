//! A workload that knows what it wrote: random reads, writes and flushes, every block of every read judged.
//!
//! Each block is stamped with its address, the write it belongs to and the workload's seed; an `oracle` keeps which writes
//! are legal where. A block is wrong if it was spoilt, belongs elsewhere, or holds a write that was overwritten or lost.
//!
//! [`Workload::prepare`] writes every block once, [`Workload::run`] does the random part, [`Workload::verify`] reads
//! everything. All can be called again, over other initiators: what is legal is remembered. A large disk that is known to be
//! blank needs no preparation ([`WorkloadOptions::blank`]), and only what was written on it is verified.

mod oracle;
mod report;
mod stamp;

pub use report::{Done, Ended, Progress, Report, Sample, Wrong, WrongBlock};

use super::initiator::{Completion, Initiator, Tag};
use crate::iscsi::Payload;
use crate::scsi::sense::status;
use oracle::{Oracle, Reading};
use report::Meter;
use rustc_hash::FxHashMap;
use stamp::{Random, Stamp};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkloadOptions {
    /// Makes the choice of operations and the content of blocks repeatable.
    pub seed: u64,
    /// Operations outstanding.
    pub queue_depth: usize,
    /// Of a hundred operations, how many read.
    pub reads: u8,
    /// Of a hundred operations, how many flush; the rest writes.
    pub flushes: u8,
    /// Shortest and longest operation in bytes; the shortest is also the alignment.
    pub sizes: (u32, u32),
    /// First block and number of blocks used; none for the whole disk.
    pub region: Option<(u64, u64)>,
    /// Blocks that the workload has not written hold zeros; otherwise they may hold anything.
    pub blank: bool,
    /// A completion that takes longer than this ends the run.
    pub patience: Duration,
}

impl Default for WorkloadOptions {
    /// Half reads, half writes, a flush now and then, 4 to 64 KiB, 16 outstanding.
    fn default() -> Self {
        Self {
            seed: 1,
            queue_depth: 16,
            reads: 50,
            flushes: 1,
            sizes: (4096, 65_536),
            region: None,
            blank: false,
            patience: Duration::from_secs(120),
        }
    }
}

/// The least that is read at a time when everything is verified, in bytes, where the operations are shorter.
const VERIFIED: u32 = 256 << 10;

/// When to stop. [`Progress::stop`] stops earlier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// After this time.
    Time(Duration),
    /// After so many operations.
    Operations(u64),
}

/// Why a disk does not do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the region must lie on the disk and hold at least one operation of the longest size, in whole blocks"
)]
pub struct Unfit;

/// A workload and what it remembers of the disk.
#[derive(Debug)]
pub struct Workload {
    options: WorkloadOptions,
    block_size: u32,
    /// First block of the region.
    first: u64,
    /// Blocks of a cell, the unit of alignment and of the oracle.
    cell: u64,
    cells: u64,
    oracle: Oracle,
    random: Random,
    progress: Arc<Progress>,
}

/// An operation in flight.
#[derive(Debug)]
struct Flight {
    kind: Kind,
    since: Instant,
    bytes: u64,
}

#[derive(Debug)]
enum Kind {
    Read(Reading),
    Write(Range<u64>, u64),
    Flush,
}

/// What to do next.
#[derive(Clone, Debug)]
enum Step {
    Read(Range<u64>),
    Write(Range<u64>),
    Flush,
}

impl Workload {
    /// A workload for the disk an initiator sees.
    ///
    /// # Errors
    /// The disk is too small for the options.
    pub fn new(options: WorkloadOptions, initiator: &Initiator) -> Result<Self, Unfit> {
        let block_size = initiator.block_size();
        let (shortest, longest) = options.sizes;
        let (first, blocks) = options.region.unwrap_or_else(|| (0, initiator.blocks()));
        let whole = shortest >= block_size && shortest % block_size == 0 && longest % shortest == 0;
        let fits = first.checked_add(blocks).is_some_and(|end| end <= initiator.blocks());
        let cell = u64::from(shortest / block_size.max(1)).max(1);
        let cells = blocks / cell;
        if !whole || !fits || cells < u64::from(longest / shortest.max(1)).max(1) || block_size < 24 {
            return Err(Unfit);
        }
        Ok(Self {
            oracle: Oracle::new(usize::try_from(cells).map_err(|_| Unfit)?),
            random: Random::new(options.seed),
            options,
            block_size,
            first,
            cell,
            cells,
            progress: Arc::new(Progress::default()),
        })
    }

    /// Figures of the operation under way, for somebody else to look at.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Writes every block once, so that every later read can be judged.
    pub async fn prepare(&mut self, initiator: &mut Initiator) -> Report {
        let mut steps = self.sweep(self.longest()).map(Step::Write);
        self.work(initiator, move |_| steps.next()).await
    }

    /// Random operations until the limit.
    pub async fn run(&mut self, initiator: &mut Initiator, limit: Limit) -> Report {
        let start = Instant::now();
        let mut count = 0;
        let more = move |workload: &mut Self| {
            let over = match limit {
                Limit::Time(time) => start.elapsed() >= time,
                Limit::Operations(most) => count >= most,
            };
            count += 1;
            (!over).then(|| workload.choose())
        };
        self.work(initiator, more).await
    }

    /// Reads and judges every block; on a blank disk every piece of which something was written.
    pub async fn verify(&mut self, initiator: &mut Initiator) -> Report {
        let stride = self.longest().max(u64::from(VERIFIED / self.options.sizes.0));
        let mut steps = self.sweep(stride);
        let wanted = |workload: &Self, cells: &Range<u64>| {
            !workload.options.blank || workload.oracle.knows(cells.clone())
        };
        self.work(initiator, move |workload| steps.find(|cells| wanted(workload, cells)).map(Step::Read))
            .await
    }

    /// The whole region in pieces of so many cells.
    fn sweep(&self, stride: u64) -> impl Iterator<Item = Range<u64>> + use<> {
        let cells = self.cells;
        (0..cells.div_ceil(stride)).map(move |piece| piece * stride..((piece + 1) * stride).min(cells))
    }

    /// Cells of the longest operation.
    fn longest(&self) -> u64 {
        u64::from(self.options.sizes.1 / self.options.sizes.0)
    }

    fn choose(&mut self) -> Step {
        let dice = self.random.below(100);
        let reads = u64::from(self.options.reads);
        if dice >= reads && dice < reads + u64::from(self.options.flushes) {
            return Step::Flush;
        }
        let doublings = u64::from(self.longest().ilog2());
        let length = 1 << self.random.below(doublings + 1);
        let start = self.random.below(self.cells - length + 1);
        let cells = start..start + length;
        if dice < reads { Step::Read(cells) } else { Step::Write(cells) }
    }

    /// Keeps the queue full until `next` has no more, then waits for the rest.
    async fn work(
        &mut self,
        initiator: &mut Initiator,
        mut next: impl FnMut(&mut Self) -> Option<Step>,
    ) -> Report {
        let mut flights: FxHashMap<Tag, Flight> = FxHashMap::default();
        let mut meter = Meter::new(Arc::clone(&self.progress));
        let mut more = true;
        let ended = loop {
            while more && flights.len() < self.options.queue_depth.max(1) {
                more = !self.progress.stopped();
                let step = if more { next(self) } else { None };
                let Some(step) = step else {
                    more = false;
                    break;
                };
                let (tag, flight) = self.submit(initiator, step);
                flights.insert(tag, flight);
            }
            self.progress.set_oldest(flights.values().map(|flight| flight.since).min());
            if flights.is_empty() {
                break None;
            }
            match tokio::time::timeout(self.options.patience, initiator.complete()).await {
                Ok(Ok((tag, done))) => {
                    if let Some(flight) = flights.remove(&tag) {
                        self.finish(flight, &done, &mut meter);
                    }
                }
                Ok(Err(error)) => break Some(Ended::Connection(error)),
                Err(_) => break Some(Ended::Stuck),
            }
        };
        self.abandon(flights.into_values().collect(), &mut meter);
        meter.report(ended)
    }

    fn submit(&mut self, initiator: &mut Initiator, step: Step) -> (Tag, Flight) {
        let blocks = |cells: &Range<u64>| (cells.end - cells.start) * self.cell;
        let size = u64::from(self.block_size);
        let since = Instant::now();
        match step {
            Step::Read(cells) => {
                let (lba, blocks) = (self.first + cells.start * self.cell, blocks(&cells));
                let reading = self.oracle.begin_read(cells);
                let tag = initiator.submit_read(lba, u32::try_from(blocks).unwrap_or(u32::MAX));
                (tag, Flight { kind: Kind::Read(reading), since, bytes: blocks * size })
            }
            Step::Write(cells) => {
                let (lba, bytes) = (self.first + cells.start * self.cell, blocks(&cells) * size);
                let generation = self.oracle.begin_write(cells.clone());
                let tag = initiator.submit_write(lba, self.content(lba, bytes, generation));
                (tag, Flight { kind: Kind::Write(cells, generation), since, bytes })
            }
            Step::Flush => (initiator.submit_flush(), Flight { kind: Kind::Flush, since, bytes: 0 }),
        }
    }

    fn content(&self, lba: u64, bytes: u64, generation: u64) -> Vec<u8> {
        let mut data = vec![0; usize::try_from(bytes).unwrap_or(0)];
        for (block, lba) in data.chunks_exact_mut(self.block_size as usize).zip(lba..) {
            Stamp { seed: self.options.seed, lba, generation }.write(block);
        }
        data
    }

    fn finish(&mut self, flight: Flight, done: &Completion, meter: &mut Meter) {
        let good = done.status == status::GOOD;
        meter.completed(flight.since.elapsed());
        if !good {
            meter.failed();
        }
        match flight.kind {
            Kind::Read(reading) if good => {
                meter.read(flight.bytes);
                if done.data.len() as u64 != flight.bytes {
                    meter.failed();
                }
                self.judge(&reading, &done.data, meter);
            }
            Kind::Read(_) => {}
            Kind::Write(cells, generation) => {
                if good {
                    meter.written(flight.bytes);
                }
                self.oracle.end_write(cells, generation, good);
            }
            Kind::Flush if good => meter.flushed(),
            Kind::Flush => {}
        }
    }

    /// What was in flight when the session ended may or may not have been done.
    fn abandon(&mut self, flights: Vec<Flight>, meter: &mut Meter) {
        for flight in flights {
            meter.failed();
            if let Kind::Write(cells, generation) = flight.kind {
                self.oracle.end_write(cells, generation, false);
            }
        }
    }

    /// Judges every block of a read.
    fn judge(&mut self, reading: &Reading, data: &Payload, meter: &mut Meter) {
        let data = data.contiguous();
        let size = self.block_size as usize;
        let bytes = usize::try_from(self.cell).unwrap_or(usize::MAX).saturating_mul(size);
        let cells = data.chunks(bytes).zip(reading.cells());
        for (content, cell) in cells {
            let mut whole = None;
            for (index, block) in (0..).zip(content.chunks(size)) {
                let lba = self.first + cell * self.cell + index;
                match self.judge_block(reading, cell, lba, block) {
                    Ok(generation) if index == 0 => whole = Some(generation),
                    Ok(generation) => whole = whole.filter(|first| *first == generation),
                    Err(wrong) => {
                        whole = None;
                        meter.wrong(WrongBlock { lba, wrong });
                    }
                }
            }
            if let Some(generation) = whole {
                self.oracle.seen(reading, cell, generation);
            }
        }
    }

    /// Whether a block may be one that the workload has not written.
    fn is_foreign(&self, block: &[u8]) -> bool {
        !self.options.blank || block.iter().all(|byte| *byte == 0)
    }

    fn judge_block(&self, reading: &Reading, cell: u64, lba: u64, block: &[u8]) -> Result<u64, Wrong> {
        let seed = self.options.seed;
        let stamp = Stamp::read(block).filter(|stamp| stamp.seed == seed && stamp.fills(block));
        match stamp {
            Some(stamp) if stamp.lba != lba => Err(Wrong::Misplaced { from: stamp.lba }),
            Some(stamp) if reading.allows(cell, stamp.generation) => Ok(stamp.generation),
            _ if reading.may_be_foreign(cell) && self.is_foreign(block) => Ok(oracle::FOREIGN),
            Some(stamp) => Err(Wrong::Stale { found: stamp.generation, legal: reading.of(cell).to_vec() }),
            None => Err(Wrong::Spoilt),
        }
    }
}
