//! Paths that come back: how soon they are tried, what they are given at first, and which are kept for emergencies.

use super::*;

fn settled() -> Rig {
    let mut rig = Rig::sessions(2);
    rig.settle();
    rig
}

impl Rig {
    /// Time passes, and targets answer pings.
    fn idle(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.pass(SECOND);
            let conns: Vec<u32> = self.lines.keys().copied().collect();
            for conn in conns {
                while self.has_sent(conn) {
                    let ping = self.sent_ping(conn);
                    self.echo(conn, ping);
                }
            }
        }
    }

    /// A connection is cut, and its path comes back when it is tried again; returns the new connection.
    fn come_back(&mut self, conn: u32) -> u32 {
        self.cut(conn);
        for _ in 0..10 {
            if !self.opens.is_empty() {
                return self.connect().0;
            }
            self.idle(1);
        }
        panic!("the path is not tried again");
    }

    /// So many reads, one after the other; returns how many a connection carried.
    fn reads_over(&mut self, conn: u32, count: u32) -> u32 {
        (0..count).map(|n| u32::from(self.one_read(n) == conn)).sum()
    }

    fn one_read(&mut self, lba: u32) -> u32 {
        let tag = self.read(lba, 1);
        let next = self.next_command();
        self.finish(tag, &next);
        next.0
    }

    fn state(&self, path: usize) -> PathState {
        self.session.status(self.now).paths[path].state
    }
}

/// Path 1 was lost so often that it is marginal; with its connection.
fn marginal() -> (Rig, u32) {
    let mut rig = settled();
    let mut conn = 1;
    for _ in 0..4 {
        conn = rig.come_back(conn);
        assert_eq!(rig.state(1), PathState::Up);
    }
    conn = rig.come_back(conn);
    assert!(rig.notes.contains(&Notice::PathMarginal { path: PathId(1) }));
    (rig, conn)
}

#[test]
fn a_path_that_comes_and_goes_is_kept_for_emergencies() {
    let (mut rig, conn) = marginal();
    assert_eq!(rig.state(1), PathState::Marginal);
    assert_eq!(rig.reads_over(conn, 64), 0);
    // What is on its way there does not leave it for that.
    rig.cut(0);
    let tag = rig.read(0, 1);
    let next = rig.next_command();
    assert_eq!(next.0, conn, "now it is needed");
    rig.finish(tag, &next);
}

#[test]
fn after_some_calm_it_is_used_like_any_other() {
    let (mut rig, conn) = marginal();
    rig.idle(9);
    assert_eq!(rig.state(1), PathState::Marginal);
    rig.idle(2);
    assert!(rig.turned(1, (PathState::Marginal, Trigger::Calmed, PathState::Up)));
    assert_eq!(rig.state(1), PathState::Up);
    assert_eq!(rig.reads_over(conn, 64), 32);
}

#[test]
fn the_only_path_is_used_however_often_it_was_lost() {
    let mut rig = Rig::sessions(1);
    rig.settle();
    let mut conn = 0;
    for _ in 0..5 {
        conn = rig.come_back(conn);
    }
    assert_eq!(rig.state(0), PathState::Marginal);
    assert_eq!(rig.reads_over(conn, 64), 64);
}

#[test]
fn what_the_operator_or_the_target_ends_is_no_loss() {
    let mut rig = settled();
    for _ in 0..6 {
        rig.handle(Event::Control(braid::session::Control::Fail(PathId(1))));
        rig.handle(Event::Control(braid::session::Control::Restore(PathId(1))));
        rig.connect();
    }
    assert_eq!(rig.state(1), PathState::Up);
}

#[test]
fn a_drained_path_is_not_tried_before_it_is_given_back() {
    let mut rig = settled();
    rig.handle(Event::Control(braid::session::Control::Fail(PathId(1))));
    assert!(rig.turned(1, (PathState::Up, Trigger::Lost, PathState::Drained)));
    rig.idle(30);
    rig.handle(Event::LinkUp);
    assert_eq!((rig.state(1), rig.opens.len()), (PathState::Drained, 0));
    rig.handle(Event::Control(braid::session::Control::Restore(PathId(1))));
    assert_eq!(rig.state(1), PathState::Probing);
    rig.connect();
    assert!(rig.turned(1, (PathState::Probing, Trigger::Connected, PathState::Up)));
}

#[test]
fn the_share_of_a_path_that_is_back_grows() {
    let mut rig = settled();
    assert_eq!(rig.reads_over(1, 128), 64, "not at the start");
    let conn = rig.come_back(1);
    let shares = [0, 1, 1, 4].map(|seconds| {
        rig.idle(seconds);
        rig.reads_over(conn, 128)
    });
    assert_eq!(shares, [2, 24, 50, 64]);
}

#[test]
fn a_path_that_is_back_carries_all_where_it_is_the_only_one() {
    let mut rig = settled();
    let conn = rig.come_back(1);
    rig.cut(0);
    assert_eq!(rig.reads_over(conn, 16), 16);
}

#[test]
fn a_path_waits_for_long_only_while_another_is_trusted() {
    let mut rig = settled();
    rig.cut(1);
    for _ in 0..5 {
        rig.idle(9);
        assert_eq!(rig.refuse(Cause::Tcp("refused".into())), 1);
    }
    rig.idle(3);
    assert_eq!(rig.opens.len(), 0, "it waits for its turn");
    rig.read(0, 1);
    rig.next_command();
    rig.fall_silent(0);
    assert_eq!(rig.state(0), PathState::Suspect);
    rig.pass(SECOND * 2);
    assert_eq!(rig.opens.len(), 1);
    rig.refuse(Cause::Tcp("refused".into()));
    rig.pass(SECOND * 2);
    assert_eq!(rig.opens.len(), 1, "as long as none is trusted");
}

#[test]
fn without_any_path_none_is_left_alone_for_long() {
    let mut rig = settled();
    rig.cut(1);
    for _ in 0..5 {
        rig.idle(9);
        assert_eq!(rig.refuse(Cause::Tcp("refused".into())), 1);
    }
    rig.cut(0);
    let mut tried = [rig.now; 2];
    let end = rig.now + SECOND * 20;
    while rig.now < end {
        while !rig.opens.is_empty() {
            let path = rig.refuse(Cause::Tcp("refused".into()));
            assert!(rig.now - tried[path] <= SECOND * 2, "path {path}: {:?}", rig.now - tried[path]);
            tried[path] = rig.now;
        }
        rig.pass(SECOND / 10);
    }
    assert!(tried.iter().all(|at| end - *at <= SECOND * 2));
}
