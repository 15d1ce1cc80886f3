//! What an operator reads of a session whose path is cut under load.

use crate::cuts::Links;
use crate::rig::{Client, TARGET, bounded};
use braid::proxy::events::{Event, Kind};
use braid::proxy::operator::{Operator, PathOrder};
use std::time::Duration;

/// Waits for an event of this kind, about this path if one is named, that comes after this number.
async fn next(operator: &Operator, after: u64, kind: Kind, path: Option<&str>) -> Event {
    let mut last = after;
    loop {
        let news = operator.events().wait_after(last, Duration::from_secs(60)).await;
        assert_eq!(news.missed, 0);
        let wanted = |event: &Event| event.kind == kind && event.about.path.as_deref() == path;
        if let Some(event) = news.events.into_iter().find(wanted) {
            return event;
        }
        last = news.last;
    }
}

#[tokio::test]
async fn an_outage_is_told_from_its_cause_to_its_end() {
    bounded(async {
        let rig = Links::new(1, "mode = \"sessions\"").await;
        let operator = rig.proxy.operator();
        let mut client = Client::login(rig.proxy.addresses()[0], 1).await.unwrap();
        let path = rig.links[0].address().to_string();
        let path = Some(path.as_str());
        let begun = next(&operator, 0, Kind::SessionBegun, None).await;
        let guarantees = "several sessions (configured); barriers strict, fence auto (fence time 500ms)";
        assert_eq!(begun.text, guarantees);
        assert_eq!(begun.about.initiator.as_deref(), Some("iqn.2026-11.example:host"));
        assert_eq!(begun.about.target.as_deref(), Some(TARGET));
        rig.links[0].cut_silent().await;
        let read = client.read_command(0, 8);
        let answered = async { assert_eq!(client.run(read, &[]).await.unwrap().status, 0) };
        let watched = async {
            let lost = next(&operator, begun.number, Kind::PathLost, path).await;
            assert!(!lost.text.is_empty());
            next(&operator, lost.number, Kind::AllPathsDown, None).await;
            rig.links[0].heal().await;
            let back = next(&operator, lost.number, Kind::PathUp, path).await;
            let over = next(&operator, back.number, Kind::Failover, None).await;
            assert!(over.text.starts_with("nothing completed for "), "{}", over.text);
            let all = operator.events().after(lost.number).events;
            let told = all.iter().filter(|event| event.kind == Kind::PathUnreachable);
            assert_eq!(told.count(), 0, "that it stays away is no news");
        };
        tokio::join!(answered, watched);
        drop(client);
        assert_eq!(next(&operator, begun.number, Kind::SessionEnded, None).await.text, "in order");
    })
    .await;
}

#[tokio::test]
async fn orders_and_refused_logins_are_told() {
    bounded(async {
        let rig = Links::new(1, "allow = { names = [\"iqn.other\"] }").await;
        let operator = rig.proxy.operator();
        let path = rig.links[0].address().to_string();
        operator.order(TARGET, &path, PathOrder::Weigh(3), false).await.unwrap();
        let order = next(&operator, 0, Kind::Ordered, Some(&path)).await;
        assert_eq!((order.number, order.text.as_str()), (1, "weight 3"));
        assert!(Client::login(rig.proxy.addresses()[0], 1).await.is_err());
        let refused = next(&operator, 1, Kind::LoginRefused, None).await;
        assert!(refused.text.starts_with("denied: refused with 02/02, from 127.0.0.1:"), "{}", refused.text);
        assert_eq!(refused.about.initiator.as_deref(), Some("iqn.2026-11.example:host"));
    })
    .await;
}
