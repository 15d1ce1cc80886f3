//! A RAM-disk iSCSI target: discovery, several portals, several sessions, several connections per session.
//!
//! [`core`] is the target as a state machine, to be driven by a simulator or by [`server`], which puts sockets around it.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use braid::lab::target::{RamTarget, TargetOptions};
//!
//! let target = RamTarget::start(TargetOptions::loopback(4)).await?;
//! println!("{:?}", target.addresses());
//! # Ok(())
//! # }
//! ```

pub mod core;
pub mod server;

pub use core::{ConnId, Disk, Options, SessionInfo};
pub use server::{Listen, RamTarget, TargetOptions};
