//! Suspect paths: what is asked again elsewhere, what stays, and what becomes of the old runs.

use super::*;
use braid::session::{Doubt, Sample};

const MS: Duration = Duration::from_millis(1);

fn settled(paths: usize) -> Rig {
    let mut rig = Rig::sessions(paths);
    rig.settle();
    rig
}

impl Rig {
    fn sample(&mut self, conn: u32, acked: u64, unacked: bool, since_ack: Duration) {
        let sample = Sample { acked, unacked, since_ack, ..Sample::default() };
        self.handle(Event::Health(ConnId(conn), sample));
    }

    /// Nothing that was sent over a connection is acknowledged any more.
    pub(super) fn fall_silent(&mut self, conn: u32) {
        self.sample(conn, 1000, true, Duration::ZERO);
        self.pass(60 * MS);
        self.sample(conn, 1000, true, 60 * MS);
        let path = self.session.is_suspect(PathId(conn as usize));
        assert!(path, "connections are numbered like their paths here");
    }

    fn recover(&mut self, conn: u32) {
        for acked in [2000, 3000] {
            self.sample(conn, acked, false, Duration::ZERO);
            self.pass(70 * MS);
        }
        assert!(!self.session.is_suspect(PathId(conn as usize)));
    }

    /// Nothing more is acknowledged until a ping is sent; gives its tag, and how long that took.
    fn pinged_for_silence(&mut self, conn: u32, acked: u64) -> (Itt, Duration) {
        let began = self.now;
        loop {
            let silent = self.now - began;
            self.sample(conn, acked, true, silent);
            if self.has_sent(conn) {
                return (self.sent_ping(conn), silent);
            }
            assert!(silent < SECOND, "no ping is sent");
            self.pass(MS);
        }
    }

    fn evaded(&self) -> usize {
        let count = |n: &Notice| if let Notice::Evaded { commands, .. } = n { *commands } else { 0 };
        self.notes.iter().map(count).sum()
    }
}

#[test]
fn caught_commands_are_asked_again_and_a_late_answer_lays_the_ghost() {
    let mut rig = settled(2);
    let write_tag = rig.write(0, 8);
    let (conn, first) = rig.next_command();
    assert_eq!(conn, 1);
    rig.fall_silent(1);
    let doubted = Trigger::Doubted(Doubt::Unacknowledged);
    assert!(rig.turned(1, (PathState::Up, doubted, PathState::Suspect)));
    let again = rig.next_command();
    assert_eq!((again.0, &again.1.cdb), (0, &first.cdb));
    rig.finish(write_tag, &again);
    let newer = rig.write(4, 8);
    rig.quiet();
    let read_tag = rig.read(4, 8);
    rig.quiet();
    rig.respond(1, &first, GOOD);
    let next = rig.next_command();
    assert_eq!((next.0, next.1.cdb.clone()), (0, write(4, 8).cdb), "the path is still suspect");
    rig.finish(newer, &next);
    let next = rig.next_command();
    rig.serve_read(next.0, &next.1);
    assert_eq!(rig.told_data().itt, read_tag);
    assert!(rig.closed.is_empty(), "nothing was given up");
}

#[test]
fn the_old_run_gets_its_data_even_when_the_command_has_ended() {
    let mut rig = settled(2);
    let tag = rig.write(0, 8);
    let (_, first) = rig.next_command();
    let sent = u32::try_from(first.data.len()).unwrap();
    rig.fall_silent(1);
    let again = rig.next_command();
    rig.finish(tag, &again);
    assert_eq!(rig.session.memory(), 4096, "kept for the old run");
    let rest = sent.min(2048);
    rig.ask(1, first.itt, 7, 0, rest..4096);
    let data = rig.sent_data(1);
    assert_eq!((data.itt, data.ttt, data.buffer_offset), (first.itt, Ttt(7), rest));
    assert_eq!(data.data.contiguous().to_vec(), pattern(rest, 4096 - rest));
    rig.respond(1, &first, GOOD);
    assert_eq!(rig.session.memory(), 0);
    rig.quiet();
}

#[test]
fn the_last_path_is_used_suspect_or_not() {
    let mut rig = settled(2);
    rig.read(0, 1);
    assert_eq!(rig.next_command().0, 1);
    rig.read(8, 1);
    assert_eq!(rig.next_command().0, 0);
    rig.fall_silent(0);
    assert_eq!(rig.evaded(), 1);
    assert_eq!(rig.next_command().0, 1);
    rig.fall_silent(1);
    assert_eq!(rig.evaded(), 1, "there is no better place");
    rig.read(16, 1);
    rig.read(24, 1);
    let mut conns = [rig.next_command().0, rig.next_command().0];
    conns.sort_unstable();
    assert_eq!(conns, [0, 1]);
}

#[test]
fn where_no_path_is_trusted_one_that_answers_again_comes_before_one_that_does_not() {
    let mut rig = settled(2);
    rig.fall_silent(0);
    rig.fall_silent(1);
    let [first, second] = [16, 24].map(|lba| {
        rig.read(lba, 1);
        rig.next_command()
    });
    let caught = if first.0 == 0 { first } else { second };
    rig.sample(1, 2000, false, Duration::ZERO);
    assert!(rig.session.is_suspect(PathId(1)), "not for long enough yet");
    rig.pass(10 * MS);
    let again = rig.next_command();
    assert_eq!((again.0, again.1.cdb, rig.evaded()), (1, caught.1.cdb, 1));
    for lba in [32, 40] {
        rig.read(lba, 1);
        assert_eq!(rig.next_command().0, 1);
    }
}

#[test]
fn what_may_not_run_twice_or_only_home_may_carry_stays() {
    let mut rig = settled(2);
    let vendor = rig.plain(&[0xc1]);
    let first = rig.next_command();
    assert_eq!(first.0, 0);
    rig.fall_silent(0);
    assert_eq!(rig.evaded(), 0);
    rig.finish(vendor, &first);
    rig.plain(&[0xc1]);
    assert_eq!(rig.next_command().0, 0, "new ones go there too");
    rig.quiet();
}

#[test]
fn a_simple_flush_leaves_a_suspect_home_and_an_ordered_one_does_not() {
    let mut rig = settled(2);
    let flush = rig.plain(&[0x35]);
    assert_eq!(rig.next_command().0, 0);
    rig.fall_silent(0);
    let again = rig.next_command();
    assert_eq!((again.0, rig.evaded()), (1, 1));
    rig.finish(flush, &again);
    let flush = rig.plain(&[0x35]);
    let next = rig.next_command();
    assert_eq!(next.0, 1);
    rig.finish(flush, &next);
    rig.command(ScsiCommand { attribute: TaskAttribute::Ordered, ..plain(&[0x35]) });
    assert_eq!(rig.next_command().0, 0);
}

#[test]
fn only_silence_ends_a_connection() {
    let mut rig = settled(2);
    rig.read(0, 1);
    assert_eq!(rig.next_command().0, 1);
    rig.fall_silent(1);
    assert_eq!(rig.next_command().0, 0);
    for _ in 0..40 {
        rig.pass(100 * MS);
        rig.sample(1, 1000, true, 10 * MS);
    }
    assert!(rig.paths_down().is_empty(), "it acknowledges, if nothing new");
    rig.pass(SECOND);
    rig.sample(1, 1000, true, SECOND * 2);
    assert_eq!(rig.paths_down(), [1]);
}

#[test]
fn a_path_that_cannot_be_spared_has_longer() {
    let mut rig = settled(2);
    rig.read(0, 1);
    assert_eq!(rig.next_command().0, 1);
    rig.read(8, 1);
    assert_eq!(rig.next_command().0, 0);
    rig.fall_silent(0);
    rig.fall_silent(1);
    rig.pass(SECOND * 3);
    rig.sample(1, 1000, true, SECOND * 4);
    assert!(rig.paths_down().is_empty(), "neither is trusted");
    rig.pass(SECOND * 2);
    rig.sample(1, 1000, true, SECOND * 5);
    assert_eq!(rig.paths_down(), [1]);
}

#[test]
fn trust_returns_and_the_path_is_used_again() {
    let mut rig = settled(2);
    let tag = rig.read(0, 1);
    let first = rig.next_command();
    rig.fall_silent(1);
    let again = rig.next_command();
    rig.serve_read(again.0, &again.1);
    rig.told_data();
    rig.told_status(tag, GOOD);
    // The old answer is for nobody.
    rig.serve_read(1, &first.1);
    rig.quiet();
    rig.recover(1);
    assert!(rig.turned(1, (PathState::Suspect, Trigger::Trusted, PathState::Up)));
    rig.read(0, 1);
    rig.read(8, 1);
    let mut conns = [rig.next_command().0, rig.next_command().0];
    conns.sort_unstable();
    assert_eq!(conns, [0, 1]);
}

#[test]
fn a_quiet_connection_is_pinged_and_ever_more_rarely() {
    let mut rig = settled(2);
    rig.sample(0, 1, false, Duration::ZERO);
    rig.plain(&[0xc1]);
    rig.next_command();
    let began = rig.now;
    let mut pings = Vec::new();
    while rig.now < began + SECOND {
        rig.sample(0, 1, false, Duration::ZERO);
        rig.pass(10 * MS);
        if rig.has_sent(0) {
            pings.push((rig.now - began).as_millis());
            let ping = rig.sent_ping(0);
            rig.echo(0, ping);
        }
    }
    assert!((3..=6).contains(&pings.len()), "{pings:?}");
    assert!(!rig.session.is_suspect(PathId(0)), "a slow target is none");
}

#[test]
fn one_that_acknowledges_late_is_pinged_before_it_is_suspected() {
    let mut rig = settled(2);
    rig.read(0, 1);
    let (conn, command) = rig.next_command();
    assert_eq!(conn, 1);
    // The target is known to delay acknowledgements.
    rig.fall_silent(1);
    rig.pass(140 * MS);
    rig.recover(1);
    let again = rig.next_command();
    for (conn, command) in [(1, command), again] {
        rig.serve_read(conn, &command);
    }
    rig.read(0, 1);
    rig.read(8, 1);
    rig.next_command();
    rig.next_command();
    // Whether it only delays them shows with the answer.
    for acked in 4000..4010 {
        let (ping, after) = rig.pinged_for_silence(1, acked);
        assert!((30 * MS..=40 * MS).contains(&after), "{after:?}");
        rig.echo(1, ping);
    }
    rig.pinged_for_silence(1, 5000);
    rig.pass(40 * MS);
    rig.sample(1, 5000, true, 70 * MS);
    assert!(!rig.session.is_suspect(PathId(1)));
    rig.pass(20 * MS);
    rig.sample(1, 5000, true, 90 * MS);
    assert!(rig.session.is_suspect(PathId(1)));
}

/// A session over two paths, one of which was silent for a while, so that a rescue lives on the other.
fn rescued() -> Rig {
    let mut rig = Rig::mcs(2);
    rig.settle();
    rig.fall_silent(1);
    rig.settle();
    rig.recover(1);
    rig
}

#[test]
fn home_goes_to_the_path_that_works_and_not_where_a_rescue_is_left() {
    let mut rig = rescued();
    rig.fall_silent(0);
    rig.pass(SECOND * 2);
    rig.sample(0, 1000, true, SECOND * 3);
    let isid = Isid([0, 2, 0x3d, 0, 0, 1]);
    let logins: Vec<_> = rig.opens.iter().map(|(_, path, plan)| (*path, plan.isid == isid)).collect();
    assert_eq!(logins, [(1, false), (1, true)], "another rescue, and then home, at once");
}

#[test]
fn a_ping_that_waits_behind_a_lost_number_is_not_held_against_the_target() {
    let mut rig = Rig::mcs(2);
    rig.settle();
    rig.read(0, 1);
    rig.read(8, 1);
    rig.sample(1, 1, false, Duration::ZERO);
    rig.fall_silent(0);
    for _ in 0..40 {
        rig.pass(100 * MS);
        rig.sample(1, 1, false, Duration::ZERO);
    }
    assert!(rig.has_sent(1), "a ping among others");
    assert!(!rig.session.is_suspect(PathId(1)));
}
