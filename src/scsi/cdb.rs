//! CDBs: what they touch, and what that means for order and repetition.
//!
//! # Contract
//! [`Command::parse`] takes the bytes of any CDB, whole or not, and never fails: what it does not know for certain (an
//! unknown opcode or service action, a CDB that ends early, NACA or the obsolete LINK bit) is a [`Class::Barrier`], the
//! class that is never reordered and never run twice. Opcodes that several device types share are read as a disk's
//! (SBC-4, ZBC); units of other types are kept in order on home by the engine, whatever this table says.
//!
//! [`Class::conflicts_with`] is the whole of the order that must be kept between two commands of one logical unit.

mod table;

use table::{Effect, Layout, Op};

/// A range of logical blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// First logical block.
    pub lba: u64,
    /// Number of blocks; zero touches nothing.
    pub blocks: u64,
}

impl Extent {
    /// All blocks there can be.
    pub const ALL: Self = Self { lba: 0, blocks: u64::MAX };

    /// Whether the two have a block in common.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        // Distances, not ends: the last of 2^64 blocks has no end that fits.
        if self.lba <= other.lba {
            other.lba - self.lba < self.blocks && other.blocks > 0
        } else {
            self.lba - other.lba < other.blocks && self.blocks > 0
        }
    }
}

/// What a command does to the logical unit, as far as order and choice of path care (DESIGN: order across paths).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Class {
    /// Reads blocks (READ, VERIFY, PRE-FETCH ...). May go on any path and may run twice.
    Read(Extent),
    /// Writes blocks so that running it twice equals once (WRITE, WRITE AND VERIFY, WRITE SAME ...). May go on any path
    /// and may run twice.
    Write(Extent),
    /// Writes ranges that its data name, somewhere within these blocks, so that running it twice equals once (UNMAP, WRITE
    /// SCATTERED). Everything as far as the CDB alone can tell; see [`Command::narrow`]. On home.
    WriteAnywhere(Extent),
    /// Writes blocks, but twice is not once (COMPARE AND WRITE, ORWRITE, XDWRITEREAD ...). On home.
    WriteOnce(Extent),
    /// Makes earlier writes of these blocks durable (SYNCHRONIZE CACHE, with IMMED as without). On home; may run twice.
    Flush(Extent),
    /// Reports of these blocks what writes change, but not what they hold (GET LBA STATUS, REPORT ZONES). On home; may
    /// run twice.
    Survey(Extent),
    /// Reports state without changing it (READ CAPACITY, MODE SENSE, LOG SENSE, PR IN ...): waits for earlier barriers.
    /// On home; may run twice.
    Query,
    /// Carries no state and waits for nothing (TEST UNIT READY, INQUIRY, REPORT LUNS, REQUEST SENSE). On home; may run
    /// twice.
    Stateless,
    /// RESERVE, RELEASE, PERSISTENT RESERVE OUT: a full barrier bound to the nexus; not to be run twice.
    Reservation,
    /// Changes the unit (FORMAT, MODE SELECT, START STOP, SANITIZE ...) or is unknown: a full barrier; not to be run twice.
    Barrier,
}

impl Class {
    /// The blocks it concerns, where that can be told.
    #[must_use]
    pub const fn extent(&self) -> Option<Extent> {
        match self {
            Self::Read(extent)
            | Self::Write(extent)
            | Self::WriteAnywhere(extent)
            | Self::WriteOnce(extent)
            | Self::Flush(extent)
            | Self::Survey(extent) => Some(*extent),
            Self::Query | Self::Stateless | Self::Reservation | Self::Barrier => None,
        }
    }

    /// Whether running it again after it may have run already is indistinguishable from running it once.
    #[must_use]
    pub const fn may_run_twice(&self) -> bool {
        match self {
            Self::Read(_)
            | Self::Write(_)
            | Self::WriteAnywhere(_)
            | Self::Flush(_)
            | Self::Survey(_)
            | Self::Query
            | Self::Stateless => true,
            Self::WriteOnce(_) | Self::Reservation | Self::Barrier => false,
        }
    }

    /// Whether it changes blocks of the medium within the rules of block I/O (barriers aside).
    #[must_use]
    pub const fn writes(&self) -> bool {
        matches!(self, Self::Write(_) | Self::WriteAnywhere(_) | Self::WriteOnce(_))
    }

    /// Whether a reservation that keeps out writes alone lets it pass (SPC-4 table 65, SBC-3 table 13).
    #[must_use]
    pub const fn only_reads(&self) -> bool {
        matches!(self, Self::Read(_) | Self::Survey(_) | Self::Query | Self::Stateless)
    }

    /// Whether it is plain block I/O that may take any path; everything else goes on home.
    #[must_use]
    pub const fn any_path(&self) -> bool {
        matches!(self, Self::Read(_) | Self::Write(_))
    }

    /// Whether `later`, a command for the same logical unit that came after this one, must wait until this one has
    /// completed.
    ///
    /// - Blocks: ranges that overlap, at least one side writing. So a flush waits for all earlier writes in its range, and
    ///   later writes there wait for it; reads and other flushes do not.
    /// - Barrier and reservation: with everything but stateless commands, either way round.
    /// - Query: with barriers and reservations only. Stateless: with nothing.
    #[must_use]
    pub const fn conflicts_with(&self, later: &Self) -> bool {
        match (self, later) {
            (Self::Stateless, _) | (_, Self::Stateless) => false,
            (Self::Barrier | Self::Reservation, _) | (_, Self::Barrier | Self::Reservation) => true,
            _ => match (self.extent(), later.extent()) {
                (Some(a), Some(b)) => (self.writes() || later.writes()) && a.overlaps(&b),
                _ => false,
            },
        }
    }
}

/// A CDB understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// Name as in the standard, e.g. `READ(10)`; `UNKNOWN` otherwise.
    pub name: &'static str,
    /// What it means.
    pub class: Class,
    /// Force unit access.
    pub fua: bool,
}

impl Command {
    /// Understands a CDB; never fails: what is unknown is a barrier.
    ///
    /// Bytes behind the CDB's own length (the padding of the iSCSI header) are ignored.
    #[must_use]
    pub fn parse(cdb: &[u8]) -> Self {
        let Some(op) = Op::find(cdb) else {
            return Self { name: "UNKNOWN", class: Class::Barrier, fua: false };
        };
        match usable_length(cdb) {
            Some(cdb) => Self { name: op.name, class: op.effect.class(cdb), fua: op.effect.fua(cdb) },
            None => Self { name: op.name, class: Class::Barrier, fua: false },
        }
    }

    /// Read as a command to a device of another type than a disk: what all types share (SPC-5) means the same, and everything
    /// else may be anything.
    pub fn on_other_device(&mut self, cdb: &[u8]) {
        // TEST UNIT READY, REQUEST SENSE, INQUIRY, MODE SENSE, RECEIVE DIAGNOSTIC RESULTS, READ BUFFER, LOG SENSE,
        // PERSISTENT RESERVE IN, READ ATTRIBUTE, REPORT LUNS, MAINTENANCE IN.
        let shared = [0x00, 0x03, 0x12, 0x1a, 0x1c, 0x3c, 0x4d, 0x5a, 0x5e, 0x8c, 0xa0, 0xa3];
        let reservation = self.class == Class::Reservation;
        if !reservation && !cdb.first().is_some_and(|opcode| shared.contains(opcode)) {
            self.class = Class::Barrier;
        }
    }

    /// Read as a command to a zoned disk (ZBC-2): its zones are written in order, so that no write passes another, and
    /// none runs twice.
    pub const fn on_zoned_disk(&mut self) {
        if self.class.writes() {
            self.class = Class::WriteOnce(Extent::ALL);
        }
    }

    /// An UNMAP of which all of the data is there: what it touches lies within the ranges that are named in it (SBC-4
    /// section 5.35, UNMAP block descriptors). Left as it is where the data are odd.
    pub fn narrow(&mut self, data: &[u8]) {
        const HEADER: usize = 8;
        const DESCRIPTOR: usize = 16;
        const LBA: table::Field = table::Field { at: 0, width: 8 };
        const BLOCKS: table::Field = table::Field { at: 8, width: 4 };
        let Some(descriptors) = data.get(HEADER..).filter(|_| self.name == "UNMAP") else { return };
        let named = descriptors.chunks_exact(DESCRIPTOR).map(|d| (LBA.read(d), BLOCKS.read(d)));
        let used = named.filter(|(_, blocks)| *blocks > 0);
        let ends = used.map(|(lba, blocks)| (lba, lba.saturating_add(blocks)));
        let hull = ends.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        let (lba, end) = hull.unwrap_or_default();
        if let Class::WriteAnywhere(extent) = &mut self.class {
            *extent = Extent { lba, blocks: end - lba };
        }
    }
}

/// Whether the CONTROL byte asks for an auto contingent allegiance should the command fail (SAM-5 section 5.10).
#[must_use]
pub fn has_naca(cdb: &[u8]) -> bool {
    const NACA: u8 = 0x04;
    let control = layout(cdb).and_then(|(_, control)| cdb.get(control));
    control.is_some_and(|byte| byte & NACA != 0)
}

/// The CDB cut to its own length (SPC-5 section 4.2.5.1); none if it ends early, has no known length, or asks in its
/// CONTROL byte for something that binds it to its neighbours (NACA, or the obsolete LINK and FLAG).
fn usable_length(cdb: &[u8]) -> Option<&[u8]> {
    const BINDING: u8 = 0x07;
    let (length, control) = layout(cdb)?;
    let cdb = cdb.get(..length)?;
    (cdb.get(control)? & BINDING == 0).then_some(cdb)
}

/// Length of a CDB, and where its CONTROL byte is.
fn layout(cdb: &[u8]) -> Option<(usize, usize)> {
    /// ADDITIONAL CDB LENGTH of the only variable-length form that is known.
    const ADDITIONAL_OF_32: u8 = 32 - 8;
    Some(match cdb.first()? {
        0x00..=0x1f => (6, 5),
        0x20..=0x5f => (10, 9),
        0x80..=0x9f => (16, 15),
        0xa0..=0xbf => (12, 11),
        0x7f if *cdb.get(7)? == ADDITIONAL_OF_32 => (32, 1),
        0x60..=0x7f | 0xc0..=0xff => return None,
    })
}

impl Effect {
    /// The class of a CDB of this effect.
    fn class(&self, cdb: &[u8]) -> Class {
        match self {
            Self::Read(layout) => Class::Read(layout.extent(cdb)),
            Self::Write(layout) => Class::Write(layout.extent(cdb)),
            Self::WriteOnce(layout) => Class::WriteOnce(layout.extent(cdb)),
            Self::WriteAnywhere(_) => Class::WriteAnywhere(Extent::ALL),
            Self::Flush(layout) => Class::Flush(layout.extent(cdb)),
            Self::Survey(layout) => Class::Survey(layout.extent(cdb)),
            Self::Query => Class::Query,
            Self::Stateless => Class::Stateless,
            Self::Reservation => Class::Reservation,
            Self::Barrier => Class::Barrier,
        }
    }

    /// Whether the CDB has its FUA bit set.
    fn fua(&self, cdb: &[u8]) -> bool {
        const FUA: u8 = 0x08;
        match self {
            Self::Read(layout)
            | Self::Write(layout)
            | Self::WriteOnce(layout)
            | Self::WriteAnywhere(layout) => {
                layout.fua.and_then(|at| cdb.get(at)).is_some_and(|byte| byte & FUA != 0)
            }
            Self::Flush(_)
            | Self::Survey(_)
            | Self::Query
            | Self::Stateless
            | Self::Reservation
            | Self::Barrier => false,
        }
    }
}

impl Layout {
    /// The blocks named in a CDB laid out like this.
    fn extent(&self, cdb: &[u8]) -> Extent {
        let lba = self.lba.read(cdb) & self.lba_mask;
        let blocks = match (self.count.read(cdb), self.zero) {
            (0, table::Zero::None) => 0,
            (0, table::Zero::Is256) => 256,
            (0, table::Zero::ToTheEnd) => u64::MAX - lba,
            (count, _) => count,
        };
        Extent { lba, blocks }
    }
}

impl table::Field {
    /// The number in this field; zero where the CDB does not reach.
    fn read(self, cdb: &[u8]) -> u64 {
        let bytes = cdb.get(self.at..self.at + self.width).unwrap_or_default();
        bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests;
