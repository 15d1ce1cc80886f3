//! Targets that the configuration does not write out: Braid asks portals, some of them dead, and serves what these tell.
//!
//! What was learned about targets: tgt tells of the portal that was asked alone, istgt of all in the group. tgt redirects logins at
//! whichever portal, the one that it redirects to included.

use std::time::Duration;

use crate::braid::Braid;
use crate::chap::LOG_IN;
use crate::net::{Cut, GATE_ADDRESS, Net, Wire, loopback};
use crate::process::{Daemon, Done, command, run, temporary, words};
use crate::target::{Endpoint, Kind, Site, Target};
use crate::uml::Machine;
use crate::wait::{HEAVY, PATIENCE, poll};

const LIMIT: Duration = Duration::from_secs(60);
const SIZE: u64 = 16 << 20;

fn call(endpoint: &Endpoint, tool: &[&str], url: String) -> Done {
    run(command(endpoint.netns.as_deref(), &[words(tool), vec![url]].concat()), LIMIT)
}

fn portals(target: &Target) -> Vec<String> {
    target.endpoints().iter().map(|endpoint| endpoint.portal.clone()).collect()
}

/// A load at this endpoint, under which the second link is mended: its path joins the session and carries data.
fn assert_joins(braid: &Braid, net: &Net, endpoint: &Endpoint) {
    let dir = temporary();
    let load = ["iscsi-perf", "-m", "8", "-b", "8", "-t", "15"];
    let line = [words(&load), vec![endpoint.url()]].concat();
    let mut load = Daemon::start("load", dir.path(), command(endpoint.netns.as_deref(), &line));
    let [first, second] = braid.paths() else { panic!("two paths") };
    let carries = |path: &str| poll(PATIENCE, || (braid.metrics().bytes(path) > 0.0).then_some(()));
    let show = || format!("{}\n{}", braid.metrics().show(), braid.log());
    assert!(carries(first).is_some(), "{}", show());
    assert_eq!(braid.metrics().bytes(second), 0.0, "its portal is dead\n{}", show());
    net.heal(1);
    assert!(carries(second).is_some(), "{}", show());
    load.end();
}

/// Nothing on the initiator changes, and of the target nothing is known but its portals, one of which is dead.
#[test]
fn intercepted_with_a_dead_portal() {
    let _place = HEAVY.enter();
    let net = Net::new(2);
    let target = Target::start(Kind::Tgt, Site::Behind(&net), SIZE);
    let other = target.second();
    // What comes from there gets through, so that Braid can answer in its place.
    net.cut(1, Cut::DropOut);
    let braid = Braid::discovering(&target, None, "iqn.*:disk", &portals(&target));
    braid.intercept(&["--apply"]).expect_ok();
    let [first, dead] = target.endpoints() else { panic!("two portals") };
    for endpoint in [first, dead] {
        call(endpoint, &["iscsi-inq"], endpoint.url()).expect_ok();
        let found = call(endpoint, &["iscsi-ls"], endpoint.portal_url()).expect_ok().stdout;
        assert!(found.contains(&format!("Target:{} Portal:{},1", endpoint.iqn, endpoint.portal)), "{found}");
    }
    assert_eq!(braid.metrics().sum("braid_connections_passed_on_total", &[]), 0.0, "{}", braid.log());
    call(&other, &["iscsi-inq"], other.url()).expect_ok();
    assert_eq!(braid.metrics().sum("braid_connections_passed_on_total", &[]), 1.0, "{}", braid.log());
    assert_joins(&braid, &net, first);
    let shown = braid.discover().expect_ok().stdout;
    for path in [
        "path 10.0.0.2:23260 from 10.0.0.1, portal group 1",
        "path 10.1.0.2:23260 from 10.1.0.1, portal group 1",
    ] {
        assert!(shown.contains(path), "{shown}");
    }
    assert!(!shown.contains(":second"), "{shown}");
}

/// One portal tells of both, of which the other is dead.
#[test]
fn a_dead_portal_is_told_of() {
    let _place = HEAVY.enter();
    let net = Net::new(2);
    let target = Target::start(Kind::Istgt, Site::Behind(&net), SIZE);
    net.cut(1, Cut::Drop);
    let asked = portals(&target);
    let braid = Braid::discovering(&target, Some(&loopback()), "*", asked.get(..1).expect("a portal"));
    call(braid.endpoint(), &["iscsi-inq"], braid.endpoint().url()).expect_ok();
    assert_joins(&braid, &net, braid.endpoint());
}

/// All targets of a machine, by discovery at Braid's address.
#[test]
fn all_targets_are_found_at_braids_address() {
    let _place = HEAVY.enter();
    let net = Net::new(2);
    let target = Target::start(Kind::Tgt, Site::Behind(&net), SIZE);
    let other = target.second();
    net.cut(1, Cut::Drop);
    let braid = Braid::discovering(&target, Some(&loopback()), "*", &portals(&target));
    let found = call(braid.endpoint(), &["iscsi-ls"], braid.endpoint().portal_url()).expect_ok().stdout;
    for iqn in [&braid.endpoint().iqn, &other.iqn] {
        let line = format!("Target:{iqn} Portal:{},1", braid.endpoint().portal);
        assert!(found.lines().any(|shown| shown == line), "{line}\n{found}\n{}", braid.log());
        let endpoint = Endpoint { iqn: iqn.clone(), ..braid.endpoint().clone() };
        call(&endpoint, &["iscsi-inq"], endpoint.url()).expect_ok();
    }
    let mut told = braid.discover();
    assert!(told.stdout.contains("portal 10.1.0.2:23260: cannot connect"), "{}", told.show());
    net.heal(1);
    told = braid.discover();
    assert!(told.stdout.contains("portal 10.1.0.2:23260: 2 targets"), "{}", told.show());
}

/// The kernel's initiator, on a machine of its own: what it finds at Braid's address works.
#[test]
fn the_kernels_initiator_finds_what_braid_has_found() {
    let _place = HEAVY.enter();
    crate::setup::tools();
    let net = Net::new(2);
    net.open_gate();
    let guest = Machine::initiator(net.near());
    let target = Target::start(Kind::Tgt, Site::Behind(&net), SIZE);
    net.cut(0, Cut::Drop);
    let braid = Braid::discovering(&target, Some(GATE_ADDRESS), "*", &portals(&target));
    let Endpoint { portal, iqn, lun, .. } = braid.endpoint();
    let found = guest.run_for(LIMIT, &format!("iscsiadm -m discovery -t sendtargets -p {portal}\n"));
    assert_eq!(found.trim(), format!("{portal},1 {iqn}"), "{}", braid.log());
    let begin = format!("{LOG_IN}iqn={iqn}\nportal={portal}\nlun={lun}\n");
    assert_eq!(
        guest.run_for(LIMIT, &format!("{begin}works '' '' '' '' ''\n")).trim(),
        "works",
        "{}",
        braid.log()
    );
}

/// Portal groups of a LIO, by one of its portals: the paths stand group by group, and all carry data.
#[test]
fn portal_groups_stand_together() {
    let _place = HEAVY.enter();
    let net = Net::to_guest(4, Wire::Tap);
    let target = Target::start(Kind::LioGroups, Site::Behind(&net), SIZE);
    let all = portals(&target);
    let braid = Braid::discovering(&target, Some(&loopback()), "*", all.get(2..3).expect("a portal"));
    let shown = braid.discover().expect_ok().stdout;
    let paths: Vec<_> = shown.lines().filter_map(|line| line.trim().strip_prefix("path ")).collect();
    let expected = [(0, 1), (2, 1), (1, 2), (3, 2)]
        .map(|(n, group)| format!("10.{n}.0.2:23260 from 10.{n}.0.1, portal group {group}"));
    assert_eq!(paths, expected, "{shown}");
    let endpoint = braid.endpoint();
    call(endpoint, &["iscsi-perf", "-m", "16", "-b", "8", "-t", "4"], endpoint.url()).expect_ok();
    let metrics = braid.metrics();
    for path in &all {
        assert!(metrics.bytes(path) > 0.0, "{path}\n{}\n{}", metrics.show(), braid.log());
    }
}

/// tgt sends logins elsewhere for good, to another tgt: Braid follows, and goes there at once from the second session on.
#[test]
fn a_portal_that_has_moved_for_good() {
    let _place = HEAVY.enter();
    let [old, new] = [(); 2].map(|()| Target::start(Kind::Tgt, Site::Alone(1), SIZE));
    let braid = Braid::over(old.endpoints(), "sessions", "");
    let portal = new.endpoints().first().expect("a portal").portal.clone();
    let (address, port) = portal.rsplit_once(':').expect("a port");
    old.set_keys(&[("RedirectAddress", address), ("RedirectPort", port), ("RedirectReason", "Permanent")]);
    let endpoint = braid.endpoint();
    for session in 1..=2 {
        call(endpoint, &["iscsi-inq"], endpoint.url()).expect_ok();
        let met = braid.metrics().sum("braid_login_redirects_total", &[("kind", "permanent")]);
        assert_eq!(met, 1.0, "session {session}\n{}", braid.log());
    }
}

/// tgt sends logins elsewhere from whichever portal, the one that it names included.
#[test]
fn a_portal_that_has_moved_to_itself() {
    let _place = HEAVY.enter();
    let target = Target::start(Kind::Tgt, Site::Alone(1), SIZE);
    let braid = Braid::over(target.endpoints(), "sessions", "");
    let portal = target.endpoints().first().expect("a portal").portal.clone();
    let (address, port) = portal.rsplit_once(':').expect("a port");
    target.set_keys(&[("RedirectAddress", address), ("RedirectPort", port), ("RedirectReason", "Temporary")]);
    let endpoint = braid.endpoint();
    assert!(!call(endpoint, &["iscsi-inq"], endpoint.url()).ok(), "{}", braid.log());
    assert!(braid.log().contains("redirected in circles"), "{}", braid.log());
}
