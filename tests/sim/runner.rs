//! Command line, and what is run how.

use crate::coverage::Coverage;
use crate::world::{Outcome, World};
use braid::session::mutant::Mutant;
use clap::Parser;
use libtest_mimic::{Arguments, Failed, Trial};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// Seeds of the test command.
const SEEDS: u64 = 6000;
/// Seeds that ever failed, one in a line, with what they had found.
const KEPT: &str = include_str!("seeds.txt");
/// Mutants with the seed that was last seen to catch them.
const HINTS: &str = include_str!("mutants.txt");
/// Each mutant must be caught within so many seeds, if its own catches it no more.
const MUTANT_SEEDS: u64 = 4000;

/// Simulates Braid's engine in a world that fails. Without options: the test suite (all options of the test runner hold).
#[derive(Parser, Debug)]
#[command(name = "sim")]
struct Options {
    /// Runs this many seeds on all cores, and reports rate and coverage.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed of `--seeds`.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Runs this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// With `--seed`: prints everything that happens.
    #[arg(long)]
    trace: bool,
    /// With `--seed` or `--seeds`: breaks this rule of the engine.
    #[arg(long)]
    mutant: Option<String>,
    /// Finds for each mutant of the engine's rules the first seed, below this number, that catches it.
    #[arg(long)]
    hunt: Option<u64>,
    /// Threads for `--seeds`; as many as there are cores if not given.
    #[arg(long)]
    threads: Option<usize>,
}

thread_local! {
    /// What the last panic of this thread said, and where.
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs one seed; an error is the promise that was broken.
fn run(seed: u64, mutant: Option<Mutant>, trace: bool) -> Result<Outcome, String> {
    let result = panic::catch_unwind(AssertUnwindSafe(|| World::new(seed, mutant, trace).run()));
    result.map_err(|_| LAST_PANIC.with_borrow(Clone::clone))
}

/// Panics are kept instead of printed: a mutant's are wanted, and a seed's are told with the command that replays it.
fn keep_panics() {
    panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let words = payload.downcast_ref::<&str>().copied();
        let message = words.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let message = message.unwrap_or("a panic without words");
        let place = info.location().map_or_else(String::new, |l| format!(" ({}:{})", l.file(), l.line()));
        LAST_PANIC.with_borrow_mut(|last| *last = format!("{message}{place}"));
    }));
}

pub(crate) fn main() {
    let ours = ["--seed", "--seeds", "--hunt"];
    let wanted =
        std::env::args().any(|arg| ours.iter().any(|o| arg == *o || arg.starts_with(&format!("{o}="))));
    keep_panics();
    if wanted {
        let options = Options::parse();
        let mutant =
            options.mutant.as_deref().map(|name| Mutant::from_name(name).expect("no mutant has this name"));
        let threads = options.threads.unwrap_or_else(cores);
        let good = match (options.seed, options.hunt) {
            (Some(seed), _) => one(seed, mutant, options.trace),
            (None, Some(seeds)) => hunt(seeds, threads),
            (None, None) => many(&options, mutant, threads),
        };
        std::process::exit(i32::from(!good));
    }
    libtest_mimic::run(&Arguments::from_args(), trials()).exit();
}

fn one(seed: u64, mutant: Option<Mutant>, trace: bool) -> bool {
    match run(seed, mutant, trace) {
        Ok(outcome) => {
            println!("seed {seed} keeps all promises; trace hash {:016x}", outcome.hash);
            true
        }
        Err(broken) => {
            println!("seed {seed}: {broken}");
            false
        }
    }
}

/// What many seeds found.
struct Found {
    broken: Vec<(u64, String)>,
    coverage: Coverage,
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Runs seeds side by side.
fn explore(seeds: Range<u64>, mutant: Option<Mutant>, threads: usize) -> Found {
    let bar = indicatif::ProgressBar::new(seeds.end - seeds.start);
    let next = AtomicU64::new(seeds.start);
    let found = Mutex::new(Found { broken: Vec::new(), coverage: Coverage::default() });
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut mine = Found { broken: Vec::new(), coverage: Coverage::default() };
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    match run(seed, mutant, false) {
                        Ok(outcome) => mine.coverage.merge(&outcome.coverage, &outcome.judged),
                        Err(what) => mine.broken.push((seed, what)),
                    }
                    bar.inc(1);
                }
                let mut found = found.lock().unwrap();
                found.broken.append(&mut mine.broken);
                found.coverage.add(&mine.coverage);
            });
        }
    });
    bar.finish_and_clear();
    let mut found = found.into_inner().unwrap();
    found.broken.sort();
    found
}

/// Many seeds on all cores.
fn many(options: &Options, mutant: Option<Mutant>, threads: usize) -> bool {
    let count = options.seeds.unwrap_or(0);
    let began = clock();
    let found = explore(options.from..options.from + count, mutant, threads);
    let took = began.elapsed();
    println!("{}", found.coverage.table());
    let mut kinds: BTreeMap<String, (usize, &(u64, String))> = BTreeMap::new();
    for broken in &found.broken {
        let kind: String = broken.1.chars().filter(|c| !c.is_ascii_digit()).take(60).collect();
        kinds.entry(kind).or_insert((0, broken)).0 += 1;
    }
    for (times, (seed, what)) in kinds.values() {
        println!("{times:>6} like seed {seed}: {}", shortened(what));
    }
    let rate = count as f64 / took.as_secs_f64();
    println!("{count} seeds, {} broken, {rate:.0} per second on {threads} threads", found.broken.len());
    found.broken.is_empty()
}

#[expect(clippy::disallowed_methods, reason = "the rate of a long run is told")]
fn clock() -> Instant {
    Instant::now()
}

fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("seeds_keep_all_promises", seeds_keep),
        Trial::test("seeds_that_ever_failed", kept_seeds_keep),
        Trial::test("same_seed_same_trace", same_trace),
    ];
    for mutant in Mutant::ALL {
        trials.push(Trial::test(format!("mutants::{}", mutant.name()), move || caught(*mutant)));
    }
    let parts = [crate::random::trials(), crate::target::trials(), crate::checker::trials()];
    for (name, trial) in parts.into_iter().flatten() {
        trials.push(Trial::test(name, move || {
            trial();
            Ok(())
        }));
    }
    trials
}

/// The seeds, and what they must meet among them.
fn seeds_keep() -> Result<(), Failed> {
    let found = explore(0..SEEDS, None, cores());
    let mut complaints: Vec<String> = found.broken.iter().map(|(seed, what)| told(*seed, what)).collect();
    complaints.truncate(10);
    for name in found.coverage.missing() {
        complaints.push(format!("never happened in {SEEDS} seeds: {name}"));
    }
    for name in found.coverage.forbidden() {
        complaints.push(format!("Braid must never make it happen, and did: {name}"));
    }
    println!("\n{}", found.coverage.table());
    if complaints.is_empty() { Ok(()) } else { Err(complaints.join("\n").into()) }
}

fn told(seed: u64, what: &str) -> String {
    format!("seed {seed}: {what}\n  replay: cargo test --test sim -- --seed {seed} --trace")
}

fn kept_seeds_keep() -> Result<(), Failed> {
    for line in KEPT.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let seed = line.split_whitespace().next().unwrap().parse()?;
        run(seed, None, false).map_err(|what| told(seed, &what))?;
    }
    Ok(())
}

/// A seed catches a mutant if the engine with all its rules passes it.
fn catches(seed: u64, mutant: Mutant) -> Option<String> {
    let broken = run(seed, Some(mutant), false).err()?;
    run(seed, None, false).is_ok().then_some(broken)
}

fn caught(mutant: Mutant) -> Result<(), Failed> {
    let hint = HINTS.lines().filter_map(|l| l.split_once(' ')).find(|(name, _)| *name == mutant.name());
    let hint: Option<u64> = hint.map(|(_, seed)| seed.trim().parse()).transpose()?;
    if hint.into_iter().chain(0..MUTANT_SEEDS).any(|seed| catches(seed, mutant).is_some()) {
        return Ok(());
    }
    Err(format!("{} survives {MUTANT_SEEDS} seeds: the simulator has a hole", mutant.name()).into())
}

/// Each mutant, with the first seed that catches it: what `mutants.txt` holds, with the reason behind.
fn hunt(seeds: u64, threads: usize) -> bool {
    let found = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(mutant) = Mutant::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let caught = (0..seeds).find_map(|seed| Some((seed, catches(seed, *mutant)?)));
                    found.lock().unwrap().push((mutant.name(), caught));
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap();
    found.sort();
    for (name, caught) in &found {
        match caught {
            Some((seed, what)) => println!("{name} {seed}  {}", shortened(what)),
            None => println!("{name} survives"),
        }
    }
    found.iter().all(|(_, caught)| caught.is_some())
}

fn shortened(what: &str) -> String {
    what.replace('\n', " ").chars().take(200).collect()
}

fn same_trace() -> Result<(), Failed> {
    for seed in 0..50 {
        let (first, second) = (run(seed, None, false), run(seed, None, false));
        if first.map(|o| o.hash) != second.map(|o| o.hash) {
            return Err(format!("seed {seed} runs in two ways").into());
        }
    }
    Ok(())
}
