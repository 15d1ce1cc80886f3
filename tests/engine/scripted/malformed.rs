//! What an initiator must not send, and what it may ask besides commands.

use super::*;
use braid::iscsi::{LoginRequest, LogoutRequest, NopOut, TextRequest, TextResponse, reject};

/// A write of 2 KiB of which 512 bytes are immediate; the R2T for the rest.
fn half_a_write(rig: &mut Rig) -> (Itt, R2t) {
    let itt = rig.command(ScsiCommand { data: Payload::from(pattern(0, 512)), ..write(0, 4) });
    (itt, rig.told_r2t())
}

/// Data-Out that must be refused and end the session (R180).
fn breaks(send: impl FnOnce(&mut Rig, Itt, Ttt)) {
    let mut rig = Rig::sessions(1);
    let (itt, r2t) = half_a_write(&mut rig);
    send(&mut rig, itt, r2t.ttt);
    assert_eq!(rig.told_reject(), reject::PROTOCOL_ERROR);
    assert!(rig.downstream_closed);
    assert!(rig.notes.iter().any(|n| matches!(n, Notice::DownstreamProtocol(_))));
}

/// Data-Out that must be refused and otherwise ignored.
fn refused(send: impl FnOnce(&mut Rig, Itt, Ttt)) {
    let mut rig = Rig::sessions(1);
    let (itt, r2t) = half_a_write(&mut rig);
    send(&mut rig, itt, r2t.ttt);
    assert_eq!(rig.told_reject(), reject::INVALID_FIELD);
    rig.quiet();
    // The write itself goes on (R181).
    rig.data_out(itt, r2t.ttt, 0, 512..2048, true);
    let sent = rig.sent_command(0);
    assert_eq!(sent.data.contiguous(), pattern(0, 2048));
    rig.respond(0, &sent, GOOD);
    rig.told_status(itt, GOOD);
    assert_eq!(rig.session.memory(), 0);
}

#[test]
fn data_for_an_unknown_task_is_refused() {
    refused(|rig, itt, ttt| rig.data_out(Itt(itt.0 + 99), ttt, 0, 512..2048, true));
}

#[test]
fn data_under_a_tag_never_given_out_is_refused_r124() {
    refused(|rig, itt, ttt| rig.data_out(itt, Ttt(ttt.0 + 1), 0, 512..2048, true));
}

#[test]
fn unsolicited_data_that_was_not_announced_is_refused_r122() {
    refused(|rig, itt, _| rig.data_out(itt, Ttt::NONE, 0, 512..2048, true));
}

#[test]
fn a_wrong_data_number_ends_the_session_r126() {
    breaks(|rig, itt, ttt| rig.data_out(itt, ttt, 1, 512..1024, false));
}

#[test]
fn a_wrong_offset_ends_the_session_r124() {
    breaks(|rig, itt, ttt| rig.data_out(itt, ttt, 0, 1024..2048, true));
}

#[test]
fn more_data_than_asked_for_ends_the_session_r124() {
    breaks(|rig, itt, ttt| rig.data_out(itt, ttt, 0, 512..2049, true));
}

#[test]
fn a_sequence_that_ends_early_or_late_ends_the_session_r124() {
    breaks(|rig, itt, ttt| rig.data_out(itt, ttt, 0, 512..1024, true));
    breaks(|rig, itt, ttt| rig.data_out(itt, ttt, 0, 512..2048, false));
}

#[test]
fn an_empty_segment_at_the_end_of_the_range_is_no_data() {
    breaks(|rig, itt, ttt| rig.data_out(itt, ttt, 0, 2048..2048, true));
}

#[test]
fn offsets_at_the_end_of_numbers_are_harmless() {
    breaks(|rig, itt, ttt| {
        rig.send(Pdu::DataOut(DataOut {
            itt,
            ttt,
            buffer_offset: u32::MAX,
            data: Payload::from(vec![0; 8]),
            ..DataOut::default()
        }));
    });
}

#[test]
fn empty_segments_are_accepted_r127() {
    let mut rig = Rig::sessions(1);
    let (itt, r2t) = half_a_write(&mut rig);
    rig.data_out(itt, r2t.ttt, 0, 512..512, false);
    rig.data_out(itt, r2t.ttt, 1, 512..2048, true);
    assert_eq!(rig.sent_command(0).data.contiguous(), pattern(0, 2048));
    rig.quiet();
}

#[test]
fn data_for_a_task_that_has_just_ended_is_ignored() {
    let mut rig = Rig::sessions(1);
    let itt = rig.write(0, 1);
    let sent = rig.sent_command(0);
    rig.respond(0, &sent, GOOD);
    rig.told_status(itt, GOOD);
    rig.data_out(itt, Ttt(5), 0, 0..512, true);
    rig.quiet();
}

#[test]
fn first_data_beyond_what_was_agreed_is_refused_r121_r122_r131() {
    let too_long = ScsiCommand { data: Payload::from(pattern(0, 513)), ..write(0, 1) };
    let for_a_read = ScsiCommand { data: Payload::from(pattern(0, 512)), ..read(0, 1) };
    let announced = ScsiCommand { final_: false, ..write(0, 1) };
    let neither = ScsiCommand { final_: false, ..read(0, 1) };
    for command in [too_long, for_a_read, announced, neither] {
        let mut rig = Rig::sessions(1);
        rig.command(command);
        assert_eq!(rig.told_reject(), reject::PROTOCOL_ERROR);
        rig.quiet();
        assert_eq!(rig.session.memory(), 0);
    }
}

#[test]
fn an_unsolicited_burst_is_whole_or_refused_r121() {
    let mut plan = plan(Fanout::Sessions, 1);
    plan.downstream.session.initial_r2t = false;
    plan.downstream.session.first_burst_length = 1024;
    let mut rig = Rig::new(plan);
    let itt = rig.command(ScsiCommand { final_: false, data: Payload::from(pattern(0, 512)), ..write(0, 4) });
    rig.quiet();
    rig.data_out(itt, Ttt::NONE, 0, 512..768, true);
    assert_eq!(rig.told_reject(), reject::PROTOCOL_ERROR);
    assert!(rig.downstream_closed);
}

#[test]
fn pdus_of_targets_are_refused_r142() {
    let mut rig = Rig::sessions(1);
    rig.send(Pdu::R2t(R2t::default()));
    assert_eq!(rig.told_reject(), reject::PROTOCOL_ERROR);
    rig.send(Pdu::ScsiResponse(ScsiResponse::default()));
    assert_eq!(rig.told_reject(), reject::PROTOCOL_ERROR);
    rig.quiet();
}

#[test]
fn a_second_login_ends_the_session_r15() {
    let mut rig = Rig::sessions(1);
    rig.send(Pdu::LoginRequest(LoginRequest::default()));
    assert_eq!(rig.told_reject(), reject::PROTOCOL_ERROR);
    assert!(rig.downstream_closed);
}

#[test]
fn write_data_lost_to_a_digest_ends_the_session_r177() {
    let broken = |rig: &mut Rig, itt| {
        let (header, _) = Pdu::DataOut(DataOut { itt, ..DataOut::default() }).encode();
        rig.handle(Event::DownstreamRejectable {
            line: SessionPlan::FIRST_LINE,
            header,
            reason: reject::DATA_DIGEST,
        });
        assert_eq!(rig.told_reject(), reject::DATA_DIGEST);
    };
    let mut rig = Rig::sessions(1);
    let (itt, _) = half_a_write(&mut rig);
    broken(&mut rig, Itt(itt.0 + 1));
    assert!(!rig.downstream_closed, "nobody misses it");
    broken(&mut rig, itt);
    assert!(rig.downstream_closed);
    let digests = rig.notes.iter().filter(|n| matches!(n, Notice::DownstreamDigest(_))).count();
    let breaches = rig.notes.iter().any(|n| matches!(n, Notice::DownstreamProtocol(_)));
    assert_eq!((digests, breaches), (2, false), "the network is to blame, not the initiator");
}

#[test]
fn a_broken_pdu_is_refused_with_its_header_r181() {
    let mut rig = Rig::sessions(1);
    let header = [0x5a; 48];
    rig.handle(Event::DownstreamRejectable {
        line: SessionPlan::FIRST_LINE,
        header,
        reason: reject::DATA_DIGEST,
    });
    let Pdu::Reject(told) = rig.told() else { panic!() };
    assert_eq!((told.reason, told.data.contiguous().to_vec()), (reject::DATA_DIGEST, header.to_vec()));
    rig.quiet();
}

fn text(rig: &mut Rig, request: TextRequest) -> TextResponse {
    let (itt, cmd_sn) = (Itt(77), rig.take_cmd_sn());
    rig.send(Pdu::TextRequest(TextRequest { itt, cmd_sn, ..request }));
    match rig.told() {
        Pdu::TextResponse(response) => {
            assert_eq!(response.itt, itt);
            assert_eq!(response.final_, response.ttt == Ttt::NONE, "R60");
            response
        }
        other => panic!("not a text response: {other:?}"),
    }
}

fn keys(text: &str) -> TextRequest {
    let data = Payload::from(text.as_bytes().to_vec());
    TextRequest { final_: true, data, ..TextRequest::default() }
}

fn send_targets() -> Rig {
    let mut plan = plan(Fanout::Sessions, 1);
    plan.send_targets.push("TargetName", "iqn.2026-11.org.example:target");
    plan.send_targets.push("TargetAddress", "192.0.2.1:3260,1");
    Rig::new(plan)
}

const TARGETS: &str = "TargetName=iqn.2026-11.org.example:target\0TargetAddress=192.0.2.1:3260,1\0";

#[test]
fn a_text_may_come_in_parts_r50() {
    let mut rig = send_targets();
    let part = TextRequest { final_: false, continue_: true, ..keys("SendTar") };
    let answer = text(&mut rig, part);
    assert!(!answer.final_ && answer.data.is_empty(), "R26, R60");
    let answer = text(&mut rig, TextRequest { ttt: answer.ttt, ..keys("gets=\0") });
    assert_eq!(answer.data.contiguous(), TARGETS);
    // A request without the tag starts anew (R61).
    text(&mut rig, TextRequest { final_: false, continue_: true, ..keys("Gar") });
    let answer = text(&mut rig, keys("SendTargets=\0"));
    assert_eq!(answer.data.contiguous(), TARGETS);
}

#[test]
fn a_long_answer_comes_in_parts_r62_r237() {
    let mut plan = plan(Fanout::Sessions, 1);
    plan.downstream.connection.max_send_data_segment = 512;
    let address = "x".repeat(200) + ",1";
    for _ in 0..5 {
        plan.send_targets.push("TargetAddress", &address);
    }
    let mut rig = Rig::new(plan);
    let mut answer = text(&mut rig, keys("SendTargets=\0"));
    let mut all = Vec::new();
    loop {
        assert!(answer.data.len() <= 512);
        assert_eq!(answer.continue_, !answer.final_);
        all.extend_from_slice(&answer.data.contiguous());
        if answer.final_ {
            break;
        }
        answer = text(&mut rig, TextRequest { ttt: answer.ttt, ..keys("") });
    }
    assert_eq!(all, format!("TargetAddress={address}\0").repeat(5).into_bytes());
}

#[test]
fn garbage_in_text_is_refused_r48() {
    let mut rig = Rig::sessions(1);
    let (itt, cmd_sn) = (Itt(77), rig.take_cmd_sn());
    let data = Payload::from(vec![0xff; 100]);
    rig.send(Pdu::TextRequest(TextRequest { final_: true, itt, cmd_sn, data, ..TextRequest::default() }));
    assert_eq!(rig.told_refusal(), reject::PROTOCOL_ERROR);
    assert_eq!(text(&mut rig, keys("")).data.len(), 0, "and forgotten");
}

#[test]
fn a_key_that_stands_twice_in_a_text_is_refused_r63() {
    let mut rig = send_targets();
    let (itt, cmd_sn) = (Itt(77), rig.take_cmd_sn());
    let request = keys("SendTargets=\0X-a=1\0SendTargets=\0");
    rig.send(Pdu::TextRequest(TextRequest { itt, cmd_sn, ..request }));
    assert_eq!(rig.told_refusal(), reject::PROTOCOL_ERROR);
    assert_eq!(text(&mut rig, keys("SendTargets=\0")).data.contiguous(), TARGETS);
}

#[test]
fn the_initiator_may_declare_other_segments_later_r69() {
    let mut rig = send_targets();
    let answer = text(&mut rig, keys("MaxRecvDataSegmentLength=512\0"));
    assert!(answer.final_ && answer.data.is_empty(), "a declaration is not answered");
    let itt = rig.read(0, 3);
    let sent = rig.sent_command(0);
    rig.serve_read(0, &sent);
    for at in [0, 512, 1024] {
        let data = rig.told_data();
        assert_eq!((data.itt, data.buffer_offset, data.data.len()), (itt, at, 512));
    }
    for senseless in ["511", "16777216", "many"] {
        let answer = text(&mut Rig::sessions(1), keys(&format!("MaxRecvDataSegmentLength={senseless}\0")));
        assert_eq!(answer.data.contiguous(), "MaxRecvDataSegmentLength=Reject\0");
    }
}

#[test]
fn an_unknown_logout_reason_is_refused_r141() {
    let mut rig = Rig::sessions(1);
    let (itt, cmd_sn) = (Itt(88), rig.take_cmd_sn());
    rig.send(Pdu::LogoutRequest(LogoutRequest { reason: 5, itt, cmd_sn, ..LogoutRequest::default() }));
    assert_eq!(rig.told_reject(), reject::INVALID_FIELD);
    assert!(!rig.downstream_closed);
}

#[test]
fn what_comes_after_a_logout_is_not_acted_on_r106_r211() {
    let mut rig = Rig::sessions(1);
    let first = rig.cmd_sn;
    let itt = rig.tag();
    rig.cmd_sn = first.plus(2);
    rig.send(Pdu::ScsiCommand(ScsiCommand { itt, cmd_sn: first.plus(1), ..write(0, 1) }));
    rig.send(Pdu::LogoutRequest(LogoutRequest { itt: Itt(88), cmd_sn: first, ..LogoutRequest::default() }));
    assert!(matches!(rig.told(), Pdu::LogoutResponse(_)));
    assert!(matches!(rig.sent(0), Pdu::LogoutRequest(_)), "the early command is not carried any more");
    rig.quiet();
}

#[test]
fn a_ping_is_echoed_as_far_as_the_initiator_can_take_it_r224() {
    let mut plan = plan(Fanout::Sessions, 1);
    plan.downstream.connection.max_send_data_segment = 512;
    let mut rig = Rig::new(plan);
    let (itt, cmd_sn) = (rig.tag(), rig.take_cmd_sn());
    let data = Payload::from(pattern(0, 1000));
    rig.send(Pdu::NopOut(NopOut { itt, cmd_sn, lun: OTHER_UNIT, data, ..NopOut::default() }));
    let Pdu::NopIn(echo) = rig.told() else { panic!() };
    assert_eq!((echo.itt, echo.ttt, echo.lun), (itt, Ttt::NONE, OTHER_UNIT));
    assert_eq!(echo.data.contiguous(), pattern(0, 512));
    assert_eq!(echo.exp_cmd_sn, rig.cmd_sn, "R226: it took a CmdSN");
}
