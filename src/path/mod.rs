//! Health and choice of paths, as pure algorithms: no I/O, no clock, no randomness of their own.
//!
//! - [`select`]: which path takes the next command.
//! - [`backoff`]: when a lost path is tried again.
//! - [`health`]: whether a connection is suspect, or dead.

pub mod backoff;
pub mod health;
pub mod select;
