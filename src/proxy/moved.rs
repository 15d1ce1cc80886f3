//! Where targets are that said, when Braid logged in, that they have moved (RFC 7143 section 11.13.5).
//!
//! A redirection for good is kept while Braid runs, once the login that met it has succeeded: the next one over that path goes
//! there at once. It is forgotten when nobody can be logged in to there, so that the configured portal is asked again. One for the
//! time being holds for its own login only. What a login meets besides is noted at the same place.

use super::oddities::Oddities;
use crate::iscsi::quirk::{Quirks, Side};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Portals and target names kept apart at most: as many as are configured at a time, with room for reloads.
const MOST: usize = 4096;

/// All that is known of portals that have moved.
#[derive(Debug, Default)]
pub(super) struct Moves(Mutex<BTreeMap<(String, String), Moved>>);

/// Where one target is that was configured at one portal, and who takes note of what is met on the way there.
#[derive(Clone, Debug, Default)]
pub struct Moved {
    address: Arc<Mutex<Option<String>>>,
    oddities: Option<Arc<Oddities>>,
}

impl PartialEq for Moved {
    fn eq(&self, other: &Self) -> bool {
        self.address() == other.address()
    }
}

impl Eq for Moved {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Moves {
    /// What is known of a target at a portal, for all who log in there.
    pub(super) fn of(&self, portal: &str, target: &str, oddities: &Arc<Oddities>) -> Moved {
        let mut known = lock(&self.0);
        let key = (portal.to_owned(), target.to_owned());
        if known.len() >= MOST && !known.contains_key(&key) {
            known.clear();
        }
        known.entry(key).or_insert_with(|| Moved::noted_by(oddities)).clone()
    }
}

impl Moved {
    /// Nothing is known yet.
    pub(super) fn noted_by(oddities: &Arc<Oddities>) -> Self {
        Self { address: Arc::default(), oddities: Some(Arc::clone(oddities)) }
    }

    /// Where it went for good, as far as is known.
    pub(super) fn address(&self) -> Option<String> {
        lock(&self.address).clone()
    }

    /// It is there from now on.
    pub(super) fn keep(&self, address: String) {
        *lock(&self.address) = Some(address);
    }

    /// Nobody can be logged in to there: the configured portal is asked again.
    pub(super) fn forget(&self) {
        if let Some(address) = lock(&self.address).take() {
            tracing::info!(address, "no login where the target moved to: asking the configured portal next");
        }
    }

    /// A redirection was met.
    pub(super) fn met(&self, permanent: bool) {
        if let Some(oddities) = &self.oddities {
            oddities.redirected(permanent);
        }
    }

    /// The target at this portal has shown these in a login of which no session tells.
    pub(super) fn shown(&self, portal: &str, quirks: Quirks) {
        if let Some(oddities) = &self.oddities {
            quirks.iter().for_each(|quirk| oddities.met(Side::Target, portal, quirk));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn all_who_log_in_to_a_target_at_a_portal_know_the_same() {
        let (moves, metrics) = (Moves::default(), Arc::new(Metrics::new()));
        let oddities = Arc::new(Oddities::new(Arc::clone(&metrics)));
        let of = |target| moves.of("192.0.2.1:3260", target, &oddities);
        of("iqn.a").keep("192.0.2.9:3260".to_owned());
        assert_eq!(of("iqn.a").address().as_deref(), Some("192.0.2.9:3260"));
        assert_eq!(of("iqn.b").address(), None);
        of("iqn.a").met(true);
        of("iqn.a").forget();
        assert_eq!(of("iqn.a").address(), None);
        assert!(metrics.render().contains("braid_login_redirects_total{kind=\"permanent\"} 1\n"));
    }
}
