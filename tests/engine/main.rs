//! The engine against a model target whose paths are cut at random, judged block by block.
//!
//! The world is a loop over one seeded generator: no sockets, no clock, no threads. The model initiator issues
//! overlapping reads, writes and flushes; what each read must return is fixed when it is issued, since conflicting
//! commands must behave as if they ran in CmdSN order. The model target reorders everything it may, keeps running
//! commands of lost connections (ghosts) until they are fenced, and judges nothing.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a peer that meets any other PDU fails the test")]

#[path = "../sim/checker/mod.rs"]
mod checker;
mod scripted;
mod target;
mod world;

use braid::session::{Fanout, FenceMethod};
use world::{Setup, World};

fn run(setup: Setup, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| World::new(setup, seed).run());
        assert!(outcome.is_ok(), "seed {seed} of {setup:?} failed");
    }
}

/// Nothing goes wrong.
const CALM: Setup = Setup {
    fanout: Fanout::Sessions,
    paths: 1,
    cuts: 0,
    functions: 0,
    errors: 0,
    leaves: false,
    fence: FenceMethod::Ordered,
};

#[test]
fn checkers_notice_what_is_broken() {
    checker::trials().into_iter().for_each(|(_, trial)| trial());
}

#[test]
fn one_path() {
    run(CALM, 0..100);
    run(Setup { functions: 6, errors: 6, ..CALM }, 0..100);
}

#[test]
fn four_sessions_without_cuts() {
    run(Setup { paths: 4, ..CALM }, 0..50);
    run(Setup { paths: 4, functions: 6, errors: 6, ..CALM }, 0..100);
}

#[test]
fn one_session_of_four_connections_without_cuts() {
    run(Setup { fanout: Fanout::Mcs, paths: 4, ..CALM }, 0..50);
    run(Setup { fanout: Fanout::Mcs, paths: 4, functions: 6, errors: 6, ..CALM }, 0..100);
}

#[test]
fn sessions_survive_cuts() {
    let setup = Setup { paths: 3, cuts: 6, fence: FenceMethod::Auto, ..CALM };
    run(setup, 0..200);
    run(Setup { functions: 6, errors: 6, ..setup }, 0..200);
    run(Setup { paths: 1, cuts: 3, functions: 3, errors: 3, ..setup }, 0..100);
}

#[test]
fn one_session_survives_cuts() {
    let setup = Setup { fanout: Fanout::Mcs, paths: 3, cuts: 6, ..CALM };
    run(setup, 0..200);
    run(Setup { functions: 6, errors: 6, ..setup }, 0..200);
}

#[test]
fn a_session_ends_at_any_moment() {
    let setup = Setup { paths: 3, cuts: 6, functions: 3, errors: 3, leaves: true, ..CALM };
    run(setup, 0..200);
    run(Setup { fanout: Fanout::Mcs, ..setup }, 0..200);
}
