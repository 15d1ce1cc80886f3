//! Paths that were lost: what their sessions have on tape is written to a directory, for those who come later.
//!
//! # Contract
//! A session that loses a path hands over its tapes without waiting; a task of its own makes files of them, one at a time. Of
//! the sessions that lose the same path together one is enough: within `QUIET` there is one file per path. If the disk is slower
//! than paths are lost, incidents are left out.
//!
//! # Bounds
//! Files and bytes in the directory, as configured: the oldest go first. Only files that look as if made here are counted and
//! removed. `WAITING` incidents wait, `MOST_PATHS` paths are remembered.

use super::clock;
use super::pcapng;
use super::tape::{BlackBox, Recording};
use crate::config::BlackBox as Settings;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long the same path makes no further file.
const QUIET: Duration = Duration::from_secs(10);
/// Incidents that wait to be written, at most.
const WAITING: usize = 8;
/// Paths of which is known when they made a file.
const MOST_PATHS: usize = 1024;
/// Bytes of a path's name in the name of a file.
const LONGEST_NAME: usize = 64;

const PREFIX: &str = "braid-";
const SUFFIX: &str = ".pcapng";

/// Where incidents are handed in.
#[derive(Debug)]
pub(super) struct Incidents {
    sender: mpsc::Sender<Incident>,
    /// When each path made a file.
    made: Mutex<BTreeMap<(String, String), Instant>>,
}

#[derive(Debug)]
struct Incident {
    path: String,
    recordings: Vec<Recording>,
}

/// Where they go.
#[derive(Debug)]
pub(super) struct Writer {
    receiver: mpsc::Receiver<Incident>,
    directory: PathBuf,
    most_files: usize,
    most_bytes: u64,
}

/// Both ends, if incidents are to be written.
pub(super) fn channel(settings: &Settings) -> Option<(Incidents, Writer)> {
    let directory = settings.incidents.clone()?;
    let (sender, receiver) = mpsc::channel(WAITING);
    let (most_files, most_bytes) = (settings.files as usize, settings.bytes);
    Some((
        Incidents { sender, made: Mutex::default() },
        Writer { receiver, directory, most_files, most_bytes },
    ))
}

impl Incidents {
    /// A path of a target was lost; `recordings` are made only if that is to be written.
    pub(super) fn lost(&self, target: &str, path: &str, recordings: impl FnOnce() -> Vec<Recording>) {
        let Ok(place) = self.sender.try_reserve() else { return };
        if self.is_due(target, path, clock::now()) {
            place.send(Incident { path: path.to_owned(), recordings: recordings() });
        }
    }

    /// Somebody else who looks at the same moment lost a path as well: one file is enough.
    fn is_due(&self, target: &str, path: &str, now: Instant) -> bool {
        let Ok(mut made) = self.made.try_lock() else { return false };
        made.retain(|_, at| now.saturating_duration_since(*at) < QUIET);
        if made.len() >= MOST_PATHS {
            return false;
        }
        let key = (target.to_owned(), path.to_owned());
        let due = !made.contains_key(&key);
        if due {
            made.insert(key, now);
        }
        due
    }
}

impl Writer {
    /// Writes what is handed in until nobody can hand in any more.
    pub(super) fn run(self, black_box: &Arc<BlackBox>) -> impl Future<Output = ()> + Send + 'static {
        // Those that hand in have it; without them there is nothing to do.
        self.write_all(Arc::downgrade(black_box))
    }

    async fn write_all(mut self, black_box: Weak<BlackBox>) {
        while let Some(Incident { path, recordings }) = self.receiver.recv().await {
            let Some(shared) = black_box.upgrade() else { return };
            let time = humantime::format_rfc3339_millis(clock::time_of_day()).to_string();
            let file = self.directory.join(file_name(&time, &path));
            let (directory, most_files, most_bytes) =
                (self.directory.clone(), self.most_files, self.most_bytes);
            let place = file.clone();
            let writing = tokio::task::spawn_blocking(move || {
                let bytes = pcapng::file(&shared, &recordings);
                drop(shared);
                write(&place, &bytes)?;
                tidy(&directory, most_files, most_bytes)
            });
            match writing.await {
                Ok(Ok(())) => {
                    tracing::info!(path, file = %file.display(), "the last PDU headers were written")
                }
                Ok(Err(error)) => {
                    tracing::warn!(path, file = %file.display(), %error, "the last PDU headers could not be written")
                }
                Err(error) => tracing::warn!(path, %error, "the last PDU headers were not written"),
            }
        }
    }
}

/// Of characters that no file system and no shell minds.
fn file_name(time: &str, path: &str) -> String {
    let tame = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' };
    let name: String = path.chars().map(tame).take(LONGEST_NAME).collect();
    let time: String = time.chars().filter(|c| !matches!(c, '-' | ':')).collect();
    format!("{PREFIX}{time}-{name}{SUFFIX}")
}

/// Under its name once it is whole; for nobody else to read.
fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    let fresh = file.with_extension("new");
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    out.write_all(bytes)?;
    fs::rename(&fresh, file)
}

/// Removes the oldest until there are no more than may be.
fn tidy(directory: &Path, most_files: usize, most_bytes: u64) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
            files.push((name, entry.metadata()?.len()));
        }
    }
    // The time is the first in the name. The latest stays, however large it is.
    files.sort_unstable();
    let mut bytes: u64 = files.iter().map(|(_, length)| length).sum();
    let mut left = files.len();
    for (name, length) in files {
        if left <= 1 || left <= most_files && bytes <= most_bytes {
            break;
        }
        fs::remove_file(directory.join(name))?;
        (left, bytes) = (left - 1, bytes - length);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn files_and_bytes_are_bounded_and_nothing_else_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("braid.toml"), "mine").unwrap();
        let name = |second: u32| file_name(&format!("2026-11-23T03:12:0{second}.411Z"), "10.0.1.1:3260");
        for second in 0..5 {
            write(&dir.path().join(name(second)), &[0; 100]).unwrap();
            tidy(dir.path(), 3, 1000).unwrap();
        }
        assert_eq!(names(dir.path()), [&name(2), &name(3), &name(4), "braid.toml"]);
        tidy(dir.path(), 3, 250).unwrap();
        assert_eq!(names(dir.path()), [&name(3), &name(4), "braid.toml"]);
        tidy(dir.path(), 3, 10).unwrap();
        assert_eq!(names(dir.path()), [&name(4), "braid.toml"], "the latest stays");
        assert_eq!(name(4), "braid-20261123T031204.411Z-10.0.1.1_3260.pcapng");
        assert_eq!(file_name("t", "../../etc/x").matches('/').count(), 0);
    }

    #[test]
    fn a_path_that_many_lose_at_once_makes_one_file() {
        let settings = Settings { memory: 0, incidents: Some("/none".into()), files: 1, bytes: 1 };
        let (incidents, _writer) = channel(&settings).unwrap();
        let now = clock::now();
        let due = |path: &str, later: Duration| incidents.is_due("t", path, now + later);
        assert!(due("left", Duration::ZERO) && !due("left", QUIET / 2) && due("right", QUIET / 2));
        assert!(due("left", QUIET), "it is another incident");
    }
}
