//! Mutants: the engine with one of its rules broken on purpose, to prove that the simulator would notice. For tests only.
//!
//! Each says what is broken and which promise (DESIGN: P1 order, P2 no loss, P3 no surprise, P4 progress, P5 honesty) or
//! requirement falls with it. Most do no harm until something is lost at a bad moment.

use super::rules::Rules;
use super::{FenceMethod, Session};
use crate::scsi::{Class, Extent};
use std::sync::OnceLock;

macro_rules! mutants {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// A rule that is broken.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mutant {
            $($(#[$doc])+ $variant,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its name, which stays the same.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

mutants! {
    // What waits for what.

    /// Where several targets took writes, only the one that home is with is flushed (P2, P5).
    OnlyHomeFlushed = "only-home-flushed",

    /// What a session could not flush at a target is not told to the next (P2).
    UnwashedForgotten = "unwashed-forgotten",

    /// A flush of Braid's own is never asked about, however long it stays unanswered (P4).
    WashNotAskedAbout = "wash-not-asked-about",

    /// Nothing waits for anything: order keeping is off (P1). Benchmarks compare with it.
    NothingWaits = "nothing-waits",
    /// A read does not wait for an earlier overlapping write: it may return old data (P1).
    ReadsPassWrites = "reads-pass-writes",
    /// A write does not wait for an earlier overlapping read: the read may return what came later (P1).
    WritesPassReads = "writes-pass-reads",
    /// A write does not wait for an earlier overlapping write: the earlier may be what stays (P1).
    WritesPassWrites = "writes-pass-writes",
    /// UNMAP is taken for a command that overlaps nothing (P1).
    UnmapOverlapsNothing = "unmap-overlaps-nothing",
    /// ORDERED does not wait for earlier commands (P1, R241).
    OrderedWaitsForNothing = "ordered-waits-for-nothing",
    /// Later commands do not wait for ORDERED (P1, R241).
    OrderedHoldsNothingBack = "ordered-holds-nothing-back",
    /// A flush does not wait for earlier writes: what it answered for is lost at a power cut (P2, R244).
    FlushWaitsForNoWrite = "flush-waits-for-no-write",
    /// Writes do not wait for an earlier flush: at a power cut they may be there without what came before it (P1, R244).
    WritesPassFlush = "writes-pass-flush",
    /// A flush of no number of blocks is taken for one of none, not of all to the end (P2, R244).
    FlushToTheEndIsOfNone = "flush-to-the-end-is-of-none",
    /// A flush waits only for writes to the first block of its range (P2, R244).
    FlushOfFirstBlock = "flush-of-first-block",
    /// What followed a command on the only path does not wait for it when it was lost and runs again (P1).
    RecalledIsFollowed = "recalled-is-followed",
    /// A barrier is sent behind a write whose data the target does not have yet, and passes it there (P1).
    FollowsUnsentData = "follows-unsent-data",
    /// Every unit is taken for a disk: what is lost of a tape's or a zoned disk's writes is written again (P5).
    EveryUnitIsADisk = "every-unit-is-a-disk",
    /// A unit on which an ACA condition may be is spread over nexuses (P3, R162).
    NacaSpread = "naca-spread",
    /// What the Control mode page says is ignored: a unit with QERR is spread over nexuses (P3, R242).
    ControlPageIgnored = "control-page-ignored",
    /// Unknown opcodes, MODE SELECT and the like are no barrier (P1, R244).
    BarriersFlow = "barriers-flow",
    /// A command that was aborted while it waited is released all the same, under a key that has another owner now (P1).
    AbortedWaiterReleased = "aborted-waiter-released",

    // Ghosts and fences.

    /// A session reinstated at another target of the same name passes for a fence (P2).
    FenceUnrecognised = "fence-unrecognised",
    /// What an earlier session left at the target is not fenced (P1, P2).
    PredecessorForgotten = "predecessor-forgotten",
    /// A lost write leaves no ghost: newer writes do not wait for the fence (P2).
    NoGhosts = "no-ghosts",
    /// Only lost plain writes leave ghosts, not UNMAP, COMPARE AND WRITE or what is unknown (P2).
    OnlyPlainWritesHaunt = "only-plain-writes-haunt",
    /// A ghost holds back what comes later, but not what waited already for the lost write (P2).
    GhostsSpareTheWaiting = "ghosts-spare-the-waiting",
    /// The quarantine ends at once, as if fence_time were zero (P2).
    QuarantineEndsAtOnce = "quarantine-ends-at-once",
    /// Session reinstatement alone counts as a fence where only an ORDERED command makes one (P2; tgt).
    ReinstatementAloneFences = "reinstatement-alone-fences",
    /// Session reinstatement alone counts as a fence where nothing but time is known to be one (P2; unknown targets).
    ReinstatementFencesTheUnknown = "reinstatement-fences-the-unknown",
    /// Braid sends ORDERED where reinstatement is the fence, which may block the unit for ever (P4; LIO).
    OrderedWhereItWedges = "ordered-where-it-wedges",
    /// The fence of one unit lays the ghosts of all units of the nexus (P2).
    FenceLaysAllUnits = "fence-lays-all-units",
    /// The fence of one nexus lays the ghosts of all nexuses on the unit (P2).
    FenceLaysAllNexuses = "fence-lays-all-nexuses",
    /// A unit attention counts as the answer to a fence's ORDERED command, though it is given ahead of its turn (P2).
    AttentionTakenForFence = "attention-taken-for-fence",
    /// A login into another portal group counts as reinstatement of the old session (P2, R9).
    ForeignGroupFences = "foreign-group-fences",
    /// A session is fenced over a portal of another target that uses the same portal group tag (P2, R9).
    FencedAtAnotherTarget = "fenced-at-another-target",
    /// The login that is to fence comes with another ISID: the old session lives on (P2, R196).
    FenceWithAnotherIsid = "fence-with-another-isid",
    /// The session ends without waiting until its ghosts are fenced (P2, for the next session).
    EndLeavesGhosts = "end-leaves-ghosts",

    // What was under way on a lost nexus.

    /// Commands that must not run twice are run again (P5).
    RunAgainWhatMustNot = "run-again-what-must-not",
    /// An unknown outcome is answered GOOD (P5).
    OutcomeMadeUp = "outcome-made-up",
    /// An unknown outcome is told as a unit attention, which says that the command did not run (P5).
    OutcomeToldAsAttention = "outcome-told-as-attention",
    /// A command that is lost for the second time is forgotten (P4).
    LostTwiceForgotten = "lost-twice-forgotten",
    /// A write that is lost for the second time is answered GOOD instead of run again (P2).
    LostTwiceAnsweredGood = "lost-twice-answered-good",
    /// A moved read gives the initiator again what it already has (R126).
    MovedReadRepeats = "moved-read-repeats",
    /// A moved read goes on at the right offset with data from the wrong one (P1).
    MovedReadShifted = "moved-read-shifted",
    /// A session of several connections waits for the silent one (P4).
    NobodyRescued = "nobody-rescued",
    /// Answers of connections already given up are taken, and tags are the same for each run of a task (P1, P5).
    StaleAnswersTaken = "stale-answers-taken",

    // Answers before their time.

    /// A flush is answered without asking the target when no earlier write is under way (P2).
    FlushElided = "flush-elided",
    /// A write is answered once the data that the target asked for is sent, not when it is written (P1, P2).
    WriteAnsweredOnceSent = "write-answered-once-sent",
    /// A response is not held back while the initiator owes data that it was asked for (R138).
    ResponseBeforeData = "response-before-data",

    // One nexus out of many.

    /// A unit attention that Braid's own question met on home is forgotten (P3).
    AttentionForgotten = "attention-forgotten",
    /// The attention caused by Braid's own login is passed on (P3).
    OwnAttentionPassedOn = "own-attention-passed-on",
    /// A unit attention of a further nexus that home knows nothing of is dropped (P3).
    FurtherAttentionForgotten = "further-attention-forgotten",
    /// Data that came before a unit attention of a further nexus are called good once home has run the read (P1).
    TaintedReadAnsweredGood = "tainted-read-answered-good",
    /// A unit attention on a further nexus is passed on, and then home's own as well (P3).
    FurtherAttentionPassedOn = "further-attention-passed-on",
    /// A unit attention in the answer to a command that a function has ended is dropped (P3).
    StaleAttentionsDropped = "stale-attentions-dropped",
    /// Commands that another initiator's reset has cleared without an answer are waited for (P4).
    ClearedWaitedFor = "cleared-waited-for",
    /// Nexuses are not asked whether somebody has cleared the commands that they leave unanswered (P4).
    OthersNotProbed = "others-not-probed",
    /// A kept unit attention answers INQUIRY too (P3).
    AttentionOnInquiry = "attention-on-inquiry",
    /// Home carries commands before it has settled: the attention of its login reaches the initiator (P3).
    SettlingHomeServes = "settling-home-serves",
    /// A reserved unit is spread over all nexuses, and their conflicts are passed on (P3).
    ReservedUnitSpread = "reserved-unit-spread",
    /// A nexus that registers late carries I/O without making sure that home still is registered (P3).
    VerificationSkipped = "verification-skipped",
    /// That home was preempted is not noticed when home is asked (P3).
    PreemptionOverlooked = "preemption-overlooked",
    /// Replicas' registrations are shown to the initiator (P3).
    ReplicasShown = "replicas-shown",
    /// Replicas stay registered, and in use, when home is registered no longer (P3).
    ReplicasLeft = "replicas-left",
    /// The initiator is not told that the nexus with its reservation was lost (P5).
    ReservationLossUntold = "reservation-loss-untold",
    /// A further nexus carries data before it was proved that it shows the same unit (P2).
    IdentityUnproved = "identity-unproved",
    /// Units go under home's LUNs everywhere, whatever a nexus shows under them (P2).
    LunNotMapped = "lun-not-mapped",
    /// Data-Out PDUs bear home's LUN instead of the one on their nexus (R108, R124).
    DataUnderHomesLun = "data-under-homes-lun",
    /// Task management for all tasks of a unit bears home's LUN instead of the one on its nexus (P1).
    FunctionUnderHomesLun = "function-under-homes-lun",
    /// Nobody asks whether such a function met the unit that it was for (P2).
    WrongUnitCleared = "wrong-unit-cleared",
    /// What was proved on a nexus holds though its LUNs changed (P2).
    ChangedLunsBelieved = "changed-luns-believed",
    /// A unit of the right name and another size passes for home's (P2).
    SizeNotCompared = "size-not-compared",
    /// The initiator is told what only a further nexus says: that there is no such unit, or no such block (P3).
    FurtherAbsencePassedOn = "further-absence-passed-on",
    /// The initiator is told that the LUNs of a further nexus changed (P3).
    OtherLunsTold = "other-luns-told",
    /// A connection into another portal group is kept in home's session (R5).
    ForeignGroupJoined = "foreign-group-joined",
    /// A connection to another target is made to join home's session (R5).
    OtherTargetJoined = "other-target-joined",
    /// What one target says of its port groups is taken for another's, where both use the same numbers (P3, P4).
    StatesOfAnotherTarget = "states-of-another-target",

    // Asymmetric access.

    /// Ports in standby carry commands for the medium (P3).
    StandbyUsed = "standby-used",
    /// Commands that find no active path do not wait until a transition is over (P3).
    TransitionNotAwaited = "transition-not-awaited",
    /// The target is not asked again which ports are active (P3, P4).
    AccessNotAskedAgain = "access-not-asked-again",
    /// Braid asks for one transition after the other, without a pause (P4).
    TransitionsPingPong = "transitions-ping-pong",

    // Task management.

    /// ABORT TASK is answered without asking the target: the command still runs there (P1).
    AbortNotAsked = "abort-not-asked",
    /// An aborted command that waits inside Braid since its path was lost "does not exist", and runs (R149).
    MovedCommandNotAborted = "moved-command-not-aborted",
    /// ABORT TASK SET goes to home only (R164).
    AbortTaskSetOnHomeOnly = "abort-task-set-on-home-only",
    /// A further nexus that refuses to end its tasks keeps them, and they are taken for ended (P1).
    FurtherRefusalIgnored = "further-refusal-ignored",
    /// A function that a target never answers is waited for without end, and the unit with it (P4; tgt).
    FunctionsWaitedForWithoutEnd = "functions-waited-for-without-end",
    /// The initiator's session outlives TARGET COLD RESET (R165).
    ColdResetKeepsSession = "cold-reset-keeps-session",
    /// A command of a further nexus that a function on home ended is answered TASK ABORTED (P3).
    OwnAbortTold = "own-abort-told",
    /// A set-wide function is sent before the targets have the commands that it must end (R163).
    FunctionOvertakesCommands = "function-overtakes-commands",
    /// Later commands are sent before a set-wide function is done, which may end them unanswered (P4, R163).
    CommandsPassFunctions = "commands-pass-functions",
    /// A reset that was lost with home is answered as done (P5).
    LostResetAnswered = "lost-reset-answered",

    // Suspicion.

    /// Suspect connections are used like others, and nothing is asked again elsewhere (P4).
    SuspicionIgnored = "suspicion-ignored",
    /// Data that a target asks for, of a write that was moved, are not sent (P4; LIO).
    StaleRequestsUnanswered = "stale-requests-unanswered",
    /// A write that was moved while its connection lives leaves no ghost (P2).
    MovedLeavesNoGhost = "moved-leaves-no-ghost",
    /// A path that the operator has drained is tried all the same, before it is given back (states of a path).
    DrainedPathTried = "drained-path-tried",
    /// Where all paths are suspect none is used (P4).
    LastPathEjected = "last-path-ejected",
    /// Late reads are asked again however many there are (P4).
    HedgedWithoutBound = "hedged-without-bound",

    // Numbers and windows.

    /// A control PDU that is not immediate does not use up its CmdSN (R93).
    ControlKeepsCmdSn = "control-keeps-cmdsn",
    /// The login of a joining connection uses up a CmdSN, which leaves a hole (P4, R35).
    JoiningTakesCmdSn = "joining-takes-cmdsn",
    /// Commands are sent beyond the target's MaxCmdSN (R97).
    WindowIgnored = "window-ignored",
    /// A new session's first window is taken to be as wide as later ones (R97).
    FirstWindowIgnored = "first-window-ignored",
    /// The F bit ends each piece of an R2T's data, not the whole (R124).
    FinalTooEarly = "final-too-early",
    /// DataSN begins anew with each piece of an R2T's data (R126).
    DataSnRestarts = "data-sn-restarts",
    /// Task management responses take no StatSN (R112).
    FunctionTakesNoStatSn = "function-takes-no-statsn",
    /// MaxCmdSN goes back when places get scarce (R96).
    MaxCmdSnShrinks = "max-cmdsn-shrinks",
    /// The initiator's window stays closed once it was closed (P4).
    WindowStaysClosed = "window-stays-closed",

    // Progress.

    /// A path that failed is not tried again (P4).
    FailedPathNotRetried = "failed-path-not-retried",
    /// Silent connections are not pinged (P4).
    SilenceNotPinged = "silence-not-pinged",
    /// A read or write that the target has lost is waited for without end (P4; istgt).
    TaskTimeoutIgnored = "task-timeout-ignored",
    /// Write data that were lost without a trace are waited for without end (P4, R177).
    SequencesNotTimed = "sequences-not-timed",
    /// More write data is asked for than the memory budget allows (P4).
    BudgetIgnored = "budget-ignored",
    /// The budget keeps even the oldest write from getting its data (P4).
    BudgetStarvesTheOldest = "budget-starves-the-oldest",
    /// Writes that the budget held up are not asked for their data when memory is free again (P4).
    StarvedWritesForgotten = "starved-writes-forgotten",
    /// The target's request to leave is not followed (R218).
    LogoutRequestIgnored = "logout-request-ignored",
    /// A connection logs out with commands still under way on it (P4, R212).
    LeavesWithCommands = "leaves-with-commands",
    /// Tasks of a lost connection are reassigned before it was logged out (R166, R189).
    ReassignedBeforeLogout = "reassigned-before-logout",
    /// What the target dropped with a lost connection is not sent again: holes stay in the command numbers (P4, R106).
    HolesLeftOpen = "holes-left-open",
    /// A logout names another connection than the one it is sent over, which healthy targets take down (P4).
    LogoutNamesAnother = "logout-names-another",
    /// The last connections of a session leave as connections, side by side: nobody closes the session (R210).
    SessionLeftOpen = "session-left-open",
    /// A target's ping stays unanswered (R225).
    PingUnanswered = "ping-unanswered",

    // Several connections of the initiator.

    /// StatSN of the first connection is shown over all of them (R111).
    OneStatSnForAll = "one-stat-sn-for-all",
    /// Responses go over the first connection, whichever their commands came over (R118).
    AnswersOverFirstLine = "answers-over-first-line",
    /// A task management function is answered before responses that left over other connections are acknowledged (R156).
    AnswersNotFenced = "answers-not-fenced",
    /// What comes early over one connection is acted on before what is still to come over another (R94).
    EarlyActedOn = "early-acted-on",
}

impl Mutant {
    /// The one with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mutant| mutant.name() == name)
    }

    /// Breaks it in every session that begins from now on in this process, for benchmarks; the first one told stays.
    pub fn everywhere(self) {
        EVERYWHERE.get_or_init(|| self);
    }
}

/// What is broken in every new session.
static EVERYWHERE: OnceLock<Mutant> = OnceLock::new();

impl Session {
    /// Breaks what is broken everywhere.
    pub(super) fn mutate_as_all(&mut self) {
        if let Some(mutant) = EVERYWHERE.get() {
            self.mutate(*mutant);
        }
    }

    /// Breaks one rule from now on.
    pub fn mutate(&mut self, mutant: Mutant) {
        let rules = Rules { broken: Some(mutant) };
        self.rules = rules;
        self.front.rules = rules;
        self.order.rules = rules;
        self.tasks.rules = rules;
    }
}

impl Rules {
    /// Whether a conflict of two classes is not seen.
    pub(super) fn overlooks(self, earlier: &Class, later: &Class) -> bool {
        let read = |class: &Class| matches!(class, Class::Read(_));
        let plain = |class: &Class| matches!(class, Class::Write(_) | Class::WriteOnce(_));
        let flush = |class: &Class| matches!(class, Class::Flush(_));
        let beyond = |class: &Class, most| class.extent().is_some_and(|e| e.blocks > most);
        let first = |class: &Class| class.extent().map(|e| Extent { blocks: 1, ..e });
        let touches = |class: &Class, some: Option<Extent>| {
            class.extent().zip(some).is_none_or(|(extent, some)| extent.overlaps(&some))
        };
        let anywhere = |class: &Class| matches!(class, Class::WriteAnywhere(_));
        let either = |is: &dyn Fn(&Class) -> bool| is(earlier) || is(later);
        broken!(self, ReadsPassWrites) && earlier.writes() && read(later)
            || broken!(self, WritesPassReads) && read(earlier) && later.writes()
            || broken!(self, WritesPassWrites) && plain(earlier) && plain(later)
            || broken!(self, UnmapOverlapsNothing) && either(&anywhere) && !either(&flush)
            || broken!(self, FlushWaitsForNoWrite) && flush(later)
            || broken!(self, FlushToTheEndIsOfNone) && flush(later) && beyond(later, u64::from(u32::MAX))
            || broken!(self, FlushOfFirstBlock) && flush(later) && !touches(earlier, first(later))
            || broken!(self, WritesPassFlush) && flush(earlier)
            || broken!(self, BarriersFlow) && either(&|class| *class == Class::Barrier)
    }

    /// What is taken to complete a fence where `method` does.
    pub(super) fn fence(self, method: FenceMethod) -> FenceMethod {
        match method {
            FenceMethod::Ordered if broken!(self, ReinstatementAloneFences) => FenceMethod::Reinstate,
            FenceMethod::Time if broken!(self, ReinstatementFencesTheUnknown) => FenceMethod::Reinstate,
            FenceMethod::Reinstate if broken!(self, OrderedWhereItWedges) => FenceMethod::Ordered,
            FenceMethod::Auto | FenceMethod::Reinstate | FenceMethod::Ordered | FenceMethod::Time => method,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_find_their_mutant() {
        let names: BTreeSet<_> = Mutant::ALL.iter().map(|m| m.name()).collect();
        assert_eq!(names.len(), Mutant::ALL.len());
        for mutant in Mutant::ALL {
            assert_eq!(Mutant::from_name(mutant.name()), Some(*mutant));
            assert!(mutant.name().chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{}", mutant.name());
        }
        assert_eq!(Mutant::from_name("none"), None);
    }
}
