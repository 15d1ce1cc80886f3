//! Mode pages that Braid reads: the Control mode page (SPC-5 section 7.5.10).

use super::inquiry::{Cdb, padded};

/// What of the Control mode page concerns who may send a unit what over which nexus, and how sense data look.
///
/// The rest makes no difference: overlapping commands keep their order whatever QUEUE ALGORITHM MODIFIER allows, what TAS
/// makes of commands that others abort is passed on as it comes, and CLEAR TASK SET ends the commands of all nexuses
/// for either value of TST.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ControlPage {
    /// QERR: what becomes of other commands when one ends with CHECK CONDITION; 0 for nothing.
    pub queue_error: u8,
    /// UA_INTLCK_CTRL: whether unit attentions stay, and are made, until REQUEST SENSE; 0 for no.
    pub attention_interlock: u8,
    /// D_SENSE: sense data have descriptor format.
    pub descriptor_sense: bool,
}

/// Page code, with the bits of the first byte that hold it.
const CONTROL: u8 = 0x0a;
const PAGE_CODE: u8 = 0x3f;
/// Longest answer asked for, in bytes.
pub const CONTROL_LENGTH: u8 = 255;

/// MODE SENSE(6) for the current values of the Control mode page, without block descriptors.
#[must_use]
pub fn control_page_cdb() -> Cdb {
    const NO_BLOCK_DESCRIPTORS: u8 = 0x08;
    padded(&[0x1a, NO_BLOCK_DESCRIPTORS, CONTROL, 0, CONTROL_LENGTH])
}

impl ControlPage {
    /// Reads the answer to [`control_page_cdb`]; none if the page is not in it. A page that ends early has zeroes behind.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        const HEADER: usize = 4;
        let descriptors = usize::from(*data.get(3)?);
        let page = data.get(HEADER + descriptors..)?;
        if page.first()? & PAGE_CODE != CONTROL {
            return None;
        }
        let byte = |at: usize| page.get(at).copied().unwrap_or_default();
        Some(Self {
            queue_error: byte(3) >> 1 & 0x03,
            attention_interlock: byte(4) >> 4 & 0x03,
            descriptor_sense: byte(2) & 0x04 != 0,
        })
    }

    /// Why a unit can be used over one nexus only, if so.
    #[must_use]
    pub const fn binds(&self) -> Option<&'static str> {
        if self.queue_error != 0 {
            Some("an error aborts other commands of the same nexus (QERR)")
        } else if self.attention_interlock != 0 {
            Some("unit attentions stay until REQUEST SENSE (UA_INTLCK_CTRL)")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::{Class, Command};
    use proptest::prelude::*;

    #[test]
    fn the_page_is_found_behind_header_and_descriptors() {
        let page = |bytes: [u8; 5]| [&bytes[..], &[0; 7]].concat();
        let plain = [&[15, 0, 0x10, 0][..], &page([0x0a, 10, 0x24, 0x12, 0x30])].concat();
        let control = ControlPage { queue_error: 1, attention_interlock: 3, descriptor_sense: true };
        assert_eq!(ControlPage::parse(&plain), Some(control));
        let described = [&[23, 0, 0x10, 8][..], &[0; 8], &page([0x8a, 10, 0, 0x06, 0])].concat();
        assert_eq!(ControlPage::parse(&described).map(|c| c.queue_error), Some(3));
        assert_eq!(ControlPage::parse(&plain[..7]).map(|c| c.descriptor_sense), Some(true));
        assert_eq!(ControlPage::parse(&[11, 0, 0x10, 0, 0x08, 0x12]), None, "another page");
        assert_eq!(ControlPage::parse(&plain[..4]), None);
    }

    #[test]
    fn some_values_bind() {
        let free = ControlPage { descriptor_sense: true, ..ControlPage::default() };
        assert_eq!(free.binds(), None);
        assert!(ControlPage { queue_error: 3, ..free }.binds().is_some_and(|why| why.contains("QERR")));
        assert!(
            ControlPage { attention_interlock: 2, ..free }.binds().is_some_and(|why| why.contains("UA_"))
        );
    }

    #[test]
    fn the_question_is_one() {
        let question = Command::parse(&control_page_cdb());
        assert_eq!((question.name, question.class), ("MODE SENSE(6)", Class::Query));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(data in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(ControlPage::parse(&data).is_none() || data.len() > 4);
        }
    }
}
