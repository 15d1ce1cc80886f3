//! Paths that are lost under load, and sessions that are replaced while one is.

use crate::rig::{Client, TARGET, bounded, counted, pattern, plan, start};
use braid::iscsi::{Payload, Pdu, ScsiCommand};
use braid::lab::cutter::{Cutter, Direction, LinkOptions};
use braid::lab::initiator::{Initiator, InitiatorOptions};
use braid::lab::target::{RamTarget, TargetOptions};
use braid::lab::workload::{Limit, Workload, WorkloadOptions};
use braid::metrics::{Metrics, TargetHealth};
use braid::proxy::Proxy;
use std::sync::Arc;
use std::time::Duration;

/// Quick to see that a path is gone, and quick to try it again.
pub(crate) const BRISK: &str = "ping_interval = \"100ms\"\nping_timeout = \"300ms\"\nconnect_timeout = \"300ms\"\n\
    login_timeout = \"500ms\"\nfence_time = \"500ms\"\nreconnect = { first = \"20ms\", longest = \"100ms\" }";

/// A target behind links that can be cut, and Braid in front.
pub(crate) struct Links {
    target: RamTarget,
    pub(crate) links: Vec<Cutter>,
    pub(crate) proxy: Proxy,
    metrics: Arc<Metrics>,
}

impl Links {
    pub(crate) async fn new(paths: usize, settings: &str) -> Self {
        Self::to(TargetOptions::loopback(paths), settings).await
    }

    /// To a target of one's own.
    async fn to(mut options: TargetOptions, settings: &str) -> Self {
        options.target.disks[0].blocks = 8192;
        let target = RamTarget::start(options).await.unwrap();
        let mut links = Vec::new();
        for portal in target.addresses() {
            let any = ([127, 0, 0, 1], 0).into();
            links.push(Cutter::start(any, *portal, LinkOptions::default()).await.unwrap());
        }
        let ends: Vec<_> = links.iter().map(Cutter::address).collect();
        let (proxy, metrics) = start("", &ends, &format!("{BRISK}\n{settings}")).await;
        Self { target, links, proxy, metrics }
    }

    /// Connections to the target that were lost so far.
    pub(crate) fn losses(&self) -> u64 {
        counted(&self.metrics, "braid_path_losses_total")
    }

    /// All metrics as they are.
    pub(crate) fn render(&self) -> String {
        self.metrics.render()
    }

    /// What is said of the configuration.
    pub(crate) fn reload_successful(&self) -> u64 {
        counted(&self.metrics, "braid_config_last_reload_successful")
    }

    /// Paths with a connection.
    fn up(&self) -> usize {
        self.metrics.health().iter().map(TargetHealth::usable).sum()
    }

    pub(crate) async fn until_up(&self, paths: usize) {
        while self.up() != paths {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Every path in turn is cut in every way under a verified load: no error, no wrong byte, and it comes back.
async fn every_cut(settings: &str) {
    let rig = Links::new(2, settings).await;
    let mut options = InitiatorOptions::new(rig.proxy.addresses()[0].to_string(), TARGET);
    options.queue_depth = 16;
    let mut initiator = Initiator::connect(&options).await.unwrap();
    let mut workload = Workload::new(WorkloadOptions::default(), &initiator).unwrap();
    assert!(workload.prepare(&mut initiator).await.is_clean());
    let progress = workload.progress();
    let cuts = async {
        for link in &rig.links {
            for kind in 0..4 {
                rig.until_up(2).await;
                match kind {
                    0 => link.cut_reset().await,
                    1 => link.cut_silent().await,
                    2 => link.cut_half(Direction::ToTarget).await,
                    _ => link.cut_half(Direction::ToInitiator).await,
                }
                rig.until_up(1).await;
                link.heal().await;
            }
        }
        rig.until_up(2).await;
        progress.stop();
    };
    let (report, ()) = tokio::join!(workload.run(&mut initiator, Limit::Time(Duration::from_secs(60))), cuts);
    assert!(report.is_clean(), "{report:?}");
    let report = workload.verify(&mut initiator).await;
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_of_several_sessions_may_be_cut() {
    bounded(every_cut("mode = \"sessions\"")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_of_one_session_with_many_connections_may_be_cut() {
    bounded(every_cut("mode = \"mcs\"")).await;
}

/// A session whose target keeps the tasks of a lost connection: commands go on over another, and none of them goes wrong.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_outlive_their_connection_r185_r189() {
    bounded(async {
        let mut options = TargetOptions::loopback(2);
        options.target.delay = Duration::from_millis(50);
        let limits = &mut options.target.limits;
        (limits.error_recovery_level, limits.default_time2wait, limits.default_time2retain) = (2, 0, 20);
        let rig = Links::to(options, "mode = \"mcs\"\nupstream_recovery = \"reassign\"").await;
        let mut options = InitiatorOptions::new(rig.proxy.addresses()[0].to_string(), TARGET);
        options.queue_depth = 16;
        let mut initiator = Initiator::connect(&options).await.unwrap();
        let region = Some((0, 1024));
        let mut workload =
            Workload::new(WorkloadOptions { region, ..WorkloadOptions::default() }, &initiator).unwrap();
        assert!(workload.prepare(&mut initiator).await.is_clean());
        let progress = workload.progress();
        let cuts = async {
            for link in rig.links.iter().cycle() {
                rig.until_up(2).await;
                link.cut_reset().await;
                rig.until_up(1).await;
                link.heal().await;
                if counted(&rig.metrics, "braid_path_commands_reassigned_total") >= 8 {
                    break;
                }
            }
            progress.stop();
        };
        let (report, ()) =
            tokio::join!(workload.run(&mut initiator, Limit::Time(Duration::from_secs(60))), cuts);
        assert!(report.is_clean(), "{report:?}");
        assert!(workload.verify(&mut initiator).await.is_clean());
    })
    .await;
}

#[tokio::test]
async fn commands_wait_while_no_path_works() {
    bounded(async {
        let rig = Links::new(2, "mode = \"sessions\"").await;
        let mut client = Client::login(rig.proxy.addresses()[0], 1).await.unwrap();
        assert_eq!(client.write(0, &pattern(8, 1)).await.status, 0);
        rig.until_up(2).await;
        for link in &rig.links {
            link.cut_reset().await;
        }
        rig.until_up(0).await;
        let command = client.read_command(0, 8);
        let itt = command.itt;
        client.conn.send(&[Pdu::ScsiCommand(command)]).await.unwrap();
        for link in &rig.links {
            link.heal().await;
        }
        assert_eq!(client.finish(itt, &[]).await.unwrap().data, pattern(8, 1));
    })
    .await;
}

/// Writes of the old session hang in a silent link when the new one begins. They must not land after those of the new.
#[tokio::test]
async fn a_session_that_is_replaced_leaves_no_ghosts() {
    bounded(async {
        let rig = Links::new(2, "mode = \"sessions\"\npolicy = \"round-robin\"").await;
        let address = rig.proxy.addresses()[0];
        let mut old = Client::login(address, 1).await.unwrap();
        while rig.up() < 2 || rig.metrics.carried(TARGET).iter().any(|path| path.written == 0) {
            assert_eq!(old.write(100, &pattern(8, 1)).await.status, 0);
        }
        rig.links[1].cut_silent().await;
        for at in 0..8 {
            let write = old.write_command(at * 8, &pattern(8, 7));
            old.conn.queue(&Pdu::ScsiCommand(ScsiCommand { data: Payload::from(pattern(8, 7)), ..write }));
        }
        old.conn.send(&[]).await.unwrap();
        let mut new = Client::login_as(address, plan(1)).await.unwrap();
        for at in 0..8 {
            assert_eq!(new.write(at * 8, &pattern(8, 9)).await.status, 0);
        }
        rig.links[1].heal().await;
        rig.until_up(2).await;
        for at in 0..8 {
            assert_eq!(rig.target.read_medium(0, at * 8, 8).unwrap(), pattern(8, 9));
        }
    })
    .await;
}

/// Many logins of the same initiator and ISID at a time: one is left, and it works.
#[tokio::test]
async fn a_storm_of_logins_leaves_one_session() {
    bounded(async {
        let rig = Links::new(2, "mode = \"sessions\"").await;
        let address = rig.proxy.addresses()[0];
        let mut storm = tokio::task::JoinSet::new();
        for _ in 0..20 {
            storm.spawn(async move { Client::login(address, 1).await.is_ok() });
        }
        storm.join_all().await;
        let mut last = Client::login(address, 1).await.unwrap();
        assert_eq!(last.write(0, &pattern(8, 1)).await.status, 0);
        assert_eq!(rig.proxy.sessions(), 1);
        let sessions = rig.target.sessions();
        assert_eq!(sessions.iter().filter(|session| session.isid == last.agreed.isid).count(), 1);
    })
    .await;
}
