//! Sequence numbers of both sides (RFC 7143 section 4.2.2).
//!
//! [`Front`] is the target role: it admits commands in CmdSN order and stamps responses. [`UpstreamWindow`] is the
//! initiator role for one nexus: it hands out CmdSN at the moment of sending.

use super::rules::Rules;
use crate::iscsi::{CmdSn, Pdu, StatSn};
use std::collections::BTreeMap;

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
    stat_sn: StatSn,
    /// Those that came early; none stands for one that was aborted before it came.
    early: BTreeMap<u32, Option<Pdu>>,
}

impl Front {
    pub(super) fn new(exp_cmd_sn: CmdSn, max_cmd_sn: CmdSn, stat_sn: StatSn) -> Self {
        Self { rules: Rules::default(), exp_cmd_sn, max_cmd_sn, stat_sn, early: BTreeMap::new() }
    }

    /// Judges a non-immediate PDU by its number; a kept one comes back from [`Front::next_early`].
    pub(super) fn admit(&mut self, cmd_sn: CmdSn, pdu: &Pdu) -> Admission {
        if cmd_sn == self.exp_cmd_sn && !cmd_sn.is_after(self.max_cmd_sn) {
            self.exp_cmd_sn = self.exp_cmd_sn.next();
            return Admission::Now;
        }
        let ahead = cmd_sn.since(self.exp_cmd_sn);
        let outside = cmd_sn.is_before(self.exp_cmd_sn) || cmd_sn.is_after(self.max_cmd_sn);
        if outside || self.early.contains_key(&cmd_sn.0) || ahead > 4096 {
            return Admission::Ignored;
        }
        self.early.insert(cmd_sn.0, Some(pdu.clone()));
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
    pub(super) fn next_early(&mut self) -> Option<Pdu> {
        loop {
            let pdu = self.early.remove(&self.exp_cmd_sn.0)?;
            self.exp_cmd_sn = self.exp_cmd_sn.next();
            if pdu.is_some() {
                return pdu;
            }
        }
    }

    /// Counts a number as received, if it could still be on its way: inside the window and before `limit` (R149).
    pub(super) fn plug(&mut self, cmd_sn: CmdSn, limit: CmdSn) -> bool {
        let inside = !cmd_sn.is_before(self.exp_cmd_sn) && !cmd_sn.is_after(self.max_cmd_sn);
        if !inside || !cmd_sn.is_before(limit) {
            return false;
        }
        self.early.insert(cmd_sn.0, None);
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

    /// The numbers for a response: takes a StatSN.
    pub(super) fn stamp(&mut self) -> (StatSn, CmdSn, CmdSn) {
        let numbers = self.peek();
        self.stat_sn = self.stat_sn.next();
        numbers
    }

    /// The numbers for a PDU that takes no StatSN (R2T, Data-In without status).
    pub(super) fn peek(&self) -> (StatSn, CmdSn, CmdSn) {
        (self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn)
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
}

impl UpstreamWindow {
    pub(super) fn new(cmd_sn: CmdSn, max_cmd_sn: CmdSn) -> Self {
        Self { cmd_sn, exp_cmd_sn: cmd_sn, max_cmd_sn }
    }

    /// Whether one more command may be sent.
    pub(super) fn is_open(&self) -> bool {
        !self.cmd_sn.is_after(self.max_cmd_sn)
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
        let mut front = Front::new(CmdSn(u32::MAX), CmdSn(3), StatSn(7));
        assert_eq!(front.admit(CmdSn(1), &nop(1)), Admission::Kept);
        assert_eq!(front.admit(CmdSn(1), &nop(1)), Admission::Ignored);
        assert_eq!(front.admit(CmdSn(4), &nop(4)), Admission::Ignored);
        assert_eq!(front.next_early(), None);
        assert_eq!(front.peek().1, CmdSn(u32::MAX), "nothing behind the hole is acknowledged");
        assert_eq!(front.admit(CmdSn(u32::MAX), &nop(0)), Admission::Now);
        assert_eq!(front.admit(CmdSn(0), &nop(0)), Admission::Now);
        assert_eq!(front.next_early(), Some(nop(1)));
        assert_eq!(front.peek(), (StatSn(7), CmdSn(2), CmdSn(3)));
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
    fn downstream_window_never_shrinks_r96() {
        let mut front = Front::new(CmdSn(1), CmdSn(10), StatSn(0));
        front.open(2);
        assert_eq!(front.peek().2, CmdSn(10));
        front.open(20);
        assert_eq!(front.peek().2, CmdSn(20));
    }
}
