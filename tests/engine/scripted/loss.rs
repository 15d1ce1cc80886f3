//! Lost paths: what moves, what is told, what waits for a fence, and when a path counts as lost.

use super::*;
use braid::iscsi::{AsyncMessage, NopIn};

fn two() -> Rig {
    let mut rig = Rig::sessions(2);
    rig.settle();
    rig
}

fn fenced_by(method: FenceMethod) -> Rig {
    let mut plan = plan(Fanout::Sessions, 2);
    plan.fence = method;
    let mut rig = Rig::new(plan);
    rig.settle();
    rig
}

/// A write is lost with the further nexus, sent again over home and answered; a newer one waits for the fence.
fn haunted(rig: &mut Rig) {
    let lost = rig.write(0, 8);
    assert_eq!(rig.next_command().0, 1);
    rig.cut(1);
    let again = rig.next_command();
    assert_eq!((again.0, again.1.cdb.clone()), (0, write(0, 8).cdb));
    rig.finish(lost, &again);
    rig.write(4, 8);
    rig.quiet();
}

impl Rig {
    /// A fence over another path than the one lost begins with the questions who the unit is, and of which size.
    pub(crate) fn name_unit(&mut self, conn: u32) {
        for expected in [[0x12, 1, 0x83], [0x25, 0, 0]] {
            let question = self.sent_command(conn);
            assert_eq!(question.cdb.0[..3], expected);
            self.answer(conn, &question, &disk(&question.cdb.0));
        }
    }

    fn fenced(&self) -> Option<FenceMethod> {
        let found = |n: &Notice| match n {
            Notice::Fenced { method, .. } => Some(*method),
            _ => None,
        };
        self.notes.iter().find_map(found)
    }

    fn announce(&mut self, conn: u32, event: u8, parameters: [u16; 3]) {
        self.reply(conn, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            Pdu::AsyncMessage(AsyncMessage {
                event,
                parameters,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                ..AsyncMessage::default()
            })
        });
    }

    /// Lets time pass; every ping is echoed.
    pub(crate) fn pass_echoing(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.session.next_deadline().filter(|at| *at <= end) {
            let step = at.saturating_duration_since(self.now);
            self.pass(step);
            let conns: Vec<u32> = self.lines.keys().copied().collect();
            for conn in conns {
                while matches!(self.lines.get(&conn).and_then(|l| l.sent.front()), Some(Pdu::NopOut(_))) {
                    let ping = self.sent_ping(conn);
                    self.echo(conn, ping);
                }
            }
        }
        self.now = end;
    }
}

#[test]
fn reinstatement_over_another_path_of_the_group_is_the_fence_where_it_is_proved_r195() {
    let mut rig = fenced_by(FenceMethod::Reinstate);
    let (_, _, own) = Rig::sessions(2).opened();
    haunted(&mut rig);
    let (_, path, plan) = rig.opens[0].clone();
    assert_eq!(
        (path, plan.kind, plan.isid),
        (0, LoginKind::Leading, own.isid),
        "without waiting for its path"
    );
    let (conn, _) = rig.connect();
    assert_eq!(rig.fenced(), Some(FenceMethod::Reinstate));
    assert!(matches!(rig.sent(conn), Pdu::LogoutRequest(l) if l.reason == 0));
    assert_eq!(rig.next_command().1.cdb, write(4, 8).cdb);
    assert_eq!(rig.session.tally().held.map(|waits| waits.count), [0, 0, 1], "for the write in doubt");
    rig.quiet();
}

#[test]
fn an_ordered_command_completes_the_fence_once_it_took_its_turn() {
    let mut rig = fenced_by(FenceMethod::Ordered);
    haunted(&mut rig);
    rig.obliging = false;
    let (conn, _) = rig.connect();
    rig.name_unit(conn);
    // Answers that may be given before the command takes its place prove nothing.
    for answer in 0..4 {
        let ready = rig.sent_command(conn);
        assert_eq!((ready.attribute, ready.cdb), (TaskAttribute::Ordered, plain(&[0]).cdb));
        let itt = ready.itt;
        match answer {
            0 => rig.sense(conn, &ScsiCommand { itt, ..plain(&[0]) }, 6, 0x29, 0),
            1 => rig.respond(conn, &ScsiCommand { itt, ..plain(&[0]) }, 8),
            2 => rig.respond(conn, &ScsiCommand { itt, ..plain(&[0]) }, 0x18),
            _ => rig.respond(conn, &ScsiCommand { itt, ..plain(&[0]) }, GOOD),
        }
        assert_eq!(rig.fenced().is_some(), answer == 3);
    }
    assert_eq!(rig.fenced(), Some(FenceMethod::Ordered));
    assert_eq!(rig.next_command().1.cdb, write(4, 8).cdb);
}

#[test]
fn the_fence_follows_what_the_target_says_it_is() {
    for (vendor, method) in [
        (&b"IET     "[..], Some(FenceMethod::Ordered)),
        (b"LIO-ORG ", Some(FenceMethod::Reinstate)),
        (b"SOMEBODY", None),
    ] {
        let mut rig = fenced_by(FenceMethod::Auto);
        haunted(&mut rig);
        rig.obliging = false;
        rig.connect();
        while let Some((conn, command)) = rig.question() {
            let mut data = disk(&command.cdb.0);
            if command.cdb.0[..2] == [0x12, 0] {
                data[8..16].copy_from_slice(vendor);
            }
            rig.answer(conn, &command, &data);
        }
        assert_eq!(rig.fenced(), method);
    }
}

#[test]
fn reinstatement_at_another_target_is_no_fence() {
    let mut rig = fenced_by(FenceMethod::Reinstate);
    haunted(&mut rig);
    rig.obliging = false;
    let (conn, _) = rig.connect();
    let question = rig.sent_command(conn);
    let mut another = disk(&question.cdb.0);
    *another.last_mut().unwrap() ^= 1;
    rig.answer(conn, &question, &another);
    assert!(matches!(rig.sent(conn), Pdu::LogoutRequest(_)), "of no use");
    assert_eq!(rig.fenced(), None);
    rig.quiet();
    rig.answer_logout(conn);
    rig.pass_echoing(SECOND * 60);
    assert_eq!(rig.fenced(), Some(FenceMethod::Time));
}

#[test]
fn a_copy_of_another_size_under_the_units_name_is_no_fence() {
    for same in [true, false] {
        let mut rig = fenced_by(FenceMethod::Reinstate);
        haunted(&mut rig);
        rig.obliging = false;
        let (conn, _) = rig.connect();
        let question = rig.sent_command(conn);
        rig.answer(conn, &question, &disk(&question.cdb.0));
        let question = rig.sent_command(conn);
        rig.sense(conn, &question, 6, 0x29, 0);
        let question = rig.sent_command(conn);
        let mut size = disk(&question.cdb.0);
        size[3] ^= u8::from(!same);
        rig.answer(conn, &question, &size);
        assert_eq!(rig.fenced(), same.then_some(FenceMethod::Reinstate));
        assert!(matches!(rig.sent(conn), Pdu::LogoutRequest(_)));
    }
}

#[test]
fn a_fence_knows_a_unit_that_does_not_tell_its_size_by_its_name() {
    let mut rig = fenced_by(FenceMethod::Reinstate);
    haunted(&mut rig);
    rig.obliging = false;
    let (conn, _) = rig.connect();
    let question = rig.sent_command(conn);
    rig.answer(conn, &question, &disk(&question.cdb.0));
    let question = rig.sent_command(conn);
    rig.sense(conn, &question, 2, 0x04, 0x0b);
    assert_eq!(rig.fenced(), Some(FenceMethod::Reinstate));
}

#[test]
fn where_nothing_is_proved_time_is_the_fence_and_the_target_is_not_bothered_again() {
    let mut rig = fenced_by(FenceMethod::Time);
    haunted(&mut rig);
    let (conn, _) = rig.connect();
    assert!(matches!(rig.sent(conn), Pdu::LogoutRequest(_)));
    rig.answer_logout(conn);
    // Its own path is tried again and again; the living one has done what it could.
    for _ in 0..59 {
        while !rig.opens.is_empty() {
            assert_eq!(rig.refuse(Cause::Tcp("no route".into())), 1);
        }
        rig.pass_echoing(SECOND);
    }
    assert_eq!(rig.fenced(), None);
    rig.quiet();
    rig.pass_echoing(SECOND * 2);
    assert_eq!(rig.fenced(), Some(FenceMethod::Time));
    assert_eq!(rig.next_command().1.cdb, write(4, 8).cdb);
}

#[test]
fn time_alone_lays_ghosts_where_no_path_is_left_to_fence_over() {
    let mut rig = two();
    let lost = rig.write(0, 8);
    rig.next_command();
    rig.cut(1);
    let again = rig.next_command();
    rig.finish(lost, &again);
    rig.write(0, 8);
    rig.quiet();
    // The fencing login is refused for ever.
    for _ in 0..60 {
        while !rig.opens.is_empty() {
            rig.refuse(Cause::Login("no".into()));
        }
        rig.pass_echoing(SECOND);
    }
    assert_eq!(rig.fenced(), Some(FenceMethod::Time));
    assert_eq!(rig.next_command().1.cdb, write(0, 8).cdb);
}

#[test]
fn a_fence_that_is_overtaken_by_time_leaves_nothing_behind() {
    let mut rig = fenced_by(FenceMethod::Ordered);
    haunted(&mut rig);
    rig.obliging = false;
    let (conn, _) = rig.connect();
    let ready = rig.sent_command(conn);
    rig.pass_echoing(SECOND * 60);
    assert_eq!(rig.fenced(), Some(FenceMethod::Time));
    assert_eq!(rig.next_command().1.cdb, write(4, 8).cdb);
    if rig.lines.contains_key(&conn) {
        rig.respond(conn, &ready, GOOD);
    }
    rig.pass_echoing(SECOND * 5);
    assert!(!rig.lines.contains_key(&conn));
}

#[test]
fn a_new_attempt_at_a_fence_does_not_take_the_old_ones_answer_for_its_own() {
    let mut rig = fenced_by(FenceMethod::Auto);
    haunted(&mut rig);
    rig.obliging = false;
    // The window of the fencing session is closed at first: the question waits in Braid.
    let (first, _) = rig.connect_as(|n| n.max_cmd_sn = n.cmd_sn.minus(1));
    assert!(!rig.has_sent(first));
    rig.announce(first, 1, [0, 0, 1]);
    rig.pass_echoing(SECOND * 8);
    let leading = rig.opens.iter().position(|(_, _, p)| p.kind == LoginKind::Leading).unwrap();
    rig.opens.rotate_left(leading);
    let (second, _) = rig.connect();
    for expected in [[0x12, 1, 0x83], [0x25, 0, 0], [0x12, 0, 0]] {
        let question = rig.sent_command(second);
        assert_eq!(question.cdb.0[..3], expected);
        assert!(!rig.has_sent(second), "one question");
        let data = disk(&question.cdb.0);
        rig.answer(second, &question, &data);
    }
    assert_eq!(rig.fenced(), None, "the vendor wants an ORDERED command");
    assert_eq!(rig.sent_command(second).attribute, TaskAttribute::Ordered);
}

#[test]
fn reads_and_other_ranges_do_not_wait_for_a_fence() {
    let mut rig = two();
    haunted(&mut rig);
    rig.read(0, 4);
    assert_eq!(rig.next_command().1.cdb, read(0, 4).cdb);
    rig.write(100, 8);
    assert_eq!(rig.next_command().1.cdb, write(100, 8).cdb);
    rig.plain(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    rig.quiet();
}

#[test]
fn a_portal_that_refuses_home_does_not_keep_it_from_another_living_path() {
    let mut rig = Rig::sessions(3);
    rig.settle();
    rig.cut(0);
    let mut tried = Vec::new();
    for _ in 0..6 {
        let home = rig.opens.iter().position(|(_, _, p)| p.isid == Isid([0, 2, 0x3d, 0, 0, 1]));
        if let Some(at) = home {
            rig.opens.rotate_left(at);
            tried.push(rig.refuse(Cause::Login("busy".into())));
        }
        rig.pass_echoing(SECOND);
    }
    assert!(tried.contains(&1) && tried.contains(&2), "{tried:?}");
}

#[test]
fn home_asked_again_clears_the_attentions_of_its_own_login_and_keeps_others_r201() {
    let mut rig = Rig::sessions(1);
    rig.settle();
    rig.obliging = false;
    rig.cut(0);
    rig.pass(SECOND);
    let (conn, _) = rig.connect();
    // Commands cleared with the session (R201) run again.
    let mut attentions = vec![(6, 0x29, 0), (6, 0x47, 0x7f), (6, 0x2a, 1)];
    while let Some((conn, command)) = rig.question() {
        match attentions.first().copied() {
            Some((key, asc, ascq)) => {
                attentions.remove(0);
                rig.sense(conn, &command, key, asc, ascq);
            }
            None => {
                let data = disk(&command.cdb.0);
                rig.answer(conn, &command, &data);
            }
        }
    }
    let itt = rig.read(0, 1);
    rig.told_sense(itt, 6, 0x2a, 1);
    let itt = rig.read(0, 1);
    let run = (conn, rig.sent_command(conn));
    rig.finish(itt, &run);
}

#[test]
fn units_that_are_not_there_do_not_end_the_session_when_home_comes_back_again_and_again() {
    let mut rig = Rig::sessions(1);
    rig.settle();
    rig.obliging = false;
    let probe = ScsiCommand { lun: OTHER_UNIT, read: true, expected_length: 255, ..plain(&INQUIRY) };
    let itt = rig.command(probe);
    let command = rig.sent_command(0);
    rig.nothing_to_read(0, &command);
    rig.told_status(itt, GOOD);
    let mut conn = 0;
    for _ in 0..3 {
        rig.cut(conn);
        rig.pass(SECOND * 8);
        (conn, _) = rig.connect();
        while let Some((conn, command)) = rig.question() {
            if command.lun == OTHER_UNIT && command.cdb.0[..2] == [0x12, 0] {
                rig.answer(conn, &command, &[0x7f; 36]);
            } else if command.lun == OTHER_UNIT {
                rig.sense(conn, &command, 5, 0x25, 0);
            } else {
                let data = disk(&command.cdb.0);
                rig.answer(conn, &command, &data);
            }
        }
    }
    assert!(!rig.downstream_closed, "{:?}", rig.notes);
}

#[test]
fn home_that_comes_back_as_another_unit_ends_the_session() {
    let mut rig = Rig::sessions(1);
    rig.settle();
    rig.obliging = false;
    rig.cut(0);
    rig.pass(SECOND);
    rig.connect();
    while let Some((conn, command)) = rig.question() {
        let mut data = disk(&command.cdb.0);
        if command.cdb.0[..3] == [0x12, 1, 0x80] {
            data[5] = b'x';
        }
        rig.answer(conn, &command, &data);
    }
    assert!(rig.downstream_closed);
}

#[test]
fn when_no_path_comes_back_in_time_the_session_ends_and_pings_are_answered_till_then_r229() {
    let mut rig = Rig::sessions(1);
    rig.settle();
    rig.read(0, 1);
    rig.next_command();
    rig.cut(0);
    assert!(rig.notes.contains(&Notice::AllPathsDown));
    for _ in 0..29 {
        while !rig.opens.is_empty() {
            rig.refuse(Cause::Tcp("no route".into()));
        }
        rig.pass(SECOND);
    }
    let (itt, cmd_sn) = (rig.tag(), rig.cmd_sn);
    rig.send(Pdu::NopOut(braid::iscsi::NopOut { immediate: true, itt, cmd_sn, ..Default::default() }));
    assert!(matches!(rig.told(), Pdu::NopIn(_)));
    assert!(!rig.downstream_closed);
    rig.pass(SECOND * 2);
    assert!(rig.notes.contains(&Notice::GaveUp(Exhausted::Close)) && rig.downstream_closed);
    assert_eq!(rig.finished, 1);
}

#[test]
fn a_deadline_that_an_event_overtakes_is_not_missed() {
    let mut rig = Rig::sessions(1);
    rig.settle();
    rig.cut(0);
    let give_up = rig.now + SECOND * 30;
    // The driver is late: something else comes first, and no deadline lies behind.
    rig.now = give_up + SECOND;
    rig.handle(Event::Paused(false));
    assert!(rig.session.next_deadline().is_some_and(|at| at <= rig.now));
    rig.pass(Duration::ZERO);
    assert!(rig.downstream_closed);
}

#[test]
fn a_ping_without_an_answer_ends_a_path_and_any_traffic_is_an_answer_r228() {
    let mut rig = two();
    rig.pass(SECOND * 5);
    let (home, further) = (rig.sent_ping(0), rig.sent_ping(1));
    rig.echo(0, home);
    rig.pass(SECOND * 4);
    // Late, but heard.
    rig.echo(1, further);
    rig.pass(SECOND * 5);
    assert!(rig.closed.is_empty());
    let home = rig.sent_ping(0);
    rig.echo(0, home);
    rig.sent_ping(1);
    rig.pass(SECOND * 5);
    assert_eq!(rig.closed, [(1, How::Reset)]);
    assert_eq!(rig.paths_down(), [1]);
}

#[test]
fn a_ping_acknowledges_what_nothing_else_did_r116_r117() {
    let mut rig = two();
    let itt = rig.read(0, 1);
    let run = rig.next_command();
    rig.finish(itt, &run);
    rig.pass(SECOND * 5);
    let next = rig.lines[&run.0].stat_sn;
    let Pdu::NopOut(ping) = rig.sent(run.0) else { panic!() };
    assert_eq!(ping.exp_stat_sn, next, "the connection's own count, not the initiator's");
}

#[test]
fn while_reading_is_paused_no_path_is_judged() {
    let mut rig = Rig::sessions(1);
    rig.pass(SECOND * 5);
    let ping = rig.sent_ping(0);
    rig.handle(Event::Paused(true));
    rig.pass(SECOND * 100);
    rig.handle(Event::Paused(false));
    rig.pass(SECOND * 4);
    assert!(rig.closed.is_empty());
    rig.echo(0, ping);
    rig.handle(Event::Paused(true));
    rig.pass(SECOND * 100);
    rig.quiet();
}

#[test]
fn a_refused_ping_is_an_answer() {
    let mut rig = Rig::sessions(1);
    rig.pass(SECOND * 5);
    let ping = rig.sent(0);
    rig.refuse_pdu(0, &ping);
    rig.pass(SECOND * 4);
    assert!(rig.closed.is_empty());
}

impl Rig {
    pub(crate) fn answer_logout(&mut self, conn: u32) {
        self.reply(conn, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            Pdu::LogoutResponse(braid::iscsi::LogoutResponse {
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                ..Default::default()
            })
        });
    }
}

#[test]
fn nothing_follows_a_logout_r211() {
    let mut rig = two();
    rig.announce(1, 1, [0, 0, 10]);
    assert!(matches!(rig.sent(1), Pdu::LogoutRequest(_)));
    rig.reply(1, false, |stat_sn, exp_cmd_sn, max_cmd_sn| {
        Pdu::NopIn(NopIn { ttt: Ttt(9), stat_sn, exp_cmd_sn, max_cmd_sn, ..NopIn::default() })
    });
    rig.read(8, 1);
    rig.read(16, 1);
    assert_eq!([rig.next_command().0, rig.next_command().0], [0, 0]);
    rig.quiet();
}

#[test]
fn events_of_no_concern_are_ignored_r222() {
    let mut rig = two();
    for event in [5, 248, 255] {
        rig.announce(0, event, [0, 0, 0]);
        rig.announce(1, event, [0, 0, 0]);
    }
    rig.announce(1, 0, [0, 0, 0]);
    rig.quiet();
    assert!(rig.closed.is_empty(), "and each took its StatSN");
}

#[test]
fn home_that_leaves_while_another_connection_joins_comes_back_r211() {
    let mut rig = Rig::mcs(2);
    rig.announce(0, 1, [0, 0, 3]);
    assert!(
        matches!(rig.sent(0), Pdu::LogoutRequest(l) if l.reason == 0),
        "the joining one is not there yet"
    );
    assert_eq!(rig.closed, [(1, How::Reset)], "and must not come any more");
    rig.pass(SECOND);
    rig.nothing_opened();
    rig.answer_logout(0);
    rig.pass(SECOND * 2);
    let (_, _, plan) = rig.opens[0].clone();
    assert_eq!(plan.kind, LoginKind::Leading);
    assert_eq!(rig.opens.len(), 1, "nothing can join a session that is gone");
    rig.connect();
    let itt = rig.read(0, 1);
    let run = rig.next_command();
    rig.finish(itt, &run);
}

#[test]
fn home_that_left_as_asked_and_does_not_come_back_is_waited_for_no_longer_than_one_that_was_lost() {
    let mut rig = Rig::sessions(1);
    rig.announce(0, 1, [0, 0, 3]);
    rig.sent(0);
    rig.answer_logout(0);
    for _ in 0..31 {
        while !rig.opens.is_empty() {
            rig.refuse(Cause::Tcp("no route".into()));
        }
        rig.pass(SECOND);
    }
    assert!(rig.downstream_closed);
}

/// What a target must not send ends its path, and no other.
fn ends_the_path(send: impl FnOnce(&mut Rig, &ScsiCommand)) {
    let mut rig = two();
    let itt = rig.write(0, 8);
    let (conn, command) = rig.next_command();
    assert_eq!(conn, 1);
    send(&mut rig, &command);
    assert_eq!(rig.closed, [(1, How::Reset)]);
    assert_eq!(rig.paths_down(), [1]);
    let again = rig.next_command();
    assert_eq!(again.0, 0);
    rig.finish(itt, &again);
}

#[test]
fn a_missing_response_ends_the_path_r114_r115() {
    ends_the_path(|rig, _| {
        let line = rig.lines.get_mut(&1).unwrap();
        line.stat_sn = line.stat_sn.next();
        rig.reply(1, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            Pdu::AsyncMessage(AsyncMessage {
                event: 255,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                ..Default::default()
            })
        });
        assert_eq!(rig.closed, [], "it may still come");
        let Pdu::NopOut(ping) = rig.sent(1) else { panic!("not asked") };
        rig.reply(1, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            Pdu::NopIn(NopIn { itt: ping.itt, stat_sn, exp_cmd_sn, max_cmd_sn, ..Default::default() })
        });
    });
}

#[test]
fn pdus_of_initiators_and_of_logins_end_the_path_r142() {
    ends_the_path(|rig, _| rig.handle(Event::Upstream(ConnId(1), Pdu::ScsiCommand(read(0, 1)))));
    ends_the_path(|rig, _| {
        rig.reply(1, true, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            let response =
                braid::iscsi::TextResponse { stat_sn, exp_cmd_sn, max_cmd_sn, ..Default::default() };
            Pdu::TextResponse(response)
        });
    });
}

#[test]
fn r2ts_beyond_the_command_or_the_burst_end_the_path_r125() {
    ends_the_path(|rig, c| rig.ask(1, c.itt, 5, 0, 0..4097));
    ends_the_path(|rig, c| rig.ask(1, c.itt, 5, 0, 512..512));
    ends_the_path(|rig, c| rig.ask(1, c.itt, u32::MAX, 0, 0..512));
    ends_the_path(|rig, c| {
        let itt = c.itt;
        rig.reply(1, false, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            let (ttt, buffer_offset, desired_length) = (Ttt(1), u32::MAX - 1, 512);
            Pdu::R2t(R2t {
                itt,
                ttt,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                buffer_offset,
                desired_length,
                ..R2t::default()
            })
        });
    });
}

#[test]
fn data_for_a_write_ends_the_path() {
    ends_the_path(|rig, c| {
        let data = DataIn { itt: c.itt, data: Payload::from(vec![0; 4097]), ..DataIn::default() };
        rig.data_in(1, data);
    });
}

#[test]
fn read_data_out_of_sequence_ends_the_path_r126() {
    for (sn, range) in [(1, 0..512), (0, 512..1024), (0, 0..1025)] {
        let mut rig = two();
        rig.read(0, 2);
        let (conn, command) = rig.next_command();
        rig.read_data(conn, command.itt, sn, range, false);
        assert_eq!(rig.closed, [(1, How::Reset)]);
        rig.next_command();
    }
}

#[test]
fn a_response_that_was_taken_before_is_ignored() {
    let mut rig = two();
    let itt = rig.write(0, 1);
    let run = rig.next_command();
    rig.finish(itt, &run);
    let line = rig.lines.get_mut(&run.0).unwrap();
    line.stat_sn = line.stat_sn.minus(1);
    rig.respond(run.0, &run.1, CHECK);
    rig.quiet();
    assert!(rig.closed.is_empty());
}

#[test]
fn pdus_of_an_earlier_run_and_of_closed_connections_are_ignored() {
    let mut rig = two();
    let itt = rig.read(0, 1);
    let (_, lost) = rig.next_command();
    rig.cut(1);
    let (conn, again) = rig.next_command();
    rig.handle(Event::Upstream(
        ConnId(1),
        Pdu::ScsiResponse(ScsiResponse { itt: lost.itt, ..ScsiResponse::default() }),
    ));
    rig.handle(Event::Disconnected(ConnId(1), Cause::Tcp("again".into())));
    rig.read_data(conn, lost.itt, 0, 0..512, true);
    rig.respond(conn, &lost, GOOD);
    rig.quiet();
    rig.finish(itt, &(conn, again));
}

#[test]
fn a_login_that_succeeds_after_it_was_given_up_is_closed() {
    let mut rig = Rig::sessions(2);
    let (conn, ..) = rig.opened();
    rig.handle(Event::Stop);
    rig.closed.clear();
    let negotiated = Box::new(rig.upstream.clone());
    rig.session.handle(Event::Connected(ConnId(conn), negotiated), rig.now);
    let close = std::iter::from_fn(|| rig.session.poll()).find(|o| matches!(o, Output::Close(..)));
    assert!(matches!(close, Some(Output::Close(ConnId(c), _)) if c == conn));
}

#[test]
fn a_command_that_meets_one_loss_after_another_is_ended() {
    let mut rig = Rig::sessions(1);
    rig.settle();
    let itt = rig.read(0, 1);
    let mut conn = 0;
    for _ in 0..16 {
        rig.sent_command(conn);
        rig.cut(conn);
        rig.pass(SECOND * 8);
        (conn, _) = rig.connect();
    }
    rig.sent_command(conn);
    rig.cut(conn);
    rig.told_sense(itt, 0xb, 0x29, 7);
}

#[test]
fn a_write_whose_data_is_not_here_yet_goes_out_again_when_it_is() {
    let mut plan = plan(Fanout::Sessions, 2);
    plan.home.session.first_burst_length = 512;
    let mut rig = Rig::new(plan);
    rig.settle();
    let itt = rig.command(ScsiCommand { data: Payload::from(pattern(0, 512)), ..write(0, 4) });
    let r2t = rig.told_r2t();
    assert_eq!(rig.next_command().0, 1);
    rig.cut(1);
    rig.quiet();
    rig.data_out(itt, r2t.ttt, 0, 512..1024, false);
    rig.quiet();
    rig.data_out(itt, r2t.ttt, 1, 1024..2048, true);
    let run = rig.next_command();
    assert_eq!(run.0, 0);
    rig.finish(itt, &run);
}

#[test]
fn a_unit_that_only_home_carries_does_not_hold_up_the_others_while_home_is_away() {
    let mut rig = two();
    rig.cut(0);
    rig.command(ScsiCommand { lun: OTHER_UNIT, ..read(0, 1) });
    rig.quiet();
    let itt = rig.read(0, 1);
    let run = rig.next_command();
    assert_eq!(run.0, 1);
    rig.finish(itt, &run);
}

#[test]
fn a_fence_is_tried_over_another_path_when_one_fails() {
    let mut rig = Rig::sessions(3);
    rig.settle();
    rig.write(0, 8);
    let (lost, _) = rig.next_command();
    rig.cut(lost);
    let again = rig.next_command();
    let mut tried = Vec::new();
    for _ in 0..4 {
        while let Some((_, path, _)) = rig.opens.front() {
            tried.push(*path);
            rig.refuse(Cause::Tcp("refused".into()));
        }
        rig.pass(SECOND);
    }
    assert!(tried.contains(&0) && tried.contains(&2), "{tried:?}");
    assert_eq!(again.1.cdb, write(0, 8).cdb);
}

#[test]
fn a_closed_window_does_not_keep_a_hung_target_from_being_noticed() {
    let mut plan = plan(Fanout::Sessions, 1);
    plan.home.max_cmd_sn = CmdSn(1);
    let mut rig = Rig::new(plan);
    rig.read(0, 1);
    let command = rig.sent_command(0);
    rig.pass(SECOND * 5);
    // Immediate: behind the commands on the same connection, its number is the expected one.
    let Pdu::NopOut(ping) = rig.sent(0) else { panic!() };
    assert_eq!((ping.immediate, ping.cmd_sn), (true, command.cmd_sn.next()));
    rig.pass(SECOND * 5);
    assert_eq!(rig.closed, [(0, How::Reset)]);
}
