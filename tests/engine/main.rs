//! The engine by script: a test feeds PDUs and asserts what comes out, one behaviour at a time.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a peer that meets any other PDU fails the test")]

#[path = "../sim/checker/mod.rs"]
#[expect(dead_code, reason = "the simulator uses, and tries, the rest of it")]
mod checker;
mod scripted;
