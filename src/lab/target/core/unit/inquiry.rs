//! Who the disk is: INQUIRY and its vital product data pages (SPC-5 section 6.4, SBC-4 section 6.6).

use super::Unit;
use super::fault::{Fault, INVALID_FIELD};

/// Vendor identification, padded to eight bytes.
const VENDOR: &[u8; 8] = b"BRAID   ";
/// Product identification, padded to sixteen bytes.
const PRODUCT: &[u8; 16] = b"RAM DISK        ";
/// Product revision level.
const REVISION: &[u8; 4] = b"0001";

/// Most blocks in one command.
pub(crate) const MAX_TRANSFER_BLOCKS: u64 = 16_384;
/// Most block descriptors in one UNMAP.
pub(crate) const MAX_UNMAP_DESCRIPTORS: usize = 256;
/// Most blocks in one COMPARE AND WRITE.
pub(crate) const MAX_COMPARE_BLOCKS: u8 = 255;

const PAGES: [u8; 6] = [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2];

/// Standard data of a unit number without a unit behind it.
pub(crate) fn absent() -> Vec<u8> {
    let mut data = vec![0; 36];
    data.splice(..5, [0x7f, 0, 0x06, 0x02, 31]);
    data
}

/// Standard INQUIRY data.
pub(crate) fn standard() -> Vec<u8> {
    let mut data = vec![0x00, 0x00, 0x06, 0x12, 91, 0x00, 0x00, 0x02];
    data.extend(VENDOR);
    data.extend(PRODUCT);
    data.extend(REVISION);
    data.resize(58, 0);
    // Version descriptors: SAM-5, iSCSI, SPC-4, SBC-3.
    data.extend([0x00, 0xa0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xc0]);
    data.resize(96, 0);
    data
}

/// A vital product data page.
pub(crate) fn vpd(unit: &Unit, page: u8) -> Result<Vec<u8>, Fault> {
    let body = match page {
        0x00 => PAGES.to_vec(),
        0x80 => unit.serial.clone().into_bytes(),
        0x83 => designators(unit),
        0xb0 => block_limits(),
        // Medium rotation rate: not rotating.
        0xb1 => page_of(60, &[(0, &[0x00, 0x01])]),
        // Unmapping by UNMAP and both WRITE SAMEs, zeros read back, thin.
        0xb2 => vec![0x00, 0xe4, 0x02, 0x00],
        _ => return Err(Fault::Sense(INVALID_FIELD)),
    };
    let mut data = vec![0x00, page];
    data.extend(u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
    data.extend(body);
    Ok(data)
}

/// A zeroed body with some fields set.
fn page_of(len: usize, fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut body = vec![0; len];
    for (at, bytes) in fields {
        body.splice(*at..*at + bytes.len(), bytes.iter().copied());
    }
    body
}

fn block_limits() -> Vec<u8> {
    let most = u32::try_from(MAX_TRANSFER_BLOCKS).unwrap_or(u32::MAX).to_be_bytes();
    let descriptors = u32::try_from(MAX_UNMAP_DESCRIPTORS).unwrap_or(u32::MAX).to_be_bytes();
    page_of(
        60,
        &[
            (1, &[MAX_COMPARE_BLOCKS]),
            (4, &most),
            (16, &u32::MAX.to_be_bytes()),
            (20, &descriptors),
            // Optimal unmap granularity.
            (24, &1u32.to_be_bytes()),
            // Maximum WRITE SAME length.
            (32, &MAX_TRANSFER_BLOCKS.to_be_bytes()),
        ],
    )
}

/// Device identification: a T10 vendor name and an NAA number, both from the serial number.
fn designators(unit: &Unit) -> Vec<u8> {
    let mut name = VENDOR.to_vec();
    name.extend(unit.serial.as_bytes());
    let mut body = vec![0x02, 0x01, 0x00, u8::try_from(name.len()).unwrap_or(u8::MAX)];
    body.extend(name);
    // NAA 3: locally assigned, so that no registered number is claimed.
    let naa = hash(unit.serial.as_bytes()) & 0x0fff_ffff_ffff_ffff | 0x3000_0000_0000_0000;
    body.extend([0x01, 0x03, 0x00, 8]);
    body.extend(naa.to_be_bytes());
    body
}

/// FNV-1a: a number that is the same at every start.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
