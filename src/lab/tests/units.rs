//! What disks answer: identity, several units, reservations, task attributes, data operations.

use super::{initiator, leading, options, pattern, raw, soon, target, test_unit_ready};
use crate::iscsi::{
    Cdb, CmdSn, Isid, Itt, Lun, NopOut, Pdu, ScsiCommand, TaskAttribute, TaskManagementRequest, tmf,
};
use crate::lab::initiator::{Completion, Data, Initiator, InitiatorOptions};
use crate::lab::target::{Disk, RamTarget};
use crate::scsi::Sense;
use std::time::Duration;

async fn another(target: &RamTarget, isid: u8) -> Initiator {
    let options = InitiatorOptions { isid: Isid([0x80, 0, 0, 0, 0, isid]), ..options(target) };
    Initiator::connect(&options).await.unwrap()
}

async fn none(initiator: &mut Initiator, cdb: &[u8]) -> Completion {
    initiator.command(cdb, Data::None).await.unwrap()
}

fn sense(done: &Completion) -> (u8, u8, u8) {
    let sense = Sense::parse(&done.sense).unwrap();
    (sense.key, sense.asc, sense.ascq)
}

/// PERSISTENT RESERVE OUT with its keys.
async fn reserve_out(initiator: &mut Initiator, action: u8, kind: u8, key: u64, new: u64) -> Completion {
    let mut list = vec![0; 24];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&new.to_be_bytes());
    initiator.command(&[0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0], Data::Out(list.into())).await.unwrap()
}

const READ_ONE: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const WRITE_ONE: [u8; 10] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];

#[tokio::test]
async fn units_are_disks_of_their_own() {
    let target = target(1, |options| {
        let disk = |blocks, block_size, serial: &str| Disk { blocks, block_size, serial: serial.into() };
        options.target.disks = vec![disk(1000, 512, "FIRST"), disk(1 << 33, 4096, "SECOND")];
    })
    .await;
    let mut first = another(&target, 1).await;
    let lun = Lun::from_number(1);
    let isid = Isid([0x80, 0, 0, 0, 0, 2]);
    let mut second = Initiator::connect(&InitiatorOptions { lun, isid, ..options(&target) }).await.unwrap();
    assert_eq!((first.blocks(), first.block_size()), (1000, 512));
    assert_eq!((second.blocks(), second.block_size()), (1 << 33, 4096));
    let data = pattern(1, 8192);
    second.write((1 << 33) - 2, data.clone()).await.unwrap();
    assert_eq!(second.read((1 << 33) - 2, 2).await.unwrap().contiguous(), data);
    let luns = first.command(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], Data::In(256)).await.unwrap();
    assert_eq!(
        luns.data.contiguous()[..],
        [0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    );
    let page = [0x12, 1, 0x83, 0, 255, 0];
    let (a, b) = (
        first.command(&page, Data::In(255)).await.unwrap(),
        second.command(&page, Data::In(255)).await.unwrap(),
    );
    assert_ne!(a.data, b.data);
}

#[tokio::test]
async fn a_unit_that_is_not_there_says_so() {
    let target = target(1, |_| ()).await;
    let (mut raw, _) = raw(&target, 0, leading(&target, 1)).await;
    let ask = |itt: u32, cdb: &[u8], expected_length| {
        Pdu::ScsiCommand(ScsiCommand {
            read: true,
            lun: Lun::from_number(7),
            expected_length,
            cdb: Cdb(cdb.into()),
            ..test_unit_ready(itt, itt)
        })
    };
    raw.send(&ask(1, &[0x12, 0, 0, 0, 36, 0], 36)).await.unwrap();
    let Pdu::DataIn(data) = soon(raw.receive()).await.unwrap() else { panic!() };
    assert_eq!((data.data.contiguous()[0], data.has_status), (0x7f, true));
    raw.send(&ask(2, &READ_ONE, 512)).await.unwrap();
    let Pdu::ScsiResponse(response) = soon(raw.receive()).await.unwrap() else { panic!() };
    assert_eq!((response.status, response.underflow, response.residual), (2, true, 512));
    assert_eq!(response.data.contiguous()[2 + 12], 0x25);
}

#[tokio::test]
async fn data_operations() {
    let target = target(1, |_| ()).await;
    let mut initiator = initiator(&target).await;
    let block = pattern(3, 512);
    let same = [0x93, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 200, 0, 0];
    initiator.command(&same, Data::Out(block.clone().into())).await.unwrap().good().unwrap();
    assert_eq!(target.read_medium(0, 209, 1).unwrap(), block);
    assert_eq!(target.read_medium(0, 210, 1).unwrap(), [0; 512]);

    let mut both = block.clone();
    both.extend(pattern(4, 512));
    let caw = [0x89, 0, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 1, 0, 0];
    initiator.command(&caw, Data::Out(both.clone().into())).await.unwrap().good().unwrap();
    assert_eq!(target.read_medium(0, 20, 1).unwrap(), pattern(4, 512));
    let again = initiator.command(&caw, Data::Out(both.into())).await.unwrap();
    assert_eq!(sense(&again), (0x0e, 0x1d, 0));

    let verify = [0x2f, 2, 0, 0, 0, 30, 0, 0, 1, 0];
    initiator.command(&verify, Data::Out(block.clone().into())).await.unwrap().good().unwrap();
    let miss = initiator.command(&verify, Data::Out(pattern(5, 512).into())).await.unwrap();
    assert_eq!(sense(&miss), (0x0e, 0x1d, 0));

    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend(40_u64.to_be_bytes());
    list.extend(8_u32.to_be_bytes());
    list.extend([0; 4]);
    let unmap = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    initiator.command(&unmap, Data::Out(list.clone().into())).await.unwrap().good().unwrap();
    assert_eq!(target.read_medium(0, 40, 8).unwrap(), [0; 8 * 512]);
    assert_eq!(target.read_medium(0, 48, 1).unwrap(), block);
    list[8] = 0x7f;
    let beyond = initiator.command(&unmap, Data::Out(list.into())).await.unwrap();
    assert_eq!(sense(&beyond), (5, 0x21, 0));
}

#[tokio::test]
async fn reserve_excludes_others_until_released() {
    let target = target(1, |_| ()).await;
    let (mut a, mut b) = (another(&target, 1).await, another(&target, 2).await);
    assert_eq!(none(&mut a, &[0x16, 0, 0, 0, 0, 0]).await.status, 0);
    assert_eq!(b.command(&READ_ONE, Data::In(512)).await.unwrap().status, 0x18);
    assert_eq!(b.command(&[0x12, 0, 0, 0, 96, 0], Data::In(96)).await.unwrap().status, 0);
    assert_eq!(none(&mut b, &[0x17, 0, 0, 0, 0, 0]).await.status, 0);
    assert_eq!(b.command(&READ_ONE, Data::In(512)).await.unwrap().status, 0x18);
    assert_eq!(none(&mut a, &[0x17, 0, 0, 0, 0, 0]).await.status, 0);
    assert_eq!(b.command(&READ_ONE, Data::In(512)).await.unwrap().status, 0);
    assert_eq!(none(&mut a, &[0x16, 0, 0, 0, 0, 0]).await.status, 0);
    a.logout().await.unwrap();
    assert_eq!(b.command(&READ_ONE, Data::In(512)).await.unwrap().status, 0);
}

#[tokio::test]
async fn persistent_reservations_outlive_their_session() {
    let target = target(1, |_| ()).await;
    let (mut a, mut b) = (another(&target, 1).await, another(&target, 2).await);
    assert_eq!(reserve_out(&mut a, 1, 1, 0xa, 0).await.status, 0x18);
    assert_eq!(reserve_out(&mut a, 0, 0, 0, 0xa).await.status, 0);
    assert_eq!(reserve_out(&mut a, 1, 1, 0xa, 0).await.status, 0);
    let write = |initiator: &mut Initiator| initiator.submit(&WRITE_ONE, Data::Out(vec![1; 512].into()));
    write(&mut b);
    assert_eq!(b.complete().await.unwrap().1.status, 0x18);
    assert_eq!(b.command(&READ_ONE, Data::In(512)).await.unwrap().status, 0);
    a.logout().await.unwrap();
    write(&mut b);
    assert_eq!(b.complete().await.unwrap().1.status, 0x18);
    let mut a = another(&target, 1).await;
    write(&mut a);
    assert_eq!(a.complete().await.unwrap().1.status, 0);
    assert_eq!(reserve_out(&mut b, 6, 0, 0, 0xb).await.status, 0);
    assert_eq!(reserve_out(&mut b, 4, 3, 0xb, 0xa).await.status, 0);
    let told = a.command(&READ_ONE, Data::In(512)).await.unwrap();
    assert_eq!(sense(&told), (6, 0x2a, 0x05));
    assert_eq!(a.command(&READ_ONE, Data::In(512)).await.unwrap().status, 0x18);
    let keys = b.command(&[0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0], Data::In(256)).await.unwrap().data.contiguous();
    assert_eq!((keys[7], keys[15]), (8, 0xb));
    assert_eq!(reserve_out(&mut b, 3, 0, 0xb, 0).await.status, 0);
    assert_eq!(a.command(&READ_ONE, Data::In(512)).await.unwrap().status, 0);
}

/// An ORDERED task is answered behind everything older, from whichever session.
#[tokio::test]
async fn ordered_tasks_wait_for_older_ones_of_all_sessions() {
    let target = target(1, |_| ()).await;
    let (mut a, _) = raw(&target, 0, leading(&target, 1)).await;
    let (mut b, _) = raw(&target, 0, leading(&target, 2)).await;
    let write = ScsiCommand {
        write: true,
        expected_length: 512,
        cdb: Cdb(WRITE_ONE.as_slice().into()),
        ..test_unit_ready(1, 1)
    };
    a.send(&Pdu::ScsiCommand(write)).await.unwrap();
    let Pdu::R2t(r2t) = soon(a.receive()).await.unwrap() else { panic!() };
    let ordered = ScsiCommand { attribute: TaskAttribute::Ordered, ..test_unit_ready(1, 1) };
    b.send(&Pdu::ScsiCommand(ordered)).await.unwrap();
    b.send(&Pdu::ScsiCommand(test_unit_ready(2, 2))).await.unwrap();
    let head = ScsiCommand { attribute: TaskAttribute::HeadOfQueue, ..test_unit_ready(3, 3) };
    b.send(&Pdu::ScsiCommand(head)).await.unwrap();
    let Pdu::ScsiResponse(first) = soon(b.receive()).await.unwrap() else { panic!() };
    assert_eq!(first.itt, Itt(3));
    let data = crate::iscsi::DataOut {
        final_: true,
        itt: Itt(1),
        ttt: r2t.ttt,
        data: vec![1; 512].into(),
        ..crate::iscsi::DataOut::default()
    };
    a.send(&Pdu::DataOut(data)).await.unwrap();
    for expected in [1, 2] {
        let Pdu::ScsiResponse(response) = soon(b.receive()).await.unwrap() else { panic!() };
        assert_eq!((response.itt, response.status), (Itt(expected), 0));
    }
}

/// ABORT TASK SET ends this session's tasks only, and waits for earlier commands (R146, R153).
#[tokio::test]
async fn a_task_set_is_aborted_once_it_is_complete() {
    let target = target(1, |options| options.target.delay = Duration::from_secs(3600)).await;
    let (mut a, _) = raw(&target, 0, leading(&target, 1)).await;
    let (mut b, _) = raw(&target, 0, leading(&target, 2)).await;
    let ping = NopOut { immediate: true, itt: Itt(10), cmd_sn: CmdSn(2), ..NopOut::default() };
    b.send(&Pdu::ScsiCommand(test_unit_ready(1, 1))).await.unwrap();
    b.send(&Pdu::NopOut(ping.clone())).await.unwrap();
    assert!(matches!(soon(b.receive()).await.unwrap(), Pdu::NopIn(_)));
    a.send(&Pdu::ScsiCommand(test_unit_ready(1, 1))).await.unwrap();
    let abort = TaskManagementRequest {
        immediate: true,
        function: tmf::ABORT_TASK_SET,
        itt: Itt(9),
        cmd_sn: CmdSn(3),
        ..TaskManagementRequest::default()
    };
    a.send(&Pdu::TaskManagementRequest(abort)).await.unwrap();
    a.send(&Pdu::NopOut(ping)).await.unwrap();
    assert!(matches!(soon(a.receive()).await.unwrap(), Pdu::NopIn(_)));
    a.send(&Pdu::ScsiCommand(test_unit_ready(2, 2))).await.unwrap();
    let Pdu::TaskManagementResponse(answer) = soon(a.receive()).await.unwrap() else { panic!() };
    assert_eq!((answer.itt, answer.response), (Itt(9), tmf::COMPLETE));
    let tasks: Vec<usize> = target.sessions().iter().map(|session| session.tasks).collect();
    assert_eq!(tasks, [0, 1]);
}
