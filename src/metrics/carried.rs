//! What paths have carried so far, and how often one was lost.

use super::Metrics;
use super::labels::DIRECTIONS;
use std::time::Duration;

/// What a path has carried since Braid started.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Carried {
    /// Its name.
    pub path: String,
    /// Payload read, in bytes.
    pub read: u64,
    /// Payload written, in bytes.
    pub written: u64,
    /// Commands completed.
    pub commands: u64,
    /// Time from their arrival to their status, in sum.
    pub time: Duration,
}

/// Failovers of a target since Braid started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Failovers {
    /// How many there were, over all sessions.
    pub count: u64,
    /// The longest time without a completion of each, in sum.
    pub stalled: Duration,
}

impl Metrics {
    /// The failovers of a target so far.
    #[must_use]
    pub fn failovers(&self, target: &str) -> Failovers {
        let roll = self.roll();
        let known = roll.declared.contains_key(target);
        let stall = known.then(|| self.families.stall.with_label_values(&[target]));
        let told = stall.map(|stall| Failovers {
            count: stall.get_sample_count(),
            stalled: Duration::try_from_secs_f64(stall.get_sample_sum()).unwrap_or_default(),
        });
        told.unwrap_or_default()
    }

    /// What each path of a target has carried so far.
    #[must_use]
    pub fn carried(&self, target: &str) -> Vec<Carried> {
        let roll = self.roll();
        let paths = roll.declared.get(target).into_iter().flatten();
        let families = &self.families;
        let carried = paths.map(|path| {
            let labels = &[target, path.as_str()];
            let time =
                |to| families.duration.with_label_values(&[target, path.as_str(), to]).get_sample_sum();
            Carried {
                path: path.clone(),
                read: families.read.with_label_values(labels).get(),
                written: families.written.with_label_values(labels).get(),
                commands: families.commands.with_label_values(labels).get(),
                time: DIRECTIONS
                    .iter()
                    .map(|to| Duration::try_from_secs_f64(time(to)).unwrap_or_default())
                    .sum(),
            }
        });
        carried.collect()
    }
}
