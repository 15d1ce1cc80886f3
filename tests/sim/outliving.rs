//! Scenarios in which Braid proposes error recovery level 2, so that tasks may outlive their connection: to a target that masters
//! it, to one that does but for some of it, and to one that only says so.
//!
//! Drawn from a stream of their own, so that what else a seed draws does not depend on them.

use crate::random::Random;
use crate::scenario::{Fault, Planned, Scenario};
use crate::target::Persona;
use braid::iscsi::tmf;
use braid::session::Fanout;
use std::time::Duration;

/// Of this piece's own stream.
const STREAM: u64 = 0x6f75_746c;

const MS: Duration = Duration::from_millis(1);

impl Scenario {
    /// Has tasks outlive their connection, if this seed is to be such a one, and is not one of a single cut.
    pub(crate) fn draw_reassignment(&mut self, seed: u64, cut: bool) {
        let mut random = Random::new(seed ^ STREAM);
        if cut || !random.once_in(6) || self.paths.len() < 2 || self.inventory.is_some() {
            return;
        }
        if random.once_in(2) || !["BRAID", "LIO-ORG", "ACME"].contains(&self.persona.vendor) {
            self.persona = Persona { control: self.persona.control, ..Persona::lab() }.varied(&mut random);
            self.persona.device_type = self.order.device_type;
        }
        let persona = &mut self.persona;
        match persona.vendor {
            // As it is at this level (section 3).
            "LIO-ORG" => {
                (persona.dies_with_connection, persona.tells_drops) = (None, true);
                (persona.recovery_logout, persona.reassign) = ((0, 0), tmf::REJECTED);
            }
            // It claims the level anyway.
            "ACME" => {}
            _ => {
                persona.recovery_logout.0 = random.pick(&[0, 0, 0, 0, 0, 0, 0, 1, 2, 3]);
                let refusals =
                    [tmf::TASK_DOES_NOT_EXIST, tmf::TASK_STILL_ALLEGIANT, tmf::REASSIGN_UNSUPPORTED];
                let refuses = random.once_in(8);
                persona.reassign = if refuses { random.pick(&refusals) } else { tmf::COMPLETE };
                persona.recovery_logout.1 = random.pick(&[0, 0, 0, 0, 0, 0, 2]);
            }
        }
        persona.error_recovery_level = 2;
        // So that there are tasks when a connection is lost.
        persona.slow_once_in = random.pick(&[1, 1, 3]);
        self.depth = self.depth.max(random.pick(&[8, 16, 32]));
        self.window = self.window.max(16);
        if random.once_in(2) {
            self.paths.iter_mut().for_each(|p| p.quality.delay = p.quality.delay.max(MS));
        }
        (self.fanout, self.reassigns) = (Fanout::Mcs, true);
        for _ in 0..random.pick(&[0, 1, 2, 4, 6]) {
            let after_commands = u32::try_from(random.below(self.commands as usize)).unwrap();
            let spread = random.pick(&[MS / 10, 2 * MS, 50 * MS]);
            let delay = random.between(Duration::ZERO, spread);
            let fault = Fault::Reset(random.below(self.paths.len()));
            self.faults.push(Planned { after_commands, delay, fault });
        }
    }
}
