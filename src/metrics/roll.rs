//! Which targets and paths have series of their own, and until when.
//!
//! Those that are declared have them, and those that a session still uses after a reload took them away, until it ends. Then
//! the series go: a panel or an alert must not go on showing what is no more.

use super::{Metrics, OTHER};
use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, MutexGuard, PoisonError};

/// A family of series with labels.
pub(super) trait Family: Debug + Send + Sync {
    /// Removes the series of a target, or those of one of its paths.
    fn forget(&self, target: &str, path: Option<&str>);
}

impl<T: MetricVecBuilder> Family for MetricVec<T>
where
    Self: Debug,
{
    fn forget(&self, target: &str, path: Option<&str>) {
        for family in self.collect() {
            for series in family.get_metric() {
                let labels: HashMap<&str, &str> =
                    series.get_label().iter().map(|label| (label.name(), label.value())).collect();
                let is = |name: &str, value: &str| labels.get(name) == Some(&value);
                if is("target", target) && path.is_none_or(|path| is("path", path)) {
                    // An error means that it is gone already.
                    self.remove(&labels).ok();
                }
            }
        }
    }
}

/// Who is there.
#[derive(Debug, Default)]
pub(super) struct Roll {
    /// Targets that are declared, with their paths in the order of the configuration.
    pub(super) declared: BTreeMap<String, Vec<String>>,
    /// How many sessions use each path of each target that any uses.
    used: BTreeMap<String, BTreeMap<String, usize>>,
}

impl Roll {
    /// The labels of a target and of its paths: their names if they are declared.
    pub(super) fn labels<'p>(
        &self,
        target: &'p str,
        paths: impl IntoIterator<Item = &'p str>,
    ) -> (&'p str, Vec<&'p str>) {
        let Some(own) = self.declared.get(target) else {
            return (OTHER, paths.into_iter().map(|_| OTHER).collect());
        };
        let label = |path: &'p str| if own.iter().any(|own| own == path) { path } else { OTHER };
        (target, paths.into_iter().map(label).collect())
    }

    fn wants(&self, target: &str, path: &str) -> bool {
        let declared = self.declared.get(target).is_some_and(|own| own.iter().any(|own| own == path));
        declared || path == OTHER || self.used.get(target).is_some_and(|used| used.contains_key(path))
    }

    fn enter(&mut self, target: &str, paths: &[&str]) {
        let used = self.used.entry(target.to_owned()).or_default();
        for path in paths {
            *used.entry((*path).to_owned()).or_default() += 1;
        }
    }

    fn leave(&mut self, target: &str, paths: &[String]) {
        let Some(used) = self.used.get_mut(target) else { return };
        for path in paths {
            if let Some(sessions) = used.get_mut(path) {
                *sessions -= 1;
            }
        }
        used.retain(|_, sessions| *sessions > 0);
        if used.is_empty() {
            self.used.remove(target);
        }
    }
}

/// A session's part in the roll.
#[derive(Debug)]
pub(super) struct Use {
    metrics: Arc<Metrics>,
    target: String,
    paths: Vec<String>,
}

impl Use {
    /// A session uses these from now on.
    pub(super) fn begin(metrics: &Arc<Metrics>, roll: &mut Roll, target: &str, paths: &[&str]) -> Self {
        roll.enter(target, paths);
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        Self { metrics: Arc::clone(metrics), target: target.to_owned(), paths }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut roll = self.metrics.roll();
        roll.leave(&self.target, &self.paths);
        self.metrics.sweep(&roll, &self.target, &self.paths);
    }
}

impl Metrics {
    pub(super) fn roll(&self) -> MutexGuard<'_, Roll> {
        self.roll.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a target no longer. Its series go as soon as no session uses it.
    pub fn forget(&self, target: &str) {
        let mut roll = self.roll();
        let paths = roll.declared.remove(target).unwrap_or_default();
        self.sweep(&roll, target, &paths);
    }

    /// Removes the series of a target and of these of its paths, as far as nobody wants them any more.
    pub(super) fn sweep(&self, roll: &Roll, target: &str, paths: &[String]) {
        let forget = |path| self.families.all.iter().for_each(|family| family.forget(target, path));
        if target != OTHER && !roll.declared.contains_key(target) && !roll.used.contains_key(target) {
            self.ages.forget(target);
            return forget(None);
        }
        for path in paths.iter().filter(|path| !roll.wants(target, path)) {
            forget(Some(path));
        }
    }
}
