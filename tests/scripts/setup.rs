//! What a script starts from: plain parameters on both sides, changed by its `setup` lines.

use crate::words::Words;
use braid::iscsi::text::{KeyList, parse_boolean};
use braid::iscsi::{Cid, CmdSn, Isid, StatSn, Tsih};
use braid::login::{ConnectionParams, LoginKind, LoginPlan, Negotiated, SessionParams};
use braid::path::select::Policy;
use braid::session::{
    Barriers, Exhausted, Fanout, FenceMethod, Marginal, PathId, PathPlan, SessionPlan, Unwashed,
};
use std::time::Duration;

pub(crate) const INITIATOR: &str = "iqn.2026-11.org.example:host";
pub(crate) const TARGET: &str = "iqn.2026-11.org.example:disk";
pub(crate) const ISID: Isid = Isid([0, 2, 0x3d, 0, 0, 1]);

/// Commands that an upstream session takes beyond those it has, unless a script says otherwise.
pub(crate) const TARGET_WINDOW: u32 = 32;

const SECOND: Duration = Duration::from_secs(1);

/// Takes the session keys among the words, under their names in the RFC.
pub(crate) fn session_keys(words: &mut Words<'_>, params: &mut SessionParams) -> Result<(), String> {
    let p = params;
    p.max_connections = words.number_or("MaxConnections", p.max_connections)?;
    p.initial_r2t = boolean(words, "InitialR2T", p.initial_r2t)?;
    p.immediate_data = boolean(words, "ImmediateData", p.immediate_data)?;
    p.max_burst_length = words.number_or("MaxBurstLength", p.max_burst_length)?;
    p.first_burst_length = words.number_or("FirstBurstLength", p.first_burst_length)?;
    p.default_time2wait = words.number_or("DefaultTime2Wait", p.default_time2wait)?;
    p.default_time2retain = words.number_or("DefaultTime2Retain", p.default_time2retain)?;
    p.max_outstanding_r2t = words.number_or("MaxOutstandingR2T", p.max_outstanding_r2t)?;
    p.data_pdu_in_order = boolean(words, "DataPDUInOrder", p.data_pdu_in_order)?;
    p.data_sequence_in_order = boolean(words, "DataSequenceInOrder", p.data_sequence_in_order)?;
    p.error_recovery_level = words.number_or("ErrorRecoveryLevel", p.error_recovery_level)?;
    Ok(())
}

pub(crate) fn boolean(words: &mut Words<'_>, name: &str, otherwise: bool) -> Result<bool, String> {
    let Some(text) = words.value(name) else { return Ok(otherwise) };
    parse_boolean(text).ok_or_else(|| format!("{name} is Yes or No"))
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{text}: {error}"))
}

/// One path, several sessions, plain parameters.
pub(crate) fn plan() -> SessionPlan {
    let home_login = LoginPlan {
        kind: LoginKind::Leading,
        initiator_name: INITIATOR.into(),
        target_name: TARGET.into(),
        isid: ISID,
        cid: Cid(0),
        cmd_sn: CmdSn(1),
        offer: SessionParams { max_connections: 8, ..SessionParams::default() },
        connection: ConnectionParams::default(),
    };
    let home = Negotiated {
        session: SessionParams::default(),
        connection: ConnectionParams::default(),
        discovery: false,
        initiator_name: INITIATOR.into(),
        target_name: TARGET.into(),
        target_alias: None,
        tpgt: Some(1),
        isid: ISID,
        tsih: Tsih(1000),
        cid: Cid(0),
        cmd_sn: CmdSn(1),
        max_cmd_sn: CmdSn(TARGET_WINDOW),
        stat_sn: StatSn(1),
        quirks: Default::default(),
    };
    let downstream = Negotiated { tsih: Tsih(1), cid: Cid(7), stat_sn: StatSn(1), ..home.clone() };
    let mut send_targets = KeyList::new();
    send_targets.push("TargetName", TARGET);
    send_targets.push("TargetAddress", "192.0.2.1:3260,1");
    SessionPlan {
        downstream,
        paths: vec![PathPlan {
            name: "p0".into(),
            weight: 1,
            out: false,
            target: home_login.target_name.clone(),
        }],
        home_path: PathId(0),
        home,
        home_login,
        fanout: Fanout::Sessions,
        policy: Policy::RoundRobin,
        fence: FenceMethod::Reinstate,
        barriers: Barriers::Strict,
        fence_time: SECOND * 60,
        predecessor: None,
        unwashed: Unwashed::default(),
        queue_time: SECOND * 30,
        exhausted: Exhausted::Close,
        ping_interval: SECOND * 5,
        ping_timeout: SECOND * 5,
        silence_timeout: SECOND * 5,
        task_timeout: SECOND * 20,
        sequence_timeout: SECOND * 3,
        reconnect: (SECOND, SECOND * 8),
        marginal: Marginal { losses: 5, within: SECOND * 60, calm: SECOND * 10 },
        hedge: None,
        max_window: 16,
        memory_budget: 64 << 20,
        seed: 1,
        send_targets,
    }
}

/// `setup` of the engine's own plan.
pub(crate) fn change_plan(words: &mut Words<'_>, plan: &mut SessionPlan) -> Result<(), String> {
    if let Some(paths) = words.number::<usize>("paths")? {
        let target = &plan.home_login.target_name;
        let path = |n| PathPlan { name: format!("p{n}"), weight: 1, out: false, target: target.clone() };
        plan.paths = (0..paths).map(path).collect();
    }
    if let Some(first) = words.number::<usize>("twin")? {
        plan.paths.iter_mut().skip(first).for_each(|path| path.target.push_str(".twin"));
    }
    if let Some(text) = words.value("fanout") {
        plan.fanout = match text {
            "mcs" => Fanout::Mcs,
            "sessions" => Fanout::Sessions,
            _ => return Err(format!("fanout={text} is unknown")),
        };
        plan.home.session.max_connections = if plan.fanout == Fanout::Mcs { 8 } else { 1 };
    }
    if let Some(text) = words.value("fence") {
        plan.fence = match text {
            "auto" => FenceMethod::Auto,
            "reinstate" => FenceMethod::Reinstate,
            "ordered" => FenceMethod::Ordered,
            "time" => FenceMethod::Time,
            _ => return Err(format!("fence={text} is unknown")),
        };
    }
    if let Some(text) = words.value("exhausted") {
        plan.exhausted = match text {
            "close" => Exhausted::Close,
            "busy" => Exhausted::Busy,
            _ => return Err(format!("exhausted={text} is unknown")),
        };
    }
    let times = [
        ("fence_time", &mut plan.fence_time),
        ("queue_time", &mut plan.queue_time),
        ("ping_interval", &mut plan.ping_interval),
        ("ping_timeout", &mut plan.ping_timeout),
        ("task_timeout", &mut plan.task_timeout),
    ];
    for (name, time) in times {
        if let Some(text) = words.value(name) {
            *time = duration(text)?;
        }
    }
    plan.max_window = words.number_or("window", plan.max_window)?;
    plan.memory_budget = words.number_or("memory", plan.memory_budget)?;
    Ok(())
}

/// `setup` of what was agreed with the initiator.
pub(crate) fn change_downstream(words: &mut Words<'_>, agreed: &mut Negotiated) -> Result<(), String> {
    session_keys(words, &mut agreed.session)?;
    let segment = agreed.connection.max_send_data_segment;
    agreed.connection.max_send_data_segment = words.number_or("MaxRecvDataSegmentLength", segment)?;
    agreed.cmd_sn = CmdSn(words.number_or("cmdsn", agreed.cmd_sn.0)?);
    agreed.stat_sn = StatSn(words.number_or("statsn", agreed.stat_sn.0)?);
    Ok(())
}

/// `setup` of what was agreed with the targets.
pub(crate) fn change_upstream(words: &mut Words<'_>, agreed: &mut Negotiated) -> Result<(), String> {
    session_keys(words, &mut agreed.session)?;
    let segment = agreed.connection.max_send_data_segment;
    agreed.connection.max_send_data_segment = words.number_or("MaxRecvDataSegmentLength", segment)?;
    Ok(())
}
