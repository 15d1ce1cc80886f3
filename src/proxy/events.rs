//! What happened, for those who ask: a ring of the latest events, each with a number and the time of day.
//!
//! # Bounds
//! [`KEPT`] events, of which those of logins, which anybody can cause, do not displace the others; texts of [`LONGEST`] bytes. A
//! reader has no queue of its own: it asks for what came after the last number that it knows ([`Events::after`]), as slowly as
//! it likes, and is told how many were displaced meanwhile.

use super::clock;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// Events that are kept: about sessions, paths and orders, and about logins that came to nothing.
pub const KEPT: [usize; 2] = [1792, 256];
/// Bytes of a text or name.
pub const LONGEST: usize = 512;

/// What kind of event it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A session began; the text says what is guaranteed in it, and why.
    SessionBegun,
    /// A session ended.
    SessionEnded,
    /// A login came to nothing.
    LoginRefused,
    /// A path came up.
    PathUp,
    /// A path was lost; the text says why.
    PathLost,
    /// A path could not be brought up. Told once until it is up again.
    PathUnreachable,
    /// A path is suspect; the text says why.
    PathSuspect,
    /// And trusted again.
    PathTrusted,
    /// A path takes no new commands, to leave in order; the text says why.
    PathDraining,
    /// A path was lost too often, and is kept for emergencies.
    PathMarginal,
    /// And is used like any other again.
    PathCalm,
    /// Commands were moved off a path.
    CommandsMoved,
    /// A failover is over; the text says how long nothing completed.
    Failover,
    /// Writes that were in doubt are so no longer.
    Fenced,
    /// A command with unknown outcome was answered with an error.
    OutcomeUnknown,
    /// A unit is used over its home session only.
    UnitBound,
    /// Another unit was found behind a path.
    IdentityMismatch,
    /// A unit has another access state (ALUA) behind a path.
    AccessChanged,
    /// No path works.
    AllPathsDown,
    /// No path came back in time.
    GaveUp,
    /// A path is back after that.
    TakenAgain,
    /// An initiator broke the protocol.
    ProtocolError,
    /// What an initiator sent came with a wrong digest; the text says what comes of it.
    DigestError,
    /// An initiator has one connection more in its session.
    ConnectionJoined,
    /// Or one less; the text says how many are left.
    ConnectionLost,
    /// The operator ordered something.
    Ordered,
    /// The configuration was read again.
    Reloaded,
    /// And is as it was.
    NotReloaded,
}

impl Kind {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::SessionBegun => "session-begun",
            Self::SessionEnded => "session-ended",
            Self::LoginRefused => "login-refused",
            Self::PathUp => "path-up",
            Self::PathLost => "path-lost",
            Self::PathUnreachable => "path-unreachable",
            Self::PathSuspect => "path-suspect",
            Self::PathTrusted => "path-trusted",
            Self::PathDraining => "path-draining",
            Self::PathMarginal => "path-marginal",
            Self::PathCalm => "path-calm",
            Self::CommandsMoved => "commands-moved",
            Self::Failover => "failover",
            Self::Fenced => "fenced",
            Self::OutcomeUnknown => "outcome-unknown",
            Self::UnitBound => "unit-bound",
            Self::IdentityMismatch => "identity-mismatch",
            Self::AccessChanged => "access-changed",
            Self::AllPathsDown => "all-paths-down",
            Self::GaveUp => "gave-up",
            Self::TakenAgain => "taken-again",
            Self::ProtocolError => "protocol-error",
            Self::DigestError => "digest-error",
            Self::ConnectionJoined => "connection-joined",
            Self::ConnectionLost => "connection-lost",
            Self::Ordered => "ordered",
            Self::Reloaded => "reloaded",
            Self::NotReloaded => "not-reloaded",
        }
    }
}

/// What an event is about.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct About {
    /// TargetName.
    pub target: Option<String>,
    /// InitiatorName.
    pub initiator: Option<String>,
    /// Name of a path.
    pub path: Option<String>,
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its number: the first is 1, and none is left out.
    pub number: u64,
    /// When.
    pub time: SystemTime,
    /// What.
    pub kind: Kind,
    /// To whom.
    pub about: About,
    /// More of it.
    pub text: String,
}

/// An answer to a reader.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct News {
    /// Oldest first.
    pub events: Vec<Event>,
    /// Events that came after the number asked for, and are not kept any more.
    pub missed: u64,
    /// The number of the last event there is; what to ask with next time.
    pub last: u64,
}

/// The ring.
#[derive(Debug)]
pub struct Events {
    rings: Mutex<Rings>,
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Rings {
    last: u64,
    rings: [VecDeque<Event>; 2],
}

impl Default for Events {
    fn default() -> Self {
        Self { rings: Mutex::default(), last: watch::Sender::new(0) }
    }
}

impl Events {
    /// Something happened.
    pub(super) fn tell(&self, kind: Kind, about: About, text: &str) {
        let About { target, initiator, path } = about;
        let [target, initiator, path] = [target, initiator, path].map(|name| name.map(|name| fit(&name)));
        let about = About { target, initiator, path };
        let (text, time) = (fit(text), clock::time_of_day());
        let mut rings = self.lock();
        rings.last += 1;
        let number = rings.last;
        let [others, logins] = &mut rings.rings;
        let [most_others, most_logins] = KEPT;
        let (ring, most) =
            if kind == Kind::LoginRefused { (logins, most_logins) } else { (others, most_others) };
        if ring.len() >= most {
            ring.pop_front();
        }
        ring.push_back(Event { number, time, kind, about, text });
        drop(rings);
        self.last.send_replace(number);
    }

    /// What came after this number. A number that has not been given yet is from before Braid started anew: all is told.
    #[must_use]
    pub fn after(&self, number: u64) -> News {
        let rings = self.lock();
        let number = if number > rings.last { 0 } else { number };
        let all = rings.rings.iter().flatten();
        let mut events: Vec<_> = all.filter(|event| event.number > number).cloned().collect();
        events.sort_by_key(|event| event.number);
        let missed = (rings.last - number).saturating_sub(events.len() as u64);
        News { events, missed, last: rings.last }
    }

    /// The same, once there is some, or this time is over.
    pub async fn wait_after(&self, number: u64, patience: Duration) -> News {
        let mut last = self.last.subscribe();
        let some = last.wait_for(|last| *last != number);
        // In either case it is told what there is.
        tokio::time::timeout(patience, some).await.ok();
        self.after(number)
    }

    fn lock(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What peers say is cut to a length, and does nothing to a terminal.
fn fit(text: &str) -> String {
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut fitted = String::new();
    for c in shown {
        if fitted.len() + c.len_utf8() > LONGEST {
            break;
        }
        fitted.push(c);
    }
    fitted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(events: &Events, kind: Kind, times: usize) {
        (0..times).for_each(|n| events.tell(kind, About::default(), &n.to_string()));
    }

    #[test]
    fn the_ring_is_bounded_and_a_late_reader_is_told_what_it_missed() {
        let events = Events::default();
        let [kept, of_logins] = KEPT;
        tell(&events, Kind::PathLost, kept + 10);
        let news = events.after(0);
        assert_eq!((news.events.len(), news.missed, news.last), (kept, 10, kept as u64 + 10));
        assert_eq!(events.after(4).missed, 6);
        assert_eq!(events.after(10).missed, 0);
        tell(&events, Kind::LoginRefused, 100_000);
        let news = events.after(0);
        assert_eq!(news.events.len(), kept + of_logins, "logins displace logins alone");
        assert_eq!(news.missed, 10 + 100_000 - of_logins as u64);
        assert!(news.events.is_sorted_by_key(|event| event.number));
        let last = news.last;
        assert_eq!(events.after(last), News { last, ..News::default() });
        assert_eq!(events.after(last + 1).events.len(), kept + of_logins, "from before a restart");
    }

    #[test]
    fn what_peers_say_is_short_and_tame() {
        let events = Events::default();
        let about = About { initiator: Some("\u{1b}[2Jiqn.\n".to_owned()), ..About::default() };
        events.tell(Kind::LoginRefused, about, &"ä".repeat(LONGEST));
        let event = events.after(0).events.remove(0);
        assert_eq!(event.about.initiator.as_deref(), Some(" [2Jiqn. "));
        assert_eq!(event.text.len(), LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_waits_is_woken_or_told_that_there_is_nothing() {
        let events = Events::default();
        assert_eq!(events.wait_after(0, Duration::from_secs(20)).await, News::default());
        let (news, ()) = tokio::join!(events.wait_after(0, Duration::from_secs(20)), async {
            tell(&events, Kind::PathUp, 1);
        });
        assert_eq!(news.events.len(), 1);
        assert_eq!(events.wait_after(0, Duration::from_secs(20)).await.events.len(), 1, "at once");
    }
}
