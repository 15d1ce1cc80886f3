//! Braid itself as a fixture: the real program, with its command line, its log and its metrics.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::net::{PORT, loopback, within};
use crate::process::{Daemon, Done, command, read, run, temporary, words};
use crate::target::{Endpoint, Kind, Site, Target, connects, dial};
use crate::wait::{PATIENCE, poll};

/// Its second listener; the first has the port of all targets.
const SECOND_PORT: u16 = 23261;
/// On the addresses of the listeners.
pub(crate) const ADMIN_PORT: u16 = 29260;

/// Of listeners that intercept.
pub(crate) const INTERCEPTOR: u16 = 23262;

/// How one is to be run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// `auto`, `mcs` or `sessions`.
    pub(crate) mode: &'static str,
    /// Commands go to the paths in turn, and it listens twice; else both are as they come.
    pub(crate) in_turn: bool,
}

/// A running Braid in front of all portals of one target.
pub(crate) struct Braid {
    daemon: Daemon,
    endpoint: Endpoint,
    second: Endpoint,
    admin: String,
    paths: Vec<String>,
    dir: TempDir,
}

impl Braid {
    /// Starts it in front of `target` and waits until it serves.
    ///
    /// Where the mode needs a verdict on the target, Braid finds one in its state file: a probe takes seconds, and a
    /// session that begins earlier gets several sessions, so that the first one would be fanned out by chance.
    pub(crate) fn before(target: &Target, manner: Manner) -> Self {
        let verdict = (manner.mode == "auto").then(|| verdict(target.kind()));
        Self::start(target.endpoints(), manner, &loopback(), verdict, None)
    }

    /// The same in front of some portals, in this mode, which is not `auto`, and with these lines in the target's table.
    pub(crate) fn over(behind: &[Endpoint], mode: &'static str, settings: &str) -> Self {
        let first = behind.first().expect("a target has a portal");
        let path = |endpoint: &Endpoint| match &endpoint.iqn {
            iqn if *iqn == first.iqn => format!("{:?}", endpoint.portal),
            iqn => format!("{{ portal = {:?}, target = {iqn:?} }}", endpoint.portal),
        };
        let paths: Vec<String> = behind.iter().map(path).collect();
        let table =
            format!("name = {:?}\npaths = [{}]\nmode = {mode:?}\n{settings}\n", first.iqn, paths.join(", "));
        let [listen, admin] = [PORT, ADMIN_PORT].map(|port| format!("{}:{port}", loopback()));
        Self::served_from(behind, temporary(), (format!("{listen:?}"), listen, admin), &table)
    }

    /// The same with several sessions and these lines in the target's table, in which `@` before a name stands for the file
    /// that holds a secret of `secrets`; it logs all that it can log.
    pub(crate) fn guarded(target: &Target, address: &str, lines: &str, secrets: &[(&str, &str)]) -> Self {
        let manner = Manner { mode: "sessions", in_turn: true };
        Self::start(target.endpoints(), manner, address, None, Some((lines, secrets)))
    }

    /// The same with several sessions, at an address that others reach: its own is for programs in its namespace.
    pub(crate) fn at(address: &str, target: &Target) -> Self {
        Self::start(target.endpoints(), Manner { mode: "sessions", in_turn: true }, address, None, None)
    }

    /// The same with several sessions, at this address, and these lines in the configuration of the target.
    pub(crate) fn configured(target: &Target, address: &str, settings: &str) -> Self {
        let (listen, admin) = (format!("{address}:{PORT}"), format!("{address}:{ADMIN_PORT}"));
        Self::written(target, temporary(), (format!("{listen:?}"), listen, admin), settings)
    }

    /// The same with several sessions whose commands go over the paths in turn, at listeners that intercept in this way, behind
    /// [`INTERCEPTOR`], on this machine only or also for those that it forwards for. `more` is more configuration.
    pub(crate) fn intercepting(target: &Target, how: &str, wide: bool, more: &str) -> Self {
        let (v4, v6) = if wide { ("0.0.0.0", "[::]") } else { ("127.0.0.1", "[::1]") };
        let one = |ip: &str| format!("{{ address = \"{ip}:{INTERCEPTOR}\", intercept = \"{how}\" }}");
        let listen = format!("[{}, {}]", one(v4), one(v6));
        let (own, admin) = (format!("127.0.0.1:{INTERCEPTOR}"), format!("127.0.0.1:{ADMIN_PORT}"));
        let settings = format!("policy = \"round-robin\"\n{more}");
        Self::written(target, temporary(), (listen, own, admin), &settings)
    }

    /// The same with several sessions, at a listener for this balancer only, and these lines in the configuration of the target.
    pub(crate) fn behind(balancer: &str, target: &Target, address: &str, settings: &str) -> Self {
        let (own, admin) = (format!("{address}:{PORT}"), format!("{address}:{ADMIN_PORT}"));
        let listen = format!("[{{ address = {own:?}, proxy_protocol = {balancer:?} }}]");
        Self::written(target, temporary(), (listen, own, admin), settings)
    }

    /// What `braid intercept` says with its configuration.
    pub(crate) fn intercept(&self, what: &[&str]) -> Done {
        self.run_intercept(&[], what)
    }

    /// The same for somebody without any capability.
    pub(crate) fn intercept_as_nobody(&self, what: &str) -> Done {
        self.run_intercept(&["setpriv", "--bounding-set=-all", "--inh-caps=-all"], &[what])
    }

    fn run_intercept(&self, before: &[&str], what: &[&str]) -> Done {
        let file = self.dir.path().join("braid.toml").display().to_string();
        let line = words(&[env!("CARGO_BIN_EXE_braid"), "intercept", "--config", &file]);
        let line = [words(before), line, words(what)].concat();
        run(command(self.endpoint.netns.as_deref(), &line), PATIENCE)
    }

    /// With a configuration file: `listen` as it stands there, an address of it, and the admin address.
    fn written(
        target: &Target,
        dir: TempDir,
        (listen, own, admin): (String, String, String),
        settings: &str,
    ) -> Self {
        let first = target.endpoints().first().expect("a target has a portal");
        let paths: Vec<String> = target.endpoints().iter().map(|endpoint| endpoint.portal.clone()).collect();
        let table = format!("name = {:?}\npaths = {paths:?}\nmode = \"sessions\"\n{settings}\n", first.iqn);
        Self::served_from(target.endpoints(), dir, (listen, own, admin), &table)
    }

    /// With several sessions whose commands go over the paths in turn, and a target's table that names these portals to be asked
    /// for targets whose names fit. It listens at an address, or intercepts if there is none.
    pub(crate) fn discovering(target: &Target, at: Option<&str>, name: &str, asked: &[String]) -> Self {
        let (listen, own) = if let Some(address) = at {
            let own = format!("{address}:{PORT}");
            (format!("{own:?}"), own)
        } else {
            let own = format!("127.0.0.1:{INTERCEPTOR}");
            (format!("[{{ address = \"{own}\", intercept = \"redirect\" }}]"), own)
        };
        let admin = format!("127.0.0.1:{ADMIN_PORT}");
        let table = format!(
            "name = {name:?}\ndiscover = true\npaths = {asked:?}\nmode = \"sessions\"\npolicy = \"round-robin\"\n\
             connect_timeout = \"1s\"\nreconnect = {{ first = \"100ms\", longest = \"500ms\" }}\n"
        );
        Self::served_from(target.endpoints(), temporary(), (listen, own, admin), &table)
    }

    /// What `braid discover` says with its configuration.
    pub(crate) fn discover(&self) -> Done {
        let file = self.dir.path().join("braid.toml").display().to_string();
        let line = words(&[env!("CARGO_BIN_EXE_braid"), "discover", "--config", &file]);
        run(command(self.endpoint.netns.as_deref(), &line), PATIENCE)
    }

    fn served_from(
        behind: &[Endpoint],
        dir: TempDir,
        (listen, own, admin): (String, String, String),
        table: &str,
    ) -> Self {
        let first = behind.first().expect("a target has a portal");
        let paths = names(behind);
        let (state, control) = (state_file(dir.path()), control_socket(dir.path()));
        let text = format!(
            "listen = {listen}\nadmin = {admin:?}\ncontrol = {control:?}\nstate_file = {state:?}\n[[target]]\n{table}"
        );
        let file = dir.path().join("braid.toml");
        fs::write(&file, text).expect("configuration");
        let line = words(&[env!("CARGO_BIN_EXE_braid"), "run", "--config", &file.display().to_string()]);
        let daemon = Daemon::start("braid", dir.path(), command(first.netns.as_deref(), &line));
        let endpoint = Endpoint { portal: own, ..first.clone() };
        Self { daemon, second: endpoint.clone(), endpoint, admin, paths, dir }.served()
    }

    fn start(
        behind: &[Endpoint],
        Manner { mode, in_turn }: Manner,
        address: &str,
        verdict: Option<&str>,
        guard: Option<(&str, &[(&str, &str)])>,
    ) -> Self {
        let first = behind.first().expect("a target has a portal");
        let netns = first.netns.clone();
        let dir = temporary();
        let at = |port: u16| format!("{address}:{port}");
        let (listen, second, admin) = (at(PORT), at(SECOND_PORT), at(ADMIN_PORT));
        let state = state_file(dir.path());
        if let Some(verdict) = verdict {
            fs::write(&state, verdict).expect("state file");
        }
        let state = state.display().to_string();
        let mut line = words(&[env!("CARGO_BIN_EXE_braid"), "run", "--listen", &listen, "--admin", &admin]);
        if in_turn {
            line.extend(words(&["--listen", &second]));
        }
        line.extend(words(&["--control", "off", "--state-file", &state]));
        let paths = names(behind);
        match guard {
            None => {
                line.extend(words(&["--target", &first.iqn, "--mode", mode]));
                if in_turn {
                    line.extend(words(&["--policy", "round-robin"]));
                }
                line.extend(paths.iter().flat_map(|path| ["--path".to_owned(), path.clone()]));
            }
            Some((lines, secrets)) => {
                let file = guarded_config(dir.path(), first, &paths, lines, secrets);
                line.extend(words(&["--log", "trace", "--config", &file]));
            }
        }
        let daemon = Daemon::start("braid", dir.path(), command(netns.as_deref(), &line));
        let listener = |portal: &String| Endpoint { portal: portal.clone(), ..first.clone() };
        let (endpoint, second) = (listener(&listen), listener(if in_turn { &second } else { &listen }));
        Self { daemon, endpoint, second, admin, paths, dir }.served()
    }

    /// Waits until it serves.
    fn served(mut self) -> Self {
        let up = poll(PATIENCE, || (self.ready() || !self.alive()).then_some(()));
        assert!(up.is_some() && self.alive(), "Braid does not serve\n{}", self.log());
        self
    }

    /// All that it has said.
    pub(crate) fn whole_log(&self) -> String {
        read(&self.dir.path().join("braid.log"))
    }

    fn ready(&self) -> bool {
        self.get("/healthz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
            && connects(&self.endpoint)
            && connects(&self.second)
    }

    /// Where the initiator finds it.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Where it listens besides, if it does; else the same.
    pub(crate) fn second_endpoint(&self) -> &Endpoint {
        &self.second
    }

    /// The names of its paths, as the metrics label them, in the order of the target's portals.
    pub(crate) fn paths(&self) -> &[String] {
        &self.paths
    }

    /// Still running?
    pub(crate) fn alive(&mut self) -> bool {
        self.daemon.alive()
    }

    /// The end of its log, for messages.
    pub(crate) fn log(&self) -> String {
        self.daemon.log()
    }

    /// What the admin address answers, head and body.
    fn get(&self, page: &str) -> Option<String> {
        let ask = format!("GET {page} HTTP/1.1\r\nHost: braid\r\nConnection: close\r\n\r\n");
        let told = within(self.endpoint.netns.as_deref(), || {
            let mut stream = dial(&self.admin)?;
            stream.write_all(ask.as_bytes())?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        });
        told.ok()
    }

    /// The headers that it has kept, in a file of its own; of one with a configuration file.
    pub(crate) fn capture(&self) -> PathBuf {
        let (socket, file) = (control_socket(self.dir.path()), self.dir.path().join("capture.pcapng"));
        let [socket, name] = [&socket, &file].map(|path| path.display().to_string());
        let line = words(&[env!("CARGO_BIN_EXE_braid"), "capture", "--socket", &socket, &name]);
        run(command(None, &line), PATIENCE).expect_ok();
        file
    }

    /// Memory of its own that is not paged out, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        self.daemon.resident()
    }

    /// Where its metrics are.
    pub(crate) fn admin(&self) -> &str {
        &self.admin
    }

    /// `/metrics`, without the head.
    pub(crate) fn exposition(&self) -> String {
        let text = self.metrics().0;
        text.split_once("\r\n\r\n").expect("head and body").1.to_owned()
    }

    /// All samples of `/metrics`.
    pub(crate) fn metrics(&self) -> Metrics {
        let text = self.get("/metrics").unwrap_or_else(|| panic!("no metrics\n{}", self.log()));
        Metrics(text)
    }
}

/// The names that paths to these portals have: those to another target than the first's bear its name.
fn names(behind: &[Endpoint]) -> Vec<String> {
    let first = behind.first().map(|endpoint| &endpoint.iqn);
    let name = |Endpoint { portal, iqn, .. }: &Endpoint| match first {
        Some(first) if first != iqn => format!("{portal}/{iqn}"),
        _ => portal.clone(),
    };
    behind.iter().map(name).collect()
}

/// Writes the configuration and the secrets of [`Braid::guarded`].
fn guarded_config(
    dir: &Path,
    target: &Endpoint,
    paths: &[String],
    lines: &str,
    secrets: &[(&str, &str)],
) -> String {
    for (name, secret) in secrets {
        let file = dir.join(name);
        fs::write(&file, secret).expect("secret");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("secret");
    }
    let lines = lines.replace('@', &format!("{}/", dir.display()));
    let text = format!(
        "[[target]]\nname = \"{}\"\npaths = {paths:?}\nmode = \"sessions\"\npolicy = \"round-robin\"\n{lines}\n",
        target.iqn
    );
    let file = dir.join("braid.toml");
    fs::write(&file, text).expect("configuration");
    file.display().to_string()
}

fn control_socket(dir: &Path) -> PathBuf {
    dir.join("control")
}

fn state_file(dir: &Path) -> PathBuf {
    dir.join("state")
}

/// What Braid writes into its state file after it has probed such a target; found out once per run.
fn verdict(kind: Kind) -> &'static str {
    static VERDICTS: [OnceLock<String>; 9] = [const { OnceLock::new() }; 9];
    let slot = VERDICTS.get(kind as usize).expect("a slot per kind");
    slot.get_or_init(|| {
        let target = Target::start(kind, Site::Alone(2), 1 << 20);
        let braid = Braid::start(
            target.endpoints(),
            Manner { mode: "auto", in_turn: false },
            &loopback(),
            None,
            None,
        );
        let probed = || Some(read(&state_file(braid.dir.path()))).filter(|text| !text.is_empty());
        let verdict = poll(PATIENCE, probed);
        let log = braid.log();
        let verdict = verdict.unwrap_or_else(|| panic!("no verdict on {}\n{log}", kind.name()));
        assert_eq!(log.contains("mcs=true"), kind.several_connections(), "{}: {verdict}\n{log}", kind.name());
        verdict
    })
}

/// What `braid probe` says of a target: whether several connections of a session may be used.
pub(crate) fn probe(target: &Target) -> (bool, String) {
    let [first, second, ..] = target.endpoints() else { panic!("a probe wants two portals") };
    let line =
        words(&[env!("CARGO_BIN_EXE_braid"), "probe", &first.portal, &first.iqn, "--portal", &second.portal]);
    let told = run(command(first.netns.as_deref(), &line), PATIENCE).expect_ok().stdout;
    let verdict = told.lines().find_map(|line| line.strip_prefix("several connections")).map(str::trim_start);
    match verdict {
        Some(verdict) if verdict.starts_with("yes") => (true, told),
        Some(verdict) if verdict.starts_with("no") => (false, told),
        _ => panic!("no verdict in:\n{told}"),
    }
}

/// One reading of `/metrics`.
pub(crate) struct Metrics(String);

impl Metrics {
    /// The sum of all samples of a family whose labels contain every given `(label, value)`; 0 when there is none.
    pub(crate) fn sum(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let samples = self.0.lines().filter_map(|line| line.strip_prefix(family));
        samples
            .filter(|rest| rest.starts_with(['{', ' ']) && wanted.iter().all(|label| rest.contains(label)))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// How the sessions that are open now are fanned out: `mcs`, `sessions`, or nothing when there is none or both.
    pub(crate) fn fanout(&self) -> Option<&'static str> {
        let open = |fanout| self.sum("braid_sessions", &[("fanout", fanout)]) > 0.0;
        match (open("mcs"), open("sessions")) {
            (true, false) => Some("mcs"),
            (false, true) => Some("sessions"),
            _ => None,
        }
    }

    /// Connections that are up on a path.
    pub(crate) fn connections(&self, path: &str) -> f64 {
        self.sum("braid_path_connections", &[("path", path)])
    }

    /// Commands of initiators that were answered over a path so far.
    pub(crate) fn commands(&self, path: &str) -> f64 {
        self.sum("braid_path_commands_total", &[("path", path)])
    }

    /// Commands under way on a path.
    pub(crate) fn in_flight(&self, path: &str) -> f64 {
        self.sum("braid_path_commands_in_flight", &[("path", path)])
    }

    /// Fences by a method so far.
    pub(crate) fn fences(&self, method: &str) -> f64 {
        self.sum("braid_fences_total", &[("method", method)])
    }

    /// Commands that were under way over a path that was lost, or suspect before it was.
    pub(crate) fn asked_again(&self) -> f64 {
        let count = |name: &str| self.sum(&format!("braid_path_commands_{name}_total"), &[]);
        count("moved") + count("evaded")
    }

    /// Paths given up so far.
    pub(crate) fn losses(&self) -> f64 {
        self.sum("braid_path_losses_total", &[])
    }

    /// Payload bytes that went over a path so far.
    pub(crate) fn bytes(&self, path: &str) -> f64 {
        let labels = [("path", path)];
        self.sum("braid_path_read_bytes_total", &labels) + self.sum("braid_path_written_bytes_total", &labels)
    }

    /// The samples that say something, for messages.
    pub(crate) fn show(&self) -> String {
        let mut text = String::new();
        for line in self.0.lines().filter(|line| line.starts_with("braid_")) {
            if !line.contains("_bucket") && !line.ends_with(" 0") {
                writeln!(text, "{line}").expect("write to a string");
            }
        }
        text
    }
}
