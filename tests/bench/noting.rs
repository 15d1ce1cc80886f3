//! What metrics cost on the data path: the time that Braid's processors spend per command, and how much of it goes into
//! taking note of the command.
//!
//! The first is that of a Braid under load over two paths. The second is measured by itself: what a session does for its
//! metrics when a command completes, and the look at the engine that ends a turn, here one for each command, though under
//! load a turn has several. So the share is an upper bound.

use crate::child::free_address;
use crate::initiator::Workload;
use crate::report::quartiles;
use crate::target::{self, Target};
use crate::{braid, scripted, workload};
use ::braid::metrics::{Metrics, Terms};
use ::braid::session::{Notice, PathId, Session};
use anyhow::Result;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATHS: usize = 2;
/// Commands noted in one measurement.
const NOTED: u32 = 100_000;

const LOADS: [Workload; 4] = [
    workload("4 KiB random read, depth 1", false, true, 4, 1),
    workload("4 KiB random read, depth 32", false, true, 4, 32),
    workload("4 KiB random write, depth 32", true, true, 4, 32),
    workload("64 KiB random read, depth 8", false, true, 64, 8),
];

/// Measures both in turn, and prints what came of it.
pub(crate) fn measure(rounds: usize, quick: bool) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let portals = (0..PATHS).map(|_| free_address()).collect::<Result<Vec<_>>>()?;
    let target = Target::start(target::Kind::Lab, &portals, dir.path(), None)?;
    let mut way = braid(&target, PATHS, dir.path())?;
    let mut session = way.connect(&target)?;
    let duration = Duration::from_millis(if quick { 300 } else { 1500 });
    let mut commands = LOADS.map(|load| (load, Vec::new()));
    let mut notes = Vec::new();
    for round in 0..rounds {
        eprintln!("round {} of {rounds} ...", round + 1);
        for (load, times) in &mut commands {
            let before = way.cpu_time()?;
            let bytes = session.run(*load, duration)?.bytes;
            let used = way.cpu_time()? - before;
            times.push(used.as_secs_f64() * 1e9 * f64::from(load.bytes) / bytes as f64);
            notes.push(note());
        }
    }
    let [_, note, _] = quartiles(notes);
    println!(
        "\n{rounds} rounds of {duration:.2?} each, medians. Taking note of a command: {note:.0} ns.\n\n\
         | workload | Braid's processors, ns per command | taking note of it |\n|---|---:|---:|"
    );
    for (load, times) in commands {
        let [_, time, _] = quartiles(times);
        println!("| {} | {time:.0} | {:.2} % |", load.name, 100.0 * note / time);
    }
    Ok(())
}

/// Nanoseconds that a session takes to note a command and to look at the engine once.
fn note() -> f64 {
    let mut plan = scripted::plan();
    plan.paths.resize(PATHS, plan.paths[0].clone());
    let names = ["a", "b"];
    let (fanout, barriers, fence) = (plan.fanout, plan.barriers, plan.fence);
    let terms = Terms { fanout, barriers, fence, memory_budget: plan.memory_budget };
    let metrics = Arc::new(Metrics::new());
    metrics.declare(target::NAME, names);
    let mut series = metrics.session(target::NAME, names, &terms);
    let began = Instant::now();
    let engine = Session::new(plan, began);
    for number in 0..NOTED {
        let took = Duration::from_micros(u64::from(number % 1000));
        series.note(black_box(&Notice::Completed { path: PathId(0), read: 4096, written: 0, took }));
        // The engine needs the time in any case.
        black_box(series.look(&engine, began + Duration::from_micros(u64::from(number) * 10)));
        for path in (0..PATHS).map(PathId) {
            series.in_flight(path, usize::try_from(engine.in_flight(path)).unwrap_or(usize::MAX));
        }
    }
    began.elapsed().as_secs_f64() * 1e9 / f64::from(NOTED)
}
