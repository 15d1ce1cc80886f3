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
    /// A later command has told of a later change: only commands sent before it may still tell of this one.
    sent_before: Option<Instant>,
}

/// What nexuses may still report of one unit.
#[derive(Debug, Default)]
pub(super) struct Echoes(Vec<Expected>);

/// Changes of one unit that are waited for at a time.
const MOST: usize = 64;

impl Echoes {
    /// A change of states takes the place of the one before, which goes on. Of each change of pages an echo may come.
    fn expect(&mut self, nexus: NexusId, echo: Echo) {
        self.0.retain(|e| (e.nexus, e.echo) != (nexus, echo) || echo == Echo::Pages && e.over.is_some());
        if self.0.len() == MOST {
            self.0.remove(0);
        }
        self.0.push(Expected { nexus, echo, over: None, sent_before: None });
    }

    fn over(&mut self, echo: Echo, now: Instant) {
        for expected in self.0.iter_mut().filter(|e| e.echo == echo) {
            expected.over.get_or_insert(now);
        }
    }

    /// A command sent at a time met an attention. It tells of all changes that were over by then, since the same attention
    /// waits only once, or else of the first of those that may have been made before it was answered. Where it has
    /// overtaken older commands, it tells of the last, and they may still tell of those before.
    fn heard(&mut self, (nexus, sent_at): (NexusId, Instant), code: (u8, u8), overtook: bool) -> bool {
        let of = |e: &Expected| {
            let in_time = e.sent_before.is_none_or(|at| sent_at < at);
            e.nexus == nexus && e.echo.sounds_like(code) && in_time
        };
        let told = |e: &Expected| of(e) && e.over.is_some_and(|at| at <= sent_at);
        let Some(first) = self.0.iter().position(of) else { return false };
        match self.0.iter().rposition(told) {
            Some(last) if overtook => {
                self.0.remove(last);
                self.0.iter_mut().filter(|e| told(e)).for_each(|e| e.sent_before = Some(sent_at));
            }
            Some(_) => self.0.retain(|e| !told(e)),
            None if self.0.get(first).is_some_and(|e| e.over.is_some()) => drop(self.0.remove(first)),
            None => {}
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

    /// Whether a nexus reports what nobody needs to hear, in answer to a command sent at a time.
    pub(in crate::session) fn is_echo(
        &mut self,
        lun: Lun,
        (nexus, sent_at): (NexusId, Instant),
        code: (u8, u8),
    ) -> bool {
        if self.units.get(&lun).is_none_or(|unit| unit.echoes.0.is_empty()) {
            return false;
        }
        let overtook = self.is_older_under_way(lun, nexus, sent_at);
        self.units.get_mut(&lun).is_some_and(|unit| unit.echoes.heard((nexus, sent_at), code, overtook))
    }

    /// Whether commands that a nexus was sent before are not answered yet.
    fn is_older_under_way(&self, lun: Lun, nexus: NexusId, sent_at: Instant) -> bool {
        let older = |t: &Task| t.run.as_ref().is_some_and(|r| r.nexus == nexus && r.sent_at < sent_at);
        self.tasks.iter().any(|(_, t)| t.lun == lun && older(t))
    }

    /// A nexus had nothing to report to a command sent at a time. (What it said before that may still be under way, on
    /// another connection.)
    pub(in crate::session) fn no_echo(&mut self, lun: Lun, nexus: NexusId, sent_at: Instant) {
        if self.units.get(&lun).is_none_or(|unit| unit.echoes.0.is_empty()) {
            return;
        }
        let under_way = self.is_older_under_way(lun, nexus, sent_at);
        if let Some(unit) = self.units.get_mut(&lun).filter(|_| !under_way) {
            unit.echoes.silent(nexus, sent_at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const STATES: (u8, u8) = (0x2a, 0x06);
    const MODE: (u8, u8) = (0x2a, 0x01);

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin")]
    fn times() -> [Instant; 5] {
        let start = Instant::now();
        [0, 1, 2, 3, 4].map(|seconds| start + Duration::from_secs(seconds))
    }

    #[test]
    fn an_echo_is_heard_once_after_its_cause_and_not_after_silence() {
        let [start, later, after, ..] = times();
        let mut echoes = Echoes::default();
        echoes.expect(0, Echo::States);
        echoes.expect(1, Echo::States);
        assert!(!echoes.heard((0, start), MODE, false) && !echoes.heard((2, start), STATES, false));
        assert!(echoes.heard((0, start), STATES, false), "at its beginning");
        echoes.over(Echo::States, later);
        assert!(echoes.heard((0, after), STATES, false), "and at its end");
        assert!(!echoes.heard((0, after), STATES, false), "this is somebody else's");
        echoes.silent(1, start);
        echoes.silent(1, later);
        assert!(!echoes.heard((1, after), STATES, false));
    }

    #[test]
    fn of_two_changes_two_echoes_come_or_one() {
        let [asked, first, second, after, later] = times();
        let twice = || {
            let mut echoes = Echoes::default();
            for over in [first, second] {
                echoes.expect(0, Echo::Pages);
                echoes.over(Echo::Pages, over);
            }
            echoes
        };
        let mut echoes = twice();
        assert!(echoes.heard((0, asked), MODE, false), "asked before the first change, answered after it");
        assert!(echoes.heard((0, after), MODE, false), "and of the second");
        assert!(!echoes.heard((0, later), MODE, false));
        let mut echoes = twice();
        assert!(echoes.heard((0, after), MODE, false), "of both");
        assert!(!echoes.heard((0, later), MODE, false));
    }
    #[test]
    fn a_report_that_was_overtaken_takes_no_later_echo() {
        let [first, older, second, newer, third] = times();
        let mut echoes = Echoes::default();
        for over in [first, second] {
            echoes.expect(0, Echo::Pages);
            echoes.over(Echo::Pages, over);
        }
        assert!(echoes.heard((0, newer), MODE, true), "of the second change");
        echoes.expect(0, Echo::Pages);
        echoes.over(Echo::Pages, third);
        assert!(echoes.heard((0, older), MODE, false), "of the first, over a slower connection");
        assert!(echoes.heard((0, third), MODE, false), "of the third");
        assert!(!echoes.heard((0, third), MODE, false));
    }
}
