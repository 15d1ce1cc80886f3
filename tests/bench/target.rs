//! The target all boxes lead to: a disk in memory with a portal per path.

use crate::child::{Process, run};
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target's name.
pub(crate) const NAME: &str = "iqn.2026-11.bench:disk";
/// Size of its disk in bytes.
pub(crate) const SIZE: u64 = 256 << 20;

/// A running target.
pub(crate) struct Target {
    /// Where it is reached, one portal per path.
    pub(crate) portals: Vec<SocketAddr>,
    pub(crate) lun: u8,
    _process: Process,
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

impl Target {
    /// tgt with its disk in a file in memory. `inside` names a network namespace to run it in.
    pub(crate) fn tgt(portals: &[SocketAddr], dir: &Path, inside: Option<&str>) -> Result<Self> {
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
        Ok(Self { portals: portals.to_vec(), lun: 1, _process: process, _leftovers: leftovers })
    }
}

/// A command, to be run in a network namespace if one is named.
pub(crate) fn in_namespace(namespace: Option<&str>, program: &str) -> Command {
    let Some(namespace) = namespace else { return Command::new(program) };
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]);
    command
}
