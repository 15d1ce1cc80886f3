//! What one seed is: the target, the paths, what the initiator does, and what goes wrong and when.
//!
//! Each seed takes a few of the things that may go wrong, not all, so that every pair of them meets in some seed without
//! a third in the way.

use crate::inventory::Inventory;
use crate::net::Quality;
use crate::orders::Order;
use crate::random::Random;
use crate::target::{AccessSetup, Deed, Header, Heads, LunChange, Persona};
use braid::path::select::Policy;
use braid::session::{Barriers, Fanout, FenceMethod, Hedge, Marginal};
use std::time::Duration;

const US: Duration = Duration::from_micros(1);
const MS: Duration = Duration::from_millis(1);
/// Names the stream of [`OrderSetup`].
const ORDER: u64 = 0x6f72_6465;
/// Names the stream that says whether tgt sends data before sense.
const DATA_BEFORE_SENSE: u64 = 0x6761_7262;

/// One path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathSetup {
    pub(crate) quality: Quality,
    /// Portal group tag of its portal.
    pub(crate) group: u16,
    /// It leads to another target that shows other disks under the same name.
    pub(crate) wrong: bool,
}

/// Something that goes wrong, or happens to a path or target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// A connection of the path is reset, by the network or by the target.
    Reset(usize),
    /// The target closes the path's connections in order.
    Fin(usize),
    /// Nothing gets through: towards the target, back, or both.
    Silence(usize, bool, bool, Duration),
    /// Silence and resets in quick succession.
    Flap(usize),
    /// The target's end reads nothing for a while.
    SlowDrain(usize, Duration),
    /// New connections are refused, and those there are reset.
    Down(usize, Duration),
    /// Every path at once.
    AllDown(Duration),
    /// Paths go silent one after the other and come back in another order.
    Clog(Duration),
    TargetRestart,
    PowerCut,
    /// One of two targets of different names loses power, or all paths to it, for a while.
    HeadLosesPower(usize),
    HeadDown(usize, Duration),
    /// Braid's process dies: its connections are reset. Or its host: they fall silent.
    BraidCrash {
        host: bool,
    },
    /// The initiator's connection is reset; it logs in again.
    InitiatorCrash,
    /// The initiator logs out, and in again.
    InitiatorLogout,
    /// One of several connections of the initiator is reset, by whoever notices first.
    LineLost,
    /// The initiator logs one of them out.
    LineLeaves,
    /// The initiator reads nothing for a while.
    InitiatorPauses(Duration),
    ForeignReset,
    ForeignClear,
    ForeignModeSelect,
    ForeignReserve,
    ForeignPreempt,
    /// Another initiator registers, reserves, preempts.
    Foreign(Deed),
    MediaError,
    /// Another port group becomes active for a unit.
    AccessShifts(u16),
    /// The target asks for logout of a path's connections.
    AsyncLogout(usize),
    /// The operator wants something.
    Operator(Order),
    /// LUNs of the second portal group change.
    Luns(LunChange),
    /// The initiator manages its tasks.
    AbortTask,
    AbortTaskSet,
    ClearTaskSet,
    ResetUnit,
    ResetTarget,
    ColdReset,
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Reset(_) => "fault: reset",
            Self::Fin(_) => "fault: target closes in order",
            Self::Silence(_, true, true, _) => "fault: silence both ways",
            Self::Silence(_, true, _, _) => "fault: silence towards the target",
            Self::Silence(..) => "fault: silence towards braid",
            Self::Flap(_) => "fault: flap",
            Self::SlowDrain(..) => "fault: slow drain",
            Self::Down(..) => "fault: connections refused",
            Self::AllDown(_) => "fault: all paths down",
            Self::Clog(_) => "fault: paths clog one after the other",
            Self::TargetRestart => "fault: target restarts",
            Self::PowerCut => "fault: target loses power",
            Self::HeadLosesPower(_) => "fault: one of two targets loses power",
            Self::HeadDown(..) => "fault: all paths to one of two targets down",
            Self::BraidCrash { host: false } => "fault: braid's process dies",
            Self::BraidCrash { host: true } => "fault: braid's host dies",
            Self::InitiatorCrash => "fault: initiator's connection is reset",
            Self::InitiatorLogout => "initiator logs out and in again",
            Self::LineLost => "fault: one of the initiator's connections is reset",
            Self::LineLeaves => "initiator logs one of its connections out",
            Self::InitiatorPauses(_) => "fault: initiator reads nothing",
            Self::ForeignReset => "other initiator: resets a unit",
            Self::ForeignClear => "other initiator: clears a task set",
            Self::ForeignModeSelect => "other initiator: changes a mode page",
            Self::ForeignReserve => "other initiator: reserves a unit",
            Self::ForeignPreempt => "other initiator: preempts",
            Self::Foreign(deed) => deed.name(),
            Self::MediaError => "fault: medium error",
            Self::AccessShifts(_) => "access: another port group becomes active",
            Self::AsyncLogout(_) => "target asks for logout",
            Self::Operator(order) => order.name(),
            Self::Luns(LunChange::Vanish(_)) => "luns: one vanishes",
            Self::Luns(LunChange::Appear(_)) => "luns: one appears",
            Self::Luns(LunChange::Trade(..)) => "luns: two change places",
            Self::Luns(LunChange::Recabled(_)) => "luns: others behind the same address",
            Self::AbortTask => "task management: abort task",
            Self::AbortTaskSet => "task management: abort task set",
            Self::ClearTaskSet => "task management: clear task set",
            Self::ResetUnit => "task management: logical unit reset",
            Self::ResetTarget => "task management: target warm reset",
            Self::ColdReset => "task management: target cold reset",
        }
    }
}

/// A fault, once so many commands have been issued and then some time has passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    pub(crate) after_commands: u32,
    pub(crate) delay: Duration,
    pub(crate) fault: Fault,
}

/// How often the initiator does what, in parts of the whole.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mix {
    pub(crate) read: usize,
    pub(crate) write: usize,
    pub(crate) fua: usize,
    pub(crate) flush: usize,
    pub(crate) write_same: usize,
    pub(crate) unmap: usize,
    pub(crate) compare_and_write: usize,
    pub(crate) vendor: usize,
    pub(crate) reserve: usize,
    pub(crate) persistent: usize,
    pub(crate) query: usize,
    pub(crate) mode_select: usize,
    pub(crate) ping: usize,
    /// Persistent reservations in earnest.
    pub(crate) registering: usize,
    /// One in so many commands is ORDERED or HEAD OF QUEUE; 0 for none.
    pub(crate) ordered: usize,
    pub(crate) head_of_queue: usize,
}

/// What concerns order alone; drawn apart from all the rest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OrderSetup {
    /// Flushes name the blocks that they are for.
    pub(crate) flush_ranges: bool,
    pub(crate) barriers: Barriers,
    /// Some commands have NACA set.
    pub(crate) naca: bool,
    /// Peripheral device type of the units.
    pub(crate) device_type: u8,
    /// The Control mode page that is there to be read.
    pub(crate) control: Option<[u8; 3]>,
    /// How long Braid waits for a path before it answers BUSY; otherwise it closes the session after a minute.
    pub(crate) impatience: Option<Duration>,
    /// Braid's kernel tells when a link comes up.
    pub(crate) told_of_links: bool,
    /// Which paths are kept for emergencies. Scenarios are short, and paths are not lost often in them.
    pub(crate) marginal: Marginal,
}

impl OrderSetup {
    fn draw(mut random: Random) -> Self {
        let flush_ranges = random.once_in(3);
        let barriers = if random.once_in(8) { Barriers::Native } else { Barriers::Strict };
        let naca = random.once_in(10);
        let device_type = if random.once_in(12) { random.pick(&[0x01, 0x01, 0x0e, 0x14]) } else { 0 };
        let control = random.once_in(8).then(|| {
            [
                random.pick(&[0, 0x04, 0x20]),
                random.pick(&[0, 0, 0x02, 0x06]),
                random.pick(&[0, 0, 0x20, 0x30]),
            ]
        });
        let impatience = random.once_in(10).then(|| random.between(20 * MS, 2000 * MS));
        let told_of_links = random.once_in(3);
        let losses = random.pick(&[0, 2, 2, 5]);
        let marginal = Marginal { losses, within: 60_000 * MS, calm: random.pick(&[1000 * MS, 10_000 * MS]) };
        Self { flush_ranges, barriers, naca, device_type, control, impatience, told_of_links, marginal }
    }
}

/// Everything about one seed.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) persona: Persona,
    pub(crate) fanout: Fanout,
    pub(crate) paths: Vec<PathSetup>,
    pub(crate) downstream: Quality,
    pub(crate) policy: Policy,
    pub(crate) fence: FenceMethod,
    pub(crate) units: usize,
    pub(crate) blocks: usize,
    pub(crate) longest: usize,
    pub(crate) commands: u32,
    pub(crate) depth: usize,
    pub(crate) window: u32,
    pub(crate) memory: u64,
    pub(crate) initial_r2t: bool,
    pub(crate) immediate_data: bool,
    /// Tags are used again as soon as they are free.
    pub(crate) reuse_tags: bool,
    /// Pause between the initiator's turns.
    pub(crate) think: Duration,
    pub(crate) mix: Mix,
    pub(crate) order: OrderSetup,
    /// Port groups have access states of their own.
    pub(crate) access: Option<AccessSetup>,
    pub(crate) faults: Vec<Planned>,
    /// The LUNs of the second portal group, if they are others than home's.
    pub(crate) inventory: Option<Inventory>,
    /// Portal groups belong to targets of different names.
    pub(crate) heads: Heads,
    /// The initiator runs at error recovery level 1, and PDUs come spoilt to it and from it.
    pub(crate) recovers: bool,
    /// Braid is to have sessions of several connections keep their tasks.
    pub(crate) reassigns: bool,
    /// Connections of the initiator.
    pub(crate) lines: usize,
    /// Which reads are asked again because they are late.
    pub(crate) hedge: Option<Hedge>,
}

impl Scenario {
    /// In one seed of thirteen; no seed that is kept for something else is among them.
    pub(crate) fn draw_recovery(&mut self, seed: u64, cut: bool) {
        self.recovers = matches!(seed % 39, 16 | 26 | 35) && !cut;
        if self.recovers {
            // What is sent again must not be taken for another command's.
            self.reuse_tags = false;
        }
    }

    /// Draws one.
    pub(crate) fn draw(random: &mut Random) -> Self {
        let order = OrderSetup::draw(random.branch(ORDER));
        let data_before_sense = random.branch(DATA_BEFORE_SENSE).once_in(3);
        let persona = draw_persona(random);
        // The probe would find the others out.
        let orders = persona.orders_across_connections();
        let fanout = if orders && !random.once_in(3) { Fanout::Mcs } else { Fanout::Sessions };
        let count = random.pick(&[1, 2, 2, 3, 3, 4, 5]);
        let quality = draw_quality(random);
        let split = random.once_in(5);
        let wrong = count > 1 && random.once_in(20);
        let paths: Vec<PathSetup> = (0..count)
            .map(|n| PathSetup {
                quality: if random.once_in(3) { draw_quality(random) } else { quality },
                group: if split && n % 2 == 1 { 2 } else { 1 },
                wrong: wrong && n == count - 1,
            })
            .collect();
        let commands = random.pick(&[20, 40, 60, 60, 90]);
        let mut scenario = Self {
            persona,
            fanout,
            paths,
            downstream: draw_quality(random),
            policy: random.pick(&[
                Policy::RoundRobin,
                Policy::ServiceTime,
                Policy::QueueDepth,
                Policy::Failover,
            ]),
            fence: FenceMethod::Auto,
            units: random.pick(&[1, 1, 2, 3]),
            blocks: random.pick(&[12, 24, 48]),
            longest: random.pick(&[2, 6, 10]),
            commands,
            depth: random.pick(&[1, 2, 4, 8, 8, 16, 32, 128]),
            window: random.pick(&[1, 8, 32, 128]),
            memory: random.pick(&[1 << 20, 1 << 20, 16 << 10, 4 << 10]),
            initial_r2t: random.once_in(3),
            immediate_data: !random.once_in(3),
            reuse_tags: random.once_in(2),
            think: random.pick(&[10 * US, 100 * US, 2 * MS]),
            mix: draw_mix(random),
            order,
            access: None,
            faults: Vec::new(),
            inventory: None,
            heads: Heads::default(),
            recovers: false,
            reassigns: false,
            lines: 1,
            hedge: None,
        };
        scenario.faults = scenario.draw_faults(random);
        if random.once_in(4) {
            scenario.take_theme(random);
        }
        if scenario.persona.forgets {
            // What may take its time, or must not run twice, is never told from what the target has forgotten.
            (scenario.order.naca, scenario.order.device_type) = (false, 0);
        }
        scenario.persona.device_type = scenario.order.device_type;
        scenario.persona.control = scenario.order.control;
        scenario.persona.data_before_sense = data_before_sense && scenario.persona.vendor == "IET";
        scenario
    }

    /// The initiator uses persistent reservations in earnest, and another one interferes.
    pub(crate) fn contend(&mut self, random: &mut Random) {
        self.mix.registering = random.pick(&[2, 4, 8]);
        self.commands = self.commands.max(random.pick(&[60, 90, 150]));
        if random.once_in(2) {
            // Nothing else goes wrong, or little that makes nexuses come late.
            self.faults.clear();
        }
        for _ in 0..random.pick(&[0, 2, 4, 8]) {
            let kind = random.pick(&[1, 3, 5, 6, 7, 8]);
            let key = random.pick(&[0x42, 0x42, 0x43]);
            let deed = match random.below(8) {
                0 | 1 => Deed::Register(random.pick(&[0x77, 0x77, 0x42])),
                2 => Deed::Hold(kind),
                3..=5 => Deed::Preempt { key, kind, abort: random.once_in(3) },
                6 => Deed::Leave,
                _ => Deed::Clear,
            };
            let after_commands = u32::try_from(random.below(self.commands as usize)).unwrap();
            let spread = random.pick(&[100 * US, 2 * MS, 50 * MS]);
            let delay = random.between(Duration::ZERO, spread);
            self.faults.push(Planned { after_commands, delay, fault: Fault::Foreign(deed) });
            if random.once_in(3) {
                let path = random.below(self.paths.len());
                let delay = random.between(Duration::ZERO, 5 * MS);
                self.faults.push(Planned { after_commands, delay, fault: Fault::Reset(path) });
            }
        }
    }

    /// What functions of the initiator and of others meet besides, in some scenarios; `random` is a stream of its own.
    pub(crate) fn add_management(&mut self, random: &mut Random) {
        if !random.once_in(8) {
            return;
        }
        self.persona.refuses_sets = random.pick(&[0, 2]);
        self.persona.ignores_functions = random.pick(&[0, 0, 3]);
        let kinds = [
            Fault::AbortTaskSet,
            Fault::ClearTaskSet,
            Fault::ResetUnit,
            Fault::ForeignReset,
            Fault::ForeignClear,
            Fault::ForeignClear,
            Fault::ColdReset,
        ];
        for _ in 0..=random.below(3) {
            let fault = random.pick(&kinds);
            let after_commands = u32::try_from(random.below(self.commands as usize)).unwrap();
            for _ in 0..random.pick(&[1, 1, 2]) {
                let spread = random.pick(&[100 * US, 2 * MS, 50 * MS]);
                let delay = random.between(Duration::ZERO, spread);
                self.faults.push(Planned { after_commands, delay, fault });
            }
        }
    }

    /// A unit is reset time and again, by whomever, in some scenarios; `random` is a stream of its own.
    pub(crate) fn add_resets(&mut self, random: &mut Random) {
        if !random.once_in(8) {
            return;
        }
        let after_commands = u32::try_from(random.below(self.commands as usize)).unwrap();
        let spread = random.pick(&[2 * MS, 50 * MS, 1000 * MS]);
        for _ in 0..random.pick(&[2, 3, 6]) {
            let delay = random.between(Duration::ZERO, spread);
            let fault = random.pick(&[Fault::ResetUnit, Fault::ForeignReset]);
            self.faults.push(Planned { after_commands, delay, fault });
        }
    }

    /// The target has port groups with states of their own, which change.
    pub(crate) fn divide(&mut self, mut random: Random) {
        // What is bound to home stays there, whatever its port gives access to.
        (self.order.naca, self.order.device_type, self.persona.device_type) = (false, 0, 0);
        // tgt, the one target known to do so, has no port groups.
        self.persona.telling.each = false;
        (self.order.control, self.persona.control) = (None, None);
        let portals = if random.once_in(4) { 3 } else { 2 };
        for (n, path) in self.paths.iter_mut().enumerate() {
            path.group = u16::try_from(1 + n % portals).unwrap();
        }
        let reached = u16::try_from(portals.min(self.paths.len())).unwrap();
        let support = random.pick(&[1, 1, 2, 3]);
        // One more group that only others reach: it takes an explicit transition to get the unit back.
        let lonely = support & 2 != 0 && random.once_in(2);
        let groups = reached + u16::from(lonely);
        let any = |random: &mut Random| u16::try_from(1 + random.below(usize::from(groups))).unwrap();
        let header = random.pick(&[
            Header::Extended(4),
            Header::Extended(0),
            Header::Extended(20),
            Header::Ignored,
            Header::Refused,
        ]);
        let told = random.below(3);
        let longest = random.pick(&[20 * MS, 500 * MS, 3000 * MS]);
        self.access = Some(AccessSetup {
            support,
            groups,
            first: any(&mut random),
            rest: if support & 2 == 0 { random.pick(&[1, 2, 2, 3, 0xe]) } else { random.pick(&[1, 2, 2, 3]) },
            header,
            names_group: told != 1,
            names_port: told != 0,
            attentive: !random.once_in(3),
            capacity_in_standby: random.once_in(2),
            longest,
            refuses: random.once_in(10),
            rival: random.pick(&[0, 0, 1, 2]),
        });
        if random.once_in(2) {
            // Nothing else goes wrong.
            self.faults.clear();
            self.paths.iter_mut().for_each(|p| p.wrong = false);
        }
        for _ in 0..random.pick(&[1, 2, 4, 6]) {
            let spread = random.pick(&[100 * US, 2 * MS, 50 * MS, 2000 * MS]);
            self.faults.push(Planned {
                after_commands: u32::try_from(random.below(self.commands as usize)).unwrap(),
                delay: random.between(Duration::ZERO, spread),
                fault: Fault::AccessShifts(any(&mut random)),
            });
        }
    }

    /// Whether nothing goes wrong but that access states change.
    pub(crate) fn is_sound(&self) -> bool {
        let sound = |p: &Planned| matches!(p.fault, Fault::AccessShifts(_));
        self.faults.iter().all(sound) && !self.paths.iter().any(|p| p.wrong)
    }

    /// Some faults need others beside them, and soon, or a target of a certain kind.
    fn take_theme(&mut self, random: &mut Random) {
        let theme = random.below(5);
        self.commands = 60;
        self.faults.clear();
        self.depth = random.pick(&[8, 16, 32]);
        self.window = 32;
        self.persona.slow_once_in = 4;
        match theme {
            // Task management while commands are slow, and paths are lost under it.
            0 => {
                self.blocks = 12;
                for _ in 0..2 + random.below(3) {
                    let kind = 21 + random.below(3);
                    self.cluster(kind, random);
                    if random.once_in(2) {
                        self.cluster(0, random);
                    }
                }
            }
            // Fences of several units.
            1 => {
                self.persona = if random.once_in(2) { Persona::tgt() } else { Persona::unknown() };
                self.persona.slow_once_in = 3;
                (self.units, self.fanout) = (random.pick(&[2, 3]), Fanout::Sessions);
                for _ in 0..random.pick(&[2, 3, 5]) {
                    self.cluster(random.pick(&[0, 0, 3, 8]), random);
                }
            }
            // Connections come and go in two portal groups.
            2 => {
                for (n, path) in self.paths.iter_mut().enumerate() {
                    path.group = u16::try_from(1 + n % 2).unwrap();
                }
                self.persona = if random.once_in(2) { Persona::lab() } else { Persona::unknown() };
                self.fanout = Fanout::Mcs;
                for _ in 0..random.pick(&[0, 2, 4]) {
                    self.cluster(random.pick(&[0, 2, 8, 9, 20]), random);
                }
            }
            // A target that forgets while home settles and its device is busy for others.
            3 => {
                self.persona = Persona::istgt();
                self.persona.slow_once_in = 1;
                if !random.once_in(3) {
                    (self.fanout, self.units, self.longest) = (Fanout::Sessions, 1, 2);
                    self.think = 2 * MS;
                }
                for _ in 0..3 {
                    self.cluster(random.pick(&[0, 3, 6]), random);
                }
                self.lose_home(random);
            }
            // Home is near, the other paths are far, and functions of home's are lost with it.
            _ => {
                (self.blocks, self.longest, self.units, self.fanout) = (12, 2, 1, Fanout::Sessions);
                self.persona = random.pick(&[Persona::lab, Persona::tgt, Persona::tgt, Persona::lio])();
                self.persona.slow_once_in = 3;
                for (n, path) in self.paths.iter_mut().enumerate() {
                    path.quality.delay = if n == 0 { 5 * US } else { MS };
                    path.quality.jitter = Duration::ZERO;
                }
                // Slowly, so that the far paths are in use by then.
                (self.commands, self.think, self.policy) = (120, 2 * MS, Policy::RoundRobin);
                self.downstream.delay = 50 * US;
                for _ in 0..4 {
                    self.cluster(random.pick(&[22, 23, 23]), random);
                    if random.once_in(2) {
                        self.lose_home(random);
                    }
                }
            }
        }
    }

    /// Home's path is reset about when the fault planned last happens.
    fn lose_home(&mut self, random: &mut Random) {
        let Some(last) = self.faults.last().copied() else { return };
        let soon = random.pick(&[20 * US, 2 * MS, 40 * MS, 400 * MS]);
        let delay = last.delay + random.between(Duration::ZERO, soon);
        self.faults.push(Planned { delay, fault: Fault::Reset(0), ..last });
    }

    /// The same kind of fault a few times, within a short time.
    fn cluster(&mut self, kind: usize, random: &mut Random) {
        let after_commands = u32::try_from(random.below(self.commands as usize)).unwrap();
        for _ in 0..random.pick(&[1, 2, 3]) {
            let spread = random.pick(&[100 * US, 2 * MS, 50 * MS]);
            let delay = random.between(Duration::ZERO, spread);
            let fault = self.draw_fault(kind, random);
            self.faults.push(Planned { after_commands, delay, fault });
        }
    }

    /// Whether nothing at all goes wrong.
    pub(crate) fn is_calm(&self) -> bool {
        self.faults.is_empty()
    }

    fn draw_faults(&self, random: &mut Random) -> Vec<Planned> {
        let kinds = random.pick(&[0, 1, 1, 2, 2, 3, 4]);
        let mut faults = Vec::new();
        for _ in 0..kinds {
            let kind = random.below(24);
            for _ in 0..random.pick(&[1, 1, 2, 4]) {
                let fault = self.draw_fault(kind, random);
                let (most, spread) = (self.commands as usize, random.pick(&[100 * US, 2 * MS, 50 * MS]));
                faults.push(Planned {
                    after_commands: u32::try_from(random.below(most)).unwrap(),
                    delay: random.between(Duration::ZERO, spread),
                    fault,
                });
            }
        }
        faults
    }

    fn draw_fault(&self, kind: usize, random: &mut Random) -> Fault {
        let path = random.below(self.paths.len());
        let while_ = random.pick(&[MS, 40 * MS, 700 * MS, 4000 * MS, 15_000 * MS]);
        let short = random.pick(&[MS, 40 * MS, 700 * MS, 3000 * MS]);
        match kind {
            0 | 1 => Fault::Reset(path),
            2 => Fault::Fin(path),
            3 => Fault::Silence(path, true, true, while_),
            4 => Fault::Silence(path, true, false, while_),
            5 => Fault::Silence(path, false, true, while_),
            6 => Fault::Flap(path),
            7 => Fault::SlowDrain(path, short),
            8 => Fault::Down(path, while_),
            // Once in a while longer than commands are held.
            9 if random.once_in(8) => Fault::AllDown(70_000 * MS),
            9 => Fault::AllDown(short),
            10 => Fault::Clog(while_),
            11 => Fault::TargetRestart,
            12 => Fault::PowerCut,
            13 => Fault::BraidCrash { host: random.once_in(2) },
            14 => random.pick(&[Fault::InitiatorCrash, Fault::InitiatorLogout]),
            15 => Fault::InitiatorPauses(short),
            16 => Fault::ForeignReset,
            17 => Fault::ForeignModeSelect,
            18 => random.pick(&[Fault::ForeignReserve, Fault::ForeignPreempt]),
            19 => Fault::MediaError,
            20 => Fault::AsyncLogout(path),
            21 => Fault::AbortTask,
            22 => random.pick(&[Fault::AbortTaskSet, Fault::ClearTaskSet]),
            _ => random.pick(&[Fault::ResetUnit, Fault::ResetUnit, Fault::ResetTarget]),
        }
    }
}

fn draw_persona(random: &mut Random) -> Persona {
    let persona = match random.below(12) {
        0 | 1 => Persona::lab(),
        2 | 3 => Persona::tgt(),
        4 => Persona::tgt_mcs(),
        5 | 6 => Persona::istgt(),
        7 | 8 => Persona::lio(),
        9 => Persona::spdk(),
        _ => Persona::unknown(),
    };
    let persona = persona.varied(random);
    if random.once_in(4) { persona.restricted() } else { persona }
}

fn draw_quality(random: &mut Random) -> Quality {
    let delay = random.pick(&[5 * US, 50 * US, 50 * US, 500 * US, 10 * MS]);
    let jitter = random.pick(&[Duration::ZERO, delay / 4, delay * 3]);
    Quality { delay, jitter, bytes_per_second: random.pick(&[1_000_000_000, 100_000_000, 5_000_000]) }
}

fn draw_mix(random: &mut Random) -> Mix {
    let mut some = |parts: usize| if random.once_in(3) { parts } else { 0 };
    let mut mix = Mix {
        read: 8,
        write: 8,
        fua: some(2),
        flush: some(2),
        write_same: some(2),
        unmap: some(1),
        compare_and_write: some(3),
        vendor: some(2),
        reserve: 0,
        persistent: 0,
        query: some(2),
        mode_select: some(1),
        ping: some(1),
        registering: 0,
        ordered: some(12),
        head_of_queue: some(12),
    };
    match random.below(10) {
        0 => mix.reserve = 2,
        1 => mix.persistent = 2,
        2 => (mix.read, mix.write) = (1, 12),
        3 => (mix.read, mix.flush) = (2, 4),
        _ => {}
    }
    mix
}
