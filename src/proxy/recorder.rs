//! The black box of one session: the tapes of its connections, and of those that it has lost.

use super::conn::Conn;
use super::events::About;
use super::tape::{BlackBox, Label, Recording, Tape};
use crate::session::{Cause, Notice, PathId};
use std::sync::Arc;

/// Of one session.
#[derive(Debug)]
pub(super) struct Recorder {
    /// None if nothing is to be kept.
    shared: Option<Arc<BlackBox>>,
    target: String,
    initiator: String,
    /// Names of the session's paths.
    paths: Vec<String>,
    /// What the latest lost connection of each path left behind.
    lost: Vec<Tape>,
}

impl Recorder {
    /// For a session with these paths, which `about` names.
    pub(super) fn new(shared: Option<Arc<BlackBox>>, about: &About, paths: Vec<String>) -> Self {
        let [target, initiator] =
            [&about.target, &about.initiator].map(|name| name.clone().unwrap_or_default());
        Self { shared, target, initiator, paths, lost: Vec::new() }
    }

    /// Begins a tape for a connection: of a path, or of the initiator.
    pub(super) fn begin(&self, conn: &mut Conn, path: Option<PathId>) {
        let Some(shared) = &self.shared else { return };
        let path = path.and_then(|path| self.paths.get(path.0)).cloned();
        conn.record(shared, Label { target: self.target.clone(), initiator: self.initiator.clone(), path });
    }

    /// Keeps the tape of a connection that ends.
    pub(super) fn keep(&mut self, conn: &mut Conn) {
        if let Some(tape) = conn.take_tape() {
            self.lost.retain(|older| older.path() != tape.path());
            self.lost.push(tape);
        }
    }

    /// All that is on tape; `open` are the connections that there are.
    pub(super) fn recordings<'c>(&self, open: impl Iterator<Item = &'c Conn>) -> Vec<Recording> {
        let open = open.filter_map(Conn::recording);
        self.lost.iter().map(Tape::recording).chain(open).collect()
    }

    /// Hands all of it over if a path was lost, and that is to be written down.
    pub(super) fn note<'c>(&self, notice: &Notice, open: impl Iterator<Item = &'c Conn>) {
        let Notice::PathDown {
            path,
            was_up: true,
            cause: Cause::Tcp(_) | Cause::Login(_) | Cause::Protocol(_) | Cause::Digest(_),
        } = notice
        else {
            return;
        };
        let incidents = self.shared.as_ref().and_then(|shared| shared.incidents.as_ref());
        if let (Some(incidents), Some(path)) = (incidents, self.paths.get(path.0)) {
            incidents.lost(&self.target, path, || self.recordings(open));
        }
    }
}
