//! RESERVE(6) and persistent reservations (SPC-4 section 5.13), and what they show of Braid's doing.
//!
//! A registration is that of a nexus: of an initiator port in a portal group. A target that gives it back hands it to the next
//! session of the port; one that does not leaves it to a session that is gone. Another initiator ([`Deed`]) is registered
//! under a key of its own, or under the same one.
//!
//! Two things are judged. A command that another nexus of the initiator's than home carries must be one that home could
//! have carried too (P3): that is what a registration of a further nexus must never change. And a log of what home would have shown
//! ([`View`]) is kept, so that what the initiator is told can be held against it.

use super::Target;
use super::commands::{Access, Kind, Outcome, illegal};
use super::device::Task;
use super::trigger::Trigger;
use braid::scsi::sense::status;
use std::time::Instant;

/// The ISID of the initiator's own nexus.
pub(crate) const HOME: [u8; 6] = [0, 2, 0x3d, 0, 0, 1];
/// Key of the other initiator, if it has one of its own.
const FOREIGN_KEY: u64 = 0x77;
/// iSCSI name of the other initiator, and its port.
const FOREIGN_PORT: &str = "iqn.2026-11.org.example:other,i,0x00023d000009";

/// Who holds something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    Session(usize),
    Foreign,
}

/// What another initiator does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Deed {
    /// Registers, with this key.
    Register(u64),
    /// Reserves the unit.
    Hold(u8),
    /// Takes away every registration with a key, with the reservation, and aborts; then it has a reservation of this type.
    Preempt {
        key: u64,
        kind: u8,
        abort: bool,
    },
    Clear,
    /// Gives back what it has.
    Leave,
}

impl Deed {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Register(_) => "other initiator: registers",
            Self::Hold(_) => "other initiator: holds a persistent reservation",
            Self::Preempt { .. } => "other initiator: preempts by key",
            Self::Clear => "other initiator: clears registrations",
            Self::Leave => "other initiator: gives back its registration",
        }
    }
}

/// What home would have shown from some time on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct View {
    pub(crate) since: Instant,
    /// Key, port, and whether it holds the reservation.
    pub(crate) registered: Vec<(u64, String, bool)>,
    /// Whether a read and a write conflict.
    pub(crate) conflicts: [bool; 2],
}

#[derive(Default)]
pub(super) struct Reservations {
    /// RESERVE(6).
    simple: Option<Owner>,
    generation: u32,
    registered: Vec<(Owner, u64)>,
    /// Persistent reservation: whose (of types 7 and 8 all registrants'), and its type.
    held: Option<(Owner, u8)>,
    /// Survives a power cut.
    persists: bool,
    views: Vec<View>,
}

impl Reservations {
    pub(super) fn session_ended(&mut self, session: usize) {
        if self.simple == Some(Owner::Session(session)) {
            self.simple = None;
        }
    }

    /// A new session takes over what an old one of its port held.
    pub(super) fn give_back(&mut self, session: usize, same: impl Fn(usize) -> bool) {
        let take = |owner: &mut Owner| {
            if matches!(owner, Owner::Session(old) if same(*old)) {
                *owner = Owner::Session(session);
            }
        };
        self.registered.iter_mut().for_each(|(owner, _)| take(owner));
        if let Some((owner, _)) = &mut self.held {
            take(owner);
        }
    }

    /// The unit was reset.
    pub(super) fn reset(&mut self) {
        self.simple = None;
    }

    /// Other initiators give back what they hold.
    pub(super) fn foreigners_leave(&mut self) {
        if self.simple == Some(Owner::Foreign) {
            self.simple = None;
        }
        self.unregister(Owner::Foreign);
    }

    pub(super) fn is_reserved(&self) -> bool {
        matches!(self.simple, Some(Owner::Session(_)))
    }

    /// The power goes, or the process that knew.
    pub(super) fn forget(&mut self) {
        self.simple = None;
        if !self.persists {
            *self = Self { generation: 0, views: std::mem::take(&mut self.views), ..Self::default() };
        }
    }

    fn key_of(&self, owner: Owner) -> Option<u64> {
        self.registered.iter().find(|(o, _)| *o == owner).map(|(_, key)| *key)
    }

    fn holds(&self, owner: Owner) -> bool {
        match self.held {
            Some((_, 7 | 8)) => self.key_of(owner).is_some(),
            Some((holder, _)) => holder == owner,
            None => false,
        }
    }

    /// Whether a command of this kind of access conflicts for `owner`.
    pub(super) fn conflicts(&self, owner: Owner, access: Access) -> bool {
        if access == Access::Always {
            return false;
        }
        if self.simple.is_some_and(|holder| holder != owner) {
            return true;
        }
        self.keeps_out((self.key_of(owner).is_some(), self.holds(owner)), access)
    }

    /// Whether the persistent reservation keeps out somebody who is registered, or not, or holds it.
    fn keeps_out(&self, (registered, holds): (bool, bool), access: Access) -> bool {
        match self.held {
            None => false,
            Some(_) if matches!(access, Access::Free | Access::Always) || holds => false,
            Some((_, 1)) => access == Access::Write,
            Some((_, 3)) => true,
            Some((_, 5 | 7)) => access == Access::Write && !registered,
            Some((_, _)) => !registered,
        }
    }

    fn keys(&self) -> Vec<u8> {
        let length = u32::try_from(self.registered.len() * 8).unwrap();
        let mut data = [self.generation.to_be_bytes(), length.to_be_bytes()].concat();
        self.registered.iter().for_each(|(_, key)| data.extend_from_slice(&key.to_be_bytes()));
        data
    }

    fn reservation(&self) -> Vec<u8> {
        let length = if self.held.is_some() { 16u32 } else { 0 };
        let mut data = [self.generation.to_be_bytes(), length.to_be_bytes()].concat();
        if let Some((holder, kind)) = self.held {
            let key = if matches!(kind, 7 | 8) { 0 } else { self.key_of(holder).unwrap_or_default() };
            data.extend_from_slice(&key.to_be_bytes());
            data.extend_from_slice(&[0, 0, 0, 0, 0, kind, 0, 0]);
        }
        data
    }

    /// Takes a registration away; a reservation that depended on it ends. Returns whether one did.
    fn unregister(&mut self, owner: Owner) -> bool {
        let held = self.holds(owner);
        self.registered.retain(|(o, _)| *o != owner);
        let last = self.registered.is_empty();
        let ends = held && (last || !matches!(self.held, Some((_, 7 | 8))));
        if ends {
            self.held = None;
        }
        ends
    }
}

/// Parameters of PERSISTENT RESERVE OUT.
struct Request {
    owner: Owner,
    session: usize,
    unit: usize,
    action: u8,
    kind: u8,
    key: u64,
    service_key: u64,
}

impl Target {
    /// Whether one of our sessions holds the unit with RESERVE(6).
    pub(crate) fn reserved(&self, unit: usize) -> bool {
        self.units[unit].reservations.is_reserved()
    }

    pub(super) fn reserve(&mut self, task: &Task) -> Outcome {
        let owner = Owner::Session(task.session);
        let held = &mut self.units[task.unit].reservations;
        if !held.registered.is_empty() {
            return self.conflict();
        }
        match task.op.kind {
            // It ends with its session.
            Kind::Reserve if !self.sessions[task.session].alive => {}
            Kind::Reserve => held.simple = Some(owner),
            // A release by somebody else is no error, and does nothing.
            _ if held.simple == Some(owner) => held.simple = None,
            _ => {}
        }
        Outcome::Good
    }

    pub(super) fn conflict(&mut self) -> Outcome {
        self.count(Trigger::Conflict);
        Outcome::Status(status::RESERVATION_CONFLICT)
    }

    pub(super) fn persistent_in(&self, task: &Task) -> Outcome {
        let held = &self.units[task.unit].reservations;
        let cdb = &task.command.cdb.0;
        let mut data = match cdb[1] & 0x1f {
            0 => held.keys(),
            1 => held.reservation(),
            2 => vec![0, 8, 1, 0x80 | u8::from(held.persists), 0xea, 1, 0, 0],
            3 if self.persona.full_status => self.full_status(task.unit),
            _ => return illegal(0x24),
        };
        data.truncate(usize::from(cdb[7]) << 8 | usize::from(cdb[8]));
        Outcome::Data(data)
    }

    /// The name of a registered port.
    fn port_name(&self, owner: Owner) -> String {
        let Owner::Session(session) = owner else { return FOREIGN_PORT.into() };
        let port = &self.sessions[session].port;
        let digits: String = port.isid.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{},i,0x{digits}", port.initiator)
    }

    fn full_status(&self, unit: usize) -> Vec<u8> {
        let held = &self.units[unit].reservations;
        let mut body = Vec::new();
        for (owner, key) in &held.registered {
            let mut name = self.port_name(*owner).into_bytes();
            name.resize((name.len() / 4 + 1) * 4, 0);
            let kind = held.held.filter(|_| held.holds(*owner)).map(|(_, kind)| kind);
            body.extend_from_slice(&key.to_be_bytes());
            body.extend_from_slice(&[
                0,
                0,
                0,
                0,
                u8::from(kind.is_some()),
                kind.unwrap_or(0),
                0,
                0,
                0,
                0,
                0,
                1,
            ]);
            body.extend_from_slice(&u32::try_from(name.len() + 4).unwrap().to_be_bytes());
            body.extend_from_slice(&[0x45, 0, 0, u8::try_from(name.len()).unwrap()]);
            body.extend(name);
        }
        let length = u32::try_from(body.len()).unwrap();
        [&held.generation.to_be_bytes()[..], &length.to_be_bytes(), &body].concat()
    }

    fn is_home(&self, owner: Owner) -> bool {
        matches!(owner, Owner::Session(session) if self.sessions[session].port.isid == HOME)
    }

    /// Whether home could not do something now, in whatever session it was registered.
    fn home_conflicts(&self, unit: usize, access: Access) -> bool {
        let held = &self.units[unit].reservations;
        let registered = held.registered.iter().any(|(owner, _)| self.is_home(*owner));
        let holds = match held.held {
            Some((_, 7 | 8)) => registered,
            Some((holder, _)) => self.is_home(holder),
            None => false,
        };
        held.keeps_out((registered, holds), access)
    }

    /// A command of a session executes: home could have had it executed too (P3).
    pub(super) fn judge_rights(&self, task: &Task) {
        let home = self.is_home(Owner::Session(task.session));
        let beyond = !home && !task.ghost && self.home_conflicts(task.unit, task.op.access());
        assert!(!beyond, "P3: a further nexus does on unit {} what home may not", task.unit);
    }

    /// Keeps a log of what home would show.
    pub(super) fn note_view(&mut self, unit: usize) {
        let Some(since) = self.now else { return };
        let held = &self.units[unit].reservations;
        let shown = |owner: Owner| owner == Owner::Foreign || self.is_home(owner);
        let registered = held.registered.iter().filter(|(owner, _)| shown(*owner));
        let registered =
            registered.map(|(owner, key)| (*key, self.port_name(*owner), held.holds(*owner))).collect();
        let conflicts = [Access::Read, Access::Write].map(|access| self.home_conflicts(unit, access));
        let view = View { since, registered, conflicts };
        let views = &mut self.units[unit].reservations.views;
        if views.last().is_none_or(|v| (&v.registered, v.conflicts) != (&view.registered, view.conflicts)) {
            views.push(view);
        }
    }

    /// What home would have shown at some time since then.
    pub(crate) fn views(&self, unit: usize, since: Instant) -> Vec<View> {
        let views = &self.units[unit].reservations.views;
        let first = views.iter().rposition(|v| v.since <= since);
        let nobody = View { since, registered: Vec::new(), conflicts: [false; 2] };
        let before = first.is_none().then_some(nobody);
        before.into_iter().chain(views[first.unwrap_or(0)..].iter().cloned()).collect()
    }

    pub(super) fn persistent_out(&mut self, task: &Task) -> Outcome {
        let data = task.data.contiguous();
        let Some(parameters) = data.first_chunk::<24>() else { return illegal(0x1a) };
        let number = |at: usize| u64::from_be_bytes(*parameters[at..].first_chunk().unwrap());
        let request = Request {
            owner: Owner::Session(task.session),
            session: task.session,
            unit: task.unit,
            action: task.command.cdb.0[1] & 0x1f,
            kind: task.command.cdb.0[2] & 0x0f,
            key: number(0),
            service_key: number(8),
        };
        let held = &mut self.units[task.unit].reservations;
        let known = held.key_of(request.owner);
        let registers = matches!(request.action, 0 | 6);
        if registers {
            held.persists = parameters[20] & 1 != 0;
        }
        let key_fits = known.map_or(request.action == 0 && request.key == 0, |known| known == request.key);
        if request.action != 6 && !key_fits {
            return self.conflict();
        }
        match request.action {
            0 | 6 => self.register(&request),
            1 => self.hold(&request),
            2 => self.release(&request),
            3 => self.clear_registrations(&request),
            4 | 5 => self.preempt(&request),
            _ => illegal(0x24),
        }
    }

    fn register(&mut self, request: &Request) -> Outcome {
        let held = &mut self.units[request.unit].reservations;
        held.generation += 1;
        let kind = held.held.map(|(_, kind)| kind);
        if request.service_key == 0 {
            if held.unregister(request.owner) && matches!(kind, Some(5 | 6)) {
                self.tell_registrants(request, (0x2a, 0x04));
            }
            return Outcome::Good;
        }
        match held.registered.iter_mut().find(|(o, _)| *o == request.owner) {
            Some((_, key)) => *key = request.service_key,
            None => held.registered.push((request.owner, request.service_key)),
        }
        Outcome::Good
    }

    fn hold(&mut self, request: &Request) -> Outcome {
        if !matches!(request.kind, 1 | 3 | 5..=8) {
            return illegal(0x24);
        }
        let held = &mut self.units[request.unit].reservations;
        match held.held {
            Some((_, kind)) if kind != request.kind || !held.holds(request.owner) => return self.conflict(),
            Some(_) => {}
            None => held.held = Some((request.owner, request.kind)),
        }
        Outcome::Good
    }

    fn release(&mut self, request: &Request) -> Outcome {
        let held = &mut self.units[request.unit].reservations;
        if !held.holds(request.owner) {
            return Outcome::Good;
        }
        if held.held.is_some_and(|(_, kind)| kind != request.kind) {
            return illegal(0x26);
        }
        held.held = None;
        if request.kind >= 5 {
            self.tell_registrants(request, (0x2a, 0x04));
        }
        Outcome::Good
    }

    fn clear_registrations(&mut self, request: &Request) -> Outcome {
        self.tell_registrants(request, (0x2a, 0x03));
        let held = &mut self.units[request.unit].reservations;
        held.generation += 1;
        held.registered.clear();
        held.held = None;
        Outcome::Good
    }

    fn preempt(&mut self, request: &Request) -> Outcome {
        let held = &mut self.units[request.unit].reservations;
        let all = matches!(held.held, Some((_, 7 | 8))) && request.service_key == 0;
        let holder = held.held.and_then(|(holder, _)| held.key_of(holder)) == Some(request.service_key);
        let hit =
            |(owner, key): &&(Owner, u64)| *owner != request.owner && (all || *key == request.service_key);
        let victims: Vec<Owner> = held.registered.iter().filter(hit).map(|(owner, _)| *owner).collect();
        if victims.is_empty() && !holder {
            return self.conflict();
        }
        held.generation += 1;
        held.registered.retain(|(owner, _)| !victims.contains(owner));
        if holder || all {
            held.held = Some((request.owner, request.kind));
        }
        self.count(Trigger::Preempted);
        self.tell(&victims, request.unit, (self.persona.preempted, None), request.action == 5);
        Outcome::Good
    }

    fn tell(&mut self, whom: &[Owner], unit: usize, what: ((u8, u8), Option<u32>), abort: bool) {
        for owner in whom {
            let Owner::Session(session) = *owner else { continue };
            // A target that has no word for it lets commands end, as it does when it resets.
            if !self.persona.reservation_attentions {
                continue;
            }
            self.sessions[session].attend(unit, what.0, what.1);
            if abort {
                self.abort_for_preempt(session, unit);
            }
        }
    }

    fn tell_registrants(&mut self, request: &Request, attention: (u8, u8)) {
        if !self.persona.reservation_attentions {
            return;
        }
        let others = self.units[request.unit].reservations.registered.clone();
        for (owner, _) in others {
            if let Owner::Session(session) = owner
                && session != request.session
            {
                self.sessions[session].attend(request.unit, attention, None);
            }
        }
    }

    /// What another initiator does happens. Returns who is told of it, and how, and whether their tasks are aborted.
    fn perform(&mut self, unit: usize, deed: Deed) -> (Vec<Owner>, (u8, u8), bool) {
        let preempted = self.persona.preempted;
        let held = &mut self.units[unit].reservations;
        let before = held.held.map(|(_, kind)| kind);
        let ours: Vec<Owner> =
            held.registered.iter().map(|(owner, _)| *owner).filter(|o| *o != Owner::Foreign).collect();
        let (told, code, abort) = match deed {
            Deed::Register(key) => {
                held.generation += 1;
                held.unregister(Owner::Foreign);
                held.registered.push((Owner::Foreign, key));
                (Vec::new(), (0, 0), false)
            }
            Deed::Hold(kind) => {
                if held.key_of(Owner::Foreign).is_some() && held.held.is_none() {
                    held.held = Some((Owner::Foreign, kind));
                }
                (Vec::new(), (0, 0), false)
            }
            Deed::Preempt { key, kind, abort } => {
                if held.key_of(Owner::Foreign).is_none() {
                    held.generation += 1;
                    held.registered.push((Owner::Foreign, FOREIGN_KEY));
                }
                let hit = |(owner, k): &&(Owner, u64)| *owner != Owner::Foreign && *k == key;
                let victims: Vec<Owner> = held.registered.iter().filter(hit).map(|(o, _)| *o).collect();
                if victims.is_empty() {
                    return (victims, preempted, false);
                }
                held.generation += 1;
                let holder =
                    held.held.is_none_or(|(holder, kind)| matches!(kind, 7 | 8) || victims.contains(&holder));
                held.registered.retain(|(owner, _)| !victims.contains(owner));
                if holder {
                    held.held = Some((Owner::Foreign, kind));
                }
                (victims, preempted, abort)
            }
            Deed::Clear => {
                if held.key_of(Owner::Foreign).is_none() {
                    return (Vec::new(), preempted, false);
                }
                held.generation += 1;
                held.registered.clear();
                held.held = None;
                (ours, (0x2a, 0x03), false)
            }
            Deed::Leave => {
                let ends = held.unregister(Owner::Foreign) && matches!(before, Some(5 | 6));
                (if ends { ours } else { Vec::new() }, (0x2a, 0x04), false)
            }
        };
        (told, code, abort)
    }

    /// Another initiator does something. Returns the event and how it is told, if anybody of ours is told, and whether home is.
    pub(crate) fn foreign_deed(&mut self, unit: usize, deed: Deed) -> Option<(u32, (u8, u8), bool)> {
        let event = self.new_event();
        let (told, code, abort) = self.perform(unit, deed);
        if matches!(deed, Deed::Preempt { .. }) && !told.is_empty() {
            self.count(Trigger::Preempted);
        }
        self.tell(&told, unit, (code, Some(event)), abort);
        self.note_view(unit);
        self.device_changed();
        self.announce_windows();
        let alive = |owner: &Owner| matches!(owner, Owner::Session(s) if self.sessions[*s].alive);
        let home = told.iter().any(|o| self.is_home(*o) && alive(o));
        let reports = self.persona.reservation_attentions && told.iter().any(alive);
        reports.then_some((event, code, home))
    }

    /// Another initiator preempts every registration of ours, and leaves; nothing if there is none. Returns the event.
    pub(crate) fn foreign_preempt(&mut self, unit: usize) -> Option<u32> {
        let held = &mut self.units[unit].reservations;
        let gone = std::mem::take(&mut held.registered);
        if gone.is_empty() {
            return None;
        }
        held.held = None;
        held.generation += 1;
        let event = self.new_event();
        for (owner, _) in gone {
            if let Owner::Session(session) = owner {
                self.count(Trigger::Preempted);
                if self.persona.reservation_attentions {
                    self.sessions[session].attend(unit, self.persona.preempted, Some(event));
                }
            }
        }
        self.note_view(unit);
        Some(event)
    }

    /// Another initiator reserves the unit with RESERVE(6); false if somebody else has.
    pub(crate) fn foreign_reserve(&mut self, unit: usize) -> bool {
        let held = &mut self.units[unit].reservations;
        let free = held.registered.is_empty() && held.simple.is_none_or(|o| o == Owner::Foreign);
        if free {
            held.simple = Some(Owner::Foreign);
        }
        free
    }
}
