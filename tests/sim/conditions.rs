//! What the initiator may be told, and what it must be: promise P3, and the part of P5 that is about state.
//!
//! Every condition needs a reason that a single nexus would have had too: somebody reset the unit, changed a mode page,
//! the target was switched off. Each event may be told once, and must be told unless the nexus it waited on was lost.

use crate::initiator::Reserving;

/// A unit attention that something gave a reason for.
#[derive(Clone, Debug)]
struct Reason {
    unit: usize,
    code: (u8, u8),
    /// So often it may be told.
    may: u32,
    /// It must be told once more.
    must: bool,
}

/// Who holds what on a unit, as the initiator believes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Belief {
    pub(crate) reserved: bool,
    pub(crate) registered: bool,
}

/// Everything the initiator may be told.
#[derive(Debug)]
pub(crate) struct Conditions {
    units: usize,
    reasons: Vec<Reason>,
    beliefs: Vec<Belief>,
    foreign_holds: Vec<bool>,
    medium_errors: u32,
    /// Connections were lost since the session began: an outcome may be unknown.
    losses: bool,
}

const POWER_ON: (u8, u8) = (0x29, 0);
const NEXUS_LOSS: (u8, u8) = (0x29, 7);

impl Conditions {
    pub(crate) fn new(units: usize) -> Self {
        Self {
            units,
            reasons: Vec::new(),
            beliefs: vec![Belief::default(); units],
            foreign_holds: vec![false; units],
            medium_errors: 0,
            losses: false,
        }
    }

    fn expect(&mut self, unit: usize, code: (u8, u8), must: bool) {
        match self.reasons.iter_mut().find(|r| r.unit == unit && r.code == code) {
            Some(reason) => {
                reason.may += 1;
                reason.must |= must;
            }
            None => self.reasons.push(Reason { unit, code, may: 1, must }),
        }
    }

    /// A login: the target may say so on every unit.
    pub(crate) fn login(&mut self) {
        for unit in 0..self.units {
            self.expect(unit, POWER_ON, false);
            self.expect(unit, NEXUS_LOSS, false);
        }
    }

    /// The session is gone: what waited on it is gone too, and so are reservations that die with it.
    pub(crate) fn session_lost(&mut self) {
        self.reasons.retain(|r| r.must && r.code == (0x29, 1));
        self.beliefs.iter_mut().for_each(|b| *b = Belief::default());
        self.losses = false;
    }

    /// A connection of Braid's was lost: what waited on its nexus alone may never be told.
    pub(crate) fn connection_lost(&mut self) {
        self.losses = true;
        self.reasons.iter_mut().filter(|r| r.code != (0x29, 1)).for_each(|r| r.must = false);
        for unit in 0..self.units {
            if self.beliefs[unit].reserved || self.beliefs[unit].registered {
                self.expect(unit, NEXUS_LOSS, false);
            }
        }
    }

    /// The initiator resets a unit, or all.
    pub(crate) fn own_reset(&mut self, unit: Option<usize>) {
        for unit in unit.map_or(0..self.units, |u| u..u + 1) {
            for ascq in [0, 2, 3] {
                self.expect(unit, (0x29, ascq), false);
            }
            self.beliefs[unit].reserved = false;
        }
    }

    /// Another initiator resets a unit.
    pub(crate) fn foreign_reset(&mut self, unit: usize, code: (u8, u8)) {
        self.expect(unit, code, true);
        self.beliefs[unit].reserved = false;
        self.foreign_holds[unit] = false;
    }

    pub(crate) fn mode_changed(&mut self, unit: usize) {
        self.expect(unit, (0x2a, 1), true);
    }

    pub(crate) fn power_on(&mut self) {
        self.losses = true;
        for unit in 0..self.units {
            self.expect(unit, (0x29, 1), true);
            self.beliefs[unit].reserved = false;
            self.expect(unit, NEXUS_LOSS, false);
        }
    }

    pub(crate) fn preempted(&mut self, unit: usize) {
        for ascq in [3, 4, 5] {
            self.expect(unit, (0x2a, ascq), false);
        }
        self.beliefs[unit].registered = false;
        self.foreign_holds[unit] = true;
    }

    pub(crate) fn foreign_reserves(&mut self, unit: usize) {
        self.foreign_holds[unit] = true;
    }

    /// A medium error was injected.
    pub(crate) fn expect_medium_error(&mut self) {
        self.medium_errors += 1;
    }

    /// A unit attention was told.
    pub(crate) fn told(&mut self, unit: usize, asc: u8, ascq: u8) {
        let reason = self.reasons.iter_mut().find(|r| r.unit == unit && r.code == (asc, ascq) && r.may > 0);
        let Some(reason) = reason else {
            panic!("P3: unit attention {asc:02x}/{ascq:02x} of unit {unit} without a reason, or told twice");
        };
        reason.may -= 1;
        reason.must = false;
        if (asc, ascq) == NEXUS_LOSS || (asc, ascq) == (0x29, 1) {
            self.beliefs[unit] = Belief { reserved: false, ..self.beliefs[unit] };
        }
    }

    /// A command ran.
    pub(crate) fn ran(&mut self, _unit: usize, _after_attentions: bool) {}

    pub(crate) fn reserved(&mut self, unit: usize, what: Reserving) {
        let belief = &mut self.beliefs[unit];
        match what {
            Reserving::Reserve6 => belief.reserved = true,
            Reserving::Release6 => belief.reserved = false,
            Reserving::Register => belief.registered = true,
            Reserving::Clear => belief.registered = false,
            Reserving::Hold(_) | Reserving::Unhold(_) => {}
        }
    }

    pub(crate) fn medium_error(&mut self) {
        self.medium_errors = self.medium_errors.checked_sub(1).expect("P3: a medium error told too often");
    }

    /// An outcome is unknown only where something was lost.
    pub(crate) fn outcome_unknown(&self) {
        assert!(self.losses, "P3: an outcome is unknown though nothing was lost");
    }

    /// Whether a reservation conflict has a reason.
    pub(crate) fn conflict(&self, unit: usize) -> bool {
        self.foreign_holds[unit]
    }

    pub(crate) fn belief(&self, unit: usize) -> Belief {
        self.beliefs[unit]
    }

    /// At the end, when every unit has been asked until it had nothing left to say.
    pub(crate) fn end(&self) {
        let owed: Vec<_> = self.reasons.iter().filter(|r| r.must).collect();
        assert!(owed.is_empty(), "P3: unit attentions were lost: {owed:?}");
    }
}
