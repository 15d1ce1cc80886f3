//! The logical units that the initiator uses: what is known of each, and over which nexuses its commands may go.
//!
//! - `manner`: what kind of device it is, and what that means for its commands. `control`: the Control mode page.
//! - `facts`: who a unit is. `inquire`: the questions that Braid asks. `proof`: whether a further nexus shows the same.
//!   `inventory`: under which LUN. `change`: what becomes of that while the unit is used.
//! - `reservation`: what binds a unit to the nexus that reserved it. `registration`, `replicas`: persistent registrations,
//!   the same on every nexus. `collapse`: what the initiator is shown of them.
//! - `access`: through which ports its medium can be reached. `starvation`: how long commands wait for
//!   that. `transition`: making it reachable.
//! - `explain`: what an operator is told of all that.
//! - `echo`: what nexuses report that nobody needs to hear.
//!
//! Home is asked for a unit's name at its first command: should home move to another path, it must be the same unit there,
//! and the session ends if that cannot be told. It is asked everything once the initiator uses the unit.

mod access;
mod change;
mod collapse;
mod control;
mod echo;
mod explain;
mod facts;
mod inquire;
mod inventory;
mod manner;
mod proof;
mod registration;
mod replicas;
mod reservation;
mod starvation;
mod transition;

pub(super) use access::Grade;
pub(super) use echo::Echo;
pub use explain::{MOST_TOLD, Share, UnitStatus};
pub(super) use inquire::Check;
pub(super) use inventory::Inventory;
pub(super) use manner::Repeat;
pub(super) use replicas::meets_registrations;

use super::Session;
use super::api::{Notice, PathId};
use super::attention::Attentions;
use super::nexus::{HOME, NexusId, NexusState};
use crate::iscsi::Lun;
use crate::scsi::Class;
use crate::scsi::inquiry::{self, Capacity, Identity};
use access::Access;
use control::Control;
use echo::Echoes;
use facts::Facts;
use inquire::{Reach, Step};
use manner::Manner;
use proof::Proof;
use registration::Registrations;
use std::collections::BTreeMap;
use std::time::Instant;

/// A logical unit that the initiator uses.
#[derive(Debug, Default)]
pub(in crate::session) struct Unit {
    facts: Option<Facts>,
    /// Home was asked everything, not just for the name.
    known: bool,
    learning: bool,
    /// Home has told the initiator that something else may be under this LUN, or that nothing is there.
    announced: bool,
    gone: bool,
    /// The initiator may have seen something of it where home is.
    addressed: bool,
    /// Plain block I/O went well.
    used: bool,
    manner: Manner,
    control: Control,
    /// Home holds it by RESERVE.
    reserved: bool,
    registrations: Registrations,
    access: Access,
    echoes: Echoes,
    proofs: BTreeMap<NexusId, Proof>,
    shown: BTreeMap<NexusId, inventory::Shown>,
    attentions: Attentions,
}

impl Unit {
    pub(in crate::session) const fn attentions(&self) -> &Attentions {
        &self.attentions
    }

    /// Whether further nexuses are registered as home is: only where that is known not to show. On tgt and LIO it does (both
    /// measured): once others are registered, a nexus that released, cleared or gave up its own reservation is told so by
    /// a unit attention, as if somebody else had done it. There a registered unit stays on home.
    fn replicates(&self) -> bool {
        matches!(self.facts.as_ref().and_then(Facts::vendor), Some("FreeBSD" | "BRAID"))
    }

    /// Whether commands of a class may go over further nexuses, once these give access and are proved.
    fn may_leave_home(&self, class: &Class) -> bool {
        let bound = self.reserved || self.registrations.bind(class, self.replicates());
        !bound && self.manner.may_spread() && self.control.may_spread()
    }
}

/// Units beyond this number stay on home.
const MOST_UNITS: usize = 1024;

impl Session {
    /// Whether plain block I/O of a class for `lun` may go over `nexus`.
    pub(in crate::session) fn unit_usable(&self, lun: Lun, nexus: NexusId, class: &Class) -> bool {
        if nexus == HOME {
            return true;
        }
        let Some(unit) = self.units.get(&lun) else { return false };
        let allowed = !unit.reserved && unit.registrations.allow(nexus, class, self.rules);
        let free = allowed || broken!(self.rules, ReservedUnitSpread);
        let proof = unit.proofs.get(&nexus).copied().unwrap_or_default();
        let unproved = proof != Proof::Refused && broken!(self.rules, IdentityUnproved);
        let usable = free && proof == Proof::Proved || unproved && !unit.reserved;
        usable && unit.manner.may_spread() && unit.control.may_spread()
    }

    /// Whether commands for the unit's medium of Braid's own may go over a nexus: not while it may be registered and home not
    /// ([`registration`]).
    pub(in crate::session) fn unit_reached(&self, lun: Lun, nexus: NexusId) -> bool {
        let proved = |unit: &Unit| unit.proofs.get(&nexus) == Some(&Proof::Proved);
        let fit = |unit: &Unit| nexus == HOME || proved(unit) && self.registrations_settled(lun);
        self.units.get(&lun).is_some_and(|unit| fit(unit) && unit.access.state(nexus).is_active())
    }

    /// Whether it is being found out whether a further nexus shows the unit.
    pub(in crate::session) fn unit_is_asked_for(&self, lun: Lun, nexus: NexusId) -> bool {
        let asking = |proof: &Proof| matches!(proof, Proof::Checking | Proof::Searching);
        self.units.get(&lun).is_some_and(|unit| unit.learning || unit.proofs.get(&nexus).is_some_and(asking))
    }

    /// Whether a further nexus does not show the unit for sure, and nobody is finding out.
    pub(in crate::session) fn unit_cannot_be_asked(&self, lun: Lun, nexus: NexusId) -> bool {
        let proved = |unit: &Unit| unit.proofs.get(&nexus) == Some(&Proof::Proved);
        nexus != HOME && !self.units.get(&lun).is_some_and(proved) && !self.unit_is_asked_for(lun, nexus)
    }

    /// Whether a nexus shows another unit.
    pub(in crate::session) fn unit_refused(&self, lun: Lun, nexus: NexusId) -> bool {
        self.units.get(&lun).is_some_and(|unit| unit.proofs.get(&nexus) == Some(&Proof::Refused))
    }

    /// Whether the initiator may have reserved it.
    pub(in crate::session) fn unit_reserved(&self, lun: Lun) -> bool {
        self.units.get(&lun).is_some_and(|unit| unit.reserved || unit.registrations.key().is_some())
    }

    /// The initiator addressed a unit: when home is reinstated, its attention from that login must be cleared.
    pub(in crate::session) fn unit_seen(&mut self, lun: Lun, now: Instant) {
        if self.units.contains_key(&lun) {
            return;
        }
        let room = self.units.len() < MOST_UNITS;
        if room {
            self.units.insert(lun, Unit::default());
            self.strangers.push(lun);
            self.fear_caches(lun, now);
        }
        self.fear_predecessor(lun, room, now);
    }

    /// Plain block I/O went well on home: the unit is in use and ready, and home can be asked who it is.
    pub(in crate::session) fn unit_used(&mut self, lun: Lun, now: Instant) {
        let Some(unit) = self.units.get_mut(&lun) else { return };
        unit.used = true;
        let open = unit.control.is_open();
        if !unit.known && !unit.learning {
            self.learn(lun, Reach::Whole, now);
        } else if open {
            self.ask_control(lun, now);
        }
    }

    pub(in crate::session) fn attentions(&mut self, lun: Lun) -> Option<&mut Attentions> {
        self.units.get_mut(&lun).map(|unit| &mut unit.attentions)
    }

    pub(in crate::session) fn all_attentions(&mut self) -> impl Iterator<Item = &mut Attentions> {
        self.units.values_mut().map(|unit| &mut unit.attentions)
    }

    /// Units that the initiator addressed for the first time: home is asked for their names, so that they are known again
    /// should home have to move. (No more than the name: the other questions may meet what the initiator must be told.)
    pub(in crate::session) fn introduce(&mut self, now: Instant) {
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
    pub(in crate::session) fn home_moved(&mut self, path: PathId, now: Instant) {
        self.home_moved = true;
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
        let named = unit.facts.clone().filter(|_| !unit.known && !unit.gone && !unit.announced);
        let step = match named {
            _ if unit.attentions.is_doubtful() && reach == Reach::Whole => Step::Ready,
            Some(_) if unit.access.support.any() => Step::Access,
            Some(_) => Step::Capacity16,
            None => Step::Inquiry,
        };
        let id = self.new_check(HOME, (lun, lun), step, reach);
        if let (Some(check), Some(facts)) = (self.checks.last_mut(), named) {
            check.facts = facts;
        }
        self.ask(id, now);
    }

    /// Home told what the unit is, for the first time or again.
    fn home_learned(&mut self, check: Check, now: Instant) {
        let path = self.path_of(HOME);
        let may_be_replaced = self.may_be_replaced(check.lun);
        let (stays, moved) = (self.home_state() == NexusState::Up, self.home_moved);
        let Some(unit) = self.units.get_mut(&check.lun) else { return };
        unit.learning = false;
        let present = unit.facts.as_ref().is_some_and(Facts::is_present);
        if stays && present && !check.facts.is_present() {
            // What home answers now is the initiator's to hear.
            (unit.gone, unit.known) = (true, false);
            unit.proofs.clear();
            if unit.attentions.is_doubtful() {
                self.learn(check.lun, Reach::Whole, now);
            }
            return;
        }
        let size = unit.facts.as_ref().and_then(|f| f.capacity);
        // Where home has moved, a unit of another size is a copy.
        let resized = moved && size.is_some() && check.facts.capacity.is_some_and(|now| size != Some(now));
        let replaced = unit.facts.as_ref().is_some_and(|known| known.replaced_by(&check.facts));
        if (replaced || resized) && !may_be_replaced {
            let before = unit.facts.as_ref().map_or_else(String::new, ToString::to_string);
            let what = format!(
                "home shows another unit than before: it was {before}, it is {}{}",
                check.facts,
                if replaced { "" } else { " of another size" }
            );
            self.note(Notice::IdentityMismatch { path, lun: check.lun.number(), what });
            // Nothing the initiator believes holds any more.
            self.begin_finish(now);
            return;
        }
        (unit.gone, unit.announced) = (false, false);
        let known = unit.facts.as_ref().and_then(|f| f.capacity);
        let capacity = check.facts.capacity.or(known);
        let facts = Facts { capacity, ..check.facts };
        if unit.facts.as_ref() != Some(&facts) {
            // It is compared again where it was found to differ, too.
            unit.proofs.retain(|_, proof| !matches!(proof, Proof::Proved | Proof::Refused));
        }
        unit.facts = Some(facts);
        unit.known |= check.reach == Reach::Whole;
        let more = unit.used && !unit.known || unit.attentions.is_doubtful();
        // Fences may have waited for the name.
        self.changed = true;
        let queues = unit.facts.as_ref().and_then(|f| f.inquiry.as_ref()).is_some_and(|i| i.queues);
        self.go_on_with_fences(check.lun, now);
        if more {
            self.learn(check.lun, Reach::Whole, now);
            return;
        }
        if check.reach == Reach::Whole {
            self.learn_control(check.lun, queues, now);
        }
        for nexus in 1..self.nexuses.len() {
            self.prove(nexus, check.lun, now);
        }
        self.home_checked(now);
    }

    /// Home goes into service when its last unit was checked again.
    fn home_checked(&mut self, now: Instant) {
        let settling = self.home_state() == NexusState::Settling;
        if !settling || self.checks.iter().any(|c| c.nexus == HOME) {
            return;
        }
        if self.is_recalling() {
            // Registrations have waited for this.
            self.changed = true;
        } else {
            self.nexus_ready(HOME, now);
        }
    }

    /// The page on which a unit says who it is, if home has told anything of it that no other unit says.
    pub(in crate::session) fn name_page(&self, lun: Lun) -> Option<u8> {
        let facts = self.units.get(&lun)?.facts.as_ref()?;
        let named = facts.names.as_ref().is_some_and(Identity::is_unique);
        let serial = facts.serial.as_ref().map(|_| inquiry::PAGE_SERIAL);
        if named { Some(inquiry::PAGE_IDENTIFICATION) } else { serial }
    }

    /// Whether home has said who a unit is, name or none.
    pub(in crate::session) fn is_introduced(&self, lun: Lun) -> bool {
        self.units.get(&lun).is_some_and(|unit| unit.facts.is_some())
    }

    /// Whether this page says what home said.
    pub(in crate::session) fn is_known_unit(&self, lun: Lun, page: &[u8]) -> bool {
        let Some(facts) = self.units.get(&lun).and_then(|unit| unit.facts.as_ref()) else { return false };
        match self.name_page(lun) {
            Some(inquiry::PAGE_IDENTIFICATION) => facts.names == Identity::parse(page),
            Some(_) => facts.serial == inquiry::parse_serial(page),
            None => false,
        }
    }

    /// The question for a unit's size, with the length of its answer, if home has told its size.
    pub(in crate::session) fn size_question(&self, lun: Lun) -> Option<(inquiry::Cdb, u32)> {
        let size = self.units.get(&lun)?.facts.as_ref()?.capacity?;
        let beyond = size.is_beyond_10();
        Some(if beyond {
            (inquiry::read_capacity_16_cdb(32), 32)
        } else {
            (inquiry::read_capacity_10_cdb(), 8)
        })
    }

    /// Whether this answer to the question says another size than home did.
    pub(in crate::session) fn is_other_size(&self, lun: Lun, answer: &[u8]) -> bool {
        let home = self.units.get(&lun).and_then(|unit| unit.facts.as_ref()?.capacity);
        let parse = if answer.len() > 8 { Capacity::parse_16 } else { Capacity::parse_10 };
        parse(answer).is_some_and(|size| home != Some(size)) && !broken!(self.rules, SizeNotCompared)
    }

    /// The path a nexus is carried by, for notices.
    pub(in crate::session) fn path_of(&self, nexus: NexusId) -> PathId {
        let carried = self.conns.iter().find(|c| c.nexus == nexus).map(|c| c.path);
        carried.unwrap_or_else(|| PathId(nexus.saturating_sub(1) % self.paths.len().max(1)))
    }
}
