//! Initiators with several connections in a session; the most demanding of those that can be had is Braid itself.

use crate::cuts::BRISK;
use crate::rig::{Client, Rig, TARGET, bounded, counted, pattern, plan, refusal, start, start_on};
use braid::iscsi::{Cid, Isid, LogoutRequest, Pdu};
use braid::lab::cutter::{Cutter, LinkOptions};
use braid::lab::initiator::{Initiator, InitiatorOptions};
use braid::lab::target::{RamTarget, TargetOptions};
use braid::lab::workload::{Limit, Workload, WorkloadOptions};
use braid::login::{LoginKind, LoginPlan, SessionParams};
use braid::metrics::TargetHealth;
use braid::proxy::dial::{Route, Timing};
use braid::proxy::probe::{Patience, ProbePlan, probe, throwaway_isid};
use braid::proxy::verdict::{Loss, Order, Second};
use std::time::Duration;

/// A login that asks for several connections.
fn leading(isid: u8) -> LoginPlan {
    let plan = plan(isid);
    LoginPlan { offer: SessionParams { max_connections: 8, ..plan.offer.clone() }, ..plan }
}

/// A login for one connection more in the session of this one.
fn joining(client: &Client, cid: u16) -> LoginPlan {
    let (session, tsih) = (client.agreed.session.clone(), client.agreed.tsih);
    LoginPlan {
        kind: LoginKind::Joining { session, tsih },
        cid: Cid(cid),
        cmd_sn: client.cmd_sn,
        ..leading(1)
    }
}

/// Connections of initiators.
fn lines(rig: &Rig) -> u64 {
    counted(&rig.metrics, "braid_initiator_connections")
}

async fn until_lines(rig: &Rig, wanted: u64) {
    while lines(rig) != wanted {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn connections_join_a_session_and_leave_it_r33_r94() {
    bounded(async {
        let rig = Rig::new(1, "initiator_connections = 2").await;
        let mut first = Client::login_as(rig.address(), leading(1)).await.unwrap();
        assert_eq!(first.agreed.session.max_connections, 2);
        let mut second = Client::login_as(rig.address(), joining(&first, 2)).await.unwrap();
        assert_eq!(second.cmd_sn, first.cmd_sn, "one order of numbers");
        until_lines(&rig, 2).await;
        assert_eq!(refusal(Client::login_as(rig.address(), joining(&first, 3)).await), (2, 6));
        let other = LoginPlan { initiator_name: "iqn.2026-11.example:other".into(), ..joining(&first, 3) };
        assert_eq!(refusal(Client::login_as(rig.address(), other).await), (2, 10));
        let other = LoginPlan { isid: Isid([0x40, 0, 0, 0, 0, 9]), ..joining(&first, 3) };
        assert_eq!(refusal(Client::login_as(rig.address(), other).await), (2, 10));
        // The later number first: it waits for the other connection's.
        let write = first.write_command(0, &pattern(8, 1));
        second.cmd_sn = first.cmd_sn;
        // Tags are the session's.
        for _ in 0..100 {
            second.itt();
        }
        let read = second.read_command(0, 8);
        let itt = read.itt;
        second.conn.send(&[Pdu::ScsiCommand(read)]).await.unwrap();
        assert_eq!(first.run(write, &pattern(8, 1)).await.unwrap().status, 0);
        assert_eq!(second.finish(itt, &[]).await.unwrap().data, pattern(8, 1));
        // The first is lost, and logged out over the second; then there is room again.
        drop(first);
        until_lines(&rig, 1).await;
        let Ok(Pdu::AsyncMessage(told)) = second.conn.recv().await else { panic!("not told of the loss") };
        assert_eq!((told.event, told.parameters[0]), (2, 1));
        let logout = LogoutRequest {
            immediate: true,
            reason: 1,
            itt: second.itt(),
            cid: Cid(1),
            cmd_sn: second.cmd_sn,
            exp_stat_sn: told.stat_sn.next(),
        };
        second.conn.send(&[Pdu::LogoutRequest(logout)]).await.unwrap();
        assert!(matches!(second.conn.recv().await, Ok(Pdu::LogoutResponse(answer)) if answer.response == 0));
        let mut third = Client::login_as(rig.address(), joining(&second, 3)).await.unwrap();
        for _ in 0..200 {
            third.itt();
        }
        assert_eq!(third.read(0, 8).await.data, pattern(8, 1));
        assert_eq!(rig.proxy.sessions(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_connection_with_the_same_cid_takes_the_place_of_the_other_r193() {
    bounded(async {
        let rig = Rig::new(1, "initiator_connections = 2").await;
        let mut first = Client::login_as(rig.address(), leading(1)).await.unwrap();
        assert_eq!(first.write(0, &pattern(8, 1)).await.status, 0);
        let mut again = Client::login_as(rig.address(), joining(&first, 1)).await.unwrap();
        assert!(first.conn.recv().await.is_err(), "the one that was replaced is closed");
        assert_eq!(again.read(0, 8).await.data, pattern(8, 1));
        assert_eq!((rig.proxy.sessions(), lines(&rig)), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn further_connections_count_as_sessions_do() {
    bounded(async {
        let top = "limits.max_sessions = 2";
        let rig = Rig::with(TargetOptions::loopback(1), top, "initiator_connections = 4").await;
        let first = Client::login_as(rig.address(), leading(1)).await.unwrap();
        let second = Client::login_as(rig.address(), joining(&first, 2)).await.unwrap();
        until_lines(&rig, 2).await;
        assert_eq!(refusal(Client::login_as(rig.address(), joining(&first, 3)).await), (3, 2));
        drop(second);
        until_lines(&rig, 1).await;
        assert!(Client::login_as(rig.address(), joining(&first, 3)).await.is_ok());
    })
    .await;
}

/// The upstream side of one Braid has several connections to the downstream side of another, and finds nothing amiss.
#[tokio::test(flavor = "multi_thread")]
async fn a_braid_before_a_braid() {
    bounded(async {
        let mut options = TargetOptions::loopback(2);
        options.target.disks[0].blocks = 8192;
        let target = RamTarget::start(options).await.unwrap();
        let settings = "mode = \"sessions\"\ninitiator_connections = 4";
        let (back, behind) = start_on(2, "", target.addresses(), &format!("{BRISK}\n{settings}")).await;
        let [one, other] = [back.addresses()[0], back.addresses()[1]];

        let plan = ProbePlan {
            routes: [one, other].map(|portal| Route::to(portal.to_string())),
            timing: Timing::default(),
            target: TARGET.to_owned(),
            initiator: "iqn.2026-11.example:probe".to_owned(),
            isid: throwaway_isid(),
            patience: Patience { hold: Duration::from_millis(50), ..Patience::default() },
        };
        let report = probe(&plan).await.unwrap();
        let verdict = report.verdict;
        assert_eq!((verdict.max_connections, &verdict.second), (4, &Second::Joined));
        assert_eq!((verdict.order, verdict.loss), (Order::Held, Loss::Rejoins));
        assert!(verdict.mcs_ok() && report.clean_logout);

        let mut links = Vec::new();
        for portal in [one, other] {
            let any = ([127, 0, 0, 1], 0).into();
            links.push(Cutter::start(any, portal, LinkOptions::default()).await.unwrap());
        }
        let ends: Vec<_> = links.iter().map(Cutter::address).collect();
        let (front, metrics) = start("", &ends, &format!("{BRISK}\nmode = \"mcs\"")).await;
        let until_up = async |wanted: usize| {
            while metrics.health().iter().map(TargetHealth::usable).sum::<usize>() != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let mut options = InitiatorOptions::new(front.addresses()[0].to_string(), TARGET);
        options.queue_depth = 16;
        let mut initiator = Initiator::connect(&options).await.unwrap();
        let region = Some((0, 1024));
        let mut workload =
            Workload::new(WorkloadOptions { region, ..WorkloadOptions::default() }, &initiator).unwrap();
        assert!(workload.prepare(&mut initiator).await.is_clean());
        until_up(2).await;
        assert_eq!(counted(&behind, "braid_initiator_connections"), 2, "both are of one session");
        assert_eq!(back.sessions(), 1);
        let progress = workload.progress();
        let cuts = async {
            for link in &links {
                until_up(2).await;
                link.cut_reset().await;
                until_up(1).await;
                link.heal().await;
            }
            until_up(2).await;
            progress.stop();
        };
        let (report, ()) =
            tokio::join!(workload.run(&mut initiator, Limit::Time(Duration::from_secs(60))), cuts);
        assert!(report.is_clean(), "{report:?}");
        assert!(workload.verify(&mut initiator).await.is_clean());
        assert_eq!(counted(&behind, "braid_initiator_connections"), 2);
        drop((front, back));
    })
    .await;
}
