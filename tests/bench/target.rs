//! The target all boxes lead to: a disk in memory with a portal per path.

use crate::child::{Process, run};
use anyhow::{Context, Result};
use braid::lab::target::{Disk, Listen, RamTarget, TargetOptions};
use clap::ValueEnum;
use std::env::current_exe;
use std::fs::{self, File};
use std::future::pending;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target's name.
pub(crate) const NAME: &str = "iqn.2026-11.bench:disk";
/// Size of its disk in bytes.
pub(crate) const SIZE: u64 = 256 << 20;

/// Which software.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Kind {
    /// The lab's RAM disk.
    Lab,
    /// tgt with a file in memory; must be installed.
    Tgt,
}

/// A running target.
pub(crate) struct Target {
    /// Where it is reached, one portal per path.
    pub(crate) portals: Vec<SocketAddr>,
    pub(crate) lun: u8,
    process: Process,
    _leftovers: Leftovers,
}

/// Files to be removed when the target is gone.
struct Leftovers(Vec<PathBuf>);

impl Drop for Leftovers {
    fn drop(&mut self) {
        for file in &self.0 {
            if let Err(error) = fs::remove_file(file) {
                eprintln!("{}: {error}", file.display());
            }
        }
    }
}

/// Serves the lab's RAM disk on these portals until it is killed.
pub(crate) fn serve_lab(portals: &[SocketAddr]) -> Result<()> {
    const BLOCK: u32 = 512;
    let mut options = TargetOptions {
        listen: portals.iter().map(|portal| Listen { address: *portal, tpgt: 1, advertise: None }).collect(),
        ..TargetOptions::default()
    };
    options.target.name = NAME.to_owned();
    options.target.max_sessions = 1 << 16;
    options.target.disks =
        vec![Disk { blocks: SIZE / u64::from(BLOCK), block_size: BLOCK, serial: "BENCH".to_owned() }];
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let _serving = RamTarget::start(options).await?;
        pending().await
    })
}

impl Target {
    /// Starts one with these portals; `inside` names a network namespace to run it in.
    pub(crate) fn start(
        kind: Kind,
        portals: &[SocketAddr],
        dir: &Path,
        inside: Option<&str>,
    ) -> Result<Self> {
        match kind {
            Kind::Lab => Self::lab(portals, dir, inside),
            Kind::Tgt => Self::tgt(portals, dir, inside),
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// This program again, as the lab's target.
    fn lab(portals: &[SocketAddr], dir: &Path, inside: Option<&str>) -> Result<Self> {
        let program = current_exe()?;
        let mut command = in_namespace(inside, program.to_str().context("a path that is not UTF-8")?);
        command.arg("lab-target").args(portals.iter().map(ToString::to_string));
        let mut process = Process::start("target", dir, command)?;
        for portal in portals {
            process.wait_for_listener(*portal)?;
        }
        Ok(Self { portals: portals.to_vec(), lun: 0, process, _leftovers: Leftovers(Vec::new()) })
    }

    /// tgt with its disk in a file in memory.
    fn tgt(portals: &[SocketAddr], dir: &Path, inside: Option<&str>) -> Result<Self> {
        let control = 10_000 + std::process::id() % 20_000;
        let disk = PathBuf::from(format!("/dev/shm/braid-bench-{control}"));
        File::create(&disk).and_then(|file| file.set_len(SIZE)).context("cannot make a disk in /dev/shm")?;
        let list: Vec<String> = portals.iter().map(|portal| format!("portal={portal}")).collect();
        let mut command = in_namespace(inside, "tgtd");
        command.args(["-f", "-C", &control.to_string(), "--iscsi", &list.join(",")]);
        let mut process = Process::start("tgtd", dir, command)?;
        let admin = |line: &str| run(&format!("tgtadm -C {control} --lld iscsi {line}"));
        process.wait("an answer to tgtadm", || admin("--op show --mode system").ok())?;
        admin(&format!("--op new --mode target --tid 1 --targetname {NAME}"))?;
        admin(&format!("--op new --mode logicalunit --tid 1 --lun 1 --backing-store {}", disk.display()))?;
        for key in ["MaxRecvDataSegmentLength", "FirstBurstLength"] {
            admin(&format!("--op update --mode target --tid 1 --name {key} --value 262144"))?;
        }
        admin("--op bind --mode target --tid 1 --initiator-address ALL")?;
        let socket = format!("/var/run/tgtd/socket.{control}");
        let leftovers = Leftovers(vec![disk, format!("{socket}.lock").into(), socket.into()]);
        Ok(Self { portals: portals.to_vec(), lun: 1, process, _leftovers: leftovers })
    }
}

/// A command, to be run in a network namespace if one is named.
pub(crate) fn in_namespace(namespace: Option<&str>, program: &str) -> Command {
    let Some(namespace) = namespace else { return Command::new(program) };
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]);
    command
}
