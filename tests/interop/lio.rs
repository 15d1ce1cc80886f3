//! LIO, the Linux kernel's own target, in a guest ([`Machine`]): scripts make targets through configfs; their disks are files
//! on the host. One guest carries any number of targets.
//!
//! What was learned about it:
//!
//! - Without a directory `pr` in LIO's `dbroot`, every registration of a persistent reservation ends in NOT READY, 08/00.
//! - MaxConnections is 1 as shipped. SendTargets lists all portals of the group, and all targets.
//! - A line end written into `auth/` becomes part of the name or the secret.
//! - Without `generate_node_acls` there is no login, without `demo_mode_write_protect=0` no write.

use std::fmt::Write as _;
use std::path::Path;

use crate::net::Net;
use crate::uml::{MEMORY, Machine};

const INIT: &str = include_str!("lio-init.sh");

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
    machine: Machine,
    netns: String,
    addresses: Vec<String>,
}

impl Guest {
    /// Boots a guest at the far ends of `net`, which must lead to a guest.
    pub(crate) fn boot(net: &Net) -> Self {
        Self::with_memory(net, MEMORY)
    }

    /// The same with so many MiB of memory.
    pub(crate) fn with_memory(net: &Net, memory: u64) -> Self {
        let addresses = net.addresses();
        let links: Vec<String> = (0..addresses.len()).map(|n| format!("p{n}")).collect();
        Self {
            machine: Machine::boot("lio", net.near(), (net.wire(), &links), memory, INIT),
            netns: net.near().to_owned(),
            addresses,
        }
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
        self.machine.alive()
    }

    /// The end of its console and kernel log.
    pub(crate) fn log(&self) -> String {
        self.machine.log()
    }

    /// Makes a target with one unit, LUN 0.
    pub(crate) fn add(&self, plan: &Plan<'_>) {
        let disk = plan.disk.display();
        let store = format!("fileio_0/{}", serial(plan.iqn));
        let control = format!("fd_dev_name={disk},fd_dev_size={}", plan.size);
        self.machine.run(&recipe(plan, &store, &control, 1));
    }

    /// Makes a target with two target port groups, `group1` and `group2`, which share its portals in turn. Each is a portal
    /// group of its own.
    pub(crate) fn add_with_groups(&self, plan: &Plan<'_>) {
        let name = serial(plan.iqn);
        let control = format!("fd_dev_name={},fd_dev_size={}", plan.disk.display(), plan.size);
        let groups = "for n in 1 2; do\n\
                          mkdir $store/alua/group$n\n\
                          echo $n >$store/alua/group$n/tg_pt_gp_id\n\
                          echo 0 >$store/alua/group$n/nonop_delay_msecs\n\
                          echo group$n >$target/tpgt_$n/lun/lun_0/alua_tg_pt_gp\n\
                      done\n";
        self.machine.run(&(recipe(plan, &format!("fileio_0/{name}"), &control, 2) + groups));
    }

    /// Lets another target of the guest show a target's unit too, under this LUN.
    pub(crate) fn lend(&self, of: &str, to: &str, lun: u8) {
        let (core, fabric) = ("/sys/kernel/config/target/core", "/sys/kernel/config/target/iscsi");
        let there = format!("{fabric}/{to}/tpgt_1/lun/lun_{lun}");
        self.machine.run(&format!("mkdir {there}\nln -s {core}/fileio_0/{} {there}/unit\n", serial(of)));
    }

    /// Runs a script where the target port groups of a unit are directories, and gives what it prints.
    pub(crate) fn in_groups(&self, iqn: &str, script: &str) -> String {
        let groups = format!("/sys/kernel/config/target/core/fileio_0/{}/alua", serial(iqn));
        self.machine.run(&format!("cd {groups}\n{script}"))
    }

    /// Makes a target whose disk is in the guest's memory, where blocks can be given back: a file of the host has no holes
    /// for a guest.
    pub(crate) fn add_thin(&self, plan: &Plan<'_>) {
        let name = serial(plan.iqn);
        let control = format!("fd_dev_name=/mnt/{name},fd_dev_size={}", plan.size);
        let store = format!("fileio_0/{name}");
        let thin = "echo 1 >$store/attrib/emulate_tpu\necho 1 >$store/attrib/emulate_tpws\n";
        self.machine.run(&format!(
            "truncate -s {} /mnt/{name}\n{}{thin}",
            plan.size,
            recipe(plan, &store, &control, 1)
        ));
    }

    /// Makes a target whose disk is the guest's memory, all of it at once: it never waits for the host.
    pub(crate) fn add_ram(&self, plan: &Plan<'_>) {
        let store = format!("rd_mcp_0/{}", serial(plan.iqn));
        let control = format!("rd_pages={}", plan.size / 4096);
        self.machine.run(&recipe(plan, &store, &control, 1));
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
        self.machine.run(&(device + &recipe(plan, &format!("iblock_0/{name}"), &control, 1)));
    }

    /// Lets initiators in with this account only, and proves the target with the other.
    pub(crate) fn require_chap(&self, iqn: &str, [(name, secret), (mutual, answer)]: [(&str, &str); 2]) {
        self.machine.run(&format!(
            "cd /sys/kernel/config/target/iscsi/{iqn}/tpgt_1\n\
             printf {name} >auth/userid\nprintf {secret} >auth/password\n\
             printf {mutual} >auth/userid_mutual\nprintf {answer} >auth/password_mutual\n\
             echo 1 >attrib/authentication\n"
        ));
    }

    /// Keeps every command that reaches the disk inside it, or lets them all go on.
    pub(crate) fn stall(&self, iqn: &str, on: bool) {
        let how = if on { "suspend --nolockfs --noflush" } else { "resume" };
        self.machine.run(&format!("dmsetup {how} {}\n", serial(iqn)));
    }
}

/// A name for a unit, which is also its serial number.
fn serial(iqn: &str) -> String {
    iqn.rsplit(':').next().expect("a name").replace('-', "")
}

/// A unit, and a target with so many portal groups for it, which share the portals in turn.
fn recipe(plan: &Plan<'_>, store: &str, control: &str, groups: usize) -> String {
    let mut script = format!(
        "store=/sys/kernel/config/target/core/{store}\n\
         target=/sys/kernel/config/target/iscsi/{iqn}\n\
         mkdir -p $store\n\
         echo {control} >$store/control\n\
         echo {serial} >$store/wwn/vpd_unit_serial\n\
         echo 1 >$store/enable\n",
        iqn = plan.iqn,
        serial = serial(plan.iqn),
    );
    for first in 0..groups {
        write!(
            script,
            "group=$target/tpgt_{}\n\
             mkdir -p $group/lun/lun_0\n\
             ln -s $store $group/lun/lun_0/unit\n\
             echo 0 >$group/attrib/authentication\n\
             echo 1 >$group/attrib/generate_node_acls\n\
             echo 0 >$group/attrib/demo_mode_write_protect\n\
             echo {} >$group/param/MaxConnections\n",
            first + 1,
            plan.connections
        )
        .expect("string");
        for portal in plan.portals.iter().skip(first).step_by(groups) {
            writeln!(script, "mkdir $group/np/{portal}").expect("string");
        }
        script += "echo 1 >$group/enable\n";
    }
    script
}
