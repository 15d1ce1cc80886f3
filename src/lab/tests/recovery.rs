//! Error recovery level 2: tasks outlive their connection.

use super::{joining, leading, pattern, raw, soon, target, test_unit_ready};
use crate::iscsi::{
    Cdb, Cid, CmdSn, DataIn, DataOut, Itt, LogoutRequest, LogoutResponse, NopOut, Pdu, ScsiCommand, StatSn,
    TaskManagementRequest, Ttt, tmf,
};
use crate::lab::initiator::RawConnection;
use crate::lab::target::{RamTarget, TargetOptions};
use crate::login::{LoginPlan, Negotiated};
use std::time::Duration;

fn level_2(options: &mut TargetOptions) {
    options.target.limits.error_recovery_level = 2;
    options.target.limits.default_time2retain = 20;
    options.target.max_recv_data_segment = 8192;
}

/// Two connections of a session at level 2.
async fn pair(target: &RamTarget) -> (RawConnection, RawConnection, LoginPlan, Negotiated) {
    let mut plan = leading(target, 1);
    (plan.offer.error_recovery_level, plan.offer.default_time2retain) = (2, 20);
    plan.connection.max_recv_data_segment = 512;
    let (a, session) = raw(target, 0, plan.clone()).await;
    let kept = (session.session.default_time2wait, session.session.default_time2retain);
    assert_eq!((session.session.error_recovery_level, kept), (2, (2, 20)));
    let (b, _) = raw(target, 1, joining(&plan, &session, 1)).await;
    (a, b, plan, session)
}

/// A read or write of some blocks from 0 on.
fn transfer(opcode: u8, itt: u32, cmd_sn: u32, blocks: u8) -> ScsiCommand {
    ScsiCommand {
        read: opcode == 0x28,
        write: opcode == 0x2a,
        expected_length: u32::from(blocks) * 512,
        cdb: Cdb([opcode, 0, 0, 0, 0, 0, 0, 0, blocks, 0].as_slice().into()),
        ..test_unit_ready(itt, cmd_sn)
    }
}

async fn log_out_for_recovery(a: &mut RawConnection, cid: u16, cmd_sn: u32) -> LogoutResponse {
    let logout = LogoutRequest {
        immediate: true,
        reason: 2,
        itt: Itt(900),
        cid: Cid(cid),
        cmd_sn: CmdSn(cmd_sn),
        ..LogoutRequest::default()
    };
    a.send(&Pdu::LogoutRequest(logout)).await.unwrap();
    loop {
        let pdu = soon(a.receive()).await.unwrap();
        if let Pdu::LogoutResponse(answer) = &pdu {
            return answer.clone();
        }
        // The target noticed before, and says so (R186).
        let Pdu::AsyncMessage(message) = &pdu else { panic!("{pdu:?}") };
        assert_eq!((message.event, message.parameters[0]), (2, cid));
    }
}

async fn reassign(a: &mut RawConnection, task: u32, cmd_sn: u32, exp_data_sn: u32) -> u8 {
    let request = TaskManagementRequest {
        immediate: true,
        function: tmf::TASK_REASSIGN,
        itt: Itt(901),
        referenced_itt: Itt(task),
        cmd_sn: CmdSn(cmd_sn),
        exp_data_sn,
        ..TaskManagementRequest::default()
    };
    a.send(&Pdu::TaskManagementRequest(request)).await.unwrap();
    let Pdu::TaskManagementResponse(answer) = soon(a.receive()).await.unwrap() else { panic!() };
    answer.response
}

async fn status(a: &mut RawConnection, itt: u32) {
    let pdu = soon(a.receive()).await.unwrap();
    let Pdu::ScsiResponse(response) = pdu else { panic!("{pdu:?}") };
    assert_eq!((response.itt, response.status), (Itt(itt), 0));
}

async fn data_in(a: &mut RawConnection) -> DataIn {
    let pdu = soon(a.receive()).await.unwrap();
    let Pdu::DataIn(data) = pdu else { panic!("{pdu:?}") };
    data
}

/// What was said over the lost connection and not acknowledged is said again, behind the data that have arrived (R190, R191).
#[tokio::test]
async fn a_read_goes_on_behind_what_has_arrived() {
    let target = target(2, level_2).await;
    let (mut a, mut b, ..) = pair(&target).await;
    b.send(&Pdu::ScsiCommand(transfer(0x28, 1, 1, 4))).await.unwrap();
    for data_sn in 0..3 {
        assert_eq!(data_in(&mut b).await.data_sn, data_sn);
    }
    assert!(data_in(&mut b).await.has_status);
    drop(b);
    let answer = log_out_for_recovery(&mut a, 1, 2).await;
    assert_eq!((answer.response, answer.time2wait, answer.time2retain), (0, 2, 20));
    assert_eq!(reassign(&mut a, 1, 2, 2).await, tmf::COMPLETE);
    let pieces = [data_in(&mut a).await, data_in(&mut a).await];
    assert_eq!(pieces.each_ref().map(|p| (p.data_sn, p.buffer_offset)), [(2, 1024), (3, 1536)]);
    assert!(pieces[1].has_status && pieces[1].final_);
    assert_eq!(reassign(&mut a, 1, 2, 0).await, tmf::TASK_STILL_ALLEGIANT, "it is this connection's now");
}

/// A write whose data were under way gets them asked for again; it runs once.
#[tokio::test]
async fn a_write_asks_for_what_it_lacks() {
    let target = target(2, level_2).await;
    let (mut a, mut b, ..) = pair(&target).await;
    let data = pattern(7, 1024);
    b.send(&Pdu::ScsiCommand(transfer(0x2a, 1, 1, 2))).await.unwrap();
    let Pdu::R2t(r2t) = soon(b.receive()).await.unwrap() else { panic!() };
    let out = |ttt: Ttt, data_sn, offset: u32| {
        let from = offset as usize;
        Pdu::DataOut(DataOut {
            final_: offset == 512,
            itt: Itt(1),
            ttt,
            data_sn,
            buffer_offset: offset,
            data: data[from..from + 512].to_vec().into(),
            ..DataOut::default()
        })
    };
    b.send(&out(r2t.ttt, 0, 0)).await.unwrap();
    b.send(&Pdu::ScsiCommand(test_unit_ready(2, 2))).await.unwrap();
    status(&mut b, 2).await;
    drop(b);
    assert_eq!(log_out_for_recovery(&mut a, 1, 3).await.response, 0);
    assert_eq!(reassign(&mut a, 1, 3, 0).await, tmf::COMPLETE);
    let Pdu::R2t(again) = soon(a.receive()).await.unwrap() else { panic!() };
    assert_eq!((again.buffer_offset, again.desired_length), (512, 512), "the first half has arrived");
    a.send(&out(again.ttt, 0, 512)).await.unwrap();
    status(&mut a, 1).await;
    assert_eq!(target.read_medium(0, 0, 2).unwrap(), data);
}

/// The device goes on while nobody waits, and the answer is there when somebody asks.
#[tokio::test]
async fn the_device_goes_on_without_its_connection() {
    let target = target(2, |options| {
        level_2(options);
        options.target.delay = Duration::from_millis(20);
    })
    .await;
    let (mut a, mut b, ..) = pair(&target).await;
    b.send(&Pdu::ScsiCommand(ScsiCommand { data: pattern(9, 512).into(), ..transfer(0x2a, 1, 1, 1) }))
        .await
        .unwrap();
    let ping = NopOut { immediate: true, itt: Itt(50), cmd_sn: CmdSn(2), ..NopOut::default() };
    b.send(&Pdu::NopOut(ping)).await.unwrap();
    // The write is there, and perhaps done already.
    while !matches!(soon(b.receive()).await.unwrap(), Pdu::NopIn(_)) {}
    drop(b);
    assert_eq!(log_out_for_recovery(&mut a, 1, 2).await.response, 0);
    soon(async {
        while target.sessions()[0].tasks > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(target.read_medium(0, 0, 1).unwrap(), pattern(9, 512));
    assert_eq!(reassign(&mut a, 1, 2, 0).await, tmf::COMPLETE);
    status(&mut a, 1).await;
}

/// What is not there, not free, or not logged out stays where it is (R189, R190).
#[tokio::test]
async fn reassignments_are_refused() {
    let target = target(2, |options| {
        level_2(options);
        options.target.delay = Duration::from_secs(3600);
    })
    .await;
    let (mut a, mut b, plan, session) = pair(&target).await;
    assert_eq!(reassign(&mut a, 1, 1, 0).await, tmf::TASK_DOES_NOT_EXIST);
    b.send(&Pdu::ScsiCommand(test_unit_ready(1, 1))).await.unwrap();
    b.send(&Pdu::ScsiCommand(test_unit_ready(3, 3))).await.unwrap();
    soon(async {
        while target.sessions()[0].held == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(reassign(&mut a, 1, 2, 0).await, tmf::TASK_STILL_ALLEGIANT);
    assert_eq!(log_out_for_recovery(&mut a, 9, 2).await.response, 1, "no such connection");
    drop(b);
    soon(async {
        while target.sessions()[0].connections.len() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let Pdu::AsyncMessage(told) = soon(a.receive()).await.unwrap() else { panic!() };
    assert_eq!((told.event, told.parameters), (2, [1, 2, 20]));
    assert_eq!(reassign(&mut a, 1, 2, 0).await, tmf::TASK_STILL_ALLEGIANT, "it is not logged out");
    // A connection with the same CID logs the lost one out too (R193); what was not delivered is dropped (R106).
    let (mut again, _) = raw(&target, 1, joining(&plan, &session, 1)).await;
    assert_eq!(target.sessions()[0].held, 0);
    assert_eq!(reassign(&mut again, 3, 2, 0).await, tmf::TASK_DOES_NOT_EXIST);
    assert_eq!(reassign(&mut again, 1, 2, 0).await, tmf::COMPLETE);
}

/// What nobody asks for in time ends, and the initiator is told (R200).
#[tokio::test]
async fn tasks_are_not_kept_for_ever() {
    let target = target(2, |options| {
        level_2(options);
        options.target.delay = Duration::from_secs(3600);
        (options.target.limits.default_time2wait, options.target.limits.default_time2retain) = (0, 0);
    })
    .await;
    let mut plan = leading(&target, 1);
    (plan.offer.error_recovery_level, plan.offer.default_time2wait) = (2, 0);
    let (mut a, session) = raw(&target, 0, plan.clone()).await;
    let (mut b, _) = raw(&target, 1, joining(&plan, &session, 1)).await;
    b.send(&Pdu::ScsiCommand(test_unit_ready(1, 1))).await.unwrap();
    soon(async {
        while target.sessions()[0].tasks == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(b);
    soon(async {
        while target.sessions()[0].tasks > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    target.set_delay(Duration::ZERO);
    a.send(&Pdu::ScsiCommand(test_unit_ready(2, 2))).await.unwrap();
    let sense = loop {
        let pdu = soon(a.receive()).await.unwrap();
        if let Pdu::ScsiResponse(response) = &pdu {
            break response.data.contiguous();
        }
        assert!(matches!(pdu, Pdu::AsyncMessage(_) | Pdu::NopIn(_)), "{pdu:?}");
    };
    assert_eq!(sense[2 + 12..][..2], [0x47, 0x7f]);
}

/// Acknowledged answers are not said again.
#[tokio::test]
async fn what_was_acknowledged_is_over() {
    let target = target(2, level_2).await;
    let (mut a, mut b, ..) = pair(&target).await;
    b.send(&Pdu::ScsiCommand(test_unit_ready(1, 1))).await.unwrap();
    let Pdu::ScsiResponse(first) = soon(b.receive()).await.unwrap() else { panic!() };
    let exp_stat_sn: StatSn = first.stat_sn.next();
    b.send(&Pdu::ScsiCommand(ScsiCommand { exp_stat_sn, ..test_unit_ready(2, 2) })).await.unwrap();
    status(&mut b, 2).await;
    drop(b);
    assert_eq!(log_out_for_recovery(&mut a, 1, 3).await.response, 0);
    assert_eq!(reassign(&mut a, 1, 3, 0).await, tmf::TASK_DOES_NOT_EXIST);
    assert_eq!(reassign(&mut a, 2, 3, 0).await, tmf::COMPLETE);
    status(&mut a, 2).await;
}
