//! The end of a session: drained, fenced, logged out, told once.

use super::*;
use braid::iscsi::LogoutRequest;

impl Rig {
    fn sent_logout(&mut self, conn: u32) -> LogoutRequest {
        match self.sent(conn) {
            Pdu::LogoutRequest(request) => request,
            other => panic!("not a logout: {other:?}"),
        }
    }
}

#[test]
fn an_idle_session_is_logged_out_connection_by_connection_r210() {
    for event in [Event::Stop, Event::DownstreamClosed(SessionPlan::FIRST_LINE)] {
        let mut rig = Rig::sessions(2);
        rig.settle();
        rig.handle(event);
        assert!(rig.downstream_closed);
        for conn in [0, 1] {
            let logout = rig.sent_logout(conn);
            assert_eq!((logout.reason, logout.immediate), (0, true), "alone in its session");
        }
        rig.answer_logout(0);
        assert_eq!(rig.finished, 0);
        rig.answer_logout(1);
        assert_eq!(rig.finished, 1);
        assert!(rig.closed.iter().all(|(_, how)| *how == How::Graceful));
        rig.handle(Event::DownstreamClosed(SessionPlan::FIRST_LINE));
        rig.handle(Event::Stop);
        rig.session.handle_timeout(rig.now + SECOND * 100);
        rig.drain();
        assert_eq!((rig.finished, rig.session.next_deadline()), (1, None));
    }
}

#[test]
fn connections_of_one_session_leave_one_by_one_r210() {
    for closed_by_target in [true, false] {
        let mut rig = Rig::mcs(3);
        rig.settle();
        rig.handle(Event::Stop);
        for conn in [0, 1] {
            let logout = rig.sent_logout(conn);
            assert_eq!((logout.reason, logout.cid.0), (1, u16::try_from(conn).unwrap()));
        }
        rig.quiet();
        rig.answer_logout(0);
        rig.answer_logout(1);
        // The last one waits until the target has closed the others, and closes the session.
        rig.cut(0);
        rig.quiet();
        if closed_by_target {
            rig.cut(1);
        } else {
            rig.pass(SECOND * 2);
        }
        let logout = rig.sent_logout(2);
        assert_eq!((logout.reason, logout.cid), (0, Cid(2)));
        assert_eq!(rig.finished, 0);
        rig.answer_logout(2);
        assert_eq!(rig.finished, 1);
        assert!(rig.closed.iter().all(|(_, how)| *how == How::Graceful));
    }
}

#[test]
fn what_is_not_acknowledged_makes_the_logout_take_a_number() {
    let mut rig = Rig::sessions(1);
    rig.settle();
    rig.pass(SECOND * 5);
    // The ping is under way.
    let next = match rig.sent(0) {
        Pdu::NopOut(nop) => nop.cmd_sn.next(),
        other => panic!("{other:?}"),
    };
    rig.handle(Event::Stop);
    let logout = rig.sent_logout(0);
    assert_eq!((logout.immediate, logout.cmd_sn), (false, next));
}

#[test]
fn a_logout_without_an_answer_ends_all_the_same() {
    let mut rig = Rig::sessions(1);
    rig.handle(Event::Stop);
    rig.sent_logout(0);
    rig.pass(SECOND * 2);
    assert_eq!(rig.finished, 1);
}

#[test]
fn what_waits_is_dropped_and_what_runs_is_drained_without_a_word() {
    let mut rig = Rig::sessions(1);
    rig.settle();
    rig.write(0, 1);
    let (_, running) = rig.next_command();
    rig.write(0, 1);
    rig.handle(Event::DownstreamClosed(SessionPlan::FIRST_LINE));
    rig.quiet();
    rig.respond(0, &running, GOOD);
    rig.sent_logout(0);
    rig.answer_logout(0);
    assert_eq!((rig.finished, rig.session.memory()), (1, 0));
}

#[test]
fn a_command_that_does_not_end_is_given_up_and_the_session_ends() {
    let mut rig = Rig::sessions(1);
    rig.settle();
    rig.read(0, 1);
    rig.next_command();
    rig.handle(Event::DownstreamClosed(SessionPlan::FIRST_LINE));
    rig.pass(SECOND * 4);
    assert!(rig.closed.is_empty());
    rig.pass(SECOND);
    assert_eq!((rig.closed.clone(), rig.finished), (vec![(0, How::Reset)], 1));
}

fn starving() -> Rig {
    let mut plan = plan(Fanout::Sessions, 2);
    plan.home.session.first_burst_length = 512;
    let mut rig = Rig::new(plan);
    rig.settle();
    rig.command(ScsiCommand { data: Payload::from(pattern(0, 512)), ..write(0, 4) });
    rig.told_r2t();
    assert_eq!(rig.next_command().0, 1);
    rig
}

#[test]
fn a_write_whose_data_will_not_come_is_given_up_and_fenced_before_the_end() {
    let mut rig = starving();
    rig.handle(Event::DownstreamClosed(SessionPlan::FIRST_LINE));
    assert_eq!(rig.closed, [(1, How::Reset)]);
    let (_, path, _) = rig.opens[0].clone();
    assert_eq!(path, 0, "over the living path");
    rig.quiet();
    let (fencing, _) = rig.connect();
    assert!(rig.notes.iter().any(|n| matches!(n, Notice::Fenced { .. })));
    for conn in [fencing, 0] {
        rig.sent_logout(conn);
        rig.answer_logout(conn);
    }
    assert_eq!(rig.finished, 1);
}

#[test]
fn a_fence_may_take_longer_than_the_drain() {
    let mut plan = plan(Fanout::Sessions, 2);
    plan.fence = FenceMethod::Ordered;
    let mut rig = Rig::new(plan);
    rig.settle();
    rig.write(0, 1);
    assert_eq!(rig.next_command().0, 1);
    rig.handle(Event::DownstreamClosed(SessionPlan::FIRST_LINE));
    rig.pass_echoing(SECOND * 5);
    assert_eq!(rig.closed, [(1, How::Reset)]);
    rig.obliging = false;
    let (conn, _) = rig.connect();
    rig.name_unit(conn);
    let ready = rig.sent_command(conn);
    rig.pass_echoing(SECOND * 10);
    rig.respond(conn, &ready, GOOD);
    assert!(rig.notes.iter().any(|n| matches!(n, Notice::Fenced { method: FenceMethod::Ordered, .. })));
    for conn in [conn, 0] {
        rig.sent_logout(conn);
        rig.answer_logout(conn);
    }
    assert_eq!(rig.finished, 1);
}

#[test]
fn ghosts_that_nothing_can_fence_end_with_time() {
    let mut rig = starving();
    rig.handle(Event::DownstreamClosed(SessionPlan::FIRST_LINE));
    rig.cut(0);
    for _ in 0..61 {
        while !rig.opens.is_empty() {
            rig.refuse(Cause::Tcp("no route".into()));
        }
        rig.pass(SECOND);
    }
    assert_eq!(rig.finished, 1);
}

#[test]
fn the_end_with_nothing_left_is_the_end() {
    let mut rig = Rig::sessions(1);
    rig.settle();
    rig.cut(0);
    rig.handle(Event::Stop);
    assert_eq!(rig.finished, 1);
}

#[test]
fn a_reinstatement_under_way_is_ended() {
    let mut rig = Rig::sessions(1);
    rig.settle();
    rig.obliging = false;
    rig.cut(0);
    rig.pass(SECOND);
    let (conn, _) = rig.connect();
    rig.handle(Event::Stop);
    rig.identify();
    rig.sent_logout(conn);
    rig.answer_logout(conn);
    assert_eq!(rig.finished, 1);
}

#[test]
fn identity_checks_under_way_are_ended() {
    let mut rig = Rig::sessions(2);
    rig.settle();
    rig.obliging = false;
    rig.cut(1);
    rig.pass(SECOND);
    rig.connect();
    rig.handle(Event::Stop);
    rig.quiet_but_questions();
    rig.identify();
    for conn in rig.lines.keys().copied().collect::<Vec<_>>() {
        rig.sent_logout(conn);
        rig.answer_logout(conn);
    }
    assert_eq!(rig.finished, 1);
}

impl Rig {
    fn quiet_but_questions(&self) {
        for line in self.lines.values() {
            assert!(line.sent.iter().all(is_question), "{:?}", line.sent);
        }
    }
}

#[test]
fn a_fence_that_a_reset_swept_away_is_built_again_at_the_end_too() {
    let mut plan = plan(Fanout::Sessions, 1);
    plan.fence = FenceMethod::Ordered;
    let mut rig = Rig::new(plan);
    rig.settle();
    rig.write(0, 1);
    rig.next_command();
    rig.cut(0);
    rig.pass(SECOND);
    rig.obliging = false;
    let (conn, _) = rig.connect();
    rig.sent_command(conn);
    rig.unit_wide(braid::iscsi::tmf::LOGICAL_UNIT_RESET);
    let reset = rig.sent_function(conn);
    rig.handle(Event::Stop);
    rig.function_done(conn, reset.itt, braid::iscsi::tmf::COMPLETE);
    rig.identify();
    rig.sent_logout(conn);
    rig.answer_logout(conn);
    assert_eq!(rig.finished, 1);
}
