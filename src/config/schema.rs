//! The one list of keys, defaults and ranges, and the checks of settings against each other.

use super::auth;
use super::discover;
use super::draft::{Placed, Section, Value};
use super::keys::{Keys, checked};
use super::listener;
use super::problem::{Place, Problem};
use super::remote;
use super::value::{self, Read};
use super::{
    Allow, BlackBox, Chap, Config, ControlSocket, Digest, Limits, Local, LogFormat, Mode, PathConfig,
    Recovery, Target,
};
use crate::path::select::Policy;
use crate::session::{Barriers, Exhausted, FenceMethod, Hedge, Marginal};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

const MS: fn(u64) -> Duration = Duration::from_millis;
const S: fn(u64) -> Duration = Duration::from_secs;
const HOUR: Duration = Duration::from_secs(3600);
/// Reads asked again at most, in thousandths.
const MOST_HEDGED: u16 = 50;

/// Settings of the whole. What is wrong goes to `problems`; the result is then a stand-in not to be used.
pub(super) fn config(section: &Section, problems: &mut Vec<Problem>) -> Config {
    let mut keys = Keys::new(section, "", problems);
    let listen = keys.list("listen", listener::read);
    let admin = keys.or("admin", default_admin(), value::admin);
    let mut config = Config {
        listen: listen.unwrap_or_else(listener::default),
        mark: keys.or("mark", 0xb1d, |value| value::number(value, 256, u32::MAX - 1)),
        admin,
        control: keys.or("control", ControlSocket::default(), value::control),
        remote_control: remote::read(&mut keys),
        state_file: keys.optional("state_file", |value| value::text(value).map(PathBuf::from)),
        log: keys.or("log", "info".to_owned(), value::log_filter),
        log_format: keys.or("log_format", LogFormat::default(), value::log_format),
        limits: keys.table("limits", limits),
        black_box: keys.table("black_box", black_box),
        discovery_chap: keys.table("discovery", |keys| auth::chap(keys, false)),
        targets: number(keys.list("target", target).unwrap_or_default()),
        warnings: Vec::new(),
    };
    if section.get("target").is_none() {
        keys.missing("target", MISSING_TARGET);
    }
    keys.reject_unknown();
    listener::check(section, &mut config, problems);
    check_targets(section, &config, problems);
    auth::check(section, &config, problems);
    config.warnings = warnings(&config);
    auth::open_files(section, &mut config.warnings);
    config
}

/// Tells tables of the same name apart.
fn number(mut targets: Vec<Target>) -> Vec<Target> {
    let mut seen = BTreeMap::new();
    for target in &mut targets {
        let times = seen.entry(target.name.clone()).or_insert(0_u32);
        *times += 1;
        if *times > 1 {
            write!(target.table, " ({times})").ok();
        }
    }
    targets
}

const MISSING_TARGET: &str = "no target is given; add a table [[target]] with name = \"iqn...\" and paths = [\"ADDRESS:PORT\", ...] \
     (on the command line: --target IQN --path ADDRESS:PORT)";

const REASSIGN_NEEDS_MCS: &str = "is \"reassign\", which needs a session of several connections; say mode = \"mcs\" or \"auto\", or leave it out";

fn default_admin() -> Option<SocketAddr> {
    Config::DEFAULT_ADMIN.parse().ok()
}

fn limits(keys: &mut Keys<'_>) -> Limits {
    Limits {
        max_sessions: keys.or("max_sessions", 256, |value| value::number(value, 1, 65_536)),
        login_timeout: keys.or("login_timeout", S(15), |value| value::duration(value, MS(100), HOUR)),
        login_rate: keys.or("login_rate", 100, |value| value::number(value, 1, 1_000_000)),
    }
}

fn black_box(keys: &mut Keys<'_>) -> BlackBox {
    BlackBox {
        memory: keys.or("memory", 16 << 20, |value| value::size(value, 0, 256 << 20)),
        incidents: keys.optional("incidents", |value| value::text(value).map(PathBuf::from)),
        files: keys.or("files", 20, |value| value::number(value, 1, 10_000)),
        bytes: keys.or("bytes", 64 << 20, |value| value::size(value, 1 << 20, 1 << 40)),
    }
}

fn target(item: &Placed, problems: &mut Vec<Problem>) -> Option<Target> {
    let Value::Table(section) = &item.value else {
        let message =
            format!("is {}, must be a table; write [[target]] above the target's keys", item.value.kind());
        problems.push(Problem { place: item.place.clone(), key: "target".to_owned(), message });
        return None;
    };
    let mut keys = Keys::new(section, "target", problems);
    let discover = discover::read(&mut keys);
    let name = keys.required(
        "name",
        "write the target's name, such as name = \"iqn.2003-01.org.example:disk\"",
        if discover.is_some() { value::name_pattern } else { value::iscsi_name },
    );
    let paths = keys.list("paths", path);
    if section.get("paths").is_none() {
        keys.missing(
            "paths",
            "is missing; write the target's portals, such as paths = [\"10.0.1.1:3260\", \"10.0.2.1:3260\"]",
        );
    }
    let mut target = Target { discover, ..defaults(name.unwrap_or_default(), paths.unwrap_or_default()) };
    read_behaviour(&mut keys, &mut target);
    read_timing(&mut keys, &mut target);
    read_sizes(&mut keys, &mut target);
    read_access(&mut keys, &mut target);
    keys.reject_unknown();
    check_paths(section, &mut target, problems);
    discover::check(section.get("paths"), &target, problems);
    if target.mode == Mode::Sessions && target.upstream_recovery == Recovery::Reassign {
        let place = section.get("upstream_recovery").map_or(&section.place, |placed| &placed.place).clone();
        let message = REASSIGN_NEEDS_MCS.to_owned();
        problems.push(Problem { place, key: "target.upstream_recovery".to_owned(), message });
    }
    auth::check_connections(section, &target, problems);
    if target.first_burst > target.max_burst {
        let message = format!(
            "{} bytes is more than max_burst ({}); lower it, or raise max_burst",
            target.first_burst, target.max_burst
        );
        let place = section.get("first_burst").or_else(|| section.get("max_burst"));
        let place = place.map_or_else(|| section.place.clone(), |placed| placed.place.clone());
        problems.push(Problem { place, key: "target.first_burst".to_owned(), message });
    }
    Some(target)
}

/// A target with nothing but a name and paths.
fn defaults(name: String, paths: Vec<PathConfig>) -> Target {
    Target {
        table: name.clone(),
        name,
        paths,
        discover: None,
        allow: Allow::default(),
        chap: Chap::None,
        mode: Mode::default(),
        policy: Policy::default(),
        barriers: Barriers::default(),
        upstream_recovery: Recovery::default(),
        initiator_connections: 1,
        fence: FenceMethod::Auto,
        fence_time: S(30),
        queue_time: S(60),
        exhausted: Exhausted::default(),
        ping_interval: S(2),
        ping_timeout: S(15),
        task_timeout: S(20),
        silence_timeout: S(5),
        connect_timeout: S(3),
        login_timeout: S(15),
        reconnect: (MS(500), S(10)),
        marginal: Marginal { losses: 5, within: S(60), calm: S(10) },
        hedge: None,
        window: 128,
        memory: 64 << 20,
        header_digest: Digest::default(),
        data_digest: Digest::default(),
        max_recv_data_segment: 256 << 10,
        max_burst: 1 << 20,
        first_burst: 256 << 10,
    }
}

fn read_behaviour(keys: &mut Keys<'_>, target: &mut Target) {
    target.mode = keys.or("mode", target.mode, value::mode);
    target.policy = keys.or("policy", target.policy, value::policy);
    target.barriers = keys.or("barriers", target.barriers, value::barriers);
    target.upstream_recovery = keys.or("upstream_recovery", target.upstream_recovery, value::recovery);
    target.initiator_connections = keys.or("initiator_connections", target.initiator_connections, |value| {
        u16::try_from(value::number(value, 1, 16)?).map_err(|error| error.to_string())
    });
    target.fence = keys.or("fence", target.fence, value::fence);
    target.fence_time =
        keys.or("fence_time", target.fence_time, |v| value::duration(v, Duration::ZERO, HOUR));
    let (queue_time, exhausted) = (target.queue_time, target.exhausted);
    (target.queue_time, target.exhausted) = keys.table("all_paths_down", |keys| {
        let queue = keys.or("queue", queue_time, |value| value::duration(value, Duration::ZERO, 24 * HOUR));
        (queue, keys.or("then", exhausted, value::exhausted))
    });
    let Marginal { losses, within, calm } = target.marginal;
    target.marginal = keys.table("marginal", |keys| Marginal {
        losses: keys.or("losses", losses, |value| value::number(value, 0, 100)),
        within: keys.or("within", within, |value| value::duration(value, S(1), HOUR)),
        calm: keys.or("calm", calm, |value| value::duration(value, S(1), HOUR)),
    });
    target.hedge = keys.table("hedged_reads", |keys| {
        let late = keys.or("late", None, value::late);
        let most = keys.or("most", MOST_HEDGED, |value| value::thousandths(value, 1, 1000));
        late.map(|late| Hedge { late, most })
    });
    target.header_digest = keys.or("header_digest", target.header_digest, value::digest);
    target.data_digest = keys.or("data_digest", target.data_digest, value::digest);
}

fn read_timing(keys: &mut Keys<'_>, target: &mut Target) {
    let mut duration = |key, setting: &mut Duration| {
        *setting = keys.or(key, *setting, |value| value::duration(value, MS(50), HOUR));
    };
    duration("ping_interval", &mut target.ping_interval);
    duration("ping_timeout", &mut target.ping_timeout);
    duration("task_timeout", &mut target.task_timeout);
    duration("silence_timeout", &mut target.silence_timeout);
    duration("connect_timeout", &mut target.connect_timeout);
    duration("login_timeout", &mut target.login_timeout);
    let (first, longest) = target.reconnect;
    target.reconnect = keys.table("reconnect", |keys| {
        let first = keys.or("first", first, |value| value::duration(value, MS(10), HOUR));
        let longest = keys.or("longest", longest.max(first), |value| value::duration(value, first, HOUR));
        (first, longest)
    });
}

fn read_sizes(keys: &mut Keys<'_>, target: &mut Target) {
    /// Longest length a data segment or burst can have (RFC 7143 sections 13.12 to 13.14).
    const LONGEST: u32 = (1 << 24) - 1;
    target.window = keys.or("window", target.window, |value| value::number(value, 1, 1024));
    target.memory = keys.or("memory", target.memory, |value| value::size(value, 1 << 20, 1 << 40));
    let mut size = |key, setting: &mut u32| {
        *setting = keys.or(key, *setting, |value| {
            let bytes = value::size(value, 512, LONGEST.into())?;
            u32::try_from(bytes).map_err(|error| error.to_string())
        });
    };
    size("max_recv_data_segment", &mut target.max_recv_data_segment);
    size("max_burst", &mut target.max_burst);
    size("first_burst", &mut target.first_burst);
}

fn read_access(keys: &mut Keys<'_>, target: &mut Target) {
    target.allow = auth::allow(keys);
    target.chap = auth::chap(keys, true);
    let credentials = auth::credentials(keys, "upstream_chap");
    for path in &mut target.paths {
        path.credentials = path.credentials.take().or_else(|| credentials.clone());
    }
    if let Some(discover) = &mut target.discover {
        discover.credentials = credentials;
    }
}

/// A path: the portal alone, or a table.
fn path(item: &Placed, problems: &mut Vec<Problem>) -> Option<PathConfig> {
    let section = match &item.value {
        Value::Table(section) => section,
        Value::Text(_) => {
            let portal = checked(item, "target.paths", problems, portal)?;
            return Some(PathConfig {
                name: String::new(),
                portal,
                target: String::new(),
                local: Local::Any,
                weight: 1,
                mark: None,
                credentials: None,
                group: None,
            });
        }
        other @ (Value::Integer(_) | Value::Boolean(_) | Value::List(_) | Value::Other(_)) => {
            let message = format!(
                "is {}, must be \"ADDRESS:PORT\" or {{ portal = \"ADDRESS:PORT\", ... }}",
                other.kind()
            );
            problems.push(Problem { place: item.place.clone(), key: "target.paths".to_owned(), message });
            return None;
        }
    };
    let mut keys = Keys::new(section, "target.paths", problems);
    let address = keys.required("portal", "write portal = \"ADDRESS:PORT\"", portal);
    let local = local(&mut keys, &item.place, address.map(|address| address.is_ipv4()));
    let name = keys.optional("name", value::text).unwrap_or_default();
    let target = keys.optional("target", value::iscsi_name).unwrap_or_default();
    let weight = weight(&mut keys);
    let credentials = auth::credentials(&mut keys, "upstream_chap");
    keys.reject_unknown();
    Some(PathConfig { name, portal: address?, target, local, weight, mark: None, credentials, group: None })
}

/// The local end of a way to portals of this address family.
pub(super) fn local(keys: &mut Keys<'_>, place: &Place, v4: Option<bool>) -> Local {
    let source = keys.optional("source", source);
    let interface = keys.optional("interface", interface);
    if source.is_some() && interface.is_some() {
        keys.problem(place.clone(), "source", "and interface cannot both be given; keep one of them");
    }
    if let (Some(v4), Some(source)) = (v4, source)
        && v4 != source.is_ipv4()
    {
        keys.problem(
            place.clone(),
            "source",
            "is of another address family than the portal; use one of the same",
        );
    }
    source.map(Local::Source).or_else(|| interface.map(Local::Interface)).unwrap_or(Local::Any)
}

pub(super) fn weight(keys: &mut Keys<'_>) -> u32 {
    keys.or("weight", 1, |value| value::number(value, 1, 1000))
}

/// A portal and the local end, in one word.
pub(super) fn way(portal: SocketAddr, local: &Local) -> String {
    match local {
        Local::Any => portal.to_string(),
        Local::Source(address) => format!("{portal}@{address}"),
        Local::Interface(name) => format!("{portal}@{name}"),
    }
}

pub(super) fn address(value: &Value) -> Read<SocketAddr> {
    value::address(&value::text(value)?)
}

fn portal(value: &Value) -> Read<SocketAddr> {
    value::portal(&value::text(value)?)
}

fn source(value: &Value) -> Read<IpAddr> {
    let text = value::text(value)?;
    let address: Option<IpAddr> = text.parse().ok();
    address.filter(|address| !address.is_unspecified()).ok_or_else(|| {
        format!(
            "\"{text}\" is not an IP address of this machine; write one such as \"10.0.1.2\", without a port"
        )
    })
}

fn interface(value: &Value) -> Read<String> {
    let text = value::text(value)?;
    if text.len() > 15 || text.contains(|c: char| c == '/' || c.is_whitespace()) {
        return Err(format!("\"{text}\" is no interface name; write one such as \"eth1\""));
    }
    Ok(text)
}

/// Names the paths that have no name, and their targets, and refuses those that are alike.
fn check_paths(section: &Section, target: &mut Target, problems: &mut Vec<Problem>) {
    let place = section.get("paths").map_or_else(|| section.place.clone(), |paths| paths.place.clone());
    let mut problem = |message: String| {
        problems.push(Problem { place: place.clone(), key: "target.paths".to_owned(), message });
    };
    if target.paths.len() > Config::MAX_PATHS {
        problem(format!("{} paths are given; at most {} can be used", target.paths.len(), Config::MAX_PATHS));
    }
    let mut seen = BTreeMap::new();
    for path in &mut target.paths {
        let mut way = way(path.portal, &path.local);
        if path.target.is_empty() {
            path.target.clone_from(&target.name);
        } else if path.target != target.name {
            // Two targets may share a portal.
            write!(way, "/{}", path.target).ok();
        }
        if path.name.is_empty() {
            path.name.clone_from(&way);
        }
        if seen.insert(way.clone(), "way").is_some() {
            problem(format!(
                "{way} is listed twice; remove one, or give each its own source or interface if they are different ways"
            ));
        } else if path.name != way && seen.insert(path.name.clone(), "name").is_some() {
            problem(format!("two paths are named \"{}\"; give each its own name", path.name));
        }
    }
}

fn check_targets(section: &Section, config: &Config, problems: &mut Vec<Problem>) {
    let tables: &[Placed] = match section.get("target").map(|placed| &placed.value) {
        Some(Value::List(tables)) => tables,
        _ => return,
    };
    let place =
        |index: usize| tables.get(index).map_or_else(|| section.place.clone(), |table| table.place.clone());
    for (index, target) in config.targets.iter().enumerate() {
        let earlier = config.targets.iter().take(index);
        let twice = !target.name.is_empty() && !target.is_pattern();
        if twice && earlier.into_iter().any(|other| other.name == target.name) {
            let message =
                format!("\"{}\" is given twice; put all its paths into one [[target]]", target.name);
            problems.push(Problem { place: place(index), key: "target.name".to_owned(), message });
        }
        for path in target
            .paths
            .iter()
            .filter(|path| config.listen.iter().any(|listen| listen.address == path.portal))
        {
            let message =
                format!("{} is where Braid itself listens; write the target's own portal", path.portal);
            problems.push(Problem { place: place(index), key: "target.paths".to_owned(), message });
        }
    }
}

/// Legal, but probably not meant.
fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(admin) = config.admin.filter(|admin| !admin.ip().is_loopback()) {
        warnings.push(format!("admin: {admin} can be reached from other machines, and has no password"));
    }
    if let Some(remote) = config.remote_control.as_ref().filter(|remote| !remote.address.ip().is_loopback()) {
        warnings.push(format!(
            "remote_control: {} can be reached from other machines, and tokens go there in clear: keep it on a network of its own",
            remote.address
        ));
    }
    warnings.extend(listener::warnings(config));
    for target in &config.targets {
        let mut warn = |text: &str| warnings.push(format!("target {}: {text}", target.name));
        if let ([_], None) = (target.paths.as_slice(), &target.discover) {
            warn("has a single path: when it fails there is nothing to move to");
        }
        let weighted = target.paths.iter().any(|path| path.weight != 1);
        if weighted && !matches!(target.policy, Policy::Weighted | Policy::QueueDepth) {
            warn("weights are given, but only the policies weighted and queue-depth use them");
        }
        if target.fence == FenceMethod::Time && target.fence_time.is_zero() {
            warn(
                "fence = \"time\" with fence_time = \"0s\" is no fence: a late write may overwrite a newer one",
            );
        }
        auth::warnings(target).iter().for_each(|text| warn(text));
    }
    warnings
}
