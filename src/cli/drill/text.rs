//! A scenario and a report as text: with bars and sparklines on a terminal, in plain characters elsewhere.

use super::report::{Path, PathSeries, Report, Stalls, Verdict};
use super::scenario::{Action, Ground, Scenario, Span};
use crate::cli::screen::{bytes, percent};
use std::fmt::Write;
use std::time::Duration;

/// Characters of a sparkline, at most, and of a bar.
const WIDE: usize = 48;
const BAR: usize = 30;

/// Events that are shown; all are in the files.
const EVENTS: usize = 12;

/// Heights of a sparkline.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What a scenario comes to.
pub(super) fn describe(scenario: &Scenario) -> String {
    let time = |time: Duration| humantime::format_duration(time).to_string();
    let ground = match &scenario.ground {
        Ground::Lab(plan) if plan.real => format!("over links of the kernel's, {} paths", plan.paths),
        Ground::Lab(plan) => format!("in the lab, {} paths", plan.paths),
        Ground::Live(live) => {
            let target = live.target.as_deref().unwrap_or("its only target");
            let load = if scenario.load.is_some() { "a load of its own" } else { "the real load" };
            format!("in a running Braid, {target}, under {load}")
        }
    };
    let mut text = format!("{}: {ground}, {}\n", scenario.name, time(scenario.duration));
    let mut line = |content: &str| {
        // Writing to a String cannot fail.
        writeln!(text, "  {}", content.trim_end()).ok();
    };
    for (number, step) in scenario.steps.iter().enumerate() {
        let own: Vec<&Span> = scenario.spans.iter().filter(|span| span.step == number).collect();
        let until = own.iter().map(|span| span.to).max().filter(|_| step.action != Action::Heal);
        let until = until.map_or_else(String::new, |until| format!("until {}", time(until)));
        let paths = step.paths.join(", ");
        line(&format!("{:>8}  {:24}  {paths:16}  {until}", time(step.at), step.action.describe()));
    }
    let wanted = &scenario.objectives;
    let mut expected = Vec::new();
    let mut expect =
        |name: &str, most: Option<String>| expected.extend(most.map(|most| format!("{name} {most}")));
    let at_most = |most: Duration| format!("at most {}", time(most));
    expect("longest stall", wanted.longest_stall.map(at_most));
    expect("slowest command", wanted.slowest_command.map(at_most));
    expect("errors", wanted.errors.map(|most| format!("at most {most}")));
    expect("wrong blocks", wanted.wrong_blocks.map(|most| format!("at most {most}")));
    expect("paths back within", wanted.paths_back_within.map(time));
    expect("throughput", wanted.throughput_at_least.map(|least| format!("at least {}/s", bytes(least))));
    line(&format!("expected: {}", expected.join("; ")));
    text
}

/// The report; `fine` where the reader's terminal can show bars.
pub(super) fn show(report: &Report, fine: bool) -> String {
    let mut text = String::new();
    let mut line = |content: &str| {
        writeln!(text, "{}", content.trim_end()).ok();
    };
    line("");
    line(&format!("{}: {}", report.scenario.name, if report.passed { "PASSED" } else { "NOT PASSED" }));
    if let Some(why) = &report.ended.why {
        line(&format!("  {} after {:.1} s: {why}", report.ended.how, report.ended.after_seconds));
    }
    line("\nobjectives");
    report.objectives.iter().for_each(|verdict| line(&verdict_line(verdict)));
    line("\npaths");
    path_lines(report, fine).iter().for_each(|content| line(content));
    line("\nload");
    load_lines(report).iter().for_each(|content| line(content));
    line("\nsteps");
    step_lines(report).iter().for_each(|content| line(content));
    line("\ntimes between completions");
    stall_lines(&report.stalls, fine).iter().for_each(|content| line(content));
    if !report.events.is_empty() {
        line("\nwhat Braid said");
    }
    for event in report.events.iter().take(EVENTS) {
        let path = event.event.path.as_deref().unwrap_or_default();
        line(&format!(
            "  {:6.1} s  {:16}  {path:10}  {}",
            event.at_seconds, event.event.kind, event.event.text
        ));
    }
    if let Some(more) = report.events.len().checked_sub(EVENTS).filter(|more| *more > 0) {
        line(&format!("  and {more} more, in the files that --html and --json write"));
    }
    text
}

/// An objective's name for eyes.
pub(super) fn objective(verdict: &Verdict) -> String {
    verdict.objective.replace('_', " ")
}

/// A figure for eyes.
pub(super) fn figure(value: f64, unit: &str) -> String {
    match unit {
        "seconds" => seconds(value),
        "bytes_per_second" => format!("{}/s", whole(value)),
        _ => format!("{value:.0}"),
    }
}

/// A time for eyes.
pub(super) fn seconds(value: f64) -> String {
    match value {
        short if short < 1e-3 => format!("{:.0} µs", short * 1e6),
        middle if middle < 0.01 => format!("{:.2} ms", middle * 1e3),
        middle if middle < 0.1 => format!("{:.1} ms", middle * 1e3),
        middle if middle < 1.0 => format!("{:.0} ms", middle * 1e3),
        long => format!("{long:.2} s"),
    }
}

/// Bytes for eyes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is shown, and never negative"
)]
pub(super) fn whole(value: f64) -> String {
    bytes(value.max(0.0) as u64)
}

/// What is wanted, for eyes.
pub(super) fn wanted(verdict: &Verdict) -> String {
    let word = if verdict.objective == "throughput_at_least" { "at least" } else { "at most" };
    format!("{word} {}", figure(verdict.wanted, verdict.unit))
}

/// What was found, for eyes.
pub(super) fn found(verdict: &Verdict) -> String {
    verdict.found.map_or_else(|| "-".to_owned(), |found| figure(found, verdict.unit))
}

fn verdict_line(verdict: &Verdict) -> String {
    let word = if verdict.met { "met" } else { "NOT MET" };
    let note = verdict.note.as_ref().map_or_else(String::new, |note| format!("({note})"));
    let (name, found, wanted) = (objective(verdict), found(verdict), wanted(verdict));
    format!("  {word:7}  {name:20}  {found:>12}  {wanted:22}  {note}")
}

fn path_lines(report: &Report, fine: bool) -> Vec<String> {
    let all: u64 = report.paths.iter().map(|path| path.read_bytes + path.written_bytes).sum();
    let width = report.paths.iter().map(|path| path.name.chars().count()).max().unwrap_or_default();
    let most = report.series.paths.iter().flat_map(PathSeries::bytes_per_second).fold(0.0, f64::max);
    let line = |path: &Path| {
        let carried = path.read_bytes + path.written_bytes;
        let over_time = report.series.paths.iter().find(|own| own.name == path.name);
        let shown =
            over_time.map_or_else(String::new, |own| if fine { sparkline(own, most) } else { range(own) });
        format!(
            "  {:width$}  {:>10}  {:>4}  {:>8} commands  {shown}",
            path.name,
            bytes(carried),
            percent(carried, all),
            path.commands
        )
    };
    let mut lines: Vec<_> = report.paths.iter().map(line).collect();
    if fine {
        let end = report.series.at_seconds.last().copied().unwrap_or_default();
        lines.push(format!("  {:width$}  a full block is {}/s; from 0 to {end:.1} s", "", whole(most)));
    }
    lines
}

/// Throughput over time, against the most of any path.
fn sparkline(path: &PathSeries, most: f64) -> String {
    let values: Vec<f64> = path.bytes_per_second().collect();
    let together = values.len().div_ceil(WIDE).max(1);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
    let height = |value: f64| {
        let index = HEIGHTS.iter().zip(1..).position(|(_, step)| value <= most * f64::from(step) / 8.0);
        match index {
            _ if value <= 0.0 => ' ',
            Some(index) => HEIGHTS.get(index).copied().unwrap_or('█'),
            None => '█',
        }
    };
    values.chunks(together).map(|part| height(mean(part))).collect()
}

fn range(path: &PathSeries) -> String {
    let least = path.bytes_per_second().fold(f64::INFINITY, f64::min);
    let most = path.bytes_per_second().fold(0.0, f64::max);
    if least > most {
        return String::new();
    }
    format!("{}/s to {}/s", whole(least), whole(most))
}

fn load_lines(report: &Report) -> Vec<String> {
    let load = &report.load;
    let whose = if load.whose == "own" { "the drill's own" } else { "the real one, as Braid counts it" };
    let mut lines = vec![format!(
        "  {whose}: {} commands, {} read, {} written",
        load.commands,
        bytes(load.read_bytes),
        bytes(load.written_bytes)
    )];
    if let Some(latency) = &load.latency {
        let [median, p99, max] =
            [latency.median_seconds, latency.p99_seconds, latency.max_seconds].map(seconds);
        lines.push(format!("  time of a command: median {median}, 99th percentile {p99}, longest {max}"));
    }
    if let Some(verified) = load.verified_bytes {
        lines.push(format!("  read back and compared: {}", bytes(verified)));
    }
    lines.extend(load.complaints.iter().take(3).map(|complaint| format!("  {complaint}")));
    lines
}

fn step_lines(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for step in &report.steps {
        for path in &step.paths {
            let back = path.back_after_seconds;
            let back =
                back.map_or_else(|| "not back".to_owned(), |back| format!("back after {}", seconds(back)));
            lines.push(format!(
                "  {:6.1} s to {:6.1} s  {:12}  {:30}  {back}",
                path.from_seconds, path.to_seconds, path.path, step.description
            ));
        }
    }
    lines
}

/// A class of stalls for eyes.
pub(super) fn class(below: Option<f64>, before: Option<f64>) -> String {
    let bound = |bound: f64| {
        if bound < 1.0 { format!("{:.0} ms", bound * 1e3) } else { format!("{bound:.0} s") }
    };
    match (below, before) {
        (Some(below), _) => format!("< {}", bound(below)),
        (None, Some(before)) => format!(">= {}", bound(before)),
        (None, None) => "any".to_owned(),
    }
}

fn stall_lines(stalls: &Stalls, fine: bool) -> Vec<String> {
    let most = stalls.classes.iter().map(|class| class.count).max().unwrap_or_default();
    let mut before = None;
    let mut lines = Vec::new();
    for own in &stalls.classes {
        let name = class(own.below_seconds, before);
        before = own.below_seconds;
        if own.count > 0 {
            let full = if fine { "█" } else { "#" };
            lines.push(format!("  {name:>9}  {:>9}  {}", own.count, full.repeat(bar(own.count, most))));
        }
    }
    let longest = seconds(stalls.longest_seconds);
    let at = stalls.longest_at_seconds.map_or_else(String::new, |at| format!(", begun at {at:.1} s"));
    lines.push(format!("  the longest: {longest}{at}"));
    if stalls.resolution_seconds > 0.0 {
        lines.push(format!(
            "  looked at every {}: what is shorter was not seen, but around the loss of a path",
            seconds(stalls.resolution_seconds)
        ));
    }
    lines
}

/// Characters of a bar; its length tells the order of magnitude.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to the length of a bar")]
fn bar(count: u64, most: u64) -> usize {
    let part = (count as f64).ln_1p() / (most as f64).ln_1p().max(f64::MIN_POSITIVE);
    ((part * BAR as f64).round() as usize).clamp(1, BAR)
}
