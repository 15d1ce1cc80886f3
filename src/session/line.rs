//! The connections of the initiator: one, or several in one session (MC/S) where it asks for that and the configuration offers it.
//!
//! What the session has once is elsewhere: the order of CmdSN ([`super::sequence::Front`]), tags, tasks. What each connection has
//! of its own is here: StatSN, what may be asked for again over it, the longest segment, a text exchange. A task belongs to the
//! connection that its command came over (allegiance, R118): its R2Ts, data and response leave over that one, its write data
//! must come over it, and a SNACK asks for it there. So error recovery level 1 needs nothing more with several connections
//! than with one.
//! A tag may be in use again over another connection while data of the command that had it before are still
//! under way: they are dropped.
//!
//! # One of several is lost
//! The session goes on over the others. RFC 7143 leaves both ways open below error recovery level 2: the initiator may open
//! the session anew, or log the lost connection out, explicitly over another one or by logging in again under its CID, and go on
//! (R183, R216; sections 7.14, 8.2). A target that ends the session takes the second away; one that goes on
//! leaves both. Initiators that use several connections do so to outlive the loss of one, as Microsoft's does: it sends the
//! lost commands again over the others.
//!
//! The tasks of the lost connection end at once, unheard, as they would with the logout (R193, R212): nothing can bring them
//! back. So the logout has nothing left to end, and is answered at once. What waits inside Braid is forgotten. What is at a target
//! stays in the order of commands until it has ended there, so that nothing that the initiator sends again overtakes it: no
//! ghost is left. Only a write that lacks data, which nobody will send any more, is aborted at the target. Commands
//! that came early count as not received (R106). Each unit that had a command among them tells of it with the next answer
//! (47h/7Fh, R200). The other connections are told which one is gone (R186), before anything that ends with it is answered, so that an
//! initiator that has not noticed does not wait for it, nor takes what was under way over it for something else.
//!
//! With the last connection the session ends, as it does where there is only one.
//!
//! # Answers to task management
//! They come after everything that left before over any connection (R156): a NOP-In goes over each of the others, which its echo
//! shows to be empty of data, and all responses over it must be acknowledged. A connection over which that does not come within
//! the time that a ping has is given up. With one connection there is nothing to wait for.

use super::Session;
use super::api::{LineId, Notice, Output};
use super::replay::Replay;
use super::tasks::TaskKey;
use super::tmf::Function;
use super::upstream::take_tag;
use crate::iscsi::text::TextCollector;
use crate::iscsi::{AsyncMessage, Cid, CmdSn, Itt, Lun, NopIn, Pdu, StatSn, TaskManagementResponse, Ttt};
use crate::login::Negotiated;
use crate::scsi::Sense;
use crate::scsi::sense::key;
use std::time::Instant;

/// SOME COMMANDS CLEARED BY ISCSI PROTOCOL EVENT.
const CLEARED: Sense = Sense { key: key::UNIT_ATTENTION, asc: 0x47, ascq: 0x7f };

/// Lost connections of which the CIDs are remembered until they are logged out.
const MOST_LOST: usize = 16;

/// One connection.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) id: LineId,
    cid: Cid,
    /// The next StatSN.
    stat_sn: StatSn,
    /// The initiator has all responses before this; looked at only where there are several connections.
    acknowledged: StatSn,
    /// Longest segment that the initiator takes.
    pub(super) segment: u32,
    /// What the initiator may ask for again; none at error recovery level 0.
    pub(super) replay: Option<Replay>,
    pub(super) text: TextCollector,
    /// What is still to be said of a text answer longer than the initiator takes at once.
    pub(super) text_rest: Vec<u8>,
}

impl Line {
    fn new(id: LineId, login: &Negotiated, recovers: bool) -> Self {
        Self {
            id,
            cid: login.cid,
            stat_sn: login.stat_sn,
            acknowledged: login.stat_sn,
            segment: login.connection.max_send_data_segment,
            replay: recovers.then(|| Replay::new(login.stat_sn)),
            text: TextCollector::new(),
            text_rest: Vec::new(),
        }
    }

    fn owes(&self, awaited: &Acknowledgement) -> bool {
        awaited.echo.is_some() || self.acknowledged.is_before(awaited.to)
    }
}

/// All of them: one almost always, so that looking one up costs next to nothing.
#[derive(Debug)]
pub(super) struct Lines {
    all: Vec<Line>,
    /// Of lost ones that were not logged out.
    lost: Vec<Cid>,
    /// Under which the initiator is about to log in.
    awaited: Vec<Cid>,
    /// MaxConnections.
    most: usize,
}

impl Lines {
    pub(super) fn new(login: &Negotiated) -> Self {
        let session = &login.session;
        let first = Line::new(super::SessionPlan::FIRST_LINE, login, session.error_recovery_level > 0);
        let most = usize::from(session.max_connections.max(1));
        Self { all: vec![first], lost: Vec::new(), awaited: Vec::new(), most }
    }

    pub(super) fn get(&self, id: LineId) -> Option<&Line> {
        self.all.iter().find(|line| line.id == id)
    }

    pub(super) fn get_mut(&mut self, id: LineId) -> Option<&mut Line> {
        self.all.iter_mut().find(|line| line.id == id)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Line> {
        self.all.iter_mut()
    }

    pub(super) fn first(&self) -> Option<LineId> {
        self.all.first().map(|line| line.id)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether the session ends with the only one there is.
    fn is_last(&self) -> bool {
        self.all.len() < 2 && self.awaited.is_empty()
    }

    /// Whether there may be more than one.
    pub(super) const fn may_be_several(&self) -> bool {
        self.most > 1
    }

    /// Whether there is more than one.
    pub(super) fn are_several(&self) -> bool {
        self.all.len() > 1
    }

    fn with_cid(&self, cid: Cid) -> Option<LineId> {
        self.all.iter().find(|line| line.cid == cid).map(|line| line.id)
    }

    /// Whether the initiator may log in over one more, or over one in the place of another.
    fn admits(&self, cid: Cid) -> bool {
        let full = self.all.len() + self.awaited.len() >= self.most;
        self.most > 1 && !self.awaited.contains(&cid) && (!full || self.with_cid(cid).is_some())
    }

    /// Bytes kept to be sent again.
    pub(super) fn kept(&self) -> u64 {
        self.all.iter().filter_map(|line| line.replay.as_ref()).map(Replay::bytes).sum()
    }
}

/// An answer to a task management function that waits for acknowledgements.
#[derive(Debug)]
pub(super) struct HeldAnswer {
    line: LineId,
    pub(super) itt: Itt,
    response: u8,
    awaited: Vec<Acknowledgement>,
}

/// What is still to come over a connection.
#[derive(Debug)]
pub(super) struct Acknowledgement {
    line: LineId,
    /// Of all responses before this one.
    to: StatSn,
    /// The echo of a ping.
    echo: Option<Ttt>,
    since: Instant,
}

impl Session {
    /// Number of the initiator's connections.
    #[must_use]
    pub fn lines(&self) -> usize {
        self.lines.len()
    }

    /// What was agreed with the initiator, with the command numbers as they stand now, if a login of its under this CID is awaited.
    #[must_use]
    pub fn awaited(&self, cid: Cid) -> Option<Box<Negotiated>> {
        let (cmd_sn, max_cmd_sn) = self.front.window();
        let awaited = self.finishing.is_none() && self.lines.awaited.contains(&cid);
        awaited.then(|| Box::new(Negotiated { cid, cmd_sn, max_cmd_sn, ..self.plan.downstream.clone() }))
    }

    /// The numbers for a response over a connection: takes a StatSN.
    pub(super) fn stamp(&mut self, line: LineId) -> (StatSn, CmdSn, CmdSn) {
        let numbers = self.peek(line);
        if let Some(line) = self.lines.get_mut(line) {
            line.stat_sn = numbers.0.next();
        }
        numbers
    }

    /// The numbers for a PDU that takes no StatSN (R2T, Data-In without status).
    pub(super) fn peek(&self, line: LineId) -> (StatSn, CmdSn, CmdSn) {
        let elsewhere = broken!(self.rules, OneStatSnForAll).then(|| self.lines.first()).flatten();
        let stat_sn = self.lines.get(elsewhere.unwrap_or(line)).map_or(StatSn(0), |line| line.stat_sn);
        let (exp_cmd_sn, max_cmd_sn) = self.front.window();
        (stat_sn, exp_cmd_sn, max_cmd_sn)
    }

    /// What may be asked for again over a connection.
    pub(super) fn replay(&mut self, line: LineId) -> Option<&mut Replay> {
        self.lines.get_mut(line)?.replay.as_mut()
    }

    /// The initiator wants to log in. A connection with the same CID ends with that (R193), before the login is told which commands
    /// have arrived: what comes over it later would be lost to both sides.
    pub(super) fn await_line(&mut self, cid: Cid, now: Instant) {
        if self.finishing.is_some() || !self.lines.admits(cid) {
            return;
        }
        self.lines.awaited.push(cid);
        if let Some(replaced) = self.lines.with_cid(cid) {
            self.end_line(replaced, now);
        }
    }

    /// The initiator has logged in over a connection that was awaited.
    pub(super) fn line_joined(&mut self, id: LineId, login: &Negotiated) {
        let cid = login.cid;
        if self.finishing.is_some() || !self.lines.awaited.contains(&cid) {
            self.outputs.push_back(Output::CloseLine(id));
            return;
        }
        // Until now nobody has looked at what was acknowledged over the only one.
        if let [only] = self.lines.all.as_mut_slice() {
            only.acknowledged = only.stat_sn.minus(1);
        }
        let recovers = self.recovers();
        self.lines.awaited.retain(|awaited| *awaited != cid);
        self.lines.lost.retain(|lost| *lost != cid);
        self.lines.all.push(Line::new(id, login, recovers));
        self.note(Notice::LineUp { lines: self.lines.len() });
    }

    /// A login that was awaited came to nothing. It may have been all that the session waited for.
    pub(super) fn line_not_joined(&mut self, cid: Cid, now: Instant) {
        self.lines.awaited.retain(|awaited| *awaited != cid);
        if self.lines.all.is_empty() && self.lines.awaited.is_empty() {
            self.begin_finish(now);
        }
    }

    /// A connection of the initiator's is gone.
    pub(super) fn line_lost(&mut self, id: LineId, now: Instant) {
        let Some(cid) = self.lines.get(id).map(|line| line.cid) else { return };
        if self.lines.is_last() {
            return self.begin_finish(now);
        }
        if self.lines.lost.len() == MOST_LOST {
            self.lines.lost.remove(0);
        }
        self.lines.lost.push(cid);
        self.lines.all.retain(|line| line.id != id);
        // Before anything else: what ends with it may be answered below, and then the initiator uses tags again, over this connection
        // too as long as it believes in it, where a PDU for the tag's last command may still be under way.
        for line in self.lines.all.iter().map(|line| line.id).collect::<Vec<_>>() {
            let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.stamp(line);
            let parameters = [cid.0, 0, 0];
            let numbers = AsyncMessage { stat_sn, exp_cmd_sn, max_cmd_sn, ..AsyncMessage::default() };
            self.tell(line, Pdu::AsyncMessage(AsyncMessage { event: 2, parameters, ..numbers }));
        }
        self.forget_line(id, now);
    }

    /// Closes a connection, and ends what came over it; with the last one the session ends.
    pub(super) fn end_line(&mut self, id: LineId, now: Instant) {
        if self.lines.is_last() {
            return self.begin_finish(now);
        }
        self.outputs.push_back(Output::CloseLine(id));
        self.forget_line(id, now);
    }

    /// Ends the connection with this CID, if it is not this one. One that was lost has ended already.
    pub(super) fn log_out_other(&mut self, own: LineId, cid: Cid, now: Instant) {
        match self.lines.with_cid(cid) {
            Some(line) if line != own => self.end_line(line, now),
            Some(_) => {}
            None => self.lines.lost.retain(|lost| *lost != cid),
        }
    }

    /// Ends the connection if it has this CID, after it was told so. The others are told if the window has opened with it (R98).
    pub(super) fn log_out_own(&mut self, own: LineId, cid: Cid, now: Instant) {
        if self.lines.with_cid(cid) != Some(own) {
            return;
        }
        let (_, before) = self.front.window();
        self.end_line(own, now);
        if let Some(line) = self.lines.first().filter(|_| self.front.window().1 != before) {
            let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.peek(line);
            let (itt, ttt) = (Itt::NONE, Ttt::NONE);
            self.tell(
                line,
                Pdu::NopIn(NopIn { itt, ttt, stat_sn, exp_cmd_sn, max_cmd_sn, ..NopIn::default() }),
            );
        }
    }

    /// Whether there is or was a connection with this CID.
    pub(super) fn knows_line(&self, cid: Cid) -> bool {
        self.lines.with_cid(cid).is_some() || self.lines.lost.contains(&cid)
    }

    /// A connection is gone, and all that came over it goes.
    fn forget_line(&mut self, id: LineId, now: Instant) {
        self.lines.all.retain(|line| line.id != id);
        self.front.forget(id);
        self.early_functions.retain(|(line, _)| *line != id);
        self.held_answers.retain(|held| held.line != id);
        let keys = self.tasks.select(|task| task.line() == Some(id));
        self.note(Notice::LineDown { lines: self.lines.len(), commands: keys.len() });
        if !keys.is_empty() {
            self.abandon_commands(id, &keys, now);
        }
        self.settle_acknowledgements(now);
    }

    /// Nobody will hear of these commands any more.
    fn abandon_commands(&mut self, line: LineId, keys: &[TaskKey], now: Instant) {
        // What is aborted may be at no connection just now.
        self.abandon_recovery(now);
        let mut units: Vec<Lun> = Vec::new();
        for key in keys {
            let Some(task) = self.tasks.get(*key).filter(|task| task.line() == Some(line)) else { continue };
            if !units.contains(&task.lun) {
                units.push(task.lun);
            }
            let (runs, starves) = (task.run.is_some(), task.write && task.inbound.received() < task.expected);
            self.tasks.abandon(*key);
            if !runs {
                self.conclude(*key, now);
                continue;
            }
            let tasks = &self.tasks;
            let waiting = self.order.abandon(*key, |k| tasks.runs(k));
            self.hold_back(&waiting);
            if starves {
                self.abort_abandoned(*key, now);
            }
        }
        for lun in units {
            let sense = self.own_sense(lun, CLEARED);
            if let Some(unit) = self.attentions(lun) {
                unit.keep(sense, now);
            }
        }
        self.open_window();
    }

    /// Takes what a PDU acknowledges, where that matters.
    pub(super) fn acknowledged(&mut self, id: LineId, expected: StatSn, now: Instant) {
        let Some(line) = self.lines.get_mut(id) else { return };
        // What was not sent cannot be acknowledged.
        if expected.is_after(line.acknowledged) && !expected.is_after(line.stat_sn) {
            line.acknowledged = expected;
            self.settle_acknowledgements(now);
        }
    }

    /// A ping of Braid's was echoed.
    pub(super) fn line_echoed(&mut self, id: LineId, ttt: Ttt, now: Instant) {
        let held = self.held_answers.iter_mut().flat_map(|held| &mut held.awaited);
        for awaited in held.chain(self.functions.iter_mut().flat_map(Function::acknowledgements)) {
            awaited.echo.take_if(|echo| awaited.line == id && *echo == ttt);
        }
        self.settle_acknowledgements(now);
    }

    /// Asks over all connections but this one what has arrived; gives what is still to come.
    pub(super) fn ask_to_acknowledge(&mut self, id: LineId) -> Vec<Acknowledgement> {
        let others: Vec<(LineId, StatSn)> =
            self.lines.all.iter().filter(|line| line.id != id).map(|line| (line.id, line.stat_sn)).collect();
        if others.is_empty() || self.finishing.is_some() || broken!(self.rules, AnswersNotFenced) {
            return Vec::new();
        }
        let mut awaited = Vec::new();
        for (line, to) in others {
            let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.peek(line);
            let ttt = take_tag(&mut self.next_ttt);
            let ping = NopIn { itt: Itt::NONE, ttt, stat_sn, exp_cmd_sn, max_cmd_sn, ..NopIn::default() };
            self.tell(line, Pdu::NopIn(ping));
            awaited.push(Acknowledgement { line, to, echo: Some(ttt), since: self.now });
        }
        awaited
    }

    /// Answers a task management function that has changed nothing, once all that left before has arrived.
    pub(super) fn answer_function(&mut self, line: LineId, itt: Itt, response: u8) {
        let awaited = self.ask_to_acknowledge(line);
        if awaited.is_empty() {
            return self.tell_answer(line, itt, response);
        }
        self.held_answers.push(HeldAnswer { line, itt, response, awaited });
    }

    /// Answers a task management function.
    pub(super) fn tell_answer(&mut self, line: LineId, itt: Itt, response: u8) {
        let counts = !broken!(self.rules, FunctionTakesNoStatSn);
        let (stat_sn, exp_cmd_sn, max_cmd_sn) = if counts { self.stamp(line) } else { self.peek(line) };
        let answer = TaskManagementResponse { response, itt, stat_sn, exp_cmd_sn, max_cmd_sn, additional: 0 };
        self.tell(line, Pdu::TaskManagementResponse(answer));
    }

    /// Acknowledgements came, or will not come any more.
    fn settle_acknowledgements(&mut self, now: Instant) {
        let lines = &self.lines;
        let owed = |awaited: &Acknowledgement| lines.get(awaited.line).is_some_and(|line| line.owes(awaited));
        let fences = self.functions.iter_mut().filter_map(|function| function.owed.as_mut());
        for awaited in self.held_answers.iter_mut().map(|held| &mut held.awaited).chain(fences) {
            awaited.retain(owed);
        }
        while let Some(at) = self.held_answers.iter().position(|held| held.awaited.is_empty()) {
            let held = self.held_answers.remove(at);
            self.tell_answer(held.line, held.itt, held.response);
        }
        if !self.functions.is_empty() {
            self.finish_functions(now);
        }
    }

    fn acknowledgements(&self) -> impl Iterator<Item = &Acknowledgement> {
        let functions = self.functions.iter().filter_map(|function| function.owed.as_ref()).flatten();
        self.held_answers.iter().flat_map(|held| &held.awaited).chain(functions)
    }

    /// When connections over which acknowledgements stay away are given up.
    pub(super) fn acknowledgement_deadline(&self) -> Option<Instant> {
        self.acknowledgements().map(|awaited| awaited.since + self.plan.ping_timeout).min()
    }

    pub(super) fn expire_acknowledgements(&mut self, now: Instant) {
        let late = |awaited: &&Acknowledgement| now >= awaited.since + self.plan.ping_timeout;
        let silent: Vec<LineId> = self.acknowledgements().filter(late).map(|awaited| awaited.line).collect();
        for line in silent {
            if self.lines.get(line).is_some() {
                self.note(Notice::DownstreamProtocol("a connection acknowledges nothing".into()));
                if !self.lines.is_last() {
                    self.outputs.push_back(Output::CloseLine(line));
                }
                self.line_lost(line, now);
            }
        }
    }
}
