//! Ports that differ in what they give access to (ALUA).

use super::*;

/// TPGS 3: implicit and explicit transitions.
const BOTH: u8 = 0x30;
const OPTIMIZED: u8 = 0;
const STANDBY: u8 = 2;
const UNAVAILABLE: u8 = 3;
/// Command queueing: there may be a Control mode page.
const CMDQUE: u8 = 2;

/// A disk behind two port groups: home's is 1; the further nexus has group 2, and the disk under LUN 3.
impl Rig {
    /// Answers Braid's questions until there are none; returns the request to set port groups, if it was made.
    fn answers(&mut self, states: [u8; 2]) -> Option<(u32, ScsiCommand)> {
        while let Some((conn, command)) = self.question() {
            let there = if conn == 0 { Lun(0) } else { Lun::from_number(3) };
            let cdb = command.cdb.0.clone();
            let access = matches!(cdb[0], 0x00 | 0x9e | 0x25 | 0x5e | 0xa3 | 0xa4);
            assert!(!access || command.lun == there, "asked under another LUN: {command:?}");
            match cdb[0] {
                0xa4 => return Some((conn, command)),
                0xa3 => {
                    let group = |n: u8| {
                        let preferred = if n == 2 { 0x80 } else { 0 };
                        [preferred | states[usize::from(n) - 1], 0xcf, 0, n, 0, 0, 0, 0]
                    };
                    let data = [[0, 0, 0, 16].as_slice(), &group(1), &group(2)].concat();
                    self.answer(conn, &command, &data);
                }
                0x1a if states[0] == UNAVAILABLE => self.sense(conn, &command, 2, 0x04, 0x0c),
                0x1a => self.answer(conn, &command, &[15, 0, 0, 0, 0x0a, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                0xa0 => self.answer(conn, &command, &[0, 0, 0, 8, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0]),
                0x12 if command.lun != there => self.answer(conn, &command, &[0x7f, 0, 0, 0, 31, 0, 0, 0]),
                0x12 if cdb[2] == 0x83 => {
                    let mut page = disk(&cdb);
                    let group = if conn == 0 { 1 } else { 2 };
                    page.extend_from_slice(&[0x51, 0x95, 0, 4, 0, 0, 0, group]);
                    page[3] += 8;
                    self.answer(conn, &command, &page);
                }
                0x12 if cdb[2] == 0 => {
                    let mut data = disk(&cdb);
                    (data[5], data[7]) = (BOTH, CMDQUE);
                    self.answer(conn, &command, &data);
                }
                _ => {
                    let data = disk(&cdb);
                    self.answer(conn, &command, &data);
                }
            }
        }
        None
    }

    /// Braid has a port group made active.
    fn group_asked(&mut self, states: [u8; 2]) -> (u32, ScsiCommand) {
        let request = (0..40).find_map(|_| {
            let request = self.answers(states);
            self.pass_echoing(Duration::from_millis(100));
            request
        });
        request.expect("no port group is made active")
    }
}

/// Two nexuses; the unit is in use, and has been asked for everything.
fn used(states: [u8; 2]) -> Rig {
    let mut rig = Rig::sessions(2);
    rig.obliging = false;
    rig.connect();
    let itt = rig.read(0, 1);
    let run = rig.next_command();
    rig.finish(itt, &run);
    assert!(rig.answers(states).is_none());
    rig
}

#[test]
fn what_is_asked_of_a_port_group_bears_the_lun_there() {
    let mut rig = used([OPTIMIZED, STANDBY]);
    let itt = rig.read(8, 1);
    let (conn, command) = rig.next_command();
    assert_eq!(conn, 0, "the further nexus is in standby");
    rig.sense(0, &command, 2, 0x04, 0x0b);
    let (conn, command) = rig.group_asked([STANDBY, STANDBY]);
    assert_eq!((conn, command.lun), (1, Lun::from_number(3)), "the preferred one is asked for");
    assert_eq!(command.data.contiguous()[4..], [OPTIMIZED, 0, 0, 2]);
    rig.respond(conn, &command, GOOD);
    for _ in 0..20 {
        assert!(rig.answers([STANDBY, OPTIMIZED]).is_none());
        rig.pass_echoing(Duration::from_millis(100));
    }
    let run = rig.next_command();
    assert_eq!((run.0, run.1.lun), (1, Lun::from_number(3)));
    rig.finish(itt, &run);
}

#[test]
fn what_home_holds_needs_homes_port_group() {
    let mut rig = used([OPTIMIZED, STANDBY]);
    let itt = rig.plain(&[0x16]);
    let (conn, command) = rig.next_command();
    assert_eq!(conn, 0);
    rig.respond(conn, &command, GOOD);
    rig.told_status(itt, GOOD);
    rig.read(8, 1);
    let (conn, command) = rig.next_command();
    assert_eq!(conn, 0);
    rig.sense(0, &command, 2, 0x04, 0x0b);
    let (conn, command) = rig.group_asked([STANDBY, STANDBY]);
    let group = &command.data.contiguous()[4..];
    assert_eq!((conn, group), (0, &[OPTIMIZED, 0, 0, 1][..]), "the preferred one does not help");
}

#[test]
fn a_unit_whose_control_page_home_could_not_tell_stays_there_r242() {
    let mut rig = used([UNAVAILABLE, OPTIMIZED]);
    rig.read(8, 1);
    // Nothing is known of what binds it to home, whose port group is asked for.
    let (conn, command) = rig.group_asked([UNAVAILABLE, OPTIMIZED]);
    assert_eq!((conn, &command.data.contiguous()[4..]), (0, &[OPTIMIZED, 0, 0, 1][..]));
    assert!(!rig.has_sent(1));
}

#[test]
fn what_the_control_page_said_holds_while_home_is_unavailable_r242() {
    let mut rig = used([OPTIMIZED, OPTIMIZED]);
    // The further nexus tells of a change: home is asked everything again, and is unavailable.
    let itt = loop {
        let itt = rig.read(8, 1);
        let run = rig.next_command();
        if run.0 == 1 {
            rig.sense(1, &run.1, 6, 0x2a, 0x06);
            break itt;
        }
        rig.finish(itt, &run);
    };
    for _ in 0..20 {
        assert!(rig.answers([UNAVAILABLE, OPTIMIZED]).is_none());
        while rig.has_sent(0) {
            let (_, command) = rig.next_command();
            rig.sense(0, &command, 2, 0x04, 0x0c);
        }
        rig.pass_echoing(Duration::from_millis(100));
    }
    // Home was asked, and has not told of it.
    rig.told_sense(itt, 6, 0x2a, 0x06);
    let itt = rig.read(8, 1);
    let run = rig.next_command();
    assert_eq!(run.0, 1);
    rig.finish(itt, &run);
}

#[test]
fn a_port_group_that_becomes_better_is_found_although_nobody_tells() {
    let mut rig = used([OPTIMIZED, STANDBY]);
    for _ in 0..400 {
        assert!(rig.answers([OPTIMIZED, OPTIMIZED]).is_none());
        rig.pass_echoing(Duration::from_millis(100));
    }
    assert_eq!(over(&mut rig), [0, 1]);
}

#[test]
fn what_the_initiator_has_set_is_asked_at_once() {
    let mut rig = used([OPTIMIZED, STANDBY]);
    let itt = rig.plain(&[0xa4, 0x0a]);
    let (conn, command) = rig.next_command();
    assert_eq!(conn, 0);
    rig.respond(conn, &command, GOOD);
    rig.told_status(itt, GOOD);
    for _ in 0..5 {
        assert!(rig.answers([OPTIMIZED, OPTIMIZED]).is_none());
        rig.pass_echoing(Duration::from_millis(100));
    }
    assert_eq!(over(&mut rig), [0, 1]);
}

/// The connections that reads go over.
fn over(rig: &mut Rig) -> Vec<u32> {
    let mut over = Vec::new();
    for block in 0..8 {
        let itt = rig.read(block, 1);
        let run = rig.next_command();
        over.push(run.0);
        rig.finish(itt, &run);
    }
    over.sort_unstable();
    over.dedup();
    over
}

#[test]
fn what_must_not_run_twice_is_not_waited_for_without_end_where_the_unit_can_no_longer_be_asked() {
    let mut rig = used([STANDBY, OPTIMIZED]);
    let swap = rig.command(ScsiCommand {
        cdb: cdb(&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 1, 0, 0]),
        expected_length: 1024,
        ..write(64, 2)
    });
    assert_eq!(rig.next_command().0, 1);
    // Somebody resets the unit, and its port there becomes a standby one: that is all that is heard of it.
    let read = rig.read(8, 1);
    let (conn, command) = rig.next_command();
    assert_eq!(conn, 1);
    rig.sense(1, &command, 6, 0x2a, 0x06);
    for _ in 0..500 {
        assert!(rig.answers([OPTIMIZED, STANDBY]).is_none());
        rig.pass_echoing(Duration::from_millis(100));
    }
    rig.told_sense(read, 6, 0x2a, 0x06);
    rig.told_sense(swap, 0xb, 0x29, 7);
}
