//! `braid probe` and `braid discover`: questions to a target, answered on standard output.

use super::check::describe_local;
use super::exit::Failure;
use super::flags::{Discover, Probe, Way};
use crate::config::{Config, Local, PathConfig, Target};
use crate::login::LoginError;
use crate::login::chap::Credentials;
use crate::login::discovery::TargetRecord;
use crate::proxy::catalogue;
use crate::proxy::dial::{DialError, Route, Timing, local_address};
use crate::proxy::discover::{DiscoverError, discover as send_targets};
use crate::proxy::probe::{self, Patience, ProbePlan, throwaway_isid};
use crate::proxy::told::Answer;
use anyhow::{Context, anyhow};
use std::fmt::{Display, Write};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Probes a target; gives the table to print.
///
/// # Errors
/// The target cannot be logged in to.
pub fn probe(asked: &Probe) -> Result<String, Failure> {
    let ways = Ways::new(&asked.way)?;
    let first = ways.to(&asked.first, Some(&asked.target));
    let second =
        asked.second.as_ref().map_or_else(|| first.clone(), |typed| ways.to(typed, Some(&asked.target)));
    let plan = ProbePlan {
        routes: [first, second],
        timing: Timing::default(),
        target: asked.target.clone(),
        initiator: asked.initiator.clone(),
        isid: throwaway_isid(),
        patience: Patience::default(),
    };
    let report = runtime()?.block_on(probe::probe(&plan));
    let report = report.map_err(|error| unavailable(&asked.target, &error, Some(&error)))?;
    Ok(probe::render(&report))
}

/// Asks a portal for its targets; gives the list to print. Without a portal, asks those of the configuration, and tells what
/// becomes of their answers.
///
/// # Errors
/// The portal does not answer, or none of several does.
pub fn discover(asked: &Discover) -> Result<String, Failure> {
    let ways = Ways::new(&asked.way)?;
    match (&asked.portal, &ways.config) {
        (Some(portal), _) => {
            let route = ways.to(portal, None);
            let timing = Timing::default();
            let answer =
                runtime()?.block_on(send_targets(&route, &asked.initiator, throwaway_isid(), &timing));
            let targets = answer.map_err(|error| {
                let dial = if let DiscoverError::Dial(dial) = &error { Some(dial) } else { None };
                unavailable(&route.portal, &error, dial)
            })?;
            Ok(list(&targets))
        }
        (None, Some(config)) => runtime()?.block_on(survey(&ways, config, &asked.initiator)),
        (None, None) => Err(anyhow!("neither a portal nor --config is given").into()),
    }
}

/// What went wrong at a target or portal, and what to do about it where that is known.
fn unavailable(what: &str, error: &impl Display, dial: Option<&DialError>) -> Failure {
    let advice = dial.and_then(advice).map(|advice| format!("; {advice}")).unwrap_or_default();
    Failure::Unavailable(format!("{what}: {error}{advice}"))
}

fn advice(error: &DialError) -> Option<&'static str> {
    const NOBODY: [ErrorKind; 3] =
        [ErrorKind::TimedOut, ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable];
    if let DialError::Connect { error, .. } = error {
        return if error.kind() == ErrorKind::ConnectionRefused {
            Some("nothing listens there: is it the target's portal, and does the target run?")
        } else if NOBODY.contains(&error.kind()) {
            Some("nobody answers: look at the address, the route to it, and firewalls on the way")
        } else {
            None
        };
    }
    let DialError::Login(LoginError::Refused { class: 2, detail }) = error else { return None };
    match detail {
        1 => Some("it wants a proof: give --chap-name and --chap-secret-file, or --config"),
        2 => Some("it lets other initiators in: give a name that it knows with --initiator"),
        3 => Some("`braid discover PORTAL` shows which targets there are"),
        _ => None,
    }
}

/// How portals are reached.
struct Ways {
    config: Option<Config>,
    credentials: Option<Arc<Credentials>>,
}

impl Ways {
    fn new(typed: &Way) -> Result<Self, Failure> {
        let config = typed.config.as_deref().map(Config::load).transpose()?;
        let credentials = match (&typed.chap_name, &typed.chap_secret_file) {
            (Some(name), Some(file)) => Config::credentials(name, file)?,
            _ => None,
        };
        Ok(Self { config, credentials })
    }

    /// The way to a portal as it was typed: that of the configuration's path there, to this target if it matters.
    fn to(&self, typed: &str, target: Option<&str>) -> Route {
        let portal = portal(typed);
        let address: Option<SocketAddr> = portal.parse().ok();
        let tables = self.config.iter().flat_map(|config| match target {
            Some(name) => config.tables(name).collect::<Vec<_>>(),
            None => config.targets.iter().collect(),
        });
        let paths = |table: &Target| {
            let address = address?;
            let written = table.paths.iter().find(|path| path.portal == address).cloned();
            written.or_else(|| table.paths_to(&table.name, address, None).into_iter().next())
        };
        let configured = tables.filter_map(paths).next().map(|path| Route::from(&path));
        let mark = self.config.as_ref().and_then(Config::own_mark);
        self.proving(Route {
            portal: portal.clone(),
            ..configured.unwrap_or(Route { mark, ..Route::to(portal) })
        })
    }

    /// With the credentials that were typed, if any.
    fn proving(&self, route: Route) -> Route {
        Route { credentials: self.credentials.clone().or(route.credentials), ..route }
    }
}

/// Asks the portals of all targets that are discovered, and tells which paths these get.
async fn survey(ways: &Ways, config: &Config, initiator: &str) -> Result<String, Failure> {
    let tables: Vec<_> = config.targets.iter().filter(|table| table.discover.is_some()).collect();
    if tables.is_empty() {
        let why = "no [[target]] of the configuration has discover = true: type the portal to ask";
        return Err(anyhow!(why).into());
    }
    let listeners: Vec<_> = config.listen.iter().map(|listen| listen.address).collect();
    let mut text = String::new();
    let mut answered = false;
    for table in tables {
        let answers = ask_all(ways, table, initiator).await;
        answered |= answers.iter().any(Result::is_ok);
        // Writing to a String cannot fail.
        for (path, answer) in table.paths.iter().zip(&answers) {
            match answer {
                Ok(answer) => writeln!(text, "portal {}: {} targets", path.portal, answer.len()),
                Err(why) => writeln!(text, "portal {}: {why}", path.portal),
            }
            .ok();
        }
        let answers: Vec<Option<Answer>> = answers.into_iter().map(Result::ok).collect();
        let targets = catalogue::served(table, &answers, None, &listeners);
        for target in targets.iter().filter(|target| config.tables(&target.name).any(|own| own == table)) {
            describe(&mut text, target, &answers);
        }
    }
    if answered { Ok(text) } else { Err(Failure::Unavailable(text.trim_end().to_owned())) }
}

/// What the portals of a table tell, each.
async fn ask_all(ways: &Ways, table: &Target, initiator: &str) -> Vec<Result<Answer, String>> {
    let mut asking = JoinSet::new();
    for (place, path) in table.paths.iter().enumerate() {
        let (route, initiator) = (ways.proving(Route::from(path)), initiator.to_owned());
        asking.spawn(async move {
            let answer = send_targets(&route, &initiator, throwaway_isid(), &Timing::default()).await;
            (place, answer.map(Answer::from).map_err(|error| error.to_string()))
        });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(place, _)| *place);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// A target that was discovered, its paths, and the portals that it has no path to.
fn describe(text: &mut String, target: &Target, answers: &[Option<Answer>]) {
    writeln!(text, "{}", target.name).ok();
    for path in &target.paths {
        writeln!(text, "  path {}", describe_path(path)).ok();
    }
    let records = answers.iter().flatten().flat_map(|answer| answer.iter());
    let told = records.filter(|record| record.name == target.name).flat_map(|record| &record.portals);
    let mut unused: Vec<_> = told
        .filter(|(address, _)| !target.paths.iter().any(|path| path.portal.to_string() == *address))
        .collect();
    unused.sort_unstable();
    unused.dedup();
    for (address, group) in unused {
        writeln!(text, "  not used: {address}, portal group {group}: no path rule is for it, or it cannot be reached from here").ok();
    }
}

fn describe_path(path: &PathConfig) -> String {
    let group = path.group.map_or_else(
        || "its portal group is not known, since it tells nothing".to_owned(),
        |group| format!("portal group {group}"),
    );
    let local = match path.local {
        Local::Any => local_address(path.portal)
            .map_or_else(|error| format!(" (no way there: {error})"), |address| format!(" from {address}")),
        Local::Source(_) | Local::Interface(_) => describe_local(&path.local),
    };
    format!("{}{local}, {group}", path.portal)
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.context("cannot start the runtime")?)
}

/// `host:port`, with the iSCSI port if none was typed.
fn portal(typed: &str) -> String {
    let bare = typed.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:3260"),
        Ok(IpAddr::V4(address)) => format!("{address}:3260"),
        Err(_) if typed.contains(':') => typed.to_owned(),
        Err(_) => format!("{typed}:3260"),
    }
}

/// One line per target and portal.
fn list(targets: &[TargetRecord]) -> String {
    let mut text = String::new();
    for target in targets {
        for (address, group) in &target.portals {
            // Writing to a String cannot fail.
            writeln!(text, "{}  {address}  portal group {group}", target.name).ok();
        }
    }
    if text.is_empty() {
        text.push_str("no targets are offered to this initiator name\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portal_gets_the_iscsi_port() {
        for (typed, meant) in [
            ("10.0.0.1", "10.0.0.1:3260"),
            ("10.0.0.1:860", "10.0.0.1:860"),
            ("storage", "storage:3260"),
            ("storage:860", "storage:860"),
            ("fd00::1", "[fd00::1]:3260"),
            ("[fd00::1]", "[fd00::1]:3260"),
            ("[fd00::1]:860", "[fd00::1]:860"),
        ] {
            assert_eq!(portal(typed), meant);
        }
    }

    #[test]
    fn every_portal_is_a_line() {
        let portals = vec![("10.0.0.1:3260".to_owned(), 1), ("10.0.0.2:3260".to_owned(), 2)];
        let shown = list(&[TargetRecord { name: "iqn.a".to_owned(), portals }]);
        assert_eq!(shown, "iqn.a  10.0.0.1:3260  portal group 1\niqn.a  10.0.0.2:3260  portal group 2\n");
        assert!(list(&[]).contains("no targets"));
    }

    #[test]
    fn credentials_come_from_the_configuration_or_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let secret = file("secret", "not-to-be-shown").display().to_string();
        let account = format!("upstream_chap = {{ name = \"NAME\", secret_file = {secret:?} }}");
        let config = format!(
            "[[target]]\nname = \"iqn.a\"\npaths = [{{ portal = \"10.0.0.1\", source = \"10.0.0.9\" }}]\nallow = {{ names = [\"iqn.me\"] }}\n{}\n\
             [[target]]\nname = \"*\"\ndiscover = true\npaths = [\"10.0.0.1\"]\nallow = {{ names = [\"iqn.me\"] }}\n{}\n",
            account.replace("NAME", "first"),
            account.replace("NAME", "second"),
        );
        let config = Some(file("braid.toml", &config));
        let ways = Ways::new(&Way { config: config.clone(), ..Way::default() }).unwrap();
        let name = |route: Route| route.credentials.map(|credentials| credentials.own.name.clone());
        let first = ways.to("10.0.0.1", Some("iqn.a"));
        assert_eq!(first.source, Some("10.0.0.9".parse().unwrap()));
        assert_eq!(name(first).as_deref(), Some("first"));
        assert_eq!(name(ways.to("10.0.0.1", Some("iqn.b"))).as_deref(), Some("second"));
        assert_eq!(
            name(ways.to("10.0.0.7:860", Some("iqn.b"))).as_deref(),
            Some("second"),
            "it may be told of"
        );
        assert_eq!(name(ways.to("10.0.0.7", Some("iqn.a"))), None);
        let (chap_name, chap_secret_file) = (Some("typed".to_owned()), Some(secret));
        let ways = Ways::new(&Way { config, chap_name, chap_secret_file }).unwrap();
        assert_eq!(name(ways.to("10.0.0.1", Some("iqn.a"))).as_deref(), Some("typed"));
        let (chap_name, chap_secret_file) = (Some("typed".to_owned()), Some("/nowhere".to_owned()));
        let Err(failure) = Ways::new(&Way { config: None, chap_name, chap_secret_file }) else {
            panic!("no secret")
        };
        assert!(
            failure.to_string().starts_with("--chap-secret-file: cannot read the secret in /nowhere"),
            "{failure}"
        );
        assert_eq!(failure.number(), 64);
    }

    #[test]
    fn a_portal_that_is_not_there_is_unavailable() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let portal = listener.local_addr().unwrap().to_string();
        drop(listener);
        let initiator = "iqn.2026-01.org.braid:test".to_owned();
        let failure = discover(&Discover {
            portal: Some(portal.clone()),
            initiator: initiator.clone(),
            way: Way::default(),
        })
        .unwrap_err();
        assert_eq!(failure.number(), 69, "{failure}");
        let (target, way) = ("iqn.a".to_owned(), Way::default());
        let asked = Probe { first: portal, target, second: None, initiator, way };
        assert_eq!(probe(&asked).unwrap_err().number(), 69);
    }
}
