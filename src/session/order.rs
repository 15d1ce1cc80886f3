//! Which command waits for which (DESIGN: order across paths), in its safe form: of two commands that conflict the later
//! waits for the earlier to complete; barriers drain.
//!
//! Entries are kept per session in order of arrival: commands until they complete, and **ghosts**, writes that may
//! still reach a target over a path that was given up, until their nexus is fenced. A ghost holds back only what could
//! be harmed: newer commands that change what the ghost writes.

use super::rules::Rules;
use super::tasks::TaskKey;
use crate::iscsi::{Lun, TaskAttribute};
use crate::scsi::Class;

/// What an entry of the order stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Holder {
    /// A command that has not completed.
    Task(TaskKey),
    /// A ghost.
    Ghost(u64),
}

/// What a command means for the order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Footprint {
    pub(super) lun: Lun,
    pub(super) class: Class,
    pub(super) attribute: TaskAttribute,
}

impl Footprint {
    /// Whether the attribute alone makes it a barrier (R241, R243).
    fn is_barrier(&self) -> bool {
        matches!(self.attribute, TaskAttribute::Ordered | TaskAttribute::Untagged | TaskAttribute::Aca)
    }

    /// Whether `later` must wait until `self` has completed.
    fn holds_back(&self, later: &Self, rules: Rules) -> bool {
        if self.lun != later.lun || later.attribute == TaskAttribute::HeadOfQueue {
            return false;
        }
        let before = self.is_barrier() && !broken!(rules, OrderedHoldsNothingBack);
        let behind = later.is_barrier() && !broken!(rules, OrderedWaitsForNothing);
        let conflict = self.class.conflicts_with(&later.class) && !rules.overlooks(&self.class, &later.class);
        before || behind || conflict
    }

    /// Whether `later` must wait until the ghost of `self` is fenced: it changes what the ghost would overwrite.
    /// Reads and flushes are not harmed, since the ghost's own command runs again before it is answered.
    fn haunts(&self, later: &Self) -> bool {
        self.lun == later.lun && changes_medium(&later.class) && self.class.conflicts_with(&later.class)
    }
}

/// Whether a command may change blocks, or who may change them.
fn changes_medium(class: &Class) -> bool {
    match class {
        Class::Write(_)
        | Class::WriteAnywhere
        | Class::WriteOnce(_)
        | Class::Reservation
        | Class::Barrier => true,
        Class::Read(_) | Class::Flush | Class::Query | Class::Stateless => false,
    }
}

#[derive(Debug)]
struct Entry {
    holder: Holder,
    footprint: Footprint,
    dependents: Vec<TaskKey>,
}

/// Entries in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Order {
    pub(super) rules: Rules,
    entries: Vec<Entry>,
}

impl Order {
    /// Adds a command and returns for how many entries it has to wait.
    pub(super) fn arrive(&mut self, key: TaskKey, footprint: Footprint) -> u32 {
        let (mut blockers, rules) = (0, self.rules);
        for entry in &mut self.entries {
            let blocks = match entry.holder {
                Holder::Task(_) => entry.footprint.holds_back(&footprint, rules),
                Holder::Ghost(_) => entry.footprint.haunts(&footprint),
            };
            if blocks {
                entry.dependents.push(key);
                blockers += 1;
            }
        }
        self.entries.push(Entry { holder: Holder::Task(key), footprint, dependents: Vec::new() });
        blockers
    }

    /// The command left a ghost: what waits for the command and could be harmed now waits for the ghost too. Returns
    /// the commands that got one more entry to wait for.
    pub(super) fn haunt(&mut self, key: TaskKey, ghost: u64) -> Vec<TaskKey> {
        let Some(entry) = self.entries.iter().find(|e| e.holder == Holder::Task(key)) else {
            return Vec::new();
        };
        let footprint = entry.footprint.clone();
        let spared = broken!(self.rules, GhostsSpareTheWaiting);
        let waiting: Vec<TaskKey> = self
            .entries
            .iter()
            .filter(|_| !spared)
            .filter_map(|e| match e.holder {
                Holder::Task(k) if entry.dependents.contains(&k) && footprint.haunts(&e.footprint) => Some(k),
                Holder::Task(_) | Holder::Ghost(_) => None,
            })
            .collect();
        self.entries.push(Entry { holder: Holder::Ghost(ghost), footprint, dependents: waiting.clone() });
        waiting
    }

    /// Removes an entry and returns the commands that waited for it.
    pub(super) fn leave(&mut self, holder: Holder) -> Vec<TaskKey> {
        let Some(at) = self.entries.iter().position(|e| e.holder == holder) else {
            return Vec::new();
        };
        let gone = self.entries.remove(at);
        if let Holder::Task(key) = holder
            && !broken!(self.rules, AbortedWaiterReleased)
        {
            // A command that ends while it still waits (aborted) must not be released later under a reused key.
            for entry in &mut self.entries {
                entry.dependents.retain(|k| *k != key);
            }
        }
        gone.dependents
    }

    /// Number of entries that hold back `key`; for the invariant check.
    pub(super) fn blockers_of(&self, key: TaskKey) -> u32 {
        let count = self.entries.iter().filter(|e| e.dependents.contains(&key)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::Extent;

    fn simple(class: Class) -> Footprint {
        Footprint { lun: Lun(0), class, attribute: TaskAttribute::Simple }
    }

    fn write(lba: u64) -> Footprint {
        simple(Class::Write(Extent { lba, blocks: 8 }))
    }

    fn read(lba: u64) -> Footprint {
        simple(Class::Read(Extent { lba, blocks: 8 }))
    }

    #[test]
    fn overlap_waits_and_the_rest_flows() {
        let mut order = Order::default();
        assert_eq!(order.arrive(0, write(0)), 0);
        assert_eq!(order.arrive(1, write(8)), 0);
        assert_eq!(order.arrive(2, read(4)), 2);
        assert_eq!(order.leave(Holder::Task(0)), vec![2]);
        assert_eq!(order.leave(Holder::Task(1)), vec![2]);
    }

    #[test]
    fn ordered_drains_both_sides_and_head_of_queue_passes_r241() {
        let mut order = Order::default();
        order.arrive(0, read(0));
        let barrier = Footprint { attribute: TaskAttribute::Ordered, ..read(100) };
        assert_eq!(order.arrive(1, barrier), 1);
        assert_eq!(order.arrive(2, read(200)), 1);
        let urgent = Footprint { attribute: TaskAttribute::HeadOfQueue, ..write(0) };
        assert_eq!(order.arrive(3, urgent), 0);
        assert_eq!(order.arrive(4, write(0)), 3, "read 0, the barrier and the urgent write");
    }

    #[test]
    fn other_units_do_not_wait() {
        let mut order = Order::default();
        order.arrive(0, simple(Class::Barrier));
        assert_eq!(order.arrive(1, Footprint { lun: Lun(1 << 48), ..write(0) }), 0);
        assert_eq!(order.arrive(2, simple(Class::Stateless)), 0);
    }

    #[test]
    fn ghosts_hold_back_newer_writes_only() {
        let mut order = Order::default();
        order.arrive(0, write(0));
        order.arrive(1, write(4));
        order.arrive(2, read(4));
        assert_eq!(order.haunt(0, 77), vec![1], "the overlapping write, not the read");
        assert_eq!(order.leave(Holder::Task(0)), vec![1, 2]);
        assert_eq!(order.blockers_of(1), 1);
        assert_eq!(order.arrive(3, write(0)), 3, "the ghost, the waiting write and the read");
        assert_eq!(order.arrive(4, write(64)), 0);
        assert_eq!(order.arrive(5, simple(Class::Flush)), 3, "the writes, not the ghost");
        assert_eq!(order.leave(Holder::Ghost(77)), vec![1, 3]);
    }

    #[test]
    fn an_aborted_waiter_is_forgotten() {
        let mut order = Order::default();
        order.arrive(0, write(0));
        order.arrive(1, write(0));
        order.leave(Holder::Task(1));
        assert!(order.leave(Holder::Task(0)).is_empty());
    }
}
