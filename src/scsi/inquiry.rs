//! Who a logical unit is: the commands Braid asks with, and what the answers say.
//!
//! # Contract
//! The `*_cdb` functions build CDBs padded to the 16 bytes of an iSCSI header. The parsers take the answer as far as it
//! came; fields that did not come are empty, and none is returned only where nothing can be told at all. A page that is
//! not the one asked for is none.

use std::collections::BTreeSet;
use std::fmt;

/// VPD page 80h, unit serial number.
pub const PAGE_SERIAL: u8 = 0x80;
/// VPD page 83h, device identification.
pub const PAGE_IDENTIFICATION: u8 = 0x83;

/// A CDB as it stands in an iSCSI header.
pub type Cdb = [u8; 16];

/// INQUIRY for the standard data (`page` none) or a VPD page; `allocation` in bytes (SPC-5 section 6.7).
#[must_use]
pub fn inquiry_cdb(page: Option<u8>, allocation: u16) -> Cdb {
    let [high, low] = allocation.to_be_bytes();
    let (evpd, page) = page.map_or((0, 0), |page| (1, page));
    padded(&[0x12, evpd, page, high, low])
}

/// TEST UNIT READY.
#[must_use]
pub fn test_unit_ready_cdb() -> Cdb {
    padded(&[0x00])
}

/// READ CAPACITY(10); the answer has 8 bytes.
#[must_use]
pub fn read_capacity_10_cdb() -> Cdb {
    padded(&[0x25])
}

/// READ CAPACITY(16); `allocation` in bytes, 32 are enough.
#[must_use]
pub fn read_capacity_16_cdb(allocation: u32) -> Cdb {
    let [a, b, c, d] = allocation.to_be_bytes();
    padded(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d])
}

/// PERSISTENT RESERVE IN, READ KEYS; `allocation` in bytes.
#[must_use]
pub fn read_keys_cdb(allocation: u16) -> Cdb {
    let [high, low] = allocation.to_be_bytes();
    padded(&[0x5e, 0, 0, 0, 0, 0, 0, high, low])
}

/// REPORT LUNS, all but well-known units; `allocation` in bytes, at least 16.
#[must_use]
pub fn report_luns_cdb(allocation: u32) -> Cdb {
    let [a, b, c, d] = allocation.to_be_bytes();
    padded(&[0xa0, 0, 0, 0, 0, 0, a, b, c, d])
}

/// A CDB with the zeroes that a header wants behind it.
pub(super) fn padded(bytes: &[u8]) -> Cdb {
    let mut cdb = Cdb::default();
    for (to, from) in cdb.iter_mut().zip(bytes) {
        *to = *from;
    }
    cdb
}

/// Standard INQUIRY data (SPC-5 section 6.7.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inquiry {
    /// Peripheral qualifier: 0 is a unit that is there, 1 one that may come, 3 none at this LUN.
    pub qualifier: u8,
    /// Peripheral device type: 00h disk, 01h tape, 05h CD, 0Ch storage array controller, 14h zoned disk, 1Fh none.
    pub device_type: u8,
    /// CMDQUE: it has several commands at a time.
    pub queues: bool,
    /// T10 vendor identification without padding.
    pub vendor: String,
    /// Product identification without padding.
    pub product: String,
    /// Product revision level without padding.
    pub revision: String,
}

impl Inquiry {
    /// Reads standard INQUIRY data; none if it is empty.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let first = data.first()?;
        Some(Self {
            qualifier: first >> 5,
            device_type: first & 0x1f,
            queues: data.get(7).is_some_and(|byte| byte & 0x02 != 0),
            vendor: text(up_to(data, 8, 16)),
            product: text(up_to(data, 16, 32)),
            revision: text(up_to(data, 32, 36)),
        })
    }

    /// Whether it is a disk without zones that is there: the only kind whose commands may leave home.
    #[must_use]
    pub const fn is_disk(&self) -> bool {
        self.qualifier == 0 && self.device_type == 0
    }
}

/// The serial number of VPD page 80h without padding; none if it is another page or the number is empty.
#[must_use]
pub fn parse_serial(page: &[u8]) -> Option<String> {
    let serial = text(vpd_body(page, PAGE_SERIAL)?);
    (!serial.is_empty()).then_some(serial)
}

/// One name of a logical unit (SPC-5 section 7.7.6).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Designator {
    /// Designator type: 1 T10 vendor ID, 2 EUI-64, 3 NAA, 8 SCSI name string, Ah UUID ...
    pub kind: u8,
    /// Code set: 1 binary, 2 ASCII, 3 UTF-8.
    pub code_set: u8,
    /// The name.
    pub bytes: Vec<u8>,
}

impl Designator {
    /// Whether it names this logical unit and no other in the world, as far as the standard can demand it.
    #[must_use]
    pub const fn is_unique(&self) -> bool {
        const VENDOR_SPECIFIC: u8 = 0;
        const UNIT_GROUP: u8 = 6;
        !matches!(self.kind, VENDOR_SPECIFIC | UNIT_GROUP) && !self.bytes.is_empty()
    }
}

impl fmt::Display for Designator {
    /// Type and name, e.g. `naa.6001405a` or `t10.IET 00010001`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            1 => f.write_str("t10.")?,
            2 => f.write_str("eui.")?,
            3 => f.write_str("naa.")?,
            8 => f.write_str("name.")?,
            0x0a => f.write_str("uuid.")?,
            kind => write!(f, "{kind:x}.")?,
        }
        match self.code_set {
            2 | 3 => f.write_str(&text(&self.bytes)),
            _ => self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

/// A designation descriptor of VPD page 83h as it stands there.
pub(super) struct RawDesignator<'a> {
    /// What it names: 0 the logical unit, 1 the target port asked through, 2 the target device.
    pub(super) association: u8,
    pub(super) kind: u8,
    pub(super) code_set: u8,
    pub(super) bytes: &'a [u8],
}

/// The descriptors of VPD page 83h; none of another page. One that is cut off at the end is left out.
pub(super) fn designators(page: &[u8]) -> impl Iterator<Item = RawDesignator<'_>> {
    let mut rest = vpd_body(page, PAGE_IDENTIFICATION).unwrap_or_default();
    std::iter::from_fn(move || {
        let ([code_set, kind, _, length], behind) = rest.split_first_chunk()?;
        let (bytes, next) = behind.split_at_checked(usize::from(*length))?;
        rest = next;
        Some(RawDesignator {
            association: kind >> 4 & 3,
            kind: kind & 0x0f,
            code_set: code_set & 0x0f,
            bytes,
        })
    })
}

/// All names a logical unit gives itself in VPD page 83h; those of target ports and target devices, which differ from path
/// to path, are left out. Two paths lead to the same unit only if these are equal.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity(BTreeSet<Designator>);

impl Identity {
    /// Reads VPD page 83h; none if it is another page. A designator cut off at the end is left out.
    #[must_use]
    pub fn parse(page: &[u8]) -> Option<Self> {
        const LOGICAL_UNIT: u8 = 0;
        vpd_body(page, PAGE_IDENTIFICATION)?;
        let of_unit = designators(page).filter(|d| d.association == LOGICAL_UNIT);
        let name =
            |d: RawDesignator<'_>| Designator { kind: d.kind, code_set: d.code_set, bytes: d.bytes.to_vec() };
        Some(Self(of_unit.map(name).collect()))
    }

    /// Whether there is a name that no other unit has; without one, an equal identity proves nothing.
    #[must_use]
    pub fn is_unique(&self) -> bool {
        self.0.iter().any(Designator::is_unique)
    }

    /// The names, in a fixed order.
    pub fn designators(&self) -> impl Iterator<Item = &Designator> {
        self.0.iter()
    }
}

impl fmt::Display for Identity {
    /// The names with commas between; `no name` if there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(if names.is_empty() { "no name" } else { "" })?;
        f.write_str(&names.join(", "))
    }
}

/// Size of the medium.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    /// The last logical block.
    pub last_lba: u64,
    /// Bytes per logical block.
    pub block_size: u32,
}

impl Capacity {
    /// Reads the answer to READ CAPACITY(10); none if it is short. A last block of FFFFFFFFh says that READ CAPACITY(16)
    /// must be asked ([`Capacity::is_beyond_10`]).
    #[must_use]
    pub fn parse_10(data: &[u8]) -> Option<Self> {
        let (last_lba, rest) = data.split_first_chunk()?;
        let last_lba = u64::from(u32::from_be_bytes(*last_lba));
        Some(Self { last_lba, block_size: u32::from_be_bytes(*rest.first_chunk()?) })
    }

    /// Reads the answer to READ CAPACITY(16); none if it is short.
    #[must_use]
    pub fn parse_16(data: &[u8]) -> Option<Self> {
        let (last_lba, rest) = data.split_first_chunk()?;
        Some(Self {
            last_lba: u64::from_be_bytes(*last_lba),
            block_size: u32::from_be_bytes(*rest.first_chunk()?),
        })
    }

    /// Whether READ CAPACITY(10) could not tell the size.
    #[must_use]
    pub const fn is_beyond_10(&self) -> bool {
        self.last_lba >= u32::MAX as u64
    }

    /// Number of logical blocks.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        self.last_lba.saturating_add(1)
    }
}

/// The LUNs of REPORT LUNS data, as in the LUN field of a header; cut off where the data ends.
pub fn parse_luns(data: &[u8]) -> impl Iterator<Item = u64> {
    let length = data.first_chunk().map_or(0, |length| u32::from_be_bytes(*length));
    let list = data.get(8..).unwrap_or_default();
    let list = list.get(..usize::try_from(length).unwrap_or(usize::MAX)).unwrap_or(list);
    list.chunks_exact(8).filter_map(|lun| Some(u64::from_be_bytes(*lun.first_chunk()?)))
}

/// What follows the header of a VPD page, as far as PAGE LENGTH and the data reach; none if it is another page.
fn vpd_body(data: &[u8], page: u8) -> Option<&[u8]> {
    let ([_, code, high, low], body) = data.split_first_chunk()?;
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    (*code == page).then(|| body.get(..length).unwrap_or(body))
}

/// `data[from..to]` as far as it reaches.
fn up_to(data: &[u8], from: usize, to: usize) -> &[u8] {
    data.get(from..to.min(data.len())).unwrap_or_default()
}

/// Text without the blanks and zeroes around it; bytes that are no UTF-8 are replaced.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_matches([' ', '\0']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::{Class, Command};
    use proptest::prelude::*;

    const NAA: &[u8] = &[1, 0x03, 0, 8, 0x60, 1, 2, 3, 4, 5, 6, 7];
    const T10: &[u8] = b"\x02\x01\x00\x10IET     00010001";
    const PORT: &[u8] = &[0x51, 0x94, 0, 4, 0, 0, 0, 1];
    const PORT_NAME: &[u8] = b"\x53\x98\x00\x08iqn.a,1\0";
    const DEVICE_NAME: &[u8] = b"\x53\xa8\x00\x04iqn\0";
    const VENDOR: &[u8] = &[1, 0x00, 0, 2, 7, 7];

    fn page(number: u8, parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        let mut page = vec![0, number, 0, u8::try_from(body.len()).unwrap()];
        page.extend(body);
        page
    }

    fn identity(parts: &[&[u8]]) -> Identity {
        Identity::parse(&page(PAGE_IDENTIFICATION, parts)).unwrap()
    }

    #[test]
    fn names_of_ports_do_not_make_a_difference_but_names_of_the_unit_do() {
        let other_port: &[u8] = &[0x51, 0x94, 0, 4, 0, 0, 0, 2];
        assert_eq!(identity(&[NAA, PORT, T10, PORT_NAME]), identity(&[T10, DEVICE_NAME, other_port, NAA]));
        assert_ne!(identity(&[NAA, T10]), identity(&[NAA]));
        let mut other = NAA.to_vec();
        other[11] = 8;
        assert_ne!(identity(&[NAA]), identity(&[&other]));
        let mut as_text = NAA.to_vec();
        as_text[0] = 2;
        assert_ne!(identity(&[NAA]), identity(&[&as_text]), "the code set belongs to the name");
    }

    #[test]
    fn only_names_that_must_be_unique_prove_anything() {
        assert!(identity(&[NAA]).is_unique());
        assert!(identity(&[VENDOR, T10]).is_unique());
        assert!(!identity(&[VENDOR, PORT, DEVICE_NAME]).is_unique());
        assert!(!identity(&[&[1, 0x06, 0, 4, 0, 0, 0, 1]]).is_unique(), "a group of units");
        assert!(!identity(&[&[1, 0x03, 0, 0]]).is_unique(), "an empty name");
        assert!(!identity(&[]).is_unique());
    }

    #[test]
    fn a_page_cut_off_keeps_whole_names_only() {
        let whole = page(PAGE_IDENTIFICATION, &[NAA, T10]);
        for length in 4 + NAA.len()..whole.len() {
            assert_eq!(Identity::parse(&whole[..length]), Some(identity(&[NAA])), "{length}");
        }
        assert_eq!(Identity::parse(&whole[..3]), None);
        assert_eq!(Identity::parse(&page(PAGE_SERIAL, &[NAA])), None);
        let mut padded = whole.clone();
        padded.extend([1, 3, 0, 1, 9]);
        assert_eq!(Identity::parse(&padded), Some(identity(&[NAA, T10])), "behind PAGE LENGTH");
    }

    #[test]
    fn identities_print_for_people() {
        assert_eq!(identity(&[NAA, T10, PORT]).to_string(), "t10.IET     00010001, naa.6001020304050607");
        assert_eq!(identity(&[]).to_string(), "no name");
    }

    #[test]
    fn standard_data() {
        let mut data = vec![0, 0, 6, 2, 31, 0, 0, 0];
        data.extend(b"IET     VIRTUAL-DISK    0001");
        let disk = Inquiry::parse(&data).unwrap();
        assert_eq!((disk.vendor.as_str(), disk.product.as_str()), ("IET", "VIRTUAL-DISK"));
        assert_eq!((disk.revision.as_str(), disk.is_disk()), ("0001", true));
        for first in [0x0c, 0x14, 0x20, 0x7f] {
            data[0] = first;
            let other = Inquiry::parse(&data).unwrap();
            assert_eq!((other.qualifier << 5 | other.device_type, other.is_disk()), (first, false));
        }
        assert_eq!(Inquiry::parse(&data[..12]).unwrap().vendor, "IET");
        assert_eq!(Inquiry::parse(&data[..5]).unwrap().vendor, "");
        assert_eq!(Inquiry::parse(&[]), None);
    }

    #[test]
    fn serial_number() {
        assert_eq!(parse_serial(&page(PAGE_SERIAL, &[b"  beaf11 \0"])).as_deref(), Some("beaf11"));
        assert_eq!(parse_serial(&page(PAGE_SERIAL, &[b"    "])), None);
        assert_eq!(parse_serial(&page(PAGE_IDENTIFICATION, &[b"beaf11"])), None);
        assert_eq!(parse_serial(&[0, 0x80, 0]), None);
    }

    #[test]
    fn capacity() {
        let capacity = Capacity::parse_10(&[0, 0, 0xff, 0xff, 0, 0, 2, 0]).unwrap();
        assert_eq!((capacity.blocks(), capacity.block_size, capacity.is_beyond_10()), (0x1_0000, 512, false));
        assert!(Capacity::parse_10(&[0xff, 0xff, 0xff, 0xff, 0, 0, 2, 0]).unwrap().is_beyond_10());
        assert_eq!(Capacity::parse_10(&[0; 7]), None);
        let mut data = [0; 32];
        data[3] = 1;
        data[10] = 0x10;
        let capacity = Capacity::parse_16(&data).unwrap();
        assert_eq!(capacity, Capacity { last_lba: 1 << 32, block_size: 4096 });
        assert_eq!(Capacity::parse_16(&data[..12]), Some(capacity));
        assert_eq!(Capacity::parse_16(&data[..11]), None);
    }

    #[test]
    fn luns() {
        let data =
            [0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0];
        assert_eq!(parse_luns(&data).collect::<Vec<_>>(), [0, 1 << 48]);
        assert_eq!(parse_luns(&data[..20]).collect::<Vec<_>>(), [0]);
        assert_eq!(parse_luns(&data[..3]).count(), 0);
    }

    #[test]
    fn own_commands_are_what_they_say() {
        let cases = [
            (inquiry_cdb(None, 0x1234), "INQUIRY", Class::Stateless),
            (inquiry_cdb(Some(PAGE_IDENTIFICATION), 255), "INQUIRY", Class::Stateless),
            (test_unit_ready_cdb(), "TEST UNIT READY", Class::Stateless),
            (read_capacity_10_cdb(), "READ CAPACITY(10)", Class::Query),
            (read_capacity_16_cdb(32), "READ CAPACITY(16)", Class::Query),
            (read_keys_cdb(0x1234), "PERSISTENT RESERVE IN READ KEYS", Class::Query),
            (report_luns_cdb(0x1234), "REPORT LUNS", Class::Stateless),
        ];
        for (cdb, name, class) in &cases {
            let command = Command::parse(cdb);
            assert_eq!((command.name, &command.class), (*name, class));
        }
        assert_eq!(cases[0].0[..6], [0x12, 0, 0, 0x12, 0x34, 0]);
        assert_eq!(cases[1].0[..6], [0x12, 1, 0x83, 0, 255, 0]);
        assert_eq!(cases[4].0[10..], [0, 0, 0, 32, 0, 0]);
        assert_eq!(cases[5].0[7..10], [0x12, 0x34, 0]);
        assert_eq!(cases[6].0[6..12], [0, 0, 0x12, 0x34, 0, 0]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), page: u8) {
            let mut data = bytes;
            for page in [page, PAGE_SERIAL, PAGE_IDENTIFICATION] {
                if let Some(code) = data.get_mut(1) {
                    *code = page;
                }
                let _ = (Identity::parse(&data), parse_serial(&data), Inquiry::parse(&data));
                let _ = (Capacity::parse_10(&data), Capacity::parse_16(&data), parse_luns(&data).count());
            }
        }
    }
}
