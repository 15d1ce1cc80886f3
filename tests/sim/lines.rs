//! Scenarios in which the initiator has several connections in its session.
//!
//! Drawn from a stream of their own, so that what else a seed draws does not depend on them.

use crate::random::Random;
use crate::scenario::{Fault, Planned, Scenario};
use std::time::Duration;

/// Of this piece's own stream.
const STREAM: u64 = 0x006c_696e_6573;

const MS: Duration = Duration::from_millis(1);

impl Scenario {
    /// Gives the initiator more connections, if this seed is to be such a one, and is not one of a single cut.
    pub(crate) fn draw_lines(&mut self, seed: u64, cut: bool) {
        let mut random = Random::new(seed ^ STREAM);
        if cut || self.recovers || self.inventory.is_some() || !random.once_in(12) {
            return;
        }
        self.lines = random.pick(&[2, 2, 3, 4]);
        self.depth = self.depth.max(random.pick(&[4, 16, 32]));
        self.window = self.window.max(random.pick(&[8, 32]));
        if random.once_in(3) {
            // Nothing else goes wrong, or little.
            self.faults.truncate(1);
        }
        for _ in 0..random.pick(&[0, 1, 2, 4]) {
            let fault = random.pick(&[Fault::LineLost, Fault::LineLost, Fault::LineLeaves]);
            self.plan(fault, &mut random);
        }
        for _ in 0..random.pick(&[0, 0, 1, 2]) {
            let fault = random.pick(&[Fault::AbortTask, Fault::AbortTaskSet, Fault::ResetUnit]);
            self.plan(fault, &mut random);
        }
    }

    fn plan(&mut self, fault: Fault, random: &mut Random) {
        let after_commands = u32::try_from(random.below(self.commands as usize)).unwrap();
        let spread = random.pick(&[MS / 10, 2 * MS, 50 * MS]);
        let delay = random.between(Duration::ZERO, spread);
        self.faults.push(Planned { after_commands, delay, fault });
    }
}
