//! Which contents are legal for each part of the disk.
//!
//! Time is a counter that every submission and completion advances; a write is known by the time of its submission, its
//! *generation*. A content is overwritten by a write that was submitted after it was complete, once that write succeeded.
//! Everything not overwritten is legal: the last acknowledged write, writes in flight, failed writes, and acknowledged
//! ones that were in flight together. A read may return what was legal when it was submitted, or what was written since.
//! What a read shows when no write is in flight settles the matter for later reads.

use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::ops::Range;

/// The generation of a content that is not the workload's.
pub(super) const FOREIGN: u64 = 0;

/// A content that may stand in a cell.
#[derive(Clone, Copy, Debug)]
struct Version {
    generation: u64,
    completed: Option<u64>,
    acknowledged: bool,
}

/// A read under way.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    started: u64,
    cells: Range<u64>,
    legal: Vec<SmallVec<[u64; 2]>>,
}

impl Reading {
    /// Whether a block of a cell may hold this generation. What was submitted since the start is legal: the stamp proves that it
    /// was written there.
    pub(super) fn allows(&self, cell: u64, generation: u64) -> bool {
        generation > self.started || self.of(cell).contains(&generation)
    }

    /// Whether the cell may hold what it held before the workload, which may not have written it.
    pub(super) fn may_be_foreign(&self, cell: u64) -> bool {
        self.of(cell).contains(&FOREIGN)
    }

    /// The cells read.
    pub(super) fn cells(&self) -> Range<u64> {
        self.cells.clone()
    }

    /// What was legal at the start.
    pub(super) fn of(&self, cell: u64) -> &[u64] {
        let index = usize::try_from(cell - self.cells.start).unwrap_or(usize::MAX);
        self.legal.get(index).map_or(&[], SmallVec::as_slice)
    }
}

/// The legal contents of a range of cells.
#[derive(Debug)]
pub(super) struct Oracle {
    clock: u64,
    /// The only legal generation of each cell, where there is only one.
    settled: Vec<u64>,
    /// Cells with writes in flight or several legal contents.
    open: BTreeMap<u64, SmallVec<[Version; 4]>>,
}

impl Oracle {
    pub(super) fn new(cells: usize) -> Self {
        Self { clock: 0, settled: vec![FOREIGN; cells], open: BTreeMap::new() }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn settled(&self, cell: u64) -> u64 {
        usize::try_from(cell).ok().and_then(|cell| self.settled.get(cell)).copied().unwrap_or(FOREIGN)
    }

    fn settle(&mut self, cell: u64, generation: u64) {
        self.open.remove(&cell);
        if let Some(settled) = usize::try_from(cell).ok().and_then(|cell| self.settled.get_mut(cell)) {
            *settled = generation;
        }
    }

    /// A write is submitted; returns its generation.
    pub(super) fn begin_write(&mut self, cells: Range<u64>) -> u64 {
        let generation = self.tick();
        for cell in cells {
            let before = self.settled(cell);
            let versions = self.open.entry(cell).or_insert_with(|| {
                let known = Version { generation: before, completed: Some(before), acknowledged: true };
                SmallVec::from_iter([known])
            });
            versions.push(Version { generation, completed: None, acknowledged: false });
        }
        generation
    }

    /// A write is complete, well or not.
    pub(super) fn end_write(&mut self, cells: Range<u64>, generation: u64, acknowledged: bool) {
        let now = self.tick();
        for cell in cells {
            let Some(versions) = self.open.get_mut(&cell) else { continue };
            for version in versions.iter_mut().filter(|version| version.generation == generation) {
                version.completed = Some(now);
                version.acknowledged = acknowledged;
            }
            let last_of_acknowledged = versions
                .iter()
                .filter(|version| version.acknowledged)
                .map(|version| version.generation)
                .max();
            let overwritten = |version: &Version| {
                version.completed.is_some_and(|done| last_of_acknowledged.is_some_and(|newer| done < newer))
            };
            versions.retain(|version| !overwritten(version));
            if let [only] = versions.as_slice()
                && only.acknowledged
            {
                let generation = only.generation;
                self.settle(cell, generation);
            }
        }
    }

    /// Whether any of the cells was written.
    pub(super) fn knows(&self, mut cells: Range<u64>) -> bool {
        cells.any(|cell| self.settled(cell) != FOREIGN || self.open.contains_key(&cell))
    }

    /// A read is submitted.
    pub(super) fn begin_read(&mut self, cells: Range<u64>) -> Reading {
        let started = self.tick();
        let legal = cells
            .clone()
            .map(|cell| match self.open.get(&cell) {
                Some(versions) => versions.iter().map(|version| version.generation).collect(),
                None => SmallVec::from_iter([self.settled(cell)]),
            })
            .collect();
        Reading { started, cells, legal }
    }

    /// A read showed that a whole cell holds one legal generation.
    pub(super) fn seen(&mut self, reading: &Reading, cell: u64, generation: u64) {
        let Some(versions) = self.open.get(&cell) else { return };
        let quiet =
            versions.iter().all(|version| version.completed.is_some_and(|done| done < reading.started));
        if quiet && versions.iter().any(|version| version.generation == generation) {
            self.settle(cell, generation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn legal(oracle: &mut Oracle, cell: u64) -> Vec<u64> {
        oracle.begin_read(cell..cell + 1).of(cell).to_vec()
    }

    #[test]
    fn an_acknowledged_write_makes_only_the_new_legal() {
        let mut oracle = Oracle::new(4);
        let first = oracle.begin_write(0..4);
        assert_eq!(legal(&mut oracle, 0), [FOREIGN, first]);
        oracle.end_write(0..4, first, true);
        let second = oracle.begin_write(1..2);
        assert_eq!(legal(&mut oracle, 1), [first, second]);
        oracle.end_write(1..2, second, true);
        assert_eq!(legal(&mut oracle, 1), [second]);
        assert_eq!(legal(&mut oracle, 2), [first]);
        assert!(oracle.open.is_empty());
    }

    #[test]
    fn a_failed_write_leaves_both_until_a_read_tells() {
        let mut oracle = Oracle::new(1);
        let first = oracle.begin_write(0..1);
        oracle.end_write(0..1, first, true);
        let failed = oracle.begin_write(0..1);
        oracle.end_write(0..1, failed, false);
        assert_eq!(legal(&mut oracle, 0), [first, failed]);
        let reading = oracle.begin_read(0..1);
        oracle.seen(&reading, 0, failed);
        assert_eq!(legal(&mut oracle, 0), [failed]);
    }

    #[test]
    fn a_write_after_a_failed_one_overwrites_it() {
        let mut oracle = Oracle::new(1);
        let failed = oracle.begin_write(0..1);
        oracle.end_write(0..1, failed, false);
        let next = oracle.begin_write(0..1);
        oracle.end_write(0..1, next, true);
        assert_eq!(legal(&mut oracle, 0), [next]);
    }

    #[test]
    fn writes_in_flight_together_may_end_in_either_order() {
        let mut oracle = Oracle::new(1);
        let a = oracle.begin_write(0..1);
        let b = oracle.begin_write(0..1);
        oracle.end_write(0..1, b, true);
        oracle.end_write(0..1, a, true);
        assert_eq!(legal(&mut oracle, 0), [a, b]);
        let reading = oracle.begin_read(0..1);
        oracle.seen(&reading, 0, a);
        assert_eq!(legal(&mut oracle, 0), [a]);
    }

    #[test]
    fn a_read_may_return_what_was_legal_at_its_start_or_came_since() {
        let mut oracle = Oracle::new(1);
        let old = oracle.begin_write(0..1);
        oracle.end_write(0..1, old, true);
        let reading = oracle.begin_read(0..1);
        let newer = oracle.begin_write(0..1);
        oracle.end_write(0..1, newer, true);
        let newest = oracle.begin_write(0..1);
        oracle.end_write(0..1, newest, true);
        for generation in [old, newer, newest] {
            assert!(reading.allows(0, generation));
        }
        assert!(!oracle.begin_read(0..1).allows(0, newer));
        // A read that overlapped writes settles nothing.
        oracle.seen(&reading, 0, old);
        assert_eq!(legal(&mut oracle, 0), [newest]);
    }
}
