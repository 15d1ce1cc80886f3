//! Protocol checkers at the engine's border, one for each side; that of the targets judges how paths are said to stand, too.
//!
//! They see exactly what the engine is told and what it emits, in order, and judge every PDU it emits against
//! the conformance index, by number. They know nothing of the engine but its API types: what a rule asks is worked out here
//! once more, from the text. Where the RFC leaves room, so do they, but for a few things that Braid promises beyond it
//! (each says so). What the peer does wrong is not judged, and after it the rules it upsets are not either.

#![expect(clippy::wildcard_enum_match_arm, reason = "the rest of a match is what the rule does not speak of")]

mod again;
mod downstream;
mod downstream_trials;
mod states;
mod trials;
mod upstream;
mod upstream_trials;

pub(crate) use downstream::Downstream;
pub(crate) use upstream::Upstream;

use braid::iscsi::{CmdSn, Itt, Pdu, StatSn, opcode};
use std::fmt;

/// A requirement that the engine broke.
#[derive(Clone)]
pub(crate) struct Broken {
    /// Its number in the conformance index.
    pub(crate) requirement: u16,
    pub(crate) what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "R{}: {}", self.requirement, self.what)
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Number of a requirement, and what is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fault(u16, &'static str);

impl Fault {
    fn with(self, context: &dyn fmt::Debug) -> Broken {
        Broken { requirement: self.0, what: format!("{}: {context:?}", self.1) }
    }
}

type Verdict = Result<(), Fault>;

/// How often each requirement was judged.
type Judged = [u64; 246];

struct Judge(Judged);

impl Judge {
    fn new() -> Self {
        Self([0; 246])
    }

    /// Judges one requirement.
    #[inline]
    fn rule(&mut self, requirement: u16, holds: bool, what: &'static str) -> Verdict {
        self.0[usize::from(requirement)] += 1;
        if holds { Ok(()) } else { Err(Fault(requirement, what)) }
    }
}

/// What all requests have in common.
#[derive(Clone, Copy)]
struct Request {
    itt: Itt,
    immediate: bool,
    cmd_sn: CmdSn,
    exp_stat_sn: StatSn,
}

/// The head of a PDU that carries a CmdSN; none for all others.
fn request(pdu: &Pdu) -> Option<Request> {
    let (itt, immediate, cmd_sn, exp_stat_sn) = match pdu {
        Pdu::ScsiCommand(p) => (p.itt, p.immediate, p.cmd_sn, p.exp_stat_sn),
        Pdu::TaskManagementRequest(p) => (p.itt, p.immediate, p.cmd_sn, p.exp_stat_sn),
        Pdu::NopOut(p) => (p.itt, p.immediate, p.cmd_sn, p.exp_stat_sn),
        Pdu::TextRequest(p) => (p.itt, p.immediate, p.cmd_sn, p.exp_stat_sn),
        Pdu::LogoutRequest(p) => (p.itt, p.immediate, p.cmd_sn, p.exp_stat_sn),
        _ => return None,
    };
    Some(Request { itt, immediate, cmd_sn, exp_stat_sn })
}

/// Whether a target's PDU takes a StatSN of its own (R112).
fn takes_stat_sn(pdu: &Pdu) -> bool {
    match pdu {
        Pdu::DataIn(data) => data.has_status,
        Pdu::NopIn(nop) => nop.itt != Itt::NONE,
        Pdu::R2t(_) => false,
        _ => true,
    }
}

/// Opcode and tag of the PDU whose header a Reject returns, and its CmdSN if it took one.
fn rejected(header: &[u8]) -> Option<(u8, Itt, Option<CmdSn>)> {
    let word = |at: usize| Some(u32::from_be_bytes(*header.get(at..)?.first_chunk()?));
    let (code, immediate) = (header.first()? & 0x3f, header.first()? & 0x40 != 0);
    let numbered =
        matches!(code, opcode::NOP_OUT..=opcode::TEXT_REQUEST | opcode::LOGOUT_REQUEST) && !immediate;
    let cmd_sn = CmdSn(word(24)?);
    Some((code, Itt(word(16)?), numbered.then_some(cmd_sn)))
}

/// Hand-made conversations: sound ones pass, and each rule that they meet can be broken.
pub(crate) fn trials() -> Vec<(&'static str, fn())> {
    [upstream_trials::trials(), downstream_trials::trials(), again::trials(), states::trials()].concat()
}
