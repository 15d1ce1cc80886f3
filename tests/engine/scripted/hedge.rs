//! Late reads: which are asked again, whose answer counts, and how many may be.

use super::*;
use braid::session::Hedge;

const MS: Duration = Duration::from_millis(1);
const BUSY: u8 = 0x08;

/// Two paths, both of which have answered reads in two milliseconds.
fn learned(most: u16, reads: u32) -> Rig {
    let hedge = Some(Hedge { late: 500, most });
    let mut rig = Rig::new(SessionPlan { hedge, ..plan(Fanout::Sessions, 2) });
    rig.settle();
    for n in 0..reads {
        let tag = rig.read(n, 1);
        let (conn, command) = rig.next_command();
        rig.pass(MS * 2);
        rig.answered(tag, conn, &command);
    }
    rig.notes.clear();
    rig
}

impl Rig {
    /// A target answers a read, and the initiator gets it.
    fn answered(&mut self, tag: Itt, conn: u32, command: &ScsiCommand) {
        self.serve_read(conn, command);
        let data = self.told_data();
        assert_eq!((data.itt, data.data.contiguous().to_vec()), (tag, pattern(0, command.expected_length)));
        self.told_status(tag, GOOD);
        self.quiet();
    }

    /// A read that is late, as it was sent over path 1 and then over path 0.
    fn late_read(&mut self) -> (Itt, ScsiCommand, ScsiCommand) {
        self.notes.clear();
        // In turn.
        self.read(0, 1);
        let (conn, command) = self.next_command();
        self.serve_read(conn, &command);
        self.told_data();
        self.told_response();
        if conn == 1 {
            return self.late_read();
        }
        let tag = self.read(8, 8);
        self.pass(MS);
        let first = self.sent_command(1);
        self.quiet();
        self.pass(MS * 30);
        let second = self.sent_command(0);
        assert_eq!(first.cdb, second.cdb);
        self.quiet();
        assert_eq!(self.hedged(), (1, 0));
        (tag, first, second)
    }

    /// Reads asked again, and how many of them were won; all on path 1.
    fn hedged(&self) -> (usize, usize) {
        let path = PathId(1);
        let count = |wanted: Notice| self.notes.iter().filter(|n| **n == wanted).count();
        (count(Notice::Hedged { path }), count(Notice::HedgeWon { path }))
    }

    fn in_flight(&self) -> [u32; 2] {
        [0, 1].map(|path| self.session.in_flight(PathId(path)))
    }
}

/// Reads of eight blocks are as large as those of one here.
fn ready() -> Rig {
    learned(1000, 12)
}

#[test]
fn a_late_read_is_asked_again_and_the_other_path_wins() {
    let mut rig = ready();
    let (tag, first, second) = rig.late_read();
    assert_eq!(rig.in_flight(), [1, 1], "both are at their targets");
    rig.answered(tag, 0, &second);
    assert_eq!((rig.hedged(), rig.in_flight()), ((1, 1), [0, 1]));
    rig.serve_read(1, &first);
    rig.quiet();
    assert_eq!(rig.in_flight(), [0, 0]);
    assert!(rig.closed.is_empty());
}

#[test]
fn the_first_run_may_still_win() {
    let mut rig = ready();
    let (tag, first, second) = rig.late_read();
    rig.answered(tag, 1, &first);
    assert_eq!((rig.hedged(), rig.in_flight()), ((1, 0), [1, 0]));
    rig.serve_read(0, &second);
    rig.quiet();
    assert_eq!(rig.in_flight(), [0, 0]);
}

#[test]
fn data_decides_and_nothing_of_the_other_is_taken() {
    let mut rig = ready();
    let (tag, first, second) = rig.late_read();
    rig.read_data(1, first.itt, 0, 0..1024, false);
    assert_eq!(rig.told_data().data.len(), 1024);
    rig.serve_read(0, &second);
    rig.quiet();
    rig.read_data(1, first.itt, 1, 1024..4096, true);
    let rest = rig.told_data();
    assert_eq!((rest.itt, rest.buffer_offset, rest.data_sn), (tag, 1024, 1));
    rig.respond(1, &first, GOOD);
    rig.told_status(tag, GOOD);
    assert_eq!(rig.in_flight(), [0, 0]);
}

#[test]
fn an_error_does_not_win_while_another_answer_may_come() {
    let mut rig = ready();
    let (tag, first, second) = rig.late_read();
    rig.respond(0, &second, BUSY);
    rig.quiet();
    rig.answered(tag, 1, &first);
    let (tag, first, second) = rig.late_read();
    rig.respond(1, &first, BUSY);
    rig.quiet();
    rig.respond(0, &second, BUSY);
    rig.told_status(tag, BUSY);
    assert_eq!(rig.in_flight(), [0, 0]);
}

#[test]
fn the_first_run_stands_in_when_the_second_is_lost() {
    let mut rig = ready();
    let (tag, first, second) = rig.late_read();
    rig.cut(0);
    let again = rig.sent_command(1);
    assert_eq!(again.cdb, second.cdb, "home is gone, and there is no other path");
    rig.answered(tag, 1, &first);
    rig.serve_read(1, &again);
    rig.quiet();
    assert_eq!(rig.in_flight(), [0, 0]);
}

#[test]
fn only_reads_of_which_nothing_has_come_are_asked_again() {
    let mut rig = ready();
    rig.write(0, 8);
    let ordered = ScsiCommand { attribute: TaskAttribute::HeadOfQueue, ..read(64, 8) };
    rig.command(ordered);
    let begun = rig.read(128, 8);
    let sent: Vec<_> = (0..3).map(|_| rig.next_command()).collect();
    let (conn, command) = sent.iter().find(|(_, c)| c.cdb == read(128, 8).cdb).unwrap();
    rig.read_data(*conn, command.itt, 0, 0..512, false);
    assert_eq!(rig.told_data().itt, begun);
    rig.pass(MS * 50);
    rig.quiet();
}

#[test]
fn nothing_is_late_while_the_initiator_takes_nothing() {
    let mut rig = ready();
    rig.read(8, 8);
    let (conn, _) = rig.next_command();
    rig.handle(Event::Paused(true));
    rig.pass(MS * 50);
    rig.quiet();
    rig.handle(Event::Paused(false));
    rig.quiet();
    rig.pass(MS * 5);
    assert!(rig.has_sent(1 - conn), "counted from when targets are read again");
}

#[test]
fn a_share_of_reads_is_asked_again_and_no_more() {
    // Twenty-five reads earn one.
    let mut rig = learned(40, 24);
    for lba in 0..4 {
        rig.read(64 * lba, 8);
    }
    let sent: Vec<_> = (0..4).map(|_| rig.next_command()).collect();
    rig.pass(MS * 50);
    let (conn, again) = rig.next_command();
    assert!(sent.iter().any(|(other, first)| *other != conn && first.cdb == again.cdb));
    rig.quiet();
}

#[test]
fn an_aborted_read_takes_no_late_answer() {
    let mut rig = ready();
    let (tag, first, second) = rig.late_read();
    let number = rig.cmd_sn.minus(1);
    let function = rig.abort(tag, number);
    let abort = rig.sent_function(0);
    rig.serve_read(1, &first);
    rig.quiet();
    rig.function_done(0, abort.itt, 0);
    assert_eq!(rig.told_function(function), 0);
    rig.serve_read(0, &second);
    rig.quiet();
}
