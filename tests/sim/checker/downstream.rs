//! Braid as target.

use super::again::{Again, Refusal};
use super::{Broken, Judge, Judged, Request, Verdict, rejected, request, takes_stat_sn};
use braid::iscsi::{
    Cid, CmdSn, DataIn, DataOut, Itt, LogoutResponse, Lun, NopIn, Payload, Pdu, R2t, Reject, ScsiCommand,
    ScsiResponse, StatSn, TaskManagementRequest, TaskManagementResponse, TextRequest, TextResponse, Ttt,
    opcode, reject, tmf,
};
use braid::login::Negotiated;
use braid::session::{LineId, SessionPlan};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

const GOOD: u8 = 0;
const CHECK_CONDITION: u8 = 2;

/// What became of a command.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Open,
    Answered,
    /// A function that ended it was answered.
    Ended,
    Refused,
}

struct Task {
    life: Life,
    /// The connection that the command came over (R118).
    line: LineId,
    cmd_sn: CmdSn,
    immediate: bool,
    /// Nobody can say whether the engine had to take it.
    doubtful: bool,
    lun: Lun,
    write: bool,
    /// Bytes to write and to read.
    write_length: u32,
    read_length: u32,
    both: bool,
    /// R2Ts and Data-Ins sent, which are one count, and Data-Ins alone.
    data_sn: u32,
    data_ins: u32,
    /// Bytes read, and those of the sequence that is open.
    delivered: u32,
    burst: u32,
    /// Unsolicited data was announced and is not all here.
    announced: bool,
    /// First byte that was neither sent unasked nor asked for.
    solicited_to: u32,
    /// Transfer tags of R2Ts not answered.
    asked: Vec<Ttt>,
    /// Commands that came under the same tag meanwhile.
    again: u32,
    /// Bytes to write that came without a hole; and whether there is one in the sequence under way, of which the rest is not
    /// taken. (The RFC would let Braid keep it.)
    taken: u32,
    hole: bool,
    /// Tags of R2Ts that were asked again with another: nothing is taken under them any more.
    given_up: Vec<Ttt>,
    /// Some of its data, or an R2T, were lost without a trace.
    lost: bool,
}

struct Function {
    code: u8,
    lun: Lun,
    referenced: Itt,
    /// CmdSN of that task, if it was here: its tag may be given to another before the answer.
    of: Option<CmdSn>,
    cmd_sn: CmdSn,
    immediate: bool,
    /// Commands with numbers before this were delivered when it came.
    delivered: CmdSn,
    /// Its own number was in the window: it covers what was sent before it and comes later.
    awaits: bool,
    /// Other connections that there were when it came, and of how many pings Braid had sent by then.
    others: Vec<LineId>,
    pings: usize,
    /// The only answers that are right, if that is known: one task is concerned, and it was open or nowhere.
    must: Option<u8>,
}

struct Text {
    /// F and C of the last request.
    final_: bool,
    continue_: bool,
    request: Vec<u8>,
    response: Vec<u8>,
}

enum Kind {
    Function(Function),
    Ping(Payload),
    Text(Text),
    Logout(u8, Cid),
}

/// A request that is no command.
struct Other {
    line: LineId,
    itt: Itt,
    kind: Kind,
}

/// What one connection of the initiator counts by itself.
struct Book {
    cid: Cid,
    stat_sn: StatSn,
    /// The initiator has all before this.
    acknowledged: StatSn,
    /// The first StatSN was sent.
    begun: bool,
    /// Longest segment, and what it is about to be (R69).
    segment: usize,
    next_segment: Option<usize>,
}

impl Book {
    fn new(login: &Negotiated) -> Self {
        Self {
            cid: login.cid,
            stat_sn: login.stat_sn,
            acknowledged: login.stat_sn,
            begun: false,
            segment: login.connection.max_send_data_segment as usize,
            next_segment: None,
        }
    }
}

/// The checker of the side of the initiator.
pub(crate) struct Downstream {
    judge: Judge,
    negotiated: Negotiated,
    tasks: FxHashMap<u32, Task>,
    others: Vec<Other>,
    /// Numbers before this came without a hole: for certain, and if what the engine may take or leave is counted.
    certain: CmdSn,
    possible: CmdSn,
    /// Both before the last numbered PDU came, which may yet be refused (R105).
    before: (CmdSn, CmdSn),
    /// `certain` before the last PDU came.
    floor: CmdSn,
    /// Numbers that came behind a hole, and whether they must be taken.
    early: Vec<(CmdSn, bool)>,
    /// Connections that they came over, where there are several.
    came_over: Vec<(CmdSn, LineId)>,
    /// What the initiator was told last.
    told: CmdSn,
    max_cmd_sn: CmdSn,
    lines: BTreeMap<LineId, Book>,
    /// Pings of Braid's, with the StatSN that they showed.
    pings: Vec<(LineId, StatSn)>,
    /// CIDs of connections that were lost.
    lost: Vec<Cid>,
    /// The connection of the PDU that is looked at.
    line: LineId,
    /// A logout of the session was answered.
    over: bool,
    /// What may be asked for again; none at error recovery level 0.
    again: Option<Again>,
}

impl Downstream {
    pub(crate) fn new(negotiated: &Negotiated) -> Self {
        let cmd_sn = negotiated.cmd_sn;
        Self {
            judge: Judge::new(),
            negotiated: negotiated.clone(),
            tasks: FxHashMap::default(),
            others: Vec::new(),
            certain: cmd_sn,
            possible: cmd_sn,
            before: (cmd_sn, cmd_sn),
            floor: cmd_sn,
            early: Vec::new(),
            came_over: Vec::new(),
            told: cmd_sn,
            max_cmd_sn: negotiated.max_cmd_sn,
            lines: BTreeMap::from([(SessionPlan::FIRST_LINE, Book::new(negotiated))]),
            pings: Vec::new(),
            lost: Vec::new(),
            line: SessionPlan::FIRST_LINE,
            over: false,
            again: (negotiated.session.error_recovery_level > 0).then(Again::default),
        }
    }

    /// How often each requirement was judged.
    pub(crate) fn judged(&self) -> &Judged {
        &self.judge.0
    }

    // What the initiator sends.

    /// The initiator has logged in over a further connection, and was told of the window with that.
    pub(crate) fn joined(&mut self, line: LineId, login: &Negotiated) {
        self.lost.retain(|cid| *cid != login.cid);
        self.told = self.told.max(login.cmd_sn);
        self.max_cmd_sn = self.max_cmd_sn.max(login.max_cmd_sn);
        self.lines.insert(line, Book::new(login));
    }

    /// A connection of the initiator is gone: what came over it ends, and what came early counts as not received (R106).
    pub(crate) fn line_closed(&mut self, line: LineId) {
        let Some(book) = self.lines.remove(&line) else { return };
        self.lost.push(book.cid);
        let certain = self.certain;
        let came_over = &self.came_over;
        self.early.retain(|(number, _)| number.is_before(certain) || !came_over.contains(&(*number, line)));
        self.tasks.values_mut().filter(|t| t.line == line && t.life == Life::Open).for_each(|t| {
            t.life = Life::Ended;
        });
        self.others.retain(|o| o.line != line);
    }

    /// A PDU from the initiator.
    pub(crate) fn received(&mut self, line: LineId, pdu: &Pdu) {
        self.line = line;
        if let (Some(book), Some(expected)) = (self.lines.get_mut(&line), pdu.exp_stat_sn()) {
            // What was not sent cannot be acknowledged.
            if !expected.is_after(book.stat_sn) {
                book.acknowledged = book.acknowledged.max(expected);
            }
        }
        self.floor = self.certain;
        if let Some(again) = &mut self.again {
            again.received(pdu);
        }
        let mut doubtful = false;
        if let Some(head) = request(pdu).filter(|h| !h.immediate) {
            let Some(certain) = self.arrive(&head) else { return };
            doubtful = !certain;
        }
        match pdu {
            Pdu::ScsiCommand(command) => self.command(command, doubtful),
            Pdu::DataOut(data) => self.data_out(data, true),
            Pdu::TaskManagementRequest(request) => self.function(request),
            Pdu::NopOut(nop) if nop.itt != Itt::NONE => self.other(nop.itt, Kind::Ping(nop.data.clone())),
            Pdu::TextRequest(request) => self.text(request),
            Pdu::LogoutRequest(logout) => self.other(logout.itt, Kind::Logout(logout.reason, logout.cid)),
            _ => {}
        }
    }

    /// A PDU from the initiator whose data came spoilt.
    pub(crate) fn spoilt(&mut self, line: LineId, pdu: &Pdu) {
        self.line = line;
        if let Pdu::DataOut(data) = pdu {
            self.data_out(data, false);
        }
    }

    /// An R2T was lost on its way, or what answers it, and neither side knows.
    pub(crate) fn lost(&mut self, itt: Itt) {
        if let Some(task) = self.tasks.get_mut(&itt.0) {
            task.lost = true;
        }
    }

    /// Books a CmdSN; returns whether the request must be taken, or nothing for a duplicate.
    fn arrive(&mut self, head: &Request) -> Option<bool> {
        let cmd_sn = head.cmd_sn;
        if cmd_sn.is_before(self.certain) || self.early.contains(&(cmd_sn, true)) {
            return None;
        }
        let certain = self.certain;
        self.early.retain(|(early, _)| !early.is_before(certain));
        self.before = (self.certain, self.possible);
        let plugged = self.early.iter().any(|(early, _)| *early == cmd_sn);
        let certain = !plugged && !cmd_sn.is_after(self.max_cmd_sn);
        if !plugged {
            self.early.push((cmd_sn, certain));
        }
        if self.negotiated.session.max_connections > 1 {
            let certain = self.certain;
            self.came_over.retain(|(number, _)| !number.is_before(certain) && *number != cmd_sn);
            self.came_over.push((cmd_sn, self.line));
        }
        self.advance();
        Some(certain)
    }

    fn advance(&mut self) {
        self.certain = self.certain.max(self.told);
        self.possible = self.possible.max(self.told);
        while self.early.contains(&(self.certain, true)) {
            self.certain = self.certain.next();
        }
        self.possible = self.possible.max(self.certain);
        while self.early.iter().any(|(early, _)| *early == self.possible) {
            self.possible = self.possible.next();
        }
    }

    /// A refused request counts as not received: its number is open again.
    fn refuse(&mut self, cmd_sn: CmdSn) -> Verdict {
        if !self.early.iter().any(|(early, _)| *early == cmd_sn) {
            return Ok(());
        }
        self.rule(105, !self.told.is_after(cmd_sn), "the number of a refused request is acknowledged")?;
        self.early.retain(|(early, _)| *early != cmd_sn);
        (self.certain, self.possible) = self.before;
        self.advance();
        Ok(())
    }

    fn command(&mut self, c: &ScsiCommand, doubtful: bool) {
        if let Some(task) = self.tasks.get_mut(&c.itt.0).filter(|t| t.life == Life::Open) {
            task.again += 1;
            return;
        }
        let both = c.read && c.write;
        let immediate = u32::try_from(c.data.len()).unwrap_or(u32::MAX);
        let first_burst = self.negotiated.session.first_burst_length.min(c.expected_length);
        let task = Task {
            life: Life::Open,
            line: self.line,
            cmd_sn: c.cmd_sn,
            immediate: c.immediate,
            doubtful,
            lun: c.lun,
            write: c.write,
            write_length: if c.write { c.expected_length } else { 0 },
            read_length: match c.bidi_read_length {
                Some(length) if both => length,
                _ if c.read && !both => c.expected_length,
                _ => 0,
            },
            both,
            data_sn: 0,
            data_ins: 0,
            delivered: 0,
            burst: 0,
            announced: c.write && !c.final_,
            solicited_to: if c.final_ { immediate } else { first_burst },
            asked: Vec::new(),
            again: 0,
            taken: immediate,
            hole: false,
            given_up: Vec::new(),
            lost: false,
        };
        self.tasks.insert(c.itt.0, task);
    }

    fn data_out(&mut self, d: &DataOut, whole: bool) {
        let line = self.line;
        // Of a task that had the tag before, some may still be under way over another connection.
        let Some(task) = self.tasks.get_mut(&d.itt.0).filter(|task| task.line == line) else { return };
        if task.given_up.contains(&d.ttt) {
            let answered = self.again.as_mut().filter(|_| whole && d.final_);
            return answered.map_or((), |again| again.answered(d.ttt));
        }
        if let Some(again) = &mut self.again {
            if whole && !task.hole && d.buffer_offset == task.taken {
                task.taken += u32::try_from(d.data.len()).unwrap_or(u32::MAX);
            } else {
                task.hole = true;
            }
            if d.final_ {
                again.answered(d.ttt);
                if std::mem::take(&mut task.hole) {
                    task.solicited_to = task.taken;
                }
            }
        }
        if d.ttt == Ttt::NONE {
            task.announced &= !d.final_;
        } else if d.final_ {
            task.asked.retain(|a| *a != d.ttt);
        }
    }

    fn function(&mut self, t: &TaskManagementRequest) {
        let referenced = self.tasks.get(&t.referenced_itt.0);
        let single = t.function == tmf::ABORT_TASK;
        let on_function =
            self.others.iter().any(|o| o.itt == t.referenced_itt && matches!(o.kind, Kind::Function(_)));
        let number = t.ref_cmd_sn;
        let missing =
            !number.is_before(self.possible) && !self.early.iter().any(|(early, _)| *early == number);
        let in_window = missing && number.is_before(t.cmd_sn) && !number.is_after(self.max_cmd_sn);
        // A command sent later may have come over another connection, and has the tag by now.
        let sent_before =
            |task: &Task| task.cmd_sn.is_before(t.cmd_sn) || task.cmd_sn == t.cmd_sn && task.immediate;
        let earlier = |task: &&Task| task.life == Life::Open && sent_before(task);
        let of = referenced.filter(earlier).map(|t| t.cmd_sn);
        let must = match referenced.map(|t| t.life) {
            _ if !single => None,
            _ if on_function => Some(tmf::REJECTED),
            None | Some(Life::Refused) if in_window && t.immediate => Some(tmf::COMPLETE),
            None if number.is_before(self.certain) => Some(tmf::TASK_DOES_NOT_EXIST),
            _ => None,
        };
        // What is given up before it came counts as received (R149), and a target reset may plug all holes (R157).
        if single && in_window {
            self.early.push((number, false));
        }
        if matches!(t.function, tmf::TARGET_WARM_RESET | tmf::TARGET_COLD_RESET) {
            let mut hole = self.possible;
            while hole.is_before(t.cmd_sn) && hole.since(self.possible) < 4096 {
                self.early.push((hole, false));
                hole = hole.next();
            }
        }
        self.advance();
        let function = Function {
            code: t.function,
            lun: t.lun,
            referenced: t.referenced_itt,
            of,
            cmd_sn: t.cmd_sn,
            immediate: t.immediate,
            delivered: self.certain,
            awaits: !t.cmd_sn.is_after(self.max_cmd_sn.next()),
            others: self.lines.keys().copied().filter(|line| *line != self.line).collect(),
            pings: self.pings.len(),
            must,
        };
        self.other(t.itt, Kind::Function(function));
    }

    fn text(&mut self, t: &TextRequest) {
        let known = self.others.iter().position(|o| o.itt == t.itt && matches!(o.kind, Kind::Text(_)));
        let old = known.map(|at| self.others.remove(at).kind);
        let (mut request, response) = match old {
            Some(Kind::Text(text)) if t.ttt != Ttt::NONE => (text.request, text.response),
            _ => (Vec::new(), Vec::new()),
        };
        request.extend_from_slice(&t.data.contiguous());
        let lengths = pairs(&request).into_iter().filter(|(key, _)| key == "MaxRecvDataSegmentLength");
        let length = lengths.filter_map(|(_, value)| value.parse().ok()).find(|n| (512..1 << 24).contains(n));
        if let Some(book) = self.lines.get_mut(&self.line) {
            book.next_segment = length.filter(|_| !t.continue_);
        }
        let (final_, continue_) = (t.final_, t.continue_);
        self.other(t.itt, Kind::Text(Text { final_, continue_, request, response }));
    }

    fn other(&mut self, itt: Itt, kind: Kind) {
        self.others.push(Other { line: self.line, itt, kind });
    }

    // What Braid sends.

    /// A PDU to the initiator.
    pub(crate) fn sent(&mut self, line: LineId, pdu: &Pdu) -> Result<(), Broken> {
        self.line = line;
        self.judge_pdu(pdu).map_err(|fault| fault.with(pdu))
    }

    /// The session has ended; `served` says that the initiator waited for all its answers.
    pub(crate) fn end(&self, served: bool) -> Result<(), Broken> {
        let fault = |requirement, what: &str| Err(Broken { requirement, what: what.into() });
        if !served || self.over {
            return Ok(());
        }
        if self.tasks.values().any(|t| t.life == Life::Open && !t.doubtful) {
            return fault(112, "a command was never answered");
        }
        match self.others.first().map(|o| &o.kind) {
            Some(Kind::Ping(_)) => fault(224, "a ping was never echoed"),
            Some(Kind::Function(_)) => fault(152, "a function was never answered"),
            Some(Kind::Text(_)) => fault(237, "a text request was never answered"),
            Some(Kind::Logout(..)) => fault(213, "a logout was never answered"),
            None => Ok(()),
        }
    }

    fn rule(&mut self, requirement: u16, holds: bool, what: &'static str) -> Verdict {
        self.judge.rule(requirement, holds, what)
    }

    fn judge_pdu(&mut self, pdu: &Pdu) -> Verdict {
        let open = !self.over && self.lines.contains_key(&self.line);
        self.rule(214, open, "sent after the session, or the connection, was logged out")?;
        let numbers = pdu.target_numbers();
        self.rule(142, numbers.is_some(), "an initiator's PDU was sent to the initiator")?;
        let Some((stat_sn, exp_cmd_sn, max_cmd_sn)) = numbers else { return Ok(()) };
        if let Some(same) = self.again.as_mut().and_then(|again| again.repeats(pdu)) {
            self.rule(171, same, "not what was asked for again, as it was")?;
            self.rule(
                112,
                !matches!(pdu, Pdu::R2t(_)) || stat_sn == self.next_stat_sn(),
                "an old StatSN in an R2T",
            )?;
            return self.command_numbers(exp_cmd_sn, max_cmd_sn);
        }
        self.stat_sn(pdu, stat_sn)?;
        self.command_numbers(exp_cmd_sn, max_cmd_sn)?;
        if let Some(again) = &mut self.again {
            again.sent(pdu);
        }
        let most = self.lines.get(&self.line).map_or(0, |b| b.segment.max(b.next_segment.unwrap_or(0)));
        let fits = pdu.data().len() <= most;
        match pdu {
            Pdu::TextResponse(_) => self.rule(62, fits, "text longer than the initiator takes")?,
            _ => self.rule(127, fits, "a segment longer than the initiator takes")?,
        }
        match pdu {
            Pdu::DataIn(data) => self.data_in(data),
            Pdu::R2t(r2t) => self.r2t(r2t),
            Pdu::ScsiResponse(response) => self.response(response),
            Pdu::TaskManagementResponse(response) => self.function_response(response),
            Pdu::NopIn(nop) => self.nop_in(nop),
            Pdu::TextResponse(response) => self.text_response(response),
            Pdu::LogoutResponse(response) => self.logout_response(response),
            Pdu::Reject(reject) => self.reject(reject),
            Pdu::AsyncMessage(message) => {
                self.rule(222, matches!(message.event, 0..=5 | 248..), "an event code that is not defined")
            }
            _ => self.rule(15, false, "a login response in full feature phase"),
        }
    }

    fn stat_sn(&mut self, pdu: &Pdu, stat_sn: StatSn) -> Verdict {
        let right = stat_sn == self.next_stat_sn();
        if takes_stat_sn(pdu) {
            // The login counted before.
            let begun = self.lines.get(&self.line).is_some_and(|book| book.begun);
            self.rule(111, begun || right, "StatSN does not go on from the login")?;
            self.rule(112, right, "not the next StatSN")?;
            if let Some(book) = self.lines.get_mut(&self.line) {
                (book.begun, book.stat_sn) = (true, stat_sn.next());
            }
        } else if !matches!(pdu, Pdu::DataIn(_)) {
            self.rule(112, right, "a PDU that takes no StatSN does not show the next one")?;
        }
        Ok(())
    }

    /// With one connection there is nothing to judge.
    fn allegiance(&mut self, own: bool, what: &'static str) -> Verdict {
        if self.lines.len() > 1 { self.rule(118, own, what) } else { Ok(()) }
    }

    fn next_stat_sn(&self) -> StatSn {
        self.lines.get(&self.line).map_or(StatSn(0), |book| book.stat_sn)
    }

    fn command_numbers(&mut self, exp_cmd_sn: CmdSn, max_cmd_sn: CmdSn) -> Verdict {
        self.rule(95, !exp_cmd_sn.is_after(self.possible), "ExpCmdSN acknowledges what did not come")?;
        self.rule(95, !exp_cmd_sn.is_before(self.told), "ExpCmdSN falls")?;
        self.rule(95, !exp_cmd_sn.is_before(self.floor), "ExpCmdSN leaves out what came long ago")?;
        self.rule(96, !max_cmd_sn.is_before(exp_cmd_sn.minus(1)), "MaxCmdSN is below ExpCmdSN - 1")?;
        self.told = exp_cmd_sn;
        self.max_cmd_sn = self.max_cmd_sn.max(max_cmd_sn);
        Ok(())
    }

    /// A PDU of a command: the command is there, was delivered in its turn, and is open.
    fn open(&mut self, itt: Itt, status: bool) -> Verdict {
        let task = self.tasks.get(&itt.0);
        let (life, number) = (task.map(|t| t.life), task.filter(|t| !t.immediate).map(|t| t.cmd_sn));
        let own = task.is_none_or(|t| t.line == self.line);
        self.rule(107, life.is_some(), "no command has this tag")?;
        self.allegiance(own, "not over the connection of the command")?;
        self.rule(152, life != Some(Life::Ended), "a function that ended this command was answered before")?;
        self.rule(181, life != Some(Life::Refused), "this command was refused before")?;
        if status {
            self.rule(107, life != Some(Life::Answered), "a command is answered twice")?;
        } else {
            self.rule(119, life != Some(Life::Answered), "data or R2T after the status")?;
        }
        let Some(number) = number else { return Ok(()) };
        self.rule(94, number.is_before(self.possible), "a command runs before its turn")?;
        self.rule(103, !status || number.is_before(self.told), "status before the command is acknowledged")
    }

    fn data_in(&mut self, d: &DataIn) -> Verdict {
        self.open(d.itt, d.has_status)?;
        let (level, most) =
            (self.negotiated.session.error_recovery_level, self.negotiated.session.max_burst_length);
        let judge = &mut self.judge;
        let Some(task) = self.tasks.get_mut(&d.itt.0) else { return Ok(()) };
        let length = u32::try_from(d.data.len()).unwrap_or(u32::MAX);
        let end = d.buffer_offset.saturating_add(length);
        judge.rule(108, d.ttt == Ttt::NONE || d.lun == task.lun, "not the LUN of the command")?;
        judge.rule(126, d.data_sn == task.data_sn, "not the next DataSN")?;
        judge.rule(75, d.buffer_offset == task.delivered, "read data out of order")?;
        judge.rule(134, end <= task.read_length, "more read data than expected")?;
        judge.rule(130, !d.acknowledge || level > 0 && d.ttt != Ttt::NONE, "an A bit that may not be")?;
        task.data_sn += 1;
        task.data_ins += 1;
        task.delivered = end;
        task.burst += length;
        judge.rule(127, task.burst <= most, "a sequence longer than MaxBurstLength")?;
        if d.final_ {
            task.burst = 0;
        }
        judge.rule(128, !d.has_status || d.final_, "a status without F")?;
        if !d.has_status {
            return Ok(());
        }
        let plain = matches!(d.status, GOOD | 0x04 | 0x10 | 0x14) && !task.both;
        judge.rule(128, plain, "a status that Data-In cannot carry")?;
        residual(judge, task, d.status, d.overflow, d.underflow, d.residual)?;
        task.life = Life::Answered;
        Ok(())
    }

    fn r2t(&mut self, r: &R2t) -> Verdict {
        self.open(r.itt, false)?;
        let session = &self.negotiated.session;
        let (burst, most) = (session.max_burst_length, usize::from(session.max_outstanding_r2t));
        let used = self.tasks.values().any(|t| t.life == Life::Open && t.asked.contains(&r.ttt));
        let judge = &mut self.judge;
        let Some(task) = self.tasks.get_mut(&r.itt.0) else { return Ok(()) };
        judge.rule(108, r.lun == task.lun, "not the LUN of the command")?;
        judge.rule(126, r.r2t_sn == task.data_sn, "not the next R2TSN")?;
        judge.rule(125, r.ttt != Ttt::NONE && !used, "a transfer tag that is not free")?;
        judge.rule(
            125,
            r.desired_length > 0 && r.desired_length <= burst,
            "an R2T for nothing or too much",
        )?;
        let end = r.buffer_offset.saturating_add(r.desired_length);
        judge.rule(125, task.write && end <= task.write_length, "an R2T beyond the command")?;
        // Nothing came of what was asked for, or announced: a recovery R2T.
        let due = task.announced || !task.asked.is_empty();
        if self.again.is_some() && due && r.buffer_offset == task.taken {
            task.given_up.append(&mut task.asked);
            if std::mem::take(&mut task.announced) {
                task.given_up.push(Ttt::NONE);
            }
            (task.solicited_to, task.hole) = (task.taken, false);
        }
        judge.rule(125, r.buffer_offset == task.solicited_to, "R2Ts are not consecutive")?;
        judge.rule(125, task.asked.len() < most, "more R2Ts than agreed")?;
        task.data_sn += 1;
        task.solicited_to = end;
        task.asked.push(r.ttt);
        Ok(())
    }

    fn response(&mut self, r: &ScsiResponse) -> Verdict {
        self.open(r.itt, true)?;
        let judge = &mut self.judge;
        let Some(task) = self.tasks.get_mut(&r.itt.0) else { return Ok(()) };
        task.life = Life::Answered;
        let due = task.announced || !task.asked.is_empty();
        judge.rule(138, !due || task.lost, "a response while write data is due")?;
        judge.rule(141, matches!(r.response, 0 | 1 | 0x80..), "a reserved response code")?;
        if r.response != 0 {
            let flags = r.overflow || r.underflow || r.bidi_overflow || r.bidi_underflow;
            let empty = !flags && r.residual == 0 && r.bidi_residual == 0 && r.status == 0;
            judge.rule(137, empty, "status, flags or residuals of a command that was not completed")?;
            return judge.rule(136, r.exp_data_sn == 0, "ExpDataSN of a command that was not completed");
        }
        // RFC 3720 counted the R2Ts of a bidirectional command too.
        let counted =
            r.exp_data_sn == task.data_ins || task.both && task.data_ins > 0 && r.exp_data_sn == task.data_sn;
        judge.rule(136, counted, "ExpDataSN is not the number of Data-In PDUs")?;
        let sense = r.sense();
        let whole = r.data.is_empty() || sense.as_ref().is_none_or(|s| s.len() + 2 <= r.data.len());
        judge.rule(135, whole && (r.status != CHECK_CONDITION || sense.is_some()), "no sense data")?;
        let exclusive = !(r.bidi_overflow && r.bidi_underflow);
        let counted = r.bidi_overflow || r.bidi_underflow || r.bidi_residual == 0;
        let both = task.both || !r.bidi_overflow && !r.bidi_underflow;
        judge.rule(134, exclusive && counted && both, "bidirectional residual without its flag")?;
        residual(judge, task, r.status, r.overflow, r.underflow, r.residual)
    }

    fn function_response(&mut self, r: &TaskManagementResponse) -> Verdict {
        self.rule(141, matches!(r.response, 0..=7 | 255), "a reserved response code")?;
        let found = self.others.iter().position(|o| o.itt == r.itt && matches!(o.kind, Kind::Function(_)));
        self.rule(107, found.is_some(), "no function has this tag")?;
        let Some(Other { line, kind: Kind::Function(function), .. }) = found.map(|at| self.others.remove(at))
        else {
            return Ok(());
        };
        self.allegiance(line == self.line, "not over the connection of the function")?;
        let pinged = |line: &LineId, book: &Book| {
            let mut own = self.pings.iter().skip(function.pings).filter(|(pinged, _)| pinged == line);
            own.any(|(_, number)| !book.acknowledged.is_before(*number))
        };
        let mut others = self.lines.iter().filter(|(line, _)| function.others.contains(line));
        let acknowledged = others.all(|(line, book)| pinged(line, book));
        if self.lines.len() > 1 {
            self.rule(156, acknowledged, "answered before what went over other connections is acknowledged")?;
        }
        self.rule(
            103,
            function.immediate || function.cmd_sn.is_before(self.told),
            "answer before acknowledgement",
        )?;
        if function.must == Some(tmf::REJECTED) {
            self.rule(150, r.response == tmf::REJECTED, "a function was aborted by a function")?;
        } else if let Some(must) = function.must {
            self.rule(149, r.response == must, "a task that is not here is answered wrongly")?;
        }
        if r.response == tmf::COMPLETE {
            let missing = function.awaits && self.possible.is_before(function.cmd_sn);
            self.rule(155, function.is_single() || !missing, "done before all that it covers has come")?;
            self.conclude(&function);
        } else if r.response == tmf::TASK_DOES_NOT_EXIST && function.code == tmf::ABORT_TASK {
            let doomed =
                self.others.iter().any(|o| matches!(&o.kind, Kind::Function(f) if f.code != tmf::ABORT_TASK));
            let task = self.tasks.get(&function.referenced.0).filter(|t| t.life == Life::Open);
            let here = task.is_some_and(|t| function.of == Some(t.cmd_sn) && !t.doubtful);
            self.rule(149, !here || doomed, "a task that is here is said not to be")?;
        }
        Ok(())
    }

    /// What a function covers gets no response any more (R152).
    fn conclude(&mut self, f: &Function) {
        let covers = |itt: u32, task: &Task| match f.code {
            tmf::ABORT_TASK => itt == f.referenced.0 && f.of == Some(task.cmd_sn),
            tmf::ABORT_TASK_SET | tmf::CLEAR_TASK_SET | tmf::LOGICAL_UNIT_RESET => task.lun == f.lun,
            tmf::TARGET_WARM_RESET | tmf::TARGET_COLD_RESET => true,
            _ => false,
        };
        let mut ended = Vec::new();
        let open = self.tasks.iter_mut().filter(|(itt, t)| t.life == Life::Open && covers(**itt, t));
        open.for_each(|(itt, task)| {
            // What it gave up before that came counts as received too, once Braid says so.
            let delivered = if f.awaits { self.certain.max(self.told) } else { f.delivered };
            let before = task.cmd_sn.is_before(f.cmd_sn) && task.cmd_sn.is_before(delivered);
            if f.is_single() || before && !task.immediate {
                task.life = Life::Ended;
                ended.push(Itt(*itt));
            } else {
                // It came out of turn, or immediately: it may have been taken or not.
                task.doubtful = true;
            }
        });
        if let Some(again) = &mut self.again {
            ended.into_iter().for_each(|itt| again.ended(itt));
        }
    }

    fn nop_in(&mut self, n: &NopIn) -> Verdict {
        if n.itt == Itt::NONE {
            if n.ttt != Ttt::NONE {
                self.pings.push((self.line, n.stat_sn));
            }
            return self.rule(227, n.data.is_empty(), "an unsolicited NOP-In with data");
        }
        let most = self.lines.get(&self.line).map_or(0, |book| book.segment);
        let found = self.others.iter().position(|o| o.itt == n.itt && matches!(o.kind, Kind::Ping(_)));
        self.rule(224, found.is_some(), "no ping has this tag")?;
        let Some(Kind::Ping(data)) = found.map(|at| self.others.remove(at).kind) else { return Ok(()) };
        self.rule(224, n.ttt == Ttt::NONE, "an echo with a transfer tag")?;
        self.rule(224, n.data == data.slice(0, most), "not the data of the ping")
    }

    fn text_response(&mut self, t: &TextResponse) -> Verdict {
        let found = self.others.iter().position(|o| o.itt == t.itt && matches!(o.kind, Kind::Text(_)));
        self.rule(107, found.is_some(), "no text request has this tag")?;
        let Some(at) = found else { return Ok(()) };
        let Kind::Text(mut text) = self.others.remove(at).kind else { return Ok(()) };
        self.rule(60, t.final_ == (t.ttt == Ttt::NONE), "F and a transfer tag, or neither")?;
        self.rule(60, text.final_ || !t.final_, "F in answer to a request without it")?;
        self.rule(237, !(t.continue_ && t.final_), "C and F")?;
        text.response.extend_from_slice(&t.data.contiguous());
        if !t.continue_ && !text.continue_ {
            self.keys(&text)?;
            if let Some(book) = self.lines.get_mut(&self.line) {
                book.segment = book.next_segment.take().unwrap_or(book.segment);
            }
            text.request.clear();
            text.response.clear();
        }
        if !t.final_ {
            self.other(t.itt, Kind::Text(text));
        }
        Ok(())
    }

    /// The answer to SendTargets names this target only, each address with its group.
    fn keys(&mut self, text: &Text) -> Verdict {
        self.rule(48, text.response.last().is_none_or(|b| *b == 0), "a key without its end")?;
        let (asked, told) = (pairs(&text.request), pairs(&text.response));
        let name = self.negotiated.target_name.clone();
        let own = |value: &String| value.is_empty() || *value == name;
        let wanted = asked.iter().any(|(key, value)| key == "SendTargets" && own(value));
        for (key, value) in &told {
            self.rule(
                232,
                key != "TargetName" || wanted && *value == name,
                "a target that is none of this session",
            )?;
            let group = value.rsplit_once(',').is_some_and(|(_, tag)| tag.parse::<u16>().is_ok());
            self.rule(233, key != "TargetAddress" || group, "an address without its portal group")?;
            let foreign = !matches!(key.as_str(), "TargetName" | "TargetAddress");
            let known = asked.iter().any(|(k, _)| k == key);
            self.rule(233, !foreign || known, "a key that was not asked for")?;
            if let Some(book) = self.lines.get_mut(&self.line) {
                book.next_segment.take_if(|_| key == "MaxRecvDataSegmentLength");
            }
        }
        Ok(())
    }

    fn logout_response(&mut self, l: &LogoutResponse) -> Verdict {
        self.rule(141, l.response <= 3, "a reserved response code")?;
        let found = self.others.iter().position(|o| o.itt == l.itt && matches!(o.kind, Kind::Logout(..)));
        self.rule(107, found.is_some(), "no logout has this tag")?;
        let Some(Kind::Logout(reason, cid)) = found.map(|at| self.others.remove(at).kind) else {
            return Ok(());
        };
        let alive = self.lines.values().any(|book| book.cid == cid);
        let own = alive || self.lost.contains(&cid);
        let level = self.negotiated.session.error_recovery_level;
        let right = match (reason, l.response) {
            (0, 1 | 2) => false,
            (1, 2) => false,
            (1, code) => own != (code == 1),
            (2, code) => level >= 2 || matches!(code, 1 | 2),
            _ => true,
        };
        self.rule(213, right, "not the answer to this logout")?;
        let last = reason == 1 && alive && self.lines.len() == 1;
        self.over = l.response == 0 && (reason == 0 || last);
        self.lost.retain(|lost| l.response != 0 || *lost != cid);
        Ok(())
    }

    fn reject(&mut self, r: &Reject) -> Verdict {
        let reasons = reject::DATA_DIGEST..=reject::WAITING_FOR_LOGOUT;
        let defined = reasons.contains(&r.reason) && r.reason != reject::NEGOTIATION_RESET;
        self.rule(182, defined, "a reason that is not to be used")?;
        self.rule(181, r.data.len() >= 48, "a Reject without the header it is about")?;
        let Some((code, itt, cmd_sn)) = rejected(&r.data.contiguous()) else { return Ok(()) };
        if code == opcode::SNACK_REQUEST {
            return self.snack_refused(itt, r.reason);
        }
        cmd_sn.map_or(Ok(()), |cmd_sn| self.refuse(cmd_sn))?;
        if code == opcode::SCSI_COMMAND {
            if let Some(task) = self.tasks.get_mut(&itt.0).filter(|t| t.life == Life::Open) {
                match task.again {
                    0 => task.life = Life::Refused,
                    _ => task.again -= 1,
                }
            }
        } else if code != opcode::DATA_OUT
            && let Some(at) = self.others.iter().position(|o| o.itt == itt)
        {
            self.others.remove(at);
        }
        Ok(())
    }
}

impl Downstream {
    /// At level 0 all are; above it what Braid has no more, and what was never sent or is acknowledged.
    fn snack_refused(&mut self, itt: Itt, reason: u8) -> Verdict {
        // A function that ends the task may not be answered yet.
        let ending = self.others.iter().any(|o| matches!(o.kind, Kind::Function(_)));
        let life = self.tasks.get(&itt.0).map(|t| t.life);
        let gone = ending || !matches!(life, Some(Life::Open | Life::Answered));
        let Some(again) = &mut self.again else {
            return self.rule(
                170,
                reason == reject::NOT_SUPPORTED,
                "a SNACK at level 0 is refused otherwise",
            );
        };
        let right = match (again.refused(), reason) {
            (Some(Refusal::Forgotten), reject::SNACK) => true,
            (Some(Refusal::Due), reject::PROTOCOL_ERROR | reject::SNACK) => true,
            (Some(_), reject::PROTOCOL_ERROR) => gone,
            _ => false,
        };
        self.rule(172, right, "what was sent and is not acknowledged is refused")
    }
}

impl Function {
    fn is_single(&self) -> bool {
        !matches!(self.code, tmf::ABORT_TASK_SET..=tmf::TARGET_COLD_RESET) || self.code == tmf::CLEAR_ACA
    }
}

/// The keys of a text.
fn pairs(text: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(text);
    let pair = |p: &str| match p.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (p.to_owned(), String::new()),
    };
    text.split_terminator('\0').map(pair).collect()
}

/// Residual flags and count, relative to the expected length.
fn residual(judge: &mut Judge, task: &Task, status: u8, over: bool, under: bool, residual: u32) -> Verdict {
    judge.rule(134, !(over && under), "overflow and underflow")?;
    judge.rule(134, over || under || residual == 0, "a residual without its flag")?;
    let expected = if task.write { task.write_length } else { task.read_length };
    judge.rule(134, !under || residual <= expected, "a residual beyond the expected length")?;
    if status == GOOD && task.read_length > 0 && !task.both {
        let missing = if under { residual } else { 0 };
        judge.rule(134, task.delivered == expected - missing, "not the data that the residual says")?;
        judge.rule(127, task.burst == 0, "the last sequence has no F")?;
    }
    Ok(())
}
