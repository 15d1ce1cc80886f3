//! The states of a path, and which may follow which.
//!
//! A path is a way to a target, over which a session has a connection, or several, or none for the time being. As long as one of
//! them carries commands the path is up; how well, is a matter of trust. The caller tells every change with what
//! triggered it. What is not in this table does not happen, and the simulator judges every change of every seed by it:
//!
//! | from | trigger | to |
//! | --- | --- | --- |
//! | down | tried | probing |
//! | down | ordered | drained |
//! | drained | restored | down |
//! | probing | connected | up, marginal, suspect |
//! | probing | failed | down, drained |
//! | up | doubted | suspect |
//! | up | demoted | marginal |
//! | up | ordered, asked, dispensable | draining |
//! | up | lost | draining, probing, down, drained |
//! | marginal | calmed | up |
//! | marginal | doubted | suspect |
//! | marginal | ordered, asked, dispensable | draining |
//! | marginal | lost | draining, probing, down, drained |
//! | suspect | trusted | up, marginal |
//! | suspect | ordered, asked, dispensable | draining |
//! | suspect | lost | up, marginal, draining, probing, down, drained |
//! | suspect | left | up, marginal |
//! | draining | connected | up, marginal, suspect |
//! | draining | lost, left | probing, down, drained |
//!
//! So nothing is up that was not probed, a path that the operator has drained is not tried before it is given back, and what
//! leaves in order drains first. Where a connection ends and the path stays what it is, or is draining or probing, the path
//! had another one.

use super::health::Doubt;

/// State of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathState {
    /// It works.
    Up,
    /// It works, but comes and goes: kept for emergencies.
    Marginal,
    /// Silent: no new commands as long as another path is trusted.
    Suspect,
    /// Commands end, and no new ones are sent.
    Draining,
    /// A connection is being made: does it work?
    Probing,
    /// Lost; it is tried again and again.
    Down,
    /// Taken out by the operator: it carries nothing, and is not tried.
    Drained,
}

/// What changes the state of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// A connection is being made.
    Tried,
    /// A connection was made.
    Connected,
    /// A connection could not be made, or is not wanted any more.
    Failed,
    /// A connection was suspected.
    Doubted(Doubt),
    /// A suspect connection is trusted again.
    Trusted,
    /// The path was lost once too often.
    Demoted,
    /// It was not lost for long enough.
    Calmed,
    /// The operator takes the path out.
    Ordered,
    /// The target has asked that a connection leave.
    Asked,
    /// A connection has helped out, and is not needed any more.
    Dispensable,
    /// A connection ended as it was meant to.
    Left,
    /// A connection ended otherwise.
    Lost,
    /// The operator gives the path back.
    Restored,
}

impl PathState {
    /// All, the best first.
    pub const ALL: [Self; 7] =
        [Self::Up, Self::Marginal, Self::Suspect, Self::Draining, Self::Probing, Self::Down, Self::Drained];

    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Marginal => "marginal",
            Self::Suspect => "suspect",
            Self::Draining => "draining",
            Self::Probing => "probing",
            Self::Down => "down",
            Self::Drained => "drained",
        }
    }

    /// What it may become by a trigger; it may also stay what it is.
    #[must_use]
    pub const fn after(self, trigger: Trigger) -> &'static [Self] {
        use Trigger::{
            Asked, Calmed, Connected, Demoted, Dispensable, Doubted, Failed, Left, Lost, Ordered, Restored,
            Tried, Trusted,
        };
        match (self, trigger) {
            (Self::Down, Tried) => &[Self::Probing],
            (Self::Down, Ordered) => &[Self::Drained],
            (Self::Drained, Restored) => &[Self::Down],
            (Self::Probing | Self::Draining, Connected) => &[Self::Up, Self::Marginal, Self::Suspect],
            (Self::Probing, Failed) => &[Self::Down, Self::Drained],
            (Self::Up | Self::Marginal, Doubted(_)) => &[Self::Suspect],
            (Self::Up, Demoted) => &[Self::Marginal],
            (Self::Marginal, Calmed) => &[Self::Up],
            (Self::Suspect, Trusted | Left) => &[Self::Up, Self::Marginal],
            (Self::Up | Self::Marginal | Self::Suspect, Ordered | Asked | Dispensable) => &[Self::Draining],
            (Self::Up | Self::Marginal, Lost) => &[Self::Draining, Self::Probing, Self::Down, Self::Drained],
            (Self::Suspect, Lost) => {
                &[Self::Up, Self::Marginal, Self::Draining, Self::Probing, Self::Down, Self::Drained]
            }
            (Self::Draining, Lost | Left) => &[Self::Probing, Self::Down, Self::Drained],
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Trigger::{
        Asked, Calmed, Connected, Demoted, Dispensable, Doubted, Failed, Left, Lost, Ordered, Restored,
        Tried, Trusted,
    };
    use std::collections::BTreeSet;

    const TRIGGERS: [Trigger; 13] = [
        Tried,
        Connected,
        Failed,
        Doubted(Doubt::Unacknowledged),
        Trusted,
        Demoted,
        Calmed,
        Ordered,
        Asked,
        Dispensable,
        Left,
        Lost,
        Restored,
    ];

    fn word(trigger: Trigger) -> String {
        let name = format!("{trigger:?}").to_lowercase();
        name.split('(').next().unwrap_or_default().to_owned()
    }

    /// Each cell of a line of the table above, one by one.
    fn told() -> BTreeSet<String> {
        let lines = include_str!("state.rs").lines().filter_map(|line| line.strip_prefix("//! | "));
        let mut rows = BTreeSet::new();
        for line in lines.filter(|line| !line.starts_with("from") && !line.starts_with("---")) {
            let cells: Vec<Vec<&str>> =
                line.trim_end_matches('|').split('|').map(|cell| cell.trim().split(", ").collect()).collect();
            for trigger in &cells[1] {
                rows.extend(cells[2].iter().map(|to| format!("{} {trigger} {to}", cells[0][0])));
            }
        }
        rows
    }

    #[test]
    fn the_table_says_what_is_so() {
        let mut rows = BTreeSet::new();
        for from in PathState::ALL {
            for trigger in TRIGGERS {
                let to = from.after(trigger).iter();
                rows.extend(to.map(|to| format!("{} {} {}", from.word(), word(trigger), to.word())));
            }
        }
        assert_eq!(rows, told());
    }

    #[test]
    fn every_state_is_reached_and_left() {
        for state in PathState::ALL {
            let reaches = |from: &PathState| TRIGGERS.iter().any(|t| from.after(*t).contains(&state));
            assert!(PathState::ALL.iter().any(reaches), "{state:?} is never reached");
            assert!(TRIGGERS.iter().any(|t| !state.after(*t).is_empty()), "{state:?} is never left");
            assert!(!reaches(&state), "{state:?} becomes what it is");
        }
    }

    #[test]
    fn what_is_drained_is_given_back_before_it_is_tried() {
        for trigger in TRIGGERS {
            let to = PathState::Drained.after(trigger);
            assert_eq!(to.is_empty(), trigger != Restored, "{trigger:?}: {to:?}");
        }
    }
}
