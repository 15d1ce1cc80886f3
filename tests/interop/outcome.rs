//! What `iscsi-test-cu` says, read and compared with what it said elsewhere.
//!
//! Two tests are equal when verdict and messages are equal: passing for another reason, or failing for another, counts
//! as a difference. Messages are compared as sets, because loops of random length repeat them. `accepted.txt` lists the
//! differences that are accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use crate::process::{Done, command, run_until_quiet, words};

const ACCEPTED: &str = include_str!("accepted.txt");

/// How a test ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Verdict {
    Passed,
    Failed,
    Hung,
    Crashed,
    /// The suite ended before the test.
    Missing,
}

/// A test's verdict, and what it said, without repetitions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) messages: BTreeSet<String>,
}

impl Outcome {
    pub(crate) fn new(verdict: Verdict) -> Self {
        Self { verdict, messages: BTreeSet::new() }
    }
}

/// Outcomes by `Suite.Test`.
pub(crate) type Outcomes = BTreeMap<String, Outcome>;

/// Reads CUnit's verbose output. A test without a verdict is the one in which the program hung or crashed.
pub(crate) fn parse(done: &Done) -> Outcomes {
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
pub(crate) fn compare(set: &str, direct: &Outcomes, through: &Outcomes) -> String {
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
