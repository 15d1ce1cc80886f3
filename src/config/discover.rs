//! Targets of which only portals are known that tell of them: the keys `discover` and `path_rules`.
//!
//! Such a table stands for every target whose name fits its own, which may be a pattern. Its `paths` are the portals to be
//! asked; what these tell ([`Target::paths_to`]) becomes the paths of the target.

use super::auth;
use super::draft::{Placed, Value};
use super::keys::Keys;
use super::problem::Problem;
use super::schema;
use super::{Config, Discover, Local, PathConfig, PathRule, Target, value};
use std::net::SocketAddr;
use wildmatch::WildMatch;

/// Reads the keys of a target that have to do with discovery. None unless it is to be discovered.
pub(super) fn read(keys: &mut Keys<'_>) -> Option<Discover> {
    let wanted = keys.or("discover", false, value::boolean);
    let rules = keys.list("path_rules", rule);
    if !wanted {
        if rules.is_some() {
            keys.problem(
                keys.place(),
                "path_rules",
                "are for portals that are discovered; write discover = true too, or give each path its own source or interface",
            );
        }
        return None;
    }
    Some(Discover { rules: rules.unwrap_or_default(), credentials: None })
}

fn rule(item: &Placed, problems: &mut Vec<Problem>) -> Option<PathRule> {
    const KEY: &str = "target.path_rules";
    let Value::Table(section) = &item.value else {
        let message = format!(
            "is {}, must be a table such as {{ portals = \"10.0.1.0/24\", interface = \"eth1\" }}",
            item.value.kind()
        );
        problems.push(Problem { place: item.place.clone(), key: KEY.to_owned(), message });
        return None;
    };
    let mut keys = Keys::new(section, KEY, problems);
    let portals = keys.required(
        "portals",
        "write which portals it is for, such as portals = \"10.0.1.0/24\"",
        auth::network,
    );
    let local = schema::local(&mut keys, &item.place, portals.map(|portals| portals.addr().is_ipv4()));
    let weight = schema::weight(&mut keys);
    keys.reject_unknown();
    Some(PathRule { portals: portals?, local, weight })
}

/// Checks a table whose targets are discovered: its paths are portals to be asked, no more.
pub(super) fn check(paths: Option<&Placed>, target: &Target, problems: &mut Vec<Problem>) {
    let Some(Placed { value: Value::List(items), .. }) = paths else { return };
    for item in items {
        if let Value::Table(section) = &item.value
            && let Some(placed) = section.get("target")
            && target.discover.is_some()
        {
            let message = "is told by the portal itself where discover = true; remove it, or write a [[target]] without discover";
            let (place, key) = (placed.place.clone(), "target.paths.target".to_owned());
            problems.push(Problem { place, key, message: message.to_owned() });
        }
    }
}

impl Target {
    /// Whether its name stands for more than one.
    #[must_use]
    pub fn is_pattern(&self) -> bool {
        self.discover.is_some() && self.name.contains(['*', '?'])
    }

    /// Whether its table is for a target of this name.
    #[must_use]
    pub fn is_for(&self, name: &str) -> bool {
        if self.is_pattern() {
            !name.is_empty() && WildMatch::new(&self.name).matches(name)
        } else {
            self.name == name
        }
    }

    /// The paths of a discovered target to a portal of this portal group: those that the configuration writes out for it,
    /// else one for each rule that fits, else, without any rules, the way that the routing table gives.
    #[must_use]
    pub fn paths_to(&self, target: &str, portal: SocketAddr, group: Option<u16>) -> Vec<PathConfig> {
        let Some(discover) = &self.discover else { return Vec::new() };
        let written = self.paths.iter().filter(|path| path.portal == portal);
        let written = written.map(|path| PathConfig { target: target.to_owned(), group, ..path.clone() });
        let mut paths: Vec<_> = written.collect();
        let ruled = |local: Local, weight| {
            let credentials = discover.credentials.clone();
            let mark = self.paths.first().and_then(|path| path.mark);
            let (name, target) = (schema::way(portal, &local), target.to_owned());
            PathConfig { name, portal, target, local, weight, mark, credentials, group }
        };
        if paths.is_empty() {
            let rules = discover.rules.iter().filter(|rule| rule.portals.contains(&portal.ip()));
            paths.extend(rules.map(|rule| ruled(rule.local.clone(), rule.weight)));
        }
        if paths.is_empty() && discover.rules.is_empty() {
            paths.push(ruled(Local::Any, 1));
        }
        paths
    }
}

impl Config {
    /// The tables that a target of this name may be served by, the first of them that has it: the one with just this name,
    /// else those whose patterns fit, in the order written.
    pub fn tables(&self, name: &str) -> impl Iterator<Item = &Target> {
        let fits = |target: &&Target| target.is_for(name);
        let own = self.targets.iter().filter(fits).find(|target| !target.is_pattern());
        let patterns =
            self.targets.iter().filter(move |_| own.is_none()).filter(|target| target.is_for(name));
        own.into_iter().chain(patterns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigError;

    fn parse(lines: &str) -> Result<Config, ConfigError> {
        Config::from_toml(&format!("[[target]]\n{lines}\n"), "t.toml")
    }

    fn table(lines: &str) -> Target {
        parse(lines).unwrap_or_else(|error| panic!("{error}")).targets.remove(0)
    }

    fn problem(lines: &str) -> String {
        parse(lines).expect_err("must be refused").to_string()
    }

    #[test]
    fn a_name_may_be_a_pattern_if_it_is_discovered() {
        let any = table("name = \"*\"\ndiscover = true\npaths = [\"10.0.0.1\"]");
        assert!(any.is_pattern() && any.is_for("iqn.a") && !any.is_for(""));
        let some = table("name = \"iqn.a:?\"\ndiscover = true\npaths = [\"10.0.0.1\"]");
        assert!(some.is_for("iqn.a:1") && !some.is_for("iqn.a:12"));
        let one = table("name = \"iqn.a\"\ndiscover = true\npaths = [\"10.0.0.1\"]");
        assert!(!one.is_pattern() && one.is_for("iqn.a"));
        assert_eq!(table("name = \"iqn.a\"\ndiscover = false\npaths = [\"10.0.0.1\"]").discover, None);
        assert!(problem("name = \"iqn.*\"\npaths = [\"10.0.0.1\"]").starts_with(
            "t.toml:2:8: target.name: \"iqn.*\" is a pattern; write the target's whole name, or discover = true"
        ));
    }

    #[test]
    fn wrong_settings_are_told_with_their_line() {
        let base = "name = \"*\"\ndiscover = true\n";
        for (lines, said) in [
            (
                "name = \"*\"\ndiscover = \"yes\"\npaths = [\"10.0.0.1\"]",
                "t.toml:3:12: target.discover: is a string, must be true or false",
            ),
            (
                "name = \"iqn.a\"\npath_rules = [{ portals = \"10.0.0.1\" }]\npaths = [\"10.0.0.1\"]",
                "write discover = true too",
            ),
            (
                &format!("{base}paths = [{{ portal = \"10.0.0.1\", target = \"iqn.a\" }}]"),
                "t.toml:4:42: target.paths.target: is told by the portal itself",
            ),
            (
                &format!("{base}paths = [\"10.0.0.1\"]\npath_rules = [\"eth1\"]"),
                "t.toml:5:15: target.path_rules: is a string, must be a table such as { portals",
            ),
            (
                &format!("{base}paths = [\"10.0.0.1\"]\npath_rules = [{{ interface = \"eth1\" }}]"),
                "target.path_rules.portals: is missing; write which portals",
            ),
            (
                &format!(
                    "{base}paths = [\"10.0.0.1\"]\npath_rules = [{{ portals = \"fd00::/8\", source = \"10.0.0.9\" }}]"
                ),
                "is of another address family",
            ),
            (
                &format!(
                    "{base}paths = [\"10.0.0.1\"]\npath_rules = [{{ portals = \"10.0.0.0/8\", wight = 1 }}]"
                ),
                "did you mean weight?",
            ),
        ] {
            let told = problem(lines);
            assert!(told.contains(said), "{said}\n{told}");
        }
    }

    #[test]
    fn the_paths_to_a_portal_are_written_out_or_ruled() {
        let table = table(
            "name = \"*\"\ndiscover = true\npaths = [\"10.0.0.1\", { portal = \"10.0.0.2\", interface = \"eth2\", weight = 3 }]\n\
             policy = \"weighted\"\npath_rules = [{ portals = \"10.0.0.0/24\", source = \"10.0.0.9\" }, { portals = \"10.0.0.3\", interface = \"eth3\" }]",
        );
        let names = |portal: &str| -> Vec<String> {
            let paths = table.paths_to("iqn.a", portal.parse().unwrap(), Some(7));
            assert!(paths.iter().all(|path| path.target == "iqn.a" && path.group == Some(7)));
            paths.into_iter().map(|path| path.name).collect()
        };
        assert_eq!(names("10.0.0.1:3260"), ["10.0.0.1:3260"]);
        assert_eq!(names("10.0.0.2:3260"), ["10.0.0.2:3260@eth2"]);
        assert_eq!(names("10.0.0.3:3260"), ["10.0.0.3:3260@10.0.0.9", "10.0.0.3:3260@eth3"]);
        assert!(names("10.0.1.1:3260").is_empty());
    }

    #[test]
    fn a_name_is_served_by_its_own_table_before_any_pattern() {
        let text = "[[target]]\nname = \"*\"\ndiscover = true\npaths = [\"10.0.0.1\"]\n\
                    [[target]]\nname = \"iqn.a*\"\ndiscover = true\npaths = [\"10.0.0.2\"]\n\
                    [[target]]\nname = \"iqn.a\"\npaths = [\"10.0.0.3\"]\n";
        let config = Config::from_toml(text, "t").unwrap();
        let tables = |name| config.tables(name).map(|table| table.name.as_str()).collect::<Vec<_>>();
        assert_eq!(tables("iqn.a"), ["iqn.a"]);
        assert_eq!(tables("iqn.ab"), ["*", "iqn.a*"]);
        assert_eq!(tables("iqn.b"), ["*"]);
        assert!(tables("").is_empty());
    }
}
