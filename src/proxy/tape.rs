//! The black box: the latest PDU headers of every connection, for those who ask afterwards what went over the wire.
//!
//! # What is kept
//! Of each PDU in full feature phase: when it came or was queued, which way it went, its basic header segment and the
//! additional ones. Never a data segment, so no data of initiators and no text keys; of logins nothing.
//!
//! # Cost
//! A tape belongs to its connection, and so to the one task of its session: noting a PDU copies some 60 bytes, without a lock,
//! an allocation or a look at the clock. Whoever wants to see tapes asks the session, which copies them.
//!
//! # Bounds
//! A tape has `FIRST` bytes, and grows up to `MOST` as long as all tapes together have grown by no more than was configured.

use super::clock;
use super::incident::Incidents;
use crate::iscsi::pdu::BHS_LEN;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Bytes that every tape has.
const FIRST: usize = 4 << 10;
/// Bytes of a tape, at most: the headers of some 1100 PDUs.
const MOST: usize = 64 << 10;
/// What stands before the header in a record: time, way, length of the header.
const HEAD: usize = 8 + 1 + 2;

/// Which way a PDU went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// From the peer.
    Received,
    /// To it.
    Sent,
}

/// What all tapes share.
#[derive(Debug)]
pub(super) struct BlackBox {
    /// Bytes by which tapes may still grow.
    room: AtomicUsize,
    /// The same moment on both clocks.
    begun: (Instant, SystemTime),
    /// Where incidents are written.
    pub(super) incidents: Option<Incidents>,
}

/// Whose connection it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Label {
    pub(super) target: String,
    pub(super) initiator: String,
    /// The path; none for the initiator's own connection.
    pub(super) path: Option<String>,
}

/// The latest headers of one connection.
#[derive(Debug)]
pub(super) struct Tape {
    label: Label,
    local: SocketAddr,
    peer: SocketAddr,
    /// Records: time in microseconds, way, length and bytes of the header.
    ring: VecDeque<u8>,
    /// Bytes that the ring may hold.
    limit: usize,
    /// Since the black box began, in microseconds.
    now: u64,
    shared: Arc<BlackBox>,
}

/// What was on a tape.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Recording {
    pub(super) label: Label,
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    records: Vec<u8>,
}

/// A header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record<'a> {
    /// Since the black box began, in microseconds.
    pub(super) at: u64,
    pub(super) way: Way,
    /// The basic header segment, and the additional ones.
    pub(super) header: &'a [u8],
}

impl BlackBox {
    /// One whose tapes may grow by so many bytes.
    pub(super) fn new(room: usize, incidents: Option<Incidents>) -> Arc<Self> {
        let begun = (clock::now(), clock::time_of_day());
        Arc::new(Self { room: AtomicUsize::new(room), begun, incidents })
    }

    /// An empty tape for a connection between these two.
    pub(super) fn tape(self: &Arc<Self>, label: Label, local: SocketAddr, peer: SocketAddr) -> Tape {
        let ring = VecDeque::with_capacity(FIRST);
        Tape { label, local, peer, ring, limit: FIRST, now: 0, shared: Arc::clone(self) }
    }

    /// When a record was made.
    pub(super) fn time_of(&self, at: u64) -> SystemTime {
        self.begun.1 + Duration::from_micros(at)
    }

    fn take(&self, bytes: usize) -> bool {
        let less = |room: usize| room.checked_sub(bytes);
        self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

impl Tape {
    /// Tells the time for what is noted from now on.
    pub(super) fn tick(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.shared.begun.0);
        self.now = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    }

    /// Notes a PDU.
    pub(super) fn note(&mut self, way: Way, header: &[u8; BHS_LEN], ahs: &[u8]) {
        let length = BHS_LEN + ahs.len();
        while self.ring.len() + HEAD + length > self.limit {
            if !self.grow() && !self.forget_oldest() {
                return;
            }
        }
        let [low, high] = u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes();
        self.ring.extend(&self.now.to_le_bytes());
        self.ring.extend(&[way as u8, low, high]);
        self.ring.extend(header);
        self.ring.extend(ahs);
    }

    /// Doubles the tape; false if that may not be.
    fn grow(&mut self) -> bool {
        if self.limit >= MOST || !self.shared.take(self.limit) {
            return false;
        }
        self.limit *= 2;
        self.ring.reserve_exact(self.limit - self.ring.len());
        true
    }

    /// False if there is none.
    fn forget_oldest(&mut self) -> bool {
        let (Some(low), Some(high)) = (self.ring.get(HEAD - 2), self.ring.get(HEAD - 1)) else {
            return false;
        };
        let end = HEAD + usize::from(u16::from_le_bytes([*low, *high]));
        self.ring.drain(..end.min(self.ring.len()));
        true
    }

    /// Its path; none for the initiator's connection.
    pub(super) fn path(&self) -> Option<&str> {
        self.label.path.as_deref()
    }

    /// What is on it.
    pub(super) fn recording(&self) -> Recording {
        let (front, back) = self.ring.as_slices();
        let records = [front, back].concat();
        Recording { label: self.label.clone(), local: self.local, peer: self.peer, records }
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        self.shared.room.fetch_add(self.limit - FIRST, Ordering::Relaxed);
    }
}

impl Recording {
    /// What was noted, oldest first.
    pub(super) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut rest = self.records.as_slice();
        std::iter::from_fn(move || {
            let (at, after) = rest.split_first_chunk()?;
            let ([way, low, high], after) = after.split_first_chunk()?;
            let length = usize::from(u16::from_le_bytes([*low, *high]));
            let (header, after) = after.split_at_checked(length)?;
            rest = after;
            let way = if *way == Way::Sent as u8 { Way::Sent } else { Way::Received };
            Some(Record { at: u64::from_le_bytes(*at), way, header })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tape(shared: &Arc<BlackBox>) -> Tape {
        let label = Label { target: "t".to_owned(), initiator: "i".to_owned(), path: None };
        let address = SocketAddr::from(([127, 0, 0, 1], 3260));
        shared.tape(label, address, address)
    }

    /// Notes so many PDUs, each with its number in its header and with `ahs` behind it.
    fn note(tape: &mut Tape, numbers: std::ops::Range<u32>, ahs: &[u8]) {
        for number in numbers {
            let mut header = [0; BHS_LEN];
            header[16..20].copy_from_slice(&number.to_be_bytes());
            let way = if number % 2 == 0 { Way::Sent } else { Way::Received };
            tape.note(way, &header, ahs);
        }
    }

    fn numbers(tape: &Tape) -> Vec<u32> {
        let recording = tape.recording();
        let number = |record: Record<'_>| u32::from_be_bytes(*record.header[16..].first_chunk().unwrap());
        recording.records().map(number).collect()
    }

    #[test]
    fn the_latest_are_kept_in_order_and_no_more_than_there_is_room_for() {
        let shared = BlackBox::new(1 << 20, None);
        let mut tape = tape(&shared);
        note(&mut tape, 0..5000, &[]);
        let kept = numbers(&tape);
        assert_eq!(kept.len(), MOST / (HEAD + BHS_LEN));
        assert!(
            kept.iter().zip(&kept[1..]).all(|(one, next)| one + 1 == *next) && kept.last() == Some(&4999)
        );
        assert!(tape.ring.capacity() <= MOST);
        note(&mut tape, 5000..5200, &[7; 1020]);
        let recording = tape.recording();
        let last = recording.records().last().unwrap();
        assert_eq!((last.header.len(), last.header[BHS_LEN], last.way), (BHS_LEN + 1020, 7, Way::Received));
        assert!(tape.ring.len() <= MOST);
    }

    #[test]
    fn all_tapes_together_grow_by_what_was_allowed_and_give_it_back() {
        let shared = BlackBox::new(MOST, None);
        let mut tapes: Vec<_> = (0..10).map(|_| tape(&shared)).collect();
        for tape in &mut tapes {
            note(tape, 0..5000, &[]);
            assert_eq!(numbers(tape).last(), Some(&4999), "the latest are there, however small it is");
        }
        let grown: usize = tapes.iter().map(|tape| tape.limit - FIRST).sum();
        assert!(grown > MOST / 2 && grown <= MOST, "{grown}");
        drop(tapes);
        assert_eq!(shared.room.load(Ordering::Relaxed), MOST);
    }

    #[test]
    fn each_record_has_its_time_and_way() {
        let shared = BlackBox::new(0, None);
        let mut tape = tape(&shared);
        for later in 0..3 {
            tape.tick(shared.begun.0 + Duration::from_micros(later));
            note(&mut tape, 0..1, &[]);
        }
        let recording = tape.recording();
        let told: Vec<_> = recording.records().map(|record| (record.at, record.way)).collect();
        assert_eq!(told, [(0, Way::Sent), (1, Way::Sent), (2, Way::Sent)]);
        assert_eq!(shared.time_of(2), shared.begun.1 + Duration::from_micros(2));
    }
}
