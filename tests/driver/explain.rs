//! Why things are as they are, as an operator is told.

use crate::cuts::Links;
use crate::rig::{Client, TARGET, bounded, pattern};
use braid::proxy::auto::Probed;
use braid::proxy::explain::Explanation;
use braid::proxy::operator::{Operator, PathOrder, Refused};
use braid::session::{Fanout, PathState, Share};
use std::time::Duration;

/// Asks until it is so.
async fn until(operator: &Operator, wanted: impl Fn(&Explanation) -> bool) -> Explanation {
    loop {
        let told = operator.explain(TARGET).await.unwrap();
        if wanted(&told) {
            return told;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What may go over the paths of the only session to its only unit.
fn shares(told: &Explanation) -> Vec<Share> {
    let units = &told.sessions[0].units;
    units.first().map(|unit| unit.paths.iter().map(|(share, _)| *share).collect()).unwrap_or_default()
}

#[tokio::test]
async fn a_path_is_explained_from_its_proof_to_its_loss() {
    bounded(async {
        let rig = Links::new(3, "mode = \"sessions\"").await;
        let operator = rig.proxy.operator();
        let names: Vec<_> = rig.links.iter().map(|link| link.address().to_string()).collect();
        assert!(operator.explain(TARGET).await.unwrap().sessions.is_empty());
        assert!(matches!(operator.explain("iqn.no").await, Err(Refused::UnknownTarget { .. })));
        let mut client = Client::login(rig.proxy.addresses()[0], 1).await.unwrap();
        assert_eq!(client.write(0, &pattern(8, 1)).await.status, 0);
        let all = [Share::Everything, Share::Blocks, Share::Blocks];
        let told = until(&operator, |told| shares(told) == all).await;
        let session = &told.sessions[0];
        assert!(session.units[0].who.is_some() && session.units[0].lun == 0);
        assert!(session.troubles.iter().all(Option::is_none));
        let basis = session.basis.as_ref().unwrap();
        assert_eq!((basis.fanout, basis.why), (Fanout::Sessions, "configured"));
        assert_eq!(told.next(), (Some(Fanout::Sessions), "configured".to_owned()));
        assert_eq!(operator.order(TARGET, &names[1], PathOrder::Drain, false).await, Ok(1));
        rig.links[2].cut_silent().await;
        let told = until(&operator, |told| {
            let troubled = told.sessions[0].troubles[2].as_ref();
            shares(told) == [Share::Everything, Share::Nothing, Share::Nothing]
                && troubled.is_some_and(|event| event.kind.word() == "path-lost")
        })
        .await;
        assert!(told.paths[1].out && !told.paths[2].out);
        let session = &told.sessions[0];
        let paths = &session.status.standing.as_ref().unwrap().1.paths;
        assert_eq!(paths[1].state, PathState::Drained);
        assert_eq!(paths[1].retry_in, None);
        assert!(!session.troubles[2].as_ref().unwrap().text.is_empty());
        assert!(session.units[0].paths[2].1.contains("no connection"));
    })
    .await;
}

#[tokio::test]
async fn what_the_probe_found_out_is_told_step_by_step() {
    bounded(async {
        let rig = Links::new(2, "").await;
        let operator = rig.proxy.operator();
        let settled = |told: &Explanation| matches!(told.probes.as_slice(), [(_, Probed::Settled(_))]);
        let told = until(&operator, settled).await;
        let [(name, Probed::Settled(verdict))] = told.probes.as_slice() else { panic!("{:?}", told.probes) };
        assert_eq!(name, TARGET);
        let steps = verdict.steps();
        assert!(steps[0].starts_with("it is BRAID") && steps.len() == 5, "{steps:?}");
        assert_eq!(told.next(), (Some(Fanout::Mcs), "proved by the probe".to_owned()));
        assert_eq!(told.remembered.verdicts, [(**verdict).clone()]);
        assert_eq!(told.remembered.file, None);
    })
    .await;
}
