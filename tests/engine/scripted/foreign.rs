//! What foreign targets do that no standard foresees, and Braid once stumbled over.

use super::*;
use braid::iscsi::{TaskManagementRequest, TaskManagementResponse, tmf};

/// istgt never answers a READ whose R bit is clear: nobody may wait for it.
#[test]
fn a_read_that_can_read_nothing_holds_nobody_back() {
    let mut rig = Rig::sessions(1);

    rig.command(ScsiCommand { read: false, expected_length: 0, ..read(0, 1) });
    rig.sent_command(0);
    rig.read(0, 1);
    assert_eq!(rig.sent_command(0).cdb, read(0, 1).cdb);
}

#[test]
fn a_write_without_data_holds_nobody_back_but_write_same_does() {
    let mut rig = Rig::sessions(1);
    rig.command(ScsiCommand { write: false, expected_length: 0, data: Payload::new(), ..write(0, 1) });
    rig.sent_command(0);
    let same = plain(&[0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
    rig.command(same);
    rig.sent_command(0);
    rig.read(0, 1);
    assert!(!rig.has_sent(0), "WRITE SAME may write without data");
}

fn reset(rig: &mut Rig) -> Itt {
    let itt = rig.tag();
    let cmd_sn = rig.cmd_sn;
    rig.send(Pdu::TaskManagementRequest(TaskManagementRequest {
        immediate: true,
        function: tmf::LOGICAL_UNIT_RESET,
        itt,
        cmd_sn,
        ..TaskManagementRequest::default()
    }));
    itt
}

fn sent_reset(rig: &mut Rig, conn: u32) -> Itt {
    match rig.sent(conn) {
        Pdu::TaskManagementRequest(request) => {
            assert_eq!(request.function, tmf::LOGICAL_UNIT_RESET);
            request.itt
        }
        other => panic!("not a reset: {other:?}"),
    }
}

/// istgt's LUN RESET closes the other connections of the unit, and with them Braid gives up the MC/S session.
#[test]
fn a_reset_that_loses_home_goes_out_again_and_is_answered_once() {
    let mut rig = Rig::mcs(1);
    let asked = reset(&mut rig);
    sent_reset(&mut rig, 0);
    rig.cut(0);
    rig.quiet();
    rig.pass(SECOND);
    let (conn, _) = rig.connect();
    let itt = sent_reset(&mut rig, conn);
    rig.reply(conn, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
        let response = tmf::COMPLETE;
        Pdu::TaskManagementResponse(TaskManagementResponse {
            response,
            itt,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            additional: 0,
        })
    });
    match rig.told() {
        Pdu::TaskManagementResponse(answer) => {
            assert_eq!((answer.itt, answer.response), (asked, tmf::COMPLETE))
        }
        other => panic!("not an answer: {other:?}"),
    }
    rig.quiet();
}

#[test]
fn a_reset_that_loses_home_again_and_again_is_rejected() {
    let mut rig = Rig::mcs(1);
    let asked = reset(&mut rig);
    let mut conn = 0;
    for _ in 0..4 {
        sent_reset(&mut rig, conn);
        rig.cut(conn);
        rig.pass(10 * SECOND);
        (conn, _) = rig.connect();
    }
    match rig.told() {
        Pdu::TaskManagementResponse(answer) => {
            assert_eq!((answer.itt, answer.response), (asked, tmf::REJECTED))
        }
        other => panic!("not an answer: {other:?}"),
    }
}

/// istgt drops the commands of a new session while it clears up the one before, and answers pings all the while.
#[test]
fn a_new_session_that_loses_braids_own_command_is_opened_anew() {
    let mut plan = plan(Fanout::Mcs, 1);
    plan.fence = FenceMethod::Auto;
    let mut rig = Rig::new(plan);
    rig.settle();
    let itt = rig.write(0, 1);
    rig.sent_command(0);
    rig.cut(0);
    rig.obliging = false;
    rig.pass(SECOND);
    let (dropped, _) = rig.connect();
    rig.sent_command(dropped);
    rig.pass_echoing(SECOND * 5);
    assert!(rig.closed.contains(&(dropped, How::Reset)));
    rig.obliging = true;
    rig.pass(SECOND * 5);
    let (conn, _) = rig.connect();
    let command = rig.sent_command(conn);
    assert_eq!(command.cdb, write(0, 1).cdb);
    rig.respond(conn, &command, GOOD);
    rig.told_status(itt, GOOD);
}

/// A target that answers pings and nothing else has lost the command: it runs again on a session opened anew.
#[test]
fn a_read_without_an_answer_runs_again_after_the_task_timeout_r168() {
    let mut rig = Rig::sessions(1);
    rig.settle();
    let itt = rig.read(0, 1);
    rig.sent_command(0);
    rig.pass_echoing(SECOND * 19);
    assert!(rig.closed.is_empty(), "a slow target is not a dead path");
    rig.pass_echoing(SECOND * 4);
    assert_eq!(rig.closed, [(0, How::Reset)]);
    rig.pass(SECOND);
    let (conn, _) = rig.connect();
    let command = rig.sent_command(conn);
    rig.serve_read(conn, &command);
    rig.told_data();
    rig.told_status(itt, GOOD);
}

#[test]
fn a_read_that_much_younger_ones_overtook_is_lost_too() {
    let mut rig = Rig::sessions(1);
    rig.settle();
    rig.read(0, 1);
    rig.sent_command(0);
    for _ in 0..6 {
        rig.pass_echoing(SECOND * 4);
        let itt = rig.read(64, 1);
        if rig.closed.is_empty() {
            let command = rig.sent_command(0);
            rig.serve_read(0, &command);
            assert_eq!(rig.told_data().itt, itt);
            rig.told_status(itt, GOOD);
        }
    }
    assert_eq!(rig.closed, [(0, How::Reset)]);
}

#[test]
fn a_write_whose_data_the_initiator_keeps_back_and_a_flush_may_take_their_time() {
    let mut rig = Rig::sessions(1);
    rig.settle();
    rig.command(ScsiCommand { data: Payload::new(), ..write(0, 1) });
    rig.plain(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    rig.pass_echoing(SECOND * 60);
    assert!(rig.closed.is_empty());
}
