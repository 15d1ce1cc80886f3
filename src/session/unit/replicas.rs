//! Registering further nexuses as home is, and asking home how it is registered: what [`super::registration`] says must be
//! done, one command after the other.
//!
//! # Contract
//! [`Session::tend_registrations`] takes the next step wherever one is possible; it is called whenever something has changed.
//! All commands are Braid's own ([`Origin::Registration`]); one unit has one piece of [`Work`] under way at a time.

use super::Unit;
use super::proof::Proof;
use super::registration::{MOST_KEYS, Replica, Standing, State, Work};
use crate::iscsi::{Cdb, Lun, ScsiResponse};
use crate::scsi::Sense;
use crate::scsi::reservation::{self, Question, Request, action};
use crate::scsi::sense::{key, status};
use crate::session::Session;
use crate::session::nexus::{HOME, NexusId, NexusState};
use crate::session::tasks::{Origin, Task, TaskKey};
use std::time::{Duration, Instant};

/// How long the initiator's answer waits for replicas, and a piece of work for the target.
const PATIENCE: Duration = Duration::from_secs(5);
/// So often a command is repeated that met a unit attention or a busy target.
const MOST_REPEATS: u32 = 32;
/// Name of the command that changes registrations.
const OUT: &str = "PERSISTENT RESERVE OUT";
/// Longest answer taken, in bytes.
const ANSWER: u16 = 0xfffc;

/// Whether a task of the initiator changes or shows registrations.
pub(in crate::session) fn meets_registrations(task: &Task) -> bool {
    matches!(task.origin, Origin::Initiator { .. })
        && (task.command.name == OUT
            || Question::parse(&task.cdb.0).is_some_and(Question::shows_registrations))
}

impl Session {
    /// Whether a command of the initiator must wait until Braid's own are answered.
    pub(in crate::session) fn waits_for_registrations(&self, task: &Task) -> bool {
        meets_registrations(task)
            && self.units.get(&task.lun).is_some_and(|unit| unit.registrations.work.is_some())
    }

    /// A reservation command of the initiator's ended well on home. Returns whether its answer waits for replicas.
    pub(super) fn persistent_changed(&mut self, key: TaskKey, now: Instant) -> bool {
        let Some((lun, seq, request)) = self.tasks.get(key).map(|t| (t.lun, t.seq, t.persistent_request()))
        else {
            return false;
        };
        self.changed = true;
        let Some(unit) = self.units.get_mut(&lun) else { return false };
        match request {
            Some(request) => unit.registrations.changed_by(&request),
            None => unit.registrations.doubt(None),
        }
        let pending = !self.unserved(lun).is_empty();
        let Some(unit) = self.units.get_mut(&lun) else { return false };
        let waits = pending && unit.registrations.answer.is_none();
        if waits {
            unit.registrations.answer = Some((key, seq, now));
        }
        waits
    }

    /// A reservation command of the initiator's ended without a word of what it did; `ghost` may still execute.
    pub(in crate::session) fn persistent_doubted(
        &mut self,
        lun: Lun,
        request: Option<Request>,
        ghost: Option<u64>,
    ) {
        let (Some(unit), Some(request)) = (self.units.get_mut(&lun), request) else { return };
        self.changed = true;
        let registers = matches!(request.action, action::REGISTER | action::REGISTER_AND_IGNORE);
        unit.registrations.doubt(registers.then_some(request.service_key));
        unit.registrations.ghost = ghost.or(unit.registrations.ghost);
    }

    /// A command with these parameters did not end well, and may have done something all the same.
    pub(super) fn may_have_changed(response: &ScsiResponse) -> bool {
        let sense = || response.sense().and_then(|s| Sense::parse(&s));
        match response.status {
            status::TASK_ABORTED => true,
            status::CHECK_CONDITION => sense().is_none_or(|s| {
                !matches!(s.key, key::UNIT_ATTENTION | key::ILLEGAL_REQUEST | key::NOT_READY)
            }),
            _ => response.response != 0,
        }
    }

    /// Another initiator may have changed what home is: until home has been asked, only home is used.
    pub(in crate::session) fn registrations_doubted(&mut self, lun: Lun) {
        let Some(registrations) = self.units.get_mut(&lun).map(|unit| &mut unit.registrations) else {
            return;
        };
        self.changed = true;
        registrations.suspect = registrations.work.is_some();
        if let (Standing::Registered(key), None) = (&registrations.standing, &registrations.work) {
            registrations.standing = Standing::Unknown { keys: vec![*key], complete: true };
        }
    }

    /// A further nexus shows home's unit; `any`: somebody is registered there.
    pub(super) fn keys_seen(&mut self, lun: Lun, nexus: NexusId, any: bool) {
        self.changed = true;
        let Some(registrations) = self.units.get_mut(&lun).map(|unit| &mut unit.registrations) else {
            return;
        };
        let replica = registrations.replicas.entry(nexus).or_default();
        if !any && replica.ghost.is_none() {
            (replica.state, replica.key) = (State::Clear, None);
        }
        if registrations.standing == Standing::Unasked {
            registrations.standing =
                if any { Standing::Unknown { keys: Vec::new(), complete: false } } else { Standing::Free };
        }
    }

    /// A nexus was lost, and with it what was under way there.
    pub(super) fn registrations_lost(&mut self, nexus: NexusId, now: Instant) {
        for lun in self.units.keys().copied().collect::<Vec<_>>() {
            let Some(registrations) = self.units.get_mut(&lun).map(|u| &mut u.registrations) else {
                continue;
            };
            if let Some(replica) = registrations.replicas.get_mut(&nexus) {
                (replica.state, replica.overdue) = (State::Unknown, false);
                replica.key = replica.pending.take().or(replica.key);
                replica.inherited = true;
            }
            match &mut registrations.work {
                Some(Work::Replicas(waiting)) => waiting.retain(|n| *n != nexus),
                Some(_) if nexus == HOME => registrations.work = None,
                Some(_) | None => {}
            }
            if registrations.work == Some(Work::Replicas(Vec::new())) {
                registrations.work = None;
            }
            if nexus == HOME {
                registrations.recalling = false;
                self.give_answer(lun, now);
            }
            self.let_go(lun);
        }
    }

    /// A command of Braid's own that may change a registration was lost, and left this ghost.
    pub(in crate::session) fn registration_haunted(&mut self, lun: Lun, nexus: NexusId, ghost: u64) {
        if let Some(unit) = self.units.get_mut(&lun) {
            unit.registrations.replicas.entry(nexus).or_default().ghost = Some(ghost);
        }
    }

    /// Forgets ghosts that are laid.
    fn lay_registration_ghosts(&mut self, lun: Lun) {
        let ghosts = &self.ghosts;
        let laid = |ghost: &mut u64| !ghosts.iter().any(|g| g.id == *ghost);
        let Some(registrations) = self.units.get_mut(&lun).map(|u| &mut u.registrations) else { return };
        registrations.ghost.take_if(laid);
        registrations.replicas.values_mut().for_each(|r| _ = r.ghost.take_if(laid));
    }

    /// Home is back: asks whether its registration is. Returns whether home has to wait for that.
    pub(super) fn recall_registration(&mut self, lun: Lun, loss_told: bool) {
        let Some(registrations) = self.units.get_mut(&lun).map(|u| &mut u.registrations) else { return };
        registrations.recalling = registrations.may_be_lost();
        (registrations.held_at_loss, registrations.loss_told) = (registrations.holds, loss_told);
        if let Standing::Registered(key) = registrations.standing {
            registrations.standing = Standing::Unknown { keys: vec![key], complete: true };
        }
        self.changed = true;
    }

    /// Whether home waits for an answer that concerns its own registration.
    pub(super) fn is_recalling(&self) -> bool {
        self.units.values().any(|unit| unit.registrations.recalling)
    }

    /// Takes the next step for every unit that needs one.
    pub(in crate::session) fn tend_registrations(&mut self, now: Instant) {
        let restless = |(lun, unit): (&Lun, &Unit)| (!unit.registrations.is_quiet()).then_some(*lun);
        for lun in self.units.iter().filter_map(restless).collect::<Vec<_>>() {
            self.tend(lun, now);
        }
    }

    fn tend(&mut self, lun: Lun, now: Instant) {
        self.lay_registration_ghosts(lun);
        let at_target = |t: &Task| t.lun == lun && t.run.is_some() && meets_registrations(t);
        let busy = self.tasks.iter().any(|(_, t)| at_target(t));
        let Some(registrations) = self.units.get(&lun).map(|u| &u.registrations) else { return };
        if registrations.work.is_some() || self.finishing.is_some() {
            return;
        }
        if busy {
            self.let_go(lun);
            return;
        }
        let next = match registrations.standing {
            Standing::Unknown { .. } => self.next_question(lun),
            Standing::Free | Standing::Registered(_) => self.next_round(lun),
            Standing::Unasked | Standing::Untold => None,
        };
        match next {
            Some(work) => self.begin(lun, work, now),
            None => self.settled(lun, now),
        }
    }

    /// What home is asked next to learn its standing.
    fn next_question(&mut self, lun: Lun) -> Option<Work> {
        let settling = self.home_state() == NexusState::Settling;
        let checked = !self.checks.iter().any(|c| c.nexus == HOME && c.lun == lun);
        let registrations = &mut self.units.get_mut(&lun)?.registrations;
        let ready = self.nexuses.first().is_some_and(|n| n.state == NexusState::Up)
            || settling && registrations.recalling && checked;
        if !ready || registrations.ghost.is_some() {
            return None;
        }
        let Standing::Unknown { keys, complete } = &registrations.standing else { return None };
        match keys.last() {
            Some(key) if *complete => Some(Work::Touch(*key)),
            _ if !complete => Some(Work::Keys),
            _ => {
                registrations.stand(Standing::Free);
                self.next_round(lun)
            }
        }
    }

    /// Further nexuses that are not as home's standing asks for and can be made so.
    fn unserved(&self, lun: Lun) -> Vec<NexusId> {
        let Some(unit) = self.units.get(&lun).filter(|_| self.home_state() == NexusState::Up) else {
            return Vec::new();
        };
        let registrations = &unit.registrations;
        let stray = |n: &NexusId| {
            let able = |r: &&Replica| r.ghost.is_none() && !r.overdue;
            let Some(replica) = registrations.replicas.get(n).filter(able) else { return false };
            let served = match registrations.standing {
                Standing::Free if broken!(self.rules, ReplicasLeft) => true,
                Standing::Free => matches!(replica.state, State::Clear | State::Refused),
                Standing::Registered(key) => {
                    !unit.replicates()
                        || replica.state == State::Member(key)
                        || replica.state == State::Refused
                }
                Standing::Unasked | Standing::Unknown { .. } | Standing::Untold => true,
            };
            let up = self.nexus(*n).is_some_and(|nexus| nexus.state == NexusState::Up);
            let inherited = self.ghosts.iter().any(|g| g.inherited && g.nexus == *n && g.lun == lun);
            !served && up && !inherited && unit.proofs.get(n) == Some(&Proof::Proved)
        };
        registrations.replicas.keys().copied().filter(|n| stray(n)).collect()
    }

    /// Whether nothing is to be done on behalf of a unit's registrations, as far as is known.
    pub(super) fn registrations_settled(&self, lun: Lun) -> bool {
        let still = |unit: &Unit| {
            unit.registrations.work.is_none()
                && !matches!(unit.registrations.standing, Standing::Unknown { .. })
        };
        self.units.get(&lun).is_some_and(still) && self.unserved(lun).is_empty()
    }

    /// Registers what is not registered, or verifies what is.
    fn next_round(&mut self, lun: Lun) -> Option<Work> {
        let unserved = self.unserved(lun);
        let registrations = &self.units.get(&lun)?.registrations;
        let key = registrations.key();
        let registered = |n: &NexusId| {
            let state = registrations.replicas.get(n).map(|r| r.state);
            key.is_some_and(|key| state == Some(State::Registered(key)))
        };
        let strangers: Vec<NexusId> = unserved.iter().copied().filter(|n| !registered(n)).collect();
        match key {
            _ if !strangers.is_empty() => Some(Work::Replicas(strangers)),
            Some(key) if !unserved.is_empty() => Some(Work::Touch(key)),
            _ => None,
        }
    }

    fn begin(&mut self, lun: Lun, work: Work, now: Instant) {
        // The initiator's own wait meanwhile.
        let queued = |t: &Task| t.lun == lun && t.queued && meets_registrations(t);
        for key in self.tasks.select(queued) {
            self.unqueue(key);
            if let Some(task) = self.tasks.get_mut(key) {
                task.queued = false;
            }
        }
        let Some(registrations) = self.units.get_mut(&lun).map(|u| &mut u.registrations) else { return };
        let aptpl = registrations.aptpl;
        let wanted = registrations.key().unwrap_or(0);
        (registrations.work, registrations.repeats) = (Some(work.clone()), 0);
        registrations.asked_at = Some(now);
        registrations.holds_back = true;
        match work {
            Work::Keys | Work::Capabilities | Work::FullStatus => self.ask_home(lun, &work, now),
            Work::Touch(key) => {
                self.send_request(lun, HOME, &Request::register_over(key, key, aptpl), now);
            }
            Work::Replicas(nexuses) => {
                for nexus in nexuses {
                    // What it was registered with tells whether the target has given that back.
                    let before = self.units.get(&lun).and_then(|u| u.registrations.replicas.get(&nexus)?.key);
                    let request = match before {
                        Some(before) => Request::register_over(before, wanted, aptpl),
                        None => Request::register_anyway(wanted, aptpl),
                    };
                    self.send_request(lun, nexus, &request, now);
                }
            }
        }
    }

    fn ask_home(&mut self, lun: Lun, work: &Work, now: Instant) {
        let question = match work {
            Work::Keys => Question::Keys,
            Work::Capabilities => Question::Capabilities,
            Work::FullStatus => Question::FullStatus,
            Work::Touch(_) | Work::Replicas(_) => return,
        };
        let cdb = Cdb(question.cdb(ANSWER).into_iter().collect());
        self.submit_own(Task::own(Origin::Registration, HOME, lun, cdb, u32::from(ANSWER), now), now);
    }

    fn send_request(&mut self, lun: Lun, nexus: NexusId, request: &Request, now: Instant) {
        if nexus != HOME
            && let Some(unit) = self.units.get_mut(&lun)
        {
            let replica = unit.registrations.replicas.entry(nexus).or_default();
            replica.state = State::Unknown;
            replica.pending = Some(request.service_key).filter(|key| *key != 0);
        }
        let cdb = Cdb(request.cdb().into_iter().collect());
        let task = Task::own_write(Origin::Registration, nexus, lun, cdb, request.parameters(), now);
        self.held += u64::from(task.expected);
        self.submit_own(task, now);
    }

    /// The target ended a command of Braid's own without an answer: whether it was executed is not known.
    pub(in crate::session) fn registration_swept_away(&mut self, lun: Lun, nexus: NexusId, now: Instant) {
        let Some(registrations) = self.units.get(&lun).map(|u| &u.registrations) else { return };
        let (aptpl, wanted) = (registrations.aptpl, registrations.key().unwrap_or(0));
        match registrations.work.clone() {
            Some(Work::Replicas(waiting)) if waiting.contains(&nexus) => {
                self.send_request(lun, nexus, &Request::register_anyway(wanted, aptpl), now);
            }
            Some(work) if nexus == HOME => self.begin(lun, work, now),
            Some(_) | None => {}
        }
    }

    /// An answer to a command of Braid's own.
    pub(in crate::session) fn registration_answered(
        &mut self,
        task: &Task,
        response: &ScsiResponse,
        now: Instant,
    ) {
        let Some(nexus) = task.only_nexus else { return };
        let lun = task.lun;
        let Some(registrations) = self.units.get_mut(&lun).map(|u| &mut u.registrations) else { return };
        let awaited = match &registrations.work {
            Some(Work::Replicas(waiting)) => waiting.contains(&nexus),
            Some(_) => nexus == HOME,
            None => false,
        };
        let attention = response.is_attention();
        let busy = matches!(response.status, status::BUSY | status::TASK_SET_FULL | status::TASK_ABORTED);
        if let Some(replica) = registrations.replicas.get_mut(&nexus).filter(|_| !awaited) {
            // Late: what it did is found out by the next round.
            replica.overdue = false;
            replica.key = replica.pending.take().or(replica.key);
            self.changed = true;
        }
        if attention {
            let sent_at = task.run.as_ref().map_or(now, |r| r.sent_at);
            self.attention_met(nexus, lun, response, sent_at);
            if nexus != HOME && response.says_luns_changed() {
                // It may be another unit by now.
                self.attention_doubts(lun, nexus, (response, sent_at), now);
                return;
            }
            let doubtful = self.attentions(lun).is_some_and(|a| a.is_doubtful());
            if nexus != HOME && doubtful {
                self.attention_doubts(lun, nexus, (response, sent_at), now);
            }
        }
        let Some(registrations) = self.units.get_mut(&lun).map(|u| &mut u.registrations).filter(|_| awaited)
        else {
            return;
        };
        registrations.repeats += u32::from(attention || busy);
        if (attention || busy) && registrations.repeats <= MOST_REPEATS {
            match task.persistent_request() {
                Some(request) => self.send_request(lun, nexus, &request, now),
                None => {
                    let again =
                        Task::own(Origin::Registration, nexus, lun, task.cdb.clone(), task.expected, now);
                    self.submit_own(again, now);
                }
            }
            return;
        }
        self.changed = true;
        if nexus == HOME {
            self.home_told(lun, &task.collected, response, now);
        } else if let Some(request) = task.persistent_request() {
            self.replica_told(lun, nexus, &request, response, now);
        }
    }

    fn replica_told(
        &mut self,
        lun: Lun,
        nexus: NexusId,
        request: &Request,
        response: &ScsiResponse,
        now: Instant,
    ) {
        let rules = self.rules;
        let Some(registrations) = self.units.get_mut(&lun).map(|u| &mut u.registrations) else { return };
        let aptpl = registrations.aptpl;
        let replica = registrations.replicas.entry(nexus).or_default();
        let key = Some(request.service_key).filter(|key| *key != 0);
        replica.pending = None;
        match response.status {
            _ if response.response != 0 => replica.state = State::Refused,
            status::GOOD => {
                replica.key = key;
                replica.inherited = false;
                registrations.orphans.extend(replica.disowned.take());
                registrations.orphans.truncate(MOST_KEYS);
                replica.state = match key {
                    Some(key) if broken!(rules, VerificationSkipped) => State::Member(key),
                    Some(key) => State::Registered(key),
                    None => State::Clear,
                };
            }
            status::RESERVATION_CONFLICT if request.action == action::REGISTER => {
                // The target has not given back what the nexus had, or somebody took it away: for certain, if the nexus has
                // lived on since it registered.
                replica.disowned = Some(request.key).filter(|_| replica.inherited);
                self.send_request(lun, nexus, &Request::register_anyway(request.service_key, aptpl), now);
                return;
            }
            _ => replica.state = State::Refused,
        }
        if let Some(Work::Replicas(waiting)) = &mut registrations.work {
            waiting.retain(|n| *n != nexus);
            if waiting.is_empty() {
                self.done(lun);
            }
        }
    }

    fn home_told(&mut self, lun: Lun, data: &[u8], response: &ScsiResponse, now: Instant) {
        let Some(work) = self.units.get(&lun).and_then(|u| u.registrations.work.clone()) else { return };
        let good = response.response == 0 && response.status == status::GOOD;
        let Some(registrations) = self.units.get_mut(&lun).map(|u| &mut u.registrations) else { return };
        match work {
            Work::Keys if good && reservation::keys(data).next().is_none() => registrations.all_vanished(),
            Work::Keys if good => {
                self.begin(lun, Work::Capabilities, now);
                return;
            }
            Work::Capabilities => {
                registrations.aptpl |= good && reservation::persists(data);
                self.begin(lun, Work::FullStatus, now);
                return;
            }
            Work::FullStatus if good => self.full_status_told(lun, data),
            Work::Keys | Work::FullStatus => registrations.stand(Standing::Untold),
            Work::Touch(key) => registrations.touched(key, response, self.rules),
            Work::Replicas(_) => return,
        }
        self.done(lun);
    }

    /// Who is registered: home under which key, and which replicas.
    fn full_status_told(&mut self, lun: Lun, data: &[u8]) {
        let name = &self.plan.home.initiator_name;
        let all = reservation::registrations(data);
        let of = |isid: [u8; 6]| {
            all.iter().filter(move |r| r.port.as_ref().is_some_and(|port| port.is(name, isid)))
        };
        let Some(registrations) = self.units.get_mut(&lun).map(|u| &mut u.registrations) else { return };
        let home = self.nexuses.first().map_or([0; 6], |n| n.isid.0);
        let mut keys: Vec<u64> = of(home).map(|r| r.key).take(MOST_KEYS).collect();
        keys.extend(registrations.keys());
        registrations.holds = of(home).find_map(|r| r.holds).or(registrations.holds);
        for (nexus, replica) in registrations.replicas.iter_mut().filter(|(_, r)| r.ghost.is_none()) {
            let Some(isid) = self.nexuses.get(*nexus).map(|n| n.isid.0) else { continue };
            replica.key = of(isid).map(|r| r.key).next_back();
            // It may be left from before the nexus' login.
            replica.inherited = true;
            replica.state = if replica.key.is_some() { State::Unknown } else { State::Clear };
        }
        registrations.stand(Standing::Unknown { keys, complete: true });
    }

    /// What was under way is done.
    fn done(&mut self, lun: Lun) {
        let Some(registrations) = self.units.get_mut(&lun).map(|u| &mut u.registrations) else { return };
        registrations.work = None;
        if std::mem::take(&mut registrations.suspect) {
            self.registrations_doubted(lun);
        }
        self.changed = true;
    }

    /// Nothing is left to do for a unit at the moment.
    fn settled(&mut self, lun: Lun, now: Instant) {
        self.give_answer(lun, now);
        self.let_go(lun);
        let checked = !self.checks.iter().any(|c| c.nexus == HOME && c.lun == lun);
        let settling = self.home_state() == NexusState::Settling;
        let Some(registrations) = self.units.get_mut(&lun).map(|u| &mut u.registrations) else { return };
        if checked && settling && std::mem::take(&mut registrations.recalling) {
            let held = registrations.held_at_loss.take();
            if registrations.key().is_none() {
                let told = registrations.loss_told;
                self.registration_gone(lun, told, held.is_some(), now);
            }
            self.home_checked(now);
        }
    }

    /// The initiator gets the answer that waited for replicas.
    fn give_answer(&mut self, lun: Lun, now: Instant) {
        let waiting = self.units.get_mut(&lun).and_then(|unit| unit.registrations.answer.take());
        let Some((key, seq, _)) = waiting else { return };
        let task = self.tasks.get_mut(key).filter(|t| t.seq == seq);
        if let Some(response) = task.and_then(|t| t.held_response.take()) {
            self.respond(key, *response, now);
        }
    }

    /// Commands of the initiator that waited may go.
    fn let_go(&mut self, lun: Lun) {
        let Some(unit) = self.units.get_mut(&lun).filter(|u| u.registrations.work.is_none()) else { return };
        unit.registrations.holds_back = false;
        let waits = |t: &Task| t.lun == lun && t.run.is_none() && meets_registrations(t);
        for key in self.tasks.select(waits) {
            self.queue_if_ready(key);
        }
    }

    /// When an answer that waits for replicas is given all the same, or work is looked after that nobody answers.
    pub(in crate::session) fn registration_deadline(&self) -> Option<Instant> {
        let since = |unit: &Unit| {
            let registrations = &unit.registrations;
            let asked_at = registrations.asked_at.filter(|_| registrations.work.is_some());
            registrations.answer.map(|(_, _, since)| since).into_iter().chain(asked_at).min()
        };
        self.units.values().filter_map(since).min().map(|since| since + PATIENCE)
    }

    /// Targets lose commands, and PREEMPT AND ABORT of another initiator ends them without a word. Home is asked again, which
    /// does no harm; replicas do without I/O until they answer, or their nexus is given up ([`crate::session::stuck`]).
    fn hurry_registrations(&mut self, now: Instant) {
        let late = |unit: &Unit| {
            let asked_at = unit.registrations.asked_at.filter(|at| now >= *at + PATIENCE);
            asked_at.and_then(|_| unit.registrations.work.clone())
        };
        let late: Vec<(Lun, Work)> =
            self.units.iter().filter_map(|(lun, unit)| Some((*lun, late(unit)?))).collect();
        for (lun, work) in late {
            if let Work::Replicas(waiting) = work {
                if let Some(unit) = self.units.get_mut(&lun) {
                    let replicas = unit.registrations.replicas.iter_mut();
                    replicas.filter(|(n, _)| waiting.contains(n)).for_each(|(_, r)| r.overdue = true);
                }
                self.done(lun);
                continue;
            }
            let asked =
                |t: &Task| t.origin == Origin::Registration && t.lun == lun && t.only_nexus == Some(HOME);
            for key in self.tasks.select(asked) {
                self.conclude(key, now);
            }
            self.begin(lun, work, now);
        }
    }

    /// Gives answers that have waited long enough; what is not registered by then does without I/O until it is.
    pub(in crate::session) fn give_late_answers(&mut self, now: Instant) {
        self.hurry_registrations(now);
        let late = |u: &Unit| u.registrations.answer.is_some_and(|(_, _, since)| now >= since + PATIENCE);
        for lun in self.units.iter().filter(|(_, u)| late(u)).map(|(lun, _)| *lun).collect::<Vec<_>>() {
            self.give_answer(lun, now);
        }
    }
}
