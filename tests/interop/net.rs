//! Addresses for the fixtures, and network namespaces with one link per path.
//!
//! On loopback every fixture gets addresses of its own from 127/8, so that one port can be used everywhere and no two
//! fixtures, in whatever process, ask for the same. Cuts need links: [`Net`] makes a namespace for the initiator
//! and Braid, and per path a subnet of its own: a veth pair whose other end is in the target's namespace, or a tap for a
//! target that is a guest. An initiator that is a guest has a tap too. Nothing outside these namespaces is touched; they end with the fixture, and those of a killed
//! run are swept away by the next.
//!
//! What vanishes must vanish behind the sender's back, as on a cable: a packet that a filter drops on its way *out* is an
//! error to the sender's TCP, which then neither counts it as sent nor as lost. So packets are dropped where they arrive. A guest
//! has no filter; what goes there goes to an Ethernet address that is not its own.

use std::fs::File;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fd::AsFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

use crate::process::{Daemon, Done, PREFIX, command, orphaned, run, temporary, words};
use crate::wait::{PATIENCE, poll};

/// Where targets and Braid listen. Not the standard port, which a target of the machine's own may hold on all addresses.
pub(crate) const PORT: u16 = 23260;
const LIMIT: Duration = Duration::from_secs(30);
/// Nobody's Ethernet address.
const NOWHERE: &str = "02:00:00:00:00:99";
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

/// Runs something on a thread of its own inside a network namespace: sockets that it makes belong there.
pub(crate) fn within<T: Send>(netns: Option<&str>, work: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        enter(netns);
        work()
    };
    thread::scope(|scope| scope.spawn(inside).join().expect("work inside a namespace"))
}

/// Moves the calling thread into a network namespace.
pub(crate) fn enter(netns: Option<&str>) {
    if let Some(name) = netns {
        let link = File::open(format!("/run/netns/{name}")).expect("network namespace");
        move_into_link_name_space(link.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
    }
}

/// How a link is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cut {
    /// Both ends are told at once: connections are ended by a TCP reset, and so is every attempt to make one.
    Reset,
    /// Nobody is told: packets vanish.
    Drop,
    /// Those to the initiator vanish.
    DropIn,
    /// Those to the target vanish.
    DropOut,
    /// Connections can be made, but what is said to the target vanishes; to a target that is no guest.
    Mute,
    /// So many of a hundred vanish in each direction; to a guest none, but twice as many from it.
    Loss(u8),
}

impl Cut {
    /// What becomes of packets to the initiator, and of those to the target.
    fn verdicts(self, guest: bool) -> (String, String) {
        let (drop, pass) = (|| "drop".to_owned(), || "accept".to_owned());
        let some = |part: u8| format!("numgen random mod 100 < {part} drop");
        match self {
            // The resets themselves have to get through.
            Self::Reset => ("tcp flags & rst == 0 reject with tcp reset".to_owned(), pass()),
            Self::Drop => (drop(), drop()),
            Self::DropIn => (drop(), pass()),
            Self::DropOut => (pass(), drop()),
            Self::Mute => (pass(), "meta length > 80 drop".to_owned()),
            Self::Loss(part) if guest => (some(2 * part), pass()),
            Self::Loss(part) => (some(part), some(part)),
        }
    }
}

/// The initiator's namespace and its links to the target.
pub(crate) struct Net {
    near: String,
    /// `None`: the links are taps, the target is a guest.
    far: Option<String>,
    /// A machine for which the initiator's one forwards.
    lodger: Option<String>,
    paths: usize,
    /// What carries the first link, if it is not the kernel.
    _carrier: Option<(Daemon, TempDir)>,
}

impl Net {
    /// Makes both namespaces and `paths` links between them.
    pub(crate) fn new(paths: usize) -> Self {
        let (net, far) = Self::apart(paths);
        for path in 0..paths {
            must(&format!("-n {} link add p{path} type veth peer name p{path} netns {far}", net.near));
            net.address(&far, path);
        }
        net
    }

    /// The same, with packets on the first link under way for up to `longest` in each direction, now more, now less.
    pub(crate) fn with_jitter(paths: usize, longest: Duration) -> Self {
        let (mut net, far) = Self::apart(paths);
        let dir = temporary();
        let program = crate::setup::tools().jitter().display().to_string();
        let line = words(&[&program, "p0", "far0", &longest.as_millis().to_string()]);
        let carrier = Daemon::start("jitter", dir.path(), command(Some(&net.near), &line));
        let made = poll(PATIENCE, || ip(&format!("-n {} link show far0", net.near)).ok().then_some(()));
        assert!(made.is_some(), "no link\n{}", carrier.log());
        must(&format!("-n {} link set far0 netns {far} name p0", net.near));
        net._carrier = Some((carrier, dir));
        net.address(&far, 0);
        for path in 1..paths {
            must(&format!("-n {} link add p{path} type veth peer name p{path} netns {far}", net.near));
            net.address(&far, path);
        }
        net
    }

    /// Both namespaces, without links.
    fn apart(paths: usize) -> (Self, String) {
        let id = id();
        let (near, far) = (format!("{PREFIX}-{id}-near"), format!("{PREFIX}-{id}-far"));
        let net = Self { near, far: Some(far.clone()), lodger: None, paths, _carrier: None };
        for name in [&net.near, &far] {
            must(&format!("netns add {name}"));
            must(&format!("-n {name} link set lo up"));
        }
        (net, far)
    }

    /// Gives both ends of a link their addresses.
    fn address(&self, far: &str, path: usize) {
        for (name, host) in [(self.near.as_str(), 1), (far, 2)] {
            must(&format!("-n {name} addr add 10.{path}.0.{host}/24 dev p{path}"));
            must(&format!("-n {name} addr add fd1{path}::{host}/64 dev p{path} nodad"));
            must(&format!("-n {name} link set p{path} up"));
        }
    }

    /// Takes in a further machine, whose only way to the targets is through the initiator's, and gives its namespace.
    pub(crate) fn lodge(&mut self) -> String {
        let far = self.far.as_deref().expect("no guest");
        let lodger = format!("{}-lodger", self.near);
        must(&format!("netns add {lodger}"));
        must(&format!("-n {} link add yard type veth peer name yard netns {lodger}", self.near));
        for (name, host) in [(self.near.as_str(), 1), (&lodger, 2)] {
            must(&format!("-n {name} link set lo up"));
            must(&format!("-n {name} addr add 10.201.0.{host}/24 dev yard"));
            must(&format!("-n {name} addr add fd20::{host}/64 dev yard nodad"));
            must(&format!("-n {name} link set yard up"));
        }
        set(&self.near, "ipv4/ip_forward", "1");
        set(&self.near, "ipv6/conf/all/forwarding", "1");
        must(&format!("-n {lodger} route add default via 10.201.0.1"));
        must(&format!("-n {lodger} -6 route add default via fd20::1"));
        must(&format!("-n {far} route add 10.201.0.0/24 via 10.0.0.1"));
        must(&format!("-n {far} -6 route add fd20::/64 via fd10::1"));
        self.lodger = Some(lodger.clone());
        lodger
    }

    /// Makes the initiator's namespace, with `paths` taps in it for a guest.
    pub(crate) fn with_taps(paths: usize) -> Self {
        let near = format!("{PREFIX}-{}-near", id());
        let net = Self { near, far: None, lodger: None, paths, _carrier: None };
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
        set(name, "ipv4/ip_forward", "1");
        if let Some(far) = &self.far {
            must(&format!("-n {far} route add 10.200.0.0/24 via 10.0.0.1"));
        }
    }

    /// Leaves connections made from now on next to no buffers, so that they are full at once where somebody does not read.
    pub(crate) fn squeeze(&self) {
        for name in self.far.iter().chain([&self.near]) {
            set(name, "ipv4/tcp_rmem", "4096 16384 16384");
            set(name, "ipv4/tcp_wmem", "4096 16384 16384");
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

    /// How many links there are.
    pub(crate) fn paths(&self) -> usize {
        self.paths
    }

    /// The target's address on a path.
    pub(crate) fn target_address(path: usize) -> String {
        format!("10.{path}.0.2")
    }

    /// The target's addresses on all paths.
    pub(crate) fn addresses(&self) -> Vec<String> {
        (0..self.paths).map(Self::target_address).collect()
    }

    /// The same, of IPv6.
    pub(crate) fn addresses_v6(&self) -> Vec<String> {
        (0..self.paths).map(|path| format!("[fd1{path}::2]")).collect()
    }

    /// Breaks one path, in the way that is said; it stays broken until [`Net::heal`].
    pub(crate) fn cut(&self, path: usize, how: Cut) {
        let target = Self::target_address(path);
        let (inwards, outwards) = how.verdicts(self.far.is_none());
        let near = format!("ip saddr {target} tcp sport {PORT} {inwards}");
        let chain =
            |hook, rule: &str| format!("chain {hook} {{ type filter hook {hook} priority 0; {rule}; }};");
        let mut rules = chain("input", &near);
        if how == Cut::Reset {
            rules += &chain("output", &format!("ip daddr {target} tcp dport {PORT} {inwards}"));
        }
        let mut script = format!("nft 'table ip cut{path} {{ {rules} }}'");
        if how == Cut::Reset {
            // Also to an end that is silent just now, and at once: until then it takes the link for a silent one.
            script += &format!(" && ss -K dst {target} dport = :{PORT}");
        }
        run(command(Some(&self.near), &words(&["sh", "-c", &script])), LIMIT).expect_ok();
        match &self.far {
            Some(far) => {
                let rule = format!("ip daddr {target} tcp dport {PORT} {outwards}");
                nft(far, &format!("table ip cut{path} {{ {} }}", chain("input", &rule))).expect_ok();
            }
            None if outwards == "drop" => {
                let there = format!("{target} lladdr {NOWHERE} nud permanent dev p{path}");
                must(&format!("-n {} neigh replace {there}", self.near));
            }
            None => {}
        }
    }

    /// Pulls the plug of one path, at the initiator's end; connections over it are ended.
    pub(crate) fn unplug(&self, path: usize) {
        must(&format!("-n {} link set p{path} down", self.near));
        let line = format!("ss -K dst {} dport = :{PORT}", Self::target_address(path));
        run(command(Some(&self.near), &split(&line)), LIMIT).expect_ok();
    }

    /// Puts it back.
    pub(crate) fn plug(&self, path: usize) {
        must(&format!("-n {} link set p{path} up", self.near));
    }

    /// Mends what [`Net::cut`] broke.
    pub(crate) fn heal(&self, path: usize) {
        for name in self.far.iter().chain([&self.near]) {
            nft(name, &format!("delete table ip cut{path}")).expect_ok();
        }
        if self.far.is_none() {
            let target = Self::target_address(path);
            let there = format!("-n {} neigh show {target} dev p{path} nud permanent", self.near);
            if !ip(&there).stdout.trim().is_empty() {
                must(&format!("-n {} neigh del {target} dev p{path}", self.near));
            }
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in self.far.iter().chain(&self.lodger).chain([&self.near]) {
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

fn split(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn ip(arguments: &str) -> Done {
    run(command(None, &split(&format!("ip {arguments}"))), LIMIT)
}

fn must(arguments: &str) {
    ip(arguments).expect_ok();
}

/// Sets what the kernel lets a namespace have of its own.
fn set(netns: &str, what: &str, value: &str) {
    let script = format!("echo {value} >/proc/sys/net/{what}");
    run(command(Some(netns), &words(&["sh", "-c", &script])), LIMIT).expect_ok();
}

fn nft(netns: &str, rules: &str) -> Done {
    run(command(Some(netns), &words(&["nft", rules])), LIMIT)
}
