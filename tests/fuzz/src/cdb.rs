//! CDBs: what they are taken for does not hang on what stands behind them, is never more daring for a CDB cut short, and
//! names the blocks that the standard says. Sense, inquiry and other data of units: any bytes do.

use arbitrary::Arbitrary;
use braid::scsi::inquiry::{parse_luns, parse_serial};
use braid::scsi::{Capacity, Class, Command, Extent, Identity, Inquiry, Sense};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    one: [u8; 16],
    behind: &'a [u8],
    other: Other<'a>,
}

#[derive(Arbitrary, Debug)]
enum Other<'a> {
    Cdb([u8; 16]),
    Long(&'a [u8]),
    /// A write near the first one's blocks.
    Near {
        distance: i8,
        blocks: u16,
    },
}

/// Runs one input.
pub fn run(bytes: &[u8]) {
    units(bytes);
    super::with_input(bytes, go);
}

fn go(input: &Input<'_>) {
    let cdb = [&input.one[..], input.behind].concat();
    let one = judge(&cdb);
    let other = match input.other {
        Other::Cdb(cdb) => judge(&cdb),
        Other::Long(cdb) => judge(cdb),
        Other::Near { distance, blocks } => {
            let lba = one.class.extent().map_or(0, |extent| extent.lba);
            let mut cdb = [0; 16];
            cdb[0] = 0x8a;
            cdb[2..10].copy_from_slice(&lba.wrapping_add_signed(distance.into()).to_be_bytes());
            cdb[12..14].copy_from_slice(&blocks.to_be_bytes());
            judge(&cdb)
        }
    };
    order(&one.class, &other.class);
}

fn judge(cdb: &[u8]) -> Command {
    let command = Command::parse(cdb);
    let length = own_length(cdb);
    for cut in 0..cdb.len().min(40) {
        let shorter = Command::parse(&cdb[..cut]);
        if length.is_some_and(|length| cut >= length) {
            assert_eq!(shorter, command, "bytes behind the CDB changed it");
        } else {
            assert_eq!(shorter.class, Class::Barrier, "{cut} bytes are not the whole CDB");
            assert!(!shorter.fua);
        }
    }
    let class = &command.class;
    assert!(!class.any_path() || class.may_run_twice(), "a lost path could not be replaced");
    assert!(!class.any_path() || class.extent().is_some(), "order across paths needs an extent");
    assert!(!command.fua || class.extent().is_some() || class.writes());
    if let Some(extent) = blocks(cdb) {
        let expected = match cdb[0] & 0x1f {
            0x08 => Class::Read(extent),
            _ => Class::Write(extent),
        };
        assert_eq!(*class, expected, "{cdb:02x?}");
    }
    command
}

/// Length of a CDB by its group code; none where the standard leaves it open.
fn own_length(cdb: &[u8]) -> Option<usize> {
    match cdb.first()? >> 5 {
        0 => Some(6),
        1 | 2 => Some(10),
        4 => Some(16),
        5 => Some(12),
        3 if cdb[0] == 0x7f && cdb.get(7) == Some(&24) => Some(32),
        _ => None,
    }
}

/// The blocks of a plain READ or WRITE that is whole and binds nothing in its CONTROL byte.
fn blocks(cdb: &[u8]) -> Option<Extent> {
    let length = own_length(cdb)?;
    let opcodes = [0x08, 0x0a, 0x28, 0x2a, 0xa8, 0xaa, 0x88, 0x8a];
    let cdb = cdb.get(..length).filter(|cdb| opcodes.contains(&cdb[0]) && cdb[length - 1] & 7 == 0)?;
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    Some(match length {
        6 => {
            let lba = number(&[cdb[1] & 0x1f, cdb[2], cdb[3]]);
            Extent { lba, blocks: if cdb[4] == 0 { 256 } else { cdb[4].into() } }
        }
        10 => Extent { lba: number(&cdb[2..6]), blocks: number(&cdb[7..9]) },
        12 => Extent { lba: number(&cdb[2..6]), blocks: number(&cdb[6..10]) },
        _ => Extent { lba: number(&cdb[2..10]), blocks: number(&cdb[10..14]) },
    })
}

/// The order of two commands on one unit.
fn order(one: &Class, other: &Class) {
    assert_eq!(one.conflicts_with(other), other.conflicts_with(one), "{one:?} {other:?}");
    if let (Some(a), Some(b)) = (one.extent(), other.extent()) {
        let end = |extent: Extent| u128::from(extent.lba) + u128::from(extent.blocks);
        let common = u128::from(a.lba.max(b.lba)) < end(a).min(end(b));
        assert_eq!(a.overlaps(&b), common, "{a:?} {b:?}");
        assert_eq!(one.conflicts_with(other), common && (one.writes() || other.writes()));
    }
    assert!(!one.writes() || one.extent().is_some(), "a write that overlaps nothing");
}

/// Data of a unit.
fn units(bytes: &[u8]) {
    if let Some(sense) = Sense::parse(bytes) {
        assert!(sense.key < 16);
        assert_eq!(Sense::parse(&sense.to_fixed()), Some(sense));
    }
    if let Some(inquiry) = Inquiry::parse(bytes) {
        assert!(!inquiry.is_disk() || inquiry.qualifier == 0);
    }
    assert!(parse_serial(bytes).is_none_or(|serial| !serial.is_empty()));
    if let Some(identity) = Identity::parse(bytes) {
        assert_eq!(identity.is_unique(), identity.designators().any(|name| name.is_unique()));
    }
    for capacity in [Capacity::parse_10(bytes), Capacity::parse_16(bytes)].into_iter().flatten() {
        assert!(capacity.blocks() >= capacity.last_lba);
    }
    assert!(parse_luns(bytes).count() <= bytes.len() / 8);
}
