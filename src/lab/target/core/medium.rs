//! The disk: sparse pages that reads share and writes own.
//!
//! A read hands out slices of the pages. A write changes a page in place unless a read still holds it; then the page is
//! copied first, so that what was read never changes.

use crate::iscsi::Payload;
use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;

/// Bytes of a page: large enough that a long read has few slices, small enough to copy when shared.
const PAGE: usize = 64 * 1024;

/// Blocks of one logical unit; blocks never written read as zeros.
#[derive(Debug)]
pub struct Medium {
    block_size: u32,
    blocks: u64,
    pages: FxHashMap<u64, Bytes>,
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
            let page = self.pages.get(&part.page).unwrap_or(&self.zeros);
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
            self.change(&part, |target| scatter(target, &source));
        }
    }

    /// Writes one block's content to each block of the range.
    pub fn fill(&mut self, lba: u64, blocks: u64, block: &[u8]) {
        if block.iter().all(|byte| *byte == 0) {
            self.discard(lba, blocks);
            return;
        }
        for part in self.parts(lba, blocks) {
            self.change(&part, |target| {
                for piece in target.chunks_mut(block.len()) {
                    piece.copy_from_slice(block.get(..piece.len()).unwrap_or_default());
                }
            });
        }
    }

    /// Makes the range read as zeros.
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
            self.change(&part, |target| {
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
                self.change(&part, |target| target.fill(0));
            }
        }
    }

    fn change(&mut self, part: &Part, change: impl FnOnce(&mut [u8])) {
        let old = self.pages.remove(&part.page);
        let mut page = match old.map(Bytes::try_into_mut) {
            Some(Ok(own)) => own,
            Some(Err(shared)) => BytesMut::from(shared.as_ref()),
            None => BytesMut::zeroed(PAGE),
        };
        if let Some(target) = page.get_mut(part.start..part.start + part.len) {
            change(target);
        }
        self.pages.insert(part.page, page.freeze());
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
    fn hooks_corrupt_and_lose() {
        let mut medium = Medium::new(8, 4096);
        medium.lose_writes(1);
        medium.write(0, &Payload::from(vec![1; 4096]));
        assert_eq!(medium.read(0, 1), Payload::from(vec![0; 4096]));
        medium.corrupt(0);
        assert_eq!(medium.mismatch(0, &Payload::from(vec![0; 4096])), Some(17));
    }
}
