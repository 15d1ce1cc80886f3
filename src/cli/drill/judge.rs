//! From what was seen to a report: whether each objective was met.

use super::play::{End, Seen};
use super::report::{
    Affected, Ended, FORMAT, Latency, Load, Path, Report, Scenario as Which, Stalls, Step, VERSION, Verdict,
};
use super::scenario::{Action, Scenario};
use crate::admin::view;
use std::time::Duration;

/// Events that mean an error for an initiator whose load is watched.
const ERRORS: [&str; 2] = ["outcome-unknown", "gave-up"];

/// Puts the report together.
pub(super) fn judge(scenario: &Scenario, seen: Seen, target: String) -> Report {
    let steps = steps(scenario, &seen);
    let load = load(&seen);
    let Seen { end, elapsed, began, record, oldest, over, events, stand, braid, .. } = seen;
    let (series, stalls) = record.finish(oldest, over);
    let (how, why) = match end {
        End::Finished => ("finished", None),
        End::Interrupted => ("interrupted", Some("the drill was told to end before its time".to_owned())),
        End::Failed(why) => ("failed", Some(why)),
    };
    let objectives = verdicts(scenario, &steps, &load, &stalls, elapsed);
    let passed = how == "finished" && objectives.iter().all(|verdict| verdict.met);
    Report {
        format: FORMAT,
        version: VERSION,
        braid,
        scenario: Which {
            name: scenario.name.clone(),
            file: scenario.file.clone(),
            ground: scenario.ground.word(),
            target,
            duration_seconds: scenario.duration.as_secs_f64(),
        },
        began: humantime::format_rfc3339_millis(began).to_string(),
        ended: Ended { how, why, after_seconds: elapsed.as_secs_f64() },
        passed,
        objectives,
        steps,
        load,
        stalls,
        paths: paths(&stand),
        series,
        events,
    }
}

fn steps(scenario: &Scenario, seen: &Seen) -> Vec<Step> {
    let step = |(number, step): (usize, &super::scenario::Step)| {
        let own = scenario.spans.iter().zip(&seen.deeds).filter(|(span, _)| span.step == number);
        let paths: Vec<_> = own
            .filter_map(|(span, deed)| {
                Some(Affected {
                    path: span.path.clone(),
                    from_seconds: deed.began?.as_secs_f64(),
                    to_seconds: deed.ended.unwrap_or(seen.elapsed).as_secs_f64(),
                    back_after_seconds: deed.back.map(|back| back.as_secs_f64()),
                })
            })
            .collect();
        let reached = step.at <= seen.elapsed && (step.action == Action::Heal || !paths.is_empty());
        reached.then(|| Step {
            line: step.line,
            action: step.action.word(),
            description: step.action.describe(),
            at_seconds: step.at.as_secs_f64(),
            paths,
        })
    };
    scenario.steps.iter().enumerate().filter_map(step).collect()
}

fn load(seen: &Seen) -> Load {
    if let Some(own) = &seen.load {
        let seconds = |micros: u64| Duration::from_micros(micros).as_secs_f64();
        let latency = own.latency.map(|[median, p99, max]| Latency {
            median_seconds: seconds(median),
            p99_seconds: seconds(p99),
            max_seconds: seconds(max),
        });
        return Load {
            whose: "own",
            commands: own.commands,
            read_bytes: own.read,
            written_bytes: own.written,
            verified_bytes: Some(own.verified),
            errors: own.errors,
            wrong_blocks: Some(own.wrong_blocks),
            latency,
            complaints: own.complaints.clone(),
        };
    }
    let paths = paths(&seen.stand);
    let errors = seen.events.iter().filter(|event| ERRORS.contains(&event.event.kind.as_str()));
    let complaints: Vec<_> =
        errors.map(|event| format!("{}: {}", event.event.kind, event.event.text)).collect();
    Load {
        whose: "watched",
        commands: paths.iter().map(|path| path.commands).sum(),
        read_bytes: paths.iter().map(|path| path.read_bytes).sum(),
        written_bytes: paths.iter().map(|path| path.written_bytes).sum(),
        verified_bytes: None,
        errors: complaints.len() as u64,
        wrong_blocks: None,
        latency: None,
        complaints,
    }
}

/// What each path carried from the beginning to the end.
fn paths([before, now]: &[view::Target; 2]) -> Vec<Path> {
    let path = |path: &view::ConfiguredPath| {
        let earlier = before.paths.iter().find(|own| own.name == path.name);
        let carried = |field: fn(&view::Totals) -> u64| {
            let value = |path: &view::ConfiguredPath| path.totals.as_ref().map_or(0, field);
            value(path).saturating_sub(earlier.map_or(0, value))
        };
        Path {
            name: path.name.clone(),
            portal: path.portal.clone(),
            read_bytes: carried(|totals| totals.read_bytes),
            written_bytes: carried(|totals| totals.written_bytes),
            commands: carried(|totals| totals.commands),
        }
    };
    now.paths.iter().map(path).collect()
}

fn verdicts(
    scenario: &Scenario,
    steps: &[Step],
    load: &Load,
    stalls: &Stalls,
    elapsed: Duration,
) -> Vec<Verdict> {
    let wanted = &scenario.objectives;
    let at_most = |objective, unit, wanted: f64, found: Option<f64>| Verdict {
        objective,
        unit,
        wanted,
        found,
        met: found.is_some_and(|found| found <= wanted),
        note: None,
    };
    let mut verdicts = Vec::new();
    if let Some(longest) = wanted.longest_stall {
        let found = (load.commands > 0).then_some(stalls.longest_seconds);
        let note = match (found, stalls.longest_at_seconds) {
            (None, _) => Some("nothing completed: there was no load".to_owned()),
            (Some(_), Some(at)) => Some(format!("begun at {at:.1} s")),
            (Some(_), None) => None,
        };
        verdicts.push(Verdict { note, ..at_most("longest_stall", "seconds", longest.as_secs_f64(), found) });
    }
    if let Some(slowest) = wanted.slowest_command {
        let found = load.latency.as_ref().map(|latency| latency.max_seconds);
        verdicts.push(at_most("slowest_command", "seconds", slowest.as_secs_f64(), found));
    }
    if let Some(most) = wanted.errors {
        let note = load.complaints.first().cloned();
        verdicts.push(Verdict { note, ..at_most("errors", "count", most as f64, Some(load.errors as f64)) });
    }
    if let Some(most) = wanted.wrong_blocks {
        let compared = load.verified_bytes.is_some_and(|bytes| bytes > 0);
        let found = load.wrong_blocks.filter(|_| compared).map(|blocks| blocks as f64);
        let note = (!compared).then(|| "nothing was read back".to_owned());
        verdicts.push(Verdict { note, ..at_most("wrong_blocks", "count", most as f64, found) });
    }
    if let Some(within) = wanted.paths_back_within {
        verdicts.push(back(steps, within));
    }
    if let Some(least) = wanted.throughput_at_least {
        let found =
            (load.read_bytes + load.written_bytes) as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        let met = found >= least as f64;
        let verdict = at_most("throughput_at_least", "bytes_per_second", least as f64, Some(found));
        verdicts.push(Verdict { met, ..verdict });
    }
    verdicts
}

/// Whether every path came back in time.
fn back(steps: &[Step], within: Duration) -> Verdict {
    let affected: Vec<&Affected> = steps.iter().flat_map(|step| &step.paths).collect();
    let lost: Vec<_> = affected.iter().filter(|path| path.back_after_seconds.is_none()).collect();
    let slowest = affected
        .iter()
        .filter_map(|path| path.back_after_seconds.map(|back| (back, path.path.as_str())))
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    let found = slowest.map(|(back, _)| back).filter(|_| lost.is_empty());
    let note = match (lost.first(), slowest) {
        (Some(lost), _) => Some(format!("{} did not come back", lost.path)),
        (None, Some((_, path))) => Some(format!("the slowest: {path}")),
        (None, None) => Some("no path was touched".to_owned()),
    };
    let met = found.is_some_and(|found| found <= within.as_secs_f64());
    Verdict {
        objective: "paths_back_within",
        unit: "seconds",
        wanted: within.as_secs_f64(),
        found,
        met,
        note,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(back: &[Option<f64>]) -> Step {
        let path = |back_after_seconds: &Option<f64>| Affected {
            path: "a".to_owned(),
            from_seconds: 1.0,
            to_seconds: 2.0,
            back_after_seconds: *back_after_seconds,
        };
        let paths = back.iter().map(path).collect();
        Step { line: 7, action: "reset", description: "reset".to_owned(), at_seconds: 1.0, paths }
    }

    #[test]
    fn a_path_that_did_not_come_back_is_not_overlooked_for_one_that_did() {
        let judged = |back: &[Option<f64>]| self::back(&[step(back)], Duration::from_secs(2));
        assert!(judged(&[Some(1.0), Some(2.0)]).met);
        assert_eq!(judged(&[Some(1.0), Some(2.5)]).found, Some(2.5));
        assert!(!judged(&[Some(1.0), Some(2.5)]).met);
        let lost = judged(&[Some(1.0), None]);
        assert_eq!((lost.met, lost.found, lost.note.as_deref()), (false, None, Some("a did not come back")));
    }
}
