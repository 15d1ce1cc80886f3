//! The task set of a unit: which tasks may run, by attribute (SAM-5 section 8).
//!
//! All sessions share one task set (TST = 0). A simple task waits for older ordered ones, an ordered task for all older
//! ones, a head-of-queue task for nothing. Simple tasks run in no particular order among themselves.

use crate::iscsi::{Itt, TaskAttribute, Tsih};
use std::collections::{BTreeMap, BTreeSet};

/// A task, by session and tag.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct TaskRef {
    pub(crate) tsih: Tsih,
    pub(crate) itt: Itt,
}

/// Tasks that entered and have not left, by age.
#[derive(Debug, Default)]
pub(crate) struct TaskSet {
    next: u64,
    /// All of them.
    tasks: BTreeMap<u64, (TaskRef, TaskAttribute)>,
    /// Those with an ordered attribute.
    ordered: BTreeSet<u64>,
    /// Those not yet allowed to run.
    dormant: BTreeSet<u64>,
}

impl TaskSet {
    /// Adds a task; returns its age and whether it may run at once.
    pub(crate) fn enter(&mut self, task: TaskRef, attribute: TaskAttribute) -> (u64, bool) {
        let age = self.next;
        self.next += 1;
        self.tasks.insert(age, (task, attribute));
        if attribute == TaskAttribute::Ordered {
            self.ordered.insert(age);
        }
        let runs = self.may_run(age, attribute);
        if !runs {
            self.dormant.insert(age);
        }
        (age, runs)
    }

    /// Removes a task; returns those that may run now.
    pub(crate) fn leave(&mut self, age: u64) -> Vec<TaskRef> {
        self.tasks.remove(&age);
        self.ordered.remove(&age);
        self.dormant.remove(&age);
        let awake: Vec<(u64, TaskRef)> = self
            .dormant
            .iter()
            .filter_map(|age| Some((*age, *self.tasks.get(age)?)))
            .take_while(|(age, (_, attribute))| self.may_run(*age, *attribute))
            .map(|(age, (task, _))| (age, task))
            .collect();
        for (age, _) in &awake {
            self.dormant.remove(age);
        }
        awake.into_iter().map(|(_, task)| task).collect()
    }

    /// All tasks, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = TaskRef> {
        self.tasks.values().map(|(task, _)| *task)
    }

    fn may_run(&self, age: u64, attribute: TaskAttribute) -> bool {
        match attribute {
            TaskAttribute::HeadOfQueue => true,
            TaskAttribute::Ordered => self.tasks.first_key_value().is_none_or(|(oldest, _)| *oldest == age),
            TaskAttribute::Simple | TaskAttribute::Untagged | TaskAttribute::Aca => {
                self.ordered.first().is_none_or(|ordered| *ordered > age)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(tag: u32) -> TaskRef {
        TaskRef { tsih: Tsih(1), itt: Itt(tag) }
    }

    #[test]
    fn ordered_waits_for_older_and_holds_younger() {
        let mut set = TaskSet::default();
        let (first, runs) = set.enter(task(1), TaskAttribute::Simple);
        assert!(runs);
        let (second, runs) = set.enter(task(2), TaskAttribute::Ordered);
        assert!(!runs);
        let (_, runs) = set.enter(task(3), TaskAttribute::Simple);
        assert!(!runs);
        let (_, runs) = set.enter(task(4), TaskAttribute::HeadOfQueue);
        assert!(runs);
        assert_eq!(set.leave(first), [task(2)]);
        assert_eq!(set.leave(second), [task(3)]);
    }

    #[test]
    fn a_dormant_ordered_task_that_leaves_frees_the_younger() {
        let mut set = TaskSet::default();
        set.enter(task(1), TaskAttribute::Simple);
        let (ordered, _) = set.enter(task(2), TaskAttribute::Ordered);
        set.enter(task(3), TaskAttribute::Simple);
        set.enter(task(4), TaskAttribute::Simple);
        assert_eq!(set.leave(ordered), [task(3), task(4)]);
    }
}
