//! A machine with a kernel of its own: Debian's user-mode Linux, which needs neither a virtual machine nor anything of the
//! host's kernel but tap devices or packet sockets.
//!
//! Its root is the host's own file system, its first process is a script of ours, its console is a pipe. It is told to run
//! scripts, one after the other. It lives in a process namespace of its own, whose end is the end of all its processes,
//! however the test ends.
//!
//! What was learned about it:
//!
//! - A guest has one processor, boots in 2 to 3 s, and must be told `gro=1`: without, it chokes on the frames that the host's
//!   TCP sends, and connections hang.
//! - Starting a program takes it 50 ms.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::process::{ChildStdin, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use tempfile::TempDir;

use crate::net::{GATE, Wire};
use crate::process::{Daemon, command, read, temporary, words};
use crate::wait::poll;

/// What a guest has, in MiB, unless it needs more.
pub(crate) const MEMORY: u64 = 256;
/// What a script may take unless it is said otherwise.
const LIMIT: Duration = Duration::from_secs(60);

/// A running guest.
pub(crate) struct Machine {
    name: &'static str,
    daemon: Mutex<Daemon>,
    console: Mutex<Console>,
    dir: TempDir,
}

/// Its standard input, and how many scripts were run.
struct Console {
    input: ChildStdin,
    scripts: usize,
}

impl Machine {
    /// Boots one for initiators, at the gate of the network namespace.
    pub(crate) fn initiator(netns: &str) -> Self {
        Self::boot(
            "initiator",
            netns,
            (Wire::Tap, &[GATE.to_owned()]),
            MEMORY,
            include_str!("initiator-init.sh"),
        )
    }

    /// Boots a guest with so many MiB of memory, `init` as its first process, and the links `links` of the network namespace
    /// as its interfaces `vec0` and so on. `init` says `ready`, then runs every script whose number it reads and says
    /// `done NUMBER STATUS`; what a script prints goes to `NUMBER.out` beside it, in the directory `$braid_dir` that both
    /// sides see.
    pub(crate) fn boot(
        name: &'static str,
        netns: &str,
        (wire, links): (Wire, &[String]),
        memory: u64,
        init: &str,
    ) -> Self {
        let tools = crate::setup::tools();
        let dir = temporary();
        let first = dir.path().join("init");
        fs::write(&first, init).expect("init");
        fs::set_permissions(&first, fs::Permissions::from_mode(0o755)).expect("init");
        let home = dir.path().display();
        let mut line = words(&["unshare", "--pid", "--fork", "--kill-child", "linux.uml"]);
        line.push(format!("mem={memory}M"));
        line.extend(words(&["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", "quiet"]));
        line.extend(words(&["oops=panic", "con=null", "con0=fd:0,fd:1", "ssl=null", "umid=guest"]));
        line.extend([format!("init={}", first.display()), format!("uml_dir={home}/")]);
        line.extend(
            links
                .iter()
                .enumerate()
                .map(|(n, link)| format!("vec{n}:{},depth=128,gro=1", wire.transport(link))),
        );
        line.extend([format!("braid_dir={home}"), format!("braid_paths={}", links.len())]);
        let mut start = command(Some(netns), &line);
        start.env("LD_PRELOAD", tools.uml_shim()).stdin(Stdio::piped());
        for name in ["TMP", "TEMP", "TMPDIR"] {
            // It keeps its memory in a file there; without them it takes /dev/shm.
            start.env_remove(name);
        }
        let mut daemon = Daemon::start(name, dir.path(), start);
        let console = Mutex::new(Console { input: daemon.stdin(), scripts: 0 });
        let machine = Self { name, daemon: Mutex::new(daemon), console, dir };
        machine.wait_for("ready", LIMIT);
        machine
    }

    /// Still running? A fault of its kernel ends it.
    pub(crate) fn alive(&self) -> bool {
        self.daemon.lock().expect("daemon").alive()
    }

    /// The end of its console and kernel log.
    pub(crate) fn log(&self) -> String {
        self.daemon.lock().expect("daemon").log()
    }

    /// Runs a script in the guest, to its end, and gives what it prints.
    pub(crate) fn run(&self, script: &str) -> String {
        self.run_for(LIMIT, script)
    }

    /// Runs a script that may take longer than others.
    pub(crate) fn run_for(&self, limit: Duration, script: &str) -> String {
        let mut console = self.console.lock().expect("console");
        console.scripts += 1;
        let number = console.scripts;
        fs::write(self.dir.path().join(format!("{number}.sh")), script).expect("script");
        writeln!(console.input, "{number}").unwrap_or_else(|why| panic!("{why}\n{}", self.log()));
        let status = self.wait_for(&format!("done {number} "), limit);
        let said = read(&self.dir.path().join(format!("{number}.out")));
        assert_eq!(status, "0", "{script}\n{said}\n{}", self.log());
        said
    }

    /// Waits for a line on the console that begins so, and gives its rest.
    fn wait_for(&self, beginning: &str, limit: Duration) -> String {
        let log = self.dir.path().join(format!("{}.log", self.name));
        let said =
            || read(&log).lines().find_map(|line| Some(line.strip_prefix(beginning)?.trim().to_owned()));
        let found = poll(limit, || said().map(Some).or_else(|| (!self.alive()).then_some(None))).flatten();
        found.unwrap_or_else(|| panic!("the guest does not say: {beginning}\n{}", self.log()))
    }
}
