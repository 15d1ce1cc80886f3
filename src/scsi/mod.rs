//! What SCSI bytes mean (SPC-5, SBC-4): pure functions over CDBs, parameter data and sense data.
//!
//! - [`cdb`]: what a command touches, what it must wait for, whether it may run twice.
//! - [`alua`]: through which ports a logical unit can be used, and how well.
//! - [`inquiry`]: the few commands Braid sends on its own, and who a logical unit is by what they answer.
//! - [`reservation`]: persistent reservations, asked for, answered and hidden.
//! - [`sense`]: status codes and sense data.
//!
//! Nothing here fails on odd or short input: it is understood as far as it goes, and what is unknown is treated with the
//! greatest caution.

pub mod alua;
pub mod cdb;
pub mod inquiry;
pub mod mode;
pub mod reservation;
pub mod sense;

pub use cdb::{Class, Command, Extent};
pub use inquiry::{Capacity, Identity, Inquiry};
pub use sense::Sense;
