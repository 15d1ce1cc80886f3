//! Seeds in which reads that are late are asked again over another path.
//!
//! Drawn from a stream of its own. Reads are many in them, and late is what takes longer than half of them, or little more: a
//! scenario has too few for a higher quantile to be known.

use crate::random::Random;
use crate::scenario::Scenario;
use braid::iscsi::{Pdu, ScsiCommand};
use braid::session::Hedge;

/// Of this piece's own stream.
const STREAM: u64 = 0x6865_6467_6572;

impl Scenario {
    /// Makes this seed one with hedged reads, if it is to be one.
    pub(crate) fn draw_hedging(&mut self, seed: u64) {
        let mut random = Random::new(seed ^ STREAM);
        if !random.once_in(8) {
            return;
        }
        let late = random.pick(&[500, 500, 700, 900]);
        self.hedge = Some(Hedge { late, most: random.pick(&[1000, 1000, 200, 50]) });
        self.mix.read = self.mix.read.max(24);
        self.commands = self.commands.max(random.pick(&[60, 90, 150]));
    }
}

/// How many reads of a session were sent, and how many of them because others were late.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Hedges {
    sent: u32,
    hedged: u32,
}

impl Hedges {
    pub(crate) fn sent(&mut self, pdu: &Pdu) {
        self.sent += u32::from(matches!(pdu, Pdu::ScsiCommand(ScsiCommand { read: true, .. })));
    }

    /// One more read is asked again: that must be within the share that was set.
    pub(crate) fn hedged(&mut self, hedge: Option<Hedge>) {
        self.hedged += 1;
        let most = hedge.map_or(0, |hedge| u32::from(hedge.most));
        let (hedged, sent) = (self.hedged, self.sent);
        assert!(hedged * 1000 <= most * sent, "P4: {hedged} of {sent} reads are asked again");
    }
}
