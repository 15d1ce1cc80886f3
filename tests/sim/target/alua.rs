//! Port groups with access states of their own (ALUA), as SPC-4 section 5.15 has them: states that change by themselves or
//! because somebody asked, what a port refuses in each of them, and what is told of it.
//!
//! A portal group is one target port, and one target port group. There may be one more group that nobody here reaches.

use super::Target;
use super::commands::{Kind, Outcome, illegal};
use super::device::Task;
use super::trigger::Trigger;
use braid::scsi::Sense;
use braid::scsi::sense::key;
use std::time::{Duration, Instant};

/// What a target does with the question for the extended header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Header {
    /// It tells how many seconds a transition may take.
    Extended(u8),
    /// It answers as always.
    Ignored,
    Refused,
}

/// A target's asymmetry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// TPGS of INQUIRY: 1 implicit, 2 explicit, 3 both.
    pub(crate) support: u8,
    /// Number of groups, those included that no path leads to.
    pub(crate) groups: u16,
    /// The group that is active/optimized at first.
    pub(crate) first: u16,
    /// State of all groups but that: 1 active/non-optimized, 2 standby, 3 unavailable, Eh offline.
    pub(crate) rest: u8,
    pub(crate) header: Header,
    /// VPD page 83h names the group, the port, or both.
    pub(crate) names_group: bool,
    pub(crate) names_port: bool,
    /// Changes are told by a unit attention.
    pub(crate) attentive: bool,
    /// READ CAPACITY works through ports in standby.
    pub(crate) capacity_in_standby: bool,
    /// Longest transition.
    pub(crate) longest: Duration,
    /// SET TARGET PORT GROUPS fails.
    pub(crate) refuses: bool,
    /// So often another initiator takes back what Braid's did.
    pub(crate) rival: u32,
}

impl Setup {
    /// How long a transition may take, as told or by custom.
    pub(crate) fn patience(&self) -> Duration {
        match self.header {
            Header::Extended(seconds) if seconds > 0 => Duration::from_secs(u64::from(seconds)),
            _ => Duration::from_secs(60),
        }
    }
}

const OPTIMIZED: u8 = 0;
const NON_OPTIMIZED: u8 = 1;
const STANDBY: u8 = 2;
const TRANSITIONING: u8 = 0xf;

/// What is to become of a unit's groups.
struct Pending {
    at: Instant,
    unit: usize,
    active: u16,
    /// It is how a transition ends; else it is how one begins.
    ends: bool,
    /// The session that asked for it; none for what comes from outside.
    by: Option<usize>,
}

/// The asymmetry of a target.
pub(super) struct Asymmetry {
    pub(super) setup: Setup,
    /// State of each group, for each unit.
    states: Vec<Vec<u8>>,
    active: Vec<u16>,
    pending: Vec<Pending>,
    rivalries: u32,
    /// What was executed of SET TARGET PORT GROUPS.
    asked: Vec<(Instant, usize)>,
}

impl Asymmetry {
    fn new(setup: Setup, units: usize) -> Self {
        let mut new = Self {
            setup,
            states: vec![Vec::new(); units],
            active: vec![setup.first; units],
            pending: Vec::new(),
            rivalries: setup.rival,
            asked: Vec::new(),
        };
        (0..units).for_each(|unit| new.settle(unit, setup.first));
        new
    }

    fn settle(&mut self, unit: usize, active: u16) {
        let state = |group| if group == active { OPTIMIZED } else { self.setup.rest };
        self.states[unit] = (1..=self.setup.groups).map(state).collect();
        self.active[unit] = active;
    }

    fn state(&self, unit: usize, group: u16) -> u8 {
        self.states[unit][usize::from(group - 1)]
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.pending.iter().map(|p| p.at).min()
    }
}

impl Target {
    /// Its ports give different access from now on.
    pub(crate) fn set_asymmetry(&mut self, setup: Setup) {
        self.asymmetry = Some(Asymmetry::new(setup, self.units.len()));
    }

    /// Whether the medium of a unit can be reached through a portal group.
    pub(crate) fn is_active(&self, unit: usize, group: u16) -> bool {
        let state = self.asymmetry.as_ref().map_or(OPTIMIZED, |a| a.state(unit, group));
        matches!(state, OPTIMIZED | NON_OPTIMIZED)
    }

    /// When SET TARGET PORT GROUPS was executed since this was asked last, and for which unit.
    pub(crate) fn transitions_asked(&mut self) -> Vec<(Instant, usize)> {
        self.asymmetry.as_mut().map_or_else(Vec::new, |a| std::mem::take(&mut a.asked))
    }

    /// A group is to become active, by the target's own decision or somebody else's.
    pub(crate) fn shift_access(&mut self, unit: usize, active: u16, now: Instant) {
        self.now = Some(now);
        let Some(asymmetry) = &self.asymmetry else { return };
        if asymmetry.active[unit] != active && !asymmetry.pending.iter().any(|p| p.unit == unit) {
            self.count(Trigger::ImplicitTransition);
            self.begin_transition(unit, active, None);
        }
    }

    fn begin_transition(&mut self, unit: usize, active: u16, by: Option<usize>) {
        let now = self.entered_at();
        let at_once = self.random.once_in(4);
        let (partly, third) = (self.random.once_in(2), self.random.once_in(3));
        let Some(longest) = self.asymmetry.as_ref().map(|a| a.setup.longest) else { return };
        let span = self.random.between(Duration::from_millis(1), if third { longest } else { longest / 10 });
        let Some(asymmetry) = &mut self.asymmetry else { return };
        if !at_once {
            // All groups, or those that change.
            let old = asymmetry.active[unit];
            for (index, state) in asymmetry.states[unit].iter_mut().enumerate() {
                let group = u16::try_from(index + 1).unwrap();
                if !partly || group == old || group == active {
                    *state = TRANSITIONING;
                }
            }
        }
        let at = if at_once { now } else { now + span };
        asymmetry.pending.push(Pending { at, unit, active, ends: true, by });
    }

    /// Something that was to become of port groups is due.
    pub(super) fn access_due(&mut self) {
        let now = self.entered_at();
        let Some(asymmetry) = &mut self.asymmetry else { return };
        let Some(at) = asymmetry.pending.iter().position(|p| p.at <= now) else { return };
        let Pending { unit, active, ends, by, .. } = asymmetry.pending.remove(at);
        if !ends {
            self.begin_transition(unit, active, None);
            return;
        }
        let before = asymmetry.active[unit];
        asymmetry.settle(unit, active);
        let attentive = asymmetry.setup.attentive;
        let taken_back = by.is_some() && asymmetry.rivalries > 0 && !self.healed;
        if taken_back {
            asymmetry.rivalries -= 1;
            let at = now + self.random.between(Duration::from_millis(1), Duration::from_millis(500));
            asymmetry.pending.push(Pending { at, unit, active: before, ends: false, by: None });
        }
        if attentive {
            let event = by.is_none().then(|| self.new_event());
            self.access_events.extend(event.map(|event| (event, unit)));
            self.raise(unit, by, (0x2a, 0x06), event);
        }
    }

    /// Changes that nobody here asked for, and of which sessions are told from now on.
    pub(crate) fn access_events(&mut self) -> Vec<(u32, usize)> {
        std::mem::take(&mut self.access_events)
    }

    /// What a port refuses in its state.
    pub(super) fn shut(&mut self, task: &Task) -> Option<Outcome> {
        let asymmetry = self.asymmetry.as_ref()?;
        let state = asymmetry.state(task.unit, self.sessions[task.session].port.portal);
        let always = matches!(
            task.op.kind,
            Kind::Inquiry | Kind::ReportLuns | Kind::RequestSense | Kind::ReportGroups | Kind::SetGroups
        );
        let about = matches!(
            task.op.kind,
            Kind::ModeSense6
                | Kind::ModeSense10
                | Kind::ModeSelect
                | Kind::PersistentIn
                | Kind::PersistentOut
        );
        let capacity = matches!(task.op.kind, Kind::Capacity10 | Kind::Capacity16);
        let served = match state {
            OPTIMIZED | NON_OPTIMIZED => true,
            STANDBY => always || about || capacity && asymmetry.setup.capacity_in_standby,
            _ => always,
        };
        if served {
            return None;
        }
        let (ascq, trigger) = match state {
            TRANSITIONING => (0x0a, Trigger::RefusedTransitioning),
            STANDBY => (0x0b, Trigger::RefusedStandby),
            _ => (0x0c, Trigger::RefusedUnavailable),
        };
        self.count(trigger);
        Some(Outcome::Sense(Sense { key: key::NOT_READY, asc: 0x04, ascq }))
    }

    /// REPORT TARGET PORT GROUPS.
    pub(super) fn report_groups(&mut self, task: &Task) -> Outcome {
        let Some(asymmetry) = &self.asymmetry else { return illegal(0x20) };
        let cdb = &task.command.cdb.0;
        let mut body = Vec::new();
        if cdb[1] >> 5 == 1 {
            match asymmetry.setup.header {
                Header::Extended(seconds) => body.extend_from_slice(&[0x10, seconds, 0, 0]),
                Header::Ignored => {}
                Header::Refused => return illegal(0x24),
            }
        }
        let head = self.head_of(task.session);
        for group in (1..=asymmetry.setup.groups).filter(|g| self.heads.of(*g) == head) {
            let shown = self.heads.shown(group);
            let preferred = u8::from(group == asymmetry.setup.first) << 7;
            let [high, low] = group_number(shown).to_be_bytes();
            body.extend_from_slice(&[preferred | asymmetry.state(task.unit, group), 0xcf, high, low]);
            body.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, u8::try_from(shown).unwrap()]);
        }
        let length = u32::try_from(body.len()).unwrap();
        Outcome::Data([&length.to_be_bytes()[..], &body].concat())
    }

    /// SET TARGET PORT GROUPS.
    pub(super) fn set_groups(&mut self, task: &Task) -> Outcome {
        let (now, heads, head) = (self.entered_at(), self.heads, self.head_of(task.session));
        let Some(asymmetry) = &mut self.asymmetry else { return illegal(0x20) };
        if asymmetry.setup.support & 2 == 0 {
            return illegal(0x20);
        }
        asymmetry.asked.push((now, task.unit));
        let list = task.data.contiguous();
        let meant = |g: &u16, number| heads.of(*g) == head && group_number(heads.shown(*g)) == number;
        let known = |number: u16| (1..=asymmetry.setup.groups).find(|g| meant(g, number));
        let wanted = match list.get(4..8) {
            Some(&[OPTIMIZED, _, high, low]) => known(u16::from_be_bytes([high, low])),
            _ => None,
        };
        let Some(wanted) = wanted.filter(|_| list.len() == 8) else { return illegal(0x26) };
        let busy = asymmetry.pending.iter().any(|p| p.unit == task.unit);
        if asymmetry.setup.refuses || busy {
            self.count(Trigger::TransitionFailed);
            return Outcome::Sense(Sense { key: key::HARDWARE_ERROR, asc: 0x67, ascq: 0x0a });
        }
        self.count(Trigger::ExplicitTransition);
        self.begin_transition(task.unit, wanted, Some(task.session));
        Outcome::Good
    }

    /// Designators of the port asked through, for VPD page 83h.
    pub(super) fn port_designators(&self, session: usize) -> Vec<u8> {
        let Some(asymmetry) = &self.asymmetry else { return vec![0x51, 0x95, 0, 4, 0, 0, 0, 1] };
        let portal = self.heads.shown(self.sessions[session].port.portal);
        let mut data = Vec::new();
        if asymmetry.setup.names_port {
            data.extend_from_slice(&[0x51, 0x94, 0, 4, 0, 0, 0, u8::try_from(portal).unwrap()]);
        }
        if asymmetry.setup.names_group {
            let [high, low] = group_number(portal).to_be_bytes();
            data.extend_from_slice(&[0x51, 0x95, 0, 4, 0, 0, high, low]);
        }
        data
    }

    /// Peripheral qualifier and the byte with TPGS, of standard INQUIRY data.
    pub(super) fn inquiry_access(&self, unit: usize, session: usize) -> (u8, u8) {
        let Some(asymmetry) = &self.asymmetry else { return (0, 0) };
        let state = asymmetry.state(unit, self.sessions[session].port.portal);
        let qualifier = if matches!(state, OPTIMIZED | NON_OPTIMIZED | STANDBY) { 0 } else { 1 };
        (qualifier, asymmetry.setup.support << 4)
    }

    /// Transitions end soon, and nobody interferes any more.
    pub(super) fn heal_access(&mut self) {
        if let Some(asymmetry) = &mut self.asymmetry {
            asymmetry.rivalries = 0;
            asymmetry.pending.retain(|p| p.ends);
        }
    }
}

/// Numbers of groups are not those of portal groups.
fn group_number(group: u16) -> u16 {
    0x100 + group * 3
}
