//! libiscsi's test suite, `iscsi-test-cu`, run as a whole: once directly, once through Braid, compared test by test.
//!
//! Each suite is a process of its own on a fresh target with a fresh disk, so that a hang, a crash or a dead target costs
//! that suite at most, and so that both sides start equal. A test that writes nothing for [`QUIET`] hangs; it and a test
//! in which the program crashed are recorded as such, and the rest of their suite is then run test by test.
//!
//! Two tests are equal when verdict and messages are equal: passing for another reason, or failing for another, counts
//! as a difference. Messages are compared as sets, because loops of random length repeat them.
//!
//! What was learned about the program (libiscsi 1.19):
//!
//! - `ALL` names every test once; without `--test` it runs the four overlapping families, most tests three times.
//! - `--dataloss` is needed for every test that writes. `-S` adds the SANITIZE tests.
//! - A skipped test is reported as passed, with a message that begins with `[SKIPPED]`.
//! - The exit status is 1 when an assertion failed and 0 otherwise; results are in the text only.
//! - The suite MultipathIO needs a second URL and skips itself without.
//! - Against istgt it crashes in `ModeSense6.Control-SWP` and waits for ever in reads of zero blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::lio::Guest;
use crate::net::Net;
use crate::process::{Done, command, run, run_until_quiet, words};
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
const ACCEPTED: &str = include_str!("accepted.txt");

/// How a test ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Verdict {
    Passed,
    Failed,
    Hung,
    Crashed,
    /// The suite ended before the test.
    Missing,
}

/// A test's verdict, and what it said, without repetitions.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Outcome {
    verdict: Verdict,
    messages: BTreeSet<String>,
}

impl Outcome {
    fn new(verdict: Verdict) -> Self {
        Self { verdict, messages: BTreeSet::new() }
    }
}

/// Outcomes by `Suite.Test`.
type Outcomes = BTreeMap<String, Outcome>;

/// A suite and its tests, in the program's order.
struct Suite {
    name: String,
    tests: Vec<String>,
}

/// Runs everything directly and in each of the `ways` through Braid, which are a mode and a number of paths, and compares.
fn through_equals_direct(kind: Kind, ways: &[(&'static str, usize)]) {
    crate::setup::tools();
    let suites = suites();
    let (direct, through) = thread::scope(|scope| {
        let suites = &suites;
        let direct = scope.spawn(|| run_all(kind, 2, Via::Direct, suites));
        let through: Vec<_> = ways
            .iter()
            .map(|&(mode, paths)| scope.spawn(move || run_all(kind, paths, Via::Braid(mode), suites)))
            .collect();
        let through: Vec<_> = through.into_iter().map(|side| side.join().expect("Braid's side")).collect();
        (direct.join().expect("direct side"), through)
    });
    let mut report = String::new();
    for ((mode, paths), through) in ways.iter().zip(&through) {
        report += &compare(&format!("{}/{mode}/{paths}", kind.name()), &direct, through);
    }
    assert!(report.is_empty(), "through Braid is not as direct:\n{report}");
}

/// Asks the program for its suites and tests.
fn suites() -> Vec<Suite> {
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

fn run_all(kind: Kind, paths: usize, via: Via, suites: &[Suite]) -> Outcomes {
    if !kind.in_guest() {
        return run_all_at(kind, Site::Alone(paths), via, suites);
    }
    let net = Net::with_taps(paths);
    let guest = Arc::new(Guest::boot(&net));
    run_all_at(kind, Site::In(&guest, paths), via, suites)
}

fn run_all_at(kind: Kind, site: Site<'_>, via: Via, suites: &[Suite]) -> Outcomes {
    let queue: Mutex<Vec<&Suite>> = Mutex::new(suites.iter().collect());
    let outcomes = Mutex::new(Outcomes::new());
    thread::scope(|scope| {
        for _ in 0..SHARDS {
            scope.spawn(|| {
                while let Some(suite) = next(&queue) {
                    let _place = if kind == Kind::Istgt { SLOW.enter() } else { HEAVY.enter() };
                    let found = run_suite(kind, site, via, suite);
                    outcomes.lock().expect("outcomes").extend(found);
                }
            });
        }
    });
    outcomes.into_inner().expect("outcomes")
}

/// From the end, where the slowest suites are: they shall not be the ones that everything waits for.
fn next<'a>(queue: &Mutex<Vec<&'a Suite>>) -> Option<&'a Suite> {
    queue.lock().expect("queue").pop()
}

fn run_suite(kind: Kind, site: Site<'_>, via: Via, suite: &Suite) -> Outcomes {
    let mut stage = Stage::new(kind, site, via, DISK);
    let done = run_tests(&stage, &suite.name, None);
    let mut outcomes = parse(&done);
    if done.status.is_none() || done.crashed() {
        let last = suite.tests.iter().rposition(|test| outcomes.contains_key(&key(suite, test)));
        for test in suite.tests.iter().skip(last.map_or(0, |last| last + 1)) {
            if stage.casualty().is_some() {
                stage = Stage::new(kind, site, via, DISK);
            }
            outcomes.extend(parse(&run_tests(&stage, &suite.name, Some(test))));
        }
    }
    for test in &suite.tests {
        let outcome = outcomes.entry(key(suite, test)).or_insert_with(|| {
            let mut missing = Outcome::new(Verdict::Missing);
            missing.messages.extend(done.stderr.lines().map(str::to_owned));
            missing
        });
        if let Some(casualty) = stage.casualty() {
            outcome.messages.insert(casualty.to_owned());
        }
    }
    outcomes
}

fn key(suite: &Suite, test: &str) -> String {
    format!("{}.{test}", suite.name)
}

fn run_tests(stage: &Stage, suite: &str, test: Option<&str>) -> Done {
    let name = test.map_or_else(|| format!("ALL.{suite}"), |test| format!("ALL.{suite}.{test}"));
    let mut line = words(&["iscsi-test-cu", "--dataloss", "--allow-sanitize", "--verbose", "--test", &name]);
    line.push(stage.endpoint().url());
    if suite == "MultipathIO" {
        line.push(stage.second_endpoint().url());
    }
    run_until_quiet(command(stage.endpoint().netns.as_deref(), &line), QUIET)
}

/// Reads CUnit's verbose output. A test without a verdict is the one in which the program hung or crashed.
fn parse(done: &Done) -> Outcomes {
    let mut outcomes = Outcomes::new();
    let (mut suite, mut current) = (String::new(), String::new());
    let unfinished = if done.status.is_none() { Verdict::Hung } else { Verdict::Crashed };
    for line in done.stdout.lines() {
        let mut rest = line;
        if let Some(name) = line.strip_prefix("Suite: ") {
            name.clone_into(&mut suite);
            current.clear();
            continue;
        }
        if line.starts_with("Run Summary") {
            break;
        }
        if let Some((test, after)) = line.strip_prefix("  Test: ").and_then(|line| line.split_once(" ...")) {
            current = format!("{suite}.{test}");
            outcomes.insert(current.clone(), Outcome::new(unfinished));
            rest = after;
        }
        if let Some(outcome) = outcomes.get_mut(&current) {
            read_line(outcome, rest);
        }
    }
    outcomes
}

fn read_line(outcome: &mut Outcome, line: &str) {
    let mut rest = line;
    for (word, verdict) in [("passed", Verdict::Passed), ("FAILED", Verdict::Failed)] {
        if let Some(after) = line.strip_prefix(word) {
            outcome.verdict = verdict;
            rest = after;
        }
    }
    let message = rest.trim();
    // Failed assertions are numbered: "    3. test_x.c:50  - CU_ASSERT_EQUAL(ret,0)".
    let message = match message.split_once(". ") {
        Some((number, assertion)) if number.bytes().all(|byte| byte.is_ascii_digit()) => assertion,
        _ => message,
    };
    if !message.is_empty() {
        outcome.messages.insert(without_chance(message));
    }
}

/// Takes out of a message what differs from run to run: reservation keys drawn at random, and the sense that the program
/// makes up from whatever memory holds when a CHECK CONDITION carries none (istgt).
fn without_chance(message: &str) -> String {
    let cut = |from: &str| message.split_once(from).map(|(before, _)| format!("{before}{from}..."));
    cut("but failed with Sense: (null)(0x")
        .or_else(|| cut("Failed to find reservation key "))
        .unwrap_or_else(|| message.to_owned())
}

/// An entry of the list of accepted differences.
struct Accepted<'a> {
    set: &'a str,
    test: &'a str,
    unstable: bool,
}

/// Reads `accepted.txt`: `SET TEST differs|unstable REASON`, with `*` for any set.
fn accepted() -> Vec<Accepted<'static>> {
    let lines = ACCEPTED.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let read = |line: &'static str| {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some(set), Some(test), Some(how @ ("differs" | "unstable")), Some(_)) => {
                Accepted { set, test, unstable: how == "unstable" }
            }
            _ => panic!("accepted.txt: not `SET TEST differs|unstable REASON`: {line}"),
        }
    };
    lines.map(read).collect()
}

/// Says what is not as it should be; empty when all is well.
fn compare(set: &str, direct: &Outcomes, through: &Outcomes) -> String {
    let mut report = String::new();
    let accepted = accepted();
    let known = |test: &str| {
        accepted.iter().find(|entry| (entry.set == "*" || entry.set == set) && entry.test == test)
    };
    for (test, expected) in direct {
        let found = through.get(test);
        let equal = found == Some(expected);
        match known(test) {
            None if !equal => report += &difference(&format!("{set} {test}"), expected, found),
            Some(entry) if equal && !entry.unstable && entry.set != "*" => {
                writeln!(report, "{set} {test}: listed in accepted.txt, but equal now").expect("string");
            }
            _ => {}
        }
    }
    for entry in accepted.iter().filter(|entry| entry.set == set && !direct.contains_key(entry.test)) {
        writeln!(report, "accepted.txt names {} of {set}, which does not exist", entry.test).expect("string");
    }
    report
}

#[test]
fn tgt() {
    through_equals_direct(Kind::Tgt, &[("auto", 2), ("sessions", 4)]);
}

#[test]
fn tgt_mcs() {
    through_equals_direct(Kind::TgtMcs, &[("auto", 2)]);
}

#[test]
fn istgt() {
    through_equals_direct(Kind::Istgt, &[("auto", 2)]);
}

#[test]
fn lio() {
    through_equals_direct(Kind::LioThin, &[("sessions", 2), ("sessions", 4)]);
}

/// Verdicts of both sides, and the messages that only one of them has.
fn difference(test: &str, direct: &Outcome, through: Option<&Outcome>) -> String {
    let Some(through) = through else { return format!("{test}: only direct\n") };
    let mut text = format!("{test}: direct {:?}, through {:?}\n", direct.verdict, through.verdict);
    for (side, one, other) in [("direct", direct, through), ("through", through, direct)] {
        for message in one.messages.difference(&other.messages) {
            writeln!(text, "    only {side}: {message}").expect("string");
        }
    }
    text
}

/// The judge is judged: output as CUnit writes it, with a message before and after the verdict, and a hang at the end.
#[test]
fn reads_what_cunit_writes() {
    let text = "Suite: Read10\n  Test: Simple ...passed\n  Test: Eol ...    [FAILED] wrong sense\n\n    [FAILED] wrong \
                sense\nFAILED\n    1. x.c:5  - CU_ASSERT_EQUAL(_r,0)\n    2. x.c:5  - CU_ASSERT_EQUAL(_r,0)\n  \
                Test: Flags ...    [SKIPPED] not implemented.\npassed    [FAILED] late\n  Test: Zero ...";
    let script = format!("printf '%s' '{text}'; exec sleep 100");
    let done = run_until_quiet(command(None, &words(&["sh", "-c", &script])), Duration::from_secs(2));
    let found: Vec<(String, Verdict, Vec<String>)> = parse(&done)
        .into_iter()
        .map(|(test, outcome)| (test, outcome.verdict, outcome.messages.into_iter().collect()))
        .collect();
    let messages = |list: &[&str]| words(list);
    assert_eq!(
        found,
        [
            (
                "Read10.Eol".to_owned(),
                Verdict::Failed,
                messages(&["[FAILED] wrong sense", "x.c:5  - CU_ASSERT_EQUAL(_r,0)"])
            ),
            (
                "Read10.Flags".to_owned(),
                Verdict::Passed,
                messages(&["[FAILED] late", "[SKIPPED] not implemented."])
            ),
            ("Read10.Simple".to_owned(), Verdict::Passed, vec![]),
            ("Read10.Zero".to_owned(), Verdict::Hung, vec![]),
        ]
    );
}
