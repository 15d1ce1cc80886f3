//! Running foreign programs: commands with a deadline, and daemons that end with the test.
//!
//! Everything goes through `setpriv --pdeathsig KILL`: when the thread that started it dies, even by a signal, the
//! program dies too. So a fixture must live in the thread that made it.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// What everything made here is called, with the number of the process after it.
pub(crate) const PREFIX: &str = "braidit";
/// How much of a log is shown when a test fails.
const TAIL: usize = 6000;

/// A directory that ends with the fixture; what a killed run left is swept away by the next ([`sweep`]).
pub(crate) fn temporary() -> TempDir {
    TempDir::with_prefix(format!("{PREFIX}-{}-", std::process::id())).expect("temporary directory")
}

/// Whether something so called was made by a run that is no more.
pub(crate) fn orphaned(name: &str) -> bool {
    let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1));
    owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
}

/// Removes directories of runs that are no more.
pub(crate) fn sweep() {
    let entries = fs::read_dir(std::env::temp_dir()).expect("temporary directory");
    for entry in entries.filter_map(Result::ok) {
        if entry.file_name().to_str().is_some_and(orphaned) {
            // Another run may be at it too.
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

/// A command line, optionally inside a network namespace, that dies with its caller.
pub(crate) fn command(netns: Option<&str>, words: &[String]) -> Command {
    let mut command = match netns {
        None => Command::new("setpriv"),
        Some(name) => {
            let mut ip = Command::new("ip");
            ip.args(["netns", "exec", name, "setpriv"]);
            ip
        }
    };
    command.args(["--pdeathsig", "KILL", "--"]).args(words);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).stdin(Stdio::null());
    command
}

/// Words to strings, for [`command`].
pub(crate) fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|&word| word.to_owned()).collect()
}

/// What a finished (or killed) command left behind.
pub(crate) struct Done {
    line: String,
    /// `None` when the deadline passed and it was killed.
    pub(crate) status: Option<ExitStatus>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// Ended in time with status 0.
    pub(crate) fn ok(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// Ended by a signal of its own making.
    pub(crate) fn crashed(&self) -> bool {
        self.status.is_some_and(|status| status.signal().is_some())
    }

    /// Everything worth knowing when it failed.
    pub(crate) fn show(&self) -> String {
        let how = match self.status {
            None => "killed at its deadline".to_owned(),
            Some(status) => status.to_string(),
        };
        format!("{}\n{how}\nstdout: {}\nstderr: {}", self.line, tail(&self.stdout), tail(&self.stderr))
    }

    /// The output, or a panic that shows what happened.
    pub(crate) fn expect_ok(self) -> Self {
        assert!(self.ok(), "{}", self.show());
        self
    }
}

/// Runs a command to its end or to the deadline.
pub(crate) fn run(command: Command, limit: Duration) -> Done {
    let end = Instant::now() + limit;
    run_while(command, |_| Instant::now() < end)
}

/// Runs a command until it has written nothing for `quiet`: the sign that it hangs, however long the whole takes.
pub(crate) fn run_until_quiet(command: Command, quiet: Duration) -> Done {
    let mut seen = (0, Instant::now());
    run_while(command, |written| {
        if written != seen.0 {
            seen = (written, Instant::now());
        }
        seen.1.elapsed() < quiet
    })
}

fn run_while(mut command: Command, mut go_on: impl FnMut(u64) -> bool) -> Done {
    let dir = temporary();
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    command.stdout(File::create(&out).expect("output file")).stderr(File::create(&err).expect("error file"));
    let line = format!("{command:?}");
    let mut child = command.spawn().unwrap_or_else(|why| panic!("{line}: {why}"));
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break Some(status);
        }
        let written = fs::metadata(&out).map_or(0, |meta| meta.len());
        if !go_on(written) {
            kill(&mut child);
            break None;
        }
        thread::sleep(Duration::from_millis(10));
    };
    Done { line, status, stdout: read(&out), stderr: read(&err) }
}

/// Kills and reaps, whatever state it is in.
pub(crate) fn kill(child: &mut Child) {
    if child.kill().is_ok() {
        child.wait().expect("reap");
    }
}

/// The text of a file, however broken.
pub(crate) fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// The end of a text.
pub(crate) fn tail(text: &str) -> &str {
    let start = (text.len().saturating_sub(TAIL)..text.len()).find(|&at| text.is_char_boundary(at));
    start.map_or(text, |at| text.get(at..).unwrap_or(text))
}

/// A program that runs until the fixture is dropped; its log is shown when the test fails.
pub(crate) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it, with stdout and stderr in `dir/name.log`.
    pub(crate) fn start(name: &str, dir: &Path, mut command: Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).expect("log file");
        command.stdout(file.try_clone().expect("log file")).stderr(file);
        let child = command.spawn().unwrap_or_else(|why| panic!("{name}: {why}"));
        Self { name: name.to_owned(), child, log }
    }

    /// Its standard input, once, if the command was given a pipe for it.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("a pipe")
    }

    /// Sends it a signal. What [`command`] makes becomes the program itself, so that it is the program that gets it.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it was not reaped");
    }

    /// Kills it.
    pub(crate) fn end(&mut self) {
        kill(&mut self.child);
    }

    /// Memory of its own that is not paged out, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = read(&Path::new("/proc").join(self.child.id().to_string()).join("status"));
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).expect("VmRSS") << 10
    }

    /// Still running?
    pub(crate) fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The end of what it said.
    pub(crate) fn log(&self) -> String {
        format!("--- {} (pid {}) said last:\n{}", self.name, self.child.id(), tail(&read(&self.log)))
    }
}

impl Drop for Daemon {
    #[expect(clippy::print_stderr, reason = "the harness shows it below the failed test")]
    fn drop(&mut self) {
        self.end();
        if thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}
