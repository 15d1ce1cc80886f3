//! Which command waits for which (DESIGN: order across paths): of two commands that conflict the later waits for the
//! earlier to complete; barriers drain.
//!
//! Between a barrier and another command the later may instead wait only until the target has the earlier with all its data,
//! in home's session, and then follow it there: the target keeps them in order by CmdSN and attribute (R241, R245). It does
//! not while write data is still to come (TARGETS section 2), nor if the earlier is lost with one of several connections and
//! the later is not; nor if a port may refuse the earlier for its state (SPC-4 section 5.15.2.4), and serve the later. So this
//! is done on a session's only path, and where [`Barriers::Native`] asks for it, for units that have said that their ports
//! are alike. What is lost and runs again waits anew ([`Order::recall`]), and nothing follows what may be lost ([`Order::doubt`]). Commands that overlap always wait for completion.
//!
//! Entries are kept per session: commands until they complete, and **ghosts**, writes that may
//! still reach a target over a path that was given up, until their nexus is fenced. A ghost holds back only what could
//! be harmed: newer commands that change what the ghost writes, and, if nobody will write the same again before, or a power
//! loss may have undone what was, those that read it. What an earlier session may have left behind is a ghost on the whole unit.

use super::api::Barriers;
use super::rules::Rules;
use super::tally::HeldBy;
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

/// How long a command waits for an earlier one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wait {
    /// Not at all.
    No,
    /// Until the target has it, and keeps the two in order itself.
    HandedOver,
    /// Until it has completed.
    Completed,
}

/// What a command that arrives or runs again waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Verdict {
    /// Entries it waits for.
    pub(super) blockers: u32,
    /// Why it waits, if it does.
    pub(super) by: HeldBy,
    /// It follows a command that the target still has: it must go to the same session.
    pub(super) follows: bool,
}

impl Verdict {
    fn waits_for(&mut self, by: HeldBy) {
        self.blockers += 1;
        self.by = self.by.max(by);
    }
}

/// Barriers that are left to the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Left {
    attributes: bool,
    flushes: bool,
}

impl Left {
    /// What a session leaves to its target.
    pub(super) const fn by(barriers: Barriers, paths: usize) -> Self {
        let native = matches!(barriers, Barriers::Native);
        Self { attributes: native || paths == 1, flushes: native }
    }
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
        matches!(self.attribute, TaskAttribute::Ordered | TaskAttribute::Untagged)
    }

    /// Whether it or its attribute makes others wait that it shares no blocks with.
    fn drains(&self) -> bool {
        self.is_barrier() || matches!(self.class, Class::Flush(_) | Class::Barrier | Class::Reservation)
    }

    /// Whether it runs whatever is before it: HEAD OF QUEUE, and ACA, which is for a unit whose other commands are
    /// blocked until the condition is cleared (SAM-5 section 5.10: waiting for them would be for ever).
    fn is_urgent(&self) -> bool {
        matches!(self.attribute, TaskAttribute::HeadOfQueue | TaskAttribute::Aca)
    }

    /// How long `later` must wait for `self`.
    fn holds_back(&self, later: &Self, left: Left, rules: Rules) -> Wait {
        if self.lun != later.lun || later.is_urgent() {
            return Wait::No;
        }
        let flushes = |f: &Self| matches!(f.class, Class::Flush(_));
        let untagged = |f: &Self| f.attribute == TaskAttribute::Untagged;
        let before = self.is_barrier() && !broken!(rules, OrderedHoldsNothingBack);
        let behind = later.is_barrier() && !broken!(rules, OrderedWaitsForNothing);
        let conflict = self.class.conflicts_with(&later.class) && !rules.overlooks(&self.class, &later.class);
        let (flushing, writing) =
            (flushes(self) || flushes(later), self.class.writes() || later.class.writes());
        let left_conflict = left.flushes && flushing && writing;
        // Untagged tasks run one at a time (R243).
        if conflict && !left_conflict || untagged(self) && untagged(later) {
            return Wait::Completed;
        }
        match (before || behind, conflict) {
            (false, false) => Wait::No,
            (true, _) if !left.attributes => Wait::Completed,
            _ => Wait::HandedOver,
        }
    }

    /// Whether `later` must wait until the ghost of `self` is fenced: it changes what the ghost would overwrite. Reads
    /// are not harmed as long as the ghost's own command runs again before it is answered; flushes never are.
    fn haunts(&self, later: &Self, reads_too: bool) -> bool {
        let sees = reads_too && matches!(later.class, Class::Read(_) | Class::Survey(_) | Class::Query);
        let harmed = sees || changes_medium(&later.class);
        self.lun == later.lun && harmed && self.class.conflicts_with(&later.class)
    }
}

/// Whether a command may change blocks, or who may change them.
fn changes_medium(class: &Class) -> bool {
    match class {
        Class::Write(_)
        | Class::WriteAnywhere(_)
        | Class::WriteOnce(_)
        | Class::Reservation
        | Class::Barrier => true,
        Class::Read(_) | Class::Flush(_) | Class::Survey(_) | Class::Query | Class::Stateless => false,
    }
}

#[derive(Debug)]
struct Entry {
    holder: Holder,
    /// In order of arrival.
    number: u64,
    footprint: Footprint,
    /// A ghost whose command does not run again, or has run in vain: reads wait for it too.
    reads_too: bool,
    dependents: Vec<TaskKey>,
    /// The target has it with all its data, in home's session, so that what follows it there stays behind it.
    handed_over: bool,
    /// A command that the initiator takes for ended, and that may still run.
    abandoned: bool,
    /// Who waits only for that.
    followers: Vec<TaskKey>,
}

impl Entry {
    fn new(holder: Holder, footprint: Footprint, reads_too: bool, dependents: Vec<TaskKey>) -> Self {
        let (number, handed_over, abandoned, followers) = (0, false, false, Vec::new());
        Self { holder, number, footprint, reads_too, dependents, handed_over, abandoned, followers }
    }

    /// Whether one of the two would undo the other or show it half done.
    fn harms(&self, later: &Footprint) -> bool {
        self.footprint.lun == later.lun && self.footprint.class.conflicts_with(&later.class)
    }

    /// Why it holds `later` back.
    fn holds_by(&self, later: &Footprint) -> HeldBy {
        match self.holder {
            Holder::Ghost(_) => HeldBy::Quarantine,
            Holder::Task(_) if self.footprint.drains() || later.drains() => HeldBy::Barrier,
            Holder::Task(_) => HeldBy::Overlap,
        }
    }
}

/// Entries, in no order: what is there when a command arrives came before it.
#[derive(Debug, Default)]
pub(super) struct Order {
    pub(super) rules: Rules,
    left: Left,
    arrived: u64,
    entries: Vec<Entry>,
}

impl Order {
    pub(super) fn new(left: Left) -> Self {
        Self { left, ..Self::default() }
    }

    /// Adds a command and returns for what it has to wait.
    pub(super) fn arrive(&mut self, key: TaskKey, footprint: Footprint) -> Verdict {
        let (mut verdict, rules, left) = (Verdict::default(), self.rules, self.left);
        if broken!(rules, NothingWaits) {
            return verdict;
        }
        for entry in &mut self.entries {
            let wait = match entry.holder {
                Holder::Task(_) if entry.abandoned && entry.harms(&footprint) => Wait::Completed,
                Holder::Task(_) => entry.footprint.holds_back(&footprint, left, rules),
                Holder::Ghost(_) if entry.footprint.haunts(&footprint, entry.reads_too) => Wait::Completed,
                Holder::Ghost(_) => Wait::No,
            };
            match wait {
                Wait::No => {}
                Wait::HandedOver if entry.handed_over => verdict.follows = true,
                Wait::HandedOver => {
                    entry.followers.push(key);
                    verdict.waits_for(entry.holds_by(&footprint));
                }
                Wait::Completed => {
                    entry.dependents.push(key);
                    verdict.waits_for(entry.holds_by(&footprint));
                }
            }
        }
        self.arrived += 1;
        let entry = Entry::new(Holder::Task(key), footprint, false, Vec::new());
        self.entries.push(Entry { number: self.arrived, ..entry });
        verdict
    }

    /// The initiator takes a command for ended that may still run: now also what otherwise waits for nobody waits for it, unless
    /// it is `running`. Returns the commands that got one more entry to wait for.
    pub(super) fn abandon(&mut self, key: TaskKey, running: impl Fn(TaskKey) -> bool) -> Vec<TaskKey> {
        let Some(at) = self.entries.iter().position(|e| e.holder == Holder::Task(key)) else {
            return Vec::new();
        };
        let Some(own) = self.entries.get(at) else { return Vec::new() };
        let later = |e: &Entry| match e.holder {
            Holder::Task(k) => {
                let urgent = e.number > own.number && e.footprint.is_urgent() && own.harms(&e.footprint);
                (urgent && !running(k) && !own.dependents.contains(&k)).then_some(k)
            }
            Holder::Ghost(_) => None,
        };
        let waiting: Vec<TaskKey> = self.entries.iter().filter_map(later).collect();
        if let Some(own) = self.entries.get_mut(at) {
            own.abandoned = true;
            own.dependents.extend(&waiting);
        }
        waiting
    }

    /// The target has all of a command, in home's session. Returns the commands that waited only for that.
    pub(super) fn hand_over(&mut self, key: TaskKey) -> Vec<TaskKey> {
        if self.left == Left::default() {
            return Vec::new();
        }
        let Some(entry) = self.entries.iter_mut().find(|e| e.holder == Holder::Task(key)) else {
            return Vec::new();
        };
        entry.handed_over = true;
        std::mem::take(&mut entry.followers)
    }

    /// The target may have forgotten a command: nothing that is not `running` there follows it any more. Returns the
    /// commands that got one more entry to wait for.
    pub(super) fn doubt(&mut self, key: TaskKey, running: impl Fn(TaskKey) -> bool) -> Vec<TaskKey> {
        let handed_over = |e: &&Entry| e.holder == Holder::Task(key) && e.handed_over;
        if broken!(self.rules, RecalledIsFollowed) || !self.entries.iter().any(|e| handed_over(&e)) {
            return Vec::new();
        }
        let waiting: Vec<TaskKey> = self.followers_of(key).filter(|k| !running(*k)).collect();
        if let Some(own) = self.entries.iter_mut().find(|e| e.holder == Holder::Task(key)) {
            own.handed_over = false;
            own.followers.clone_from(&waiting);
        }
        waiting
    }

    /// A command has left the target without having completed, and will run again: nothing that is not `running` there
    /// follows it any more, and it follows nothing that has left the target before it. Returns the commands that got
    /// one more entry to wait for, once for each; it may be one of them.
    pub(super) fn recall(&mut self, key: TaskKey, running: impl Fn(TaskKey) -> bool) -> Vec<TaskKey> {
        let (left, rules) = (self.left, self.rules);
        let mut waiting = self.doubt(key, running);
        let Some(own) = self.entries.iter_mut().find(|e| e.holder == Holder::Task(key)) else {
            return Vec::new();
        };
        own.handed_over = false;
        let (number, footprint) = (own.number, own.footprint.clone());
        for earlier in self.entries.iter_mut().filter(|e| e.number < number && !e.handed_over) {
            let task = matches!(earlier.holder, Holder::Task(_));
            let followed = task && earlier.footprint.holds_back(&footprint, left, rules) == Wait::HandedOver;
            if followed && !earlier.followers.contains(&key) {
                earlier.followers.push(key);
                waiting.push(key);
            }
        }
        waiting
    }

    /// Later commands that the target keeps behind this one, if it has them both.
    pub(super) fn followers_of(&self, key: TaskKey) -> impl Iterator<Item = TaskKey> {
        let own = self.entries.iter().find(|e| e.holder == Holder::Task(key));
        own.into_iter().flat_map(|own| {
            self.entries.iter().filter_map(|e| match e.holder {
                Holder::Task(k) if e.number > own.number => {
                    let wait = own.footprint.holds_back(&e.footprint, self.left, self.rules);
                    (wait == Wait::HandedOver).then_some(k)
                }
                Holder::Task(_) | Holder::Ghost(_) => None,
            })
        })
    }

    /// The command left a ghost: what could be harmed and is not `running` waits for the ghost now. Returns the commands
    /// that got one more entry to wait for.
    pub(super) fn haunt(
        &mut self,
        key: TaskKey,
        ghost: u64,
        running: impl Fn(TaskKey) -> bool,
    ) -> Vec<TaskKey> {
        let Some(footprint) = self.footprint(Holder::Task(key)) else { return Vec::new() };
        let waiting = self.harmed(&footprint, false, |k| k == key || running(k));
        self.entries.push(Entry::new(Holder::Ghost(ghost), footprint, false, waiting.clone()));
        waiting
    }

    /// What a ghost does is not, or no longer, there already: reads that are not `running` wait for it too. Returns the
    /// commands that got one more entry to wait for.
    pub(super) fn haunt_reads(&mut self, ghost: u64, running: impl Fn(TaskKey) -> bool) -> Vec<TaskKey> {
        let holder = Holder::Ghost(ghost);
        let Some(footprint) = self.footprint(holder) else { return Vec::new() };
        let mut waiting = self.harmed(&footprint, true, running);
        let Some(entry) = self.entries.iter_mut().find(|e| e.holder == holder) else { return Vec::new() };
        entry.reads_too = true;
        waiting.retain(|k| !entry.dependents.contains(k));
        entry.dependents.extend(&waiting);
        waiting
    }

    /// The command runs again: it must not be overwritten by ghosts that were left while it ran. And where it or another
    /// that is `running` is HEAD OF QUEUE, so that the two did not wait for each other, it is to be the one that stays:
    /// its own ghost would undo the other. Returns for how many more entries it has to wait; `own` are its own ghosts.
    pub(super) fn run_again(
        &mut self,
        key: TaskKey,
        own: impl Fn(u64) -> bool,
        running: impl Fn(TaskKey) -> bool,
    ) -> u32 {
        let Some(footprint) = self.footprint(Holder::Task(key)) else { return 0 };
        let mut more = 0;
        for entry in &mut self.entries {
            let harmed = |reads_too| entry.footprint.haunts(&footprint, reads_too);
            let blocks = match entry.holder {
                Holder::Ghost(ghost) => !own(ghost) && harmed(entry.reads_too),
                Holder::Task(k) => {
                    k != key && running(k) && changes_medium(&entry.footprint.class) && harmed(false)
                }
            };
            if blocks && !entry.dependents.contains(&key) {
                entry.dependents.push(key);
                more += 1;
            }
        }
        more
    }

    /// A ghost on a whole unit, from before its first command.
    pub(super) fn inherit(&mut self, ghost: u64, lun: Lun) {
        let footprint = Footprint { lun, class: Class::Barrier, attribute: TaskAttribute::Simple };
        self.entries.push(Entry::new(Holder::Ghost(ghost), footprint, true, Vec::new()));
    }

    /// A command means something else than was thought, for what comes later.
    pub(super) fn reclassify(&mut self, key: TaskKey, class: Class) {
        if let Some(entry) = self.entries.iter_mut().find(|e| e.holder == Holder::Task(key)) {
            entry.footprint.class = class;
        }
    }

    fn footprint(&self, holder: Holder) -> Option<Footprint> {
        self.entries.iter().find(|e| e.holder == holder).map(|e| e.footprint.clone())
    }

    /// Commands that could be harmed by a ghost and are not `running`, on either side of it: a HEAD OF QUEUE command may
    /// leave one that earlier commands must fear.
    fn harmed(
        &self,
        footprint: &Footprint,
        reads_too: bool,
        running: impl Fn(TaskKey) -> bool,
    ) -> Vec<TaskKey> {
        let spared = broken!(self.rules, GhostsSpareTheWaiting);
        let harmed = |e: &Entry| match e.holder {
            Holder::Task(k) => {
                let waits = !running(k) && !spared;
                (waits && footprint.haunts(&e.footprint, reads_too)).then_some(k)
            }
            Holder::Ghost(_) => None,
        };
        self.entries.iter().filter_map(harmed).collect()
    }

    /// A command ends while it still waits (aborted): it must not be released later under a reused key.
    pub(super) fn stop_waiting(&mut self, key: TaskKey) {
        if broken!(self.rules, AbortedWaiterReleased) {
            return;
        }
        for entry in &mut self.entries {
            entry.dependents.retain(|k| *k != key);
            entry.followers.retain(|k| *k != key);
        }
    }

    /// Removes an entry and returns the commands that waited for it.
    pub(super) fn leave(&mut self, holder: Holder) -> Vec<TaskKey> {
        let Some(at) = self.entries.iter().position(|e| e.holder == holder) else {
            return Vec::new();
        };
        let mut gone = self.entries.swap_remove(at);
        gone.dependents.append(&mut gone.followers);
        gone.dependents
    }

    /// Number of entries that hold back `key`; for the invariant check.
    pub(super) fn blockers_of(&self, key: TaskKey) -> u32 {
        let waits = |list: &[TaskKey]| usize::from(list.contains(&key));
        let count: usize = self.entries.iter().map(|e| waits(&e.dependents) + waits(&e.followers)).sum();
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::Extent;

    /// Who follows nothing, and waits for so many.
    impl PartialEq<u32> for Verdict {
        fn eq(&self, blockers: &u32) -> bool {
            (self.blockers, self.follows) == (*blockers, false)
        }
    }

    const FOLLOWS: Verdict = Verdict { blockers: 0, by: HeldBy::Overlap, follows: true };

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
    fn on_the_only_path_ordered_follows_what_the_target_has_r241_r245() {
        let mut order = Order::new(Left::by(Barriers::Strict, 1));
        let ordered = |lba| Footprint { attribute: TaskAttribute::Ordered, ..write(lba) };
        order.arrive(0, write(0));
        order.arrive(1, read(64));
        assert_eq!(order.arrive(2, ordered(100)), 2);
        assert_eq!(order.hand_over(0), vec![2]);
        assert_eq!(order.hand_over(1), vec![2]);
        assert_eq!(order.arrive(3, read(200)), 1, "the target does not have the barrier yet");
        assert_eq!(order.hand_over(2), vec![3]);
        assert_eq!(order.arrive(4, read(300)), FOLLOWS);
        assert_eq!(
            order.arrive(5, ordered(0)).blockers,
            3,
            "for the reads to be sent, and for the write to complete"
        );
        assert_eq!(order.arrive(6, simple(Class::Flush(Extent::ALL))).blockers, 3, "flushes for the writes");
    }

    #[test]
    fn what_runs_again_follows_nothing_that_the_target_had_r245() {
        let mut order = Order::new(Left::by(Barriers::Strict, 1));
        let ordered = Footprint { attribute: TaskAttribute::Ordered, ..write(64) };
        order.arrive(0, write(0));
        order.hand_over(0);
        assert_eq!(order.arrive(1, ordered), FOLLOWS);
        order.hand_over(1);
        assert_eq!(order.arrive(2, read(200)), FOLLOWS);
        assert_eq!(order.arrive(3, read(300)), FOLLOWS);
        assert!(order.recall(3, |_| false).is_empty(), "it has not been sent");
        assert!(order.recall(2, |k| k < 2).is_empty(), "nothing is ordered behind a read");
        assert_eq!(order.recall(1, |k| k < 1), vec![2, 3]);
        assert_eq!(order.recall(0, |_| false), vec![1]);
        assert_eq!((order.blockers_of(0), order.blockers_of(1), order.blockers_of(2)), (0, 1, 1));
        assert_eq!(order.hand_over(0), vec![1]);
        assert_eq!(order.leave(Holder::Task(1)), vec![2, 3]);
    }

    #[test]
    fn what_runs_again_follows_nothing_that_left_the_target_before_it_r245() {
        let mut order = Order::new(Left::by(Barriers::Strict, 1));
        let ordered = Footprint { attribute: TaskAttribute::Ordered, ..write(64) };
        order.arrive(0, read(0));
        order.hand_over(0);
        assert_eq!(order.arrive(1, ordered), FOLLOWS);
        order.hand_over(1);
        assert_eq!(order.arrive(2, read(200)), FOLLOWS);
        order.hand_over(2);
        assert!(order.recall(0, |k| k > 0).is_empty(), "the others may have run by now");
        assert_eq!(order.recall(1, |k| k > 1), vec![1]);
        assert_eq!(order.recall(2, |_| false), vec![2]);
        assert_eq!(order.hand_over(0), vec![1]);
        assert_eq!(order.blockers_of(2), 1);
    }

    #[test]
    fn nothing_follows_what_the_target_may_have_forgotten_r245() {
        let mut order = Order::new(Left::by(Barriers::Strict, 1));
        let ordered = |lba| Footprint { attribute: TaskAttribute::Ordered, ..write(lba) };
        order.arrive(0, write(0));
        order.hand_over(0);
        assert_eq!(order.arrive(1, ordered(64)), FOLLOWS);
        assert_eq!(order.arrive(2, ordered(128)).blockers, 1, "behind the other, which is not there yet");
        assert_eq!(order.doubt(0, |k| k < 2), vec![2], "the other may have run by now");
        assert!(order.doubt(0, |k| k < 2).is_empty(), "once is enough");
        assert_eq!(order.arrive(3, ordered(192)), 3);
        assert_eq!(order.followers_of(0).collect::<Vec<_>>(), vec![1, 2, 3]);
        assert!(order.recall(0, |k| k == 1).is_empty(), "they wait already");
        assert_eq!(order.hand_over(0), vec![2, 3]);
    }

    #[test]
    fn with_several_paths_ordered_waits_for_completion_and_native_leaves_it_and_flushes() {
        let ordered = Footprint { attribute: TaskAttribute::Ordered, ..read(64) };
        let flush = simple(Class::Flush(Extent::ALL));
        for (barriers, expected) in [(Barriers::Strict, 1), (Barriers::Native, 0)] {
            let mut order = Order::new(Left::by(barriers, 2));
            order.arrive(0, write(0));
            order.hand_over(0);
            assert_eq!(order.arrive(1, ordered.clone()).blockers, expected);
            assert!(order.leave(Holder::Task(1)).is_empty());
            assert_eq!(order.arrive(2, flush.clone()).blockers, expected);
        }
    }

    #[test]
    fn untagged_commands_run_one_at_a_time_and_aca_passes_r243() {
        let mut order = Order::new(Left::by(Barriers::Strict, 1));
        let with = |attribute, lba| Footprint { attribute, ..read(lba) };
        order.arrive(0, with(TaskAttribute::Untagged, 0));
        order.hand_over(0);
        assert_eq!(order.arrive(1, with(TaskAttribute::Untagged, 8)), 1);
        assert_eq!(order.arrive(2, with(TaskAttribute::Aca, 0)), 0);
        assert_eq!(Order::default().arrive(0, with(TaskAttribute::Aca, 0)), 0);
    }

    #[test]
    fn other_units_do_not_wait() {
        let mut order = Order::default();
        order.arrive(0, simple(Class::Barrier));
        assert_eq!(order.arrive(1, Footprint { lun: Lun(1 << 48), ..write(0) }), 0);
        assert_eq!(order.arrive(2, simple(Class::Stateless)), 0);
    }

    #[test]
    fn a_flush_waits_for_the_writes_in_its_range_and_they_for_it_r244() {
        let mut order = Order::default();
        let flush = |lba, blocks| simple(Class::Flush(Extent { lba, blocks }));
        order.arrive(0, write(0));
        order.arrive(1, write(64));
        assert_eq!(order.arrive(2, flush(64, 8)), 1);
        assert_eq!(order.arrive(3, flush(0, u64::MAX)), 2, "the writes, not the other flush");
        assert_eq!(order.arrive(4, write(128)), 1, "behind the flush of everything");
        assert_eq!(order.arrive(5, read(68)), 1, "reads care for the write only");
        assert_eq!(order.leave(Holder::Task(1)), vec![2, 3, 5]);
    }

    #[test]
    fn ghosts_hold_back_newer_writes_only() {
        let mut order = Order::default();
        order.arrive(0, write(0));
        order.arrive(1, write(4));
        order.arrive(2, read(4));
        assert_eq!(order.haunt(0, 77, |_| false), vec![1], "the overlapping write, not the read");
        assert_eq!(order.leave(Holder::Task(0)), vec![1, 2]);
        assert_eq!(order.blockers_of(1), 1);
        assert_eq!(order.arrive(3, write(0)), 3, "the ghost, the waiting write and the read");
        assert_eq!(order.arrive(4, write(64)), 0);
        assert_eq!(order.arrive(5, simple(Class::Flush(Extent::ALL))), 3, "the writes, not the ghost");
        assert_eq!(order.leave(Holder::Ghost(77)), vec![1, 3]);
    }

    #[test]
    fn ghosts_that_nobody_writes_again_hold_back_reads_too() {
        let mut order = Order::default();
        order.arrive(0, write(0));
        order.arrive(1, read(4));
        assert!(order.haunt(0, 77, |_| false).is_empty());
        assert_eq!(order.haunt_reads(77, |k| k == 0), vec![1]);
        assert_eq!(order.leave(Holder::Task(0)), vec![1]);
        assert_eq!(order.blockers_of(1), 1);
        assert_eq!(order.arrive(2, read(0)), 1);
        assert_eq!(order.arrive(3, read(64)), 0);
        order.inherit(78, Lun(0));
        assert_eq!(order.arrive(4, read(64)), 1, "the whole unit");
        assert_eq!(order.arrive(5, simple(Class::Stateless)), 0);
    }

    #[test]
    fn a_ghost_whose_command_is_done_can_hold_back_reads_later() {
        let mut order = Order::default();
        order.arrive(0, write(0));
        order.haunt(0, 77, |_| false);
        order.leave(Holder::Task(0));
        assert_eq!(order.arrive(1, read(4)), 0);
        assert_eq!(order.arrive(2, read(4)), 0);
        assert_eq!(order.arrive(3, write(4)), 3, "the reads and the ghost");
        assert_eq!(order.haunt_reads(77, |k| k == 1), vec![2], "the write waits already");
        assert_eq!(order.arrive(4, read(0)), 2, "the write and the ghost");
        assert_eq!(order.leave(Holder::Ghost(77)), vec![3, 2, 4]);
    }

    #[test]
    fn head_of_queue_and_what_it_passed_do_not_undo_each_other() {
        let mut order = Order::default();
        let urgent = Footprint { attribute: TaskAttribute::HeadOfQueue, ..write(0) };
        order.arrive(0, write(0));
        order.arrive(1, write(4));
        assert_eq!(order.arrive(2, urgent), 0, "it waits for nothing");
        assert_eq!(order.haunt(2, 77, |k| k == 0), vec![1], "an earlier write that has not started");
        assert_eq!(order.run_again(2, |g| g == 77, |k| k == 0), 1, "write 0 would be undone by the ghost");
        assert_eq!(order.haunt(0, 78, |_| false), vec![1, 2]);
        assert_eq!(order.run_again(0, |g| g == 78, |_| false), 1, "the ghost of the urgent write");
    }

    #[test]
    fn it_is_known_why_a_command_waits() {
        let mut order = Order::default();
        order.inherit(78, Lun(1 << 48));
        order.arrive(0, write(0));
        assert_eq!(order.arrive(1, read(4)).by, HeldBy::Overlap);
        assert_eq!(order.arrive(2, simple(Class::Flush(Extent::ALL))).by, HeldBy::Barrier);
        let ordered = Footprint { attribute: TaskAttribute::Ordered, ..read(64) };
        assert_eq!(order.arrive(3, ordered).by, HeldBy::Barrier);
        assert_eq!(order.arrive(4, Footprint { lun: Lun(1 << 48), ..write(0) }).by, HeldBy::Quarantine);
    }

    #[test]
    fn an_aborted_waiter_is_forgotten() {
        let mut order = Order::default();
        order.arrive(0, write(0));
        order.arrive(1, write(0));
        order.stop_waiting(1);
        order.leave(Holder::Task(1));
        assert!(order.leave(Holder::Task(0)).is_empty());
    }
}
