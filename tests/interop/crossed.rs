//! Two LIO targets of different names that show the same two disks, each under the LUN that the other one has at the other
//! target: `(first, 0)` is `(second, 1)`, and the other way round.
//!
//! What must hold: both disks are carried over both targets, each known by its identity, and no byte of one gets to the other,
//! whichever target is gone.

use std::sync::Arc;

use crate::braid::{Braid, Metrics};
use crate::lio::Guest;
use crate::net::{Cut, Net, Wire};
use crate::steady::{Manners, Steady};
use crate::target::{Endpoint, Kind, Site, Target};
use crate::wait::{HEAVY, PATIENCE, poll};

const DISK: u64 = 32 << 20;
/// What a path must have moved to count as carrying; also what one alone must have.
const SOME_BYTES: f64 = 2_000_000.0;
/// Both loads use the same blocks of their disks, so that what gets to the wrong one is seen. No flushes: while a target is gone
/// they wait for it.
const MIXED: Manners = Manners {
    name: "first",
    depth: 8,
    reads: 50,
    flushes: 0,
    sizes: (4096, 65_536),
    region: (0, 16 << 11),
    blank: false,
};

struct Scene {
    braid: Braid,
    loads: [Steady; 2],
}

impl Scene {
    fn until(&self, what: &str, good: impl Fn(&Metrics) -> bool) {
        let ended = || self.loads.iter().any(Steady::is_over);
        let met = poll(PATIENCE, || (ended() || good(&self.braid.metrics())).then(|| !ended()));
        assert_eq!(met, Some(true), "in vain: {what}\n{}\n{}", self.braid.metrics().show(), self.braid.log());
    }

    /// Waits until these paths have moved something from now on.
    fn until_carrying(&self, what: &str, paths: &[usize]) {
        let before = self.braid.metrics();
        let chosen: Vec<&String> = paths.iter().filter_map(|n| self.braid.paths().get(*n)).collect();
        self.until(what, |now| chosen.iter().all(|p| now.bytes(p) > before.bytes(p) + SOME_BYTES));
    }
}

#[test]
fn each_disk_is_known_at_both_targets() {
    let _place = HEAVY.enter();
    crate::setup::tools();
    let net = Net::to_guest(2, Wire::Tap);
    let guest = Arc::new(Guest::boot(&net));
    let targets = [(); 2].map(|()| Target::start(Kind::Lio, Site::In(&guest, 2), DISK));
    let [first, second] = &targets;
    first.lend(second, 1);
    second.lend(first, 1);
    let portals: Vec<Endpoint> =
        targets.iter().enumerate().filter_map(|(n, target)| target.endpoints().get(n).cloned()).collect();
    let braid = Braid::over(&portals, "sessions", "");
    let endpoint = braid.endpoint().clone();
    let other = Endpoint { lun: 1, ..endpoint.clone() };
    let loads =
        [Steady::start(&endpoint, &MIXED), Steady::start(&other, &Manners { name: "second", ..MIXED })];
    let scene = Scene { braid, loads };
    scene.until_carrying("both targets carry", &[0, 1]);
    for (gone, left) in [(1, 0), (0, 1)] {
        let before = scene.braid.metrics().losses();
        net.cut(gone, Cut::Reset);
        scene.until("the cut is seen", |now| now.losses() > before);
        scene.until_carrying("one target is enough", &[left]);
        net.heal(gone);
        scene.until_carrying("both carry again", &[0, 1]);
    }
    let Scene { braid, loads } = scene;
    for crossed in ["lun=0 there=1", "lun=1 there=0"] {
        assert!(braid.log().contains(crossed), "{crossed} was not found out\n{}", braid.log());
    }
    for load in loads {
        load.finish().unwrap_or_else(|why| panic!("{why}\n{}", braid.log()));
    }
}
