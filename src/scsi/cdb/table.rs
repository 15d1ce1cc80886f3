//! The commands known: opcode and service action, name, effect, and where LBA and number of blocks sit (SPC-5, SBC-4,
//! ZBC-2; of SSC and SMC the names only, as they are all barriers).

use Effect::{Barrier, Flush, Query, Read, Reservation, Stateless, Survey, Write, WriteAnywhere, WriteOnce};

/// A number in a CDB, most significant byte first.
#[derive(Clone, Copy)]
pub(super) struct Field {
    /// Offset of the first byte.
    pub(super) at: usize,
    /// Number of bytes, at most 8.
    pub(super) width: usize,
}

/// What a number of blocks of zero means.
#[derive(Clone, Copy)]
pub(super) enum Zero {
    /// No blocks.
    None,
    /// 256 blocks.
    Is256,
    /// All blocks from the LBA to the end of the medium.
    ToTheEnd,
}

/// Where a CDB names its blocks.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) lba: Field,
    /// Bits of the LBA field that belong to it.
    pub(super) lba_mask: u64,
    pub(super) count: Field,
    pub(super) zero: Zero,
    /// Offset of the byte whose bit 3 is FUA, where the command has one.
    pub(super) fua: Option<usize>,
}

impl Layout {
    const fn new(lba: (usize, usize), count: (usize, usize)) -> Self {
        Self {
            lba: Field { at: lba.0, width: lba.1 },
            lba_mask: u64::MAX,
            count: Field { at: count.0, width: count.1 },
            zero: Zero::None,
            fua: None,
        }
    }

    /// With a count of zero meaning all to the end.
    const fn to_the_end(self) -> Self {
        Self { zero: Zero::ToTheEnd, ..self }
    }

    /// With a FUA bit in byte `at`.
    const fn fua(self, at: usize) -> Self {
        Self { fua: Some(at), ..self }
    }
}

/// READ(6) and WRITE(6): the LBA has 21 bits, no FUA.
const SIX: Layout = Layout { lba_mask: 0x1f_ffff, zero: Zero::Is256, ..Layout::new((1, 3), (4, 1)) };
const TEN: Layout = Layout::new((2, 4), (7, 2));
const TEN_FUA: Layout = TEN.fua(1);
const TWELVE: Layout = Layout::new((2, 4), (6, 4));
const TWELVE_FUA: Layout = TWELVE.fua(1);
const SIXTEEN: Layout = Layout::new((2, 8), (10, 4));
const SIXTEEN_FUA: Layout = SIXTEEN.fua(1);
/// 16-byte commands whose transfer length has two bytes, behind a boundary or stream number.
const SIXTEEN_SHORT_COUNT: Layout = Layout::new((2, 8), (12, 2)).fua(1);
/// COMPARE AND WRITE: one byte of block count, for each of its two halves.
const COMPARE_AND_WRITE: Layout = Layout::new((2, 8), (13, 1)).fua(1);
/// WRITE SCATTERED(16): its service action leaves no room in byte 1.
const SCATTERED: Layout = Layout::new((4, 0), (8, 0)).fua(2);
/// From the LBA named to the end, however much the answer has room for.
const FROM_HERE: Layout = Layout::new((2, 8), (10, 0)).to_the_end();
/// Variable length, 32 bytes.
const LONG: Layout = Layout::new((12, 8), (28, 4));
const LONG_FUA: Layout = LONG.fua(10);
const LONG_FROM_HERE: Layout = Layout::new((12, 8), (20, 0)).to_the_end();

/// What a command does; becomes a [`super::Class`] with the extent of the CDB at hand.
#[derive(Clone, Copy)]
pub(super) enum Effect {
    Read(Layout),
    Write(Layout),
    WriteOnce(Layout),
    /// Ranges are in the data; of the layout only FUA counts.
    WriteAnywhere(Layout),
    Flush(Layout),
    Survey(Layout),
    Query,
    Stateless,
    Reservation,
    Barrier,
}

/// Bits of byte 1 that hold the service action.
const SERVICE_ACTION: u8 = 0x1f;

/// A command of the table.
pub(super) struct Op {
    pub(super) name: &'static str,
    pub(super) effect: Effect,
}

const fn op(name: &'static str, effect: Effect) -> Option<Op> {
    Some(Op { name, effect })
}

impl Op {
    /// Looks a CDB up by opcode and, where the opcode has them, service action.
    pub(super) fn find(cdb: &[u8]) -> Option<Self> {
        let opcode = *cdb.first()?;
        match opcode {
            0x00..=0x1f => six(opcode),
            0x20..=0x5f => ten(opcode, *cdb.get(1)?),
            0x7f => variable(u16::from_be_bytes([*cdb.get(8)?, *cdb.get(9)?])),
            0x80..=0x9f => sixteen(opcode, cdb.get(1)? & SERVICE_ACTION),
            0xa0..=0xbf => twelve(opcode, *cdb.get(1)?),
            0x60..=0x7e | 0xc0..=0xff => None,
        }
    }
}

/// Opcodes 00h to 1Fh, of 6 bytes.
const fn six(opcode: u8) -> Option<Op> {
    match opcode {
        0x00 => op("TEST UNIT READY", Stateless),
        0x01 => op("REWIND", Barrier),
        0x03 => op("REQUEST SENSE", Stateless),
        0x04 => op("FORMAT UNIT", Barrier),
        0x07 => op("REASSIGN BLOCKS", Barrier),
        0x08 => op("READ(6)", Read(SIX)),
        0x0a => op("WRITE(6)", Write(SIX)),
        0x0b => op("SEEK(6)", Barrier),
        0x10 => op("WRITE FILEMARKS(6)", Barrier),
        0x11 => op("SPACE(6)", Barrier),
        0x12 => op("INQUIRY", Stateless),
        0x13 => op("VERIFY(6)", Barrier),
        0x15 => op("MODE SELECT(6)", Barrier),
        0x16 => op("RESERVE(6)", Reservation),
        0x17 => op("RELEASE(6)", Reservation),
        0x19 => op("ERASE(6)", Barrier),
        0x1a => op("MODE SENSE(6)", Query),
        0x1b => op("START STOP UNIT", Barrier),
        0x1c => op("RECEIVE DIAGNOSTIC RESULTS", Query),
        0x1d => op("SEND DIAGNOSTIC", Barrier),
        0x1e => op("PREVENT ALLOW MEDIUM REMOVAL", Barrier),
        _ => None,
    }
}

/// Opcodes 20h to 5Fh, of 10 bytes.
const fn ten(opcode: u8, byte_1: u8) -> Option<Op> {
    match opcode {
        0x25 => op("READ CAPACITY(10)", Query),
        0x28 => op("READ(10)", Read(TEN_FUA)),
        0x2a => op("WRITE(10)", Write(TEN_FUA)),
        0x2b => op("SEEK(10)", Barrier),
        0x2e => op("WRITE AND VERIFY(10)", Write(TEN)),
        0x2f => op("VERIFY(10)", Read(TEN)),
        0x34 => op("PRE-FETCH(10)", Read(TEN.to_the_end())),
        0x35 => op("SYNCHRONIZE CACHE(10)", Flush(TEN.to_the_end())),
        0x37 => op("READ DEFECT DATA(10)", Query),
        0x38 => op("FORMAT WITH PRESET", Barrier),
        0x3b => op("WRITE BUFFER", Barrier),
        0x3c => op("READ BUFFER(10)", Query),
        0x3e => op("READ LONG(10)", Barrier),
        0x3f => op("WRITE LONG(10)", Barrier),
        0x41 => op("WRITE SAME(10)", Write(TEN.to_the_end())),
        0x42 => op("UNMAP", WriteAnywhere(TEN)),
        0x48 => op("SANITIZE", Barrier),
        0x4c => op("LOG SELECT", Barrier),
        0x4d => op("LOG SENSE", Query),
        0x50 => op("XDWRITE(10)", WriteOnce(TEN_FUA)),
        0x51 => op("XPWRITE(10)", WriteOnce(TEN_FUA)),
        0x52 => op("XDREAD(10)", Barrier),
        0x53 => op("XDWRITEREAD(10)", WriteOnce(TEN_FUA)),
        0x55 => op("MODE SELECT(10)", Barrier),
        0x56 => op("RESERVE(10)", Reservation),
        0x57 => op("RELEASE(10)", Reservation),
        0x5a => op("MODE SENSE(10)", Query),
        0x5e => persistent_reserve_in(byte_1 & SERVICE_ACTION),
        0x5f => op("PERSISTENT RESERVE OUT", Reservation),
        _ => None,
    }
}

/// Service actions of opcode 5Eh.
const fn persistent_reserve_in(action: u8) -> Option<Op> {
    match action {
        0x00 => op("PERSISTENT RESERVE IN READ KEYS", Query),
        0x01 => op("PERSISTENT RESERVE IN READ RESERVATION", Query),
        0x02 => op("PERSISTENT RESERVE IN REPORT CAPABILITIES", Query),
        0x03 => op("PERSISTENT RESERVE IN READ FULL STATUS", Query),
        _ => None,
    }
}

/// Service actions of opcode 7Fh, of 32 bytes.
const fn variable(action: u16) -> Option<Op> {
    match action {
        0x0003 => op("XDREAD(32)", Barrier),
        0x0004 => op("XDWRITE(32)", WriteOnce(LONG_FUA)),
        0x0006 => op("XPWRITE(32)", WriteOnce(LONG_FUA)),
        0x0007 => op("XDWRITEREAD(32)", WriteOnce(LONG_FUA)),
        0x0009 => op("READ(32)", Read(LONG_FUA)),
        0x000a => op("VERIFY(32)", Read(LONG)),
        0x000b => op("WRITE(32)", Write(LONG_FUA)),
        0x000c => op("WRITE AND VERIFY(32)", Write(LONG)),
        0x000d => op("WRITE SAME(32)", Write(LONG.to_the_end())),
        0x000e => op("ORWRITE(32)", WriteOnce(LONG_FUA)),
        0x000f => op("WRITE ATOMIC(32)", Write(LONG_FUA)),
        0x0010 => op("WRITE STREAM(32)", Write(LONG_FUA)),
        0x0011 => op("WRITE SCATTERED(32)", WriteAnywhere(LONG_FUA)),
        0x0012 => op("GET LBA STATUS(32)", Survey(LONG_FROM_HERE)),
        _ => None,
    }
}

/// Opcodes 80h to 9Fh, of 16 bytes.
const fn sixteen(opcode: u8, action: u8) -> Option<Op> {
    match (opcode, action) {
        (0x83, 0x00) => op("EXTENDED COPY(LID1)", Barrier),
        (0x83, 0x01) => op("EXTENDED COPY(LID4)", Barrier),
        (0x83, 0x10) => op("POPULATE TOKEN", Barrier),
        (0x83, 0x11) => op("WRITE USING TOKEN", Barrier),
        (0x83, 0x1c) => op("COPY OPERATION ABORT", Barrier),
        (0x84, 0x00) => op("RECEIVE COPY STATUS(LID1)", Query),
        (0x84, 0x01) => op("RECEIVE COPY DATA(LID1)", Query),
        (0x84, 0x03) => op("RECEIVE COPY OPERATING PARAMETERS", Query),
        (0x84, 0x04) => op("RECEIVE COPY FAILURE DETAILS(LID1)", Query),
        (0x84, 0x05) => op("RECEIVE COPY STATUS(LID4)", Query),
        (0x84, 0x06) => op("RECEIVE COPY DATA(LID4)", Query),
        (0x84, 0x07) => op("RECEIVE ROD TOKEN INFORMATION", Query),
        (0x84, 0x08) => op("REPORT ALL ROD TOKENS", Query),
        (0x88, _) => op("READ(16)", Read(SIXTEEN_FUA)),
        (0x89, _) => op("COMPARE AND WRITE", WriteOnce(COMPARE_AND_WRITE)),
        (0x8a, _) => op("WRITE(16)", Write(SIXTEEN_FUA)),
        (0x8b, _) => op("ORWRITE(16)", WriteOnce(SIXTEEN_FUA)),
        (0x8c, _) => op("READ ATTRIBUTE", Query),
        (0x8d, _) => op("WRITE ATTRIBUTE", Barrier),
        (0x8e, _) => op("WRITE AND VERIFY(16)", Write(SIXTEEN)),
        (0x8f, _) => op("VERIFY(16)", Read(SIXTEEN)),
        (0x90, _) => op("PRE-FETCH(16)", Read(SIXTEEN.to_the_end())),
        (0x91, _) => op("SYNCHRONIZE CACHE(16)", Flush(SIXTEEN.to_the_end())),
        (0x93, _) => op("WRITE SAME(16)", Write(SIXTEEN.to_the_end())),
        (0x94, 0x01) => op("CLOSE ZONE", Barrier),
        (0x94, 0x02) => op("FINISH ZONE", Barrier),
        (0x94, 0x03) => op("OPEN ZONE", Barrier),
        (0x94, 0x04) => op("RESET WRITE POINTER", Barrier),
        (0x94, 0x10) => op("SEQUENTIALIZE ZONE", Barrier),
        (0x95, 0x00) => op("REPORT ZONES", Survey(FROM_HERE)),
        (0x95, 0x06) => op("REPORT REALMS", Survey(FROM_HERE)),
        (0x95, 0x07) => op("REPORT ZONE DOMAINS", Survey(FROM_HERE)),
        (0x9a, _) => op("WRITE STREAM(16)", Write(SIXTEEN_SHORT_COUNT)),
        (0x9b, _) => op("READ BUFFER(16)", Query),
        (0x9c, _) => op("WRITE ATOMIC(16)", Write(SIXTEEN_SHORT_COUNT)),
        (0x9e, 0x10) => op("READ CAPACITY(16)", Query),
        (0x9e, 0x11) => op("READ LONG(16)", Barrier),
        (0x9e, 0x12) => op("GET LBA STATUS(16)", Survey(FROM_HERE)),
        (0x9e, 0x13) => op("REPORT REFERRALS", Query),
        (0x9e, 0x14) => op("STREAM CONTROL", Barrier),
        (0x9e, 0x15) => op("BACKGROUND CONTROL", Barrier),
        (0x9e, 0x16) => op("GET STREAM STATUS", Query),
        (0x9e, 0x17) => op("GET PHYSICAL ELEMENT STATUS", Query),
        (0x9e, 0x18) => op("REMOVE ELEMENT AND TRUNCATE", Barrier),
        (0x9f, 0x11) => op("WRITE LONG(16)", Barrier),
        (0x9f, 0x12) => op("WRITE SCATTERED(16)", WriteAnywhere(SCATTERED)),
        _ => None,
    }
}

/// Opcodes A0h to BFh, of 12 bytes.
const fn twelve(opcode: u8, byte_1: u8) -> Option<Op> {
    match (opcode, byte_1 & SERVICE_ACTION) {
        (0xa0, _) => op("REPORT LUNS", Stateless),
        (0xa2, _) => security_protocol_in(byte_1),
        (0xa3, 0x05) => op("REPORT IDENTIFYING INFORMATION", Query),
        (0xa3, 0x0a) => op("REPORT TARGET PORT GROUPS", Query),
        (0xa3, 0x0b) => op("REPORT ALIASES", Query),
        (0xa3, 0x0c) => op("REPORT SUPPORTED OPERATION CODES", Query),
        (0xa3, 0x0d) => op("REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", Query),
        (0xa3, 0x0e) => op("REPORT PRIORITY", Query),
        (0xa3, 0x0f) => op("REPORT TIMESTAMP", Query),
        (0xa4, 0x06) => op("SET IDENTIFYING INFORMATION", Barrier),
        (0xa4, 0x0a) => op("SET TARGET PORT GROUPS", Barrier),
        (0xa4, 0x0b) => op("CHANGE ALIASES", Barrier),
        (0xa4, 0x0e) => op("SET PRIORITY", Barrier),
        (0xa4, 0x0f) => op("SET TIMESTAMP", Barrier),
        (0xa5, _) => op("MOVE MEDIUM", Barrier),
        (0xa8, _) => op("READ(12)", Read(TWELVE_FUA)),
        (0xaa, _) => op("WRITE(12)", Write(TWELVE_FUA)),
        (0xab, 0x01) => op("READ MEDIA SERIAL NUMBER", Query),
        (0xae, _) => op("WRITE AND VERIFY(12)", Write(TWELVE)),
        (0xaf, _) => op("VERIFY(12)", Read(TWELVE)),
        (0xb5, _) => op("SECURITY PROTOCOL OUT", Barrier),
        (0xb7, _) => op("READ DEFECT DATA(12)", Query),
        (0xb8, _) => op("READ ELEMENT STATUS", Barrier),
        _ => None,
    }
}

/// Opcode A2h: protocol 00h only lists what there is; with others, fetching an answer may use it up.
const fn security_protocol_in(protocol: u8) -> Option<Op> {
    op("SECURITY PROTOCOL IN", if protocol == 0 { Query } else { Barrier })
}
