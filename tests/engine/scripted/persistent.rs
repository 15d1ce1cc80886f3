//! Persistent reservations: one registration of the initiator's on every nexus, and one shown.

use super::sessions::asked;
use super::*;
use braid::scsi::sense::status::RESERVATION_CONFLICT;

const KEY: u64 = 0x1122_3344_5566_7788;

/// istgt's disk: there registrations are replicated.
fn istgt(cdb: &[u8]) -> Vec<u8> {
    let mut data = disk(cdb);
    if cdb[..2] == [0x12, 0] {
        data[8..16].copy_from_slice(b"FreeBSD ");
    }
    data
}

fn two() -> Rig {
    let mut rig = asked(|_, cdb| Ok(istgt(cdb)));
    rig.notes.clear();
    rig
}

/// PERSISTENT RESERVE OUT.
fn out(action: u8, kind: u8, key: u64, service_key: u64) -> ScsiCommand {
    let mut data = [key.to_be_bytes(), service_key.to_be_bytes()].concat();
    data.resize(24, 0);
    ScsiCommand {
        write: true,
        expected_length: 24,
        data: Payload::from(data),
        ..plain(&[0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0])
    }
}

/// What a PERSISTENT RESERVE OUT asks for: action, key and service action key.
fn request(command: &ScsiCommand) -> (u8, u64, u64) {
    assert_eq!(command.cdb.0[0], 0x5f);
    let data = command.data.contiguous();
    let key = |at: usize| u64::from_be_bytes(*data[at..].first_chunk().unwrap());
    (command.cdb.0[1], key(0), key(8))
}

impl Rig {
    /// Home ends a command of the initiator's well.
    fn home_does(&mut self, command: ScsiCommand) -> Itt {
        let itt = self.command(command);
        let sent = self.sent_command(0);
        self.respond(0, &sent, GOOD);
        itt
    }

    /// A command of Braid's own is as expected, and is answered.
    fn expects(&mut self, conn: u32, what: (u8, u64, u64), status: u8) {
        let sent = self.sent_command(conn);
        assert_eq!(request(&sent), what);
        self.respond(conn, &sent, status);
    }

    /// The initiator registers, and so does the further nexus.
    fn registers(&mut self) {
        let itt = self.home_does(out(0, 0, 0, KEY));
        self.expects(1, (6, 0, KEY), GOOD);
        self.expects(0, (0, KEY, KEY), GOOD);
        self.told_status(itt, GOOD);
    }

    /// Over which connections two writes go.
    fn write_spread(&mut self) -> Vec<u32> {
        let mut conns = Vec::new();
        for lba in [1000, 2000] {
            let itt = self.write(lba, 1);
            let (conn, command) = self.next_command();
            conns.push(conn);
            self.respond(conn, &command, GOOD);
            while !matches!(self.told(), Pdu::ScsiResponse(response) if response.itt == itt) {}
        }
        conns.sort_unstable();
        conns
    }
}

fn keys(all: &[u64]) -> Vec<u8> {
    let mut data = vec![0, 0, 0, 3, 0, 0, 0, u8::try_from(all.len() * 8).unwrap()];
    all.iter().for_each(|key| data.extend_from_slice(&key.to_be_bytes()));
    data
}

/// A unit on which others are registered, and a target that tells who only if `tells`.
fn crowded(tells: bool) -> Rig {
    asked(move |_, cdb| match (cdb[0], cdb[1]) {
        (0x5e, 0) => Ok(keys(&[9])),
        (0x5e, 2) => Ok(vec![0, 8, 0, 0x80, 0, 0, 0, 0]),
        (0x5e, 3) if tells => Ok(vec![0; 8]),
        (0x5e, _) => Err((5, 0x24, 0)),
        _ => Ok(disk(cdb)),
    })
}

#[test]
fn registrations_of_others_do_not_matter_once_home_is_known_not_to_be_among_them() {
    assert_eq!(crowded(true).spread(), [0, 1]);
}

#[test]
fn a_unit_stays_on_home_if_nobody_tells_whose_the_registrations_are() {
    assert_eq!(crowded(false).spread(), [0, 0]);
}

#[test]
fn on_tgt_a_registered_unit_stays_on_home() {
    let mut rig = sessions::two();
    let itt = rig.home_does(out(0, 0, 0, KEY));
    rig.told_status(itt, GOOD);
    assert_eq!(rig.spread(), [0, 0]);
    let itt = rig.home_does(out(0, 0, KEY, 0));
    rig.told_status(itt, GOOD);
    assert_eq!(rig.spread(), [0, 1]);
}

#[test]
fn a_registration_is_answered_once_every_nexus_has_it_and_home_still_does() {
    let mut rig = two();
    let itt = rig.home_does(out(0, 0, 0, KEY));
    let replica = rig.sent_command(1);
    assert_eq!(request(&replica), (6, 0, KEY), "REGISTER AND IGNORE EXISTING KEY");
    rig.quiet();
    rig.respond(1, &replica, GOOD);
    rig.expects(0, (0, KEY, KEY), GOOD);
    rig.told_status(itt, GOOD);
    assert_eq!(rig.spread(), [0, 1]);
}

#[test]
fn a_nexus_that_does_not_register_carries_nothing() {
    let mut rig = two();
    let itt = rig.home_does(out(0, 0, 0, KEY));
    let replica = rig.sent_command(1);
    rig.sense(1, &replica, 5, 0x55, 4);
    rig.told_status(itt, GOOD);
    assert_eq!(rig.spread(), [0, 0]);
}

#[test]
fn an_answer_does_not_wait_for_a_nexus_without_end() {
    let mut rig = two();
    let itt = rig.home_does(out(0, 0, 0, KEY));
    let replica = rig.sent_command(1);
    rig.pass(Duration::from_secs(5));
    for conn in [0, 1] {
        assert!(matches!(rig.sent(conn), Pdu::NopOut(_)), "nothing was heard for as long");
    }
    rig.told_status(itt, GOOD);
    assert_eq!(rig.spread(), [0, 0]);
    rig.respond(1, &replica, GOOD);
    rig.expects(1, (0, KEY, KEY), GOOD);
    rig.expects(0, (0, KEY, KEY), GOOD);
    assert_eq!(rig.spread(), [0, 1], "it is asked anew what it is");
}

#[test]
fn home_is_asked_again_when_the_target_has_lost_the_question() {
    let mut rig = two();
    let itt = rig.home_does(out(0, 0, 0, KEY));
    rig.expects(1, (6, 0, KEY), GOOD);
    let lost = rig.sent_command(0);
    rig.pass(Duration::from_secs(5));
    for conn in [0, 1] {
        assert!(matches!(rig.sent(conn), Pdu::NopOut(_)));
    }
    rig.told_status(itt, GOOD);
    rig.expects(0, (0, KEY, KEY), GOOD);
    rig.respond(0, &lost, RESERVATION_CONFLICT);
    assert_eq!(rig.spread(), [0, 1], "what came too late means nothing");
}

#[test]
fn what_a_reservation_leaves_to_other_nexuses_depends_on_its_type() {
    for (kind, reads, writes) in
        [(1, [0, 1], [0, 0]), (3, [0, 0], [0, 0]), (5, [0, 1], [0, 1]), (8, [0, 1], [0, 1])]
    {
        let mut rig = two();
        rig.registers();
        let itt = rig.home_does(out(1, kind, KEY, 0));
        rig.told_status(itt, GOOD);
        assert_eq!(rig.spread(), reads, "type {kind}");
        assert_eq!(rig.write_spread(), writes, "type {kind}");
        let itt = rig.home_does(out(2, kind, KEY, 0));
        rig.told_status(itt, GOOD);
        assert_eq!(rig.write_spread(), [0, 1], "type {kind}, released");
    }
}

#[test]
fn what_home_is_no_longer_the_replicas_are_not_either() {
    let mut rig = two();
    rig.registers();
    let itt = rig.home_does(out(0, 0, KEY, 0));
    rig.expects(1, (0, KEY, 0), GOOD);
    rig.told_status(itt, GOOD);
    assert_eq!(rig.spread(), [0, 1]);
}

#[test]
fn a_nexus_that_registers_after_home_was_preempted_is_found_out() {
    let mut rig = two();
    let itt = rig.home_does(out(0, 0, 0, KEY));
    rig.expects(1, (6, 0, KEY), GOOD);
    rig.expects(0, (0, KEY, KEY), RESERVATION_CONFLICT);
    rig.expects(1, (6, 0, 0), GOOD);
    rig.told_status(itt, GOOD);
    assert_eq!(rig.spread(), [0, 1], "nobody of ours is registered");
}

#[test]
fn an_attention_that_tells_of_a_preemption_makes_braid_ask_home() {
    let mut rig = two();
    rig.registers();
    rig.obliging = false;
    let itt = rig.plain(&READY);
    let command = rig.sent_command(0);
    rig.sense(0, &command, 6, 0x2a, 5);
    rig.told_sense(itt, 6, 0x2a, 5);
    assert!(!rig.has_sent(1));
    rig.expects(0, (0, KEY, KEY), RESERVATION_CONFLICT);
    rig.expects(1, (6, 0, 0), GOOD);
    assert_eq!(rig.spread(), [0, 1]);
}

#[test]
fn keys_of_replicas_are_not_shown_whatever_length_is_asked_for() {
    let all = [KEY, 9, KEY];
    for (allocation, expected, residual) in
        [(8, 8, 0), (16, 16, 0), (16, 32, 16), (255, 255, 255 - 24), (255, 16, 8)]
    {
        let mut rig = two();
        rig.registers();
        rig.obliging = false;
        let cdb = [0x5e, 0, 0, 0, 0, 0, 0, 0, allocation, 0];
        let question = ScsiCommand { read: true, expected_length: expected, ..plain(&cdb) };
        let itt = rig.command(question);
        let sent = rig.sent_command(0);
        assert!(sent.expected_length > 60_000 && sent.cdb.0[7] == 0xff);
        rig.answer(0, &sent, &keys(&all));
        let whole = keys(&[KEY, 9]);
        let length = whole.len().min(usize::from(allocation)).min(expected as usize);
        let data = rig.told_data();
        assert_eq!(data.data.contiguous()[..], whole[..length]);
        let (status, told) = if data.has_status {
            (data.status, data.residual)
        } else {
            let response = rig.told_status(itt, GOOD);
            (response.status, response.residual)
        };
        assert_eq!((status, told), (GOOD, residual), "{allocation} {expected}");
    }
}
