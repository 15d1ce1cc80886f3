//! What is different between two configurations, setting by setting, and what may change while Braid runs.
//!
//! Every field of [`Config`] and of what it holds is named here, so that a setting that is added without a decision about
//! it does not compile. Secrets are compared and never shown: of an account only the name is.
//!
//! # Tables
//! Tables of targets are matched by [`Target::table`]. One that is new, or gone, is one change; so is a path.

use super::value::percent;
use super::{
    Allow, BlackBox, Chap, Config, ControlSocket, Digest, Discover, Limits, Listen, Local, LogFormat,
    PathConfig, PathRule, RemoteControl, Target, Token,
};
use crate::login::chap::{Accounts, Credentials};
use crate::session::{Hedge, Marginal};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// When a change takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// At once, for sessions that run too.
    Now,
    /// For logins from now on; sessions that run stay as they are.
    NewSessions,
    /// Not as long as Braid runs, for this reason.
    Never(&'static str),
}

/// A difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The table of the target; none for settings of the whole.
    pub table: Option<String>,
    /// The key, such as `ping_interval`, `limits.max_sessions` or `paths 10.0.1.1:3260 weight`; `target` for a table that is
    /// new or gone.
    pub key: String,
    /// Before; none if it was not there.
    pub old: Option<String>,
    /// Now; none if it is gone.
    pub new: Option<String>,
    /// When.
    pub effect: Effect,
}

impl Change {
    /// Whether a target's table is gone.
    #[must_use]
    pub fn is_removal(&self) -> bool {
        self.key == TABLE && self.new.is_none()
    }
}

const TABLE: &str = "target";
const AT_START: &str = "it is used when Braid starts";

/// All differences, in the order of the schema.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(None, of_config(old), of_config(new), &mut changes);
    for target in &old.targets {
        match new.targets.iter().find(|other| other.table == target.table) {
            Some(other) => compare_targets(target, other, &mut changes),
            None => changes.push(Change {
                table: Some(target.table.clone()),
                key: TABLE.to_owned(),
                old: Some(in_short(target)),
                new: None,
                effect: Effect::NewSessions,
            }),
        }
    }
    let known = |table: &str| old.targets.iter().any(|other| other.table == table);
    changes.extend(new.targets.iter().filter(|target| !known(&target.table)).map(|target| Change {
        table: Some(target.table.clone()),
        key: TABLE.to_owned(),
        old: None,
        new: Some(in_short(target)),
        effect: Effect::NewSessions,
    }));
    let tables =
        |config: &Config| config.targets.iter().map(|target| target.table.clone()).collect::<Vec<_>>();
    changes.extend(order(None, "order of tables", &tables(old), &tables(new)));
    changes
}

/// One setting as it is.
struct Setting {
    key: String,
    value: Value,
    effect: Effect,
}

/// What it is set to.
#[derive(PartialEq, Eq)]
enum Value {
    Text(String),
    Chap(Chap),
    Credentials(Option<Arc<Credentials>>),
    Remote(Option<RemoteControl>),
}

impl fmt::Display for Value {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Chap(Chap::None) | Self::Credentials(None) | Self::Remote(None) => f.write_str("none"),
            Self::Chap(Chap::Relay) => f.write_str("relay"),
            Self::Chap(Chap::Terminate(accounts)) => {
                let Accounts { initiators, own } = &**accounts;
                let names: Vec<_> = initiators.iter().map(|account| account.name.as_str()).collect();
                let mutual = own.as_ref().map_or(String::new(), |own| format!(", mutual as {}", own.name));
                write!(f, "accounts {}{mutual}", names.join(", "))
            }
            Self::Credentials(Some(credentials)) => {
                let Credentials { own, peer } = &**credentials;
                let mutual = peer.as_ref().map_or(String::new(), |peer| format!(", target as {}", peer.name));
                write!(f, "as {}{mutual}", own.name)
            }
            Self::Remote(Some(RemoteControl { address, tokens })) => {
                let tokens: Vec<_> = tokens
                    .iter()
                    .map(|Token { account, level }| format!("{} ({})", account.name, level.word()))
                    .collect();
                write!(f, "{address}, tokens {}", tokens.join(", "))
            }
        }
    }
}

fn setting(key: impl Into<String>, effect: Effect, value: impl fmt::Display) -> Setting {
    Setting { key: key.into(), value: Value::Text(value.to_string()), effect }
}

fn chap(key: &str, chap: &Chap) -> Setting {
    Setting { key: key.to_owned(), value: Value::Chap(chap.clone()), effect: Effect::NewSessions }
}

fn time(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

fn list<T: ToString>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Settings of the whole, without targets.
fn of_config(config: &Config) -> Vec<Setting> {
    let Config {
        listen,
        mark,
        admin,
        control,
        remote_control,
        state_file,
        log,
        log_format,
        limits,
        black_box,
        discovery_chap,
        targets: _,
        warnings: _,
    } = config;
    let BlackBox { memory, incidents, files, bytes } = black_box;
    let place = |path: &Option<PathBuf>| {
        path.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string())
    };
    let Limits { max_sessions, login_timeout, login_rate } = limits;
    let listener = |Listen { address, intercept, balancers }: &Listen| match intercept {
        Some(how) => format!("{address} ({})", how.word()),
        None if balancers.is_empty() => address.to_string(),
        None => format!("{address} (PROXY protocol from {})", list(balancers)),
    };
    let listen: Vec<_> = listen.iter().map(listener).collect();
    let control = match control {
        ControlSocket::Usual => Config::DEFAULT_CONTROL.to_owned(),
        ControlSocket::At(path) => path.display().to_string(),
        ControlSocket::Off => "off".to_owned(),
    };
    let format = match log_format {
        LogFormat::Human => "human",
        LogFormat::Json => "json",
    };
    let at_start = Effect::Never(AT_START);
    vec![
        setting(
            "listen",
            Effect::Never("sockets for initiators are opened when Braid starts"),
            list(&listen),
        ),
        setting("mark", at_start, mark),
        setting("admin", at_start, admin.map_or_else(|| "off".to_owned(), |admin| admin.to_string())),
        setting("control", at_start, control),
        Setting {
            key: "remote_control".to_owned(),
            value: Value::Remote(remote_control.clone()),
            effect: at_start,
        },
        setting("state_file", at_start, place(state_file)),
        setting("log", Effect::Now, log),
        setting("log_format", at_start, format),
        setting("limits.max_sessions", Effect::Now, max_sessions),
        setting("limits.login_timeout", Effect::Now, time(*login_timeout)),
        setting("limits.login_rate", Effect::Now, login_rate),
        setting("black_box.memory", at_start, memory),
        setting("black_box.incidents", at_start, place(incidents)),
        setting("black_box.files", at_start, files),
        setting("black_box.bytes", at_start, bytes),
        chap("discovery.chap", discovery_chap),
    ]
}

fn of_target(target: &Target) -> Vec<Setting> {
    let Target {
        name: _,
        table: _,
        paths: _,
        discover,
        allow: Allow { names, addresses },
        chap: proof,
        mode: _,
        policy: _,
        barriers: _,
        upstream_recovery: _,
        initiator_connections,
        fence: _,
        fence_time,
        queue_time,
        exhausted: _,
        ping_interval,
        ping_timeout,
        task_timeout,
        silence_timeout,
        connect_timeout,
        login_timeout,
        reconnect: (first, longest),
        marginal,
        hedge,
        window,
        memory,
        header_digest,
        data_digest,
        max_recv_data_segment: _,
        max_burst: _,
        first_burst: _,
    } = target;
    let [mode, policy, barriers, recovery, fence, exhausted] = target.words();
    let discovers = Discover { rules: Vec::new(), credentials: None };
    let Discover { rules, credentials } = discover.as_ref().unwrap_or(&discovers);
    let (now, later, own) = (Effect::Now, Effect::NewSessions, Value::Credentials(credentials.clone()));
    let mut settings = vec![
        setting("discover", later, discover.is_some()),
        setting("path_rules", later, list(&rules.iter().map(rule).collect::<Vec<_>>())),
        setting("allow.names", later, list(names)),
        setting("allow.addresses", later, list(addresses)),
        chap("chap", proof),
        Setting { key: "upstream_chap".to_owned(), value: own, effect: now },
        setting("mode", later, mode),
        setting("policy", now, policy),
        setting("barriers", later, barriers),
        setting("upstream_recovery", later, recovery),
        setting("initiator_connections", later, initiator_connections),
        setting("fence", later, fence),
        setting("fence_time", later, time(*fence_time)),
        setting("all_paths_down.queue", now, time(*queue_time)),
        setting("all_paths_down.then", now, exhausted),
        setting("ping_interval", now, time(*ping_interval)),
        setting("ping_timeout", now, time(*ping_timeout)),
        setting("task_timeout", now, time(*task_timeout)),
        setting("silence_timeout", now, time(*silence_timeout)),
        setting("connect_timeout", now, time(*connect_timeout)),
        setting("login_timeout", now, time(*login_timeout)),
        setting("reconnect.first", now, time(*first)),
        setting("reconnect.longest", now, time(*longest)),
        setting("marginal", now, often(*marginal)),
        setting("hedged_reads", now, hedged(*hedge)),
        setting("window", now, window),
        setting("memory", now, memory),
        setting("header_digest", later, digest(*header_digest)),
        setting("data_digest", later, digest(*data_digest)),
    ];
    settings.extend(sizes(target));
    settings
}

fn sizes(target: &Target) -> [Setting; 3] {
    let Target { max_recv_data_segment, max_burst, first_burst, .. } = target;
    let setting = |key, bytes: &u32| setting(key, Effect::NewSessions, bytes);
    [
        setting("max_recv_data_segment", max_recv_data_segment),
        setting("max_burst", max_burst),
        setting("first_burst", first_burst),
    ]
}

fn hedged(hedge: Option<Hedge>) -> String {
    let words = |Hedge { late, most }| format!("later than {}, {} at most", percent(late), percent(most));
    hedge.map_or_else(|| "off".to_owned(), words)
}

fn often(Marginal { losses, within, calm }: Marginal) -> String {
    format!("{losses} losses in {}, until {} without", time(within), time(calm))
}

const fn digest(digest: Digest) -> &'static str {
    match digest {
        Digest::None => "none",
        Digest::Prefer => "prefer",
        Digest::Crc32c => "crc32c",
    }
}

fn rule(PathRule { portals, local, weight }: &PathRule) -> String {
    format!("{portals}{} weight {weight}", end(local))
}

fn end(local: &Local) -> String {
    match local {
        Local::Any => String::new(),
        Local::Source(address) => format!(" from {address}"),
        Local::Interface(name) => format!(" through {name}"),
    }
}

/// What a path is, without its name, weight and credentials.
fn way(
    PathConfig { name: _, portal, target, local, weight: _, mark: _, credentials: _, group: _ }: &PathConfig,
) -> String {
    format!("{portal}{} to {target}", end(local))
}

fn of_path(path: &PathConfig, weight: Effect) -> Vec<Setting> {
    let key = |what: &str| format!("paths {}{what}", path.name);
    let credentials = Value::Credentials(path.credentials.clone());
    vec![
        setting(key(""), Effect::NewSessions, way(path)),
        setting(key(" weight"), weight, path.weight),
        Setting { key: key(" upstream_chap"), value: credentials, effect: Effect::Now },
    ]
}

fn in_short(target: &Target) -> String {
    let names: Vec<_> = target.paths.iter().map(|path| path.name.as_str()).collect();
    format!("{} {}", if target.discover.is_some() { "discovered at" } else { "over" }, names.join(", "))
}

fn compare_targets(old: &Target, new: &Target, changes: &mut Vec<Change>) {
    let table = Some(new.table.as_str());
    compare(table, of_target(old), of_target(new), changes);
    // Paths that are discovered get their weights when a session begins.
    let written = old.discover.is_none() && new.discover.is_none();
    let weight = if written { Effect::Now } else { Effect::NewSessions };
    let mut one_sided = |path: &PathConfig, is_new: bool| {
        let shown = format!("{}, weight {}", way(path), path.weight);
        let (old, new) = if is_new { (None, Some(shown)) } else { (Some(shown), None) };
        let key = format!("paths {}", path.name);
        changes.push(Change { table: table.map(str::to_owned), key, old, new, effect: Effect::NewSessions });
    };
    let find = |target: &Target, name: &str| target.paths.iter().find(|path| path.name == name).cloned();
    let mut both = Vec::new();
    for path in &old.paths {
        match find(new, &path.name) {
            Some(other) => both.push((path, other)),
            None => one_sided(path, false),
        }
    }
    new.paths.iter().filter(|path| find(old, &path.name).is_none()).for_each(|path| one_sided(path, true));
    for (path, other) in both {
        compare(table, of_path(path, weight), of_path(&other, weight), changes);
    }
    let names = |target: &Target| target.paths.iter().map(|path| path.name.clone()).collect::<Vec<_>>();
    changes.extend(order(table, "order of paths", &names(old), &names(new)));
}

/// Settings of the same keys, one by one.
fn compare(table: Option<&str>, old: Vec<Setting>, new: Vec<Setting>, changes: &mut Vec<Change>) {
    for (old, new) in old.into_iter().zip(new).filter(|(old, new)| old.value != new.value) {
        let (before, mut after) = (old.value.to_string(), new.value.to_string());
        if before == after {
            after.push_str(" (another secret)");
        }
        changes.push(Change {
            table: table.map(str::to_owned),
            key: new.key,
            old: Some(before),
            new: Some(after),
            effect: new.effect,
        });
    }
}

/// Whether those that are in both lists stand in another order.
fn order(table: Option<&str>, key: &str, old: &[String], new: &[String]) -> Option<Change> {
    let common = |list: &[String], other: &[String]| -> Vec<String> {
        list.iter().filter(|item| other.contains(item)).cloned().collect()
    };
    let (before, after) = (common(old, new), common(new, old));
    (before != after).then(|| Change {
        table: table.map(str::to_owned),
        key: key.to_owned(),
        old: Some(before.join(", ")),
        new: Some(after.join(", ")),
        effect: Effect::NewSessions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Place, Source, draft};

    /// A key of each place, what it is set to, and when that takes effect.
    const KEYS: &[(&str, &str, &str, Option<bool>)] = &[
        ("", "listen = \"10.9.9.9\"", "listen", None),
        ("", "mark = 999", "mark", None),
        ("", "admin = \"off\"", "admin", None),
        ("", "control = \"/run/other\"", "control", None),
        ("", "state_file = \"/var/other\"", "state_file", None),
        ("", "log = \"debug\"", "log", Some(true)),
        ("", "log_format = \"json\"", "log_format", None),
        ("", "limits.max_sessions = 1", "limits.max_sessions", Some(true)),
        ("", "limits.login_timeout = \"1s\"", "limits.login_timeout", Some(true)),
        ("", "limits.login_rate = 1", "limits.login_rate", Some(true)),
        ("", "black_box.memory = 0", "black_box.memory", None),
        ("", "black_box.incidents = \"/var/other\"", "black_box.incidents", None),
        ("", "black_box.files = 1", "black_box.files", None),
        ("", "black_box.bytes = \"1MiB\"", "black_box.bytes", None),
        ("target", "allow.names = [\"iqn.x\"]", "allow.names", Some(false)),
        ("target", "allow.addresses = [\"10.0.0.0/8\"]", "allow.addresses", Some(false)),
        ("target", "chap = \"relay\"", "chap", Some(false)),
        ("target", "mode = \"mcs\"", "mode", Some(false)),
        ("target", "policy = \"failover\"", "policy", Some(true)),
        ("target", "barriers = \"native\"", "barriers", Some(false)),
        ("target", "upstream_recovery = \"reassign\"", "upstream_recovery", Some(false)),
        ("target", "initiator_connections = 4", "initiator_connections", Some(false)),
        ("target", "fence = \"time\"", "fence", Some(false)),
        ("target", "fence_time = \"9s\"", "fence_time", Some(false)),
        ("target", "all_paths_down.queue = \"9s\"", "all_paths_down.queue", Some(true)),
        ("target", "all_paths_down.then = \"busy\"", "all_paths_down.then", Some(true)),
        ("target", "ping_interval = \"9s\"", "ping_interval", Some(true)),
        ("target", "ping_timeout = \"9s\"", "ping_timeout", Some(true)),
        ("target", "task_timeout = \"9s\"", "task_timeout", Some(true)),
        ("target", "silence_timeout = \"9s\"", "silence_timeout", Some(true)),
        ("target", "connect_timeout = \"9s\"", "connect_timeout", Some(true)),
        ("target", "login_timeout = \"9s\"", "login_timeout", Some(true)),
        ("target", "reconnect.first = \"1s\"", "reconnect.first", Some(true)),
        ("target", "reconnect.longest = \"1h\"", "reconnect.longest", Some(true)),
        ("target", "marginal.losses = 0", "marginal", Some(true)),
        ("target", "marginal.within = \"9s\"", "marginal", Some(true)),
        ("target", "marginal.calm = \"9s\"", "marginal", Some(true)),
        ("target", "hedged_reads.late = \"99%\"", "hedged_reads", Some(true)),
        ("target", "window = 9", "window", Some(true)),
        ("target", "memory = \"9MiB\"", "memory", Some(true)),
        ("target", "header_digest = \"prefer\"", "header_digest", Some(false)),
        ("target", "data_digest = \"crc32c\"", "data_digest", Some(false)),
        ("target", "max_recv_data_segment = 1024", "max_recv_data_segment", Some(false)),
        ("target", "max_burst = \"2MiB\"", "max_burst", Some(false)),
        ("target", "first_burst = 1024", "first_burst", Some(false)),
    ];

    const TARGET: &str = "[[target]]\nname = \"iqn.a\"\npaths = [\"10.0.0.1\", \"10.0.0.2\"]\n";

    fn parse(text: &str) -> Config {
        Config::from_toml(text, "t").unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// As `table key: old -> new`.
    fn shown(old: &str, new: &str) -> Vec<String> {
        let show = |value: &Option<String>| value.clone().unwrap_or_default();
        let changes = diff(&parse(old), &parse(new));
        let line = |c: &Change| format!("{} {}: {} -> {}", show(&c.table), c.key, show(&c.old), show(&c.new));
        changes.iter().map(line).collect()
    }

    #[test]
    fn every_key_is_noticed_and_has_its_time() {
        let old = parse(TARGET);
        assert_eq!(diff(&old, &old), []);
        for (table, line, key, live) in KEYS {
            let new =
                if table.is_empty() { format!("{line}\n{TARGET}") } else { format!("{TARGET}{line}\n") };
            let changes = diff(&old, &parse(&new));
            let [change] = changes.as_slice() else { panic!("{line}: {changes:?}") };
            assert_eq!(change.key, *key);
            assert_eq!(change.table.is_some(), !table.is_empty(), "{line}");
            let effect = match change.effect {
                Effect::Now => Some(true),
                Effect::NewSessions => Some(false),
                Effect::Never(_) => None,
            };
            assert_eq!(effect, *live, "{line}");
        }
        let full = include_str!("../../examples/full.toml");
        let known = |key: &str| KEYS.iter().any(|(_, line, ..)| line.starts_with(key));
        let elsewhere = ["name", "paths", "discover", "path_rules", "upstream_chap", "#"];
        for line in full.lines().filter(|line| line.contains(" = ") && !line.starts_with(' ')) {
            let key = line.split([' ', '.']).next().unwrap();
            let in_table = ["limits", "black_box"].iter().any(|table| known(&format!("{table}.{key}")));
            assert!(known(key) || in_table || elsewhere.contains(&key), "{key} is not tried here");
        }
    }

    #[test]
    fn paths_and_tables_are_one_change_each() {
        let target = |name: &str, paths: &str| format!("[[target]]\nname = \"{name}\"\npaths = [{paths}]\n");
        let a = target("iqn.a", "\"10.0.0.1\", \"10.0.0.2\"");
        let changed = |paths: &str| shown(&a, &target("iqn.a", paths));
        assert_eq!(
            changed("\"10.0.0.2\", \"10.0.0.1\""),
            ["iqn.a order of paths: 10.0.0.1:3260, 10.0.0.2:3260 -> 10.0.0.2:3260, 10.0.0.1:3260"]
        );
        assert_eq!(
            changed("\"10.0.0.1\", \"10.0.0.3\""),
            [
                "iqn.a paths 10.0.0.2:3260: 10.0.0.2:3260 to iqn.a, weight 1 -> ",
                "iqn.a paths 10.0.0.3:3260:  -> 10.0.0.3:3260 to iqn.a, weight 1",
            ]
        );
        assert_eq!(
            changed("\"10.0.0.1\", { portal = \"10.0.0.2\", weight = 2 }"),
            ["iqn.a paths 10.0.0.2:3260 weight: 1 -> 2"]
        );
        let b = target("iqn.b", "\"10.0.0.9\"");
        assert_eq!(shown(&a, &(a.clone() + &b)), ["iqn.b target:  -> over 10.0.0.9:3260"]);
        assert_eq!(shown(&(a.clone() + &b), &a), ["iqn.b target: over 10.0.0.9:3260 -> "]);
        assert_eq!(shown(&(a.clone() + &b), &(b + &a)), [" order of tables: iqn.a, iqn.b -> iqn.b, iqn.a"]);
    }

    #[test]
    fn tables_of_the_same_pattern_are_told_apart() {
        let table = |policy: &str| {
            format!(
                "[[target]]\nname = \"*\"\ndiscover = true\npaths = [\"10.0.0.1\"]\npolicy = \"{policy}\"\n"
            )
        };
        let two = |second: &str| table("failover") + &table(second);
        assert_eq!(shown(&two("failover"), &two("weighted")), ["* (2) policy: failover -> weighted"]);
    }

    #[test]
    fn secrets_are_compared_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        let account = format!("{{ name = \"me\", secret_file = \"{}\" }}", secret.display());
        let text_with = |chap: &str| format!("{TARGET}chap = {{ initiators = [{chap}] }}\n");
        std::fs::write(&secret, "not-to-be-shown-1").unwrap();
        let old = parse(&text_with(&account));
        std::fs::write(&secret, "not-to-be-shown-2").unwrap();
        let changes = diff(&old, &parse(&text_with(&account)));
        let [change] = changes.as_slice() else { panic!("{changes:?}") };
        assert_eq!(change.new.as_deref(), Some("accounts me (another secret)"));
        assert!(!format!("{changes:?}").contains("not-to-be"), "{changes:?}");
    }

    #[test]
    fn places_are_those_of_the_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("braid.toml");
        let source = |flags| Source::new(Some(file.clone()), flags);
        let read = |text: &str, flags| {
            std::fs::write(&file, text).unwrap();
            let written = source(flags).read().unwrap();
            let changes = diff(&parse(TARGET), &written.config);
            changes.iter().map(|change| written.place(change)).collect::<Vec<_>>()
        };
        let mut flags = draft::Section::new(Place::Flag(String::new()));
        let at = |place: &str| format!("{}:{place}", file.display());
        let text = format!("\nlog = \"debug\"\n{TARGET}\nreconnect = {{ first = \"1s\" }}\n");
        assert_eq!(read(&text, flags.clone()), [at("2:7"), at("7:13")]);
        flags.set("log", "--log", draft::Value::Text("trace".to_owned()));
        assert_eq!(read(&text, flags)[0], "--log");
    }
}
