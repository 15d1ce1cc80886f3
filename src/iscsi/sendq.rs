//! PDUs in, slices for a vectored write out.
//!
//! Headers, digests, padding and short payloads are collected in one arena, one behind the other, so that they make one
//! slice as long as no shared payload lies between them. Longer payloads are shared with whoever else holds them. Once the
//! arena and the deque have grown to the traffic, pushing and writing allocate nothing.
//!
//! The queue has no limit of its own: the driver stops pushing when [`SendQueue::len`] says so. Nothing here panics.

use super::pdu::{Ahs, BHS_LEN, padding};
use super::{Payload, Pdu};
use bytes::{Buf, Bytes, BytesMut};
use crc32c::{crc32c, crc32c_append};
use std::collections::VecDeque;
use std::io::IoSlice;

/// Payloads up to this length, in bytes, are copied: that is cheaper than one more slice.
const COPY_MAX: usize = 512;
/// An arena larger than this, in bytes, is given back when the queue runs empty.
const ARENA_KEEP: usize = 64 * 1024;

/// Encoded PDUs of one connection that wait to be written.
#[derive(Debug, Default)]
pub struct SendQueue {
    header_digest: bool,
    data_digest: bool,
    /// The bytes of all [`Piece::Arena`]s, in order.
    arena: BytesMut,
    /// What is to be written, in order; no piece is empty, no two arena pieces are neighbours.
    pieces: VecDeque<Piece>,
    /// Bytes in all pieces.
    len: usize,
}

/// A stretch of bytes to write.
#[derive(Debug)]
enum Piece {
    /// So many bytes of the arena, behind those of earlier pieces.
    Arena(usize),
    /// Payload.
    Shared(Bytes),
}

impl SendQueue {
    /// An empty queue without digests.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Switches digests, from the next PDU pushed on.
    pub fn set_digests(&mut self, header: bool, data: bool) {
        self.header_digest = header;
        self.data_digest = data;
    }

    /// Encodes a PDU to the end of the queue; its payload is shared, not copied, unless it is short. Gives its header segments.
    pub fn push(&mut self, pdu: &Pdu) -> ([u8; BHS_LEN], Ahs) {
        let (header, ahs) = pdu.encode();
        self.copy(&header);
        self.copy(&ahs);
        if self.header_digest {
            self.copy(&crc32c_append(crc32c(&header), &ahs).to_le_bytes());
        }
        let data = pdu.data();
        if !data.is_empty() {
            self.push_data(data);
        }
        (header, ahs)
    }

    fn push_data(&mut self, data: &Payload) {
        for chunk in data.chunks() {
            if chunk.len() <= COPY_MAX {
                self.copy(chunk);
            } else {
                self.len += chunk.len();
                self.pieces.push_back(Piece::Shared(chunk.clone()));
            }
        }
        let pad = [0; 3];
        let pad = pad.get(..padding(data.len())).unwrap_or_default();
        self.copy(pad);
        if self.data_digest {
            let crc = data.chunks().iter().fold(0, |crc, chunk| crc32c_append(crc, chunk));
            self.copy(&crc32c_append(crc, pad).to_le_bytes());
        }
    }

    fn copy(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.arena.extend_from_slice(bytes);
        self.len += bytes.len();
        if let Some(Piece::Arena(len)) = self.pieces.back_mut() {
            *len += bytes.len();
        } else {
            self.pieces.push_back(Piece::Arena(bytes.len()));
        }
    }

    /// Bytes waiting.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `slices` with the front of the queue and returns how many were filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut arena: &[u8] = &self.arena;
        let mut filled = 0;
        for (slot, piece) in slices.iter_mut().zip(&self.pieces) {
            let bytes = match piece {
                Piece::Shared(bytes) => bytes,
                Piece::Arena(len) => {
                    let (bytes, rest) = arena.split_at_checked(*len).unwrap_or((arena, &[]));
                    arena = rest;
                    bytes
                }
            };
            *slot = IoSlice::new(bytes);
            filled += 1;
        }
        filled
    }

    /// Drops `written` bytes from the front; more than are there count as all.
    pub fn advance(&mut self, written: usize) {
        let mut left = written.min(self.len);
        self.len -= left;
        while left > 0
            && let Some(piece) = self.pieces.front_mut()
        {
            let take = left.min(piece.len());
            piece.advance(take);
            if matches!(piece, Piece::Arena(_)) {
                self.arena.advance(take.min(self.arena.len()));
            }
            if piece.len() == 0 {
                self.pieces.pop_front();
            }
            left -= take;
        }
        if self.len == 0 && self.arena.try_reclaim(ARENA_KEEP + 1) {
            self.arena = BytesMut::new();
        }
    }
}

impl Piece {
    const fn len(&self) -> usize {
        match self {
            Self::Arena(len) => *len,
            Self::Shared(bytes) => bytes.len(),
        }
    }

    /// Drops `n` bytes from the front; `n` is at most the length.
    fn advance(&mut self, n: usize) {
        match self {
            Self::Arena(len) => *len -= n,
            Self::Shared(bytes) => bytes.advance(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::{Cid, DataIn, Itt, LogoutRequest};

    fn nothing() -> Pdu {
        Pdu::LogoutRequest(LogoutRequest { itt: Itt(1), cid: Cid(2), ..LogoutRequest::default() })
    }

    fn data(len: usize) -> (Bytes, Pdu) {
        let bytes = Bytes::from(vec![7; len]);
        (bytes.clone(), Pdu::DataIn(DataIn { data: Payload::from(bytes), ..DataIn::default() }))
    }

    fn lengths(queue: &SendQueue) -> Vec<usize> {
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = queue.slices(&mut slices);
        slices[..filled].iter().map(|slice| slice.len()).collect()
    }

    #[test]
    fn headers_join_and_payload_is_shared() {
        let mut queue = SendQueue::new();
        let (bytes, pdu) = data(4095);
        queue.push(&nothing());
        queue.push(&nothing());
        queue.push(&pdu);
        queue.push(&data(COPY_MAX).1);
        assert_eq!(lengths(&queue), [48 * 3, 4095, 1 + 48 + 512]);
        assert_eq!(queue.len(), 48 * 3 + 4095 + 1 + 48 + 512);
        let mut slices = [IoSlice::new(&[]); 2];
        assert_eq!(queue.slices(&mut slices), 2, "no more slices than there is room for");
        assert_eq!(slices[1].as_ptr(), bytes.as_ptr(), "payload must not be copied");
    }

    #[test]
    fn r65_digests_follow_header_and_padded_data() {
        let mut queue = SendQueue::new();
        queue.set_digests(true, true);
        queue.push(&data(1001).1);
        queue.push(&nothing());
        assert_eq!(lengths(&queue), [48 + 4, 1001, 3 + 4 + 48 + 4]);
        let mut slices = [IoSlice::new(&[]); 3];
        queue.slices(&mut slices);
        assert_eq!(slices[0][48..], crc32c(&slices[0][..48]).to_le_bytes());
        let mut padded = vec![7; 1001];
        padded.extend([0; 3]);
        assert_eq!(slices[2][..7], [&[0; 3], &crc32c(&padded).to_le_bytes()[..]].concat());
    }

    #[test]
    fn partial_writes_go_on_where_they_stopped() {
        let mut queue = SendQueue::new();
        queue.push(&nothing());
        queue.push(&data(1000).1);
        queue.push(&nothing());
        queue.advance(90);
        assert_eq!(lengths(&queue), [6, 1000, 48]);
        queue.advance(6 + 999);
        assert_eq!(lengths(&queue), [1, 48]);
        queue.push(&nothing());
        assert_eq!(lengths(&queue), [1, 96]);
        queue.advance(usize::MAX);
        assert!(queue.is_empty() && lengths(&queue).is_empty());
    }

    #[test]
    fn a_large_arena_is_given_back_and_a_small_one_kept() {
        let mut queue = SendQueue::new();
        for _ in 0..ARENA_KEEP / 24 {
            queue.push(&nothing());
        }
        queue.advance(queue.len());
        assert_eq!(queue.arena.capacity(), 0);
        queue.push(&nothing());
        queue.advance(48);
        let at = queue.arena.as_ptr().wrapping_sub(48);
        queue.push(&nothing());
        assert_eq!(queue.arena.as_ptr(), at, "an emptied arena is used again from its start");
    }
}
