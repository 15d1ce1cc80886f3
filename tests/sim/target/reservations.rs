//! RESERVE(6) and persistent reservations.

use super::Target;
use super::commands::{Access, Kind, Outcome, illegal};
use super::device::Task;
use super::trigger::Trigger;
use braid::scsi::sense::status;

/// Who holds something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Owner {
    Session(usize),
    Foreign,
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
    }

    pub(super) fn is_reserved(&self) -> bool {
        matches!(self.simple, Some(Owner::Session(_)))
    }

    /// The power goes, or the process that knew.
    pub(super) fn forget(&mut self) {
        self.simple = None;
        if !self.persists {
            *self = Self { generation: 0, ..Self::default() };
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
        let registered = self.key_of(owner).is_some();
        match self.held {
            None => false,
            Some(_) if access == Access::Free || self.holds(owner) => false,
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
        match task.command.cdb.0[1] & 0x1f {
            0 => Outcome::Data(held.keys()),
            1 => Outcome::Data(held.reservation()),
            _ => illegal(0x24),
        }
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
        for victim in victims {
            if let Owner::Session(session) = victim {
                if self.persona.reservation_attentions {
                    self.sessions[session].attend(request.unit, (0x2a, 0x03), None);
                }
                if request.action == 5 {
                    self.abort_for_preempt(session, request.unit);
                }
            }
        }
        Outcome::Good
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
                    self.sessions[session].attend(unit, (0x2a, 0x03), Some(event));
                }
            }
        }
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
