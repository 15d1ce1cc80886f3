//! What a SCSI command means (SPC-5, SBC-4): pure functions over CDB and sense bytes.

pub mod cdb;
pub mod sense;

pub use cdb::{Class, Command, Extent};
pub use sense::Sense;
