//! SCSI status codes and sense data (SPC-5 section 4.4).

use std::fmt;

/// Status codes (SAM-5 section 5.3.1).
#[expect(missing_docs, reason = "the standard's names say it")]
pub mod status {
    pub const GOOD: u8 = 0x00;
    pub const CHECK_CONDITION: u8 = 0x02;
    pub const CONDITION_MET: u8 = 0x04;
    pub const BUSY: u8 = 0x08;
    pub const RESERVATION_CONFLICT: u8 = 0x18;
    pub const TASK_SET_FULL: u8 = 0x28;
    pub const ACA_ACTIVE: u8 = 0x30;
    pub const TASK_ABORTED: u8 = 0x40;
}

/// Sense keys.
#[expect(missing_docs, reason = "the standard's names say it")]
pub mod key {
    pub const NO_SENSE: u8 = 0x0;
    pub const RECOVERED_ERROR: u8 = 0x1;
    pub const NOT_READY: u8 = 0x2;
    pub const MEDIUM_ERROR: u8 = 0x3;
    pub const HARDWARE_ERROR: u8 = 0x4;
    pub const ILLEGAL_REQUEST: u8 = 0x5;
    pub const UNIT_ATTENTION: u8 = 0x6;
    pub const DATA_PROTECT: u8 = 0x7;
    pub const ABORTED_COMMAND: u8 = 0xb;
    pub const MISCOMPARE: u8 = 0xe;
}

/// Sense key, additional sense code and qualifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Sense {
    /// Sense key.
    pub key: u8,
    /// Additional sense code.
    pub asc: u8,
    /// Additional sense code qualifier.
    pub ascq: u8,
}

impl Sense {
    /// Reads fixed (70h, 71h) or descriptor (72h, 73h) sense data; none if it is neither or too short.
    ///
    /// `sense` starts at the response code: iSCSI's two length bytes are not part of it. Fixed data that ends, or by its
    /// own ADDITIONAL SENSE LENGTH ends, before the additional sense code has a code of 00h/00h.
    #[must_use]
    pub fn parse(sense: &[u8]) -> Option<Self> {
        const RESPONSE_CODE: u8 = 0x7f;
        match sense.first()? & RESPONSE_CODE {
            0x70 | 0x71 => Self::parse_fixed(sense),
            0x72 | 0x73 => {
                let [_, key, asc, ascq] = *sense.first_chunk()?;
                Some(Self { key: key & 0x0f, asc, ascq })
            }
            _ => None,
        }
    }

    /// SPC-5 section 4.4.3: the key is in byte 2, the codes in bytes 12 and 13 if ADDITIONAL SENSE LENGTH reaches them.
    fn parse_fixed(sense: &[u8]) -> Option<Self> {
        const BEFORE_ADDITIONAL: usize = 8;
        let key = sense.get(2)? & 0x0f;
        let end = BEFORE_ADDITIONAL + usize::from(sense.get(7).copied().unwrap_or_default());
        let code = |at| sense.get(at).copied().filter(|_| at < end).unwrap_or_default();
        Some(Self { key, asc: code(12), ascq: code(13) })
    }

    /// Fixed format sense data, 18 bytes.
    #[must_use]
    pub fn to_fixed(self) -> [u8; 18] {
        let Self { key, asc, ascq } = self;
        [0x70, 0, key & 0x0f, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0]
    }

    /// Descriptor format sense data without descriptors, 8 bytes.
    #[must_use]
    pub const fn to_descriptors(self) -> [u8; 8] {
        [0x72, self.key & 0x0f, self.asc, self.ascq, 0, 0, 0, 0]
    }

    /// Whether it is a unit attention.
    #[must_use]
    pub const fn is_unit_attention(self) -> bool {
        self.key == key::UNIT_ATTENTION
    }
}

impl fmt::Display for Sense {
    /// The three numbers in hexadecimal, e.g. `6/29/00`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:02X}/{:02X}", self.key, self.asc, self.ascq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POWER_ON: Sense = Sense { key: key::UNIT_ATTENTION, asc: 0x29, ascq: 0x01 };

    #[test]
    fn both_formats_current_and_deferred() {
        for code in [0x70, 0x71, 0xf0] {
            let mut fixed = POWER_ON.to_fixed();
            fixed[0] = code;
            fixed[2] |= 0xe0;
            assert_eq!(Sense::parse(&fixed), Some(POWER_ON), "{code:#x}");
        }
        for code in [0x72, 0x73] {
            assert_eq!(Sense::parse(&[code, 0xf6, 0x29, 0x01]), Some(POWER_ON), "{code:#x}");
        }
    }

    #[test]
    fn short_data() {
        let fixed = POWER_ON.to_fixed();
        let key_only = Sense { asc: 0, ascq: 0, ..POWER_ON };
        for length in 0..3 {
            assert_eq!(Sense::parse(&fixed[..length]), None);
        }
        for length in 3..13 {
            assert_eq!(Sense::parse(&fixed[..length]), Some(key_only));
        }
        assert_eq!(Sense::parse(&fixed[..13]), Some(Sense { ascq: 0, ..POWER_ON }));
        assert_eq!(Sense::parse(&fixed[..14]), Some(POWER_ON));
        assert_eq!(Sense::parse(&[0x72, 6, 0x29]), None);
        assert_eq!(Sense::parse(&[0x72, 6, 0x29, 1]), Some(POWER_ON));
    }

    #[test]
    fn bytes_behind_the_additional_length_do_not_count() {
        let mut fixed = POWER_ON.to_fixed();
        fixed[7] = 5;
        assert_eq!(Sense::parse(&fixed), Some(Sense { ascq: 0, ..POWER_ON }));
        fixed[7] = 4;
        assert_eq!(Sense::parse(&fixed), Some(Sense { asc: 0, ascq: 0, ..POWER_ON }));
    }

    #[test]
    fn other_response_codes_are_no_sense_data() {
        for code in [0x00, 0x6f, 0x74, 0x7f, 0xff] {
            assert_eq!(Sense::parse(&[code; 18]), None, "{code:#x}");
        }
    }

    #[test]
    fn it_prints_as_usually_written() {
        assert_eq!(POWER_ON.to_string(), "6/29/01");
        assert_eq!(Sense { key: key::ABORTED_COMMAND, asc: 0x0e, ascq: 0xab }.to_string(), "B/0E/AB");
    }

    proptest! {
        #[test]
        fn fixed_data_comes_back(key in 0..16u8, asc: u8, ascq: u8) {
            let sense = Sense { key, asc, ascq };
            prop_assert_eq!(Sense::parse(&sense.to_fixed()), Some(sense));
            prop_assert_eq!(Sense::parse(&sense.to_descriptors()), Some(sense));
        }
    }
}
