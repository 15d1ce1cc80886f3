//! Addresses for the fixtures, and two network namespaces joined by one link per path.
//!
//! On loopback every fixture gets addresses of its own from 127/8, so that one port can be used everywhere and no two
//! fixtures, in whatever process, ask for the same. Cuts need links: [`Net`] makes a namespace for the initiator
//! and Braid, another for the target, and a veth pair with a subnet of its own per path. Nothing outside these
//! namespaces is touched; they end with the fixture, and those of a killed run are swept away by the next.

use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::process::{Done, command, run, words};

/// Where targets and Braid listen. Not the standard port, which a target of the machine's own may hold on all addresses.
pub(crate) const PORT: u16 = 23260;
const PREFIX: &str = "braidit";
const LIMIT: Duration = Duration::from_secs(30);

/// A loopback address that nobody else uses.
pub(crate) fn loopback() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = 16 + std::process::id() % 200;
    format!("127.{process}.{}.{}", n / 250, 1 + n % 250)
}

/// Removes namespaces of runs that are no more.
pub(crate) fn sweep() {
    let listed = ip("netns list").stdout;
    for name in listed.lines().filter_map(|line| line.split_whitespace().next()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1));
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            ip(&format!("netns del {name}"));
        }
    }
}

/// How a link is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cut {
    /// Both ends are told at once: every packet is answered with a TCP reset.
    Reset,
    /// Nobody is told: packets vanish.
    Drop,
}

/// Two namespaces and the links between them.
pub(crate) struct Net {
    near: String,
    far: String,
    paths: usize,
}

impl Net {
    /// Makes the namespaces and `paths` links.
    pub(crate) fn new(paths: usize) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        crate::setup::tools();
        let id = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let net = Self { near: format!("{PREFIX}-{id}-near"), far: format!("{PREFIX}-{id}-far"), paths };
        for name in [&net.near, &net.far] {
            must(&format!("netns add {name}"));
            must(&format!("-n {name} link set lo up"));
        }
        for path in 0..paths {
            must(&format!("-n {} link add p{path} type veth peer name p{path} netns {}", net.near, net.far));
            for (name, host) in [(&net.near, 1), (&net.far, 2)] {
                must(&format!("-n {name} addr add 10.{path}.0.{host}/24 dev p{path}"));
                must(&format!("-n {name} link set p{path} up"));
            }
        }
        net
    }

    /// The namespace of the initiator and of Braid.
    pub(crate) fn near(&self) -> &str {
        &self.near
    }

    /// The namespace of the target.
    pub(crate) fn far(&self) -> &str {
        &self.far
    }

    /// The target's address on a path.
    pub(crate) fn target_address(path: usize) -> String {
        format!("10.{path}.0.2")
    }

    /// The target's addresses on all paths.
    pub(crate) fn addresses(&self) -> Vec<String> {
        (0..self.paths).map(Self::target_address).collect()
    }

    /// Breaks one path for iSCSI, in both directions; it stays broken until [`Net::heal`].
    pub(crate) fn cut(&self, path: usize, how: Cut) {
        let verdict = match how {
            Cut::Reset => "reject with tcp reset",
            Cut::Drop => "drop",
        };
        for (name, port, host) in [(&self.near, "dport", 2), (&self.far, "sport", 1)] {
            let rules = format!(
                "table ip cut{path} {{ chain out {{ type filter hook output priority 0; \
                 ip daddr 10.{path}.0.{host} tcp {port} {PORT} {verdict}; }}; }}"
            );
            nft(name, &rules).expect_ok();
        }
    }

    /// Mends what [`Net::cut`] broke.
    pub(crate) fn heal(&self, path: usize) {
        for name in [&self.near, &self.far] {
            nft(name, &format!("delete table ip cut{path}")).expect_ok();
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in [&self.near, &self.far] {
            ip(&format!("netns del {name}"));
        }
    }
}

fn ip(arguments: &str) -> Done {
    let line: Vec<String> =
        ["ip"].into_iter().chain(arguments.split_whitespace()).map(str::to_owned).collect();
    run(command(None, &line), LIMIT)
}

fn must(arguments: &str) {
    ip(arguments).expect_ok();
}

fn nft(netns: &str, rules: &str) -> Done {
    run(command(Some(netns), &words(&["nft", rules])), LIMIT)
}
