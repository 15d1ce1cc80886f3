//! Whether two nexuses show the same logical unit, and the unit attentions of Braid's own questions.
//!
//! Before a further nexus carries data of a unit, what the unit says of itself there (device identification, serial
//! number, capacity, block size) must equal what it says on home. Home is asked once the initiator uses the unit; a
//! further nexus when it comes up, and again after it reported a unit attention. Its name home is asked at once: should home
//! move to another path, it must be the same unit there, and the session ends if that cannot be told.
//!
//! A question may meet a unit attention: see `attention`.

use super::Session;
use super::api::{Notice, PathId};
use super::attention::{Attentions, Deed};
use super::nexus::{HOME, NexusId, NexusState};
use super::tasks::{Origin, Task};
use crate::iscsi::{Cdb, Lun, ScsiResponse};
use crate::scsi::inquiry::{self, Capacity, Identity, Inquiry};
use crate::scsi::sense::{key, status};
use crate::scsi::{Class, Sense};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Instant;

/// What a logical unit says of itself.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    inquiry: Option<Inquiry>,
    names: Option<Identity>,
    serial: Option<String>,
    capacity: Option<Capacity>,
}

impl Facts {
    /// What differs, in words; none if the two are provably the same unit.
    fn difference(&self, other: &Self) -> Option<String> {
        let named = self.names.as_ref().is_some_and(Identity::is_unique);
        if !named && self.serial.is_none() {
            return Some(
                "the unit has neither a unique designator (VPD 83h) nor a serial number (VPD 80h)".into(),
            );
        }
        if self.names != other.names {
            let text = |n: &Option<Identity>| n.as_ref().map_or_else(|| "none".into(), ToString::to_string);
            return Some(format!(
                "designators differ: home {}, here {}",
                text(&self.names),
                text(&other.names)
            ));
        }
        if self.serial != other.serial {
            return Some(format!("serial numbers differ: home {:?}, here {:?}", self.serial, other.serial));
        }
        if self.capacity.is_none() || self.capacity != other.capacity {
            return Some(format!("capacities differ: home {:?}, here {:?}", self.capacity, other.capacity));
        }
        self.differs_in_kind(other).then(|| "device type, vendor or product differ".into())
    }

    fn differs_in_kind(&self, other: &Self) -> bool {
        let kind =
            |f: &Self| f.inquiry.as_ref().map(|i| (i.device_type, i.vendor.clone(), i.product.clone()));
        kind(self) != kind(other)
    }

    /// Whether home, asked again, has become another unit. Its capacity may change; and of a unit without a name, or
    /// none at all, nothing can be told.
    fn replaced_by(&self, later: &Self) -> bool {
        let named = self.names.as_ref().is_some_and(Identity::is_unique) || self.serial.is_some();
        named && (self.names != later.names || self.serial != later.serial || self.differs_in_kind(later))
    }
}

/// How far a further nexus is with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Proof {
    #[default]
    Unknown,
    Checking,
    Proved,
    /// Another unit, or one with registrations that only home may use.
    Refused,
}

/// A logical unit that the initiator uses.
#[derive(Debug, Default)]
pub(super) struct Unit {
    facts: Option<Facts>,
    /// Home was asked everything, not just for the name.
    known: bool,
    learning: bool,
    /// The initiator may have seen something of it where home is.
    addressed: bool,
    /// Plain block I/O went well.
    used: bool,
    /// Its reservations bind it to home.
    reserved: bool,
    registered: bool,
    proofs: BTreeMap<NexusId, Proof>,
    attentions: Attentions,
}

/// Questions in the order they are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Ready,
    Inquiry,
    Names,
    Serial,
    Capacity16,
    Capacity10,
    Keys,
    Done,
}

/// How much is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// What no unit attention can come before.
    Name,
    Whole,
}

/// One unit being asked on one nexus.
#[derive(Debug)]
pub(super) struct Check {
    id: u64,
    nexus: NexusId,
    lun: Lun,
    step: Step,
    reach: Reach,
    facts: Facts,
    /// Somebody holds a persistent registration: other nexuses than the registered one may be shut out or, worse, miss
    /// a preemption.
    registered: bool,
    /// Questions asked in vain (busy, aborted, unit attention).
    repeats: u32,
}

/// So often one check repeats questions before it gives up.
const MOST_REPEATS: u32 = 32;
/// Units beyond this number stay on home.
const MOST_UNITS: usize = 1024;
/// Longest answer taken, in bytes.
const ANSWER: u16 = 1024;

impl Session {
    /// Whether plain block I/O for `lun` may go over `nexus`.
    pub(super) fn unit_usable(&self, lun: Lun, nexus: NexusId) -> bool {
        if nexus == HOME {
            return true;
        }
        let Some(unit) = self.units.get(&lun) else { return false };
        let free = !unit.reserved && !unit.registered || broken!(self.rules, ReservedUnitSpread);
        let proof = unit.proofs.get(&nexus).copied().unwrap_or_default();
        let unproved = proof != Proof::Refused && broken!(self.rules, IdentityUnproved);
        free && (proof == Proof::Proved || unproved)
    }

    /// The initiator addressed a unit: when home is reinstated, its attention from that login must be cleared.
    pub(super) fn unit_seen(&mut self, lun: Lun, now: Instant) {
        if self.units.contains_key(&lun) {
            return;
        }
        let room = self.units.len() < MOST_UNITS;
        if room {
            self.units.insert(lun, Unit::default());
            self.strangers.push(lun);
        }
        self.fear_predecessor(lun, room, now);
    }

    /// Plain block I/O went well on home: the unit is in use and ready, and home can be asked who it is.
    pub(super) fn unit_used(&mut self, lun: Lun, now: Instant) {
        let Some(unit) = self.units.get_mut(&lun) else { return };
        unit.used = true;
        if !unit.known && !unit.learning {
            self.learn(lun, Reach::Whole, now);
        }
    }

    /// A reservation command ended well (by its name): RESERVE binds the unit to home until RELEASE, a persistent
    /// registration for as long as the session lasts.
    pub(super) fn unit_reservation(&mut self, lun: Lun, name: &str) {
        let Some(unit) = self.units.get_mut(&lun) else { return };
        match name {
            "RESERVE(6)" | "RESERVE(10)" => unit.reserved = true,
            "RELEASE(6)" | "RELEASE(10)" => unit.reserved = false,
            _ => unit.registered = true,
        }
    }

    /// A unit (or all of them) was reset: RESERVE ended with it.
    pub(super) fn unit_reset(&mut self, lun: Option<Lun>) {
        let now = self.now;
        for (_, unit) in self.units.iter_mut().filter(|(l, _)| lun.is_none_or(|lun| lun == **l)) {
            unit.reserved = false;
            unit.attentions.note_deed(Deed::Reset, now);
        }
    }

    /// Somebody else reset the unit: RESERVE ended with it.
    pub(super) fn reservation_ended(&mut self, lun: Lun) {
        if let Some(unit) = self.units.get_mut(&lun) {
            unit.reserved = false;
        }
    }

    pub(super) fn attentions(&mut self, lun: Lun) -> Option<&mut Attentions> {
        self.units.get_mut(&lun).map(|unit| &mut unit.attentions)
    }

    /// A further nexus reported a unit attention: what was proved there may no longer hold, and what home said neither.
    pub(super) fn unit_doubted(&mut self, lun: Lun, nexus: NexusId, now: Instant) {
        let Some(unit) = self.units.get_mut(&lun) else { return };
        let proved = unit.proofs.get(&nexus) == Some(&Proof::Proved);
        if proved {
            unit.proofs.insert(nexus, Proof::Unknown);
        }
        // Home is asked first; if it is away, it will be when it is back.
        let ask = proved || unit.attentions.is_doubtful();
        if ask && !unit.learning && self.home_state() == NexusState::Up {
            self.learn(lun, Reach::Whole, now);
        }
    }

    /// Home is back: it is asked about what further nexuses reported while it could not be.
    pub(super) fn ask_about_doubts(&mut self, now: Instant) {
        let doubted =
            |(lun, unit): (&Lun, &Unit)| (unit.attentions.is_doubtful() && !unit.learning).then_some(*lun);
        for lun in self.units.iter().filter_map(doubted).collect::<Vec<_>>() {
            self.learn(lun, Reach::Whole, now);
        }
    }

    /// Units that the initiator addressed for the first time: home is asked for their names, so that they are known again
    /// should home have to move. (No more than the name: the other questions may meet what the initiator must be told.)
    pub(super) fn introduce(&mut self, now: Instant) {
        if self.strangers.is_empty() || self.home_state() != NexusState::Up {
            return;
        }
        for lun in std::mem::take(&mut self.strangers) {
            let Some(unit) = self.units.get_mut(&lun) else { continue };
            unit.addressed = true;
            if self.plan.paths.len() > 1 && unit.facts.is_none() && !unit.learning {
                self.learn(lun, Reach::Name, now);
            }
        }
    }

    /// Home has moved to another path: a unit that the initiator has addressed and that had not yet said who it is
    /// cannot be told from another one there.
    pub(super) fn home_moved(&mut self, path: PathId, now: Instant) {
        let stranger = self.units.iter().find(|(_, u)| u.addressed && u.facts.is_none()).map(|(lun, _)| *lun);
        if let Some(lun) = stranger {
            let what = "home moved before the unit had said who it is".into();
            self.note(Notice::IdentityMismatch { path, lun: lun.number(), what });
            self.begin_finish(now);
        }
    }

    fn learn(&mut self, lun: Lun, reach: Reach, now: Instant) {
        let Some(unit) = self.units.get_mut(&lun) else { return };
        unit.learning = true;
        // The name is not asked twice.
        let named = unit.facts.clone().filter(|_| !unit.known);
        let step = match named {
            _ if unit.attentions.is_doubtful() && reach == Reach::Whole => Step::Ready,
            Some(_) => Step::Capacity16,
            None => Step::Inquiry,
        };
        let id = self.new_check(HOME, lun, step, reach);
        if let (Some(check), Some(facts)) = (self.checks.last_mut(), named) {
            check.facts = facts;
        }
        self.ask(id, now);
    }

    /// A further nexus came up: asks it for every unit that home has told about.
    pub(super) fn check_nexus(&mut self, nexus: NexusId, now: Instant) {
        for lun in self.units.keys().copied().collect::<Vec<_>>() {
            self.prove(nexus, lun, now);
        }
    }

    /// Home was reinstated: clears the attention of the new login on each unit, and makes sure that it still is the
    /// same unit. Returns whether there is anything to wait for.
    pub(super) fn check_home_again(&mut self, now: Instant) -> bool {
        let luns: Vec<Lun> = self.units.keys().copied().collect();
        for lun in luns {
            let mut reserved = false;
            if let Some(unit) = self.units.get_mut(&lun)
                && (unit.reserved || unit.registered)
            {
                // The nexus that held the reservation is gone: the initiator must know (P5).
                let loss = Sense { key: key::UNIT_ATTENTION, asc: 0x29, ascq: 0x07 };
                if !broken!(self.rules, ReservationLossUntold) {
                    unit.attentions.keep(Bytes::copy_from_slice(&loss.to_fixed()), now);
                }
                reserved = std::mem::take(&mut unit.reserved);
            }
            if reserved {
                self.end_what_relied_on_reservation(lun, now);
            }
            self.start_check(HOME, lun, now);
        }
        self.checks.iter().any(|c| c.nexus == HOME)
    }

    /// Commands given under a reservation must not run without it: somebody else may have had the unit meanwhile.
    fn end_what_relied_on_reservation(&mut self, lun: Lun, now: Instant) {
        let relied = |t: &Task| {
            let waits = t.lun == lun && t.run.is_none() && t.held_response.is_none();
            let harmless = matches!(t.command.class, Class::Stateless | Class::Query);
            waits && !harmless && matches!(t.origin, Origin::Initiator { .. })
        };
        for key in self.tasks.select(relied) {
            self.unqueue(key);
            if let Some(task) = self.tasks.get_mut(key) {
                task.queued = false;
            }
            self.answer_unknown_outcome(key, now);
        }
    }

    /// Checks on a lost nexus end; what was proved there no longer holds.
    pub(super) fn forget_checks(&mut self, nexus: NexusId) {
        for check in self.checks.iter().filter(|c| c.nexus == nexus) {
            if let Some(unit) = self.units.get_mut(&check.lun) {
                unit.learning = unit.learning && nexus != HOME;
            }
        }
        self.checks.retain(|c| c.nexus != nexus);
        for unit in self.units.values_mut() {
            unit.proofs.remove(&nexus);
            unit.attentions.forget(nexus);
        }
    }

    fn prove(&mut self, nexus: NexusId, lun: Lun, now: Instant) {
        let ready = self.nexus(nexus).is_some_and(|n| n.state == NexusState::Up);
        let Some(unit) = self.units.get_mut(&lun) else { return };
        let facts = unit.facts.as_ref().filter(|_| unit.known);
        let disk = facts.and_then(|f| f.inquiry.as_ref()).is_some_and(Inquiry::is_disk);
        let proof = unit.proofs.entry(nexus).or_default();
        if nexus != HOME && ready && disk && *proof == Proof::Unknown {
            *proof = Proof::Checking;
            self.start_check(nexus, lun, now);
        }
    }

    /// Clears the attention of a login, and asks everything.
    fn start_check(&mut self, nexus: NexusId, lun: Lun, now: Instant) {
        let id = self.new_check(nexus, lun, Step::Ready, Reach::Whole);
        self.ask(id, now);
    }

    fn new_check(&mut self, nexus: NexusId, lun: Lun, step: Step, reach: Reach) -> u64 {
        self.next_check += 1;
        let id = self.next_check;
        self.checks.push(Check {
            id,
            nexus,
            lun,
            step,
            reach,
            facts: Facts::default(),
            registered: false,
            repeats: 0,
        });
        id
    }

    /// Sends the question of a check's current step.
    pub(super) fn ask(&mut self, id: u64, now: Instant) {
        let Some(check) = self.checks.iter().find(|c| c.id == id) else { return };
        let (nexus, lun) = (check.nexus, check.lun);
        let (cdb, expected) = match check.step {
            Step::Ready => (inquiry::test_unit_ready_cdb(), 0),
            Step::Inquiry => (inquiry::inquiry_cdb(None, ANSWER), ANSWER),
            Step::Names => (inquiry::inquiry_cdb(Some(inquiry::PAGE_IDENTIFICATION), ANSWER), ANSWER),
            Step::Serial => (inquiry::inquiry_cdb(Some(inquiry::PAGE_SERIAL), ANSWER), ANSWER),
            Step::Capacity16 => (inquiry::read_capacity_16_cdb(32), 32),
            Step::Capacity10 => (inquiry::read_capacity_10_cdb(), 8),
            Step::Keys => (inquiry::read_keys_cdb(ANSWER), ANSWER),
            Step::Done => return,
        };
        let cdb = Cdb(cdb.into_iter().collect());
        self.submit_own(Task::own(Origin::Check(id), nexus, lun, cdb, u32::from(expected), now), now);
    }

    /// An answer to a check's question.
    pub(super) fn check_answered(&mut self, id: u64, task: &Task, response: &ScsiResponse, now: Instant) {
        let attention = response.is_attention();
        let sent_at = task.run.as_ref().map_or(now, |r| r.sent_at);
        let Some(at) = self.checks.iter().position(|c| c.id == id) else { return };
        let Some(check) = self.checks.get_mut(at) else { return };
        let busy = matches!(response.status, status::BUSY | status::TASK_SET_FULL | status::TASK_ABORTED);
        if attention || busy {
            check.repeats += 1;
            let (lun, nexus, worn_out) = (check.lun, check.nexus, check.repeats > MOST_REPEATS);
            self.attention_met(nexus, lun, response, sent_at);
            if nexus != HOME && attention {
                self.unit_doubted(lun, nexus, now);
            }
            if worn_out {
                let check = self.checks.remove(at);
                self.check_failed(&check, "the unit stays busy", now);
            } else {
                self.ask(id, now);
            }
            return;
        }
        if check.step == Step::Ready && check.nexus == HOME {
            let lun = check.lun;
            if let Some(unit) = self.units.get_mut(&lun) {
                unit.attentions.resolve(now);
            }
        }
        let Some(check) = self.checks.get_mut(at) else { return };
        check.take(&task.collected, response.status == status::GOOD);
        if check.step == Step::Keys && check.nexus == HOME {
            check.step = Step::Done;
        }
        if check.step == Step::Done {
            let check = self.checks.remove(at);
            self.check_done(check, now);
        } else {
            self.ask(id, now);
        }
    }

    fn check_failed(&mut self, check: &Check, why: &str, now: Instant) {
        let path = self.path_of(check.nexus);
        self.note(Notice::IdentityMismatch { path, lun: check.lun.number(), what: why.into() });
        if let Some(unit) = self.units.get_mut(&check.lun) {
            unit.proofs.insert(check.nexus, Proof::Refused);
            if check.nexus == HOME {
                unit.attentions.resolve(now);
            }
        }
        if check.nexus == HOME {
            self.home_checked(now);
        }
    }

    /// All questions are answered: learn, or compare.
    fn check_done(&mut self, check: Check, now: Instant) {
        if check.nexus == HOME {
            self.home_learned(check, now);
            return;
        }
        let path = self.path_of(check.nexus);
        let lun = check.lun.number();
        let Some(unit) = self.units.get_mut(&check.lun) else { return };
        let Some(known) = &unit.facts else { return };
        let difference = known.difference(&check.facts);
        let proof = if difference.is_some() || check.registered { Proof::Refused } else { Proof::Proved };
        unit.proofs.insert(check.nexus, proof);
        self.note(match difference {
            Some(what) => Notice::IdentityMismatch { path, lun, what },
            None if check.registered => Notice::IdentityMismatch {
                path,
                lun,
                what: "the unit has persistent reservations: it stays on home".into(),
            },
            None => Notice::IdentityProved { path, lun },
        });
    }

    /// Home told what the unit is, for the first time or again.
    fn home_learned(&mut self, check: Check, now: Instant) {
        let path = self.path_of(HOME);
        let Some(unit) = self.units.get_mut(&check.lun) else { return };
        unit.learning = false;
        if unit.facts.as_ref().is_some_and(|known| known.replaced_by(&check.facts)) {
            let what = "home shows another unit than before".into();
            self.note(Notice::IdentityMismatch { path, lun: check.lun.number(), what });
            // Nothing the initiator believes holds any more.
            self.begin_finish(now);
            return;
        }
        let known = unit.facts.as_ref().and_then(|f| f.capacity);
        let capacity = check.facts.capacity.or(known);
        unit.facts = Some(Facts { capacity, ..check.facts });
        // Fences may have waited for the name.
        self.changed = true;
        unit.known |= check.reach == Reach::Whole;
        if unit.used && !unit.known || unit.attentions.is_doubtful() {
            self.learn(check.lun, Reach::Whole, now);
            return;
        }
        for nexus in 1..self.nexuses.len() {
            self.prove(nexus, check.lun, now);
        }
        self.home_checked(now);
    }

    /// Home goes into service when its last unit was checked again.
    fn home_checked(&mut self, now: Instant) {
        let settling = self.home_state() == NexusState::Settling;
        if settling && !self.checks.iter().any(|c| c.nexus == HOME) {
            self.nexus_ready(HOME, now);
        }
    }

    /// Whether a unit was found to be home's on a further nexus.
    pub(super) fn is_proved(&self, nexus: NexusId) -> bool {
        self.units.values().any(|unit| unit.proofs.get(&nexus) == Some(&Proof::Proved))
    }

    /// The page on which a unit says who it is, if home has told anything of it that no other unit says.
    pub(super) fn name_page(&self, lun: Lun) -> Option<u8> {
        let facts = self.units.get(&lun)?.facts.as_ref()?;
        let named = facts.names.as_ref().is_some_and(Identity::is_unique);
        let serial = facts.serial.as_ref().map(|_| inquiry::PAGE_SERIAL);
        if named { Some(inquiry::PAGE_IDENTIFICATION) } else { serial }
    }

    /// Whether this page says what home said.
    pub(super) fn is_known_unit(&self, lun: Lun, page: &[u8]) -> bool {
        let Some(facts) = self.units.get(&lun).and_then(|unit| unit.facts.as_ref()) else { return false };
        match self.name_page(lun) {
            Some(inquiry::PAGE_IDENTIFICATION) => facts.names == Identity::parse(page),
            Some(_) => facts.serial == inquiry::parse_serial(page),
            None => false,
        }
    }

    /// The path a nexus is carried by, for notices.
    pub(super) fn path_of(&self, nexus: NexusId) -> PathId {
        let carried = self.conns.iter().find(|c| c.nexus == nexus).map(|c| c.path);
        carried.unwrap_or_else(|| PathId(nexus.saturating_sub(1) % self.paths.len().max(1)))
    }
}

impl Check {
    /// Takes the answer of the current step and goes on to the next.
    fn take(&mut self, data: &[u8], good: bool) {
        let data = if good { data } else { &[] };
        self.step = match self.step {
            Step::Ready => Step::Inquiry,
            Step::Inquiry => {
                self.facts.inquiry = Inquiry::parse(data);
                Step::Names
            }
            Step::Names => {
                self.facts.names = Identity::parse(data);
                Step::Serial
            }
            Step::Serial => {
                self.facts.serial = inquiry::parse_serial(data);
                if self.reach == Reach::Whole { Step::Capacity16 } else { Step::Done }
            }
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
            Step::Done => Step::Done,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(serial: &str, last_lba: u64) -> Facts {
        Facts {
            inquiry: None,
            names: None,
            serial: Some(serial.into()),
            capacity: Some(Capacity { last_lba, block_size: 512 }),
        }
    }

    #[test]
    fn equal_only_if_everything_is() {
        assert_eq!(facts("a", 9).difference(&facts("a", 9)), None);
        assert!(facts("a", 9).difference(&facts("b", 9)).is_some_and(|d| d.contains("serial")));
        assert!(facts("a", 9).difference(&facts("a", 8)).is_some_and(|d| d.contains("capacities")));
        let nameless = Facts { serial: None, ..facts("a", 9) };
        assert!(nameless.difference(&nameless.clone()).is_some(), "nothing proves that the two are one");
    }
}
