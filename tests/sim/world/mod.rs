//! The world: one queue of events, one clock, one source of chance, and everything in it.
//!
//! # A run
//! 1. **Safety**: the initiator works, things go wrong as planned. Whatever is sent, told or written is judged at once.
//! 2. **Liveness**: all links are healed and nothing goes wrong any more. Everything open must end, every path come back,
//!    within a bounded time (P4); every unit is asked until it has nothing left to say, and read back whole.
//! 3. **The end**: the initiator logs out. Once Braid says that the session is over, nothing of it may still happen.
//!
//! # Parts
//! - `access`: which ports give access to what. `host`: the machine that Braid runs on, doing what the engine wants done, as `braid::proxy` does.
//! - `wires`: connections and what travels on them. `faults`: what goes wrong. `phases`: the run.

mod access;
mod faults;
mod host;
mod lines;
mod phases;
mod wires;

use crate::coverage::Coverage;
use crate::cut::Stall;
use crate::initiator::Initiator;
use crate::inventory;
use crate::kernel::Weather;
use crate::net::{Dir, Link, Packet, Wire};
use crate::random::Random;
use crate::scenario::{Fault, Planned, Scenario};
use crate::target::{Disk, Report, Target};
use braid::iscsi::Cid;
use braid::session::Unwashed;
use host::Host;
use rustc_hash::FxHasher;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::Hasher;
use std::time::{Duration, Instant};

/// Makes a source of chance of its own for those who contend for reservations, in each eighth seed: the others stay as they
/// are without.
const CONTENTION: u64 = 0x5e5f_5e5f_0000_0000;
/// The same for port groups with states of their own, in one seed of ten.
const ACCESS: u64 = 0x616c_7561;

/// Of the stream from which [`Scenario::add_management`] is drawn.
const MANAGEMENT: u64 = 0x746d_665f_7461_736b;
/// Of the stream from which [`Scenario::add_resets`] is drawn.
const RESETS: u64 = 0x7265_7365_7473;

/// Of the stream from which it is drawn what befalls several connections of the initiator.
const LINES: u64 = 0x6c69_6e65_735f;

/// Something that will happen.
#[derive(Debug)]
enum Happening {
    Arrive {
        wire: u32,
        dir: Dir,
        packet: Packet,
    },
    /// A silent direction may speak again.
    Heal {
        link: usize,
    },
    /// TCP gives up what it could not deliver since then.
    UserTimeout {
        wire: u32,
        dir: Dir,
        since: Instant,
    },
    /// The target's TCP notices that the other end is gone.
    FarGone {
        wire: u32,
    },
    DialTimeout {
        wire: u32,
    },
    /// The next way is tried for a leading login that makes no headway.
    LeadingStalls {
        wire: u32,
    },
    InitiatorTurn,
    InitiatorLogin,
    /// The initiator makes a further connection in the session that began over this one.
    Join {
        session: u32,
        cid: Cid,
    },
    /// The initiator asks for what it may have lost.
    InitiatorWonders {
        wire: u32,
    },
    /// A predecessor that does not end is killed.
    KillSession {
        incarnation: u32,
    },
    BraidStarts,
    Fault(Fault),
    Resume,
}

#[derive(Debug)]
struct Event {
    at: Instant,
    order: u64,
    what: Happening,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What a run left to look at.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Of everything that was sent and told, with its time.
    pub(crate) hash: u64,
    pub(crate) coverage: Coverage,
    /// How often each requirement was judged.
    pub(crate) judged: Box<[u64; 246]>,
}

/// The world.
pub(crate) struct World {
    scenario: Scenario,
    random: Random,
    start: Instant,
    now: Instant,
    events: BinaryHeap<Reverse<Event>>,
    order: u64,
    weather: Weather,
    /// In a seed of nothing but cuts.
    stall: Option<Stall>,
    /// The paths' links, and behind them the initiator's.
    links: Vec<Link>,
    wires: Vec<Wire>,
    /// The target, and the wrong one that a path may lead to.
    targets: [Target; 2],
    host: Host,
    /// Unit attentions that the target has reported, perhaps not yet to anybody.
    reports: Vec<Report>,
    initiator: Initiator,
    /// The initiator's connection: the first of the session, where there are several.
    front: Option<u32>,
    /// All of them, once it is logged in.
    lines: Vec<lines::Line>,
    next_cid: u16,
    /// For what befalls them.
    line_random: Random,
    /// What has not gone wrong yet, latest first.
    planned: Vec<Planned>,
    power_cut_at: Option<Instant>,
    /// When Braid last had port groups set, for which unit and in which of its sessions.
    transitions: Vec<(usize, u32, Instant)>,
    /// Nothing goes wrong any more.
    healing: bool,
    /// The initiator leaves for good.
    leaving: bool,
    /// How often each requirement was judged.
    judged: Box<[u64; 246]>,
    hash: FxHasher,
    coverage: Coverage,
    trace: bool,
    steps: u64,
    /// The initiator has a turn coming.
    turning: bool,
}

/// What a seed stands for, and whether it is one of nothing but cuts.
fn draw(seed: u64, random: &mut Random) -> (Scenario, bool) {
    let mut scenario = Scenario::draw(random);
    if seed % 8 == 7 {
        scenario.contend(&mut Random::new(seed ^ CONTENTION));
    } else {
        scenario.draw_inventory(seed);
        if seed % 10 == 3 && scenario.inventory.is_none() {
            scenario.divide(Random::new(seed ^ ACCESS));
        }
    }
    scenario.add_management(&mut Random::new(seed ^ MANAGEMENT));
    scenario.add_resets(&mut Random::new(seed ^ RESETS));
    scenario.draw_twins(seed);
    scenario.draw_orders(seed);
    let cut = scenario.cut(seed);
    scenario.draw_recovery(seed, cut);
    scenario.draw_reassignment(seed, cut);
    scenario.draw_lines(seed, cut);
    (scenario, cut)
}

impl World {
    #[expect(
        clippy::disallowed_methods,
        reason = "an arbitrary origin; time then passes only by adding to it"
    )]
    pub(crate) fn new(seed: u64, mutant: Option<braid::session::mutant::Mutant>, trace: bool) -> Self {
        let mut random = Random::new(seed);
        let (scenario, cut) = draw(seed, &mut random);
        if trace {
            println!("{scenario:#?}");
        }
        let now = Instant::now();
        let disks = |first: u64| {
            let disk = |identity| Disk { blocks: scenario.blocks, identity };
            (first..).take(scenario.units).map(disk).collect::<Vec<_>>()
        };
        let others = scenario.inventory.iter().flat_map(|i| i.others.iter().copied());
        let shown = disks(1).into_iter().chain(others).collect();
        let mut right = Target::new(scenario.persona.clone(), shown, random.fork());
        if let Some(inventory) = &scenario.inventory {
            right.show(inventory::GROUP, &inventory.map, inventory.others.len(), inventory.tells);
        }
        let wrong = Target::new(scenario.persona.clone(), disks(101), random.fork());
        let mut targets = [right, wrong];
        targets.iter_mut().for_each(|t| t.set_heads(scenario.heads));
        if let Some(setup) = scenario.access {
            targets.iter_mut().for_each(|t| t.set_asymmetry(setup));
        }
        let qualities = scenario.paths.iter().map(|p| p.quality).chain([scenario.downstream]);
        let links = qualities.map(|quality| Link::new(quality, random.fork(), now)).collect();
        let mut planned = scenario.faults.clone();
        planned.sort_by_key(|p| Reverse(p.after_commands));
        let initiator = Initiator::new(&scenario, random.fork());
        Self {
            host: Host::new(mutant),
            random,
            start: now,
            now,
            events: BinaryHeap::new(),
            order: 0,
            weather: Weather::new(seed, cut),
            stall: cut.then(|| Stall::new(&scenario)),
            links,
            wires: Vec::new(),
            targets,
            reports: Vec::new(),
            initiator,
            front: None,
            lines: Vec::new(),
            next_cid: 0,
            line_random: Random::new(seed ^ LINES),
            planned,
            power_cut_at: None,
            transitions: Vec::new(),
            healing: false,
            leaving: false,
            judged: Box::new([0; 246]),
            hash: FxHasher::default(),
            coverage: Coverage::default(),
            trace,
            steps: 0,
            turning: false,
            scenario,
        }
    }

    fn schedule(&mut self, at: Instant, what: Happening) {
        self.order += 1;
        self.events.push(Reverse(Event { at: at.max(self.now), order: self.order, what }));
    }

    fn after(&mut self, delay: Duration, what: Happening) {
        self.schedule(self.now + delay, what);
    }

    /// The link to the initiator.
    fn downstream_link(&self) -> usize {
        self.scenario.paths.len()
    }

    /// Adds to the trace hash, and prints if asked to.
    fn trace(&mut self, numbers: &[u64], line: impl FnOnce() -> String) {
        let micros = self.now.saturating_duration_since(self.start).as_nanos();
        self.hash.write_u128(micros);
        numbers.iter().for_each(|n| self.hash.write_u64(*n));
        if self.trace {
            println!("{:>14.6} ms  {}", micros as f64 / 1e6, line());
        }
    }

    /// Does the next thing.
    fn step(&mut self) {
        self.steps += 1;
        assert!(self.steps < 300_000, "P4: the world turns without end: {}", self.initiator.open());
        let event = self.events.peek().map(|Reverse(e)| e.at);
        let engine = self.host.next_deadline();
        let target = |n: usize| self.targets[n].next_deadline();
        let times = [event, target(0), target(1), engine];
        let Some(at) = times.iter().flatten().min().copied() else {
            panic!("P4: nothing will ever happen again: {}", self.initiator.open());
        };
        self.now = self.now.max(at);
        let which = times.iter().position(|t| *t == Some(at)).expect("one of them is the least");
        match which {
            0 => {
                if let Some(Reverse(event)) = self.events.pop() {
                    self.happen(event.what);
                }
            }
            1 | 2 => {
                self.targets[which - 1].timeout(self.now);
                self.drain_target(which - 1);
            }
            _ => self.engine_timeout(),
        }
        self.watch_access();
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Arrive { wire, dir, packet } => self.arrive(wire, dir, packet),
            Happening::Heal { link } => self.speak_again(link),
            Happening::UserTimeout { wire, dir, since } => self.user_timeout(wire, dir, since),
            Happening::FarGone { wire } => self.far_gone(wire),
            Happening::DialTimeout { wire } => self.dial_timeout(wire),
            Happening::LeadingStalls { wire } => self.leading_stalls(wire),
            Happening::InitiatorTurn => self.initiator_turn(),
            Happening::InitiatorLogin => self.initiator_login(),
            Happening::Join { session, cid } => self.join(session, cid),
            Happening::InitiatorWonders { wire } => {
                if self.front == Some(wire) {
                    self.initiator.ask_for_all();
                    self.send_downstream();
                }
            }
            Happening::KillSession { incarnation } => self.kill_session(incarnation),
            Happening::BraidStarts => {
                self.host.running = true;
                self.host.crashed = Some(self.now);
                self.host.unwashed = Unwashed::everything();
            }
            Happening::Fault(fault) => self.go_wrong(fault),
            Happening::Resume => self.set_paused(false),
        }
    }

    /// The initiator issues commands, and what was planned for this many of them goes wrong.
    fn initiator_turn(&mut self) {
        self.turning = false;
        self.initiator.turn(self.now);
        self.note_stall(false);
        self.send_downstream();
        while let Some(planned) = self.planned.last().copied() {
            if planned.after_commands > self.initiator.issued {
                break;
            }
            self.planned.pop();
            self.after(planned.delay, Happening::Fault(planned.fault));
        }
        self.turn_soon();
    }

    fn note_stall(&mut self, answered: bool) {
        let open = self.initiator.open_commands();
        // The last may wait for a ghost of what they overwrite.
        let busy = self.initiator.issued < self.scenario.commands;
        if let Some(stall) = self.stall.as_mut().filter(|_| busy) {
            stall.note(open, answered, self.now);
        }
    }

    /// The initiator has another turn if it has anything to do in it.
    fn turn_soon(&mut self) {
        if !self.turning && self.initiator.wants_turn() {
            self.turning = true;
            let pause = self.random.between(Duration::ZERO, self.scenario.think);
            self.after(pause, Happening::InitiatorTurn);
        }
    }

    /// Sends what the initiator wants sent.
    fn send_downstream(&mut self) {
        let Some(front) = self.front else { return };
        for mut pdu in std::mem::take(&mut self.initiator.out) {
            let several = self.scenario.lines > 1;
            let wire = if several { self.initiator.route(&mut pdu) } else { Some(front) };
            let Some(wire) = wire else { continue };
            self.trace(&[1], || format!("initiator ->  #{wire} {pdu}"));
            self.transmit(wire, Dir::Up, Packet::Pdu(pdu));
        }
    }
}
