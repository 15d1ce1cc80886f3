//! Room for so many at a time, where the number may change meanwhile: nobody who is in is put out.

use super::rate::source;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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

/// Logins under way: so many at a time, and so many of them from one address, that nobody takes all places.
#[derive(Debug)]
pub(super) struct Logins {
    places: Arc<Semaphore>,
    most_of_one: u32,
    by_address: Mutex<BTreeMap<IpAddr, Room>>,
}

/// A login's place, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _among_all: OwnedSemaphorePermit,
    _among_its_own: Option<Seat>,
}

impl Logins {
    pub(super) fn new(most: u32, most_of_one: u32) -> Self {
        let places = Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(usize::MAX)));
        Self { places, most_of_one, by_address: Mutex::default() }
    }

    /// A place for a connection from this address; where it is not the initiator's, only the whole is counted.
    pub(super) fn take(&self, from: Option<IpAddr>) -> Option<Place> {
        let among_its_own = match from {
            Some(from) => {
                let mut rooms = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
                rooms.retain(|_, room| room.0.load(Ordering::Acquire) > 0);
                Some(rooms.entry(source(from)).or_default().take(self.most_of_one)?)
            }
            None => None,
        };
        let among_all = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Place { _among_all: among_all, _among_its_own: among_its_own })
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

    #[test]
    fn nobody_takes_all_places() {
        let logins = Logins::new(5, 3);
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|address| Some(address.parse().unwrap()));
        let mut taken: Vec<_> = (0..3).map(|_| logins.take(one).unwrap()).collect();
        assert!(logins.take(one).is_none());
        assert!(logins.take(Some("::ffff:10.0.0.1".parse().unwrap())).is_none(), "the same address");
        taken.push(logins.take(other).unwrap());
        taken.push(logins.take(None).unwrap());
        assert!(logins.take(other).is_none() && logins.take(None).is_none(), "all are taken");
        taken.remove(0);
        assert!(logins.take(one).is_some());
        taken.clear();
        for n in 0..100_u32 {
            assert!(logins.take(Some(IpAddr::V4(n.into()))).is_some());
        }
        assert!(logins.by_address.lock().unwrap().len() <= 1, "who is not here is not remembered");
    }
}
