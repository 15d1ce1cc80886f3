//! `braid drill` as a person runs it: in the lab, in a running Braid, and what both refuse.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "it waits for other processes")]

use braid::lab::initiator::{Initiator, InitiatorOptions};
use braid::lab::target::{RamTarget, TargetOptions};
use braid::lab::workload::{Limit, Progress, Workload, WorkloadOptions};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// A short drill that is easy on the machine; times are not judged.
const SHORT: &str = "name = \"Short & sharp <drill>\"\nduration = \"3s\"\n[lab]\npaths = 2\nrate = \"8MiB\"\n[load]\nregion = \"2MiB\"\n\
                     [[step]]\nat = \"500ms\"\ndo = \"reset\"\npaths = \"link1\"\nfor = \"1s\"\n";

fn braid(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_braid")).args(args).stdin(Stdio::null()).output().unwrap()
}

/// The exit status, and what was said on both streams.
fn said(args: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = braid(args);
    (status.code().unwrap(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Writes a scenario.
    fn scenario(&self, text: &str) -> String {
        let file = self.path("scenario.toml");
        std::fs::write(&file, text).unwrap();
        file
    }

    fn json(&self) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.path("report.json")).unwrap()).unwrap()
    }
}

/// What of a value is not as the schema says; every field must be described.
fn compare(all: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        return compare(all, all.pointer(name.trim_start_matches('#')).unwrap(), value, at, found);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fits = |choice: &Value| {
            let mut none = Vec::new();
            compare(all, choice, value, at, &mut none);
            none.is_empty()
        };
        if !choices.iter().any(fits) {
            found.push(format!("{at} is none of the choices: {value}"));
        }
        return;
    }
    if let Some(words) = schema["enum"].as_array() {
        if !words.contains(value) {
            found.push(format!("{at} is no word that is known: {value}"));
        }
        return;
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let said = &schema["type"];
    if said != kind && !said.as_array().is_some_and(|kinds| kinds.contains(&kind.into())) {
        found.push(format!("{at} is {kind}, not {said}"));
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        compare(all, &schema["items"], item, &format!("{at}[{index}]"), found);
    }
    let Some(fields) = value.as_object() else { return };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !fields.contains_key(name.as_str().unwrap()) {
            found.push(format!("{at}.{name} is missing"));
        }
    }
    for (name, field) in fields {
        let described = &schema["properties"][name];
        if described.is_object() {
            compare(all, described, field, &format!("{at}.{name}"), found);
        } else {
            found.push(format!("{at}.{name} is not described"));
        }
    }
}

/// A report against the schema that the program prints.
fn differences(report: &Value) -> Vec<String> {
    let (code, schema) = said(&["drill", "schema"]);
    assert_eq!(code, 0);
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let mut found = Vec::new();
    compare(&schema, &schema, report, "report", &mut found);
    found
}

#[test]
fn a_drill_in_the_lab_is_played_judged_and_reported() {
    let desk = Desk::new();
    let file = desk.scenario(SHORT);
    let [html, json] = ["report.html", "report.json"].map(|name| desk.path(name));
    let (code, text) = said(&["drill", "run", &file, "--html", &html, "--json", &json]);
    assert_eq!(code, 0, "{text}");
    for part in
        [": PASSED", "link1: reset", "link1: reset healed", "0  at most 0", "what Braid said", "path-lost"]
    {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert!(!text.contains(['█', '▁']), "this is no terminal:\n{text}");
    let report = desk.json();
    assert_eq!(differences(&report), Vec::<String>::new());
    assert_eq!((&report["passed"], &report["ended"]["how"]), (&true.into(), &"finished".into()));
    assert_eq!(report["steps"][0]["paths"][0]["path"], "link1");
    assert!(report["load"]["verified_bytes"].as_u64().unwrap() >= 2 << 20, "{}", report["load"]);
    let lengths = report["series"]["paths"].as_array().unwrap().iter().flat_map(|path| {
        ["read_bytes_per_second", "written_bytes_per_second", "state"]
            .map(|name| path[name].as_array().unwrap().len())
    });
    let times = report["series"]["at_seconds"].as_array().unwrap().len();
    assert!(times > 3 && lengths.into_iter().all(|length| length == times), "{}", report["series"]);
    let page = std::fs::read_to_string(html).unwrap();
    assert!(page.contains("Short &amp; sharp &lt;drill&gt;") && page.contains("<svg"), "{page}");
    for foreign in ["<script", "http:", "https:", "url(", "src=", "<link", "@import", "NaN", "inf"] {
        assert!(!page.contains(foreign), "{foreign} has no place in a report");
    }
}

#[test]
fn an_objective_that_is_missed_ends_with_1() {
    let desk = Desk::new();
    // As much as the links carry while both of them do, which they do not.
    let file = desk.scenario(&format!("{SHORT}[objectives]\nthroughput_at_least = \"32MiB\"\n"));
    let (code, text) = said(&["drill", "run", &file]);
    assert!(
        code == 1 && text.contains("NOT MET  throughput at least") && text.contains("NOT PASSED"),
        "{text}"
    );
}

#[test]
fn a_wrong_scenario_ends_with_64_before_anything_is_done() {
    let desk = Desk::new();
    let file = desk.scenario(&SHORT.replace("reset", "rest"));
    for order in ["check", "run"] {
        let (code, text) = said(&["drill", order, &file]);
        assert!(code == 64 && text.starts_with(&format!("{file}:10:6: step.do: \"rest\"")), "{text}");
        assert!(text.trim_end().ends_with("did you mean \"reset\"?"), "{text}");
    }
    let (code, text) = said(&["drill", "check", &desk.path("none.toml")]);
    assert!(code == 64 && text.contains("cannot read the file"), "{text}");
    assert_eq!(said(&["drill"]).0, 64);
    let file = desk.scenario(SHORT);
    assert_eq!(said(&["drill", "run", &file, "--last-path"]).0, 64);
    let (code, text) = said(&["drill", "run", &file, "--html", &desk.path("no/such/folder.html")]);
    assert!(code == 1 && text.contains("cannot write"), "{text}");
}

/// A drill at work.
struct Drill {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Drill {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_braid"))
            .args([&["drill", "run"], args].concat())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// Waits until it says something.
    fn until(&mut self, part: &str) {
        assert!(self.out.by_ref().lines().any(|line| line.unwrap().contains(part)), "{part}");
    }

    fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

#[test]
fn a_drill_that_is_interrupted_says_so() {
    let desk = Desk::new();
    let file = desk.scenario(&SHORT.replace("\"3s\"", "\"1h\"").replace("\"1s\"", "\"30min\""));
    let mut drill = Drill::start(&[&file, "--json", &desk.path("report.json")]);
    drill.until("link1: reset");
    drill.signal("INT");
    let (code, rest) = drill.end();
    assert!(code == Some(1) && rest.contains("NOT PASSED") && rest.contains("interrupted"), "{rest}");
    let report = desk.json();
    assert_eq!((&report["passed"], &report["ended"]["how"]), (&false.into(), &"interrupted".into()));
    assert_eq!((&report["load"]["errors"], differences(&report)), (&0.into(), Vec::new()));
}

#[test]
fn a_drill_that_nobody_reads_is_played_to_its_end() {
    let desk = Desk::new();
    let file = desk.scenario(SHORT);
    let mut drill = Drill::start(&[&file, "--json", &desk.path("report.json")]);
    drill.until("drill>: in the lab");
    let Drill { mut child, out } = drill;
    drop(out);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let report = desk.json();
    assert_eq!((&report["passed"], report["steps"][0]["paths"].as_array().unwrap().len()), (&true.into(), 1));
}

/// A Braid in a process of its own, with two paths to a disk in this one, and an initiator at work.
struct Live {
    desk: Desk,
    braid: Child,
    progress: Arc<Progress>,
    load: Option<JoinHandle<bool>>,
    _target: (tokio::runtime::Runtime, RamTarget),
    address: String,
}

impl Live {
    fn start() -> Self {
        Self::with("")
    }

    /// With more paths, on which there is nobody.
    fn with(dead: &str) -> Self {
        let desk = Desk::new();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut options = TargetOptions::loopback(2);
        // The second one may be overwritten.
        let disk = options.target.disks[0].clone();
        options.target.disks.push(braid::lab::target::Disk { serial: "SCRATCH".to_owned(), ..disk });
        let name = options.target.name.clone();
        let target = runtime.block_on(RamTarget::start(options)).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let config = desk.path("braid.toml");
        let [left, right] = target.addresses() else { panic!("two portals") };
        let text = format!(
            "listen = \"{address}\"\nadmin = \"off\"\ncontrol = \"{}\"\n[[target]]\nname = \"{name}\"\nmode = \"sessions\"\n\
             paths = [{{ portal = \"{left}\", name = \"left\" }}, {{ portal = \"{right}\", name = \"right\" }}{dead}]\n\
             reconnect = {{ first = \"50ms\", longest = \"100ms\" }}\nfence_time = \"500ms\"\n",
            desk.path("control.sock")
        );
        std::fs::write(&config, text).unwrap();
        let mut braid = Command::new(env!("CARGO_BIN_EXE_braid"))
            .args(["run", "--config", &config])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(braid.stderr.take().unwrap());
        assert!(log.by_ref().lines().any(|line| line.unwrap().contains("listening")));
        // A full pipe would hold it up.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let mut initiator =
            runtime.block_on(Initiator::connect(&InitiatorOptions::new(&address, &name))).unwrap();
        let options =
            WorkloadOptions { region: Some((0, 4096)), queue_depth: 4, ..WorkloadOptions::default() };
        let mut workload = Workload::new(options, &initiator).unwrap();
        let progress = workload.progress();
        let handle = runtime.handle().clone();
        let load = std::thread::spawn(move || {
            handle.block_on(async {
                workload.prepare(&mut initiator).await.is_clean()
                    && workload.run(&mut initiator, Limit::Time(Duration::from_secs(600))).await.is_clean()
            })
        });
        let live = Self { desk, braid, progress, load: Some(load), _target: (runtime, target), address };
        live.until("both paths work", |status| {
            let paths = &status["targets"][0]["sessions"][0]["standing"]["paths"];
            paths.as_array().is_some_and(|paths| paths.iter().take(2).all(|path| path["state"] == "up"))
        });
        live
    }

    fn socket(&self) -> String {
        self.desk.path("control.sock")
    }

    fn status(&self) -> Value {
        let (code, text) = said(&["status", "--json", "--socket", &self.socket()]);
        assert_eq!(code, 0, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The paths that are taken out.
    fn out(&self) -> Vec<String> {
        let status = self.status();
        let paths = status["targets"][0]["paths"].as_array().unwrap().iter();
        paths
            .filter(|path| path["out"] == true)
            .map(|path| path["name"].as_str().unwrap().to_owned())
            .collect()
    }

    fn until(&self, what: &str, good: impl Fn(&Value) -> bool) {
        for _ in 0..2000 {
            if good(&self.status()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("in vain: {what}\n{}", self.status());
    }

    /// Runs a scenario of a second in which a path is taken out, with more of it and more flags.
    fn drill(&self, step: &str, more: &str, flags: &[&str]) -> (i32, String) {
        let file = self.desk.scenario(&live_scenario("3s", step, more));
        let json = self.desk.path("report.json");
        said(&[&["drill", "run", &file, "--socket", &self.socket(), "--json", &json], flags].concat())
    }

    fn order(&self, order: &str, path: &str) {
        assert_eq!(said(&["path", order, path, "--socket", &self.socket()]).0, 0);
    }

    /// Ends the load; whether all was well with it.
    fn finish(mut self) -> bool {
        self.progress.stop();
        self.load.take().unwrap().join().unwrap()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.braid.kill().ok();
        self.braid.wait().ok();
    }
}

fn live_scenario(duration: &str, step: &str, more: &str) -> String {
    format!(
        "where = \"live\"\nduration = \"{duration}\"\n[[step]]\nat = \"200ms\"\nfor = \"800ms\"\n{step}\n{more}"
    )
}

#[test]
fn a_running_braid_is_drilled_under_the_real_load_and_left_as_it_was() {
    let live = Live::start();
    let (code, text) = live.drill("do = \"fail\"\npaths = \"left\"", "", &[]);
    assert!(code == 0 && text.contains(": PASSED") && text.contains("as Braid counts it"), "{text}");
    assert_eq!(live.out(), Vec::<String>::new());
    let report = live.desk.json();
    assert_eq!(differences(&report), Vec::<String>::new());
    assert_eq!(
        (&report["load"]["whose"], &report["load"]["wrong_blocks"]),
        (&"watched".into(), &Value::Null)
    );
    assert!(report["load"]["commands"].as_u64().unwrap() > 0);
    // Braid would have given it back by itself.
    let events = said(&["events", "--socket", &live.socket()]).1;
    assert!(events.contains(": fail for 10s 800ms\n") && events.contains(": restore\n"), "{events}");
    let (code, text) = live.drill("do = \"drain\"\npaths = \"right\"", "", &[]);
    assert!(code == 0 && live.out().is_empty(), "{text}");
    let load =
        format!("[load]\nportal = \"{}\"\nlun = 1\noverwrite = true\nregion = \"1MiB\"\n", live.address);
    let (code, text) = live.drill("do = \"fail\"\npaths = \"right\"", &load, &[]);
    assert!(code == 0 && text.contains("met      wrong blocks"), "{text}");
    assert!(live.finish(), "the load on the other unit met nothing");
}

#[test]
fn the_last_path_is_taken_out_only_if_told_twice() {
    let live = Live::start();
    live.order("drain", "right");
    live.until("it is out", |status| {
        status["targets"][0]["sessions"][0]["standing"]["paths"][1]["state"] == "drained"
    });
    let (code, text) = live.drill("do = \"fail\"\npaths = \"left\"", "", &[]);
    assert!(
        code == 1 && text.contains("scenario.toml:6: fail left: it is the last path that works"),
        "{text}"
    );
    assert_eq!(live.out(), ["right"], "what others ordered stays");
    let (code, text) = live.drill("do = \"fail\"\npaths = \"right\"", "", &[]);
    assert!(code == 64 && text.contains("scenario.toml:6: step.paths: right is taken out already"), "{text}");
    let (code, text) = live.drill("do = \"fail\"\npaths = \"middle\"", "", &[]);
    assert!(code == 64 && text.contains("has no path \"middle\"; it has: left, right"), "{text}");
    live.order("restore", "right");
    live.until("it is back", |status| {
        status["targets"][0]["sessions"][0]["standing"]["paths"][1]["state"] == "up"
    });
    let all = "do = \"fail\"\npaths = \"all\"";
    let key = "[live]\nlast_path = true\n";
    let (code, text) = live.drill(all, "", &["--last-path"]);
    assert!(code == 64 && text.contains("takes out the last path of every session"), "{text}");
    let (code, text) = live.drill(all, key, &[]);
    assert!(code == 64 && text.contains("run it with --last-path"), "{text}");
    let (code, text) = live.drill("do = \"fail\"\npaths = \"left\"", "", &["--last-path"]);
    assert!(code == 64 && text.contains("does not say last_path = true"), "{text}");
    assert_eq!(live.out(), Vec::<String>::new(), "nothing was done");
    let (code, text) = live.drill(all, key, &["--last-path"]);
    assert!(code == 0 && live.out().is_empty(), "{text}");
    assert!(live.finish(), "commands waited, and none failed");
}

#[test]
fn a_path_that_is_down_already_is_not_drilled() {
    let live = Live::with(", { portal = \"127.0.77.7:9\", name = \"dead\" }");
    let (code, text) = live.drill("do = \"fail\"\npaths = \"dead\"", "", &[]);
    // It is down, or tried once more.
    let said = text.contains("path dead is ") && text.contains(" already: a drill on it would prove nothing");
    assert!(code == 69 && said, "{text}");
    assert_eq!(live.out(), Vec::<String>::new());
    // It is in nobody's way.
    let (code, text) = live.drill("do = \"fail\"\npaths = \"left\"", "", &[]);
    assert!(code == 0 && text.contains(": PASSED"), "{text}");
    assert!(live.finish());
}

#[test]
fn a_drill_that_is_told_to_end_gives_back_what_it_took() {
    let live = Live::start();
    let scenario = live_scenario("1h", "do = \"fail\"\npaths = \"left\"", "").replace("800ms", "30min");
    let file = live.desk.scenario(&scenario);
    for signal in ["INT", "TERM", "HUP"] {
        let mut drill = Drill::start(&[&file, "--socket", &live.socket()]);
        drill.until("left: fail");
        assert_eq!(live.out(), ["left"]);
        drill.signal(signal);
        let (code, rest) = drill.end();
        assert!(code == Some(1) && rest.contains("interrupted"), "{rest}");
        assert_eq!(live.out(), Vec::<String>::new());
        live.until("it is back", |status| {
            status["targets"][0]["sessions"][0]["standing"]["paths"][0]["state"] == "up"
        });
    }
    assert!(live.finish());
}

#[test]
fn a_braid_that_dies_is_told_in_the_report() {
    let mut live = Live::start();
    let scenario = live_scenario("1h", "do = \"fail\"\npaths = \"left\"", "").replace("800ms", "30min");
    let file = live.desk.scenario(&scenario);
    let mut drill =
        Drill::start(&[&file, "--socket", &live.socket(), "--json", &live.desk.path("report.json")]);
    drill.until("left: fail");
    live.braid.kill().unwrap();
    live.braid.wait().unwrap();
    let (code, rest) = drill.end();
    assert!(code == Some(1) && rest.contains("NOT PASSED"), "{rest}");
    let report = live.desk.json();
    assert_eq!((&report["ended"]["how"], differences(&report)), (&"failed".into(), Vec::new()));
    let why = report["ended"]["why"].as_str().unwrap();
    assert!(
        why.contains("control.sock")
            && why.ends_with("gives left back by itself, 30m 10s after it was taken out"),
        "{why}"
    );
    assert!(!live.finish(), "the load has lost its session");
}

fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/drills");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|end| end == "toml")).collect();
    files.sort();
    files
}

/// A fifth of all times, a load that is easy on the machine, and no objectives but the usual ones: nothing may fail or be wrong.
fn small(text: &str) -> String {
    let mut scenario: toml::Table = text.parse().unwrap();
    let shorter = |value: &mut toml::Value| {
        let time = humantime::parse_duration(value.as_str().unwrap()).unwrap() / 5;
        *value = humantime::format_duration(time).to_string().into();
    };
    shorter(scenario.get_mut("duration").unwrap());
    for step in scenario["step"].as_array_mut().unwrap() {
        let step = step.as_table_mut().unwrap();
        for key in ["at", "for"] {
            step.get_mut(key).into_iter().for_each(shorter);
        }
    }
    scenario.remove("objectives");
    scenario.insert("load".to_owned(), toml::toml! { region = "2MiB" }.into());
    let lab = scenario.entry("lab").or_insert_with(|| toml::Table::new().into());
    lab.as_table_mut().unwrap().insert("rate".to_owned(), "4MiB".into());
    toml::to_string(&scenario).unwrap()
}

#[test]
fn every_example_is_right_and_can_be_played() {
    let mut drills = Vec::new();
    let desk = Desk::new();
    for file in examples() {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let (code, text) = said(&["drill", "check", file.to_str().unwrap()]);
        assert_eq!(code, 0, "{text}");
        let text = std::fs::read_to_string(&file).unwrap();
        if text.contains("where = \"live\"") {
            let socket = desk.path("none.sock");
            let (code, text) = said(&["drill", "run", file.to_str().unwrap(), "--socket", &socket]);
            assert!(code == 69 && text.contains(&socket), "{text}");
            continue;
        }
        if text.contains("where = \"links\"") {
            // It takes privileges and programs that are not everywhere; the interop tests have both.
            continue;
        }
        let short = desk.path(&name);
        std::fs::write(&short, small(&text)).unwrap();
        drills.push((name, Drill::start(&[&short])));
    }
    assert!(drills.len() >= 8, "there are more");
    let mut failed = String::new();
    for (name, drill) in drills {
        let (code, text) = drill.end();
        if code != Some(0) {
            write!(failed, "{name}\n{text}\n").unwrap();
        }
    }
    assert!(failed.is_empty(), "{failed}");
}
