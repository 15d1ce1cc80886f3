//! What nexuses will report of something that Braid did, or had done over another nexus than the initiator knows: nobody needs
//! to hear it.
//!
//! - States of port groups that Braid had changed (2Ah/06h): every nexus may report it once more when that is over.
//! - A mode or log page that the initiator changed while home's port was not accessible, over a further nexus (2Ah/01h,
//!   2Ah/02h): home reports it, and to the initiator that is its own doing.

use crate::iscsi::Lun;
use crate::session::Session;
use crate::session::nexus::NexusId;
use crate::session::tasks::Task;
use std::time::Instant;

/// A kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::session) enum Echo {
    States,
    Pages,
}

impl Echo {
    /// Whether a unit attention with this code tells of it.
    const fn sounds_like(self, (asc, ascq): (u8, u8)) -> bool {
        match self {
            Self::States => matches!((asc, ascq), (0x2a, 0x06)),
            Self::Pages => matches!((asc, ascq), (0x2a, 0x01 | 0x02)),
        }
    }
}

#[derive(Debug)]
struct Expected {
    nexus: NexusId,
    echo: Echo,
    /// When the change was over; none while it is under way.
    over: Option<Instant>,
}

/// What nexuses may still report of one unit.
#[derive(Debug, Default)]
pub(super) struct Echoes(Vec<Expected>);

impl Echoes {
    fn expect(&mut self, nexus: NexusId, echo: Echo) {
        self.0.retain(|e| (e.nexus, e.echo) != (nexus, echo));
        self.0.push(Expected { nexus, echo, over: None });
    }

    fn over(&mut self, echo: Echo, now: Instant) {
        for expected in self.0.iter_mut().filter(|e| e.echo == echo) {
            expected.over.get_or_insert(now);
        }
    }

    fn heard(&mut self, nexus: NexusId, code: (u8, u8)) -> bool {
        let Some(at) = self.0.iter().position(|e| e.nexus == nexus && e.echo.sounds_like(code)) else {
            return false;
        };
        if self.0.get(at).is_some_and(|e| e.over.is_some()) {
            self.0.swap_remove(at);
        }
        true
    }

    fn silent(&mut self, nexus: NexusId, sent_at: Instant) {
        self.0.retain(|e| e.nexus != nexus || e.over.is_none_or(|at| at > sent_at));
    }
}

impl Session {
    /// A change is about to be made that a nexus will report.
    pub(in crate::session) fn expect_echo(&mut self, lun: Lun, nexus: NexusId, echo: Echo) {
        if let Some(unit) = self.units.get_mut(&lun) {
            unit.echoes.expect(nexus, echo);
        }
    }

    /// It was made, or not: what of it is not waiting at the nexuses by now never will be.
    pub(in crate::session) fn echo_over(&mut self, lun: Lun, echo: Echo, now: Instant) {
        if let Some(unit) = self.units.get_mut(&lun) {
            unit.echoes.over(echo, now);
        }
    }

    /// Whether a nexus reports what nobody needs to hear.
    pub(in crate::session) fn is_echo(&mut self, lun: Lun, nexus: NexusId, code: (u8, u8)) -> bool {
        self.units.get_mut(&lun).is_some_and(|unit| unit.echoes.heard(nexus, code))
    }

    /// A nexus had nothing to report to a command sent at a time. (What it said before that may still be under way, on
    /// another connection.)
    pub(in crate::session) fn no_echo(&mut self, lun: Lun, nexus: NexusId, sent_at: Instant) {
        if self.units.get(&lun).is_none_or(|unit| unit.echoes.0.is_empty()) {
            return;
        }
        let older = |t: &Task| t.run.as_ref().is_some_and(|r| r.nexus == nexus && r.sent_at < sent_at);
        let under_way = self.tasks.iter().any(|(_, t)| t.lun == lun && older(t));
        if let Some(unit) = self.units.get_mut(&lun).filter(|_| !under_way) {
            unit.echoes.silent(nexus, sent_at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin")]
    fn an_echo_is_heard_once_after_its_cause_and_not_after_silence() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let mut echoes = Echoes::default();
        echoes.expect(0, Echo::States);
        echoes.expect(1, Echo::States);
        assert!(!echoes.heard(0, (0x2a, 0x01)) && !echoes.heard(2, (0x2a, 0x06)));
        assert!(echoes.heard(0, (0x2a, 0x06)), "at its beginning");
        echoes.over(Echo::States, later);
        assert!(echoes.heard(0, (0x2a, 0x06)), "and at its end");
        assert!(!echoes.heard(0, (0x2a, 0x06)), "this is somebody else's");
        echoes.silent(1, start);
        echoes.silent(1, later);
        assert!(!echoes.heard(1, (0x2a, 0x06)));
    }
}
