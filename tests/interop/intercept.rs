//! Interception: initiators go to the target's own addresses and know nothing of Braid, which carries them over all paths;
//! what is not for a target of Braid's goes on untouched; and nothing is left when the rules are taken down.
//!
//! Initiators are on Braid's machine, or on one that it forwards for.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener};
use std::thread;
use std::time::Duration;

use crate::braid::Braid;
use crate::chap::LOG_IN;
use crate::net::{Net, PORT, within};
use crate::process::{Done, command, run, words};
use crate::target::{Endpoint, Kind, Site, Target, dial};
use crate::uml::Machine;
use crate::wait::HEAVY;

const LIMIT: Duration = Duration::from_secs(60);
const SIZE: u64 = 16 << 20;
/// Where no iSCSI is spoken, though Braid is told that a target is there.
const ODD_PORT: u16 = PORT + 7;

fn call(endpoint: &Endpoint, tool: &[&str], url: String) -> Done {
    run(command(endpoint.netns.as_deref(), &[words(tool), vec![url]].concat()), LIMIT)
}

/// Where an initiator in this namespace finds what another finds there.
fn seen_from(netns: &str, endpoint: &Endpoint) -> Endpoint {
    Endpoint { netns: Some(netns.to_owned()), ..endpoint.clone() }
}

/// Everything, by an initiator in Braid's namespace or in one that it forwards for.
fn all(how: &str, v6: bool, forwarded: bool) {
    let _place = HEAVY.enter();
    crate::setup::tools();
    let mut net = Net::new(2);
    let netns = if forwarded { net.lodge() } else { net.near().to_owned() };
    let site = if v6 { Site::BehindV6(&net) } else { Site::Behind(&net) };
    let target = Target::start(Kind::Tgt, site, SIZE);
    let second = seen_from(&netns, &target.second());
    let own: Vec<Endpoint> = target.endpoints().iter().map(|endpoint| seen_from(&netns, endpoint)).collect();
    let [first, other] = own.as_slice() else { panic!("two portals") };
    let address = first.portal.rsplit_once(':').expect("a port").0;
    let odd = format!("{address}:{ODD_PORT}");
    let more = format!("[[target]]\nname = \"iqn.2026-11.net.braid:odd\"\npaths = [\"{odd}\"]");
    let braid = Braid::intercepting(&target, how, forwarded, &more);
    for _ in 0..2 {
        braid.intercept(&["--apply"]).expect_ok();
    }
    assert_carried(&braid, first);
    discovers(&[first, &second]);
    assert_eq!(braid.metrics().sum("braid_connections_passed_on_total", &[]), 0.0, "{}", braid.log());
    call(&second, &["iscsi-inq"], second.url()).expect_ok();
    talks(&net, &netns, &odd);
    assert_eq!(braid.metrics().sum("braid_connections_passed_on_total", &[]), 3.0, "{}", braid.log());
    straight(&braid, &second);

    braid.intercept(&["--remove"]).expect_ok();
    braid.intercept(&["--remove"]).expect_ok();
    let sessions = || braid.metrics().sum("braid_logins_total", &[]);
    let before = sessions();
    call(other, &["iscsi-inq"], other.url()).expect_ok();
    assert_eq!(sessions(), before, "the rules are gone");
    let left = "nft list ruleset; ip rule | grep fwmark; ip -6 rule | grep fwmark; ip route show table 2846 2>/dev/null; true";
    let left = run(command(Some(net.near()), &words(&["sh", "-c", left])), LIMIT).expect_ok().stdout;
    assert_eq!(left.trim(), "");
}

/// A load at one portal of the target goes over both.
fn assert_carried(braid: &Braid, portal: &Endpoint) {
    call(portal, &["iscsi-inq"], portal.url()).expect_ok();
    call(portal, &["iscsi-perf", "-m", "8", "-b", "8", "-t", "2"], portal.url()).expect_ok();
    let metrics = braid.metrics();
    for path in braid.paths() {
        assert!(metrics.bytes(path) > 0.0, "{path}\n{}\n{}", metrics.show(), braid.log());
    }
}

/// Who goes to the listener itself meets Braid as at any other, and is not passed on.
fn straight(braid: &Braid, second: &Endpoint) {
    let listener = braid.endpoint();
    call(listener, &["iscsi-inq"], listener.url()).expect_ok();
    let unknown = Endpoint { iqn: second.iqn.clone(), ..listener.clone() };
    let refused = call(&unknown, &["iscsi-inq"], unknown.url());
    assert!(!refused.ok() && refused.show().contains("Target not found"), "{}", refused.show());
}

/// Discovery shows the target at the portal that was asked alone, and others as they are.
fn discovers(shown: &[&Endpoint; 2]) {
    let [carried, other] = shown;
    let found = call(carried, &["iscsi-ls"], carried.portal_url()).expect_ok().stdout;
    let of = |iqn: &str| -> Vec<String> {
        let lines = found.lines().filter_map(|line| line.strip_prefix(&format!("Target:{iqn} Portal:")));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(of(&carried.iqn), [format!("{},1", carried.portal)], "{found}");
    assert!(of(&other.iqn).contains(&format!("{},1", other.portal)), "{found}");
}

/// Two conversations of another kind: one begun by the client, which closes its side first, and one begun by the server.
fn talks(net: &Net, netns: &str, address: &str) {
    let question = vec![b'q'; 300_000];
    let listener = within(net.far(), || TcpListener::bind(address).expect("a port"));
    let server = thread::spawn(move || {
        let mut heard = Vec::new();
        let (mut stream, _) = listener.accept().expect("a client");
        stream.read_to_end(&mut heard).expect("a question");
        stream.write_all(b"answered after the end").expect("answer");
        drop(stream);
        let (mut stream, _) = listener.accept().expect("a client");
        stream.write_all(b"220 welcome").expect("greeting");
        heard
    });
    let connect = || within(Some(netns), || dial(address).expect("a connection"));
    let mut client = connect();
    client.write_all(&question).expect("question");
    client.shutdown(Shutdown::Write).expect("half-close");
    let mut heard = String::new();
    client.read_to_string(&mut heard).expect("answer");
    assert_eq!(heard, "answered after the end");
    let mut greeting = String::new();
    connect().read_to_string(&mut greeting).expect("greeting");
    assert_eq!(greeting, "220 welcome");
    assert!(server.join().expect("server") == question, "what arrived is not what was sent");
}

#[test]
fn redirect_ipv4() {
    all("redirect", false, false);
}

#[test]
fn redirect_ipv6() {
    all("redirect", true, false);
}

#[test]
fn redirect_forwarded_ipv4() {
    all("redirect", false, true);
}

#[test]
fn redirect_forwarded_ipv6() {
    all("redirect", true, true);
}

#[test]
fn tproxy_ipv4() {
    all("tproxy", false, false);
}

#[test]
fn tproxy_ipv6() {
    all("tproxy", true, false);
}

#[test]
fn tproxy_forwarded_ipv4() {
    all("tproxy", false, true);
}

#[test]
fn tproxy_forwarded_ipv6() {
    all("tproxy", true, true);
}

/// The kernel's initiator, on a machine of its own behind Braid's: discovery, login, and what it wrote comes back.
#[test]
fn r239_the_kernels_initiator_is_shown_the_portal_it_asked() {
    let _place = HEAVY.enter();
    crate::setup::tools();
    let net = Net::new(2);
    net.open_gate();
    let guest = Machine::initiator(net.near());
    let target = Target::start(Kind::Tgt, Site::Behind(&net), SIZE);
    let braid = Braid::intercepting(&target, "tproxy", true, "");
    braid.intercept(&["--apply"]).expect_ok();
    let Endpoint { portal, iqn, lun, .. } = target.endpoints().first().expect("a portal");
    let begin = format!("{LOG_IN}iqn={iqn}\nportal={portal}\nlun={lun}\n");
    let found = guest.run_for(LIMIT, &format!("iscsiadm -m discovery -t sendtargets -p {portal}\n"));
    assert_eq!(found.trim(), format!("{portal},1 {iqn}"));
    assert_eq!(guest.run_for(LIMIT, &format!("{begin}works '' '' '' '' ''\n")).trim(), "works");
    let metrics = braid.metrics();
    for path in braid.paths() {
        assert!(metrics.bytes(path) > 0.0, "{path}\n{}\n{}", metrics.show(), braid.log());
    }
}

/// Without the right to, nothing is done, and it is said why.
#[test]
fn rules_need_root() {
    crate::setup::tools();
    let net = Net::new(2);
    let target = Target::start(Kind::Tgt, Site::Behind(&net), SIZE);
    let braid = Braid::intercepting(&target, "redirect", false, "");
    let shown = braid.intercept(&[]).expect_ok().stdout;
    assert!(shown.contains("redirect to :23262"), "{shown}");
    let check = format!("braid() {{ printf '%s' \"$1\" | nft -c -f -; }}; braid '{shown}'");
    run(command(Some(net.near()), &words(&["sh", "-c", &check])), LIMIT).expect_ok();
    for what in ["--apply", "--remove"] {
        let refused = braid.intercept_as_nobody(what);
        assert!(!refused.ok() && refused.stderr.contains("run as root"), "{}", refused.show());
    }
}
