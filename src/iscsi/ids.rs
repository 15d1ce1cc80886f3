//! Tags and identifiers as they stand in headers.

use std::fmt;

/// Initiator Task Tag.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Itt(pub u32);

impl Itt {
    /// The tag that names no task.
    pub const NONE: Self = Self(u32::MAX);
}

impl Default for Itt {
    fn default() -> Self {
        Self::NONE
    }
}

/// Target Transfer Tag.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Ttt(pub u32);

impl Ttt {
    /// The tag that names no transfer.
    pub const NONE: Self = Self(u32::MAX);
}

impl Default for Ttt {
    fn default() -> Self {
        Self::NONE
    }
}

/// Connection identifier, unique within a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
pub struct Cid(pub u16);

/// Target Session Identifying Handle; zero asks for a new session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
pub struct Tsih(pub u16);

/// Initiator Session ID: type, naming authority and qualifier (RFC 7143 section 11.12.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
pub struct Isid(pub [u8; 6]);

impl fmt::Display for Isid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{g:02x}")
    }
}

/// Logical unit number: the eight bytes of the LUN field, as one big-endian number (SAM-5 section 4.7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
pub struct Lun(pub u64);

impl Lun {
    /// The LUN field for a small unit number in the peripheral (below 256) or flat space form.
    #[must_use]
    pub const fn from_number(number: u16) -> Self {
        if number < 256 {
            Self((number as u64) << 48)
        } else {
            Self(((number as u64 & 0x3fff) | 0x4000) << 48)
        }
    }

    /// The unit number as people write it: first level only, peripheral or flat space form.
    #[must_use]
    pub const fn number(self) -> u64 {
        let first = self.0 >> 48;
        match first >> 14 {
            0 if self.0 << 16 == 0 => first & 0xff,
            1 if self.0 << 16 == 0 => first & 0x3fff,
            _ => self.0,
        }
    }
}

impl fmt::Display for Lun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}
