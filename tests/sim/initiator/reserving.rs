//! Reservation commands of the model initiator, and its questions for what is registered.

use super::{Build, Initiator, Kind};
use crate::oracle::{Effect, Span};
use braid::iscsi::TaskAttribute;
use bytes::Bytes;
use std::time::Instant;

/// Reservation commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reserving {
    Reserve6,
    Release6,
    Register,
    Hold(u8),
    Unhold(u8),
    Clear,
    /// Registers under this key, or (0) no longer.
    Rekey(u64),
    Preempt,
}

impl Initiator {
    pub(super) fn reserve(&mut self, now: Instant) {
        let unit = self.random.below(self.scenario.units);
        let what = if self.random.once_in(2) { Reserving::Reserve6 } else { Reserving::Release6 };
        let mut cdb = [0; 16];
        cdb[0] = if what == Reserving::Reserve6 { 0x16 } else { 0x17 };
        let build = Build { cdb, data: Bytes::new(), reads: 0 };
        let span = Span { unit, lba: 0, blocks: 0 };
        self.send(Kind::Reserve(what), span, Effect::Nothing, TaskAttribute::Simple, build, now);
    }

    pub(super) fn persistent(&mut self, now: Instant) {
        let unit = self.random.below(self.scenario.units);
        let kind = self.random.pick(&[1, 3, 5, 6, 7, 8]);
        let what = self.random.pick(&[
            Reserving::Register,
            Reserving::Register,
            Reserving::Hold(kind),
            Reserving::Unhold(kind),
            Reserving::Clear,
        ]);
        let (action, key, new, kind) = match what {
            Reserving::Register => (6, 0, 0x42, 0),
            Reserving::Hold(kind) => (1, 0x42, 0, kind),
            Reserving::Unhold(kind) => (2, 0x42, 0, kind),
            _ => (3, 0x42, 0, 0),
        };
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[2], cdb[8]) = (0x5f, action, kind, 24);
        let mut data = vec![0; 24];
        (data[7], data[15]) = (key, new);
        let build = Build { cdb, data: data.into(), reads: 0 };
        let span = Span { unit, lba: 0, blocks: 0 };
        self.send(Kind::Reserve(what), span, Effect::Nothing, TaskAttribute::Simple, build, now);
    }

    /// Persistent reservations in earnest: keys that change, preemptions, questions.
    pub(super) fn registering(&mut self, now: Instant) {
        let unit = self.random.below(self.scenario.units);
        let span = Span { unit, lba: 0, blocks: 0 };
        let own = self.keys[unit];
        let type_ = self.random.pick(&[1, 3, 5, 5, 6, 7, 8]);
        let fresh = self.random.pick(&[0x42, 0x42, 0x43]);
        let (what, action, key, service) = match self.random.below(12) {
            0..=3 => return self.ask(span, now),
            4 => (Reserving::Rekey(fresh), 6, 0, fresh),
            5 | 6 if own == 0 => (Reserving::Rekey(fresh), 0, 0, fresh),
            5 => (Reserving::Rekey(fresh), 0, own, fresh),
            6 => (Reserving::Rekey(0), 0, own, 0),
            7 | 8 => (Reserving::Hold(type_), 1, own, 0),
            9 => (Reserving::Unhold(type_), 2, own, 0),
            10 if self.random.once_in(3) => (Reserving::Clear, 3, own, 0),
            _ => (Reserving::Preempt, self.random.pick(&[4, 5]), own, self.random.pick(&[own, 0x77, 0])),
        };
        let kind = if matches!(action, 1 | 2 | 4 | 5) { type_ } else { 0 };
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[2], cdb[8]) = (0x5f, action, kind, 24);
        let mut data = [key.to_be_bytes(), service.to_be_bytes()].concat();
        data.resize(24, 0);
        let build = Build { cdb, data: data.into(), reads: 0 };
        self.send(Kind::Reserve(what), span, Effect::Nothing, TaskAttribute::Simple, build, now);
    }

    fn ask(&mut self, span: Span, now: Instant) {
        let full = self.random.once_in(2);
        let allocation = self.random.pick(&[4, 8, 16, 24, 64, 255, 255, 1024]);
        let mut cdb = [0; 16];
        (cdb[0], cdb[1]) = (0x5e, if full { 3 } else { 0 });
        cdb[7..9].copy_from_slice(&u16::try_from(allocation).unwrap().to_be_bytes());
        let reads = allocation + self.random.pick(&[0, 0, 8]);
        let build = Build { cdb, data: Bytes::new(), reads };
        let kind = Kind::Ask { full, allocation };
        self.send(kind, span, Effect::Nothing, TaskAttribute::Simple, build, now);
    }
}
