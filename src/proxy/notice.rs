//! What the engine tells, as metrics, log lines and events.

use super::events::{About, Events, Kind};
use super::oddities::Oddities;
use crate::iscsi::quirk::Side;
use crate::iscsi::{FrameError, WireError};
use crate::metrics::SessionMetrics;
use crate::session::{Cause, Doubt, Exhausted, Notice, PathId, PathState, Session, Trigger};
use std::sync::Arc;
use std::time::Instant;

/// Watches one session.
#[derive(Debug)]
pub(super) struct Observer {
    metrics: SessionMetrics,
    oddities: Arc<Oddities>,
    /// Names of the session's paths.
    paths: Vec<String>,
    /// Which of them could not be brought up; that is told once.
    unreachable: Vec<bool>,
    /// A path whose state has changed with a connection, of which the next notice tells, and how.
    turned: Option<(PathId, String)>,
    events: Arc<Events>,
    about: About,
}

impl Observer {
    /// For a session with these paths, which `about` names.
    pub(super) fn new(
        metrics: SessionMetrics,
        oddities: Arc<Oddities>,
        paths: Vec<String>,
        events: Arc<Events>,
        about: About,
    ) -> Self {
        let unreachable = vec![false; paths.len()];
        Self { metrics, oddities, paths, unreachable, turned: None, events, about }
    }

    /// Takes note of an event.
    pub(super) fn note(&mut self, notice: &Notice) {
        self.metrics.note(notice);
        if let Notice::Quirk { path, quirk } = notice
            && let Some(name) = self.paths.get(path.0)
        {
            self.oddities.met(Side::Target, name, *quirk);
        }
        let turn = self.turn(notice);
        log(&self.paths, notice, turn.as_deref());
        if let Some((kind, path, text)) = event(notice)
            && self.is_news(kind, path)
        {
            let path = path.and_then(|path| self.paths.get(path.0)).cloned();
            let text = match turn {
                Some(turn) if text.is_empty() => turn,
                Some(turn) => format!("{turn}: {text}"),
                None => text,
            };
            self.events.tell(kind, About { path, ..self.about.clone() }, &text);
        }
    }

    /// The change of a path's state that a notice tells of. One that came with a connection is told with that.
    fn turn(&mut self, notice: &Notice) -> Option<String> {
        if let Notice::PathState { path, from, to, trigger } = notice {
            let turn = format!("{} -> {}", from.word(), to.word());
            self.turned.take_if(|(turned, _)| turned == path);
            return match trigger {
                Trigger::Connected | Trigger::Failed | Trigger::Left | Trigger::Lost => {
                    self.turned = Some((*path, turn));
                    None
                }
                Trigger::Tried
                | Trigger::Doubted(_)
                | Trigger::Trusted
                | Trigger::Demoted
                | Trigger::Calmed
                | Trigger::Ordered
                | Trigger::Asked
                | Trigger::Dispensable
                | Trigger::Restored => Some(turn),
            };
        }
        let (Notice::PathUp { path, .. } | Notice::PathDown { path, .. }) = notice else { return None };
        self.turned.take_if(|(turned, _)| turned == path).map(|(_, turn)| turn)
    }

    /// Whether it is to be told: a path that stays away is tried again and again.
    fn is_news(&mut self, kind: Kind, path: Option<PathId>) -> bool {
        let Some(unreachable) = path.and_then(|path| self.unreachable.get_mut(path.0)) else { return true };
        // A path that was lost is not told to be unreachable too.
        let stays_away = matches!(kind, Kind::PathLost | Kind::PathUnreachable);
        let knew = *unreachable;
        *unreachable = (knew || stays_away) && kind != Kind::PathUp;
        kind != Kind::PathUnreachable || !knew
    }

    /// Takes note of another memory budget.
    pub(super) fn budget(&mut self, bytes: u64) {
        self.metrics.budget(bytes);
    }

    /// Takes note of what the initiator's connection ends for.
    pub(super) fn downstream_spoilt(&mut self, error: WireError) {
        if error == WireError::HeaderDigest {
            tracing::warn!("a header came from the initiator with a wrong digest: its connection is closed");
            self.metrics.digest_error(Side::Initiator);
            self.events.tell(Kind::DigestError, self.about.clone(), "a header: the connection is closed");
        }
    }

    /// Takes note of what a connection to a target ends for, and says as what that counts.
    pub(super) fn upstream_spoilt(&mut self, error: &FrameError) -> Cause {
        let text = error.to_string();
        let (FrameError::Fatal(error) | FrameError::Rejectable { error, .. }) = error;
        if !matches!(error, WireError::HeaderDigest | WireError::DataDigest) {
            return Cause::Protocol(text);
        }
        self.metrics.digest_error(Side::Target);
        Cause::Digest(text)
    }

    /// Takes note of how things stand.
    pub(super) fn look(&mut self, engine: &Session, now: Instant) {
        if let Some(stall) = self.metrics.look(engine, now) {
            let text = format!("nothing completed for {:.1} ms", stall.as_secs_f64() * 1e3);
            self.events.tell(Kind::Failover, self.about.clone(), &text);
        }
        for path in (0..self.paths.len()).map(PathId) {
            self.metrics.in_flight(path, usize::try_from(engine.in_flight(path)).unwrap_or(usize::MAX));
        }
    }
}

fn words_for(doubt: Doubt) -> &'static str {
    match doubt {
        Doubt::Unacknowledged => "what was sent is not acknowledged",
        Doubt::Resending => "the kernel sends again and again",
        Doubt::TargetSilent => "the target does not answer",
        Doubt::NoCarrier => "its link has no carrier",
    }
}

/// A change of a path's state that comes with no connection, as a kind of event and why; none if something else tells of it,
/// or it is nothing that people wait for.
fn change(path: &PathId, to: PathState, trigger: Trigger) -> Option<(Kind, &PathId, String)> {
    let (kind, words) = match trigger {
        Trigger::Doubted(doubt) => (Kind::PathSuspect, words_for(doubt)),
        Trigger::Trusted => (Kind::PathTrusted, ""),
        Trigger::Calmed => (Kind::PathCalm, ""),
        Trigger::Asked => (Kind::PathDraining, "the target asked for it"),
        Trigger::Dispensable => (Kind::PathDraining, "it has helped out, and is not needed any more"),
        Trigger::Ordered if to == PathState::Draining => (Kind::PathDraining, "the operator wants it"),
        Trigger::Ordered
        | Trigger::Restored
        | Trigger::Demoted
        | Trigger::Tried
        | Trigger::Connected
        | Trigger::Failed
        | Trigger::Left
        | Trigger::Lost => return None,
    };
    Some((kind, path, words.to_owned()))
}

fn given_up(how: Exhausted) -> &'static str {
    match how {
        Exhausted::Close => "the session is closed",
        Exhausted::Busy => "commands are answered BUSY",
    }
}

fn left(lines: usize) -> String {
    format!("connections of the initiator: {lines}")
}

/// A notice as an event; none if it is nothing that people wait for.
fn event(notice: &Notice) -> Option<(Kind, Option<PathId>, String)> {
    let (kind, path, text) = match notice {
        Notice::PathUp { path, home } => (Kind::PathUp, path, if *home { "home" } else { "" }.to_owned()),
        Notice::PathDown { path, cause: Cause::Logout, .. } => {
            (Kind::PathLost, path, "logged out".to_owned())
        }
        Notice::PathDown {
            path,
            was_up,
            cause: Cause::Tcp(why) | Cause::Login(why) | Cause::Protocol(why) | Cause::Digest(why),
        } => (if *was_up { Kind::PathLost } else { Kind::PathUnreachable }, path, why.clone()),
        Notice::Moved { path, commands } => {
            (Kind::CommandsMoved, path, format!("{commands} commands run again over other paths"))
        }
        Notice::Reassigned { path, commands } => {
            (Kind::CommandsMoved, path, format!("{commands} commands go on over another connection"))
        }
        Notice::Evaded { path, commands } => {
            (Kind::CommandsMoved, path, format!("{commands} commands asked again over other paths"))
        }
        Notice::PathState { path, to, trigger, .. } => change(path, *to, *trigger)?,
        Notice::PathMarginal { path } => {
            (Kind::PathMarginal, path, "lost too often: kept for emergencies".to_owned())
        }
        Notice::Fenced { path, method, took } => (
            Kind::Fenced,
            path,
            format!("by {method:?} after {:.1} ms", took.as_secs_f64() * 1e3).to_lowercase(),
        ),
        Notice::IdentityMismatch { path, lun, what } => {
            (Kind::IdentityMismatch, path, format!("LUN {lun}: {what}; the path is not used for it"))
        }
        Notice::UnitBound { path, lun, why } => (Kind::UnitBound, path, format!("LUN {lun}: {why}")),
        Notice::OutcomeUnknown { path } => (
            Kind::OutcomeUnknown,
            path,
            "a command that must not run twice: the initiator was told".to_owned(),
        ),
        Notice::AccessChanged { path, lun, from, to } => {
            (Kind::AccessChanged, path, format!("LUN {lun}: {from} to {to}"))
        }
        Notice::TransitionAsked { path, lun, .. } => (
            Kind::AccessChanged,
            path,
            format!("LUN {lun}: no path was active, the target is asked for this one"),
        ),
        Notice::TransitionRefused { path, lun, what } => (
            Kind::AccessChanged,
            path,
            format!("LUN {lun}: the target did not make this path active: {what}"),
        ),
        Notice::DownstreamProtocol(what) => return Some((Kind::ProtocolError, None, what.clone())),
        Notice::DownstreamDigest(what) => return Some((Kind::DigestError, None, (*what).to_owned())),
        Notice::LineUp { lines } => return Some((Kind::ConnectionJoined, None, left(*lines))),
        Notice::LineDown { lines, .. } => return Some((Kind::ConnectionLost, None, left(*lines))),
        Notice::AllPathsDown => return Some((Kind::AllPathsDown, None, "commands are held".to_owned())),
        Notice::GaveUp(how) => return Some((Kind::GaveUp, None, given_up(*how).to_owned())),
        Notice::TakenAgain => return Some((Kind::TakenAgain, None, String::new())),
        Notice::IdentityProved { .. }
        | Notice::Completed { .. }
        | Notice::Hedged { .. }
        | Notice::HedgeWon { .. }
        | Notice::UnitAttentionAbsorbed { .. }
        | Notice::Quirk { .. } => return None,
    };
    Some((kind, Some(*path), text))
}

fn log_moved(path: &str, commands: usize, how: &str) {
    tracing::info!(path, commands, "{how}");
}

fn log_given_up(then: Exhausted) {
    match then {
        Exhausted::Close => tracing::error!("no path came back in time: the session is closed"),
        Exhausted::Busy => {
            tracing::error!("no path came back in time: commands are answered BUSY until one does");
        }
    }
}

/// Logs a change of a path's state. The next notice tells of one that came with a connection.
fn log_state(path: &str, state: Option<&str>, trigger: Trigger) {
    let Some(state) = state else { return };
    match trigger {
        Trigger::Doubted(doubt) => tracing::warn!(path, state, ?doubt, "path suspect"),
        Trigger::Tried => tracing::debug!(path, state, "path tried"),
        Trigger::Trusted
        | Trigger::Demoted
        | Trigger::Calmed
        | Trigger::Ordered
        | Trigger::Asked
        | Trigger::Dispensable
        | Trigger::Restored
        | Trigger::Connected
        | Trigger::Failed
        | Trigger::Left
        | Trigger::Lost => tracing::info!(path, state, cause = ?trigger, "path changed"),
    }
}

/// Logs a notice, and the change of a path's `state` that it tells of.
fn log(paths: &[String], notice: &Notice, state: Option<&str>) {
    let name = |path: &PathId| paths.get(path.0).map_or("?", String::as_str);
    match notice {
        Notice::PathUp { path, home } => tracing::info!(path = name(path), state, home, "path up"),
        Notice::PathDown { path, cause: Cause::Logout, .. } => {
            tracing::info!(path = name(path), state, "path logged out");
        }
        Notice::PathDown { path, was_up: true, cause } => {
            tracing::warn!(path = name(path), state, ?cause, "path lost");
        }
        Notice::PathDown { path, was_up: false, cause } => {
            tracing::info!(path = name(path), state, ?cause, "path still down");
        }
        Notice::PathState { path, trigger, .. } => log_state(name(path), state, *trigger),
        Notice::Moved { path, commands } => log_moved(name(path), *commands, "commands moved to other paths"),
        Notice::Reassigned { path, commands } => {
            log_moved(name(path), *commands, "commands reassigned to another connection");
        }
        Notice::PathMarginal { path } => {
            tracing::warn!(path = name(path), "path lost too often: kept for emergencies");
        }
        Notice::Evaded { path, commands } => log_moved(name(path), *commands, "asked again elsewhere"),
        Notice::Hedged { path } => tracing::debug!(path = name(path), "late read asked again elsewhere"),
        Notice::HedgeWon { path } => tracing::debug!(path = name(path), "late read answered elsewhere first"),
        Notice::Fenced { path, method, took } => {
            tracing::info!(path = name(path), ?method, ?took, "lost nexus fenced");
        }
        Notice::IdentityMismatch { path, lun, what } => {
            tracing::error!(path = name(path), lun, what, "another unit behind this path: not used for it");
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
        // Counted and logged with those of all sessions.
        Notice::Quirk { .. } => {}
        Notice::DownstreamProtocol(what) => tracing::warn!(what, "the initiator broke the protocol"),
        Notice::DownstreamDigest(what) => {
            tracing::warn!(what, "data came from the initiator with a wrong digest");
        }
        Notice::LineUp { lines } => tracing::info!(lines, "the initiator has another connection"),
        Notice::LineDown { lines, commands } => tracing::warn!(lines, commands, "the initiator has one less"),
        Notice::AllPathsDown => tracing::error!("no path works: commands are held"),
        Notice::GaveUp(then) => log_given_up(*then),
        Notice::TakenAgain => tracing::info!("a path is back: commands are carried out again"),
    }
}
