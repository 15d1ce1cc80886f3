//! Data of both directions, cut anew for the receiver (R126, R127).
//!
//! Write data is kept from arrival to response, as shared slices: it answers the target's R2Ts, and the whole command
//! again if its path is lost. Read data is passed on as it comes; when a read moves to another path, what the initiator
//! already has is skipped, so that offsets and DataSN go on without a break.

use crate::iscsi::{DataOut, Payload, Ttt};
use std::collections::VecDeque;

/// An R2T sent to the initiator.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) ttt: Ttt,
    pub(super) next: u32,
    pub(super) end: u32,
    data_sn: u32,
}

/// Write data of one task, received in order (DataPDUInOrder and DataSequenceInOrder are Yes downstream).
///
/// Invariant: `segments` cover exactly `0..received`.
#[derive(Debug, Default)]
pub(super) struct WriteBuffer {
    segments: Vec<(u32, Payload)>,
    received: u32,
    /// Unsolicited Data-Out PDUs still follow.
    unsolicited: bool,
    unsolicited_sn: u32,
    asked: VecDeque<Asked>,
    /// First byte not asked for yet.
    solicited_to: u32,
    /// Something of the sequence under way was lost: the rest of it is not taken.
    lost: bool,
    losses: u32,
    /// Sequences that were given up: what still comes of them is of no use.
    given_up: Vec<Ttt>,
    /// Nothing more is asked for.
    hopeless: bool,
}

/// Sequences of a task that may be lost; an initiator that loses more is beyond help.
const MOST_LOSSES: u32 = 64;

/// Why Data-Out is refused.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(super) enum DataFault {
    /// No R2T with that tag is outstanding, or unsolicited data was not announced.
    UnknownTransfer,
    /// Wrong DataSN, offset or length: data is missing or too much (R124).
    OutOfSequence,
}

impl WriteBuffer {
    /// Takes the immediate data of a command; `more` unsolicited data follows.
    pub(super) fn begin(&mut self, immediate: Payload, more: bool) {
        self.push(immediate);
        self.unsolicited = more;
        self.solicited_to = self.received;
    }

    fn push(&mut self, data: Payload) {
        if data.is_empty() {
            return;
        }
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.segments.push((self.received, data));
        self.received = self.received.saturating_add(length);
    }

    /// Takes a Data-Out PDU of a command of `expected` bytes; `first_burst` limits unsolicited data. Gives the bytes taken:
    /// none behind a hole, where `recovers` says that what was lost may be asked for again.
    pub(super) fn accept(
        &mut self,
        pdu: &DataOut,
        expected: u32,
        first_burst: u32,
        recovers: bool,
    ) -> Result<u32, DataFault> {
        if self.given_up.contains(&pdu.ttt) {
            return Ok(0);
        }
        let length = u32::try_from(pdu.data.len()).map_err(|_| DataFault::OutOfSequence)?;
        let end = pdu.buffer_offset.checked_add(length).ok_or(DataFault::OutOfSequence)?;
        let behind_hole = self.lost || self.next_sn(pdu.ttt).is_some_and(|next| pdu.data_sn > next);
        if recovers && behind_hole {
            let known = self.lose(pdu.ttt, pdu.final_);
            return match known {
                true if self.losses > MOST_LOSSES => Err(DataFault::OutOfSequence),
                true => Ok(0),
                false => Err(DataFault::UnknownTransfer),
            };
        }
        if pdu.buffer_offset != self.received {
            return Err(DataFault::OutOfSequence);
        }
        if pdu.ttt == Ttt::NONE {
            self.check_unsolicited(pdu, end, expected.min(first_burst))?;
        } else {
            self.check_solicited(pdu, end)?;
        }
        self.push(pdu.data.clone());
        self.solicited_to = self.solicited_to.max(self.received);
        Ok(length)
    }

    /// The DataSN that comes next in this sequence, if it is under way.
    fn next_sn(&self, ttt: Ttt) -> Option<u32> {
        let solicited = self.asked.front().filter(|asked| asked.ttt == ttt).map(|asked| asked.data_sn);
        if ttt == Ttt::NONE { self.unsolicited.then_some(self.unsolicited_sn) } else { solicited }
    }

    /// Something of a sequence was lost. Once it has ended, [`WriteBuffer::want`] asks for all that is missing. False if no such
    /// sequence is under way.
    pub(super) fn lose(&mut self, ttt: Ttt, final_: bool) -> bool {
        if self.next_sn(ttt).is_none() {
            return false;
        }
        self.losses += u32::from(!self.lost);
        self.lost = !final_;
        if final_ {
            if ttt == Ttt::NONE {
                self.unsolicited = false;
            } else {
                self.asked.pop_front();
            }
            self.solicited_to = self.received;
        }
        true
    }

    /// The sequence under way does not go on: [`WriteBuffer::want`] asks for all that is missing, or for nothing any more if that
    /// is hopeless.
    pub(super) fn give_up(&mut self, hopeless: bool) {
        self.hopeless = hopeless;
        let solicited = self.asked.front().map(|asked| asked.ttt);
        if let Some(ttt) = self.unsolicited.then_some(Ttt::NONE).or(solicited) {
            self.lose(ttt, true);
            self.given_up.push(ttt);
        }
    }

    /// Whether more was lost than anybody asks for again.
    pub(super) fn is_beyond_help(&self) -> bool {
        self.losses >= MOST_LOSSES
    }

    fn check_unsolicited(&mut self, pdu: &DataOut, end: u32, limit: u32) -> Result<(), DataFault> {
        if !self.unsolicited {
            return Err(DataFault::UnknownTransfer);
        }
        // An unsolicited burst is FirstBurstLength or the whole transfer, never more or less (R121).
        if pdu.data_sn != self.unsolicited_sn || end > limit || (pdu.final_ && end != limit) {
            return Err(DataFault::OutOfSequence);
        }
        self.unsolicited_sn += 1;
        self.unsolicited = !pdu.final_;
        Ok(())
    }

    fn check_solicited(&mut self, pdu: &DataOut, end: u32) -> Result<(), DataFault> {
        let asked = self.asked.front_mut().filter(|a| a.ttt == pdu.ttt).ok_or(DataFault::UnknownTransfer)?;
        let complete = end == asked.end;
        if pdu.data_sn != asked.data_sn || end > asked.end || pdu.final_ != complete {
            return Err(DataFault::OutOfSequence);
        }
        asked.data_sn += 1;
        asked.next = end;
        if complete {
            self.asked.pop_front();
        }
        Ok(())
    }

    /// The next range to ask for, if asking is due: at most `max_burst` bytes and `outstanding` R2Ts at a time.
    pub(super) fn want(&self, expected: u32, max_burst: u32, outstanding: usize) -> Option<(u32, u32)> {
        let all = self.solicited_to >= expected || self.hopeless;
        if self.unsolicited || self.asked.len() >= outstanding || all {
            return None;
        }
        Some((self.solicited_to, (expected - self.solicited_to).min(max_burst)))
    }

    /// Notes an R2T.
    pub(super) fn ask(&mut self, ttt: Ttt, offset: u32, length: u32) {
        self.asked.push_back(Asked { ttt, next: offset, end: offset + length, data_sn: 0 });
        self.solicited_to = offset + length;
    }

    /// Whether data asked for or announced is still to come.
    pub(super) fn is_due(&self) -> bool {
        self.unsolicited || !self.asked.is_empty()
    }

    /// Bytes received without a gap from the start.
    pub(super) fn received(&self) -> u32 {
        self.received
    }

    /// The bytes `offset..offset + length`, cut to what was received; shared.
    pub(super) fn slice(&self, offset: u32, length: u32) -> Payload {
        let mut out = Payload::new();
        let end = offset.saturating_add(length).min(self.received);
        let first = self.segments.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        for (start, data) in self.segments.iter().skip(first) {
            if *start >= end {
                break;
            }
            let from = offset.max(*start);
            out.append(&data.slice((from - start) as usize, (end - from) as usize));
        }
        out
    }
}

/// How far a read has come at the initiator.
#[derive(Debug, Default)]
pub(super) struct ReadProgress {
    /// Bytes passed on, from the start without a gap.
    pub(super) delivered: u32,
    /// Data-In PDUs and R2Ts sent: the next DataSN or R2TSN, which are one count (R126).
    pub(super) data_sn: u32,
    /// Data-In PDUs sent: what ExpDataSN tells, which leaves R2Ts out (R136).
    pub(super) data_ins: u32,
    /// Bytes in the current sequence (R127).
    burst: u32,
}

/// One Data-In PDU to be sent to the initiator.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) offset: u32,
    pub(super) data_sn: u32,
    pub(super) final_: bool,
    /// It is the last of a sequence of MaxBurstLength.
    pub(super) full: bool,
    pub(super) data: Payload,
}

impl Piece {
    /// The first byte behind it.
    pub(super) fn end(&self) -> u32 {
        self.offset.saturating_add(u32::try_from(self.data.len()).unwrap_or(u32::MAX))
    }
}

impl ReadProgress {
    /// Cuts data at `offset` into PDUs of at most `segment` bytes and sequences of at most `max_burst`; skips what was
    /// passed on before. `last` ends the sequence (the target ended its own, or all is there).
    pub(super) fn cut(
        &mut self,
        offset: u32,
        data: &Payload,
        segment: u32,
        max_burst: u32,
        last: bool,
        mut emit: impl FnMut(Piece),
    ) {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let end = offset.saturating_add(length);
        while self.delivered < end {
            let take = (end - self.delivered).min(segment).min(max_burst - self.burst);
            let piece = data.slice((self.delivered - offset) as usize, take as usize);
            let at = self.delivered;
            self.delivered += take;
            self.burst += take;
            let full = self.burst == max_burst;
            let final_ = full || (last && self.delivered == end);
            if final_ {
                self.burst = 0;
            }
            emit(Piece { offset: at, data_sn: self.data_sn, final_, full, data: piece });
            self.data_sn += 1;
            self.data_ins += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(ttt: u32, data_sn: u32, offset: u32, len: usize, final_: bool) -> DataOut {
        DataOut {
            final_,
            ttt: Ttt(ttt),
            data_sn,
            buffer_offset: offset,
            data: Payload::from(vec![u8::try_from(offset % 251).unwrap(); len]),
            ..DataOut::default()
        }
    }

    #[test]
    fn a_write_in_all_three_parts() {
        let mut buffer = WriteBuffer::default();
        buffer.begin(Payload::from(vec![1; 100]), true);
        assert_eq!(buffer.want(1000, 300, 1), None, "unsolicited data first");
        buffer.accept(&out(u32::MAX, 0, 100, 100, false), 1000, 256, false).unwrap();
        buffer.accept(&out(u32::MAX, 1, 200, 56, true), 1000, 256, false).unwrap();
        assert_eq!(buffer.want(1000, 300, 1), Some((256, 300)));
        buffer.ask(Ttt(5), 256, 300);
        assert_eq!(buffer.want(1000, 300, 1), None, "one R2T at a time");
        buffer.accept(&out(5, 0, 256, 300, true), 1000, 256, false).unwrap();
        assert_eq!(buffer.want(1000, 600, 1), Some((556, 444)));
        assert_eq!(buffer.received(), 556);
        assert_eq!(buffer.slice(90, 20).contiguous()[..10], [1; 10]);
        assert_eq!(buffer.slice(90, 20).contiguous()[10..], [100; 10]);
        assert_eq!(buffer.slice(500, 500).len(), 56);
    }

    #[test]
    fn bad_data_out_is_told_apart() {
        let mut buffer = WriteBuffer::default();
        buffer.begin(Payload::new(), false);
        let unannounced = out(u32::MAX, 0, 0, 10, true);
        assert_eq!(buffer.accept(&unannounced, 100, 64, false), Err(DataFault::UnknownTransfer));
        buffer.ask(Ttt(1), 0, 100);
        assert_eq!(buffer.accept(&out(2, 0, 0, 10, false), 100, 64, false), Err(DataFault::UnknownTransfer));
        assert_eq!(buffer.accept(&out(1, 1, 0, 10, false), 100, 64, false), Err(DataFault::OutOfSequence));
        assert_eq!(buffer.accept(&out(1, 0, 10, 10, false), 100, 64, false), Err(DataFault::OutOfSequence));
        assert_eq!(buffer.accept(&out(1, 0, 0, 101, true), 100, 64, false), Err(DataFault::OutOfSequence));
        assert_eq!(buffer.accept(&out(1, 0, 0, 99, true), 100, 64, false), Err(DataFault::OutOfSequence));
        assert_eq!(buffer.accept(&out(1, 0, 0, 100, true), 100, 64, false), Ok(100));
    }

    #[test]
    fn what_was_lost_of_a_sequence_is_wanted_again_once_it_has_ended_r177() {
        let mut buffer = WriteBuffer::default();
        buffer.begin(Payload::from(vec![1; 100]), true);
        // The first unsolicited PDU was lost altogether, and what follows is of no use.
        assert_eq!(buffer.accept(&out(u32::MAX, 1, 200, 56, true), 1000, 256, true), Ok(0));
        assert_eq!(buffer.want(1000, 500, 1), Some((100, 500)));
        buffer.ask(Ttt(1), 100, 500);
        assert_eq!(buffer.accept(&out(1, 0, 100, 100, false), 1000, 256, true), Ok(100));
        assert!(buffer.lose(Ttt(1), false) && !buffer.lose(Ttt(2), false) && !buffer.lose(Ttt::NONE, true));
        assert_eq!(buffer.want(1000, 500, 1), None, "not before it has ended");
        assert_eq!(buffer.accept(&out(1, 2, 300, 300, true), 1000, 256, true), Ok(0));
        assert_eq!(
            (buffer.want(1000, 500, 1), buffer.received(), buffer.is_due()),
            (Some((200, 500)), 200, false)
        );
        buffer.ask(Ttt(2), 200, 500);
        assert!(buffer.lose(Ttt(2), true), "the end itself was lost");
        assert_eq!(buffer.want(1000, 800, 1), Some((200, 800)));
        buffer.ask(Ttt(3), 200, 800);
        assert_eq!(buffer.accept(&out(3, 0, 200, 800, true), 1000, 256, true), Ok(800));
        assert_eq!((buffer.want(1000, 800, 1), buffer.slice(0, 1000).len()), (None, 1000));
    }

    #[test]
    fn what_comes_of_a_sequence_that_was_given_up_is_of_no_use_r177() {
        let mut buffer = WriteBuffer::default();
        buffer.begin(Payload::new(), true);
        assert_eq!(buffer.accept(&out(u32::MAX, 0, 0, 100, false), 1000, 256, true), Ok(100));
        buffer.give_up(false);
        assert_eq!(buffer.want(1000, 500, 1), Some((100, 500)));
        buffer.ask(Ttt(1), 100, 500);
        assert_eq!(buffer.accept(&out(u32::MAX, 1, 100, 156, true), 1000, 256, true), Ok(0), "it comes late");
        buffer.give_up(false);
        buffer.ask(Ttt(2), 100, 500);
        for (ttt, taken) in [(1, 0), (2, 500)] {
            assert_eq!(buffer.accept(&out(ttt, 0, 100, 500, true), 1000, 256, true), Ok(taken));
        }
        assert_eq!((buffer.want(1000, 500, 1), buffer.received()), (Some((600, 400)), 600));
        buffer.ask(Ttt(3), 600, 400);
        buffer.give_up(true);
        assert_eq!((buffer.want(1000, 500, 1), buffer.is_due()), (None, false));
    }

    #[test]
    fn an_initiator_that_loses_for_ever_is_given_up() {
        let mut buffer = WriteBuffer::default();
        buffer.begin(Payload::new(), false);
        let lost = (0..=MOST_LOSSES).find(|n| {
            buffer.ask(Ttt(*n), 0, 100);
            buffer.accept(&out(*n, 1, 50, 50, true), 100, 64, true) == Err(DataFault::OutOfSequence)
        });
        assert_eq!(lost, Some(MOST_LOSSES));
    }

    #[test]
    fn a_moved_read_goes_on_where_it_stopped() {
        let mut progress = ReadProgress::default();
        let all: Vec<u8> = (0..200u8).collect();
        let data = Payload::from(all.clone());
        let mut got = Vec::new();
        let mut pieces = Vec::new();
        progress.cut(0, &data.slice(0, 70), 40, 100, false, |p| pieces.push(p));
        // Another path starts over and sends everything again.
        progress.cut(0, &data.slice(0, 50), 40, 100, false, |p| pieces.push(p));
        progress.cut(50, &data.slice(50, 150), 40, 100, true, |p| pieces.push(p));
        for (n, piece) in pieces.iter().enumerate() {
            assert_eq!(piece.data_sn as usize, n);
            assert_eq!(piece.offset as usize, got.len());
            got.extend_from_slice(&piece.data.contiguous());
            assert_eq!(piece.final_, piece.offset as usize + piece.data.len() == 100 || got.len() == 200);
        }
        assert_eq!(got, all);
    }
}
