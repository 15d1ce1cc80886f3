//! What an operator has ordered about paths, for the sessions there are and for those to come.
//!
//! An order lasts until the next one about its path, or as long as it says itself: what ends it then is told apart from later orders
//! by a number.

use super::operator::PathOrder;
use crate::config::Target;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use tokio::task::AbortHandle;

/// What was ordered about paths, by target and path.
#[derive(Debug, Default)]
pub(super) struct Orders(Mutex<BTreeMap<(String, String), Standing>>);

#[derive(Clone, Debug, Default)]
struct Standing {
    out: bool,
    weight: Option<u32>,
    /// Grows with every order that takes the path out or gives it back.
    number: u64,
    /// What gives it back in time.
    limit: Option<AbortHandle>,
}

impl Standing {
    fn change(&mut self, out: bool) {
        self.out = out;
        self.number += 1;
        if let Some(limit) = self.limit.take() {
            limit.abort();
        }
    }
}

impl Orders {
    /// Gives the number of the order.
    pub(super) fn take(&self, target: &str, path: &str, order: PathOrder) -> u64 {
        let mut orders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let standing = orders.entry((target.to_owned(), path.to_owned())).or_default();
        match order {
            PathOrder::Drain | PathOrder::Fail => standing.change(true),
            PathOrder::Restore => standing.change(false),
            PathOrder::Weigh(weight) => standing.weight = Some(weight),
        }
        standing.number
    }

    /// Says what ends an order of this number, unless there has been another one.
    pub(super) fn limit(&self, target: &str, path: &str, number: u64, limit: AbortHandle) {
        let mut orders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match orders.get_mut(&(target.to_owned(), path.to_owned())) {
            Some(standing) if standing.number == number => standing.limit = Some(limit),
            _ => limit.abort(),
        }
    }

    /// Gives a path back if the order of this number is still in force; whether it was.
    pub(super) fn end(&self, target: &str, path: &str, number: u64) -> bool {
        let mut orders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let standing = orders.get_mut(&(target.to_owned(), path.to_owned()));
        let Some(standing) = standing.filter(|standing| standing.number == number) else { return false };
        // That is the caller, who is not to be ended before he has told everybody.
        standing.limit = None;
        standing.change(false);
        true
    }

    /// The weight that was ordered for a path.
    pub(super) fn weight(&self, target: &str, path: &str) -> Option<u32> {
        self.of(target, path).weight
    }

    fn of(&self, target: &str, path: &str) -> Standing {
        let orders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        orders.get(&(target.to_owned(), path.to_owned())).cloned().unwrap_or_default()
    }

    /// Whether a path is taken out.
    pub(super) fn is_out(&self, target: &str, path: &str) -> bool {
        self.of(target, path).out
    }

    /// Lets the configuration say what a path weighs.
    pub(super) fn forget_weight(&self, target: &str, path: &str) {
        let mut orders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(standing) = orders.get_mut(&(target.to_owned(), path.to_owned())) {
            standing.weight = None;
        }
    }

    /// Gives paths the weights that were ordered.
    pub(super) fn weigh(&self, target: &mut Target) {
        for path in &mut target.paths {
            path.weight = self.of(&target.name, &path.name).weight.unwrap_or(path.weight);
        }
    }
}
