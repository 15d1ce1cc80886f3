//! Error recovery level 1 over real sockets: what digests find spoilt, and what the initiator asks for again.

use crate::rig::{BLOCK, Client, Rig, bounded, pattern, plan, send_raw};
use braid::iscsi::{DataOut, Itt, Payload, Pdu, R2t, SnackRequest, Ttt, reject};
use braid::login::{ConnectionParams, LoginPlan, SessionParams};
use braid::proxy::events::Kind;

/// Blocks moved by one command, and bytes in one PDU.
const BLOCKS: usize = 64;
const SEGMENT: u32 = 8192;

async fn client(rig: &Rig) -> Client {
    let offer = SessionParams { error_recovery_level: 2, ..SessionParams::default() };
    let digests =
        ConnectionParams { data_digest: true, max_recv_data_segment: SEGMENT, ..ConnectionParams::default() };
    let client =
        Client::login_as(rig.address(), LoginPlan { offer, connection: digests, ..plan(1) }).await.unwrap();
    assert_eq!((client.agreed.session.error_recovery_level, client.agreed.connection.data_digest), (1, true));
    client
}

async fn r2t(client: &mut Client) -> R2t {
    match client.conn.recv().await.unwrap() {
        Pdu::R2t(r2t) => r2t,
        other => panic!("{other:?}"),
    }
}

/// All but ExpCmdSN and MaxCmdSN, which are as of now.
fn lasting(pdu: &Pdu) -> (Vec<u8>, Payload) {
    let (mut header, _) = pdu.encode();
    header[28..36].fill(0);
    (header.to_vec(), pdu.data().clone())
}

#[tokio::test]
async fn r177_write_data_that_came_spoilt_is_asked_for_again() {
    bounded(async {
        let rig = Rig::new(1, "").await;
        let mut client = client(&rig).await;
        let data = pattern(BLOCKS, 3);
        let mut command = client.write_command(100, &data);
        command.data = Payload::new();
        let itt = command.itt;
        client.conn.send(&[Pdu::ScsiCommand(command)]).await.unwrap();
        let asked = r2t(&mut client).await;
        assert_eq!((asked.buffer_offset, asked.desired_length as usize), (0, BLOCKS * BLOCK));
        for (data_sn, part) in (0..).zip(data.chunks(SEGMENT as usize)) {
            let pdu = Pdu::DataOut(DataOut {
                final_: (data_sn + 1) * SEGMENT == asked.desired_length,
                itt,
                ttt: asked.ttt,
                data_sn,
                buffer_offset: data_sn * SEGMENT,
                data: Payload::from(part.to_vec()),
                ..DataOut::default()
            });
            if data_sn == 1 {
                send_raw(&client.conn, &[&pdu.encode().0[..], part, b"none"].concat()).await;
            } else {
                client.conn.send(&[pdu]).await.unwrap();
            }
        }
        let pdu = client.conn.recv().await.unwrap();
        let Pdu::Reject(rejected) = pdu else { panic!("{pdu:?}") };
        assert_eq!((rejected.reason, rig.digest_errors("initiator")), (reject::DATA_DIGEST, 1));
        assert_eq!(rig.told(Kind::DigestError), ["write data: asked for again"]);
        assert_eq!(rig.breaches(), 0);
        assert_eq!(client.finish(itt, &data).await.unwrap().status, 0);
        assert_eq!(rig.target.read_medium(0, 100, BLOCKS as u64).unwrap(), data);
        client.logout().await;
    })
    .await;
}

#[tokio::test]
async fn r171_data_and_status_are_sent_again_as_they_were() {
    bounded(async {
        let rig = Rig::new(1, "").await;
        let mut client = client(&rig).await;
        assert_eq!(client.write(0, &pattern(BLOCKS, 5)).await.status, 0);
        let command = client.read_command(0, u16::try_from(BLOCKS).unwrap());
        let (itt, exp_stat_sn) = (command.itt, client.exp_stat_sn);
        client.conn.send(&[Pdu::ScsiCommand(command)]).await.unwrap();
        let mut first = Vec::new();
        while !matches!(first.last(), Some(Pdu::ScsiResponse(_))) {
            first.push(client.conn.recv().await.unwrap());
        }
        assert_eq!(first.len(), BLOCKS * BLOCK / SEGMENT as usize + 1, "the status travels alone");
        let run = |kind, itt, begin_run, run_length| {
            let ttt = Ttt::NONE;
            Pdu::SnackRequest(SnackRequest {
                kind,
                itt,
                ttt,
                exp_stat_sn,
                begin_run,
                run_length,
                ..SnackRequest::default()
            })
        };
        client.conn.send(&[run(0, itt, 1, 2), run(1, Itt::NONE, 0, 0)]).await.unwrap();
        for wanted in [1, 2, first.len() - 1] {
            assert_eq!(lasting(&client.conn.recv().await.unwrap()), lasting(&first[wanted]));
        }
        client.exp_stat_sn = exp_stat_sn.next();
        client.ping().await.unwrap();
        client.conn.send(&[run(0, itt, 1, 2)]).await.unwrap();
        let pdu = client.conn.recv().await.unwrap();
        assert!(matches!(&pdu, Pdu::Reject(r) if r.reason == reject::PROTOCOL_ERROR), "{pdu:?}");
    })
    .await;
}
