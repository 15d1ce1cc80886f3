//! Links that fail under load: each path in turn, by reset and by silence, while a load writes, reads and compares.
//!
//! What must hold: no command fails at the initiator, whose one session lives on; no byte is wrong, on the wire or on the
//! disk; the other paths carry on while one is cut; the cut path joins again when the link is mended, and carries again.

use std::time::Duration;

use crate::braid::{Braid, Metrics};
use crate::load::{Load, REGION};
use crate::net::{Cut, Net};
use crate::stage::{Stage, Via};
use crate::target::Kind;
use crate::wait::{HEAVY, PATIENCE};

use std::time::Instant;

/// A stalled command is lost, not slow, after so long.
const STALL: Duration = Duration::from_secs(120);
/// What a path must have moved to count as carrying.
const SOME: f64 = 1_000_000.0;

fn each_path_in_turn(kind: Kind, paths: usize, how: Cut) {
    let _place = HEAVY.enter();
    let net = Net::new(paths);
    let stage = Stage::over(&net, kind, Via::Braid("auto"), REGION);
    let braid = stage.braid();
    let mut load = Load::start(stage.endpoint());
    let all: Vec<&str> = braid.paths().iter().map(String::as_str).collect();
    work(&mut load, braid, "every path is up and carries", carries(braid, &all));
    for (path, name) in all.iter().enumerate() {
        let others: Vec<&str> = all.iter().copied().filter(|other| other != name).collect();
        net.cut(path, how);
        let what = format!("path {name} is seen to be cut ({how:?})");
        work(&mut load, braid, &what, |now| now.connections(name) == 0.0);
        work(&mut load, braid, &format!("others carry while {name} is cut"), carries(braid, &others));
        net.heal(path);
        work(&mut load, braid, &format!("path {name} is back and carries"), carries(braid, &all));
    }
    assert_eq!(braid.metrics().sum("braid_logins_total", &[("result", "accepted")]), 1.0, "{}", braid.log());
    load.finish(stage.disk()).unwrap_or_else(|why| panic!("{why}\n{}", braid.log()));
}

/// Whether all `paths` are up and each has moved something from now on.
fn carries<'a>(braid: &Braid, paths: &'a [&'a str]) -> impl Fn(&Metrics) -> bool + 'a {
    let before = braid.metrics();
    move |now| {
        paths.iter().all(|path| now.connections(path) > 0.0 && now.bytes(path) > before.bytes(path) + SOME)
    }
}

/// Goes on with the load, round after round, until the metrics are `good`.
fn work(load: &mut Load, braid: &Braid, what: &str, good: impl Fn(&Metrics) -> bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        load.round(STALL).unwrap_or_else(|why| panic!("while waiting for: {what}\n{why}\n{}", braid.log()));
        let now = braid.metrics();
        if good(&now) {
            return;
        }
        assert!(Instant::now() < end, "waited in vain for: {what}\n{}\n{}", now.show(), braid.log());
    }
}

#[test]
fn tgt_reset() {
    each_path_in_turn(Kind::Tgt, 2, Cut::Reset);
}

#[test]
fn tgt_drop() {
    each_path_in_turn(Kind::Tgt, 2, Cut::Drop);
}

#[test]
fn tgt_4_drop() {
    each_path_in_turn(Kind::Tgt, 4, Cut::Drop);
}

#[test]
fn tgt_mcs_reset() {
    each_path_in_turn(Kind::TgtMcs, 2, Cut::Reset);
}

#[test]
fn tgt_mcs_drop() {
    each_path_in_turn(Kind::TgtMcs, 2, Cut::Drop);
}

#[test]
fn istgt_reset() {
    each_path_in_turn(Kind::Istgt, 2, Cut::Reset);
}

#[test]
fn istgt_drop() {
    each_path_in_turn(Kind::Istgt, 2, Cut::Drop);
}
