//! Which command waits for which, over two sessions of one target.

use super::*;

/// Two paths that both carry the unit; the next block I/O goes over connection 1, then 0, and so on.
fn two() -> Rig {
    let mut rig = Rig::sessions(2);
    rig.settle();
    rig
}

impl Rig {
    /// The command that is sent next, over whatever connection, and that connection.
    pub(crate) fn next_command(&mut self) -> (u32, ScsiCommand) {
        let conn = self.lines.iter().find(|(_, l)| !l.sent.is_empty()).map(|(c, _)| *c);
        let conn = conn.expect("nothing is sent");
        (conn, self.sent_command(conn))
    }

    /// Completes a command well.
    pub(crate) fn finish(&mut self, itt: Itt, (conn, command): &(u32, ScsiCommand)) {
        if command.read {
            self.serve_read(*conn, command);
            while let Some(Pdu::DataIn(data)) = self.told.front() {
                assert_eq!(data.itt, itt);
                self.told.pop_front();
            }
        } else {
            self.respond(*conn, command, GOOD);
        }
        self.told_status(itt, GOOD);
    }
}

/// `first` runs, `second` waits for it.
fn waits(first: ScsiCommand, second: ScsiCommand) {
    let mut rig = two();
    let a = rig.command(first.clone());
    let first = rig.next_command();
    let b = rig.command(second);
    rig.quiet();
    rig.finish(a, &first);
    let second = rig.next_command();
    rig.finish(b, &second);
    rig.quiet();
}

/// Both run at once.
fn flow(first: ScsiCommand, second: ScsiCommand) {
    let mut rig = two();
    let a = rig.command(first);
    let first = rig.next_command();
    let b = rig.command(second);
    let second = rig.next_command();
    rig.finish(b, &second);
    rig.finish(a, &first);
    rig.quiet();
}

fn with(attribute: TaskAttribute, command: ScsiCommand) -> ScsiCommand {
    ScsiCommand { attribute, ..command }
}

const FLUSH: [u8; 10] = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const START_STOP: [u8; 6] = [0x1b, 0, 0, 0, 1, 0x40];
const UNKNOWN: [u8; 10] = [0xc1, 0, 0, 0, 0, 0x40, 0, 0, 0, 0];

#[test]
fn overlapping_commands_wait_if_one_of_them_writes_r109_r245() {
    waits(write(0, 8), write(7, 8));
    waits(write(0, 8), read(7, 1));
    waits(read(0, 8), write(7, 8));
    flow(read(0, 8), read(0, 8));
    flow(write(0, 8), write(8, 8));
    flow(write(0, 8), read(8, 8));
}

#[test]
fn what_waited_is_counted_with_its_time_and_reason() {
    let mut rig = two();
    let before = *rig.session.tally();
    let write_itt = rig.write(0, 8);
    let running = rig.next_command();
    let (read_itt, flush_itt) = (rig.read(4, 1), rig.plain(&FLUSH));
    assert_eq!((rig.session.outstanding(), *rig.session.tally()), (3, before));
    let arrived = rig.now;
    rig.pass(SECOND);
    assert_eq!(rig.session.oldest_arrival(), Some(arrived));
    rig.finish(write_itt, &running);
    let [overlap, barrier, quarantine] = rig.session.tally().held;
    assert_eq!(overlap, Waits { count: 1, time: SECOND });
    assert_eq!(barrier, Waits { count: 1, time: SECOND });
    assert_eq!(quarantine, Waits::default());
    for itt in [flush_itt, read_itt] {
        let running = rig.next_command();
        rig.finish(itt, &running);
    }
    assert_eq!((rig.session.outstanding(), rig.session.oldest_arrival()), (0, None));
}

#[test]
fn flushes_wait_for_earlier_writes_and_later_writes_for_them_r244() {
    waits(write(0, 1), plain(&FLUSH));
    waits(plain(&FLUSH), write(0, 1));
    flow(read(0, 1), plain(&FLUSH));
    flow(plain(&FLUSH), read(0, 1));
}

#[test]
fn barriers_and_unknown_opcodes_drain_both_ways_on_home_r244() {
    for barrier in [plain(&START_STOP), plain(&UNKNOWN)] {
        waits(read(0, 1), barrier.clone());
        waits(write(0, 1), barrier.clone());
        waits(barrier.clone(), read(0, 1));
        let mut rig = two();
        rig.command(barrier);
        rig.sent_command(0);
    }
}

#[test]
fn ordered_and_untagged_commands_drain_both_ways_r241_r243() {
    for attribute in [TaskAttribute::Ordered, TaskAttribute::Untagged] {
        waits(read(0, 1), with(attribute, read(100, 1)));
        waits(with(attribute, read(0, 1)), read(100, 1));
    }
}

#[test]
fn head_of_queue_waits_for_nothing_and_goes_home_r241() {
    flow(write(0, 8), with(TaskAttribute::HeadOfQueue, write(0, 8)));
    let mut rig = two();
    rig.read(0, 1);
    assert_eq!(rig.next_command().0, 1);
    rig.command(with(TaskAttribute::HeadOfQueue, read(0, 1)));
    assert_eq!(rig.next_command().0, 0);
}

#[test]
fn head_of_queue_passes_what_waits_for_the_targets_window() {
    let mut plan = plan(Fanout::Sessions, 1);
    plan.home.max_cmd_sn = CmdSn(1);
    let mut rig = Rig::new(plan);
    let first = rig.read(0, 1);
    let running = rig.next_command();
    rig.plain(&FLUSH);
    rig.plain(&READY);
    rig.command(with(TaskAttribute::HeadOfQueue, read(8, 1)));
    rig.quiet();
    rig.obliging = false;
    rig.target_window = 1;
    rig.serve_read(0, &running.1);
    assert_eq!(rig.told_data().itt, first);
    rig.obliging = true;
    // The engine's own questions come before; then the urgent one.
    rig.identify();
    assert_eq!(rig.next_command().1.cdb, read(8, 1).cdb);
    assert_eq!(rig.session.tally().target_window.count, 1);
}

#[test]
fn what_carries_no_state_waits_for_nothing() {
    flow(plain(&START_STOP), plain(&READY));
    flow(plain(&START_STOP), ScsiCommand { read: true, expected_length: 255, ..plain(&INQUIRY) });
}

#[test]
fn on_the_only_path_ordered_follows_no_command_that_its_port_may_refuse_r241() {
    let mut rig = Rig::new(plan(Fanout::Sessions, 1));
    let first = rig.read(0, 1);
    let run = rig.next_command();
    let ordered = rig.command(with(TaskAttribute::Ordered, read(100, 1)));
    rig.quiet();
    rig.finish(first, &run);
    let run = rig.next_command();
    rig.finish(ordered, &run);
    // The unit has said by now that all its ports are alike.
    let before = rig.read(0, 1);
    let run = rig.next_command();
    let ordered = rig.command(with(TaskAttribute::Ordered, read(100, 1)));
    let behind = rig.next_command();
    rig.finish(before, &run);
    rig.finish(ordered, &behind);
}

#[test]
fn attributes_are_carried_unchanged_r132() {
    for attribute in [
        TaskAttribute::Untagged,
        TaskAttribute::Simple,
        TaskAttribute::Ordered,
        TaskAttribute::HeadOfQueue,
        TaskAttribute::Aca,
    ] {
        let mut rig = two();
        rig.command(with(attribute, read(0, 1)));
        assert_eq!(rig.next_command().1.attribute, attribute);
    }
}

#[test]
fn other_units_are_not_concerned() {
    let other = ScsiCommand { lun: OTHER_UNIT, ..write(0, 8) };
    flow(write(0, 8), other.clone());
    flow(plain(&START_STOP), other.clone());
    flow(with(TaskAttribute::Ordered, read(0, 1)), other);
}

#[test]
fn a_chain_is_let_go_link_by_link() {
    let mut rig = two();
    let tags: Vec<_> = (0..4).map(|_| rig.write(0, 1)).collect();
    for itt in tags {
        let next = rig.next_command();
        rig.quiet();
        rig.finish(itt, &next);
    }
    rig.quiet();
}

#[test]
fn reads_that_waited_for_one_write_flow_together() {
    let mut rig = two();
    let a = rig.write(0, 8);
    let b = rig.read(0, 4);
    let c = rig.read(4, 4);
    let first = rig.next_command();
    rig.quiet();
    rig.finish(a, &first);
    let (one, two) = (rig.next_command(), rig.next_command());
    assert_ne!(one.0, two.0, "over both paths");
    for (itt, cdb) in [(b, read(0, 4).cdb), (c, read(4, 4).cdb)] {
        let run = if one.1.cdb == cdb { &one } else { &two };
        rig.finish(itt, run);
    }
    rig.quiet();
}
