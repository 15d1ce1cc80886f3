//! What an initiator does to a unit, as commands do it and as unit attentions tell of it.

use super::attention::Code;
use crate::scsi::{Class, Command};

/// Power on, reset, nexus loss.
pub(super) const RESETS: u8 = 0x29;
/// Parameters of the unit changed.
const PARAMETERS: u8 = 0x2a;
/// Commands cleared.
const CLEARED: u8 = 0x2f;

/// What an initiator may do that others are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Reset,
    Clear,
    /// A mode or log page was changed.
    Parameters,
    Reservation,
    /// Port groups were set.
    AccessStates,
    /// What cannot be told from its opcode.
    Other,
}

impl Deed {
    /// What an attention says that somebody did.
    pub(super) fn behind(code: Code) -> Self {
        match code {
            (RESETS, _) => Self::Reset,
            (CLEARED, _) => Self::Clear,
            (PARAMETERS, 0x01 | 0x02) => Self::Parameters,
            (PARAMETERS, 0x03..=0x05) => Self::Reservation,
            (PARAMETERS, 0x06 | 0x07) => Self::AccessStates,
            _ => Self::Other,
        }
    }

    /// What a command does.
    pub(super) fn of(command: &Command) -> Option<Self> {
        match command.class {
            Class::Barrier if command.name.contains("SELECT") => Some(Self::Parameters),
            Class::Barrier if command.name == "SET TARGET PORT GROUPS" => Some(Self::AccessStates),
            Class::Barrier => Some(Self::Other),
            Class::Reservation => Some(Self::Reservation),
            Class::Read(_)
            | Class::Write(_)
            | Class::WriteAnywhere(_)
            | Class::WriteOnce(_)
            | Class::Flush(_)
            | Class::Survey(_)
            | Class::Query
            | Class::Stateless => None,
        }
    }
}
