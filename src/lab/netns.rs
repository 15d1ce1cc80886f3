//! Network namespaces: networks of their own on one machine.
//!
//! A [`Namespace`] is held by an open file. The kernel ends it, with all devices, addresses and rules in it, when the last
//! process that lives in it or holds it is gone, whatever became of that process: nothing has to be swept up.

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

/// Where the kernel shows a thread its own one.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    /// Where others find it.
    path: PathBuf,
}

impl Namespace {
    /// The one that has a name (`ip netns add`).
    ///
    /// # Errors
    /// There is none.
    pub fn named(name: &str) -> io::Result<Self> {
        let path = Path::new("/run/netns").join(name);
        Ok(Self { file: File::open(&path)?, path })
    }

    /// That of the calling thread.
    ///
    /// # Errors
    /// The kernel does not show it.
    pub fn own() -> io::Result<Self> {
        let file = File::open(OWN)?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into();
        Ok(Self { file, path })
    }

    /// A new one, with nothing in it.
    ///
    /// # Errors
    /// It is not allowed.
    pub fn new() -> io::Result<Self> {
        aside(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Self::own()
        })
    }

    /// Moves the calling thread into it, and those that it starts from now on.
    ///
    /// # Errors
    /// It is not allowed.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.file, CloneFlags::CLONE_NEWNET)?)
    }

    /// Does something inside: sockets that it makes, and programs that it starts, belong there.
    ///
    /// # Errors
    /// It cannot be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        aside(|| {
            self.enter()?;
            Ok(work())
        })
    }

    /// Runs a program inside, and gives what it said.
    ///
    /// # Errors
    /// It is not there, or failed: then with what it complained of.
    pub fn run(&self, line: &[&str]) -> io::Result<String> {
        let [program, arguments @ ..] = line else { return Ok(String::new()) };
        let done = self.within(|| {
            // Not on the path of ordinary users.
            let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
            Command::new(program).args(arguments).env("PATH", path).stdin(Stdio::null()).output()
        })?;
        let output = match done {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let package = if *program == "nft" { "nftables" } else { "iproute2" };
                let text = format!("the program {program} is not there; install the package {package}");
                return Err(io::Error::new(error.kind(), text));
            }
            done => done?,
        };
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        let (line, complaint) = (line.join(" "), complaint.trim());
        Err(io::Error::other(format!("`{line}` failed: {complaint}")))
    }

    /// Where other programs find it.
    pub(super) fn path(&self) -> String {
        self.path.display().to_string()
    }
}

/// Moves the calling thread, and those that it starts from now on, into a new namespace. Who may not do that does it as the
/// root of a user namespace of his own, which the kernel allows to a process that has one thread only.
///
/// # Errors
/// Neither is allowed.
pub fn isolate() -> io::Result<()> {
    match unshare(CloneFlags::CLONE_NEWNET) {
        Err(Errno::EPERM) => {}
        done => return Ok(done?),
    }
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

/// Does something on a thread of its own, so that the caller stays where it is.
fn aside<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| resume_unwind(panic)))
}
