//! One session of many connections: joining, and what happens where joining is refused.

use super::*;

fn login(what: &str) -> Cause {
    Cause::Login(what.into())
}

#[test]
fn all_connections_share_one_command_order_and_have_status_orders_of_their_own_r91_r93_r111() {
    let mut rig = Rig::mcs(2);
    rig.settle();
    let tags: Vec<_> = (0..4).map(|n| rig.read(n * 8, 1)).collect();
    let runs: Vec<_> = (0..4).map(|_| rig.next_command()).collect();
    let mut numbers: Vec<_> = runs.iter().map(|r| r.1.cmd_sn.0).collect();
    numbers.sort_unstable();
    assert!(numbers.windows(2).all(|w| w[1] == w[0] + 1), "R92");
    for conn in [0, 1] {
        let mine: Vec<_> = runs.iter().filter(|r| r.0 == conn).map(|r| r.1.cmd_sn.0).collect();
        assert!(mine.len() == 2 && mine[0] < mine[1], "R93");
    }
    let mut upstream: Vec<_> = runs.iter().map(|r| r.1.itt).collect();
    upstream.sort_unstable();
    upstream.dedup();
    assert_eq!(upstream.len(), 4, "R2: tags are the session's");
    let tag = |cdb: &Cdb| tags[cdb.0[5] as usize / 8];
    for run in runs.iter().rev() {
        rig.finish(tag(&run.1.cdb), run);
    }
    rig.quiet();
}

#[test]
fn a_path_that_may_not_join_gets_a_nexus_of_its_own_r46() {
    for refusal in ["02/06", "02/08"] {
        let mut rig = Rig::mcs(2);
        assert_eq!(rig.refuse(login(refusal)), 1);
        assert_eq!(rig.paths_down(), [1]);
        rig.nothing_opened();
        rig.pass(SECOND);
        let (_, path, plan) = rig.opens[0].clone();
        assert_eq!((path, plan.kind, plan.cid), (1, LoginKind::Leading, Cid(0)));
        assert_ne!(plan.isid, Isid([0, 2, 0x3d, 0, 0, 1]));
        assert_eq!(plan.offer.max_connections, 1);
        rig.settle();
        let conns = (rig.read(8, 1), rig.next_command().0);
        assert_eq!(conns.1, 2);
    }
}

#[test]
fn a_path_that_cannot_be_reached_joins_later() {
    let mut rig = Rig::mcs(2);
    rig.refuse(Cause::Tcp("refused".into()));
    rig.pass(SECOND);
    let (_, _, plan) = rig.opens[0].clone();
    assert!(matches!(plan.kind, LoginKind::Joining { .. }));
    assert_eq!(plan.cid, Cid(2), "a CID that was not used before");
}

#[test]
fn more_paths_than_connections_make_a_mix_r66() {
    let mut plan = plan(Fanout::Mcs, 4);
    plan.home.session.max_connections = 2;
    let mut rig = Rig::new(plan);
    let kinds: Vec<_> = rig.opens.iter().map(|(_, path, plan)| (*path, plan.kind.clone())).collect();
    assert!(matches!(
        &kinds[..],
        [(1, LoginKind::Joining { .. }), (2, LoginKind::Leading), (3, LoginKind::Leading)]
    ));
    rig.settle();
    let mut used: Vec<_> = (0..4)
        .map(|n| {
            rig.read(n * 8, 1);
            rig.next_command().0
        })
        .collect();
    used.sort_unstable();
    assert_eq!(used, [0, 1, 2, 3]);
}

#[test]
fn joining_over_and_over_never_takes_a_cid_in_use_r32() {
    let mut rig = Rig::mcs(2);
    for _ in 0..70_000 {
        let (_, _, plan) = rig.opens[0].clone();
        assert_ne!(plan.cid, Cid(0), "home's own");
        rig.refuse(Cause::Tcp("refused".into()));
        rig.now += SECOND * 8;
        rig.session.handle_timeout(rig.now);
        rig.drain();
        while let Some(line) = rig.lines.get_mut(&0).filter(|l| !l.sent.is_empty()) {
            let Some(Pdu::NopOut(nop)) = line.sent.pop_front() else { panic!() };
            rig.echo(0, nop.itt);
        }
    }
}

/// istgt ends the session when a command over another connection gets ahead of a ping that came right before it.
#[test]
fn a_ping_goes_alone_among_several_connections() {
    let mut rig = Rig::mcs(2);
    rig.settle();
    let (itt, first) = (rig.read(0, 1), rig.next_command());
    rig.finish(itt, &first);
    rig.pass(SECOND * 5);
    let pinged: Vec<u32> = (0..2).filter(|conn| !rig.lines[conn].sent.is_empty()).collect();
    let [conn] = pinged[..] else { panic!("both are idle, and one is asked: {pinged:?}") };
    let (ping, itt) = (rig.sent_ping(conn), rig.read(0, 1));
    rig.quiet();
    rig.echo(conn, ping);
    let run = rig.next_command();
    rig.finish(itt, &run);
    rig.pass(SECOND);
    rig.sent_ping(1 - conn);
    rig.quiet();
}

#[test]
fn read_data_are_acknowledged_where_the_target_asks_r130_r173() {
    let mut plan = plan(Fanout::Mcs, 2);
    plan.home.session.error_recovery_level = 2;
    let mut rig = Rig::new(plan);
    rig.settle();
    rig.read(0, 2);
    let (conn, command) = rig.next_command();
    let (itt, ttt, data) = (command.itt, Ttt(77), Payload::from(pattern(0, 512)));
    rig.data_in(conn, DataIn { acknowledge: true, itt, ttt, lun: command.lun, data, ..DataIn::default() });
    let Pdu::SnackRequest(snack) = rig.sent(conn) else { panic!() };
    let wanted = (snack.kind, snack.itt, snack.ttt, snack.lun, snack.begin_run, snack.run_length);
    assert_eq!(wanted, (2, Itt::NONE, ttt, command.lun, 1, 0));
    assert!(matches!(rig.told(), Pdu::DataIn(data) if data.buffer_offset == 0));
    rig.quiet();
}
