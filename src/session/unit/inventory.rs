//! Under which LUN a further nexus shows home's unit.
//!
//! The initiator's LUNs are home's. Another target port may show the same unit under another number, or not at all
//! (SAM-5 section 4.7: a LUN names a unit for one I_T nexus only). So where home's number shows another unit on a further
//! nexus, or none, that nexus is **surveyed**: REPORT LUNS there (SPC-4 section 6.33), and of each LUN INQUIRY with VPD
//! pages 83h and 80h, before which no unit attention comes. A unit that is found is proved and goes under its LUN there
//! from then on ([`Session::lun_there`]); of several LUNs that show it, home's number is taken, else the lowest. One that
//! is not found stays on home; it is looked for again when the nexus reports that its LUNs changed, and after some time.
//!
//! Home is never asked for its LUNs: the answer would clear an attention that is the initiator's.

use super::facts::Facts;
use super::inquire::kind;
use super::proof::Proof;
use crate::iscsi::{Cdb, Lun, ScsiResponse};
use crate::scsi::inquiry::{self, Identity, Inquiry};
use crate::scsi::sense::status;
use crate::session::Session;
use crate::session::api::{Notice, PathId};
use crate::session::nexus::{HOME, NexusId, NexusState};
use crate::session::tasks::{Origin, Task};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// So many LUNs of a nexus are looked at.
const MOST_LUNS: u16 = 256;
/// Length of REPORT LUNS data that names so many.
const LIST: u16 = 8 + 8 * MOST_LUNS;
/// Longest answer to another question, in bytes.
const ANSWER: u16 = 1024;
/// So often one survey repeats questions that meet a busy unit or an attention.
const MOST_REPEATS: u32 = 32;
/// When LUNs change more often than this in a short time, the nexus is left alone for a while.
const MOST_CHANGES: u32 = 16;
/// What was not found is looked for again after this time, and then ever more seldom.
const FIRST_WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// What a further nexus shows.
#[derive(Debug, Default)]
pub(in crate::session) struct Inventory {
    survey: Option<Survey>,
    /// Disks by their LUN there, once it was surveyed.
    disks: Option<BTreeMap<Lun, Facts>>,
    /// When it was last begun to be looked at, and how often its LUNs changed lately.
    began: Option<Instant>,
    changes: u32,
    again_at: Option<Instant>,
    waited: Duration,
}

impl Inventory {
    /// What is not there now will be looked for again.
    fn look_again(&mut self, now: Instant) {
        if self.again_at.is_none() {
            self.again_at = Some(now + self.waited.max(FIRST_WAIT));
        }
    }

    /// The LUN under which a disk is that home shows under `lun`.
    fn find(&self, lun: Lun, home: &Facts) -> Option<Lun> {
        let is_it = |(_, facts): &(&Lun, &Facts)| home.another(facts).is_none();
        let mut found = self.disks.iter().flatten().filter(is_it).map(|(there, _)| *there);
        let lowest = found.next()?;
        Some(if lowest == lun || found.any(|there| there == lun) { lun } else { lowest })
    }
}

/// What a nexus was found to show of one unit; it may hold when the nexus is back.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// The LUN there, if it is another than home's.
    pub(super) lun: Option<Lun>,
    /// Home's number is another unit there, or none, or one of another size.
    pub(super) other_here: bool,
    /// What home's number was found to be there.
    pub(super) here: Option<String>,
    /// What was said last of why it may not be used there.
    pub(super) told: Option<String>,
}

/// A question of a survey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    List,
    Inquiry,
    Names,
    Serial,
}

/// A nexus being asked what it shows, one question at a time.
#[derive(Debug)]
struct Survey {
    id: u64,
    step: Step,
    /// LUNs still to be asked, the next one last.
    left: Vec<Lun>,
    facts: Facts,
    disks: BTreeMap<Lun, Facts>,
    repeats: u32,
}

impl Survey {
    /// Takes the answer to the current question and goes on to the next; false if there is none.
    fn take(&mut self, data: &[u8]) -> bool {
        match self.step {
            Step::List => {
                self.left = inquiry::parse_luns(data).take(usize::from(MOST_LUNS)).map(Lun).collect();
                self.left.sort_unstable_by(|a, b| b.cmp(a));
                self.left.dedup();
                self.step = Step::Inquiry;
            }
            Step::Inquiry => {
                self.facts = Facts { inquiry: kind(data), ..Facts::default() };
                if self.facts.inquiry.as_ref().is_some_and(Inquiry::is_disk) {
                    self.step = Step::Names;
                } else {
                    self.left.pop();
                }
            }
            Step::Names => {
                self.facts.names = Identity::parse(data);
                self.step = Step::Serial;
            }
            Step::Serial => {
                self.facts.serial = inquiry::parse_serial(data);
                if let Some(lun) = self.left.pop() {
                    self.disks.insert(lun, std::mem::take(&mut self.facts));
                }
                self.step = Step::Inquiry;
            }
        }
        !self.left.is_empty()
    }

    /// The question: unit, CDB, and length of the answer.
    fn question(&self) -> (Lun, Cdb, u32) {
        // Unit 0 answers REPORT LUNS, even where there is no disk.
        let lun = self.left.last().copied().unwrap_or_default();
        let (cdb, length) = match self.step {
            Step::List => (inquiry::report_luns_cdb(LIST.into()), LIST),
            Step::Inquiry => (inquiry::inquiry_cdb(None, ANSWER), ANSWER),
            Step::Names => (inquiry::inquiry_cdb(Some(inquiry::PAGE_IDENTIFICATION), ANSWER), ANSWER),
            Step::Serial => (inquiry::inquiry_cdb(Some(inquiry::PAGE_SERIAL), ANSWER), ANSWER),
        };
        (lun, Cdb(cdb.into_iter().collect()), length.into())
    }
}

impl Session {
    /// The LUN under which a nexus shows what home shows under `lun`.
    pub(in crate::session) fn lun_there(&self, lun: Lun, nexus: NexusId) -> Lun {
        if nexus == HOME || broken!(self.rules, LunNotMapped) {
            return lun;
        }
        let shown = self.units.get(&lun).and_then(|unit| unit.shown.get(&nexus));
        shown.and_then(|shown| shown.lun).unwrap_or(lun)
    }

    /// Whether a path is known to show other units under home's LUNs: home itself cannot move there.
    pub(in crate::session) fn has_other_luns(&self, path: PathId) -> bool {
        let nexus = path.0 + 1;
        self.units.values().any(|unit| unit.shown.get(&nexus).is_some_and(|shown| shown.other_here))
    }

    /// Home's unit is not under the LUN that was tried: goes on with the next, if there is one.
    pub(super) fn search(&mut self, nexus: NexusId, lun: Lun, now: Instant) {
        let Some(unit) = self.units.get_mut(&lun) else { return };
        let Some(home) = &unit.facts else { return };
        if !home.is_named() {
            let what = home.another(home).unwrap_or_default();
            self.refuse(nexus, lun, what, now);
            return;
        }
        let inventory = self.inventories.entry(nexus).or_default();
        let found = inventory.find(lun, home);
        if inventory.disks.is_none() {
            unit.proofs.insert(nexus, Proof::Searching);
            self.begin_survey(nexus, now);
        } else if let Some(there) = found {
            unit.proofs.insert(nexus, Proof::Checking);
            unit.attentions.renew(nexus, now);
            self.start_check(nexus, lun, there, now);
        } else {
            let here = unit.shown.get(&nexus).and_then(|shown| shown.here.as_deref()).unwrap_or("no unit");
            let what = format!(
                "home's LUN {lun} is {home}; here LUN {lun} is {here}, and no other LUN is home's unit: check which \
                 target port this path leads to, and its LUN mapping"
            );
            self.refuse(nexus, lun, what, now);
        }
    }

    /// A unit may not be used over a nexus, until something changes there.
    pub(super) fn refuse(&mut self, nexus: NexusId, lun: Lun, what: String, now: Instant) {
        let path = self.path_of(nexus);
        self.inventories.entry(nexus).or_default().look_again(now);
        let Some(unit) = self.units.get_mut(&lun) else { return };
        unit.proofs.insert(nexus, Proof::Refused);
        let told = &mut unit.shown.entry(nexus).or_default().told;
        if told.as_ref() != Some(&what) {
            *told = Some(what.clone());
            self.note(Notice::IdentityMismatch { path, lun: lun.number(), what });
        }
    }

    fn begin_survey(&mut self, nexus: NexusId, now: Instant) {
        let id = self.next_check + 1;
        let inventory = self.inventories.entry(nexus).or_default();
        if inventory.survey.is_some() {
            return;
        }
        self.next_check = id;
        inventory.survey = Some(Survey {
            id,
            step: Step::List,
            left: Vec::new(),
            facts: Facts::default(),
            disks: BTreeMap::new(),
            repeats: 0,
        });
        self.survey(id, now);
    }

    /// Sends the current question of a survey.
    pub(in crate::session) fn survey(&mut self, id: u64, now: Instant) {
        let surveys = self.inventories.iter().filter_map(|(nexus, i)| Some((*nexus, i.survey.as_ref()?)));
        let Some((nexus, survey)) = surveys.into_iter().find(|(_, survey)| survey.id == id) else { return };
        let (lun, cdb, length) = survey.question();
        self.submit_own(Task::own(Origin::Survey(id), nexus, lun, cdb, length, now).under(lun), now);
    }

    /// An answer to a survey's question.
    pub(in crate::session) fn survey_answered(
        &mut self,
        id: u64,
        task: &Task,
        response: &ScsiResponse,
        now: Instant,
    ) {
        let surveyed = |i: &&mut Inventory| i.survey.as_ref().is_some_and(|survey| survey.id == id);
        let Some(inventory) = self.inventories.values_mut().find(surveyed) else { return };
        let Some(survey) = &mut inventory.survey else { return };
        let busy = matches!(response.status, status::BUSY | status::TASK_SET_FULL | status::TASK_ABORTED);
        if (busy || response.is_attention()) && survey.repeats < MOST_REPEATS {
            survey.repeats += 1;
            self.survey(id, now);
            return;
        }
        let good = response.response == 0 && response.status == status::GOOD;
        if survey.take(if good { &task.collected } else { &[] }) {
            self.survey(id, now);
            return;
        }
        inventory.disks = inventory.survey.take().map(|survey| survey.disks);
        let Some(nexus) = task.only_nexus else { return };
        let waits = |(lun, unit): (&Lun, &super::Unit)| {
            (unit.proofs.get(&nexus) == Some(&Proof::Searching)).then_some(*lun)
        };
        for lun in self.units.iter().filter_map(waits).collect::<Vec<_>>() {
            self.search(nexus, lun, now);
        }
        self.go_on_with_fence(nexus, now);
    }

    /// What a LUN was believed to be, it is not: nothing is proved under it.
    pub(super) fn not_under(&mut self, nexus: NexusId, there: Lun, home: &Facts) {
        let disks = self.inventories.get_mut(&nexus).and_then(|i| i.disks.as_mut());
        if let Some(disks) = disks
            && disks.get(&there).is_some_and(|facts| home.another(facts).is_none())
        {
            disks.remove(&there);
        }
    }

    /// What was found on a further nexus is not there any more.
    pub(super) fn inventory_outdated(&mut self, nexus: NexusId) {
        if let Some(inventory) = self.inventories.get_mut(&nexus).filter(|i| i.survey.is_none()) {
            inventory.disks = None;
        }
    }

    /// The LUNs of a further nexus changed: nothing that was proved there holds, and all is looked at anew.
    pub(super) fn inventory_changed(&mut self, nexus: NexusId, sent_at: Instant, now: Instant) {
        let inventory = self.inventories.entry(nexus).or_default();
        (inventory.survey, inventory.disks) = (None, None);
        // What was sent before may tell of the same change.
        inventory.changes += u32::from(inventory.began.is_none_or(|began| sent_at >= began));
        inventory.began = Some(now);
        let often = inventory.changes > MOST_CHANGES;
        if often {
            inventory.look_again(now);
        }
        self.drop_checks(nexus, now);
        for unit in self.units.values_mut() {
            unit.proofs.remove(&nexus);
            unit.access.forget(nexus);
            unit.attentions.renew(nexus, now);
            if let Some(shown) = unit.shown.get_mut(&nexus) {
                shown.lun = None;
            }
        }
        self.registrations_lost(nexus, now);
        if !often {
            self.check_nexus(nexus, now);
        }
    }

    /// The LUN under which a further nexus that is not in service yet shows a unit; none while it is being looked for.
    pub(in crate::session) fn survey_for(
        &mut self,
        nexus: NexusId,
        lun: Lun,
        now: Instant,
    ) -> Option<Option<Lun>> {
        let home = self.units.get(&lun)?.facts.as_ref()?;
        let inventory = self.inventories.entry(nexus).or_default();
        if inventory.disks.is_some() {
            return Some(inventory.find(lun, home));
        }
        self.begin_survey(nexus, now);
        None
    }

    /// Looks again for what was not found on a further nexus, or was not the same.
    pub(in crate::session) fn look_for_units_again(&mut self, now: Instant) {
        let due =
            |(nexus, i): (&NexusId, &Inventory)| i.again_at.is_some_and(|at| at <= now).then_some(*nexus);
        for nexus in self.inventories.iter().filter_map(due).collect::<Vec<_>>() {
            let up = self.nexus(nexus).is_some_and(|n| n.state == NexusState::Up);
            let Some(inventory) = self.inventories.get_mut(&nexus) else { continue };
            inventory.waited = (inventory.waited * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
            (inventory.again_at, inventory.changes) = (None, 0);
            self.inventory_outdated(nexus);
            for unit in self.units.values_mut() {
                unit.proofs.retain(|n, proof| *n != nexus || *proof != Proof::Refused);
            }
            if up {
                self.check_nexus(nexus, now);
            }
        }
    }

    /// When something is to be looked for again.
    pub(in crate::session) fn inventory_deadline(&self) -> Option<Instant> {
        let waiting = self.inventories.values().filter_map(|inventory| inventory.again_at);
        waiting.min().filter(|_| self.finishing.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(serial: &str) -> Facts {
        let inquiry = Inquiry::parse(&[0; 36]);
        Facts { inquiry, serial: Some(serial.into()), ..Facts::default() }
    }

    fn showing(disks: &[(u16, &str)]) -> Inventory {
        let disks = disks.iter().map(|(lun, serial)| (Lun::from_number(*lun), named(serial))).collect();
        Inventory { disks: Some(disks), ..Inventory::default() }
    }

    #[test]
    fn homes_number_is_taken_before_the_lowest() {
        let find = |disks: &[(u16, &str)], lun| {
            showing(disks).find(Lun::from_number(lun), &named("a")).map(Lun::number)
        };
        assert_eq!(find(&[(1, "a"), (3, "a"), (4, "b")], 3), Some(3));
        assert_eq!(find(&[(1, "a"), (3, "a")], 1), Some(1));
        assert_eq!(find(&[(0, "b"), (5, "a"), (300, "a")], 2), Some(5));
        assert_eq!(find(&[(0, "b")], 0), None);
        assert_eq!(Inventory::default().find(Lun(0), &named("a")), None);
    }

    #[test]
    fn a_survey_asks_each_lun_once_and_in_order() {
        let start = || Survey {
            id: 1,
            step: Step::List,
            left: Vec::new(),
            facts: Facts::default(),
            disks: BTreeMap::new(),
            repeats: 0,
        };
        let list = |luns: &[u16]| {
            let mut data = vec![0; 8];
            data[2..4].copy_from_slice(&(u16::try_from(luns.len() * 8).unwrap()).to_be_bytes());
            luns.iter().for_each(|lun| data.extend_from_slice(&Lun::from_number(*lun).0.to_be_bytes()));
            data
        };
        let mut survey = start();
        assert_eq!(survey.question().0, Lun(0));
        assert!(survey.take(&list(&[7, 2, 2])));
        assert_eq!(survey.question().0.number(), 2);
        assert!(survey.take(&[0x7f; 36]), "no unit: the next one");
        assert_eq!(survey.question().0.number(), 7);
        assert!(survey.take(&[0; 36]) && survey.take(&[]));
        assert!(!survey.take(b"\0\x80\0\x01a"));
        assert_eq!(survey.disks.keys().map(|lun| lun.number()).collect::<Vec<_>>(), [7]);
        assert!(!start().take(&[]), "no answer to REPORT LUNS: nothing is there");
        let mut long = start();
        long.take(&list(&(0..400).collect::<Vec<_>>()));
        assert_eq!(long.left.len(), usize::from(MOST_LUNS));
    }
}
