//! Scenarios in which the paths lead to two targets of different names, which show the same disks.
//!
//! Drawn from a stream of their own, so that what else a seed draws does not depend on them.

use crate::random::Random;
use crate::scenario::{Fault, Planned, Scenario};
use crate::target::Heads;
use std::time::Duration;

/// Of this piece's own stream.
const STREAM: u64 = 0x7477_696e;

const MS: Duration = Duration::from_millis(1);

impl Scenario {
    /// Gives every other portal group to another target, if this seed has two.
    pub(crate) fn draw_twins(&mut self, seed: u64) {
        let mut random = Random::new(seed ^ STREAM);
        if !random.once_in(10) || self.paths.len() < 2 {
            return;
        }
        // Where port groups have states, standby ones take no flush: the cache is the array's.
        let one_cache = self.access.is_some() || random.once_in(4);
        // What is no disk keeps in the device what it has not written.
        let device = ![0x00, 0x14].contains(&self.persona.device_type);
        self.heads = Heads { two: true, one_cache: one_cache || device };
        if self.paths.iter().all(|p| p.group == 1) {
            for (n, path) in self.paths.iter_mut().enumerate() {
                path.group = u16::try_from(1 + n % 2).unwrap();
            }
        }
        self.persona.write_cache = !random.once_in(4);
        self.mix.flush = self.mix.flush.max(random.pick(&[1, 2, 4]));
        if random.once_in(2) {
            // Little else goes wrong.
            self.faults.truncate(1);
        }
        for _ in 0..random.pick(&[0, 1, 2, 3]) {
            let head = random.below(2);
            let how_long = random.pick(&[40 * MS, 3000 * MS, 20_000 * MS, 80_000 * MS]);
            let fault =
                if random.once_in(2) { Fault::HeadLosesPower(head) } else { Fault::HeadDown(head, how_long) };
            let after_commands = u32::try_from(random.below(self.commands as usize)).unwrap();
            let spread = random.pick(&[MS / 10, 2 * MS, 50 * MS]);
            let delay = random.between(Duration::ZERO, spread);
            self.faults.push(Planned { after_commands, delay, fault });
            if random.once_in(3) {
                let path = random.below(self.paths.len());
                self.faults.push(Planned { after_commands, delay: MS, fault: Fault::Reset(path) });
            }
        }
    }

    /// The name of the target that a path leads to.
    pub(crate) fn target_of(&self, path: usize) -> String {
        crate::target::NAMES[self.heads.of(self.paths[path].group)].into()
    }
}
