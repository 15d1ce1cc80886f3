//! Addresses for the fixtures, and network namespaces with one link per path.
//!
//! On loopback every fixture gets addresses of its own from 127/8, so that one port can be used everywhere and no two
//! fixtures, in whatever process, ask for the same. Cuts need links: [`Net`] makes a namespace for the initiator
//! and Braid, and per path a subnet of its own: a veth pair whose other end is in the target's namespace, or a tap for a
//! target that is a guest. An initiator that is a guest has a tap too. Nothing outside these namespaces is touched; they end with the fixture, and those of a killed
//! run are swept away by the next.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::process::{Done, PREFIX, command, orphaned, run, words};

/// Where targets and Braid listen. Not the standard port, which a target of the machine's own may hold on all addresses.
pub(crate) const PORT: u16 = 23260;
const LIMIT: Duration = Duration::from_secs(30);
/// The tap of an initiator in a guest, and the address of its near end.
pub(crate) const GATE: &str = "gate";
pub(crate) const GATE_ADDRESS: &str = "10.200.0.1";

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
    for name in listed.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| orphaned(name))
    {
        ip(&format!("netns del {name}"));
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

/// The initiator's namespace and its links to the target.
pub(crate) struct Net {
    near: String,
    /// `None`: the links are taps, the target is a guest.
    far: Option<String>,
    paths: usize,
}

impl Net {
    /// Makes both namespaces and `paths` links between them.
    pub(crate) fn new(paths: usize) -> Self {
        let id = id();
        let (near, far) = (format!("{PREFIX}-{id}-near"), format!("{PREFIX}-{id}-far"));
        let net = Self { near, far: Some(far.clone()), paths };
        for name in [&net.near, &far] {
            must(&format!("netns add {name}"));
            must(&format!("-n {name} link set lo up"));
        }
        for path in 0..paths {
            must(&format!("-n {} link add p{path} type veth peer name p{path} netns {far}", net.near));
            for (name, host) in [(&net.near, 1), (&far, 2)] {
                must(&format!("-n {name} addr add 10.{path}.0.{host}/24 dev p{path}"));
                must(&format!("-n {name} link set p{path} up"));
            }
        }
        net
    }

    /// Makes the initiator's namespace, with `paths` taps in it for a guest.
    pub(crate) fn with_taps(paths: usize) -> Self {
        let net = Self { near: format!("{PREFIX}-{}-near", id()), far: None, paths };
        let name = &net.near;
        must(&format!("netns add {name}"));
        must(&format!("-n {name} link set lo up"));
        for path in 0..paths {
            must(&format!("-n {name} tuntap add dev p{path} mode tap"));
            must(&format!("-n {name} addr add 10.{path}.0.1/24 dev p{path}"));
            must(&format!("-n {name} link set p{path} up"));
        }
        net
    }

    /// Adds a tap for an initiator in a guest of its own, [`GATE`], and lets it through to the targets.
    pub(crate) fn open_gate(&self) {
        let name = &self.near;
        must(&format!("-n {name} tuntap add dev {GATE} mode tap"));
        must(&format!("-n {name} addr add {GATE_ADDRESS}/24 dev {GATE}"));
        must(&format!("-n {name} link set {GATE} up"));
        let forward = words(&["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"]);
        run(command(Some(name), &forward), LIMIT).expect_ok();
        if let Some(far) = &self.far {
            must(&format!("-n {far} route add 10.200.0.0/24 via 10.0.0.1"));
        }
    }

    /// The namespace of the initiator and of Braid.
    pub(crate) fn near(&self) -> &str {
        &self.near
    }

    /// The namespace of the target, if it has one.
    pub(crate) fn far(&self) -> Option<&str> {
        self.far.as_deref()
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
            // The resets themselves have to get through.
            Cut::Reset => "tcp flags & rst == 0 reject with tcp reset",
            Cut::Drop => "drop",
        };
        let far = Self::target_address(path);
        let chain = |hook: &str, matched: &str| {
            format!("chain {hook} {{ type filter hook {hook} priority 0; {matched} {verdict}; }};")
        };
        let rules = format!(
            "table ip cut{path} {{ {} {} }}",
            chain("output", &format!("ip daddr {far} tcp dport {PORT}")),
            chain("input", &format!("ip saddr {far} tcp sport {PORT}"))
        );
        nft(&self.near, &rules).expect_ok();
    }

    /// Mends what [`Net::cut`] broke.
    pub(crate) fn heal(&self, path: usize) {
        nft(&self.near, &format!("delete table ip cut{path}")).expect_ok();
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in self.far.iter().chain([&self.near]) {
            ip(&format!("netns del {name}"));
        }
    }
}

/// Distinguishes the fixtures of all runs.
fn id() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    crate::setup::tools();
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
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
