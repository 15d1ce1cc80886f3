//! What a target does that a good one would not, or that is rare: counted, so that a run can say what it has met.

macro_rules! triggers {
    ($($name:ident $text:literal,)*) => {
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum Trigger { $($name,)* }

        /// Their names, in the same order.
        const NAMES: &[&str] = &[$(concat!("target: ", $text),)*];
    };
}

triggers! {
    Ghost "write executed after its connection was lost",
    GhostAfterReinstatement "write executed after its session was replaced",
    GhostDropped "task dropped by a reinstatement",
    LoginWaited "login waited for the device",
    LoginReplaced "login replaced by a later one",
    Reinstated "session reinstated",
    Joined "connection joined a session",
    JoinRefused "join refused",
    MoreThanGranted "more connections than granted",
    Hole "command held until a CmdSN arrived",
    HoleBlocked "nothing ran because a CmdSN was missing",
    ExecutedOutOfOrder "command executed before an earlier CmdSN",
    LateNumberClosed "connection closed because a CmdSN came late",
    Duplicate "duplicate CmdSN",
    ImmediateClosed "connection closed for an immediate PDU",
    ImmediateRejected "immediate command rejected",
    NumberOvertaken "StatSN overtaken by a later one",
    NumberTaken "CmdSN taken by an immediate function",
    LogoutHole "CmdSN hole left by a logout",
    LogoutClosedItsOwn "logout closed the connection it came on",
    LogoutBusy "logout with commands outstanding",
    WindowShrunk "window shrunk to one",
    WindowAnnounced "window opened by a NOP-In",
    WindowLeaked "place of the window lost",
    SessionDied "session closed because it lost a connection",
    Forgotten "command forgotten while clearing up",
    DataLate "session closed because write data stayed away",
    Pinged "NOP-In asked",
    PingUnanswered "session closed because a NOP-In stayed unanswered",
    Wedged "unit wedged by an ORDERED command",
    ReadBeforeWrite "overlapping command executed before an older write",
    OrderedWaited "ORDERED command waited",
    OrderedHeld "command held by an ORDERED one",
    HeadOfQueue "HEAD OF QUEUE command executed before an older one",
    Collapsed "status in Data-In",
    Attention "unit attention reported",
    AttentionOnArrival "unit attention reported on arrival",
    DataBeforeSense "data before CHECK CONDITION",
    Conflict "reservation conflict",
    MediaError "media error",
    AbortTook "abort took a task out",
    AbortWaited "abort waited for the device",
    AbortUnsupported "function not supported",
    AbortNotFound "task to abort not found",
    TaskAborted "TASK ABORTED answered",
    ResetClosedOthers "reset closed other connections",
    ResetSlow "reset answered late",
    SessionBroken "session unusable after an abort",
    FunctionIgnored "function never answered",
    SessionsReset "all sessions ended by a reset",
    ImplicitTransition "port groups change by themselves",
    ExplicitTransition "port groups changed on request",
    TransitionFailed "port groups not changed on request",
    RefusedStandby "refused in standby",
    RefusedUnavailable "refused by an unavailable port",
    RefusedTransitioning "refused during a transition",
    Slow "slow command",
    Miscompare "COMPARE AND WRITE did not match",
    UnflushedLost "unflushed write lost by a power cut",
    UnflushedKept "unflushed write survived a power cut",
    PowerCut "power cut",
    HeadLostPower "one of two heads lost power",
    Restarted "target process restarted",
    FinishedByRestart "task finished by a restart",
    RemovedForRecovery "connection removed for recovery",
    Reassigned "task reassigned",
    ReassignedCollecting "task reassigned that waits for data",
    SaidAgain "answer given again after a reassignment",
    AsyncLogout "logout asked for",
    AsyncDrop "connection dropped with notice",
    Preempted "registrations preempted",
    LunVanished "LUN vanished",
    LunAppeared "LUN appeared",
    LunsTraded "LUNs changed places",
    Recabled "other LUNs behind the same address",
}

/// How often each was met.
#[derive(Clone, Debug)]
pub(super) struct Counts([u32; NAMES.len()]);

impl Counts {
    pub(super) fn new() -> Self {
        Self([0; NAMES.len()])
    }

    pub(super) fn count(&mut self, trigger: Trigger) {
        self.0[trigger as usize] += 1;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, u32)> {
        NAMES.iter().copied().zip(self.0)
    }
}
