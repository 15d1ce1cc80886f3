//! What a session is planned with, made of the configuration and of what both logins agreed on.

use super::Shared;
use super::dial::{RequiredDigests, Route, Timing, Way};
use crate::config::{Digest, PathConfig, Recovery, Target};
use crate::iscsi::text::KeyList;
use crate::iscsi::{Cid, CmdSn, Tsih};
use crate::login::{ConnectionParams, Intent, LoginKind, LoginPlan, Negotiated, Offer, SessionParams};
use crate::session::{Fanout, PathId, PathPlan, SessionPlan, Tuning, Unwashed};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, Instant};

/// Commands admitted by the login itself; the engine then opens the window to what it can take.
const FIRST_WINDOW: u32 = 32;

/// Time for write data to come, at error recovery level 1: long for a link, and short enough for a few of them before
/// initiators lose patience with a command.
const SEQUENCE_TIMEOUT: Duration = Duration::from_secs(3);

/// The ways over a target's paths.
pub(super) fn ways(shared: &Shared, target: &Target) -> Vec<Way> {
    let required = RequiredDigests {
        header: target.header_digest == Digest::Crc32c,
        data: target.data_digest == Digest::Crc32c,
    };
    let way = |path: &PathConfig| Way {
        route: Route {
            moved: shared.moves.of(&path.portal.to_string(), &path.target, &shared.oddities),
            ..Route::from(path)
        },
        target: path.target.clone(),
        timing: Timing::from(target),
        required,
        out: shared.orders.is_out(&target.name, &path.name),
    };
    target.paths.iter().map(way).collect()
}

/// The leading upstream login: with the initiator's own name and session id.
pub(super) fn login_plan(target: &Target, fanout: Fanout, intent: &Intent) -> LoginPlan {
    let connections = match fanout {
        Fanout::Mcs => u16::try_from(target.paths.len()).unwrap_or(u16::MAX),
        Fanout::Sessions => 1,
    };
    LoginPlan {
        kind: LoginKind::Leading,
        initiator_name: intent.initiator_name.clone(),
        target_name: target.name.clone(),
        isid: intent.isid,
        cid: Cid(0),
        cmd_sn: CmdSn(1),
        offer: SessionParams { max_connections: connections, ..recovery(target, fanout) },
        connection: ConnectionParams {
            header_digest: target.header_digest != Digest::None,
            data_digest: target.data_digest != Digest::None,
            max_recv_data_segment: target.max_recv_data_segment,
            ..ConnectionParams::default()
        },
    }
}

/// What Braid can keep on either side. Data is re-segmented, so the two sides need not agree.
fn limits(target: &Target) -> SessionParams {
    SessionParams {
        max_connections: 1,
        initial_r2t: false,
        immediate_data: true,
        max_burst_length: target.max_burst,
        first_burst_length: target.first_burst,
        max_outstanding_r2t: 1,
        error_recovery_level: 0,
        ..SessionParams::default()
    }
}

/// What is offered to the target. Where tasks may outlive their connection there is no reason to wait before they go on.
fn recovery(target: &Target, fanout: Fanout) -> SessionParams {
    match (fanout, target.upstream_recovery) {
        (Fanout::Mcs, Recovery::Reassign) => {
            SessionParams { error_recovery_level: 2, default_time2wait: 0, ..limits(target) }
        }
        (Fanout::Mcs | Fanout::Sessions, _) => limits(target),
    }
}

/// What the initiator is offered.
pub(super) fn offer(target: &Target, upstream: &Negotiated, tsih: Tsih, tpgt: u16) -> Offer {
    Offer {
        // A session ends with its last connection: there is nothing to retain. What is lost within it can be had again.
        limits: SessionParams {
            max_connections: target.initiator_connections,
            default_time2retain: 0,
            error_recovery_level: 1,
            ..limits(target)
        },
        joining: false,
        max_recv_data_segment: target.max_recv_data_segment,
        allow_digests: true,
        tpgt,
        target_alias: upstream.target_alias.clone(),
        tsih,
        window: target.window.min(FIRST_WINDOW),
    }
}

/// What may change while a session runs.
pub(super) fn tuning(target: &Target) -> Tuning {
    Tuning {
        policy: target.policy,
        queue_time: target.queue_time,
        exhausted: target.exhausted,
        ping_interval: target.ping_interval,
        ping_timeout: target.ping_timeout,
        silence_timeout: target.silence_timeout,
        task_timeout: target.task_timeout,
        reconnect: target.reconnect,
        marginal: target.marginal,
        hedge: target.hedge,
        max_window: target.window,
        memory_budget: target.memory,
    }
}

/// All that the engine is told at birth.
pub(super) fn session_plan(
    (target, ways): (&Target, &[Way]),
    fanout: Fanout,
    (downstream, send_targets): (Negotiated, KeyList),
    (home_path, home, home_login): (PathId, Negotiated, LoginPlan),
    (predecessor, unwashed): (Option<Instant>, Unwashed),
) -> SessionPlan {
    let path = |(path, way): (&PathConfig, &Way)| PathPlan {
        name: path.name.clone(),
        weight: path.weight,
        out: way.out,
        target: path.target.clone(),
    };
    let tuning = tuning(target);
    SessionPlan {
        downstream,
        send_targets,
        paths: target.paths.iter().zip(ways).map(path).collect(),
        home_path,
        home,
        home_login,
        fanout,
        policy: tuning.policy,
        barriers: target.barriers,
        fence: target.fence,
        fence_time: target.fence_time,
        predecessor,
        unwashed,
        queue_time: tuning.queue_time,
        exhausted: tuning.exhausted,
        ping_interval: tuning.ping_interval,
        ping_timeout: tuning.ping_timeout,
        silence_timeout: tuning.silence_timeout,
        task_timeout: tuning.task_timeout,
        sequence_timeout: SEQUENCE_TIMEOUT,
        reconnect: tuning.reconnect,
        marginal: tuning.marginal,
        hedge: tuning.hedge,
        max_window: tuning.max_window,
        memory_budget: tuning.memory_budget,
        // Jitter needs numbers that differ between sessions, no more.
        seed: RandomState::new().build_hasher().finish(),
    }
}
