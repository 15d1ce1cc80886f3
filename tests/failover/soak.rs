//! Everything that can happen, at random, for a long time: no error, no wrong block, and memory that does not grow.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::gaps::rule;
use crate::ground::{Ground, HEADS, Plan, Work};
use crate::trouble::{Dice, Trouble, pause};

/// Operations of all lengths, with more of them under way than in the other measurements.
const SIZES: (u32, u32) = (4096, 256 << 10);
const DEPTH: usize = 32;
/// How long a trouble lasts, and how long all is well after it, in milliseconds: at most.
const LONGEST_TROUBLE: u64 = 8000;
const LONGEST_PEACE: u64 = 4000;
/// How often memory is looked at, in milliseconds.
const LOOK: u64 = 250;

/// Braid's memory, in MiB.
#[derive(Clone, Copy)]
struct Memory {
    start: f64,
    most: f64,
    last: f64,
}

impl Memory {
    fn look(&mut self, ground: &Ground) {
        self.last = mebibytes(ground);
        self.most = self.most.max(self.last);
    }
}

fn mebibytes(ground: &Ground) -> f64 {
    ground.resident() as f64 / f64::from(1 << 20)
}

/// Runs every configuration; whether nothing went wrong at the initiator.
pub(crate) fn run(plans: &[Plan], minutes: f64, seed: u64) -> Result<bool> {
    let mut rows = Vec::new();
    let mut well = true;
    for plan in plans {
        let work = Work { depth: DEPTH, size: SIZES, ..plan.work };
        let mut ground = Ground::new(&Plan { work, ..*plan }, plan.net());
        ground.until_carrying()?;
        let start = mebibytes(&ground);
        let mut memory = Memory { start, most: start, last: start };
        let troubles = trouble(&mut ground, plan, minutes, seed, &mut memory)?;
        let (end, operations) = (ground.metrics(), ground.load().progress().sample().operations);
        let harm = ground.finish()?;
        let Memory { start, most, last } = memory;
        rows.push(format!(
            "{}| {minutes} | {troubles} | {operations} | {} | {} | {start:.1} | {most:.1} | {last:.1} | {} | {} | {} |",
            plan.cells(),
            end.losses(),
            end.sum("braid_path_commands_moved_total", &[]),
            harm.errors,
            harm.wrong,
            if harm.well { "yes" } else { "**no**" }
        ));
        well &= harm.well;
    }
    let heads = format!(
        "{HEADS}| minutes | troubles | operations | connections lost | moved | MiB at start | most | at the end | errors | wrong \
         blocks | verified |"
    );
    println!("\nSeed {seed}\n\n{heads}\n{}\n{}", rule(heads.trim_end_matches('|')), rows.join("\n"));
    Ok(well)
}

/// Trouble after trouble until the time is over and all is well again; their number.
fn trouble(ground: &mut Ground, plan: &Plan, minutes: f64, seed: u64, memory: &mut Memory) -> Result<usize> {
    let (mut dice, began) = (Dice::new(seed), Instant::now());
    let (end, mut minute) = (Duration::from_secs_f64(minutes * 60.0), 0);
    let mut count = 0;
    while began.elapsed() < end {
        let trouble = Trouble::random(&mut dice, plan.links, plan.kind.is_process());
        ground.begin(trouble);
        watch(ground, dice.below(LONGEST_TROUBLE), memory);
        ground.end(trouble);
        let before = ground.load().progress().sample().operations;
        watch(ground, dice.below(LONGEST_PEACE), memory);
        ground.until(&format!("the load goes on after {trouble:?}"), || {
            ground.load().progress().sample().operations > before
        })?;
        count += 1;
        if began.elapsed().as_secs() / 60 >= minute {
            minute += 1;
            let sample = ground.load().progress().sample();
            eprintln!("{:.0?}: {count} troubles, {:.1} MiB, {sample:?}", began.elapsed(), memory.last);
        }
    }
    ground.until_carrying()?;
    memory.look(ground);
    Ok(count)
}

/// Lets time pass.
fn watch(ground: &Ground, milliseconds: u64, memory: &mut Memory) {
    let mut left = milliseconds;
    while left > 0 {
        let step = left.min(LOOK);
        pause(step);
        memory.look(ground);
        left -= step;
    }
}
