//! The blocks of a logical unit: what a read shows, and what a power cut leaves.

use crate::random::Random;
use smallvec::SmallVec;
use std::ops::Range;

pub(crate) const BLOCK: usize = 512;

pub(super) struct Medium {
    visible: Vec<u64>,
    durable: Vec<u64>,
    /// What was written since a block became durable, oldest first, each with the cache that holds it; the last one is
    /// visible.
    since: Vec<SmallVec<[(u64, usize); 3]>>,
    cached: bool,
}

impl Medium {
    pub(super) fn new(blocks: usize, cached: bool) -> Self {
        Self {
            visible: vec![0; blocks],
            durable: vec![0; blocks],
            since: vec![SmallVec::new(); blocks],
            cached,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.visible.len()
    }

    /// Whether `blocks` blocks from `lba` on exist.
    pub(super) fn range(&self, lba: u64, blocks: u64) -> Option<Range<usize>> {
        let end = usize::try_from(lba.checked_add(blocks)?).ok()?;
        (end <= self.len()).then(|| usize::try_from(lba).unwrap()..end)
    }

    pub(super) fn visible(&self, lba: usize) -> u64 {
        self.visible[lba]
    }

    pub(super) fn write(&mut self, lba: usize, stamp: u64, through: bool, cache: usize) {
        self.visible[lba] = stamp;
        if through || !self.cached {
            self.durable[lba] = stamp;
            self.since[lba].clear();
        } else {
            self.since[lba].push((stamp, cache));
        }
    }

    /// Empties a cache. What it held of a block, and what is older, is done with.
    pub(super) fn flush(&mut self, range: Range<usize>, cache: usize) {
        for lba in range {
            if let Some(last) = self.since[lba].iter().rposition(|(_, by)| *by == cache) {
                self.durable[lba] = self.since[lba][last].0;
                self.since[lba].drain(..=last);
            }
        }
    }

    /// A cache is lost, or all: each block falls back to what is durable, or to any value written later. Returns how many
    /// blocks with unflushed writes kept the last one, and how many did not.
    pub(super) fn power_cut(&mut self, cache: Option<usize>, random: &mut Random) -> (u32, u32) {
        let (mut kept, mut lost) = (0, 0);
        for lba in 0..self.len() {
            let since = &mut self.since[lba];
            let gone = |by: usize| cache.is_none_or(|cache| cache == by);
            let held: SmallVec<[usize; 3]> = (0..since.len()).filter(|n| gone(since[*n].1)).collect();
            if held.is_empty() {
                continue;
            }
            // So many of them had left the cache by then.
            let left = random.below(held.len() + 1);
            let before = self.visible[lba];
            if left > 0 {
                let last = held[left - 1];
                self.durable[lba] = since[last].0;
                since.drain(..=last);
            }
            since.retain(|(_, by)| !gone(*by));
            self.visible[lba] = since.last().map_or(self.durable[lba], |(stamp, _)| *stamp);
            *(if before == self.visible[lba] { &mut kept } else { &mut lost }) += 1;
        }
        (kept, lost)
    }

    /// The blocks as bytes, in one allocation.
    pub(super) fn bytes(&self, range: Range<usize>) -> Vec<u8> {
        let mut data = Vec::with_capacity(range.len() * BLOCK);
        for stamp in &self.visible[range] {
            data.extend_from_slice(&block(*stamp));
        }
        data
    }
}

/// A block that says which write made it.
pub(crate) fn block(stamp: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    for part in block.chunks_exact_mut(8) {
        part.copy_from_slice(&stamp.to_be_bytes());
    }
    block
}

/// The stamp of a block; a block of several is a broken write.
pub(super) fn stamp_of(block: &[u8]) -> u64 {
    let stamp = u64::from_be_bytes(*block.first_chunk().unwrap());
    let whole = block.len() == BLOCK && block[8..] == block[..BLOCK - 8];
    assert!(whole, "P1: torn write: {} bytes that begin with stamp {stamp}", block.len());
    stamp
}
