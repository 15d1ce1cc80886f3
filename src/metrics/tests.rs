use super::*;
use crate::session::{AccessState, Barriers, Cause, Doubt, FenceMethod, Trigger};
use std::collections::BTreeSet;
use std::time::Duration;

const IQN: &str = "iqn.2003-01.org.example:disk";
const A: PathId = PathId(0);
const B: PathId = PathId(1);

fn metrics() -> Arc<Metrics> {
    let metrics = Metrics::new();
    metrics.declare(IQN, ["a", "b"]);
    Arc::new(metrics)
}

fn session(metrics: &Arc<Metrics>) -> SessionMetrics {
    metrics.session(IQN, ["a", "b"], &TERMS)
}

const TERMS: Terms = Terms {
    fanout: Fanout::Sessions,
    barriers: Barriers::Strict,
    fence: FenceMethod::Auto,
    memory_budget: 5000,
};

/// The value of the series whose line begins so.
fn value(metrics: &Metrics, series: &str) -> f64 {
    let text = metrics.render();
    let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(name, _)| name == series));
    line.unwrap_or_else(|| panic!("{series} is missing in\n{text}"))
        .rsplit_once(' ')
        .unwrap()
        .1
        .parse()
        .unwrap()
}

fn on(name: &str, path: &str) -> String {
    format!("{name}{{path=\"{path}\",target=\"{IQN}\"}}")
}

#[test]
fn every_series_is_named_helped_and_a_number() {
    let text = metrics().render();
    let mut helped = BTreeSet::new();
    let mut typed = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.ends_with('.') && help.len() > 10, "{line}");
            helped.insert(name);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            typed.insert(rest.split_once(' ').unwrap().0);
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
            let name = series.split('{').next().unwrap();
            let family =
                ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(name.starts_with("braid_") || name.starts_with("process_"), "{line}");
            assert!(helped.contains(family) && typed.contains(family), "{line}");
        }
    }
    assert_eq!(helped, typed);
    let named = include_str!("mod.rs").matches("\"braid_").count();
    helped.retain(|name| name.starts_with("braid_"));
    assert_eq!(helped.len(), named, "a family of the table has no series from the start: {helped:?}");
}

#[test]
fn counters_end_in_total_and_gauges_do_not() {
    for line in metrics().render().lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
    }
}

#[test]
fn a_path_goes_up_and_down() {
    let metrics = metrics();
    let mut session = session(&metrics);
    session.note(&Notice::PathUp { path: A, home: true });
    session.note(&Notice::PathUp { path: B, home: false });
    assert_eq!(value(&metrics, &on("braid_path_connections", "b")), 1.0);
    session.note(&Notice::PathDown { path: B, was_up: true, cause: Cause::Tcp("reset".into()) });
    session.note(&Notice::PathDown { path: B, was_up: false, cause: Cause::Login("02/03".into()) });
    assert_eq!(value(&metrics, &on("braid_path_connections", "b")), 0.0);
    assert_eq!(value(&metrics, &on("braid_path_connects_total", "b")), 1.0);
    let caused = |name: &str, cause: &str| format!("{name}{{cause=\"{cause}\",path=\"b\",target=\"{IQN}\"}}");
    assert_eq!(value(&metrics, &caused("braid_path_losses_total", "tcp")), 1.0);
    assert_eq!(value(&metrics, &caused("braid_path_losses_total", "login")), 0.0);
    assert_eq!(value(&metrics, &caused("braid_path_connect_failures_total", "login")), 1.0);
}

#[test]
fn a_logout_is_no_loss() {
    let metrics = metrics();
    let before = metrics.render();
    let mut session = session(&metrics);
    session.note(&Notice::PathUp { path: A, home: true });
    session.note(&Notice::PathDown { path: A, was_up: true, cause: Cause::Logout });
    drop(session);
    let own = |line: &&str| line.starts_with("braid_") && !before.contains(*line);
    let changed: Vec<_> = metrics.render().lines().filter(own).map(str::to_owned).collect();
    assert_eq!(changed, [on("braid_path_connects_total", "a") + " 1"]);
}

#[test]
fn commands_are_counted_by_path() {
    let metrics = metrics();
    let mut session = session(&metrics);
    let took = Duration::from_millis(2);
    session.note(&Notice::Completed { path: B, read: 4096, written: 0, took });
    session.note(&Notice::Completed { path: B, read: 0, written: 512, took });
    session.note(&Notice::Moved { path: A, commands: 7 });
    session.note(&Notice::Reassigned { path: A, commands: 3 });
    assert_eq!(value(&metrics, &on("braid_path_commands_total", "b")), 2.0);
    assert_eq!(value(&metrics, &on("braid_path_read_bytes_total", "b")), 4096.0);
    assert_eq!(value(&metrics, &on("braid_path_written_bytes_total", "b")), 512.0);
    assert_eq!(value(&metrics, &on("braid_path_commands_moved_total", "a")), 7.0);
    assert_eq!(value(&metrics, &on("braid_path_commands_reassigned_total", "a")), 3.0);
    let bucket = |le: &str| {
        format!(
            "braid_command_duration_seconds_bucket{{direction=\"read\",path=\"b\",target=\"{IQN}\",le=\"{le}\"}}"
        )
    };
    for (direction, commands) in [("read", 1.0), ("write", 1.0), ("none", 0.0)] {
        let labels = format!("{{direction=\"{direction}\",path=\"b\",target=\"{IQN}\"}}");
        assert_eq!(value(&metrics, &format!("braid_command_duration_seconds_count{labels}")), commands);
    }
    assert_eq!(value(&metrics, &bucket("0.001")), 0.0);
    assert_eq!(value(&metrics, &bucket("0.0025")), 1.0);
    let [a, b] = metrics.carried(IQN).try_into().unwrap();
    assert_eq!(a, Carried { path: "a".to_owned(), ..Carried::default() });
    assert_eq!((b.path.as_str(), b.read, b.written, b.commands), ("b", 4096, 512, 2));
    assert!(!b.time.is_zero());
    assert_eq!(metrics.moved(IQN), 7);
}

#[test]
fn the_rest_of_the_notices() {
    let metrics = metrics();
    let mut session = session(&metrics);
    let took = Duration::from_millis(1500);
    session.note(&Notice::Fenced { path: A, method: FenceMethod::Ordered, took });
    session.note(&Notice::IdentityMismatch { path: B, lun: 0, what: "serial".into() });
    session.note(&Notice::IdentityProved { path: B, lun: 0, there: 0 });
    session.note(&Notice::UnitAttentionAbsorbed { path: B });
    session.note(&Notice::AccessChanged {
        path: B,
        lun: 0,
        from: AccessState::Optimized,
        to: AccessState::Standby,
    });
    session.note(&Notice::TransitionAsked { path: B, lun: 0, group: 2 });
    session.note(&Notice::TransitionRefused { path: B, lun: 0, what: "5/26/00".into() });
    session.note(&Notice::AllPathsDown);
    session.note(&Notice::GaveUp(crate::session::Exhausted::Close));
    session.note(&Notice::DownstreamProtocol("x".into()));
    let fences = format!("braid_fences_total{{method=\"ordered\",path=\"a\",target=\"{IQN}\"}}");
    let target = |name: &str| format!("{name}{{target=\"{IQN}\"}}");
    assert_eq!(value(&metrics, &fences), 1.0);
    assert_eq!(value(&metrics, &on("braid_fence_seconds_total", "a")), 1.5);
    assert_eq!(value(&metrics, &on("braid_identity_mismatches_total", "b")), 1.0);
    assert_eq!(value(&metrics, &on("braid_identity_proofs_total", "b")), 1.0);
    assert_eq!(value(&metrics, &on("braid_unit_attentions_absorbed_total", "b")), 1.0);
    for name in ["braid_access_changes_total", "braid_transitions_total", "braid_transitions_refused_total"] {
        assert_eq!(value(&metrics, &on(name, "b")), 1.0, "{name}");
    }
    assert_eq!(value(&metrics, &target("braid_all_paths_down_total")), 1.0);
    assert_eq!(value(&metrics, &target("braid_outages_given_up_total")), 1.0);
    assert_eq!(value(&metrics, &target("braid_initiator_protocol_errors_total")), 1.0);
}

#[test]
fn a_session_takes_its_gauges_with_it_and_leaves_its_counters() {
    let metrics = metrics();
    let series = metrics.render().lines().count();
    let open = format!("braid_sessions{{fanout=\"sessions\",target=\"{IQN}\"}}");
    let memory = format!("braid_memory_held_bytes{{target=\"{IQN}\"}}");
    let (mut first, mut second) = (session(&metrics), session(&metrics));
    for session in [&mut first, &mut second] {
        session.note(&Notice::PathUp { path: A, home: true });
        session.in_flight(A, 3);
        session.memory(1000);
    }
    first.memory(400);
    assert_eq!((value(&metrics, &open), value(&metrics, &memory)), (2.0, 1400.0));
    drop(second);
    assert_eq!((value(&metrics, &open), value(&metrics, &memory)), (1.0, 400.0));
    assert_eq!(value(&metrics, &on("braid_path_commands_in_flight", "a")), 3.0);
    assert_eq!(value(&metrics, &on("braid_path_connections", "a")), 1.0);
    drop(first);
    assert_eq!((value(&metrics, &open), value(&metrics, &memory)), (0.0, 0.0));
    assert_eq!(value(&metrics, &on("braid_path_connects_total", "a")), 2.0);
    assert_eq!(metrics.render().lines().count(), series, "sessions must not add series");
}

#[test]
fn sessions_tell_which_paths_they_miss() {
    let metrics = metrics();
    let of_target = |name: &str| value(&metrics, &format!("{name}{{target=\"{IQN}\"}}"));
    let down = |path: &str| value(&metrics, &on("braid_path_sessions_down", path));
    let state = || {
        let sessions = ["braid_sessions_without_path", "braid_sessions_without_redundancy"].map(of_target);
        (sessions, [down("a"), down("b")])
    };
    assert_eq!(state(), ([0.0, 0.0], [0.0, 0.0]));
    let mut session = session(&metrics);
    assert_eq!(state(), ([1.0, 1.0], [1.0, 1.0]));
    session.note(&Notice::PathUp { path: A, home: true });
    assert_eq!(state(), ([0.0, 1.0], [0.0, 1.0]));
    session.note(&Notice::PathUp { path: B, home: false });
    assert_eq!(state(), ([0.0, 0.0], [0.0, 0.0]));
    session.note(&Notice::PathDown { path: A, was_up: true, cause: Cause::Tcp("reset".into()) });
    assert_eq!(state(), ([0.0, 1.0], [1.0, 0.0]));
    drop(session);
    assert_eq!(state(), ([0.0, 0.0], [0.0, 0.0]));
    let only = metrics.session(IQN, ["a"], &TERMS);
    assert_eq!(of_target("braid_sessions_without_redundancy"), 0.0, "it never had any");
    drop(only);
}

#[test]
fn a_path_is_in_one_state_for_a_session() {
    let metrics = metrics();
    let stand = |path: &str| {
        let count = |state: &str| {
            value(
                &metrics,
                &format!("braid_path_state{{path=\"{path}\",state=\"{state}\",target=\"{IQN}\"}}"),
            )
        };
        let counts = PathState::ALL.iter().map(|state| (state.word(), count(state.word())));
        counts.filter(|(_, count)| *count > 0.0).collect::<Vec<_>>()
    };
    let mut one = session(&metrics);
    let two = session(&metrics);
    assert_eq!((stand("a"), stand("b")), (vec![("down", 2.0)], vec![("down", 2.0)]));
    let mut turn = |from, trigger, to| one.note(&Notice::PathState { path: B, from, to, trigger });
    turn(PathState::Down, Trigger::Tried, PathState::Probing);
    turn(PathState::Probing, Trigger::Connected, PathState::Up);
    turn(PathState::Up, Trigger::Doubted(Doubt::NoCarrier), PathState::Suspect);
    assert_eq!((stand("a"), stand("b")), (vec![("down", 2.0)], vec![("suspect", 1.0), ("down", 1.0)]));
    let doubted = format!("{{cause=\"no_carrier\",path=\"b\",target=\"{IQN}\"}}");
    assert_eq!(value(&metrics, &format!("braid_path_suspicions_total{doubted}")), 1.0);
    drop((one, two));
    assert_eq!((stand("a"), stand("b")), (vec![], vec![]));
}

#[test]
fn sessions_tell_what_they_run_under() {
    let metrics = metrics();
    let under = |order: &str, fence: &str| {
        let labels = format!("{{fence=\"{fence}\",order=\"{order}\",target=\"{IQN}\"}}");
        value(&metrics, &format!("braid_session_guarantees{labels}"))
    };
    let budget = || value(&metrics, &format!("braid_memory_budget_bytes{{target=\"{IQN}\"}}"));
    let strict = session(&metrics);
    let native = Terms { barriers: Barriers::Native, fence: FenceMethod::Time, ..TERMS };
    let native = metrics.session(IQN, ["a", "b"], &native);
    let single = metrics.session(IQN, ["a"], &TERMS);
    assert_eq!([under("strict", "auto"), under("native", "time"), under("one_path", "auto")], [1.0; 3]);
    assert_eq!(budget(), 15_000.0);
    drop((strict, native, single));
    assert_eq!([under("strict", "auto"), under("native", "time"), under("one_path", "auto")], [0.0; 3]);
    assert_eq!(budget(), 0.0);
}

#[test]
fn wrong_digests_are_counted_by_side() {
    let metrics = metrics();
    let mut session = session(&metrics);
    let errors = |from: &str| {
        value(&metrics, &format!("braid_digest_errors_total{{from=\"{from}\",target=\"{IQN}\"}}"))
    };
    session.digest_error(Side::Target);
    session.note(&Notice::PathDown { path: B, was_up: true, cause: Cause::Digest("x".into()) });
    assert_eq!((errors("initiator"), errors("target")), (0.0, 1.0));
    let lost = |cause: &str| {
        value(&metrics, &format!("braid_path_losses_total{{cause=\"{cause}\",path=\"b\",target=\"{IQN}\"}}"))
    };
    assert_eq!((lost("digest"), lost("protocol")), (1.0, 0.0));
    session.note(&Notice::DownstreamDigest("x"));
    assert_eq!((errors("initiator"), errors("target")), (1.0, 1.0));
    let name = format!("braid_initiator_protocol_errors_total{{target=\"{IQN}\"}}");
    assert_eq!(value(&metrics, &name), 0.0, "the initiator did nothing wrong");
}

#[test]
fn a_path_beyond_the_plan_is_ignored() {
    let metrics = metrics();
    let mut session = session(&metrics);
    session.note(&Notice::PathUp { path: PathId(9), home: false });
    session.in_flight(PathId(9), 1);
}

#[test]
fn logins_are_counted_by_result_alone() {
    let metrics = metrics();
    metrics.login(LoginResult::UnknownTarget);
    metrics.login(LoginResult::UnknownTarget);
    assert_eq!(value(&metrics, "braid_logins_total{result=\"unknown_target\"}"), 2.0);
    assert_eq!(value(&metrics, "braid_logins_total{result=\"accepted\"}"), 0.0);
}

#[test]
fn a_target_is_down_when_somebody_waits_for_it() {
    let metrics = metrics();
    let health = || metrics.health().remove(0);
    assert!(!health().is_down(), "nobody waits");
    let mut session = session(&metrics);
    assert!(health().is_down());
    session.note(&Notice::PathUp { path: B, home: true });
    assert_eq!((health().is_down(), health().usable()), (false, 1));
    assert_eq!(health().paths, [("a".to_owned(), 0), ("b".to_owned(), 1)]);
}

#[test]
fn the_readme_lists_every_series() {
    let readme = include_str!("../../README.md");
    let text = metrics().render();
    let helped: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' ')).collect();
    let listed =
        readme.lines().filter(|line| line.starts_with("| `braid_") || line.starts_with("| `process_"));
    assert_eq!(listed.count(), helped.len(), "README.md lists what is not there");
    for (name, help) in helped {
        assert!(
            readme.contains(&format!("| `{name}` | {help} |")),
            "README.md has no row for: {name} {help}"
        );
    }
}

#[test]
fn discovered_targets_and_paths_have_bounds() {
    let metrics = Arc::new(Metrics::new());
    for n in 0..MAX_TARGETS + 5 {
        metrics.declare_discovered(&format!("iqn.{n}"), ["10.0.0.1:3260"]);
    }
    assert_eq!(metrics.health().len(), MAX_TARGETS);
    let ports: Vec<String> = (0..2 * MAX_PATHS).map(|n| format!("10.0.0.2:{n}")).collect();
    metrics.declare_discovered("iqn.0", ports.iter().map(String::as_str));
    assert_eq!(metrics.health().iter().map(|target| target.paths.len()).sum::<usize>(), MAX_PATHS);
    let last = ports.last().unwrap().as_str();
    assert_eq!(
        metrics.roll().labels("iqn.0", ["10.0.0.1:3260", last]),
        ("iqn.0", vec!["10.0.0.1:3260", OTHER])
    );
    let late = format!("iqn.{}", MAX_TARGETS + 1);
    assert_eq!(metrics.roll().labels(&late, ["10.0.0.1:3260"]), (OTHER, vec![OTHER]));
}

#[test]
fn the_series_of_what_is_gone_stay_as_long_as_a_session_uses_them() {
    let metrics = metrics();
    let series = |metrics: &Metrics, part: &str| {
        let text = metrics.render();
        text.lines().filter(|line| line.starts_with("braid_") && line.contains(part)).count()
    };
    let (a, b, all) = ("path=\"a\"", "path=\"b\"", IQN);
    let before = metrics.render();
    let mut first = session(&metrics);
    first.note(&Notice::PathUp { path: B, home: true });
    metrics.declare(IQN, ["a"]);
    let second = session(&metrics);
    assert_eq!(series(&metrics, b), series(&metrics, a), "one session still has the path");
    assert_eq!(value(&metrics, &on("braid_path_connections", "b")), 1.0);
    drop(first);
    assert_eq!(series(&metrics, b), 0);
    metrics.forget(IQN);
    assert!(series(&metrics, all) > 0 && metrics.health().is_empty());
    drop(second);
    assert_eq!((series(&metrics, all), series(&metrics, "target=\"other\"")), (0, 0));
    metrics.declare(IQN, ["a", "b"]);
    let braids = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("braid_")).map(str::to_owned).collect()
    };
    assert_eq!(braids(&metrics.render()), braids(&before), "as if it were new");
    metrics.forget(IQN);
    assert_eq!(series(&metrics, all), 0);
}
