//! How a command ends otherwise than well.

use crate::scsi::Sense;

/// Why a command is not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// CHECK CONDITION.
    Sense(Sense),
    /// CHECK CONDITION with an INFORMATION field.
    SenseAt(Sense, u32),
    /// RESERVATION CONFLICT.
    Conflict,
}

const fn illegal(asc: u8) -> Sense {
    Sense { key: crate::scsi::sense::key::ILLEGAL_REQUEST, asc, ascq: 0 }
}

pub(crate) const INVALID_OPCODE: Sense = illegal(0x20);
pub(crate) const OUT_OF_RANGE: Sense = illegal(0x21);
pub(crate) const INVALID_FIELD: Sense = illegal(0x24);
pub(crate) const NO_SUCH_UNIT: Sense = illegal(0x25);
pub(crate) const INVALID_PARAMETER: Sense = illegal(0x26);
pub(crate) const PARAMETER_LENGTH: Sense = illegal(0x1a);
pub(crate) const SAVING_UNSUPPORTED: Sense = illegal(0x39);
pub(crate) const MISCOMPARE: Sense = Sense { key: crate::scsi::sense::key::MISCOMPARE, asc: 0x1d, ascq: 0 };
pub(crate) const INSUFFICIENT_REGISTRATION: Sense = Sense { key: 5, asc: 0x55, ascq: 0x04 };
pub(crate) const INVALID_RELEASE: Sense = Sense { key: 5, asc: 0x26, ascq: 0x04 };

/// Wrong unsolicited data (R139).
pub(crate) const UNEXPECTED_DATA: Sense = Sense { key: 0x0b, asc: 0x0c, ascq: 0x0c };
pub(crate) const WRONG_DATA_AMOUNT: Sense = Sense { key: 0x0b, asc: 0x0c, ascq: 0x0d };
pub(crate) const DATA_CRC: Sense = Sense { key: 0x0b, asc: 0x47, ascq: 0x05 };

const fn attention(asc: u8, ascq: u8) -> Sense {
    Sense { key: crate::scsi::sense::key::UNIT_ATTENTION, asc, ascq }
}

pub(crate) const POWER_ON: Sense = attention(0x29, 0x00);
pub(crate) const UNIT_RESET: Sense = attention(0x29, 0x03);
pub(crate) const COMMANDS_CLEARED: Sense = attention(0x2f, 0x00);
pub(crate) const LOST_COMMANDS_CLEARED: Sense = attention(0x47, 0x7f);
pub(crate) const RESERVATIONS_PREEMPTED: Sense = attention(0x2a, 0x03);
pub(crate) const RESERVATIONS_RELEASED: Sense = attention(0x2a, 0x04);
pub(crate) const REGISTRATIONS_PREEMPTED: Sense = attention(0x2a, 0x05);
