//! Asymmetric logical unit access (SPC-4 section 5.15): which ports of a target give access to a logical unit, and how
//! good it is.
//!
//! # Contract
//! The `*_cdb` functions build CDBs padded to the 16 bytes of an iSCSI header. [`Support::parse`] takes standard INQUIRY
//! data, [`Position::parse`] VPD page 83h, [`PortGroups::parse`] the answer to REPORT TARGET PORT GROUPS in either of its
//! formats (SPC-4 section 6.33). All take what came of it: a descriptor cut off at the end is left out, but a group of which
//! only ports are missing is taken (LIO of Linux 6.1 does not count the extended header in the length, so that the last group
//! lacks its last port), and what goes beyond [`MOST_GROUPS`] is left out too. Nothing read here makes anything grow without
//! limit.

use super::inquiry::{Cdb, designators, padded};
use std::fmt;

/// Groups taken of one answer.
pub const MOST_GROUPS: usize = 64;
/// Ports taken of one group.
const MOST_PORTS: usize = 64;

/// What a logical unit can do (INQUIRY, TPGS field).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Support {
    /// The target changes access states by itself.
    pub implicit: bool,
    /// It changes them on SET TARGET PORT GROUPS.
    pub explicit: bool,
}

impl Support {
    /// Reads standard INQUIRY data; data that ends before the field says that there is no such support.
    #[must_use]
    pub fn parse(inquiry: &[u8]) -> Self {
        let tpgs = inquiry.get(5).copied().unwrap_or_default() >> 4;
        Self { implicit: tpgs & 1 != 0, explicit: tpgs & 2 != 0 }
    }

    /// Whether there are access states at all.
    #[must_use]
    pub const fn any(self) -> bool {
        self.implicit || self.explicit
    }
}

/// What a port group gives access to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Everything, at its best.
    Optimized,
    /// Everything, at some cost.
    NonOptimized,
    /// Commands about the unit, not its medium.
    Standby,
    /// Little more than who the unit is.
    Unavailable,
    /// Some blocks at their best, the others at some cost.
    LbaDependent,
    /// Nothing: the port is not in use.
    Offline,
    /// It is changing.
    Transitioning,
}

impl State {
    /// Reads ASYMMETRIC ACCESS STATE; a reserved value is taken for the state that promises least.
    const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Optimized,
            1 => Self::NonOptimized,
            2 => Self::Standby,
            4 => Self::LbaDependent,
            0xe => Self::Offline,
            0xf => Self::Transitioning,
            _ => Self::Unavailable,
        }
    }

    /// What a command learned that was refused with this additional sense code and qualifier (04h: not ready), if it was
    /// refused for the state of the port.
    #[must_use]
    pub const fn from_refusal(asc: u8, ascq: u8) -> Option<Self> {
        match (asc, ascq) {
            (0x04, 0x0a) => Some(Self::Transitioning),
            (0x04, 0x0b) => Some(Self::Standby),
            (0x04, 0x0c) => Some(Self::Unavailable),
            _ => None,
        }
    }

    /// Whether the medium can be read and written.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Optimized | Self::NonOptimized | Self::LbaDependent)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Optimized => "active/optimized",
            Self::NonOptimized => "active/non-optimized",
            Self::Standby => "standby",
            Self::Unavailable => "unavailable",
            Self::LbaDependent => "lba-dependent",
            Self::Offline => "offline",
            Self::Transitioning => "transitioning",
        })
    }
}

/// Which target port a logical unit was asked through, by what VPD page 83h says of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// Target port group.
    pub group: Option<u16>,
    /// Relative target port identifier.
    pub port: Option<u16>,
}

impl Position {
    /// Reads VPD page 83h.
    #[must_use]
    pub fn parse(page: &[u8]) -> Self {
        const TARGET_PORT: u8 = 1;
        let of_port = |kind: u8| {
            let mut found = designators(page).filter(|d| d.association == TARGET_PORT && d.kind == kind);
            let [_, _, high, low] = *found.next()?.bytes.first_chunk()?;
            Some(u16::from_be_bytes([high, low]))
        };
        Self { group: of_port(5), port: of_port(4) }
    }
}

/// A target port group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortGroup {
    /// Its number.
    pub id: u16,
    /// Its state.
    pub state: State,
    /// The target would rather be used through it.
    pub preferred: bool,
    /// It can be made active/optimized.
    pub can_optimize: bool,
    /// Relative target port identifiers.
    pub ports: Vec<u16>,
}

impl PortGroup {
    /// Whether the port a unit was asked through belongs to it.
    #[must_use]
    pub fn contains(&self, position: Position) -> bool {
        match (position.group, position.port) {
            (Some(group), _) => group == self.id,
            (None, Some(port)) => self.ports.contains(&port),
            (None, None) => false,
        }
    }
}

/// All port groups through which a unit may be reached, by one answer of the target.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortGroups {
    /// In the target's order.
    pub groups: Vec<PortGroup>,
    /// How long an implicit transition may take, in seconds; 0 if the target does not say.
    pub transition_seconds: u8,
}

impl PortGroups {
    /// Reads the answer to REPORT TARGET PORT GROUPS; none if it has no header.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        const FORMAT: u8 = 0x70;
        const EXTENDED: u8 = 0x10;
        let (length, rest) = data.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let mut rest = rest.get(..length).unwrap_or(rest);
        let mut answer = Self::default();
        if let Some((&[format, seconds, _, _], behind)) = rest.split_first_chunk()
            && format & FORMAT == EXTENDED
        {
            answer.transition_seconds = seconds;
            rest = behind;
        }
        while let Some((group, behind)) = split_group(rest)
            && answer.groups.len() < MOST_GROUPS
        {
            answer.groups.push(group);
            rest = behind;
        }
        Some(answer)
    }

    /// The group of a port.
    #[must_use]
    pub fn group_of(&self, position: Position) -> Option<&PortGroup> {
        self.groups.iter().find(|g| g.contains(position))
    }
}

/// The first target port group descriptor, and what follows it.
fn split_group(data: &[u8]) -> Option<(PortGroup, &[u8])> {
    let (&[first, supported, high, low, _, _, _, count], rest) = data.split_first_chunk::<8>()?;
    let (ports, rest) = rest.split_at_checked(usize::from(count) * 4).unwrap_or((rest, &[]));
    let ports = ports.chunks_exact(4).filter_map(|port| {
        let [_, _, high, low] = *port.first_chunk()?;
        Some(u16::from_be_bytes([high, low]))
    });
    let group = PortGroup {
        id: u16::from_be_bytes([high, low]),
        state: State::from_code(first & 0x0f),
        preferred: first & 0x80 != 0,
        can_optimize: supported & 0x01 != 0,
        ports: ports.take(MOST_PORTS).collect(),
    };
    Some((group, rest))
}

/// REPORT TARGET PORT GROUPS; `extended` asks for the header with the transition time, which older targets refuse;
/// `allocation` in bytes.
#[must_use]
pub fn report_port_groups_cdb(extended: bool, allocation: u32) -> Cdb {
    let [a, b, c, d] = allocation.to_be_bytes();
    padded(&[0xa3, u8::from(extended) << 5 | 0x0a, 0, 0, 0, 0, a, b, c, d])
}

/// SET TARGET PORT GROUPS with a parameter list of [`optimize`]'s length (SPC-4 section 6.45).
#[must_use]
pub fn set_port_groups_cdb() -> Cdb {
    padded(&[0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8])
}

/// The parameter list that makes a group active/optimized; what becomes of the others is left to the target.
#[must_use]
pub fn optimize(group: u16) -> [u8; 8] {
    let [high, low] = group.to_be_bytes();
    [0, 0, 0, 0, 0, 0, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::inquiry::PAGE_IDENTIFICATION;
    use crate::scsi::{Class, Command};
    use proptest::prelude::*;

    const OPTIMIZED: &[u8] = &[0x80, 0x8f, 0, 1, 0, 2, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
    const STANDBY: &[u8] = &[0x02, 0x8e, 1, 2, 0, 0, 0, 1, 0, 0, 0, 3];

    fn answer(header: &[u8], groups: &[&[u8]]) -> Vec<u8> {
        let body = [header, &groups.concat()].concat();
        [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
    }

    #[test]
    fn both_headers_are_read() {
        let short = PortGroups::parse(&answer(&[], &[OPTIMIZED, STANDBY])).unwrap();
        assert_eq!(short.transition_seconds, 0);
        let [first, second] = &short.groups[..] else { panic!("{short:?}") };
        assert_eq!((first.id, first.state, first.preferred), (1, State::Optimized, true));
        assert_eq!((&first.ports[..], first.can_optimize), (&[1, 2][..], true));
        assert_eq!((second.id, second.state, second.preferred), (0x102, State::Standby, false));
        assert_eq!((&second.ports[..], second.can_optimize), (&[3][..], false));
        let long = PortGroups::parse(&answer(&[0x10, 15, 0, 0], &[OPTIMIZED, STANDBY])).unwrap();
        assert_eq!(long, PortGroups { transition_seconds: 15, ..short });
        assert_eq!(PortGroups::parse(&answer(&[], &[])), Some(PortGroups::default()));
    }

    #[test]
    fn an_answer_cut_off_keeps_all_groups_that_lack_no_more_than_ports() {
        let whole = answer(&[0x10, 15, 0, 0], &[STANDBY, OPTIMIZED]);
        let first_ports = 8 + STANDBY.len() + 8;
        for length in 8 + STANDBY.len()..whole.len() {
            let groups = PortGroups::parse(&whole[..length]).unwrap().groups;
            assert_eq!(groups.len(), 1 + usize::from(length >= first_ports), "{length}");
            let ports = groups.get(1).map(|g| g.ports.len());
            assert_eq!(ports, length.checked_sub(first_ports).map(|ports| ports / 4), "{length}");
        }
        // As LIO does.
        let mut short = whole.clone();
        short[3] -= 4;
        assert_eq!(PortGroups::parse(&short).unwrap().groups[1].state, State::Optimized);
        assert_eq!(PortGroups::parse(&whole[..3]), None);
        let mut padded = whole.clone();
        padded.extend_from_slice(STANDBY);
        assert_eq!(PortGroups::parse(&padded), PortGroups::parse(&whole), "behind RETURN DATA LENGTH");
    }

    #[test]
    fn no_answer_is_taken_beyond_the_limits() {
        let many = answer(&[], &vec![STANDBY; MOST_GROUPS + 1]);
        assert_eq!(PortGroups::parse(&many).unwrap().groups.len(), MOST_GROUPS);
        let mut wide = vec![0, 0, 0, 1, 0, 0, 0, 255];
        wide.extend([0; 255 * 4]);
        assert_eq!(PortGroups::parse(&answer(&[], &[&wide])).unwrap().groups[0].ports.len(), MOST_PORTS);
    }

    #[test]
    fn every_state_is_known() {
        let names: Vec<String> = (0..16).map(|code| State::from_code(code).to_string()).collect();
        assert_eq!(names[0..3], ["active/optimized", "active/non-optimized", "standby"]);
        assert_eq!(names[3..6], ["unavailable", "lba-dependent", "unavailable"]);
        assert_eq!(names[13..], ["unavailable", "offline", "transitioning"]);
        let active = |code: &u8| State::from_code(*code).is_active();
        assert_eq!((0..16).filter(active).collect::<Vec<_>>(), [0, 1, 4]);
    }

    #[test]
    fn refusals_tell_the_state() {
        assert_eq!(State::from_refusal(0x04, 0x0a), Some(State::Transitioning));
        assert_eq!(State::from_refusal(0x04, 0x0b), Some(State::Standby));
        assert_eq!(State::from_refusal(0x04, 0x0c), Some(State::Unavailable));
        assert_eq!(State::from_refusal(0x04, 0x01), None, "becoming ready");
        assert_eq!(State::from_refusal(0x29, 0x0b), None);
    }

    #[test]
    fn the_port_asked_through_finds_its_group() {
        let name: &[u8] = &[1, 0x03, 0, 8, 0x60, 1, 2, 3, 4, 5, 6, 7];
        let port: &[u8] = &[0x51, 0x94, 0, 4, 0, 0, 0, 3];
        let group: &[u8] = &[0x51, 0x95, 0, 4, 0, 0, 1, 2];
        let of_device: &[u8] = &[0x51, 0xa5, 0, 4, 0, 0, 9, 9];
        let page = |parts: &[&[u8]]| {
            let body = parts.concat();
            [&[0, PAGE_IDENTIFICATION, 0, u8::try_from(body.len()).unwrap()][..], &body].concat()
        };
        let both = Position::parse(&page(&[name, of_device, port, group]));
        assert_eq!(both, Position { group: Some(0x102), port: Some(3) });
        let groups = PortGroups::parse(&answer(&[], &[OPTIMIZED, STANDBY])).unwrap();
        assert_eq!(groups.group_of(both).unwrap().id, 0x102);
        let by_port = Position::parse(&page(&[port]));
        assert_eq!(groups.group_of(by_port).unwrap().id, 0x102);
        assert_eq!(groups.group_of(Position::parse(&page(&[name]))), None);
        assert_eq!(Position::parse(&page(&[&[0x51, 0x95, 0, 2, 1, 2]])), Position::default(), "too short");
    }

    #[test]
    fn support() {
        let at = |tpgs: u8| Support::parse(&[0, 0, 6, 2, 31, tpgs << 4 | 0x0f]);
        assert_eq!((at(0).any(), at(1).any(), at(2).any()), (false, true, true));
        assert_eq!(at(3), Support { implicit: true, explicit: true });
        assert_eq!(Support::parse(&[0; 5]), Support::default());
    }

    #[test]
    fn own_commands_are_what_they_say() {
        let report = report_port_groups_cdb(true, 0x1234);
        assert_eq!(Command::parse(&report).name, "REPORT TARGET PORT GROUPS");
        assert_eq!((report[1], &report[6..10]), (0x2a, &[0, 0, 0x12, 0x34][..]));
        assert_eq!(report_port_groups_cdb(false, 8)[1], 0x0a);
        let set = Command::parse(&set_port_groups_cdb());
        assert_eq!((set.name, set.class), ("SET TARGET PORT GROUPS", Class::Barrier));
        assert_eq!(optimize(0x102), [0, 0, 0, 0, 0, 0, 1, 2]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(bytes in prop::collection::vec(any::<u8>(), 0..96)) {
            let mut page = bytes.clone();
            if let Some(code) = page.get_mut(1) {
                *code = PAGE_IDENTIFICATION;
            }
            let position = Position::parse(&page);
            let _ = (Support::parse(&bytes), PortGroups::parse(&bytes).map(|g| g.group_of(position).cloned()));
        }
    }
}
