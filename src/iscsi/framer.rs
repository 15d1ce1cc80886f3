//! Received bytes in, PDUs out.
//!
//! The driver reads from its socket into [`Framer::buffer`], then takes PDUs with [`Framer::next_pdu`] until there are
//! none, then reads again. Payload is never copied: a data segment is split off the buffer it was received into, and one
//! that began in an earlier buffer becomes a [`Payload`] of several slices. Headers, AHSs and digests are copied out.
//!
//! What arrives can be anything; nothing here panics on it. Lengths are checked as soon as the 48 header bytes are there
//! (R143), so that the framer never holds more than one data segment within the limit and two receive buffers. Boundaries are
//! trusted only as long as headers can be: a bad header digest, or a length beyond the limit, ends the stream (R176); a bad
//! data digest (R177) or a PDU with impossible content costs that PDU only.
//!
//! The receive buffer's size follows the traffic between 16 KiB and 256 KiB: four times the longest read that the buffer
//! before it took. Two buffers take turns as long as the payload in them is dropped in time, else new ones are made. A row
//! of short reads with nothing pending brings a large buffer back to the small one, so that a quiet connection costs
//! little; [`Framer::release`] does so at once.

use super::pdu::{AHS_MAX, Ahs, BHS_LEN, ahs_len, data_len, opcode, opcode_of, padding, reject};
use super::{FrameError, Payload, Pdu, WireError};
use bytes::{Buf, BytesMut};
use crc32c::{crc32c, crc32c_append};

/// Smallest receive buffer, in bytes.
const BUFFER_MIN: usize = 16 * 1024;
/// Largest receive buffer, in bytes.
const BUFFER_MAX: usize = 256 * 1024;
/// Less spare room than this, in bytes, is not worth a read.
const SPARE_MIN: usize = 4 * 1024;
/// After so many short reads in a row a large buffer is given back.
const QUIET_READS: u32 = 32;
/// Length of a digest, in bytes.
const DIGEST_LEN: usize = 4;

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

impl Default for FramerLimits {
    /// The limits of the login phase: 8192 bytes, no digests (R20, R65).
    fn default() -> Self {
        Self { max_data: 8192, header_digest: false, data_digest: false }
    }
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
    /// Received and not yet taken. Between calls of [`Framer::next_pdu`] that found nothing: less than one header with
    /// AHS and digest, or less than the rest of `segment`.
    buffer: BytesMut,
    /// The receive buffer before this one, empty: used again once the payload in it is gone.
    retired: BytesMut,
    /// The PDU whose header has been taken and whose data segment has not.
    segment: Option<Segment>,
    /// Header of the PDU that was found last.
    latest: ([u8; BHS_LEN], Ahs),
    /// Set once the stream is lost.
    lost: Option<WireError>,
    reads: Reads,
}

/// A PDU that waits for its data segment.
#[derive(Debug)]
struct Segment {
    header: [u8; BHS_LEN],
    ahs: Ahs,
    /// Slices of earlier receive buffers.
    payload: Payload,
    /// Bytes of data still to come, padding and digest not counted.
    missing: usize,
    /// Padding bytes after the data.
    padding: usize,
    /// Whether a digest follows.
    digest: bool,
}

/// What reads have brought: decides the size of the next receive buffer.
#[derive(Debug, Default)]
struct Reads {
    /// Spare room offered to the latest read.
    offered: usize,
    /// Longest read into the present buffer.
    longest: usize,
    /// Short reads in a row.
    quiet: u32,
}

impl Reads {
    /// Counts the read that left `spare` of the room offered.
    fn note(&mut self, spare: usize) {
        let read = self.offered.saturating_sub(spare);
        if read == 0 {
            return;
        }
        self.longest = self.longest.max(read);
        self.quiet = if read > BUFFER_MIN / 4 { 0 } else { self.quiet.saturating_add(1) };
    }

    /// Whether only short reads have come for a while.
    const fn is_quiet(&self) -> bool {
        self.quiet >= QUIET_READS
    }

    /// Size of the next receive buffer.
    fn next_size(&mut self) -> usize {
        let longest = if self.is_quiet() { 0 } else { self.longest };
        *self = Self::default();
        (longest * 4).next_power_of_two().clamp(BUFFER_MIN, BUFFER_MAX)
    }
}

impl Framer {
    /// A framer at the start of a connection: login limits (8192 bytes, no digests).
    #[must_use]
    pub fn new(receiver: Receiver) -> Self {
        Self {
            receiver,
            limits: FramerLimits::default(),
            buffer: BytesMut::new(),
            retired: BytesMut::new(),
            segment: None,
            latest: ([0; BHS_LEN], Ahs::new()),
            lost: None,
            reads: Reads::default(),
        }
    }

    /// Takes other limits, from the next header on.
    pub fn set_limits(&mut self, limits: FramerLimits) {
        self.limits = limits;
    }

    /// Where the next received bytes go: append to it, or read into its spare capacity, which is never below 4 KiB. Take
    /// nothing out of it. Call [`Framer::next_pdu`] until it finds nothing before the next read; what is received after
    /// a fatal error is dropped.
    pub fn buffer(&mut self) -> &mut BytesMut {
        if self.lost.is_some() {
            self.buffer.clear();
        }
        let spare = self.buffer.capacity() - self.buffer.len();
        self.reads.note(spare);
        let quiet = self.reads.is_quiet() && self.buffer.is_empty() && self.segment.is_none();
        if spare < SPARE_MIN || (quiet && spare > BUFFER_MIN) {
            self.renew();
        }
        self.reads.offered = self.buffer.capacity() - self.buffer.len();
        &mut self.buffer
    }

    /// Gives back the receive buffers if nothing is in it: for a connection that is about to wait for long. The next
    /// [`Framer::buffer`] makes a new one.
    pub fn release(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
            self.retired = BytesMut::new();
            self.reads = Reads::default();
        }
    }

    /// Goes on in an empty buffer. Payload received so far moves to its segment, uncopied; what is left to copy is a
    /// piece of a header, or of padding and digest.
    fn renew(&mut self) {
        if let Some(segment) = &mut self.segment {
            segment.take_data(&mut self.buffer);
        }
        let quiet = self.reads.is_quiet();
        let size = self.reads.next_size().max(self.buffer.len() + SPARE_MIN);
        if quiet {
            self.retired = BytesMut::new();
        } else if self.buffer.try_reclaim(size - self.buffer.len()) {
            return;
        }
        let mut next = std::mem::take(&mut self.retired);
        if !next.try_reclaim(size) {
            next = BytesMut::with_capacity(size);
        }
        next.extend_from_slice(&self.buffer);
        std::mem::swap(&mut self.buffer, &mut next);
        if !quiet {
            next.clear();
            self.retired = next;
        }
    }

    /// The next whole PDU, or none if more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError::Fatal`] ends the stream, and is all that comes from then on; after [`FrameError::Rejectable`] the
    /// next call goes on with the next PDU.
    pub fn next_pdu(&mut self) -> Result<Option<Pdu>, FrameError> {
        if self.segment.is_none() {
            if let Some(error) = self.lost {
                return Err(FrameError::Fatal(error));
            }
            self.segment = self.take_header().map_err(|error| {
                self.lost = Some(error);
                FrameError::Fatal(error)
            })?;
        }
        let Some(segment) = self.segment.take_if(|segment| segment.rest() <= self.buffer.len()) else {
            return Ok(None);
        };
        self.latest = (segment.header, segment.ahs.clone());
        segment.finish(&mut self.buffer, self.receiver).map(Some)
    }

    /// Basic header segment and additional ones of the latest PDU that [`Framer::next_pdu`] found, rejectable or not, as received.
    #[must_use]
    pub fn latest_header(&self) -> (&[u8; BHS_LEN], &[u8]) {
        (&self.latest.0, &self.latest.1)
    }

    /// Takes basic header, AHS and header digest out of the buffer once all of them are there.
    fn take_header(&mut self) -> Result<Option<Segment>, WireError> {
        let Some(header) = self.buffer.first_chunk::<BHS_LEN>() else {
            return Ok(None);
        };
        let header = *header;
        let length = data_len(&header);
        if length > self.limits.max_data {
            return Err(WireError::DataTooLong { length, limit: self.limits.max_data });
        }
        if ahs_len(&header) > AHS_MAX {
            return Err(WireError::Ahs);
        }
        let head_len = BHS_LEN + ahs_len(&header);
        let digest_len = if self.limits.header_digest { DIGEST_LEN } else { 0 };
        let Some((head, tail)) = self.buffer.split_at_checked(head_len) else {
            return Ok(None);
        };
        let Some(digest) = tail.get(..digest_len) else {
            return Ok(None);
        };
        if self.limits.header_digest && digest != crc32c(head).to_le_bytes() {
            return Err(WireError::HeaderDigest); // R176
        }
        let segment = Segment {
            header,
            ahs: head.get(BHS_LEN..).map(Ahs::from_slice).unwrap_or_default(),
            payload: Payload::new(),
            missing: length,
            padding: padding(length),
            digest: self.limits.data_digest && length > 0,
        };
        self.buffer.advance(head_len + digest_len);
        Ok(Some(segment))
    }
}

impl Segment {
    /// Bytes to come: data, padding, digest.
    const fn rest(&self) -> usize {
        self.missing + self.padding + if self.digest { DIGEST_LEN } else { 0 }
    }

    /// Splits off what the buffer holds of the data.
    fn take_data(&mut self, buffer: &mut BytesMut) {
        let take = self.missing.min(buffer.len());
        if take > 0 {
            self.payload.push(buffer.split_to(take).freeze());
            self.missing -= take;
        }
    }

    /// Takes the rest out of the buffer, which holds all of it, and makes the PDU.
    fn finish(mut self, buffer: &mut BytesMut, receiver: Receiver) -> Result<Pdu, FrameError> {
        self.take_data(buffer);
        let intact = !self.digest || self.digest_matches(buffer);
        buffer.advance(self.rest());
        let parsed = if intact {
            Pdu::parse(receiver, &self.header, &self.ahs, self.payload)
        } else {
            Err(WireError::DataDigest) // R177
        };
        let header = self.header;
        parsed.map_err(|error| FrameError::Rejectable {
            header,
            reason: reject_reason(&header, error),
            error,
        })
    }

    /// Whether the digest after data and padding is theirs (R65).
    fn digest_matches(&self, buffer: &[u8]) -> bool {
        let Some((pad, rest)) = buffer.split_at_checked(self.padding) else {
            return false;
        };
        let data = self.payload.chunks().iter().fold(0, |crc, chunk| crc32c_append(crc, chunk));
        rest.first_chunk() == Some(&crc32c_append(data, pad).to_le_bytes())
    }
}

/// Reject reason for a PDU that does not parse (section 11.17.1).
fn reject_reason(header: &[u8; BHS_LEN], error: WireError) -> u8 {
    match error {
        WireError::DataDigest => reject::DATA_DIGEST,
        WireError::Opcode(_) if opcode::receiver(opcode_of(header)).is_none() => reject::NOT_SUPPORTED,
        WireError::Opcode(_) => reject::PROTOCOL_ERROR,
        WireError::DataTooLong { .. }
        | WireError::Ahs
        | WireError::Field(_)
        | WireError::HeaderDigest
        | WireError::Text(_) => reject::INVALID_FIELD,
    }
}

#[cfg(test)]
mod tests;
