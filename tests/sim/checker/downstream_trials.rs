//! A conversation of Braid with its initiator, and the ways to get it wrong.

use super::trials::{
    Change,
    Change::{After, Edit, First},
    Talk, Trial, bytes, data_in, data_out, good, plain, r2t, read, spoil, write,
};
use super::{Broken, Downstream};
use braid::iscsi::{
    AsyncMessage, Cid, CmdSn, Itt, LoginResponse, LogoutRequest, LogoutResponse, Lun, NopIn, NopOut, Payload,
    Pdu, Reject, ScsiCommand, ScsiResponse, SnackRequest, StatSn, TaskManagementRequest,
    TaskManagementResponse, TextRequest, TextResponse, Ttt, tmf,
};
use braid::login::{Negotiated, SessionParams};
use braid::session::{LineId, SessionPlan};

fn text(text: &str) -> Payload {
    Payload::from(text.as_bytes().to_vec())
}

fn function(itt: u32, function: u8, referenced: u32, ref_cmd_sn: CmdSn) -> Pdu {
    Pdu::TaskManagementRequest(TaskManagementRequest {
        immediate: true,
        function,
        itt: Itt(itt),
        referenced_itt: Itt(referenced),
        ref_cmd_sn,
        ..TaskManagementRequest::default()
    })
}

fn done(itt: u32, response: u8) -> Pdu {
    Pdu::TaskManagementResponse(TaskManagementResponse {
        response,
        itt: Itt(itt),
        ..TaskManagementResponse::default()
    })
}

fn logged_out(itt: u32, response: u8) -> Pdu {
    Pdu::LogoutResponse(LogoutResponse { response, itt: Itt(itt), ..LogoutResponse::default() })
}

fn logout(itt: u32, reason: u8, cid: u16) -> Pdu {
    let (itt, cid) = (Itt(itt), Cid(cid));
    Pdu::LogoutRequest(LogoutRequest { immediate: true, reason, itt, cid, ..LogoutRequest::default() })
}

fn refused(talk: &mut Talk, name: &'static str, of: &str) {
    let data = Payload::from(talk.pdu(of).encode().0.to_vec());
    // Its number is open again.
    let number = super::request(talk.pdu(of)).filter(|head| !head.immediate).map(|head| head.cmd_sn);
    talk.cmd_sn = number.unwrap_or(talk.cmd_sn);
    talk.tells(name, 0, Pdu::Reject(Reject { reason: 5, data, ..Reject::default() }));
}

/// One of everything.
fn build(talk: &mut Talk) {
    let none = Ttt::NONE;
    data(talk, none);
    talk.asks("ping", 0, Pdu::NopOut(NopOut { itt: Itt(5), data: bytes(600), ..NopOut::default() }));
    talk.tells("echo", 0, Pdu::NopIn(NopIn { itt: Itt(5), data: bytes(512), ..NopIn::default() }));
    talk.tells("call", 0, Pdu::NopIn(NopIn::default()));
    let itt = Itt(6);
    let asked = TextRequest { itt, final_: true, data: text("SendTargets=\0"), ..TextRequest::default() };
    talk.asks("text", 0, Pdu::TextRequest(asked));
    let told = TextResponse { itt, continue_: true, ttt: Ttt(1), ..TextResponse::default() };
    let own = text("TargetName=iqn.2026-11.org.example:target\0Target");
    talk.tells("targets", 0, Pdu::TextResponse(TextResponse { data: own, ..told }));
    talk.asks(
        "more",
        0,
        Pdu::TextRequest(TextRequest { itt, final_: true, ttt: Ttt(1), ..TextRequest::default() }),
    );
    let told = TextResponse {
        itt,
        final_: true,
        data: text("Address=192.0.2.1:3260,1\0"),
        ..TextResponse::default()
    };
    talk.tells("portals", 0, Pdu::TextResponse(told));
    functions(talk);
    talk.asks("snack", 0, Pdu::SnackRequest(SnackRequest::default()));
    refused(talk, "refused", "snack");
    talk.asks("bad", 0, Pdu::ScsiCommand(write(20, 0, 100, true)));
    refused(talk, "bad refused", "bad");
    talk.tells("event", 0, Pdu::AsyncMessage(AsyncMessage::default()));
    talk.asks("other", 0, logout(30, 1, 99));
    talk.tells("other stays", 0, logged_out(30, 1));
    talk.asks("recovery", 0, logout(31, 2, 7));
    talk.tells("no recovery", 0, logged_out(31, 2));
    talk.asks("logout", 0, logout(32, 1, 7));
    talk.tells("bye", 0, logged_out(32, 0));
}

fn data(talk: &mut Talk, none: Ttt) {
    talk.asks("read", 0, Pdu::ScsiCommand(read(1, 1500)));
    talk.tells("in", 0, data_in(1, 0, 0..512, false, false));
    talk.tells("in 2", 0, data_in(1, 1, 512..1024, true, false));
    talk.tells("in 3", 0, data_in(1, 2, 1024..1500, true, true));
    talk.asks("short", 0, Pdu::ScsiCommand(read(2, 512)));
    talk.tells("short data", 0, data_in(2, 0, 0..100, true, false));
    let (itt, residual) = (Itt(2), 412);
    let short = ScsiResponse { itt, residual, underflow: true, exp_data_sn: 1, ..ScsiResponse::default() };
    talk.tells("short done", 0, Pdu::ScsiResponse(short));
    talk.asks("write", 0, Pdu::ScsiCommand(write(3, 2048, 256, false)));
    talk.asks("out", 0, data_out(3, none, 0, 256..512, true));
    talk.tells("r2t", 0, r2t(3, 1, 0, 512..1536));
    talk.asks("out 2", 0, data_out(3, Ttt(1), 0, 512..1536, true));
    talk.tells("r2t 2", 0, r2t(3, 2, 1, 1536..2048));
    talk.asks("out 3", 0, data_out(3, Ttt(2), 0, 1536..2048, true));
    talk.tells("written", 0, good(3, 0));
    talk.asks("plain", 0, Pdu::ScsiCommand(plain(4)));
    let sense = ScsiResponse::sense_data(&[0x70, 0, 5, 0, 0, 0, 0, 0]);
    let check = ScsiResponse { itt: Itt(4), status: 2, data: sense, ..ScsiResponse::default() };
    talk.tells("sense", 0, Pdu::ScsiResponse(check));
    let (write, read) = (write(7, 100, 100, true), Some(50));
    talk.asks("both", 0, Pdu::ScsiCommand(ScsiCommand { read: true, bidi_read_length: read, ..write }));
    talk.tells("both in", 0, data_in(7, 0, 0..50, true, false));
    talk.tells("both done", 0, good(7, 1));
    talk.asks("failing", 0, Pdu::ScsiCommand(plain(8)));
    let failed = ScsiResponse { itt: Itt(8), response: 1, ..ScsiResponse::default() };
    talk.tells("failed", 0, Pdu::ScsiResponse(failed));
}

fn functions(talk: &mut Talk) {
    let past = talk.login.cmd_sn;
    talk.asks("victim", 0, Pdu::ScsiCommand(read(10, 512)));
    talk.asks("reset", 0, function(11, tmf::LOGICAL_UNIT_RESET, u32::MAX, CmdSn(0)));
    talk.tells("was reset", 0, done(11, tmf::COMPLETE));
    talk.asks("query", 0, function(12, tmf::QUERY_TASK, 99, CmdSn(0)));
    talk.asks("abort query", 0, function(13, tmf::ABORT_TASK, 12, CmdSn(0)));
    talk.tells("query stays", 0, done(13, tmf::REJECTED));
    talk.tells("no query", 0, done(12, tmf::NOT_SUPPORTED));
    talk.asks("abort old", 0, function(14, tmf::ABORT_TASK, 99, past));
    talk.tells("nothing old", 0, done(14, tmf::TASK_DOES_NOT_EXIST));
    talk.asks("late", 0, Pdu::ScsiCommand(plain(15)));
    let number = talk.cmd_sn.minus(1);
    talk.asks("abort late", 0, function(16, tmf::ABORT_TASK, 15, number));
    talk.tells("late done", 0, good(15, 0));
    talk.tells("too late", 0, done(16, tmf::TASK_DOES_NOT_EXIST));
}

const NUMBERS: &[(u16, Change)] = &[
    (111, spoil!("in 3", DataIn, d => d.stat_sn = d.stat_sn.next())),
    (112, spoil!("short done", ScsiResponse, r => r.stat_sn = r.stat_sn.minus(1))),
    (112, spoil!("r2t", R2t, r => r.stat_sn = r.stat_sn.next())),
    (112, spoil!("call", NopIn, n => n.stat_sn = n.stat_sn.next())),
    (95, spoil!("in", DataIn, d => d.exp_cmd_sn = d.exp_cmd_sn.next())),
    (95, spoil!("short done", ScsiResponse, r => r.exp_cmd_sn = r.exp_cmd_sn.minus(1))),
    (95, spoil!("r2t 2", R2t, r => r.exp_cmd_sn = r.exp_cmd_sn.minus(1))),
    (96, spoil!("in", DataIn, d => d.max_cmd_sn = d.exp_cmd_sn.minus(2))),
    (103, spoil!("sense", ScsiResponse, r => r.exp_cmd_sn = r.exp_cmd_sn.minus(1))),
    (
        94,
        Edit(|t| {
            let skip = |t: &mut Talk, name: &str| match t.pdu(name) {
                Pdu::ScsiCommand(c) => c.cmd_sn = c.cmd_sn.next(),
                Pdu::DataIn(d) => d.exp_cmd_sn = d.exp_cmd_sn.minus(1),
                other => panic!("{other:?}"),
            };
            skip(t, "read");
            skip(t, "in");
        }),
    ),
    (107, spoil!("in", DataIn, d => d.itt = Itt(77))),
    (107, spoil!("written", ScsiResponse, r => r.itt = Itt(1))),
    (107, spoil!("was reset", TaskManagementResponse, r => r.itt = Itt(77))),
    (119, spoil!("short data", DataIn, d => d.itt = Itt(1))),
    (142, Edit(|t| *t.pdu("call") = Pdu::NopOut(NopOut::default()))),
    (15, Edit(|t| t.replace("event", Pdu::LoginResponse(LoginResponse::default())))),
];

const DATA: &[(u16, Change)] = &[
    (75, spoil!("in 2", DataIn, d => d.buffer_offset += 4)),
    (108, spoil!("in", DataIn, d => (d.ttt, d.lun) = (Ttt(1), Lun(1)))),
    (108, spoil!("r2t", R2t, r => r.lun = Lun(1))),
    (125, spoil!("r2t", R2t, r => r.ttt = Ttt::NONE)),
    (125, spoil!("r2t", R2t, r => r.desired_length = 0)),
    (125, spoil!("r2t", R2t, r => r.desired_length = 1025)),
    (125, spoil!("r2t", R2t, r => r.buffer_offset += 4)),
    (125, spoil!("r2t 2", R2t, r => r.desired_length += 4)),
    (125, Edit(|t| t.drop("out 2"))),
    (126, spoil!("in 2", DataIn, d => d.data_sn = 0)),
    (126, spoil!("r2t 2", R2t, r => r.r2t_sn = 0)),
    (127, First(|t| t.negotiated.connection.max_send_data_segment = 500)),
    (127, spoil!("in 2", DataIn, d => d.final_ = false)),
    (127, spoil!("short data", DataIn, d => d.final_ = false)),
    (128, spoil!("in 3", DataIn, d => d.final_ = false)),
    (128, spoil!("in 3", DataIn, d => d.status = 2)),
    (130, spoil!("in", DataIn, d => d.acknowledge = true)),
    (134, spoil!("in 3", DataIn, d => d.data = bytes(477))),
    (134, spoil!("in 3", DataIn, d => d.data = bytes(475))),
    (134, spoil!("short done", ScsiResponse, r => r.overflow = true)),
    (134, spoil!("short done", ScsiResponse, r => r.underflow = false)),
    (134, spoil!("short done", ScsiResponse, r => r.residual = 411)),
    (134, spoil!("written", ScsiResponse, r => (r.underflow, r.residual) = (true, 2049))),
    (134, spoil!("written", ScsiResponse, r => r.bidi_underflow = true)),
    (134, spoil!("both done", ScsiResponse, r => r.bidi_residual = 1)),
    (135, spoil!("sense", ScsiResponse, r => r.data = Payload::new())),
    (136, spoil!("written", ScsiResponse, r => r.exp_data_sn = 2)),
    (136, spoil!("short done", ScsiResponse, r => r.exp_data_sn = 0)),
    (136, spoil!("failed", ScsiResponse, r => r.exp_data_sn = 1)),
    (137, spoil!("failed", ScsiResponse, r => r.residual = 1)),
    (138, Edit(|t| t.drop("out 3"))),
    (141, spoil!("failed", ScsiResponse, r => r.response = 2)),
];

const REQUESTS: &[(u16, Change)] = &[
    (141, spoil!("was reset", TaskManagementResponse, r => r.response = 8)),
    (141, spoil!("bye", LogoutResponse, l => l.response = 4)),
    (105, spoil!("bad refused", Reject, r => r.exp_cmd_sn = r.exp_cmd_sn.next())),
    (155, spoil!("reset", TaskManagementRequest, f => f.cmd_sn = f.cmd_sn.next())),
    (149, spoil!("nothing old", TaskManagementResponse, r => r.response = tmf::COMPLETE)),
    (149, Edit(|t| t.replace("late done", Pdu::AsyncMessage(AsyncMessage::default())))),
    (150, spoil!("query stays", TaskManagementResponse, r => r.response = tmf::COMPLETE)),
    (152, After("was reset", |t| t.tells("still", 0, data_in(10, 0, 0..512, true, false)))),
    (152, After("was reset", |t| t.tells("still", 0, good(10, 0)))),
    (170, spoil!("refused", Reject, r => r.reason = 4)),
    (181, spoil!("refused", Reject, r => r.data = bytes(47))),
    (181, After("bad refused", |t| t.tells("still", 0, good(20, 0)))),
    (182, spoil!("refused", Reject, r => r.reason = 0x0b)),
    (182, spoil!("refused", Reject, r => r.reason = 1)),
    (213, spoil!("other stays", LogoutResponse, l => l.response = 0)),
    (213, spoil!("no recovery", LogoutResponse, l => l.response = 0)),
    (213, spoil!("bye", LogoutResponse, l => l.response = 1)),
    (214, After("bye", |t| t.tells("and", 0, Pdu::NopIn(NopIn::default())))),
    (222, spoil!("event", AsyncMessage, e => e.event = 6)),
    (224, spoil!("echo", NopIn, n => n.itt = Itt(77))),
    (224, spoil!("echo", NopIn, n => n.ttt = Ttt(1))),
    (224, spoil!("echo", NopIn, n => n.data = bytes(100))),
    (227, spoil!("call", NopIn, n => n.data = bytes(1))),
    (48, spoil!("portals", TextResponse, t => t.data = text("Address=192.0.2.1:3260,1"))),
    (60, spoil!("portals", TextResponse, t => t.ttt = Ttt(1))),
    (60, spoil!("targets", TextResponse, t => t.ttt = Ttt::NONE)),
    (60, spoil!("more", TextRequest, t => t.final_ = false)),
    (62, spoil!("targets", TextResponse, t => t.data = bytes(513))),
    (
        232,
        spoil!("targets", TextResponse, t => t.data = text("TargetName=iqn.2026-11.org.example:other\0Target")),
    ),
    (232, spoil!("text", TextRequest, t => t.data = text("SendTargets=All\0"))),
    (233, spoil!("portals", TextResponse, t => t.data = text("Address=192.0.2.1:3260\0"))),
    (233, spoil!("portals", TextResponse, t => t.data = text("Alias=x\0"))),
    (237, spoil!("portals", TextResponse, t => t.continue_ = true)),
];

pub(super) fn trials() -> Vec<(&'static str, fn())> {
    vec![
        ("checker::downstream", || {
            let session = SessionParams {
                initial_r2t: false,
                first_burst_length: 512,
                max_burst_length: 1024,
                ..SessionParams::default()
            };
            Trial { session, upstream: false, build, spoiled: &[NUMBERS, DATA, REQUESTS], sound: SOUND }
                .run();
        }),
        ("checker::lines", lines),
    ]
}

/// What goes over two connections: a read over the second, and a function over it that is answered once the first has echoed a ping;
/// and the ways to get it wrong.
fn lines() {
    let (a, b) = (SessionPlan::FIRST_LINE, LineId(1));
    let negotiated =
        Talk::new(SessionParams { max_connections: 2, ..SessionParams::default() }, false).negotiated;
    let (first, stat_sn, other) = (negotiated.cmd_sn, negotiated.stat_sn, StatSn(900));
    let told = first.next();
    let max_cmd_sn = negotiated.max_cmd_sn;
    let judge = |answers: LineId, number: StatSn, acknowledged: StatSn| {
        let mut checker = Downstream::new(&negotiated);
        checker.joined(b, &Negotiated { stat_sn: other, cid: Cid(1), ..negotiated.clone() });
        checker.received(b, &Pdu::ScsiCommand(ScsiCommand { cmd_sn: first, ..plain(1) }));
        let good = ScsiResponse {
            itt: Itt(1),
            stat_sn: number,
            exp_cmd_sn: told,
            max_cmd_sn,
            ..ScsiResponse::default()
        };
        checker.sent(answers, &Pdu::ScsiResponse(good))?;
        let Pdu::TaskManagementRequest(asked) = function(2, tmf::ABORT_TASK_SET, u32::MAX, CmdSn(0)) else {
            panic!()
        };
        checker.received(b, &Pdu::TaskManagementRequest(TaskManagementRequest { cmd_sn: told, ..asked }));
        let numbers = NopIn { exp_cmd_sn: told, max_cmd_sn, ..NopIn::default() };
        checker.sent(a, &Pdu::NopIn(NopIn { itt: Itt::NONE, ttt: Ttt(1), stat_sn, ..numbers }))?;
        let echo = NopOut { immediate: true, itt: Itt::NONE, ttt: Ttt(1), cmd_sn: told, ..NopOut::default() };
        checker.received(a, &Pdu::NopOut(NopOut { exp_stat_sn: acknowledged, ..echo }));
        let Pdu::TaskManagementResponse(answer) = done(2, tmf::COMPLETE) else { panic!() };
        let stat_sn = other.next();
        let answer = TaskManagementResponse { stat_sn, exp_cmd_sn: told, max_cmd_sn, ..answer };
        checker.sent(b, &Pdu::TaskManagementResponse(answer))
    };
    let broken = |verdict: Result<(), Broken>| verdict.map_err(|broken| broken.requirement);
    assert_eq!(broken(judge(b, other, stat_sn)), Ok(()));
    assert_eq!(broken(judge(a, stat_sn, stat_sn)), Err(118));
    assert_eq!(broken(judge(b, stat_sn, stat_sn)), Err(111));
}

/// What the engine may do either way.
const SOUND: &[Change] = &[
    spoil!("both done", ScsiResponse, r => r.exp_data_sn = 1),
    Edit(|t| t.drop("call")),
    // A tag is given to another command before the abort of the first is answered.
    After("late done", |t| {
        t.asks("anew", 0, Pdu::ScsiCommand(plain(15)));
        t.more = Some(("too late", |t| {
            let Pdu::TaskManagementResponse(late) = t.pdu("too late") else { panic!() };
            late.response = tmf::COMPLETE;
            t.tells("anew done", 0, good(15, 0));
        }));
    }),
];
