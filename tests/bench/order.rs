//! What keeping order costs: Braid against itself with order keeping switched off, and flushes against the direct way.
//!
//! - Random I/O that hardly ever overlaps, at depth 32 over four paths, on loopback: throughput with order kept, relative to
//!   the same engine with nothing waiting for anything.
//! - Writes with a SYNCHRONIZE CACHE after every sixteen, over a long way ([`delay`](crate::delay)): what a flush with its
//!   writes takes through Braid more than direct, in round trips. Once sent in bursts, the flush at once behind its
//!   writes, and the next burst when all is answered; once as an endless stream.

use crate::child::{Process, free_address};
use crate::initiator::Workload;
use crate::placement::{Placement, Placer};
use crate::report::{Report, Row, Sample, quartiles};
use crate::target::{self, Target};
use crate::{Way, apart, braid_command, workload};
use anyhow::{Context, Result};
use std::env::current_exe;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PATHS: usize = 4;
/// Half a round trip over the long way.
const ONE_WAY: Duration = Duration::from_millis(2);
/// Writes between two flushes.
const WRITES: usize = 16;

const RANDOM: [Workload; 3] = [
    apart(workload("4 KiB random read, depth 32", false, true, 4, 32)),
    apart(workload("4 KiB random write, depth 32", true, true, 4, 32)),
    apart(workload("16 KiB random write, depth 32", true, true, 16, 32)),
];

const fn flushed(name: &'static str, depth: usize, burst: bool) -> Workload {
    Workload {
        name,
        write: true,
        random: true,
        bytes: 4096,
        depth,
        placement: Placement::Free,
        flush_every: WRITES,
        burst,
    }
}

const FLUSHED: [Workload; 3] = [
    flushed("bursts of 16 writes and a flush", WRITES + 1, true),
    flushed("stream, a flush after every 16 writes, depth 17", WRITES + 1, false),
    flushed("stream, a flush after every 16 writes, depth 32", 32, false),
];

/// One command there and back.
const ROUND_TRIP: Workload = workload("4 KiB random read, depth 1", false, true, 4, 1);

/// Measures both, and prints what came of it.
pub(crate) fn measure(rounds: usize, quick: bool) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let portals = (0..PATHS).map(|_| free_address()).collect::<Result<Vec<_>>>()?;
    let target = Target::start(target::Kind::Lab, &portals, dir.path(), None)?;
    let duration = Duration::from_millis(if quick { 300 } else { 1500 });
    println!("\n{rounds} rounds of {duration:.2?} each: medians, ratios with their quartiles");
    println!("{}", random(&target, rounds, duration, dir.path())?);
    println!("{}", flushes(&target, rounds, duration, dir.path())?);
    Ok(())
}

/// Order kept against order off.
fn random(target: &Target, rounds: usize, duration: Duration, dir: &Path) -> Result<String> {
    let mut ways =
        [braid("order off", &target.portals, true, dir)?, braid("order kept", &target.portals, false, dir)?];
    let boxes = ways.iter().filter_map(|way| way.process.as_ref().map(Process::id)).collect();
    let placer = Placer::new(target.id(), boxes)?;
    let row = |workload: &Workload| Row { workload: *workload, rounds: Vec::new() };
    let mut report = Report {
        boxes: ways.iter().map(|way| way.name.clone()).collect(),
        reference: 0,
        rows: RANDOM.iter().map(row).collect(),
    };
    for round in 0..rounds {
        eprintln!("random I/O, round {} of {rounds} ...", round + 1);
        placer.place(Placement::Free)?;
        let mut sessions = ways.iter_mut().map(|way| way.connect(target)).collect::<Result<Vec<_>>>()?;
        for row in &mut report.rows {
            placer.place(row.workload.placement)?;
            let mut samples = [None, None];
            for of in [round % 2, (round + 1) % 2] {
                let measured = sessions[of].run(row.workload, duration)?;
                samples[of] = Some(Sample { measured, cpu: Duration::ZERO });
            }
            row.rounds.push(samples.into_iter().collect::<Option<_>>().context("both are measured")?);
        }
        drop(sessions);
        ways.iter_mut().try_for_each(|way| way.wait_for_connections(0))?;
    }
    placer.place(Placement::Free)?;
    Ok(report.throughput())
}

/// Flushes over the long way: direct, and through Braid.
fn flushes(target: &Target, rounds: usize, duration: Duration, dir: &Path) -> Result<String> {
    let portals = (0..PATHS).map(|_| free_address()).collect::<Result<Vec<_>>>()?;
    let mut command = Command::new(current_exe()?);
    command.args(["delay", &ONE_WAY.as_micros().to_string(), "--listen"]);
    command.args(portals.iter().map(ToString::to_string)).arg("--to");
    command.args(target.portals.iter().map(ToString::to_string));
    let mut delay = Process::start("delay", dir, command)?;
    for portal in &portals {
        delay.wait_for_listener(*portal)?;
    }
    let first = portals[0];
    let direct = Way { name: "direct".to_owned(), portal: first, process: None, paths: None };
    let mut ways = [direct, braid("braid", &portals, false, dir)?];
    let mut sessions = ways.iter_mut().map(|way| way.connect(target)).collect::<Result<Vec<_>>>()?;
    let mut figures = [const { Vec::new() }; FLUSHED.len()];
    let mut round_trips = Vec::new();
    for round in 0..rounds {
        eprintln!("flushes, round {} of {rounds} ...", round + 1);
        let round_trip = sessions[0].run(ROUND_TRIP, duration / 4)?.median.as_secs_f64();
        round_trips.push(round_trip * 1e3);
        for (workload, figures) in FLUSHED.iter().zip(&mut figures) {
            let mut cycles = [0.0; 2];
            for (session, cycle) in sessions.iter_mut().zip(&mut cycles) {
                let measured = session.run(*workload, duration)?;
                let commands = measured.bytes as f64 / f64::from(workload.bytes);
                *cycle = measured.elapsed.as_secs_f64() / commands * (WRITES + 1) as f64 / round_trip;
            }
            figures.push(cycles);
        }
    }
    let [_, round_trip, _] = quartiles(round_trips);
    let mut text = format!(
        "\n### Flushes over a long way, {PATHS} paths\n\nA round trip takes {round_trip:.2} ms; figures are round trips for 16 writes and their flush.\n\n\
        | workload | direct | braid | braid costs |\n|---|---:|---:|---:|\n"
    );
    for (workload, figures) in FLUSHED.iter().zip(&figures) {
        let of = |figure: &dyn Fn(&[f64; 2]) -> f64| quartiles(figures.iter().map(figure).collect());
        let ([_, direct, _], [_, braid, _]) = (of(&|cycles| cycles[0]), of(&|cycles| cycles[1]));
        let [low, more, high] = of(&|cycles| cycles[1] - cycles[0]);
        let name = workload.name;
        text += &format!("| {name} | {direct:.2} | {braid:.2} | **{more:+.2}** {low:+.2} to {high:+.2} |\n");
    }
    Ok(text)
}

/// A Braid over all these portals, this program being the Braid, so that its order keeping can be switched off.
fn braid(name: &str, portals: &[SocketAddr], unordered: bool, dir: &Path) -> Result<Way> {
    let mut command = Command::new(current_exe()?);
    command.arg("braid");
    if unordered {
        command.arg("--unordered");
    }
    command.arg("--");
    braid_command(name, command, portals, dir)
}
