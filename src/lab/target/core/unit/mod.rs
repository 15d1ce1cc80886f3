//! A logical unit: one disk, the nexuses that see it, and what they hold of it.
//!
//! A command is first admitted ([`Unit::admit`]: unit attentions, reservations, ranges), then its data is gathered by the
//! caller, then it is executed ([`Unit::execute`]).

#![expect(clippy::wildcard_enum_match_arm, reason = "each match names the commands it cares about")]

pub(crate) mod fault;
mod inquiry;
mod mode;
mod op;
mod reserve;
mod tasks;

pub(crate) use op::Op;
pub(crate) use tasks::{TaskRef, TaskSet};

use super::medium::Medium;
use crate::iscsi::{Isid, Lun, Payload, Tsih};
use crate::scsi::Sense;
use crate::scsi::sense::{key, status};
use fault::{
    Fault, INVALID_FIELD, INVALID_PARAMETER, MISCOMPARE, NO_SUCH_UNIT, OUT_OF_RANGE, PARAMETER_LENGTH,
};
use inquiry::{MAX_TRANSFER_BLOCKS, MAX_UNMAP_DESCRIPTORS};
use op::{Check, Fields, Run};
use reserve::Persistent;
use std::collections::{BTreeMap, VecDeque};

/// Unit attentions kept for a nexus; further ones say nothing new.
const MAX_ATTENTIONS: usize = 8;

/// Descriptors in one GET LBA STATUS answer, and blocks looked at for each.
const MAX_STATUS_DESCRIPTORS: usize = 16;
const MAX_STATUS_BLOCKS: u64 = 1 << 20;

/// Who logs in, independent of sessions: survives logout.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct NexusName {
    pub(crate) initiator: String,
    pub(crate) isid: Isid,
}

/// A session's view of the unit.
#[derive(Debug)]
struct Nexus {
    name: NexusName,
    attentions: VecDeque<Sense>,
}

/// How a command ended.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u8,
    pub(crate) sense: Vec<u8>,
    pub(crate) data: Payload,
}

impl Reply {
    /// GOOD, with data for the initiator.
    pub(crate) fn good(data: impl Into<Payload>) -> Self {
        Self { status: status::GOOD, sense: Vec::new(), data: data.into() }
    }
}

impl From<Fault> for Reply {
    fn from(fault: Fault) -> Self {
        let (status, sense) = match fault {
            Fault::Conflict => (status::RESERVATION_CONFLICT, Vec::new()),
            Fault::Sense(sense) => (status::CHECK_CONDITION, sense.to_fixed().to_vec()),
            Fault::SenseAt(sense, at) => {
                let mut fixed = sense.to_fixed().to_vec();
                if let Some(first) = fixed.first_mut() {
                    *first |= 0x80;
                }
                fixed.splice(3..7, at.to_be_bytes());
                (status::CHECK_CONDITION, fixed)
            }
        };
        Self { status, sense, data: Payload::new() }
    }
}

/// One disk.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) serial: String,
    pub(crate) medium: Medium,
    pub(crate) tasks: TaskSet,
    nexuses: BTreeMap<Tsih, Nexus>,
    reserved: Option<Tsih>,
    persistent: Persistent,
    purged: Vec<Tsih>,
}

impl Unit {
    pub(crate) fn new(serial: String, blocks: u64, block_size: u32) -> Self {
        Self {
            serial,
            medium: Medium::new(blocks, block_size),
            tasks: TaskSet::default(),
            nexuses: BTreeMap::new(),
            reserved: None,
            persistent: Persistent::default(),
            purged: Vec::new(),
        }
    }

    /// A session begins to see the unit, perhaps with a unit attention.
    pub(crate) fn attach(&mut self, tsih: Tsih, name: NexusName, attention: Option<Sense>) {
        self.nexuses.insert(tsih, Nexus { name, attentions: attention.into_iter().collect() });
    }

    /// A session is gone; RESERVE goes with it, persistent reservations stay (R10).
    pub(crate) fn detach(&mut self, tsih: Tsih) {
        self.nexuses.remove(&tsih);
        if self.reserved == Some(tsih) {
            self.reserved = None;
        }
    }

    /// Reset: RESERVE is dropped, everybody is told.
    pub(crate) fn reset(&mut self) {
        self.reserved = None;
        self.tell(|_| true, fault::UNIT_RESET);
    }

    /// Establishes a unit attention for one session.
    pub(crate) fn tell_one(&mut self, tsih: Tsih, sense: Sense) {
        self.tell(|other| other == tsih, sense);
    }

    fn tell(&mut self, whom: impl Fn(Tsih) -> bool, sense: Sense) {
        for (tsih, nexus) in &mut self.nexuses {
            if whom(*tsih) && nexus.attentions.len() < MAX_ATTENTIONS && !nexus.attentions.contains(&sense) {
                nexus.attentions.push_back(sense);
            }
        }
    }

    /// Sessions whose tasks PREEMPT AND ABORT wants ended.
    pub(crate) fn take_purged(&mut self) -> Vec<Tsih> {
        std::mem::take(&mut self.purged)
    }

    /// Understands a command that is about to start and judges whether it may.
    pub(crate) fn admit(&mut self, tsih: Tsih, cdb: &[u8]) -> Result<Op, Fault> {
        let tells_anyway = matches!(cdb.first(), Some(0x03 | 0x12 | 0xa0));
        let nexus = self.nexuses.get_mut(&tsih);
        if !tells_anyway && let Some(sense) = nexus.and_then(|nexus| nexus.attentions.pop_front()) {
            return Err(Fault::Sense(sense));
        }
        let op = Op::parse(cdb)?;
        if self.conflicts(tsih, &op) {
            return Err(Fault::Conflict);
        }
        if let Some(run) = op.run() {
            self.in_range(run)?;
            let unlimited = matches!(op, Op::Flush(_) | Op::Prefetch(_));
            if self.reach(&op, run) > MAX_TRANSFER_BLOCKS && !unlimited {
                return Err(Fault::Sense(INVALID_FIELD));
            }
        }
        Ok(op)
    }

    /// Blocks a command touches: none named means the rest of the disk to WRITE SAME.
    const fn reach(&self, op: &Op, run: Run) -> u64 {
        if run.blocks == 0 && matches!(op, Op::WriteSame { .. }) {
            self.medium.blocks() - run.lba
        } else {
            run.blocks
        }
    }

    fn in_range(&self, run: Run) -> Result<(), Fault> {
        match run.lba.checked_add(run.blocks) {
            Some(end) if end <= self.medium.blocks() => Ok(()),
            _ => Err(Fault::Sense(OUT_OF_RANGE)),
        }
    }

    /// Does an admitted command. `data` is what the initiator sent, at most [`Op::data_out`] bytes.
    pub(crate) fn execute(&mut self, tsih: Tsih, op: &Op, data: &Payload, units: usize) -> Reply {
        self.dispatch(tsih, op, data, units).unwrap_or_else(Reply::from)
    }

    fn dispatch(&mut self, tsih: Tsih, op: &Op, data: &Payload, units: usize) -> Result<Reply, Fault> {
        match *op {
            Op::Read(run) => return Ok(Reply::good(self.medium.read(run.lba, run.blocks))),
            Op::Write(run) | Op::WriteVerify { run } => self.medium.write(run.lba, data),
            Op::Verify { run, check } => self.verify(run, check, data)?,
            Op::WriteSame { run, unmap, data: sent } => self.write_same(run, unmap, sent, data),
            Op::Unmap { .. } => self.unmap(data)?,
            Op::CompareAndWrite(run) => self.compare_and_write(run, data)?,
            Op::Prefetch(_) => {
                return Ok(Reply { status: status::CONDITION_MET, ..Reply::good(Payload::new()) });
            }
            Op::TestUnitReady | Op::Flush(_) | Op::StartStop => {}
            Op::Reserve => self.reserve(tsih),
            Op::Release => self.release(tsih),
            Op::PersistentOut { action, scope, kind, length } => {
                self.persistent_out(tsih, action, (scope, kind), length, data)?;
            }
            Op::RequestSense { .. }
            | Op::Inquiry { .. }
            | Op::ReportLuns { .. }
            | Op::ModeSense { .. }
            | Op::ReadCapacity10
            | Op::ReadCapacity16 { .. }
            | Op::LbaStatus { .. }
            | Op::PersistentIn { .. } => return self.report(tsih, op, units),
        }
        Ok(Reply::good(Payload::new()))
    }

    /// Commands that return parameter data, cut to the allocation length.
    fn report(&mut self, tsih: Tsih, op: &Op, units: usize) -> Result<Reply, Fault> {
        let size = (self.medium.blocks(), self.medium.block_size());
        let (mut data, allocation) = match *op {
            Op::RequestSense { descriptor, allocation } => (self.request_sense(tsih, descriptor), allocation),
            Op::Inquiry { vpd: None, allocation } => (inquiry::standard(), allocation),
            Op::Inquiry { vpd: Some(page), allocation } => (inquiry::vpd(self, page)?, allocation),
            Op::ReportLuns { select, allocation } => (report_luns(select, units)?, allocation),
            Op::ModeSense { long, blockless, control, page, subpage, allocation } => {
                (mode::sense(long, blockless, control, (page, subpage), size)?, allocation)
            }
            Op::ReadCapacity10 => (capacity10(size), 8),
            Op::ReadCapacity16 { allocation } => (capacity16(size), allocation),
            Op::LbaStatus { lba, allocation } => (self.lba_status(lba)?, allocation),
            Op::PersistentIn { action, allocation } => (self.persistent_in(action)?, allocation),
            _ => return Err(Fault::Sense(INVALID_FIELD)),
        };
        data.truncate(allocation);
        Ok(Reply::good(data))
    }

    fn request_sense(&mut self, tsih: Tsih, descriptor: bool) -> Vec<u8> {
        let nexus = self.nexuses.get_mut(&tsih);
        let none = Sense { key: key::NO_SENSE, asc: 0, ascq: 0 };
        let sense = nexus.and_then(|nexus| nexus.attentions.pop_front()).unwrap_or(none);
        if descriptor {
            return vec![0x72, sense.key, sense.asc, sense.ascq, 0, 0, 0, 0];
        }
        sense.to_fixed().to_vec()
    }

    /// GET LBA STATUS: runs of mapped and unmapped blocks.
    fn lba_status(&self, lba: u64) -> Result<Vec<u8>, Fault> {
        self.in_range(Run { lba, blocks: 1 })?;
        let mut descriptors = Vec::new();
        let mut next = lba;
        while next < self.medium.blocks() && descriptors.len() < MAX_STATUS_DESCRIPTORS * 16 {
            let (mapped, blocks) = self.medium.status(next, MAX_STATUS_BLOCKS);
            descriptors.extend(next.to_be_bytes());
            descriptors.extend(short_blocks(blocks).to_be_bytes());
            descriptors.extend([u8::from(!mapped), 0, 0, 0]);
            next += blocks;
        }
        let length = u32::try_from(descriptors.len() + 4).unwrap_or(u32::MAX);
        let mut data = length.to_be_bytes().to_vec();
        data.extend([0; 4]);
        data.extend(descriptors);
        Ok(data)
    }

    fn verify(&self, run: Run, check: Check, data: &Payload) -> Result<(), Fault> {
        let mismatch = match check {
            Check::Medium => None,
            Check::Data => self.medium.mismatch(run.lba, data),
            Check::OneBlock => {
                (run.lba..run.lba + run.blocks).find_map(|lba| self.medium.mismatch(lba, data))
            }
        };
        mismatch.map_or(Ok(()), |at| Err(miscompare(at)))
    }

    fn write_same(&mut self, run: Run, unmap: bool, sent: bool, data: &Payload) {
        let blocks = self.reach(&Op::WriteSame { run, unmap, data: sent }, run);
        let block = data.contiguous();
        if (unmap || !sent) && block.iter().all(|byte| *byte == 0) {
            self.medium.discard(run.lba, blocks);
        } else if !block.is_empty() {
            self.medium.fill(run.lba, blocks, &block);
        }
    }

    /// UNMAP: all descriptors are judged before the first is done.
    fn unmap(&mut self, data: &Payload) -> Result<(), Fault> {
        let list = data.contiguous();
        if list.is_empty() {
            return Ok(());
        }
        if list.len() < 8 {
            return Err(Fault::Sense(PARAMETER_LENGTH));
        }
        let named: usize = Fields(&list).u16(2).into();
        let descriptors = list.get(8..).unwrap_or_default().chunks_exact(16).take(named / 16);
        if descriptors.len() > MAX_UNMAP_DESCRIPTORS {
            return Err(Fault::Sense(INVALID_PARAMETER));
        }
        let runs: Vec<Run> = descriptors
            .map(|descriptor| Run {
                lba: Fields(descriptor).u64(0),
                blocks: Fields(descriptor).u32(8).into(),
            })
            .collect();
        runs.iter().try_for_each(|run| self.in_range(*run))?;
        runs.iter().for_each(|run| self.medium.discard(run.lba, run.blocks));
        Ok(())
    }

    fn compare_and_write(&mut self, run: Run, data: &Payload) -> Result<(), Fault> {
        let half = data.len() / 2;
        if let Some(at) = self.medium.mismatch(run.lba, &data.slice(0, half)) {
            return Err(miscompare(at));
        }
        self.medium.write(run.lba, &data.slice(half, half));
        Ok(())
    }
}

fn miscompare(at: usize) -> Fault {
    Fault::SenseAt(MISCOMPARE, u32::try_from(at).unwrap_or(u32::MAX))
}

/// Number of blocks where only four bytes are left for it.
fn short_blocks(blocks: u64) -> u32 {
    u32::try_from(blocks).unwrap_or(u32::MAX)
}

fn capacity10((blocks, block_size): (u64, u32)) -> Vec<u8> {
    let mut data = short_blocks(blocks - 1).to_be_bytes().to_vec();
    data.extend(block_size.to_be_bytes());
    data
}

fn capacity16((blocks, block_size): (u64, u32)) -> Vec<u8> {
    let mut data = (blocks - 1).to_be_bytes().to_vec();
    data.extend(block_size.to_be_bytes());
    // Thin provisioning with zeros read back.
    data.extend([0, 0, 0xc0, 0]);
    data.resize(32, 0);
    data
}

/// REPORT LUNS: units are numbered from zero without gaps.
pub(crate) fn report_luns(select: u8, units: usize) -> Result<Vec<u8>, Fault> {
    let listed = match select {
        0 | 2 => u16::try_from(units).unwrap_or(u16::MAX),
        1 => 0,
        _ => return Err(Fault::Sense(INVALID_FIELD)),
    };
    let mut data = (u32::from(listed) * 8).to_be_bytes().to_vec();
    data.extend([0; 4]);
    for number in 0..listed {
        data.extend(Lun::from_number(number).0.to_be_bytes());
    }
    Ok(data)
}

/// What a unit number without a unit answers.
pub(crate) fn without_unit(cdb: &[u8], units: usize) -> Reply {
    let answer = Op::parse(cdb).and_then(|op| match op {
        Op::Inquiry { vpd: None, allocation } => Ok((inquiry::absent(), allocation)),
        Op::ReportLuns { select, allocation } => Ok((report_luns(select, units)?, allocation)),
        Op::RequestSense { allocation, .. } => Ok((NO_SUCH_UNIT.to_fixed().to_vec(), allocation)),
        _ => Err(Fault::Sense(NO_SUCH_UNIT)),
    });
    match answer {
        Ok((mut data, allocation)) => {
            data.truncate(allocation);
            Reply::good(data)
        }
        Err(_) => Fault::Sense(NO_SUCH_UNIT).into(),
    }
}
