//! Addresses for the fixtures, and network namespaces with one link per path.
//!
//! On loopback every fixture gets addresses of its own from 127/8, so that one port can be used everywhere and no two
//! fixtures, in whatever process, ask for the same. Cuts need links: [`Net`] makes a namespace for the initiator
//! and Braid, and per path a subnet of its own: a veth pair whose other end is in the target's namespace, or a [`Wire`] to a
//! target that is a guest. An initiator that is a guest has one too.
//! Nothing outside these namespaces is touched; they end with the fixture, and those of a killed run are swept away by the next.
//!
//! The links and what breaks them are the lab's ([`::braid::lab::links`]). A guest has no filter; what is not to arrive there goes
//! to an Ethernet address that is not its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

pub(crate) use ::braid::lab::links::Cut;
use ::braid::lab::links::Link;
use ::braid::lab::netns::Namespace;
use tempfile::TempDir;

use crate::process::{Daemon, Done, PREFIX, command, orphaned, run, temporary, words};
use crate::wait::{PATIENCE, poll};

/// Where targets and Braid listen. Not the standard port, which a target of the machine's own may hold on all addresses.
pub(crate) const PORT: u16 = 23260;
const LIMIT: Duration = Duration::from_secs(30);
/// Nobody's Ethernet address.
const NOWHERE: &str = "02:00:00:00:00:99";
/// The link of an initiator in a guest, and the address of its near end.
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
    let Some(name) = netns else { return thread::scope(|scope| scope.spawn(work).join().expect("work")) };
    named(name).within(work).expect("setns")
}

/// Moves the calling thread into a network namespace.
pub(crate) fn enter(netns: Option<&str>) {
    if let Some(name) = netns {
        named(name).enter().expect("setns");
    }
}

fn named(name: &str) -> Namespace {
    Namespace::named(name).expect("network namespace")
}

/// What leads to a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wire {
    /// A tap device. Now and then a packet stays in it until the next one comes, or TCP sends it again: after 8, 40 or 200 ms.
    Tap,
    /// A veth pair, with a packet socket of the guest at its other end: fit for measuring. A guest has stopped for good
    /// with it, under dozens of sessions at once.
    Packets,
}

impl Wire {
    /// How a guest is told to use it, by its device at the near end.
    pub(crate) fn transport(self, device: &str) -> String {
        match self {
            Self::Tap => format!("transport=tap,ifname={device}"),
            Self::Packets => format!("transport=raw,ifname={}", far_end(device)),
        }
    }

    fn lay(self, netns: &str, device: &str) {
        match self {
            Self::Tap => must(&format!("-n {netns} tuntap add dev {device} mode tap")),
            Self::Packets => {
                let end = far_end(device);
                must(&format!("-n {netns} link add {device} type veth peer name {end}"));
                must(&format!("-n {netns} link set {end} up"));
            }
        }
    }
}

fn far_end(device: &str) -> String {
    format!("{device}guest")
}

/// The initiator's namespace and its links to the target.
pub(crate) struct Net {
    near: String,
    /// `None`: the target is a guest.
    far: Option<String>,
    /// To a guest.
    wire: Wire,
    /// A machine for which the initiator's one forwards.
    lodger: Option<String>,
    links: Vec<Link>,
    /// What carries the first link, if it is not the kernel.
    _carrier: Option<(Daemon, TempDir)>,
}

impl Net {
    /// Makes both namespaces and `paths` links between them.
    pub(crate) fn new(paths: usize) -> Self {
        let net = Self::apart(paths);
        net.links.iter().for_each(|link| link.lay().expect("a link"));
        net.switch_on();
        net
    }

    /// The same, with packets on the first link under way for up to `longest` in each direction, now more, now less.
    pub(crate) fn with_jitter(paths: usize, longest: Duration) -> Self {
        let mut net = Self::apart(paths);
        let dir = temporary();
        let program = crate::setup::tools().jitter().display().to_string();
        let line = words(&[&program, "p0", "far0", &longest.as_millis().to_string()]);
        let carrier = Daemon::start("jitter", dir.path(), command(Some(&net.near), &line));
        let made = poll(PATIENCE, || ip(&format!("-n {} link show far0", net.near)).ok().then_some(()));
        assert!(made.is_some(), "no link\n{}", carrier.log());
        let far = net.far.as_deref().expect("no guest");
        must(&format!("-n {} link set far0 netns {far} name p0", net.near));
        net._carrier = Some((carrier, dir));
        net.links.iter().skip(1).for_each(|link| link.lay().expect("a link"));
        net.switch_on();
        net
    }

    /// Both namespaces, with links that are not laid yet.
    fn apart(paths: usize) -> Self {
        let id = id();
        let (near, far) = (format!("{PREFIX}-{id}-near"), format!("{PREFIX}-{id}-far"));
        let mut net = Self {
            near,
            far: Some(far.clone()),
            wire: Wire::Tap,
            lodger: None,
            links: Vec::new(),
            _carrier: None,
        };
        for name in [&net.near, &far] {
            must(&format!("netns add {name}"));
            must(&format!("-n {name} link set lo up"));
        }
        net.links = links(&net.near, Some(&far), paths);
        net
    }

    /// Gives the ends of all links their addresses.
    fn switch_on(&self) {
        for (path, link) in self.links.iter().enumerate() {
            link.switch_on().expect("addresses");
            for (name, host) in self.far.iter().flat_map(|far| [(&self.near, 1), (far, 2)]) {
                must(&format!("-n {name} addr add fd1{path}::{host}/64 dev p{path} nodad"));
            }
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

    /// Makes the initiator's namespace, with `paths` links from it to a guest.
    pub(crate) fn to_guest(paths: usize, wire: Wire) -> Self {
        let near = format!("{PREFIX}-{}-near", id());
        let mut net = Self { near, far: None, wire, lodger: None, links: Vec::new(), _carrier: None };
        let name = &net.near;
        must(&format!("netns add {name}"));
        must(&format!("-n {name} link set lo up"));
        for path in 0..paths {
            wire.lay(name, &format!("p{path}"));
        }
        net.links = links(&net.near, None, paths);
        net.switch_on();
        net
    }

    /// Adds a link for an initiator in a guest of its own, [`GATE`], and lets it through to the targets.
    pub(crate) fn open_gate(&self) {
        let name = &self.near;
        Wire::Tap.lay(name, GATE);
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

    /// What leads to the target if it is a guest.
    pub(crate) fn wire(&self) -> Wire {
        self.wire
    }

    /// The namespace of the target, if it has one.
    pub(crate) fn far(&self) -> Option<&str> {
        self.far.as_deref()
    }

    /// How many links there are.
    pub(crate) fn paths(&self) -> usize {
        self.links.len()
    }

    fn link(&self, path: usize) -> &Link {
        self.links.get(path).expect("such a link")
    }

    /// The target's address on a path.
    pub(crate) fn target_address(path: usize) -> String {
        format!("10.{path}.0.2")
    }

    /// The target's addresses on all paths.
    pub(crate) fn addresses(&self) -> Vec<String> {
        (0..self.paths()).map(Self::target_address).collect()
    }

    /// The same, of IPv6.
    pub(crate) fn addresses_v6(&self) -> Vec<String> {
        (0..self.paths()).map(|path| format!("[fd1{path}::2]")).collect()
    }

    /// Breaks one path, in the way that is said; it stays broken until [`Net::heal`].
    pub(crate) fn cut(&self, path: usize, how: Cut) {
        self.link(path).cut(how).expect("a cut");
        if self.far.is_none() && how.is_deaf() {
            let there = format!("{} lladdr {NOWHERE} nud permanent dev p{path}", Self::target_address(path));
            must(&format!("-n {} neigh replace {there}", self.near));
        }
    }

    /// Pulls the plug of one path.
    pub(crate) fn unplug(&self, path: usize) {
        self.link(path).unplug().expect("the far end");
    }

    /// Ends the connections of one path.
    pub(crate) fn abort(&self, path: usize) {
        self.link(path).abort().expect("connections");
    }

    /// Puts it back.
    pub(crate) fn plug(&self, path: usize) {
        self.link(path).plug().expect("the far end");
    }

    /// Mends what [`Net::cut`] broke.
    pub(crate) fn heal(&self, path: usize) {
        self.link(path).heal().expect("a cut");
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

/// Links that are not laid yet.
fn links(near: &str, far: Option<&str>, paths: usize) -> Vec<Link> {
    let (near, far) = (Arc::new(named(near)), far.map(|name| Arc::new(named(name))));
    let number = |path| u8::try_from(path).expect("so many links");
    (0..paths).map(|path| Link::between(Arc::clone(&near), far.clone(), number(path), PORT)).collect()
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
