//! Room for so many at a time, where the number may change meanwhile: nobody who is in is put out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// How many are in.
#[derive(Clone, Debug, Default)]
pub(super) struct Room(Arc<AtomicU32>);

/// A place in a room, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Seat(Arc<AtomicU32>);

impl Room {
    /// A place, if fewer than `most` are taken.
    pub(super) fn take(&self, most: u32) -> Option<Seat> {
        let more = |taken| (taken < most).then_some(taken + 1);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Seat(Arc::clone(&self.0)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_room_is_left_before_it_is_entered() {
        let room = Room::default();
        let mut seats: Vec<_> = (0..3).map(|_| room.take(3).unwrap()).collect();
        assert!(room.take(3).is_none() && room.take(2).is_none());
        seats.truncate(2);
        assert!(room.take(2).is_none());
        seats.pop();
        let _second = room.take(2).unwrap();
        assert!(room.take(2).is_none());
        assert!(room.take(3).is_some(), "a larger one is");
    }
}
