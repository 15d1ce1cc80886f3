//! `cargo bench --bench relay`: direct, a plain TCP relay, and Braid, side by side in one run.
//!
//! A target with a portal per path, a relay in front of one portal, and a Braid in front of one, two and four run as
//! processes of their own. In each round one new session leads through each of them, and every workload goes over all of
//! them in turn, each round starting with another one: what else happens on the machine then hits all alike, and what
//! sticks to a session (two sessions through one and the same relay can differ by a quarter) shows in the quartiles.
//! Ratios are taken within a round; what is printed are medians over the rounds with their quartiles, as Markdown.
//! Who runs on which core is laid down ([`placement`]): it matters more than what is measured.
//!
//! `--order` shows what keeping order costs ([`order`]), `--many` what many sessions do ([`many`]), `--noting` what
//! metrics cost ([`noting`]). `--shaped` puts links of 1 Gbit/s (network namespaces, veth, tbf; needs root) between the target and everything else,
//! and shows what more links give over one.
//!
//! Nothing is asserted: it is a benchmark. Where the quartiles of a ratio lie on both sides of 1, it says nothing; on a
//! machine with other work most of them will.

#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a program that measures time and prints, and whose slips end only itself"
)]

mod child;
mod delay;
mod initiator;
mod many;
mod noting;
mod order;
mod placement;
mod relay;
mod report;
#[expect(dead_code, reason = "the scripts use the rest")]
#[path = "../scripts/setup.rs"]
mod scripted;
mod shaped;
mod target;
#[expect(dead_code, reason = "the scripts use the rest")]
#[path = "../scripts/words.rs"]
mod words;

use anyhow::{Context, Result, bail};
use braid::session::mutant::Mutant;
use child::{Process, free_address};
use clap::{Parser, Subcommand};
use initiator::{Initiator, Login, Workload};
use placement::{Placement, Placer};
use report::{Report, Row, Sample};
use std::env::current_exe;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode};
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
    /// What keeping order costs: random I/O against the same engine with order off, flushes against the direct way.
    #[arg(long, conflicts_with_all = ["shaped", "target", "braid"])]
    order: bool,
    /// Many sessions on one Braid, 1000 if no number is given: memory, and how soon operators are answered.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1000", conflicts_with_all = ["shaped", "order", "target", "braid"])]
    many: Option<usize>,
    /// What all ways lead to.
    #[arg(long, value_enum, default_value = "lab")]
    target: target::Kind,
    /// Rounds per workload; 15, or 5 with --shaped or --order, if not given.
    #[arg(long)]
    rounds: Option<usize>,
    /// Numbers of paths that Braid is run with, with commas between; without a number: not at all.
    #[arg(long, value_delimiter = ',', num_args = 0..=1)]
    braid: Option<Vec<u8>>,
    /// The network namespace of the target, its links being made already.
    #[arg(long, hide = true)]
    inside: Option<String>,
    /// What metrics cost on the data path.
    #[arg(long, conflicts_with_all = ["shaped", "order", "many", "target", "braid"])]
    noting: bool,
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
    /// Relays TCP connections, everything so many microseconds later.
    #[command(hide = true)]
    Delay {
        one_way: u64,
        #[arg(long, num_args = 1..)]
        listen: Vec<SocketAddr>,
        #[arg(long, num_args = 1..)]
        to: Vec<SocketAddr>,
    },
    /// Serves the lab's RAM disk.
    #[command(hide = true)]
    LabTarget { portals: Vec<SocketAddr> },
    /// Is Braid.
    #[command(hide = true)]
    Braid {
        /// With nothing waiting for anything.
        #[arg(long)]
        unordered: bool,
        #[arg(last = true)]
        args: Vec<OsString>,
    },
}

const fn workload(name: &'static str, write: bool, random: bool, kib: u32, depth: usize) -> Workload {
    let (bytes, placement) = (kib << 10, Placement::Free);
    Workload { name, write, random, bytes, depth, placement, flush_every: 0, burst: false }
}

/// With a core of its own for everybody.
const fn apart(workload: Workload) -> Workload {
    Workload { placement: Placement::Apart, ..workload }
}

/// With everybody on one core.
const fn together(workload: Workload) -> Workload {
    Workload { placement: Placement::Together, ..workload }
}

const LOOPBACK: [Workload; 12] = [
    together(workload("4 KiB random read, depth 1, one core", false, true, 4, 1)),
    together(workload("4 KiB random write, depth 1, one core", true, true, 4, 1)),
    apart(workload("4 KiB random read, depth 1", false, true, 4, 1)),
    apart(workload("4 KiB random write, depth 1", true, true, 4, 1)),
    apart(workload("4 KiB random read, depth 32", false, true, 4, 32)),
    apart(workload("4 KiB random write, depth 32", true, true, 4, 32)),
    apart(workload("64 KiB random read, depth 8", false, true, 64, 8)),
    apart(workload("64 KiB random write, depth 8", true, true, 64, 8)),
    apart(workload("1 MiB sequential read, depth 1", false, false, 1024, 1)),
    apart(workload("1 MiB sequential write, depth 1", true, false, 1024, 1)),
    apart(workload("1 MiB sequential read, depth 4", false, false, 1024, 4)),
    apart(workload("1 MiB sequential write, depth 4", true, false, 1024, 4)),
];

const SHAPED: [Workload; 6] = [
    workload("64 KiB random read, depth 16", false, true, 64, 16),
    workload("64 KiB random write, depth 16", true, true, 64, 16),
    workload("1 MiB sequential read, depth 4", false, false, 1024, 4),
    workload("1 MiB sequential write, depth 4", true, false, 1024, 4),
    workload("1 MiB sequential read, depth 16", false, false, 1024, 16),
    workload("1 MiB sequential write, depth 16", true, false, 1024, 16),
];

/// Before each round, per way: the session settles and paths are measured.
const WARM_UP: Workload = workload("warm-up", false, true, 64, 8);

/// One way to the target.
struct Way {
    name: String,
    /// Where to log in.
    portal: SocketAddr,
    /// The box in the middle, if there is one.
    process: Option<Process>,
    /// Of a Braid: its admin address, and its number of paths.
    paths: Option<(SocketAddr, usize)>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(sessions) = args.many {
        return many::measure(sessions);
    }
    match (&args.role, &args.inside) {
        (Some(Role::Relay { listen, to }), _) => relay::serve(*listen, *to),
        (Some(Role::LabTarget { portals }), _) => target::serve_lab(portals),
        (Some(Role::Delay { one_way, listen, to }), _) => {
            delay::serve(Duration::from_micros(*one_way), listen, to)
        }
        (Some(Role::Braid { unordered, args }), _) => be_braid(*unordered, args),
        (None, None) if args.order => order::measure(args.rounds.unwrap_or(5), args.quick),
        (None, None) if args.noting => noting::measure(args.rounds.unwrap_or(5), args.quick),
        (None, None) if args.shaped => shaped(),
        (None, inside) => measure(&args, inside.as_deref()),
    }
}

/// Runs as Braid.
fn be_braid(unordered: bool, args: &[OsString]) -> Result<()> {
    if unordered {
        Mutant::NothingWaits.everywhere();
    }
    let args = std::iter::once("braid".into()).chain(args.iter().cloned());
    if braid::cli::main(args) != ExitCode::SUCCESS {
        bail!("Braid failed");
    }
    Ok(())
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
    let target = Target::start(args.target, &portals, dir.path(), inside)?;
    let (usual_braids, usual_rounds): (&[u8], _) =
        if inside.is_some() { (&[1, 2, 3, 4], 5) } else { (&[1, 2, 4], 15) };
    let braids = args.braid.as_deref().unwrap_or(usual_braids);
    let rounds = args.rounds.unwrap_or(usual_rounds);
    let ways = ways(&target, braids, dir.path())?;
    let workloads = if inside.is_some() { &SHAPED[..] } else { &LOOPBACK[..] };
    let total = Duration::from_secs(if args.quick { 30 } else { 180 });
    let duration = total.div_f64((workloads.len() * ways.len() * rounds.max(1)) as f64);
    let mut report = Report {
        boxes: ways.iter().map(|way| way.name.clone()).collect(),
        reference: if inside.is_some() { Report::DIRECT } else { Report::RELAY },
        rows: workloads.iter().map(|workload| Row { workload: *workload, rounds: Vec::new() }).collect(),
    };
    let boxes = ways.iter().filter_map(|way| way.process.as_ref().map(Process::id)).collect();
    let mut bench = Bench { ways, placer: Placer::new(target.id(), boxes)?, target, duration };
    for round in 0..rounds {
        eprintln!("round {} of {rounds} ...", round + 1);
        bench.round(round, &mut report)?;
    }
    let links = if inside.is_some() { shaped::SHAPE } else { "loopback" };
    println!("\n{links}, {rounds} rounds of {duration:.2?} each: medians, ratios with their quartiles");
    let load = std::fs::read_to_string("/proc/loadavg")?;
    println!(
        "Load average at the end (1, 5, 15 minutes): {}",
        load.split(' ').take(3).collect::<Vec<_>>().join(" ")
    );
    if !bench.placer.can_place() {
        println!("Too few cores to place everybody: figures depend on the scheduler.");
    }
    println!("{}{}{}", report.throughput(), report.latency(), report.cpu());
    Ok(())
}

/// Everything that runs.
struct Bench {
    ways: Vec<Way>,
    placer: Placer,
    target: Target,
    /// Of one workload over one way.
    duration: Duration,
}

impl Bench {
    /// All workloads over all ways, with a new session each.
    fn round(&mut self, round: usize, report: &mut Report) -> Result<()> {
        self.placer.place(Placement::Free)?;
        let connect = |way: &mut Way| way.connect(&self.target).with_context(|| way.name.clone());
        let mut sessions = self.ways.iter_mut().map(connect).collect::<Result<Vec<_>>>()?;
        for row in &mut report.rows {
            self.placer.place(row.workload.placement)?;
            row.rounds.push(self.workload(&mut sessions, row.workload, round)?);
        }
        drop(sessions);
        self.ways.iter_mut().try_for_each(|way| way.wait_for_connections(0))
    }

    /// One workload over all ways, starting with another one each round; the samples in the order of the ways.
    fn workload(&self, sessions: &mut [Initiator], workload: Workload, round: usize) -> Result<Vec<Sample>> {
        let count = sessions.len();
        let mut samples = vec![None; count];
        for of in (0..count).map(|step| (step + round) % count) {
            let way = &self.ways[of];
            let before = way.cpu_time()?;
            let measured = sessions[of].run(workload, self.duration).with_context(|| way.name.clone())?;
            samples[of] = Some(Sample { measured, cpu: way.cpu_time()?.saturating_sub(before) });
        }
        samples.into_iter().collect::<Option<_>>().context("every way is measured")
    }
}

/// Starts the boxes.
fn ways(target: &Target, braids: &[u8], dir: &Path) -> Result<Vec<Way>> {
    let first = target.portals[0];
    let direct = Way { name: "direct".to_owned(), portal: first, process: None, paths: None };
    let portal = free_address()?;
    let mut command = Command::new(current_exe()?);
    command.args(["relay", &portal.to_string(), &first.to_string()]);
    let mut process = Process::start("relay", dir, command)?;
    process.wait_for_listener(portal)?;
    let mut ways =
        vec![direct, Way { name: "relay".to_owned(), portal, process: Some(process), paths: None }];
    for paths in braids {
        ways.push(braid(target, usize::from(*paths), dir)?);
    }
    Ok(ways)
}

/// Starts Braid over this many paths.
fn braid(target: &Target, paths: usize, dir: &Path) -> Result<Way> {
    let command = Command::new(env!("CARGO_BIN_EXE_braid"));
    braid_command(&format!("braid {paths}"), command, &target.portals[..paths], dir)
}

/// Starts Braid over these portals, with the program that `command` names.
fn braid_command(name: &str, mut command: Command, portals: &[SocketAddr], dir: &Path) -> Result<Way> {
    let (portal, admin) = (free_address()?, free_address()?);
    command.args(["run", "--listen", &portal.to_string(), "--admin", &admin.to_string()]);
    command.args(["--target", target::NAME]);
    for portal in portals {
        command.args(["--path", &portal.to_string()]);
    }
    let mut process = Process::start(name, dir, command)?;
    process.wait_for_listener(portal)?;
    Ok(Way { name: name.to_owned(), portal, process: Some(process), paths: Some((admin, portals.len())) })
}

impl Way {
    /// A session over this way, warm, and all paths of a Braid in use.
    fn connect(&mut self, target: &Target) -> Result<Initiator> {
        const SETTLE: Duration = Duration::from_millis(100);
        let mut session = Initiator::connect(Login {
            portal: self.portal,
            target: target::NAME.to_owned(),
            initiator: self.name.replace(' ', "-"),
            lun: target.lun,
            size: target::SIZE,
        })?;
        session.run(WARM_UP, SETTLE)?;
        if let Some((_, paths)) = self.paths {
            self.wait_for_connections(paths)?;
            session.run(WARM_UP, SETTLE)?;
        }
        Ok(session)
    }

    /// Waits until a Braid has this many upstream connections; nothing to wait for with others.
    fn wait_for_connections(&mut self, wanted: usize) -> Result<()> {
        let (Some((admin, _)), Some(process)) = (self.paths, &mut self.process) else { return Ok(()) };
        process.wait(&format!("{wanted} connections upstream"), || {
            (connections(admin).ok()? == wanted as f64).then_some(())
        })
    }

    fn cpu_time(&self) -> Result<Duration> {
        self.process.as_ref().map_or(Ok(Duration::ZERO), Process::cpu_time)
    }
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

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}
