//! What lies in `dashboards/` fits the code: every series that is asked for exists, every alert is tested and says what to do,
//! every panel says what it shows. Whether Prometheus gets answers, `tests/interop` tries with a real one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use braid::metrics::Metrics;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Names and texts of the files in a folder of `dashboards/`.
fn files(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards").join(folder);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.is_file());
    files.sort();
    let read = |file: &std::path::PathBuf| {
        (file.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(file).unwrap())
    };
    files.iter().map(read).collect()
}

fn dashboards() -> Vec<(String, Value)> {
    let mut files = files("grafana/dashboards");
    files.retain(|(name, _)| name.ends_with(".json"));
    assert!(files.len() >= 3);
    files.into_iter().map(|(name, text)| (name, serde_json::from_str(&text).unwrap())).collect()
}

/// Names of the metrics that Braid exports.
fn exported() -> BTreeSet<String> {
    let metrics = Metrics::new();
    metrics.declare("iqn.a", ["left", "right"]);
    let text = metrics.render();
    let helped = text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next());
    helped.map(str::to_owned).collect()
}

#[test]
fn every_series_that_is_asked_for_exists() {
    let exported = exported();
    let recorded: BTreeSet<String> = files("prometheus/rules")
        .iter()
        .flat_map(|(_, text)| text.lines().filter_map(|line| line.trim().strip_prefix("- record: ")))
        .map(str::to_owned)
        .collect();
    assert!(!recorded.is_empty());
    let folders = ["grafana/dashboards", "prometheus/rules", "prometheus/tests", "prometheus"];
    let mut asked = 0;
    for (file, text) in folders.into_iter().flat_map(files) {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        for name in text.split(|c| !is_name(c)).map(|name| name.trim_end_matches(':')) {
            let plain = name.starts_with("braid_") || name.starts_with("process_");
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            if plain {
                asked += 1;
                let known = exported.contains(name) || family.is_some_and(|family| exported.contains(family));
                assert!(known, "{file} asks for {name}");
            } else if name.contains(":braid_") {
                assert!(recorded.contains(name), "{file} asks for {name}");
            }
        }
    }
    assert!(asked > 100, "{asked}");
}

#[test]
fn every_alert_is_tested_and_says_what_to_do() {
    let tests: String = files("prometheus/tests").into_iter().map(|(_, text)| text).collect();
    let rules = files("prometheus/rules").into_iter().find(|(name, _)| name == "alerts.yml").unwrap().1;
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 10);
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        for part in ["expr: ", "severity: ", "summary: ", "description: "] {
            assert!(alert.contains(part), "{name} has no {part}");
        }
        // Once silent, once raised.
        assert!(tests.matches(&format!("alertname: {name}")).count() >= 2, "{name} is not tested");
    }
    let recorded = files("prometheus/rules").into_iter().find(|(name, _)| name == "recording.yml").unwrap().1;
    for record in recorded.lines().filter_map(|line| line.trim().strip_prefix("- record: ")) {
        assert!(
            tests.contains(&format!("{record}{{")) || tests.contains(&format!("({record},")),
            "{record} is not tested"
        );
    }
}

#[test]
fn every_panel_says_what_it_shows_and_stands_by_itself() {
    let mut uids = BTreeSet::new();
    for (file, dashboard) in dashboards() {
        assert!(uids.insert(dashboard["uid"].as_str().unwrap().to_owned()), "{file}");
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        assert!(variables.iter().any(|variable| variable["type"] == "datasource"), "{file}");
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{file}: {title}: its id is taken");
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
            assert!(x + w <= 24, "{file}: {title}: beyond the edge");
            for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(taken.insert(place), "{file}: {title}: lies over another panel");
            }
            if panel["type"] == "row" {
                continue;
            }
            assert!(panel["description"].as_str().unwrap().ends_with('.'), "{file}: {title}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{file}: {title}");
            assert!(!panel["targets"].as_array().unwrap().is_empty(), "{file}: {title}");
        }
    }
}
