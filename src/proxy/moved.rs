//! Where targets are that said, when Braid logged in, that they have moved (RFC 7143 section 11.13.5).
//!
//! A redirection for good is kept while Braid runs, once the login that met it has succeeded: the next one over that path goes
//! there at once. It is forgotten when nobody can be logged in to there, so that the configured portal is asked again. One for the
//! time being holds for its own login only.

use crate::metrics::Metrics;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Portals and target names kept apart at most: as many as are configured at a time, with room for reloads.
const MOST: usize = 4096;

/// All that is known of portals that have moved.
#[derive(Debug, Default)]
pub(super) struct Moves(Mutex<BTreeMap<(String, String), Moved>>);

/// Where one target is that was configured at one portal.
#[derive(Clone, Debug, Default)]
pub struct Moved {
    address: Arc<Mutex<Option<String>>>,
    metrics: Option<Arc<Metrics>>,
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
    pub(super) fn of(&self, portal: &str, target: &str, metrics: &Arc<Metrics>) -> Moved {
        let mut known = lock(&self.0);
        let key = (portal.to_owned(), target.to_owned());
        if known.len() >= MOST && !known.contains_key(&key) {
            known.clear();
        }
        let fresh = || Moved { address: Arc::default(), metrics: Some(Arc::clone(metrics)) };
        known.entry(key).or_insert_with(fresh).clone()
    }
}

impl Moved {
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
        if let Some(metrics) = &self.metrics {
            metrics.redirected(permanent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_who_log_in_to_a_target_at_a_portal_know_the_same() {
        let (moves, metrics) = (Moves::default(), Arc::new(Metrics::new()));
        let of = |target| moves.of("192.0.2.1:3260", target, &metrics);
        of("iqn.a").keep("192.0.2.9:3260".to_owned());
        assert_eq!(of("iqn.a").address().as_deref(), Some("192.0.2.9:3260"));
        assert_eq!(of("iqn.b").address(), None);
        of("iqn.a").met(true);
        of("iqn.a").forget();
        assert_eq!(of("iqn.a").address(), None);
        assert!(metrics.render().contains("braid_login_redirects_total{kind=\"permanent\"} 1\n"));
    }
}
