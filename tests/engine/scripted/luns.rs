//! Units that a further nexus shows under other LUNs, not at all, or no more.

use super::*;
use braid::iscsi::tmf;

const NO_SUCH_UNIT: (u8, u8, u8) = (5, 0x25, 0);

/// Which disk a nexus shows under which LUN.
type Map = &'static [(u16, u8)];

/// VPD page 83h of a disk.
fn names(disk: u8) -> Vec<u8> {
    vec![0, 0x83, 0, 12, 1, 3, 0, 8, 0x60, 1, 2, 3, 4, 5, 6, disk]
}

impl Rig {
    /// Answers all of Braid's questions. Home, connection 0, shows disk 7 under LUN 0.
    fn shows(&mut self, further: Map) {
        while let Some((conn, command)) = self.question() {
            let map: Map = if conn == 0 { &[(0, 7)] } else { further };
            let shown =
                map.iter().find(|(lun, _)| Lun::from_number(*lun) == command.lun).map(|(_, disk)| *disk);
            match (command.cdb.0[0], shown) {
                (0xa0, _) => {
                    let mut list = vec![0, 0, 0, u8::try_from(map.len() * 8).unwrap(), 0, 0, 0, 0];
                    map.iter().for_each(|(lun, _)| list.extend(Lun::from_number(*lun).0.to_be_bytes()));
                    self.answer(conn, &command, &list);
                }
                (0x12, None) => self.answer(conn, &command, &[0x7f; 36]),
                (_, None) => self.refuse_command(conn, &command),
                (0x12, Some(number)) if command.cdb.0[2] == 0x83 => {
                    self.answer(conn, &command, &names(number));
                }
                _ => {
                    let data = disk(&command.cdb.0);
                    self.answer(conn, &command, &data);
                }
            }
        }
    }

    fn refuse_command(&mut self, conn: u32, command: &ScsiCommand) {
        let (key, asc, ascq) = NO_SUCH_UNIT;
        self.sense(conn, command, key, asc, ascq);
    }

    /// LUNs of home's that were found on the further nexus, with the LUN there.
    fn told_proofs(&self) -> Vec<(u64, u64)> {
        let told = self.notes.iter();
        told.filter_map(|note| match note {
            Notice::IdentityProved { lun, there, .. } => Some((*lun, *there)),
            _ => None,
        })
        .collect()
    }

    fn told_mismatches(&self) -> Vec<&str> {
        let told = self.notes.iter();
        told.filter_map(|note| match note {
            Notice::IdentityMismatch { what, .. } => Some(what.as_str()),
            _ => None,
        })
        .collect()
    }

    /// Echoes pings until Braid asks something, at the latest after this time.
    fn wait_for_question(&mut self, longest: Duration) {
        let end = self.now + longest;
        let asks = |rig: &Self| rig.lines.values().any(|line| line.sent.iter().any(is_question));
        while !asks(self) {
            assert!(self.now < end, "nothing is asked");
            self.pass_echoing(SECOND);
        }
    }

    /// A read that the path policy gives to the further nexus.
    fn read_there(&mut self) -> (Itt, ScsiCommand) {
        loop {
            let itt = self.read(8, 1);
            let run = self.next_command();
            if run.0 == 1 {
                return (itt, run.1);
            }
            self.finish(itt, &run);
        }
    }
}

/// Two nexuses; the unit is in use, and the further nexus has been asked for it.
fn further_shows(map: Map) -> Rig {
    let mut rig = Rig::sessions(2);
    rig.obliging = false;
    rig.connect_as(|further| further.session.first_burst_length = 512);
    let itt = rig.read(0, 1);
    let run = rig.next_command();
    rig.finish(itt, &run);
    rig.shows(map);
    rig
}

#[test]
fn a_unit_is_found_under_another_lun_and_everything_for_it_bears_that_lun_r108() {
    let mut rig = further_shows(&[(0, 6), (3, 7), (300, 5)]);
    assert_eq!(rig.told_proofs(), [(0, 3)]);
    assert!(rig.told_mismatches().is_empty());
    let there = Lun::from_number(3);
    let (itt, command) = rig.read_there();
    assert_eq!(command.lun, there);
    rig.finish(itt, &(1, command));
    // A write whose data is asked for, and what a function says of it.
    let itt = loop {
        let itt = rig.command(ScsiCommand { data: Payload::new(), ..write(64, 16) });
        let r2t = rig.told_r2t();
        rig.data_out(itt, r2t.ttt, 0, 0..8192, true);
        if rig.has_sent(1) {
            break itt;
        }
        let run = (0, rig.sent_command(0));
        rig.finish(itt, &run);
    };
    let command = rig.sent_command(1);
    assert_eq!(command.lun, there);
    let sent = u32::try_from(command.data.len()).unwrap();
    rig.ask_of(1, command.itt, there, sent..8192);
    assert_eq!(rig.sent_data(1).lun, there);
    while rig.has_sent(1) {
        assert_eq!(rig.sent_data(1).lun, there);
    }
    rig.unit_wide(tmf::ABORT_TASK_SET);
    let of_home = rig.sent_function(0);
    assert_eq!(of_home.lun, Lun(0));
    rig.function_done(0, of_home.itt, tmf::COMPLETE);
    assert_eq!(rig.sent_function(1).lun, there);
    let number = command.cmd_sn;
    rig.abort(itt, number);
    assert_eq!(rig.sent_function(1).lun, there);
}

#[test]
fn an_r2t_for_another_unit_ends_the_connection_r108() {
    let mut rig = further_shows(&[(0, 6), (3, 7)]);
    let (_, command) = loop {
        let itt = rig.command(ScsiCommand { data: Payload::new(), ..write(64, 16) });
        let r2t = rig.told_r2t();
        rig.data_out(itt, r2t.ttt, 0, 0..8192, true);
        let run = rig.next_command();
        if run.0 == 1 {
            break run;
        }
        rig.finish(itt, &run);
    };
    let sent = u32::try_from(command.data.len()).unwrap();
    rig.ask_of(1, command.itt, Lun(0x0002 << 48), sent..8192);
    assert!(rig.notes.iter().any(|n| matches!(n, Notice::PathDown { path: PathId(1), .. })));
}

#[test]
fn a_unit_that_is_nowhere_on_a_path_is_told_once_and_found_when_it_comes() {
    let mut rig = further_shows(&[(0, 6), (1, 5)]);
    let told = rig.told_mismatches();
    assert_eq!(told.len(), 1);
    assert!(
        told[0].contains("naa.6001020304050607") && told[0].contains("naa.6001020304050606"),
        "{}",
        told[0]
    );
    for wait in [31, 61] {
        // It is looked for again, ever more seldom and without another word.
        rig.wait_for_question(SECOND * wait);
        rig.shows(&[(0, 6), (1, 5)]);
        assert_eq!(rig.told_mismatches().len(), 1);
    }
    rig.wait_for_question(SECOND * 121);
    rig.shows(&[(0, 6), (1, 5), (2, 7)]);
    assert_eq!(rig.told_proofs(), [(0, 2)]);
}

#[test]
fn what_only_a_further_nexus_says_of_a_unit_home_is_asked() {
    for (key, asc, ascq) in [NO_SUCH_UNIT, (5, 0x21, 0), (2, 0x04, 0x02), (2, 0x3a, 0)] {
        let mut rig = further_shows(&[(0, 7)]);
        let (itt, command) = rig.read_there();
        rig.sense(1, &command, key, asc, ascq);
        rig.shows(&[(0, 7)]);
        let again = (0, rig.sent_command(0));
        assert_eq!(again.1.cdb, command.cdb);
        rig.finish(itt, &again);
        // Home's own word is the initiator's to hear.
        let itt = rig.plain(&READY);
        let command = rig.sent_command(0);
        rig.sense(0, &command, key, asc, ascq);
        rig.told_sense(itt, key, asc, ascq);
    }
}

#[test]
fn luns_that_change_on_a_further_nexus_are_looked_at_anew_and_not_the_initiators_business() {
    let mut rig = further_shows(&[(0, 7), (1, 6)]);
    let (itt, command) = rig.read_there();
    rig.sense(1, &command, 6, 0x3f, 0x0e);
    let again = (0, rig.sent_command(0));
    rig.finish(itt, &again);
    rig.shows(&[(0, 6), (1, 7)]);
    assert_eq!(rig.told_proofs(), [(0, 0), (0, 1)]);
    let (itt, command) = rig.read_there();
    assert_eq!(command.lun.number(), 1);
    rig.finish(itt, &(1, command));
    let itt = rig.plain(&READY);
    let command = rig.sent_command(0);
    rig.respond(0, &command, GOOD);
    rig.told_status(itt, GOOD);
    rig.quiet();
}

#[test]
fn a_change_that_home_reports_keeps_the_unit_on_home_until_all_are_asked_again() {
    for (asc, ascq) in [(0x2a, 0x09), (0x2a, 0x01), (0x3f, 0x03), (0x3f, 0x0e)] {
        let mut rig = further_shows(&[(0, 7)]);
        let itt = rig.plain(&READY);
        let command = rig.sent_command(0);
        rig.sense(0, &command, 6, asc, ascq);
        rig.told_sense(itt, 6, asc, ascq);
        let (conn, question) = rig.question().unwrap();
        assert_eq!(conn, 0, "home is asked first");
        for lba in [1000, 2000] {
            let itt = rig.read(lba, 1);
            let run = (0, rig.sent_command(0));
            rig.finish(itt, &run);
        }
        let data = disk(&question.cdb.0);
        rig.answer(0, &question, &data);
        rig.shows(&[(0, 7)]);
        let (itt, command) = rig.read_there();
        rig.finish(itt, &(1, command));
    }
}

#[test]
fn a_unit_gone_from_home_is_no_reason_to_end_the_session() {
    let mut rig = further_shows(&[(0, 7)]);
    let itt = rig.plain(&READY);
    let command = rig.sent_command(0);
    rig.sense(0, &command, 6, 0x3f, 0x0e);
    rig.told_sense(itt, 6, 0x3f, 0x0e);
    while let Some((conn, question)) = rig.question() {
        match question.cdb.0[0] {
            0x12 => rig.answer(conn, &question, &[0x7f; 36]),
            _ => rig.refuse_command(conn, &question),
        }
    }
    assert!(!rig.downstream_closed);
    for lba in [1000, 2000] {
        let itt = rig.read(lba, 1);
        let command = rig.sent_command(0);
        rig.refuse_command(0, &command);
        rig.told_sense(itt, 5, 0x25, 0);
    }
    // It is back.
    let itt = rig.read(8, 1);
    let run = (0, rig.sent_command(0));
    rig.finish(itt, &run);
    rig.shows(&[(0, 7)]);
    let (itt, command) = rig.read_there();
    rig.finish(itt, &(1, command));
}

#[test]
fn home_does_not_move_to_a_path_with_other_luns() {
    let mut rig = further_shows(&[(0, 6), (3, 7)]);
    rig.cut(0);
    rig.pass_echoing(SECOND * 4);
    let home = Isid([0, 2, 0x3d, 0, 0, 1]);
    let paths: Vec<_> =
        rig.opens.iter().filter(|(_, _, p)| p.isid == home).map(|(_, path, _)| *path).collect();
    assert_eq!(paths, [0]);
}
