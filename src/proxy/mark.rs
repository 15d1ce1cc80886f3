//! Whether the process before this one ended in order: a mark beside the state file, there while a process runs.
//!
//! One that was left behind says that sessions may have lost their connections with commands under way
//! ([`crate::session::SessionPlan::predecessor`]). Without a state file nothing is known, and the worst is assumed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The mark of this process.
#[derive(Debug)]
pub(super) struct Mark {
    path: Option<PathBuf>,
}

impl Mark {
    /// Leaves the mark, and tells whether the last process may not have ended in order.
    pub(super) fn leave(state_file: Option<&Path>) -> (Self, bool) {
        let Some(state_file) = state_file else { return (Self { path: None }, true) };
        let mut path = state_file.as_os_str().to_owned();
        path.push(".running");
        let path = PathBuf::from(path);
        let found = path.try_exists().unwrap_or(true);
        match write(&path) {
            Ok(()) => (Self { path: Some(path) }, found),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot mark that this process runs");
                (Self { path: None }, true)
            }
        }
    }

    /// This process has ended in order.
    pub(super) fn remove(&self) {
        if let Some(path) = &self.path
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove the mark of this process");
        }
    }
}

/// It must outlive a loss of power: until it does, no command is sent.
fn write(path: &Path) -> io::Result<()> {
    File::create(path)?.sync_all()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_was_left_behind_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let state_file = folder.path().join("state.json");
        let (first, found) = Mark::leave(Some(&state_file));
        assert!(!found, "nobody ran before");
        drop(first);
        let (second, found) = Mark::leave(Some(&state_file));
        assert!(found, "the first one died");
        second.remove();
        assert!(!Mark::leave(Some(&state_file)).1, "the second one ended in order");
    }

    #[test]
    fn without_a_mark_the_worst_is_assumed() {
        assert!(Mark::leave(None).1);
        assert!(Mark::leave(Some(Path::new("/nowhere/at/all/state.json"))).1);
    }
}
