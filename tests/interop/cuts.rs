//! Links that fail under load: each path in turn, by reset and by silence, while a load writes, reads and compares.
//!
//! What must hold: no command fails at the initiator, whose one session lives on; no byte is wrong, on the wire or on the
//! disk; the other paths carry on while one is cut; the cut path joins again when the link is mended, and carries again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use crate::braid::{Braid, Metrics};
use crate::load::{Load, REGION};
use crate::net::{Cut, Net, Wire, loopback};
use crate::stage::{Stage, Via};
use crate::target::{Kind, Site, Target};
use crate::wait::{HEAVY, PATIENCE, poll};

/// A stalled command is lost, not slow, after so long.
const STALL: Duration = Duration::from_secs(120);
/// A fence that waits is not there after so long; one that does not wait takes some milliseconds.
const FENCELESS: Duration = Duration::from_secs(3);
/// One cut in some meets a command.
const MOST_CUTS: usize = 40;
/// So many commands keep a path busy.
const SOME_COMMANDS: f64 = 4.0;
/// What a path must have moved to count as carrying.
const SOME: f64 = 1_000_000.0;

fn each_path_in_turn(kind: Kind, paths: usize, how: Cut) {
    let _place = HEAVY.enter();
    let net = if kind.in_guest() { Net::to_guest(paths, Wire::Packets) } else { Net::new(paths) };
    let stage = Stage::new(kind, Site::Behind(&net), Via::Braid("auto"), REGION);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stopping = StopOnDrop(&stop);
        let scene = Scene { braid: stage.braid(), load: scope.spawn(|| work(&stage, &stop)) };
        cut_and_heal(&scene, &net, how);
        drop(stopping);
        let ended = scene.load.join().expect("the load's thread");
        ended.unwrap_or_else(|why| panic!("{why}\n{}", stage.braid().log()));
    });
}

/// The load, round after round until told to stop, and then the look at the disk.
pub(crate) fn work(stage: &Stage, stop: &AtomicBool) -> Result<(), String> {
    let mut load = Load::start(stage.endpoint());
    while !stop.load(Ordering::Relaxed) {
        load.round(STALL)?;
    }
    load.finish(stage.disk())
}

/// Lets the load end also when the test fails meanwhile, so that the failure is seen.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Braid with a load on it.
struct Scene<'a> {
    braid: &'a Braid,
    load: ScopedJoinHandle<'a, Result<(), String>>,
}

impl Scene<'_> {
    /// Waits until the metrics are `good`, as long as the load goes on.
    fn until(&self, what: &str, good: impl Fn(&Metrics) -> bool) {
        let met = poll(PATIENCE, || {
            (self.load.is_finished() || good(&self.braid.metrics())).then(|| !self.load.is_finished())
        });
        if met != Some(true) {
            let state = if self.load.is_finished() { "the load ended" } else { "in vain" };
            panic!("{state}, waiting for: {what}\n{}\n{}", self.braid.metrics().show(), self.braid.log());
        }
    }

    /// Waits until all `paths` are up and each has moved something from now on.
    fn until_carrying(&self, what: &str, paths: &[&str]) {
        let before = self.braid.metrics();
        self.until(what, |now| {
            paths
                .iter()
                .all(|path| now.connections(path) > 0.0 && now.bytes(path) > before.bytes(path) + SOME)
        });
    }
}

/// What a fence by reinstatement rests on: the target answers the login that reinstates a session only when nothing of the
/// old one is left in its disk. Here the disk keeps everything, the session that carried some of it is cut off, and no fence
/// may come about until the disk goes on.
fn reinstatement_waits_for_the_disk(kind: Kind) {
    let _place = HEAVY.enter();
    let net = Net::to_guest(2, Wire::Tap);
    let stage = Stage::new(kind, Site::Behind(&net), Via::Braid("sessions"), REGION);
    let braid = stage.braid();
    let until = |what: &str, good: &dyn Fn(&Metrics) -> bool| {
        let met = poll(PATIENCE, || good(&braid.metrics()).then_some(()));
        assert!(met.is_some(), "in vain, waiting for: {what}\n{}\n{}", braid.metrics().show(), braid.log());
    };
    let well = |done: Result<(), String>| done.unwrap_or_else(|why| panic!("{why}\n{}", braid.log()));
    let mut load = Load::start(stage.endpoint());
    for (path, name) in braid.paths().iter().enumerate() {
        until("every path is up", &|now| braid.paths().iter().all(|path| now.connections(path) > 0.0));
        well(load.round(STALL));
        stage.target().stall(true);
        well(load.begin_writes());
        until("the disk keeps writes of the path", &|now| now.in_flight(name) > SOME_COMMANDS);
        // A session of the path of which the disk keeps nothing yet is fenced at once.
        let all = braid.metrics().fences("reinstate") + braid.metrics().connections(name);
        net.cut(path, Cut::Reset);
        until("the path is seen to be cut", &|now| now.connections(name) == 0.0);
        let early = poll(FENCELESS, || (braid.metrics().fences("reinstate") >= all).then_some(()));
        assert!(early.is_none(), "all fenced while the disk keeps writes\n{}", braid.log());
        stage.target().stall(false);
        until("the last fence, now", &|now| now.fences("reinstate") >= all);
        well(load.end(STALL));
        well(load.round(STALL));
        net.heal(path);
    }
    well(load.finish(stage.disk()));
}

/// Each path once, and then on until a cut has met a command: the load pauses between its rounds.
fn cut_and_heal(scene: &Scene<'_>, net: &Net, how: Cut) {
    let all: Vec<&str> = scene.braid.paths().iter().map(String::as_str).collect();
    scene.until_carrying("every path is up and carries", &all);
    for (cut, (path, name)) in all.iter().enumerate().cycle().enumerate() {
        if cut >= all.len() && scene.braid.metrics().asked_again() > 0.0 {
            break;
        }
        assert!(
            cut < MOST_CUTS,
            "no cut met a command: nothing was proved\n{}",
            scene.braid.metrics().show()
        );
        let others: Vec<&str> = all.iter().copied().filter(|other| other != name).collect();
        net.cut(path, how);
        scene.until(&format!("{name} is seen to be cut ({how:?})"), |now| now.connections(name) == 0.0);
        scene.until_carrying(&format!("others carry while {name} is cut"), &others);
        net.heal(path);
        scene.until_carrying(&format!("{name} is back and carries"), &all);
    }
    let end = scene.braid.metrics();
    let logins = end.sum("braid_logins_total", &[("result", "accepted")]);
    assert_eq!(logins, 1.0, "the initiator lost its session\n{}\n{}", end.show(), scene.braid.log());
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
fn tgt_drop_in() {
    each_path_in_turn(Kind::Tgt, 2, Cut::DropIn);
}

#[test]
fn tgt_drop_out() {
    each_path_in_turn(Kind::Tgt, 2, Cut::DropOut);
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
fn tgt_mcs_drop_in() {
    each_path_in_turn(Kind::TgtMcs, 2, Cut::DropIn);
}

#[test]
fn tgt_mcs_drop_out() {
    each_path_in_turn(Kind::TgtMcs, 2, Cut::DropOut);
}

#[test]
fn tgt_mcs_4_reset() {
    each_path_in_turn(Kind::TgtMcs, 4, Cut::Reset);
}

#[test]
fn istgt_reset() {
    each_path_in_turn(Kind::Istgt, 2, Cut::Reset);
}

#[test]
fn istgt_drop() {
    each_path_in_turn(Kind::Istgt, 2, Cut::Drop);
}

#[test]
fn lio_reset() {
    each_path_in_turn(Kind::Lio, 2, Cut::Reset);
}

#[test]
fn lio_drop() {
    each_path_in_turn(Kind::Lio, 2, Cut::Drop);
}

#[test]
fn lio_4_reset() {
    each_path_in_turn(Kind::Lio, 4, Cut::Reset);
}

#[test]
fn lio_4_drop() {
    each_path_in_turn(Kind::Lio, 4, Cut::Drop);
}

#[test]
fn lio_reinstatement_waits_for_the_disk() {
    reinstatement_waits_for_the_disk(Kind::LioBlock);
}

/// Braid waits ten minutes before it tries a lost path again, unless it is told that a link has come up. That one has gone down it
/// knows before anything is sent over it.
#[test]
fn a_link_that_comes_up_is_used_at_once() {
    let net = Net::new(2);
    let target = Target::start(Kind::Tgt, Site::Behind(&net), REGION);
    let braid = Braid::configured(&target, &loopback(), "reconnect = { first = \"10m\", longest = \"10m\" }");
    let mut load = Load::start(braid.endpoint());
    let path = braid.paths()[1].clone();
    let is_up = |up: f64| {
        let now = braid.metrics().sum("braid_path_connections", &[("path", &path)]);
        (now == up).then_some(())
    };
    assert!(poll(PATIENCE, || is_up(1.0)).is_some(), "the path does not come up\n{}", braid.log());
    net.unplug(1);
    let dark = [("path", path.as_str()), ("cause", "no_carrier")];
    let known = || (braid.metrics().sum("braid_path_suspicions_total", &dark) > 0.0).then_some(());
    assert!(poll(PATIENCE, known).is_some(), "nobody sees that the link is down\n{}", braid.log());
    net.abort(1);
    assert!(poll(PATIENCE, || is_up(0.0)).is_some(), "the path does not go down\n{}", braid.log());
    load.round(STALL).expect("a round over the path that is left");
    net.plug(1);
    assert!(poll(PATIENCE, || is_up(1.0)).is_some(), "the path does not come back\n{}", braid.log());
    load.round(STALL).expect("a round over both");
    load.finish(target.disk()).expect("the disk as it was written");
}
