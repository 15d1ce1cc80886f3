//! What the initiator may be told, and what it must be: promise P3, and the part of P5 that is about state.
//!
//! Every condition needs a reason that a single nexus would have had too: somebody reset the unit, changed a mode page,
//! the target was switched off. An event may be told once. It must be told once the target has told Braid of it, over
//! whatever nexus; at the end every unit is asked until it has nothing left to say, so what waits on home is told to Braid.
//! What waited on a nexus that was lost is gone with it, as it would be without Braid.
//!
//! # Limits
//! - Two events with the same code may be one attention at the target: told once is enough, twice is not noticed.
//! - What a further nexus reports may be, for all that anybody can tell, what home has told since that nexus last had nothing
//!   to say, or shortly before (Braid learns of that later than the target): it need not be told again.
//! - An attention that looks like the greeting of a new session (29h/00h) may be taken for it.
//! - What other initiators do to reservations is told like what the initiator does itself: what a further nexus tells of it
//!   need not be told.
//! - What a MODE SELECT of unknown outcome did may be told as somebody else's doing. What a further nexus reports may be
//!   the initiator's own MODE SELECT, if there was one since it last had nothing to say, or its login was sent, and somebody
//!   else's may hide behind it. So it is with resets. One that reports late what the initiator's own did may be believed to report
//!   somebody else's.

use crate::initiator::Reserving;
use crate::oracle::OpId;
use crate::scenario::Scenario;
use std::time::{Duration, Instant};

/// Events of one kind so close that a report of one may be taken for a report of the other.
const HARDLY_APART: Duration = Duration::from_secs(2);

/// A unit attention that something gave a reason for: so often it may be told.
#[derive(Clone, Debug)]
struct Reason {
    unit: usize,
    code: (u8, u8),
    may: u32,
}

/// Something that another initiator did, or that befell the target.
#[derive(Clone, Debug)]
struct Happened {
    event: u32,
    unit: usize,
    code: (u8, u8),
    told: bool,
    /// The target has told Braid.
    owed: bool,
}

/// What the initiator believes of a unit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Belief {
    /// It holds the unit with RESERVE(6).
    pub(crate) reserved: bool,
    /// The command whose end said that it does not: the answer to an earlier RESERVE may come later over another connection.
    lost_with: Option<OpId>,
    /// It did at some time in this session, or registered.
    ever_reserved: bool,
    ever_registered: bool,
    /// It did in an earlier session.
    held_before: bool,
    /// So often it was told of the loss.
    losses_told: u32,
    /// A session of its own that is lost may still hold the unit.
    stale: bool,
    /// It changed mode pages itself in this session, or may have: when it was told so last.
    changed_modes: Option<Instant>,
    /// When it last reset the unit or cleared its task set, or asked for it.
    cleared: Option<Instant>,
}

impl Belief {
    /// Something it held may have been lost with a nexus.
    fn held(self) -> bool {
        self.ever_reserved || self.ever_registered || self.held_before
    }
}

/// The target has told Braid of an event, over a nexus that had nothing to say at `since`.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) event: u32,
    pub(crate) unit: usize,
    pub(crate) home: bool,
    pub(crate) since: Instant,
}

/// What the initiator itself is doing to a unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnderWay {
    pub(crate) selects: bool,
    pub(crate) clears: bool,
}

/// Everything the initiator may be told.
#[derive(Debug)]
pub(crate) struct Conditions {
    reasons: Vec<Reason>,
    happened: Vec<Happened>,
    /// What was told, and when; where there are several connections also what was lost on the way.
    heard: Vec<(usize, (u8, u8), Instant)>,
    beliefs: Vec<Belief>,
    foreign_holds: Vec<bool>,
    /// It did at some time.
    foreign_held: Vec<bool>,
    /// Another initiator had to do with its reservations in whatever way.
    contended: Vec<bool>,
    medium_errors: u32,
    /// Connections were lost since the session began: an outcome may be unknown.
    losses: u32,
    /// A lost session's reservations do not come back to its successor, or not in another portal group.
    keeps_stale: bool,
    /// Portals are in several groups.
    groups: bool,
    /// LUNs that are not home's have changed.
    other_luns_changed: bool,
    /// Of the attention after a reset.
    reset: (u8, u8),
    /// Of the attention after a preemption.
    preempted: (u8, u8),
    /// Something was lost at some time: registrations may have been left behind.
    pub(crate) scarred: bool,
    /// For each unit and path: when it gave no access last.
    shut: Vec<Vec<Option<Instant>>>,
    /// For each unit: since when some path gives access, and when one last did that had for a while.
    open: Vec<(Option<Instant>, Option<Instant>)>,
    /// How long Braid waits for access, where nothing but access states goes wrong and the target lets itself be helped.
    patience: Option<Duration>,
    /// Braid itself changed states of a unit, in this session or one before.
    transitions: Vec<bool>,
}

const GREETING: (u8, u8) = (0x29, 0);
const POWER_ON: (u8, u8) = (0x29, 1);
const NEXUS_LOSS: (u8, u8) = (0x29, 7);
const MODE_CHANGED: (u8, u8) = (0x2a, 1);
const LUNS_CHANGED: (u8, u8) = (0x3f, 0x0e);
const CLEARED: (u8, u8) = (0x2f, 0);
const ACCESS_CHANGED: (u8, u8) = (0x2a, 6);

impl Conditions {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let mut groups: Vec<u16> = scenario.paths.iter().map(|p| p.group).collect();
        groups.sort_unstable();
        groups.dedup();
        Self {
            reasons: Vec::new(),
            happened: Vec::new(),
            heard: Vec::new(),
            beliefs: vec![Belief::default(); scenario.units],
            foreign_holds: vec![false; scenario.units],
            foreign_held: vec![false; scenario.units],
            contended: vec![false; scenario.units],
            medium_errors: 0,
            losses: 0,
            keeps_stale: !scenario.persona.returns_reservation || groups.len() > 1,
            groups: groups.len() > 1,
            other_luns_changed: false,
            reset: scenario.persona.reset_attention,
            preempted: scenario.persona.preempted,
            scarred: false,
            shut: vec![vec![None; scenario.paths.len()]; scenario.units],
            open: vec![(None, None); scenario.units],
            patience: scenario.access.filter(|a| scenario.is_sound() && !a.refuses).map(|a| a.patience()),
            transitions: vec![false; scenario.units],
        }
    }

    fn units(&self) -> std::ops::Range<usize> {
        0..self.beliefs.len()
    }

    fn expect(&mut self, unit: usize, code: (u8, u8)) {
        match self.reasons.iter_mut().find(|r| r.unit == unit && r.code == code) {
            Some(reason) => reason.may += 1,
            None => self.reasons.push(Reason { unit, code, may: 1 }),
        }
    }

    /// One of several connections of the initiator was lost: units tell of it (R200), and what they told of besides may have been
    /// lost with an answer.
    pub(crate) fn line_lost(&mut self) {
        self.units().for_each(|unit| self.expect(unit, (0x47, 0x7f)));
        self.answer_lost();
    }

    /// An answer was lost with one of several connections.
    pub(crate) fn answer_lost(&mut self) {
        self.happened.iter_mut().for_each(|happened| happened.owed = false);
    }

    fn happens(&mut self, event: u32, unit: usize, code: (u8, u8)) {
        self.happened.push(Happened { event, unit, code, told: false, owed: false });
        self.expect(unit, code);
    }

    /// A login: the target may say so on every unit.
    pub(crate) fn login(&mut self) {
        for unit in self.units() {
            self.expect(unit, GREETING);
            if self.transitions[unit] {
                // A session before may have had states changed that are told only now.
                self.expect(unit, ACCESS_CHANGED);
            }
        }
    }

    /// The session is gone: what waited on it is gone too, and so are reservations that die with it. Only of a power cut
    /// its successor is told as well, if it was not.
    pub(crate) fn session_lost(&mut self) {
        self.scarred = true;
        self.reasons.retain(|r| r.code == POWER_ON);
        // Its home may be another nexus, in another portal group, which tells of the cut for itself.
        let groups = self.groups;
        self.reasons.iter_mut().filter(|_| groups).for_each(|r| r.may = r.may.max(1));
        self.happened.retain(|h| h.code == POWER_ON);
        self.happened.iter_mut().for_each(|h| h.owed = false);
        let keeps_stale = self.keeps_stale;
        for belief in &mut self.beliefs {
            let stale = belief.stale || keeps_stale && belief.held();
            *belief = Belief { stale, held_before: belief.held(), ..Belief::default() };
        }
        self.losses = 0;
    }

    /// A connection of Braid's was lost, and with it the nexus that may have held reservations.
    pub(crate) fn connection_lost(&mut self) {
        self.losses += 1;
        self.scarred = true;
    }

    /// The initiator resets a unit, or all: some targets tell the one who did it too.
    pub(crate) fn own_reset(&mut self, unit: Option<usize>) {
        for unit in unit.map_or_else(|| self.units(), |u| u..u + 1) {
            self.expect(unit, self.reset);
        }
    }

    /// The initiator's reset is done.
    pub(crate) fn was_reset(&mut self, unit: Option<usize>) {
        for unit in unit.map_or_else(|| self.units(), |u| u..u + 1) {
            self.beliefs[unit].reserved = false;
        }
    }

    /// Another initiator resets a unit.
    pub(crate) fn foreign_reset(&mut self, event: u32, unit: usize) {
        self.happens(event, unit, self.reset);
        self.foreign_holds[unit] = false;
    }

    /// Another initiator clears the task set of a unit.
    pub(crate) fn foreign_clear(&mut self, event: u32, unit: usize) {
        self.happens(event, unit, CLEARED);
    }

    /// Access states of a unit were changed by somebody else.
    pub(crate) fn access_changed(&mut self, event: u32, unit: usize) {
        self.happens(event, unit, ACCESS_CHANGED);
    }

    /// Braid has access states changed, and will keep to itself what the target says of it.
    pub(crate) fn transition_asked(&mut self, unit: usize) {
        self.transitions[unit] = true;
        let alike = |h: &&mut Happened| h.unit == unit && h.code == ACCESS_CHANGED;
        self.happened.iter_mut().filter(alike).for_each(|h| h.owed = false);
    }

    /// Which paths give access to a unit now.
    pub(crate) fn note_access(&mut self, unit: usize, open: &[bool], now: Instant) {
        for (shut, _) in self.shut[unit].iter_mut().zip(open).filter(|(_, open)| !**open) {
            *shut = Some(now);
        }
        let (since, last) = &mut self.open[unit];
        if open.contains(&true) {
            if *since.get_or_insert(now) + HARDLY_APART <= now {
                *last = Some(now);
            }
        } else {
            *since = None;
        }
    }

    /// A command issued at a time was refused for the state of a port.
    pub(crate) fn refused(&self, unit: usize, issued: Instant, now: Instant) {
        // What is reserved stays where it is, and while another initiator holds it nothing can be proved.
        if self.beliefs[unit].held() || self.foreign_held[unit] {
            return;
        }
        let open = self.shut[unit].iter().position(|shut| shut.is_none_or(|at| at < issued));
        assert!(open.is_none(), "P3: refused, though path {open:?} gave access to unit {unit} all the time");
        let lately = |patience| self.open[unit].1.is_some_and(|at| now + HARDLY_APART < at + patience);
        let hasty = self.patience.is_some_and(lately);
        assert!(!hasty, "P3: refused, though unit {unit} was accessible a short while ago");
    }

    pub(crate) fn mode_changed(&mut self, event: u32, unit: usize) {
        self.happens(event, unit, MODE_CHANGED);
        if self.beliefs[unit].changed_modes.is_some() {
            self.expect(unit, MODE_CHANGED);
        }
    }

    /// It resets a unit or all, or clears a task set; or was told what came of it.
    pub(crate) fn clears(&mut self, unit: Option<usize>, now: Instant) {
        for unit in unit.map_or_else(|| self.units(), |u| u..u + 1) {
            self.beliefs[unit].cleared = Some(now);
        }
    }

    /// A MODE SELECT of its own was done.
    pub(crate) fn mode_selected(&mut self, unit: usize, now: Instant) {
        self.beliefs[unit].changed_modes = Some(now);
    }

    /// A MODE SELECT of its own may have been done, by a nexus that is gone: who did what can no longer be told apart.
    pub(crate) fn mode_maybe_changed(&mut self, unit: usize, now: Instant) {
        self.beliefs[unit].changed_modes = Some(now);
        self.expect(unit, MODE_CHANGED);
        self.happened.retain(|h| h.unit != unit || h.code != MODE_CHANGED);
    }

    pub(crate) fn power_on(&mut self, event: u32) {
        self.losses += 1;
        for unit in self.units() {
            self.happens(event, unit, POWER_ON);
        }
    }

    pub(crate) fn preempted(&mut self, event: u32, unit: usize) {
        self.happens(event, unit, self.preempted);
        self.contended[unit] = true;
    }

    /// Another initiator did something that those are told of who are registered; `home`: home is.
    pub(crate) fn interfered(&mut self, event: u32, unit: usize, code: (u8, u8), home: bool) {
        self.happens(event, unit, code);
        self.contended[unit] = true;
        // What only further nexuses are told looks like what the initiator did itself.
        self.happened.retain(|h| h.event != event || home);
    }

    pub(crate) fn foreign_reserves(&mut self, unit: usize, holds: bool) {
        self.foreign_holds[unit] |= holds;
        self.foreign_held[unit] |= holds;
        self.contended[unit] |= holds;
    }

    /// A medium error was injected.
    pub(crate) fn expect_medium_error(&mut self) {
        self.medium_errors += 1;
    }

    /// The target told Braid of an event, over home or a further nexus, which had nothing to say at `since`. (Of a power
    /// cut each tells by itself.) A further nexus says the same of a MODE SELECT or a reset of the initiator's own, which
    /// may be under way.
    pub(crate) fn reported(&mut self, told: &Told, under_way: UnderWay) {
        let Told { event, unit, home, since } = *told;
        if !self.units().contains(&unit) {
            // Of a disk that home does not show.
            return;
        }
        let (heard, belief, reset) = (&self.heard, self.beliefs[unit], self.reset);
        let lately = |at: Option<Instant>| at.is_some_and(|at| at >= since);
        let own = |code| match code {
            MODE_CHANGED => under_way.selects || lately(belief.changed_modes),
            CLEARED => under_way.clears || lately(belief.cleared),
            code => code == reset && (under_way.clears || lately(belief.cleared)),
        };
        let late = |h: &Happened| {
            heard.iter().any(|(u, code, at)| *u == unit && *code == h.code && *at + HARDLY_APART >= since)
        };
        let known = self.happened.iter_mut().filter(|h| h.event == event && h.unit == unit && !h.told);
        let registered = belief.ever_registered;
        // What Braid's own transition did, and what somebody else's, look the same.
        let transitions = self.transitions[unit];
        let clear = |h: &&mut Happened| {
            let deed = own(h.code) || h.code.0 == 0x2a && h.code.1 > 2 && registered;
            let doubtful = h.code == POWER_ON || deed || late(h);
            let own = transitions && h.code == ACCESS_CHANGED;
            !own && (home || !doubtful)
        };
        known.filter(clear).for_each(|h| h.owed = true);
    }

    /// LUNs of another portal group than home's changed. They may be home's for all that Braid can tell after home was away.
    pub(crate) fn other_luns_changed(&mut self) {
        self.other_luns_changed = true;
    }

    /// A unit attention is on its way.
    pub(crate) fn is_told(&mut self, unit: usize, code: (u8, u8), now: Instant) {
        self.heard.push((unit, code, now));
    }

    /// A unit attention was told.
    pub(crate) fn told(&mut self, unit: usize, op: OpId, code: (u8, u8), now: Instant) {
        let (asc, ascq) = code;
        self.heard.push((unit, code, now));
        if asc == 0x29 {
            self.perhaps_released(unit, op);
        }
        let belief = &mut self.beliefs[unit];
        if code == NEXUS_LOSS && belief.held() && belief.losses_told < self.losses {
            belief.losses_told += 1;
            return;
        }
        if code == LUNS_CHANGED && self.other_luns_changed && self.losses > 0 {
            return;
        }
        // Where home has moved to another portal group, another nexus tells of a power cut for itself; and one that tells of it
        // while its neighbours are idle may mean one that came after they had told.
        let again = code == POWER_ON && self.groups && (self.losses > 0 || self.scarred);
        let reason = self.reasons.iter_mut().find(|r| r.unit == unit && r.code == code && r.may > 0);
        match reason {
            Some(reason) => reason.may -= 1,
            None => assert!(
                again && self.happened.iter().any(|h| h.code == code),
                "P3: unit attention {asc:02x}/{ascq:02x} of unit {unit} without a reason, or told twice"
            ),
        }
        for happened in self.happened.iter_mut().filter(|h| h.unit == unit && h.code == code) {
            happened.told = true;
            happened.owed = false;
        }
    }

    /// Whether a connection of Braid's was lost in this session.
    pub(crate) fn has_lost_connections(&self) -> bool {
        self.losses > 0
    }

    /// A read was answered with BUSY: a further nexus had something to say.
    pub(crate) fn busy(&self, unit: usize) {
        let reason = self.reasons.iter().any(|r| r.unit == unit);
        assert!(reason || self.transitions[unit], "P3: unit {unit} is busy without a reason");
    }

    /// What a reservation command did is not known.
    pub(crate) fn reservation_unknown(&mut self, unit: usize) {
        self.beliefs[unit].ever_registered = true;
    }

    /// A reservation ended with this command, for all that is known: it was told so, or nobody answers a RELEASE.
    pub(crate) fn perhaps_released(&mut self, unit: usize, op: OpId) {
        let belief = &mut self.beliefs[unit];
        belief.reserved = false;
        belief.lost_with = belief.lost_with.max(Some(op));
    }

    /// A reservation command ended well.
    pub(crate) fn reserved(&mut self, unit: usize, op: OpId, what: Reserving) {
        let belief = &mut self.beliefs[unit];
        match what {
            Reserving::Reserve6 => {
                belief.ever_reserved = true;
                belief.reserved |= Some(op) > belief.lost_with;
            }
            Reserving::Release6 => self.perhaps_released(unit, op),
            Reserving::Register
            | Reserving::Hold(_)
            | Reserving::Unhold(_)
            | Reserving::Clear
            | Reserving::Rekey(_)
            | Reserving::Preempt => {
                belief.ever_registered = true;
            }
        }
    }

    /// A flush did not reach what a target may have held in its cache: its paths were lost, in an earlier session perhaps that
    /// left something there, or it shows the unit no more, or somebody else's reservation shuts its nexus out (and mostly home).
    pub(crate) fn flush_failed(&self, unit: usize) {
        let lost = self.scarred || self.other_luns_changed || self.contended[unit];
        assert!(lost && self.groups, "P3: a flush failed though nothing was lost");
    }

    pub(crate) fn medium_error(&mut self) {
        self.medium_errors = self.medium_errors.checked_sub(1).expect("P3: a medium error told too often");
    }

    /// An outcome is unknown only where something was lost, or `cleared` by somebody else, and the command must not run twice, or not without the
    /// reservation that it was given under.
    pub(crate) fn outcome_unknown(&self, unit: usize, runs_once: bool, cleared: bool, given_up: bool) {
        assert!(self.losses > 0 || cleared, "P3: an outcome is unknown though nothing was lost");
        // What somebody cleared on a unit that has not said yet what it is may be anything.
        assert!(runs_once || cleared || given_up || self.beliefs[unit].held(), "P3: it could have run again");
    }

    /// Whether a reservation conflict has a reason.
    pub(crate) fn conflict(&self, unit: usize) -> bool {
        let belief = self.beliefs[unit];
        let lost = self.keeps_stale && self.losses > 0 && belief.held();
        self.foreign_holds[unit] || belief.stale || lost
    }

    /// Whether the initiator is still to be told something.
    pub(crate) fn owes(&self) -> bool {
        self.happened.iter().any(|h| h.owed)
    }

    /// At the end, when every unit has been asked until it had nothing left to say; `reserved` is what the target thinks.
    pub(crate) fn end(&self, reserved: impl Fn(usize) -> bool) {
        let owed: Vec<_> = self.happened.iter().filter(|h| h.owed).collect();
        assert!(owed.is_empty(), "P3: unit attentions were lost: {owed:?}");
        for unit in self.units() {
            let held = !self.beliefs[unit].reserved || reserved(unit);
            assert!(held, "P5: the initiator believes that unit {unit} is reserved for it");
        }
    }
}
