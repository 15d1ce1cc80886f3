//! The target core under arbitrary PDUs: it never panics, keeps its limits, and serves the next initiator.

use super::test_unit_ready;
use crate::iscsi::framer::Receiver;
use crate::iscsi::{Cid, CmdSn, FrameError, Framer, Isid, Pdu};
use crate::lab::target::core::{ConnId, Options, Output, PortalAddress, Target};
use crate::login::{ConnectionParams, InitiatorLogin, InitiatorStep, LoginKind, LoginPlan, SessionParams};
use bytes::BufMut;
use proptest::prelude::*;
use std::time::{Duration, Instant};

fn options() -> Options {
    let portals = vec![PortalAddress { address: "127.0.0.1:3260".into(), tpgt: 1 }];
    Options { portals, window: 8, delay: Duration::from_millis(1), ..Options::default() }
}

/// A login against the core, without any socket.
fn log_in(target: &mut Target, isid: u8, now: Instant) -> ConnId {
    let conn = target.accept(0, now);
    let (mut login, mut next) = InitiatorLogin::start(LoginPlan {
        kind: LoginKind::Leading,
        initiator_name: "iqn.2026-01.org.braid:chaos".into(),
        target_name: Options::default().name,
        isid: Isid([0x80, 0, 0, 0, 0, isid]),
        cid: Cid(0),
        cmd_sn: CmdSn(1),
        offer: SessionParams { initial_r2t: false, ..SessionParams::default() },
        connection: ConnectionParams::default(),
    });
    loop {
        target.handle(conn, next, now);
        let mut outputs = std::iter::from_fn(|| target.poll()).filter(|(to, _)| *to == conn);
        let Some((_, Output::Send(Pdu::LoginResponse(response)))) = outputs.next() else {
            panic!("no login response")
        };
        match login.handle(response).unwrap() {
            InitiatorStep::Send(pdu) => next = pdu,
            InitiatorStep::Done(_) | InitiatorStep::Redirect { .. } => break,
        }
    }
    while target.poll().is_some() {}
    conn
}

/// A request that is nearly right: the interesting mistakes are near the truth.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop::sample::select(vec![0_u8, 1, 1, 1, 1, 2, 4, 5, 5, 6, 0x10]);
    let tag = prop_oneof![4 => 0_u32..6, 1 => Just(u32::MAX)];
    let transfer = prop_oneof![3 => 0_u32..6, 1 => Just(u32::MAX)];
    let command = prop::sample::select(vec![
        0_u8, 0x03, 0x12, 0x16, 0x17, 0x1a, 0x25, 0x28, 0x2a, 0x2f, 0x41, 0x42, 0x5e, 0x5f, 0x88, 0x89, 0x8a,
        0x93, 0x9e, 0xa0,
    ]);
    let small = prop::collection::vec(prop_oneof![3 => Just(0_u8), 1 => 0_u8..20, 1 => any::<u8>()], 48);
    let length = prop_oneof![Just(0_usize), Just(24), Just(512), 0_usize..1025];
    let data = length.prop_flat_map(|length| prop::collection::vec(any::<u8>(), length));
    let fields = (opcode, any::<bool>(), tag, transfer, 0_u32..14, 0_u32..3000, command, small, data);
    fields.prop_map(|(opcode, immediate, itt, third, cmd_sn, length, command, mut header, data)| {
        header[0] = opcode | if immediate { 0x40 } else { 0 };
        header[1] = match opcode {
            1 => (header[1] & 0xe0) | (header[1] & 1),
            2 | 6 => 0x80 | (header[2] % 13),
            _ => 0x80 & (header[1] << 3),
        };
        header[4] = 0;
        header[5..8].copy_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes()[1..]);
        header[8..16].fill(0);
        header[16..20].copy_from_slice(&itt.to_be_bytes());
        header[20..24].copy_from_slice(&if opcode == 1 { length } else { third }.to_be_bytes());
        header[24..28].copy_from_slice(&cmd_sn.to_be_bytes());
        if opcode == 1 {
            header[32] = command;
        }
        header.extend(data);
        header.resize(header.len().next_multiple_of(4), 0);
        header
    })
}

fn parse(bytes: &[u8]) -> Option<Result<Pdu, ([u8; 48], u8)>> {
    let mut framer = Framer::new(Receiver::Target);
    framer.buffer().put_slice(bytes);
    match framer.next_pdu() {
        Ok(pdu) => pdu.map(Ok),
        Err(FrameError::Rejectable { header, reason, .. }) => Some(Err((header, reason))),
        Err(FrameError::Fatal(_)) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_an_initiator_sends_breaks_the_target(
        requests in prop::collection::vec((any::<bool>(), request()), 1..60),
    ) {
        let mut now = Instant::now();
        let mut target = Target::new(options()).unwrap();
        let conns = [log_in(&mut target, 1, now), log_in(&mut target, 2, now)];
        for (which, bytes) in requests {
            let conn = conns[usize::from(which)];
            match parse(&bytes) {
                Some(Ok(pdu)) => target.handle(conn, pdu, now),
                Some(Err((header, reason))) => target.handle_rejectable(conn, header, reason, now),
                None => target.closed(conn, now),
            }
            let outputs = std::iter::from_fn(|| target.poll()).count();
            prop_assert!(outputs < 5000, "{outputs} outputs for one request");
            now += Duration::from_micros(300);
            target.handle_timeout(now);
            for session in target.sessions() {
                prop_assert!(session.tasks <= 8 + 16 + 8 && session.held <= 8, "{session:?}");
            }
        }
        let fresh = log_in(&mut target, 3, now);
        // A reservation or an ordered task of the others may delay or refuse the command, but it is answered or held.
        target.handle(fresh, Pdu::ScsiCommand(test_unit_ready(1, 1)), now);
        for conn in conns {
            target.closed(conn, now);
        }
        target.handle_timeout(now + Duration::from_secs(1));
        let answered = std::iter::from_fn(|| target.poll())
            .any(|(conn, output)| conn == fresh && matches!(output, Output::Send(Pdu::ScsiResponse(_))));
        prop_assert!(answered);
        prop_assert_eq!(target.sessions().len(), 1);
    }
}

/// A connection that does not log in is dropped in time (R47).
#[test]
fn a_login_that_never_comes_is_not_awaited_for_ever() {
    let now = Instant::now();
    let mut target = Target::new(options()).unwrap();
    let conn = target.accept(0, now);
    let deadline = target.next_deadline().unwrap();
    target.handle_timeout(deadline);
    assert_eq!(target.poll(), Some((conn, Output::Reset)));
    assert_eq!(target.next_deadline(), None);
}

#[test]
fn options_that_make_no_target_are_refused() {
    let refused = |change: &dyn Fn(&mut Options)| {
        let mut options = options();
        change(&mut options);
        Target::new(options).is_err()
    };
    assert!(!refused(&|_| ()));
    assert!(refused(&|options| options.portals.clear()));
    assert!(refused(&|options| options.disks.clear()));
    assert!(refused(&|options| options.disks[0].block_size = 520));
    assert!(refused(&|options| options.disks[0].blocks = 0));
    assert!(refused(&|options| options.disks[0].serial.clear()));
    assert!(refused(&|options| options.window = 0));
    assert!(refused(&|options| options.limits.max_burst_length = 511));
    assert!(refused(&|options| options.limits.first_burst_length = options.limits.max_burst_length + 1));
    assert!(refused(&|options| options.max_recv_data_segment = 1 << 24));
    assert!(refused(&|options| options.limits.error_recovery_level = 1));
    assert!(!refused(&|options| options.limits.error_recovery_level = 2));
}
