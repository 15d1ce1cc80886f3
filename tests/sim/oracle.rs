//! What every block may hold, and what every command may have done: promises P1, P2 and P5.
//!
//! Commands are told in the order of their CmdSN. Of two commands that conflict the later must see what the earlier
//! did, so the values a read may return are known when it is issued. They become several where an outcome is unknown (a
//! task was aborted, a session lost), where a HEAD OF QUEUE command may have run before or after, and where a power
//! cut may have taken what no flush had made durable. A read that sees one of several values settles which it was.

use smallvec::SmallVec;
use std::collections::BTreeMap;

/// What a write leaves in each of its blocks; unique for each write, 0 for blocks that were never written or unmapped.
pub(crate) type Stamp = u64;

/// A value a block may hold, and its place in the order of issue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Value {
    stamp: Stamp,
    seq: u64,
}

type Values = SmallVec<[Value; 4]>;

fn add(values: &mut Values, more: &[Value]) {
    for value in more {
        if !values.contains(value) {
            values.push(*value);
        }
    }
}

/// One block.
#[derive(Clone, Debug)]
struct Cell {
    /// What it may hold once everything issued has run.
    may: Values,
    /// What a power cut may leave if it takes everything that no flush covers.
    floor: Values,
    /// What was written since.
    since: Values,
    /// What it may have held when a flush of it failed, and the last command before that. What of it is still there no
    /// later flush makes durable: it may be in a cache that is gone, and the initiator was told.
    given_up: (Values, u64),
    /// What it may have held when one of two targets lost power, until the initiator is told.
    untold: Values,
    /// Counts the commands that changed `may`.
    version: u32,
}

impl Cell {
    /// Values up to `seq` are durable: `covered` is what the block may have held then.
    fn harden(&mut self, covered: &Values, seq: u64) {
        let given_up = covered.iter().any(|v| v.seq <= self.given_up.1);
        if !given_up && self.given_up.1 < seq {
            self.given_up = Default::default();
        }
        let newer = self.floor.iter().filter(|v| v.seq > seq).count();
        if newer == 0 {
            self.floor.clone_from(covered);
        } else if newer < self.floor.len() || covered.iter().any(|v| v.seq > seq) {
            // What a HEAD OF QUEUE command wrote may have been there earlier, or not.
            add(&mut self.floor, covered);
        }
        self.since.retain(|v| v.seq > seq);
        if given_up {
            add(&mut self.floor, &self.given_up.0);
        }
    }

    /// A flush that was issued as `seq` has failed.
    fn give_up(&mut self, seq: u64) {
        let mut left = self.after_power_cut();
        left.retain(|v| v.seq <= seq);
        add(&mut left, &self.given_up.0);
        self.given_up = (left, seq.max(self.given_up.1));
    }

    fn after_power_cut(&self) -> Values {
        let mut left = self.floor.clone();
        add(&mut left, &self.since);
        left
    }
}

/// What a command does to blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// Looks at them.
    Read,
    /// Leaves the stamp in all of them; durable when answered if `fua`.
    Write { stamp: Stamp, fua: bool },
    /// Leaves the stamp in its block if that holds `compare` (COMPARE AND WRITE).
    Swap { stamp: Stamp, compare: Stamp },
    /// Makes what was written there before durable.
    Flush,
    /// Nothing that blocks show.
    Nothing,
}

/// A range of blocks of a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub(crate) unit: usize,
    pub(crate) lba: usize,
    pub(crate) blocks: usize,
}

impl Span {
    fn contains(&self, unit: usize, lba: usize) -> bool {
        self.unit == unit && lba >= self.lba && lba < self.lba + self.blocks
    }
}

/// A command that is not answered.
#[derive(Debug)]
struct Op {
    span: Span,
    effect: Effect,
    seq: u64,
    /// Of each block: what it may hold before the command runs (for a flush, what is durable after it).
    before: Vec<Values>,
    /// Version of each block after it was issued.
    versions: Vec<u32>,
    /// For a flush: the last command whose write it surely covers, of each block.
    covers: Vec<u64>,
    head_of_queue: bool,
    /// The power was cut while it was open: what it did may be gone by the time it is answered.
    cut: bool,
    /// The initiator asked for its end.
    doubtful: bool,
}

impl Op {
    fn writes_to(&self, unit: usize, lba: usize) -> bool {
        let writes = matches!(self.effect, Effect::Write { .. } | Effect::Swap { .. });
        writes && self.span.contains(unit, lba)
    }
}

/// The judge of the medium.
#[derive(Debug)]
pub(crate) struct Oracle {
    units: Vec<Vec<Cell>>,
    ops: BTreeMap<u64, Op>,
    seq: u64,
    /// What HEAD OF QUEUE commands wrote.
    early: Vec<Stamp>,
    /// Flushes are left to the target: they cover what was answered before they were issued, as for one nexus.
    native: bool,
    /// They may fail, for what another target may have lost.
    may_fail: bool,
}

/// Names a command told to the oracle.
pub(crate) type OpId = u64;

impl Oracle {
    pub(crate) fn new(units: usize, blocks: usize, native: bool, may_fail: bool) -> Self {
        let zero: Values = smallvec::smallvec![Value { stamp: 0, seq: 0 }];
        let cell = Cell {
            may: zero.clone(),
            floor: zero,
            since: Values::new(),
            given_up: Default::default(),
            untold: Values::new(),
            version: 0,
        };
        let units = vec![vec![cell; blocks]; units];
        Self { units, ops: BTreeMap::new(), seq: 0, early: Vec::new(), native, may_fail }
    }

    /// A command is issued.
    pub(crate) fn issue(&mut self, span: Span, effect: Effect, head_of_queue: bool) -> OpId {
        self.seq += 1;
        let seq = self.seq;
        let mut before: Vec<Values> = Vec::with_capacity(span.blocks);
        let mut versions = Vec::with_capacity(span.blocks);
        let mut covers = Vec::new();
        for lba in span.lba..span.lba + span.blocks {
            let mut held = self.units[span.unit][lba].may.clone();
            if effect == Effect::Flush {
                let open = self.ops.values().filter(|_| self.native).find(|o| o.writes_to(span.unit, lba));
                covers.push(open.map_or(seq, |o| o.seq - 1));
                if let Some(open) = open {
                    held.clone_from(&open.before[lba - open.span.lba]);
                }
            }
            if head_of_queue && effect == Effect::Read {
                // It may run before writes that were issued earlier.
                for op in self.ops.values().filter(|o| o.span.contains(span.unit, lba)) {
                    add(&mut held, &op.before[lba - op.span.lba]);
                }
            }
            let cell = &mut self.units[span.unit][lba];
            match effect {
                Effect::Write { stamp, .. } => {
                    let value = Value { stamp, seq };
                    cell.since.push(value);
                    cell.version += 1;
                    if head_of_queue {
                        self.early.push(stamp);
                        self.overtake(span.unit, lba, value);
                    } else {
                        cell.may = smallvec::smallvec![value];
                    }
                }
                Effect::Swap { stamp, compare } => {
                    let value = Value { stamp, seq };
                    if held.iter().any(|v| v.stamp == compare) {
                        cell.may.retain(|v| v.stamp != compare);
                        cell.may.push(value);
                        cell.since.push(value);
                        cell.version += 1;
                    }
                }
                Effect::Read | Effect::Flush | Effect::Nothing => {}
            }
            before.push(held);
            versions.push(self.units[span.unit][lba].version);
        }
        self.ops.insert(
            seq,
            Op { span, effect, seq, before, versions, covers, head_of_queue, cut: false, doubtful: false },
        );
        seq
    }

    /// A HEAD OF QUEUE write runs at any place among those still open.
    fn overtake(&mut self, unit: usize, lba: usize, value: Value) {
        let open = self.ops.values_mut().filter(|o| o.span.contains(unit, lba));
        let mut any = false;
        for op in open {
            add(&mut op.before[lba - op.span.lba], &[value]);
            any |= matches!(op.effect, Effect::Write { .. } | Effect::Swap { .. });
        }
        let cell = &mut self.units[unit][lba];
        if !any {
            cell.may.clear();
        }
        add(&mut cell.may, &[value]);
    }

    /// What a COMPARE AND WRITE to this block would find, if that is certain.
    pub(crate) fn certain(&self, unit: usize, lba: usize) -> Option<Stamp> {
        match self.units[unit][lba].may.as_slice() {
            [value] => Some(value.stamp),
            _ => None,
        }
    }

    /// Whether a read may be answered with these stamps.
    pub(crate) fn is_legal(&self, id: OpId, seen: &[Stamp]) -> bool {
        let legal = |(at, stamp): (usize, &Stamp)| {
            self.ops.get(&id).is_some_and(|op| op.before[at].iter().any(|v| v.stamp == *stamp))
        };
        seen.iter().enumerate().all(legal)
    }

    /// A read was answered with these stamps.
    pub(crate) fn read(&mut self, id: OpId, seen: &[Stamp]) {
        let op = self.ops.remove(&id).expect("a read answered that is not open");
        assert_eq!(
            seen.len(),
            op.span.blocks,
            "P5: a read of {:?} ended well with {} blocks",
            op.span,
            seen.len()
        );
        for (at, stamp) in seen.iter().enumerate() {
            let lba = op.span.lba + at;
            let legal = &op.before[at];
            let found = legal.iter().find(|v| v.stamp == *stamp).copied();
            let Some(value) = found else {
                panic!(
                    "P1: read {id} of unit {} saw {stamp} in block {lba}, legal are {legal:?}",
                    op.span.unit
                );
            };
            let cell = &mut self.units[op.span.unit][lba];
            let settles = |v: &&Value| v.stamp == value.stamp || cell.untold.contains(v);
            if cell.version == op.versions[at] && cell.may.len() > 1 && !op.head_of_queue {
                cell.may = cell.may.iter().filter(settles).copied().collect();
                cell.version += 1;
            }
        }
    }

    /// A write, swap or flush ended well (`true`), or, for a swap, found something else.
    pub(crate) fn done(&mut self, id: OpId, good: bool) {
        let op = self.ops.remove(&id).expect("a command answered that is not open");
        match op.effect {
            Effect::Write { stamp, fua } => {
                assert!(good);
                for lba in op.span.lba..op.span.lba + op.span.blocks {
                    let value = Value { stamp, seq: op.seq };
                    if op.doubtful && !op.cut && !op.head_of_queue {
                        self.ran_after_all(&op, lba, value);
                    }
                    let cell = &mut self.units[op.span.unit][lba];
                    match fua {
                        // What was issued before it may have run after it.
                        true if op.head_of_queue => add(&mut cell.floor, &[value]),
                        true => cell.harden(&smallvec::smallvec![value], op.seq),
                        false => {}
                    }
                }
            }
            Effect::Swap { stamp, compare } => self.swapped(&op, stamp, compare, good),
            Effect::Flush => self.hardened(&op),
            Effect::Nothing => {}
            Effect::Read => panic!("a read must say what it saw"),
        }
    }

    /// A write that was doubted was answered well.
    fn ran_after_all(&mut self, op: &Op, lba: usize, value: Value) {
        let before = &op.before[lba - op.span.lba];
        let bound = |o: &&mut Op| o.seq > op.seq && !o.head_of_queue && o.span.contains(op.span.unit, lba);
        let later = self.ops.values_mut().filter(bound).map(|o| &mut o.before[lba - o.span.lba]);
        for set in later.chain([&mut self.units[op.span.unit][lba].may]).filter(|s| s.contains(&value)) {
            set.retain(|v| v.seq >= op.seq || !before.contains(v));
        }
    }

    fn swapped(&mut self, op: &Op, stamp: Stamp, compare: Stamp, good: bool) {
        let lba = op.span.lba;
        let (could, must) = (
            op.before[0].iter().any(|v| v.stamp == compare),
            op.before[0].iter().all(|v| v.stamp == compare),
        );
        assert!(
            !good || could,
            "P1: a compare of block {lba} with {compare} succeeded, held {:?}",
            op.before
        );
        assert!(good || !must, "P1: a compare of block {lba} with {compare} failed, held {:?}", op.before);
        // Which of the two it was is known now, wherever later commands had to reckon with both.
        let wrong = |v: &Value| {
            // What a HEAD OF QUEUE command wrote that was issued later may also have come later.
            if good { !op.cut && v.seq < op.seq && op.before[0].contains(v) } else { v.stamp == stamp }
        };
        let cell = &mut self.units[op.span.unit][lba];
        // A HEAD OF QUEUE command may have run before it all the same.
        let bound = |o: &&mut Op| o.seq > op.seq && !(good && o.head_of_queue);
        let later = self.ops.values_mut().filter(bound).filter(|o| o.span.contains(op.span.unit, lba));
        let sets = later.map(|o| &mut o.before[lba - o.span.lba]).chain([&mut cell.may]);
        for set in sets.filter(|s| s.iter().any(|v| v.stamp == stamp)) {
            set.retain(|v| !wrong(v));
            if set.is_empty() {
                set.extend(op.before[0].iter().copied());
            }
        }
        if !good {
            cell.since.retain(|v| v.stamp != stamp);
        }
    }

    /// A flush failed: what it was to make durable may be lost. Nothing is said of blocks that are not in its range.
    pub(crate) fn flush_failed(&mut self, id: OpId) {
        let Some(op) = self.ops.remove(&id) else { return };
        for lba in op.span.lba..op.span.lba + op.span.blocks {
            self.units[op.span.unit][lba].give_up(op.seq);
        }
    }

    fn hardened(&mut self, flush: &Op) {
        for (at, covered) in flush.before.iter().enumerate() {
            self.units[flush.span.unit][flush.span.lba + at].harden(covered, flush.covers[at]);
        }
    }

    /// A command may be aborted before it runs, and what waited for it run.
    pub(crate) fn doubt(&mut self, id: OpId) {
        let Some(op) = self.ops.remove(&id) else { return };
        self.ops.insert(id, Op { doubtful: true, ..op });
        self.perhaps_not(id);
    }

    /// The outcome of a command is not known, and never will be: where it wrote, what was there before may still be.
    /// Nothing of it may happen later.
    pub(crate) fn unknown(&mut self, id: OpId) {
        self.perhaps_not(id);
        if let Some(op) = self.ops.remove(&id) {
            (op.span.lba..op.span.lba + op.span.blocks).for_each(|lba| self.pass_on(op.span.unit, lba));
        }
    }

    /// Where a command wrote, what was there before may still be.
    fn perhaps_not(&mut self, id: OpId) {
        let Some(op) = self.ops.get(&id) else { return };
        let (Effect::Write { stamp, .. } | Effect::Swap { stamp, .. }) = op.effect else { return };
        let (span, seq, all_before) = (op.span, op.seq, op.before.clone());
        let value = Value { stamp, seq };
        for (at, before) in all_before.iter().enumerate() {
            let lba = span.lba + at;
            let cell = &mut self.units[span.unit][lba];
            let later = self.ops.values_mut().filter(|o| o.seq != seq && o.span.contains(span.unit, lba));
            for set in later.map(|o| &mut o.before[lba - o.span.lba]).chain([&mut cell.may]) {
                if set.contains(&value) {
                    add(set, before);
                }
            }
            cell.version += 1;
            self.pass_on(span.unit, lba);
        }
    }

    /// A command that is open may find more than was thought when the later ones were issued: a swap may go another way.
    fn pass_on(&mut self, unit: usize, lba: usize) {
        let cell = &mut self.units[unit][lba];
        let mut left = Values::new();
        for op in self.ops.values_mut().filter(|o| o.span.contains(unit, lba)) {
            let before = &mut op.before[lba - op.span.lba];
            add(before, &left);
            left.clone_from(before);
            match op.effect {
                Effect::Write { stamp, .. } => {
                    if !op.doubtful {
                        left.clear();
                    }
                    add(&mut left, &[Value { stamp, seq: op.seq }]);
                }
                Effect::Swap { stamp, compare } if left.iter().any(|v| v.stamp == compare) => {
                    let value = Value { stamp, seq: op.seq };
                    left.retain(|v| v.stamp != compare || op.doubtful);
                    add(&mut left, &[value]);
                    if !cell.since.contains(&value) {
                        cell.since.push(value);
                    }
                }
                Effect::Swap { .. } | Effect::Read | Effect::Flush | Effect::Nothing => {}
            }
        }
        add(&mut cell.may, &left);
    }

    /// The target lost power; `visible` tells what each block holds now.
    pub(crate) fn power_cut(&mut self, visible: impl Fn(usize, usize) -> Stamp) {
        self.units.iter_mut().flatten().for_each(|cell| cell.untold.clear());
        self.power_lost(visible);
    }

    /// One of two targets lost power, and the other may still execute a write that this one had answered and lost. So what is
    /// lost may come back. Nobody can know of the loss before the target tells: reads until then say what a block held, and
    /// not what it will hold. Once told (29h/01h, SAM-5 section 5.14), the initiator reckons with either value, until it reads one.
    pub(crate) fn head_lost_power(&mut self, visible: impl Fn(usize, usize) -> Stamp) {
        self.power_lost(visible);
        for cell in self.units.iter_mut().flatten() {
            let left = cell.after_power_cut();
            add(&mut cell.untold, &left);
        }
    }

    /// The initiator is told of a unit that power was lost. Reads that it sends from now on settle what it left.
    pub(crate) fn power_loss_told(&mut self, unit: usize) {
        for cell in self.units[unit].iter_mut().filter(|c| !c.untold.is_empty()) {
            cell.untold.clear();
            cell.version += 1;
        }
    }

    fn power_lost(&mut self, visible: impl Fn(usize, usize) -> Stamp) {
        self.flushes_seen(&visible);
        self.ops.values_mut().for_each(|op| op.cut = true);
        for unit in 0..self.units.len() {
            for lba in 0..self.units[unit].len() {
                let mut left = self.units[unit][lba].after_power_cut();
                // A swap may have found what was there before a write that was refused, of which nobody has heard yet.
                for op in self.ops.values().filter(|o| o.span.contains(unit, lba)) {
                    if let Effect::Swap { stamp, .. } = op.effect {
                        add(&mut left, &[Value { stamp, seq: op.seq }]);
                    }
                }
                for op in self.ops.values_mut().filter(|o| o.span.contains(unit, lba)) {
                    let (at, seq) = (lba - op.span.lba, op.seq);
                    let earlier: Values = left.iter().filter(|v| v.seq <= seq).copied().collect();
                    add(&mut op.before[at], &earlier);
                }
                let cell = &mut self.units[unit][lba];
                let (stamp, legal) = (visible(unit, lba), &left);
                assert!(
                    legal.iter().any(|v| v.stamp == stamp) || cell.may.iter().any(|v| v.stamp == stamp),
                    "P2: a power cut left {stamp} in block {lba} of unit {unit}, flushes allow {legal:?}"
                );
                add(&mut cell.may, legal);
                cell.version += 1;
                self.pass_on(unit, lba);
            }
        }
    }

    /// Later writes to its blocks wait for a flush: where one of them shows, the flush had been done, answered or not. Unless it
    /// may have failed, of which nobody has heard yet.
    fn flushes_seen(&mut self, visible: &impl Fn(usize, usize) -> Stamp) {
        let sure = !self.native && !self.may_fail;
        let flush = |o: &&Op| o.effect == Effect::Flush && !o.doubtful && sure;
        let flushes: Vec<u64> = self.ops.values().filter(flush).map(|o| o.seq).collect();
        for seq in flushes {
            let Span { unit, lba, blocks } = self.ops[&seq].span;
            let passed = (lba..lba + blocks).any(|lba| {
                let (cell, stamp) = (&self.units[unit][lba], visible(unit, lba));
                stamp != 0
                    && cell.since.iter().any(|v| v.stamp == stamp && v.seq > seq)
                    && !self.early.contains(&stamp)
            });
            if passed {
                let mut op = self.ops.remove(&seq).expect("listed above");
                // A write before it may have been refused, of which nobody has heard yet.
                for (at, lba) in (lba..lba + blocks).enumerate() {
                    let earlier = self.ops.values().filter(|o| o.seq < seq && o.writes_to(unit, lba));
                    earlier.for_each(|o| add(&mut op.before[at], &o.before[lba - o.span.lba]));
                }
                self.hardened(&op);
                self.ops.insert(seq, op);
            }
        }
    }

    /// Nothing runs any more: the medium holds what it may.
    pub(crate) fn end(&self, visible: impl Fn(usize, usize) -> Stamp) {
        for (unit, cells) in self.units.iter().enumerate() {
            for (lba, cell) in cells.iter().enumerate() {
                let stamp = visible(unit, lba);
                assert!(
                    cell.may.iter().any(|v| v.stamp == stamp),
                    "P2: block {lba} of unit {unit} ends with {stamp}, legal are {:?}",
                    cell.may
                );
            }
        }
    }
}
