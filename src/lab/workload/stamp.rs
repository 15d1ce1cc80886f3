//! What stands in a block: who wrote it, where, and when, and bytes that follow from that.

/// Bytes that say who, where and when.
const HEAD: usize = 24;

/// Who wrote a block, where, and in which write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    pub(super) seed: u64,
    pub(super) lba: u64,
    pub(super) generation: u64,
}

impl Stamp {
    /// Fills a block.
    pub(super) fn write(self, block: &mut [u8]) {
        for (to, word) in block.chunks_exact_mut(8).zip(self.words()) {
            to.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// Reads the head of a block; whether the block is whole is for [`Stamp::fills`] to say.
    pub(super) fn read(block: &[u8]) -> Option<Self> {
        let mut words = block.get(..HEAD)?.chunks_exact(8).map(word);
        Some(Self { seed: words.next()?, lba: words.next()?, generation: words.next()? })
    }

    /// Whether every byte of the block follows from the stamp.
    pub(super) fn fills(self, block: &[u8]) -> bool {
        block.chunks_exact(8).zip(self.words()).all(|(found, expected)| word(found) == expected)
    }

    fn words(self) -> impl Iterator<Item = u64> {
        let mut random = Random::new(self.seed ^ self.lba.rotate_left(32) ^ self.generation.rotate_left(17));
        [self.seed, self.lba, self.generation]
            .into_iter()
            .chain(std::iter::repeat_with(move || random.next()))
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// A stream of numbers that follows from its seed (splitmix64, public domain).
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not zero.
    pub(super) const fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back_and_any_changed_byte_is_seen() {
        let stamp = Stamp { seed: 5, lba: 77, generation: 9 };
        let mut block = [0; 512];
        stamp.write(&mut block);
        assert_eq!(Stamp::read(&block), Some(stamp));
        assert!(stamp.fills(&block));
        for at in [0, 8, 16, 24, 300, 511] {
            block[at] ^= 1;
            assert!(!Stamp::read(&block).is_some_and(|found| found == stamp && found.fills(&block)), "{at}");
            block[at] ^= 1;
        }
    }
}
