//! Which targets are served: those that the configuration writes out, and those that portals tell of.
//!
//! A table with `discover` ([`crate::config::Target::discover`]) is no target itself. Its portals are asked ([`super::told`]),
//! and [`served`] makes targets of what they tell: the union of all answers, because many targets show only the portal that
//! was asked. Paths to one portal group stand together, in the order in which the portals were written. A portal to be asked
//! of which nothing is known yet is taken for one of every target that the others tell of: if it is dead, a session that
//! begins now has it as a path when it is back.
//!
//! # Bounds
//! `MAX_TARGETS` targets of a table, [`Config::MAX_PATHS`] paths of a target; what is beyond is not served.

use super::intercept::{has_portal, own};
use super::told::Answer;
use super::{Shared, access};
use crate::config::{Config, PathConfig, Target};
use crate::login::Intent;
use crate::login::discovery::TargetRecord;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// Targets of one table at most.
const MAX_TARGETS: usize = 1024;

/// The portals of a target, with their tags.
type Portals = Vec<(SocketAddr, Option<u16>)>;

/// A target that an initiator seeks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sought<'s> {
    pub(super) name: &'s str,
    pub(super) initiator: &'s str,
    /// Where the initiator is.
    pub(super) peer: Option<IpAddr>,
    /// The portal that it wants to reach, if it was intercepted.
    pub(super) wanted: Option<SocketAddr>,
}

/// Whether it is there.
#[derive(Debug)]
pub(super) enum Found {
    /// As it is served now.
    Served(Box<Target>),
    /// No table has it.
    Nowhere,
    /// The tables that might have it do not admit the initiator.
    Denied,
}

impl Shared {
    /// Finds a target: in the first of the tables that may have it and admit the initiator. No portal is asked for others.
    pub(super) async fn target(&self, config: &Config, sought: &Sought<'_>) -> Found {
        let at = |target: &Target| sought.wanted.is_none_or(|wanted| has_portal(target, wanted));
        let tables: Vec<_> = config.tables(sought.name).filter(|table| at(table)).collect();
        let admits = |table: &&&Target| table.allow.admits(sought.initiator, sought.peer);
        let open: Vec<_> = tables.iter().filter(admits).copied().collect();
        if open.is_empty() {
            return if tables.is_empty() { Found::Nowhere } else { Found::Denied };
        }
        if open.len() > 1 {
            open.iter().for_each(|table| self.told.prompt(sought.initiator, &table.paths));
        }
        for table in open {
            if let Some(target) = self.in_table(table, sought).await.filter(|target| at(target)) {
                return Found::Served(Box::new(target));
            }
        }
        Found::Nowhere
    }

    async fn in_table(&self, table: &Target, sought: &Sought<'_>) -> Option<Target> {
        if table.discover.is_none() {
            return Some(table.clone());
        }
        let told = |answers: &[Option<Answer>]| {
            let mut records = answers.iter().flatten().flat_map(|answer| answer.iter());
            records.any(|record| record.name == sought.name)
        };
        let answers = self.told.by(sought.initiator, &table.paths, told).await;
        served(table, &answers, Some(sought.name), &self.portals).pop()
    }

    /// All targets of a table as they are served to an initiator now.
    pub(super) async fn targets_of(&self, config: &Config, table: &Target, initiator: &str) -> Vec<Target> {
        if table.discover.is_none() {
            return vec![table.clone()];
        }
        let all = |answers: &[Option<Answer>]| answers.iter().all(Option::is_some);
        let answers = self.told.by(initiator, &table.paths, all).await;
        let mut targets = served(table, &answers, None, &self.portals);
        targets.retain(|target| config.tables(&target.name).any(|own| std::ptr::eq(own, table)));
        targets
    }

    /// The targets that a discovery session is told of.
    pub(super) async fn shown_to(
        &self,
        config: &Config,
        intent: &Intent,
        address: Option<IpAddr>,
    ) -> Vec<Target> {
        let initiator = &intent.initiator_name;
        let tables: Vec<_> =
            config.targets.iter().filter(|table| access::admits(table, intent, address)).collect();
        let unknown =
            |table: &&&Target| table.discover.is_some() || self.tags.known(&table.name, None).is_none();
        tables.iter().filter(unknown).for_each(|table| self.told.prompt(initiator, &table.paths));
        let (mut shown, mut seen) = (Vec::new(), BTreeSet::new());
        for table in tables {
            for target in self.targets_of(config, table, initiator).await {
                let open = access::shows(config, intent, address, table, &target.name);
                if open && seen.insert(target.name.clone()) {
                    self.learn(&target, initiator).await;
                    shown.push(target);
                }
            }
        }
        shown
    }
}

/// The targets of a table, made of the answers of its portals; only the one of this name if there is one. What Braid listens
/// on itself is nobody's portal.
#[must_use]
pub fn served(
    table: &Target,
    answers: &[Option<Answer>],
    only: Option<&str>,
    listeners: &[SocketAddr],
) -> Vec<Target> {
    let silent: Vec<_> = table.paths.iter().zip(answers).filter(|(_, answer)| answer.is_none()).collect();
    let mut found = found(table, answers, only, listeners);
    if !table.is_pattern() && found.is_empty() && !silent.is_empty() {
        found.push((table.name.clone(), Vec::new()));
    }
    let target = |(name, mut portals): (String, Portals)| {
        for (path, _) in &silent {
            if !portals.iter().any(|(portal, _)| *portal == path.portal) {
                portals.push((path.portal, None));
            }
        }
        let paths = paths(table, &name, &portals);
        (!paths.is_empty()).then(|| Target { name, paths, discover: None, ..table.clone() })
    };
    found.into_iter().filter_map(target).collect()
}

/// The targets that are told of, in the order in which they are.
fn found(
    table: &Target,
    answers: &[Option<Answer>],
    only: Option<&str>,
    listeners: &[SocketAddr],
) -> Vec<(String, Portals)> {
    let mut places = BTreeMap::new();
    let mut found: Vec<(String, Portals)> = Vec::new();
    for (path, answer) in table.paths.iter().zip(answers) {
        for record in answer.iter().flat_map(|answer| answer.iter()) {
            if !table.is_for(&record.name) || only.is_some_and(|only| only != record.name) {
                continue;
            }
            let place = *places.entry(record.name.as_str()).or_insert(found.len());
            if place == MAX_TARGETS {
                tracing::warn!(target = record.name, "one target too many is told of: it is not served");
                return found;
            }
            if place == found.len() {
                found.push((record.name.clone(), Vec::new()));
            }
            if let Some((_, portals)) = found.get_mut(place) {
                add(portals, record, path, listeners);
            }
        }
    }
    found
}

/// Adds the portals of an answer that can be used from here.
fn add(portals: &mut Portals, record: &TargetRecord, asked: &PathConfig, listeners: &[SocketAddr]) {
    for (address, tag) in &record.portals {
        let Ok(portal) = address.parse::<SocketAddr>() else {
            tracing::debug!(target = record.name, address, "no IP address: not used");
            continue;
        };
        let portal = SocketAddr::new(portal.ip().to_canonical(), portal.port());
        let known = portals.iter().any(|(known, _)| *known == portal);
        if !known && portals.len() < Config::MAX_PATHS && is_usable(portal, asked.portal, listeners) {
            portals.push((portal, Some(*tag)));
        }
    }
}

/// Whether an address that a portal tells can be one of its target: not one that means another machine here than there.
fn is_usable(portal: SocketAddr, asked: SocketAddr, listeners: &[SocketAddr]) -> bool {
    let local = match portal.ip() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let ip = portal.ip();
    !ip.is_unspecified()
        && !ip.is_multicast()
        && portal.port() != 0
        && (!local || asked.ip() == ip)
        && (!ip.is_loopback() || asked.ip().is_loopback())
        && !listeners.iter().any(|listener| own(*listener, portal))
}

/// The paths to a target's portals, group by group in the order in which the groups come up; those of no known group last.
fn paths(table: &Target, name: &str, portals: &Portals) -> Vec<PathConfig> {
    let mut groups: Vec<Option<u16>> = Vec::new();
    for (_, group) in portals.iter().filter(|(_, group)| group.is_some()) {
        if !groups.contains(group) {
            groups.push(*group);
        }
    }
    groups.push(None);
    let of = |group: &Option<u16>| portals.iter().filter(move |(_, own)| own == group).collect::<Vec<_>>();
    let sorted = groups.iter().flat_map(of);
    let mut seen = BTreeSet::new();
    let paths = sorted.flat_map(|(portal, group)| table.paths_to(name, *portal, *group));
    paths.filter(|path| seen.insert(path.name.clone())).take(Config::MAX_PATHS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, more: &str) -> Target {
        let text = format!(
            "[[target]]\nname = \"{name}\"\ndiscover = true\npaths = [\"10.0.0.1\", \"10.0.0.2\", \"10.0.0.3\"]\n{more}\n"
        );
        Config::from_toml(&text, "t").unwrap_or_else(|error| panic!("{error}")).targets.remove(0)
    }

    fn answer(records: &[(&str, &[(&str, u16)])]) -> Option<Answer> {
        let record = |(name, portals): &(&str, &[(&str, u16)])| TargetRecord {
            name: (*name).to_owned(),
            portals: portals.iter().map(|(address, tag)| ((*address).to_owned(), *tag)).collect(),
        };
        Some(records.iter().map(record).collect())
    }

    /// Names of the targets, each with the names and groups of its paths.
    fn shown(targets: &[Target]) -> Vec<String> {
        let path = |path: &PathConfig| format!(" {},{:?}", path.portal, path.group);
        targets
            .iter()
            .map(|target| target.name.clone() + &target.paths.iter().map(path).collect::<String>())
            .collect()
    }

    #[test]
    fn answers_are_put_together_group_by_group() {
        let answers = [
            answer(&[
                ("iqn.a", &[("10.0.0.1:3260", 2), ("10.0.0.9:3260", 1)]),
                ("iqn.b", &[("10.0.0.1:3260", 1)]),
            ]),
            answer(&[("iqn.a", &[("10.0.0.2:3260", 2), ("10.0.0.9:3260", 1)])]),
            None,
        ];
        assert_eq!(
            shown(&served(&table("*", ""), &answers, None, &[])),
            [
                "iqn.a 10.0.0.1:3260,Some(2) 10.0.0.2:3260,Some(2) 10.0.0.9:3260,Some(1) 10.0.0.3:3260,None",
                "iqn.b 10.0.0.1:3260,Some(1) 10.0.0.3:3260,None",
            ]
        );
        let one = served(&table("*", ""), &answers, Some("iqn.b"), &[]);
        assert_eq!(one.len(), 1);
        assert!(one[0].name == "iqn.b" && one[0].paths.iter().all(|path| path.target == "iqn.b"));
        assert!(served(&table("*", ""), &answers, Some("iqn.c"), &[]).is_empty());
        assert!(served(&table("eui.*", ""), &answers, None, &[]).is_empty());
    }

    #[test]
    fn who_has_not_answered_may_have_a_target_of_a_whole_name_only() {
        let silent = [None, None, None];
        assert!(served(&table("*", ""), &silent, Some("iqn.a"), &[]).is_empty());
        assert_eq!(served(&table("iqn.a", ""), &silent, None, &[])[0].paths.len(), 3);
        let none = [answer(&[]), answer(&[]), answer(&[])];
        assert!(served(&table("iqn.a", ""), &none, None, &[]).is_empty(), "all have answered");
    }

    #[test]
    fn what_is_no_address_of_the_target_here_is_left_away() {
        let told: &[(&str, u16)] = &[
            ("0.0.0.0:3260", 1),
            ("[::]:3260", 1),
            ("127.0.0.1:3260", 1),
            ("169.254.0.7:3260", 1),
            ("[fe80::1]:3260", 1),
            ("storage.example:3260", 1),
            ("224.0.0.1:3260", 1),
            ("10.0.0.4:0", 1),
            ("10.0.0.5:3260", 1),
            ("[fd00::5]:3260", 1),
            ("[::ffff:10.0.0.5]:3260", 1),
            ("10.0.0.5:3260", 2),
        ];
        let answers = [answer(&[("iqn.a", told)]), answer(&[]), answer(&[])];
        let own = ["10.0.0.9:3260".parse().unwrap()];
        let expected = ["iqn.a 10.0.0.5:3260,Some(1) [fd00::5]:3260,Some(1)"];
        assert_eq!(shown(&served(&table("*", ""), &answers, None, &own)), expected);
        let answers = [answer(&[("iqn.a", &[("10.0.0.9:3260", 1)])]), answer(&[]), answer(&[])];
        assert!(served(&table("*", ""), &answers, None, &own).is_empty(), "that is Braid itself");
    }

    #[test]
    fn endless_answers_have_bounds() {
        let portals = (0..=255).map(|n| (format!("10.0.9.{n}:3260"), 1)).collect();
        let wide = TargetRecord { name: "iqn.wide".to_owned(), portals };
        let portal = vec![("10.0.0.1:3260".to_owned(), 1)];
        let many = (0..5000).map(|n| TargetRecord { name: format!("iqn.{n}"), portals: portal.clone() });
        let answer: Answer = std::iter::once(wide).chain(many).collect();
        let targets = served(&table("*", ""), &[Some(answer), None, None], None, &[]);
        assert_eq!(targets.len(), MAX_TARGETS);
        assert_eq!(targets[0].paths.len(), Config::MAX_PATHS);
        let rules = "path_rules = [{ portals = \"10.0.9.0/24\", source = \"10.0.9.1\" }, { portals = \"10.0.9.0/24\", source = \"10.0.9.1\" }]";
        let twice = [answer_of("iqn.a", "10.0.9.7:3260"), Some([].into()), Some([].into())];
        assert_eq!(served(&table("*", rules), &twice, None, &[])[0].paths.len(), 1, "the same way twice");
    }

    fn answer_of(name: &str, portal: &str) -> Option<Answer> {
        answer(&[(name, &[(portal, 1)])])
    }
}
