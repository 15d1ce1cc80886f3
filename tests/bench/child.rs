//! Child processes: the target and the boxes in the middle. Each is killed when its handle goes.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longest wait for a child to do what it was started for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running child process with its output in a file.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; what it prints goes to a file in `dir`.
    pub(crate) fn start(name: &str, dir: &Path, mut command: Command) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Waits until `done` gives something.
    pub(crate) fn wait<T>(&mut self, what: &str, mut done: impl FnMut() -> Option<T>) -> Result<T> {
        let start = Instant::now();
        loop {
            if let Some(result) = done() {
                return Ok(result);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}) before: {what}\n{}", self.name, self.tail());
            }
            if start.elapsed() > PATIENCE {
                bail!("{}: waited in vain for: {what}\n{}", self.name, self.tail());
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits until it takes connections.
    pub(crate) fn wait_for_listener(&mut self, address: SocketAddr) -> Result<()> {
        self.wait(&format!("listening on {address}"), || {
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok().map(drop)
        })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Processor time its threads have used so far, to the nanosecond.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.id()))? {
            let statistics = fs::read_to_string(thread?.path().join("schedstat"))?;
            let running = statistics.split_whitespace().next().context("no time in schedstat")?;
            nanoseconds += running.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.kill().and_then(|()| self.child.wait()).is_err() {
            eprintln!("{} could not be stopped", self.name);
        }
    }
}

/// A loopback address that nobody listens on.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Runs a command to its end; an error with what it printed unless it succeeds.
pub(crate) fn run(line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let program = words.next().context("no program")?;
    let output =
        Command::new(program).args(words).output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{line}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
