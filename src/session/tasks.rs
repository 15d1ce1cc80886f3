//! Every task from arrival to response: what it is, its data, and where it runs.
//!
//! A task of the initiator lives from the arrival of its command until its response was sent (or a task management
//! function ended it). A task of Braid's own (identity checks, fences) has no initiator behind it. Each sending of a
//! task over a connection is a [`Run`] with its own tag, so that answers to an earlier run are recognised as stale.

use super::api::{ConnId, LineId, PathId, SessionPlan};
use super::cleared::InQuestion;
use super::data::{ReadProgress, WriteBuffer};
use super::group::TargetId;
use super::nexus::NexusId;
use super::rules::Rules;
use super::tally::HeldBy;
use crate::iscsi::{Cdb, CmdSn, Itt, Lun, Payload, ScsiCommand, ScsiResponse, TaskAttribute, Ttt};
use crate::scsi::reservation::Request;
use crate::scsi::{Class, Command};
use slab::Slab;
use std::collections::VecDeque;
use std::time::Instant;

/// Index into the task table; reused after the task has ended.
pub(super) type TaskKey = usize;

/// Who wants the task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// The initiator, over this connection and under this tag and number.
    Initiator { line: LineId, itt: Itt, cmd_sn: CmdSn, immediate: bool },
    /// An identity check, by its id.
    Check(u64),
    /// A question about what a nexus shows, by the id of its survey.
    Survey(u64),
    /// A fence step of a nexus, for a logical unit.
    Fence(NexusId),
    /// A question for the unit that a task management function met, by the tag that the function waits for.
    Met(Itt),
    /// A question for registrations, or a change of one.
    Registration,
    /// A port group of the unit is to be made active.
    Transition,
    /// A target's write cache is to be emptied.
    Wash(TargetId),
}

/// An R2T of the target that is being answered.
#[derive(Debug)]
pub(super) struct Solicited {
    pub(super) ttt: Ttt,
    pub(super) lun: Lun,
    /// Next byte to send.
    pub(super) next: u32,
    /// First byte behind the range.
    pub(super) end: u32,
    pub(super) data_sn: u32,
}

/// One sending of a task over a connection.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) conn: ConnId,
    pub(super) path: PathId,
    pub(super) nexus: NexusId,
    /// The LUN there.
    pub(super) lun: Lun,
    pub(super) itt: Itt,
    pub(super) cmd_sn: CmdSn,
    pub(super) sent_at: Instant,
    /// Somebody may have cleared it.
    pub(super) in_question: Option<InQuestion>,
    /// How often its nexus was asked what became of it.
    pub(super) probes: u32,
    /// Data-In bytes seen in this run; they come in order.
    pub(super) received: u32,
    /// Bytes that the initiator had before it.
    pub(super) passed_on_before: u32,
    /// Next DataSN expected (R126).
    pub(super) next_sn: u32,
    /// R2Ts not fully answered yet, in order of receipt (R123).
    pub(super) solicited: VecDeque<Solicited>,
    /// Bytes of write data sent.
    pub(super) data_sent: u32,
    /// Bytes counted as load of the path.
    pub(super) load: u64,
}

/// A task.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) origin: Origin,
    pub(super) lun: Lun,
    pub(super) cdb: Cdb,
    pub(super) attribute: TaskAttribute,
    pub(super) read: bool,
    pub(super) write: bool,
    /// Expected Data Transfer Length in bytes.
    pub(super) expected: u32,
    pub(super) bidi_read: Option<u32>,
    pub(super) command: Command,
    /// Position in the order of arrival.
    pub(super) seq: u64,
    pub(super) arrived: Instant,
    /// Entries of the order it still waits for.
    pub(super) blockers: u32,
    /// For what, and since when.
    pub(super) held: Option<(HeldBy, Instant)>,
    /// Whether it stands in a send queue.
    pub(super) queued: bool,
    /// Only home will do: not block I/O, or a further nexus had something to say that home must say itself.
    pub(super) home_only: bool,
    /// It was sent behind commands that the target still had, and may rightly wait for them there.
    pub(super) follows: bool,
    /// It was lost, and waits until it is known whether it may run twice.
    pub(super) undecided: bool,
    /// For a flush: the writes answered before it was first to be sent; they must be durable when it is answered.
    pub(super) flushes: Option<u64>,
    /// Since when one of them cannot be made so.
    pub(super) cut_off: Option<Instant>,
    /// It must go home, whatever it is.
    pub(super) bound: bool,
    /// Times it was asked again elsewhere.
    pub(super) moves: u32,
    /// The path on which it is late, so that it was asked again over another; until anything of an answer comes.
    pub(super) hedged: Option<PathId>,
    /// Times it was given up with a lost nexus.
    pub(super) losses: u32,
    /// Times it was refused for the state of a port.
    pub(super) refusals: u32,
    /// It was answered with GOOD.
    pub(super) done: bool,
    /// The connection that it came over is gone: it ends unheard ([`super::line`]).
    pub(super) abandoned: bool,
    /// The initiator has data of a run that went wrong: they may be anything.
    pub(super) tainted: bool,
    /// The initiator asked in vain for data that it lost.
    pub(super) unrecovered: bool,
    pub(super) inbound: WriteBuffer,
    /// When write data were asked for last; and when that was, or some came.
    pub(super) data_asked: Instant,
    pub(super) data_since: Instant,
    /// How often in a row they were asked for again in vain.
    pub(super) asked_in_vain: u32,
    /// Memory is booked for all its write data.
    pub(super) reserved: bool,
    pub(super) outbound: ReadProgress,
    pub(super) run: Option<Run>,
    /// A response that waits until the initiator has sent the data it owes (R138).
    pub(super) held_response: Option<Box<ScsiResponse>>,
    /// Data-In that is not passed on as it comes.
    pub(super) collected: Vec<u8>,
    /// Sent with this CDB and length instead of its own: the answer is rewritten.
    pub(super) wide: Option<(Cdb, u32)>,
    /// For Braid's own tasks: the nexus to use.
    pub(super) only_nexus: Option<NexusId>,
    /// For Braid's own tasks: the LUN on that nexus, if it is not to be looked up.
    pub(super) lun_there: Option<Lun>,
}

impl Task {
    /// A task from the initiator's command.
    pub(super) fn from_initiator(line: LineId, command: &ScsiCommand, seq: u64, now: Instant) -> Self {
        let mut meaning = Command::parse(&command.cdb.0);
        let whole = command.data.len() == command.expected_length as usize;
        if whole && matches!(meaning.class, Class::WriteAnywhere(_)) {
            meaning.narrow(&command.data.contiguous());
        }
        let plain_block_io = matches!(meaning.class, Class::Read(_) | Class::Write(_))
            && command.attribute == TaskAttribute::Simple
            && command.bidi_read_length.is_none();
        Self {
            origin: Origin::Initiator {
                line,
                itt: command.itt,
                cmd_sn: command.cmd_sn,
                immediate: command.immediate,
            },
            lun: command.lun,
            cdb: command.cdb.clone(),
            attribute: command.attribute,
            read: command.read,
            write: command.write,
            // A length without a direction means nothing (R131).
            expected: if command.read || command.write { command.expected_length } else { 0 },
            bidi_read: command.bidi_read_length,
            command: meaning,
            seq,
            arrived: now,
            blockers: 0,
            held: None,
            queued: false,
            home_only: !plain_block_io,
            follows: false,
            undecided: false,
            flushes: None,
            cut_off: None,
            bound: false,
            moves: 0,
            hedged: None,
            losses: 0,
            refusals: 0,
            done: false,
            abandoned: false,
            tainted: false,
            unrecovered: false,
            inbound: WriteBuffer::default(),
            data_asked: now,
            data_since: now,
            asked_in_vain: 0,
            reserved: false,
            outbound: ReadProgress::default(),
            run: None,
            held_response: None,
            collected: Vec::new(),
            wide: None,
            only_nexus: None,
            lun_there: None,
        }
    }

    /// For a task of Braid's own: it goes to this LUN of its nexus.
    pub(super) fn under(self, lun_there: Lun) -> Self {
        Self { lun_there: Some(lun_there), ..self }
    }

    /// A task of Braid's own, bound to a nexus; reads at most `expected` bytes.
    pub(super) fn own(
        origin: Origin,
        nexus: NexusId,
        lun: Lun,
        cdb: Cdb,
        expected: u32,
        now: Instant,
    ) -> Self {
        let command =
            ScsiCommand { read: expected > 0, lun, expected_length: expected, cdb, ..ScsiCommand::default() };
        let task = Self::from_initiator(SessionPlan::FIRST_LINE, &command, 0, now);
        Self { origin, only_nexus: Some(nexus), ..task }
    }

    /// A task of Braid's own that sends this data.
    pub(super) fn own_write(
        origin: Origin,
        nexus: NexusId,
        lun: Lun,
        cdb: Cdb,
        data: Vec<u8>,
        now: Instant,
    ) -> Self {
        let mut task = Self::own(origin, nexus, lun, cdb, u32::try_from(data.len()).unwrap_or(u32::MAX), now);
        (task.read, task.write) = (false, true);
        task.inbound.begin(Payload::from(data), false);
        task
    }

    /// The parameters, if it is a PERSISTENT RESERVE OUT that has them.
    pub(super) fn persistent_request(&self) -> Option<Request> {
        Request::parse(&self.cdb.0, &self.inbound.slice(0, 24).contiguous())
    }

    /// The CDB that it is sent with.
    pub(super) fn asked_cdb(&self) -> &Cdb {
        self.wide.as_ref().map_or(&self.cdb, |(cdb, _)| cdb)
    }

    /// The Expected Data Transfer Length that it is sent with.
    pub(super) fn asked_length(&self) -> u32 {
        self.wide.as_ref().map_or(self.expected, |(_, length)| *length)
    }

    /// Whether nothing of the medium is seen or changed by it, whatever its CDB says: the initiator expects no data, or
    /// data of the wrong direction. It waits for nobody and nobody for it: some targets never answer such a command.
    pub(super) fn moves_nothing(&self) -> bool {
        let (name, nothing) = (self.command.name, self.expected == 0);
        match self.command.class {
            Class::Read(_) if name.starts_with("READ") => nothing || !self.read,
            // Without data to compare with, VERIFY looks at the medium all the same.
            Class::Read(_) if name.starts_with("VERIFY") => self.compares_data() && (nothing || !self.write),
            // PRE-FETCH.
            Class::Read(_) => true,
            // WRITE SAME may write without data.
            Class::Write(_) => (nothing || !self.write) && !name.starts_with("WRITE SAME"),
            Class::WriteAnywhere(_)
            | Class::WriteOnce(_)
            | Class::Flush(_)
            | Class::Survey(_)
            | Class::Query
            | Class::Stateless
            | Class::Reservation
            | Class::Barrier => false,
        }
    }

    /// The byte check of VERIFY.
    fn compares_data(&self) -> bool {
        const BYTE_CHECK: u8 = 0x06;
        let at = if self.command.name.ends_with("(32)") { 10 } else { 1 };
        self.cdb.0.get(at).is_some_and(|byte| byte & BYTE_CHECK != 0)
    }

    /// Whether it is a read of the initiator's of which the data are passed on as they come.
    pub(super) fn is_plain_read(&self) -> bool {
        let one_way = self.read && !self.write && self.bidi_read.is_none() && self.wide.is_none();
        self.is_initiators() && one_way && matches!(self.command.class, Class::Read(_))
    }

    /// Whether the initiator wants it.
    pub(super) const fn is_initiators(&self) -> bool {
        matches!(self.origin, Origin::Initiator { .. })
    }

    /// Whether it is a question of a survey: its unit is not known yet.
    pub(super) const fn is_survey(&self) -> bool {
        matches!(self.origin, Origin::Survey(_))
    }

    /// Whether it may be sent again after its outcome became unknown.
    pub(super) fn may_run_twice(&self) -> bool {
        self.command.class.may_run_twice()
    }

    /// Whether an unanswered run of it can leave something behind on the medium.
    pub(super) fn leaves_ghost(&self) -> bool {
        match self.command.class {
            Class::Write(_)
            | Class::WriteAnywhere(_)
            | Class::WriteOnce(_)
            | Class::Reservation
            | Class::Barrier => true,
            Class::Read(_) | Class::Flush(_) | Class::Survey(_) | Class::Query | Class::Stateless => false,
        }
    }

    /// Whether the target waits for write data that has not come yet, or may.
    pub(super) fn awaits_data(&self) -> bool {
        let asked = self.run.as_ref().is_some_and(|r| !r.solicited.is_empty());
        asked || self.write && self.inbound.received() < self.expected
    }

    /// A flush with no write before it.
    pub(super) fn flushes_nothing(&self) -> bool {
        matches!(self.command.class, Class::Flush(_)) && self.blockers == 0
    }

    /// It goes where commands are that it follows.
    pub(super) fn follow(&mut self) {
        (self.follows, self.home_only) = (true, true);
    }

    /// Whether the target has all of it.
    pub(super) fn is_whole_at_target(&self) -> bool {
        self.run.as_ref().is_some_and(|run| !self.write || run.data_sent >= self.expected)
    }

    /// Whether it lacks data for which no memory is booked.
    pub(super) fn is_starving(&self) -> bool {
        self.write && !self.reserved && self.inbound.received() < self.expected
    }

    /// Bytes booked for data that is still to come.
    pub(super) fn booked(&self) -> u64 {
        if self.reserved { u64::from(self.expected.saturating_sub(self.inbound.received())) } else { 0 }
    }

    /// Whether the initiator still owes data that it was asked for or announced.
    pub(super) fn data_due(&self) -> bool {
        self.write && self.inbound.is_due()
    }

    /// The connection on which the initiator is told of it; none for a task of Braid's own, and once it is gone.
    pub(super) const fn line(&self) -> Option<LineId> {
        match self.origin {
            Origin::Initiator { line, .. } if !self.abandoned => Some(line),
            Origin::Initiator { .. }
            | Origin::Check(_)
            | Origin::Survey(_)
            | Origin::Fence(_)
            | Origin::Met(_)
            | Origin::Registration
            | Origin::Transition
            | Origin::Wash(_) => None,
        }
    }

    /// The initiator's tag; none for a task of Braid's own.
    pub(super) fn initiator_tag(&self) -> Itt {
        match self.origin {
            Origin::Initiator { itt, .. } => itt,
            Origin::Check(_)
            | Origin::Survey(_)
            | Origin::Fence(_)
            | Origin::Met(_)
            | Origin::Registration
            | Origin::Transition
            | Origin::Wash(_) => Itt::NONE,
        }
    }

    /// Bytes of read data expected of the target.
    pub(super) fn read_length(&self) -> u32 {
        if self.write { self.bidi_read.unwrap_or(0) } else { self.asked_length() }
    }
}

/// All tasks, and the tags by which runs of them are found.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    pub(super) rules: Rules,
    slab: Slab<Task>,
    generation: u32,
    by_itt: rustc_hash::FxHashMap<Itt, TaskKey>,
    /// Tags of the initiator whose tasks ended a short while ago, with their data perhaps still under way over these connections.
    concluded: VecDeque<(LineId, Itt)>,
    commands: u32,
}

/// How many ended tags are remembered.
const CONCLUDED_KEPT: usize = 256;
/// Tags of runs have this bit clear; tags of control PDUs have it set.
pub(super) const CONTROL_TAG: u32 = 0x8000_0000;

impl Tasks {
    pub(super) fn insert(&mut self, task: Task) -> TaskKey {
        let origin = task.origin;
        let key = self.slab.insert(task);
        if let Origin::Initiator { itt, immediate, .. } = origin {
            self.by_itt.insert(itt, key);
            self.commands += u32::from(!immediate);
        }
        key
    }

    pub(super) fn remove(&mut self, key: TaskKey) -> Option<Task> {
        let task = self.slab.try_remove(key)?;
        if let Origin::Initiator { line, itt, immediate, .. } = task.origin
            && !task.abandoned
        {
            self.by_itt.remove(&itt);
            self.commands -= u32::from(!immediate);
            if task.write {
                self.expect_remains(line, itt);
            }
        }
        Some(task)
    }

    /// The connection that a task of the initiator's came over is gone: its tag may be used again, and its place in the window.
    pub(super) fn abandon(&mut self, key: TaskKey) {
        let Some(task) = self.slab.get_mut(key).filter(|task| !task.abandoned) else { return };
        if let Origin::Initiator { itt, immediate, .. } = task.origin {
            task.abandoned = true;
            self.by_itt.remove(&itt);
            self.commands -= u32::from(!immediate);
        }
    }

    /// Data of a task of this tag may still be under way over a connection, and is nobody's.
    pub(super) fn expect_remains(&mut self, line: LineId, itt: Itt) {
        if self.concluded.len() == CONCLUDED_KEPT {
            self.concluded.pop_front();
        }
        self.concluded.push_back((line, itt));
    }

    pub(super) fn get(&self, key: TaskKey) -> Option<&Task> {
        self.slab.get(key)
    }

    pub(super) fn get_mut(&mut self, key: TaskKey) -> Option<&mut Task> {
        self.slab.get_mut(key)
    }

    /// Whether the task is at a target.
    pub(super) fn runs(&self, key: TaskKey) -> bool {
        self.slab.get(key).is_some_and(|t| t.run.is_some())
    }

    /// The initiator's task with this tag.
    pub(super) fn find(&self, itt: Itt) -> Option<TaskKey> {
        self.by_itt.get(&itt).copied()
    }

    /// Whether a task of a connection with this tag ended a short while ago.
    pub(super) fn ended_lately(&self, line: LineId, itt: Itt) -> bool {
        self.concluded.contains(&(line, itt))
    }

    /// Non-immediate commands of the initiator that have not completed.
    pub(super) fn commands(&self) -> u32 {
        self.commands
    }

    /// Immediate commands of the initiator that have not completed.
    pub(super) fn immediate(&self) -> usize {
        self.by_itt.len().saturating_sub(self.commands as usize)
    }

    /// Commands of the initiator that have not completed.
    pub(super) fn outstanding(&self) -> usize {
        self.by_itt.len()
    }

    /// Tasks of any kind.
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    /// All tasks, in no particular order that matters.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TaskKey, &Task)> {
        self.slab.iter()
    }

    /// A tag for a new run of `key`: never the same for two runs that could meet.
    pub(super) fn tag(&mut self, key: TaskKey) -> Itt {
        self.generation = (self.generation + u32::from(!broken!(self.rules, StaleAnswersTaken))) & 0x7fff;
        let index = u32::try_from(key & 0xffff).unwrap_or(0);
        Itt(self.generation << 16 | index)
    }

    /// The task whose current run over `conn` has this tag.
    pub(super) fn running(&mut self, conn: ConnId, itt: Itt) -> Option<(TaskKey, &mut Task)> {
        let key = (itt.0 & 0xffff) as usize;
        let anywhere = broken!(self.rules, StaleAnswersTaken);
        let task = self.slab.get_mut(key)?;
        let run = task.run.as_ref()?;
        (itt.0 & CONTROL_TAG == 0 && run.itt == itt && (run.conn == conn || anywhere)).then_some((key, task))
    }

    /// Keys of tasks that satisfy `wanted`, in order of arrival.
    pub(super) fn select(&self, wanted: impl Fn(&Task) -> bool) -> Vec<TaskKey> {
        let mut keys: Vec<(u64, TaskKey)> =
            self.slab.iter().filter(|(_, t)| wanted(t)).map(|(k, t)| (t.seq, k)).collect();
        keys.sort_unstable();
        keys.into_iter().map(|(_, k)| k).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scsi::Extent;

    fn task(cdb: &[u8], data: &[u8], expected_length: u32) -> Task {
        let (cdb, data) = (Cdb(cdb.iter().copied().collect()), data.to_vec().into());
        let (read, write) = (cdb.0[0] == 0x28, expected_length > 0 && cdb.0[0] != 0x28);
        let command = ScsiCommand { read, write, cdb, data, expected_length, ..ScsiCommand::default() };
        #[expect(clippy::disallowed_methods, reason = "an arbitrary origin")]
        let now = Instant::now();
        Task::from_initiator(SessionPlan::FIRST_LINE, &command, 1, now)
    }

    #[test]
    fn verify_looks_at_the_medium_without_data_r244() {
        let verify = |flags| [0x2f, flags, 0, 0, 0, 9, 0, 0, 1, 0];
        assert!(!task(&verify(0), &[], 0).moves_nothing());
        assert!(task(&verify(2), &[], 0).moves_nothing(), "nothing to compare with");
        assert!(!task(&verify(2), &[], 512).moves_nothing());
        assert!(task(&[0x28, 0, 0, 0, 0, 9, 0, 0, 1, 0], &[], 0).moves_nothing());
        assert!(task(&[0x34, 0, 0, 0, 0, 9, 0, 0, 1, 0], &[], 0).moves_nothing(), "nobody sees a PRE-FETCH");
    }

    #[test]
    fn unmap_that_came_with_all_its_data_overlaps_only_what_it_names() {
        let mut data = [0; 24];
        (data[15], data[19]) = (40, 8);
        let cdb = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
        let within = Class::WriteAnywhere(Extent { lba: 40, blocks: 8 });
        assert_eq!(task(&cdb, &data, 24).command.class, within);
        assert_eq!(task(&cdb, &data[..20], 24).command.class, Class::WriteAnywhere(Extent::ALL));
    }
}
