//! A conversation of Braid with its targets, and the ways to get it wrong.

use super::trials::{
    Change,
    Change::{After, Edit, First},
    Step, Talk, Trial, bytes, data_in, data_out, good, plain, r2t, read, spoil, write,
};
use braid::iscsi::{
    AsyncMessage, Cid, CmdSn, Itt, LogoutRequest, LogoutResponse, Lun, NopIn, NopOut, Pdu, SnackRequest,
    TaskManagementRequest, TaskManagementResponse, Ttt, tmf,
};
use braid::login::{LoginKind, LoginPlan, SessionParams};

/// Tags of control PDUs lie above this one.
const CONTROL: u32 = 0x8000;

fn ping(itt: u32) -> Pdu {
    Pdu::NopOut(NopOut { itt: Itt(CONTROL + itt), ..NopOut::default() })
}

fn abort(itt: u32, referenced: u32, ref_cmd_sn: CmdSn) -> Pdu {
    Pdu::TaskManagementRequest(TaskManagementRequest {
        immediate: true,
        function: tmf::ABORT_TASK,
        itt: Itt(CONTROL + itt),
        referenced_itt: Itt(referenced),
        ref_cmd_sn,
        ..TaskManagementRequest::default()
    })
}

fn logout(reason: u8, cid: u16) -> Pdu {
    let itt = Itt(CONTROL + 30);
    Pdu::LogoutRequest(LogoutRequest {
        immediate: true,
        reason,
        itt,
        cid: Cid(cid),
        ..LogoutRequest::default()
    })
}

fn event(event: u8, parameter: u16) -> Pdu {
    Pdu::AsyncMessage(AsyncMessage { event, parameters: [parameter, 0, 0], ..AsyncMessage::default() })
}

/// The login of a connection that joins.
fn join(talk: &mut Talk, name: &'static str, conn: u32, cid: u16) {
    let kind = LoginKind::Joining { session: talk.negotiated.session.clone(), tsih: talk.negotiated.tsih };
    let plan = LoginPlan { kind, cid: Cid(cid), cmd_sn: talk.cmd_sn, ..talk.login.clone() };
    talk.step(name, Step::Opened(conn, Box::new(plan)));
}

fn joined(talk: &mut Talk, name: &'static str, conn: u32) {
    let negotiated = talk.negotiated.clone();
    talk.step(name, Step::Connected(conn, Box::new(negotiated)));
}

/// Two connections of one session; one leaves, the other is lost, and the session is reinstated.
fn build(talk: &mut Talk) {
    let none = Ttt::NONE;
    talk.asks("read", 0, Pdu::ScsiCommand(read(1, 512)));
    join(talk, "join", 1, 8);
    joined(talk, "joined", 1);
    talk.asks("write", 1, Pdu::ScsiCommand(write(2, 3000, 512, false)));
    talk.asks("burst", 1, data_out(2, none, 0, 512..1024, true));
    talk.tells("data", 0, data_in(1, 0, 0..512, true, true));
    talk.tells("r2t", 1, r2t(2, 7, 0, 1024..2048));
    talk.tells("r2t 2", 1, r2t(2, 8, 1, 2048..3000));
    talk.asks("part", 1, data_out(2, Ttt(7), 0, 1024..1536, false));
    talk.asks("rest", 1, data_out(2, Ttt(7), 1, 1536..2048, true));
    talk.asks("part 2", 1, data_out(2, Ttt(8), 0, 2048..2500, false));
    talk.asks("rest 2", 1, data_out(2, Ttt(8), 1, 2500..3000, true));
    talk.tells("written", 1, good(2, 0));
    talk.asks("ping", 0, ping(1));
    talk.tells("echo", 0, Pdu::NopIn(NopIn { itt: Itt(CONTROL + 1), ..NopIn::default() }));
    talk.tells("call", 0, Pdu::NopIn(NopIn { ttt: Ttt(5), lun: Lun(3), ..NopIn::default() }));
    talk.asks(
        "answer",
        0,
        Pdu::NopOut(NopOut { immediate: true, ttt: Ttt(5), lun: Lun(3), ..NopOut::default() }),
    );
    let victim = talk.cmd_sn;
    talk.asks("early", 1, Pdu::ScsiCommand(write(3, 1024, 0, false)));
    talk.asks("late", 1, Pdu::ScsiCommand(write(4, 1024, 512, false)));
    talk.asks("early data", 1, data_out(3, none, 0, 0..512, false));
    talk.asks("early end", 1, data_out(3, none, 1, 512..1024, true));
    talk.asks("late data", 1, data_out(4, none, 0, 512..1024, true));
    talk.asks("abort", 1, abort(2, 3, victim));
    let aborted = TaskManagementResponse { itt: Itt(CONTROL + 2), ..TaskManagementResponse::default() };
    talk.tells("aborted", 1, Pdu::TaskManagementResponse(aborted));
    talk.tells("late done", 1, good(4, 0));
    talk.asks("leave", 1, logout(1, 8));
    let left = LogoutResponse { itt: Itt(CONTROL + 30), ..LogoutResponse::default() };
    talk.tells("left", 1, Pdu::LogoutResponse(left));
    talk.step("away", Step::Closed(1));
    recovery(talk);
    talk.asks("alone", 0, Pdu::ScsiCommand(plain(5)));
    talk.tells("word", 0, event(0, 0));
    talk.step("lost", Step::Closed(0));
    let plan = Box::new(talk.login.clone());
    talk.step("again", Step::Opened(2, plan));
    joined(talk, "anew", 2);
    talk.cmd_sn = talk.login.cmd_sn;
    talk.asks("read anew", 2, Pdu::ScsiCommand(read(1, 512)));
}

fn reassign(itt: u32, referenced: u32, exp_data_sn: u32) -> Pdu {
    Pdu::TaskManagementRequest(TaskManagementRequest {
        immediate: true,
        function: tmf::TASK_REASSIGN,
        itt: Itt(CONTROL + itt),
        referenced_itt: Itt(referenced),
        exp_data_sn,
        ..TaskManagementRequest::default()
    })
}

/// A connection is lost with two commands, of which one had come.
fn recovery(talk: &mut Talk) {
    join(talk, "join for a while", 4, 10);
    joined(talk, "joined for a while", 4);
    talk.asks("kept read", 4, Pdu::ScsiCommand(read(11, 1024)));
    talk.tells("half", 4, data_in(11, 0, 0..512, false, false));
    talk.asks("dropped", 4, Pdu::ScsiCommand(plain(12)));
    talk.step("cut", Step::Closed(4));
    let hole = talk.cmd_sn.minus(1);
    talk.asks(
        "remove",
        0,
        Pdu::LogoutRequest(LogoutRequest {
            immediate: true,
            reason: 2,
            itt: Itt(CONTROL + 31),
            cid: Cid(10),
            ..LogoutRequest::default()
        }),
    );
    let removed = LogoutResponse { itt: Itt(CONTROL + 31), ..LogoutResponse::default() };
    talk.tells("removed", 0, Pdu::LogoutResponse(removed));
    if let Pdu::LogoutResponse(removed) = talk.pdu("removed") {
        removed.exp_cmd_sn = hole;
    }
    talk.asks("reassign", 0, reassign(32, 11, 1));
    talk.again("dropped", 0, |_| {});
    let reassigned = TaskManagementResponse { itt: Itt(CONTROL + 32), ..TaskManagementResponse::default() };
    talk.tells("reassigned", 0, Pdu::TaskManagementResponse(reassigned));
    talk.tells("other half", 0, data_in(11, 1, 512..1024, true, true));
    talk.tells("not dropped", 0, good(12, 0));
}

/// A window that must be ignored, because it ends before it begins.
fn nonsense(talk: &mut Talk) {
    talk.tells("nonsense", 0, Pdu::NopIn(NopIn::default()));
    let first = talk.login.cmd_sn;
    if let Pdu::NopIn(nop) = talk.pdu("nonsense") {
        (nop.exp_cmd_sn, nop.max_cmd_sn) = (first.plus(200), first.plus(100));
    }
}

/// A command that the target has not taken when its connection is logged out.
/// A number is left out, and has not come when a ping that was sent later is answered.
fn lost_for_good(talk: &mut Talk) {
    let Pdu::DataIn(data) = talk.pdu("data") else { panic!() };
    let lost = data.stat_sn;
    data.stat_sn = lost.next();
    let Pdu::NopOut(ping) = talk.pdu("ping") else { panic!() };
    ping.exp_stat_sn = lost;
    let Pdu::NopIn(echo) = talk.pdu("echo") else { panic!() };
    echo.stat_sn = echo.stat_sn.next();
}

fn left_behind(talk: &mut Talk) {
    talk.asks("left behind", 1, Pdu::ScsiCommand(plain(6)));
    talk.more = Some(("left", |talk| {
        let hole = talk.cmd_sn.minus(1);
        if let Pdu::LogoutResponse(left) = talk.pdu("left") {
            left.exp_cmd_sn = hole;
        }
        talk.more = talk.later.take();
    }));
}

const LOGINS: &[(u16, Change)] = &[
    (21, Edit(|t| t.plan("join").target_name.clear())),
    (8, Edit(|t| t.plan("join").isid.0[0] = 0xc0)),
    (31, Edit(|t| t.plan("join").isid.0[5] = 9)),
    (42, After("read", |t| t.step("lost early", Step::Closed(0)))),
    (32, Edit(|t| t.plan("join").cid = Cid(7))),
    (35, Edit(|t| t.plan("join").cmd_sn = CmdSn(5))),
    (
        41,
        Edit(|t| {
            if let LoginKind::Joining { session, .. } = &mut t.plan("join").kind {
                session.max_burst_length += 1;
            }
        }),
    ),
    (66, First(|t| t.negotiated.session.max_connections = 1)),
    (195, Edit(|t| t.drop("lost"))),
    (
        3,
        After("alone", |t| {
            join(t, "joins", 3, 9);
            t.more = Some(("anew", |t| t.asks("stale", 3, ping(9))));
        }),
    ),
    (5, Edit(|t| t.login_of("joined").tpgt = Some(2))),
    (15, Edit(|t| t.drop("joined"))),
    (15, Edit(|t| t.swap("away", "leave"))),
    (
        216,
        Edit(|t| {
            t.drop("leave");
            t.drop("left");
        }),
    ),
    (210, spoil!("leave", LogoutRequest, l => l.reason = 3)),
    (210, spoil!("leave", LogoutRequest, l => l.cid = Cid(7))),
    (210, After("away", |t| t.asks("last leaves", 0, logout(1, 7)))),
    (211, After("leave", |t| t.asks("late", 1, ping(5)))),
    (211, After("away", |t| t.asks("leave all", 0, logout(0, 7)))),
    (218, After("echo", |t| t.tells("go", 0, event(1, 0)))),
    (219, After("echo", |t| t.tells("gone", 0, event(2, 8)))),
    (219, After("echo", |t| t.tells("gone", 0, event(3, 0)))),
];

const NUMBERS: &[(u16, Change)] = &[
    (34, spoil!("read", ScsiCommand, c => c.cmd_sn = c.cmd_sn.next())),
    (92, spoil!("ping", NopOut, n => n.cmd_sn = n.cmd_sn.next())),
    (92, spoil!("answer", NopOut, n => n.cmd_sn = n.cmd_sn.next())),
    (92, spoil!("late", ScsiCommand, c => c.cmd_sn = c.cmd_sn.minus(1))),
    (93, spoil!("ping", NopOut, n => n.cmd_sn = n.cmd_sn.minus(2))),
    (
        99,
        First(|t| {
            t.negotiated.max_cmd_sn = t.login.cmd_sn;
            t.window = 0;
        }),
    ),
    (
        97,
        First(|t| {
            t.negotiated.max_cmd_sn = t.login.cmd_sn.next();
            t.window = 0;
            t.more = Some(("data", nonsense));
        }),
    ),
    (100, After("read", |t| t.asks("again", 0, Pdu::ScsiCommand(read(1, 512))))),
    (107, After("read", |t| t.asks("other", 0, Pdu::ScsiCommand(read(1, 1024))))),
    (107, After("read", |t| t.asks("other", 0, Pdu::ScsiCommand(plain(u32::MAX))))),
    (229, spoil!("ping", NopOut, n => n.itt = Itt(2))),
    (187, After("late data", |t| t.again("early", 1, |c| c.expected_length += 1))),
    (187, After("late data", |t| t.again("early", 0, |_| {}))),
    (106, After("late done", left_behind)),
    (115, Edit(lost_for_good)),
    (116, spoil!("ping", NopOut, n => n.exp_stat_sn = n.exp_stat_sn.minus(1))),
    (116, spoil!("rest", DataOut, d => d.exp_stat_sn = d.exp_stat_sn.next())),
    (225, spoil!("answer", NopOut, n => n.lun = Lun(4))),
    (225, spoil!("answer", NopOut, n => n.ttt = Ttt(4))),
    (225, Edit(|t| t.drop("answer"))),
    (226, spoil!("answer", NopOut, n => n.immediate = false)),
    (226, spoil!("ping", NopOut, n => n.itt = Itt::NONE)),
];

const TASKS: &[(u16, Change)] = &[
    (142, Edit(|t| *t.pdu("ping") = Pdu::NopIn(NopIn::default()))),
    (
        170,
        First(|t| {
            t.negotiated.session.error_recovery_level = 0;
            let snack = |t: &mut Talk| t.asks("snack", 0, Pdu::SnackRequest(SnackRequest::default()));
            t.more = Some(("echo", snack));
        }),
    ),
    (131, spoil!("read", ScsiCommand, c => c.final_ = false)),
    (131, spoil!("read", ScsiCommand, c => c.read = false)),
    (131, spoil!("read", ScsiCommand, c => c.data = bytes(1))),
    (131, spoil!("late", ScsiCommand, c => c.expected_length = 512)),
    (133, spoil!("read", ScsiCommand, c => c.bidi_read_length = Some(1))),
    (133, spoil!("read", ScsiCommand, c => c.cdb.0.resize(300, 0))),
    (127, spoil!("part", DataOut, d => d.data = bytes(513))),
    (108, spoil!("burst", DataOut, d => d.itt = Itt(77))),
    (118, Edit(|t| t.divert("part"))),
    (120, Edit(|t| t.swap("early end", "late data"))),
    (121, spoil!("write", ScsiCommand, c => c.expected_length = 500)),
    (121, spoil!("burst", DataOut, d => d.final_ = false)),
    (121, spoil!("burst", DataOut, d => d.buffer_offset += 4)),
    (121, spoil!("burst", DataOut, d => d.data = bytes(500))),
    (122, First(|t| t.negotiated.session.initial_r2t = true)),
    (122, First(|t| t.negotiated.session.immediate_data = false)),
    (122, After("burst", |t| t.asks("more", 1, data_out(2, Ttt::NONE, 1, 1024..1025, true)))),
    (126, spoil!("burst", DataOut, d => d.data_sn = 1)),
    (126, spoil!("rest", DataOut, d => d.data_sn = 0)),
    (123, Edit(|t| t.swap("part", "part 2"))),
    (124, spoil!("part", DataOut, d => d.ttt = Ttt(9))),
    (124, spoil!("part", DataOut, d => d.lun = Lun(4))),
    (124, spoil!("part", DataOut, d => d.buffer_offset += 4)),
    (124, spoil!("part", DataOut, d => d.final_ = true)),
    (124, spoil!("rest", DataOut, d => d.final_ = false)),
    (124, spoil!("rest 2", DataOut, d => d.data = bytes(501))),
    (141, spoil!("abort", TaskManagementRequest, f => f.function = 13)),
    (147, Edit(|t| t.divert("abort"))),
    (148, spoil!("abort", TaskManagementRequest, f => f.ref_cmd_sn = f.cmd_sn)),
    (151, spoil!("abort", TaskManagementRequest, f => f.lun = Lun(1))),
    (151, spoil!("abort", TaskManagementRequest, f => f.referenced_itt = Itt::NONE)),
    (151, spoil!("abort", TaskManagementRequest, f => f.function = tmf::LOGICAL_UNIT_RESET)),
    (154, After("aborted", |t| t.asks("more", 1, data_out(3, Ttt(1), 0, 0..1, true)))),
    (166, spoil!("abort", TaskManagementRequest, f => f.function = tmf::TASK_REASSIGN)),
    (189, spoil!("removed", LogoutResponse, r => r.response = 1)),
    (191, spoil!("reassign", TaskManagementRequest, f => f.exp_data_sn = 0)),
];

const SOUND: &[Change] = &[
    After("word", |t| {
        let call = || Pdu::NopIn(NopIn { ttt: Ttt(6), ..NopIn::default() });
        t.asks("leave all", 0, logout(0, 7));
        t.tells("crosses", 0, call());
        t.tells("crosses too", 0, call());
    }),
    After("data", nonsense),
    After("late data", |t| t.again("early", 1, |_| {})),
    After("late done", |t| {
        left_behind(t);
        t.later = Some(("away", |t| t.again("left behind", 0, |_| {})));
    }),
];

pub(super) fn trials() -> Vec<(&'static str, fn())> {
    vec![("checker::upstream", || {
        let session = SessionParams {
            max_connections: 2,
            initial_r2t: false,
            first_burst_length: 1024,
            max_burst_length: 1024,
            max_outstanding_r2t: 2,
            error_recovery_level: 2,
            ..SessionParams::default()
        };
        Trial { session, upstream: true, build, spoiled: &[LOGINS, NUMBERS, TASKS], sound: SOUND }.run();
    })]
}
