//! The driver over real sockets, between the lab's target and an initiator that can misbehave.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a PDU that is not expected fails the test, whichever it is"
)]

mod access;
mod balancer;
mod cuts;
mod discover;
mod events;
mod explain;
mod lines;
mod malformed;
mod openapi;
mod operator;
mod recovery;
mod relay;
mod reload;
mod rig;
mod sessions;
