//! Braid between software that nobody here wrote: tgt, istgt and LIO as targets; libiscsi's tools, QEMU's, iPXE and
//! the Linux kernel as initiators.
//!
//! `cargo test` runs all of it, and installs what it needs ([`setup`]): so it wants root on a Debian-like system, because
//! it also makes network namespaces ([`net`]) in which links are cut.
//!
//! - [`suite`]: the whole of `iscsi-test-cu`; through Braid must equal direct, test by test ([`outcome`]).
//! - [`tools`]: `iscsi-ls`, `iscsi-inq`, `iscsi-perf`, `qemu-img`, `qemu-io`.
//! - [`cuts`]: each path cut in turn under a verified load ([`load`]).
//! - [`faults`]: what else befalls links and targets ([`trouble`]), under a load that overlaps itself ([`steady`]).
//! - [`access`]: access states of LIO's port groups changed under a verified load, by its operator and by Braid.
//! - [`crossed`]: two targets of different names that show the same disks under each other's LUNs.
//! - [`sg`]: sg3-utils on the kernel's initiator ([`initiator`]); through Braid must equal direct, line by line.
//! - [`chap`]: authentication, ended by Braid or relayed to the target.
//! - [`watched`]: Prometheus, with the rules and panels of `dashboards/`.
//! - [`capture`]: the black box, read by Wireshark.
//! - [`page`]: the status page in Chromium ([`browser`]).
//! - [`discover`]: targets that the configuration does not write out, with dead portals among those told of.
//! - [`intercept`]: initiators that go to the target's own addresses, and are carried by Braid on the way.
//! - [`matrix`]: every combination of login parameters, asked for by the kernel's initiator.
//! - [`boot`]: a machine whose firmware boots over Braid with the first path dead.
//! - [`files`]: a file system of the kernel's initiator, while each path is cut and mended.
//! - [`quirks`]: what targets do besides the standard, by the names that Braid has for it.
//! - [`balancer`]: HAProxy before Braid, which tells whose connections are whose.
//! - [`drill`]: drills over links of the kernel's, as root and as an ordinary user.
//! - [`neighbour`]: a second initiator, straight at the target, resets, reserves and preempts under load.
//!
//! Fixtures ([`target`], [`lio`], [`uml`], [`braid`], [`stage`]) own their files, addresses and processes and end with the test; a failed
//! test shows their logs. Every wait has a deadline ([`wait`]), none is a fixed pause.

#![expect(clippy::disallowed_methods, reason = "foreign programs are polled against real deadlines")]

mod access;
mod balancer;
mod boot;
mod braid;
mod browser;
mod capture;
mod chap;
mod crossed;
mod cuts;
mod discover;
mod drill;
mod faults;
mod files;
mod initiator;
mod intercept;
mod lio;
mod load;
mod matrix;
mod neighbour;
mod net;
mod outcome;
mod page;
mod process;
mod quirks;
mod service;
mod setup;
mod sg;
mod stage;
mod steady;
mod suite;
mod target;
mod tools;
mod trouble;
mod uml;
mod wait;
mod watched;
