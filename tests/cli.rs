//! The program as a person or a service manager runs it: exit codes, what goes to which stream, and the demo.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output, Stdio};

fn braid(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_braid")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn code(args: &[&str]) -> i32 {
    let output = braid(args);
    let code = output.status.code();
    code.unwrap_or_else(|| panic!("{args:?} was killed\n{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn help_and_version_are_no_failure() {
    for args in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let output = braid(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn wrong_usage_and_wrong_configuration_end_with_64() {
    assert_eq!(code(&[]), 64);
    assert_eq!(code(&["rum"]), 64);
    assert_eq!(code(&["run"]), 64);
    assert_eq!(code(&["check", "--config", "/nonexistent/braid.toml"]), 64);
    assert_eq!(code(&["run", "--target", "disk", "--path", "10.0.0.1"]), 64);
    let output = braid(&["check", "--target", "disk", "--path", "nowhere", "--admin", "x"]);
    assert_eq!(output.status.code(), Some(64));
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert_eq!(complaints.lines().count(), 3, "all at once:\n{complaints}");
    assert!(output.stdout.is_empty());
}

/// Each kind of mistake: what is said names the place, and what to do.
#[test]
fn mistakes_are_told_with_their_place_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let file = folder.path().join(name).display().to_string();
        std::fs::write(&file, text).unwrap();
        file
    };
    let name = "name = \"iqn.2003-01.org.example:disk\"\npaths = [\"10.0.1.1\"]";
    let key = file("key.toml", &format!("[[target]]\n{name}\npolcy = \"failover\"\n"));
    let kind = file("kind.toml", &format!("[[target]]\n{name}\nwindow = \"many\"\n"));
    let port = file(
        "port.toml",
        "[[target]]\nname = \"iqn.2003-01.org.example:disk\"\npaths = [\"10.0.1.1:99999\"]\n",
    );
    let spelt = file("spelt.toml", "[[target]]\nname = \"example:disk\"\npaths = [\"10.0.1.1\"]\n");
    let drill =
        file("drill.toml", "duration = \"20s\"\n[[step]]\nat = \"3s\"\ndo = \"silnt\"\npaths = \"link1\"\n");
    let none = folder.path().join("none.toml").display().to_string();
    for (args, place, remedy) in [
        (&["check", "--config", &key][..], format!("{key}:4:1: target.polcy"), "did you mean policy?"),
        (&["check", "--config", &kind], format!("{kind}:4:10: target.window"), "a whole number from 1"),
        (&["run", "--config", &port], format!("{port}:3:10: target.paths"), "write one from 1 to 65535"),
        (&["run", "--config", &spelt], format!("{spelt}:2:8: target.name"), "begins with iqn."),
        (&["intercept", "--config", &none], format!("{none}:1:1"), "check the path"),
        (&["drill", "check", &drill], format!("{drill}:4:6: step.do"), "did you mean \"silent\"?"),
        (&["run", "--targt", "x"], "--targt".to_owned(), "'--target'"),
        (&["path", "drian", "x"], "drian".to_owned(), "'drain'"),
    ] {
        let output = braid(args);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{args:?}: {complaint}");
        assert!(complaint.contains(&place) && complaint.contains(remedy), "{args:?}: {complaint}");
    }
}

#[test]
fn a_good_configuration_is_described() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/full.toml");
    let output = braid(&["check", "--config", file]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stdout).unwrap().contains("path spare: 10.0.3.1:3260 through eth3"));
}

#[test]
fn an_address_that_is_taken_is_told_and_ends_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let base = ["run", "--target", "iqn.2026-01.org.braid:test", "--path", "127.0.0.1:2", "--control", "off"];
    for more in [["--listen", &address, "--admin", "off"], ["--listen", "127.0.0.1:1", "--admin", &address]] {
        let output = braid(&[&base[..], &more[..]].concat());
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{complaint}");
        assert!(complaint.contains(&address) && complaint.contains("choose another"), "{complaint}");
    }
}

#[test]
fn a_path_to_oneself_is_told_and_ends_with_1() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (listen, path) = (format!("0.0.0.0:{}", free.port()), free.to_string());
    let base = ["run", "--target", "iqn.2026-01.org.braid:test", "--admin", "off", "--control", "off"];
    let output = braid(&[&base[..], &["--listen", &listen, "--path", &path]].concat());
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains(&format!("{path} is where Braid itself listens")), "{complaint}");
}

#[test]
fn a_configuration_that_intercepts_nothing_has_no_rules() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/minimal.toml");
    let output = braid(&["intercept", "--config", file]);
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("nothing to intercept"), "{complaint}");
}

#[test]
fn flags_alone_intercept_the_portals_that_are_asked() {
    let listen = "127.0.0.1:3261,intercept=redirect";
    let what =
        ["--listen", listen, "--target", "*", "--discover", "--path", "10.0.1.1", "--path", "10.0.2.1"];
    let output = braid(&[&["intercept"], &what[..]].concat());
    let rules = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{rules}");
    let rule = "ip daddr . tcp dport { 10.0.1.1 . 3260, 10.0.2.1 . 3260 } redirect to :3261";
    assert!(rules.contains(rule), "{rules}");
    assert_eq!(code(&[&["check"], &what[..]].concat()), 0);
}

#[test]
fn a_target_that_is_not_there_ends_with_69() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    assert_eq!(code(&["discover", &closed]), 69);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("braid.toml");
    let table = format!("[[target]]\nname = \"*\"\ndiscover = true\npaths = [\"{closed}\"]\n");
    std::fs::write(&file, table).unwrap();
    let output = braid(&["discover", "--config", &file.display().to_string()]);
    assert_eq!(output.status.code(), Some(69));
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(complaint.contains(&format!("portal {closed}: cannot connect")), "{complaint}");
    assert_eq!(code(&["discover"]), 64);
    assert_eq!(code(&["discover", &closed, "--chap-name", "braid"]), 64);
    for args in [&["discover", &closed][..], &["probe", &closed, "iqn.2026-01.org.braid:test"]] {
        let output = braid(args);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(69), "{complaint}");
        assert!(complaint.contains(&closed) && complaint.contains("does the target run?"), "{complaint}");
    }
}

/// Starts `run` on free ports, reads its first log lines, and ends it with SIGTERM.
#[test]
fn run_logs_json_to_standard_error_and_ends_well_when_asked_to() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_braid"))
        .args([
            "run",
            "--target",
            "iqn.2026-01.org.braid:test",
            "--path",
            "127.0.0.1:1",
            "--admin",
            "off",
            "--control",
            "off",
        ])
        .args(["--listen", &free, "--log-format", "json"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    for line in lines.by_ref() {
        let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        if line["message"] == "listening" {
            assert_eq!(line["address"], free);
            break;
        }
    }
    let asked = Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap();
    assert!(asked.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// A Braid that is controlled, and killed when this is dropped.
struct Running {
    child: std::process::Child,
    /// It is not to find its standard error closed.
    log: BufReader<std::process::ChildStderr>,
}

impl Running {
    /// Starts it, and waits until it listens.
    fn start(socket: &str) -> Self {
        Self::start_with(
            socket,
            &["--target", "iqn.2026-01.org.braid:test", "--path", "127.0.0.1:1,name=left"],
        )
    }

    fn start_with(socket: &str, what: &[&str]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut child = Command::new(env!("CARGO_BIN_EXE_braid"))
            .args([&["run", "--admin", "off", "--listen", &free, "--control", socket], what].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        assert!(log.by_ref().lines().any(|line| line.unwrap().contains("listening")));
        Self { child, log }
    }

    /// Waits for a line of the log.
    fn logged(&mut self, part: &str) {
        assert!(self.log.by_ref().lines().any(|line| line.unwrap().contains(part)), "{part}");
    }

    fn hang_up(&self) {
        let asked =
            Command::new("sh").args(["-c", &format!("kill -HUP {}", self.child.id())]).status().unwrap();
        assert!(asked.success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_service_manager_is_told_that_braid_serves_lives_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let manager = folder.path().join("notify");
    let told = UnixDatagram::bind(&manager).unwrap();
    let next = || {
        let mut text = [0; 128];
        let length = told.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    };
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_braid"))
        .args(["run", "--target", "iqn.2026-01.org.braid:test", "--path", "127.0.0.1:1", "--admin", "off"])
        .args(["--control", "off", "--listen", &free])
        .env("NOTIFY_SOCKET", &manager)
        .env("WATCHDOG_USEC", "20000")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(next().trim(), "READY=1");
    std::net::TcpStream::connect(&free).unwrap();
    for _ in 0..3 {
        assert_eq!(next().trim(), "WATCHDOG=1");
    }
    let asked = Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap();
    assert!(asked.success());
    let last = std::iter::repeat_with(next).find(|told| told.trim() != "WATCHDOG=1").unwrap();
    assert_eq!(last.trim(), "STOPPING=1");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_running_braid_is_asked_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("there/control.sock");
    let socket = socket.to_str().unwrap();
    assert_eq!(code(&["status", "--socket", socket]), 69);
    let running = Running::start(socket);
    let mode = std::fs::metadata(socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o660, "for owner and group");
    let said = |args: &[&str]| {
        let output = braid(&[args, &["--socket", socket]].concat());
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let (code, told) = said(&["status"]);
    assert!(
        code == Some(0) && told.contains("path left 127.0.0.1:1\n") && told.contains("no session"),
        "{told}"
    );
    let (code, told) = said(&["path", "drain", "left"]);
    assert!(code == Some(0) && told.contains("no session runs"), "{told}");
    assert!(said(&["status"]).1.contains("path left 127.0.0.1:1  taken out"));
    let status: serde_json::Value = serde_json::from_str(&said(&["status", "--json"]).1).unwrap();
    assert_eq!(status["targets"][0]["paths"][0]["out"], true);
    let (code, told) = said(&["explain"]);
    let expected = "the next session: several sessions (there is one path that Braid can log in over by itself)\n  path left 127.0.0.1:1, taken out\n  no session";
    assert!(code == Some(0) && told.contains(expected), "{told}");
    let told: serde_json::Value = serde_json::from_str(&said(&["explain", "--json"]).1).unwrap();
    assert_eq!((&told["mode"], &told["paths"][0]["out"]), (&"auto".into(), &true.into()));
    assert_eq!(said(&["explain", "iqn.other"]).0, Some(1));
    assert_eq!(said(&["path", "restore", "left"]).0, Some(0));
    assert_eq!(said(&["path", "weight", "left", "3"]).0, Some(0));
    assert_eq!(said(&["give-up"]).0, Some(0));
    let (code, told) = said(&["path", "fail", "right"]);
    assert!(code == Some(1) && told.contains("it has: left"), "{told}");
    let known = "there are: iqn.2026-01.org.braid:test";
    let capture = folder.path().join("none.pcapng").display().to_string();
    for args in [
        &["path", "drain", "left", "--target", "iqn.2026-01.org.braid:tset"][..],
        &["explain", "iqn.2026-01.org.braid:tset"],
        &["give-up", "--target", "iqn.2026-01.org.braid:tset"],
        &["events", "--target", "iqn.2026-01.org.braid:tset"],
        &["capture", "--target", "iqn.2026-01.org.braid:tset", &capture],
    ] {
        let (code, told) = said(args);
        assert!(code == Some(1) && told.contains(known), "{args:?}: {told}");
    }
    // Somebody who may not use the socket.
    std::fs::set_permissions(socket, PermissionsExt::from_mode(0o000)).unwrap();
    let told = Command::new("setpriv")
        .args(["--bounding-set=-all", "--inh-caps=-all", env!("CARGO_BIN_EXE_braid")])
        .args(["status", "--socket", socket])
        .output()
        .unwrap();
    std::fs::set_permissions(socket, PermissionsExt::from_mode(0o660)).unwrap();
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(told.contains(socket) && told.contains("you may not use this socket"), "{told}");
    // Another one does not take its socket; one that died leaves it to the next.
    let other = ["run", "--target", "iqn.2026-01.org.braid:test", "--path", "127.0.0.1:1", "--admin", "off"];
    let output = braid(&[&other[..], &["--listen", "127.0.0.1:2", "--control", socket]].concat());
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && complaint.contains("another Braid listens there"),
        "{complaint}"
    );
    drop(running);
    let _next = Running::start(socket);
    assert_eq!(said(&["status"]).0, Some(0));
}

#[test]
fn control_over_tcp_needs_a_token_that_is_good_enough() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    for (name, token) in
        [("noc", "token-of-the-noc"), ("ops", "token-of-the-operators"), ("wrong", "made-up-token")]
    {
        std::fs::write(file(name), format!("{token}\n")).unwrap();
    }
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let tokens = format!(
        "{{ name = \"noc\", secret_file = \"{}\", level = \"read\" }}, \
         {{ name = \"ops\", secret_file = \"{}\", level = \"control\" }}",
        file("noc"),
        file("ops")
    );
    let text = format!(
        "remote_control = {{ listen = \"{free}\", tokens = [{tokens}] }}\n\
         [[target]]\nname = \"iqn.2026-01.org.braid:test\"\npaths = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n"
    );
    std::fs::write(file("braid.toml"), text).unwrap();
    let _running = Running::start_with("off", &["--config", &file("braid.toml")]);
    let said = |token: &str, args: &[&str]| {
        let output = braid(&[args, &["--remote", &free, "--token-file", &file(token)]].concat());
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    for (token, args, code, words) in [
        ("noc", &["status"][..], 0, "path 127.0.0.1:1\n"),
        ("noc", &["path", "drain", "127.0.0.1:1"], 1, "this token may ask, and give no orders"),
        ("ops", &["path", "drain", "127.0.0.1:1"], 0, "no session runs"),
        ("wrong", &["status"], 1, "a token is needed"),
    ] {
        let (ended, told) = said(token, args);
        assert!(ended == Some(code) && told.contains(words), "{token} {args:?}: {told}");
        assert!(!told.contains("token-of") && !told.contains("made-up"), "{told}");
    }
    let mut plain = std::net::TcpStream::connect(&free).unwrap();
    plain.write_all(b"GET /v1/status HTTP/1.1\r\nHost: braid\r\n\r\n").unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("www-authenticate: Bearer"), "{answer}");
}

#[test]
fn a_running_braid_reads_its_configuration_again() {
    let folder = tempfile::tempdir().unwrap();
    let [socket, file] =
        ["control.sock", "braid.toml"].map(|name| folder.path().join(name).display().to_string());
    let write = |more: &str| {
        let table =
            "[[target]]\nname = \"iqn.2026-01.org.braid:test\"\npaths = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n";
        std::fs::write(&file, format!("log_format = \"json\"\n{table}{more}\n")).unwrap();
    };
    write("");
    let mut running = Running::start_with(&socket, &["--config", &file]);
    let said = |args: &[&str]| {
        let output = braid(&[&["reload"], args, &["--socket", &socket]].concat());
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    assert_eq!(said(&[]), (Some(0), "nothing is different\n".to_owned()));
    write("policy = \"failover\"");
    let (code, told) = said(&["--check"]);
    let row = "iqn.2026-01.org.braid:test policy  service-time  failover  at once\n";
    assert!(code == Some(0) && told.contains(row) && told.contains("this was a check"), "{told}");
    let (code, told) = said(&["--json"]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(
        (code, &told["applied"], &told["changes"][0]["effect"]),
        (Some(0), &true.into(), &"now".into())
    );
    assert_eq!(said(&[]).1, "nothing is different\n");
    write("policy = \"weighted\"\n[limits]\nmax_sessions = 1");
    running.hang_up();
    running.logged("\"new\":\"weighted\"");
    running.logged("configuration read again");
    assert_eq!(said(&[]).1, "nothing is different\n");
    write("policy = \"round-robbin\"");
    let (code, told) = said(&[]);
    assert!(code == Some(64) && told.contains(&format!("{file}:5:10: target.policy:")), "{told}");
    running.hang_up();
    running.logged("did you mean");
    write("policy = \"weighted\"");
    let text = std::fs::read_to_string(&file).unwrap().replace("json", "human");
    std::fs::write(&file, text).unwrap();
    let (code, told) = said(&[]);
    assert!(code == Some(1) && told.contains("NOT WHILE BRAID RUNS"), "{told}");
    assert!(
        told.contains(&format!("{file}:1:14: log_format: human cannot take the place of json")),
        "{told}"
    );
    drop(running);
    assert_eq!(said(&[]).0, Some(69));
    let flags_only = Running::start(&socket);
    let (code, told) = said(&[]);
    assert!(code == Some(64) && told.contains("started without a file"), "{told}");
    drop(flags_only);
}

#[test]
fn top_shows_one_table_or_many_until_it_is_told_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock").display().to_string();
    let _running = Running::start(&socket);
    let output = braid(&["top", "--once", "--socket", &socket]);
    let text = String::from_utf8(output.stdout).unwrap();
    let row = "  left        0 B        0 B         0          -          0  -\n";
    assert!(output.status.code() == Some(0) && text.ends_with(row), "{text}");
    assert_eq!(code(&["top", "--socket", &socket]), 64, "that is no terminal");
    // What a terminal shows, and takes.
    let command = format!("{} top --socket {socket}", env!("CARGO_BIN_EXE_braid"));
    let mut terminal = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut shown = Vec::new();
    let mut out = terminal.stdout.take().unwrap();
    while !shown.ends_with(b"q ends") {
        let mut byte = [0];
        out.read_exact(&mut byte).unwrap();
        shown.extend(byte);
    }
    terminal.stdin.take().unwrap().write_all(b"q").unwrap();
    out.read_to_end(&mut shown).unwrap();
    assert_eq!(terminal.wait().unwrap().code(), Some(0));
    let shown = String::from_utf8_lossy(&shown);
    assert!(
        shown.contains("STATE")
            && shown.contains("\u{1b}[?1049h")
            && shown.trim_end().ends_with("\u{1b}[?25h"),
        "{shown:?}"
    );
}

#[test]
fn events_are_shown_and_followed() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock").display().to_string();
    let _running = Running::start(&socket);
    let order = |weight: &str| assert_eq!(code(&["path", "weight", "left", weight, "--socket", &socket]), 0);
    order("3");
    let output = braid(&["events", "--socket", &socket]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with("  ordered            left  iqn.2026-01.org.braid:test: weight 3\n"), "{text}");
    let mut follower = Command::new(env!("CARGO_BIN_EXE_braid"))
        .args(["events", "--follow", "--json", "--socket", &socket])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || -> serde_json::Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["number"], 1);
    order("4");
    let event = next();
    assert_eq!((&event["number"], &event["text"]), (&2.into(), &"weight 4".into()));
    follower.kill().unwrap();
    follower.wait().unwrap();
}

/// The demo judges itself; here its verdict is read, and that it did what it says.
#[test]
fn a_log_that_nobody_reads_holds_up_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (portal, admin) = (free(), free());
    let config = folder.path().join("braid.toml");
    let text = format!(
        "listen = [\"{portal}\"]\nadmin = \"{admin}\"\ncontrol = \"off\"\nlog = \"debug\"\n\
         limits = {{ login_rate = 1000000 }}\n\
         [[target]]\nname = \"iqn.2026-01.org.braid:test\"\npaths = [\"127.0.0.1:1\"]\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_braid"))
        .args(["run", "--config", config.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    let mut running = Running { child, log };
    running.logged("listening");
    let ask = |to: std::net::SocketAddr, question: &[u8]| {
        let mut stream = std::net::TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        stream.write_all(question).unwrap();
        let mut answer = String::new();
        // What it cannot read it resets.
        match stream.read_to_string(&mut answer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no answer: {error}"),
            _ => answer,
        }
    };
    loop {
        (0..100).for_each(|_| drop(ask(portal, &[0; 48])));
        let metrics = ask(admin, b"GET /metrics HTTP/1.1\r\nHost: braid\r\nConnection: close\r\n\r\n");
        if !metrics.contains("braid_log_lines_lost_total 0\n") {
            assert!(metrics.contains("braid_log_lines_lost_total "), "{metrics}");
            break;
        }
    }
}

#[test]
fn the_demo_goes_well() {
    let output = braid(&["demo", "--seconds", "6"]);
    let shown = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{shown}\n{complaints}");
    for part in ["link1 cut", "link1 healed", "rejoined, then carried", "All was well"] {
        assert!(shown.contains(part), "{part} is missing in\n{shown}\n{complaints}");
    }
}
