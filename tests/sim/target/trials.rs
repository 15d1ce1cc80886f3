//! The model target on its own: what the judgements of a run rest on.

use super::{BLOCK, Disk, Effect, NAMES, Persona, Target, block};
use crate::random::Random;
use braid::iscsi::{
    Cdb, Cid, CmdSn, DataIn, DataOut, Isid, Itt, LogoutRequest, Lun, Payload, Pdu, ScsiCommand,
    TaskAttribute, TaskManagementRequest, tmf,
};
use braid::login::{ConnectionParams, LoginKind, LoginPlan, Negotiated, SessionParams};
use braid::scsi::Sense;
use std::time::{Duration, Instant};

pub(crate) fn trials() -> Vec<(&'static str, fn())> {
    vec![
        ("target::write_then_read", write_then_read),
        ("target::ordered_waits", ordered_waits),
        ("target::ghosts_live_on_tgt_only", ghosts_live_on_tgt_only),
        ("target::login_waits_on_istgt", login_waits_on_istgt),
        ("target::power_cut_loses_only_unflushed", power_cut_loses_only_unflushed),
        ("target::reservations_conflict", reservations_conflict),
        ("target::compare_and_write_counts", compare_and_write_counts),
        ("target::numbers_order_connections", numbers_order_connections),
        ("target::aborted_early_command_never_runs", aborted_early_command_never_runs),
        ("target::closed_window_is_announced", closed_window_is_announced),
        ("target::tasks_outlive_their_connection", tasks_outlive_their_connection),
        ("target::misnumbering_is_caught", misnumbering_is_caught),
        ("target::torn_writes_are_caught", torn_writes_are_caught),
    ]
}

/// An initiator that does what it is told.
struct Bench {
    target: Target,
    now: Instant,
    offer: SessionParams,
    cmd_sn: CmdSn,
    itt: u32,
    /// What the target sent, with the connection.
    got: Vec<(u32, Pdu)>,
    logged_in: Vec<(u32, Box<Negotiated>)>,
    gone: Vec<u32>,
}

/// An answer, without what the tests do not look at.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Good(Vec<u64>),
    Status(u8),
    Sense(u8, u8, u8),
}

impl Bench {
    #[expect(
        clippy::disallowed_methods,
        reason = "an arbitrary origin; time then passes only by adding to it"
    )]
    fn new(persona: Persona, seed: u64) -> Self {
        let disks = vec![Disk { blocks: 16, identity: 1 }, Disk { blocks: 16, identity: 2 }];
        // Without the attentions of new sessions.
        let persona = Persona { greeting: super::Greeting::Never, window_shrinks: false, ..persona };
        Self {
            target: Target::new(persona, disks, Random::new(seed)),
            now: Instant::now(),
            offer: SessionParams { max_connections: 4, ..SessionParams::default() },
            cmd_sn: CmdSn(u32::MAX - 1),
            itt: 0,
            got: Vec::new(),
            logged_in: Vec::new(),
            gone: Vec::new(),
        }
    }

    fn login(&mut self, conn: u32, isid: u8, kind: LoginKind) {
        let plan = LoginPlan {
            kind,
            initiator_name: "iqn.2026-11.org.example:a".into(),
            target_name: NAMES[0].into(),
            isid: Isid([0x80, 0, 0, 0, 0, isid]),
            cid: Cid(u16::try_from(conn).unwrap()),
            cmd_sn: self.cmd_sn,
            offer: self.offer.clone(),
            connection: ConnectionParams::default(),
        };
        self.target.login(conn, 1, &plan, (self.now, self.now));
        self.collect();
    }

    /// A leading login that is answered soon.
    fn lead(&mut self, conn: u32, isid: u8) -> Box<Negotiated> {
        self.login(conn, isid, LoginKind::Leading);
        self.pass(Duration::from_secs(1));
        self.logged_in.iter().rfind(|(c, _)| *c == conn).expect("logged in").1.clone()
    }

    fn collect(&mut self) {
        while let Some(effect) = self.target.poll() {
            match effect {
                Effect::Send(conn, pdu) => self.got.push((conn, pdu)),
                Effect::LoggedIn(conn, negotiated) => self.logged_in.push((conn, negotiated)),
                Effect::Refused(conn, ..) | Effect::Close(conn) | Effect::Reset(conn) => self.gone.push(conn),
            }
        }
    }

    /// Lets time pass, no further than there is something to do.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(at) = self.target.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.target.timeout(self.now);
            self.collect();
        }
        self.now = end;
    }

    fn send(&mut self, conn: u32, pdu: Pdu) {
        self.target.receive(conn, pdu, self.now);
        self.collect();
    }

    fn command(&mut self, cdb: &[u8], data: &[u8], reads: u32) -> ScsiCommand {
        self.itt += 1;
        let mut bytes = [0; 16];
        bytes[..cdb.len()].copy_from_slice(cdb);
        let cmd_sn = self.cmd_sn;
        self.cmd_sn = cmd_sn.next();
        ScsiCommand {
            final_: true,
            read: reads > 0,
            write: !data.is_empty(),
            lun: Lun(0),
            itt: Itt(self.itt),
            expected_length: reads.max(u32::try_from(data.len()).unwrap()),
            cmd_sn,
            cdb: Cdb(bytes.into_iter().collect()),
            data: Payload::from(data.to_vec()),
            ..ScsiCommand::default()
        }
    }

    fn write(&mut self, lba: u8, stamp: u64) -> ScsiCommand {
        self.command(&[0x2a, 0, 0, 0, 0, lba, 0, 0, 1, 0], &block(stamp), 0)
    }

    /// Sends a command and waits for its answer.
    fn run(&mut self, conn: u32, command: ScsiCommand) -> Answer {
        let itt = command.itt;
        self.send(conn, Pdu::ScsiCommand(command));
        self.pass(Duration::from_secs(30));
        self.answer(itt).expect("an answer")
    }

    /// What has been answered to a command.
    fn answer(&self, itt: Itt) -> Option<Answer> {
        let own = self.got.iter().filter(|(_, pdu)| pdu.itt() == itt);
        let mut data = Vec::new();
        for (_, pdu) in own {
            match pdu {
                Pdu::DataIn(DataIn { data: piece, has_status, .. }) => {
                    data.extend_from_slice(&piece.contiguous());
                    if *has_status {
                        return Some(Answer::Good(stamps(&data)));
                    }
                }
                Pdu::ScsiResponse(r) if r.status == 0 => return Some(Answer::Good(stamps(&data))),
                Pdu::ScsiResponse(r) => {
                    let sense = r.sense().and_then(|s| Sense::parse(&s));
                    return Some(
                        sense.map_or(Answer::Status(r.status), |s| Answer::Sense(s.key, s.asc, s.ascq)),
                    );
                }
                _ => {}
            }
        }
        None
    }

    fn count(&self, name: &str) -> u32 {
        self.target.triggered().find(|(n, _)| n.ends_with(name)).expect("a name").1
    }
}

fn stamps(data: &[u8]) -> Vec<u64> {
    data.chunks(BLOCK).filter_map(|b| Some(u64::from_be_bytes(*b.first_chunk()?))).collect()
}

fn good() -> Answer {
    Answer::Good(Vec::new())
}

fn plain(persona: Persona) -> Persona {
    Persona { initial_r2t: true, immediate_data: true, first_burst: 512, max_burst: 1024, ..persona }
}

/// Data asked for burst by burst, read back over several PDUs, whole and in order.
fn write_then_read() {
    let mut bench = Bench::new(plain(Persona::tgt()), 1);
    bench.lead(0, 1);
    let data: Vec<u8> = (1..=6).flat_map(block).collect();
    let mut write = bench.command(&[0x2a, 0, 0, 0, 0, 3, 0, 0, 6, 0], &data, 0);
    write.data = Payload::from(data[..BLOCK].to_vec());
    let itt = write.itt;
    bench.send(0, Pdu::ScsiCommand(write));
    while let Some(at) = bench.got.iter().position(|(_, pdu)| matches!(pdu, Pdu::R2t(_))) {
        let (_, Pdu::R2t(r2t)) = bench.got.remove(at) else { unreachable!() };
        assert!(r2t.desired_length <= 1024);
        let (from, length) = (r2t.buffer_offset as usize, r2t.desired_length as usize);
        for (n, at) in (from..from + length).step_by(512).enumerate() {
            bench.send(
                0,
                Pdu::DataOut(DataOut {
                    final_: at + 512 == from + length,
                    lun: r2t.lun,
                    itt,
                    ttt: r2t.ttt,
                    data_sn: u32::try_from(n).unwrap(),
                    buffer_offset: u32::try_from(at).unwrap(),
                    data: Payload::from(data[at..at + 512].to_vec()),
                    ..DataOut::default()
                }),
            );
        }
    }
    bench.pass(Duration::from_secs(30));
    assert_eq!(bench.answer(itt), Some(good()));
    let read = bench.command(&[0x28, 0, 0, 0, 0, 2, 0, 0, 8, 0], &[], 4096);
    assert_eq!(bench.run(0, read), Answer::Good(vec![0, 1, 2, 3, 4, 5, 6, 0]));
    assert!(bench.count("status in Data-In") == 1 && !bench.target.busy());
}

/// An ORDERED command runs behind what is older, from any session, and before what is younger.
fn ordered_waits() {
    for seed in 0..40 {
        let mut bench = Bench::new(plain(Persona::tgt()), seed);
        bench.lead(0, 1);
        let first = bench.write(1, 7);
        bench.send(0, Pdu::ScsiCommand(first.clone()));
        let cmd_sn = bench.cmd_sn;
        bench.cmd_sn = CmdSn(100);
        bench.login(1, 2, LoginKind::Leading);
        bench.pass(Duration::from_micros(1_000));
        if bench.logged_in.len() < 2 || bench.answer(first.itt).is_some() {
            continue;
        }
        let mut ordered = bench.command(&[0; 6], &[], 0);
        ordered.attribute = TaskAttribute::Ordered;
        bench.send(1, Pdu::ScsiCommand(ordered.clone()));
        bench.cmd_sn = cmd_sn;
        let younger = bench.write(1, 8);
        bench.send(0, Pdu::ScsiCommand(younger.clone()));
        bench.pass(Duration::from_secs(30));
        let answers = bench.got.iter().filter(|(_, pdu)| matches!(pdu, Pdu::ScsiResponse(_)));
        let order: Vec<Itt> = answers.map(|(_, pdu)| pdu.itt()).collect();
        assert_eq!(order, [first.itt, ordered.itt, younger.itt]);
        assert_eq!(bench.target.block(0, 1), 8);
        return;
    }
    panic!("no seed has a write slow enough");
}

/// A write in the device when its session is replaced still executes on tgt, and does not on the lab target.
fn ghosts_live_on_tgt_only() {
    let (mut lived, mut dropped) = (0, 0);
    for seed in 0..40 {
        for persona in [plain(Persona::tgt()), plain(Persona::lab())] {
            let keeps = persona.name.ends_with("tgt");
            let mut bench = Bench::new(persona, seed);
            bench.lead(0, 1);
            let write = bench.write(1, 7);
            bench.send(0, Pdu::ScsiCommand(write));
            bench.lead(1, 1);
            assert_eq!(bench.gone, [0]);
            bench.pass(Duration::from_secs(10));
            assert_eq!(bench.target.block(0, 1), if keeps { 7 } else { 0 });
            assert!(!bench.target.busy() && bench.answer(Itt(1)).is_none());
            lived += bench.count("write executed after its session was replaced");
            dropped += bench.count("task dropped by a reinstatement");
        }
    }
    assert_eq!((lived, dropped), (40, 40));
}

/// istgt answers the login that replaces a session once the device is done.
fn login_waits_on_istgt() {
    let mut waited = 0;
    for seed in 0..40 {
        let mut bench = Bench::new(plain(Persona::istgt()), seed);
        bench.lead(0, 1);
        let write = bench.write(1, 7);
        bench.send(0, Pdu::ScsiCommand(write));
        bench.login(1, 1, LoginKind::Leading);
        while bench.logged_in.len() < 2 {
            bench.pass(Duration::from_millis(10));
        }
        assert_eq!(bench.target.block(0, 1), 7);
        waited += bench.count("login waited for the device");
    }
    assert!(waited > 0);
}

/// At error recovery level 2 the tasks of a lost connection go on over another, once it is logged out.
fn tasks_outlive_their_connection() {
    let persona = Persona {
        error_recovery_level: 2,
        recovery_logout: (0, 0),
        reassign: tmf::COMPLETE,
        tells_drops: false,
        ..plain(Persona::lab())
    };
    let mut bench = Bench::new(persona, 1);
    bench.offer.error_recovery_level = 2;
    let session = bench.lead(0, 1);
    bench.login(1, 1, LoginKind::Joining { session: session.session.clone(), tsih: session.tsih });
    bench.pass(Duration::from_secs(1));
    let write = bench.write(1, 7);
    let read = bench.command(&[0x28, 0, 0, 0, 0, 3, 0, 0, 1, 0], &[], 512);
    let (first, second) = (write.itt, read.itt);
    bench.send(1, Pdu::ScsiCommand(write));
    bench.send(1, Pdu::ScsiCommand(read));
    bench.pass(Duration::from_secs(30));
    bench.got.clear();
    bench.target.closed(1, bench.now);
    let reassign = |bench: &mut Bench, task: Itt| {
        bench.send(
            0,
            Pdu::TaskManagementRequest(TaskManagementRequest {
                immediate: true,
                function: tmf::TASK_REASSIGN,
                itt: Itt(900),
                referenced_itt: task,
                cmd_sn: bench.cmd_sn,
                ..TaskManagementRequest::default()
            }),
        );
        let answer = bench.got.iter().rev().find_map(|(_, pdu)| match pdu {
            Pdu::TaskManagementResponse(answer) => Some(answer.response),
            _ => None,
        });
        answer.expect("an answer")
    };
    assert_eq!(reassign(&mut bench, first), tmf::TASK_STILL_ALLEGIANT);
    let logout = LogoutRequest { immediate: true, reason: 2, cid: Cid(1), ..LogoutRequest::default() };
    bench.send(0, Pdu::LogoutRequest(LogoutRequest { cmd_sn: bench.cmd_sn, ..logout }));
    assert_eq!(reassign(&mut bench, Itt(77)), tmf::TASK_DOES_NOT_EXIST);
    for task in [first, second] {
        assert_eq!(reassign(&mut bench, task), tmf::COMPLETE);
    }
    bench.pass(Duration::from_secs(30));
    assert_eq!((bench.answer(first), bench.answer(second)), (Some(good()), Some(Answer::Good(vec![0]))));
    assert_eq!(bench.target.block(0, 1), 7);
    assert_eq!(bench.count("answer given again after a reassignment"), 2);
}

/// Of several unflushed values any may be left, but never one older than the last flush.
fn power_cut_loses_only_unflushed() {
    let mut left = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let mut bench = Bench::new(plain(Persona::lab()), seed);
        bench.lead(0, 1);
        for (lba, stamp) in [(0, 1), (0, 2), (1, 3)] {
            let write = bench.write(lba, stamp);
            assert_eq!(bench.run(0, write), good());
        }
        let flush = bench.command(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[], 0);
        assert_eq!(bench.run(0, flush), good());
        for (lba, stamp) in [(0, 4), (0, 5)] {
            let write = bench.write(lba, stamp);
            bench.run(0, write);
        }
        let through = bench.command(&[0x2a, 8, 0, 0, 0, 2, 0, 0, 1, 0], &block(6), 0);
        bench.run(0, through);
        bench.target.power_cut(bench.now);
        bench.collect();
        assert_eq!(bench.gone, [0]);
        assert_eq!((bench.target.block(0, 1), bench.target.block(0, 2)), (3, 6));
        left.insert(bench.target.block(0, 0));
        bench.cmd_sn = CmdSn(7);
        bench.lead(1, 1);
        let ready = bench.command(&[0; 6], &[], 0);
        assert_eq!(bench.run(1, ready), Answer::Sense(6, 0x29, 1));
        let ready = bench.command(&[0; 6], &[], 0);
        assert_eq!(bench.run(1, ready), good());
    }
    assert_eq!(left, [2, 4, 5].into());
}

/// RESERVE(6) shuts out other sessions until it is released or its session ends; a persistent reservation of writes
/// shuts out writes of those who are not registered.
fn reservations_conflict() {
    let mut bench = Bench::new(plain(Persona::lab()), 3);
    bench.lead(0, 1);
    let ours = bench.cmd_sn;
    bench.cmd_sn = CmdSn(500);
    bench.lead(1, 2);
    let mut theirs = bench.cmd_sn;
    let reserve = bench.command(&[0x16, 0, 0, 0, 0, 0], &[], 0);
    assert_eq!(bench.run(1, reserve), good());
    std::mem::swap(&mut bench.cmd_sn, &mut theirs);
    bench.cmd_sn = ours;
    let read = bench.command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[], 512);
    assert_eq!(bench.run(0, read), Answer::Status(0x18));
    bench.target.closed(1, bench.now);
    let read = bench.command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[], 512);
    assert_eq!(bench.run(0, read), Answer::Good(vec![0]));

    let ours = bench.cmd_sn;
    bench.cmd_sn = CmdSn(900);
    bench.lead(2, 2);
    let mut parameters = [0; 24];
    parameters[15] = 9;
    let register = bench.command(&[0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0], &parameters, 0);
    assert_eq!(bench.run(2, register), good());
    parameters.swap(7, 15);
    let hold = bench.command(&[0x5f, 1, 1, 0, 0, 0, 0, 0, 24, 0], &parameters, 0);
    assert_eq!(bench.run(2, hold), good());
    bench.cmd_sn = ours;
    let read = bench.command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[], 512);
    assert_eq!(bench.run(0, read), Answer::Good(vec![0]));
    let write = bench.write(0, 5);
    assert_eq!(bench.run(0, write), Answer::Status(0x18));
    assert_eq!(bench.target.block(0, 0), 0);
    assert!(bench.target.foreign_preempt(0).is_some());
    let write = bench.write(0, 5);
    assert_eq!(bench.run(0, write), good());
}

/// A match counts as an execution; a mismatch leaves the block alone.
fn compare_and_write_counts() {
    let mut bench = Bench::new(Persona { first_burst: 1024, ..plain(Persona::lab()) }, 4);
    bench.lead(0, 1);
    let data = [block(0), block(9)].concat();
    let mut cdb = [0; 16];
    (cdb[0], cdb[9], cdb[13]) = (0x89, 3, 1);
    let swap = bench.command(&cdb, &data, 0);
    assert_eq!(bench.run(0, swap), good());
    assert_eq!((bench.target.executions(9), bench.target.block(0, 3)), (1, 9));
    let swap = bench.command(&cdb, &data, 0);
    assert_eq!(bench.run(0, swap), Answer::Sense(0xe, 0x1d, 0));
    assert_eq!((bench.target.executions(9), bench.target.block(0, 3)), (1, 9));
}

fn two_connections(persona: Persona) -> Bench {
    let mut bench = Bench::new(plain(persona), 5);
    let negotiated = bench.lead(0, 1);
    let kind = LoginKind::Joining { session: negotiated.session.clone(), tsih: negotiated.tsih };
    bench.login(1, 1, kind);
    bench.pass(Duration::from_millis(10));
    assert_eq!(bench.logged_in.len(), 2);
    bench
}

/// A command that came early on another connection waits for the one before it; not on SPDK.
fn numbers_order_connections() {
    for (persona, holds) in [(Persona::lab(), true), (Persona::spdk(), false)] {
        let mut bench = two_connections(persona);
        let (first, second) = (bench.write(1, 7), bench.write(1, 8));
        bench.send(1, Pdu::ScsiCommand(second.clone()));
        bench.pass(Duration::from_secs(30));
        assert_eq!(bench.answer(second.itt).is_none(), holds);
        bench.send(0, Pdu::ScsiCommand(first.clone()));
        bench.pass(Duration::from_secs(30));
        assert_eq!(bench.answer(first.itt).is_some(), holds);
        assert_eq!(bench.gone.contains(&0), !holds);
    }
}

/// ABORT TASK ends a command that waits for its turn, and one that has not come yet; their numbers count as received.
fn aborted_early_command_never_runs() {
    for comes_first in [true, false] {
        let mut bench = two_connections(Persona::lab());
        let (first, second) = (bench.write(1, 7), bench.write(2, 8));
        if comes_first {
            bench.send(1, Pdu::ScsiCommand(second.clone()));
        }
        bench.send(
            0,
            Pdu::TaskManagementRequest(TaskManagementRequest {
                immediate: true,
                function: tmf::ABORT_TASK,
                itt: Itt(0x77),
                referenced_itt: second.itt,
                cmd_sn: bench.cmd_sn,
                ref_cmd_sn: second.cmd_sn,
                ..TaskManagementRequest::default()
            }),
        );
        let answered =
            |(_, pdu): &(u32, Pdu)| matches!(pdu, Pdu::TaskManagementResponse(r) if r.response == 0);
        assert!(bench.got.iter().any(answered));
        bench.send(0, Pdu::ScsiCommand(first.clone()));
        let third = bench.write(3, 9);
        assert_eq!(bench.run(0, third), good());
        if !comes_first {
            bench.send(1, Pdu::ScsiCommand(second.clone()));
            bench.pass(Duration::from_secs(30));
        }
        assert_eq!(bench.answer(first.itt), Some(good()));
        assert_eq!(bench.target.block(0, 2), 0);
    }
}

/// A window of one opens with the answer; where the command ends without one, a NOP-In says so.
fn closed_window_is_announced() {
    let mut bench = Bench::new(plain(Persona { first_window: 1, window: 1, ..Persona::lab() }), 6);
    let negotiated = bench.lead(0, 1);
    assert_eq!(negotiated.max_cmd_sn, bench.cmd_sn);
    let write = bench.write(1, 7);
    bench.send(0, Pdu::ScsiCommand(write.clone()));
    bench.target.foreign_reset(0);
    bench.collect();
    let open =
        |(_, pdu): &(u32, Pdu)| pdu.target_numbers().is_some_and(|(_, _, max)| max == write.cmd_sn.next());
    assert!(bench.got.iter().any(|g| open(g) && matches!(g.1, Pdu::NopIn(_))));
    let next = bench.write(1, 8);
    assert_eq!(bench.run(0, next), Answer::Sense(6, 0x29, 3));
}

/// A number used for two commands is Braid's fault, and told as one.
fn misnumbering_is_caught() {
    let text = complaint(|| {
        let mut bench = Bench::new(plain(Persona::lab()), 7);
        bench.lead(0, 1);
        let first = bench.write(1, 7);
        let second = ScsiCommand { itt: Itt(99), ..first.clone() };
        bench.send(0, Pdu::ScsiCommand(first));
        bench.send(0, Pdu::ScsiCommand(second));
    });
    assert!(text.starts_with("R92: "), "{text}");
}

/// A block that two writes were mixed in.
fn torn_writes_are_caught() {
    let text = complaint(|| {
        let mut bench = Bench::new(plain(Persona::lab()), 8);
        bench.lead(0, 1);
        let mut write = bench.write(1, 7);
        let mixed = [&block(7)[..BLOCK / 2], &block(8)[..BLOCK / 2]].concat();
        write.data = Payload::from(mixed);
        bench.run(0, write);
    });
    assert!(text.starts_with("P1: torn write"), "{text}");
}

fn complaint(broken: fn()) -> String {
    let message = std::panic::catch_unwind(broken).expect_err("caught");
    message.downcast_ref::<String>().expect("a text").clone()
}
