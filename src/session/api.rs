//! What goes into and comes out of the engine.

use crate::iscsi::quirk::Quirk;
use crate::iscsi::text::KeyList;
use crate::iscsi::{Cid, Lun, Pdu};
use crate::login::{LoginPlan, Negotiated};
pub use crate::path::flaps::Limits as Marginal;
pub use crate::path::health::{Doubt, Sample};
use crate::path::select::Policy;
pub use crate::path::state::{PathState, Trigger};
pub use crate::scsi::alua::State as AccessState;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A path of the session: index into [`SessionPlan::paths`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PathId(pub usize);

/// One upstream connection; never used twice within a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnId(pub u32);

/// One connection of the initiator: given out by the driver, and never used twice within a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct LineId(pub u32);

/// How the session is fanned out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fanout {
    /// Paths of one portal group join one session, as far as MaxConnections allows; the rest form further sessions.
    Mcs,
    /// Every path is a session of its own.
    Sessions,
}

/// How it is proved that nothing sent over a lost nexus still runs (DESIGN: a fence has two halves).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FenceMethod {
    /// By what is known of the target's vendor and product; time where nothing is known.
    Auto,
    /// Session reinstatement alone.
    Reinstate,
    /// Session reinstatement, then an ORDERED TEST UNIT READY on the new session.
    Ordered,
    /// Time alone: `fence_time` after the loss. The session is reinstated all the same.
    Time,
}

/// Who makes ORDERED commands and cache flushes wait for what came before them, and what comes later for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Barriers {
    /// Braid: a barrier is sent once all that it must follow has completed. Only where the session has a single path,
    /// whose loss takes all commands with it, the target keeps ORDERED commands in order.
    #[default]
    Strict,
    /// The target, among commands of home's session; Braid, where another session is concerned. When one of several
    /// connections of home's session is lost, a barrier may have passed commands that were lost with it.
    Native,
}

/// What becomes of commands that waited for a path for too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Exhausted {
    /// The downstream session is closed.
    #[default]
    Close,
    /// They are answered BUSY, or told that their outcome is unknown; the downstream session stays.
    Busy,
}

/// Reads that are late are asked again over another path; the first answer wins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hedge {
    /// A read is late when it takes longer than so many in a thousand reads over its path took of late: 1 to 999.
    pub late: u16,
    /// So many reads in a thousand are asked again at most: 1 to 1000.
    pub most: u16,
}

/// One configured path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathPlan {
    /// Name for logs and metrics; also seeds the ISID of the path's own nexus.
    pub name: String,
    /// Weight for the policies that use one, at least 1.
    pub weight: u32,
    /// Taken out by the operator before the session began ([`Control::Drain`]).
    pub out: bool,
    /// Name of the target that it leads to (TargetName of logins over it). Paths to targets of different names never share a
    /// session.
    pub target: String,
}

/// All the engine is told at birth.
#[derive(Clone, Debug)]
pub struct SessionPlan {
    /// The downstream login.
    pub downstream: Negotiated,
    /// Paths in order of preference.
    pub paths: Vec<PathPlan>,
    /// The path over which the leading login was made; its connection is [`SessionPlan::HOME_CONN`].
    pub home_path: PathId,
    /// That login.
    pub home: Negotiated,
    /// The plan that login was made with; logins of further connections are derived from it.
    pub home_login: LoginPlan,
    /// Fan-out mode (decided: `auto` is resolved by the caller).
    pub fanout: Fanout,
    /// Path choice.
    pub policy: Policy,
    /// Barriers.
    pub barriers: Barriers,
    /// Fence.
    pub fence: FenceMethod,
    /// How long after the loss of a nexus its commands may still run in the target. Newer writes that overlap one wait
    /// until the nexus is fenced, and never longer than this.
    pub fence_time: Duration,
    /// When an earlier session of this initiator may last have lost its connections without its commands being fenced:
    /// Braid died, or the session did not end in time and was killed. None if it is known that no such session was.
    /// For `fence_time` from then on, each unit is fenced before its first command.
    pub predecessor: Option<Instant>,
    /// What earlier sessions of this initiator may have left in caches.
    pub unwashed: Unwashed,
    /// How long commands are held while no path works.
    pub queue_time: Duration,
    /// What becomes of them then.
    pub exhausted: Exhausted,
    /// Interval of NOP-Out pings on each connection.
    pub ping_interval: Duration,
    /// A connection whose ping stays unanswered this long is given up.
    pub ping_timeout: Duration,
    /// A connection on which something is unacknowledged and no acknowledgement has come for this long is given up; after two
    /// seconds at most while another path is trusted.
    pub silence_timeout: Duration,
    /// A read or write that a target leaves unanswered this long, while it answers pings, counts as lost in the target:
    /// its session is opened anew and the command runs again.
    pub task_timeout: Duration,
    /// At error recovery level 1: write data of which nothing comes for this long are asked for again.
    pub sequence_timeout: Duration,
    /// First and longest delay between attempts to bring a path back.
    pub reconnect: (Duration, Duration),
    /// When a path that comes and goes is kept for emergencies.
    pub marginal: Marginal,
    /// Which reads are asked again over another path because they are late; none if none is.
    pub hedge: Option<Hedge>,
    /// Most commands admitted at a time.
    pub max_window: u32,
    /// Most bytes of write data held.
    pub memory_budget: u64,
    /// Seed for jitter.
    pub seed: u64,
    /// Answer to SendTargets on this session: this target only, with Braid's own portal (R232).
    pub send_targets: KeyList,
}

/// Units of which the cache of a target may still hold writes, where paths lead to targets of different names: no flush has
/// reached all of them since.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Unwashed {
    /// Units for which it is otherwise than for the others.
    units: BTreeSet<Lun>,
    others: bool,
}

impl Unwashed {
    /// After a session that did not end in order.
    #[must_use]
    pub const fn everything() -> Self {
        Self { units: BTreeSet::new(), others: true }
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        !self.others && self.units.is_empty()
    }

    pub(super) fn may_hold(&self, lun: Lun) -> bool {
        self.others != self.units.contains(&lun)
    }

    pub(super) fn note(&mut self, lun: Lun, left: bool) {
        if left == self.others {
            self.units.remove(&lun);
        } else {
            self.units.insert(lun);
        }
    }
}

impl SessionPlan {
    /// The connection of the leading login.
    pub const HOME_CONN: ConnId = ConnId(0);

    /// The initiator's first connection.
    pub const FIRST_LINE: LineId = LineId(0);

    /// Whether paths lead to targets of different names.
    #[must_use]
    pub fn has_twins(&self) -> bool {
        self.paths.iter().any(|path| Some(&path.target) != self.paths.first().map(|first| &first.target))
    }
}

/// What of a [`SessionPlan`] may change while the session runs: its fields of the same names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuning {
    /// Path choice.
    pub policy: Policy,
    /// How long commands are held while no path works.
    pub queue_time: Duration,
    /// What becomes of them then.
    pub exhausted: Exhausted,
    /// Interval of pings.
    pub ping_interval: Duration,
    /// How long a ping may stay unanswered.
    pub ping_timeout: Duration,
    /// How long acknowledgements may stay away.
    pub silence_timeout: Duration,
    /// How long a read or write may stay unanswered.
    pub task_timeout: Duration,
    /// First and longest delay between attempts to bring a path back.
    pub reconnect: (Duration, Duration),
    /// When a path is marginal.
    pub marginal: Marginal,
    /// Which reads are asked again.
    pub hedge: Option<Hedge>,
    /// Most commands admitted at a time. What was admitted before stays so.
    pub max_window: u32,
    /// Most bytes of write data held. What is held already stays so.
    pub memory_budget: u64,
}

/// Why a connection ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cause {
    /// TCP connect failed, the connection was reset, timed out or ended.
    Tcp(String),
    /// Login failed or was refused.
    Login(String),
    /// The peer broke the protocol.
    Protocol(String),
    /// Something came from the peer with a wrong digest.
    Digest(String),
    /// Nothing is wrong: it was logged out.
    Logout,
}

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// A PDU from the initiator.
    Downstream(LineId, Pdu),
    /// The initiator sent something to be answered with Reject.
    DownstreamRejectable {
        /// Over which connection.
        line: LineId,
        /// The header complained of.
        header: [u8; 48],
        /// Reject reason.
        reason: u8,
    },
    /// The initiator wants to log in over a further connection, under this CID, and has proved itself. If it may
    /// ([`super::Session::awaited`]), a connection that has the CID ends now, and one of the next two follows.
    DownstreamAwaited(Cid),
    /// It has logged in.
    DownstreamJoined(LineId, Box<Negotiated>),
    /// It has not.
    DownstreamNotJoined(Cid),
    /// A connection of the initiator's is gone.
    DownstreamClosed(LineId),
    /// A PDU from a target.
    Upstream(ConnId, Pdu),
    /// An [`Output::Open`] succeeded.
    Connected(ConnId, Box<Negotiated>),
    /// An [`Output::Open`] failed, or an open connection ended.
    Disconnected(ConnId, Cause),
    /// What the kernel knows of an open connection, as [`Output::Sample`] asked.
    Health(ConnId, Sample),
    /// The link of this machine that an open connection goes out by has lost its carrier, or has it again.
    Carrier(ConnId, bool),
    /// Back-pressure began or ended: while it lasts, nothing is read from targets, so that no ping is late.
    Paused(bool),
    /// A link of this machine came up, or an address: paths that are down may be reachable again.
    LinkUp,
    /// The operator wants something.
    Control(Control),
    /// Some of what the plan says is different from now on.
    Retune(Box<Tuning>),
    /// Finish: no new commands, log out, close.
    Stop,
}

/// What an operator may want of a running session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// Wait no longer for a path: as if `queue_time` had passed since home was lost. Nothing if home is there.
    GiveUp,
    /// Take a path out: what is under way over it ends, then it is logged out, and not tried again.
    Drain(PathId),
    /// Take a path out at once, as if it had been cut.
    Fail(PathId),
    /// Give a path back that was taken out.
    Restore(PathId),
    /// Another weight for a path, at least 1.
    Weigh(PathId, u32),
}

/// How to end an upstream connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// Send what is queued, then close.
    Graceful,
    /// Reset at once; drop what is queued.
    Reset,
}

/// Something to do.
#[derive(Debug)]
pub enum Output {
    /// Send to the initiator.
    ToInitiator(LineId, Pdu),
    /// Send to a target.
    ToTarget(ConnId, Pdu),
    /// Report [`Event::Health`] of this connection, after all other outputs are done; where the kernel does not tell,
    /// nothing is reported, and it is not asked again.
    Sample(ConnId),
    /// Connect over a path, log in, and report [`Event::Connected`] or [`Event::Disconnected`].
    Open(ConnId, PathId, Box<LoginPlan>),
    /// End a connection; no event for it is wanted any more.
    Close(ConnId, How),
    /// Send what is queued for one of several connections of the initiator, then close it.
    CloseLine(LineId),
    /// The same for all of them; the session is over once upstream connections are closed too.
    CloseDownstream,
    /// Everything is closed: drop the session. This is left in caches.
    Finished(Unwashed),
    /// For logs and metrics.
    Note(Notice),
}

/// Something worth counting or telling.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A connection came up.
    PathUp {
        /// Path.
        path: PathId,
        /// Whether it carries the home nexus.
        home: bool,
    },
    /// A connection was lost, or could not be made.
    PathDown {
        /// Path.
        path: PathId,
        /// Whether it was up before.
        was_up: bool,
        /// Why.
        cause: Cause,
    },
    /// Commands of a lost nexus were moved.
    Moved {
        /// Path lost.
        path: PathId,
        /// Number of commands.
        commands: usize,
    },
    /// A session lost a connection and kept its tasks: commands go on over another connection.
    Reassigned {
        /// Path lost.
        path: PathId,
        /// Number of commands.
        commands: usize,
    },
    /// A path is in another state. The notice of the connection that came up or ended with that follows, if there is one. Every
    /// path begins down; nothing is told any more once the session ends.
    PathState {
        /// Path.
        path: PathId,
        /// Before.
        from: PathState,
        /// Now.
        to: PathState,
        /// Why.
        trigger: Trigger,
    },
    /// A path was lost so often of late that it is kept for emergencies: no new commands go there as long as another one that
    /// is not marginal works.
    PathMarginal {
        /// Path.
        path: PathId,
    },
    /// Commands caught on a suspect path were asked again elsewhere.
    Evaded {
        /// Suspect path.
        path: PathId,
        /// Number of commands.
        commands: usize,
    },
    /// A read that was late on a path was asked again over another.
    Hedged {
        /// The path on which it is late.
        path: PathId,
    },
    /// Such a read was answered over the other path first.
    HedgeWon {
        /// The path on which it was late.
        path: PathId,
    },
    /// A lost nexus is fenced; newer overlapping writes may go on.
    Fenced {
        /// Path whose nexus was lost.
        path: PathId,
        /// How.
        method: FenceMethod,
        /// How long it took.
        took: Duration,
    },
    /// A task with an unknown outcome was answered with a check condition because it must not run twice.
    OutcomeUnknown {
        /// Path lost.
        path: PathId,
    },
    /// A path's logical unit is not the one home shows: the path stays out for this unit.
    IdentityMismatch {
        /// Path.
        path: PathId,
        /// Logical unit number.
        lun: u64,
        /// What differs.
        what: String,
    },
    /// A logical unit is usable over a path: its identity was proved.
    IdentityProved {
        /// Path.
        path: PathId,
        /// Logical unit number.
        lun: u64,
        /// Its number on this path.
        there: u64,
    },
    /// The Control mode page of a unit binds it to home.
    UnitBound {
        /// Home's path.
        path: PathId,
        /// Logical unit number.
        lun: u64,
        /// Why.
        why: &'static str,
    },
    /// A command completed.
    Completed {
        /// Path that carried it last.
        path: PathId,
        /// Payload read, in bytes.
        read: u64,
        /// Payload written, in bytes.
        written: u64,
        /// Time from arrival to status.
        took: Duration,
    },
    /// A unit attention on a further nexus was absorbed; home reports it.
    UnitAttentionAbsorbed {
        /// Path.
        path: PathId,
    },
    /// A logical unit's port behind a path has another access state (ALUA).
    AccessChanged {
        /// Path.
        path: PathId,
        /// Logical unit number.
        lun: u64,
        /// Before.
        from: AccessState,
        /// Now.
        to: AccessState,
    },
    /// No path was active for a unit: the target was asked to make the port group behind this one so.
    TransitionAsked {
        /// Path.
        path: PathId,
        /// Logical unit number.
        lun: u64,
        /// Target port group.
        group: u16,
    },
    /// The target would not.
    TransitionRefused {
        /// Path.
        path: PathId,
        /// Logical unit number.
        lun: u64,
        /// What it said.
        what: String,
    },
    /// The target has shown a quirk.
    Quirk {
        /// Path.
        path: PathId,
        /// Which.
        quirk: Quirk,
    },
    /// The initiator broke the protocol.
    DownstreamProtocol(String),
    /// Data of the initiator came with a wrong digest, which is a fault of its connection and not its own: what was lost, and
    /// what comes of it.
    DownstreamDigest(&'static str),
    /// The initiator has one connection more.
    LineUp {
        /// Connections that it has now.
        lines: usize,
    },
    /// The initiator has one connection less, and the session goes on.
    LineDown {
        /// Connections that it has now.
        lines: usize,
        /// Commands that ended with it.
        commands: usize,
    },
    /// No path works.
    AllPathsDown,
    /// No path came back in time: commands that wait for one are given up in this way.
    GaveUp(Exhausted),
    /// Home is back after commands were given up: they are carried out again.
    TakenAgain,
}
