//! Access to the 48-byte basic header segment (RFC 7143 section 11.2.1) by offset, big-endian.
//!
//! Neither reading nor writing can panic: an offset outside the header reads as zero and writes nothing. Offsets are
//! constants of the callers, checked by the round-trip tests of every PDU.

use crate::iscsi::{CmdSn, Itt, Lun, StatSn, Ttt};

/// Length of the basic header segment, in bytes.
pub const BHS_LEN: usize = 48;

/// The F bit; always one in PDUs that are a sequence of their own.
pub(super) const FINAL: u8 = 0x80;
/// The I bit of the opcode byte of requests.
pub(super) const IMMEDIATE: u8 = 0x40;
/// The opcode bits of the opcode byte.
const OPCODE: u8 = 0x3f;

/// Opcode of a header as received; reserved bits and the I bit are left out.
#[must_use]
pub const fn opcode_of(header: &[u8; BHS_LEN]) -> u8 {
    header[0] & OPCODE
}

/// TotalAHSLength of a header, in bytes: a multiple of four, at most 1020.
#[must_use]
pub const fn ahs_len(header: &[u8; BHS_LEN]) -> usize {
    header[4] as usize * 4
}

/// DataSegmentLength of a header, in bytes, padding not included.
#[must_use]
pub const fn data_len(header: &[u8; BHS_LEN]) -> usize {
    u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize
}

/// Number of zero bytes that fill a segment of `len` bytes up to a multiple of four.
#[must_use]
pub const fn padding(len: usize) -> usize {
    len.wrapping_neg() & 3
}

/// A received header.
#[derive(Clone, Copy)]
pub(super) struct View<'a>(pub(super) &'a [u8; BHS_LEN]);

impl View<'_> {
    #[inline]
    pub(super) fn array<const N: usize>(self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }

    #[inline]
    pub(super) fn byte(self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    #[inline]
    pub(super) fn flag(self, at: usize, mask: u8) -> bool {
        self.byte(at) & mask != 0
    }

    #[inline]
    pub(super) fn u16(self, at: usize) -> u16 {
        u16::from_be_bytes(self.array(at))
    }

    #[inline]
    pub(super) fn u32(self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    #[inline]
    pub(super) fn u64(self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }

    pub(super) fn immediate(self) -> bool {
        self.flag(0, IMMEDIATE)
    }

    pub(super) fn final_(self) -> bool {
        self.flag(1, FINAL)
    }

    pub(super) fn lun(self) -> Lun {
        Lun(self.u64(8))
    }

    pub(super) fn itt(self) -> Itt {
        Itt(self.u32(16))
    }

    pub(super) fn ttt(self) -> Ttt {
        Ttt(self.u32(20))
    }

    /// CmdSN of a request.
    pub(super) fn cmd_sn(self) -> CmdSn {
        CmdSn(self.u32(24))
    }

    /// ExpStatSN of a request.
    pub(super) fn exp_stat_sn(self) -> StatSn {
        StatSn(self.u32(28))
    }

    /// StatSN of a response.
    pub(super) fn stat_sn(self) -> StatSn {
        StatSn(self.u32(24))
    }

    /// ExpCmdSN of a response.
    pub(super) fn exp_cmd_sn(self) -> CmdSn {
        CmdSn(self.u32(28))
    }

    /// MaxCmdSN of a response.
    pub(super) fn max_cmd_sn(self) -> CmdSn {
        CmdSn(self.u32(32))
    }
}

/// A header being made; all that is not written stays zero (R141).
pub(super) struct Build([u8; BHS_LEN]);

impl Build {
    /// A header of a response, or of a request that has no I bit.
    pub(super) const fn new(opcode: u8) -> Self {
        let mut header = [0; BHS_LEN];
        header[0] = opcode;
        Self(header)
    }

    /// A header of a request.
    pub(super) const fn request(opcode: u8, immediate: bool) -> Self {
        Self::new(if immediate { opcode | IMMEDIATE } else { opcode })
    }

    #[inline]
    pub(super) fn bytes(mut self, at: usize, bytes: &[u8]) -> Self {
        if let Some(field) = self.0.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len())) {
            field.copy_from_slice(bytes);
        }
        self
    }

    #[inline]
    pub(super) fn byte(self, at: usize, value: u8) -> Self {
        self.bytes(at, &[value])
    }

    /// Ors `mask` into a byte if `set`.
    #[inline]
    pub(super) fn flag(mut self, at: usize, mask: u8, set: bool) -> Self {
        if set && let Some(byte) = self.0.get_mut(at) {
            *byte |= mask;
        }
        self
    }

    #[inline]
    pub(super) fn u16(self, at: usize, value: u16) -> Self {
        self.bytes(at, &value.to_be_bytes())
    }

    #[inline]
    pub(super) fn u32(self, at: usize, value: u32) -> Self {
        self.bytes(at, &value.to_be_bytes())
    }

    #[inline]
    pub(super) fn u64(self, at: usize, value: u64) -> Self {
        self.bytes(at, &value.to_be_bytes())
    }

    pub(super) fn lun(self, lun: Lun) -> Self {
        self.u64(8, lun.0)
    }

    pub(super) fn itt(self, itt: Itt) -> Self {
        self.u32(16, itt.0)
    }

    pub(super) fn ttt(self, ttt: Ttt) -> Self {
        self.u32(20, ttt.0)
    }

    /// CmdSN and ExpStatSN of a request.
    pub(super) fn request_numbers(self, cmd_sn: CmdSn, exp_stat_sn: StatSn) -> Self {
        self.u32(24, cmd_sn.0).u32(28, exp_stat_sn.0)
    }

    /// StatSN, ExpCmdSN and MaxCmdSN of a response.
    pub(super) fn response_numbers(self, stat_sn: StatSn, exp: CmdSn, max: CmdSn) -> Self {
        self.u32(24, stat_sn.0).u32(28, exp.0).u32(32, max.0)
    }

    /// Fills in the lengths: `ahs` a multiple of four up to 1020, `data` below 2^24.
    pub(super) fn finish(self, ahs: usize, data: usize) -> [u8; BHS_LEN] {
        debug_assert!(ahs.is_multiple_of(4) && ahs <= 1020 && data < 1 << 24);
        let words = u8::try_from(ahs / 4).unwrap_or(u8::MAX);
        let [_, hi, mid, lo] = u32::try_from(data).unwrap_or(u32::MAX).to_be_bytes();
        self.bytes(4, &[words, hi, mid, lo]).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_fills_words() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(padding), [0, 3, 2, 1, 0, 3]);
    }

    #[test]
    fn access_outside_the_header_is_harmless() {
        let header = Build::new(1).u32(46, u32::MAX).byte(48, 7).finish(0, 0);
        assert_eq!(View(&header).u32(46), 0);
        assert_eq!(View(&header).byte(48), 0);
        assert_eq!(opcode_of(&header), 1);
    }
}
