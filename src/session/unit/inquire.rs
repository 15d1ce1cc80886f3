//! What Braid asks a unit on a nexus, one question after the other.
//!
//! A question may meet a unit attention: see [`super::super::attention`].

use super::Unit;
use super::change::is_not_ready;
use super::facts::Facts;
use super::proof::Proof;
use crate::iscsi::{Cdb, Lun, ScsiResponse};
use crate::scsi::Sense;
use crate::scsi::alua::{self, PortGroups, Position, Support};
use crate::scsi::inquiry::{self, Capacity, Identity, Inquiry};
use crate::scsi::mode::{self, ControlPage};
use crate::scsi::sense::{key, status};
use crate::session::Session;
use crate::session::nexus::{HOME, NexusId, NexusState};
use crate::session::tasks::{Origin, Task};
use std::time::Instant;

/// Questions in the order they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Ready,
    Inquiry,
    Names,
    Serial,
    Access,
    Capacity16,
    Capacity10,
    Keys,
    Control,
    Done,
}

/// How much is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// What no unit attention can come before.
    Name,
    Whole,
    /// The Control mode page alone.
    Control,
    /// Only whether an attention waits.
    Attention,
    /// The states of its port groups, and nothing else.
    Access,
}

/// One unit being asked on one nexus.
#[derive(Debug)]
pub(in crate::session) struct Check {
    pub(super) id: u64,
    pub(super) nexus: NexusId,
    /// The unit, by home's LUN, and the LUN under which it is asked.
    pub(super) lun: Lun,
    pub(super) there: Lun,
    pub(super) step: Step,
    pub(super) reach: Reach,
    pub(super) facts: Facts,
    support: Support,
    position: Position,
    /// Somebody holds a persistent registration.
    pub(super) registered: bool,
    pub(super) control: Option<ControlPage>,
    /// The last question met a reservation.
    pub(super) shut_out: bool,
    /// It was refused for the state of the port.
    pub(super) refused: bool,
    /// The unit has perhaps changed since it began: all is asked once more.
    pub(super) stale: bool,
    /// Who the unit is comes before its attentions.
    pub(super) name_first: bool,
    /// Questions asked in vain (busy, aborted, unit attention).
    repeats: u32,
}

/// So often one check repeats questions before it gives up.
const MOST_REPEATS: u32 = 32;
/// Longest answer taken, in bytes.
const ANSWER: u16 = 1024;

impl Session {
    /// Clears the attention of a login, and asks everything. On a further nexus, and where home has moved to another path,
    /// who it is comes first: another unit's attentions are none of its business.
    pub(super) fn start_check(&mut self, nexus: NexusId, lun: Lun, there: Lun, now: Instant) {
        let name_first = nexus != HOME || self.home_moved;
        let step = if name_first { Step::Inquiry } else { Step::Ready };
        let id = self.new_check(nexus, (lun, there), step, Reach::Whole);
        if let Some(check) = self.checks.last_mut() {
            check.name_first = name_first;
        }
        self.ask(id, now);
    }

    /// Lets the attentions of a unit come out on a nexus. A question that stays unanswered is asked anew after a while.
    pub(in crate::session) fn ask_whether_ready(&mut self, nexus: NexusId, lun: Lun, now: Instant) {
        let proved = self.units.get(&lun).is_some_and(|u| u.proofs.get(&nexus) == Some(&Proof::Proved));
        if nexus != HOME && !proved {
            // Under that LUN there may be another unit by now, whose attentions are not this one's.
            return;
        }
        let asking = |c: &&Check| (c.nexus, c.lun, c.reach) == (nexus, lun, Reach::Attention);
        if let Some(id) = self.checks.iter().find(asking).map(|c| c.id) {
            let patience = self.plan.task_timeout;
            let late = |t: &Task| t.run.as_ref().is_some_and(|r| now >= r.sent_at + patience);
            let open = self.tasks.select(|t| t.origin == Origin::Check(id));
            if !open.iter().any(|key| self.tasks.get(*key).is_some_and(late)) {
                return;
            }
            self.checks.retain(|c| c.id != id);
            open.into_iter().for_each(|key| self.conclude(key, now));
        }
        let there = self.lun_there(lun, nexus);
        let id = self.new_check(nexus, (lun, there), Step::Ready, Reach::Attention);
        self.ask(id, now);
    }

    /// Whether a question is only for attentions: the unit may be busy with something long.
    pub(in crate::session) fn is_patient(&self, id: u64) -> bool {
        self.checks.iter().any(|c| c.id == id && c.reach == Reach::Attention)
    }

    pub(super) fn new_check(
        &mut self,
        nexus: NexusId,
        (lun, there): (Lun, Lun),
        step: Step,
        reach: Reach,
    ) -> u64 {
        self.next_check += 1;
        let id = self.next_check;
        self.checks.push(Check {
            id,
            nexus,
            lun,
            there,
            step,
            reach,
            facts: Facts::default(),
            support: Support::default(),
            position: Position::default(),
            registered: false,
            control: None,
            shut_out: false,
            refused: false,
            stale: false,
            name_first: nexus != HOME,
            repeats: 0,
        });
        id
    }

    /// Sends the question of a check's current step.
    pub(in crate::session) fn ask(&mut self, id: u64, now: Instant) {
        let Some(check) = self.checks.iter().find(|c| c.id == id) else { return };
        let (nexus, lun, there) = (check.nexus, check.lun, check.there);
        let extended = self.units.get(&lun).is_none_or(|u| !u.access.short_header);
        let (cdb, expected) = match check.step {
            Step::Access => (alua::report_port_groups_cdb(extended, u32::from(ANSWER)), ANSWER),
            Step::Ready => (inquiry::test_unit_ready_cdb(), 0),
            Step::Inquiry => (inquiry::inquiry_cdb(None, ANSWER), ANSWER),
            Step::Names => (inquiry::inquiry_cdb(Some(inquiry::PAGE_IDENTIFICATION), ANSWER), ANSWER),
            Step::Serial => (inquiry::inquiry_cdb(Some(inquiry::PAGE_SERIAL), ANSWER), ANSWER),
            Step::Capacity16 => (inquiry::read_capacity_16_cdb(32), 32),
            Step::Capacity10 => (inquiry::read_capacity_10_cdb(), 8),
            Step::Keys => (inquiry::read_keys_cdb(ANSWER), ANSWER),
            Step::Control => (mode::control_page_cdb(), u16::from(mode::CONTROL_LENGTH)),
            Step::Done => return,
        };
        let cdb = Cdb(cdb.into_iter().collect());
        let task = Task::own(Origin::Check(id), nexus, lun, cdb, u32::from(expected), now);
        self.submit_own(task.under(there), now);
    }

    /// An answer to a check's question.
    pub(in crate::session) fn check_answered(
        &mut self,
        id: u64,
        task: &Task,
        response: &ScsiResponse,
        now: Instant,
    ) {
        let attention = response.is_attention();
        let sent_at = task.run.as_ref().map_or(now, |r| r.sent_at);
        let Some(at) = self.checks.iter().position(|c| c.id == id) else {
            self.check_was_dropped(task, response, now);
            return;
        };
        let Some(check) = self.checks.get_mut(at) else { return };
        let busy = matches!(response.status, status::BUSY | status::TASK_SET_FULL | status::TASK_ABORTED);
        if attention || busy {
            self.asked_in_vain(id, response, sent_at, now);
            return;
        }
        if check.step == Step::Ready && check.nexus == HOME {
            let lun = check.lun;
            if let Some(run) = &task.run {
                self.home_was_asked(lun, run.conn, run.sent_at, now);
            }
        }
        if self.not_ready_there(at, response, now) || self.no_access_there(at, response) {
            return;
        }
        let Some(check) = self.checks.get_mut(at) else { return };
        let (step, good) = (check.step, response.status == status::GOOD);
        let (lun, nexus) = (check.lun, check.nexus);
        check.shut_out = response.status == status::RESERVATION_CONFLICT;
        check.refused = response.is_access_refusal();
        check.take(&task.collected, good);
        if step == Step::Inquiry
            && nexus == HOME
            && check.facts.is_present()
            && let Some(inquiry) = check.facts.inquiry.clone()
        {
            self.kind_learned(lun, &inquiry);
        }
        let Some(check) = self.checks.get_mut(at) else { return };
        if check.step == Step::Keys && check.nexus == HOME {
            check.step = Step::Done;
        }
        let named = step == Step::Serial && check.reach != Reach::Control;
        if named && nexus != HOME && self.is_another(at) {
            let check = self.checks.remove(at);
            self.not_here(&check, now);
            return;
        }
        if named && nexus == HOME && self.shows_another(at) {
            let check = self.checks.remove(at);
            self.home_learned(check, now);
            return;
        }
        if named {
            self.name_told(id);
        } else if step == Step::Access {
            let answer = PortGroups::parse(&task.collected).filter(|_| good);
            self.states_told(id, answer, response, sent_at, now);
        }
        let Some(at) = self.checks.iter().position(|c| c.id == id) else { return };
        let Some(check) = self.checks.get_mut(at) else { return };
        let whole = check.reach != Reach::Attention;
        if check.step == Step::Done && whole && std::mem::take(&mut check.stale) {
            check.step = Step::Inquiry;
        }
        if check.step == Step::Done {
            let check = self.checks.remove(at);
            self.check_done(check, now);
        } else {
            self.ask(id, now);
        }
    }

    /// A check was dropped, since what it had found may hold no longer, and one of its questions is answered now. It asked what
    /// meets attentions only of a unit that had just said who it is: what that tells, nobody else may tell again.
    fn check_was_dropped(&mut self, task: &Task, response: &ScsiResponse, now: Instant) {
        let Some((nexus, sent_at)) = task.run.as_ref().map(|r| (r.nexus, r.sent_at)) else { return };
        self.attention_met(nexus, task.lun, response, sent_at);
        if nexus != HOME && response.is_attention() {
            self.attention_doubts(task.lun, nexus, (response, sent_at), now);
        }
    }

    /// A question met a busy unit or a unit attention: it is asked again.
    fn asked_in_vain(&mut self, id: u64, response: &ScsiResponse, sent_at: Instant, now: Instant) {
        let Some(check) = self.checks.iter_mut().find(|c| c.id == id) else { return };
        let attention = response.is_attention();
        check.repeats += 1;
        let (lun, nexus, worn_out) = (check.lun, check.nexus, check.repeats > MOST_REPEATS);
        if attention && nexus != HOME && check.reach == Reach::Whole {
            // What it has said may hold no longer.
            check.step = Step::Inquiry;
        }
        self.attention_met(nexus, lun, response, sent_at);
        if nexus != HOME && attention {
            self.attention_doubts(lun, nexus, (response, sent_at), now);
        }
        if !worn_out {
            self.ask(id, now);
        } else if let Some(at) = self.checks.iter().position(|c| c.id == id) {
            let check = self.checks.remove(at);
            self.check_failed(&check, "the unit stays busy", now);
        }
    }

    /// A unit that home serves is not ready on a further nexus.
    fn not_ready_there(&mut self, check: usize, response: &ScsiResponse, now: Instant) -> bool {
        let sense = response.sense().and_then(|sense| Sense::parse(&sense));
        let Some(sense) = sense.filter(|sense| is_not_ready(*sense)) else { return false };
        let asked = self.checks.get(check).is_some_and(|c| c.nexus != HOME && c.step == Step::Ready);
        if asked {
            let check = self.checks.remove(check);
            self.check_failed(&check, &format!("LUN {} is not ready here: {sense}", check.there), now);
        }
        asked
    }

    /// A port that was active no longer is: the unit is proved there once it can be used.
    fn no_access_there(&mut self, check: usize, response: &ScsiResponse) -> bool {
        let Some(Check { nexus, lun, reach, .. }) = self.checks.get(check) else { return false };
        let Some(unit) = self.units.get_mut(lun) else { return false };
        let whole = *nexus != HOME && *reach == Reach::Whole && unit.access.support.any();
        let off = whole && response.is_access_refusal();
        if off {
            unit.proofs.insert(*nexus, Proof::Unknown);
            self.checks.remove(check);
        }
        off
    }

    /// Whether home, which has moved to another path, shows another unit than before.
    fn shows_another(&self, check: usize) -> bool {
        let Some(check) = self.checks.get(check) else { return false };
        let known = self.units.get(&check.lun).and_then(|unit| unit.facts.as_ref());
        check.name_first && known.is_some_and(|known| known.replaced_by(&check.facts))
    }

    /// A unit has said who it is: where it is home's, it counts which port it was asked through.
    fn name_told(&mut self, id: u64) {
        let Some(nexus) = self.checks.iter().find(|c| c.id == id).map(|c| c.nexus) else { return };
        let target = self.target_asked(nexus);
        let Some(check) = self.checks.iter_mut().find(|c| c.id == id) else { return };
        let Some(unit) = self.units.get_mut(&check.lun) else { return };
        let known = unit.facts.as_ref().is_some_and(|known| known.another(&check.facts).is_none());
        if check.nexus == HOME || known {
            unit.note_position((check.nexus, check.there), target, check.position, check.support);
            if check.reach == Reach::Whole && check.support.any() {
                check.step = Step::Access;
            }
        }
    }

    /// A unit has said, or refused to say, in which states its port groups are.
    fn states_told(
        &mut self,
        id: u64,
        answer: Option<PortGroups>,
        response: &ScsiResponse,
        asked: Instant,
        now: Instant,
    ) {
        let Some(check) = self.checks.iter_mut().find(|c| c.id == id) else { return };
        let (lun, nexus, reach) = (check.lun, check.nexus, check.reach);
        let Some(unit) = self.units.get_mut(&lun) else { return };
        let sense = response.sense().and_then(|s| Sense::parse(&s));
        if sense.is_some_and(|s| s.key == key::ILLEGAL_REQUEST) && !unit.access.short_header {
            unit.access.short_header = true;
            check.step = Step::Access;
            return;
        }
        self.access_told((nexus, lun), answer, asked, now);
        let Some(unit) = self.units.get_mut(&lun) else { return };
        let off = nexus != HOME && !unit.access.state(nexus).is_active();
        if off && reach == Reach::Whole {
            // It is proved once it can be used.
            unit.proofs.insert(nexus, Proof::Unknown);
        }
        if off || reach == Reach::Access {
            self.checks.retain(|c| c.id != id);
        }
    }

    fn check_failed(&mut self, check: &Check, why: &str, now: Instant) {
        if check.reach == Reach::Attention {
            return;
        }
        if check.reach == Reach::Control {
            self.control_told(check, now);
            return;
        }
        if check.reach == Reach::Access {
            self.access_told((check.nexus, check.lun), None, now, now);
            return;
        }
        self.refuse(check.nexus, check.lun, why.into(), now);
        if check.nexus != HOME {
            return;
        }
        if let Some(unit) = self.units.get_mut(&check.lun) {
            unit.attentions.resolve(now, now);
        }
        self.home_checked(now);
    }

    /// All questions are answered: learn, or compare.
    fn check_done(&mut self, check: Check, now: Instant) {
        if check.reach == Reach::Attention {
            return;
        }
        if check.reach == Reach::Control {
            self.control_told(&check, now);
        } else if check.nexus == HOME {
            self.home_learned(check, now);
        } else {
            self.compared(&check, now);
        }
    }

    /// Home was reinstated: clears the attention of the new login on each unit, and makes sure that it still is the
    /// same unit. Returns whether there is anything to wait for.
    pub(in crate::session) fn check_home_again(&mut self, now: Instant) -> bool {
        let luns: Vec<Lun> = self.units.keys().copied().collect();
        for lun in luns {
            let told = self.reservation_lost(lun, now);
            self.recall_registration(lun, told);
            self.start_check(HOME, lun, lun, now);
        }
        self.checks.iter().any(|c| c.nexus == HOME)
    }

    /// Asks home about what further nexuses reported while it could not be asked. (While it settles it cannot yet: its fence
    /// comes first, and then the attentions of its login.)
    pub(in crate::session) fn ask_about_doubts(&mut self, now: Instant) {
        if self.home_state() != NexusState::Up {
            return;
        }
        let doubted = |(_, unit): &(&Lun, &Unit)| unit.attentions.is_doubtful();
        let units: Vec<(Lun, bool)> =
            self.units.iter().filter(doubted).map(|(lun, unit)| (*lun, unit.learning)).collect();
        for (lun, learning) in units {
            if learning {
                // All that is being asked need not be answered first.
                self.ask_whether_ready(HOME, lun, now);
            } else {
                self.learn(lun, Reach::Whole, now);
            }
        }
    }
}

impl Check {
    /// Whether somebody waits for the states of port groups.
    pub(super) fn is_about_access(&self) -> bool {
        self.step == Step::Access
    }

    /// Whether anything of what it asks may have been answered.
    pub(super) fn has_begun(&self) -> bool {
        self.step != Step::Ready || self.name_first
    }

    /// Takes the answer of the current step and goes on to the next.
    fn take(&mut self, data: &[u8], good: bool) {
        let data = if good { data } else { &[] };
        self.step = match self.step {
            Step::Ready if self.reach == Reach::Attention => Step::Done,
            Step::Ready if self.name_first => Step::Capacity16,
            Step::Ready => Step::Inquiry,
            Step::Inquiry => {
                self.facts.inquiry = kind(data);
                self.support =
                    if self.facts.is_present() { Support::parse(data) } else { Support::default() };
                Step::Names
            }
            Step::Names => {
                self.facts.names = Identity::parse(data);
                self.position = Position::parse(data);
                Step::Serial
            }
            Step::Serial => {
                self.facts.serial = inquiry::parse_serial(data);
                match self.reach {
                    Reach::Name | Reach::Control | Reach::Attention | Reach::Access => Step::Done,
                    Reach::Whole if self.name_first => Step::Ready,
                    Reach::Whole => Step::Capacity16,
                }
            }
            Step::Access if self.name_first => Step::Ready,
            Step::Access => Step::Capacity16,
            Step::Capacity16 => {
                self.facts.capacity = Capacity::parse_16(data);
                if self.facts.capacity.is_some() { Step::Keys } else { Step::Capacity10 }
            }
            Step::Capacity10 => {
                self.facts.capacity = Capacity::parse_10(data);
                Step::Keys
            }
            Step::Keys => {
                let length = data.get(4..8).unwrap_or_default();
                self.registered = length.iter().any(|b| *b != 0);
                Step::Done
            }
            Step::Control => {
                self.control = ControlPage::parse(data);
                Step::Done
            }
            Step::Done => Step::Done,
        };
    }
}

/// INQUIRY data. A port that is unavailable shows a unit that is there as one that may come (SPC-4 section 5.15.2.4.5).
pub(super) fn kind(data: &[u8]) -> Option<Inquiry> {
    let inquiry = Inquiry::parse(data)?;
    let there = inquiry.qualifier == 1 && Support::parse(data).any();
    Some(Inquiry { qualifier: if there { 0 } else { inquiry.qualifier }, ..inquiry })
}
