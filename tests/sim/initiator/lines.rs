//! Several connections in one session: what goes over which, and what becomes of the commands of one that is lost.
//!
//! Over which connection a command goes is drawn here, from a stream of its own; its data and functions for it keep to that. When a
//! connection is lost its commands are in limbo until it is logged out, or replaced by one with the same CID. What was acknowledged by
//! then has ended without a word; what was not has never been there, and is sent again as it was, over another connection.

use super::{Function, Initiator, Kind, Pending, Reserving};
use crate::oracle::OpId;
use crate::random::Random;
use braid::iscsi::{Cid, CmdSn, Itt, LogoutRequest, NopOut, Pdu, StatSn, Ttt, tmf};
use braid::login::Negotiated;
use braid::scsi::Sense;
use std::collections::BTreeMap;
use std::time::Instant;

/// The CID of a connection that is lost, and what went over it: tags, and which of their commands, if they are commands.
type Limbo = (Cid, Vec<(u32, Option<OpId>)>);

/// What it knows of its connections, each named by its wire.
#[derive(Debug)]
pub(super) struct Lines {
    random: Random,
    /// Those that are up, with the next StatSN of each.
    up: Vec<(u32, StatSn)>,
    /// What every tag goes over.
    over: BTreeMap<u32, u32>,
    /// Commands and pings as they were sent, with their unsolicited data.
    sent: BTreeMap<u32, Vec<Pdu>>,
    /// Transfer tags of Braid's pings, and where they came.
    asked: Vec<(Ttt, u32)>,
    /// Tags in limbo, by the CID of their connection.
    limbo: Vec<Limbo>,
    /// A connection that is being logged out over another.
    leaving: Option<(u32, Cid)>,
    /// The one that is heard now.
    heard: u32,
}

impl Initiator {
    /// A session begins in which there may be several.
    pub(crate) fn begin_lines(&mut self, wire: u32, stat_sn: StatSn) {
        self.lines = Some(Lines {
            random: self.extra.branch(0x6c69_6e65 + u64::from(self.issued)),
            up: vec![(wire, stat_sn)],
            over: BTreeMap::new(),
            sent: BTreeMap::new(),
            asked: Vec::new(),
            limbo: Vec::new(),
            leaving: None,
            heard: wire,
        });
    }

    /// A further connection is up, perhaps in the place of one that was lost. Its login tells which commands had come by then, and
    /// of the window, which what ended with the lost one may have opened.
    pub(crate) fn line_up(&mut self, wire: u32, agreed: &Negotiated) {
        if let Some(lines) = &mut self.lines {
            lines.up.push((wire, agreed.stat_sn));
        }
        self.max_cmd_sn = self.max_cmd_sn.max(agreed.max_cmd_sn);
        self.settle_limbo(agreed.cid, agreed.cmd_sn);
    }

    /// What comes next comes over this connection.
    pub(crate) fn hears_over(&mut self, wire: u32) {
        if let Some(lines) = &mut self.lines {
            lines.heard = wire;
        }
    }

    /// Braid tells of something over one of several connections. Even if that is lost on the way, it need not tell again.
    pub(crate) fn is_told(&mut self, pdu: &Pdu, now: Instant) {
        let Pdu::ScsiResponse(response) = pdu else { return };
        let sense = response.sense().and_then(|s| Sense::parse(&s)).filter(|s| s.key == 6);
        if let (Some(sense), Some(pending)) = (sense, self.pending.get(&response.itt.0)) {
            self.conditions.is_told(pending.unit, (sense.asc, sense.ascq), now);
        }
    }

    /// A response came.
    pub(super) fn heard_status(&mut self, next: StatSn) {
        if let Some(lines) = &mut self.lines
            && let Some((_, expected)) = lines.up.iter_mut().find(|(wire, _)| *wire == lines.heard)
        {
            *expected = next;
        }
    }

    /// Whether an answer may have overtaken one to an earlier command that went over another connection.
    pub(super) fn crossed(&self, tag: u32, answered: &Pending) -> bool {
        let earlier = |p: &Pending| p.unit == answered.unit && p.op < answered.op;
        self.pending.iter().any(|(other, p)| earlier(p) && !self.share_a_line(*other, tag))
    }

    /// Whether a function may have ended a command, whose answer comes over another connection.
    pub(super) fn ends(&self, tag: u32) -> bool {
        let concerns = |f: &Function| f.concerned.iter().any(|(concerned, _)| *concerned == tag);
        self.lines.is_some() && self.functions.values().any(concerns)
    }

    /// Whether two commands went over the same connection.
    pub(super) fn share_a_line(&self, one: u32, other: u32) -> bool {
        self.lines.as_ref().is_none_or(|lines| lines.over.get(&one) == lines.over.get(&other))
    }

    /// Whether a connection is being logged out under this tag.
    pub(super) fn is_logout(&self, tag: u32) -> bool {
        self.lines.as_ref().and_then(|lines| lines.leaving).is_some_and(|(own, _)| own == tag)
    }

    /// Whether a connection is being logged out.
    pub(crate) fn is_leaving_line(&self) -> bool {
        self.lines.as_ref().is_some_and(|lines| lines.leaving.is_some())
    }

    /// Whether it may have several connections.
    pub(super) const fn has_lines(&self) -> bool {
        self.lines.is_some()
    }

    /// Whether anything is in limbo.
    pub(super) fn has_limbo(&self) -> bool {
        self.lines.as_ref().is_some_and(|lines| !lines.limbo.is_empty() || lines.leaving.is_some())
    }

    /// Braid wants to know whether a connection lives, or what was acknowledged over it.
    pub(super) fn asked_to_answer(&mut self, ttt: Ttt) {
        let Some(lines) = &mut self.lines else { return };
        lines.asked.push((ttt, lines.heard));
        self.coverage.hit("lines: Braid asks what is acknowledged");
        let (immediate, cmd_sn, exp_stat_sn) = (true, self.cmd_sn, self.exp_stat_sn);
        self.out.push(Pdu::NopOut(NopOut {
            immediate,
            itt: Itt::NONE,
            ttt,
            cmd_sn,
            exp_stat_sn,
            ..NopOut::default()
        }));
    }

    /// Over which connection a PDU goes, and what it acknowledges there; none if it goes over none any more.
    pub(crate) fn route(&mut self, pdu: &mut Pdu) -> Option<u32> {
        let lines = self.lines.as_mut()?;
        let tag = pdu.itt().0;
        let wire = match pdu {
            Pdu::DataOut(data) => {
                let wire = *lines.over.get(&tag)?;
                if data.ttt == Ttt::NONE {
                    lines.sent.entry(tag).or_default().push(Pdu::DataOut(data.clone()));
                }
                wire
            }
            Pdu::NopOut(nop) if nop.itt == Itt::NONE => {
                let at = lines.asked.iter().position(|(ttt, _)| *ttt == nop.ttt)?;
                lines.asked.swap_remove(at).1
            }
            Pdu::TaskManagementRequest(request) if request.function == tmf::ABORT_TASK => {
                lines.over.get(&request.referenced_itt.0).copied().unwrap_or(lines.up.first()?.0)
            }
            _ => {
                let at = lines.random.below(lines.up.len());
                lines.up.get(at)?.0
            }
        };
        let (_, expected) = lines.up.iter().find(|(up, _)| *up == wire)?;
        if !matches!(pdu, Pdu::DataOut(_)) && pdu.itt() != Itt::NONE {
            lines.over.insert(tag, wire);
        }
        if matches!(pdu, Pdu::ScsiCommand(_) | Pdu::NopOut(_)) && pdu.itt() != Itt::NONE {
            lines.sent.insert(tag, vec![pdu.clone()]);
        }
        acknowledge(pdu, *expected);
        Some(wire)
    }

    /// A connection is lost, and others are left. False if that is more than this initiator can bear: a function went over it, and
    /// nobody knows what it has done.
    pub(crate) fn line_lost(&mut self, wire: u32, cid: Cid) -> bool {
        let Some(lines) = &mut self.lines else { return false };
        lines.up.retain(|(up, _)| *up != wire);
        lines.asked.retain(|(_, over)| *over != wire);
        let over = |tag: &u32| lines.over.get(tag) == Some(&wire);
        if self.functions.keys().any(over) || lines.leaving.is_some_and(|(tag, _)| over(&tag)) {
            return false;
        }
        let immediate = |tag: &u32| {
            let ping = lines.sent.get(tag).and_then(|sent| sent.first());
            matches!(ping, Some(Pdu::NopOut(nop)) if nop.immediate)
        };
        self.pings.retain(|tag| !(over(tag) && immediate(tag)));
        let tags: Vec<u32> =
            self.pending.keys().chain(&self.pings).copied().filter(|tag| over(tag)).collect();
        for tag in &tags {
            if let Some(pending) = self.pending.get_mut(tag) {
                pending.excused = true;
                self.oracle.doubt(pending.op);
            }
        }
        // What has ended for the initiator meanwhile had not for Braid.
        self.conditions.line_lost();
        let named = |tag: u32| (tag, self.pending.get(&tag).map(|pending| pending.op));
        lines.limbo.push((cid, tags.into_iter().map(named).collect()));
        true
    }

    /// A lost connection is logged out over another one, or one that works.
    pub(crate) fn log_out_line(&mut self, cid: Cid) {
        let tag = self.tag();
        let (immediate, cmd_sn, exp_stat_sn) = (true, self.cmd_sn, self.exp_stat_sn);
        let Some(lines) = &mut self.lines else { return };
        lines.leaving = Some((tag, cid));
        self.out.push(Pdu::LogoutRequest(LogoutRequest {
            immediate,
            reason: 1,
            itt: Itt(tag),
            cid,
            cmd_sn,
            exp_stat_sn,
        }));
    }

    /// The answer to that came; false if it is the answer to another logout.
    pub(super) fn line_logged_out(&mut self, tag: Itt, expected: CmdSn) -> bool {
        let Some(lines) = &mut self.lines else { return false };
        let Some((_, cid)) = lines.leaving.take_if(|(own, _)| *own == tag.0) else { return false };
        self.coverage.hit("lines: a lost connection is logged out over another");
        self.settle_limbo(cid, expected);
        true
    }

    fn settle_limbo(&mut self, cid: Cid, expected: CmdSn) {
        let Some(lines) = &mut self.lines else { return };
        let Some(at) = lines.limbo.iter().position(|(lost, _)| *lost == cid) else { return };
        for (tag, op) in lines.limbo.swap_remove(at).1 {
            let Some(lines) = &mut self.lines else { return };
            let open = op.is_some() || self.pings.contains(&tag);
            if !open || self.pending.get(&tag).map(|pending| pending.op) != op {
                // It has ended meanwhile, and its tag may be another's.
                continue;
            }
            let sent = lines.sent.get(&tag).cloned().unwrap_or_default();
            let number = sent.first().and_then(|pdu| match pdu {
                Pdu::ScsiCommand(command) => Some(command.cmd_sn),
                Pdu::NopOut(nop) => Some(nop.cmd_sn),
                _ => None,
            });
            if number.is_some_and(|number| !number.is_before(expected)) {
                self.coverage.hit("lines: a command that had not come is sent again over another connection");
                self.out.extend(sent);
            } else {
                self.coverage.hit("lines: a command ended with its connection");
                self.pings.retain(|ping| *ping != tag);
                if let Some(pending) = self.pending.get(&tag)
                    && pending.kind == Kind::Reserve(Reserving::Release6)
                {
                    self.conditions.perhaps_released(pending.unit, pending.op);
                }
                self.unknown(tag);
            }
        }
    }
}

fn acknowledge(pdu: &mut Pdu, expected: StatSn) {
    match pdu {
        Pdu::ScsiCommand(pdu) => pdu.exp_stat_sn = expected,
        Pdu::DataOut(pdu) => pdu.exp_stat_sn = expected,
        Pdu::NopOut(pdu) => pdu.exp_stat_sn = expected,
        Pdu::TaskManagementRequest(pdu) => pdu.exp_stat_sn = expected,
        Pdu::LogoutRequest(pdu) => pdu.exp_stat_sn = expected,
        other => panic!("the initiator does not send {other} over one of several connections"),
    }
}
