//! Task management: each function reaches the tasks it concerns wherever they are, and is answered once.

use super::*;
use braid::iscsi::{NopIn, TaskManagementRequest, TaskManagementResponse, reject, tmf};

fn two() -> Rig {
    let mut rig = Rig::sessions(2);
    rig.settle();
    rig
}

impl Rig {
    /// Sends an immediate function.
    pub(crate) fn manage(&mut self, request: TaskManagementRequest) -> Itt {
        let (itt, cmd_sn) = (self.tag(), self.cmd_sn);
        self.send(Pdu::TaskManagementRequest(TaskManagementRequest {
            immediate: true,
            itt,
            cmd_sn,
            ..request
        }));
        itt
    }

    pub(crate) fn abort(&mut self, referenced_itt: Itt, ref_cmd_sn: CmdSn) -> Itt {
        let function = tmf::ABORT_TASK;
        self.manage(TaskManagementRequest {
            function,
            referenced_itt,
            ref_cmd_sn,
            ..TaskManagementRequest::default()
        })
    }

    pub(crate) fn unit_wide(&mut self, function: u8) -> Itt {
        self.manage(TaskManagementRequest { function, ..TaskManagementRequest::default() })
    }

    pub(crate) fn sent_function(&mut self, conn: u32) -> TaskManagementRequest {
        match self.sent(conn) {
            Pdu::TaskManagementRequest(request) => request,
            other => panic!("not a function: {other:?}"),
        }
    }

    pub(crate) fn function_done(&mut self, conn: u32, itt: Itt, response: u8) {
        self.reply(conn, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            Pdu::TaskManagementResponse(TaskManagementResponse {
                response,
                itt,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                additional: 0,
            })
        });
    }

    pub(crate) fn told_function(&mut self, itt: Itt) -> u8 {
        match self.told() {
            Pdu::TaskManagementResponse(response) => {
                assert_eq!(response.itt, itt);
                response.response
            }
            other => panic!("not an answer to a function: {other:?}"),
        }
    }

    pub(crate) fn sent_ping(&mut self, conn: u32) -> Itt {
        match self.sent(conn) {
            Pdu::NopOut(nop) => nop.itt,
            other => panic!("not a ping: {other:?}"),
        }
    }

    pub(crate) fn echo(&mut self, conn: u32, itt: Itt) {
        self.reply(conn, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            Pdu::NopIn(NopIn { itt, stat_sn, exp_cmd_sn, max_cmd_sn, ..NopIn::default() })
        });
    }
}

#[test]
fn a_waiting_task_is_aborted_inside_braid_and_lets_go_who_waited_for_it() {
    let mut rig = two();
    let a = rig.write(0, 4);
    let first = rig.next_command();
    let number = rig.cmd_sn;
    let b = rig.write(0, 8);
    let c = rig.write(4, 4);
    let function = rig.abort(b, number);
    assert_eq!(rig.told_function(function), tmf::COMPLETE);
    let third = rig.next_command();
    assert_eq!(third.1.cdb, write(4, 4).cdb);
    rig.finish(c, &third);
    rig.finish(a, &first);
    rig.quiet();
    assert_eq!(rig.session.memory(), 0);
}

#[test]
fn a_write_that_a_reset_has_ended_gets_no_more_data_r154() {
    let mut rig = Rig::sessions(1);
    rig.settle();
    let itt = rig.command(ScsiCommand { data: Payload::new(), ..write(8, 600) });
    let asked = rig.told_r2t();
    rig.data_out(itt, asked.ttt, 0, 0..65536, false);
    let command = rig.sent_command(0);
    let begun = u32::try_from(command.data.len()).unwrap();
    rig.ask(0, command.itt, 5, 0, begun..begun + 131_072);
    while rig.has_sent(0) {
        rig.sent_data(0);
    }
    let function = rig.unit_wide(tmf::LOGICAL_UNIT_RESET);
    let sent = rig.sent_function(0);
    rig.function_done(0, sent.itt, tmf::COMPLETE);
    let echo = rig.sent_ping(0);
    rig.data_out(itt, asked.ttt, 1, 65536..131_072, false);
    rig.quiet();
    rig.echo(0, echo);
    // The rest is waited for, but some initiators send none.
    rig.quiet();
    rig.pass(SECOND);
    assert_eq!(rig.told_function(function), tmf::COMPLETE);
}

#[test]
fn a_reset_is_answered_once_the_data_that_was_asked_for_is_here_r155() {
    let mut rig = Rig::sessions(1);
    rig.settle();
    let itt = rig.command(ScsiCommand { data: Payload::new(), ..write(8, 8) });
    let asked = rig.told_r2t();
    let function = rig.unit_wide(tmf::LOGICAL_UNIT_RESET);
    let sent = rig.sent_function(0);
    rig.function_done(0, sent.itt, tmf::COMPLETE);
    rig.data_out(itt, asked.ttt, 0, 0..2048, false);
    rig.quiet();
    rig.data_out(itt, asked.ttt, 1, 2048..4096, true);
    assert_eq!(rig.told_function(function), tmf::COMPLETE);
    rig.quiet();
    assert_eq!(rig.session.memory(), 0);
}

#[test]
fn an_aborted_task_that_ends_first_is_answered_first_r154() {
    let mut rig = two();
    let number = rig.cmd_sn;
    let itt = rig.read(0, 1);
    let run = rig.next_command();
    let function = rig.abort(itt, number);
    let sent = rig.sent_function(1);
    rig.finish(itt, &run);
    rig.function_done(1, sent.itt, tmf::TASK_DOES_NOT_EXIST);
    assert_eq!(rig.told_function(function), tmf::TASK_DOES_NOT_EXIST);
}

#[test]
fn a_task_that_the_target_does_not_abort_goes_on() {
    let mut rig = two();
    let number = rig.cmd_sn;
    let itt = rig.read(0, 1);
    let run = rig.next_command();
    let function = rig.abort(itt, number);
    let sent = rig.sent_function(1);
    rig.function_done(1, sent.itt, tmf::NOT_SUPPORTED);
    assert_eq!(rig.told_function(function), tmf::NOT_SUPPORTED);
    rig.finish(itt, &run);
}

#[test]
fn a_task_that_the_target_has_lost_is_aborted_and_lets_go_who_waited_for_it_r149() {
    let mut rig = two();
    let number = rig.cmd_sn;
    let lost = rig.write(0, 1);
    let (conn, _) = rig.next_command();
    rig.write(0, 2);
    rig.quiet();
    let function = rig.abort(lost, number);
    let sent = rig.sent_function(conn);
    rig.function_done(conn, sent.itt, tmf::TASK_DOES_NOT_EXIST);
    assert_eq!(rig.told_function(function), tmf::COMPLETE);
    assert_eq!(rig.next_command().1.cdb, write(0, 2).cdb);
}

#[test]
fn a_finished_task_does_not_exist_r149() {
    let mut rig = two();
    let number = rig.cmd_sn;
    let itt = rig.read(0, 1);
    let run = rig.next_command();
    rig.finish(itt, &run);
    let function = rig.abort(itt, number);
    assert_eq!(rig.told_function(function), tmf::TASK_DOES_NOT_EXIST);
}

#[test]
fn a_task_that_came_early_is_aborted_too_r149() {
    let mut rig = two();
    let (first, number) = (rig.tag(), rig.take_cmd_sn());
    let aborted = rig.cmd_sn;
    let early = rig.write(8, 1);
    let function = rig.abort(early, aborted);
    assert_eq!(rig.told_function(function), tmf::COMPLETE);
    rig.send(Pdu::ScsiCommand(ScsiCommand { itt: first, cmd_sn: number, ..read(0, 1) }));
    let run = rig.next_command();
    rig.finish(first, &run);
    rig.quiet();
}

#[test]
fn a_number_that_was_not_sent_yet_cannot_be_aborted_r149() {
    let mut rig = two();
    let next = rig.cmd_sn;
    let tag = rig.tag();
    let function = rig.abort(tag, next);
    assert_eq!(rig.told_function(function), tmf::TASK_DOES_NOT_EXIST);
    let itt = rig.read(0, 1);
    let run = rig.next_command();
    rig.finish(itt, &run);
}

#[test]
fn a_task_that_owes_data_is_aborted_and_its_data_ignored() {
    let mut plan = plan(Fanout::Sessions, 1);
    plan.home.session.first_burst_length = 512;
    let mut rig = Rig::new(plan);
    let number = rig.cmd_sn;
    let itt = rig.command(ScsiCommand { data: Payload::from(pattern(0, 512)), ..write(0, 4) });
    let r2t = rig.told_r2t();
    let sent = rig.sent_command(0);
    rig.sense(0, &sent, 3, 0, 0);
    let function = rig.abort(itt, number);
    assert_eq!(rig.told_function(function), tmf::COMPLETE);
    rig.data_out(itt, r2t.ttt, 0, 512..2048, true);
    rig.quiet();
    assert_eq!(rig.session.memory(), 0);
}

#[test]
fn functions_without_a_meaning_here_are_answered_at_once_r166_r167_r169_r190() {
    let mut rig = two();
    let answers = [
        (tmf::TASK_REASSIGN, tmf::REASSIGN_UNSUPPORTED),
        (tmf::QUERY_TASK, tmf::NOT_SUPPORTED),
        (0, tmf::REJECTED),
        (13, tmf::REJECTED),
        (127, tmf::REJECTED),
    ];
    for (function, answer) in answers {
        let itt = rig.unit_wide(function);
        assert_eq!(rig.told_function(itt), answer, "{function}");
    }
    rig.quiet();
}

impl Rig {
    /// A set-wide function for unit 0 that goes to home, once the further nexus has shown that it has its commands.
    fn reset_home(&mut self, function: u8) -> (Itt, TaskManagementRequest) {
        let itt = self.unit_wide(function);
        assert!(!self.has_sent(0));
        let ping = self.sent_ping(1);
        self.echo(1, ping);
        (itt, self.sent_function(0))
    }
}

/// Two reads at the targets, over home and over the further nexus, and a write that waits for the first.
fn busy() -> (Rig, [Itt; 3], [(u32, ScsiCommand); 2]) {
    let mut rig = two();
    let further = rig.read(8, 1);
    let tags = [rig.read(0, 1), further, rig.write(0, 1)];
    let (home, further) = (rig.next_command(), rig.next_command());
    assert_eq!((home.0, further.0), (0, 1));
    (rig, tags, [home, further])
}

#[test]
fn set_wide_aborts_go_to_every_nexus_and_are_answered_once_all_have_answered_r151_r153_r164() {
    for code in [tmf::ABORT_TASK_SET, tmf::CLEAR_TASK_SET] {
        let (mut rig, _, runs) = busy();
        let itt = rig.unit_wide(code);
        let home = rig.sent_function(0);
        rig.quiet();
        rig.function_done(0, home.itt, tmf::COMPLETE);
        let further = rig.sent_function(1);
        // Home's reaches the task set of all, or of its own; another session's would clear commands of home's.
        assert_eq!([home.function, further.function], [code, tmf::ABORT_TASK_SET]);
        assert_eq!([home.referenced_itt, further.referenced_itt], [Itt::NONE; 2]);
        rig.quiet();
        rig.function_done(1, further.itt, tmf::COMPLETE);
        // Answers that are under way come first (R163).
        let pings = [rig.sent_ping(0), rig.sent_ping(1)];
        rig.echo(0, pings[0]);
        rig.quiet();
        rig.echo(1, pings[1]);
        assert_eq!(rig.told_function(itt), tmf::COMPLETE);
        for (conn, command) in &runs {
            rig.respond(*conn, command, CHECK);
        }
        rig.quiet();
        assert_eq!(rig.session.memory(), 0);
    }
}

#[test]
fn a_nexus_whose_function_met_another_unit_is_given_up_r151() {
    for same in [true, false] {
        let mut rig = two();
        rig.write(8, 1);
        assert_eq!(rig.next_command().0, 1);
        rig.obliging = false;
        let itt = rig.unit_wide(tmf::ABORT_TASK_SET);
        let home = rig.sent_function(0);
        rig.function_done(0, home.itt, tmf::COMPLETE);
        let further = rig.sent_function(1);
        rig.function_done(1, further.itt, tmf::COMPLETE);
        let ping = rig.sent_ping(1);
        rig.echo(1, ping);
        assert!(rig.told.is_empty(), "not before the unit has said who it is");
        let question = rig.sent_command(1);
        let mut name = disk(&question.cdb.0);
        *name.last_mut().unwrap() ^= u8::from(!same);
        rig.answer(1, &question, &name);
        assert_eq!(rig.told_function(itt), tmf::COMPLETE);
        assert_eq!(rig.closed.is_empty(), same);
        // What was lost with the nexus may still run.
        let later = rig.write(8, 1);
        if same {
            let run = rig.next_command();
            rig.finish(later, &run);
        }
        rig.quiet();
    }
}

#[test]
fn a_nexus_that_does_not_end_what_home_has_ended_is_given_up_r152_r164() {
    for refusal in [tmf::NOT_SUPPORTED, tmf::REJECTED] {
        let (mut rig, _, _) = busy();
        let itt = rig.unit_wide(tmf::ABORT_TASK_SET);
        let home = rig.sent_function(0);
        rig.function_done(0, home.itt, tmf::COMPLETE);
        let further = rig.sent_function(1);
        rig.function_done(1, further.itt, refusal);
        assert_eq!(rig.closed, [(1, How::Reset)]);
        let ping = rig.sent_ping(0);
        rig.echo(0, ping);
        assert_eq!(rig.told_function(itt), tmf::COMPLETE);
        rig.quiet();
    }
}

#[test]
fn a_function_that_is_never_answered_costs_the_nexus_and_not_the_unit() {
    for (code, answer) in [(tmf::ABORT_TASK_SET, tmf::COMPLETE), (tmf::LOGICAL_UNIT_RESET, tmf::REJECTED)] {
        let mut rig = Rig::sessions(1);
        rig.settle();
        let itt = rig.unit_wide(code);
        rig.sent_function(0);
        let later = rig.read(0, 1);
        rig.pass_with_echoes(79);
        assert!(rig.closed.is_empty() && rig.told.is_empty(), "it may be slow");
        rig.pass_with_echoes(1);
        assert_eq!(rig.closed, [(0, How::Reset)]);
        if answer == tmf::COMPLETE {
            assert_eq!(rig.told_function(itt), answer);
        }
        rig.pass(SECOND);
        rig.connect();
        if answer == tmf::REJECTED {
            assert_eq!(rig.told_function(itt), answer);
        }
        let run = rig.next_command();
        rig.finish(later, &run);
        rig.quiet();
    }
}

#[test]
fn target_cold_reset_ends_the_session_answered_or_not_r165() {
    for lost in [false, true] {
        let (mut rig, _, _) = busy();
        let (itt, sent) = rig.reset_home(tmf::TARGET_COLD_RESET);
        if lost {
            rig.cut(0);
        } else {
            rig.function_done(0, sent.itt, tmf::COMPLETE);
            assert_eq!(rig.told_function(itt), tmf::COMPLETE);
        }
        assert!(rig.downstream_closed);
        assert!(rig.told.is_empty());
    }
    let (mut rig, tags, runs) = busy();
    let (itt, sent) = rig.reset_home(tmf::TARGET_COLD_RESET);
    rig.function_done(0, sent.itt, tmf::NOT_SUPPORTED);
    assert_eq!(rig.told_function(itt), tmf::NOT_SUPPORTED);
    assert!(!rig.downstream_closed);
    rig.finish(tags[0], &runs[0]);
}

#[test]
fn a_reset_is_answered_after_what_other_connections_still_carried_r152_r163() {
    let (mut rig, tags, runs) = busy();
    let (itt, sent) = rig.reset_home(tmf::LOGICAL_UNIT_RESET);
    rig.quiet();
    rig.function_done(0, sent.itt, tmf::COMPLETE);
    let (home, further) = (rig.sent_ping(0), rig.sent_ping(1));
    rig.echo(0, home);
    rig.finish(tags[1], &runs[1]);
    rig.quiet();
    rig.echo(1, further);
    assert_eq!(rig.told_function(itt), tmf::COMPLETE);
    rig.respond(0, &runs[0].1, GOOD);
    rig.quiet();
}

#[test]
fn a_reset_that_is_refused_leaves_everything_as_it_was() {
    let (mut rig, tags, runs) = busy();
    let itt = rig.unit_wide(tmf::ABORT_TASK_SET);
    let sent = rig.sent_function(0);
    rig.function_done(0, sent.itt, tmf::NOT_SUPPORTED);
    assert_eq!(rig.told_function(itt), tmf::NOT_SUPPORTED);
    rig.quiet();
    rig.finish(tags[0], &runs[0]);
    rig.finish(tags[1], &runs[1]);
    let write = rig.next_command();
    rig.finish(tags[2], &write);
}

#[test]
fn a_task_the_reset_concerns_is_not_sent_again_elsewhere_r152() {
    let (mut rig, _, runs) = busy();
    let (itt, sent) = rig.reset_home(tmf::LOGICAL_UNIT_RESET);
    // The further nexus tells of the reset; its command would go home otherwise, behind the reset.
    rig.obliging = false;
    rig.sense(1, &runs[1].1, 6, 0x29, 0);
    rig.identify();
    rig.quiet();
    rig.function_done(0, sent.itt, tmf::COMPLETE);
    rig.identify();
    let ping = rig.sent_ping(0);
    rig.echo(0, ping);
    assert_eq!(rig.told_function(itt), tmf::COMPLETE);
    rig.identify();
    rig.quiet();
}

#[test]
fn commands_that_come_after_a_reset_wait_for_its_answer_r163() {
    let mut rig = two();
    let itt = rig.unit_wide(tmf::LOGICAL_UNIT_RESET);
    let sent = rig.sent_function(0);
    let later = rig.read(100, 1);
    rig.quiet();
    // Other units are not concerned.
    let other = rig.command(ScsiCommand { lun: OTHER_UNIT, ..read(0, 1) });
    let run = rig.next_command();
    rig.finish(other, &run);
    rig.function_done(0, sent.itt, tmf::COMPLETE);
    assert_eq!(rig.told_function(itt), tmf::COMPLETE);
    let run = rig.next_command();
    rig.finish(later, &run);
}

#[test]
fn a_nexus_lost_under_an_abort_ends_its_part_of_it() {
    let (mut rig, _, _) = busy();
    let itt = rig.unit_wide(tmf::ABORT_TASK_SET);
    let home = rig.sent_function(0);
    rig.function_done(0, home.itt, tmf::COMPLETE);
    rig.sent_function(1);
    rig.cut(1);
    let ping = rig.sent_ping(0);
    rig.echo(0, ping);
    assert_eq!(rig.told_function(itt), tmf::COMPLETE);
    rig.quiet();
}

#[test]
fn a_task_aborted_when_its_nexus_is_lost_does_not_run_again() {
    let mut rig = two();
    let number = rig.cmd_sn;
    let itt = rig.write(0, 1);
    rig.next_command();
    let function = rig.abort(itt, number);
    rig.sent_function(1);
    rig.cut(1);
    assert_eq!(rig.told_function(function), tmf::COMPLETE);
    rig.quiet();
    // Its ghost still holds back what it could harm.
    rig.write(0, 1);
    rig.write(8, 1);
    assert_eq!(rig.next_command().1.cdb, write(8, 1).cdb);
    rig.quiet();
}

#[test]
fn an_echo_that_is_refused_is_an_echo() {
    let (mut rig, _, _) = busy();
    let (itt, sent) = rig.reset_home(tmf::LOGICAL_UNIT_RESET);
    rig.function_done(0, sent.itt, tmf::COMPLETE);
    let home = rig.sent_ping(0);
    rig.echo(0, home);
    let ping = rig.sent(1);
    rig.refuse_pdu(1, &ping);
    assert_eq!(rig.told_function(itt), tmf::COMPLETE);
}

#[test]
fn a_function_that_is_refused_is_answered_as_rejected() {
    let mut rig = two();
    let itt = rig.unit_wide(tmf::LOGICAL_UNIT_RESET);
    let sent = rig.sent(0);
    rig.refuse_pdu(0, &sent);
    assert_eq!(rig.told_function(itt), tmf::REJECTED);
}

#[test]
fn functions_of_the_whole_target_concern_all_units() {
    let (mut rig, _, _) = busy();
    rig.command(ScsiCommand { lun: OTHER_UNIT, ..read(0, 1) });
    rig.next_command();
    let (itt, sent) = rig.reset_home(tmf::TARGET_WARM_RESET);
    rig.function_done(0, sent.itt, tmf::COMPLETE);
    let pings = [rig.sent_ping(0), rig.sent_ping(1)];
    rig.echo(0, pings[0]);
    rig.echo(1, pings[1]);
    assert_eq!(rig.told_function(itt), tmf::COMPLETE);
    assert_eq!(rig.session.in_flight(PathId(0)) + rig.session.in_flight(PathId(1)), 0);
}

#[test]
fn a_flood_of_functions_is_refused_and_each_is_answered_once_r104() {
    let mut rig = two();
    let mut open = Vec::new();
    for _ in 0..32 {
        let itt = rig.unit_wide(tmf::CLEAR_ACA);
        open.push((itt, rig.sent_function(0)));
    }
    let one_more = rig.unit_wide(tmf::CLEAR_ACA);
    assert_eq!(rig.told_function(one_more), tmf::REJECTED);
    for (itt, sent) in open {
        rig.function_done(0, sent.itt, tmf::COMPLETE);
        assert_eq!(rig.told_function(itt), tmf::COMPLETE);
    }
    rig.quiet();
}

#[test]
fn numbered_functions_take_their_turn_r94() {
    let mut rig = two();
    let (itt, first) = (rig.tag(), rig.take_cmd_sn());
    let (function, second) = (rig.tag(), rig.take_cmd_sn());
    rig.send(Pdu::TaskManagementRequest(TaskManagementRequest {
        function: tmf::ABORT_TASK,
        itt: function,
        cmd_sn: second,
        referenced_itt: itt,
        ref_cmd_sn: first,
        ..TaskManagementRequest::default()
    }));
    rig.quiet();
    rig.send(Pdu::ScsiCommand(ScsiCommand { itt, cmd_sn: first, ..read(0, 1) }));
    assert_eq!(rig.told_function(function), tmf::COMPLETE, "before the command was sent");
    rig.quiet();
}

#[test]
fn an_immediate_reset_waits_for_commands_that_were_sent_before_it_r145_r146() {
    let mut rig = two();
    let (first, number) = (rig.tag(), rig.take_cmd_sn());
    rig.read(8, 1);
    let reset = rig.unit_wide(tmf::LOGICAL_UNIT_RESET);
    rig.quiet();
    let (twin, cmd_sn) = (reset, rig.cmd_sn);
    let request =
        TaskManagementRequest { immediate: true, function: 5, itt: twin, cmd_sn, ..Default::default() };
    rig.send(Pdu::TaskManagementRequest(request));
    assert_eq!(rig.told_reject(), reject::TASK_IN_PROGRESS, "R107");
    rig.send(Pdu::ScsiCommand(ScsiCommand { itt: first, cmd_sn: number, ..read(0, 1) }));
    // Both are there now, and neither outlives the reset.
    let sent = rig.sent_function(0);
    rig.function_done(0, sent.itt, tmf::COMPLETE);
    assert_eq!(rig.told_function(reset), tmf::COMPLETE);
    rig.quiet();
    let later = rig.read(16, 1);
    let run = rig.next_command();
    rig.finish(later, &run);
}

#[test]
fn a_task_that_came_back_from_the_target_is_aborted_inside_braid_r149() {
    let mut rig = two();
    let number = rig.cmd_sn;
    let itt = rig.read(0, 1);
    let (conn, command) = rig.next_command();
    assert_eq!(conn, 1);
    let function = rig.abort(itt, number);
    let sent = rig.sent_function(1);
    rig.sense(1, &command, 6, 0x29, 3);
    rig.function_done(1, sent.itt, tmf::TASK_DOES_NOT_EXIST);
    assert_eq!(rig.told_function(function), tmf::COMPLETE);
    rig.quiet();
}

#[test]
fn questions_of_braids_own_that_a_reset_ended_are_asked_again() {
    let mut rig = Rig::sessions(2);
    rig.obliging = false;
    rig.connect();
    let itt = rig.read(0, 1);
    let run = rig.next_command();
    rig.finish(itt, &run);
    // Home is asked who it is: the reset ends that command without an answer.
    let (_, swept) = rig.question().unwrap();
    let function = rig.unit_wide(tmf::LOGICAL_UNIT_RESET);
    let sent = rig.sent_function(0);
    rig.function_done(0, sent.itt, tmf::COMPLETE);
    assert_eq!(rig.told_function(function), tmf::COMPLETE);
    let (conn, again) = rig.question().unwrap();
    assert_eq!((conn, &again.cdb), (0, &swept.cdb));
    let data = disk(&again.cdb.0);
    rig.answer(0, &again, &data);
    rig.identify();
    assert!(rig.notes.contains(&Notice::IdentityProved { path: PathId(1), lun: 0, there: 0 }));
}

#[test]
fn a_command_on_its_way_over_another_connection_does_not_outlive_a_reset_r145_r155() {
    // Several sessions, and several connections of one: the reset waits until the target has the command.
    for mut rig in [Rig::sessions(2), Rig::mcs(2)] {
        rig.settle();
        rig.write(0, 1);
        let (carrier, _) = rig.next_command();
        assert_eq!(carrier, 1);
        let itt = rig.unit_wide(tmf::LOGICAL_UNIT_RESET);
        let ping = rig.sent_ping(1);
        rig.quiet();
        rig.echo(1, ping);
        let sent = rig.sent_function(0);
        rig.function_done(0, sent.itt, tmf::COMPLETE);
        let ping = rig.sent_ping(1);
        rig.echo(1, ping);
        assert_eq!(rig.told_function(itt), tmf::COMPLETE);
    }
}
