use super::*;
use proptest::prelude::*;

fn read(lba: u64, blocks: u64) -> Class {
    Class::Read(Extent { lba, blocks })
}

fn write(lba: u64, blocks: u64) -> Class {
    Class::Write(Extent { lba, blocks })
}

fn once(lba: u64, blocks: u64) -> Class {
    Class::WriteOnce(Extent { lba, blocks })
}

fn flush(lba: u64, blocks: u64) -> Class {
    Class::Flush(Extent { lba, blocks })
}

/// From a block to the end.
fn survey(lba: u64) -> Class {
    Class::Survey(Extent { lba, blocks: u64::MAX - lba })
}

const fn anywhere() -> Class {
    Class::WriteAnywhere(Extent::ALL)
}

/// A CDB from hexadecimal text, padded with zeroes to the 16 bytes of an iSCSI header.
fn cdb(hex: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.resize(bytes.len().max(16), 0);
    bytes
}

fn long(action: u16, byte_10: u8, lba: u64, blocks: u32) -> Vec<u8> {
    let mut bytes = vec![0; 32];
    bytes[0] = 0x7f;
    bytes[7] = 0x18;
    bytes[8..10].copy_from_slice(&action.to_be_bytes());
    bytes[10] = byte_10;
    bytes[12..20].copy_from_slice(&lba.to_be_bytes());
    bytes[28..32].copy_from_slice(&blocks.to_be_bytes());
    bytes
}

#[test]
fn block_commands_tell_their_blocks() {
    let end = |lba| u64::MAX - lba;
    let cases = [
        ("08 e1 02 03 04 00", "READ(6)", read(0x010203, 4), false),
        ("08 1f ff ff 00 00", "READ(6)", read(0x1f_ffff, 256), false),
        ("0a 00 00 07 00 00", "WRITE(6)", write(7, 256), false),
        ("28 00 01 02 03 04 00 05 06 00", "READ(10)", read(0x0102_0304, 0x0506), false),
        ("28 08 00 00 00 00 00 00 00 00", "READ(10)", read(0, 0), true),
        ("28 e0 00 00 00 09 00 00 01 00", "READ(10)", read(9, 1), false),
        ("2a 08 ff ff ff ff 00 ff ff 00", "WRITE(10)", write(0xffff_ffff, 0xffff), true),
        ("2a 10 00 00 00 01 00 00 02 00", "WRITE(10)", write(1, 2), false),
        ("2e 00 00 00 00 01 00 00 02 00", "WRITE AND VERIFY(10)", write(1, 2), false),
        ("2f 00 00 00 00 01 00 00 02 00", "VERIFY(10)", read(1, 2), false),
        ("2f 02 00 00 00 01 00 00 02 00", "VERIFY(10)", read(1, 2), false),
        ("2f 06 00 00 00 01 00 00 02 00", "VERIFY(10)", read(1, 2), false),
        ("34 02 00 00 00 01 00 00 02 00", "PRE-FETCH(10)", read(1, 2), false),
        ("34 00 00 00 00 01 00 00 00 00", "PRE-FETCH(10)", read(1, end(1)), false),
        ("35 00 00 00 00 01 00 00 02 00", "SYNCHRONIZE CACHE(10)", flush(1, 2), false),
        ("35 02 00 00 00 01 00 00 00 00", "SYNCHRONIZE CACHE(10)", flush(1, end(1)), false),
        ("41 08 00 00 00 01 00 00 02 00", "WRITE SAME(10)", write(1, 2), false),
        ("41 00 00 00 00 01 00 00 00 00", "WRITE SAME(10)", write(1, end(1)), false),
        ("50 00 00 00 00 01 00 00 02 00", "XDWRITE(10)", once(1, 2), false),
        ("51 00 00 00 00 01 00 00 02 00", "XPWRITE(10)", once(1, 2), false),
        ("53 08 00 00 00 01 00 00 02 00", "XDWRITEREAD(10)", once(1, 2), true),
        ("a8 08 00 00 00 01 00 01 00 02 00 00", "READ(12)", read(1, 0x1_0002), true),
        ("aa 00 00 00 00 01 00 01 00 02 00 00", "WRITE(12)", write(1, 0x1_0002), false),
        ("ae 00 00 00 00 01 00 01 00 02 00 00", "WRITE AND VERIFY(12)", write(1, 0x1_0002), false),
        ("af 02 00 00 00 01 00 01 00 02 00 00", "VERIFY(12)", read(1, 0x1_0002), false),
        (
            "88 08 01 02 03 04 05 06 07 08 09 0a 0b 0c 00 00",
            "READ(16)",
            read(0x0102_0304_0506_0708, 0x090a_0b0c),
            true,
        ),
        ("8a 00 00 00 00 00 00 00 00 08 00 00 00 03 00 00", "WRITE(16)", write(8, 3), false),
        ("89 08 00 00 00 00 00 00 00 08 ff ff ff 01 00 00", "COMPARE AND WRITE", once(8, 1), true),
        ("8b 00 00 00 00 00 00 00 00 08 00 00 00 03 00 00", "ORWRITE(16)", once(8, 3), false),
        ("8e 02 00 00 00 00 00 00 00 08 00 00 00 03 00 00", "WRITE AND VERIFY(16)", write(8, 3), false),
        ("8f 06 00 00 00 00 00 00 00 08 00 00 00 03 00 00", "VERIFY(16)", read(8, 3), false),
        ("90 00 00 00 00 00 00 00 00 08 00 00 00 00 00 00", "PRE-FETCH(16)", read(8, end(8)), false),
        ("91 02 00 00 00 00 00 00 00 08 00 00 00 03 00 00", "SYNCHRONIZE CACHE(16)", flush(8, 3), false),
        ("91 00 00 00 00 00 00 00 00 08 00 00 00 00 00 00", "SYNCHRONIZE CACHE(16)", flush(8, end(8)), false),
        ("95 00 00 00 00 00 00 00 00 08 00 00 00 03 00 00", "REPORT ZONES", survey(8), false),
        ("9e 12 00 00 00 00 00 00 00 08 00 00 00 03 00 00", "GET LBA STATUS(16)", survey(8), false),
        ("9f 12 08 00 00 08 00 01 00 00 00 03 00 00 00 00", "WRITE SCATTERED(16)", anywhere(), true),
        ("9f 12 00 00 00 08 00 01 00 00 00 03 00 00 00 00", "WRITE SCATTERED(16)", anywhere(), false),
        ("93 0d 00 00 00 00 00 00 00 08 00 00 00 03 00 00", "WRITE SAME(16)", write(8, 3), false),
        ("93 09 00 00 00 00 00 00 00 08 00 00 00 03 00 00", "WRITE SAME(16)", write(8, 3), false),
        ("93 00 00 00 00 00 00 00 00 08 00 00 00 00 00 00", "WRITE SAME(16)", write(8, end(8)), false),
        ("9a 08 00 00 00 00 00 00 00 08 00 07 00 03 00 00", "WRITE STREAM(16)", write(8, 3), true),
        ("9c 08 00 00 00 00 00 00 00 08 00 07 00 03 00 00", "WRITE ATOMIC(16)", write(8, 3), true),
    ];
    for (hex, name, class, fua) in cases {
        assert_eq!(Command::parse(&cdb(hex)), Command { name, class, fua }, "{hex}");
    }
}

#[test]
fn commands_of_32_bytes_tell_their_blocks() {
    let lba = 0x0102_0304_0506_0708;
    let cases = [
        (0x0004, "XDWRITE(32)", once(lba, 9), true),
        (0x0006, "XPWRITE(32)", once(lba, 9), true),
        (0x0007, "XDWRITEREAD(32)", once(lba, 9), true),
        (0x0009, "READ(32)", read(lba, 9), true),
        (0x000a, "VERIFY(32)", read(lba, 9), false),
        (0x000b, "WRITE(32)", write(lba, 9), true),
        (0x000c, "WRITE AND VERIFY(32)", write(lba, 9), false),
        (0x000d, "WRITE SAME(32)", write(lba, 9), false),
        (0x000e, "ORWRITE(32)", once(lba, 9), true),
        (0x000f, "WRITE ATOMIC(32)", write(lba, 9), true),
        (0x0010, "WRITE STREAM(32)", write(lba, 9), true),
        (0x0011, "WRITE SCATTERED(32)", anywhere(), true),
        (0x0012, "GET LBA STATUS(32)", survey(lba), false),
        (0x0003, "XDREAD(32)", Class::Barrier, false),
        (0x0999, "UNKNOWN", Class::Barrier, false),
    ];
    for (action, name, class, fua) in cases {
        assert_eq!(Command::parse(&long(action, 0x08, lba, 9)), Command { name, class, fua }, "{action:#x}");
    }
    assert_eq!(Command::parse(&long(0x000d, 0, 5, 0)).class, write(5, u64::MAX - 5));
    assert_eq!(Command::parse(&long(0x000b, 0, 5, 0)).class, write(5, 0));
}

#[test]
fn a_variable_length_cdb_of_another_length_is_a_barrier() {
    for (additional, bytes) in [(0x18, 31), (0x10, 32), (0x20, 40), (0x00, 32)] {
        let mut cdb = long(0x000b, 0, 5, 1);
        cdb.resize(bytes, 0);
        cdb[7] = additional;
        let command = Command::parse(&cdb);
        assert_eq!(command, Command { name: "WRITE(32)", class: Class::Barrier, fua: false });
    }
    assert_eq!(Command::parse(&long(0x000b, 0, 5, 1)[..16]).class, Class::Barrier);
}

#[test]
fn other_commands_have_their_class() {
    use Class::{Barrier, Query, Reservation, Stateless};
    let cases = [
        (Stateless, "00 | 03 | 12 | a0"),
        (flush(0, u64::MAX), "35 | 35 02 | 91 | 91 02"),
        (anywhere(), "42 | 42 01 | 9f 12"),
        (survey(0), "95 00 | 95 06 | 95 07 | 9e 12"),
        (
            Reservation,
            "16 | 17 | 56 | 57 | 5f 00 | 5f 01 | 5f 02 | 5f 03 | 5f 04 | 5f 05 | 5f 06 | 5f 07 | 5f 08",
        ),
        (Query, "1a | 1c | 25 | 37 | 3c | 4d | 5a | 5e 00 | 5e 01 | 5e 02 | 5e 03 | 84 00 | 84 03 | 8c"),
        (Query, "9b | 9e 10 | 9e 13 | 9e 16 | 9e 17 | a2 00 | a3 05 | a3 0a | a3 2a | a3 0c | a3 8c"),
        (Query, "a3 0d | a3 0e | a3 0f | ab 01 | b7"),
        (
            Barrier,
            "04 | 07 | 15 | 1b | 1d | 1e | 38 | 3b | 3e | 3f | 48 01 | 4c | 52 | 55 | 83 00 | 83 01 | 83 10",
        ),
        (
            Barrier,
            "83 11 | 83 1c | 94 01 | 94 02 | 94 03 | 94 04 | 94 10 | 9e 11 | 9e 14 | 9f 11 | a2 01 | a2 ef | a4 0a",
        ),
        (Barrier, "a4 0e | a4 0f | b5 00"),
    ];
    for (class, list) in cases {
        for hex in list.split('|') {
            let command = Command::parse(&cdb(hex));
            assert_eq!((command.class, command.fua), (class.clone(), false), "{hex}");
            assert_ne!(command.name, "UNKNOWN", "{hex}");
        }
    }
}

#[test]
fn what_is_unknown_is_a_barrier() {
    let unknown = Command { name: "UNKNOWN", class: Class::Barrier, fua: false };
    let cases = [
        "02", "20", "5e 04", "60", "7e", "95 08", "7f", "84 02", "9e 00", "9f 00", "a3 00", "a4 00", "ab 00",
        "c0", "ff",
    ];
    for hex in cases {
        assert_eq!(Command::parse(&cdb(hex)), unknown, "{hex}");
    }
    assert_eq!(Command::parse(&[]), unknown);
}

#[test]
fn a_cdb_that_ends_early_is_a_barrier() {
    for (hex, length) in
        [("08", 6), ("28", 10), ("42", 10), ("88", 16), ("00", 6), ("12", 6), ("35", 10), ("af", 12)]
    {
        let whole = cdb(hex);
        assert_ne!(Command::parse(&whole[..length]).class, Class::Barrier, "{hex}");
        for short in 0..length {
            assert_eq!(Command::parse(&whole[..short]).class, Class::Barrier, "{hex} of {short}");
        }
    }
}

#[test]
fn naca_and_link_make_any_command_a_barrier() {
    for (hex, control) in [("00", 5), ("08", 5), ("28", 9), ("35", 9), ("88", 15), ("a0", 11), ("16", 5)] {
        for bit in [0x04, 0x01, 0x02] {
            let mut cdb = cdb(hex);
            cdb[control] = bit;
            assert_eq!(Command::parse(&cdb).class, Class::Barrier, "{hex} {bit:#x}");
        }
        let mut vendor_bits = cdb(hex);
        vendor_bits[control] = 0xc0;
        assert_eq!(Command::parse(&vendor_bits).class, Command::parse(&cdb(hex)).class, "{hex}");
    }
    let mut write = long(0x000b, 0, 5, 1);
    write[1] = 0x04;
    assert_eq!(Command::parse(&write).class, Class::Barrier);
}

/// Every class once, blocks at 10..20, with its letter in [`CONFLICTS`].
fn classes(lba: u64) -> [(&'static str, Class); 10] {
    [
        ("R", read(lba, 10)),
        ("W", write(lba, 10)),
        ("A", Class::WriteAnywhere(Extent { lba, blocks: 10 })),
        ("O", once(lba, 10)),
        ("F", flush(lba, 10)),
        ("V", Class::Survey(Extent { lba, blocks: 10 })),
        ("Q", Class::Query),
        ("S", Class::Stateless),
        ("P", Class::Reservation),
        ("B", Class::Barrier),
    ]
}

/// Who waits for whom: a row per earlier command, a column per later one. `x` waits, `o` waits if the blocks overlap.
const CONFLICTS: &str = "
    . R W A O F V Q S P B
    R . o o o . . . . x x
    W o o o o o o . . x x
    A o o o o o o . . x x
    O o o o o o o . . x x
    F . o o o . . . . x x
    V . o o o . . . . x x
    Q . . . . . . . . x x
    S . . . . . . . . . .
    P x x x x x x x . x x
    B x x x x x x x . x x
";

/// [`CONFLICTS`] as it comes out of `conflicts_with`.
fn matrix() -> String {
    let mut table = String::from("\n    . R W A O F V Q S P B\n");
    for (letter, earlier) in classes(10) {
        table += &format!("    {letter}");
        for ((_, overlapping), (_, apart)) in classes(19).iter().zip(&classes(20)) {
            table += match (earlier.conflicts_with(overlapping), earlier.conflicts_with(apart)) {
                (true, true) => " x",
                (true, false) => " o",
                (false, false) => " .",
                (false, true) => " ?",
            };
        }
        table += "\n";
    }
    table
}

#[test]
fn conflicts_are_as_in_the_table() {
    assert_eq!(matrix(), CONFLICTS);
}

#[test]
fn what_may_run_twice_and_what_may_take_any_path() {
    let twice: Vec<_> =
        classes(0).iter().filter(|(_, class)| class.may_run_twice()).map(|(name, _)| *name).collect();
    assert_eq!(twice, ["R", "W", "A", "F", "V", "Q", "S"]);
    let any: Vec<_> =
        classes(0).iter().filter(|(_, class)| class.any_path()).map(|(name, _)| *name).collect();
    assert_eq!(any, ["R", "W"]);
    let blocks: Vec<_> =
        classes(0).iter().filter(|(_, class)| class.extent().is_some()).map(|(name, _)| *name).collect();
    assert_eq!(blocks, ["R", "W", "A", "O", "F", "V"]);
}

#[test]
fn extents_overlap_only_where_they_share_a_block() {
    let overlap = |a: (u64, u64), b: (u64, u64)| {
        let (a, b) = (Extent { lba: a.0, blocks: a.1 }, Extent { lba: b.0, blocks: b.1 });
        assert_eq!(a.overlaps(&b), b.overlaps(&a));
        a.overlaps(&b)
    };
    assert!(overlap((10, 10), (19, 1)));
    assert!(overlap((10, 10), (0, 11)));
    assert!(overlap((10, 10), (12, 2)));
    assert!(!overlap((10, 10), (20, 1)));
    assert!(!overlap((10, 10), (0, 10)));
    assert!(!overlap((10, 10), (15, 0)), "no blocks touch nothing");
    assert!(overlap((5, u64::MAX - 5), (u64::MAX - 1, 1)), "to the end of the medium");
    assert!(
        overlap((u64::MAX, 1), (u64::MAX, 1)) && overlap((u64::MAX - 1, 2), (u64::MAX, 9)),
        "the last block"
    );
}

#[test]
fn other_devices_share_only_what_all_have() {
    let other = |hex: &str| {
        let mut command = Command::parse(&cdb(hex));
        command.on_other_device(&cdb(hex));
        command.class
    };
    for hex in ["00", "03", "12", "1a", "5a", "4d", "5e 00", "8c", "a0", "a3 0a", "16", "5f"] {
        assert_eq!(other(hex), Command::parse(&cdb(hex)).class, "{hex}");
    }
    // READ, WRITE, LOCATE, READ POSITION, INITIALIZE ELEMENT STATUS WITH RANGE and others of tapes and changers.
    for hex in
        ["08", "0a", "28", "2b", "34", "37", "35", "42", "88", "8a", "91", "92", "95", "9e 10", "25", "07"]
    {
        assert_eq!(other(hex), Class::Barrier, "{hex}");
    }
    let mut zoned = [Command::parse(&cdb("28")), Command::parse(&cdb("2a")), Command::parse(&cdb("42"))];
    zoned.iter_mut().for_each(Command::on_zoned_disk);
    assert_eq!(zoned[0].class, read(0, 0));
    assert_eq!((&zoned[1].class, &zoned[2].class), (&once(0, u64::MAX), &once(0, u64::MAX)));
}

#[test]
fn naca_is_found_where_the_control_byte_is() {
    assert!(has_naca(&cdb("00 00 00 00 00 04")) && !has_naca(&cdb("00 04")));
    assert!(has_naca(&cdb("28 00 00 00 00 00 00 00 00 04")) && !has_naca(&cdb("28 00 00 00 00 04")));
    assert!(!has_naca(&[0x28]) && !has_naca(&[]) && !has_naca(&[0xc0; 16]));
}

#[test]
fn unmap_touches_what_its_data_name() {
    let narrowed = |hex: &str, data: &[u8]| {
        let mut command = Command::parse(&cdb(hex));
        command.narrow(data);
        command.class
    };
    let within = |lba, blocks| Class::WriteAnywhere(Extent { lba, blocks });
    let mut data = vec![0; 8 + 3 * 16];
    data[8 + 7] = 40;
    data[8 + 11] = 8;
    data[24 + 7] = 9;
    // A descriptor of no blocks names nothing.
    data[40 + 7] = 16;
    data[40 + 11] = 1;
    assert_eq!(narrowed("42", &data), within(16, 32));
    assert_eq!(narrowed("42", &data[..30]), within(40, 8), "half a descriptor is none");
    assert_eq!(narrowed("42", &data[..8]), within(0, 0), "nothing is named");
    assert_eq!(narrowed("42", &data[..7]), anywhere());
    data[8..16].fill(0xff);
    data[16..20].fill(0xff);
    assert_eq!(narrowed("42", &data[..24]), within(u64::MAX, 0), "beyond any medium");
    assert_eq!(narrowed("9f 12", &data), anywhere(), "other data");
    assert_eq!(narrowed("42 00 00 00 00 00 00 00 00 04", &data), Class::Barrier);
}

proptest! {
    #[test]
    fn parsing_never_panics_and_only_block_commands_leave_home(bytes in prop::collection::vec(any::<u8>(), 0..48)) {
        let command = Command::parse(&bytes);
        let plain = matches!(command.class, Class::Read(_) | Class::Write(_));
        prop_assert_eq!(command.class.any_path(), plain);
        prop_assert!(!plain || command.class.may_run_twice());
        prop_assert!(!command.fua || command.class.extent().is_some());
    }
}
