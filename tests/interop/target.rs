//! Real targets as fixtures: tgt, istgt and LIO, each with a disk of its own in a file, several portals in one portal group,
//! and its own control socket, so that any number of them run side by side.
//!
//! What was learned about them:
//!
//! - tgt serves one connection per session unless MaxConnections is raised per target; LUN 0 is a controller, the disk is
//!   LUN 1. `TGT_IPC_SOCKET` moves its control socket, so no control port number has to be agreed on.
//!   UNMAP works with `thin_provisioning`, which is off as shipped. Two processes name a unit alike where its target's number and
//!   LUN are the same: one of its designators (NAA) is made of these, whatever `scsi_id` says.
//! - istgt wants an `AuthFile` even without authentication, keeps 1.0 s for a leading login, listens with a backlog of
//!   two, and prepends `NodeBase` to target names. Its disk is LUN 0.
//! - LIO runs in a [`Guest`]; its disk is LUN 0.

use std::fs::{self, File};
use std::io;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::lio::{Guest, Plan};
use crate::net::{Net, PORT, Wire, loopback, within};
use crate::process::{Daemon, command, run, temporary, words};
use crate::setup::tools;
use crate::uml::MEMORY;
use crate::wait::{PATIENCE, poll};

const NODE: &str = "iqn.2026-11.net.braid";

/// The account of initiators: name and secret.
pub(crate) const HOST: (&str, &str) = ("host", "Of-the-host-1");
/// The account with which a target proves itself.
pub(crate) const DISK: (&str, &str) = ("disk", "Of-the-disk-1");

/// Where an initiator finds a disk.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// Address and port.
    pub(crate) portal: String,
    /// Target name.
    pub(crate) iqn: String,
    /// Logical unit number.
    pub(crate) lun: u8,
    /// The network namespace from which the portal is reached.
    pub(crate) netns: Option<String>,
}

impl Endpoint {
    /// The logical unit as a URL, as libiscsi and QEMU want it.
    pub(crate) fn url(&self) -> String {
        format!("iscsi://{}/{}/{}", self.portal, self.iqn, self.lun)
    }

    /// The portal as a URL.
    pub(crate) fn portal_url(&self) -> String {
        format!("iscsi://{}", self.portal)
    }
}

/// Which target software, and how it is set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// tgt as Debian ships it: one connection per session.
    Tgt,
    /// tgt with MaxConnections raised to 8.
    TgtMcs,
    /// istgt with MaxConnections 8.
    Istgt,
    /// LIO as it comes: one connection per session. The disk is a file.
    Lio,
    /// LIO on a block device that can be made to stall.
    LioBlock,
    /// LIO on a file in the guest's memory, thinly provisioned.
    LioThin,
    /// LIO on the guest's memory, all of it taken at once.
    LioRam,
    /// LIO with two target port groups, which share its portals in turn, each group a portal group of its own. The disk is a
    /// file.
    LioGroups,
    /// LIO with MaxConnections 8, which its kernel does not survive for long. The disk is a file.
    LioMcs,
}

impl Kind {
    /// For messages and for the list of accepted differences.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tgt => "tgt",
            Self::TgtMcs => "tgt-mcs",
            Self::Istgt => "istgt",
            Self::Lio => "lio",
            Self::LioBlock => "lio-block",
            Self::LioThin => "lio-thin",
            Self::LioRam => "lio-ram",
            Self::LioGroups => "lio-groups",
            Self::LioMcs => "lio-mcs",
        }
    }

    /// Whether it serves several connections per session, in order, and survives it.
    pub(crate) fn several_connections(self) -> bool {
        match self {
            Self::Tgt
            | Self::Lio
            | Self::LioBlock
            | Self::LioThin
            | Self::LioRam
            | Self::LioGroups
            | Self::LioMcs => false,
            Self::TgtMcs | Self::Istgt => true,
        }
    }

    /// Whether it runs in a guest.
    pub(crate) fn in_guest(self) -> bool {
        match self {
            Self::Lio | Self::LioBlock | Self::LioThin | Self::LioRam | Self::LioGroups | Self::LioMcs => {
                true
            }
            Self::Tgt | Self::TgtMcs | Self::Istgt => false,
        }
    }
}

/// Where a target runs, and with which portals.
#[derive(Clone, Copy)]
pub(crate) enum Site<'a> {
    /// On addresses of its own, so many.
    Alone(usize),
    /// At the far end of each link.
    Behind(&'a Net),
    /// The same, on IPv6; not for LIO.
    BehindV6(&'a Net),
    /// LIO only: in a guest that runs already, on this many of its addresses.
    In(&'a Arc<Guest>, usize),
}

/// What has to run for a target.
enum Runner {
    Daemon(Daemon),
    Guest(Arc<Guest>),
}

impl Runner {
    fn alive(&mut self) -> bool {
        match self {
            Self::Daemon(daemon) => daemon.alive(),
            Self::Guest(guest) => guest.alive(),
        }
    }

    fn daemon(&self) -> Option<&Daemon> {
        match self {
            Self::Daemon(daemon) => Some(daemon),
            Self::Guest(_) => None,
        }
    }

    fn guest(&self) -> Option<&Guest> {
        match self {
            Self::Daemon(_) => None,
            Self::Guest(guest) => Some(guest),
        }
    }

    fn log(&self) -> String {
        match self {
            Self::Daemon(daemon) => daemon.log(),
            Self::Guest(guest) => guest.log(),
        }
    }
}

/// A running target.
pub(crate) struct Target {
    kind: Kind,
    runner: Runner,
    /// One endpoint per portal, in order.
    endpoints: Vec<Endpoint>,
    disk: PathBuf,
    dir: TempDir,
    /// The namespace that a daemon lives in.
    home: Option<String>,
    /// The links of a guest that nobody else made.
    _net: Option<Net>,
}

impl Target {
    /// Starts a target with a fresh disk of `size` bytes.
    pub(crate) fn start(kind: Kind, site: Site<'_>, size: u64) -> Self {
        tools();
        match (site, kind.in_guest()) {
            (Site::In(guest, portals), true) => Self::in_guest(kind, guest, portals, size),
            (Site::Behind(net), true) => {
                let disk = if kind == Kind::LioRam { size >> 20 } else { 0 };
                let guest = Arc::new(Guest::with_memory(net, MEMORY + disk + disk / 16));
                Self::in_guest(kind, &guest, guest.addresses().len(), size)
            }
            (Site::Alone(portals), true) => {
                let net = Net::to_guest(portals, Wire::Tap);
                let target = Self::start(kind, Site::Behind(&net), size);
                Self { _net: Some(net), ..target }
            }
            (Site::Alone(portals), false) => {
                let addresses: Vec<String> = (0..portals).map(|_| loopback()).collect();
                Self::on_host(kind, &addresses, None, None, size)
            }
            (Site::Behind(net), false) => {
                Self::on_host(kind, &net.addresses(), net.far(), Some(net.near()), size)
            }
            (Site::BehindV6(net), false) => {
                Self::on_host(kind, &net.addresses_v6(), net.far(), Some(net.near()), size)
            }
            (Site::In(..), false) => panic!("{kind:?} needs no guest"),
            (Site::BehindV6(_), true) => panic!("{kind:?} has no IPv6"),
        }
    }

    fn on_host(
        kind: Kind,
        addresses: &[String],
        home: Option<&str>,
        seen_from: Option<&str>,
        size: u64,
    ) -> Self {
        let (dir, disk) = new_disk(size);
        let lun = u8::from(matches!(kind, Kind::Tgt | Kind::TgtMcs));
        let endpoints = endpoints(with_port(addresses), &format!("{NODE}:disk"), lun, seen_from);
        Self::on_disk(kind, dir, disk, endpoints, home)
    }

    /// Another target of the same kind and of another name, with the same disk: tgt only.
    pub(crate) fn twin(&self) -> Self {
        let lun = self.endpoints.first().expect("a portal").lun;
        let endpoints = endpoints(with_port(&[loopback()]), &format!("{NODE}:twin"), lun, None);
        Self::on_disk(self.kind, temporary(), self.disk.clone(), endpoints, None)
    }

    fn on_disk(
        kind: Kind,
        dir: TempDir,
        disk: PathBuf,
        endpoints: Vec<Endpoint>,
        home: Option<&str>,
    ) -> Self {
        let runner = Runner::Daemon(boot(kind, dir.path(), &disk, &endpoints, home));
        let home = home.map(str::to_owned);
        let mut target = Self { kind, runner, endpoints, disk, dir, home, _net: None };
        target.wait_until_it_listens();
        target
    }

    fn in_guest(kind: Kind, guest: &Arc<Guest>, portals: usize, size: u64) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let (dir, disk) = new_disk(size);
        let iqn = format!("{NODE}:disk-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let portals = with_port(guest.addresses().get(..portals).expect("so many links"));
        let connections = if kind == Kind::LioMcs { 8 } else { 1 };
        let plan = Plan { iqn: &iqn, disk: &disk, size, portals: &portals, connections };
        match kind {
            Kind::LioBlock => guest.add_stallable(&plan),
            Kind::LioThin => guest.add_thin(&plan),
            Kind::LioRam => guest.add_ram(&plan),
            Kind::LioGroups => guest.add_with_groups(&plan),
            Kind::Lio | Kind::LioMcs | Kind::Tgt | Kind::TgtMcs | Kind::Istgt => guest.add(&plan),
        }
        let endpoints = endpoints(portals, &iqn, 0, Some(guest.netns()));
        let runner = Runner::Guest(Arc::clone(guest));
        Self { kind, runner, endpoints, disk, dir, home: None, _net: None }
    }

    /// Lets initiators in with the account [`HOST`] only, who may ask for [`DISK`] in turn.
    pub(crate) fn require_chap(&mut self) {
        let dir = self.dir.path();
        match &mut self.runner {
            Runner::Guest(guest) => {
                guest.require_chap(&self.endpoints.first().expect("a portal").iqn, [HOST, DISK]);
            }
            Runner::Daemon(daemon) if self.kind == Kind::Istgt => {
                daemon.end();
                self.runner = Runner::Daemon(istgt(dir, &self.disk, &self.endpoints, None, true));
            }
            Runner::Daemon(_) => {
                let socket = dir.join("control");
                for ((name, secret), how) in [(HOST, ""), (DISK, "--outgoing")] {
                    tgtadm(&socket, &format!("--op new --mode account --user {name} --password {secret}"));
                    tgtadm(&socket, &format!("--op bind --mode account --tid 1 --user {name} {how}"));
                }
            }
        }
        self.wait_until_it_listens();
    }

    /// Another target on the same portals, and where the first of these shows it: tgt only.
    pub(crate) fn second(&self) -> Endpoint {
        assert!(matches!(self.kind, Kind::Tgt | Kind::TgtMcs), "{} cannot", self.kind.name());
        let (socket, disk) = (self.dir.path().join("control"), self.dir.path().join("second"));
        File::create(&disk).and_then(|file| file.set_len(1 << 20)).expect("disk file");
        let iqn = format!("{NODE}:second");
        tgtadm(&socket, &format!("--op new --mode target --tid 2 -T {iqn}"));
        tgtadm(&socket, &format!("--op new --mode logicalunit --tid 2 --lun 1 -b {}", disk.display()));
        tgtadm(&socket, "--op bind --mode target --tid 2 -I ALL");
        Endpoint { iqn, ..self.endpoints.first().expect("a portal").clone() }
    }

    /// Sets what it negotiates in sessions that begin from now on: tgt only.
    pub(crate) fn set_keys(&self, keys: &[(&str, &str)]) {
        assert!(matches!(self.kind, Kind::Tgt | Kind::TgtMcs), "{} cannot", self.kind.name());
        for (key, value) in keys {
            let update = format!("--op update --mode target --tid 1 -n {key} -v {value}");
            tgtadm(&self.dir.path().join("control"), &update);
        }
    }

    fn wait_until_it_listens(&mut self) {
        for endpoint in self.endpoints.clone() {
            let up = poll(PATIENCE, || (connects(&endpoint) || !self.runner.alive()).then_some(()));
            assert!(up.is_some() && self.runner.alive(), "no answer at {endpoint:?}\n{}", self.runner.log());
        }
    }

    /// Which software it is.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// One endpoint per portal.
    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The file behind the disk.
    pub(crate) fn disk(&self) -> &Path {
        &self.disk
    }

    /// Still running?
    pub(crate) fn alive(&mut self) -> bool {
        self.runner.alive()
    }

    /// Stops its process, while the kernel goes on taking what comes for it, or lets it go on.
    ///
    /// # Panics
    /// If it runs in a guest.
    pub(crate) fn stop(&self, on: bool) {
        let daemon = self.runner.daemon().expect("a process");
        daemon.signal(if on { Signal::STOP } else { Signal::CONT });
    }

    /// Kills it and starts it again, on the same disk.
    ///
    /// # Panics
    /// If it runs in a guest.
    pub(crate) fn restart(&mut self) {
        let Runner::Daemon(daemon) = &mut self.runner else { panic!("no process") };
        daemon.end();
        let again = boot(self.kind, self.dir.path(), &self.disk, &self.endpoints, self.home.as_deref());
        self.runner = Runner::Daemon(again);
        self.wait_until_it_listens();
    }

    /// From now on, writes that reach the disk stay inside it: tgt only. [`Held::pass`] lets later ones through, and with what is
    /// returned those inside go on, in whatever order.
    pub(crate) fn hold_writes(&self) -> Held {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        assert!(matches!(self.kind, Kind::Tgt | Kind::TgtMcs), "{} cannot hold", self.kind.name());
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let held =
            Held { hold: hold_file(self.dir.path()), gate: self.dir.path().join(format!("gate{number}")) };
        fs::write(&held.gate, "").expect("gate");
        let named = held.gate.with_extension("named");
        fs::write(&named, held.gate.display().to_string()).expect("name of the gate");
        fs::rename(&named, &held.hold).expect("hold");
        held
    }

    /// Keeps every command that reaches the disk inside it, or lets them all go on.
    ///
    /// # Panics
    /// Unless it is a [`Kind::LioBlock`].
    pub(crate) fn stall(&self, on: bool) {
        let iqn = &self.endpoints.first().expect("a portal").iqn;
        self.runner.guest().expect("a guest").stall(iqn, on);
    }

    /// Runs a script beside the target port groups, and gives what it prints: in the guest's directory with a directory for
    /// each, `group1` and `group2`.
    ///
    /// # Panics
    /// Unless it is a [`Kind::LioGroups`].
    pub(crate) fn in_groups(&self, script: &str) -> String {
        let iqn = &self.endpoints.first().expect("a portal").iqn;
        self.runner.guest().expect("a guest").in_groups(iqn, script)
    }

    /// Lets another target of the same guest show the unit too, under this LUN.
    ///
    /// # Panics
    /// Unless it is a [`Kind::Lio`].
    pub(crate) fn lend(&self, to: &Self, lun: u8) {
        let [of, to] = [self, to].map(|target| &target.endpoints.first().expect("a portal").iqn);
        self.runner.guest().expect("a guest").lend(of, to, lun);
    }
}

/// Writes inside a disk, until it is dropped.
pub(crate) struct Held {
    hold: PathBuf,
    gate: PathBuf,
}

impl Held {
    /// Keeps those that are inside, and lets through what comes from now on.
    pub(crate) fn pass(&self) {
        fs::remove_file(&self.hold).expect("hold");
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.hold));
        fs::remove_file(&self.gate).expect("gate");
    }
}

/// A file that exists while writes are to be kept (`hold.c`).
fn hold_file(dir: &Path) -> PathBuf {
    dir.join("hold")
}

/// A directory with an empty disk file in it.
fn new_disk(size: u64) -> (TempDir, PathBuf) {
    let dir = temporary();
    let disk = dir.path().join("disk");
    File::create(&disk).and_then(|file| file.set_len(size)).expect("disk file");
    (dir, disk)
}

fn with_port(addresses: &[String]) -> Vec<String> {
    addresses.iter().map(|address| format!("{address}:{PORT}")).collect()
}

fn endpoints(portals: Vec<String>, iqn: &str, lun: u8, netns: Option<&str>) -> Vec<Endpoint> {
    let endpoint = |portal| Endpoint { portal, iqn: iqn.to_owned(), lun, netns: netns.map(str::to_owned) };
    portals.into_iter().map(endpoint).collect()
}

/// Whether something accepts TCP connections there.
pub(crate) fn connects(endpoint: &Endpoint) -> bool {
    within(endpoint.netns.as_deref(), || dial(&endpoint.portal)).is_ok()
}

/// A connection on which nothing waits for ever.
pub(crate) fn dial(address: &str) -> io::Result<TcpStream> {
    const LIMIT: Duration = Duration::from_secs(10);
    let stream = TcpStream::connect_timeout(&address.parse().expect("address and port"), LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// Starts a target that is a program.
fn boot(kind: Kind, dir: &Path, disk: &Path, endpoints: &[Endpoint], home: Option<&str>) -> Daemon {
    match kind {
        Kind::Tgt => tgt(dir, disk, endpoints, home, 1),
        Kind::TgtMcs => tgt(dir, disk, endpoints, home, 8),
        Kind::Istgt => istgt(dir, disk, endpoints, home, false),
        Kind::Lio | Kind::LioBlock | Kind::LioThin | Kind::LioRam | Kind::LioGroups | Kind::LioMcs => {
            panic!("LIO needs a guest")
        }
    }
}

fn tgt(dir: &Path, disk: &Path, endpoints: &[Endpoint], netns: Option<&str>, connections: u8) -> Daemon {
    let socket = dir.join("control");
    let (first, further) = endpoints.split_first().expect("a portal");
    let mut start = command(netns, &words(&["tgtd", "-f", "--iscsi", &format!("portal={}", first.portal)]));
    start.env("TGT_IPC_SOCKET", &socket);
    start.env("LD_PRELOAD", tools().hold_shim()).env("BRAID_HOLD", hold_file(dir));
    let daemon = Daemon::start("tgtd", dir, start);
    let ready = poll(PATIENCE, || try_tgtadm(&socket, "--op show --mode sys").then_some(()));
    assert!(ready.is_some(), "tgtd does not answer\n{}", daemon.log());
    for endpoint in further {
        tgtadm(&socket, &format!("--op new --mode portal --param portal={}", endpoint.portal));
    }
    tgtadm(&socket, &format!("--op new --mode target --tid 1 -T {}", first.iqn));
    tgtadm(&socket, &format!("--op new --mode logicalunit --tid 1 --lun 1 -b {}", disk.display()));
    tgtadm(&socket, "--op update --mode logicalunit --tid 1 --lun 1 --params thin_provisioning=1");
    tgtadm(&socket, &format!("--op update --mode target --tid 1 -n MaxConnections -v {connections}"));
    tgtadm(&socket, "--op bind --mode target --tid 1 -I ALL");
    daemon
}

fn tgtadm_command(socket: &Path, arguments: &str) -> crate::process::Done {
    let mut line = words(&["tgtadm", "--lld", "iscsi"]);
    line.extend(arguments.split_whitespace().map(str::to_owned));
    let mut command = command(None, &line);
    command.env("TGT_IPC_SOCKET", socket);
    run(command, PATIENCE)
}

fn try_tgtadm(socket: &Path, arguments: &str) -> bool {
    tgtadm_command(socket, arguments).ok()
}

fn tgtadm(socket: &Path, arguments: &str) {
    tgtadm_command(socket, arguments).expect_ok();
}

fn istgt(dir: &Path, disk: &Path, endpoints: &[Endpoint], netns: Option<&str>, chap: bool) -> Daemon {
    let methods = if chap { "CHAP\n  AuthGroup AuthGroup1" } else { "None" };
    let control = if netns.is_some() { "127.0.0.1".to_owned() } else { loopback() };
    let portals: String =
        endpoints.iter().enumerate().map(|(n, at)| format!("  Portal DA{n} {}\n", at.portal)).collect();
    let (home, disk) = (dir.display(), disk.display());
    let text = format!(
        "[Global]\n  NodeBase \"{NODE}\"\n  PidFile {home}/pid\n  AuthFile {home}/auth\n  MediaDirectory {home}\n  \
         Timeout 30\n  NopInInterval 20\n  DiscoveryAuthMethod None\n  MaxSessions 64\n  MaxConnections 8\n  \
         FirstBurstLength 262144\n  MaxBurstLength 1048576\n  MaxRecvDataSegmentLength 262144\n  \
         InitialR2T Yes\n  ImmediateData Yes\n  ErrorRecoveryLevel 0\n\
         [UnitControl]\n  AuthMethod None\n  Portal UC1 {control}:23261\n  Netmask {control}\n\
         [PortalGroup1]\n{portals}\
         [InitiatorGroup1]\n  InitiatorName \"ALL\"\n  Netmask ALL\n\
         [LogicalUnit1]\n  TargetName disk\n  Mapping PortalGroup1 InitiatorGroup1\n  AuthMethod {methods}\n  \
         UseDigest Auto\n  UnitType Disk\n  LUN0 Storage {disk} Auto\n"
    );
    let file = dir.join("istgt.conf");
    fs::write(&file, text).expect("istgt.conf");
    let ((name, secret), (mutual, answer)) = (HOST, DISK);
    let account = format!("[AuthGroup1]\n  Auth \"{name}\" \"{secret}\" \"{mutual}\" \"{answer}\"\n");
    let auth = dir.join("auth");
    fs::write(&auth, account).expect("auth file");
    fs::set_permissions(&auth, fs::Permissions::from_mode(0o600)).expect("auth file");
    Daemon::start("istgt", dir, command(netns, &words(&["istgt", "-c", &file.display().to_string(), "-D"])))
}
