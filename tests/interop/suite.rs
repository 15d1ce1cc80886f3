//! libiscsi's test suite, `iscsi-test-cu`, run as a whole: once directly, once through Braid, compared test by test; and
//! what of it takes two sessions, with two URLs that lead through Braid in every way there is.
//!
//! Each suite is a process of its own on a fresh target with a fresh disk, so that a hang, a crash or a dead target costs
//! that suite at most, and so that both sides start equal. A test that writes nothing for [`QUIET`] hangs; it and a test
//! in which the program crashed are recorded as such, and the rest of their suite is then run test by test.
//!
//! A suite is over in less time than Braid's further paths need to join and to show the unit, so that everything would go
//! over the home path. Where commands are to go [in turn](Via::InTurn) every login of the program therefore is followed by
//! reads until each path has carried one (`warm.c`), and afterwards Braid's metrics must show that each path carried
//! something of the suite itself.
//!
//! What was learned about the program (libiscsi 1.19):
//!
//! - `ALL` names every test once; without `--test` it runs the four overlapping families, most tests three times.
//! - `--dataloss` is needed for every test that writes. `-S` adds the SANITIZE tests.
//! - A skipped test is reported as passed, with a message that begins with `[SKIPPED]`.
//! - The exit status is 1 when an assertion failed and 0 otherwise; results are in the text only.
//! - The suite MultipathIO needs a second URL and skips itself without. Others that need a second session take the second
//!   URL, and make a session of their own without.
//! - Against istgt it crashes in `ModeSense6.Control-SWP` and waits for ever in reads of zero blocks.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::braid::{ADMIN_PORT, Braid};
use crate::lio::Guest;
use crate::net::{Net, Wire};
use crate::outcome::{Outcome, Outcomes, Verdict, compare, parse};
use crate::process::{Done, command, read, run, run_until_quiet, temporary, words};
use crate::setup::tools;
use crate::stage::{Stage, Via};
use crate::target::{Kind, Site};
use crate::wait::{Gate, HEAVY, PATIENCE};

/// A test that is silent for so long hangs: the slowest test of a healthy run is silent for 7 s.
const QUIET: Duration = Duration::from_secs(25);
/// Room for the write-same tests of 65,536 blocks, and little more.
const DISK: u64 = 64 << 20;
/// Suites under way at once, per side.
const SHARDS: usize = 6;
/// Suites under way at once against istgt, all sides together: they mostly wait for its slow logins and for hangs.
static SLOW: Gate = Gate::new(2 * SHARDS);
/// Suites with tests that take two sessions.
const PAIRED: [&str; 10] = [
    "MultipathIO",
    "PreventAllow",
    "PrinReadKeys",
    "PrinReportCapabilities",
    "PrinServiceactionRange",
    "ProutClear",
    "ProutPreempt",
    "ProutRegister",
    "ProutReserve",
    "Reserve6",
];
/// Suites that move so much that each path must have had a part of it.
const MOVING: [&str; 11] = [
    "MultipathIO",
    "Read10",
    "Read12",
    "Read16",
    "Verify10",
    "Verify16",
    "Write10",
    "Write12",
    "Write16",
    "WriteSame10",
    "WriteSame16",
];
/// What one read of the warm-up moves.
const WARM: f64 = 512.0;

/// A suite and its tests, in the program's order.
struct Suite {
    name: String,
    tests: Vec<String>,
}

/// One way to run the program.
#[derive(Clone, Copy)]
struct Side<'a> {
    kind: Kind,
    paths: usize,
    via: Via,
    suites: &'a [Suite],
    /// All suites get two URLs, not just the one that does nothing without.
    paired: bool,
}

/// What came of it.
#[derive(Default)]
struct Found {
    outcomes: Outcomes,
    /// Paths that did not carry what they had to.
    idle: String,
}

/// Runs everything directly and in each of the `ways` through Braid, over so many paths, and compares.
fn through_equals_direct(kind: Kind, ways: &[(Via, usize)]) {
    equal_direct(kind, &suites(), ways, false);
}

/// Runs what takes two sessions with two URLs: two direct ones, and two of which at least one leads through Braid.
fn pairs_equal_direct(kind: Kind, mode: &'static str, paths: usize) {
    let suites: Vec<_> = suites().into_iter().filter(|suite| PAIRED.contains(&suite.name.as_str())).collect();
    assert_eq!(suites.len(), PAIRED.len(), "the program knows them all");
    let ways = [Via::InTurn(mode), Via::Beside(mode), Via::Behind(mode), Via::Twice(mode)];
    let ways = ways.map(|via| (via, paths));
    equal_direct(kind, &suites, &ways, true);
}

fn equal_direct(kind: Kind, suites: &[Suite], ways: &[(Via, usize)], paired: bool) {
    let (direct, through) = thread::scope(|scope| {
        let side = move |via, paths| Side { kind, paths, via, suites, paired };
        let direct = scope.spawn(move || side(Via::Direct, 2).run());
        let through: Vec<_> =
            ways.iter().map(|&(via, paths)| scope.spawn(move || side(via, paths).run())).collect();
        let through: Vec<_> = through.into_iter().map(|side| side.join().expect("Braid's side")).collect();
        (direct.join().expect("direct side"), through)
    });
    let mut report = String::new();
    for (&(via, paths), through) in ways.iter().zip(&through) {
        let set = set(kind, via, paths, paired);
        report += &compare(&set, &direct.outcomes, &through.outcomes);
        for line in through.idle.lines() {
            writeln!(report, "{set} {line}").expect("string");
        }
    }
    assert!(report.is_empty(), "through Braid is not as direct:\n{report}");
}

/// What a way is called in the list of accepted differences.
fn set(kind: Kind, via: Via, paths: usize, paired: bool) -> String {
    let (mode, how) = match via {
        Via::Direct => panic!("direct is compared with, not compared"),
        Via::Braid(mode) | Via::InTurn(mode) => (mode, if paired { "/pair" } else { "" }),
        Via::Beside(mode) => (mode, "/beside"),
        Via::Behind(mode) => (mode, "/behind"),
        Via::Twice(mode) => (mode, "/twice"),
    };
    format!("{}/{mode}/{paths}{how}", kind.name())
}

/// Asks the program for its suites and tests.
fn suites() -> Vec<Suite> {
    tools();
    let listed = run(command(None, &words(&["iscsi-test-cu", "--list"])), PATIENCE).expect_ok().stdout;
    let mut suites: Vec<Suite> = Vec::new();
    for line in listed.lines() {
        let mut parts = line.trim().split('.');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("ALL"), Some(name), None) => {
                suites.push(Suite { name: name.to_owned(), tests: Vec::new() })
            }
            (Some("ALL"), Some(_), Some(test)) => {
                suites.last_mut().expect("a suite precedes its tests").tests.push(test.to_owned());
            }
            _ => {}
        }
    }
    assert!(suites.len() > 40, "the list of suites is not as expected:\n{listed}");
    suites
}

impl Side<'_> {
    fn run(self) -> Found {
        if !self.kind.in_guest() {
            return self.run_at(Site::Alone(self.paths));
        }
        let net = Net::to_guest(self.paths, Wire::Tap);
        let guest = Arc::new(Guest::boot(&net));
        self.run_at(Site::In(&guest, self.paths))
    }

    fn run_at(self, site: Site<'_>) -> Found {
        let queue: Mutex<Vec<&Suite>> = Mutex::new(self.suites.iter().collect());
        let all = Mutex::new(Found::default());
        thread::scope(|scope| {
            for _ in 0..SHARDS {
                scope.spawn(|| {
                    while let Some(suite) = next(&queue) {
                        let _place = if self.kind == Kind::Istgt { SLOW.enter() } else { HEAVY.enter() };
                        let found = self.run_suite(site, suite);
                        let mut all = all.lock().expect("all");
                        all.outcomes.extend(found.outcomes);
                        all.idle += &found.idle;
                    }
                });
            }
        });
        all.into_inner().expect("all")
    }

    fn run_suite(self, site: Site<'_>, suite: &Suite) -> Found {
        let urls = if self.paired || suite.name == "MultipathIO" { 2 } else { 1 };
        let rig = || Rig { stage: Stage::new(self.kind, site, self.via, DISK), dir: temporary(), urls };
        let mut rig_now = rig();
        let done = rig_now.run_tests(&suite.name, None);
        let mut outcomes = parse(&done);
        if done.status.is_none() || done.crashed() {
            let last = suite.tests.iter().rposition(|test| outcomes.contains_key(&key(suite, test)));
            for test in suite.tests.iter().skip(last.map_or(0, |last| last + 1)) {
                if rig_now.stage.casualty().is_some() {
                    rig_now = rig();
                }
                outcomes.extend(parse(&rig_now.run_tests(&suite.name, Some(test))));
            }
        }
        let casualty = rig_now.stage.casualty();
        for test in &suite.tests {
            let outcome = outcomes.entry(key(suite, test)).or_insert_with(|| {
                let mut missing = Outcome::new(Verdict::Missing);
                missing.messages.extend(done.stderr.lines().map(str::to_owned));
                missing
            });
            outcome.messages.extend(casualty.map(str::to_owned));
        }
        let idle = if casualty.is_none() { rig_now.idle(&suite.name) } else { String::new() };
        Found { outcomes, idle }
    }
}

/// From the end, where the slowest suites are: they shall not be the ones that everything waits for.
fn next<'a>(queue: &Mutex<Vec<&'a Suite>>) -> Option<&'a Suite> {
    queue.lock().expect("queue").pop()
}

fn key(suite: &Suite, test: &str) -> String {
    format!("{}.{test}", suite.name)
}

/// A stage, and the program on it.
struct Rig {
    stage: Stage,
    dir: TempDir,
    urls: usize,
}

impl Rig {
    fn run_tests(&self, suite: &str, test: Option<&str>) -> Done {
        let name = test.map_or_else(|| format!("ALL.{suite}"), |test| format!("ALL.{suite}.{test}"));
        let mut line = self.preload();
        line.extend(words(&[
            "iscsi-test-cu",
            "--dataloss",
            "--allow-sanitize",
            "--verbose",
            "--test",
            &name,
        ]));
        let endpoints = [self.stage.endpoint(), self.stage.second_endpoint()];
        line.extend(endpoints.into_iter().take(self.urls).map(|endpoint| endpoint.url()));
        run_until_quiet(command(self.stage.endpoint().netns.as_deref(), &line), QUIET)
    }

    /// The words before the program that make it wait for all paths.
    fn preload(&self) -> Vec<String> {
        if matches!(self.stage.via(), Via::Direct | Via::Braid(_)) {
            return Vec::new();
        }
        let (shim, log) = (tools().warm_shim().display(), self.log().display().to_string());
        let paths = self.stage.braid().paths().len();
        let settings = [
            format!("LD_PRELOAD={shim}"),
            format!("BRAID_WARM={ADMIN_PORT} {paths}"),
            format!("BRAID_WARM_LOG={log}"),
        ];
        ["env".to_owned()].into_iter().chain(settings).collect()
    }

    fn log(&self) -> std::path::PathBuf {
        self.dir.path().join("warm")
    }

    /// What did not carry as it had to; empty when all is well.
    fn idle(&self, suite: &str) -> String {
        let mut idle = String::new();
        if matches!(self.stage.via(), Via::Direct | Via::Braid(_)) {
            return idle;
        }
        let log = read(&self.log());
        for braid in self.stage.braids() {
            let reads = self.warmed(braid, &log);
            let metrics = braid.metrics();
            let own = |path: &String| metrics.bytes(path) - reads.clone().unwrap_or_default() * WARM;
            let idles = |path: &&String| own(path) <= 0.0;
            if reads.is_err() || MOVING.contains(&suite) && braid.paths().iter().any(|path| idles(&path)) {
                let idlers: Vec<_> = braid.paths().iter().filter(idles).collect();
                writeln!(idle, "{suite}: not warm, or idle paths: {idlers:?} {reads:?}; {log:?}")
                    .expect("string");
            }
        }
        idle
    }

    /// How many reads it took to have each session over all paths; an error if one was not.
    fn warmed(&self, braid: &Braid, log: &str) -> Result<f64, String> {
        let endpoints = [braid.endpoint(), braid.second_endpoint()];
        let fanout = self.stage.fanout();
        let mut reads = 0.0;
        let mut sessions = 0;
        for line in log.lines() {
            let parts: Vec<&str> = line.split(' ').collect();
            let [portal, end, count, how] = parts.as_slice() else { return Err(line.to_owned()) };
            if !endpoints.iter().any(|endpoint| endpoint.portal == *portal) {
                continue;
            }
            sessions += 1;
            reads += count.parse::<f64>().map_err(|why| why.to_string())?;
            if !["warm", "refused", "registered"].contains(end) || *how != fanout {
                return Err(line.to_owned());
            }
        }
        if sessions == 0 { Err("no session".to_owned()) } else { Ok(reads) }
    }
}

#[test]
fn tgt() {
    through_equals_direct(Kind::Tgt, &[(Via::Braid("auto"), 2), (Via::InTurn("sessions"), 4)]);
}

#[test]
fn tgt_mcs() {
    through_equals_direct(Kind::TgtMcs, &[(Via::InTurn("auto"), 4)]);
}

#[test]
fn istgt() {
    through_equals_direct(Kind::Istgt, &[(Via::InTurn("auto"), 2)]);
}

#[test]
fn lio() {
    through_equals_direct(Kind::LioThin, &[(Via::InTurn("sessions"), 4)]);
}

#[test]
fn pairs_tgt() {
    pairs_equal_direct(Kind::Tgt, "sessions", 4);
}

#[test]
fn pairs_tgt_mcs() {
    pairs_equal_direct(Kind::TgtMcs, "auto", 4);
}

#[test]
fn pairs_lio() {
    pairs_equal_direct(Kind::LioThin, "sessions", 4);
}
