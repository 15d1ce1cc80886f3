//! `cargo bench --bench relay`: direct, a plain TCP relay, and Braid, side by side in one run.
//!
//! A target with a portal per path, a relay in front of one portal, and a Braid in front of one, two and four run as
//! processes of their own. One session leads through each of them for the whole run. Every workload goes over all of them
//! in turn, round after round, each round starting with another one, so that what else happens on the machine hits all
//! alike. Ratios are taken within a round; what is printed are medians over the rounds, as Markdown.
//!
//! `--shaped` puts links of 1 Gbit/s (network namespaces, veth, tbf; needs root) between the target and everything else,
//! and shows what more links give over one.
//!
//! Nothing is asserted: it is a benchmark.

#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a program that measures time and prints, and whose slips end only itself"
)]

mod child;
mod initiator;
mod relay;
mod report;
mod shaped;
mod target;

use anyhow::{Context, Result, bail};
use child::{Process, free_address};
use clap::{Parser, Subcommand};
use initiator::{Initiator, Login, Workload};
use report::{Report, Row, Sample};
use std::env::current_exe;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use target::Target;

/// Direct, a plain TCP relay, and Braid, side by side.
#[derive(Parser)]
struct Args {
    /// Short rounds: under a minute in all, and less exact.
    #[arg(long)]
    quick: bool,
    /// Links of 1 Gbit/s instead of bare loopback; needs root.
    #[arg(long)]
    shaped: bool,
    /// Rounds per workload; 15, or 5 with --shaped, if not given.
    #[arg(long)]
    rounds: Option<usize>,
    /// Numbers of paths that Braid is run with, with commas between; without a number: not at all.
    #[arg(long, value_delimiter = ',', num_args = 0..=1)]
    braid: Option<Vec<u8>>,
    /// The network namespace of the target, its links being made already.
    #[arg(long, hide = true)]
    inside: Option<String>,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What a child process of the benchmark does.
#[derive(Subcommand)]
enum Role {
    /// Relays TCP connections.
    #[command(hide = true)]
    Relay { listen: SocketAddr, to: SocketAddr },
}

const fn workload(name: &'static str, write: bool, random: bool, kib: u32, depth: usize) -> Workload {
    Workload { name, write, random, bytes: kib << 10, depth }
}

const LOOPBACK: [Workload; 10] = [
    workload("4 KiB random read, depth 1", false, true, 4, 1),
    workload("4 KiB random write, depth 1", true, true, 4, 1),
    workload("4 KiB random read, depth 32", false, true, 4, 32),
    workload("4 KiB random write, depth 32", true, true, 4, 32),
    workload("64 KiB random read, depth 8", false, true, 64, 8),
    workload("64 KiB random write, depth 8", true, true, 64, 8),
    workload("1 MiB sequential read, depth 1", false, false, 1024, 1),
    workload("1 MiB sequential write, depth 1", true, false, 1024, 1),
    workload("1 MiB sequential read, depth 4", false, false, 1024, 4),
    workload("1 MiB sequential write, depth 4", true, false, 1024, 4),
];

const SHAPED: [Workload; 6] = [
    workload("64 KiB random read, depth 16", false, true, 64, 16),
    workload("64 KiB random write, depth 16", true, true, 64, 16),
    workload("1 MiB sequential read, depth 4", false, false, 1024, 4),
    workload("1 MiB sequential write, depth 4", true, false, 1024, 4),
    workload("1 MiB sequential read, depth 16", false, false, 1024, 16),
    workload("1 MiB sequential write, depth 16", true, false, 1024, 16),
];

/// Before the first round, per box: sessions settle and paths are measured.
const WARM_UP: Workload = workload("warm-up", false, true, 64, 8);

/// One way to the target.
struct Way {
    name: String,
    /// The box in the middle, if there is one.
    process: Option<Process>,
    initiator: Initiator,
}

fn main() -> Result<()> {
    let args = Args::parse();
    match (&args.role, &args.inside) {
        (Some(Role::Relay { listen, to }), _) => relay::serve(*listen, *to),
        (None, None) if args.shaped => shaped(),
        (None, inside) => measure(&args, inside.as_deref()),
    }
}

/// Makes the links, and runs this program again on their near side.
fn shaped() -> Result<()> {
    let links = shaped::Links::new(4)?;
    let mut again = target::in_namespace(Some(&links.near), path(&current_exe()?)?);
    again.args(std::env::args_os().skip(1)).args(["--inside", &links.far]);
    let status = again.status()?;
    if !status.success() {
        bail!("the measurement ended with {status}");
    }
    Ok(())
}

fn measure(args: &Args, inside: Option<&str>) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let portals = match inside {
        Some(_) => shaped::portals(4).collect(),
        None => (0..4).map(|_| free_address()).collect::<Result<Vec<_>>>()?,
    };
    let target = Target::tgt(&portals, dir.path(), inside)?;
    let (usual_braids, usual_rounds): (&[u8], _) =
        if inside.is_some() { (&[1, 2, 3, 4], 5) } else { (&[1, 2, 4], 15) };
    let braids = args.braid.as_deref().unwrap_or(usual_braids);
    let rounds = args.rounds.unwrap_or(usual_rounds);
    let mut ways = ways(&target, braids, dir.path())?;
    let workloads = if inside.is_some() { &SHAPED[..] } else { &LOOPBACK[..] };
    let total = Duration::from_secs(if args.quick { 30 } else { 180 });
    let duration = total.div_f64((workloads.len() * ways.len() * rounds.max(1)) as f64);
    let mut report = Report {
        boxes: ways.iter().map(|way| way.name.clone()).collect(),
        reference: if inside.is_some() { Report::DIRECT } else { Report::RELAY },
        rows: Vec::new(),
    };
    for workload in workloads {
        eprintln!("{} ...", workload.name);
        let samples = (0..rounds).map(|round| one_round(&mut ways, *workload, round, duration));
        report.rows.push(Row { workload: *workload, rounds: samples.collect::<Result<_>>()? });
    }
    let links = if inside.is_some() { shaped::SHAPE } else { "loopback" };
    println!("\n{links}, {rounds} rounds of {duration:.2?} each, medians");
    println!("{}{}{}", report.throughput(), report.latency(), report.cpu());
    Ok(())
}

/// Starts the boxes and logs in over each of them.
fn ways(target: &Target, braids: &[u8], dir: &Path) -> Result<Vec<Way>> {
    let direct = way("direct".to_owned(), None, target, target.portals[0])?;
    let relay_address = free_address()?;
    let mut command = Command::new(current_exe()?);
    command.args(["relay", &relay_address.to_string(), &target.portals[0].to_string()]);
    let mut process = Process::start("relay", dir, command)?;
    process.wait_for_listener(relay_address)?;
    let mut ways = vec![direct, way("relay".to_owned(), Some(process), target, relay_address)?];
    for paths in braids {
        ways.push(braid(target, usize::from(*paths), dir)?);
    }
    Ok(ways)
}

fn way(name: String, process: Option<Process>, target: &Target, portal: SocketAddr) -> Result<Way> {
    let login = Login {
        portal,
        target: target::NAME.to_owned(),
        initiator: name.replace(' ', "-"),
        lun: target.lun,
        size: target::SIZE,
    };
    let mut initiator = Initiator::connect(login).with_context(|| format!("logging in: {name}"))?;
    initiator.run(WARM_UP, Duration::from_millis(500)).with_context(|| format!("warming up: {name}"))?;
    Ok(Way { name, process, initiator })
}

/// Starts Braid over this many paths, and waits until all of them are used.
fn braid(target: &Target, paths: usize, dir: &Path) -> Result<Way> {
    let (listen, admin) = (free_address()?, free_address()?);
    let name = format!("braid {paths}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_braid"));
    command.args(["run", "--listen", &listen.to_string(), "--admin", &admin.to_string()]);
    command.args(["--target", target::NAME]);
    for portal in target.portals.iter().take(paths) {
        command.args(["--path", &portal.to_string()]);
    }
    let mut process = Process::start(&name, dir, command)?;
    process.wait_for_listener(listen)?;
    let mut way = way(name, Some(process), target, listen)?;
    let process = way.process.as_mut().context("just started")?;
    process.wait("all paths connected", || (connections(admin).ok()? >= paths as f64).then_some(()))?;
    way.initiator.run(WARM_UP, Duration::from_millis(500))?;
    Ok(way)
}

/// Upstream connections that Braid reports.
fn connections(admin: SocketAddr) -> Result<f64> {
    let mut stream = TcpStream::connect(admin)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: braid\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let samples = text.lines().filter(|line| line.starts_with("braid_path_connections{"));
    Ok(samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

/// One workload over all ways, starting with another one each round; the samples in the order of the ways.
fn one_round(ways: &mut [Way], workload: Workload, round: usize, duration: Duration) -> Result<Vec<Sample>> {
    let count = ways.len();
    let mut samples = vec![None; count];
    for of in (0..count).map(|step| (step + round) % count) {
        let way = &mut ways[of];
        let before = cpu_time(way)?;
        let measured = way.initiator.run(workload, duration).with_context(|| way.name.clone())?;
        samples[of] = Some(Sample { measured, cpu: cpu_time(way)?.saturating_sub(before) });
    }
    samples.into_iter().collect::<Option<_>>().context("every way is measured")
}

fn cpu_time(way: &Way) -> Result<Duration> {
    way.process.as_ref().map_or(Ok(Duration::ZERO), Process::cpu_time)
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
