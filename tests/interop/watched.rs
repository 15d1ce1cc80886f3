//! What operators see: a real Prometheus takes the metrics of a Braid under load that loses a path and gets it back, by the
//! configuration and the rules of `dashboards/`, and answers every expression of every panel and rule.

#![expect(clippy::indexing_slicing, reason = "what is not there in JSON is null")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::braid::Braid;
use crate::cuts::{StopOnDrop, work};
use crate::load::REGION;
use crate::net::{Cut, Net, loopback, within};
use crate::process::{Daemon, Done, command, run, temporary, words};
use crate::setup::tools;
use crate::stage::{Stage, Via};
use crate::target::{Kind, Site, dial};
use crate::wait::{HEAVY, PATIENCE, poll};

const LIMIT: Duration = Duration::from_secs(60);
/// What Grafana's variables stand for; ranges that hold some samples of a short test.
const VARIABLES: [(&str, &str); 4] =
    [("$__rate_interval", "10s"), ("$__range", "10m"), ("$instance", ".*"), ("$target", ".*")];

fn dashboards(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards").join(below)
}

/// The files of a folder with this extension, by name.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dashboards(folder)).expect("a folder of dashboards");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.sort();
    assert!(!files.is_empty(), "{folder} holds no {extension}");
    files
}

fn promtool(arguments: &[&str], files: &[PathBuf]) -> Done {
    tools();
    let mut line = [words(&["promtool"]), words(arguments)].concat();
    line.extend(files.iter().map(|file| file.display().to_string()));
    run(command(None, &line), LIMIT)
}

#[test]
fn rules_are_sound_and_do_what_their_tests_say() {
    promtool(&["check", "config"], &[dashboards("prometheus/prometheus.yml")]).expect_ok();
    promtool(&["check", "rules"], &files("prometheus/rules", "yml")).expect_ok();
    promtool(&["test", "rules"], &files("prometheus/tests", "yml")).expect_ok();
}

/// A running Prometheus beside a Braid, with its storage.
struct Prometheus {
    daemon: Daemon,
    netns: Option<String>,
    address: String,
    _dir: TempDir,
}

impl Prometheus {
    /// Configured as shipped, but for the addresses and for shorter intervals.
    fn before(braid: &Braid) -> Self {
        let dir = temporary();
        let shipped = fs::read_to_string(dashboards("prometheus/prometheus.yml")).expect("configuration");
        let rules = format!("{}/*.yml", dashboards("prometheus/rules").display());
        let mut text = shipped.clone();
        for (shipped_as, here) in
            [("127.0.0.1:9260", braid.admin()), ("rules/*.yml", rules.as_str()), (": 5s", ": 500ms")]
        {
            assert!(text.contains(shipped_as), "no {shipped_as} in the configuration");
            text = text.replace(shipped_as, here);
        }
        let config = dir.path().join("prometheus.yml");
        fs::write(&config, text).expect("configuration");
        let address = format!("{}:29090", loopback());
        let line = [
            "prometheus".to_owned(),
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", dir.path().join("data").display()),
            format!("--web.listen-address={address}"),
        ];
        let netns = braid.endpoint().netns.clone();
        let daemon = Daemon::start("prometheus", dir.path(), command(netns.as_deref(), &line));
        Self { daemon, netns, address, _dir: dir }
    }

    /// What its HTTP API answers.
    fn get(&self, page: &str) -> Result<Value, String> {
        let ask = format!("GET /api/v1/{page} HTTP/1.0\r\n\r\n");
        let told = within(self.netns.as_deref(), || {
            let mut stream = dial(&self.address)?;
            stream.write_all(ask.as_bytes())?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        });
        let told = told.map_err(|why| why.to_string())?;
        let (_, body) = told.split_once("\r\n\r\n").ok_or("no answer")?;
        let answer: Value = serde_json::from_str(body).map_err(|why| format!("{why}: {body}"))?;
        if answer["status"] == "success" { Ok(answer["data"].clone()) } else { Err(body.to_owned()) }
    }

    /// The samples that an expression gives now.
    fn ask(&self, expression: &str) -> Result<Vec<Value>, String> {
        let escaped: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let data = self.get(&format!("query?query={escaped}"))?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until an expression gives something.
    fn until(&self, place: &str, expression: &str) {
        let mut last = Ok(Vec::new());
        let answered = poll(PATIENCE, || {
            last = self.ask(expression);
            matches!(&last, Ok(samples) if !samples.is_empty()).then_some(())
        });
        assert!(answered.is_some(), "{place}: no data for {expression}: {last:?}\n{}", self.daemon.log());
    }

    /// Every expression of every rule that it has. Of an alert, what is compared: the comparison gives something only when
    /// the alert is raised.
    fn of_rules(&self) -> Vec<Asked> {
        let answer = self.get("rules").expect("rules");
        let mut asked = Vec::new();
        for rule in list(&answer["groups"]).iter().flat_map(|group| list(&group["rules"])) {
            assert_eq!(rule["health"], "ok", "{rule}");
            let (name, expression) = (rule["name"].to_string(), rule["query"].as_str().expect("a query"));
            let end = match rule["type"].as_str() {
                Some("alerting") => [" > ", " == "].iter().filter_map(|sign| expression.rfind(sign)).max(),
                _ => Some(expression.len()),
            };
            let end = end.unwrap_or_else(|| panic!("{name} compares nothing: {expression}"));
            asked.push((format!("rule {name}"), expression.split_at(end).0.to_owned()));
        }
        asked
    }
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// An expression, and where it stands.
type Asked = (String, String);

/// Every expression of every panel, with the variables filled in.
fn of_panels() -> Vec<Asked> {
    let mut asked = Vec::new();
    for file in files("grafana/dashboards", "json") {
        let text = fs::read_to_string(&file).expect("dashboard");
        let dashboard: Value = serde_json::from_str(&text).expect("JSON");
        let title = dashboard["title"].as_str().expect("a title").to_owned();
        let mut queries: Vec<(String, Value)> = Vec::new();
        for panel in list(&dashboard["panels"]) {
            let name = panel["title"].to_string();
            queries.extend(list(&panel["targets"]).into_iter().map(|query| (name.clone(), query)));
        }
        assert!(!queries.is_empty(), "{title} shows nothing");
        // An annotation marks what is not always there; a variable lists values of a label.
        for mark in list(&dashboard["annotations"]["list"]) {
            let (always, _) = mark["expr"].as_str().expect("expr").rsplit_once(" > ").expect("a comparison");
            queries.push((format!("annotation {}", mark["name"]), json!({ "expr": always })));
        }
        for variable in list(&dashboard["templating"]["list"]) {
            let listed = variable["query"]["query"].as_str();
            if let Some((series, _)) =
                listed.and_then(|text| text.strip_prefix("label_values(")?.rsplit_once(", "))
            {
                queries.push((format!("variable {}", variable["name"]), json!({ "expr": series })));
            }
        }
        for (panel, query) in queries {
            let written = query["expr"].as_str().expect("expr").to_owned();
            let expression =
                VARIABLES.iter().fold(written, |text, (variable, is)| text.replace(variable, is));
            assert!(!expression.contains('$'), "an unknown variable: {expression}");
            asked.push((format!("{title}, panel {panel}"), expression));
        }
    }
    asked
}

/// Braid's own word on what it exports, as `promtool` wants it.
fn exposition_is_clean(braid: &Braid) {
    tools();
    let dir = temporary();
    let file = dir.path().join("metrics");
    fs::write(&file, braid.exposition()).expect("metrics");
    let line = words(&["sh", "-c", &format!("promtool check metrics <'{}'", file.display())]);
    let done = run(command(None, &line), LIMIT).expect_ok();
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", ""));
}

/// Loses the first path under commands and gets it back, all of it seen by Prometheus. The target stands still meanwhile, so
/// that there are commands: a path lost between two of them is no failover.
fn cut_and_heal(net: &Net, stage: &Stage, prometheus: &Prometheus) {
    let path = stage.braid().paths().first().expect("a path");
    let seen = |what: &str, expression: &str| prometheus.until(what, expression);
    let labels = format!("{{path=\"{path}\"}}");
    seen("all paths carry", "count(rate(braid_path_commands_total[5s]) > 0) == 2");
    stage.target().stop(true);
    seen("commands are under way", &format!("braid_path_commands_in_flight{labels} > 0"));
    net.cut(0, Cut::Reset);
    seen("the path is down", &format!("braid_path_sessions_down{labels} == 1"));
    stage.target().stop(false);
    seen("no redundancy is left", "braid_sessions_without_redundancy == 1");
    seen("the loss", "sum by (path) (increase(braid_path_losses_total[1m])) > 0");
    seen("an alert that waits for its time", "ALERTS{alertname=\"BraidPathDown\", alertstate=\"pending\"}");
    seen("the failover", "braid_failover_stall_seconds_count > 0");
    net.heal(0);
    seen("the path is back", &format!("braid_path_sessions_down{labels} == 0"));
}

#[test]
fn every_panel_and_rule_has_data() {
    let _place = HEAVY.enter();
    let net = Net::new(2);
    let stage = Stage::new(Kind::Tgt, Site::Behind(&net), Via::Braid("sessions"), REGION);
    let braid = stage.braid();
    let prometheus = Prometheus::before(braid);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stopping = StopOnDrop(&stop);
        let load = scope.spawn(|| work(&stage, &stop));
        cut_and_heal(&net, &stage, &prometheus);
        let rules = prometheus.of_rules();
        for (place, expression) in of_panels().into_iter().chain(rules) {
            prometheus.until(&place, &expression);
        }
        exposition_is_clean(braid);
        drop(stopping);
        load.join().expect("the load's thread").unwrap_or_else(|why| panic!("{why}\n{}", braid.log()));
    });
}
