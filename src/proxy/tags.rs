//! Under which portal group tags initiators know targets.
//!
//! An initiator compares the tag that it was told in discovery with the one of its login, and some refuse to go on if they
//! differ. So the first tag of a target that is known stays, whichever portal group a session's home is in, and with a state
//! file it stays over a restart too. A portal that is intercepted has a tag of its own.

use super::verdict::StateFile;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tags remembered at most: one of a target that comes and goes matters no more.
const MAX_TAGS: usize = 4096;

/// The tags that are known.
#[derive(Debug)]
pub(super) struct Tags {
    known: Mutex<BTreeMap<String, u16>>,
    state: Arc<Mutex<StateFile>>,
}

impl Tags {
    /// Those of the state file.
    pub(super) fn new(state: Arc<Mutex<StateFile>>) -> Self {
        let known = Mutex::new(lock(&state).tags().clone());
        Self { known, state }
    }

    /// The tag of a target, at a portal that is intercepted if one is named.
    pub(super) fn known(&self, target: &str, at: Option<SocketAddr>) -> Option<u16> {
        lock(&self.known).get(&key(target, at)).copied()
    }

    /// Takes a tag for a target that has none.
    pub(super) fn learn(&self, target: &str, tag: u16) {
        let mut known = lock(&self.known);
        if known.len() < MAX_TAGS {
            known.entry(key(target, None)).or_insert(tag);
        }
    }

    /// Notes what an initiator was told at its login, for the next start too. The file is written in the background.
    pub(super) fn told(&self, target: &str, at: Option<SocketAddr>, tag: u16) {
        let key = key(target, at);
        let mut known = lock(&self.known);
        if known.len() < MAX_TAGS || known.contains_key(&key) {
            known.insert(key.clone(), tag);
        }
        drop(known);
        let state = Arc::clone(&self.state);
        if lock(&state).tags().get(&key) != Some(&tag) {
            tokio::task::spawn_blocking(move || {
                if let Err(error) = lock(&state).remember_tag(key, tag) {
                    tracing::warn!(%error, "state file not written");
                }
            });
        }
    }
}

fn key(target: &str, at: Option<SocketAddr>) -> String {
    at.map_or_else(|| target.to_owned(), |portal| format!("{portal}/{target}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
