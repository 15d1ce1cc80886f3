//! Scenarios in which a second portal group shows the disks under other LUNs, and others besides.
//!
//! Drawn from a stream of their own, so that what else a seed draws does not depend on them.

use crate::random::Random;
use crate::scenario::{Fault, Mix, Planned, Scenario};
use crate::target::{Disk, LunChange};
use braid::path::select::Policy;
use std::time::Duration;

/// Of this piece's own stream.
const STREAM: u64 = 0x1a2b_1e55;
/// The group whose LUNs are others.
pub(crate) const GROUP: u16 = 2;

/// What the second group shows.
#[derive(Clone, Debug)]
pub(crate) struct Inventory {
    /// Unit by number; the first of them are home's, in home's order.
    pub(crate) map: Vec<Option<usize>>,
    /// Disks that home does not show.
    pub(crate) others: Vec<Disk>,
    /// Sessions are told of LUNs that come and go.
    pub(crate) tells: bool,
}

impl Scenario {
    /// Draws the LUNs of the second group, if this seed has any of its own.
    pub(crate) fn draw_inventory(&mut self, seed: u64) {
        let mut random = Random::new(seed ^ STREAM);
        if !random.once_in(10) || self.paths.len() < 2 || self.paths.iter().any(|p| p.wrong) {
            return;
        }
        // Where a unit's commands go over one connection the checker tells units apart by their LUNs.
        if self.order.naca || self.order.device_type != 0 {
            return;
        }
        for (n, path) in self.paths.iter_mut().enumerate() {
            path.group = if n % 2 == 1 { GROUP } else { 1 };
        }
        // A copy of home's first unit under the same name, of another size, or just another disk.
        let copy = Disk { blocks: self.blocks + 8, identity: 1 };
        let stranger = |n: u64| Disk { blocks: self.blocks, identity: 200 + n };
        let others = match random.below(3) {
            0 => vec![stranger(0), copy],
            1 => vec![stranger(0), stranger(1)],
            _ => vec![stranger(0)],
        };
        let mut map: Vec<Option<usize>> = (0..self.units + others.len()).map(Some).collect();
        map.extend([None, None]);
        for n in (1..map.len()).rev() {
            map.swap(n, random.below(n + 1));
        }
        if random.once_in(4) {
            // One unit under two numbers.
            map.push(Some(random.below(self.units)));
        }
        // Home's first unit, or its copy, is not where home has it: such a path is never home's.
        let alike = |unit: usize| unit == 0 || others.get(unit.wrapping_sub(self.units)) == Some(&copy);
        while map[0].is_some_and(alike) {
            map.rotate_right(1);
        }
        self.inventory = Some(Inventory { map, others, tells: !random.once_in(3) });
        if !self.is_calm() || random.once_in(2) {
            self.draw_changes(&mut random);
        }
        if random.once_in(4) {
            self.draw_functions(&mut random);
        }
    }

    fn draw_changes(&mut self, random: &mut Random) {
        for _ in 0..random.pick(&[0, 1, 2, 4, 6]) {
            let (a, b) = (random.below(100), random.below(100));
            let change = match random.below(4) {
                0 => LunChange::Vanish(a),
                1 => LunChange::Appear(a),
                2 => LunChange::Trade(a, b),
                _ => LunChange::Recabled(a),
            };
            let after_commands = u32::try_from(random.below(self.commands as usize)).unwrap();
            let delay = random.between(Duration::ZERO, Duration::from_millis(20));
            self.faults.push(Planned { after_commands, delay, fault: Fault::Luns(change) });
        }
    }

    /// Functions for all tasks of a unit, in quick succession while commands are slow.
    fn draw_functions(&mut self, random: &mut Random) {
        self.persona.slow_once_in = 3;
        self.depth = self.depth.max(8);
        for _ in 0..8 {
            let after_commands = u32::try_from(random.below(self.commands as usize)).unwrap();
            let delay = random.between(Duration::ZERO, Duration::from_millis(2));
            let fault = random.pick(&[Fault::AbortTaskSet, Fault::AbortTaskSet, Fault::AbortTask]);
            self.faults.push(Planned { after_commands, delay, fault });
        }
        if random.once_in(2) {
            self.trade_before_functions(random);
        }
    }

    /// Writes are under way in a second group when its LUNs change places, and then functions are to end them: they may meet
    /// another unit.
    fn trade_before_functions(&mut self, random: &mut Random) {
        (self.persona.slow_once_in, self.persona.slow) = (2, Duration::from_millis(500));
        (self.mix, self.policy) = (Mix { read: 2, write: 12, ..Mix::default() }, Policy::RoundRobin);
        self.longest = self.longest.max(10);
        self.faults.clear();
        for _ in 0..8 {
            let after_commands = u32::try_from(random.below(self.commands as usize)).unwrap();
            let trade = random.between(Duration::ZERO, Duration::from_millis(20));
            let function = trade + random.between(Duration::ZERO, Duration::from_millis(1));
            let change = LunChange::Trade(random.below(100), random.below(100));
            self.faults.push(Planned { after_commands, delay: trade, fault: Fault::Luns(change) });
            self.faults.push(Planned { after_commands, delay: function, fault: Fault::AbortTaskSet });
        }
    }

    /// Whether there is any such path.
    pub(crate) fn may_mislead(&self) -> bool {
        (0..self.paths.len()).any(|path| self.misleads(path))
    }

    /// Whether home's disks are not where home has them: a path on which nobody may rely before home has been seen.
    pub(crate) fn misleads(&self, path: usize) -> bool {
        self.paths[path].wrong || self.inventory.is_some() && self.paths[path].group == GROUP
    }
}
