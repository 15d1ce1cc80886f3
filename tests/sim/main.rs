//! The engine in a simulated world: a model initiator, model targets, links that fail, one seed, virtual time.
//!
//! `cargo test --test sim` runs the seeds that ever failed, a few thousand others, each mutant of the engine's rules, and
//! the coverage table. `cargo test --release --test sim -- --seeds 300000` runs that many seeds on all cores;
//! `-- --seed 17 --trace` runs one and tells everything that happens in it.
//!
//! A seed draws a scenario (`scenario`) and the world (`world`) plays it. `target` is the model target, `initiator` the
//! model initiator, `net` the links. `oracle` judges what blocks hold, `conditions` what the initiator is told,
//! `checker` every PDU against the conformance list; a broken promise is a panic that begins with its name.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a peer that meets any other PDU fails the test")]
#![expect(clippy::print_stdout, reason = "a runner reports to its terminal")]

mod checker;
mod claims;
mod conditions;
mod coverage;
mod cut;
mod hedging;
mod initiator;
mod inventory;
mod kernel;
mod lines;
mod net;
mod oracle;
mod orders;
mod outliving;
mod random;
mod runner;
mod scenario;
mod target;
mod twins;
mod world;

fn main() {
    runner::main();
}
