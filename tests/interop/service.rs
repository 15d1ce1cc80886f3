//! What examples/systemd gives to systemd, as far as that can be tried where it does not run: its own checkers read it.

use std::fs;
use std::path::Path;

use crate::process::{Done, command, run, temporary, words};
use crate::setup::tools;
use crate::wait::PATIENCE;

/// What `systemd-analyze security` may rate the service with at most, times ten: 100 is anything goes.
const MOST_EXPOSED: &str = "20";

fn example(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/systemd").join(name);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn ask(line: &[&str]) -> Done {
    tools();
    run(command(None, &words(line)), PATIENCE)
}

#[test]
fn systemd_finds_no_fault_with_the_unit() {
    let dir = temporary();
    let unit = dir.path().join("braid.service");
    let text = example("braid.service");
    assert_eq!(text.matches("=/usr/bin/braid ").count(), 2, "start and reload");
    fs::write(&unit, text.replace("/usr/bin/braid", env!("CARGO_BIN_EXE_braid"))).expect("unit");
    let unit = unit.display().to_string();
    let verified = ask(&["systemd-analyze", "verify", "--man=no", &unit]).expect_ok();
    assert_eq!(verified.stdout + &verified.stderr, "");
    ask(&["systemd-analyze", "security", "--offline=true", "--threshold", MOST_EXPOSED, &unit]).expect_ok();
}

#[test]
fn systemd_makes_the_user() {
    let dir = temporary();
    let file = dir.path().join("braid.conf");
    fs::write(&file, example("braid.sysusers")).expect("sysusers");
    fs::create_dir(dir.path().join("etc")).expect("etc");
    let root = format!("--root={}", dir.path().display());
    ask(&["systemd-sysusers", &root, &file.display().to_string()]).expect_ok();
    let users = fs::read_to_string(dir.path().join("etc/passwd")).expect("passwd");
    assert!(users.lines().any(|line| line.starts_with("braid:")), "{users}");
}
