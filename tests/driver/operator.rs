//! What an operator orders while a verified load runs.

use crate::cuts::Links;
use crate::rig::{Client, TARGET, bounded, pattern};
use braid::lab::initiator::{Initiator, InitiatorOptions};
use braid::lab::workload::{Limit, Workload, WorkloadOptions};
use braid::proxy::operator::{Operator, PathOrder, Refused};
use braid::session::{PathState, PathStatus};
use std::time::Duration;

/// The operator of a rig, and the names of its paths.
fn operator(rig: &Links) -> (Operator, Vec<String>) {
    (rig.proxy.operator(), rig.links.iter().map(|link| link.address().to_string()).collect())
}

/// The paths of the only session.
async fn paths(operator: &Operator) -> Vec<PathStatus> {
    let session = operator.status().await.remove(0).sessions.remove(0);
    session.standing.unwrap().1.paths
}

async fn until(operator: &Operator, path: usize, state: PathState) {
    while paths(operator).await[path].state != state {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Every path in turn is drained and failed, and given back.
async fn every_order(settings: &str) {
    let rig = Links::new(2, settings).await;
    let (operator, names) = operator(&rig);
    let mut options = InitiatorOptions::new(rig.proxy.addresses()[0].to_string(), TARGET);
    options.queue_depth = 16;
    let mut initiator = Initiator::connect(&options).await.unwrap();
    let mut workload = Workload::new(WorkloadOptions::default(), &initiator).unwrap();
    assert!(workload.prepare(&mut initiator).await.is_clean());
    let progress = workload.progress();
    let orders = async {
        for (path, name) in names.iter().enumerate() {
            for order in [PathOrder::Drain, PathOrder::Fail] {
                until(&operator, 0, PathState::Up).await;
                until(&operator, 1, PathState::Up).await;
                assert_eq!(operator.order(TARGET, name, order, false).await, Ok(1));
                until(&operator, path, PathState::Drained).await;
                let other = &names[1 - path];
                let refused = operator.order(TARGET, other, order, false).await;
                assert!(matches!(refused, Err(Refused::LastPath { path, .. }) if path == *other));
                let before = progress.sample().operations;
                while progress.sample().operations < before + 100 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                assert_eq!(paths(&operator).await[path].connections, 0);
                assert_eq!(operator.order(TARGET, name, PathOrder::Restore, false).await, Ok(1));
            }
        }
        rig.until_up(2).await;
        progress.stop();
    };
    let (report, ()) =
        tokio::join!(workload.run(&mut initiator, Limit::Time(Duration::from_secs(60))), orders);
    assert!(report.is_clean(), "{report:?}");
    let report = workload.verify(&mut initiator).await;
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_of_several_sessions_are_taken_out_and_given_back() {
    bounded(every_order("mode = \"sessions\"")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_of_one_session_with_many_connections_are_taken_out_and_given_back() {
    bounded(every_order("mode = \"mcs\"")).await;
}

#[tokio::test]
async fn a_session_that_begins_leaves_alone_what_was_taken_out_before() {
    bounded(async {
        let rig = Links::new(2, "mode = \"sessions\"").await;
        let (operator, names) = operator(&rig);
        assert_eq!(operator.order(TARGET, &names[0], PathOrder::Drain, false).await, Ok(0));
        assert_eq!(operator.order(TARGET, &names[1], PathOrder::Weigh(7), false).await, Ok(0));
        let mut client = Client::login(rig.proxy.addresses()[0], 1).await.unwrap();
        assert_eq!(client.write(0, &pattern(8, 1)).await.status, 0);
        let stand = paths(&operator).await;
        assert_eq!([stand[0].state, stand[1].state], [PathState::Drained, PathState::Up]);
        assert!(stand[1].home && stand[1].weight == 7);
        assert_eq!(operator.order(TARGET, &names[0], PathOrder::Restore, false).await, Ok(1));
        until(&operator, 0, PathState::Up).await;
    })
    .await;
}

#[tokio::test]
async fn what_waits_for_a_lost_target_is_given_up_when_ordered() {
    bounded(async {
        let settings = "mode = \"sessions\"\nall_paths_down = { queue = \"1h\", then = \"busy\" }";
        let rig = Links::new(1, settings).await;
        let (operator, names) = operator(&rig);
        let mut client = Client::login(rig.proxy.addresses()[0], 1).await.unwrap();
        assert_eq!(client.write(0, &pattern(8, 1)).await.status, 0);
        // Its last path, but the operator insists.
        assert_eq!(operator.order(TARGET, &names[0], PathOrder::Fail, true).await, Ok(1));
        until(&operator, 0, PathState::Drained).await;
        let read = client.read_command(0, 8);
        let answered = async {
            const BUSY: u8 = 0x08;
            assert_eq!(client.run(read, &[]).await.unwrap().status, BUSY);
        };
        let given_up = async {
            while operator.status().await[0].sessions[0].standing.as_ref().unwrap().1.waiting == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(operator.give_up(TARGET).await, Ok(1));
        };
        tokio::join!(answered, given_up);
    })
    .await;
}

#[tokio::test]
async fn a_path_is_given_back_when_its_time_is_over_unless_another_order_came() {
    bounded(async {
        let rig = Links::new(2, "mode = \"sessions\"").await;
        let (operator, names) = operator(&rig);
        let mut client = Client::login(rig.proxy.addresses()[0], 1).await.unwrap();
        rig.until_up(2).await;
        let out = async |path: usize| operator.status().await[0].paths[path].out;
        let short = |millis| Some(Duration::from_millis(millis));
        let order = async |path: usize, order, limit| {
            operator.order_for(TARGET, &names[path], order, false, limit).await
        };
        let given_back = async |path: usize| {
            while out(path).await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            until(&operator, path, PathState::Up).await;
        };
        assert_eq!(order(1, PathOrder::Fail, short(10)).await, Ok(1));
        given_back(1).await;
        // The second order has no end, and the first one's time is over before that of the third.
        assert_eq!(order(1, PathOrder::Fail, short(10)).await, Ok(1));
        assert_eq!(order(1, PathOrder::Drain, None).await, Ok(1));
        until(&operator, 1, PathState::Drained).await;
        assert_eq!(operator.order_for(TARGET, &names[0], PathOrder::Fail, true, short(50)).await, Ok(1));
        given_back(0).await;
        assert!(out(1).await);
        assert_eq!(client.write(0, &pattern(8, 1)).await.status, 0);
        assert_eq!(order(1, PathOrder::Restore, short(10)).await, Err(Refused::NoLimit));
        assert_eq!(order(0, PathOrder::Fail, short(0)).await, Err(Refused::Limit));
    })
    .await;
}

#[tokio::test]
async fn orders_about_what_is_not_there_are_refused() {
    bounded(async {
        let rig = Links::new(1, "").await;
        let (operator, names) = operator(&rig);
        let refused = operator.order("iqn.other", &names[0], PathOrder::Drain, false).await.unwrap_err();
        assert!(refused.to_string().contains(TARGET), "{refused}");
        let refused = operator.order(TARGET, "left", PathOrder::Drain, false).await.unwrap_err();
        assert!(refused.to_string().contains(&names[0]), "{refused}");
        let refused = operator.order(TARGET, &names[0], PathOrder::Weigh(0), false).await;
        assert_eq!(refused, Err(Refused::NoWeight));
    })
    .await;
}
