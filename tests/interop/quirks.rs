//! What targets do besides the standard, as Braid names it: its table (`src/iscsi/quirk.rs`) says of whom each is known.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::braid::Braid;
use crate::process::{command, run, words};
use crate::target::{Kind, Site, Target};
use crate::wait::{HEAVY, PATIENCE, poll};

const LIMIT: Duration = Duration::from_secs(60);
/// Of istgt, when answers overtake each other.
const BY_CHANCE: &str = "statsn_out_of_order";
/// What libiscsi does.
const MARKERS: &str = "markers of the initiator";
const SMALL: &str = "small_first_window of the target";

/// libiscsi reads a little through Braid over two paths; these are met, and no others.
fn shows(kind: Kind, mode: &'static str, expected: &[&str]) {
    let _place = HEAVY.enter();
    let target = Target::start(kind, Site::Alone(2), 16 << 20);
    let braid = Braid::over(target.endpoints(), mode, "");
    let endpoint = braid.endpoint();
    let read = [words(&["iscsi-perf", "-m", "4", "-b", "8", "-t", "2"]), vec![endpoint.url()]].concat();
    run(command(endpoint.netns.as_deref(), &read), LIMIT).expect_ok();
    let ended = || braid.paths().iter().all(|path| braid.metrics().connections(path) == 0.0).then_some(());
    assert!(poll(PATIENCE, ended).is_some(), "the session does not end\n{}", braid.log());
    let exposition = braid.exposition();
    let met = |line: &str| {
        let (labels, times) = line.strip_prefix("braid_quirks_total{quirk=\"")?.split_once("\"} ")?;
        (times != "0" && !labels.starts_with(BY_CHANCE)).then(|| labels.replace("\",side=\"", " of the "))
    };
    let met: BTreeSet<String> = exposition.lines().filter_map(met).collect();
    let expected: BTreeSet<String> = expected.iter().map(|&quirk| quirk.to_owned()).collect();
    assert_eq!(met, expected, "{}", braid.log());
    for quirk in &met {
        let name = quirk.split(' ').next().expect("a name");
        assert!(braid.whole_log().contains(&format!("quirk=\"{name}\"")), "{name}\n{}", braid.log());
    }
}

#[test]
fn of_tgt() {
    shows(Kind::Tgt, "sessions", &[MARKERS, SMALL]);
}

/// It tells its MaxConnections in every login, also in those of further connections as it ends them.
#[test]
fn of_tgt_with_several_connections() {
    let proposes = ["extra_login_round of the target", "proposal_at_end of the target"];
    shows(Kind::TgtMcs, "mcs", &[&proposes[..], &[MARKERS, SMALL]].concat());
}

#[test]
fn of_istgt() {
    shows(Kind::Istgt, "mcs", &[MARKERS]);
}

#[test]
fn of_lio() {
    shows(Kind::Lio, "sessions", &[MARKERS, SMALL]);
}
