//! Braid as initiator.

use super::states::States;
use super::{Broken, Fault, Judge, Judged, Request, Verdict, rejected, request, takes_stat_sn};
use braid::iscsi::{
    Cid, CmdSn, DataOut, Isid, Itt, LogoutRequest, LogoutResponse, Lun, NopOut, Payload, Pdu, R2t,
    ScsiCommand, ScsiResponse, SnackRequest, StatSn, TaskManagementRequest, Tsih, Ttt, tmf,
};
use braid::login::{LoginKind, LoginPlan, Negotiated, SessionParams};
use braid::scsi::Sense;
use braid::session::{ConnId, PathId, SessionPlan};
use rustc_hash::{FxHashMap, FxHasher};
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

/// An R2T not answered yet.
struct Asked {
    ttt: Ttt,
    lun: Lun,
    next: u32,
    end: u32,
    data_sn: u32,
}

/// Unsolicited Data-Out that was announced.
struct Burst {
    next: u32,
    end: u32,
    data_sn: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Command,
    /// Code, and the task concerned.
    Function(u8, Itt),
    /// Reason, and the connection meant.
    Logout(u8, Cid),
    Other,
}

/// Whether a task still has a claim to its tag.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Alive,
    /// A function ended it, and its answer came over the task's own connection.
    Concluded,
    /// A function ended it; what was said on its own connection meanwhile is not known.
    Doubtful,
}

struct Task {
    kind: Kind,
    life: Life,
    conn: ConnId,
    cid: Cid,
    lun: Lun,
    immediate: bool,
    cmd_sn: CmdSn,
    content: u64,
    /// It reads or writes the medium as the initiator's commands do, and none of Braid's own.
    medium: bool,
    /// Bytes to write.
    length: u32,
    burst: Option<Burst>,
    asked: Vec<Asked>,
    /// Data-In PDUs that have come.
    data_ins: u32,
    /// Somebody's reset may have ended it without an answer: the target has said so since.
    cleared: bool,
}

/// A numbered request that is not acknowledged.
struct Unacknowledged {
    cmd_sn: CmdSn,
    itt: Itt,
    conn: ConnId,
    content: u64,
}

struct Session {
    isid: Isid,
    target: String,
    tpgt: Option<u16>,
    tsih: Tsih,
    params: SessionParams,
    /// The next number, and the window in force.
    cmd_sn: CmdSn,
    exp_cmd_sn: CmdSn,
    max_cmd_sn: CmdSn,
    /// The first number was used.
    begun: bool,
    /// The highest MaxCmdSN that had to be ignored.
    ignored: Option<CmdSn>,
    unacknowledged: VecDeque<Unacknowledged>,
    /// Numbers that the target dropped with a connection that was logged out (R106).
    holes: Vec<CmdSn>,
    tasks: FxHashMap<u32, Task>,
    /// Connections that failed and were not logged out.
    failed: Vec<Cid>,
    /// It was asked to close, or said that it is gone.
    over: Option<Fault>,
    /// Lowest and highest tag of commands, and of control PDUs (R229).
    tags: [Option<(u32, u32)>; 2],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Opening,
    Up,
    /// Its session was reinstated by another login.
    Replaced,
}

struct Conn {
    id: ConnId,
    state: State,
    /// Index of its session, once known.
    session: usize,
    cid: Cid,
    /// While opening: its login.
    plan: Option<Box<LoginPlan>>,
    /// It joined a session of another portal group.
    foreign: bool,
    next_stat_sn: StatSn,
    /// Numbers left out so far, each with the first ping sent since.
    skipped: Vec<(StatSn, Option<Itt>)>,
    /// A response is missing.
    gap: bool,
    last_cmd_sn: Option<CmdSn>,
    max_send: usize,
    /// Commands that announced unsolicited data, in order (R120).
    bursts: VecDeque<Itt>,
    /// NOP-Ins to be answered.
    owed: Vec<(Ttt, Lun)>,
    /// Why nothing new may be sent.
    closing: Option<Fault>,
    /// The target asked for a logout.
    unwanted: bool,
}

/// The checker of the side of the targets.
pub(crate) struct Upstream {
    judge: Judge,
    initiator_name: String,
    /// Of the target that each path leads to.
    target_names: Vec<String>,
    sessions: Vec<Session>,
    conns: Vec<Conn>,
    /// Units with a command that had NACA set, and the connection that carried their last command that uses the medium.
    bound: Vec<(Lun, Option<ConnId>)>,
    /// What was found when nothing could be returned.
    late: Option<Broken>,
    /// How paths are said to stand.
    pub(crate) states: States,
}

const NO_SESSION: usize = usize::MAX;

impl Upstream {
    /// The connection of the leading login is up.
    pub(crate) fn new(plan: &SessionPlan) -> Self {
        let mut checker = Self {
            judge: Judge::new(),
            initiator_name: plan.home_login.initiator_name.clone(),
            target_names: plan.paths.iter().map(|p| p.target.clone()).collect(),
            sessions: Vec::new(),
            conns: Vec::new(),
            bound: Vec::new(),
            late: None,
            states: States::new(plan),
        };
        checker.states.opened(SessionPlan::HOME_CONN, plan.home_path);
        checker.conns.push(Conn::opening(SessionPlan::HOME_CONN, NO_SESSION, &plan.home_login));
        checker.connected(SessionPlan::HOME_CONN, &plan.home);
        checker
    }

    /// How often each requirement was judged.
    pub(crate) fn judged(&self) -> &Judged {
        &self.judge.0
    }

    /// The engine opens a connection.
    pub(crate) fn opened(&mut self, conn: ConnId, path: PathId, plan: &LoginPlan) -> Result<(), Broken> {
        self.late()?;
        self.states.opened(conn, path);
        self.judge_login(conn, path, plan).map_err(|f| f.with(&(conn, path, plan)))
    }

    fn judge_login(&mut self, id: ConnId, path: PathId, plan: &LoginPlan) -> Verdict {
        let judge = &mut self.judge;
        let target = self.target_names.get(path.0) == Some(&plan.target_name);
        let named = plan.initiator_name == self.initiator_name && target;
        judge.rule(21, named, "a login does not name initiator and target")?;
        judge.rule(8, plan.isid.0[0] >> 6 != 3, "an ISID of a reserved type")?;
        let LoginKind::Joining { session: params, tsih } = &plan.kind else {
            self.conns.push(Conn::opening(id, NO_SESSION, plan));
            return Ok(());
        };
        // Sessions in other portal groups have handles of their own, which may be the same.
        let same = |n: &usize| {
            let session = &self.sessions[*n];
            session.isid == plan.isid && session.tsih == *tsih && session.target == plan.target_name
        };
        let lives = |n: usize| self.conns.iter().any(|c| c.session == n && c.state == State::Up);
        let found = (0..self.sessions.len()).filter(same).max_by_key(|n| lives(*n));
        judge.rule(31, found.is_some(), "a login joins a session that is not there")?;
        let index = found.unwrap_or(NO_SESSION);
        let session = &self.sessions[index];
        let others = || self.conns.iter().filter(|c| c.session == index && c.state != State::Replaced);
        judge.rule(42, others().any(|c| c.state == State::Up), "a login joins a session that is not up")?;
        judge.rule(32, others().all(|c| c.cid != plan.cid), "a CID is used twice in a session")?;
        judge.rule(35, plan.cmd_sn == session.cmd_sn, "a joining login without the session's CmdSN")?;
        judge.rule(41, *params == session.params, "a joining login changes the session's parameters")?;
        let room = others().count() < usize::from(session.params.max_connections);
        judge.rule(66, room, "more connections than agreed")?;
        session.over.map_or(Ok(()), Err)?;
        self.conns.push(Conn::opening(id, index, plan));
        Ok(())
    }

    /// A login succeeded.
    pub(crate) fn connected(&mut self, conn: ConnId, negotiated: &Negotiated) {
        let Some(at) = self.conns.iter().position(|c| c.id == conn && c.state == State::Opening) else {
            return;
        };
        let Some(plan) = self.conns[at].plan.take() else { return };
        self.states.connected(conn);
        let mut index = self.conns[at].session;
        if matches!(plan.kind, LoginKind::Joining { .. }) {
            let session = &mut self.sessions[index];
            self.conns[at].foreign = different(session.tpgt, negotiated.tpgt);
            session.failed.retain(|c| *c != plan.cid);
            session.take_window(session.exp_cmd_sn, negotiated.max_cmd_sn);
        } else {
            index = self.lead(&plan, negotiated);
        }
        let conn = &mut self.conns[at];
        conn.state = State::Up;
        conn.session = index;
        conn.next_stat_sn = negotiated.stat_sn;
        conn.max_send = negotiated.connection.max_send_data_segment as usize;
    }

    /// A leading login: a new session, or the old one of its ISID anew (R3, R195).
    fn lead(&mut self, plan: &LoginPlan, negotiated: &Negotiated) -> usize {
        let fresh = Session::new(plan, negotiated);
        let group = |s: &Session| s.target == plan.target_name && !different(s.tpgt, negotiated.tpgt);
        let same = |s: &Session| s.isid == plan.isid && group(s);
        let Some(index) = self.sessions.iter().position(same) else {
            self.sessions.push(fresh);
            return self.sessions.len() - 1;
        };
        let mut living = false;
        for conn in self.conns.iter_mut().filter(|c| c.session == index) {
            living |= conn.state == State::Up;
            conn.state = State::Replaced;
        }
        let verdict = self.judge.rule(195, !living, "a session is reinstated that has living connections");
        self.keep(verdict, &plan.isid);
        self.sessions[index] = fresh;
        index
    }

    fn keep(&mut self, verdict: Verdict, context: &dyn std::fmt::Debug) {
        if let Err(fault) = verdict {
            self.late.get_or_insert_with(|| fault.with(context));
        }
    }

    fn late(&mut self) -> Result<(), Broken> {
        self.late.take().map_or(Ok(()), Err)
    }

    /// The connection is gone: closed by the engine, or lost.
    pub(crate) fn closed(&mut self, conn: ConnId) {
        self.states.closed(conn);
        let Some(at) = self.conns.iter().position(|c| c.id == conn) else { return };
        let conn = self.conns.remove(at);
        // One that should never have joined is no part of the session.
        if conn.state == State::Up && conn.closing.is_none() && !conn.foreign {
            self.sessions[conn.session].failed.push(conn.cid);
        }
    }

    /// The session has ended.
    pub(crate) fn end(&self) -> Result<(), Broken> {
        self.late.as_ref().map_or(Ok(()), |late| Err(late.clone()))
    }

    /// A PDU from a target.
    pub(crate) fn received(&mut self, conn: ConnId, pdu: &Pdu) {
        let Some(conn) = self.conns.iter_mut().find(|c| c.id == conn && c.state == State::Up) else { return };
        // Braid answers at once, but for calls that cross its logout; the RFC only asks for an answer.
        let leaves = conn.closing.or(self.sessions[conn.session].over).is_some();
        let answered = self.judge.rule(225, conn.owed.is_empty() || leaves, UNANSWERED.1);
        let id = conn.id;
        let Some((stat_sn, exp_cmd_sn, max_cmd_sn)) = pdu.target_numbers() else { return };
        if takes_stat_sn(pdu) && !conn.take_stat_sn(stat_sn, pdu) {
            return;
        }
        let session = &mut self.sessions[conn.session];
        session.take_window(exp_cmd_sn, max_cmd_sn);
        session.take(conn, pdu);
        let lost = match pdu {
            Pdu::AsyncMessage(message) if message.event == 2 => {
                Some((conn.session, Cid(message.parameters[0])))
            }
            _ => None,
        };
        for dropped in self.conns.iter_mut().filter(|c| lost == Some((c.session, c.cid))) {
            dropped.closing = Some(Fault(219, "sent over a connection that the target dropped"));
        }
        self.keep(answered, &id);
    }

    /// A PDU to a target.
    pub(crate) fn sent(&mut self, conn: ConnId, pdu: &Pdu) -> Result<(), Broken> {
        self.late()?;
        self.judge_pdu(conn, pdu).map_err(|f| f.with(&(conn, pdu)))
    }

    fn judge_pdu(&mut self, id: ConnId, pdu: &Pdu) -> Verdict {
        let judge = &mut self.judge;
        let at = self.conns.iter().position(|c| c.id == id && c.state != State::Opening);
        judge.rule(15, at.is_some(), "sent over a connection that is not in full feature phase")?;
        let Some((before, [conn, after @ ..])) = at.map(|at| self.conns.split_at_mut(at)) else {
            return Ok(());
        };
        judge.rule(142, pdu.target_numbers().is_none(), "a target's PDU was sent to the target")?;
        judge.rule(3, conn.state == State::Up, "sent over a connection of a session that was reinstated")?;
        judge.rule(5, !conn.foreign, "sent over a connection that joined another portal group")?;
        judge.rule(115, !conn.gap, "sent over a connection that lost a response")?;
        if let Pdu::NopOut(ping) = pdu
            && ping.itt != Itt::NONE
        {
            for (_, first) in &mut conn.skipped {
                first.get_or_insert(ping.itt);
            }
        }
        judge.rule(127, pdu.data().len() <= conn.max_send, "a segment longer than the target takes")?;
        let session = &mut self.sessions[conn.session];
        let bound = &mut self.bound;
        Sight { judge, session, conn, others: [before, after], bound }.pdu(pdu)
    }
}

const UNANSWERED: Fault = Fault(225, "a NOP-In with a transfer tag was not answered");

/// Whether two portal group tags are known and not the same.
fn different(a: Option<u16>, b: Option<u16>) -> bool {
    a.zip(b).is_some_and(|(a, b)| a != b)
}

/// What must stay the same when a request is sent again (R187).
fn content(pdu: &Pdu) -> u64 {
    let mut hasher = FxHasher::default();
    match pdu {
        Pdu::ScsiCommand(c) => {
            (c.lun, c.expected_length, c.read, c.write, c.final_, c.data.len()).hash(&mut hasher);
            c.cdb.0.hash(&mut hasher);
        }
        Pdu::TaskManagementRequest(t) => {
            (t.function, t.lun, t.referenced_itt, t.ref_cmd_sn).hash(&mut hasher);
        }
        _ => pdu.opcode().hash(&mut hasher),
    }
    hasher.finish()
}

/// One PDU, and what it is judged by.
struct Sight<'a> {
    judge: &'a mut Judge,
    session: &'a mut Session,
    conn: &'a mut Conn,
    others: [&'a [Conn]; 2],
    bound: &'a mut Vec<(Lun, Option<ConnId>)>,
}

impl Sight<'_> {
    fn rule(&mut self, requirement: u16, holds: bool, what: &'static str) -> Verdict {
        self.judge.rule(requirement, holds, what)
    }

    fn others(&self) -> impl Iterator<Item = &Conn> {
        self.others.iter().flat_map(|c| c.iter()).filter(|c| c.session == self.conn.session)
    }

    fn lives(&self, id: ConnId) -> bool {
        id == self.conn.id || self.others().any(|c| c.id == id && c.state == State::Up)
    }

    fn pdu(&mut self, pdu: &Pdu) -> Verdict {
        if let Some(head) = request(pdu) {
            let content = content(pdu);
            self.acknowledges(head.exp_stat_sn)?;
            self.standing(pdu)?;
            if self.number(&head, content)? {
                self.again(pdu);
                return Ok(());
            }
            if head.itt != Itt::NONE || !matches!(pdu, Pdu::NopOut(_)) {
                self.tag(pdu, &head, content)?;
            }
            self.request(pdu)?;
            self.file(pdu, &head, content);
            return Ok(());
        }
        match pdu {
            Pdu::DataOut(data) => self.data(data),
            Pdu::SnackRequest(snack) => self.snack(snack),
            _ => self.rule(15, false, "a second login on a connection"),
        }
    }

    /// The RFC lets acknowledgements lag (R116 is a "should" there); Braid's never do.
    fn acknowledges(&mut self, exp_stat_sn: StatSn) -> Verdict {
        self.rule(116, exp_stat_sn == self.conn.exp_stat_sn(), "ExpStatSN is not what was received")
    }

    /// Whether something new may go out over this connection at all.
    fn standing(&mut self, pdu: &Pdu) -> Verdict {
        if !matches!(pdu, Pdu::NopOut(nop) if nop.itt == Itt::NONE) {
            let why = self.conn.closing.or(self.session.over);
            for requirement in [211, 219] {
                let broken = why.filter(|f| f.0 == requirement);
                self.rule(requirement, broken.is_none(), broken.map_or("", |f| f.1))?;
            }
        }
        if matches!(pdu, Pdu::ScsiCommand(_)) {
            self.rule(218, !self.conn.unwanted, "a command over a connection that the target wants closed")?;
            // The RFC names no time; Braid has no reason to go on first.
            let settled = self.session.failed.is_empty();
            self.rule(216, settled, "a session goes on without logging out a failed connection")?;
        }
        Ok(())
    }

    /// CmdSN; returns whether it is a request sent once more.
    fn number(&mut self, head: &Request, content: u64) -> Result<bool, Fault> {
        let last = self.conn.last_cmd_sn;
        if head.immediate {
            let current = head.cmd_sn == self.session.cmd_sn;
            self.rule(92, current, "an immediate request without the current CmdSN")?;
            return Ok(false);
        }
        let before = self.session.unacknowledged.iter().find(|u| u.cmd_sn == head.cmd_sn);
        if let Some((itt, conn, old)) = before.map(|u| (u.itt, u.conn, u.content)) {
            self.rule(92, itt == head.itt, "a CmdSN is used for two requests")?;
            let same = old == content && (conn == self.conn.id || !self.lives(conn));
            self.rule(187, same, "a request sent again is not what it was")?;
            self.session.holes.retain(|h| *h != head.cmd_sn);
            return Ok(true);
        }
        let rises = last.is_none_or(|last| head.cmd_sn.is_after(last));
        self.rule(93, rises, "CmdSN does not rise on its connection")?;
        let first = self.session.begun || head.cmd_sn == self.session.cmd_sn;
        self.rule(34, first, "the first request does not carry the CmdSN of the login")?;
        // The RFC asks for order within a connection only; Braid numbers at the moment of sending.
        self.rule(92, head.cmd_sn == self.session.cmd_sn, "not the next CmdSN")?;
        let inside = !head.cmd_sn.is_after(self.session.max_cmd_sn);
        let fooled = !inside && self.session.ignored.is_some_and(|ignored| !head.cmd_sn.is_after(ignored));
        self.rule(97, !fooled, "a window that had to be ignored was used")?;
        self.rule(99, inside, "a request beyond the window")?;
        self.rule(106, self.session.holes.is_empty(), "CmdSN goes on while a logout left a hole")?;
        self.conn.last_cmd_sn = Some(head.cmd_sn);
        self.session.cmd_sn = head.cmd_sn.next();
        self.session.begun = true;
        let (cmd_sn, itt, conn) = (head.cmd_sn, head.itt, self.conn.id);
        self.session.unacknowledged.push_back(Unacknowledged { cmd_sn, itt, conn, content });
        Ok(false)
    }

    /// A request is sent again, perhaps over another connection.
    fn again(&mut self, pdu: &Pdu) {
        let (id, cid) = (self.conn.id, self.conn.cid);
        let again = |u: &&mut Unacknowledged| u.itt == pdu.itt();
        self.session.unacknowledged.iter_mut().filter(again).for_each(|u| u.conn = id);
        let Some(task) = self.session.tasks.get_mut(&pdu.itt().0) else { return };
        (task.conn, task.cid) = (id, cid);
        if let Pdu::ScsiCommand(c) = pdu
            && !c.final_
        {
            let end = self.session.params.first_burst_length.min(task.length);
            task.burst = Some(Burst { next: length(&c.data), end, data_sn: 0 });
            self.conn.bursts.push_back(c.itt);
        }
    }

    fn tag(&mut self, pdu: &Pdu, head: &Request, content: u64) -> Verdict {
        self.rule(107, head.itt != Itt::NONE, "a task without a tag")?;
        let before = self.session.tasks.get(&head.itt.0).filter(|t| t.life == Life::Alive).map(|t| t.content);
        let renumbered = before == Some(content) && matches!(pdu, Pdu::ScsiCommand(_));
        self.rule(100, !renumbered, "a request is sent again under another CmdSN")?;
        self.rule(107, before.is_none(), "a tag is used twice")?;
        let own = usize::from(!matches!(pdu, Pdu::ScsiCommand(_)));
        let tags = &mut self.session.tags;
        let (low, high) = tags[own].unwrap_or((head.itt.0, head.itt.0));
        let (low, high) = (low.min(head.itt.0), high.max(head.itt.0));
        tags[own] = Some((low, high));
        let apart = tags[1 - own].is_none_or(|other| other.1 < low || high < other.0);
        self.rule(229, apart, "tags of commands and of control PDUs are mixed")
    }

    fn request(&mut self, pdu: &Pdu) -> Verdict {
        match pdu {
            Pdu::ScsiCommand(command) => self.command(command),
            Pdu::TaskManagementRequest(request) => self.function(request),
            Pdu::NopOut(nop) => self.nop(nop),
            Pdu::LogoutRequest(logout) => self.logout(logout),
            _ => Ok(()),
        }
    }

    fn command(&mut self, c: &ScsiCommand) -> Verdict {
        self.rule(131, c.final_ || c.write, "neither W nor F")?;
        self.rule(131, c.expected_length == 0 || c.read || c.write, "a length without a direction")?;
        let both = c.read && c.write;
        self.rule(133, both || c.bidi_read_length.is_none(), "a read length of a command of one direction")?;
        self.rule(133, c.cdb.0.len() <= 260, "a CDB too long for its AHS")?;
        let (initial_r2t, immediate_data) =
            (self.session.params.initial_r2t, self.session.params.immediate_data);
        let (length, end) = (length(&c.data), c.expected_length.min(self.session.params.first_burst_length));
        self.rule(122, length == 0 || immediate_data, "immediate data that was not agreed")?;
        self.rule(131, length == 0 || c.write, "immediate data of a command that does not write")?;
        self.rule(121, length <= end, "immediate data beyond the first burst or the command")?;
        self.rule(122, c.final_ || !initial_r2t, "unsolicited data that was not agreed is announced")?;
        self.rule(131, c.final_ || length < end, "unsolicited data is announced and none is left")?;
        self.single_file(c)
    }

    /// Where a command with NACA went, all others of the unit follow (R162).
    fn single_file(&mut self, c: &ScsiCommand) -> Verdict {
        let cdb = |at: usize| c.cdb.0.get(at).copied().unwrap_or_default();
        let control = if cdb(0) < 0x20 { 5 } else { 9 };
        if !uses_medium(c) {
            return Ok(());
        }
        if cdb(control) & 4 != 0 && !self.bound.iter().any(|(lun, _)| *lun == c.lun) {
            self.bound.push((c.lun, None));
        }
        let Some((_, last)) = self.bound.iter_mut().find(|(lun, _)| *lun == c.lun) else { return Ok(()) };
        let last = last.replace(self.conn.id).filter(|last| *last != self.conn.id);
        let serves =
            |o: &&Conn| Some(o.id) == last && o.state == State::Up && o.closing.is_none() && !o.unwanted;
        // One that the operator drains is left once it carries nothing of the unit.
        let alive = |t: &Task| t.medium && t.life == Life::Alive && !t.cleared;
        let carries = |t: &Task| Some(t.conn) == last && t.lun == c.lun && alive(t);
        let serves = |o: &&Conn| serves(o) && self.session.tasks.values().any(carries);
        let left = !self.others.iter().copied().flatten().any(|o| serves(&o));
        self.rule(162, left, "commands of a unit with NACA were spread over connections")
    }

    fn data(&mut self, d: &DataOut) -> Verdict {
        self.acknowledges(d.exp_stat_sn)?;
        let tasks = &self.session.tasks;
        let waits = |itt: &Itt| tasks.get(&itt.0).is_some_and(|t| t.life == Life::Alive && t.burst.is_some());
        while self.conn.bursts.front().is_some_and(|front| !waits(front)) {
            self.conn.bursts.pop_front();
        }
        let task = self.session.tasks.get_mut(&d.itt.0).filter(|t| t.kind.is_command());
        let life = task.as_ref().map(|t| t.life);
        if life == Some(Life::Doubtful) {
            return Ok(());
        }
        self.judge.rule(154, life != Some(Life::Concluded), "data for a task that a function has ended")?;
        self.judge.rule(108, task.is_some(), "data for a task that is not there")?;
        let Some(task) = task else { return Ok(()) };
        self.judge.rule(118, task.conn == self.conn.id, "data left the connection of its command")?;
        if d.ttt == Ttt::NONE {
            return unsolicited(self.judge, self.conn, task, d);
        }
        solicited(self.judge, task, d)
    }

    fn function(&mut self, t: &TaskManagementRequest) -> Verdict {
        self.rule(
            141,
            matches!(t.function, tmf::ABORT_TASK..=tmf::TASK_REASSIGN),
            "a reserved function code",
        )?;
        let single = matches!(t.function, tmf::ABORT_TASK | tmf::TASK_REASSIGN);
        self.rule(
            151,
            single == (t.referenced_itt != Itt::NONE),
            "a referenced tag where none belongs, or none",
        )?;
        let Some(task) = self.session.tasks.get(&t.referenced_itt.0).filter(|_| single) else {
            return Ok(());
        };
        let (lun, conn, cid, alive) = (task.lun, task.conn, task.cid, task.life == Life::Alive);
        let (command, data_ins) = (task.kind.is_command(), task.data_ins);
        let number = if task.immediate { t.cmd_sn } else { task.cmd_sn };
        if !alive {
            return Ok(());
        }
        self.rule(151, t.lun == lun, "not the LUN of the referenced task")?;
        let (lives, failed) = (self.lives(conn), self.session.failed.contains(&cid));
        if t.function == tmf::ABORT_TASK {
            self.rule(148, t.ref_cmd_sn == number, "RefCmdSN is not the CmdSN of the referenced task")?;
            let place = conn == self.conn.id || !lives && !failed;
            return self.rule(147, place, "an abort away from the task's connection");
        }
        let able = self.session.params.error_recovery_level >= 2;
        let ready = t.immediate && able && command && !lives;
        self.rule(166, ready, "a task is reassigned that cannot be")?;
        self.rule(189, !failed, "a task is reassigned whose connection has not been logged out")?;
        // The RFC would have less acknowledged too; Braid has no use for data that it has.
        self.rule(191, t.exp_data_sn == data_ins, "a reassignment does not say which data have come")
    }

    fn nop(&mut self, n: &NopOut) -> Verdict {
        self.rule(226, n.immediate || n.itt != Itt::NONE, "a NOP-Out without a tag is not immediate")?;
        if n.ttt == Ttt::NONE {
            return Ok(());
        }
        let owed = self.conn.owed.iter().position(|owed| *owed == (n.ttt, n.lun));
        self.rule(225, owed.is_some(), "no NOP-In with this tag and LUN is to be answered")?;
        owed.map(|at| self.conn.owed.remove(at));
        Ok(())
    }

    fn logout(&mut self, l: &LogoutRequest) -> Verdict {
        self.rule(210, l.reason <= 2, "a reserved logout reason")?;
        let own = l.cid == self.conn.cid;
        let healthy = self.others().any(|c| c.cid == l.cid && c.state == State::Up);
        self.rule(210, l.reason == 0 || own || !healthy, "a logout of a healthy connection over another")?;
        let stays = self.others().any(|c| c.state == State::Up && c.closing.is_none());
        self.rule(210, l.reason == 0 || !own || stays, "the last connection leaves its session open")
    }

    fn snack(&mut self, s: &SnackRequest) -> Verdict {
        self.acknowledges(s.exp_stat_sn)?;
        self.rule(170, self.session.params.error_recovery_level > 0, "a SNACK at error recovery level 0")
    }

    /// Remembers a new task.
    fn file(&mut self, pdu: &Pdu, head: &Request, content: u64) {
        let fault = Fault(211, "a new request after a logout");
        let (mut lun, mut length, mut burst) = (Lun(0), 0, None);
        let kind = match pdu {
            Pdu::ScsiCommand(c) => {
                let (next, first) = (self::length(&c.data), self.session.params.first_burst_length);
                lun = c.lun;
                length = if c.write { c.expected_length } else { 0 };
                burst = (!c.final_).then_some(Burst { next, end: first.min(length), data_sn: 0 });
                if burst.is_some() {
                    self.conn.bursts.push_back(c.itt);
                }
                Kind::Command
            }
            Pdu::TaskManagementRequest(t) => {
                lun = t.lun;
                Kind::Function(t.function, t.referenced_itt)
            }
            Pdu::LogoutRequest(l) => {
                match l.reason {
                    0 => self.session.over = Some(fault),
                    _ if l.cid == self.conn.cid => self.conn.closing = Some(fault),
                    _ => {}
                }
                Kind::Logout(l.reason, l.cid)
            }
            _ => Kind::Other,
        };
        if head.itt == Itt::NONE {
            return;
        }
        let task = Task {
            kind,
            life: Life::Alive,
            conn: self.conn.id,
            cid: self.conn.cid,
            lun,
            immediate: head.immediate,
            cmd_sn: head.cmd_sn,
            content,
            length,
            burst,
            asked: Vec::new(),
            data_ins: 0,
            cleared: false,
            medium: matches!(pdu, Pdu::ScsiCommand(c) if uses_medium(c)),
        };
        self.session.tasks.insert(head.itt.0, task);
    }
}

/// READ and WRITE, which Braid never sends of its own accord.
fn uses_medium(command: &ScsiCommand) -> bool {
    matches!(command.cdb.0.first(), Some(0x0a | 0x28 | 0x2a))
}

fn length(data: &Payload) -> u32 {
    u32::try_from(data.len()).unwrap_or(u32::MAX)
}

/// Data of a first burst: announced, in the order of commands, without a gap, and whole.
fn unsolicited(judge: &mut Judge, conn: &Conn, task: &mut Task, d: &DataOut) -> Verdict {
    judge.rule(122, task.burst.is_some(), "unsolicited data that was not announced")?;
    let Some(burst) = &mut task.burst else { return Ok(()) };
    judge.rule(120, conn.bursts.front() == Some(&d.itt), "unsolicited data out of the order of commands")?;
    judge.rule(126, d.data_sn == burst.data_sn, "not the next DataSN of the first burst")?;
    judge.rule(121, d.buffer_offset == burst.next, "unsolicited data with a gap")?;
    burst.next += length(&d.data);
    burst.data_sn += 1;
    judge.rule(121, burst.next <= burst.end, "unsolicited data beyond the first burst")?;
    judge.rule(121, d.final_ == (burst.next == burst.end), "the first burst does not end where it must")?;
    if d.final_ {
        task.burst = None;
    }
    Ok(())
}

/// Data that was asked for: by the oldest R2T, with its tag and LUN, in order, and as much as it wants.
fn solicited(judge: &mut Judge, task: &mut Task, d: &DataOut) -> Verdict {
    let at = task.asked.iter().position(|a| a.ttt == d.ttt);
    judge.rule(124, at.is_some(), "no R2T with this tag is to be answered")?;
    judge.rule(123, at == Some(0), "R2Ts are not answered in order")?;
    let Some(asked) = task.asked.first_mut() else { return Ok(()) };
    // Some targets leave the R2T's LUN empty: then it is the command's.
    let lun = d.lun == asked.lun || asked.lun == Lun(0) && d.lun == task.lun;
    judge.rule(124, lun, "not the LUN of the R2T")?;
    judge.rule(126, d.data_sn == asked.data_sn, "not the next DataSN of the sequence")?;
    judge.rule(124, d.buffer_offset == asked.next, "solicited data with a gap")?;
    asked.next += length(&d.data);
    asked.data_sn += 1;
    judge.rule(124, asked.next <= asked.end, "more data than the R2T asked for")?;
    judge.rule(124, d.final_ == (asked.next == asked.end), "F does not stand where the sequence ends")?;
    if d.final_ {
        task.asked.remove(0);
    }
    Ok(())
}

impl Kind {
    fn is_command(self) -> bool {
        self == Self::Command
    }
}

impl Conn {
    fn opening(id: ConnId, session: usize, plan: &LoginPlan) -> Self {
        Self {
            id,
            state: State::Opening,
            session,
            cid: plan.cid,
            plan: Some(Box::new(plan.clone())),
            foreign: false,
            next_stat_sn: StatSn(0),
            skipped: Vec::new(),
            gap: false,
            last_cmd_sn: None,
            max_send: 0,
            bursts: VecDeque::new(),
            owed: Vec::new(),
            closing: None,
            unwanted: false,
        }
    }

    /// Books a StatSN; returns whether the response is new. A number that is skipped must come before the echo of a ping
    /// that is sent later.
    fn take_stat_sn(&mut self, stat_sn: StatSn, pdu: &Pdu) -> bool {
        while self.next_stat_sn.is_before(stat_sn) {
            self.skipped.push((self.next_stat_sn, None));
            self.next_stat_sn = self.next_stat_sn.next();
        }
        let late = self.skipped.iter().position(|(number, _)| *number == stat_sn);
        let is_new = late.map(|at| self.skipped.remove(at)).is_some() || stat_sn == self.next_stat_sn;
        self.next_stat_sn = self.next_stat_sn.max(stat_sn.next());
        let Pdu::NopIn(echo) = pdu else { return is_new };
        self.gap |= self.skipped.iter().any(|(_, ping)| *ping == Some(echo.itt));
        is_new
    }

    /// What to acknowledge.
    fn exp_stat_sn(&self) -> StatSn {
        self.skipped.first().map_or(self.next_stat_sn, |(number, _)| *number)
    }
}

impl Session {
    fn new(plan: &LoginPlan, negotiated: &Negotiated) -> Self {
        Self {
            isid: plan.isid,
            target: plan.target_name.clone(),
            tpgt: negotiated.tpgt,
            tsih: negotiated.tsih,
            params: negotiated.session.clone(),
            // The first command carries the login's number again (R34).
            cmd_sn: plan.cmd_sn,
            exp_cmd_sn: plan.cmd_sn,
            max_cmd_sn: negotiated.max_cmd_sn,
            begun: false,
            ignored: None,
            unacknowledged: VecDeque::new(),
            holes: Vec::new(),
            tasks: FxHashMap::default(),
            failed: Vec::new(),
            over: None,
            tags: [None; 2],
        }
    }

    /// The window in force (R97).
    fn take_window(&mut self, exp_cmd_sn: CmdSn, max_cmd_sn: CmdSn) {
        if max_cmd_sn.is_before(exp_cmd_sn.minus(1)) {
            self.ignored = Some(self.ignored.map_or(max_cmd_sn, |ignored| ignored.max(max_cmd_sn)));
            return;
        }
        if !exp_cmd_sn.is_after(self.cmd_sn) {
            self.exp_cmd_sn = self.exp_cmd_sn.max(exp_cmd_sn);
        }
        self.max_cmd_sn = self.max_cmd_sn.max(max_cmd_sn);
        while self.unacknowledged.front().is_some_and(|u| u.cmd_sn.is_before(self.exp_cmd_sn)) {
            self.unacknowledged.pop_front();
        }
    }

    /// What a target says.
    fn take(&mut self, conn: &mut Conn, pdu: &Pdu) {
        match pdu {
            Pdu::R2t(r2t) => self.asked(conn, r2t),
            Pdu::DataIn(data) if !data.has_status => {
                let task = self.tasks.get_mut(&data.itt.0).filter(|t| t.conn == conn.id);
                task.into_iter().for_each(|t| t.data_ins += 1);
            }
            Pdu::ScsiResponse(response) => {
                self.reports(response);
                self.ended(conn, response.itt);
            }
            Pdu::DataIn(data) => self.ended(conn, data.itt),
            Pdu::NopIn(nop) => {
                if nop.ttt != Ttt::NONE {
                    conn.owed.push((nop.ttt, nop.lun));
                }
                if nop.itt != Itt::NONE {
                    self.ended(conn, nop.itt);
                }
            }
            Pdu::TaskManagementResponse(response) => {
                if response.response == tmf::COMPLETE {
                    self.concluded(conn.id, response.itt);
                }
                self.ended(conn, response.itt);
            }
            Pdu::LogoutResponse(response) => self.logged_out(conn, response),
            Pdu::TextResponse(response) if response.final_ => self.ended(conn, response.itt),
            Pdu::AsyncMessage(message) => match message.event {
                1 => conn.unwanted = true,
                3 => self.over = Some(Fault(219, "sent within a session that the target dropped")),
                _ => {}
            },
            Pdu::Reject(reject) => {
                if let Some((_, itt, _)) = rejected(&reject.data.contiguous()) {
                    self.ended(conn, itt);
                }
            }
            _ => {}
        }
    }

    fn asked(&mut self, conn: &Conn, r2t: &R2t) {
        let Some(task) = self.tasks.get_mut(&r2t.itt.0).filter(|t| t.conn == conn.id) else { return };
        if task.life == Life::Concluded {
            // The target has it still: the function met another unit, which has come under this LUN.
            task.life = Life::Doubtful;
        }
        let end = r2t.buffer_offset.saturating_add(r2t.desired_length);
        if r2t.ttt != Ttt::NONE && r2t.desired_length > 0 && end <= task.length {
            let (ttt, lun, next) = (r2t.ttt, r2t.lun, r2t.buffer_offset);
            task.asked.push(Asked { ttt, lun, next, end, data_sn: 0 });
        }
    }

    /// A unit attention that tells of a reset, or of a task set that was cleared: what was sent before may be gone.
    fn reports(&mut self, response: &ScsiResponse) {
        let sense = response.sense().and_then(|sense| Sense::parse(&sense));
        let clears = sense.is_some_and(|s| s.is_unit_attention() && matches!(s.asc, 0x29 | 0x2f));
        let Some(Task { lun, cmd_sn, .. }) = self.tasks.get(&response.itt.0).filter(|_| clears) else {
            return;
        };
        let (lun, cmd_sn) = (*lun, *cmd_sn);
        let before = |t: &&mut Task| t.lun == lun && t.cmd_sn.is_before(cmd_sn);
        self.tasks.values_mut().filter(before).for_each(|t| t.cleared = true);
    }

    /// A task got its last answer.
    fn ended(&mut self, conn: &Conn, itt: Itt) {
        if self.tasks.get(&itt.0).is_some_and(|t| t.conn == conn.id) {
            self.tasks.remove(&itt.0);
        }
    }

    /// A function is done: what it covers is over.
    fn concluded(&mut self, conn: ConnId, itt: Itt) {
        let Some(function) = self.tasks.get(&itt.0) else { return };
        let Kind::Function(code, referenced) = function.kind else { return };
        let (lun, before, cid) = (function.lun, function.cmd_sn, function.cid);
        if let Some(task) = self.tasks.get_mut(&referenced.0).filter(|_| code == tmf::TASK_REASSIGN) {
            (task.conn, task.cid) = (conn, cid);
            // Transfers that were under way are lost with their connection (R205).
            (task.burst, task.asked) = (None, Vec::new());
        }
        let covers = |tag: u32, task: &Task| match code {
            tmf::ABORT_TASK => tag == referenced.0,
            tmf::ABORT_TASK_SET | tmf::CLEAR_TASK_SET | tmf::LOGICAL_UNIT_RESET => task.lun == lun,
            tmf::TARGET_WARM_RESET | tmf::TARGET_COLD_RESET => true,
            _ => false,
        };
        let commands =
            self.tasks.iter_mut().filter(|(_, t)| t.kind.is_command() && t.cmd_sn.is_before(before));
        commands.filter(|(tag, task)| covers(**tag, task)).for_each(|(_, task)| {
            task.life = if task.conn == conn { Life::Concluded } else { Life::Doubtful };
        });
    }

    /// A connection is out of the session; what it had sent and was not taken leaves holes (R106).
    fn logged_out(&mut self, conn: &mut Conn, response: &LogoutResponse) {
        let logout = self.tasks.get(&response.itt.0).map(|t| t.kind);
        if let Some(Kind::Logout(reason @ (1 | 2), cid)) = logout
            && response.response == 0
        {
            self.failed.retain(|c| *c != cid);
            let own = |itt: Itt| self.tasks.get(&itt.0).is_some_and(|t| t.cid == cid);
            let lost = self.unacknowledged.iter().filter(|u| u.itt != response.itt && own(u.itt));
            self.holes.extend(lost.map(|u| u.cmd_sn));
            // For recovery commands stay, to be reassigned or sent again; so does what left a hole.
            let open = |tag: u32| self.unacknowledged.iter().any(|u| u.itt.0 == tag);
            self.tasks.retain(|tag, t| t.cid != cid || reason == 2 && (t.kind.is_command() || open(*tag)));
        }
        self.ended(conn, response.itt);
    }
}
