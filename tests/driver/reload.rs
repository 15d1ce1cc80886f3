//! The configuration changes while sessions run.

use crate::cuts::{BRISK, Links};
use crate::rig::{Client, TARGET, bounded, counted, pattern, start_on, table};
use braid::config::{Place, Source, draft::Section};
use braid::lab::initiator::{Initiator, InitiatorOptions};
use braid::lab::target::{RamTarget, TargetOptions};
use braid::lab::workload::{Limit, Workload, WorkloadOptions};
use braid::proxy::Proxy;
use braid::proxy::operator::{Operator, PathOrder};
use braid::proxy::reload::{NotReloaded, Reloaded};
use braid::session::PathState;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

/// A rig whose Braid reads a file.
struct Filed {
    rig: Links,
    file: tempfile::NamedTempFile,
    operator: Operator,
    portals: Vec<SocketAddr>,
}

impl Filed {
    async fn new(paths: usize, settings: &str) -> Self {
        let rig = Links::new(paths, settings).await;
        let file = tempfile::NamedTempFile::new().unwrap();
        let source = Source::new(Some(file.path().to_owned()), Section::new(Place::Flag(String::new())));
        let operator = rig.proxy.operator().reading(source);
        let portals = rig.links.iter().map(|link| link.address()).collect();
        let filed = Self { rig, file, operator, portals };
        filed.write("", &filed.portals, settings);
        filed
    }

    fn listener(&self) -> SocketAddr {
        self.rig.proxy.addresses()[0]
    }

    fn write(&self, top: &str, portals: &[SocketAddr], settings: &str) {
        let top = format!("listen = \"{}\"\n{top}", self.listener());
        self.write_all(&table(&top, portals, &format!("{BRISK}\n{settings}")));
    }

    fn write_all(&self, text: &str) {
        std::fs::write(self.file.path(), text).unwrap();
    }

    /// What is different, as `key: old -> new`, and how many sessions were told.
    async fn reload(&self, apply: bool) -> (Vec<String>, usize) {
        let done: Reloaded = self.operator.reload(apply).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(done.applied, apply);
        let shown = done.changes.into_iter().map(|(change, _)| {
            let show = |value: Option<String>| value.unwrap_or_default();
            format!("{}: {} -> {}", change.key, show(change.old), show(change.new))
        });
        (shown.collect(), done.sessions)
    }

    async fn until_nobody_is_there(&self) {
        while self.rig.proxy.sessions() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn refused(&self) -> String {
        self.operator.reload(true).await.expect_err("must be refused").to_string()
    }

    /// Weight and state of the paths of the only session.
    async fn paths(&self) -> Vec<(u32, PathState)> {
        let session = self.operator.status().await.remove(0).sessions.remove(0);
        session.standing.unwrap().1.paths.iter().map(|path| (path.weight, path.state)).collect()
    }
}

/// Everything that may change does, again and again, under a verified load of which no connection is lost.
async fn reload_under_load(mode: &str) {
    let filed = Filed::new(2, mode).await;
    let mut options = InitiatorOptions::new(filed.listener().to_string(), TARGET);
    options.queue_depth = 16;
    let mut initiator = Initiator::connect(&options).await.unwrap();
    let mut workload = Workload::new(WorkloadOptions::default(), &initiator).unwrap();
    assert!(workload.prepare(&mut initiator).await.is_clean());
    let progress = workload.progress();
    let reloads = async {
        filed.rig.until_up(2).await;
        assert_eq!(filed.reload(true).await, (vec![], 0), "as it was started");
        let settings = [
            "policy = \"weighted\"\nwindow = 4",
            "policy = \"round-robin\"\nwindow = 1\nmemory = \"1MiB\"",
            "policy = \"failover\"\ntask_timeout = \"9s\"\nsilence_timeout = \"4s\"",
            "policy = \"queue-depth\"\nall_paths_down = { queue = \"9s\", then = \"busy\" }",
            "",
        ];
        for settings in settings {
            filed.write("", &filed.portals, &format!("{mode}\n{settings}"));
            let (changes, told) = filed.reload(true).await;
            assert!(!changes.is_empty() && told == 1, "{changes:?}");
            let before = progress.sample().operations;
            while progress.sample().operations < before + 100 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        progress.stop();
    };
    let (report, ()) =
        tokio::join!(workload.run(&mut initiator, Limit::Time(Duration::from_secs(60))), reloads);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(filed.rig.losses(), 0);
    let report = workload.verify(&mut initiator).await;
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_sessions_are_not_disturbed() {
    bounded(reload_under_load("mode = \"sessions\"")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_many_connections_is_not_disturbed() {
    bounded(reload_under_load("mode = \"mcs\"")).await;
}

#[tokio::test]
async fn a_new_weight_takes_effect_and_a_check_does_not() {
    bounded(async {
        let filed = Filed::new(2, "mode = \"sessions\"\npolicy = \"weighted\"").await;
        let mut client = Client::login(filed.listener(), 1).await.unwrap();
        filed.rig.until_up(2).await;
        let [left, right] = [filed.portals[0], filed.portals[1]];
        // What was ordered counts until the file says something else.
        let order = PathOrder::Weigh(9);
        assert_eq!(filed.operator.order(TARGET, &right.to_string(), order, false).await, Ok(1));
        let text = format!(
            "listen = \"{}\"\n[[target]]\nname = \"{TARGET}\"\npaths = [\"{left}\", {{ portal = \"{right}\", weight = 3 }}]\n\
             {BRISK}\nmode = \"sessions\"\npolicy = \"weighted\"\n",
            filed.listener()
        );
        filed.write_all(&text);
        let expected = vec![format!("paths {right} weight: 1 -> 3")];
        assert_eq!(filed.reload(false).await, (expected.clone(), 0));
        assert_eq!(filed.paths().await[1].0, 9);
        assert_eq!(filed.reload(true).await, (expected, 1));
        assert_eq!(filed.paths().await[1].0, 3);
        assert_eq!(filed.reload(true).await.0, Vec::<String>::new());
        assert_eq!(client.write(0, &pattern(8, 1)).await.status, 0);
        // Whoever comes later has it too.
        drop(client);
        let _next = Client::login(filed.listener(), 2).await.unwrap();
        while filed.operator.status().await[0].sessions.len() != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(filed.paths().await[1].0, 3);
    })
    .await;
}

#[tokio::test]
async fn paths_and_targets_come_and_go_for_new_sessions() {
    bounded(async {
        let filed = Filed::new(2, "mode = \"sessions\"").await;
        let [left, right] = [filed.portals[0], filed.portals[1]];
        let _client = Client::login(filed.listener(), 1).await.unwrap();
        filed.rig.until_up(2).await;
        filed.write("", &[left], "mode = \"sessions\"");
        let (changes, told) = filed.reload(true).await;
        assert_eq!((changes.len(), told), (1, 0), "{changes:?}");
        assert!(changes[0].starts_with(&format!("paths {right}: {right}")), "{changes:?}");
        assert_eq!(filed.paths().await.len(), 2, "the session keeps what it has");
        let order = PathOrder::Drain;
        assert_eq!(filed.operator.order(TARGET, &right.to_string(), order, false).await, Ok(1), "to be had");
        let _second = Client::login(filed.listener(), 2).await.unwrap();
        let sessions = filed.operator.status().await.remove(0).sessions;
        let paths: Vec<_> = sessions.iter().map(|s| s.standing.as_ref().unwrap().1.paths.len()).collect();
        assert_eq!(paths, [2, 1]);
        // A target that is in use stays; one that is not goes.
        let other = |name: &str| {
            format!(
                "listen = \"{}\"\n[[target]]\nname = \"{name}\"\npaths = [\"{left}\"]\n",
                filed.listener()
            )
        };
        filed.write_all(&other("iqn.other"));
        let refusal = filed.refused().await;
        assert!(refusal.contains("2 sessions open") && refusal.contains(TARGET), "{refusal}");
        assert_eq!(filed.operator.status().await[0].name, TARGET);
        let both = table(&other("iqn.other"), &[left], &format!("{BRISK}\nmode = \"sessions\""));
        filed.write_all(&both);
        assert_eq!(filed.reload(true).await.0, [format!("target:  -> over {left}")]);
        filed.write("", &[left], "mode = \"sessions\"");
        assert_eq!(filed.reload(true).await.0, [format!("target: over {left} -> ")]);
        assert_eq!(filed.operator.status().await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn the_series_of_what_is_taken_away_go_when_nobody_uses_them() {
    bounded(async {
        let filed = Filed::new(2, "mode = \"sessions\"").await;
        let [left, right] = [filed.portals[0], filed.portals[1]];
        let counts = |name: &str| filed.rig.render().contains(&format!("=\"{name}\""));
        let client = Client::login(filed.listener(), 1).await.unwrap();
        filed.rig.until_up(2).await;
        let other = format!("[[target]]\nname = \"iqn.other\"\npaths = [\"{left}\"]\n");
        filed.write("", &[left], &format!("mode = \"sessions\"\n{other}"));
        filed.reload(true).await;
        assert!(counts("iqn.other") && counts(&right.to_string()), "a session uses the path");
        filed.write("", &[left], "mode = \"sessions\"");
        filed.reload(true).await;
        assert!(!counts("iqn.other") && counts(&right.to_string()));
        client.logout().await;
        filed.until_nobody_is_there().await;
        assert!(!counts(&right.to_string()));
        assert!(counts(TARGET) && counts(&left.to_string()));
        // A target that was discovered belongs to the table that asked for it.
        let table = format!("[[target]]\nname = \"*\"\ndiscover = true\npaths = [\"{left}\"]\n");
        filed.write_all(&format!("listen = \"{}\"\n{table}", filed.listener()));
        filed.reload(true).await;
        Client::login(filed.listener(), 2).await.unwrap().logout().await;
        filed.until_nobody_is_there().await;
        assert!(counts(TARGET));
        filed.write_all(&format!("listen = \"{}\"\n{other}", filed.listener()));
        filed.reload(true).await;
        assert!(counts("iqn.other") && !counts(TARGET));
    })
    .await;
}

#[tokio::test]
async fn what_is_refused_or_wrong_touches_nothing() {
    bounded(async {
        let filed = Filed::new(2, "mode = \"sessions\"").await;
        let _client = Client::login(filed.listener(), 1).await.unwrap();
        let before = filed.operator.config();
        let same = |why: &str| assert_eq!(filed.operator.config(), before, "{why}");
        filed.write("admin = \"off\"", &filed.portals, "mode = \"sessions\"\nwindow = 9");
        let refusal = filed.refused().await;
        assert!(refusal.contains(":2:9: admin: off cannot take the place of 127.0.0.1:9260"), "{refusal}");
        same("admin");
        let own = [filed.portals[0], SocketAddr::from(([127, 0, 0, 1], filed.listener().port()))];
        filed.write("", &own, "mode = \"sessions\"");
        assert!(filed.refused().await.contains("where Braid itself listens"));
        same("own address");
        assert_eq!(filed.rig.reload_successful(), 0);
        filed.write("", &filed.portals, "mode = \"sessions\"");
        assert_eq!(filed.reload(true).await.0, Vec::<String>::new());
        assert_eq!(filed.rig.reload_successful(), 1);
        filed.write("", &filed.portals, "mode = \"sesions\"");
        assert!(filed.operator.reload(false).await.is_err());
        assert_eq!(filed.rig.reload_successful(), 1, "that was a check");
        let wrong = filed.operator.reload(true).await.unwrap_err();
        assert!(matches!(wrong, NotReloaded::Wrong(_)) && wrong.to_string().contains("did you mean"));
        same("spelling");
        filed.file.as_file().write_all(b"[[").unwrap();
        assert!(filed.operator.reload(true).await.is_err());
        same("no TOML");
        assert_eq!(filed.rig.proxy.operator().reload(true).await, Err(NotReloaded::NoFile));
    })
    .await;
}

#[tokio::test]
async fn limits_and_who_is_let_in_change_for_later_logins() {
    bounded(async {
        let filed = Filed::new(1, "").await;
        let client = Client::login(filed.listener(), 1).await.unwrap();
        filed.write("limits = { max_sessions = 1 }", &filed.portals, "");
        assert_eq!(filed.reload(true).await, (vec!["limits.max_sessions: 256 -> 1".to_owned()], 0));
        assert!(Client::login(filed.listener(), 2).await.is_err(), "one is there");
        filed.write("", &filed.portals, "allow = { names = [\"iqn.other\"] }");
        filed.reload(true).await;
        assert!(Client::login(filed.listener(), 2).await.is_err(), "not let in");
        filed.write("", &filed.portals, "");
        filed.reload(true).await;
        assert!(Client::login(filed.listener(), 2).await.is_ok());
        drop(client);
    })
    .await;
}

/// What a proxy of this address reads from a file: its table in this folder.
fn filed(
    folder: &std::path::Path,
    name: &str,
    proxy: &Proxy,
    portals: &[SocketAddr],
    settings: &str,
) -> Operator {
    let listen: Vec<_> = proxy.addresses().iter().map(|address| format!("\"{address}\"")).collect();
    let file = folder.join(name);
    let top = format!("listen = [{}]", listen.join(", "));
    std::fs::write(&file, table(&top, portals, settings)).unwrap();
    proxy.operator().reading(Source::new(Some(file), Section::new(Place::Flag(String::new()))))
}

/// The target is another Braid, which wants a proof, in front of the lab's.
#[tokio::test]
async fn a_session_proves_itself_with_the_secret_of_now_when_a_path_comes_back() {
    bounded(async {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        let rotate = |to: &str| std::fs::write(&secret, to).unwrap();
        rotate("secret-of-yesterday");
        let account = format!("{{ name = \"braid\", secret_file = \"{}\" }}", secret.display());
        let ram = RamTarget::start(TargetOptions::loopback(1)).await.unwrap();
        let accounts = format!("chap = {{ initiators = [{account}] }}");
        let (far, _) = start_on(2, "", ram.addresses(), &accounts).await;
        let own = format!("{BRISK}\nmode = \"sessions\"\nupstream_chap = {account}");
        let (near, metrics) = start_on(1, "", far.addresses(), &own).await;
        let _client = Client::login(near.addresses()[0], 1).await.unwrap();
        let up = |number| {
            let metrics = &metrics;
            async move {
                while counted(metrics, "braid_path_connections{") != number {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        up(2).await;
        rotate("secret-of-today-on");
        let far_operator = filed(folder.path(), "far", &far, ram.addresses(), &accounts);
        let near_operator = filed(folder.path(), "near", &near, far.addresses(), &own);
        let changed = far_operator.reload(true).await.unwrap().changes;
        assert!(changed[0].0.new.as_ref().unwrap().ends_with("(another secret)"), "{changed:?}");
        let path = far.addresses()[1].to_string();
        // Known to the one side only, the new secret lets nobody in.
        assert_eq!(near_operator.order(TARGET, &path, PathOrder::Fail, false).await, Ok(1));
        up(1).await;
        let refused = counted(&metrics, "braid_path_connect_failures_total");
        assert_eq!(near_operator.order(TARGET, &path, PathOrder::Restore, false).await, Ok(1));
        while counted(&metrics, "braid_path_connect_failures_total") == refused {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let done = near_operator.reload(true).await.unwrap();
        assert_eq!((done.changes.len(), done.sessions), (2, 1), "{done:?}");
        up(2).await;
    })
    .await;
}
