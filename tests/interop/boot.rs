//! A machine without a disk boots through Braid: QEMU, as software alone, whose iPXE knows one address and tries once, while the
//! first path to the target is dead. What it boots is in `boot.S`.
//!
//! What was learned: iPXE cannot boot a disk of 1 MiB, for which it finds no geometry.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use crate::braid::Braid;
use crate::net::{Cut, GATE_ADDRESS, Net};
use crate::process::{command, read, run, temporary, words};
use crate::target::{Endpoint, Kind, Site, Target};
use crate::wait::HEAVY;

/// Seconds where a processor is free: most of them iPXE waits for a key.
const LIMIT: Duration = Duration::from_secs(120);
const SIZE: u64 = 64 << 20;
const SECTOR: usize = 512;
/// How many the boot sector reads behind itself, and writes behind those.
const SECTORS: usize = 63;
/// In the last of them.
const WORD: &str = "as written, through Braid";
/// What QEMU ends with when the boot sector is done.
const DONE: i32 = 3;

/// What is on the disk before it boots: the boot sector, sectors of which no two are alike, and the word.
fn image() -> Vec<u8> {
    let mut image = fs::read(crate::setup::tools().boot_sector()).expect("boot sector");
    assert_eq!(image.len(), SECTOR);
    image.extend((1..SECTORS).flat_map(|n| u16::try_from(n).expect("few").to_be_bytes().repeat(SECTOR / 2)));
    image.extend(format!("{WORD}\0").bytes());
    image.resize((1 + SECTORS) * SECTOR, 0);
    image
}

/// Boots from what is behind this portal, and gives what was said on the serial port.
fn boot(endpoint: &Endpoint) -> String {
    let dir = temporary();
    let Endpoint { portal, iqn, lun, netns } = endpoint;
    let (address, port) = portal.rsplit_once(':').expect("a port");
    let script = format!("#!ipxe\nsanboot iscsi:{address}::{port}:{lun:x}:{iqn}\n");
    fs::write(dir.path().join("boot.ipxe"), script).expect("script");
    let (tftp, serial) = (dir.path().display(), dir.path().join("serial"));
    let net = format!("user,id=net,tftp={tftp},bootfile=boot.ipxe");
    let mut line =
        words(&["qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot", "-m", "64"]);
    // No graphics: the firmware talks on the serial port too.
    line.extend(words(&["-machine", "pc,accel=tcg,graphics=off", "-netdev", &net]));
    line.extend(words(&["-device", "virtio-net-pci,netdev=net,bootindex=1"]));
    line.extend(words(&["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]));
    line.extend(words(&["-serial", &format!("file:{}", serial.display())]));
    let done = run(command(netns.as_deref(), &line), LIMIT);
    let said = read(&serial);
    assert_eq!(done.status.and_then(|status| status.code()), Some(DONE), "{said}\n{}", done.show());
    said
}

/// With the first path broken in this way.
fn boots_with_the_first_path(how: Cut) {
    let _place = HEAVY.enter();
    crate::setup::tools();
    let net = Net::new(2);
    net.open_gate();
    let target = Target::start(Kind::Tgt, Site::Behind(&net), SIZE);
    let image = image();
    let disk = OpenOptions::new().read(true).write(true).open(target.disk()).expect("disk");
    disk.write_all_at(&image, 0).expect("image");
    net.cut(0, how);
    let braid = Braid::at(GATE_ADDRESS, &target);
    let said = boot(braid.endpoint());
    assert!(said.contains(WORD), "{said}\n{}", braid.log());
    let mut copy = vec![0; SECTORS * SECTOR];
    disk.read_exact_at(&mut copy, image.len() as u64).expect("copy");
    assert!(
        Some(copy.as_slice()) == image.get(SECTOR..),
        "what it wrote is not what it read\n{}",
        braid.log()
    );
    let metrics = braid.metrics();
    let logins = |result| metrics.sum("braid_logins_total", &[("result", result)]);
    let ended = ["accepted", "upstream", "protocol"].map(logins);
    assert_eq!(ended, [1.0, 0.0, 0.0], "one try\n{}\n{}", metrics.show(), braid.log());
    let [dead, alive] = braid.paths() else { panic!("two paths") };
    assert!(metrics.bytes(dead) == 0.0 && metrics.bytes(alive) > 0.0, "{}", metrics.show());
}

#[test]
fn ipxe_boots_with_a_first_path_that_is_silent() {
    boots_with_the_first_path(Cut::DropOut);
}

#[test]
fn ipxe_boots_with_a_first_path_that_never_answers() {
    boots_with_the_first_path(Cut::Mute);
}

#[test]
fn ipxe_boots_with_a_first_path_that_refuses() {
    boots_with_the_first_path(Cut::Reset);
}
