//! Quirks of peers as they are met: each time counted, and logged once per peer.

use crate::iscsi::quirk::{Quirk, Side};
use crate::login::Negotiated;
use crate::metrics::Metrics;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Lines that are remembered; beyond that there are none, since initiators may choose their names.
const MOST_LINES: usize = 4096;

/// All that was met by this process.
#[derive(Debug)]
pub(super) struct Oddities {
    metrics: Arc<Metrics>,
    logged: Mutex<BTreeSet<(Side, String, Quirk)>>,
}

impl Oddities {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, logged: Mutex::new(BTreeSet::new()) }
    }

    /// What an initiator has shown in its login.
    pub(super) fn shown_by_initiator(&self, agreed: &Negotiated) {
        for quirk in agreed.quirks.iter() {
            self.met(Side::Initiator, &agreed.initiator_name, quirk);
        }
    }

    /// A login of Braid's was sent elsewhere.
    pub(super) fn redirected(&self, permanent: bool) {
        self.metrics.redirected(permanent);
    }

    /// A peer has shown one: an initiator by its name, a target by the name of the path, or where a login is nobody's session
    /// by its portal.
    pub(super) fn met(&self, side: Side, peer: &str, quirk: Quirk) {
        self.metrics.quirk(quirk, side);
        if self.is_new(side, peer, quirk) {
            let row = quirk.row();
            tracing::info!(quirk = row.name, side = side.label(), peer, "the peer {}", row.about);
        }
    }

    fn is_new(&self, side: Side, peer: &str, quirk: Quirk) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.len() < MOST_LINES && logged.insert((side, peer.to_owned(), quirk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_every_time_and_logged_once_per_peer() {
        let metrics = Arc::new(Metrics::new());
        let oddities = Oddities::new(Arc::clone(&metrics));
        for _ in 0..3 {
            oddities.met(Side::Initiator, "iqn.a", Quirk::Markers);
        }
        let line = "braid_quirks_total{quirk=\"markers\",side=\"initiator\"} 3\n";
        assert!(metrics.render().contains(line), "{}", metrics.render());
        assert!(!oddities.is_new(Side::Initiator, "iqn.a", Quirk::Markers));
        assert!(oddities.is_new(Side::Initiator, "iqn.b", Quirk::Markers));
        assert!(oddities.is_new(Side::Target, "iqn.a", Quirk::Markers));
    }

    #[test]
    fn peers_that_change_their_names_are_not_remembered_without_end() {
        let oddities = Oddities::new(Arc::new(Metrics::new()));
        for n in 0..MOST_LINES + 10 {
            oddities.met(Side::Initiator, &n.to_string(), Quirk::Markers);
        }
        assert_eq!(oddities.logged.lock().unwrap_or_else(PoisonError::into_inner).len(), MOST_LINES);
    }
}
