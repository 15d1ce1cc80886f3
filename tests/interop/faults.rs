//! Troubles beyond a cut link, each under a load that overlaps itself ([`Steady`]) and is judged block by block: targets that
//! stop, or are killed and come back; links that flap; a second initiator whose links are well; a disk that still works on
//! writes of a path that is gone.
//!
//! What must hold: no command fails, no block holds what it must not, and what only looks like a dead path costs none.

use std::time::{Duration, Instant};

use crate::braid::{Braid, Manner, Metrics};
use crate::net::{Cut, Net};
use crate::stage::{Stage, Via};
use crate::steady::{Manners, Steady};
use crate::target::{Kind, Site, Target};
use crate::trouble::{Dice, Trouble, pause};
use crate::wait::{HEAVY, PATIENCE, poll};

const DISK: u64 = 64 << 20;
/// How long a target does nothing.
const STOP_MS: u64 = 5000;
/// Operations that show that the load goes on.
const SOME_OPERATIONS: u64 = 500;
/// What a path must have moved to count as carrying.
const SOME_BYTES: f64 = 100_000.0;
/// A fence that waits is not there after so long; one that does not wait takes some milliseconds.
const FENCELESS: Duration = Duration::from_secs(3);
/// What Braid may use: its budget for write data, the same again, and what a program needs.
const MEMORY: u64 = (2 * 64 + 64) << 20;

/// Small operations all over the place.
const WIDE: Manners = Manners {
    name: "wide",
    depth: 16,
    reads: 40,
    flushes: 1,
    sizes: (4096, 65_536),
    region: (0, 32 << 11),
    blank: false,
};
/// Operations that mostly meet each other: an older write that comes late is seen.
const NARROW: Manners = Manners {
    name: "narrow",
    depth: 8,
    reads: 30,
    flushes: 0,
    sizes: (4096, 4096),
    region: (0, 256),
    blank: false,
};

/// Writes that fill every buffer.
const LARGE: Manners = Manners {
    name: "large",
    depth: 32,
    reads: 0,
    flushes: 0,
    sizes: (1 << 20, 1 << 20),
    region: (0, 64 << 11),
    blank: false,
};

/// Braid with a load on it.
struct Scene<'a> {
    braid: &'a Braid,
    load: Steady,
}

impl<'a> Scene<'a> {
    fn new(braid: &'a Braid, manners: &Manners) -> Self {
        Self { braid, load: Steady::start(braid.endpoint(), manners) }
    }

    /// Waits until something is `good`, as long as the load goes on.
    fn until(&self, what: &str, good: impl Fn(&Metrics) -> bool) {
        let met = poll(PATIENCE, || {
            (self.load.is_over() || good(&self.braid.metrics())).then(|| !self.load.is_over())
        });
        if met != Some(true) {
            let (state, log) = (self.braid.metrics().show(), self.braid.log());
            panic!("in vain, waiting for: {what}\n{:?}\n{state}\n{log}", self.load.progress().sample());
        }
    }

    /// Waits until every path is up and each has moved something from now on.
    fn until_carrying(&self, what: &str) {
        let before = self.braid.metrics();
        self.until(what, |now| {
            self.braid
                .paths()
                .iter()
                .all(|path| now.connections(path) > 0.0 && now.bytes(path) > before.bytes(path) + SOME_BYTES)
        });
    }

    /// Waits until the load has moved on.
    fn until_moving(&self, what: &str) {
        let before = self.load.progress().sample().operations;
        self.until(what, |_| self.load.progress().sample().operations > before + SOME_OPERATIONS);
    }

    /// Nothing may have gone wrong, and the initiator still has its first session.
    fn finish(self) {
        self.load.finish().unwrap_or_else(|why| panic!("{why}\n{}", self.braid.log()));
        let end = self.braid.metrics();
        let logins = end.sum("braid_logins_total", &[("result", "accepted")]);
        assert_eq!(logins, 1.0, "the initiator lost its session\n{}\n{}", end.show(), self.braid.log());
    }
}

/// A target that does nothing for some seconds, its kernel being well, is slow, and not one of its paths is dead.
fn stopped(kind: Kind, mode: &'static str, net: &Net, manners: &Manners) {
    let _place = HEAVY.enter();
    let stage = Stage::new(kind, Site::Behind(net), Via::Braid(mode), DISK);
    let scene = Scene::new(stage.braid(), manners);
    scene.until_carrying("every path carries");
    let before = scene.braid.metrics().losses();
    stage.target().stop(true);
    pause(STOP_MS);
    stage.target().stop(false);
    scene.until_carrying("every path carries again");
    let end = scene.braid.metrics();
    assert_eq!(end.losses(), before, "a slow target is no dead path\n{}\n{}", end.show(), scene.braid.log());
    scene.finish();
}

/// A bad link, which loses packets or keeps some for a while, is no dead path either.
fn bad(kind: Kind, net: &Net, loss: Option<u32>) {
    let _place = HEAVY.enter();
    let stage = Stage::new(kind, Site::Behind(net), Via::Braid("auto"), DISK);
    if let Some(one_in) = loss {
        net.cut(0, Cut::Loss(one_in));
    }
    let scene = Scene::new(stage.braid(), &WIDE);
    for _ in 0..5 {
        scene.until_carrying("every path carries");
        scene.until_moving("the load goes on");
    }
    let end = scene.braid.metrics();
    assert_eq!(end.losses(), 0.0, "a bad link is no dead path\n{}\n{}", end.show(), scene.braid.log());
    scene.finish();
}

/// A target that dies under load and comes back.
fn restarted(kind: Kind) {
    let _place = HEAVY.enter();
    let net = Net::new(2);
    let mut target = Target::start(kind, Site::Behind(&net), DISK);
    let braid = Braid::before(&target, Manner { mode: "auto", in_turn: false });
    let scene = Scene::new(&braid, &WIDE);
    scene.until_carrying("every path carries");
    target.restart();
    scene.until_carrying("every path carries again");
    scene.finish();
}

/// One disk behind two targets of different names. Each dies under load and comes back, and flushes go to both.
fn two_names(kind: Kind) {
    let _place = HEAVY.enter();
    let mut first = Target::start(kind, Site::Alone(1), DISK);
    let mut twin = first.twin();
    let braid = Braid::over(&[first.endpoints(), twin.endpoints()].concat(), "sessions", "");
    let scene = Scene::new(&braid, &Manners { flushes: 5, ..WIDE });
    scene.until_carrying("every path carries");
    for target in [&mut twin, &mut first] {
        target.restart();
        scene.until_carrying("every path carries again");
        scene.until_moving("the load goes on");
    }
    scene.finish();
}

/// A link that goes up and down, quickly and less so.
fn flapping(kind: Kind, cut: Cut) {
    let _place = HEAVY.enter();
    let net = Net::new(2);
    let mut target = Target::start(kind, Site::Behind(&net), DISK);
    let braid = Braid::before(&target, Manner { mode: "auto", in_turn: false });
    let scene = Scene::new(&braid, &WIDE);
    scene.until_carrying("every path carries");
    Trouble::Flapping(0, cut).begin(&net, Some(&mut target));
    scene.until_moving("the load goes on");
    scene.until_carrying("every path carries again");
    scene.finish();
}

/// Two initiators behind a Braid each, on one disk, over links of their own: the links of one are cut.
fn two_initiators(kind: Kind, cut: Cut) {
    let _place = HEAVY.enter();
    let net = Net::new(4);
    let target = Target::start(kind, Site::Behind(&net), DISK);
    let (ours, others) = target.endpoints().split_at(2);
    let [hurt, well] = [ours, others].map(|portals| Braid::over(portals, "sessions", ""));
    let half = DISK / 512 / 2;
    let hurt = Scene::new(&hurt, &Manners { name: "hurt", ..WIDE });
    let well = Scene::new(&well, &Manners { name: "well", region: (half, half / 2), ..WIDE });
    for scene in [&hurt, &well] {
        scene.until_carrying("every path carries");
    }
    for path in 0..2 {
        net.cut(path, cut);
        hurt.until("the cut is seen", |now| now.losses() > 0.0);
        well.until_carrying("the other initiator's paths carry");
        hurt.until_moving("one link is enough");
        net.heal(path);
        hurt.until_carrying("every path carries again");
    }
    let unhurt = well.braid.metrics();
    assert_eq!(unhurt.losses(), 0.0, "links that were well\n{}\n{}", unhurt.show(), well.braid.log());
    hurt.finish();
    well.finish();
}

/// Writes are inside the disk when their path is cut. They are done again over the other path, and answered; newer ones to the
/// same blocks must wait until the disk has let go of the old ones, which come last of all.
fn kept_in_the_disk(kind: Kind, cut: Cut) {
    let _place = HEAVY.enter();
    let net = Net::new(2);
    let stage = Stage::new(kind, Site::Behind(&net), Via::Braid("auto"), DISK);
    let braid = stage.braid();
    let scene = Scene::new(braid, &NARROW);
    for (path, name) in braid.paths().iter().enumerate() {
        scene.until_carrying("every path carries");
        let (before, held) = (braid.metrics(), stage.target().hold_writes());
        scene.until("writes of the path are in the disk", |now| now.in_flight(name) > 0.0 && settled(&scene));
        held.pass();
        net.cut(path, cut);
        scene.until("they are asked again elsewhere, and the path is given up", |now| {
            now.asked_again() > before.asked_again() && now.losses() > before.losses()
        });
        let early = poll(FENCELESS, || (all_fences(&braid.metrics()) > all_fences(&before)).then_some(()));
        assert!(early.is_none(), "a fence while the disk keeps writes\n{}", braid.log());
        drop(held);
        scene.until_moving("newer writes go on");
        net.heal(path);
    }
    scene.until_carrying("every path carries at the end");
    scene.finish();
}

/// Whether the load has come to a standstill.
fn settled(scene: &Scene<'_>) -> bool {
    let before = scene.load.progress().sample().operations;
    pause(100);
    scene.load.progress().sample().operations == before
}

fn all_fences(metrics: &Metrics) -> f64 {
    metrics.sum("braid_fences_total", &[])
}

/// Trouble after trouble, whatever it may be, for some seconds; `cargo bench --bench failover -- --soak 30` has more of it.
fn soak(kind: Kind, seed: u64) {
    const TIME: Duration = Duration::from_secs(10);
    let _place = HEAVY.enter();
    let net = Net::new(2);
    let mut target = Target::start(kind, Site::Behind(&net), DISK);
    let braid = Braid::before(&target, Manner { mode: "auto", in_turn: false });
    let scene = Scene::new(&braid, &WIDE);
    let (mut dice, end) = (Dice::new(seed), Instant::now() + TIME);
    while Instant::now() < end {
        let trouble = Trouble::random(&mut dice, 2, true);
        trouble.begin(&net, Some(&mut target));
        pause(dice.below(2000));
        trouble.end(&net, Some(&mut target));
        scene.until_moving(&format!("the load goes on after {trouble:?}"));
        let memory = braid.resident();
        assert!(memory < MEMORY, "{memory} bytes of memory\n{}", braid.metrics().show());
    }
    scene.until_carrying("every path carries at the end");
    scene.finish();
}

#[test]
fn tgt_stopped() {
    stopped(Kind::Tgt, "sessions", &Net::new(2), &WIDE);
}

#[test]
fn tgt_mcs_stopped() {
    stopped(Kind::TgtMcs, "mcs", &Net::new(2), &WIDE);
}

#[test]
fn tgt_stopped_with_full_buffers() {
    let net = Net::new(2);
    net.squeeze();
    stopped(Kind::Tgt, "sessions", &net, &LARGE);
}

/// Not with several connections per session: istgt then ends one whose ping it takes up after a later command of another one,
/// as it does when both were waiting for it.
#[test]
fn istgt_stopped() {
    stopped(Kind::Istgt, "sessions", &Net::new(2), &WIDE);
}

#[test]
fn tgt_over_a_link_that_loses() {
    bad(Kind::Tgt, &Net::new(2), Some(50));
}

#[test]
fn tgt_over_a_link_with_jitter() {
    bad(Kind::Tgt, &Net::with_jitter(2, Duration::from_millis(50)), None);
}

#[test]
fn tgt_restarted() {
    restarted(Kind::Tgt);
}

#[test]
fn tgt_mcs_restarted() {
    restarted(Kind::TgtMcs);
}

#[test]
fn tgt_two_names() {
    two_names(Kind::Tgt);
}

#[test]
fn tgt_flapping_silently() {
    flapping(Kind::Tgt, Cut::Drop);
}

#[test]
fn tgt_flapping_with_resets() {
    flapping(Kind::Tgt, Cut::Reset);
}

#[test]
fn tgt_mcs_flapping_with_resets() {
    flapping(Kind::TgtMcs, Cut::Reset);
}

#[test]
fn tgt_two_initiators() {
    two_initiators(Kind::Tgt, Cut::Reset);
}

#[test]
fn istgt_two_initiators() {
    two_initiators(Kind::Istgt, Cut::Reset);
}

#[test]
fn tgt_keeps_writes_reset() {
    kept_in_the_disk(Kind::Tgt, Cut::Reset);
}

#[test]
fn tgt_keeps_writes_drop_in() {
    kept_in_the_disk(Kind::Tgt, Cut::DropIn);
}

#[test]
fn tgt_mcs_keeps_writes_reset() {
    kept_in_the_disk(Kind::TgtMcs, Cut::Reset);
}

#[test]
fn tgt_soak() {
    soak(Kind::Tgt, 1);
}

#[test]
fn tgt_mcs_soak() {
    soak(Kind::TgtMcs, 2);
}
