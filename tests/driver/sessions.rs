//! The driver over real sockets: login through, discovery, refusals, reinstatement, stopping, back-pressure.

use crate::rig::{
    BLOCK, Client, Rig, TARGET, assert_closed, bounded, counted, pattern, plan, refusal, send_raw, start,
    stranger,
};
use braid::iscsi::{Cid, Isid, Pdu, Tsih};
use braid::lab::target::{RamTarget, TargetOptions};
use braid::login::{InitiatorLogin, LoginKind, LoginPlan, SessionParams};
use braid::proxy::conn::ConnError;
use std::time::Duration;
use tokio::net::TcpListener;

#[tokio::test]
async fn data_goes_through_to_the_medium_and_back_r1() {
    bounded(async {
        let rig = Rig::new(2, "mode = \"sessions\"").await;
        let mut client = rig.client(1).await;
        for (seed, lba, blocks) in [(1, 0, 1), (2, 8, 16), (3, 1000, 2000)] {
            let data = pattern(blocks, seed);
            assert_eq!(client.write(lba, &data).await.status, 0);
            assert_eq!(rig.target.read_medium(0, lba.into(), blocks as u64).unwrap(), data);
            let read = client.read(lba, u16::try_from(blocks).unwrap()).await;
            assert!(read.status == 0 && read.data == data, "read of {blocks} blocks");
        }
        client.logout().await;
        while rig.proxy.sessions() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(rig.losses(), 0, "a logout is no loss");
        rig.proxy.stop(Duration::from_secs(10)).await;
        assert!(rig.target.sessions().is_empty());
    })
    .await;
}

#[tokio::test]
async fn the_target_sees_the_initiators_own_name_and_isid_r6_r12() {
    bounded(async {
        let rig = Rig::new(1, "").await;
        let client = rig.client(7).await;
        let sessions = rig.target.sessions();
        assert_eq!(sessions.len(), 1);
        assert_eq!(sessions[0].initiator, client.agreed.initiator_name);
        assert_eq!(sessions[0].isid, Isid([0x40, 0, 0, 0, 0, 7]));
        assert_eq!(client.agreed.target_alias.as_deref(), Some("Braid lab"));
        assert_eq!(client.agreed.tpgt, Some(1));
        assert_ne!(client.agreed.tsih, Tsih(0));
    })
    .await;
}

/// As many as may be configured can run, however many may be logging in at a time.
#[tokio::test]
async fn sessions_that_run_are_no_logins_under_way() {
    const SESSIONS: usize = 257;
    bounded(async {
        let mut options = TargetOptions::loopback(1);
        options.target.max_sessions = SESSIONS;
        let rig = Rig::with(options, "limits = { max_sessions = 300, login_rate = 10000 }", "").await;
        let mut clients = Vec::new();
        for number in 0..SESSIONS {
            let plan = LoginPlan { initiator_name: format!("iqn.2026-11.example:host{number}"), ..plan(1) };
            clients.push(Client::login_as(rig.address(), plan).await.unwrap());
        }
        assert_eq!(rig.proxy.sessions(), SESSIONS);
    })
    .await;
}

#[tokio::test]
async fn r239_discovery_shows_braids_own_portal() {
    bounded(async {
        let rig = Rig::new(2, "mode = \"sessions\"").await;
        let discovery = LoginPlan {
            kind: LoginKind::Discovery,
            target_name: String::new(),
            offer: SessionParams::default(),
            ..plan(1)
        };
        let mut client = Client::login_as(rig.address(), discovery).await.unwrap();
        let answer = client.text("SendTargets=All\0").await.unwrap();
        assert_eq!(answer, format!("TargetName={TARGET}\0TargetAddress={},1\0", rig.address()));
        client.logout().await;
    })
    .await;
}

#[tokio::test]
async fn r232_a_normal_session_may_ask_for_its_own_target() {
    bounded(async {
        let rig = Rig::new(2, "mode = \"sessions\"").await;
        let mut client = rig.client(1).await;
        let answer = client.text("SendTargets=\0").await.unwrap();
        assert_eq!(answer, format!("TargetName={TARGET}\0TargetAddress={},1\0", rig.address()));
    })
    .await;
}

#[tokio::test]
async fn an_unknown_target_is_refused() {
    bounded(async {
        let rig = Rig::new(1, "").await;
        let other = LoginPlan { target_name: "iqn.2026-11.example:other".into(), ..plan(1) };
        assert_eq!(refusal(Client::login_as(rig.address(), other.clone()).await), (2, 3));
        // R38: nothing more is heard after that.
        let mut conn = stranger(rig.address()).await;
        let (_, first) = InitiatorLogin::start(other);
        conn.send(&[first]).await.unwrap();
        assert!(matches!(conn.recv().await, Ok(Pdu::LoginResponse(refused)) if refused.status_class == 2));
        assert_closed(conn).await;
    })
    .await;
}

#[tokio::test]
async fn r33_an_unknown_session_handle_is_refused() {
    bounded(async {
        let rig = Rig::new(1, "").await;
        let session = SessionParams::default();
        let joining = |tsih| LoginPlan {
            kind: LoginKind::Joining { session: session.clone(), tsih },
            cid: Cid(2),
            ..plan(1)
        };
        assert_eq!(refusal(Client::login_as(rig.address(), joining(Tsih(999))).await), (2, 10));
        let mut client = rig.client(1).await;
        let tsih = client.agreed.tsih;
        assert_eq!(refusal(Client::login_as(rig.address(), joining(tsih)).await), (2, 6));
        client.ping().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn no_way_to_the_target_is_told_as_service_unavailable() {
    bounded(async {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (proxy, _) = start("", &[gone], "").await;
        assert_eq!(refusal(Client::login(proxy.addresses()[0], 1).await), (3, 1));
    })
    .await;
}

#[tokio::test]
async fn the_targets_own_refusal_reaches_the_initiator() {
    bounded(async {
        let mut options = TargetOptions::loopback(1);
        options.target.name = "iqn.2026-11.example:elsewhere".into();
        let rig = Rig::with(options, "", "").await;
        assert_eq!(refusal(Client::login(rig.address(), 1).await), (2, 3));
    })
    .await;
}

#[tokio::test]
async fn a_dead_first_path_does_not_keep_the_initiator_out() {
    bounded(async {
        let rig = Rig::new(1, "").await;
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        // This one takes the connection and never answers the login.
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let portals = [gone, mute.local_addr().unwrap(), rig.target.addresses()[0]];
        let (proxy, _) = start("", &portals, "login_timeout = \"500ms\"\nfence_time = \"1s\"").await;
        let mut client = Client::login(proxy.addresses()[0], 1).await.unwrap();
        assert_eq!(client.read(0, 8).await.status, 0);
    })
    .await;
}

/// It takes connections and says nothing: a portal whose system lives and whose target hangs. Initiators have no patience for
/// a whole timeout of Braid's (open-iscsi has 15 s for its login), and begin anew with the same path each time.
#[tokio::test]
async fn a_first_path_that_never_answers_does_not_keep_the_initiator_out() {
    bounded(async {
        let target = RamTarget::start(TargetOptions::loopback(1)).await.unwrap();
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let portals = [mute.local_addr().unwrap(), target.addresses()[0]];
        let (proxy, _) = start("", &portals, "login_timeout = \"1h\"\nfence_time = \"1s\"").await;
        let mut client = Client::login(proxy.addresses()[0], 1).await.unwrap();
        assert_eq!(client.read(0, 1).await.status, 0);
    })
    .await;
}

#[tokio::test]
async fn sessions_beyond_the_limit_are_refused() {
    bounded(async {
        let rig = Rig::with(TargetOptions::loopback(1), "limits = { max_sessions = 1 }", "").await;
        let mut first = rig.client(1).await;
        assert_eq!(refusal(Client::login(rig.address(), 2).await), (3, 2));
        assert_eq!(first.read(0, 1).await.status, 0);
        first.logout().await;
        let mut next = login_when_free(&rig, 2).await;
        assert_eq!(next.read(0, 1).await.status, 0);
    })
    .await;
}

/// The place of a session that was logged out is free once its connections are closed.
async fn login_when_free(rig: &Rig, isid: u8) -> Client {
    loop {
        match Client::login(rig.address(), isid).await {
            Ok(client) => return client,
            Err(error) => assert_eq!(refusal(Err(error)), (3, 2)),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn r195_r215_a_login_with_the_same_isid_ends_the_earlier_session_first() {
    bounded(async {
        let rig = Rig::new(2, "mode = \"sessions\"").await;
        let mut first = rig.client(1).await;
        assert_eq!(first.write(0, &pattern(8, 1)).await.status, 0);
        let mut second = rig.client(1).await;
        assert_closed(first.conn).await;
        assert_eq!(second.read(0, 8).await.data, pattern(8, 1));
        let names = rig.target.sessions();
        let home = names.iter().filter(|session| session.isid == second.agreed.isid);
        assert_eq!(home.count(), 1);
        assert_eq!(rig.proxy.sessions(), 1);
    })
    .await;
}

#[tokio::test]
async fn other_isids_are_other_sessions() {
    bounded(async {
        let rig = Rig::new(2, "mode = \"sessions\"").await;
        let mut first = rig.client(1).await;
        let mut second = rig.client(2).await;
        assert_eq!(first.write(0, &pattern(8, 1)).await.status, 0);
        assert_eq!(second.read(0, 8).await.data, pattern(8, 1));
        assert_ne!(first.agreed.tsih, second.agreed.tsih);
        first.ping().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn stopping_ends_every_session_and_leaves_nothing_upstream() {
    bounded(async {
        let rig = Rig::new(2, "mode = \"sessions\"").await;
        let mut clients = Vec::new();
        for isid in 0..4 {
            clients.push(rig.client(isid).await);
        }
        let address = rig.address();
        rig.proxy.stop(Duration::from_secs(10)).await;
        for client in clients {
            assert_closed(client.conn).await;
        }
        assert!(rig.target.sessions().is_empty());
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn the_initiators_going_ends_the_session_upstream() {
    bounded(async {
        let rig = Rig::new(2, "mode = \"sessions\"").await;
        let client = rig.client(1).await;
        drop(client);
        while !rig.target.sessions().is_empty() || rig.proxy.sessions() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Far more data is asked for than any queue holds, and nothing is read: Braid must neither hold it all nor give up,
/// nor take the paths for dead, and in the end everything comes.
#[tokio::test]
async fn an_initiator_that_does_not_read_is_waited_for() {
    bounded(async {
        let settings = "mode = \"sessions\"\nping_interval = \"100ms\"\nping_timeout = \"300ms\"";
        let rig = Rig::new(2, settings).await;
        let mut client = rig.client(1).await;
        let data = pattern(2048, 3);
        assert_eq!(client.write(0, &data).await.status, 0);
        let mut waiting = Vec::new();
        for _ in 0..30 {
            let command = client.read_command(0, 2048);
            waiting.push(command.itt);
            client.conn.queue(&Pdu::ScsiCommand(command));
        }
        client.conn.send(&[]).await.unwrap();
        // Several ping timeouts long.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut collected = vec![Vec::new(); waiting.len()];
        let mut open = waiting.len();
        while open > 0 {
            match client.conn.recv().await.unwrap() {
                Pdu::DataIn(part) => {
                    let at = waiting.iter().position(|itt| *itt == part.itt).unwrap();
                    collected[at].extend_from_slice(&part.data.contiguous());
                    open -= usize::from(part.has_status);
                }
                Pdu::ScsiResponse(response) => {
                    assert_eq!(response.status, 0);
                    open -= 1;
                }
                pdu => assert!(matches!(pdu, Pdu::NopIn(_)), "{pdu:?}"),
            }
        }
        assert!(collected.iter().all(|read| read.len() == 2048 * BLOCK && *read == data));
        assert_eq!(rig.losses(), 0);
    })
    .await;
}

#[tokio::test]
async fn r47_a_silent_login_is_closed() {
    bounded(async {
        let rig = Rig::with(TargetOptions::loopback(1), "limits = { login_timeout = \"200ms\" }", "").await;
        assert_closed(stranger(rig.address()).await).await;
        // One byte now and then does not help.
        let slow = stranger(rig.address()).await;
        send_raw(&slow, &[0x43]).await;
        assert_closed(slow).await;
        rig.client(1).await.ping().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn r65_digests_are_agreed_on_each_side_for_itself() {
    bounded(async {
        let rig = Rig::new(2, "mode = \"sessions\"\nheader_digest = \"crc32c\"").await;
        let mut with_data_digest = plan(1);
        with_data_digest.connection.data_digest = true;
        let mut client = Client::login_as(rig.address(), with_data_digest).await.unwrap();
        assert!(client.agreed.connection.data_digest && !client.agreed.connection.header_digest);
        assert_eq!(client.write(0, &pattern(300, 9)).await.status, 0);
        assert_eq!(client.read(0, 300).await.data, pattern(300, 9));
    })
    .await;
}

#[tokio::test]
async fn a_required_digest_that_the_target_refuses_keeps_the_path_out() {
    bounded(async {
        let mut options = TargetOptions::loopback(1);
        options.target.digests = false;
        let rig = Rig::with(options, "", "header_digest = \"crc32c\"").await;
        assert_eq!(refusal(Client::login(rig.address(), 1).await), (3, 1));
    })
    .await;
}

#[tokio::test]
async fn r15_the_first_frame_of_anything_else_than_login_closes_the_connection() {
    bounded(async {
        let rig = Rig::new(1, "").await;
        let mut conn = stranger(rig.address()).await;
        conn.send(&[Pdu::NopOut(braid::iscsi::NopOut { immediate: true, ..Default::default() })])
            .await
            .unwrap();
        assert!(matches!(conn.recv().await, Err(ConnError::Closed | ConnError::Io(_))));
    })
    .await;
}

/// Connections that the target has in the sessions of an initiator.
fn connections(rig: &Rig, isid: Isid) -> usize {
    let sessions = rig.target.sessions();
    sessions.iter().filter(|session| session.isid == isid).map(|session| session.connections.len()).sum()
}

#[tokio::test]
async fn auto_takes_one_session_with_many_connections_where_that_is_proved() {
    bounded(async {
        let folder = tempfile::tempdir().unwrap();
        let state_file = folder.path().join("state.json");
        let top = format!("state_file = \"{}\"", state_file.display());
        let rig = Rig::with(TargetOptions::loopback(2), &top, "").await;
        // The probe takes as long as it takes; its result is waited for here, so that a slow machine does not matter.
        while !state_file.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut client = rig.client(1).await;
        while connections(&rig, client.agreed.isid) < 2 {
            client.ping().await.unwrap();
        }
        assert_eq!(client.write(0, &pattern(64, 1)).await.status, 0);
        assert_eq!(client.read(0, 64).await.data, pattern(64, 1));
        assert_eq!(rig.target.sessions().len(), 1, "the probe left nothing behind");
    })
    .await;
}

#[tokio::test]
async fn auto_takes_a_session_per_path_where_the_target_allows_no_more() {
    bounded(async {
        let mut options = TargetOptions::loopback(2);
        options.target.limits.max_connections = 1;
        let rig = Rig::with(options, "", "").await;
        let mut client = rig.client(1).await;
        while rig.target.sessions().len() < 2 {
            client.ping().await.unwrap();
        }
        assert_eq!(connections(&rig, client.agreed.isid), 1);
    })
    .await;
}

#[tokio::test]
async fn what_a_target_shows_to_a_probe_is_counted() {
    bounded(async {
        let mut options = TargetOptions::loopback(2);
        options.target.window = 4;
        let rig = Rig::with(options, "", "").await;
        // Nobody logs in: this is the probe.
        let shown = "braid_quirks_total{quirk=\"small_first_window\",side=\"target\"}";
        while counted(&rig.metrics, shown) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn r239_discovery_shows_the_targets_own_portal_group() {
    bounded(async {
        let mut options = TargetOptions::loopback(1);
        options.listen[0].tpgt = 7;
        let rig = Rig::with(options, "", "").await;
        let discovery = LoginPlan {
            kind: LoginKind::Discovery,
            target_name: String::new(),
            offer: SessionParams::default(),
            ..plan(1)
        };
        let mut client = Client::login_as(rig.address(), discovery).await.unwrap();
        let answer = client.text("SendTargets=All\0").await.unwrap();
        assert_eq!(answer, format!("TargetName={TARGET}\0TargetAddress={},7\0", rig.address()));
        assert_eq!(rig.client(2).await.agreed.tpgt, Some(7));
    })
    .await;
}
