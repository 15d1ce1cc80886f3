//! What can happen, as the fuzzer makes it up, and the sessions it happens to.

use arbitrary::Arbitrary;
use braid::iscsi::text::KeyList;
use braid::iscsi::{Cid, CmdSn, Isid, StatSn, Tsih};
use braid::login::{ConnectionParams, LoginKind, LoginPlan, Negotiated, SessionParams};
use braid::path::select::Policy;
use braid::session::{
    Barriers, Exhausted, Fanout, FenceMethod, Hedge, Marginal, PathId, PathPlan, SessionPlan, Unwashed,
};
use std::time::Duration;

/// The session, as far as it differs from others.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) struct Setup {
    mcs: bool,
    paths: u8,
    policy: u8,
    fence: u8,
    /// Its upper bits: whether the initiator recovers (error recovery level 1), and whether it uses data digests.
    window: u8,
    memory: u8,
    first_cmd_sn: u8,
    downstream: Sizes,
    pub(super) upstream: Sizes,
}

/// Sizes agreed with one side, in units of 512 bytes.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) struct Sizes {
    initial_r2t: bool,
    immediate_data: bool,
    first_burst: u8,
    max_burst: u8,
    segment: u8,
    outstanding_r2t: u8,
}

/// Something that happens.
#[derive(Arbitrary, Debug)]
pub(super) enum Op<'a> {
    /// The initiator sends a command.
    Command(Command),
    /// The initiator answers an R2T, right or nearly so.
    Data {
        which: u8,
        part: u8,
        fault: DataFault,
    },
    /// The initiator sends unsolicited data for a command.
    Unsolicited {
        which: u8,
        units: u8,
        last: bool,
    },
    Manage {
        function: u8,
        which: u8,
        lun: u8,
        immediate: bool,
        number: Number,
    },
    Ping {
        tagged: bool,
        immediate: bool,
        length: u8,
    },
    Text {
        text: &'a [u8],
        follow: bool,
        more: bool,
        last: bool,
    },
    Logout {
        reason: u8,
        cid: u8,
        sure: u8,
    },
    /// Anything from the initiator; of its header some fields are put right.
    FromInitiator(Raw<'a>),
    /// What the initiator sent is to be rejected. With data digests it may be data that are due, or those are lost without a trace.
    Rejectable {
        header: [u8; 8],
        reason: u8,
    },
    Leave {
        stop: bool,
        sure: u8,
    },
    Pause(bool),
    /// A target takes its next step with one of the commands that it has.
    Serve {
        conn: u8,
        which: u8,
        how: How,
    },
    /// All targets serve all that they have, as they should.
    ServeAll,
    /// Anything from a target; of its header some fields are put right.
    FromTarget {
        conn: u8,
        raw: Raw<'a>,
    },
    /// What a connection that is closed had still under way.
    Late {
        raw: Raw<'a>,
    },
    Connect {
        which: u8,
        tpgt: u8,
        window: u8,
    },
    Refuse {
        which: u8,
        by_login: bool,
    },
    Cut {
        conn: u8,
        cause: u8,
    },
    Wait(u8),
}

/// A command.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) struct Command {
    pub(super) kind: u8,
    pub(super) lun: u8,
    pub(super) lba: u8,
    pub(super) blocks: u8,
    pub(super) attribute: u8,
    pub(super) immediate: bool,
    /// Units of immediate data, and whether more follows unasked.
    pub(super) data: u8,
    pub(super) announced: bool,
    pub(super) number: Number,
    pub(super) tag: Tag,
    /// Expected length differs from what the CDB says, in units.
    pub(super) skew: i8,
}

/// Which CmdSN a request carries.
#[derive(Arbitrary, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Number {
    Next,
    /// The same once more, to make it likelier.
    NextToo,
    /// One is left out, to be filled later or never.
    Skip,
    /// The earliest that was left out.
    Fill,
    Any(i8),
}

/// Which tag a request carries.
#[derive(Arbitrary, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tag {
    New,
    /// The same once more, to make it likelier.
    NewToo,
    Used(u8),
    None,
}

/// What is wrong with the initiator's data.
#[derive(Arbitrary, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DataFault {
    Nothing,
    /// The same once more, to make it likelier.
    NothingToo,
    Offset,
    Number,
    Tag,
    Final,
    Empty,
}

/// How a target serves a command.
#[derive(Arbitrary, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum How {
    Well,
    /// Data and status in one PDU.
    Phased,
    /// One more piece of the data.
    Piece(u8),
    Status(u8),
    Sense {
        key: u8,
        asc: u8,
    },
    Underflow,
    /// An R2T for any range.
    Ask {
        at: u8,
        units: u8,
    },
    Response(u8),
    Refused(u8),
}

/// A PDU made of bytes.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub(super) struct Raw<'a> {
    pub(super) header: [u8; 48],
    pub(super) ahs: &'a [u8],
    pub(super) data: u8,
    /// The tag becomes one in use.
    pub(super) tag: Option<u8>,
    /// The sequence numbers become those that are due.
    pub(super) numbered: bool,
}

impl Sizes {
    pub(super) fn session(self, max_connections: u16) -> SessionParams {
        let bytes = |units: u8| 512 * (1 + u32::from(units % 16));
        let max_burst_length = bytes(self.max_burst);
        SessionParams {
            max_connections,
            initial_r2t: self.initial_r2t,
            immediate_data: self.immediate_data,
            max_burst_length,
            first_burst_length: bytes(self.first_burst).min(max_burst_length),
            max_outstanding_r2t: 1 + u16::from(self.outstanding_r2t % 4),
            ..SessionParams::default()
        }
    }

    pub(super) fn connection(self) -> ConnectionParams {
        let most = 512 * (1 + u32::from(self.segment % 8));
        ConnectionParams { max_send_data_segment: most, ..ConnectionParams::default() }
    }
}

impl Setup {
    /// What was agreed with the initiator.
    fn agreed(&self, home: &Negotiated, window: u32) -> Negotiated {
        let (recovers, data_digest) = (self.window & 0x80 != 0, self.window & 0x40 != 0);
        let session = self.downstream.session(1);
        Negotiated {
            session: SessionParams {
                error_recovery_level: u8::from(recovers),
                max_outstanding_r2t: if recovers { 1 } else { session.max_outstanding_r2t },
                ..session
            },
            connection: ConnectionParams { data_digest, ..self.downstream.connection() },
            cid: Cid(7),
            cmd_sn: home.cmd_sn,
            max_cmd_sn: home.cmd_sn.plus(window - 1),
            stat_sn: StatSn(home.cmd_sn.0),
            ..home.clone()
        }
    }

    pub(super) fn plan(&self) -> SessionPlan {
        let first = CmdSn(0_u32.wrapping_sub(u32::from(self.first_cmd_sn)));
        let paths = 1 + usize::from(self.paths % 4);
        let window = 1 + u32::from(self.window % 32);
        let max_connections = if self.mcs { 3 } else { 1 };
        let home_login = LoginPlan {
            kind: LoginKind::Leading,
            initiator_name: "iqn.2026-01.example:i".into(),
            target_name: "iqn.2026-01.example:t".into(),
            isid: Isid([0, 2, 0x3d, 0, 0, 1]),
            cid: Cid(0),
            cmd_sn: first,
            offer: SessionParams { max_connections, ..SessionParams::default() },
            connection: ConnectionParams::default(),
        };
        let home = logged_in(&home_login, self.upstream, 1, 16);
        let downstream = self.agreed(&home, window);
        let mut send_targets = KeyList::new();
        send_targets.push("TargetName", "iqn.2026-01.example:t");
        send_targets.push("TargetAddress", "192.0.2.1:3260,1".repeat(1 + usize::from(self.memory)));
        SessionPlan {
            downstream,
            paths: (0..paths)
                .map(|n| PathPlan {
                    name: format!("p{n}"),
                    weight: 1,
                    out: false,
                    target: home_login.target_name.clone(),
                })
                .collect(),
            home_path: PathId(usize::from(self.paths / 4) % paths),
            home,
            home_login,
            fanout: if self.mcs { Fanout::Mcs } else { Fanout::Sessions },
            policy: [Policy::RoundRobin, Policy::ServiceTime, Policy::QueueDepth, Policy::Failover]
                [usize::from(self.policy % 4)],
            fence: [FenceMethod::Auto, FenceMethod::Reinstate, FenceMethod::Ordered, FenceMethod::Time]
                [usize::from(self.fence % 4)],
            barriers: Barriers::Strict,
            fence_time: Duration::from_secs(30),
            queue_time: Duration::from_secs(60),
            exhausted: if self.fence & 4 == 0 { Exhausted::Close } else { Exhausted::Busy },
            ping_interval: Duration::from_secs(2),
            ping_timeout: Duration::from_secs(15),
            silence_timeout: Duration::from_secs(15),
            task_timeout: Duration::from_secs(20),
            sequence_timeout: Duration::from_secs(3),
            reconnect: (Duration::from_millis(500), Duration::from_secs(30)),
            marginal: Marginal {
                losses: u32::from(self.policy % 4),
                within: Duration::from_secs(60),
                calm: Duration::from_secs(10),
            },
            // Nothing is known of reads before a few have come.
            hedge: (self.policy & 4 != 0).then_some(Hedge { late: 500, most: 1000 }),
            max_window: window,
            memory_budget: 1024 * (1 + u64::from(self.memory)),
            predecessor: None,
            unwashed: Unwashed::default(),
            seed: self.policy.into(),
            send_targets,
        }
    }
}

/// What a target agrees to.
pub(super) fn logged_in(plan: &LoginPlan, sizes: Sizes, tpgt: u16, window: u32) -> Negotiated {
    let (session, tsih) = match &plan.kind {
        LoginKind::Joining { session, tsih } => (session.clone(), *tsih),
        LoginKind::Leading | LoginKind::Discovery => (sizes.session(plan.offer.max_connections), Tsih(9)),
    };
    Negotiated {
        session,
        connection: sizes.connection(),
        discovery: false,
        initiator_name: plan.initiator_name.clone(),
        target_name: plan.target_name.clone(),
        target_alias: None,
        tpgt: (tpgt > 0).then_some(tpgt),
        isid: plan.isid,
        tsih,
        cid: plan.cid,
        cmd_sn: plan.cmd_sn,
        max_cmd_sn: plan.cmd_sn.plus(window).minus(1),
        stat_sn: StatSn(1),
        quirks: Default::default(),
    }
}
