//! Bad input from either side ends in Reject, sense or a closed connection, and nobody else notices.
//!
//! In each test a bystander has a session of its own, over the same paths to the same target, and must not feel a thing.
//!
//! # Logins and discovery requests cost bounded memory and time
//! | | logins | discovery requests |
//! | --- | --- | --- |
//! | fuzzed | fuzz targets `framer`, `text`, `login_target`, `login_pair`, `chap` | `framer`, `text`; `whatever_is_asked_costs_little` in `proxy::discovery` |
//! | endless | here: rounds, text, byte by byte; `r43_an_endless_login_ends_but_not_soon`; `r47_a_silent_login_is_closed` | in `proxy::discovery`: `an_endless_question_is_rejected`, `a_session_that_would_never_end_is_ended`, `half_a_question_is_not_waited_for_without_end`, `a_session_that_takes_no_answers_is_ended` |
//! | oversized | here: a length beyond the limit; `r44_texts_end_at_64_kib` | the same: a segment is one of at most 8192 bytes for both |
//! | wrong order | here: `r16_...`, `r15_...`; `login::tests::wrong` | `r105_r234_everything_else_is_rejected_and_takes_no_number`, `r96_requests_out_of_order_are_ignored` |
//! | many | here: `more_logins_than_are_served_at_a_time`; `connections_that_come_too_fast_are_closed`; `proxy::room`, `proxy::rate` | `discovery_sessions_are_bounded_apart_from_others` |
//!
//! Memory: what a framer holds (`iscsi::framer`: one segment within the limit and two buffers), 64 KiB of text, and so many
//! connections at a time. Time: `limits.login_timeout`, a minute between two questions and ten in all.

use crate::relay::{Relay, Spoilt, endless_target};
use crate::rig::{self, Client, Rig, assert_closed, bounded, pattern, plan, send_raw, start, stranger};
use braid::iscsi::{
    DataOut, Itt, LoginRequest, NopIn, NopOut, Payload, Pdu, R2t, Reject, ScsiCommand, ScsiResponse, Stage,
    StatSn, Ttt, reject,
};
use braid::lab::target::TargetOptions;
use braid::login::{ConnectionParams, LoginPlan};
use braid::proxy::conn::Conn;
use braid::proxy::dial::Route;
use braid::proxy::events::Kind;
use std::time::Duration;

/// From the initiator.
mod downstream {
    use super::*;

    /// Braid, the culprit and the bystander.
    async fn scene() -> (Rig, Client, Bystander) {
        scene_with(plan(1)).await
    }

    async fn scene_with(culprit: LoginPlan) -> (Rig, Client, Bystander) {
        let rig = Rig::new(2, "mode = \"sessions\"").await;
        let bystander = Bystander::new(rig.client(99).await).await;
        let culprit = Client::login_as(rig.address(), culprit).await.unwrap();
        (rig, culprit, bystander)
    }

    /// The header of a PDU, to be spoilt.
    fn header(pdu: &Pdu) -> [u8; 48] {
        pdu.encode().0
    }

    fn ping(client: &mut Client) -> NopOut {
        NopOut { immediate: true, itt: client.itt(), cmd_sn: client.cmd_sn, ..NopOut::default() }
    }

    async fn expect_reject(client: &mut Client) -> Reject {
        let pdu = client.conn.recv().await.unwrap();
        let Pdu::Reject(reject) = pdu else { panic!("{pdu:?}") };
        assert_eq!(reject.stat_sn, client.exp_stat_sn);
        client.exp_stat_sn = reject.stat_sn.next();
        reject
    }

    #[tokio::test]
    async fn a_truncated_header() {
        bounded(async {
            let (rig, culprit, bystander) = scene().await;
            send_raw(&culprit.conn, &[0x01; 20]).await;
            drop(culprit);
            bystander.stays_well().await;
            while rig.proxy.sessions() > 1 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_length_beyond_the_limit_during_login() {
        bounded(async {
            let (rig, _culprit, bystander) = scene().await;
            for length in [[0x00, 0x20, 0x01], [0xff, 0xff, 0xff]] {
                let conn = stranger(rig.address()).await;
                let mut bytes = header(&Pdu::LoginRequest(LoginRequest::default()));
                bytes[5..8].copy_from_slice(&length);
                send_raw(&conn, &bytes).await;
                assert_closed(conn).await;
            }
            bystander.stays_well().await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_length_beyond_the_limit_in_full_feature_phase() {
        bounded(async {
            let (_rig, mut culprit, bystander) = scene().await;
            let mut bytes = header(&Pdu::NopOut(ping(&mut culprit)));
            bytes[5..8].copy_from_slice(&[0xff, 0xff, 0xff]);
            send_raw(&culprit.conn, &bytes).await;
            assert_closed(culprit.conn).await;
            bystander.stays_well().await;
        })
        .await;
    }

    #[tokio::test]
    async fn r142_an_opcode_of_the_other_role() {
        bounded(async {
            let (_rig, mut culprit, bystander) = scene().await;
            send_raw(&culprit.conn, &header(&Pdu::NopIn(NopIn::default()))).await;
            expect_reject(&mut culprit).await;
            assert_eq!(culprit.read(0, 8).await.status, 0);
            bystander.stays_well().await;
        })
        .await;
    }

    #[tokio::test]
    async fn an_unknown_opcode() {
        bounded(async {
            let (_rig, mut culprit, bystander) = scene().await;
            let mut bytes = header(&Pdu::NopOut(ping(&mut culprit)));
            bytes[0] = 0x1d;
            send_raw(&culprit.conn, &bytes).await;
            let reject = expect_reject(&mut culprit).await;
            assert_eq!(reject.data.contiguous()[..48], bytes, "the header complained of");
            assert_eq!(culprit.read(0, 8).await.status, 0);
            bystander.stays_well().await;
        })
        .await;
    }

    #[tokio::test]
    async fn an_additional_header_segment_that_is_none() {
        bounded(async {
            let (_rig, mut culprit, bystander) = scene().await;
            let command = culprit.read_command(0, 1);
            let mut bytes = header(&Pdu::ScsiCommand(command)).to_vec();
            bytes[4] = 2;
            bytes.extend_from_slice(&[0xff; 8]);
            send_raw(&culprit.conn, &bytes).await;
            expect_reject(&mut culprit).await;
            bystander.stays_well().await;
        })
        .await;
    }

    fn with_digests() -> LoginPlan {
        let connection = ConnectionParams { header_digest: true, data_digest: true, ..plan(1).connection };
        LoginPlan { connection, ..plan(1) }
    }

    #[tokio::test]
    async fn r176_a_bad_header_digest() {
        bounded(async {
            let (rig, mut culprit, bystander) = scene_with(with_digests()).await;
            let mut bytes = header(&Pdu::NopOut(ping(&mut culprit))).to_vec();
            bytes.extend_from_slice(b"none");
            send_raw(&culprit.conn, &bytes).await;
            assert_closed(culprit.conn).await;
            assert_eq!((rig.digest_errors("initiator"), rig.breaches()), (1, 0));
            assert_eq!(rig.told(Kind::DigestError), ["a header: the connection is closed"]);
            bystander.stays_well().await;
        })
        .await;
    }

    #[tokio::test]
    async fn r177_a_bad_data_digest() {
        bounded(async {
            let (rig, mut culprit, bystander) = scene_with(with_digests()).await;
            let data = Payload::from(b"ping".to_vec());
            let header = header(&Pdu::NopOut(NopOut { data, ..ping(&mut culprit) }));
            let mut bytes = header.to_vec();
            bytes.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
            bytes.extend_from_slice(b"ping");
            bytes.extend_from_slice(b"none");
            send_raw(&culprit.conn, &bytes).await;
            assert_eq!(expect_reject(&mut culprit).await.reason, reject::DATA_DIGEST);
            assert_eq!((rig.digest_errors("initiator"), rig.digest_errors("target")), (1, 0));
            assert_eq!(rig.breaches(), 0, "the initiator did nothing wrong");
            assert_eq!(
                rig.told(Kind::DigestError),
                ["a request: rejected, so that the initiator sends it again"]
            );
            assert_eq!(culprit.read(0, 8).await.status, 0);
            bystander.stays_well().await;
        })
        .await;
    }

    #[tokio::test]
    async fn r96_a_cmd_sn_outside_the_window() {
        bounded(async {
            let (_rig, mut culprit, bystander) = scene().await;
            let good = culprit.cmd_sn;
            for wrong in [good.minus(1), good.plus(100_000), good.plus(0x8000_0000)] {
                let command = ScsiCommand { cmd_sn: wrong, ..culprit.read_command(0, 1) };
                culprit.conn.send(&[Pdu::ScsiCommand(command)]).await.unwrap();
            }
            culprit.cmd_sn = good;
            // Nothing but the answer comes.
            let read = culprit.read_command(0, 8);
            assert_eq!(culprit.run(read, &[]).await.unwrap().status, 0);
            bystander.stays_well().await;
        })
        .await;
    }

    #[tokio::test]
    async fn an_unknown_target_transfer_tag() {
        bounded(async {
            let (_rig, mut culprit, bystander) = scene().await;
            for itt in [Itt(77), Itt(0)] {
                let stray = DataOut {
                    final_: true,
                    itt,
                    ttt: Ttt(0xdead_beef),
                    data: Payload::from(vec![1; 512]),
                    ..DataOut::default()
                };
                culprit.conn.send(&[Pdu::DataOut(stray)]).await.unwrap();
                expect_reject(&mut culprit).await;
            }
            assert_eq!(culprit.read(0, 8).await.status, 0);
            bystander.stays_well().await;
        })
        .await;
    }

    /// Data outside of what was asked for must not reach the medium; the command ends, or the connection does.
    #[tokio::test]
    async fn data_that_was_not_asked_for() {
        bounded(async {
            let (rig, mut culprit, bystander) = scene().await;
            let before = rig.target.read_medium(0, 500, 1000).unwrap();
            let mut command = culprit.write_command(500, &pattern(1000, 1));
            command.data = Payload::new();
            let itt = command.itt;
            culprit.conn.send(&[Pdu::ScsiCommand(command)]).await.unwrap();
            let pdu = culprit.conn.recv().await.unwrap();
            let Pdu::R2t(r2t) = pdu else { panic!("{pdu:?}") };
            let stray = DataOut {
                final_: true,
                itt,
                ttt: r2t.ttt,
                buffer_offset: r2t.buffer_offset + r2t.desired_length + 512,
                data: Payload::from(vec![1; 512]),
                ..DataOut::default()
            };
            culprit.conn.send(&[Pdu::DataOut(stray)]).await.unwrap();
            let answer = culprit.conn.recv().await;
            let is_good = matches!(&answer, Ok(Pdu::ScsiResponse(response)) if response.status == 0);
            assert!(!is_good, "{answer:?}");
            assert_eq!(rig.target.read_medium(0, 500, 1000).unwrap(), before);
            bystander.stays_well().await;
        })
        .await;
    }

    #[tokio::test]
    async fn r121_more_immediate_data_than_the_command_writes() {
        bounded(async {
            let (rig, mut culprit, bystander) = scene().await;
            let command = culprit.write_command(600, &pattern(2, 1));
            let excess = ScsiCommand { expected_length: 512, ..command };
            culprit.conn.send(&[Pdu::ScsiCommand(excess)]).await.unwrap();
            expect_reject(&mut culprit).await;
            assert_eq!(rig.target.read_medium(0, 600, 2).unwrap(), [0; 1024]);
            bystander.stays_well().await;
        })
        .await;
    }

    #[tokio::test]
    async fn r107_a_task_tag_in_use() {
        bounded(async {
            let (rig, mut culprit, bystander) = scene().await;
            rig.target.set_delay(Duration::from_millis(200));
            let first = culprit.read_command(0, 8);
            let twin = ScsiCommand { itt: first.itt, ..culprit.read_command(8, 8) };
            let itt = first.itt;
            culprit.conn.send(&[Pdu::ScsiCommand(first), Pdu::ScsiCommand(twin)]).await.unwrap();
            expect_reject(&mut culprit).await;
            assert_eq!(culprit.finish(itt, &[]).await.unwrap().status, 0);
            bystander.stays_well().await;
        })
        .await;
    }

    #[tokio::test]
    async fn r15_a_login_request_in_full_feature_phase() {
        bounded(async {
            let (_rig, culprit, bystander) = scene().await;
            let mut conn = culprit.conn;
            conn.send(&[Pdu::LoginRequest(LoginRequest::default())]).await.unwrap();
            let answer = conn.recv().await;
            assert!(matches!(answer, Ok(Pdu::Reject(_)) | Err(_)), "{answer:?}");
            bystander.stays_well().await;
        })
        .await;
    }

    /// A first login request with these keys.
    fn login(keys: &[u8]) -> Pdu {
        Pdu::LoginRequest(LoginRequest {
            transit: true,
            current: Stage::Operational,
            next: Stage::FullFeature,
            itt: Itt(1),
            data: Payload::from(keys.to_vec()),
            ..LoginRequest::default()
        })
    }

    async fn login_with(rig: &Rig, keys: &[u8]) {
        let mut conn = stranger(rig.address()).await;
        conn.send(&[login(keys)]).await.unwrap();
        match conn.recv().await {
            Ok(Pdu::LoginResponse(response)) => {
                assert_eq!(response.status_class, 2, "{}", String::from_utf8_lossy(keys));
                assert_closed(conn).await;
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => {}
        }
    }

    #[tokio::test]
    async fn garbage_login_keys() {
        bounded(async {
            let (rig, _culprit, bystander) = scene().await;
            let name = "InitiatorName=iqn.2026-11.example:host\0";
            login_with(&rig, b"").await;
            login_with(&rig, b"\xff\xfe\xfd").await;
            login_with(&rig, b"no pair at all\0").await;
            login_with(&rig, b"InitiatorName=\0").await;
            login_with(&rig, name.as_bytes()).await;
            for rest in ["TargetName=x\0", "SessionType=Sideways\0", "=\0", "MaxBurstLength=lots\0"] {
                login_with(&rig, format!("{name}{rest}").as_bytes()).await;
            }
            bystander.stays_well().await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_login_that_never_ends() {
        bounded(async {
            let (rig, _culprit, bystander) = scene().await;
            let mut conn = stranger(rig.address()).await;
            let mut rounds = 0;
            let keys = format!("InitiatorName=iqn.2026-11.example:host\0TargetName={}\0", rig::TARGET);
            let mut data = Payload::from(keys.into_bytes());
            let mut exp_stat_sn = StatSn(0);
            loop {
                let request = LoginRequest {
                    current: Stage::Operational,
                    next: Stage::FullFeature,
                    itt: Itt(1),
                    exp_stat_sn,
                    data: std::mem::take(&mut data),
                    ..LoginRequest::default()
                };
                if conn.send(&[Pdu::LoginRequest(request)]).await.is_err() {
                    break;
                }
                let Ok(Pdu::LoginResponse(response)) = conn.recv().await else { break };
                exp_stat_sn = response.stat_sn.next();
                rounds += 1;
                assert!(rounds < 1000, "a login is bounded");
            }
            bystander.stays_well().await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_login_text_that_never_ends() {
        bounded(async {
            let (rig, _culprit, bystander) = scene().await;
            let mut conn = stranger(rig.address()).await;
            for round in 0.. {
                assert!(round < 1000, "login text is bounded");
                let part = LoginRequest {
                    continue_: true,
                    current: Stage::Operational,
                    itt: Itt(1),
                    data: Payload::from(vec![b'x'; 8000]),
                    ..LoginRequest::default()
                };
                if conn.send(&[Pdu::LoginRequest(part)]).await.is_err() {
                    break;
                }
                let Ok(Pdu::LoginResponse(_)) = conn.recv().await else { break };
            }
            bystander.stays_well().await;
        })
        .await;
    }

    /// A byte of login text now and then, for ever: time is up at the same moment as for one that is silent.
    #[tokio::test]
    async fn a_login_byte_by_byte() {
        bounded(async {
            let rig =
                Rig::with(TargetOptions::loopback(1), "limits = { login_timeout = \"300ms\" }", "").await;
            let bystander = Bystander::new(rig.client(99).await).await;
            let conn = stranger(rig.address()).await;
            let text = Payload::from(vec![b'x'; 8000]);
            let part = Pdu::LoginRequest(LoginRequest {
                continue_: true,
                current: Stage::Operational,
                itt: Itt(1),
                data: text.clone(),
                ..LoginRequest::default()
            });
            send_raw(&conn, &header(&part)).await;
            let mut sent = 0;
            while conn.stream().try_write(b"x").is_ok() {
                sent += 1;
                assert!(sent < text.len(), "it may go on as long as it likes");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            bystander.stays_well().await;
        })
        .await;
    }

    #[tokio::test]
    async fn r16_a_command_in_the_middle_of_a_login() {
        bounded(async {
            let (rig, _culprit, bystander) = scene().await;
            let mut conn = stranger(rig.address()).await;
            let keys = format!("InitiatorName=iqn.2026-11.example:host\0TargetName={}\0", rig::TARGET);
            let Pdu::LoginRequest(opening) = login(keys.as_bytes()) else { unreachable!() };
            conn.send(&[Pdu::LoginRequest(LoginRequest { transit: false, ..opening })]).await.unwrap();
            assert!(matches!(conn.recv().await, Ok(Pdu::LoginResponse(r)) if r.status_class == 0));
            let command = ScsiCommand { final_: true, itt: Itt(2), ..ScsiCommand::default() };
            conn.send(&[Pdu::ScsiCommand(command)]).await.unwrap();
            let answer = conn.recv().await;
            let refused =
                matches!(&answer, Ok(Pdu::LoginResponse(r)) if (r.status_class, r.status_detail) == (2, 11));
            assert!(refused, "{answer:?}");
            assert_closed(conn).await;
            bystander.stays_well().await;
        })
        .await;
    }

    #[tokio::test]
    async fn more_logins_than_are_served_at_a_time() {
        bounded(async {
            let (rig, _culprit, bystander) = scene().await;
            let mut silent: Vec<Conn> = Vec::new();
            for _ in 0..256 {
                silent.push(stranger(rig.address()).await);
            }
            assert_closed(stranger(rig.address()).await).await;
            // They are all of one address, which does not keep others out.
            let source = Some("127.0.0.2".parse().unwrap());
            let elsewhere = Route { source, ..Route::to(rig.address().to_string()) };
            Client::login_over(&elsewhere, plan(4)).await.unwrap().logout().await;
            bystander.stays_well().await;
            drop(silent);
            while Client::login(rig.address(), 3).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// It asks for ever and never takes an answer: Braid stops listening to it, and holds little for it.
    #[tokio::test]
    async fn a_flood_of_pings_whose_answers_are_not_read() {
        bounded(async {
            let (_rig, mut culprit, bystander) = scene().await;
            let ping = ping(&mut culprit);
            let flood = Pdu::NopOut(NopOut { data: Payload::from(vec![5; 60_000]), ..ping });
            let flooding = async {
                loop {
                    culprit.conn.send(std::slice::from_ref(&flood)).await.unwrap();
                }
            };
            // The flood is stopped by nobody taking it any more, not by an end.
            assert!(tokio::time::timeout(Duration::from_secs(2), flooding).await.is_err());
            assert!(culprit.conn.queued() > 0, "Braid takes no more");
            bystander.stays_well().await;
        })
        .await;
    }
}

/// From the target.
mod upstream {
    use super::*;

    /// Two paths, the first of them over the relay; everything goes over the first while it works.
    struct Scene {
        rig: Rig,
        relay: Relay,
        client: Client,
        bystander: Bystander,
    }

    impl Scene {
        async fn new() -> Self {
            Self::with((0, 0), "").await
        }

        async fn with(digest_bytes: (usize, usize), settings: &str) -> Self {
            let mut rig = Rig::new(2, "").await;
            let portals = rig.target.addresses().to_vec();
            let relay = Relay::start(portals[0], digest_bytes).await;
            let settings =
                format!("mode = \"sessions\"\npolicy = \"failover\"\nfence_time = \"100ms\"\n{settings}");
            (rig.proxy, rig.metrics) = start("", &[relay.address, portals[1]], &settings).await;
            let bystander = Bystander::new(rig.client(99).await).await;
            let client = rig.client(1).await;
            Self { rig, relay, client, bystander }
        }

        /// The client's work while the attack happens: all of it must succeed.
        async fn work(&mut self) {
            for round in 0..20_u8 {
                let data = pattern(100, round);
                assert_eq!(self.client.write(u32::from(round) * 100, &data).await.status, 0);
                let read = self.client.read(u32::from(round) * 100, 100).await;
                assert!(read.status == 0 && read.data == data, "round {round}");
            }
        }

        /// Arms the attack, works through it, and looks after everybody.
        async fn survive(mut self, attack: impl FnMut(&[u8]) -> Option<Spoilt> + Send + 'static) -> Self {
            self.work().await;
            self.relay.arm(attack);
            self.work().await;
            assert!(self.relay.has_struck(), "the attack took place");
            self.work().await;
            self.bystander = self.bystander.stays_well().await;
            self
        }
    }

    fn is_scsi_response(pdu: &[u8]) -> bool {
        pdu[0] == 0x21
    }

    fn is_data_in(pdu: &[u8]) -> bool {
        pdu[0] == 0x25
    }

    /// An attack on the first PDU that fits.
    fn on(
        fits: fn(&[u8]) -> bool,
        spoil: impl Fn(Vec<u8>) -> Spoilt + Send + 'static,
    ) -> impl FnMut(&[u8]) -> Option<Spoilt> + Send + 'static {
        move |pdu| fits(pdu).then(|| spoil(pdu.to_vec()))
    }

    /// The target's PDU with another before it.
    fn before(pdu: &Pdu, rest: Vec<u8>) -> Spoilt {
        let mut bytes = pdu.encode().0.to_vec();
        bytes.extend(rest);
        Spoilt::Instead(bytes)
    }

    #[tokio::test]
    async fn a_truncated_header() {
        bounded(async {
            let scene = Scene::new().await;
            let scene = scene.survive(on(is_scsi_response, |pdu| Spoilt::Last(pdu[..20].to_vec()))).await;
            assert!(scene.rig.losses() > 0);
        })
        .await;
    }

    #[tokio::test]
    async fn truncated_data() {
        bounded(async {
            let scene = Scene::new().await;
            let scene = scene.survive(on(is_data_in, |pdu| Spoilt::Last(pdu[..1000].to_vec()))).await;
            assert!(scene.rig.losses() > 0);
        })
        .await;
    }

    #[tokio::test]
    async fn a_length_beyond_the_limit() {
        bounded(async {
            let attack = on(is_data_in, |mut pdu| {
                pdu[5..8].copy_from_slice(&[0xff, 0xff, 0xff]);
                Spoilt::Instead(pdu)
            });
            let scene = Scene::new().await.survive(attack).await;
            assert!(scene.rig.losses() > 0);
        })
        .await;
    }

    #[tokio::test]
    async fn an_opcode_of_the_other_role() {
        bounded(async {
            let attack = on(is_scsi_response, |mut pdu| {
                pdu[0] = 0x01;
                Spoilt::Instead(pdu)
            });
            let scene = Scene::new().await.survive(attack).await;
            assert!(scene.rig.losses() > 0);
        })
        .await;
    }

    #[tokio::test]
    async fn an_unknown_opcode() {
        bounded(async {
            let attack = on(is_scsi_response, |mut pdu| {
                pdu[0] = 0x3e;
                Spoilt::Instead(pdu)
            });
            let scene = Scene::new().await.survive(attack).await;
            assert!(scene.rig.losses() > 0);
        })
        .await;
    }

    #[tokio::test]
    async fn a_bad_header_digest() {
        bounded(async {
            let scene = Scene::with((4, 0), "header_digest = \"crc32c\"").await;
            let attack = on(is_scsi_response, |mut pdu| {
                pdu[40] ^= 1;
                Spoilt::Instead(pdu)
            });
            let rig = scene.survive(attack).await.rig;
            assert!(rig.losses_by("digest") > 0 && rig.digest_errors("target") > 0);
        })
        .await;
    }

    #[tokio::test]
    async fn r178_a_bad_data_digest() {
        bounded(async {
            let scene = Scene::with((0, 4), "data_digest = \"crc32c\"").await;
            let attack = on(is_data_in, |mut pdu| {
                pdu[60] ^= 1;
                Spoilt::Instead(pdu)
            });
            let rig = scene.survive(attack).await.rig;
            assert!(rig.losses_by("digest") > 0 && rig.digest_errors("target") > 0);
        })
        .await;
    }

    #[tokio::test]
    async fn a_response_to_a_task_that_does_not_exist() {
        bounded(async {
            let attack = on(is_scsi_response, |pdu| {
                let stray = ScsiResponse { itt: Itt(0x0bad_0bad), ..ScsiResponse::default() };
                before(&Pdu::ScsiResponse(stray), pdu)
            });
            Scene::new().await.survive(attack).await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_response_twice() {
        bounded(async {
            let attack = on(is_scsi_response, |pdu| Spoilt::Instead([pdu.clone(), pdu].concat()));
            Scene::new().await.survive(attack).await;
        })
        .await;
    }

    #[tokio::test]
    async fn an_r2t_for_a_task_that_does_not_exist() {
        bounded(async {
            let attack = on(is_scsi_response, |pdu| {
                let stray = R2t { itt: Itt(0x0bad_0bad), ttt: Ttt(1), desired_length: 512, ..R2t::default() };
                before(&Pdu::R2t(stray), pdu)
            });
            Scene::new().await.survive(attack).await;
        })
        .await;
    }

    #[tokio::test]
    async fn data_beyond_what_was_asked_for() {
        bounded(async {
            let attack = on(is_data_in, |mut pdu| {
                pdu[40..44].copy_from_slice(&0x00ff_0000_u32.to_be_bytes());
                Spoilt::Instead(pdu)
            });
            Scene::new().await.survive(attack).await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_status_before_its_data() {
        bounded(async {
            let attack = on(is_data_in, |pdu| {
                let early = ScsiResponse {
                    itt: Itt(u32::from_be_bytes([pdu[16], pdu[17], pdu[18], pdu[19]])),
                    stat_sn: StatSn(u32::from_be_bytes([pdu[24], pdu[25], pdu[26], pdu[27]])),
                    ..ScsiResponse::default()
                };
                before(&Pdu::ScsiResponse(early), pdu)
            });
            Scene::new().await.survive(attack).await;
        })
        .await;
    }

    #[tokio::test]
    async fn garbage_login_keys() {
        bounded(async {
            let mut scene = Scene::new().await;
            scene.relay.arm(on(
                |pdu| pdu[0] == 0x23,
                |mut pdu| {
                    pdu[48..].fill(0xff);
                    Spoilt::Instead(pdu)
                },
            ));
            let mut next = scene.rig.client(2).await;
            assert!(scene.relay.has_struck());
            assert_eq!(next.read(0, 8).await.status, 0);
            scene.work().await;
            scene.bystander.stays_well().await;
        })
        .await;
    }

    #[tokio::test]
    async fn something_else_than_a_login_response() {
        bounded(async {
            let scene = Scene::new().await;
            scene.relay.arm(on(
                |pdu| pdu[0] == 0x23,
                |_| Spoilt::Instead(Pdu::NopIn(NopIn::default()).encode().0.to_vec()),
            ));
            let mut next = scene.rig.client(2).await;
            assert!(scene.relay.has_struck());
            assert_eq!(next.read(0, 8).await.status, 0);
            scene.bystander.stays_well().await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_login_that_never_ends() {
        bounded(async {
            let rig = Rig::new(1, "").await;
            let (endless, _served) = endless_target().await;
            let portals = [endless, rig.target.addresses()[0]];
            let (proxy, _) = start("", &portals, "login_timeout = \"1s\"\nfence_time = \"1s\"").await;
            let mut client = Client::login(proxy.addresses()[0], 1).await.unwrap();
            assert_eq!(client.read(0, 8).await.status, 0);
        })
        .await;
    }
}

/// A session that must not feel what happens in others.
struct Bystander {
    client: Client,
    data: Vec<u8>,
}

impl Bystander {
    const LBA: u32 = 100_000;

    async fn new(mut client: Client) -> Self {
        let data = pattern(64, 200);
        assert_eq!(client.write(Self::LBA, &data).await.status, 0);
        Self { client, data }
    }

    async fn stays_well(mut self) -> Self {
        let read = self.client.read(Self::LBA, 64).await;
        assert!(read.status == 0 && read.data == self.data);
        self.client.ping().await.unwrap();
        self
    }
}
