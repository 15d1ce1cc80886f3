//! LIO, the Linux kernel's own target, in a guest: Debian's user-mode Linux, which needs neither a virtual machine nor
//! anything of the host's kernel but tap devices.
//!
//! The guest's root is the host's own file system, its first process is `lio-init.sh`, its console is a pipe. It is told to
//! run scripts, which make targets through configfs; their disks are files on the host. One guest carries any number of
//! targets. It lives in a process namespace of its own, whose end is the end of all its processes, however the test ends.
//!
//! What was learned about it:
//!
//! - A guest has one processor, boots in 2 to 3 s, and must be told `gro=1`: without, it chokes on the frames that the host's
//!   TCP sends over a tap, and connections hang.
//! - Without a directory `pr` in LIO's `dbroot`, every registration of a persistent reservation ends in NOT READY, 08/00.
//! - MaxConnections is 1 as shipped. SendTargets lists all portals of the group, and all targets.
//! - Without `generate_node_acls` there is no login, without `demo_mode_write_protect=0` no write.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{ChildStdin, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use tempfile::TempDir;

use crate::net::Net;
use crate::process::{Daemon, command, read, temporary, words};
use crate::wait::poll;

const INIT: &str = include_str!("lio-init.sh");
const LIMIT: Duration = Duration::from_secs(60);

/// What a LIO target is made of.
pub(crate) struct Plan<'a> {
    /// Target name.
    pub(crate) iqn: &'a str,
    /// The file behind the disk.
    pub(crate) disk: &'a Path,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Addresses and ports.
    pub(crate) portals: &'a [String],
    /// MaxConnections.
    pub(crate) connections: u8,
}

/// A running guest.
pub(crate) struct Guest {
    daemon: Mutex<Daemon>,
    console: Mutex<Console>,
    netns: String,
    addresses: Vec<String>,
    dir: TempDir,
}

/// Its standard input, and how many scripts were run.
struct Console {
    input: ChildStdin,
    scripts: usize,
}

impl Guest {
    /// Boots a guest at the far ends of `net`, which must consist of taps.
    pub(crate) fn boot(net: &Net) -> Self {
        let tools = crate::setup::tools();
        let dir = temporary();
        let init = dir.path().join("init");
        fs::write(&init, INIT).expect("init");
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).expect("init");
        let addresses = net.addresses();
        let home = dir.path().display();
        let mut line = words(&["unshare", "--pid", "--fork", "--kill-child", "linux.uml"]);
        line.extend(words(&[
            "mem=256M",
            "root=/dev/root",
            "rootfstype=hostfs",
            "rootflags=/",
            "rw",
            "quiet",
        ]));
        line.extend(words(&["oops=panic", "con=null", "con0=fd:0,fd:1", "ssl=null", "umid=guest"]));
        line.push(format!("init={}", init.display()));
        line.push(format!("uml_dir={home}/"));
        line.extend(
            (0..addresses.len()).map(|n| format!("vec{n}:transport=tap,ifname=p{n},depth=128,gro=1")),
        );
        line.extend([format!("braid_dir={home}"), format!("braid_paths={}", addresses.len())]);
        let mut start = command(Some(net.near()), &line);
        start.env("LD_PRELOAD", tools.uml_shim()).stdin(Stdio::piped());
        for name in ["TMP", "TEMP", "TMPDIR"] {
            // It keeps its memory in a file there; without them it takes /dev/shm.
            start.env_remove(name);
        }
        let mut daemon = Daemon::start("lio", dir.path(), start);
        let console = Mutex::new(Console { input: daemon.stdin(), scripts: 0 });
        let netns = net.near().to_owned();
        let guest = Self { daemon: Mutex::new(daemon), console, netns, addresses, dir };
        guest.wait_for("ready");
        guest
    }

    /// The namespace from which it is reached.
    pub(crate) fn netns(&self) -> &str {
        &self.netns
    }

    /// Its addresses, one per path.
    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Still running? A fault of its kernel ends it.
    pub(crate) fn alive(&self) -> bool {
        self.daemon.lock().expect("daemon").alive()
    }

    /// The end of its console and kernel log.
    pub(crate) fn log(&self) -> String {
        self.daemon.lock().expect("daemon").log()
    }

    /// Makes a target with one unit, LUN 0.
    pub(crate) fn add(&self, plan: &Plan<'_>) {
        let disk = plan.disk.display();
        let store = format!("fileio_0/{}", serial(plan.iqn));
        let control = format!("fd_dev_name={disk},fd_dev_size={}", plan.size);
        self.run(&recipe(plan, &store, &control));
    }

    /// Makes a target whose disk is in the guest's memory, where blocks can be given back: a file of the host has no holes
    /// for a guest.
    pub(crate) fn add_thin(&self, plan: &Plan<'_>) {
        let name = serial(plan.iqn);
        let control = format!("fd_dev_name=/mnt/{name},fd_dev_size={}", plan.size);
        let store = format!("fileio_0/{name}");
        let thin = "echo 1 >$store/attrib/emulate_tpu\necho 1 >$store/attrib/emulate_tpws\n";
        self.run(&format!("truncate -s {} /mnt/{name}\n{}{thin}", plan.size, recipe(plan, &store, &control)));
    }

    /// Makes a target whose disk can be made to stall, by [`Guest::stall`].
    pub(crate) fn add_stallable(&self, plan: &Plan<'_>) {
        let (disk, name) = (plan.disk.display(), serial(plan.iqn));
        let device = format!(
            "loop=$(losetup --find --show {disk})\n\
             dmsetup create {name} --table \"0 {} linear $loop 0\"\n",
            plan.size / 512
        );
        let control = format!("udev_path=/dev/mapper/{name}");
        self.run(&(device + &recipe(plan, &format!("iblock_0/{name}"), &control)));
    }

    /// Keeps every command that reaches the disk inside it, or lets them all go on.
    pub(crate) fn stall(&self, iqn: &str, on: bool) {
        let how = if on { "suspend --nolockfs --noflush" } else { "resume" };
        self.run(&format!("dmsetup {how} {}\n", serial(iqn)));
    }

    /// Runs a script in the guest.
    fn run(&self, script: &str) {
        let mut console = self.console.lock().expect("console");
        console.scripts += 1;
        let number = console.scripts;
        fs::write(self.dir.path().join(format!("{number}.sh")), script).expect("script");
        writeln!(console.input, "{number}").unwrap_or_else(|why| panic!("{why}\n{}", self.log()));
        let status = self.wait_for(&format!("done {number} "));
        assert_eq!(status, "0", "{script}\n{}", self.log());
    }

    /// Waits for a line on the console that begins so, and gives its rest.
    fn wait_for(&self, beginning: &str) -> String {
        let log = self.dir.path().join("lio.log");
        let said =
            || read(&log).lines().find_map(|line| Some(line.strip_prefix(beginning)?.trim().to_owned()));
        let found = poll(LIMIT, || said().map(Some).or_else(|| (!self.alive()).then_some(None))).flatten();
        found.unwrap_or_else(|| panic!("the guest does not say: {beginning}\n{}", self.log()))
    }
}

/// A name for a unit, which is also its serial number.
fn serial(iqn: &str) -> String {
    iqn.rsplit(':').next().expect("a name").replace('-', "")
}

fn recipe(plan: &Plan<'_>, store: &str, control: &str) -> String {
    let mut script = format!(
        "store=/sys/kernel/config/target/core/{store}\n\
         group=/sys/kernel/config/target/iscsi/{iqn}/tpgt_1\n\
         mkdir -p $store\n\
         echo {control} >$store/control\n\
         echo {serial} >$store/wwn/vpd_unit_serial\n\
         echo 1 >$store/enable\n\
         mkdir -p $group/lun/lun_0\n\
         ln -s $store $group/lun/lun_0/unit\n\
         echo 0 >$group/attrib/authentication\n\
         echo 1 >$group/attrib/generate_node_acls\n\
         echo 0 >$group/attrib/demo_mode_write_protect\n\
         echo {connections} >$group/param/MaxConnections\n",
        iqn = plan.iqn,
        connections = plan.connections,
        serial = serial(plan.iqn),
    );
    for portal in plan.portals {
        writeln!(script, "mkdir $group/np/{portal}").expect("string");
    }
    script + "echo 1 >$group/enable\n"
}
