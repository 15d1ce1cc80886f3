//! What goes wrong, and is made good again: of links, and of targets that are processes.

use std::thread::sleep;
use std::time::Duration;

use crate::net::{Cut, Net};
use crate::target::Target;

/// Times for which a flapping link is down, and then up, in milliseconds.
const FLAPS: [u64; 8] = [50, 50, 100, 50, 200, 500, 50, 1000];

const PROCESS: &str = "a target that is a process";

/// Something that goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trouble {
    /// A link is broken.
    Link(usize, Cut),
    /// All links are broken in the same way.
    AllLinks(Cut),
    /// A link goes up and down for some seconds.
    Flapping(usize, Cut),
    /// The target does nothing, while its kernel goes on taking what comes for it.
    Stopped,
    /// The target is killed and started again.
    Restarted,
}

impl Trouble {
    /// One of so many links' troubles, or of a target's if it is a `process`.
    pub(crate) fn random(dice: &mut Dice, links: usize, process: bool) -> Self {
        let cuts = [Cut::Reset, Cut::Drop, Cut::DropIn, Cut::DropOut, Cut::Loss(10)];
        let cut = dice.one_of(&cuts);
        let link = usize::try_from(dice.below(links as u64)).expect("small");
        match dice.below(if process { 16 } else { 14 }) {
            0 => Self::AllLinks(cut),
            1 | 2 => Self::Flapping(link, cut),
            14 => Self::Stopped,
            15 => Self::Restarted,
            _ => Self::Link(link, cut),
        }
    }

    /// Lets it happen. What is over by itself is over when this returns.
    pub(crate) fn begin(self, net: &Net, target: Option<&mut Target>) {
        match self {
            Self::Link(link, cut) => net.cut(link, cut),
            Self::AllLinks(cut) => (0..net.paths()).for_each(|link| net.cut(link, cut)),
            Self::Flapping(link, cut) => {
                for time in FLAPS {
                    net.cut(link, cut);
                    pause(time);
                    net.heal(link);
                    pause(time);
                }
            }
            Self::Stopped => target.expect(PROCESS).stop(true),
            Self::Restarted => target.expect(PROCESS).restart(),
        }
    }

    /// Makes it good again.
    pub(crate) fn end(self, net: &Net, target: Option<&mut Target>) {
        match self {
            Self::Link(link, _) => net.heal(link),
            Self::AllLinks(_) => (0..net.paths()).for_each(|link| net.heal(link)),
            Self::Stopped => target.expect(PROCESS).stop(false),
            Self::Flapping(..) | Self::Restarted => {}
        }
    }
}

/// How long a trouble lasts is part of it.
pub(crate) fn pause(milliseconds: u64) {
    sleep(Duration::from_millis(milliseconds));
}

/// Numbers that follow from a seed (xorshift).
pub(crate) struct Dice(u64);

impl Dice {
    /// From this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    /// One of some.
    pub(crate) fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        let at = usize::try_from(self.below(list.len() as u64)).expect("small");
        *list.get(at).expect("below the length")
    }
}
