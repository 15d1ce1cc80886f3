//! iSCSI on the wire (RFC 7143): headers, PDUs, digests, text keys. Knows bytes, not sockets.
//!
//! - [`ids`] and [`serial`]: the small types every header is made of.
//! - [`payload`]: a data segment that is shared, never copied.
//! - [`pdu`]: one struct per PDU, parsed from and emitted to the 48-byte header.
//! - [`framer`]: received bytes in, PDUs out.
//! - [`quirk`]: what peers do besides, each by its name.
//! - [`sendq`]: PDUs in, slices for a vectored write out.
//! - [`text`]: `key=value` lists of login and text PDUs.
//! - [`show`]: any PDU printed in one line.

pub mod error;
pub mod framer;
pub mod ids;
pub mod payload;
pub mod pdu;
pub mod quirk;
pub mod sendq;
pub mod serial;
pub mod show;
pub mod text;

pub use error::{FrameError, WireError};
pub use framer::{Framer, FramerLimits, Receiver};
pub use ids::{Cid, Isid, Itt, Lun, Tsih, Ttt};
pub use payload::Payload;
pub use pdu::*;
pub use sendq::SendQueue;
pub use serial::{CmdSn, StatSn};

#[cfg(test)]
mod properties;
