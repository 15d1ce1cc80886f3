//! What must not succeed, on either side.

use super::*;

fn refuse_first(request: LoginRequest) -> (u8, u8) {
    let mut login = TargetLogin::new();
    let step = feed(&mut login, &offer(), request);
    refused(&mut login, step)
}

/// A login that has passed its first request and stays in `stage`.
fn started(stage: Stage) -> TargetLogin {
    let mut login = TargetLogin::new();
    assert!(matches!(feed(&mut login, &offer(), request(stage, &NAMES)), TargetStep::Send(_)));
    login
}

#[test]
fn r21_names_are_needed() {
    assert_eq!(refuse_first(request(Stage::Operational, &NAMES[1..])), (2, 7));
    assert_eq!(refuse_first(request(Stage::Operational, &NAMES[..1])), (2, 7));
    assert_eq!(refuse_first(request(Stage::Operational, &[])), (2, 7));
    let long = "n".repeat(224);
    assert_eq!(refuse_first(request(Stage::Operational, &[("InitiatorName", &long), NAMES[1]])), (2, 0));
    assert_eq!(refuse_first(request(Stage::Operational, &[NAMES[0], ("TargetName", "")])), (2, 0));
}

#[test]
fn unknown_session_types_and_methods() {
    let pairs = [NAMES[0], NAMES[1], ("SessionType", "Boot")];
    assert_eq!(refuse_first(request(Stage::Operational, &pairs)), (2, 9));
    let pairs = [NAMES[0], NAMES[1], ("AuthMethod", "CHAP")];
    assert_eq!(refuse_first(request(Stage::Security, &pairs)), (2, 1));
}

#[test]
fn r30_only_version_0_is_spoken() {
    assert_eq!(
        refuse_first(LoginRequest { version_min: 1, version_max: 1, ..request(Stage::Security, &NAMES) }),
        (2, 5)
    );
    let later = LoginRequest { version_max: 3, ..request(Stage::Operational, &NAMES) };
    assert!(matches!(TargetLogin::new().handle(later), TargetStep::Decide(_)), "the range includes 0");
}

#[test]
fn r22_r23_r26_stages_and_bits() {
    use Stage::{FullFeature, Operational, Security};
    assert_eq!(refuse_first(request(FullFeature, &NAMES)), (2, 0));
    assert_eq!(refuse_first(transit(Operational, Security, &NAMES)), (2, 0));
    assert_eq!(refuse_first(transit(Operational, Operational, &NAMES)), (2, 0));
    assert_eq!(refuse_first(transit(Security, Security, &NAMES)), (2, 0));
    assert_eq!(
        refuse_first(LoginRequest { continue_: true, ..transit(Security, Operational, &NAMES) }),
        (2, 0)
    );
    for (stage, other) in [(Security, Operational), (Operational, Security)] {
        let mut login = started(stage);
        let step = login.handle(request(other, &[]));
        assert_eq!(refused(&mut login, step), (2, 0), "from {stage:?} to {other:?} without leave");
    }
}

#[test]
fn r31_r32_a_login_keeps_its_identity() {
    let fine = request(Stage::Operational, &[]);
    let changed = [
        LoginRequest { isid: Isid([9; 6]), ..fine.clone() },
        LoginRequest { tsih: Tsih(1), ..fine.clone() },
        LoginRequest { itt: Itt(6), ..fine.clone() },
        LoginRequest { cid: Cid(2), ..fine.clone() },
        LoginRequest { version_max: 1, ..fine },
    ];
    for request in changed {
        let mut login = started(Stage::Operational);
        let step = login.handle(request);
        assert_eq!(refused(&mut login, step), (2, 0));
    }
}

#[test]
fn r16_nothing_but_login_requests() {
    let other = Pdu::NopOut(crate::iscsi::NopOut::default());
    assert_eq!(TargetLogin::new().handle_other(&other), TargetStep::Close(Vec::new()), "before a login");
    let mut login = started(Stage::Operational);
    let step = login.handle_other(&other);
    assert_eq!(refused(&mut login, step), (2, 11));
}

#[test]
fn r18_a_request_before_the_decision() {
    let mut login = TargetLogin::new();
    assert!(matches!(login.handle(request(Stage::Operational, &NAMES)), TargetStep::Decide(_)));
    let step = login.handle(request(Stage::Operational, &[]));
    assert_eq!(refused(&mut login, step), (2, 0));
}

#[test]
fn refusals_of_the_caller_are_passed_on() {
    let mut login = TargetLogin::new();
    assert!(matches!(login.handle(request(Stage::Security, &NAMES)), TargetStep::Decide(_)));
    let step = login.refuse(Refusal { class: 2, detail: 3, address: None });
    assert_eq!(refused(&mut login, step), (2, 3));
    let mut login = TargetLogin::new();
    assert!(matches!(login.handle(request(Stage::Security, &NAMES)), TargetStep::Decide(_)));
    let address = Some("192.0.2.1:3260".to_owned());
    let moved = response(login.refuse(Refusal { class: 1, detail: 2, address }));
    assert_eq!(text(&moved).value("TargetAddress"), Some("192.0.2.1:3260"), "R39");
}

#[test]
fn granting_what_was_not_asked_ends_the_login() {
    let mut login = started(Stage::Operational);
    let step = login.accept(offer());
    assert_eq!(refused(&mut login, step), (2, 0));
}

#[test]
fn r28_r54_no_second_negotiation() {
    let mut login = started(Stage::Operational);
    let pair = [("MaxBurstLength", "16384")];
    assert!(matches!(login.handle(request(Stage::Operational, &pair)), TargetStep::Send(_)));
    let step = login.handle(request(Stage::Operational, &pair));
    assert_eq!(refused(&mut login, step), (2, 0));
    let mut pairs = NAMES.to_vec();
    pairs.extend([("MaxConnections", "1"), ("MaxConnections", "1")]);
    assert_eq!(refuse_first(request(Stage::Operational, &pairs)), (2, 0));
    let mut login = started(Stage::Operational);
    let step = login.handle(request(Stage::Operational, &[("InitiatorName", "iqn.other")]));
    assert_eq!(refused(&mut login, step), (2, 0), "names do not change");
}

#[test]
fn r29_r69_r83_keys_out_of_place() {
    for pair in [
        ("SendTargets", "All"),
        ("TargetPortalGroupTag", "1"),
        ("TargetAlias", "x"),
        ("AuthMethod", "None"),
        ("CHAP_N", "me"),
        ("MaxRecvDataSegmentLength", "511"),
        ("MaxRecvDataSegmentLength", "many"),
    ] {
        let mut login = started(Stage::Operational);
        let step = login.handle(request(Stage::Operational, &[pair]));
        assert_eq!(refused(&mut login, step), (2, 0), "{pair:?}");
    }
}

#[test]
fn r45_proposals_that_are_not_answered_or_badly_answered() {
    let offer = Offer { limits: SessionParams { max_burst_length: 8192, ..offer().limits }, ..offer() };
    let bad: [&[(&str, &str)]; 4] = [
        &[],
        &[("MaxBurstLength", "16384"), ("FirstBurstLength", "8192")],
        &[("MaxBurstLength", "Reject"), ("FirstBurstLength", "8192")],
        &[("MaxBurstLength", "4096"), ("FirstBurstLength", "8192")],
    ];
    for answers in bad {
        let mut login = TargetLogin::new();
        let first = transit(Stage::Operational, Stage::FullFeature, &NAMES);
        assert!(matches!(feed(&mut login, &offer, first), TargetStep::Send(_)));
        let step = login.handle(transit(Stage::Operational, Stage::FullFeature, answers));
        assert_eq!(refused(&mut login, step), (2, 0), "{answers:?}");
    }
}

#[test]
fn a_rejected_proposal_does_not_lift_a_limit() {
    let offer = Offer { limits: SessionParams { max_burst_length: 8192, ..offer().limits }, ..offer() };
    let mut pairs = NAMES.to_vec();
    pairs.push(("MaxBurstLength", "7"));
    let mut login = TargetLogin::new();
    let mut step = feed(&mut login, &offer, transit(Stage::Operational, Stage::FullFeature, &pairs));
    if matches!(step, TargetStep::Send(_)) {
        let answers = [("FirstBurstLength", "8192")];
        step = login.handle(transit(Stage::Operational, Stage::FullFeature, &answers));
    }
    assert_eq!(refused(&mut login, step), (2, 0));
}

#[test]
fn garbage_text() {
    for garbage in [&b"\xff\xfe=\0"[..], b"no equals sign\0", b"InitiatorName=iqn.i"] {
        let first = LoginRequest { data: Payload::from(garbage.to_vec()), ..request(Stage::Security, &[]) };
        assert_eq!(refuse_first(first), (2, 0), "{garbage:?}");
    }
}

#[test]
fn r43_an_endless_login_ends_but_not_soon() {
    let mut login = started(Stage::Operational);
    let mut steps = (0..100).map(|_| login.handle(request(Stage::Operational, &[])));
    assert!(steps.by_ref().take(20).all(|s| matches!(s, TargetStep::Send(_))));
    let last = steps.find(|s| !matches!(s, TargetStep::Send(_)));
    assert_eq!(refused(&mut login, last.unwrap()), (2, 0));
    let endless = |data: Vec<u8>| {
        let mut login = TargetLogin::new();
        let piece =
            LoginRequest { continue_: true, data: Payload::from(data), ..request(Stage::Operational, &[]) };
        let mut pieces = (0..100).map(|_| login.handle(piece.clone()));
        let last = pieces.find(|s| !matches!(s, TargetStep::Send(_))).unwrap();
        assert_eq!(refused(&mut login, last), (2, 0));
    };
    endless(Vec::new());
    endless(vec![b'a'; 8192]);
}

#[test]
fn r26_a_list_of_this_side_is_not_interrupted() {
    let names: Vec<String> = (0..1000).map(|n| format!("X-{n}")).collect();
    let mut pairs = NAMES.to_vec();
    pairs.extend(names.iter().map(|name| (name.as_str(), "")));
    let mut login = TargetLogin::new();
    let first = response(feed(&mut login, &offer(), request(Stage::Operational, &pairs)));
    assert!(first.continue_);
    let step = login.handle(request(Stage::Operational, &[("MaxConnections", "1")]));
    assert_eq!(refused(&mut login, step), (2, 0));
}

// The initiator's side.

fn plan() -> LoginPlan {
    LoginPlan {
        kind: LoginKind::Leading,
        initiator_name: "iqn.i".to_owned(),
        target_name: "iqn.t".to_owned(),
        isid: ISID,
        cid: Cid(1),
        cmd_sn: CmdSn(1),
        offer: SessionParams { max_connections: 4, ..SessionParams::default() },
        connection: ConnectionParams::default(),
    }
}

/// A response that agrees to leave `stage`.
fn agreed(stage: Stage, next: Stage, pairs: &[(&str, &str)]) -> LoginResponse {
    LoginResponse {
        transit: true,
        current: stage,
        next,
        isid: ISID,
        tsih: if next == Stage::FullFeature { TSIH } else { Tsih(0) },
        itt: InitiatorLogin::itt(Cid(1)),
        data: Payload::from(keys(pairs).to_bytes()),
        ..LoginResponse::default()
    }
}

fn stay(stage: Stage, pairs: &[(&str, &str)]) -> LoginResponse {
    LoginResponse { transit: false, next: Stage::Security, ..agreed(stage, Stage::Operational, pairs) }
}

/// A good answer to every key on offer.
const ANSWERS: [(&str, &str); 14] = [
    ("HeaderDigest", "None"),
    ("DataDigest", "None"),
    ("MaxRecvDataSegmentLength", "8192"),
    ("MaxConnections", "2"),
    ("InitialR2T", "Yes"),
    ("ImmediateData", "Yes"),
    ("MaxBurstLength", "262144"),
    ("FirstBurstLength", "65536"),
    ("DefaultTime2Wait", "2"),
    ("DefaultTime2Retain", "20"),
    ("MaxOutstandingR2T", "1"),
    ("DataPDUInOrder", "Yes"),
    ("DataSequenceInOrder", "Yes"),
    ("ErrorRecoveryLevel", "0"),
];

/// `ANSWERS` with one of them changed or left out.
fn answers_but(key: &str, value: Option<&'static str>) -> Vec<(&'static str, &'static str)> {
    let changed = ANSWERS
        .iter()
        .filter_map(|(k, v)| if *k == key { value.map(|value| (*k, value)) } else { Some((*k, *v)) });
    changed.collect()
}

#[test]
fn r19_r21_r34_r36_r52_a_login_is_one_task_and_says_who_wants_what() {
    let sent = |step: InitiatorStep| {
        let InitiatorStep::Send(Pdu::LoginRequest(request)) = step else { panic!("{step:?}") };
        request
    };
    let session = SessionParams::default();
    for (kind, normal) in [
        (LoginKind::Leading, Some("Normal")),
        (LoginKind::Joining { session, tsih: TSIH }, None),
        (LoginKind::Discovery, Some("Discovery")),
    ] {
        let (mut login, first) = InitiatorLogin::start(LoginPlan { kind, ..plan() });
        let first = sent(InitiatorStep::Send(first));
        let names = KeyList::parse(&first.data.contiguous()).unwrap();
        assert_eq!((names.value("InitiatorName"), names.value("TargetName")), (Some("iqn.i"), Some("iqn.t")));
        assert_eq!(names.value("SessionType"), normal);
        let agreed = agreed(Stage::Security, Stage::Operational, &[("AuthMethod", "None")]);
        let second = sent(login.handle(LoginResponse { stat_sn: StatSn(u32::MAX), ..agreed }).unwrap());
        let identity = |r: &LoginRequest| (r.itt, r.isid, r.tsih, r.cid, r.cmd_sn);
        assert_eq!(identity(&first), identity(&second));
        assert_eq!(second.exp_stat_sn, StatSn(0), "the response is acknowledged");
        let offers = KeyList::parse(&second.data.contiguous()).unwrap();
        assert!(offers.iter().all(|(_, value)| !["Reject", "Irrelevant", "NotUnderstood"].contains(&value)));
        assert_eq!(Pdu::LoginRequest(second).encode().0[0] & 0x40, 0x40, "always immediate");
    }
}

/// An initiator that waits in the operational stage.
fn operational() -> InitiatorLogin {
    let (mut login, _) = InitiatorLogin::start(plan());
    let pairs = [("TargetPortalGroupTag", "1"), ("AuthMethod", "None")];
    let step = login.handle(agreed(Stage::Security, Stage::Operational, &pairs)).unwrap();
    assert!(matches!(step, InitiatorStep::Send(_)));
    login
}

fn finish(pairs: &[(&str, &str)]) -> Result<InitiatorStep, LoginError> {
    operational().handle(agreed(Stage::Operational, Stage::FullFeature, pairs))
}

#[test]
fn answers_within_the_offer_are_taken() {
    let Ok(InitiatorStep::Done(done)) = finish(&ANSWERS) else { panic!() };
    assert_eq!((done.session.max_connections, done.tpgt, done.tsih), (2, Some(1), TSIH));
}

#[test]
fn r57_answers_that_were_not_on_offer() {
    for (key, value) in [
        ("MaxConnections", "5"),
        ("MaxConnections", "0"),
        ("InitialR2T", "No"),
        ("InitialR2T", "Maybe"),
        ("MaxBurstLength", "262145"),
        ("DefaultTime2Wait", "1"),
        ("DefaultTime2Retain", "21"),
        ("ErrorRecoveryLevel", "1"),
        ("HeaderDigest", "CRC32C"),
        ("MaxRecvDataSegmentLength", "0"),
    ] {
        let result = finish(&answers_but(key, Some(value)));
        assert!(
            matches!(&result, Err(LoginError::Negotiation { key: k, .. }) if k == key),
            "{key}={value}: {result:?}"
        );
    }
    let result = finish(&answers_but("MaxBurstLength", Some("4096")));
    assert!(matches!(result, Err(LoginError::Negotiation { .. })), "R58: {result:?}");
    assert!(matches!(finish(&answers_but("MaxBurstLength", None)), Err(LoginError::Negotiation { .. })));
    assert!(matches!(finish(&answers_but("DataPDUInOrder", None)), Ok(InitiatorStep::Done(_))), "R56");
}

#[test]
fn r53_a_refused_key_keeps_its_default_where_that_is_on_offer() {
    for word in ["Reject", "Irrelevant", "NotUnderstood"] {
        let Ok(InitiatorStep::Done(done)) = finish(&answers_but("MaxConnections", Some(word))) else {
            panic!("{word}")
        };
        assert_eq!(done.session.max_connections, 1);
    }
}

/// tgt and LIO: the target proposes keys of its own, and waits for all of them to be answered.
#[test]
fn every_proposal_of_the_target_is_answered() {
    let mut login = operational();
    let proposals = [
        ("MaxConnections", "4"),
        ("TaskReporting", "ResponseFence,RFC3720"),
        ("iSCSIProtocolLevel", "2"),
        ("OFMarker", "No"),
        ("X-vendor", "1"),
    ];
    let step = login.handle(stay(Stage::Operational, &proposals)).unwrap();
    let InitiatorStep::Send(Pdu::LoginRequest(request)) = step else { panic!("{step:?}") };
    let expected = [
        ("TaskReporting", "RFC3720"),
        ("iSCSIProtocolLevel", "1"),
        ("OFMarker", "No"),
        ("X-vendor", "NotUnderstood"),
    ];
    assert_eq!(
        KeyList::parse(&request.data.contiguous()).unwrap(),
        keys(&expected),
        "MaxConnections was an answer"
    );
    assert!(request.transit, "R27");
    let rest = answers_but("MaxConnections", None);
    let step = login.handle(agreed(Stage::Operational, Stage::FullFeature, &rest)).unwrap();
    let InitiatorStep::Done(done) = step else { panic!("{step:?}") };
    assert_eq!(done.session.max_connections, 4);
}

/// tgt: on a joining connection too it proposes its MaxConnections, in the response that ends the stage.
#[test]
fn r41_session_keys_that_the_target_proposes_on_a_joining_connection_change_nothing() {
    let session = SessionParams { max_connections: 8, ..SessionParams::default() };
    for proposal in ["8", "4"] {
        let kind = LoginKind::Joining { session: session.clone(), tsih: TSIH };
        let (mut login, _) = InitiatorLogin::start(LoginPlan { kind, ..plan() });
        login.handle(agreed(Stage::Security, Stage::Operational, &[("AuthMethod", "None")])).unwrap();
        let pairs = [("HeaderDigest", "None"), ("DataDigest", "None"), ("MaxConnections", proposal)];
        let step = login.handle(agreed(Stage::Operational, Stage::FullFeature, &pairs)).unwrap();
        let InitiatorStep::Done(done) = step else { panic!("{step:?}") };
        assert_eq!(done.session, session);
    }
}

#[test]
fn r25_a_proposal_with_the_end_of_the_stage() {
    let mut pairs = ANSWERS.to_vec();
    pairs.push(("TaskReporting", "FastAbort,RFC3720"));
    assert!(matches!(finish(&pairs), Err(LoginError::Protocol(_))));
    let mut pairs = ANSWERS.to_vec();
    pairs.extend([("iSCSIProtocolLevel", "1"), ("X-vendor", "hello")]);
    assert!(matches!(finish(&pairs), Ok(InitiatorStep::Done(_))), "no answer of use");
}

#[test]
fn statuses() {
    let with = |class, detail, pairs: &[(&str, &str)]| {
        let (mut login, _) = InitiatorLogin::start(plan());
        let answer = stay(Stage::Security, pairs);
        login.handle(LoginResponse { status_class: class, status_detail: detail, ..answer })
    };
    assert_eq!(with(2, 6, &[]), Err(LoginError::Refused { class: 2, detail: 6 }));
    assert_eq!(with(3, 1, &[]), Err(LoginError::Refused { class: 3, detail: 1 }));
    assert!(matches!(with(9, 0, &[]), Err(LoginError::Protocol(_))));
    let moved = InitiatorStep::Redirect { address: "[2001:db8::1]:3260".to_owned(), permanent: true };
    assert_eq!(with(1, 2, &[("TargetAddress", "[2001:db8::1]")]), Ok(moved));
    let moved = InitiatorStep::Redirect { address: "192.0.2.1:99".to_owned(), permanent: false };
    assert_eq!(with(1, 1, &[("TargetAddress", "192.0.2.1:99,1")]), Ok(moved));
    assert!(matches!(with(1, 1, &[]), Err(LoginError::Protocol(_))), "R39");
    assert!(matches!(with(1, 7, &[("TargetAddress", "h")]), Err(LoginError::Protocol(_))));
}

#[test]
fn r24_responses_that_do_not_belong_here() {
    let fine = agreed(Stage::Security, Stage::Operational, &[("AuthMethod", "None")]);
    let wrong = [
        LoginResponse { itt: Itt(1), ..fine.clone() },
        LoginResponse { isid: Isid([1; 6]), ..fine.clone() },
        LoginResponse { version_active: 1, ..fine.clone() },
        LoginResponse { current: Stage::Operational, ..fine.clone() },
        LoginResponse { next: Stage::FullFeature, ..fine.clone() },
        LoginResponse { next: Stage::Security, ..fine.clone() },
        LoginResponse { continue_: true, ..fine.clone() },
        LoginResponse { data: Payload::from(b"\xff".to_vec()), ..fine },
    ];
    for response in wrong {
        let (mut login, _) = InitiatorLogin::start(plan());
        assert!(matches!(login.handle(response.clone()), Err(LoginError::Protocol(_))), "{response:?}");
    }
    let mut login = operational();
    let no_handle =
        LoginResponse { tsih: Tsih(0), ..agreed(Stage::Operational, Stage::FullFeature, &ANSWERS) };
    assert!(matches!(login.handle(no_handle), Err(LoginError::Protocol(_))), "R4");
}

#[test]
fn r43_an_endless_target_ends_but_not_soon() {
    let mut login = operational();
    let mut steps = (0..100).map(|_| login.handle(stay(Stage::Operational, &[])));
    assert!(steps.by_ref().take(20).all(|s| s.is_ok()));
    assert!(matches!(steps.find_map(Result::err), Some(LoginError::Protocol(_))));
    let mut login = operational();
    let piece = LoginResponse {
        continue_: true,
        data: Payload::from(vec![b'a'; 8192]),
        ..stay(Stage::Operational, &[])
    };
    let end = (0..100).find_map(|_| login.handle(piece.clone()).err());
    assert!(matches!(end, Some(LoginError::Protocol(_))));
}

/// R26: the target's list in two pieces, cut anywhere.
#[test]
fn a_response_may_be_cut_at_every_byte() {
    let whole = agreed(Stage::Operational, Stage::FullFeature, &ANSWERS);
    for cut in 0..=whole.data.len() {
        let mut login = operational();
        let first = LoginResponse {
            continue_: true,
            data: whole.data.slice(0, cut),
            ..stay(Stage::Operational, &[])
        };
        let step = login.handle(first).unwrap();
        let InitiatorStep::Send(Pdu::LoginRequest(request)) = step else { panic!("{step:?}") };
        assert!(request.data.is_empty() && !request.continue_, "an empty request");
        let second = LoginResponse { data: whole.data.slice(cut, usize::MAX), ..whole.clone() };
        assert!(matches!(login.handle(second), Ok(InitiatorStep::Done(_))), "cut at {cut}");
    }
}

#[test]
fn the_initiators_long_answer_comes_in_pieces() {
    let names: Vec<String> = (0..1500).map(|n| format!("X-{n}")).collect();
    let pairs: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
    let mut login = operational();
    let mut step = login.handle(stay(Stage::Operational, &pairs)).unwrap();
    let mut collected = Vec::new();
    loop {
        let InitiatorStep::Send(Pdu::LoginRequest(request)) = step else { panic!("{step:?}") };
        assert!(request.data.len() <= 8192);
        collected.extend_from_slice(&request.data.contiguous());
        assert_ne!(request.continue_, request.transit);
        if !request.continue_ {
            break;
        }
        step = login.handle(stay(Stage::Operational, &[])).unwrap();
    }
    assert_eq!(KeyList::parse(&collected).unwrap().iter().count(), 1500);
}
