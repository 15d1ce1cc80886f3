//! What CDBs do.

use super::Target;
use super::device::Task;
use super::medium::{BLOCK, stamp_of};
use super::reservations::Owner;
use super::trigger::Trigger;
use braid::iscsi::ScsiCommand;
use braid::scsi::Sense;
use braid::scsi::sense::key;

/// How a command ended.
#[derive(Clone)]
pub(super) enum Outcome {
    Good,
    /// GOOD, with read data.
    Data(Vec<u8>),
    Status(u8),
    Sense(Sense),
}

/// ILLEGAL REQUEST with this additional sense code.
pub(super) fn illegal(asc: u8) -> Outcome {
    Outcome::Sense(Sense { key: key::ILLEGAL_REQUEST, asc, ascq: 0 })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    TestUnitReady,
    RequestSense,
    Inquiry,
    ReportLuns,
    Capacity10,
    Capacity16,
    ModeSense6,
    ModeSense10,
    ModeSelect,
    StartStop,
    Reserve,
    Release,
    PersistentIn,
    PersistentOut,
    ReportGroups,
    SetGroups,
    Read,
    Write,
    WriteSame,
    Unmap,
    CompareAndWrite,
    Flush,
    Vendor,
    Unknown,
}

/// What a reservation looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// Never conflicts.
    Always,
    /// Conflicts with RESERVE(6) only.
    Free,
    Read,
    Write,
}

/// A CDB understood.
#[derive(Clone, Copy, Debug)]
pub(super) struct Op {
    pub(super) kind: Kind,
    lba: u64,
    blocks: u64,
    fua: bool,
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Op {
    pub(super) fn parse(cdb: &[u8]) -> Self {
        let plain = |kind| Self { kind, lba: 0, blocks: 0, fua: false };
        let fua = cdb[1] & 0x08 != 0;
        let ten = |kind| Self { kind, lba: number(&cdb[2..6]), blocks: number(&cdb[7..9]), fua };
        let sixteen = |kind| Self { kind, lba: number(&cdb[2..10]), blocks: number(&cdb[10..14]), fua };
        match cdb[0] {
            0x00 => plain(Kind::TestUnitReady),
            0x03 => plain(Kind::RequestSense),
            0x12 => plain(Kind::Inquiry),
            0x15 | 0x55 => plain(Kind::ModeSelect),
            0x16 => plain(Kind::Reserve),
            0x17 => plain(Kind::Release),
            0x1a => plain(Kind::ModeSense6),
            0x1b => plain(Kind::StartStop),
            0x25 => plain(Kind::Capacity10),
            0x28 => ten(Kind::Read),
            0x2a => ten(Kind::Write),
            // WRITE AND VERIFY reads back from the medium: it is durable.
            0x2e => Self { fua: true, ..ten(Kind::Write) },
            0x35 => ten(Kind::Flush),
            0x41 => Self { fua: false, ..ten(Kind::WriteSame) },
            0x42 => plain(Kind::Unmap),
            0x5a => plain(Kind::ModeSense10),
            0x5e => plain(Kind::PersistentIn),
            0x5f => plain(Kind::PersistentOut),
            0x88 => sixteen(Kind::Read),
            0x89 => Self {
                kind: Kind::CompareAndWrite,
                lba: number(&cdb[2..10]),
                blocks: u64::from(cdb[13]),
                fua,
            },
            0x8a => sixteen(Kind::Write),
            0x91 => sixteen(Kind::Flush),
            0x93 => Self { fua: false, ..sixteen(Kind::WriteSame) },
            0x9e if cdb[1] & 0x1f == 0x10 => plain(Kind::Capacity16),
            0xa0 => plain(Kind::ReportLuns),
            0xa3 if cdb[1] & 0x1f == 0x0a => plain(Kind::ReportGroups),
            0xa4 if cdb[1] & 0x1f == 0x0a => plain(Kind::SetGroups),
            0xc1 => plain(Kind::Vendor),
            _ => plain(Kind::Unknown),
        }
    }

    pub(super) fn is_test_unit_ready(self) -> bool {
        self.kind == Kind::TestUnitReady
    }

    /// Plain reads and writes.
    pub(super) fn is_block_io(self) -> bool {
        matches!(self.kind, Kind::Read | Kind::Write)
    }

    /// What is not expected to take long: reads, writes, and questions.
    pub(super) fn is_quick(self) -> bool {
        let slow = matches!(
            self.kind,
            Kind::ModeSelect
                | Kind::StartStop
                | Kind::Reserve
                | Kind::Release
                | Kind::PersistentOut
                | Kind::SetGroups
                | Kind::WriteSame
                | Kind::Unmap
                | Kind::CompareAndWrite
                | Kind::Flush
                | Kind::Vendor
                | Kind::Unknown
        );
        !slow
    }

    pub(super) fn writes(self) -> bool {
        matches!(self.kind, Kind::Write | Kind::WriteSame | Kind::Unmap | Kind::CompareAndWrite)
    }

    pub(super) fn uses_medium(self) -> bool {
        self.writes() || matches!(self.kind, Kind::Read | Kind::Flush | Kind::Vendor)
    }

    pub(super) fn ignores_attentions(self) -> bool {
        matches!(self.kind, Kind::Inquiry | Kind::ReportLuns | Kind::RequestSense)
    }

    pub(super) fn access(self) -> Access {
        match self.kind {
            Kind::Inquiry | Kind::ReportLuns | Kind::RequestSense | Kind::ReportGroups | Kind::Release => {
                Access::Always
            }
            Kind::TestUnitReady
            | Kind::Capacity10
            | Kind::Capacity16
            | Kind::ModeSense6
            | Kind::ModeSense10
            | Kind::StartStop
            | Kind::Reserve
            | Kind::PersistentIn
            | Kind::PersistentOut
            | Kind::SetGroups => Access::Free,
            Kind::Read => Access::Read,
            Kind::ModeSelect
            | Kind::Write
            | Kind::WriteSame
            | Kind::Unmap
            | Kind::CompareAndWrite
            | Kind::Flush
            | Kind::Vendor
            | Kind::Unknown => Access::Write,
        }
    }

    /// Whether the two touch a block in common and one of them writes.
    pub(super) fn conflicts_with(&self, other: &Self) -> bool {
        let reads = |op: &Self| op.kind == Kind::Read;
        let touches = |op: &Self| op.writes() || reads(op);
        if !touches(self) || !touches(other) || reads(self) && reads(other) {
            return false;
        }
        let end = |op: &Self| match op.kind {
            Kind::Unmap => u64::MAX,
            Kind::WriteSame if op.blocks == 0 => u64::MAX,
            _ => op.lba.saturating_add(op.blocks),
        };
        self.lba < end(other) && other.lba < end(self)
    }
}

impl Target {
    /// With QERR or UA_INTLCK_CTRL set, what a unit does shows on one nexus only.
    fn judge_nexus(&self, task: &Task) {
        let [_, errors, interlock] = self.persona.control.unwrap_or_default();
        let bound = errors & 0x06 != 0 || interlock & 0x30 != 0;
        // Further sessions have an ISID of the random type.
        let further = self.sessions[task.session].port.isid[0] == 0x80;
        assert!(
            !(bound && further && task.op.is_block_io()),
            "R242: a unit whose Control mode page binds it to one nexus was used over another"
        );
    }

    /// No attention waited for a command.
    fn met_nothing(&mut self, task: &Task) {
        let sent = self.sent.remove(&(task.conn, task.command.itt.0));
        let clean = &mut self.sessions[task.session].clean[task.unit];
        *clean = sent.map_or(*clean, |sent| sent.max(*clean));
    }

    /// Executes a task.
    pub(super) fn run(&mut self, task: &Task) -> Outcome {
        self.judge_nexus(task);
        if let Some(outcome) = self.attention((task.conn, task.session), task.unit, task.op, task.command.itt)
        {
            return outcome;
        }
        if let Some(outcome) = self.shut(task) {
            self.met_nothing(task);
            return outcome;
        }
        let owner = Owner::Session(task.session);
        if self.units[task.unit].reservations.conflicts(owner, task.op.access()) {
            return self.conflict();
        }
        self.judge_rights(task);
        if !task.op.ignores_attentions() {
            self.met_nothing(task);
        }
        match task.op.kind {
            Kind::TestUnitReady | Kind::StartStop => Outcome::Good,
            Kind::RequestSense
            | Kind::Inquiry
            | Kind::ReportLuns
            | Kind::Capacity10
            | Kind::Capacity16
            | Kind::ModeSense6
            | Kind::ModeSense10 => self.inform(task),
            Kind::ModeSelect => {
                self.raise(task.unit, Some(task.session), (0x2a, 0x01), None);
                Outcome::Good
            }
            Kind::Reserve | Kind::Release => self.reserve(task),
            Kind::PersistentIn => self.persistent_in(task),
            Kind::PersistentOut => {
                let outcome = self.persistent_out(task);
                self.note_view(task.unit);
                outcome
            }
            Kind::ReportGroups => self.report_groups(task),
            Kind::SetGroups => self.set_groups(task),
            Kind::Read => self.read(task),
            Kind::Write => self.write(task),
            Kind::WriteSame => self.write_same(task),
            Kind::Unmap => self.unmap(task),
            Kind::CompareAndWrite => self.compare_and_write(task),
            Kind::Flush => self.flush(task),
            Kind::Vendor => {
                let stamp = task.data.contiguous();
                let stamp = stamp.first_chunk().map_or(0, |s| u64::from_be_bytes(*s));
                *self.executions.entry(stamp).or_default() += 1;
                Outcome::Good
            }
            Kind::Unknown => illegal(0x20),
        }
    }

    fn read(&mut self, task: &Task) -> Outcome {
        if self.bad_reads > 0 && self.conn(task.conn).is_some() {
            self.bad_reads -= 1;
            return self.medium_fault(task);
        }
        let medium = &self.units[task.unit].medium;
        match medium.range(task.op.lba, task.op.blocks) {
            Some(range) => Outcome::Data(medium.bytes(range)),
            None => illegal(0x21),
        }
    }

    fn write(&mut self, task: &Task) -> Outcome {
        let cache = self.cache_of(task.session);
        let medium = &mut self.units[task.unit].medium;
        let Some(range) = medium.range(task.op.lba, task.op.blocks) else { return illegal(0x21) };
        let mut lba = range.start;
        let mut put = |bytes: &[u8]| {
            for block in bytes.chunks(BLOCK) {
                medium.write(lba, stamp_of(block), task.op.fua, cache);
                lba += 1;
            }
        };
        assert!(
            task.data.len() == range.len() * BLOCK,
            "P1: {} bytes for {} blocks",
            task.data.len(),
            range.len()
        );
        if task.data.chunks().iter().all(|chunk| chunk.len().is_multiple_of(BLOCK)) {
            task.data.chunks().iter().for_each(|chunk| put(chunk));
        } else {
            put(&task.data.contiguous());
        }
        self.note_write(task);
        Outcome::Good
    }

    fn write_same(&mut self, task: &Task) -> Outcome {
        const UNMAP: u8 = 0x08;
        const NO_DATA: u8 = 0x01;
        let cache = self.cache_of(task.session);
        let medium = &mut self.units[task.unit].medium;
        let blocks = if task.op.blocks == 0 {
            (medium.len() as u64).saturating_sub(task.op.lba)
        } else {
            task.op.blocks
        };
        let Some(range) = medium.range(task.op.lba, blocks) else { return illegal(0x21) };
        let flags = task.command.cdb.0[1];
        let zero = flags & UNMAP != 0 || task.command.cdb.0[0] == 0x93 && flags & NO_DATA != 0;
        let stamp = if zero { 0 } else { stamp_of(&task.data.contiguous()) };
        range.for_each(|lba| medium.write(lba, stamp, false, cache));
        if !zero {
            self.note_write(task);
        }
        Outcome::Good
    }

    /// On anything but a disk a write must not run twice.
    fn note_write(&mut self, task: &Task) {
        if self.persona.device_type != 0 && !task.data.is_empty() {
            let data = task.data.slice(0, BLOCK).contiguous();
            *self.executions.entry(stamp_of(&data)).or_default() += 1;
        }
    }

    fn unmap(&mut self, task: &Task) -> Outcome {
        let data = task.data.contiguous();
        let cache = self.cache_of(task.session);
        let medium = &mut self.units[task.unit].medium;
        let descriptors = data.get(8..).unwrap_or_default().chunks_exact(16);
        let ranges: Option<Vec<_>> =
            descriptors.map(|d| medium.range(number(&d[..8]), number(&d[8..12]))).collect();
        let Some(ranges) = ranges else { return illegal(0x21) };
        ranges.into_iter().flatten().for_each(|lba| medium.write(lba, 0, false, cache));
        Outcome::Good
    }

    fn compare_and_write(&mut self, task: &Task) -> Outcome {
        let cache = self.cache_of(task.session);
        let medium = &mut self.units[task.unit].medium;
        let Some(range) = medium.range(task.op.lba, task.op.blocks) else { return illegal(0x21) };
        let data = task.data.contiguous();
        assert!(data.len() == 2 * range.len() * BLOCK, "P1: {} bytes to compare and write", data.len());
        if range.is_empty() {
            return Outcome::Good;
        }
        let (compare, write) = data.split_at(data.len() / 2);
        let mut pairs = range.clone().zip(compare.chunks(BLOCK));
        if !pairs.all(|(lba, block)| medium.visible(lba) == stamp_of(block)) {
            self.count(Trigger::Miscompare);
            return Outcome::Sense(Sense { key: key::MISCOMPARE, asc: 0x1d, ascq: 0 });
        }
        for (lba, block) in range.zip(write.chunks(BLOCK)) {
            medium.write(lba, stamp_of(block), task.op.fua, cache);
        }
        *self.executions.entry(stamp_of(&write[..BLOCK])).or_default() += 1;
        Outcome::Good
    }

    fn flush(&mut self, task: &Task) -> Outcome {
        let cache = self.cache_of(task.session);
        let medium = &mut self.units[task.unit].medium;
        let blocks = if task.op.blocks == 0 {
            (medium.len() as u64).saturating_sub(task.op.lba)
        } else {
            task.op.blocks
        };
        let Some(range) = medium.range(task.op.lba, blocks) else { return illegal(0x21) };
        medium.flush(range, cache);
        Outcome::Good
    }

    /// Commands that tell something.
    fn inform(&mut self, task: &Task) -> Outcome {
        let cdb = &task.command.cdb.0;
        let unit = &self.units[task.unit];
        let blocks = unit.medium.len() as u64;
        let (mut data, allocation) = match task.op.kind {
            Kind::Inquiry => match self.inquiry(task.unit, task.session, cdb) {
                Some(data) => (data, number(&cdb[3..5])),
                None => return illegal(0x24),
            },
            Kind::Capacity10 => {
                let last = u32::try_from(blocks - 1).unwrap();
                ([last.to_be_bytes(), 512u32.to_be_bytes()].concat(), 8)
            }
            Kind::Capacity16 => {
                let mut data = vec![0; 32];
                data[..8].copy_from_slice(&(blocks - 1).to_be_bytes());
                data[8..12].copy_from_slice(&512u32.to_be_bytes());
                (data, number(&cdb[10..14]))
            }
            Kind::ReportLuns => (self.list_of(task.session), number(&cdb[6..10])),
            Kind::ModeSense6 => {
                let pages = self.mode_pages(cdb[2]);
                let length = u8::try_from(pages.len() + 3).unwrap();
                ([&[length, 0, 0x10, 0][..], &pages].concat(), u64::from(cdb[4]))
            }
            Kind::ModeSense10 => {
                let pages = self.mode_pages(cdb[2]);
                let length = u8::try_from(pages.len() + 6).unwrap();
                ([&[0, length, 0, 0x10, 0, 0, 0, 0][..], &pages].concat(), number(&cdb[7..9]))
            }
            _ => {
                let waiting = &mut self.sessions[task.session].attentions[task.unit];
                let first = (!waiting.is_empty()).then(|| waiting.remove(0));
                let none = Sense { key: key::NO_SENSE, asc: 0, ascq: 0 };
                let sense =
                    first.map_or(none, |a| Sense { key: key::UNIT_ATTENTION, asc: a.code.0, ascq: a.code.1 });
                (sense.to_fixed().to_vec(), u64::from(cdb[4]))
            }
        };
        data.truncate(usize::try_from(allocation).unwrap());
        Outcome::Data(data)
    }

    fn inquiry(&self, unit: usize, session: usize, cdb: &[u8]) -> Option<Vec<u8>> {
        let identity = self.units[unit].disk.identity;
        match (cdb[1] & 1, cdb[2]) {
            (0, _) => {
                let (qualifier, access) = self.inquiry_access(unit, session);
                let mut data = vec![qualifier << 5 | self.persona.device_type, 0, 6, 2, 31, access, 0, 0];
                data[7] = u8::from(self.persona.control.is_some()) << 1;
                data.extend_from_slice(
                    format!("{:8}{:16}1.00", self.persona.vendor, self.persona.product).as_bytes(),
                );
                Some(data)
            }
            (_, 0x00) => Some(vec![0, 0, 0, 3, 0x00, 0x80, 0x83]),
            (_, 0x80) => Some([&[0, 0x80, 0, 16][..], format!("{identity:016x}").as_bytes()].concat()),
            (_, 0x83) => {
                // Ports and port groups are no names of the unit.
                let port = self.port_designators(session);
                let length = u8::try_from(12 + port.len()).unwrap();
                let mut data = vec![0, 0x83, 0, length, 1, 3, 0, 8];
                data.extend_from_slice(&(identity & 0x0fff_ffff_ffff_ffff | 3 << 60).to_be_bytes());
                data.extend_from_slice(&port);
                Some(data)
            }
            _ => None,
        }
    }

    /// The control mode page and the caching page.
    fn mode_pages(&self, asked: u8) -> Vec<u8> {
        let mut pages = Vec::new();
        let wants = |page: u8| matches!(asked & 0x3f, p if p == page || p == 0x3f);
        if wants(0x08) {
            pages.extend_from_slice(&[0x08, 18, u8::from(self.persona.write_cache) << 2]);
            pages.resize(pages.len() + 17, 0);
        }
        if wants(0x0a) {
            let modifier = if self.persona.restricted { 0x00 } else { 0x10 };
            let aborted = u8::from(self.persona.task_aborted_status) << 6;
            let [task_sets, errors, interlock] = self.persona.control.unwrap_or_default();
            let control = [0x0a, 10, task_sets, modifier | errors, interlock, aborted, 0, 0, 0, 0, 0, 0];
            pages.extend_from_slice(&control);
        }
        pages
    }

    /// An answer in the name of a unit that does not exist.
    pub(super) fn no_such_unit(&self, session: usize, command: &ScsiCommand) -> Outcome {
        match Op::parse(&command.cdb.0).kind {
            Kind::Inquiry => {
                let mut data = vec![0; 36];
                data[0] = 0x7f;
                data[4] = 31;
                Outcome::Data(data)
            }
            Kind::ReportLuns => Outcome::Data(self.list_of(session)),
            _ => illegal(0x25),
        }
    }
}
