//! What a nexus has said of a unit since its login ([`super::attention`]).
//!
//! The first attentions of a nexus are greetings: what every new session is told, until it has once had nothing to say. Where
//! its LUNs have changed the unit may be new to it again. But what was clean before and is found again under the same LUN was there
//! all the time, as far as anybody can tell: what looked like its greeting was an event.

use super::attention::{Code, Doubt, MOST_REMEMBERED};
use crate::iscsi::Lun;
use std::time::Instant;

/// What a nexus reported last of a kind: another report of it means another event, which happened after `sent_at`, and of
/// which the initiator was told later than of this one.
#[derive(Debug)]
pub(super) struct Reported {
    code: Code,
    pub(super) sent_at: Instant,
    pub(super) told: u64,
}

/// What a nexus has said of a unit since its login.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// When the last command was sent that would have met an attention and did not.
    clean: Option<Instant>,
    /// Attentions of the login that were met.
    greetings: Vec<Code>,
    reported: Vec<Reported>,
    /// What it has reported since it last had nothing to say, greetings aside.
    since_clean: Vec<Code>,
    /// The unit was found to be home's, under this LUN.
    proved: Option<Lun>,
    /// The LUNs changed then: only what was sent later says anything.
    renewed: Option<Instant>,
    /// What these were before that.
    clean_before: Option<Instant>,
    proved_before: Option<Lun>,
    /// What it has greeted with since, and perhaps is more than that.
    greeted: Vec<Doubt>,
}

impl Heard {
    /// When the unit last had nothing to say, as far as is known.
    pub(super) fn clean(&self) -> Option<Instant> {
        self.clean.or(self.clean_before)
    }

    /// A command that was sent at a time met nothing.
    pub(super) fn note_clean(&mut self, sent_at: Instant) {
        if self.clean < Some(sent_at) && self.renewed <= Some(sent_at) {
            self.clean = Some(sent_at);
            self.since_clean.clear();
        }
    }

    pub(super) const fn may_greet(&self) -> bool {
        self.clean.is_none()
    }

    /// Whether what greets may be what was clean before the LUNs changed.
    pub(super) const fn was_clean_before(&self) -> bool {
        self.clean_before.is_some()
    }

    /// Whether an attention is the first of its kind that a login may cause.
    pub(super) fn greets(&mut self, code: Code) -> bool {
        let first = self.may_greet() && !self.greetings.contains(&code);
        if first {
            self.greetings.push(code);
        }
        first
    }

    /// A greeting that is an event if the unit was there before.
    pub(super) fn greeted(&mut self, doubt: Doubt) {
        self.greeted.push(doubt);
    }

    /// The last report of a kind.
    pub(super) fn report(&self, code: Code) -> Option<&Reported> {
        self.reported.iter().find(|r| r.code == code)
    }

    pub(super) fn note_report(&mut self, code: Code, sent_at: Instant, told: u64) {
        self.reported.retain(|r| r.code != code);
        self.reported.push(Reported { code, sent_at, told });
    }

    /// So often it has reported something since it had nothing to say.
    pub(super) fn reports_since_clean(&self, code: Code) -> usize {
        self.since_clean.iter().filter(|c| **c == code).count()
    }

    /// It counts until the nexus has nothing to say.
    pub(super) fn note_since_clean(&mut self, code: Code) {
        // Of more tellings none is remembered.
        if self.since_clean.len() < MOST_REMEMBERED {
            self.since_clean.push(code);
        }
    }

    /// The unit was found, under a LUN. Returns what was no greeting.
    pub(super) fn proved(&mut self, there: Lun) -> Vec<Doubt> {
        self.proved = Some(there);
        let greeted = std::mem::take(&mut self.greeted);
        if self.proved_before == Some(there) { greeted } else { Vec::new() }
    }

    /// The LUNs of the nexus changed, or are others than was believed: what is found there may greet anew, and what was heard
    /// may have been another unit, if it was not proved.
    pub(super) fn renew(&mut self, now: Instant) {
        let before = std::mem::take(self);
        self.renewed = Some(now);
        self.clean_before = before.clean.filter(|_| before.proved.is_some()).or(before.clean_before);
        self.proved_before = before.proved.or(before.proved_before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const RESET: Code = (0x29, 0x00);

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin")]
    fn times() -> [Instant; 4] {
        let start = Instant::now();
        [0, 1, 2, 3].map(|seconds| start + Duration::from_secs(seconds))
    }

    #[test]
    fn a_login_greets_once_and_not_once_it_had_nothing_to_say() {
        let [start, later, ..] = times();
        let mut heard = Heard::default();
        assert!(heard.greets(RESET) && !heard.greets(RESET));
        let mut heard = Heard::default();
        heard.note_clean(start);
        assert!(!heard.greets(RESET));
        heard.renew(later);
        assert!(heard.greets(RESET), "the unit may be a new one");
    }

    #[test]
    fn luns_that_changed_greet_until_they_have_nothing_to_say() {
        let [before, changed, after, _] = times();
        let mut heard = Heard::default();
        heard.renew(changed);
        heard.note_clean(before);
        assert!(heard.may_greet(), "what was sent before the change says nothing");
        heard.note_clean(after);
        assert!(!heard.greets(RESET), "a reset");
    }

    #[test]
    fn only_what_was_proved_is_remembered_over_a_change() {
        let [first, second, third, fourth] = times();
        let mut heard = Heard::default();
        heard.note_clean(first);
        heard.renew(second);
        assert_eq!(heard.clean(), None);
        heard.note_clean(second);
        heard.proved(Lun(7));
        heard.renew(third);
        assert_eq!(heard.clean(), Some(second));
        heard.renew(fourth);
        assert_eq!(heard.clean(), Some(second));
        assert!(heard.was_clean_before());
    }
}
