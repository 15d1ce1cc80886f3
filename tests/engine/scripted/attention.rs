//! Unit attentions: each event is told once, however the nexuses speak of it.

use super::*;
use braid::iscsi::tmf;

const CHANGED: (u8, u8, u8) = (6, 0x2a, 1);

/// Home with two connections, and a further nexus on the third path.
fn mixed() -> Rig {
    let mut plan = plan(Fanout::Mcs, 3);
    plan.home.session.max_connections = 2;
    let mut rig = Rig::new(plan);
    rig.settle();
    rig
}

impl Rig {
    fn sense_of(&mut self, conn: u32, command: &ScsiCommand, (key, asc, ascq): (u8, u8, u8)) {
        self.sense(conn, command, key, asc, ascq);
    }

    /// Seconds pass, and pings over the first connection come back.
    pub(crate) fn pass_with_echoes(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.pass(SECOND);
            let ping = |pdu: &Pdu| matches!(pdu, Pdu::NopOut(_));
            while let Some(at) = self.lines.get(&0).and_then(|l| l.sent.iter().position(ping)) {
                let itt = self.sent_at(0, at).itt();
                self.echo(0, itt);
            }
        }
    }

    /// Reads until each connection carries one, in the order of connections.
    fn one_each(&mut self) -> Vec<(Itt, (u32, ScsiCommand))> {
        let count = u32::try_from(self.lines.len()).unwrap();
        let mut runs: Vec<_> = (1..=count).map(|n| (self.read(n * 8, 1), self.next_command())).collect();
        runs.sort_by_key(|(_, run)| run.0);
        runs
    }
}

#[test]
fn home_has_been_asked_once_all_its_connections_have_said_what_they_had_to() {
    let mut rig = mixed();
    let runs = rig.one_each();
    let [(first, home), (second, joined), (third, further)] = &runs[..] else { panic!("{runs:?}") };
    // One event: the further nexus tells of it first, and home's answer is still on its way over the second connection.
    rig.sense_of(further.0, &further.1, CHANGED);
    let moved = rig.next_command();
    let ping = rig.sent_ping(joined.0);
    rig.finish(*first, home);
    rig.sense_of(joined.0, &joined.1, CHANGED);
    rig.told_sense(*second, 6, 0x2a, 1);
    rig.echo(joined.0, ping);
    rig.identify();
    rig.finish(*third, &moved);
    let next = rig.plain(&READY);
    let run = rig.next_command();
    rig.finish(next, &run);
}

#[test]
fn what_home_does_not_know_is_told_once_its_connections_have_echoed() {
    let mut rig = mixed();
    let runs = rig.one_each();
    let [_, (_, joined), (_, further)] = &runs[..] else { panic!("{runs:?}") };
    rig.sense_of(further.0, &further.1, CHANGED);
    rig.next_command();
    let ping = rig.sent_ping(joined.0);
    rig.quiet();
    rig.echo(joined.0, ping);
    let next = rig.plain(&READY);
    rig.told_sense(next, 6, 0x2a, 1);
}

#[test]
fn a_question_that_was_under_way_before_a_doubt_does_not_end_it() {
    let mut rig = Rig::sessions(3);
    rig.settle();
    rig.obliging = false;
    let runs = rig.one_each();
    let [_, (_, second), (_, third)] = &runs[..] else { panic!("{runs:?}") };
    rig.sense_of(second.0, &second.1, (6, 0x2a, 9));
    let (conn, under_way) = rig.question().unwrap();
    assert_eq!((conn, under_way.cdb.0[0]), (0, 0x00));
    // Another event, after home has answered, but before the answer is here.
    rig.pass(Duration::from_millis(1));
    rig.sense_of(third.0, &third.1, CHANGED);
    rig.answer(0, &under_way, &[]);
    // What the question was for is told; the other event is home's to tell.
    let next = rig.plain(&READY);
    rig.told_sense(next, 6, 0x2a, 9);
    let mut asked = 0;
    while let Some((conn, command)) = rig.question() {
        let ready = conn == 0 && command.cdb.0[0] == 0x00;
        asked += u32::from(ready);
        if ready && asked == 1 {
            rig.sense_of(0, &command, CHANGED);
        } else {
            let data = disk(&command.cdb.0);
            rig.answer(conn, &command, &data);
        }
    }
    assert_eq!(asked, 2, "home was asked again");
    let next = rig.plain(&READY);
    rig.told_sense(next, 6, 0x2a, 1);
}

#[test]
fn home_in_another_portal_group_is_fenced_once_however_many_paths_lead_there_r195() {
    let mut plan = plan(Fanout::Mcs, 3);
    #[expect(clippy::disallowed_methods, reason = "the rig's time begins now, too")]
    let crashed = Instant::now();
    plan.predecessor = Some(crashed);
    let mut rig = Rig::new(plan);
    rig.obliging = false;
    let elsewhere = |n: &mut Negotiated| n.tpgt = Some(2);
    // Both further paths lead to another group: neither joins, and each gets a nexus of its own.
    rig.connect_as(elsewhere);
    rig.connect_as(elsewhere);
    rig.read(0, 1);
    rig.pass(SECOND);
    let mut logins = Vec::new();
    for _ in 0..64 {
        let Some((_, _, plan)) = rig.opens.front().cloned() else {
            rig.identify();
            if rig.opens.is_empty() {
                break;
            }
            continue;
        };
        let home_path = rig.opens[0].1 == 0;
        logins.push(plan.isid);
        if home_path {
            rig.connect();
        } else {
            rig.connect_as(elsewhere);
        }
        rig.identify();
    }
    let home = Isid([0, 2, 0x3d, 0, 0, 1]);
    assert_eq!(logins.iter().filter(|isid| **isid == home).count(), 1, "{logins:?}");
}

#[test]
fn an_attention_kept_is_told_to_the_command_that_waits_longest() {
    let mut rig = Rig::sessions(2);
    rig.obliging = false;
    let first = rig.write(0, 8);
    let run = rig.next_command();
    let waits = rig.read(0, 1);
    rig.finish(first, &run);
    // Home is asked who it is, and the question meets an attention. A barrier waits meanwhile, and one comes behind it.
    let mut asked = rig.question();
    let behind = rig.next_command();
    assert_eq!(behind.1.cdb, read(0, 1).cdb);
    let barrier = rig.command(ScsiCommand { attribute: TaskAttribute::Ordered, ..write(16, 1) });
    let mut met = false;
    while let Some((_, question)) = asked {
        let capacity = question.cdb.0[0] == 0x9e;
        if capacity && !std::mem::replace(&mut met, true) {
            rig.sense(0, &question, 6, 0x2a, 9);
        } else {
            let data = disk(&question.cdb.0);
            rig.answer(0, &question, &data);
        }
        asked = rig.question();
    }
    assert!(met);
    let last = rig.read(24, 1);
    rig.quiet();
    rig.finish(waits, &behind);
    rig.told_sense(barrier, 6, 0x2a, 9);
    let run = rig.next_command();
    rig.finish(last, &run);
}

#[test]
fn an_attention_in_an_answer_that_comes_after_its_function_is_not_lost() {
    for conn in [0, 1] {
        let mut rig = Rig::sessions(2);
        rig.settle();
        let mut runs = rig.one_each();
        let (itt, run) = runs.remove(usize::try_from(conn).unwrap());
        assert_eq!(run.0, conn);
        let number = rig.cmd_sn;
        let function = rig.abort(itt, number.minus(2));
        let sent = rig.sent_function(conn);
        rig.function_done(conn, sent.itt, tmf::COMPLETE);
        assert_eq!(rig.told_function(function), tmf::COMPLETE);
        rig.sense_of(conn, &run.1, CHANGED);
        let next = rig.plain(&READY);
        rig.told_sense(next, 6, 0x2a, 1);
    }
}

/// Another initiator's reset, told by home to a command sent after those that it took away.
const RESET: (u8, u8, u8) = (6, 0x29, 3);

#[test]
fn what_somebody_elses_reset_took_runs_again_over_every_nexus_that_it_hit() {
    let mut rig = Rig::sessions(2);
    rig.settle();
    let mut runs = rig.one_each();
    let (further, taken) = runs.pop().unwrap();
    let (home, _) = runs.pop().unwrap();
    rig.obliging = false;
    let ready = rig.plain(&READY);
    let command = rig.sent_command(0);
    rig.sense_of(0, &command, RESET);
    rig.told_sense(ready, 6, 0x29, 3);
    // The further nexus has a command too: it is asked, and tells of the same.
    let (conn, question) = rig.question().unwrap();
    assert_eq!((conn, question.cdb.0[0]), (1, 0));
    rig.sense_of(1, &question, RESET);
    rig.identify();
    rig.quiet();
    rig.pass(SECOND * 2);
    let again = [rig.next_command(), rig.next_command()];
    for (conn, command) in &again {
        let itt = if command.cdb == taken.1.cdb { further } else { home };
        rig.finish(itt, &(*conn, command.clone()));
    }
    rig.obliging = true;
    rig.identify();
    rig.quiet();
}

#[test]
fn a_write_that_runs_again_after_a_reset_leaves_a_ghost_until_it_is_answered_after_all() {
    let mut rig = Rig::sessions(1);
    rig.settle();
    let itt = rig.write(8, 1);
    let (_, lost) = rig.next_command();
    let ready = rig.plain(&READY);
    let command = rig.sent_command(0);
    rig.sense_of(0, &command, RESET);
    rig.told_sense(ready, 6, 0x29, 3);
    rig.pass(SECOND * 2);
    let again = rig.next_command();
    assert_eq!(again.1.cdb, lost.cdb);
    rig.finish(itt, &again);
    let newer = rig.write(8, 1);
    rig.quiet();
    // The target had let it end.
    rig.respond(0, &lost, GOOD);
    let run = rig.next_command();
    rig.finish(newer, &run);
}

#[test]
fn the_outcome_of_what_must_not_run_twice_is_unknown_only_after_a_while() {
    for answered in [false, true] {
        let mut rig = Rig::sessions(1);
        rig.settle();
        let vendor = rig.plain(&[0xc1, 0, 0, 0, 0, 0]);
        let lost = rig.sent_command(0);
        // Home is asked what became of it, and tells of a reset.
        rig.obliging = false;
        rig.pass_with_echoes(12);
        let (_, question) = rig.question().unwrap();
        rig.sense_of(0, &question, RESET);
        rig.identify();
        let ready = rig.plain(&READY);
        rig.told_sense(ready, 6, 0x29, 3);
        if answered {
            rig.pass_with_echoes(15);
            rig.respond(0, &lost, GOOD);
            rig.told_status(vendor, GOOD);
        } else {
            rig.pass_with_echoes(21);
            rig.told_sense(vendor, 0xb, 0x29, 7);
        }
    }
}

#[test]
fn a_mode_select_that_met_an_attention_has_changed_nothing() {
    for ran in [false, true] {
        let mut rig = Rig::sessions(2);
        rig.settle();
        let select = ScsiCommand {
            write: true,
            expected_length: 24,
            data: Payload::from(vec![0; 24]),
            ..plain(&[0x15, 0x10, 0, 0, 24, 0x40])
        };
        let itt = rig.command(select);
        let command = rig.sent_command(0);
        if ran {
            rig.finish(itt, &(0, command));
        } else {
            rig.sense_of(0, &command, (6, 0x2a, 9));
            rig.told_sense(itt, 6, 0x2a, 9);
        }
        let itt = rig.read(8, 1);
        let (conn, command) = rig.next_command();
        assert_eq!(conn, 1);
        rig.sense_of(1, &command, CHANGED);
        let again = rig.next_command();
        rig.finish(itt, &again);
        let next = rig.plain(&READY);
        if ran {
            let run = rig.next_command();
            rig.finish(next, &run);
        } else {
            rig.told_sense(next, 6, 0x2a, 1);
        }
    }
}
