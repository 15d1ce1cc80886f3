//! Whom the model target plays: real targets as they were measured, and what they do wrong, as named flags.

use crate::random::Random;
use braid::iscsi::tmf;
use std::time::Duration;

/// What happens to a session's tasks in the device when a leading login replaces the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reinstate {
    /// They go on and still execute (section 4: tgt slow, SPDK).
    Keep,
    /// The login is answered once they are done (section 4: istgt and LIO slow).
    Wait,
    /// They are taken out before the login is answered.
    Drop,
}

/// Whom unit attentions tell, and how often.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Telling {
    /// Of a reset also the one who asked for it (section 5).
    pub(crate) issuer: bool,
    /// Two events with one code are two attentions that wait (measured later: tgt), not one.
    pub(crate) each: bool,
}

/// Which sessions begin with a unit attention (section 1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Greeting {
    Each,
    First,
    Never,
}

/// How a task management function treats tasks in the device (section 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Abort {
    /// Lets them end, with their statuses, and answers then.
    Waits,
    /// Takes them out and answers at once.
    TakesOut,
    Unsupported,
}

/// What becomes of a command whose CmdSN was used before (section 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Duplicate {
    Closes,
    Dropped,
    Executed,
}

/// What a logout for another connection than its own does (section 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OtherCid {
    Obeyed,
    ClosesItsOwn,
    NotFound,
}

/// A kind of target. Sections named are those of the measurements ("How real targets behave, measured").
#[derive(Clone, Debug)]
pub(crate) struct Persona {
    pub(crate) name: &'static str,
    pub(crate) vendor: &'static str,
    pub(crate) product: &'static str,

    /// Peripheral device type of its units: a disk, unless a scenario says otherwise.
    pub(crate) device_type: u8,
    /// Bytes 2 to 4 of the Control mode page, of units with command queueing.
    pub(crate) control: Option<[u8; 3]>,

    /// Commands allowed right after login, and later (section 1: window right after login).
    pub(crate) first_window: u32,
    pub(crate) window: u32,
    /// Now and then the window is one command for a while.
    pub(crate) window_shrinks: bool,
    /// A command that dies with its connection costs a place of the window for ever (section 5: SPDK).
    pub(crate) window_leaks: bool,

    pub(crate) segment: u32,
    pub(crate) max_burst: u32,
    pub(crate) first_burst: u32,
    pub(crate) initial_r2t: bool,
    pub(crate) immediate_data: bool,
    pub(crate) error_recovery_level: u8,
    pub(crate) random_stat_sn: bool,

    pub(crate) max_connections: u16,
    /// Section 1: tgt accepts more connections than it granted.
    pub(crate) enforces_connections: bool,
    /// Detail of the refusal beyond MaxConnections (section 1: 06h or 08h).
    pub(crate) too_many: u8,
    /// Grants MaxConnections but lets only so many in: 02/06.
    pub(crate) joins_allowed: Option<u16>,
    /// Lets connections into a session over portals of any group. (Nobody measured does; Braid must not make use of it.)
    pub(crate) joins_any_group: bool,
    /// Section 1: leading login time.
    pub(crate) login_time: Duration,
    pub(crate) reinstate: Reinstate,
    pub(crate) greeting: Greeting,
    /// Unit attentions are reported when a command arrives, before it takes its place among the others.
    pub(crate) attention_on_arrival: bool,

    /// Overlapping commands run in their order (QUEUE ALGORITHM MODIFIER 0).
    pub(crate) restricted: bool,
    /// Every command waits for the one before (section 4: istgt serialises).
    pub(crate) serial: bool,
    /// ORDERED also waits for older writes whose data is still to come. Real targets do not (section 4: LIO held).
    pub(crate) ordered_waits_for_data: bool,
    /// After an abort, or a logout with commands outstanding, the next ORDERED TEST UNIT READY blocks its unit for good
    /// (section 4: LIO, ORDERED).
    pub(crate) ordered_wedges: bool,
    /// Status in the last Data-In of reads up to so many bytes (section 1: phase collapse, istgt of short reads).
    pub(crate) collapses: usize,

    /// Commands run in CmdSN order whatever connection they came by (section 2: not SPDK).
    pub(crate) orders_across: bool,
    pub(crate) duplicate: Duplicate,
    /// Section 2 and 5: an immediate PDU whose CmdSN is not the expected one closes the connection (istgt, SPDK).
    pub(crate) immediate_must_be_expected: bool,
    /// Section 2: LIO rejects immediate commands while a number is missing.
    pub(crate) rejects_immediate_in_hole: bool,
    /// Section 3: while a number is missing nothing of the session runs (istgt).
    pub(crate) hole_blocks: bool,
    /// Section 5: an immediate function may take a number of its own. Some answers have their numbers before others that
    /// leave before them (istgt).
    pub(crate) odd_numbers: bool,

    /// Section 3: a lost connection is told on another one by an asynchronous message.
    pub(crate) tells_drops: bool,
    /// Section 3: the whole session is closed so long after it lost a connection (LIO).
    pub(crate) dies_with_connection: Option<Duration>,
    /// While it clears up a lost connection it drops reads and writes of the same initiator port that wait in the unit's
    /// queue, those of the session that replaced the lost one included, and never says so (measured later: istgt).
    pub(crate) forgets: bool,
    /// Section 5: LIO pings, and closes the session when no answer comes.
    pub(crate) pings: Option<(Duration, Duration)>,
    /// Section 5: the session is closed when write data stays away so long (LIO).
    pub(crate) data_patience: Option<Duration>,

    /// Section 3: logout for another CID.
    pub(crate) other_cid: OtherCid,
    /// Section 3: logout with reason 0 closes all connections.
    pub(crate) session_logout_closes_all: bool,
    /// Answer to a logout for recovery (reason 2), and seconds to wait after it.
    pub(crate) recovery_logout: (u8, u16),
    /// Section 5: a non-immediate Logout leaves a CmdSN hole for the other connections (istgt).
    pub(crate) logout_leaves_hole: bool,

    /// Answer to TASK REASSIGN (section 3). With error recovery level 2, tasks outlive their connection if it is "complete".
    pub(crate) reassign: u8,

    pub(crate) abort_task: Abort,
    pub(crate) abort_task_set: Abort,
    pub(crate) clear_task_set: Abort,
    pub(crate) unit_reset: Abort,
    pub(crate) target_reset: Abort,
    /// Section 5: ABORT TASK SET that meets a write waiting for data leaves the session unusable (istgt).
    pub(crate) abort_set_breaks: bool,
    /// A function for a task set is refused once in so often, and any is never answered; 0 for never (section 5: tgt
    /// ignores some).
    pub(crate) refuses_sets: usize,
    pub(crate) ignores_functions: usize,
    /// Section 5: a LUN RESET that meets its own session's commands is answered late (LIO).
    pub(crate) slow_reset: Option<(Duration, Duration)>,
    /// Section 5: a LUN RESET closes the other connections and sessions (istgt).
    pub(crate) reset_closes_others: bool,
    /// Additional sense of the attention after a reset (section 5).
    pub(crate) reset_attention: (u8, u8),
    pub(crate) telling: Telling,
    /// Reads that end with CHECK CONDITION send data first, of the whole length, which are whatever was in memory (measured
    /// later: tgt).
    pub(crate) data_before_sense: bool,
    /// Tasks ended by another initiator are answered with TASK ABORTED.
    pub(crate) task_aborted_status: bool,

    pub(crate) write_cache: bool,
    /// Section 5: a persistent reservation is given back to the same ISID (istgt), or not (tgt).
    pub(crate) returns_reservation: bool,
    pub(crate) reservation_attentions: bool,
    /// What those are told whose registration was taken away (section 5: tgt).
    pub(crate) preempted: (u8, u8),
    /// READ FULL STATUS is supported.
    pub(crate) full_status: bool,

    /// Longest service time of a command, and how rarely one is slow.
    pub(crate) slow: Duration,
    pub(crate) slow_once_in: usize,
    /// Tasks whose connection is lost execute at the latest so long after the target noticed.
    pub(crate) ghost_time: Duration,
}

const MS: fn(u64) -> Duration = Duration::from_millis;

impl Persona {
    /// The well-behaved one, and what the others are described by their difference from.
    pub(crate) fn lab() -> Self {
        Self {
            name: "persona: lab",
            vendor: "BRAID",
            product: "LAB DISK",
            device_type: 0,
            control: None,
            first_window: 64,
            window: 64,
            window_shrinks: true,
            window_leaks: false,
            segment: 1024,
            max_burst: 2048,
            first_burst: 1024,
            initial_r2t: false,
            immediate_data: true,
            error_recovery_level: 0,
            random_stat_sn: true,
            max_connections: 8,
            enforces_connections: true,
            too_many: 6,
            joins_allowed: None,
            joins_any_group: false,
            login_time: MS(1),
            reinstate: Reinstate::Drop,
            greeting: Greeting::Each,
            attention_on_arrival: false,
            restricted: false,
            serial: false,
            ordered_waits_for_data: true,
            ordered_wedges: false,
            collapses: 0,
            orders_across: true,
            duplicate: Duplicate::Dropped,
            immediate_must_be_expected: false,
            rejects_immediate_in_hole: false,
            hole_blocks: false,
            odd_numbers: false,
            tells_drops: true,
            dies_with_connection: None,
            forgets: false,
            pings: None,
            data_patience: None,
            other_cid: OtherCid::Obeyed,
            session_logout_closes_all: true,
            recovery_logout: (2, 0),
            logout_leaves_hole: false,
            reassign: tmf::REASSIGN_UNSUPPORTED,
            abort_task: Abort::TakesOut,
            abort_task_set: Abort::TakesOut,
            clear_task_set: Abort::TakesOut,
            unit_reset: Abort::TakesOut,
            target_reset: Abort::TakesOut,
            abort_set_breaks: false,
            refuses_sets: 0,
            ignores_functions: 0,
            slow_reset: None,
            reset_closes_others: false,
            reset_attention: (0x29, 0x03),
            telling: Telling { issuer: false, each: false },
            data_before_sense: false,
            task_aborted_status: false,
            write_cache: true,
            returns_reservation: true,
            reservation_attentions: true,
            preempted: (0x2a, 0x05),
            full_status: true,
            slow: MS(500),
            slow_once_in: 24,
            ghost_time: MS(5_000),
        }
    }

    pub(crate) fn tgt() -> Self {
        Self {
            name: "persona: tgt",
            vendor: "IET",
            product: "VIRTUAL-DISK",
            first_window: 2,
            window: 128,
            window_shrinks: false,
            random_stat_sn: false,
            initial_r2t: true,
            max_connections: 1,
            reinstate: Reinstate::Keep,
            ordered_waits_for_data: false,
            tells_drops: false,
            collapses: usize::MAX,
            duplicate: Duplicate::Closes,
            other_cid: OtherCid::ClosesItsOwn,
            session_logout_closes_all: false,
            recovery_logout: (0, 0),
            reassign: tmf::NOT_SUPPORTED,
            abort_task: Abort::Waits,
            abort_task_set: Abort::Waits,
            clear_task_set: Abort::Unsupported,
            unit_reset: Abort::Waits,
            target_reset: Abort::Unsupported,
            reset_attention: (0x29, 0x00),
            telling: Telling { issuer: true, each: true },
            returns_reservation: false,
            preempted: (0x2a, 0x03),
            full_status: false,
            slow: MS(2_000),
            ghost_time: MS(8_000),
            ..Self::lab()
        }
    }

    pub(crate) fn tgt_mcs() -> Self {
        Self { name: "persona: tgt-mcs", max_connections: 8, enforces_connections: false, ..Self::tgt() }
    }

    pub(crate) fn istgt() -> Self {
        Self {
            name: "persona: istgt",
            vendor: "FreeBSD",
            product: "iSCSI DISK",
            random_stat_sn: false,
            window_shrinks: false,
            too_many: 8,
            login_time: MS(1_000),
            reinstate: Reinstate::Wait,
            greeting: Greeting::First,
            serial: true,
            ordered_waits_for_data: false,
            tells_drops: false,
            collapses: 1024,
            duplicate: Duplicate::Closes,
            immediate_must_be_expected: true,
            hole_blocks: true,
            odd_numbers: true,
            forgets: true,
            other_cid: OtherCid::ClosesItsOwn,
            session_logout_closes_all: false,
            recovery_logout: (0, 0),
            logout_leaves_hole: true,
            reassign: tmf::COMPLETE,
            abort_task: Abort::Waits,
            abort_task_set: Abort::Waits,
            unit_reset: Abort::Waits,
            clear_task_set: Abort::Waits,
            target_reset: Abort::Waits,
            abort_set_breaks: true,
            reset_closes_others: true,
            reservation_attentions: false,
            slow: MS(2_000),
            slow_once_in: 48,
            ghost_time: MS(3_000),
            ..Self::lab()
        }
    }

    pub(crate) fn lio() -> Self {
        Self {
            name: "persona: lio",
            vendor: "LIO-ORG",
            product: "RAMDISK-MCP",
            first_window: 1,
            reinstate: Reinstate::Wait,
            greeting: Greeting::Never,
            attention_on_arrival: true,
            ordered_waits_for_data: false,
            tells_drops: false,
            ordered_wedges: true,
            collapses: usize::MAX,
            rejects_immediate_in_hole: true,
            dies_with_connection: Some(MS(2_000)),
            pings: Some((MS(15_000), MS(30_000))),
            data_patience: Some(MS(3_000)),
            reassign: tmf::REJECTED,
            abort_task_set: Abort::Unsupported,
            clear_task_set: Abort::Unsupported,
            unit_reset: Abort::Waits,
            slow_reset: Some((MS(7_000), MS(40_000))),
            task_aborted_status: true,
            slow: MS(2_000),
            slow_once_in: 48,
            ghost_time: MS(3_000),
            ..Self::lab()
        }
    }

    pub(crate) fn spdk() -> Self {
        Self {
            name: "persona: spdk",
            vendor: "INTEL",
            product: "Malloc disk",
            window_shrinks: false,
            window_leaks: true,
            max_connections: 2,
            reinstate: Reinstate::Keep,
            greeting: Greeting::Never,
            ordered_waits_for_data: false,
            tells_drops: false,
            collapses: usize::MAX,
            orders_across: false,
            duplicate: Duplicate::Executed,
            immediate_must_be_expected: true,
            other_cid: OtherCid::NotFound,
            session_logout_closes_all: false,
            recovery_logout: (1, 0),
            abort_task: Abort::Unsupported,
            abort_task_set: Abort::Unsupported,
            clear_task_set: Abort::Unsupported,
            unit_reset: Abort::Waits,
            target_reset: Abort::Unsupported,
            write_cache: false,
            slow: MS(1_000),
            ghost_time: MS(10_000),
            ..Self::lab()
        }
    }

    /// A target nobody has measured: only time is a fence.
    pub(crate) fn unknown() -> Self {
        Self {
            name: "persona: unknown",
            vendor: "ACME",
            product: "STORAGE",
            first_window: 1,
            window: 16,
            max_connections: 4,
            // Granted, but not given.
            joins_allowed: Some(2),
            joins_any_group: true,
            // Claimed, but TASK REASSIGN does not exist.
            error_recovery_level: 2,
            reinstate: Reinstate::Keep,
            ordered_waits_for_data: false,
            tells_drops: false,
            attention_on_arrival: true,
            duplicate: Duplicate::Closes,
            other_cid: OtherCid::ClosesItsOwn,
            reset_attention: (0x29, 0x00),
            full_status: false,
            slow: MS(2_000),
            ghost_time: MS(20_000),
            ..Self::lab()
        }
    }

    /// The same target with overlapping commands in order.
    pub(crate) fn restricted(self) -> Self {
        Self { restricted: true, ..self }
    }

    /// The same target with what differs from one installation to the next.
    pub(crate) fn varied(self, random: &mut Random) -> Self {
        let max_burst = random.pick(&[1024, 2048, 4096, 65_536]);
        Self {
            write_cache: self.write_cache && !random.once_in(4),
            segment: random.pick(&[512, 1024, 8192]),
            max_burst,
            first_burst: random.pick(&[512, 1024, 4096]).min(max_burst),
            initial_r2t: random.once_in(2),
            immediate_data: !random.once_in(4),
            window: random.pick(&[4, 16, self.window, self.window]),
            pings: self.pings.map(|usual| random.pick(&[usual, (MS(1_000), MS(4_000))])),
            joins_allowed: self.joins_allowed.filter(|_| random.once_in(2)),
            ..self
        }
    }

    /// Whether sessions of several connections can be had, and keep the order of commands.
    pub(crate) fn orders_across_connections(&self) -> bool {
        self.orders_across && self.max_connections > 1
    }
}
