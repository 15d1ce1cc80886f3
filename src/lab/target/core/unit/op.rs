//! CDBs as the disk understands them (SPC-5, SBC-4): the judge's own reading, apart from [`crate::scsi`].

use super::fault::{Fault, INVALID_FIELD, INVALID_OPCODE};

/// A run of logical blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) lba: u64,
    pub(crate) blocks: u64,
}

/// What VERIFY compares with (the BYTCHK field).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Check {
    /// Nothing.
    Medium,
    /// As many blocks as are verified.
    Data,
    /// One block, with each.
    OneBlock,
}

/// A command the disk knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    TestUnitReady,
    RequestSense { descriptor: bool, allocation: usize },
    Inquiry { vpd: Option<u8>, allocation: usize },
    ReportLuns { select: u8, allocation: usize },
    ModeSense { long: bool, blockless: bool, control: u8, page: u8, subpage: u8, allocation: usize },
    ReadCapacity10,
    ReadCapacity16 { allocation: usize },
    LbaStatus { lba: u64, allocation: usize },
    Read(Run),
    Write(Run),
    Verify { run: Run, check: Check },
    WriteVerify { run: Run },
    WriteSame { run: Run, unmap: bool, data: bool },
    Unmap { length: usize },
    CompareAndWrite(Run),
    Prefetch(Run),
    Flush(Run),
    StartStop,
    Reserve,
    Release,
    PersistentIn { action: u8, allocation: usize },
    PersistentOut { action: u8, scope: u8, kind: u8, length: usize },
}

impl Op {
    /// Reads a CDB.
    pub(crate) fn parse(cdb: &[u8]) -> Result<Self, Fault> {
        let c = Fields(cdb);
        let op = match c.u8(0) {
            0x08 | 0x0a | 0x28 | 0x2a | 0xa8 | 0xaa | 0x88 | 0x8a => transfer(c)?,
            0x2e | 0xae | 0x8e => write_verify(c)?,
            0x2f | 0xaf | 0x8f => verify(c)?,
            0x41 | 0x93 => write_same(c)?,
            0x9e | 0x5e | 0x5f => service_action(c)?,
            0x42 => unmap(c)?,
            0x89 => compare_and_write(c)?,
            0x34 | 0x90 => Self::Prefetch(c.run()),
            0x35 | 0x91 => Self::Flush(c.run()),
            _ => primary(c)?,
        };
        c.refuse(c.control() & 0x04 != 0)?;
        Ok(op)
    }

    /// Blocks that must exist.
    pub(crate) const fn run(&self) -> Option<Run> {
        match self {
            Self::Read(run)
            | Self::Write(run)
            | Self::Verify { run, .. }
            | Self::WriteVerify { run }
            | Self::WriteSame { run, .. }
            | Self::CompareAndWrite(run)
            | Self::Prefetch(run)
            | Self::Flush(run) => Some(*run),
            _ => None,
        }
    }

    /// Bytes of data the command takes from the initiator.
    pub(crate) fn data_out(&self, block_size: u32) -> u64 {
        let block = u64::from(block_size);
        match self {
            Self::Write(run) | Self::WriteVerify { run } | Self::Verify { run, check: Check::Data } => {
                run.blocks.saturating_mul(block)
            }
            Self::CompareAndWrite(run) => run.blocks.saturating_mul(2 * block),
            Self::Verify { run, check: Check::OneBlock } if run.blocks > 0 => block,
            Self::WriteSame { data: true, .. } => block,
            Self::Unmap { length } | Self::PersistentOut { length, .. } => *length as u64,
            _ => 0,
        }
    }
}

fn primary(c: Fields<'_>) -> Result<Op, Fault> {
    Ok(match c.u8(0) {
        0x00 => Op::TestUnitReady,
        0x03 => Op::RequestSense { descriptor: c.bit(1, 0), allocation: c.u8(4).into() },
        0x12 => {
            let vpd = c.bit(1, 0).then(|| c.u8(2));
            c.refuse(vpd.is_none() && c.u8(2) != 0)?;
            c.refuse(c.bit(1, 1))?;
            Op::Inquiry { vpd, allocation: c.u16(3).into() }
        }
        0x16 | 0x56 => Op::Reserve,
        0x17 | 0x57 => Op::Release,
        0x1a => mode_sense(c, false),
        0x5a => mode_sense(c, true),
        0x1b => Op::StartStop,
        0x25 => {
            c.refuse(!c.bit(8, 0) && c.u32(2) != 0)?;
            Op::ReadCapacity10
        }
        0xa0 => {
            c.refuse(c.u32(6) < 16)?;
            Op::ReportLuns { select: c.u8(2), allocation: c.len32(6) }
        }
        _ => return Err(Fault::Sense(INVALID_OPCODE)),
    })
}

fn service_action(c: Fields<'_>) -> Result<Op, Fault> {
    let action = c.u8(1) & 0x1f;
    Ok(match (c.u8(0), action) {
        (0x9e, 0x10) => {
            c.refuse(!c.bit(14, 0) && c.u64(2) != 0)?;
            Op::ReadCapacity16 { allocation: c.len32(10) }
        }
        (0x9e, 0x12) => Op::LbaStatus { lba: c.u64(2), allocation: c.len32(10) },
        (0x5e, _) => Op::PersistentIn { action, allocation: c.u16(7).into() },
        (0x5f, _) => {
            Op::PersistentOut { action, scope: c.u8(2) >> 4, kind: c.u8(2) & 15, length: c.len32(5) }
        }
        _ => return Err(Fault::Sense(INVALID_FIELD)),
    })
}

fn mode_sense(c: Fields<'_>, long: bool) -> Op {
    Op::ModeSense {
        long,
        blockless: c.bit(1, 3),
        control: c.u8(2) >> 6,
        page: c.u8(2) & 0x3f,
        subpage: c.u8(3),
        allocation: if long { c.u16(7).into() } else { c.u8(4).into() },
    }
}

fn transfer(c: Fields<'_>) -> Result<Op, Fault> {
    let opcode = c.u8(0);
    let run = if opcode < 0x20 {
        let blocks = if c.u8(4) == 0 { 256 } else { c.u8(4).into() };
        Run { lba: u64::from(c.u32(0) & 0x001f_ffff), blocks }
    } else {
        c.refuse(c.u8(1) & 0xe0 != 0)?;
        c.run()
    };
    // In each group of opcodes WRITE is READ plus two.
    Ok(if opcode & 0x02 == 0 { Op::Read(run) } else { Op::Write(run) })
}

fn write_verify(c: Fields<'_>) -> Result<Op, Fault> {
    c.refuse(c.u8(1) & 0xe0 != 0)?;
    c.refuse(c.u8(1) & 0x06 > 0x02)?;
    Ok(Op::WriteVerify { run: c.run() })
}

fn verify(c: Fields<'_>) -> Result<Op, Fault> {
    c.refuse(c.u8(1) & 0xe0 != 0)?;
    let check = match (c.u8(1) >> 1) & 3 {
        0 => Check::Medium,
        1 => Check::Data,
        3 => Check::OneBlock,
        _ => return Err(Fault::Sense(INVALID_FIELD)),
    };
    Ok(Op::Verify { run: c.run(), check })
}

fn write_same(c: Fields<'_>) -> Result<Op, Fault> {
    c.refuse(c.u8(1) & 0xe0 != 0)?;
    // ANCHOR asks for what a RAM disk does not have.
    c.refuse(c.bit(1, 4))?;
    let no_data = c.u8(0) == 0x93 && c.bit(1, 0);
    Ok(Op::WriteSame { run: c.run(), unmap: c.bit(1, 3), data: !no_data })
}

fn unmap(c: Fields<'_>) -> Result<Op, Fault> {
    c.refuse(c.bit(1, 0))?;
    Ok(Op::Unmap { length: c.u16(7).into() })
}

fn compare_and_write(c: Fields<'_>) -> Result<Op, Fault> {
    c.refuse(c.u8(1) & 0xe0 != 0)?;
    Ok(Op::CompareAndWrite(Run { lba: c.u64(2), blocks: c.u8(13).into() }))
}

/// Fields of a CDB; what lies beyond its end is zero.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    pub(crate) fn u8(self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    pub(crate) fn u16(self, at: usize) -> u16 {
        u16::from_be_bytes([self.u8(at), self.u8(at + 1)])
    }

    pub(crate) fn u32(self, at: usize) -> u32 {
        u32::from(self.u16(at)) << 16 | u32::from(self.u16(at + 2))
    }

    pub(crate) fn u64(self, at: usize) -> u64 {
        u64::from(self.u32(at)) << 32 | u64::from(self.u32(at + 4))
    }

    fn len32(self, at: usize) -> usize {
        usize::try_from(self.u32(at)).unwrap_or(usize::MAX)
    }

    fn bit(self, at: usize, bit: u8) -> bool {
        self.u8(at) >> bit & 1 == 1
    }

    fn refuse(self, bad: bool) -> Result<(), Fault> {
        if bad { Err(Fault::Sense(INVALID_FIELD)) } else { Ok(()) }
    }

    /// The last byte of the CDB, by the group its opcode is in.
    fn control(self) -> u8 {
        match self.u8(0) >> 5 {
            0 => self.u8(5),
            1 | 2 => self.u8(9),
            5 => self.u8(11),
            _ => self.u8(15),
        }
    }

    /// Where 10, 12 and 16-byte block commands keep their range.
    fn run(self) -> Run {
        match self.u8(0) >> 5 {
            4 => Run { lba: self.u64(2), blocks: self.u32(10).into() },
            5 => Run { lba: self.u32(2).into(), blocks: self.u32(6).into() },
            _ => Run { lba: self.u32(2).into(), blocks: self.u16(7).into() },
        }
    }
}
