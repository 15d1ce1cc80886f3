//! Several sessions: identity before use, and what one nexus shows that must look like another's.

use super::*;

const RESERVE: [u8; 6] = [0x16, 0, 0, 0, 0, 0x40];
const RELEASE: [u8; 6] = [0x17, 0, 0, 0, 0, 0x40];

pub(super) fn two() -> Rig {
    let mut rig = Rig::sessions(2);
    rig.settle();
    rig
}

impl Rig {
    /// Two commands that do not conflict: over which connections they went.
    pub(super) fn spread(&mut self) -> Vec<u32> {
        let mut conns = Vec::new();
        for lba in [1000, 2000] {
            let itt = self.read(lba, 1);
            let run = self.next_command();
            conns.push(run.0);
            self.finish(itt, &run);
        }
        conns.sort_unstable();
        conns
    }

    /// A command for home that ends well.
    fn done(&mut self, bytes: &[u8]) {
        let itt = self.plain(bytes);
        let run = (0, self.sent_command(0));
        self.finish(itt, &run);
    }

    /// Answers Braid's questions with what `answer` makes of a connection and a CDB: data, or sense.
    pub(super) fn questioned(&mut self, mut answer: impl FnMut(u32, &[u8]) -> Result<Vec<u8>, (u8, u8, u8)>) {
        while let Some((conn, command)) = self.question() {
            match answer(conn, &command.cdb.0) {
                Ok(data) => self.answer(conn, &command, &data),
                Err((key, asc, ascq)) => self.sense(conn, &command, key, asc, ascq),
            }
        }
    }
}

/// Two paths whose questions are answered by `answer` instead.
pub(super) fn asked(answer: impl FnMut(u32, &[u8]) -> Result<Vec<u8>, (u8, u8, u8)>) -> Rig {
    let mut rig = Rig::sessions(2);
    rig.obliging = false;
    rig.connect();
    let itt = rig.read(0, 1);
    let run = rig.next_command();
    rig.serve_read(0, &run.1);
    assert_eq!(rig.told_data().itt, itt);
    rig.told_status(itt, GOOD);
    rig.questioned(answer);
    rig
}

#[test]
fn another_units_identity_keeps_a_path_out() {
    type Change = fn(&[u8]) -> Option<Vec<u8>>;
    let different: [Change; 3] = [
        |cdb| {
            (cdb[..3] == [0x12, 1, 0x83]).then(|| vec![0, 0x83, 0, 12, 1, 3, 0, 8, 0x60, 9, 9, 9, 9, 9, 9, 9])
        },
        |cdb| (cdb[..3] == [0x12, 1, 0x80]).then(|| b"\x00\x80\x00\x04abce".to_vec()),
        |cdb| (cdb[0] == 0x9e).then(|| vec![1; 32]),
    ];
    for change in different {
        let mut rig = asked(|conn, cdb| {
            let odd = (conn == 1).then(|| change(cdb)).flatten();
            Ok(odd.unwrap_or_else(|| disk(cdb)))
        });
        let told = |n: &Notice| matches!(n, Notice::IdentityMismatch { path: PathId(1), lun: 0, .. });
        assert!(rig.notes.iter().any(told));
        assert_eq!(rig.spread(), [0, 0]);
    }
}

#[test]
fn a_unit_without_a_name_stays_on_home() {
    let mut rig = asked(|_, cdb| if cdb[1] == 1 { Err((5, 0x24, 0)) } else { Ok(disk(cdb)) });
    assert!(rig.notes.iter().any(|n| matches!(n, Notice::IdentityMismatch { path: PathId(1), .. })));
    assert_eq!(rig.spread(), [0, 0]);
}

#[test]
fn a_reservation_conflict_on_a_further_nexus_is_asked_again_of_home() {
    let mut rig = two();
    let itt = rig.read(8, 1);
    let (conn, command) = rig.next_command();
    assert_eq!(conn, 1);
    rig.respond(1, &command, 0x18);
    let again = (0, rig.sent_command(0));
    rig.finish(itt, &again);
    // What home itself says is believed.
    let itt = rig.plain(&READY);
    let command = rig.sent_command(0);
    rig.respond(0, &command, 0x18);
    rig.told_status(itt, 0x18);
}

#[test]
fn reserve_binds_a_unit_to_home_until_release() {
    let mut rig = two();
    assert_eq!(rig.spread(), [0, 1]);
    rig.done(&RESERVE);
    assert_eq!(rig.spread(), [0, 0]);
    rig.done(&RELEASE);
    assert_eq!(rig.spread(), [0, 1]);
}

#[test]
fn other_units_stay_spread_when_one_is_bound_to_home() {
    let mut rig = two();
    rig.done(&RESERVE);
    for (lba, conn) in [(0, 0), (8, 1)] {
        let itt = rig.command(ScsiCommand { lun: OTHER_UNIT, ..read(lba, 1) });
        let run = rig.next_command();
        assert_eq!(run.0, conn, "the first I/O makes Braid learn the other unit");
        rig.finish(itt, &run);
    }
}

/// Home's attention 2A/09 meets Braid's READ CAPACITY.
fn stolen() -> Rig {
    let mut first = true;
    asked(|conn, cdb| {
        let capacity = cdb[0] == 0x9e && conn == 0;
        if capacity && std::mem::take(&mut first) { Err((6, 0x2a, 9)) } else { Ok(disk(cdb)) }
    })
}

#[test]
fn an_attention_that_met_braids_own_question_is_told_with_the_next_command() {
    let mut rig = stolen();
    let itt = rig.write(8, 1);
    rig.told_sense(itt, 6, 0x2a, 9);
    rig.quiet();
    assert_eq!(rig.session.memory(), 0);
    assert_eq!(rig.spread(), [0, 1], "once");
}

#[test]
fn inquiry_report_luns_and_request_sense_do_not_tell_attentions() {
    let mut rig = stolen();
    for bytes in [INQUIRY, [3, 0, 0, 0, 255, 0]] {
        let itt = rig.command(ScsiCommand { read: true, expected_length: 255, ..plain(&bytes) });
        let command = rig.sent_command(0);
        rig.nothing_to_read(0, &command);
        rig.told_status(itt, GOOD);
    }
    let itt = rig.plain(&READY);
    rig.told_sense(itt, 6, 0x2a, 9);
}

#[test]
fn an_attention_for_a_write_is_told_after_the_data_that_is_due_r138() {
    let mut plan = plan(Fanout::Sessions, 1);
    plan.downstream.session.initial_r2t = false;
    plan.downstream.session.first_burst_length = 1024;
    let mut rig = Rig::new(plan);
    rig.obliging = false;
    let itt = rig.read(0, 1);
    let run = rig.next_command();
    rig.finish(itt, &run);
    let mut first = true;
    rig.questioned(|_, cdb| {
        if cdb[0] == 0x9e && std::mem::take(&mut first) { Err((6, 0x2a, 9)) } else { Ok(disk(cdb)) }
    });
    let itt = rig.command(ScsiCommand { final_: false, data: Payload::from(pattern(0, 512)), ..write(0, 2) });
    rig.quiet();
    rig.data_out(itt, Ttt::NONE, 0, 512..1024, true);
    rig.told_sense(itt, 6, 0x2a, 9);
    rig.quiet();
}

#[test]
fn a_capacity_that_grew_is_learnt_anew_and_the_paths_stay_in_use() {
    let mut rig = two();
    rig.obliging = false;
    let grown = |cdb: &[u8]| if cdb[0] == 0x9e { vec![2; 32] } else { disk(cdb) };
    let itt = rig.read(8, 1);
    let (conn, command) = rig.next_command();
    assert_eq!(conn, 1);
    rig.sense(1, &command, 6, 0x2a, 9);
    let mut told = false;
    while let Some((conn, command)) = rig.question() {
        if conn == 0 && command.cdb.0[0] == 0x9e && !std::mem::replace(&mut told, true) {
            rig.sense(0, &command, 6, 0x2a, 9);
            continue;
        }
        let data = grown(&command.cdb.0);
        rig.answer(conn, &command, &data);
    }
    let again = (0, rig.sent_command(0));
    rig.finish(itt, &again);
    let next = rig.plain(&READY);
    rig.told_sense(next, 6, 0x2a, 9);
    assert_eq!(rig.spread(), [0, 1]);
}

#[test]
fn a_device_that_is_no_disk_stays_on_home_r208() {
    let mut rig = asked(|_, cdb| {
        let mut data = disk(cdb);
        if cdb[..2] == [0x12, 0] {
            data[0] = 1;
        }
        Ok(data)
    });
    assert_eq!(rig.spread(), [0, 0]);
}

#[test]
fn a_reset_ends_a_reservation_and_with_it_the_bond_to_home() {
    let mut rig = two();
    rig.done(&RESERVE);
    assert_eq!(rig.spread(), [0, 0]);
    let function = rig.unit_wide(braid::iscsi::tmf::LOGICAL_UNIT_RESET);
    let sent = rig.sent_function(0);
    rig.function_done(0, sent.itt, braid::iscsi::tmf::COMPLETE);
    rig.told_function(function);
    assert_eq!(rig.spread(), [0, 1]);
}
