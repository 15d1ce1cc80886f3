//! The commands it sends: what they are, what they carry, and how their data go.

use super::{BLOCK, Build, FIRST_BURST, Initiator, Kind, Pending, SEGMENT, lun, stamped};
use crate::oracle::{Effect, Span, Stamp};
use braid::iscsi::{Cdb, DataOut, Itt, Lun, NopOut, Payload, Pdu, ScsiCommand, TaskAttribute, Ttt};
use bytes::Bytes;
use std::time::Instant;

impl Initiator {
    pub(super) fn issue(&mut self, now: Instant) {
        let mix = self.scenario.mix;
        let parts = [
            mix.read,
            mix.write,
            mix.fua,
            mix.flush,
            mix.write_same,
            mix.unmap,
            mix.compare_and_write,
            mix.vendor,
            mix.reserve,
            mix.persistent,
            mix.query,
            mix.mode_select,
            mix.ping,
            mix.registering,
        ];
        let mut at = self.random.below(parts.iter().sum());
        let kind = parts.iter().position(|part| {
            let here = at < *part;
            at = at.saturating_sub(*part);
            here
        });
        match kind.unwrap() {
            0 => self.read(now),
            1 => self.write(false, now),
            2 => self.write(true, now),
            3 => self.flush(now),
            4 => self.write_same(now),
            5 => self.unmap(now),
            6 => self.swap(now),
            7 => self.vendor(now),
            8 => self.reserve(now),
            9 => self.persistent(now),
            10 => self.query(now),
            11 => self.mode_select(now),
            13 => self.registering(now),
            _ => self.ping(),
        }
    }

    pub(super) fn span(&mut self) -> Span {
        let unit = self.random.below(self.scenario.units);
        let blocks = 1 + self.random.below(self.scenario.longest.min(self.scenario.blocks));
        let lba = self.random.below(self.scenario.blocks - blocks + 1);
        Span { unit, lba, blocks }
    }

    pub(super) fn stamp(&mut self) -> Stamp {
        self.next_stamp += 1;
        self.next_stamp
    }

    fn attribute(&mut self) -> TaskAttribute {
        let (ordered, head) = (self.scenario.mix.ordered, self.scenario.mix.head_of_queue);
        if ordered > 0 && self.random.once_in(ordered) {
            TaskAttribute::Ordered
        } else if head > 0 && self.random.once_in(head) {
            TaskAttribute::HeadOfQueue
        } else {
            TaskAttribute::Simple
        }
    }

    fn read(&mut self, now: Instant) {
        let (span, attribute) = (self.span(), self.attribute());
        let build = Build { cdb: block_cdb(0x28, span), data: Bytes::new(), reads: span.blocks * BLOCK };
        self.send(Kind::Read, span, Effect::Read, attribute, build, now);
    }

    /// Reads a whole unit, at the end.
    pub(crate) fn read_all(&mut self, unit: usize, now: Instant) {
        let span = Span { unit, lba: 0, blocks: self.scenario.blocks };
        let build = Build { cdb: block_cdb(0x28, span), data: Bytes::new(), reads: span.blocks * BLOCK };
        self.send(Kind::Read, span, Effect::Read, TaskAttribute::Simple, build, now);
    }

    /// Asks whether a unit has anything left to say.
    pub(crate) fn ready(&mut self, unit: usize, now: Instant) {
        let span = Span { unit, lba: 0, blocks: 0 };
        let build = Build { cdb: [0; 16], data: Bytes::new(), reads: 0 };
        self.send(Kind::Ready, span, Effect::Nothing, TaskAttribute::Simple, build, now);
    }

    fn write(&mut self, fua: bool, now: Instant) {
        let (span, attribute, stamp) = (self.span(), self.attribute(), self.stamp());
        let mut cdb = block_cdb(0x2a, span);
        cdb[1] = if fua { 8 } else { 0 };
        let build = Build { cdb, data: stamped(stamp, span.blocks), reads: 0 };
        self.send(Kind::Write, span, Effect::Write { stamp, fua }, attribute, build, now);
    }

    fn write_same(&mut self, now: Instant) {
        let (span, stamp) = (self.span(), self.stamp());
        let build = Build { cdb: block_cdb(0x41, span), data: stamped(stamp, 1), reads: 0 };
        let effect = Effect::Write { stamp, fua: false };
        self.send(Kind::Write, span, effect, TaskAttribute::Simple, build, now);
    }

    fn unmap(&mut self, now: Instant) {
        let span = self.span();
        let mut data = vec![0; 24];
        data[1] = 22;
        data[3] = 16;
        data[15] = u8::try_from(span.lba).unwrap();
        data[19] = u8::try_from(span.blocks).unwrap();
        let mut cdb = [0; 16];
        (cdb[0], cdb[8]) = (0x42, 24);
        let build = Build { cdb, data: data.into(), reads: 0 };
        let effect = Effect::Write { stamp: 0, fua: false };
        self.send(Kind::Write, span, effect, TaskAttribute::Simple, build, now);
    }

    fn flush(&mut self, now: Instant) {
        let unit = self.random.below(self.scenario.units);
        let opcode = self.random.pick(&[0x35, 0x91]);
        let (span, cdb) = self.flush_range(unit, opcode);
        let build = Build { cdb, data: Bytes::new(), reads: 0 };
        let attribute = if self.attribute() == TaskAttribute::Ordered {
            TaskAttribute::Ordered
        } else {
            TaskAttribute::Simple
        };
        self.send(Kind::Flush, span, Effect::Flush, attribute, build, now);
    }

    /// What a flush covers, and its CDB: all blocks, or some, or those from one on to the end.
    fn flush_range(&mut self, unit: usize, opcode: u8) -> (Span, [u8; 16]) {
        let all = self.scenario.blocks;
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        if !self.scenario.order.flush_ranges || self.extra.once_in(4) {
            return (Span { unit, lba: 0, blocks: all }, cdb);
        }
        let lba = self.extra.below(all);
        let count = self.extra.below(all - lba + 1);
        let (lba_ends, count_ends) = if opcode == 0x35 { (5, 8) } else { (9, 13) };
        (cdb[lba_ends], cdb[count_ends]) = (u8::try_from(lba).unwrap(), u8::try_from(count).unwrap());
        self.coverage.hit(if count == 0 { "flush to the end" } else { "flush of a range" });
        (Span { unit, lba, blocks: if count == 0 { all - lba } else { count } }, cdb)
    }

    fn swap(&mut self, now: Instant) {
        let span = Span { blocks: 1, ..self.span() };
        let certain = self.oracle.certain(span.unit, span.lba);
        let compare = if self.random.once_in(5) { 0 } else { certain.unwrap_or(0) };
        let stamp = self.stamp();
        let mut cdb = [0; 16];
        (cdb[0], cdb[9], cdb[13]) = (0x89, u8::try_from(span.lba).unwrap(), 1);
        let data = [stamped(compare, 1), stamped(stamp, 1)].concat().into();
        let build = Build { cdb, data, reads: 0 };
        self.send(
            Kind::Swap { stamp },
            span,
            Effect::Swap { stamp, compare },
            TaskAttribute::Simple,
            build,
            now,
        );
    }

    fn vendor(&mut self, now: Instant) {
        let (unit, stamp) = (self.random.below(self.scenario.units), self.stamp());
        let mut cdb = [0; 16];
        cdb[0] = 0xc1;
        let build = Build { cdb, data: stamped(stamp, 1), reads: 0 };
        let span = Span { unit, lba: 0, blocks: 0 };
        self.send(Kind::Vendor { stamp }, span, Effect::Nothing, TaskAttribute::Simple, build, now);
    }

    fn query(&mut self, now: Instant) {
        let unit = self.random.below(self.scenario.units);
        let mut cdb = [0; 16];
        let (kind, reads) = match self.random.below(4) {
            0 => return self.ready(unit, now),
            1 => {
                (cdb[0], cdb[4]) = (0x12, 36);
                (Kind::Inquiry, 36)
            }
            2 => {
                (cdb[0], cdb[1], cdb[13]) = (0x9e, 0x10, 32);
                (Kind::Query, 32)
            }
            _ => {
                (cdb[0], cdb[2], cdb[4]) = (0x1a, 0x0a, 24);
                (Kind::Query, 24)
            }
        };
        let span = Span { unit, lba: 0, blocks: 0 };
        let build = Build { cdb, data: Bytes::new(), reads };
        self.send(kind, span, Effect::Nothing, TaskAttribute::Simple, build, now);
    }

    fn mode_select(&mut self, now: Instant) {
        let unit = self.random.below(self.scenario.units);
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[4]) = (0x15, 0x10, 24);
        let mut data = vec![0; 24];
        (data[4], data[5]) = (0x08, 0x12);
        let span = Span { unit, lba: 0, blocks: 0 };
        let build = Build { cdb, data: data.into(), reads: 0 };
        self.send(Kind::ModeSelect, span, Effect::Nothing, TaskAttribute::Simple, build, now);
    }

    pub(super) fn tag(&mut self) -> u32 {
        if self.scenario.reuse_tags {
            let free = |tag: &u32| {
                !self.pending.contains_key(tag)
                    && !self.functions.contains_key(tag)
                    && !self.pings.contains(tag)
                    && !self.is_logout(*tag)
            };
            return (0..).find(free).unwrap();
        }
        self.next_tag += 1;
        self.next_tag
    }

    fn ping(&mut self) {
        let tag = self.tag();
        let immediate = self.random.once_in(2);
        self.pings.push(tag);
        let nop = NopOut {
            immediate,
            itt: Itt(tag),
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            data: Payload::from(b"ping".to_vec()),
            ..NopOut::default()
        };
        if !immediate {
            self.cmd_sn = self.cmd_sn.next();
        }
        self.out.push(Pdu::NopOut(nop));
        self.sent_from(tag, self.out.len() - 1);
    }

    /// Remembers what was sent under a tag, from this place on.
    fn sent_from(&mut self, tag: u32, from: usize) {
        if let Some(reception) = &mut self.reception {
            reception.sends(tag, &self.out[from..]);
        }
    }

    pub(super) fn send(
        &mut self,
        kind: Kind,
        span: Span,
        effect: Effect,
        attribute: TaskAttribute,
        build: Build,
        now: Instant,
    ) {
        let tag = self.tag();
        let Build { mut cdb, data, reads } = build;
        let kind = kind.on_device(self.scenario.persona.device_type, effect);
        let plain = matches!(cdb[0], 0x28 | 0x2a);
        let naca = self.scenario.order.naca && plain && self.extra.once_in(16);
        if naca {
            cdb[9] |= 4;
            self.coverage.hit("command with NACA");
        }
        let op = self.oracle.issue(span, effect, attribute == TaskAttribute::HeadOfQueue);
        let pending = Pending {
            op,
            unit: span.unit,
            kind,
            cmd_sn: self.cmd_sn,
            data: data.clone(),
            reads,
            got: Vec::new(),
            attribute,
            naca,
            excused: false,
            issued: now,
        };
        self.pending.insert(tag, pending);
        let length = if reads > 0 { reads } else { data.len() };
        let first = data.len().min(FIRST_BURST as usize);
        let immediate = if self.params.immediate_data {
            (self.random.below(3) * BLOCK).min(first).min(SEGMENT)
        } else {
            0
        };
        let unsolicited = !self.params.initial_r2t && immediate < first && self.random.once_in(2);
        let from = self.out.len();
        self.out.push(Pdu::ScsiCommand(ScsiCommand {
            final_: !unsolicited,
            read: reads > 0,
            write: !data.is_empty(),
            attribute,
            lun: lun(span.unit),
            itt: Itt(tag),
            expected_length: u32::try_from(length).unwrap(),
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            cdb: Cdb(cdb.into_iter().collect()),
            data: Payload::from(data.slice(..immediate)),
            ..ScsiCommand::default()
        }));
        self.cmd_sn = self.cmd_sn.next();
        if unsolicited {
            self.send_data(tag, Ttt::NONE, Lun(0), &data, immediate..first);
        }
        self.sent_from(tag, from);
    }

    pub(super) fn send_data(
        &mut self,
        tag: u32,
        ttt: Ttt,
        lun: Lun,
        data: &Bytes,
        range: std::ops::Range<usize>,
    ) {
        for (data_sn, at) in range.clone().step_by(SEGMENT).enumerate() {
            let end = range.end.min(at + SEGMENT);
            self.out.push(Pdu::DataOut(DataOut {
                final_: end == range.end,
                lun,
                itt: Itt(tag),
                ttt,
                exp_stat_sn: self.exp_stat_sn,
                data_sn: u32::try_from(data_sn).unwrap(),
                buffer_offset: u32::try_from(at).unwrap(),
                data: Payload::from(data.slice(at..end)),
            }));
        }
    }
}

/// READ(10), WRITE(10), WRITE SAME(10).
fn block_cdb(opcode: u8, span: Span) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[5] = u8::try_from(span.lba).unwrap();
    cdb[8] = u8::try_from(span.blocks).unwrap();
    cdb
}
