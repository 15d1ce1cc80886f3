//! The loop that moves PDUs, runs commands, cuts connections, aborts, and passes time, one random step after the other.

use crate::target::{BLOCK, Target, UNITS, stamp};
use braid::iscsi::text::KeyList;
use braid::iscsi::{
    Cdb, Cid, CmdSn, DataOut, Isid, Itt, Lun, Payload, Pdu, ScsiCommand, StatSn, TaskAttribute,
    TaskManagementRequest, TaskManagementResponse, Tsih, Ttt, tmf,
};
use braid::login::{ConnectionParams, LoginKind, LoginPlan, Negotiated, SessionParams};
use braid::path::select::Policy;
use braid::scsi::Sense;
use braid::session::{
    Cause, ConnId, Event, Fanout, FenceMethod, Output, PathId, PathPlan, Session, SessionPlan,
};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

const BLOCKS: usize = 24;
const COMMANDS: u32 = 60;
const DEPTH: usize = 8;
const SEGMENT: u32 = 1024;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) fanout: Fanout,
    pub(crate) paths: usize,
    pub(crate) cuts: u32,
    /// Task management functions.
    pub(crate) functions: u32,
    /// Unit attentions of others' making, and errors before all data has come.
    pub(crate) errors: u32,
    /// The initiator goes away at a random moment.
    pub(crate) leaves: bool,
    pub(crate) fence: FenceMethod,
}

/// What a block may hold, by the stamps of writes: one value, or several after an abort.
type Block = Vec<u64>;

/// A command of the initiator that is not answered.
struct Pending {
    unit: usize,
    lba: usize,
    cmd_sn: CmdSn,
    write: Option<Vec<u8>>,
    /// What the blocks that it reads may hold, or of a write what they could hold before.
    blocks: Vec<Block>,
    got: Vec<u8>,
    data_sn: u32,
}

impl Pending {
    fn range(&self) -> std::ops::Range<usize> {
        self.lba..self.lba + self.blocks.len()
    }

    fn block_mut(&mut self, lba: usize) -> Option<&mut Block> {
        self.blocks.get_mut(lba.checked_sub(self.lba)?)
    }
}

fn lun(unit: usize) -> Lun {
    Lun::from_number(u16::try_from(unit).unwrap())
}

pub(crate) struct World {
    setup: Setup,
    random: u64,
    now: Instant,
    session: Session,
    target: Target,
    /// PDUs on their way to the target and back, per connection; of cut connections too, until the target notices.
    to_target: BTreeMap<u32, VecDeque<Pdu>>,
    to_engine: BTreeMap<u32, VecDeque<Pdu>>,
    opening: VecDeque<(ConnId, LoginPlan)>,
    /// Connections as the engine sees them, and those cut of which it does not know yet.
    open: Vec<u32>,
    cut: Vec<u32>,
    cuts_left: u32,
    pending: BTreeMap<u32, Pending>,
    /// What the medium may hold after all commands issued so far.
    model: [Vec<Block>; UNITS],
    /// Functions not answered, by their tags: code and the commands concerned.
    functions: BTreeMap<u32, (u8, Vec<u32>)>,
    functions_left: u32,
    errors_left: u32,
    /// Attentions that the initiator may still be told.
    attentions: usize,
    /// Connections that are dead and of which the engine does not know yet.
    silent: Vec<u32>,
    /// Units of which a command was answered.
    seen: [bool; UNITS],
    next_itt: u32,
    cmd_sn: CmdSn,
    max_cmd_sn: CmdSn,
    stat_sn: StatSn,
    downstream: VecDeque<Pdu>,
    finished: bool,
}

fn leading(isid: Isid) -> LoginPlan {
    LoginPlan {
        kind: LoginKind::Leading,
        initiator_name: "iqn.2026-11.org.example:model".into(),
        target_name: "iqn.2026-11.org.example:target".into(),
        isid,
        cid: Cid(0),
        cmd_sn: CmdSn(u32::MAX - 5),
        offer: SessionParams { max_connections: 8, ..SessionParams::default() },
        connection: ConnectionParams::default(),
    }
}

impl World {
    #[expect(
        clippy::disallowed_methods,
        reason = "an arbitrary origin; time then passes only by adding to it"
    )]
    pub(crate) fn new(setup: Setup, seed: u64) -> Self {
        let now = Instant::now();
        let mut target = Target::new(BLOCKS);
        let home_login = leading(Isid([0, 2, 0x3d, 0, 0, 1]));
        let home = target.login(0, &home_login, Self::max_connections(setup));
        target.attention_seen();
        let downstream = Negotiated {
            session: SessionParams {
                first_burst_length: 1536,
                max_burst_length: 4096,
                initial_r2t: false,
                ..SessionParams::default()
            },
            connection: ConnectionParams { max_send_data_segment: SEGMENT, ..ConnectionParams::default() },
            cmd_sn: CmdSn(u32::MAX - 10),
            max_cmd_sn: CmdSn(u32::MAX - 10).plus(7),
            stat_sn: StatSn(u32::MAX - 3),
            tsih: Tsih(1),
            ..home.clone()
        };
        let plan = SessionPlan {
            downstream,
            paths: (0..setup.paths).map(|n| PathPlan { name: format!("p{n}"), weight: 1 }).collect(),
            home_path: PathId(0),
            home,
            home_login,
            fanout: setup.fanout,
            policy: [Policy::RoundRobin, Policy::ServiceTime, Policy::QueueDepth, Policy::Failover]
                [usize::try_from(seed % 4).unwrap()],
            fence: setup.fence,
            fence_time: Duration::from_secs(1_000_000),
            predecessor: None,
            queue_time: Duration::from_secs(1_000_000),
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(3600),
            task_timeout: Duration::from_secs(3600),
            reconnect: (Duration::from_millis(100), Duration::from_secs(2)),
            max_window: 8,
            memory_budget: [16 * 1024, 2048][usize::try_from(seed / 4 % 2).unwrap()],
            seed,
            send_targets: KeyList::new(),
        };
        Self {
            setup,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now,
            session: Session::new(plan, now),
            target,
            to_target: BTreeMap::new(),
            to_engine: BTreeMap::new(),
            opening: VecDeque::new(),
            open: vec![0],
            cut: Vec::new(),
            cuts_left: setup.cuts,
            pending: BTreeMap::new(),
            model: [vec![vec![0]; BLOCKS], vec![vec![0]; BLOCKS]],
            functions: BTreeMap::new(),
            functions_left: setup.functions,
            errors_left: setup.errors,
            attentions: 0,
            silent: Vec::new(),
            seen: [false; UNITS],
            next_itt: 0,
            cmd_sn: CmdSn(u32::MAX - 10),
            max_cmd_sn: CmdSn(u32::MAX - 10).plus(7),
            stat_sn: StatSn(u32::MAX - 3),
            downstream: VecDeque::new(),
            finished: false,
        }
    }

    fn max_connections(setup: Setup) -> u16 {
        if setup.fanout == Fanout::Mcs { 8 } else { 1 }
    }

    fn draw(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random >> 33).unwrap() % below.max(1)
    }

    pub(crate) fn run(mut self) {
        self.drain();
        let mut steps = 0;
        let leave_at = if self.setup.leaves { self.draw(1500) } else { usize::MAX };
        while self.next_itt < COMMANDS || !self.pending.is_empty() || !self.functions.is_empty() {
            if steps == leave_at {
                break;
            }
            self.step();
            steps += 1;
            assert!(steps < 200_000, "no progress: {} commands open", self.pending.len());
        }
        // What was acknowledged stays, whatever ghosts still do.
        self.handle(Event::DownstreamClosed);
        while !self.finished {
            self.step();
            steps += 1;
            assert!(steps < 400_000, "the session does not end");
        }
        let medium = self.target.medium.clone();
        while self.target.pending() > 0 {
            let choice = self.draw(1 << 16);
            self.target.execute(choice);
        }
        assert_eq!(self.target.medium, medium, "a ghost outlived the session");
        for open in self.pending.keys().copied().collect::<Vec<_>>() {
            self.unknown(open);
        }
        for (unit, blocks) in medium.iter().enumerate() {
            for (lba, (block, allowed)) in blocks.iter().zip(&self.model[unit]).enumerate() {
                assert!(allowed.contains(block), "unit {unit} block {lba}: {block}, not one of {allowed:?}");
            }
        }
    }

    fn step(&mut self) {
        match self.draw(14) {
            0 | 1 => self.issue(),
            2 => self.deliver_downstream(),
            3 | 4 => self.deliver_to_target(),
            5 | 6 => self.deliver_to_engine(),
            7 | 8 => {
                if self.target.pending() > 0 {
                    let choice = self.draw(1 << 16);
                    self.target.execute(choice);
                    self.collect_replies();
                }
            }
            9 => self.finish_login(),
            10 => self.maybe_cut(),
            11 => self.maybe_manage(),
            12 => self.maybe_fail(),
            _ => self.pass_time(),
        }
    }

    /// The outcome of a command is not known: where it wrote, what was there before may still be there.
    fn unknown(&mut self, itt: u32) {
        let Some(pending) = self.pending.remove(&itt) else { return };
        let Some(write) = &pending.write else { return };
        let value = u64::from_be_bytes(*write.first_chunk().unwrap());
        for (lba, before) in pending.range().zip(&pending.blocks) {
            let later = self.pending.values_mut().filter(|p| p.unit == pending.unit);
            let later = later.filter_map(|p| p.block_mut(lba));
            for block in later.chain([&mut self.model[pending.unit][lba]]).filter(|b| b.contains(&value)) {
                let missing: Vec<u64> = before.iter().copied().filter(|v| !block.contains(v)).collect();
                block.extend(missing);
            }
        }
    }

    /// Aborts one command, all of a unit, or resets it; immediately or in turn.
    fn maybe_manage(&mut self) {
        let open = !self.pending.is_empty() && self.seen == [true; UNITS];
        if self.functions_left == 0 || !open || self.draw(12) != 0 {
            return;
        }
        let immediate = self.draw(2) == 0;
        if !immediate && self.cmd_sn.is_after(self.max_cmd_sn) {
            return;
        }
        self.functions_left -= 1;
        let tags: Vec<u32> = self.pending.keys().copied().collect();
        let referenced = tags[self.draw(tags.len())];
        let (unit, ref_cmd_sn) = (self.pending[&referenced].unit, self.pending[&referenced].cmd_sn);
        let function =
            [tmf::ABORT_TASK, tmf::ABORT_TASK, tmf::ABORT_TASK_SET, tmf::LOGICAL_UNIT_RESET][self.draw(4)];
        let concerned = match function {
            tmf::ABORT_TASK => vec![referenced],
            _ => tags.into_iter().filter(|t| self.pending[t].unit == unit).collect(),
        };
        let itt = 0x1000 + self.functions_left;
        self.functions.insert(itt, (function, concerned));
        let cmd_sn = self.cmd_sn;
        if !immediate {
            self.cmd_sn = cmd_sn.next();
        }
        self.downstream.push_back(Pdu::TaskManagementRequest(TaskManagementRequest {
            immediate,
            function,
            lun: lun(unit),
            itt: Itt(itt),
            referenced_itt: if function == tmf::ABORT_TASK { Itt(referenced) } else { Itt::NONE },
            cmd_sn,
            ref_cmd_sn,
            ..TaskManagementRequest::default()
        }));
    }

    fn maybe_fail(&mut self) {
        if self.errors_left == 0 || self.seen != [true; UNITS] || self.draw(15) != 0 {
            return;
        }
        self.errors_left -= 1;
        let choice = self.draw(1 << 16);
        if self.draw(2) == 0 {
            self.target.mode_changed(choice % UNITS);
            self.attentions += 1;
        } else {
            self.target.fail(choice);
            self.collect_replies();
        }
    }

    /// A command ended with sense data: it did not run, which is as good as not knowing.
    fn failed(&mut self, itt: Itt, sense: Option<Sense>, stat_sn: StatSn) {
        assert_eq!(stat_sn, self.stat_sn, "R112");
        self.stat_sn = stat_sn.next();
        match sense.map(|s| (s.key, s.asc, s.ascq)) {
            Some((6, 0x2a, 1)) => {
                self.attentions =
                    self.attentions.checked_sub(1).expect("told more often than it happened (P3)");
            }
            Some((3, 0x0c, 0)) => {}
            other => panic!("no error because a path failed (P3): {other:?}"),
        }
        let owed = |p: &Pdu| matches!(p, Pdu::DataOut(data) if data.itt == itt);
        assert!(!self.downstream.iter().any(owed), "R138");
        self.unknown(itt.0);
    }

    fn managed(&mut self, answer: &TaskManagementResponse) {
        assert_eq!(answer.stat_sn, self.stat_sn, "R112");
        self.stat_sn = answer.stat_sn.next();
        let (function, concerned) = self.functions.remove(&answer.itt.0).expect("answered twice");
        match answer.response {
            tmf::COMPLETE => {
                for itt in concerned {
                    self.unknown(itt);
                }
            }
            tmf::TASK_DOES_NOT_EXIST => {
                assert_eq!(function, tmf::ABORT_TASK);
                let ended = !self.pending.contains_key(&concerned[0]);
                // Or another function has ended it and is not answered yet.
                let doomed = self.functions.values().any(|(_, others)| others.contains(&concerned[0]));
                assert!(ended || doomed, "a task that exists (R149)");
            }
            // A reset that lost home too often: some commands may have been ended by it, which a further reset tells.
            other => {
                assert_eq!((function, other), (tmf::LOGICAL_UNIT_RESET, tmf::REJECTED));
                let unit = concerned.iter().find_map(|t| self.pending.get(t)).map(|p| p.unit);
                let Some(unit) = unit else { return };
                let itt = Itt(0x2000 + answer.itt.0);
                self.functions.insert(itt.0, (function, concerned));
                self.downstream.push_back(Pdu::TaskManagementRequest(TaskManagementRequest {
                    immediate: true,
                    function,
                    lun: lun(unit),
                    itt,
                    cmd_sn: self.cmd_sn,
                    ..TaskManagementRequest::default()
                }));
            }
        }
    }

    fn handle(&mut self, event: Event) {
        self.session.handle(event, self.now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll() {
            match output {
                Output::ToInitiator(pdu) => self.receive(pdu),
                Output::ToTarget(conn, pdu) => {
                    assert!(self.open.contains(&conn.0), "a PDU for a connection that is not open");
                    if !self.silent.contains(&conn.0) {
                        self.to_target.entry(conn.0).or_default().push_back(pdu);
                    }
                }
                Output::Open(conn, _, plan) => self.opening.push_back((conn, *plan)),
                Output::Close(conn, _) => {
                    self.opening.retain(|(id, _)| *id != conn);
                    self.open.retain(|id| *id != conn.0);
                    self.cut.push(conn.0);
                    self.to_engine.remove(&conn.0);
                }
                Output::Finished => self.finished = true,
                Output::CloseDownstream | Output::Note(_) => {}
            }
        }
        if let Err(broken) = self.session.check() {
            panic!("invariant: {broken}");
        }
    }

    fn issue(&mut self) {
        if self.next_itt >= COMMANDS || self.pending.len() >= DEPTH || self.cmd_sn.is_after(self.max_cmd_sn) {
            return;
        }
        let itt = self.next_itt;
        self.next_itt += 1;
        let blocks = 1 + self.draw(10);
        let lba = self.draw(BLOCKS - blocks + 1);
        let kind = self.draw(10);
        let mut cdb = vec![0u8; 16];
        cdb[5] = u8::try_from(lba).unwrap();
        cdb[8] = u8::try_from(blocks).unwrap();
        let unit = self.draw(4) / 3;
        let cells = &mut self.model[unit][lba..lba + blocks];
        let mut pending = Pending {
            unit,
            lba,
            cmd_sn: self.cmd_sn,
            write: None,
            blocks: cells.to_vec(),
            got: Vec::new(),
            data_sn: 0,
        };
        cdb[0] = match kind {
            0 => 0x35,
            1..=4 => 0x28,
            _ => {
                let value = u64::from(itt) + 1;
                cells.fill(vec![value]);
                pending.write = Some(stamp(value).repeat(blocks));
                0x2a
            }
        };
        let length = if kind == 0 { 0 } else { u32::try_from(blocks * BLOCK).unwrap() };
        let write = pending.write.clone();
        if kind == 0 {
            pending.blocks.clear();
        }
        self.send_command(itt, unit, cdb, length, write.as_deref());
        self.pending.insert(itt, pending);
    }

    /// Immediate data, then unsolicited data up to the first burst, in some of the ways an initiator may.
    fn send_command(&mut self, itt: u32, unit: usize, cdb: Vec<u8>, length: u32, write: Option<&[u8]>) {
        let immediate = if write.is_some() { self.draw(3) * 512 } else { 0 };
        let immediate = immediate.min(length as usize);
        let burst = (length as usize).min(1536);
        let unsolicited = write.is_some() && immediate < burst && self.draw(2) == 0;
        let attribute = if self.draw(15) == 0 { TaskAttribute::Ordered } else { TaskAttribute::Simple };
        let command = ScsiCommand {
            final_: !unsolicited,
            read: length > 0 && write.is_none(),
            write: write.is_some(),
            attribute,
            lun: lun(unit),
            itt: Itt(itt),
            expected_length: length,
            cmd_sn: self.cmd_sn,
            cdb: Cdb(cdb.into_iter().collect()),
            data: Payload::from(write.map_or(Vec::new(), |w| w[..immediate].to_vec())),
            ..ScsiCommand::default()
        };
        self.cmd_sn = self.cmd_sn.next();
        self.downstream.push_back(Pdu::ScsiCommand(command));
        if let Some(data) = write.filter(|_| unsolicited) {
            self.send_data(itt, Ttt::NONE, data, immediate, burst);
        }
    }

    fn send_data(&mut self, itt: u32, ttt: Ttt, data: &[u8], from: usize, to: usize) {
        for (data_sn, at) in (from..to).step_by(SEGMENT as usize).enumerate() {
            let end = to.min(at + SEGMENT as usize);
            self.downstream.push_back(Pdu::DataOut(DataOut {
                final_: end == to,
                itt: Itt(itt),
                ttt,
                data_sn: u32::try_from(data_sn).unwrap(),
                buffer_offset: u32::try_from(at).unwrap(),
                data: Payload::from(data[at..end].to_vec()),
                ..DataOut::default()
            }));
        }
    }

    fn deliver_downstream(&mut self) {
        if let Some(pdu) = self.downstream.pop_front() {
            self.handle(Event::Downstream(pdu));
        }
    }

    /// What the engine sends to the initiator: judged here.
    fn receive(&mut self, pdu: Pdu) {
        let (stat_sn, exp, max) = pdu.target_numbers().unwrap();
        assert!(!exp.is_after(self.cmd_sn), "ExpCmdSN acknowledges what was never sent");
        assert!(!max.is_before(exp.minus(1)), "R96");
        self.max_cmd_sn = self.max_cmd_sn.max(max);
        match pdu {
            Pdu::R2t(r2t) => {
                let data = self.pending[&r2t.itt.0].write.clone().unwrap();
                let from = r2t.buffer_offset as usize;
                assert!(r2t.desired_length <= 4096, "R125");
                self.send_data(r2t.itt.0, r2t.ttt, &data, from, from + r2t.desired_length as usize);
            }
            Pdu::DataIn(data) => {
                let pending = self.pending.get_mut(&data.itt.0).unwrap();
                assert_eq!(data.data_sn, pending.data_sn, "R126");
                assert_eq!(data.buffer_offset as usize, pending.got.len(), "data in order");
                assert!(data.data.len() <= SEGMENT as usize, "R127");
                pending.data_sn += 1;
                pending.got.extend_from_slice(&data.data.contiguous());
                if data.has_status {
                    self.answered(data.itt, data.status, stat_sn);
                }
            }
            Pdu::ScsiResponse(response) => {
                let pending = self.pending.get(&response.itt.0);
                assert!(pending.is_some(), "answered twice");
                if response.status == 2 {
                    let sense = response.sense().and_then(|s| Sense::parse(&s));
                    self.failed(response.itt, sense, stat_sn);
                    return;
                }
                self.answered(response.itt, response.status, stat_sn);
            }
            Pdu::TaskManagementResponse(answer) => self.managed(&answer),
            other => panic!("the initiator did not expect {other:?}"),
        }
    }

    fn answered(&mut self, itt: Itt, status: u8, stat_sn: StatSn) {
        assert_eq!(stat_sn, self.stat_sn, "R112");
        self.stat_sn = stat_sn.next();
        assert_eq!(status, 0, "no error because a path failed (P3)");
        let pending = self.pending.remove(&itt.0).unwrap();
        self.seen[pending.unit] = true;
        if pending.write.is_some() {
            return;
        }
        assert_eq!(pending.blocks.len() * BLOCK, pending.got.len(), "length of read {}", itt.0);
        for (at, (allowed, got)) in pending.blocks.iter().zip(pending.got.chunks(BLOCK)).enumerate() {
            let value = u64::from_be_bytes(*got.first_chunk().unwrap());
            assert_eq!(got, stamp(value), "read {} block {at}: torn", itt.0);
            assert!(
                allowed.contains(&value),
                "read {} block {at}: {value}, not one of {allowed:?}: not in CmdSN order (P1, P2)",
                itt.0
            );
        }
    }

    fn deliver_to_target(&mut self) {
        let busy: Vec<u32> = self.to_target.iter().filter(|(_, q)| !q.is_empty()).map(|(c, _)| *c).collect();
        if busy.is_empty() {
            return;
        }
        let conn = busy[self.draw(busy.len())];
        let pdu = self.to_target.get_mut(&conn).and_then(VecDeque::pop_front);
        if let Some(pdu) = pdu.filter(|_| self.target.lives(conn)) {
            self.target.receive(conn, pdu);
            self.collect_replies();
        }
    }

    fn collect_replies(&mut self) {
        for (conn, pdu) in std::mem::take(&mut self.target.replies) {
            if self.open.contains(&conn) && !self.cut.contains(&conn) && !self.silent.contains(&conn) {
                self.to_engine.entry(conn).or_default().push_back(pdu);
            }
        }
    }

    fn deliver_to_engine(&mut self) {
        let busy: Vec<u32> = self.to_engine.iter().filter(|(_, q)| !q.is_empty()).map(|(c, _)| *c).collect();
        if busy.is_empty() {
            return;
        }
        let conn = busy[self.draw(busy.len())];
        if let Some(pdu) = self.to_engine.get_mut(&conn).and_then(VecDeque::pop_front) {
            self.handle(Event::Upstream(ConnId(conn), pdu));
        }
    }

    fn finish_login(&mut self) {
        let Some((conn, plan)) = self.opening.pop_front() else { return };
        if self.draw(4) == 0 {
            self.handle(Event::Disconnected(conn, Cause::Tcp("connection refused".into())));
            return;
        }
        let negotiated = self.target.login(conn.0, &plan, Self::max_connections(self.setup));
        self.open.push(conn.0);
        self.handle(Event::Connected(conn, Box::new(negotiated)));
    }

    /// Cuts a connection. What is under way to the target may still arrive; the target notices some time later.
    fn maybe_cut(&mut self) {
        let dead = |c: &u32| self.cut.contains(c) || self.silent.contains(c);
        let alive: Vec<u32> = self.open.iter().copied().filter(|c| !dead(c)).collect();
        // Before its first command the initiator would see the attention of whatever login came last.
        let begun = self.seen == [true; UNITS];
        let noticed = self.silent.iter().position(|c| self.open.contains(c)).filter(|_| self.draw(8) == 0);
        if let Some(at) = noticed {
            let conn = self.silent.remove(at);
            self.cut(conn);
        } else if begun && self.cuts_left > 0 && self.draw(20) == 0 && !alive.is_empty() {
            self.cuts_left -= 1;
            let conn = alive[self.draw(alive.len())];
            if self.draw(2) == 0 {
                self.silent.push(conn);
                self.to_engine.remove(&conn);
            } else {
                self.cut(conn);
            }
        } else if !self.cut.is_empty() && self.draw(10) == 0 {
            let at = self.draw(self.cut.len());
            let conn = self.cut[at];
            self.target.lost(conn);
            self.to_target.remove(&conn);
        }
    }

    fn cut(&mut self, conn: u32) {
        self.cut.push(conn);
        self.open.retain(|c| *c != conn);
        self.to_engine.remove(&conn);
        self.handle(Event::Disconnected(ConnId(conn), Cause::Tcp("reset".into())));
    }

    fn pass_time(&mut self) {
        let Some(deadline) = self.session.next_deadline() else { return };
        // In small steps: where time flies, no answer ever comes in time. Far deadlines (give up after an hour) are not
        // reached: everything must go on without them.
        self.now = (self.now + Duration::from_millis(100)).min(deadline).max(self.now);
        if deadline <= self.now {
            self.session.handle_timeout(self.now);
            self.drain();
        }
    }
}
