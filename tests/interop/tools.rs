//! Ordinary initiators doing ordinary things.
//!
//! What was learned about them:
//!
//! - `iscsi-ls` never ends against istgt directly, with or without `-s`: after the answer to SendTargets both disagree
//!   about CmdSN, and the client dials again for ever. Through Braid, which answers discovery itself, it has to end.
//! - `iscsi-perf -t N` ends after N seconds; it wraps around at the end of the disk. Its figures come on one line with
//!   carriage returns.
//! - `qemu-io` fails with status 1 when a pattern is not found; `qemu-img convert -n` writes to an existing target.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::braid::probe;
use crate::load::{Load, REGION};
use crate::process::{Done, command, run, temporary, words};
use crate::setup::tools;
use crate::stage::{Stage, Via};
use crate::target::{Endpoint, Kind, Site};
use crate::wait::HEAVY;

const LIMIT: Duration = Duration::from_secs(120);
const DISK: u64 = 64 << 20;

/// Every tool in turn against one stage.
fn every_tool(kind: Kind, portals: usize, via: Via) {
    let _place = HEAVY.enter();
    let stage = Stage::new(kind, Site::Alone(portals), via, DISK);
    let endpoint = stage.endpoint();
    if (kind, via) != (Kind::Istgt, Via::Direct) {
        list(endpoint);
    }
    inquire(endpoint, stage.portal(0));
    perf(endpoint);
    convert(endpoint, stage.disk());
    patterns(endpoint);
    drop(stage);
    rounds(kind, portals, via);
}

fn call(endpoint: &Endpoint, line: &[String]) -> Done {
    run(command(endpoint.netns.as_deref(), line), LIMIT)
}

fn list(endpoint: &Endpoint) {
    let found =
        call(endpoint, &[words(&["iscsi-ls"]), vec![endpoint.portal_url()]].concat()).expect_ok().stdout;
    let wanted = format!("Target:{} Portal:{},1", endpoint.iqn, endpoint.portal);
    assert_eq!(found.trim(), wanted, "a discovery names the portal it was asked at, and no other");
    let line = [words(&["iscsi-ls", "-s"]), vec![endpoint.portal_url()]].concat();
    let found = call(endpoint, &line).expect_ok().stdout;
    let disk = format!("Lun:{}    Type:DIRECT_ACCESS (Size:63M)", endpoint.lun);
    assert!(found.contains(&disk), "{found}");
}

/// Inquiry data, standard and the identity page, are the target's own.
fn inquire(endpoint: &Endpoint, target: &Endpoint) {
    for arguments in
        [&["iscsi-inq"][..], &["iscsi-inq", "-e", "1", "-c", "0"], &["iscsi-inq", "-e", "1", "-c", "131"]]
    {
        let ask = |endpoint: &Endpoint| {
            let line = [words(arguments), vec![endpoint.url()]].concat();
            call(endpoint, &line).expect_ok().stdout
        };
        assert_eq!(ask(endpoint), ask(target), "{arguments:?}");
    }
}

fn perf(endpoint: &Endpoint) {
    for arguments in [&["-m", "32", "-b", "8", "-t", "2", "-r"][..], &["-m", "4", "-b", "2048", "-t", "2"]] {
        let line = [words(&["iscsi-perf"]), words(arguments), vec![endpoint.url()]].concat();
        let found = call(endpoint, &line).expect_ok();
        assert!(found.stdout.contains("finished."), "{}", found.show());
    }
}

/// A random image there and back again, and as it lies on the disk.
fn convert(endpoint: &Endpoint, disk: &Path) {
    let dir = temporary();
    let (there, back) = (dir.path().join("there"), dir.path().join("back"));
    let image = noise(usize::try_from(DISK).expect("small"));
    fs::File::create(&there).and_then(|mut file| file.write_all(&image)).expect("image");
    let (there, back, url) = (there.display().to_string(), back.display().to_string(), endpoint.url());
    let img = |arguments: &[&str]| {
        call(endpoint, &[tools().qemu("qemu-img"), words(arguments)].concat()).expect_ok();
    };
    img(&["convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw", &there, &url]);
    assert!(fs::read(disk).expect("disk") == image, "the disk is not what was written");
    img(&["convert", "-W", "-m", "8", "-f", "raw", "-O", "raw", &url, &back]);
    assert!(fs::read(&back).expect("image") == image, "what came back is not what was written");
    img(&["compare", "-f", "raw", "-F", "raw", &there, &url]);
}

/// Bytes that do not repeat: a xorshift generator.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// Pattern after pattern with `qemu-io`, and a wrong expectation that must be noticed.
fn patterns(endpoint: &Endpoint) {
    let io = |commands: &[&str]| {
        let mut line = [tools().qemu("qemu-io"), words(&["-f", "raw", "-t", "none"])].concat();
        line.extend(commands.iter().flat_map(|one| ["-c".to_owned(), (*one).to_owned()]));
        line.push(endpoint.url());
        call(endpoint, &line)
    };
    io(&[
        "write -P 0x5a 0 16M",
        "write -P 0xa5 512 512",
        "write -P 0xc3 1M 64k",
        "flush",
        "read -P 0x5a 0 512",
        "read -P 0xa5 512 512",
        "read -P 0x5a 1k 1047552",
        "read -P 0xc3 1M 64k",
        "read -P 0x5a 1114112 15662080",
        "write -P 0x11 60M 4M",
        "read -P 0x11 60M 4M",
    ])
    .expect_ok();
    assert!(
        !io(&["read -P 0x5b 0 4k"]).ok(),
        "a wrong pattern was not noticed: nothing here proves anything"
    );
}

/// The load of the cut tests, with nothing cut; and the fan-out that Braid chose for it is the one that its probe of the
/// target justifies, over every path.
fn rounds(kind: Kind, portals: usize, via: Via) {
    let stage = Stage::new(kind, Site::Alone(portals), via, REGION);
    let mut load = Load::start(stage.endpoint());
    let mut rounds = |number| {
        for _ in 0..number {
            load.round(LIMIT).unwrap_or_else(|why| panic!("{why}"));
        }
    };
    rounds(20);
    if via != Via::Direct {
        let now = stage.braid().metrics();
        let (several, told) = probe(stage.target());
        let justified = if several { "mcs" } else { "sessions" };
        assert_eq!(now.fanout(), Some(justified), "{}\n{told}", now.show());
        assert_eq!(several, kind.several_connections(), "the probe must see what the target can do\n{told}");
        for path in stage.braid().paths() {
            assert!(now.connections(path) > 0.0 && now.bytes(path) > 0.0, "{path} is unused\n{}", now.show());
        }
    }
    rounds(20);
    load.finish(stage.disk()).unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn direct_tgt() {
    every_tool(Kind::Tgt, 2, Via::Direct);
}

#[test]
fn direct_istgt() {
    every_tool(Kind::Istgt, 2, Via::Direct);
}

#[test]
fn braid_tgt_2() {
    every_tool(Kind::Tgt, 2, Via::Braid("auto"));
}

#[test]
fn braid_tgt_4() {
    every_tool(Kind::Tgt, 4, Via::Braid("auto"));
}

#[test]
fn braid_tgt_mcs_2() {
    every_tool(Kind::TgtMcs, 2, Via::Braid("auto"));
}

#[test]
fn braid_tgt_mcs_4() {
    every_tool(Kind::TgtMcs, 4, Via::Braid("auto"));
}

#[test]
fn braid_istgt_2() {
    every_tool(Kind::Istgt, 2, Via::Braid("auto"));
}

#[test]
fn braid_lio_2() {
    every_tool(Kind::Lio, 2, Via::Braid("auto"));
}

#[test]
fn braid_lio_4() {
    every_tool(Kind::Lio, 4, Via::Braid("auto"));
}

/// It grants several connections, and gets several sessions.
#[test]
fn braid_lio_mcs_2() {
    every_tool(Kind::LioMcs, 2, Via::Braid("auto"));
}
