//! Asymmetric access: over which nexuses a unit's medium can be reached at the moment, and how well (SPC-4 section 5.15).
//!
//! A target with such support (INQUIRY, TPGS) says over any nexus in which state all its port groups are (REPORT TARGET
//! PORT GROUPS); VPD page 83h says which group a nexus belongs to. What a nexus says counts once its unit has the name
//! that home told; the newest answer counts for all nexuses with that target. (Another target may use the same numbers for
//! other groups, so each is asked for its own.) It is asked
//! - when a unit is learned on home, and when it is to be proved on a further nexus;
//! - after the initiator has set states (SET TARGET PORT GROUPS);
//! - after a unit attention says that states changed (2Ah/06h) or could not be changed (2Ah/07h);
//! - after a command was refused for the state of the port (02h/04h/0Ah to 0Ch): until an answer tells better, the port is
//!   in the state that the refusal told;
//! - from time to time while a state is transitioning, commands wait, or not every path is optimized. Not every target tells,
//!   and LIO tells of a port group only over its own ports, where no command goes until it is active.
//!
//! # Which path
//! Commands for the medium go over optimized paths if there is one, else over non-optimized ones, never over others. The
//! target alone decides when a path is optimized again, so nothing here can go back and forth. Plain block I/O that finds
//! no such path waits. So do commands that home alone takes otherwise (a flush, COMPARE AND WRITE, ORDERED reads and writes)
//! if home's port is not active: they run over the best nexus on which the unit is proved. Their order needs no more than
//! it does on home: `order` lets none of them run beside a command that it conflicts with, whatever nexus that is on.
//! Everything else stays on home, since standby ports serve it, until home refuses it; what is refused has not run and runs
//! where the unit is active. Reservations belong to home, come what may. How long commands wait: [`super::starvation`].

use super::Unit;
use super::inquire::{Reach, Step};
use super::starvation::{SOME_READ, Starvation};
use super::transition::Transition;
use crate::iscsi::{Lun, ScsiResponse};
use crate::scsi::alua::{PortGroup, PortGroups, Position, State, Support};
use crate::scsi::sense::key;
use crate::scsi::{Class, Sense};
use crate::session::Session;
use crate::session::api::Notice;
use crate::session::group::TargetId;
use crate::session::nexus::{ConnState, HOME, NexusId, NexusState};
use crate::session::tasks::{Origin, Task, TaskKey};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long a command waits for access at most. So long a transition may take, if the target does not say.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two questions while something is about to change: doubled from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// While nothing is about to change and not every path is optimized.
const SLOW: Duration = Duration::from_secs(30);
/// So often a command is run again that was refused for the state of a port.
const MOST_REFUSALS: u32 = 12;
/// Changes told of one unit within [`FLOOD`].
const MOST_TOLD: u32 = 32;
const FLOOD: Duration = Duration::from_secs(60);

/// How good a path is for the medium; the better, the less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::session) enum Grade {
    Optimized,
    NonOptimized,
}

/// Where one nexus stands with a unit.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// The target that it is with.
    pub(super) target: TargetId,
    pub(super) position: Position,
    /// The LUN there.
    pub(super) there: Lun,
    /// Its unit has home's name.
    pub(super) recognised: bool,
    /// By the newest answer.
    reported: Option<State>,
    /// By a refusal, and when; until an answer to a later question.
    refused: Option<(State, Instant)>,
}

impl Standing {
    /// What is not known is taken to be optimized: a refusal will tell.
    fn state(&self) -> State {
        self.refused.map(|(state, _)| state).or(self.reported).unwrap_or(State::Optimized)
    }
}

/// Asymmetric access of one unit.
#[derive(Debug, Default)]
pub(super) struct Access {
    pub(super) support: Support,
    /// The target does not know the extended header.
    pub(super) short_header: bool,
    /// The newest answer of each target, and when it was asked for.
    groups: BTreeMap<TargetId, (PortGroups, Option<Instant>)>,
    pub(super) standings: BTreeMap<NexusId, Standing>,
    /// When to ask again, and the pause after that.
    pub(super) ask_at: Option<Instant>,
    pause: Duration,
    last_asked: Option<Instant>,
    pub(super) starvation: Starvation,
    pub(super) transition: Transition,
    /// Changes told, since when.
    told: Option<(Instant, u32)>,
}

impl Access {
    /// Whether all nexuses are alike.
    fn is_plain(&self) -> bool {
        self.standings.is_empty()
    }

    pub(super) fn state(&self, nexus: NexusId) -> State {
        self.standings.get(&nexus).map_or(State::Optimized, Standing::state)
    }

    /// Whether a nexus gives access, as far as is known: what it said before it was lost, or its LUNs changed, may be of
    /// another unit's port.
    pub(super) fn may_serve(&self, nexus: NexusId) -> bool {
        self.standings.get(&nexus).is_none_or(|s| !s.recognised || s.state().is_active())
    }

    /// A further nexus may show another unit under the LUN.
    pub(super) fn forget(&mut self, nexus: NexusId) {
        if let Some(standing) = self.standings.get_mut(&nexus) {
            standing.recognised = false;
        }
    }

    /// How long a transition may take.
    pub(super) fn transition_time(&self) -> Duration {
        match self.groups.values().map(|(groups, _)| groups.transition_seconds).max() {
            None | Some(0) => PATIENCE,
            Some(seconds) => Duration::from_secs(u64::from(seconds)),
        }
    }

    /// The port group that a nexus is in, as the target said last.
    pub(super) fn group_of(&self, standing: &Standing) -> Option<&PortGroup> {
        self.groups.get(&standing.target)?.0.group_of(standing.position)
    }

    /// The question is asked as soon as the pause after the last one has passed.
    pub(super) fn want_answer(&mut self, now: Instant) -> Instant {
        let due = self.last_asked.map_or(now, |at| (at + self.pause).max(now));
        let at = self.ask_at.map_or(due, |at| at.min(due));
        self.ask_at = Some(at);
        at
    }

    fn note_asked(&mut self, now: Instant) {
        (self.ask_at, self.last_asked) = (None, Some(now));
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
    }

    /// Whether a group of a nexus is transitioning.
    pub(super) fn is_changing(&self) -> bool {
        self.standings.values().any(|s| s.state() == State::Transitioning)
    }

    /// Whether any group of a target in use is, one that no nexus has at the moment perhaps.
    pub(super) fn is_unsettled(&self) -> bool {
        let in_use = |target: TargetId| self.standings.values().any(|s| s.target == target);
        let moves = |groups: &PortGroups| groups.groups.iter().any(|g| g.state == State::Transitioning);
        self.is_changing() || self.groups.iter().any(|(target, (groups, _))| in_use(*target) && moves(groups))
    }

    /// When the newest answer of a target was asked for.
    fn answered(&self, target: TargetId) -> Option<Instant> {
        self.groups.get(&target).and_then(|(_, answered)| *answered)
    }

    /// Whether no path can become better.
    fn is_even(&self) -> bool {
        self.standings.values().all(|s| matches!(s.state(), State::Optimized | State::LbaDependent))
    }

    /// Takes a target's answer to a question of `asked`; none if it refused to tell. Returns what changed, by nexus.
    fn take(
        &mut self,
        target: TargetId,
        answer: Option<PortGroups>,
        asked: Instant,
    ) -> Vec<(NexusId, State, State)> {
        let (groups, answered) = self.groups.entry(target).or_default();
        if answered.is_some_and(|at| at > asked) {
            return Vec::new();
        }
        if let Some(answer) = answer {
            *groups = answer;
        }
        *answered = Some(asked);
        let mut changes = Vec::new();
        for (nexus, standing) in self.standings.iter_mut().filter(|(_, s)| s.target == target) {
            let before = standing.state();
            standing.reported = groups.group_of(standing.position).map(|g| g.state);
            standing.refused.take_if(|(_, at)| *at <= asked);
            let after = standing.state();
            if before != after {
                changes.push((*nexus, before, after));
            }
        }
        changes
    }

    /// Whether a change may be told once more.
    fn may_tell(&mut self, now: Instant) -> bool {
        let (since, count) = self.told.filter(|(since, _)| now < *since + FLOOD).unwrap_or((now, 0));
        self.told = Some((since, count + 1));
        count < MOST_TOLD
    }
}

/// What a state means to those who wait: access, a change, or neither.
fn kind(state: State) -> (bool, bool) {
    (state.is_active(), state == State::Transitioning)
}

/// The state of the port for which a command was refused, if it was.
fn refusal(response: &ScsiResponse) -> Option<State> {
    let sense = response.sense().and_then(|s| Sense::parse(&s)).filter(|s| s.key == key::NOT_READY)?;
    State::from_refusal(sense.asc, sense.ascq)
}

/// Whether a response says that states have changed, or could not be.
fn tells_change(response: &ScsiResponse) -> bool {
    let sense = response.sense().and_then(|s| Sense::parse(&s));
    sense.is_some_and(|s| s.is_unit_attention() && s.asc == 0x2a && matches!(s.ascq, 0x06 | 0x07))
}

impl ScsiResponse {
    /// Whether a command was not run for the state of the port that it came through.
    pub(in crate::session) fn is_access_refusal(&self) -> bool {
        refusal(self).is_some()
    }
}

impl Session {
    /// Whether the unit's ports may differ in what they give access to.
    pub(in crate::session) fn is_asymmetric(&self, lun: Lun) -> bool {
        self.units.get(&lun).is_some_and(|u| !u.access.is_plain())
    }

    /// Whether home has said who the unit is, and not that its ports may differ.
    pub(in crate::session) fn is_symmetric(&self, lun: Lun) -> bool {
        self.units.get(&lun).is_some_and(|u| u.facts.is_some() && u.access.is_plain())
    }

    /// In which state a nexus' port is, if the target told.
    pub(in crate::session) fn told_state(&self, lun: Lun, nexus: NexusId) -> Option<State> {
        let standing = self.units.get(&lun)?.access.standings.get(&nexus)?;
        standing.recognised.then(|| standing.state())
    }

    /// How good a nexus is for the unit's medium; none if it gives no access to it.
    pub(in crate::session) fn grade(&self, lun: Lun, nexus: NexusId) -> Option<Grade> {
        let state = self.units.get(&lun).map_or(State::Optimized, |u| u.access.state(nexus));
        match state {
            State::Optimized | State::LbaDependent => Some(Grade::Optimized),
            State::NonOptimized => Some(Grade::NonOptimized),
            _ if broken!(self.rules, StandbyUsed) => Some(Grade::NonOptimized),
            State::Standby | State::Unavailable | State::Offline | State::Transitioning => None,
        }
    }

    /// The best of the nexuses that may carry the unit, whether or not they have room at the moment; none if none of them
    /// gives access to its medium.
    pub(in crate::session) fn best_grade(&self, lun: Lun, class: &Class) -> Option<Grade> {
        if !self.is_asymmetric(lun) {
            return Some(Grade::Optimized);
        }
        let in_service = |nexus| self.nexus(nexus).is_some_and(|n| n.state == NexusState::Up);
        let up = self.conns.iter().filter(|c| c.state == ConnState::Up && in_service(c.nexus));
        up.filter(|c| self.unit_usable(lun, c.nexus, class)).filter_map(|c| self.grade(lun, c.nexus)).min()
    }

    /// Whether a nexus is as good for the unit as its best.
    pub(in crate::session) fn has_grade(&self, lun: Lun, nexus: NexusId, best: Grade) -> bool {
        self.grade(lun, nexus) == Some(best)
    }

    /// Whether home's port does not give access to what a command needs, so that it goes elsewhere.
    pub(in crate::session) fn is_shut_out(&self, task: &Task) -> bool {
        let Some(unit) = self.units.get(&task.lun).filter(|u| !u.access.is_plain()) else { return false };
        let needs = match task.command.class {
            Class::Read(_)
            | Class::Write(_)
            | Class::WriteAnywhere(_)
            | Class::WriteOnce(_)
            | Class::Flush(_)
            | Class::Survey(_) => true,
            Class::Query | Class::Stateless | Class::Barrier => task.refusals > 0,
            Class::Reservation => false,
        };
        needs && !unit.access.state(HOME).is_active() && task.refusals <= MOST_REFUSALS
    }

    /// Since when everything is told that the unit's targets, of those that can be asked, would tell of their states; none if
    /// one of them has not told anything yet, or none can be asked.
    pub(super) fn states_told_since(&self, lun: Lun) -> Option<Instant> {
        let access = &self.units.get(&lun)?.access;
        self.nexuses_to_ask(lun).into_keys().map(|target| access.answered(target)).min().flatten()
    }

    /// A command was answered: what that says of access states.
    pub(in crate::session) fn note_access(
        &mut self,
        lun: Lun,
        nexus: NexusId,
        response: &ScsiResponse,
        now: Instant,
    ) {
        let Some(state) = refusal(response) else {
            if tells_change(response) {
                self.ask_access(lun, now);
            }
            return;
        };
        let path = self.path_of(nexus);
        let Some(unit) = self.units.get_mut(&lun) else { return };
        let standing = unit.access.standings.entry(nexus).or_default();
        let before = standing.state();
        standing.refused = Some((state, now));
        if kind(before) != kind(state) {
            unit.access.starvation.end();
        }
        if before != state && unit.access.may_tell(now) {
            self.note(Notice::AccessChanged { path, lun: lun.number(), from: before, to: state });
        }
        self.ask_access(lun, now);
    }

    /// The target is to be asked for its states.
    pub(in crate::session) fn ask_access(&mut self, lun: Lun, now: Instant) {
        let Some(unit) = self.units.get_mut(&lun) else { return };
        let at = unit.access.want_answer(now);
        self.access_at = Some(self.access_at.map_or(at, |other| other.min(at)));
    }

    /// A command of the initiator was refused for the state of a port, if it was: it has not run. Returns whether it runs
    /// again.
    pub(in crate::session) fn refused(
        &mut self,
        task_key: TaskKey,
        nexus: NexusId,
        response: &ScsiResponse,
        now: Instant,
    ) -> bool {
        let Some(task) = self.tasks.get_mut(task_key).filter(|_| response.is_access_refusal()) else {
            return false;
        };
        task.refusals += 1;
        let (lun, worn_out) = (task.lun, task.refusals > MOST_REFUSALS);
        let (class, arrived) = (task.command.class.clone(), task.arrived);
        let bound = class == Class::Reservation;
        let may = !bound && !worn_out;
        let again = may
            && (self.best_grade(lun, &class).is_some() || self.waits_for_access(lun, &class, arrived, now));
        if again {
            self.put_back(task_key);
        } else if nexus != HOME {
            self.move_to_home(task_key);
        }
        again || nexus != HOME
    }

    /// An answer to REPORT TARGET PORT GROUPS over a nexus whose unit has home's name; none if it was refused.
    pub(super) fn access_told(
        &mut self,
        (nexus, lun): (NexusId, Lun),
        answer: Option<PortGroups>,
        asked: Instant,
        now: Instant,
    ) {
        let target = self.target_asked(nexus);
        let Some(unit) = self.units.get_mut(&lun) else { return };
        unit.access.last_asked = unit.access.last_asked.max(Some(asked));
        // Without an answer a refusal holds no longer than to the next question.
        let changes = unit.access.take(target, answer, asked);
        for (nexus, from, to) in changes {
            let path = self.path_of(nexus);
            if self.units.get_mut(&lun).is_some_and(|u| u.access.may_tell(now)) {
                self.note(Notice::AccessChanged { path, lun: lun.number(), from, to });
            }
            if kind(from) != kind(to)
                && let Some(unit) = self.units.get_mut(&lun)
            {
                // Things move: whoever waits goes on waiting.
                unit.access.starvation.end();
            }
            if to.is_active() {
                self.prove(nexus, lun, now);
            }
        }
        self.transition_seen(lun, now);
        self.schedule_access(lun, now);
        self.changed = true;
    }

    /// When the target is asked next, by what it said last.
    fn schedule_access(&mut self, lun: Lun, now: Instant) {
        let best = self.best_grade(lun, &SOME_READ);
        let Some(unit) = self.units.get_mut(&lun).filter(|u| u.access.support.any()) else { return };
        let access = &mut unit.access;
        let refused = access.standings.values().any(|s| s.refused.is_some());
        let soon = refused || access.is_unsettled() || access.starvation.since.is_some();
        let at = if soon {
            access.want_answer(now)
        } else {
            access.pause = FIRST_PAUSE;
            if best == Some(Grade::Optimized) && access.is_even() {
                return;
            }
            *access.ask_at.get_or_insert(now + SLOW)
        };
        self.access_at = Some(self.access_at.map_or(at, |other| other.min(at)));
    }

    /// Does what is due: asks, and makes a group active. Commands that waited long enough are sent by the caller.
    pub(in crate::session) fn check_access(&mut self, now: Instant) {
        if self.access_at.is_none_or(|at| at > now) || self.finishing.is_some() {
            return;
        }
        self.access_at = None;
        let luns: Vec<Lun> = self.units.keys().copied().collect();
        let mut next: Option<Instant> = None;
        for lun in luns {
            if let Some(unit) = self.units.get_mut(&lun) {
                let writes = unit.access.starvation.writes;
                let waits = |t: &Task| {
                    let initiators = t.lun == lun && matches!(t.origin, Origin::Initiator { .. });
                    initiators && !(writes && t.command.class.only_reads())
                };
                if !self.tasks.iter().any(|(_, t)| waits(t)) {
                    // Those that waited are gone.
                    unit.access.starvation.end();
                }
            }
            self.ask_if_due(lun, now);
            let starved = self.units.get(&lun).is_some_and(|u| u.access.starvation.since.is_some());
            if starved && self.home_state() == NexusState::Up {
                // It may be in use for the first time, and nothing is known of other ports yet.
                self.unit_used(lun, now);
            }
            let transition = self.transition_if_due(lun, now);
            let Some(unit) = self.units.get(&lun) else { continue };
            let patience = self.patience(lun);
            let waits = unit.access.starvation.since.map(|since| since + patience);
            let times = [unit.access.ask_at, transition, waits.filter(|at| *at > now)];
            next = times.into_iter().flatten().chain(next).min();
        }
        self.dispatch(now);
        // What came up meanwhile is looked at a little later, so that nothing turns without end.
        let soon = now + Duration::from_millis(1);

        self.access_at = self.access_at.into_iter().chain(next).min().map(|at| at.max(soon));
    }

    fn ask_if_due(&mut self, lun: Lun, now: Instant) {
        let Some(unit) = self.units.get(&lun) else { return };
        if unit.access.ask_at.is_none_or(|at| at > now) {
            return;
        }
        let mut nexuses = if unit.access.support.any() { self.nexuses_to_ask(lun) } else { BTreeMap::new() };
        // One that is being asked says itself when to ask again.
        let under_way = self.checks.iter().filter(|c| c.lun == lun && c.is_about_access());
        let asked: Vec<TargetId> = under_way.map(|c| self.target_asked(c.nexus)).collect();
        nexuses.retain(|target, _| !asked.contains(target));
        let rules = self.rules;
        let Some(unit) = self.units.get_mut(&lun) else { return };
        if broken!(rules, AccessNotAskedAgain) {
            unit.access.ask_at = None;
            return;
        }
        if nexuses.is_empty() && !asked.is_empty() {
            unit.access.ask_at = Some(now + LONGEST_PAUSE);
            return;
        }
        unit.access.note_asked(now);
        if !unit.access.support.any() {
            // A target that does not tell of states: whoever was refused may try again.
            for target in unit.access.standings.values().map(|s| s.target).collect::<BTreeSet<_>>() {
                unit.access.take(target, Some(PortGroups::default()), now);
            }
        } else if nexuses.is_empty() {
            unit.access.ask_at = Some(now + LONGEST_PAUSE);
        }
        for (nexus, there) in nexuses.into_values() {
            let id = self.new_check(nexus, (lun, there), Step::Access, Reach::Access);
            self.ask(id, now);
        }
    }

    /// The nexuses over which a unit's targets can be asked, one for each, and its LUN there: home, or one whose unit has
    /// home's name.
    fn nexuses_to_ask(&self, lun: Lun) -> BTreeMap<TargetId, (NexusId, Lun)> {
        let up = |nexus: NexusId| self.nexus(nexus).is_some_and(|n| n.state == NexusState::Up);
        let mut found: BTreeMap<TargetId, (NexusId, Lun)> = BTreeMap::new();
        for (nexus, standing) in self.units.get(&lun).iter().flat_map(|unit| &unit.access.standings) {
            if standing.recognised && up(*nexus) {
                found.entry(standing.target).or_insert((*nexus, standing.there));
            }
        }
        found
    }

    /// Whose port groups a nexus tells of.
    pub(super) fn target_asked(&self, nexus: NexusId) -> TargetId {
        let target = self.group_in(nexus).map_or(0, |g| g.target);
        if broken!(self.rules, StatesOfAnotherTarget) { 0 } else { target }
    }

    /// When [`Session::check_access`] is due.
    pub(in crate::session) fn access_deadline(&self) -> Option<Instant> {
        self.access_at.filter(|_| self.finishing.is_none())
    }
}

impl Unit {
    /// Where a nexus whose unit has home's name stands.
    pub(super) fn note_position(
        &mut self,
        (nexus, there): (NexusId, Lun),
        target: TargetId,
        position: Position,
        support: Support,
    ) {
        self.access.support = support;
        if support.any() {
            let groups = self.access.groups.get(&target);
            let reported = groups.and_then(|(groups, _)| groups.group_of(position)).map(|g| g.state);
            let standing = self.access.standings.entry(nexus).or_default();
            (standing.target, standing.position, standing.there) = (target, position, there);
            (standing.reported, standing.recognised) = (reported, true);
        }
    }
}
