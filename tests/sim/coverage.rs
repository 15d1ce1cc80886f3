//! How often each thing was met, over all seeds: a thing that never happens is not tested.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Counts by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    pub(crate) fn hit(&mut self, name: &'static str) {
        self.hits(name, 1);
    }

    pub(crate) fn hits(&mut self, name: &'static str, times: u64) {
        *self.0.entry(name).or_default() += times;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (name, times) in &other.0 {
            *self.0.entry(name).or_default() += times;
        }
    }

    /// Those of `wanted` that never happened.
    pub(crate) fn missing(&self, wanted: &[&'static str]) -> Vec<&'static str> {
        wanted.iter().copied().filter(|name| self.0.get(name).copied().unwrap_or(0) == 0).collect()
    }

    /// A table, one line each.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for (name, times) in &self.0 {
            writeln!(text, "{times:>12}  {name}").expect("a string takes what is written");
        }
        text
    }
}
