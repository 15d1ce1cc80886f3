//! Real targets as fixtures: tgt and istgt, each with a disk of its own in a file, several portals in one portal group,
//! and its own control socket, so that any number of them run side by side.
//!
//! What was learned about them:
//!
//! - tgt serves one connection per session unless MaxConnections is raised per target; LUN 0 is a controller, the disk is
//!   LUN 1. `TGT_IPC_SOCKET` moves its control socket, so no control port number has to be agreed on.
//! - istgt wants an `AuthFile` even without authentication, keeps 1.0 s for a leading login, listens with a backlog of
//!   two, and prepends `NodeBase` to target names. Its disk is LUN 0.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::net::{Net, PORT, loopback};
use crate::process::{Daemon, command, run, words};
use crate::wait::{PATIENCE, poll};

const NODE: &str = "iqn.2026-11.net.braid";

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
}

impl Kind {
    /// For messages and for the list of accepted differences.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tgt => "tgt",
            Self::TgtMcs => "tgt-mcs",
            Self::Istgt => "istgt",
        }
    }
}

/// A running target.
pub(crate) struct Target {
    kind: Kind,
    daemon: Daemon,
    /// One endpoint per portal, in order.
    endpoints: Vec<Endpoint>,
    disk: PathBuf,
    _dir: TempDir,
}

impl Target {
    /// Starts a target with a fresh disk of `size` bytes, on loopback with `portals` portals.
    pub(crate) fn on_loopback(kind: Kind, portals: usize, size: u64) -> Self {
        let addresses: Vec<String> = (0..portals).map(|_| loopback()).collect();
        Self::start(kind, &addresses, None, None, size)
    }

    /// Starts it on the far side of `net`, with a portal on each link.
    pub(crate) fn behind(kind: Kind, net: &Net, size: u64) -> Self {
        Self::start(kind, &net.addresses(), Some(net.far()), Some(net.near()), size)
    }

    fn start(
        kind: Kind,
        addresses: &[String],
        home: Option<&str>,
        seen_from: Option<&str>,
        size: u64,
    ) -> Self {
        crate::setup::tools();
        let dir = TempDir::with_prefix("braid-target-").expect("temporary directory");
        let disk = dir.path().join("disk");
        File::create(&disk).and_then(|file| file.set_len(size)).expect("disk file");
        let portals: Vec<String> = addresses.iter().map(|address| format!("{address}:{PORT}")).collect();
        let (daemon, lun) = match kind {
            Kind::Tgt => (tgt(dir.path(), &disk, &portals, home, 1), 1),
            Kind::TgtMcs => (tgt(dir.path(), &disk, &portals, home, 8), 1),
            Kind::Istgt => (istgt(dir.path(), &disk, &portals, home), 0),
        };
        let endpoint = |portal| Endpoint {
            portal,
            iqn: format!("{NODE}:disk"),
            lun,
            netns: seen_from.map(str::to_owned),
        };
        let mut target =
            Self { kind, daemon, endpoints: portals.into_iter().map(endpoint).collect(), disk, _dir: dir };
        target.wait_until_it_listens();
        target
    }

    fn wait_until_it_listens(&mut self) {
        for endpoint in self.endpoints.clone() {
            let up = poll(PATIENCE, || (connects(&endpoint) || !self.daemon.alive()).then_some(()));
            assert!(up.is_some() && self.daemon.alive(), "no answer at {endpoint:?}\n{}", self.daemon.log());
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
        self.daemon.alive()
    }
}

/// Whether something accepts TCP connections there.
pub(crate) fn connects(endpoint: &Endpoint) -> bool {
    let (address, port) = endpoint.portal.rsplit_once(':').expect("address and port");
    if endpoint.netns.is_none() {
        return TcpStream::connect(&endpoint.portal).is_ok();
    }
    let probe = words(&["bash", "-c", &format!("exec 3<>/dev/tcp/{address}/{port}")]);
    run(command(endpoint.netns.as_deref(), &probe), Duration::from_secs(5)).ok()
}

fn tgt(dir: &Path, disk: &Path, portals: &[String], netns: Option<&str>, connections: u8) -> Daemon {
    let socket = dir.join("control");
    let (first, further) = portals.split_first().expect("a portal");
    let mut start = command(netns, &words(&["tgtd", "-f", "--iscsi", &format!("portal={first}")]));
    start.env("TGT_IPC_SOCKET", &socket);
    let daemon = Daemon::start("tgtd", dir, start);
    let ready = poll(PATIENCE, || try_tgtadm(&socket, "--op show --mode sys").then_some(()));
    assert!(ready.is_some(), "tgtd does not answer\n{}", daemon.log());
    for portal in further {
        tgtadm(&socket, &format!("--op new --mode portal --param portal={portal}"));
    }
    tgtadm(&socket, &format!("--op new --mode target --tid 1 -T {NODE}:disk"));
    tgtadm(&socket, &format!("--op new --mode logicalunit --tid 1 --lun 1 -b {}", disk.display()));
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

fn istgt(dir: &Path, disk: &Path, portals: &[String], netns: Option<&str>) -> Daemon {
    let control = if netns.is_some() { "127.0.0.1".to_owned() } else { loopback() };
    let portals: String =
        portals.iter().enumerate().map(|(n, portal)| format!("  Portal DA{n} {portal}\n")).collect();
    let (home, disk) = (dir.display(), disk.display());
    let text = format!(
        "[Global]\n  NodeBase \"{NODE}\"\n  PidFile {home}/pid\n  AuthFile {home}/auth\n  MediaDirectory {home}\n  \
         Timeout 30\n  NopInInterval 20\n  DiscoveryAuthMethod None\n  MaxSessions 64\n  MaxConnections 8\n  \
         FirstBurstLength 262144\n  MaxBurstLength 1048576\n  MaxRecvDataSegmentLength 262144\n  \
         InitialR2T Yes\n  ImmediateData Yes\n  ErrorRecoveryLevel 0\n\
         [UnitControl]\n  AuthMethod None\n  Portal UC1 {control}:23261\n  Netmask {control}\n\
         [PortalGroup1]\n{portals}\
         [InitiatorGroup1]\n  InitiatorName \"ALL\"\n  Netmask ALL\n\
         [LogicalUnit1]\n  TargetName disk\n  Mapping PortalGroup1 InitiatorGroup1\n  AuthMethod None\n  \
         UseDigest Auto\n  UnitType Disk\n  LUN0 Storage {disk} Auto\n"
    );
    let file = dir.join("istgt.conf");
    fs::write(&file, text).expect("istgt.conf");
    fs::write(dir.join("auth"), "").expect("auth file");
    Daemon::start("istgt", dir, command(netns, &words(&["istgt", "-c", &file.display().to_string(), "-D"])))
}
