//! The disk: sparse pages that reads share and writes own.
//!
//! A read hands out slices of the pages. A write changes a page in place unless a read still holds it; then the page is
//! copied first, so that what was read never changes.

use crate::iscsi::Payload;
use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;

/// Bytes of a page: large enough that a long read has few slices, small enough to copy when shared.
const PAGE: usize = 64 * 1024;

/// Content of a page, and a bit for each of its blocks that was written and not discarded since.
#[derive(Debug)]
struct Page {
    bytes: Bytes,
    mapped: u128,
}

/// Blocks of one logical unit; blocks never written read as zeros.
#[derive(Debug)]
pub struct Medium {
    block_size: u32,
    blocks: u64,
    pages: FxHashMap<u64, Page>,
    zeros: Bytes,
    writes_to_lose: u32,
}

impl Medium {
    /// An empty disk.
    #[must_use]
    pub fn new(blocks: u64, block_size: u32) -> Self {
        Self {
            block_size,
            blocks,
            pages: FxHashMap::default(),
            zeros: Bytes::from_static(&[0; PAGE]),
            writes_to_lose: 0,
        }
    }

    /// Number of blocks.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Bytes of a block.
    #[must_use]
    pub const fn block_size(&self) -> u32 {
        self.block_size
    }

    /// `blocks` blocks from `lba` on, sharing the pages.
    #[must_use]
    pub fn read(&self, lba: u64, blocks: u64) -> Payload {
        let mut data = Payload::new();
        for part in self.parts(lba, blocks) {
            let page = self.pages.get(&part.page).map_or(&self.zeros, |page| &page.bytes);
            data.push(page.slice(part.start..part.start + part.len));
        }
        data
    }

    /// Writes whole blocks from `lba` on; a rest shorter than a block is dropped.
    pub fn write(&mut self, lba: u64, data: &Payload) {
        if self.writes_to_lose > 0 {
            self.writes_to_lose -= 1;
            return;
        }
        let blocks = data.len() as u64 / u64::from(self.block_size);
        let mut offset = 0;
        for part in self.parts(lba, blocks) {
            let source = data.slice(offset, part.len);
            offset += part.len;
            self.change(&part, true, |target| scatter(target, &source));
        }
    }

    /// Writes one block's content to each block of the range.
    pub fn fill(&mut self, lba: u64, blocks: u64, block: &[u8]) {
        if block.iter().all(|byte| *byte == 0) {
            self.discard(lba, blocks);
            return;
        }
        for part in self.parts(lba, blocks) {
            self.change(&part, true, |target| {
                for piece in target.chunks_mut(block.len()) {
                    piece.copy_from_slice(block.get(..piece.len()).unwrap_or_default());
                }
            });
        }
    }

    /// Makes the range read as zeros, and forgets it.
    pub fn discard(&mut self, lba: u64, blocks: u64) {
        let size = u64::from(self.block_size);
        let page = PAGE as u64;
        let (start, end) = (lba * size, (lba + blocks) * size);
        let (first, last) = (start.div_ceil(page), end / page);
        if first >= last {
            self.zero(lba, blocks);
            return;
        }
        self.pages.retain(|index, _| !(first..last).contains(index));
        self.zero(lba, (first * page - start) / size);
        let tail = (end - last * page) / size;
        self.zero(lba + blocks - tail, tail);
    }

    /// Whether the block at `lba` was written and not discarded since, and for how many blocks from there, up to `most`,
    /// the same holds.
    #[must_use]
    pub fn status(&self, lba: u64, most: u64) -> (bool, u64) {
        let mut run = 0;
        let mut first = None;
        for part in self.parts(lba, most.min(self.blocks.saturating_sub(lba))) {
            let mapped = self.pages.get(&part.page).map_or(0, |page| page.mapped);
            for block in self.blocks_of(&part) {
                let here = mapped >> block & 1 == 1;
                if *first.get_or_insert(here) != here {
                    return (!here, run);
                }
                run += 1;
            }
        }
        (first.unwrap_or(false), run)
    }

    /// First byte that differs from what stands at `lba`, if any.
    #[must_use]
    pub fn mismatch(&self, lba: u64, data: &Payload) -> Option<usize> {
        let blocks = data.len() as u64 / u64::from(self.block_size);
        let here = self.read(lba, blocks).contiguous();
        let there = data.contiguous();
        here.iter().zip(there.iter()).position(|(a, b)| a != b)
    }

    /// Test hook: inverts one byte of a block behind everybody's back.
    pub fn corrupt(&mut self, lba: u64) {
        for part in self.parts(lba, 1).take(1) {
            self.change(&part, true, |target| {
                if let Some(byte) = target.get_mut(17) {
                    *byte = !*byte;
                }
            });
        }
    }

    /// Test hook: the next `count` writes are answered but not done.
    pub fn lose_writes(&mut self, count: u32) {
        self.writes_to_lose = count;
    }

    fn zero(&mut self, lba: u64, blocks: u64) {
        for part in self.parts(lba, blocks) {
            if self.pages.contains_key(&part.page) {
                self.change(&part, false, |target| target.fill(0));
            }
        }
    }

    /// Changes part of a page, whose blocks are mapped afterwards or not. A page without mapped blocks is given back.
    fn change(&mut self, part: &Part, mapped: bool, change: impl FnOnce(&mut [u8])) {
        let old = self.pages.remove(&part.page);
        let before = old.as_ref().map_or(0, |page| page.mapped);
        let mut page = match old.map(|page| page.bytes.try_into_mut()) {
            Some(Ok(own)) => own,
            Some(Err(shared)) => BytesMut::from(shared.as_ref()),
            None => BytesMut::zeroed(PAGE),
        };
        if let Some(target) = page.get_mut(part.start..part.start + part.len) {
            change(target);
        }
        let bits = self.blocks_of(part).fold(0, |bits, block| bits | 1_u128 << block);
        let after = if mapped { before | bits } else { before & !bits };
        if after != 0 {
            self.pages.insert(part.page, Page { bytes: page.freeze(), mapped: after });
        }
    }

    /// Which blocks of its page a part touches: at most 128 fit in one.
    fn blocks_of(&self, part: &Part) -> std::ops::Range<usize> {
        let size = self.block_size as usize;
        part.start / size..(part.start + part.len) / size
    }

    fn parts(&self, lba: u64, blocks: u64) -> Parts {
        let size = u64::from(self.block_size);
        Parts { next: lba * size, end: (lba + blocks) * size }
    }
}

/// A range of bytes within one page.
struct Part {
    page: u64,
    start: usize,
    len: usize,
}

/// A range of bytes, page by page.
struct Parts {
    next: u64,
    end: u64,
}

impl Iterator for Parts {
    type Item = Part;

    #[expect(clippy::cast_possible_truncation, reason = "both are below the size of a page")]
    fn next(&mut self) -> Option<Part> {
        if self.next >= self.end {
            return None;
        }
        let page = self.next / PAGE as u64;
        let start = (self.next % PAGE as u64) as usize;
        let len = (self.end - self.next).min((PAGE - start) as u64) as usize;
        self.next += len as u64;
        Some(Part { page, start, len })
    }
}

fn scatter(mut target: &mut [u8], source: &Payload) {
    for chunk in source.chunks() {
        let Some((head, tail)) = target.split_at_mut_checked(chunk.len()) else { return };
        head.copy_from_slice(chunk);
        target = tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(byte: u8, blocks: usize) -> Payload {
        Payload::from(vec![byte; blocks * 512])
    }

    #[test]
    fn what_was_read_does_not_change() {
        let mut medium = Medium::new(1024, 512);
        medium.write(126, &data(1, 4));
        let before = medium.read(126, 4);
        medium.write(127, &data(2, 2));
        assert_eq!(before, data(1, 4));
        let mut expected = data(1, 1);
        expected.append(&data(2, 2));
        expected.append(&data(1, 1));
        assert_eq!(medium.read(126, 4), expected);
    }

    #[test]
    fn unique_pages_are_changed_in_place() {
        let mut medium = Medium::new(1024, 512);
        medium.write(0, &data(1, 1));
        let first = medium.read(0, 1).chunks()[0].as_ptr();
        medium.write(0, &data(2, 1));
        assert_eq!(medium.read(0, 1).chunks()[0].as_ptr(), first);
    }

    #[test]
    fn discard_zeroes_parts_of_pages_and_frees_whole_ones() {
        let mut medium = Medium::new(1024, 512);
        medium.fill(0, 1024, &[7; 512]);
        medium.discard(100, 300);
        assert_eq!(medium.read(99, 1), data(7, 1));
        assert_eq!(medium.read(100, 300), data(0, 300));
        assert_eq!(medium.read(400, 1), data(7, 1));
        assert_eq!(medium.pages.len(), 6);
    }

    #[test]
    fn status_follows_writes_and_discards() {
        let mut medium = Medium::new(1024, 512);
        assert_eq!(medium.status(0, u64::MAX), (false, 1024));
        medium.write(100, &data(1, 200));
        assert_eq!(medium.status(0, 1024), (false, 100));
        assert_eq!(medium.status(100, 1024), (true, 200));
        medium.discard(150, 1);
        assert_eq!(medium.status(100, 1024), (true, 50));
        assert_eq!(medium.status(150, 1024), (false, 1));
        assert_eq!(medium.status(151, 10), (true, 10));
        medium.discard(100, 200);
        assert!(medium.pages.is_empty());
    }

    #[test]
    fn hooks_corrupt_and_lose() {
        let mut medium = Medium::new(8, 4096);
        medium.lose_writes(1);
        medium.write(0, &Payload::from(vec![1; 4096]));
        assert_eq!(medium.read(0, 1), Payload::from(vec![0; 4096]));
        medium.corrupt(0);
        assert_eq!(medium.mismatch(0, &Payload::from(vec![0; 4096])), Some(17));
    }
}
