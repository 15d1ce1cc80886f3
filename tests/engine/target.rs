//! A model target: two logical units, any number of sessions, no timing of its own.
//!
//! It holds commands in CmdSN order per session, collects write data by R2T, and then keeps them in a pool from which
//! the world executes them in any order. A lost connection takes nothing out of the pool: what was complete may still
//! run. Session reinstatement ends the arrival of more; an ORDERED command runs only when the pool holds nothing older.
//! Task management takes commands out of the pool; a reset tells the other sessions by a unit attention.

use braid::iscsi::{
    CmdSn, DataIn, DataOut, Itt, LogoutResponse, Lun, NopIn, NopOut, Payload, Pdu, R2t, ScsiCommand,
    ScsiResponse, StatSn, TaskAttribute, TaskManagementRequest, TaskManagementResponse, Ttt, tmf,
};
use braid::login::{ConnectionParams, LoginKind, LoginPlan, Negotiated, SessionParams};
use braid::scsi::Sense;
use std::collections::BTreeMap;

pub(crate) const BLOCK: usize = 512;
pub(crate) const UNITS: usize = 2;
const SEGMENT: usize = 1024;
const BURST: u32 = 2048;

#[derive(Debug)]
pub(crate) struct Job {
    session: usize,
    conn: u32,
    command: ScsiCommand,
    data: Vec<u8>,
    asked: u32,
    age: u64,
}

#[derive(Debug)]
struct Sess {
    isid: [u8; 6],
    exp_cmd_sn: CmdSn,
    /// Additional sense of the attention that waits on each unit.
    attention: [Option<(u8, u8)>; UNITS],
    early: BTreeMap<u32, (u32, Pdu)>,
}

pub(crate) struct Target {
    /// Blocks of each unit.
    pub(crate) medium: [Vec<u64>; UNITS],
    sessions: Vec<Sess>,
    /// Session and StatSN of each connection that lives.
    conns: BTreeMap<u32, (usize, StatSn)>,
    collecting: Vec<Job>,
    pool: Vec<Job>,
    age: u64,
    pub(crate) replies: Vec<(u32, Pdu)>,
}

impl Target {
    pub(crate) fn new(blocks: usize) -> Self {
        Self {
            medium: [vec![0; blocks], vec![0; blocks]],
            sessions: Vec::new(),
            conns: BTreeMap::new(),
            collecting: Vec::new(),
            pool: Vec::new(),
            age: 0,
            replies: Vec::new(),
        }
    }

    /// A login; a leading one ends the old session of its ISID (the fence's first half).
    pub(crate) fn login(&mut self, conn: u32, plan: &LoginPlan, max_connections: u16) -> Negotiated {
        let session = match &plan.kind {
            LoginKind::Joining { tsih, .. } => usize::from(tsih.0) - 1,
            LoginKind::Leading | LoginKind::Discovery => {
                for (index, old) in self.sessions.iter_mut().enumerate() {
                    if old.isid == plan.isid.0 {
                        old.isid = [0xff; 6];
                        self.conns.retain(|_, (s, _)| *s != index);
                        self.collecting.retain(|j| j.session != index);
                        old.early.clear();
                    }
                }
                let (isid, early) = (plan.isid.0, BTreeMap::new());
                self.sessions.push(Sess {
                    isid,
                    exp_cmd_sn: plan.cmd_sn,
                    attention: [Some((0x29, 0)); UNITS],
                    early,
                });
                self.sessions.len() - 1
            }
        };
        self.drop_harmless();
        self.conns.insert(conn, (session, StatSn(100)));
        let exp = self.sessions[session].exp_cmd_sn;
        Negotiated {
            session: SessionParams {
                max_connections,
                first_burst_length: 1024,
                max_burst_length: BURST,
                ..SessionParams::default()
            },
            connection: ConnectionParams { max_send_data_segment: 1024, ..ConnectionParams::default() },
            discovery: false,
            initiator_name: plan.initiator_name.clone(),
            target_name: plan.target_name.clone(),
            target_alias: None,
            tpgt: Some(1),
            isid: plan.isid,
            tsih: braid::iscsi::Tsih(u16::try_from(session + 1).unwrap()),
            cid: plan.cid,
            cmd_sn: plan.cmd_sn,
            max_cmd_sn: exp.plus(1),
            stat_sn: StatSn(100),
        }
    }

    /// The initiator has seen the attention of the first session.
    pub(crate) fn attention_seen(&mut self) {
        self.sessions[0].attention = [None; UNITS];
    }

    /// Somebody else changed a mode page: every session is told.
    pub(crate) fn mode_changed(&mut self, unit: usize) {
        for session in &mut self.sessions {
            session.attention[unit].get_or_insert((0x2a, 1));
        }
    }

    /// Ends a write that waits for its data.
    pub(crate) fn fail(&mut self, choice: usize) {
        let waiting: Vec<usize> =
            (0..self.collecting.len()).filter(|at| self.lives(self.collecting[*at].conn)).collect();
        if !waiting.is_empty() {
            let job = self.collecting.remove(waiting[choice % waiting.len()]);
            let sense = Sense { key: 3, asc: 0x0c, ascq: 0 }.to_fixed();
            self.respond(&job, 2, ScsiResponse::sense_data(&sense));
        }
    }

    pub(crate) fn lives(&self, conn: u32) -> bool {
        self.conns.contains_key(&conn)
    }

    /// The target noticed that a connection is gone; its session lives on without it.
    pub(crate) fn lost(&mut self, conn: u32) {
        self.conns.remove(&conn);
        self.collecting.retain(|j| j.conn != conn);
        self.drop_harmless();
    }

    /// Of connections that are gone only writes can still be noticed.
    fn drop_harmless(&mut self) {
        let conns = &self.conns;
        self.pool.retain(|j| j.command.write || conns.contains_key(&j.conn));
    }

    pub(crate) fn receive(&mut self, conn: u32, pdu: Pdu) {
        let Some((session, _)) = self.conns.get(&conn).copied() else { return };
        let numbered = match &pdu {
            Pdu::ScsiCommand(c) => Some((c.immediate, c.cmd_sn)),
            Pdu::NopOut(n) => Some((n.immediate, n.cmd_sn)),
            Pdu::TaskManagementRequest(t) => Some((t.immediate, t.cmd_sn)),
            Pdu::LogoutRequest(l) => Some((l.immediate, l.cmd_sn)),
            _ => None,
        };
        if let Some((false, cmd_sn)) = numbered {
            let exp = self.sessions[session].exp_cmd_sn;
            assert!(!cmd_sn.is_before(exp), "CmdSN {cmd_sn} used twice, {exp} expected");
            assert!(cmd_sn.since(exp) < 64, "CmdSN {cmd_sn} beyond the window of {exp}");
            self.sessions[session].early.insert(cmd_sn.0, (conn, pdu));
            while let Some((from, pdu)) = {
                let s = &mut self.sessions[session];
                s.early.remove(&s.exp_cmd_sn.0)
            } {
                self.sessions[session].exp_cmd_sn = self.sessions[session].exp_cmd_sn.next();
                self.act(from, session, pdu);
            }
            return;
        }
        self.act(conn, session, pdu);
    }

    fn act(&mut self, conn: u32, session: usize, pdu: Pdu) {
        match pdu {
            Pdu::ScsiCommand(command) => {
                self.age += 1;
                let data = command.data.contiguous().to_vec();
                let asked = u32::try_from(data.len()).unwrap();
                self.collecting.push(Job { session, conn, command, data, asked, age: self.age });
                self.ask();
            }
            Pdu::DataOut(data) => self.data(conn, &data),
            Pdu::NopOut(nop) if nop.itt != Itt::NONE => {
                self.reply(conn, true, |stat_sn, exp, max| {
                    Pdu::NopIn(NopIn {
                        itt: nop.itt,
                        stat_sn,
                        exp_cmd_sn: exp,
                        max_cmd_sn: max,
                        ..NopIn::default()
                    })
                });
            }
            // Stands for a command that was aborted before its turn.
            Pdu::NopOut(_) => {}
            Pdu::TaskManagementRequest(request) => self.manage(conn, session, &request),
            Pdu::LogoutRequest(logout) => {
                self.reply(conn, true, |stat_sn, exp, max| {
                    Pdu::LogoutResponse(LogoutResponse {
                        itt: logout.itt,
                        stat_sn,
                        exp_cmd_sn: exp,
                        max_cmd_sn: max,
                        ..LogoutResponse::default()
                    })
                });
            }
            other => panic!("the target did not expect {other:?}"),
        }
    }

    /// Takes commands out: one, those of a session on a unit, or all of a unit.
    fn manage(&mut self, conn: u32, session: usize, request: &TaskManagementRequest) {
        let wide = request.function != tmf::ABORT_TASK;
        let taken = |job: &Job| match request.function {
            tmf::ABORT_TASK => job.session == session && job.command.itt == request.referenced_itt,
            tmf::ABORT_TASK_SET => job.session == session && job.command.lun == request.lun,
            _ => job.command.lun == request.lun,
        };
        let before = self.collecting.len() + self.pool.len();
        self.collecting.retain(|j| !taken(j));
        self.pool.retain(|j| !taken(j));
        let mut found = wide || before > self.collecting.len() + self.pool.len();
        for (_, pdu) in self.sessions[session].early.values_mut() {
            if matches!(pdu, Pdu::ScsiCommand(c) if !wide && c.itt == request.referenced_itt) {
                *pdu = Pdu::NopOut(NopOut::default());
                found = true;
            }
        }
        if request.function == tmf::LOGICAL_UNIT_RESET {
            for (_, other) in self.sessions.iter_mut().enumerate().filter(|(index, _)| *index != session) {
                other.attention[unit(request.lun)] = Some((0x29, 3));
            }
        }
        let response = if found { tmf::COMPLETE } else { tmf::TASK_DOES_NOT_EXIST };
        self.reply(conn, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            Pdu::TaskManagementResponse(TaskManagementResponse {
                response,
                itt: request.itt,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                additional: 0,
            })
        });
    }

    fn data(&mut self, conn: u32, pdu: &DataOut) {
        // Data for a command that was lost with its connection is not kept.
        let Some(job) = self.collecting.iter_mut().find(|j| j.conn == conn && j.command.itt == pdu.itt)
        else {
            return;
        };
        assert_eq!(pdu.buffer_offset as usize, job.data.len(), "data in order");
        assert!(pdu.data.len() <= SEGMENT, "a segment the target did not allow");
        job.data.extend_from_slice(&pdu.data.contiguous());
        assert!(job.data.len() <= job.asked as usize, "more data than asked for");
        self.ask();
    }

    /// Asks for what is missing; moves complete commands to the pool.
    fn ask(&mut self) {
        let mut at = 0;
        while at < self.collecting.len() {
            let job = &mut self.collecting[at];
            let wanted = if job.command.write { job.command.expected_length } else { 0 };
            let have = u32::try_from(job.data.len()).unwrap();
            if have == wanted {
                let job = self.collecting.remove(at);
                self.pool.push(job);
                continue;
            }
            if have == job.asked {
                let length = (wanted - have).min(BURST);
                job.asked = have + length;
                let (conn, itt) = (job.conn, job.command.itt);
                self.reply(conn, false, |stat_sn, exp, max| {
                    Pdu::R2t(R2t {
                        itt,
                        ttt: Ttt(itt.0 ^ 0x55),
                        stat_sn,
                        exp_cmd_sn: exp,
                        max_cmd_sn: max,
                        buffer_offset: have,
                        desired_length: length,
                        ..R2t::default()
                    })
                });
            }
            at += 1;
        }
    }

    pub(crate) fn pending(&self) -> usize {
        self.pool.len()
    }

    /// Runs one of the pool: ORDERED only if nothing older is left.
    /// Writes of connections that are gone take their time: they are the ghosts.
    pub(crate) fn execute(&mut self, choice: usize) {
        let index = choice % self.pool.len();
        let job = &self.pool[index];
        let ghost = job.command.write && !self.lives(job.conn);
        if ghost && !self.conns.is_empty() && !(choice / 1024).is_multiple_of(32) {
            return;
        }
        let lun = self.pool[index].command.lun;
        let unit = unit(lun);
        let oldest = self.pool.iter().filter(|j| j.command.lun == lun).map(|j| j.age).min();
        let job = &self.pool[index];
        if job.command.attribute == TaskAttribute::Ordered && Some(job.age) != oldest {
            return;
        }
        let job = self.pool.remove(index);
        let cdb = job.command.cdb.0.clone();
        let lba = u32::from_be_bytes([cdb[2], cdb[3], cdb[4], cdb[5]]) as usize;
        let attention = std::mem::take(&mut self.sessions[job.session].attention[unit]);
        if let Some((asc, ascq)) = attention.filter(|_| cdb[0] != 0x12) {
            let sense = Sense { key: 6, asc, ascq }.to_fixed();
            self.respond(&job, 2, ScsiResponse::sense_data(&sense));
            return;
        }
        self.sessions[job.session].attention[unit] = attention;
        match cdb[0] {
            0x28 => {
                let blocks = usize::from(u16::from_be_bytes([cdb[7], cdb[8]]));
                let data = self.medium[unit][lba..lba + blocks].iter().flat_map(|v| stamp(*v)).collect();
                self.data_in(&job, data);
                self.respond(&job, 0, Payload::new());
            }
            0x2a => {
                for (at, block) in job.data.chunks(BLOCK).enumerate() {
                    self.medium[unit][lba + at] = u64::from_be_bytes(*block.first_chunk().unwrap());
                }
                self.respond(&job, 0, Payload::new());
            }
            0x12 => {
                self.data_in(&job, inquiry(unit, &cdb));
                self.respond(&job, 0, Payload::new());
            }
            0x9e => {
                let mut data = vec![0; 32];
                data[..8].copy_from_slice(&(self.medium[unit].len() as u64 - 1).to_be_bytes());
                data[8..12].copy_from_slice(&512u32.to_be_bytes());
                self.data_in(&job, data);
                self.respond(&job, 0, Payload::new());
            }
            0x5e => {
                self.data_in(&job, vec![0; 8]);
                self.respond(&job, 0, Payload::new());
            }
            _ => self.respond(&job, 0, Payload::new()),
        }
    }

    fn data_in(&mut self, job: &Job, mut data: Vec<u8>) {
        data.truncate(job.command.expected_length as usize);
        let pieces: Vec<_> = data.chunks(SEGMENT).collect();
        for (n, piece) in pieces.iter().enumerate() {
            let data = Payload::from(piece.to_vec());
            self.reply(job.conn, false, |_, exp_cmd_sn, max_cmd_sn| {
                Pdu::DataIn(DataIn {
                    final_: n + 1 == pieces.len(),
                    itt: job.command.itt,
                    exp_cmd_sn,
                    max_cmd_sn,
                    data_sn: u32::try_from(n).unwrap(),
                    buffer_offset: u32::try_from(n * SEGMENT).unwrap(),
                    data,
                    ..DataIn::default()
                })
            });
        }
    }

    fn respond(&mut self, job: &Job, status: u8, data: Payload) {
        self.reply(job.conn, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            Pdu::ScsiResponse(ScsiResponse {
                status,
                itt: job.command.itt,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                data,
                ..ScsiResponse::default()
            })
        });
    }

    fn reply(&mut self, conn: u32, counts: bool, make: impl FnOnce(StatSn, CmdSn, CmdSn) -> Pdu) {
        let Some((session, stat_sn)) = self.conns.get_mut(&conn) else { return };
        let exp = self.sessions[*session].exp_cmd_sn;
        let pdu = make(*stat_sn, exp, exp.plus(15));
        if counts {
            *stat_sn = stat_sn.next();
        }
        self.replies.push((conn, pdu));
    }
}

/// A block that says which write made it.
pub(crate) fn stamp(value: u64) -> [u8; BLOCK] {
    let mut block = [0x5a; BLOCK];
    block[..8].copy_from_slice(&value.to_be_bytes());
    block
}

fn unit(lun: Lun) -> usize {
    usize::try_from(lun.number()).unwrap()
}

fn inquiry(unit: usize, cdb: &[u8]) -> Vec<u8> {
    match (cdb[1], cdb[2]) {
        (0, _) => {
            let mut data = vec![0; 36];
            data[4] = 31;
            data[8..16].copy_from_slice(b"IET     ");
            data[16..32].copy_from_slice(b"VIRTUAL-DISK    ");
            data
        }
        (_, 0x83) => {
            let mut data = vec![0, 0x83, 0, 12, 1, 3, 0, 8];
            data.extend_from_slice(&[0x60, 1, 2, 3, 4, 5, 6, u8::try_from(unit).unwrap()]);
            data
        }
        _ => b"\x00\x80\x00\x04abcd".to_vec(),
    }
}
