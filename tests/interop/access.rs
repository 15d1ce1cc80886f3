//! Asymmetric access on LIO: a unit behind two target port groups, whose states change under a verified load.
//!
//! What must hold: no command fails at the initiator, no byte is wrong, on the wire or on the disk; the commands go over the
//! paths of the group that is best at the moment, and over no others; only when no group is active Braid has one made so.
//!
//! What was learned about LIO: it tells of a change only the sessions through the group that changed. To the one that asked
//! for a change it tells nothing. As it comes, a command through a group that is not optimized takes 100 ms longer.

use std::time::Duration;

use crate::braid::{Braid, Manner, Metrics};
use crate::load::{Load, REGION};
use crate::net::{Cut, Net, Wire};
use crate::target::{Kind, Site, Target};
use crate::wait::{HEAVY, PATIENCE, poll};

/// A stalled command is lost, not slow, after so long.
const STALL: Duration = Duration::from_secs(120);
/// More commands of a round than go over a path for other reasons than its state: a round has 32, and a flush, which is home's.
const SOME: f64 = 2.0;
/// Paths of a group: LIO's first and third portal, and the others.
const FIRST: [usize; 2] = [0, 2];
const SECOND: [usize; 2] = [1, 3];

/// A LIO, a Braid with four sessions, and a load.
struct Scene {
    load: Load,
    braid: Braid,
    target: Target,
    net: Net,
}

impl Scene {
    /// Begins with these states of the groups.
    fn new(script: &str) -> Self {
        let net = Net::to_guest(4, Wire::Tap);
        let target = Target::start(Kind::LioGroups, Site::Behind(&net), REGION);
        target.in_groups(script);
        let braid = Braid::before(&target, Manner { mode: "sessions", in_turn: true });
        let load = Load::start(braid.endpoint());
        let scene = Self { load, braid, target, net };
        scene.until("every path is up", |now| {
            scene.braid.paths().iter().all(|path| now.connections(path) > 0.0)
        });
        scene
    }

    fn until(&self, what: &str, good: impl Fn(&Metrics) -> bool) {
        let met = poll(PATIENCE, || good(&self.braid.metrics()).then_some(()));
        assert!(met.is_some(), "in vain, waiting for: {what}\n{}", self.show());
    }

    fn show(&self) -> String {
        format!("{}\n{}", self.braid.metrics().show(), self.braid.log())
    }

    fn well(&self, done: Result<(), String>) {
        done.unwrap_or_else(|why| panic!("{why}\n{}", self.show()));
    }

    /// Does something while a round of the load is under way.
    fn during_a_round(&mut self, action: impl FnOnce(&Self)) {
        let begun = self.load.begin_writes();
        self.well(begun);
        action(self);
        self.well(self.load.end(STALL));
    }

    /// Changes states while a round of the load is under way.
    fn change(&mut self, script: &str) {
        self.during_a_round(|scene| drop(scene.target.in_groups(script)));
    }

    /// Runs rounds of the load until one goes over these paths, all of them, and no others.
    fn until_over(&mut self, what: &str, wanted: &[usize]) {
        let over = poll(PATIENCE, || {
            let before = self.braid.metrics();
            let done = self.load.round(STALL);
            self.well(done);
            let now = self.braid.metrics();
            let moved = |path: &str| now.commands(path) - before.commands(path) > SOME;
            let mut paths = self.braid.paths().iter().enumerate();
            paths.all(|(n, path)| moved(path) == wanted.contains(&n)).then_some(())
        });
        assert!(over.is_some(), "{what}: commands do not go over {wanted:?} alone\n{}", self.show());
    }

    fn finish(self) {
        let end = self.braid.metrics();
        let logins = end.sum("braid_logins_total", &[("result", "accepted")]);
        assert_eq!(logins, 1.0, "the initiator lost its session\n{}", self.show());
        let log = self.braid.log();
        self.load.finish(self.target.disk()).unwrap_or_else(|why| panic!("{why}\n{log}"));
    }
}

/// Changes of states that Braid has seen.
fn changes(now: &Metrics) -> f64 {
    now.sum("braid_access_changes_total", &[])
}

/// Transitions that Braid has asked for.
fn transitions(now: &Metrics) -> f64 {
    now.sum("braid_transitions_total", &[])
}

/// Sets the states of both groups, as SPC numbers them.
fn states(first: u8, second: u8) -> String {
    format!("echo {first} >group1/alua_access_state\necho {second} >group2/alua_access_state\n")
}

#[test]
fn states_change_under_load() {
    let _place = HEAVY.enter();
    let implicit = "for n in 1 2; do echo 1 >group$n/alua_access_type; done\n";
    let mut scene = Scene::new(&(implicit.to_owned() + &states(0, 1)));
    scene.until_over("second non-optimized", &FIRST);
    let before = changes(&scene.braid.metrics());
    scene.target.in_groups("echo 15 >group1/alua_access_state\n");
    scene.during_a_round(|scene| {
        scene.until("the transition is seen", |now| changes(now) > before);
        scene.target.in_groups("echo 0 >group1/alua_access_state\n");
    });
    scene.until_over("first optimized after a transition", &FIRST);
    for _ in 0..2 {
        // Over the paths in use LIO tells nothing of the other group: what becomes better there comes first.
        scene.change("echo 0 >group2/alua_access_state\necho 1 >group1/alua_access_state\n");
        scene.until_over("second optimized, first non-optimized", &SECOND);
        scene.change("echo 2 >group1/alua_access_state\n");
        scene.until_over("first standby", &SECOND);
        scene.change(
            "for n in 1 2; do echo 500 >group$n/trans_delay_msecs; done\n\
             echo 2 >group2/alua_access_state & echo 0 >group1/alua_access_state\nwait\n\
             for n in 1 2; do echo 0 >group$n/trans_delay_msecs; done\n",
        );
        scene.until_over("exchanged by way of transitioning", &FIRST);
        scene.change("echo 3 >group2/alua_access_state\necho 1 >group1/alua_access_state\n");
        scene.until_over("second unavailable, first non-optimized", &FIRST);
        scene.change("echo 0 >group1/alua_access_state\n");
        scene.until_over("first optimized", &FIRST);
    }
    assert_eq!(transitions(&scene.braid.metrics()), 0.0, "one was asked for\n{}", scene.show());
    scene.finish();
}

#[test]
fn a_group_is_made_active_when_no_other_is() {
    let _place = HEAVY.enter();
    let mut scene = Scene::new(&states(0, 2));
    scene.until_over("second standby", &FIRST);
    let [first, last] = FIRST;
    scene.during_a_round(|scene| scene.net.cut(first, Cut::Reset));
    scene.until_over("one path of first is left", &[last]);
    assert_eq!(transitions(&scene.braid.metrics()), 0.0, "while a path was active\n{}", scene.show());
    let paths = scene.braid.paths().to_vec();
    let carried = |now: &Metrics| {
        let of_second = paths.iter().enumerate().filter(|(n, _)| SECOND.contains(n));
        of_second.map(|(_, path)| now.commands(path)).sum::<f64>()
    };
    let before = carried(&scene.braid.metrics());
    scene.during_a_round(|scene| scene.net.cut(last, Cut::Reset));
    let now = scene.braid.metrics();
    let asked = transitions(&now) == 1.0 && carried(&now) > before + SOME;
    assert!(asked, "second was not made active, or not used\n{}", scene.show());
    let states = scene.target.in_groups("cat group?/alua_access_state");
    assert_eq!(states, "0\n0\n");
    // So that newer writes need not wait until only time has fenced the cut paths: no other portal leads to their group.
    FIRST.iter().for_each(|path| scene.net.heal(*path));
    scene.until_over("all are back", &[FIRST, SECOND].concat());
    scene.finish();
}
