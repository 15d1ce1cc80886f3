//! What comes out, in one line each.

use braid::iscsi::{BHS_LEN, Payload, Pdu, Receiver};
use braid::login::{ConnectionParams, LoginKind, LoginPlan, Negotiated, SessionParams};
use braid::scsi::{Command, Sense};
use braid::session::{Cause, How, Notice, Trigger};

/// The content of `length` bytes from byte `at` of a unit on: no two places nearby look alike.
pub(crate) fn content(at: u64, length: u32) -> Payload {
    let byte = |place: u64| u8::try_from((place / 509 + place) % 251).unwrap_or(0);
    Payload::from((at..at + u64::from(length)).map(byte).collect::<Vec<u8>>())
}

/// A PDU whose task begins at byte `base` of its unit, with what its one-line form leaves out of data and CDBs.
pub(crate) fn pdu(pdu: &Pdu, base: u64) -> String {
    let mut line = pdu.to_string();
    match pdu {
        Pdu::ScsiCommand(command) => {
            let parsed = Command::parse(&command.cdb.0);
            let extent = parsed.class.extent().map(|e| format!(" lba={} blocks={}", e.lba, e.blocks));
            line += &format!(" ({}{})", parsed.name, extent.unwrap_or_default());
            line += judged(&command.data, base);
        }
        Pdu::DataOut(data) => line += judged(&data.data, base + u64::from(data.buffer_offset)),
        Pdu::DataIn(data) => line += judged(&data.data, base + u64::from(data.buffer_offset)),
        Pdu::NopOut(nop) => line += judged(&nop.data, 0),
        Pdu::NopIn(nop) => line += judged(&nop.data, 0),
        Pdu::ScsiResponse(response) => line += &sense(response.sense().as_deref()),
        Pdu::AsyncMessage(message) => {
            let data = message.data.contiguous();
            line += &sense(data.get(2..));
        }
        Pdu::Reject(reject) => line += &complained_of(&reject.data),
        _ => {}
    }
    line
}

fn judged(data: &Payload, at: u64) -> &'static str {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    if data.contiguous() == content(at, length).contiguous() { "" } else { " WRONG BYTES" }
}

/// Sense key, additional sense code and qualifier.
fn sense(data: Option<&[u8]>) -> String {
    let sense = data.and_then(Sense::parse);
    sense.map(|s| format!(" sense={:x}/{:02x}/{:02x}", s.key, s.asc, s.ascq)).unwrap_or_default()
}

/// Name and tag of the PDU whose header a Reject carries.
fn complained_of(data: &Payload) -> String {
    let bytes = data.contiguous();
    let Some(header) = bytes.first_chunk::<BHS_LEN>() else { return " WITHOUT A HEADER".into() };
    let parse = |receiver| Pdu::parse(receiver, header, &[], Payload::new()).ok();
    let Some(pdu) = parse(Receiver::Target).or_else(|| parse(Receiver::Initiator)) else {
        return format!(" of opcode {:#04x}", header.first().copied().unwrap_or(0) & 0x3f);
    };
    let line = pdu.to_string();
    let end = line.find(" itt=").map_or(0, |at| at + 5);
    let end = line.get(end..).and_then(|rest| rest.find(' ')).map_or(line.len(), |space| end + space);
    format!(" of {}", line.get(..end).unwrap_or(&line))
}

/// What a login asks for that differs from one to the next.
pub(crate) fn plan(plan: &LoginPlan) -> String {
    let kind = match &plan.kind {
        LoginKind::Leading => format!("leading, MaxConnections={}", plan.offer.max_connections),
        LoginKind::Joining { tsih, .. } => format!("joining, tsih={}", tsih.0),
        LoginKind::Discovery => "discovery".to_owned(),
    };
    format!("{kind} isid={} cid={} cmdsn={}", plan.isid, plan.cid.0, plan.cmd_sn)
}

pub(crate) fn how(how: How) -> &'static str {
    match how {
        How::Graceful => "gracefully",
        How::Reset => "by reset",
    }
}

/// Whether a path is in another state only because a connection is opened, comes up or ends, which is printed.
pub(crate) fn comes_with_connection(notice: &Notice) -> bool {
    use Trigger::{Connected, Failed, Left, Lost, Tried};
    matches!(notice, Notice::PathState { trigger: Tried | Connected | Failed | Left | Lost, .. })
}

pub(crate) fn notice(notice: &Notice) -> String {
    match notice {
        Notice::PathUp { path, home } => format!("path {} up{}", path.0, if *home { ", home" } else { "" }),
        Notice::PathDown { path, was_up, cause } => {
            let what = if *was_up { "down" } else { "not up" };
            format!("path {} {what}: {}", path.0, self::cause(cause))
        }
        Notice::Moved { path, commands } => format!("{commands} commands moved off path {}", path.0),
        Notice::Reassigned { path, commands } => format!("{commands} commands of path {} go on", path.0),
        Notice::PathState { path, from, to, trigger } => {
            format!("path {} {} -> {}: {trigger:?}", path.0, from.word(), to.word())
        }
        Notice::PathMarginal { path } => format!("path {} marginal", path.0),
        Notice::Hedged { path } => format!("a read late on path {} is asked again", path.0),
        Notice::HedgeWon { path } => format!("a read late on path {} is answered elsewhere", path.0),
        Notice::Evaded { path, commands } => format!("{commands} commands evaded path {}", path.0),
        Notice::Fenced { path, method, took } => {
            format!("path {} fenced by {method:?} after {took:?}", path.0)
        }
        Notice::OutcomeUnknown { path } => format!("outcome unknown on path {}", path.0),
        Notice::IdentityMismatch { path, lun, what } => format!("path {} kept off lun {lun}: {what}", path.0),
        Notice::UnitBound { path, lun, why } => format!("lun {lun} stays on path {}: {why}", path.0),
        Notice::IdentityProved { path, lun, there } if lun == there => {
            format!("path {} proved lun {lun}", path.0)
        }
        Notice::IdentityProved { path, lun, there } => {
            format!("path {} proved lun {lun} under {there}", path.0)
        }
        Notice::Completed { path, read, written, took } => {
            format!("completed on path {}, read {read} wrote {written} in {took:?}", path.0)
        }
        Notice::UnitAttentionAbsorbed { path } => format!("unit attention absorbed on path {}", path.0),
        Notice::AccessChanged { path, lun, from, to } => {
            format!("lun {lun} on path {} was {from}, is {to}", path.0)
        }
        Notice::TransitionAsked { path, lun, group } => {
            format!("lun {lun} is to become active in group {group}, path {}", path.0)
        }
        Notice::TransitionRefused { path, lun, what } => {
            format!("lun {lun} did not become active on path {}: {what}", path.0)
        }
        Notice::Quirk { path, quirk } => format!("quirk on path {}: {}", path.0, quirk.row().name),
        Notice::DownstreamProtocol(what) => format!("initiator broke the protocol: {what}"),
        Notice::DownstreamDigest(what) => format!("data of the initiator came with a wrong digest: {what}"),
        Notice::LineUp { lines } => format!("the initiator has {lines} connections"),
        Notice::LineDown { lines, commands } => {
            format!("the initiator has {lines} connections, {commands} commands ended")
        }
        Notice::AllPathsDown => "all paths down".to_owned(),
        Notice::TakenAgain => "commands are taken again".to_owned(),
        Notice::GaveUp(then) => format!("gave up: {then:?}"),
    }
}

fn cause(cause: &Cause) -> String {
    match cause {
        Cause::Tcp(what) => format!("TCP: {what}"),
        Cause::Login(what) => format!("login: {what}"),
        Cause::Protocol(what) => format!("protocol: {what}"),
        Cause::Digest(what) => format!("digest: {what}"),
        Cause::Logout => "logged out".to_owned(),
    }
}

const fn yes(value: bool) -> &'static str {
    if value { "Yes" } else { "No" }
}

fn session(s: &SessionParams) -> String {
    format!(
        "MaxConnections={} InitialR2T={} ImmediateData={} MaxBurstLength={} FirstBurstLength={} \
         DefaultTime2Wait={} DefaultTime2Retain={} MaxOutstandingR2T={} DataPDUInOrder={} DataSequenceInOrder={} \
         ErrorRecoveryLevel={}",
        s.max_connections,
        yes(s.initial_r2t),
        yes(s.immediate_data),
        s.max_burst_length,
        s.first_burst_length,
        s.default_time2wait,
        s.default_time2retain,
        s.max_outstanding_r2t,
        yes(s.data_pdu_in_order),
        yes(s.data_sequence_in_order),
        s.error_recovery_level,
    )
}

fn connection(c: &ConnectionParams) -> String {
    let digest = |on| if on { "CRC32C" } else { "None" };
    format!(
        "HeaderDigest={} DataDigest={} takes={} sends={}",
        digest(c.header_digest),
        digest(c.data_digest),
        c.max_recv_data_segment,
        c.max_send_data_segment,
    )
}

/// The outcome of a login, in three lines.
pub(crate) fn negotiated(n: &Negotiated) -> Vec<String> {
    let kind = if n.discovery { "discovery session" } else { "session" };
    let tpgt = n.tpgt.map(|tag| format!(" tpgt={tag}")).unwrap_or_default();
    let alias = n.target_alias.as_ref().map(|alias| format!(" alias={alias}")).unwrap_or_default();
    let quirks: Vec<_> = n.quirks.iter().map(|quirk| quirk.row().name).collect();
    let mut lines = vec![
        format!(
            "done: {kind} of {} with {:?}{tpgt}{alias} isid={} tsih={} cid={} cmdsn={} maxcmdsn={} statsn={}",
            n.initiator_name, n.target_name, n.isid, n.tsih.0, n.cid.0, n.cmd_sn, n.max_cmd_sn, n.stat_sn
        ),
        format!("done: {}", session(&n.session)),
        format!("done: {}", connection(&n.connection)),
    ];
    if !quirks.is_empty() {
        lines.push(format!("done: quirks {}", quirks.join(" ")));
    }
    lines
}
