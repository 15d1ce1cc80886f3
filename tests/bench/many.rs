//! Many sessions on one Braid: what each costs in memory, and how soon operators are answered.
//!
//! Every session goes over two paths. First all are idle, then some of them carry a load while the rest stays idle.

use crate::child::{Process, free_address};
use crate::initiator::{Initiator, Login, Workload};
use crate::target::{self, Target};
use crate::{connections, workload};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const PATHS: usize = 2;
/// Sessions that carry the load.
const BUSY: usize = 8;
/// How often an operator asks.
const QUESTIONS: usize = 20;
const LOAD: Workload = workload("4 KiB random read, depth 8", false, true, 4, 8);

/// Measures it, and prints what came of it.
pub(crate) fn measure(sessions: usize) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let portals = (0..PATHS).map(|_| free_address()).collect::<Result<Vec<_>>>()?;
    let target = Target::start(target::Kind::Lab, &portals, dir.path(), None)?;
    let mut braid = Braid::start(&target.portals, sessions, dir.path())?;
    let empty = braid.resident()?;
    let began = Instant::now();
    let mut initiators = Vec::new();
    for number in 0..sessions {
        initiators.push(Initiator::connect(Login {
            portal: braid.portal,
            target: target::NAME.to_owned(),
            initiator: format!("many-{number}"),
            lun: target.lun,
            size: target::SIZE,
        })?);
    }
    let logins = began.elapsed();
    let (admin, all) = (braid.admin, (sessions * PATHS) as f64);
    braid.process.wait("all paths of all sessions", || (connections(admin).ok()? >= all).then_some(()))?;
    let each = braid.resident()?.saturating_sub(empty) / u64::try_from(sessions.max(1))?;
    println!(
        "\n{sessions} sessions over {PATHS} paths each, logged in one after the other in {logins:.1?}. Memory: {:.1} MiB before, {:.1} KiB more \
         for each idle session.\n\n| | scrape | largest | KiB | status | largest | KiB |\n|---|---:|---:|---:|---:|---:|---:|",
        empty as f64 / f64::from(1 << 20),
        each as f64 / 1024.0
    );
    println!("| idle {}", braid.questions()?);
    let busy = initiators.split_off(initiators.len().saturating_sub(BUSY));
    let before = Instant::now();
    let (row, bytes) = thread::scope(|scope| -> Result<(String, u64)> {
        let threads: Vec<_> = busy
            .into_iter()
            .map(|mut session| scope.spawn(move || session.run(LOAD, Duration::from_secs(5))))
            .collect();
        let row = braid.questions()?;
        let mut bytes = 0;
        for thread in threads {
            bytes += thread.join().map_err(|_| anyhow::anyhow!("a session's thread"))??.bytes;
        }
        Ok((row, bytes))
    })?;
    let rate = bytes as f64 / f64::from(LOAD.bytes) / before.elapsed().as_secs_f64();
    println!("| {BUSY} sessions at {rate:.0} commands/s in all ({}) {row}", LOAD.name);
    println!(
        "\nMedian and largest of {QUESTIONS} requests: `GET /metrics`, and `GET /v1/status` on the control socket."
    );
    Ok(())
}

struct Braid {
    portal: SocketAddr,
    admin: SocketAddr,
    control: std::path::PathBuf,
    process: Process,
}

impl Braid {
    fn start(portals: &[SocketAddr], sessions: usize, dir: &Path) -> Result<Self> {
        let (portal, admin, control) = (free_address()?, free_address()?, dir.join("control.sock"));
        let paths: Vec<String> = portals.iter().map(|portal| format!("\"{portal}\"")).collect();
        let config = dir.join("braid.toml");
        fs::write(
            &config,
            format!(
                "listen = [\"{portal}\"]\nadmin = \"{admin}\"\ncontrol = \"{}\"\nlog = \"warn\"\n\
                 limits = {{ max_sessions = {}, login_rate = 1000000 }}\n\
                 [[target]]\nname = \"{}\"\nmode = \"sessions\"\npaths = [{}]\n",
                control.display(),
                sessions.max(1),
                target::NAME,
                paths.join(", ")
            ),
        )?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_braid"));
        command.arg("run").arg("--config").arg(&config);
        let mut process = Process::start("braid", dir, command)?;
        process.wait_for_listener(portal)?;
        Ok(Self { portal, admin, control, process })
    }

    /// Bytes of memory that it has.
    fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.split_whitespace().next().context("no number")?.parse::<u64>()? << 10)
    }

    /// How long an operator waits, as cells of a table.
    fn questions(&self) -> Result<String> {
        let scrape = || ask(TcpStream::connect(self.admin)?, "/metrics");
        let status = || ask(UnixStream::connect(&self.control)?, "/v1/status");
        Ok(format!("{}{}|", cells(scrape)?, cells(status)?))
    }
}

/// Median, maximum and size of answers.
fn cells(mut question: impl FnMut() -> Result<usize>) -> Result<String> {
    let mut times = Vec::new();
    let mut size = 0;
    for _ in 0..QUESTIONS {
        let began = Instant::now();
        size = question()?;
        times.push(began.elapsed());
    }
    times.sort();
    let (median, largest) = (times[QUESTIONS / 2], times[QUESTIONS - 1]);
    Ok(format!("| {median:.1?} | {largest:.1?} | {} ", size >> 10))
}

/// Asks for a page; its length.
fn ask(mut stream: impl Read + Write, page: &str) -> Result<usize> {
    write!(stream, "GET {page} HTTP/1.1\r\nHost: braid\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "{page}: {}", String::from_utf8_lossy(&answer));
    Ok(answer.len())
}
