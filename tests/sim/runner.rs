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
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Seeds of the test command, in chunks that run side by side.
const CHUNKS: u64 = 8;
const CHUNK: u64 = 250;
/// Each mutant must be caught within so many seeds.
const MUTANT_SEEDS: u64 = 3000;

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

fn replay(seed: u64) -> String {
    format!("replay: cargo test --test sim -- --seed {seed} --trace")
}

/// Panics are kept instead of printed: a mutant's are wanted, and a seed's are told with the command that replays it.
fn keep_panics() {
    panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("a panic without words");
        let place = info.location().map_or_else(String::new, |l| format!(" ({}:{})", l.file(), l.line()));
        LAST_PANIC.with_borrow_mut(|last| *last = format!("{message}{place}"));
    }));
}

pub(crate) fn main() {
    let ours = ["--seed", "--seeds"];
    let wanted =
        std::env::args().any(|arg| ours.iter().any(|o| arg == *o || arg.starts_with(&format!("{o}="))));
    keep_panics();
    if wanted {
        let options = Options::parse();
        let mutant =
            options.mutant.as_deref().map(|name| Mutant::from_name(name).expect("no mutant has this name"));
        let good = match options.seed {
            Some(seed) => one(seed, mutant, options.trace),
            None => many(&options, mutant),
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

/// Many seeds on all cores.
fn many(options: &Options, mutant: Option<Mutant>) -> bool {
    let count = options.seeds.unwrap_or(0);
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = options.threads.unwrap_or_else(cores);
    let bar = indicatif::ProgressBar::new(count);
    let (next, broken) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let coverage = Mutex::new(Coverage::default());
    let began = clock();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut mine = Coverage::default();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        break;
                    }
                    match run(options.from + at, mutant, false) {
                        Ok(outcome) => mine.merge(&outcome.coverage),
                        Err(what) => broken.lock().unwrap().push((options.from + at, what)),
                    }
                    bar.inc(1);
                }
                coverage.lock().unwrap().merge(&mine);
            });
        }
    });
    bar.finish_and_clear();
    let took = began.elapsed();
    println!("{}", coverage.lock().unwrap().table());
    let mut broken = broken.into_inner().unwrap();
    broken.sort();
    let mut kinds: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for (seed, what) in &broken {
        let kind: String = what.chars().filter(|c| !c.is_ascii_digit()).take(60).collect();
        kinds.entry(kind).or_insert((0, *seed)).0 += 1;
    }
    for (times, seed) in kinds.values() {
        let what = &broken.iter().find(|(s, _)| s == seed).expect("listed").1;
        println!("{times:>6} like seed {seed}: {}", what.chars().take(400).collect::<String>());
    }
    let rate = count as f64 / took.as_secs_f64();
    println!("{count} seeds, {} broken, {rate:.0} per second on {threads} threads", broken.len());
    broken.is_empty()
}

#[expect(clippy::disallowed_methods, reason = "the rate of a long run is told")]
fn clock() -> Instant {
    Instant::now()
}

fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for chunk in 0..CHUNKS {
        let seeds = chunk * CHUNK..(chunk + 1) * CHUNK;
        trials.push(Trial::test(format!("seeds::{}_to_{}", seeds.start, seeds.end), move || all_keep(seeds)));
    }
    for mutant in Mutant::ALL {
        trials.push(Trial::test(format!("mutants::{}", mutant.name()), move || caught(*mutant)));
    }
    trials.push(Trial::test("same_seed_same_trace", same_trace));
    for (name, trial) in
        crate::random::trials().into_iter().chain(crate::target::trials()).chain(crate::checker::trials())
    {
        trials.push(Trial::test(name, move || {
            trial();
            Ok(())
        }));
    }
    trials
}

fn all_keep(seeds: Range<u64>) -> Result<(), Failed> {
    for seed in seeds {
        run(seed, None, false).map_err(|broken| format!("seed {seed}: {broken}\n{}", replay(seed)))?;
    }
    Ok(())
}

fn caught(mutant: Mutant) -> Result<(), Failed> {
    for seed in 0..MUTANT_SEEDS {
        if run(seed, Some(mutant), false).is_err() {
            return Ok(());
        }
    }
    Err(format!("{} survives {MUTANT_SEEDS} seeds: the simulator has a hole", mutant.name()).into())
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
