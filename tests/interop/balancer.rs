//! HAProxy before Braid: by the header that it sends, in both versions, Braid knows whose a connection is.
//!
//! HAProxy's own connections have an address that `allow` does not let in, and it checks all the while whether Braid is there.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use crate::braid::Braid;
use crate::net::{PORT, loopback};
use crate::process::{Daemon, Done, command, run, temporary, words};
use crate::target::{Endpoint, Kind, Site, Target, connects};
use crate::wait::{HEAVY, PATIENCE, poll};

const LIMIT: Duration = Duration::from_secs(60);
/// Where connections on loopback come from.
const HERE: &str = "127.0.0.1";
/// How it introduces connections, on ports that follow each other.
const MANNERS: [&str; 3] = ["send-proxy check", "send-proxy-v2 check", ""];

/// A HAProxy with a portal for each of the manners.
struct HaProxy {
    daemon: Daemon,
    portals: Vec<String>,
    _dir: TempDir,
}

impl HaProxy {
    fn start(address: &str, braid: &Endpoint) -> Self {
        let mut text =
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n".to_owned();
        let mut portals = Vec::new();
        for (port, manner) in (PORT..).zip(MANNERS) {
            let portal = format!("{address}:{port}");
            let server = format!("server braid {} source {address} inter 100ms {manner}", braid.portal);
            text += &format!("listen l{port}\n bind {portal}\n {server}\n");
            portals.push(portal);
        }
        let dir = temporary();
        let file = dir.path().join("haproxy.cfg");
        fs::write(&file, text).expect("configuration");
        let line = words(&["haproxy", "-db", "-f", &file.display().to_string()]);
        let daemon = Daemon::start("haproxy", dir.path(), command(None, &line));
        Self { daemon, portals, _dir: dir }
    }

    /// Its portals, as ways to what is behind Braid.
    fn endpoints(&self, braid: &Endpoint) -> Vec<Endpoint> {
        let endpoint = |portal: &String| Endpoint { portal: portal.clone(), ..braid.clone() };
        self.portals.iter().map(endpoint).collect()
    }
}

fn call(program: &[&str], url: String) -> Done {
    run(command(None, &[words(program), vec![url]].concat()), LIMIT)
}

#[test]
fn haproxy_tells_whose_connections_are_whose() {
    let _place = HEAVY.enter();
    crate::setup::tools();
    let target = Target::start(Kind::Tgt, Site::Alone(2), 16 << 20);
    let balancer = loopback();
    let allow = format!("allow = {{ addresses = [{HERE:?}] }}");
    let braid = Braid::behind(&balancer, &target, &loopback(), &allow);
    let haproxy = HaProxy::start(&balancer, braid.endpoint());
    let [v1, v2, bare] = &haproxy.endpoints(braid.endpoint())[..] else { panic!("three") };
    // It has opened all portals when it serves one; the others would count who only connects.
    let up = poll(PATIENCE, || connects(bare).then_some(()));
    assert!(up.is_some(), "HAProxy does not serve\n{}", haproxy.daemon.log());
    let said = || format!("{}\n{}", braid.log(), haproxy.daemon.log());
    for endpoint in [v1, v2] {
        let found = call(&["iscsi-ls"], endpoint.portal_url()).expect_ok().stdout;
        let wanted = format!("Target:{} Portal:{},1", endpoint.iqn, endpoint.portal);
        assert_eq!(found.trim(), wanted, "discovery shows the way back\n{}", said());
        let inquiry = |endpoint: &Endpoint| call(&["iscsi-inq"], endpoint.url()).expect_ok().stdout;
        assert_eq!(inquiry(endpoint), inquiry(target.endpoints().first().expect("a portal")));
        call(&["iscsi-perf", "-m", "32", "-b", "8", "-t", "1", "-r"], endpoint.url()).expect_ok();
    }
    let log = braid.whole_log();
    let sessions: Vec<&str> = log.lines().filter(|line| line.contains("session begins")).collect();
    assert!(
        !sessions.is_empty() && sessions.iter().all(|line| line.contains(&format!("peer={HERE}:"))),
        "{log}"
    );
    // Whom nobody introduces is not let in, by the way round nor by the straight one.
    let logins = |result| braid.metrics().sum("braid_logins_total", &[("result", result)]);
    let counted = || ["accepted", "discovery", "protocol", "unfinished"].map(logins);
    let [accepted, discovery, ..] = counted();
    assert_eq!(counted(), [accepted, discovery, 0.0, 0.0], "checks are no logins\n{}", said());
    let strangers = [(bare, "without a PROXY protocol header"), (braid.endpoint(), "not from a balancer")];
    for (endpoint, why) in strangers {
        assert!(!call(&["iscsi-inq"], endpoint.url()).ok(), "{why}");
        let told = |line: &str| line.contains(why) && line.contains("WARN");
        assert!(braid.whole_log().lines().any(told), "{why}\n{}", said());
    }
    assert_eq!((logins("accepted"), logins("protocol")), (accepted, 1.0), "{}", said());
}
