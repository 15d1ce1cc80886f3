//! Unit attentions: each event is told once, however the nexuses speak of it.

use super::*;

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
