//! Health and choice of paths, as pure algorithms: no I/O, no clock, no randomness of their own.
//!
//! - [`select`]: which path takes the next command.
//! - [`backoff`]: when a lost path is tried again.
//! - [`flaps`]: whether a path comes and goes too often to be relied on.
//! - [`health`]: whether a connection is suspect, or dead.
//! - [`late`]: when a read takes longer than its path's reads usually do.
//! - [`state`]: the states of a path, and which may follow which.

pub mod backoff;
pub mod flaps;
pub mod health;
pub mod late;
pub mod select;
pub mod state;
