//! Targets that the configuration does not write out: what portals tell of them becomes their paths.

use crate::rig::{Client, TARGET, bounded, pattern, plan, refusal, start};
use braid::config::Config;
use braid::lab::target::{Listen, RamTarget, TargetOptions};
use braid::login::{ConnectionParams, LoginKind, LoginPlan, SessionParams};
use braid::metrics::Metrics;
use braid::proxy::Proxy;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// How long a Braid may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// Braid that asks these portals for targets whose names fit, with further lines in their table.
struct Asking {
    proxy: Proxy,
    metrics: Arc<Metrics>,
}

impl Asking {
    async fn new(name: &str, portals: &[SocketAddr], settings: &str) -> Self {
        Self::of(&table(name, portals, settings)).await
    }

    async fn of(tables: &str) -> Self {
        let mut config = Config::from_toml(tables, "test").unwrap_or_else(|error| panic!("{error}"));
        config.listen = vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()];
        let metrics = Arc::new(Metrics::new());
        let proxy = Proxy::start(Arc::new(config), Arc::clone(&metrics)).await.unwrap();
        Self { proxy, metrics }
    }

    fn address(&self) -> SocketAddr {
        self.proxy.addresses()[0]
    }

    /// Names of the target's paths, with the connections up.
    fn paths(&self) -> Vec<(String, i64)> {
        self.metrics.health().into_iter().flat_map(|target| target.paths).collect()
    }

    async fn paths_up(&self, wanted: usize) {
        while self.paths().iter().filter(|(_, up)| *up > 0).count() < wanted {
            tokio::task::yield_now().await;
        }
    }

    async fn found(&self, isid: u8) -> String {
        let mut client = Client::login_as(self.address(), discovery(isid)).await.unwrap();
        let found = client.text("SendTargets=All\0").await.unwrap();
        client.logout().await;
        found
    }
}

/// A table of the configuration.
fn table(name: &str, portals: &[SocketAddr], settings: &str) -> String {
    let portals: Vec<_> = portals.iter().map(|portal| format!("\"{portal}\"")).collect();
    let portals = portals.join(", ");
    format!("[[target]]\nname = \"{name}\"\ndiscover = true\npaths = [{portals}]\n{settings}\n")
}

fn discovery(isid: u8) -> LoginPlan {
    let offer = SessionParams::default();
    LoginPlan { kind: LoginKind::Discovery, target_name: String::new(), offer, ..plan(isid) }
}

/// An address where nobody listens, and from which nobody connects.
async fn gone() -> SocketAddr {
    TcpListener::bind("127.0.77.7:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn one_portal_tells_of_all_paths() {
    bounded(async {
        let ram = RamTarget::start(TargetOptions::loopback(3)).await.unwrap();
        let braid = Asking::new("*", &ram.addresses()[1..2], "mode = \"sessions\"").await;
        let mut client = Client::login(braid.address(), 1).await.unwrap();
        assert_eq!(client.write(0, &pattern(8, 1)).await.status, 0);
        braid.paths_up(3).await;
        assert_eq!(client.read(0, 8).await.data, pattern(8, 1));
        let names: Vec<_> = braid.paths().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ram.addresses().iter().map(ToString::to_string).collect::<Vec<_>>());
        let shown = format!("TargetName={TARGET}\0TargetAddress={},1\0", braid.address());
        assert_eq!(client.text("SendTargets=\0").await.unwrap(), shown);
        assert_eq!(braid.found(2).await, shown);
        let other = LoginPlan { target_name: "iqn.2026-11.example:other".into(), ..plan(3) };
        assert_eq!(refusal(Client::login_as(braid.address(), other).await), (2, 3));
    })
    .await;
}

#[tokio::test]
async fn a_dead_portal_is_a_path_that_waits_for_it() {
    bounded(async {
        let ram = RamTarget::start(TargetOptions::loopback(1)).await.unwrap();
        let dead = gone().await;
        let settings = "mode = \"sessions\"\nreconnect = { first = \"10ms\", longest = \"20ms\" }";
        let braid = Asking::new("iqn.*", &[dead, ram.addresses()[0]], settings).await;
        let mut client = Client::login(braid.address(), 1).await.unwrap();
        client.ping().await.unwrap();
        braid.paths_up(1).await;
        let names: Vec<_> = braid.paths().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [ram.addresses()[0], dead].map(|portal| portal.to_string()));
        // It comes to life, at the same units of another target's process.
        let second = Listen { address: dead, tpgt: 1, advertise: None };
        let _second =
            RamTarget::start(TargetOptions { listen: vec![second], ..TargetOptions::default() }).await;
        braid.paths_up(2).await;
    })
    .await;
}

#[tokio::test]
async fn without_any_answer_a_target_of_a_whole_name_has_the_portals_themselves() {
    bounded(async {
        let dead = gone().await;
        let named = Asking::new(TARGET, &[dead], "").await;
        assert_eq!(refusal(Client::login(named.address(), 1).await), (3, 1));
        let any = Asking::new("iqn.*", &[dead], "").await;
        assert_eq!(refusal(Client::login(any.address(), 1).await), (2, 3));
        assert_eq!(any.found(2).await, "");
    })
    .await;
}

#[tokio::test]
async fn what_was_told_is_remembered_when_the_portal_is_gone() {
    bounded(async {
        let ram = RamTarget::start(TargetOptions::loopback(1)).await.unwrap();
        let braid = Asking::new("*", ram.addresses(), "").await;
        let shown = braid.found(1).await;
        assert!(shown.contains(TARGET));
        drop(ram);
        assert_eq!(braid.found(2).await, shown);
        assert_eq!(refusal(Client::login(braid.address(), 3).await), (3, 1), "it is known, and away");
    })
    .await;
}

/// An initiator compares the tag of discovery with that of its login, whichever path is home.
#[tokio::test]
async fn r239_the_tag_stays_whichever_group_home_is_in() {
    bounded(async {
        let mut options = TargetOptions::loopback(2);
        options.listen[0].tpgt = 5;
        options.listen[1].tpgt = 6;
        let dead = gone().await;
        options.listen[0].advertise = Some(dead.to_string());
        let ram = RamTarget::start(options).await.unwrap();
        let braid = Asking::new("*", ram.addresses(), "mode = \"sessions\"").await;
        let shown = braid.found(1).await;
        assert!(shown.ends_with(",5\0"), "{shown}");
        let mut client = Client::login(braid.address(), 2).await.unwrap();
        assert_eq!(client.agreed.tpgt, Some(5), "home is in group 6");
        assert_eq!(client.text("SendTargets=\0").await.unwrap(), shown);
    })
    .await;
}

#[tokio::test]
async fn rules_say_over_which_local_end_and_which_portals_are_used() {
    bounded(async {
        let mut options = TargetOptions::loopback(2);
        options.listen[1].address = "127.0.1.1:0".parse().unwrap();
        let ram = RamTarget::start(options).await.unwrap();
        let rules = "mode = \"sessions\"\npath_rules = [{ portals = \"127.0.1.0/24\", source = \"127.0.1.7\" },\n\
                     { portals = \"127.0.1.1\", source = \"127.0.1.8\" }]";
        let other = ram.addresses()[1];
        let braid = Asking::new("*", &[other], rules).await;
        let client = Client::login(braid.address(), 1).await.unwrap();
        braid.paths_up(1).await;
        let names: Vec<_> = braid.paths().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [other.to_string()], "what is written out is as it is written");
        client.logout().await;
        let braid = Asking::new("*", &ram.addresses()[..1], rules).await;
        let _client = Client::login(braid.address(), 1).await.unwrap();
        braid.paths_up(2).await;
        let mut names: Vec<_> = braid.paths().into_iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        let first = ram.addresses()[0];
        assert_eq!(names, [format!("{first}"), format!("{other}@127.0.1.7"), format!("{other}@127.0.1.8")]);
    })
    .await;
}

#[tokio::test]
async fn who_is_not_allowed_hears_of_nothing_and_asks_nobody() {
    bounded(async {
        let ram = RamTarget::start(TargetOptions::loopback(1)).await.unwrap();
        let allow = "allow = { names = [\"iqn.2026-11.example:*\"] }";
        let braid = Asking::new("*", ram.addresses(), allow).await;
        let stranger = |plan| LoginPlan { initiator_name: "iqn.2026-12.example:host".into(), ..plan };
        assert_eq!(refusal(Client::login_as(braid.address(), stranger(plan(1))).await), (2, 2));
        let mut client = Client::login_as(braid.address(), stranger(discovery(2))).await.unwrap();
        assert_eq!(client.text("SendTargets=All\0").await.unwrap(), "");
        assert!(braid.found(3).await.contains(TARGET));
    })
    .await;
}

/// A target whose first portal is in another group than its second; the tag of the first is told in discovery and at login.
#[tokio::test]
async fn r239_the_tag_stays_over_a_restart() {
    bounded(async {
        let mut options = TargetOptions::loopback(2);
        options.listen[0].tpgt = 5;
        options.listen[1].tpgt = 6;
        let folder = tempfile::tempdir().unwrap();
        let top = format!("state_file = {:?}", folder.path().join("state.json").display().to_string());
        let ram = RamTarget::start(options.clone()).await.unwrap();
        let portals = ram.addresses().to_vec();
        let (proxy, _) = start(&top, &portals, "mode = \"sessions\"").await;
        let client = Client::login(proxy.addresses()[0], 1).await.unwrap();
        assert_eq!(client.agreed.tpgt, Some(5));
        client.logout().await;
        proxy.stop(STOP).await;
        while !std::fs::read_to_string(folder.path().join("state.json"))
            .is_ok_and(|text| text.contains(TARGET))
        {
            tokio::task::yield_now().await;
        }
        drop(ram);
        options.listen.remove(0);
        options.listen[0].address = portals[1];
        let _ram = loop {
            // Its sockets are closed by and by.
            match RamTarget::start(options.clone()).await {
                Ok(ram) => break ram,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let (proxy, _) = start(&top, &portals, "mode = \"sessions\"").await;
        let mut client = Client::login_as(proxy.addresses()[0], discovery(2)).await.unwrap();
        assert!(client.text("SendTargets=All\0").await.unwrap().ends_with(",5\0"));
        let client = Client::login(proxy.addresses()[0], 3).await.unwrap();
        assert_eq!(client.agreed.tpgt, Some(5), "home is in group 6");
    })
    .await;
}

/// Many targets behind one portal, which is another Braid's: their list comes in parts, on both sides.
#[tokio::test]
async fn r237_a_thousand_targets_are_told_in_parts() {
    bounded(async {
        let ram = RamTarget::start(TargetOptions::loopback(1)).await.unwrap();
        let portal = ram.addresses()[0];
        let name = |n: usize| format!("iqn.2026-11.example:volume-{n:04}");
        let table = |n| {
            format!(
                "[[target]]\nname = \"{}\"\npaths = [{{ portal = \"{portal}\", target = \"{TARGET}\" }}]\n",
                name(n)
            )
        };
        let mut config = Config::from_toml(&(0..1000).map(table).collect::<String>(), "test").unwrap();
        config.listen = vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()];
        let far = Proxy::start(Arc::new(config), Arc::new(Metrics::new())).await.unwrap();
        let braid = Asking::new("*", far.addresses(), "mode = \"sessions\"").await;
        let connection = ConnectionParams { max_recv_data_segment: 8192, ..ConnectionParams::default() };
        let small = LoginPlan { connection, ..discovery(1) };
        let mut client = Client::login_as(braid.address(), small).await.unwrap();
        let (text, parts) = client.text_in_parts("SendTargets=All\0").await;
        assert!(parts > 9, "{parts} parts of {} bytes", text.len());
        let names: Vec<_> = text.split('\0').filter_map(|pair| pair.strip_prefix("TargetName=")).collect();
        assert_eq!(names, (0..1000).map(name).collect::<Vec<_>>());
        assert_eq!(text.matches(&format!("TargetAddress={},1\0", braid.address())).count(), 1000);
        client.logout().await;
        let last = LoginPlan { target_name: name(999), ..plan(2) };
        let mut client = Client::login_as(braid.address(), last).await.unwrap();
        assert_eq!(client.write(0, &pattern(1, 1)).await.status, 0);
    })
    .await;
}

/// Machines that know nothing of each other have a table each; one is dead.
#[tokio::test]
async fn a_target_is_looked_for_in_every_table_that_fits() {
    bounded(async {
        let ram = |name: &str| {
            let mut options = TargetOptions::loopback(1);
            options.target.name = name.to_owned();
            RamTarget::start(options)
        };
        let names = ["iqn.2026-11.example:one", "iqn.2026-11.example:two"];
        let (one, two) = (ram(names[0]).await.unwrap(), ram(names[1]).await.unwrap());
        let closed = "allow = { names = [\"iqn.nobody\"] }";
        let tables = [
            table("*", &[gone().await], ""),
            table("*", one.addresses(), ""),
            table("iqn.*", two.addresses(), ""),
            table("*", two.addresses(), closed),
        ];
        let braid = Asking::of(&tables.concat()).await;
        let shown = braid.found(1).await;
        for (isid, name) in (2..).zip(names) {
            assert_eq!(shown.matches(&format!("TargetName={name}\0")).count(), 1, "{shown}");
            let plan = LoginPlan { target_name: name.into(), ..plan(isid) };
            let mut client = Client::login_as(braid.address(), plan).await.unwrap();
            client.ping().await.unwrap();
        }
        let closed = Asking::of(&table("*", two.addresses(), closed)).await;
        assert_eq!(refusal(Client::login(closed.address(), 4).await), (2, 2));
    })
    .await;
}

/// It is probed at the first login to it, which waits for that.
#[tokio::test]
async fn a_discovered_target_gets_the_fan_out_that_it_is_fit_for() {
    bounded(async {
        let ram = RamTarget::start(TargetOptions::loopback(2)).await.unwrap();
        let braid = Asking::new("*", &ram.addresses()[..1], "").await;
        let _client = Client::login(braid.address(), 1).await.unwrap();
        let text = braid.metrics.render();
        let series = format!("braid_sessions{{fanout=\"mcs\",target=\"{TARGET}\"}} 1");
        assert!(text.lines().any(|line| line == series), "{text}");
        braid.paths_up(2).await;
    })
    .await;
}
