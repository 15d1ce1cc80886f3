//! RESERVE and RELEASE (SPC-2 section 7.21), persistent reservations (SPC-5 section 5.13).

use super::fault::{
    Fault, INSUFFICIENT_REGISTRATION, INVALID_FIELD, INVALID_PARAMETER, INVALID_RELEASE, PARAMETER_LENGTH,
    REGISTRATIONS_PREEMPTED, RESERVATIONS_PREEMPTED, RESERVATIONS_RELEASED,
};
use super::op::{Fields, Op};
use super::{NexusName, Unit};
use crate::iscsi::{Payload, Tsih};
use std::collections::BTreeMap;

/// Registrations kept.
const MAX_REGISTRATIONS: usize = 64;
/// Reservation types supported: write exclusive and exclusive access, plain, registrants only, all registrants.
const TYPES: [u8; 6] = [1, 3, 5, 6, 7, 8];

/// Who registered and who holds the reservation.
#[derive(Debug, Default)]
pub(super) struct Persistent {
    generation: u32,
    keys: BTreeMap<NexusName, u64>,
    holder: Option<(NexusName, u8)>,
}

impl Persistent {
    /// Whether this nexus holds the reservation; with the all-registrants types every registrant does.
    fn holds(&self, who: &NexusName) -> bool {
        match &self.holder {
            Some((_, 7 | 8)) => self.keys.contains_key(who),
            Some((holder, _)) => holder == who,
            None => false,
        }
    }

    fn conflicts(&self, who: &NexusName, op: &Op) -> bool {
        let Some((_, kind)) = &self.holder else { return false };
        if self.holds(who) || (*kind >= 5 && self.keys.contains_key(who)) {
            return false;
        }
        let exclusive_access = matches!(kind, 3 | 6 | 8);
        match op {
            Op::Read(_)
            | Op::Verify { .. }
            | Op::Prefetch(_)
            | Op::ModeSense { .. }
            | Op::LbaStatus { .. } => exclusive_access,
            _ => op.run().is_some() || matches!(op, Op::Unmap { .. } | Op::StartStop),
        }
    }
}

impl Unit {
    /// Whether somebody else's reservation forbids the command.
    pub(super) fn conflicts(&self, tsih: Tsih, op: &Op) -> bool {
        let harmless = matches!(op, Op::Inquiry { .. } | Op::ReportLuns { .. } | Op::RequestSense { .. });
        if harmless {
            return false;
        }
        if self.reserved.is_some_and(|holder| holder != tsih) && *op != Op::Release {
            return true;
        }
        if *op == Op::Reserve && !self.persistent.keys.is_empty() {
            return true;
        }
        self.nexuses.get(&tsih).is_some_and(|nexus| self.persistent.conflicts(&nexus.name, op))
    }

    pub(super) fn reserve(&mut self, tsih: Tsih) {
        self.reserved = Some(tsih);
    }

    /// RELEASE by anybody but the holder does nothing.
    pub(super) fn release(&mut self, tsih: Tsih) {
        if self.reserved == Some(tsih) {
            self.reserved = None;
        }
    }

    pub(super) fn persistent_in(&self, action: u8) -> Result<Vec<u8>, Fault> {
        let all = &self.persistent;
        let body: Vec<u8> = match action {
            0 => all.keys.values().flat_map(|key| key.to_be_bytes()).collect(),
            1 => all.holder.as_ref().map_or_else(Vec::new, |(who, kind)| {
                let key = if *kind >= 7 { 0 } else { all.keys.get(who).copied().unwrap_or(0) };
                let mut body = key.to_be_bytes().to_vec();
                body.extend([0, 0, 0, 0, 0, *kind, 0, 0]);
                body
            }),
            // Capabilities: no persistence over power loss; the type mask is valid.
            2 => return Ok(vec![0, 8, 0, 0x80, 0xea, 0x01, 0, 0]),
            3 => all.keys.iter().flat_map(|(who, key)| self.full_status(who, *key)).collect(),
            _ => return Err(Fault::Sense(INVALID_FIELD)),
        };
        let mut data = all.generation.to_be_bytes().to_vec();
        data.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        data.extend(body);
        Ok(data)
    }

    /// A full status descriptor; the transport id is that of an iSCSI initiator port.
    fn full_status(&self, who: &NexusName, key: u64) -> Vec<u8> {
        let mut name = format!("{},i,0x{}", who.initiator, who.isid).into_bytes();
        name.push(0);
        name.resize(name.len().next_multiple_of(4), 0);
        let kind = self.persistent.holder.as_ref().map_or(0, |(_, kind)| *kind);
        let holds = self.persistent.holds(who);
        let mut data = key.to_be_bytes().to_vec();
        data.extend([0, 0, 0, 0, u8::from(holds), if holds { kind } else { 0 }, 0, 0, 0, 0, 0, 1]);
        data.extend(u32::try_from(name.len() + 4).unwrap_or(u32::MAX).to_be_bytes());
        data.extend([0x45, 0]);
        data.extend(u16::try_from(name.len()).unwrap_or(u16::MAX).to_be_bytes());
        data.extend(name);
        data
    }

    pub(super) fn persistent_out(
        &mut self,
        tsih: Tsih,
        action: u8,
        (scope, kind): (u8, u8),
        length: usize,
        data: &Payload,
    ) -> Result<(), Fault> {
        if length != 24 || data.len() != 24 {
            return Err(Fault::Sense(PARAMETER_LENGTH));
        }
        let Some(who) = self.nexuses.get(&tsih).map(|nexus| nexus.name.clone()) else { return Ok(()) };
        let list = data.contiguous();
        let (key, new) = (Fields(&list).u64(0), Fields(&list).u64(8));
        // SPEC_I_PT, ALL_TG_PT and APTPL are not offered.
        if action != 3 && Fields(&list).u8(20) & 0x0d != 0 {
            return Err(Fault::Sense(INVALID_PARAMETER));
        }
        let needs_type = matches!(action, 1 | 2 | 4 | 5);
        if needs_type && (scope != 0 || !TYPES.contains(&kind)) {
            return Err(Fault::Sense(INVALID_FIELD));
        }
        let registered = self.persistent.keys.get(&who).copied();
        if !matches!(action, 0 | 6) && registered != Some(key) {
            return Err(Fault::Conflict);
        }
        match action {
            0 if registered.unwrap_or(0) != key => return Err(Fault::Conflict),
            0 | 6 => self.register(tsih, who, new)?,
            1 => self.hold(who, kind)?,
            2 => self.let_go(tsih, &who, kind)?,
            3 => self.clear(tsih),
            4 | 5 => self.preempt(tsih, who, kind, new, action == 5)?,
            _ => return Err(Fault::Sense(INVALID_FIELD)),
        }
        Ok(())
    }

    fn register(&mut self, tsih: Tsih, who: NexusName, new: u64) -> Result<(), Fault> {
        if new != 0 {
            if self.persistent.keys.len() >= MAX_REGISTRATIONS && !self.persistent.keys.contains_key(&who) {
                return Err(Fault::Sense(INSUFFICIENT_REGISTRATION));
            }
            self.persistent.keys.insert(who, new);
        } else if self.persistent.keys.remove(&who).is_some() {
            self.drop_holder(tsih, &who);
        }
        self.persistent.generation = self.persistent.generation.wrapping_add(1);
        Ok(())
    }

    /// A registration is gone: so is the reservation it held.
    fn drop_holder(&mut self, tsih: Tsih, who: &NexusName) {
        let Some((holder, kind)) = self.persistent.holder.clone() else { return };
        let last_of_all = kind >= 7 && self.persistent.keys.is_empty();
        if last_of_all || (kind < 7 && holder == *who) {
            self.persistent.holder = None;
            if kind >= 5 {
                self.tell_registrants(tsih, RESERVATIONS_RELEASED);
            }
        }
    }

    fn hold(&mut self, who: NexusName, kind: u8) -> Result<(), Fault> {
        match &self.persistent.holder {
            None => self.persistent.holder = Some((who, kind)),
            Some((_, held)) if *held == kind && self.persistent.holds(&who) => {}
            Some(_) => return Err(Fault::Conflict),
        }
        Ok(())
    }

    fn let_go(&mut self, tsih: Tsih, who: &NexusName, kind: u8) -> Result<(), Fault> {
        if !self.persistent.holds(who) {
            return Ok(());
        }
        if self.persistent.holder.as_ref().is_some_and(|(_, held)| *held != kind) {
            return Err(Fault::Sense(INVALID_RELEASE));
        }
        self.persistent.holder = None;
        if kind >= 5 {
            self.tell_registrants(tsih, RESERVATIONS_RELEASED);
        }
        Ok(())
    }

    fn clear(&mut self, tsih: Tsih) {
        self.tell_registrants(tsih, RESERVATIONS_PREEMPTED);
        self.persistent.keys.clear();
        self.persistent.holder = None;
        self.persistent.generation = self.persistent.generation.wrapping_add(1);
    }

    fn preempt(
        &mut self,
        tsih: Tsih,
        who: NexusName,
        kind: u8,
        victim: u64,
        abort: bool,
    ) -> Result<(), Fault> {
        let all = &self.persistent;
        let held = all.holder.as_ref().map_or(0, |(_, kind)| *kind);
        let holder_key = all.holder.as_ref().and_then(|(holder, _)| all.keys.get(holder)).copied();
        let takes_over = if held >= 7 { victim == 0 } else { held != 0 && holder_key == Some(victim) };
        if victim == 0 && !takes_over {
            return Err(Fault::Sense(INVALID_PARAMETER));
        }
        let gone: Vec<NexusName> = all
            .keys
            .iter()
            .filter(|(name, key)| **name != who && (**key == victim || victim == 0))
            .map(|(name, _)| name.clone())
            .collect();
        if gone.is_empty() && !takes_over {
            return Err(Fault::Conflict);
        }
        for name in &gone {
            self.persistent.keys.remove(name);
        }
        if takes_over {
            self.persistent.holder = Some((who, kind));
            if held != kind && held >= 5 {
                self.tell_registrants(tsih, RESERVATIONS_RELEASED);
            }
        }
        self.persistent.generation = self.persistent.generation.wrapping_add(1);
        let hit: Vec<Tsih> = self.sessions_of(|name| gone.contains(name));
        self.tell(|other| other != tsih && hit.contains(&other), REGISTRATIONS_PREEMPTED);
        if abort {
            self.purged = hit;
        }
        Ok(())
    }

    fn tell_registrants(&mut self, tsih: Tsih, sense: crate::scsi::Sense) {
        let whom = self.sessions_of(|name| self.persistent.keys.contains_key(name));
        self.tell(|other| other != tsih && whom.contains(&other), sense);
    }

    fn sessions_of(&self, is: impl Fn(&NexusName) -> bool) -> Vec<Tsih> {
        self.nexuses.iter().filter(|(_, nexus)| is(&nexus.name)).map(|(tsih, _)| *tsih).collect()
    }
}
