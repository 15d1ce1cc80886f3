//! Sequence numbers of both sides (RFC 7143 section 4.2.2).
//!
//! [`Front`] is the target role: it admits commands in CmdSN order, over whatever connections they come ([`super::line`] counts
//! what goes back over each). [`UpstreamWindow`] is the
//! initiator role for one nexus: it hands out CmdSN at the moment of sending.

use super::api::{LineId, SessionPlan};
use super::rules::Rules;
use crate::iscsi::{CmdSn, DataOut, Itt, Pdu, StatSn, Ttt};
use std::collections::BTreeMap;

/// Data-Out PDUs kept of one command, at most.
const MOST_EARLY_DATA: usize = 1024;

/// What to do with a command-carrying PDU from the initiator.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is next (or immediate): act on it now.
    Now,
    /// It came before its turn and is kept.
    Kept,
    /// Outside the window or a duplicate: ignored silently (R96).
    Ignored,
}

/// Downstream numbers.
///
/// Invariant: `max_cmd_sn` never moves back, and `early` holds only numbers after `exp_cmd_sn` inside the window.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) rules: Rules,
    exp_cmd_sn: CmdSn,
    max_cmd_sn: CmdSn,
    /// Those that came early, each with its connection; none stands for one that was aborted before it came.
    early: BTreeMap<u32, Option<(LineId, Pdu)>>,
    /// Unsolicited data of commands among them, in order.
    early_data: Vec<DataOut>,
}

impl Front {
    pub(super) fn new(exp_cmd_sn: CmdSn, max_cmd_sn: CmdSn) -> Self {
        Self {
            rules: Rules::default(),
            exp_cmd_sn,
            max_cmd_sn,
            early: BTreeMap::new(),
            early_data: Vec::new(),
        }
    }

    /// Judges a non-immediate PDU by its number; a kept one comes back from [`Front::next_early`].
    pub(super) fn admit(&mut self, line: LineId, cmd_sn: CmdSn, pdu: &Pdu) -> Admission {
        if cmd_sn == self.exp_cmd_sn && !cmd_sn.is_after(self.max_cmd_sn) {
            self.exp_cmd_sn = self.exp_cmd_sn.next();
            return Admission::Now;
        }
        let ahead = cmd_sn.since(self.exp_cmd_sn);
        let outside = cmd_sn.is_before(self.exp_cmd_sn) || cmd_sn.is_after(self.max_cmd_sn);
        if outside || self.early.contains_key(&cmd_sn.0) || ahead > 4096 {
            return Admission::Ignored;
        }
        if broken!(self.rules, EarlyActedOn) && line != SessionPlan::FIRST_LINE {
            self.early.insert(cmd_sn.0, None);
            return Admission::Now;
        }
        self.early.insert(cmd_sn.0, Some((line, pdu.clone())));
        Admission::Kept
    }

    /// Takes back the admission of the latest PDU: a rejected one counts as not received (R105).
    pub(super) fn refuse(&mut self, cmd_sn: CmdSn) {
        if cmd_sn.next() == self.exp_cmd_sn {
            self.exp_cmd_sn = cmd_sn;
        }
    }

    /// Whether requests with lower numbers than this are still to come.
    pub(super) fn awaits_before(&self, cmd_sn: CmdSn) -> bool {
        cmd_sn.is_after(self.exp_cmd_sn) && !cmd_sn.is_after(self.max_cmd_sn.next())
    }

    /// A PDU that came early and whose turn it is now.
    pub(super) fn next_early(&mut self) -> Option<(LineId, Pdu)> {
        loop {
            let kept = self.early.remove(&self.exp_cmd_sn.0)?;
            self.exp_cmd_sn = self.exp_cmd_sn.next();
            if kept.is_some() {
                return kept;
            }
        }
    }

    /// A connection is gone: what came early over it counts as not received, so that its numbers are open again (R106).
    pub(super) fn forget(&mut self, line: LineId) {
        let data = &mut self.early_data;
        self.early.retain(|_, kept| match kept {
            Some((own, pdu)) if *own == line => {
                data.retain(|data| data.itt != pdu.itt());
                false
            }
            Some(_) | None => true,
        });
    }

    /// Keeps unsolicited data if their command came early, and no more of them than commands may have (`first_burst` each).
    pub(super) fn keep_data(&mut self, line: LineId, data: &DataOut, first_burst: u64) -> bool {
        let announced = |kept: &Option<(LineId, Pdu)>| {
            matches!(kept, Some((l, Pdu::ScsiCommand(c))) if *l == line && c.itt == data.itt && !c.final_)
                && data.ttt == Ttt::NONE
        };
        let own = self.early_data.iter().filter(|kept| kept.itt == data.itt);
        let (count, bytes) = own.fold((0, data.data.len()), |(n, sum), kept| (n + 1, sum + kept.data.len()));
        let fits = bytes as u64 <= first_burst && count < MOST_EARLY_DATA;
        let kept = fits && self.early.values().any(announced);
        if kept {
            self.early_data.push(data.clone());
        }
        kept
    }

    /// Gives back what was kept for a command.
    pub(super) fn take_data(&mut self, itt: Itt) -> Vec<DataOut> {
        self.early_data.extract_if(.., |data| data.itt == itt).collect()
    }

    /// Bytes of data kept.
    pub(super) fn early_bytes(&self) -> u64 {
        self.early_data.iter().map(|data| data.data.len() as u64).sum()
    }

    /// Counts a number as received, if it could still be on its way: inside the window and before `limit` (R149).
    pub(super) fn plug(&mut self, cmd_sn: CmdSn, limit: CmdSn) -> bool {
        let inside = !cmd_sn.is_before(self.exp_cmd_sn) && !cmd_sn.is_after(self.max_cmd_sn);
        if !inside || !cmd_sn.is_before(limit) {
            return false;
        }
        if let Some(Some((_, kept))) = self.early.insert(cmd_sn.0, None) {
            self.early_data.retain(|data| data.itt != kept.itt());
        }
        while self.early.get(&self.exp_cmd_sn.0) == Some(&None) {
            self.early.remove(&self.exp_cmd_sn.0);
            self.exp_cmd_sn = self.exp_cmd_sn.next();
        }
        true
    }

    /// Opens the window for `free` more commands; never closes it again.
    pub(super) fn open(&mut self, free: u32) {
        let wanted = self.exp_cmd_sn.plus(free).minus(1);
        let closed = self.max_cmd_sn.is_before(self.exp_cmd_sn);
        if broken!(self.rules, MaxCmdSnShrinks) {
            self.max_cmd_sn = wanted;
        } else if !(closed && broken!(self.rules, WindowStaysClosed)) {
            self.max_cmd_sn = self.max_cmd_sn.max(wanted);
        }
    }

    /// ExpCmdSN and MaxCmdSN, which every PDU to the initiator shows.
    pub(super) const fn window(&self) -> (CmdSn, CmdSn) {
        (self.exp_cmd_sn, self.max_cmd_sn)
    }
}

/// How far behind a skipped number may be: more answers than a target queues.
const MOST_SKIPPED: u32 = 256;
const MISSING: &str = "a response is missing (StatSN)";

/// How a response stands among those of its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrival {
    /// None with a later number came before.
    InTime,
    /// One with a later number came before.
    Late,
    /// It was taken before.
    Again,
}

/// StatSN of one upstream connection.
///
/// A skipped number is a lost response (R115), but not at once: istgt numbers some answers before it queues them behind
/// others that are numbered as they leave, so that the skipped number follows, and initiators that do not look at StatSN never
/// notice. What was in the target's queue has left it before the answer to a ping that was sent later. So numbers skipped
/// before a ping was sent must be there when its echo is.
///
/// Invariant: `skipped` ascends, and all of it is before `next`.
#[derive(Debug)]
pub(super) struct StatusNumbers {
    next: StatSn,
    skipped: Vec<StatSn>,
    /// A ping on its way, and what was next when it was sent.
    proof: Option<(Itt, StatSn)>,
}

impl StatusNumbers {
    pub(super) const fn new(next: StatSn) -> Self {
        Self { next, skipped: Vec::new(), proof: None }
    }

    /// What to acknowledge: everything before it came.
    pub(super) fn expected(&self) -> StatSn {
        self.skipped.first().copied().unwrap_or(self.next)
    }

    /// Books a response.
    pub(super) fn take(&mut self, number: StatSn) -> Result<Arrival, &'static str> {
        if number.is_before(self.next) {
            let late = self.skipped.iter().position(|skipped| *skipped == number);
            return Ok(late.map_or(Arrival::Again, |at| {
                self.skipped.remove(at);
                Arrival::Late
            }));
        }
        if number.since(self.expected()) > MOST_SKIPPED {
            return Err(MISSING);
        }
        while self.next != number {
            self.skipped.push(self.next);
            self.next = self.next.next();
        }
        self.next = number.next();
        Ok(Arrival::InTime)
    }

    /// Whether a ping should show that what was skipped still comes.
    pub(super) fn wants_proof(&self) -> bool {
        !self.skipped.is_empty() && self.proof.is_none()
    }

    /// That ping was sent.
    pub(super) fn proves(&mut self, ping: Itt) {
        self.proof = Some((ping, self.next));
    }

    /// A ping was answered: what it was to prove must have come.
    pub(super) fn echoed(&mut self, ping: Itt) -> Result<(), &'static str> {
        let Some((_, next)) = self.proof.take_if(|(itt, _)| *itt == ping) else { return Ok(()) };
        if self.expected().is_before(next) { Err(MISSING) } else { Ok(()) }
    }
}

/// CmdSN window of one upstream session.
///
/// Invariant: `exp_cmd_sn <= cmd_sn <= max_cmd_sn + 1` in serial order.
#[derive(Debug, Clone, Copy)]
pub(super) struct UpstreamWindow {
    cmd_sn: CmdSn,
    exp_cmd_sn: CmdSn,
    max_cmd_sn: CmdSn,
    /// What was sent last is to be acknowledged before anything else is sent.
    alone: bool,
}

impl UpstreamWindow {
    pub(super) fn new(cmd_sn: CmdSn, max_cmd_sn: CmdSn) -> Self {
        Self { cmd_sn, exp_cmd_sn: cmd_sn, max_cmd_sn, alone: false }
    }

    /// Whether the target takes one more number.
    pub(super) fn is_open(&self) -> bool {
        !self.cmd_sn.is_after(self.max_cmd_sn)
    }

    /// Whether one more command may be sent.
    pub(super) fn admits(&self) -> bool {
        self.is_open() && !self.alone
    }

    /// Whether what was sent last is still to be acknowledged before anything else is sent.
    pub(super) fn is_alone(&self) -> bool {
        self.alone
    }

    /// Nothing more is sent until the target has acknowledged what was sent last.
    pub(super) fn send_alone(&mut self) {
        self.alone = true;
    }

    /// Whether every command sent so far has been acknowledged. Immediate PDUs are safe only then: some targets close
    /// the connection when an immediate PDU's CmdSN is not the one expected.
    pub(super) fn all_acknowledged(&self) -> bool {
        self.cmd_sn == self.exp_cmd_sn
    }

    /// The number for the next non-immediate request: consumes it.
    pub(super) fn take(&mut self) -> CmdSn {
        let cmd_sn = self.cmd_sn;
        self.cmd_sn = cmd_sn.next();
        cmd_sn
    }

    /// The number an immediate request carries.
    pub(super) fn current(&self) -> CmdSn {
        self.cmd_sn
    }

    /// Takes ExpCmdSN and MaxCmdSN from a response (R97).
    pub(super) fn update(&mut self, exp_cmd_sn: CmdSn, max_cmd_sn: CmdSn) {
        if max_cmd_sn.is_before(exp_cmd_sn.minus(1)) {
            return;
        }
        // An acknowledgement of numbers never sent would break the invariant; a target that does this is ignored.
        if !exp_cmd_sn.is_after(self.cmd_sn) {
            self.exp_cmd_sn = self.exp_cmd_sn.max(exp_cmd_sn);
        }
        self.alone &= !self.all_acknowledged();
        self.max_cmd_sn = self.max_cmd_sn.max(max_cmd_sn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::NopOut;

    fn nop(cmd_sn: u32) -> Pdu {
        Pdu::NopOut(NopOut { cmd_sn: CmdSn(cmd_sn), ..NopOut::default() })
    }

    #[test]
    fn holes_are_waited_for_and_duplicates_ignored_r94_r95_r96() {
        let (a, b) = (LineId(0), LineId(1));
        let mut front = Front::new(CmdSn(u32::MAX), CmdSn(3));
        assert_eq!(front.admit(a, CmdSn(1), &nop(1)), Admission::Kept);
        assert_eq!(front.admit(b, CmdSn(1), &nop(1)), Admission::Ignored);
        assert_eq!(front.admit(b, CmdSn(4), &nop(4)), Admission::Ignored);
        assert_eq!(front.next_early(), None);
        assert_eq!(front.window().0, CmdSn(u32::MAX), "nothing behind the hole is acknowledged");
        assert_eq!(front.admit(b, CmdSn(u32::MAX), &nop(0)), Admission::Now);
        assert_eq!(front.admit(b, CmdSn(0), &nop(0)), Admission::Now);
        assert_eq!(front.next_early(), Some((a, nop(1))));
        assert_eq!(front.window(), (CmdSn(2), CmdSn(3)));
    }

    #[test]
    fn what_came_early_over_a_lost_connection_may_come_again_r106() {
        let (lost, kept) = (LineId(0), LineId(1));
        let mut front = Front::new(CmdSn(1), CmdSn(9));
        for (line, number) in [(lost, 2), (kept, 3), (lost, 4)] {
            assert_eq!(front.admit(line, CmdSn(number), &nop(number)), Admission::Kept);
        }
        front.forget(lost);
        assert_eq!(front.admit(kept, CmdSn(1), &nop(1)), Admission::Now);
        assert_eq!(front.next_early(), None, "there is a hole where the lost one was");
        assert_eq!(front.admit(kept, CmdSn(2), &nop(2)), Admission::Now);
        assert_eq!(front.next_early(), Some((kept, nop(3))));
        assert_eq!((front.next_early(), front.window().0), (None, CmdSn(4)));
    }

    #[test]
    fn window_only_moves_forward_r97() {
        let mut window = UpstreamWindow::new(CmdSn(5), CmdSn(5));
        assert!(window.is_open());
        assert_eq!(window.take(), CmdSn(5));
        assert!(!window.is_open());
        window.update(CmdSn(6), CmdSn(4));
        assert!(!window.is_open());
        window.update(CmdSn(6), CmdSn(8));
        assert!(window.is_open() && window.all_acknowledged());
        window.update(CmdSn(5), CmdSn(7));
        assert_eq!(window.max_cmd_sn, CmdSn(8));
    }

    #[test]
    fn skipped_numbers_must_come_before_the_echo_of_a_later_ping_r115() {
        use Arrival::{Again, InTime, Late};
        let mut statuses = StatusNumbers::new(StatSn(u32::MAX));
        let taken = |statuses: &mut StatusNumbers, numbers: &[u32]| {
            numbers.iter().map(|n| statuses.take(StatSn(*n))).collect::<Vec<_>>()
        };
        assert_eq!(taken(&mut statuses, &[1, u32::MAX, 1]), [Ok(InTime), Ok(Late), Ok(Again)]);
        assert_eq!(statuses.expected(), StatSn(0), "acknowledged is what came without a gap");
        assert!(statuses.wants_proof());
        statuses.proves(Itt(7));
        assert_eq!(taken(&mut statuses, &[4, 0]), [Ok(InTime), Ok(Late)]);
        assert_eq!(statuses.expected(), StatSn(2));
        assert_eq!(statuses.echoed(Itt(6)), Ok(()), "another ping");
        assert_eq!(statuses.echoed(Itt(7)), Ok(()), "what was skipped since may be behind its echo");
        assert!(statuses.wants_proof());
        statuses.proves(Itt(8));
        assert_eq!(taken(&mut statuses, &[3]), [Ok(Late)]);
        assert_eq!(statuses.echoed(Itt(8)), Err(MISSING));
        assert_eq!(StatusNumbers::new(StatSn(0)).take(StatSn(MOST_SKIPPED + 1)), Err(MISSING));
    }

    #[test]
    fn downstream_window_never_shrinks_r96() {
        let mut front = Front::new(CmdSn(1), CmdSn(10));
        front.open(2);
        assert_eq!(front.window().1, CmdSn(10));
        front.open(20);
        assert_eq!(front.window().1, CmdSn(20));
    }
}
