//! Several connections of the initiator in one session.

use super::*;
use braid::iscsi::{LogoutRequest, NopOut, SnackRequest, TaskManagementRequest, reject, tmf};

const A: LineId = SessionPlan::FIRST_LINE;
const B: LineId = LineId(1);
const C: LineId = LineId(2);
const FIRST_CID: Cid = Cid(7);
/// As one path is silent about it: what is sent over connection 0 of the targets.
const HOME: u32 = 0;
const STAT_SN: StatSn = StatSn(500);

fn several(change: impl FnOnce(&mut SessionPlan)) -> Rig {
    let mut plan = plan(Fanout::Sessions, 1);
    plan.downstream.session.max_connections = 2;
    change(&mut plan);
    let mut rig = Rig::new(plan);
    rig.settle();
    rig
}

/// A session to which the initiator has added a second connection.
fn two() -> Rig {
    let mut rig = several(|_| {});
    rig.join(B, Cid(8));
    rig
}

impl Rig {
    fn join(&mut self, line: LineId, cid: Cid) {
        self.handle(Event::DownstreamAwaited(cid));
        let agreed = self.session.awaited(cid).expect("the connection is not admitted");
        assert_eq!((agreed.cmd_sn, agreed.cid), (self.cmd_sn, cid));
        let login = Negotiated { stat_sn: STAT_SN, ..*agreed };
        self.handle(Event::DownstreamJoined(line, Box::new(login)));
    }

    fn may_join(&mut self, cid: Cid) -> bool {
        self.handle(Event::DownstreamAwaited(cid));
        self.session.awaited(cid).is_some()
    }

    fn send_over(&mut self, line: LineId, pdu: Pdu) {
        self.handle(Event::Downstream(line, pdu));
    }

    fn command_over(&mut self, line: LineId, cmd_sn: CmdSn, command: ScsiCommand) -> Itt {
        let itt = self.tag();
        self.send_over(line, Pdu::ScsiCommand(ScsiCommand { itt, cmd_sn, ..command }));
        itt
    }

    /// The same under the next number.
    fn next_over(&mut self, line: LineId, command: ScsiCommand) -> Itt {
        let cmd_sn = self.take_cmd_sn();
        self.command_over(line, cmd_sn, command)
    }

    fn log_out_over(&mut self, line: LineId, reason: u8, cid: Cid) -> u8 {
        let (itt, cmd_sn) = (self.tag(), self.cmd_sn);
        let immediate = true;
        let request = LogoutRequest { immediate, reason, itt, cid, cmd_sn, ..LogoutRequest::default() };
        self.send_over(line, Pdu::LogoutRequest(request));
        assert_eq!(self.told_over.front(), Some(&line.0));
        match self.told() {
            Pdu::LogoutResponse(response) => response.response,
            other => panic!("not the answer to a logout: {other:?}"),
        }
    }

    /// The next PDU for the initiator is one of this kind over this connection.
    fn told_over_line(&mut self, line: LineId) -> Pdu {
        assert_eq!(self.told_over.front(), Some(&line.0), "{:?}", self.told.front());
        self.told()
    }

    /// Sends a function that changes nothing.
    fn query_over(&mut self, line: LineId) -> Itt {
        let (itt, cmd_sn) = (self.tag(), self.cmd_sn);
        let (immediate, function) = (true, tmf::QUERY_TASK);
        let query =
            TaskManagementRequest { immediate, function, itt, cmd_sn, ..TaskManagementRequest::default() };
        self.send_over(line, Pdu::TaskManagementRequest(query));
        itt
    }

    /// A GOOD status of this command over this connection.
    fn told_good_over(&mut self, line: LineId, itt: Itt) {
        assert_eq!(self.told_over.front(), Some(&line.0));
        self.told_status(itt, GOOD);
    }

    /// The initiator is told that a connection was dropped (R186).
    fn told_drop(&mut self, over: LineId, cid: Cid) {
        let Pdu::AsyncMessage(message) = self.told_over_line(over) else { panic!("no message") };
        assert_eq!((message.event, message.parameters), (2, [cid.0, 0, 0]));
    }

    /// The next command of this unit meets what became of the commands of a lost connection (R200).
    fn told_cleared(&mut self, line: LineId) {
        let itt = self.next_over(line, plain(&READY));
        assert_eq!(self.told_over.front(), Some(&line.0));
        self.told_sense(itt, 6, 0x47, 0x7f);
    }
}

#[test]
fn a_command_that_came_early_waits_for_the_other_connection_r94() {
    let mut rig = two();
    let (first, second) = (rig.take_cmd_sn(), rig.take_cmd_sn());
    let late = rig.command_over(B, second, read(8, 1));
    assert!(!rig.has_sent(HOME), "a hole is before it");
    let early = rig.command_over(A, first, read(0, 1));
    for (line, itt, lba) in [(A, early, 0), (B, late, 8)] {
        let command = rig.sent_command(HOME);
        assert_eq!(command.cdb.0[5], lba, "in the order of numbers");
        rig.serve_read(HOME, &command);
        assert!(matches!(rig.told_over_line(line), Pdu::DataIn(data) if data.itt == itt));
        rig.told_good_over(line, itt);
    }
    rig.quiet();
}

#[test]
fn what_comes_early_is_bounded_by_the_window_r96() {
    let mut rig = two();
    let beyond = rig.max_cmd_sn.next();
    rig.command_over(B, beyond, read(8, 1));
    let hole = rig.take_cmd_sn();
    rig.command_over(A, hole, read(0, 1));
    let command = rig.sent_command(HOME);
    assert_eq!(command.cdb.0[5], 0);
    assert!(!rig.has_sent(HOME), "what lies outside the window is not kept");
}

#[test]
fn data_of_a_command_keep_to_its_connection_r118() {
    let mut rig = two();
    let itt = rig.next_over(B, ScsiCommand { data: Payload::new(), ..write(0, 2) });
    let Pdu::R2t(r2t) = rig.told_over_line(B) else { panic!("not asked for data") };
    let data = |len| DataOut {
        final_: true,
        itt,
        ttt: r2t.ttt,
        data: Payload::from(pattern(0, len)),
        ..DataOut::default()
    };
    rig.send_over(A, Pdu::DataOut(data(1024)));
    let Pdu::Reject(refused) = rig.told_over_line(A) else { panic!("taken over another connection") };
    assert_eq!(refused.reason, reject::PROTOCOL_ERROR);
    rig.send_over(B, Pdu::DataOut(data(1024)));
    let command = rig.sent_command(HOME);
    if command.data.len() < 1024 {
        rig.ask(HOME, command.itt, 5, 0, u32::try_from(command.data.len()).unwrap()..1024);
        rig.sent_data(HOME);
    }
    rig.respond(HOME, &command, GOOD);
    rig.told_good_over(B, itt);
    rig.quiet();
}

#[test]
fn data_that_a_command_left_behind_are_not_taken_for_those_of_the_next_with_its_tag_r118() {
    let mut rig = two();
    let itt = rig.next_over(A, ScsiCommand { data: Payload::new(), ..write(0, 2) });
    let Pdu::R2t(old) = rig.told_over_line(A) else { panic!("not asked for data") };
    let abort = TaskManagementRequest {
        immediate: true,
        function: tmf::ABORT_TASK,
        itt: rig.tag(),
        referenced_itt: itt,
        ref_cmd_sn: rig.cmd_sn.minus(1),
        cmd_sn: rig.cmd_sn,
        ..TaskManagementRequest::default()
    };
    rig.send_over(A, Pdu::TaskManagementRequest(abort));
    let Pdu::NopIn(ping) = rig.told_over_line(B) else { panic!("not asked to acknowledge") };
    let pong = NopOut { immediate: true, itt: Itt::NONE, ttt: ping.ttt, ..NopOut::default() };
    rig.send_over(B, Pdu::NopOut(NopOut { exp_stat_sn: ping.stat_sn, ..pong }));
    let Pdu::TaskManagementResponse(answer) = rig.told_over_line(A) else { panic!("not answered") };
    assert_eq!(answer.response, tmf::COMPLETE);
    // The tag is free, and what goes over the other connection is faster.
    let cmd_sn = rig.take_cmd_sn();
    let next = ScsiCommand { itt, cmd_sn, data: Payload::new(), ..write(8, 2) };
    rig.send_over(B, Pdu::ScsiCommand(next));
    let Pdu::R2t(new) = rig.told_over_line(B) else { panic!("not asked for data") };
    let data = |first, ttt| {
        let data = Payload::from(pattern(first, 1024));
        Pdu::DataOut(DataOut { final_: true, itt, ttt, data, ..DataOut::default() })
    };
    rig.send_over(A, data(0, old.ttt));
    rig.quiet();
    rig.send_over(B, data(8, new.ttt));
    let command = rig.sent_command(HOME);
    assert_eq!((command.cdb.0[5], command.expected_length), (8, 1024));
    rig.respond(HOME, &command, GOOD);
    rig.told_good_over(B, itt);
    rig.quiet();
}

#[test]
fn unsolicited_data_follow_a_command_that_waits_for_another_connection() {
    let mut rig = several(|plan| plan.downstream.session.initial_r2t = false);
    rig.join(B, Cid(8));
    let (first, second) = (rig.take_cmd_sn(), rig.take_cmd_sn());
    let announced = ScsiCommand { final_: false, data: Payload::new(), ..write(0, 2) };
    let itt = rig.command_over(B, second, announced);
    let data = Payload::from(pattern(0, 1024));
    rig.send_over(B, Pdu::DataOut(DataOut { final_: true, itt, ttt: Ttt::NONE, data, ..DataOut::default() }));
    rig.quiet();
    let reads = rig.command_over(A, first, read(100, 1));
    let command = rig.sent_command(HOME);
    rig.serve_read(HOME, &command);
    assert_eq!(rig.told_data().itt, reads);
    rig.told_good_over(A, reads);
    let command = rig.sent_command(HOME);
    assert_eq!(command.expected_length, 1024);
    if command.data.len() < 1024 {
        rig.ask(HOME, command.itt, 5, 0, u32::try_from(command.data.len()).unwrap()..1024);
        rig.sent_data(HOME);
    }
    rig.respond(HOME, &command, GOOD);
    rig.told_good_over(B, itt);
}

#[test]
fn no_more_connections_than_agreed_and_none_without_agreement() {
    let mut rig = two();
    assert!(!rig.may_join(Cid(9)), "two were agreed to");
    assert!(rig.may_join(Cid(8)), "one in the place of another");
    assert_eq!(rig.closed_lines, [B.0]);
    assert!(!rig.may_join(Cid(9)), "the other is on its way");
    rig.handle(Event::DownstreamNotJoined(Cid(8)));
    assert!(rig.may_join(Cid(9)));
    let mut rig = Rig::sessions(1);
    rig.settle();
    assert!(!rig.may_join(Cid(9)) && !rig.may_join(FIRST_CID));
}

#[test]
fn a_login_under_a_cid_in_use_replaces_the_connection_and_ends_its_tasks_r193() {
    let mut rig = two();
    let runs = rig.next_over(B, write(0, 1));
    let kept = rig.next_over(A, write(8, 1));
    let (lost, other) = (rig.sent_command(HOME), rig.sent_command(HOME));
    rig.join(C, Cid(8));
    assert_eq!(rig.closed_lines, [B.0]);
    rig.quiet();
    // Its tag is free again, and what overlaps waits for what still runs.
    let cmd_sn = rig.take_cmd_sn();
    let repeated = write(0, 1);
    rig.send_over(C, Pdu::ScsiCommand(ScsiCommand { itt: runs, cmd_sn, ..repeated }));
    assert!(!rig.has_sent(HOME), "the earlier write has not ended");
    rig.respond(HOME, &other, GOOD);
    rig.told_good_over(A, kept);
    rig.respond(HOME, &lost, GOOD);
    assert_eq!(rig.told_over.front(), Some(&C.0));
    rig.told_sense(runs, 6, 0x47, 0x7f);
    rig.quiet();
}

#[test]
fn what_waits_inside_is_forgotten_with_its_connection() {
    let mut rig = two();
    let first = rig.next_over(A, write(0, 1));
    rig.next_over(B, write(0, 1));
    let runs = rig.sent_command(HOME);
    rig.handle(Event::DownstreamClosed(B));
    rig.told_drop(A, Cid(8));
    rig.respond(HOME, &runs, GOOD);
    rig.told_good_over(A, first);
    assert!(!rig.has_sent(HOME), "nobody wants the second write any more");
    rig.told_cleared(A);
}

#[test]
fn a_write_without_its_data_is_aborted_with_its_connection() {
    let mut rig = two();
    // As much as the target takes unasked, and no more.
    rig.next_over(B, ScsiCommand { data: Payload::from(pattern(0, 65_536)), ..write(0, 256) });
    rig.told_over_line(B);
    let begun = rig.sent_command(HOME);
    rig.handle(Event::DownstreamClosed(B));
    rig.told_drop(A, Cid(8));
    let Pdu::TaskManagementRequest(abort) = rig.sent(HOME) else { panic!("it waits for ever") };
    assert_eq!((abort.function, abort.referenced_itt), (tmf::ABORT_TASK, begun.itt));
    let again = rig.next_over(A, write(0, 4));
    assert!(!rig.has_sent(HOME), "the first may still run");
    rig.reply(HOME, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
        let itt = abort.itt;
        let answer = braid::iscsi::TaskManagementResponse {
            itt,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            ..Default::default()
        };
        Pdu::TaskManagementResponse(answer)
    });
    assert_eq!(rig.told_over.front(), Some(&A.0));
    rig.told_sense(again, 6, 0x47, 0x7f);
}

#[test]
fn a_lost_connection_is_logged_out_over_another_r213_r216() {
    let mut rig = two();
    let early = rig.take_cmd_sn().next();
    rig.command_over(B, early, read(8, 1));
    rig.handle(Event::DownstreamClosed(B));
    rig.told_drop(A, Cid(8));
    assert_eq!(rig.log_out_over(A, 1, Cid(9)), 1, "there is none");
    assert_eq!(rig.log_out_over(A, 1, Cid(8)), 0);
    assert_eq!(rig.log_out_over(A, 1, Cid(8)), 1, "it is gone now");
    // What had come early is sent again, under its number (R106).
    let itt = rig.command_over(A, early, read(8, 1));
    let hole = rig.command_over(A, early.minus(1), read(0, 1));
    rig.cmd_sn = early.next();
    for itt in [hole, itt] {
        let command = rig.sent_command(HOME);
        rig.serve_read(HOME, &command);
        assert_eq!(rig.told_data().itt, itt);
        rig.told_good_over(A, itt);
    }
    assert!(!rig.downstream_closed);
}

#[test]
fn connections_are_logged_out_one_by_one_r210() {
    let mut rig = two();
    assert_eq!(rig.log_out_over(A, 1, Cid(8)), 0);
    assert_eq!(rig.closed_lines, [B.0]);
    rig.join(C, Cid(8));
    assert_eq!(rig.log_out_over(A, 1, FIRST_CID), 0);
    assert_eq!(rig.closed_lines, [B.0, A.0]);
    assert!(!rig.downstream_closed, "one is left");
    let itt = rig.next_over(C, read(0, 1));
    let command = rig.sent_command(HOME);
    rig.serve_read(HOME, &command);
    assert_eq!(rig.told_data().itt, itt);
    rig.told_good_over(C, itt);
    assert_eq!(rig.log_out_over(C, 1, Cid(8)), 0);
    assert!(rig.downstream_closed, "that was the last");
}

#[test]
fn a_logout_of_the_session_closes_all_of_them() {
    let mut rig = two();
    assert_eq!(rig.log_out_over(B, 0, Cid(8)), 0);
    assert!(rig.downstream_closed && rig.closed_lines.is_empty());
}

#[test]
fn a_function_is_answered_once_what_went_over_the_others_is_acknowledged_r156() {
    let mut rig = two();
    let done = rig.next_over(A, read(0, 1));
    let command = rig.sent_command(HOME);
    rig.serve_read(HOME, &command);
    assert_eq!(rig.told_data().itt, done);
    rig.told_good_over(A, done);
    let (itt, cmd_sn) = (rig.tag(), rig.cmd_sn);
    let abort = TaskManagementRequest {
        immediate: true,
        function: tmf::ABORT_TASK,
        itt,
        referenced_itt: done,
        ref_cmd_sn: cmd_sn.minus(1),
        cmd_sn,
        ..TaskManagementRequest::default()
    };
    rig.send_over(B, Pdu::TaskManagementRequest(abort));
    let Pdu::NopIn(ping) = rig.told_over_line(A) else { panic!("not asked to acknowledge") };
    assert_eq!((ping.itt, ping.ttt == Ttt::NONE), (Itt::NONE, false));
    rig.quiet();
    let pong = NopOut { immediate: true, itt: Itt::NONE, ttt: ping.ttt, cmd_sn, ..NopOut::default() };
    rig.send_over(A, Pdu::NopOut(NopOut { exp_stat_sn: ping.stat_sn.minus(1), ..pong.clone() }));
    rig.quiet();
    rig.send_over(A, Pdu::NopOut(NopOut { exp_stat_sn: ping.stat_sn, ..pong }));
    let Pdu::TaskManagementResponse(answer) = rig.told_over_line(B) else { panic!("not answered") };
    assert_eq!((answer.itt, answer.response), (itt, tmf::TASK_DOES_NOT_EXIST));
    rig.quiet();
}

#[test]
fn a_connection_that_acknowledges_nothing_is_given_up() {
    let mut rig = two();
    let itt = rig.query_over(B);
    assert!(matches!(rig.told_over_line(A), Pdu::NopIn(_)));
    rig.pass(SECOND * 6);
    assert_eq!(rig.closed_lines, [A.0]);
    rig.told_drop(B, Cid(7));
    assert!(matches!(rig.told_over_line(B), Pdu::TaskManagementResponse(answer) if answer.itt == itt));
    assert_eq!(rig.log_out_over(B, 1, Cid(7)), 0, "it is known until it is logged out");
}

#[test]
fn a_lost_connection_is_told_of_before_what_waited_for_it_is_answered_r186() {
    let mut rig = two();
    let itt = rig.query_over(B);
    assert!(matches!(rig.told_over_line(A), Pdu::NopIn(_)));
    rig.handle(Event::DownstreamClosed(A));
    rig.told_drop(B, Cid(7));
    assert!(matches!(rig.told_over_line(B), Pdu::TaskManagementResponse(answer) if answer.itt == itt));
    rig.quiet();
}

#[test]
fn abort_task_over_another_connection_finds_its_task() {
    let mut rig = two();
    let (hole, number) = (rig.take_cmd_sn(), rig.take_cmd_sn());
    let waits = rig.command_over(A, number, write(0, 1));
    let itt = rig.tag();
    let abort = TaskManagementRequest {
        immediate: true,
        function: tmf::ABORT_TASK,
        itt,
        referenced_itt: waits,
        ref_cmd_sn: number,
        cmd_sn: rig.cmd_sn,
        exp_stat_sn: STAT_SN,
        ..TaskManagementRequest::default()
    };
    rig.send_over(B, Pdu::TaskManagementRequest(abort));
    let Pdu::NopIn(ping) = rig.told_over_line(A) else { panic!("not asked to acknowledge") };
    let pong = NopOut { immediate: true, itt: Itt::NONE, ttt: ping.ttt, ..NopOut::default() };
    rig.send_over(A, Pdu::NopOut(NopOut { exp_stat_sn: ping.stat_sn, ..pong }));
    let Pdu::TaskManagementResponse(answer) = rig.told_over_line(B) else { panic!("not answered") };
    assert_eq!((answer.itt, answer.response), (itt, tmf::COMPLETE));
    let other = rig.command_over(B, hole, read(8, 1));
    let command = rig.sent_command(HOME);
    assert_eq!(command.cdb.0[0], 0x28, "the write was given up before its turn");
    rig.serve_read(HOME, &command);
    assert_eq!(rig.told_data().itt, other);
    rig.told_good_over(B, other);
}

#[test]
fn abort_task_leaves_the_next_command_with_the_tag_alone_that_came_before_it() {
    let mut rig = two();
    let itt = rig.next_over(A, read(0, 1));
    let command = rig.sent_command(HOME);
    rig.serve_read(HOME, &command);
    assert!(matches!(rig.told_over_line(A), Pdu::DataIn(_)));
    rig.told_good_over(A, itt);
    // It was sent before the answer came; then the tag was free, and what goes over the other connection is faster.
    let abort = TaskManagementRequest {
        immediate: true,
        function: tmf::ABORT_TASK,
        itt: rig.tag(),
        referenced_itt: itt,
        ref_cmd_sn: rig.cmd_sn.minus(1),
        cmd_sn: rig.cmd_sn,
        ..TaskManagementRequest::default()
    };
    let cmd_sn = rig.take_cmd_sn();
    rig.send_over(B, Pdu::ScsiCommand(ScsiCommand { itt, cmd_sn, ..read(8, 1) }));
    let command = rig.sent_command(HOME);
    rig.send_over(A, Pdu::TaskManagementRequest(abort));
    let Pdu::NopIn(ping) = rig.told_over_line(B) else { panic!("not asked to acknowledge") };
    let pong = NopOut { immediate: true, itt: Itt::NONE, ttt: ping.ttt, ..NopOut::default() };
    rig.send_over(B, Pdu::NopOut(NopOut { exp_stat_sn: ping.stat_sn, ..pong }));
    let Pdu::TaskManagementResponse(answer) = rig.told_over_line(A) else { panic!("not answered") };
    assert_eq!(answer.response, tmf::TASK_DOES_NOT_EXIST);
    rig.serve_read(HOME, &command);
    assert!(matches!(rig.told_over_line(B), Pdu::DataIn(_)));
    rig.told_good_over(B, itt);
}

#[test]
fn what_was_lost_is_asked_for_again_over_its_own_connection_r173() {
    let mut rig = several(|plan| plan.downstream.session.error_recovery_level = 1);
    rig.join(B, Cid(8));
    let itt = rig.next_over(B, read(0, 1));
    let command = rig.sent_command(HOME);
    rig.serve_read(HOME, &command);
    assert!(matches!(rig.told_over_line(B), Pdu::DataIn(_)));
    let Pdu::ScsiResponse(response) = rig.told_over_line(B) else { panic!("no response") };
    let snack = |kind, itt, begin: u32| {
        let (ttt, exp_stat_sn) = (Ttt::NONE, STAT_SN);
        let request = SnackRequest { kind, itt, ttt, exp_stat_sn, ..SnackRequest::default() };
        Pdu::SnackRequest(SnackRequest { begin_run: begin, run_length: 1, ..request })
    };
    rig.send_over(B, snack(1, Itt::NONE, response.stat_sn.0));
    assert!(matches!(rig.told_over_line(B), Pdu::ScsiResponse(again) if again.itt == itt));
    rig.send_over(B, snack(0, itt, 0));
    assert!(matches!(rig.told_over_line(B), Pdu::DataIn(again) if again.itt == itt));
    rig.quiet();
}

#[test]
fn the_only_connection_is_replaced() {
    let mut rig = several(|_| {});
    rig.join(B, FIRST_CID);
    assert_eq!(rig.closed_lines, [A.0]);
    let itt = rig.next_over(B, read(0, 1));
    let command = rig.sent_command(HOME);
    rig.serve_read(HOME, &command);
    assert_eq!(rig.told_data().itt, itt);
    rig.told_good_over(B, itt);
    assert!(rig.may_join(FIRST_CID) && !rig.downstream_closed);
    rig.handle(Event::DownstreamNotJoined(FIRST_CID));
    assert!(rig.downstream_closed, "nobody is left");
}

#[test]
fn the_last_connection_takes_the_session_with_it() {
    let mut rig = two();
    rig.handle(Event::DownstreamClosed(A));
    rig.told_drop(B, FIRST_CID);
    assert!(!rig.downstream_closed);
    rig.handle(Event::DownstreamClosed(B));
    assert!(rig.downstream_closed);
}
