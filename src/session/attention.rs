//! Unit attentions: the initiator hears each event once, whatever nexuses the target tells of it (DESIGN: one nexus out of
//! many).
//!
//! Home is the nexus that the initiator knows. What home reports to a command of the initiator passes; what it reports to a
//! command of Braid's own is kept and reported to the initiator's next command, as the target would have done. Only what
//! Braid's own new login caused is dropped (29h/00h, 29h/07h, 47h/7Fh: once for each login).
//!
//! What a further nexus reports, home mostly reports too, but not always: home may have been away when it happened, or
//! is lost before it is asked. So it is a **doubt** until home has been asked: where home has not told the same since
//! the further nexus was last known to have nothing to say, the initiator is told what the further nexus said. What
//! the initiator itself had done before it was reported is no event. Two events with one code that wait on a nexus are one
//! attention on most targets and two on some (tgt; SAM-5 leaves it open), so a nexus that was idle may report one after the
//! other what has long been told.
//!
//! Home has been asked once it has answered a command that was sent after the doubt came up, and what it had said before
//! that has come in: over a session of several connections that takes an echo on each.

use super::Session;
use super::api::ConnId;
use super::deed::{Deed, RESETS};
use super::heard::Heard;
use super::nexus::{HOME, NexusId, NexusState};
use super::tasks::{Origin, Task, TaskKey};
use super::unit::Echo;
use crate::iscsi::{Itt, Lun, ScsiResponse, tmf};
use crate::scsi::sense::status;
use crate::scsi::{Class, Command, Sense};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeBounds;
use std::time::Instant;

/// Attentions kept for one unit.
const MOST_ATTENTIONS: usize = 16;
/// Of what was told, so much is remembered.
pub(super) const MOST_REMEMBERED: usize = 32;

/// Additional sense code and qualifier.
pub(super) type Code = (u8, u8);

/// A new nexus, and commands that its predecessor took with it, which run again (R201).
const OF_LOGIN: [Code; 3] = [(0x29, 0x00), (0x29, 0x07), (0x47, 0x7f)];
pub(super) const POWER_ON: Code = (0x29, 0x01);
/// REPORTED LUNS DATA HAS CHANGED.
pub(super) const REPORTED_LUNS_CHANGED: Code = (0x3f, 0x0e);

/// What further nexuses reported, until home was asked.
#[derive(Debug)]
pub(super) struct Doubt {
    code: Code,
    sense: Bytes,
    /// When it came up, or was reported last.
    at: Instant,
    from: Vec<Doubter>,
}

/// Home has answered, and what it may have said before that over other connections is still to come in.
#[derive(Debug)]
struct Asked {
    sent_at: Instant,
    echoes: Vec<(ConnId, Itt)>,
}

/// A nexus that reported something, in answer to a command sent at a time.
#[derive(Debug)]
struct Doubter {
    nexus: NexusId,
    sent_at: Instant,
    since: Since,
}

/// Since when something may have happened that a nexus reports. Two events with one code that wait to be reported are one
/// attention or two (tgt).
#[derive(Debug, Clone, Copy)]
struct Since {
    /// If they are one: since it last reported the code or had nothing to say.
    one: Instant,
    /// If they are two: since it last had nothing to say.
    each: Instant,
    /// So often it has reported the code since then, this time included.
    reports: usize,
}

/// What the initiator was told, or will be.
#[derive(Debug)]
struct Told {
    code: Code,
    at: Instant,
    number: u64,
}

/// Attentions of one unit.
#[derive(Debug, Default)]
pub(super) struct Attentions {
    /// Sense data that the initiator must still see.
    kept: VecDeque<Bytes>,
    /// The last things that the initiator was told, and how many there were.
    told: VecDeque<Told>,
    tellings: u64,
    doubts: Vec<Doubt>,
    asked: Vec<Asked>,
    heard: BTreeMap<NexusId, Heard>,
    /// The last things that the initiator itself did to the unit.
    deeds: VecDeque<(Deed, Instant)>,
}

impl ScsiResponse {
    /// Whether the command may have done something: it was not refused at the door.
    pub(super) fn tells_of_a_run(&self) -> bool {
        let refusals = [status::RESERVATION_CONFLICT, status::BUSY, status::TASK_SET_FULL];
        !refusals.contains(&self.status) && !self.is_attention()
    }

    /// What the unit attention that it reports says that somebody did, if it reports one.
    pub(super) fn attention_deed(&self) -> Option<Deed> {
        unit_attention(self).map(|(_, code)| Deed::behind(code))
    }
}

impl Since {
    /// A target that lost power since then: nothing that the initiator has done explains that.
    fn of_power_loss(at: Instant) -> Self {
        Self { one: at, each: at, reports: usize::MAX }
    }
}

impl Attentions {
    /// Keeps an attention for the initiator; one that it will be told anyway is told once.
    pub(super) fn keep(&mut self, sense: Bytes, now: Instant) {
        if let Some(code) = code_of(&sense) {
            self.note_told(code, now);
        }
        if !self.kept.contains(&sense) && self.kept.len() < MOST_ATTENTIONS {
            self.kept.push_back(sense);
        }
    }

    fn note_told(&mut self, code: Code, now: Instant) {
        self.tellings += 1;
        if self.told.len() == MOST_REMEMBERED {
            self.told.pop_front();
        }
        self.told.push_back(Told { code, at: now, number: self.tellings });
        // Doubts that this answers must not wait: later reports would be taken for what it was told for.
        let (answered, left) = std::mem::take(&mut self.doubts)
            .into_iter()
            .partition(|d: &Doubt| d.code == code && self.is_known(d));
        self.doubts = left;
        let answered: Vec<Doubt> = answered;
        answered.into_iter().for_each(|doubt| self.note_reports(doubt));
    }

    /// Whether the initiator was told of what further nexuses reported.
    fn is_known(&self, doubt: &Doubt) -> bool {
        doubt.from.iter().any(|d| self.telling(d.nexus, doubt.code, d.since.one).is_some())
    }

    /// Whether the initiator knows of what further nexuses reported, if each attention is for one event: it has done them, or
    /// home, which has nothing more to say, has told of them. What it has done since a report is none of that: if it had done
    /// it by then, after `one`, the report would have been its own doing and no doubt.
    fn is_one_of_many(&self, doubt: &Doubt) -> bool {
        let covered = |d: &Doubter| {
            let Since { one, each, reports } = d.since;
            let told = self.times_told(doubt.code, each);
            let known = self.times_done(doubt.code, each..one).saturating_add(told);
            known >= reports
        };
        doubt.from.iter().all(covered)
    }

    /// So often the initiator was told since then; of more than are remembered, as often as need be.
    fn times_told(&self, code: Code, since: Instant) -> usize {
        let lately = |t: &&Told| t.at >= since;
        let forgotten = self.told.len() == MOST_REMEMBERED && self.told.front().as_ref().is_some_and(lately);
        let told = self.told.iter().filter(lately).filter(|t| t.code == code).count();
        if forgotten { usize::MAX } else { told }
    }

    fn note_reports(&mut self, doubt: Doubt) {
        for by in doubt.from {
            let told = self.telling(by.nexus, doubt.code, by.since.one).unwrap_or(self.tellings);
            self.note_report(by.nexus, doubt.code, by.sent_at, told);
        }
    }

    /// Since when an event may have happened that a further nexus reports, at the latest since `login`.
    fn since(&self, nexus: NexusId, code: Code, login: Instant) -> Since {
        let heard = self.heard.get(&nexus);
        let clean = heard.and_then(Heard::clean).unwrap_or(login);
        let last = heard.and_then(|h| h.report(code)).map(|r| r.sent_at);
        let reports = heard.map_or(0, |h| h.reports_since_clean(code));
        let one = last.map_or(clean, |last| last.max(clean));
        Since { one, each: clean, reports: reports + 1 }
    }

    /// The telling that a report is late with, if there is one.
    fn telling(&self, nexus: NexusId, code: Code, since: Instant) -> Option<u64> {
        let before = self.heard.get(&nexus).and_then(|h| h.report(code)).map_or(0, |r| r.told);
        self.told.iter().find(|t| t.code == code && t.at >= since && t.number > before).map(|t| t.number)
    }

    fn hear(&mut self, nexus: NexusId) -> &mut Heard {
        self.heard.entry(nexus).or_default()
    }

    fn note_report(&mut self, nexus: NexusId, code: Code, sent_at: Instant, told: u64) {
        self.hear(nexus).note_report(code, sent_at, told);
    }

    /// The same, of something that the initiator was not told of.
    fn note_report_again(&mut self, nexus: NexusId, code: Code, sent_at: Instant) {
        let heard = self.hear(nexus);
        let told = heard.report(code).map_or(0, |r| r.told);
        heard.note_report(code, sent_at, told);
    }

    /// Whether a nexus has reported something since its login that the initiator was told since then.
    pub(super) fn has_told(&self, nexus: NexusId, code: Code, since: Instant) -> bool {
        let reported = self.heard.get(&nexus).and_then(|h| h.report(code));
        reported.is_some_and(|r| self.told.iter().any(|t| t.at >= since && t.number == r.told))
    }

    /// A unit was found on a nexus, under a LUN.
    pub(super) fn proved(&mut self, nexus: NexusId, there: Lun, now: Instant) {
        let events = self.hear(nexus).proved(there);
        events.into_iter().for_each(|doubt| self.doubt(doubt, now));
    }

    /// The LUNs of a nexus changed, or are others than was believed.
    pub(super) fn renew(&mut self, nexus: NexusId, now: Instant) {
        if let Some(heard) = self.heard.get_mut(&nexus) {
            heard.renew(now);
        }
    }

    /// A further nexus reported something that home may not have told.
    fn doubt(&mut self, doubt: Doubt, now: Instant) {
        let code = doubt.code;
        for by in doubt.from {
            if let Some(told) = self.telling(by.nexus, code, by.since.one) {
                self.note_report(by.nexus, code, by.sent_at, told);
            } else if let Some(doubt) = self.doubts.iter_mut().find(|d| d.code == code) {
                doubt.at = now;
                doubt.from.push(by);
            } else {
                self.doubts.push(Doubt { code, sense: doubt.sense.clone(), at: now, from: vec![by] });
            }
        }
    }

    /// A nexus was lost: the next one starts anew.
    pub(super) fn forget(&mut self, nexus: NexusId) {
        self.heard.remove(&nexus);
        if nexus == HOME {
            self.asked.clear();
        }
    }

    /// The initiator did something to the unit.
    pub(super) fn note_deed(&mut self, deed: Deed, now: Instant) {
        if self.deeds.len() == MOST_REMEMBERED {
            self.deeds.pop_front();
        }
        self.deeds.push_back((deed, now));
    }

    /// Whether the initiator itself has done since then what is reported.
    fn is_own_doing(&self, code: Code, since: Instant) -> bool {
        self.times_done(code, since..) > 0
    }

    fn times_done(&self, code: Code, within: impl RangeBounds<Instant>) -> usize {
        self.deeds.iter().filter(|(deed, at)| *deed == Deed::behind(code) && within.contains(at)).count()
    }

    /// Whether home has to be asked.
    pub(super) fn is_doubtful(&self) -> bool {
        let was_asked = |d: &Doubt| self.asked.iter().any(|a| d.at <= a.sent_at);
        self.doubts.iter().any(|d| !was_asked(d))
    }

    /// Home has been asked, wherever all echoes have come.
    fn resolve_asked(&mut self, now: Instant) {
        let (done, waiting) = std::mem::take(&mut self.asked).into_iter().partition(|a| a.echoes.is_empty());
        self.asked = waiting;
        let done: Vec<Asked> = done;
        for asked in done {
            self.resolve(asked.sent_at, now);
        }
    }

    /// Home has answered a command that was sent at `sent_at`, and has nothing more to say: what it has not told of what
    /// happened before, it does not know.
    pub(super) fn resolve(&mut self, sent_at: Instant, now: Instant) {
        let (old, young) =
            std::mem::take(&mut self.doubts).into_iter().partition(|d: &Doubt| d.at <= sent_at);
        self.doubts = young;
        let old: Vec<Doubt> = old;
        for doubt in old {
            if !self.is_known(&doubt) && !self.is_one_of_many(&doubt) {
                self.keep(doubt.sense.clone(), now);
            }
            self.note_reports(doubt);
        }
    }
}

fn code_of(sense: &[u8]) -> Option<Code> {
    Sense::parse(sense).filter(|s| s.is_unit_attention()).map(|s| (s.asc, s.ascq))
}

/// The unit attention that a response reports, if it does.
fn unit_attention(response: &ScsiResponse) -> Option<(Bytes, Code)> {
    let sense = response.sense()?;
    let code = code_of(&sense)?;
    Some((sense, code))
}

impl Session {
    /// A unit attention that the initiator must see before its next command runs, as sense data.
    pub(super) fn take_attention(&mut self, lun: Lun) -> Option<Bytes> {
        self.attentions(lun)?.kept.pop_front()
    }

    /// Answers a command that is about to be sent with a unit attention that the target reported to Braid instead of to
    /// the initiator. On one nexus the first command that is enabled would have met it (SAM-5 section 5.14).
    pub(super) fn report_attention(&mut self, key: TaskKey, now: Instant) -> bool {
        let Some(task) = self.tasks.get(key) else { return false };
        let lun = task.lun;
        let silent = task.command.class == Class::Stateless && task.command.name != "TEST UNIT READY";
        // One that ran before had been enabled.
        if silent && !broken!(self.rules, AttentionOnInquiry) || task.losses > 0 {
            return false;
        }
        let Some(sense) = self.take_attention(lun) else { return false };
        self.unqueue(key);
        if let Some(task) = self.tasks.get_mut(key) {
            task.queued = false;
        }
        self.respond(key, ScsiResponse::check_condition(&sense), now);
        true
    }

    /// Whether a unit attention may be no more than the greeting of a new session.
    pub(super) fn is_greeting(&mut self, lun: Lun, nexus: NexusId, response: &ScsiResponse) -> bool {
        let greets = |code| OF_LOGIN.contains(&code) || code == POWER_ON;
        let new = |unit: &mut Attentions| unit.heard.get(&nexus).is_none_or(Heard::may_greet);
        unit_attention(response).is_some_and(|(_, code)| greets(code))
            && self.attentions(lun).is_some_and(new)
    }

    /// A run of a command was answered: it may show that its nexus has nothing to say.
    pub(super) fn note_clean(&mut self, key: TaskKey, response: &ScsiResponse) {
        let Some(task) = self.tasks.get(key) else { return };
        let Some((nexus, sent_at)) = task.run.as_ref().map(|r| (r.nexus, r.sent_at)) else { return };
        let blind = matches!(task.command.name, "INQUIRY" | "REPORT LUNS" | "REQUEST SENSE");
        let ran =
            matches!(response.status, status::GOOD | status::CHECK_CONDITION) && !response.says_no_unit();
        if blind || !ran || unit_attention(response).is_some() {
            return;
        }
        let lun = task.lun;
        self.no_echo(lun, nexus, sent_at);
        if let Some(unit) = self.attentions(lun) {
            unit.hear(nexus).note_clean(sent_at);
        }
    }

    /// A command of the initiator was answered by home, or was lost with it.
    pub(super) fn note_change(&mut self, lun: Lun, command: &Command) {
        let now = self.now;
        if let Some(deed) = Deed::of(command)
            && let Some(unit) = self.attentions(lun)
        {
            unit.note_deed(deed, now);
        }
        if Deed::of(command) == Some(Deed::AccessStates) {
            // Whoever set them is not told.
            self.ask_access(lun, now);
        }
    }

    /// A command of the initiator goes over a further nexus, as home's port is not accessible: what it changes, home will
    /// report.
    pub(super) fn leaves_home(&mut self, lun: Lun, command: &Command) {
        if Deed::of(command) == Some(Deed::Parameters) {
            self.expect_echo(lun, HOME, Echo::Pages);
        }
    }

    /// It has ended, whatever came of it.
    pub(super) fn change_over(&mut self, lun: Lun, command: &Command, now: Instant) {
        if Deed::of(command) == Some(Deed::Parameters) {
            self.echo_over(lun, Echo::Pages, now);
        }
    }

    /// Home answers a command of the initiator with a unit attention, if it does: the initiator is told.
    pub(super) fn home_tells(&mut self, lun: Lun, response: &ScsiResponse) {
        let (now, Some((_, code))) = (self.now, unit_attention(response)) else { return };
        self.home_reported(lun, code);
        if let Some(unit) = self.attentions(lun) {
            unit.note_told(code, now);
            // What was kept of the kind is told with it.
            unit.kept.retain(|kept| code_of(kept) != Some(code));
        }
        self.home_touched(lun, code);
    }

    /// A response waited for write data, and its command was ended meanwhile: what it reported is still to be told.
    pub(super) fn attention_untold(&mut self, lun: Lun, response: &ScsiResponse) {
        let (now, Some((sense, _))) = (self.now, unit_attention(response)) else { return };
        if let Some(unit) = self.attentions(lun) {
            unit.keep(sense, now);
        }
    }

    /// A command met a unit attention, if it did, that the initiator has not seen: one of Braid's own, or one of the
    /// initiator's on a further nexus, which runs again on home.
    pub(super) fn attention_met(
        &mut self,
        nexus: NexusId,
        lun: Lun,
        response: &ScsiResponse,
        sent_at: Instant,
    ) {
        let Some((sense, code)) = unit_attention(response) else { return };
        if self.is_echo(lun, (nexus, sent_at), code) {
            return;
        }
        if nexus == HOME {
            self.home_met(lun, sense, code);
        } else {
            self.further_met((nexus, sent_at), lun, sense, code);
        }
    }

    fn home_met(&mut self, lun: Lun, sense: Bytes, code: Code) {
        let (now, rules) = (self.now, self.rules);
        let settling = self.home_state() == NexusState::Settling;
        let Some(unit) = self.attentions(lun) else { return };
        let of_login = settling && OF_LOGIN.contains(&code) && unit.hear(HOME).greets(code);
        if of_login && !broken!(rules, OwnAttentionPassedOn) || broken!(rules, AttentionForgotten) {
            return;
        }
        unit.keep(sense, now);
        self.home_touched(lun, code);
    }

    /// Home tells what somebody else did, or what befell it.
    fn home_touched(&mut self, lun: Lun, code: Code) {
        self.mode_touched(lun, code);
        if code == POWER_ON {
            self.home_lost_power(lun);
        }
        if code.0 == RESETS {
            self.reservation_ended(lun);
        }
        if code.0 == RESETS || Deed::behind(code) == Deed::Reservation {
            self.registrations_doubted(lun);
        }
        self.home_reported(lun, code);
    }

    fn further_met(&mut self, (nexus, sent_at): (NexusId, Instant), lun: Lun, sense: Bytes, code: Code) {
        let Some(login) = self.nexus(nexus).map(|n| n.login_began) else { return };
        let home_since = self.nexus(HOME).map_or(login, |n| n.login_began);
        self.mode_touched(lun, code);
        let deed = Deed::behind(code);
        let changing = |t: &Task| {
            let initiators = matches!(t.origin, Origin::Initiator { .. });
            t.lun == lun && t.run.is_some() && initiators && Deed::of(&t.command) == Some(deed)
        };
        let own = match deed {
            Deed::Reset | Deed::Clear => self.is_being_reset(lun),
            Deed::Parameters | Deed::Reservation | Deed::AccessStates | Deed::Other => {
                self.tasks.iter().any(|(_, t)| changing(t))
            }
        };
        let (now, rules) = (self.now, self.rules);
        let power = if code == POWER_ON { self.power_lost(lun, nexus) } else { None };
        let Some(unit) = self.attentions(lun) else { return };
        let away = power.is_some();
        let greets = (OF_LOGIN.contains(&code) || code == POWER_ON && !away) && unit.hear(nexus).greets(code);
        let since = power.map_or_else(|| unit.since(nexus, code, login), Since::of_power_loss);
        if greets {
            unit.note_report(nexus, code, sent_at, 0);
        }
        // What LUNs a further nexus has is not the initiator's business; home tells of its own, unless it was away.
        let others = code == REPORTED_LUNS_CHANGED && home_since <= since.one;
        if others && !broken!(rules, OtherLunsTold) {
            unit.note_report(nexus, code, sent_at, 0);
            return;
        }
        let new = !unit.hear(nexus).was_clean_before();
        if greets && new || broken!(rules, FurtherAttentionForgotten) {
            return;
        }
        unit.hear(nexus).note_since_clean(code);
        // No reset of the initiator's switches a target off.
        if own && !away {
            return;
        }
        if unit.is_own_doing(code, since.one) && !away {
            unit.note_report_again(nexus, code, sent_at);
            return;
        }
        if deed == Deed::Reservation {
            self.registrations_doubted(lun);
        }
        let Some(unit) = self.attentions(lun) else { return };
        let doubt = Doubt { code, sense, at: now, from: vec![Doubter { nexus, sent_at, since }] };
        if greets {
            unit.hear(nexus).greeted(doubt);
        } else {
            unit.doubt(doubt, now);
        }
    }

    /// Home has answered a question that was sent at `sent_at`, over `conn`. What it said before over others comes in
    /// before their echo.
    pub(super) fn home_was_asked(&mut self, lun: Lun, conn: ConnId, sent_at: Instant, now: Instant) {
        let covers = |d: &Doubt| d.at <= sent_at;
        if !self.attentions(lun).is_some_and(|unit| unit.doubts.iter().any(covers)) {
            return;
        }
        let runs = || {
            self.tasks.iter().filter(|(_, t)| t.lun == lun).filter_map(|(_, t)| Some(t.run.as_ref()?.conn))
        };
        if runs().any(|over| self.is_being_recovered(over)) {
            // What it said over a connection that is lost is to be said again: home is asked once more.
            return;
        }
        let mut others: Vec<ConnId> = Vec::new();
        for over in runs().chain(self.stale_runs_of(lun)) {
            let of_home = over != conn && self.conn(over).is_some_and(|c| c.nexus == HOME);
            if of_home && !others.contains(&over) {
                others.push(over);
            }
        }
        let echoes = others.into_iter().filter_map(|c| Some((c, self.ask_echo(c, now)?))).collect();
        if let Some(unit) = self.attentions(lun) {
            unit.asked.push(Asked { sent_at, echoes });
            unit.resolve_asked(now);
        }
    }

    /// Whether what home may have said over a connection is still to come in.
    pub(super) fn awaits_echo(&self, id: ConnId) -> bool {
        let awaited = |a: &Asked| a.echoes.iter().any(|(conn, _)| *conn == id);
        self.units.values().any(|unit| unit.attentions().asked.iter().any(awaited))
    }

    /// Connections that are gone have nothing more to say.
    pub(super) fn attention_conns_lost(&mut self, now: Instant) {
        let alive: Vec<ConnId> = self.conns.iter().map(|c| c.id).collect();
        for unit in self.all_attentions().filter(|unit| !unit.asked.is_empty()) {
            for asked in &mut unit.asked {
                asked.echoes.retain(|(conn, _)| alive.contains(conn));
            }
            unit.resolve_asked(now);
        }
    }

    /// A ping came back.
    pub(super) fn echoed(&mut self, id: ConnId, itt: Itt, now: Instant) {
        self.tmf_answered(id, itt, tmf::COMPLETE, now);
        self.attention_echoed(id, itt, now);
    }

    fn attention_echoed(&mut self, conn: ConnId, itt: Itt, now: Instant) {
        for unit in self.all_attentions().filter(|unit| !unit.asked.is_empty()) {
            for asked in &mut unit.asked {
                asked.echoes.retain(|echo| *echo != (conn, itt));
            }
            unit.resolve_asked(now);
        }
    }
}
