//! Drills over links of the kernel's: as root and as an ordinary user, and what is left of them.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::process::temporary;
use crate::setup::tools;

const BRAID: &str = env!("CARGO_BIN_EXE_braid");
/// Nobody.
const ORDINARY: &str = "65534";

/// A scenario, easy on the machine.
fn scenario(duration: &str, more: &str) -> String {
    format!(
        "where = \"links\"\nduration = \"{duration}\"\n[lab]\npaths = 2\nrate = \"8MiB\"\n[load]\nregion = \"2MiB\"\n{more}"
    )
}

fn step(at: &str, action: &str, path: &str, lasts: &str) -> String {
    format!("[[step]]\nat = \"{at}\"\ndo = \"{action}\"\npaths = \"{path}\"\nfor = \"{lasts}\"\n")
}

/// A folder that everybody may look into.
fn desk() -> TempDir {
    tools();
    let desk = temporary();
    fs::set_permissions(desk.path(), fs::Permissions::from_mode(0o755)).expect("its permissions");
    desk
}

/// A drill under way.
struct Drill {
    child: Child,
    out: BufReader<ChildStdout>,
    said: String,
}

impl Drill {
    /// Plays a scenario; what comes `before` is the program's first words.
    fn start(desk: &TempDir, before: &[&str], text: &str) -> Self {
        let file = desk.path().join("scenario.toml");
        fs::write(&file, text).expect("a scenario");
        let line = [before, &["drill", "run", file.to_str().expect("a plain name")]].concat();
        let (program, arguments) = line.split_first().expect("a program");
        let mut child =
            Command::new(program).args(arguments).stdout(Stdio::piped()).spawn().expect("a drill");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, out, said: String::new() }
    }

    /// Waits until it says something.
    fn until(&mut self, part: &str) {
        while !self.said.contains(part) {
            let more = self.out.read_line(&mut self.said).expect("what it says");
            assert!(more > 0, "it ended without saying {part}:\n{}", self.said);
        }
    }

    /// The networks that it lives in or holds, as the kernel calls them.
    fn networks(&self) -> Vec<PathBuf> {
        let own = Path::new("/proc").join(self.child.id().to_string());
        let held = fs::read_dir(own.join("fd")).expect("its files").flatten().map(|entry| entry.path());
        let mut found: Vec<_> =
            held.chain([own.join("ns/net")]).filter_map(|at| fs::read_link(at).ok()).collect();
        found.retain(|at| at.to_str().is_some_and(|name| name.starts_with("net:")));
        found.sort();
        found.dedup();
        found
    }

    fn end(mut self) -> (Option<i32>, String) {
        self.out.read_to_string(&mut self.said).expect("what it says");
        (self.child.wait().expect("its end").code(), self.said)
    }
}

/// Whether anybody lives in a network, or it is mounted somewhere.
fn is_left(network: &Path) -> bool {
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let inhabited = |at: PathBuf| fs::read_link(at.join("ns/net")).is_ok_and(|own| own == network);
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    mounts.contains(network.to_str().expect("a plain name"))
        || processes.map(|entry| entry.path()).any(inhabited)
}

fn assert_apart(networks: &[PathBuf]) {
    let own = fs::read_link("/proc/self/ns/net").expect("a network");
    assert!(networks.len() == 2 && !networks.contains(&own), "{networks:?}, and this one is {own:?}");
}

fn assert_nothing_left(networks: &[PathBuf]) {
    let left: Vec<_> = networks.iter().filter(|network| is_left(network)).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn over_links_of_the_kernels_nothing_goes_wrong_and_nothing_is_left() {
    let desk = desk();
    let steps = [
        step("500ms", "reset", "link1", "500ms"),
        step("1500ms", "silent", "link2", "500ms"),
        step("2500ms", "unplug", "link1", "500ms"),
    ];
    let mut drill = Drill::start(&desk, &[BRAID], &scenario("4s", &steps.concat()));
    drill.until("link1: reset");
    let networks = drill.networks();
    assert_apart(&networks);
    let (code, text) = drill.end();
    assert!(code == Some(0) && text.contains(": PASSED"), "{text}");
    for part in ["link2: silent", "link1: unplug healed", "path-lost"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert_nothing_left(&networks);
}

#[test]
fn an_ordinary_user_may_too_and_an_objective_that_is_missed_is_told() {
    let desk = desk();
    let braid = desk.path().join("braid");
    fs::copy(BRAID, &braid).expect("a program for everybody");
    let become_ordinary = ["setpriv", "--reuid", ORDINARY, "--regid", ORDINARY, "--clear-groups", "--"];
    let before = [&become_ordinary[..], &[braid.to_str().expect("a plain name")]].concat();
    // As much as the links carry while both of them do, which they do not.
    let wanted = step("500ms", "silent", "link1", "1s") + "[objectives]\nthroughput_at_least = \"32MiB\"\n";
    let mut drill = Drill::start(&desk, &before, &scenario("3s", &wanted));
    drill.until("link1: silent");
    let networks = drill.networks();
    assert_apart(&networks);
    let (code, text) = drill.end();
    assert!(code == Some(1) && text.contains("NOT MET  throughput at least"), "{text}");
    assert_eq!(text.matches("NOT MET").count(), 1, "{text}");
    assert_nothing_left(&networks);
}

#[test]
fn nothing_is_left_of_a_drill_that_is_interrupted() {
    let desk = desk();
    let endless = scenario("1h", &step("500ms", "unplug", "link1", "30min"));
    let mut drill = Drill::start(&desk, &[BRAID], &endless);
    drill.until("link1: unplug");
    let networks = drill.networks();
    kill_process(Pid::from_child(&drill.child), Signal::INT).expect("a drill");
    let (code, text) = drill.end();
    assert!(code == Some(1) && text.contains("interrupted"), "{text}");
    assert_nothing_left(&networks);
}
