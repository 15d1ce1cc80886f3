//! Asking a portal which targets it has: a discovery session with SendTargets=All (RFC 7143 appendix C).

use super::conn::ConnError;
use super::dial::{DialError, Route, Timing, dial};
use super::errand::{Event, Line, Numbers};
use crate::iscsi::text::KeyList;
use crate::iscsi::{Cid, CmdSn, Isid, Payload, Ttt, WireError};
use crate::login::discovery::{TargetRecord, parse_answer};
use crate::login::{ConnectionParams, LoginKind, LoginPlan, SessionParams};

/// Longest answer taken, in bytes: thousands of targets.
const LONGEST: usize = 1 << 20;

/// Longest data segment accepted, in bytes.
const SEGMENT: u32 = 65_536;

/// Why the targets are not known.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// The discovery session did not come about.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection ended.
    #[error("connection lost while asking for targets: {0}")]
    Lost(#[from] ConnError),
    /// The answer did not come in time.
    #[error("the portal does not answer SendTargets")]
    Slow,
    /// The target does not take the question.
    #[error("the portal rejects SendTargets (reason {0:#04x})")]
    Rejected(u8),
    /// The answer has no end.
    #[error("the answer to SendTargets is longer than {LONGEST} bytes")]
    TooLong,
    /// The answer cannot be read.
    #[error("the answer to SendTargets cannot be read: {0}")]
    Unreadable(#[from] WireError),
}

/// The targets that a portal tells of, in its order, logging in with this name.
///
/// # Errors
/// [`DiscoverError`]; nothing stays open.
pub async fn discover(
    route: &Route,
    initiator_name: &str,
    isid: Isid,
    timing: &Timing,
) -> Result<Vec<TargetRecord>, DiscoverError> {
    let plan = LoginPlan {
        kind: LoginKind::Discovery,
        initiator_name: initiator_name.to_owned(),
        target_name: String::new(),
        isid,
        cid: Cid(0),
        cmd_sn: CmdSn(1),
        offer: SessionParams::default(),
        connection: ConnectionParams { max_recv_data_segment: SEGMENT, ..ConnectionParams::default() },
    };
    // In discovery a target may have no proof of its own.
    let (conn, agreed) = dial(&route.clone().unasked(), &plan, timing).await?;
    route.shown(agreed.quirks);
    let mut line = Line::new(conn, &agreed);
    let mut numbers = Numbers::new(&agreed);
    let answer = tokio::time::timeout(timing.login, send_targets(&mut line, &mut numbers)).await;
    let text = answer.unwrap_or(Err(DiscoverError::Slow))?;
    let portal = line.peer();
    line.log_out(&mut numbers, 0).await;
    Ok(parse_answer(&KeyList::parse(&text)?, &portal))
}

/// Asks, and collects the parts of the answer until the last (R237).
async fn send_targets(line: &mut Line, numbers: &mut Numbers) -> Result<Vec<u8>, DiscoverError> {
    let mut question = KeyList::new();
    question.push("SendTargets", "All");
    let mut data = Payload::from(question.to_bytes());
    let (itt, mut ttt) = (numbers.tag(), Ttt::NONE);
    let mut text = Vec::new();
    loop {
        let cmd_sn = numbers.take(1);
        line.ask(itt, ttt, cmd_sn, std::mem::take(&mut data)).await?;
        let part = loop {
            match line.event(numbers).await? {
                Event::Text(part) if part.itt == itt => break part,
                Event::Rejected(reason) => return Err(DiscoverError::Rejected(reason)),
                Event::Text(_) | Event::Answer { .. } | Event::LoggedOut => {}
            }
        };
        text.extend_from_slice(&part.data.contiguous());
        if text.len() > LONGEST {
            return Err(DiscoverError::TooLong);
        }
        if part.final_ && !part.continue_ {
            return Ok(text);
        }
        ttt = part.ttt;
    }
}
