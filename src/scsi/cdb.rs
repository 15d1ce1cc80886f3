//! CDBs: what they touch, and what that means for order and repetition.

/// A range of logical blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// First logical block.
    pub lba: u64,
    /// Number of blocks; zero touches nothing.
    pub blocks: u64,
}

impl Extent {
    /// Whether the two have a block in common.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.lba < other.lba.saturating_add(other.blocks)
            && other.lba < self.lba.saturating_add(self.blocks)
            && self.blocks > 0
            && other.blocks > 0
    }
}

/// What a command does to the logical unit, as far as order and choice of path care (DESIGN: order across paths).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Class {
    /// Reads blocks (READ, VERIFY without data, PRE-FETCH ...). May go on any path and may run twice.
    Read(Extent),
    /// Writes blocks so that running it twice equals once (WRITE, WRITE AND VERIFY, WRITE SAME ...). May go on any path
    /// and may run twice.
    Write(Extent),
    /// Touches several or unknown ranges with data from the initiator but may run twice (UNMAP: ranges are in its data).
    /// Overlaps everything; on home.
    WriteAnywhere,
    /// Writes blocks, but twice is not once (COMPARE AND WRITE, ORWRITE, XDWRITEREAD ...). On home.
    WriteOnce(Extent),
    /// Makes earlier writes durable (SYNCHRONIZE CACHE without IMMED). On home.
    Flush,
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
    #[must_use]
    pub fn parse(cdb: &[u8]) -> Self {
        todo!("{cdb:?}")
    }
}
