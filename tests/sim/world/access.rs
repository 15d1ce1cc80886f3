//! Which paths give access to which unit, and since when: what a refusal told to the initiator is measured by.

use super::World;
use crate::net::{Dir, End, Role};
use std::time::Duration;

/// Braid does not have port groups set again before this.
const BETWEEN_TRANSITIONS: Duration = Duration::from_secs(9);

impl World {
    /// Takes note of how things stand.
    pub(super) fn watch_access(&mut self) {
        if self.scenario.access.is_none() {
            return;
        }
        let paths = 0..self.scenario.paths.len();
        let connected: Vec<bool> = paths.clone().map(|path| self.is_connected(path)).collect();
        for unit in 0..self.scenario.units {
            let active = |path: usize| self.targets[0].is_active(unit, self.scenario.paths[path].group);
            let open: Vec<bool> = paths.clone().map(|path| connected[path] && active(path)).collect();
            self.initiator.conditions.note_access(unit, &open, self.now);
        }
    }

    /// Whether Braid has a connection over a path to the right target on which nothing is wrong.
    fn is_connected(&self, path: usize) -> bool {
        let link = &self.links[path];
        let silent = link.is_silent(Dir::Up, self.now) || link.is_silent(Dir::Down, self.now);
        !silent
            && !self.scenario.paths[path].wrong
            && self.wires.iter().any(|w| {
                let open = w.near == End::Open && w.far == End::Open && w.logged_in;
                open && w.link == path && matches!(w.role, Role::Engine(_))
            })
    }

    /// What a target did to access states, and what it did because Braid asked.
    pub(super) fn note_access(&mut self, which: usize) {
        let events = self.targets[which].access_events();
        let asked = self.targets[which].transitions_asked();
        if which > 0 {
            assert!(asked.is_empty(), "P3: another disk's port groups were set");
            return;
        }
        events.into_iter().for_each(|(event, unit)| self.initiator.conditions.access_changed(event, unit));
        for (at, unit) in asked {
            let incarnation = self.host.incarnation;
            let before = self.transitions.iter().rfind(|(u, i, _)| (*u, *i) == (unit, incarnation));
            let soon = before.is_some_and(|(_, _, last)| at < *last + BETWEEN_TRANSITIONS);
            assert!(
                !soon || !self.scenario.is_sound(),
                "P4: port groups of unit {unit} are set over and over"
            );
            self.transitions.push((unit, incarnation, at));
        }
    }
}
