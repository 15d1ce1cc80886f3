//! The engine against an initiator and targets that do anything in any order: much of it right, some of it wrong, all of it
//! what the framer would let through. Whatever happens, its state stays whole, what it sends can be sent and goes nowhere
//! that is closed, its numbers go on without a break, what one event causes is bounded, and the session comes to its end.

mod initiator;
mod ops;
mod target;
mod world;

use arbitrary::Arbitrary;
use ops::{Op, Setup};
use std::collections::BTreeSet;
use world::World;

/// Most events of one input: the rest of a longer one is left away.
const MOST_OPS: usize = 400;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    setup: Setup,
    /// All goes well in the end.
    heals: bool,
    ops: Vec<Op<'a>>,
}

/// Runs one input.
pub fn run(bytes: &[u8]) {
    super::with_input(bytes, |input| drop(go(input)));
}

/// What an input meets of error recovery level 1.
pub fn meets(bytes: &[u8]) -> BTreeSet<&'static str> {
    let mut met = BTreeSet::new();
    super::with_input(bytes, |input| met = go(input));
    met
}

fn go(input: &Input<'_>) -> BTreeSet<&'static str> {
    let mut world = World::new(&input.setup);
    for op in input.ops.iter().take(MOST_OPS) {
        world.act(op);
    }
    if input.heals {
        world.heal();
    }
    world.end();
    world.initiator.met
}
