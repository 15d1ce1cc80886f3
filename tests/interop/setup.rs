//! The software under test besides Braid: Debian packages, installed when they are missing.
//!
//! Installing happens once per run and under a file lock, so that two runs on one machine do not meet in `apt-get`.
//! Where `qemu-block-extra` cannot be installed because the machine's `qemu-utils` comes from another archive (they
//! depend on each other by exact version), a matching pair is unpacked beside the build instead: nothing that the
//! machine had is replaced.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::process::run;

/// Packages whose programs are called by name.
const PACKAGES: &str = "tgt istgt libiscsi-bin iproute2 nftables user-mode-linux kmod dmsetup \
     open-iscsi sg3-utils fio prometheus qemu-system-x86 ipxe-qemu e2fsprogs systemd haproxy \
     chromium fonts-dejavu-core tshark";
/// One program of each package, to see what is there without asking dpkg.
const PROGRAMS: [&str; 25] = [
    "chromium",
    "tshark",
    "haproxy",
    "systemd-analyze",
    "tgtd",
    "tgtadm",
    "istgt",
    "iscsi-ls",
    "iscsi-inq",
    "iscsi-perf",
    "iscsi-test-cu",
    "ip",
    "nft",
    "linux.uml",
    "insmod",
    "dmsetup",
    "iscsid",
    "iscsiadm",
    "sg_persist",
    "fio",
    "setpriv",
    "prometheus",
    "promtool",
    "qemu-system-x86_64",
    "mkfs.ext4",
];
/// QEMU's tools and their iSCSI driver.
const QEMU_PACKAGES: &str = "qemu-utils qemu-block-extra";
/// Debian's way to keep installed services from being started, unless the machine has a policy of its own.
const NO_SERVICES: &str = "p=/usr/sbin/policy-rc.d; [ -e $p ] || { trap 'rm -f /usr/sbin/policy-rc.d' EXIT; \
     printf '#!/bin/sh\\nexit 101\\n' >$p; chmod +x $p; }";
/// What makes the compiler write nothing but code, for where a firmware loads it.
const BOOT_SECTOR: [&str; 4] =
    ["-m16", "-static", "-nostdlib", "-Wl,--oformat=binary,-Ttext=0x7c00,--build-id=none,--entry=_start"];
const INSTALL_LIMIT: Duration = Duration::from_secs(600);

/// Where the programs that are not simply on the path were found.
pub(crate) struct Tools {
    /// `None`: the machine's own QEMU tools. Otherwise the root under which a matching pair was unpacked.
    qemu_root: Option<PathBuf>,
    uml_shim: PathBuf,
    warm_shim: PathBuf,
    hold_shim: PathBuf,
    jitter: PathBuf,
    boot_sector: PathBuf,
}

impl Tools {
    /// The library that user-mode Linux has to load first on today's processors.
    pub(crate) fn uml_shim(&self) -> &Path {
        &self.uml_shim
    }

    /// The library that makes `iscsi-test-cu` wait for all paths.
    pub(crate) fn warm_shim(&self) -> &Path {
        &self.warm_shim
    }

    /// The library that lets a target's disk keep writes inside.
    pub(crate) fn hold_shim(&self) -> &Path {
        &self.hold_shim
    }

    /// The program that carries a link on which packets take their time.
    pub(crate) fn jitter(&self) -> &Path {
        &self.jitter
    }

    /// The boot sector of a disk that says what it read.
    pub(crate) fn boot_sector(&self) -> &Path {
        &self.boot_sector
    }

    /// A QEMU tool (`qemu-img`, `qemu-io`) that knows iSCSI, with the environment it needs, as words before its
    /// own arguments.
    pub(crate) fn qemu(&self, tool: &str) -> Vec<String> {
        match &self.qemu_root {
            None => vec![tool.to_owned()],
            Some(root) => vec![
                "env".to_owned(),
                format!("QEMU_MODULE_DIR={}", modules(root).expect("unpacked modules").display()),
                root.join("usr/bin").join(tool).display().to_string(),
            ],
        }
    }
}

/// Makes sure that everything is installed; the first caller does the work, all others wait for it.
///
/// # Panics
/// With the names of the packages when they cannot be installed.
pub(crate) fn tools() -> &'static Tools {
    static TOOLS: OnceLock<Result<Tools, String>> = OnceLock::new();
    match TOOLS.get_or_init(install) {
        Ok(tools) => tools,
        Err(why) => panic!("{why}"),
    }
}

fn install() -> Result<Tools, String> {
    if !PROGRAMS.iter().all(|program| on_path(program)) {
        apt(&format!("apt-get install -y --no-install-recommends {PACKAGES}")).map_err(|why| {
            format!(
                "the interop tests need these Debian packages, and root to install them: {PACKAGES}\n{why}"
            )
        })?;
    }
    crate::net::sweep();
    crate::process::sweep();
    Ok(Tools {
        qemu_root: qemu()?,
        uml_shim: shim("xstate")?,
        warm_shim: shim("warm")?,
        hold_shim: shim("hold")?,
        jitter: compile("jitter.c", "", &[])?,
        boot_sector: compile("boot.S", "bin", &BOOT_SECTOR)?,
    })
}

/// A library to preload.
fn shim(name: &str) -> Result<PathBuf, String> {
    compile(&format!("{name}.c"), "so", &["-shared", "-fPIC", "-ldl"])
}

/// Compiles with the compiler that Rust links with.
fn compile(source: &str, extension: &str, flags: &[&str]) -> Result<PathBuf, String> {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join(source).with_extension(extension);
    let source = format!("{}/tests/interop/{source}", env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).map_err(|why| why.to_string())?;
    let fresh = dir.path().join("fresh");
    let mut command = Command::new("cc");
    command.args(["-O2", "-Wall", "-Werror", "-o"]).arg(&fresh).arg(&source).args(flags);
    let done = run(command, INSTALL_LIMIT);
    if !done.ok() {
        return Err(done.show());
    }
    std::fs::rename(&fresh, &made).map_err(|why| why.to_string())?;
    Ok(made)
}

fn qemu() -> Result<Option<PathBuf>, String> {
    if on_path("qemu-io") && modules(Path::new("/")).is_some() {
        return Ok(None);
    }
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).join("qemu");
    if modules(&unpacked).is_some() {
        return Ok(Some(unpacked));
    }
    let install = format!("apt-get install -y --no-install-recommends {QEMU_PACKAGES}");
    let Err(refused) = apt(&install) else { return Ok(None) };
    let script = format!(
        "v=$(apt-cache policy qemu-block-extra | sed -n 's/ *Candidate: //p') && \
         d=$(mktemp -d) && cd $d && apt-get download qemu-utils=$v qemu-block-extra=$v && \
         for f in *.deb; do dpkg-deb -x $f root || exit 1; done && \
         rm -rf '{0}' && mkdir -p '{0}' && cp -a root/. '{0}' && rm -rf $d",
        unpacked.display()
    );
    match apt(&script) {
        Ok(()) if modules(&unpacked).is_some() => Ok(Some(unpacked)),
        failed => Err(format!(
            "the interop tests need these Debian packages, and root to install them: {QEMU_PACKAGES}\n\
             {refused}\nand a matching pair could not be unpacked either: {failed:?}"
        )),
    }
}

/// Runs a shell script after `apt-get update`, one at a time on this machine. Services that packages bring are not started:
/// nobody asked for a target that listens on all addresses.
fn apt(script: &str) -> Result<(), String> {
    let mut command = Command::new("flock");
    command
        .args([&lock_file(), "sh", "-c"])
        .arg(format!("{NO_SERVICES}; apt-get update && {script}"))
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("APT_LISTCHANGES_FRONTEND", "none");
    let done = run(command, INSTALL_LIMIT);
    if done.ok() { Ok(()) } else { Err(done.show()) }
}

fn lock_file() -> String {
    std::env::temp_dir().join("braid-interop-apt.lock").display().to_string()
}

/// Daemons live in `sbin`, which is not on everybody's path.
fn on_path(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|dir| Path::new(dir).join(program).exists())
}

/// The directory with QEMU's iSCSI driver below `root`.
fn modules(root: &Path) -> Option<PathBuf> {
    let libs = std::fs::read_dir(root.join("usr/lib")).ok()?;
    libs.filter_map(Result::ok)
        .map(|dir| dir.path().join("qemu"))
        .find(|dir| dir.join("block-iscsi.so").exists())
}
