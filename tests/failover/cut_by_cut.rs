//! `cargo bench --bench failover`: what a lost path costs at the initiator.
//!
//! A real target behind links of their own (network namespaces, veth, the kernel's TCP; needs root on a Debian-like system), Braid in front, and a
//! steady load of small operations that overlap and are judged block by block. One link after the other is cut under that
//! load, again and again; what counts is the longest time between two completions, of whichever commands ([`gaps`]). All
//! configurations that are named run one after the other, each on a fresh target and a fresh Braid. What is undisturbed is
//! measured too, before each cut: on a machine with other work, read the one against the other.
//!
//! # Region
//! A newer write that overlaps one caught on a silent path waits until nothing of that can run any more, often until the path
//! is given up after two seconds. With 4 KiB operations all over the disk of 2 GiB, which is sparse and need not be
//! written first, such writes are rare: what is measured is how soon everything else goes on. `--region 64` keeps the same load
//! within 64 MiB, as a small and hot part of a disk would be: then newer writes soon meet what is caught, and every slot of
//! the load may end up waiting for the end of the path. Both are worth measuring, side by side; state the region with the
//! figures (the report does).
//!
//! `--calm` does what must not cost a path: it counts connections lost, of which there should be none ([`calm`]). `--soak MINUTES` lets
//! everything happen at random, and watches Braid's memory ([`soak`]).
//!
//! The fixtures are those of the interop tests; LIO's disk is the memory of its guest, which over a file of the host pauses
//! for a quarter of a second to write back. Errors at the initiator and wrong blocks end it with status 1; times never do.

#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a program that measures time and prints, and whose slips end only itself"
)]

#[expect(dead_code, reason = "the interop tests use the rest")]
#[path = "../interop/braid.rs"]
mod braid;
mod calm;
mod cuts;
mod gaps;
mod ground;
#[expect(dead_code, reason = "the interop tests use the rest")]
#[path = "../interop/lio.rs"]
mod lio;
#[expect(dead_code, reason = "the interop tests use the rest")]
#[path = "../interop/net.rs"]
mod net;
#[expect(dead_code, reason = "the interop tests use the rest")]
#[path = "../interop/process.rs"]
mod process;
#[expect(dead_code, reason = "the interop tests use the rest")]
#[path = "../interop/setup.rs"]
mod setup;
mod soak;
#[path = "../interop/steady.rs"]
mod steady;
#[expect(dead_code, reason = "the interop tests use the rest")]
#[path = "../interop/target.rs"]
mod target;
#[path = "../interop/trouble.rs"]
mod trouble;
#[expect(dead_code, reason = "the interop tests use the rest")]
#[path = "../interop/uml.rs"]
mod uml;
#[expect(dead_code, reason = "the interop tests use the rest")]
#[path = "../interop/wait.rs"]
mod wait;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::cuts::How;
use crate::ground::{DISK, Kind, Mode, Plan, Work};

/// What a lost path costs at the initiator.
#[derive(Parser)]
struct Args {
    /// Three cuts instead of twenty.
    #[arg(long)]
    quick: bool,
    /// Targets, with commas between.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "tgt")]
    kind: Vec<Kind>,
    /// How the initiator's session is fanned out.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "sessions,mcs")]
    mode: Vec<Mode>,
    /// Numbers of links.
    #[arg(long, value_delimiter = ',', default_value = "2")]
    paths: Vec<u8>,
    /// What happens to them.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "reset,drop")]
    how: Vec<How>,
    /// Cuts per configuration.
    #[arg(long)]
    cuts: Option<usize>,
    /// Seconds for which a link stays cut at least; longer while commands are stuck.
    #[arg(long, default_value_t = 3)]
    down: u64,
    /// Operations of 4 KiB under way.
    #[arg(long, default_value_t = 8)]
    depth: usize,
    /// Of a hundred operations, how many read; the rest writes.
    #[arg(long, default_value_t = 30)]
    reads: u8,
    /// MiB of the disk that are used, of which there are as many by default: the less, the more operations meet each other, and
    /// those that wait for a fence.
    #[arg(long, default_value_t = DISK >> 20)]
    region: u64,
    /// What only looks like a dead path, for so many minutes per configuration.
    #[arg(long, value_name = "MINUTES", num_args = 0..=1, default_missing_value = "2", conflicts_with = "soak")]
    calm: Option<f64>,
    /// Everything at random for so many minutes per configuration.
    #[arg(long, value_name = "MINUTES")]
    soak: Option<f64>,
    /// Of what happens at random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let work = Work { depth: args.depth, reads: args.reads, size: (4096, 4096), region: args.region << 20 };
    let mut plans = Vec::new();
    for kind in &args.kind {
        for mode in &args.mode {
            if !kind.offers(*mode) {
                eprintln!("{} has no {}: left out", kind.name(), mode.name());
                continue;
            }
            for links in &args.paths {
                plans.push(Plan { kind: *kind, mode: *mode, links: usize::from(*links), work });
            }
        }
    }
    let well = match (args.calm, args.soak) {
        (Some(minutes), _) => calm::run(&plans, minutes)?,
        (None, Some(minutes)) => soak::run(&plans, minutes, args.seed)?,
        (None, None) => {
            let cuts = args.cuts.unwrap_or(if args.quick { 3 } else { 20 });
            cuts::run(&plans, &args.how, cuts, args.down)?
        }
    };
    let load = std::fs::read_to_string("/proc/loadavg")?;
    println!(
        "\nLoad average at the end (1, 5, 15 minutes): {}",
        load.split(' ').take(3).collect::<Vec<_>>().join(" ")
    );
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
