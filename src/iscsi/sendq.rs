//! PDUs in, slices for a vectored write out.

use super::Pdu;
use std::io::IoSlice;

/// Encoded PDUs of one connection that wait to be written.
#[derive(Debug, Default)]
pub struct SendQueue {
    header_digest: bool,
    data_digest: bool,
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

    /// Encodes a PDU to the end of the queue; its payload is shared, not copied.
    pub fn push(&mut self, pdu: &Pdu) {
        todo!("{pdu:?}")
    }

    /// Bytes waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        todo!()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `slices` with the front of the queue and returns how many were filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        todo!("{}", slices.len())
    }

    /// Drops `written` bytes from the front.
    pub fn advance(&mut self, written: usize) {
        todo!("{written}")
    }
}
