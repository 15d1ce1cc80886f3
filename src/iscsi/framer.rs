//! Received bytes in, PDUs out.

use super::{FrameError, Pdu};
use bytes::BytesMut;

/// What a framer accepts; changes when login ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FramerLimits {
    /// Longest data segment accepted, in bytes: this side's MaxRecvDataSegmentLength.
    pub max_data: usize,
    /// Whether headers are followed by a CRC32C.
    pub header_digest: bool,
    /// Whether data segments are followed by a CRC32C.
    pub data_digest: bool,
}

/// Which PDUs are legal on this connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Receiver {
    /// This side is the target: accepts initiator opcodes.
    Target,
    /// This side is the initiator: accepts target opcodes.
    Initiator,
}

/// Incremental parser of one connection's byte stream.
#[derive(Debug)]
pub struct Framer {
    receiver: Receiver,
    limits: FramerLimits,
}

impl Framer {
    /// A framer at the start of a connection: login limits (8192 bytes, no digests).
    #[must_use]
    pub fn new(receiver: Receiver) -> Self {
        todo!("{receiver:?}")
    }

    /// Takes other limits, from the next header on.
    pub fn set_limits(&mut self, limits: FramerLimits) {
        self.limits = limits;
    }

    /// Where the next received bytes go: read into its spare capacity, which is never empty.
    pub fn buffer(&mut self) -> &mut BytesMut {
        todo!("{:?}", self.receiver)
    }

    /// The next whole PDU, or none if more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError::Fatal`] ends the stream; after [`FrameError::Rejectable`] the next call goes on with the next PDU.
    pub fn next_pdu(&mut self) -> Result<Option<Pdu>, FrameError> {
        todo!()
    }
}
