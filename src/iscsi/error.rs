//! What can be wrong with received bytes.

/// Why bytes are not a PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// The opcode is unknown or belongs to the other role.
    #[error("opcode {0:#04x} is unknown or not for this side")]
    Opcode(u8),
    /// DataSegmentLength above what this side declared.
    #[error("data segment of {length} bytes, at most {limit} allowed")]
    DataTooLong {
        /// DataSegmentLength as received.
        length: usize,
        /// The limit in force.
        limit: usize,
    },
    /// TotalAHSLength above what any AHS of RFC 7143 needs, or an AHS that does not parse.
    #[error("bad additional header segment")]
    Ahs,
    /// A field holds a reserved or impossible value.
    #[error("field {0} has an impossible value")]
    Field(&'static str),
    /// The header digest does not match: boundaries can no longer be trusted.
    #[error("header digest mismatch")]
    HeaderDigest,
    /// The data digest does not match: this PDU's data is lost, boundaries are intact.
    #[error("data digest mismatch")]
    DataDigest,
    /// A text segment is malformed: no `=`, no terminating NUL, key too long, not UTF-8.
    #[error("malformed text: {0}")]
    Text(&'static str),
}

/// An error of the framer, by what can still be done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream is lost: close the connection (RFC 7143 section 7.8).
    #[error("connection must be closed: {0}")]
    Fatal(WireError),
    /// This PDU is bad but the next one can be read: answer with Reject and carry on (section 11.17).
    #[error("PDU rejected (reason {reason:#04x}): {error}")]
    Rejectable {
        /// The header complained of.
        header: [u8; 48],
        /// Reject reason.
        reason: u8,
        /// What is wrong.
        error: WireError,
    },
}
