//! Braid: a transparent multipath proxy for iSCSI.

pub mod config;
pub mod iscsi;
pub mod login;
pub mod path;
pub mod proxy;
pub mod scsi;
pub mod session;
