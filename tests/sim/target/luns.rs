//! Under which LUNs a portal group shows the units, and how that changes.
//!
//! Where nothing else was said the first units go under their place in the list. A group may be told otherwise: other
//! numbers, units that it does not show, others that only it shows, one under two numbers.
//!
//! LUNs that change under a living session are told with REPORTED LUNS DATA HAS CHANGED. A number gone answers that there
//! is no such unit, and is not used again for another. When units **trade** numbers, every command to such a number is
//! answered with that attention until the initiator has acknowledged one such answer: what it sent before it knew must
//! not reach the other unit.

use super::Target;
use super::commands::{Op, Outcome};
use super::trigger::Trigger;
use braid::iscsi::{Lun, Pdu, StatSn};
use braid::scsi::Sense;
use braid::scsi::sense::key;
use std::collections::BTreeMap;
use std::time::Instant;

/// What happens to the LUNs of a portal group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LunChange {
    /// A unit is shown no more.
    Vanish(usize),
    /// One that is not shown gets a number that none had.
    Appear(usize),
    /// Two numbers change places, from one moment to the other.
    Trade(usize, usize),
    /// Behind the same address there is another order: the sessions are gone.
    Recabled(usize),
}

/// The units of a portal group, by number.
pub(super) type Map = Vec<Option<usize>>;

/// LUNs of all groups.
#[derive(Debug)]
pub(super) struct Luns {
    /// Units shown where nothing else was said.
    plain: usize,
    maps: BTreeMap<u16, Map>,
    /// Whether sessions are told of a number that came or went.
    tells: bool,
}

/// A session whose numbers have changed places under it.
#[derive(Clone, Debug)]
pub(super) struct Traded {
    numbers: Vec<usize>,
    /// The first answer that told of it, by its connection.
    told: Option<(u32, StatSn)>,
}

const LUNS_CHANGED: (u8, u8) = (0x3f, 0x0e);

impl Luns {
    pub(super) fn new(plain: usize) -> Self {
        Self { plain, maps: BTreeMap::new(), tells: true }
    }

    fn unit(&self, group: u16, number: usize) -> Option<usize> {
        match self.maps.get(&group) {
            Some(map) => map.get(number).copied().flatten(),
            None => (number < self.plain).then_some(number),
        }
    }

    fn numbers(&self, group: u16) -> Vec<usize> {
        let shown = |map: &Map| (0..map.len()).filter(|n| map[*n].is_some()).collect();
        self.maps.get(&group).map_or_else(|| (0..self.plain).collect(), shown)
    }
}

impl Target {
    /// A group shows other units, or under other numbers, than all; the last `hidden` units of the target are shown by
    /// such groups only.
    pub(crate) fn show(&mut self, group: u16, map: &[Option<usize>], hidden: usize, tells: bool) {
        self.luns.plain = self.units.len() - hidden;
        self.luns.maps.insert(group, map.to_vec());
        self.luns.tells = tells;
    }

    /// The unit that a session has under a LUN.
    pub(super) fn unit_of(&self, session: usize, lun: Lun) -> Option<usize> {
        let number = usize::try_from(lun.number()).ok()?;
        self.luns.unit(self.sessions[session].port.portal, number)
    }

    /// REPORT LUNS data.
    pub(super) fn list_of(&self, session: usize) -> Vec<u8> {
        let numbers = self.luns.numbers(self.sessions[session].port.portal);
        let mut data = vec![0; 8];
        data[3] = u8::try_from(numbers.len() * 8).unwrap();
        for number in numbers {
            data.extend_from_slice(&[0, u8::try_from(number).unwrap(), 0, 0, 0, 0, 0, 0]);
        }
        data
    }

    /// The LUNs of a group change.
    pub(crate) fn change_luns(&mut self, group: u16, change: LunChange, now: Instant) {
        let Some(mut map) = self.luns.maps.get(&group).cloned() else { return };
        let shown = self.luns.numbers(group);
        let number = |n: usize| (!shown.is_empty()).then(|| shown[n % shown.len()]);
        match change {
            LunChange::Vanish(n) => {
                let Some(number) = number(n) else { return };
                self.count(Trigger::LunVanished);
                map[number] = None;
            }
            LunChange::Appear(n) => {
                let hidden: Vec<usize> = (0..self.units.len()).filter(|u| !map.contains(&Some(*u))).collect();
                if hidden.is_empty() || map.len() > 200 {
                    return;
                }
                self.count(Trigger::LunAppeared);
                map.push(Some(hidden[n % hidden.len()]));
            }
            LunChange::Trade(a, b) => {
                let (Some(a), Some(b)) = (number(a), number(b)) else { return };
                self.count(Trigger::LunsTraded);
                map.swap(a, b);
                if self.looks_like_home(&map) {
                    return;
                }
                for session in self.sessions.iter_mut().filter(|s| s.alive && s.port.portal == group) {
                    let known = session.traded.take().map_or_else(Vec::new, |t| t.numbers);
                    let numbers = known.into_iter().chain([a, b]).collect();
                    session.traded = Some(Traded { numbers, told: None });
                }
            }
            LunChange::Recabled(by) => {
                self.count(Trigger::Recabled);
                let by = by % map.len().max(1);
                map.rotate_left(by);
                if self.looks_like_home(&map) {
                    return;
                }
                for session in 0..self.sessions.len() {
                    if self.sessions[session].alive && self.sessions[session].port.portal == group {
                        self.kill_session(session);
                    }
                }
            }
        }
        self.luns.maps.insert(group, map);
        self.sessions.iter_mut().filter(|s| s.alive && s.port.portal == group).for_each(|s| s.renew(now));
        let traded = matches!(change, LunChange::Trade(..));
        if self.luns.tells || traded {
            let units = self.units.len();
            for session in self.sessions.iter_mut().filter(|s| s.alive && s.port.portal == group) {
                (0..units).for_each(|unit| session.attend(unit, LUNS_CHANGED, None));
            }
        }
    }

    /// Whether the first unit, or its copy, is where home has it.
    fn looks_like_home(&self, map: &Map) -> bool {
        let first = map.first().copied().flatten();
        first.is_some_and(|unit| self.units[unit].disk.identity == self.units[0].disk.identity)
    }

    /// An answer to a command for a number that has changed places, until the initiator is known to know.
    pub(super) fn traded(&mut self, conn: u32, session: usize, lun: Lun, op: Op) -> Option<Outcome> {
        let stat_sn = self.conn(conn)?.stat_sn;
        let traded = self.sessions[session].traded.as_mut()?;
        let concerned = traded.numbers.iter().any(|n| *n as u64 == lun.number());
        if !concerned || op.ignores_attentions() {
            return None;
        }
        traded.told.get_or_insert((conn, stat_sn));
        let (asc, ascq) = LUNS_CHANGED;
        Some(Outcome::Sense(Sense { key: key::UNIT_ATTENTION, asc, ascq }))
    }

    /// What a PDU acknowledges.
    pub(super) fn acknowledged(&mut self, conn: u32, session: usize, pdu: &Pdu) {
        let Some(exp_stat_sn) = exp_stat_sn(pdu) else { return };
        let traded = &mut self.sessions[session].traded;
        let told = traded.as_ref().and_then(|t| t.told);
        if told.is_some_and(|(by, stat_sn)| by == conn && exp_stat_sn.is_after(stat_sn)) {
            *traded = None;
        }
    }
}

pub(super) fn exp_stat_sn(pdu: &Pdu) -> Option<StatSn> {
    match pdu {
        Pdu::ScsiCommand(p) => Some(p.exp_stat_sn),
        Pdu::DataOut(p) => Some(p.exp_stat_sn),
        Pdu::NopOut(p) => Some(p.exp_stat_sn),
        Pdu::TaskManagementRequest(p) => Some(p.exp_stat_sn),
        Pdu::TextRequest(p) => Some(p.exp_stat_sn),
        Pdu::LogoutRequest(p) => Some(p.exp_stat_sn),
        _ => None,
    }
}
