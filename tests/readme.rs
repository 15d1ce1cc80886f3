//! What README.md tells people to write and to type: it is taken from there, so that it stays true.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use braid::lab::initiator::{Initiator, InitiatorOptions};
use braid::lab::target::{RamTarget, TargetOptions};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Where README.md's Braid listens, and the portals of its target.
const LISTEN: &str = "192.168.7.1:3260";
const PORTALS: [&str; 2] = ["10.0.1.1", "10.0.2.1"];

/// Name of the lab's target.
const TARGET: &str = "iqn.2026-01.org.braid:lab";

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// All that stands in fences of this language.
fn blocks(language: &str) -> Vec<String> {
    let text = readme();
    let fenced = text.split("\n```").skip(1).step_by(2);
    fenced
        .filter_map(|block| Some(block.strip_prefix(language)?.strip_prefix('\n')?.to_owned() + "\n"))
        .collect()
}

/// The words of the one line that begins like this, without the program's name.
fn line(begin: &str) -> Vec<String> {
    let text = readme();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(begin)).collect();
    let [line] = lines.as_slice() else { panic!("{begin} stands {} times in README.md", lines.len()) };
    let words = line.split('#').next().unwrap().trim_end().trim_end_matches('&').split_whitespace();
    words.skip(1).map(|word| word.trim_matches('\'').to_owned()).collect()
}

fn braid(args: &[String]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_braid")).args(args).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn every_configuration_is_right() {
    let dir = tempfile::tempdir().unwrap();
    for (number, name) in ["host7", "disk", "upstream", "noc"].iter().enumerate() {
        let file = dir.path().join(name);
        fs::write(&file, format!("a secret of its own, {number}\n")).unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    }
    let configurations: Vec<String> =
        blocks("toml").into_iter().filter(|block| block.contains("[[target]]")).collect();
    assert!(configurations.len() >= 7);
    for text in configurations {
        assert!(text.lines().count() <= 6, "{text}");
        let file = dir.path().join("braid.toml");
        fs::write(&file, text.replace("/etc/braid", &dir.path().display().to_string())).unwrap();
        let (code, said) = braid(&words(&["check", "--config", &file.display().to_string()]));
        assert!(code == Some(0) && !said.contains("warning: "), "{text}\n{said}");
    }
}

/// A target with two portals, and a free address to listen on.
struct Ground {
    target: RamTarget,
    listen: String,
    dir: TempDir,
}

impl Ground {
    async fn new() -> Self {
        let target = RamTarget::start(TargetOptions::loopback(2)).await.unwrap();
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        Self { target, listen, dir: tempfile::tempdir().unwrap() }
    }

    fn portals(&self) -> &[SocketAddr] {
        self.target.addresses()
    }

    /// README.md's text with the addresses that there are.
    fn here(&self, text: &str) -> String {
        PORTALS.iter().zip(self.portals()).fold(text.replace(LISTEN, &self.listen), |text, (portal, real)| {
            text.replace(&format!("{portal}:3260"), &real.to_string()).replace(portal, &real.to_string())
        })
    }

    fn socket(&self) -> String {
        self.dir.path().join("control.sock").display().to_string()
    }

    /// The states of the session's paths.
    fn paths(&self) -> Vec<String> {
        let (_, status) = braid(&words(&["status", "--json", "--socket", &self.socket()]));
        let status: Value = serde_json::from_str(&status).unwrap_or_else(|_| panic!("{status}"));
        let paths = status.pointer("/targets/0/sessions/0/standing/paths").and_then(Value::as_array);
        paths.into_iter().flatten().map(|path| path["state"].as_str().unwrap().to_owned()).collect()
    }

    /// An initiator that was told Braid's address and nothing else finds a disk there, over two paths, of which one may go.
    async fn judge(&self, what: &[String]) {
        let _running = Running::start(what, &self.socket());
        let mut initiator = Initiator::connect(&InitiatorOptions::new(&self.listen, TARGET)).await.unwrap();
        let data: Vec<u8> = (0..=255).cycle().take(64 * 512).collect();
        initiator.write(7, data.clone()).await.unwrap();
        while self.paths() != ["up", "up"] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let first = self.portals().first().unwrap().to_string();
        let (code, said) = braid(&words(&["path", "fail", &first, "--socket", &self.socket()]));
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(initiator.read(7, 64).await.unwrap().contiguous()[..], data);
        initiator.logout().await.unwrap();
    }
}

/// A Braid, killed when this is dropped.
struct Running {
    child: Child,
    /// It is not to find its standard error closed.
    _log: BufReader<ChildStderr>,
}

impl Running {
    fn start(what: &[String], socket: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_braid"))
            .args(what)
            .args(["--admin", "off", "--control", socket])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while log.read_line(&mut said).unwrap() > 0 && !said.contains("listening") {}
        assert!(said.contains("listening"), "{said}");
        Self { child, _log: log }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_lines_are_a_multipath_disk() {
    let ground = Ground::new().await;
    let five =
        blocks("toml").into_iter().find(|block| block.contains(&format!("listen = \"{LISTEN}\""))).unwrap();
    assert_eq!(five.lines().count(), 5, "README.md says that there are five:\n{five}");
    let file: PathBuf = ground.dir.path().join("braid.toml");
    fs::write(&file, ground.here(&five)).unwrap();
    let what = words(&["run", "--config", &file.display().to_string()]);
    tokio::time::timeout(LONG, ground.judge(&what)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_file_is_a_multipath_disk() {
    let ground = Ground::new().await;
    let what: Vec<String> =
        line("braid run --listen 192.168.7.1:3260").iter().map(|word| ground.here(word)).collect();
    tokio::time::timeout(LONG, ground.judge(&what)).await.unwrap();
}

/// Both commands mean the same connections; putting rules up is for the tests with network namespaces.
#[test]
fn interception_without_a_file_catches_what_it_serves() {
    let run = line("braid run --listen 127.0.0.1:3261,intercept=redirect");
    let intercept = line("braid intercept --listen");
    let (last, flags) = intercept.split_last().unwrap();
    assert_eq!((last.as_str(), flags.get(1..)), ("--apply", run.get(1..)));
    let (code, rules) = braid(flags);
    let rule = "ip daddr . tcp dport { 10.0.1.1 . 3260, 10.0.2.1 . 3260 } redirect to :3261";
    assert!(code == Some(0) && rules.contains(rule), "{rules}");
}
