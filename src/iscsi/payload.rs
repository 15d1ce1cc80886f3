//! A data segment made of shared slices of the buffers it was received into.

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use std::fmt;

/// A data segment without its padding: one slice nearly always, more when it straddled receive buffers.
///
/// Cloning and slicing share the bytes; nothing here copies except [`Payload::contiguous`] of several slices.
/// Printing shows length and checksum, not the bytes: they may be secret, and are many.
#[derive(Clone, Default)]
pub struct Payload {
    chunks: SmallVec<[Bytes; 1]>,
    len: usize,
}

impl Payload {
    /// A segment without bytes.
    #[must_use]
    pub const fn new() -> Self {
        Self { chunks: SmallVec::new_const(), len: 0 }
    }

    /// Number of bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slices in order; none of them is empty.
    #[must_use]
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// Appends a slice.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.len += chunk.len();
            self.chunks.push(chunk);
        }
    }

    /// Appends the slices of `other`.
    pub fn append(&mut self, other: &Self) {
        for chunk in &other.chunks {
            self.push(chunk.clone());
        }
    }

    /// The bytes `start..start + len`, cut to what is there; shares the memory.
    #[must_use]
    pub fn slice(&self, start: usize, len: usize) -> Self {
        let mut out = Self::new();
        let mut skip = start;
        let mut want = len;
        for chunk in &self.chunks {
            if want == 0 {
                break;
            }
            if skip >= chunk.len() {
                skip -= chunk.len();
                continue;
            }
            let take = want.min(chunk.len() - skip);
            out.push(chunk.slice(skip..skip + take));
            skip = 0;
            want -= take;
        }
        out
    }

    /// All bytes in one slice; copies only if there are several chunks.
    #[must_use]
    pub fn contiguous(&self) -> Bytes {
        if self.chunks.len() <= 1 {
            return self.chunks.first().cloned().unwrap_or_default();
        }
        let mut all = BytesMut::with_capacity(self.len);
        for chunk in &self.chunks {
            all.extend_from_slice(chunk);
        }
        all.freeze()
    }
}

impl From<Bytes> for Payload {
    fn from(chunk: Bytes) -> Self {
        let mut payload = Self::new();
        payload.push(chunk);
        payload
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from(Bytes::from(bytes))
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let crc = self.chunks.iter().fold(0, |crc, chunk| crc32c::crc32c_append(crc, chunk));
        write!(f, "Payload({} bytes, crc32c {crc:#010x})", self.len)
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.contiguous() == other.contiguous()
    }
}

impl Eq for Payload {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_across_chunks_share_memory() {
        let first = Bytes::from_static(b"abcd");
        let second = Bytes::from_static(b"efgh");
        let mut payload = Payload::from(first.clone());
        payload.push(second);
        let cut = payload.slice(2, 4);
        assert_eq!(cut.contiguous().as_ref(), b"cdef");
        assert_eq!(cut.chunks()[0].as_ptr(), first[2..].as_ptr());
        assert_eq!(payload.slice(7, 9).contiguous().as_ref(), b"h");
        assert!(payload.slice(8, 1).is_empty());
    }
}
