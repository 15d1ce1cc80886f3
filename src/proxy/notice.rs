//! What the engine tells, as metrics and log lines.

use crate::iscsi::{FrameError, WireError};
use crate::metrics::{SessionMetrics, Side};
use crate::session::{Cause, Exhausted, Notice, PathId, Session};
use std::time::Instant;

/// Watches one session.
#[derive(Debug)]
pub(super) struct Observer {
    metrics: SessionMetrics,
    /// Names of the session's paths.
    paths: Vec<String>,
}

impl Observer {
    pub(super) fn new(metrics: SessionMetrics, paths: Vec<String>) -> Self {
        Self { metrics, paths }
    }

    /// Takes note of an event.
    pub(super) fn note(&mut self, notice: &Notice) {
        self.metrics.note(notice);
        log(&self.paths, notice);
    }

    /// Takes note of another memory budget.
    pub(super) fn budget(&mut self, bytes: u64) {
        self.metrics.budget(bytes);
    }

    /// Takes note of a PDU that was not one.
    pub(super) fn spoilt(&mut self, from: Side, error: &FrameError) {
        let (FrameError::Fatal(error) | FrameError::Rejectable { error, .. }) = error;
        if matches!(error, WireError::HeaderDigest | WireError::DataDigest) {
            self.metrics.digest_error(from);
        }
    }

    /// Takes note of how things stand.
    pub(super) fn look(&mut self, engine: &Session, now: Instant) {
        self.metrics.look(engine, now);
        for path in (0..self.paths.len()).map(PathId) {
            self.metrics.suspect(path, engine.is_suspect(path));
            self.metrics.in_flight(path, usize::try_from(engine.in_flight(path)).unwrap_or(usize::MAX));
        }
    }
}

/// Logs a notice.
fn log(paths: &[String], notice: &Notice) {
    let name = |path: &PathId| paths.get(path.0).map_or("?", String::as_str);
    match notice {
        Notice::PathUp { path, home } => tracing::info!(path = name(path), home, "path up"),
        Notice::PathDown { path, cause: Cause::Logout, .. } => {
            tracing::info!(path = name(path), "path logged out")
        }
        Notice::PathDown { path, was_up: true, cause } => {
            tracing::warn!(path = name(path), ?cause, "path lost");
        }
        Notice::PathDown { path, was_up: false, cause } => {
            tracing::info!(path = name(path), ?cause, "path still down");
        }
        Notice::Moved { path, commands } => {
            tracing::info!(path = name(path), commands, "commands moved to other paths");
        }
        Notice::PathSuspect { path, doubt } => tracing::warn!(path = name(path), ?doubt, "path suspect"),
        Notice::PathTrusted { path } => tracing::info!(path = name(path), "path trusted again"),
        Notice::Evaded { path, commands } => {
            tracing::info!(path = name(path), commands, "asked again elsewhere")
        }
        Notice::Fenced { path, method, took } => {
            tracing::info!(path = name(path), ?method, ?took, "lost nexus fenced");
        }
        Notice::IdentityMismatch { path, lun, what } => {
            tracing::error!(
                path = name(path),
                lun,
                what,
                "another logical unit behind this path: not used for it"
            );
        }
        Notice::IdentityProved { path, lun, there } => {
            tracing::info!(path = name(path), lun, there, "same logical unit behind this path");
        }
        Notice::UnitBound { path, lun, why } => {
            tracing::warn!(path = name(path), lun, why, "logical unit is used over its home session only");
        }
        Notice::Completed { path, read, written, took } => {
            tracing::trace!(path = name(path), read, written, ?took, "command completed");
        }
        Notice::UnitAttentionAbsorbed { path } => {
            tracing::debug!(path = name(path), "unit attention absorbed");
        }
        Notice::OutcomeUnknown { path } => {
            tracing::warn!(
                path = name(path),
                "outcome of a command that must not run twice is unknown: initiator told"
            );
        }
        Notice::AccessChanged { path, lun, from, to } => {
            tracing::info!(path = name(path), lun, %from, %to, "access state changed");
        }
        Notice::TransitionAsked { path, lun, group } => {
            tracing::warn!(path = name(path), lun, group, "no path is active: asked the target for this one");
        }
        Notice::TransitionRefused { path, lun, what } => {
            tracing::warn!(path = name(path), lun, what, "the target did not make the path active");
        }
        Notice::DownstreamProtocol(what) => tracing::warn!(what, "the initiator broke the protocol"),
        Notice::AllPathsDown => tracing::error!("no path works: commands are held"),
        Notice::GaveUp(Exhausted::Close) => {
            tracing::error!("no path came back in time: the session is closed");
        }
        Notice::TakenAgain => tracing::info!("a path is back: commands are carried out again"),
        Notice::GaveUp(Exhausted::Busy) => {
            tracing::error!("no path came back in time: commands are answered BUSY until one does");
        }
    }
}
