//! The multipath engine of one downstream session: a pure state machine.
//!
//! # Contract
//! The driver owns sockets and the clock. It calls one `handle_*` method at a time with the current time (which never
//! goes back), then [`Session::poll`] until it returns none, then waits for the next event or for
//! [`Session::next_deadline`]. Outputs are done in the order given: a PDU for a connection is queued behind those
//! already queued for it.
//!
//! Connections are named by [`ConnId`], given out by the engine and never used twice, so that events of a connection
//! already given up are recognised and ignored.

pub mod api;

pub use api::*;
