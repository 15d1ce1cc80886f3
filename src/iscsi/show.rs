//! Any PDU printed in one line, for logs and test transcripts.
//!
//! The line is stable: name, task tag, what the PDU says, then numbers and lengths, each as `name=value`; numbers of the
//! sequence are decimal, tags and codes hexadecimal. Fields without meaning are left out. It never holds a line break, is of
//! bounded length, and never shows a secret: of authentication keys, and of keys nobody knows, only the name is printed.

use super::text::KeyList;
use super::{
    AsyncMessage, Cdb, CmdSn, DataIn, DataOut, Itt, LoginRequest, LoginResponse, LogoutRequest,
    LogoutResponse, Lun, NopIn, NopOut, Payload, Pdu, R2t, Reject, ScsiCommand, ScsiResponse, SnackRequest,
    Stage, StatSn, TaskAttribute, TaskManagementRequest, TaskManagementResponse, TextRequest, TextResponse,
    Ttt, tmf,
};
use std::fmt::{Display, Formatter, Result};

/// Longest value printed, in characters.
const VALUE_SHOWN: usize = 256;
/// Most pairs printed of one text.
const PAIRS_SHOWN: usize = 64;

impl Display for Pdu {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::NopOut(pdu) => nop_out(f, pdu),
            Self::ScsiCommand(pdu) => scsi_command(f, pdu),
            Self::TaskManagementRequest(pdu) => task_management_request(f, pdu),
            Self::LoginRequest(pdu) => login_request(f, pdu),
            Self::TextRequest(pdu) => text_request(f, pdu),
            Self::DataOut(pdu) => data_out(f, pdu),
            Self::LogoutRequest(pdu) => logout_request(f, pdu),
            Self::SnackRequest(pdu) => snack(f, pdu),
            Self::NopIn(pdu) => nop_in(f, pdu),
            Self::ScsiResponse(pdu) => scsi_response(f, pdu),
            Self::TaskManagementResponse(pdu) => task_management_response(f, pdu),
            Self::LoginResponse(pdu) => login_response(f, pdu),
            Self::TextResponse(pdu) => text_response(f, pdu),
            Self::DataIn(pdu) => data_in(f, pdu),
            Self::LogoutResponse(pdu) => logout_response(f, pdu),
            Self::R2t(pdu) => r2t(f, pdu),
            Self::AsyncMessage(pdu) => async_message(f, pdu),
            Self::Reject(pdu) => reject(f, pdu),
        }
    }
}

fn nop_out(f: &mut Formatter<'_>, pdu: &NopOut) -> Result {
    write!(f, "NOP-Out itt={}", Tag(pdu.itt.0))?;
    ttt(f, pdu.ttt, pdu.lun)?;
    flags(f, &[(pdu.immediate, "I")])?;
    request(f, pdu.cmd_sn, pdu.exp_stat_sn)?;
    data(f, &pdu.data)
}

fn nop_in(f: &mut Formatter<'_>, pdu: &NopIn) -> Result {
    write!(f, "NOP-In itt={}", Tag(pdu.itt.0))?;
    ttt(f, pdu.ttt, pdu.lun)?;
    response(f, Some(pdu.stat_sn), pdu.exp_cmd_sn, pdu.max_cmd_sn)?;
    data(f, &pdu.data)
}

fn scsi_command(f: &mut Formatter<'_>, pdu: &ScsiCommand) -> Result {
    let attribute = match pdu.attribute {
        TaskAttribute::Untagged => "UNTAGGED",
        TaskAttribute::Simple => "SIMPLE",
        TaskAttribute::Ordered => "ORDERED",
        TaskAttribute::HeadOfQueue => "HEAD",
        TaskAttribute::Aca => "ACA",
    };
    write!(f, "SCSI Command itt={} lun={} {attribute}", Tag(pdu.itt.0), pdu.lun)?;
    flags(f, &[(pdu.read, "READ"), (pdu.write, "WRITE"), (pdu.final_, "F"), (pdu.immediate, "I")])?;
    request(f, pdu.cmd_sn, pdu.exp_stat_sn)?;
    write!(f, " len={}", pdu.expected_length)?;
    if let Some(length) = pdu.bidi_read_length {
        write!(f, " bidilen={length}")?;
    }
    data(f, &pdu.data)?;
    write!(f, " cdb={}", Hex(&pdu.cdb))
}

fn scsi_response(f: &mut Formatter<'_>, pdu: &ScsiResponse) -> Result {
    write!(f, "SCSI Response itt={} response={:#04x}", Tag(pdu.itt.0), pdu.response)?;
    write!(f, " status={:#04x}", pdu.status)?;
    residual(f, "", pdu.overflow, pdu.underflow, pdu.residual)?;
    residual(f, "bidi", pdu.bidi_overflow, pdu.bidi_underflow, pdu.bidi_residual)?;
    response(f, Some(pdu.stat_sn), pdu.exp_cmd_sn, pdu.max_cmd_sn)?;
    write!(f, " expdatasn={}", pdu.exp_data_sn)?;
    if pdu.snack_tag != 0 {
        write!(f, " snacktag={:#x}", pdu.snack_tag)?;
    }
    data(f, &pdu.data)
}

fn task_management_request(f: &mut Formatter<'_>, pdu: &TaskManagementRequest) -> Result {
    let function = match pdu.function {
        tmf::ABORT_TASK => "ABORT TASK",
        tmf::ABORT_TASK_SET => "ABORT TASK SET",
        tmf::CLEAR_ACA => "CLEAR ACA",
        tmf::CLEAR_TASK_SET => "CLEAR TASK SET",
        tmf::LOGICAL_UNIT_RESET => "LOGICAL UNIT RESET",
        tmf::TARGET_WARM_RESET => "TARGET WARM RESET",
        tmf::TARGET_COLD_RESET => "TARGET COLD RESET",
        tmf::TASK_REASSIGN => "TASK REASSIGN",
        tmf::QUERY_TASK => "QUERY TASK",
        tmf::QUERY_TASK_SET => "QUERY TASK SET",
        tmf::I_T_NEXUS_RESET => "I_T NEXUS RESET",
        tmf::QUERY_ASYNC_EVENT => "QUERY ASYNC EVENT",
        _ => "unknown function",
    };
    write!(f, "TMF Request itt={} lun={} {function}", Tag(pdu.itt.0), pdu.lun)?;
    write!(f, " function={} reftask={}", pdu.function, Tag(pdu.referenced_itt.0))?;
    flags(f, &[(pdu.immediate, "I")])?;
    request(f, pdu.cmd_sn, pdu.exp_stat_sn)?;
    write!(f, " refcmdsn={} expdatasn={}", pdu.ref_cmd_sn, pdu.exp_data_sn)
}

fn task_management_response(f: &mut Formatter<'_>, pdu: &TaskManagementResponse) -> Result {
    write!(f, "TMF Response itt={} response={}", Tag(pdu.itt.0), pdu.response)?;
    response(f, Some(pdu.stat_sn), pdu.exp_cmd_sn, pdu.max_cmd_sn)?;
    if pdu.additional != 0 {
        write!(f, " additional={:#x}", pdu.additional)?;
    }
    Ok(())
}

fn data_out(f: &mut Formatter<'_>, pdu: &DataOut) -> Result {
    write!(f, "Data-Out itt={}", Tag(pdu.itt.0))?;
    ttt(f, pdu.ttt, pdu.lun)?;
    flags(f, &[(pdu.final_, "F")])?;
    write!(f, " expstatsn={} datasn={} offset={}", pdu.exp_stat_sn, pdu.data_sn, pdu.buffer_offset)?;
    data(f, &pdu.data)
}

fn data_in(f: &mut Formatter<'_>, pdu: &DataIn) -> Result {
    write!(f, "Data-In itt={}", Tag(pdu.itt.0))?;
    ttt(f, pdu.ttt, pdu.lun)?;
    flags(f, &[(pdu.final_, "F"), (pdu.acknowledge, "A")])?;
    if pdu.has_status {
        write!(f, " status={:#04x}", pdu.status)?;
        residual(f, "", pdu.overflow, pdu.underflow, pdu.residual)?;
    }
    response(f, pdu.has_status.then_some(pdu.stat_sn), pdu.exp_cmd_sn, pdu.max_cmd_sn)?;
    write!(f, " datasn={} offset={}", pdu.data_sn, pdu.buffer_offset)?;
    data(f, &pdu.data)
}

fn r2t(f: &mut Formatter<'_>, pdu: &R2t) -> Result {
    write!(f, "R2T itt={} ttt={} lun={}", Tag(pdu.itt.0), Tag(pdu.ttt.0), pdu.lun)?;
    response(f, Some(pdu.stat_sn), pdu.exp_cmd_sn, pdu.max_cmd_sn)?;
    write!(f, " r2tsn={} offset={} desired={}", pdu.r2t_sn, pdu.buffer_offset, pdu.desired_length)
}

fn snack(f: &mut Formatter<'_>, pdu: &SnackRequest) -> Result {
    let kind = match pdu.kind {
        0 => "DATA/R2T",
        1 => "STATUS",
        2 => "DATA-ACK",
        _ => "R-DATA",
    };
    write!(f, "SNACK {kind} itt={}", Tag(pdu.itt.0))?;
    ttt(f, pdu.ttt, pdu.lun)?;
    write!(f, " expstatsn={} begin={} run={}", pdu.exp_stat_sn, pdu.begin_run, pdu.run_length)
}

fn login_request(f: &mut Formatter<'_>, pdu: &LoginRequest) -> Result {
    write!(f, "Login Request itt={} {}", Tag(pdu.itt.0), stages(pdu.transit, pdu.current, pdu.next))?;
    flags(f, &[(pdu.continue_, "C")])?;
    write!(f, " isid={} tsih={} cid={}", pdu.isid, pdu.tsih.0, pdu.cid.0)?;
    request(f, pdu.cmd_sn, pdu.exp_stat_sn)?;
    write!(f, " version={}..{}", pdu.version_min, pdu.version_max)?;
    text(f, &pdu.data)
}

fn login_response(f: &mut Formatter<'_>, pdu: &LoginResponse) -> Result {
    write!(f, "Login Response itt={} ", Tag(pdu.itt.0))?;
    write!(f, "status={:02x}/{:02x} ", pdu.status_class, pdu.status_detail)?;
    f.write_str(&stages(pdu.transit, pdu.current, pdu.next))?;
    flags(f, &[(pdu.continue_, "C")])?;
    write!(f, " isid={} tsih={}", pdu.isid, pdu.tsih.0)?;
    response(f, Some(pdu.stat_sn), pdu.exp_cmd_sn, pdu.max_cmd_sn)?;
    write!(f, " version={}..{}", pdu.version_active, pdu.version_max)?;
    text(f, &pdu.data)
}

fn text_request(f: &mut Formatter<'_>, pdu: &TextRequest) -> Result {
    write!(f, "Text Request itt={}", Tag(pdu.itt.0))?;
    ttt(f, pdu.ttt, pdu.lun)?;
    flags(f, &[(pdu.final_, "F"), (pdu.continue_, "C"), (pdu.immediate, "I")])?;
    request(f, pdu.cmd_sn, pdu.exp_stat_sn)?;
    text(f, &pdu.data)
}

fn text_response(f: &mut Formatter<'_>, pdu: &TextResponse) -> Result {
    write!(f, "Text Response itt={}", Tag(pdu.itt.0))?;
    ttt(f, pdu.ttt, pdu.lun)?;
    flags(f, &[(pdu.final_, "F"), (pdu.continue_, "C")])?;
    response(f, Some(pdu.stat_sn), pdu.exp_cmd_sn, pdu.max_cmd_sn)?;
    text(f, &pdu.data)
}

fn logout_request(f: &mut Formatter<'_>, pdu: &LogoutRequest) -> Result {
    let reason = match pdu.reason {
        0 => "session",
        1 => "connection",
        _ => "recovery",
    };
    write!(f, "Logout Request itt={} reason={reason} cid={}", Tag(pdu.itt.0), pdu.cid.0)?;
    flags(f, &[(pdu.immediate, "I")])?;
    request(f, pdu.cmd_sn, pdu.exp_stat_sn)
}

fn logout_response(f: &mut Formatter<'_>, pdu: &LogoutResponse) -> Result {
    write!(f, "Logout Response itt={} response={}", Tag(pdu.itt.0), pdu.response)?;
    response(f, Some(pdu.stat_sn), pdu.exp_cmd_sn, pdu.max_cmd_sn)?;
    write!(f, " time2wait={} time2retain={}", pdu.time2wait, pdu.time2retain)
}

fn async_message(f: &mut Formatter<'_>, pdu: &AsyncMessage) -> Result {
    let [first, second, third] = pdu.parameters;
    write!(f, "Async Message event={} lun={} vendor={}", pdu.event, pdu.lun, pdu.vendor_code)?;
    write!(f, " parameters={first},{second},{third}")?;
    response(f, Some(pdu.stat_sn), pdu.exp_cmd_sn, pdu.max_cmd_sn)?;
    data(f, &pdu.data)
}

fn reject(f: &mut Formatter<'_>, pdu: &Reject) -> Result {
    write!(f, "Reject reason={:#04x}", pdu.reason)?;
    response(f, Some(pdu.stat_sn), pdu.exp_cmd_sn, pdu.max_cmd_sn)?;
    write!(f, " datasn={}", pdu.data_sn)?;
    data(f, &pdu.data)
}

/// A tag, or `-` for the one that names nothing.
struct Tag(u32);

impl Display for Tag {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if self.0 == Itt::NONE.0 { f.write_str("-") } else { write!(f, "{:#x}", self.0) }
    }
}

struct Hex<'a>(&'a Cdb);

impl Display for Hex<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        self.0.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Target transfer tag and LUN, if there is a tag: without it the LUN means nothing.
fn ttt(f: &mut Formatter<'_>, ttt: Ttt, lun: Lun) -> Result {
    if ttt == Ttt::NONE { Ok(()) } else { write!(f, " ttt={} lun={lun}", Tag(ttt.0)) }
}

fn flags(f: &mut Formatter<'_>, flags: &[(bool, &str)]) -> Result {
    flags.iter().filter(|(set, _)| *set).try_for_each(|(_, name)| write!(f, " {name}"))
}

fn request(f: &mut Formatter<'_>, cmd_sn: CmdSn, exp_stat_sn: StatSn) -> Result {
    write!(f, " cmdsn={cmd_sn} expstatsn={exp_stat_sn}")
}

fn response(f: &mut Formatter<'_>, stat_sn: Option<StatSn>, exp: CmdSn, max: CmdSn) -> Result {
    if let Some(stat_sn) = stat_sn {
        write!(f, " statsn={stat_sn}")?;
    }
    write!(f, " expcmdsn={exp} maxcmdsn={max}")
}

fn residual(f: &mut Formatter<'_>, what: &str, over: bool, under: bool, count: u32) -> Result {
    if over {
        write!(f, " {what}overflow={count}")?;
    }
    if under {
        write!(f, " {what}underflow={count}")?;
    }
    Ok(())
}

fn data(f: &mut Formatter<'_>, data: &Payload) -> Result {
    if data.is_empty() { Ok(()) } else { write!(f, " data={}", data.len()) }
}

fn stages(transit: bool, current: Stage, next: Stage) -> String {
    let name = |stage| match stage {
        Stage::Security => "security",
        Stage::Operational => "operational",
        Stage::FullFeature => "full",
    };
    if transit { format!("{}->{}", name(current), name(next)) } else { name(current).to_owned() }
}

/// The keys of a data segment; only its length if it is not a text of its own. The first pair may be the end of a value
/// that began in an earlier PDU, so its key is shown only if it is known.
fn text(f: &mut Formatter<'_>, segment: &Payload) -> Result {
    data(f, segment)?;
    let Ok(keys) = KeyList::parse(&segment.contiguous()) else {
        return Ok(());
    };
    for (index, (key, text)) in keys.iter().take(PAIRS_SHOWN).enumerate() {
        if index > 0 || OPEN_KEYS.contains(&key) || SECRET_KEYS.contains(&key) {
            write!(f, " {}={}", key.escape_debug(), value(key, text))?;
        } else {
            f.write_str(" <hidden>")?;
        }
    }
    if keys.iter().nth(PAIRS_SHOWN).is_some() { f.write_str(" ...") } else { Ok(()) }
}

/// Known keys whose values are hidden.
const SECRET_KEYS: &[&str] = &["CHAP_C", "CHAP_I", "CHAP_N", "CHAP_R"];

/// Keys whose values may be shown: no secret can be in them (RFC 7143 sections 6 and 13, RFC 7144 section 4).
const OPEN_KEYS: &[&str] = &[
    "AuthMethod",
    "CHAP_A",
    "DataDigest",
    "DataPDUInOrder",
    "DataSequenceInOrder",
    "DefaultTime2Retain",
    "DefaultTime2Wait",
    "ErrorRecoveryLevel",
    "FirstBurstLength",
    "HeaderDigest",
    "IFMarker",
    "IFMarkInt",
    "ImmediateData",
    "InitialR2T",
    "InitiatorAlias",
    "InitiatorName",
    "MaxBurstLength",
    "MaxConnections",
    "MaxOutstandingR2T",
    "MaxRecvDataSegmentLength",
    "OFMarker",
    "OFMarkInt",
    "SendTargets",
    "SessionType",
    "TargetAddress",
    "TargetAlias",
    "TargetName",
    "TargetPortalGroupTag",
    "TaskReporting",
    "iSCSIProtocolLevel",
];

/// Answers that say nothing about a value.
const OPEN_VALUES: &[&str] = &["Irrelevant", "None", "NotUnderstood", "Reject"];

/// A value made fit for one line: escaped, cut, or hidden.
pub(super) struct Value<'a>(&'a str);

/// The value of `key` as it may be printed.
pub(super) fn value<'a>(key: &str, value: &'a str) -> Value<'a> {
    Value(if OPEN_KEYS.contains(&key) || OPEN_VALUES.contains(&value) { value } else { "<hidden>" })
}

impl Display for Value<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let mut rest = self.0.chars();
        rest.by_ref().take(VALUE_SHOWN).try_for_each(|c| write!(f, "{}", c.escape_debug()))?;
        if rest.as_str().is_empty() { Ok(()) } else { f.write_str("...") }
    }
}

#[cfg(test)]
mod tests;
