//! A file system on the kernel's initiator: made, filled, read again and compared while each path is cut and mended, and whole
//! after a logout. The steps are in `files.sh`. Braid is the initiator's portal, or carries it on its way to the target's.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::braid::Braid;
use crate::net::{Cut, GATE_ADDRESS, Net};
use crate::process::temporary;
use crate::target::{Endpoint, Kind, Site, Target};
use crate::uml::Machine;
use crate::wait::{HEAVY, PATIENCE, poll};

const STEPS: &str = include_str!("files.sh");
const LIMIT: Duration = Duration::from_secs(180);
const SIZE: u64 = 64 << 20;

/// Files of all sizes, each with a content of its own; 6 MiB.
fn fill(dir: &Path) {
    for n in 0..64_usize {
        let inside = dir.join(format!("{}", n % 4));
        fs::create_dir_all(&inside).expect("directory");
        let content: Vec<u8> = (0..n * n * 75).map(|at| (at / 251 + at * (n + 1)).to_le_bytes()[0]).collect();
        fs::write(inside.join(format!("file{n}")), content).expect("file");
    }
}

/// Cuts a path under the work and mends it once its connection is lost; the work goes on over the other, and over it again.
fn cut_and_mend(braid: &Braid, net: &Net, path: usize, how: Cut) {
    let name = braid.paths().get(path).expect("a path");
    let show = || format!("{name}\n{}\n{}", braid.metrics().show(), braid.log());
    let works = || {
        let before = braid.metrics().bytes(name);
        poll(PATIENCE, || (braid.metrics().bytes(name) > before).then_some(()))
    };
    assert!(works().is_some(), "no work goes over it: {}", show());
    net.cut(path, how);
    let lost = || (braid.metrics().connections(name) == 0.0).then_some(());
    assert!(poll(PATIENCE, lost).is_some(), "not lost: {}", show());
    net.heal(path);
    assert!(works().is_some(), "no work goes over it again: {}", show());
}

fn survive(kind: Kind, intercepted: bool) {
    let _place = HEAVY.enter();
    crate::setup::tools();
    let net = Net::new(2);
    net.open_gate();
    let guest = Machine::initiator(net.near());
    let target = Target::start(kind, Site::Behind(&net), SIZE);
    let braid = if intercepted {
        Braid::intercepting(&target, "tproxy", true, "")
    } else {
        Braid::at(GATE_ADDRESS, &target)
    };
    let endpoint = if intercepted {
        braid.intercept(&["--apply"]).expect_ok();
        target.endpoints().first().expect("a portal")
    } else {
        braid.endpoint()
    };
    let files = temporary();
    fill(files.path());
    let Endpoint { portal, iqn, lun, .. } = endpoint;
    let files = files.path().display();
    let steps = format!("iqn={iqn}\nportal={portal}\nlun={lun}\nfiles={files}\n{STEPS}");
    guest.run_for(LIMIT, &format!("{steps}begin\n"));
    cut_and_mend(&braid, &net, 0, Cut::Drop);
    cut_and_mend(&braid, &net, 1, Cut::Reset);
    let said = guest.run_for(LIMIT, &format!("{steps}end\n"));
    assert_eq!(said.trim(), "the work went well\nend", "{}\n{}", guest.log(), braid.log());
    let end = braid.metrics();
    let logins = end.sum("braid_logins_total", &[("result", "accepted")]);
    assert_eq!(logins, 2.0, "the cuts were to cost no session\n{}\n{}", end.show(), braid.log());
}

#[test]
fn through_braid_as_portal() {
    survive(Kind::Tgt, false);
}

#[test]
fn intercepted() {
    survive(Kind::Tgt, true);
}
