//! `braid check`: what a configuration comes to.

use crate::config::{Chap, Config, ControlSocket, Listen, Local, PathConfig, Target, Token};
use std::fmt::Write;
use std::time::Duration;

/// The configuration in words, one setting group per line; warnings are the caller's to show.
#[must_use]
pub fn describe(config: &Config) -> String {
    let mut text = String::new();
    let listen: Vec<_> = config.listen.iter().map(describe_listener).collect();
    let admin = config.admin.map_or_else(|| "off".to_owned(), |admin| admin.to_string());
    let control = match &config.control {
        ControlSocket::Off => "off".into(),
        ControlSocket::Usual => Config::DEFAULT_CONTROL.into(),
        ControlSocket::At(path) => path.to_string_lossy(),
    };
    let state = config.state_file.as_ref().map_or_else(|| "none".into(), |file| file.to_string_lossy());
    let mut line = |content: String| {
        // Writing to a String cannot fail.
        writeln!(text, "{content}").ok();
    };
    line(format!("listen {}; admin {admin}; control {control}; state file {state}", listen.join(", ")));
    if let Some(remote) = &config.remote_control {
        let who = |token: &Token| format!("{} ({})", token.account.name, token.level.word());
        let tokens: Vec<_> = remote.tokens.iter().map(who).collect();
        line(format!("remote control {}; tokens {}", remote.address, tokens.join(", ")));
    }
    if let Some(mark) = config.own_mark() {
        line(format!("own connections carry the mark {mark:#x}"));
    }
    if config.discovery_chap != Chap::None {
        line(format!("discovery {}", describe_chap(&config.discovery_chap)));
    }
    for target in &config.targets {
        line(describe_target(target));
        line(format!("  initiators {}", describe_access(target)));
        let word = if target.discover.is_some() { "asks portal" } else { "path" };
        for path in &target.paths {
            line(format!("  {word} {}", describe_path(path, target)));
        }
        for rule in target.discover.iter().flat_map(|discover| &discover.rules) {
            line(format!(
                "  portals in {}{}, weight {}",
                rule.portals,
                describe_local(&rule.local),
                rule.weight
            ));
        }
    }
    text
}

fn describe_listener(listen: &Listen) -> String {
    let balancers: Vec<_> = listen.balancers.iter().map(ToString::to_string).collect();
    let how = match listen.intercept {
        Some(how) => format!(" (intercepts by {})", how.word()),
        None if balancers.is_empty() => String::new(),
        None => format!(" (PROXY protocol from {})", balancers.join(", ")),
    };
    format!("{}{how}", listen.address)
}

/// A target's settings in one line.
#[must_use]
pub fn describe_target(target: &Target) -> String {
    let [mode, policy, barriers, recovery, fence, exhausted] = target.words();
    let time = |time: Duration| humantime::format_duration(time).to_string();
    format!(
        "target {}: mode {mode}, policy {policy}, barriers {barriers}, upstream recovery {recovery}, fence {fence} (fence time {}), \
         ping every {} for {}, \
         all paths down: wait {}, then {exhausted}, window {}, memory {} MiB, initiator connections {}",
        target.name,
        time(target.fence_time),
        time(target.ping_interval),
        time(target.ping_timeout),
        time(target.queue_time),
        target.window,
        target.memory >> 20,
        target.initiator_connections,
    )
}

/// Who is let in, and how he and Braid prove themselves, in one line.
#[must_use]
pub fn describe_access(target: &Target) -> String {
    let mut parts = Vec::new();
    if target.allow.is_empty() {
        parts.push("any".to_owned());
    }
    if !target.allow.names.is_empty() {
        parts.push(format!("named {}", target.allow.names.join(" or ")));
    }
    if !target.allow.addresses.is_empty() {
        let networks: Vec<_> = target.allow.addresses.iter().map(ToString::to_string).collect();
        parts.push(format!("from {}", networks.join(" or ")));
    }
    parts.push(describe_chap(&target.chap));
    let with = target.paths.iter().filter(|path| path.credentials.is_some()).count();
    if with > 0 || target.chap == Chap::Relay {
        parts.push(format!("upstream chap on {with} of {} paths", target.paths.len()));
    }
    parts.join(", ")
}

fn describe_chap(chap: &Chap) -> String {
    match chap {
        Chap::None => "no chap".to_owned(),
        Chap::Relay => "chap relayed to the target".to_owned(),
        Chap::Terminate(accounts) => {
            let number = accounts.initiators.len();
            let plural = if number == 1 { "" } else { "s" };
            let mutual = if accounts.own.is_some() { ", mutual" } else { "" };
            format!("chap with {number} account{plural}{mutual}")
        }
    }
}

/// A path in one line.
#[must_use]
pub fn describe_path(path: &PathConfig, target: &Target) -> String {
    let local = describe_local(&path.local);
    let name = if path.name.starts_with(&path.portal.to_string()) {
        String::new()
    } else {
        format!("{}: ", path.name)
    };
    let twin = if path.target == target.name { String::new() } else { format!(", target {}", path.target) };
    format!("{name}{}{local}{twin}, weight {}", path.portal, path.weight)
}

/// The local end of a path, if it is not the routing table's choice.
#[must_use]
pub fn describe_local(local: &Local) -> String {
    match local {
        Local::Any => String::new(),
        Local::Source(address) => format!(" from {address}"),
        Local::Interface(name) => format!(" through {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_description_names_every_path() {
        let text = "[[target]]\nname = \"iqn.a\"\npaths = [\"10.0.0.1\",\n\
                    { portal = \"10.0.0.2\", interface = \"eth1\", name = \"spare\" },\n\
                    { portal = \"10.0.0.3\", target = \"iqn.b\" }]\n";
        let shown = describe(&Config::from_toml(text, "t").unwrap());
        for part in [
            "listen 0.0.0.0:3260",
            "target iqn.a: mode auto, policy service-time, barriers strict, upstream recovery reinstate, fence auto (fence time 30s)",
            "initiators any, no chap",
            "path 10.0.0.1:3260, weight 1",
            "path spare: 10.0.0.2:3260 through eth1",
            "path 10.0.0.3:3260, target iqn.b, weight 1",
        ] {
            assert!(shown.contains(part), "{part} is missing in\n{shown}");
        }
    }

    #[test]
    fn what_is_asked_and_what_becomes_of_it_is_told() {
        let text = "[[target]]\nname = \"*\"\ndiscover = true\npaths = [\"10.0.0.1\"]\n\
                    path_rules = [{ portals = \"10.0.1.0/24\", interface = \"eth1\" }]\n";
        let shown = describe(&Config::from_toml(text, "t").unwrap());
        for part in
            ["target *:", "asks portal 10.0.0.1:3260", "portals in 10.0.1.0/24 through eth1, weight 1"]
        {
            assert!(shown.contains(part), "{part} is missing in\n{shown}");
        }
    }

    #[test]
    fn who_is_let_in_is_told_without_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "not-to-be-shown").unwrap();
        let account = format!("{{ name = \"a\", secret_file = \"{}\" }}", secret.display());
        let text = format!(
            "discovery = {{ chap = {{ initiators = [{account}] }} }}\n[[target]]\nname = \"iqn.a\"\n\
             paths = [\"10.0.0.1\", \"10.0.0.2\"]\nchap = \"relay\"\nupstream_chap = {account}\n\
             allow = {{ names = [\"iqn.b\", \"iqn.c*\"], addresses = [\"10.0.0.0/24\"] }}\n"
        );
        let shown = describe(&Config::from_toml(&text, "t").unwrap_or_else(|error| panic!("{error}")));
        for part in [
            "discovery chap with 1 account\n",
            "initiators named iqn.b or iqn.c*, from 10.0.0.0/24, chap relayed to the target, upstream chap on 2 of 2 paths",
        ] {
            assert!(shown.contains(part), "{part} is missing in\n{shown}");
        }
        assert!(!shown.contains("not-to-be"), "{shown}");
    }

    #[test]
    fn the_example_files_are_right() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        let configs: Vec<_> =
            files.iter().filter(|file| file.extension().is_some_and(|end| end == "toml")).collect();
        assert!(configs.len() >= 3);
        for file in configs {
            let config = Config::load(file).unwrap_or_else(|error| panic!("{error}"));
            assert!(config.warnings.is_empty(), "{}: {:?}", file.display(), config.warnings);
        }
    }

    #[test]
    fn the_full_example_shows_the_defaults() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let full = std::fs::read_to_string(folder.join("full.toml")).unwrap();
        let mut full = Config::from_toml(&full, "full.toml").unwrap();
        let mut minimal = Config::load(&folder.join("minimal.toml")).unwrap();
        assert!(full.state_file.take().is_some() && full.black_box.incidents.take().is_some());
        let usual = ControlSocket::At(Config::DEFAULT_CONTROL.into());
        assert_eq!(std::mem::take(&mut full.control), usual);
        minimal.targets[0].paths.clone_from(&full.targets[0].paths);
        assert_eq!(full, minimal);
    }
}
