//! The protocol at its edges: order over several connections, reinstatement, bad manners.

use super::{UNKNOWN_SESSION, initiator, joining, leading, options, raw, soon, target, test_unit_ready};
use crate::iscsi::text::KeyList;
use crate::iscsi::{
    Cdb, CmdSn, DataOut, Itt, LogoutRequest, NopOut, Pdu, ScsiCommand, TaskManagementRequest, TextRequest,
    Ttt, reject, tmf,
};
use crate::lab::initiator::{Initiator, InitiatorError, RawConnection};
use crate::lab::target::TargetOptions;
use crate::login::discovery::parse_answer;
use crate::login::{LoginError, LoginKind};
use std::time::Duration;

fn nop(itt: u32, cmd_sn: u32) -> Pdu {
    Pdu::NopOut(NopOut { immediate: true, itt: Itt(itt), cmd_sn: CmdSn(cmd_sn), ..NopOut::default() })
}

/// A write that waits for its data.
fn hungry_write(itt: u32, cmd_sn: u32) -> ScsiCommand {
    ScsiCommand {
        write: true,
        expected_length: 512,
        cdb: Cdb([0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0].as_slice().into()),
        ..test_unit_ready(itt, cmd_sn)
    }
}

async fn answered(raw: &mut RawConnection, itt: u32) {
    let pdu = soon(raw.receive()).await.unwrap();
    let Pdu::ScsiResponse(response) = pdu else { panic!("{pdu:?}") };
    assert_eq!((response.itt, response.status), (Itt(itt), 0));
}

/// CmdSN n + 1 on one connection waits for n on the other (R94).
#[tokio::test]
async fn commands_run_in_order_over_all_connections() {
    let target = target(2, |_| ()).await;
    let plan = leading(&target, 1);
    let (mut a, session) = raw(&target, 0, plan.clone()).await;
    let (mut b, _) = raw(&target, 1, joining(&plan, &session, 1)).await;
    for (itt, cmd_sn) in [(2, 2), (3, 3)] {
        b.send(&Pdu::ScsiCommand(test_unit_ready(itt, cmd_sn))).await.unwrap();
    }
    // The ping is answered, so the commands before it arrived, and they still wait.
    b.send(&nop(50, 4)).await.unwrap();
    let Pdu::NopIn(echo) = soon(b.receive()).await.unwrap() else { panic!() };
    assert_eq!((echo.itt, echo.exp_cmd_sn), (Itt(50), CmdSn(1)));
    assert_eq!(target.sessions()[0].held, 2);
    a.send(&Pdu::ScsiCommand(test_unit_ready(1, 1))).await.unwrap();
    answered(&mut a, 1).await;
    answered(&mut b, 2).await;
    answered(&mut b, 3).await;
    assert_eq!(target.sessions()[0].exp_cmd_sn, CmdSn(4));
}

/// A lost connection leaves a hole that another one plugs; the session lives on.
#[tokio::test]
async fn a_hole_is_plugged_over_a_survivor() {
    let target = target(2, |_| ()).await;
    let plan = leading(&target, 1);
    let (mut a, session) = raw(&target, 0, plan.clone()).await;
    let (mut b, _) = raw(&target, 1, joining(&plan, &session, 1)).await;
    b.send(&Pdu::ScsiCommand(test_unit_ready(2, 2))).await.unwrap();
    b.send(&nop(50, 3)).await.unwrap();
    soon(b.receive()).await.unwrap();
    drop(b);
    soon(async {
        while target.sessions()[0].connections.len() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    a.send(&Pdu::ScsiCommand(test_unit_ready(1, 1))).await.unwrap();
    answered(&mut a, 1).await;
    a.send(&Pdu::ScsiCommand(test_unit_ready(2, 2))).await.unwrap();
    answered(&mut a, 2).await;
}

#[tokio::test]
async fn connections_beyond_the_agreed_number_are_refused() {
    let target = target(1, |options| options.target.limits.max_connections = 2).await;
    let plan = leading(&target, 1);
    let (_a, session) = raw(&target, 0, plan.clone()).await;
    assert_eq!(session.session.max_connections, 2);
    let (_b, _) = raw(&target, 0, joining(&plan, &session, 1)).await;
    let mut c = RawConnection::connect(&target.addresses()[0].to_string()).await.unwrap();
    let refused = c.login(joining(&plan, &session, 2)).await;
    assert!(matches!(refused, Err(InitiatorError::Login(LoginError::Refused { class: 2, detail: 6 }))));
    let mut unknown = session;
    unknown.tsih = UNKNOWN_SESSION;
    let mut d = RawConnection::connect(&target.addresses()[0].to_string()).await.unwrap();
    let refused = d.login(joining(&plan, &unknown, 2)).await;
    assert!(matches!(refused, Err(InitiatorError::Login(LoginError::Refused { class: 2, detail: 10 }))));
}

/// The same ISID with TSIH 0 ends the old session on all its connections (R33, R195).
#[tokio::test]
async fn reinstatement_ends_the_old_session() {
    let target = target(2, |_| ()).await;
    let plan = leading(&target, 1);
    let (mut a, session) = raw(&target, 0, plan.clone()).await;
    let (mut b, _) = raw(&target, 1, joining(&plan, &session, 1)).await;
    let (mut other, _) = raw(&target, 0, leading(&target, 9)).await;
    a.send(&Pdu::ScsiCommand(hungry_write(1, 1))).await.unwrap();
    assert!(matches!(soon(a.receive()).await.unwrap(), Pdu::R2t(_)));
    let (mut new, again) = raw(&target, 1, plan).await;
    assert_ne!(again.tsih, session.tsih);
    assert!(soon(a.receive()).await.is_err());
    assert!(soon(b.receive()).await.is_err());
    new.send(&Pdu::ScsiCommand(test_unit_ready(1, 1))).await.unwrap();
    answered(&mut new, 1).await;
    other.send(&Pdu::ScsiCommand(test_unit_ready(1, 1))).await.unwrap();
    answered(&mut other, 1).await;
    assert_eq!(target.sessions().len(), 2);
}

/// The same CID replaces one connection and leaves the others alone (R193).
#[tokio::test]
async fn a_connection_is_reinstated_alone() {
    let target = target(2, |_| ()).await;
    let plan = leading(&target, 1);
    let (mut a, session) = raw(&target, 0, plan.clone()).await;
    let (mut b, _) = raw(&target, 1, joining(&plan, &session, 1)).await;
    let (mut again, _) = raw(&target, 1, joining(&plan, &session, 1)).await;
    assert!(soon(b.receive()).await.is_err());
    again.send(&Pdu::ScsiCommand(test_unit_ready(1, 1))).await.unwrap();
    answered(&mut again, 1).await;
    a.send(&Pdu::ScsiCommand(test_unit_ready(2, 2))).await.unwrap();
    answered(&mut a, 2).await;
}

/// Duplicates and numbers beyond the window are ignored (R96).
#[tokio::test]
async fn wrong_command_numbers_are_ignored() {
    let target = target(1, |options| options.target.window = 4).await;
    let (mut a, _) = raw(&target, 0, leading(&target, 1)).await;
    a.send(&Pdu::ScsiCommand(test_unit_ready(7, 5))).await.unwrap();
    a.send(&Pdu::ScsiCommand(test_unit_ready(1, 1))).await.unwrap();
    answered(&mut a, 1).await;
    a.send(&Pdu::ScsiCommand(test_unit_ready(9, 1))).await.unwrap();
    a.send(&Pdu::ScsiCommand(test_unit_ready(2, 2))).await.unwrap();
    answered(&mut a, 2).await;
    assert_eq!((target.sessions()[0].held, target.sessions()[0].tasks), (0, 0));
}

#[tokio::test]
async fn data_for_an_unknown_transfer_are_rejected() {
    let target = target(1, |_| ()).await;
    let (mut a, _) = raw(&target, 0, leading(&target, 1)).await;
    let data = DataOut {
        final_: true,
        itt: Itt(77),
        ttt: Ttt(0x1234),
        data: vec![1; 512].into(),
        ..DataOut::default()
    };
    a.send(&Pdu::DataOut(data)).await.unwrap();
    let Pdu::Reject(answer) = soon(a.receive()).await.unwrap() else { panic!() };
    assert_eq!((answer.reason, answer.data.len()), (reject::PROTOCOL_ERROR, 48));
    a.send(&Pdu::ScsiCommand(test_unit_ready(1, 1))).await.unwrap();
    answered(&mut a, 1).await;
}

/// A bad data digest costs the command, with the fitting sense; a bad header digest the connection (R176, R177).
#[tokio::test]
async fn bad_digests_are_noticed() {
    let target = target(1, |_| ()).await;
    let mut plan = leading(&target, 1);
    plan.connection.header_digest = true;
    plan.connection.data_digest = true;
    let (mut a, session) = raw(&target, 0, plan).await;
    assert!(session.connection.header_digest && session.connection.data_digest);
    a.send(&Pdu::ScsiCommand(hungry_write(1, 1))).await.unwrap();
    let Pdu::R2t(r2t) = soon(a.receive()).await.unwrap() else { panic!() };
    let data = Pdu::DataOut(DataOut {
        final_: true,
        itt: Itt(1),
        ttt: r2t.ttt,
        data: vec![1; 512].into(),
        ..DataOut::default()
    });
    let mut bytes = a.encode(&data);
    bytes[100] ^= 1;
    a.send_bytes(&bytes).await.unwrap();
    let Pdu::Reject(answer) = soon(a.receive()).await.unwrap() else { panic!() };
    assert_eq!(answer.reason, reject::DATA_DIGEST);
    let Pdu::ScsiResponse(response) = soon(a.receive()).await.unwrap() else { panic!() };
    assert_eq!(response.status, 2);
    assert_eq!(response.data.contiguous()[2 + 12..][..2], [0x47, 0x05]);
    assert_eq!(target.read_medium(0, 0, 1).unwrap(), [0; 512]);
    let mut bytes = a.encode(&nop(5, 2));
    bytes[3] ^= 1;
    a.send_bytes(&bytes).await.unwrap();
    assert!(soon(a.receive()).await.is_err());
}

#[tokio::test]
async fn garbage_closes_the_connection_and_nothing_else() {
    let target = target(1, |_| ()).await;
    let mut good = initiator(&target).await;
    for garbage in [&[0x3f; 48][..], &[0xff; 4096], &[0x43, 0x87, 0, 0, 0xff, 0xff, 0xff, 0xff]] {
        let mut bad = RawConnection::connect(&target.addresses()[0].to_string()).await.unwrap();
        bad.send_bytes(garbage).await.unwrap();
        if garbage.len() >= 48 {
            assert!(soon(bad.receive()).await.is_err());
        }
    }
    let mut early = RawConnection::connect(&target.addresses()[0].to_string()).await.unwrap();
    early.send(&Pdu::ScsiCommand(test_unit_ready(1, 1))).await.unwrap();
    assert!(soon(early.receive()).await.is_err());
    good.write(0, vec![1; 512]).await.unwrap();
}

/// A task is aborted while the device works on it, one that never arrived is counted as arrived (R149).
#[tokio::test]
async fn tasks_are_aborted() {
    let target = target(1, |options| options.target.delay = Duration::from_secs(3600)).await;
    let (mut a, _) = raw(&target, 0, leading(&target, 1)).await;
    a.send(&Pdu::ScsiCommand(test_unit_ready(1, 1))).await.unwrap();
    let abort = |itt, referenced: u32, ref_cmd_sn: u32| {
        Pdu::TaskManagementRequest(TaskManagementRequest {
            immediate: true,
            function: tmf::ABORT_TASK,
            itt: Itt(itt),
            referenced_itt: Itt(referenced),
            ref_cmd_sn: CmdSn(ref_cmd_sn),
            cmd_sn: CmdSn(3),
            ..TaskManagementRequest::default()
        })
    };
    for (itt, referenced, ref_cmd_sn, expected) in
        [(10, 1, 1, tmf::COMPLETE), (11, 1, 1, tmf::TASK_DOES_NOT_EXIST), (12, 2, 2, tmf::COMPLETE)]
    {
        a.send(&abort(itt, referenced, ref_cmd_sn)).await.unwrap();
        let Pdu::TaskManagementResponse(answer) = soon(a.receive()).await.unwrap() else { panic!() };
        assert_eq!((answer.itt, answer.response), (Itt(itt), expected));
    }
    target.set_delay(Duration::ZERO);
    a.send(&Pdu::ScsiCommand(test_unit_ready(3, 3))).await.unwrap();
    answered(&mut a, 3).await;
}

/// A reset ends the tasks of all sessions and tells all of it.
#[tokio::test]
async fn a_reset_reaches_all_sessions() {
    let target = target(1, |options| options.target.delay = Duration::from_secs(3600)).await;
    let (mut a, _) = raw(&target, 0, leading(&target, 1)).await;
    let (mut b, _) = raw(&target, 0, leading(&target, 2)).await;
    b.send(&Pdu::ScsiCommand(test_unit_ready(1, 1))).await.unwrap();
    b.send(&nop(5, 2)).await.unwrap();
    soon(b.receive()).await.unwrap();
    let reset = TaskManagementRequest {
        immediate: true,
        function: tmf::LOGICAL_UNIT_RESET,
        itt: Itt(9),
        cmd_sn: CmdSn(1),
        ..TaskManagementRequest::default()
    };
    a.send(&Pdu::TaskManagementRequest(reset)).await.unwrap();
    assert!(
        matches!(soon(a.receive()).await.unwrap(), Pdu::TaskManagementResponse(r) if r.response == tmf::COMPLETE)
    );
    target.set_delay(Duration::ZERO);
    b.send(&Pdu::ScsiCommand(test_unit_ready(2, 2))).await.unwrap();
    let Pdu::ScsiResponse(response) = soon(b.receive()).await.unwrap() else { panic!() };
    assert_eq!((response.itt, response.status), (Itt(2), 2));
    assert_eq!(response.data.contiguous()[2 + 12..][..2], [0x29, 0x03]);
}

/// Discovery answers with every portal and its group, from any portal (R231).
#[tokio::test]
async fn discovery_tells_all_portals() {
    let target = target(3, |options: &mut TargetOptions| {
        options.listen[2].tpgt = 2;
        options.listen[1].advertise = Some("storage.example:3260".into());
    })
    .await;
    let mut plan = options(&target).plan();
    plan.kind = LoginKind::Discovery;
    plan.target_name = String::new();
    plan.connection.max_recv_data_segment = 512;
    let (mut raw, session) = raw(&target, 2, plan).await;
    assert!(session.discovery);
    let mut keys = KeyList::new();
    keys.push("SendTargets", "All");
    let request = TextRequest {
        final_: true,
        itt: Itt(4),
        cmd_sn: session.cmd_sn,
        exp_stat_sn: session.stat_sn,
        data: keys.to_bytes().into(),
        ..TextRequest::default()
    };
    raw.send(&Pdu::TextRequest(request)).await.unwrap();
    let Pdu::TextResponse(answer) = soon(raw.receive()).await.unwrap() else { panic!() };
    assert!(answer.final_ && answer.itt == Itt(4));
    let found = parse_answer(&KeyList::parse(&answer.data.contiguous()).unwrap(), "none");
    let addresses = target.addresses();
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].portals,
        [
            (addresses[0].to_string(), 1),
            ("storage.example:3260".to_string(), 1),
            (addresses[2].to_string(), 2)
        ]
    );
}

#[tokio::test]
async fn logout_of_another_connection_closes_that_one() {
    let target = target(2, |_| ()).await;
    let plan = leading(&target, 1);
    let (mut a, session) = raw(&target, 0, plan.clone()).await;
    let (mut b, _) = raw(&target, 1, joining(&plan, &session, 1)).await;
    let logout = |itt, reason, cid, cmd_sn| {
        Pdu::LogoutRequest(LogoutRequest {
            reason,
            itt: Itt(itt),
            cid: crate::iscsi::Cid(cid),
            cmd_sn: CmdSn(cmd_sn),
            ..LogoutRequest::default()
        })
    };
    for (itt, reason, cid, expected) in [(1, 1, 7, 1), (2, 2, 1, 2), (3, 1, 1, 0)] {
        a.send(&logout(itt, reason, cid, itt)).await.unwrap();
        let Pdu::LogoutResponse(answer) = soon(a.receive()).await.unwrap() else { panic!() };
        assert_eq!((answer.itt, answer.response), (Itt(itt), expected));
    }
    assert!(soon(b.receive()).await.is_err());
    a.send(&logout(4, 0, 0, 4)).await.unwrap();
    assert!(matches!(soon(a.receive()).await.unwrap(), Pdu::LogoutResponse(answer) if answer.response == 0));
    assert!(matches!(soon(a.receive()).await, Err(InitiatorError::Closed)));
    assert!(target.sessions().is_empty());
}

/// A new session learns of the power-on; the initiator waits such attentions out.
#[tokio::test]
async fn unit_attention_on_new_sessions() {
    let target = target(1, |options| options.target.unit_attention = true).await;
    let (mut a, _) = raw(&target, 0, leading(&target, 1)).await;
    a.send(&Pdu::ScsiCommand(test_unit_ready(1, 1))).await.unwrap();
    let Pdu::ScsiResponse(response) = soon(a.receive()).await.unwrap() else { panic!() };
    assert_eq!(response.data.contiguous()[2 + 12..][..2], [0x29, 0x00]);
    a.send(&Pdu::ScsiCommand(test_unit_ready(2, 2))).await.unwrap();
    answered(&mut a, 2).await;
    assert!(Initiator::connect(&options(&target)).await.is_ok());
}

/// The target's own pings: answered by the lab initiator, fatal to who ignores them.
#[tokio::test]
async fn an_initiator_that_ignores_pings_is_dropped() {
    let target = target(1, |options| options.target.ping = Some(Duration::from_millis(40))).await;
    let (mut deaf, _) = raw(&target, 0, leading(&target, 2)).await;
    let mut good = initiator(&target).await;
    assert!(matches!(soon(deaf.receive()).await.unwrap(), Pdu::NopIn(nop) if nop.ttt != Ttt::NONE));
    let ended = soon(async {
        tokio::select! {
            end = deaf.receive() => end,
            other = good.complete() => panic!("{other:?}"),
        }
    });
    assert!(ended.await.is_err());
    good.flush().await.unwrap();
}
