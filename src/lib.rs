//! Braid: a transparent multipath proxy for iSCSI.

pub mod admin;
pub mod cli;
pub mod config;
pub mod iscsi;
pub mod lab;
pub mod login;
pub mod metrics;
pub mod path;
pub mod proxy;
pub mod scsi;
pub mod session;
