//! The engine by script: a test feeds PDUs and asserts what comes out, one behaviour at a time.
//!
//! [`Rig`] stands on both sides of one engine. Whatever a script does, it also judges what must always hold: the
//! engine's own invariants, StatSN and the command window downstream, and that nothing is sent to a connection that is
//! closed.

mod access;
mod attention;
mod comeback;
mod commands;
mod end;
mod foreign;
mod hedge;
mod lines;
mod loss;
mod luns;
mod malformed;
mod mcs;
mod order;
mod persistent;
mod retune;
mod sessions;
mod suspect;
mod tmf;

use crate::checker::{Downstream, Upstream};
use braid::iscsi::text::KeyList;
use braid::iscsi::{
    Cdb, Cid, CmdSn, DataIn, DataOut, Isid, Itt, Lun, Payload, Pdu, R2t, Reject, ScsiCommand, ScsiResponse,
    StatSn, TaskAttribute, Tsih, Ttt,
};
use braid::login::{ConnectionParams, LoginKind, LoginPlan, Negotiated, SessionParams};
use braid::path::select::Policy;
use braid::scsi::Sense;
use braid::session::{
    Barriers, Cause, ConnId, Event, Exhausted, Fanout, FenceMethod, How, LineId, Marginal, Notice, Output,
    PathId, PathPlan, PathState, Session, SessionPlan, Trigger, Unwashed, Waits,
};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const GOOD: u8 = 0;
pub(crate) const CHECK: u8 = 2;
/// First CmdSN of the initiator, and what the first window lets it send.
const FIRST_CMD_SN: CmdSn = CmdSn(u32::MAX - 2);
const WINDOW: u32 = 16;

/// One upstream connection as its target sees it.
struct Line {
    session: u32,
    stat_sn: StatSn,
    sent: VecDeque<Pdu>,
}

/// An engine with a scripted initiator and scripted targets.
pub(crate) struct Rig {
    pub(crate) session: Session,
    pub(crate) now: Instant,
    pub(crate) notes: Vec<Notice>,
    pub(crate) closed: Vec<(u32, How)>,
    pub(crate) downstream_closed: bool,
    pub(crate) finished: u32,
    pub(crate) cmd_sn: CmdSn,
    pub(crate) max_cmd_sn: CmdSn,
    told: VecDeque<Pdu>,
    /// Over which of its connections.
    pub(crate) told_over: VecDeque<u32>,
    /// Connections of the initiator that were closed one by one.
    pub(crate) closed_lines: Vec<u32>,
    opens: VecDeque<(u32, usize, LoginPlan)>,
    lines: BTreeMap<u32, Line>,
    /// ExpCmdSN of each upstream session, named by its first connection.
    expected: BTreeMap<u32, CmdSn>,
    upstream: Negotiated,
    /// Commands an upstream session may have beyond ExpCmdSN.
    pub(crate) target_window: u32,
    /// Braid's own questions are answered as soon as they are asked.
    pub(crate) obliging: bool,
    stat_sn: StatSn,
    next_itt: u32,
    checkers: (Downstream, Upstream),
}

/// A plan with `paths` paths and plain parameters on both sides.
pub(crate) fn plan(fanout: Fanout, paths: usize) -> SessionPlan {
    let home_login = LoginPlan {
        kind: LoginKind::Leading,
        initiator_name: "iqn.2026-11.org.example:script".into(),
        target_name: "iqn.2026-11.org.example:target".into(),
        isid: Isid([0, 2, 0x3d, 0, 0, 1]),
        cid: Cid(0),
        cmd_sn: CmdSn(1),
        offer: SessionParams { max_connections: 8, ..SessionParams::default() },
        connection: ConnectionParams::default(),
    };
    let connections = if fanout == Fanout::Mcs { 8 } else { 1 };
    let home = Negotiated {
        session: SessionParams { max_connections: connections, ..SessionParams::default() },
        connection: ConnectionParams::default(),
        discovery: false,
        initiator_name: home_login.initiator_name.clone(),
        target_name: home_login.target_name.clone(),
        target_alias: None,
        tpgt: Some(1),
        isid: home_login.isid,
        tsih: Tsih(1000),
        cid: Cid(0),
        cmd_sn: CmdSn(1),
        max_cmd_sn: CmdSn(32),
        stat_sn: StatSn(1),
        quirks: Default::default(),
    };
    let downstream = Negotiated {
        session: SessionParams::default(),
        tsih: Tsih(1),
        cid: Cid(7),
        cmd_sn: FIRST_CMD_SN,
        max_cmd_sn: FIRST_CMD_SN.plus(WINDOW - 1),
        stat_sn: StatSn(u32::MAX - 1),
        ..home.clone()
    };
    let target = &home_login.target_name;
    let path = |n| PathPlan { name: format!("p{n}"), weight: 1, out: false, target: target.clone() };
    SessionPlan {
        downstream,
        paths: (0..paths).map(path).collect(),
        home_path: PathId(0),
        home,
        home_login,
        fanout,
        policy: Policy::RoundRobin,
        fence: FenceMethod::Reinstate,
        barriers: Barriers::Strict,
        fence_time: SECOND * 60,
        predecessor: None,
        unwashed: Unwashed::default(),
        queue_time: SECOND * 30,
        exhausted: Exhausted::Close,
        ping_interval: SECOND * 5,
        ping_timeout: SECOND * 5,
        silence_timeout: SECOND * 5,
        task_timeout: SECOND * 20,
        sequence_timeout: SECOND * 3,
        reconnect: (SECOND, SECOND * 8),
        marginal: Marginal { losses: 5, within: SECOND * 60, calm: SECOND * 10 },
        hedge: None,
        max_window: WINDOW,
        memory_budget: 64 << 20,
        seed: 1,
        send_targets: KeyList::new(),
    }
}

/// What stands at each byte of a transfer, so that a byte out of place shows.
pub(crate) fn pattern(offset: u32, length: u32) -> Vec<u8> {
    (offset..offset + length).map(|at| u8::try_from((at / 7 + at) % 251).unwrap()).collect()
}

pub(crate) fn cdb(bytes: &[u8]) -> Cdb {
    let mut padded = [0; 16];
    padded[..bytes.len()].copy_from_slice(bytes);
    Cdb(padded.into_iter().collect())
}

fn block_cdb(opcode: u8, lba: u32, blocks: u16) -> Cdb {
    let [a, b, c, d] = lba.to_be_bytes();
    let [e, f] = blocks.to_be_bytes();
    cdb(&[opcode, 0, a, b, c, d, 0, e, f])
}

impl Rig {
    pub(crate) fn new(plan: SessionPlan) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "an arbitrary origin; time then passes only by adding to it"
        )]
        let now = Instant::now();
        let (upstream, max_cmd_sn, stat_sn) =
            (plan.home.clone(), plan.downstream.max_cmd_sn, plan.downstream.stat_sn);
        let cmd_sn = plan.downstream.cmd_sn;
        let checkers = (Downstream::new(&plan.downstream), Upstream::new(&plan));
        let mut rig = Self {
            session: Session::new(plan, now),
            now,
            notes: Vec::new(),
            closed: Vec::new(),
            downstream_closed: false,
            finished: 0,
            cmd_sn,
            max_cmd_sn,
            told: VecDeque::new(),
            told_over: VecDeque::new(),
            closed_lines: Vec::new(),
            opens: VecDeque::new(),
            lines: BTreeMap::new(),
            expected: BTreeMap::new(),
            upstream,
            target_window: 32,
            obliging: true,
            stat_sn,
            next_itt: 0x100,
            checkers,
        };
        rig.line_up(0, 0);
        rig.drain();
        rig
    }

    pub(crate) fn sessions(paths: usize) -> Self {
        Self::new(plan(Fanout::Sessions, paths))
    }

    pub(crate) fn mcs(paths: usize) -> Self {
        Self::new(plan(Fanout::Mcs, paths))
    }

    fn line_up(&mut self, conn: u32, session: u32) {
        self.expected.entry(session).or_insert(CmdSn(1));
        self.lines.insert(conn, Line { session, stat_sn: StatSn(1), sent: VecDeque::new() });
    }

    // What happens.

    pub(crate) fn handle(&mut self, event: Event) {
        let (downstream, upstream) = &mut self.checkers;
        match &event {
            Event::Downstream(line, pdu) => downstream.received(*line, pdu),
            Event::DownstreamJoined(line, login) => downstream.joined(*line, login),
            Event::DownstreamClosed(line) => downstream.line_closed(*line),
            Event::Upstream(conn, pdu) => upstream.received(*conn, pdu),
            Event::Connected(conn, negotiated) => upstream.connected(*conn, negotiated),
            Event::Disconnected(conn, _) => upstream.closed(*conn),
            Event::Control(control) => upstream.states.ordered(*control),
            _ => {}
        }
        self.session.handle(event, self.now);
        self.drain();
        if self.obliging {
            self.identify();
        }
    }

    /// Time passes; the engine is woken at each of its deadlines on the way.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..10_000 {
            let Some(at) = self.session.next_deadline().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(at);
            self.session.handle_timeout(self.now);
            self.drain();
            if self.obliging {
                self.identify();
            }
        }
        panic!("the engine asks to be woken for ever");
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll() {
            assert_eq!(self.finished, 0, "nothing comes after Finished: {output:?}");
            match output {
                Output::ToInitiator(line, pdu) => self.judge(line, pdu),
                Output::ToTarget(conn, pdu) => {
                    self.checkers.1.sent(conn, &pdu).unwrap();
                    let line = self.lines.get_mut(&conn.0);
                    line.expect("sent to a connection that is not open").sent.push_back(pdu);
                }
                // A kernel that tells nothing, unless the script does.
                Output::Sample(_) => {}
                Output::Open(conn, path, plan) => {
                    self.checkers.1.opened(conn, path, &plan).unwrap();
                    self.opens.push_back((conn.0, path.0, *plan));
                }
                Output::Close(conn, how) => {
                    self.checkers.1.closed(conn);
                    assert!(!self.closed.iter().any(|(c, _)| *c == conn.0), "closed twice");
                    self.opens.retain(|(c, _, _)| *c != conn.0);
                    self.lines.remove(&conn.0);
                    self.closed.push((conn.0, how));
                }
                Output::CloseLine(line) => {
                    self.checkers.0.line_closed(line);
                    self.closed_lines.push(line.0);
                }
                Output::CloseDownstream => {
                    assert!(!self.downstream_closed, "closed twice");
                    self.downstream_closed = true;
                    self.checkers.1.states.ends();
                }
                Output::Finished(_) => {
                    assert!(self.downstream_closed && self.lines.is_empty(), "finished too early");
                    self.finished += 1;
                }
                Output::Note(notice) => {
                    self.checkers.1.states.noted(&notice);
                    self.notes.push(notice);
                }
            }
        }
        self.checkers.1.states.judge();
        if let Err(broken) = self.session.check() {
            panic!("invariant: {broken}");
        }
    }

    /// What holds for every PDU to the initiator (R96, R112).
    fn judge(&mut self, line: LineId, pdu: Pdu) {
        self.checkers.0.sent(line, &pdu).unwrap();
        assert!(!self.downstream_closed, "sent after the end: {pdu:?}");
        let (stat_sn, exp, max) = pdu.target_numbers().unwrap();
        let counts = match &pdu {
            Pdu::DataIn(data) => data.has_status,
            Pdu::R2t(_) => false,
            Pdu::NopIn(nop) => nop.itt != Itt::NONE,
            _ => true,
        };
        if counts && line == SessionPlan::FIRST_LINE {
            assert_eq!(stat_sn, self.stat_sn, "R112: {pdu:?}");
            self.stat_sn = stat_sn.next();
        }
        assert!(!exp.is_after(self.cmd_sn), "R95: acknowledges what was never sent");
        assert!(!max.is_before(exp.minus(1)) && !max.is_before(self.max_cmd_sn), "R96");
        self.max_cmd_sn = max;
        self.told_over.push_back(line.0);
        self.told.push_back(pdu);
    }

    // The initiator.

    pub(crate) fn send(&mut self, pdu: Pdu) {
        self.handle(Event::Downstream(SessionPlan::FIRST_LINE, pdu));
    }

    pub(crate) fn tag(&mut self) -> Itt {
        self.next_itt += 1;
        Itt(self.next_itt)
    }

    pub(crate) fn take_cmd_sn(&mut self) -> CmdSn {
        let cmd_sn = self.cmd_sn;
        self.cmd_sn = cmd_sn.next();
        cmd_sn
    }

    /// Sends a command under the next tag and CmdSN (unless it is immediate).
    pub(crate) fn command(&mut self, command: ScsiCommand) -> Itt {
        let itt = self.tag();
        let cmd_sn = if command.immediate { self.cmd_sn } else { self.take_cmd_sn() };
        self.send(Pdu::ScsiCommand(ScsiCommand { itt, cmd_sn, ..command }));
        itt
    }

    pub(crate) fn read(&mut self, lba: u32, blocks: u16) -> Itt {
        self.command(read(lba, blocks))
    }

    /// A write with all its data immediate.
    pub(crate) fn write(&mut self, lba: u32, blocks: u16) -> Itt {
        self.command(write(lba, blocks))
    }

    /// A command without data.
    pub(crate) fn plain(&mut self, bytes: &[u8]) -> Itt {
        self.command(plain(bytes))
    }

    pub(crate) fn data_out(&mut self, itt: Itt, ttt: Ttt, sn: u32, range: std::ops::Range<u32>, last: bool) {
        let data = Payload::from(pattern(range.start, range.end - range.start));
        let (data_sn, buffer_offset) = (sn, range.start);
        self.send(Pdu::DataOut(DataOut {
            final_: last,
            itt,
            ttt,
            data_sn,
            buffer_offset,
            data,
            ..DataOut::default()
        }));
    }

    /// The next PDU for the initiator.
    pub(crate) fn told(&mut self) -> Pdu {
        self.told_over.pop_front();
        self.told.pop_front().expect("the initiator is told nothing")
    }

    pub(crate) fn told_r2t(&mut self) -> R2t {
        match self.told() {
            Pdu::R2t(r2t) => r2t,
            other => panic!("not an R2T: {other:?}"),
        }
    }

    pub(crate) fn told_response(&mut self) -> ScsiResponse {
        match self.told() {
            Pdu::ScsiResponse(response) => response,
            other => panic!("not a response: {other:?}"),
        }
    }

    pub(crate) fn told_data(&mut self) -> DataIn {
        match self.told() {
            Pdu::DataIn(data) => data,
            other => panic!("not read data: {other:?}"),
        }
    }

    pub(crate) fn told_reject(&mut self) -> u8 {
        match self.told() {
            Pdu::Reject(reject) => reject.reason,
            other => panic!("not a reject: {other:?}"),
        }
    }

    /// The request sent last is refused, and its number free again (R105).
    pub(crate) fn told_refusal(&mut self) -> u8 {
        self.cmd_sn = self.cmd_sn.minus(1);
        self.told_reject()
    }

    /// The next PDU for the initiator is a response with this status for this task.
    pub(crate) fn told_status(&mut self, itt: Itt, status: u8) -> ScsiResponse {
        let response = self.told_response();
        assert_eq!((response.itt, response.response, response.status), (itt, 0, status));
        response
    }

    /// The initiator is told a check condition with these three numbers.
    pub(crate) fn told_sense(&mut self, itt: Itt, key: u8, asc: u8, ascq: u8) {
        let response = self.told_status(itt, CHECK);
        let sense = response.sense().and_then(|s| Sense::parse(&s));
        assert_eq!(sense, Some(Sense { key, asc, ascq }));
    }

    // The targets.

    /// The next PDU for a connection.
    pub(crate) fn sent(&mut self, conn: u32) -> Pdu {
        self.sent_at(conn, 0)
    }

    fn sent_at(&mut self, conn: u32, at: usize) -> Pdu {
        let line = self.lines.get_mut(&conn).expect("the connection is not open");
        let pdu = line.sent.remove(at).expect("nothing is sent");
        let session = line.session;
        if let Some(cmd_sn) = numbered(&pdu) {
            let expected = self.expected.get_mut(&session).unwrap();
            *expected = expected.max(cmd_sn.next());
        }
        pdu
    }

    /// Whether something is sent over a connection that the script has not looked at.
    pub(crate) fn has_sent(&self, conn: u32) -> bool {
        self.lines.get(&conn).is_some_and(|line| !line.sent.is_empty())
    }

    pub(crate) fn sent_command(&mut self, conn: u32) -> ScsiCommand {
        match self.sent(conn) {
            Pdu::ScsiCommand(command) => command,
            other => panic!("not a command: {other:?}"),
        }
    }

    pub(crate) fn sent_data(&mut self, conn: u32) -> DataOut {
        match self.sent(conn) {
            Pdu::DataOut(data) => data,
            other => panic!("not write data: {other:?}"),
        }
    }

    /// Nothing has been said to anybody that the script has not looked at.
    pub(crate) fn quiet(&self) {
        assert!(self.told.is_empty(), "the initiator is told {:?}", self.told);
        for (conn, line) in &self.lines {
            assert!(line.sent.is_empty(), "connection {conn} is sent {:?}", line.sent);
        }
    }

    fn numbers(&mut self, conn: u32, counts: bool) -> (StatSn, CmdSn, CmdSn) {
        let line = self.lines.get_mut(&conn).expect("the connection is not open");
        let stat_sn = line.stat_sn;
        if counts {
            line.stat_sn = stat_sn.next();
        }
        let exp = self.expected[&line.session];
        (stat_sn, exp, exp.plus(self.target_window).minus(1))
    }

    /// A target's PDU with numbers in place.
    pub(crate) fn reply(&mut self, conn: u32, counts: bool, make: impl FnOnce(StatSn, CmdSn, CmdSn) -> Pdu) {
        let (stat_sn, exp, max) = self.numbers(conn, counts);
        self.handle(Event::Upstream(ConnId(conn), make(stat_sn, exp, max)));
    }

    pub(crate) fn respond_with(&mut self, conn: u32, response: ScsiResponse) {
        self.reply(conn, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            Pdu::ScsiResponse(ScsiResponse { stat_sn, exp_cmd_sn, max_cmd_sn, ..response })
        });
    }

    pub(crate) fn respond(&mut self, conn: u32, command: &ScsiCommand, status: u8) {
        self.respond_with(conn, ScsiResponse { itt: command.itt, status, ..ScsiResponse::default() });
    }

    /// GOOD without data, which is told.
    pub(crate) fn nothing_to_read(&mut self, conn: u32, command: &ScsiCommand) {
        let (itt, residual) = (command.itt, command.expected_length);
        let response = ScsiResponse { itt, underflow: true, residual, ..ScsiResponse::default() };
        self.respond_with(conn, response);
    }

    pub(crate) fn sense(&mut self, conn: u32, command: &ScsiCommand, key: u8, asc: u8, ascq: u8) {
        let data = ScsiResponse::sense_data(&Sense { key, asc, ascq }.to_fixed());
        let status = CHECK;
        self.respond_with(conn, ScsiResponse { itt: command.itt, status, data, ..ScsiResponse::default() });
    }

    pub(crate) fn data_in(&mut self, conn: u32, data: DataIn) {
        self.reply(conn, data.has_status, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            Pdu::DataIn(DataIn { stat_sn, exp_cmd_sn, max_cmd_sn, ..data })
        });
    }

    /// Data-In with the pattern of its range.
    pub(crate) fn read_data(
        &mut self,
        conn: u32,
        itt: Itt,
        sn: u32,
        range: std::ops::Range<u32>,
        last: bool,
    ) {
        let data = Payload::from(pattern(range.start, range.end - range.start));
        let (data_sn, buffer_offset) = (sn, range.start);
        self.data_in(conn, DataIn { final_: last, itt, data_sn, buffer_offset, data, ..DataIn::default() });
    }

    /// All data of a read in PDUs of 4 KiB, and GOOD.
    pub(crate) fn serve_read(&mut self, conn: u32, command: &ScsiCommand) {
        let length = command.expected_length;
        for (sn, at) in (0..length).step_by(4096).enumerate() {
            let end = length.min(at + 4096);
            self.read_data(conn, command.itt, u32::try_from(sn).unwrap(), at..end, end == length);
        }
        self.respond(conn, command, GOOD);
    }

    pub(crate) fn ask(&mut self, conn: u32, itt: Itt, ttt: u32, sn: u32, range: std::ops::Range<u32>) {
        self.reply(conn, false, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            Pdu::R2t(R2t {
                itt,
                ttt: Ttt(ttt),
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                r2t_sn: sn,
                buffer_offset: range.start,
                desired_length: range.end - range.start,
                ..R2t::default()
            })
        });
    }

    /// An R2T that names a unit.
    pub(crate) fn ask_of(&mut self, conn: u32, itt: Itt, lun: Lun, range: std::ops::Range<u32>) {
        self.reply(conn, false, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            let numbers = R2t { stat_sn, exp_cmd_sn, max_cmd_sn, ..R2t::default() };
            let (buffer_offset, desired_length) = (range.start, range.end - range.start);
            Pdu::R2t(R2t { lun, itt, ttt: Ttt(7), buffer_offset, desired_length, ..numbers })
        });
    }

    /// The target refuses a PDU.
    pub(crate) fn refuse_pdu(&mut self, conn: u32, pdu: &Pdu) {
        let data = Payload::from(pdu.encode().0.to_vec());
        self.reply(conn, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            Pdu::Reject(Reject { reason: 5, stat_sn, exp_cmd_sn, max_cmd_sn, data, ..Reject::default() })
        });
    }

    // Paths.

    /// The login asked for next.
    pub(crate) fn opened(&mut self) -> (u32, usize, LoginPlan) {
        self.opens.pop_front().expect("no connection is opened")
    }

    pub(crate) fn nothing_opened(&self) {
        assert!(self.opens.is_empty(), "opened: {:?}", self.opens);
    }

    /// The login asked for next succeeds with what `change` makes of the usual outcome; returns connection and path.
    pub(crate) fn connect_as(&mut self, change: impl FnOnce(&mut Negotiated)) -> (u32, usize) {
        let (conn, path, plan) = self.opened();
        let session = match &plan.kind {
            LoginKind::Joining { tsih, .. } => u32::from(tsih.0) - 1000,
            LoginKind::Leading | LoginKind::Discovery => conn,
        };
        self.line_up(conn, session);
        let exp = self.expected[&session];
        let mut negotiated = Negotiated {
            isid: plan.isid,
            tsih: Tsih(u16::try_from(1000 + session).unwrap()),
            cid: plan.cid,
            cmd_sn: exp,
            max_cmd_sn: exp.plus(self.target_window).minus(1),
            ..self.upstream.clone()
        };
        change(&mut negotiated);
        self.handle(Event::Connected(ConnId(conn), Box::new(negotiated)));
        (conn, path)
    }

    pub(crate) fn connect(&mut self) -> (u32, usize) {
        self.connect_as(|_| {})
    }

    /// The login asked for next fails.
    pub(crate) fn refuse(&mut self, cause: Cause) -> usize {
        let (conn, path, _) = self.opened();
        self.handle(Event::Disconnected(ConnId(conn), cause));
        path
    }

    /// A connection is cut.
    pub(crate) fn cut(&mut self, conn: u32) {
        self.lines.remove(&conn);
        self.handle(Event::Disconnected(ConnId(conn), Cause::Tcp("cut".into())));
    }

    /// The next question of Braid's own, and the connection it came over.
    pub(crate) fn question(&mut self) -> Option<(u32, ScsiCommand)> {
        let found =
            |(conn, line): (&u32, &Line)| line.sent.iter().position(is_question).map(|at| (*conn, at));
        let (conn, at) = self.lines.iter().find_map(found)?;
        match self.sent_at(conn, at) {
            Pdu::ScsiCommand(command) => Some((conn, command)),
            _ => None,
        }
    }

    /// Answers Braid's own questions on all connections as one and the same disk would.
    pub(crate) fn identify(&mut self) {
        while let Some((conn, command)) = self.question() {
            let answer = disk(&command.cdb.0);
            self.answer(conn, &command, &answer);
        }
    }

    /// Data (if any) and GOOD.
    pub(crate) fn answer(&mut self, conn: u32, command: &ScsiCommand, data: &[u8]) {
        let data = &data[..data.len().min(command.expected_length as usize)];
        let itt = command.itt;
        if !data.is_empty() {
            let data = Payload::from(data.to_vec());
            self.data_in(conn, DataIn { final_: true, itt, data, ..DataIn::default() });
        }
        self.respond(conn, command, GOOD);
    }

    /// All paths come up, a read on home makes Braid learn the unit, and all further nexuses prove to show it.
    pub(crate) fn settle(&mut self) {
        while !self.opens.is_empty() {
            self.connect();
        }
        let itt = self.read(0, 1);
        let conn = *self.lines.iter().find(|(_, l)| !l.sent.is_empty()).unwrap().0;
        let command = self.sent_command(conn);
        self.serve_read(conn, &command);
        assert_eq!(self.told_data().itt, itt);
        self.told_status(itt, GOOD);
        self.notes.clear();
        self.quiet();
    }

    /// Whether a path was told to have changed so.
    pub(crate) fn turned(&self, path: usize, change: (PathState, Trigger, PathState)) -> bool {
        let told = |n: &Notice| matches!(n, Notice::PathState { path: p, from, to, trigger } if p.0 == path && (*from, *trigger, *to) == change);
        self.notes.iter().any(told)
    }

    /// Path of each notice that a connection was lost.
    pub(crate) fn paths_down(&self) -> Vec<usize> {
        let down = |n: &Notice| match n {
            Notice::PathDown { path, .. } => Some(path.0),
            _ => None,
        };
        self.notes.iter().filter_map(down).collect()
    }
}

/// TEST UNIT READY of the initiator: a vendor's bit in its CONTROL byte tells it from Braid's own.
pub(crate) const READY: [u8; 6] = [0, 0, 0, 0, 0, 0x40];
/// INQUIRY of the initiator, told from Braid's own by its length.
pub(crate) const INQUIRY: [u8; 6] = [0x12, 0, 0, 0, 255, 0];

/// Whether it is a question of Braid's own.
fn is_question(pdu: &Pdu) -> bool {
    match pdu {
        Pdu::ScsiCommand(c) if c.cdb.0[5] == 0 => {
            matches!(
                (c.cdb.0[0], c.expected_length),
                (0x00, 0)
                    | (0x12 | 0x5e, 96 | 1024)
                    | (0x25 | 0x9e | 0xa0 | 0xa3 | 0xa4 | 0x1a, _)
                    | (0x5e, 0xfffc)
            )
        }
        _ => false,
    }
}

/// What the disk says of itself.
pub(crate) fn disk(cdb: &[u8]) -> Vec<u8> {
    match (cdb[0], cdb[1], cdb[2]) {
        (0x12, 0, _) => {
            let mut data = vec![0; 36];
            data[4] = 31;
            data[8..16].copy_from_slice(b"IET     ");
            data[16..32].copy_from_slice(b"VIRTUAL-DISK    ");
            data
        }
        (0x12, _, 0x83) => vec![0, 0x83, 0, 12, 1, 3, 0, 8, 0x60, 1, 2, 3, 4, 5, 6, 7],
        (0x12, ..) => b"\x00\x80\x00\x04abcd".to_vec(),
        (0x9e, ..) => {
            let mut data = vec![0; 32];
            data[6..8].copy_from_slice(&[0x10, 0]);
            data[10] = 2;
            data
        }
        (0x25, ..) => vec![0, 0, 0x10, 0, 0, 0, 2, 0],
        (0x5e, ..) => vec![0; 8],
        _ => Vec::new(),
    }
}

pub(crate) fn read(lba: u32, blocks: u16) -> ScsiCommand {
    ScsiCommand {
        final_: true,
        attribute: TaskAttribute::Simple,
        read: true,
        expected_length: u32::from(blocks) * 512,
        cdb: block_cdb(0x28, lba, blocks),
        ..ScsiCommand::default()
    }
}

pub(crate) fn write(lba: u32, blocks: u16) -> ScsiCommand {
    let expected_length = u32::from(blocks) * 512;
    ScsiCommand {
        final_: true,
        attribute: TaskAttribute::Simple,
        write: true,
        expected_length,
        cdb: block_cdb(0x2a, lba, blocks),
        data: Payload::from(pattern(0, expected_length)),
        ..ScsiCommand::default()
    }
}

pub(crate) fn plain(bytes: &[u8]) -> ScsiCommand {
    ScsiCommand { final_: true, attribute: TaskAttribute::Simple, cdb: cdb(bytes), ..ScsiCommand::default() }
}

/// CmdSN of a PDU that takes one.
fn numbered(pdu: &Pdu) -> Option<CmdSn> {
    let (immediate, cmd_sn) = match pdu {
        Pdu::ScsiCommand(p) => (p.immediate, p.cmd_sn),
        Pdu::TaskManagementRequest(p) => (p.immediate, p.cmd_sn),
        Pdu::NopOut(p) => (p.immediate, p.cmd_sn),
        Pdu::LogoutRequest(p) => (p.immediate, p.cmd_sn),
        _ => return None,
    };
    (!immediate).then_some(cmd_sn)
}

/// Logical unit 1.
pub(crate) const OTHER_UNIT: Lun = Lun::from_number(1);
