//! Initiator and target machine against each other.

use super::*;
use proptest::prelude::*;

fn plan(kind: LoginKind, offer: SessionParams, connection: ConnectionParams) -> LoginPlan {
    let discovery = kind == LoginKind::Discovery;
    LoginPlan {
        kind,
        initiator_name: "iqn.2026-01.example:i".to_owned(),
        target_name: if discovery { String::new() } else { "iqn.2026-01.example:t".to_owned() },
        isid: ISID,
        cid: Cid(7),
        cmd_sn: CmdSn(u32::MAX),
        offer,
        connection,
    }
}

type Outcome = (Result<Negotiated, LoginError>, Option<Negotiated>);

/// Runs a login to its end on both sides.
fn run(plan: LoginPlan, offer: &Offer) -> Outcome {
    let mut target = TargetLogin::new();
    let (mut initiator, mut pdu) = InitiatorLogin::start(plan);
    loop {
        let Pdu::LoginRequest(request) = pdu else { panic!("not a request: {pdu:?}") };
        let (sent, done) = match feed(&mut target, offer, request) {
            TargetStep::Send(pdus) => (pdus, None),
            TargetStep::Done(pdus, done) => (pdus, Some(*done)),
            TargetStep::Close(pdus) => (pdus, None),
            TargetStep::Decide(intent) => panic!("asked twice: {intent:?}"),
        };
        match initiator.handle(response(TargetStep::Send(sent))) {
            Ok(InitiatorStep::Send(next)) => pdu = next,
            Ok(InitiatorStep::Done(own)) => return (Ok(*own), done),
            Ok(InitiatorStep::Redirect { .. }) => panic!("redirected"),
            Err(error) => return (Err(error), done),
        }
    }
}

#[test]
fn r34_r69_a_leading_login_agrees() {
    let connection = ConnectionParams {
        header_digest: true,
        data_digest: false,
        max_recv_data_segment: 131_072,
        ..ConnectionParams::default()
    };
    let wanted = SessionParams { max_connections: 8, initial_r2t: false, ..SessionParams::default() };
    let (initiator, target) = run(plan(LoginKind::Leading, wanted, connection), &offer());
    let (initiator, target) = (initiator.unwrap(), target.unwrap());
    assert_eq!(initiator.session, target.session);
    assert_eq!(initiator.session.max_connections, 4);
    assert!(!initiator.session.initial_r2t);
    assert!(initiator.connection.header_digest && !initiator.connection.data_digest);
    assert_eq!(initiator.connection.max_send_data_segment, 65_536);
    assert_eq!(target.connection.max_send_data_segment, 131_072);
    assert_eq!((initiator.tpgt, initiator.tsih, initiator.cid), (Some(3), TSIH, Cid(7)));
    // R34: the first command carries the number of the login.
    assert_eq!((initiator.cmd_sn, target.cmd_sn), (CmdSn(u32::MAX), CmdSn(u32::MAX)));
    assert_eq!((initiator.max_cmd_sn, target.max_cmd_sn), (CmdSn(62), CmdSn(62)));
    assert_eq!(initiator.stat_sn, target.stat_sn);
    assert_eq!(initiator.stat_sn, StatSn(2));
}

#[test]
fn r41_a_joining_login_takes_over_the_session() {
    let session = SessionParams { max_burst_length: 8192, immediate_data: false, ..SessionParams::default() };
    let kind = LoginKind::Joining { session: session.clone(), tsih: TSIH };
    let offer = Offer { limits: session.clone(), joining: true, ..offer() };
    let (initiator, target) = run(plan(kind, SessionParams::default(), ConnectionParams::default()), &offer);
    assert_eq!(initiator.unwrap().session, session);
    assert_eq!(target.unwrap().session, session);
}

#[test]
fn a_joining_login_to_another_session_is_a_protocol_error() {
    let kind = LoginKind::Joining { session: SessionParams::default(), tsih: Tsih(9) };
    let offer = Offer { joining: true, ..offer() };
    let (initiator, _) = run(plan(kind, SessionParams::default(), ConnectionParams::default()), &offer);
    assert!(matches!(initiator, Err(LoginError::Protocol(_))));
}

#[test]
fn r235_a_discovery_session_has_one_connection_and_no_recovery() {
    let wanted = SessionParams { max_connections: 8, error_recovery_level: 2, ..SessionParams::default() };
    let offer = Offer { limits: wanted.clone(), ..offer() };
    let (initiator, target) = run(plan(LoginKind::Discovery, wanted, ConnectionParams::default()), &offer);
    let (initiator, target) = (initiator.unwrap(), target.unwrap());
    assert!(initiator.discovery && target.discovery);
    assert_eq!(initiator.session, target.session);
    assert_eq!((target.session.max_connections, target.session.error_recovery_level), (1, 0));
    assert_eq!(initiator.tpgt, None, "an unnamed discovery session is in no portal group");
}

#[test]
fn join_at_tells_the_sessions_numbers() {
    let mut login = TargetLogin::new();
    let step = login.handle(transit(Stage::Operational, Stage::FullFeature, &NAMES));
    assert!(matches!(step, TargetStep::Decide(_)));
    login.join_at(CmdSn(40));
    let response = response(login.accept(Offer { joining: true, window: 8, ..offer() }));
    assert_eq!((response.exp_cmd_sn, response.max_cmd_sn), (CmdSn(40), CmdSn(47)));
}

fn session_params() -> impl Strategy<Value = SessionParams> {
    let sizes = (prop_oneof![512u32..100_000, Just(262_144), 1u32..0x0100_0000], 512u32..1_000_000);
    let counts = (1u16..20, 0u16..3600, 0u16..3600, 1u16..20);
    (sizes, counts, any::<[bool; 4]>(), 0u8..3).prop_map(|(sizes, counts, flags, error_recovery_level)| {
        SessionParams {
            max_connections: counts.0,
            initial_r2t: flags[0],
            immediate_data: flags[1],
            max_burst_length: sizes.0,
            first_burst_length: sizes.1,
            default_time2wait: counts.1,
            default_time2retain: counts.2,
            max_outstanding_r2t: counts.3,
            data_pdu_in_order: flags[2],
            data_sequence_in_order: flags[3],
            error_recovery_level,
        }
    })
}

proptest! {
    /// R54, R58, R66, R67, R68, R72, R73, R75, R76: whatever is offered and limited, both sides arrive at the same, or neither arrives.
    #[test]
    fn both_sides_agree(
        wanted in session_params(),
        limits in session_params(),
        digests in any::<[bool; 3]>(),
        recv in 512u32..0x0100_0000,
    ) {
        let connection = ConnectionParams {
            header_digest: digests[0],
            data_digest: digests[1],
            max_recv_data_segment: recv,
            ..ConnectionParams::default()
        };
        let offer = Offer { limits: limits.clone(), allow_digests: digests[2], ..offer() };
        let (initiator, target) = run(plan(LoginKind::Leading, wanted.clone(), connection), &offer);
        match (initiator, target) {
            (Ok(i), Some(t)) => {
                let s = i.session;
                prop_assert_eq!(&s, &t.session);
                prop_assert_eq!(i.connection.header_digest, t.connection.header_digest);
                prop_assert_eq!(i.connection.header_digest, digests[0] && digests[2]);
                prop_assert_eq!(i.connection.data_digest, t.connection.data_digest);
                prop_assert_eq!(t.connection.max_send_data_segment, recv);
                prop_assert!(s.first_burst_length <= s.max_burst_length);
                prop_assert_eq!(s.max_connections, wanted.max_connections.min(limits.max_connections));
                prop_assert_eq!(s.default_time2wait, wanted.default_time2wait.max(limits.default_time2wait));
                prop_assert_eq!(s.default_time2retain, wanted.default_time2retain.min(limits.default_time2retain));
                prop_assert_eq!(s.initial_r2t, wanted.initial_r2t || limits.initial_r2t);
                prop_assert_eq!(s.immediate_data, wanted.immediate_data && limits.immediate_data);
                prop_assert_eq!(s.data_pdu_in_order, wanted.data_pdu_in_order || limits.data_pdu_in_order);
                let in_order = wanted.data_sequence_in_order || limits.data_sequence_in_order;
                prop_assert_eq!(s.data_sequence_in_order, in_order);
                let recovers = s.error_recovery_level > 0 && s.data_sequence_in_order;
                prop_assert!(!recovers || s.max_outstanding_r2t == 1);
            }
            (initiator, target) => prop_assert!(false, "{initiator:?} {target:?}"),
        }
    }
}
