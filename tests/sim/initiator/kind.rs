//! What the model initiator sends, as far as judging the answer goes.

use super::Reserving;
use crate::oracle::{Effect, Stamp};

/// What a command is, as far as judging its answer goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Read,
    Write,
    /// One to a device on which it must not run twice.
    WriteOnce {
        stamp: Stamp,
    },
    Swap {
        stamp: Stamp,
    },
    /// An opcode nobody knows, which must not run twice.
    Vendor {
        stamp: Stamp,
    },
    Flush,
    /// One that never reports a unit attention.
    Inquiry,
    Query,
    Ready,
    ModeSelect,
    Reserve(Reserving),
    /// Asks for registrations; whether for all that is known of them, and how long the answer may be.
    Ask {
        full: bool,
        allocation: usize,
    },
}

impl Kind {
    pub(super) fn runs_once(self) -> bool {
        let writes = matches!(self, Self::WriteOnce { .. } | Self::Swap { .. } | Self::Vendor { .. });
        writes || matches!(self, Self::ModeSelect | Self::Reserve(_))
    }

    /// The command as a device of this type has it: only a disk may run a write twice.
    pub(super) fn on_device(self, device_type: u8, effect: Effect) -> Self {
        match effect {
            Effect::Write { stamp, .. } if stamp != 0 && device_type != 0 => Self::WriteOnce { stamp },
            _ => self,
        }
    }

    /// Whether it must not run twice on a device of this type.
    pub(super) fn runs_once_on(self, device_type: u8) -> bool {
        let harmless = match device_type {
            0 => true,
            0x14 => {
                let asks = matches!(self, Self::Query | Self::Ask { .. });
                asks || matches!(self, Self::Read | Self::Flush | Self::Inquiry | Self::Ready)
            }
            _ => matches!(self, Self::Inquiry | Self::Ready),
        };
        self.runs_once() || !harmless
    }
}
