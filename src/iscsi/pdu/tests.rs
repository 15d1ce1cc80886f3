//! Layouts are compared with bytes written down by hand, so that an offset wrong in both directions shows.

use super::*;
use crate::iscsi::{Cid, Isid, Lun, Tsih, Ttt};
use bytes::Bytes;

fn header(fields: &[(usize, &[u8])]) -> [u8; BHS_LEN] {
    let mut header = [0; BHS_LEN];
    for (at, bytes) in fields {
        header[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    header
}

/// Both directions, and reserved bits all set where `reserved` says (R141).
fn check(pdu: &Pdu, receiver: Receiver, fields: &[(usize, &[u8])], reserved: &[(usize, u8)]) {
    let expected = header(fields);
    let (encoded, ahs) = pdu.encode();
    assert_eq!(encoded, expected, "{pdu:?}");
    assert!(ahs.is_empty());
    let mut noisy = expected;
    for (at, mask) in reserved {
        noisy[*at] |= mask;
    }
    assert_eq!(Pdu::parse(receiver, &noisy, &[], pdu.data().clone()).as_ref(), Ok(pdu));
    assert_eq!(pdu.opcode(), opcode_of(&expected));
    let wrong = if receiver == Receiver::Target { Receiver::Initiator } else { Receiver::Target };
    assert_eq!(
        Pdu::parse(wrong, &expected, &[], pdu.data().clone()),
        Err(WireError::Opcode(pdu.opcode())),
        "R142"
    );
}

const ITT: (usize, &[u8]) = (16, &[0, 0, 0x12, 0x34]);
const LUN: (usize, &[u8]) = (8, &[0, 5, 0, 0, 0, 0, 0, 0]);
const TTT: (usize, &[u8]) = (20, &[0xa, 0xb, 0xc, 0xd]);
const REQUEST: (usize, &[u8]) = (24, &[0, 0, 0, 7, 0, 0, 0, 8]);
const RESPONSE: (usize, &[u8]) = (24, &[0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9]);
const TAIL: (usize, &[u8]) = (36, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);

const fn itt() -> Itt {
    Itt(0x1234)
}
const fn lun() -> Lun {
    Lun::from_number(5)
}
const fn ttt() -> Ttt {
    Ttt(0x0a0b_0c0d)
}
fn ten() -> Payload {
    Payload::from(Bytes::from_static(b"0123456789"))
}

#[test]
fn scsi_command() {
    let pdu = Pdu::ScsiCommand(ScsiCommand {
        immediate: true,
        final_: true,
        read: true,
        attribute: TaskAttribute::Ordered,
        lun: lun(),
        itt: itt(),
        expected_length: 0x2000,
        cmd_sn: CmdSn(7),
        exp_stat_sn: StatSn(8),
        cdb: Cdb((0x28..0x38).collect()),
        data: ten(),
        ..ScsiCommand::default()
    });
    let cdb: Vec<u8> = (0x28..0x38).collect();
    let fields: &[(usize, &[u8])] =
        &[(0, &[0x41, 0xc2, 0, 0, 0, 0, 0, 10]), LUN, ITT, (20, &[0, 0, 0x20, 0]), REQUEST, (32, &cdb)];
    check(&pdu, Receiver::Target, fields, &[(0, 0x80), (1, 0x18), (2, 0xff), (3, 0xff)]);
}

#[test]
fn scsi_response() {
    let pdu = Pdu::ScsiResponse(ScsiResponse {
        bidi_overflow: true,
        underflow: true,
        response: 0,
        status: 2,
        itt: itt(),
        snack_tag: 0x0a0b_0c0d,
        stat_sn: StatSn(7),
        exp_cmd_sn: CmdSn(8),
        max_cmd_sn: CmdSn(9),
        exp_data_sn: 0x0102_0304,
        bidi_residual: 0x0506_0708,
        residual: 0x090a_0b0c,
        data: ScsiResponse::sense_data(&[0x70, 0, 5]),
        ..ScsiResponse::default()
    });
    let fields: &[(usize, &[u8])] = &[(0, &[0x21, 0x92, 0, 2, 0, 0, 0, 5]), ITT, TTT, RESPONSE, TAIL];
    check(&pdu, Receiver::Initiator, fields, &[(0, 0xc0), (1, 0x61), (8, 0xff), (15, 0xff)]);
}

#[test]
fn sense_is_cut_to_what_is_there() {
    let response =
        |data: &'static [u8]| ScsiResponse { data: Bytes::from_static(data).into(), ..Default::default() };
    assert_eq!(response(b"").sense(), None);
    assert_eq!(response(b"\0").sense(), None);
    assert_eq!(response(b"\0\0").sense(), None);
    assert_eq!(response(b"\0\x02abc").sense(), Some(Bytes::from_static(b"ab")));
    assert_eq!(response(b"\xff\xffabc").sense(), Some(Bytes::from_static(b"abc")));
    assert_eq!(ScsiResponse::sense_data(b"xy").contiguous().as_ref(), b"\0\x02xy");
}

#[test]
fn task_management() {
    let pdu = Pdu::TaskManagementRequest(TaskManagementRequest {
        immediate: true,
        function: tmf::ABORT_TASK,
        lun: lun(),
        itt: itt(),
        referenced_itt: Itt(0x0a0b_0c0d),
        cmd_sn: CmdSn(7),
        exp_stat_sn: StatSn(8),
        ref_cmd_sn: CmdSn(9),
        exp_data_sn: 0x0102_0304,
    });
    let fields: &[(usize, &[u8])] =
        &[(0, &[0x42, 0x81]), LUN, ITT, TTT, REQUEST, (32, &[0, 0, 0, 9, 1, 2, 3, 4])];
    check(&pdu, Receiver::Target, fields, &[(2, 0xff), (40, 0xff)]);
    let pdu = Pdu::TaskManagementResponse(TaskManagementResponse {
        response: tmf::REJECTED,
        itt: itt(),
        stat_sn: StatSn(7),
        exp_cmd_sn: CmdSn(8),
        max_cmd_sn: CmdSn(9),
        additional: 0x0001_0203,
    });
    let fields: &[(usize, &[u8])] = &[(0, &[0x22, 0x80, 255]), (8, &[1, 2, 3]), ITT, RESPONSE];
    check(&pdu, Receiver::Initiator, fields, &[(3, 0xff), (11, 0xff), (36, 0xff), (20, 0xff)]);
}

#[test]
fn data_transfer() {
    let pdu = Pdu::DataOut(DataOut {
        final_: true,
        lun: lun(),
        itt: itt(),
        ttt: ttt(),
        exp_stat_sn: StatSn(8),
        data_sn: 0x0102_0304,
        buffer_offset: 0x0506_0708,
        data: ten(),
    });
    let fields: &[(usize, &[u8])] =
        &[(0, &[5, 0x80]), (7, &[10]), LUN, ITT, TTT, (28, &[0, 0, 0, 8]), (36, &[1, 2, 3, 4, 5, 6, 7, 8])];
    check(&pdu, Receiver::Target, fields, &[(0, 0xc0), (1, 0x7f), (24, 0xff), (32, 0xff), (44, 0xff)]);
    let pdu = Pdu::DataIn(DataIn {
        acknowledge: true,
        overflow: true,
        has_status: true,
        status: 8,
        lun: lun(),
        itt: itt(),
        ttt: ttt(),
        stat_sn: StatSn(7),
        exp_cmd_sn: CmdSn(8),
        max_cmd_sn: CmdSn(9),
        data_sn: 0x0102_0304,
        buffer_offset: 0x0506_0708,
        residual: 0x090a_0b0c,
        data: ten(),
        ..DataIn::default()
    });
    let fields: &[(usize, &[u8])] = &[(0, &[0x25, 0x45, 0, 8, 0, 0, 0, 10]), LUN, ITT, TTT, RESPONSE, TAIL];
    check(&pdu, Receiver::Initiator, fields, &[(0, 0x40), (1, 0x38), (2, 0xff)]);
    let pdu = Pdu::R2t(R2t {
        lun: lun(),
        itt: itt(),
        ttt: ttt(),
        stat_sn: StatSn(7),
        exp_cmd_sn: CmdSn(8),
        max_cmd_sn: CmdSn(9),
        r2t_sn: 0x0102_0304,
        buffer_offset: 0x0506_0708,
        desired_length: 0x090a_0b0c,
    });
    let fields: &[(usize, &[u8])] = &[(0, &[0x31, 0x80]), LUN, ITT, TTT, RESPONSE, TAIL];
    check(&pdu, Receiver::Initiator, fields, &[(1, 0x7f), (2, 0xff)]);
    let pdu = Pdu::SnackRequest(SnackRequest {
        kind: 2,
        lun: lun(),
        itt: itt(),
        ttt: ttt(),
        exp_stat_sn: StatSn(8),
        begin_run: 0x0506_0708,
        run_length: 0x090a_0b0c,
    });
    let fields: &[(usize, &[u8])] =
        &[(0, &[0x10, 0x82]), LUN, ITT, TTT, (28, &[0, 0, 0, 8]), (40, &[5, 6, 7, 8, 9, 10, 11, 12])];
    check(&pdu, Receiver::Target, fields, &[(1, 0x70), (24, 0xff), (36, 0xff)]);
}

#[test]
fn login() {
    let pdu = Pdu::LoginRequest(LoginRequest {
        transit: true,
        continue_: false,
        current: Stage::Operational,
        next: Stage::FullFeature,
        version_max: 1,
        version_min: 2,
        isid: Isid([0x80, 1, 2, 3, 4, 5]),
        tsih: Tsih(0x0607),
        itt: itt(),
        cid: Cid(0x0809),
        cmd_sn: CmdSn(7),
        exp_stat_sn: StatSn(8),
        data: ten(),
    });
    let fields: &[(usize, &[u8])] =
        &[(0, &[0x43, 0x87, 1, 2, 0, 0, 0, 10, 0x80, 1, 2, 3, 4, 5, 6, 7]), ITT, (20, &[8, 9]), REQUEST];
    check(&pdu, Receiver::Target, fields, &[(0, 0x80), (1, 0x30), (22, 0xff), (32, 0xff)]);
    let pdu = Pdu::LoginResponse(LoginResponse {
        continue_: true,
        current: Stage::Operational,
        version_max: 1,
        version_active: 2,
        isid: Isid([0x80, 1, 2, 3, 4, 5]),
        tsih: Tsih(0x0607),
        itt: itt(),
        stat_sn: StatSn(7),
        exp_cmd_sn: CmdSn(8),
        max_cmd_sn: CmdSn(9),
        status_class: 2,
        status_detail: 8,
        data: ten(),
        ..LoginResponse::default()
    });
    let fields: &[(usize, &[u8])] =
        &[(0, &[0x23, 0x44, 1, 2, 0, 0, 0, 10, 0x80, 1, 2, 3, 4, 5, 6, 7]), ITT, RESPONSE, (36, &[2, 8])];
    // R23: without T the next stage is reserved, even a reserved code.
    check(&pdu, Receiver::Initiator, fields, &[(1, 0x32), (20, 0xff), (38, 0xff)]);
}

#[test]
fn text() {
    let pdu = Pdu::TextRequest(TextRequest {
        immediate: true,
        final_: true,
        lun: lun(),
        itt: itt(),
        ttt: ttt(),
        cmd_sn: CmdSn(7),
        exp_stat_sn: StatSn(8),
        data: ten(),
        ..TextRequest::default()
    });
    let fields: &[(usize, &[u8])] = &[(0, &[0x44, 0x80]), (7, &[10]), LUN, ITT, TTT, REQUEST];
    check(&pdu, Receiver::Target, fields, &[(1, 0x3f), (2, 0xff), (32, 0xff)]);
    let pdu = Pdu::TextResponse(TextResponse {
        continue_: true,
        lun: lun(),
        itt: itt(),
        ttt: ttt(),
        stat_sn: StatSn(7),
        exp_cmd_sn: CmdSn(8),
        max_cmd_sn: CmdSn(9),
        data: ten(),
        ..TextResponse::default()
    });
    let fields: &[(usize, &[u8])] = &[(0, &[0x24, 0x40]), (7, &[10]), LUN, ITT, TTT, RESPONSE];
    check(&pdu, Receiver::Initiator, fields, &[(1, 0x3f), (36, 0xff)]);
}

#[test]
fn logout() {
    let pdu = Pdu::LogoutRequest(LogoutRequest {
        immediate: true,
        reason: 2,
        itt: itt(),
        cid: Cid(0x0809),
        cmd_sn: CmdSn(7),
        exp_stat_sn: StatSn(8),
    });
    check(
        &pdu,
        Receiver::Target,
        &[(0, &[0x46, 0x82]), ITT, (20, &[8, 9]), REQUEST],
        &[(2, 0xff), (8, 0xff), (22, 0xff), (32, 0xff)],
    );
    let pdu = Pdu::LogoutResponse(LogoutResponse {
        response: 3,
        itt: itt(),
        stat_sn: StatSn(7),
        exp_cmd_sn: CmdSn(8),
        max_cmd_sn: CmdSn(9),
        time2wait: 0x0102,
        time2retain: 0x0304,
    });
    let fields: &[(usize, &[u8])] = &[(0, &[0x26, 0x80, 3]), ITT, RESPONSE, (40, &[1, 2, 3, 4])];
    check(&pdu, Receiver::Initiator, fields, &[(1, 0x7f), (20, 0xff), (36, 0xff), (44, 0xff)]);
}

#[test]
fn nop() {
    let pdu = Pdu::NopOut(NopOut {
        immediate: true,
        lun: lun(),
        itt: itt(),
        ttt: ttt(),
        cmd_sn: CmdSn(7),
        exp_stat_sn: StatSn(8),
        data: ten(),
    });
    let fields: &[(usize, &[u8])] = &[(0, &[0x40, 0x80]), (7, &[10]), LUN, ITT, TTT, REQUEST];
    check(&pdu, Receiver::Target, fields, &[(1, 0x7f), (32, 0xff)]);
    let pdu = Pdu::NopIn(NopIn {
        lun: lun(),
        itt: itt(),
        ttt: ttt(),
        stat_sn: StatSn(7),
        exp_cmd_sn: CmdSn(8),
        max_cmd_sn: CmdSn(9),
        data: ten(),
    });
    let fields: &[(usize, &[u8])] = &[(0, &[0x20, 0x80]), (7, &[10]), LUN, ITT, TTT, RESPONSE];
    check(&pdu, Receiver::Initiator, fields, &[(1, 0x7f), (36, 0xff)]);
    assert_eq!(pdu.itt(), itt());
    assert_eq!(pdu.target_numbers(), Some((StatSn(7), CmdSn(8), CmdSn(9))));
}

#[test]
fn async_message_and_reject() {
    let pdu = Pdu::AsyncMessage(AsyncMessage {
        lun: lun(),
        stat_sn: StatSn(7),
        exp_cmd_sn: CmdSn(8),
        max_cmd_sn: CmdSn(9),
        event: 2,
        vendor_code: 3,
        parameters: [0x0405, 0x0607, 0x0809],
        data: ten(),
    });
    let none: (usize, &[u8]) = (16, &[0xff; 4]);
    let fields: &[(usize, &[u8])] =
        &[(0, &[0x32, 0x80]), (7, &[10]), LUN, none, RESPONSE, (36, &[2, 3, 4, 5, 6, 7, 8, 9])];
    check(&pdu, Receiver::Initiator, fields, &[(1, 0x7f), (20, 0xff), (44, 0xff)]);
    let pdu = Pdu::Reject(Reject {
        reason: reject::INVALID_FIELD,
        stat_sn: StatSn(7),
        exp_cmd_sn: CmdSn(8),
        max_cmd_sn: CmdSn(9),
        data_sn: 0x0102_0304,
        data: ten(),
    });
    let fields: &[(usize, &[u8])] = &[(0, &[0x3f, 0x80, 9]), (7, &[10]), none, RESPONSE, (36, &[1, 2, 3, 4])];
    check(&pdu, Receiver::Initiator, fields, &[(1, 0x7f), (20, 0xff), (40, 0xff)]);
    assert_eq!(pdu.itt(), Itt::NONE);
}

#[test]
fn r133_ahs_layout() {
    let command = ScsiCommand {
        final_: true,
        itt: itt(),
        cdb: Cdb((0..33).collect()),
        bidi_read_length: Some(0x0102_0304),
        ..ScsiCommand::default()
    };
    let (head, ahs) = Pdu::ScsiCommand(command.clone()).encode();
    assert_eq!(ahs_len(&head), 24 + 8);
    assert_eq!(ahs[..4], [0, 18, 1, 0]);
    assert_eq!(ahs[4..21], (16..33).collect::<Vec<u8>>());
    assert_eq!(ahs[21..], [0, 0, 0, 0, 5, 2, 0, 1, 2, 3, 4]);
    let parsed = Pdu::parse(Receiver::Target, &head, &ahs, Payload::new());
    assert_eq!(parsed, Ok(Pdu::ScsiCommand(command)));
}

#[test]
fn malformed_ahs_is_an_error() {
    let head = header(&[(0, &[1, 0x80]), ITT]);
    for ahs in [
        &[0u8, 5, 2][..],                                  // cut
        &[0, 5, 2, 0],                                     // content missing
        &[0, 5, 2, 0, 1, 2],                               // content cut
        &[0, 0, 1, 0],                                     // not even the reserved byte
        &[0, 1, 1, 0],                                     // empty extension
        &[0, 4, 2, 0, 1, 2, 3, 0],                         // length of three bytes
        &[0, 5, 3, 0, 1, 2, 3, 4],                         // reserved type
        &[0, 5, 0, 0, 1, 2, 3, 4],                         // reserved type
        &[0, 5, 2, 0, 1, 2, 3, 4, 0, 5, 2, 0, 1, 2, 3, 4], // twice
        &[0, 2, 1, 0, 1, 0, 0, 0, 0, 2, 1, 0, 1, 0, 0, 0], // twice
        &[0xff, 0xff, 1, 0, 1, 0, 0, 0],                   // far too long
    ] {
        assert_eq!(Pdu::parse(Receiver::Target, &head, ahs, Payload::new()), Err(WireError::Ahs), "{ahs:?}");
    }
    let nop = header(&[(0, &[0x40, 0x80]), ITT]);
    let ahs = [0, 5, 2, 0, 1, 2, 3, 4];
    assert_eq!(Pdu::parse(Receiver::Target, &nop, &ahs, Payload::new()), Err(WireError::Ahs));
}

#[test]
fn r141_reserved_codes_are_errors() {
    use Receiver::{Initiator, Target};
    let field = |receiver, head: &[u8], data: Payload| {
        let head = header(&[(0, head), ITT, TTT]);
        match Pdu::parse(receiver, &head, &[], data) {
            Err(WireError::Field(name)) => name,
            other => panic!("{other:?}"),
        }
    };
    let none = Payload::new;
    for attribute in 5..8 {
        assert_eq!(field(Target, &[1, 0x80 | attribute], none()), "task attribute");
    }
    assert_eq!(field(Target, &[1, 0x41], none()), "F and W");
    for flags in [0x08, 0x82, 0x8c, 0x0c] {
        assert_eq!(field(Target, &[0x43, flags], none()), "login stage");
        assert_eq!(field(Initiator, &[0x23, flags], none()), "login stage");
    }
    assert_eq!(field(Target, &[0x43, 0xc7], none()), "T and C");
    assert_eq!(field(Target, &[4, 0xc0], none()), "F and C");
    assert_eq!(field(Initiator, &[0x24, 0xc0], none()), "F and C");
    assert_eq!(field(Target, &[6, 0x83], none()), "logout reason");
    assert_eq!(field(Target, &[0x10, 0x84], none()), "SNACK type");
    assert_eq!(field(Initiator, &[0x31, 0x80], none()), "desired data transfer length");
    for (receiver, code) in
        [(Target, 2), (Target, 6), (Target, 0x10), (Initiator, 0x22), (Initiator, 0x26), (Initiator, 0x31)]
    {
        assert_eq!(field(receiver, &[code, 0x80], ten()), "data segment length");
    }
}

#[test]
fn requests_must_name_their_task() {
    for code in [1, 2, 4, 5, 6] {
        let head = header(&[(0, &[code, 0x80]), (16, &[0xff; 4])]);
        let error = Err(WireError::Field("initiator task tag"));
        assert_eq!(Pdu::parse(Receiver::Target, &head, &[], Payload::new()), error);
    }
    let mut r2t = header(&[(0, &[0x31, 0x80]), ITT, (20, &[0xff; 4])]);
    r2t[47] = 1;
    let error = Err(WireError::Field("target transfer tag"));
    assert_eq!(Pdu::parse(Receiver::Initiator, &r2t, &[], Payload::new()), error);
}

#[test]
fn a_refused_login_is_read_whatever_its_flags() {
    let head = header(&[(0, &[0x23, 0x0a]), ITT, (36, &[2, 1])]);
    let Ok(Pdu::LoginResponse(response)) = Pdu::parse(Receiver::Initiator, &head, &[], Payload::new()) else {
        panic!("must be read");
    };
    assert_eq!((response.status_class, response.status_detail, response.transit), (2, 1, false));
}

#[test]
fn every_opcode_has_one_receiver_at_most() {
    let known = (0..64).filter(|code| opcode::receiver(*code).is_some()).count();
    assert_eq!(known, 18);
    for code in 0..64 {
        for receiver in [Receiver::Target, Receiver::Initiator] {
            let mut head = header(&[(0, &[code, 0x80]), ITT, TTT, (47, &[1])]);
            if code == opcode::LOGIN_REQUEST || code == opcode::LOGIN_RESPONSE {
                head[1] = 0;
            }
            let parsed = Pdu::parse(receiver, &head, &[], Payload::new());
            assert_eq!(parsed.is_ok(), opcode::receiver(code) == Some(receiver), "{code:#x} {parsed:?}");
        }
    }
}
