//! MODE SENSE: caching and control pages (SPC-5 section 7.5, SBC-4 section 6.5).

use super::fault::{Fault, INVALID_FIELD, SAVING_UNSUPPORTED};
use super::short_blocks;

const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0a;
const ALL: u8 = 0x3f;

/// The header, block descriptor and pages asked for.
pub(crate) fn sense(
    long: bool,
    blockless: bool,
    control: u8,
    (page, subpage): (u8, u8),
    (blocks, block_size): (u64, u32),
) -> Result<Vec<u8>, Fault> {
    if control == 3 {
        return Err(Fault::Sense(SAVING_UNSUPPORTED));
    }
    if subpage != 0 && subpage != 0xff {
        return Err(Fault::Sense(INVALID_FIELD));
    }
    // Changeable values (control 1): nothing can be changed.
    let changeable = control == 1;
    let mut pages = Vec::new();
    if page == CACHING || page == ALL {
        pages.extend([CACHING, 18, if changeable { 0 } else { 0x04 }]);
        pages.extend([0; 17]);
    }
    if page == CONTROL || page == ALL {
        // Unrestricted reordering, one task set for all.
        pages.extend([CONTROL, 10, 0, if changeable { 0 } else { 0x10 }]);
        pages.extend([0; 8]);
    }
    if pages.is_empty() {
        return Err(Fault::Sense(INVALID_FIELD));
    }
    Ok(with_header(long, blockless, &pages, short_blocks(blocks), block_size))
}

fn with_header(long: bool, blockless: bool, pages: &[u8], blocks: u32, block_size: u32) -> Vec<u8> {
    let mut descriptor = Vec::new();
    if !blockless {
        descriptor.extend(blocks.to_be_bytes());
        descriptor.extend(block_size.to_be_bytes());
    }
    // Device-specific parameter: DPO and FUA are understood, not write protected.
    let specific = 0x10;
    let header = if long { 8 } else { 4 };
    let total = header + descriptor.len() + pages.len();
    let descriptors = u8::try_from(descriptor.len()).unwrap_or(u8::MAX);
    let mut data = if long {
        let [high, low] = u16::try_from(total - 2).unwrap_or(u16::MAX).to_be_bytes();
        vec![high, low, 0, specific, 0, 0, 0, descriptors]
    } else {
        vec![u8::try_from(total - 1).unwrap_or(u8::MAX), 0, specific, descriptors]
    };
    data.extend(descriptor);
    data.extend(pages);
    data
}
