//! First requests as real initiators make them, and the course of logins that differ in form.

use super::*;

/// Each pair of `expected` must stand in the response.
fn assert_answers(response: &LoginResponse, expected: &[(&str, &str)]) {
    let text = text(response);
    for (key, value) in expected {
        assert_eq!(text.value(key), Some(*value), "{key} in {text:?}");
    }
}

fn done(step: TargetStep) -> Negotiated {
    let TargetStep::Done(_, done) = step else { panic!("not done: {step:?}") };
    *done
}

/// libiscsi, and so QEMU: everything at once, straight from the operational stage, in one round.
#[test]
fn libiscsi_logs_in_with_one_request() {
    let pairs = [
        ("InitiatorName", "iqn.2008-11.org.linux-kvm:guest"),
        ("TargetName", "iqn.t"),
        ("SessionType", "Normal"),
        ("HeaderDigest", "None,CRC32C"),
        ("DataDigest", "None"),
        ("InitialR2T", "No"),
        ("ImmediateData", "Yes"),
        ("MaxBurstLength", "262144"),
        ("FirstBurstLength", "262144"),
        ("DefaultTime2Wait", "2"),
        ("DefaultTime2Retain", "0"),
        ("MaxOutstandingR2T", "1"),
        ("ErrorRecoveryLevel", "0"),
        ("IFMarker", "No"),
        ("OFMarker", "No"),
        ("MaxConnections", "1"),
        ("MaxRecvDataSegmentLength", "262144"),
        ("DataPDUInOrder", "Yes"),
        ("DataSequenceInOrder", "Yes"),
    ];
    let mut login = TargetLogin::new();
    let step = feed(&mut login, &offer(), transit(Stage::Operational, Stage::FullFeature, &pairs));
    let answer = response(step.clone());
    assert!(answer.transit && answer.next == Stage::FullFeature);
    assert_eq!((answer.tsih, answer.stat_sn), (TSIH, StatSn(0)));
    assert_answers(
        &answer,
        &[
            ("TargetPortalGroupTag", "3"),
            ("MaxRecvDataSegmentLength", "65536"),
            ("HeaderDigest", "None"), // R55: its first choice
            ("InitialR2T", "No"),
            ("FirstBurstLength", "65536"), // R71
            ("IFMarker", "No"),            // R80
        ],
    );
    let done = done(step);
    assert!(!done.connection.header_digest);
    assert_eq!(done.connection.max_send_data_segment, 262_144);
    assert_eq!((done.session.first_burst_length, done.session.default_time2retain), (65_536, 0));
    assert_eq!((done.cmd_sn, done.max_cmd_sn, done.stat_sn), (CmdSn(100), CmdSn(163), StatSn(1)));
}

/// open-iscsi: security stage with None, then the operational keys; TaskReporting and markers among them.
#[test]
fn open_iscsi_logs_in_with_two_requests() {
    let mut login = TargetLogin::new();
    let mut first = NAMES.to_vec();
    first.extend([("InitiatorAlias", "host"), ("AuthMethod", "None")]);
    let step = login.handle(transit(Stage::Security, Stage::Operational, &first));
    let TargetStep::Decide(intent) = step else { panic!("{step:?}") };
    assert_eq!(intent.initiator_alias.as_deref(), Some("host"));
    let answer = response(login.accept(offer()));
    assert!(answer.transit && answer.next == Stage::Operational);
    assert_eq!(answer.tsih, Tsih(0), "R31: the handle comes with the last response");
    assert_eq!(text(&answer), keys(&[("TargetPortalGroupTag", "3"), ("AuthMethod", "None")]), "R40");
    let second = [
        ("HeaderDigest", "CRC32C,None"),
        ("DataDigest", "None"),
        ("DefaultTime2Wait", "2"),
        ("DefaultTime2Retain", "0"),
        ("IFMarker", "No"),
        ("OFMarker", "No"),
        ("ErrorRecoveryLevel", "0"),
        ("InitialR2T", "No"),
        ("ImmediateData", "Yes"),
        ("MaxBurstLength", "16776192"),
        ("FirstBurstLength", "262144"),
        ("MaxOutstandingR2T", "1"),
        ("MaxConnections", "1"),
        ("DataPDUInOrder", "Yes"),
        ("DataSequenceInOrder", "Yes"),
        ("MaxRecvDataSegmentLength", "262144"),
        ("TaskReporting", "FastAbort,ResponseFence,RFC3720"),
        ("iSCSIProtocolLevel", "2"),
        ("X#NodeArchitecture", "linux"),
    ];
    let step = login.handle(transit(Stage::Operational, Stage::FullFeature, &second));
    // R55, R78, R79.
    let expected = [("HeaderDigest", "CRC32C"), ("TaskReporting", "RFC3720"), ("iSCSIProtocolLevel", "1")];
    let answer = response(step.clone());
    assert_answers(&answer, &expected);
    assert_eq!(text(&answer).value("X#NodeArchitecture"), None, "R81");
    let done = done(step);
    assert!(done.connection.header_digest && !done.connection.data_digest);
}

/// Windows: names alone first, without T; then the authentication; then the keys without T; then T alone.
#[test]
fn windows_takes_small_steps() {
    let mut login = TargetLogin::new();
    let answer = response(feed(&mut login, &offer(), request(Stage::Security, &NAMES)));
    assert!(!answer.transit);
    let step =
        feed(&mut login, &offer(), transit(Stage::Security, Stage::Operational, &[("AuthMethod", "None")]));
    let answer = response(step);
    assert_eq!((answer.transit, answer.stat_sn), (true, StatSn(1)), "R37");
    let pairs = [
        ("HeaderDigest", "None,CRC32C"),
        ("DataDigest", "None,CRC32C"),
        ("ErrorRecoveryLevel", "2"),
        ("InitialR2T", "No"),
        ("MaxConnections", "32"),
        ("MaxOutstandingR2T", "16"),
        ("MaxRecvDataSegmentLength", "65536"),
        ("FirstBurstLength", "65536"),
        ("MaxBurstLength", "262144"),
    ];
    let answer = response(login.handle(request(Stage::Operational, &pairs)));
    assert!(!answer.transit);
    // R66, R74, R77: the smaller of the two.
    assert_answers(
        &answer,
        &[("ErrorRecoveryLevel", "0"), ("MaxConnections", "4"), ("MaxOutstandingR2T", "1")],
    );
    let done = done(login.handle(transit(Stage::Operational, Stage::FullFeature, &[])));
    assert_eq!(done.session.max_connections, 4);
}

/// iPXE: no SessionType-less shortcut, few keys, straight through; defaults stand for the rest.
#[test]
fn ipxe_leaves_most_to_the_defaults() {
    let pairs = [
        ("InitiatorName", "iqn.2010-04.org.ipxe:guest"),
        ("TargetName", "iqn.t"),
        ("SessionType", "Normal"),
        ("AuthMethod", "CHAP,None"),
    ];
    let mut login = TargetLogin::new();
    let answer = response(feed(&mut login, &offer(), transit(Stage::Security, Stage::Operational, &pairs)));
    assert_answers(&answer, &[("AuthMethod", "None")]);
    let pairs = [
        ("HeaderDigest", "None"),
        ("DataDigest", "None"),
        ("MaxConnections", "1"),
        ("InitialR2T", "Yes"),
        ("ImmediateData", "No"),
        ("MaxRecvDataSegmentLength", "8192"),
        ("MaxBurstLength", "262144"),
        ("DefaultTime2Wait", "2"),
        ("DefaultTime2Retain", "0"),
        ("MaxOutstandingR2T", "1"),
        ("DataPDUInOrder", "Yes"),
        ("DataSequenceInOrder", "Yes"),
        ("ErrorRecoveryLevel", "0"),
    ];
    let done = done(login.handle(transit(Stage::Operational, Stage::FullFeature, &pairs)));
    assert!(done.session.initial_r2t && !done.session.immediate_data);
    assert_eq!(done.session.first_burst_length, 65_536);
}

#[test]
fn a_missing_session_type_means_normal() {
    let mut login = TargetLogin::new();
    let step = login.handle(transit(Stage::Operational, Stage::FullFeature, &NAMES[..2]));
    assert!(matches!(step, TargetStep::Decide(intent) if !intent.discovery));
}

#[test]
fn straight_from_security_to_full_feature() {
    let mut login = TargetLogin::new();
    let done = done(feed(&mut login, &offer(), transit(Stage::Security, Stage::FullFeature, &NAMES)));
    assert_eq!(done.session, SessionParams::default());
    assert_eq!(done.connection, ConnectionParams::default(), "nothing was declared");
}

#[test]
fn r29_operational_keys_in_the_security_stage_are_answered_there_and_may_come_again() {
    let mut login = TargetLogin::new();
    let mut pairs = NAMES.to_vec();
    pairs.extend([("AuthMethod", "None"), ("MaxBurstLength", "16384"), ("FirstBurstLength", "16384")]);
    let answer = response(feed(&mut login, &offer(), transit(Stage::Security, Stage::Operational, &pairs)));
    assert_answers(&answer, &[("MaxBurstLength", "16384"), ("MaxRecvDataSegmentLength", "65536")]);
    let again = [("MaxBurstLength", "16384"), ("FirstBurstLength", "8192")];
    let step = login.handle(transit(Stage::Operational, Stage::FullFeature, &again));
    let answer = response(step.clone());
    assert_answers(&answer, &again);
    assert_eq!(text(&answer).value("MaxRecvDataSegmentLength"), None, "declared once");
    assert_eq!(done(step).session.first_burst_length, 8192);
}

/// What the initiator leaves to defaults beyond this side's limits is proposed before the stage ends (R25).
#[test]
fn defaults_beyond_the_limits_are_proposed() {
    let limits = SessionParams {
        max_burst_length: 16_384,
        immediate_data: false,
        default_time2wait: 5,
        ..offer().limits
    };
    let offer = Offer { limits, ..offer() };
    let mut login = TargetLogin::new();
    let answer = response(feed(&mut login, &offer, transit(Stage::Operational, Stage::FullFeature, &NAMES)));
    assert!(!answer.transit, "keys that need an answer do not end a stage");
    let proposed = [
        ("MaxBurstLength", "16384"),
        ("FirstBurstLength", "16384"),
        ("ImmediateData", "No"),
        ("DefaultTime2Wait", "5"),
    ];
    assert_answers(&answer, &proposed);
    let answers = [("MaxBurstLength", "8192"), ("FirstBurstLength", "8192"), ("DefaultTime2Wait", "7")];
    let step = login.handle(transit(Stage::Operational, Stage::FullFeature, &answers));
    assert_eq!(text(&response(step.clone())), KeyList::new(), "answers are not answered");
    let session = done(step).session;
    assert_eq!((session.max_burst_length, session.default_time2wait), (8192, 7), "R70, R72");
    assert!(!session.immediate_data, "R56: nothing else could have been the answer");
}

#[test]
fn proposals_wait_for_the_operational_stage() {
    let offer = Offer { limits: SessionParams { immediate_data: false, ..offer().limits }, ..offer() };
    let mut login = TargetLogin::new();
    let answer = response(feed(&mut login, &offer, transit(Stage::Security, Stage::FullFeature, &NAMES)));
    assert_eq!((answer.transit, answer.next), (true, Stage::Operational), "R24: not further than asked");
    let answer = response(login.handle(transit(Stage::Operational, Stage::FullFeature, &[])));
    assert_answers(&answer, &[("ImmediateData", "No")]);
    let answered = transit(Stage::Operational, Stage::FullFeature, &[("ImmediateData", "No")]);
    assert!(!done(login.handle(answered)).session.immediate_data);
}

/// R26, R50: a list cut anywhere into two PDUs means the same.
#[test]
fn a_list_may_be_cut_at_every_byte() {
    let mut pairs = NAMES.to_vec();
    pairs.extend([("MaxBurstLength", "65536"), ("X-private", "1"), ("HeaderDigest", "CRC32C")]);
    let whole = transit(Stage::Operational, Stage::FullFeature, &pairs);
    let uncut = done(feed(&mut TargetLogin::new(), &offer(), whole.clone()));
    for cut in 0..=whole.data.len() {
        let mut login = TargetLogin::new();
        let first = LoginRequest {
            transit: false,
            continue_: true,
            next: Stage::Security,
            data: whole.data.slice(0, cut),
            ..whole.clone()
        };
        let answer = response(login.handle(first));
        assert!(
            !answer.transit && !answer.continue_ && answer.data.is_empty(),
            "an empty answer, cut at {cut}"
        );
        let second = LoginRequest { data: whole.data.slice(cut, usize::MAX), ..whole.clone() };
        let cut = done(feed(&mut login, &offer(), second));
        assert_eq!(cut, Negotiated { stat_sn: uncut.stat_sn.next(), ..uncut.clone() });
    }
}

/// R20: answers longer than a segment come in pieces, and the stage ends with the last of them.
#[test]
fn a_long_answer_comes_in_pieces() {
    let mut login = TargetLogin::new();
    let names: Vec<String> = (0..1500).map(|n| format!("X-{n}")).collect();
    let mut pairs = NAMES.to_vec();
    pairs.extend(names.iter().map(|name| (name.as_str(), "")));
    let mut collected = Vec::new();
    let mut step = feed(&mut login, &offer(), transit(Stage::Operational, Stage::FullFeature, &pairs));
    let mut pieces = 1;
    loop {
        let answer = response(step.clone());
        assert!(answer.data.len() <= 8192);
        collected.extend_from_slice(&answer.data.contiguous());
        if !answer.continue_ {
            break;
        }
        assert!(!answer.transit);
        step = login.handle(transit(Stage::Operational, Stage::FullFeature, &[]));
        pieces += 1;
    }
    assert!(pieces > 2);
    assert!(matches!(step, TargetStep::Done(..)));
    let answers = KeyList::parse(&collected).unwrap();
    assert!(names.iter().all(|name| answers.value(name) == Some("NotUnderstood")), "R51, R82");
}

#[test]
fn r41_session_keys_do_not_change_on_a_joining_connection() {
    let offer = Offer { joining: true, ..offer() };
    let mut login = TargetLogin::new();
    let mut pairs = NAMES.to_vec();
    pairs.extend([("MaxConnections", "2"), ("MaxBurstLength", "262144"), ("HeaderDigest", "CRC32C")]);
    let step = feed(&mut login, &offer, transit(Stage::Operational, Stage::FullFeature, &pairs));
    let expected = [("MaxConnections", "Reject"), ("MaxBurstLength", "262144"), ("HeaderDigest", "CRC32C")];
    assert_answers(&response(step.clone()), &expected);
    assert_eq!(done(step).session, offer.limits);
}

#[test]
fn r53_r57_r80_senseless_proposals_are_rejected_and_change_nothing() {
    let mut pairs = NAMES.to_vec();
    let bad = [
        ("MaxBurstLength", "100"),
        ("MaxConnections", "0"),
        ("InitialR2T", "no"),
        ("ErrorRecoveryLevel", "3"),
        ("HeaderDigest", "MD5"),
        ("DefaultTime2Wait", "-1"),
        ("MaxOutstandingR2T", "99999999999999999999"),
        ("IFMarkInt", "2048"),
    ];
    pairs.extend(bad);
    let mut login = TargetLogin::new();
    let step = feed(&mut login, &offer(), transit(Stage::Operational, Stage::FullFeature, &pairs));
    let rejected: Vec<_> = bad.iter().map(|(key, _)| (*key, "Reject")).collect();
    assert_answers(&response(step.clone()), &rejected);
    assert_eq!(done(step).session, SessionParams::default());
}

#[test]
fn r49_numbers_may_be_hexadecimal() {
    let mut pairs = NAMES.to_vec();
    pairs.extend([("MaxBurstLength", "0x4000"), ("FirstBurstLength", "0X1000")]);
    let mut login = TargetLogin::new();
    let session =
        done(feed(&mut login, &offer(), transit(Stage::Operational, Stage::FullFeature, &pairs))).session;
    assert_eq!((session.max_burst_length, session.first_burst_length), (0x4000, 0x1000));
}
